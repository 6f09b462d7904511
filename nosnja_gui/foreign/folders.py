"""Folders of pictures that other trainers learn from together, as our concepts; no format of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

UNWRITABLE = "A folder with a comma or = in its name can't stand among the concepts here: rename it."
GIVEN_TWICE = "Each folder is learnt from once here."


@dataclass(frozen=True)
class Folder:
    """What a file says of one of them."""

    place: str
    """Where in the file."""
    path: str
    repeats: int = 1
    weight: float = 1.0

    def line(self) -> str:
        """As dataset.concepts has it."""
        weight = f", weight={self.weight:g}" if self.weight != 1 else ""
        return f"{self.path}, repeats={self.repeats}{weight}"

    @property
    def writable(self) -> bool:
        return not any(mark in self.path for mark in ",=\n")


def once(folders: Sequence[Folder]) -> list[Folder]:
    """Without those that came before under the same path."""
    known: dict[str, Folder] = {}
    for folder in folders:
        known.setdefault(folder.path.replace("\\", "/").rstrip("/"), folder)
    return list(known.values())


def lines(folders: Sequence[Folder]) -> list[str]:
    """dataset.concepts: all but the first, which is dataset.path."""
    return [folder.line() for folder in folders[1:] if folder.writable]
