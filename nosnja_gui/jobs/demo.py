"""The demo: the whole way on the demo kit."""

from typing import Literal

from nosnja_gui.settings import Settings


class DemoJob(Settings):
    job: Literal["demo"] = "demo"
    quick: bool = False
    """A few steps only, to see that everything runs."""
