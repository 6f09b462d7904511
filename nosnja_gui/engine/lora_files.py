"""What is done with LoRA files as files: other layouts, sums, other ranks, into a model, out of two models, other words inside.

Each function writes one file and returns what came of it. Whatever it writes is read back at once. Knows neither the command line
nor the window.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nosnja_gui import models, weights
from nosnja_gui.adapters import Adapter, Address, Decomposed, PartNames
from nosnja_gui.adapters.inspection import inspect
from nosnja_gui.adapters.reading import read
from nosnja_gui.adapters.writing import Layout, Precision, encode
from nosnja_gui.engine import algebra, roundtrip
from nosnja_gui.engine.algebra import Report
from nosnja_gui.engine.stand_in import stand_in
from nosnja_gui.families import FAMILIES, Family, Parts
from nosnja_gui.families.loading import today
from nosnja_gui.files import write_atomic
from nosnja_gui.settings import UserError
from nosnja_gui.sources import Folder, SingleFile, Source, Standard, described

Tell = Callable[[str, int, int], None]
"""Is told what is being done, how much of it, and of how much."""
PRIVATE = (
    "ss_dataset_dirs", "ss_reg_dataset_dirs", "ss_datasets", "ss_bucket_info", "ss_tag_frequency", "ss_training_comment", "ss_session_id",
)  # fmt: skip
"""What other trainers write of folders and captions."""


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    file: Path
    lines: tuple[str, ...]
    """For people, a sentence or a figure each."""


@dataclass(frozen=True)
class Opened:
    """A LoRA file, and the kind of model that it was made for."""

    file: Path
    adapter: Adapter
    family: Family
    parts: Parts
    """Of that model, without weights."""
    names: list[PartNames]
    source: Source
    """A base model where one was given, else the family's usual one, which has no weights."""

    @property
    def shapes(self) -> dict[Address, tuple[int, ...]]:
        return {(part.part, name): shape for part in self.names for name, shape in part.shapes.items()}

    def base(self) -> Callable[[Address], torch.Tensor] | None:
        """Reads the base model's weight of a module; None without a base model."""
        return None if isinstance(self.source, Standard) else lambda address: weight_of(self.source, self.names, address)


def open_lora(file: Path, model: Path | None = None) -> Opened:
    """Read a file for a base model, or for the family that it seems to be made for. Raises UserError as `adapters.reading` does."""
    if model is not None:
        family, source = models.identify(model)
        parts = family.skeleton(source)
        names = family.names(parts)
        return Opened(file, read(file, names, source.name), family, parts, names, source)
    looked = inspect(file)
    if looked.problems:
        raise UserError(looked.problems[0])
    if described(weights.shapes(file)) == "a textual inversion":
        raise UserError(f"{file} is a textual inversion, no LoRA: choose a LoRA file.")
    first: UserError | None = None
    likely = sorted(FAMILIES.values(), key=lambda family: family.short != looked.family)
    for family in likely:
        source = Standard(family.standard)
        parts = family.skeleton(source)
        names = family.names(parts)
        try:
            return Opened(file, read(file, names, f"a usual {family.title}"), family, parts, names, source)
        except UserError as error:
            first = first or error
    raise first or UserError(f"{file} fits no model that is known: give the base model it was trained on.")


def weight_of(source: Source, names: Sequence[PartNames], address: Address, leaf: str = "weight") -> torch.Tensor:
    """A module's weight out of a model, in the module's shape. Raises UserError where the model lacks it."""
    part, module = address
    shape = next(names_of for names_of in names if names_of.part == part).shapes[module]
    tensor = source.place(part, stored_name(source, part, f"{module}.{leaf}")).read()
    return tensor.reshape(shape) if leaf == "weight" else tensor


def stored_name(source: Source, part: str, name: str) -> str:
    """A weight's name in the source, which may be an older one than the module has today. Raises UserError if there is none."""
    found = source.weights(part)
    if name in found:
        return name
    if f"text_model.{name}" in found:
        return f"text_model.{name}"
    older = {today(stored, {name: None}): stored for stored in found}
    if name not in older:
        raise UserError(f"{source.path} has no weight '{name}' in its {part.replace('_', ' ')}: choose another model.")
    return older[name]


# Layouts


def convert(
    file: Path,
    output: Path,
    layout: Layout,
    precision: Precision | None = None,
    model: Path | None = None,
    check: bool = True,
    tell: Tell | None = None,
) -> Outcome:
    """Write a LoRA in another layout, in the precision it has unless another one is given."""
    _check_output(output, file)
    opened = open_lora(file, model)
    kept = {name: value for name, value in opened.adapter.metadata.items() if name != "lora_adapter_metadata"}
    lines = _write(opened, opened.adapter, output, layout, precision or precision_of(file), kept, check, tell)
    return Outcome(output, (f"{len(opened.adapter.updates)} modules of a {opened.family.title} LoRA in the {layout} layout.", *lines))


