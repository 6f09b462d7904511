import math

import pytest

from nosnja_gui.jobs import Schedule
from nosnja_gui.schedules import curve, factor, points, warmup_updates


def test_constant_stays_whole_after_its_warmup():
    assert curve("constant", 10, warmup_share=0.4) == [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1]


def test_linear_falls_by_equal_amounts_to_zero_after_the_last_update():
    assert curve("linear", 4) == [1, 0.75, 0.5, 0.25]
    assert factor("linear", 4, 4) == 0


def test_cosine_is_half_way_down_in_the_middle_of_what_follows_the_warmup():
    assert factor("cosine", 2, 10, warmup=2) == 1
    assert factor("cosine", 6, 10, warmup=2) == pytest.approx(0.5)
    assert factor("cosine", 4, 10, warmup=2) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_cosine_with_restarts_is_whole_at_the_beginning_of_every_cycle():
    rates = curve("cosine_with_restarts", 12, restarts=3)
    assert [rates[0], rates[4], rates[8]] == [1, 1, 1]
    assert rates[2] == pytest.approx(0.5)
    assert rates[3] == pytest.approx(0.5 * (1 + math.cos(0.75 * math.pi)))


def test_one_cycle_of_restarts_is_the_cosine():
    assert curve("cosine_with_restarts", 9, 0.2, restarts=1) == curve("cosine", 9, 0.2)


def test_polynomial_is_linear_at_power_one_and_falls_faster_at_two():
    assert curve("polynomial", 8) == curve("linear", 8)
    assert factor("polynomial", 2, 4, power=2.0) == 0.25


@pytest.mark.parametrize("name", Schedule.__args__)
@pytest.mark.parametrize("total", [1, 2, 7, 100])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.99])
def test_every_update_of_every_curve_learns_and_none_exceeds_the_rate(name, total, share):
    rates = curve(name, total, share, restarts=3)
    assert len(rates) == total
    assert all(0 < rate <= 1 for rate in rates)
    assert max(rates) == 1 or total <= warmup_updates(total, share)


def test_warmup_never_takes_all_updates():
    assert warmup_updates(1, 0.9) == 0
    assert warmup_updates(100, 0.05) == 5
    assert warmup_updates(3, 0.99) == 2


@pytest.mark.parametrize("name", Schedule.__args__)
@pytest.mark.parametrize("total", [1, 2, 299, 300, 301, 5000])
def test_points_for_a_plot_lie_on_the_curve_and_keep_its_ends(name, total):
    shown = points(name, total, 0.1, restarts=4, power=2)
    expected = curve(name, total, 0.1, restarts=4, power=2)
    assert len(shown) <= 300 and all(share == expected[update] for update, share in shown)
    assert [update for update, _ in shown] == sorted({update for update, _ in shown})
    assert shown[0][0] == 0 and shown[-1][0] == total - 1


def test_points_keep_the_end_of_the_warmup_and_every_restart():
    updates = {update for update, _ in points("cosine_with_restarts", 100_000, 0.0371, restarts=7)}
    rates = curve("cosine_with_restarts", 100_000, 0.0371, restarts=7)
    jumps = [update for update in range(1, 100_000) if rates[update] - rates[update - 1] > 0.5]
    assert len(jumps) == 6 and {3710, *jumps, *(jump - 1 for jump in jumps)} <= updates


def test_there_are_no_points_without_steps():
    assert points("cosine", 0) == []
