"""What is shown before a training is what the training does."""

import os
import time
from collections import Counter
from pathlib import Path

import pytest
from small_training import BASE, draw_pictures, job, make_workspace, said, trained

from nosnja_gui import dataset as datasets
from nosnja_gui import events, plan
from nosnja_gui.dataset import Dataset, Picture
from nosnja_gui.engine.material import prepare
from nosnja_gui.jobs import TrainJob
from nosnja_gui.plan import plan_training
from nosnja_gui.schedules import warmup_updates
from nosnja_gui.settings import UserError


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("plan"))


@pytest.fixture(autouse=True)
def forgotten():
    """Tests put other datasets behind the same path."""
    plan._recent.clear()


CHANGES = [
    {},
    {"dataset__repeats": 7, "training__batch_size": 4, "training__gradient_accumulation": 3},
    {"dataset__buckets": False, "training__epochs": 5, "training__max_steps": 7},
    {"dataset__resolution": 96, "dataset__bucket_step": 8, "schedule__warmup_share": 0.3},
    {"dataset__validation_share": 0.4, "training__seed": 3, "dataset__flip": True},
    {"dataset__resolution": 128, "dataset__validation_share": 0.1, "training__max_steps": 1000},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_the_plan_is_what_the_training_begins_with(workspace, changes):
    wanted = job(**changes)
    told, material = plan_training(wanted, workspace), prepare(wanted, workspace)
    assert not told.problems and not told.approximate
    assert (told.total, told.steps_per_epoch) == (material.total, material.plan.steps_per_epoch)
    assert told.exposures_per_epoch == material.plan.exposures_per_epoch and told.resolution == material.resolution
    assert (told.pictures, told.held_out) == (len(material.training), len(material.held_out))
    assert {(width, height): count for width, height, count in told.buckets} == Counter(material.plan.shapes)
    assert told.notes == list(material.warnings) and told.warmup_steps == warmup_updates(material.total, wanted.schedule.warmup_share)
    steps = [step for epoch in range(told.epochs) for step in material.plan.epoch(epoch)]
    shown = sum(len(batch) for step in steps[: told.total] for batch in step)
    assert abs(told.exposures - shown) <= wanted.training.batch_size * wanted.training.gradient_accumulation
    assert told.passes_per_picture == pytest.approx(told.exposures / told.pictures)
    if told.total % told.steps_per_epoch == 0:
        assert told.exposures == shown


@pytest.mark.parametrize(
    "changes",
    [
        {"saving__every_epochs": 1, "saving__every_steps": 5, "preview__every_epochs": 1, "preview__every_steps": 4},
        {"training__max_steps": 7, "saving__every_steps": 3, "preview__every_steps": 2, "preview__before_training": True},
        {"training__epochs": 3, "saving__every_epochs": 2, "preview__every_epochs": 2, "dataset__validation_share": 0.3},
        {"training__max_steps": 5, "preview__before_training": True},
    ],
)
def test_saves_previews_and_validations_are_those_that_come(workspace, changes, request):
    changes = {"preview__prompts": ["a girl", "a coat"], "preview__steps": 1, "validation__every_epochs": 1, **changes}
    told = plan_training(job(**changes), workspace)
    _, run = trained(workspace, request.node.callspec.id, **changes)
    assert told.total == max(event.step for event in said(run, events.Step)) and told.epochs == said(run, events.Started)[0].epochs
    assert told.saves == sum(event.file.startswith("weights/") for event in said(run, events.Saved))
    assert told.samples == sum(len(event.files) for event in said(run, events.Sampled))
    assert told.validations == len(said(run, events.Validated))


@pytest.mark.parametrize("total", range(1, 40))
@pytest.mark.parametrize(("steps", "epochs"), [(0, 0), (0, 1), (0, 3), (4, 0), (4, 2), (6, 1), (100, 100)])
def test_counting_agrees_with_going_through_all_steps(total, steps, epochs):
    per_epoch = 6
    hits = sum(
        plan.due(step, steps, step // per_epoch if step % per_epoch == 0 else None, epochs) or (step == total and bool(steps or epochs))
        for step in range(1, total + 1)
    )
    assert plan._count_due(steps, epochs, total, per_epoch) == hits


def test_a_training_of_billions_of_steps_is_planned_at_once(workspace):
    wanted = job(dataset__repeats=10_000, training__epochs=100_000, training__batch_size=1, preview__every_steps=7, saving__every_steps=3)
    began = time.process_time()
    told = plan_training(wanted.changed(**{"preview.prompts": ["a"]}), workspace)
    assert time.process_time() - began < 0.5
    assert told.total == 6 * 10_000 * 100_000 and told.saves > 10**9 and told.samples > 10**8


def test_every_problem_is_found_and_named_by_its_setting(workspace, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    wanted = job(model__path="absent", dataset__path="nowhere", dataset__resolution=100, optimizer__name="adamw8bit")
    told = plan_training(wanted, workspace)
    assert set(told.problems) == {"model.path", "dataset.path", "optimizer.name", "dataset.resolution"}
    with pytest.raises(UserError) as raised:
        prepare(wanted, workspace)
    assert str(raised.value).splitlines() == list(told.problems.values())
    assert (told.total, told.pictures, told.buckets) == (0, 0, [])


def test_nothing_chosen_yet_is_a_problem_and_no_crash(workspace):
    told = plan_training(TrainJob(), workspace)
    assert set(told.problems) == {"model.path", "dataset.path"} and told.resolution == 512
    for odd in ("a\0b", "~nobody-of-that-name", "x" * 5000, "/dev/null", "."):
        assert plan_training(job(model__path=odd, dataset__path=odd), workspace).problems.keys() == {"model.path", "dataset.path"}


def test_steps_are_counted_before_a_model_is_chosen(workspace):
    told = plan_training(job(model__path=""), workspace)
    assert set(told.problems) == {"model.path"} and told.pictures == 6 and told.total > 0


def test_an_incomplete_model_is_refused_before_anything_is_loaded(workspace, tmp_path):
    broken = make_workspace(tmp_path)
    (broken.models / "tiny" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert "diffusion_pytorch_model.safetensors" in plan_training(job(), broken).problems["model.path"]
    with pytest.raises(UserError, match=r"diffusion_pytorch_model\.safetensors"):
        prepare(job(), broken)


def test_a_caption_edited_in_place_shows_at_once_in_a_dataset_of_usual_size(workspace):
    draw_pictures(workspace.datasets / "edited", 4)
    wanted = job(dataset__path="edited")
    assert plan_training(wanted, workspace).notes == []
    (workspace.datasets / "edited" / "1.txt").write_text("no word")
    assert any("without the trigger word" in note and "1.png" in note for note in plan_training(wanted, workspace).notes)
    (workspace.datasets / "edited" / "3.png").unlink()
    assert plan_training(wanted, workspace).pictures == 3


ELSEWHERE = Path("dataset-that-is-not-there")


def large(count):
    """A dataset of that many pictures of many sizes, as it would have been read."""
    pictures = tuple(
        Picture(ELSEWHERE / f"{n}.png", f"nosnjaoutfit, a girl {n}", 300 + n * 37 % 900, 300 + n * 91 % 900) for n in range(count)
    )
    return Dataset(ELSEWHERE, pictures, (), "txt")


def test_a_large_dataset_is_planned_fast_and_not_read_at_every_movement(workspace, monkeypatch):
    data, reads = large(10_000), []

    def read(folder):
        reads.append(folder)
        time.sleep(0.1)
        return data

    monkeypatch.setattr(datasets, "read", read)
    monkeypatch.setattr(plan, "LONGEST_REST_SECONDS", 1000.0)
    monkeypatch.setattr(plan, "REST", 1000)
    plan_training(job(), workspace)
    times = []
    for epochs in range(3, 10):
        began = time.process_time()
        told = plan_training(job(training__epochs=epochs), workspace)
        times.append(time.process_time() - began)
    assert told.pictures == 10_000 and len(reads) == 1 and min(times) < 0.1
    monkeypatch.setattr(plan, "LONGEST_REST_SECONDS", 0)
    plan._recent.clear()
    plan_training(job(), workspace)
    time.sleep(0.25)
    plan_training(job(), workspace)
    assert len(reads) == 3


def test_a_picture_that_comes_is_seen_in_a_large_dataset_at_once(workspace, monkeypatch):
    folder = workspace.datasets / "grows"
    draw_pictures(folder, 3)
    monkeypatch.setattr(plan, "QUICK_SECONDS", 0)
    monkeypatch.setattr(plan, "REST", 10_000)
    assert plan_training(job(dataset__path="grows"), workspace).pictures == 3
    os.link(folder / "1.png", folder / "copy.png")
    assert plan_training(job(dataset__path="grows"), workspace).pictures == 4


def test_held_out_pictures_are_guessed_until_all_contents_are_known(workspace, monkeypatch):
    data = large(200)
    monkeypatch.setattr(datasets, "read", lambda folder: data)
    monkeypatch.setattr(plan, "content_key", lambda path: time.sleep(0.001) or str(path))
    wanted = job(dataset__validation_share=0.1)
    told = [plan_training(wanted, workspace) for _ in range(12)]
    assert told[0].approximate and not told[-1].approximate
    assert {(one.pictures, one.held_out) for one in told} == {(180, 20)}


def test_planning_again_takes_no_time(workspace):
    wanted = TrainJob().changed(**BASE)
    plan_training(wanted, workspace)
    times = []
    for _ in range(5):
        began = time.process_time()
        plan_training(wanted, workspace)
        times.append(time.process_time() - began)
    assert min(times) < 0.02
