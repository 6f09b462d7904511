"""The arithmetic of LoRA files: their weighted sum, fewer ranks, the LoRA between two models, a model with a LoRA inside.

Works on what `nosnja_gui.adapters` reads from files of any layout; knows neither files nor model families. All sums are made in
float32 at least, and what a result lost is measured, not assumed. Convolutions are treated as matrices (outputs, inputs * kernel
* kernel), so their low-rank form is a convolution to `rank` channels with a 1x1 one behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import NamedTuple, TypeVar

import torch

from nosnja_gui.adapters import Adapter, Address, Decomposed, Full, LowRank, Update
from nosnja_gui.settings import UserError

Base = Callable[[Address], torch.Tensor]
"""Loads the base model's weight of a module."""
Layers = Mapping[Address, torch.Tensor | Callable[[], torch.Tensor]]
"""Weights of a model's layers: tensors, or functions that load them, which are called once each and one after the other."""
Shapes = Mapping[Address, tuple[int, ...]]
Tell = Callable[[int, int], None]
"""Is told after each module how many are done, of how many."""

EXACT_SIDE = 512
"""A matrix whose shorter side is at most this gets an exact SVD even for few ranks: it takes a tenth of a second there."""
POWER_ITERATIONS = 6
"""On pure noise, the worst case, 6 of them find 95 to 99 % of the energy of the best approximation, and 2 find 85 to 90 %."""
NOISE = 4 * torch.finfo(torch.float32).eps
"""Singular values below this share of the largest one are rounding errors of float32."""
WORST_SHOWN = 3
DESCRIBING = ("ss_network_", "sshs_", "lora_adapter_metadata")
"""How metadata begin that describe the tensors of a file (sd-scripts, diffusers): untrue once those are other ones."""


@dataclass(frozen=True)
class ModuleReport:
    """What became of one module's change."""

    address: Address
    old_rank: int | None
    """None where the change is a whole matrix. Of several LoRAs the sum."""
    new_rank: int | None
    """None where the change is a whole matrix, 0 where it is nothing and therefore left out."""
    energy: float
    """Sum of squares (squared Frobenius norm) of the change that was asked for."""
    lost: float
    """Sum of squares of the difference between it and the result, before this is rounded to its number format."""

    @property
    def kept(self) -> float:
        """Share of the energy, 0 to 1. Its root is what sd-scripts calls `fro retained` (networks/resize_lora.py)."""
        return _kept(self.energy, self.lost)

    @property
    def error(self) -> float:
        """Frobenius norm of the difference, relative to that of the change."""
        return _error(self.energy, self.lost)


@dataclass(frozen=True)
class Report:
    """What became of all modules' changes. Parameters and bytes are those of the tensors, without names and alphas."""

    modules: tuple[ModuleReport, ...]
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    unchanged: tuple[Address, ...] = ()
    """Layers that are the same in both models (extraction only)."""

    @property
    def kept(self) -> float:
        """Share of the energy of all modules together, 0 to 1."""
        return _kept(*self._sums)

    @property
    def error(self) -> float:
        """Relative Frobenius error of all modules together."""
        return _error(*self._sums)

    @property
    def _sums(self) -> tuple[float, float]:
        return math.fsum(module.energy for module in self.modules), math.fsum(module.lost for module in self.modules)

    def lines(self) -> list[str]:
        """A summary for people, and the modules that lost most."""
        ranks = [_range(getattr(module, name) for module in self.modules) for name in ("old_rank", "new_rank")]
        lines = [
            f"Modules: {len(self.modules):,}, {ranks[0]} before, {ranks[1]} after",
            f"Kept: {self.kept:.2%} of the change's energy, relative error {self.error:.3g}",
            f"Parameters: {self.parameters_before:,} before, {self.parameters_after:,} after",
            f"Size: {self.bytes_before / 1e6:,.1f} MB before, {self.bytes_after / 1e6:,.1f} MB after",
        ]
        if self.unchanged:
            lines.append(f"Left out: {len(self.unchanged):,} layers that are the same in both models")
        worst = sorted((module for module in self.modules if module.error > 1e-3), key=lambda module: -module.error)[:WORST_SHOWN]
        lines += [
            f"Lost most: {'.'.join(module.address)}, rank {module.new_rank}, kept {module.kept:.1%}, relative error {module.error:.3g}"
            for module in worst
        ]
        return lines


