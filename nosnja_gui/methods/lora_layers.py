"""What the layers of each of LoRA's kin hold: how they get onto a model, which of their tensors learn, what they say as data.

LoRA, DoRA, LoHa and LoKr are peft's layers, OFT and BOFT those of `adapters.rotating`. Layers are told apart by what they are, so
nothing here needs the settings once they are on.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from nosnja_gui.adapters import Butterfly, Decomposed, Hadamard, Kronecker, LowRank, Rotation, Update, limited, rotating, targets
from nosnja_gui.adapters.targets import Shape
from nosnja_gui.settings import UserError

if TYPE_CHECKING:
    import torch

    from nosnja_gui.methods.lora import LoraSettings

HADAMARD = ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")
KRONECKER = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
WHOLE = 2**20
"""A rank above which every factor of a LoKr is whole, whatever the layer."""


@dataclass(frozen=True)
class Piece:
    """What is put onto one layer."""

    shape: Shape
    rank: int
    alpha: float
    """As files state it: alpha / rank is what the update is multiplied by."""


# Onto a model


def inject(module: torch.nn.Module, pieces: Mapping[str, Piece], settings: LoraSettings, key: str) -> None:
    """Put layers of the chosen kind onto the modules named. They change nothing yet."""
    if settings.algorithm in ("oft", "boft"):
        for path, piece in pieces.items():
            rotating.add(module, path, key, settings.rotation_of(piece.shape[0]), settings.algorithm == "boft" and settings.rescale)
        return
    ranks = {path: settings.rank_of_factors(piece.rank) for path, piece in pieces.items()}
    alphas = {path: piece.alpha for path, piece in pieces.items()}
    if settings.algorithm == "lokr":
        for path, piece in pieces.items():
            if targets.is_whole_lokr(piece.shape, ranks[path], settings.factor, settings.decompose_both):
                alphas[path] = float(ranks[path])  # LyCORIS' scale of 1
    rank, alpha = _usual(ranks), _usual(alphas)
    common: dict[str, Any] = {"r": rank, "target_modules": list(pieces)}
    common |= {"rank_pattern": _patterns(ranks, rank), "alpha_pattern": _patterns(alphas, alpha)}
    add(_config(settings, alpha, common), module, key)


def _config(settings: LoraSettings, alpha: float, common: dict[str, Any]) -> Any:
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    if settings.algorithm == "lora":
        return LoraConfig(lora_alpha=alpha, lora_dropout=settings.dropout, use_dora=settings.dora, **common)
    # peft's rank dropout drops rows of the finished update, as LyCORIS' does.
    common |= {"alpha": alpha, "rank_dropout": settings.rank_dropout, "module_dropout": settings.module_dropout}
    common["use_effective_conv2d"] = settings.tucker
    if settings.algorithm == "loha":
        return LoHaConfig(**common)
    return LoKrConfig(decompose_both=settings.decompose_both, decompose_factor=settings.factor, **common)


def _usual(values: Mapping[str, Any]) -> Any:
    numbers = list(values.values())
    return max(dict.fromkeys(numbers), key=numbers.count)


def _patterns(values: Mapping[str, Any], usual: Any) -> dict[str, Any]:
    """peft's patterns: an expression for all modules of each value that is not the usual one."""
    others: dict[Any, list[str]] = {}
    for path, value in values.items():
        if value != usual:
            others.setdefault(value, []).append(re.escape(path))
    return {f"^(?:{'|'.join(paths)})$": value for value, paths in others.items()}


def add(config: Any, module: torch.nn.Module, key: str) -> None:
    """Let peft put an adapter on."""
    from peft import inject_adapter_in_model

    with kept_trainable(module), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters at once are meant
        inject_adapter_in_model(config, module, key)


@contextlib.contextmanager
def kept_trainable(module: torch.nn.Module) -> Iterator[None]:
    """peft switches requires_grad when adapters are switched; what was trainable before stays so, and nothing else becomes it."""
    trainable = {id(parameter) for parameter in module.parameters() if parameter.requires_grad}
    yield
    for parameter in module.parameters():
        parameter.requires_grad_(id(parameter) in trainable)


