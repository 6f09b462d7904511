"""An XYZ plot without painting it: what a GridJob asks for, everything that is wrong with it, and its record on the disk.

The engine paints what is planned here and the window shows it, so both find the same mistakes. Knows neither torch nor
how a picture is made.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nosnja_gui import models, weights
from nosnja_gui.axes import (
    LONGEST_NAME,
    SAMPLER_TITLES,
    Cell,
    Context,
    Plan,
    PlanError,
    PlannedAxis,
    Position,
    cross_axes,
    find_lora,
    plan_axes,
    saved_epochs,
    written_prompt,
)
from nosnja_gui.files import write_atomic
from nosnja_gui.jobs import GridJob, ModelSettings, TrainJob, workspace_path
from nosnja_gui.library import lora_folders
from nosnja_gui.runs import RunFolder, identifier, runs_in
from nosnja_gui.settings import UserError, merge_dotted
from nosnja_gui.sources import PUT_ON, PredictionType, described
from nosnja_gui.workspace import Workspace

PICKLED_FOLDERS = ("hypernetworks", "embeddings")
"""Folders in that of the models whose .pt files are hypernetworks and textual inversions, as they are called in A1111."""
MOST_LORAS_ELSEWHERE = 2000
"""Any other one can be given by its path."""
RECORD, PAGE, CELLS = "grid.json", "page.html", "cells"
"""Names in a grid's folder: what it consists of, the page that shows it, the folder of its pictures."""


@dataclass(frozen=True)
class Look:
    """Everything that decides how one picture looks; equal ones are painted once."""

    model: Path
    loras: tuple[tuple[Path, float], ...]
    """Without those of weight 0, which change nothing."""
    prompt: str
    negative_prompt: str
    seed: int
    sampler: str
    steps: int
    cfg_scale: float
    width: int
    height: int
    clip_skip: int
    vae: Path | None = None
    """What takes the place of the model's own autoencoder."""
    prediction_type: PredictionType | None = None
    """What the user knows better than the model itself."""


@dataclass(frozen=True)
class GridPlan:
    """A job that can be painted as it is."""

    job: GridJob
    model: ModelSettings
    """The run's own where the grid names none."""
    context: Context
    plan: Plan
    bases: dict[str, tuple[Path, int]]
    """Path and native size of each model by the name that the cells give it."""
    vae: Path | None = None

    @property
    def pictures(self) -> int:
        """How many are shown; those that look alike count each time."""
        return len(self.plan.cells) * self.job.images_per_cell

    def looks(self, cell: Cell) -> list[Look]:
        """The pictures of a cell, with consecutive seeds."""
        model, native = self.bases[cell.model]
        first = Look(
            model=model,
            loras=tuple((Path(file), weight) for file, weight in cell.loras if weight != 0),
            prompt=written_prompt(cell, self.context),
            negative_prompt=cell.negative_prompt,
            seed=cell.seed,
            sampler=cell.sampler,
            steps=cell.steps,
            cfg_scale=cell.cfg_scale,
            width=cell.width or native,
            height=cell.height or native,
            clip_skip=cell.clip_skip,
            vae=self.vae,
            prediction_type=None if self.model.prediction_type == "auto" else self.model.prediction_type,
        )
        return [replace(first, seed=(cell.seed + number) % 2**32) for number in range(self.job.images_per_cell)]


@dataclass(frozen=True)
class Checked:
    """What came out of looking a job over."""

    axes: dict[str, PlannedAxis] = field(default_factory=dict)
    """Those of x, y and z that can be read."""
    problems: tuple[tuple[str, str], ...] = ()
    """(setting, sentence), settings dotted such as "x.values"."""
    plan: GridPlan | None = None
    """None where there are problems."""


def plan_job(job: GridJob, workspace: Workspace) -> GridPlan:
    """Everything checked and every cell worked out, without loading a model. Raises PlanError with all problems."""
    checked = look_over(job, workspace)
    if checked.plan is None:
        raise PlanError(checked.problems)
    return checked.plan


