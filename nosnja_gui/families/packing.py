"""Frozen weights in small number formats: kept packed, made whole for each use on the way there and back. No family of its own.

For everything that looks at a packed layer it is what it was: a linear layer or a convolution whose `weight` can be read, so every
method goes on it. Only writing into that weight is another matter: see `lay_over`.

What autograd keeps for the way back is the layer, never its whole weight. That is the difference to casting a layer's weight before
each use (diffusers' `apply_layerwise_casting`), after which the whole weights of all layers are kept until they have been used again.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Format = Literal["fp8", "int8", "nf4"]

WHOLE = re.compile(r"^(?:conv_in|conv_out|proj_in|proj_out|text_projection|shared)$|embed|norm")
"""What stays as it is: the two ends of a denoiser, what times and words are made into vectors with, and norms, as diffusers skips them
(hooks/layerwise_casting.py, DEFAULT_SKIP_MODULES_PATTERN). They are small and sensitive."""
BLOCK = 64
"""Numbers that share a scale in nf4, as in QLoRA (Dettmers et al. 2023, section 3)."""
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The 16 steps of nf4 (the same, appendix E)."""
LARGEST_FP8, LARGEST_INT8 = 448.0, 127.0
LEAST = 2.0**-10
"""Rows are scaled as if they held at least this, so that scales stay numbers in float16."""


def format_of(name: str, shape: tuple[int, ...], wanted: Format) -> Format | None:
    """In which format a layer of that name and weight is kept; None where it stays as it is.

    Convolutions of 3 x 3 and more are never kept in four bits, which are known to do for linear layers only.
    """
    if len(shape) not in (2, 4) or WHOLE.search(name):
        return None
    return "int8" if wanted == "nf4" and math.prod(shape[2:]) > 1 else wanted


def bytes_of(shape: tuple[int, ...], kept: Format) -> float:
    """How much a packed weight takes, its scales included."""
    numbers = math.prod(shape)
    return numbers / 2 + 4 * math.ceil(numbers / BLOCK) if kept == "nf4" else numbers + 4 * shape[0]


def saved_bytes(shapes: Mapping[str, tuple[int, ...]], wanted: Format, number: int) -> float:
    """How much less a part takes when it is packed, by the names and shapes of its layers; `number` is the size of one before."""
    kept = ((shape, format_of(name, shape, wanted)) for name, shape in shapes.items())
    return sum(math.prod(shape) * number - bytes_of(shape, own) for shape, own in kept if own)


def pack(module: torch.nn.Module, wanted: Format) -> int:
    """Pack the frozen linear layers and convolutions of a module, on the device that they are on; returns how many.

    Layers below adapters are packed, too; what is trained is left alone.
    """
    import torch

    count = 0
    for name, layer in module.named_modules():
        if type(layer) not in (torch.nn.Linear, torch.nn.Conv2d) or layer.weight.requires_grad:
            continue
        if isinstance(layer, torch.nn.Conv2d) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
            continue
        if own := format_of(name.removesuffix(".base_layer"), tuple(layer.weight.shape), wanted):
            _pack_layer(layer, own)
            count += 1
    return count


def is_packed(layer: Any) -> bool:
    return isinstance(layer, _classes())


def lay_over(layer: Any, weight: torch.Tensor | None) -> None:
    """Have another weight take the place of the packed one, unpacked, in the layer's own precision; None takes it off again.

    What is packed stays untouched below it, so afterwards the layer is what it was, to the last bit.
    """
    layer.laid = None if weight is None else weight.detach().to(layer.packed.device, layer.number)


def _pack_layer(layer: Any, kept: Format) -> None:
    import torch

    weight = layer._parameters.pop("weight")
    layer.kept, layer.shape, layer.number = kept, tuple(weight.shape), weight.dtype
    with torch.no_grad():
        packed, scales = _PACK[kept](weight.detach())
    layer.register_buffer("packed", packed)
    layer.register_buffer("scales", scales)
    layer.register_buffer("laid", None, persistent=False)
    layer.__class__ = _classes()[isinstance(layer, torch.nn.Conv2d)]


# The formats: a weight as bytes and scales, and back


def _rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(outputs, inputs) in float32, and the largest number of each row, (outputs, 1)."""
    rows = weight.float().flatten(1)
    return rows, rows.abs().amax(1, keepdim=True).clamp(min=LEAST)


def _pack_fp8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row times a power of two, which loses nothing and keeps its small numbers from being rounded to few.

    Kept as bytes, so that nothing that casts a model's floating-point numbers turns them into something else.
    """
    import torch

    rows, largest = _rows(weight)
    scales = torch.exp2(torch.ceil(torch.log2(largest / LARGEST_FP8)))
    return (rows / scales).to(torch.float8_e4m3fn).view(torch.uint8), scales


