"""What other trainers ask for of an optimiser, in our settings; no format of its own.

Which class a name stands for and what it is given: kohya-ss/sd-scripts, `library/train_util.py` (get_optimizer), and
Nerogar/OneTrainer, `modules/util/create.py` (create_optimizer). What a class does without being told is its signature's:
torch.optim, bitsandbytes, lion_pytorch, prodigyopt, dadaptation, schedulefree, transformers.Adafactor, pytorch_optimizer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nosnja_gui.foreign import OFF, Answer, flag, is_off, number, or_nothing
from nosnja_gui.jobs import OPTIMIZER_TITLES, OptimizerSettings
from nosnja_gui.jobs.optimizer import OPTIMIZERS, Optimizer

SAME = {
    "adamw": "adamw", "adamw8bit": "adamw8bit", "pagedadamw8bit": "paged_adamw8bit", "lion": "lion", "lion8bit": "lion8bit",
    "adafactor": "adafactor", "prodigy": "prodigy", "dadaptadam": "dadapt_adam", "adamwschedulefree": "adamw_schedulefree",
    "schedulefreeadamw": "adamw_schedulefree", "came": "came", "muon": "muon",
}  # fmt: skip
"""Names in small letters, without module and underscores -> ours."""
UNPAGED = {"pagedadamw": "adamw", "pagedadamw32bit": "adamw", "pagedlion8bit": "lion8bit"}
NEAR = (
    ("prodigyplus", "prodigy"), ("prodigy", "prodigy"), ("dadapt", "dadapt_adam"), ("schedulefree", "adamw_schedulefree"),
    ("radamschedulefree", "adamw_schedulefree"), ("sgdschedulefree", "adamw_schedulefree"), ("lion8bit", "lion8bit"), ("lion", "lion"),
    ("came", "came"), ("muon", "muon"), ("adamuon", "muon"), ("pagedademamix8bit", "paged_adamw8bit"),
    ("ademamix8bit", "adamw8bit"), ("adam8bit", "adamw8bit"),
)  # fmt: skip
"""Beginnings of other names -> what comes nearest; AdamW to all else."""
UNTOLD: Mapping[str, Mapping[str, Any]] = {
    **{name: {"weight_decay": 0.0} for name in ("lion", "lion8bit", "adamw_schedulefree", "came", "muon", "dadapt_adam")},
    "adafactor": {"weight_decay": 0.0, "relative_step": True, "scale_parameter": True},
    "prodigy": {"weight_decay": 0.0, "safeguard_warmup": False},
}
"""What the classes do where nothing is said and it need not be what we do."""
ON_HERE: Mapping[str, tuple[str, ...]] = {
    "prodigy": ("decouple", "use_bias_correction"),
    "dadapt_adam": ("decouple", "weight_decouple", "use_bias_correction", "bias_correction"),
    "muon": ("use_adjusted_lr", "weight_decouple", "nesterov"),
    "came": ("weight_decouple",),
}
"""Switches that are no settings here, but always on."""
WANTED_ON: Mapping[str, tuple[tuple[str, ...], str]] = {
    "prodigy": (("use_bias_correction",), "Its first steps are corrected here, as use_bias_correction=True does."),
    "dadapt_adam": (
        ("use_bias_correction", "bias_correction"),
        "Its first steps are corrected here and weight decay is apart, as use_bias_correction and decouple do.",
    ),
    "muon": (("use_adjusted_lr",), "Rates are AdamW's here, as with use_adjusted_lr=True: that of a plain Muon may be too high."),
}
"""Of these one at least has to be on in the file, or it is not quite the same: why."""
AS_USUAL: Mapping[str, tuple[tuple[float, ...], ...]] = {
    "eps": ((1e-30,), (1e-30, 1e-3), (1e-30, 1e-16)), "eps1": ((1e-30,),), "eps2": ((1e-3,), (1e-16,)), "clip_threshold": ((1.0,),),
    "decay_rate": ((-0.8,),), "ns_steps": ((5.0,),), "weight_lr_power": ((2.0,),), "growth_rate": (),
    "min_8bit_size": ((4096.0,), (16384.0,)), "optim_bits": ((32.0,), (8.0,)), "percentile_clipping": ((100.0,),),
}  # fmt: skip
"""What is no setting here, and the numbers that it has here, too."""
NAMES = {"eps": "epsilon"}
BETAS = ("beta1", "beta2", "beta3")
OWN = frozenset(name for optimizer in OPTIMIZERS.values() for name in optimizer.takes)


@dataclass(frozen=True)
class Wanted:
    """The optimiser that a file asks for."""

    name: str
    """Ours."""
    reason: str
    """Why it is not quite theirs; empty where it is."""
    remark: str = ""
    """What there is to say although it is the same."""

    @property
    def chosen(self) -> Optimizer:
        return OPTIMIZERS[self.name]

    def answer(self, given: Mapping[str, Any], untold: Mapping[str, Any] | None = None) -> Answer:
        """It, and what its class does where `given` (by their names) says nothing; `untold` goes before what is known of the classes."""
        told = {name for name, value in given.items() if value not in (None, "")}
        own = {**UNTOLD.get(self.name, {}), **(untold or {})}
        settings = {"optimizer.name": self.name, **{f"optimizer.{name}": value for name, value in own.items() if name not in told}}
        switches, why = WANTED_ON.get(self.name, ((), ""))
        reason = self.reason or ("" if not switches or any(flag(given.get(name)) for name in switches) else why)
        return Answer("approximated" if reason else "taken", settings, reason or self.remark)


def wanted(name: str) -> Wanted:
    """By the name of a class, with its module or without, or OneTrainer's of it."""
    title = name.rpartition(".")[2]
    plain = title.lower().replace("_", "")
    if plain in SAME:
        return Wanted(SAME[plain], "")
    if plain in UNPAGED:
        return Wanted(UNPAGED[plain], "", "Without paging here, which changes the memory only.")
    near = next((own for beginning, own in NEAR if plain.startswith(beginning)), "adamw")
    more = ", which may want another learning rate" if near == "adamw" else ""
    return Wanted(near, f"There is no {title} here; {OPTIMIZER_TITLES[near]} is taken{more}.")


