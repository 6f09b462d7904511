"""Tab "Trigger word": the word, what it stands for and where it goes; every caption before and after, then written at once.

Nothing is written until the button is pressed. What captions would become is computed once for each wish and kept for the pages of
the list. Knows nothing of training; it leaves the word in the window's memory, where the Train tab finds it.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from nosnja_gui import dataset as datasets
from nosnja_gui.dataset import Dataset, Picture, identifiers
from nosnja_gui.dataset import trigger as triggers
from nosnja_gui.dataset.history import FOLDER as HISTORY
from nosnja_gui.settings import UserError
from nosnja_gui.ui.panel import Panel, Window
from nosnja_gui.ui.pictures import Pictures
from nosnja_gui.ui.texts import language_of, say, t
from nosnja_gui.ui.widget import widget

PAGE = 50
FILTERS = ("all", "changed", "unchanged", "without")
PREVIEWS_KEPT = 12
SUGGESTED = 8
NAMES_LISTED = 3
ABSORBED = ", ".join([*triggers.COLOURS, *triggers.PATTERNS])
FIELDS = ("action", "word", "old", "nouns", "place", "absorb", "absorbed")
DEFAULTS: dict[str, Any] = {
    "action": "insert",
    "word": "",
    "old": "",
    "nouns": "",
    "place": "both",
    "absorb": True,
    "absorbed": ABSORBED,
}


@dataclass(frozen=True)
class Row:
    """A picture with what its caption is and would be."""

    picture: Picture
    before: str | None
    after: str


class Preview:
    """A whole set before and after an edit; without an edit nothing changes."""

    def __init__(self, dataset: Dataset, edit: triggers.Edit | None) -> None:
        self.dataset = dataset
        change = edit or str
        self.rows = [Row(picture, picture.caption, change(picture.caption or "")) for picture in dataset.pictures]
        self.groups: dict[str, list[Row]] = {
            "all": self.rows,
            "changed": [row for row in self.rows if row.after != (row.before or "")],
            "unchanged": [row for row in self.rows if row.after == (row.before or "")],
            "without": [row for row in self.rows if not row.before],
        }

    def counts(self) -> dict[str, int]:
        return {name: len(rows) for name, rows in self.groups.items()}

    def captions(self) -> dict[str, str]:
        """What is to be written."""
        return {row.picture.name: row.after for row in self.groups["changed"]}


@dataclass(frozen=True)
class Reading:
    """A dataset as it was read."""

    signature: Any
    number: int
    """Another one for other content."""
    dataset: Dataset
    candidates: list[tuple[str, int]]
    """What may be the class noun, with the number of captions."""


class Previews:
    """Datasets as they were read last, and previews by keys that cannot be guessed. Reads anew only where files have changed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._sets: OrderedDict[str, Reading] = OrderedDict()
        self._keys: OrderedDict[Any, str] = OrderedDict()
        self._previews: dict[str, Preview] = {}

    def read(self, folder: str, anew: bool = False) -> Reading:
        """The set. Raises UserError."""
        with self._lock:
            known = self._sets.get(folder)
            if known is None or anew or known.signature != signature(folder, known.dataset):
                dataset = datasets.read(Path(folder))
                now = signature(folder, dataset)
                if known is not None and known.dataset == dataset:
                    known = replace(known, signature=now)
                else:
                    known = Reading(now, next(self._numbers), dataset, triggers.candidate_nouns(dataset.captions().values()))
                self._sets[folder] = known
            self._sets.move_to_end(folder)
            while len(self._sets) > PREVIEWS_KEPT // 3:
                self._sets.popitem(last=False)
            return known

    def changed(self, folder: str) -> bool:
        """Whether captions have been written since the set was read. Costs next to nothing."""
        known = self._sets.get(folder)
        return known is not None and known.signature != signature(folder, known.dataset)

    def make(self, folder: str, edit: triggers.Edit | None) -> tuple[str, Preview]:
        """The preview with its key, made once for an edit of a set. Raises UserError."""
        reading = self.read(folder)
        wish = (reading.number, edit)
        key = self._keys.get(wish)
        preview = self._previews.get(key or "")
        if key is None or preview is None:
            key, preview = secrets.token_urlsafe(12), Preview(reading.dataset, edit)
            with self._lock:
                self._keys[wish], self._previews[key] = key, preview
                while len(self._keys) > PREVIEWS_KEPT:
                    self._previews.pop(self._keys.popitem(last=False)[1], None)
        return key, preview

    def find(self, key: object) -> Preview | None:
        return self._previews.get(key) if isinstance(key, str) else None


