"""The window's server and command line. Loads no torch, so that it opens at once."""

from __future__ import annotations

import argparse
import gc
import json
import os
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nosnja_gui import work_queue
from nosnja_gui.files import write_atomic
from nosnja_gui.processes import is_alive, self_mark
from nosnja_gui.settings import UserError
from nosnja_gui.ui import quick_open
from nosnja_gui.workspace import Workspace

if TYPE_CHECKING:
    from nosnja_gui.ui.pictures import Pictures

PORTS = range(7860, 7900)
USER = "nosnja"
LARGEST_UPLOAD = "4gb"
"""A zip of a whole dataset."""


LARGE_SCREENS = "<style>@media (min-width: 2800px) { .gradio-container { zoom: 1.4; } }</style>"
"""On a screen of 4K that the system doesn't scale, everything would be small. In the head, for Gradio rewrites rules of style files."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Open the window and serve it until Ctrl+C. Exit code 2 with one sentence where that can't be."""
    options = parser().parse_args(arguments)
    workspace = Workspace(options.workspace.expanduser().absolute()) if options.workspace else Workspace.default()
    try:
        workspace.create()
        if address := running_window(workspace):
            print(f"The window is open already: {address}")
            open_browser(address, options.no_browser)
            return 0
        serve(workspace, choose_port(options.port, "0.0.0.0" if options.listen else "127.0.0.1"), options.listen, options.no_browser)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="app.py", description="Opens Nošnja's window in the browser.")
    made.add_argument("--port", type=int, help=f"port to serve at; otherwise the first free one from {PORTS.start}")
    made.add_argument("--listen", action="store_true", help="let other machines in, with a password that is made and printed")
    made.add_argument("--workspace", type=Path, help="folder of datasets, models and runs; otherwise `workspace` beside the program")
    made.add_argument("--no-browser", action="store_true", help="only print the address")
    return made


def choose_port(wanted: int | None, address: str) -> int:
    """The wanted port, or the first free one. Raises UserError where it is taken or no port at all."""
    if wanted is not None and not 1 <= wanted <= 65535:
        raise UserError(f"--port must be between 1 and 65535 (got {wanted}).")
    for port in (wanted,) if wanted else PORTS:
        with socket.socket() as probe:
            # As the server will: on Linux a port that was served a moment ago counts as taken otherwise.
            if os.name != "nt":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    taken = f"Port {wanted} is in use or not allowed" if wanted else f"All ports from {PORTS.start} to {PORTS.stop - 1} are in use"
    raise UserError(f"{taken}: choose another one with --port.")


def record(workspace: Workspace) -> Path:
    """Where a window writes down that it serves this workspace, and at which address."""
    return workspace.cache / "window.json"


def running_window(workspace: Workspace) -> str | None:
    """Address of the window that serves this workspace already. What a dead one left behind doesn't count."""
    try:
        values = json.loads(record(workspace).read_text(encoding="utf-8"))
        return str(values["address"]) if is_alive(values["pid"], values["start"]) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def open_browser(address: str, unwanted: bool) -> None:
    # Without a screen Linux would open a text browser, in the terminal that shows our output.
    no_screen = sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if not unwanted and not no_screen:
        webbrowser.open(address)


def prepare_environment(workspace: Workspace) -> None:
    """Before gradio is imported: it must not call outside, nor be opened to others by variables of the environment."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1", GRADIO_TEMP_DIR=str(workspace.cache / "uploads"))
    # gradio's first request goes to this very machine: not by a proxy, which could not reach it.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "localhost,127.0.0.1"]))


def serve(workspace: Workspace, port: int, listen: bool, no_browser: bool) -> None:
    prepare_environment(workspace)
    quick_open.prepare()
    # All that is made while opening stays: looking for garbage among it takes a tenth of the time.
    gc.disable()
    from nosnja_gui.ui.page import build
    from nosnja_gui.ui.pictures import Pictures

    pictures = Pictures(workspace.cache / "thumbnails")
    with quick_open.without_server():
        page = build(workspace, pictures, listens=listen)
    password = secrets.token_urlsafe(24) if listen else ""
    page.launch(**launch_settings(port, password, pictures))
    gc.freeze()
    gc.enable()
    address = f"http://127.0.0.1:{port}"
    write_atomic(record(workspace), json.dumps({**self_mark(), "address": address}))
    work_queue.wake(workspace)  # what was waiting when the machine was switched off
    print(f"Nošnja's window: {address}  (workspace {workspace.root}; Ctrl+C ends it)", flush=True)
    if listen:
        print(f"Other machines: http://{socket.gethostname()}:{port}, user {USER}, password {password}", flush=True)
    try:
        open_browser(address, no_browser)
        threading.Event().wait()
    except KeyboardInterrupt:
        print("The window is closed; what is being trained goes on.")
    finally:
        record(workspace).unlink(missing_ok=True)
        page.close(verbose=False)


def launch_settings(port: int, password: str, pictures: Pictures) -> dict[str, Any]:
    """Everything said outright, nothing left to gradio's defaults that reach outside. With a password: open to other machines."""
    from starlette.middleware import Middleware

    from nosnja_gui.ui import texts, widget
    from nosnja_gui.ui.guard import LOCAL_NAMES, Guard
    from nosnja_gui.ui.theme import styles, theme

    own = socket.gethostname().lower()
    names = LOCAL_NAMES | {own, f"{own}.local"} if password else LOCAL_NAMES
    return {
        "server_name": "0.0.0.0" if password else "127.0.0.1",
        "server_port": port,
        "auth": (lambda user, given: user == USER and secrets.compare_digest(given.encode(), password.encode())) if password else None,
        "app_kwargs": {
            "middleware": [Middleware(Guard, names=names, any_address=bool(password)), Middleware(texts.LanguageOfRequest)],
            "routes": [pictures.route(), quick_open.Assets().route()],
            "openapi_url": None,
            "docs_url": None,
            "redoc_url": None,
        },
        "max_file_size": LARGEST_UPLOAD,
        "allowed_paths": [],
        "blocked_paths": [],
        "share": False,
        "inbrowser": False,
        "inline": False,
        "ssl_verify": False,  # of gradio's first request, which goes to this very machine, by http
        "quiet": True,
        "prevent_thread_lock": True,
        "strict_cors": True,
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": False,
        "enable_monitoring": False,
        "run_history": False,
        "footer_links": [],
        "theme": theme(),
        "css_paths": styles(),
        "head": widget.head() + LARGE_SCREENS,
        "i18n": texts.Translations(),
        # Leaves out gradio's look at its own page, which gives up after three seconds: too few while a training keeps the machine busy.
        "_frontend": False,
    }
