"""How much work and memory a model takes, worked out from the names and shapes of its weights alone.

For diffusers' UNet2DConditionModel and AutoencoderKL and a CLIP text encoder, which Stable Diffusion 1.x, 2.x and XL have in
common; no family of its own. Counts are per picture; positions are those of the latents, 64 x 64 for a picture of 512 x 512.

The figures that formulas are fitted to were counted with torch's FlopCounterMode and as bytes of saved tensors on the real
configurations of Stable Diffusion 1.5 (512 pixels) and SDXL (1024 pixels), with flash attention and an attention LoRA of
rank 16; for other UNets they are extrapolated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from nosnja_gui.adapters.targets import PartLayers
from nosnja_gui.weights import Weights

TEXT_TOKENS = 77

RESNET_KEPT, TRANSFORMER_KEPT = 15.2, 22.0
"""Numbers kept for the backward pass, per position and channel of each ResNet block and each transformer layer.

Two unknowns from two measurements: 0.815 GiB a picture for SD 1.5, 5.68 GiB for SDXL, in bfloat16."""
CHECKPOINTED_KEPT, RECOMPUTED_KEPT = 0.367, 83.6
"""The same with gradient checkpointing: per block kept, and of the widest transformer layer, which is being recomputed.

From 0.22 GiB a picture for SD 1.5, 0.513 GiB for SDXL, in bfloat16."""
BACKWARD, RECOMPUTED = 1.18, 0.745
"""Work of the backward pass and of recomputing, as a share of the forward pass: 1.213 and 0.733 for SD 1.5, 1.144 and 0.757
for SDXL. The backward pass is short of two forward passes, as frozen weights need no gradients."""

VAE_FLOP, VAE_PARAMETERS = 1.117e12, 83_653_863
"""Encoding a picture of 512 x 512 with the autoencoder of SD 1.5; decoding takes 2.2 times as much (2.5e12)."""
DECODING = 2.24
ENCODED_KEPT, DECODED_KEPT = 4, 14
"""Numbers per pixel and channel of the autoencoder's widest blocks while it encodes and decodes. Estimated from its layers."""
TEXT_KEPT = 34
"""Numbers kept per token and channel of each layer of a text encoder that is trained. Estimated from its layers."""


class DenoiserDemand(Protocol):
    """What a denoiser asks for, whatever it is made of."""

    parameters: int
    latent_channels: int
    text_width: int
    text_tokens: int
    """How long the encoding of a text is."""
    attention_widths: tuple[int, ...]
    """Of what its attentions take their keys and values from, ascending; empty where they are of another kind than a UNet's."""

    def forward_flop(self, positions: int) -> float:
        """Multiplications and additions of a forward pass."""

    def training_flop(self, positions: int, checkpointing: bool) -> float:
        """Forward and backward pass, recomputing included."""

    def kept_numbers(self, positions: int, checkpointing: bool) -> float:
        """How many numbers a picture adds to the memory of a training step."""


@dataclass(frozen=True)
class UNetDemand:
    """What a UNet asks for."""

    parameters: int
    latent_channels: int
    text_width: int
    per_position: float
    """Multiplications and additions of a forward pass that grow with the positions (convolutions, linear layers)."""
    per_text: float
    """Those that don't: the text's keys and values."""
    per_position_squared: float
    """Those of the self attention, which grow with the square of the positions."""
    resnet_channels: float
    """Channels of all ResNet blocks, each divided by how many positions of the latents one of its own stands for."""
    transformer_channels: float
    """The same of all transformer layers."""
    widest_transformer: float
    text_tokens: int = TEXT_TOKENS
    attention_widths: tuple[int, ...] = ()
    attention_parameters: int = 0
    """Of its self and cross attentions, and of those what makes keys and values of the text."""
    text_parameters: int = 0

    def forward_flop(self, positions: int) -> float:
        return self.per_position * positions + self.per_text + self.per_position_squared * positions**2

    def training_flop(self, positions: int, checkpointing: bool) -> float:
        """Forward and backward pass, recomputing included."""
        return self.forward_flop(positions) * (1 + BACKWARD + (RECOMPUTED if checkpointing else 0))

    def kept_numbers(self, positions: int, checkpointing: bool) -> float:
        """How many numbers a picture adds to the memory of a training step."""
        if checkpointing:
            kept = CHECKPOINTED_KEPT * (self.resnet_channels + self.transformer_channels) + RECOMPUTED_KEPT * self.widest_transformer
        else:
            kept = RESNET_KEPT * self.resnet_channels + TRANSFORMER_KEPT * self.transformer_channels
        return kept * positions


@dataclass(frozen=True)
class VaeDemand:
    """What an autoencoder asks for."""

    parameters: int
    encoder_channels: int
    """Of its widest layers, those at the full size of the picture."""
    decoder_channels: int

    def encoding_flop(self, pixels: int) -> float:
        return VAE_FLOP * pixels / 512**2 * self.parameters / VAE_PARAMETERS

    def decoding_flop(self, pixels: int) -> float:
        return DECODING * self.encoding_flop(pixels)

    def encoding_numbers(self, pixels: int) -> int:
        return ENCODED_KEPT * self.encoder_channels * pixels

    def decoding_numbers(self, pixels: int) -> int:
        return DECODED_KEPT * self.decoder_channels * pixels


