"""Tab "Start": the demo for a first visitor, and for a returning one where they left off.

All that is said of the demo is derived from its run folder, so it is the same after a reload, in a second tab and after a restart.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

from nosnja_gui import events, hardware, launcher, work_queue
from nosnja_gui.dataset import images
from nosnja_gui.jobs import DemoJob, TrainJob
from nosnja_gui.logs import Logs
from nosnja_gui.models import captioner_models, list_models, mark
from nosnja_gui.runs import RunFolder, Status, identifier, runs_in
from nosnja_gui.settings import UserError
from nosnja_gui.ui.panel import TABS, Panel, Window
from nosnja_gui.ui.texts import language_of, say
from nosnja_gui.ui.widget import widget
from nosnja_gui.workspace import Workspace

STAGES = ("dataset", "captions", "trigger", "training", "judged", "grid")
"""The demo's, in order, by the fact that its story.json holds when one is done."""
TYPICAL_SECONDS = {"dataset": 1.0, "captions": 6.0, "trigger": 0.5, "training": 70.0, "judged": 16.0, "grid": 17.0}
QUICK_SECONDS = {"dataset": 0.5, "captions": 4.0, "trigger": 0.5, "training": 12.0, "judged": 5.0, "grid": 12.0}
"""What the stages take on two processor cores: only their proportion counts, the machine's speed is learnt as they pass."""
LIVES = ("running", "queued")
RECENT = 3
WORKS_FROM, WORKS_BY = 0.5, 0.4
"""The trigger word works where it brings the costume in half of the pictures, and in so many more than without it."""


# ---------------------------------------------------------------- the demo, as its folder tells it


@dataclass(frozen=True)
class Demo:
    """What a demo's folder says."""

    run: RunFolder
    name: str
    """Its identifier among the runs."""
    status: Status
    facts: dict[str, Any] = field(default_factory=dict)
    """story.json so far."""
    result: dict[str, Any] = field(default_factory=dict)
    quick: bool = False
    stage: str = ""
    """The first that is not done; "" where all are."""
    stage_began: float | None = None

    @property
    def living(self) -> bool:
        return self.status.state in LIVES

    @property
    def dataset(self) -> Path:
        return self.run.path / "dataset"

    def part(self, name: str) -> RunFolder | None:
        """The run within it: "training" or "grid", once it was made."""
        inner = RunFolder(self.run.path / name)
        return inner if inner.run_yaml.is_file() else None

    def done(self, stage: str) -> bool:
        return stage in self.facts


class Demos:
    """The newest demo of the workspace. Reads again only what has changed; one for all who look."""

    def __init__(self, workspace: Workspace, logs: Logs) -> None:
        self.workspace, self.logs = workspace, logs
        self._listed: tuple[Any, list[Path]] = (None, [])

    def newest(self) -> Demo | None:
        for folder in self._folders():
            run = RunFolder(folder)
            try:
                job = job_of(run.run_yaml, state_of(run.run_yaml))
                if isinstance(job, DemoJob):
                    return self.read(run, job.quick)
            except (UserError, OSError):
                continue
        return None

    def _folders(self) -> list[Path]:
        """Folders that may be demos, the newest first: by name, which is how they are made."""
        now = state_of(self.workspace.runs)
        if self._listed[0] != now:
            found = [file.parent for file in self.workspace.runs.glob("demo*/run.yaml")]
            self._listed = (now, sorted(found, key=lambda folder: state_of(folder / "run.yaml"), reverse=True))
        return self._listed[1]

    def read(self, run: RunFolder, quick: bool) -> Demo:
        facts = read_json(run.path / "story.json")
        status = self.logs.status(run)
        ended = status.state == "finished"
        return Demo(
            run=run,
            name=identifier(run, self.workspace),
            status=status,
            facts=facts,
            result=read_json(run.path / "result.json") if ended else {},
            quick=quick,
            stage=next((stage for stage in STAGES if stage not in facts), ""),
            stage_began=stage_began(run.events, state_of(run.events)) if status.state == "running" else None,
        )


@lru_cache(maxsize=4)
def demos_in(root: Path) -> Demos:
    """The one reader of a workspace, for this tab and for the sentences above the others."""
    return Demos(Workspace(root), Logs())


FileState = tuple[int, int]


def state_of(file: Path) -> FileState:
    try:
        state = file.stat()
    except OSError:
        return 0, 0
    return state.st_mtime_ns, state.st_size


