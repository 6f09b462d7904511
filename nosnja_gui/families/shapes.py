"""Configurations of the parts of an original file, worked out from the shapes of its weights; no family of its own.

A checkpoint doesn't bring its configuration along. The usual way is to know the few standard models; reading the shapes also
understands those with fewer or wider blocks. What shapes don't tell (heads, activations) follows the rule of the standard models.
All functions get names without the part's prefix and raise KeyError, IndexError or ValueError for weights of another kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nosnja_gui.weights import Weights

HEAD_CHANNELS = 64
"""Channels of an attention head in SD 2.x, SDXL and in every CLIP text encoder; SD 1.x has 8 heads instead."""


def unet(weights: Weights, heads: int | None, sample_size: int) -> dict[str, Any]:
    """Of a UNet2DConditionModel. `heads`: how many of them every attention has; None for heads of 64 channels."""
    shapes = {name: shape for name, (_, shape) in weights.items()}
    levels = _levels(shapes)
    channels = [resnets[0][0] for resnets in levels]
    layers = {len(resnets) for resnets in levels}
    depths = [{depth for _, depth in resnets} for resnets in levels]
    if len(layers) != 1 or any(len(found) != 1 for found in depths):
        raise ValueError("its levels are uneven")
    depth = [found.pop() for found in depths]
    middle = _depth(shapes, "middle_block.1.")
    if middle != (depth[-1] or middle):
        raise ValueError(f"its middle has {middle} transformer layers instead of {depth[-1]}")
    first = next(name for name in shapes if name.endswith("attn2.to_k.weight"))
    if not depth[-1]:
        depth[-1] = middle  # the last level has none of its own, and the middle takes its number from there
    per_level = [_has_attention(shapes, level, layers_per_level=max(layers)) for level in range(len(levels))]
    config = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size,
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": layers.pop(),
        "down_block_types": ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in per_level],
        "up_block_types": ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(per_level)],
        "cross_attention_dim": shapes[first][1],
        # diffusers calls the number of heads attention_head_dim here; that name is in every published configuration.
        "attention_head_dim": heads or [count // HEAD_CHANNELS for count in channels],
        "use_linear_projection": len(shapes[f"{first.partition('transformer_blocks.')[0]}proj_in.weight"]) == 2,
    }
    if set(depth) - {0, 1}:
        config["transformer_layers_per_block"] = [count or 1 for count in depth]
    if "label_emb.0.0.weight" in shapes:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": shapes["label_emb.0.0.weight"][1],
        }
    return config


def _levels(shapes: Mapping[str, tuple[int, ...]]) -> list[list[tuple[int, int]]]:
    """(channels, transformer layers) of each ResNet block, by level; a downsampler ends a level."""
    levels: list[list[tuple[int, int]]] = [[]]
    block = 1
    while any(name in shapes for name in (f"input_blocks.{block}.0.op.weight", f"input_blocks.{block}.0.out_layers.3.weight")):
        if f"input_blocks.{block}.0.op.weight" in shapes:
            levels.append([])
        else:
            levels[-1].append((shapes[f"input_blocks.{block}.0.out_layers.3.weight"][0], _depth(shapes, f"input_blocks.{block}.1.")))
        block += 1
    return levels


def _depth(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    start = f"{prefix}transformer_blocks."
    return len({name.removeprefix(start).partition(".")[0] for name in shapes if name.startswith(start)})


def _has_attention(shapes: Mapping[str, tuple[int, ...]], level: int, layers_per_level: int) -> bool:
    return _depth(shapes, f"input_blocks.{1 + level * (layers_per_level + 1)}.1.") > 0


def vae(weights: Weights, scaling_factor: float, **more: Any) -> dict[str, Any]:
    """Of an AutoencoderKL; `scaling_factor` and `more` are what the family's latents are scaled by."""
    shapes = {name: shape for name, (_, shape) in weights.items()}
    levels = 0
    channels = []
    while f"encoder.down.{levels}.block.0.conv1.weight" in shapes:
        channels.append(shapes[f"encoder.down.{levels}.block.0.conv1.weight"][0])
        levels += 1
    layers = len({name.split(".")[4] for name in shapes if name.startswith("encoder.down.0.block.")})
    if not channels or not layers:
        raise ValueError("its encoder has no blocks")
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "scaling_factor": scaling_factor,
        **more,
    }


def clip(weights: Weights) -> dict[str, Any]:
    """Of a CLIP text encoder under transformers' names, such as ViT-L/14."""
    shapes = {name.removeprefix("text_model."): shape for name, (_, shape) in weights.items()}
    tokens, width = shapes["embeddings.token_embedding.weight"]
    layers = {match[1] for name in shapes if (match := re.match(r"encoder\.layers\.(\d+)\.", name))}
    return _text_config(
        tokens, width, shapes["embeddings.position_embedding.weight"][0], len(layers), shapes["encoder.layers.0.mlp.fc1.weight"][0]
    )


def open_clip(weights: Weights, unused_layers: int = 0) -> dict[str, Any]:
    """Of an OpenCLIP text encoder; SD 2.x leaves its last layer unused."""
    shapes = {name: shape for name, (_, shape) in weights.items()}
    tokens, width = shapes["token_embedding.weight"]
    layers = len({match[1] for name in shapes if (match := re.match(r"transformer\.resblocks\.(\d+)\.", name))}) - unused_layers
    projected = shapes["text_projection"][1] if "text_projection" in shapes else width
    inner = shapes["transformer.resblocks.0.mlp.c_fc.weight"][0]
    return _text_config(tokens, width, shapes["positional_embedding"][0], layers, inner) | {
        "hidden_act": "gelu",
        "projection_dim": projected,
    }


def _text_config(tokens: int, width: int, positions: int, layers: int, inner: int) -> dict[str, Any]:
    if not layers:
        raise ValueError("it has no layers")
    return {
        "vocab_size": tokens,
        "hidden_size": width,
        "max_position_embeddings": positions,
        "num_hidden_layers": layers,
        "num_attention_heads": width // HEAD_CHANNELS,
        "intermediate_size": inner,
        "projection_dim": width,
        "hidden_act": "quick_gelu",
        "bos_token_id": tokens - 2,
        "eos_token_id": tokens - 1,
        "pad_token_id": 1,
    }
