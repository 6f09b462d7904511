"""Tab "XYZ plot": what the form says while it is filled in, what the page is told of grids, and a person who looks at one."""

import base64
import json
import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image, PngImagePlugin

from nosnja_gui import events, gridpage, grids, infotext, launcher, places
from nosnja_gui.jobs import GridJob
from nosnja_gui.models import KIT
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from nosnja_gui.ui import xyz
from nosnja_gui.ui.memory import Memory
from nosnja_gui.ui.panel import Window
from nosnja_gui.ui.pictures import Pictures
from nosnja_gui.workspace import Workspace
from tests.browser import chromium, listen, open_tab, visit, wait_for, window
from tests.test_grid import job as small_job
from tests.test_grid import workspace as painting  # noqa: F401 - a fixture
from tests.test_gridpage import paint, write_grid
from tests.test_grids import workspace, write_lora  # noqa: F401 - a fixture


@pytest.fixture
def shared(workspace):  # noqa: F811
    memory = Memory(workspace.cache / "memory.json")
    return SimpleNamespace(workspace=workspace, pictures=Pictures(workspace.cache / "thumbnails"), memory=memory, listens=False)


FORM = {
    "run": "costume-001", "prompt": "[trigger]", "x.axis": "epoch", "x.values": "all, none", "y.axis": "weight", "y.values": "0-1[5]",
    "z.axis": "", "z.values": "",
}  # fmt: skip


def make_grid(workspace, name: str = "grid-001", **how) -> RunFolder:  # noqa: F811
    run = RunFolder.create(workspace.runs / name, GridJob.parse({"name": "Test", "x": {"axis": "seed", "values": ["1"]}}))
    run.log().append(events.Started(job="grid", total=6))
    write_grid(run.path, **how)
    return run


# the form


def test_each_axis_has_a_line_and_the_whole_has_a_sum(shared):
    x, y, z, about, total = xyz.Judge(shared).told(FORM, "en")
    assert x == {"text": "Values: 3: 2, 4, no LoRA"}
    assert y["text"] == "Values: 5: 0, 0.25, 0.5, 0.75, 1" and not z.get("bad")
    assert "2, 4" in about["text"] and "nosnja" in about["text"]
    assert total["ready"] and total["text"] == "3 × 5 = 15 cells, 15 pictures" and total["problems"] == {}


def test_an_epoch_that_a_training_saves_is_told_to_a_form_that_is_open(shared):
    shared.memory.put(xyz.REMEMBERED, dict(FORM))
    with gr.Blocks():
        panel = xyz.build(
            Window(shared.workspace, shared.pictures, shared.memory, gr.Tabs(), *[gr.State("") for _ in range(3)], gr.Timer())
        )
    seen, listed, *_ = panel.refresh("", "", "", "en")
    assert panel.refresh(seen, listed, "", "en") is None
    run = RunFolder(shared.workspace.runs / "costume-001")
    write_lora(run.weights / "costume-6.safetensors")
    run.log().append(events.Saved(step=60, epoch=6, file="weights/costume-6.safetensors"))
    x, _, _, about, total = panel.refresh(seen, listed, "", "en")[-5:]
    assert "2, 4, 6" in x["text"] and "2, 4, 6" in about["text"] and total["text"].startswith("4 × 5 = 20 cells")


def test_a_problem_is_told_where_it_belongs(shared):
    x, _, _, _, total = xyz.Judge(shared).told({**FORM, "x.values": "3", "steps": 0, "seed": "many"}, "en")
    assert x["bad"] and "saved: 2, 4" in x["text"]
    assert not total["ready"] and set(total["problems"]) == {"x.values", "steps", "seed"}
    assert total["problems"]["steps"] == "Must be at least 1."


@pytest.mark.parametrize("run", ["../../etc", "nobody", "/etc", "costume-001/../..", "\0", "x" * 3000])
def test_a_run_that_is_none_is_a_problem_of_its_field(shared, run):
    assert "run" in dict(xyz.Judge(shared).check({**FORM, "run": run}, "en").problems)


def test_from_another_machine_nothing_outside_the_workspace_is_even_looked_for(shared):
    shared.listens = True
    problems = dict(xyz.Judge(shared).check({**FORM, "lora": "/etc/passwd"}, "en").problems)
    assert set(problems) == {"lora"} and "workspace" in problems["lora"]


