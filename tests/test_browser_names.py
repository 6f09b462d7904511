"""Names that nobody expects, in every tab of a real browser: longer than any line, in other scripts, full of what HTML is made of."""

import json
import os
import time
from pathlib import Path

import pytest
from PIL import Image

from nosnja_gui import events, work_queue
from nosnja_gui.jobs import AxisSettings, CaptionJob, GridJob, TrainJob
from nosnja_gui.runs import RunFolder
from nosnja_gui.ui.panel import TABS
from nosnja_gui.workspace import Workspace
from tests.browser import chromium, open_tab, visit, window
from tests.test_gridpage import write_grid
from tests.test_grids import write_model
from tests.test_library import write_lora
from tests.test_ui_monitor import sampled, started, step, told, training

LONG = "costume" + "x" * 113
CYRILLIC = "народная_ношња_" * 8
ODD = '<b>&"' + "W" * 115
NAMES = (LONG, CYRILLIC, ODD)
WORDS = ("a girl in a folk costume on stone stairs, " * 50)[:2000]
ONE_WORD = "nosnja" * 333 + "ab"
NOW = time.time() - 60
MESSAGE = ("The file " + "y" * 200 + " cannot be read: choose another one, or make it readable again for everybody. " * 2)[:300]

STICKING_OUT = """() => {
  const root = document.querySelector(".gradio-container");
  const width = document.documentElement.clientWidth;
  const found = [];
  // Elements, and texts, which may be wider than the element that they are in.
  const looked = [...root.querySelectorAll("*")];
  const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) if (texts.currentNode.data.trim()) looked.push(texts.currentNode);
  for (const node of looked) {
    const element = node.nodeType === Node.TEXT_NODE ? node.parentElement : node;
    if (!element.checkVisibility({visibilityProperty: true, opacityProperty: true}) || element.closest("svg, option, textarea")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = (node === element ? element : range).getBoundingClientRect();
    if (box.width < 1 || box.height < 1) continue;
    const beyond = (left, right) => box.left < left - 1.5 || box.right > right + 1.5;
    let own = getComputedStyle(element);
    // Up to what cuts it off or scrolls, where nothing can stick out, and what floats above the page, which has its own place.
    let at = node === element ? element.parentElement : element;
    let floats = node === element && ["absolute", "fixed"].includes(own.position);
    let cut = false;
    let out = "";
    for (; at !== root && !cut && !out && !floats; at = at.parentElement) {
      const style = getComputedStyle(at);
      const frame = at.getBoundingClientRect();
      cut = style.overflowX !== "visible";
      if (!cut && parseFloat(style.borderRightWidth) > 0 && beyond(frame.left, frame.right)) out = `its card ${at.id || at.className}`;
      floats = ["absolute", "fixed"].includes(style.position);
    }
    if (!out && !cut && beyond(0, width)) out = "the window";
    const text = node.textContent.trim().slice(0, 40);
    if (out) found.push(`${element.tagName} ${element.id || element.className} out of ${out}: ${box.left} to ${box.right}, '${text}'`);
  }
  return found;
}"""
"""Everything on the screen that reaches sideways out of its card or the window, without being cut off or scrolled by intent."""


def build(workspace: Workspace) -> None:
    """Everything that the window lists, with such names."""
    for number, (name, caption) in enumerate(zip(NAMES, (WORDS, ONE_WORD, ODD), strict=True)):
        for folder in (LONG, name):
            file = workspace.datasets / folder / f"{name}.png"
            file.parent.mkdir(exist_ok=True)
            Image.new("RGB", (48 + 16 * number, 64), (60, 90 * number, 90)).save(file)
            file.with_suffix(".txt").write_text(caption, encoding="utf-8")
        write_lora(
            workspace.models / f"{name}.safetensors", metadata={"modelspec.trigger_phrase": name, "ss_output_name": name, "x": ONE_WORD}
        )
        write_model(workspace.models / f"model {name}"[:100])
    wanted = {
        "dataset.path": LONG,
        "model.path": f"model {LONG}"[:100],
        "trigger": LONG,
        "preview.prompts": [WORDS, ONE_WORD],
        "preview.negative_prompt": ONE_WORD,
    }
    for name in NAMES:
        run = RunFolder.create(workspace.runs / name, TrainJob().changed(**wanted, name=name))
        file = write_lora(run.weights / f"{name}.safetensors", metadata={"ss_output_name": name}).relative_to(run.path).as_posix()
        told(
            run,
            started(NOW),
            sampled(run, 5),
            step(10, NOW + 5),
            events.Saved(step=10, epoch=1, file=file),
            events.Finished(files=[file], seconds=9),
        )
    training(workspace, f"failed-{LONG}", started(NOW), step(3, NOW + 2), events.Failed(message=MESSAGE, detail=ONE_WORD), **wanted)
    grid = RunFolder.create(
        workspace.runs / f"grid-{LONG}", GridJob(name=LONG, run=LONG, prompt=WORDS, x=AxisSettings(axis="lora", values=list(NAMES)))
    )
    axes = {
        "x": {"name": "lora", "title": "LoRA", "labels": list(NAMES), "given": LONG},
        "y": {"name": "prompt", "title": "Prompt", "labels": [WORDS, ONE_WORD], "given": ""},
    }
    write_grid(grid.path, name=LONG, about=LONG, axes=axes)
    grid.log().append(events.Started(job="grid", total=6))
    grid.log().append(events.Finished(files=["grid.png"], seconds=9))
    caption = RunFolder.create(workspace.runs / f"caption-{LONG}", CaptionJob(dataset=str(workspace.datasets / LONG)))
    caption.log().append(events.Started(job="caption", total=3))
    caption.log().append(events.Failed(message=MESSAGE))
    run = training(workspace, f"running-{LONG}", **wanted)
    told(
        run,
        started(NOW),
        sampled(run, 0),
        *(step(number, NOW + number) for number in range(1, 6)),
        events.Warned(message=MESSAGE),
        live=True,
    )
    run.console.write_text(f"{MESSAGE}\n{ONE_WORD}\n")
    training(workspace, f"queued-{LONG}", **wanted).queued.write_text(json.dumps({"place": 1}))


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("names") / "workspace").create()
    build(workspace)
    # The process that "runs" is the one that tests.
    with chromium() as browser, window(workspace, end_runs=False) as served:
        try:
            yield browser, served
        finally:
            for waiting in work_queue.waiting(workspace):
                work_queue.remove(waiting, workspace)


