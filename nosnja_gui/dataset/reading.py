"""Finding the pictures of a dataset and the captions that belong to them. Reads only."""

import functools
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from nosnja_gui.dataset import images, layouts
from nosnja_gui.dataset.layouts import Layout
from nosnja_gui.settings import UserError

MAXIMUM_CAPTION_BYTES = 1_000_000
MAXIMUM_TABLE_BYTES = 500_000_000

REPEATS_FOLDER = re.compile(r"\d+_.+")
"""kohya's subfolders, "10_name": looked into, while other subfolders are the user's own business."""


@dataclass(frozen=True)
class Picture:
    """A usable picture. Width and height in pixels as it is shown, after EXIF orientation."""

    path: Path
    caption: str | None
    width: int
    height: int
    name: str = ""
    """Path relative to the dataset's folder, with slashes: the file name, unless it lies in a subfolder."""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.path.name)


@dataclass(frozen=True)
class Problem:
    """What the user should know about a file. `reason` goes on after the file's name: "is an empty file"."""

    path: Path
    reason: str
    left_out: bool = True
    """Whether the picture is not used because of it."""

    def __str__(self) -> str:
        return f"{self.path.name} {self.reason}"


@dataclass(frozen=True)
class Dataset:
    folder: Path
    pictures: tuple[Picture, ...]
    problems: tuple[Problem, ...]
    layout: Literal["txt", "csv", "jsonl", "kohya_json"]
    captions_file: Path | None = None
    """The one file that holds all captions; None where each picture has its own .txt."""

    def captions(self) -> dict[str, str]:
        """Caption by picture name, of the pictures that have one."""
        return {picture.name: picture.caption for picture in self.pictures if picture.caption is not None}


@dataclass
class Listing:
    """What lies in a dataset's folder. Everything by name relative to the folder, with slashes."""

    pictures: dict[str, Path]
    texts: dict[str, Path]
    """.txt files, by their name without .txt."""
    problems: list[Problem]

    @functools.cached_property
    def stems(self) -> Counter[str]:
        """How many pictures have the same name but for its suffix, by that name."""
        return Counter(without_suffix(name) for name in self.pictures)


@dataclass
class Captions:
    layout: Layout
    file: Path | None
    by_name: dict[str, str]
    keys: dict[str, str]
    """Under which key the file holds a picture's caption, by picture name. Empty for the .txt layout."""
    problems: list[Problem]


def read(folder: Path, captions: Path | None = None) -> Dataset:
    """Read a dataset: its folder, or the metadata file that names its pictures.

    `captions` is a metadata.csv, .jsonl or kohya .json that lies elsewhere. Pictures that can't be used become
    problems and the rest go on. Raises UserError for a missing or empty folder and where no picture is usable.
    """
    folder, captions = Path(folder), Path(captions) if captions else None
    if captions is None and folder.is_file() and folder.suffix.lower() in _TABLE_SUFFIXES:
        folder, captions = folder_of(folder), folder
    listing = list_folder(folder)
    if not listing.pictures and not listing.problems:
        raise UserError(f"There are no pictures in {folder}: put .png or .jpg files into it.")
    found = find_captions(folder, listing, captions)
    pictures, problems = [], []
    for name, path in listing.pictures.items():
        size = _checked(path)
        if isinstance(size, str):
            problems.append(Problem(path, size))
        else:
            pictures.append(Picture(path, found.by_name.get(name), *size, name=name))
    problems = listing.problems + problems + found.problems
    if not pictures:
        left_out = [str(problem) for problem in problems if problem.left_out]
        more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        raise UserError(f"No picture in {folder} can be used: {'; '.join(left_out[:3])}{more}.")
    return Dataset(folder, tuple(pictures), tuple(problems), found.layout, found.file)


def list_folder(folder: Path) -> Listing:
    """Pictures and .txt files in natural order. Hidden files, folders, pipes and other things that are no files stay out."""
    listing = Listing({}, {}, [])
    try:
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise UserError(f"The dataset {folder} {what}: give the path of a folder of pictures.")
        with os.scandir(folder) as entries:
            inner = [entry.name for entry in entries if REPEATS_FOLDER.fullmatch(entry.name) and _is_folder(entry)]
        _list_into(listing, folder, "")
        for name in sorted(inner, key=_natural):
            before = len(listing.pictures)
            _list_into(listing, folder / name, f"{name}/")
            if len(listing.pictures) > before:
                note = "is read too, but the number in its name is not used: say dataset.repeats instead"
                listing.problems.append(Problem(folder / name, note, left_out=False))
    except OSError as error:
        raise UserError(f"The dataset {folder} cannot be read: {error.strerror}.") from None
    return listing


