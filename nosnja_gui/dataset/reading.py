"""Finding the pictures of a dataset and the captions that belong to them. Reads only."""

import functools
import os
import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from nosnja_gui.dataset import images, layouts, masks
from nosnja_gui.dataset.layouts import Layout
from nosnja_gui.settings import UserError

MAXIMUM_CAPTION_BYTES = 1_000_000
MAXIMUM_TABLE_BYTES = 500_000_000

REPEATS_FOLDER = re.compile(r"\d+_.+")
"""kohya's subfolders, "10_name": looked into, while other subfolders are the user's own business."""


@dataclass(frozen=True)
class Picture:
    """A usable picture. Width and height in pixels as it is shown, after EXIF orientation; 0 where nobody looked."""

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
    states: dict[str, "_State"] = field(default_factory=dict)
    """Of the .txt files, by the same names: saves asking again."""

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


def read(folder: Path, captions: Path | None = None, look_inside: bool = True) -> Dataset:
    """Read a dataset: its folder, or the metadata file that names its pictures.

    `captions` is a metadata.csv, .jsonl or kohya .json that lies elsewhere. Pictures that can't be used become
    problems and the rest go on. Without `look_inside` no picture is opened: all of them are there, of size 0 x 0,
    which takes no longer for large photographs than for small ones. Raises UserError for a missing or empty folder
    and where no picture is usable. What has not changed since the last call is not read again.
    """
    folder, captions = Path(folder), Path(captions) if captions else None
    if captions is None and folder.is_file() and folder.suffix.lower() in _TABLE_SUFFIXES:
        folder, captions = folder_of(folder), folder
    began = time.time_ns()
    scans = _scan_all(folder)
    state = (scans, _states_of_tables(folder, captions))
    key = (folder, captions, look_inside)
    known = _datasets.get(key)
    if known is not None and known[0] == state:
        return known[1]
    dataset = _read(folder, captions, look_inside, scans)
    _datasets.pop(key, None)
    # As git does with its index: what was changed a moment ago may change once more without its time showing it.
    newest = max((file.mtime_ns for _, files in scans for file in files), default=0)
    if not began - COARSE_TIME_NS < newest < began + 60 * 10**9:
        while len(_datasets) >= REMEMBERED_DATASETS:
            _datasets.pop(next(iter(_datasets)), None)
        _datasets[key] = (state, dataset)
    return dataset


def _read(folder: Path, captions: Path | None, look_inside: bool, scans: "_Scans") -> Dataset:
    listing = _listing(folder, scans)
    if not listing.pictures and not listing.problems:
        raise UserError(f"There are no pictures in {folder}: put .png or .jpg files into it.")
    found = find_captions(folder, listing, captions)
    pictures, problems = [], []
    for name, path in listing.pictures.items():
        size = _checked(path) if look_inside else (0, 0)
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


def list_folder(folder: Path, only: Collection[str] | None = None) -> Listing:
    """Pictures and .txt files in natural order. Hidden files, folders, pipes and other things that are no files stay out.

    With `only` (names of pictures) just these are listed, with whatever shares a caption with them; problems are not looked for.
    """
    return _listing(folder, _scan_all(folder, only))


def signature(folder: Path, captions: Path | None = None) -> int:
    """Changes with anything that `read` looks at: names, sizes and times, not contents. Raises UserError as `read` does."""
    return hash((_scan_all(folder), _states_of_tables(folder, captions)))


def find_captions(folder: Path, listing: Listing, file: Path | None = None, texts_only: bool = False) -> Captions:
    """The captions of the listed pictures: from `file`, a metadata file in the folder, .txt files, or a JSON beside the folder."""
    if texts_only:
        return _from_texts(listing)
    if file is not None:
        layout = _TABLE_SUFFIXES.get(file.suffix.lower())
        if layout is None:
            raise UserError(f"Captions {file} must be a .csv, .jsonl or .json file.")
        return _from_table(listing, layout, file, read_table(file))
    texts = _from_texts(listing)
    table = table_inside(folder, listing)
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


class _File(NamedTuple):
    """An entry of a folder, with what tells that it has changed."""

    name: str
    suffix: str
    kind: Literal["file", "lost link", "other"]
    size: int = 0
    mtime_ns: int = 0
    inode: int = 0


_State = tuple[int, int, int]
"""Size, time and inode of a file."""

_Scans = tuple[tuple[str, tuple[_File, ...]], ...]
"""(subfolder with a slash at its end, or "" for the folder itself; its files) each, unsorted."""

COARSE_TIME_NS = 50_000_000
"""File times are as coarse as the system's clock tick."""
REMEMBERED_DATASETS = 8

_datasets: dict[tuple[Path, Path | None, bool], tuple[Any, Dataset]] = {}
_LISTED = images.SUFFIXES | images.UNSUPPORTED_SUFFIXES | {".txt"}


def _scan_all(folder: Path, only: Collection[str] | None = None) -> _Scans:
    stems = None if only is None else {part for name in only for part in (name, without_suffix(name))}
    try:
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise UserError(f"The dataset {folder} {what}: give the path of a folder of pictures.")
        inner: list[str] = []
        scans = [("", tuple(_scan(folder, "", stems, inner)))]
        scans += [(f"{name}/", tuple(_scan(folder / name, f"{name}/", stems, []))) for name in sorted(inner, key=_natural)]
    except OSError as error:
        raise UserError(f"The dataset {folder} cannot be read: {error.strerror}.") from None
    return tuple(scans)


