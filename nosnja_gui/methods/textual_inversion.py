"""Textual inversion: a new word for the text encoders, and nothing else (Gal et al. 2022, An Image is Worth One Word).

The encoders' own tables of words stay as they are: a wrapper looks the ids of new words up in rows beside them, and these rows are
all that is trained. Ids of new words are negative, because some encoders (SDXL's second, in its published configuration) find the end
of a text as its largest id. Never asks which family the parts came from.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from nosnja_gui import embeddings
from nosnja_gui.dataset.templates import Kind
from nosnja_gui.embeddings import Embedding
from nosnja_gui.files import write_atomic
from nosnja_gui.methods import TRAINED, MethodSettings, Recipe, Trainable
from nosnja_gui.settings import Shown, Slider, UserError
from nosnja_gui.sources import described
from nosnja_gui.tokens import WINDOW

if TYPE_CHECKING:
    import torch

    from nosnja_gui.families import Family, Parts
    from nosnja_gui.families.demand import Demand
    from nosnja_gui.sources import Source

TEMPLATE_TITLES = {"captions": "the pictures' captions", "object": "phrases for a thing", "style": "phrases for a style"}


class TextualInversionSettings(MethodSettings):
    word: Annotated[str, Field(title="Word"), Shown(essential=True)] = ""
    """What calls it up, best a word that means nothing yet; empty takes the trigger word. A1111 goes by the file's name instead."""
    vectors: Annotated[int, Field(ge=1, le=32, title="Vectors"), Slider(1, 32, 1), Shown(essential=True)] = 4
    """How much the word can hold: each vector takes the place of a token in prompts; 4 to 8 is usual, 1 or 2 for something simple."""
    initial_text: Annotated[str, Field(title="Begin with"), Shown(essential=True)] = ""
    """Words whose meaning it begins with, such as "folk costume": it learns sooner than from empty, which begins with noise."""
    templates: Annotated[Kind, Field(title="Learns from"), Shown(essential=True, titles=TEMPLATE_TITLES)] = "captions"
    """Captions keep out what they describe; phrases such as "a photo of the WORD" need no captions: usual for few and plain pictures."""
    learning_rate: Annotated[
        float | None,
        Field(gt=0, le=1, title="Word's learning rate"),
        Slider(1e-6, 1e-1, logarithmic=True),
        Shown(essential=True, empty="as the rest", start=1e-3),
    ] = None
    """Of the word alone: 5e-4 to 5e-3 is usual, far above a LoRA's; empty takes the optimizer's learning rate."""
    keep_norm: Annotated[bool, Field(title="Keep the length")] = False
    """Holds the vectors at the length that words have: the word stays easier to combine with others, and learns a little less."""


