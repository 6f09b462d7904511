"""A loaded model as files again: one in the original layout, as A1111 and ComfyUI load it, or a folder as diffusers has it.

Weights are written one after the other, so there is never a second copy of the model. No family of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nosnja_gui import weights
from nosnja_gui.families.loading import quiet
from nosnja_gui.families.original import shape_there
from nosnja_gui.files import sync, write_atomic
from nosnja_gui.settings import UserError
from nosnja_gui.sources import CONFIGS

if TYPE_CHECKING:
    import torch

    from nosnja_gui.families import Family, Parts

Precision = Literal["float16", "bfloat16", "float32"]
FORMATS = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
Makers = dict[str, tuple[tuple[int, ...], Callable[[], "torch.Tensor"]]]
"""Name in a file -> shape there, and what gives the tensor when its turn comes."""


def modules_of(family: Family, parts: Parts) -> dict[str, torch.nn.Module]:
    """Part name -> module, of what can be trained: the denoiser and the text encoders that are loaded."""
    names = iter(family.adapter_parts)
    found = {next(names): parts.denoiser, **dict(zip(names, parts.text_encoders, strict=False))}
    return {part: module for part, module in found.items() if module is not None}


def weights_of(part: str, module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The module's own weights by their classic names (text encoders' with `text_model.`), whatever adapters are on it."""
    return {_classic(part, name): parameter for name, parameter in module.named_parameters() if ".lora_" not in name}


def _classic(part: str, name: str) -> str:
    name = name.replace(".base_layer.", ".")
    plain = not part.startswith("text_encoder") or name.startswith(("text_model.", "text_projection."))
    return name if plain else f"text_model.{name}"


def config_of(module: torch.nn.Module) -> dict[str, Any]:
    return module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)


def _stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without what says nothing of the model: where it lay, which versions of libraries it met."""
    return {name: value for name, value in config.items() if not name.startswith("_") and name not in ("transformers_version", "dtype")}


def _schedule(parts: Parts) -> dict[str, Any]:
    """The model's own. Only some of diffusers' kinds know of a schedule that ends in pure noise."""
    schedule = {**parts.noise_schedule, "prediction_type": parts.prediction_type}
    kind = "DDIMScheduler" if schedule.get("rescale_betas_zero_snr") else schedule.get("_class_name", "DDIMScheduler")
    return {**_stated(schedule), "_class_name": kind}


# One file


def write_single_file(family: Family, parts: Parts, file: Path, metadata: Mapping[str, str], precision: Precision) -> None:
    """Write all parts into `file`, atomically, numbers in this precision.

    Raises UserError, and leaves an old file alone, where the disk is too full or a weight is not a finite number.
    """
    modules = {**modules_of(family, parts), "vae": parts.vae}
    configs = {part: _stated(config_of(module)) for part, module in modules.items()} | {"scheduler": _schedule(parts)}
    told = {**metadata, CONFIGS: json.dumps(configs, default=str), "format": "pt"}
    _write(file, tensors_of(family, parts), precision, told)


def tensors_of(family: Family, parts: Parts) -> Makers:
    """All that a single file of these parts holds, in the original layout. The parts may be on the meta device."""
    layout = family.original
    assert layout is not None, f"{family.title} has no original layout that could be written"
    modules = {**modules_of(family, parts), "vae": parts.vae}
    found: Makers = {}
    for part, place in layout.parts.items():
        config, own = config_of(modules[part]), weights_of(part, modules[part])
        origins: dict[str, list[tuple[int, str]]] = {}
        transposed = set()
        for name, origin in place.names(config).items():
            origins.setdefault(origin.key, []).append((origin.third or 0, name))
            transposed |= {origin.key} if origin.transposed else set()
        inside: Makers = {key: _joined(key, [own[name] for _, name in sorted(names)], key in transposed) for key, names in origins.items()}
        for key, filler in place.fillers(config).items():
            inside[key] = inside[filler] if isinstance(filler, str) else (filler.shape, filler.make)
        found |= {place.prefix + key: maker for key, maker in inside.items()}
    return found | dict.fromkeys(layout.marks(parts.prediction_type, parts.noise_schedule), ((0,), _nothing))


def _joined(key: str, pieces: list[torch.nn.Parameter], transposed: bool) -> tuple[tuple[int, ...], Callable[[], torch.Tensor]]:
    """Queries, keys and values as one matrix where the original has them so."""
    import torch

    rows, *others = pieces[0].shape
    shape = (rows * len(pieces), *others)
    shape = shape_there(key, shape[::-1] if transposed else shape)

    def make() -> torch.Tensor:
        whole = torch.cat([piece.detach() for piece in pieces]) if len(pieces) > 1 else pieces[0].detach()
        return (whole.T if transposed else whole).reshape(shape)

    return shape, make


def _nothing() -> torch.Tensor:
    import torch

    return torch.zeros(0)


def _write(file: Path, makers: Makers, precision: Precision, metadata: Mapping[str, str]) -> None:
    import torch

    number = getattr(torch, precision)
    whole_numbers = {name for name in makers if name.endswith("position_ids")}
    entries = {name: ("I64" if name in whole_numbers else FORMATS[precision], shape) for name, (shape, _) in makers.items()}

    def produce(name: str) -> Any:
        tensor = makers[name][1]().to("cpu", None if name in whole_numbers else number).contiguous()
        if not torch.isfinite(tensor).all():
            raise UserError(f"'{name}' is not made of finite numbers in {precision}: {file} was not written; choose another precision.")
        return tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b""

    weights.write_stream(file, entries, produce, metadata)


# A folder


def write_folder(family: Family, parts: Parts, folder: Path, precision: Precision) -> None:
    """Write the model as diffusers has it, under names that every version of it reads; takes the place of an older folder when it is whole.

    Raises UserError as `write_single_file` does.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _fill(family, parts, part, precision)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sync(folder.parent)


def _fill(family: Family, parts: Parts, folder: Path, precision: Precision) -> None:
    pipeline = family.pipeline(parts)
    with quiet():
        pipeline.save_config(folder)
        for part, module in {**modules_of(family, parts), "vae": parts.vae}.items():
            is_text = part.startswith("text_encoder")
            (module.config.save_pretrained if is_text else module.save_config)(folder / part)
            _say(folder / part / "config.json", {"architectures": [type(module).__name__]} if is_text else {})
            stem = "model" if is_text else "diffusion_pytorch_model"
            makers: Makers = {name: (tuple(weight.shape), weight.detach) for name, weight in weights_of(part, module).items()}
            _write(folder / part / f"{stem}.safetensors", makers, precision, {"format": "pt"})
        for number, tokenizer in enumerate(parts.tokenizers, start=1):
            target = folder / ("tokenizer" if number == 1 else f"tokenizer_{number}")
            tokenizer.save_pretrained(target)
            # Since version 5 transformers leaves these files out, and older programs read no others.
            tokenizer.backend_tokenizer.model.save(str(target))
            _say(target / "special_tokens_map.json", tokenizer.special_tokens_map)
    schedule = _schedule(parts)
    _say(folder / "scheduler" / "scheduler_config.json", schedule)
    _say(folder / "model_index.json", {"scheduler": ["diffusers", schedule["_class_name"]]})


def _say(file: Path, more: Mapping[str, Any]) -> None:
    """Entries of a configuration besides those that it has, and none of where the model lay on this machine."""
    values = {**(json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}), **more}
    values.pop("_name_or_path", None)
    write_atomic(file, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
