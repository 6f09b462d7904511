"""Ways of fine-tuning: a new one is one file here with `ENTRY = Method()` and its own settings. No torch at import.

A method acts on the parts that a family exposes; it never asks which family they came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nosnja_gui.registry import Shelf
from nosnja_gui.settings import Settings

if TYPE_CHECKING:
    import torch

    from nosnja_gui.adapters import Adapter
    from nosnja_gui.families import Family, Parts


class MethodSettings(Settings):
    """Base of a method's own settings; a job holds them in a group that is called like the method."""

    @property
    def scale(self) -> float:
        """What the updates are multiplied by: two trainings compare by learning rate x scale, not by the rate alone."""
        return 1.0


@dataclass
class Trainable:
    """Parameters that share a learning rate."""

    part: str
    """`unet` or `text_encoder`."""
    parameters: list[torch.nn.Parameter]
    names: list[str]
    """Stable names, one per parameter, under which checkpoints keep them."""


class Method(Protocol):
    name: str
    title: str
    settings: type[MethodSettings]

    def attach(self, family: Family, parts: Parts, settings: Any, train_text_encoder: bool) -> list[Trainable]:
        """Make the parts trainable (fp32 parameters, deterministic under torch.manual_seed)."""

    def save(
        self, family: Family, parts: Parts, file: Path, metadata: Mapping[str, str], precision: str = "float16", layout: str = "kohya"
    ) -> None:
        """Write what was trained, atomically, in a layout that other programs read.

        Raises UserError, and writes nothing, where a weight is not a finite number.
        """

    def start_from(self, family: Family, parts: Parts, adapter: Adapter) -> None:
        """After `attach`: begin where an earlier training left off."""

    def trained(self, family: Family, parts: Parts) -> Adapter:
        """What was trained, as data."""

    def apply(self, family: Family, parts: Parts, file: Path, name: str) -> None:
        """Load a saved file onto the parts under a name, at weight 1. Raises UserError where file and model don't fit."""

    def set_weights(self, family: Family, parts: Parts, weights: Mapping[str, float]) -> None:
        """Weight of each applied name; names not given get 0. All 0 gives exactly the base model."""

    def remove(self, family: Family, parts: Parts, name: str) -> None:
        """Take an applied file off again."""


METHODS: Shelf[Method] = Shelf("nosnja_gui.methods", "method")