def look_over(job: GridJob, workspace: Workspace) -> Checked:
    """Everything that is wrong with a job, or its plan."""
    problems: list[tuple[str, str]] = []
    context, model = _context(job, workspace, problems)
    lora = None
    try:
        lora = _default_lora(job, context)
    except UserError as error:
        problems.append(("lora", f"Setting 'lora' {error}."))
    base = Cell(
        model=model.path, loras=((str(lora), job.weight),) if lora else (), weight=job.weight, trigger=True,
        prompt=job.prompt, negative_prompt=job.negative_prompt, seed=job.seed, sampler=job.sampler, steps=job.steps,
        cfg_scale=job.cfg_scale, clip_skip=model.clip_skip, width=job.width, height=job.height,
    )  # fmt: skip
    planned = plan_axes(job, context, problems)
    axes = {place: axis for place, axis in zip("xyz", planned, strict=True) if axis}
    # Where an axis cannot be read, its models are not known; the job's own can be looked at all the same.
    wrong_axes = any(setting[:1] in "xyz" and setting[1:2] == "." for setting, _ in problems)
    plan = None
    if not wrong_axes:
        try:
            plan = cross_axes(planned, context, base)
        except PlanError as error:
            problems += error.problems
    by_axis = next((f"{place}.values" for place, axis in axes.items() if axis.name == "model"), "")
    names = {cell.model: None for cell in plan.cells.values()} if plan else {} if by_axis else {base.model: None}
    bases: dict[str, tuple[Path, int]] = {}
    for name in names:
        try:
            _check_length(name)
            path = models.find_model(name, workspace.models)
            bases[name] = path, models.native_size(path)
        except UserError as error:
            problems.append((by_axis or "model.path", str(error)))
    vae = _find_vae(model.vae, [path for path, _ in bases.values()], workspace, problems)
    problems = list(dict.fromkeys(problems))
    if problems or plan is None:
        return Checked(axes, tuple(problems))
    return Checked(axes, (), GridPlan(job, model, context, plan, bases, vae))


def _find_vae(text: str, bases: Iterable[Path], workspace: Workspace, problems: list[tuple[str, str]]) -> Path | None:
    """The autoencoder, which must be of the kind of every model of the grid."""
    vae = None
    try:
        _check_length(text)
        vae = models.find_vae(text, workspace.models)
        for base in bases if vae else ():
            models.check_vae(vae, models.family_of(base))
    except UserError as error:
        problems.append(("model.vae", str(error)))
    return vae


def _context(job: GridJob, workspace: Workspace, problems: list[tuple[str, str]]) -> tuple[Context, ModelSettings]:
    """What axes look up, and the model: the run's own where the grid names none."""
    plain = Context(job, job.trigger, job.class_noun, models=workspace.models, runs=workspace.runs)
    if not job.run:
        return plain, job.model
    try:
        _check_length(job.run)
        folder = workspace_path(job.run, workspace.runs)
        epochs = saved_epochs(folder)
        trained = RunFolder(folder).job()
        if not isinstance(trained, TrainJob):
            raise UserError(f"{folder} is a run of another kind ({trained.job}): give the folder of a training run.")
    except UserError as error:
        problems.append(("run", str(error)))
        return plain, job.model
    model = job.model
    if not model.path:
        # What the grid itself says of the model goes before what the training was told.
        said = {name: getattr(model, name) for name in ("vae", "prediction_type", "precision")}
        model = trained.model.changed(**{name: value for name, value in said.items() if value not in ("", "auto")})
    return replace(plain, trigger=job.trigger or trained.word, epochs=epochs, run=folder), model


def _check_length(name: str) -> None:
    if len(name) > LONGEST_NAME:
        raise UserError(f"There is nothing called {name[:40]}…: choose one of those that are there.")


def _default_lora(job: GridJob, context: Context) -> Path | None:
    if job.lora:
        return find_lora(job.lora, context)
    return context.epochs[-1].file if context.epochs else None


# From a form


def in_words(problem: Mapping[str, Any]) -> str:
    """What is wrong with a value, of one entry of pydantic's errors."""
    if problem["input"] in (None, ""):
        return "A value is missing here."
    said = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{said[:1].upper()}{said[1:]} (got {problem['input']!r})."


