"""Words of the command line in processes of their own: what they say, how they are ended, and what is left of them."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nosnja_gui import progress, toolbox
from nosnja_gui.progress import Progress, Stage
from nosnja_gui.settings import UserError
from nosnja_gui.toolbox import Task, Toolbox, end_tree, start
from nosnja_gui.workspace import Workspace
from tests.browser import wait_for
from tests.test_library import write_lora

PATIENCE = 90.0
"""A fresh process that imports torch, on a busy machine."""


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path / "my workspace").create()


def sleeping(tmp_path: Path, output: Path | None = None, script: str = "import time; time.sleep(600)") -> Task:
    """A task that would go on for ever."""
    printed = tmp_path / "printed"
    printed.mkdir(exist_ok=True)
    with open(printed / "stdout", "wb") as stdout, open(printed / "stderr", "wb") as stderr:
        process = subprocess.Popen([sys.executable, "-c", script], stdout=stdout, stderr=stderr)
    return Task(["x"], process, printed, output)


def test_a_word_says_what_it_found_and_leaves_nothing_behind(workspace):
    lora = write_lora(workspace.models / "costume.safetensors")
    task = start(["lora", "inspect", str(lora)], workspace)
    state = task.wait(PATIENCE)
    assert state.name == "done" and state.lines[0].startswith("costume.safetensors: LoRA for SD 1.x"), state
    assert "  trigger word: nosnjaoutfit" in state.lines
    assert task.state() is state and not task._printed.exists() and task.seconds_since_end() is not None


def test_a_file_is_written_and_a_second_word_is_refused_in_a_sentence(workspace):
    lora, output = write_lora(workspace.models / "costume.safetensors"), workspace.models / "new.safetensors"
    words = ["lora", "rename", str(lora), "--trigger=-odd word", f"--output={output}"]
    state = start(words, workspace, output=output).wait(PATIENCE)
    assert state.name == "done" and state.lines == (
        f"Written: {output}", "  Trigger word: -odd word (was nosnjaoutfit).", "  The weights are the same to the bit.",
    )  # fmt: skip
    assert output.is_file()
    state = start(words, workspace, output=output).wait(PATIENCE)
    assert (state.name, state.problem) == ("failed", f"There is {output} already: choose another name, or add --overwrite.")


def test_a_mistyped_option_is_said_too(workspace):
    state = start(["lora", "inspect", "--colour"], workspace).wait(PATIENCE)
    assert state.name == "failed" and "required" in state.problem and "usage" not in state.problem


def test_the_workspace_and_the_environment_are_handed_over_and_nothing_is_written_down(workspace, monkeypatch, tmp_path):
    write_lora(workspace.models / "costume.safetensors")
    monkeypatch.setenv("NOSNJA_WORKSPACE", str(tmp_path / "another one"))
    seen = {}
    begin = subprocess.Popen
    monkeypatch.setattr(
        toolbox.subprocess, "Popen", lambda command, **options: seen.update(options, command=command) or begin(command, **options)
    )
    task = start(["lora", "inspect", "costume.safetensors"], workspace, {"HF_TOKEN": "hf_secret"})
    assert task.wait(PATIENCE).name == "done", "a name is looked up in the workspace that was given"
    assert seen["env"]["HF_TOKEN"] == "hf_secret" and "hf_secret" not in " ".join(seen["command"])
    assert seen["start_new_session"] == (os.name != "nt")


def test_how_far_a_tool_is(tmp_path):
    task = sleeping(tmp_path)
    assert task.state() == toolbox.State("running")
    (tmp_path / "printed" / "stderr").write_text("a warning of some library\nAdding up ...\nAdding up ... 3/12\n")
    assert task.state() == toolbox.State("running", "Adding up", 0.25)
    task.cancel()


def test_a_cancelled_tool_is_gone_with_its_children_and_what_it_left_half_done(tmp_path):
    script = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); time.sleep(600)"
    output = tmp_path / "models" / "new.safetensors"
    output.parent.mkdir()
    task, other = sleeping(tmp_path, output, script), sleeping(tmp_path / "models")
    family = wait_for(lambda: psutil.Process(task.pid).children(recursive=True))
    left = [output, output.with_name(".new.safetensors.0123456789ab.part"), output.with_name(".new.safetensors.part") / "unet" / "a.bin"]
    strangers = [
        output.with_name(".new.safetensors.hidden"),
        output.with_name("old.safetensors"),
        output.with_name(".old.safetensors.0123456789ab.part"),
    ]
    for file in (*left, *strangers):
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_bytes(b"x")
    task.cancel()
    assert task.state().name == "cancelled"
    psutil.wait_procs(family, timeout=10)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in family)
    assert not any(file.exists() for file in left) and all(file.exists() for file in strangers)
    assert other.state().name == "running", "only its own"
    other.cancel()
    task.cancel()
    assert task.state().name == "cancelled"


def test_what_was_there_before_stays_where_a_tool_is_cancelled(tmp_path):
    output = tmp_path / "old.safetensors"
    output.write_bytes(b"mine")
    task = sleeping(tmp_path, output)
    task.cancel()
    assert output.read_bytes() == b"mine"


def test_a_tool_that_the_system_ended_is_told_from_one_that_complains(tmp_path):
    task = sleeping(tmp_path)
    end_tree(task._process)
    state = task.state()
    assert state.name == "failed" and ("signal 9" in state.problem or os.name == "nt")


def test_a_few_at_once_and_each_file_by_one(workspace, tmp_path, monkeypatch):
    box, output = Toolbox(workspace), workspace.models / "a.safetensors"
    made: list[Task] = []

    def begin(words, workspace, environment=None, output=None):
        (tmp_path / str(len(made))).mkdir()
        made.append(sleeping(tmp_path / str(len(made)), output))
        return made[-1]

    monkeypatch.setattr(toolbox, "start", begin)
    first = box.start(["x"], output=output)
    with pytest.raises(UserError, match="being written right now"):
        box.start(["x"], output=output)
    box.start(["x"])
    with pytest.raises(UserError, match="2 tools are at work"):
        box.start(["x"])
    with pytest.raises(UserError, match="cancel it first"):
        box.forget(first.identifier)
    assert box.tasks() == made and box.task(first.identifier) is first
    first.cancel()
    box.start(["x"], output=output)
    box.forget(first.identifier)
    with pytest.raises(UserError, match="any more"):
        box.task(first.identifier)
    box.close()
    assert [task.state().name for task in made] == ["cancelled"] * 3
    monkeypatch.setattr(toolbox, "KEPT_SECONDS", 0.0)
    time.sleep(0.01)
    assert box.tasks() == []


def test_tools_end_with_their_window(workspace, tmp_path):
    """The process that started them ends in an ordinary way; theirs is gone then."""
    lora = write_lora(workspace.models / "costume.safetensors")
    script = (
        "import sys; from pathlib import Path\n"
        "from nosnja_gui.toolbox import Toolbox; from nosnja_gui.workspace import Workspace\n"
        "print(Toolbox(Workspace(Path(sys.argv[1]))).start(['lora', 'strip', sys.argv[2], '--output', sys.argv[3]]).pid)"
    )
    words = [script, str(workspace.root), str(lora), str(tmp_path / "x.safetensors")]
    answer = subprocess.run([sys.executable, "-c", *words], cwd=toolbox.PROGRAM, capture_output=True, text=True, check=True)
    wait_for(lambda: not psutil.pid_exists(int(answer.stdout)) or psutil.Process(int(answer.stdout)).status() == psutil.STATUS_ZOMBIE)
    assert not (tmp_path / "x.safetensors").exists()


def test_progress_in_a_file_is_counted_for_who_reads_it(monkeypatch):
    monkeypatch.setattr(progress, "COUNTED_SECONDS", -1.0)

    def printed() -> str:
        out = io.StringIO()
        shown = Progress(out)
        shown.stage("Adding up", 4)
        shown.advance(1)
        assert progress.read(out.getvalue()) == Stage("Adding up", 0.25 if shown.counted else None)
        shown.advance(2)
        shown.stage("Reading it back")
        return out.getvalue()

    monkeypatch.delenv(progress.COUNTED, raising=False)
    assert printed() == "Adding up ...\nAdding up: 0.0 s\nReading it back ...\n"
    monkeypatch.setenv(progress.COUNTED, "1")
    text = printed()
    assert "Adding up ... 3/4\n" in text and progress.read(text) == Stage("Reading it back") and progress.read("nothing\n") is None
