"""LoRA's kin: each trains, is read back as it was trained, goes on, is counted from shapes alone and leaves no trace when it is off."""

import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nosnja_gui.adapters import Adapter, Butterfly, Decomposed, Hadamard, Kronecker, LowRank, Rotation, targets
from nosnja_gui.adapters.inspection import inspect
from nosnja_gui.adapters.reading import read
from nosnja_gui.adapters.writing import encode
from nosnja_gui.engine import roundtrip
from nosnja_gui.engine import train as engine
from nosnja_gui.engine.models import load_model
from nosnja_gui.engine.sampler import ImageRequest, sample
from nosnja_gui.engine.train import train
from nosnja_gui.families import FAMILIES
from nosnja_gui.families.demand import Demand, of_layers
from nosnja_gui.methods import Recipe, method_of
from nosnja_gui.methods.lora import ENTRY as LORA
from nosnja_gui.methods.lora import LoraSettings
from nosnja_gui.models import demand_of
from nosnja_gui.plan import plan_training
from nosnja_gui.settings import UserError
from nosnja_gui.sources import Standard
from tests.small_training import job, make_workspace, run_of
from tests.test_resume import digest, stop_after
from tests.tiny import tiny_model, tiny_sd
from tests.tiny_sd35 import tiny_sd35

torch.set_num_threads(1)
CPU = torch.device("cpu")
REQUEST = ImageRequest("a girl in a coat", seed=3, sampler="euler", steps=2, width=64, height=64)
ALGORITHMS = {
    "LoRA": {"targets": "attention_ff", "rank_stabilised": True, "plus_ratio": 4.0, "text_encoder_rank": 1},
    "LoCon": {"targets": "everything", "conv_rank": 1, "conv_alpha": 0.5, "block_ranks": "mid: 3, up.*: 4, text.1: 0"},
    "DoRA": {"dora": True, "targets": "everything"},
    "LoHa": {"algorithm": "loha", "targets": "everything", "block_ranks": "mid: 3", "rank_dropout": 0.1, "module_dropout": 0.1},
    "LoHa with cores": {"algorithm": "loha", "targets": "everything", "tucker": True},
    "LoKr": {"algorithm": "lokr", "targets": "everything", "factor": 4, "rank_dropout": 0.1},
    "LoKr of whole factors": {"algorithm": "lokr", "targets": "everything", "factor": 4, "full_matrix": True},
    "LoKr with cores": {"algorithm": "lokr", "targets": "everything", "factor": 16, "tucker": True, "decompose_both": True},
    "OFT": {"algorithm": "oft", "targets": "everything", "block_size": 8, "constraint": 0.01},
    "BOFT": {"algorithm": "boft", "targets": "everything", "block_size": 8, "rescale": True, "butterfly_stages": 2},
}
UPDATES = {"LoRA": LowRank, "LoCon": LowRank, "DoRA": Decomposed, "LoHa": Hadamard, "LoKr": Kronecker, "OFT": Rotation, "BOFT": Butterfly}


def settings_of(name: str, **more) -> LoraSettings:
    return LoraSettings(**{"rank": 2, "alpha": 1.0, **ALGORITHMS[name], **more})


def recipe_of(settings: LoraSettings, train_text_encoder: bool = True) -> Recipe:
    return Recipe({"lora": settings}, train_text_encoder=train_text_encoder)


def attach(family, parts, settings, seed=1):
    torch.manual_seed(seed)
    return LORA.attach(family, parts, recipe_of(settings))


