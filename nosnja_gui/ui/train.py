"""Tab "Train": the settings of a training as a form, beside them what they come to, and the buttons that start it.

What a setting means, costs and leads to is computed elsewhere (jobs, plan, estimate, schedules); here it is only shown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

from nosnja_gui import foreign, presets, schedules, timesteps, work_queue
from nosnja_gui.dataset import reading
from nosnja_gui.dataset import trigger as triggers
from nosnja_gui.estimate import Advice, Estimate, Fitted, estimate, fit
from nosnja_gui.jobs import LossSettings, TrainJob
from nosnja_gui.methods import METHODS
from nosnja_gui.models import find_model, identify, list_models, list_vaes, mark, native_size
from nosnja_gui.plan import TrainPlan, plan_training
from nosnja_gui.runs import RunFolder, identifier
from nosnja_gui.settings import UserError, dotted
from nosnja_gui.ui.form import Form, Setting, groups_of, shown_value
from nosnja_gui.ui.panel import Panel, Window
from nosnja_gui.ui.texts import language_of, say, t, translated
from nosnja_gui.ui.widget import widget
from nosnja_gui.workspace import Workspace

MEMORY = "form:train"
SAME_START_SECONDS = 5.0
"""A second click within this time on an unchanged form is a double click, not a second training."""
WRITE_EVERY_SECONDS = 0.5
SETTLING_SECONDS = 2.0
PERSONAL = ("name", "trigger", "model.path", "model.vae", "preview.prompts")
"""Fields that no preset touches."""
LONGEST_ABOUT = 300
FOLLOWED = "form:train-follows"
LOAD = "train-load"
"""Where another tab leaves the folder of a run whose settings the form shall take; "" when that is done."""


def build(window: Window) -> Panel:
    """The tab's components, inside the tab that is open."""
    tab = Train(window)
    tab.lay_out()
    tab.listen()
    return Panel(tab.refresh, inputs=[tab.seen, window.dataset], outputs=[tab.seen, tab.busy])


