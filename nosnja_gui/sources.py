"""Where a model's parts come from: a diffusers folder, or a single file in the original layout seen as if it were one.

A source hands out configurations, headers and tensors under the names that diffusers and transformers use, so families load every
model the same way. Looks at weights only when tensors are asked for. Knows no family: what an original file holds is declared by
the family that it belongs to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from nosnja_gui import hypernetworks, weights
from nosnja_gui.settings import UserError
from nosnja_gui.weights import Weights

if TYPE_CHECKING:
    import torch

PICKLED = (".ckpt", ".pt", ".pth", ".bin")
"""Files of these endings are programs as much as data: they are read by the safe conversion only."""
PredictionType = Literal["epsilon", "v_prediction", "flow"]
CONFIGS = "nosnja_config"
"""Name in a file's metadata of the configurations of its parts and of its schedule, as JSON, where it was trained here."""


@dataclass(frozen=True)
class Tokenizer:
    """A folder of tokenizer files, and what differs from what they say."""

    folder: Path
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """A weight in a file: the tensor of that key, or a third of its rows, perhaps turned."""

    file: Path
    key: str
    third: int | None = None
    transposed: bool = False

    def read(self) -> torch.Tensor:
        """Raises UserError for a damaged file."""
        with weights.opened(self.file) as content:
            tensor = content.get_tensor(self.key)
        if self.third is not None:
            tensor = tensor.chunk(3)[self.third]
        return tensor.T if self.transposed else tensor


class Source(Protocol):
    """A model as it lies on the disk. All methods raise UserError in one sentence for what is missing or damaged."""

    path: Path
    name: str
    """As people call it: the folder's or the file's name."""

    def parts(self) -> tuple[str, ...]:
        """What there is: unet, vae, text_encoder ..."""

    def config(self, part: str) -> dict[str, Any]:
        """Configuration of a part, or of the `scheduler`, as diffusers and transformers have it."""

    def weights(self, part: str) -> Weights:
        """Name -> number format and shape, from the headers."""

    def tensors(self, part: str) -> Iterator[tuple[str, torch.Tensor]]:
        """Each weight of a part as the file has it; memory for one at a time."""

    def place(self, part: str, name: str) -> Place:
        """Where one weight lies in a file. Raises KeyError if there is none of that name."""

    def tokenizer(self, part: str) -> Tokenizer:
        """Of a text encoder."""

    def hash(self) -> str:
        """Short hash of the weights, which tells fine-tunes of one model apart."""


# A diffusers folder


class Folder:
    """A folder with model_index.json and a folder for each part."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name

    @cached_property
    def index(self) -> dict[str, Any]:
        return read_config(self.path / "model_index.json")

    def parts(self) -> tuple[str, ...]:
        return tuple(part for part, value in self.index.items() if isinstance(value, list) and value and value[0])

    def config(self, part: str) -> dict[str, Any]:
        return read_config(self.path / part / ("scheduler_config.json" if part == "scheduler" else "config.json"))

    def weights(self, part: str) -> Weights:
        return {name: entry for file in self.files(part) for name, entry in weights.shapes(file).items()}

    def tensors(self, part: str) -> Iterator[tuple[str, torch.Tensor]]:
        for file in self.files(part):
            yield from weights.tensors(file)

    def place(self, part: str, name: str) -> Place:
        for file in self.files(part):
            if name in weights.shapes(file):
                return Place(file, name)
        raise KeyError(name)

    def tokenizer(self, part: str) -> Tokenizer:
        folder = self.path / part.replace("text_encoder", "tokenizer")
        if not (folder / "tokenizer.json").is_file():
            wanted = ("spiece.model",) if (folder / "spiece.model").is_file() else ("vocab.json", "merges.txt")
            for name in wanted:
                if not (folder / name).is_file():
                    raise UserError(f"The model is incomplete, there is no {folder / name}: copy or download it again.")
        return Tokenizer(folder)

    def hash(self) -> str:
        return weights.short_hash(self.files("transformer" if "transformer" in self.parts() else "unet")[0])

    def files(self, part: str) -> list[Path]:
        """The .safetensors files of a part: one, or its shards."""
        return weight_files(self.path / part, "model" if part.startswith("text_encoder") else "diffusion_pytorch_model")


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError for a missing or damaged file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"The model is incomplete, there is no {path}: copy or download it again.") from None
    except (ValueError, RecursionError):
        raise UserError(f"The model is damaged, {path} is not readable as JSON: copy or download it again.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    if not isinstance(values, dict):
        raise UserError(f"The model is damaged, {path} holds no settings: copy or download it again.")
    return values


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The .safetensors files of a part: one, or its shards. Raises UserError if there is none or a shard is missing."""
    for variant in ("", ".fp16"):
        single = folder / f"{stem}{variant}.safetensors"
        if single.is_file():
            return [single]
        for index in (folder / f"{stem}.safetensors.index{variant}.json", folder / f"{stem}{variant}.safetensors.index.json"):
            if index.is_file():
                shards = [folder / name for name in sorted(set(read_config(index).get("weight_map", {}).values()))]
                missing = [shard for shard in shards if not shard.is_file()]
                if shards and not missing:
                    return shards
                raise UserError(f"The model is incomplete, there is no {missing[0] if missing else single}: copy or download it again.")
    if any(folder.glob("*.bin")) or any(folder.glob("*.ckpt")):
        raise UserError(f"{folder} holds its weights as .bin only, which can hide programs: save the model as .safetensors first.")
    raise UserError(f"The model is incomplete, there is no {folder / f'{stem}.safetensors'}: copy or download it again.")