def argument(name: str, value: Any, of: Wanted) -> Answer:
    """One of the arguments of an optimiser."""
    setting = NAMES.get(name, name)
    if setting in of.chosen.takes or setting == "weight_decay":
        try:
            convert = flag if isinstance(getattr(OptimizerSettings(), setting), bool) else number
            return Answer("taken", {f"optimizer.{setting}": convert(value)})
        except ValueError as why:
            return Answer("no counterpart", {}, str(why))
    if name in ON_HERE.get(of.name, ()):
        return Answer("ignored", {}, "As it is here.") if flag(value) else Answer("no counterpart", {}, "It is always on here.")
    if name in AS_USUAL and (numbers(value) in AS_USUAL[name] or str(value).strip("'\"").lower() in ("inf", "infinity")):
        return Answer("ignored", {}, "As it is here.")
    if is_off(value):
        return OFF
    return Answer("no counterpart", {}, f"Not with {of.chosen.title} here." if setting in OWN else "There is no such setting here.")


def numbers(value: Any) -> tuple[float, ...] | None:
    """Of "(0.9, 0.99)", "0.9,0.99", a list or a number; None for what is none."""
    parts = value if isinstance(value, list | tuple) else [part for part in re.split(r"[\s,()\[\]]+", str(value)) if part]
    found = [or_nothing(number, part) for part in parts]
    return None if None in found or not found else tuple(found)


def spread(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with betas=(0.9, 0.99) as beta1 and beta2; betas that are no numbers stay."""
    betas = numbers(given["betas"]) if "betas" in given else None
    if not betas or len(betas) > len(BETAS):
        return dict(given)
    return {**{name: value for name, value in given.items() if name != "betas"}, **dict(zip(BETAS, betas, strict=False))}


def all_arguments(given: Mapping[str, Any], of: Wanted) -> Answer:
    """All of them as one line of a file."""
    answers = {name: argument(name, value, of) for name, value in spread(given).items()}
    settings = {name: value for answer in answers.values() for name, value in answer.settings.items()}
    lost = [name for name, answer in answers.items() if answer.verdict == "no counterpart"]
    reason = f"What is not taken over: {', '.join(lost)}." if lost else ""
    if not settings:
        return Answer("no counterpart", {}, reason) if lost else Answer("ignored", {}, "Nothing in it that is not so here.")
    return Answer("approximated" if lost else "taken", settings, reason)