def read_json(file: Path) -> dict[str, Any]:
    """The mapping in a file; empty for a missing or damaged one."""
    return dict(_json_at(file, state_of(file)))


@lru_cache(maxsize=64)
def _json_at(file: Path, state: FileState) -> dict[str, Any]:
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


@lru_cache(maxsize=64)
def job_of(file: Path, state: FileState) -> Any:
    """The job of a run.yaml in that state. Raises UserError."""
    return RunFolder(file.parent).job()


@lru_cache(maxsize=16)
def stage_began(file: Path, state: FileState) -> float | None:
    """When the demo's present stage began."""
    began = None
    for event in events.read(file):
        if isinstance(event, events.Started | events.Stage):
            began = event.at
    return began


def group(values: dict[str, Any], name: str) -> dict[str, Any]:
    inner = values.get(name)
    return inner if isinstance(inner, dict) else {}


def number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def percent(value: object) -> str:
    share = number(value)
    return "–" if share is None else f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def works(trigger: dict[str, Any]) -> bool:
    """Whether the figures say that the trigger word does what it is for."""
    on, off = number(trigger.get("with")) or 0.0, number(trigger.get("without")) or 0.0
    return on >= WORKS_FROM and on - off >= WORKS_BY


def share_of_stage(demo: Demo, logs: Logs) -> float:
    """How much of the present stage is done, 0 to 1, where that is known."""
    inner = demo.part(demo.stage) if demo.stage in ("training", "grid") else None
    if inner is None:
        return 0.0
    status = logs.status(inner)
    return min(1.0, status.step / status.total) if status.total else 0.0


def elapsed(demo: Demo, now: float) -> float:
    """Seconds that were worked on it, all starts together."""
    earlier = number(group(demo.facts, "seconds").get("total")) or 0.0
    return earlier + (max(0.0, now - demo.stage_began) if demo.stage_began else 0.0)


def remaining(demo: Demo, share: float, passed: float) -> float:
    """Seconds to come: the rest of what is typical, by the speed of this machine so far."""
    typical = QUICK_SECONDS if demo.quick else TYPICAL_SECONDS
    behind = sum(seconds for stage, seconds in typical.items() if demo.done(stage)) + share * typical.get(demo.stage, 0.0)
    ahead = sum(typical.values()) - behind
    known = 0.15 * sum(typical.values())
    # The first seconds load libraries and say little of the speed: they count as if half of them were typical.
    speed = (passed + known) / (behind + known)
    return ahead * min(12.0, max(0.25, speed))


def stage_title(language: str, stage: str) -> str:
    match stage:
        case "dataset":
            return say(language, "Drawing the pictures")
        case "captions":
            return say(language, "Captions by BLIP")
        case "trigger":
            return say(language, "Trigger word")
        case "training":
            return say(language, "Training the LoRA")
        case "judged":
            return say(language, "Judging it")
    return say(language, "XYZ plot")


def stage_about(language: str, stage: str) -> str:
    """What a stage will do, for one that has not begun."""
    match stage:
        case "dataset":
            return say(language, "People in folk costume, 128 pixels wide")
        case "captions":
            return say(language, "A captioner describes every picture")
        case "trigger":
            return say(language, "A made-up word takes the place of the costume in the captions")
        case "training":
            return say(language, "The model learns what the word means")
        case "judged":
            return say(language, "Pictures with and without the word, counted")
    return say(language, "The same prompt by epoch, weight and trigger word")


def stage_note(language: str, demo: Demo, stage: str, logs: Logs) -> str:
    """What came of a stage that is done, or how far the present one is."""
    facts = demo.facts
    if stage in ("training", "grid") and not demo.done(stage):
        return progress_note(language, demo.part(stage), logs, demo.status.state == "running")
    if not demo.done(stage):
        return ""
    match stage:
        case "dataset":
            return say(language, "Pictures: {count}", count=facts.get("pictures", "–"))
        case "captions":
            named = group(facts, "captions")
            subject, place = percent(named.get("subject")), percent(named.get("place"))
            return say(language, "The right subject in {subject} of them, the right place in {place}", subject=subject, place=place)
        case "trigger":
            put = group(facts, "trigger")
            return say(
                language,
                "“{noun}” became “{word}”; captions changed: {count}",
                noun=put.get("class_noun", "–"),
                word=put.get("word", "–"),
                count=put.get("changed", "–"),
            )
        case "training":
            inner = demo.part("training")
            status = logs.status(inner) if inner else None
            return say(language, "Steps: {count}", count=status.step) if status else ""
        case "judged":
            judged = group(facts, "judged")
            on, off = percent(judged.get("with")), percent(judged.get("without"))
            return say(language, "The costume with the word: {on}, without it: {off}", on=on, off=off)
    inner = demo.part("grid")
    return say(language, "Cells: {count}", count=logs.status(inner).total) if inner else ""