@pytest.mark.parametrize("garbage", [None, [], {}, 1e99, "x" * 10_000, True])
def test_whatever_the_browser_sends_is_answered(shared, garbage):
    xyz.Judge(shared).told({**FORM, **dict.fromkeys(("x.values", "prompt", "steps", "lora", "model.path"), garbage)}, "en")
    gallery = xyz.Gallery(shared)
    for asked in ({}, {"grid": garbage}, {"grid": "grid-001", "record": garbage, "since": garbage, "file": garbage}):
        json.dumps([gallery.cells(asked), gallery.infotext(asked), gallery.page(asked)])
    xyz._settings_of_cell({"given": garbage, "prompt": garbage, "seed": garbage}, shared)


def test_a_first_visit_finds_a_grid_of_the_newest_run_and_a_later_one_what_was_left(shared):
    choices = xyz.Choices(shared)
    first = xyz.first_values(shared, choices)
    assert first["run"] == "costume-001" and first["y.axis"] == "epoch" and "[trigger]" in first["prompt"]
    assert xyz.Judge(shared).told(first, "en")[-1]["ready"]
    shared.memory.put("xyz", FORM)
    assert xyz.first_values(shared, choices) == FORM


def test_another_tab_can_bring_a_run_or_a_lora(shared):
    shared.memory.put("xyz-run", "costume-001")
    assert xyz.brought_along(shared, {"prompt": "my [trigger] here"})["prompt"] == "my [trigger] here"
    assert xyz.brought_along(shared, {}) == {}, "once"
    shared.memory.put("xyz-lora", str(shared.workspace.runs / "costume-001" / "weights" / "costume-2.safetensors"))
    assert xyz.brought_along(shared, {})["lora"] == "costume-001/weights/costume-2.safetensors"
    shared.memory.put("xyz-run", "../..")
    assert xyz.brought_along(shared, {}) == {}


def test_a_cells_settings_paint_it_again(shared):
    lora = shared.workspace.runs / "costume-001" / "weights" / "costume-2.safetensors"
    sent = {"prompt": "a dog", "seed": 5, "steps": 9, "sampler": "ddim", "given": {"model": "sd15", "lora": str(lora), "weight": 0.5}}
    values = xyz._settings_of_cell(sent, shared)
    assert values["lora"] == "costume-001/weights/costume-2.safetensors" and values["weight"] == 0.5
    job, problems = grids.read_form({**values, "x.axis": "seed", "x.values": ["1"]})
    assert problems == [] and job.prompt == "a dog" and job.model.path == "sd15"


# grids


def test_cells_that_come_are_told_and_those_that_were_there_are_not_told_again(shared):
    run = make_grid(shared.workspace, painted=2)
    gallery = xyz.Gallery(shared)
    assert gallery.overview("")["shown"] == "grid-001"
    first = gallery.cells({"grid": "grid-001"})
    assert set(first["pictures"]) == {"cells/000.png", "cells/001.png"} and len(first["record"]["cells"]) == 6
    time.sleep(0.02)
    paint(run.path / "cells/002.png", 2)
    second = gallery.cells({"grid": "grid-001", "record": first["stamp"], "since": first["since"] + 1})
    assert set(second["pictures"]) == {"cells/002.png"} and "record" not in second
    assert gallery.overview("")["stamp"] != [first["stamp"], 0]
    assert gallery.infotext({"grid": "grid-001", "file": "cells/001.png"}) == "infotext 1"
    assert gallery.infotext({"grid": "grid-001", "file": "../run.yaml"}) == ""
    assert gallery.cells({"grid": "../.."}) == {} and gallery.cells({"grid": "costume-001"}) == {}


def test_the_record_is_sent_once_though_a_browsers_numbers_are_not_exact(shared):
    make_grid(shared.workspace, painted=2)
    gallery = xyz.Gallery(shared)
    told = json.loads(json.dumps(gallery.cells({"grid": "grid-001"})), parse_int=float)
    assert "record" in told
    again = gallery.cells({"grid": "grid-001", "record": told["stamp"], "since": told["since"] + 1})
    assert "record" not in again and again["pictures"] == {}


def test_what_is_new_is_told_from_what_is_answered(shared):
    run = make_grid(shared.workspace, painted=2)
    gallery = xyz.Gallery(shared)
    assert "message" not in gallery.overview("") and gallery.overview("", "")["message"] == ""
    run.requests.mkdir(exist_ok=True)
    assert gallery.overview("")["stopping"] is False
    run.request("stop")
    assert gallery.overview("")["stopping"] is True


