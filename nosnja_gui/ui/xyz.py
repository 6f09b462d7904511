"""Tab "XYZ plot": a form that asks for a grid, checked while it is filled in, and the grids that were painted or are being painted.

The form means nothing here: `grids` reads it, checks it and says what is wrong. What a grid has become is read from its folder.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from nosnja_gui import gridpage, grids, infotext, launcher, models, work_queue
from nosnja_gui.axes import AXES, TRIGGER_MARK, saved_epochs
from nosnja_gui.jobs import GridJob, TrainJob
from nosnja_gui.logs import Logs
from nosnja_gui.runs import RunFolder, identifier
from nosnja_gui.settings import UserError
from nosnja_gui.ui.form import Form, sentence
from nosnja_gui.ui.panel import Panel, Window
from nosnja_gui.ui.texts import language_of, say, t
from nosnja_gui.ui.widget import widget
from nosnja_gui.workspace import Workspace

REMEMBERED = "xyz"
SETTLING_SECONDS = 2.0
PLACES = ("x", "y", "z")
GRIDS_LISTED = 200
LABELS_LISTED = 12
BROUGHT_RUN, BROUGHT_LORA = "xyz-run", "xyz-lora"
"""Where in the window's memory other tabs leave what is to be compared."""
NO_Z = {"z.axis": "", "z.values": ""}
FIRST_AXES = {
    True: {"x.axis": "weight", "x.values": "0, 0.5, 0.75, 1", "y.axis": "epoch", "y.values": "all", **NO_Z},
    False: {"x.axis": "cfg_scale", "x.values": "4, 7, 10", "y.axis": "seed", "y.values": "1-3", **NO_Z},
}
"""What a first visitor finds on the axes: with a trained run, and without."""


@dataclass(frozen=True)
class Fields:
    """The form: settings of a GridJob, and three axes, which are written in one line each."""

    settings: Form
    kinds: dict[str, gr.Dropdown]
    texts: dict[str, gr.Textbox]

    def inputs(self) -> list[Any]:
        return [*self.settings.inputs(), *self.kinds.values(), *self.texts.values()]

    def edited(self) -> list[Any]:
        """What is listened to. A text's own "input" is silent about what is pasted with the mouse or dropped."""
        return [component.change if isinstance(component, gr.Textbox) else component.input for component in self.inputs()]

    def raw(self, values: Sequence[Any]) -> dict[str, Any]:
        """By name, as the browser sent it: settings by dotted name, axes as "x.axis" and "x.values" (one text)."""
        count = len(self.settings.inputs())
        named = self.settings.values(self.settings.given(values[:count]))
        kinds, texts = values[count : count + 3], values[count + 3 : count + 6]
        named |= {f"{place}.axis": kind if kind in AXES else "" for place, kind in zip(PLACES, kinds, strict=True)}
        return named | {f"{place}.values": str(text or "") for place, text in zip(PLACES, texts, strict=True)}

    def show(self, values: Mapping[str, Any], language: str) -> list[Any]:
        """Updates of all fields; those that are not named stay as they are."""
        kinds = [gr.update(value=values[f"{place}.axis"]) if f"{place}.axis" in values else gr.skip() for place in PLACES]
        texts = [self.text_update(values, place, language) for place in PLACES]
        return [*self.settings.show(values), *kinds, *texts]

    @staticmethod
    def text_update(values: Mapping[str, Any], place: str, language: str) -> Any:
        if f"{place}.values" not in values:
            return gr.skip()
        axis = AXES.get(values.get(f"{place}.axis", ""))
        return gr.update(value=values[f"{place}.values"], placeholder=say(language, axis.hint) if axis else "")


