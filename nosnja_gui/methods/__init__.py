"""Ways of fine-tuning: a new one is one file here with `ENTRY = Method()` and its own settings. No torch at import.

A method acts on the parts that a family exposes; it never asks which family they came from. What it has saved can be put onto any
model that it fits, under a name and with a weight; several files of several methods can be on at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nosnja_gui import weights as files
from nosnja_gui.registry import Shelf
from nosnja_gui.settings import Settings

if TYPE_CHECKING:
    import torch

    from nosnja_gui.families import Family, Parts
    from nosnja_gui.families.demand import Demand
    from nosnja_gui.sources import Source


class MethodSettings(Settings):
    """Base of a group of settings that a method goes by."""

    @property
    def scale(self) -> float:
        """What the updates are multiplied by: two trainings compare by learning rate x scale, not by the rate alone."""
        return 1.0


@dataclass(frozen=True)
class Recipe:
    """What of a job methods go by."""

    settings: Mapping[str, Any]
    """All groups of settings of methods, by the group's name."""
    trigger: str = ""
    train_text_encoder: bool = False
    precision: str = "auto"
    """Number format that was asked for the model."""


@dataclass
class Trainable:
    """Parameters that share a learning rate."""

    part: str
    """`unet`, `text_encoder`, `embedding` ..."""
    parameters: list[torch.nn.Parameter]
    names: list[str]
    """Stable names, one per parameter, under which checkpoints keep them."""
    rate: float | None = None
    """A learning rate of their own; None takes that of the part."""
    rate_factor: float = 1.0
    """How many times as fast as their part they learn."""
    after_update: Callable[[], None] | None = None
    """Called after each update of the optimiser, to hold them within bounds."""

    @property
    def of_text(self) -> bool:
        """Whether they change what prompts are encoded to."""
        return self.part.startswith(("text_encoder", "embedding"))


class Method(Protocol):
    name: str
    title: str
    groups: tuple[str, ...]
    """Groups of a job's settings that it goes by, its own first."""
    modelspec: str
    """What the modelspec metadata puts behind the model's architecture: `/lora`; empty for a whole model."""
    whole: bool
    """Whether it changes the model's own weights, which then are float32 and computed with in the precision that was asked for."""

    def problems(self, recipe: Recipe, family: Family, source: Source) -> dict[str, str]:
        """What hinders it, found without loading the model: a sentence by the dotted name of the setting."""

    def trained_numbers(self, recipe: Recipe, demand: Demand) -> int:
        """How many parameters it would train."""

    def attach(self, family: Family, parts: Parts, recipe: Recipe) -> list[Trainable]:
        """Make the parts trainable (float32 parameters, deterministic under torch.manual_seed)."""

    def about(self, recipe: Recipe) -> dict[str, Any]:
        """What is written into the file's metadata of its settings, under kohya's names where there are such."""

    def save(
        self, family: Family, parts: Parts, file: Path, metadata: Mapping[str, str], precision: str = "float16", layout: str = "kohya"
    ) -> list[Path]:
        """Write what was trained, atomically, so that other programs read it; returns what was written beside `file`.

        Raises UserError, and writes nothing, where a weight is not a finite number.
        """

    def recognises(self, names: Collection[str], metadata: Mapping[str, str]) -> bool:
        """Whether a file whose tensors are called so was saved by this method (here or elsewhere).

        Of a pickled file the names are those of `weights.joined`.
        """

    def apply(self, family: Family, parts: Parts, file: Path, name: str) -> None:
        """Load a saved file onto the parts under a name, at weight 1. Raises UserError where file and model don't fit."""

    def set_weights(self, family: Family, parts: Parts, weights: Mapping[str, float]) -> None:
        """Weight of each of this method's names; names not given get 0. All 0 gives exactly the base model."""

    def remove(self, family: Family, parts: Parts, name: str) -> None:
        """Take an applied file off again."""


TAGS = {"/lora": "lora", "/hypernetwork": "hypernet"}
"""How prompts of A1111 call what a method makes (<lora:name:weight>), by its modelspec. What has no tag goes by its own word."""
METHODS: Shelf[Method] = Shelf("nosnja_gui.methods", "method")
TRAINED = "trained"
"""Name under which what is being trained is on."""


def method_of(file: Path) -> Method:
    """By which method a file was trained. Raises UserError where it can't be read."""
    names: Collection[str]
    if file.suffix.lower() in files.PICKLED:
        names, metadata = set(files.joined(files.pickled(file))), {}
    else:
        names, metadata = files.shapes(file), files.metadata(file)
    # A LoRA's reader says best what a file is instead.
    return next((method for method in METHODS.values() if method.recognises(names, metadata)), METHODS["lora"])


def put_on(family: Family, parts: Parts, file: Path, name: str) -> None:
    """Load a file of any method onto the parts under a name, at weight 1. Raises UserError where file and model don't fit."""
    method_of(file).apply(family, parts, file, name)


def set_weights(family: Family, parts: Parts, weights: Mapping[str, float]) -> None:
    """The weight of everything that is on; names not given get 0."""
    for method, worn in list(parts.worn.items()):
        METHODS[method].set_weights(family, parts, {name: weights.get(name, 0.0) for name in worn})


def take_off(family: Family, parts: Parts, name: str) -> None:
    for method, worn in list(parts.worn.items()):
        if name in worn:
            METHODS[method].remove(family, parts, name)


@contextlib.contextmanager
def only(family: Family, parts: Parts, file: Path, name: str) -> Iterator[None]:
    """The parts with this file on and nothing else; afterwards all is as before."""
    before = {name: weight for worn in parts.worn.values() for name, weight in worn.items()}
    set_weights(family, parts, {})
    try:
        put_on(family, parts, file, name)
        try:
            yield
        finally:
            take_off(family, parts, name)
    finally:
        set_weights(family, parts, before)