def layers(module: torch.nn.Module, key: str | None = None) -> Iterator[tuple[str, Any]]:
    """Adapters' layers in the module by the name of what they stand for, in the module's order."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in module.named_modules():
        if isinstance(layer, BaseTunerLayer) and (key is None or holds(layer, key)):
            yield name, layer


def holds(layer: Any, key: str | None = None) -> bool:
    """Whether a layer holds this adapter, or any."""
    held = (getattr(layer, name) for name in layer.adapter_layer_names)
    return any(len(some) if key is None else key in some for some in held)


def is_plain(layer: Any, key: str) -> bool:
    """Whether it is a LoRA and nothing more, beside which peft can put others."""
    return hasattr(layer, "lora_A") and key not in layer.lora_magnitude_vector


# Their parameters


def parameters(layer: Any, key: str) -> dict[str, torch.nn.Parameter]:
    """What learns, by the end of its key in a file, in float32 and trainable."""
    if hasattr(layer, "lora_A"):
        held = {"lora_down.weight": layer.lora_A[key], "lora_up.weight": layer.lora_B[key]}
        if key in layer.lora_magnitude_vector:
            held["dora_scale"] = _exact_magnitude(layer, key)
        for part in held.values():
            part.float()
        return {name: part.weight.requires_grad_(True) for name, part in held.items()}
    found = {}
    for name in layer.adapter_layer_names:
        if key in (some := getattr(layer, name)):
            some[key].data = some[key].data.float()
            found[name] = some[key].requires_grad_(True)
    return found


def _exact_magnitude(layer: Any, key: str) -> Any:
    """The magnitudes' module; on a model of half precision peft has rounded them, and a DoRA would change the model at once."""
    import torch

    found, weight = layer.lora_magnitude_vector[key], layer.get_base_layer().weight.float()
    with torch.no_grad():
        found.weight = torch.nn.Parameter(found.get_weight_norm(weight, torch.zeros_like(weight), 1.0))
    return found