def progress_note(language: str, run: RunFolder | None, logs: Logs, live: bool) -> str:
    if run is None:
        return ""
    status = logs.status(run)
    if not status.step:
        return say(language, "Getting ready") if live else ""
    if status.loss is None:
        return say(language, "{step} of {total}", step=status.step, total=status.total)
    return say(language, "Step {step} of {total}, loss {loss}", step=status.step, total=status.total, loss=f"{status.loss:.3f}")


def look_of(demo: Demo, stage: str) -> str | None:
    """The tab where a stage can be seen, once there is something to see."""
    if stage in ("dataset", "captions"):
        return "dataset" if demo.done("dataset") else None
    if stage == "trigger":
        return "trigger" if demo.done("captions") else None
    if stage in ("training", "grid"):
        return {"training": "monitor", "grid": "xyz"}[stage] if demo.part(stage) else None
    return None


def demo_value(language: str, demo: Demo, window: Window, logs: Logs, now: float) -> dict[str, Any]:
    """The demo as the browser draws it."""
    live = demo.status.state == "running"
    share = share_of_stage(demo, logs) if live else 0.0
    passed = elapsed(demo, now)
    stages = []
    for stage in STAGES:
        present = stage == demo.stage and demo.status.state not in ("finished", "queued", "new")
        stages.append(
            {
                "id": stage,
                "title": stage_title(language, stage),
                "state": "done" if demo.done(stage) else ("now" if live else "broken") if present else "waiting",
                "note": stage_note(language, demo, stage, logs) or ("" if demo.done(stage) else stage_about(language, stage)),
                "share": round(share, 3) if present and live else None,
                "look": look_of(demo, stage),
            }
        )
    return {
        "name": demo.name,
        "state": demo.status.state,
        "message": demo.status.message,
        "stages": stages,
        "elapsed": round(passed),
        "remaining": round(remaining(demo, share, passed)) if live else None,
        "result": result_value(language, demo, window) if demo.result else None,
    }


def result_value(language: str, demo: Demo, window: Window) -> dict[str, Any]:
    """The figures and pictures of a finished demo."""
    result = demo.result
    trigger, captions, seconds = group(result, "trigger"), group(result, "captions"), group(result, "seconds")
    word, auc = str(trigger.get("word", "–")), number(trigger.get("auc"))
    good = works(trigger)
    figures = [
        {
            "value": percent(trigger.get("with")),
            "text": say(language, "of the pictures show the costume when the prompt says {word}", word=word),
            "accent": True,
        },
        {"value": percent(trigger.get("without")), "text": without_text(language, trigger), "accent": True},
        {
            "value": "–" if auc is None else f"{auc:.2f}",
            "text": say(language, "how well a probe tells the two apart (AUC; 1 is perfect, 0.5 is chance)"),
        },
        {
            "value": percent(captions.get("subject")),
            "text": say(
                language,
                "of the captions name the right subject; colour: {colour}, place: {place}",
                colour=percent(captions.get("colour")),
                place=percent(captions.get("place")),
            ),
        },
    ]
    files = group(result, "files")
    titles = {
        "grid": say(language, "XYZ plot: the same prompt and seed in every cell"),
        "samples": say(language, "The same seeds with and without the word"),
    }
    pictures = [
        {"id": name, "title": title, "picture": window.pictures.url(file, 1024), "whole": window.pictures.url(file), "size": size}
        for name, title in titles.items()
        if (file := inside(demo.run.path, files.get(name))) is not None and (size := size_of(file))
    ]
    noun = str(trigger.get("class_noun_word", ""))
    share = percent(trigger.get("class_noun"))
    leak = say(language, "The class noun “{noun}” alone brings it in {share}.", noun=noun, share=share) if noun else ""
    text = (
        say(language, "It works: the trigger word calls up the costume, and without the word it stays away.")
        if good
        else say(language, "The trigger word does not work yet: this training was too short to tell.")
    )
    lora = inside(demo.run.path, files.get("lora"))
    return {
        "good": good,
        "text": text,
        "leak": leak,
        "figures": figures,
        "pictures": pictures,
        "seconds": number(seconds.get("total")),
        "device": str(result.get("device", "")),
        "lora": str(lora) if lora else "",
    }


