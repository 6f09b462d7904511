"""Writing captions so that nothing is ever lost: what was there before is kept as a numbered version, and undo goes back.

A version is a file in the dataset's `.nosnja/versions`: note, time, and the former content of every file that was
about to be changed, written before the change. What an undo replaces is kept in `.nosnja/undone`.
Only what is to be changed is looked at, so that one caption of ten thousand is written at once.
"""

import base64
import codecs
import json
import os
import time
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nosnja_gui.dataset import layouts
from nosnja_gui.dataset.reading import (
    MAXIMUM_TABLE_BYTES,
    Captions,
    Dataset,
    Listing,
    find_captions,
    folder_of,
    list_folder,
    table_inside,
    text_file,
    without_suffix,
)
from nosnja_gui.files import write_atomic
from nosnja_gui.settings import UserError

FOLDER = Path(".nosnja")
LONG_BYTES = 65_536
"""From here on a version keeps a content compressed: a table of all captions is kept whole for each change of one of them."""
_WRITABLE = frozenset({".txt", ".csv", ".jsonl", ".json"})

Content = bytes | None
"""A file's bytes; None where there is no file."""


@dataclass(frozen=True)
class Version:
    """What captions were before a change."""

    file: Path
    note: str
    at: float
    """Seconds since 1970."""
    contents: Mapping[str, Content]
    """What the changed files held, by path relative to the dataset's folder."""


def write_captions(dataset: Dataset, captions: Mapping[str, str], note: str, version: Path | None = None) -> Path | None:
    """Write captions by picture name in the dataset's own layout; all or none of them.

    The old state is kept as a version called `note`; with `version` (what a former call returned) it joins that
    one, so that a long job is undone at once. Returns the version, None where there was nothing to change.
    Raises UserError, with nothing changed, for unknown pictures, a caption that somebody else has changed since
    the dataset was read, and a disk that can't be written.
    """
    known = {picture.name: picture.caption for picture in dataset.pictures}
    strange = [name for name in captions if name not in known]
    if strange:
        raise UserError(f"There is no picture '{strange[0]}' in {dataset.folder}: read the dataset again.")
    cleaned = {name: caption.replace("\r\n", "\n").strip() for name, caption in captions.items()}
    if dataset.captions_file is None:
        listing = list_folder(dataset.folder, only=cleaned)
        appeared = table_inside(dataset.folder, Listing({picture.name: picture.path for picture in dataset.pictures}, {}, []))
        if appeared is not None:
            raise UserError(f"{appeared.file} has appeared in {dataset.folder} meanwhile: read the dataset again.")
        present = find_captions(dataset.folder, listing, texts_only=True)
    else:
        listing = list_folder(dataset.folder)
        present = find_captions(dataset.folder, listing, dataset.captions_file)
    for name, caption in cleaned.items():
        now = present.by_name.get(name)
        if now not in (known[name], caption):
            raise UserError(f"The caption of '{name}' has been changed elsewhere meanwhile: read the dataset again.")
    changes = {name: caption for name, caption in cleaned.items() if present.by_name.get(name) != caption}
    if not changes:
        return version
    if dataset.captions_file is None:
        after = {text_file(dataset.folder, listing, name): (text + "\n").encode() for name, text in changes.items()}
    else:
        after = {dataset.captions_file: _render_table(dataset, listing, present, changes)}
    before = {path: _content(path) for path in after}
    try:
        version = _keep(dataset.folder, before, note, version)
        _replace_all(before, after)
    except OSError as error:
        raise UserError(f"The captions in {dataset.folder} cannot be written and stay as they were: {error.strerror}.") from None
    return version


def versions(folder: Path, limit: int | None = None) -> list[Version]:
    """All versions that can be undone, the newest first; at most `limit`."""
    found = []
    for file in sorted(_numbered(folder / FOLDER / "versions"), key=lambda file: int(file.stem), reverse=True):
        if limit is not None and len(found) >= limit:
            break
        if (version := _load(file)) is not None:
            found.append(version)
    return found


def undo(folder: Path, captions: Path | None = None) -> str:
    """Go back one version and return its note. Raises UserError where there is none.

    `captions` is the metadata file, where it was given to `read` and lies neither in the folder nor beside it.
    """
    if folder.is_file():  # the dataset was named by its metadata file, as `read` allows
        folder, captions = folder_of(folder), folder
    kept = versions(folder, limit=1)
    if not kept:
        raise UserError(f"There is nothing to undo in {folder}.")
    version = kept[0]
    after = {_allowed(folder, name, captions): content for name, content in version.contents.items()}
    before = {path: _content(path) for path in after}
    try:
        _save(_free(folder / FOLDER / "undone"), folder, before, version.note)
        _replace_all(before, after)
        version.file.unlink()
    except OSError as error:
        raise UserError(f"The captions in {folder} cannot be written and stay as they were: {error.strerror}.") from None
    return version.note