def read_form(values: Mapping[str, Any], words: Callable[[Mapping[str, Any]], str] = in_words) -> tuple[GridJob, list[tuple[str, str]]]:
    """The job of dotted values, and (setting, sentence) for each that is not possible; the job has its default instead."""
    left, problems = dict(values), []
    while True:
        try:
            return GridJob.model_validate(merge_dotted({}, left)), problems
        except ValidationError as error:
            wrong = error.errors(include_url=False)
        before = len(left)
        for problem in wrong:
            name = ".".join(str(part) for part in problem["loc"])
            setting = max((given for given in left if name == given or name.startswith(f"{given}.")), key=len, default="")
            if not setting:
                continue
            problems.append((setting, words(problem)))
            del left[setting]
        if len(left) == before:
            # The job as a whole is not possible: it has no axis.
            problems.append(("x.axis", "Choose what varies on at least one axis."))
            left |= {"x.axis": "seed", "x.values": [0]}


def check(values: Mapping[str, Any], workspace: Workspace, words: Callable[[Mapping[str, Any]], str] = in_words) -> Checked:
    """`look_over` of what a form holds, by dotted names: bad values and bad plans are said together."""
    job, problems = read_form(values, words)
    checked = look_over(job, workspace)
    if not problems:
        return checked
    wrong = {setting for setting, _ in problems}
    # An axis that was put in only to have one is not to be seen.
    axes = {} if "x.axis" in wrong else checked.axes
    made_up = ("x.",) if "x.axis" in wrong else ()
    others = [(setting, said) for setting, said in checked.problems if setting not in wrong and not setting.startswith(made_up)]
    return Checked(axes, tuple(dict.fromkeys([*problems, *others])))


def outside(values: Mapping[str, Any], workspace: Workspace) -> list[tuple[str, str]]:
    """(setting, sentence) for files named by paths that leave the workspace: for a window that other machines look into."""
    named = {
        "lora": [values.get("lora")],
        "model.path": [values.get("model.path")],
        "model.vae": [values.get("model.vae")],
        "run": [values.get("run")],
    }
    named |= {f"{place}.values": values.get(f"{place}.values") or [] for place in "xyz" if values.get(f"{place}.axis") in ("lora", "model")}
    offered = [*models.list_models(workspace), *models.list_vaes(workspace), *list_loras(workspace)]
    kept = [workspace.root.resolve(), *(Path(entry.path).resolve() for entry in offered)]
    problems = []
    for setting, texts in named.items():
        for text in re.split(r"[,\n\"]", ",".join(map(str, filter(None, texts)))):
            path = Path(text.strip()).expanduser()
            if (path.is_absolute() or ".." in path.parts) and not any(path.resolve().is_relative_to(folder) for folder in kept):
                problems.append((setting, "Only files of the workspace can be used from another machine: choose one by its name."))
    return problems


# What can be chosen


def fill(axis: str, job: GridJob, workspace: Workspace) -> list[str]:
    """Values that are worth trying on an axis: all that there are, or sensible numbers. Empty where nobody can know."""
    match axis:
        case "epoch":
            context, _ = _context(job, workspace, [])
            return ["none", *map(str, dict.fromkeys(item.epoch for item in context.epochs))] if context.epochs else []
        case "lora":
            return ["none", *(lora.name for lora in list_loras(workspace, last_only=True) if not lora.place)]
        case "model":
            # Other programs may have hundreds.
            return [entry.name for entry in models.list_models(workspace) if not entry.problem and not entry.place]
        case "sampler":
            return list(SAMPLER_TITLES.values())
        case "trigger":
            return ["on", "off"]
        case "weight":
            return ["0", "0.5", "0.75", "1"]
        case "cfg_scale":
            return ["4", "7", "10"]
        case "steps":
            return sorted({str(max(1, round(job.steps * share))) for share in (0.5, 1, 1.5)}, key=int)
        case "seed":
            return [f"{job.seed}-{job.seed + 3}"]
        case "clip_skip":
            return ["1", "2"]
        case "size":
            return _sizes_around(job.width or job.height or _native_size(job, workspace))
        case "prompt":
            return [job.class_noun] if job.class_noun and job.class_noun in job.prompt else []
    return []


def _sizes_around(side: int) -> list[str]:
    long = round(side * 1.5 / 8) * 8
    return [f"{side}x{side}", f"{side}x{long}", f"{long}x{side}"]


def _native_size(job: GridJob, workspace: Workspace) -> int:
    _, model = _context(job, workspace, [])
    try:
        path = models.find_model(model.path, workspace.models)
        return models.native_size(path)
    except UserError:
        return 512


