"""What an XYZ plot can vary: one table entry per axis, and the plan of a grid, checked as a whole before the first picture.

Knows neither torch nor the job's class: whatever is bounded is checked by the job's own field, so bounds stand in one place.
"""

import contextlib
import csv
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from nosnja_gui import events
from nosnja_gui.settings import Settings, UserError
from nosnja_gui.weights import PICKLED

Value = Any
Given = str | float | int
"""A value as the user wrote it."""

MOST_VALUES = 1000
MOST_CELLS = 100_000
LONGEST_NAME = 250
"""Of a file or model in letters; systems refuse to look for longer ones."""
TRIGGER_MARK = "[trigger]"

SAMPLER_TITLES = {
    "ddim": "DDIM", "euler": "Euler", "euler_a": "Euler a", "dpm++_2m": "DPM++ 2M", "dpm++_2m_karras": "DPM++ 2M Karras",
    "unipc": "UniPC", "heun": "Heun",
}  # fmt: skip
"""How A1111 calls the samplers, and how they are shown."""


class PlanError(UserError):
    """Why a grid cannot be painted: all problems, each with the setting that it belongs to, such as "x.values"."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(dict.fromkeys(sentence for _, sentence in self.problems)))


@dataclass(frozen=True)
class Cell:
    """Everything that decides a picture, as names and numbers."""

    model: str
    loras: tuple[tuple[str, float], ...]
    """File and weight of each LoRA."""
    weight: float
    """What a LoRA that an axis chooses is weighted with."""
    trigger: bool
    """Whether [trigger] in the prompt becomes the trigger word or the class noun."""
    prompt: str
    negative_prompt: str
    seed: int
    sampler: str
    steps: int
    cfg_scale: float
    clip_skip: int
    width: int | None
    height: int | None
    """None takes the model's own."""


class SavedEpoch(NamedTuple):
    epoch: int
    step: int
    file: Path


@dataclass(frozen=True)
class Context:
    """What axes look values up in."""

    job: Settings
    """The grid's settings; their fields' bounds hold for the values of an axis, too."""
    trigger: str = ""
    class_noun: str = ""
    epochs: tuple[SavedEpoch, ...] = ()
    """LoRA files of the run, in the order they were saved."""
    run: Path | None = None
    models: Path | None = None
    """Workspace folders in which models and runs are looked up by name."""
    runs: Path | None = None

    def check(self, name: str, value: Value) -> Value:
        """The value as the job's field `name` takes it. Raises UserError."""
        owner: Any = type(self.job)
        *groups, field = name.split(".")
        for group in groups:
            owner = owner.model_fields[group].annotation
        try:
            return _taker(owner, field).validate_python(value)
        except ValidationError as error:
            raise UserError(f"{error.errors()[0]['msg'].removeprefix('Input ')} (got {value!r})") from None


@cache
def _taker(owner: type[Settings], field: str) -> TypeAdapter:
    """What checks the values of one field as its settings do."""
    info = owner.model_fields[field]
    return TypeAdapter(Annotated[info.annotation, info])


@dataclass(frozen=True)
class Axis:
    name: str
    title: str
    parse: Callable[[Sequence[Given], Context], list[Value]]
    """Raises UserError: the end of a sentence that begins with the axis."""
    apply: Callable[[Cell, Value], Cell]
    label: Callable[[Value, Context], str]
    cost: int
    """How dear a change is: the dearest axis varies slowest, wherever it is shown."""
    hint: str
    """What to write, for the window."""


@dataclass(frozen=True)
class PlannedAxis:
    name: str
    title: str
    values: tuple[Value, ...]
    labels: tuple[str, ...]
    """Shown on the sheet."""
    given: str
    """The values as one text, for the infotext."""


Position = tuple[int, int, int]
"""Index on the x, y and z axis; 0 where there is no such axis."""


@dataclass(frozen=True)
class Plan:
    x: PlannedAxis | None
    y: PlannedAxis | None
    z: PlannedAxis | None
    cells: dict[Position, Cell]
    """In the order in which they are best painted."""

    @property
    def axes(self) -> tuple[PlannedAxis | None, PlannedAxis | None, PlannedAxis | None]:
        return self.x, self.y, self.z


