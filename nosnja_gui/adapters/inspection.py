"""What a LoRA file is, from its header alone: kind, layout, family, ranks, alphas, trigger words, how it was trained. No torch."""

from __future__ import annotations

import datetime
import json
import math
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nosnja_gui import embeddings, weights
from nosnja_gui.adapters import keys
from nosnja_gui.settings import UserError
from nosnja_gui.sources import described

NUMBERS: dict[str, tuple[int, Callable[[bytes], float]]] = {
    "F64": (8, lambda raw: struct.unpack("<d", raw)[0]),
    "F32": (4, lambda raw: struct.unpack("<f", raw)[0]),
    "F16": (2, lambda raw: struct.unpack("<e", raw)[0]),
    "BF16": (2, lambda raw: struct.unpack("<f", b"\0\0" + raw)[0]),
    "I64": (8, lambda raw: struct.unpack("<q", raw)[0]),
    "I32": (4, lambda raw: struct.unpack("<i", raw)[0]),
}
"""Number format -> bytes, and how to read one; alphas are whole numbers in some LyCORIS files."""
NEARLY_ALL = 0.9
"""A tag that stands in so many of a folder's captions is taken for a trigger word."""
MOST_TAGS = 20

FAMILY_BY_WIDTH = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}
"""What cross-attention looks at is as wide as the text encoders' output."""
FAMILY_BY_CLAIM = {
    "sd_v1": "SD 1.x", "diffusion-v1": "SD 1.x", "sd_v2": "SD 2.x", "diffusion-v2": "SD 2.x", "sd3": "SD 3", "diffusion-3": "SD 3",
    "xl": "SDXL", "flux": "Flux",
}  # fmt: skip
SETTINGS = {
    "network": (
        "network_module", "network_dim", "network_alpha", "network_dropout", "network_args", "scale_weight_norms",
    ),
    "training": (
        "learning_rate", "unet_lr", "text_encoder_lr", "optimizer", "lr_scheduler", "lr_warmup_steps", "max_grad_norm", "epoch",
        "num_epochs", "steps", "max_train_steps", "total_batch_size", "batch_size_per_device", "gradient_accumulation_steps",
        "gradient_checkpointing", "mixed_precision", "full_fp16", "seed", "clip_skip", "max_token_length", "caption_dropout_rate",
        "prior_loss_weight", "training_comment", "training_started_at", "training_finished_at",
    ),
    "loss": (
        "min_snr_gamma", "noise_offset", "multires_noise_iterations", "multires_noise_discount", "adaptive_noise_scale",
        "zero_terminal_snr", "ip_noise_gamma", "debiased_estimation", "loss_type", "huber_schedule", "huber_c",
    ),
    "pictures": (
        "num_train_images", "num_reg_images", "num_validation_images", "num_batches_per_epoch", "resolution", "enable_bucket",
        "min_bucket_reso", "max_bucket_reso", "bucket_no_upscale", "flip_aug", "color_aug", "random_crop", "shuffle_caption", "keep_tokens",
        "dataset_dirs", "reg_dataset_dirs",
    ),
    "base model": ("sd_model_name", "sd_model_hash", "new_sd_model_hash", "base_model_version", "v2", "vae_name", "vae_hash"),
}  # fmt: skip
"""kohya's ss_ values (sd-scripts train_network.py) by what they are about, in the order in which they are shown."""
NOT_SETTINGS = ("tag_frequency", "bucket_info", "datasets", "session_id", "output_name")
SHORT = {"lr": "learning rate", "reso": "resolution", "dim": "rank", "num": "number of", "reg": "regularisation", "sd": "", "aug": ""}


@dataclass(frozen=True)
class ModuleRow:
    """What a file changes about one module."""

    part: str
    """unet, text_encoder, text_encoder_2 ...; "" where its name doesn't tell."""
    module: str
    """As the file has it."""
    kind: str
    rank: int | None
    """None where it has none: full differences, LoKr of whole factors."""
    alpha: float | None
    """As it takes effect: what isn't stated is the rank."""
    shape: tuple[int, ...]
    """(outputs, inputs, kernel ...) of the weight that it is for; LoHa and LoKr may have the kernel folded into the inputs."""


@dataclass(frozen=True)
class Trigger:
    """A word that may call up what was learned."""

    words: str
    count: int | None = None
    """In how many captions it stands; None for what the file itself calls its trigger."""
    captions: int | None = None
    """Out of so many."""
    folder: str = ""


