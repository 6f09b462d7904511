"""DreamBooth: all weights of the model itself are trained (Ruiz et al. 2023), and what comes out is a whole model of its own.

Its files are complete checkpoints in the original layout. Any such file of the same kind of model can be put on: the weights then are
base + weight x (trained - base). Never asks which family the parts came from.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from nosnja_gui import weights as files
from nosnja_gui.families import FAMILIES
from nosnja_gui.families.demand import UNetDemand
from nosnja_gui.families.saving import modules_of, weights_of, write_folder, write_single_file
from nosnja_gui.methods import METHODS, MethodSettings, Recipe, Trainable
from nosnja_gui.settings import Shown, UserError
from nosnja_gui.sources import SingleFile, described

if TYPE_CHECKING:
    import torch

    from nosnja_gui.families import Family, Parts
    from nosnja_gui.families.demand import Demand
    from nosnja_gui.families.saving import Precision
    from nosnja_gui.sources import Source

TRAINED_TITLES = {"everything": "Everything", "attention": "Attention only", "cross_attention": "Only what looks at the prompt"}
MARKS: Mapping[str, tuple[str, ...]] = {
    "everything": ("",),
    "attention": (".attn1.", ".attn2."),
    "cross_attention": (".attn2.to_k.", ".attn2.to_v."),
}
"""What a weight's name holds that is trained. The last is what Custom Diffusion found to change most (Kumari et al. 2023, section 3.2)."""
CLIP_WORDS = 49_408
Place = tuple[str, str]
"""Part and classic name of a weight."""


class DreamboothSettings(MethodSettings):
    trains: Annotated[
        Literal["everything", "attention", "cross_attention"],
        Field(title="What is trained of the UNet"),
        Shown(essential=True, titles=TRAINED_TITLES),
    ] = "everything"
    """How much of the UNet learns: less needs less memory and forgets less of the rest; everything is what DreamBooth means."""
    diffusers_folder: Annotated[bool, Field(title="Also as a diffusers folder"), Shown(essential=True)] = False
    """Write each result as a folder for diffusers, too, beside the file for A1111 and ComfyUI; it doubles the space on the disk."""


@dataclass
class Kept:
    """What is kept with the parts."""

    files: dict[str, Path] = field(default_factory=dict)
    """Where each name that is on was read from, and is read from again when weights change: whole models are too large to keep."""
    originals: dict[Place, torch.Tensor] = field(default_factory=dict)
    """Weights of the base model that are not in their places, in the machine's memory."""
    laid: dict[str, float] = field(default_factory=dict)
    """Names and weights that the model's weights are now made of."""
    diffusers_folder: bool = False
    """Whether what is being trained is to be written as a folder, too."""


class Dreambooth:
    name = "dreambooth"
    title = "DreamBooth (whole model)"
    groups = ("dreambooth",)
    modelspec = ""
    whole = True

    def problems(self, recipe: Recipe, family: Family, source: Source) -> dict[str, str]:
        found = {}
        if family.original is None:
            found["method"] = f"The whole model can't be trained for {family.title}, whose files can't be written: choose LoRA."
        elif any(_words(source, part) != CLIP_WORDS for part in family.adapter_parts if part.startswith("text_encoder")):
            found["model.path"] = (
                f"{source.path} has words of its own in its text encoder, which no single file can hold: choose another model, or LoRA."
            )
        if recipe.precision == "float16":
            found["model.precision"] = (
                "A whole model can't be trained in float16, which rounds its small updates to nothing: choose bfloat16, float32 or "
                "automatic, which keeps the weights in float32 and computes in what the card is fast at."
            )
        return found

    def trained_numbers(self, recipe: Recipe, demand: Demand) -> int:
        settings: DreamboothSettings = recipe.settings["dreambooth"]
        unet, numbers = demand.unet, {"everything": demand.unet.parameters}
        if isinstance(unet, UNetDemand):
            numbers |= {"attention": unet.attention_parameters, "cross_attention": unet.text_parameters}
        of_unet = numbers.get(settings.trains, unet.parameters)
        return of_unet + (demand.text_encoder.parameters if recipe.train_text_encoder else 0)

    def about(self, recipe: Recipe) -> dict[str, Any]:
        settings: DreamboothSettings = recipe.settings["dreambooth"]
        return {"nosnja_trains": settings.trains}

    def attach(self, family: Family, parts: Parts, recipe: Recipe) -> list[Trainable]:
        """Make the denoiser's own weights trainable, and all of the text encoders' where the recipe has it so."""
        settings: DreamboothSettings = recipe.settings["dreambooth"]
        trainables = []
        for part, module in modules_of(family, parts).items():
            is_text = part.startswith("text_encoder")
            if is_text and not recipe.train_text_encoder:
                continue
            marks = MARKS["everything" if is_text else settings.trains]
            module.float()
            own = {name: weight for name, weight in weights_of(part, module).items() if any(mark in name for mark in marks)}
            assert own, f"no weight of {part} is called like one of {marks}"
            parameters = [weight.requires_grad_(True) for weight in own.values()]
            trainables.append(Trainable(part, parameters, [f"{part}.{name}" for name in own]))
            module.train()
        _kept(parts).diffusers_folder = settings.diffusers_folder
        return trainables

    def save(
        self,
        family: Family,
        parts: Parts,
        file: Path,
        metadata: Mapping[str, str],
        precision: Precision = "float16",
        layout: str = "kohya",
    ) -> list[Path]:
        """Write the model with its autoencoder and text encoders; there is one layout only.

        Raises UserError, and leaves an old file alone, if the disk is too full or a weight is not a finite number.
        """
        write_single_file(family, parts, file, metadata, precision)
        if not _kept(parts).diffusers_folder:
            return []
        folder = file.parent / "diffusers" / file.stem
        write_folder(family, parts, folder, precision)
        return [folder]

    def recognises(self, names: Collection[str], metadata: Mapping[str, str]) -> bool:
        return any(family.original and family.original.matches(names) for family in FAMILIES.values())

    def apply(self, family: Family, parts: Parts, file: Path, name: str) -> None:
        """Put a complete checkpoint on at weight 1, its UNet and its text encoders; the autoencoder stays the model's own."""
        worn = parts.worn.setdefault(self.name, {})
        assert name not in worn, f"a model '{name}' is put on already"
        _check(family, parts, file)
        kept = _kept(parts)
        kept.files[name], worn[name] = file, 1.0
        try:
            _lay(family, parts)
        except UserError:
            del kept.files[name], worn[name]
            _lay(family, parts)
            raise

    def set_weights(self, family: Family, parts: Parts, weights: Mapping[str, float]) -> None:
        """With all weights 0 the model is the base model to the last bit, with a single 1 it is the file's as far as its precision goes."""
        worn = parts.worn.setdefault(self.name, {})
        unknown = sorted(set(weights) - set(worn))
        assert not unknown, f"no model is called {', '.join(unknown)}; there are: {', '.join(worn)}"
        worn.update({name: float(weights.get(name, 0.0)) for name in worn})
        _lay(family, parts)

    def remove(self, family: Family, parts: Parts, name: str) -> None:
        """Take a model off again; others keep their weights."""
        del parts.worn[self.name][name], _kept(parts).files[name]
        _lay(family, parts)


