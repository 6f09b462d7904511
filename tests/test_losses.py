"""Losses, noise and timesteps: every formula against numbers by hand or a computation of its own, and each option through the loop."""

import hashlib
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from nosnja_gui import presets, timesteps
from nosnja_gui.engine import train as training
from nosnja_gui.engine.export import metadata
from nosnja_gui.engine.models import load_model
from nosnja_gui.engine.objectives import Objective, alphas_cumprod, noise_schedule_of, objective, pyramid, weight_places, with_offset
from nosnja_gui.engine.sampler import make_scheduler
from nosnja_gui.engine.train import train
from nosnja_gui.families.stable_diffusion import schedule
from nosnja_gui.jobs import LossSettings, TrainJob
from nosnja_gui.plan import look
from nosnja_gui.settings import UserError
from tests.small_training import draw_pictures, job, make_workspace, run_of, trained
from tests.tiny import tiny_sd

CPU = torch.device("cpu")
SD15 = schedule("epsilon")


def made(prediction_type: str = "epsilon", **settings) -> Objective:
    return objective(SD15, prediction_type, LossSettings(**settings), CPU)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    workspace = make_workspace(tmp_path_factory.mktemp("losses"))
    tiny_sd(workspace.models / "v", prediction_type="v_prediction")
    folder = workspace.datasets / "masked"
    draw_pictures(folder, 3)
    for number in range(3):
        with Image.open(folder / f"{number}.png") as picture:
            mask = Image.new("L", picture.size)
        mask.paste(255, (0, 0, 32, 32))
        mask.save(folder / f"{number}-mask.png")
    (folder / "1.faces.json").write_text("[[4, 4, 16, 16]]")
    return workspace


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("weighting", "numbers", "of_epsilon"),
    [
        ("none", {}, [1, 1, 1]),
        ("min_snr", {"gamma": 5.0}, [1, 1, 5 / 20]),
        ("debiased", {}, [0.25**-0.5, 4**-0.5, 20**-0.5]),
        ("p2", {"p2_gamma": 1.0, "p2_k": 1.0}, [1 / 1.25, 1 / 5, 1 / 21]),
        ("p2", {"p2_gamma": 0.5, "p2_k": 2.0}, [1 / 2.25**0.5, 1 / 6**0.5, 1 / 22**0.5]),
    ],
)
def test_weights_by_hand(weighting, numbers, of_epsilon):
    snr = [0.25, 4.0, 20.0]
    assert timesteps.weights(weighting, snr, "epsilon", **numbers) == pytest.approx(of_epsilon)
    of_v = [1] * 3 if weighting == "none" else [weight * s / (s + 1) for weight, s in zip(of_epsilon, snr, strict=True)]
    assert timesteps.weights(weighting, snr, "v_prediction", **numbers) == pytest.approx(of_v)
    assert timesteps.weights(weighting, snr, "flow", **numbers) == [1, 1, 1]


def test_min_snr_of_v_is_that_of_its_paper_and_has_a_limit_where_there_is_only_noise():
    assert timesteps.weights("min_snr", [0.0, 0.5, 20.0], "v_prediction", 5.0) == pytest.approx([0, 0.5 / 1.5, 5 / 21])
    assert timesteps.weights("min_snr", [0.0], "epsilon", 5.0) == [1]


def test_debiased_weights_stay_finite():
    assert timesteps.weights("debiased", [0.0, 1e9], "epsilon") == pytest.approx([0.001**-0.5, 1000**-0.5])
    weight = objective({**SD15, "rescale_betas_zero_snr": True}, "v_prediction", LossSettings(weighting="debiased"), CPU).weight
    assert torch.isfinite(weight).all() and weight[-1] == 0


def test_v_and_epsilon_are_weighted_alike():
    """The same mistake costs the same, whichever of the two the model predicts."""
    for weighting in ("min_snr", "debiased", "p2"):
        by_epsilon, by_v = made("epsilon", weighting=weighting), made("v_prediction", weighting=weighting)
        clean, noise, wrong = torch.randn(3, 2, 4, 4, 4, dtype=torch.float64)
        at = torch.tensor([300, 700])
        noisy = by_v.add_noise(clean, noise, at)
        signal, level = by_v.signal[at].view(-1, 1, 1, 1).double(), by_v.noise[at].view(-1, 1, 1, 1).double()
        v = (wrong - level * noisy) / signal  # of x_t = signal x_0 + level epsilon and v = signal epsilon - level x_0
        torch.testing.assert_close(by_v.losses(v, clean, noise, at), by_epsilon.losses(wrong, clean, noise, at), rtol=1e-3, atol=0)


