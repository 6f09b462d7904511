"""What a tab gives to the window: components, and how to bring them up to date."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Panel:
    """`refresh(*inputs)` gives a value per output, or `gr.skip()`; called when the page loads and on every tick of the window's timer."""

    refresh: Callable[..., Any]
    inputs: list[Any]
    outputs: list[Any]
