"""The words of the command line that are families of their own, and what all words have in common: help, workspace, runs at work."""

import argparse
import contextlib
import errno
import os
import shlex
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nosnja_gui import events
from nosnja_gui.jobs import Job, workspace_path
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace

PROGRAM = "python -m nosnja_gui"
STOPPED = 130
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def verb(verbs: Any, name: str, work: Callable, about: str, *examples: str, more: str = "") -> argparse.ArgumentParser:
    shown = "\n".join(f"  {PROGRAM} {example}" for example in examples)
    added = verbs.add_parser(
        name,
        help=about,
        description=textwrap.fill(f"{about[0].upper()}{about[1:]}. {more}", 100),
        epilog=f"{'examples' if len(examples) > 1 else 'example'}:\n{shown}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    added.set_defaults(verb=work)
    added.add_argument("--workspace", metavar="FOLDER", help="where datasets, models and runs are (else $NOSNJA_WORKSPACE or ./workspace)")
    return added


def group(verbs: Any, name: str, about: str) -> Any:
    """A verb of several words: `model download`. Its words are added to what is returned, with `verb` as others are."""
    added = verbs.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False)
    return added.add_subparsers(metavar="WHAT", required=True)


def workspace_of(arguments: argparse.Namespace) -> Workspace:
    if arguments.workspace:
        os.environ["NOSNJA_WORKSPACE"] = str(Path(arguments.workspace).expanduser().absolute())
    return Workspace.default()


def settled(text: str, folder: Path, beside: Path | None = None) -> str:
    """A path from the command line as it is kept in a run: absolute if it exists here (or `beside` a file), else as given (a name)."""
    if not text:
        return text
    here = [Path(text).expanduser(), *([beside / text] if beside else [])]
    found = next((path for path in here if path.exists()), None)
    return str(found.absolute()) if found else str(workspace_path(text, folder).absolute()) if (folder / text).exists() else text


def run_path(text: str, workspace: Workspace) -> Path:
    return workspace_path(text, workspace.runs).absolute()


def job_of(run: RunFolder, kind: type[Job], instead: str) -> Any:
    """The run's job. Raises UserError if it is of another kind."""
    job = run.job()
    if not isinstance(job, kind):
        raise UserError(f"{run.path} is the folder of a {job.job} job: give another one, or write `{PROGRAM} {instead}`.")
    return job


def output_of(output: str, name: str, workspace: Workspace) -> Path:
    """The folder asked for, or a new one. Several processes must be given one: each would find another new name."""
    if output:
        return Path(output).expanduser().absolute()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("Training with several processes needs a folder that all of them know: add --output FOLDER.")
    return workspace.create().new_run(name)


def is_full_disk(error: Exception) -> bool:
    return (isinstance(error, OSError) and error.errno in FULL_DISK) or "No space left on device" in str(error)


def is_first_process() -> bool:
    """Of those that accelerate or torchrun started together, the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


@contextlib.contextmanager
def working(run: RunFolder | None) -> Iterator[None]:
    """Around a job: the run is locked, Ctrl-C asks it to stop, and an error that nobody logged is logged."""
    if run is None or not is_first_process():
        yield
        return
    with run.lock():
        run.clear_requests()
        begun = run.log_bytes()
        try:
            with stop_on_signal(run):
                yield
        except (Exception, KeyboardInterrupt) as error:
            # The engine logs what happens in it; this is for what happens before, such as a broken library.
            mendable = isinstance(error, UserError | KeyboardInterrupt) or is_full_disk(error)
            if run.log_bytes() == begun or run.logged().state == "running":
                message = "Broken off by Ctrl-C." if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
                with contextlib.suppress(OSError):
                    run.log().append(events.Failed(message=message, detail="" if mendable else traceback.format_exc()))
            raise


@contextlib.contextmanager
def stop_on_signal(run: RunFolder) -> Iterator[None]:
    """The first Ctrl-C (or a polite kill) asks the engine to save and stop, the second one breaks off."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run.request("stop")
        print("\nStopping after this step; press Ctrl-C again to break off at once.", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def report(run: RunFolder, verb: str) -> int:
    """Say how a run ended and where its files are."""
    status = run.logged()
    again = f"{PROGRAM} {verb} {shlex.quote(str(run.path))}"
    if status.state == "stopped":
        print(f"Stopped at {status.step} of {status.total}; go on with: {again}")
        return STOPPED
    if is_first_process():
        ends = [event for event in events.read(run.events) if isinstance(event, events.Finished)]
        for file in ends[-1].files[:1] if ends else []:
            print(f"Finished: {run.path / file}")
        for back in [event for event in events.read(run.events) if isinstance(event, events.ReadBack)][-1:]:
            theirs = "" if back.diffusers is None else f", by diffusers' reader {back.diffusers:.1e}"
            print(f"Read back: {back.ours:.1e} of its effect away from what was trained{theirs}")
        if run.samples.is_dir() and any(run.samples.iterdir()):
            print(f"Previews: {run.samples}")
    return 0
