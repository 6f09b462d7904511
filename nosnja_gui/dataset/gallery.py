"""A dataset as somebody looks through it: pages, filters, counts, one caption at a time, changes of many at once.

Holds what was read and looked at, so that a page of ten thousand pictures comes at once. Knows nothing of the window.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from nosnja_gui.dataset import checks, history, mending
from nosnja_gui.dataset.checks import Facts, Issue
from nosnja_gui.dataset.inspection import Inspection
from nosnja_gui.dataset.reading import Dataset, Picture, read
from nosnja_gui.settings import UserError

PAGE = 100
USUAL_RESOLUTION = 512
RECOUNT_SECONDS = 4.0
"""While pictures are still looked into, problems are counted anew this often."""
SMALL_SETS_RESOLUTION = 256
"""A set of nothing but smaller pictures is meant for a small model."""
COUNTED = 300
"""Tags and words that are listed, the most frequent ones."""

Show = Literal["all", "problems", "captioned", "left_out"] | checks.Kind
SHOWS: tuple[str, ...] = ("all", "problems", "captioned", "left_out", *checks.KINDS)
Scope = Literal["all", "shown", "chosen"]
SCOPES: tuple[str, ...] = get_args(Scope)


@dataclass(frozen=True)
class Filter:
    """Which pictures are shown: all conditions at once."""

    show: str = "all"
    search: str = ""
    """Each of these words must be somewhere in the caption or the name."""
    tag: str = ""
    """The caption has this phrase between its commas."""
    word: str = ""
    """The caption has this word."""


@dataclass(frozen=True)
class Edit:
    """A change of many captions: first the replacement, then what is put in front and behind."""

    find: str = ""
    replacement: str = ""
    whole_words: bool = False
    same_case: bool = False
    prepend: str = ""
    append: str = ""

    def __call__(self, caption: str) -> str:
        if self.find:
            pattern = re.escape(self.find)
            if self.whole_words:
                # What is looked for may begin or end with a comma or a bracket, which ends every word.
                before, after = (r"(?<!\w)", r"(?!\w)")
                pattern = f"{before if _in_word(self.find[0]) else ''}{pattern}{after if _in_word(self.find[-1]) else ''}"
            caption = re.sub(pattern, lambda found: self.replacement, caption, flags=0 if self.same_case else re.IGNORECASE)
        if self.prepend and not caption.startswith(self.prepend):
            caption = self.prepend + caption
        if self.append and not caption.endswith(self.append):
            caption = caption + self.append
        return caption.strip()


def _in_word(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


@dataclass(frozen=True)
class Change:
    name: str
    before: str
    after: str


class Conflict(UserError):
    """Somebody else has changed the caption meanwhile."""

    def __init__(self, message: str, theirs: str | None) -> None:
        super().__init__(message)
        self.theirs = theirs


@dataclass(frozen=True)
class _Found:
    """Problems, and what they were found in."""

    dataset: Dataset
    done: int
    side: int
    at: float
    issues: dict[str, list[Issue]]


class Gallery:
    """One dataset. May be asked by several threads at once.

    `too_long` tells captions of which the model sees only a part; `memory` is a folder for what was found out.
    """

    def __init__(self, folder: Path, memory: Path, too_long: Callable[[str], bool] = lambda caption: False) -> None:
        self.folder = folder
        self.inspection = Inspection(folder, memory)
        self.resolution = 0
        """Side that training will use; 0 for what suits the pictures."""
        self._too_long = too_long
        self._followed: Dataset | None = None
        self._latest: Dataset | None = None
        self._found: _Found | None = None
        self._subfolders: set[Path] = set()
        self._saving = threading.Lock()

    def dataset(self) -> Dataset:
        """As it is now; pictures are looked into in the background. Raises UserError."""
        dataset = read(self.folder, look_inside=False)
        self._latest = dataset
        if dataset is not self._followed:
            self._subfolders = {picture.path.parent for picture in dataset.pictures if "/" in picture.name}
            self.inspection.follow({picture.name: picture.path for picture in dataset.pictures})
            self._followed = dataset
        return dataset

    def pulse(self) -> tuple[object, ...]:
        """Changes when a file of the dataset comes, goes or is replaced; costs next to nothing, so that it can be asked every second."""
        latest = self._latest
        inner = self._subfolders
        table = latest.captions_file if latest is not None else None
        kept = self.folder / history.FOLDER
        watched = [self.folder, *sorted(inner), kept / "versions", self.folder / mending.LEFT_OUT, *([table] if table else [])]
        return tuple(_time_of(path) for path in watched)

    def side(self) -> int:
        """The resolution against which pictures are judged."""
        if self.resolution:
            return self.resolution
        largest = max((max(fact.width, fact.height) for fact in self.inspection.facts.copy().values()), default=0)
        if not 0 < largest < SMALL_SETS_RESOLUTION:
            return USUAL_RESOLUTION
        return max(16, largest // 8 * 8)

    def issues(self, dataset: Dataset) -> dict[str, list[Issue]]:
        """What is wrong, by picture. While pictures are still looked into it may be a moment old."""
        done, side = self.inspection.done, self.side()
        last = self._found
        same = last is not None and last.dataset is dataset and last.side == side
        if last is not None and same and (last.done == done or time.monotonic() - last.at < RECOUNT_SECONDS):
            return last.issues
        captions = {picture.name: picture.caption for picture in dataset.pictures}
        found = checks.find(captions, self.inspection.facts.copy(), self.side(), self._too_long)
        self._found = _Found(dataset, done, side, time.monotonic(), found)
        return found

    def issues_of(self, name: str) -> list[Issue]:
        """What was wrong with one picture when all were judged last."""
        return self._found.issues.get(name, []) if self._found is not None else self.issues(self.dataset()).get(name, [])

    def recent(self) -> Dataset:
        """As it was read last: for a look at one picture, which needs no look at all others."""
        return self._latest or self.dataset()

    def shown(self, dataset: Dataset, wanted: Filter) -> list[Picture]:
        """The pictures that pass the filter, in the dataset's order. Raises UserError for a filter there is not."""
        if wanted.show not in SHOWS:
            raise UserError(f"There is no filter '{wanted.show}': choose one of {', '.join(SHOWS)}.")
        if wanted.show == "left_out":
            pictures = [Picture(path, None, 0, 0, name) for name, path in mending.left_out(self.folder).items()]
        else:
            pictures = list(dataset.pictures)
        if wanted.show == "captioned":
            pictures = [picture for picture in pictures if (picture.caption or "").strip()]
        elif wanted.show not in ("all", "left_out"):
            issues = self.issues(dataset)
            kinds = {wanted.show} if wanted.show != "problems" else set(checks.KINDS) - {"grey"}
            pictures = [picture for picture in pictures if any(issue.kind in kinds for issue in issues.get(picture.name, ()))]
        for word in wanted.search.casefold().split():
            pictures = [picture for picture in pictures if word in picture.name.casefold() or word in (picture.caption or "").casefold()]
        if wanted.tag:
            pictures = [picture for picture in pictures if wanted.tag.casefold() in _tags(picture.caption)]
        if wanted.word:
            pictures = [picture for picture in pictures if wanted.word.casefold() in _words(picture.caption)]
        return pictures

    def counts(self, dataset: Dataset) -> dict[str, int]:
        """How many pictures each way of showing would show."""
        issues = self.issues(dataset)
        counted = Counter(kind for found in issues.values() for kind in {issue.kind for issue in found})
        return {
            "all": len(dataset.pictures),
            "problems": sum(any(issue.kind != "grey" for issue in found) for found in issues.values()),
            "captioned": len(dataset.pictures) - counted["no_caption"],
            "left_out": len(mending.left_out(self.folder)),
            **{kind: counted[kind] for kind in checks.KINDS},
        }

    def picture(self, dataset: Dataset, name: str) -> Picture:
        """Raises UserError for a picture that is not there."""
        for picture in dataset.pictures:
            if picture.name == name:
                return picture
        raise UserError(f"There is no picture '{name}' in {self.folder}.")

    def facts(self, picture: Picture) -> Facts:
        """What is in one picture, now; also of one that was left out."""
        left_out = picture.path.is_relative_to(self.folder / mending.LEFT_OUT)
        return self.inspection.at_once(f"{mending.LEFT_OUT.as_posix()}/{picture.name}" if left_out else picture.name, picture.path)

    def save(self, name: str, caption: str, before: str | None, version: str = "") -> tuple[str, str]:
        """Write one caption, if it still is `before`; returns (caption as written, version).

        With the version of the last call it joins that one, as long as nothing else was changed in between: what is typed at
        one picture is undone at once. Raises Conflict where somebody else has changed it, UserError for the rest.
        """
        with self._saving:
            # What was read last will do, as the file itself is compared before it is written; reading all again would take longer.
            dataset = self._latest or self.dataset()
            now = self.picture(dataset, name)
            if (now.caption or "") != (before or ""):
                dataset = self.dataset()
                now = self.picture(dataset, name)
            caption = caption.replace("\r\n", "\n").strip()
            if (now.caption or "") == caption:
                return caption, version
            if (now.caption or "") != (before or ""):
                raise Conflict(f"The caption of '{name}' has been changed elsewhere meanwhile.", now.caption)
            try:
                note = f"caption of {name}"
                kept = history.write_captions(dataset, {name: caption}, note, self._newest(version, note))
            except UserError:
                theirs = self.picture(self.dataset(), name).caption
                if (theirs or "") != (before or ""):
                    raise Conflict(f"The caption of '{name}' has been changed elsewhere meanwhile.", theirs) from None
                raise
            pictures = tuple(replace(picture, caption=caption) if picture is now else picture for picture in dataset.pictures)
            self._latest = replace(dataset, pictures=pictures)
            return caption, kept.stem if kept else ""

    def _newest(self, version: str, note: str) -> Path | None:
        """The file of that version, if nothing was changed since and it is of the same picture."""
        newest = history.versions(self.folder, limit=1)
        return newest[0].file if newest and newest[0].file.stem == version and newest[0].note == note else None

    def plan(self, edit: Edit, pictures: Iterable[Picture]) -> list[Change]:
        """What an edit would change, nothing written. Pictures without a caption only take what is put in front or behind."""
        changes = []
        for picture in pictures:
            before = picture.caption or ""
            after = edit(before)
            if after != before:
                changes.append(Change(picture.name, before, after))
        return changes

    def apply(self, changes: Sequence[Change], note: str) -> int:
        """Write planned changes, all or none, as one version. Raises UserError, also where a caption is not what it was."""
        with self._saving:
            dataset = self.dataset()
            before = {change.name: change.before for change in changes}
            # A caption that has changed since the plan is a conflict, not something to write over.
            seen = tuple(
                replace(picture, caption=before[picture.name])
                if before.get(picture.name, picture.caption or "") != (picture.caption or "")
                else picture
                for picture in dataset.pictures
            )
            history.write_captions(replace(dataset, pictures=seen), {change.name: change.after for change in changes}, note)
            return len(changes)

    def undo(self) -> str:
        """Take the last change of captions back and return what it was. Raises UserError where there is none."""
        with self._saving:
            return history.undo(self.folder)


def _time_of(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def counted(pictures: Iterable[Picture], kind: Literal["tag", "word"]) -> list[tuple[str, int]]:
    """The most frequent tags (what stands between commas) or words, with the number of captions that have them."""
    split = _tags if kind == "tag" else _words
    return Counter(part for picture in pictures for part in split(picture.caption)).most_common(COUNTED)


def _tags(caption: str | None) -> set[str]:
    return {" ".join(part.split()) for part in re.split(r"[,\n]", (caption or "").casefold())} - {""}


def _words(caption: str | None) -> set[str]:
    return set(re.findall(r"\w[\w'-]*", (caption or "").casefold()))
