"""Settings of other trainers as presets of ours: what a file asks for, line by line, and what became of each line here.

A new format is one file here with `ENTRY = Format(...)`: a table that says for each of its keys which setting it is.
Files are read as text and nothing else: no path in them is opened, nothing in them is run.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from nosnja_gui import presets
from nosnja_gui.dataset.buckets import LATENT_STEP
from nosnja_gui.jobs import TrainJob
from nosnja_gui.registry import Shelf
from nosnja_gui.settings import UserError, merge_dotted

Verdict = Literal["taken", "approximated", "no counterpart", "ignored"]
VERDICTS: tuple[Verdict, ...] = ("taken", "approximated", "no counterpart", "ignored")
PERSONAL = presets.PERSONAL
"""Paths of another machine and the like are only offered, never part of a preset."""
LARGEST_BYTES = 500_000
"""Of a file. OneTrainer's with all that it can hold are about 60 KB."""
LONGEST_SHOWN = 200
SECRET = re.compile(r"token$|api_key|password|secret", re.IGNORECASE)
"""Keys whose values are nobody's business: they are neither shown nor kept. (`keep_tokens` is none of them.)"""


@dataclass(frozen=True)
class Answer:
    """What a value comes to here."""

    verdict: Verdict
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Our settings by dotted name."""
    reason: str = ""
    """A sentence; empty where there is nothing to explain."""


OFF = Answer("ignored", {}, "Off in the file.")
EMPTY = Answer("ignored", {}, "Empty in the file.")


@dataclass(frozen=True)
class Line:
    """One key of a file and what became of it."""

    key: str
    """As in the file; nested ones as `unet.learning_rate` and `datasets[0].resolution`."""
    value: Any
    verdict: Verdict
    settings: Mapping[str, Any]
    """Our settings by dotted name; empty where nothing follows."""
    reason: str = ""
    file: str = ""
    """Name of the file."""
    given: bool = True
    """Whether the file has the key; otherwise this is what its program does without it."""

    @property
    def shown(self) -> str:
        """The value for people: short, and nothing secret."""
        if SECRET.search(self.key) and self.value:
            return "…"
        return _shortened(self.value if isinstance(self.value, str) else json.dumps(self.value, default=str, ensure_ascii=False))


@dataclass(frozen=True)
class Imported:
    """What was read."""

    kind: str
    """The format's name, of the first file."""
    title: str
    """What people call the program that it is of."""
    settings: dict[str, Any]
    """By dotted name, without what is personal. Checked: they make a TrainJob."""
    personal: dict[str, Any]
    """The model, the pictures, the name ... that the file names; those of somebody's machine, so only to be offered."""
    lines: list[Line]

    def job(self) -> TrainJob:
        return TrainJob.parse(merge_dotted({}, self.settings))

    def of(self, verdict: Verdict) -> list[Line]:
        return [line for line in self.lines if line.verdict == verdict]


class Values(dict[str, Any]):
    """A file's values by their plain names, as the program that wrote them would understand them; what is missing is None."""

    along: frozenset[str] = frozenset()
    """Names of the formats of the files that are given along with this one."""
    given: frozenset[str] = frozenset()
    """Names that stand in the file; the others are what its program does without them."""

    def __missing__(self, key: str) -> None:
        return None


@dataclass(frozen=True)
class Entry:
    """A key of a file, for the rule that judges it."""

    key: str
    value: Any
    all: Values

    def beside(self, name: str) -> Any:
        """The value of a neighbour: of `datasets[0].is_reg` for `datasets[0].num_repeats`."""
        return self.all[self.key.rpartition(".")[0] + "." + name if "." in self.key else name]


Rule = Callable[[Entry], Answer]


