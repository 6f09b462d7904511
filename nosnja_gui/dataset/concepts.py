"""Several things learned in one training: each has its own folder, repeats, weight, trigger word and class noun."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nosnja_gui.dataset.reading import Dataset, Picture
from nosnja_gui.settings import UserError

EXAMPLE = "hats, repeats=5, weight=0.5, trigger=myhat, class=hat"
MOST_REPEATS = 10_000
MOST_WEIGHT = 100.0


@dataclass(frozen=True)
class Concept:
    """One folder of pictures, and what is special about it."""

    folder: str
    repeats: int | None = None
    """None takes those of the training."""
    weight: float = 1.0
    """What the loss of its pictures is multiplied by."""
    trigger: str = ""
    class_noun: str = ""


def parse(line: str) -> Concept:
    """A concept from a line such as "hats, repeats=5, weight=0.5, trigger=myhat, class=hat". Raises UserError with the reason."""
    folder, *rest = (piece.strip() for piece in line.split(","))
    if not folder:
        raise UserError(f"'{line}' names no folder: write {EXAMPLE}.")
    values: dict[str, str] = {}
    for piece in filter(None, rest):
        name, equals, value = (part.strip() for part in piece.partition("="))
        if not equals or name not in ("repeats", "weight", "trigger", "class") or name in values or not value:
            raise UserError(
                f"'{piece}' in '{line}' is none of repeats, weight, trigger and class, each once with a value: write {EXAMPLE}."
            )
        values[name] = value
    repeats, weight = values.get("repeats", ""), values.get("weight", "1")
    if repeats and not (re.fullmatch(r"\d{1,5}", repeats) and 1 <= int(repeats) <= MOST_REPEATS):
        raise UserError(f"Repeats of '{folder}' must be a whole number from 1 to {MOST_REPEATS} (got {repeats}).")
    if not (re.fullmatch(r"\d+(\.\d*)?|\.\d+", weight) and float(weight) <= MOST_WEIGHT):
        raise UserError(f"The weight of '{folder}' must be a number from 0 to {MOST_WEIGHT:g} (got {weight}).")
    return Concept(folder, int(repeats) if repeats else None, float(weight), values.get("trigger", ""), values.get("class", ""))


def with_folder(line: str, folder: str) -> str:
    """The line with another folder."""
    _, comma, rest = line.partition(",")
    return f"{folder}{comma}{rest}"


def join(concepts: Sequence[Concept], datasets: Sequence[Dataset]) -> tuple[Dataset, tuple[Concept, ...]]:
    """All pictures as one dataset, and the concept of each. Names of the second folder on get the folder's name in front.

    Raises UserError where a folder is given twice.
    """
    folders = [dataset.folder.resolve() for dataset in datasets]
    for place, folder in enumerate(folders):
        if folder in folders[:place]:
            raise UserError(f"{datasets[place].folder} is given twice: let each concept have a folder of its own.")
    if len(datasets) == 1:
        return datasets[0], (concepts[0],) * len(datasets[0].pictures)
    pictures: list[Picture] = []
    of: list[Concept] = []
    taken = {picture.name for picture in datasets[0].pictures}
    for number, (concept, dataset) in enumerate(zip(concepts, datasets, strict=True)):
        for picture in dataset.pictures:
            name = picture.name if number == 0 else f"{dataset.folder.name}/{picture.name}"
            if number and name in taken:
                name = f"{number + 1}/{name}"
            taken.add(name)
            pictures.append(picture if name == picture.name else replace(picture, name=name))
            of.append(concept)
    problems = tuple(problem for dataset in datasets for problem in dataset.problems)
    return replace(datasets[0], pictures=tuple(pictures), problems=problems), tuple(of)