def plan_grid(job: Any, context: Context, base: Cell) -> Plan:
    """Every cell of the grid (a job with x, y and z). Raises PlanError with all problems."""
    problems: list[tuple[str, str]] = []
    planned = plan_axes(job, context, problems)
    if problems:
        raise PlanError(problems)
    return cross_axes(planned, context, base)


def plan_axes(job: Any, context: Context, problems: list[tuple[str, str]]) -> list[PlannedAxis | None]:
    """x, y and z on their own; what is wrong with them goes into `problems` as (setting, sentence)."""
    planned = [_plan_axis(place, settings, context, problems) if (settings := getattr(job, place)) else None for place in "xyz"]
    places: dict[str, str] = {}
    for place, axis in zip("xyz", planned, strict=True):
        if axis is None:
            continue
        if axis.name in places and axis.name != "prompt":
            problems.append((f"{place}.axis", f"The axis '{axis.name}' is used twice: choose another one for one of them."))
        places[axis.name] = place
    if {"lora", "epoch"} <= set(places):
        later = max(places["lora"], places["epoch"])
        problems.append((f"{later}.axis", "The axes 'lora' and 'epoch' both choose the LoRA file: use one of them."))
    counts = {place: len(axis.values) for place, axis in zip("xyz", planned, strict=True) if axis}
    if (count := math.prod(counts.values())) > MOST_CELLS:
        longest = max(counts, key=counts.__getitem__)
        problems.append((f"{longest}.values", f"The grid would have {count:,} cells: shorten an axis."))
    return planned


def _plan_axis(place: str, settings: Any, context: Context, problems: list[tuple[str, str]]) -> PlannedAxis | None:
    """One axis, or None with its problems noted."""
    axis = AXES.get(settings.axis)
    if axis is None:
        problems.append((f"{place}.axis", f"There is no axis '{settings.axis}' (on {place}); known: {', '.join(AXES)}."))
        return None
    try:
        values = axis.parse(settings.values, context)
        if not values:
            raise UserError(f"has no values: {axis.hint}")
        if len(values) > MOST_VALUES:
            raise UserError(f"has {len(values):,} values, at most {MOST_VALUES} are possible: use a larger step")
        if settings.labels and len(settings.labels) != len(values):
            raise UserError(f"has {len(settings.labels)} labels for {len(values)} values: give one for each, or none")
    except UserError as error:
        problems += [(f"{place}.values", f"Axis {place} ({axis.name}) {line.rstrip('.')}.") for line in str(error).splitlines()]
        return None
    titles = _told_apart(values, [axis.label(value, context) for value in values])
    return PlannedAxis(axis.name, axis.title, tuple(values), tuple(settings.labels) or tuple(titles), _given(settings, axis, titles))


def _given(settings: Any, axis: Axis, titles: Sequence[str]) -> str:
    """The values in one line, for A1111, which reads its own names of the samplers only."""
    if axis.name == "sampler" or not settings.values:
        return ", ".join(map(_quoted, titles))
    if len(settings.values) == 1:
        return str(settings.values[0])  # a line already, as the window has it
    return ", ".join(_quoted(str(value)) for value in settings.values)


def _told_apart(values: Sequence[Value], labels: list[str]) -> list[str]:
    """Files of different folders that are called alike get their run or folder put in front."""
    shared = {label for label in labels if len({value for value, other in zip(values, labels, strict=True) if other == label}) > 1}
    if not shared:
        return labels
    return [
        f"{_owner(Path(value))}/{label}" if label in shared and isinstance(value, Path | str) else label
        for value, label in zip(values, labels, strict=True)
    ]


def _owner(file: Path) -> str:
    folder = file.parent.parent if file.parent.name == "weights" else file.parent
    return folder.name


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text