def test_a_grid_at_work_is_not_changed_and_a_process_that_is_leaving_is_waited_for(shared, monkeypatch):
    run = make_grid(shared.workspace, painted=2)
    run.queued.write_text("{}")
    name, said = xyz._start(shared, run.job(), run, "en")
    assert name == "" and "stop it first" in said
    run.queued.unlink()
    monkeypatch.setattr(launcher, "LEAVING_SECONDS", 0.3)
    with run.lock():
        began = time.monotonic()
        assert not launcher.left_alone(run) and time.monotonic() - began < 0.25, "nobody waits for one that paints"
        run.log().append(events.Stopped(step=2))
        leaving = threading.Timer(0.1, lambda: monkeypatch.setattr(RunFolder, "living", lambda run: []))
        leaving.start()
        assert launcher.left_alone(run)
        leaving.join()


def test_a_thousand_cells_are_told_fast(shared):
    run = make_grid(shared.workspace, columns=40, rows=25, painted=0)
    for number in range(1000):
        (run.path / f"cells/{number:03d}.png").touch()
    gallery = xyz.Gallery(shared)
    began = time.perf_counter()
    gallery.overview("")
    answer = gallery.cells({"grid": "grid-001"})
    assert len(answer["pictures"]) == 1000
    assert time.perf_counter() - began < 1.5
    began = time.perf_counter()
    gallery.overview("")
    assert time.perf_counter() - began < 0.15


# a person


def test_a_grid_fills_before_ones_eyes(tmp_path):
    made = Workspace(tmp_path / "my workspace").create()
    run = make_grid(made, painted=4)
    with chromium() as browser, window(made) as opened, visit(browser, opened, size=(1280, 720)) as page:
        open_tab(page, "xyz")
        tiles = page.locator(".nosnja-grid-tile")
        tiles.locator("img").nth(3).wait_for(state="attached")
        assert tiles.count() == 6 and tiles.locator("img").count() == 4
        before = [tile.bounding_box() for tile in tiles.all()]
        paint(run.path / "cells/004.png", 4)
        tiles.locator("img").nth(4).wait_for(state="attached")
        assert [tile.bounding_box() for tile in tiles.all()] == before, "nothing moves when a picture comes"
        page.locator("[data-cell='1,0,0']").click()
        dialog = page.locator("dialog[open]")
        assert "picture 1 0" in dialog.inner_text() and "DDIM" in dialog.inner_text()
        wait_for(lambda: dialog.get_by_label("Infotext").input_value() == "infotext 1", page=page)
        page.keyboard.press("ArrowDown")
        wait_for(lambda: "picture 1 1" in dialog.inner_text(), page=page)
        page.keyboard.press("Escape")
        dialog.wait_for(state="hidden")
        # A value that cannot be is refused at its field, before anything is painted.
        page.locator("#grid-x-values input").fill("4-x")
        page.locator("#grid-x-line [role=alert]").wait_for()
        page.locator("#grid-paint").click()
        page.wait_for_timeout(300)
        assert [folder.name for folder in made.runs.iterdir()] == ["grid-001"]


SMALL = {
    "model.path": str(KIT / "sd"), "prompt": "a girl in a red dress", "sampler": "ddim", "steps": 2, "width": 64, "height": 64,
    "batch_size": 1, "x.axis": "cfg_scale", "x.values": "2, 3", "y.axis": "seed", "y.values": "1-3", "z.axis": "", "z.values": "",
}  # fmt: skip
PATIENCE = 240.0
"""For what a process does that has to load its libraries first, on a busy machine."""


def boxes(page) -> list[dict]:
    """Where what must not move is: the bars, the first column's head, the last cell."""
    marks = (".nosnja-xyz-head", ".nosnja-grid-bar", ".nosnja-grid-scroll", ".nosnja-grid-table thead th + th", "[data-cell='5,7,0']")
    return [page.locator(mark).first.bounding_box() for mark in marks]


def times(run: RunFolder) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in (run.path / grids.CELLS).glob("*.png")}