def precision_of(file: Path) -> Precision:
    """The precision that most of a file's weights have, or the nearest one that is written."""
    counts: dict[str, int] = {}
    for number, shape in weights.shapes(file).values():
        counts[number] = counts.get(number, 0) + math.prod(shape)
    most = max(counts, key=lambda number: counts[number])
    return {"F16": "float16", "BF16": "bfloat16"}.get(most, "float32")  # type: ignore[return-value]


def _write(
    opened: Opened,
    adapter: Adapter,
    output: Path,
    layout: Layout,
    precision: Precision,
    metadata: Mapping[str, str],
    check: bool,
    tell: Tell | None,
) -> list[str]:
    """Write and read back; the lines say what came of that. A file that doesn't come back whole is taken away again."""
    said = {
        "ss_base_model_version": opened.family.kohya_version,
        "ss_v2": str(opened.family.kohya_version == "sd_v2"),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{opened.family.modelspec(opened.parts)}/lora",
        **metadata,
    }
    try:
        content = encode(adapter, opened.names, layout, precision, {name: value for name, value in said.items() if value})
    except UserError as error:
        raise UserError(str(error).replace("Nothing was written", f"{output} was not written")) from None
    write_atomic(output, content)
    if not check:
        return [f"{len(content) / 1e6:,.1f} MB in {precision}; not read back."]
    if tell:
        tell("Reading it back", 0, 1)
    try:
        result = read_back(opened, adapter, output, layout)
    except UserError:
        output.unlink(missing_ok=True)
        raise
    return [f"{len(content) / 1e6:,.1f} MB in {precision}; {result}."]


def read_back(opened: Opened, adapter: Adapter, file: Path, layout: Layout) -> roundtrip.RoundTrip:
    """A forward pass with what was written and with what is read, on the base model or on a stand-in of its shape."""
    if isinstance(opened.source, Standard):
        parts = stand_in(opened.family)
    else:
        parts = opened.family.load(opened.source, torch.device("cpu"), torch.float32)
    return roundtrip.check(opened.family, parts, adapter, file, layout)


# Arithmetic


def merge(
    files: Sequence[tuple[Path, float]],
    output: Path,
    rank: int | None = None,
    layout: Layout = "kohya",
    precision: Precision | None = None,
    model: Path | None = None,
    check: bool = True,
    tell: Tell | None = None,
) -> Outcome:
    """The weighted sum of LoRAs of one family: exact, or by SVD to a rank."""
    _check_output(output, *(file for file, _ in files))
    opened = _open_all(files, model)
    adapter, report = algebra.merge(
        [(one.adapter, weight) for one, (_, weight) in zip(opened, files, strict=True)],
        opened[0].shapes,
        rank,
        opened[0].base(),
        tell=_telling(tell, "Adding up"),
    )
    triggers = [one.adapter.metadata.get("modelspec.trigger_phrase", "") for one in opened]
    said = {
        **adapter.metadata,
        "ss_output_name": output.stem,
        "modelspec.title": output.stem,
        "modelspec.trigger_phrase": ", ".join(dict.fromkeys(filter(None, triggers))),
        "nosnja_merged": ", ".join(f"{file.stem}:{weight:g}" for file, weight in files),
    }
    precision = precision or precision_of(files[0][0])
    return Outcome(output, (*report.lines(), *_write(opened[0], adapter, output, layout, precision, said, check, tell)))


def _open_all(files: Sequence[tuple[Path, float]], model: Path | None) -> list[Opened]:
    if not files:
        raise UserError("There is nothing to merge: give at least one LoRA.")
    opened = [open_lora(file, model) for file, _ in files]
    for other in opened[1:]:
        if other.family is not opened[0].family:
            raise UserError(
                f"{other.file} is made for {other.family.title} and {opened[0].file} for {opened[0].family.title}: "
                "merge LoRAs of one kind of model."
            )
    return opened


def resize(
    file: Path,
    output: Path,
    rank: int | None,
    keep: float | None = None,
    alpha: float | None = None,
    layout: Layout = "kohya",
    precision: Precision | None = None,
    model: Path | None = None,
    check: bool = True,
    tell: Tell | None = None,
) -> Outcome:
    """A plain LoRA of fewer ranks, from one of any kind, with what was lost."""
    _check_output(output, file)
    opened = open_lora(file, model)
    adapter, report = algebra.resize(opened.adapter, opened.shapes, rank, keep, alpha, opened.base(), tell=_telling(tell, "Resizing"))
    lines = _write(opened, adapter, output, layout, precision or precision_of(file), adapter.metadata, check, tell)
    return Outcome(output, (*report.lines(), *lines))


