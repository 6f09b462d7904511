"""What of a picture is to be learnt: its mask (a picture beside it, or its own transparency) and the faces that are marked in it.

Reads only; everything comes out in the size of the picture as it is shown, white where it counts. Knows nothing of training.
"""

import json
import os
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageDraw

from nosnja_gui.dataset import images
from nosnja_gui.settings import UserError

MaskSource = Literal["off", "auto", "file", "alpha"]
"""`file` is a mask picture, `alpha` the picture's own transparency, `auto` the mask picture where there is one, else transparency."""

MARK = "mask"
"""In the name of every one of them."""
ENDINGS = ("-mask", "_mask", "-masklabel")
"""Of a mask's name beside its picture: hat-mask.png for hat.jpg. The last one is OneTrainer's (modules/module/BaseImageMaskModel.py)."""
FOLDERS_INSIDE = ("masks", "mask", "conditioning")
FOLDERS_BESIDE = ("{name}_mask", "{name}_masks", "{name}-mask", "{name}-masks", "{name}_conditioning")
"""Folders with masks of the pictures' own names, inside the pictures' folder and beside it, as people call what sd-scripts is told as
`conditioning_data_dir` (docs/masked_loss_README.md)."""
FACES_SUFFIX = ".faces.json"
MOST_FACES = 1000
MOST_FACES_BYTES = 1_000_000

Rectangle = tuple[float, float, float, float]
"""Left, top, width, height in pixels of the picture as it is shown, after EXIF orientation."""


@dataclass(frozen=True)
class Beside:
    """The files that say what counts in a picture; None where there is none."""

    mask: Path | None = None
    faces: Path | None = None


def of_another(name: str, names: Container[str]) -> bool:
    """Whether this is the mask of one of the pictures with these names; all without suffixes: "hat-mask" beside "hat"."""
    return name.endswith(ENDINGS) and any(name.endswith(ending) and name.removesuffix(ending) in names for ending in ENDINGS)


def find(pictures: Iterable[Path]) -> dict[Path, Beside]:
    """The masks and faces of many pictures, of those that have any. Each folder is listed once."""
    listed: dict[Path, dict[str, Path]] = {}

    def inside(folder: Path) -> dict[str, Path]:
        if folder not in listed:
            listed[folder] = dict(_pictures_by_stem(folder))
        return listed[folder]

    found = {}
    for picture in pictures:
        folder = picture.parent
        named = [*(folder / name for name in FOLDERS_INSIDE), *(folder.parent / name.format(name=folder.name) for name in FOLDERS_BESIDE)]
        candidates = [inside(folder).get(picture.stem + ending) for ending in ENDINGS]
        candidates += [inside(place).get(picture.stem) for place in named]
        faces = inside(folder).get(picture.stem + FACES_SUFFIX)
        beside = Beside(next((mask for mask in candidates if mask is not None), None), faces)
        if beside != Beside():
            found[picture] = beside
    return found


def _pictures_by_stem(folder: Path) -> Iterator[tuple[str, Path]]:
    """Pictures by their name without suffix, and the lists of faces by their whole name."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # most pictures have no folder of masks
        return
    for entry in entries:
        path = Path(entry.path)
        if path.suffix.lower() in images.SUFFIXES:
            yield path.stem, path
        elif entry.name.endswith(FACES_SUFFIX):
            yield entry.name, path


def load(picture: Path, source: MaskSource, mask: Path | None, size: tuple[int, int]) -> Image.Image | None:
    """The mask of a picture of this size as 8-bit grey, white where it counts; None where the whole picture does.

    A mask picture of another size is stretched to the picture's. Raises UserError for one that can't be read.
    """
    if source in ("auto", "file") and mask is not None:
        grey = images.load_rgb(mask).convert("L")
        return grey if grey.size == size else grey.resize(size, Image.Resampling.BILINEAR)
    return images.load_alpha(picture) if source in ("auto", "alpha") else None


def draw_faces(faces: Path, size: tuple[int, int]) -> Image.Image:
    """White rectangles on black, of a picture's size. Raises UserError as `read_faces` does."""
    image = Image.new("L", size)
    draw = ImageDraw.Draw(image)
    for left, top, width, height in read_faces(faces):
        if round(width) and round(height):
            # Pillow's rectangles hold their right and lower edge, too.
            draw.rectangle((round(left), round(top), round(left + width) - 1, round(top + height) - 1), fill=255)
    return image


def read_faces(file: Path) -> list[Rectangle]:
    """The rectangles in NAME.faces.json: a list of [left, top, width, height]. Raises UserError for anything else."""
    try:
        if file.stat().st_size > MOST_FACES_BYTES:
            raise ValueError("too large")
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list) or len(values) > MOST_FACES or not all(_is_rectangle(value) for value in values):
        raise UserError(f"{file} must hold a JSON list of faces, each as [left, top, width, height] in pixels: mend or remove it.")
    return [tuple(map(float, value)) for value in values]


def _is_rectangle(value: Any) -> bool:
    numbers = isinstance(value, list) and all(isinstance(number, int | float) and not isinstance(number, bool) for number in value)
    return numbers and len(value) == 4 and all(abs(number) < images.MAXIMUM_PIXELS for number in value) and min(value[2:]) >= 0
