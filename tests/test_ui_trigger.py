"""The Trigger word tab: its handlers called directly, and once as a person would in a browser."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image

from nosnja_gui import dataset as datasets
from nosnja_gui.ui import trigger
from nosnja_gui.ui.memory import Memory
from nosnja_gui.ui.pictures import Pictures
from nosnja_gui.ui.trigger import DEFAULTS, FIELDS, Tab
from nosnja_gui.workspace import Workspace
from tests.browser import chromium, open_tab, visit, wait_for, window

WORD = "nosnjaoutfit"
CAPTIONS = ["a girl in a red outfit standing", "a boy in an outfit in the snow", "a dog in a field", None]


def make_dataset(folder: Path, captions=CAPTIONS) -> Path:
    folder.mkdir(parents=True)
    for number, caption in enumerate(captions, 1):
        Image.new("RGB", (32, 32), (number % 256, 90, 90)).save(folder / f"{number:02}.png")
        if caption is not None:
            (folder / f"{number:02}.txt").write_text(caption)
    return folder


@pytest.fixture
def tab(tmp_path):
    workspace = Workspace(tmp_path / "workspace").create()
    shared = SimpleNamespace(
        workspace=workspace, pictures=Pictures(workspace.cache / "thumbnails"), memory=Memory(workspace.cache / "window-memory.json")
    )
    return Tab(shared)


@pytest.fixture
def folder(tmp_path):
    return str(make_dataset(tmp_path / "costume"))


def form(**changes):
    return list({**DEFAULTS, "word": WORD, "nouns": "outfit", **changes}.values())


def opened(tab, folder, **changes):
    """The tab looked at and filled in: what it remembers of the session."""
    shown = tab.opened(folder)[0]
    shown = tab.fresh(shown, folder, *DEFAULTS.values())[0]
    return tab.changed(shown, folder, *form(**changes))[0]


def rows(tab, shown, wanted="all", start=0):
    return tab.page({"key": shown["key"], "filter": wanted, "start": start})["rows"]


def text_of(row, without):
    return "".join(text for kind, text in row["parts"] if kind != without).strip()


def test_the_preview_shows_every_caption_before_and_after_and_writes_nothing(tab, folder):
    before = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
    shown = opened(tab, folder)
    assert shown["counts"] == {"all": 4, "changed": 4, "unchanged": 0, "without": 1}
    first, *_, last = rows(tab, shown)
    assert first["name"] == "01.png" and first["state"] == "changed" and first["picture"].startswith("/nosnja/picture/")
    assert text_of(first, "in") == "a girl in a red outfit standing" and text_of(first, "out") == f"{WORD}, a girl in a {WORD} standing"
    assert last["state"] == "without" and text_of(last, "out") == WORD
    assert {file.name: file.read_bytes() for file in Path(folder).iterdir()} == before


def test_place_and_absorbed_words_are_followed(tab, folder):
    shown = opened(tab, folder, place="noun")
    assert shown["counts"] == {"all": 4, "changed": 2, "unchanged": 2, "without": 1}
    changed = [text_of(row, "out") for row in rows(tab, shown, "changed")]
    assert changed == [f"a girl in a {WORD} standing", f"a boy in a {WORD} in the snow"]
    shown = opened(tab, folder, place="noun", absorb=False)
    assert text_of(rows(tab, shown)[0], "out") == f"a girl in a red {WORD} standing"


def test_writing_can_be_undone_and_leaves_the_trigger_to_the_training(tab, folder):
    shown = opened(tab, folder)
    shown, _, _, value = tab.write(shown, folder, *form())
    assert value["said"]["kind"] == "good" and value["said"]["train"] and value["counts"]["changed"] == 0
    assert (Path(folder) / "01.txt").read_text().strip() == f"{WORD}, a girl in a {WORD} standing"
    assert tab.window.memory.get(f"trigger:{folder}")["word"] == WORD
    assert tab.window.memory.get(f"trigger:{folder}")["class_nouns"] == ["outfit"]
    assert value["undo"] == f"Trigger word {WORD} for outfit"
    shown, _, _, value = tab.undo(shown, folder, *form())
    assert WORD in value["said"]["text"] and value["undo"] is None and value["counts"]["changed"] == 4
    assert (Path(folder) / "01.txt").read_text() == CAPTIONS[0] and not (Path(folder) / "04.txt").exists()
    assert tab.window.memory.get(f"trigger:{folder}") is None


def test_captions_that_were_changed_meanwhile_are_not_written_over(tab, folder):
    shown = opened(tab, folder)
    (Path(folder) / "01.txt").write_text("a queen")
    shown, _, _, value = tab.write(shown, folder, *form())
    assert value["said"]["kind"] == "error" and (Path(folder) / "01.txt").read_text() == "a queen"
    assert text_of(rows(tab, shown)[0], "in") == "a queen"
    assert tab.write(shown, folder, *form())[3]["said"]["kind"] == "good"


def test_a_trigger_is_renamed_and_taken_out(tab, folder):
    shown = tab.write(opened(tab, folder), folder, *form())[0]
    assert tab.changed(shown, folder, *form(action="rename", word="obuka"))[-1] == WORD, "what is there is filled in"
    renaming = form(action="rename", old=WORD, word="obuka")
    shown = tab.changed(shown, folder, *renaming)[0]
    assert text_of(rows(tab, shown)[0], "out") == "obuka, a girl in an obuka standing"
    shown = tab.write(shown, folder, *renaming)[0]
    assert tab.window.memory.get(f"trigger:{folder}") == {
        "word": "obuka", "class_nouns": ["outfit"], "place": "both", "absorb": list(trigger.words_of(trigger.ABSORBED))
    }  # fmt: skip
    removing = form(action="remove", word="obuka")
    shown = tab.changed(shown, folder, *removing)[0]
    shown = tab.write(shown, folder, *removing)[0]
    assert datasets.read(Path(folder)).captions()["01.png"] == "a girl in an outfit standing"
    assert tab.window.memory.get(f"trigger:{folder}") is None


def test_the_word_is_looked_at_as_the_model_reads_it(tab, folder):
    shown = opened(tab, folder)
    _, lint, nouns, _, *_ = tab.changed({**shown, "form": None}, folder, *form())
    assert lint["pieces"] == ["no", "sn", "ja", "outfit"] and not lint["error"]
    assert {remark["kind"] for remark in lint["remarks"] if remark["warning"]} == {"noun_inside"}
    assert nouns == [{"noun": "outfit", "count": 2, "chosen": True}]
    _, lint, _, value, *_ = tab.changed(shown, folder, *form(word="a, b"))
    assert "commas" in lint["error"] and value["counts"]["changed"] == 0
    assert tab.write(shown, folder, *form(word="a, b"))[3]["said"]["kind"] == "error"


def test_a_suggested_noun_joins_and_leaves(tab, folder):
    shown = opened(tab, folder)
    assert tab.picked(shown, folder, *form(nouns="dress"), noun="outfit")[0] == "dress, outfit"
    assert tab.picked(shown, folder, *form(nouns="dress, Outfit"), noun="outfit")[0] == "dress"
    assert tab.picked(shown, folder, *form(), noun=None)[0] == "outfit"


def test_the_form_comes_back_for_each_set(tab, folder, tmp_path):
    other = str(make_dataset(tmp_path / "dog", ["psic, a dog", "psic, a dog on a bed"]))
    opened(tab, folder, place="front", nouns="outfit, dress")
    again = Tab(tab.window)
    back = again.opened(folder)
    assert dict(zip(FIELDS, back[1:], strict=False)) == {**DEFAULTS, "word": WORD, "nouns": "outfit, dress", "place": "front"}
    shown = again.opened(other)[0]
    first = dict(zip(FIELDS, again.fresh(shown, other, *DEFAULTS.values())[1:], strict=False))
    assert first["word"] == "psic" and first["old"] == "psic"
    tab.window.memory.put(trigger.form_key(folder), {"word": 5, "place": "front"})
    assert trigger.remembered(tab.window, folder) == {**DEFAULTS, "place": "front"}


def test_what_was_typed_before_the_set_was_read_stays(tab, folder):
    shown = tab.opened(folder)[0]
    tab.changed(shown, folder, *{**DEFAULTS, "word": WORD}.values())
    answer = tab.fresh(shown, folder, *DEFAULTS.values())
    fields = dict(zip(FIELDS, answer[1:], strict=False))
    assert fields["word"] == gr.skip() and fields["nouns"] == "outfit"
    assert text_of(rows(tab, answer[0])[0], "out") == f"{WORD}, a girl in a {WORD} standing"


def test_what_the_browser_has_not_drawn_yet_stays_as_it_was(tab, folder):
    shown = opened(tab, folder)
    assert tab.changed(shown, folder, "insert", WORD, None, None, "both", True, None)[0] == gr.skip()
    assert tab.window.memory.get(trigger.form_key(folder))["nouns"] == "outfit"


def test_captions_changed_elsewhere_are_read_again_when_somebody_looks(tab, folder):
    shown = opened(tab, folder)
    assert tab.refresh(shown, folder, "en") is None
    datasets.write_captions(datasets.read(Path(folder)), {"03.png": "an outfit on a dog"}, note="by hand")
    told = tab.refresh(shown, folder, "en")
    assert told[0]["stale"] == "changed" and tab.refresh(told[0], folder, "en") is None
    shown = tab.fresh(told[0], folder, *form())[0]
    assert text_of(rows(tab, shown)[2], "in") == "an outfit on a dog" and shown["undo"] == "by hand"


def test_another_set_is_noticed_and_none_is_no_trouble(tab, folder):
    assert tab.refresh({}, "", "en") is None
    assert tab.refresh({}, folder, "en")[0]["stale"] == "opened"
    shown = opened(tab, folder)
    assert tab.refresh(shown, "", "en")[0]["folder"] == ""
    assert tab.write({}, "", *form())[0] == gr.skip() and tab.undo({}, "", *form())[0] == gr.skip()
    gone = tab.fresh(tab.opened(f"{folder}-gone")[0], f"{folder}-gone", *form())[0]
    assert gone["said"]["kind"] == "error"


@pytest.mark.parametrize("wish", [None, {}, {"key": "x"}, {"key": 5}, []])
def test_pages_of_nothing(tab, wish):
    assert tab.page(wish) is None


@pytest.mark.parametrize("start", [-5, 10**9, "x", None, 3])
def test_any_page_that_is_asked_for_is_one(tab, folder, start):
    page = tab.page({"key": opened(tab, folder)["key"], "filter": "nothing", "start": start})
    assert page["start"] == 0 and page["count"] == 4 and len(page["rows"]) == 4


def test_ten_thousand_captions_are_shown_in_pages(tab, tmp_path, monkeypatch):
    picture = tmp_path / "x.png"
    Image.new("RGB", (32, 32)).save(picture)
    pictures = tuple(datasets.Picture(picture, f"a girl in a red outfit number {n}", 32, 32, f"{n}.png") for n in range(10_000))
    many = datasets.Dataset(tmp_path, pictures, (), "txt")
    monkeypatch.setattr(datasets, "read", lambda folder: many)
    shown = opened(tab, str(tmp_path))
    page = tab.page({"key": shown["key"], "filter": "changed", "start": 9_960})
    assert page["count"] == 10_000 and page["start"] == 9_950 and [row["name"] for row in page["rows"]][-1] == "9999.png"
    assert len(json.dumps(page)) < 60_000


def test_typing_is_quick_on_a_thousand_captions(tab, tmp_path):
    captions = [f"a girl in a red and light blue outfit standing on a set of stairs, wood fence {n}" for n in range(1000)]
    folder = str(make_dataset(tmp_path / "many", captions))
    shown = opened(tab, folder)
    took = []
    for word in ("nosn", "nosnj", "nosnjao", "nosnjaou"):
        began = time.thread_time()
        shown = tab.changed(shown, folder, *form(word=word))[0]
        tab.page({"key": shown["key"], "filter": "all", "start": 0})
        took.append(time.thread_time() - began)
    assert min(took) < 0.15, took


def test_a_person_puts_a_trigger_word_in(tmp_path):
    workspace = Workspace(tmp_path / "workspace").create()
    folder = make_dataset(workspace.datasets / "costume", ["a girl in a red outfit standing"] * 3)
    Memory(workspace.cache / "window-memory.json").put("dataset", str(folder))
    with chromium() as browser, window(workspace) as opened_window, visit(browser, opened_window) as page:
        open_tab(page, "trigger")
        page.get_by_text("Without caption").wait_for()
        page.locator("#field-trigger-word textarea, #field-trigger-word input").first.fill(WORD)
        page.get_by_text("Write to 3 captions").click()
        wait_for(lambda: (folder / "02.txt").read_text().startswith(WORD), page=page)
        page.get_by_role("button", name=f"Undo: Trigger word {WORD}").wait_for()
