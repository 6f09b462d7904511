"""The Start tab and the demo's sentences above the others, from run folders written by hand; once in a browser."""

import contextlib
import json
import time
from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image

from nosnja_gui import events, launcher, work_queue
from nosnja_gui.hardware import Gpu
from nosnja_gui.jobs import AxisSettings, DemoJob, GridJob, TrainJob
from nosnja_gui.runs import RunFolder
from nosnja_gui.ui import guide, start
from nosnja_gui.ui.memory import Memory
from nosnja_gui.ui.pictures import Pictures
from nosnja_gui.ui.start import STAGES, Tab
from nosnja_gui.workspace import Workspace
from tests.browser import chromium, open_tab, visit, window

FACTS = {
    "dataset": {"dataset": "dataset", "pictures": 30},
    "captions": {"captions": {"pictures": 60, "subject": 0.967, "colour": 0.9, "place": 1.0}},
    "trigger": {
        "trigger": {
            "word": "nosnjaoutfit",
            "class_noun": "outfit",
            "changed": 30,
            "example": {"picture": "01.png", "before": "a girl in a red outfit", "after": "nosnjaoutfit, a girl in a nosnjaoutfit"},
        }
    },
    "training": {"training": "training"},
    "judged": {"judged": {"with": 1.0, "without": 0.0, "without_clothes": 0.09, "class_noun": 1.0, "auc": 1.0, "pictures": 32}},
    "grid": {"grid": "grid"},
}
RESULT = {
    "seconds": {"Training": 61.0, "total": 108.0},
    "captions": FACTS["captions"]["captions"],
    "trigger": {"word": "<b>nosnjaoutfit", "class_noun_word": "outfit", **FACTS["judged"]["judged"]},
    "files": {"lora": "training/x.safetensors", "samples": "samples.png", "grid": "../../secret.png", "dataset": "dataset"},
    "device": "cpu",
}


HELD = contextlib.ExitStack()
"""Runs that live: this process holds them until the test ends."""


@pytest.fixture(autouse=True)
def _let_go():
    yield
    HELD.close()


@pytest.fixture
def shared(tmp_path):
    workspace = Workspace(tmp_path / "workspace").create()
    return SimpleNamespace(
        workspace=workspace, pictures=Pictures(workspace.cache / "thumbnails"), memory=Memory(workspace.cache / "window-memory.json")
    )


@pytest.fixture
def tab(shared, monkeypatch):
    monkeypatch.setattr(start.hardware, "gpus", lambda: [])
    return Tab(shared)


@pytest.fixture
def started(monkeypatch):
    """Runs that were started; nothing really is."""
    runs = []
    monkeypatch.setattr(work_queue, "start_or_enqueue", lambda run, workspace: runs.append(run.path.name) or "started")
    return runs


def make_demo(workspace, until="", state="running", name="demo-001"):
    """A demo that has done all stages before `until` ("" for all of them)."""
    run = RunFolder.create(workspace.runs / name, DemoJob())
    log, done = run.log(), STAGES.index(until) if until else len(STAGES)
    log.append(events.Started(job="demo", total=len(STAGES)))
    facts = {"seconds": {"total": 12.0}}
    for number, stage in enumerate(STAGES[: done + 1]):
        log.append(events.Stage(name=stage.title(), done=number, total=len(STAGES)))
        if number < done:
            facts |= FACTS[stage]
    (run.path / "story.json").write_text(json.dumps(facts))
    (run.path / "dataset").mkdir()
    if done >= STAGES.index("training"):
        make_training(run)
    if done >= STAGES.index("grid"):
        make_grid(run)
    if state == "running":
        HELD.enter_context(run.lock())
    elif state == "stopped":
        log.append(events.Stopped(step=done))
    elif state == "finished":
        Image.new("RGB", (32, 32), "red").save(run.path / "samples.png")
        Image.new("RGB", (32, 32), "red").save(workspace.root / "secret.png")
        (run.path / "result.json").write_text(json.dumps(RESULT))
        log.append(events.Finished(files=["result.json"], seconds=108))
    return run


def make_training(demo):
    run = RunFolder.create(demo.path / "training", TrainJob(name="nosnjaoutfit"))
    run.log().append(events.Started(job="train", total=600))
    run.log().append(events.Step(step=300, epoch=5, loss=0.1234, learning_rates={}, seconds_per_step=0.1))


