"""Which pictures are shown when: the whole order of a training follows from (seed, epoch), so any step can be found again.

Plain Python; knows nothing of tensors, files or models.
"""

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Exposure:
    """One showing of one picture."""

    picture: int
    """Index into the training pictures."""
    mirrored: bool = False
    captioned: bool = True
    """False where caption dropout shows the picture without its caption."""


Batch = tuple[Exposure, ...]


@dataclass(frozen=True)
class Plan:
    """The order of all exposures. A step is one optimiser update: up to `accumulation` batches, each of one size of picture."""

    shapes: tuple[tuple[int, int], ...]
    """Width and height in pixels to which each training picture is brought: its bucket."""
    repeats: int
    batch_size: int
    """Pictures per batch, over all processes."""
    accumulation: int = 1
    flip: bool = False
    caption_dropout: float = 0.0
    seed: int = 0

    @property
    def exposures_per_epoch(self) -> int:
        return len(self.shapes) * self.repeats

    @property
    def steps_per_epoch(self) -> int:
        batches = sum(math.ceil(len(pictures) * self.repeats / self.batch_size) for pictures in self._buckets())
        return math.ceil(batches / self.accumulation)

    def epoch(self, epoch: int) -> list[tuple[Batch, ...]]:
        """Steps of an epoch (0 is the first). Each picture is shown `repeats` times; no batch mixes sizes."""
        draw = random.Random(derive(self.seed, "order", epoch))
        batches = []
        for pictures in self._buckets():
            # Repeats are shuffled one after the other: a picture comes again only when the others have been shown.
            order = [picture for _ in range(self.repeats) for picture in draw.sample(pictures, len(pictures))]
            shown = [self._expose(picture, draw) for picture in order]
            batches += [tuple(shown[start : start + self.batch_size]) for start in range(0, len(shown), self.batch_size)]
        draw.shuffle(batches)
        return [tuple(batches[start : start + self.accumulation]) for start in range(0, len(batches), self.accumulation)]

    def _expose(self, picture: int, draw: random.Random) -> Exposure:
        mirrored, captioned = draw.random() < 0.5, draw.random() >= self.caption_dropout
        return Exposure(picture, self.flip and mirrored, captioned)

    def _buckets(self) -> list[list[int]]:
        buckets: dict[tuple[int, int], list[int]] = {}
        for picture, shape in enumerate(self.shapes):
            buckets.setdefault(shape, []).append(picture)
        return [buckets[shape] for shape in sorted(buckets)]


def share_of(batch: Batch, process: int, processes: int) -> tuple[Batch, bool]:
    """What one of several processes does of a batch, and whether it counts.

    A batch smaller than the number of processes leaves some without work; they do its first picture at weight zero,
    because all processes must take the same number of forward passes.
    """
    own = batch[process::processes]
    return (own, True) if own else (batch[:1], False)


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
