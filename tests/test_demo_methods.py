"""Every way in which the demo can learn the costume: it learns on the demo kit, and its file is painted with by the demo's judge."""

import json
from dataclasses import replace

import pytest
import torch

from nosnja_gui import events
from nosnja_gui.demo import run as demos
from nosnja_gui.demo import world
from nosnja_gui.engine.train import train
from nosnja_gui.jobs import DEMO_METHODS, DemoJob
from nosnja_gui.presets import train_job
from nosnja_gui.progress import Progress
from nosnja_gui.runs import RunFolder
from nosnja_gui.workspace import Workspace
from tests.small_training import said

SIZE = replace(demos.QUICK, judged=1)
SHORT = {
    "training.max_steps": 16,
    "training.batch_size": 4,
    "preview.every_epochs": 0,
    "preview.before_training": False,
    "saving.every_epochs": 0,
    "dataset.validation_share": 0.25,
    "validation.draws": 8,
    "schedule.name": "constant",
    "schedule.warmup_share": 0,
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    torch.set_num_threads(1)
    return Workspace(tmp_path_factory.mktemp("ways") / "workspace").create()


def test_there_is_a_way_for_each_method_that_the_demo_offers():
    assert tuple(demos.WAYS) == DEMO_METHODS
    assert all(DemoJob(method=method).method == method for method in DEMO_METHODS)


@pytest.mark.parametrize("method", DEMO_METHODS)
def test_it_learns_the_costume_and_is_judged(method, workspace):
    folder = workspace.runs / method
    drawn = world.costume_pictures(8)
    (folder / "dataset").mkdir(parents=True)
    for number, (scene, picture) in enumerate(drawn):
        picture.save(folder / "dataset" / f"{number}.png")
        place = world.PLACE_WORDS[scene.place]
        caption = f"{demos.TRIGGER}, a {scene.subject} in a {demos.TRIGGER} standing {place}"
        (folder / "dataset" / f"{number}.txt").write_text(caption)
    job = train_job("demo", {**demos.demo_changes(folder, SIZE, method), **SHORT})
    run = RunFolder.create(folder / "training", job)
    train(job, run, workspace)
    before, after = (said(run, events.Validated)[place].loss for place in (0, -1))
    assert after < before, "the loss on held-out pictures falls"
    read_back = said(run, events.ReadBack)[-1]
    assert read_back.ours < 0.02
    judged = demos.judge_trigger(folder, "outfit", SIZE, Progress(), lambda: False)
    assert judged["pictures"] == 1 and 0 <= judged["auc"] <= 1
    said_of = json.loads(run.run_yaml.with_name("captions.json").read_text())
    assert said_of["trigger"] == demos.TRIGGER
