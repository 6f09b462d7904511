"""Gradio is imported and served without what it does for editors, and is otherwise the same."""

import subprocess
import sys
from pathlib import Path

import gradio as gr
import pytest
from gradio.routes import App
from starlette.applications import Starlette
from starlette.testclient import TestClient

from nosnja_gui.ui import quick_open

ROOT = Path(__file__).parents[1]
PROGRAM = """
from nosnja_gui.ui import quick_open
quick_open.prepare()
quick_open.prepare()
import sys
import gradio as gr
from gradio import component_meta
assert sum(type(finder).__name__ == "WithoutStubs" for finder in sys.meta_path) == 1
class Mine(gr.HTML):
    pass
with gr.Blocks():
    box = gr.Textbox(label="x")
    box.change(lambda value: value, box, box)
print(component_meta.__spec__.name, box.get_config()["label"])
"""


def test_gradio_writes_no_stubs_and_works(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(file), str(tmp_path)], cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True
    )
    assert done.stdout == "gradio.component_meta x\n", done.stderr
    assert not list(tmp_path.glob("*.pyi"))


def test_without_the_preparation_it_would_write_them(tmp_path):
    """If Gradio stops doing so, the module can go."""
    file = tmp_path / "mine.py"
    file.write_text("import gradio\nclass Mine(gradio.HTML):\n    pass\n")
    subprocess.run([sys.executable, str(file)], cwd=ROOT, check=True)
    assert list(tmp_path.glob("*.pyi"))


def test_a_page_is_built_without_a_server_and_launched_with_one():
    made = App.create_app
    with quick_open.without_server():
        with gr.Blocks() as page:
            gr.Textbox(label="x")
        assert page.app is None
    assert App.create_app is made
    page.launch(prevent_thread_lock=True, quiet=True, share=False, inbrowser=False, server_port=None, ssr_mode=False)
    try:
        assert [part["props"]["label"] for part in page.config["components"] if part["type"] == "textbox"] == ["x"]
    finally:
        page.close(verbose=False)


def test_a_failure_while_building_leaves_gradio_as_it_was():
    made = App.create_app
    with pytest.raises(ZeroDivisionError), quick_open.without_server():
        raise ZeroDivisionError
    assert App.create_app is made


def test_the_page_s_files_are_gradio_s_and_are_kept_by_the_browser():
    assets = quick_open.Assets()
    client = TestClient(Starlette(routes=[assets.route()]))
    for kind in assets.KINDS:
        name = next(name for name in sorted(assets.files) if name.endswith(kind))
        answer = client.get(f"/assets/{name}")
        assert answer.content == (assets.folder / name).read_bytes()
        assert answer.headers["content-type"].startswith(assets.KINDS[kind])
        assert "immutable" in answer.headers["cache-control"]
    assert {file.suffix for file in assets.folder.iterdir()} <= assets.KINDS.keys(), "a kind of file that would be refused"
    for name in ("none.js", "..%2Findex.html", "%2Fetc%2Fpasswd"):
        assert client.get(f"/assets/{name}").status_code == 404
