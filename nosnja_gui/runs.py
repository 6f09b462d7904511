"""The folder of one run: what was asked for, what happened, whether it goes on. Status is derived, never stored.

One writer per file: run.yaml by whoever asks for the job (once), process.json by the launcher, events.jsonl and the
results by the engine, requests/ by the window.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from nosnja_gui import events
from nosnja_gui.events import EventLog
from nosnja_gui.files import write_atomic
from nosnja_gui.jobs import CaptionJob, GridJob, Job, TrainJob
from nosnja_gui.processes import is_alive, self_mark
from nosnja_gui.settings import UserError, read_yaml

Request = Literal["stop", "save", "sample"]
State = Literal["new", "running", "finished", "stopped", "failed", "crashed"]
JOBS: dict[str, type[Job]] = {"train": TrainJob, "caption": CaptionJob, "grid": GridJob}
ENDS: dict[type[events.Event], State] = {events.Finished: "finished", events.Stopped: "stopped", events.Failed: "failed"}
CONSOLE_TAIL_LINES = 12
PROCESS_BEGAN = time.time() - 1.0
"""Nearly: this module is among the first to be loaded, and file times are a little coarse."""


@dataclass(frozen=True)
class Status:
    state: State
    step: int = 0
    """Steps, pictures or cells done."""
    total: int = 0
    loss: float | None = None
    eta_seconds: float | None = None
    seconds_per_step: float | None = None
    stage: str = ""
    """What is being done between steps, such as loading the model; empty while steps are made."""
    message: str = ""
    """Why it failed or crashed."""


class RunFolder:
    """Paths and state of a run. Making one touches nothing on the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_yaml = path / "run.yaml"
        self.events = path / "events.jsonl"
        self.console = path / "console.log"
        self.process = path / "process.json"
        self.requests = path / "requests"
        self.samples = path / "samples"
        self.weights = path / "weights"
        self.checkpoints = path / "checkpoints"
        self.lock_file = path / ".lock"
        self._locks = 0

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @classmethod
    def create(cls, path: Path, job: Job) -> "RunFolder":
        """Make the folder and write run.yaml. A folder that holds the same job already is taken as it is, to go on,
        and a grid's folder takes a changed grid.

        Raises UserError for a folder with another run or anything else in it.
        """
        run = cls(path)
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
        """Hold the run: one process per folder. The system frees the lock of a process that dies.

        May be nested on the same object. Raises UserError where another process, or another object, holds it.
        """
        if not self._locks:
            try:
                handle = open(self.lock_file, "a+b")  # noqa: SIM115 - open for as long as the run is held
            except OSError as error:
                raise UserError(f"{self.path} cannot be written to ({error.strerror}): choose another output folder.") from None
            if not _lock(handle):
                handle.close()
                holder = _read_json(self.lock_file).get("pid", "unknown")
                raise UserError(f"{self.path} is in use by process {holder}: wait until it ends, or choose another output folder.")
            _overwrite(handle, json.dumps({**self_mark(), "log_bytes": self.log_bytes()}).encode())
        self._locks += 1
        try:
            yield
        finally:
            self._locks -= 1
            if not self._locks:
                _overwrite(handle, b"")
                handle.close()

    def log(self) -> EventLog:
        return EventLog(self.events)

    def log_bytes(self) -> int:
        """Size of the log, remembered at a start to tell events of this start from older ones."""
        return self.events.stat().st_size if self.events.exists() else 0

    def status(self) -> Status:
        """What the log says, and whether a process lives. A dead one that logged no end has crashed."""
        return self._status_now(self.logged())

    def logged(self) -> Status:
        """What the log alone says, whoever lives: "running" where no end was logged."""
        return _progress(events.read(self.events))

    def _status_now(self, logged: Status) -> Status:
        ended = logged.state in ENDS.values()
        size = self.log_bytes()
        holders, living = self._holders(), self.living()
        if living:
            # An end that was logged before this process began is an earlier one's: this one is on its way.
            return logged if ended and any(size > values.get("log_bytes", 0) for values in living) else self._running(logged)
        silent = any(size == values.get("log_bytes") for values in holders)
        if ended and (logged.state == "finished" or not silent):
            return logged
        if not ended and not size and not holders:
            return replace(logged, state="new")
        return replace(logged, state="crashed", eta_seconds=None, stage="", message=self._crash_message())

    def living(self) -> list[dict[str, Any]]:
        """Entries (`pid`, `start`, `log_bytes`) of processes that work on this run right now."""
        return [values for values in self._holders() if is_alive(values.get("pid"), values.get("start"))]

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

    def take_request(self, what: Request) -> bool:
        """Engine side: whether that was asked for since the last look."""
        try:
            (self.requests / what).unlink()
        except FileNotFoundError:
            return False
        return True

    def clear_requests(self, since_begin: bool = False) -> None:
        """Forget what was asked of an earlier process: all that is older than this process, or simply all with `since_begin`.

        A stop that was asked for while this process was still loading its libraries must not get lost.
        """
        for what in ("stop", "save", "sample"):
            with contextlib.suppress(FileNotFoundError):
                if since_begin or (self.requests / what).stat().st_mtime < PROCESS_BEGAN:
                    (self.requests / what).unlink()


def runs_in(folder: Path) -> list[RunFolder]:
    """All run folders directly in a folder, the newest first."""
    files = folder.glob("*/run.yaml") if folder.is_dir() else ()
    return [RunFolder(file.parent) for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)]


def console_tail(console: Path, lines: int = CONSOLE_TAIL_LINES) -> str:
    """The last lines of a console log; of a line that was drawn over and over (a progress bar) only its last state."""
    if not console.is_file():
        return ""
    with open(console, "rb") as file:
        file.seek(max(0, console.stat().st_size - 16_384))
        text = file.read().decode("utf-8", errors="replace")
    shown = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return "\n".join([line for line in shown if line][-lines:])


def _progress(log: Iterator[events.Event]) -> Status:
    """What the events alone say; "running" where no end was logged (whether that is so depends on the process)."""
    status = Status("running")
    began, done_at_start = 0.0, 0
    for event in log:
        match event:
            case events.Started():
                began, done_at_start = event.at, event.done
                status = Status("running", step=event.done, total=event.total, loss=status.loss)
            case events.Stage():
                status = replace(status, state="running", stage=event.name, message="")
            case events.Step():
                status = replace(status, step=event.step, loss=event.loss, seconds_per_step=event.seconds_per_step, stage="")
            case events.Cell(reused=True):
                status = replace(status, step=max(status.step, event.done), total=event.total)
            case events.Captioned() | events.Cell():
                rate = (event.at - began) / max(1, event.done - done_at_start) if began else None
                status = replace(status, step=event.done, total=event.total, seconds_per_step=rate, stage="")
            case events.Finished():
                status = replace(status, state="finished", stage="", message="")
            case events.Stopped():
                status = replace(status, state="stopped", step=event.step, stage="", message="")
            case events.Failed():
                status = replace(status, state="failed", stage="", message=event.message)
    return status


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


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
