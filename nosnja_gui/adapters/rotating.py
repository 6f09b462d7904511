"""Layers whose outputs are rotated while that is trained: OFT and BOFT as LyCORIS, A1111 and ComfyUI read them.

peft's own OFT and BOFT rotate a layer's inputs, which no file layout of Stable Diffusion can say, and its BOFT has one stage only
where its CUDA extension was not built. So peft gives the manner of switching adapters here, and the rotation is ours.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from nosnja_gui.adapters import limited, rotated

if TYPE_CHECKING:
    import torch


@functools.cache
def layer_class() -> type[Any]:
    """`RotatingLayer(base)`, a peft layer around a linear layer or a convolution."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    class RotatingLayer(torch.nn.Module, BaseTunerLayer):
        adapter_layer_names = ("oft_blocks", "rescale")
        other_param_names = ("strengths",)

        def __init__(self, base: torch.nn.Module) -> None:
            super().__init__()
            self.base_layer = base
            self.oft_blocks = torch.nn.ParameterDict()
            self.rescale = torch.nn.ParameterDict()
            self.strengths: dict[str, float] = {}

        def set_scale(self, name: str, strength: float) -> None:
            if name in self.oft_blocks:
                self.strengths[name] = strength

        def forward(self, inputs: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            base = self.base_layer
            active = [name for name in self.active_adapters if name in self.oft_blocks]
            if self.disable_adapters or not active:
                return base(inputs, *args, **kwargs)
            weight = base.weight.float()
            for name in active:
                turned = rotated(weight, self.oft_blocks[name], self.rescale.get(name))
                weight = turned if self.strengths[name] == 1 else torch.lerp(weight, turned, self.strengths[name])
            weight = weight.to(base.weight.dtype)
            if isinstance(base, torch.nn.Conv2d):
                return base._conv_forward(inputs, weight, base.bias)
            return torch.nn.functional.linear(inputs, weight, base.bias)

    return RotatingLayer


def add(module: torch.nn.Module, path: str, key: str, shape: tuple[int, ...], rescale: bool) -> Any:
    """Put a rotation with blocks of that shape, which changes nothing yet, onto the layer at `path`; returns the layer around it."""
    import torch

    layer = module.get_submodule(path)
    if not isinstance(layer, layer_class()):
        base, layer = layer, layer_class()(layer)
        layer.train(base.training)
        parent, _, child = path.rpartition(".")
        setattr(module.get_submodule(parent), child, layer)
    weight = layer.base_layer.weight
    layer.oft_blocks[key] = torch.nn.Parameter(torch.zeros(shape, device=weight.device))
    if rescale:
        layer.rescale[key] = torch.nn.Parameter(torch.ones(len(weight), *[1] * (weight.ndim - 1), device=weight.device))
    layer.strengths[key] = 1.0
    return layer


def keep_within(blocks: torch.Tensor, constraint: float) -> None:
    """Hold the rotation's angle down (COFT, Qiu et al. 2023, section 4): |Q| stays below `constraint` times the outputs."""
    if constraint:
        blocks.copy_(limited(blocks, constraint * blocks.shape[-3] * blocks.shape[-1]))
