"""Reading LoRA-family files of every layout into an `Adapter`; whatever doesn't fit the model is refused, never skipped."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nosnja_gui.adapters import (
    Adapter,
    Address,
    Butterfly,
    Decomposed,
    Full,
    Hadamard,
    Kronecker,
    LowRank,
    PartNames,
    Rotation,
    Update,
    keys,
)
from nosnja_gui.adapters.inspection import family
from nosnja_gui.settings import UserError
from nosnja_gui.weights import header

if TYPE_CHECKING:
    import torch

ROLES = {
    "LoRA": {"down", "up", "mid", "magnitude"},
    "LoHa": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "magnitude"},
    "LoKr": {"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "magnitude"},
    "full difference": {"diff"},
    "OFT": {"oft_blocks", "rescale"},
    "BOFT": {"oft_blocks", "rescale"},
}
"""What belongs to which kind of update; alphas and biases go with any. Nobody reads a magnitude beside a full difference."""


def read(file: Path, names: Sequence[PartNames], model_title: str, absent: Collection[str] = ()) -> Adapter:
    """What a file changes about the parts in `names`; tensors keep the file's precision and lie on the CPU.

    What it says about parts in `absent` (not loaded now, whether or not `names` has them) is skipped. Raises UserError in one sentence for
    a damaged or incomplete file, for kinds that cannot be applied, for weights that are not finite and for another model's file.
    """
    source = _Source(file, model_title, *_load(file))
    stated = keys.stated_alphas(source.metadata, file)
    loaded = {part.part: part for part in names if part.part not in absent}
    adapter = Adapter({}, metadata=source.metadata)
    for stem, (part, module) in source.place(list(loaded.values()), absent, [part for part in names if part.part in absent]).items():
        shape, pieces = loaded[part].shapes[module], source.pieces(stem)
        source.check_fit(stem, shape)
        if set(pieces) - {"alpha"} != {"diff_b"}:
            rank = keys.rank({role: tensor.shape for role, tensor in pieces.items()}) or 0
            alpha = stated.alpha(part, (module, keys.inside(loaded[part], module)), rank)
            adapter.updates[part, module] = source.update(stem, shape, alpha, rank)
        if "diff_b" in pieces:
            adapter.biases[part, module] = pieces["diff_b"]
    if not adapter.parts:
        raise UserError(f"{file} holds nothing for {' and '.join(loaded)}, which is all that is loaded: choose another file.")
    return adapter


@dataclass
class _Source:
    """A file's tensors by module, and what is said where they don't do."""

    file: Path
    model_title: str
    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]

    def __post_init__(self) -> None:
        self.modules, self.strange = keys.grouped(self.tensors)
        if not self.modules:
            raise UserError(f"{self.file} holds no LoRA weights: choose a LoRA file.")

    def pieces(self, stem: str) -> dict[str, torch.Tensor]:
        return {role: self.tensors[key] for role, key in self.modules[stem].items()}

    def shapes(self, stem: str) -> dict[str, tuple[int, ...]]:
        return {role: tuple(tensor.shape) for role, tensor in self.pieces(stem).items()}

    def place(self, names: Sequence[PartNames], absent: Collection[str], skipped: Sequence[PartNames]) -> dict[str, Address]:
        """Module's name in the file -> where it belongs, in the file's order. Raises UserError for what belongs nowhere."""
        places, not_loaded = keys.places(names), keys.places(skipped)
        stems: dict[Address, str] = {}
        unknown = list(self.strange)
        for stem in self.modules:
            self.check_whole(stem)
            name = keys.plain(stem)
            if name in places:
                # Files that name a module twice, by the original's name and by diffusers', mean the latter (diffusers
                # loaders/lora_conversion_utils.py, _maybe_map_sgm_blocks_to_diffusers).
                if not _original(stem) or places[name] not in stems:
                    stems[places[name]] = stem
            elif keys.part_of(stem) not in absent and name not in not_loaded:
                unknown.append(stem)
        if unknown:
            raise self.unplaced(unknown)
        order = {stem: address for address, stem in stems.items()}
        return {stem: order[stem] for stem in self.modules if stem in order}

    def unplaced(self, unknown: Sequence[str]) -> UserError:
        changed = [stem for stem in unknown if "oft_blocks" not in self.modules.get(stem, ("oft_blocks",))]
        norms = [stem for stem in changed if len(keys.weight_shape(self.shapes(stem)) or ()) == 1]
        if len(norms) == len(unknown):
            return UserError(
                f"{self.file} also changes {len(norms)} norm layers of {self.model_title}, such as '{norms[0]}', which cannot be applied: "
                "choose a file that was trained without them."
            )
        count = len(self.modules) + len(self.strange)
        return UserError(
            f"{self.file} doesn't fit {self.model_title}: {len(unknown)} of its {count} modules, such as '{min(unknown)}', "
            f"have no place there; it was trained on {self.made_for()}."
        )

    def made_for(self) -> str:
        found = family({stem: keys.weight_shape(self.shapes(stem)) or () for stem in self.modules}, self.metadata)
        return f"an {found} model" if found.startswith("S") else f"a {found} model" if found else "another kind of model"

    def check_whole(self, stem: str) -> None:
        shapes = self.shapes(stem)
        lacking = keys.lacking(shapes)
        title = keys.kind(shapes)
        if lacking:
            what = "one of its two matrices" if lacking in (["down"], ["up"]) else f"{' and '.join(lacking)} of a {title or 'LoRA'}"
            raise UserError(f"{self.file} is incomplete, '{stem}' lacks {what}: copy or download it again.")
        inner = title.removeprefix("DoRA (").rstrip(")") if title != "DoRA" else "LoRA"
        more = sorted(set(shapes) - ROLES[inner] - {"alpha", "diff_b"})
        if more:
            raise UserError(f"{self.file} cannot be applied, '{stem}' is a {title} and has {', '.join(more)} too: choose another file.")
        if keys.weight_shape(shapes) is None:
            raise UserError(f"{self.file} is damaged, the matrices of '{stem}' don't fit each other: copy or download it again.")

    def check_fit(self, stem: str, expected: tuple[int, ...]) -> None:
        pieces, ours = self.pieces(stem), keys.weight_shape(self.shapes(stem)) or ()
        if "diff_b" in pieces and pieces["diff_b"].numel() != expected[0]:
            ours, expected = (pieces["diff_b"].numel(),), expected[:1]
        elif set(pieces) - {"alpha"} == {"diff_b"}:
            return
        elif "oft_blocks" in pieces:
            if len(expected) == 1 or ours[0] != expected[0]:
                raise UserError(
                    f"{self.file} doesn't fit {self.model_title}: '{stem}' is made for {ours[0]} outputs, but the model has {expected[0]} "
                    f"there; it was trained on {self.made_for()}."
                )
            return
        sizes, wanted = ((math.prod(shape[1:]), shape[0]) for shape in (ours, expected))
        if (sizes, len(ours) == 1) != (wanted, len(expected) == 1):
            raise UserError(
                f"{self.file} doesn't fit {self.model_title}: '{stem}' is made for {sizes[0]} inputs and {sizes[1]} outputs, "
                f"but the model has {wanted[0]} and {wanted[1]} there; it was trained on {self.made_for()}."
            )

    def update(self, stem: str, expected: tuple[int, ...], stated_alpha: float | None, rank: int) -> Update:
        """Without any alpha, alpha is the rank: that is how such files are meant."""
        pieces = self.pieces(stem)
        if "oft_blocks" in pieces:
            constraint = max(0.0, float(pieces["alpha"].float().reshape(-1)[0])) if "alpha" in pieces else 0.0
            kind = Rotation if pieces["oft_blocks"].ndim == 3 else Butterfly
            return kind(pieces["oft_blocks"], constraint, pieces.get("rescale"))
        alpha = float(pieces["alpha"].float().reshape(-1)[0]) if "alpha" in pieces else stated_alpha
        alpha = float(rank or 1) if alpha is None else alpha
        inner = _inner(pieces, alpha)
        if "magnitude" not in pieces:
            return inner
        magnitude = pieces["magnitude"]
        peft = ".lora_magnitude_vector" in self.modules[stem]["magnitude"]
        # peft has one magnitude for each output, as (outputs,) or, for convolutions, as (1, outputs, 1, 1).
        rows = (expected[0], *[1] * (len(expected) - 1))
        columns = (1, expected[1], *[1] * (len(expected) - 2))
        if magnitude.numel() == expected[0] and (peft or magnitude.ndim == 1 or magnitude.shape[0] == expected[0]):
            return Decomposed(inner, magnitude.reshape(rows))
        if magnitude.numel() == expected[1] and not peft:
            return Decomposed(inner, magnitude.reshape(columns))
        raise UserError(
            f"{self.file} doesn't fit {self.model_title}: '{stem}' has {magnitude.numel()} magnitudes for {expected[0]} outputs; "
            f"it was trained on {self.made_for()}."
        )


def _inner(pieces: Mapping[str, torch.Tensor], alpha: float) -> Update:
    if "hada_w1_a" in pieces:
        return Hadamard(alpha=alpha, **{role.removeprefix("hada_"): piece for role, piece in pieces.items() if role.startswith("hada_")})
    if any(role.startswith("lokr_") for role in pieces):
        factors = {role.removeprefix("lokr_"): piece for role, piece in pieces.items() if role.startswith("lokr_")}
        return Kronecker(alpha=alpha, **{"w1": None, "w2": None, **factors})
    if "diff" in pieces:
        return Full(pieces["diff"])
    return LowRank(pieces["down"], pieces["up"], alpha, pieces.get("mid"))


def _original(stem: str) -> bool:
    return any(block in stem for block in ("input_blocks", "middle_block", "output_blocks"))


def _load(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    entries = header(file)
    said = entries.pop("__metadata__", None)
    if title := keys.other_kind(entries):
        raise UserError(f"{file} is, or holds, {title}, which cannot be applied: choose a LoRA file.")
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}): copy or download it again.") from None
    # The vectors of a word that is brought along are another method's.
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(keys.BUNDLED)}
    if not all(torch.isfinite(tensor.float()).all() for tensor in tensors.values() if tensor.is_floating_point()):
        raise UserError(f"{file} holds weights that are not finite numbers, its training had failed: choose another file.")
    return tensors, {str(name): str(value) for name, value in said.items()} if isinstance(said, dict) else {}
