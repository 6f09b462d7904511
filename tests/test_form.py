"""Forms: every setting gets a field, and whatever a setting may be goes through its field and comes back."""

import json

import annotated_types
import gradio as gr
import pytest

from nosnja_gui import presets
from nosnja_gui.jobs import GridJob, TrainJob
from nosnja_gui.settings import Slider, field_names
from nosnja_gui.ui.form import Form, build_form, number, plain, settings_of, shown_value, texts_of

MODELS = {"train": TrainJob, "grid": GridJob}
GRID = {"x": {"axis": "weight", "values": [1]}}
ALL = [(kind, name) for kind, model in MODELS.items() for name in settings_of(model)]

WRITTEN = {
    "dataset.concepts": [[], ["hats, repeats=5, weight=0.5", "C:/my hats, class=hat"]],
    "hypernetwork.layer_structure": ["1,1", "1, 0.5, 32, 1"],
    "lora.block_ranks": ["", "mid: 4", "down.0.1: 0, up.*: 1024"],
    "hypernetwork.modules": ["", "768", "320, 99999"],
    "schedule.pieces": ["50%: 0.5", "0%: 1; 12.5 %: .25, 99.9%: 1.0"],
}
"""Texts that are to be written in a certain way, and some that are."""


def field_of(model, name):
    *groups, last = name.split(".")
    for group in groups:
        model = model.model_fields[group].annotation
    return model.model_fields[last]


def edges(model, name: str) -> list:
    """Values that a setting may just take: its bounds, the ends and middle of its slider, odd texts, nothing."""
    setting, field = settings_of(model)[name], field_of(model, name)
    if setting.kind == "choice":
        return [value for _, value in setting.choices]
    if setting.kind == "switch":
        return [True, False]
    if name in WRITTEN:
        return WRITTEN[name]
    if setting.kind == "text":
        return ["", "nošnja, 民族服装", "1e-4", "no", "a: b #c"]
    if setting.kind == "lines":
        return [[], ["a girl, <b>", "1e-4", "two  words"]]
    whole = setting.kind == "whole"
    by = next((mark.multiple_of for mark in field.metadata if isinstance(mark, annotated_types.MultipleOf)), 1)
    values = [None] if setting.optional else []
    for mark in field.metadata:
        values += [mark.ge] if isinstance(mark, annotated_types.Ge) else []
        values += [mark.le] if isinstance(mark, annotated_types.Le) else []
        values += [mark.gt + (1 if whole else 1.5e-12)] if isinstance(mark, annotated_types.Gt) else []
        values += [mark.lt - (1 if whole else 2**-53)] if isinstance(mark, annotated_types.Lt) else []
        values += [mark.low, mark.high] if isinstance(mark, Slider) else []
    values += [by * 12_345] if not any(isinstance(mark, annotated_types.Le | annotated_types.Lt) for mark in field.metadata) else []
    return values if whole else [*values, (setting.default or 0.1) * 1.0123456789]


