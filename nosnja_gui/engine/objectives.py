"""What the denoiser is asked to predict, and how much each timestep counts. Knows nothing of models, methods or data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nosnja_gui.sources import PredictionType

TIMESTEPS = 1000
"""Flow matching is continuous; this many points of it are drawn, as many as the models' own tables have."""
LOGIT_MEAN, LOGIT_SPREAD = 0.0, 1.0


@dataclass(frozen=True)
class Objective:
    """The forward process x_t = signal_t x_0 + noise_t epsilon (Ho et al. 2020, Eq. 4) and its training target.

    Flow matching is the same with signal 1 - sigma and noise sigma (Esser et al. 2024, Eq. 13).
    """

    prediction_type: PredictionType
    signal: torch.Tensor  # (timesteps,) sqrt(alpha_bar), or 1 - sigma
    noise: torch.Tensor  # (timesteps,) sqrt(1 - alpha_bar), or sigma
    weight: torch.Tensor  # (timesteps,)
    times: torch.Tensor | None = None  # (timesteps,) what the model is told; None for the numbers 0, 1, 2 ... themselves

    @property
    def timesteps(self) -> int:
        return len(self.signal)

    def draw_timesteps(self, count: int) -> torch.Tensor:
        """Places in the tables (count,) from torch's current random state: uniform, for flows logit-normal (Esser et al. 2024, Eq. 19)."""
        if self.prediction_type != "flow":
            return torch.randint(0, self.timesteps, (count,), device=self.signal.device)
        share = torch.sigmoid(LOGIT_MEAN + LOGIT_SPREAD * torch.randn(count, device=self.signal.device))
        return (share * self.timesteps).long().clamp(max=self.timesteps - 1)

    def told(self, timesteps: torch.Tensor) -> torch.Tensor:
        """What the model is told of these places in the tables."""
        return timesteps if self.times is None else self.times[timesteps]

    def add_noise(self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Latents (batch, channels, h, w) at timesteps (batch,)."""
        return self._at(self.signal, timesteps) * clean + self._at(self.noise, timesteps) * noise

    def target(self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """epsilon itself; v = signal_t epsilon - noise_t x_0 (Salimans & Ho 2022, Appendix D); the flow's velocity epsilon - x_0."""
        match self.prediction_type:
            case "epsilon":
                return noise
            case "flow":
                return noise - clean
        return self._at(self.signal, timesteps) * noise - self._at(self.noise, timesteps) * clean

    def losses(self, predicted: torch.Tensor, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Weighted mean squared error of each sample (batch,), in fp32."""
        error = predicted.float() - self.target(clean, noise, timesteps)
        return self.weight[timesteps] * error.square().flatten(1).mean(1)

    def _at(self, table: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return table[timesteps].view(-1, 1, 1, 1)


def objective(
    noise_schedule: Mapping[str, Any], prediction_type: PredictionType, min_snr_gamma: float | None, device: torch.device
) -> Objective:
    """Tables of a model's own noise schedule, given as its scheduler's configuration. Min-SNR weighting is for epsilon and v only."""
    if prediction_type == "flow":
        sigmas = flow_sigmas(noise_schedule)
        weight = torch.ones_like(sigmas)
        return Objective(prediction_type, *(table.float().to(device) for table in (1 - sigmas, sigmas, weight, sigmas * TIMESTEPS)))
    alphas = alphas_cumprod(noise_schedule)
    weight = torch.ones_like(alphas) if min_snr_gamma is None else min_snr_weights(alphas / (1 - alphas), min_snr_gamma, prediction_type)
    return Objective(prediction_type, *(table.float().to(device) for table in (alphas.sqrt(), (1 - alphas).sqrt(), weight)))


def flow_sigmas(noise_schedule: Mapping[str, Any]) -> torch.Tensor:
    """sigma (timesteps,) in float64, rising, shifted towards noise as the model's resolution asks for (Esser et al. 2024, Eq. 23)."""
    shift = float(noise_schedule.get("shift") or 1.0)
    even = torch.arange(1, TIMESTEPS + 1, dtype=torch.float64) / TIMESTEPS
    return shift * even / (1 + (shift - 1) * even)


def alphas_cumprod(noise_schedule: Mapping[str, Any]) -> torch.Tensor:
    """alpha_bar (timesteps,) in float64, as the model's scheduler has it."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    known = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
    scheduler = DDPMScheduler(**{name: noise_schedule[name] for name in known if noise_schedule.get(name) is not None})
    return scheduler.alphas_cumprod.double()


def min_snr_weights(snr: torch.Tensor, gamma: float, prediction_type: PredictionType) -> torch.Tensor:
    """min(SNR, gamma) / SNR for epsilon, min(SNR, gamma) / (SNR + 1) for v (Hang et al. 2023, Eq. 7 and Section 3.4).

    At SNR 0 (zero-terminal schedules) the first is its limit, 1.
    """
    capped = snr.clamp(max=gamma)
    if prediction_type == "epsilon":
        return torch.where(snr > 0, capped / snr.clamp(min=torch.finfo(snr.dtype).tiny), 1.0)
    return capped / (snr + 1)