class TextualInversion:
    name = "textual_inversion"
    title = "Textual inversion"
    groups = ("textual_inversion",)
    modelspec = "/textual-inversion"
    whole = False

    def problems(self, recipe: Recipe, family: Family, source: Source) -> dict[str, str]:
        if not family.embedding_keys:
            return {"method": f"{family.title} can't be taught new words here: choose another method, or an SD 1.5, SD 2 or SDXL model."}
        word = word_of(recipe)
        if not word:
            return {"textual_inversion.word": "Textual inversion needs a word to learn: set the trigger word, or textual_inversion.word."}
        if not any(character.isalnum() for character in word):
            return {"textual_inversion.word": f"The word to learn has no letter in it (got {word!r}): take one such as nosnjaoutfit."}
        return {}

    def trained_numbers(self, recipe: Recipe, demand: Demand) -> int:
        """The denoiser reads the encoders' texts side by side, as wide as their words are together."""
        return recipe.settings["textual_inversion"].vectors * demand.unet.text_width

    def about(self, recipe: Recipe) -> dict[str, Any]:
        settings: TextualInversionSettings = recipe.settings["textual_inversion"]
        return {
            embeddings.WORD: word_of(recipe),
            "nosnja_vectors": settings.vectors,
            "nosnja_initial_text": settings.initial_text or None,
            "nosnja_templates": settings.templates,
            "nosnja_word_lr": settings.learning_rate,
        }

    def recognises(self, names: Collection[str], metadata: Mapping[str, str]) -> bool:
        return described(names) == "a textual inversion"

    def attach(self, family: Family, parts: Parts, recipe: Recipe) -> list[Trainable]:
        """Add float32 rows for the word to each text encoder; they are made on the CPU, so a seed gives the same start everywhere."""
        settings: TextualInversionSettings = recipe.settings["textual_inversion"]
        places = zip(family.embedding_keys, family.word_tables(parts), parts.tokenizers, strict=True)
        vectors = {key: first_vectors(_frozen(place).weight, tokenizer, settings) for key, place, tokenizer in places}
        self.put_on(family, parts, Embedding(word_of(recipe), vectors), TRAINED)
        trainables = []
        for number, (key, table) in enumerate(_tables(family, parts).items(), start=1):
            rows = table.rows[_row(TRAINED)].requires_grad_(True)
            hold = functools.partial(keep_norm, rows, mean_norm(table.table.weight)) if settings.keep_norm else None
            part = "embedding" if number == 1 else f"embedding_{number}"
            trainables.append(Trainable(part, [rows], [f"embedding.{key}"], rate=settings.learning_rate, after_update=hold))
        assert trainables, "there is no text encoder to teach a word to"
        return trainables

    def trained(self, family: Family, parts: Parts) -> Embedding:
        """The word as data; its tensors are the parameters themselves."""
        tables = _tables(family, parts)
        assert tables, "nothing was attached, so there is nothing to save"
        word = next(iter(tables.values())).words[TRAINED]
        return Embedding(word, {key: table.rows[_row(TRAINED)].detach() for key, table in tables.items()})

    def save(
        self, family: Family, parts: Parts, file: Path, metadata: Mapping[str, str], precision: str = "float16", layout: str = "kohya"
    ) -> list[Path]:
        """Write the word as A1111 and ComfyUI read it; for one text encoder also as a .pt of A1111's and in diffusers' layout.

        SDXL's file is read by diffusers as it is, and A1111 has no .pt of it. Raises UserError, and writes nothing, where a number is
        not finite.
        """
        trained = self.trained(family, parts)
        check_finite(trained, file)
        write_atomic(file, embeddings.encode(trained, precision, metadata))
        if set(trained.vectors) != {embeddings.SINGLE}:
            return []
        pickled, other = file.parent / "a1111" / f"{file.stem}.pt", file.parent / "diffusers" / file.name
        steps = metadata.get("ss_steps", "")
        step = int(steps) if steps.isdecimal() else 0
        write_atomic(pickled, embeddings.encode_pt(trained, precision, step, parts.base_name, parts.base_hash))
        write_atomic(other, embeddings.encode_diffusers(trained, precision, metadata))
        return [pickled, other]

    def apply(self, family: Family, parts: Parts, file: Path, name: str) -> None:
        self.put_on(family, parts, embeddings.read(file), name, str(file))

    def put_on(self, family: Family, parts: Parts, embedding: Embedding, name: str, file: str = "the word") -> None:
        """`apply` of what was read already. Raises UserError where it doesn't fit the model; nothing is changed then."""
        import torch

        worn = parts.worn.get(self.name, {})
        assert name not in worn, f"a word is on under the name '{name}' already"
        if not family.embedding_keys:
            raise UserError(f"{file} can't be used with {parts.base_name}: {family.title} models take no new words here.")
        places = dict(zip(family.embedding_keys, family.word_tables(parts), strict=False))
        for key, place in places.items():
            _check_fit(embedding, key, _frozen(place).weight.shape[1], parts.base_name, file)
        for key, place in places.items():
            if not hasattr(place.token_embedding, "rows"):
                place.token_embedding = _vocabulary()(place.token_embedding)
            table = place.token_embedding
            rows = embedding.vectors[key].detach().to(table.table.weight.device, torch.float32, copy=True)
            table.rows[_row(name)] = torch.nn.Parameter(rows, requires_grad=False)
            table.words[name] = embedding.word
        parts.worn.setdefault(self.name, {})[name] = 1.0
        self.set_weights(family, parts, parts.worn[self.name])

    def set_weights(self, family: Family, parts: Parts, weights: Mapping[str, float]) -> None:
        """The vectors are multiplied; at weight 0 the word isn't known at all and is spelt from tokens, as the model itself does.

        Of one word that is on twice, the one that was put on last counts.
        """
        worn = parts.worn.get(self.name, {})
        worn.update({name: float(weights.get(name, 0.0)) for name in worn})
        parts.words.clear()
        tables = list(_tables(family, parts).values())
        for name, weight in worn.items():
            for table in tables:
                table.weights[name] = weight
            if weight and tables:
                parts.words[tables[0].words[name].lower()] = tuple(table.ids(name) for table in tables)

    def remove(self, family: Family, parts: Parts, name: str) -> None:
        """Take a word off again; with the last one the encoders get their own tables back."""
        worn = parts.worn.get(self.name, {})
        assert name in worn, f"no word is on under the name '{name}'; there are: {', '.join(worn)}"
        del worn[name]
        for place in family.word_tables(parts):
            table = place.token_embedding
            del table.rows[_row(name)], table.words[name], table.weights[name]
            if not table.words:
                place.token_embedding = table.table
        self.set_weights(family, parts, dict(worn))