def with_faster_ups(names: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Names by whether LoRA+ has them learn faster: the up matrices (Hayou et al. 2024, section 4)."""
    ups = [name for name in names if name.endswith("lora_up.weight")]
    return [name for name in names if name not in ups], ups


# As data


def update_of(layer: Any, key: str) -> Update:
    """What it changes, as files say it; the tensors are the parameters themselves."""
    if hasattr(layer, "lora_A"):
        low = LowRank(layer.lora_A[key].weight.detach(), layer.lora_B[key].weight.detach(), float(layer.lora_alpha[key]))
        if key not in layer.lora_magnitude_vector:
            return low
        weight = layer.get_base_layer().weight
        magnitude = layer.lora_magnitude_vector[key].weight.detach()
        return Decomposed(low, magnitude.reshape(-1, *[1] * (weight.ndim - 1)))
    if hasattr(layer, "hada_w1_a"):
        return Hadamard(alpha=float(layer.alpha[key]), **_held(layer, key, "hada_", HADAMARD))
    if hasattr(layer, "lokr_w1"):
        held = _held(layer, key, "lokr_", KRONECKER)
        return Kronecker(alpha=float(layer.alpha[key]), **{"w1": None, "w2": None, **held})
    blocks, rescale = layer.oft_blocks[key].detach(), layer.rescale[key].detach() if key in layer.rescale else None
    return (Rotation if blocks.ndim == 3 else Butterfly)(blocks, rescale=rescale)


def _held(layer: Any, key: str, prefix: str, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    found = {name: getattr(layer, prefix + name) for name in names}
    return {name: some[key].detach() for name, some in found.items() if key in some}


def begin_with(layer: Any, key: str, update: Update, address: str) -> None:
    """Let a layer go on where an update left off. Raises UserError where they are not of the same kind and shape."""
    own = update_of(layer, key)
    if isinstance(own, LowRank) and isinstance(update, LowRank):
        _fill_low_rank(layer, key, update)
        return
    inner = update.inner if isinstance(update, Decomposed) else update
    if isinstance(own, Decomposed) and isinstance(inner, LowRank) and inner.mid is None:
        _fill_low_rank(layer, key, inner)
        _fill_magnitude(layer, key, update)
        return
    if type(own) is not type(update) or _shapes(own) != _shapes(update):
        raise UserError(
            f"The file cannot be gone on from, '{address}' is a {update.title} of other shapes than the {own.title} that is trained here: "
            "choose its algorithm, rank and sizes, or leave lora.start_from empty."
        )
    scale = 1.0
    if isinstance(own, Hadamard | Kronecker):
        assert isinstance(update, Hadamard | Kronecker)
        scale = _scale(update) / _scale(own)
    for field in fields(own):  # type: ignore[arg-type]
        mine, theirs = getattr(own, field.name), getattr(update, field.name)
        if isinstance(mine, Rotation | float) or mine is None:
            continue
        if field.name == "blocks":
            theirs = limited(theirs.float(), update.constraint * update.outputs)  # type: ignore[attr-defined]
        mine.copy_(theirs.reshape(mine.shape) * scale)
        scale = 1.0  # in one of the factors


def _scale(update: Hadamard | Kronecker) -> float:
    return update.alpha / update.rank if update.rank else 1.0


def _shapes(update: Update) -> dict[str, tuple[int, int]]:
    """Tensors by name and size; files may have kernels folded into the inputs."""
    values = {field.name: getattr(update, field.name) for field in fields(update)}  # type: ignore[arg-type]
    return {name: (value.numel(), value.shape[0]) for name, value in values.items() if hasattr(value, "shape")}


def _fill_low_rank(layer: Any, key: str, update: LowRank) -> None:
    """Lesser ranks are filled up with what a fresh LoRA begins with, so they change nothing at first; of higher ones the leading stay."""
    down, up = layer.lora_A[key].weight, layer.lora_B[key].weight
    if update.rank > down.shape[0]:
        update = _leading(update, down.shape[0])
    scale = (update.alpha / update.rank) / layer.scaling[key]
    # Both matrices take an equal part of the scale, so that both go on learning at a like pace.
    half = abs(scale) ** 0.5
    down[: update.rank] = (update.down.flatten(1) * half).reshape(update.rank, *down.shape[1:]).to(down)
    sign = 1.0 if scale >= 0 else -1.0
    up[:, : update.rank] = (update.up.flatten(1) * (sign * half)).reshape(up.shape[0], update.rank, *up.shape[2:]).to(up)


def _leading(update: LowRank, rank: int) -> LowRank:
    """Its best approximation of a lower rank (Eckart and Young 1936), at the same scale."""
    import torch

    q_up, r_up = torch.linalg.qr(update.up.float().flatten(1))
    q_down, r_down = torch.linalg.qr(update.down.float().flatten(1).T)
    left, values, right = torch.linalg.svd(r_up @ r_down.T)
    root = values[:rank].sqrt()
    down, up = root[:, None] * (right[:rank] @ q_down.T), (q_up @ left[:, :rank]) * root
    return LowRank(down, up, update.alpha / update.rank * rank)


def _fill_magnitude(layer: Any, key: str, update: Update) -> None:
    """A DoRA's own; a plain LoRA goes on as it was, with the lengths that it gives the weight."""
    weight, magnitude = layer.get_base_layer().weight.float(), layer.lora_magnitude_vector[key].weight
    moved = weight + update_of(layer, key).inner.delta(weight)  # type: ignore[attr-defined]
    if isinstance(update, Decomposed) and update.per_output(weight.shape):
        magnitude.copy_(update.magnitude.reshape(magnitude.shape))
    else:
        magnitude.copy_(moved.flatten(1).norm(dim=1).reshape(magnitude.shape))


# Held within bounds


def hold_below(layer: Any, key: str, most: float) -> None:
    """Shrink the update to a norm of at most `most`, evenly in all of its factors.

    As sd-scripts' scale_weight_norms does for LoRA (networks/lora.py, apply_max_norm_regularization) and LyCORIS for its kin
    (modules/*.py, apply_max_norm), which takes the norm of the blocks of a rotation.
    """
    update = update_of(layer, key)
    inner = update.inner if isinstance(update, Decomposed) else update
    held = [value for field in fields(inner) if hasattr(value := getattr(inner, field.name), "shape")]  # type: ignore[arg-type]
    if isinstance(inner, Rotation):
        held, norm = [inner.blocks], inner.blocks.norm()
    elif isinstance(inner, LowRank):
        up, down = inner.up.flatten(1), inner.down.flatten(1)
        # trace(up^T up down down^T) is the sum of squares of up @ down, which is never made.
        norm = ((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt() * abs(inner.alpha / inner.rank)
    else:
        norm = inner.delta(layer.get_base_layer().weight).norm()
    share = (most / norm.clamp(min=most)) ** (1 / len(held))
    for tensor in held:
        tensor.mul_(share)
