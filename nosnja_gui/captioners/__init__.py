"""Captioners: a new one is one file here with `ENTRY = Captioner()`. No torch at import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from nosnja_gui.registry import Shelf

if TYPE_CHECKING:
    import torch
    from PIL import Image


class LoadedCaptioner(Protocol):
    def caption(self, pictures: list[Image.Image], prompt: str = "") -> list[str]:
        """A caption per RGB picture; `prompt` is the beginning that the model continues."""


class Captioner(Protocol):
    name: str
    title: str
    default_model: str
    """Hub id that is used where the user names no folder."""

    def recognises(self, model: Path) -> bool:
        """Whether the model folder is one of this captioner's."""

    def load(self, model: Path, device: torch.device, dtype: torch.dtype) -> LoadedCaptioner:
        """Load from a local folder. Raises UserError in one sentence where that fails."""


CAPTIONERS: Shelf[Captioner] = Shelf("nosnja_gui.captioners", "captioner")
