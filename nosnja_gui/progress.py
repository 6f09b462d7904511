"""Progress bars with an ETA on a terminal; one line per stage where the output is a file, and counts for a program that reads them."""

import os
import re
import sys
import time
from dataclasses import dataclass
from typing import TextIO

COUNTED = "NOSNJA_PROGRESS"
"""Set in the environment of a process whose output another one follows: then counts are printed on lines of their own, too."""
COUNTED_SECONDS = 0.3
"""Between two of them."""
LINE = re.compile(r"(?P<name>.+?) \.\.\.(?: (?P<count>\d+)/(?P<total>\d+))?")


@dataclass(frozen=True)
class Stage:
    """How far a process is that prints to a file."""

    name: str
    share: float | None = None
    """0 to 1; None where nobody knows."""


class Progress:
    """Shows one stage after the other. All methods are cheap enough to be called every step."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stderr
        self.live = self.out.isatty()
        self.counted = not self.live and bool(os.environ.get(COUNTED))
        self.seconds: dict[str, float] = {}
        self._name, self._total, self._count, self._first, self._note = "", 0, 0, 0, ""
        self._began = self._drawn = 0.0

    def stage(self, name: str, total: int = 0, done: int = 0) -> None:
        """Begin a stage of `total` things (0: of unknown length), of which some are done already; ends the one before."""
        self.done()
        self._name, self._total, self._count, self._first, self._note = name, total, done, done, ""
        self._began, self._drawn = time.monotonic(), 0.0
        if self.live:
            self._draw()
        else:
            print(f"{name} ...", file=self.out, flush=True)

    def advance(self, count: int = 1, note: str = "") -> None:
        self._count += count
        self._note = note or self._note
        if self.live and time.monotonic() - self._drawn > 0.1:
            self._draw()
        elif self.counted and self._total and time.monotonic() - self._drawn > COUNTED_SECONDS:
            self._drawn = time.monotonic()
            print(f"{self._name} ... {self._count}/{self._total}", file=self.out, flush=True)

    def done(self) -> None:
        """End the current stage, if any."""
        if not self._name:
            return
        seconds = time.monotonic() - self._began
        self.seconds[self._name] = self.seconds.get(self._name, 0.0) + seconds
        clear = "\r\033[2K" if self.live else ""
        note = f"  {self._note}" if self._note else ""
        print(f"{clear}{self._name}: {seconds:.1f} s{note}", file=self.out, flush=True)
        self._name = ""

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        elapsed = self._drawn - self._began
        if self._total:
            share = min(1.0, self._count / self._total)
            bar = "█" * round(24 * share) + "░" * (24 - round(24 * share))
            fresh = self._count - self._first
            eta = f"{in_time(elapsed / fresh * (self._total - self._count))} left" if fresh else "..."
            text = f"{self._name} {bar} {self._count}/{self._total}  {eta}"
        else:
            text = f"{self._name} ... {in_time(elapsed)}"
        print(f"\r\033[2K{text}  {self._note}"[:200], end="", file=self.out, flush=True)


def read(text: str) -> Stage | None:
    """The last stage that a process has printed to a file (with COUNTED in its environment), None before the first."""
    for line in reversed(text.splitlines()):
        if found := LINE.fullmatch(line):
            total = int(found["total"] or 0)
            return Stage(found["name"], min(1.0, int(found["count"]) / total) if total else None)
    return None


def in_time(seconds: float) -> str:
    """42 s, 3 min 05 s, 2 h 10 min."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