class Train:
    """The tab's components and what they do."""

    def __init__(self, window: Window) -> None:
        self.window, self.workspace = window, window.workspace
        overrides = {"model.path": self._list_field, "model.vae": self._list_field, "method": self._method_field}
        self.form = Form(TrainJob, values=_first_values(), overrides=overrides)
        self.starter = Starter(window)
        self.keeper = Keeper(window)

    # -------------------------------------------------------------------------------------------- layout

    def lay_out(self) -> None:
        # What the program last saw, and what of it the form took over; they differ for a moment only.
        self.seen, self.taken = gr.State({}), gr.State({})
        form = self.form
        with gr.Row(elem_classes="nosnja-train-tab"):
            with gr.Column(scale=6, min_width=460, elem_classes="nosnja-train-form"):
                with gr.Column(elem_classes="nosnja-train-group"):
                    self.preset = gr.Dropdown(
                        self._preset_choices("en"), value=presets.DEFAULT, filterable=False, label=t("Preset"), elem_id="train-preset"
                    )
                    self.bar = widget("train_preset", {}, elem_id="train-preset-bar")
                with gr.Column(elem_classes="nosnja-train-group"):
                    self.dataset = widget("train_dataset", {}, elem_id="field-dataset-path")
                    form.add("model.path", "name", "trigger")
                with gr.Column(elem_classes="nosnja-train-group"):
                    form.add("method", classes="one")
                rates = ("optimizer.learning_rate", "optimizer.text_encoder_learning_rate")
                course = [name for name in form.settings if name.startswith("schedule.")]
                self._group(t("Learning"), "rate", *rates, *course)
                length = ("training.epochs", "dataset.repeats", "training.batch_size", "dataset.resolution")
                self._group(t("Length and pictures"), "length", *length)
                self.of_methods: list[tuple[str, gr.blocks.BlockContext]] = []
                titles, chosen = groups_of(TrainJob), METHODS[TrainJob().method].groups
                for group in dict.fromkeys(group for method in METHODS.values() for group in method.groups):
                    essential = [setting for setting in form.rest_of(group) if form.settings[setting].shown.essential]
                    with gr.Column(elem_classes="nosnja-train-group", visible=group in chosen) as column:
                        gr.HTML(t(titles[group]), elem_classes="nosnja-train-heading")
                        form.add(*essential)
                    self.of_methods.append((group, column))
                self._group(t("Previews"), "prompts", "preview.prompts")
                gr.HTML(t("More settings"), elem_classes="nosnja-train-heading")
                of_some_method = {group for group, _ in self.of_methods}
                for group, title in titles.items():
                    if rest := form.rest_of(group):
                        rest = [name for name in rest if name not in ("dataset.path", "model.path")]
                        with gr.Accordion(
                            t(title), open=False, visible=group not in of_some_method or group in chosen,
                            elem_id=f"train-more-{group}", elem_classes="nosnja-train-more",
                        ) as accordion:  # fmt: skip
                            form.add(*rest)
                        if group in of_some_method:
                            self.of_methods.append((group, accordion))
            with gr.Column(scale=5, min_width=420, elem_classes="nosnja-train-side"):
                with gr.Row(elem_classes="nosnja-train-buttons"):
                    self.start = gr.Button(t("Start training"), variant="primary", elem_id="train-start")
                    self.enqueue = gr.Button(t("Add to queue"), elem_id="train-enqueue")
                self.busy = widget("train_busy", {}, elem_id="train-busy")
                self.side = widget("train", {}, elem_id="train-previews")

    def _group(self, heading: Any, kind: str, *names: str) -> None:
        with gr.Column(elem_classes="nosnja-train-group"):
            gr.HTML(heading, elem_classes="nosnja-train-heading")
            self.form.add(*names, classes=f"nosnja-train-{kind}")

    def _method_field(self, setting: Setting, common: dict[str, Any]) -> gr.Radio:
        return gr.Radio([(t(title), value) for title, value in setting.choices], **common)

    def _list_field(self, setting: Setting, common: dict[str, Any]) -> gr.Dropdown:
        return gr.Dropdown(self._listed()[setting.name], allow_custom_value=True, **common)

    # -------------------------------------------------------------------------------------------- events

    def listen(self) -> None:
        form, quiet = self.form, self.window.quiet
        given = [self.window.dataset, self.preset, *form.inputs()]
        shown = [self.dataset, self.bar, self.side]
        everything = [*form.inputs(), self.preset, *shown]
        # Not `change`: it also fires while a form is being filled in by the program, with half of the fields still empty.
        typed = [field.input for field in form.inputs()]
        gr.on(typed, spoken(self.typed), [self.taken, *given], shown, trigger_mode="always_last", **quiet)
        news = [self.seen.change, self.window.dataset.change]
        gr.on(news, spoken(self.caught_up), [self.taken, *given], [self.taken, *everything], trigger_mode="always_last", **quiet)
        self.preset.input(spoken(self.preset_chosen), given, everything, trigger_mode="always_last", **quiet)
        self.bar.reset(spoken(self.preset_chosen), given, everything, **quiet)
        self.bar.save(told(self.preset_saved), given, everything, **quiet)
        self.bar.remove(spoken(self.preset_removed), given, everything, **quiet)
        self.bar.bring(told(self.settings_brought), given, everything, **quiet)
        self.bar.fill(told(self.advised), given, everything, **quiet)
        self.side.advise(told(self.advised), given, everything, **quiet)
        self.side.suggest(spoken(self.suggested), given, everything, **quiet)
        self.side.go(told(self.gone), None, self.window.tabs, **quiet)
        self.dataset.go(told(self.gone), None, self.window.tabs, **quiet)
        opened = [self.window.run, self.window.tabs, self.side]
        for button, handler in ((self.start, self.started), (self.enqueue, self.queued)):
            button.click(spoken(handler), given, opened, trigger_mode="once", **quiet)
        method = form.components["method"]
        method.change(self.method_chosen, method, [block for _, block in self.of_methods], **quiet)

    def method_chosen(self, name: str) -> list[Any]:
        """Only what the chosen method goes by is shown; the rest keeps its values."""
        groups = METHODS[name].groups if name in METHODS else ()
        return [gr.update(visible=group in groups) for group, _ in self.of_methods]

    def typed(self, language: str, taken: dict[str, Any], dataset: str, preset: str, *given: Any) -> list[Any]:
        """A field was changed. Before a fresh page has the form as it was left, nothing is remembered of it."""
        if not taken:
            return [gr.skip()] * 3
        return self.look(dataset, preset, self.form.given(given), language)

    def look(self, dataset: str, preset: str, raw: Mapping[str, Any], language: str, **more: Any) -> list[Any]:
        """What the dataset's card, the preset's bar and the previews show of a form, which is remembered as it is."""
        self.keeper.keep({"preset": preset, "values": dict(raw)})
        values = self.form.values(raw)
        base = self.base(preset)
        sight = see(self.form, values, dataset, base, self.workspace, language)
        changed = [name for name, value in base.items() if name in values and values[name] != value]
        bar = {**self._preset_words(preset, language), "changed": changed, "labels": [self._label(name, language) for name in changed]}
        card = {"name": dataset_name(dataset), "path": dataset, "pictures": sight["count"]["pictures"]}
        return [card, bar, {**sight, "changed": changed, **more}]

    def preset_chosen(self, language: str, dataset: str, preset: str, *given: Any) -> list[Any]:
        """All fields take the preset's values, but for those that belong to this one training."""
        return self.set_fields(dataset, preset, self.form.given(given), self.base(preset), language)

    def set_fields(
        self, dataset: str, preset: str, raw: Mapping[str, Any], changes: Mapping[str, Any], language: str, preset_update: Any = None
    ) -> list[Any]:
        """Outputs of everything, with some fields changed."""
        known = {name: value for name, value in changes.items() if name in self.form.components}
        updates = self.form.show(known)
        after = {**raw, **{name: value for name, value in zip(self.form.components, updates, strict=True) if name in known}}
        return [*updates, preset_update or gr.skip(), *self.look(dataset, preset, after, language)]

    def preset_saved(self, wish: dict[str, Any], language: str, dataset: str, preset: str, *given: Any) -> list[Any]:
        raw = self.form.given(given)
        values = self.form.values(raw)
        skips = [gr.skip()] * len(self.form.components)
        if problems := self.form.problems(values, language):
            names = ", ".join(self._label(name, language) for name in problems)
            said = say(language, "Put right what is marked first: {names}.", names=names)
            return self._bar_says(skips, dataset, preset, raw, said, language)
        try:
            about, title = str(wish.get("about") or "")[:LONGEST_ABOUT], str(wish.get("title", ""))
            saved = presets.save_preset(presets.own_folder(self.workspace), title, self.form.job(values), about)
        except UserError as error:
            return self._bar_says(skips, dataset, preset, raw, str(error), language)
        update = gr.update(choices=self._preset_choices(language), value=saved.key)
        return [*skips, update, *self.look(dataset, saved.key, raw, language)]

    def settings_brought(self, wish: dict[str, Any], language: str, dataset: str, preset: str, *given: Any) -> list[Any]:
        """All fields take what another trainer's files say, as they take a preset's; the bar shows what became of each line."""
        raw = self.form.given(given)
        files = wish.get("files") if isinstance(wish.get("files"), list) else []
        try:
            imported = foreign.understand(*((str(file.get("name")), str(file.get("text"))) for file in files if isinstance(file, dict)))
        except UserError as error:
            card, bar, side = self.look(dataset, preset, raw, language)
            skips = [gr.skip()] * (len(self.form.components) + 1)
            return [*skips, card, {**bar, "refused": str(error), "at": time.time()}, side]
        values = dotted(imported.job().model_dump(mode="json"))
        taken = {name: value for name, value in values.items() if name not in (*PERSONAL, *foreign.PERSONAL)}
        *others, bar, side = self.set_fields(dataset, preset, raw, taken, language)
        return [*others, {**bar, "brought": self._brought(imported, files, language), "at": time.time()}, side]

    def _brought(self, imported: foreign.Imported, files: list[Any], language: str) -> dict[str, Any]:
        """The lines for the bar, in our words where they are ours."""

        def ours(settings: Mapping[str, Any]) -> list[list[str]]:
            return [[self._label(name, language), self._value(name, value, language)] for name, value in settings.items()]

        lines = [
            {
                "key": line.key, "value": line.shown, "verdict": line.verdict, "ours": ours(line.settings), "reason": line.reason,
                "given": line.given,
            }
            for line in imported.lines
        ]  # fmt: skip
        fillable = {name: value for name, value in imported.personal.items() if name in self.form.components}
        names = [str(file.get("name")) for file in files]
        return {"title": imported.title, "files": names, "lines": lines, "personal": fillable, "offered": ours(fillable)}

    def preset_removed(self, language: str, dataset: str, preset: str, *given: Any) -> list[Any]:
        """The user's preset goes; the fields stay as they are."""
        raw = self.form.given(given)
        skips = [gr.skip()] * len(self.form.components)
        try:
            if chosen := self.find_preset(preset):
                presets.delete_preset(chosen)
        except (UserError, OSError) as error:
            return self._bar_says(skips, dataset, preset, raw, str(error), language)
        update = gr.update(choices=self._preset_choices(language), value=presets.DEFAULT)
        return [*skips, update, *self.look(dataset, presets.DEFAULT, raw, language)]

    def _bar_says(self, skips: list[Any], dataset: str, preset: str, raw: Mapping[str, Any], said: str, language: str) -> list[Any]:
        card, bar, side = self.look(dataset, preset, raw, language)
        return [*skips, gr.skip(), card, {**bar, "said": said, "at": time.time()}, side]

    def advised(self, wish: dict[str, Any], language: str, dataset: str, preset: str, *given: Any) -> list[Any]:
        """An advice was clicked: its changes are made; or all were left to the program, which says what it chose."""
        if wish.get("fit"):
            return self.fitted(language, dataset, preset, self.form.given(given))
        changes = wish.get("changes") if isinstance(wish.get("changes"), dict) else {}
        return self.set_fields(dataset, preset, self.form.given(given), self.form.values(changes), language)

    def fitted(self, language: str, dataset: str, preset: str, raw: Mapping[str, Any]) -> list[Any]:
        """The fields take what makes the training fit into the memory that is free."""
        values, base = self.form.values(raw), self.base(preset)
        job = sound_job(self.form, values, dataset, base, self.form.problems(values, language))
        found = fit(job, plan_training(job, self.workspace), self.workspace)
        *others, side = self.set_fields(dataset, preset, raw, found.changes, language)
        return [*others, {**side, "estimate": {**side["estimate"], "fitted": fitting(found, language)}}]

    def suggested(self, language: str, dataset: str, preset: str, *given: Any) -> list[Any]:
        raw = self.form.given(given)
        word = self.form.values(raw)["trigger"]
        kept = self._trigger_of(dataset)
        prompts = suggest_prompts(dataset, word, kept.get("class_nouns") or [])
        return self.set_fields(dataset, preset, raw, {"preview.prompts": prompts}, language)

    def gone(self, wish: dict[str, Any], language: str) -> Any:
        return gr.Tabs(selected="dataset" if wish.get("tab") == "dataset" else "monitor")

    def started(self, language: str, dataset: str, preset: str, *given: Any, at_once: bool = True) -> list[Any]:
        """The run is made and starts or waits, and the monitor opens; or what is wrong is shown, and nothing is made."""
        raw = self.form.given(given)
        side = self.look(dataset, preset, raw, language, tried=time.time())[2]
        if not side["problems"]:
            try:
                run = self.starter.start(self.job(self.form.values(raw), dataset), at_once)
                return [identifier(run, self.workspace), gr.Tabs(selected="monitor"), {**side, "tried": 0}]
            except UserError as error:
                side["problems"] = [{"name": "", "label": "", "text": str(error)}]
        side["marks"] = {problem["name"]: problem["text"] for problem in side["problems"]}
        return [gr.skip(), gr.skip(), side]

    def queued(self, language: str, *values: Any) -> list[Any]:
        return self.started(language, *values, at_once=False)

    def job(self, values: Mapping[str, Any], dataset: str) -> TrainJob:
        """The job that the form asks for. Raises UserError."""
        name = values["name"] or values["trigger"] or dataset_name(dataset)
        return presets.train_job(None, {**values, "dataset.path": dataset, "name": name})

    # -------------------------------------------------------------------------------------------- refresh

    def refresh(self, seen: dict[str, Any], dataset: str, language: str) -> list[Any] | None:
        """Looks at what other tabs and processes change. Few outputs, as each costs something at every tick."""
        new = {"busy": self._busy(), **self._now(dataset)}
        return None if new == seen else [new, new["busy"]]

    def caught_up(self, language: str, taken: dict[str, Any], dataset: str, preset: str, *given: Any) -> list[Any]:
        """A fresh page gets the form as it was left; an open one follows the dataset, its trigger word and the models there are."""
        now = self._now(dataset)
        # What was sent right after a page was loaded may have been sent before the fields were filled in.
        fresh = not taken or time.monotonic() - taken.get("at", 0.0) < SETTLING_SECONDS
        raw, picker = self.form.given(given), gr.skip()
        if fresh:
            followed = self.window.memory.get(FOLLOWED)
            taken = {**(followed if isinstance(followed, dict) else {}), "at": taken.get("at", time.monotonic())}
            preset, raw = self.remembered()
            picker = gr.update(choices=self._preset_choices(language), value=preset)
        changes = self._following(taken, now, str(raw["trigger"] or ""), str(raw["name"] or "")) | self._handed_over()
        after = {**raw, **changes}
        fields = self.form.show(after if fresh else changes)
        if now["models"] != taken.get("models"):
            names = list(self.form.components)
            for name, choices in self._listed(language).items():
                fields[names.index(name)] = gr.update(choices=choices, value=after[name])
        if "word" in now:
            self.window.memory.put(FOLLOWED, {"word": now["word"], "name": now["name"]})
        return [{**taken, **now}, *fields, picker, *self.look(dataset, preset, after, language)]

    def remembered(self) -> tuple[str, dict[str, Any]]:
        """The preset and what the fields hold, as the form was left."""
        kept = self.keeper.kept()
        preset = str(kept.get("preset", presets.DEFAULT))
        preset = preset if self.find_preset(preset) else presets.DEFAULT
        raw = {**self.form.defaults(), **self.base(preset)}
        raw.update(kept["values"] if isinstance(kept.get("values"), dict) else {})
        choices = self._listed()["model.path"]
        if not raw.get("model.path") and choices:
            raw["model.path"] = choices[0][1]
        return preset, {name: shown_value(self.form.settings[name], raw[name]) for name in self.form.components}

    def _following(self, taken: Mapping[str, Any], now: Mapping[str, Any], trigger: str, name: str) -> dict[str, str]:
        """What trigger word and name become as the dataset or its word changed: they follow unless the user wrote their own."""
        changes = {}
        if now.get("word") and now["word"] != taken.get("word") and trigger.strip() in ("", taken.get("word")):
            changes["trigger"] = now["word"]
        if now.get("name") and now["name"] != taken.get("name") and name.strip() in ("", TrainJob().name, taken.get("name")):
            changes["name"] = now["name"]
        return changes

    def _now(self, dataset: str) -> dict[str, Any]:
        """What the form follows: the trigger word and the name that a dataset brings along, where one is open, and the models."""
        news: dict[str, Any] = {"models": hash(mark(self.workspace)), "load": str(self.window.memory.get(LOAD) or "")}
        if not dataset:
            return news
        word = str(self._trigger_of(dataset).get("word", ""))
        return {**news, "word": word, "name": word or dataset_name(dataset)}

    def _handed_over(self) -> dict[str, Any]:
        """Settings of a run that another tab wants here, once; nothing for a run that is gone or no training."""
        folder = str(self.window.memory.get(LOAD) or "")
        if not folder:
            return {}
        self.window.memory.put(LOAD, "")
        try:
            job = RunFolder(Path(folder)).job()
        except UserError:
            return {}
        values = dotted(job.model_dump(mode="json")) if isinstance(job, TrainJob) else {}
        return {name: shown_value(self.form.settings[name], value) for name, value in values.items() if name in self.form.components}

    def _trigger_of(self, dataset: str) -> dict[str, Any]:
        kept = self.window.memory.get(f"trigger:{dataset}") if dataset else None
        return kept if isinstance(kept, dict) else {}

    def _busy(self) -> dict[str, Any]:
        running = work_queue.busy(self.workspace)
        name = ""
        if running is not None:
            try:
                name = identifier(running, self.workspace)
            except UserError:
                name = running.path.name
        return {"run": name, "waiting": len(work_queue.waiting(self.workspace))}

    # -------------------------------------------------------------------------------------------- presets and models

    def find_preset(self, key: str) -> presets.Preset | None:
        known = [*presets.list_presets(), *presets.own_presets(presets.own_folder(self.workspace))]
        return next((preset for preset in known if preset.key == key), None)

    def base(self, key: str) -> dict[str, Any]:
        """What the preset sets the fields to. One that is gone or damaged is the defaults."""
        preset = self.find_preset(key)
        try:
            values = presets.settings_of(preset) if preset else {}
        except UserError:
            values = {}
        values = values or {name: value for name, value in self.form.defaults().items() if name not in presets.PERSONAL}
        return {name: value for name, value in values.items() if name in self.form.components and name not in PERSONAL}

    def _preset_choices(self, language: str) -> list[tuple[str, str]]:
        given = [(translated(language, preset.title), preset.key) for preset in presets.list_presets()]
        return given + [(preset.title, preset.key) for preset in presets.own_presets(presets.own_folder(self.workspace))]

    def _preset_words(self, key: str, language: str) -> dict[str, Any]:
        preset = self.find_preset(key)
        if preset is None:
            return {"title": "", "about": "", "own": False}
        about = preset.about if preset.own else translated(language, preset.about)
        return {"title": preset.title, "about": about or say(language, "Your own preset."), "own": preset.own}

    def _listed(self, language: str = "en") -> dict[str, list[tuple[str, str]]]:
        """What the lists of files offer. Of what cannot be used only the workspace's own, whose owner wants to know why."""
        bases = [model for model in list_models(self.workspace) if not (model.problem and model.place)]
        vaes = [(vae.title, vae.name) for vae in list_vaes(self.workspace)]
        return {
            "model.path": [(model.label, model.name) for model in bases],
            "model.vae": [(say(language, "The model's own"), ""), *vaes],
        }

    def _value(self, name: str, value: Any, language: str) -> str:
        """A setting's value as its field would show it."""
        setting = self.form.settings.get(name)
        if setting and value is None:
            return translated(language, setting.shown.empty) or "–"
        title = next((title for title, own in setting.choices if own == value), "") if setting else ""
        if isinstance(value, bool):
            return say(language, "on") if value else say(language, "off")
        return translated(language, title) if title else ", ".join(map(str, value)) if isinstance(value, list) else f"{value}"

    def _label(self, name: str, language: str) -> str:
        return translated(language, self.form.settings[name].label) if name in self.form.settings else name