@dataclass(frozen=True)
class TextDemand:
    """What a text encoder asks for."""

    parameters: int
    layer_parameters: int
    channels: int
    """Of all layers together."""

    def __add__(self, other: TextDemand) -> TextDemand:
        """Of two encoders that both read every caption."""
        return TextDemand(
            self.parameters + other.parameters, self.layer_parameters + other.layer_parameters, self.channels + other.channels
        )

    def training_flop(self) -> float:
        """Forward and backward pass of one caption: two forward passes' work for the latter."""
        return 3 * 2 * self.layer_parameters * TEXT_TOKENS

    def kept_numbers(self) -> int:
        return TEXT_KEPT * TEXT_TOKENS * self.channels


@dataclass(frozen=True)
class Demand:
    """What the parts of a model ask for."""

    unet: DenoiserDemand
    vae: VaeDemand
    text_encoder: TextDemand
    layers: Mapping[str, PartLayers]
    """By part that an adapter can go on; see `of_layers`."""


def of_unet(weights: Weights) -> UNetDemand:
    """From the header of a UNet's weight files."""
    parameters, squared, text_width = 0, 0.0, 0
    linear, text, resnets, transformers, widest = 0.0, 0.0, 0.0, 0.0, 0.0
    levels = 1 + max((int(match[1]) for name in weights if (match := re.match(r"down_blocks\.(\d+)\.", name))), default=0)
    for name, (_, shape) in weights.items():
        count = math.prod(shape)
        parameters += count
        share = 4.0 ** -_level(name, levels)
        if name.endswith(".attn1.to_q.weight"):
            width = shape[0] * share
            transformers += width
            widest = max(widest, width)
            # Scores and their sums: two products of positions x positions x width.
            squared += 4 * shape[0] * share**2
        elif name.endswith(".conv1.weight"):
            resnets += shape[0] * share
        if len(shape) < 2 or name.startswith(("time_embedding.", "add_embedding.", "class_embedding.")) or ".time_emb_proj." in name:
            continue  # once per picture, or next to nothing
        if re.search(r"\.attn2\.to_[kv]\.weight$", name):
            text += 2 * count * TEXT_TOKENS
            text_width = shape[1]
        else:
            linear += 2 * count * share
        if name.endswith(".attn2.to_q.weight"):
            linear += 4 * shape[0] * share * TEXT_TOKENS
    latent_channels = weights["conv_in.weight"][1][1]
    widths = attention_widths(weights)
    return UNetDemand(
        parameters, latent_channels, text_width, linear, text, squared, resnets, transformers, widest, attention_widths=widths,
        attention_parameters=_parameters({name: entry for name, entry in weights.items() if ".attn1." in name or ".attn2." in name}),
        text_parameters=_parameters({name: entry for name, entry in weights.items() if re.search(r"\.attn2\.to_[kv]\.", name)}),
    )  # fmt: skip


def attention_widths(weights: Weights) -> tuple[int, ...]:
    """Widths of what the keys of a UNet's attentions are made from: those of the text and of its own layers, ascending."""
    return tuple(sorted({shape[1] for name, (_, shape) in weights.items() if name.endswith((".attn1.to_k.weight", ".attn2.to_k.weight"))}))


def of_vae(weights: Weights) -> VaeDemand:
    """From the header of an autoencoder's weight files."""
    return VaeDemand(_parameters(weights), weights["encoder.conv_in.weight"][1][0], weights["decoder.conv_out.weight"][1][1])


def of_text_encoder(weights: Weights) -> TextDemand:
    """From the header of a CLIP text encoder's weight files."""
    shapes = {name: shape for name, (_, shape) in weights.items()}
    layers = sum(math.prod(shape) for name, shape in shapes.items() if ".layers." in name and len(shape) == 2)
    return TextDemand(_parameters(weights), layers, sum(shape[0] for name, shape in shapes.items() if name.endswith(".q_proj.weight")))


def of_layers(weights: Weights, attention: tuple[str, ...]) -> PartLayers:
    """The layers of a part by the names its modules have once they are loaded, and how those of its attentions end."""
    ends = ".weight"
    shapes = {name.removesuffix(ends).removeprefix("text_model."): shape for name, (_, shape) in weights.items() if name.endswith(ends)}
    return PartLayers(shapes, attention)


def _parameters(weights: Weights) -> int:
    return sum(math.prod(shape) for _, shape in weights.values())


def _level(name: str, levels: int) -> int:
    """How often the latents have been halved where this weight is used."""
    match = re.match(r"(down_blocks|up_blocks)\.(\d+)\.(\w+)\.", name)
    if match is None:
        return levels - 1 if name.startswith("mid_block.") else 0
    direction, block, kind = match[1], int(match[2]), match[3]
    if direction == "down_blocks":
        return block + 1 if kind == "downsamplers" else block
    return levels - 2 - block if kind == "upsamplers" else levels - 1 - block