@dataclass(frozen=True)
class LoraFile:
    name: str
    """What settings take."""
    title: str
    path: Path
    place: str = ""
    """The other program in whose folder it lies; empty in the workspace."""


def list_loras(workspace: Workspace, last_only: bool = False) -> list[LoraFile]:
    """LoRAs of the runs, the newest run first, those in the models folder, and those of other programs.

    `last_only`: one for each run. Those of other programs were not looked into: there may be thousands.
    """
    found = []
    for run in trained_runs(workspace):
        name = identifier(run, workspace)
        files = sorted(run.weights.glob("*.safetensors"), key=lambda file: (file.stat().st_mtime_ns, file.name), reverse=True)
        for file in files[:1] if last_only else files:
            found.append(LoraFile(name if last_only else f"{name}/weights/{file.name}", f"{file.stem}  ·  {name}", file))
    for file in sorted(file for folder in lora_folders(workspace.models) for file in Path(folder).glob("*.safetensors")):
        if _is_lora(file):
            found.append(LoraFile(file.relative_to(workspace.models).as_posix(), file.stem, file))
    for file in sorted(file for folder in PICKLED_FOLDERS for file in (workspace.models / folder).glob("*.pt")):
        found.append(LoraFile(file.relative_to(workspace.models).as_posix(), file.stem, file))
    for place, file in models.elsewhere(workspace, "loras")[:MOST_LORAS_ELSEWHERE]:
        if file.suffix.lower() == ".safetensors":
            program = models.title_of(place)
            found.append(LoraFile(str(file), f"{file.stem}  ·  {program}", file, program))
    return found


_known_loras: dict[tuple[Path, int, int], bool] = {}


def _is_lora(file: Path) -> bool:
    """By the names of its tensors; a whole model lies in the same folder."""
    try:
        stat = file.stat()
    except OSError:
        return False
    key = file, stat.st_size, stat.st_mtime_ns
    if key not in _known_loras:
        try:
            _known_loras[key] = described(weights.header(file)) in PUT_ON
        except UserError:
            _known_loras[key] = False
    return _known_loras[key]


_kinds: dict[Path, tuple[int, str]] = {}


def _kind(run: RunFolder) -> str:
    """Which job a run is, without reading its file again while that is the same."""
    try:
        changed = run.run_yaml.stat().st_mtime_ns
        known = _kinds.get(run.path)
        if known is None or known[0] != changed:
            match = re.search(r"^job: (\w+)", run.run_yaml.read_text(encoding="utf-8"), re.MULTILINE)
            known = _kinds[run.path] = changed, match[1] if match else ""
        return known[1]
    except (OSError, ValueError):
        return ""


def grid_runs(workspace: Workspace) -> list[RunFolder]:
    """All grids, the newest first."""
    return [run for run in runs_in(workspace.runs) if _kind(run) == "grid"]


def trained_runs(workspace: Workspace) -> list[RunFolder]:
    """All trainings that have saved a LoRA, the newest first."""
    return [run for run in runs_in(workspace.runs) if _kind(run) == "train" and any(run.weights.glob("*.safetensors"))]


# The record


def write_record(
    folder: Path,
    planned: GridPlan,
    files: Mapping[Position, Sequence[str]],
    errors: Mapping[str, str],
    sheet: str,
    pace: float | None = None,
) -> None:
    """grid.json: the axes, and for each cell its place, its settings, the files that it is to have and why one failed.

    `files` are relative to the folder, `errors` are by file. `pace` is what `seconds_of` takes.
    """

    def described(axis: PlannedAxis) -> dict[str, Any]:
        return {"name": axis.name, "title": axis.title, "labels": list(axis.labels), "given": axis.given}

    of_model = {name: getattr(planned.model, name) for name in ("vae", "prediction_type")}

    def cell_record(position: Position, cell: Cell) -> dict[str, Any]:
        look, own = planned.looks(cell)[0], files[position]
        return {
            "position": list(position),
            "files": list(own),
            "error": next((errors[file] for file in own if file in errors), None),
            "failed": [file for file in own if file in errors],
            "model": look.model.name,
            "loras": [{"file": file.name, "weight": weight} for file, weight in look.loras],
            **{name: getattr(look, name) for name in LOOK_SETTINGS},
            "given": {"model": cell.model, "lora": cell.loras[0][0] if cell.loras else "", "weight": cell.weight} | of_model,
        }

    record = {
        "name": planned.job.name,
        "about": subtitle(planned),
        "sheet": sheet,
        "axes": {place: described(axis) for place, axis in zip("xyz", planned.plan.axes, strict=True) if axis},
        "samplers": {name: SAMPLER_TITLES[name] for name in sorted({cell.sampler for cell in planned.plan.cells.values()})},
        "images_per_cell": planned.job.images_per_cell,
        "written": time.time(),
        "pace": pace,
        "cells": [cell_record(position, cell) for position, cell in sorted(planned.plan.cells.items())],
    }
    write_atomic(folder / RECORD, json.dumps(record, ensure_ascii=False, indent=1))


