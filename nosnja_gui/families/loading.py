"""Modules out of a source: a skeleton without memory, then each weight straight into its place, in the precision that is wanted.

Every source is loaded this way, so a single file takes no more memory than a folder does. No family of its own.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nosnja_gui.settings import UserError
from nosnja_gui.sources import Source

if TYPE_CHECKING:
    import torch

OLD_ATTENTION = re.compile(r"\.(query|key|value|proj_attn)\.(weight|bias)$")
TODAY = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""How diffusers called the projections of an autoencoder's attention until version 0.18."""


def skeleton(kind: str, config: Mapping[str, Any]) -> torch.nn.Module:
    """A module of this class on the meta device: names and shapes, no memory. Raises what its class raises for a wrong config."""
    from accelerate import init_empty_weights

    # This one works out a table of positions, hundreds of millions of numbers, which its files hold anyway.
    with quiet(), init_empty_weights(include_buffers=kind == "SD3Transformer2DModel"):
        match kind:
            case "CLIPTextModel" | "CLIPTextModelWithProjection":
                from transformers.models.clip import modeling_clip
                from transformers.models.clip.configuration_clip import CLIPTextConfig

                return getattr(modeling_clip, kind)(CLIPTextConfig(**_plain(config)))
            case "T5EncoderModel":
                from transformers.models.t5.configuration_t5 import T5Config
                from transformers.models.t5.modeling_t5 import T5EncoderModel

                return T5EncoderModel(T5Config(**_plain(config)))
            case "UNet2DConditionModel":
                from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel as cls
            case "AutoencoderKL":
                from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL as cls
            case "SD3Transformer2DModel":
                from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel as cls
            case _:
                raise AssertionError(f"no module is called {kind}")
        return cls.from_config(dict(config))


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without what a saved configuration says of the way it was saved."""
    return {name: value for name, value in config.items() if name not in ("architectures", "transformers_version", "torch_dtype", "dtype")}


def module(kind: str, source: Source, part: str, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """The part with its weights, frozen and in eval mode. Raises UserError where configuration and weights don't fit."""
    where = f"{part.replace('_', ' ')} of {source.path}"
    try:
        made = _tie(skeleton(kind, source.config(part)))
    except UserError:
        raise
    except Exception as error:  # a configuration can be wrong in more ways than its class thought of
        raise UserError(f"The {where} cannot be loaded, its configuration is wrong ({first_line(error)}): copy it again.") from None
    wanted = {**dict(made.named_parameters()), **_kept_buffers(made)}
    state: dict[str, torch.Tensor] = {}
    for name, tensor in source.tensors(part):
        name = today(name, wanted)
        if name not in wanted:
            continue
        shape = wanted[name].shape
        if tensor.shape != shape:
            # A 1x1 convolution and a linear layer are the same thing in two shapes.
            if _squeezed(tensor.shape) != _squeezed(shape):
                have = "x".join(map(str, tensor.shape))
                need = "x".join(map(str, shape))
                raise UserError(f"The {where} cannot be loaded, '{name}' is {have} instead of {need}: configuration and weights don't fit.")
            tensor = tensor.reshape(shape)
        number = _number(made, name, dtype) if wanted[name].is_floating_point() else wanted[name].dtype
        state[name] = tensor.to(device, number).contiguous()
    missing = sorted(set(wanted) - set(state) - {name for name in wanted if name.endswith("position_ids")})
    if missing:
        raise UserError(
            f"The {where} is incomplete, {len(missing)} weights such as '{missing[0]}' are missing: copy or download the model again."
        )
    made.load_state_dict(state, strict=False, assign=True)
    _tie(made)
    return made.to(device).requires_grad_(False).eval()


def today(name: str, wanted: Mapping[str, Any]) -> str:
    """A weight's name as the module has it: without what transformers 5 dropped, with what diffusers renamed."""
    if name in wanted:
        return name
    if name.removeprefix("text_model.") in wanted:
        return name.removeprefix("text_model.")
    if f"text_model.{name}" in wanted:
        return f"text_model.{name}"
    if name == "encoder.embed_tokens.weight" and "shared.weight" in wanted:  # T5 has two names for it
        return "shared.weight"
    return OLD_ATTENTION.sub(lambda found: f".{TODAY[found[1]]}.{found[2]}", name)


def _tie(module: torch.nn.Module) -> torch.nn.Module:
    """Two names of one weight (T5's embedding) are one again: being made without memory, and being given weights, parts them."""
    if getattr(module, "_tied_weights_keys", None):
        module.tie_weights()
    return module


def _number(module: torch.nn.Module, name: str, dtype: torch.dtype) -> torch.dtype:
    """float32 for what transformers says overflows in float16: T5's `wo`."""
    import torch

    sensitive = getattr(module, "_keep_in_fp32_modules", None) or ()
    return torch.float32 if dtype == torch.float16 and any(piece in sensitive for piece in name.split(".")) else dtype


def _kept_buffers(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    kept = set(module.state_dict())
    return {name: buffer for name, buffer in module.named_buffers() if name in kept}


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return tuple(shape)


def clip_tokenizer(source: Source, part: str) -> Any:
    """Raises UserError for a damaged one."""
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    return _tokenizer(CLIPTokenizer, source, part)


def t5_tokenizer(source: Source, part: str) -> Any:
    """Raises UserError for a damaged one."""
    from transformers import T5TokenizerFast

    return _tokenizer(T5TokenizerFast, source, part)


def _tokenizer(cls: Any, source: Source, part: str) -> Any:
    found = source.tokenizer(part)
    try:
        with quiet():
            return cls.from_pretrained(found.folder, local_files_only=True, **found.options)
    except Exception as error:  # its parsers raise a bare Exception
        raise UserError(f"The tokenizer {found.folder} cannot be loaded ({first_line(error)}): copy the model again.") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Neither bars nor remarks of the libraries while a model loads; what matters is said in our own errors."""
    loud = logging.getLogger("bitsandbytes")
    loud.setLevel(logging.ERROR)  # remarks on missing CPU kernels at import
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity(), diffusers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    diffusers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before[0])
        diffusers_logging.set_verbosity(before[1])
        if before[2]:
            transformers_logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".:")[:200]