@dataclass(frozen=True)
class Format:
    """What the files of a program look like."""

    name: str
    title: str
    recognises: Callable[[Any], bool]
    """Whether parsed content is of this format. For each content at most one format says yes."""
    table: Mapping[str, Rule]
    """By the key's plain name. Where a group has a rule of its own, it is one line."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What the program does without these keys, where it matters to the result and is not what we do."""
    plain: Callable[[str], str] = str
    """Key -> its name in the table."""
    understood: Callable[[Values], Values] = Values
    """The values as the program itself understands them, by plain names, where it translates or replaces some."""
    refuses: Callable[[Values], str] = lambda values: ""
    """Why such a file can't be taken over although it is one; empty where it can."""


FORMATS: Shelf[Format] = Shelf("nosnja_gui.foreign", "format of settings")


# Reading


def read(file: Path, *more: Path) -> Imported:
    """The settings in a file of another trainer; `more` are files that belong to it, such as its dataset's settings.

    Raises UserError, one sentence, for what cannot be read, is too large, damaged or of no known format.
    """
    return understand(*((path.name, _text_of(path)) for path in (file, *more)))


def understand(*files: tuple[str, str]) -> Imported:
    """The same of texts: (name, content) of each file. Where two say the same setting, the later one holds."""
    if not files:
        raise UserError("There is no file: choose a settings file of another trainer.")
    try:
        sources = [_recognised(name, text) for name, text in files]
        kinds = [source.form.name for source in sources]
        if doubles := [source.form.title for source in sources if kinds.count(source.form.name) > 1]:
            raise UserError(f"Only one file of {doubles[0]} can be taken over at a time: leave the others out.")
        for source in sources:
            source.values.along = frozenset(kinds) - {source.form.name}
        settings: dict[str, Any] = {}
        judged = [list(_judged(source, settings)) for source in reversed(sources)][::-1]
        # What a program does by itself comes last: other files may say it.
        lines = [line for source, some in zip(sources, judged, strict=True) for line in (*some, *_assumed(source, settings))]
    except RecursionError:
        raise UserError(f"{files[0][0]} is nested too deeply: choose a settings file of another trainer.") from None
    lines = _fitting(settings, lines)
    personal = {name: settings.pop(name) for name in list(settings) if name in PERSONAL}
    imported = Imported(kinds[0], sources[0].form.title, settings, personal, lines)
    imported.job()
    return imported


def _text_of(path: Path) -> str:
    try:
        with path.expanduser().open("rb") as stream:
            data = stream.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): choose a settings file of another trainer.") from None
    if len(data) > LARGEST_BYTES:
        raise UserError(f"{path.name} is larger than {LARGEST_BYTES // 1000} KB, so it holds no trainer's settings: choose another file.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path.name} is not a text in UTF-8: choose a settings file of another trainer.") from None


@dataclass(frozen=True)
class _Source:
    """A file whose format is known."""

    name: str
    form: Format
    flat: list[tuple[str, Any]]
    values: Values


def _recognised(name: str, text: str) -> _Source:
    if len(text) > LARGEST_BYTES:
        raise UserError(f"{name} is larger than {LARGEST_BYTES // 1000} KB, so it holds no trainer's settings: choose another file.")
    text = text.lstrip("\ufeff")
    # A list of objects is JSON, "[words]" is the heading of a TOML section.
    is_json = bool(re.match(r"\s*(\{|\[\s*[{\]])", text))
    try:
        content = json.loads(text) if is_json else tomllib.loads(text.replace("\r\n", "\n"))
    except ValueError as error:
        what = "JSON" if is_json else "TOML"
        said = " ".join(str(error).split())[:120].rstrip(".")
        raise UserError(f"{name} is not readable as {what} ({said}): choose a file that its program has written.") from None
    form = next((form for form in FORMATS.values() if form.recognises(content)), None)
    if form is None:
        known = ", ".join(form.title for form in FORMATS.values())
        raise UserError(f"{name} is not a settings file of a trainer that is known here ({known}): choose another file.")
    flat = list(_flat(content, form))
    given = Values((form.plain(key), value) for key, value in flat)
    if why := form.refuses(given):
        raise UserError(f"{name} {why}.")
    values = Values({**form.defaults, **given})
    values.given = frozenset(given)
    return _Source(name, form, flat, form.understood(values))