def find_captions(folder: Path, listing: Listing, file: Path | None = None) -> Captions:
    """The captions of the listed pictures: from `file`, a metadata file in the folder, .txt files, or a JSON beside the folder."""
    if file is not None:
        layout = _TABLE_SUFFIXES.get(file.suffix.lower())
        if layout is None:
            raise UserError(f"Captions {file} must be a .csv, .jsonl or .json file.")
        return _from_table(listing, layout, file, read_table(file))
    texts = _from_texts(listing)
    table = _table_inside(folder, listing)
    if table is not None:
        if texts.by_name:
            note = f"is used for the captions, and not the {len(texts.by_name)} .txt files: move one or the other away"
            table.problems.append(Problem(table.file or folder, note, left_out=False))
        return table
    if texts.by_name or texts.problems:
        return texts
    return _table_beside(folder, listing) or texts


def read_table(file: Path) -> str:
    """The text of a metadata file. Raises UserError."""
    try:
        if file.stat().st_size > MAXIMUM_TABLE_BYTES:
            raise UserError(f"{file} has more than {MAXIMUM_TABLE_BYTES // 10**6} MB, so it can't be a list of captions.")
        return layouts.decode(file.read_bytes())
    except FileNotFoundError:
        raise UserError(f"There is no captions file {file}.") from None
    except OSError as error:
        raise UserError(f"Captions {file} cannot be read: {error.strerror}.") from None
    except UserError as error:
        raise error if str(file) in str(error) else UserError(f"{file} {error}.") from None


def text_file(folder: Path, listing: Listing, name: str) -> Path:
    """Where the .txt layout keeps a picture's caption: a.txt, or a.png.txt where a.jpg and a.png would share a.txt."""
    if name in listing.texts:
        return listing.texts[name]
    stem = without_suffix(name)
    if listing.stems[stem] > 1:
        return folder / f"{name}.txt"
    return listing.texts.get(stem, folder / f"{stem}.txt")


_TABLE_SUFFIXES: dict[str, Layout] = {".csv": "csv", ".jsonl": "jsonl", ".json": "kohya_json"}


def _list_into(listing: Listing, folder: Path, prefix: str) -> None:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: _natural(entry.name)):
            suffix = Path(entry.name).suffix.lower()
            if entry.name.startswith(".") or suffix not in images.SUFFIXES | images.UNSUPPORTED_SUFFIXES | {".txt"}:
                continue
            path = folder / entry.name
            if not _is_file(entry):
                if entry.is_symlink() and not path.is_dir():
                    listing.problems.append(Problem(path, "is a link that leads nowhere: remove it"))
            elif suffix == ".txt":
                listing.texts[prefix + entry.name[:-4]] = path
            elif suffix in images.UNSUPPORTED_SUFFIXES:
                reason = f"is in a format that can't be read ({suffix[1:].upper()}): convert it to PNG or JPEG"
                listing.problems.append(Problem(path, reason))
            elif not _is_unicode(entry.name):
                listing.problems.append(Problem(path, "has a name that is not valid UTF-8: rename it"))
            else:
                listing.pictures[prefix + entry.name] = path


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _natural(name: str) -> tuple:
    """Sorts 2.png before 10.png."""
    parts = re.split(r"(\d+)", name.casefold())
    return tuple((int(part), "") if part.isdecimal() and part.isascii() else (-1, part) for part in parts), name


