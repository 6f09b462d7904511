"""Which pictures are shown when: the whole order of a training follows from (seed, epoch), so any step can be found again.

Plain Python; knows nothing of tensors, files or models.
"""

import hashlib
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Exposure:
    """One showing of one picture."""

    picture: int
    """Index into the training pictures, or into the class pictures."""
    mirrored: bool = False
    captioned: bool = True
    """False where caption dropout shows the picture without its caption."""
    prior: bool = False
    """Whether it is a class picture, which keeps the model's idea of the class as it was."""
    number: int = 0
    """Counted through the whole training: what is random about an exposure follows from it."""


Batch = tuple[Exposure, ...]


@dataclass(frozen=True)
class Plan:
    """The order of all exposures. A step is one optimiser update: up to `accumulation` batches, each of one size of picture."""

    shapes: tuple[tuple[int, int], ...]
    """Width and height in pixels to which each training picture is brought: its bucket."""
    repeats: int | tuple[int, ...]
    """How often pictures are shown in an epoch: all of them, or each."""
    batch_size: int
    """Pictures per batch, over all processes."""
    accumulation: int = 1
    flip: bool = False
    caption_dropout: float = 0.0
    seed: int = 0
    prior: tuple[tuple[int, int], ...] = ()
    """Width and height of each class picture; every step then shows as many of them as of the others."""

    @property
    def exposures_per_epoch(self) -> int:
        """Of the training pictures; class pictures come on top."""
        return sum(self.repeats_of(picture) for picture in range(len(self.shapes)))

    @property
    def steps_per_epoch(self) -> int:
        batches = sum(math.ceil(sum(map(self.repeats_of, pictures)) / self.batch_size) for pictures in _buckets(self.shapes))
        return math.ceil(batches / self.accumulation)

    def repeats_of(self, picture: int) -> int:
        return self.repeats if isinstance(self.repeats, int) else self.repeats[picture]

    def epoch(self, epoch: int) -> list[tuple[Batch, ...]]:
        """Steps of an epoch (0 is the first). Each picture is shown as often as its repeats say; no batch mixes sizes."""
        draw = random.Random(derive(self.seed, "order", epoch))
        number = itertools.count(epoch * self.exposures_per_epoch)
        batches = []
        for pictures in _buckets(self.shapes):
            # Repeats are shuffled one after the other: a picture comes again only when the others have been shown.
            order = []
            for turn in range(max(map(self.repeats_of, pictures))):
                again = [picture for picture in pictures if self.repeats_of(picture) > turn]
                order += draw.sample(again, len(again))
            shown = [self._expose(picture, next(number), draw) for picture in order]
            batches += _cut(shown, self.batch_size)
        draw.shuffle(batches)
        steps = [tuple(batches[start : start + self.accumulation]) for start in range(0, len(batches), self.accumulation)]
        return self._with_prior(steps, epoch) if self.prior else steps

    def _expose(self, picture: int, number: int, draw: random.Random) -> Exposure:
        mirrored, captioned = draw.random() < 0.5, draw.random() >= self.caption_dropout
        return Exposure(picture, self.flip and mirrored, captioned, number=number)

    def _with_prior(self, steps: list[tuple[Batch, ...]], epoch: int) -> list[tuple[Batch, ...]]:
        """To each step as many class pictures as it has others, in batches of one size; all have been shown before one comes again."""
        draw = random.Random(derive(self.seed, "class pictures", epoch))
        coming: list[int] = []
        longer = []
        for step in steps:
            wanted = sum(map(len, step))
            while len(coming) < wanted:
                coming += draw.sample(range(len(self.prior)), len(self.prior))
            chosen, coming = coming[:wanted], coming[wanted:]
            groups = [[chosen[place] for place in places] for places in _buckets([self.prior[picture] for picture in chosen])]
            longer.append(
                (*step, *(batch for group in groups for batch in _cut([Exposure(one, prior=True) for one in group], self.batch_size)))
            )
        return longer


def _cut(shown: list[Exposure], size: int) -> list[Batch]:
    return [tuple(shown[start : start + size]) for start in range(0, len(shown), size)]


def _buckets(shapes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Places of equal shapes."""
    buckets: dict[tuple[int, int], list[int]] = {}
    for place, shape in enumerate(shapes):
        buckets.setdefault(shape, []).append(place)
    return [buckets[shape] for shape in sorted(buckets)]


def share_of(batch: Batch, process: int, processes: int) -> tuple[Batch, bool]:
    """What one of several processes does of a batch, and whether it counts.

    A batch smaller than the number of processes leaves some without work; they do its first picture at weight zero,
    because all processes must take the same number of forward passes.
    """
    own = batch[process::processes]
    return (own, True) if own else (batch[:1], False)


def divisors(step: Sequence[Batch], prior_weight: float) -> list[float]:
    """By what the summed loss of each batch of a step is divided, so that what they add up to is the step's loss.

    That is the mean over the pictures plus `prior_weight` times the mean over the class pictures, as the two terms of Ruiz et al.
    2023 (DreamBooth), Eq. 2.
    """
    pictures = sum(len(batch) for batch in step if not batch[0].prior)
    class_pictures = sum(len(batch) for batch in step if batch[0].prior)
    of_class = class_pictures / prior_weight if prior_weight else math.inf
    return [of_class if batch[0].prior else pictures for batch in step]


def held_out(keys: Sequence[str], share: float, seed: int) -> set[int]:
    """Indices of the pictures kept from training, chosen by their content: the same ones when others are added or renamed.

    Copies of one picture (equal keys) stay together; at least one picture is held out and at least one is left to train on.
    """
    ranked = sorted(set(keys), key=lambda key: derive(seed, "held out", key))
    count = min(len(ranked) - 1, max(1, round(share * len(ranked)))) if share > 0 else 0
    chosen = set(ranked[:count])
    return {index for index, key in enumerate(keys) if key in chosen}


def derive(seed: int, *names: object) -> int:
    """A seed of its own for each use: 63 bits that depend on the seed and on every name."""
    text = "\0".join(str(name) for name in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
