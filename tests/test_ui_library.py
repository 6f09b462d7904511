"""Tab "Runs & models": what the page asks and what it is answered; and a visitor who puts things in order."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nosnja_gui import events, launcher, weights, work_queue
from nosnja_gui.jobs import AxisSettings, GridJob
from nosnja_gui.methods.lora import ENTRY as LORA_METHOD
from nosnja_gui.runs import RunFolder
from nosnja_gui.ui.library import TRAIN_LOAD, XYZ_LOAD, Feed, Shelf
from nosnja_gui.ui.memory import Memory
from nosnja_gui.ui.panel import Window
from nosnja_gui.ui.pictures import Pictures
from nosnja_gui.workspace import Workspace
from tests.browser import CUT_OFF, chromium, no_browser, open_tab, visit, wait_for, window
from tests.hub_server import HubServer
from tests.test_library import LORA, RUN, make_run, write_lora
from tests.test_lora_families import trained
from tests.tiny import tiny_sd


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
        elif function.__name__ == "fetch_model":
            assert "repo: Field required" in answer["problem"] or "USER/NAME" in answer["problem"]
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


# The tools


def ended(shelf: Shelf, identifier: str) -> dict[str, Any]:
    """The tool's row as the page gets it once it has ended."""
    return wait_for(
        lambda: next((row for row in [everything(shelf)["rows"][f"tools:{identifier}"]] if row["state"] != "running"), None), 120
    )


@pytest.fixture
def begun(shelf, monkeypatch) -> list[tuple[list[str], dict[str, str], Path | None]]:
    """What would be started, without a process: (words, environment, output)."""
    said: list[tuple[list[str], dict[str, str], Path | None]] = []

    def start(words, environment=None, output=None):
        said.append((list(words), dict(environment or {}), output))
        return SimpleNamespace(identifier=f"t{len(said)}")

    monkeypatch.setattr(shelf.tools.toolbox, "start", start)
    return said


def test_details_of_a_lora_are_what_its_header_says(shelf, workspace):
    deep = {
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": [2, 8],
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": [16, 2],
    }
    tags = {"ss_tag_frequency": '{"5_x": {"dress": 9, "a girl": 10}}', "ss_optimizer": "adamw", "modelspec.trigger_phrase": "nosnjaoutfit"}
    write_lora(workspace.models / "two.safetensors", metadata=tags, **deep)
    details = shelf.lora_details({"id": "models/two.safetensors"})
    json.dumps(details)
    assert (details["kinds"], details["layout"], details["family"], details["precisions"]) == (["LoRA"], "kohya", "SD 1.x", ["float32"])
    assert details["parts"] == {"unet": 1, "text_encoder": 1}
    assert [(row["part"], row["rank"], row["alpha"], row["count"]) for row in details["layers"]] == [
        ("unet", 4, 2.0, 1),
        ("text_encoder", 2, 2.0, 1),
    ]
    assert [(each["words"], each["count"], each["captions"]) for each in details["triggers"]] == [
        ("nosnjaoutfit", None, None),
        ("a girl", 10, 10),
        ("dress", 9, 10),
    ]
    assert details["settings"] == {"training": {"optimizer": "adamw"}} and details["problems"] == []
    (workspace.models / "broken.safetensors").write_bytes(b"x" * 50)
    (problem,) = shelf.lora_details({"id": "models/broken.safetensors"})["problems"]
    assert "broken.safetensors" in problem


def test_a_trigger_word_is_renamed_in_a_new_file(shelf, workspace):
    asked = {"tool": "rename", "ids": [LORA], "values": {"trigger": "other", "name": "renamed"}}
    identifier = shelf.use_tool(asked)["id"]
    row = ended(shelf, identifier)
    assert row["state"] == "done" and row["made"] == "models/renamed.safetensors" and row["about"] == "costume", row
    assert row["lines"][1] == "Trigger word: other (was nosnjaoutfit)." and row["seconds"] > 0
    answer = everything(shelf)
    assert answer["rows"]["loras:models/renamed.safetensors"]["trigger"] == "other"
    refused = shelf.use_tool(asked)
    assert refused["taken"] and "exists already" in refused["problem"]
    assert shelf.forget_tool({"id": identifier}) == {} and f"tools:{identifier}" not in everything(shelf)["rows"]


