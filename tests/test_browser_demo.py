"""The whole job as a person does it in the browser: from the first click on the demo to the finished XYZ plot.

On the way the page is reloaded and looked at by a second visitor, the window itself ended and opened again, and the demo stopped
and gone on with.
"""

import json
import os
import time
from pathlib import Path

import pytest

from nosnja_gui import events, launcher
from nosnja_gui.jobs import GridJob
from nosnja_gui.runs import RunFolder
from nosnja_gui.ui.panel import TABS
from nosnja_gui.workspace import Workspace
from tests.browser import BROWSED, CUT_OFF, chromium, moved, open_tab, visit, wait_for, window

PATIENCE = 420.0
THREADS = str(os.cpu_count() or 1)
"""The training has the machine for itself, but for what the window and the browser take."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("demo window") / "workspace").create()


def steps(run: RunFolder) -> list[int]:
    return [event.step for event in events.read(run.events) if isinstance(event, events.Step)]


def shown_step(page) -> int:
    found = page.locator("#monitor-step").inner_text().partition("/")[0].strip().replace(",", "")
    return int(found) if found.isdigit() else -1


def test_the_demo_from_the_first_click_to_the_finished_plot(workspace):
    began_at = time.monotonic()
    with chromium() as browser:
        with window(workspace, end_runs=False, OMP_NUM_THREADS=THREADS) as opened:
            with visit(browser, opened, forgiven=CUT_OFF) as page:
                page.locator("#start-demo").click()
                folder = wait_for(lambda: next(workspace.runs.glob("demo-*"), None), page=page)
                demo, training = RunFolder(folder), RunFolder(folder / "training")

                # Pictures with BLIP's captions are looked at while the training begins.
                wait_for(lambda: len(list((folder / "dataset").glob("*.txt"))) == 30, PATIENCE, "captions", page)
                open_tab(page, "dataset")
                page.locator("#guide-dataset").get_by_text("BLIP").wait_for()
                page.locator("#gallery-grid img").nth(29).wait_for(state="attached")
                captions = page.locator("#gallery-grid").inner_text()
                assert captions.count("standing") == 30 and "outfit" in captions

                # The monitor shows what the log says; so does a second visitor, and the same page after a reload.
                wait_for(lambda: len(steps(training)) >= 5, PATIENCE, "the first steps", page)
                open_tab(page, "monitor")
                wait_for(lambda: shown_step(page) > 0, page=page)
                page.locator("#monitor-loss path").first.wait_for(state="attached")
                page.reload()
                open_tab(page, "monitor")
                wait_for(lambda: shown_step(page) > 0, page=page)
                with visit(browser, opened) as other:
                    open_tab(other, "monitor")
                    wait_for(lambda: abs(shown_step(other) - steps(training)[-1]) <= 12, page=other)
                    assert other.locator("#monitor-picker").input_value() == f"{folder.name}/training"

            # The window ends; the training doesn't, and is found again.
            before = steps(training)[-1]
        assert launcher.alive(demo), "the demo must go on without its window"
        wait_for(lambda: steps(training)[-1] > before, PATIENCE, "a step without a window")

        with (
            window(workspace, OMP_NUM_THREADS=THREADS) as opened,
            visit(browser, opened, size=(1280, 720), scheme="dark", forgiven=CUT_OFF) as page,
        ):
            began = time.monotonic()
            open_tab(page, "monitor")
            wait_for(lambda: shown_step(page) >= before, page=page)
            assert time.monotonic() - began < 15

            # Stopped within one step, and gone on with.
            page.locator("#monitor-stop").click()
            wait_for(lambda: not launcher.alive(demo), PATIENCE, "the stop", page)
            stopped = [event.step for event in events.read(training.events) if isinstance(event, events.Stopped)]
            assert stopped == [steps(training)[-1]]
            open_tab(page, "start")
            page.locator("#start-resume").click()
            wait_for(lambda: steps(training)[-1] > stopped[0], PATIENCE, "the next steps", page)
            logged = steps(training)
            assert logged == sorted(set(logged)), "no step was made twice"

            # Numbers and pictures come in, and nothing jumps.
            for tab in TABS:
                open_tab(page, tab)
                page.wait_for_timeout(800)
                assert moved(page, 3) == [], tab
                assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, tab

            # The trigger word is in the form of its tab, and nothing is left to write.
            open_tab(page, "trigger")
            word = page.locator("#field-trigger-word").locator("input, textarea").first
            wait_for(lambda: word.input_value() == "nosnjaoutfit", page=page)

            # The page is left, too, and comes back to a demo that is done.
            page.goto("about:blank")
            wait_for(lambda: (folder / "result.json").is_file(), 3 * PATIENCE, "the end of the demo")
            page.goto(opened.address)
            open_tab(page, "start")
            page.get_by_text("100").first.wait_for()
            result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            assert result["trigger"]["with"] >= 0.9 and result["trigger"]["without"] <= 0.1
            BROWSED.append((workspace.root, time.monotonic() - began_at))

            # Every cell of the XYZ plot is there, and a click on one says what made it.
            open_tab(page, "xyz")
            job = RunFolder(folder / "grid").job()
            assert isinstance(job, GridJob)
            cells = page.locator("#grid-view img")
            wait_for(lambda: cells.count() >= 12 and page.evaluate(LOADED), page=page)
            cells.first.click()
            page.get_by_text("CFG scale").first.wait_for()
            assert Path(folder / "grid" / "page.html").stat().st_size > 50_000


LOADED = "() => [...document.querySelectorAll('#grid-view img')].every(image => image.complete && image.naturalWidth > 0)"