def _judged(source: _Source, settings: dict[str, Any]) -> Iterator[Line]:
    """The lines of a file in its order; what they come to is put into `settings`, but not over what is there."""
    form, flat, before = source.form, source.flat, dict(settings)
    judged: dict[int, Line] = {}
    # What is said of a part goes before what is said of the whole.
    for place in sorted(range(len(flat)), key=lambda place: -flat[place][0].count(".")):
        key, value = flat[place]
        plain = form.plain(key)
        answer = _settled(form.table.get(_pattern(plain), _unknown)(Entry(plain, value, source.values)), settings, before)
        settings.update(answer.settings)
        judged[place] = Line(key, value, answer.verdict, answer.settings, _shortened(answer.reason), source.name)
    yield from (judged[place] for place in range(len(flat)))


def _assumed(source: _Source, settings: dict[str, Any]) -> Iterator[Line]:
    """Lines for what the program does without being told, as far as nothing else says it."""
    form = source.form
    given = {form.plain(key) for key, _ in source.flat}
    for key, value in form.defaults.items():
        if key in given:
            continue
        answer = _settled(form.table[_pattern(key)](Entry(key, value, source.values)), {}, {})
        new = {name: own for name, own in answer.settings.items() if name not in settings}
        if new:
            settings.update(new)
            yield Line(key, value, answer.verdict, new, answer.reason or "Not in the file.", source.name, given=False)


def _fitting(settings: dict[str, Any], lines: list[Line]) -> list[Line]:
    """The lines, with a size that the buckets allow: there a size goes with any step."""
    size = settings.get("dataset.resolution")
    pictures = TrainJob.model_validate(merge_dotted({}, settings)).dataset
    step = pictures.bucket_step if pictures.buckets else LATENT_STEP
    if not size or size % step == 0:
        return lines
    settings["dataset.resolution"] = fitting = max(step, round(size / step) * step)
    reason = f"{fitting}, as a size is a multiple of {step} here."
    return [
        replace(
            line,
            verdict="approximated",
            settings={**line.settings, "dataset.resolution": fitting},
            reason=f"{line.reason} {reason}".strip(),
        )
        if "dataset.resolution" in line.settings
        else line
        for line in lines
    ]


def _settled(answer: Answer, settings: Mapping[str, Any], before: Mapping[str, Any]) -> Answer:
    """The answer as far as it is possible here and nothing contradicts it."""
    for name, value in answer.settings.items():
        try:
            TrainJob.model_validate(merge_dotted({}, {name: value}))
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"].removeprefix("Input ").removeprefix("Value error, ")
            return Answer("no counterpart", {}, f"Here it {message}.")
    clash = next((name for name, value in answer.settings.items() if name in settings and settings[name] != value), None)
    if clash is None:
        return answer
    if clash in before:
        return Answer("ignored", {}, "The other file's value goes before this one.")
    return Answer("no counterpart", {}, f"There is one value of {clash} for all here, and another one was taken.")