def cross_axes(planned: Sequence[PlannedAxis | None], context: Context, base: Cell) -> Plan:
    """Every combination of the values of x, y and z, the dearest axis outermost. Raises PlanError."""
    problems: list[tuple[str, str]] = []
    indices = [k for k in range(3) if planned[k]]
    # Dearest first, which also lets a weight find the LoRA that it belongs to.
    indices.sort(key=lambda k: -AXES[planned[k].name].cost)
    cells: dict[Position, Cell] = {}
    for combination in itertools.product(*(range(len(planned[k].values)) for k in indices)):
        cell, position = base, [0, 0, 0]
        for k, index in zip(indices, combination, strict=True):
            position[k] = index
            try:
                cell = AXES[planned[k].name].apply(cell, planned[k].values[index])
            except UserError as error:
                problems.append((f"{'xyz'[k]}.values", f"Axis {'xyz'[k]} ({planned[k].name}) {error}"))
        cells[tuple(position)] = cell
    plan = Plan(*planned, cells)
    problems += _trigger_problems(plan, context)
    if problems:
        raise PlanError(problems)
    return plan


def _trigger_problems(plan: Plan, context: Context) -> list[tuple[str, str]]:
    marked = any(TRIGGER_MARK in cell.prompt for cell in plan.cells.values())
    if any(axis and axis.name == "trigger" for axis in plan.axes) and not marked:
        said = f"The axis 'trigger' has nothing to switch: write {TRIGGER_MARK} in the prompt where the trigger word goes."
        return [("prompt", said)]
    if marked and not context.trigger and any(cell.trigger for cell in plan.cells.values()):
        return [("trigger", f"The prompt has {TRIGGER_MARK}, but there is no trigger word: set 'trigger', or a 'run' that has one.")]
    return []


def written_prompt(cell: Cell, context: Context) -> str:
    """The prompt with [trigger] replaced: by the trigger word where it is on, by the class noun where it is off.

    Switched off, a "[trigger], " at the beginning vanishes: it stands for the word alone, not for the thing.
    """
    if cell.trigger:
        return cell.prompt.replace(TRIGGER_MARK, context.trigger)
    prompt = re.sub(rf"^\s*{re.escape(TRIGGER_MARK)}\s*,\s*", "", cell.prompt)
    prompt = prompt.replace(TRIGGER_MARK, context.class_noun)
    if context.class_noun:
        return prompt
    # A word was taken out: close the gap that it leaves.
    return re.sub(r"\s*,(?:\s*,)+", ",", re.sub(r"[ \t]{2,}", " ", prompt)).strip(" ,")


def saved_epochs(run: Path) -> tuple[SavedEpoch, ...]:
    """The LoRA files that a run has saved, by its log. Raises UserError if the folder is not a run."""
    if not (run / "run.yaml").is_file():
        raise UserError(f"There is no run {run}: give the folder of a training run (it holds run.yaml).")
    saved: dict[str, SavedEpoch] = {}
    for event in _saved_events(run / "events.jsonl"):
        if event.file.endswith(".safetensors"):
            saved[event.file] = SavedEpoch(event.epoch, event.step, run / event.file)
    return tuple(sorted((item for item in saved.values() if item.file.is_file()), key=lambda item: (item.step, item.epoch, item.file.name)))


def _saved_events(log: Path) -> Iterator[events.Saved]:
    """Only lines that may be one are read as JSON: a long training's log has a hundred thousand others."""
    try:
        lines = log.read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        if b'"saved"' in line:
            with contextlib.suppress(ValueError, TypeError, AttributeError):
                event = events.from_values(json.loads(line))
                if isinstance(event, events.Saved):
                    yield event


# Reading values


_INTEGER_RANGE = re.compile(r"\s*([+-]?\d+)\s*-\s*([+-]?\d+)\s*(?:\(\s*([+-]?\d+)\s*\)|\[\s*(\d+)\s*\])?\s*")
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_NUMBER_RANGE = re.compile(rf"\s*({_NUMBER})\s*-\s*({_NUMBER})\s*(?:\(\s*({_NUMBER})\s*\)|\[\s*(\d+)\s*\])?\s*")


def split_values(text: str) -> list[str]:
    """Values written in one line, separated by commas; a value with a comma is put in double quotes."""
    try:
        rows = list(csv.reader(text.splitlines(), skipinitialspace=True, strict=True))
    except csv.Error:
        raise UserError(f'has a quote that is not closed: write "one, with comma", another (got {text!r})') from None
    return [value.strip() for row in rows for value in row if value.strip()]


