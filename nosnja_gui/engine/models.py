"""Loading a base model: where to and in which precision."""

from __future__ import annotations

from pathlib import Path

import torch

from nosnja_gui.families import Family, Parts
from nosnja_gui.jobs import Precision
from nosnja_gui.models import find_model, source_of
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
