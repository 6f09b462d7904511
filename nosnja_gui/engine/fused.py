"""The optimiser's update inside the backward pass: each parameter is moved, and its gradient freed, as soon as that is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nosnja_gui.engine import optimizers
from nosnja_gui.jobs import OptimizerSettings
from nosnja_gui.methods import Trainable


def make(settings: OptimizerSettings, trainables: Sequence[Trainable]) -> FusedOptimizer:
    """Raises UserError as `optimizers.make` does."""
    together = optimizers.make(settings, trainables)

    def alone(group: dict[str, Any], parameter: torch.nn.Parameter) -> torch.optim.Optimizer:
        optimizer = type(together)([{**group, "params": [parameter]}], **settings.arguments())
        if settings.chosen.averages:
            optimizer.train()  # type: ignore[attr-defined]
        return optimizer

    return FusedOptimizer([(group, [alone(group, parameter) for parameter in group["params"]]) for group in together.param_groups])


class FusedOptimizer(torch.optim.Optimizer):
    """An optimiser for each parameter, under the groups and with the state of one for all of them.

    Each counts its own steps, so those whose groups hold a count are right, too. Only optimisers that look at one parameter at a time
    come to the same as one for all; each parameter must get exactly one backward pass a step.
    """

    def __init__(self, groups: Sequence[tuple[dict[str, Any], list[torch.optim.Optimizer]]]) -> None:
        super().__init__([group for group, _ in groups], {})
        self.alone = [optimizers for _, optimizers in groups]
        for group, own in zip(self.param_groups, self.alone, strict=True):
            for parameter, optimizer in zip(group["params"], own, strict=True):
                parameter.register_post_accumulate_grad_hook(_stepping(group, optimizer))

    def step(self, closure: Any = None) -> None:
        """Nothing is left to do after the backward pass."""

    def train(self) -> None:
        self._each("train")

    def eval(self) -> None:
        self._each("eval")

    def _each(self, name: str) -> None:
        for own in self.alone:
            for optimizer in own:
                getattr(optimizer, name)()

    def state_dict(self) -> dict[str, Any]:
        """As that of one optimiser for all, so that a training can go on either way."""
        state: dict[int, Any] = {}
        groups, first = [], 0
        for group, own in zip(self.param_groups, self.alone, strict=True):
            states = [optimizer.state_dict() for optimizer in own]
            state |= {first + place: one["state"][0] for place, one in enumerate(states) if 0 in one["state"]}
            of_now = {name: group[name] for name in ("lr", "base_rate")}
            groups.append({**states[0]["param_groups"][0], **of_now, "params": list(range(first, first + len(own)))})
            first += len(own)
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for group, own, saved in zip(self.param_groups, self.alone, state_dict["param_groups"], strict=True):
            group |= {name: saved[name] for name in ("lr", "base_rate")}
            for optimizer, place in zip(own, saved["params"], strict=True):
                states = {0: state_dict["state"][place]} if place in state_dict["state"] else {}
                optimizers.load_state(optimizer, {"state": states, "param_groups": [{**saved, "params": [0]}]})


def _stepping(group: dict[str, Any], optimizer: torch.optim.Optimizer) -> Any:
    def step(parameter: torch.Tensor) -> None:
        optimizer.param_groups[0]["lr"] = group["lr"]
        optimizer.step()
        parameter.grad = None

    return step
