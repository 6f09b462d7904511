"""Pivotal tuning: a new word and a LoRA, trained together (Roich et al. 2021; with a LoRA as diffusers' advanced examples have it).

What each of them is stands in its own module. The file is a LoRA's that brings the word along, as A1111 reads it; both of them lie
beside it as files of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nosnja_gui import embeddings, weights
from nosnja_gui.adapters.writing import Layout, Precision
from nosnja_gui.files import write_atomic
from nosnja_gui.methods import Recipe, Trainable
from nosnja_gui.methods.lora import ENTRY as LORA
from nosnja_gui.methods.textual_inversion import ENTRY as WORD
from nosnja_gui.methods.textual_inversion import check_finite, word_of
from nosnja_gui.settings import UserError
from nosnja_gui.sources import described

if TYPE_CHECKING:
    from nosnja_gui.families import Family, Parts
    from nosnja_gui.families.demand import Demand
    from nosnja_gui.sources import Source


class PivotalTuning:
    name = "pivotal"
    title = "LoRA + embedding (pivotal tuning)"
    groups = (*LORA.groups, *WORD.groups)
    modelspec = LORA.modelspec
    whole = False

    def problems(self, recipe: Recipe, family: Family, source: Source) -> dict[str, str]:
        found = LORA.problems(recipe, family, source) | WORD.problems(recipe, family, source)
        if "." in (word := word_of(recipe)):
            found["textual_inversion.word"] = f"A LoRA's file can't bring a word with a full stop along (got {word!r}): leave that out."
        return found

    def trained_numbers(self, recipe: Recipe, demand: Demand) -> int:
        return LORA.trained_numbers(recipe, demand) + WORD.trained_numbers(recipe, demand)

    def about(self, recipe: Recipe) -> dict[str, Any]:
        return LORA.about(recipe) | WORD.about(recipe)

    def recognises(self, names: Collection[str], metadata: Mapping[str, str]) -> bool:
        return described(names) == "a LoRA that brings a word along"

    def attach(self, family: Family, parts: Parts, recipe: Recipe) -> list[Trainable]:
        return [*LORA.attach(family, parts, recipe), *WORD.attach(family, parts, recipe)]

    def save(
        self,
        family: Family,
        parts: Parts,
        file: Path,
        metadata: Mapping[str, str],
        precision: Precision = "float16",
        layout: Layout = "kohya",
    ) -> list[Path]:
        """Write both into one file, and beside it the LoRA alone (`lora/`) and the word alone (`embeddings/`).

        diffusers refuses a file with names that are no LoRA's, ComfyUI takes words from its folder of embeddings only. Raises
        UserError, and writes nothing, where a number is not finite.
        """
        from safetensors.torch import save

        word = WORD.trained(family, parts)
        check_finite(word, file)
        alone, beside = file.parent / "lora" / file.name, file.parent / "embeddings" / file.name
        LORA.save(family, parts, alone, metadata, precision, layout)
        write_atomic(beside, embeddings.encode(word, precision, metadata))
        told = weights.metadata(alone) | {embeddings.WORD: word.word}
        write_atomic(file, save(dict(weights.tensors(alone)) | embeddings.bundle(word, precision), told))
        return [alone, beside]

    def apply(self, family: Family, parts: Parts, file: Path, name: str) -> None:
        """Both, or none of them, under the one name."""
        words = embeddings.bundled(file)
        if len(words) != 1:
            raise UserError(f"{file} brings {len(words)} words along, and only one can be put on with its LoRA: choose another file.")
        WORD.put_on(family, parts, words[0], name, str(file))
        try:
            LORA.apply(family, parts, file, name)
        except BaseException:
            WORD.remove(family, parts, name)
            raise

    def set_weights(self, family: Family, parts: Parts, weights: Mapping[str, float]) -> None:
        """Each of the two knows its own: `worn` has the name at both."""
        LORA.set_weights(family, parts, {name: weight for name, weight in weights.items() if name in parts.adapters})
        WORD.set_weights(family, parts, weights)

    def remove(self, family: Family, parts: Parts, name: str) -> None:
        LORA.remove(family, parts, name)
        WORD.remove(family, parts, name)


ENTRY = PivotalTuning()
