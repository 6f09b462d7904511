import math

import pytest

from nosnja_gui.jobs import Schedule, ScheduleSettings
from nosnja_gui.schedules import curve, factor, parse_pieces, points, warmup_updates
from nosnja_gui.settings import UserError

PIECES = parse_pieces("50%: 0.5, 80%: 0.1")


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
    rates = curve(name, total, share, restarts=3, pieces=PIECES)
    assert len(rates) == total
    assert all(0 < rate <= 1 for rate in rates)
    # A piece may begin while the rate still rises.
    assert max(rates) == 1 or (name == "piecewise_constant" and share > 0.5)


def test_warmup_never_takes_all_updates():
    assert warmup_updates(1, 0.9) == 0
    assert warmup_updates(100, 0.05) == 5
    assert warmup_updates(3, 0.99) == 2


@pytest.mark.parametrize("name", Schedule.__args__)
@pytest.mark.parametrize("total", [1, 2, 299, 300, 301, 5000])
def test_points_for_a_plot_lie_on_the_curve_and_keep_its_ends(name, total):
    bent = {"restarts": 4, "power": 2, "end_share": 0.05, "decay_share": 0.3, "pieces": PIECES}
    shown = points(name, total, 0.1, **bent)
    expected = curve(name, total, 0.1, **bent)
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


@pytest.mark.parametrize("name", ["linear", "cosine", "cosine_with_restarts", "polynomial", "wsd", "rex"])
def test_a_floor_is_where_the_curve_ends_and_nothing_else_changes(name):
    plain, raised = curve(name, 40, 0.1, restarts=2), curve(name, 40, 0.1, restarts=2, end_share=0.2)
    assert plain[:4] == raised[:4]
    assert raised[4:] == pytest.approx([0.2 + 0.8 * share for share in plain[4:]])
    assert factor(name, 40, 40, end_share=0.2) == pytest.approx(0.2) and factor(name, 40, 40) == 0


def test_wsd_rises_stays_and_falls_by_one_minus_the_root():
    rates = curve("wsd", 100, 0.1, decay_share=0.2)
    assert rates[9] < 1 and rates[10:81] == [1.0] * 71
    assert rates[80:] == pytest.approx([1 - math.sqrt((update - 80) / 20) for update in range(80, 100)])
    assert curve("wsd", 100, 0.1, decay_share=0.2, decay="linear")[80:] == pytest.approx([1 - step / 20 for step in range(20)])
    assert curve("wsd", 10, decay_share=0.0) == [1.0] * 10 and curve("wsd", 10, decay_share=1.0, decay="linear") == curve("linear", 10)
    assert curve("wsd", 10, 0.5, decay_share=0.9)[5:] == curve("wsd", 10, 0.5, decay_share=0.5)[5:], "it never falls while it rises"


def test_rex_is_the_formula_of_its_paper():
    """Chen et al. 2022: (1 - z) / (1/2 + 1/2 (1 - z)) at the share z of all updates."""
    assert curve("rex", 50) == pytest.approx([(1 - z) / (0.5 + 0.5 * (1 - z)) for z in (update / 50 for update in range(50))])
    reference = pytest.importorskip("pytorch_optimizer").REXScheduler
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = reference(optimizer, total_steps=50, max_lr=1.0)
    assert curve("rex", 50)[1:] == pytest.approx([schedule.step() or optimizer.param_groups[0]["lr"] for _ in range(49)])


def test_the_inverse_root_halves_at_four_times_the_warmup():
    rates = curve("inverse_sqrt", 1000, 0.05)
    assert rates[50] == 1 and rates[50 + 150] == pytest.approx(0.5) and rates[50 + 750] == pytest.approx(0.25)