def without_text(language: str, trigger: dict[str, Any]) -> str:
    unnamed = number(trigger.get("without_clothes"))
    if unnamed is None:
        return say(language, "show it where other clothes are named instead")
    return say(language, "show it where other clothes are named instead, {share} where none are", share=percent(unnamed))


def inside(folder: Path, name: object) -> Path | None:
    """A file of the run by the name that result.json gives it; None for what is not there or lies elsewhere."""
    if not isinstance(name, str) or "\0" in name:
        return None
    try:
        path = (folder / name).resolve()
    except (OSError, RuntimeError):
        return None
    return path if path.is_file() and path.is_relative_to(folder.resolve()) else None


def size_of(file: Path) -> tuple[int, int] | None:
    """Width and height of one of the run's pictures; None for what is none."""
    try:
        return images.stored_size(file)
    except (UserError, OSError):
        return None


# ---------------------------------------------------------------- the machine and what lies in the workspace


class Machine:
    """What a training needs and whether it is there. Asking for GPUs takes a second, so somebody else does it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._gpus: list[hardware.Gpu] | None = None
        self._asking = threading.Lock()
        self._models: tuple[Any, tuple[int, int]] = (None, (0, 0))

    def gpus(self) -> list[hardware.Gpu] | None:
        """None while nobody knows yet."""
        if self._gpus is None and self._asking.acquire(blocking=False):
            threading.Thread(target=self._ask, daemon=True).start()
        return self._gpus

    def _ask(self) -> None:
        try:
            self._gpus = hardware.gpus()
        except Exception:  # a driver may answer anything; without an answer there is none
            self._gpus = []

    def models(self) -> tuple[int, int]:
        """How many usable base models and captioners there are besides the demo kit's. Looked for when the folder changes."""
        now = mark(self.workspace)
        if self._models[0] != now:
            found = (
                sum(not model.from_kit and not model.problem for model in list_models(self.workspace)),
                sum(not model.from_kit and not model.problem for model in captioner_models(self.workspace)),
            )
            self._models = (now, found)
        return self._models[1]


def checks(language: str, machine: Machine) -> list[dict[str, Any]]:
    """Short lines: what there is, what is missing and where to put it."""
    cards, (models, captioners) = machine.gpus(), machine.models()
    folder = str(machine.workspace.models)
    if cards is None:
        gpu = {"state": "unknown", "text": say(language, "Looking for a GPU …")}
    elif cards:
        size = f" ({cards[0].total_bytes / 2**30:.0f} GB)" if cards[0].total_bytes else ""
        gpu = {"state": "good", "text": say(language, "GPU: {name}", name=cards[0].name + size)}
    else:
        text = say(language, "No NVIDIA GPU: the demo runs well, a Stable Diffusion takes hours on the processor.")
        gpu = {"state": "little", "text": text}
    if models:
        model = {"state": "good", "text": say(language, "Base models found: {count}", count=models)}
    else:
        text = say(
            language, "No base model yet: put a Stable Diffusion (a .safetensors file or a diffusers folder) into {folder}", folder=folder
        )
        model = {"state": "little", "text": text}
    if captioners:
        captioner = {"state": "good", "text": say(language, "Captioners found: {count}", count=captioners)}
    else:
        captioner = {
            "state": "little",
            "text": say(language, "No captioner yet: put a BLIP model's folder there too, or write captions yourself."),
        }
    return [{"id": "gpu", **gpu}, {"id": "model", **model}, {"id": "captioner", **captioner}]


def run_value(run: RunFolder, status: Status, workspace: Workspace) -> dict[str, Any] | None:
    try:
        job = job_of(run.run_yaml, state_of(run.run_yaml))
        name = identifier(run, workspace)
    except (UserError, OSError):
        return None
    return {
        "name": name,
        "job": job.job,
        "state": status.state,
        "step": status.step,
        "total": status.total,
        "loss": status.loss,
        "stage": status.stage,
        "remaining": round(status.eta_seconds) if status.eta_seconds else None,
        "at": state_of(run.events)[0] // 10**9 or state_of(run.run_yaml)[0] // 10**9,
    }


