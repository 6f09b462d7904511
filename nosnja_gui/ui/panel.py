"""What the window gives to its tabs, and what a tab gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from nosnja_gui.ui.memory import Memory
from nosnja_gui.ui.pictures import Pictures
from nosnja_gui.workspace import Workspace

TABS = ("start", "dataset", "trigger", "train", "monitor", "xyz", "library")
"""Ids of the tabs, in order; each is built by the module of that name."""


@dataclass(frozen=True)
class Window:
    """What all tabs share."""

    workspace: Workspace
    pictures: Pictures
    memory: Memory
    tabs: gr.Tabs
    """`gr.Tabs(selected="train")` as an output of a handler opens that tab."""
    dataset: gr.State
    """Folder of the dataset that is open, as text; "" for none. Set by the dataset tab, listened to by others (`.change`)."""
    run: gr.State
    """Name of the run that is watched, "" for the newest. Set to open a run in the monitor."""
    grid: gr.State
    """Name of the grid run that is shown in the XYZ tab, "" for none."""
    timer: gr.Timer
    """Asks all panels what is new (`page.keep_up_to_date`)."""
    listens: bool = False
    """Whether other machines are let in: then nothing outside the workspace may be opened."""

    @property
    def quiet(self) -> dict[str, Any]:
        """How every event of ours is declared: no spinner of Gradio's, and nothing offered to other programs.

        The page tells each component of an event how far that event is, shown or not, and looks through the whole page for each:
        half a second on opening. So there is one that is told, and it is found first.
        """
        return {"show_progress": "hidden", "show_progress_on": [self.timer], "api_visibility": "private"}


@dataclass(frozen=True)
class Panel:
    """`refresh(*inputs, language)` gives a value per output, or None where nothing changed.

    Called when the page loads and on every tick of the window's timer, for all panels in one go: it must be fast and may
    not raise. What it remembers of the session it keeps in a `gr.State` that is both input and output.
    """

    refresh: Callable[..., list[Any] | None]
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