def look(page, name: str) -> None:
    """Nothing may reach out of its place, now or when the page has settled."""
    page.wait_for_timeout(250)
    if folder := os.environ.get("NOSNJA_TEST_SHOTS"):
        page.screenshot(path=Path(folder) / f"names {name}.png")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth + 1"), f"{name} scrolls sideways"
    assert page.evaluate(STICKING_OUT) == [], name


def go_to(page, tab: str) -> None:
    """As `open_tab`, also where the tab stands in the menu of those that the window has no room for."""
    if not page.locator(f"#tab-{tab}-button").is_visible():
        page.locator("#tabs .overflow-menu > button").first.click()
        look(page, f"menu with {tab}")
        title = page.locator("#tabs > .tab-wrapper > .visually-hidden button").nth(TABS.index(tab)).text_content()
        page.locator("#tabs .overflow-dropdown").get_by_text(title, exact=True).click()
        page.wait_for_selector(f"#tab-{tab}", state="visible")
    else:
        open_tab(page, tab)


def open_dataset(page) -> None:
    page.wait_for_selector("#start-demo")
    go_to(page, "dataset")
    page.locator("#gallery-dataset option", has_text=LONG).first.wait_for(state="attached")
    page.select_option("#gallery-dataset", f"datasets/{LONG}")
    page.locator(".nosnja-gallery .tile").nth(2).wait_for()


@pytest.mark.parametrize(("locale", "scheme"), [("en-US", "light"), ("ru-RU", "dark")])
def test_nothing_sticks_out(opened, locale, scheme, tmp_path):
    with visit(*opened, locale=locale, size=(1280, 720), scheme=scheme, path=f"/?__theme={scheme}") as page:
        open_dataset(page)
        for width, height in ((1280, 720), (1024, 700)):
            page.set_viewport_size({"width": width, "height": height})
            for tab in TABS:
                go_to(page, tab)
                look(page, f"{locale} {scheme} {width} {tab}")
        if locale == "en-US":
            look_into(page, tmp_path)


def look_into(page, folder: Path) -> None:
    """What names and texts are put into when something is clicked."""
    go_to(page, "dataset")
    page.locator(".nosnja-gallery .tile").nth(1).click()
    look(page, "picture")
    for drawer in ("caption", "tags", "history"):
        page.click(f"#gallery-{drawer}")
        look(page, drawer)
    page.click("#gallery-edit")
    page.fill("#gallery-find", "nosnja")
    page.fill("#gallery-append", ONE_WORD)
    page.locator(".nosnja-gallery .change").first.wait_for()
    look(page, "edit")
    page.click("#gallery-bring")
    files = [folder / f"{name}{suffix}" for name in NAMES for suffix in (".png", ".pdf")]
    for file in files:
        file.write_bytes(b"x")
    page.set_input_files("#gallery-files", files)
    page.locator(".nosnja-gallery .refused").wait_for()
    page.select_option("#gallery-target", "into")
    look(page, "bring")
    page.click("#gallery-bring")
    go_to(page, "trigger")
    page.locator("#field-trigger-word").locator("input, textarea").first.click()
    page.keyboard.insert_text(LONG[:60])
    page.locator(".nosnja-change ins").first.wait_for()
    look(page, "trigger")
    go_to(page, "library")
    for section in ("runs", "loras"):
        page.click(f"#library-{section}")
        page.locator(".nosnja-library-main tbody tr").last.click()
        page.locator("#library-details h3").wait_for()
        look(page, section)
    page.click("#library-models")
    look(page, "models")
    page.click("#library-runs")
    for tick in page.locator(".nosnja-library-main tbody .c-box input").all()[-3:]:
        tick.click()
    look(page, "comparison")