def expand(values: Sequence[Given], whole: bool) -> list[int] | list[float]:
    """Numbers, with ranges spelt out: 1-5, 1-10(+2), 1-10 [5], and for fractions 0.5-1.0(+0.1), 0.5-1.0 [3].

    Raises UserError with a line for each value that is none of these.
    """
    numbers: list = []
    problems = []
    for value in _pieces(values):
        try:
            numbers += _expand_one(value, whole)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return numbers


def _pieces(values: Sequence[Given]) -> list[str]:
    return [piece for value in values for piece in (split_values(value) if isinstance(value, str) else [str(value)])]


def _expand_one(text: str, whole: bool) -> list[int] | list[float]:
    number = int if whole else float
    if whole and re.fullmatch(r"\s*[+-]?\d+\s*", text):
        return [int(text)]
    with contextlib.suppress(ValueError):
        plain = float(text)
        if not math.isfinite(plain) or (whole and plain != int(plain)):
            raise UserError(f"takes {'whole' if whole else 'finite'} numbers (got {text})") from None
        return [number(plain)]
    match = (_INTEGER_RANGE if whole else _NUMBER_RANGE).fullmatch(text)
    if not match:
        examples = "1-5, 1-10(+2) or 1-10 [5]" if whole else "0.5-1.0(+0.1) or 0.5-1.0 [3]"
        raise UserError(f"takes {'whole numbers' if whole else 'numbers'} or ranges such as {examples} (got {text!r})")
    # Decimals, because 0.1 added ten times in binary misses 1.
    first, last = Decimal(match[1]), Decimal(match[2])
    if match[4]:
        # Whole numbers: five of 0 to 1 are two.
        return list(dict.fromkeys(number(value) for value in _evenly(first, last, int(match[4]), text)))
    step = Decimal(match[3]) if match[3] else (Decimal(1) if last >= first else Decimal(-1))
    if step == 0 or (last - first) * step < 0:
        raise UserError(f"has a step that never reaches the end of its range (got {text!r})")
    if (last - first) / step >= MOST_VALUES:
        raise UserError(f"spells out to more than {MOST_VALUES} values, use a larger step (got {text!r})")
    return [number(first + index * step) for index in range(int((last - first) / step) + 1)]


def _evenly(first: Decimal, last: Decimal, count: int, text: str) -> list[Decimal]:
    if not 1 <= count <= MOST_VALUES:
        raise UserError(f"needs a count of 1 to {MOST_VALUES} in [ ] (got {text!r})")
    return [first + (last - first) * index / max(1, count - 1) for index in range(count)]


def _texts(values: Sequence[Given]) -> list[str]:
    """Each value is one, commas and all; only a single one is taken for a list in one line."""
    if len(values) == 1 and isinstance(values[0], str):
        return split_values(values[0])
    return [str(value).strip() for value in values]


def _every(values: Sequence[Given], read: Callable[[Given], Value]) -> list[Value]:
    """`read` each value; raises UserError with all their problems."""
    found, problems = [], []
    for value in values:
        try:
            found.append(read(value))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return found


def _numbers(field: str, whole: bool) -> Callable[[Sequence[Given], Context], list[Value]]:
    return lambda values, context: _every(expand(values, whole), lambda value: context.check(field, value))


def _samplers(values: Sequence[Given], context: Context) -> list[str]:
    """By name, or by the title that A1111 gives it."""
    names = {title.lower(): name for name, title in SAMPLER_TITLES.items()}
    return _every(_pieces(values), lambda value: context.check("sampler", names.get(str(value).lower(), value)))


def _switches(values: Sequence[Given], context: Context) -> list[bool]:
    # YAML reads a bare on/off as true/false, which pydantic may hand on as a number.
    on, off = {"on", "with", "yes", "true", "1", "1.0"}, {"off", "without", "no", "false", "0", "0.0"}

    def read(value: Given) -> bool:
        text = str(value).strip().lower()
        if text not in on | off:
            raise UserError(f"takes on and off (got {value!r})")
        return text in on

    return _every(_pieces(values) or ["on", "off"], read)


