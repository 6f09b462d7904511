"""Which layers of a model an adapter goes on, at which rank, and how many numbers that makes: from names and shapes alone. No torch.

Names are those of diffusers and transformers, which all families share; nothing here knows which family they came from.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Shape = tuple[int, ...]
Targets = Literal["attention", "attention_ff", "everything"]

FEED_FORWARD = re.compile(r"\.ff(?:_context)?\.net\.|\.mlp\.fc[12]$|\.proj_(?:in|out)$")
"""What lies between the attentions of a transformer. With them these are the layers that sd-scripts' networks/lora.py trains
(Transformer2DModel, CLIPAttention and CLIPMLP)."""
IN_A_BLOCK = re.compile(r"^(?:down_blocks|mid_block|up_blocks|transformer_blocks|encoder\.layers)\.")
"""Where sd-scripts with conv_dim (LoCon) and LyCORIS look for layers: not at a model's very ends."""
NO_LAYER = re.compile(r"embedding$|^text_projection$|^pos_embed")
"""Tables of words and positions have weights of two dimensions, too."""

RANKS = re.compile(r"(?:down|mid|up|block|text|\*)(?:\.(?:\d+|\*)){0,2}")


@dataclass(frozen=True)
class PartLayers:
    """The layers of one part of a model."""

    shapes: Mapping[str, Shape]
    """Module name -> shape of its weight (outputs, inputs, kernel ...)."""
    attention: tuple[str, ...]
    """How the names of its attention projections end."""

    @property
    def candidates(self) -> dict[str, Shape]:
        """What an adapter can go on at all: linear layers and convolutions."""
        return {name: shape for name, shape in self.shapes.items() if len(shape) in (2, 4) and not NO_LAYER.search(name)}

    def chosen(self, targets: Targets, pattern: str = "") -> dict[str, Shape]:
        """Those meant; a pattern (an expression found anywhere in the name) takes the place of the targets. Raises re.error."""
        if pattern:
            wanted = re.compile(pattern)
            return {name: shape for name, shape in self.candidates.items() if wanted.search(name)}
        ends = tuple(f".{end}" for end in self.attention)
        return {
            name: shape
            for name, shape in self.candidates.items()
            if name.endswith(ends)
            or (targets != "attention" and FEED_FORWARD.search(name))
            or (targets == "everything" and IN_A_BLOCK.search(name))
        }


# Ranks by block


def block_of(module: str) -> str:
    """A module's block for short: down.0.1, mid, up.2.0, block.11 (of a diffusion transformer), text.3 (of a text encoder); "" outside.

    The second number counts a level's ResNets and the attentions behind them; a down- or upsampler counts as 2, as sd-scripts has it
    (networks/lora.py, get_block_index).
    """
    if found := re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)", module):
        return f"{found[1]}.{found[2]}.{2 if found[3].endswith('samplers') else found[4]}"
    if module.startswith("mid_block."):
        return "mid"
    found = re.match(r"(transformer_blocks|encoder\.layers)\.(\d+)\.", module)
    return f"{'block' if found[1] == 'transformer_blocks' else 'text'}.{found[2]}" if found else ""


def block_ranks(text: str) -> dict[str, int]:
    """`down.0: 4, mid: 16, up.*: 8` -> ranks by pattern, in their order. Raises ValueError with the reason."""
    ranks: dict[str, int] = {}
    for entry in re.split(r"[,;\n]", text):
        if not entry.strip():
            continue
        block, colon, rank = (piece.strip() for piece in entry.partition(":"))
        if not colon or not RANKS.fullmatch(block) or not re.fullmatch(r"\d{1,4}", rank) or int(rank) > 1024:
            raise ValueError(f"must be like 'down.0: 4, mid: 16, up.*: 8' with ranks of 0 to 1024, but '{entry.strip()}' is not")
        ranks[block] = int(rank)
    return ranks


def rank_in(ranks: Mapping[str, int], module: str) -> int | None:
    """The rank that the last fitting pattern gives a module's block; None where none fits. `down.0` is all of that level."""
    block, found = block_of(module), None
    for pattern, rank in ranks.items():
        if block and (fnmatch.fnmatchcase(block, pattern) or fnmatch.fnmatchcase(block, f"{pattern}.*")):
            found = rank
    return found


# Sizes


def is_convolution(shape: Shape) -> bool:
    """Whether a kernel is larger than 1 x 1, which is what trainers mean by the word."""
    return math.prod(shape[2:]) > 1


def of_lora(shape: Shape, rank: int, magnitudes: bool = False) -> int:
    return rank * (shape[0] + math.prod(shape[1:])) + (shape[0] if magnitudes else 0)


def of_loha(shape: Shape, rank: int, cores: bool = False) -> int:
    if cores and is_convolution(shape):
        return 2 * rank * (shape[0] + shape[1] + rank * math.prod(shape[2:]))
    return 2 * rank * (shape[0] + math.prod(shape[1:]))


def of_lokr(shape: Shape, rank: int, factor: int, both: bool = False, cores: bool = False) -> int:
    (outer, outputs), (inner, inputs) = factors(shape[0], factor), factors(shape[1], factor)
    first = rank * (outer + inner) if both and rank < max(outer, inner) / 2 else outer * inner
    kernel = math.prod(shape[2:])
    if rank >= max(outputs, inputs) / 2:
        return first + outputs * inputs * kernel
    if cores and is_convolution(shape):
        return first + rank * (outputs + inputs + rank * kernel)
    return first + rank * (outputs + inputs * kernel)


def is_whole_lokr(shape: Shape, rank: int, factor: int, both: bool = False) -> bool:
    """Whether neither factor is a product of two matrices: then LyCORIS scales by 1 (modules/lokr.py)."""
    (outer, outputs), (inner, inputs) = factors(shape[0], factor), factors(shape[1], factor)
    return rank >= max(outputs, inputs) / 2 and not (both and rank < max(outer, inner) / 2)


def factors(number: int, factor: int = -1) -> tuple[int, int]:
    """Two factors of a number, the first as near to `factor` (-1: the number's root) as can be without going over it.

    What peft does (tuners/lokr/layer.py, factorization): a factor that divides the number is taken as it is, any other one is the
    most that the smaller of the two may be.
    """
    if factor > 0 and number % factor == 0:
        return factor, number // factor
    most = math.isqrt(number) if factor < 0 else min(factor, math.isqrt(number))
    smaller = next(small for small in range(max(1, most), 0, -1) if number % small == 0)
    return smaller, number // smaller


def rotation(outputs: int, size: int) -> tuple[int, int]:
    """(groups, size) of an OFT: the largest size that divides the outputs and is at most `size`, but 2 at least."""
    fitting = [one for one in range(2, outputs + 1) if outputs % one == 0]
    found = max((one for one in fitting if one <= size), default=fitting[0] if fitting else 1)
    return outputs // found, found


def butterfly(outputs: int, size: int, stages: int | None = None) -> tuple[int, int, int]:
    """(stages, groups, size) of a BOFT, or as near as it comes: sizes are even and the number of groups is a power of 2.

    Without `stages` as many as connect all groups. Raises ValueError for an odd number of outputs.
    """
    if outputs % 2:
        raise ValueError(f"{outputs} outputs")
    odd = outputs // (outputs & -outputs)
    fitting = [odd * 2**power for power in range(1, (outputs // odd).bit_length())]
    found = max((one for one in fitting if one <= size), default=fitting[0])
    groups = outputs // found
    most = groups.bit_length()
    return min(stages or most, most), groups, found
