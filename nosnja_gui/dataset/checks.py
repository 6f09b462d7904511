"""What is wrong with which picture of a dataset, and with which caption. Only looks; changes nothing, shows nothing.

`look` opens one picture and gives the facts; `find` turns the facts of all pictures into problems, without opening any.
"""

import base64
import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from nosnja_gui.dataset import buckets, images
from nosnja_gui.settings import UserError

Kind = Literal["damaged", "duplicate", "similar", "small", "long", "colours", "grey", "no_caption", "same_caption", "long_caption"]
KINDS: tuple[Kind, ...] = get_args(Kind)

ENLARGED_FACTOR = 1.05
"""A picture that training would have to enlarge by more than this looks soft."""
CROPPED_SHARE = 1 / 3
"""A picture that loses more than this to the crop is too long."""
BUCKET_STEP = 64
COLOURLESS = 8
"""Largest difference between red, green and blue, of 255, up to which a picture counts as black and white."""
SIMILAR_BITS = 4
"""How many of the 64 bits of two pictures' difference hashes may differ."""
SIMILAR_COLOURS = 10.0
"""Mean difference of two pictures' 8 x 8 thumbnails, of 255, up to which they count as nearly the same."""
MOST_ALIKE = 50
"""Pictures with the same part of a hash that are compared with each other: thousands of them would be plain areas, not twins."""


@dataclass(frozen=True)
class Facts:
    """What a look into a picture found."""

    width: int = 0
    height: int = 0
    """As shown, in pixels; 0 for a picture that can't be used."""
    colours: images.Colours = "rgb"
    content: str = ""
    """Hash of the file's bytes."""
    shape: int = 0
    """Difference hash: whether each of 8 x 8 areas is brighter than the one to its right."""
    areas: bytes = b""
    """8 x 8 RGB."""
    reason: str = ""
    """Why the picture can't be used, going on after its name: "is an empty file"."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "areas": base64.b64encode(self.areas).decode()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Facts":
        """Raises ValueError, KeyError or TypeError for what is no facts."""
        return cls(**{**values, "areas": base64.b64decode(values["areas"])})


@dataclass(frozen=True)
class Issue:
    kind: Kind
    others: tuple[str, ...] = ()
    """Pictures that it shares the problem with (duplicates, the same caption)."""
    detail: str = ""
    """What the kind alone does not say: a reason, a size."""


def look(path: Path) -> Facts:
    """Open a picture. Never raises: what is wrong with it is among the facts."""
    try:
        width, height = images.check(path)
        # A 64 pixel thumbnail of a JPEG is decoded at an eighth of its size: the cheapest whole look there is.
        small = images.thumbnail(path, 64)
        colours = images.colours(path)
        content = images.content_key(path)[:32]
    except UserError as error:
        return Facts(reason=str(error).replace(f"{path} ", "", 1).removesuffix("."))
    except OSError as error:
        return Facts(reason=f"cannot be read: {error.strerror}")
    areas = small.resize((8, 8)).tobytes()
    if colours == "rgb" and _colourless(areas):
        colours = "grey"
    return Facts(width, height, colours, content, _shape(small), areas)


def _colourless(areas: bytes) -> bool:
    return all(max(areas[at : at + 3]) - min(areas[at : at + 3]) <= COLOURLESS for at in range(0, len(areas), 3))


def _shape(picture: Any) -> int:
    """Difference hash (Krawetz 2013): 64 bits that stay when a picture is scaled or stored anew."""
    grey = picture.convert("L").resize((9, 8)).tobytes()
    bits = 0
    for row in range(8):
        for column in range(8):
            bits = bits << 1 | (grey[9 * row + column] > grey[9 * row + column + 1])
    return bits


def find(
    captions: Mapping[str, str | None],
    facts: Mapping[str, Facts],
    resolution: int,
    too_long: Callable[[str], bool] = lambda caption: False,
) -> dict[str, list[Issue]]:
    """Problems by picture, the worst first. `captions` names all pictures; those without facts are judged by their caption only."""
    issues: dict[str, list[Issue]] = defaultdict(list)
    known = {name: facts[name] for name in captions if name in facts}
    for name, fact in known.items():
        if fact.reason:
            issues[name].append(Issue("damaged", detail=fact.reason))
    sound = {name: fact for name, fact in known.items() if not fact.reason}
    twins = _groups((fact.content, name) for name, fact in sound.items())
    for name, others in twins.items():
        issues[name].append(Issue("duplicate", others))
    for name, others in _similar(sound).items():
        issues[name].append(Issue("similar", others))
    for name, fact in sound.items():
        issues[name] += [Issue(kind, detail=detail) for kind, detail in _of_one(fact.width, fact.height, fact.colours, resolution)]
    same = _groups((" ".join(caption.split()), name) for name, caption in captions.items() if caption and caption.strip())
    for name, caption in captions.items():
        if not (caption or "").strip():
            issues[name].append(Issue("no_caption"))
        elif name in same:
            issues[name].append(Issue("same_caption", same[name]))
        if caption and too_long(caption):
            issues[name].append(Issue("long_caption"))
    return {name: found for name, found in issues.items() if found}


@functools.lru_cache(maxsize=50_000)
def _of_one(width: int, height: int, colours: images.Colours, resolution: int) -> tuple[tuple[Kind, str], ...]:
    found: list[tuple[Kind, str]] = []
    step = min(BUCKET_STEP, max(buckets.LATENT_STEP, resolution // 8))
    bucket = buckets.assign(width, height, resolution, step)
    if buckets.scale(width, height, bucket) > ENLARGED_FACTOR:
        found.append(("small", f"{width} x {height}"))
    if buckets.cropped_share(width, height, bucket) > CROPPED_SHARE:
        found.append(("long", f"{buckets.cropped_share(width, height, bucket):.0%}"))
    if colours in ("cmyk", "transparent", "deep"):
        found.append(("colours", colours))
    elif colours == "grey":
        found.append(("grey", ""))
    return tuple(found)


def _groups(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """The other names with the same value, by name."""
    by_value: dict[str, list[str]] = defaultdict(list)
    for value, name in pairs:
        by_value[value].append(name)
    # Of thousands that are the same a few say it.
    return {
        name: tuple(other for other in names[:6] if other != name)[:5] for names in by_value.values() if len(names) > 1 for name in names
    }


def _similar(facts: Mapping[str, Facts]) -> dict[str, tuple[str, ...]]:
    """Pictures that look the same and are not the same file.

    Hashes that differ in at most SIMILAR_BITS bits are equal in one of SIMILAR_BITS + 1 parts, so only those are compared.
    """
    parts = SIMILAR_BITS + 1
    width = -(-64 // parts)
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for part in range(parts):
        alike: dict[int, list[str]] = defaultdict(list)
        for name, fact in facts.items():
            if fact.shape not in (0, 2**64 - 1):  # a plain area is like every other
                alike[fact.shape >> part * width & (1 << width) - 1].append(name)
        for names in alike.values():
            if not 1 < len(names) <= MOST_ALIKE:
                continue
            for at, one in enumerate(names):
                for other in names[at + 1 :]:
                    if other not in found[one] and _alike(facts[one], facts[other]):
                        found[one][other] = found[other][one] = None
    return {name: tuple(others)[:5] for name, others in found.items() if others}


def _alike(one: Facts, other: Facts) -> bool:
    if one.content == other.content or (one.shape ^ other.shape).bit_count() > SIMILAR_BITS:
        return False
    difference = sum(abs(a - b) for a, b in zip(one.areas, other.areas, strict=True))
    return difference <= SIMILAR_COLOURS * len(one.areas)