def _prompts(values: Sequence[Given], context: Context) -> list[tuple[str, str]]:
    texts = _texts(values)
    if not texts or not texts[0]:
        raise UserError("has no text to search for: the first value is searched in the prompt, the others take its place")
    search = texts[0]
    if search not in context.job.prompt and search not in context.job.negative_prompt:
        raise UserError(f"searches for {search!r}, which is neither in the prompt nor in the negative prompt")
    return [(search, text) for text in texts]


def _replace_in_prompt(cell: Cell, value: tuple[str, str]) -> Cell:
    search, text = value
    if search not in cell.prompt and search not in cell.negative_prompt:
        raise UserError(f"searches for {search!r}, which another axis has replaced.")
    return replace(cell, prompt=cell.prompt.replace(search, text), negative_prompt=cell.negative_prompt.replace(search, text))


def _sizes(values: Sequence[Given], context: Context) -> list[tuple[int, int]]:
    def read(value: Given) -> tuple[int, int]:
        match = re.fullmatch(r"\s*(\d+)(?:\.0)?\s*(?:[x×*]\s*(\d+)\s*)?", str(value), re.IGNORECASE)
        if not match:
            raise UserError(f"takes sizes such as 512x768 (got {value!r})")
        return context.check("width", int(match[1])), context.check("height", int(match[2] or match[1]))

    return _every(_pieces(values), read)


def _is_none(text: str) -> bool:
    return text.strip().lower() in {"none", "no lora", "base", "0", "0.0"}


def _loras(values: Sequence[Given], context: Context) -> list[Path | None]:
    return _every(_texts(values), lambda value: None if _is_none(value) else find_lora(value, context))


def find_lora(text: str, context: Context) -> Path:
    """A LoRA file by path, by its name in the run's weights or the workspace's models folder, or a run (its last file)."""
    text = str(text).strip()
    folders = [folder for folder in (context.run and context.run / "weights", context.models, context.runs) if folder]
    if len(text) > LONGEST_NAME:
        raise UserError(f"names a LoRA file that cannot exist: {text[:40]}…")
    for given in (Path(text).expanduser(), *(folder / text for folder in folders)):
        for path in (given, given.with_name(given.name + ".safetensors") if given.name else given):
            if path.is_file():
                if path.suffix.lower() not in (".safetensors", *PICKLED):
                    raise UserError(f"takes .safetensors, .pt and .bin files only (got {text})")
                return path
        if (given / "run.yaml").is_file() and (saved := saved_epochs(given)):
            return saved[-1].file
    where = f" (looked in {', '.join(map(str, folders))})" if folders else ""
    raise UserError(f"names a LoRA file that does not exist: {text}{where}")


def _models(values: Sequence[Given], context: Context) -> list[str]:
    def read(value: str) -> str:
        if len(value) > LONGEST_NAME:
            raise UserError(f"names a model that cannot exist: {value[:40]}…")
        given = Path(value).expanduser()
        named = context.models / value if context.models else given
        trained = context.runs / value if context.runs else given
        if not given.exists() and not named.exists() and not trained.exists():
            raise UserError(f"names a model that does not exist: {value}")
        return value

    return _every(_texts(values), read)


def _epochs(values: Sequence[Given], context: Context) -> list[SavedEpoch | None]:
    if context.run is None:
        raise UserError("needs a training run: set 'run' to its folder")
    if not context.epochs:
        raise UserError(f"finds no saved LoRA in {context.run}: let the training save one first")
    found: list[SavedEpoch | None] = []
    problems = []
    for text in _pieces(values) or ["all"]:
        try:
            found += _epochs_of(text, context)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return found


