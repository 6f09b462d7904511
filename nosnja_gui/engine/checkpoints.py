"""States to resume from: folders that are whole or not there, each with a manifest of sha256 sums. Knows nothing of training.

A checkpoint is written beside its place, synced and renamed; so a kill or a full disk at any moment leaves the older ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from nosnja_gui import weights
from nosnja_gui.files import sync, write_atomic

MANIFEST = "manifest.json"
_FORMATS = {getattr(torch, name): number for number, name in weights.TORCH_NAMES.items()}


@dataclass(frozen=True)
class Checkpoint:
    step: int
    tensors: dict[str, torch.Tensor]
    """The trained parameters by their stable names, in fp32."""
    optimizer: dict[str, Any]
    """Optimiser (and gradient scaler) state, tensors and plain values only."""
    about: dict[str, Any]
    """Plain values: position, plan, versions."""


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `folder/step-000100/`, then delete all but the newest `keep`. Raises OSError where the disk is full, changing nothing."""
    place = folder / f"step-{checkpoint.step:06d}"
    if place.exists():
        if damage(place) is None:
            return place
        set_aside(place)
    temporary = folder / f".{place.name}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        sums = {name: _write(temporary / name, write) for name, write in _contents(checkpoint).items()}
        write_atomic(temporary / MANIFEST, json.dumps(sums, indent=1))
        os.replace(temporary, place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(folder)
    for old in whole(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return place


Write = Callable[["_Summed"], object]


def _contents(checkpoint: Checkpoint) -> dict[str, Write]:
    """File -> what writes it, tensor by tensor: the state of a whole model is larger than the memory that is left."""
    tensors = checkpoint.tensors
    entries = {name: (_FORMATS[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}
    about = json.dumps({"step": checkpoint.step, **checkpoint.about}, indent=1).encode()

    def raw(name: str) -> Any:
        return tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()

    return {
        "trained.safetensors": lambda stream: weights.write_to(stream, entries, raw),
        "optimizer.pt": _state(checkpoint.optimizer),
        "about.json": lambda stream: stream.write(about),
    }


def _state(state: dict[str, Any]) -> Write:
    def write(stream: _Summed) -> None:
        try:
            torch.save(state, stream)
        except Exception:
            if stream.problem:  # torch may say in words of its own that it could not write; why, the stream knows
                raise stream.problem from None
            raise

    return write


def _write(file: Path, write: Write) -> str:
    """Write a file and have it on the disk; the sha256 of what was written."""
    with open(file, "wb") as opened:
        stream = _Summed(opened)
        write(stream)
    sync(file)
    return stream.digest.hexdigest()


class _Summed:
    """A file that is written from its beginning to its end, with the sum of all that went into it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.problem: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            self.file.write(content)
        except OSError as error:
            self.problem = error
            raise
        self.digest.update(content)
        return memoryview(content).nbytes

    def flush(self) -> None:
        self.file.flush()


def newest(folder: Path, on_damage: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that verifies, or None. Damaged ones are moved aside, each reported in a sentence."""
    for place in whole(folder):
        problem = damage(place)
        if problem is None:
            return load(place)
        aside = set_aside(place)
        on_damage(f"The saved state {place.name} is damaged ({problem}); it was moved to {aside.name} and an older one is used.")
    return None


def load(place: Path) -> Checkpoint:
    from safetensors.torch import load_file

    about = json.loads((place / "about.json").read_text())
    optimizer = torch.load(place / "optimizer.pt", map_location="cpu", weights_only=True)
    return Checkpoint(about.pop("step"), load_file(place / "trained.safetensors"), optimizer, about)


def damage(place: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None where every sum is right."""
    try:
        sums: Mapping[str, str] = json.loads((place / MANIFEST).read_text())
        for name in ("trained.safetensors", "optimizer.pt", "about.json"):
            if sums.get(name) != _sha256(place / name):
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, AttributeError):
        return f"{MANIFEST} is not readable"
    return None


def set_aside(place: Path) -> Path:
    """Rename a damaged checkpoint out of the way, so that its step can be saved again and its bytes can be looked at."""
    number = 1
    while (aside := place.with_name(f"damaged-{place.name}-{number}")).exists():
        number += 1
    return place.rename(aside)


def whole(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    return sorted((place for place in folder.glob("step-*") if place.is_dir() and place.name[5:].isdigit()), key=_step, reverse=True)


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for part in folder.glob(".step-*.part"):
        shutil.rmtree(part, ignore_errors=True)


def _step(place: Path) -> int:
    return int(place.name.removeprefix("step-"))


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