def signature(folder: str, dataset: Dataset) -> Any:
    """Changes when this program, or any that replaces files, writes captions: folders' times, and the file of all captions."""
    home = Path(folder)
    inner = {picture.name.rpartition("/")[0] for picture in dataset.pictures}
    places = [home, home / HISTORY / "versions", *(home / name for name in sorted(inner) if name)]
    return tuple(map(changed_at, [*places, *([dataset.captions_file] if dataset.captions_file else [])]))


def changed_at(path: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except OSError:
        return 0, 0
    return state.st_mtime_ns, state.st_size


def page_of(preview: Preview, pictures: Pictures, wanted: str, start: int) -> dict[str, Any]:
    """Rows of the list as the browser draws them."""
    rows = preview.groups.get(wanted, preview.rows)
    start = max(0, min(start, (len(rows) - 1) // PAGE * PAGE))
    shown = [
        {
            "name": row.picture.name,
            "picture": pictures.url(row.picture.path, 160),
            "parts": triggers.difference(row.before or "", row.after),
            "state": "without" if not row.before else "changed" if row.after != row.before else "unchanged",
        }
        for row in rows[start : start + PAGE]
    ]
    return {"rows": shown, "start": start, "count": len(rows), "page": PAGE}


def words_of(text: object) -> tuple[str, ...]:
    """A comma-separated list as its entries, each once."""
    given = [" ".join(entry.split()) for entry in str(text or "").replace("\n", ",").split(",")]
    return tuple(dict.fromkeys(entry for entry in given if entry))


def form_of(shown: dict[str, Any], given: Sequence[Any]) -> dict[str, Any]:
    """The form's values. The browser sends nothing for a field that it has not drawn yet: then it is as it was."""
    known = {**DEFAULTS, **(shown.get("form") or {})}
    return {name: known[name] if value is None else value for name, value in zip(FIELDS, given, strict=True)}


def edit_of(form: dict[str, Any]) -> triggers.Edit | None:
    """What the form asks for; None while a word is missing. Raises UserError for a word that can't be used."""
    word, old, action = (str(form[name] or "").strip() for name in ("word", "old", "action"))
    action = action if action in ("insert", "rename", "remove") else "insert"
    if not word or (action == "rename" and not old):
        return None
    place = form["place"] if form["place"] in get_args(triggers.Place) else "both"
    absorb = words_of(form["absorbed"]) if form["absorb"] else ()
    nouns = words_of(form["nouns"])
    if action == "rename":
        edit = triggers.Edit("rename", word, old)
    elif action == "remove":
        edit = triggers.Edit("remove", word, nouns=nouns)
    else:
        edit = triggers.Edit("insert", word, nouns=nouns, absorb=absorb, place=place)
    edit.check()
    return edit


def remark_text(language: str, remark: triggers.Remark) -> str:
    """A remark in the user's language."""
    values = dict(remark.values)
    names = values.pop("names", [])
    values["names"] = ", ".join(names[:NAMES_LISTED]) + (" …" if len(names) > NAMES_LISTED else "")
    match remark.kind:
        case "tokens":
            del values["pieces"]
            return say(language, "{count} of the 75 CLIP tokens that a caption may have.", **values)
        case "ordinary":
            text = say(language, "The model knows “{word}” already: a made-up word is learnt more cleanly.", **values)
        case "rare":
            text = say(language, "“{word}” is one rare token, so the model has hardly an idea of it: good, if it is no word.", **values)
        case "meant":
            text = say(
                language, "“{word}” is one rare token, but means something already and may bring it along: choose another one.", **values
            )
        case "ends_in_word":
            text = say(
                language,
                "“{word}” is read as {split}: its last piece is an ordinary word, so “{last}” without the trigger calls up what was "
                "learnt, too.",
                **values,
            )
        case "noun_inside":
            text = say(
                language,
                "“{word}” holds the class noun: the model reads {pieces}, so “{noun}” alone will bring what was learnt, too. "
                "Choose a word without it to keep the two apart.",
                **values,
            )
        case "misspelt":
            text = say(language, "“{found}” looks like “{word}” misspelt: {names}", **values)
        case "missing":
            text = say(language, "Captions that would lack “{word}”: {count} of {total} ({names})", **values)
        case "not_first":
            text = say(language, "Captions that hold “{word}”, but not at their beginning: {count} of {total} ({names})", **values)
        case "class_noun":
            text = say(language, "Captions that would still say “{noun}”: {count} of {total} ({names})", **values)
        case "too_long":
            text = say(language, "Captions longer than 75 tokens, which lose their end: {count} ({names})", **values)
        case _:
            text = remark.message
    return text


def lint_of(preview: Preview, edit: triggers.Edit | None, language: str) -> dict[str, Any]:
    """The word's pieces, and remarks on it and on the captions as they would be."""
    if edit is None or edit.action == "remove":
        return {"pieces": [], "remarks": [], "proposals": identifiers.proposals(preview.dataset.captions().values())}
    after = {row.picture.name: row.after for row in preview.rows if row.after}
    try:
        place: triggers.Place = edit.place if edit.action == "insert" else "noun"
        remarks = triggers.lint(edit.word, tokenizer(), after, class_noun=edit.nouns, place=place)
    except UserError as error:
        return {"pieces": [], "remarks": [{"kind": "tokens", "warning": True, "text": str(error)}]}
    tokens = next((remark.values["pieces"] for remark in remarks if remark.kind == "tokens"), [])
    # Others are offered where this one is not quite right.
    others = any(remark.kind in ("ordinary", "meant", "ends_in_word", "noun_inside") for remark in remarks)
    return {
        "pieces": [piece.replace("</w>", "") for piece in tokens],
        "proposals": identifiers.proposals([*after.values(), edit.word]) if others else [],
        "remarks": [{"kind": remark.kind, "warning": remark.warning, "text": remark_text(language, remark)} for remark in remarks],
    }


def tokenizer() -> Callable[[str], list[str]]:
    from nosnja_gui.tokens import clip_tokenizer

    return clip_tokenizer()


def suggestions(candidates: list[tuple[str, int]], form: dict[str, Any]) -> list[dict[str, Any]]:
    """Nouns to click on: what the captioner called the thing, with the number of captions."""
    chosen = {noun.lower() for noun in words_of(form["nouns"])}
    known = [(noun, count) for noun, count in candidates if noun.lower() != str(form["word"] or "").strip().lower()]
    return [{"noun": noun, "count": count, "chosen": noun.lower() in chosen} for noun, count in known[:SUGGESTED]]


def guesses(reading: Reading, written: object) -> dict[str, Any]:
    """The form for a set that was never here: the trigger that it has already, and the likeliest noun."""
    known = written if isinstance(written, dict) else {}
    word = str(known.get("word") or triggers.leading_word(reading.dataset.captions().values()) or "")
    named = known.get("class_nouns")
    nouns = [str(noun) for noun in named] if isinstance(named, list) and named else [noun for noun, _ in reading.candidates[:1]]
    return {**DEFAULTS, "word": word, "old": word, "nouns": ", ".join(noun for noun in nouns if noun.lower() != word.lower())}


def remembered(window: Window, folder: str) -> dict[str, Any] | None:
    """The form as it was left for this set; of a file that somebody edited, what is usable."""
    kept = window.memory.get(form_key(folder)) if folder else None
    if not isinstance(kept, dict):
        return None
    return {name: kept[name] if isinstance(kept.get(name), type(default)) else default for name, default in DEFAULTS.items()}


def form_key(folder: str) -> str:
    return f"trigger-form:{folder}"


def written_key(folder: str) -> str:
    """Where the trigger that a set's captions hold is remembered: `{"word": ..., "class_nouns": [...], "place": ..., "absorb": [...]}`."""
    return f"trigger:{folder}"


def newest_note(folder: str) -> str | None:
    """What an undo would take back."""
    try:
        kept = datasets.versions(Path(folder), limit=1)
    except OSError:
        return None
    return kept[0].note if kept else None


class Tab:
    """The tab's handlers: values of components in, updates out."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.previews = Previews()
        self._notes: dict[str, tuple[Any, str | None]] = {}

    def blank(self, folder: str, form: dict[str, Any], said: dict[str, Any] | None = None, stale: str | None = None) -> dict[str, Any]:
        """What the list shows before the set was looked at."""
        name = Path(folder).name if folder else ""
        return {"folder": folder, "name": name, "key": "", "counts": None, "said": said, "undo": None, "stale": stale, "form": form}

    def undo_note(self, folder: str) -> str | None:
        now = changed_at(Path(folder) / HISTORY / "versions")
        if self._notes.get(folder, (None,))[0] != now:
            self._notes[folder] = (now, newest_note(folder))
        return self._notes[folder][1]

    def look(
        self, folder: str, form: dict[str, Any], language: str, said: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
        """Values of the list, the lint and the suggested nouns for a form."""
        problem = ""
        try:
            edit = edit_of(form)
        except UserError as error:
            edit, problem = None, str(error)
        try:
            key, preview = self.previews.make(folder, edit)
        except UserError as error:
            return self.blank(folder, form, {"kind": "error", "text": str(error)}), {"pieces": [], "remarks": []}, []
        value = {
            **self.blank(folder, form, said),
            "key": key,
            "counts": preview.counts(),
            "undo": self.undo_note(folder),
            "ready": edit is not None,
        }
        lint = {**lint_of(preview, edit, language), "error": problem}
        if form["action"] == "remove":
            lint["proposals"] = []
        return value, lint, suggestions(self.previews.read(folder).candidates, form)

    def opened(self, folder: str) -> list[Any]:
        """Another dataset: the form as it was left; the list is filled when the tab is looked at."""
        known = remembered(self.window, folder)
        form = known or dict(DEFAULTS)
        value = {**self.blank(folder, form, stale="opened" if folder else None), "known": known is not None}
        return [value, *(form[name] for name in FIELDS), {"pieces": [], "remarks": [], "error": ""}, [], value, *visible(form)]

    def fresh(self, shown: dict[str, Any], folder: str, *given: Any, request: gr.Request | None = None) -> list[Any]:
        """The tab is being looked at: read the set anew, and fill the form at the first look."""
        if not folder:
            return self.opened("")
        form = form_of(shown, given)
        fields: list[Any] = [gr.skip()] * len(FIELDS)
        try:
            reading = self.previews.read(folder, anew=True)
            # Reading may take a while: what was typed meanwhile is in the memory, and stays.
            typed = remembered(self.window, folder)
            form = typed or form
            first = shown.get("stale") == "opened" and not shown.get("known")
            # Where nobody has typed yet, what the captions say now may be more than at the last look.
            if first or (shown.get("stale") and typed is None):
                guessed = guesses(reading, self.window.memory.get(written_key(folder)))
                missing = [name for name in FIELDS if form[name] == DEFAULTS[name] != guessed[name]]
                form = {**form, **{name: guessed[name] for name in missing}}
                fields = [guessed[name] if name in missing else gr.skip() for name in FIELDS]
        except UserError:
            pass  # `look` says it
        value, lint, nouns = self.look(folder, form, language_of(request))
        return [value, *fields, lint, nouns, value, *visible(form)]

    def changed(self, shown: dict[str, Any], folder: str, *given: Any, request: gr.Request | None = None) -> list[Any]:
        """The form was changed: by the user, or by a handler that has shown what follows from it already."""
        form = form_of(shown, given)
        if not folder or shown.get("form") == form or shown.get("folder") != folder:
            return [gr.skip(), gr.skip(), gr.skip(), gr.skip(), *visible(form), gr.skip()]
        renaming = form["action"] == "rename" and (shown.get("form") or {}).get("action") != "rename"
        old = self.present_word(folder) if renaming and not str(form["old"]).strip() else ""
        form["old"] = old or form["old"]
        self.window.memory.put(form_key(folder), form)
        value, lint, nouns = self.look(folder, form, language_of(request))
        return [value, lint, nouns, value, *visible(form), old or gr.skip()]

    def present_word(self, folder: str) -> str:
        """The trigger that the captions hold now, as far as is known."""
        try:
            return str(guesses(self.previews.read(folder), self.window.memory.get(written_key(folder)))["word"])
        except UserError:
            return ""

    def picked(self, shown: dict[str, Any], folder: str, *given: Any, noun: object, request: gr.Request | None = None) -> list[Any]:
        """A suggested noun was clicked: it joins the nouns, or leaves them."""
        form = form_of(shown, given)
        nouns, noun = list(words_of(form["nouns"])), " ".join(str(noun or "").replace(",", " ").split())[:60]
        before = [known for known in nouns if known.lower() != noun.lower()]
        form["nouns"] = ", ".join(before if len(before) < len(nouns) or not noun else [*nouns, noun])
        return [form["nouns"], *self.changed(shown, folder, *form.values(), request=request)]

    def proposed(self, shown: dict[str, Any], folder: str, *given: Any, word: object, request: gr.Request | None = None) -> list[Any]:
        """A proposed identifier was clicked: it becomes the trigger word."""
        form = form_of(shown, given)
        form["word"] = str(word) if word in identifiers.VETTED else form["word"]
        return [form["word"], *self.changed(shown, folder, *form.values(), request=request)]

    def write(self, shown: dict[str, Any], folder: str, *given: Any, request: gr.Request | None = None) -> list[Any]:
        """Write the captions as the list shows them, and remember the trigger for the training."""
        language, form = language_of(request), form_of(shown, given)
        if not folder:
            return [gr.skip(), gr.skip(), gr.skip(), gr.skip()]
        said: dict[str, Any] | None = None
        try:
            edit = edit_of(form)
            if edit is not None:
                said = self.written(shown, folder, edit, language)
        except UserError as error:
            said = {"kind": "error", "text": str(error)}
        value, lint, nouns = self.look(folder, form, language, said)
        return [value, lint, nouns, value]

    def written(self, shown: dict[str, Any], folder: str, edit: triggers.Edit, language: str) -> dict[str, Any]:
        seen = self.previews.find(shown.get("key"))
        dataset = self.previews.read(folder, anew=True).dataset
        # What is on the disk now must be what was seen, so that nothing is overwritten unseen.
        if seen is None or dataset.captions() != seen.dataset.captions():
            return {"kind": "error", "text": say(language, "Captions were changed meanwhile: look at the list again before you write.")}
        captions = self.previews.make(folder, edit)[1].captions()
        datasets.write_captions(dataset, captions, note=edit.note)
        self.remember(folder, edit)
        removed = edit.action == "remove"
        count = len(captions)
        text = say(language, "Captions written: {count}." if removed else "Captions written: {count}. Next: train on them.", count=count)
        return {"kind": "good", "text": text, "train": not removed}

    def remember(self, folder: str, edit: triggers.Edit) -> None:
        key = written_key(folder)
        if edit.action == "remove":
            self.window.memory.put(key, None)
            return
        before = self.window.memory.get(key)
        kept = dict(before) if edit.action == "rename" and isinstance(before, dict) else {}
        if edit.action == "insert":
            kept = {"class_nouns": list(edit.nouns), "place": edit.place, "absorb": list(edit.absorb)}
        self.window.memory.put(key, {"class_nouns": [], **kept, "word": edit.word})

    def undo(self, shown: dict[str, Any], folder: str, *given: Any, request: gr.Request | None = None) -> list[Any]:
        """Take back the last change of captions, whatever it was."""
        language, form = language_of(request), form_of(shown, given)
        if not folder:
            return [gr.skip(), gr.skip(), gr.skip(), gr.skip()]
        try:
            note = datasets.undo(Path(folder))
            self.forget(folder, self.previews.read(folder, anew=True).dataset)
            said = {"kind": "good", "text": say(language, "Taken back: {note}", note=note)}
        except UserError as error:
            said = {"kind": "error", "text": str(error)}
        value, lint, nouns = self.look(folder, form, language, said)
        return [value, lint, nouns, value]

    def forget(self, folder: str, dataset: Dataset) -> None:
        """The trigger that is remembered for the training, where captions hold it no longer."""
        kept = self.window.memory.get(written_key(folder))
        word = str(kept.get("word", "")) if isinstance(kept, dict) else ""
        if word and not any(word.lower() in caption.lower() for caption in dataset.captions().values()):
            self.window.memory.put(written_key(folder), None)

    def page(self, wish: object) -> dict[str, Any] | None:
        """Asked by the list in the browser: rows of a preview; None where it is gone."""
        wish = wish if isinstance(wish, dict) else {}
        preview = self.previews.find(wish.get("key"))
        if preview is None:
            return None
        start = wish.get("start")
        return page_of(preview, self.window.pictures, str(wish.get("filter")), start if isinstance(start, int) else 0)

    def refresh(self, shown: dict[str, Any], folder: str, language: str) -> list[Any] | None:
        """Only tells the list that captions have changed: it asks for them if somebody looks at it."""
        folder = folder or ""
        if shown.get("folder", "") != folder:
            return self.opened(folder)
        if not folder or shown.get("stale") or not self.previews.changed(folder):
            return None
        value = {**shown, "stale": "changed"}
        return [value, *[gr.skip()] * (len(FIELDS) + 2), value, *[gr.skip()] * 3]


def visible(form: dict[str, Any]) -> list[Any]:
    """Which parts of the form belong to the action: the old word, the nouns, and the rest of an insertion."""
    action = form["action"]
    shown = (action == "rename", action != "rename", action not in ("rename", "remove"))
    return [gr.update(visible=part) for part in shown]


def build(window: Window) -> Panel:
    """The tab's components, inside the tab that is open."""
    tab = Tab(window)

    def rows(wish: Any) -> dict[str, Any] | None:
        return tab.page(wish)

    shown = gr.State({})
    with gr.Row(equal_height=False, elem_classes="nosnja-trigger-tab"):
        with gr.Column(scale=2, min_width=330, elem_id="trigger-form"):
            actions = [(t("Put it in"), "insert"), (t("Rename"), "rename"), (t("Take it out"), "remove")]
            action = gr.Radio(actions, value="insert", show_label=False, container=False, elem_id="field-trigger-action")
            with gr.Column(visible=False) as renaming:
                old = gr.Textbox(label=t("Trigger word in the captions now"), max_lines=1, elem_id="field-trigger-old")
            word = gr.Textbox(
                label=t("Trigger word"),
                info=t("A made-up word that will call up what is learnt. Short, and unlike any real word."),
                max_lines=1,
                elem_id="field-trigger-word",
            )
            lint = widget("trigger_lint", elem_id="trigger-lint")
            with gr.Column() as naming:
                nouns = gr.Textbox(
                    label=t("Class noun"),
                    info=t("What the captions call the thing now; several with commas."),
                    max_lines=1,
                    elem_id="field-trigger-nouns",
                )
                chips = widget("trigger_nouns", elem_id="trigger-suggestions")
            with gr.Column() as inserting:
                places = [
                    (t("In front and instead of the noun"), "both"),
                    (t("Only in front"), "front"),
                    (t("Only instead of the noun"), "noun"),
                ]
                place = gr.Radio(places, value="both", label=t("Place in the caption"), elem_id="field-trigger-place")
                absorb = gr.Checkbox(
                    label=t("The trigger absorbs colours and patterns"),
                    info=t("Takes these words out before the class noun, so that they become part of the trigger."),
                    value=True,
                    elem_id="field-trigger-absorb",
                )
                absorbed = gr.Textbox(ABSORBED, show_label=False, lines=2, max_lines=4, container=False, elem_id="field-trigger-absorbed")
        with gr.Column(scale=5, min_width=480):
            made = widget("trigger", server=[rows], elem_id="trigger-preview")

    fields = [action, word, old, nouns, place, absorb, absorbed]
    parts = [renaming, naming, inserting]
    whole = [shown, *fields, lint, chips, made, *parts]
    form = [window.dataset, *fields]
    results = [shown, lint, chips, made]
    quiet: dict[str, Any] = {**window.quiet, "trigger_mode": "always_last"}

    def opened(folder: str) -> list[Any]:
        return tab.opened(folder)

    def fresh(request: gr.Request, *values: Any) -> list[Any]:
        return tab.fresh(*values, request=request)

    def changed(request: gr.Request, *values: Any) -> list[Any]:
        return tab.changed(*values, request=request)

    def picked(request: gr.Request, event: gr.EventData, *values: Any) -> list[Any]:
        return tab.picked(*values, noun=event._data.get("noun"), request=request)

    def proposed(request: gr.Request, event: gr.EventData, *values: Any) -> list[Any]:
        return tab.proposed(*values, word=event._data.get("word"), request=request)

    def write(request: gr.Request, *values: Any) -> list[Any]:
        return tab.write(*values, request=request)

    def undo(request: gr.Request, *values: Any) -> list[Any]:
        return tab.undo(*values, request=request)

    window.dataset.change(opened, window.dataset, whole, **quiet)
    gr.on([field.change for field in fields], changed, [shown, *form], [*results, *parts, old], **quiet)
    made.fresh(fresh, [shown, *form], whole, **quiet)
    chips.pick(picked, [shown, *form], [nouns, *results, *parts, old], **quiet)
    lint.pick(proposed, [shown, *form], [word, *results, *parts, old], **quiet)
    made.write(write, [shown, *form], results, **{**quiet, "trigger_mode": "once"})
    made.undo(undo, [shown, *form], results, **{**quiet, "trigger_mode": "once"})
    made.train(lambda: gr.Tabs(selected="train"), None, window.tabs, **quiet)
    made.dataset(lambda: gr.Tabs(selected="dataset"), None, window.tabs, **quiet)
    return Panel(tab.refresh, [shown, window.dataset], whole)