# A single file in the original layout


@dataclass(frozen=True)
class Origin:
    """Where a weight stands in an original file."""

    key: str
    """Its name there, behind the prefix of its part."""
    third: int | None = None
    """0, 1, 2: this third of the rows, where queries, keys and values are one matrix (OpenCLIP)."""
    transposed: bool = False


Names = Mapping[str, Origin]
"""Name as diffusers and transformers have it -> where the original file has it."""


@dataclass(frozen=True)
class Filler:
    """A tensor that programs expect in an original file though the model has none such."""

    shape: tuple[int, ...]
    make: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class OriginalPart:
    """A part of an original file. Both functions get names without the part's prefix."""

    prefix: str
    config: Callable[[Weights], dict[str, Any]]
    """The configuration, from the shapes. May raise KeyError, IndexError, ValueError for weights of another kind."""
    names: Callable[[Mapping[str, Any]], Names]
    """Where each weight stands, by the configuration."""
    tokenizer: Tokenizer | None = None
    inner: str = ""
    """What some writers leave out of every name behind the prefix: `text_model.`."""
    fillers: Callable[[Mapping[str, Any]], Mapping[str, Filler | str]] = lambda config: {}
    """What else is written by the configuration: a tensor of its own, or the name of the one that is repeated."""


@dataclass(frozen=True)
class Original:
    """What the original files of a family look like."""

    title: str
    matches: Callable[[Weights], bool]
    """Whether a file is one of these, by the names and shapes of its weights."""
    parts: Mapping[str, OriginalPart]
    schedule: Callable[[SingleFile], dict[str, Any]]
    """The scheduler's configuration, with the prediction type."""
    size: Callable[[SingleFile], int]
    """Side in pixels at which it was trained."""
    marks: Callable[[PredictionType, Mapping[str, Any]], tuple[str, ...]] = lambda prediction, schedule: ()
    """Empty tensors that tell readers what a model predicts, and by which noise schedule."""