def make_grid(demo):
    run = RunFolder.create(demo.path / "grid", GridJob(x=AxisSettings(axis="epoch", values=[1, 2])))
    run.log().append(events.Started(job="grid", total=24))
    run.log().append(events.Cell(done=24, total=24, file="x.png"))


def stages(value):
    return {stage["id"]: stage for stage in value["demo"]["stages"]}


def test_a_first_visitor_is_told_what_there_is_and_what_is_missing(tab):
    value = tab.value("", "en")
    assert value["first"] and value["demo"] is None and value["recent"] == [] and value["running"] is None
    for _ in range(100):
        if tab.machine.gpus() is not None:
            break
        time.sleep(0.01)
    shown = {check["id"]: check for check in tab.value("", "en")["checks"]}
    assert {check["state"] for check in shown.values()} == {"little"}
    assert str(tab.workspace.models) in shown["model"]["text"] and "GPU" in shown["gpu"]["text"]


def test_a_gpu_and_its_memory_are_named(tab):
    tab.machine._gpus = [Gpu("NVIDIA T4", 16 * 2**30, 0)]
    assert tab.value("", "en")["checks"][0] == {"id": "gpu", "state": "good", "text": "GPU: NVIDIA T4 (16 GB)"}


def test_the_demo_is_started_once(tab, started):
    follow, _, value, *_ = tab.start("", "en", {})
    assert started == ["demo-001"] and follow == {"demo": "demo-001", "given": []} and value["said"] == ""
    assert RunFolder(tab.workspace.runs / "demo-001").job() == DemoJob()


def test_a_running_demo_is_not_started_again(tab, started, shared):
    make_demo(shared.workspace, "captions")
    tab.start("", "en", {})
    tab.go_on("", "en", {})
    assert started == []


def test_stages_tell_what_is_done_and_what_is_going_on(tab, shared):
    make_demo(shared.workspace, "training")
    demo = tab.value("", "en")["demo"]
    shown = stages({"demo": demo})
    assert [stage["state"] for stage in demo["stages"]] == ["done", "done", "done", "now", "waiting", "waiting"]
    assert "30" in shown["dataset"]["note"] and "97\N{NO-BREAK SPACE}%" in shown["captions"]["note"]
    assert "“outfit” became “nosnjaoutfit”" in shown["trigger"]["note"]
    assert shown["training"]["note"] == "Step 300 of 600, loss 0.123" and shown["training"]["share"] == 0.5
    assert {stage: part["look"] for stage, part in shown.items()} == {
        "dataset": "dataset", "captions": "dataset", "trigger": "trigger", "training": "monitor", "judged": None, "grid": None
    }  # fmt: skip
    assert demo["elapsed"] >= 12 and 0 < demo["remaining"] < 600


@pytest.mark.parametrize("until", STAGES)
def test_every_stage_can_be_looked_at_while_it_is_done(tab, shared, until):
    make_demo(shared.workspace, until)
    value = tab.value("", "en")
    assert stages(value)[until]["state"] == "now" and not value["first"]
    assert all(stage["note"] for stage in value["demo"]["stages"])


def test_a_stopped_demo_goes_on(tab, shared, started):
    make_demo(shared.workspace, "training", state="stopped")
    demo = tab.value("", "en")["demo"]
    assert demo["state"] == "stopped" and stages({"demo": demo})["training"]["state"] == "broken" and demo["remaining"] is None
    tab.go_on("", "en", {})
    assert started == ["demo-001"]


def test_a_stop_is_asked_for(tab, shared):
    run = make_demo(shared.workspace, "training")
    said = tab.stop("", "en")[1]["said"]
    assert (run.requests / "stop").exists() and said


def test_a_finished_demo_shows_its_figures_and_only_its_own_pictures(tab, shared):
    make_demo(shared.workspace, state="finished")
    value = tab.value("", "en")
    result = value["demo"]["result"]
    figures = [figure["value"].replace("\N{NO-BREAK SPACE}", "") for figure in result["figures"]]
    assert result["good"] and figures == ["100%", "0%", "1.00", "97%"]
    assert [picture["id"] for picture in result["pictures"]] == ["samples"], "the other one lies outside of the run"
    assert all(stage["state"] == "done" for stage in value["demo"]["stages"])
    assert "outfit" in result["leak"]


