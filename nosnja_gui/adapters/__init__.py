"""The LoRA family as data: what a file changes about which module, whatever the file's layout. No torch at import.

An `Adapter` says for each module of a model how its weight is changed. Files of every layout are read into it and written from it,
and merging, resizing and extracting work on it: so layouts, kinds of updates and model families never meet each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    import torch

Address = tuple[str, str]
"""(part, module): ("unet", "mid_block.attentions.0.proj_in"), named as diffusers and transformers name the loaded modules."""


class Update(Protocol):
    """How one module's weight is changed. Tensors are kept as the file has them; sums are made in float32."""

    title: ClassVar[str]
    needs_weight: ClassVar[bool] = False
    """Whether `delta` looks at what the weight is, not only at its shape."""

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """What is added to `weight` (outputs, inputs, ...) at weight 1: float32 of its shape."""


@dataclass(frozen=True)
class LowRank:
    """LoRA (Hu et al. 2021): alpha / rank * up @ down; with `mid` its CP decomposition for convolutions (LyCORIS)."""

    title: ClassVar[str] = "LoRA"
    needs_weight: ClassVar[bool] = False
    down: torch.Tensor  # (rank, inputs) or (rank, inputs, kernel, kernel); with mid (rank, inputs, 1, 1)
    up: torch.Tensor  # (outputs, rank) or (outputs, rank, 1, 1)
    alpha: float
    mid: torch.Tensor | None = None  # (rank, rank, kernel, kernel)

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        up, down = self.up.float(), self.down.float()
        if self.mid is None:
            product = up.flatten(1) @ down.flatten(1)
        else:
            import torch

            product = torch.einsum("or,rskl,si->oikl", up.flatten(1), self.mid.float(), down.flatten(1))
        return product.reshape(weight.shape) * (self.alpha / self.rank)


@dataclass(frozen=True)
class Hadamard:
    """LoHa (Hyeon-Woo et al. 2021, FedPara): alpha / rank * (w1_a @ w1_b) o (w2_a @ w2_b); t1, t2 are Tucker cores of convolutions."""

    title: ClassVar[str] = "LoHa"
    needs_weight: ClassVar[bool] = False
    w1_a: torch.Tensor  # (outputs, rank); with cores (rank, outputs)
    w1_b: torch.Tensor  # (rank, inputs * kernel * kernel); with cores (rank, inputs)
    w2_a: torch.Tensor
    w2_b: torch.Tensor
    alpha: float
    t1: torch.Tensor | None = None  # (rank, rank, kernel, kernel)
    t2: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        return self.w1_b.shape[0]

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        import torch

        def half(a: torch.Tensor, b: torch.Tensor, core: torch.Tensor | None) -> torch.Tensor:
            if core is None:
                return (a.float().flatten(1) @ b.float().flatten(1)).reshape(weight.shape)
            return torch.einsum("rskl,ro,si->oikl", core.float(), a.float(), b.float()).reshape(weight.shape)

        return half(self.w1_a, self.w1_b, self.t1) * half(self.w2_a, self.w2_b, self.t2) * (self.alpha / self.rank)


@dataclass(frozen=True)
class Kronecker:
    """LoKr (Yeh et al. 2023, LyCORIS): scale * kron(w1, w2), each factor whole or a product of two matrices.

    The scale is alpha / rank, and 1 where both factors are whole, as LyCORIS has it.
    """

    title: ClassVar[str] = "LoKr"
    needs_weight: ClassVar[bool] = False
    w1: torch.Tensor | None
    w2: torch.Tensor | None
    alpha: float
    w1_a: torch.Tensor | None = None
    w1_b: torch.Tensor | None = None
    w2_a: torch.Tensor | None = None
    w2_b: torch.Tensor | None = None
    t2: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        """0 where both factors are whole."""
        factor = self.w1_b if self.w1_b is not None else self.w2_b
        return 0 if factor is None else factor.shape[0]

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        import torch

        first = self.w1.float() if self.w1 is not None else self.w1_a.float() @ self.w1_b.float()
        if self.w2 is not None:
            second = self.w2.float()
        elif self.t2 is not None:
            second = torch.einsum("rskl,ro,si->oikl", self.t2.float(), self.w2_a.float(), self.w2_b.float())
        else:
            second = self.w2_a.float() @ self.w2_b.float().flatten(1)
            if self.w2_b.ndim == 4:
                second = second.reshape(self.w2_a.shape[0], *self.w2_b.shape[1:])
        while first.ndim < second.ndim:
            first = first.unsqueeze(-1)
        return torch.kron(first, second.contiguous()).reshape(weight.shape) * (self.alpha / self.rank if self.rank else 1.0)


@dataclass(frozen=True)
class Full:
    """The whole difference of a weight (`.diff` files)."""

    title: ClassVar[str] = "full difference"
    needs_weight: ClassVar[bool] = False
    difference: torch.Tensor

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        return self.difference.float().reshape(weight.shape)


