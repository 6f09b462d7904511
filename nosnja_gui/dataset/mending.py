"""Taking pictures out of a dataset and converting them, so that everything can be put back: no original is ever deleted.

What is left out lies in the dataset's `.nosnja/left-out`, what was converted in `.nosnja/originals`, each under its own name.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from nosnja_gui.dataset import images
from nosnja_gui.dataset.history import write_captions
from nosnja_gui.dataset.reading import Dataset, list_folder, read, text_file, without_suffix
from nosnja_gui.files import replacing
from nosnja_gui.settings import UserError

LEFT_OUT = Path(".nosnja") / "left-out"
ORIGINALS = Path(".nosnja") / "originals"


def leave_out(dataset: Dataset, names: Iterable[str]) -> list[str]:
    """Move pictures and their .txt captions out of the dataset; returns the names under which `put_back` finds them.

    Captions in a metadata file stay there. Raises UserError for unknown pictures and a disk that can't be written.
    """
    paths = {picture.name: picture.path for picture in dataset.pictures}
    paths.update({_name(dataset.folder, problem.path): problem.path for problem in dataset.problems if problem.left_out})
    names = list(dict.fromkeys(names))
    strange = [name for name in names if name not in paths]
    if strange:
        raise UserError(f"There is no picture '{strange[0]}' in {dataset.folder}: read the dataset again.")
    home = dataset.folder / LEFT_OUT
    moved = []
    for name in names:
        listing = list_folder(dataset.folder, only=[name])
        text = text_file(dataset.folder, listing, name)
        shared = listing.stems[without_suffix(name)] > 1 and text.name != f"{paths[name].name}.txt"
        target = _free(home / name)
        _move(paths[name], target)
        if text.is_file() and not shared:
            _move(text, target.with_name(f"{target.name}.txt"))
        moved.append(target.relative_to(home).as_posix())
    return moved


def left_out(folder: Path) -> dict[str, Path]:
    """Pictures that were left out, by name."""
    home = folder / LEFT_OUT
    found = [path for path in home.rglob("*") if path.suffix.lower() != ".txt" and path.is_file()] if home.is_dir() else []
    return {path.relative_to(home).as_posix(): path for path in sorted(found)}


def put_back(folder: Path, names: Iterable[str]) -> list[str]:
    """Bring pictures that were left out back, with their captions; a name that is taken meanwhile gets a number."""
    known = left_out(folder)
    names = list(dict.fromkeys(names))
    strange = [name for name in names if name not in known]
    if strange:
        raise UserError(f"'{strange[0]}' is not among the pictures that were left out of {folder}.")
    back = []
    for name in names:
        target = _free(folder / name)
        text = known[name].with_name(f"{known[name].name}.txt")
        _move(known[name], target)
        if text.is_file():
            alone = list_folder(folder, only=[_name(folder, target)]).stems[without_suffix(_name(folder, target))] == 1
            _move(text, _free(target.with_suffix(".txt") if alone else target.with_name(f"{target.name}.txt")))
        back.append(_name(folder, target))
    return back


def convert(dataset: Dataset, names: Iterable[str]) -> dict[str, str]:
    """Store pictures as upright 8-bit RGB PNG, transparency laid on white; the original goes to `.nosnja/originals`.

    Returns the new name by the old one. Raises UserError for unknown or unreadable pictures and a disk that can't be written.
    """
    pictures = {picture.name: picture for picture in dataset.pictures}
    names = list(dict.fromkeys(names))
    strange = [name for name in names if name not in pictures]
    if strange:
        raise UserError(f"There is no picture '{strange[0]}' in {dataset.folder}: read the dataset again.")
    renamed = {}
    for name in names:
        path = pictures[name].path
        image = images.load_rgb(path)
        target = path.with_suffix(".png")
        if target.name != path.name and os.path.lexists(target):
            target = _free(target)
        try:
            with replacing(target.with_name(f".{target.name}.new")) as temporary:
                image.save(temporary, "PNG")
            _move(path, _free(dataset.folder / ORIGINALS / name))
            os.replace(target.with_name(f".{target.name}.new"), target)
        except OSError as error:
            raise UserError(f"{path} cannot be converted and stays as it was: {error.strerror}.") from None
        renamed[name] = _name(dataset.folder, target)
    _keep_captions(dataset, {old: new for old, new in renamed.items() if old != new})
    return renamed


def _keep_captions(dataset: Dataset, renamed: dict[str, str]) -> None:
    """A picture with a new name keeps its caption, also where a metadata file knew it by the old one."""
    if not renamed:
        return
    now = read(dataset.folder, dataset.captions_file, look_inside=False)
    present = now.captions()
    captions = {picture.name: picture.caption for picture in dataset.pictures}
    lost = {new: captions[old] for old, new in renamed.items() if captions[old] is not None and present.get(new) != captions[old]}
    if lost:
        write_captions(now, lost, "captions of converted pictures")


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _free(path: Path) -> Path:
    """The path, or one with a number before its suffix where it is taken."""
    number, free = 2, path
    while os.path.lexists(free):
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return free


def _move(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
    except OSError as error:
        raise UserError(f"{source} cannot be moved: {error.strerror}.") from None