def test_a_grid_is_stopped_gone_on_with_made_larger_and_taken_away(tmp_path):
    made = Workspace(tmp_path / "my workspace").create()
    Memory(made.cache / "window-memory.json").put("xyz", SMALL)
    with chromium() as browser, window(made) as opened, visit(browser, opened, size=(1280, 720)) as page:
        open_tab(page, "xyz")
        state = page.locator("#grid-view .nosnja-state")
        pictures = page.locator(".nosnja-grid-tile img")

        def becomes(wanted: str, count: int) -> None:
            what = f"{wanted}, {count} pictures"
            wait_for(lambda: state.inner_text() == wanted and pictures.count() == count, PATIENCE, what, page)

        page.locator("#grid-x-values input").fill("2, 3, 4, 5, 6, 7")
        page.locator("#grid-y-values input").fill("1-8")
        page.locator("#grid-sum").get_by_text("6 × 8 = 48 cells").wait_for()
        page.locator("#grid-paint").click()
        run = RunFolder(wait_for(lambda: next(made.runs.glob("*/grid.json"), None), PATIENCE, "the record", page).parent)
        wait_for(lambda: page.locator(".nosnja-grid-tile").count() == 48, page=page)
        before, there = boxes(page), pictures.count()

        # Stopped while cells are missing.
        wait_for(lambda: len(times(run)) > there, PATIENCE, "a picture", page)
        page.locator("#grid-stop").click()
        wait_for(lambda: state.inner_text() in ("Stopping", "Stopped"), page=page)
        assert not page.locator("#grid-stop").is_visible() or page.locator("#grid-stop").is_disabled()
        wait_for(lambda: state.inner_text() == "Stopped", PATIENCE, "the stop", page)
        painted = times(run)
        assert 0 < len(painted) < 48
        assert isinstance(list(events.read(run.events))[-1], events.Stopped)
        becomes("Stopped", len(painted))
        assert page.locator("#grid-view").get_by_text(f"{len(painted)} of 48 pictures").is_visible()
        assert boxes(page) == before, "nothing moves when cells come"
        assert not page.locator("#grid-stop").is_visible()

        # Gone on with.
        page.locator("#grid-go-on").click()
        wait_for(lambda: pictures.count() > len(painted), PATIENCE, "another picture", page)
        assert boxes(page) == before
        becomes("Finished", 48)
        whole = times(run)
        assert len(whole) == 48 and painted.items() <= whole.items(), "what was painted is not painted again"
        assert boxes(page) == before
        assert not page.locator("#grid-go-on").is_visible()

        # Made larger.
        page.locator("#grid-y-values input").fill("1-9")
        page.locator("#grid-continue input").check()
        page.locator("#grid-sum").get_by_text("6 × 9 = 54 cells").wait_for()
        page.locator("#grid-paint").click()
        becomes("Finished", 54)
        larger = times(run)
        assert len(larger) == 54 and whole.items() <= larger.items()
        assert [folder.name for folder in made.runs.iterdir()] == [run.path.name]
        brushed = Counter(event.file for event in events.read(run.events) if isinstance(event, events.Cell) and not event.reused)
        assert len(brushed) == 54 and set(brushed.values()) == {1}

        # Taken away.
        with page.expect_download() as download:
            page.locator("#grid-png").click()
        assert download.value.suggested_filename == f"{run.path.name}.png"
        download.value.save_as(tmp_path / "sheet.png")
        with Image.open(tmp_path / "sheet.png") as sheet:
            sheet.load()
            assert sheet.format == "PNG" and sheet.width > 6 * 64 and sheet.height > 9 * 64
            text = sheet.text["parameters"]
        assert text.startswith("a girl in a red dress") and "Steps: 2" in text
        assert 'Script: X/Y/Z plot, X Type: CFG Scale, X Values: "2, 3, 4, 5, 6, 7", Y Type: Seed, Y Values: 1-9' in text
        with page.expect_download() as download:
            page.locator("#grid-html").click()
        assert download.value.suggested_filename == f"{run.path.name}.html"
        download.value.save_as(tmp_path / "taken.html")

        # Looked at elsewhere, where nobody can be asked.
        with browser.new_context(offline=True).new_page() as elsewhere:
            troubles: list[str] = []
            listen(elsewhere, tmp_path.as_uri(), troubles)
            elsewhere.goto((tmp_path / "taken.html").as_uri())
            assert elsewhere.locator("[data-cell='0,0,0'] img").is_visible()
            widths = elsewhere.evaluate("[...document.querySelectorAll('.nosnja-grid-tile img')].map((image) => image.naturalWidth)")
            assert widths == [64] * 54
            elsewhere.locator("[data-cell='0,0,0']").click()
            assert "a girl in a red dress" in elsewhere.get_by_label("Infotext").input_value()
            assert troubles == []


