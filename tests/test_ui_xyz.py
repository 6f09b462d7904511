"""Tab "XYZ plot": what the form says while it is filled in, what the page is told of grids, and a person who looks at one."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from nosnja_gui import events, gridpage, grids
from nosnja_gui.jobs import GridJob
from nosnja_gui.runs import RunFolder
from nosnja_gui.ui import xyz
from nosnja_gui.ui.memory import Memory
from nosnja_gui.ui.pictures import Pictures
from nosnja_gui.workspace import Workspace
from tests.browser import chromium, listen, open_tab, visit, wait_for, window
from tests.test_gridpage import paint, write_grid
from tests.test_grids import workspace  # noqa: F401 - a fixture


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
