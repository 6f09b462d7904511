"""The folder of one run: what was asked for, what happened, whether it goes on. Status is derived, never stored.

One writer per file: run.yaml by whoever asks for the job (once), process.json by the launcher, events.jsonl and the
results by the engine, requests/ by the window, queued.json by the queue.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

from nosnja_gui import events
from nosnja_gui.events import EventLog
from nosnja_gui.files import write_atomic
from nosnja_gui.jobs import CaptionJob, DemoJob, DownloadJob, GridJob, Job, TrainJob
from nosnja_gui.processes import is_alive, self_mark
from nosnja_gui.settings import UserError, read_yaml
from nosnja_gui.workspace import Workspace

Request = Literal["stop", "save", "sample"]
State = Literal["new", "queued", "running", "finished", "stopped", "failed", "crashed"]
JOBS: dict[str, type[Job]] = {"train": TrainJob, "caption": CaptionJob, "grid": GridJob, "demo": DemoJob, "download": DownloadJob}
ENDS: dict[type[events.Event], State] = {events.Finished: "finished", events.Stopped: "stopped", events.Failed: "failed"}
CONSOLE_TAIL_LINES = 12
PARTS = frozenset({"requests", "samples", "weights", "checkpoints", "cells"})
"""Subfolders of a run that are no runs themselves; not looked into, as there may be hundreds of runs."""
PROCESS_BEGAN = time.time() - 1.0
"""Nearly: this module is among the first to be loaded, and file times are a little coarse."""


@dataclass(frozen=True)
class Status:
    state: State
    step: int = 0
    """Steps, pictures or cells done; bytes of a download."""
    total: int = 0
    loss: float | None = None
    eta_seconds: float | None = None
    seconds_per_step: float | None = None
    stage: str = ""
    """What is being done between steps, such as loading the model; empty while steps are made."""
    message: str = ""
    """Why it failed or crashed."""


class _Inside:
    """A path inside a run's folder, made when it is asked for: runs are listed by the hundred, and little is asked of most."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: RunFolder, owner: type | None = None) -> Path:
        return run.path / self.name


