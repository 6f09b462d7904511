"""Finding out what a base model is and loading it, where and in which precision."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from nosnja_gui.families import FAMILIES, Family, Parts
from nosnja_gui.jobs import Precision, workspace_path
from nosnja_gui.settings import UserError

SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def load_model(
    path: Path | str,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    workspace_models: Path | None = None,
    parts: tuple[str, ...] | None = None,
) -> tuple[Family, Parts]:
    """Load a base model, given by path or by its name in the workspace's models folder; all of its parts, or only some.

    Raises UserError in one sentence for a missing, unknown, incomplete or damaged model.
    """
    model = find_model(path, workspace_models)
    family = family_of(model)
    device = device or choose_device()
    dtype = dtype or choose_dtype("auto", device)
    return family, family.load(model, device, dtype, parts) if parts else family.load(model, device, dtype)


def find_model(path: Path | str, workspace_models: Path | None = None) -> Path:
    """The model's folder. Raises UserError if there is none."""
    if not str(path).strip():
        raise UserError("No base model is given: set model.path to a diffusers folder (it holds model_index.json).")
    model = workspace_path(str(path), workspace_models) if workspace_models else Path(path).expanduser()
    if model.is_file() and model.suffix.lower() in SINGLE_FILES:
        raise UserError(f"{model} is a single file, which cannot be loaded yet: give the path of a diffusers folder (model_index.json).")
    if not model.is_dir():
        known = sorted(folder.name for folder in workspace_models.iterdir() if folder.is_dir()) if _is_dir(workspace_models) else []
        hint = f"; known models: {', '.join(known)}" if known else ""
        raise UserError(f"There is no model {model}: give the path of a diffusers folder (it holds model_index.json){hint}.")
    return model


def family_of(model: Path) -> Family:
    """The family that recognises the folder. Raises UserError that says what the folder is instead."""
    for family in FAMILIES.values():
        if family.recognises(model):
            return family
    known = ", ".join(family.title for family in FAMILIES.values())
    index = model / "model_index.json"
    if not index.is_file():
        inside = [file.name for file in sorted(model.iterdir()) if file.suffix.lower() in SINGLE_FILES]
        found = f" ({inside[0]} alone cannot be loaded yet)" if inside else ""
        raise UserError(f"{model} is not a diffusers model folder, it has no model_index.json{found}: give the folder of a {known} model.")
    try:
        kind = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"The model is damaged, {index} is not readable: copy or download it again.") from None
    raise UserError(f"{model} is a {kind}, which is not supported: choose a {known} model.")


def _is_dir(folder: Path | None) -> bool:
    return folder is not None and folder.is_dir()


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
