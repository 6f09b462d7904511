"""Learning-rate curves as plain functions, so that the window can draw what the training will do. No torch.

Every curve is a factor between 0 and 1 by which the learning rate is multiplied at each optimiser update.
"""

import math
from typing import Literal

ScheduleName = Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"]


def warmup_updates(total: int, share: float) -> int:
    """Updates in which the rate rises: `share` of all, and never all of them."""
    return min(round(total * share), max(0, total - 1))


def factor(name: ScheduleName, update: int, total: int, warmup: int = 0, restarts: int = 1, power: float = 1.0) -> float:
    """Share of the learning rate at optimiser update `update` (0 is the first) out of `total`, in [0, 1].

    The rate rises by equal amounts over the first `warmup` updates (the first one already learns something) and is whole at
    update `warmup`; from there the curve falls so that it would reach zero at update `total`, one after the last.
    """
    if update < warmup:
        return (update + 1) / (warmup + 1)
    progress = min(1.0, (update - warmup) / max(1, total - warmup))
    if name == "constant":
        return 1.0
    if name == "linear":
        return 1.0 - progress
    if name == "polynomial":
        return (1.0 - progress) ** power
    if name == "cosine":
        return _half_cosine(progress)
    assert name == "cosine_with_restarts", name
    return 0.0 if progress >= 1.0 else _half_cosine(progress * restarts % 1.0)


def curve(name: ScheduleName, total: int, warmup_share: float = 0.0, restarts: int = 1, power: float = 1.0) -> list[float]:
    """The factor of every update of a training, in order."""
    warmup = warmup_updates(total, warmup_share)
    return [factor(name, update, total, warmup, restarts, power) for update in range(total)]


def points(
    name: ScheduleName, total: int, warmup_share: float = 0.0, restarts: int = 1, power: float = 1.0, limit: int = 300
) -> list[tuple[int, float]]:
    """The curve for a plot: at most `limit` updates and their factors, the corners (end of the warmup, restarts) among them.

    Takes no longer for a long training than for a short one.
    """
    if total < 1:
        return []
    warmup = warmup_updates(total, warmup_share)
    corners = {0, warmup, total - 1}
    if name == "cosine_with_restarts" and restarts <= limit // 4:
        for cycle in range(1, restarts):
            start = warmup + math.ceil(cycle * (total - warmup) / restarts)
            corners |= {start - 1, start}
    corners = {update for update in corners if 0 <= update < total}
    between = max(1, limit - len(corners))
    updates = corners | {round(place * (total - 1) / between) for place in range(between)} if total > limit else set(range(total))
    return [(update, factor(name, update, total, warmup, restarts, power)) for update in sorted(updates)]


def _half_cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))