def move(trainables, by=0.05):
    """Stand-in for a training: every trainable weight moves."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for trainable in trainables:
            for parameter in trainable.parameters:
                parameter += by * torch.randn(parameter.shape, generator=generator)
            if trainable.after_update:
                trainable.after_update()
    return trainables


def at_rest(parts):
    for module in (parts.denoiser, *parts.text_encoders):
        module.eval()


def difference(one, other):
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def pixels(images):
    return [image.tobytes() for image in images]


# ---------------------------------------------------------------- through the whole loop


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("kin"))


@pytest.mark.parametrize("name", UPDATES)
def test_two_steps_are_read_back_painted_and_resumed_with_the_same_bits(workspace, monkeypatch, name):
    changes = {f"lora__{key}": value for key, value in settings_of(name).model_dump(mode="json").items()}
    changes |= {"training__max_steps": 2, "training__epochs": 1, "optimizer__text_encoder_learning_rate": 5e-3}
    painted = []
    original = engine.read_back

    def paint_first(training, *more):
        at_rest(training.parts)
        painted.extend(sample(training.family, training.parts, [REQUEST]))
        return original(training, *more)

    monkeypatch.setattr(engine, "read_back", paint_first)
    run = run_of(workspace, f"{name}-whole", job(**changes))
    whole = train(run.job(), run, workspace)
    family, parts = load_model(workspace.models / "tiny", CPU, torch.float32)
    before = pixels(sample(family, parts, [REQUEST]))
    assert method_of(whole) is LORA
    LORA.apply(family, parts, whole, "x")
    after = sample(family, parts, [REQUEST])
    # A weight that was changed and a change that is worked out beside it are rounded differently: one shade of 255 at most.
    spread = torch.tensor(list(painted[0].tobytes())).sub(torch.tensor(list(after[0].tobytes()))).abs().max()
    assert int(spread) <= 1
    if name != "OFT":  # held so tightly that two steps are not seen
        assert pixels(after) != before

    parted = run_of(workspace, f"{name}-parts", job(**changes))
    with monkeypatch.context() as patch:
        stop_after(parted, 1, patch)
        train(parted.job(), parted, workspace)
    assert parted.status().state == "stopped"
    assert digest(train(parted.job(), parted, workspace)) == digest(whole)


def test_a_training_goes_on_from_its_own_kind_and_says_when_it_cannot(workspace):
    def trained(name, **changes):
        settings = {f"lora__{key}": value for key, value in changes.items()}
        run = run_of(workspace, name, job(training__max_steps=1, optimizer__learning_rate=1e-9, **settings))
        return train(run.job(), run, workspace)

    file = trained("loha", algorithm="loha", rank=2)
    again = load_file(trained("loha-on", algorithm="loha", rank=2, start_from=str(file)))
    assert all(torch.allclose(tensor, again[key], atol=1e-6) for key, tensor in load_file(file).items())
    with pytest.raises(UserError, match="LoHa of other shapes than the LoHa that is trained"):
        trained("loha-other", algorithm="loha", rank=3, start_from=str(file))
    with pytest.raises(UserError, match="LoHa of other shapes than the LoKr"):
        trained("lokr-other", algorithm="lokr", start_from=str(file))


# ---------------------------------------------------------------- on every family


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    folders = {kind: tiny_model(folder / kind, kind) for kind in ("sd2", "sdxl")} | {"sd35": tiny_sd35(folder / "sd35", t5=False)}
    return {kind: (found, load_model(found, CPU, torch.float32), load_model(found, CPU, torch.float32)) for kind, found in folders.items()}


@pytest.mark.parametrize("name", ["LoCon", "DoRA", "LoHa", "LoKr", "OFT", "BOFT"])
@pytest.mark.parametrize("kind", ["sd2", "sdxl", "sd35"])
def test_every_family_is_trained_saved_read_back_and_left_as_it_was(families, tmp_path, kind, name):
    folder, (family, parts), (_, fresh) = families[kind]
    settings = settings_of(
        name, **({"block_ranks": "block.0: 3"} if kind == "sd35" else {}), **({"block_size": 2} if "O" in name[:2] else {})
    )
    base = probe(family, parts)
    trainables = attach(family, parts, settings)
    try:
        assert difference(base, probe(family, parts)) < 1e-5  # a DoRA's lengths are rounded
        numbers = sum(parameter.numel() for trainable in trainables for parameter in trainable.parameters)
        assert numbers == LORA.trained_numbers(recipe_of(settings), demand_of(folder)) > 0
        move(trainables)
        at_rest(parts)
        trained = probe(family, parts)
        assert difference(base, trained) > 1e-4
        assert {type(update) for update in LORA.trained(family, parts).updates.values()} == {UPDATES[name]}
        LORA.save(family, parts, tmp_path / "x.safetensors", {}, precision="float32")
        LORA.set_weights(family, parts, {})
        assert difference(base, probe(family, parts)) == 0.0
    finally:
        LORA.remove(family, parts, "trained")
    assert difference(base, probe(family, parts)) == 0.0
    LORA.apply(family, fresh, tmp_path / "x.safetensors", "x")
    assert difference(trained, probe(family, fresh)) < 2e-4 * max(1.0, difference(base, trained))
    LORA.remove(family, fresh, "x")
    assert difference(base, probe(family, fresh)) == 0.0


def probe(family, parts):
    return roundtrip.forward(family, parts)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("name", ["LoCon", "LoKr"])
def test_the_parameters_of_the_full_size_models_are_known_from_their_shapes(family, name):
    entry, settings = FAMILIES[family], settings_of(name, block_ranks="down.1: 7, mid: 3")
    parts = entry.skeleton(Standard(entry.standard))
    layers = {
        part: of_layers({key: ("F32", tuple(tensor.shape)) for key, tensor in module.state_dict().items()}, suffixes)
        for part, (module, suffixes) in entry.trainable_modules(parts).items()
    }
    expected = LORA.trained_numbers(recipe_of(settings), Demand(None, None, None, layers))
    trainables = LORA.attach(entry, parts, recipe_of(settings))
    assert expected == sum(parameter.numel() for trainable in trainables for parameter in trainable.parameters)
    plain = LORA.trained_numbers(recipe_of(LoraSettings(rank=16), train_text_encoder=False), Demand(None, None, None, layers))
    # sd-scripts' and diffusers' files of rank 16 on the attentions alone: 128 and 560 projections.
    assert plain == 16 * {"sd1": 199_296, "sdxl": 1_451_520}[family]


# ---------------------------------------------------------------- one model, many questions


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_sd(tmp_path_factory.mktemp("models") / "tiny")


def loaded(model, dtype=torch.float32):
    return load_model(model, CPU, dtype)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_parameters_are_float32_on_a_bfloat16_model_and_all_of_them_learn(model, name):
    family, parts = loaded(model, torch.bfloat16)
    base = probe(family, parts)
    trainables = attach(family, parts, settings_of(name, rank_dropout=0.0, module_dropout=0.0))
    assert difference(base, probe(family, parts)) < 0.02 * max(float(values.abs().max()) for values in base)
    optimizer = torch.optim.AdamW([parameter for trainable in trainables for parameter in trainable.parameters], lr=1e-3)
    for _ in range(2):  # what starts behind a zero gets its gradient in the second step
        text = family.encode_prompts(parts, ["a girl in a red dress"])
        predicted = family.predict(parts, torch.randn(1, 4, 8, 8), torch.tensor([3]), text)
        predicted.float().square().mean().backward()
        gradients = [parameter.grad for trainable in trainables for parameter in trainable.parameters]
        optimizer.step()
    assert {parameter.dtype for trainable in trainables for parameter in trainable.parameters} == {torch.float32}
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    assert sum(bool(gradient.any()) for gradient in gradients) > 0.9 * len(gradients)
    assert parts.denoiser.config is not None and {p.dtype for p in parts.denoiser.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_the_choices_of_layers_are_those_of_kohyas_trainer(model):
    family, parts = loaded(model)
    shapes = next(found for found in family.names(parts) if found.part == "unet").shapes
    layers = targets.PartLayers(shapes, ("to_q", "to_k", "to_v", "to_out.0"))
    chosen = {name: set(layers.chosen(name)) for name in ("attention", "attention_ff", "everything")}
    assert chosen["attention"] < chosen["attention_ff"] < chosen["everything"] < set(layers.candidates)
    inside = {
        f"{path}.{name}"
        for path, module in parts.denoiser.named_modules()
        if type(module).__name__ in ("Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D")
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
    }
    transformers = {name for name in inside if ".attentions." in name}
    assert (chosen["attention_ff"], chosen["everything"]) == (transformers, inside)
    assert {"conv_in", "conv_out", "time_embedding.linear_1"} <= set(layers.candidates) - chosen["everything"]
    assert set(layers.chosen("everything", "attn2.*to_v")) == {name for name in shapes if name.endswith("attn2.to_v")}


def test_ranks_by_block_hold_at_the_same_strength(model, tmp_path):
    settings = LoraSettings(rank=8, alpha=4, targets="everything", block_ranks="up.*: 2, down.0.0: 0, mid: 16", conv_rank=4, conv_alpha=1)
    family, parts = loaded(model)
    move(attach(family, parts, settings))
    updates = LORA.trained(family, parts).updates
    found = {}
    for (part, name), update in updates.items():
        found.setdefault((part, targets.block_of(name).partition(".")[0], update.down.ndim == 4 and update.down.shape[2] > 1), set()).add(
            (update.rank, update.alpha / update.rank)
        )
    assert found[("unet", "up", False)] == {(2, 0.5)} and found[("unet", "up", True)] == {(2, 0.25)}
    assert found[("unet", "mid", False)] == {(16, 0.5)} and found[("unet", "mid", True)] == {(16, 0.25)}
    assert found[("unet", "down", True)] == {(4, 0.25)} and found[("text_encoder", "text", False)] == {(8, 0.5)}
    assert not any(targets.block_of(name) == "down.0.0" for _, name in updates)
    assert targets.rank_in({"*": 1, "down.1": 2, "down.1.2": 3}, "down_blocks.1.downsamplers.0.conv") == 3
    assert targets.rank_in({"down.*": 5}, "transformer_blocks.7.attn.to_q") is None
    assert targets.rank_in({"block.1": 5}, "transformer_blocks.11.attn.to_q") is None


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("block_ranks", "mid", "must be like"),
        ("block_ranks", "left.1: 3", "must be like"),
        ("block_ranks", "mid: 2000", "must be like"),
        ("pattern", "to_(", "must be a regular expression"),
        ("factor", 0, "must be -1 or at least 1"),
    ],
)
def test_what_cannot_be_read_is_refused_at_its_field(setting, value, says):
    with pytest.raises(UserError, match=rf"lora\.{setting}.*{says}") as caught:
        job(**{f"lora__{setting}": value})
    assert "\n" not in str(caught.value)


def test_what_fits_no_layer_is_refused_before_the_training(workspace):
    def problems(**changes):
        return plan_training(job(**changes), workspace).problems

    assert not any(name.startswith("lora") for name in problems(lora__pattern="attn2", lora__block_ranks="down.0: 2"))
    assert "found in no layer's name" in problems(lora__pattern="attn7")["lora.pattern"]
    assert "there are down.0.0, mid" in problems(lora__block_ranks="down.4: 2")["lora.block_ranks"]
    assert "leaves out every block" in problems(lora__block_ranks="*: 0")["lora.block_ranks"]
    assert "cannot hold a LoHa" in problems(lora__algorithm="loha", saving__layout="diffusers")["saving.layout"]
    assert "saving.layout" not in problems(lora__dora=True, saving__layout="diffusers")


def test_rank_stabilised_files_say_the_alpha_that_gives_its_scale(model, tmp_path):
    """Kalajdzievski 2023, Eq. 5: alpha / sqrt(rank); every reader divides by the rank."""
    settings = LoraSettings(rank=16, alpha=4, rank_stabilised=True)
    assert settings.scale == 1.0
    family, parts = loaded(model)
    move(attach(family, parts, settings))
    layer = next(layer for layer in parts.denoiser.modules() if hasattr(layer, "lora_A"))
    assert layer.scaling["trained"] == 1.0
    LORA.save(family, parts, tmp_path / "a.safetensors", {})
    assert {float(tensor) for key, tensor in load_file(tmp_path / "a.safetensors").items() if key.endswith(".alpha")} == {16.0}


def test_the_up_matrices_learn_faster_with_lora_plus(model):
    family, parts = loaded(model)
    trainables = attach(family, parts, LoraSettings(rank=2, plus_ratio=16, dora=True))
    assert [(trainable.part, trainable.rate_factor) for trainable in trainables] == [
        ("unet", 1.0), ("unet", 16), ("text_encoder", 1.0), ("text_encoder", 16)
    ]  # fmt: skip
    assert all(name.endswith("lora_up.weight") for trainable in trainables[1::2] for name in trainable.names)
    assert {name.rpartition(".")[2] for name in trainables[0].names} == {"weight", "dora_scale"}
    names = [name for trainable in trainables for name in trainable.names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_updates_are_held_below_a_norm_and_small_ones_stay_as_they_are(model, name):
    family, parts = loaded(model)
    move(attach(family, parts, settings_of(name, max_norm=0.05, constraint=0.0)), by=0.3)
    modules = {part: module for part, (module, _) in family.trainable_modules(parts).items()}

    def norm(address, update):
        if isinstance(update, Rotation):
            return float(update.blocks.norm())
        inner = update.inner if isinstance(update, Decomposed) else update
        return float(inner.delta(modules[address[0]].get_submodule(address[1]).get_base_layer().weight).norm())

    norms = [norm(address, update) for address, update in LORA.trained(family, parts).updates.items()]
    assert 0.04 < max(norms) < 0.0501
    family, loose = loaded(model)
    trainables = move(attach(family, loose, settings_of(name, max_norm=1000.0, constraint=0.0)))
    before = [parameter.clone() for trainable in trainables for parameter in trainable.parameters]
    for trainable in trainables:
        if trainable.after_update:
            trainable.after_update()
    assert all(torch.equal(a, b) for a, b in zip(before, (p for t in trainables for p in t.parameters), strict=True))


def test_an_applied_lora_works_beside_every_kind_that_is_trained(model, tmp_path):
    family, parts = loaded(model)
    move(attach(family, parts, LoraSettings(rank=2, alpha=2)))
    LORA.save(family, parts, tmp_path / "plain.safetensors", {}, precision="float32")
    family, alone = loaded(model)
    base = probe(family, alone)
    LORA.apply(family, alone, tmp_path / "plain.safetensors", "plain")
    expected = probe(family, alone)
    for name in ("DoRA", "LoHa", "LoKr", "OFT"):
        family, parts = loaded(model)
        attach(family, parts, settings_of(name))
        at_rest(parts)
        LORA.apply(family, parts, tmp_path / "plain.safetensors", "plain")
        LORA.set_weights(family, parts, {"plain": 1.0})
        assert difference(base, expected) > 0 and difference(expected, probe(family, parts)) < 1e-4, name
        LORA.set_weights(family, parts, {})
        assert difference(base, probe(family, parts)) == 0.0
        LORA.remove(family, parts, "plain")
        LORA.set_weights(family, parts, {"trained": 1.0})
        assert difference(base, probe(family, parts)) < 1e-5
    with pytest.raises(UserError, match="A LoHa cannot be trained beside plain: take the applied LoRAs off first"):
        attach(family, alone, settings_of("LoHa"))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_fresh_training_begins_where_a_file_left_off(model, tmp_path, name):
    family, parts = loaded(model)
    move(attach(family, parts, settings_of(name)))
    at_rest(parts)
    expected = probe(family, parts)
    LORA.save(family, parts, tmp_path / "x.safetensors", {}, precision="float32")
    family, fresh = loaded(model)
    attach(family, fresh, settings_of(name, alpha=3.0), seed=2)
    LORA.start_from(family, fresh, read(tmp_path / "x.safetensors", family.names(fresh), "x"))
    at_rest(fresh)
    assert difference(expected, probe(family, fresh)) < 1e-4


def test_a_dora_begins_with_a_lora_and_a_lower_rank_with_the_best_of_a_higher_one(model):
    family, parts = loaded(model)
    move(attach(family, parts, LoraSettings(rank=2, alpha=2)), by=0.2)
    plain, expected = LORA.trained(family, parts), probe(family, parts)
    family, fresh = loaded(model)
    attach(family, fresh, LoraSettings(rank=3, alpha=1, dora=True), seed=2)
    LORA.start_from(family, fresh, plain)
    assert difference(expected, probe(family, fresh)) < 1e-4
    family, lower = loaded(model)
    attach(family, lower, LoraSettings(rank=1, alpha=1), seed=2)
    LORA.start_from(family, lower, plain)
    for address, update in LORA.trained(family, lower).updates.items():
        whole = plain.updates[address]
        weight = torch.empty(whole.up.shape[0], whole.down.shape[1])
        left, values, right = torch.linalg.svd(whole.delta(weight))
        best = values[0] * left[:, :1] @ right[:1]
        assert torch.allclose(update.delta(weight), best, atol=1e-4)
    with pytest.raises(UserError, match="changes no layer that is trained here"):
        LORA.start_from(family, lower, Adapter({("unet", "conv_in"): LowRank(torch.ones(1, 4, 3, 3), torch.ones(16, 1, 1, 1), 1.0)}))


# ---------------------------------------------------------------- rotations, by their formulas


def cayley(block):
    """R = (1 + Q)(1 - Q)^-1 with Q = B - B^T (LyCORIS modules/diag_oft.py, get_r), of one block."""
    skew = block.double() - block.double().T
    one = torch.eye(len(block), dtype=torch.float64)
    return (one + skew) @ torch.linalg.inv(one - skew)


def test_an_oft_turns_the_outputs_as_lycoris_has_it():
    """LyCORIS modules/diag_oft.py, make_weight: einsum("k n m, k n ... -> k m ...", r, weight), so each block is transposed."""
    generator = torch.Generator().manual_seed(1)
    blocks, weight = 0.3 * torch.randn(3, 4, 4, generator=generator), torch.randn(12, 5, 3, 3, generator=generator)
    whole = torch.block_diag(*(cayley(block).T for block in blocks))
    expected = (whole @ weight.double().flatten(1)).reshape(weight.shape)
    assert torch.allclose(Rotation(blocks).delta(weight).double(), expected - weight.double(), atol=1e-5)
    assert torch.allclose(whole @ whole.T, torch.eye(12, dtype=torch.float64), atol=1e-12)
    lengths = torch.rand(12, 1, 1, 1, generator=generator)
    assert torch.allclose(Rotation(blocks, 0.0, lengths).delta(weight).double(), lengths * expected - weight.double(), atol=1e-5)
    # The limit of |Q| is the constraint times the outputs, as in LyCORIS and sd-scripts (networks/oft.py).
    length = float((blocks - blocks.mT).norm())
    shrunk = blocks * (0.01 * 12 / length)
    assert length > 0.01 * 12
    assert torch.allclose(Rotation(blocks, 0.01).delta(weight), Rotation(shrunk).delta(weight), atol=1e-6)


def test_a_boft_connects_ever_further_groups_as_lycoris_has_it():
    """LyCORIS modules/boft.py: stage i takes outputs (c, 2, k) in the order (c, k, 2), with k = 2^i * size / 2, in groups of `size`."""
    generator = torch.Generator().manual_seed(2)
    stages, groups, size = targets.butterfly(24, 6)
    assert (stages, groups, size) == (3, 4, 6)
    blocks, weight = 0.3 * torch.randn(stages, groups, size, size, generator=generator), torch.randn(24, 7, generator=generator)
    expected = weight.double()
    for stage in range(stages):
        apart = 2**stage * size // 2
        order = [c * 2 * apart + g * apart + k for c in range(24 // (2 * apart)) for k in range(apart) for g in range(2)]
        shuffle = torch.eye(24, dtype=torch.float64)[order]
        expected = shuffle.T @ torch.block_diag(*(cayley(block) for block in blocks[stage])) @ shuffle @ expected
    lengths = torch.rand(24, 1, generator=generator)
    assert torch.allclose(Butterfly(blocks, rescale=lengths).delta(weight).double(), lengths * expected - weight.double(), atol=1e-5)


@pytest.mark.parametrize(
    ("outputs", "size", "expected"), [(320, 32, (5, 16, 20)), (1280, 32, (7, 64, 20)), (768, 8, (8, 128, 6)), (4, 8, (1, 1, 4))]
)
def test_butterflies_have_even_groups_and_a_power_of_two_of_them(outputs, size, expected):
    """As many stages as LyCORIS has for them (modules/boft.py: the ones in the binary number of groups - 1, and one more)."""
    stages, groups, found = targets.butterfly(outputs, size)
    assert (stages, groups, found) == expected and groups * found == outputs
    assert stages == f"{groups - 1:b}".count("1") + 1


def test_a_lycoris_file_of_rotations_is_read_named_and_refused_where_it_does_not_fit(model, tmp_path):
    family, parts = loaded(model)
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"  # 16 outputs
    tensors = {f"{stem}.oft_blocks": 0.2 * torch.randn(4, 4, 4), f"{stem}.alpha": torch.tensor(0.001), f"{stem}.rescale": torch.ones(16, 1)}
    save_file(tensors, tmp_path / "oft.safetensors")
    (update,) = read(tmp_path / "oft.safetensors", family.names(parts), "x").updates.values()
    assert isinstance(update, Rotation) and update.constraint == pytest.approx(0.001)
    looked = inspect(tmp_path / "oft.safetensors")
    assert (looked.kinds, looked.problems, looked.ranks, looked.alphas) == (("OFT",), (), (), ())
    save_file({f"{stem}.oft_blocks": torch.zeros(2, 4, 4, 4)}, tmp_path / "boft.safetensors")
    assert inspect(tmp_path / "boft.safetensors").kinds == ("BOFT",)
    for blocks, says in ((torch.zeros(3, 4, 4), "12 outputs, but the model has 16"), (torch.zeros(4, 4, 3), "damaged")):
        save_file({f"{stem}.oft_blocks": blocks}, tmp_path / "bad.safetensors")
        with pytest.raises(UserError, match=says):
            read(tmp_path / "bad.safetensors", family.names(parts), "x")
    with pytest.raises(UserError, match=r"The diffusers layout cannot carry an? OFT"):
        encode(Adapter({("unet", "conv_in"): Rotation(torch.zeros(4, 4, 4))}), family.names(parts), "diffusers")


# ---------------------------------------------------------------- what files say


@pytest.mark.parametrize(
    ("name", "module", "arguments"),
    [
        ("LoRA", "lycoris.kohya", {"algo": "lora", "rs_lora": "True", "loraplus_lr_ratio": "4.0"}),
        ("LoCon", "networks.lora", {"conv_dim": "1", "conv_alpha": "0.5"}),
        ("DoRA", "lycoris.kohya", {"algo": "lora", "conv_dim": "2", "conv_alpha": "1.0", "dora_wd": "True", "wd_on_output": "True"}),
        ("LoHa with cores", "lycoris.kohya", {"algo": "loha", "conv_dim": "2", "conv_alpha": "1.0", "use_tucker": "True"}),
        ("LoKr of whole factors", "lycoris.kohya", {"algo": "lokr", "factor": "4", "full_matrix": "True"}),
        ("OFT", "lycoris.kohya", {"algo": "diag-oft", "constraint": "0.01"}),
        ("BOFT", "lycoris.kohya", {"algo": "boft", "rescaled": "True"}),
    ],
)
def test_the_metadata_name_the_kind_as_kohya_and_lycoris_do(name, module, arguments):
    about = LORA.about(recipe_of(settings_of(name)))
    assert about["ss_network_module"] == module and json.loads(about["ss_network_args"]) == arguments


def test_a_plain_lora_says_no_more_than_before():
    about = {key: value for key, value in LORA.about(recipe_of(LoraSettings())).items() if value is not None}
    assert about == {"ss_network_module": "networks.lora", "ss_network_dim": 16, "ss_network_alpha": 8.0, "ss_network_dropout": 0.0}


def test_the_kind_of_a_trained_file_is_seen_from_the_file(workspace):
    kinds = {}
    for name in ALGORITHMS:
        file = workspace.runs / f"{name}-whole" / "weights" / "coat.safetensors"
        if file.is_file():
            kinds[name] = inspect(file).kinds
            with safe_open(file, "pt") as content:
                assert content.metadata()["modelspec.architecture"].endswith("/lora")
    assert kinds, "no training of this file has run"
    assert all(found == (UPDATES[name.split()[0]].title,) for name, found in kinds.items())


def test_settings_of_other_algorithms_do_nothing():
    assert {"lora.factor", "lora.block_size", "lora.rank_dropout", "lora.conv_rank"} <= set(job().without_effect())
    idle = job(lora__algorithm="oft").without_effect()
    assert {"lora.rank", "lora.alpha", "lora.dora", "lora.dropout"} <= set(idle) and "lora.block_size" not in idle
    assert math.isclose(LoraSettings(algorithm="lokr", full_matrix=True).scale, 1.0) and LoraSettings(algorithm="boft").scale == 1.0
