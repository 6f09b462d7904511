"""The optimiser and the course of its learning rate: what there is to choose from, and what can be set of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from nosnja_gui.schedules import Decay, ScheduleName, Shape, parse_pieces
from nosnja_gui.settings import Settings, Shown, Slider

Schedule = ScheduleName


@dataclass(frozen=True)
class Optimizer:
    """What the program knows of an optimiser."""

    title: str
    made_by: str
    """Module and class, as they are imported when a training begins."""
    takes: Mapping[str, float | None] = field(default_factory=dict)
    """Settings that not all of them take, each with what holds where it is left empty: what its authors do."""
    betas: int = 2
    """How many of the betas its class is given together; the others go by their own names."""
    always: Mapping[str, Any] = field(default_factory=dict)
    """What its class is given beside the settings."""
    package: str = ""
    """What has to be installed for it, by the name that pip knows."""
    state_bytes: float = 8
    """Memory for each trained parameter, beside the 8 bytes of itself and its gradient."""
    usual_rate: float = 1e-4
    finds_rate: bool = False
    """Whether it finds the rate: learning_rate is a factor then, one for all parts."""
    averages: bool = False
    """Whether an average of all weights so far takes the place of a schedule."""
    matrices: bool = False
    """Whether it has a way of its own with matrices and is AdamW to what is none."""
    smaller: str = ""
    """The one that does the same with less memory."""


ADAM: dict[str, float | None] = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}

OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": Optimizer("AdamW", "torch.optim.AdamW", ADAM, always={"fused": True}, smaller="adamw8bit"),
    "adamw8bit": Optimizer("AdamW8bit", "bitsandbytes.optim.AdamW8bit", ADAM, package="bitsandbytes", state_bytes=2),
    # On a card whose memory runs out its state waits in the machine's memory; tensors of less than 100,000 numbers stay.
    "paged_adamw8bit": Optimizer(
        "Paged AdamW8bit", "bitsandbytes.optim.AdamW8bit", ADAM, always={"is_paged": True}, package="bitsandbytes", state_bytes=2
    ),
    # Chen et al. 2023: one momentum, and each weight moves by the full rate, so it wants a rate 3 to 10 times lower.
    "lion": Optimizer(
        "Lion",
        "bitsandbytes.optim.Lion",
        {"beta1": 0.9, "beta2": 0.99},
        package="bitsandbytes",
        state_bytes=4,
        usual_rate=3e-5,
        smaller="lion8bit",
    ),
    "lion8bit": Optimizer(
        "Lion8bit", "bitsandbytes.optim.Lion8bit", {"beta1": 0.9, "beta2": 0.99}, package="bitsandbytes", state_bytes=1, usual_rate=3e-5
    ),
    # Shazeer and Stern 2018: a row and a column instead of a matrix of second moments.
    "adafactor": Optimizer(
        "Adafactor", "transformers.Adafactor", {"beta1": None, "relative_step": None, "scale_parameter": None}, betas=0, state_bytes=1
    ),
    # As its authors have it for diffusion models (Mishchenko and Defazio 2024, appendix B): without the warmup fooling its estimate.
    "prodigy": Optimizer(
        "Prodigy",
        "prodigyopt.Prodigy",
        {**ADAM, "beta3": None, "d_coef": None, "d0": None, "safeguard_warmup": None},
        always={"use_bias_correction": True},
        package="prodigyopt",
        state_bytes=16,
        usual_rate=1.0,
        finds_rate=True,
    ),
    # Defazio and Mishchenko 2023. Without bias correction its first steps are several times too long, which in a training as short as a
    # LoRA's is never made up for (the demo kit's loss rises sevenfold within 80 steps; with it, it falls as AdamW's does).
    "dadapt_adam": Optimizer(
        "D-Adaptation (Adam)",
        "pytorch_optimizer.DAdaptAdam",
        {**ADAM, "d0": None},
        always={"weight_decouple": True, "bias_correction": True},
        package="pytorch-optimizer",
        state_bytes=12,
        usual_rate=1.0,
        finds_rate=True,
    ),
    # Defazio et al. 2024. A copy of the weights is held while the average is looked at or saved.
    "adamw_schedulefree": Optimizer(
        "Schedule-free AdamW",
        "schedulefree.AdamWScheduleFree",
        ADAM,
        package="schedulefree",
        state_bytes=12,
        usual_rate=3e-4,
        averages=True,
    ),
    # Luo et al. 2023. Where it is confident it goes further than the rate says: in the demo kit a tenth of AdamW's rate does as well.
    "came": Optimizer(
        "CAME",
        "pytorch_optimizer.CAME",
        {"beta1": 0.9, "beta2": 0.999, "beta3": 0.9999},
        betas=3,
        package="pytorch-optimizer",
        state_bytes=5,
        usual_rate=2e-5,
    ),
    # Jordan et al. 2024, at a rate adjusted to be AdamW's (Liu et al. 2025, equation 4).
    "muon": Optimizer(
        "Muon",
        "pytorch_optimizer.Muon",
        {"momentum": None},
        betas=0,
        always={"use_adjusted_lr": True},
        package="pytorch-optimizer",
        state_bytes=4,
        matrices=True,
    ),
}
"""A further optimiser is one more entry: the form, the checks, the estimate and the training follow."""

OPTIMIZER_TITLES = {name: optimizer.title for name, optimizer in OPTIMIZERS.items()}
ARGUMENTS = {"epsilon": "eps"}
"""What settings are called by the classes, where it is something else."""

SCHEDULE_TITLES = {
    "constant": "Constant",
    "linear": "Linear",
    "cosine": "Cosine",
    "cosine_with_restarts": "Cosine with restarts",
    "polynomial": "Polynomial",
    "wsd": "Warmup, stable, decay",
    "rex": "REX",
    "inverse_sqrt": "Inverse square root",
    "piecewise_constant": "Piecewise constant",
}
DECAY_TITLES = {"sqrt": "Fast at first (1 - root)", "linear": "Straight"}
SCHEDULE_SETTINGS: dict[str, tuple[Schedule, ...]] = {
    "restarts": ("cosine_with_restarts",),
    "power": ("polynomial",),
    "end_share": ("linear", "cosine", "cosine_with_restarts", "polynomial", "wsd", "rex"),
    "decay_share": ("wsd",),
    "decay": ("wsd",),
    "pieces": ("piecewise_constant",),
}
"""Schedules in which a setting does something."""


class OptimizerSettings(Settings):
    name: Annotated[Literal[*OPTIMIZERS], Field(title="Optimizer"), Shown(titles=OPTIMIZER_TITLES)] = "adamw"
    """AdamW is standard, 8-bit ones do the same with less memory; Prodigy and D-Adaptation find the rate, with a learning rate of 1."""
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
    beta1: Annotated[float | None, Field(ge=0, lt=1), Slider(0.5, 0.99, 0.01), Shown(empty="usual", start=0.9)] = None
    """How slowly the direction changes: near 1 it follows the mean of many steps. Empty takes the authors' value, mostly 0.9."""
    beta2: Annotated[float | None, Field(ge=0, lt=1), Slider(0.9, 0.999, 0.001), Shown(empty="usual", start=0.99)] = None
    """How slowly the sizes of the steps change. Empty takes the authors' value, mostly 0.999; 0.99 forgets sooner."""
    beta3: Annotated[float | None, Field(ge=0, lt=1), Slider(0.9, 0.9999, 0.0001), Shown(empty="usual", start=0.9995)] = None
    """The slowest mean: of what Prodigy estimates its rate from, or of CAME's confidence. Empty takes the authors' value."""
    epsilon: Annotated[float | None, Field(gt=0, le=1), Slider(1e-10, 1e-4, logarithmic=True), Shown(empty="usual", start=1e-8)] = None
    """Keeps steps small where gradients are tiny. Empty takes the authors' value, 1e-8."""
    momentum: Annotated[float, Field(ge=0, lt=1), Slider(0.8, 0.99, 0.01)] = 0.95
    """How slowly Muon's direction changes; 0.95 is usual."""
    relative_step: bool = True
    """Adafactor sets its rate by itself, from the number of the step; off, the learning rate and its schedule hold."""
    scale_parameter: Annotated[bool, Field(title="Rate relative to the weights")] = True
    """Adafactor multiplies the rate by the size of the weights; with a learning rate of your own it is mostly off."""
    d_coef: Annotated[float, Field(gt=0, le=100, title="Factor of the estimate"), Slider(0.1, 3, 0.1)] = 1.0
    """Prodigy's d_coef, by which its rate is turned up or down: 0.5 to 2."""
    d0: Annotated[float, Field(gt=0, le=1, title="First estimate"), Slider(1e-8, 1e-4, logarithmic=True)] = 1e-6
    """The rate (d0) from which the search goes up; 1e-6 is usual, more starts faster."""
    safeguard_warmup: Annotated[bool, Field(title="Careful estimate while warming up")] = True
    """Keeps a warmup from driving Prodigy's estimate too high; usually on."""

    @property
    def chosen(self) -> Optimizer:
        return OPTIMIZERS[self.name]

    @property
    def follows_rate(self) -> bool:
        """Whether the learning rate and its schedule have any effect."""
        return not ("relative_step" in self.chosen.takes and self.relative_step)

    def arguments(self) -> dict[str, Any]:
        """What the optimiser's class is given beside parameters and rates."""
        given = {name: usual if getattr(self, name) is None else getattr(self, name) for name, usual in self.chosen.takes.items()}
        together = [name for name in ("beta1", "beta2", "beta3")[: self.chosen.betas] if name in given]
        betas = {"betas": tuple(given.pop(name) for name in together)} if together else {}
        named = {ARGUMENTS.get(name, name): value for name, value in given.items()}
        return {**betas, **named, "weight_decay": self.weight_decay, **self.chosen.always}

    def without_effect(self) -> list[str]:
        """Settings that change nothing with this optimiser."""
        of_some = {name for optimizer in OPTIMIZERS.values() for name in optimizer.takes}
        idle = [name for name in type(self).model_fields if name in of_some and name not in self.chosen.takes]
        return idle if self.follows_rate else ["learning_rate", *idle]


