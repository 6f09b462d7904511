"""The Train tab: its handlers called directly, and as a person would in a browser."""

import json
import shutil
import time
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from nosnja_gui import places, presets, schedules
from nosnja_gui.estimate import Machine
from nosnja_gui.jobs import TrainJob
from nosnja_gui.models import KIT
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from nosnja_gui.ui import train
from nosnja_gui.ui.dataset import OPENED
from nosnja_gui.ui.memory import Memory
from nosnja_gui.ui.panel import Window
from nosnja_gui.ui.pictures import Pictures
from nosnja_gui.ui.train import Train, suggest_prompts
from nosnja_gui.workspace import Workspace
from tests.browser import chromium, open_tab, visit, wait_for, window

MODEL = str(KIT / "sd")
WORD = "nosnjaoutfit"
TAKEN = {"models": 1}
"""A page whose form was filled in some time ago."""


def make_dataset(folder: Path, count: int = 30) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (128, 128), (number * 8 % 256, 90, 90)).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"{WORD}, a girl in a {WORD} standing in a field")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return str(make_dataset(tmp_path_factory.mktemp("sets") / "costume"))


def tab_of(workspace: Workspace) -> Train:
    with gr.Blocks():
        memory, shared = Memory(workspace.cache / "window-memory.json"), {name: gr.State("") for name in ("dataset", "run", "grid")}
        tab = Train(Window(workspace, Pictures(workspace.cache / "thumbnails"), memory, gr.Tabs(), timer=gr.Timer(), **shared))
        tab.lay_out()
        tab.listen()
    return tab


@pytest.fixture
def tab(tmp_path):
    return tab_of(Workspace(tmp_path / "workspace").create())


@pytest.fixture
def started(monkeypatch):
    """What was started or queued, without a process."""
    runs = []
    monkeypatch.setattr(train.work_queue, "start_or_enqueue", lambda run, workspace: runs.append(("start", run)) or "started")
    monkeypatch.setattr(train.work_queue, "enqueue", lambda run, workspace: runs.append(("queue", run)))
    return runs


def given(tab: Train, **changes) -> list:
    """The fields as a fresh page has them, with some changed; names with double underscores for dots."""
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    values = {**tab.remembered()[1], "model.path": MODEL, "trigger": WORD, **dotted}
    return [values[name] for name in tab.form.components]


def side(tab: Train, dataset: str, preset: str = "balanced", **changes) -> dict:
    return tab.typed("en", TAKEN, dataset, preset, *given(tab, **changes))[2]


# What the previews show


def test_the_counter_is_the_plans(tab, pictures):
    count = side(tab, pictures)["count"]
    assert (count["pictures"], count["repeats"], count["epochs"], count["batch"], count["total"]) == (30, 10, 10, 2, 1500)
    assert count["passes"] == 100
    assert side(tab, pictures, training__epochs=3, training__batch_size="4")["count"]["total"] == 3 * 75


def test_the_curve_is_the_schedule_over_all_steps(tab, pictures):
    curve = side(tab, pictures, optimizer__learning_rate="2e-4", schedule__warmup_share=0.1)["curve"]
    unet, text = curve["series"]
    rates = dict(zip(unet["x"], unet["y"], strict=True))
    assert unet["x"][0] == 1 and unet["x"][-1] == 1500 and len(unet["x"]) <= 300
    expected = schedules.curve("cosine", 1500, 0.1)
    assert all(rate == pytest.approx(2e-4 * expected[step - 1]) for step, rate in rates.items())
    assert max(text["y"]) == pytest.approx(5e-5)
    assert len(side(tab, pictures, optimizer__text_encoder_learning_rate="")["curve"]["series"]) == 1


def test_the_noise_levels_are_drawn_as_often_and_count_as_much_as_in_the_training(tab, pictures):
    drawn, weight = side(tab, pictures)["noise"]["series"]
    assert drawn["y"] == pytest.approx([1.0] * 60) and drawn["x"] == pytest.approx([1000 * (place + 0.5) / 60 for place in range(60)])
    # Min-SNR leaves the noisy end as it is and holds back the clean one.
    assert weight["y"][0] < 0.1 * weight["y"][-1] and weight["y"][-1] == max(weight["y"])
    drawn, weight = side(tab, pictures, loss__distribution="style", loss__weighting="none", loss__min_timestep=500)["noise"]["series"]
    assert drawn["y"][:30] == [0.0] * 30 and drawn["y"][-1] == max(drawn["y"]) and weight["y"] == pytest.approx([1.0] * 60)