class RunFolder:
    """Paths and state of a run. Making one touches nothing on the disk.

    A run that is a part of another one (the training of a demo) is made `within` it and hears what is asked of that one.
    """

    run_yaml = _Inside("run.yaml")
    events = _Inside("events.jsonl")
    console = _Inside("console.log")
    process = _Inside("process.json")
    queued = _Inside("queued.json")
    requests = _Inside("requests")
    rate_request = _Inside("requests/learning_rate")
    samples = _Inside("samples")
    weights = _Inside("weights")
    checkpoints = _Inside("checkpoints")
    lock_file = _Inside(".lock")

    def __init__(self, path: Path, within: RunFolder | None = None) -> None:
        self.path = path
        self.within = within
        self._locks = 0

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @classmethod
    def create(cls, path: Path, job: Job, within: RunFolder | None = None) -> RunFolder:
        """Make the folder and write run.yaml. A folder that holds the same job already is taken as it is, to go on,
        and a grid's folder takes a changed grid.

        Raises UserError for a folder with another run or anything else in it.
        """
        run = cls(path, within)
        try:
            if run.run_yaml.exists():
                before = run.job()
                if before.job == job.job == "grid":
                    write_atomic(run.run_yaml, job.to_yaml())  # its pictures are kept under what decided them: it may grow and change
                elif before.model_dump(exclude={"output"}) != job.model_dump(exclude={"output"}):
                    raise UserError(f"{path} holds another run with other settings: choose another output folder, or delete that one.")
            elif path.exists() and (not path.is_dir() or any(not entry.name.startswith(".") for entry in path.iterdir())):
                raise UserError(f"{path} exists and is not a run of this program: choose a new or empty output folder.")
            else:
                path.mkdir(parents=True, exist_ok=True)
                write_atomic(run.run_yaml, job.to_yaml())
            trained = (run.samples, run.weights, run.checkpoints) if job.job == "train" else ()
            for folder in (run.requests, *trained):
                folder.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"{path} cannot be made or written to ({error.strerror}): choose another output folder.") from None
        return run

    def job(self) -> Job:
        """What was asked for. Raises UserError if this is no run folder or its run.yaml is damaged."""
        if not self.run_yaml.is_file():
            raise UserError(f"{self.path} is no run folder, it has no run.yaml: give the folder of a run.")
        values = read_yaml(self.run_yaml)
        kind = values.get("job")
        if not isinstance(kind, str) or kind not in JOBS:
            raise UserError(f"{self.run_yaml} must say 'job: ' and one of {', '.join(JOBS)}, got {kind!r}.")
        return JOBS[kind].parse(values, where=str(self.run_yaml))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run: one process per folder. The system frees the lock of a process that dies. Who is held waits no longer.

        May be nested on the same object. Raises UserError where another process, or another object, holds it.
        """
        if self._locks:
            self._locks += 1
            try:
                yield
            finally:
                self._locks -= 1
            return
        with holding(self.lock_file, log_bytes=self.log_bytes()) as ours:
            if not ours:
                holder = _read_json(self.lock_file).get("pid", "unknown")
                raise UserError(f"{self.path} is in use by process {holder}: wait until it ends, or choose another output folder.")
            self._locks = 1
            try:
                with contextlib.suppress(OSError):
                    self.queued.unlink(missing_ok=True)
                yield
            finally:
                self._locks = 0

    def log(self) -> EventLog:
        return EventLog(self.events)

    def log_bytes(self) -> int:
        """Size of the log, remembered at a start to tell events of this start from older ones."""
        return self.events.stat().st_size if self.events.exists() else 0

    def status(self) -> Status:
        """What the log says, and whether a process lives. A dead one that logged no end has crashed."""
        return self.status_now(self.logged())

    def logged(self) -> Status:
        """What the log alone says, whoever lives: "running" where no end was logged."""
        told = Told()
        for event in events.read(self.events):
            told.add(event)
        return told.status

    def status_now(self, logged: Status) -> Status:
        """The status of a run whose log is known to say that."""
        ended = logged.state in ENDS.values()
        size = self.log_bytes()
        holders, living = self._holders(), self.living()
        if living:
            # An end that was logged before this process began is an earlier one's: this one is on its way.
            return logged if ended and any(size > values.get("log_bytes", 0) for values in living) else self._running(logged)
        if self.queued.exists():
            return replace(logged, state="queued", eta_seconds=None, stage="", message="")
        silent = any(size == values.get("log_bytes") for values in holders)
        if ended and (logged.state == "finished" or not silent):
            return logged
        if not ended and not size and not holders:
            return replace(logged, state="new")
        return replace(logged, state="crashed", eta_seconds=None, stage="", message=self._crash_message())

    def living(self) -> list[dict[str, Any]]:
        """Entries (`pid`, `start`, `log_bytes`) of processes that work on this run right now."""
        return [values for values in self._holders() if _lives(values)]

    def _holders(self) -> list[dict[str, Any]]:
        return [values for file in (self.lock_file, self.process) if (values := _read_json(file))]

    def _running(self, logged: Status) -> Status:
        eta = logged.seconds_per_step and logged.total and max(0, logged.total - logged.step) * logged.seconds_per_step
        return replace(logged, state="running", eta_seconds=eta or None, message="")

    def _crash_message(self) -> str:
        tail = console_tail(self.console)
        text = f"The process ended without saying why; starting {self.path.name} again goes on from the last saved state."
        return f"{text} Its last words:\n{tail}" if tail else text

    def curve(self, limit: int = 1000) -> list[events.Step]:
        """Step events for a plot, at most `limit`: neighbours are merged, their loss averaged.

        Steps that a resumed run made once more replace the earlier ones.
        """
        assert limit > 0
        steps: list[events.Step] = []
        for event in events.read(self.events):
            if isinstance(event, events.Step):
                while steps and steps[-1].step >= event.step:
                    steps.pop()
                steps.append(event)
        size = -(-len(steps) // limit) or 1
        groups = [steps[start : start + size] for start in range(0, len(steps), size)]
        return [replace(group[-1], loss=sum(step.loss for step in group) / len(group)) for group in groups]

    def request(self, what: Request) -> None:
        """Ask the running engine for something; it looks between steps."""
        self.requests.mkdir(exist_ok=True)
        (self.requests / what).touch()

    def request_rate(self, learning_rate: float) -> None:
        """Ask a running training to go on at this learning rate. Raises UserError for what is no rate."""
        if not (math.isfinite(learning_rate) and 0 < learning_rate <= 1):
            raise UserError(f"Learning rate must be above 0 and at most 1 (got {learning_rate:g}).")
        write_atomic(self.rate_request, repr(float(learning_rate)))

    def take_request(self, what: Request) -> bool:
        """Engine side: whether that was asked for since the last look, of this run or of the one that it is within."""
        try:
            (self.requests / what).unlink()
        except FileNotFoundError:
            return self.within is not None and self.within.take_request(what)
        return True

    def take_rate(self) -> float | None:
        """Engine side: the learning rate that was asked for since the last look."""
        taken = self.rate_request.with_name(".learning_rate.taken")
        try:
            os.replace(self.rate_request, taken)  # first out of the way: a newer wish that arrives meanwhile stays
            rate = float(taken.read_text(encoding="utf-8"))
            taken.unlink()
        except FileNotFoundError:
            return None
        except ValueError:
            return None
        return rate if 0 < rate <= 1 else None

    def clear_requests(self, since_begin: bool = False) -> None:
        """Forget what was asked of an earlier process: all that is older than this process, or simply all with `since_begin`.

        A stop that was asked for while this process was still loading its libraries must not get lost.
        """
        for file in (*(self.requests / what for what in ("stop", "save", "sample")), self.rate_request):
            with contextlib.suppress(FileNotFoundError):
                if since_begin or file.stat().st_mtime < PROCESS_BEGAN:
                    file.unlink()


def runs_in(folder: Path) -> list[RunFolder]:
    """All run folders in a folder, and those directly in them (a demo's training and grid), the newest first. Hidden ones are none."""
    found: list[tuple[float, str]] = []
    for run in _subfolders(str(folder)):
        made = _made_at(run)
        if made is None:
            continue
        found.append((made, run))
        found += [(at, inner) for inner in _subfolders(run) if (at := _made_at(inner)) is not None]
    return [RunFolder(Path(path)) for _, path in sorted(found, reverse=True)]


def _subfolders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if entry.name[0] != "." and entry.name not in PARTS and entry.is_dir()]
    except OSError:
        return []