def _scan(folder: Path, prefix: str, stems: set[str] | None, inner: list[str]) -> Iterator[_File]:
    """Pictures and texts directly in the folder; names of kohya's subfolders are put into `inner`."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            stem = without_suffix(name)
            suffix = name[len(stem) :].lower()
            if name[0] != "." and suffix in _LISTED:
                if stems is not None:
                    if prefix + stem in stems and _is_file(entry):
                        yield _File(name, suffix, "file")
                    continue
                try:
                    if entry.is_file():
                        state = entry.stat()
                        yield _File(name, suffix, "file", state.st_size, state.st_mtime_ns, state.st_ino)
                        continue
                except OSError:  # gone meanwhile, or a link that leads to itself
                    pass
                lost = entry.is_symlink() and not (folder / name).is_dir()
                yield _File(name, suffix, "lost link" if lost else "other")
            if REPEATS_FOLDER.fullmatch(name) and _is_folder(entry):
                inner.append(name)


def _listing(folder: Path, scans: _Scans) -> Listing:
    listing = Listing({}, {}, [])
    for prefix, files in scans:
        before = len(listing.pictures)
        inner = folder / prefix if prefix else folder
        for file in sorted(files, key=lambda file: _natural(file.name)):
            path = inner / file.name
            if file.kind != "file":
                if file.kind == "lost link":
                    listing.problems.append(Problem(path, "is a link that leads nowhere: remove it"))
            elif file.suffix == ".txt":
                listing.texts[prefix + file.name[:-4]] = path
                if file.inode:
                    listing.states[prefix + file.name[:-4]] = (file.size, file.mtime_ns, file.inode)
            elif file.suffix in images.UNSUPPORTED_SUFFIXES:
                reason = f"is in a format that can't be read ({file.suffix[1:].upper()}): convert it to PNG or JPEG"
                listing.problems.append(Problem(path, reason))
            elif not file.name.isascii() and not _is_unicode(file.name):
                listing.problems.append(Problem(path, "has a name that is not valid UTF-8: rename it"))
            else:
                listing.pictures[prefix + file.name] = path
        _leave_out_masks(listing, prefix)
        if prefix and len(listing.pictures) > before:
            note = "is read too, but the number in its name is not used: say dataset.repeats instead"
            listing.problems.append(Problem(inner, note, left_out=False))
    return listing


def _leave_out_masks(listing: Listing, prefix: str) -> None:
    """The masks of pictures in this folder are no pictures to train on."""
    suspects = [name for name in listing.pictures if masks.MARK in name]
    stems = {without_suffix(name): name for name in listing.pictures if name.startswith(prefix)} if suspects else {}
    found = [name for stem, name in stems.items() if masks.of_another(stem, stems)]
    if found:
        masked = [listing.pictures.pop(name) for name in found]
        more = f" (and {len(masked) - 1} more)" if len(masked) > 1 else ""
        listing.problems.append(Problem(masked[0], f"is the mask of another picture{more}, so it is not trained on", left_out=False))


def _states_of_tables(folder: Path, captions: Path | None) -> tuple[Any, ...]:
    """What tells that a metadata file has changed, come or gone."""
    if captions is not None:
        return (_state_of(captions),)
    names = ("metadata.csv", "metadata.jsonl")
    home = folder.resolve()
    near = [file for file in _json_files(home.parent) if file.name.startswith(home.name)]
    return tuple((file.name, _state_of(file)) for file in (*(folder / name for name in names), *_json_files(folder), *near))


def _state_of(file: Path) -> _State | None:
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns, state.st_ino


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


@functools.lru_cache(maxsize=200_000)
def _natural(name: str) -> tuple:
    """Sorts 2.png before 10.png."""
    parts = _DIGITS.split(name.casefold())
    return tuple((int(part), "") if part.isdecimal() and part.isascii() else (-1, part) for part in parts), name


_DIGITS = re.compile(r"(\d+)")


def without_suffix(name: str) -> str:
    """Of a name with slashes; several times as fast as pathlib, for tens of thousands of files."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and stem and "/" not in suffix and stem[-1] != "/" else name


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
        caption = _read_text(path, found.problems, listing.states.get(key))
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


_texts: dict[str, tuple[_State, str]] = {}
"""Captions by file, with the state in which the file was read."""
REMEMBERED_TEXTS = 300_000


def _read_text(path: Path, problems: list[Problem], state: _State | None = None) -> str | None:
    key = str(path)
    try:
        if state is None:
            now = path.stat()
            state = (now.st_size, now.st_mtime_ns, now.st_ino)
        known = _texts.get(key)
        if known is not None and known[0] == state:
            return known[1]
        if state[0] > MAXIMUM_CAPTION_BYTES:
            problems.append(Problem(path, "is too long for a caption (more than 1 MB): shorten it", left_out=False))
            return None
        began = time.time_ns()
        text = layouts.decode(path.read_bytes()).strip()
        _texts.pop(key, None)
        if not began - COARSE_TIME_NS < state[1] < began + 60 * 10**9:
            if len(_texts) >= REMEMBERED_TEXTS:
                _texts.clear()
            _texts[key] = (state, text)
        return text
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


def table_inside(folder: Path, listing: Listing) -> Captions | None:
    """The captions in a metadata file of the folder, None where it has none that names one of the pictures."""
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
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(".json") and entry.name[0] != "." and _is_file(entry)]
            return sorted(folder / name for name in names)
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