def test_the_effective_step_is_compared_with_the_presets(tab, pictures):
    scale = side(tab, pictures, lora__alpha=16)["scale"]
    assert scale["effective"] == pytest.approx(1e-4) and scale["preset"] == pytest.approx(5e-5)


def test_models_and_vaes_to_choose_say_where_they_lie_and_what_they_are(tmp_path):
    workspace = Workspace(tmp_path / "workspace").create()
    checkpoints = tmp_path / "ComfyUI" / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "damaged.safetensors").write_bytes(b"x")
    shutil.copytree(KIT / "sd", checkpoints / "dreams")
    for folder in (workspace.models / "vae", checkpoints.parent / "vae"):
        shutil.copytree(KIT / "sd" / "vae", folder / "clear")
    (workspace.models / "broken.safetensors").write_bytes(b"x")
    tab = tab_of(workspace)
    before = tab.refresh({}, "", "en")[0]
    places.add(workspace, tmp_path / "ComfyUI")
    assert tab.refresh(before, "", "en"), "the form follows what other programs have"
    listed = tab._listed("en")
    assert listed["model.path"][-1] == ("dreams · ComfyUI · Stable Diffusion 1.x", str(checkpoints / "dreams"))
    names = [name for _, name in listed["model.path"]]
    assert "broken.safetensors" in names and str(checkpoints / "damaged.safetensors") not in names
    file = checkpoints.parent / "vae" / "clear" / "diffusion_pytorch_model.safetensors"
    theirs = ("clear/diffusion_pytorch_model.safetensors · ComfyUI", str(file))
    assert listed["model.vae"] == [("The model's own", ""), ("vae/clear", "vae/clear"), theirs]


def test_sides_that_are_left_empty_are_the_models_own(tab, pictures):
    assert side(tab, pictures)["usual"] == {"dataset.resolution": 128, "preview.width": 128, "preview.height": 128}
    assert side(tab, pictures, dataset__resolution=256)["usual"] == {"dataset.resolution": 128, "preview.width": 256, "preview.height": 256}
    assert side(tab, pictures, model__path="nowhere")["usual"] == {}


def test_settings_without_effect_are_told_from_the_others(tab, pictures):
    assert {"schedule.restarts", "schedule.power"} <= set(side(tab, pictures)["idle"])
    assert "schedule.restarts" not in side(tab, pictures, schedule__name="cosine_with_restarts")["idle"]


def test_memory_and_time_are_estimated(tab, pictures):
    estimate = side(tab, pictures)["estimate"]
    assert estimate["memory"] > 0 and estimate["basis"]


