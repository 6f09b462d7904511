"""Runs that wait for their turn: one after another, also after the window was closed. Knows neither torch nor gradio.

A waiting run has a file queued.json in its folder; that is all there is to the queue. A process of its own, one per
workspace, starts the next run when none lives and ends when nothing waits. A run that fails or is stopped ends its turn.
"""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from nosnja_gui import launcher
from nosnja_gui.events import Failed
from nosnja_gui.files import write_atomic
from nosnja_gui.runs import RunFolder, held, holding, runs_in
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace

LOOK_EVERY_SECONDS = 1.0
LONGEST_START_SECONDS = 30.0
"""Starting a process takes milliseconds; this long one waits for another window that is starting a run."""


def start_or_enqueue(run: RunFolder, workspace: Workspace) -> Literal["started", "queued"]:
    """Start the run if nothing works in this workspace and nothing waits before it, else let it wait.

    A process that has just logged this run's end is waited for. Raises UserError where the run goes on already.
    """
    launcher.left_alone(run)
    with _starting(workspace):
        if busy(workspace) is None and _same(run, next(iter(waiting(workspace)), run)):
            launcher.start(run, workspace)
            return "started"
        enqueue(run, workspace)
        return "queued"


def enqueue(run: RunFolder, workspace: Workspace) -> None:
    """Let the run wait behind those that do; one that waits keeps its place. Raises UserError where it runs already."""
    if living := run.living():
        raise UserError(f"{run.path} is in use by process {living[0]['pid']}: it cannot wait as well.")
    run.job()
    if not run.queued.exists():
        places = [_order(other)[0] for other in waiting(workspace)]
        _write(run, max((place for place in places if math.isfinite(place)), default=0.0) + 1)
    wake(workspace)


def waiting(workspace: Workspace) -> list[RunFolder]:
    """The runs that wait, the next one first."""
    return sorted((run for run in runs_in(workspace.runs) if run.queued.exists()), key=_order)


def remove(run: RunFolder, workspace: Workspace) -> bool:
    """Take the run out of the queue; False if it did not wait (any more)."""
    with _starting(workspace):
        try:
            run.queued.unlink()
        except FileNotFoundError:
            return False
        return True


def move(run: RunFolder, workspace: Workspace, before: RunFolder | None) -> None:
    """Let a waiting run wait right before another one, or last with None. Nothing happens if either does not wait any more."""
    with _starting(workspace):
        queue = waiting(workspace)
        others = [other for other in queue if not _same(other, run)]
        place = len(others) if before is None else next((n for n, other in enumerate(others) if _same(other, before)), None)
        if len(others) == len(queue) or place is None:
            return
        for number, waits in enumerate([*others[:place], run, *others[place:]], start=1):
            _write(waits, float(number))


def busy(workspace: Workspace) -> RunFolder | None:
    """A run of the workspace that a process works on now; of a demo and its training the demo. Cheap: no log is read."""
    return next(iter(sorted((run for run in runs_in(workspace.runs) if run.living()), key=lambda run: len(run.path.parts))), None)


def wake(workspace: Workspace) -> None:
    """Start the process that works the queue off, if something waits and it does not run: after a reboot, say."""
    if waiting(workspace) and not held(_lock_file(workspace)):
        workspace.create()
        launcher.detach([sys.executable, "-m", "nosnja_gui", "queue"], workspace, workspace.cache / "queue.log")


def work_off(workspace: Workspace, say: Callable[[str], None] = print, look_every: float = LOOK_EVERY_SECONDS) -> int:
    """Start what waits, one after another, until nothing does; returns the number of runs started. One process per workspace."""
    workspace.create()
    started = 0
    refused: set[Path] = set()
    while _open(workspace, refused):
        with holding(_lock_file(workspace)) as ours:
            if not ours:
                say("Another process works this queue off.")
                return started
            while queue := _open(workspace, refused):
                with _starting(workspace):
                    if busy(workspace) is None:
                        started += _start(queue[0], workspace, refused, say)
                time.sleep(look_every)
        # The lock is free now: what was queued before that is looked for once more, what comes later starts a process of its own.
    return started


def _start(run: RunFolder, workspace: Workspace, refused: set[Path], say: Callable[[str], None]) -> bool:
    """Start one run. What cannot be started is said in its log, and the queue goes on without it."""
    if not run.queued.exists():  # taken out, or deleted, while we waited for the right to start
        return False
    try:
        launcher.start(run, workspace)
        say(f"Started {run.path}")
        return True
    except (UserError, OSError) as error:
        say(f"{run.path} cannot be started: {error}")
        refused.add(run.path)
        with contextlib.suppress(OSError):
            run.queued.unlink(missing_ok=True)
            run.log().append(Failed(message=str(error)))
        return False


def _open(workspace: Workspace, refused: set[Path]) -> list[RunFolder]:
    """Those that wait, without those that could neither be started nor taken out (a folder that can't be written to)."""
    return [run for run in waiting(workspace) if run.path not in refused]


def _same(run: RunFolder, other: RunFolder) -> bool:
    """The same folder, by whatever links it is reached."""
    return run.path == other.path or run.path.resolve() == other.path.resolve()


@contextlib.contextmanager
def _starting(workspace: Workspace) -> Iterator[None]:
    """Held while somebody decides what is started: two windows must not both find the workspace idle."""
    workspace.create()
    until = time.monotonic() + LONGEST_START_SECONDS
    while True:
        with holding(workspace.cache / "start.lock") as ours:
            if ours:
                yield
                return
        if time.monotonic() > until:
            raise UserError("Another window is starting a run and does not come to an end: close it and try again.")
        time.sleep(0.02)


def _lock_file(workspace: Workspace) -> Path:
    return workspace.cache / "queue.lock"


def _write(run: RunFolder, order: float) -> None:
    write_atomic(run.queued, json.dumps({"at": time.time(), "order": order}))


def _order(run: RunFolder) -> tuple[float, float]:
    """Place in the queue, then the file's time; a damaged file waits at the end."""
    try:
        at = run.queued.stat().st_mtime
        return float(json.loads(run.queued.read_bytes())["order"]), at
    except (ValueError, KeyError, TypeError):
        return math.inf, at
    except OSError:
        return math.inf, 0.0