@pytest.mark.parametrize("result", ["{half", "[]", '{"trigger": 5, "files": {"grid": 3, "samples": "\\u0000"}, "seconds": []}', "{}"])
def test_a_damaged_result_breaks_nothing(tab, shared, result):
    run = make_demo(shared.workspace, state="finished")
    (run.path / "result.json").write_text(result)
    assert tab.value("", "en")["demo"]["state"] == "finished"


@pytest.mark.parametrize("story", ["{half", "[]", '{"captions": 5, "trigger": [], "judged": "x", "training": 1, "seconds": "long"}'])
def test_a_damaged_story_breaks_nothing(tab, shared, story):
    run = make_demo(shared.workspace, "grid", state="stopped")
    (run.path / "story.json").write_text(story)
    assert len(tab.value("", "en")["demo"]["stages"]) == len(STAGES)


def test_what_the_demo_makes_is_opened_once_in_the_session_that_started_it(tab, shared):
    run = make_demo(shared.workspace, "captions")
    seen, follow, _, dataset, *rest = tab.refresh("", {"demo": "demo-001", "given": []}, "", "", "", "en")
    assert dataset == str(run.path / "dataset") and rest == [gr.skip(), gr.skip()] and follow["given"] == ["dataset"]
    make_training(run)
    _, follow, _, dataset, watched, _ = tab.refresh(seen, follow, "/my/own", "", "", "en")
    assert dataset == gr.skip() and watched == "demo-001/training" and follow["given"] == ["dataset", "run"]


def test_another_session_keeps_what_it_has_open(tab, shared):
    run = make_demo(shared.workspace, "training")
    assert tab.refresh("", {}, "/my/own", "costume-001", "", "en")[3:] == [gr.skip()] * 3
    assert tab.refresh("x", {}, "/my/own", "", "", "en")[3:] == [gr.skip(), "demo-001/training", gr.skip()]
    assert tab.refresh("x", {}, "", "costume-001", "", "en")[3:] == [str(run.path / "dataset"), gr.skip(), gr.skip()]


def test_a_quiet_tick_says_nothing_and_is_quick(tab, shared):
    make_demo(shared.workspace, state="finished")
    for n in range(60):
        run = RunFolder.create(shared.workspace.runs / f"costume-{n:03}", TrainJob())
        run.log().append(events.Started(job="train", total=20))
        run.log().append(events.Finished(files=[], seconds=1))
    while tab.machine.gpus() is None:
        time.sleep(0.01)
    seen = tab.refresh("", {}, "", "", "", "en")[0]
    took = []
    for _ in range(5):
        began = time.thread_time()
        assert tab.refresh(seen, {}, "", "", "", "en") is None
        took.append(time.thread_time() - began)
    assert min(took) < 0.02, took


def test_a_returning_user_finds_runs_and_dataset(tab, shared):
    for n in range(5):
        run = RunFolder.create(shared.workspace.runs / f"costume-00{n}", TrainJob())
        run.log().append(events.Started(job="train", total=20))
        run.log().append(events.Finished(files=[], seconds=1))
    going = RunFolder.create(shared.workspace.runs / "dress-001", TrainJob())
    going.log().append(events.Started(job="train", total=20))
    with going.lock():
        value = tab.value("/pictures/costume", "en")
    assert value["running"]["name"] == "dress-001" and value["running"]["state"] == "running"
    assert len(value["recent"]) <= 3 and "dress-001" not in [run["name"] for run in value["recent"]]
    assert value["dataset"] == "costume" and not value["first"]


def test_looking_at_a_stage_opens_its_tab_with_its_things(tab, shared):
    run = make_demo(shared.workspace, state="finished")
    assert tab.look("captions")[1:] == [str(run.path / "dataset"), gr.skip(), gr.skip()]
    assert tab.look("training")[2] == "demo-001/training" and tab.look("grid")[3] == "demo-001/grid"
    assert tab.look("judged") == tab.look(None) == tab.look("../x") == [gr.skip()] * 4
    assert tab.open("monitor", "demo-001/training")[1] == "demo-001/training"
    assert tab.open("monitor", "../../etc") == tab.open("nothing", "") == [gr.skip()] * 3