def extract(
    base: Path,
    tuned: Path,
    output: Path,
    rank: int,
    conv_rank: int | None = None,
    keep: float | None = None,
    text_encoders: bool = True,
    layout: Layout = "kohya",
    precision: Precision = "float16",
    check: bool = True,
    tell: Tell | None = None,
) -> Outcome:
    """The LoRA between two models of one family: the base, and what was trained on top of it."""
    _check_output(output, base, tuned)
    (family, first), (other, second) = models.identify(base), models.identify(tuned)
    if family is not other:
        raise UserError(f"{base} is a {family.title} model and {tuned} a {other.title} one: choose two of one kind.")
    parts = family.skeleton(first)
    names = family.names(parts)
    wanted = [part for part in names if text_encoders or not part.part.startswith("text_encoder")]
    addresses = [(part.part, name) for part in wanted for name, shape in part.shapes.items() if len(shape) > 1]

    def layers(source: Source) -> dict[Address, Callable[[], torch.Tensor]]:
        return {address: (lambda address=address: weight_of(source, names, address)) for address in addresses}

    adapter, report = algebra.extract(layers(first), layers(second), rank, conv_rank, keep, tell=_telling(tell, "Comparing layers"))
    said = {**adapter.metadata, "ss_output_name": output.stem, "modelspec.title": output.stem, "ss_sd_model_name": first.name}
    opened = Opened(output, adapter, family, parts, names, Standard(family.standard) if _usual(family, names) else first)
    return Outcome(output, (*report.lines(), *_write(opened, adapter, output, layout, precision, said, check, tell)))


def _usual(family: Family, names: Sequence[PartNames]) -> bool:
    """Whether a model has the shape of its family's usual one, so that the light stand-in will do to read a LoRA back."""
    usual = family.names(family.skeleton(Standard(family.standard)))
    return {part.part: part.shapes for part in usual} == {part.part: part.shapes for part in names}


def merge_into(model: Path, files: Sequence[tuple[Path, float]], output: Path, tell: Tell | None = None) -> Outcome:
    """A base model with LoRAs inside, in the layout and precision that it has: a single file, or a diffusers folder.

    One tensor is in memory at a time.
    """
    _check_output(output, model, *(file for file, _ in files))
    family, source = models.identify(model)
    family.check(source)
    opened = _open_all(files, model)
    changes: dict[Address, list[tuple[Adapter, float]]] = {}
    for one, (_, weight) in zip(opened, files, strict=True):
        for address in dict.fromkeys([*one.adapter.updates, *one.adapter.biases]):
            changes.setdefault(address, []).append((one.adapter, weight))
    if isinstance(source, SingleFile):
        if output.suffix != ".safetensors":
            raise UserError(f"{output} must end in .safetensors, as {model.name} is one file.")
        _merge_file(model, output, _by_key(source, opened[0].names, changes), weights.metadata(model), tell)
    else:
        assert isinstance(source, Folder)
        _merge_folder(source, output, _by_key(source, opened[0].names, changes), tell)
    models.check_model(output)
    inside = ", ".join(f"{file.stem} at {weight:g}" for file, weight in files)
    return Outcome(output, (f"{family.title} with {inside} inside: {len(changes)} modules changed.",))


Change = Callable[[torch.Tensor], torch.Tensor]


def _by_key(
    source: Source, names: Sequence[PartNames], changes: Mapping[Address, Sequence[tuple[Adapter, float]]]
) -> dict[Path, dict[str, list[Change]]]:
    """File -> key -> what is done to that tensor."""
    found: dict[Path, dict[str, list[Change]]] = {}
    shapes = {(part.part, name): shape for part in names for name, shape in part.shapes.items()}
    for address, adapters in changes.items():
        for leaf in ("weight", "bias"):
            wanted = [
                (adapter.updates.get(address) if leaf == "weight" else _bias(adapter, address), strength) for adapter, strength in adapters
            ]
            wanted = [(update, strength) for update, strength in wanted if update is not None]
            if not wanted:
                continue
            place = source.place(address[0], stored_name(source, address[0], f"{address[1]}.{leaf}"))
            shape = shapes[address] if leaf == "weight" else None

            def change(tensor: torch.Tensor, wanted=wanted, place=place, shape=shape) -> torch.Tensor:
                part = tensor.chunk(3)[place.third] if place.third is not None else tensor
                seen = part.T if place.transposed else part
                inner = seen.reshape(shape) if shape else seen
                for update, strength in wanted:
                    inner = algebra.merged(inner, update, strength)
                seen.copy_(inner.reshape(seen.shape))
                return tensor

            found.setdefault(place.file, {}).setdefault(place.key, []).append(change)
    return found