def test_a_sliders_effect_takes_less_than_150_ms(tab, pictures):
    side(tab, pictures)
    took = []
    for rate in ("1e-4", "2e-4", "3e-4", "4e-4", "5e-4"):
        values = given(tab, optimizer__learning_rate=rate, training__epochs=1000, dataset__repeats=100)
        began = time.perf_counter()
        tab.typed("en", TAKEN, pictures, "balanced", *values)
        took.append(time.perf_counter() - began)
    assert sorted(took)[len(took) // 2] < 0.15, took


def test_an_idle_look_costs_little_and_changes_nothing(tab, pictures):
    seen = tab.refresh({}, pictures, "en")[0]
    began = time.perf_counter()
    assert tab.refresh(seen, pictures, "en") is None
    assert time.perf_counter() - began < 0.1


# What is wrong


def test_a_bad_value_is_marked_at_its_field_and_stales_the_previews(tab, pictures):
    shown = side(tab, pictures, optimizer__learning_rate="5", training__epochs="many")
    assert shown["marks"] == {"optimizer.learning_rate": "Must be at most 1.", "training.epochs": "Must be a whole number."}
    assert shown["stale"] and {problem["label"] for problem in shown["problems"]} == {"Learning rate", "Epochs"}
    assert shown["count"]["total"] == 1500, "the preset's epochs stand in"


def test_what_is_still_to_be_chosen_is_listed_and_not_shouted_about(tab):
    shown = side(tab, "", model__path="")
    assert {problem["name"] for problem in shown["problems"]} == {"dataset.path", "model.path"} and not shown["marks"]


@pytest.mark.parametrize(
    "changes", [{"optimizer__learning_rate": "0"}, {"trigger": "a, b"}, {"model__path": "nowhere"}, {"lora__rank": ""}]
)
def test_nothing_starts_with_a_problem(tab, pictures, started, changes):
    run, tabs, shown = tab.started("en", pictures, "balanced", *given(tab, **changes))
    assert not started and not list(tab.workspace.runs.iterdir())
    assert run == gr.skip() and tabs == gr.skip()
    assert shown["tried"] and set(shown["marks"]) == {name.replace("__", ".") for name in changes}


@pytest.mark.parametrize("junk", [None, [], {"a": 1}, "x" * 5000, -1, True])
def test_no_junk_from_the_browser_breaks_a_handler(tab, pictures, started, junk):
    junks = [junk] * len(tab.form.components)
    for dataset in (pictures, ""):
        tab.typed("en", TAKEN, dataset, "nowhere", *junks)
        tab.started("en", dataset, "nowhere", *junks)
        tab.suggested("en", dataset, "nowhere", *junks)
        tab.caught_up("en", {"models": 1}, dataset, "nowhere", *junks)
    tab.advised({"changes": {"lora.rank": junk, "junk": 1}}, "en", pictures, "balanced", *given(tab))
    tab.preset_saved({"title": junk}, "en", pictures, "balanced", *junks)


# Starting


def test_a_start_makes_the_run_that_the_form_asks_for_and_opens_the_monitor(tab, pictures, started):
    values = given(tab, name="costume", optimizer__learning_rate="3e-4", optimizer__text_encoder_learning_rate="")
    run, tabs, shown = tab.started("en", pictures, "balanced", *values)
    assert run == "costume-001" and tabs.selected == "monitor" and not shown["problems"]
    [(how, folder)] = started
    job = folder.job()
    assert how == "start" and isinstance(job, TrainJob)
    assert (job.trigger, job.dataset.path, job.model.path) == (WORD, pictures, MODEL)
    assert (job.optimizer.learning_rate, job.optimizer.text_encoder_learning_rate) == (3e-4, None)


def test_a_double_click_starts_one_run_and_a_changed_form_another(tab, pictures, started):
    first = tab.started("en", pictures, "balanced", *given(tab))[0]
    assert tab.started("en", pictures, "balanced", *given(tab))[0] == first
    assert len(started) == 1
    assert tab.started("en", pictures, "balanced", *given(tab, training__epochs=3))[0] != first
    assert len(started) == 2


def test_add_to_queue_queues(tab, pictures, started):
    tab.queued("en", pictures, "balanced", *given(tab))
    assert [how for how, _ in started] == ["queue"]


def test_a_refused_start_is_said_and_leaves_no_run_that_counts(tab, pictures, monkeypatch):
    def refuse(run, workspace):
        raise UserError("The disk is full.")

    monkeypatch.setattr(train.work_queue, "start_or_enqueue", refuse)
    shown = tab.started("en", pictures, "balanced", *given(tab))[2]
    assert [problem["text"] for problem in shown["problems"]] == ["The disk is full."]


# What is remembered


def test_the_form_comes_back_as_it_was_left_with_what_was_mistyped(tab, pictures):
    values = given(tab, optimizer__learning_rate="abc", training__epochs=7, preview__prompts="one\ntwo", dataset__flip=True)
    tab.typed("en", TAKEN, pictures, "fast", *values)
    tab.keeper.write()
    again = tab_of(tab.workspace)
    taken, *rest = again.caught_up("en", {}, pictures, "balanced", *given(again))
    fields = dict(zip(again.form.components, rest, strict=False))
    shown = {name: value.get("value") if isinstance(value, dict) else value for name, value in fields.items()}
    assert shown == dict(zip(tab.form.components, values, strict=True)) | {"name": "costume"}
    assert rest[len(fields)]["value"] == "fast" and taken["name"] == "costume"


def test_a_page_that_is_still_loading_overwrites_nothing(tab, pictures):
    tab.typed("en", TAKEN, pictures, "fast", *given(tab, lora__rank="77"))
    fresh = given(tab, lora__rank="1", name="lora")
    assert tab.typed("en", {}, pictures, "balanced", *fresh) == [gr.skip()] * 3
    taken, *fields = tab.caught_up("en", {}, "", "balanced", *fresh)
    taken, *fields = tab.caught_up("en", taken, pictures, "balanced", *fresh)
    assert dict(zip(tab.form.components, fields, strict=False))["lora.rank"] == "77"
    assert tab.remembered()[0] == "fast" and tab.remembered()[1]["lora.rank"] == "77"


def test_writing_is_put_off_while_a_slider_moves(tab, pictures, monkeypatch):
    written = []
    monkeypatch.setattr(tab.window.memory, "put", lambda name, value: written.append(name))
    for epochs in range(1, 30):
        side(tab, pictures, training__epochs=epochs)
    assert len(written) <= 2


def test_trigger_and_name_follow_the_dataset_until_the_user_writes_their_own(tab, pictures):
    tab.window.memory.put(f"trigger:{pictures}", {"word": WORD})
    where = {name: place for place, name in enumerate(tab.form.components)}

    def follow(taken, dataset, **changes):
        taken, *fields = tab.caught_up("en", taken, dataset, "balanced", *given(tab, **changes))
        return taken, fields[where["trigger"]], fields[where["name"]]

    taken = dict(TAKEN)
    taken, word, name = follow(taken, pictures, trigger="", name="lora")
    assert (word, name) == (WORD, WORD)
    tab.window.memory.put(f"trigger:{pictures}", {"word": "other"})
    assert follow(taken, pictures, trigger=WORD, name=WORD)[1:] == ("other", "other")
    assert follow(taken, pictures, trigger="mine", name="my dress")[1:] == (gr.skip(), gr.skip())


def test_the_settings_of_a_run_are_taken_over_once(tab, pictures, tmp_path):
    job = TrainJob().changed(**{"lora.rank": 24, "optimizer.text_encoder_learning_rate": None, "preview.prompts": ["a girl"]})
    RunFolder.create(tmp_path / "earlier", job)
    tab.window.memory.put("train-load", str(tmp_path / "earlier"))
    seen, _ = tab.refresh({}, pictures, "en")
    assert seen["load"]

    def take():
        return dict(zip(tab.form.components, tab.caught_up("en", dict(TAKEN), pictures, "balanced", *given(tab))[1:], strict=False))

    fields = take()
    assert (str(fields["lora.rank"]), fields["preview.prompts"]) == ("24", "a girl")
    assert take()["lora.rank"] == gr.skip(), "only once"
    tab.window.memory.put("train-load", str(tmp_path / "nowhere"))
    assert take()["lora.rank"] == gr.skip()


# Presets


def test_a_preset_sets_its_fields_and_leaves_alone_what_is_personal(tab, pictures):
    values = given(tab, name="mine", preview__prompts="a girl", lora__rank="64")
    answer = tab.preset_chosen("en", pictures, "costume-30-pictures", *values)
    fields = dict(zip(tab.form.components, answer, strict=False))
    assert (fields["optimizer.learning_rate"], fields["schedule.name"], fields["lora.rank"]) == (1e-5, "cosine_with_restarts", 16)
    assert {fields[name] == gr.skip() for name in ("name", "trigger", "model.path", "preview.prompts")} == {True}
    bar, shown = answer[-2:]
    assert bar["changed"] == [] and shown["count"]["total"] == 600


def test_what_differs_from_the_preset_is_named(tab, pictures):
    _, bar, shown = tab.typed("en", TAKEN, pictures, "balanced", *given(tab, lora__rank="32", training__epochs="10", name="x"))
    assert bar["changed"] == shown["changed"] == ["lora.rank"] and bar["labels"] == ["Rank"]


def test_a_form_is_saved_as_a_preset_and_comes_back(tab, pictures):
    values = given(tab, lora__rank="32", preview__negative_prompt="blurry")
    answer = tab.preset_saved({"title": "My way"}, "en", pictures, "balanced", *values)
    picker, bar = answer[len(tab.form.components)], answer[-2]
    assert picker["value"] == "own:my-way" and ("My way", "own:my-way") in picker["choices"] and bar["own"] and bar["changed"] == []
    base = tab.base("own:my-way")
    assert (base["lora.rank"], base["preview.negative_prompt"]) == (32, "blurry")
    assert WORD not in (presets.own_folder(tab.workspace) / "my-way.yaml").read_text()
    gone = tab.preset_removed("en", pictures, "own:my-way", *given(tab))
    assert gone[len(tab.form.components)]["value"] == presets.DEFAULT and tab.find_preset("own:my-way") is None


@pytest.mark.parametrize(
    ("title", "changes", "says"), [("Balanced", {}, "program's own"), ("", {}, "needs a name"), ("x", {"lora__rank": ""}, "Rank")]
)
def test_why_a_preset_cannot_be_saved_is_said(tab, pictures, title, changes, says):
    bar = tab.preset_saved({"title": title}, "en", pictures, "balanced", *given(tab, **changes))[-2]
    assert says in bar["said"] and not presets.own_presets(presets.own_folder(tab.workspace))


def test_the_programs_presets_cannot_be_removed(tab, pictures):
    assert "stays" in tab.preset_removed("en", pictures, "fast", *given(tab))[-2]["said"]
    assert tab.find_preset("fast")


# Advice and prompts


def test_an_advice_changes_its_fields(tab, pictures):
    changes = {"training.batch_size": 1, "training.gradient_accumulation": 4}
    answer = tab.advised({"changes": changes}, "en", pictures, "balanced", *given(tab))
    fields = dict(zip(tab.form.components, answer, strict=False))
    assert fields["training.batch_size"] == 1 and fields["training.gradient_accumulation"] == 4 and fields["lora.rank"] == gr.skip()
    assert answer[-1]["count"]["accumulation"] == 4


def test_what_is_left_to_the_program_fits_and_is_listed(tab, pictures, monkeypatch):
    def fitted(free):
        monkeypatch.setattr("nosnja_gui.estimate.this_machine", lambda: Machine("NVIDIA GeForce GTX 1650", 2**32, free, 4))
        return tab.advised({"fit": True}, "en", pictures, "balanced", *given(tab, training__batch_size=32))[-1]["estimate"]

    plenty = fitted(2**32)
    assert plenty["fitted"] == {"chosen": [], "said": ""}
    guess = fitted(plenty["memory"])
    assert guess["fits"] and guess["memory"] < plenty["memory"] and not guess["fitted"]["said"]
    assert guess["fitted"]["chosen"] and all(one["text"] and one["saves"] > 0 for one in guess["fitted"]["chosen"])
    assert "cannot be made to fit" in fitted(2**20)["fitted"]["said"]


def test_suggested_prompts_are_the_captions_with_and_without_the_word(pictures):
    with_word, without = suggest_prompts(pictures, WORD, ["dress"])
    assert with_word == f"{WORD}, a girl in a {WORD} standing in a field" and without == "a girl in a dress standing in a field"


def test_prompts_are_suggested_without_captions_too(tmp_path):
    with_word, without = suggest_prompts(str(tmp_path), WORD, ["dress"])
    assert WORD in with_word and WORD not in without and "dress" in without
    assert suggest_prompts("", "", []) == []


# In a browser


def test_a_person_moves_sliders_mistypes_a_value_is_refused_and_finds_the_form_again(tmp_path, pictures):
    workspace = Workspace(tmp_path).create()
    (workspace.cache / "window-memory.json").write_text(json.dumps({OPENED: pictures}))
    with chromium() as browser, window(workspace) as opened:
        with visit(browser, opened) as page:
            open_tab(page, "train")
            previews, field = page.locator("#train-previews"), page.locator("#field-optimizer-learning_rate")
            box = field.locator(".nosnja-number-box")
            wait_for(lambda: "1,500" in previews.locator(".equation").inner_text(), page=page)
            curve = previews.locator("svg path").first.get_attribute("d")
            page.locator("#field-training-epochs input[type=range]").press("ArrowRight")
            wait_for(lambda: "1,650" in previews.locator(".equation").inner_text(), page=page)
            field.locator("input[type=range]").press("ArrowRight")
            wait_for(lambda: "5.5e-5" in previews.locator(".nosnja-train-rate-body").inner_text(), page=page)
            assert box.input_value() == "1.1e-4"
            wait_for(lambda: previews.locator("svg path").first.get_attribute("d") != curve, page=page, what="another curve")
            box.fill("5")
            wait_for(lambda: "Must be at most 1." in field.inner_text(), page=page)
            page.locator("#train-start").click()
            wait_for(lambda: box.evaluate("box => box === document.activeElement"), page=page)
            assert page.locator("#tab-train-button").get_attribute("aria-selected") == "true"
            assert not list(workspace.runs.iterdir())
        with visit(browser, opened) as page:
            open_tab(page, "train")
            field = page.locator("#field-optimizer-learning_rate")
            wait_for(lambda: field.locator(".nosnja-number-box").input_value() == "5", page=page)
            wait_for(lambda: field.locator(".nosnja-field-error").count(), page=page)
            assert page.locator("#field-training-epochs .nosnja-number-box").input_value() == "11"


# Settings of another trainer


def files(*names: str) -> dict:
    folder = Path(__file__).parent / "foreign_files"
    return {"files": [{"name": name, "text": (folder / name).read_text()} for name in names]}


def test_another_trainers_settings_fill_the_form_but_for_what_is_personal(tab, pictures):
    *fields, _, _, bar, shown = tab.settings_brought(files("kohya_ss.json", "dataset.toml"), "en", pictures, "balanced", *given(tab))
    values = {name: field for name, field in zip(tab.form.components, fields, strict=True) if field != gr.skip()}
    assert values["lora.rank"] == 32 and values["optimizer.name"] == "adamw8bit" and values["training.batch_size"] == 3
    assert not {"model.path", "name", "trigger", "preview.prompts"} & set(values)
    assert shown["count"]["batch"] == 3 and not shown["stale"]
    brought = bar["brought"]
    assert brought["title"] == "kohya_ss" and brought["personal"]["name"] == "red_hat"
    warmup = next(line for line in brought["lines"] if line["key"] == "lr_warmup")
    assert (warmup["value"], warmup["verdict"], warmup["ours"]) == ("10", "taken", [["Warmup", "0.1"]])
    json.dumps(bar)


def test_a_file_that_is_none_changes_nothing_and_is_refused_in_a_sentence(tab, pictures):
    for wish in ({"files": [{"name": "x.json", "text": "{}"}]}, {"files": "all"}, {}, {"files": []}):
        *fields, _, _, bar, _ = tab.settings_brought(wish, "en", pictures, "balanced", *given(tab))
        assert all(field == gr.skip() for field in fields) and "brought" not in bar
        assert bar["refused"].endswith(".")


def test_settings_of_another_trainer_in_a_browser(tmp_path):
    workspace = Workspace(tmp_path / "workspace").create()
    folder = Path(__file__).parent / "foreign_files"
    with chromium() as browser, window(workspace) as opened, visit(browser, opened, size=(1280, 720)) as page:
        open_tab(page, "train")
        page.get_by_role("button", name="From another trainer").wait_for()
        file = page.locator("#train-preset-bar input[type=file]")
        file.set_input_files(str(folder.parent / "conftest.py"))
        page.get_by_text("conftest.py is not readable").wait_for()
        file.set_input_files([str(folder / "dataset.toml"), str(folder / "kohya_ss.json")])
        dialog = page.locator("dialog.nosnja-brought[open]")
        dialog.wait_for()
        assert "kohya_ss.json, dataset.toml" in dialog.inner_text(), "what belongs to it comes second"
        assert page.evaluate(
            "document.querySelector('.nosnja-brought .lines').scrollHeight > document.querySelector('.nosnja-brought').clientHeight"
        )
        assert page.evaluate("(() => {const d = document.querySelector('.nosnja-brought'); return d.scrollWidth <= d.clientWidth})()")
        dialog.get_by_role("button", name="Put them into the form, too").click()
        name = page.locator("#field-name textarea, #field-name input").first
        wait_for(lambda: name.input_value() == "red_hat", page=page)
        title = dialog.get_by_label("Name of the preset")
        title.fill("Balanced")
        dialog.get_by_role("button", name="Save preset").click()
        dialog.get_by_text("one of the program's own presets").wait_for()
        title.fill("Red hat")
        dialog.get_by_role("button", name="Save preset").click()
        dialog.wait_for(state="hidden")
        (kept,) = presets.own_presets(presets.own_folder(workspace))
        assert kept.title == "Red hat" and kept.about == "Taken over from kohya_ss: kohya_ss.json, dataset.toml."
        assert presets.settings_of(kept)["lora.rank"] == 32
