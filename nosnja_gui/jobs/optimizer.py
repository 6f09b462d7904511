"""The optimiser and the course of its learning rate."""

from typing import Annotated, Literal

from pydantic import Field

from nosnja_gui.settings import Settings, Shown, Slider

Schedule = Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"]


OPTIMIZER_TITLES = {"adamw": "AdamW", "adamw8bit": "AdamW8bit", "prodigy": "Prodigy"}


SCHEDULE_TITLES = {
    "constant": "Constant",
    "linear": "Linear",
    "cosine": "Cosine",
    "cosine_with_restarts": "Cosine with restarts",
    "polynomial": "Polynomial",
}


class OptimizerSettings(Settings):
    name: Annotated[Literal["adamw", "adamw8bit", "prodigy"], Field(title="Optimizer"), Shown(titles=OPTIMIZER_TITLES)] = "adamw"
    """AdamW is standard; AdamW8bit needs a quarter of its memory (package bitsandbytes); Prodigy finds the rate (package prodigyopt)."""
    learning_rate: Annotated[float, Field(gt=0, le=1), Slider(1e-6, 1e-2, logarithmic=True), Shown(essential=True)] = 1e-4
    """How large each step is: 1e-4 is usual for LoRA; ten times less hardly learns, ten times more burns in. Prodigy wants 1."""
    text_encoder_learning_rate: Annotated[
        float | None,
        Field(ge=0, le=1, title="Text encoder's learning rate"),
        Slider(1e-6, 1e-2, logarithmic=True),
        Shown(essential=True, empty="off", start=5e-5),
    ] = None
    """Trains the text encoder, too: half the learning rate is usual; empty or 0 leaves it alone."""
    weight_decay: Annotated[float, Field(ge=0, le=1), Slider(0, 0.1, 0.005)] = 0.01
    """Pulls the weights towards zero; 0.01 is usual."""
    max_grad_norm: Annotated[float, Field(ge=0, title="Longest gradient"), Slider(0, 2, 0.1)] = 1.0
    """Gradients longer than this are shortened, which tames outliers; 1.0 is usual, 0 turns it off."""


class ScheduleSettings(Settings):
    name: Annotated[Schedule, Field(title="Schedule"), Shown(essential=True, titles=SCHEDULE_TITLES)] = "cosine"
    """How the rate changes: constant stays, cosine and linear fall to zero, restarts begin anew."""
    warmup_share: Annotated[float, Field(ge=0, lt=1, title="Warmup"), Slider(0, 0.3, 0.01), Shown(essential=True)] = 0.05
    """Share of all steps in which the rate rises from zero; 0.05 is usual."""
    restarts: Annotated[int, Field(ge=1, le=100, title="Cycles"), Slider(1, 10, 1), Shown(essential=True)] = 3
    """Number of cycles of cosine with restarts."""
    power: Annotated[float, Field(title="Exponent", gt=0, le=10), Slider(0.5, 3, 0.1), Shown(essential=True)] = 1.0
    """Bend of the polynomial schedule: 1 is a straight line, 2 falls faster at first."""