def has_datasets(workspace: Workspace) -> bool:
    try:
        return any(entry.is_dir() and not entry.name.startswith(".") for entry in workspace.datasets.iterdir())
    except OSError:
        return False


# ---------------------------------------------------------------- the tab


class Tab:
    """The tab's handlers: values of components in, updates out."""

    def __init__(self, window: Window) -> None:
        self.window, self.workspace = window, window.workspace
        self.demos = demos_in(window.workspace.root)
        self.machine = Machine(window.workspace)

    def value(self, dataset: str, language: str) -> dict[str, Any]:
        """Everything the tab shows."""
        logs, demo = self.demos.logs, self.demos.newest()
        runs = [run for run in runs_in(self.workspace.runs) if run.path.parent == self.workspace.runs]
        others = [run for run in runs if demo is None or run.path != demo.run.path]
        recent = [value for run in others[:RECENT] if (value := run_value(run, logs.status(run), self.workspace))]
        busy = work_queue.busy(self.workspace)
        running = run_value(busy, logs.status(busy), self.workspace) if busy and (demo is None or busy.path != demo.run.path) else None
        opened = dataset if dataset and (demo is None or Path(dataset) != demo.dataset) else ""
        return {
            "first": not others and demo is None and not opened and not has_datasets(self.workspace),
            "demo": demo_value(language, demo, self.window, logs, time.time()) if demo else None,
            "running": running,
            "recent": [run for run in recent if running is None or run["name"] != running["name"]],
            "dataset": Path(opened).name if opened else "",
            "checks": checks(language, self.machine),
        }

    def refresh(self, seen: str, follow: dict[str, Any], dataset: str, run: str, grid: str, language: str) -> list[Any] | None:
        """The widget's value, and the demo's things for who follows it."""
        value = self.value(dataset or "", language)
        now = json.dumps(value, sort_keys=True)
        follow, chosen = self.follow(follow or {}, bool(seen), {"dataset": dataset or "", "run": run or "", "grid": grid or ""})
        if now == seen and all(value is None for value in chosen.values()):
            return None
        given = [gr.skip() if chosen[name] is None else chosen[name] for name in ("dataset", "run", "grid")]
        return [now, follow, gr.skip() if now == seen else value, *given]

    def follow(self, follow: dict[str, Any], loaded: bool, now: dict[str, str]) -> tuple[dict[str, Any], dict[str, str | None]]:
        """What of the demo is to be opened now: each thing once, in the session that started it, or where nothing else is open."""
        nothing: dict[str, str | None] = dict.fromkeys(("dataset", "run", "grid"))
        demo = self.demos.newest()
        if demo is None:
            return follow, nothing
        self.remember_trigger(demo)
        ours = follow.get("demo") == demo.name
        if not ours and not (loaded and demo.living):
            return follow, nothing
        there = {
            "dataset": str(demo.dataset) if demo.done("dataset") else "",
            "run": f"{demo.name}/training" if demo.part("training") else "",
            "grid": f"{demo.name}/grid" if demo.part("grid") else "",
        }
        given = list(follow.get("given", [])) if ours else []
        chosen: dict[str, str | None] = {}
        for name, thing in there.items():
            wanted = thing and name not in given and (ours or not now[name])
            chosen[name] = thing if wanted and now[name] != thing else None
            if wanted:
                given.append(name)
        return ({"demo": demo.name, "given": given} if ours else follow), chosen

    def remember_trigger(self, demo: Demo) -> None:
        """The demo's own trigger, for the Trigger and Train tabs, as if it had been written there."""
        put = group(demo.facts, "trigger")
        key = f"trigger:{demo.dataset}"
        if put.get("word") and self.window.memory.get(key) is None and not self.window.memory.get(f"{key}:told"):
            self.window.memory.put(key, {"word": str(put["word"]), "class_nouns": [str(put.get("class_noun", ""))]})
            self.window.memory.put(f"{key}:told", True)

    def start(self, dataset: str, language: str, follow: dict[str, Any]) -> list[Any]:
        """A new demo, unless one is running."""
        follow = follow or {}
        message = ""
        try:
            demo = self.demos.newest()
            if demo is None or not demo.living:
                self.workspace.create()
                run = RunFolder.create(self.workspace.new_run("demo"), DemoJob())
                work_queue.start_or_enqueue(run, self.workspace)
                follow = {"demo": identifier(run, self.workspace), "given": []}
        except (UserError, OSError) as error:
            message = str(error)
        return [follow, *self.shown(dataset, language, message)]

    def go_on(self, dataset: str, language: str, follow: dict[str, Any]) -> list[Any]:
        """Go on with a demo that was stopped or that died."""
        follow, message = follow or {}, ""
        try:
            demo = self.demos.newest()
            if demo is not None and not demo.living and demo.status.state != "finished":
                work_queue.start_or_enqueue(demo.run, self.workspace)
                follow = {"demo": demo.name, "given": []}
        except (UserError, OSError) as error:
            message = str(error)
        return [follow, *self.shown(dataset, language, message)]

    def stop(self, dataset: str, language: str) -> list[Any]:
        """Ask the demo to end after its step, or take it out of the queue."""
        message = ""
        try:
            demo = self.demos.newest()
            if demo is not None and demo.status.state == "queued":
                work_queue.remove(demo.run, self.workspace)
            elif demo is not None and demo.living:
                launcher.stop(demo.run)
                message = say(language, "It stops after this step; what is done stays.")
        except (UserError, OSError) as error:
            message = str(error)
        return self.shown(dataset, language, message)

    def shown(self, dataset: str, language: str, message: str = "") -> list[Any]:
        value = self.value(dataset or "", language)
        return [json.dumps(value, sort_keys=True), {**value, "said": message}]

    def look(self, stage: object) -> list[Any]:
        """Open the tab where a stage of the demo can be seen, with the demo's things in it: tabs, dataset, run, grid."""
        demo = self.demos.newest()
        stage = str(stage)
        tab = look_of(demo, stage) if demo is not None and stage in STAGES else None
        if demo is None or tab is None:
            return [gr.skip()] * 4
        return [
            gr.Tabs(selected=tab),
            str(demo.dataset) if tab in ("dataset", "trigger") else gr.skip(),
            f"{demo.name}/training" if tab == "monitor" else gr.skip(),
            f"{demo.name}/grid" if tab == "xyz" else gr.skip(),
        ]

    def open(self, tab: object, name: object) -> list[Any]:
        """Open a tab, with a run in it where one is named: tabs, run, grid."""
        if tab not in TABS:
            return [gr.skip()] * 3
        run, grid = gr.skip(), gr.skip()
        if isinstance(name, str) and name:
            try:
                found = RunFolder(self.workspace.resolve("runs", name))
                job = job_of(found.run_yaml, state_of(found.run_yaml))
                run, grid = (name, grid) if isinstance(job, TrainJob) else (run, name) if job.job == "grid" else (run, grid)
            except UserError:
                return [gr.skip()] * 3
        return [gr.Tabs(selected=tab), run, grid]