# ---------------------------------------------------------------- kinds of loss


def of_one(kind: str, error: float, c: float = 0.1, huber_schedule: str = "constant") -> float:
    process = made(weighting="none", kind=kind, huber_c=c, huber_schedule=huber_schedule)
    zero = torch.zeros(1, 4, 2, 2)
    return process.losses(zero + error, zero, zero, torch.tensor([500])).item()


def test_losses_by_hand():
    assert of_one("mse", 3.0) == pytest.approx(9)
    assert of_one("l1", -3.0) == pytest.approx(3)
    # A right triangle of 3, 4 and 5: 2 c (5 - c) with c = 4.
    assert of_one("huber", 3.0, 4.0) == pytest.approx(2 * 4 * (5 - 4))
    assert of_one("smooth_l1", 3.0, 4.0) == pytest.approx(2 * (5 - 4))


def test_huber_is_the_square_where_errors_are_small_and_their_size_where_they_are_large():
    assert of_one("huber", 1e-3, 0.5) == pytest.approx(1e-6, rel=1e-3)
    assert of_one("huber", 1e3, 0.5) == pytest.approx(2 * 0.5 * 1e3, rel=1e-3)
    assert of_one("smooth_l1", 1e3, 0.5) == pytest.approx(2e3, rel=1e-3)


def test_huber_schedules_by_hand():
    signal, noise = [1.0, 0.6, 0.0], [0.0, 0.8, 1.0]
    assert timesteps.huber_thresholds("constant", 0.1, signal, noise) == [0.1] * 3
    assert timesteps.huber_thresholds("exponential", 0.1, signal, noise) == pytest.approx([1, 0.1 ** (1 / 3), 0.1 ** (2 / 3)])
    # sigma = 0, 4/3, infinity
    assert timesteps.huber_thresholds("snr", 0.1, signal, noise) == pytest.approx([1, 0.9 / (1 + 4 / 3) ** 2 + 0.1, 0.1])


def test_the_threshold_of_a_timestep_is_used():
    process = made(weighting="none", kind="huber", huber_c=0.2, huber_schedule="snr")
    alphas = alphas_cumprod(SD15)
    for at in (0, 400, 999):
        sigma = ((1 - alphas[at]) / alphas[at]).sqrt().item()
        c = (1 - 0.2) / (1 + sigma) ** 2 + 0.2
        zero = torch.zeros(1, 4, 2, 2)
        assert process.losses(zero + 0.7, zero, zero, torch.tensor([at])).item() == pytest.approx(
            2 * c * ((0.49 + c * c) ** 0.5 - c), rel=1e-4
        )


def test_a_huber_loss_has_a_gradient_where_there_is_no_error():
    predicted = torch.zeros(1, 4, 2, 2, requires_grad=True)
    made(kind="huber").losses(predicted, torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2), torch.tensor([999])).sum().backward()
    assert predicted.grad.abs().max() == 0


# ---------------------------------------------------------------- noise


def test_plain_noise_is_drawn_as_ever():
    torch.manual_seed(1)
    expected = torch.randn(2, 4, 8, 8)
    torch.manual_seed(1)
    process = made()
    assert torch.equal(process.draw_noise(torch.ones(2, 4, 8, 8)), expected)
    assert process.perturbed(expected) is expected


def test_the_mean_of_a_channel_varies_by_the_offset():
    torch.manual_seed(1)
    clean = torch.zeros(2000, 4, 8, 8)
    means = made(noise_offset=0.3).draw_noise(clean).mean((2, 3))
    assert means.var().item() == pytest.approx(1 / 64 + 0.3**2, rel=0.05)
    within = made(noise_offset=0.3).draw_noise(clean).var((2, 3)).mean().item()
    assert within == pytest.approx(1, rel=0.02), "within a channel all is as it was"


def test_an_adaptive_offset_grows_with_the_mean_of_the_latents_and_is_never_below_0():
    torch.manual_seed(1)
    clean = torch.ones(4000, 2, 4, 4) * torch.tensor([0.0, -2.0]).view(1, 2, 1, 1)
    shift = with_offset(torch.zeros_like(clean), clean, 0.1, 0.2)
    assert torch.equal(shift, shift[:, :, :1, :1].expand_as(shift))
    assert shift[:, 0, 0, 0].std().item() == pytest.approx(0.1, rel=0.05)
    assert shift[:, 1, 0, 0].std().item() == pytest.approx(0.1 + 0.2 * 2, rel=0.05)
    assert with_offset(torch.zeros_like(clean), clean, 0.1, -0.2)[:, 1].abs().max() == 0


