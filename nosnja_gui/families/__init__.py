"""Model families: a new one is one file here with `ENTRY = Family()`. No torch at import.

A family exposes parts and knows everything that is special about its models; methods, the loop and the
sampler ask it and never look at its name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from nosnja_gui.registry import Shelf

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from nosnja_gui.adapters import Adapter, PartNames
    from nosnja_gui.families.demand import Demand
    from nosnja_gui.sources import Original, OriginalPart, PredictionType, Source


@dataclass
class Parts:
    """A loaded model, taken apart. Frozen and in eval mode when it comes from `Family.load`."""

    denoiser: torch.nn.Module
    """The UNet or transformer."""
    vae: torch.nn.Module
    text_encoders: list[torch.nn.Module]
    tokenizers: list[Any]
    noise_schedule: dict[str, Any]
    """The scheduler's configuration (betas, num_train_timesteps, shift ...)."""
    prediction_type: PredictionType
    device: torch.device
    dtype: torch.dtype
    base_name: str
    base_hash: str
    """Short hash of the base weights, written into what is trained on them."""
    worn: dict[str, dict[str, float]] = field(default_factory=dict)
    """What is put on, by method, name and weight; kept by the methods."""
    words: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    """Words that were taught to the text encoders: in small letters, with their ids in each encoder. Ids of theirs are negative."""
    patches: dict[str, Adapter] = field(default_factory=dict)
    """What of them is added to the weights themselves, and the weights as they were, by part, module and "weight" or "bias"."""
    originals: dict[tuple[str, str, str], torch.Tensor] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    """What else a method keeps with the parts, by its name."""

    @property
    def adapters(self) -> dict[str, float]:
        """Applied LoRAs by name and weight."""
        return self.worn.setdefault("lora", {})


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
    short: str
    """As LoRA files of it are called for short: SD 1.x."""
    kohya_version: str
    """What kohya's trainer and its readers call it (`ss_base_model_version`)."""
    original: Original | None
    """What its single files look like; None where it has none that can be read."""
    standard: Path
    """Configurations of the usual model, for what is known without having one."""

    adapter_parts: tuple[str, ...]
    """Parts that adapters can go on: unet, text_encoder ..."""

    embedding_keys: tuple[str, ...]
    """What files call the vectors of a new word in each text encoder; empty where its prompts take no new words."""

    def recognises(self, source: Source) -> bool:
        """Whether a folder is a model of this family, from its configuration alone (cheap, no weights)."""

    def check(self, source: Source) -> None:
        """Raises UserError in one sentence for what is wrong with a model, as far as it shows without loading it."""

    def load(self, source: Source, device: torch.device, dtype: torch.dtype, parts: tuple[str, ...] = ...) -> Parts:
        """Load a model. Raises UserError in one sentence for a missing, wrong or damaged one."""

    def skeleton(self, source: Source) -> Parts:
        """The modules without their weights, on the meta device: for names and shapes."""

    def prediction_of(self, source: Source) -> PredictionType:
        """What this very model predicts."""

    def size_of(self, source: Source) -> int:
        """Native side in pixels of this very model."""

    def demand(self, source: Source) -> Demand:
        """How much work and memory this very model takes, from the headers of its weight files."""

    def modelspec(self, parts: Parts) -> str:
        """Its architecture as the modelspec metadata calls it: stable-diffusion-v1."""

    def encode_images(self, parts: Parts, pixels: torch.Tensor) -> torch.Tensor:
        """pixels (batch, 3, height, width) in [-1, 1] -> scaled latents: mean and standard deviation.

        (batch, 2, channels, height/8, width/8); Stable Diffusion has 4 channels.
        """

    def decode_latents(self, parts: Parts, latents: torch.Tensor) -> torch.Tensor:
        """latents (batch, channels, height/8, width/8) -> pixels (batch, 3, height, width) in [-1, 1]."""

    def encode_prompts(
        self, parts: Parts, prompts: list[str], clip_skip: int = 1, max_chunks: int = 1, *, min_chunks: int = 1, weighted: bool = False
    ) -> TextEncoding:
        """Differentiable where the text encoder is being trained. clip_skip N: the N-th of its usual hidden states from the end.

        Prompts longer than a window of 75 tokens are encoded in up to `max_chunks` windows (and always in `min_chunks` at
        least); what is beyond is cut off. `weighted`: (words:1.3) count more, see emphasis.py; else brackets are letters. Words in
        `parts.words` are looked up by the ids that they have there.
        """

    def word_tables(self, parts: Parts) -> list[torch.nn.Module]:
        """The module of each text encoder whose `token_embedding` looks ids up, in the order of `embedding_keys`."""

    def predict(
        self, parts: Parts, noisy: torch.Tensor, timesteps: torch.Tensor, text: TextEncoding, framing: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The denoiser's output for noisy latents (batch, channels, h, w) at timesteps (batch,).

        `framing` (batch, 6): height and width of the original picture, top and left of the crop, height and width that it was cropped
        to, in pixels; families that don't look at it are free to ignore it, and None means a picture that was painted whole.
        """

    def trainable_modules(self, parts: Parts) -> dict[str, tuple[torch.nn.Module, tuple[str, ...]]]:
        """Part name -> (module, suffixes of its attention projections): where adapters go."""

    def names(self, parts: Parts) -> list[PartNames]:
        """How files of every layout name the modules of the parts that adapters go on; of those that are loaded."""

    def pipeline(self, parts: Parts) -> Any:
        """diffusers' own pipeline around these very parts, for what is to be tried as its users would."""

    def vae_original(self) -> OriginalPart:
        """How to read an autoencoder of this family in the original layout."""


FAMILIES: Shelf[Family] = Shelf("nosnja_gui.families", "model family")
