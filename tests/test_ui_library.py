"""Tab "Runs & models": what the page asks and what it is answered; and a visitor who puts things in order."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nosnja_gui import events, work_queue
from nosnja_gui.jobs import AxisSettings, GridJob
from nosnja_gui.runs import RunFolder
from nosnja_gui.ui.library import TRAIN_LOAD, XYZ_LOAD, Feed, Shelf
from nosnja_gui.ui.memory import Memory
from nosnja_gui.ui.panel import Window
from nosnja_gui.ui.pictures import Pictures
from nosnja_gui.workspace import Workspace
from tests.browser import CUT_OFF, chromium, no_browser, open_tab, visit, wait_for, window
from tests.test_library import LORA, RUN, make_run, write_lora


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    made = Workspace(tmp_path / "my workspace").create()
    make_run(made)
    return made


@pytest.fixture
def shelf(workspace) -> Shelf:
    states: dict[str, Any] = dict.fromkeys(("tabs", "dataset", "run", "grid", "timer"))
    pictures, memory = Pictures(workspace.cache / "thumbnails"), Memory(workspace.cache / "memory.json")
    return Shelf(Window(workspace, pictures, memory, **states))


def everything(shelf: Shelf) -> dict[str, Any]:
    answer = {"all_read": False}
    while not answer["all_read"]:
        answer = shelf.look({"now": True})
    json.dumps(answer)
    return answer


def test_a_first_look_gets_all_and_a_later_one_what_changed(shelf, workspace):
    first = everything(shelf)
    assert first["fresh"] and {f"runs:{RUN}", f"loras:{LORA}"} <= set(first["rows"])
    assert shelf.look({"version": first["version"], "now": True}) is None
    write_lora(workspace.models / "new.safetensors")
    second = shelf.look({"version": first["version"], "now": True})
    assert set(second["rows"]) == {"loras:models/new.safetensors"} and not second["fresh"]
    shelf.delete({"section": "runs", "id": RUN})
    third = shelf.look({"version": second["version"], "now": True})
    assert f"runs:{RUN}" in third["gone"] and [key[:6] for key in third["rows"]] == ["trash:"]


@pytest.mark.parametrize("version", [None, "", "other:3", 7, {"a": 1}, "x" * 100, ":"])
def test_a_version_of_nobodys_gets_all(version):
    feed = Feed(dict)
    feed.update({"a": {"x": 1}})
    assert feed.since(version)["rows"] == {"a": {"x": 1}}


def test_what_came_back_is_not_gone():
    feed = Feed(dict)
    feed.update({"a": {}, "b": {}})
    before = feed.version
    feed.update({"a": {}})
    assert feed.since(before)["gone"] == ["b"]
    feed.update({"a": {}, "b": {}})
    assert feed.since(before) == {"version": feed.version, "fresh": False, "rows": {"b": {}}, "gone": []}


@pytest.mark.parametrize(
    "asked", [None, 3, "x", [], {}, {"id": None}, {"id": "../models"}, {"id": 7, "name": []}, {"ids": [1, {}]}, {"id": "x" * 9999}]
)
def test_nonsense_is_answered_with_a_sentence(shelf, asked):
    for function in shelf.asked_by_page():
        answer = function(asked)
        if function.__name__ in ("look", "compare", "base_models", "remember", "empty_trash"):
            assert answer is None or "problem" not in answer
        else:
            assert "There is no" in answer["problem"], function.__name__
    assert (shelf.workspace.runs / RUN).is_dir()
    assert len(shelf.open(asked)) == 3


def test_our_own_mistake_is_said_and_does_not_reach_the_page_as_an_error(shelf, monkeypatch, capsys):
    monkeypatch.setattr(shelf.library, "look", lambda: 1 / 0)
    assert "ZeroDivisionError" in shelf.look({})["problem"] and "Traceback" in capsys.readouterr().err


def test_details_name_pictures_that_can_be_fetched(shelf, workspace):
    run = RunFolder(workspace.runs / RUN)
    (run.samples / "a.png").write_bytes(b"x")
    run.log().append(events.Sampled(step=1, files=["samples/a.png"]))
    (picture,) = shelf.run_details({"id": RUN})["pictures"]
    assert picture["large"].startswith("/nosnja/picture/") and picture["name"] == "a.png"
    assert shelf.lora_details({"id": LORA})["metadata"]["ss_sd_model_name"] == "sd15"


def test_a_comparison_has_a_value_for_each_run(shelf, workspace):
    make_run(workspace, "second-001", **{"optimizer.learning_rate": 1e-5})
    answer = shelf.compare({"ids": [RUN, "second-001"]})
    assert answer == {"names": [RUN, "second-001"], "rows": {"optimizer.learning_rate": [1e-4, 1e-5]}}


def test_base_models_and_captioners_are_listed(shelf):
    answer = shelf.base_models({})
    json.dumps(answer)
    assert any(entry["from_kit"] and "Stable Diffusion" in entry["family"] for entry in answer["models"])
    assert any(entry["family"] == "BLIP" for entry in answer["captioners"])


def test_an_export_into_another_folder_is_for_who_sits_here(shelf, tmp_path):
    (tmp_path / "Lora").mkdir()
    asked = {"id": LORA, "name": "dress", "folder": str(tmp_path / "Lora")}
    assert shelf.export(asked) == {"file": str(tmp_path / "Lora" / "dress.safetensors")}
    assert shelf.export(asked)["taken"] and "problem" not in shelf.export({**asked, "overwrite": True})
    assert "whole path" in shelf.export({**asked, "folder": "Lora"})["problem"]
    assert everything(shelf)["view"]["folder"] == str(tmp_path / "Lora"), "it is offered again the next time"
    shelf.window = replace(shelf.window, listens=True)
    assert "other machines" in shelf.export({**asked, "name": "other"})["problem"]
    assert "problem" not in shelf.export({**asked, "name": "other", "folder": ""})


def test_a_download_is_the_file_under_a_path_that_nobody_guesses(shelf, workspace):
    answer = shelf.download({"id": LORA})
    assert answer["name"] == "costume.safetensors" and answer["url"].startswith("/gradio_api/file=")
    (file,) = (workspace.cache / "uploads" / "downloads").glob("*/*")
    assert file.read_bytes() == (workspace.root / LORA).read_bytes() and len(file.parent.name) == 32


def test_a_way_into_the_other_tabs(shelf, workspace):
    RunFolder.create(workspace.runs / "grid-001", GridJob(prompt="a", x=AxisSettings(axis="seed", values=[1])))
    for asked, place, tab in (("monitor", 0, "monitor"), ("grid", 1, "xyz")):
        answer = shelf.open({"to": asked, "id": RUN})
        assert answer[place] == RUN and answer[2].selected == tab
    assert shelf.open({"to": "train", "id": RUN})[2].selected == "train"
    assert shelf.window.memory.get(TRAIN_LOAD) == str(workspace.runs / RUN)
    assert shelf.open({"to": "xyz", "id": RUN})[2].selected == "xyz" and shelf.window.memory.get(XYZ_LOAD["run"]) == RUN
    shelf.open({"to": "xyz", "lora": LORA})
    assert shelf.window.memory.get(XYZ_LOAD["lora"]) == str(workspace.root / LORA)


def test_a_stopped_run_goes_on(shelf, monkeypatch):
    begun: list[Path] = []
    monkeypatch.setattr(work_queue, "start_or_enqueue", lambda run, workspace: begun.append(run.path) or "queued")
    assert shelf.go_on({"id": RUN}) == {"done": "queued"} and begun == [shelf.workspace.runs / RUN]


def test_the_view_is_found_again_and_only_the_view(shelf):
    shelf.remember({"section": "loras", "sort": {"name": "loss", "up": True}, "evil": 1})
    assert everything(shelf)["view"] == {"section": "loras", "sort": {"name": "loss", "up": True}}
    shelf.remember({"section": "nothing"})
    shelf.remember({"section": "runs", "sort": "x" * 5000})
    assert everything(shelf)["view"]["section"] == "loras"


def test_a_demo_is_watched_at_its_training(shelf, workspace):
    make_run(workspace, f"{RUN}/training")
    assert shelf.open({"to": "monitor", "id": RUN})[0] == f"{RUN}/training"


def test_a_browser_that_is_missing_fails_the_tests_that_decide(monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="needs a browser"):
        no_browser("it is not there")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception):
        no_browser("it is not there")


def test_a_visitor_puts_things_in_order(workspace, tmp_path):
    make_run(workspace, "<b>dress-002", **{"lora.rank": 8})
    log = RunFolder(workspace.runs / "<b>dress-002").log()
    log.append(events.Started(job="train", total=200, done=120))
    log.append(events.Failed(message="Out of memory."))
    (tmp_path / "Lora").mkdir()
    with chromium() as browser, window(workspace) as opened, visit(browser, opened, size=(1280, 720), forgiven=CUT_OFF) as page:
        open_tab(page, "library")
        named = SimpleNamespace(
            row=lambda key: page.locator(f'#library tr[data-key="{key}"]'),
            button=lambda name: page.locator("#library").get_by_role("button", name=name, exact=True),
        )
        named.row("<b>dress-002").click()
        page.get_by_text("Out of memory.").wait_for()
        # Renamed, refused first: the words stand at the field.
        named.row(RUN).click()
        named.button("Rename").click()
        page.get_by_label("New name").fill("a/b")
        named.button("Rename").click()
        page.get_by_role("alert").get_by_text("would do").wait_for()
        page.get_by_label("New name").fill("folk-001")
        named.button("Rename").click()
        named.row("folk-001").wait_for()
        assert (workspace.runs / "folk-001" / "run.yaml").is_file()
        # Compared.
        for key in ("folk-001", "<b>dress-002"):
            named.row(key).get_by_role("checkbox").check()
        page.locator("#library-details").get_by_text("lora.").wait_for()
        named.button("Clear").click()
        # Deleted, and brought back.
        named.row("folk-001").click()
        named.button("Delete").click()
        named.button("Move to trash").click()
        wait_for(lambda: not (workspace.runs / "folk-001").exists(), page=page)
        page.locator("#library-undo").click()
        named.row("folk-001").wait_for()
        assert (workspace.runs / "folk-001" / "weights" / "costume.safetensors").is_file()
        # Taken along.
        page.locator("#library-loras").click()
        named.row("runs/folk-001/weights/costume.safetensors").click()
        named.button("Export").click()
        page.get_by_label("Name of the copy").fill("folk")
        page.get_by_label("Folder").fill(str(tmp_path / "Lora"))
        named.button("Export").click()
        wait_for((tmp_path / "Lora" / "folk.safetensors").exists, page=page)
        with page.expect_download() as download:
            named.button("Download").click()
        assert Path(download.value.path()).read_bytes() == (workspace.runs / "folk-001/weights/costume.safetensors").read_bytes()
        # The same after a reload.
        page.reload()
        open_tab(page, "library")
        named.row("runs/folk-001/weights/costume.safetensors").wait_for()
