"""Optimisers by name, made from settings and groups of parameters. Knows nothing of the loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nosnja_gui.jobs import OptimizerSettings, ScheduleSettings
from nosnja_gui.methods import Trainable
from nosnja_gui.plan import check_optimizer
from nosnja_gui.schedules import factor, warmup_updates


def make(settings: OptimizerSettings, trainables: Sequence[Trainable]) -> torch.optim.Optimizer:
    """An optimiser with one group per trainable part; each group remembers its whole rate as `base_rate`."""
    check_optimizer(settings)
    groups = [
        {"params": trainable.parameters, "lr": rate_of(settings, trainable.part), "base_rate": rate_of(settings, trainable.part)}
        for trainable in trainables
    ]
    if settings.name == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(groups, weight_decay=settings.weight_decay)
    if settings.name == "prodigy":
        from prodigyopt import Prodigy

        # As its authors have it for diffusion models (Mishchenko and Defazio 2024, appendix B): without the warmup fooling its estimate.
        return Prodigy(groups, settings.learning_rate, weight_decay=settings.weight_decay, use_bias_correction=True, safeguard_warmup=True)
    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)


def rate_of(settings: OptimizerSettings, part: str) -> float:
    """The whole learning rate of a part, before the schedule. Prodigy has one estimate, so one factor, for all parts."""
    if settings.name == "prodigy":
        return settings.learning_rate
    return (settings.text_encoder_learning_rate or 0.0) if part.startswith("text_encoder") else settings.learning_rate


def change_rate(
    optimizer: torch.optim.Optimizer, trainables: Sequence[Trainable], settings: OptimizerSettings, learning_rate: float
) -> None:
    """Make `learning_rate` the whole rate in place of the settings' one; the other parts' rates follow in proportion."""
    share = learning_rate / settings.learning_rate
    for trainable, group in zip(trainables, optimizer.param_groups, strict=True):
        rate = rate_of(settings, trainable.part)
        group["base_rate"] = learning_rate if rate == settings.learning_rate else rate * share


def set_rates(optimizer: torch.optim.Optimizer, schedule: ScheduleSettings, update: int, total: int) -> None:
    """Set every group's rate for optimiser update `update` of `total`; all groups follow the same curve.

    The rate follows from the number of the update alone, so a resumed training needs no state of the schedule.
    """
    warmup = warmup_updates(total, schedule.warmup_share)
    share = factor(schedule.name, update, total, warmup, schedule.restarts, schedule.power)
    for group in optimizer.param_groups:
        group["lr"] = group["base_rate"] * share


def rates(optimizer: torch.optim.Optimizer, trainables: Sequence[Trainable]) -> dict[str, float]:
    """What each part is moved with: the rate, times the estimate of an optimiser that finds its own."""
    groups = zip(trainables, optimizer.param_groups, strict=True)
    return {trainable.part: float(group["lr"] * group.get("d", 1.0)) for trainable, group in groups}


def cpu_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state with all tensors copied to main memory, ready to be written."""
    return _to_cpu(optimizer.state_dict())


def _to_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: _to_cpu(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_to_cpu(inner) for inner in value)
    return value
