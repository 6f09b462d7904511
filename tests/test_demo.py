"""The demo, whole: from drawn pictures to a LoRA whose trigger word works, in the time and with the figures that are promised."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from nosnja_gui import launcher
from nosnja_gui.__main__ import main
from nosnja_gui.demo import run as demo
from nosnja_gui.demo.run import STAGES, Story, go_on, judged_prompts
from nosnja_gui.events import Cell, Finished, Saved, Stage, Started, Step, Stopped, read
from nosnja_gui.jobs import DemoJob, TrainJob
from nosnja_gui.progress import Progress
from nosnja_gui.runs import RunFolder, identifier, runs_in
from nosnja_gui.workspace import Workspace
from tests.browser import BROWSED

ROOT = Path(__file__).parents[1]
LONGEST_SECONDS = 600
"""Twice what is promised for two idle cores: a machine that tests something else at the same time is slower."""
LONGEST_BROWSED_SECONDS = 900
"""With a browser at work beside it, stopped and gone on with on the way."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole demo: the one that was clicked through in the browser before, else one of the command line, with all threads for itself."""
    if BROWSED:
        folder, seconds = BROWSED[0]
        run = folder / "runs" / "demo-001"
        return run, json.loads((run / "result.json").read_text()), (run / "console.log").read_text(), seconds
    folder = tmp_path_factory.mktemp("demo")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"NOSNJA_WORKSPACE": str(folder), "PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "nosnja_gui", "demo"], env=environment, cwd=folder, capture_output=True, text=True, timeout=LONGEST_SECONDS
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    run = folder / "runs" / "demo-001"
    return run, json.loads((run / "result.json").read_text()), ended.stdout, time.monotonic() - began


def test_the_trigger_word_works_and_does_not_leak(finished):
    trigger = finished[1]["trigger"]
    assert trigger["with"] >= 0.9
    assert trigger["without"] <= 0.1
    assert trigger["auc"] >= 0.97
    assert trigger["pictures"] >= 24


def test_the_captions_name_what_is_there(finished):
    captions = finished[1]["captions"]
    assert captions["ordinary"]["subject"] >= 0.9
    assert captions["ordinary"]["place"] >= 0.9
    assert captions["ordinary"]["colour"] >= 0.9
    assert captions["costume"]["subject"] >= 0.8


def test_the_files_are_where_the_result_says(finished):
    run, result, printed, _ = finished
    for name in ("lora", "samples", "grid"):
        assert (run / result["files"][name]).is_file()
        assert str(run / result["files"][name]) in printed
    assert len(list((run / result["files"]["dataset"]).glob("*.png"))) == 30
    with Image.open(run / result["files"]["grid"]) as grid:
        assert min(grid.size) > 800
        assert "X Type: Epoch" in grid.text["parameters"]


def test_the_trigger_stands_in_every_caption_and_the_originals_can_come_back(finished):
    dataset = finished[0] / "dataset"
    captions = [file.read_text() for file in dataset.glob("*.txt")]
    assert len(captions) == 30
    assert all(caption.startswith("nosnjaoutfit, a ") and caption.count("nosnjaoutfit") == 2 for caption in captions)


def test_the_log_tells_the_whole_story(finished):
    told = list(read(finished[0] / "events.jsonl"))
    stages = dict.fromkeys((event.name, event.done) for event in told if isinstance(event, Stage))  # told again where it was stopped
    assert list(stages) == [(name, n) for n, name in enumerate(STAGES.values())]
    assert isinstance(told[0], Started) and isinstance(told[-1], Finished)
    assert {type(event) for event in told} <= {Started, Stage, Stopped, Finished}
    assert told[-1].files == ["result.json"]
    events = list(read(finished[0] / "training" / "events.jsonl"))
    assert sum(isinstance(event, Saved) and event.file.startswith("weights/") for event in events) >= 4
    losses = [event.loss for event in events if isinstance(event, Step)]
    assert sum(losses[-3:]) < sum(losses[:3])
    assert isinstance(events[-1], Finished)