def word_of(recipe: Recipe) -> str:
    """The word that is learned; empty where none is given."""
    return recipe.settings["textual_inversion"].word.strip() or recipe.trigger.strip()


def first_vectors(table: torch.Tensor, tokenizer: Any, settings: TextualInversionSettings) -> torch.Tensor:
    """What the word begins as, float32 (vectors, width): the rows of the initial text, or noise of the table's mean and deviation.

    Fewer tokens than vectors are repeated, each where it stands; more are averaged, neighbours with each other.
    """
    import torch

    count = settings.vectors
    ids = tokenizer(settings.initial_text, add_special_tokens=False).input_ids
    if not ids:
        known = table.detach().float().cpu()
        return known.mean(0) + known.std(0) * torch.randn(count, known.shape[1])
    rows = table.detach()[torch.tensor(ids, device=table.device)].float().cpu()
    if len(ids) <= count:
        return rows[[place * len(ids) // count for place in range(count)]]
    ends = [place * len(ids) // count for place in range(count + 1)]
    return torch.stack([rows[start:end].mean(0) for start, end in itertools.pairwise(ends)])


def mean_norm(table: torch.Tensor) -> float:
    """How long the vectors of words are."""
    return table.detach().float().norm(dim=1).mean().item()


def keep_norm(rows: torch.nn.Parameter, norm: float) -> None:
    """Bring vectors (vectors, width) to this length."""
    import torch

    with torch.no_grad():
        rows.mul_(norm / rows.norm(dim=1, keepdim=True).clamp(min=1e-12))


def check_finite(embedding: Embedding, file: Path) -> None:
    """Raises UserError where a number of what is to be written is none."""
    import torch

    if not all(torch.isfinite(tensor).all() for tensor in embedding.vectors.values()):
        raise UserError(f"The vectors of '{embedding.word}' are no finite numbers, so {file} was not written: lower the learning rate.")


def _check_fit(embedding: Embedding, key: str, width: int, base_name: str, file: str) -> None:
    vectors = embedding.vectors.get(key)
    if vectors is None:
        made = "SDXL" if embeddings.DOUBLE[0] in embedding.vectors else "SD 1.x or 2.x"
        raise UserError(f"{file} doesn't fit {base_name}: it was made for {made}, it has no vectors called {key}.")
    if vectors.shape[1] != width:
        raise UserError(
            f"{file} doesn't fit {base_name}: its vectors have {vectors.shape[1]} numbers and the model's words have {width}; "
            "it was made for another kind of model."
        )
    if len(vectors) > WINDOW:
        raise UserError(f"{file} has {len(vectors)} vectors, and a text encoder reads {WINDOW} at once: choose another file.")


@functools.cache
def _vocabulary() -> type[torch.nn.Module]:
    import torch

    class Vocabulary(torch.nn.Module):
        """A table of words, and rows for new ones beside it."""

        def __init__(self, table: torch.nn.Embedding) -> None:
            super().__init__()
            self.table = table
            self.rows = torch.nn.ParameterDict()
            self.words: dict[str, str] = {}
            self.weights: dict[str, float] = {}

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            """ids (batch, tokens) -> (batch, tokens, width). -1 is the first of the new rows."""
            vectors = self.table(ids.clamp(min=0))
            rows = torch.cat([self.rows[_row(name)] * self.weights.get(name, 1.0) for name in self.words]).to(vectors)
            # Never left out, even where there is no new word: a step without one then has a gradient of zero and not none at all.
            new = torch.nn.functional.embedding((-1 - ids).clamp(min=0), rows)
            return torch.where(ids[..., None] < 0, new, vectors)

        def ids(self, name: str) -> tuple[int, ...]:
            first = 0
            for other in self.words:
                if other == name:
                    break
                first += len(self.rows[_row(other)])
            return tuple(-1 - place for place in range(first, first + len(self.rows[_row(name)])))

    return Vocabulary


def _frozen(place: torch.nn.Module) -> Any:
    """The encoder's own table, also below new words."""
    return getattr(place.token_embedding, "table", place.token_embedding)


def _tables(family: Family, parts: Parts) -> dict[str, Any]:
    """The tables that have new words, by what files call their encoder."""
    places = zip(family.embedding_keys, family.word_tables(parts), strict=False)
    return {key: place.token_embedding for key, place in places if hasattr(place.token_embedding, "rows")}


def _row(name: str) -> str:
    """torch refuses dots in the names of parameters, and names that its containers use themselves, such as "keys"."""
    return f"word {name}".replace(".", "\N{MIDDLE DOT}")


ENTRY = TextualInversion()
