"""The demo, whole: from drawn pictures to a LoRA whose trigger word works, in the time and with the figures that are promised."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from nosnja_gui.__main__ import main
from nosnja_gui.demo import run as demo
from nosnja_gui.demo.run import judged_prompts
from nosnja_gui.events import Finished, Saved, Step, read

ROOT = Path(__file__).parents[1]
LONGEST_SECONDS = 600
"""Twice what is promised for two idle cores: a machine that tests something else at the same time is slower."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run of the demo as a user starts it, with the processor's threads for itself."""
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
    events = list(read(finished[0] / "events.jsonl"))
    assert sum(isinstance(event, Saved) and event.file.startswith("weights/") for event in events) >= 4
    losses = [event.loss for event in events if isinstance(event, Step)]
    assert sum(losses[-3:]) < sum(losses[:3])
    assert isinstance(events[-1], Finished)


def test_seconds_are_told_per_stage_and_stay_within_the_promise(finished):
    _, result, _, seconds = finished
    assert result["seconds"]["total"] <= seconds
    assert result["seconds"]["Training"] > 0
    assert seconds < LONGEST_SECONDS


def test_a_finished_demo_is_not_overwritten(finished, capsys):
    assert main(["demo", "--output", str(finished[0])]) == 2
    assert "holds a finished demo already" in capsys.readouterr().err


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