def build(window: Window) -> Panel:
    """The tab's components, inside the tab that is open."""
    tab = Tab(window)
    seen, follow = gr.State(""), gr.State({})
    made = widget("start", elem_id="start-page")

    def start(request: gr.Request, dataset: str, following: dict[str, Any]) -> list[Any]:
        return tab.start(dataset, language_of(request), following)

    def go_on(request: gr.Request, dataset: str, following: dict[str, Any]) -> list[Any]:
        return tab.go_on(dataset, language_of(request), following)

    def stop(request: gr.Request, dataset: str) -> list[Any]:
        return tab.stop(dataset, language_of(request))

    def look(event: gr.EventData) -> list[Any]:
        return tab.look(event._data.get("stage"))

    def opened(event: gr.EventData) -> list[Any]:
        return tab.open(event._data.get("tab"), event._data.get("run"))

    made.demo(start, [window.dataset, follow], [follow, seen, made], **window.quiet)
    made.resume(go_on, [window.dataset, follow], [follow, seen, made], **window.quiet)
    made.stop(stop, [window.dataset], [seen, made], **window.quiet)
    made.look(look, None, [window.tabs, window.dataset, window.run, window.grid], **window.quiet)
    made.open(opened, None, [window.tabs, window.run, window.grid], **window.quiet)
    inputs = [seen, follow, window.dataset, window.run, window.grid]
    return Panel(tab.refresh, inputs, [seen, follow, made, window.dataset, window.run, window.grid])
