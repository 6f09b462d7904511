"""Sums, smaller ones and differences of LoRAs, in numbers: each result is held against the dense matrices it stands for."""

import itertools
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from nosnja_gui import weights
from nosnja_gui.adapters import Adapter, Decomposed, Full, Hadamard, Kronecker, LowRank
from nosnja_gui.engine import algebra
from nosnja_gui.engine.algebra import ModuleReport, Report, extract, merge, merged, resize
from nosnja_gui.settings import UserError

LINEAR, CONVOLUTION, POINT = ("unet", "attn.to_q"), ("unet", "conv1"), ("unet", "proj_in")
SHAPES = {LINEAR: (24, 16), CONVOLUTION: (12, 8, 3, 3), POINT: (20, 10, 1, 1)}


@pytest.fixture(autouse=True)
def _numbers():
    torch.set_num_threads(1)
    torch.manual_seed(7)


def low_rank(shape, rank, alpha=None):
    outputs, inputs, *kernel = shape
    up = torch.randn(outputs, rank, *(1 for _ in kernel))
    return LowRank(torch.randn(rank, inputs, *kernel), up, rank / 2 if alpha is None else alpha)


def tucker(shape, rank, alpha=1.0):
    outputs, inputs, *kernel = shape
    return LowRank(torch.randn(rank, inputs, 1, 1), torch.randn(outputs, rank, 1, 1), alpha, torch.randn(rank, rank, *kernel))


def loha(shape, rank, cores=False):
    outputs, inputs, *kernel = shape
    if cores:
        sides = [torch.randn(rank, outputs), torch.randn(rank, inputs)] * 2
        return Hadamard(*sides, 2.0, torch.randn(rank, rank, *kernel), torch.randn(rank, rank, *kernel))
    columns = inputs * math.prod(kernel)
    return Hadamard(*(torch.randn(*size) for size in ((outputs, rank), (rank, columns)) * 2), 2.0)