ONE_WORD = ("abcdefghij" * 12)[:120]
WORDS = ("a woman in a folk costume with red embroidery on white linen, " * 2)[:120]
FITS = "(marks) => marks.every((mark) => [...document.querySelectorAll(mark)].every((it) => it.scrollWidth <= it.clientWidth + 1))"


def make_grid_of_long_names(workspace) -> RunFolder:  # noqa: F811
    """Three axes, whose values are as long as prompts and file names get."""
    run = make_grid(workspace, "grid-002")
    labels = {"x": [ONE_WORD, WORDS, "short"], "y": [WORDS, ONE_WORD[::-1]], "z": [ONE_WORD, WORDS]}
    titles = {"x": "Prompt", "y": "LoRA", "z": "Trigger word"}
    record = grids.read_record(run.path)
    record["axes"] = {place: {"name": place, "title": titles[place], "labels": labels[place], "given": ""} for place in "xyz"}
    record["cells"] = [
        {**cell, "prompt": ONE_WORD, "model": ONE_WORD, "position": [*cell["position"][:2], page]}
        for page in (0, 1)
        for cell in record["cells"]
    ]
    (run.path / grids.RECORD).write_text(json.dumps(record), encoding="utf-8")
    return run


def test_long_names_are_read_and_nothing_sticks_out(tmp_path):
    made = Workspace(tmp_path / "my workspace").create()
    write_lora(made.models / f"{ONE_WORD}.safetensors")
    make_grid_of_long_names(made)
    unborn = RunFolder.create(made.runs / "never-begun", GridJob.parse({"x": {"axis": "seed", "values": ["1"]}}))
    Memory(made.cache / "window-memory.json").put("xyz", {**SMALL, "lora": f"{ONE_WORD}.safetensors"})

    def fits(page) -> bool:
        places = ["html", ".nosnja-xyz-form", ".nosnja-xyz", ".nosnja-grid-scroll", ".nosnja-grid-scroll th div"]
        return page.evaluate(FITS, [*places, "dialog[open]", "dialog[open] aside", "dialog[open] dd", "dialog[open] b.long"])

    def height(page) -> float:
        return page.locator(".nosnja-grid-bar").bounding_box()["height"]

    with chromium() as browser, window(made) as opened:
        with visit(browser, opened, size=(1280, 720)) as page:
            open_tab(page, "xyz")
            page.locator("#grid-chooser").select_option("grid-002")
            page.locator(".nosnja-grid-tile img").nth(5).wait_for(state="attached")
            assert height(page) < 45, "one row"
            page.locator("#grid-group-model > button").click()
            page.locator("#grid-x-axis input").click()
            page.locator("li[role=option][aria-label=Prompt]").click()
            wait_for(lambda: page.locator("#grid-x-values input").input_value() == "", page=page)
            page.locator("#grid-x-values input").fill(f'girl, {ONE_WORD}, "{WORDS}"')
            page.locator("#grid-x-line").get_by_text(ONE_WORD[:20]).wait_for()
            for size in ((1440, 900), (1280, 720)):
                page.set_viewport_size({"width": size[0], "height": size[1]})
                wait_for(lambda: fits(page), 5, f"everything in its place at {size}", page)
            for text in (ONE_WORD, WORDS, ONE_WORD[::-1]):
                # In the head of its column or row, whole and at its full height.
                head = page.locator("th div", has_text=text.strip()).first
                assert head.evaluate("(it) => it.scrollHeight <= it.clientHeight + 1") and head.get_attribute("title") == text
            assert page.locator(".nosnja-grid-scroll h4").inner_text() == f"Trigger word: {ONE_WORD}"

            # Everything in the bar is reached with the keyboard, which stays where it was.
            bar = page.locator(".nosnja-grid-bar")
            page.locator("#grid-html").focus()
            reached = []
            for _ in range(6):
                page.keyboard.press("Tab")
                reached.append(page.evaluate("document.activeElement.dataset.control"))
            assert reached == ["columns", "rows", "pages", "size", "hide", "compare"]
            assert [bar.get_by_role("combobox", name=name).count() for name in ("Columns", "Rows", "Pages")] == [1, 1, 1]
            bar.get_by_role("button", name="Hide values").press("Enter")
            page.locator(".nosnja-grid-values").wait_for()
            page.get_by_role("tab", name="All pages").press("Enter")
            assert page.locator(".nosnja-grid-table").count() == 2
            assert page.get_by_role("tab", name="All pages").evaluate("(it) => it === document.activeElement")
            page.get_by_role("tab", name=WORDS.strip()).press("Enter")
            assert page.locator(".nosnja-grid-table").count() == 1 and fits(page)

            page.locator("[data-cell='1,1,1']").click()
            page.locator("dialog[open]").get_by_text(ONE_WORD).first.wait_for()
            assert fits(page)
            page.keyboard.press("Escape")

            # What never began does not pretend to begin, and a form with a mistake leaves the grid alone.
            page.locator("#grid-chooser").select_option(unborn.path.name)
            wait_for(lambda: page.locator("#grid-view .nosnja-state").inner_text() == "Not started", page=page)
            assert page.locator("#grid-go-on").is_visible() and not page.locator("#grid-stop").is_visible()
            assert page.locator("#grid-png").get_attribute("href") is None
        with visit(browser, opened, size=(1280, 720), locale="ru-RU") as page:
            open_tab(page, "xyz")
            page.locator("#grid-chooser").select_option("grid-002")
            page.locator(".nosnja-grid-tile img").nth(5).wait_for(state="attached")
            assert height(page) < 80, "two rows at worst"
            assert fits(page)


