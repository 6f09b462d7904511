"""The window in a real browser: app.py in a process of its own, and Chromium as a person would use it.

    with chromium() as browser, window(workspace) as opened, visit(browser, opened) as page:
        open_tab(page, "train")
        page.get_by_role("button", name="Start training").click()
        wait_for(lambda: list(workspace.runs.iterdir()))

A visit that ends well has asserted that the console stayed silent and that nothing failed or was asked for outside.
Where there is no browser, tests are skipped; with the environment variable CI set they fail.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pytest

from nosnja_gui import launcher, work_queue
from nosnja_gui.runs import RunFolder
from nosnja_gui.workspace import Workspace

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request

ROOT = Path(__file__).parents[1]
SECONDS = 30.0
"""How long anything may take on a busy machine before it counts as not happening."""
INSTALLED = ("/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
CUT_OFF = ("AbortError", "Connection errored out", "Unexpected error")
"""What Gradio says in a page that is left while an answer is under way. For tests that reload: nobody sees it."""
WATCH_MOVES = """
window.moves = [];
const name = (node) => node ? (node.nodeType === 1 ? node : node.parentElement) : null;
const told = (node) => { const at = name(node); return at ? at.id || at.getAttribute("class") || at.tagName : "?"; };
const box = (rect) => [rect.x, rect.y, rect.width, rect.height].map(Math.round).join(" ");
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput && entry.value > 0.001)
    window.moves.push(entry.sources.map((one) => `${told(one.node)}: ${box(one.previousRect)} -> ${box(one.currentRect)}`).join("; "));
}).observe({type: "layout-shift", buffered: true});
"""
"""The browser's own account of what moved (Layout Instability API), less what follows half a second after a click or key."""
BROWSED: list[tuple[Path, float]] = []
"""(workspace, seconds) of the demo that a test has clicked through to its end: minutes, that other tests needn't spend again."""
OWN_SCHEMES = ("data:", "blob:", "about:")
T = TypeVar("T")


# The window


@dataclass
class OpenWindow:
    """A window that serves; `output` grows as it prints."""

    workspace: Workspace
    process: subprocess.Popen[str]
    port: int
    output: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """As a user ends it, with Ctrl+C; at once where that does not help."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT if os.name != "nt" else signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(15)


@contextlib.contextmanager
def window(
    workspace: Workspace, *arguments: str, port: int | None = None, end_runs: bool = True, **environment: str
) -> Iterator[OpenWindow]:
    """The window of a workspace, open from when it has printed its address. Give the port to open one where another was.

    At the end what it started is ended too, unless the test wants to find it alive (`end_runs`).
    """
    port = port or free_port()
    process = subprocess.Popen(
        [sys.executable, "app.py", "--no-browser", "--workspace", str(workspace.root), "--port", str(port), *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    opened = OpenWindow(workspace, process, port)
    threading.Thread(target=lambda: opened.output.extend(process.stdout or ()), daemon=True).start()
    try:
        wait_for(lambda: process.poll() is not None or any(opened.address in line for line in opened.output), 60, "the window's address")
        assert process.poll() is None, f"the window did not open:\n{''.join(opened.output)}"
        yield opened
    except BaseException as error:
        if opened.output[1:]:
            error.add_note(f"The window printed:\n{''.join(opened.output[-60:])}")
        raise
    finally:
        opened.close()
        if end_runs:
            end_all_runs(workspace)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end_all_runs(workspace: Workspace) -> None:
    """End every process that works in this workspace; what waits in its queue first, so that nothing new begins."""
    for waiting in work_queue.waiting(workspace):
        work_queue.remove(waiting, workspace)
    for file in workspace.runs.glob("**/run.yaml"):
        launcher.stop(RunFolder(file.parent), kill=True)


# The browser


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser, for one test or for a module's. Must be closed before another one is opened."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        no_browser("the package playwright is not installed (pip install -r tests/requirements.txt)")
    with sync_playwright() as playwright:
        file = browser_file() or playwright.chromium.executable_path
        if not Path(file).is_file():
            no_browser("no Chromium was found (apt-get install chromium, or its path in NOSNJA_TEST_BROWSER)")
        browser = playwright.chromium.launch(executable_path=file, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def browser_file() -> str | None:
    """$NOSNJA_TEST_BROWSER, or a Chromium of the system; None leaves it to Playwright's own."""
    if given := os.environ.get("NOSNJA_TEST_BROWSER"):
        return given
    return next((found for name in INSTALLED if (found := shutil.which(name))), None)


