"""Bringing pictures and captions into the workspace: single files or a zip, which may come from a stranger.

A zip is never trusted: names that lead elsewhere are refused, and what counts is the bytes that really come out of it.
Everything is unpacked beside the datasets first and moved into its place when all of it is good. No file is overwritten.
"""

import contextlib
import hashlib
import itertools
import os
import re
import secrets
import shutil
import stat
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nosnja_gui.dataset import images
from nosnja_gui.dataset.reading import REPEATS_FOLDER, without_suffix
from nosnja_gui.files import free_bytes
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import file_name

CAPTION_SUFFIXES = frozenset({".txt", ".csv", ".jsonl", ".json"})
TAKEN = images.SUFFIXES | images.UNSUPPORTED_SUFFIXES | CAPTION_SUFFIXES
JUNK = frozenset({"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini"})
MAXIMUM_ENTRIES = 60_000
MAXIMUM_GROWTH = 20
"""Pictures hardly compress: a zip that grows by more is no dataset."""
GROWTH_FREE_BYTES = 200_000_000
"""Up to this much may come out of any zip, however small."""
MAXIMUM_CAPTIONS_BYTES = 100_000_000
SPARE_BYTES = 500_000_000
"""To be left free on the disk."""
CHUNK = 1 << 20


@dataclass(frozen=True)
class Imported:
    folder: Path
    pictures: int
    captions: int
    notes: tuple[str, ...] = ()
    """What was left out or renamed, a sentence each."""


def import_files(files: Iterable[tuple[str, Path]], datasets: Path, name: str, into: Path | None = None) -> Imported:
    """Copy files, given as (name, path), into the new dataset `name`, or `into` an existing one. Zips are unpacked.

    Of folders in the names only kohya's ("10_name") stay, whatever else is in them. Raises UserError, with nothing imported, for
    a bad zip, a full disk, and where no picture is among the files.
    """
    made = Staging(datasets)
    try:
        for given, path in files:
            if given.lower().endswith(".zip"):
                unpack(path, given, made)
            else:
                made.copy(given, path)
        if not made.names:
            kinds = "PNG, JPEG, WebP, BMP, TIFF or GIF"
            why = f" ({made.notes[0].removesuffix('.')})" if made.notes else ""
            raise UserError(f"There is no picture and no caption among these files{why}: give {kinds} files, or a zip of them.")
        return made.move(into if into is not None else _new_folder(datasets, name))
    except OSError as error:
        raise UserError(f"The files cannot be copied into {datasets}: {error.strerror}.") from None
    finally:
        made.remove()


class Staging:
    """A hidden folder beside the datasets in which files wait until all of them are good."""

    def __init__(self, datasets: Path) -> None:
        datasets.mkdir(parents=True, exist_ok=True)
        self.folder = datasets / f".importing-{secrets.token_hex(6)}"
        self.folder.mkdir()
        self.names: dict[str, Path] = {}
        """Where each file waits, by the name that it will get."""
        self.notes: list[str] = []
        self.free = free_bytes(datasets) - SPARE_BYTES
        self._taken: set[str] = set()
        self._owners: dict[str, str] = {}
        self._stems: dict[tuple[str, str], str] = {}

    def path(self, name: str, origin: str = "") -> Path:
        """A place for the content of a file of that (clean) name.

        Where two folders (`origin`) hold the same name, picture and caption of the second get the same number.
        """
        stem, suffix = without_suffix(name), PurePosixPath(name).suffix
        if (origin, stem) not in self._stems:
            free = next(free for free in _numbered(stem) if free.casefold() not in self._owners)
            self._stems[origin, stem] = free
            self._owners[free.casefold()] = origin
        free = next(free for free in _numbered(self._stems[origin, stem]) if f"{free}{suffix}".casefold() not in self._taken)
        self._taken.add(f"{free}{suffix}".casefold())
        self.names[f"{free}{suffix}"] = self.folder / str(len(self.names))
        return self.names[f"{free}{suffix}"]

    def copy(self, given: str, path: Path) -> None:
        origin, name = _place(given.replace("\\", "/"))
        if PurePosixPath(name).suffix.lower() not in TAKEN:
            self.note(f"{given[:80]} is neither a picture nor a caption and was left out.")
            return
        size = path.stat().st_size
        self.take(size)
        shutil.copyfile(path, self.path(name, origin))

    def take(self, size: int) -> None:
        self.free -= size
        if self.free < 0:
            raise UserError(f"The disk of {self.folder.parent} is too full for these files: make room, or choose fewer.")

    def note(self, text: str) -> None:
        self.notes.append(text)

    def move(self, folder: Path) -> Imported:
        """Everything to its place: pictures first, as a caption follows its picture where that had to get a number."""
        folder.mkdir(parents=True, exist_ok=True)
        done = {True: 0, False: 0}
        stems: dict[str, str] = {}
        for name, path in sorted(self.names.items(), key=lambda item: _is_caption(item[0])):
            caption = _is_caption(name)
            target = folder / (f"{stems.get(without_suffix(name), without_suffix(name))}{PurePosixPath(name).suffix}")
            there = os.path.lexists(target)
            if there and _same(target, path):
                self.note(f"{target.name} is there already.")
                continue
            if there and caption:
                self.note(f"{target.name} is there already with another text, which stays.")
                continue
            if there:
                before = target
                target = next(free for stem in _numbered(before.stem) if not _exists(free := before.with_name(stem + before.suffix)))
                self.note(f"{before.name} became {target.name}, as there is another {before.name}.")
                stems[without_suffix(name)] = without_suffix(target.relative_to(folder).as_posix())
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
            done[caption] += 1
        return Imported(folder, done[False], done[True], tuple(self.notes))

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def unpack(archive: Path, given: str, made: Staging) -> None:
    """Take a zip's pictures and captions. Raises UserError, in one sentence, for what no dataset's zip holds."""
    allowed = GROWTH_FREE_BYTES + MAXIMUM_GROWTH * archive.stat().st_size
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            if len(entries) > MAXIMUM_ENTRIES:
                raise UserError(f"{given} holds {len(entries)} files, at most {MAXIMUM_ENTRIES} are taken: split it.")
            wanted = [(entry, name) for entry in entries if (name := _checked(entry, given)) is not None]
            for entry, name in wanted:
                origin, kept = _place(name)
                if PurePosixPath(kept).suffix.lower() in TAKEN:
                    allowed -= _extract(opened, entry, given, made.path(kept, origin), allowed, made)
                else:
                    made.note(f"{name[:80]} is neither a picture nor a caption and was left out.")
    except UserError:
        raise
    except OSError:
        raise
    # Beside its own errors zipfile lets through those of the decompressors and of the struct module.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise UserError(f"{given} is damaged or no zip ({reason}): pack it again.") from None