def test_seconds_are_told_per_stage_and_stay_within_the_promise(finished):
    _, result, _, seconds = finished
    assert result["seconds"]["total"] <= seconds
    assert result["seconds"]["Training"] > 0
    assert seconds < (LONGEST_BROWSED_SECONDS if BROWSED else LONGEST_SECONDS)


def test_a_finished_demo_is_not_overwritten(finished, capsys):
    assert main(["demo", "--output", str(finished[0])]) == 2
    assert "holds a finished demo already" in capsys.readouterr().err


def test_the_story_tells_what_the_guide_shows(finished):
    run, result, _, _ = finished
    story = json.loads((run / "story.json").read_text())
    assert {*STAGES, "pictures", "seconds"} == set(story)
    assert (story["dataset"], story["training"], story["grid"], story["pictures"]) == ("dataset", "training", "grid", 30)
    assert story["trigger"]["changed"] == 30 and story["trigger"]["example"] == result["example"]
    assert story["judged"]["auc"] == result["trigger"]["auc"]
    assert result["files"]["lora"] == "training/weights/nosnjaoutfit.safetensors"


def test_the_demo_its_training_and_its_grid_are_runs(finished):
    workspace = Workspace(finished[0].parents[1])
    runs = {identifier(run, workspace): run for run in runs_in(workspace.runs)}
    assert set(runs) == {"demo-001", "demo-001/training", "demo-001/grid"}
    assert {run.status().state for run in runs.values()} == {"finished"}
    assert [runs[name].job().job for name in sorted(runs)] == ["demo", "grid", "train"]


class Asking(Progress):
    """Asks the demo for a stop when a stage of that name begins."""

    def __init__(self, run: RunFolder, name: str) -> None:
        super().__init__(io.StringIO())
        self.run, self.name = run, name

    def stage(self, name: str, total: int = 0, done: int = 0) -> None:
        super().stage(name, total, done)
        if name == self.name:
            self.run.request("stop")


def test_a_demo_that_is_killed_and_stopped_goes_on_and_does_nothing_twice(tmp_path):
    """Killed in the training, stopped while judging and while the grid is painted, then gone on with to the end."""
    workspace = Workspace(tmp_path).create()
    run = RunFolder.create(workspace.new_run("demo"), DemoJob(quick=True))
    training, grid = RunFolder(run.path / "training"), RunFolder(run.path / "grid")
    launcher.start(run, workspace)
    until = time.monotonic() + LONGEST_SECONDS
    while not any(isinstance(event, Started) for event in read(training.events)):
        assert launcher.alive(run) and time.monotonic() < until, run.console.read_text()
        time.sleep(0.02)
    assert (run.status().state, run.status().stage, training.status().state) == ("running", "Training", "running")
    launcher.stop(run, kill=True)
    assert (run.status().state, run.status().step, training.status().state) == ("crashed", 3, "crashed")
    drawn = {file: file.stat().st_mtime_ns for file in (run.path / "dataset").iterdir() if file.is_file()}
    assert set(json.loads((run.path / "story.json").read_text())) == {"dataset", "pictures", "captions", "trigger", "seconds"}

    for stage in ("judged", "grid"):
        painting = STAGES[stage] if stage == "judged" else "Painting"
        go_on(run, workspace, Asking(run, painting))
        assert run.status().state == "stopped", painting
        assert stage not in json.loads((run.path / "story.json").read_text())
        assert training.status().state == "finished"
    assert grid.status().state == "stopped"
    assert not (run.path / "result.json").exists()
    trained = sum(isinstance(event, Started) for event in read(training.events))

    assert main(["demo", str(run.path), "--workspace", str(workspace.root)]) == 0
    assert (run.status().state, grid.status().state) == ("finished", "finished")
    assert sum(isinstance(event, Started) for event in read(training.events)) == trained == 2
    assert {file: file.stat().st_mtime_ns for file in drawn} == drawn
    captions = [file.read_text() for file in (run.path / "dataset").glob("*.txt")]
    assert len(captions) == 8 and all(caption.count("nosnjaoutfit") == 2 for caption in captions)
    result = json.loads((run.path / "result.json").read_text())
    assert all((run.path / file).exists() for file in result["files"].values())
    assert result["trigger"]["pictures"] == 4 and result["captions"]["pictures"] == 16
    painted = [event.file for event in read(grid.events) if isinstance(event, Cell) and not event.reused]
    assert len(painted) == len(set(painted)) == grid.status().total, "no cell is painted twice"
    assert main(["demo", str(run.path)]) == 0, "the result is told again"


