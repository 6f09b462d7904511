"""Aspect buckets: the few sizes that pictures are brought to, so that portraits stay portraits and batches are even.

The idea is NovelAI's (2022), also used for SDXL (Podell et al. 2023, section 2.2). Knows only numbers.
"""

import functools
import math
from collections.abc import Iterable, Sequence

MAXIMUM_ASPECT = 2.0
"""Longest side over shortest. Beyond 2:1 Stable Diffusion 1.5 paints subjects twice, and in a small dataset such
buckets hold one or two pictures, so that batches are never full; longer pictures are cropped to the longest bucket."""

LATENT_STEP = 8
"""Sides must be multiples of this for the autoencoder, whatever `step` is."""

Size = tuple[int, int]


def buckets(resolution: int, step: int) -> list[Size]:
    """(width, height) of every bucket, from the narrowest to the widest.

    Sides are multiples of `step`, the area is the largest that is not above resolution^2: no bucket
    needs more memory than the square.
    """
    square = square_size(resolution, step)
    sizes = {square}
    for short in range(step, square[0], step):
        long = resolution * resolution // short // step * step
        if long <= short * MAXIMUM_ASPECT:
            sizes |= {(short, long), (long, short)}
    return sorted(sizes, key=lambda size: (size[0] / size[1], size))


def square_size(resolution: int, step: int = LATENT_STEP) -> Size:
    """The largest square not above `resolution` whose side is a multiple of `step` (of 8 where the step itself is larger)."""
    side = resolution // step * step or resolution // LATENT_STEP * LATENT_STEP or LATENT_STEP
    return side, side


def assign(width: int, height: int, resolution: int, step: int, enabled: bool = True) -> Size:
    """The bucket of a picture: nearest by log(width / height), so that 2:3 is as far from 1:1 as 3:2. Off: the square."""
    if not enabled:
        return square_size(resolution)
    aspect = math.log(width / height)
    return min((abs(other - aspect), size) for other, size in _aspects(resolution, step))[1]


@functools.lru_cache(maxsize=64)
def _aspects(resolution: int, step: int) -> tuple[tuple[float, Size], ...]:
    """log(width / height) of every bucket, worked out once: a window asks for 10,000 pictures at every move of a slider."""
    return tuple((math.log(width / height), (width, height)) for width, height in buckets(resolution, step))


def scale(width: int, height: int, bucket: Size) -> float:
    """Factor by which a picture is scaled to cover its bucket; above 1 it is enlarged and looks soft."""
    return max(bucket[0] / width, bucket[1] / height)


def cropped_share(width: int, height: int, bucket: Size) -> float:
    """Share of the picture that is cut off, 0 to 1."""
    factor = scale(width, height, bucket)
    return 1 - bucket[0] * bucket[1] / (width * height * factor * factor)


def notes(pictures: Iterable[tuple[str, int, int]], resolution: int, step: int, enabled: bool = True) -> list[str]:
    """Sentences about what will surprise: pictures (name, width, height) that are enlarged or lose a third or more."""
    enlarged, cropped, most = [], [], 1.0
    for name, width, height in pictures:
        bucket = assign(width, height, resolution, step, enabled)
        factor = scale(width, height, bucket)
        if factor > 1.01:
            enlarged.append(name)
            most = max(most, factor)
        if cropped_share(width, height, bucket) >= 1 / 3:
            cropped.append(name)
    said = []
    if enlarged:
        said.append(f"{_count(enlarged)} smaller than the training size and enlarged up to {most:.1f} times: {_names(enlarged)}.")
    if cropped:
        said.append(f"{_count(cropped)} cropped by a third or more: {_names(cropped)}.")
    return said


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} picture{'' if len(names) == 1 else 's'} {'is' if len(names) == 1 else 'are'}"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