def _bias(adapter: Adapter, address: Address) -> object:
    from nosnja_gui.adapters import Full

    return Full(adapter.biases[address]) if address in adapter.biases else None


def _merge_file(
    file: Path, output: Path, changes: Mapping[Path, Mapping[str, Sequence[Change]]], metadata: Mapping[str, str], tell: Tell | None
) -> None:
    entries = weights.shapes(file)
    own, done = changes.get(file, {}), 0
    with weights.opened(file) as content:

        def produce(name: str) -> memoryview:
            nonlocal done
            tensor = content.get_tensor(name)
            if name in own:
                tensor = tensor.clone()
                for change in own[name]:
                    tensor = change(tensor)
            done += 1
            if tell:
                tell("Writing the model", done, len(entries))
            return tensor.contiguous().flatten().view(torch.uint8).numpy() if tensor.numel() else memoryview(b"")

        weights.write_stream(output, entries, produce, metadata)


def _merge_folder(source: Folder, output: Path, changes: Mapping[Path, Mapping[str, Sequence[Change]]], tell: Tell | None) -> None:
    if output.exists():
        raise UserError(f"There is {output} already: choose another name.")
    part = output.with_name(f".{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        shutil.copytree(source.path, part, ignore=lambda folder, names: [name for name in names if (Path(folder) / name) in changes])
        for file in changes:
            _merge_file(file, part / file.relative_to(source.path), changes, weights.metadata(file), tell)
        part.rename(output)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


# Words


def rename_trigger(file: Path, output: Path, word: str, old: str = "") -> Outcome:
    """The same weights to the bit with another trigger word in the metadata; the pictures still answer to what was trained."""
    word = word.strip()
    if not word:
        raise UserError("No trigger word is given: say the word that the file shall name.")
    said = weights.metadata(file)
    before = said.get("modelspec.trigger_phrase") or said.get("nosnja_trigger") or ""
    changed = {**said, "modelspec.trigger_phrase": word}
    if "nosnja_trigger" in said:
        changed["nosnja_trigger"] = word
    _rewrite(file, output, changed)
    return Outcome(output, (f"Trigger word: {word}{f' (was {before})' if before else ''}.", "The weights are the same to the bit."))


def strip(file: Path, output: Path, everything: bool = False) -> Outcome:
    """The same weights to the bit without what is private in the metadata (folders, captions' words, comments), or without any."""
    said = weights.metadata(file)
    needed = {name: said[name] for name in ("lora_adapter_metadata", "format") if name in said}
    kept = needed if everything else {name: value for name, value in said.items() if name not in PRIVATE and not _is_path(value)}
    _rewrite(file, output, kept)
    gone = sorted(set(said) - set(kept))
    named = f": {', '.join(gone)}" if gone else ""
    return Outcome(output, (f"{len(gone)} of {len(said)} entries taken out{named}.",))


def _is_path(value: str) -> bool:
    return value.startswith(("/", "~/", "\\\\")) or value[1:3] in (":\\", ":/")


def _rewrite(file: Path, output: Path, metadata: Mapping[str, str]) -> None:
    """The file with other metadata; may be written in its own place."""
    entries = weights.shapes(file)
    with weights.opened(file) as content:
        weights.write_stream(output, entries, lambda name: _raw(content.get_tensor(name)), metadata)


def _raw(tensor: torch.Tensor) -> object:
    return tensor.contiguous().flatten().view(torch.uint8).numpy() if tensor.numel() else b""


# Starting a training from a file


def for_training(file: Path, family: Family, source: Source, rank: int | None) -> tuple[Adapter, Report | None]:
    """A LoRA of any kind as a plain one of at most `rank`, for a training to go on from; with a report where that changed it.

    Without a rank it stays as it is.
    """
    parts = family.skeleton(source)
    names = family.names(parts)
    adapter = read(file, names, source.name)
    if rank is None:
        return adapter, None
    opened = Opened(file, adapter, family, parts, names, source)
    plain = all(not isinstance(update, Decomposed) and getattr(update, "rank", rank + 1) <= rank and hasattr(update, "down")
                and getattr(update, "mid", None) is None for update in adapter.updates.values())  # fmt: skip
    if plain:
        return adapter, None
    resized, report = algebra.resize(adapter, opened.shapes, rank, base=opened.base())
    return replace(resized, metadata=adapter.metadata), report


def _telling(tell: Tell | None, what: str) -> Callable[[int, int], None] | None:
    return None if tell is None else lambda done, total: tell(what, done, total)


def _check_output(output: Path, *inputs: Path) -> None:
    for given in inputs:
        if output.exists() and given.exists() and output.samefile(given):
            raise UserError(f"{output} is what is read from: choose another name for what is written.")
    if not output.parent.is_dir():
        raise UserError(f"There is no folder {output.parent}: make it first, or choose another one.")