def _kept(energy: float, lost: float) -> float:
    return max(0.0, 1 - lost / energy) if energy else 1.0


def _error(energy: float, lost: float) -> float:
    return math.sqrt(lost / energy) if energy else 0.0


@torch.no_grad()
def merge(
    adapters: Sequence[tuple[Adapter, float]],
    shapes: Shapes,
    rank: int | None = None,
    base: Base | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    tell: Tell | None = None,
) -> tuple[Adapter, Report]:
    """The weighted sum of LoRAs of one model family: acts as they do one on top of the other at these weights.

    Without a rank the sum is exact: ranks add up where all updates of a module are plain LoRAs, and other kinds (LoHa, LoKr, DoRA,
    whole differences) become whole differences. With a rank each module gets the best approximation of at most that rank. Scales
    are in the factors, alpha is the rank. Weights may be negative; those of 0 don't count. DoRAs change with what they are put on;
    theirs (and those of OFT) is the change of the base weights. Raises UserError for one of them without `base`, LoRAs of another
    family, nothing to merge.
    """
    counted = [(adapter, weight) for adapter, weight in adapters if weight]
    _check(rank=rank)
    if not counted:
        raise UserError("There is nothing to merge: give at least one LoRA with a weight other than 0.")
    updates: dict[Address, Update] = {}
    modules = []
    for address in _each(dict.fromkeys(address for adapter, _ in counted for address in adapter.updates), tell):
        shape = _shape(address, shapes)
        parts = [(adapter.updates[address], weight) for adapter, weight in counted if address in adapter.updates]
        if rank is None or len(shape) == 1:
            update, module = _exact(parts, address, shape, base, dtype)
        else:
            update, module = _cut(_spectrum_of(parts, address, shape, rank, base), address, shape, _ranks(parts), dtype, rank=rank)
        modules.append(module)
        if update:
            updates[address] = update
    biases: dict[Address, torch.Tensor] = {}
    for adapter, weight in counted:
        for address, bias in adapter.biases.items():
            biases[address] = weight * bias.float() + biases.get(address, 0.0)
    biases = {address: _rounded(bias, address, dtype) for address, bias in biases.items()}
    result = Adapter(updates, biases, _metadata({}, updates))
    if not updates and not biases:
        raise UserError("There is nothing to merge: at these weights the LoRAs change nothing together; choose other weights.")
    return result, _report(modules, _size(tensor for adapter, _ in adapters for tensor in _tensors(adapter)), result)


