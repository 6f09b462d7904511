"""Learning-rate curves as plain functions, so that the window can draw what the training will do. No torch.

Every curve is a factor between 0 and 1 by which the learning rate is multiplied at each optimiser update.
"""

import math
import re
from collections.abc import Iterator
from typing import Literal, TypedDict, Unpack

ScheduleName = Literal[
    "constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "wsd", "rex", "inverse_sqrt", "piecewise_constant"
]
Decay = Literal["sqrt", "linear"]
Pieces = tuple[tuple[float, float], ...]
"""(percent of the training, factor) from there on, in order; before the first one the factor is 1."""

MOST_PIECES = 20
NO_WARMUP_UPDATES = 10_000
"""How slowly the inverse square root falls without a warmup: as in transformers' `get_inverse_sqrt_schedule`."""


class Shape(TypedDict, total=False):
    """What bends the curves; each is for some of them only."""

    restarts: int
    """Cycles of cosine_with_restarts."""
    power: float
    """Exponent of polynomial."""
    end_share: float
    """What linear, cosine, polynomial, wsd and rex fall to; without it nothing is left."""
    decay_share: float
    """Share of all updates in which wsd falls."""
    decay: Decay
    """How wsd falls."""
    pieces: Pieces
    """Of piecewise_constant."""


def warmup_updates(total: int, share: float) -> int:
    """Updates in which the rate rises: `share` of all, and never all of them."""
    return min(round(total * share), max(0, total - 1))


def factor(name: ScheduleName, update: int, total: int, warmup: int = 0, **shape: Unpack[Shape]) -> float:
    """Share of the learning rate at optimiser update `update` (0 is the first) out of `total`, in [0, 1].

    The rate rises by equal amounts over the first `warmup` updates (the first one already learns something) and is whole at
    update `warmup`; from there a curve falls so that it would reach its end at update `total`, one after the last.
    """
    if update < warmup:
        return (update + 1) / (warmup + 1)
    if name == "constant":
        return 1.0
    if name == "inverse_sqrt":  # Vaswani et al. 2017, equation 3
        scale = warmup or NO_WARMUP_UPDATES
        return math.sqrt(scale / (update - warmup + scale))
    if name == "piecewise_constant":
        return next((held for start, held in reversed(_starts(total, shape)) if update >= start), 1.0)
    end = shape.get("end_share", 0.0)
    return end + (1.0 - end) * _left(name, update, total, warmup, shape)


def curve(name: ScheduleName, total: int, warmup_share: float = 0.0, **shape: Unpack[Shape]) -> list[float]:
    """The factor of every update of a training, in order."""
    warmup = warmup_updates(total, warmup_share)
    return [factor(name, update, total, warmup, **shape) for update in range(total)]


def points(name: ScheduleName, total: int, warmup_share: float = 0.0, limit: int = 300, **shape: Unpack[Shape]) -> list[tuple[int, float]]:
    """The curve for a plot: at most `limit` updates and their factors, the corners (end of the warmup, restarts, pieces) among them.

    Takes no longer for a long training than for a short one.
    """
    if total < 1:
        return []
    warmup = warmup_updates(total, warmup_share)
    breaks = [start for start in _breaks(name, total, warmup, shape) if start > warmup]
    corners = {0, warmup, total - 1}
    if len(breaks) <= limit // 4:
        corners |= {place for start in breaks for place in (start - 1, start)}
    corners = {update for update in corners if 0 <= update < total}
    between = max(1, limit - len(corners))
    updates = corners | {round(place * (total - 1) / between) for place in range(between)} if total > limit else set(range(total))
    return [(update, factor(name, update, total, warmup, **shape)) for update in sorted(updates)]


def parse_pieces(text: str) -> Pieces:
    """ "50%: 0.5, 80%: 0.1": half of the rate from the middle on, and a tenth of it at the end. Raises ValueError."""
    pieces = []
    for piece in re.split(r"[,;]\s*", text.strip().rstrip(",;")):
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?%\s*:\s*(\d+(?:\.\d+)?|\.\d+)", piece.strip())
        if not found:
            raise ValueError("must say from where on which share of the rate holds, such as 50%: 0.5, 80%: 0.1")
        pieces.append((float(found[1]), float(found[2])))
    places = [place for place, _ in pieces]
    if places != sorted(set(places)) or places[-1] >= 100:
        raise ValueError("must go on from percentage to percentage, all below 100, such as 50%: 0.5, 80%: 0.1")
    if not all(0 < share <= 1 for _, share in pieces):
        raise ValueError("must have shares above 0 and up to 1, such as 50%: 0.5, 80%: 0.1")
    if len(pieces) > MOST_PIECES:
        raise ValueError(f"must be at most {MOST_PIECES} pieces")
    return tuple(pieces)


def _left(name: ScheduleName, update: int, total: int, warmup: int, shape: Shape) -> float:
    """What of the way down is left, from 1 to 0."""
    if name == "wsd":
        start = _decay_start(total, warmup, shape)
        fallen = min(1.0, max(0.0, (update - start) / max(1, total - start)))
        # Hägele et al. 2024, section 3: 1 - sqrt does better than a straight line.
        return 1.0 - (math.sqrt(fallen) if shape.get("decay", "sqrt") == "sqrt" else fallen)
    progress = min(1.0, (update - warmup) / max(1, total - warmup))
    if name == "linear":
        return 1.0 - progress
    if name == "polynomial":
        return (1.0 - progress) ** shape.get("power", 1.0)
    if name == "cosine":
        return _half_cosine(progress)
    if name == "rex":  # Chen et al. 2022, the reflected exponential
        return (1.0 - progress) / (0.5 + 0.5 * (1.0 - progress))
    assert name == "cosine_with_restarts", name
    return 0.0 if progress >= 1.0 else _half_cosine(progress * shape.get("restarts", 1) % 1.0)


def _breaks(name: ScheduleName, total: int, warmup: int, shape: Shape) -> Iterator[int]:
    """Updates at which a curve jumps or turns."""
    if name == "cosine_with_restarts":
        cycles = shape.get("restarts", 1)
        yield from (warmup + math.ceil(cycle * (total - warmup) / cycles) for cycle in range(1, cycles))
    if name == "wsd":
        yield _decay_start(total, warmup, shape)
    if name == "piecewise_constant":
        yield from (start for start, _ in _starts(total, shape))


def _decay_start(total: int, warmup: int, shape: Shape) -> int:
    return max(warmup, total - round(total * shape.get("decay_share", 0.2)))


def _starts(total: int, shape: Shape) -> list[tuple[int, float]]:
    """(first update, factor) of every piece."""
    return [(math.ceil(percent * total / 100), held) for percent, held in shape.get("pieces", ())]


def _half_cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))