def _render_table(dataset: Dataset, listing: Listing, present: Captions, changes: Mapping[str, str]) -> bytes:
    file = dataset.captions_file
    assert file is not None
    data = _content(file) or b""
    users = Counter(present.keys.values())
    by_key = {}
    for name, caption in changes.items():
        key = present.keys.get(name)
        if key is None or users[key] > 1:  # no row yet, or one that also speaks for another picture
            stem = without_suffix(name)
            key = stem if present.layout == "kohya_json" and listing.stems[stem] == 1 else name
        by_key[key] = caption
    text = layouts.TABLES[present.layout].render(layouts.decode(data), str(file), by_key)
    # Excel reads UTF-8 only with this mark: keep it where it was.
    return text.encode("utf-8-sig" if data.startswith(codecs.BOM_UTF8) else "utf-8")


def _replace_all(before: Mapping[Path, Content], after: Mapping[Path, Content]) -> None:
    """Write every file or, on an error, put back those already written."""
    written = []
    try:
        for path, content in after.items():
            written.append(path)
            _put(path, content)
    except OSError:
        for path in written:
            _put(path, before[path])
        raise


def _put(path: Path, content: Content) -> None:
    if content == _content(path):
        return
    if content is None:
        path.unlink(missing_ok=True)
    else:
        write_atomic(path, content)


def _content(path: Path) -> Content:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _keep(folder: Path, before: Mapping[Path, Content], note: str, version: Path | None) -> Path:
    earlier = _load(version) if version is not None else None
    if earlier is None:
        file = _free(folder / FOLDER / "versions")
        _save(file, folder, before, note)
        return file
    # What an earlier call of the same job kept is the older state: it wins.
    joined = {path: content for path, content in before.items() if _relative(folder, path) not in earlier.contents}
    if joined:
        _save(earlier.file, folder, {**{folder / name: content for name, content in earlier.contents.items()}, **joined}, earlier.note)
    return earlier.file


def _numbered(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except OSError:
        return []
    return [folder / name for name in names if name.endswith(".json") and name[:-5].isascii() and name[:-5].isdecimal()]


def _free(folder: Path) -> Path:
    """The next number's file, taken by creating it, so that two processes never get the same one."""
    folder.mkdir(parents=True, exist_ok=True)
    number = max((int(file.stem) for file in _numbered(folder)), default=0) + 1
    while True:
        file = folder / f"{number:04d}.json"
        try:
            file.touch(exist_ok=False)
            return file
        except FileExistsError:
            number += 1


def _save(file: Path, folder: Path, contents: Mapping[Path, Content], note: str) -> None:
    values = {"note": note, "at": time.time(), "files": {_relative(folder, path): _to_json(content) for path, content in contents.items()}}
    try:
        write_atomic(file, json.dumps(values, ensure_ascii=False, indent=1))
    except OSError:
        file.unlink(missing_ok=True)
        raise


def _load(file: Path) -> Version | None:
    """A version, None for a file that is not one (a crash may have left it empty)."""
    try:
        values = json.loads(file.read_bytes())
        contents = {name: _from_json(content) for name, content in values["files"].items()}
        return Version(file, str(values["note"]), float(values["at"]), contents)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zlib.error):
        return None


def _to_json(content: Content) -> str | dict[str, str] | None:
    if content is None:
        return None
    if len(content) >= LONG_BYTES:
        return {"zlib": base64.b64encode(zlib.compress(content, 1)).decode()}
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode()}


def _from_json(value: str | dict[str, str] | None) -> Content:
    if isinstance(value, dict):
        if "base64" in value:
            return base64.b64decode(value["base64"])
        # A stranger's version must not fill the memory.
        return zlib.decompressobj().decompress(base64.b64decode(value["zlib"]), MAXIMUM_TABLE_BYTES)
    return None if value is None else value.encode()


def _relative(folder: Path, path: Path) -> str:
    return Path(os.path.relpath(_real(path), folder.resolve())).as_posix()


def _real(path: Path) -> Path:
    """Links on the way followed, but not the file itself: a link there is replaced, not what it leads to."""
    return path.parent.resolve() / path.name


def _allowed(folder: Path, name: str, captions: Path | None) -> Path:
    """A version's file. A dataset may come from a stranger: its versions must not write anywhere else."""
    home = folder.resolve()
    path = _real(Path(os.path.normpath(home / name)))
    suffix = path.suffix.lower()
    inside = path.is_relative_to(home) and suffix in _WRITABLE
    beside = path.parent == home.parent and suffix in _WRITABLE - {".txt"}
    if not (inside or beside or (captions is not None and path == _real(captions))):
        raise UserError(f"A version in {folder} wants to write {path}, which is no caption of this dataset: nothing was changed.")
    return path
