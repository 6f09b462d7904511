"""Gradio is imported without the stubs that it writes for editors, and is otherwise the same."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """
from nosnja_gui.ui import quick_import
quick_import.prepare()
quick_import.prepare()
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
