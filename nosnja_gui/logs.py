"""What the logs of many runs say, read piece by piece: only what was appended since the last look is read again.

Made for a window that looks every second, at logs of any length. The log stays the one truth: what is kept here is a fold over
its lines, begun anew where the file was cut or replaced. Knows nothing of who shows it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import threading
import time
from array import array
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from nosnja_gui import events
from nosnja_gui.runs import RunFolder, Status, Told

try:
    from orjson import loads as _fast_loads
except ImportError:  # the window's own library brings it along; without it reading takes three times as long
    _fast_loads = json.loads

CURVE_POINTS = 1000
RECENT_STEPS = 30
"""Reports over which the speed is averaged."""
KEPT_WARNINGS, KEPT_CAPTIONS, KEPT_CELLS = 100, 20, 20
WHOLE_LOGS, BRIEF_LOGS = 6, 2000
"""How many runs are kept in memory with every step (about 40 bytes each), and how many with their status only."""
READ_BYTES = 4 * 2**20
COMPARED_BYTES = 512
"""How much of the beginning, and of what was read last, is compared to notice a file that was replaced by a longer one: each
holds a whole line, and so the time at which it was written."""
STEP_LINE = b'{"kind": "step"'
"""How the log's writer begins most lines. A status needs only the last one of them."""
GOING_ON = {"new", "running"}
NEW = Status("new")


@dataclass(frozen=True)
class Curve:
    """The loss by step. A point stands for `group` reports in a row: their mean, their least and largest value."""

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)
    rates: dict[str, list[float | None]] = field(default_factory=dict)
    """Learning rates by what they belong to, as long as `steps`."""
    group: int = 1


@dataclass(frozen=True)
class RunLog:
    """What a run's log says now. `version` changes with the log, `status` also with the process."""

    version: str = ""
    status: Status = NEW
    job: str = ""
    """Kind of job as the log says it; "" before it began."""
    device: str = ""
    epoch: int = 0
    epochs: int | None = None
    stage_done: int = 0
    stage_total: int = 0
    began: float | None = None
    """When the first and the last line were written, in seconds since 1970."""
    last: float | None = None
    last_start: float | None = None
    """When it was begun or gone on with the last time."""
    elapsed_seconds: float | None = None
    """Time that was worked on the run, over all its starts."""
    curve: Curve = Curve()
    validation: list[tuple[int, float]] = field(default_factory=list)
    samples: dict[int, list[str]] = field(default_factory=dict)
    """Step -> files relative to the run's folder, in the order of the prompts."""
    sampled_at: dict[int, float] = field(default_factory=dict)
    """Step -> when its samples were painted: a resumed run may paint them once more."""
    saves: list[tuple[int, int, str]] = field(default_factory=list)
    """Step, epoch, file or folder relative to the run's folder."""
    warnings: list[str] = field(default_factory=list)
    rate_changes: list[tuple[int, float]] = field(default_factory=list)
    """Learning rates that the user set while it ran, and from which step on."""
    resumes: list[int] = field(default_factory=list)
    """Steps from which it went on."""
    captions: list[tuple[str, str]] = field(default_factory=list)
    """The newest ones, picture and caption, the newest first."""
    cells: list[tuple[str, str]] = field(default_factory=list)
    """A grid's newest cells, file and error ("" for none), the newest first."""
    files: list[str] = field(default_factory=list)
    """The results of a finished run."""
    detail: str = ""
    """Of a failure, for a bug report."""


class Logs:
    """Reads the logs of runs and keeps what they said. One for all who look; may be used by several threads."""

    def __init__(self, whole: int = WHOLE_LOGS, brief: int = BRIEF_LOGS) -> None:
        self._lock = threading.Lock()
        # By the path as text: there are hundreds of runs, looked at every second, and paths are slow to make and to compare.
        self._whole: OrderedDict[str, _Entry] = OrderedDict()
        self._brief: OrderedDict[str, _Entry] = OrderedDict()
        self._limits = {True: whole, False: brief}

    def of(self, run: RunFolder) -> RunLog:
        """All that the log says, the curve thinned. Not to be changed by who gets it."""
        return self._entry(run, True).log(run)

    def status(self, run: RunFolder) -> Status:
        """As `RunFolder.status`, without reading a log that did not change: cheap for many runs."""
        return self.brief(run).status

    def brief(self, run: RunFolder) -> RunLog:
        """As `of`, without what belongs to single steps: no curve, samples, saves. Cheap for many runs."""
        with self._lock:
            whole = self._whole.get(str(run.path))
        return (whole or self._entry(run, False)).brief(run)

    def _entry(self, run: RunFolder, whole: bool) -> _Entry:
        path = str(run.path)
        with self._lock:
            kept = self._whole if whole else self._brief
            entry = kept.get(path)
            if entry is None:
                entry = kept[path] = _Entry(run, whole)
                if whole:
                    self._brief.pop(path, None)
            kept.move_to_end(path)
            while len(kept) > self._limits[whole]:
                kept.popitem(last=False)
            return entry