def _made_at(run: str) -> float | None:
    """When the run was asked for; None for a folder that is no run."""
    try:
        return os.stat(f"{run}/run.yaml").st_mtime
    except OSError:
        return None


def identifier(run: RunFolder, workspace: Workspace) -> str:
    """What the run is called in its workspace: "costume-001", "demo-001/training"; `workspace.resolve("runs", ...)` finds it again.

    Raises UserError for a run that lies elsewhere.
    """
    for path, folder in ((run.path, workspace.runs), (run.path.resolve(), workspace.runs.resolve())):
        if path.is_relative_to(folder) and path != folder:
            return path.relative_to(folder).as_posix()
    raise UserError(f"{run.path} is not in the workspace's runs folder {workspace.runs}: move it there to see it in the window.")


def console_tail(console: Path, lines: int = CONSOLE_TAIL_LINES) -> str:
    """The last lines of a console log; of a line that was drawn over and over (a progress bar) only its last state."""
    if not console.is_file():
        return ""
    with open(console, "rb") as file:
        file.seek(max(0, console.stat().st_size - 16_384))
        text = file.read().decode("utf-8", errors="replace")
    shown = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return "\n".join([line for line in shown if line][-lines:])


class Told:
    """What the events alone say, taken in one by one; "running" where no end was told (whether it is depends on the process)."""

    def __init__(self) -> None:
        self.status = Status("running")
        self._job, self._began, self._done_at_start = "", 0.0, 0

    def add(self, event: events.Event) -> None:
        status = self.status
        match event:
            case events.Started():
                self._job, self._began, self._done_at_start = event.job, event.at, event.done
                status = Status("running", step=event.done, total=event.total, loss=status.loss)
            case events.Stage():
                # A demo is made of stages; in every other job they are what happens between the steps.
                done = event.done if self._job == "demo" else status.step
                status = replace(status, state="running", step=done, stage=event.name, message="")
            case events.Step():
                status = replace(status, step=event.step, loss=event.loss, seconds_per_step=event.seconds_per_step, stage="")
            case events.Cell(reused=True):
                status = replace(status, step=max(status.step, event.done), total=event.total)
            case events.Captioned() | events.Cell() | events.Downloaded():
                rate = (event.at - self._began) / max(1, event.done - self._done_at_start) if self._began else None
                stage = event.file if isinstance(event, events.Downloaded) else ""
                status = replace(status, step=event.done, total=event.total, seconds_per_step=rate, stage=stage)
            case events.Finished():
                done = status.total if self._job == "demo" else status.step
                status = replace(status, state="finished", step=done, stage="", message="")
            case events.Stopped():
                status = replace(status, state="stopped", step=event.step, stage="", message="")
            case events.Failed():
                status = replace(status, state="failed", stage="", message=event.message)
        self.status = status


