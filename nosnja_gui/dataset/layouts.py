"""The four ways captions lie beside pictures: .txt files, metadata.csv, metadata.jsonl, a kohya metadata JSON.

Text in, text out: each layout can be parsed and rendered anew with some captions changed; everything else in a
file (other columns, other keys, rows of pictures that are elsewhere) stays. Reads and writes no files itself.
"""

import codecs
import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nosnja_gui.settings import UserError

Layout = Literal["txt", "csv", "jsonl", "kohya_json"]

NAME_COLUMNS = ("file_name", "filename", "file", "image", "image_path", "image_file", "path", "name")
CAPTION_COLUMNS = ("text", "caption", "prompt", "captions", "description", "tags")


@dataclass(frozen=True)
class TableLayout:
    """A file that holds all captions. Keys are pictures as the file names them."""

    parse: Callable[[str, str], dict[str, str]]
    """(text, where) -> caption by key; raises UserError, `where` is the file to name in it."""
    render: Callable[[str, str, Mapping[str, str]], str]
    """(text, where, captions by key) -> the text with these captions changed, new keys appended."""


def decode(data: bytes) -> str:
    """Text of unknown encoding: UTF-8 or UTF-16 by their marks, UTF-8, else Windows-1252. Line ends become \\n.

    Raises UserError, without the file's name, for what is not text.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = ["utf-16"]
    elif b"\0" in data:
        raise UserError("holds zero bytes, so it is not a text: save it as UTF-8")
    else:
        encodings = ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            continue
    raise UserError("is neither UTF-8, UTF-16 nor Windows-1252 text: save it as UTF-8")


# csv


def parse_csv(text: str, where: str) -> dict[str, str]:
    names, captions, rows, _ = _csv_rows(text, where)
    return {row[names]: row[captions] for row in rows if row[names]}


def render_csv(text: str, where: str, changes: Mapping[str, str]) -> str:
    if not text.strip():
        text = "file_name,text\n"
    names, captions, rows, dialect = _csv_rows(text, where)
    pending = dict(changes)
    for row in rows:
        if row[names] in changes:
            row[captions] = changes[row[names]]
            pending.pop(row[names], None)
    header = _csv_header(text, dialect)
    rows += [{**dict.fromkeys(header, ""), names: key, captions: caption} for key, caption in pending.items()]
    out = io.StringIO()
    writer = csv.DictWriter(out, header, delimiter=dialect, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _csv_header(text: str, delimiter: str) -> list[str]:
    return next(csv.reader(io.StringIO(text), delimiter=delimiter), [])


def _csv_rows(text: str, where: str) -> tuple[str, str, list[dict[str, str]], str]:
    """(column of names, column of captions, rows, delimiter)."""
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    header = _csv_header(text, delimiter)
    plain = {column.strip().lower(): column for column in reversed(header)}
    names = next((plain[column] for column in NAME_COLUMNS if column in plain), None)
    captions = next((plain[column] for column in CAPTION_COLUMNS if column in plain), None)
    if names is None or captions is None or len(set(header)) < len(header):
        got = ", ".join(header)[:200] or "an empty file"
        raise UserError(f"{where} must begin with one column 'file_name' and one column 'text' or 'caption' (got {got}).")
    try:
        rows = []
        for row in csv.DictReader(io.StringIO(text), delimiter=delimiter):
            if None in row:
                raise UserError(f"{where} has more fields than columns in the row of '{row[names]}': put captions in quotation marks.")
            rows.append({column: value or "" for column, value in row.items()})
    except csv.Error as error:
        raise UserError(f"{where} is not readable as CSV: {error}.") from None
    return names, captions, rows, delimiter


# jsonl


def parse_jsonl(text: str, where: str) -> dict[str, str]:
    captions = {}
    for number, entry in _jsonl_entries(text, where):
        names, column = _columns(entry)
        if names is None:
            raise UserError(f"{where} says no 'file_name' in line {number}.")
        if column is not None:
            captions[entry[names]] = entry[column]
    return captions


def render_jsonl(text: str, where: str, changes: Mapping[str, str]) -> str:
    pending, lines = dict(changes), []
    for _, entry in _jsonl_entries(text, where):
        names, column = _columns(entry)
        key = entry[names] if names else None
        if key in changes:
            entry = {**entry, column or "text": changes[key]}
            pending.pop(key, None)
        lines.append(entry)
    lines += [{"file_name": key, "text": caption} for key, caption in pending.items()]
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in lines)


def _jsonl_entries(text: str, where: str) -> list[tuple[int, dict[str, Any]]]:
    entries = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            raise UserError(f'{where} is not JSON in line {number}; each line must be like {{"file_name": "1.png", "text": "a girl"}}.')
        entries.append((number, entry))
    return entries


def _columns(entry: Mapping[str, Any]) -> tuple[str | None, str | None]:
    names = next((column for column in NAME_COLUMNS if isinstance(entry.get(column), str)), None)
    captions = next((column for column in CAPTION_COLUMNS if isinstance(entry.get(column), str)), None)
    return names, captions


# kohya's metadata JSON


def parse_kohya(text: str, where: str) -> dict[str, str]:
    captions = {}
    for key, entry in _kohya_entries(text, where).items():
        caption = entry if isinstance(entry, str) else entry.get("caption", entry.get("tags"))
        if isinstance(caption, str):
            captions[key] = caption
    return captions


def render_kohya(text: str, where: str, changes: Mapping[str, str]) -> str:
    entries = _kohya_entries(text, where) if text.strip() else {}
    for key, caption in changes.items():
        entry = entries.get(key, {})
        if isinstance(entry, str):
            entries[key] = caption
        else:
            column = "tags" if "tags" in entry and "caption" not in entry else "caption"
            entries[key] = {**entry, column: caption}
    return json.dumps(entries, ensure_ascii=False, indent=2) + "\n"


def looks_like_kohya(text: str) -> bool:
    """Whether a JSON text is a kohya metadata file: an object whose values are objects with a caption or tags."""
    try:
        entries = _kohya_entries(text, "")
    except UserError:
        return False
    return any(isinstance(entry, dict) and ("caption" in entry or "tags" in entry) for entry in entries.values())


def _kohya_entries(text: str, where: str) -> dict[str, Any]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error) or "nested too deeply"
        raise UserError(f"{where} is not readable as JSON: {reason}.") from None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict | str) for entry in entries.values()):
        raise UserError(f'{where} must be like {{"picture": {{"caption": "a girl"}}}}.')
    return entries


TABLES: dict[Layout, TableLayout] = {
    "csv": TableLayout(parse_csv, render_csv),
    "jsonl": TableLayout(parse_jsonl, render_jsonl),
    "kohya_json": TableLayout(parse_kohya, render_kohya),
}