def _words(source: Source, part: str) -> int:
    """How many tokens a text encoder knows; as many as CLIP where its configuration is not readable, which is told elsewhere."""
    try:
        return source.config(part).get("vocab_size", CLIP_WORDS)
    except UserError:
        return CLIP_WORDS


def _kept(parts: Parts) -> Kept:
    return parts.kept.setdefault(Dreambooth.name, Kept())


def _check(family: Family, parts: Parts, file: Path) -> None:
    """Raises UserError unless the file is a complete checkpoint of the same shape."""
    names = files.shapes(file)
    if family.original is None or not family.original.matches(names):
        other = next((known.title for known in FAMILIES.values() if known.original and known.original.matches(names)), "")
        what = f"a {other} model" if other else described(names)
        raise UserError(f"{file} is {what} and does not fit {parts.base_name}, a {family.title} model: choose a file of the same kind.")
    source = SingleFile(file, family.original)
    for part, module in modules_of(family, parts).items():
        found, own = source.weights(part), weights_of(part, module)
        if strange := sorted(set(found) - set(own)):
            raise UserError(f"{file} does not fit {parts.base_name}, which has no '{strange[0]}': choose a model of the same shape.")
        for name, weight in own.items():
            have = found.get(name)
            if have is None or math.prod(have[1]) != weight.numel() or have[1][:1] != tuple(weight.shape[:1]):
                there = "has none" if have is None else f"has one of {'x'.join(map(str, have[1]))}"
                need = "x".join(map(str, weight.shape))
                raise UserError(
                    f"{file} does not fit {parts.base_name}: for '{name}' of {need} numbers it {there}; choose a model of the same shape."
                )


def _lay(family: Family, parts: Parts) -> None:
    """Make the weights what is on says: base + sum of weight x (trained - base), or exactly the trained ones for a single weight of 1."""
    import torch

    kept = _kept(parts)
    wanted = {name: weight for name, weight in parts.worn.get(Dreambooth.name, {}).items() if weight != 0}
    if wanted == kept.laid:
        return
    exact = list(wanted.values()) == [1.0]
    sources = [SingleFile(kept.files[name], family.original) for name in wanted] if family.original else []
    # What a LoRA has added to weights is no part of them.
    patched, changed = parts.originals, False
    with torch.no_grad():
        for part, module in modules_of(family, parts).items():
            for name, parameter, trained in _aligned(part, module, sources):
                place, patch = (part, name), (part, *name.removeprefix("text_model.").rpartition(".")[::2])
                now = patched.get(patch, parameter)
                base = kept.originals.get(place, now)
                if not trained:
                    value = base
                elif exact:
                    value = trained[0].reshape(parameter.shape).to(now.dtype)
                else:
                    start = base.to(parameter.device, torch.float32)
                    differences = (one.to(start).reshape(start.shape) - start for one in trained)
                    value = (start + sum(weight * one for weight, one in zip(wanted.values(), differences, strict=True))).to(now.dtype)
                if torch.equal(value.to(now.device), now):
                    continue
                kept.originals.setdefault(place, base.detach().to("cpu", copy=True))
                changed = True
                if patch in patched:
                    patched[patch] = value.to("cpu", copy=True)
                else:
                    parameter.copy_(value)
    if not wanted:
        kept.originals.clear()
    kept.laid = wanted
    if changed and patched:
        METHODS["lora"].set_weights(family, parts, parts.adapters)


def _aligned(part: str, module: torch.nn.Module, sources: list[SingleFile]) -> Iterator[tuple[str, torch.nn.Parameter, list[torch.Tensor]]]:
    """Each weight of a module with what the files have for it; memory for one of each at a time."""
    own = weights_of(part, module)
    if not sources:
        yield from ((name, parameter, []) for name, parameter in own.items())
        return
    for row in zip(*(source.tensors(part) for source in sources), strict=True):
        name = row[0][0]
        yield name, own[name], [tensor for _, tensor in row]


ENTRY = Dreambooth()