_DEAD: set[tuple[str, str]] = set()
"""Processes by number and start that have ended. They never come back, so the system is asked once: there are hundreds of runs."""


def _lives(holder: dict[str, Any]) -> bool:
    process = str(holder.get("pid")), str(holder.get("start"))
    if process in _DEAD:
        return False
    if is_alive(holder.get("pid"), holder.get("start")):
        return True
    _DEAD.add(process)
    return False


def _read_json(file: Path) -> dict[str, Any]:
    try:
        state = os.stat(file)
        return dict(_parsed(file, state.st_ino, state.st_mtime_ns, state.st_size)) if state.st_size else {}
    except OSError:
        return {}


@lru_cache(maxsize=8192)
def _parsed(file: Path, inode: int, modified: int, size: int) -> dict[str, Any]:
    """A small JSON file in that state: hundreds of runs are asked again and again whether they live."""
    try:
        values = json.loads(file.read_bytes())
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


@contextlib.contextmanager
def holding(file: Path, **about: Any) -> Iterator[bool]:
    """Hold a file of its own that says which process does, and what else is given; False where another one holds it.

    The system frees what a process held that dies; what the file says then stays. Raises UserError where it can't be written.
    """
    try:
        handle = open(file, "a+b")  # noqa: SIM115 - open for as long as it is held
    except OSError as error:
        raise UserError(f"{file.parent} cannot be written to ({error.strerror}): choose another output folder.") from None
    with handle:
        ours = _lock(handle)
        if ours:
            _overwrite(handle, json.dumps({**self_mark(), **about}).encode())
        try:
            yield ours
        finally:
            if ours:
                _overwrite(handle, b"")


def held(file: Path) -> bool:
    """Whether a living process holds that file."""
    return _lives(_read_json(file))


def _overwrite(handle: BinaryIO, content: bytes) -> None:
    handle.seek(0)
    handle.truncate()
    handle.write(content)
    handle.flush()


def _lock(handle: BinaryIO) -> bool:
    """Take the system's lock on an open file; False if another holds it. It goes when the file is closed or the process dies."""
    try:
        if os.name == "nt":
            import msvcrt

            handle.seek(2**30)  # far behind the content, which others must stay able to read
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