@dataclass(frozen=True)
class Decomposed:
    """DoRA (Liu et al. 2024, Eq. 5): magnitude * (weight + inner) / |weight + inner|, with any update inside.

    The norm is taken per output where the magnitude has a row for each output, as peft (lora/dora.py) and LyCORIS (modules/locon.py,
    wd_on_out) have it; else per input, as LyCORIS has it without wd_on_out.
    """

    title: ClassVar[str] = "DoRA"
    needs_weight: ClassVar[bool] = True
    inner: Update
    magnitude: torch.Tensor  # (outputs, 1, ...) or (1, inputs, 1, 1)

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        base = weight.float()
        moved = base + self.inner.delta(weight)
        over = tuple(axis for axis in range(base.ndim) if axis != (0 if self.per_output(base.shape) else 1))
        norm = moved.square().sum(over, keepdim=True).sqrt()
        return self.magnitude.float().reshape(norm.shape) * moved / norm.clamp(min=1e-12) - base

    def per_output(self, shape: Sequence[int]) -> bool:
        """Whether each output of a weight of that shape (outputs, inputs, ...) has a magnitude of its own, not each input."""
        return self.magnitude.numel() == shape[0] and (self.magnitude.ndim == 1 or self.magnitude.shape[0] == shape[0])


@dataclass(frozen=True)
class Rotation:
    """OFT (Qiu et al. 2023): outputs are rotated in groups, R^T @ weight with R = (1 + Q) (1 - Q)^-1 of each block, Q = B - B^T.

    Cayley's form, its transpose and the limit of |Q| are as in LyCORIS (modules/diag_oft.py), sd-scripts (networks/oft.py), A1111
    (extensions-builtin/Lora/network_oft.py) and ComfyUI (comfy/weight_adapter/oft.py); ComfyUI takes the constraint itself for the limit.
    """

    title: ClassVar[str] = "OFT"
    needs_weight: ClassVar[bool] = True
    blocks: torch.Tensor  # (groups, size, size)
    constraint: float = 0.0
    """|Q| is at most this times the outputs; 0 for no limit. Files call it alpha."""
    rescale: torch.Tensor | None = None  # (outputs, 1, ...)

    @property
    def outputs(self) -> int:
        return self.blocks.shape[-3] * self.blocks.shape[-1]

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        return rotated(weight.float(), limited(self.blocks.float(), self.constraint * self.outputs), self.rescale) - weight.float()


@dataclass(frozen=True)
class Butterfly(Rotation):
    """BOFT (Liu et al. 2024): several rotations one after the other, R @ weight each, of groups that lie ever further apart.

    As in LyCORIS (modules/boft.py), A1111 and ComfyUI (comfy/weight_adapter/boft.py).
    """

    title: ClassVar[str] = "BOFT"
    blocks: torch.Tensor  # (stages, groups, size, size)


def limited(blocks: torch.Tensor, limit: float) -> torch.Tensor:
    """Blocks whose Q is no longer than the limit (0: as they are)."""
    if not limit:
        return blocks
    return blocks * (limit / (blocks - blocks.mT).norm().clamp(min=limit))


def rotated(weight: torch.Tensor, blocks: torch.Tensor, rescale: torch.Tensor | None = None) -> torch.Tensor:
    """`weight` (outputs, inputs, ...) with its outputs rotated by blocks of a `Rotation` (3 dimensions) or a `Butterfly` (4)."""
    import torch

    skew = blocks - blocks.mT
    one = torch.eye(blocks.shape[-1], device=blocks.device, dtype=blocks.dtype)
    # (1 + Q) and (1 - Q)^-1 commute, so this is the same product.
    rotations = torch.linalg.solve(one - skew, one + skew)
    groups, size = blocks.shape[-3], blocks.shape[-1]
    result = weight.reshape(groups * size, -1)
    if blocks.ndim == 3:
        result = rotations.mT @ result.reshape(groups, size, -1)
    else:
        for stage, rotation in enumerate(rotations):
            apart = 2**stage * (size // 2)
            paired = result.reshape(-1, 2, apart, result.shape[-1]).transpose(1, 2).reshape(groups, size, -1)
            turned = rotation @ paired
            result = turned.reshape(-1, apart, 2, result.shape[-1]).transpose(1, 2).reshape(groups * size, -1)
    result = result.reshape(weight.shape)
    return result if rescale is None else result * rescale.to(result).reshape(-1, *[1] * (weight.ndim - 1))


@dataclass
class Adapter:
    """What a LoRA file holds."""

    updates: dict[Address, Update]
    biases: dict[Address, torch.Tensor] = field(default_factory=dict)
    """Whole differences of biases (`.diff_b`)."""
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part for part, _ in [*self.updates, *self.biases]))


@dataclass(frozen=True)
class PartNames:
    """How files of every layout name the modules of one part of a model. A family gives one for each part that adapters go on."""

    part: str
    """`unet`, `transformer`, `text_encoder`, `text_encoder_2`: also what diffusers writes in front."""
    shapes: Mapping[str, tuple[int, ...]]
    """Module name -> shape of its weight, of every linear and convolution layer."""
    kohya: str
    """`lora_unet`, `lora_te`, `lora_te1`: what stands in front in kohya's layout, without the last underscore."""
    comfyui: str
    """`diffusion_model`, `text_encoders.clip_l.transformer`: what stands in front in ComfyUI's own layout, without the last dot."""
    original: Mapping[str, str] = field(default_factory=dict)
    """Module name -> its name in the original (CompVis, Stability) layout, where that has another name for it.

    Not for text encoders: kohya and ComfyUI name their modules as transformers does.
    """
    kohya_writes_original: bool = False
    """Whether kohya's layout uses the original names (SDXL's UNet does); both are understood when reading."""
    inner: str = ""
    """What transformers 5 took out of the names and files still have: `text_model.` for a CLIP text encoder."""
