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

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """What is added to `weight` (outputs, inputs, ...) at weight 1: float32 of its shape."""


@dataclass(frozen=True)
class LowRank:
    """LoRA (Hu et al. 2021): alpha / rank * up @ down; with `mid` its CP decomposition for convolutions (LyCORIS)."""

    title: ClassVar[str] = "LoRA"
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