def job_values(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What `grids.check` takes: axes that are not used left out, values as a list."""
    values = {name: value for name, value in raw.items() if name.partition(".")[0] not in PLACES}
    for place in PLACES:
        if axis := raw.get(f"{place}.axis"):
            text = str(raw.get(f"{place}.values") or "").strip()
            values |= {f"{place}.axis": axis, f"{place}.values": [text] if text else []}
    return values


class Judge:
    """Says what is wrong with a form and how large its grid would be."""

    def __init__(self, window: Window) -> None:
        self.window, self.workspace = window, window.workspace

    def check(self, raw: Mapping[str, Any], language: str) -> grids.Checked:
        values = job_values(raw)
        refused = []
        if run := values.get("run"):
            try:
                self.workspace.resolve("runs", run)
            except UserError as error:
                refused.append(("run", str(error)))
                values["run"] = ""
        if self.window.listens and (outside := grids.outside(values, self.workspace)):
            # Not even looked up: whether a file is there is nobody's business.
            return grids.Checked(problems=(*refused, *outside))
        checked = grids.check(values, self.workspace, lambda problem: sentence(problem, language))
        return grids.Checked(checked.axes, (*refused, *checked.problems)) if refused else checked

    def told(self, raw: Mapping[str, Any], language: str) -> list[Any]:
        """Values of the widgets that speak about the form: a line for each axis, one for the run, and the sum."""
        checked = self.check(raw, language)
        problems: dict[str, str] = {}
        for setting, said in checked.problems:
            problems[setting] = f"{problems[setting]} {said}" if setting in problems else said
        lines = [self._line(place, raw, checked, problems, language) for place in PLACES]
        return [*lines, {"text": self._about_run(raw, language)}, self._sum(checked, problems, language)]

    def _line(
        self, place: str, raw: Mapping[str, Any], checked: grids.Checked, problems: Mapping[str, str], language: str
    ) -> dict[str, Any]:
        if said := problems.get(f"{place}.axis") or problems.get(f"{place}.values"):
            return {"text": said, "bad": True}
        if axis := checked.axes.get(place):
            more = ", …" if len(axis.labels) > LABELS_LISTED else ""
            values = ", ".join(label or "–" for label in axis.labels[:LABELS_LISTED]) + more
            return {"text": say(language, "Values: {count}: {values}", count=len(axis.labels), values=values)}
        return {"text": "" if raw.get(f"{place}.axis") else say(language, "Nothing varies here.")}

    def _about_run(self, raw: Mapping[str, Any], language: str) -> str:
        if not raw.get("run"):
            return say(language, "Without a run, choose a base model, and a LoRA if you have one.")
        try:
            folder = self.workspace.resolve("runs", str(raw["run"]))
            job, epochs = RunFolder(folder).job(), saved_epochs(folder)
        except UserError:
            return ""
        if not isinstance(job, TrainJob):
            return ""
        saved = sorted({item.epoch for item in epochs})
        unbroken = len(saved) > 3 and saved[-1] - saved[0] == len(saved) - 1
        listed = f"{saved[0]}–{saved[-1]}" if unbroken else ", ".join(map(str, saved))
        said = [say(language, "Saved epochs: {epochs}", epochs=listed)]
        if job.trigger:
            said.append(say(language, "trigger word: {word}", word=job.trigger))
        return " · ".join([*said, say(language, "model: {model}", model=Path(job.model.path).name)])

    def _sum(self, checked: grids.Checked, problems: Mapping[str, str], language: str) -> dict[str, Any]:
        """How many cells and pictures, and about how long; and the problems, for their fields."""
        counts = [len(axis.labels) for axis in checked.axes.values()]
        product = " × ".join(map(str, counts)) or "0"
        cells = 1 if counts else 0
        for count in counts:
            cells *= count
        answer: dict[str, Any] = {"problems": dict(problems), "ready": checked.plan is not None, "text": "", "seconds": None}
        if checked.plan:
            answer["text"] = say(
                language, "{product} = {cells} cells, {pictures} pictures", product=product, cells=cells, pictures=checked.plan.pictures
            )
            if pace := grids.usual_pace(self.workspace):
                answer["seconds"] = grids.seconds_of(checked.plan, pace)
        elif counts:
            answer["text"] = say(language, "{product} = {cells} cells", product=product, cells=cells)
        return answer


class Gallery:
    """The grids of the workspace as the browser draws them, read again only where something has changed."""

    def __init__(self, window: Window) -> None:
        self.window, self.workspace, self.logs = window, window.workspace, Logs()
        self._records: dict[Path, tuple[int, dict[str, Any] | None]] = {}

    def run(self, name: object) -> RunFolder | None:
        """The grid of that identifier, which may come from a browser."""
        try:
            run = RunFolder(self.workspace.resolve("runs", str(name))) if name else None
            return run if run and isinstance(run.job(), GridJob) else None
        except UserError:
            return None

    def overview(self, wanted: str, message: str | None = None) -> dict[str, Any]:
        """What is drawn around a grid: which there are, which one is shown, how far it is.

        With a message, which may be empty, it is the answer to what somebody did: what was said before is done with.
        """
        runs = grids.grid_runs(self.workspace)[:GRIDS_LISTED]
        names = [identifier(run, self.workspace) for run in runs]
        shown = wanted if wanted in names else names[0] if names else ""
        answer: dict[str, Any] = {"grids": names, "shown": shown} | ({} if message is None else {"message": message})
        if not shown:
            return answer
        run = runs[names.index(shown)]
        status = self.logs.status(run)
        record = self.record(run)
        sheet = run.path / str((record or {}).get("sheet", ""))
        return answer | {
            "state": status.state,
            "done": status.step,
            "total": status.total,
            "eta": status.eta_seconds,
            "stage": status.stage,
            "said": status.message,
            "stopping": (run.requests / "stop").exists(),
            "folder": str(run.path),
            "sheet": self.window.pictures.url(sheet) if record and sheet.suffix == ".png" and sheet.is_file() else "",
            "stamp": [_changed(run.path / grids.RECORD), _changed(run.path / grids.CELLS)],
        }

    def record(self, run: RunFolder) -> dict[str, Any] | None:
        changed = _changed(run.path / grids.RECORD)
        known = self._records.get(run.path)
        if known is None or known[0] != changed:
            if len(self._records) > 8:
                self._records.clear()
            known = self._records[run.path] = changed, grids.read_record(run.path)
        return known[1]

    def cells(self, asked: dict[str, Any]) -> dict[str, Any]:
        """For the browser: the record unless it has that one, and the pictures that came since. `asked`: grid, record, since."""
        run = self.run(asked.get("grid"))
        if run is None:
            return {}
        # A text: the browser's numbers end where nanoseconds begin.
        changed = str(_changed(run.path / grids.RECORD))
        record = self.record(run)
        if record is None:
            return {"record": None, "stamp": changed, "pictures": {}, "since": 0}
        since = asked.get("since") if isinstance(asked.get("since"), int | float) and asked.get("record") == changed else 0
        pictures, latest = {}, since
        there = grids.painted(run.path)
        for file in dict.fromkeys(file for cell in record["cells"] for file in cell["files"]):
            if file not in there:
                continue
            path = run.path / file
            at = _changed(path) // 1_000_000  # milliseconds still fit
            latest = max(latest, at)
            if at >= since:
                pictures[file] = [self.window.pictures.url(path, 320), self.window.pictures.url(path)]
        answer = {"stamp": changed, "pictures": pictures, "since": latest}
        return answer if asked.get("record") == changed else answer | {"record": record}

    def infotext(self, asked: dict[str, Any]) -> str:
        """What a picture says about itself. `asked`: grid, file."""
        run = self.run(asked.get("grid"))
        file = str(asked.get("file"))
        if run is None or file not in grids.painted(run.path):
            return ""
        try:
            with Image.open(run.path / file) as opened:
                return str(opened.info.get("parameters", ""))
        except (OSError, ValueError, SyntaxError):
            return ""

    def page(self, asked: dict[str, Any]) -> str:
        """The self-contained page of a grid as it is now. `asked`: grid."""
        run = self.run(asked.get("grid"))
        return "".join(gridpage.parts(run.path)) if run else ""


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


class Choices:
    """What the lists of the form offer, looked for again only where folders have changed."""

    def __init__(self, window: Window) -> None:
        self.workspace = window.workspace
        self._seen: Any = None
        self._found: dict[str, list[tuple[str, str]]] = {}

    def found(self) -> dict[str, list[tuple[str, str]]]:
        runs = grids.trained_runs(self.workspace)
        seen = [(run.path, _changed(run.weights)) for run in runs], models.mark(self.workspace)
        if seen != self._seen:
            self._found = {
                "run": [(name, name) for name in (identifier(run, self.workspace) for run in runs)],
                "lora": [(lora.title, lora.name) for lora in grids.list_loras(self.workspace)],
                "model.path": [(entry.label, entry.name) for entry in models.list_models(self.workspace) if not entry.problem],
                "model.vae": [(vae.title, vae.name) for vae in models.list_vaes(self.workspace)],
            }
            self._seen = seen
        return self._found

    def updates(self, language: str) -> dict[str, dict[str, Any]]:
        """For each list, what makes it offer them."""
        empty = {
            "run": say(language, "None"),
            "lora": say(language, "The run's last one, or none"),
            "model.path": say(language, "The run's own"),
            "model.vae": say(language, "The model's own"),
        }
        return {name: gr.update(choices=[(empty[name], ""), *choices]) for name, choices in self.found().items()}


def first_values(window: Window, choices: Choices) -> dict[str, Any]:
    """What the form holds at a visit: as it was left, or something that can be painted at once."""
    if isinstance(left := window.memory.get(REMEMBERED), dict):
        return left
    found = choices.found()
    if found["run"]:
        return values_for_run(window, found["run"][0][1], "")
    model = found["model.path"][0][1] if found["model.path"] else ""
    return {"model.path": model, **FIRST_AXES[False]}


def values_for_run(window: Window, run: str, prompt: str) -> dict[str, Any]:
    """A grid that shows what a training has learnt: its epochs against its weight, at the size of its own previews."""
    try:
        job = RunFolder(window.workspace.resolve("runs", run)).job()
    except UserError:
        return {}
    if not isinstance(job, TrainJob):
        return {}
    if job.trigger and TRIGGER_MARK not in prompt:
        prompts = [preview for preview in job.preview.prompts if job.trigger in preview]
        prompt = prompts[0].replace(job.trigger, TRIGGER_MARK) if prompts else f"{TRIGGER_MARK}, a photo"
    size = {"width": job.preview.width, "height": job.preview.height}
    own = {"model.path": "", "model.vae": "", "model.prediction_type": "auto"}
    return {"run": run, "lora": "", **own, "trigger": "", "prompt": prompt, **size, **FIRST_AXES[True]}


def brought_along(window: Window, left: Mapping[str, Any]) -> dict[str, Any]:
    """What another tab wants to have compared: a run or a LoRA; taken from the window's memory once."""
    memory = window.memory
    run, lora = (memory.get(key) for key in (BROUGHT_RUN, BROUGHT_LORA))
    for key, value in ((BROUGHT_RUN, run), (BROUGHT_LORA, lora)):
        if value:
            memory.put(key, "")
    if isinstance(lora, str) and lora:
        named = {str(known.path): known.name for known in grids.list_loras(window.workspace)}
        axes = {**FIRST_AXES[False], **{name: value for name, value in FIRST_AXES[True].items() if name.startswith("x.")}}
        return {"run": "", "lora": named.get(lora, lora), **axes}
    return values_for_run(window, run, str(left.get("prompt") or "")) if isinstance(run, str) and run else {}


def build(window: Window) -> Panel:
    """The tab's components, inside the tab that is open."""
    gallery, choices, judge = Gallery(window), Choices(window), Judge(window)
    seen = gr.State("")
    listed = gr.State("")
    # Until the form of a page is filled in, its fields change one by one: that is nobody's wish.
    filled_at = gr.State(math.inf)
    with gr.Row(elem_classes="nosnja-xyz-tab", equal_height=False):
        with gr.Column(scale=0, min_width=390, elem_classes="nosnja-xyz-form"):
            picture = widget("xyz_picture", {"text": "", "remarks": []}, elem_id="grid-picture")
            fields, lines, about_run, fill, swap = _form()
            with gr.Column(elem_classes="nosnja-xyz-foot"):
                summary = widget("xyz_sum", {"problems": {}, "ready": False, "text": ""}, elem_id="grid-sum")
                with gr.Row(elem_classes="nosnja-xyz-paint"):
                    paint = gr.Button(t("Paint"), variant="primary", elem_id="grid-paint", scale=1, min_width=120)
                    go_on = gr.Checkbox(label=t("Into the grid shown"), elem_id="grid-continue", container=False, scale=1, min_width=150)
        with gr.Column(scale=1, min_width=480):
            view = widget(
                "xyz",
                {"grids": [], "shown": ""},
                server=_asked_of(gallery),
                elem_id="grid-view",
            )
    told = [*lines.values(), about_run, summary]

    def check(request: gr.Request, filled: float, *values: Any) -> list[Any]:
        raw = fields.raw(values)
        if time.monotonic() - filled > SETTLING_SECONDS:
            window.memory.put(REMEMBERED, raw)
        return judge.told(raw, language_of(request))

    gr.on(fields.edited(), check, [filled_at, *fields.inputs()], told, trigger_mode="always_last", **window.quiet)

    def filler(place: str, only_empty: bool) -> Callable[..., list[Any]]:
        def fill_in(request: gr.Request, *values: Any) -> list[Any]:
            language, raw = language_of(request), fields.raw(values)
            axis = raw[f"{place}.axis"]
            job, _ = grids.read_form(job_values(raw))
            found = grids.fill(axis, job, window.workspace) if axis and _may_look(window, raw) else []
            if found or only_empty:
                raw[f"{place}.values"] = ", ".join(f'"{text}"' if "," in text else text for text in found)
            window.memory.put(REMEMBERED, raw)
            return [fields.text_update(raw, place, language), *judge.told(raw, language)]

        return fill_in

    for place in PLACES:
        fill[place].click(filler(place, False), fields.inputs(), [fields.texts[place], *told], **window.quiet)
        # Values of another kind of axis make no sense any more.
        fields.kinds[place].input(filler(place, True), fields.inputs(), [fields.texts[place], *told], **window.quiet)

    def swapper(one: str, other: str) -> Callable[..., list[Any]]:
        def swap_axes(request: gr.Request, *values: Any) -> list[Any]:
            language, raw = language_of(request), fields.raw(values)
            for part in ("axis", "values"):
                raw[f"{one}.{part}"], raw[f"{other}.{part}"] = raw[f"{other}.{part}"], raw[f"{one}.{part}"]
            window.memory.put(REMEMBERED, raw)
            return [*fields.show(raw, language), *judge.told(raw, language)]

        return swap_axes

    for (one, other), button in swap.items():
        button.click(swapper(one, other), fields.inputs(), [*fields.inputs(), *told], **window.quiet)

    def start(request: gr.Request, shown: str, into_shown: bool, *values: Any) -> list[Any]:
        language, raw = language_of(request), fields.raw(values)
        window.memory.put(REMEMBERED, raw)
        checked = judge.check(raw, language)
        if checked.plan is None:
            return [gr.skip(), gr.skip(), *judge.told(raw, language)]
        shown = gallery.overview(shown)["shown"]
        name, message = _start(window, checked.plan.job, gallery.run(shown) if into_shown else None, language)
        return [name or gr.skip(), gallery.overview(name or shown, message), *judge.told(raw, language)]

    paint.click(start, [window.grid, go_on, *fields.inputs()], [window.grid, view, *told], **window.quiet)

    def act(event: gr.EventData) -> list[Any]:
        """A button beside the grid: open another one, stop, go on."""
        asked = event._data or {}
        run = gallery.run(asked.get("grid"))
        if run is None:
            return [gr.skip(), gr.skip()]
        name, message = identifier(run, window.workspace), ""
        try:
            if asked.get("do") == "stop":
                if not work_queue.remove(run, window.workspace):
                    launcher.stop(run)
            elif asked.get("do") == "continue":
                work_queue.start_or_enqueue(run, window.workspace)
        except UserError as error:
            message = str(error)
        return [name, gallery.overview(name, message)]

    view.pick(act, None, [window.grid, view], **window.quiet)

    def take_over(request: gr.Request, event: gr.EventData, *values: Any) -> list[Any]:
        """The settings of a cell into the form."""
        language, raw = language_of(request), fields.raw(values)
        raw |= _settings_of_cell(event._data or {}, window)
        window.memory.put(REMEMBERED, raw)
        return [*fields.show(raw, language), *judge.told(raw, language)]

    view.use(take_over, fields.inputs(), [*fields.inputs(), *told], **window.quiet)

    def from_picture(request: gr.Request, event: gr.EventData, *values: Any) -> list[Any]:
        """The settings that a picture was painted with into the form."""
        language, raw, sent = language_of(request), fields.raw(values), event._data or {}
        name = str(sent.get("name", ""))
        try:
            taken = settings_of_picture(_uploaded(sent.get("path"), name, window), raw, window)
        except UserError as error:
            skipped = [gr.skip()] * (len(fields.inputs()) + len(told))
            return [{"text": str(error), "remarks": [], "bad": True}, *skipped]
        raw |= taken.values
        window.memory.put(REMEMBERED, raw)
        labels = _labels(taken.values, fields, language)
        said = say(language, "Taken over from {name}: {settings}.", name=name, settings=", ".join(labels))
        return [{"text": said, "remarks": list(taken.remarks)}, *fields.show(raw, language), *judge.told(raw, language)]

    picture.pick(from_picture, fields.inputs(), [picture, *fields.inputs(), *told], **window.quiet)
    window.grid.change(lambda name: gallery.overview(name), window.grid, view, **window.quiet)

    def refresh(before: str, offered: str, shown: str, language: str) -> list[Any] | None:
        overview = gallery.overview(shown)
        now, offers = json.dumps(overview), json.dumps(choices.found())
        # A form that nobody has touched follows what there is to compare, such as the first training that is done.
        untouched = offers != offered and window.memory.get(REMEMBERED) is None
        wanted = not before or untouched or any(map(window.memory.get, (BROUGHT_RUN, BROUGHT_LORA)))
        left = first_values(window, choices) if wanted else {}
        brought = brought_along(window, left) if left else {}
        fresh = not before or untouched or bool(brought)
        if not fresh and now == before and offers == offered:
            return None
        updates = dict.fromkeys(fields.settings.components, gr.skip())
        others = [gr.skip()] * (2 * len(PLACES) + len(told))
        if fresh:
            values = {**fields.settings.defaults(), **left, **brought}
            if brought:
                window.memory.put(REMEMBERED, values)
            shown_values = fields.show(values, language)
            updates = dict(zip(updates, shown_values, strict=False))
            others = [*shown_values[len(updates) :], *judge.told(values, language)]
        elif offers != offered and isinstance(left := window.memory.get(REMEMBERED), dict):
            # A training has saved its next epoch, say.
            others[-len(told) :] = judge.told(left, language)
        if fresh or offers != offered:
            for name, listing in choices.updates(language).items():
                updates[name] = {**listing, "value": values.get(name, "")} if fresh else listing
        filled = time.monotonic() if fresh else gr.skip()
        return [now, offers, filled, overview if now != before else gr.skip(), *updates.values(), *others]

    return Panel(refresh, [seen, listed, window.grid], [seen, listed, filled_at, view, *fields.inputs(), *told])


def _asked_of(gallery: Gallery) -> list[Callable[..., Any]]:
    """What the browser may ask for; Gradio marks them, so they must be functions of their own."""

    def cells(asked: dict[str, Any]) -> dict[str, Any]:
        return gallery.cells(asked)

    def infotext(asked: dict[str, Any]) -> str:
        return gallery.infotext(asked)

    # Not "page": the function becomes an attribute of the component, which has one of that name.
    def whole_page(asked: dict[str, Any]) -> str:
        return gallery.page(asked)

    return [cells, infotext, whole_page]


def _form() -> tuple[Fields, dict[str, gr.HTML], gr.HTML, dict[str, gr.Button], dict[tuple[str, str], gr.Button]]:
    """Fields, a line under each axis, a line about the run, and the buttons that fill an axis or swap two."""

    def choice(setting: Any, given: dict[str, Any]) -> gr.Dropdown:
        # What was chosen last time may be gone by now; that is said under the form, not in the browser's console.
        return gr.Dropdown([(t("None"), "")], allow_custom_value=True, filterable=True, **given)

    settings = Form(GridJob, prefix="grid", overrides=dict.fromkeys(("run", "lora", "model.path", "model.vae"), choice))
    settings.add("run", classes="one")
    about_run = widget("xyz_line", {"text": ""}, elem_id="grid-about-run")
    settings.add("prompt", classes="one")
    kinds: dict[str, gr.Dropdown] = {}
    texts: dict[str, gr.Textbox] = {}
    lines: dict[str, gr.HTML] = {}
    fill: dict[str, gr.Button] = {}
    swap: dict[tuple[str, str], gr.Button] = {}
    titles = {"x": t("X: across"), "y": t("Y: down"), "z": t("Z: pages")}
    axes = [(t("Nothing"), ""), *((t(axis.title), axis.name) for axis in AXES.values())]
    for place in PLACES:
        with gr.Column(elem_classes="nosnja-xyz-axis"):
            with gr.Row(elem_classes="nosnja-xyz-axis-row"):
                kinds[place] = gr.Dropdown(
                    axes, value="", label=titles[place], elem_id=f"grid-{place}-axis", filterable=False, min_width=110, scale=2
                )
                texts[place] = gr.Textbox(
                    label=t("Values"), elem_id=f"grid-{place}-values", max_lines=1, max_length=20_000, min_width=120, scale=3
                )
                fill[place] = gr.Button(t("Fill"), elem_id=f"grid-{place}-fill", size="sm", min_width=44, scale=0)
            lines[place] = widget("xyz_line", {"text": ""}, elem_id=f"grid-{place}-line")
    with gr.Row(elem_classes="nosnja-xyz-swap"):
        for one, other, text in (("x", "y", t("Swap X and Y")), ("y", "z", t("Swap Y and Z"))):
            swap[one, other] = gr.Button(text, elem_id=f"grid-swap-{one}{other}", size="sm", min_width=60)
    settings.add("images_per_cell", "seed", classes="one")
    with gr.Accordion(t("Model and LoRA"), open=False, elem_id="grid-group-model"):
        of_model = ("model.path", "model.vae", "model.prediction_type", "model.clip_skip")
        settings.add(*of_model, "lora", "weight", "trigger", "class_noun", classes="one")
    with gr.Accordion(t("Sampler, size and more"), open=False, elem_id="grid-group-more"):
        more = ("negative_prompt", "sampler", "steps", "cfg_scale", "width", "height", "batch_size", "name", "model.precision")
        settings.add(*more, classes="one")
    return Fields(settings, kinds, texts), lines, about_run, fill, swap


def _may_look(window: Window, raw: Mapping[str, Any]) -> bool:
    return not window.listens or not grids.outside(job_values(raw), window.workspace)


def _start(window: Window, job: GridJob, into: RunFolder | None, language: str) -> tuple[str, str]:
    """Have a grid painted, in a folder of its own or in one that is there; its identifier, and what to say about it."""
    workspace = window.workspace
    try:
        if into and (into.queued.exists() or not launcher.left_alone(into)):
            return "", say(language, "This grid is being painted: stop it first, or paint a new one.")
        run = RunFolder.create(into.path if into else workspace.create().new_run(job.name), job)
        began = work_queue.start_or_enqueue(run, workspace)
    except UserError as error:
        return "", str(error)
    said = say(language, "Another run is at work: this grid waits for its turn.") if began == "queued" else ""
    return identifier(run, workspace), said


def _settings_of_cell(sent: Mapping[str, Any], window: Window) -> dict[str, Any]:
    """Fields that paint what a cell shows. It comes from the browser, which had it from the grid's record."""
    given = sent.get("given") if isinstance(sent.get("given"), dict) else {}
    plain = ("prompt", "negative_prompt", "seed", "sampler", "steps", "cfg_scale", "width", "height")
    values = {name: sent[name] for name in plain if isinstance(sent.get(name), str | int | float)}
    if isinstance(sent.get("clip_skip"), int):
        values["model.clip_skip"] = sent["clip_skip"]
    lora = str(given.get("lora") or "")
    named = {str(known.path): known.name for known in grids.list_loras(window.workspace)} if lora else {}
    values["lora"] = named.get(lora, lora)
    if isinstance(given.get("weight"), int | float):
        values["weight"] = given["weight"]
    if given.get("model"):
        values["model.path"] = str(given["model"])
    values |= {f"model.{name}": str(given[name]) for name in ("vae", "prediction_type") if isinstance(given.get(name), str)}
    return values


def _uploaded(path: object, name: str, window: Window) -> infotext.Infotext:
    """What a picture that the browser has sent says of itself; the file is not needed any more then. Raises UserError."""
    uploads = (window.workspace.cache / "uploads").resolve()
    file = Path(str(path).replace("\0", "")).resolve()
    if not file.is_relative_to(uploads) or not file.is_file():
        raise UserError("The picture has not arrived: choose it once more.")
    try:
        return infotext.read(file)
    except UserError as error:
        # Gradio has its own idea of what the file is called.
        raise UserError(str(error).replace(file.name, name, 1) if name else str(error)) from None
    finally:
        with contextlib.suppress(OSError):
            file.unlink()


def settings_of_picture(found: infotext.Infotext, raw: Mapping[str, Any], window: Window) -> infotext.Taken:
    """Fields that paint such a picture again, and what stays open. Axes of the form that make sense no more give way."""
    workspace = window.workspace
    # One with a problem is named, too: the form says at its field what it is.
    entries = sorted(models.list_models(workspace), key=lambda entry: bool(entry.problem))
    bases = [infotext.Known(entry.name, entry.path) for entry in entries]
    loras = [infotext.Known(lora.name, lora.path, _run_of(lora.path, workspace)) for lora in grids.list_loras(workspace)]
    vaes = [infotext.Known(vae.name, vae.path) for vae in models.list_vaes(workspace)]
    taken = infotext.as_grid_values(found, bases, loras, vaes)
    values, remarks = dict(taken.values), list(taken.remarks)
    axes = {name: value for name, value in values.items() if name.partition(".")[0] in PLACES}
    plain = {name: value for name, value in values.items() if name not in axes}
    # What a job refuses stays as the form has it.
    for setting, said in grids.read_form({**plain, "x.axis": "seed", "x.values": ["1"]})[1]:
        remarks.append(f"{setting.rpartition('.')[2].replace('_', ' ').capitalize()}: {said}")
        del plain[setting]
    if "model.path" not in plain and not raw.get("model.path"):
        with contextlib.suppress(UserError):
            job = RunFolder(workspace.resolve("runs", str(raw.get("run") or ""))).job()
            plain |= {"model.path": job.model.path} if isinstance(job, TrainJob) else {}
    return infotext.Taken({**plain, **(axes or _axes_left({**raw, **plain}))}, tuple(remarks))


def _axes_left(values: Mapping[str, Any]) -> dict[str, Any]:
    """The axes of a form, without those that need what it has no more; seeds if there is none left."""
    # What a prompt axis searches for was in another prompt.
    gone = {"epoch": not values.get("run"), "trigger": TRIGGER_MARK not in str(values.get("prompt")), "prompt": True}
    kept: dict[str, Any] = {}
    for place in PLACES:
        name = str(values.get(f"{place}.axis") or "")
        texts = name, values.get(f"{place}.values") or ""
        kept |= dict(zip((f"{place}.axis", f"{place}.values"), ("", "") if gone.get(name) else texts, strict=True))
    if any(kept[f"{place}.axis"] for place in PLACES):
        return kept
    seed = int(values.get("seed") or 0)
    return kept | {"x.axis": "seed", "x.values": f"{seed}-{min(seed + 3, 2**32 - 1)}"}


def _run_of(lora: Path, workspace: Workspace) -> str:
    """The run whose training has saved a LoRA, "" for any other file."""
    run = lora.parent.parent
    return identifier(RunFolder(run), workspace) if lora.parent.name == "weights" and (run / "run.yaml").is_file() else ""


def _labels(values: Mapping[str, Any], fields: Fields, language: str) -> list[str]:
    """What those fields are called that have got something."""
    settings = fields.settings.settings
    labels = [say(language, settings[name].label) for name, value in values.items() if name in settings and value not in ("", None)]
    axes = {place: AXES.get(values.get(f"{place}.axis", "")) for place in PLACES}
    return [*labels, *(f"{place.upper()} ({say(language, axis.title)})" for place, axis in axes.items() if axis)]
