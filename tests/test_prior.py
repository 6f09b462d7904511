"""Prior preservation: class pictures are painted once, shown beside the others, and their loss is the second term of the paper's."""

import math

import pytest

from nosnja_gui.dataset.batches import Exposure, Plan, divisors
from nosnja_gui.engine.material import prepare
from nosnja_gui.engine.train import train
from nosnja_gui.plan import plan_training
from nosnja_gui.settings import UserError
from tests.small_training import draw_pictures, job, make_workspace, run_of, trained
from tests.test_resume import digest, stop_after

SHAPES = ((64, 64), (64, 64), (96, 48))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("prior"))


def plan(**changes) -> Plan:
    return Plan(**{"shapes": SHAPES, "repeats": 2, "batch_size": 2, "prior": ((64, 64),) * 5, **changes})


def test_every_step_shows_as_many_class_pictures_as_others():
    for epoch in range(3):
        for step in plan(accumulation=2).epoch(epoch):
            shown = [exposure for batch in step for exposure in batch]
            assert sum(exposure.prior for exposure in shown) * 2 == len(shown)
            assert all(len({exposure.prior for exposure in batch}) == 1 for batch in step), "no batch mixes the two"


def test_the_pictures_themselves_come_as_without_class_pictures():
    with_prior = [[batch for batch in step if not batch[0].prior] for step in plan().epoch(1)]
    assert with_prior == [list(step) for step in plan(prior=()).epoch(1)]


def test_all_class_pictures_are_shown_before_one_comes_again():
    order = [exposure.picture for step in plan(repeats=5).epoch(0) for batch in step for exposure in batch if exposure.prior]
    assert sorted(order[:5]) == [0, 1, 2, 3, 4] and sorted(order[5:10]) == [0, 1, 2, 3, 4] and order[:5] != order[5:10]


def test_class_pictures_of_several_sizes_are_not_mixed_in_a_batch():
    mixed = plan(prior=((64, 64), (48, 96), (64, 64)))
    for step in mixed.epoch(0):
        for batch in step:
            if batch[0].prior:
                assert len({mixed.prior[exposure.picture] for exposure in batch}) == 1


@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
def test_the_loss_is_the_two_part_loss_of_the_paper(weight):
    """Ruiz et al. 2023, Eq. 2, by hand: mean over the instances + lambda * mean over the class pictures."""
    pictures, class_pictures = [0.5, 1.5, 4.0], [2.0, 3.0, 10.0]
    step = (
        (Exposure(0), Exposure(1)),
        (Exposure(2),),
        (Exposure(0, prior=True), Exposure(1, prior=True), Exposure(2, prior=True)),
    )
    sums = [sum(pictures[:2]), pictures[2], sum(class_pictures)]
    loss = sum(total / divisor for total, divisor in zip(sums, divisors(step, weight), strict=True))
    assert loss == pytest.approx(2.0 + weight * 5.0)
    if weight == 0:
        assert divisors(step, weight)[2] == math.inf


PRIOR = {"prior__images": 3, "prior__class_noun": "coat", "prior__steps": 2, "training__max_steps": 2, "dataset__repeats": 1}


def test_class_pictures_are_painted_once_and_shown(workspace):
    file, _ = trained(workspace, "one", **PRIOR)
    folder = next((workspace.root / "class-pictures").iterdir())
    painted = sorted(path.name for path in folder.iterdir())
    assert painted == [f"000{number}.{kind}" for number in (1, 2, 3) for kind in ("png", "txt")]
    assert (folder / "0001.txt").read_text().strip().startswith("a girl in a coat in front of a house"), "the trigger is not in it"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again, _ = trained(workspace, "two", **PRIOR)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert again.read_bytes()[-4000:] == file.read_bytes()[-4000:], "the same pictures, the same training"
    without, _ = trained(workspace, "three", **{**PRIOR, "prior__images": 0})
    assert without.read_bytes()[-4000:] != file.read_bytes()[-4000:]


def test_weight_zero_trains_as_if_there_were_none_but_for_the_randomness(workspace):
    """The gradient of class pictures is exactly nothing then, so no number of them is a number that matters."""
    file, _ = trained(workspace, "zero", **{**PRIOR, "prior__weight": 0.0})
    other, _ = trained(workspace, "zero-prompts", **{**PRIOR, "prior__weight": 0.0, "prior__class_prompts": ["a dog"]})
    assert file.read_bytes()[-4000:] == other.read_bytes()[-4000:]


def test_own_class_pictures_take_the_place_of_painted_ones(workspace):
    if not (workspace.datasets / "others").exists():
        draw_pictures(workspace.datasets / "others", 4)
    material = prepare(job(prior__folder="others", prior__images=50), workspace)
    assert [picture.name for picture in material.prior] == ["0.png", "1.png", "2.png", "3.png"]
    assert material.plan.prior == tuple(material.shapes[picture.path] for picture in material.prior)
    told = plan_training(job(prior__folder="others"), workspace)
    assert told.class_pictures == 4 and told.total == plan_training(job(), workspace).total


def test_without_prompts_trigger_or_folder_it_says_what_is_missing(workspace):
    told = plan_training(job(prior__images=5, trigger=""), workspace)
    assert "prior.class_prompts" in told.problems and "trigger word" in told.problems["prior.class_prompts"]
    assert "prior.folder" in plan_training(job(prior__folder="nowhere"), workspace).problems
    with pytest.raises(UserError, match="class_prompts"):
        prepare(job(prior__images=5, trigger=""), workspace)


def test_resume_with_class_pictures_is_exact(workspace, monkeypatch):
    changes = {**PRIOR, "training__max_steps": 4, "training__epochs": 4}
    straight, _ = trained(workspace, "straight", **changes)
    wanted = job(**changes)
    run = run_of(workspace, "stopped", wanted)
    with monkeypatch.context() as patch:
        stop_after(run, 2, patch)
        train(wanted, run, workspace)
    assert run.status().state == "stopped"
    assert digest(train(wanted, run, workspace)) == digest(straight)