@torch.no_grad()
def resize(
    adapter: Adapter,
    shapes: Shapes,
    rank: int | None,
    keep: float | None = None,
    alpha: float | None = None,
    base: Base | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    tell: Tell | None = None,
) -> tuple[Adapter, Report]:
    """A plain LoRA of fewer ranks, from one of any kind: for each module the best approximation (Eckart and Young 1936).

    Each module gets `rank` ranks or, with `keep`, the smallest rank that keeps this share of its energy (sum of squares, above 0 to
    1), at most `rank`; never more than it has. sd-scripts' `sv_fro` t is a share of the norm: `keep` t * t. The change is the same
    for every alpha, as the factors make up for it: without one a plain LoRA's alpha / rank stays as it was, as sd-scripts has it,
    and with other kinds alpha is the rank. Biases, and changes of weights that are no matrices, stay. Metadata that described the
    old tensors are replaced. Raises UserError for a DoRA without `base`, another family's LoRA, wrong numbers, an empty change.
    """
    _check(rank=rank, keep=keep, alpha=alpha)
    if rank is None and keep is None:
        raise UserError("The size of the new LoRA is not given: give a rank, or the share of the change to keep.")
    updates: dict[Address, Update] = {}
    modules = []
    for address in _each(adapter.updates, tell):
        shape, old = _shape(address, shapes), adapter.updates[address]
        parts = [(old, 1.0)]
        if len(shape) == 1:
            update, module = _exact(parts, address, shape, base, dtype)
        else:
            scale = old.alpha / old.rank or 1.0 if isinstance(old, LowRank) else 1.0
            spectrum = _spectrum_of(parts, address, shape, rank, base)
            update, module = _cut(spectrum, address, shape, _ranks(parts), dtype, rank=rank, keep=keep, alpha=alpha, scale=scale)
        modules.append(module)
        if update:
            updates[address] = update
    if not updates and not adapter.biases:
        raise UserError("The LoRA changes nothing, all of its weights are 0: choose one that was trained.")
    biases = {address: _rounded(bias.float(), address, dtype) for address, bias in adapter.biases.items()}
    result = Adapter(updates, biases, _metadata(adapter.metadata, updates))
    return result, _report(modules, _size(_tensors(adapter)), result)


@torch.no_grad()
def extract(
    base: Layers,
    tuned: Layers,
    rank: int,
    conv_rank: int | None = None,
    keep: float | None = None,
    device: torch.device | str = "cpu",
    *,
    dtype: torch.dtype = torch.float32,
    tell: Tell | None = None,
) -> tuple[Adapter, Report]:
    """The LoRA that makes `tuned` of `base`, as well as its ranks can: an SVD of the difference of each layer.

    Linear layers and 1x1 convolutions get `rank` ranks, larger convolutions `conv_rank` or, without one, nothing; with `keep` (see
    `resize`) fewer where fewer do. The singular values are shared between both factors, alpha is the rank. Layers without a
    difference are left out. One layer is in memory at a time; large ones are decomposed by random projections (Halko et al. 2011),
    with the same result each time. Raises UserError where layers or shapes differ, where nothing differs, for wrong numbers and
    weights that are not finite.
    """
    _check(rank=rank, keep=keep)
    _check(rank=conv_rank)
    if different := sorted(set(base) ^ set(tuned)):
        raise UserError(
            f"The two models differ in {len(different)} layers, such as '{'.'.join(different[0])}', that only one has: "
            f"choose a model and one that was trained on top of it."
        )
    updates: dict[Address, Update] = {}
    modules, unchanged = [], []
    before = _Size(0, 0)
    for address in _each(base, tell):
        first, second = (_loaded(layers[address]) for layers in (base, tuned))
        if first.shape != second.shape:
            raise UserError(
                f"The layer '{'.'.join(address)}' has the shape {tuple(first.shape)} in one model and {tuple(second.shape)} in the other: "
                f"choose a model and one that was trained on top of it."
            )
        shape = tuple(first.shape)
        allowed = rank if math.prod(shape[2:]) == 1 else conv_rank
        if len(shape) < 2 or allowed is None:
            continue
        difference = second.to(device).float() - first.to(device).float()
        if not difference.any():
            unchanged.append(address)
            continue
        before = _Size(before.parameters + second.numel(), before.bytes + second.nbytes)
        spectrum = _spectrum(_checked(difference, address).flatten(1), allowed)
        update, module = _cut(spectrum, address, shape, None, dtype, rank=allowed, keep=keep)
        modules.append(module)
        if update:
            updates[address] = update
    if not updates:
        raise UserError("The two models don't differ in any layer that was compared: choose another model.")
    result = Adapter(updates, metadata=_metadata({}, updates))
    return result, _report(modules, before, result, unchanged)


