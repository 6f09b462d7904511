"""The demo: the whole way on the demo kit."""

from typing import Literal, get_args

from nosnja_gui.settings import Settings

DemoMethod = Literal["lora", "locon", "dora", "loha", "lokr", "dreambooth", "textual_inversion", "pivotal", "hypernetwork"]
DEMO_METHODS: tuple[str, ...] = get_args(DemoMethod)


class DemoJob(Settings):
    job: Literal["demo"] = "demo"
    method: DemoMethod = "lora"
    """By which method the costume is learned."""
    quick: bool = False
    """A few steps only, to see that everything runs."""