def _epochs_of(text: str, context: Context) -> list[SavedEpoch | None]:
    if _is_none(text):
        return [None]
    if text.lower() == "last":
        return [context.epochs[-1]]
    by_epoch = {item.epoch: item for item in context.epochs}
    if text.lower() == "all":
        return list(by_epoch.values())
    by_step = {item.step: item for item in context.epochs}
    named_step = re.fullmatch(r"(?:step\s*(\d+)|(\d+)\s*steps?)", text, re.IGNORECASE)
    if named_step:
        return [_known(by_step, int(named_step[1] or named_step[2]), "step")]
    return [
        None if number == 0 else by_step[number] if number not in by_epoch and number in by_step else _known(by_epoch, number, "epoch")
        for number in expand([text], whole=True)
    ]


def _known(saved: dict[int, SavedEpoch], number: int, what: str) -> SavedEpoch:
    if number not in saved:
        raise UserError(f"names {what} {number}, which was not saved; saved: {', '.join(map(str, saved))}")
    return saved[number]


def _with_lora(cell: Cell, file: Path | None) -> Cell:
    return replace(cell, loras=((str(file), cell.weight),) if file else ())


def _with_weight(cell: Cell, weight: float) -> Cell:
    return replace(cell, weight=weight, loras=tuple((file, weight) for file, _ in cell.loras))


def _epoch_label(value: SavedEpoch | None, context: Context) -> str:
    if value is None:
        return "no LoRA"
    several = sum(item.epoch == value.epoch for item in context.epochs) > 1
    last_of_epoch = [item for item in context.epochs if item.epoch == value.epoch][-1] == value
    return f"{value.epoch}" if not several or last_of_epoch else f"step {value.step}"


def _number_label(value: float, context: Context) -> str:
    return f"{value:g}" if abs(value) < 1e6 else str(value)


def _trigger_label(value: bool, context: Context) -> str:
    return f"with “{context.trigger}”" if value else "without"


def _setting(field: str) -> Callable[[Cell, Value], Cell]:
    return lambda cell, value: replace(cell, **{field: value})


def _plain_label(value: Value, context: Context) -> str:
    return str(value)


AXES: dict[str, Axis] = {
    axis.name: axis
    for axis in (
        Axis("epoch", "Epoch", _epochs, lambda cell, value: _with_lora(cell, value and value.file), _epoch_label, 80,
             "epochs such as 2, 4, last; 0 or none for no LoRA; step 500 for a step; empty for all"),
        Axis("weight", "LoRA weight", _numbers("weight", whole=False), _with_weight, _number_label, 70,
             "numbers or ranges such as 0, 0.5-1.0 [3]"),
        Axis("trigger", "Trigger word", _switches, _setting("trigger"), _trigger_label, 10,
             "on, off"),
        Axis("lora", "LoRA", _loras, _with_lora, lambda value, _: value.stem if value else "no LoRA", 80,
             "files, by path or name; none for no LoRA"),
        Axis("prompt", "Prompt", _prompts, _replace_in_prompt, lambda value, _: value[1], 10,
             'search, replacement, "another, with comma": the first text is searched in the prompt'),
        Axis("seed", "Seed", _numbers("seed", whole=True), _setting("seed"), _plain_label, 5,
             "whole numbers or ranges such as 1-4"),
        Axis("sampler", "Sampler", _samplers, _setting("sampler"), lambda value, _: SAMPLER_TITLES.get(value, value), 30,
             "names such as DDIM, Euler a, DPM++ 2M Karras"),
        Axis("steps", "Steps", _numbers("steps", whole=True), _setting("steps"), _number_label, 40,
             "whole numbers or ranges such as 10-30(+10)"),
        Axis("cfg_scale", "CFG scale", _numbers("cfg_scale", whole=False), _setting("cfg_scale"), _number_label, 10,
             "numbers or ranges such as 4-10(+2)"),
        Axis("clip_skip", "Clip skip", _numbers("model.clip_skip", whole=True), _setting("clip_skip"), _number_label, 20,
             "1, 2"),
        Axis("model", "Model", _models, _setting("model"), lambda value, _: Path(value).name, 100,
             "base models, by name or folder"),
        Axis("size", "Size", _sizes, lambda cell, value: replace(cell, width=value[0], height=value[1]),
             lambda value, _: f"{value[0]}×{value[1]}", 50, "sizes such as 512x512, 512x768"),
    )
}  # fmt: skip
"""Every axis by name; a new one is a new entry."""
