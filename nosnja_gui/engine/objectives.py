"""What the denoiser is asked to predict, and how much each timestep counts. Knows nothing of models, methods or data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

PredictionType = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class Objective:
    """The forward process x_t = signal_t x_0 + noise_t epsilon (Ho et al. 2020, Eq. 4) and its training target."""

    prediction_type: PredictionType
    signal: torch.Tensor  # (timesteps,) sqrt(alpha_bar)
    noise: torch.Tensor  # (timesteps,) sqrt(1 - alpha_bar)
    weight: torch.Tensor  # (timesteps,)

    @property
    def timesteps(self) -> int:
        return len(self.signal)

    def draw_timesteps(self, count: int) -> torch.Tensor:
        """Uniform timesteps (count,) from torch's current random state."""
        return torch.randint(0, self.timesteps, (count,), device=self.signal.device)

    def add_noise(self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Latents (batch, channels, h, w) at timesteps (batch,)."""
        return self._at(self.signal, timesteps) * clean + self._at(self.noise, timesteps) * noise

    def target(self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """epsilon itself, or v = signal_t epsilon - noise_t x_0 (Salimans & Ho 2022, Appendix D)."""
        if self.prediction_type == "epsilon":
            return noise
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
    """Tables of a model's own noise schedule, given as its scheduler's configuration."""
    alphas = alphas_cumprod(noise_schedule)
    weight = torch.ones_like(alphas) if min_snr_gamma is None else min_snr_weights(alphas / (1 - alphas), min_snr_gamma, prediction_type)
    return Objective(prediction_type, *(table.float().to(device) for table in (alphas.sqrt(), (1 - alphas).sqrt(), weight)))


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