@dataclass(frozen=True)
class Inspection:
    file: Path
    problems: tuple[str, ...] = ()
    """A sentence for each reason why it cannot be used."""
    kinds: tuple[str, ...] = ()
    """LoRA, LoHa, LoKr, DoRA, "DoRA (LoKr)", "full difference", "textual inversion"; the most frequent first."""
    layout: str = ""
    """kohya, diffusers, comfyui, peft or lycoris; of a textual inversion a1111 (as ComfyUI reads it, too) or diffusers."""
    family: str = ""
    """SD 1.x, SD 2.x, SDXL, SD 3 or Flux; "" where nothing tells."""
    precisions: tuple[str, ...] = ()
    """float16 and the like, the most frequent first."""
    rows: tuple[ModuleRow, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    """What is stated first, then the tags that stand in nearly all captions of a folder, the most frequent first."""
    settings: dict[str, dict[str, str]] = field(default_factory=dict)
    """Group -> name -> value, readable."""
    words: dict[str, int] = field(default_factory=dict)
    """Words that it brings along, each with the number of its vectors: all of a textual inversion, a part of some LoRAs."""
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.part for row in self.rows))

    @property
    def text_encoders(self) -> tuple[str, ...]:
        return tuple(part for part in self.parts if part.startswith("text_encoder"))

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(sorted({row.rank for row in self.rows if row.rank is not None}))

    @property
    def alphas(self) -> tuple[float, ...]:
        return tuple(sorted({row.alpha for row in self.rows if row.alpha is not None}))


def inspect(file: Path) -> Inspection:
    """What the file is; `problems` says what is wrong with one that is damaged, incomplete or of another sort. Never raises UserError."""
    try:
        entries = weights.header(file)
    except UserError as error:
        return Inspection(file, (str(error),))
    said = entries.pop("__metadata__", None)
    metadata = {str(name): str(value) for name, value in said.items()} if isinstance(said, dict) else {}
    try:
        shapes = {key: tuple(map(int, entry["shape"])) for key, entry in entries.items()}
    except (KeyError, TypeError, ValueError):
        return Inspection(file, (f"{file} is damaged (its header is not readable): copy or download it again.",), metadata=metadata)
    words = _words(file, shapes, metadata)
    if described(entries) == "a textual inversion":
        return _embedding(file, entries, shapes, metadata, words)
    modules, strange = keys.grouped(entries)
    rows, problems = _rows(file, entries, modules, shapes, metadata)
    return Inspection(
        file=file,
        problems=(*_strange(file, modules, strange), *problems),
        kinds=_by_frequency(row.kind for row in rows),
        layout=keys.layout_of(modules),
        family=_family({row.module: row.shape for row in rows}, {row.part for row in rows}, metadata),
        precisions=_by_frequency(
            weights.PRECISIONS.get(entry["dtype"], str(entry["dtype"]).lower())
            for key, entry in entries.items()
            if not key.endswith(".alpha")
        ),
        rows=tuple(rows),
        triggers=tuple(dict.fromkeys((*(Trigger(word) for word in words), *_triggers(metadata)))),
        settings=settings(metadata) | _told(words),
        words=words,
        metadata=metadata,
    )


def _words(file: Path, shapes: Mapping[str, keys.Shape], metadata: Mapping[str, str]) -> dict[str, int]:
    """Words that a file brings along, each with the number of its vectors."""
    if described(shapes) == "a textual inversion":
        name, shape = next(iter(shapes.items()))
        own = metadata.get(embeddings.WORD) or (file.stem if name in (*embeddings.NO_WORDS, *embeddings.DOUBLE) else name)
        return {own: shape[0] if len(shape) == 2 else 1}
    counts: dict[str, int] = {}
    for key, shape in shapes.items():
        if brought := embeddings.bundled_words([key]):
            counts[brought[0]] = shape[0] if len(shape) == 2 else 1
    if len(counts) == 1 and embeddings.WORD in metadata:
        return {metadata[embeddings.WORD]: next(iter(counts.values()))}
    return counts


def _told(words: Mapping[str, int]) -> dict[str, dict[str, str]]:
    return {"embedding": {word: f"{count} vector{'s' * (count != 1)}" for word, count in words.items()}} if words else {}