def _unpack_fp8(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    import torch

    return layer.packed.view(torch.float8_e4m3fn).to(dtype).mul_(layer.scales.to(dtype)).view(layer.shape)


def _pack_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row in 255 even steps (Dettmers et al. 2022, section 2.1: row-wise absmax), of a size that the weight's own format has."""
    import torch

    rows, largest = _rows(weight)
    scales = (largest / LARGEST_INT8).to(weight.dtype).float()
    return (rows / scales).round().clamp(-LARGEST_INT8, LARGEST_INT8).to(torch.int8), scales


def _unpack_int8(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    return layer.packed.to(dtype).mul_(layer.scales.to(dtype)).view(layer.shape)


def _pack_nf4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Blocks of 64 in 16 steps that suit normally distributed numbers, two in a byte. Own code, as it has to run wherever torch does."""
    import torch

    blocks = torch.nn.functional.pad(weight.float().flatten(), (0, -weight.numel() % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1, keepdim=True).clamp(min=LEAST)
    steps = torch.tensor(NF4, device=weight.device)
    nearest = torch.bucketize(blocks / scales, (steps[1:] + steps[:-1]) / 2, out_int32=True).to(torch.uint8).view(-1, 2)
    return nearest[:, 0] * 16 + nearest[:, 1], scales


def _unpack_nf4(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    import torch

    # Both numbers of a byte at once.
    pairs = _pairs(dtype, layer.packed.device)
    blocks = torch.nn.functional.embedding(layer.packed.int(), pairs).view(-1, BLOCK).mul_(layer.scales.to(dtype))
    return blocks.flatten()[: math.prod(layer.shape)].view(layer.shape)


@functools.cache
def _pairs(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """What each byte of nf4 stands for, (256, 2)."""
    import torch

    return torch.tensor([(NF4[byte >> 4], NF4[byte & 15]) for byte in range(256)], dtype=dtype, device=device)


_PACK = {"fp8": _pack_fp8, "int8": _pack_int8, "nf4": _pack_nf4}
_UNPACK = {"fp8": _unpack_fp8, "int8": _unpack_int8, "nf4": _unpack_nf4}


# The layers


@functools.cache
def _classes() -> tuple[type[Any], type[Any]]:
    """The classes of a packed linear layer and of a packed convolution."""
    import torch

    class LinearFunction(torch.autograd.Function):
        """inputs (..., in) -> (..., out)."""

        @staticmethod
        def forward(ctx: Any, inputs: torch.Tensor, layer: Any) -> torch.Tensor:
            ctx.layer = layer
            return torch.nn.functional.linear(inputs, layer.whole(inputs.dtype), layer.bias)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
            return gradient @ ctx.layer.whole(gradient.dtype), None

    class ConvolutionFunction(torch.autograd.Function):
        """inputs (batch, in, height, width) -> (batch, out, height, width)."""

        @staticmethod
        def forward(ctx: Any, inputs: torch.Tensor, layer: Any) -> torch.Tensor:
            ctx.layer, ctx.size = layer, inputs.shape
            return layer._conv_forward(inputs, layer.whole(inputs.dtype), layer.bias)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
            layer = ctx.layer
            weight, how = layer.whole(gradient.dtype), (layer.stride, layer.padding, layer.dilation, layer.groups)
            return torch.nn.grad.conv2d_input(ctx.size, weight, gradient, *how), None

    class Packed:
        kept: Format
        shape: tuple[int, ...]
        number: torch.dtype
        """Of the weight before."""
        packed: torch.Tensor
        scales: torch.Tensor
        laid: torch.Tensor | None

        def whole(self, dtype: torch.dtype) -> torch.Tensor:
            """The weight, made anew."""
            return _UNPACK[self.kept](self, dtype) if self.laid is None else self.laid.to(dtype)

        @property
        def weight(self) -> torch.Tensor:
            return self.whole(self.number)

        def extra_repr(self) -> str:
            return f"{super().extra_repr()}, packed as {self.kept}"  # type: ignore[misc]

    # peft makes a LoRA's own convolutions of the class of the layer below: those are ordinary ones.
    class PackedLinear(Packed, torch.nn.Linear):
        def __new__(cls, *given: Any, **named: Any) -> Any:
            return torch.nn.Linear(*given, **named) if given or named else super().__new__(cls)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return LinearFunction.apply(inputs, self)

    class PackedConv2d(Packed, torch.nn.Conv2d):
        def __new__(cls, *given: Any, **named: Any) -> Any:
            return torch.nn.Conv2d(*given, **named) if given or named else super().__new__(cls)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return ConvolutionFunction.apply(inputs, self)

    return PackedLinear, PackedConv2d
