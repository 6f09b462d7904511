"""How a training speaks: events for the log, bars for the terminal, one sentence for what went wrong, an ear for Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import signal
import threading
import time
from collections.abc import Callable, Iterator

import torch

from nosnja_gui import events
from nosnja_gui.jobs import TrainJob
from nosnja_gui.progress import Progress
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError

SECONDS_BETWEEN = 1.0
"""Between two reports on one stage in the log."""


class Voice:
    """Says what happens: to the log, and on the terminal. Mute in all processes but one."""

    def __init__(self, log: events.EventLog | None, progress: Progress | None) -> None:
        self.log, self.progress = log, progress
        self._stage, self._done, self._total, self._said = "", 0, 0, 0.0

    def say(self, event: events.Event, note: str = "") -> None:
        if self.log:
            self.log.append(event)
        if self.progress and note:
            self.progress.advance(0, note)

    def warn(self, message: str) -> None:
        self.say(events.Warned(message=message))

    def stage(self, name: str, total: int = 0, done: int = 0) -> None:
        self._stage, self._done, self._total, self._said = name, done, total, time.monotonic()
        self.say(events.Stage(name=name, total=total, done=done))
        if self.progress:
            self.progress.stage(name, total, done)

    def advance(self, count: int = 1) -> None:
        """One more of the stage's things; the log hears of it about once a second, except for steps, which have their own event."""
        self._done += count
        if self.progress:
            self.progress.advance(count)
        if self._stage != "Training" and time.monotonic() - self._said > SECONDS_BETWEEN:
            self._said = time.monotonic()
            self.say(events.Stage(name=self._stage, done=self._done, total=self._total))


@contextlib.contextmanager
def interrupts(ask: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C asks for a stop, which saves everything; the second one breaks off."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        ask()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def in_words(error: BaseException, job: TrainJob, run: RunFolder) -> UserError | None:
    """The one sentence for what the user can mend, or None for what is our own mistake."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UserError(f"The disk of {run.path} is full: make room and start the run again, it goes on from its last saved state.")
    if is_out_of_memory(error):
        larger = [] if job.training.batch_size == 1 else [f"lower training.batch_size (it is {job.training.batch_size})"]
        larger += [] if job.training.gradient_checkpointing else ["turn on training.gradient_checkpointing"]
        cures = ", or ".join([*larger, "lower dataset.resolution"])
        return UserError(f"The memory is not enough for this training: {cures}, in a new run.")
    return None


def is_out_of_memory(error: BaseException) -> bool:
    words = str(error).lower()
    said = "out of memory" in words or "can't allocate memory" in words or "not enough memory" in words
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and said)