class SingleFile:
    """A checkpoint in one .safetensors file, as it is downloaded, seen under diffusers' names."""

    def __init__(self, path: Path, layout: Original) -> None:
        self.path, self.layout = path, layout
        self.name = path.stem
        self._configs: dict[str, dict[str, Any]] = {}

    @cached_property
    def entries(self) -> Weights:
        """All weights under their original names."""
        return weights.shapes(self.path)

    @cached_property
    def metadata(self) -> dict[str, str]:
        return weights.metadata(self.path)

    def parts(self) -> tuple[str, ...]:
        return tuple(part for part in self.layout.parts if self._inside(part))

    def config(self, part: str) -> dict[str, Any]:
        if part not in self._configs:
            told = self._told(part)
            worked_out = self.layout.schedule if part == "scheduler" else lambda file: file._config(part)
            self._configs[part] = worked_out(self) if told is None else told
        return self._configs[part]

    def _told(self, part: str) -> dict[str, Any] | None:
        """The configuration that a file trained here says itself, as shapes don't tell everything; None where it says none that fits."""
        try:
            config = json.loads(self.metadata.get(CONFIGS, "{}")).get(part)
            if not isinstance(config, dict):
                return None
            if part == "scheduler":
                return config
            inside = self._inside(part)
            return config if all(origin.key in inside for origin in self.layout.parts[part].names(config).values()) else None
        except (KeyError, IndexError, ValueError, TypeError, AttributeError, RecursionError):
            return None

    def _config(self, part: str) -> dict[str, Any]:
        inside = {name: self.entries[key] for name, key in self._inside(part).items()}
        spoken = part.replace("_", " ")
        if not inside:
            start = self.layout.parts[part].prefix
            raise UserError(f"{self.path} holds no {spoken} (no weight begins with '{start}'): choose a complete checkpoint.")
        try:
            config = self.layout.parts[part].config(inside)
        except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError, StopIteration) as error:
            raise UserError(
                f"The {spoken} of {self.path} is unlike that of every {self.layout.title} ({error}): choose another model."
            ) from None
        return config | {"sample_size": self.layout.size(self) // 8} if part == "unet" else config

    def _inside(self, part: str) -> dict[str, str]:
        """Names of a part without its prefix -> whole names in the file."""
        prefix, inner = self.layout.parts[part].prefix, self.layout.parts[part].inner
        found = {name.removeprefix(prefix): name for name in self.entries if name.startswith(prefix)}
        return {name if name.startswith(inner) else inner + name: key for name, key in found.items()}

    def weights(self, part: str) -> Weights:
        inside = self._inside(part)
        found = {}
        for name, origin in self.layout.parts[part].names(self.config(part)).items():
            if origin.key in inside:
                number, shape = self.entries[inside[origin.key]]
                found[name] = number, _as_there(shape, origin)
        return found

    def lacking(self, part: str) -> list[str]:
        """Weights that a part should have and the file has not, by their original names."""
        inside = self._inside(part)
        names = self.layout.parts[part].names(self.config(part)).values()
        return sorted({self.layout.parts[part].prefix + origin.key for origin in names if origin.key not in inside})

    def tensors(self, part: str) -> Iterator[tuple[str, torch.Tensor]]:
        inside = self._inside(part)
        with weights.opened(self.path) as file:
            for name, origin in self.layout.parts[part].names(self.config(part)).items():
                key = inside.get(origin.key)
                if key is None:
                    continue
                if origin.third is None:
                    tensor = file.get_tensor(key)
                else:
                    rows = self.entries[key][1][0] // 3
                    tensor = file.get_rows(key, origin.third * rows, (origin.third + 1) * rows)
                yield name, tensor.T if origin.transposed else tensor

    def place(self, part: str, name: str) -> Place:
        origin = self.layout.parts[part].names(self.config(part))[name]
        return Place(self.path, self._inside(part)[origin.key], origin.third, origin.transposed)

    def tokenizer(self, part: str) -> Tokenizer:
        tokenizer = self.layout.parts[part].tokenizer
        assert tokenizer is not None, f"the layout of {self.layout.title} has no tokenizer for {part}"
        return tokenizer

    def hash(self) -> str:
        return weights.short_hash(self.path)


def _as_there(shape: tuple[int, ...], origin: Origin) -> tuple[int, ...]:
    if origin.third is not None:
        shape = (shape[0] // 3, *shape[1:])
    return shape[::-1] if origin.transposed else shape


# Changed by the user


class Changed:
    """A source with another autoencoder, or another prediction type than it says itself."""

    def __init__(self, source: Source, vae: Source | None = None, prediction_type: PredictionType | None = None) -> None:
        self.source, self.vae, self.prediction_type = source, vae, prediction_type
        self.path, self.name = source.path, source.name

    def parts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.source.parts(), *(["vae"] if self.vae else [])]))

    def config(self, part: str) -> dict[str, Any]:
        if part == "vae" and self.vae:
            # How latents are scaled belongs to the UNet that was trained on them: a file of an autoencoder alone doesn't say it.
            own = self.source.config("vae") if "vae" in self.source.parts() else {}
            kept = {name: own[name] for name in ("scaling_factor", "shift_factor") if own.get(name) is not None}
            return {**self.vae.config("vae"), **kept}
        config = self.source.config(part)
        return {**config, "prediction_type": self.prediction_type} if part == "scheduler" and self.prediction_type else config

    def weights(self, part: str) -> Weights:
        return self._of(part).weights(part)

    def tensors(self, part: str) -> Iterator[tuple[str, torch.Tensor]]:
        return self._of(part).tensors(part)

    def place(self, part: str, name: str) -> Place:
        return self._of(part).place(part, name)

    def tokenizer(self, part: str) -> Tokenizer:
        return self.source.tokenizer(part)

    def hash(self) -> str:
        return self.source.hash()

    def _of(self, part: str) -> Source:
        return self.vae if part == "vae" and self.vae else self.source


