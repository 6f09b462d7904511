"""Tab "Monitor": one run, live: how far it is, its curves, its samples, what it prints; and the queue and all past runs.

Everything shown comes from the run folders, so it is the same after a reload, in a second browser tab and after the window
was started anew. What is drawn is in widgets/monitor*.js, samples.js and console.js.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

from nosnja_gui import launcher, work_queue
from nosnja_gui.hardware import Meter
from nosnja_gui.jobs import CaptionJob, Job, TrainJob
from nosnja_gui.logs import Logs, RunLog
from nosnja_gui.runs import JOBS, RunFolder, console_tail, identifier, runs_in
from nosnja_gui.settings import UserError
from nosnja_gui.ui.panel import TABS, Panel, Window
from nosnja_gui.ui.widget import widget

MEMORY = "monitor-run"
COMPARED = "xyz-run"
"""Where the XYZ tab looks for a run whose epochs it shall compare."""
CONSOLE_LINES = 200
LISTED_RUNS = 150
RATE_POINTS = 300
"""Learning rates are smooth: fewer points than the loss has show them as well."""
RECENT_POINTS = 10
PICTURES_AT_ONCE = 60
ANSWER_SECONDS = 600.0
"""How long a wish counts as heard that the run took and hasn't fulfilled yet: a save or a preview takes a while."""
UNFINISHED = {"new", "stopped", "failed", "crashed"}
LARGEST_NUMBER_TEXT = 40


@dataclass(frozen=True)
class Row:
    """A run of the workspace and what its log says in brief."""

    run: RunFolder
    name: str
    log: RunLog

    @property
    def state(self) -> str:
        return self.log.status.state

    @property
    def kind(self) -> str:
        return self.log.job or kind_of(self.run)

    @property
    def outer(self) -> str:
        """The run that this one is a part of; itself for most."""
        return self.name.partition("/")[0]