def _flat(content: Any, form: Format, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys and values of nested content; a group that has a rule of its own stays whole."""
    if prefix and _pattern(prefix) in form.table:
        yield prefix, content
    elif isinstance(content, Mapping) and (content or not prefix):
        for key, value in content.items():
            yield from _flat(value, form, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(content, list) and content and all(isinstance(one, Mapping) for one in content):
        for number, one in enumerate(content):
            yield from _flat(one, form, f"{prefix}[{number}]")
    else:
        yield prefix, content


def _pattern(key: str) -> str:
    return re.sub(r"\[\d+\]", "[]", key)


def _unknown(entry: Entry) -> Answer:
    if is_off(entry.value):
        return OFF
    return Answer("no counterpart", {}, "There is no such setting here.")


# Values, which programs and people write in many ways. Each raises ValueError with the reason, a sentence.


def _shortened(text: str) -> str:
    text = " ".join(text[: 2 * LONGEST_SHOWN].split())
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"


def is_off(value: Any) -> bool:
    """Whether a value switches nothing on, however it is written."""
    if isinstance(value, str):
        return value.strip().lower() in ("", "0", "0.0", "false", "none", "off", "no", "never")
    return not value


def number(value: Any) -> float:
    try:
        found = math.nan if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError("This is no number.")
    return found


def whole(value: Any) -> int:
    found = number(value)
    if found != int(found):
        raise ValueError("This is no whole number.")
    return int(found)


def flag(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in ("true", "1", "yes", "on")
    return bool(value)


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("This is no text.")
    return value.strip()


def or_zero(value: Any) -> int:
    return 0 if is_off(value) else whole(value)


def or_naught(value: Any) -> float:
    return 0.0 if is_off(value) else number(value)


def or_nothing(convert: Callable[[Any], Any], value: Any) -> Any:
    """The value converted, None for nothing and for what is none: to look at another key's value."""
    try:
        return convert(value)
    except ValueError:
        return None


# Rules, of which tables are made


def take(setting: str, convert: Callable[[Any], Any], reason: str = "") -> Rule:
    """The value, converted, is this setting of ours."""

    def rule(entry: Entry) -> Answer:
        try:
            return Answer("taken", {setting: convert(entry.value)}, reason)
        except ValueError as why:
            return Answer("no counterpart", {}, str(why))

    return rule


def take_or_leave(setting: str, convert: Callable[[Any], Any], reason: str = "") -> Rule:
    """The same, but nothing in the file leaves our setting alone."""
    taken = take(setting, convert, reason)
    return lambda entry: EMPTY if is_off(entry.value) else taken(entry)


def choose(
    setting: str, same: Mapping[str, Any], near: Mapping[str, tuple[Any, str]] | None = None, other: tuple[Any, str] | None = None
) -> Rule:
    """One of several words (in small letters): those that mean the same here, those that come near it with a reason, all others."""

    def rule(entry: Entry) -> Answer:
        word = str(entry.value if entry.value is not None else "").strip().lower()
        if word in same:
            return Answer("taken", {setting: same[word]})
        found = (near or {}).get(word, other)
        if found is None:
            return Answer("no counterpart", {}, "There is no such choice here.")
        return Answer("approximated", {setting: found[0]}, found[1])

    return rule


def lacks(reason: str) -> Rule:
    """What is not there here; nothing is lost where it is off."""
    return lambda entry: OFF if is_off(entry.value) else Answer("no counterpart", {}, reason)


def passed(reason: str) -> Rule:
    """What changes nothing in the result."""
    return lambda entry: Answer("ignored", {}, reason)


def only(reason: str, *usual: Any) -> Rule:
    """What has one value here: nothing is lost where the file has it (or none), too."""
    same = {str(value).lower() for value in usual}

    def rule(entry: Entry) -> Answer:
        if is_off(entry.value) or str(entry.value).strip().lower() in same:
            return Answer("ignored", {}, "As it is here.")
        return Answer("no counterpart", {}, reason)

    return rule


def always(reason: str) -> Rule:
    """What is always on here."""
    return lambda entry: Answer("taken", {}, reason) if flag(entry.value) else Answer("ignored", {}, reason)


def words(text: str) -> list[str]:
    return text.split()


def every(keys: str | Sequence[str], rule: Rule) -> dict[str, Rule]:
    """One rule for many keys, for a table."""
    return dict.fromkeys(words(keys) if isinstance(keys, str) else keys, rule)


def elsewhere(form: str, reason: str) -> Rule:
    """The name of a file, which is not opened unless the user gives it along."""

    def rule(entry: Entry) -> Answer:
        if is_off(entry.value):
            return EMPTY
        return Answer("ignored", {}, "Given along.") if form in entry.all.along else Answer("no counterpart", {}, reason)

    return rule
