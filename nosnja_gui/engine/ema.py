"""A running average of the trained weights, which is what is shown and saved: steadier than the weights of the last step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch


def decay_at(update: int, decay: float) -> float:
    """The share that the average keeps at its n-th update (1 is the first): min(decay, (1 + n) / (10 + n)).

    An average that began at the untrained weights would hardly leave them in a short training; so it forgets faster at first, as
    TensorFlow's ExponentialMovingAverage does with `num_updates`.
    """
    return min(decay, (1 + update) / (10 + update))


class Average:
    """average = d * average + (1 - d) * weights after each update (Tarvainen and Valpola 2017, Eq. 1), with d by `decay_at`."""

    def __init__(self, names: Sequence[str], parameters: Sequence[torch.nn.Parameter], decay: float) -> None:
        self.names, self.parameters, self.decay = list(names), list(parameters), decay
        self.values = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self, update: int) -> None:
        """After the n-th update of the optimiser, counted from 1."""
        torch._foreach_lerp_(self.values, [parameter.detach() for parameter in self.parameters], 1 - decay_at(update, self.decay))

    @contextlib.contextmanager
    def worn(self) -> Iterator[None]:
        """The average in the parameters' place; afterwards they are as they were, to the last bit."""
        with torch.no_grad():
            kept = [parameter.detach().clone() for parameter in self.parameters]
            _fill(self.parameters, self.values)
        try:
            yield
        finally:
            with torch.no_grad():
                _fill(self.parameters, kept)

    def state(self) -> dict[str, torch.Tensor]:
        return dict(zip(self.names, self.values, strict=True))

    @torch.no_grad()
    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """An older state without an average goes on from the weights themselves."""
        _fill(self.values, [state.get(name, parameter) for name, parameter in zip(self.names, self.parameters, strict=True)])


def _fill(places: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    for place, value in zip(places, values, strict=True):
        place.copy_(value)
