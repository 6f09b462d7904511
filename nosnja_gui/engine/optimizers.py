"""Optimisers by name, made from settings and groups of parameters. Knows nothing of the loop."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from nosnja_gui.jobs import OptimizerSettings, ScheduleSettings
from nosnja_gui.methods import Trainable
from nosnja_gui.plan import check_optimizer
from nosnja_gui.schedules import factor, warmup_updates
from nosnja_gui.settings import UserError


def make(settings: OptimizerSettings, trainables: Sequence[Trainable]) -> torch.optim.Optimizer:
    """An optimiser with a group per trainable (see `grouped`); each group remembers its whole rate as `base_rate`.

    Raises UserError where its package is missing, or where it has one rate and the trainables want several.
    """
    check_optimizer(settings)
    groups = []
    for trainable in grouped(settings, trainables):
        rate = rate_of(settings, trainable)
        group = {"params": trainable.parameters, "lr": rate, "base_rate": rate}
        if settings.chosen.matrices:
            group |= {"use_muon": for_matrices(trainable), "weight_decay": settings.weight_decay}
        groups.append(group)
    if settings.chosen.finds_rate and len({group["lr"] for group in groups}) > 1:
        raise UserError(
            f"{settings.chosen.title} finds one rate for all that is trained, and some of it is asked to learn faster: "
            "let all learn alike, or choose another optimizer.name such as adamw."
        )
    module, _, name = settings.chosen.made_by.rpartition(".")
    optimizer = getattr(importlib.import_module(module), name)(groups, **settings.arguments())
    if settings.chosen.averages:
        optimizer.train()
    return optimizer


def grouped(settings: OptimizerSettings, trainables: Sequence[Trainable]) -> list[Trainable]:
    """The trainables as the optimiser's groups: as they are, or matrices and other parameters apart where it tells them apart."""
    if not settings.chosen.matrices:
        return list(trainables)
    groups = []
    for trainable in trainables:
        named = list(zip(trainable.names, trainable.parameters, strict=True))
        for matrix in (True, False):
            chosen = {name: parameter for name, parameter in named if (parameter.ndim > 1) is matrix}
            if chosen:
                groups.append(replace(trainable, names=list(chosen), parameters=list(chosen.values())))
    return groups


def for_matrices(group: Trainable) -> bool:
    """Whether a group of `grouped` is moved as matrices. The vectors of an embedding are none, though they lie in one."""
    return group.parameters[0].ndim > 1 and not group.part.startswith("embedding")


def rate_of(settings: OptimizerSettings, trainable: Trainable) -> float:
    """The whole learning rate of a trainable, before the schedule; a factor where the optimiser finds the rate itself."""
    if settings.chosen.finds_rate:
        return settings.learning_rate * trainable.rate_factor
    of_part = settings.learning_rate
    if trainable.part.startswith("text_encoder"):
        of_part = settings.text_encoder_learning_rate or 0.0
    return (of_part if trainable.rate is None else trainable.rate) * trainable.rate_factor


def change_rate(
    optimizer: torch.optim.Optimizer, trainables: Sequence[Trainable], settings: OptimizerSettings, learning_rate: float
) -> None:
    """Make `learning_rate` the whole rate in place of the settings' one; the other parts' rates follow in proportion."""
    share = learning_rate / settings.learning_rate
    for trainable, group in zip(grouped(settings, trainables), optimizer.param_groups, strict=True):
        rate = rate_of(settings, trainable)
        group["base_rate"] = learning_rate if rate == settings.learning_rate else rate * share


def set_rates(optimizer: torch.optim.Optimizer, schedule: ScheduleSettings, update: int, total: int) -> None:
    """Set every group's rate for optimiser update `update` of `total`; all groups follow the same curve.

    The rate follows from the number of the update alone, so a resumed training needs no state of the schedule.
    """
    warmup = warmup_updates(total, schedule.warmup_share)
    share = factor(schedule.name, update, total, warmup, **schedule.shape)
    for group in optimizer.param_groups:
        group["lr"] = group["base_rate"] * share


def rates(optimizer: torch.optim.Optimizer, trainables: Sequence[Trainable], settings: OptimizerSettings) -> dict[str, float]:
    """What each part is moved with: the rate, times the estimate of an optimiser that finds its own.

    Of groups of the same part the first one's; nothing where the optimiser goes by no rate.
    """
    if not settings.follows_rate:
        return {}
    found: dict[str, float] = {}
    for trainable, group in zip(grouped(settings, trainables), optimizer.param_groups, strict=True):
        found.setdefault(trainable.part, float(group["lr"] * group.get("d", 1.0)))
    return found


@contextlib.contextmanager
def averaged(optimizer: torch.optim.Optimizer, settings: OptimizerSettings) -> Iterator[None]:
    """Inside, the parameters are those to look at and to keep: the average of a schedule-free optimiser, for others what they are.

    Afterwards they are what they were, bit for bit: computed back from the average, they would differ in the last digits, and a
    training that was looked at would not end as one that was not.
    """
    if not settings.chosen.averages:
        yield
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kept = [parameter.detach().clone() for parameter in parameters]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            for parameter, own in zip(parameters, kept, strict=True):
                parameter.copy_(own)


def load_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Take over a state that was written and read again. Tensors that it keeps in its groups go to the parameters' device, too."""
    optimizer.load_state_dict(dict(state))
    for group in optimizer.param_groups:
        device = group["params"][0].device
        group |= {name: _moved(value, device) for name, value in group.items() if name != "params"}


def _moved(value: Any, device: torch.device) -> Any:
    """Copies of all tensors, on a device."""
    if isinstance(value, torch.Tensor):
        return value.detach().to(device, copy=True)
    if isinstance(value, dict):
        return {key: _moved(inner, device) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_moved(inner, device) for inner in value)
    return value