LOOK_SETTINGS = ("prompt", "negative_prompt", "seed", "sampler", "steps", "cfg_scale", "width", "height", "clip_skip")


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a grid, or None where there is none (yet) or it is damaged."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        cells = record["cells"]
        whole = isinstance(record["axes"], dict) and all(len(cell["position"]) == 3 and isinstance(cell["files"], list) for cell in cells)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole else None


def painted(folder: Path) -> set[str]:
    """The pictures that are there, relative to the grid's folder."""
    try:
        with os.scandir(folder / CELLS) as entries:
            return {f"{CELLS}/{entry.name}" for entry in entries if entry.name.endswith(".png") and not entry.name.startswith(".")}
    except OSError:
        return set()


def subtitle(planned: GridPlan) -> str:
    """What is the same in all cells."""
    job = planned.job
    varied = {axis.name for axis in planned.plan.axes if axis}
    cell = next(iter(planned.plan.cells.values()))
    look = planned.looks(cell)[0]
    file, weight = cell.loras[0] if cell.loras else ("", 0.0)
    seeds = f"seed {cell.seed}" if job.images_per_cell == 1 else f"seeds {cell.seed}–{cell.seed + job.images_per_cell - 1}"
    said = [
        ("model", look.model.name),
        ("lora", Path(file).stem if file and "epoch" not in varied else ""),
        ("weight", f"LoRA weight {weight:g}" if file else ""),
        ("sampler", SAMPLER_TITLES[cell.sampler]),
        ("steps", f"{cell.steps} steps"),
        ("cfg_scale", f"CFG {cell.cfg_scale:g}"),
        ("size", f"{look.width}×{look.height}"),
        ("", f"VAE {look.vae.stem}" if look.vae else ""),
        ("clip_skip", f"clip skip {cell.clip_skip}" if cell.clip_skip != 1 else ""),
        ("seed", seeds),
        ("", f"“{look.prompt if not varied & {'prompt', 'trigger'} else job.prompt}”" if job.prompt else ""),
    ]
    return " · ".join(text for name, text in said if text and name not in varied)


# How long it takes


def work_of(looks: Iterable[Look | Mapping[str, Any]]) -> float:
    """Denoising work: steps times megapixels, summed."""
    total = 0.0
    for look in looks:
        width, height, steps = (
            (look["width"], look["height"], look["steps"]) if isinstance(look, Mapping) else (look.width, look.height, look.steps)
        )
        total += steps * width * height / 1e6
    return total


def seconds_of(planned: GridPlan, pace: float) -> float:
    """About how long a grid takes at `pace` seconds for a step of a megapixel."""
    return pace * planned.job.images_per_cell * work_of(planned.looks(cell)[0] for cell in planned.plan.cells.values())


def usual_pace(workspace: Workspace) -> float | None:
    """Seconds for a step of a megapixel in the newest grid that was painted here."""
    for run in grid_runs(workspace)[:20]:
        if (pace := _pace(run.path / RECORD)) is not None:
            return pace
    return None


_paces: dict[Path, tuple[int, float | None]] = {}


def _pace(file: Path) -> float | None:
    try:
        changed = file.stat().st_mtime_ns
    except OSError:
        return None
    known = _paces.get(file)
    if known is None or known[0] != changed:
        record = read_record(file.parent) or {}
        pace = record.get("pace")
        known = _paces[file] = changed, float(pace) if isinstance(pace, int | float) and math.isfinite(pace) and pace > 0 else None
    return known[1]
