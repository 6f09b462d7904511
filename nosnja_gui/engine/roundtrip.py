"""Every file that is written is read back at once by the readers that its users have, and a forward pass is compared."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nosnja_gui.adapters import Adapter, Address
from nosnja_gui.adapters.reading import read
from nosnja_gui.engine.sampler import evaluating
from nosnja_gui.families import Family, Parts
from nosnja_gui.families.loading import quiet
from nosnja_gui.methods import Method, only, set_weights
from nosnja_gui.methods.lora import ENTRY as LORA
from nosnja_gui.settings import UserError

PROBE_PROMPT = "a photo of a person in front of a house"
PROBE_LATENT = 16
"""Side of the latents of the compared forward pass: its result says as much as that of a whole picture, in a fraction of the time."""
CHECKED = "nosnja-check"
LARGEST_LOSS = 0.1
"""A share of the effect. float16 leaves a thousandth or so."""
DIFFUSERS_READS = ("kohya", "diffusers")
"""ComfyUI's own layout is read by ComfyUI only; its file is read back by our reader alone."""


@dataclass(frozen=True)
class RoundTrip:
    """How far a file is from what it was written from: the largest difference of a forward pass, as a share of what the LoRA changes."""

    ours: float
    diffusers: float | None
    """None where diffusers doesn't read this layout, or this kind of update."""

    def __str__(self) -> str:
        theirs = "" if self.diffusers is None else f", by diffusers: {self.diffusers:.1e}"
        return f"read back: {self.ours:.1e} of its effect away{theirs}"


def check_trained(family: Family, parts: Parts, method: Method, file: Path, layout: str, trigger: str = "") -> RoundTrip:
    """Compare `file` with what is being trained on these parts. Raises UserError where it is not read back as it was trained."""
    if method.groups == LORA.groups:
        return check(family, parts, LORA.trained(family, parts), file, layout)
    prompt = f"{trigger} {PROBE_PROMPT}".strip()
    weights = {name: weight for worn in parts.worn.values() for name, weight in worn.items()}
    with evaluating(parts):
        expected = forward(family, parts, prompt)
        with only(family, parts, file, CHECKED):
            ours = forward(family, parts, prompt)
        set_weights(family, parts, {})
        try:
            base = forward(family, parts, prompt)
        finally:
            set_weights(family, parts, weights)
    # A method that changes the model itself leaves nothing to compare with: then its output's own size is the measure.
    effect = _largest(base, expected) or max(values.abs().max().item() for values in expected)
    away = _largest(expected, ours) / max(effect, 1e-12)
    if away > LARGEST_LOSS:
        raise UserError(f"{file} is not read back as it was trained, {away:.0%} of its effect is lost: keep it, choose a finer precision.")
    return RoundTrip(away, None)


def check(family: Family, parts: Parts, adapter: Adapter, file: Path, layout: str) -> RoundTrip:
    """Compare `file` with the adapter it was written from. No other adapter is at work meanwhile; all are as before afterwards.

    Raises UserError if a reader leaves out a module or reads another one.
    """
    weights = dict(parts.adapters)
    LORA.set_weights(family, parts, {})
    try:
        with evaluating(parts):
            base = forward(family, parts)
            expected = _with(family, parts, lambda: LORA.put_on(family, parts, adapter, CHECKED))
            found = read(file, family.names(parts), parts.base_name)
            _check_complete(adapter.updates, found.updates, file, "Nošnja's own reader")
            ours = _with(family, parts, lambda: LORA.put_on(family, parts, found, CHECKED))
            theirs = None
            if _diffusers_reads(family, layout) and _for_diffusers(adapter):
                theirs = _through_diffusers(family, parts, adapter, file)
    finally:
        LORA.set_weights(family, parts, weights)
    effect = max(_largest(base, expected), 1e-12)
    return RoundTrip(_largest(expected, ours) / effect, None if theirs is None else _largest(expected, theirs) / effect)


@torch.no_grad()
def forward(family: Family, parts: Parts, prompt: str = PROBE_PROMPT) -> list[torch.Tensor]:
    """One pass of the denoiser and of the text encoders at fixed inputs."""
    text = family.encode_prompts(parts, [prompt])
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn((1, parts.denoiser.config.in_channels, PROBE_LATENT, PROBE_LATENT), generator=generator).to(parts.device)
    timesteps = torch.tensor([500], device=parts.device)
    return [family.predict(parts, noisy, timesteps, text).float(), text.hidden.float()]


def _with(family: Family, parts: Parts, put_on: Callable[[], None]) -> list[torch.Tensor]:
    put_on()
    try:
        return forward(family, parts)
    finally:
        LORA.remove(family, parts, CHECKED)


def _through_diffusers(family: Family, parts: Parts, adapter: Adapter, file: Path) -> list[torch.Tensor]:
    """The forward pass with the file loaded by diffusers' own loader onto these very parts."""
    with _no_training(parts), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's remarks on several adapters at once, which is meant
        pipeline = family.pipeline(parts)
        try:
            pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=CHECKED, local_files_only=True)
            pipeline.set_adapters([CHECKED])
            pipeline.enable_lora()
            loaded = {
                (part, name)
                for part, (module, _) in family.trainable_modules(parts).items()
                for name, layer in module.named_modules()
                if CHECKED in getattr(layer, "lora_A", {})
            }
            _check_complete(adapter.updates, loaded, file, "diffusers")
            return forward(family, parts)
        finally:
            with contextlib.suppress(Exception):
                pipeline.delete_adapters(CHECKED)


def _check_complete(expected: Collection[Address], found: Collection[Address], file: Path, reader: str) -> None:
    missing = sorted(set(expected) - set(found))
    strange = sorted(set(found) - set(expected))
    if missing or strange:
        name = ".".join((missing or strange)[0])
        what = f"{len(missing)} modules are lost" if missing else f"{len(strange)} modules came up that were not trained"
        raise UserError(f"{file} is not read back whole by {reader}: {what}, such as '{name}'; keep the file and choose another layout.")


def _diffusers_reads(family: Family, layout: str) -> bool:
    """kohya's names are translated for UNets, not for SD 3's transformer (diffusers loaders/lora_pipeline.py, SD3LoraLoaderMixin)."""
    return layout in DIFFUSERS_READS and (layout == "diffusers" or "unet" in family.adapter_parts)


def _for_diffusers(adapter: Adapter) -> bool:
    """Whether diffusers applies such updates: plain LoRAs, also of convolutions."""
    from nosnja_gui.adapters import LowRank

    return not adapter.biases and all(isinstance(update, LowRank) and update.mid is None for update in adapter.updates.values())


def _largest(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


@contextlib.contextmanager
def _no_training(parts: Parts) -> Iterator[None]:
    """diffusers switches requires_grad of what it finds; what was trainable stays so, and nothing else becomes it."""
    roots: list[Any] = [module for module in (parts.denoiser, *parts.text_encoders) if module is not None]
    trainable = {id(parameter) for root in roots for parameter in root.parameters() if parameter.requires_grad}
    try:
        yield
    finally:
        for root in roots:
            for parameter in root.parameters():
                parameter.requires_grad_(id(parameter) in trainable)