@torch.no_grad()
def merged(weight: torch.Tensor, update: Update, strength: float) -> torch.Tensor:
    """A base weight with an update inside, summed in float32, in the weight's number format; both on one device.

    A bias takes its difference as `Full`. Raises UserError where the sum is not finite or too large for the format.
    """
    total = weight.float() + strength * update.delta(weight)
    if not total.abs().amax() <= torch.finfo(weight.dtype).max:
        name = str(weight.dtype).removeprefix("torch.")
        raise UserError(f"A merged weight is not a finite number of the format {name}: choose a lower strength or another LoRA.")
    return total.to(weight.dtype)


Parts = Sequence[tuple[Update, float]]
"""What changes one module, and with which weight."""


def _exact(parts: Parts, address: Address, shape: tuple[int, ...], base: Base | None, dtype: torch.dtype) -> tuple[Update, ModuleReport]:
    """The weighted sum as it is: a LoRA of all ranks together where that can be, else a whole difference."""
    if _plain(parts):
        up, down = _factors(parts, address, shape)
        update = _low_rank(up, down, address, shape, float(len(down)), dtype)
        return update, ModuleReport(address, len(down), len(down), _energy_of_product(up, down), 0.0)
    total = _sum(parts, address, shape, base)
    return Full(_rounded(total, address, dtype)), ModuleReport(address, _ranks(parts), None, _energy(total), 0.0)


def _plain(parts: Parts) -> bool:
    return all(isinstance(update, LowRank) for update, _ in parts)


def _ranks(parts: Parts) -> int | None:
    """Of all updates together; None if one is a whole matrix."""
    inner = [update.inner if isinstance(update, Decomposed) else update for update, _ in parts]
    ranks = [getattr(update, "rank", 0) for update in inner]
    return sum(ranks) if all(ranks) else None


class _Spectrum(NamedTuple):
    """The leading part of a singular value decomposition: u @ diag(values) @ vh."""

    u: torch.Tensor  # (outputs, count)
    values: torch.Tensor  # (count), falling
    vh: torch.Tensor  # (count, inputs)
    rest: float
    """Energy of what it leaves out, 0 for a whole decomposition."""


def _spectrum_of(parts: Parts, address: Address, shape: tuple[int, ...], rank: int | None, base: Base | None) -> _Spectrum:
    """Of a weighted sum."""
    if _plain(parts):
        return _spectrum_of_product(*_factors(parts, address, shape))
    return _spectrum(_sum(parts, address, shape, base).flatten(1), rank)


def _spectrum(matrix: torch.Tensor, rank: int | None) -> _Spectrum:
    """Of a dense matrix (outputs, inputs): whole where that is quick, else a bit more than `rank` singular values.

    The randomised decomposition projects onto a basis, so what is outside of it is orthogonal to what is inside and energies add up.
    """
    count = min(matrix.shape) if rank is None else 2 * rank + 16
    if min(matrix.shape) <= max(EXACT_SIDE, 3 * count):
        return _Spectrum(*torch.linalg.svd(matrix, full_matrices=False), 0.0)
    with torch.random.fork_rng([matrix.device] if matrix.is_cuda else []):
        torch.manual_seed(0)
        u, values, v = torch.svd_lowrank(matrix, q=count, niter=POWER_ITERATIONS)
    return _Spectrum(u, values, v.T, _energy(matrix - (u * values) @ v.T))


def _spectrum_of_product(up: torch.Tensor, down: torch.Tensor) -> _Spectrum:
    """Of up @ down without ever making it: O((outputs + inputs) * rank^2), as the orthogonal factors can wait outside."""
    q_up, r_up = torch.linalg.qr(up)
    q_down, r_down = torch.linalg.qr(down.T)
    u, values, vh = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
    return _Spectrum(q_up @ u, values, vh @ q_down.T, 0.0)