# ---------------------------------------------------------------- reading


class _Entry:
    """One run's log as far as it was read."""

    def __init__(self, run: RunFolder, whole: bool) -> None:
        self.whole = whole
        self._log = str(run.events)
        self._told_by = (self._log, str(run.lock_file), str(run.process), str(run.queued))
        self._lock = threading.RLock()
        self._generation = 0
        self._forget()

    def _forget(self) -> None:
        self.fold = Fold(self.whole)
        self.position = 0
        self._ends = (b"", b"")
        self._state: tuple[int, ...] = ()
        self._built: RunLog | None = None
        self._files: tuple[Any, ...] = ()
        self._known: RunLog | None = None
        self._generation += 1

    def log(self, run: RunFolder) -> RunLog:
        with self._lock:
            self._read()
            version = f"{self._generation}-{self.position}"
            if self._built is None or self._built.version != version:
                self._built = replace(self.fold.log(), version=version)
            return self.fold.with_status(self._built, run)

    def brief(self, run: RunFolder) -> RunLog:
        with self._lock:
            files = _state_of(*self._told_by)
            # One that runs may die without a trace in its files.
            if self._known is None or files != self._files or self._known.status.state in GOING_ON:
                self._read()
                version = f"{self._generation}-{self.position}"
                self._known = self.fold.with_status(RunLog(version=version, **self.fold.facts()), run)
                self._files = files
            return self._known

    def _read(self) -> None:
        """Fold what was appended; all of it anew where the file is another one."""
        state = _state_of(self._log)
        if state == self._state:
            return
        try:
            file = open(self._log, "rb")  # noqa: SIM115 - closed below; a missing file is an empty log
        except OSError:
            if self.position:
                self._forget()
            self._state = state
            return
        with file:
            if self.position and (state[:1] != self._state[:1] or _ends(file, self.position) != self._ends):
                self._forget()
            file.seek(self.position)
            for lines, size in _whole_lines(file):
                self.fold.take(lines)
                self.position += size
            self._state = state
            self._ends = _ends(file, self.position)


def _ends(file: Any, position: int) -> tuple[bytes, bytes]:
    """The first bytes, and the last ones before a position."""
    size = min(position, COMPARED_BYTES)
    file.seek(0)
    head = file.read(size)
    file.seek(position - size)
    return head, file.read(size)


def _state_of(*paths: str) -> tuple[int, ...]:
    """Changes when one of the files does; begins with the first one's number on its disk."""
    found: list[int] = []
    for path in paths:
        try:
            state = os.stat(path)
        except OSError:
            found += (0, -1, 0)
        else:
            found += (state.st_ino, state.st_size, state.st_mtime_ns)
    return tuple(found)


def _whole_lines(file: Any) -> Iterator[tuple[list[bytes], int]]:
    """Lines and how many bytes they take. A half-written last line waits, unless it is whole but for its end."""
    rest = b""
    while block := file.read(READ_BYTES):
        *lines, rest = (rest + block).split(b"\n")
        if lines:
            yield lines, sum(map(len, lines)) + len(lines)
    if rest and _parse(rest) is not None:  # the beginning of a JSON object is never one itself
        yield [rest], len(rest)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        values = _fast_loads(line)
    except ValueError:
        try:
            values = json.loads(line)  # takes NaN, which the strict reader does not
        except ValueError:
            return None
    return values if isinstance(values, dict) else None


# ---------------------------------------------------------------- folding


