"""What the denoiser is asked to predict, the noise it is shown, and how much errors count. Knows nothing of models, methods or data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nosnja_gui import timesteps as courses
from nosnja_gui.jobs import LossSettings
from nosnja_gui.sources import PredictionType

TIMESTEPS = 1000
"""Flow matching is continuous; this many points of it are drawn, as many as the models' own tables have."""
LOGIT_MEAN, LOGIT_SPREAD = 0.0, 1.0
USUAL = LossSettings()


@dataclass(frozen=True)
class Objective:
    """The forward process x_t = signal_t x_0 + noise_t epsilon (Ho et al. 2020, Eq. 4) and its training target.

    Flow matching is the same with signal 1 - sigma and noise sigma (Esser et al. 2024, Eq. 13). All tables are on the device.
    """

    prediction_type: PredictionType
    signal: torch.Tensor  # (timesteps,) sqrt(alpha_bar), or 1 - sigma
    noise: torch.Tensor  # (timesteps,) sqrt(1 - alpha_bar), or sigma
    weight: torch.Tensor  # (timesteps,)
    times: torch.Tensor | None = None  # (timesteps,) what the model is told; None for the numbers 0, 1, 2 ... themselves
    settings: LossSettings = USUAL
    cumulative: torch.Tensor | None = None  # (timesteps,) share of the draws up to each timestep; None for the model's own way
    threshold: torch.Tensor | None = None  # (timesteps,) of a Huber loss

    @property
    def timesteps(self) -> int:
        return len(self.signal)

    def draw_noise(self, clean: torch.Tensor) -> torch.Tensor:
        """Noise like the latents (batch, channels, h, w), from torch's current random state: what the model has to find."""
        noise, settings = torch.randn_like(clean), self.settings
        if settings.noise_offset:
            noise = with_offset(noise, clean, self._strength(settings.noise_offset, clean), settings.noise_offset_adaptive)
        if settings.pyramid_iterations:
            noise = pyramid(noise, settings.pyramid_iterations, settings.pyramid_discount)
        return noise

    def perturbed(self, noise: torch.Tensor) -> torch.Tensor:
        """What is added in the place of the noise: noise + gamma xi, while the target stays (Ning et al. 2023, "Input Perturbation")."""
        gamma = self.settings.input_perturbation
        return noise + self._strength(gamma, noise) * torch.randn_like(noise) if gamma else noise

    def draw_timesteps(self, count: int) -> torch.Tensor:
        """Places in the tables (count,) from torch's current random state, of the distribution that is set.

        As models are trained, that is uniform, for flows logit-normal (Esser et al. 2024, Eq. 19). Stratified, one uniform number
        is moved on by 1/count for each sample (Kingma et al. 2021, the low-discrepancy sampler): each sample alone is drawn as ever.
        """
        device = self.signal.device
        if self.cumulative is not None:
            even = torch.arange(count, device=device) / count
            uniform = (torch.rand(1, device=device) + even) % 1 if self.settings.stratified else torch.rand(count, device=device)
            # The first place whose sum is above; what is never drawn has the sum of the place before it.
            return torch.searchsorted(self.cumulative, uniform, right=True).clamp(max=self.timesteps - 1)
        if self.prediction_type != "flow":
            return torch.randint(0, self.timesteps, (count,), device=device)
        share = torch.sigmoid(LOGIT_MEAN + LOGIT_SPREAD * torch.randn(count, device=device))
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

    def losses(
        self,
        predicted: torch.Tensor,
        clean: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        places: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Weighted mean loss of each sample (batch,), in fp32; `places` (batch, 1, h, w) says how much each place of the latents counts."""
        each = self._loss(predicted.float() - self.target(clean, noise, timesteps), timesteps)
        return self.weight[timesteps] * (each if places is None else places * each).flatten(1).mean(1)

    def _loss(self, error: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Of each number. The Huber losses are those of kohya-ss/sd-scripts (library/train_util.py, `conditional_loss`): with the
        timestep's threshold c, "huber" is 2 c (sqrt(error^2 + c^2) - c), error^2 where it is small; "smooth_l1" is that over c.
        """
        match self.settings.kind:
            case "mse":
                return error.square()
            case "l1":
                return error.abs()
        c = self._at(self.threshold, timesteps)
        # The same as 2 (sqrt(error^2 + c^2) - c), in which small errors would be lost between two large numbers.
        smooth = 2 * error.square() / ((error.square() + c.square()).sqrt() + c)
        return c * smooth if self.settings.kind == "huber" else smooth

    def _strength(self, most: float, like: torch.Tensor) -> float | torch.Tensor:
        """The number itself, or one between 0 and it for each sample."""
        return most * torch.rand((len(like), 1, 1, 1), device=like.device) if self.settings.random_strength else most

    def _at(self, table: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return table[timesteps].view(-1, 1, 1, 1)


def objective(
    noise_schedule: Mapping[str, Any], prediction_type: PredictionType, settings: LossSettings, device: torch.device
) -> Objective:
    """Tables of a model's own noise schedule, given as its scheduler's configuration. Weighting is for epsilon and v only."""
    times = None
    if prediction_type == "flow":
        noise = flow_sigmas(noise_schedule)
        signal, times = 1 - noise, (noise * TIMESTEPS).float().to(device)
        snr = torch.ones_like(noise)
    else:
        alphas = alphas_cumprod(noise_schedule)
        signal, noise, snr = alphas.sqrt(), (1 - alphas).sqrt(), alphas / (1 - alphas)

    def table(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64).float().to(device)

    shares = settings.shares(prediction_type == "flow", len(signal))
    thresholds = courses.huber_thresholds(settings.huber_schedule, settings.huber_c, signal.tolist(), noise.tolist())
    return Objective(
        prediction_type,
        signal.float().to(device),
        noise.float().to(device),
        table(settings.weights(snr.tolist(), prediction_type)),
        times,
        settings,
        None if shares is None else table(courses.cumulative(shares)),
        table(thresholds),
    )


def noise_schedule_of(noise_schedule: Mapping[str, Any], settings: LossSettings) -> dict[str, Any]:
    """The model's own schedule, or that brought to end in pure noise (Lin et al. 2023, Algorithm 1), where sampling then starts."""
    rescaled = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if settings.zero_terminal_snr else {}
    return {**noise_schedule, **rescaled}


def with_offset(noise: torch.Tensor, clean: torch.Tensor, offset: float | torch.Tensor, adaptive: float = 0.0) -> torch.Tensor:
    """noise + offset * one normal number for each channel of each sample (Guttenberg 2023, "Diffusion with Offset Noise").

    `adaptive` times the absolute mean of the channel's latents is added to the offset, which stays at least 0
    (kohya-ss/sd-scripts, library/custom_train_functions.py, `apply_noise_offset`). Mean of a channel: variance 1/(h w) + offset^2.
    """
    if adaptive:
        offset = (offset + adaptive * clean.mean((2, 3), keepdim=True).abs()).clamp(min=0)
    return noise + offset * torch.randn((*noise.shape[:2], 1, 1), device=noise.device)


def pyramid(noise: torch.Tensor, iterations: int, discount: float) -> torch.Tensor:
    """The noise with coarser noise added, scaled back to a mean square of 1 (Whitaker 2023, "Multi-Resolution Noise").

    Level i is drawn at sides divided by r^i for an r from 2 to 4, enlarged bilinearly and weighted by discount^i, until a side is 1,
    as in kohya-ss/sd-scripts (library/custom_train_functions.py, `pyramid_noise_like`); but each sample is scaled by itself.
    """
    batch, channels, height, width = noise.shape
    for level in range(iterations):
        # On the processor, whose generator `manual_seed` sets, too: sizes have to be known before anything is drawn on the device.
        ratio = (2 + 2 * torch.rand(()).item()) ** level
        size = max(1, int(height / ratio)), max(1, int(width / ratio))
        coarse = torch.randn((batch, channels, *size), device=noise.device)
        noise = noise + discount**level * torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
        if min(size) == 1:
            break
    return noise / noise.square().mean((1, 2, 3), keepdim=True).sqrt()


def weight_places(mask: torch.Tensor, faces: torch.Tensor, settings: LossSettings) -> torch.Tensor:
    """How much each place counts (batch, 1, h, w), of what of it is in the mask and in a face, both (batch, 1, h, w) from 0 to 1.

    Outside the mask it is at least `unmasked_weight`, as in Nerogar/OneTrainer (modules/util/loss/masked_loss.py); a face counts
    `face_weight` times as much as the rest.
    """
    weight = mask.clamp(min=settings.unmasked_weight) * (1 + (settings.face_weight - 1) * faces)
    if settings.normalise_area:
        # A mask with nothing in it stays without a say.
        weight = weight / weight.mean((1, 2, 3), keepdim=True).clamp(min=1e-6)
    return weight


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
