"""Looks into all pictures of a dataset in the background, a few at a time, and remembers what it saw until a file changes.

What it found is kept in a file, so that ten thousand photographs are opened once and not at every start of the window.
"""

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nosnja_gui.dataset.checks import Facts, look
from nosnja_gui.files import write_atomic

SAVE_SECONDS = 20.0
REST_SHARE = 0.5
"""Between two pictures, of the time that one took: whoever uses the window comes first."""
REST_SECONDS = 0.6
"""After somebody asked for a page."""
FORMAT = 1

State = tuple[int, int]
"""Size and time of a file: while they stay, its facts do."""


class Inspection:
    """The facts of one dataset's pictures by name. Threads may ask at any time."""

    def __init__(self, folder: Path, memory: Path) -> None:
        self.folder = folder
        self.file = memory / f"{hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:24]}.json"
        self.facts: dict[str, Facts] = {}
        self.total = 0
        self._states: dict[str, State] = {}
        self._known = self._load()
        self._waiting: dict[str, Path] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ends = False
        self._preferred: set[str] = set()
        self._rests_until = 0.0

    @property
    def done(self) -> int:
        return self.total - len(self._waiting)

    def follow(self, pictures: Mapping[str, Path]) -> None:
        """Look into these pictures, where that has not been done, and forget all others. Returns at once."""
        states = {name: _state(path) for name, path in pictures.items()}
        with self._lock:
            facts, waiting = {}, {}
            for name, path in pictures.items():
                known = self._known.get(name)
                if known is not None and known[0] == states[name]:
                    facts[name] = known[1]
                else:
                    waiting[name] = path
            self.facts, self._states, self._waiting, self.total = facts, states, waiting, len(pictures)
            if waiting and (self._thread is None or not self._thread.is_alive()):
                self._ends = False
                self._thread = threading.Thread(target=self._work, name="inspection", daemon=True)
                self._thread.start()

    def at_once(self, name: str, path: Path) -> Facts:
        """The facts of one picture now, for somebody who looks at it."""
        state = _state(path)
        known = self._known.get(name)
        if known is None or known[0] != state:
            self._remember(name, state, look(path))
        return self._known[name][1]

    def prefer(self, names: Iterable[str], seconds: float = 0.0) -> None:
        """Look into these first, because somebody sees them; wait for them at most that long."""
        names = list(names)
        self._preferred, self._rests_until = set(names), time.monotonic() + REST_SECONDS
        with self._lock:
            first = {name: self._waiting[name] for name in names if name in self._waiting}
            if first:
                self._waiting = {**first, **self._waiting}
        until = time.monotonic() + seconds
        while time.monotonic() < until and any(name in self._waiting for name in names):
            time.sleep(0.01)

    def close(self) -> None:
        self._ends = True

    def wait(self, seconds: float = 60.0) -> bool:
        """Whether all is looked at, for at most that time."""
        until = time.monotonic() + seconds
        while self._waiting and time.monotonic() < until:
            time.sleep(0.01)
        return not self._waiting

    def _work(self) -> None:
        saved = time.monotonic()
        while not self._ends:
            with self._lock:
                name, path = next(iter(self._waiting.items()), ("", None))
            if path is None:
                break
            began = time.monotonic()
            if began < self._rests_until and name not in self._preferred:
                time.sleep(0.02)
                continue
            state = _state(path)
            self._remember(name, state, look(path))
            if time.monotonic() - saved > SAVE_SECONDS:
                self._save()
                saved = time.monotonic()
            if name not in self._preferred:
                time.sleep((time.monotonic() - began) * REST_SHARE)
        self._save()

    def _remember(self, name: str, state: State, facts: Facts) -> None:
        with self._lock:
            self._known[name] = (state, facts)
            self._waiting.pop(name, None)
            if name in self._states:
                self.facts[name] = facts

    def _load(self) -> dict[str, tuple[State, Facts]]:
        try:
            values = json.loads(self.file.read_bytes())
            if values["format"] != FORMAT:
                return {}
            return {name: ((entry[0], entry[1]), Facts.from_json(entry[2])) for name, entry in values["pictures"].items()}
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
            return {}

    def _save(self) -> None:
        with self._lock:
            pictures: dict[str, Any] = {
                name: [*state, facts.to_json()] for name, (state, facts) in self._known.items() if name in self._states
            }
        # Losing this costs another look, nothing else.
        with contextlib.suppress(OSError):
            write_atomic(self.file, json.dumps({"format": FORMAT, "pictures": pictures}))


def _state(path: Path) -> State:
    try:
        state = path.stat()
    except OSError:
        return (-1, -1)
    return state.st_size, state.st_mtime_ns