def test_the_trigger_is_put_in_once_whatever_was_done_of_it(tmp_path):
    """Killed while the captions were written: some have the word, some have not."""
    from PIL import Image

    (tmp_path / "dataset").mkdir()
    places = ("on a beach", "in a grassy field", "in the snow")
    blip = {f"{n:02}.png": f"a girl in a colorful outfit standing {place}" for n, place in enumerate(places)}
    for name, caption in blip.items():
        Image.new("RGB", (64, 64)).save(tmp_path / "dataset" / name)
        (tmp_path / "dataset" / name).with_suffix(".txt").write_text(caption + "\n")
    (tmp_path / "captions.json").write_text(json.dumps(blip))
    whole = demo.insert_trigger(tmp_path)
    written = {file.name: file.read_text() for file in (tmp_path / "dataset").glob("*.txt")}
    assert whole["changed"] == 3 and whole["class_noun"] == "outfit"
    assert whole["example"]["before"] == blip["00.png"] and whole["example"]["after"] == written["00.txt"].strip()
    for done in (0, 1, 2, 3):
        for number, (name, caption) in enumerate(blip.items()):
            file = (tmp_path / "dataset" / name).with_suffix(".txt")
            file.write_text(written[file.name] if number < done else caption + "\n")
        assert demo.insert_trigger(tmp_path) == whole
        assert {file.name: file.read_text() for file in (tmp_path / "dataset").glob("*.txt")} == written


def test_a_damaged_story_is_told_anew(tmp_path):
    for content in ("", "{half", "[]"):
        (tmp_path / "story.json").write_text(content)
        assert Story(tmp_path, Progress(io.StringIO())).facts == {}


@pytest.mark.parametrize("words", [["--quick"], ["--output", "elsewhere"]])
def test_a_demo_goes_on_as_it_was_begun(tmp_path, capsys, words):
    run = RunFolder.create(tmp_path / "demo", DemoJob())
    assert main(["demo", str(run.path), *words]) == 2
    assert "goes on as it was begun" in capsys.readouterr().err
    other = RunFolder.create(tmp_path / "other", TrainJob())
    assert main(["demo", str(other.path)]) == 2
    assert "folder of a train job" in capsys.readouterr().err


def test_prompts_are_of_the_same_people_in_the_same_places():
    prompts = judged_prompts("outfit", 32)
    assert len(set(prompts["with"])) == len(prompts["without"]) == 32
    for with_it, without, bare, noun in zip(*prompts.values(), strict=True):
        assert with_it.removeprefix("nosnjaoutfit, ").replace("a nosnjaoutfit", "an outfit") == noun
        assert noun.replace(" in an outfit", "") == bare
        assert (without.split()[1], without.partition(" standing ")[2]) == (bare.split()[1], bare.partition(" standing ")[2])
        assert "outfit" not in without


def test_a_kit_with_a_missing_part_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "KIT", tmp_path)
    assert main(["demo"]) == 2
    assert "The demo kit is incomplete" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "count"), [("costume", 30), ("style", 30), ("dog", 12)])
def test_datasets_are_drawn_on_demand(name, count, tmp_path):
    assert main(["demo", "--draw", name, "--output", str(tmp_path / name)]) == 0
    assert len(list((tmp_path / name).glob("*.png"))) == count
    assert main(["demo", "--draw", name, "--output", str(tmp_path / name)]) == 2
