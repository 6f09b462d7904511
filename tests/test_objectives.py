import math

import pytest
import torch

from nosnja_gui.engine.objectives import Objective, alphas_cumprod, objective
from nosnja_gui.jobs import LossSettings

SD15 = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


PLAIN, MIN_SNR = LossSettings(weighting="none"), LossSettings(weighting="min_snr", min_snr_gamma=5)


def half_and_half(prediction_type: str) -> Objective:
    """One timestep with alpha_bar = 0.36: signal 0.6, noise 0.8."""
    return Objective(prediction_type, torch.tensor([0.6]), torch.tensor([0.8]), torch.tensor([2.0]))


def test_alpha_bar_is_that_of_stable_diffusion():
    betas = [(0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * i / 999) ** 2 for i in range(1000)]
    alphas = alphas_cumprod(SD15)
    assert alphas[0].item() == pytest.approx(1 - 0.00085, rel=1e-6)
    assert alphas[999].item() == pytest.approx(math.prod(1 - beta for beta in betas), rel=1e-4)


def test_noise_is_added_in_the_schedules_proportion():
    clean, noise = torch.full((1, 4, 2, 2), 10.0), torch.full((1, 4, 2, 2), 1.0)
    noisy = half_and_half("epsilon").add_noise(clean, noise, torch.tensor([0]))
    assert torch.allclose(noisy, torch.full_like(noisy, 0.6 * 10 + 0.8))


def test_epsilon_is_the_noise_and_v_turns_it_by_a_right_angle():
    clean, noise = torch.full((1, 4, 2, 2), 10.0), torch.full((1, 4, 2, 2), 1.0)
    assert torch.equal(half_and_half("epsilon").target(clean, noise, torch.tensor([0])), noise)
    v = half_and_half("v_prediction").target(clean, noise, torch.tensor([0]))
    assert torch.allclose(v, torch.full_like(v, 0.6 - 0.8 * 10))


def test_clean_latents_follow_from_v():
    process = half_and_half("v_prediction")
    clean, noise, at = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2), torch.tensor([0])
    noisy, v = process.add_noise(clean, noise, at), process.target(clean, noise, at)
    assert torch.allclose(0.6 * noisy - 0.8 * v, clean, atol=1e-6)


def test_loss_is_the_weighted_mean_square_of_each_sample():
    process = half_and_half("epsilon")
    noise = torch.zeros(2, 4, 2, 2)
    predicted = torch.stack([torch.full((4, 2, 2), 1.0), torch.full((4, 2, 2), 3.0)])
    losses = process.losses(predicted, noise, noise, torch.tensor([0, 0]))
    assert losses.tolist() == pytest.approx([2.0, 18.0])


def test_min_snr_on_the_real_schedule_lowers_the_clean_end_only():
    weights = objective(SD15, "epsilon", MIN_SNR, torch.device("cpu")).weight
    snr_0 = (1 - 0.00085) / 0.00085
    assert weights[0].item() == pytest.approx(5 / snr_0, rel=1e-3)
    assert weights[999].item() == 1
    assert torch.all(weights[1:] >= weights[:-1])


def test_without_min_snr_all_timesteps_count_the_same():
    assert objective(SD15, "epsilon", PLAIN, torch.device("cpu")).weight.unique().tolist() == [1]


def test_zero_terminal_schedule_has_finite_weights():
    for prediction_type in ("epsilon", "v_prediction"):
        weights = objective({**SD15, "rescale_betas_zero_snr": True}, prediction_type, MIN_SNR, torch.device("cpu")).weight
        assert torch.isfinite(weights).all()


def test_timesteps_are_uniform_and_repeatable():
    process = objective(SD15, "epsilon", PLAIN, torch.device("cpu"))
    torch.manual_seed(3)
    first = process.draw_timesteps(4000)
    torch.manual_seed(3)
    assert torch.equal(first, process.draw_timesteps(4000))
    assert first.min() >= 0 and first.max() <= 999
    assert first.float().mean().item() == pytest.approx(499.5, abs=15)
