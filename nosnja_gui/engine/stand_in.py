"""A model to try a LoRA file on where no base model is at hand: the usual one's modules, with weights that take no memory.

A weight is a view into one short row of random numbers (a Hankel matrix), so even SDXL costs some megabytes; layers are as wide, as
many and as differently weighted as the real ones, so a forward pass notices a module that is lost, mixed up or wrongly scaled.
"""

from __future__ import annotations

import math

import torch

from nosnja_gui.families import Family, Parts
from nosnja_gui.families.loading import clip_tokenizer
from nosnja_gui.sources import Source, Standard, Tokenizer
from nosnja_gui.tokens import VOCABULARY

NUMBERS = 65_537
"""Length of the row of random numbers: a prime, so that no two layers begin to repeat alike."""


def stand_in(family: Family, source: Source | None = None) -> Parts:
    """Parts of `source`'s configuration (else of the family's usual model) that compute something, but nothing sensible."""
    parts = family.skeleton(source or Standard(family.standard))
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(NUMBERS, generator=generator)
    for number, module in enumerate((parts.denoiser, *parts.text_encoders)):
        _fill(module, row, number)
        module.requires_grad_(False).eval()
    parts.device = torch.device("cpu")
    parts.tokenizers = [clip_tokenizer(_Vocabulary(), "text_encoder") for _ in parts.text_encoders]
    return parts


class _Vocabulary:
    """The tokenizer that all text encoders of CLIP share; the padding makes no difference here."""

    def tokenizer(self, part: str) -> Tokenizer:
        return Tokenizer(VOCABULARY)


def _fill(module: torch.nn.Module, row: torch.Tensor, number: int) -> None:
    for place, (name, parameter) in enumerate(list(module.named_parameters())):
        owner, _, leaf = name.rpartition(".")
        shape = tuple(parameter.shape)
        # Norm layers have one number per channel, and biases too: those are kept as they begin.
        start = 7919 * number + 104_729 * place
        value = torch.full(shape, 1.0 if leaf == "weight" else 0.0) if len(shape) < 2 else _view(row, shape, start)
        setattr(module.get_submodule(owner), leaf, torch.nn.Parameter(value, requires_grad=False))
    for name, buffer in list(module.named_buffers()):
        if buffer.is_meta:  # SD 3's table of positions, which no LoRA changes
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, torch.zeros(1).expand(buffer.shape))


def _view(row: torch.Tensor, shape: tuple[int, ...], start: int) -> torch.Tensor:
    """A matrix whose every row is the one above moved by one number, scaled so that a layer neither grows nor shrinks what it gets."""
    inputs = math.prod(shape[1:])
    length = shape[0] + inputs
    if length > len(row):  # a table of embeddings: its entries repeat
        return (row[torch.arange(shape[0] + inputs) % len(row)] / 50).as_strided(shape, (1, *_strides(shape[1:])))
    begin = start % (len(row) - length)
    return (row[begin : begin + length] / math.sqrt(inputs)).as_strided(shape, (1, *_strides(shape[1:])))


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
