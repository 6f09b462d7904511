"""What happens in a job, as lines of JSON that only the engine appends to and everybody else reads.

The log is the one truth about a run: status, loss curve, samples and crash reports are derived from it.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of events.jsonl. `at` is seconds since 1970."""

    kind: ClassVar[str]
    at: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    kind: ClassVar[str] = "started"
    job: str
    total: int
    """Steps, pictures or cells to come in all."""
    done: int = 0
    """How many were already done (a resume)."""
    device: str = "cpu"
    epochs: int | None = None
    steps_per_epoch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Stage(Event):
    """A named stretch of work without steps of its own (loading the model, caching latents)."""

    kind: ClassVar[str] = "stage"
    name: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, kw_only=True)
class Step(Event):
    kind: ClassVar[str] = "step"
    step: int
    epoch: int
    loss: float
    """Mean since the last Step event."""
    learning_rates: dict[str, float]
    seconds_per_step: float
    grad_norm: float | None = None


@dataclass(frozen=True, kw_only=True)
class RateChanged(Event):
    """The learning rate was changed during the training: after `step` steps, from the next one on. A resumed training goes by it."""

    kind: ClassVar[str] = "rate_changed"
    step: int
    learning_rate: float
    """The new whole rate (before the schedule); the text encoder's follows in proportion."""


@dataclass(frozen=True, kw_only=True)
class Validated(Event):
    """Loss on held-out pictures at fixed noise and timesteps."""

    kind: ClassVar[str] = "validated"
    step: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class Sampled(Event):
    kind: ClassVar[str] = "sampled"
    step: int
    files: list[str]
    """Relative to the run folder."""


@dataclass(frozen=True, kw_only=True)
class Saved(Event):
    kind: ClassVar[str] = "saved"
    step: int
    epoch: int
    file: str
    """Relative to the run folder: a file in weights/ or a folder in checkpoints/."""


@dataclass(frozen=True, kw_only=True)
class ReadBack(Event):
    """A file that was written has been read by its users' readers: how far a forward pass is off, as a share of its effect."""

    kind: ClassVar[str] = "read_back"
    file: str
    """Relative to the run folder."""
    ours: float
    diffusers: float | None = None
    """None where diffusers doesn't read such a file."""


@dataclass(frozen=True, kw_only=True)
class Captioned(Event):
    kind: ClassVar[str] = "captioned"
    picture: str
    caption: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Cell(Event):
    kind: ClassVar[str] = "cell"
    done: int
    total: int
    file: str
    reused: bool = False
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Downloaded(Event):
    """How far a download is, in bytes: of the file that comes now, and of all together."""

    kind: ClassVar[str] = "downloaded"
    file: str
    file_done: int
    file_total: int
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Warned(Event):
    kind: ClassVar[str] = "warned"
    message: str


@dataclass(frozen=True, kw_only=True)
class Finished(Event):
    kind: ClassVar[str] = "finished"
    files: list[str]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Stopped(Event):
    """Ended on request, everything saved; the same command goes on from here."""

    kind: ClassVar[str] = "stopped"
    step: int


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    kind: ClassVar[str] = "failed"
    message: str
    detail: str = ""


EVENTS: dict[str, type[Event]] = {cls.kind: cls for cls in Event.__subclasses__()}


def to_line(event: Event) -> str:
    return json.dumps({"kind": event.kind, **asdict(event)}, ensure_ascii=False)


def from_values(values: dict[str, Any]) -> Event | None:
    """An Event, or None for a kind this version doesn't know (a newer program's log stays readable)."""
    cls = EVENTS.get(values.pop("kind", ""))
    if cls is None:
        return None
    known = cls.__dataclass_fields__
    return cls(**{key: value for key, value in values.items() if key in known})


class EventLog:
    """Appends to events.jsonl. One writer; every event is a whole line before the call returns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, event: Event) -> None:
        with open(self.path, "ab") as file:
            # A killed writer may have left half a line: end it, so that this event stands alone.
            if file.tell() and not _ends_with_newline(self.path):
                file.write(b"\n")
            file.write((to_line(event) + "\n").encode())
            file.flush()


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def read(path: Path) -> Iterator[Event]:
    """Every whole, known event of a log; a missing file is an empty log, a half-written last line is skipped."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            values = json.loads(line)
            event = from_values(values) if isinstance(values, dict) else None
        except (ValueError, TypeError):
            continue
        if event is not None:
            yield event
