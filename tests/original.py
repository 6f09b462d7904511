"""A diffusers folder written as one file in the original layout of CompVis and Stability, the way real downloads are."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nosnja_gui.families import original

PREFIXES = {
    "sd1": {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model.transformer."},
    "sd2": {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model.model."},
    "sdxl": {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
}
"""Layout -> part -> what stands before its keys; the lists in facts/ name their sources."""


def names_of(layout: str, part: str, config: Mapping[str, Any]) -> original.Names:
    match layout, part:
        case _, "unet":
            return original.unet_names(config)
        case _, "vae":
            return original.vae_names(config)
        case (("sd1" | "sdxl"), "text_encoder"):
            return original.clip_names(config)
        case _:
            return original.open_clip_names(config, projection=part == "text_encoder_2")


def to_original(tensors: Mapping[str, Any], names: original.Names) -> dict[str, Any]:
    """Weights under diffusers' or transformers' names -> the same under their original keys, fused, turned and shaped as there."""
    import torch

    written: dict[str, Any] = {}
    thirds: dict[str, dict[int, Any]] = {}
    for name, origin in names.items():
        tensor = tensors[name].T if origin.transposed else tensors[name]
        if origin.third is not None:
            thirds.setdefault(origin.key, {})[origin.third] = tensor
        elif ".mid.attn_1." in origin.key and tensor.ndim == 2:
            written[origin.key] = tensor[:, :, None, None]  # the autoencoder's attention is made of 1x1 convolutions
        else:
            written[origin.key] = tensor
    return written | {key: torch.cat([found[third] for third in range(3)]) for key, found in thirds.items()}


def write_single_file(model_folder: Path, file: Path, layout: str, metadata: dict[str, str] | None = None, dtype: Any = None) -> Path:
    """Write `file` from a diffusers folder (with .safetensors inside) and return it; `layout` is sd1, sd2 or sdxl.

    With what real files hold besides: position_ids, logit_scale, and for SD 2.x OpenCLIP's last layer and projection, which are not
    used. `dtype`: the torch.dtype of all weights, if another one than theirs.
    """
    from safetensors.torch import save_file

    written = {}
    for part, prefix in PREFIXES[layout].items():
        config = json.loads((model_folder / part / "config.json").read_text(encoding="utf-8"))
        tensors = read_part(model_folder / part)
        keys = to_original(tensors, names_of(layout, part, config))
        keys |= _besides(layout, part, config)
        written |= {prefix + key: tensor for key, tensor in keys.items()}
    if dtype is not None:
        written = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in written.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous().clone() for key, tensor in written.items()}, file, metadata=metadata)
    return file


def read_part(folder: Path) -> dict[str, Any]:
    """All weights of a part's folder, those of text encoders with the classic `text_model.` in front."""
    from safetensors.torch import load_file

    tensors: dict[str, Any] = {}
    for found in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(found)
    return dict(classic_names(tensors)) if folder.name.startswith("text_encoder") else tensors


def classic_names(tensors: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """transformers 5 leaves the prefix out for an encoder without a projection."""
    for name, tensor in tensors.items():
        yield name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}", tensor


def _besides(layout: str, part: str, config: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    if not part.startswith("text_encoder"):
        return {}
    if part == "text_encoder" and layout != "sd2":
        return {"text_model.embeddings.position_ids": torch.arange(config["max_position_embeddings"])[None]}
    found = {"logit_scale": torch.tensor(4.6052)}
    if layout == "sd2":
        layer, width, inner = config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"]
        shapes = {
            "attn.in_proj_weight": (3 * width, width),
            "attn.in_proj_bias": (3 * width,),
            "attn.out_proj.weight": (width, width),
            "attn.out_proj.bias": (width,),
            "ln_1.weight": (width,),
            "ln_1.bias": (width,),
            "ln_2.weight": (width,),
            "ln_2.bias": (width,),
            "mlp.c_fc.weight": (inner, width),
            "mlp.c_fc.bias": (inner,),
            "mlp.c_proj.weight": (width, inner),
            "mlp.c_proj.bias": (width,),
        }
        # Of a value that would be noticed where it doesn't belong.
        found |= {f"transformer.resblocks.{layer}.{key}": torch.full(shape, 77.0) for key, shape in shapes.items()}
        found["text_projection"] = torch.full((width, width), 77.0)
    return found