def test_a_tool_that_cannot_do_it_says_why(shelf):
    identifier = shelf.use_tool(
        {"tool": "convert", "ids": [LORA], "values": {"layout": "diffusers", "name": "x", "base": "", "check": True}}
    )["id"]
    row = ended(shelf, identifier)
    assert row["state"] == "failed" and "costume.safetensors doesn't fit" in row["problem"] and row["made"] == ""


def test_a_tool_is_cancelled(shelf, workspace):
    identifier = shelf.use_tool({"tool": "strip", "ids": [LORA], "values": {"name": "bare"}})["id"]
    assert "problem" in shelf.forget_tool({"id": identifier})
    assert shelf.cancel_tool({"id": identifier}) == {}
    assert ended(shelf, identifier)["state"] == "cancelled" and not (workspace.models / "bare.safetensors").exists()


@pytest.mark.parametrize(
    ("tool", "values", "words"),
    [
        (
            "convert",
            {"layout": "comfyui", "precision": "float16", "check": True},
            ["convert", "LORA", "--to=comfyui", "--precision=float16"],
        ),
        ("resize", {"rank": "8", "keep": "0,9"}, ["resize", "LORA", "--rank=8", "--keep=0.9", "--to=kohya", "--no-check"]),
        ("strip", {"all": True}, ["strip", "LORA", "--all"]),
        ("rename", {"trigger": "--all"}, ["rename", "LORA", "--trigger=--all"]),
    ],
)
def test_what_is_filled_in_becomes_words(shelf, workspace, begun, tool, values, words):
    assert shelf.use_tool({"tool": tool, "ids": [LORA], "values": {"name": "new", **values}}) == {"id": "t1"}
    ((said, environment, output),) = begun
    wanted = [str(workspace.root / LORA) if word == "LORA" else word for word in words]
    assert said[0] == "lora" and set(wanted) <= set(said) and said[2] == str(workspace.root / LORA), said
    assert output == workspace.models / "new.safetensors" and f"--output={output}" in said and not environment


def test_models_are_those_that_are_listed(shelf, workspace, begun):
    kit = next(entry for entry in shelf.base_models({})["models"] if entry["from_kit"])
    other = tiny_sd(workspace.models / "tiny-sd")
    assert shelf.use_tool({"tool": "into", "ids": [LORA], "values": {"model": "tiny-sd", "weight": "0.8", "name": "both"}}) == {"id": "t1"}
    assert (
        begun[0][0][:4] == ["lora", "merge", f"{workspace.root / LORA}:0.8", f"--into={other}"] and begun[0][2] == workspace.models / "both"
    )
    values = {"model": kit["name"], "rank": "4", "name": "taken", "text_encoders": True, "check": True}
    assert shelf.use_tool({"tool": "extract", "model": "tiny-sd", "values": values}) == {"id": "t2"}
    assert begun[1][0][:5] == ["lora", "extract", kit["path"], str(other), "--rank=4"] and "--no-text-encoders" not in begun[1][0]
    two = [LORA, LORA.replace("costume.s", "costume-epoch-01.s")]
    values = {"weights": {two[0]: "0.5", two[1]: "-1"}, "rank": "", "name": "sum"}
    assert shelf.use_tool({"tool": "merge", "ids": two, "values": values}) == {"id": "t3"}
    assert begun[2][0][2:4] == [f"{workspace.root / two[0]}:0.5", f"{workspace.root / two[1]}:-1"]
    for asked in (
        {"tool": "into", "ids": [LORA], "values": {"model": "/etc", "name": "x"}},
        {"tool": "extract", "model": "../tiny-sd", "values": {"model": kit["name"], "name": "x"}},
        {"tool": "convert", "ids": [LORA], "values": {"name": "x", "base": str(other.parent)}},
    ):
        assert "There is no base model" in shelf.use_tool(asked)["problem"]
    assert len(begun) == 3


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "a/b"}, "would do"),
        ({"name": ""}, "a name"),
        ({"rank": "many"}, "must be a number (got many)"),
        ({"rank": "0"}, "whole number above 0"),
        ({"rank": "nan"}, "must be a number"),
        ({"keep": "2"}, "at most 1"),
        ({"rank": ""}, "Give the new rank"),
        ({"layout": "tar"}, "There is no layout 'tar'"),
        ({"rank": "4\n5"}, "must be a number"),
        ({"base": "a\nb"}, "on one line"),
    ],
)
def test_what_is_filled_in_wrongly_is_said(shelf, begun, values, said):
    asked = {"tool": "resize", "ids": [LORA], "values": {"name": "new", "rank": "4", **values}}
    assert said in shelf.use_tool(asked)["problem"] and not begun