def lokr(shape):
    outputs, inputs, *kernel = shape
    small = torch.randn(outputs // 4, 2), torch.randn(2, inputs // 4 * math.prod(kernel))
    return Kronecker(torch.randn(4, 4), None, 3.0, w2_a=small[0], w2_b=small[1].reshape(2, inputs // 4, *kernel))


def dora(shape, rank):
    return Decomposed(low_rank(shape, rank), torch.rand(shape[0], *(1 for _ in shape[1:])) + 1)


def delta(adapter, address, weight=None):
    return adapter.updates[address].delta(torch.empty(SHAPES[address]) if weight is None else weight)


def assert_close(found, expected, share=1e-6):
    assert found.shape == expected.shape
    assert (found - expected).norm() <= share * expected.norm()


def error_of(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.fixture
def three():
    return [
        (Adapter({address: low_rank(shape, rank) for address, shape in SHAPES.items()}, {CONVOLUTION: torch.randn(12)}), weight)
        for rank, weight in ((4, 0.8), (2, -0.35), (3, 1.2))
    ]


# Sums


def test_an_exact_merge_is_the_weighted_sum(three):
    result, report = merge(three, SHAPES)
    for address in SHAPES:
        expected = sum(weight * delta(adapter, address) for adapter, weight in three)
        assert_close(delta(result, address), expected)
        assert isinstance(result.updates[address], LowRank) and result.updates[address].rank == result.updates[address].alpha == 9
    assert_close(result.biases[CONVOLUTION], sum(weight * adapter.biases[CONVOLUTION] for adapter, weight in three))
    assert report.error == 0 and report.kept == 1
    energies = [module.energy for module in report.modules]
    assert energies == pytest.approx([float(delta(result, address).square().sum()) for address in SHAPES], rel=1e-5)


def test_an_exact_merge_acts_as_the_loras_one_on_top_of_the_other(three):
    """Layers as they are computed when LoRAs are applied: down, then up, then scaled, each by itself."""
    result, _ = merge(three, SHAPES)
    functional = torch.nn.functional
    pictures = torch.randn(2, 8, 6, 6)
    tokens = torch.randn(5, 16)

    def on_pictures(update):
        return functional.conv2d(functional.conv2d(pictures, update.down, padding=1), update.up) * (update.alpha / update.rank)

    def on_tokens(update):
        return tokens @ update.down.T @ update.up.T * (update.alpha / update.rank)

    for act, address in ((on_pictures, CONVOLUTION), (on_tokens, LINEAR)):
        expected = sum(weight * act(adapter.updates[address]) for adapter, weight in three)
        assert_close(act(result.updates[address]), expected)


def test_loras_that_change_different_modules_are_merged_into_all_of_them():
    one, other = (Adapter({address: low_rank(SHAPES[address], 2)}) for address in (LINEAR, POINT))
    result, _ = merge([(one, 1.0), (other, 0.5)], SHAPES)
    assert_close(delta(result, LINEAR), delta(one, LINEAR))
    assert_close(delta(result, POINT), 0.5 * delta(other, POINT))


def test_half_precision_files_are_summed_in_single_precision():
    adapter = Adapter({LINEAR: low_rank(SHAPES[LINEAR], 4)})
    update = adapter.updates[LINEAR]
    half = Adapter({LINEAR: replace(update, down=update.down.half(), up=update.up.half())})
    result, report = merge([(half, 0.3)], SHAPES)
    assert_close(delta(result, LINEAR), 0.3 * (half.updates[LINEAR].up.float() @ half.updates[LINEAR].down.float()) / 2)
    small, smaller = merge([(half, 0.3)], SHAPES, dtype=torch.float16)
    assert small.updates[LINEAR].up.dtype == torch.float16
    assert smaller.bytes_after * 2 == report.bytes_after == report.bytes_before * 2


def test_small_alphas_leave_the_factors_within_float16():
    """alpha / rank in the first factor alone would push its weights of 1e-4 to where float16 has hardly any digits left."""
    update = LowRank(torch.randn(128, 16) * 0.05, torch.randn(24, 128) * 1e-4, alpha=1.0)
    result, _ = merge([(Adapter({LINEAR: update}), 0.5)], SHAPES, dtype=torch.float16)
    assert error_of(delta(result, LINEAR), 0.5 * delta(Adapter({LINEAR: update}), LINEAR)) < 6e-4


def test_other_kinds_are_merged_exactly_as_whole_differences():
    base = {LINEAR: torch.randn(SHAPES[LINEAR]), CONVOLUTION: torch.randn(SHAPES[CONVOLUTION])}
    kinds = {LINEAR: [loha, lokr, low_rank, dora], CONVOLUTION: [loha, lokr, tucker, dora]}
    adapters = []
    for number in range(4):
        updates = {}
        for address, makers in kinds.items():
            updates[address] = makers[number](SHAPES[address]) if makers[number] is lokr else makers[number](SHAPES[address], 2)
        adapters.append((Adapter(updates), 0.5 - number))
    result, report = merge(adapters, SHAPES, base=base.__getitem__)
    for address, weight in base.items():
        assert isinstance(result.updates[address], Full)
        assert_close(delta(result, address), sum(strength * delta(adapter, address, weight) for adapter, strength in adapters))
    assert [module.new_rank for module in report.modules] == [None, None]


def test_a_tucker_convolution_merges_into_a_plain_lora():
    adapters = [(Adapter({CONVOLUTION: tucker(SHAPES[CONVOLUTION], 3)}), 0.7), (Adapter({CONVOLUTION: low_rank((12, 8, 3, 3), 2)}), -1.0)]
    result, _ = merge(adapters, SHAPES)
    assert result.updates[CONVOLUTION].rank == 5 and result.updates[CONVOLUTION].mid is None
    assert_close(delta(result, CONVOLUTION), sum(weight * delta(adapter, CONVOLUTION) for adapter, weight in adapters))


@pytest.mark.parametrize("rank", [1, 5, 9, 40])
def test_a_merge_to_a_rank_is_the_best_there_is(three, rank):
    """Eckart and Young 1936: the error of the best approximation is the tail of the singular values."""
    result, report = merge(three, SHAPES, rank=rank)
    for module in report.modules:
        total = sum(weight * delta(adapter, module.address) for adapter, weight in three)
        values = torch.linalg.svdvals(total.flatten(1).double())
        tail = float(values[rank:].square().sum())
        lost = float((delta(result, module.address) - total).double().square().sum())
        assert module.energy == pytest.approx(float(values.square().sum()), rel=1e-5)
        assert lost == pytest.approx(tail, rel=1e-4, abs=1e-9 * module.energy)
        assert module.lost == pytest.approx(tail, rel=1e-4, abs=1e-9 * module.energy)
        assert (module.old_rank, module.new_rank) == (9, min(rank, 9))
        assert result.updates[module.address].alpha == module.new_rank


def test_what_cancels_out_leaves_nothing_but_rounding_errors():
    adapter = Adapter({address: low_rank(SHAPES[address], 4) for address in (LINEAR, POINT)})
    result, _ = merge([(adapter, 1.0), (Adapter({LINEAR: adapter.updates[LINEAR]}), -1.0)], SHAPES, rank=4)
    assert_close(delta(result, POINT), delta(adapter, POINT))
    assert LINEAR not in result.updates or delta(result, LINEAR).norm() < 1e-6 * delta(adapter, LINEAR).norm()


def test_modules_that_were_never_trained_are_left_out():
    adapter = Adapter({POINT: low_rank(SHAPES[POINT], 4)})
    untrained = Adapter({LINEAR: LowRank(torch.randn(4, 16), torch.zeros(24, 4), 4.0)})
    result, report = merge([(adapter, 1.0), (untrained, 1.0)], SHAPES, rank=2)
    assert {address: update.rank for address, update in result.updates.items()} == {POINT: 2}
    assert [(module.address, module.new_rank, module.error) for module in report.modules][1] == (LINEAR, 0, 0.0)
    with pytest.raises(UserError, match="change nothing"):
        merge([(untrained, 1.0)], SHAPES, rank=2)


def test_weights_of_a_living_model_can_be_handed_over():
    """Parameters, which would drag a graph along."""
    base, tuned = (torch.nn.Linear(16, 24).weight for _ in range(2))
    result, _ = extract({LINEAR: base}, {LINEAR: tuned}, 4)
    assert not result.updates[LINEAR].up.requires_grad and not merged(base, result.updates[LINEAR], 1.0).requires_grad


def test_merges_that_cannot_be_say_what_to_do(three):
    base = {LINEAR: torch.randn(SHAPES[LINEAR])}
    strange = Adapter({("unet", "elsewhere"): low_rank((4, 4), 2)})
    wrong = Adapter({LINEAR: low_rank((24, 32), 2)})
    broken = Adapter({LINEAR: LowRank(torch.full((2, 16), math.nan), torch.randn(24, 2), 2.0)})
    huge = Adapter({LINEAR: LowRank(torch.full((2, 16), 1e6), torch.full((24, 2), 1e6), 2.0)})
    for message, call in {
        "at least one LoRA": lambda: merge([], SHAPES),
        "other than 0": lambda: merge([(three[0][0], 0.0)], SHAPES),
        "rank must be 1 or more": lambda: merge(three, SHAPES, rank=0),
        "no layer 'unet.elsewhere'": lambda: merge([*three, (strange, 1.0)], SHAPES),
        "made for 32 inputs and 24 outputs, but the model has 16 and 24": lambda: merge([(wrong, 1.0)], SHAPES),
        "not finite": lambda: merge([(broken, 1.0)], SHAPES),
        "too large for the number format float16": lambda: merge([(huge, 1.0)], SHAPES, dtype=torch.float16),
        "is a DoRA": lambda: merge([(Adapter({LINEAR: dora(SHAPES[LINEAR], 2)}), 1.0)], SHAPES),
    }.items():
        with pytest.raises(UserError, match=message) as raised:
            call()
        assert str(raised.value).endswith(".") and "\n" not in str(raised.value)
    assert merge([(Adapter({LINEAR: dora(SHAPES[LINEAR], 2)}), 1.0)], SHAPES, base=base.__getitem__)


# Fewer ranks


def test_factors_give_the_same_singular_values_as_the_dense_matrix():
    up, down = torch.randn(60, 12), torch.randn(12, 45)
    by_factors, dense = algebra._spectrum_of_product(up, down), algebra._spectrum(up @ down, None)
    assert_close(by_factors.values, dense.values[:12], 1e-5)
    assert_close((by_factors.u * by_factors.values) @ by_factors.vh, up @ down)
    for basis in (by_factors.u.T, by_factors.vh):
        assert_close(basis @ basis.T, torch.eye(12), 1e-5)
    wide = algebra._spectrum_of_product(torch.randn(6, 20), torch.randn(20, 9))  # more ranks than the matrix has
    assert len(wide.values) == 6


@pytest.mark.parametrize("rank", [1, 3, 8, 64])
def test_resizing_to_a_rank_is_the_best_there_is(rank):
    adapter = Adapter({address: low_rank(shape, 8, alpha=3.0) for address, shape in SHAPES.items()})
    result, report = resize(adapter, SHAPES, rank)
    lost = energy = 0.0
    for module in report.modules:
        whole = delta(adapter, module.address)
        u, values, vh = torch.linalg.svd(whole.flatten(1).double(), full_matrices=False)
        best = ((u[:, :rank] * values[:rank]) @ vh[:rank]).reshape(whole.shape)
        assert_close(delta(result, module.address).double(), best, 1e-5)
        update = result.updates[module.address]
        assert update.rank == module.new_rank == min(rank, 8) and module.old_rank == 8
        assert update.alpha / update.rank == pytest.approx(3 / 8)
        assert update.down.shape[1:] == SHAPES[module.address][1:] and update.up.shape[2:] == (1,) * (len(SHAPES[module.address]) - 2)
        true = error_of(delta(result, module.address), whole)
        assert module.error == pytest.approx(true, abs=1e-5) and module.kept == pytest.approx(1 - true**2, abs=1e-5)
        lost, energy = lost + true**2 * float(whole.square().sum()), energy + float(whole.square().sum())
    assert report.error == pytest.approx(math.sqrt(lost / energy), abs=1e-5)
    assert report.kept == pytest.approx(1 - lost / energy, abs=1e-5)
    old, new = ([t for u in a.updates.values() for t in (u.up, u.down)] for a in (adapter, result))
    assert (report.parameters_before, report.parameters_after) == (sum(t.numel() for t in old), sum(t.numel() for t in new))
    assert (report.bytes_before, report.bytes_after) == (4 * report.parameters_before, 4 * report.parameters_after)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.999, 1.0])
def test_a_share_is_kept_with_not_one_rank_more_than_needed(keep):
    adapter = Adapter({address: low_rank(shape, 8) for address, shape in SHAPES.items()})
    result, report = resize(adapter, SHAPES, None, keep=keep)
    for module in report.modules:
        squares = torch.linalg.svdvals(delta(adapter, module.address).flatten(1).double()).square()
        shares = squares.cumsum(0) / squares.sum()
        true = 1 - error_of(delta(result, module.address), delta(adapter, module.address)) ** 2
        assert true >= keep - 1e-6 and module.kept >= keep - 1e-12
        assert module.new_rank == 1 or float(shares[module.new_rank - 2]) < keep
    capped, _ = resize(adapter, SHAPES, 2, keep=keep)
    assert [update.rank for update in capped.updates.values()] == [min(2, module.new_rank) for module in report.modules]


def test_alpha_changes_the_factors_and_not_the_change():
    adapter = Adapter({LINEAR: low_rank(SHAPES[LINEAR], 8, alpha=-4.0), POINT: low_rank(SHAPES[POINT], 4, alpha=1.0)})
    kept, _ = resize(adapter, SHAPES, 3)
    given, _ = resize(adapter, SHAPES, 3, alpha=12.0)
    assert [update.alpha for update in kept.updates.values()] == [-1.5, 0.75]
    assert [update.alpha for update in given.updates.values()] == [12.0, 12.0]
    for address in adapter.updates:
        assert_close(delta(given, address), delta(kept, address))
    for update in (*kept.updates.values(), *given.updates.values()):
        assert float(update.up.norm()) == pytest.approx(float(update.down.norm()), rel=1e-5)


@pytest.mark.parametrize(
    ("address", "make"),
    [
        (LINEAR, lambda shape: loha(shape, 3)),
        (CONVOLUTION, lambda shape: loha(shape, 3)),
        (CONVOLUTION, lambda shape: loha(shape, 2, cores=True)),
        (LINEAR, lokr),
        (CONVOLUTION, lokr),
        (CONVOLUTION, lambda shape: tucker(shape, 5)),
        (LINEAR, lambda shape: Full(torch.randn(shape))),
        (CONVOLUTION, lambda shape: dora(shape, 2)),
    ],
    ids=["LoHa", "LoHa convolution", "LoHa with cores", "LoKr", "LoKr convolution", "Tucker", "whole", "DoRA"],
)
def test_every_kind_becomes_a_plain_lora(address, make):
    base = torch.randn(SHAPES[address])
    adapter = Adapter({address: make(SHAPES[address])})
    whole = delta(adapter, address, base)
    result, report = resize(adapter, SHAPES, min(whole.flatten(1).shape), base=lambda _: base)
    assert isinstance(result.updates[address], LowRank) and result.updates[address].mid is None
    assert_close(delta(result, address), whole, 2e-6)
    assert report.error < 1e-5
    smaller, report = resize(adapter, SHAPES, 2, base=lambda _: base)
    assert report.error == pytest.approx(error_of(delta(smaller, address), whole), rel=1e-4)
    values = torch.linalg.svdvals(whole.flatten(1))
    assert report.error == pytest.approx(float(values[2:].norm() / values.norm()), rel=1e-4)


def test_a_kronecker_product_gets_the_ranks_it_really_has():
    """kron of rank 4 and rank 2: 8 singular values, the others are rounding errors."""
    adapter = Adapter({LINEAR: Kronecker(torch.randn(4, 4), None, 3.0, w2_a=torch.randn(6, 2), w2_b=torch.randn(2, 4))})
    result, _ = resize(adapter, SHAPES, 16)
    assert result.updates[LINEAR].rank == 8


def test_resizing_keeps_biases_and_what_metadata_still_say():
    metadata = {"ss_tag_frequency": "{}", "ss_network_dim": "8", "ss_network_dropout": "0.1", "sshs_model_hash": "ab"}
    metadata["lora_adapter_metadata"] = json.dumps({"unet.r": 8})
    adapter = Adapter({address: low_rank(shape, 8) for address, shape in SHAPES.items()}, {POINT: torch.randn(20)}, metadata)
    result, _ = resize(adapter, SHAPES, 4)
    assert torch.equal(result.biases[POINT], adapter.biases[POINT])
    network = {"ss_network_module": "networks.lora", "ss_network_dim": "4", "ss_network_alpha": "2.0"}
    assert result.metadata == {"ss_tag_frequency": "{}", **network}
    adapter.updates[LINEAR] = low_rank(SHAPES[LINEAR], 2)
    result, _ = resize(adapter, SHAPES, 4)
    assert (result.metadata["ss_network_dim"], result.metadata["ss_network_alpha"]) == ("Dynamic", "Dynamic")


def test_changes_of_vectors_stay_as_they_are():
    norm = ("unet", "norm1")
    adapter = Adapter({norm: Full(torch.randn(8)), LINEAR: low_rank(SHAPES[LINEAR], 4)})
    for result, _ in (resize(adapter, SHAPES | {norm: (8,)}, 2), merge([(adapter, 1.0)], SHAPES | {norm: (8,)}, rank=2)):
        assert torch.equal(result.updates[norm].difference, adapter.updates[norm].difference)


def test_resizes_that_cannot_be_say_what_to_do():
    adapter = Adapter({LINEAR: low_rank(SHAPES[LINEAR], 4)})
    zeros = Adapter({LINEAR: LowRank(torch.randn(4, 16), torch.zeros(24, 4), 4.0)})
    for message, call in {
        "give a rank, or the share": lambda: resize(adapter, SHAPES, None),
        "rank must be 1 or more": lambda: resize(adapter, SHAPES, 0),
        "above 0 and at most 1": lambda: resize(adapter, SHAPES, None, keep=1.5),
        "Alpha must be above 0": lambda: resize(adapter, SHAPES, 4, alpha=0.0),
        "changes nothing": lambda: resize(zeros, SHAPES, 4),
        "is a DoRA": lambda: resize(Adapter({LINEAR: dora(SHAPES[LINEAR], 2)}), SHAPES, 4),
    }.items():
        with pytest.raises(UserError, match=message) as raised:
            call()
        assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


# Differences


def models(planted=3):
    base = {address: torch.randn(shape) for address, shape in SHAPES.items()}
    updates = {address: low_rank(shape, planted) for address, shape in SHAPES.items()}
    return base, {address: weight + updates[address].delta(weight) for address, weight in base.items()}


def test_a_planted_difference_is_found_again():
    base, tuned = models()
    asked = []

    def lazily(weights_by_address):
        return {address: lambda address=address: asked.append(address) or weights_by_address[address] for address in weights_by_address}

    told = []
    result, report = extract(lazily(base), lazily(tuned), 4, conv_rank=4, tell=lambda done, total: told.append((done, total)))
    assert asked == [address for address in SHAPES for _ in range(2)], "each layer once of each model, one layer at a time"
    assert told == [(1, 3), (2, 3), (3, 3)]
    for address in SHAPES:
        assert_close(delta(result, address), tuned[address] - base[address], 1e-4)
        assert result.updates[address].alpha == result.updates[address].rank == report.modules[0].new_rank
    assert report.error < 1e-4 and report.kept == pytest.approx(1)


def test_a_planted_difference_is_found_in_a_large_layer_the_same_each_time():
    large = ("unet", "ff")
    base = torch.randn(700, 600)
    planted = torch.randn(700, 5) @ torch.randn(5, 600)
    assert min(base.shape) > algebra.EXACT_SIDE, "or it isn't the randomised way that is looked at"
    runs = []
    for seed in range(2):
        state = torch.manual_seed(seed).get_state()
        runs.append(extract({large: base}, {large: base + planted}, 8))
        assert torch.equal(torch.random.get_rng_state(), state), "nobody else's random numbers are touched"
    results = [result.updates[large] for result, _ in runs]
    assert_close(results[0].delta(base), planted, 1e-4)
    assert runs[0][1].error < 1e-4
    assert torch.equal(results[0].up, results[1].up) and torch.equal(results[0].down, results[1].down)


@pytest.mark.parametrize("shape", [(90, 120), (700, 600)], ids=["exact", "randomised"])
@pytest.mark.parametrize("keep", [None, 0.1])
def test_an_extract_of_noise_tells_the_truth(shape, keep):
    """Noise is the worst case: it has no few directions that matter."""
    address = ("unet", "ff")
    base, tuned = torch.randn(shape), torch.randn(shape)
    result, report = extract({address: base}, {address: tuned}, 32, keep=keep)
    true = error_of(result.updates[address].delta(base), tuned - base)
    assert report.error == pytest.approx(true, rel=1e-4) and report.kept == pytest.approx(1 - true**2, rel=1e-4)
    squares = torch.linalg.svdvals(tuned - base).square()
    best = float(squares[: report.modules[0].new_rank].sum() / squares.sum())
    assert 0.95 * best <= report.kept <= best * 1.0001
    if keep:
        assert report.modules[0].new_rank == 32 or report.kept >= keep


def test_layers_that_are_the_same_are_left_out_and_large_convolutions_need_a_rank_of_their_own():
    base, tuned = models()
    tuned[POINT] = base[POINT].clone()
    result, report = extract(base, tuned, 4)
    assert list(result.updates) == [LINEAR] and report.unchanged == (POINT,)
    assert report.parameters_before == 24 * 16 and report.bytes_before == 4 * 24 * 16
    assert any("the same in both models" in line for line in report.lines())
    result, _ = extract(base, tuned, 4, conv_rank=2)
    assert {address: update.rank for address, update in result.updates.items()} == {LINEAR: 3, CONVOLUTION: 2}


def test_extracts_that_cannot_be_say_what_to_do():
    base, tuned = models()
    for message, call in {
        "don't differ": lambda: extract(base, dict(base), 4),
        r"has the shape \(24, 16\) in one model and \(24, 32\)": lambda: extract(base, tuned | {LINEAR: torch.randn(24, 32)}, 4),
        "differ in 1 layers, such as 'unet.conv1'": lambda: extract(
            base, {address: tuned[address] for address in tuned if address != CONVOLUTION}, 4
        ),
        "not finite": lambda: extract(base, tuned | {LINEAR: torch.full((24, 16), math.inf)}, 4),
        "rank must be": lambda: extract(base, tuned, 4, conv_rank=0),
    }.items():
        with pytest.raises(UserError, match=message) as raised:
            call()
        assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


# Models with a LoRA inside


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_weight_takes_an_update_in(dtype):
    weight, update = torch.randn(SHAPES[CONVOLUTION]).to(dtype), low_rank(SHAPES[CONVOLUTION], 2)
    result = merged(weight, update, -0.4)
    assert result.dtype == dtype
    assert torch.equal(result, (weight.float() - 0.4 * update.delta(weight)).to(dtype))
    bias = torch.randn(12).to(dtype)
    assert torch.equal(merged(bias, Full(torch.ones(12)), 0.5), (bias.float() + 0.5).to(dtype))


@pytest.mark.parametrize("value", [1e6, math.nan])
def test_a_sum_that_is_no_number_is_refused(value):
    with pytest.raises(UserError, match="not a finite number of the format float16"):
        merged(torch.zeros(2, 2, dtype=torch.float16), Full(torch.full((2, 2), value)), 1.0)


# Reports


def test_a_report_is_a_few_lines_for_people():
    modules = tuple(ModuleReport(("unet", f"m{number}"), 8, number, 100.0, 10.0 * number) for number in range(1, 6))
    lines = Report(modules, 1000, 500, 4_000_000, 2_000_000).lines()
    assert lines == [
        "Modules: 5, rank 8 before, ranks 1 to 5 after",
        "Kept: 70.00% of the change's energy, relative error 0.548",
        "Parameters: 1,000 before, 500 after",
        "Size: 4.0 MB before, 2.0 MB after",
        "Lost most: unet.m5, rank 5, kept 50.0%, relative error 0.707",
        "Lost most: unet.m4, rank 4, kept 60.0%, relative error 0.632",
        "Lost most: unet.m3, rank 3, kept 70.0%, relative error 0.548",
    ]


def test_a_report_of_whole_matrices_says_so():
    modules = tuple(ModuleReport(LINEAR, old, new, 1.0, 0.0) for old, new in ((None, 4), (2, None), (None, 0)))
    assert Report(modules, 1, 1, 1, 1).lines()[0] == "Modules: 3, rank 2 and whole matrices before, ranks 0 to 4 and whole matrices after"
    assert Report((), 0, 0, 0, 0).kept == 1


# Files written tensor by tensor


def raw(tensor):
    return tensor.contiguous().view(torch.uint8).numpy() if tensor.ndim else tensor.reshape(1).view(torch.uint8).numpy()


FORMATS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.uint8: "U8", torch.float64: "F64"}


def test_a_file_written_tensor_by_tensor_reads_as_any_other(tmp_path):
    tensors = {
        "bytes": torch.arange(3, dtype=torch.uint8),
        "half": torch.randn(3, 5).half(),
        "brain": torch.randn(7, 1, 3, 3).bfloat16(),
        "positions": torch.arange(77).reshape(1, 77),
        "single": torch.randn(2, 3),
        "nothing": torch.empty(0, 4),
        "alpha": torch.tensor(4.0),
        "имя 名": torch.randn(1).double(),
    }
    file, asked = tmp_path / "new" / "model.safetensors", []

    def produce(name):
        asked.append(name)
        return raw(tensors[name]) if len(asked) % 2 else raw(tensors[name]).tobytes()

    entries = {name: (FORMATS[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}
    weights.write_stream(file, entries, produce, {"format": "pt", "title": "čoja"})
    assert asked == ["positions", "имя 名", "single", "alpha", "half", "brain", "bytes"], "nothing is asked for what holds nothing"
    with safe_open(file, "pt") as content:
        assert content.metadata() == {"format": "pt", "title": "čoja"}
        assert set(content.keys()) == set(tensors)
        for name, tensor in tensors.items():
            assert content.get_tensor(name).dtype == tensor.dtype and torch.equal(content.get_tensor(name), tensor)
    header = weights.header(file)
    offsets = [header[name]["data_offsets"] for name in asked]
    assert offsets[0][0] == 0 and all(before[1] == after[0] for before, after in itertools.pairwise(offsets))
    assert int.from_bytes(file.read_bytes()[:8], "little") % 8 == 0
    assert all(torch.equal(found, tensors[name]) for name, found in load_file(file).items())


def test_numpy_arrays_can_be_written_and_metadata_left_out(tmp_path):
    array = np.arange(12, dtype=np.float16).reshape(3, 4)
    weights.write_stream(tmp_path / "a.safetensors", {"a": ("F16", (3, 4))}, lambda name: array)
    assert np.array_equal(load_file(tmp_path / "a.safetensors")["a"].numpy(), array)
    assert "__metadata__" not in weights.header(tmp_path / "a.safetensors")


def test_a_failed_writing_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"old")
    entries = {"a": ("F32", (4,)), "b": ("F32", (4,))}
    with pytest.raises(ValueError, match="'b' has 8 bytes instead of the 16"):
        weights.write_stream(file, entries, lambda name: bytes(16 if name == "a" else 8))
    monkeypatch.setattr(weights, "free_bytes", lambda path: 100)
    with pytest.raises(UserError, match="too full"):
        weights.write_stream(file, entries | {"c": ("F32", (100,))}, lambda name: bytes(16))
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for the memory that was used at most")
def test_a_large_file_is_written_in_little_memory(tmp_path):
    """In a process of its own; VmHWM, the most that this very process has had (ru_maxrss counts its parent's too)."""
    file = tmp_path / "large.safetensors"
    code = """
import sys
from pathlib import Path
import numpy as np
from nosnja_gui.weights import write_stream

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

def produce(name):
    return np.full(5_000_000, int(name), np.float16)

before = peak()
write_stream(Path(sys.argv[1]), {str(number): ("F16", (5, 1_000_000)) for number in range(40)}, produce)
print(peak() - before)
"""
    home = Path(__file__).parent.parent
    answer = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True, cwd=home)
    with safe_open(file, "pt") as content:
        assert all(content.get_slice(str(number))[3:4, :5].tolist() == [[number] * 5] for number in (0, 17, 39))
    assert file.stat().st_size > 400e6
    file.unlink()
    assert int(answer.stdout) < 100e6