class ScheduleSettings(Settings):
    name: Annotated[Schedule, Field(title="Schedule"), Shown(essential=True, titles=SCHEDULE_TITLES)] = "cosine"
    """How the rate changes: constant stays, cosine and linear fall to zero, restarts begin anew."""
    warmup_share: Annotated[float, Field(ge=0, lt=1, title="Warmup"), Slider(0, 0.3, 0.01), Shown(essential=True)] = 0.05
    """Share of all steps in which the rate rises from zero; 0.05 is usual."""
    restarts: Annotated[int, Field(ge=1, le=100, title="Cycles"), Slider(1, 10, 1), Shown(essential=True)] = 3
    """Number of cycles of cosine with restarts."""
    power: Annotated[float, Field(title="Exponent", gt=0, le=10), Slider(0.5, 3, 0.1), Shown(essential=True)] = 1.0
    """Bend of the polynomial schedule: 1 is a straight line, 2 falls faster at first."""
    end_share: Annotated[float, Field(ge=0, lt=1, title="Lowest share"), Slider(0, 0.5, 0.01), Shown(essential=True)] = 0.0
    """Share of the rate at which the curve ends: 0 falls to nothing, 0.1 keeps a tenth."""
    decay_share: Annotated[float, Field(ge=0, le=1, title="Fall"), Slider(0, 0.5, 0.01), Shown(essential=True)] = 0.2
    """Share of all steps in which the rate falls at the end; 0.2 is usual (Hägele et al. 2024)."""
    decay: Annotated[Decay, Field(title="Form of the fall"), Shown(essential=True, titles=DECAY_TITLES)] = "sqrt"
    """How it falls at the end; fast at first does better (Hägele et al. 2024)."""
    pieces: Annotated[str, Shown(essential=True)] = "50%: 0.5, 80%: 0.1"
    """From where in the training on which share of the rate holds: 50%: 0.5 halves it in the middle."""

    @field_validator("pieces")
    @classmethod
    def _readable(cls, text: str) -> str:
        parse_pieces(text)
        return text

    @property
    def shape(self) -> Shape:
        """What bends the curve, as `nosnja_gui.schedules` takes it."""
        values = {name: getattr(self, name) for name in SCHEDULE_SETTINGS}
        return Shape(**{**values, "pieces": parse_pieces(self.pieces)})

    def without_effect(self) -> list[str]:
        """Settings that change nothing with this schedule."""
        return [name for name, schedules in SCHEDULE_SETTINGS.items() if self.name not in schedules]
