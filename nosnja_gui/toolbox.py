"""Runs a word of the command line (lora convert ...) in a process of its own, followed and ended by the one that started it.

For what takes seconds or minutes and leaves one file: it has no run folder and does not outlive its window. Knows neither torch nor
gradio.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nosnja_gui import progress
from nosnja_gui.launcher import PROGRAM
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace

MOST_AT_ONCE = 2
KEPT_SECONDS = 600.0
"""How long it is known what came of a tool, so that a page that is loaded anew can say it."""
MOST_READ = 64 * 2**10
"""Bytes at the end of what a tool printed."""
COMPLAINT = re.compile(r"(?:.*: )?error: (.+)")
"""As this program's command line says it, and as argparse does."""


@dataclass(frozen=True)
class State:
    """How a tool stands."""

    name: Literal["running", "done", "failed", "cancelled"]
    stage: str = ""
    """What it does now; empty while it begins."""
    share: float | None = None
    """How much of that is done, 0 to 1; None where nobody knows."""
    lines: tuple[str, ...] = ()
    """What it said in the end."""
    problem: str = ""
    """Why it failed, in a sentence."""


class Task:
    """A tool at work, or what came of it. Made by `start`."""

    def __init__(self, words: Sequence[str], process: subprocess.Popen[bytes], printed: Path, output: Path | None) -> None:
        self.words, self.output = tuple(words), output
        """`output`: the file or folder that it writes."""
        self.identifier = secrets.token_hex(6)
        self.began_at = time.time()
        self._process, self._printed = process, printed
        self._there_before = output is not None and output.exists()
        self._lock = threading.Lock()
        self._end: State | None = None
        self._ended = 0.0

    @property
    def pid(self) -> int:
        return self._process.pid

    def state(self) -> State:
        """How it stands; once it has ended always the same. Cheap enough for every tick."""
        with self._lock:
            if self._end is None:
                code = self._process.poll()
                if code is None:
                    stage = progress.read(self._text("stderr"))
                    return State("running", stage.name, stage.share) if stage else State("running")
                self._close(self._outcome(code))
            assert self._end is not None
            return self._end

    def seconds_since_end(self) -> float | None:
        """None while it runs."""
        return None if self.state().name == "running" else time.monotonic() - self._ended

    def cancel(self) -> None:
        """End it and its children, and take away what it left half done. Nothing happens where it has ended already."""
        with self._lock:
            if self._end is None and self._process.poll() is None:
                end_tree(self._process)
                self._close(State("cancelled"))
                self._tidy()

    def wait(self, seconds: float) -> State:
        """How it stands when it has ended, or after so many seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self.state()

    def _outcome(self, code: int) -> State:
        if code == 0:
            return State("done", lines=tuple(line.rstrip() for line in self._text("stdout").splitlines() if line.strip()))
        said = self._text("stderr").splitlines()
        complaints = [found[1] for line in said if (found := COMPLAINT.fullmatch(line))]
        if not complaints and code < 0:
            return State("failed", problem=f"The tool was ended by the system (signal {-code}): is there enough memory for it?")
        return State("failed", problem=" ".join(complaints) or f"The tool ended with code {code} and said nothing.")

    def _text(self, name: str) -> str:
        try:
            with open(self._printed / name, "rb") as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - MOST_READ))
                return stream.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def _close(self, end: State) -> None:
        self._end, self._ended = end, time.monotonic()
        shutil.rmtree(self._printed, ignore_errors=True)

    def _tidy(self) -> None:
        """A process that is killed cannot take away its own temporary files (`files.replacing`), nor a file that it had yet to check."""
        if self.output is None:
            return
        name = re.escape(self.output.name)
        half = re.compile(rf"\.({re.escape(self.output.name[:40])}\.[0-9a-f]{{12}}|{name})\.part")
        with contextlib.suppress(OSError):
            found = [path for path in self.output.parent.iterdir() if half.fullmatch(path.name)]
            for path in found if self._there_before else [*found, self.output]:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def start(words: Sequence[str], workspace: Workspace, environment: Mapping[str, str] | None = None, output: Path | None = None) -> Task:
    """Begin `python -m nosnja_gui WORDS`. `environment` is added to the process's own and written nowhere: a token, say.

    `output` is what the words have it write; it is taken away again where the tool is cancelled, unless it was there before.
    """
    printed = Path(tempfile.mkdtemp(prefix="nosnja-tool-"))
    told = {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", progress.COUNTED: "1", "NOSNJA_WORKSPACE": str(workspace.root.absolute())}
    try:
        with open(printed / "stdout", "wb") as stdout, open(printed / "stderr", "wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "nosnja_gui", *words],
                cwd=PROGRAM,
                env={**os.environ, **told, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=os.name != "nt",
                creationflags=subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW if os.name == "nt" else 0,
            )
    except OSError as error:
        shutil.rmtree(printed, ignore_errors=True)
        raise UserError(f"The tool cannot be started ({error.strerror}): is this machine out of memory or disk?") from None
    return Task(words, process, printed, output)


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that we started, with its children, and wait until they are gone."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(process.pid)
        for member in [*first.children(recursive=True), first]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()


class Toolbox:
    """The tools of one window: a few at once; what came of them is known for a while."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._tasks: dict[str, Task] = {}
        self._lock = threading.Lock()
        atexit.register(self.close)

    def start(self, words: Sequence[str], environment: Mapping[str, str] | None = None, output: Path | None = None) -> Task:
        """As the function `start`. Raises UserError where enough of them run, or one that writes the same file."""
        with self._lock:
            running = [task for task in self._tasks.values() if task.state().name == "running"]
            if output is not None and any(task.output == output for task in running):
                raise UserError(f"{output} is being written right now: wait until that is done, or cancel it.")
            if len(running) >= MOST_AT_ONCE:
                raise UserError(f"{len(running)} tools are at work already: wait until one is done, or cancel it.")
            task = start(words, self.workspace, environment, output)
            self._tasks[task.identifier] = task
            return task

    def tasks(self) -> list[Task]:
        """Those that run, and those that ended a while ago at most; in the order of their beginnings."""
        with self._lock:
            for name, task in list(self._tasks.items()):
                since = task.seconds_since_end()
                if since is not None and since > KEPT_SECONDS:
                    del self._tasks[name]
            return list(self._tasks.values())

    def task(self, identifier: str) -> Task:
        """Raises UserError if there is none of that name (any more)."""
        with self._lock:
            if identifier not in self._tasks:
                raise UserError(f"There is no tool at work called '{identifier[:40]}' (any more).")
            return self._tasks[identifier]

    def forget(self, identifier: str) -> None:
        """Know nothing more of one that has ended. Raises UserError for one that runs, or is not there."""
        if self.task(identifier).state().name == "running":
            raise UserError("It is at work still: cancel it first.")
        with self._lock:
            self._tasks.pop(identifier, None)

    def close(self) -> None:
        """End all that run: they don't outlive their window."""
        for task in list(self._tasks.values()):
            task.cancel()