def test_the_page_of_a_grid_needs_nobody(tmp_path):
    write_grid(tmp_path, count=2)
    page_file = gridpage.write(tmp_path)
    with chromium() as browser:
        page = browser.new_context(viewport={"width": 1280, "height": 720}).new_page()
        troubles: list[str] = []
        listen(page, page_file.as_uri().removesuffix("/page.html"), troubles)
        page.goto(page_file.as_uri())
        assert page.locator(".nosnja-grid-tile img").count() == 12
        widths = page.evaluate("[...document.querySelectorAll('.nosnja-grid-tile img')].map((image) => image.naturalWidth)")
        assert widths == [64] * 12
        page.locator("[data-cell='0,0,0']").click(position={"x": 5, "y": 5})
        page.keyboard.press("ArrowRight")
        assert page.get_by_label("Infotext").input_value() == "infotext 2"
        page.keyboard.press("2")
        assert page.get_by_label("Infotext").input_value() == "infotext 3"
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Compare two").click()
        page.locator("[data-cell='0,0,0']").click()
        page.locator("[data-cell='2,1,0']").click()
        page.locator("dialog[open] .nosnja-grid-cut").fill("20")
        assert page.locator("dialog[open] .nosnja-grid-stage img").count() == 2
        page.keyboard.press("Escape")
        page.get_by_label("Columns").select_option("y")
        assert page.locator("thead th").count() == 3, "axes have changed places"
        assert troubles == []


def test_the_widgets_speak_only_of_what_is_there():
    folder = Path(xyz.__file__).parent / "widgets"
    for name in ("xyz.js", "xyz_line.js", "xyz_sum.js", "grid_core.js"):
        assert ".innerHTML" not in (folder / name).read_text(encoding="utf-8")


# settings out of a picture


def painted(workspace, file: Path, **changes) -> Path:  # noqa: F811
    """A picture with the text that our own pictures have, as they have it with a LoRA of the run."""
    lora = workspace.runs / "costume-001" / "weights" / "costume-2.safetensors"
    given = {
        "prompt": 'nosnja, a "woman": red', "negative_prompt": "blurry, low", "seed": 77, "sampler": "ddim", "steps": 9, "cfg_scale": 4.5,
        "width": 128, "height": 192, "clip_skip": 2, "model": "sd15", "loras": [infotext.Network(lora.stem, 0.6)],
        "lora_hashes": {lora.stem: infotext.lora_hash(lora)[:12]}, **changes,
    }  # fmt: skip
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", infotext.write(infotext.of_picture(**given)))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (128, 192), "teal").save(file, pnginfo=info)
    return file


def test_a_picture_of_ours_fills_the_form_with_what_painted_it(shared, tmp_path):
    found = infotext.read(painted(shared.workspace, tmp_path / "a.png"))
    taken = xyz.settings_of_picture(found, FORM, shared)
    assert taken.remarks == ()
    assert taken.values == {
        "prompt": 'nosnja, a "woman": red', "negative_prompt": "blurry, low", "seed": 77, "sampler": "ddim", "steps": 9, "cfg_scale": 4.5,
        "width": 128, "height": 192, "model.clip_skip": 2, "model.path": "sd15", "model.vae": "", "run": "costume-001",
        "lora": "costume-001/weights/costume-2.safetensors", "weight": 0.6,
        "x.axis": "epoch", "x.values": "all, none", "y.axis": "weight", "y.values": "0-1[5]", "z.axis": "", "z.values": "",
    }  # fmt: skip
    assert xyz.Judge(shared).told({**FORM, **taken.values}, "en")[-1]["ready"]