def _cut(
    spectrum: _Spectrum,
    address: Address,
    shape: tuple[int, ...],
    old_rank: int | None,
    dtype: torch.dtype,
    *,
    rank: int | None,
    keep: float | None = None,
    alpha: float | None = None,
    scale: float = 1.0,
) -> tuple[LowRank | None, ModuleReport]:
    """The leading singular values as a LoRA with alpha / rank = scale, or this alpha. None where there is nothing."""
    squares = spectrum.values.double().square()
    lost = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)]) + spectrum.rest  # with 0, 1, 2 ... ranks
    energy = float(lost[0])
    count = int((spectrum.values > spectrum.values[0] * NOISE).sum())
    if rank is not None:
        count = min(count, rank)
    if keep is not None:
        count = min(count, int((lost > (1 - keep) * energy).sum()))
    report = ModuleReport(address, old_rank, count, energy, float(lost[count]))
    if not count:
        return None, report
    if alpha is None:
        alpha = scale * count
    root = (spectrum.values[:count] / abs(alpha / count)).sqrt()
    up, down = spectrum.u[:, :count] * (root * math.copysign(1.0, alpha)), root[:, None] * spectrum.vh[:count]
    return _low_rank(up, down, address, shape, alpha, dtype), report


def _low_rank(up: torch.Tensor, down: torch.Tensor, address: Address, shape: tuple[int, ...], alpha: float, dtype: torch.dtype) -> LowRank:
    """From matrices (outputs, rank), (rank, inputs * kernel * kernel)."""
    up, down = _rounded(up, address, dtype), _rounded(down, address, dtype)
    return LowRank(down.reshape(-1, *shape[1:]), up.reshape(*up.shape, *(1 for _ in shape[2:])), alpha)