def test_publishing_is_asked_for_twice_and_the_token_goes_to_the_process_alone(shelf, workspace, monkeypatch):
    token = "hf_secretsecret"
    values = {"repository": "me/costume", "token": token, "license": "openrail++"}
    asked = {"tool": "publish", "ids": [LORA], "values": values}
    assert "Nothing was uploaded" in shelf.use_tool(asked)["problem"]
    assert "no repository" in shelf.use_tool({**asked, "values": {**values, "repository": "costume", "sure": True}})["problem"]
    with HubServer() as hub:
        hub.tokens = {token: "write"}
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        row = ended(shelf, shelf.use_tool({**asked, "values": {**values, "sure": True}})["id"])
        assert row["state"] == "done" and row["lines"][-1].startswith(f"Published: {hub.address}/me/costume (private"), row
        assert hub.repos["me/costume"].private and "README.md" in hub.repos["me/costume"].files
    everywhere = b"".join(path.read_bytes() for path in workspace.root.rglob("*") if path.is_file())
    assert token.encode() not in everywhere and token not in json.dumps(everything(shelf)) and token not in repr(shelf.tools._orders)
    shelf.tools.window = replace(shelf.window, listens=True)
    assert "uploads nothing" in shelf.use_tool({**asked, "values": {**values, "sure": True}})["problem"]


def test_a_model_is_fetched_in_a_run_of_its_own(shelf, workspace, monkeypatch):
    begun: list[tuple[RunFolder, dict[str, str]]] = []
    monkeypatch.setattr(launcher, "start", lambda run, workspace, environment: begun.append((run, environment)))
    answer = shelf.fetch_model({"values": {"repo": "https://huggingface.co/me/model", "variant": "fp16", "token": "hf_secret"}})
    assert answer == {"run": "download-model-001"}
    ((run, environment),) = begun
    assert run.job().repo == "me/model" and run.job().variant == "fp16" and environment == {"HF_TOKEN": "hf_secret"}
    assert "hf_secret" not in run.run_yaml.read_text(encoding="utf-8")
    assert everything(shelf)["rows"]["runs:download-model-001"]["kind"] == "download"
    assert shelf.end_fetch({"id": "download-model-001"}) == {} and run.take_request("stop")
    assert "USER/NAME" in shelf.fetch_model({"values": {"repo": "model"}})["problem"]
    shelf.tools.window = replace(shelf.window, listens=True)
    assert "takes no token" in shelf.fetch_model({"values": {"repo": "me/model", "token": "hf_secret"}})["problem"]
    assert "run" in shelf.fetch_model({"values": {"repo": "me/model"}})