def test_a_drawn_strength_is_another_one_for_each_picture():
    torch.manual_seed(1)
    clean = torch.zeros(6000, 4, 4, 4)
    offsets = made(noise_offset=1.0, random_strength=True).draw_noise(clean).mean((2, 3))
    assert offsets.var().item() == pytest.approx(1 / 16 + 1 / 3, rel=0.06), "the mean square of a uniform number is 1/3"
    sizes = offsets.square().mean(1)
    assert sizes.quantile(0.05) < 0.1 * sizes.quantile(0.95)


def enlarging(size: int, small: int) -> torch.Tensor:
    """(size, small): each place of bilinear enlargement as a sum of two of the small ones, centres aligned."""
    matrix = torch.zeros(size, small, dtype=torch.float64)
    for place in range(size):
        at = max(0.0, (place + 0.5) * small / size - 0.5)
        low = min(int(at), small - 1)
        matrix[place, low] += 1 - (at - low)
        matrix[place, min(low + 1, small - 1)] += at - low
    return matrix


def test_pyramid_noise_has_the_correlation_of_its_levels(monkeypatch):
    """With the ratio drawn as 2, one level more adds 0.5 times noise of half the side, whose covariance is computed here by itself."""
    monkeypatch.setattr(torch, "rand", lambda *size, **more: torch.zeros(*size, **more))
    side, discount = 8, 0.5
    fine, coarse = torch.eye(side, dtype=torch.float64), enlarging(side, side // 2)
    along = coarse @ coarse.T
    covariance = 2 * torch.kron(fine, fine) + discount**2 * torch.kron(along, along)
    covariance /= covariance.diagonal().mean()
    torch.manual_seed(1)
    drawn = pyramid(torch.randn(40_000, 1, side, side), 2, discount).flatten(1).double()
    measured = drawn.T @ drawn / len(drawn)
    assert (measured - covariance).abs().max() < 0.03
    assert measured[0, 1] > 0.05 and abs(measured[0, side - 1]) < 0.03, "near places go together, far ones do not"


def test_pyramid_noise_has_a_mean_square_of_1_in_each_sample():
    torch.manual_seed(1)
    noise = made(pyramid_iterations=8, pyramid_discount=0.8).draw_noise(torch.zeros(64, 4, 12, 20))
    torch.testing.assert_close(noise.square().mean((1, 2, 3)), torch.ones(64))
    plain = torch.randn(64, 4, 12, 20)

    def of_neighbours(values: torch.Tensor) -> float:
        return (values[..., 1:] * values[..., :-1]).mean().item()

    assert of_neighbours(noise) > 0.2 and abs(of_neighbours(plain)) < 0.05


def test_perturbed_input_has_more_noise_and_the_same_target():
    torch.manual_seed(1)
    process = made(input_perturbation=0.5)
    clean, noise = torch.zeros(500, 4, 8, 8), torch.randn(500, 4, 8, 8)
    shown = process.perturbed(noise)
    assert (shown - noise).var().item() == pytest.approx(0.25, rel=0.02)
    assert (shown * noise).mean().item() == pytest.approx(1, rel=0.02), "what is added has nothing to do with the noise"
    assert torch.equal(process.target(clean, noise, torch.zeros(500, dtype=torch.long)), noise)


# ---------------------------------------------------------------- zero terminal SNR


def test_zero_terminal_snr_by_the_papers_algorithm():
    """Lin et al. 2023, Algorithm 1, of their Stable Diffusion schedule."""
    roots = alphas_cumprod(SD15).sqrt()
    expected = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    rescaled = alphas_cumprod(noise_schedule_of(SD15, LossSettings(zero_terminal_snr=True)))
    assert rescaled[-1].item() == 0.0, "exactly"
    assert rescaled[0].item() == pytest.approx(alphas_cumprod(SD15)[0].item(), rel=1e-6)
    torch.testing.assert_close(rescaled, expected**2, rtol=2e-3, atol=1e-6)  # diffusers computes it in fp32
    assert noise_schedule_of(SD15, LossSettings()) == SD15


def test_the_windows_schedule_is_the_engines():
    for zero in (False, True):
        alphas = alphas_cumprod(noise_schedule_of(SD15, LossSettings(zero_terminal_snr=zero)))
        theirs = torch.tensor(timesteps.standard_snr(zero), dtype=torch.float64)
        torch.testing.assert_close(theirs, alphas / (1 - alphas), rtol=5e-3, atol=1e-6)
    assert timesteps.standard_snr(True)[-1] == 0


@pytest.mark.parametrize(("model", "allowed"), [("v", True), ("tiny", False)])
def test_zero_terminal_snr_is_for_models_that_predict_v(workspace, model, allowed):
    problems = look(job(model__path=model, loss__zero_terminal_snr=True), workspace).problems
    assert ("loss.zero_terminal_snr" in problems) is not allowed
    assert look(job(model__path=model), workspace).problems == {}
    # What the user knows better goes before what the model says.
    other = "epsilon" if allowed else "v_prediction"
    overruled = look(job(model__path=model, loss__zero_terminal_snr=True, model__prediction_type=other), workspace).problems
    assert ("loss.zero_terminal_snr" in overruled) is allowed


def test_previews_are_painted_with_the_schedule_that_is_trained(workspace, monkeypatch):
    seen = []
    original = training.paint
    monkeypatch.setattr(training, "paint", lambda state, *rest: seen.append(state) or original(state, *rest))
    changes = {"model__path": "v", "preview__prompts": ["a coat"], "preview__steps": 2, "preview__sampler": "ddim"}
    trained(workspace, "zero", loss__zero_terminal_snr=True, training__max_steps=1, preview__every_epochs=1, **changes)
    scheduler = make_scheduler(seen[0].parts, "ddim", 4)
    assert scheduler.alphas_cumprod[-1] == 0 and scheduler.timesteps.tolist() == [999, 749, 499, 249]
    assert seen[0].objective.signal[-1] == 0


# ---------------------------------------------------------------- timesteps


def test_uniform_timesteps_are_drawn_as_ever():
    for distribution in ("auto", "uniform"):
        torch.manual_seed(5)
        expected = torch.randint(0, 1000, (50,))
        torch.manual_seed(5)
        assert torch.equal(made(distribution=distribution).draw_timesteps(50), expected)


def test_shares_by_hand():
    assert timesteps.shares("uniform", count=4, end=4) == [0.25] * 4
    # u^3 below 1/8 is u below 1/2; and the other way round.
    assert timesteps.shares("content", count=8, end=8)[0] == pytest.approx(0.5)
    assert timesteps.shares("style", count=8, end=8)[-1] == pytest.approx(0.5)
    # sigmoid(N(0, 1)) is above 0.5 half the time, and above 0.7 as often as a normal number is above log(0.7 / 0.3).
    logit_normal = timesteps.shares("logit_normal")
    assert sum(logit_normal[500:]) == pytest.approx(0.5)
    assert sum(logit_normal[700:]) == pytest.approx(0.5 * math.erfc(math.log(0.7 / 0.3) / 2**0.5))
    # Beta(2, 2) has the density 6 x (1 - x).
    beta = timesteps.shares("beta")
    assert beta[499] * 1000 == pytest.approx(1.5, rel=1e-4) and beta[99] * 1000 == pytest.approx(6 * 0.0995 * 0.9005, rel=1e-4)
    assert timesteps.shares("beta", focus=0.5) == pytest.approx([1 / 1000] * 1000)
    sigmoid = timesteps.shares("sigmoid")
    assert sigmoid[749] / sigmoid[249] == pytest.approx((1 / (1 + math.exp(-2.495))) / (1 / (1 + math.exp(2.505))), rel=1e-6)


@pytest.mark.parametrize("distribution", ["uniform", "logit_normal", "sigmoid", "beta", "style", "content"])
def test_timesteps_are_drawn_as_often_as_the_table_says(distribution):
    settings = {"distribution": distribution, "timestep_bias": 0.4, "timestep_focus": 1.3, "min_timestep": 100, "max_timestep": 850}
    process, draws = made(**settings), 60_000
    torch.manual_seed(11)
    drawn = process.draw_timesteps(draws)
    assert drawn.min() >= 100 and drawn.max() < 850
    expected = torch.tensor(LossSettings(**settings).shares()).view(-1, 25).sum(1) * draws
    counts = torch.bincount(drawn, minlength=1000).view(-1, 25).sum(1)
    used = expected > 0
    assert counts[~used].sum() == 0
    # Pearson's sum: its mean is the number of bins less 1, its variance twice that; four deviations are hardly ever reached.
    chi_square = ((counts - expected)[used] ** 2 / expected[used]).sum().item()
    freedom = int(used.sum()) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5
    if distribution != "uniform":
        assert (((draws / used.sum()) - expected[used]) ** 2 / expected[used]).sum() > 20 * freedom, "the test can tell"
    torch.manual_seed(11)
    assert torch.equal(process.draw_timesteps(draws), drawn)


def test_the_logit_normal_table_is_what_flows_are_drawn_by():
    flow = objective({"shift": 3.0}, "flow", LossSettings(), CPU)
    assert flow.cumulative is None
    torch.manual_seed(2)
    drawn = torch.bincount(flow.draw_timesteps(200_000), minlength=1000).view(-1, 50).sum(1)
    table = torch.tensor(timesteps.shares("logit_normal")).view(-1, 50).sum(1) * 200_000
    assert ((drawn - table) ** 2 / table).sum() < 19 + 4 * 38**0.5


def test_stratified_timesteps_are_spread_over_the_batch_and_each_is_drawn_as_ever():
    process = made(stratified=True)
    torch.manual_seed(3)
    batches = torch.stack([process.draw_timesteps(4) for _ in range(4000)])
    assert all(sorted((batch // 250).tolist()) == [0, 1, 2, 3] for batch in batches)
    counts = torch.bincount(batches[:, 0], minlength=1000).view(-1, 50).sum(1)
    assert ((counts - 200.0) ** 2 / 200).sum() < 19 + 4 * 38**0.5


def test_the_range_is_of_a_thousand_whatever_the_models_number_is():
    shares = LossSettings(min_timestep=250, max_timestep=500).shares(count=100)
    assert sum(shares[25:50]) == pytest.approx(1) and sum(shares) == pytest.approx(1)


def test_a_range_without_timesteps_is_refused_at_its_end():
    with pytest.raises(UserError, match=r"loss.max_timestep.*above the first timestep, 600"):
        TrainJob.parse({"loss": {"min_timestep": 600, "max_timestep": 600}})


def test_bins_are_compared_with_the_mean():
    assert timesteps.bins([1.0, 1.0, 3.0, 3.0], 2) == [0.5, 1.5]
    assert len(timesteps.bins(timesteps.shares("style"))) == 60
    assert timesteps.bins([0.0] * 10, 5) == [0.0] * 5


# ---------------------------------------------------------------- places


def test_places_by_hand():
    mask, faces = torch.tensor([[[[1.0, 0.5], [0.0, 0.0]]]]), torch.tensor([[[[0.5, 0.0], [1.0, 0.0]]]])
    settings = LossSettings(masked="file", unmasked_weight=0.1, face_weight=3)
    assert weight_places(mask, faces, settings).flatten().tolist() == pytest.approx([2.0, 0.5, 0.3, 0.1])
    even = weight_places(mask, faces, settings.changed(normalise_area=True))
    assert even.mean().item() == pytest.approx(1) and (even[0, 0, 0, 0] / even[0, 0, 1, 1]).item() == pytest.approx(20)
    nothing = weight_places(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), LossSettings(unmasked_weight=0, normalise_area=True))
    assert nothing.abs().max() == 0


def test_what_is_masked_out_has_no_gradient_and_the_rest_its_own():
    process = made(weighting="none")
    clean, noise = torch.randn(2, 1, 4, 4, 4)
    predicted = torch.randn(1, 4, 4, 4, requires_grad=True)
    places = torch.zeros(1, 1, 4, 4)
    places[..., :2] = 1.0
    loss = process.losses(predicted, clean, noise, torch.tensor([500]), places)
    loss.sum().backward()
    assert predicted.grad[..., 2:].abs().max() == 0
    torch.testing.assert_close(predicted.grad[..., :2], 2 * (predicted - noise)[..., :2].detach() / 64)
    assert loss.item() == pytest.approx((predicted - noise)[..., :2].square().sum().item() / 64, rel=1e-5)


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(("gamma", "weighting"), [(None, "none"), (3.0, "min_snr")])
def test_settings_of_earlier_versions_are_understood(tmp_path, gamma, weighting):
    old = TrainJob.parse({"training": {"min_snr_gamma": gamma, "epochs": 3}})
    assert old.loss.weighting == weighting and old.training.epochs == 3
    assert old.loss.min_snr_gamma == (gamma or 5.0)
    file = tmp_path / "own.yaml"
    file.write_text(f"title: Mine\ntraining: {{min_snr_gamma: {'null' if gamma is None else gamma}}}\n")
    assert presets.train_job(file).loss == old.loss
    assert presets.train_job(file, {"loss.weighting": "p2"}).loss.weighting == "p2", "what is said now goes before"


def test_settings_without_effect_are_named():
    idle = TrainJob().without_effect()
    assert {"loss.p2_gamma", "loss.huber_c", "loss.pyramid_discount", "loss.timestep_bias", "loss.unmasked_weight"} <= set(idle)
    assert not {"loss.min_snr_gamma", "loss.kind", "loss.face_weight"} & set(idle)
    used = TrainJob().changed(**{
        "loss.weighting": "p2", "loss.kind": "huber", "loss.noise_offset": 0.1, "loss.pyramid_iterations": 3, "loss.masked": "auto",
        "loss.distribution": "beta",
    }).without_effect()  # fmt: skip
    assert [name for name in used if name.startswith("loss.")] == ["loss.min_snr_gamma"]


def test_only_settings_of_the_group_are_called_idle():
    assert {name.removeprefix("loss.") for name in TrainJob().without_effect() if name.startswith("loss.")} <= set(
        LossSettings.model_fields
    )


def test_the_file_tells_the_loss_under_the_scripts_names(tmp_path):
    family, parts = load_model(tiny_sd(tmp_path / "tiny"), CPU, torch.float32)

    def told(**settings) -> dict[str, str]:
        return metadata(job(**{f"loss__{name}": value for name, value in settings.items()}), family, parts, 1, 1, 0.0, {})

    usual = told()
    assert (usual["ss_min_snr_gamma"], usual["ss_loss_type"]) == ("5.0", "l2") and "ss_noise_offset" not in usual
    assert told(weighting="none")["ss_min_snr_gamma"] == "None"
    other = told(weighting="debiased", kind="huber", noise_offset=0.05, random_strength=True, pyramid_iterations=6, input_perturbation=0.1)
    names = ("noise_offset", "noise_offset_random_strength", "multires_noise_iterations", "multires_noise_discount", "ip_noise_gamma",
             "debiased_estimation", "loss_type", "huber_schedule", "huber_c")  # fmt: skip
    assert [other[f"ss_{name}"] for name in names] == ["0.05", "True", "6", "0.3", "0.1", "True", "huber", "snr", "0.1"]


# ---------------------------------------------------------------- through the loop


def digest(file: Path) -> str:
    tensors = load_file(file)
    return hashlib.sha256(b"".join(name.encode() + tensors[name].numpy().tobytes() for name in sorted(tensors))).hexdigest()


OPTIONS = {
    "huber": {"kind": "huber"},
    "smooth l1, debiased": {"kind": "smooth_l1", "huber_schedule": "exponential", "weighting": "debiased"},
    "l1, p2": {"kind": "l1", "weighting": "p2"},
    "offset": {"noise_offset": 0.1, "noise_offset_adaptive": 0.01, "random_strength": True},
    "pyramid": {"pyramid_iterations": 4},
    "perturbation": {"input_perturbation": 0.1, "random_strength": True},
    "logit-normal": {"distribution": "logit_normal", "min_timestep": 200},
    "stratified": {"distribution": "style", "stratified": True},
    "masks and faces": {"masked": "auto", "face_weight": 3.0, "normalise_area": True},
    "zero terminal": {"zero_terminal_snr": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_trains_stops_and_resumes_with_the_same_bits(workspace, monkeypatch, name):
    changes = {f"loss__{setting}": value for setting, value in OPTIONS[name].items()}
    changes |= {
        "dataset__path": "masked",
        "dataset__flip": True,
        "training__max_steps": 3,
        "model__path": "v" if "zero" in name else "tiny",
    }
    whole, _ = trained(workspace, f"{name} whole", **changes)
    run = run_of(workspace, f"{name} stopped", job(**changes))
    original, done = training.update, [0]

    def update(state):
        done[0] += 1
        if done[0] == 2:
            run.request("stop")
        return original(state)

    monkeypatch.setattr(training, "update", update)
    train(run.job(), run, workspace)
    assert not (run.weights / "coat.safetensors").exists()
    assert digest(train(run.job(), run, workspace)) == digest(whole)
    usual, _ = trained(
        workspace, f"{name} without", **{**changes, **{f"loss__{key}": LossSettings.model_fields[key].default for key in OPTIONS[name]}}
    )
    assert digest(usual) != digest(whole), "the option changes nothing"