class Fold:
    """Takes lines in order and knows what they come to. The same however the lines were dealt out."""

    def __init__(self, whole: bool = True) -> None:
        self.whole = whole
        self.told = Told()
        self._step_to_tell: dict[str, Any] | None = None
        """The newest step. A later one says all that it says, so only the last one before something else is told on."""
        self.job = self.device = ""
        self.epochs: int | None = None
        self.epoch = 0
        self.stage_done = self.stage_total = 0
        self.began: float | None = None
        self.last: float | None = None
        self.seconds_before = 0.0
        self.session: tuple[float, float] | None = None
        """When the newest start began to work, and its last sign of work."""
        self.detail = ""
        self.files: list[str] = []
        self.recent: deque[tuple[int, float]] = deque(maxlen=RECENT_STEPS)
        self.warnings: OrderedDict[str, None] = OrderedDict()
        self.rate_changes: list[tuple[int, float]] = []
        self.resumes: list[int] = []
        self.captions: deque[tuple[str, str]] = deque(maxlen=KEPT_CAPTIONS)
        self.cells: deque[tuple[str, str]] = deque(maxlen=KEPT_CELLS)
        # Kept for a whole log only.
        self.steps = array("q")
        self.losses = array("d")
        self.rates: dict[str, array[float]] = {}
        self.validation: dict[int, float] = {}
        self.samples: dict[int, list[str]] = {}
        self.sampled_at: dict[int, float] = {}
        self.saves: list[tuple[int, int, str]] = []

    def take(self, lines: list[bytes]) -> None:
        skipped: list[bytes] = []
        for line in lines:
            if not self.whole and self.began is not None and line.startswith(STEP_LINE):
                skipped.append(line)
                if len(skipped) > 2 * RECENT_STEPS:
                    del skipped[:-RECENT_STEPS]
                continue
            for waiting in skipped[-RECENT_STEPS:]:
                self._line(waiting)
            skipped.clear()
            self._line(line)
        for waiting in skipped[-RECENT_STEPS:]:
            self._line(waiting)

    def _line(self, line: bytes) -> None:
        values = _parse(line)
        if values is None:
            return
        # A line of another program's, or a damaged one, is passed over.
        with contextlib.suppress(TypeError, ValueError, KeyError, AttributeError, OverflowError):
            if values.get("kind") == "step":
                self._step(values)
            elif event := events.from_values(dict(values)):
                self._tell_step()
                self.told.add(event)
                self._seen(event.at)
                self._event(event)

    def _seen(self, at: float) -> None:
        if self.began is None:
            self.began = at
        self.last = at

    def _tell_step(self) -> None:
        if self._step_to_tell:
            event = events.from_values(dict(self._step_to_tell))
            if event is not None:
                self.told.add(event)
            self._step_to_tell = None

    def _step(self, values: dict[str, Any]) -> None:
        """Most lines are steps: taken without the detour over an event."""
        at, step, epoch, loss, rates = values["at"], values["step"], values["epoch"], values["loss"], values["learning_rates"]
        seconds = values["seconds_per_step"]
        if not isinstance(step, int) or not all(isinstance(value, int | float) for value in (at, loss, seconds, *rates.values())):
            raise TypeError(values)
        self._step_to_tell = values
        self._seen(at)
        self.epoch = epoch
        if self.session:
            self.session = (self.session[0], at)
        if self.recent and step <= self.recent[-1][0]:
            self.recent.clear()
        self.recent.append((step, seconds))
        if not self.whole:
            return
        steps, losses = self.steps, self.losses
        if steps and steps[-1] >= step:
            # A resumed run makes some steps once more: they replace the earlier ones.
            begin = bisect_left(steps, step)
            for column in (steps, losses, *self.rates.values()):
                del column[begin:]
        steps.append(step)
        losses.append(loss)
        if rates.keys() == self.rates.keys():
            for name, column in self.rates.items():
                column.append(rates[name])
        else:
            self._rates_of_others(rates)

    def _rates_of_others(self, rates: dict[str, float]) -> None:
        """A step with other learning rates than those before it: gaps where there is none."""
        count = len(self.steps) - 1
        for name in rates:
            if name not in self.rates:
                self.rates[name] = array("d", [math.nan]) * count
        for name, column in self.rates.items():
            column.append(rates.get(name, math.nan))

    def _event(self, event: events.Event) -> None:
        match event:
            case events.Started():
                if self.session:
                    self.seconds_before += max(0.0, self.session[1] - self.session[0])
                if event.done and (self.resumes or self.job):
                    self.resumes.append(event.done)
                self.session = (event.at, event.at)
                self.job, self.device, self.epochs = event.job, event.device, event.epochs
                self.detail, self.files = "", []
                self.recent.clear()
            case events.Stage():
                self.stage_done, self.stage_total = event.done, event.total
            case events.Warned():
                self.warnings[event.message] = None
                self.warnings.move_to_end(event.message)
                while len(self.warnings) > KEPT_WARNINGS:
                    self.warnings.popitem(last=False)
            case events.Failed():
                self.detail = event.detail
            case events.Finished():
                self.files = list(event.files)
            case events.Captioned():
                self.captions.appendleft((event.picture, event.caption))
            case events.Cell():
                self.cells.appendleft((event.file, event.error or ""))
            case _:
                self._kept(event)
        if self.session and not isinstance(event, events.Started | events.Stage | events.Warned):
            self.session = (self.session[0], event.at)

    def _kept(self, event: events.Event) -> None:
        if event.kind == "rate_changed":
            self.rate_changes.append((event.step, event.learning_rate))  # type: ignore[attr-defined]
        elif not self.whole:
            return
        elif isinstance(event, events.Validated):
            self.validation[event.step] = float(event.loss)
        elif isinstance(event, events.Sampled):
            self.samples[event.step] = list(event.files)
            self.sampled_at[event.step] = event.at
        elif isinstance(event, events.Saved):
            self.saves = [save for save in self.saves if save[2] != event.file]
            self.saves.append((event.step, event.epoch, event.file))

    # ------------------------------------------------------------ what it comes to

    def facts(self) -> dict[str, Any]:
        """What is cheap to say of any run."""
        return {
            "job": self.job,
            "device": self.device,
            "epoch": self.epoch,
            "epochs": self.epochs,
            "stage_done": self.stage_done,
            "stage_total": self.stage_total,
            "began": self.began,
            "last": self.last,
            "last_start": self.session[0] if self.session else self.began,
            "warnings": list(self.warnings),
            "rate_changes": list(self.rate_changes),
            "resumes": list(self.resumes),
            "captions": list(self.captions),
            "cells": list(self.cells),
            "files": list(self.files),
            "detail": self.detail,
        }

    def log(self) -> RunLog:
        return RunLog(
            **self.facts(),
            curve=self.curve(),
            validation=sorted(self.validation.items()),
            samples=dict(sorted(self.samples.items())),
            sampled_at=dict(self.sampled_at),
            saves=list(self.saves),
        )

    def curve(self, limit: int = CURVE_POINTS) -> Curve:
        """At most `limit` points. Groups double in size as the run grows, so that a point once made stays until then."""
        size, count = 1, len(self.steps)
        while -(-count // size) > limit:
            size *= 2
        if size == 1:
            losses = lows = highs = self.losses.tolist()
        else:
            groups = [self.losses[start : start + size] for start in range(0, count, size)]
            losses = [sum(group) / len(group) for group in groups]
            lows, highs = [min(group) for group in groups], [max(group) for group in groups]
        ends = [min(start + size, count) - 1 for start in range(0, count, size)]
        rates = {
            name: [None if math.isnan(value) else value for value in (column[end] for end in ends)] for name, column in self.rates.items()
        }
        return Curve([self.steps[end] for end in ends], losses, lows, highs, rates, size)

    def with_status(self, log: RunLog, run: RunFolder) -> RunLog:
        """The log with what the run's process adds to it: whether it lives, how fast it is, how long it works."""
        self._tell_step()
        status = run.status_now(self.told.status)
        seconds = self.seconds_before
        if status.state == "running":
            speed = self.seconds_per_step()
            if speed is not None and not status.stage:
                left = max(0, status.total - status.step) * speed
                status = replace(status, seconds_per_step=speed, eta_seconds=left or None)
            began = _since(run) or (self.session[0] if self.session else self.last)
            seconds += max(0.0, time.time() - began) if began else 0.0
        elif self.session:
            seconds += max(0.0, self.session[1] - self.session[0])
        return replace(log, status=status, elapsed_seconds=seconds or None)

    def seconds_per_step(self) -> float | None:
        """Over the last reports, each weighing as many steps as it stands for."""
        if not self.recent:
            return None
        steps = [step for step, _ in self.recent]
        weights = [1, *(now - before for before, now in itertools.pairwise(steps))]
        if len(steps) > 1:
            weights[0] = weights[1]
        total = sum(weights)
        return sum(weight * seconds for weight, (_, seconds) in zip(weights, self.recent, strict=True)) / total if total > 0 else None


def _since(run: RunFolder) -> float | None:
    """When the process that holds the run took it: it writes its mark into the lock once."""
    try:
        state = run.lock_file.stat()
    except OSError:
        return None
    return state.st_mtime if state.st_size else None