def no_browser(why: str) -> None:
    sentence = f"This test needs a browser, but {why}."
    if os.environ.get("CI"):
        pytest.fail(sentence)
    pytest.skip(sentence)


@contextlib.contextmanager
def visit(
    browser: Browser,
    opened: OpenWindow,
    *,
    locale: str = "en-US",
    scheme: Literal["light", "dark"] = "light",
    size: tuple[int, int] = (1440, 900),
    forgiven: Sequence[str] = (),
    path: str = "/",
) -> Iterator[Page]:
    """A visitor of their own, with the page loaded. At the end the page must have been silent.

    `forgiven`: parts of troubles that the test brings about itself, such as "ERR_CONNECTION_REFUSED" where it ends the window.
    """
    context = browser.new_context(
        locale=locale, color_scheme=scheme, viewport={"width": size[0], "height": size[1]}, accept_downloads=True, reduced_motion="reduce"
    )
    page = context.new_page()
    page.set_default_timeout(SECONDS * 1000)
    page.add_init_script(f"(() => {{{WATCH_MOVES}}})()")
    troubles: list[str] = []
    listen(page, opened.address, troubles)
    try:
        page.goto(opened.address + path)
        page.wait_for_selector("button[role=tab]")
        yield page
        page.wait_for_timeout(100)
        troubles = [trouble for trouble in troubles if not any(part in trouble for part in forgiven)]
        assert troubles == [], "the page was not silent"
    except BaseException as error:
        if troubles:
            error.add_note("The page said:\n" + "\n".join(troubles[:40]))
        if folder := os.environ.get("NOSNJA_TEST_SHOTS"):
            with contextlib.suppress(Exception):
                page.screenshot(path=Path(folder) / f"{time.time():.0f}.png")
        raise
    finally:
        context.close()


def listen(page: Page, address: str, troubles: list[str]) -> None:
    """Note everything in the console, every error, every request that fails or goes outside."""

    def asked(request: Request) -> None:
        if not request.url.startswith((f"{address}/", *OWN_SCHEMES)):
            troubles.append(f"outside: {request.url}")

    def failed(request: Request) -> None:
        # A reload, or leaving, ends what was under way.
        if "ERR_ABORTED" not in (request.failure or ""):
            troubles.append(f"failed: {request.url} {request.failure}")

    def answered(response: Any) -> None:
        if response.status >= 400:
            troubles.append(f"{response.status}: {response.url}")

    page.on("console", lambda message: troubles.append(f"console {message.type}: {message.text}"))
    page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
    page.on("request", asked)
    page.on("requestfailed", failed)
    page.on("response", answered)


# What a person does


def open_tab(page: Page, name: str) -> None:
    """By the tab's id (start, dataset, trigger, train, monitor, xyz, library), so in every language."""
    page.locator(f"#tab-{name}-button").click()
    page.wait_for_selector(f"#tab-{name}-button[aria-selected=true]")


def moved(page: Page, seconds: float) -> list[str]:
    """What changes its place during so many seconds although nobody touches the page, with its box before and after."""
    page.evaluate("window.moves.length = 0")
    page.wait_for_timeout(1000 * seconds)
    return page.evaluate("window.moves")


def wait_for(found: Callable[[], T], seconds: float = SECONDS, what: str = "", page: Page | None = None) -> T:
    """What `found` gives as soon as it is something; looked for again and again. With a page, the page goes on meanwhile."""
    until = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < until, f"did not happen within {seconds:g} s: {what or found}"
        page.wait_for_timeout(50) if page else time.sleep(0.05)
    return value
