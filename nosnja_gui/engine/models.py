"""Loading a base model: where to and in which precision."""

from __future__ import annotations

from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from nosnja_gui.families import Family, Parts, packing
from nosnja_gui.jobs import Precision
from nosnja_gui.models import family_of, find_model, source_of
from nosnja_gui.sources import PredictionType


def load_model(
    path: Path | str,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    workspace_models: Path | None = None,
    parts: tuple[str, ...] | None = None,
    vae: Path | None = None,
    prediction_type: PredictionType | None = None,
) -> tuple[Family, Parts]:
    """Load a base model, given by path or by its name in the workspace's models folder; all of its parts, or only some.

    `vae` takes the place of its own autoencoder, `prediction_type` of what it says of itself.

    Raises UserError in one sentence for a missing, unknown, incomplete or damaged model.
    """
    model = find_model(path, workspace_models)
    family, source = source_of(model, vae, prediction_type)
    device = device or choose_device()
    dtype = dtype or choose_dtype("auto", device)
    return family, family.load(source, device, dtype, parts) if parts else family.load(source, device, dtype)


def load_to_train_whole(
    path: Path,
    device: torch.device,
    dtype: torch.dtype,
    trains_text: bool,
    vae: Path | None = None,
    prediction_type: PredictionType | None = None,
) -> tuple[Family, Parts]:
    """The model with float32 weights that are computed with in `dtype`: in half precision small updates would be rounded away.

    Text encoders that aren't trained are float32, too, so that their weights are saved as they came, and compute in it: once for each
    caption. The autoencoder is as always. Raises UserError as `load_model` does.
    """
    family, parts = load_model(path, device, torch.float32, parts=family_of(path).adapter_parts, prediction_type=prediction_type)
    _, rest = load_model(path, device, dtype, parts=("vae",), vae=vae)
    for module in (parts.denoiser, *(parts.text_encoders if trains_text else ())):
        compute_in(module, dtype)
    return family, replace(parts, vae=rest.vae, dtype=dtype)


def load_packed(
    path: Path,
    device: torch.device,
    dtype: torch.dtype,
    wanted: packing.Format,
    vae: Path | None = None,
    prediction_type: PredictionType | None = None,
) -> tuple[Family, Parts]:
    """The model with its denoiser in a small number format. It is packed in the machine's memory: the card never holds it otherwise.

    Raises UserError as `load_model` does.
    """
    family, parts = load_model(path, torch.device("cpu"), dtype, prediction_type=prediction_type)
    _, rest = load_model(path, device, dtype, parts=("vae",), vae=vae)
    packing.pack(parts.denoiser, wanted)
    for module in (parts.denoiser, *parts.text_encoders):
        module.to(device)
    return family, replace(parts, vae=rest.vae, device=device)


def compute_in(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Have a float32 module compute in `dtype` where torch thinks that good enough (torch.autocast), whoever calls it."""
    if dtype == torch.float32:
        return
    forward, kind = module.forward, next(module.parameters()).device.type

    @wraps(forward)
    def computed(*given: Any, **named: Any) -> Any:
        with torch.autocast(kind, dtype):
            return forward(*given, **named)

    module.forward = computed


def choose_device() -> torch.device:
    """The GPU if there is one that torch can use."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 on a GPU that computes in it, float16 on another GPU, float32 on a CPU."""
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if torch.device(device).type != "cuda":
        return torch.float32
    # Older GPUs emulate bfloat16 and are slow at it; is_bf16_supported says yes for them unless asked this way.
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