def _factors(parts: Parts, address: Address, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted sum of plain LoRAs as matrices (outputs, ranks), (ranks, inputs * kernel * kernel), weights and scales in them.

    Both factors of a LoRA get the same norm, which keeps them in the range of float16; a core between them goes into the second.
    """
    ups, downs = [], []
    for update, weight in parts:
        assert isinstance(update, LowRank)
        up, down = update.up.float().flatten(1), update.down.float()
        if update.mid is not None:
            down = torch.einsum("rskl,si->rikl", update.mid.float(), down.flatten(1))
        down = down.flatten(1)
        if (len(up), down.shape[1]) != (shape[0], math.prod(shape[1:])):
            raise UserError(
                f"The LoRA's change of '{'.'.join(address)}' is made for {down.shape[1]} inputs and {len(up)} outputs, but the model has "
                f"{math.prod(shape[1:])} and {shape[0]} there: choose a LoRA of this kind of model."
            )
        factor = weight * update.alpha / update.rank
        sizes = float(_checked(up, address).norm()), float(_checked(down, address).norm())
        root, tilt = math.sqrt(abs(factor)), math.sqrt(sizes[1] / sizes[0]) if all(sizes) else 1.0
        ups.append(up * math.copysign(root * tilt, factor))
        downs.append(down * (root / tilt))
    return torch.cat(ups, 1), torch.cat(downs)


def _sum(parts: Parts, address: Address, shape: tuple[int, ...], base: Base | None) -> torch.Tensor:
    """The weighted sum of the changes of one weight, float32 of its shape."""
    weight = torch.empty(shape, device="meta")  # most kinds only look at its shape
    if relative := next((update for update, _ in parts if update.needs_weight), None):
        if base is None:
            what = f"{'an' if relative.title == 'OFT' else 'a'} {relative.title}"
            raise UserError(
                f"The change of '{'.'.join(address)}' is {what}, which depends on the weights of the model it was trained on: "
                f"choose that model too."
            )
        weight = base(address)
    return _checked(sum(update.delta(weight) * strength for update, strength in parts), address)


def _shape(address: Address, shapes: Shapes) -> tuple[int, ...]:
    if address not in shapes:
        raise UserError(f"The model has no layer '{'.'.join(address)}' that a LoRA changes: choose LoRAs of one kind of model only.")
    return tuple(shapes[address])


def _loaded(weight: torch.Tensor | Callable[[], torch.Tensor]) -> torch.Tensor:
    return weight if isinstance(weight, torch.Tensor) else weight()


def _checked(tensor: torch.Tensor, address: Address) -> torch.Tensor:
    if not torch.isfinite(tensor).all():
        raise UserError(f"The change of '{'.'.join(address)}' holds numbers that are not finite: choose another file.")
    return tensor


def _rounded(tensor: torch.Tensor, address: Address, dtype: torch.dtype) -> torch.Tensor:
    rounded = tensor.to("cpu", dtype).contiguous()
    if not torch.isfinite(rounded).all():
        name = str(dtype).removeprefix("torch.")
        raise UserError(f"The change of '{'.'.join(address)}' is too large for the number format {name}: choose float32.")
    return rounded


def _energy(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2


def _energy_of_product(up: torch.Tensor, down: torch.Tensor) -> float:
    """trace(up^T up down down^T) is the sum of squares of up @ down."""
    return max(0.0, float(((up.T @ up).double() * (down @ down.T).double()).sum()))


Item = TypeVar("Item")


def _each(items: Collection[Item], tell: Tell | None) -> Iterator[Item]:
    for done, item in enumerate(items, 1):
        yield item
        if tell:
            tell(done, len(items))


def _check(rank: int | None = None, keep: float | None = None, alpha: float | None = None) -> None:
    if rank is not None and rank < 1:
        raise UserError(f"A rank must be 1 or more (got {rank}).")
    if keep is not None and not 0 < keep <= 1:
        raise UserError(f"The share to keep must be above 0 and at most 1 (got {keep:g}).")
    if alpha is not None and not 0 < alpha < math.inf:
        raise UserError(f"Alpha must be above 0 (got {alpha:g}).")


def _metadata(old: Mapping[str, str], updates: Mapping[Address, Update]) -> dict[str, str]:
    """What is still true of `old`, and the rank and alpha of the new tensors; "Dynamic" where they differ, as sd-scripts has it
    (networks/resize_lora.py)."""
    plain = [update for update in updates.values() if isinstance(update, LowRank)]
    said = {"dim": {str(update.rank) for update in plain}, "alpha": {str(float(update.alpha)) for update in plain}}
    return {
        **{name: value for name, value in old.items() if not name.startswith(DESCRIBING)},
        "ss_network_module": "networks.lora",
        **{f"ss_network_{name}": values.pop() if len(values) == 1 else "Dynamic" for name, values in said.items() if values},
    }


class _Size(NamedTuple):
    parameters: int
    bytes: int


def _size(tensors: Iterable[torch.Tensor]) -> _Size:
    sizes = [(tensor.numel(), tensor.nbytes) for tensor in tensors]
    return _Size(sum(count for count, _ in sizes), sum(size for _, size in sizes))


def _tensors(holder: object) -> Iterator[torch.Tensor]:
    """All tensors of an adapter or an update."""
    if isinstance(holder, torch.Tensor):
        yield holder
    elif isinstance(holder, Mapping):
        for value in holder.values():
            yield from _tensors(value)
    elif is_dataclass(holder):
        for field in fields(holder):
            yield from _tensors(getattr(holder, field.name))


def _report(modules: Sequence[ModuleReport], before: _Size, result: Adapter, unchanged: Sequence[Address] = ()) -> Report:
    after = _size(_tensors(result))
    return Report(tuple(modules), before.parameters, after.parameters, before.bytes, after.bytes, tuple(unchanged))


def _range(ranks: Iterator[int | None]) -> str:
    """ "rank 16", "ranks 4 to 16", "whole matrices"."""
    known = {*ranks}
    numbers = sorted(known - {None})  # type: ignore[type-var]
    if not numbers:
        return "whole matrices"
    text = f"rank {numbers[0]}" if len(numbers) == 1 else f"ranks {numbers[0]} to {numbers[-1]}"
    return f"{text} and whole matrices" if None in known else text
