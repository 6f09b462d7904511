"""Captions as lists of tags, shown in another way each time: shuffled, thinned out, or growing while the training goes on."""

from __future__ import annotations

import random

SEPARATOR = ","


def vary(caption: str, draw: random.Random, *, keep: int = 0, shuffle: bool = False, dropout: float = 0.0, share: float = 1.0) -> str:
    """The caption as it is shown this time. The first `keep` tags always stay in front, in their order.

    `share` (0 to 1) of the others, and always the first of them, are there at all: a training that begins with few and ends with all
    of them learns the first ones best (sd-scripts' token warmup). Of these each is left out with the probability `dropout`, and they
    are put into another order with `shuffle`.
    """
    if not (shuffle or dropout or share < 1):
        return caption
    tags = [tag.strip() for tag in caption.split(SEPARATOR)]
    kept, others = tags[:keep], tags[keep:]
    if share < 1 and others:
        others = others[: max(1, int(share * len(others)))]
    if shuffle:
        draw.shuffle(others)
    if dropout:
        others = [tag for tag in others if draw.random() >= dropout]
    return f"{SEPARATOR} ".join([*kept, *others])


def grown(progress: float, warmup: float) -> float:
    """The share of the tags that is shown: rises evenly from 0 to 1 over the first `warmup` (a share) of the training."""
    return 1.0 if progress >= warmup else progress / warmup