def _checked(entry: zipfile.ZipInfo, given: str) -> str | None:
    """Name of a file to be taken, None for what is passed over. Raises UserError for what is up to something."""
    # `filename` has been cut at a zero byte and had its separators changed: what was really written decides.
    name = entry.orig_filename
    parts = name.split("/")
    shown = name[:80].replace("\0", "?")
    if "\\" in name or "\0" in name or name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in parts:
        raise UserError(f"{given} has a file whose name leads out of its folder ('{shown}'): pack it again without such names.")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UserError(f"{given} has a link or device in it ('{shown}'): pack it again with the files themselves.")
    if entry.flag_bits & 0x1:
        raise UserError(f"{given} is encrypted: pack it again without a password.")
    if entry.is_dir() or any(part in JUNK or part.startswith(".") for part in parts):
        return None
    return name


def _place(name: str) -> tuple[str, str]:
    """(the folder that it comes from, the name that the file gets): only kohya's subfolders ("10_name") stay, as no others are read."""
    *folders, last = name.split("/")
    kept = [folder for folder in folders if REPEATS_FOLDER.fullmatch(folder)][-1:]
    return "/".join(folders), "/".join([*map(clean, kept), clean(last)])


def _extract(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, given: str, target: Path, allowed: int, made: Staging) -> int:
    """Write one file, counting the bytes that really come out; returns how many."""
    limit = MAXIMUM_CAPTIONS_BYTES if _is_caption(entry.filename) else images.MAXIMUM_BYTES
    size = 0
    with opened.open(entry) as source, open(target, "wb") as file:
        while chunk := source.read(CHUNK):
            size += len(chunk)
            if size > min(limit, allowed):
                raise UserError(f"{given} unpacks to far more than it should ('{entry.filename[:80]}'): it is no zip of pictures.")
            made.take(len(chunk))
            file.write(chunk)
    return size


def clean(name: str) -> str:
    """A file name that every system takes, as near to the given one as possible; letters of all scripts stay."""
    name = name.encode("utf-8", "replace").decode("utf-8")
    name = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f]', "-", name).strip().rstrip(".") or "file"
    stem, dot, suffix = name.rpartition(".")
    stem, suffix = (stem, dot + suffix) if stem else (name, "")
    stem = stem.lstrip(".") or "file"
    if re.fullmatch(r"(?i)con|prn|aux|nul|com\d|lpt\d", stem):
        stem = f"{stem}-"
    while len(f"{stem}{suffix}".encode()) > 200 and len(stem) > 1:
        stem = stem[:-1]
    return f"{stem}{suffix[:40]}"


def _new_folder(datasets: Path, name: str) -> Path:
    return next(folder for free in _numbered(file_name(name)) if not _exists(folder := datasets / free))


def _numbered(stem: str) -> Iterator[str]:
    """The name, name-2, name-3 ..."""
    yield stem
    yield from (f"{stem}-{number}" for number in itertools.count(2))


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


def _is_caption(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in CAPTION_SUFFIXES


def _same(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        if one.is_file() and one.stat().st_size == other.stat().st_size:
            with open(one, "rb") as left, open(other, "rb") as right:
                return hashlib.file_digest(left, "sha256").digest() == hashlib.file_digest(right, "sha256").digest()
    return False