def test_a_picture_without_a_lora_leaves_the_run_and_the_axes_that_need_it(shared, tmp_path):
    found = infotext.read(painted(shared.workspace, tmp_path / "a.png", loras=[], lora_hashes={}))
    taken = xyz.settings_of_picture(found, {**FORM, "y.axis": "trigger", "y.values": "on, off"}, shared)
    assert taken.values["run"] == taken.values["lora"] == "" and taken.values["model.path"] == "sd15"
    assert (taken.values["x.axis"], taken.values["x.values"], taken.values["y.axis"]) == ("seed", "77-80", "")
    kept = xyz.settings_of_picture(found, {**FORM, "x.axis": "steps", "x.values": "5, 9"}, shared)
    assert (kept.values["x.axis"], kept.values["x.values"]) == ("steps", "5, 9")


def test_what_is_not_here_or_not_allowed_is_said_and_the_form_keeps_its_own(shared, tmp_path):
    changes = {"model": "dreamshaper", "clip_skip": 4, "cfg_scale": 0.5, "seed": 2**40, "loras": [infotext.Network("elsewhere", 1.0)]}
    found = infotext.read(painted(shared.workspace, tmp_path / "a.png", **changes))
    taken = xyz.settings_of_picture(found, FORM, shared)
    assert not {"model.clip_skip", "cfg_scale", "seed"} & set(taken.values)
    run = RunFolder(shared.workspace.runs / "costume-001")
    assert taken.values["model.path"] == run.job().model.path, "the run goes, its model stays"
    said = " ".join(taken.remarks)
    for part in ("dreamshaper", "elsewhere", "Clip skip", "Cfg scale", "Seed"):
        assert part in said


def test_only_what_was_sent_is_read(shared, tmp_path):
    painted(shared.workspace, tmp_path / "a.png")
    uploads = shared.workspace.cache / "uploads"
    painted(shared.workspace, uploads / "x" / "a.png")
    for path in (None, "", tmp_path / "a.png", uploads, uploads / ".." / ".." / "a.png", "\0", str(uploads / "x" / "b.png")):
        with pytest.raises(UserError, match="has not arrived"):
            xyz._uploaded(str(path), "a.png", shared)
    assert xyz._uploaded(str(uploads / "x" / "a.png"), "a.png", shared).settings["Seed"] == "77"
    assert not (uploads / "x" / "a.png").exists(), "it is not kept"
    Image.new("RGB", (8, 8)).save(uploads / "x" / "tmp123.png")
    with pytest.raises(UserError, match=r"^my picture\.png says nothing"):
        xyz._uploaded(str(uploads / "x" / "tmp123.png"), "my picture.png", shared)


def test_every_cell_that_was_painted_comes_back_as_the_settings_that_painted_it(painting, tmp_path):  # noqa: F811
    """A cell's file is called after the hash of everything that decides it, so the same name means the same picture."""
    from nosnja_gui.engine import grid as engine

    shared = SimpleNamespace(workspace=painting, listens=False)
    axes = {
        "x": {"axis": "weight", "values": [0.35, 1]},
        "y": {"axis": "epoch", "values": ["none", 1, 3]},
        "z": {"axis": "trigger", "values": []},
    }
    run = RunFolder.create(tmp_path / "grid", small_job(**axes, negative_prompt='a, "b": c', seed=5, images_per_cell=2))
    sheet = engine.run_grid(run.job(), run, painting)
    cells = sorted((run.path / grids.CELLS).glob("*.png"))
    assert len(cells) == 20
    for file in cells:
        taken = xyz.settings_of_picture(infotext.read(file), {}, shared)
        assert taken.remarks == ()
        values = {name: value for name, value in taken.values.items() if name[:2] not in ("x.", "y.", "z.")}
        job, problems = grids.read_form({**values, "x.axis": "seed", "x.values": [values["seed"]]})
        assert problems == [] and list(engine.prepare(job, painting, tmp_path).pictures) == [file.stem]
    of_sheet = xyz.settings_of_picture(infotext.read(sheet), {}, shared)
    assert of_sheet.values["x.axis"] == "weight" and of_sheet.values["x.values"] == "0.35, 1"
    assert "training run" in " ".join(of_sheet.remarks), "its first picture has no LoRA"