def test_folders_of_other_programs_are_added_and_removed(shelf, tmp_path):
    checkpoints = tmp_path / "ComfyUI" / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    tiny_sd(checkpoints / "tiny")
    before = shelf.base_models({})
    assert before["places"] == [] and shelf.base_models({"mark": before["mark"]}) == {}
    assert shelf.add_place({"folder": str(tmp_path / "ComfyUI"), "kind": "models"}) == {}
    after = shelf.base_models({"mark": before["mark"]})
    assert after["places"] == [
        {"program": "ComfyUI", "kind": "models", "folder": str(checkpoints), "count": 1, "added": str(tmp_path / "ComfyUI")}
    ]
    assert any(entry["place"] == "ComfyUI" and entry["short"] == "SD 1.x" for entry in after["models"])
    shelf.tools.window = replace(shelf.window, listens=True)
    for refused in (shelf.add_place({"folder": str(tmp_path)}), shelf.remove_place({"folder": str(tmp_path / "ComfyUI")})):
        assert "other machines" in refused["problem"]
    shelf.tools.window = shelf.window
    assert shelf.remove_place({"folder": str(tmp_path / "ComfyUI")}) == {} and shelf.base_models({})["places"] == []
    assert "whole path" in shelf.add_place({"folder": "models"})["problem"]


def test_a_folder_that_is_gone_can_be_removed(shelf, tmp_path):
    gone = tmp_path / "disk"
    gone.mkdir()
    shelf.add_place({"folder": str(gone), "kind": "loras"})
    gone.rmdir()
    assert shelf.base_models({})["places"] == [{"program": "", "kind": "", "folder": str(gone), "count": 0, "added": str(gone)}]
    assert shelf.remove_place({"folder": str(gone)}) == {}


def test_a_visitor_renames_a_trigger_and_converts_a_lora(workspace):
    tiny_sd(workspace.models / "tiny-sd")
    family, parts = trained(workspace.models / "tiny-sd")
    said = {"modelspec.trigger_phrase": "nosnjaoutfit", "ss_base_model_version": "sd_v1"}
    LORA_METHOD.save(family, parts, workspace.models / "tiny.safetensors", said, precision="float32")
    with chromium() as browser, window(workspace) as opened, visit(browser, opened, size=(1280, 720), forgiven=CUT_OFF) as page:
        open_tab(page, "library")
        page.locator("#library-loras").click()
        row = lambda name: page.locator(f'#library tr[data-key="models/{name}.safetensors"]')  # noqa: E731
        tools = page.locator("#library-details")
        ended = page.locator(".nosnja-library-task.done")
        row("tiny").click()
        tools.get_by_role("button", name="Rename trigger").click()
        page.get_by_label("Trigger word", exact=True).fill("other")
        page.get_by_label("Name of the new file").fill("tiny")
        tools.get_by_role("button", name="Write the file").click()
        page.get_by_role("alert").get_by_text("exists already").wait_for()
        page.get_by_label("Name of the new file").fill("renamed")
        tools.get_by_role("button", name="Write the file").click()
        ended.get_by_text("Trigger word: other (was nosnjaoutfit).").wait_for(timeout=120_000)
        assert "fresh" in row("renamed").get_attribute("class")
        # What came of it is there after a reload, too.
        page.reload()
        open_tab(page, "library")
        ended.get_by_role("button", name="Show it").click()
        assert row("renamed").get_attribute("aria-selected") == "true"
        tools.get_by_role("button", name="Convert", exact=True).click()
        page.get_by_text("More settings").click()
        page.get_by_label("Base model", exact=True).select_option("tiny-sd")
        tools.get_by_role("button", name="Convert", exact=True).click()
        page.get_by_text("by diffusers: 0.0e+00").wait_for(timeout=120_000)
        row("renamed-diffusers").click()
        tools.get_by_text("diffusers", exact=True).wait_for()
        page.locator(".nosnja-library-task").get_by_role("button", name="Close").first.click()
        wait_for(lambda: ended.count() == 1, page=page)
    assert weights.header(workspace.models / "renamed-diffusers.safetensors")["__metadata__"]["modelspec.trigger_phrase"] == "other"