def as_browser(value):
    """JSON there and back, with JavaScript's numbers: a whole float comes back as an int."""
    value = json.loads(json.dumps(value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


@pytest.fixture(scope="module")
def forms():
    with gr.Blocks():
        return {kind: build_form(model, prefix=kind) for kind, model in MODELS.items()}


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_every_value_that_a_setting_may_take_comes_back_from_its_field(forms, kind, name):
    form, model = forms[kind], MODELS[kind]
    setting, component = form.settings[name], form.components[name]
    base = GRID if kind == "grid" else {}
    for value in [setting.default, *edges(model, name)]:
        job = model.parse(presets.merge_dotted(base, {name: value}))
        wanted = model.model_validate(job.model_dump())
        shown = component.postprocess(shown_value(setting, presets.dotted(job.model_dump(mode="json")).get(name)))
        sent = component.preprocess(as_browser(shown))
        got = model.parse(presets.merge_dotted(base, form.values({name: sent})))
        assert got == wanted, (name, value, sent)


@pytest.mark.parametrize("kind", MODELS)
def test_every_setting_has_a_field_with_a_label_and_help(forms, kind):
    known = set(forms[kind].components)
    groups = {name.rpartition(".")[0] for name in field_names(MODELS[kind])}
    left_out = {name for name in field_names(MODELS[kind]) if name not in known and name not in groups}
    assert {name.split(".")[0] for name in left_out} <= {"job", "x", "y", "z"}
    for setting in forms[kind].settings.values():
        assert (setting.label and setting.label[0].isupper()) or setting.label[0].isdigit(), setting.name
        assert setting.help or setting.name == "job", setting.name


def test_ids_follow_the_dotted_names(forms):
    assert forms["train"].components["optimizer.learning_rate"].elem_id == "train-optimizer-learning_rate"
    with gr.Blocks():
        assert build_form(TrainJob, ["lora.rank"]).components["lora.rank"].elem_id == "field-lora-rank"


@pytest.mark.parametrize("kind", MODELS)
def test_the_texts_of_a_model_are_all_that_its_form_says(kind):
    texts = texts_of(MODELS[kind])
    for setting in settings_of(MODELS[kind]).values():
        assert {setting.label, setting.help} <= set(texts)
    assert len(texts) == len(set(texts)) and "" not in texts
    if kind == "train":
        assert {"Cosine with restarts", "DPM++ 2M Karras", "Previews while training", "no limit"} <= set(texts)


@pytest.mark.parametrize("kind", MODELS)
def test_every_slider_lies_within_the_bounds_and_holds_the_default(kind):
    model = MODELS[kind]
    base = GRID if kind == "grid" else {}
    for name, setting in settings_of(model).items():
        if not setting.slider:
            continue
        low, high = setting.slider.low, setting.slider.high
        for end in (low, high):
            model.parse(presets.merge_dotted(base, {name: int(end) if setting.kind == "whole" else end}))
        assert low < high and (setting.slider.step or setting.slider.logarithmic), name
        assert setting.default is None or low <= setting.default <= high, name
        start = setting.shown.start
        assert (start is not None) == setting.optional and (start is None or low <= start <= high), name
        assert not setting.slider.logarithmic or low > 0, name


@pytest.mark.parametrize(
    ("written", "meant"),
    [("1e-4", 1e-4), (" 2E-5 ", 2e-5),
     ("0,5", 0.5), ("12", 12), ("12.0", 12.0), (".5", 0.5), ("", None), ("  ", None), (7, 7), (None, None),
     ("abc", "abc"), ("1,000", "1,000"), ("nan", "nan"), ("1e999", "1e999"), ("1 2", "1 2"), (True, "True"), ("٣", 3)],
)  # fmt: skip
def test_numbers_are_read_as_people_write_them(written, meant):
    assert number(written) == meant and type(number(written)) is type(meant)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("optimizer.learning_rate", "0", "Must be above 0."),
        ("optimizer.learning_rate", "5", "Must be at most 1."),
        ("optimizer.learning_rate", "fast", "Must be a number."),
        ("optimizer.learning_rate", "nan", "Must be a number."),
        ("optimizer.learning_rate", "", "Must not be empty."),
        ("optimizer.text_encoder_learning_rate", "-1", "Must be at least 0."),
        ("training.epochs", "2.5", "Must be a whole number."),
        ("training.epochs", "many", "Must be a whole number."),
        ("dataset.bucket_step", "60", "Must be a multiple of 8."),
        ("training.seed", str(2**32), "Must be below 4294967296."),
        ("schedule.name", "sine", "Must be one of those that are offered."),
    ],
)
def test_what_is_refused_is_said_at_its_field(forms, name, value, says):
    form = forms["train"]
    assert form.problems(form.values({name: value})) == {name: says}


def test_all_problems_are_said_at_once(forms):
    form = forms["train"]
    given = {"optimizer.learning_rate": "0", "training.epochs": "many", "lora.rank": ""}
    assert set(form.problems(form.values(given))) == set(given)


@pytest.mark.parametrize("junk", [None, [], {}, {"a": 1}, [1, None], "x" * 100_000, -1e308, True, "\0", "１"])
def test_no_junk_from_the_browser_breaks_a_form(forms, junk):
    form = forms["train"]
    for name, setting in form.settings.items():
        values = {name: plain(setting, junk)}
        problems = form.problems(values)
        assert problems or form.job(values)
        shown_value(setting, junk)


def test_what_was_typed_and_is_no_number_stays_in_the_field(forms):
    setting = forms["train"].settings["optimizer.learning_rate"]
    assert shown_value(setting, "abc") == "abc" and plain(setting, "abc") == "abc"


def test_a_choice_that_is_no_longer_offered_becomes_the_default(forms):
    assert shown_value(forms["train"].settings["schedule.name"], "no longer there") == "cosine"


def test_fields_can_be_chosen_placed_and_replaced():
    made = {}

    def dropdown(setting, common):
        made[setting.name] = common
        return gr.Dropdown(["a", "b"], allow_custom_value=True, **common)

    with gr.Blocks():
        form = Form(GridJob, prefix="grid", values={"steps": 11}, overrides={"model.path": dropdown})
        form.add("prompt", "steps")
        form.add("model.path")
    assert list(form.components) == ["prompt", "steps", "model.path"]
    assert form.components["steps"].value == 11 and isinstance(form.components["model.path"], gr.Dropdown)
    assert made["model.path"]["elem_id"] == "grid-model-path"
    assert form.rest_of("model") == ["model.vae", "model.prediction_type", "model.clip_skip", "model.precision"]
    assert form.values(prompt=" a ", steps="12", unknown=1) == {"prompt": "a", "steps": 12}