def _embedding(
    file: Path, entries: Mapping[str, Any], shapes: Mapping[str, keys.Shape], metadata: Mapping[str, str], words: dict[str, int]
) -> Inspection:
    """A file of vectors: a row for each text encoder."""
    kind = "textual inversion"
    rows = tuple(
        ModuleRow("text_encoder_2" if name == embeddings.DOUBLE[1] else "text_encoder", name, kind, None, None, shape)
        for name, shape in sorted(shapes.items(), reverse=True)  # clip_l is the first encoder's
    )
    two, width = bool(set(embeddings.DOUBLE) & set(shapes)), next(iter(shapes.values()))[-1:]
    return Inspection(
        file=file,
        kinds=(kind,),
        layout="diffusers" if set(words) & set(shapes) else "a1111",
        family="SDXL" if two else FAMILY_BY_WIDTH.get(*width, "") if width in ((768,), (1024,)) else "",
        precisions=_by_frequency(weights.PRECISIONS.get(entry["dtype"], str(entry["dtype"]).lower()) for entry in entries.values()),
        rows=rows,
        triggers=tuple(dict.fromkeys((*(Trigger(word) for word in words), *_triggers(metadata)))),
        settings=settings(metadata) | _told(words),
        words=words,
        metadata=metadata,
    )


def _rows(
    file: Path,
    entries: Mapping[str, Any],
    modules: Mapping[str, Mapping[str, str]],
    shapes: Mapping[str, keys.Shape],
    metadata: Mapping[str, str],
) -> tuple[list[ModuleRow], list[str]]:
    rows, halves, odd, problems = [], [], [], []
    # A file has hundreds of modules and a dozen shapes: each is thought about once.
    understood: dict[tuple[Any, ...], tuple[bool, keys.Shape | None, int | None, str]] = {}
    try:
        stated = keys.stated_alphas(metadata, file)
    except UserError as error:
        stated = keys.StatedAlphas()
        problems.append(str(error))
    beside = _numbers(file, {stem: entries[roles["alpha"]] for stem, roles in modules.items() if "alpha" in roles})
    for stem, roles in modules.items():
        pieces = {role: shapes[key] for role, key in roles.items()}
        alike = tuple(pieces.items())
        if alike not in understood:
            half = bool(keys.lacking(pieces))
            understood[alike] = half, None if half else keys.weight_shape(pieces), keys.rank(pieces), keys.kind(pieces)
        half, shape, rank, kind = understood[alike]
        if half:
            halves.append(stem)
            continue
        if shape is None:
            odd.append(stem)
            continue
        part, alpha = keys.part_of(stem), None
        if rank is not None:
            alpha = beside[stem] if stem in beside else stated.alpha(part, keys.spelled(stem), rank)
            alpha = float(rank) if alpha is None else alpha
        rows.append(ModuleRow(part, stem, kind, rank, alpha, shape))
    if halves and not keys.other_kind(entries):
        lacking = " and ".join(keys.lacking(modules[halves[0]]))
        problems.append(
            f"{file} is incomplete, {len(halves)} of its {len(modules)} modules lack something ('{halves[0]}' lacks {lacking}): "
            "copy or download it again."
        )
    if odd:
        problems.append(f"{file} is damaged, the pieces of '{odd[0]}' don't fit each other: copy or download it again.")
    return rows, problems


def _strange(file: Path, modules: Mapping[str, Any], strange: list[str]) -> Iterator[str]:
    if title := keys.other_kind(strange):
        yield f"{file} is, or holds, {title}, which cannot be applied: choose a LoRA file."
    elif not modules:
        yield f"{file} holds no LoRA weights: choose a LoRA file."
    elif strange:
        yield f"{file} holds {len(strange)} weights that are no LoRA's, such as '{strange[0]}': choose another file."


def _by_frequency(titles: Any) -> tuple[str, ...]:
    return tuple(title for title, _ in Counter(titles).most_common())


