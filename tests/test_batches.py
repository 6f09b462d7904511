from collections import Counter
from dataclasses import replace

from nosnja_gui.dataset.batches import Exposure, Plan, derive, held_out, share_of

SHAPES = ((64, 64),) * 5 + ((96, 64),) * 3 + ((64, 96),)
PLAN = Plan(SHAPES, repeats=3, batch_size=2, seed=7)


def exposures(plan: Plan, epoch: int) -> list[Exposure]:
    return [exposure for step in plan.epoch(epoch) for batch in step for exposure in batch]


def test_each_picture_is_shown_as_often_as_it_is_repeated():
    assert Counter(exposure.picture for exposure in exposures(PLAN, 0)) == dict.fromkeys(range(9), 3)
    assert PLAN.exposures_per_epoch == 27


def test_no_batch_mixes_sizes_or_is_too_large():
    for step in PLAN.epoch(0):
        for batch in step:
            assert 1 <= len(batch) <= 2
            assert len({SHAPES[exposure.picture] for exposure in batch}) == 1


def test_steps_of_an_epoch_are_known_without_making_it():
    for accumulation in (1, 2, 5, 100):
        plan = replace(PLAN, accumulation=accumulation)
        assert len(plan.epoch(3)) == plan.steps_per_epoch
    # 15 exposures of squares, 9 wide and 3 tall ones in pairs: 8 + 5 + 2 batches
    assert PLAN.steps_per_epoch == 15
    assert replace(PLAN, accumulation=2).steps_per_epoch == 8


def test_order_follows_from_seed_and_epoch():
    assert PLAN.epoch(4) == replace(PLAN).epoch(4)
    assert PLAN.epoch(4) != PLAN.epoch(5)
    assert PLAN.epoch(4) != replace(PLAN, seed=8).epoch(4)


def test_a_picture_comes_again_only_after_all_others_of_its_size():
    plan = Plan(((64, 64),) * 6, repeats=4, batch_size=6, seed=1)
    for step in plan.epoch(0):
        assert sorted(exposure.picture for exposure in step[0]) == list(range(6))


def test_flip_mirrors_about_half_and_only_when_asked():
    assert not any(exposure.mirrored for exposure in exposures(replace(PLAN, repeats=100), 0))
    mirrored = sum(exposure.mirrored for exposure in exposures(replace(PLAN, repeats=100, flip=True), 0))
    assert 380 < mirrored < 520


def test_caption_dropout_is_per_exposure_and_keeps_the_order():
    plan = replace(PLAN, repeats=100)
    dropped = replace(plan, caption_dropout=0.2)
    count = sum(not exposure.captioned for exposure in exposures(dropped, 0))
    assert 130 < count < 230
    assert [e.picture for e in exposures(plan, 0)] == [e.picture for e in exposures(dropped, 0)]
    assert not any(exposure.captioned for exposure in exposures(replace(PLAN, caption_dropout=1.0), 0))


def test_processes_share_a_batch_without_overlap():
    batch = tuple(Exposure(picture) for picture in range(5))
    first, second = share_of(batch, 0, 2)[0], share_of(batch, 1, 2)[0]
    assert sorted(exposure.picture for exposure in first + second) == list(range(5))


def test_a_process_without_work_does_a_picture_that_does_not_count():
    batch = (Exposure(3),)
    assert share_of(batch, 0, 2) == (batch, True)
    assert share_of(batch, 1, 2) == (batch, False)


def test_held_out_pictures_stay_held_out_when_others_are_added():
    keys = [f"picture {number}" for number in range(30)]
    before = {keys[index] for index in held_out(keys, 0.1, seed=1)}
    assert len(before) == 3
    more = [f"new {number}" for number in range(10)] + keys
    after = {more[index] for index in held_out(more, 0.1, seed=1)}
    assert len(after) == 4
    # a newcomer may take a place, but no old training picture becomes a held-out one unless there is room for it
    assert len(before & after) >= 2
    assert held_out(keys[::-1], 0.1, seed=1) == {29 - index for index in held_out(keys, 0.1, seed=1)}
    assert held_out(keys, 0.1, seed=2) != held_out(keys, 0.1, seed=1)


def test_copies_of_a_picture_are_not_split_between_training_and_validation():
    keys = ["a", "b", "a", "c", "b", "a"]
    chosen = held_out(keys, 0.4, seed=0)
    for letter in "abc":
        assert len({index in chosen for index, key in enumerate(keys) if key == letter}) == 1


def test_held_out_leaves_something_on_both_sides():
    assert held_out(["a", "b"], 0.01, seed=0) != set()
    assert len(held_out(["a", "b"], 0.5, seed=0)) == 1
    assert held_out(["a"], 0.5, seed=0) == set()
    assert held_out(["a", "b"], 0.0, seed=0) == set()


def test_derived_seeds_differ_by_every_name():
    seeds = {derive(1, "a", 2), derive(1, "a", 3), derive(1, "b", 2), derive(2, "a", 2), derive(1, "a"), derive(12, "a")}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
