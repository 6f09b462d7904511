"""Several concepts in one training, and captions that are shown in another way each time."""

import random

import pytest

from nosnja_gui.dataset import concepts, tags
from nosnja_gui.dataset.batches import Plan
from nosnja_gui.dataset.concepts import Concept
from nosnja_gui.engine import train as training
from nosnja_gui.engine.material import prepare
from nosnja_gui.engine.train import train
from nosnja_gui.plan import plan_training
from nosnja_gui.settings import UserError
from tests.small_training import draw_pictures, job, make_workspace, run_of, trained
from tests.test_resume import digest, stop_after


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    workspace = make_workspace(tmp_path_factory.mktemp("concepts"))
    draw_pictures(workspace.datasets / "hats", 3)
    for number in range(3):
        (workspace.datasets / "hats" / f"{number}.txt").write_text(f"myhat, a dog with a myhat, snow, tree, {number}")
    return workspace


HATS = ["hats, repeats=5, weight=0.5, trigger=myhat, class=hat"]


def test_a_line_says_all_of_a_concept():
    assert concepts.parse(HATS[0]) == Concept("hats", 5, 0.5, "myhat", "hat")
    assert concepts.parse("my folder/hats") == Concept("my folder/hats")


@pytest.mark.parametrize(
    "line, said",
    [
        (", repeats=2", "names no folder"),
        ("hats, repeat=2", "none of repeats, weight, trigger and class"),
        ("hats, repeats=0", "whole number from 1"),
        ("hats, repeats=2.5", "whole number from 1"),
        ("hats, weight=-1", "number from 0"),
        ("hats, weight=nan", "number from 0"),
        ("hats, weight=1, weight=2", "each once"),
    ],
)
def test_a_line_that_says_something_else_is_refused_at_the_field(line, said):
    with pytest.raises(UserError, match=said):
        concepts.parse(line)
    with pytest.raises(UserError, match=said):
        job(dataset__concepts=[line])


def test_the_pictures_of_all_concepts_are_shown_as_often_as_each_says(workspace):
    material = prepare(job(dataset__concepts=HATS), workspace)
    assert [picture.name for picture in material.training[6:]] == ["hats/0.png", "hats/1.png", "hats/2.png"]
    assert material.plan.repeats == (2,) * 6 + (5,) * 3 and material.plan.exposures_per_epoch == 27
    assert set(material.weights.values()) == {0.5} and len(material.weights) == 3
    shown = [exposure.picture for step in material.plan.epoch(0) for batch in step for exposure in batch]
    assert [shown.count(picture) for picture in range(9)] == [2] * 6 + [5] * 3
    assert plan_training(job(dataset__concepts=HATS), workspace).exposures_per_epoch == 27


def test_equal_repeats_are_what_one_dataset_would_have():
    shapes = ((64, 64),) * 4
    assert Plan(shapes, (3,) * 4, 2).epoch(1) == Plan(shapes, 3, 2).epoch(1)


def test_exposures_are_numbered_through_the_training():
    plan = Plan(((64, 64), (96, 48)), (1, 4), 2, caption_dropout=0.5)
    numbers = sorted(exposure.number for epoch in range(3) for step in plan.epoch(epoch) for batch in step for exposure in batch)
    assert numbers == list(range(15))


def test_class_prompts_leave_each_concepts_own_trigger_out(workspace):
    changes = {"dataset__concepts": HATS, "prior__images": 9, "prior__class_noun": "jacket"}
    captions = [picture.caption for picture in prepare(job(**changes), workspace).prior]
    assert captions[0].startswith("a girl in a coat") and "a dog with a hat, snow, tree, 1" in captions
    assert not any("myhat" in caption or "nosnjaoutfit" in caption for caption in captions)


def test_a_folder_that_is_given_twice_or_missing_is_refused_at_the_field(workspace):
    for line in ("coats", "nowhere at all"):
        assert list(plan_training(job(dataset__concepts=[line]), workspace).problems) == ["dataset.concepts"]


def test_a_concept_without_its_trigger_is_remarked_on(workspace):
    notes = plan_training(job(dataset__concepts=["hats, trigger=otherhat"]), workspace).notes
    assert any("3 of 9 pictures have a caption without the trigger word 'otherhat'" in note for note in notes)


def test_a_weight_of_zero_takes_a_concept_out_of_the_loss(workspace, monkeypatch):
    seen = []
    original = training.batch_loss
    monkeypatch.setattr(training, "batch_loss", lambda state, batch: seen.append((batch, original(state, batch))) or seen[-1][1])
    trained(workspace, "weightless", dataset__concepts=["hats, weight=0"], training__max_steps=8, training__batch_size=1)
    of_hats = [loss.item() for batch, loss in seen if batch[0].picture >= 6]
    others = [loss.item() for batch, loss in seen if batch[0].picture < 6]
    assert of_hats and all(loss == 0 for loss in of_hats) and others and all(loss > 0 for loss in others)


# Tags


def test_the_front_stays_and_the_rest_is_shuffled():
    caption = "nosnjaoutfit, red, blue, green, snow"
    shown = {tags.vary(caption, random.Random(seed), keep=1, shuffle=True) for seed in range(50)}
    assert len(shown) > 10 and all(text.startswith("nosnjaoutfit, ") for text in shown)
    assert all(sorted(text.split(", ")) == sorted(caption.split(", ")) for text in shown)


def test_tags_are_left_out_as_often_as_asked_but_never_those_in_front():
    counts = [tags.vary("a, b, c, d, e", random.Random(seed), keep=2, dropout=0.3).split(", ") for seed in range(2000)]
    assert all(text[:2] == ["a", "b"] for text in counts)
    assert sum(len(text) - 2 for text in counts) / (3 * len(counts)) == pytest.approx(0.7, abs=0.03)


def test_tags_come_in_one_after_the_other():
    shown = [tags.vary("a, b, c, d, e", random.Random(0), keep=1, share=tags.grown(done, 0.5)) for done in (0, 0.13, 0.26, 0.4, 0.5, 1)]
    assert shown == ["a, b", "a, b", "a, b, c", "a, b, c, d", "a, b, c, d, e", "a, b, c, d, e"]


def test_without_any_of_it_a_caption_stays_to_the_letter():
    assert tags.vary("a,b ,  c", random.Random(0), keep=1) == "a,b ,  c"


def test_varied_captions_are_what_the_text_encoder_gets_and_a_resume_is_exact(workspace, monkeypatch):
    changes = {"dataset__shuffle_tags": True, "dataset__tag_dropout": 0.2, "dataset__tag_warmup": 0.5, "training__max_steps": 5}
    changes |= {"dataset__path": "hats"}
    said: list[str] = []
    original = training.caption_of
    monkeypatch.setattr(training, "caption_of", lambda *given: said.append(original(*given)) or said[-1])
    whole, _ = trained(workspace, "tags-whole", **changes)
    assert len(set(said)) > 3 and all(caption.startswith("myhat") for caption in said)
    assert min(map(len, said[:2])) < max(map(len, said[-4:])), "they grow"
    wanted = job(**changes)
    run = run_of(workspace, "tags-parts", wanted)
    with monkeypatch.context() as patch:
        stop_after(run, 2, patch)
        train(wanted, run, workspace)
    assert run.status().state == "stopped"
    assert digest(train(wanted, run, workspace)) == digest(whole)