def dataset_name(dataset: str) -> str:
    """What a set is called: as its folder, and within a run as the run."""
    folder = Path(dataset)
    return folder.parent.name if (folder.parent / "run.yaml").is_file() else folder.name


def spoken(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler, given the browser's language first."""

    def handle(request: gr.Request, *values: Any) -> Any:
        return handler(language_of(request), *values)

    return handle


def told(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler, given what the widget said along with its event, and then the browser's language."""

    def handle(request: gr.Request, event: gr.EventData, *values: Any) -> Any:
        return handler(event._data if isinstance(event._data, dict) else {}, language_of(request), *values)

    return handle


def see(
    form: Form, values: Mapping[str, Any], dataset: str, base: Mapping[str, Any], workspace: Workspace, language: str
) -> dict[str, Any]:
    """What the previews draw: problems, counts, the learning rate's curve, memory and time.

    A refused value is replaced by the preset's for the drawing, and the drawing is said to be stale.
    """
    refused = form.problems(values, language)
    job = sound_job(form, values, dataset, base, refused)
    plan = plan_training(job, workspace)
    guess = estimate(job, plan, workspace)
    problems = {**refused, **{name: text for name, text in plan.problems.items() if name not in refused}}
    if wrong := trigger_problem(str(values.get("trigger") or "")):
        problems["trigger"] = wrong
    if not dataset:
        problems["dataset.path"] = say(language, "Choose pictures to train on, in the tab of the dataset.")
    if not values.get("model.path"):
        problems["model.path"] = say(language, "Choose a base model, or put one into the workspace's folder models.")
    # A field that was not filled in yet is no mistake to be shouted about; the list beside the button names it.
    marks = {name: text for name, text in problems.items() if values.get(name) not in (None, "", [])}

    def label(name: str) -> str:
        return translated(language, form.settings[name].label) if name in form.settings else ""

    return {
        "problems": [{"name": name, "label": label(name), "text": text} for name, text in problems.items()],
        "marks": marks,
        "stale": bool(refused),
        "idle": job.without_effect(),
        "count": count(job, plan),
        "buckets": [list(bucket) for bucket in plan.buckets],
        "notes": list(plan.notes),
        "curve": curve(job, plan.total, language),
        "noise": noise_levels(job, workspace, language),
        "scale": scale(job, form, base),
        "estimate": {
            "memory": guess.memory_bytes, "of": guess.memory_total, "free": guess.memory_free, "fits": guess.fits, "device": guess.device,
            "seconds": guess.seconds, "basis": basis(guess, language),
            "advice": [{"text": advised(one, language), "changes": one.changes, "saves": one.saves_bytes} for one in guess.advice],
        },
        "usual": usual_sides(job, plan, workspace),
        "suggest": bool(dataset or values.get("trigger")) and not values.get("preview.prompts"),
    }  # fmt: skip


def sound_job(form: Form, values: Mapping[str, Any], dataset: str, base: Mapping[str, Any], refused: Mapping[str, str]) -> TrainJob:
    """The job of a form, with the preset's values in the place of those that are refused."""
    sound = {name: value for name, value in values.items() if name not in refused}
    job = form.job({**form.defaults(), **base, **sound, "dataset.path": dataset})
    assert isinstance(job, TrainJob)
    return job


def usual_sides(job: TrainJob, plan: TrainPlan, workspace: Workspace) -> dict[str, int]:
    """What sides in pixels come to that are left empty: the model's own, and of previews that of the training."""
    try:
        own = native_size(find_model(job.model.path, workspace.models))
    except UserError:  # it is among the plan's problems
        return {}
    return {"dataset.resolution": own, "preview.width": plan.resolution, "preview.height": plan.resolution}


def basis(guess: Estimate, language: str) -> str:
    """What the time is based on, for people."""
    match guess.basis_kind:
        case "run":
            return say(language, "As fast as {run}.", run=guess.basis_name)
        case "gpu":
            return say(language, "A rough guess for this card ({card}); the first run will tell.", card=guess.basis_name)
        case "processor":
            return say(language, "A rough guess for this processor; the first run will tell.")
    return say(language, "Known when pictures and a base model are chosen.")


def fitting(found: Fitted, language: str) -> dict[str, Any]:
    """What was chosen to make a training fit, for people."""
    chosen = [{"text": advised(one, language), "saves": one.saves_bytes} for one in found.advice]
    if found.estimate.fits is not False:
        return {"chosen": chosen, "said": ""}
    said = say(language, "It cannot be made to fit: end other programs that use this memory, or choose a smaller model.")
    return {"chosen": chosen, "said": said}


def advised(advice: Advice, language: str) -> str:
    """What a change that saves memory would do, for people."""
    new = advice.changes
    match advice.kind:
        case "gradient_checkpointing":
            return say(language, "Turn gradient checkpointing on: a third slower.")
        case "batch_size":
            gathered = new.get("training.gradient_accumulation")
            return say(language, "Batch size 1, gathered: {count}. The same training, a little slower.", count=gathered)
        case "adamw8bit":
            return say(language, "AdamW8bit instead of AdamW: hardly any difference.")
        case "lion8bit":
            return say(language, "Lion8bit instead of Lion: hardly any difference.")
        case "int8":
            return say(language, "The frozen model in int8: hardly any difference, and slower.")
        case "nf4":
            return say(language, "The frozen model in nf4: rounded to 16 steps, and slower.")
        case "fused_backward":
            return say(language, "Fused backward pass; gradients are not shortened with it.")
        case "text_encoder":
            return say(language, "Leave the text encoder alone: the trigger word is learned a little later.")
        case "resolution":
            return say(language, "Resolution {pixels}: less detail.", pixels=new.get("dataset.resolution"))
        case "rank":
            return say(language, "Rank {rank}: less fine detail.", rank=new.get("lora.rank"))
    return advice.text


def count(job: TrainJob, plan: TrainPlan) -> dict[str, Any]:
    """The terms of the exposure counter."""
    return {
        "pictures": plan.pictures, "held_out": plan.held_out, "repeats": job.dataset.repeats, "epochs": job.training.epochs,
        "batch": job.training.batch_size, "accumulation": job.training.gradient_accumulation, "total": plan.total,
        "steps_per_epoch": plan.steps_per_epoch, "passes": plan.passes_per_picture, "saves": plan.saves, "samples": plan.samples,
        "prompts": len(job.preview.prompts),
    }  # fmt: skip


def curve(job: TrainJob, total: int, language: str) -> dict[str, Any]:
    """The chart of the learning rates as they will run."""
    schedule, rates = job.schedule, job.optimizer
    points = schedules.points(schedule.name, total, schedule.warmup_share, **schedule.shape) if rates.follows_rate else []
    updates = [update + 1 for update, _ in points]
    parts = [("unet", say(language, "UNet"), "accent", rates.learning_rate)]
    if rates.text_encoder_learning_rate:
        text_rate = rates.learning_rate if rates.chosen.finds_rate else rates.text_encoder_learning_rate
        parts.append(("text_encoder", say(language, "Text encoder"), "blue", text_rate))
    return {
        "series": [
            {
                "name": name,
                "label": label,
                "color": color,
                "dashed": name != "unet",
                "x": updates,
                "y": [rate * share for _, share in points],
            }
            for name, label, color, rate in parts
        ],
        "x_label": say(language, "step"),
        "y_label": "",
        "y_zero": True,
        "height": 165,
        "label": say(language, "The learning rate over the training"),
        "empty": say(language, "Choose pictures to see the curve." if rates.follows_rate else "The optimizer sets the rate by itself."),
    }


def noise_levels(job: TrainJob, workspace: Workspace, language: str) -> dict[str, Any]:
    """The chart of how often each noise level is drawn and how much it counts, both compared with the mean of all."""
    try:
        family, source = identify(find_model(job.model.path, workspace.models))
        wanted = job.model.prediction_type
        predicts = family.prediction_of(source) if wanted == "auto" else wanted
    except UserError:  # it is among the plan's problems
        predicts = "epsilon"
    drawn, weights = _profile(job.loss, predicts)
    places = [1000 * (place + 0.5) / len(drawn) for place in range(len(drawn))]
    return {
        "series": [
            {"name": "drawn", "label": say(language, "How often it is drawn"), "color": "accent", "x": places, "y": drawn},
            {"name": "weight", "label": say(language, "How much it counts"), "color": "blue", "dashed": True, "x": places, "y": weights},
        ],
        "x_label": say(language, "timestep: 0 is clean, 1000 is noise"),
        "y_zero": True,
        "x_range": [0, 1000],
        "height": 150,
        "label": say(language, "How often each noise level is drawn and how much it counts, 1 is the mean"),
    }  # fmt: skip


@lru_cache(maxsize=16)
def _profile(loss: LossSettings, predicts: timesteps.Prediction) -> tuple[list[float], list[float]]:
    flow = predicts == "flow"
    shares = loss.shares(flow) or timesteps.shares("logit_normal" if flow else "uniform")
    return timesteps.bins(shares), timesteps.bins(loss.weights(timesteps.standard_snr(loss.zero_terminal_snr), predicts))


def scale(job: TrainJob, form: Form, base: Mapping[str, Any]) -> dict[str, float]:
    """What the method makes of the learning rate, here and with the preset."""
    preset = form.job({**form.defaults(), **base})
    assert isinstance(preset, TrainJob)
    own, other = (getattr(one, METHODS[one.method].groups[0]) for one in (job, preset))
    return {
        "alpha": own.alpha if hasattr(own, "alpha") else None, "rank": own.rank if hasattr(own, "rank") else None, "scale": own.scale,
        "rate": job.optimizer.learning_rate, "effective": job.optimizer.learning_rate * own.scale,
        "preset": preset.optimizer.learning_rate * other.scale,
    }  # fmt: skip


def suggest_prompts(dataset: str, word: str, nouns: list[str]) -> list[str]:
    """Two prompts to watch a training by: one with the trigger word, the other the same without it.

    Taken from the captions, because a LoRA answers best to what it was told in training.
    """
    noun = next((str(noun) for noun in nouns if str(noun).strip()), "")
    word = "" if trigger_problem(word) else word
    try:
        captions = [text for text in reading.read(Path(dataset)).captions().values() if text] if dataset else []
    except UserError:
        captions = []
    telling = [text for text in captions if word and word.lower() in text.lower() and len(text) <= 200]
    # The longest of the usual ones tells the most; sorted, so that the same set gives the same prompts.
    example = max(sorted(telling), key=lambda text: (text.lower().count(word.lower()), len(text)), default="")
    if not word:
        return sorted(captions, key=len)[len(captions) // 2 :][:2]
    example = example or triggers.insert(f"a photo of a {noun or word}", word, noun or None)
    without = triggers.remove(example, word, noun or None) or "a photo"
    return [example, without]


def trigger_problem(word: str) -> str:
    """Why this can't be the trigger word; empty where it can, or where there is none."""
    try:
        if word:
            triggers.clean_word(word)
    except UserError as error:
        return str(error)
    return ""


class Starter:
    """Makes and starts runs, one at a time; a double click gets the run that its first half made."""

    def __init__(self, window: Window) -> None:
        self.workspace = window.workspace
        self._lock = threading.Lock()
        self._last: tuple[TrainJob, RunFolder, float] | None = None

    def start(self, job: TrainJob, at_once: bool) -> RunFolder:
        """The run of this job, started if nothing else runs, waiting otherwise. Raises UserError."""
        with self._lock:
            now = time.monotonic()
            if self._last is not None and self._last[0] == job and now - self._last[2] < SAME_START_SECONDS:
                return self._last[1]
            run = RunFolder.create(self.workspace.new_run(job.name), job)
            if at_once:
                work_queue.start_or_enqueue(run, self.workspace)
            else:
                work_queue.enqueue(run, self.workspace)
            self._last = (job, run, now)
            return run


class Keeper:
    """Remembers the form as it is left, without writing at every movement of a slider."""

    def __init__(self, window: Window) -> None:
        self.memory = window.memory
        self._lock = threading.Lock()
        self._value: dict[str, Any] = {}
        self._timer: threading.Timer | None = None

    def keep(self, value: dict[str, Any]) -> None:
        with self._lock:
            self._value = value
            if self._timer is None:
                self._timer = threading.Timer(WRITE_EVERY_SECONDS, self.write)
                self._timer.daemon = True
                self._timer.start()

    def kept(self) -> dict[str, Any]:
        """The form as it was left last, whether that is written yet or not."""
        value = self._value or self.memory.get(MEMORY)
        return value if isinstance(value, dict) else {}

    def write(self) -> None:
        with self._lock:
            self._timer = None
            value = self._value
        self.memory.put(MEMORY, value)


def _first_values() -> dict[str, Any]:
    values = presets.train_job(presets.DEFAULT).model_dump(mode="json")
    return presets.dotted(values)