class Monitor:
    """What the tab shows and does, as plain values; every method may be called by several threads."""

    def __init__(self, window: Window) -> None:
        self.workspace, self.pictures, self.memory = window.workspace, window.pictures, window.memory
        self.logs, self.meter = Logs(), Meter()
        self._asked: dict[tuple[Path, str], tuple[float, float]] = {}
        self._lock = threading.Lock()

    # ------------------------------------------------------------ which run

    def rows(self) -> list[Row]:
        """All runs, the newest first."""
        # By text: `Path.relative_to` takes longer than all the rest where there are hundreds.
        begin = len(str(self.workspace.runs)) + 1
        return [Row(run, str(run.path)[begin:].replace(os.sep, "/"), self.logs.brief(run)) for run in runs_in(self.workspace.runs)]

    def choose(self, wanted: str, rows: list[Row]) -> Row | None:
        """The run that the page asks for; else the one that was opened last, unless another one was started after that; else
        the one that runs, or the newest training."""
        by_name = {row.name: row for row in rows}
        if wanted in by_name:
            return by_name[wanted]
        running = [row for row in rows if row.state == "running"]
        newest = min(running, key=lambda row: row.name.count("/"), default=None)
        opened = self.memory.get(MEMORY)
        if isinstance(opened, dict) and (row := by_name.get(str(opened.get("run")))) is not None:
            at = opened.get("at")
            if newest is None or row.state == "running" or (isinstance(at, int | float) and at >= (newest.log.last_start or 0.0)):
                return row
        trained = [row for row in rows if row.kind == "train" and "/" not in row.name]
        return newest or max(trained or rows, key=lambda row: row.log.last or 0.0, default=None)

    def opened(self, name: str) -> None:
        """Somebody opened that run: it is shown again after a reload."""
        with contextlib.suppress(UserError):
            self.find(name)
            self.memory.put(MEMORY, {"run": name, "at": time.time()})

    def find(self, name: object) -> RunFolder:
        """The run of that name. Raises UserError for what is none."""
        run = RunFolder(self.workspace.resolve("runs", str(name)))
        if not run.run_yaml.is_file():
            raise UserError(f"There is no run '{name}' any more.")
        return RunFolder(self.workspace.runs / str(name))

    def outer(self, run: RunFolder) -> RunFolder:
        """The run whose process works on this one: a demo's, for its training."""
        parent = RunFolder(run.path.parent)
        return parent if run.path.parent != self.workspace.runs and parent.run_yaml.is_file() else run

    def inner(self, run: RunFolder, kind: str) -> RunFolder:
        """The run whose curves and samples are shown: a demo's training, for the demo."""
        training = RunFolder(run.path / "training")
        return training if kind == "demo" and training.run_yaml.is_file() else run

    # ------------------------------------------------------------ what is shown of it

    def head(self, row: Row | None, rows: list[Row]) -> dict[str, Any]:
        """Name, state, progress, what can be done, and the choice of runs."""
        choices = [[other.name, other.kind, other.state] for other in rows[:LISTED_RUNS]]
        if row is None:
            return {"run": "", "choices": choices}
        if row.name not in {name for name, _, _ in choices}:
            choices.append([row.name, row.kind, row.state])
        log, status = row.log, row.log.status
        shown = self.inner(row.run, row.kind)
        whole = self.logs.of(shown)
        running = status.state == "running"
        trains = running and whole.status.state == "running" and whole.job == "train"
        job = job_of(shown) if trains or row.kind == "train" else None
        prompts = job.preview.prompts if isinstance(job, TrainJob) else []
        speaker = whole if row.kind == "demo" and running and whole.status.state == "running" else log
        points = whole.curve.losses[-RECENT_POINTS:]
        waiting = [other.name for other in rows if other.state == "running" and other.outer != row.outer and "/" not in other.name]
        return {
            "run": row.name,
            "kind": row.kind,
            "state": status.state,
            "choices": choices,
            "parts": [other.name for other in rows if other.outer == row.outer and other.name != row.name],
            "running": waiting[:1],
            "device": speaker.device,
            "stage": status.stage if row.kind == "demo" else speaker.status.stage,
            "inner_stage": speaker.status.stage if speaker is not log else "",
            "stage_done": speaker.stage_done,
            "stage_total": speaker.stage_total,
            "step": status.step,
            "total": status.total,
            "inner": [speaker.status.step, speaker.status.total] if speaker is not log else None,
            "epoch": speaker.epoch,
            "epochs": speaker.epochs,
            "seconds_per_step": rounded(speaker.status.seconds_per_step) if running else mean_seconds(log),
            "loss": rounded(sum(points) / len(points)) if points else None,
            "elapsed": whole_seconds(log.elapsed_seconds),
            "eta": whole_seconds(speaker.status.eta_seconds) if running else None,
            "last": log.last,
            "message": status.message,
            "detail": log.detail if status.state == "failed" else "",
            "files": log.files if status.state == "finished" else [],
            "warnings": whole.warnings if whole.warnings else log.warnings,
            "asked": self.asked(shown, self.outer(row.run), whole, running),
            "can": actions(row, trains, bool(prompts)),
            "prompts": len(prompts),
            "rate": rate_of(job, whole),
            "rate_changes": whole.rate_changes[-1:],
            "saved": next(([save[0], save[2].rpartition("/")[2]] for save in reversed(weights_of(whole))), None),
        }

    def asked(self, run: RunFolder, outer: RunFolder, log: RunLog, running: bool) -> list[str]:
        """What was asked for and is not done yet: its request still lies there, or was taken and has not been fulfilled."""
        if not running:
            with self._lock:
                for key in [key for key in self._asked if key[0] in (run.path, outer.path)]:
                    del self._asked[key]
            return []
        return [what for what, target in self._wishes(run, outer).items() if self._waits(what, target, log)]

    def _wishes(self, run: RunFolder, outer: RunFolder) -> dict[str, RunFolder]:
        return {"stop": outer, "save": run, "sample": run, "learning_rate": run}

    def _waits(self, what: str, run: RunFolder, log: RunLog) -> bool:
        if (run.requests / what).exists():
            return True
        with self._lock:
            at, before = self._asked.get((run.path, what), (0.0, 0))
            if time.time() - at < ANSWER_SECONDS and answers(what, log) == before:
                return True
            self._asked.pop((run.path, what), None)
            return False

    def load(self) -> dict[str, Any]:
        """How busy the machine is, coarsely, so that an idle one's reading stays the same."""
        now = self.meter.now()
        if now is None:
            return {}
        gigabytes = 2**30
        cards = [
            {
                "name": card.name,
                "percent": card.percent,
                "used": card.used_bytes and round(card.used_bytes / gigabytes, 1),
                "total": card.total_bytes and round(card.total_bytes / gigabytes, 1),
                "celsius": card.celsius,
                "watts": card.watts and round(card.watts),
                "watts_limit": card.watts_limit and round(card.watts_limit),
            }
            for card in now.gpus
        ]
        percent = None if now.cpu_percent is None else 5 * round(now.cpu_percent / 5)
        memory = [round(now.memory_used / gigabytes, 1), round(now.memory_total / gigabytes, 1)]
        return {"gpus": cards, "cpu": percent, "memory": memory}

    def plots(self, row: Row) -> dict[str, Any]:
        """Loss, held-out loss, learning rates and what happened when; numbers as short as a plot can show them."""
        log = self.logs.of(self.inner(row.run, row.kind))
        curve = log.curve
        every = max(1, -(-len(curve.steps) // RATE_POINTS))
        last = len(curve.steps) - 1
        kept = [index for index in range(len(curve.steps)) if index % every == 0 or index == last]
        weights = weights_of(log)
        marks = [[step, "rate", rounded(rate)] for step, rate in log.rate_changes]
        marks += [[step, "resumed", None] for step in log.resumes]
        marks += [[step, "saved", file.rpartition("/")[2]] for step, _, file in weights[-100:]]
        return {
            "run": row.name,
            "kind": row.kind,
            "state": row.state,
            "steps": curve.steps,
            "losses": short(curve.losses),
            "lows": short(curve.lows) if curve.group > 1 else None,
            "highs": short(curve.highs) if curve.group > 1 else None,
            "group": curve.group,
            "rate_steps": [curve.steps[index] for index in kept],
            "rates": {name: short([rates[index] for index in kept]) for name, rates in curve.rates.items()},
            "validation": [[step, rounded(loss)] for step, loss in log.validation[-1000:]],
            "marks": marks,
        }

    def samples(self, row: Row) -> dict[str, Any]:
        """Which samples there are; their pictures are asked for when they come into sight (`sample_pictures`)."""
        shown = self.inner(row.run, row.kind)
        log = self.logs.of(shown)
        value: dict[str, Any] = {"run": row.name, "kind": row.kind, "state": row.state}
        if row.kind == "grid":
            return value | {"cells": [self._cell(row.run, file, error) for file, error in log.cells], "done": row.log.status.step}
        if row.kind == "caption":
            return value | {"captions": self._captions(row)}
        job = job_of(shown)
        prompts = job.preview.prompts if isinstance(job, TrainJob) else []
        steps = [[step, len(files), round(log.sampled_at.get(step, 0.0), 3)] for step, files in log.samples.items()]
        return value | {"prompts": prompts, "steps": steps}

    def _cell(self, run: RunFolder, file: str, error: str) -> dict[str, Any]:
        path = inside(run.path, file)
        if path is None or error:
            return {"file": file, "error": error or "?"}
        return {"file": file, "small": self.pictures.url(path, 320), "large": self.pictures.url(path)}

    def _captions(self, row: Row) -> list[dict[str, str]]:
        job = job_of(row.run)
        if not isinstance(job, CaptionJob):
            return []
        folder = self._dataset(job.dataset)
        found = []
        for picture, caption in row.log.captions:
            path = inside(folder, picture) if folder else None
            found.append({"picture": picture, "caption": caption, "small": self.pictures.url(path, 160) if path else ""})
        return found

    def _dataset(self, given: str) -> Path | None:
        with contextlib.suppress(UserError):
            return self.workspace.resolve("datasets", given)
        path = Path(given)
        return path if path.is_absolute() else None

    def console(self, row: Row) -> dict[str, Any]:
        return {"run": row.name, "text": console_tail(self.console_file(row), CONSOLE_LINES), "there": self.console_file(row).is_file()}

    def console_file(self, row: Row) -> Path:
        return row.run.console if row.run.console.is_file() else self.outer(row.run).console

    def listed(self, rows: list[Row]) -> dict[str, Any]:
        """The queue and all runs. What runs has no numbers here: they would make the list new at every tick.

        The page fills in those of the run that is watched, which it has from the head.
        """
        waits = any(row.state == "queued" for row in rows)
        queue = [identifier(run, self.workspace) for run in work_queue.waiting(self.workspace)] if waits else []
        table = []
        for row in rows[:LISTED_RUNS]:
            status, live = row.log.status, row.state == "running"
            table.append(
                {
                    "run": row.name,
                    "kind": row.kind,
                    "state": row.state,
                    "step": 0 if live else status.step,
                    "total": 0 if live else status.total,
                    "loss": None if live else rounded(status.loss),
                    "at": row.log.began and round(row.log.began),
                    "seconds": None if live else whole_seconds(row.log.elapsed_seconds),
                    "message": status.message.partition("\n")[0],
                }
            )
        return {"queue": queue, "runs": table, "more": max(0, len(rows) - LISTED_RUNS)}

    # ------------------------------------------------------------ asked for by the page

    def act(self, wish: Any) -> dict[str, Any]:
        """Do what a button says: {run, action, value}. Answers {} or {"error": one sentence}."""
        wish = wish if isinstance(wish, dict) else {}
        try:
            self._act(self.find(wish.get("run")), str(wish.get("action")), wish.get("value"))
        except UserError as error:
            return {"error": str(error)}
        except OSError as error:
            return {"error": f"That did not work: {error.strerror or error}."}
        return {}

    def _act(self, run: RunFolder, action: str, value: Any) -> None:
        """`value`: the learning rate; or the run that the moved one shall come before, None for last."""
        outer = self.outer(run)
        inner = self.inner(run, kind_of(run))
        if action == "go on":
            work_queue.start_or_enqueue(outer, self.workspace)
        elif action == "remove":
            if not work_queue.remove(outer, self.workspace):
                raise UserError("It does not wait any more.")
        elif action == "move":
            self._move(outer, None if value is None else self.outer(self.find(value)))
        elif not launcher.alive(outer):
            raise UserError("It does not run any more.")
        elif action == "stop":
            self._ask("stop", outer)
        elif action == "kill":
            launcher.stop(outer, kill=True)
        elif action in ("save", "sample"):
            self._ask(action, inner)
        elif action == "learning_rate":
            inner.request_rate(learning_rate(value))
            self._heard("learning_rate", inner)
        else:
            raise UserError(f"Nobody knows how to '{action}' a run.")

    def _move(self, run: RunFolder, before: RunFolder | None) -> None:
        """Let a waiting run wait right before another one, or last with None. Raises UserError where one does not wait any more."""
        work_queue.move(run, self.workspace, before)
        # Asked afterwards, for the turn of either may have come meanwhile.
        if not run.queued.exists():
            raise UserError("It does not wait any more.")
        if before is not None and not before.queued.exists():
            name = identifier(before, self.workspace)
            raise UserError(f"'{name}' does not wait any more, so nothing can come before it: choose another place.")

    def _ask(self, what: Any, run: RunFolder) -> None:
        if what == "stop":
            launcher.stop(run)
        else:
            run.request(what)
        self._heard(what, run)

    def _heard(self, what: str, run: RunFolder) -> None:
        before = answers(what, self.logs.of(run))
        with self._lock:
            self._asked[(run.path, what)] = (time.time(), before)

    def sample_pictures(self, wish: Any) -> dict[str, Any]:
        """Addresses of the samples of some steps: {run, steps} -> {step: [[small, large, file], ...]}."""
        wish = wish if isinstance(wish, dict) else {}
        steps = wish.get("steps")
        try:
            run = self.find(wish.get("run"))
        except UserError:
            return {}
        run = self.inner(run, kind_of(run))
        samples = self.logs.of(run).samples
        asked = [step for step in steps if isinstance(step, int)] if isinstance(steps, list) else []
        return {str(step): [self._sample(run, file) for file in samples.get(step, [])] for step in asked[:PICTURES_AT_ONCE]}

    def _sample(self, run: RunFolder, file: str) -> list[str]:
        path = inside(run.path, file)
        return [self.pictures.url(path, 320), self.pictures.url(path), file] if path else ["", "", file]

    def infotext(self, wish: Any) -> str:
        """How a sample or a cell was painted, as it stands in its PNG: {run, file}. "" for what the run did not make."""
        wish = wish if isinstance(wish, dict) else {}
        file = str(wish.get("file"))
        try:
            run = self.find(wish.get("run"))
        except UserError:
            return ""
        run = self.inner(run, kind_of(run))
        log = self.logs.of(run)
        made = file in {name for name, _ in log.cells} or any(file in files for files in log.samples.values())
        path = inside(run.path, file) if made else None
        return parameters(path) if path else ""


# ---------------------------------------------------------------- small questions


def actions(row: Row, trains: bool, previews: bool) -> list[str]:
    """Which buttons fit the state."""
    if row.state == "queued":
        return ["remove"]
    if row.state in UNFINISHED:
        return ["go on"] if row.kind != "damaged" else []
    if row.state != "running":
        return []
    return ["stop", "kill", *(["save", "learning_rate"] if trains else []), *(["sample"] if trains and previews else [])]


def answers(what: str, log: RunLog) -> float:
    """Grows when a wish of that kind was fulfilled."""
    if what == "save":
        return len(log.saves)
    if what == "sample":
        return max(log.sampled_at.values(), default=0.0)
    return len(log.rate_changes) if what == "learning_rate" else 0


def mean_seconds(log: RunLog) -> float | None:
    """Over all that was worked on a run that does not run any more."""
    return rounded(log.elapsed_seconds / log.status.step) if log.elapsed_seconds and log.status.step else None


def weights_of(log: RunLog) -> list[tuple[int, int, str]]:
    """What was saved for the user; the other saves are states to go on from."""
    return [save for save in log.saves if not save[2].startswith("checkpoints")]


def learning_rate(value: Any) -> float:
    """A rate as people write it: 1e-4, 0.0001, 0,0001. Raises UserError."""
    text = str(value).strip()[:LARGEST_NUMBER_TEXT]
    try:
        rate = float(text.replace(",", "."))
    except ValueError:
        raise UserError(f"'{text}' is no number: write the learning rate as 1e-4 or 0.0001.") from None
    if not math.isfinite(rate):
        raise UserError("The learning rate must be a number such as 1e-4.")
    return rate


def rate_of(job: Job | None, log: RunLog) -> float | None:
    """The whole learning rate (before the schedule) that the training goes by now."""
    if log.rate_changes:
        return log.rate_changes[-1][1]
    return job.optimizer.learning_rate if isinstance(job, TrainJob) else None


def kind_of(run: RunFolder) -> str:
    try:
        return _kind(run.run_yaml, run.run_yaml.stat().st_mtime_ns)
    except OSError:
        return "damaged"


@lru_cache(maxsize=4096)
def _kind(file: Path, modified: int) -> str:
    """The kind of job, without reading all of a settings file that may be long."""
    with contextlib.suppress(OSError):
        found = re.search(r"^job: *['\"]?(\w+)", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        if found and found[1] in JOBS:
            return found[1]
    return "damaged"


def job_of(run: RunFolder) -> Job | None:
    try:
        return _job(run.path, run.run_yaml.stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=64)
def _job(path: Path, modified: int) -> Job | None:
    with contextlib.suppress(UserError, OSError):
        return RunFolder(path).job()
    return None


def inside(folder: Path, name: str) -> Path | None:
    """The existing file of that name in a folder; None for what is not in it."""
    try:
        path = (folder / name).resolve(strict=True)
        return path if path.is_relative_to(folder.resolve()) and path.is_file() else None
    except (OSError, ValueError, RuntimeError):
        return None


def parameters(path: Path) -> str:
    """The text under "parameters" in a PNG, where other programs look for it, too."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return str(picture.info.get("parameters", ""))
    except (OSError, ValueError, SyntaxError):
        return ""


def rounded(value: float | None) -> float | None:
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None


def short(values: list[Any]) -> list[float | None]:
    return [rounded(value) for value in values]


def whole_seconds(value: float | None) -> int | None:
    return None if value is None else round(value)


# ---------------------------------------------------------------- the tab


def build(window: Window) -> Panel:
    """The tab's components, inside the tab that is open."""
    monitor = Monitor(window)

    def act(wish: Any) -> dict[str, Any]:
        return monitor.act(wish)

    def sample_pictures(wish: Any) -> dict[str, Any]:
        return monitor.sample_pictures(wish)

    def infotext(wish: Any) -> str:
        return monitor.infotext(wish)

    seen = gr.State("")
    with gr.Row(elem_classes="nosnja-monitor-top"):
        with gr.Column(scale=5, min_width=520):
            head = widget("monitor", server=[act], elem_id="monitor-head")
        with gr.Column(scale=1, min_width=230):
            load = widget("monitor_load", elem_id="monitor-load")
    with gr.Row(elem_classes="nosnja-monitor-middle"):
        with gr.Column(scale=6, min_width=480):
            plots = widget("monitor_plots", elem_id="monitor-plots")
        with gr.Column(scale=5, min_width=420):
            samples = widget("samples", server=[sample_pictures, infotext], elem_id="monitor-samples")
    with gr.Row(elem_classes="nosnja-monitor-bottom"):
        with gr.Column(scale=7, min_width=560):
            listed = widget("monitor_runs", server=[act], elem_id="monitor-runs")
        with gr.Column(scale=4, min_width=360):
            console = widget("console", elem_id="monitor-console")
    outputs = {"head": head, "load": load, "plots": plots, "samples": samples, "listed": listed, "console": console}

    def refresh(wanted: str, before: Any, language: str) -> list[Any] | None:
        return updates(monitor, str(wanted or ""), before if isinstance(before, dict) else {})

    def look(wanted: str, before: Any) -> list[Any]:
        if wanted:
            monitor.opened(wanted)
        return refresh(wanted, before, "") or [gr.skip()] * (len(outputs) + 1)

    def pick(event: gr.EventData) -> Any:
        wanted = (event._data or {}).get("run")
        try:
            monitor.find(wanted)
        except UserError:
            return gr.skip()
        return wanted

    def go(event: gr.EventData) -> list[Any]:
        wish = event._data or {}
        tab, grid = wish.get("tab"), wish.get("grid")
        with contextlib.suppress(UserError):
            if compared := wish.get("compare"):
                monitor.find(compared)
                monitor.memory.put(COMPARED, str(compared))
            return [grid if grid and monitor.find(grid) else gr.skip(), gr.Tabs(selected=tab if tab in TABS else "monitor")]
        return [gr.skip(), gr.skip()]

    panel = Panel(refresh, [window.run, seen], [seen, *outputs.values()])
    quiet: dict[str, Any] = {**window.quiet, "trigger_mode": "always_last"}
    window.run.change(look, panel.inputs, panel.outputs, **quiet)
    head.pick(pick, None, window.run, **quiet)
    listed.pick(pick, None, window.run, **quiet)
    head.go(go, None, [window.grid, window.tabs], **quiet)
    samples.go(go, None, [window.grid, window.tabs], **quiet)
    return panel


def updates(monitor: Monitor, wanted: str, before: dict[str, Any]) -> list[Any] | None:
    """A value per output, or gr.skip() where the page shows it already; `before` and the first output say what it shows."""
    rows = monitor.rows()
    row = monitor.choose(wanted, rows)
    after: dict[str, Any] = {}
    values: list[Any] = []

    def show(name: str, key: Any, make: Callable[[], Any]) -> None:
        after[name] = key
        values.append(gr.skip() if before.get(name) == key else make())

    def show_value(name: str, value: Any) -> None:
        show(name, json.dumps(value, sort_keys=True, default=str), lambda: value)

    show_value("head", monitor.head(row, rows))
    show_value("load", monitor.load())
    if row is None:
        for name in ("plots", "samples", "listed", "console"):
            show_value(name, {"run": ""})
    else:
        inner = monitor.logs.of(monitor.inner(row.run, row.kind))
        show("plots", f"{row.name} {row.state} {inner.version}", lambda: monitor.plots(row))
        if row.kind in ("grid", "caption"):
            show_value("samples", monitor.samples(row))
        else:
            key = f"{row.name} {row.state} {len(inner.samples)} {max(inner.sampled_at.values(), default=0.0)}"
            show("samples", key, lambda: monitor.samples(row))
        show_value("listed", monitor.listed(rows))
        file = monitor.console_file(row)
        state = file.stat() if file.is_file() else None
        show("console", f"{row.name} {state and (state.st_size, state.st_mtime_ns)}", lambda: monitor.console(row))
    return None if after == before else [after, *values]
