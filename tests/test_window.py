"""The window's server, started as a user does and asked by HTTP; what the tabs show is in test_ui_*.py."""

import http.client
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from nosnja_gui.settings import UserError
from nosnja_gui.ui import app
from nosnja_gui.ui.guard import LOCAL_NAMES, host_is_ours, origin_is_ours
from nosnja_gui.ui.pictures import Pictures
from nosnja_gui.workspace import Workspace

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(workspace: Workspace, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """The process and its first line, which it prints when the page can be opened."""
    opening = {"GRADIO_SHARE": "True", "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_ALLOWED_PATHS": "/"}
    environment = {**os.environ, **opening, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "app.py", "--no-browser", "--workspace", str(workspace.root), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: [lines.put(line) for line in process.stdout or ()], daemon=True).start()
    try:
        return process, lines.get(timeout=60)
    except queue.Empty:
        process.kill()
        raise


class Window:
    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root / "my workspace").create()
        self.port = free_port()
        self.process, self.line = start(self.workspace, "--port", str(self.port))

    def ask(self, path: str, method: str = "GET", body: str | None = None, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        finally:
            connection.close()


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    opened = Window(tmp_path_factory.mktemp("window"))
    yield opened
    try:
        opened.process.send_signal(signal.SIGINT)
        assert opened.process.wait(20) == 0
    finally:
        opened.process.kill()
    assert not app.record(opened.workspace).exists()


def test_the_page_answers_on_this_machine_only(window):
    assert f"http://127.0.0.1:{window.port} " in window.line
    status, page = window.ask("/")
    assert status == 200 and "Nošnja" in page
    assert json.loads(window.ask("/config")[1]).get("analytics_enabled") is False
    assert window.ask("/openapi.json")[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", ""])
def test_a_foreign_host_is_refused(window, host):
    assert window.ask("/", Host=host)[0] == 400


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/queue/join"])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_a_foreign_origin_is_refused(window, origin, path):
    assert window.ask(path, "POST", "x", Origin=origin)[0] == 403


def test_files_of_the_workspace_are_not_served(window):
    secret = window.workspace.root / "secret.png"
    Image.new("RGB", (8, 8), "red").save(secret)
    unsigned = ("/nosnja/picture/0/0/L2V0Yy9wYXNzd2Q=", "/nosnja/picture/../../etc/passwd")
    for path in (f"/gradio_api/file={secret}", "/gradio_api/file=/etc/passwd", *unsigned):
        assert window.ask(path.replace(" ", "%20"))[0] in (400, 403, 404), path


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc")
def test_the_window_loads_no_torch(window):
    assert "libtorch" not in Path(f"/proc/{window.process.pid}/maps").read_text()


def test_a_second_start_names_the_first(window):
    command = [sys.executable, "app.py", "--no-browser", "--workspace", str(window.workspace.root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and f"http://127.0.0.1:{window.port}" in done.stdout


def test_a_port_in_use_is_one_sentence(window, tmp_path, capsys):
    assert app.main(["--port", str(window.port), "--workspace", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"Port {window.port} is in use or not allowed: choose another one with --port.\n"
    with pytest.raises(UserError, match="between 1 and 65535"):
        app.choose_port(70000, "127.0.0.1")


def test_a_dead_window_does_not_count(tmp_path):
    workspace = Workspace(tmp_path).create()
    app.record(workspace).write_text(json.dumps({"pid": os.getpid(), "start": "an earlier one", "address": "http://x"}))
    assert app.running_window(workspace) is None
    app.record(workspace).write_text("{half")
    assert app.running_window(workspace) is None


def test_other_machines_need_the_password(tmp_path):
    settings = app.launch_settings(7860, "secret", Pictures(tmp_path))
    assert settings["auth"]("nosnja", "secret") and not settings["auth"]("nosnja", "wrong") and not settings["auth"]("other", "secret")
    assert settings["server_name"] == "0.0.0.0" and settings["share"] is False
    assert app.launch_settings(7860, "", Pictures(tmp_path))["server_name"] == "127.0.0.1"


def test_which_hosts_are_ours():
    assert host_is_ours("localhost:7860", LOCAL_NAMES, any_address=False) and host_is_ours("[::1]:1", LOCAL_NAMES, any_address=False)
    assert not host_is_ours("192.168.1.5:7860", LOCAL_NAMES, any_address=False)
    assert host_is_ours("192.168.1.5:7860", LOCAL_NAMES, any_address=True)
    assert not host_is_ours("evil.example", LOCAL_NAMES, any_address=True) and not host_is_ours("[", LOCAL_NAMES, any_address=True)


def test_which_origins_are_ours():
    assert origin_is_ours({"host": "a:1", "origin": "http://a:1"}) and origin_is_ours({"host": "a:1"})
    assert not origin_is_ours({"host": "a:1", "sec-fetch-site": "cross-site"})
