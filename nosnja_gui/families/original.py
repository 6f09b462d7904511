"""Where the weights of a model stand in the original single-file layout of CompVis and Stability, worked out from its configuration.

The names are diffusers' and transformers' ones, those of text encoders always with the classic `text_model.` in front. Nothing
is read here and no tensor is touched. The layout: CompVis/stable-diffusion, ldm/modules/diffusionmodules/openaimodel.py
and model.py; mlfoundations/open_clip, src/open_clip/transformer.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nosnja_gui.sources import Filler, Names, Origin

if TYPE_CHECKING:
    import torch

UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "conv_shortcut": "nin_shortcut"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
TRANSFORMER_BLOCK = ("norm1", "norm2", "norm3", "attn1.to_out.0", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2")
TRANSFORMER_BLOCK_WITHOUT_BIAS = tuple(f"{attention}.to_{one}" for attention in ("attn1", "attn2") for one in "qkv")
CLIP_LAYER = (*(f"self_attn.{one}_proj" for one in ("q", "k", "v", "out")), "layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")
OPEN_CLIP_LAYER = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
LOGIT_SCALE = math.log(100)
"""What OpenCLIP's training holds it at (src/open_clip_train/train.py); nothing that paints looks at it."""


def unet_names(config: Mapping[str, Any]) -> Names:
    """Of a UNet2DConditionModel with this configuration. Raises KeyError where the configuration lacks its blocks."""
    channels = config["block_out_channels"]
    down, up = config["down_block_types"], config["up_block_types"]
    levels = len(channels)
    layers = _each(config.get("layers_per_block", 2), levels)
    depth = _each(config.get("transformer_layers_per_block", 1), levels)
    depth_up = config.get("reverse_transformer_layers_per_block") or depth[::-1]
    middle = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    names = _modules({"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"})
    if config.get("addition_embed_type") == "text_time":
        names |= _modules({"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"})
    names |= _modules({"conv_in": "input_blocks.0.0"})

    # The original numbers all layers of a side in one row, and the change of size between two levels counts as one on the way down.
    place, width = 1, channels[0]
    for level in range(levels):
        for layer in range(layers[level]):
            names |= _resnet(f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{place}.0", UNET_RESNET, width != channels[level])
            width = channels[level]
            if down[level].startswith("CrossAttn"):
                blocks = _each(depth[level], layers[level])[layer]
                names |= _transformer(f"down_blocks.{level}.attentions.{layer}", f"input_blocks.{place}.1", blocks)
            place += 1
        if level < levels - 1:
            names |= _modules({f"down_blocks.{level}.downsamplers.0.conv": f"input_blocks.{place}.0.op"})
            place += 1

    if middle:
        names |= _resnet("mid_block.resnets.0", "middle_block.0", UNET_RESNET, shortcut=False)
    if middle == "UNetMidBlock2DCrossAttn":
        names |= _transformer("mid_block.attentions.0", "middle_block.1", _each(depth[-1], 1)[0])
        names |= _resnet("mid_block.resnets.1", "middle_block.2", UNET_RESNET, shortcut=False)

    # There it is part of a level's last layer, behind the attention if there is one.
    place = 0
    for block, level in enumerate(reversed(range(levels))):
        attends = up[block].startswith("CrossAttn")
        for layer in range(layers[level] + 1):
            # What comes over from the way down is added to the channels, so each of these changes their number.
            names |= _resnet(f"up_blocks.{block}.resnets.{layer}", f"output_blocks.{place}.0", UNET_RESNET, shortcut=True)
            if attends:
                blocks = _each(depth_up[block], layers[level] + 1)[layer]
                names |= _transformer(f"up_blocks.{block}.attentions.{layer}", f"output_blocks.{place}.1", blocks)
            place += 1
        if level:
            names |= _modules({f"up_blocks.{block}.upsamplers.0.conv": f"output_blocks.{place - 1}.{2 if attends else 1}.conv"})
    return names | _modules({"conv_norm_out": "out.0", "conv_out": "out.2"})


def vae_names(config: Mapping[str, Any]) -> Names:
    """Of an AutoencoderKL with this configuration, its attention called as diffusers does since 0.18 (to_q, to_k, to_v, to_out.0).

    Raises KeyError where the configuration lacks its blocks.
    """
    channels, layers = config["block_out_channels"], config.get("layers_per_block", 1)
    levels = len(channels)
    names: dict[str, Origin] = {}
    for side in ("encoder", "decoder"):
        ends = {"conv_in": "conv_in", "conv_norm_out": "norm_out", "conv_out": "conv_out"}
        names |= _modules({f"{side}.{name}": f"{side}.{key}" for name, key in ends.items()})
        for number in (0, 1):
            names |= _resnet(f"{side}.mid_block.resnets.{number}", f"{side}.mid.block_{number + 1}", VAE_RESNET, shortcut=False)
        if config.get("mid_block_add_attention", True):
            attention = {f"{side}.mid_block.attentions.0.{name}": f"{side}.mid.attn_1.{key}" for name, key in VAE_ATTENTION.items()}
            names |= _modules(attention)

    width = channels[0]
    for level in range(levels):
        for layer in range(layers):
            where = f"encoder.down_blocks.{level}.resnets.{layer}"
            names |= _resnet(where, f"encoder.down.{level}.block.{layer}", VAE_RESNET, width != channels[level])
            width = channels[level]
        if level < levels - 1:
            names |= _modules({f"encoder.down_blocks.{level}.downsamplers.0.conv": f"encoder.down.{level}.downsample.conv"})

    # The original's decoder counts its levels from the finest, diffusers from the coarsest.
    for block, level in enumerate(reversed(range(levels))):
        for layer in range(layers + 1):
            where = f"decoder.up_blocks.{block}.resnets.{layer}"
            names |= _resnet(where, f"decoder.up.{level}.block.{layer}", VAE_RESNET, width != channels[level])
            width = channels[level]
        if level:
            names |= _modules({f"decoder.up_blocks.{block}.upsamplers.0.conv": f"decoder.up.{level}.upsample.conv"})

    for name in ("quant_conv", "post_quant_conv"):
        if config.get(f"use_{name}", True):
            names |= _modules({name: name})
    return names


def clip_names(config: Mapping[str, Any]) -> Names:
    """Of a CLIPTextModel in a file that keeps it as transformers once named it: SD 1.x and the first encoder of SDXL."""
    layers = (f"text_model.encoder.layers.{layer}.{name}" for layer in range(config["num_hidden_layers"]) for name in CLIP_LAYER)
    embeddings = ("text_model.embeddings.token_embedding.weight", "text_model.embeddings.position_embedding.weight")
    return {name: Origin(name) for name in embeddings} | _modules({name: name for name in (*layers, "text_model.final_layer_norm")})


def open_clip_names(config: Mapping[str, Any], projection: bool) -> Names:
    """Of a CLIPTextModel in a file that keeps it as OpenCLIP does: SD 2.x, and with its projection the second encoder of SDXL.

    A file may hold more layers than the configuration has: SD 2.x has 24 and was trained on what the last but one puts out.
    """
    names = {
        "text_model.embeddings.token_embedding.weight": Origin("token_embedding.weight"),
        "text_model.embeddings.position_embedding.weight": Origin("positional_embedding"),
    }
    for layer in range(config["num_hidden_layers"]):
        name, key = f"text_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for third, one in enumerate("qkv"):
            for kind in ("weight", "bias"):
                names[f"{name}.self_attn.{one}_proj.{kind}"] = Origin(f"{key}.attn.in_proj_{kind}", third)
        names |= _modules({f"{name}.{ours}": f"{key}.{theirs}" for ours, theirs in OPEN_CLIP_LAYER.items()})
    names |= _modules({"text_model.final_layer_norm": "ln_final"})
    if projection:
        names["text_projection.weight"] = Origin("text_projection", transposed=True)
    return names


def clip_fillers(config: Mapping[str, Any]) -> dict[str, Filler]:
    """The numbers of the places, which transformers once kept among a CLIPTextModel's weights (models/clip/modeling_clip.py)."""
    places = config.get("max_position_embeddings", 77)

    def numbers() -> torch.Tensor:
        import torch

        return torch.arange(places)[None]

    return {"text_model.embeddings.position_ids": Filler((1, places), numbers)}


def open_clip_fillers(config: Mapping[str, Any], whole: bool) -> dict[str, Filler | str]:
    """What OpenCLIP's text tower has besides (src/open_clip/model.py): its scale, and its unused rest where a model isn't the `whole`.

    SD 2.x leaves the last layer out and the projection behind it. Readers build both and look at neither; as kohya-ss/sd-scripts has
    it (library/model_util.py, convert_text_encoder_state_dict_to_sd_v2), the layer before stands there twice.
    """

    def scale() -> torch.Tensor:
        import torch

        return torch.tensor(LOGIT_SCALE)

    def identity() -> torch.Tensor:
        import torch

        return torch.eye(width)

    width, layers = config["hidden_size"], config["num_hidden_layers"]
    found: dict[str, Filler | str] = {"logit_scale": Filler((), scale)}
    if not whole:
        last = f"transformer.resblocks.{layers - 1}."
        keys = {origin.key for origin in open_clip_names(config, projection=False).values()}
        found |= {f"transformer.resblocks.{layers}.{key.removeprefix(last)}": key for key in sorted(keys) if key.startswith(last)}
        found["text_projection"] = Filler((width, width), identity)
    return found


def shape_there(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a weight in an original file: its autoencoder's attention is made of 1x1 convolutions, diffusers' of linear layers."""
    return (*shape, 1, 1) if ".mid.attn_1." in key and len(shape) == 2 else shape


def _each(value: Any, count: int) -> list[Any]:
    """diffusers lets one number stand for all levels, or for all layers of a level."""
    return [value] * count if isinstance(value, int) else list(value)


def _modules(modules: Mapping[str, str]) -> dict[str, Origin]:
    """Weight and bias of each module."""
    return {f"{name}.{kind}": Origin(f"{key}.{kind}") for name, key in modules.items() for kind in ("weight", "bias")}


def _resnet(name: str, key: str, modules: Mapping[str, str], shortcut: bool) -> dict[str, Origin]:
    """`shortcut`: whether it changes the number of channels, so that what goes past it is convolved."""
    return _modules({f"{name}.{ours}": f"{key}.{theirs}" for ours, theirs in modules.items() if shortcut or ours != "conv_shortcut"})


def _transformer(name: str, key: str, depth: int) -> dict[str, Origin]:
    """Both call everything within it alike."""
    inside = [f"{module}.{kind}" for module in ("norm", "proj_in", "proj_out") for kind in ("weight", "bias")]
    for block in range(depth):
        inside += [f"transformer_blocks.{block}.{module}.{kind}" for module in TRANSFORMER_BLOCK for kind in ("weight", "bias")]
        inside += [f"transformer_blocks.{block}.{module}.weight" for module in TRANSFORMER_BLOCK_WITHOUT_BIAS]
    return {f"{name}.{weight}": Origin(f"{key}.{weight}") for weight in inside}