def test_lists_offer_what_other_programs_have_and_follow_it(shared, tmp_path):
    choices = xyz.Choices(shared)
    assert choices.found()["model.vae"] == []
    models_there = tmp_path / "webui" / "models"
    shutil.copytree(KIT / "sd", models_there / "Stable-diffusion" / "dreams")
    write_lora(models_there / "Lora" / "ana.safetensors")
    places.add(shared.workspace, tmp_path / "webui")
    shutil.copytree(KIT / "sd" / "vae", shared.workspace.models / "vae" / "clear")
    found = choices.found()
    assert found["model.path"][-1] == ("dreams · A1111 · Stable Diffusion 1.x", str(models_there / "Stable-diffusion" / "dreams"))
    assert found["lora"][-1] == ("ana  ·  A1111", str(models_there / "Lora" / "ana.safetensors"))
    assert found["model.vae"] == [("vae/clear", "vae/clear")]
    again = choices.found()  # that files were looked into for the first time is news, too
    assert again == found and choices.found() is again, "nothing is looked for again while nothing has changed"


def test_a_cells_settings_say_its_vae(shared):
    sent = {"prompt": "a dog", "given": {"model": "sd15", "vae": "vae/clear", "prediction_type": "v_prediction"}}
    values = xyz._settings_of_cell(sent, shared)
    assert (values["model.vae"], values["model.prediction_type"]) == ("vae/clear", "v_prediction")
    assert "model.vae" not in xyz._settings_of_cell({"given": {"model": "sd15"}}, shared), "of a grid that was painted before"


DROP = """([name, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, {type: "image/png"}));
  for (const kind of ["dragenter", "dragover", "drop"])
    document.querySelector("#grid-view").dispatchEvent(new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: data}));
}"""


def test_a_person_takes_settings_from_a_picture(tmp_path):
    made = Workspace(tmp_path / "my workspace").create()
    Memory(made.cache / "window-memory.json").put("xyz", SMALL)
    texts = {"seed": 5, "steps": 3, "model": "elsewhere", "loras": [], "lora_hashes": {}}
    (made.runs / "costume-001" / "weights").mkdir(parents=True)
    write_lora(made.runs / "costume-001" / "weights" / "costume-2.safetensors")
    ours = painted(made, tmp_path / "ours.png", **texts)
    Image.new("RGB", (8, 8)).save(tmp_path / "silent.png")
    with chromium() as browser, window(made) as opened, visit(browser, opened, size=(1280, 720)) as page:
        open_tab(page, "xyz")
        said = page.locator("#grid-picture [role=status]")
        prompt, seed = page.locator("#grid-prompt textarea"), page.locator("#grid-seed input").first
        wait_for(lambda: prompt.input_value() == SMALL["prompt"], page=page)
        page.locator("#grid-picture-file").set_input_files(ours)
        said.get_by_text("Taken over from ours.png").wait_for()
        assert "Prompt" in said.inner_text() and "elsewhere" in said.locator("li").first.inner_text()
        wait_for(lambda: prompt.input_value() == 'nosnja, a "woman": red' and seed.input_value() == "5", page=page)
        assert page.locator("#grid-x-values input").input_value() == SMALL["x.values"]
        page.locator("#grid-sum").get_by_text("2 × 3 = 6 cells").wait_for()
        assert page.evaluate(FITS, ["html", ".nosnja-xyz-form", "#grid-picture .nosnja-note"])
        said.get_by_role("button", name="Close").click()
        assert not said.is_visible()
        # Dropped anywhere, and one that says nothing.
        page.evaluate(DROP, ["silent.png", base64.b64encode((tmp_path / "silent.png").read_bytes()).decode()])
        said.get_by_text("silent.png says nothing about how it was painted").wait_for()
        assert prompt.input_value() == 'nosnja, a "woman": red'
        page.evaluate(DROP, ["again.png", base64.b64encode(ours.read_bytes()).decode()])
        said.get_by_text("Taken over from again.png").wait_for()
        page.locator("#grid-picture-file").set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"x"})
        said.get_by_text("notes.txt is no PNG").wait_for()
        left = Memory(made.cache / "window-memory.json").get("xyz")
        assert left["seed"] == 5 and left["sampler"] == "ddim" and left["model.path"] == SMALL["model.path"]