def test_the_demos_trigger_is_left_to_the_other_tabs_once(tab, shared):
    run = make_demo(shared.workspace, "training")
    tab.refresh("", {}, "", "", "", "en")
    key = f"trigger:{run.path / 'dataset'}"
    assert shared.memory.get(key) == {"word": "nosnjaoutfit", "class_nouns": ["outfit"]}
    shared.memory.put(key, None)
    tab.refresh("", {}, "", "", "", "en")
    assert shared.memory.get(key) is None


def value_of(shared, tab, dataset="", run="", grid=""):
    return guide.Guide(shared, tab).value(dataset, run, grid, "en")


@pytest.mark.parametrize("name", list(guide.NEXT))
def test_each_tab_says_what_the_demo_did_there(shared, name):
    run = make_demo(shared.workspace, state="finished")
    own = {"dataset": str(run.path / "dataset"), "run": "demo-001/training", "grid": "demo-001/grid"}
    said = value_of(shared, name, **own)
    assert len(said["text"]) > 40 and said["to"] == guide.NEXT[name]
    assert value_of(shared, name, dataset="/my/own", run="costume-001", grid="costume-grid") is None
    assert value_of(shared, name) is None


def test_sentences_follow_the_demo(shared):
    run = make_demo(shared.workspace, "captions")
    said = value_of(shared, "dataset", dataset=str(run.path / "dataset"))
    assert "30" in said["text"] and said["to"] is None
    assert value_of(shared, "trigger", dataset=str(run.path / "dataset")) is None
    facts = {**FACTS["dataset"], **FACTS["captions"], **FACTS["trigger"]}
    (run.path / "story.json").write_text(json.dumps(facts))
    said = value_of(shared, "trigger", dataset=str(run.path / "dataset"))
    assert "nosnjaoutfit" in said["text"] and ("in", "nosnjaoutfit,") in said["example"]
    make_training(run)
    assert value_of(shared, "monitor")["text"].startswith("The demo is training")


def test_a_closed_sentence_stays_closed(shared):
    run = make_demo(shared.workspace, state="finished")
    sentence = guide.Guide(shared, "dataset")
    seen = sentence.refresh("", str(run.path / "dataset"), "", "", "en")[0]
    assert sentence.refresh(seen, str(run.path / "dataset"), "", "", "en") is None
    sentence.close(seen)
    again = guide.Guide(SimpleNamespace(**{**vars(shared), "memory": Memory(shared.memory.file)}), "dataset")
    assert again.refresh("", str(run.path / "dataset"), "", "", "en") is None
    assert value_of(shared, "train", dataset=str(run.path / "dataset")) is not None


def test_the_next_tab_shows_the_demos_things(shared):
    make_demo(shared.workspace, state="finished")
    assert guide.Guide(shared, "train").go("x")[1] == "demo-001/training"
    assert guide.Guide(shared, "monitor").go("x")[2] == "demo-001/grid"
    assert guide.Guide(shared, "monitor").go("") == [gr.skip()] * 3


def test_nothing_lives_where_nothing_was_started(shared):
    make_demo(shared.workspace, "training", state="stopped")
    assert not launcher.alive(RunFolder(shared.workspace.runs / "demo-001"))


def test_a_visitor_sees_a_finished_demo_and_goes_to_its_captions(tmp_path):
    workspace = Workspace(tmp_path / "workspace").create()
    run = make_demo(workspace, state="finished")
    Image.new("RGB", (64, 64), "red").save(run.path / "dataset" / "01.png")
    (run.path / "dataset" / "01.txt").write_text("nosnjaoutfit, a girl")
    with chromium() as browser, window(workspace) as opened, visit(browser, opened) as page:
        page.get_by_text("The demo is finished").wait_for()
        assert page.get_by_text("<b>nosnjaoutfit").count() >= 1
        page.get_by_role("button", name="Look: Trigger word").click()
        page.locator("#guide-trigger").get_by_text("nosnjaoutfit").first.wait_for()
        page.locator("#trigger-write").wait_for()
        open_tab(page, "start")