def without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _checked(path: Path) -> tuple[int, int] | str:
    """Size of a picture, or why it can't be used. Remembered until the file changes."""
    try:
        state = path.stat()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return _checked_at(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _checked_at(path: Path, size: int, mtime_ns: int) -> tuple[int, int] | str:
    try:
        return images.check(path)
    except UserError as error:
        return str(error).replace(f"{path} ", "", 1).removesuffix(".")


def _from_texts(listing: Listing) -> Captions:
    found = Captions("txt", None, {}, {}, [])
    shared: dict[str, list[str]] = {}
    for name in listing.pictures:
        stem = without_suffix(name)
        key = name if name in listing.texts else stem
        path = listing.texts.get(key)
        if path is None:
            continue
        if key == stem:
            shared.setdefault(stem, []).append(name)
        caption = _read_text(path, found.problems)
        if caption is not None:
            found.by_name[name] = caption
    for stem, names in shared.items():
        if listing.stems[stem] > 1:
            reason = f"is the caption of {len(names)} pictures ({', '.join(names)}): rename one, or give each its own, like {names[0]}.txt"
            found.problems.append(Problem(listing.texts[stem], reason, left_out=False))
    used = set(listing.stems) | set(listing.pictures)
    lost = [path for key, path in listing.texts.items() if key not in used]
    if lost and len(found.by_name) < len(listing.pictures):
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        found.problems.append(Problem(lost[0], f"belongs to no picture{more}: name it like its picture", left_out=False))
    return found


def _read_text(path: Path, problems: list[Problem]) -> str | None:
    try:
        if path.stat().st_size > MAXIMUM_CAPTION_BYTES:
            problems.append(Problem(path, "is too long for a caption (more than 1 MB): shorten it", left_out=False))
            return None
        return layouts.decode(path.read_bytes()).strip()
    except UserError as error:
        problems.append(Problem(path, str(error), left_out=False))
    except OSError as error:
        problems.append(Problem(path, f"cannot be read: {error.strerror}", left_out=False))
    return None


def _from_table(listing: Listing, layout: Layout, file: Path, text: str) -> Captions:
    captions = layouts.TABLES[layout].parse(text, str(file))
    keys = match(captions, listing.pictures)
    by_name = {name: captions[key].strip() for name, key in keys.items()}
    found = Captions(layout, file, by_name, keys, [])
    unused = [key for key in captions if key not in set(keys.values())]
    if unused:
        names = ", ".join(unused[:3]) + (" ..." if len(unused) > 3 else "")
        found.problems.append(Problem(file, f"names {len(unused)} that are not among the pictures: {names}", left_out=False))
    return found


def match(keys: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """Which key of a metadata file means which picture: by relative path, file name, or either without its suffix.

    Keys may be whole paths of another machine, Windows' too. A key's end that fits two keys decides nothing.
    """
    whole: dict[str, str] = {}
    ends: dict[str, str | None] = {}
    for key in keys:
        parts = [part for part in key.replace("\\", "/").split("/") if part not in ("", ".")]
        whole.setdefault("/".join(parts), key)
        for length in {1, min(2, len(parts))}:
            end = "/".join(parts[-length:])
            ends[end] = None if end in ends else key
    matched = {}
    for name in names:
        file = PurePosixPath(name).name
        for candidate in dict.fromkeys((name, file, without_suffix(name), without_suffix(file))):
            key = whole.get(candidate) or ends.get(candidate)
            if key is not None:
                matched[name] = key
                break
    return matched


def _table_inside(folder: Path, listing: Listing) -> Captions | None:
    for name, layout in (("metadata.csv", "csv"), ("metadata.jsonl", "jsonl")):
        if (folder / name).is_file():
            return _from_table(listing, layout, folder / name, read_table(folder / name))
    return _best([_kohya(listing, file) for file in _json_files(folder)])


def _table_beside(folder: Path, listing: Listing) -> Captions | None:
    """The one JSON beside the folder whose name begins like the folder's: `nosnja_labels.json` for `nosnja`."""
    folder = folder.resolve()
    near = [_kohya(listing, file) for file in _json_files(folder.parent) if file.name.startswith(folder.name)]
    return _best(near)


def _json_files(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.glob("*.json") if file.is_file() and not file.name.startswith("."))
    except OSError:
        return []


def _kohya(listing: Listing, file: Path) -> Captions | None:
    """The captions in a JSON, None where it is a JSON of another kind or of other pictures."""
    try:
        text = read_table(file)
        if not layouts.looks_like_kohya(text):
            return None
        found = _from_table(listing, "kohya_json", file, text)
    except UserError:
        return None
    return found if found.by_name else None


def _best(found: list[Captions | None]) -> Captions | None:
    """The one with most captions; the newest where several have as many."""
    candidates = [captions for captions in found if captions is not None and captions.file is not None]
    if not candidates:
        return None
    best = max(candidates, key=lambda captions: (len(captions.by_name), captions.file.stat().st_mtime_ns, captions.file.name))
    if len(candidates) > 1:
        others = ", ".join(captions.file.name for captions in candidates if captions is not best)
        note = f"is used for the captions, and not {others}: move away what you don't mean"
        best.problems.append(Problem(best.file, note, left_out=False))
    return best


def folder_of(captions: Path) -> Path:
    """The folder of the pictures that a metadata file names: its own, one called like it, or the one beside it that fits best."""
    layout = _TABLE_SUFFIXES.get(captions.suffix.lower())
    if layout is None:
        raise UserError(f"The dataset {captions} is not a folder: give the path of a folder of pictures.")
    text = read_table(captions)
    keys = layouts.TABLES[layout].parse(text, str(captions))
    parent = captions.parent
    beside = sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    folders = [parent, parent / captions.stem, *beside]
    fits: Mapping[Path, int] = {folder: len(match(keys, list_folder(folder).pictures)) for folder in folders if folder.is_dir()}
    best = max(fits, key=lambda folder: fits[folder])
    if not fits[best]:
        raise UserError(f"None of the pictures that {captions} names lies beside it: give the folder of the pictures.")
    return best
