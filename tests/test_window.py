"""The window, started as a user does, in a workspace with a result; looked at by HTTP."""

import http.client
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from nosnja_gui import events
from nosnja_gui.jobs import TrainJob
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from nosnja_gui.ui import app
from nosnja_gui.ui.guard import LOCAL_NAMES, host_is_ours, origin_is_ours
from nosnja_gui.workspace import Workspace

ROOT = Path(__file__).parents[1]
RESULT = {
    "seconds": {"captions": 3.1, "training": 61.0},
    "captions": {"subject": 0.93, "colour": 0.9, "place": 0.97, "pictures": 30},
    "trigger": {"word": "<b>nosnjaoutfit", "with": 0.96, "without": 0.04, "auc": 0.99, "pictures": 24},
    "files": {"lora": "weights/x.safetensors", "samples": "samples.png", "grid": "../../secret.png"},
    "device": "cpu",
}


def workspace_with_result(root: Path) -> Workspace:
    workspace = Workspace(root / "my workspace").create()
    demo = workspace.runs / "demo-001"
    demo.mkdir()
    (demo / "result.json").write_text(json.dumps(RESULT))
    Image.new("RGB", (8, 8), "red").save(demo / "samples.png")
    Image.new("RGB", (8, 8), "red").save(workspace.root / "secret.png")
    log = RunFolder.create(workspace.runs / "<i>dress", TrainJob()).log()
    log.append(events.Started(job="train", total=20))
    log.append(events.Step(step=10, epoch=1, loss=0.25, learning_rates={}, seconds_per_step=0.1))
    log.append(events.Finished(files=[], seconds=1))
    return workspace


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
        self.workspace = workspace_with_result(root)
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

    def refresh(self, tab: int) -> str:
        """What a tab is told when the page loads, as the browser asks for it."""
        config = json.loads(self.ask("/config")[1])
        listeners = [listener for listener in config["dependencies"] if any(target[1] == "load" for target in listener["targets"])]
        body = {"data": [""] + [None] * (len(listeners[tab]["inputs"]) - 1), "fn_index": listeners[tab]["id"], "session_hash": f"test{tab}"}
        headers = {"Content_Type": "application/json", "Origin": f"http://127.0.0.1:{self.port}"}
        assert self.ask("/gradio_api/queue/join", "POST", json.dumps(body), **headers)[0] == 200
        return self.ask(f"/gradio_api/queue/data?session_hash=test{tab}")[1]


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


def test_the_result_is_shown_and_its_text_is_text(window):
    shown = window.refresh(tab=0)
    assert "96\\u00a0%" in shown or "96\u00a0%" in shown
    assert "&lt;b&gt;nosnjaoutfit" in shown and "<b>nosnjaoutfit</" not in shown
    picture = re.search(r'"path": ?"([^"]+\.png)"', shown)
    assert picture and window.ask(f"/gradio_api/file={picture[1]}".replace(" ", "%20"))[0] == 200


def test_only_pictures_of_runs_are_served(window):
    assert "secret" not in window.refresh(tab=0)
    for file in (window.workspace.root / "secret.png", window.workspace.runs / "demo-001" / "result.json", Path("/etc/passwd")):
        assert window.ask(f"/gradio_api/file={file}".replace(" ", "%20"))[0] in (403, 404)


def test_runs_are_listed_with_their_curve(window):
    shown = window.refresh(tab=1)
    assert "&lt;i&gt;dress" in shown and "finished" in shown and "10 of 20" in shown and "0.25" in shown


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


def test_other_machines_need_the_password():
    settings = app.launch_settings(7860, password="secret")
    assert settings["auth"]("nosnja", "secret") and not settings["auth"]("nosnja", "wrong") and not settings["auth"]("other", "secret")
    assert settings["server_name"] == "0.0.0.0" and settings["share"] is False
    assert app.launch_settings(7860, password="")["server_name"] == "127.0.0.1"


def test_which_hosts_are_ours():
    assert host_is_ours("localhost:7860", LOCAL_NAMES, any_address=False) and host_is_ours("[::1]:1", LOCAL_NAMES, any_address=False)
    assert not host_is_ours("192.168.1.5:7860", LOCAL_NAMES, any_address=False)
    assert host_is_ours("192.168.1.5:7860", LOCAL_NAMES, any_address=True)
    assert not host_is_ours("evil.example", LOCAL_NAMES, any_address=True) and not host_is_ours("[", LOCAL_NAMES, any_address=True)


def test_which_origins_are_ours():
    assert origin_is_ours({"host": "a:1", "origin": "http://a:1"}) and origin_is_ours({"host": "a:1"})
    assert not origin_is_ours({"host": "a:1", "sec-fetch-site": "cross-site"})
