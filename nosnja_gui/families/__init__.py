"""Model families: a new one is one file here with `ENTRY = Family()`. No torch at import.

A family exposes parts and knows everything that is special about its models; methods, the loop and the
sampler ask it and never look at its name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from nosnja_gui.registry import Shelf

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from nosnja_gui.families.demand import Demand, Weights


@dataclass
class Parts:
    """A loaded model, taken apart. Frozen and in eval mode when it comes from `Family.load`."""

    unet: torch.nn.Module
    vae: torch.nn.Module
    text_encoders: list[torch.nn.Module]
    tokenizers: list[Any]
    noise_schedule: dict[str, Any]
    """The scheduler's configuration (betas, num_train_timesteps, prediction_type ...)."""
    prediction_type: Literal["epsilon", "v_prediction"]
    device: torch.device
    dtype: torch.dtype
    base_name: str
    base_hash: str
    """Short hash of the base weights, written into what is trained on them."""
    adapters: dict[str, float] = field(default_factory=dict)
    """Applied adapters by name and weight, kept by the methods."""


@dataclass(frozen=True)
class TextEncoding:
    """What the denoiser is conditioned on."""

    hidden: torch.Tensor  # (batch, tokens, width)
    pooled: torch.Tensor | None = None  # (batch, width)

    def __getitem__(self, rows: Any) -> TextEncoding:
        return TextEncoding(self.hidden[rows], None if self.pooled is None else self.pooled[rows])


class Family(Protocol):
    name: str
    title: str
    native_size: int
    """Side in pixels at which its models were trained, where the model itself doesn't say."""
    latent_factor: int

    def recognises(self, model: Path) -> bool:
        """Whether the model at this path is of this family, from its configuration alone (cheap, no weights)."""

    def check(self, model: Path) -> None:
        """Raises UserError in one sentence for what is wrong with a model, as far as it shows without loading it."""

    def load(self, model: Path, device: torch.device, dtype: torch.dtype, parts: tuple[str, ...] = ...) -> Parts:
        """Load a model. Raises UserError in one sentence for a missing, wrong or damaged one."""

    def size_of(self, model: Path) -> int:
        """Native side in pixels of this very model."""

    def demand(self, headers: Mapping[str, Weights]) -> Demand:
        """How much work and memory this very model takes, from the headers of its weight files by part."""

    def encode_images(self, parts: Parts, pixels: torch.Tensor) -> torch.Tensor:
        """pixels (batch, 3, height, width) in [-1, 1] -> scaled latents: mean and standard deviation.

        (batch, 2, channels, height/8, width/8); Stable Diffusion has 4 channels.
        """

    def decode_latents(self, parts: Parts, latents: torch.Tensor) -> torch.Tensor:
        """latents (batch, channels, height/8, width/8) -> pixels (batch, 3, height, width) in [-1, 1]."""

    def encode_prompts(self, parts: Parts, prompts: list[str], clip_skip: int = 1, max_chunks: int = 1) -> TextEncoding:
        """Differentiable where the text encoder is being trained. clip_skip N: the N-th hidden state from the end.

        Prompts longer than a window of 75 tokens are encoded in up to `max_chunks` windows; what is beyond is cut off.
        """

    def predict(self, parts: Parts, noisy: torch.Tensor, timesteps: torch.Tensor, text: TextEncoding) -> torch.Tensor:
        """The denoiser's output for noisy latents (batch, channels, h, w) at timesteps (batch,)."""

    def trainable_modules(self, parts: Parts) -> dict[str, tuple[torch.nn.Module, tuple[str, ...]]]:
        """Part name -> (module, suffixes of its attention projections): where adapters go."""

    def kohya_prefix(self, part: str) -> str:
        """`lora_unet_` and the like: how the kohya layout begins the module names of a part."""


FAMILIES: Shelf[Family] = Shelf("nosnja_gui.families", "model family")