def _numbers(file: Path, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The values of single numbers, read from the file; those that cannot be read are left out."""
    found: dict[str, float] = {}
    with open(file, "rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        for stem, entry in entries.items():
            try:
                count, number = NUMBERS[entry["dtype"]]
                stream.seek(start + entry["data_offsets"][0])
                value = number(stream.read(count))
            except (OSError, KeyError, TypeError, IndexError, struct.error):
                continue
            if math.isfinite(value):
                # The shortest number that is stored as this one: 0.1 and not 0.10000000149.
                found[stem] = float(f"{value:.6g}")
    return found


def family(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> str:
    """For which family of models a file was made, from its modules' names and weight shapes; "" where they don't tell.

    Names and widths: SD 1.x, 2.x and SDXL as in diffusers' convert_from_ckpt and sd-scripts library/sdxl_model_util.py; Flux and SD 3 as in
    sd-scripts networks/lora_flux.py and lora_sd3.py, and diffusers' transformers.
    """
    return _family(shapes, {keys.part_of(stem) for stem in shapes}, metadata)


def _family(shapes: Mapping[str, tuple[int, ...]], parts: set[str], metadata: Mapping[str, str]) -> str:
    modules = {stem.replace(".", "_"): shape for stem, shape in shapes.items()}

    def widths(pattern: str) -> set[int]:
        """Inputs of the linear layers whose names have it."""
        return {shape[1] for name, shape in modules.items() if len(shape) > 1 and re.search(pattern, name)}

    def named(pattern: str) -> bool:
        return any(re.search(pattern, name) for name in modules)

    if named(r"double_blocks_|single_transformer_blocks_"):
        return "Flux"
    if named(r"joint_blocks_"):
        return "SD 3"
    if "transformer" in parts:
        return (
            "Flux" if 3072 in widths(r"transformer_blocks_\d+_attn_to_q") else "SD 3" if widths(r"transformer_blocks_\d+_attn_to_") else ""
        )
    for width in widths(r"attn2_to_[kv]$"):
        if width in FAMILY_BY_WIDTH:
            return FAMILY_BY_WIDTH[width]
    claims = f"{metadata.get('modelspec.architecture', '')} {metadata.get('ss_base_model_version', '')}".lower()
    claimed = next((found for mark, found in FAMILY_BY_CLAIM.items() if mark in claims), "")
    # Only SDXL has transformers of several layers, a second text encoder beside the first and kohya's lora_te1.
    if "text_encoder_2" in parts or named(r"transformer_blocks_[1-9]|^lora_te1_|add_embedding|label_emb"):
        return claimed or "SDXL"
    # Only SD 1.x and 2.x attend at full resolution; SD 1.x projects by 1x1 convolutions.
    if named(r"(down_blocks_0|up_blocks_3)_attentions|input_blocks_[12]_1_|output_blocks_(9|10|11)_1_") and not claimed:
        kernels = {len(shape) for name, shape in modules.items() if re.search(r"_proj_(in|out)$", name) and "_ff_" not in name}
        text = widths(r"_self_attn_")
        return "SD 1.x" if 4 in kernels or 768 in text else "SD 2.x" if 1024 in text or 2 in kernels else ""
    if parts == {"text_encoder"} and not claimed:
        return next((FAMILY_BY_WIDTH[width] for width in widths(r"_self_attn_") if width in (768, 1024)), "")
    return claimed


def _triggers(metadata: Mapping[str, str]) -> Iterator[Trigger]:
    stated = [metadata.get(key, "").strip() for key in ("modelspec.trigger_phrase", "nosnja_trigger")]
    yield from (Trigger(words) for words in dict.fromkeys(stated) if words)
    counts = _json(metadata, "ss_dataset_dirs")
    tags = []
    for folder, frequencies in _json(metadata, "ss_tag_frequency").items():
        numbers = {tag: count for tag, count in frequencies.items() if isinstance(count, int)} if isinstance(frequencies, dict) else {}
        if not numbers:
            continue
        about = counts.get(folder)
        pictures = about.get("img_count") if isinstance(about, dict) else None
        # Without the number of pictures the most frequent tag is taken to stand in all of them.
        captions = pictures if isinstance(pictures, int) and pictures >= max(numbers.values()) else max(numbers.values())
        tags += [Trigger(tag, count, captions, folder) for tag, count in numbers.items() if count >= max(1, NEARLY_ALL * captions)]
    yield from sorted(tags, key=lambda tag: -(tag.count or 0))[:MOST_TAGS]


def _json(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        values = json.loads(metadata.get(key, "{}"))
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def settings(metadata: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Group -> name -> value of the ss_ values in the metadata, without those that say nothing; unknown ones come last."""
    said = {
        key.removeprefix("ss_"): value for key, value in metadata.items() if key.startswith("ss_") and value not in ("", "None", "null")
    }
    known = {name for names in SETTINGS.values() for name in names}
    groups = {**SETTINGS, "other": tuple(sorted(set(said) - known - set(NOT_SETTINGS)))}
    found = {group: {_label(name): _value(name, said[name]) for name in names if name in said} for group, names in groups.items()}
    return {group: values for group, values in found.items() if values}


def _label(name: str) -> str:
    words = (SHORT.get(word, word) for word in name.split("_"))
    return " ".join(word for word in words if word)


def _value(name: str, value: str) -> str:
    if name.endswith("_at"):
        try:
            return datetime.datetime.fromtimestamp(float(value), datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        except (ValueError, OverflowError, OSError):
            return value
    if value in ("True", "False"):
        return "yes" if value == "True" else "no"
    if value.startswith("{"):
        try:
            values = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return ", ".join(f"{key}: {_inner(inner)}" for key, inner in values.items())
    return value


def _inner(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {inner}" for key, inner in value.items())
    return str(value)