class LoneVae:
    """An autoencoder alone: diffusers' folder or file of one, or one in the original layout."""

    def __init__(self, path: Path, original: OriginalPart) -> None:
        self.path, self._original = path, original
        self.name = path.resolve().name if path.is_dir() else path.stem

    @cached_property
    def _file(self) -> Path:
        if self.path.is_file():
            return self.path
        folder = self.path / "vae" if (self.path / "vae").is_dir() else self.path
        return weight_files(folder, "diffusion_pytorch_model")[0]

    @cached_property
    def _seen(self) -> tuple[dict[str, Any], dict[str, str], dict[str, Origin]]:
        """(configuration, name -> name in the file, name -> origin)."""
        entries = weights.shapes(self._file)
        if "encoder.mid_block.resnets.0.norm1.weight" in entries:
            beside = self._file.with_name("config.json")
            if not beside.is_file():
                raise UserError(f"{self._file} has diffusers' names but no config.json beside it: give the folder of the VAE.")
            return read_config(beside), {name: name for name in entries}, {}
        prefix = next((start for start in ("", "first_stage_model.", "vae.") if f"{start}encoder.conv_in.weight" in entries), None)
        if prefix is None:
            raise UserError(f"{self.path} is {described(entries)}, no VAE: choose another file.")
        inside = {name.removeprefix(prefix): entry for name, entry in entries.items() if name.startswith(prefix)}
        try:
            config = self._original.config(inside)
        except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError):
            raise UserError(f"{self.path} is a VAE of another kind of model: choose another one.") from None
        origins = {name: origin for name, origin in self._original.names(config).items() if origin.key in inside}
        return config, {name: prefix + origin.key for name, origin in origins.items()}, origins

    def parts(self) -> tuple[str, ...]:
        return ("vae",)

    def config(self, part: str) -> dict[str, Any]:
        return self._seen[0]

    def weights(self, part: str) -> Weights:
        entries = weights.shapes(self._file)
        return {name: entries[key] for name, key in self._seen[1].items()}

    def tensors(self, part: str) -> Iterator[tuple[str, torch.Tensor]]:
        with weights.opened(self._file) as file:
            for name, key in self._seen[1].items():
                yield name, file.get_tensor(key)

    def place(self, part: str, name: str) -> Place:
        return Place(self._file, self._seen[1][name])

    def tokenizer(self, part: str) -> Tokenizer:
        raise AssertionError("a VAE has no tokenizer")

    def hash(self) -> str:
        return weights.short_hash(self._file)


@dataclass(frozen=True)
class Standard:
    """The usual model of a family by its configurations alone: it has names and shapes, but no weights."""

    path: Path

    @property
    def name(self) -> str:
        return f"the usual {self.path.name.upper()}"

    def parts(self) -> tuple[str, ...]:
        return tuple(sorted(file.stem for file in self.path.glob("*.json") if file.stem != "scheduler"))

    def config(self, part: str) -> dict[str, Any]:
        return read_config(self.path / f"{part}.json")

    def weights(self, part: str) -> Weights:
        raise AssertionError("it has no weights")

    tensors = place = tokenizer = hash = weights


# What else a file may be


def _is_embedding(names: Collection[str]) -> bool:
    """A1111's and ComfyUI's names, or diffusers' file of one thing only, called after the word."""
    names = set(names) - {"__metadata__"}
    return bool(names & {"emb_params", "clip_l", "clip_g"}) or any(
        name.startswith("string_to_param") or (len(names) == 1 and "." not in name) for name in names
    )


LORA_MARKS = ("lora_", "lora.", "hada_", "lokr_", "oft_blocks")
MARKS: tuple[tuple[str, Callable[[Collection[str]], bool]], ...] = (
    ("a LoRA that brings a word along", lambda names: any(name.startswith("bundle_emb.") for name in names)),
    ("a LoRA or one of its kin", lambda names: any(mark in name for name in names for mark in LORA_MARKS)),
    ("a hypernetwork", hypernetworks.recognises),
    ("a textual inversion", _is_embedding),
    ("a ControlNet", lambda names: any(name.startswith(("control_model.", "controlnet_cond_embedding.")) for name in names)),
    ("a Flux model", lambda names: any("double_blocks.0.img_attn" in name for name in names)),
    ("a Stable Diffusion 3 file (its diffusers folder can be read)", lambda names: any("joint_blocks.0." in name for name in names)),
    ("a video model", lambda names: any("time_stack" in name or "temporal" in name for name in names)),
    ("a Stable Diffusion XL refiner", lambda names: "conditioner.embedders.0.model.ln_final.weight" in names),
    ("a UNet alone in diffusers' names", lambda names: "down_blocks.0.resnets.0.conv1.weight" in names),
    ("a UNet alone", lambda names: any(name.endswith("input_blocks.0.0.weight") for name in names)),
    ("a VAE alone", lambda names: any(name.endswith(("encoder.conv_in.weight", "decoder.conv_in.weight")) for name in names)),
    ("a T5 text encoder", lambda names: any("block.0.layer.0.SelfAttention" in name for name in names)),
    ("a CLIP model", lambda names: any("text_model.encoder.layers.0." in name or "resblocks.0." in name for name in names)),
    ("an upscaler", lambda names: any(name.startswith(("RRDB", "body.0.rdb1", "model.1.sub")) for name in names)),
)
"""The first that holds; facts from the files of these kinds."""


PUT_ON = ("a LoRA or one of its kin", "a LoRA that brings a word along", "a hypernetwork", "a textual inversion")
"""Kinds of files that are put onto a model."""


def described(entries: Collection[str]) -> str:
    """What a file of weights with these names seems to be."""
    return next((title for title, holds in MARKS if holds(entries)), "a file of weights of an unknown kind")