def test_pieces_hold_from_their_share_of_the_training_on():
    assert curve("piecewise_constant", 10, pieces=PIECES) == [1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.1, 0.1]
    assert curve("piecewise_constant", 4, pieces=parse_pieces(" 0 % : .3 ; 75%: 1,")) == [0.3, 0.3, 0.3, 1]
    assert points("piecewise_constant", 100_000, pieces=PIECES)[-1] == (99_999, 0.1)
    updates = {update for update, _ in points("piecewise_constant", 100_000, pieces=PIECES)}
    assert {49_999, 50_000, 79_999, 80_000} <= updates
    assert 64_321 in {update for update, _ in points("wsd", 100_000, decay_share=0.35679)}


@pytest.mark.parametrize(
    "text", ["", "half", "50%", "50: 0.5", "80%: 0.1, 50%: 0.5", "50%: 0.5, 50%: 0.2", "100%: 0.5", "50%: 0", "50%: 2"]
)
def test_pieces_that_are_none_are_refused_with_an_example(text):
    with pytest.raises(UserError, match=r"50%: 0\.5, 80%: 0\.1"):
        ScheduleSettings.parse({"pieces": text})
    with pytest.raises(UserError, match="at most 20"):
        ScheduleSettings.parse({"pieces": ", ".join(f"{place}%: 0.5" for place in range(21))})


TOTAL = 60
REFERENCES = {
    "constant": ("constant", {}, {}),
    "linear": ("linear", {}, {}),
    "cosine": ("cosine", {}, {}),
    "cosine with restarts": ("cosine_with_restarts", {"restarts": 4}, {"num_cycles": 4}),
    # It ends at a rate of 1e-7, a ten thousandth of the one below.
    "polynomial": ("polynomial", {"power": 2.5, "end_share": 1e-4}, {"power": 2.5}),
    "pieces": ("piecewise_constant", {"pieces": PIECES}, {"step_rules": "1:30,0.5:48,0.1"}),
}


@pytest.mark.parametrize("case", REFERENCES)
def test_every_schedule_of_diffusers_is_the_same_here(case):
    import torch
    from diffusers.optimization import SchedulerType, get_scheduler

    name, ours, theirs = REFERENCES[case]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = get_scheduler(name, optimizer, num_warmup_steps=0, num_training_steps=TOTAL, **theirs)
    reference = []
    for _ in range(TOTAL):
        reference.append(optimizer.param_groups[0]["lr"] / 1e-3)
        optimizer.step()
        schedule.step()
    assert curve(name, TOTAL, **ours) == pytest.approx(reference)
    # With a warmup the constant one is theirs "with warmup", whose first update learns nothing.
    assert {kind.value for kind in SchedulerType} - {"constant_with_warmup"} == {name for name, _, _ in REFERENCES.values()}


def test_the_inverse_root_is_that_of_transformers():
    import torch
    from transformers import get_inverse_sqrt_schedule

    for warmup in (0, 12):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = get_inverse_sqrt_schedule(optimizer, num_warmup_steps=warmup)
        reference = []
        for _ in range(TOTAL):
            reference.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        assert curve("inverse_sqrt", TOTAL, warmup / TOTAL)[warmup:] == pytest.approx(reference[warmup:])


def test_settings_give_their_curve_what_bends_it():
    settings = ScheduleSettings(name="piecewise_constant", restarts=7, power=2.0, end_share=0.1, decay_share=0.4, decay="linear")
    assert settings.shape == {
        "restarts": 7, "power": 2.0, "end_share": 0.1, "decay_share": 0.4, "decay": "linear", "pieces": ((50.0, 0.5), (80.0, 0.1)),
    }  # fmt: skip


@pytest.mark.parametrize("name", Schedule.__args__)
def test_a_setting_bends_exactly_the_curves_that_it_is_shown_with(name):
    changed = {"restarts": 5, "power": 3.0, "end_share": 0.3, "decay_share": 0.5, "decay": "linear", "pieces": "10%: 0.9"}
    settings = ScheduleSettings(name=name)
    usual = curve(name, 50, 0.1, **settings.shape)
    bends = {setting for setting, value in changed.items() if curve(name, 50, 0.1, **settings.changed(**{setting: value}).shape) != usual}
    assert bends == set(changed) - set(settings.without_effect())
