"""LoRA-family files of every layout: what is written is read back, and means to diffusers and peft what it means here."""

import json
import math
from copy import deepcopy
from itertools import product

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, load_file, save_file

from nosnja_gui.adapters import Adapter, Decomposed, Full, Hadamard, Kronecker, LowRank, PartNames, keys, reading, writing
from nosnja_gui.families import original
from nosnja_gui.settings import UserError

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


# Tiny models


def tiny_unet(xl: bool):
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    more = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (16, 32, 32),
        "transformer_layers_per_block": (1, 1, 2),
        "cross_attention_dim": 40,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 24,
    }
    plain = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (16, 32),
        "cross_attention_dim": 24,
    }
    return UNet2DConditionModel(sample_size=8, layers_per_block=1, norm_num_groups=8, attention_head_dim=2, **(more if xl else plain))


def tiny_text(width: int, projection: bool):
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=32, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2, projection_dim=24,
        max_position_embeddings=8, bos_token_id=30, eos_token_id=31, pad_token_id=31,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def part_names(part: str, module, xl: bool, with_norms: bool = False) -> PartNames:
    kinds = (torch.nn.Linear, torch.nn.Conv2d, *((torch.nn.GroupNorm, torch.nn.LayerNorm) if with_norms else ()))
    shapes = {
        name.removeprefix("text_model."): tuple(layer.weight.shape) for name, layer in module.named_modules() if isinstance(layer, kinds)
    }
    if part == "unet":
        origins = {name: origin.key for name, origin in original.unet_names(module.config).items() if name.endswith(".weight")}
        renamed = {name.removesuffix(".weight"): key.removesuffix(".weight") for name, key in origins.items()}
        return PartNames("unet", shapes, "lora_unet", "diffusion_model", renamed, kohya_writes_original=xl)
    kohya = {"text_encoder": "lora_te1" if xl else "lora_te", "text_encoder_2": "lora_te2"}[part]
    clip = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}[part]
    return PartNames(part, shapes, kohya, f"text_encoders.{clip}.transformer", inner="text_model.")


class Model:
    """The parts that adapters go on, and what they put out at fixed inputs."""

    def __init__(self, xl: bool):
        torch.manual_seed(3)
        self.xl = xl
        self.parts = {"unet": tiny_unet(xl), "text_encoder": tiny_text(16 if xl else 24, False)}
        if xl:
            self.parts["text_encoder_2"] = tiny_text(24, True)
        for module in self.parts.values():
            module.eval().requires_grad_(False)
        self.names = [part_names(part, module, xl) for part, module in self.parts.items()]

    def layer(self, address):
        part, module = address
        return {name.removeprefix("text_model."): layer for name, layer in self.parts[part].named_modules()}[module]

    def shape(self, address):
        return next(names.shapes[address[1]] for names in self.names if names.part == address[0])

    def patched(self, adapter: Adapter) -> "Model":
        copy = deepcopy(self)
        for address, update in adapter.updates.items():
            weight = copy.layer(address).weight
            weight += update.delta(weight).to(weight.dtype)
        return copy

    def outputs(self):
        generator = torch.Generator().manual_seed(5)
        noisy, hidden = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 6, 40 if self.xl else 24, generator=generator)
        more = {"text_embeds": torch.randn(2, 24, generator=generator), "time_ids": torch.ones(2, 6)}
        with torch.no_grad():
            found = [self.parts["unet"](noisy, torch.tensor([10, 700]), hidden, added_cond_kwargs=more if self.xl else None).sample]
            tokens = torch.randint(0, 29, (2, 8), generator=generator)
            tokens[:, -1] = 31
            for part, encoder in self.parts.items():
                if part != "unet":
                    found.append(encoder(tokens).last_hidden_state)
                if part == "text_encoder_2":
                    found.append(encoder(tokens).text_embeds)
        return found

    def through_diffusers(self, file) -> "Model":
        """With the file loaded by diffusers' own pipeline."""
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
        from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        copy = deepcopy(self)
        empty = {"vae": None, "tokenizer": None, "scheduler": DDIMScheduler(), **copy.parts}
        if self.xl:
            pipeline = StableDiffusionXLPipeline(**empty, tokenizer_2=None)
        else:
            pipeline = StableDiffusionPipeline(**empty, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        pipeline.load_lora_weights(file.parent, weight_name=file.name, local_files_only=True)
        return copy


@pytest.fixture(scope="module")
def sd():
    return Model(xl=False)


@pytest.fixture(scope="module")
def sdxl():
    return Model(xl=True)


def distances(one: Model, other: Model) -> list[float]:
    return [float((a - b).abs().max()) for a, b in zip(one.outputs(), other.outputs(), strict=True)]


# Updates of every kind


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 31 * sum(shape))) * 0.3


def low_rank(shape, rank=3, alpha=2.0, seed=0):
    ones = [1] * (len(shape) - 2)
    return LowRank(random(rank, *shape[1:], seed=seed), random(shape[0], rank, *ones, seed=seed + 1), alpha)


def low_rank_with_core(shape, rank=2):
    return LowRank(random(rank, shape[1], 1, 1), random(shape[0], rank, 1, 1, seed=1), 1.0, random(rank, rank, *shape[2:], seed=2))


def hadamard(shape, rank=2):
    inputs = math.prod(shape[1:])
    pieces = [random(*size, seed=seed) for seed, size in enumerate([(shape[0], rank), (rank, inputs)] * 2)]
    return Hadamard(*pieces, alpha=1.0)


def hadamard_with_cores(shape, rank=2):
    pieces = [random(rank, size, seed=seed) for seed, size in enumerate(shape[:2] * 2)]
    cores = [random(rank, rank, *shape[2:], seed=seed) for seed in (7, 8)]
    return Hadamard(*pieces, alpha=3.0, t1=cores[0], t2=cores[1])


def kronecker(shape, first="whole", second="whole", rank=2, factor=4):
    (a, b), (c, d) = (factor, shape[0] // factor), (factor, shape[1] // factor)
    pieces = {"w1": None, "w2": None}
    if first == "whole":
        pieces["w1"] = random(a, c)
    else:
        pieces |= {"w1_a": random(a, rank), "w1_b": random(rank, c, seed=1)}
    if second == "whole":
        pieces["w2"] = random(b, d, *shape[2:], seed=2)
    elif second == "core":
        pieces |= {"t2": random(rank, rank, *shape[2:], seed=3), "w2_a": random(rank, b, seed=4), "w2_b": random(rank, d, seed=5)}
    else:
        pieces |= {"w2_a": random(b, rank, seed=4), "w2_b": random(rank, d * math.prod(shape[2:]), seed=5)}
    # Where no factor is a product, alpha means nothing and is not asked for.
    return Kronecker(alpha=1.0 if (first, second) == ("whole", "whole") else 3.0, **pieces)


LINEAR = "down_blocks.{}.attentions.0.transformer_blocks.0.attn1.to_q"
CONVOLUTION = "mid_block.resnets.0.conv1"
MAKERS = {
    "LoRA": (low_rank, LINEAR),
    "LoRA of a convolution": (low_rank, CONVOLUTION),
    "LoRA with a core": (low_rank_with_core, CONVOLUTION),
    "LoHa": (hadamard, LINEAR),
    "LoHa of a convolution": (hadamard, CONVOLUTION),
    "LoHa with cores": (hadamard_with_cores, CONVOLUTION),
    "LoKr": (kronecker, LINEAR),
    "LoKr of a convolution": (kronecker, CONVOLUTION),
    "LoKr, second factor a product": (lambda shape: kronecker(shape, second="product"), LINEAR),
    "LoKr of a convolution, second factor a product": (lambda shape: kronecker(shape, second="product"), CONVOLUTION),
    "LoKr, both factors products": (lambda shape: kronecker(shape, "product", "product"), LINEAR),
    "LoKr with a core": (lambda shape: kronecker(shape, second="core"), CONVOLUTION),
    "full difference": (lambda shape: Full(random(*shape)), LINEAR),
    "full difference of a convolution": (lambda shape: Full(random(*shape)), CONVOLUTION),
}
DIFFUSERS_CARRIES = ("LoRA", "LoRA of a convolution")


def made(model: Model, title: str, magnitude: str = "") -> tuple[tuple[str, str], object]:
    maker, module = MAKERS[title]
    address = ("unet", module.format(1 if model.xl else 0))
    shape = model.shape(address)
    update = maker(shape)
    ones = [1] * (len(shape) - 2)
    if magnitude == "per output":
        update = Decomposed(update, 1 + random(shape[0], 1, *ones, seed=9).abs())
    if magnitude == "per input":
        update = Decomposed(update, 1 + random(1, shape[1], *ones, seed=9).abs())
    return address, update


def tensors_of(update) -> dict[str, object]:
    values = vars(update)
    inner = tensors_of(values["inner"]) if isinstance(update, Decomposed) else {}
    return {"kind": type(update), **inner, **{name: value for name, value in values.items() if name != "inner"}}


def assert_equal(one, other):
    first, second = tensors_of(one), tensors_of(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[name]), name
        else:
            assert value == second[name], name


def written(tmp_path, adapter, names, layout, precision="float32", metadata=None):
    file = tmp_path / f"{layout}.safetensors"
    file.write_bytes(writing.encode(adapter, names, layout, precision, metadata or {}))
    return file


# There and back


@pytest.mark.parametrize("magnitude", ["", "per output", "per input"])
@pytest.mark.parametrize("title", MAKERS)
@pytest.mark.parametrize("layout", writing.LAYOUTS)
def test_every_kind_is_read_back_as_it_was_written_or_refused_by_name(sdxl, tmp_path, layout, title, magnitude):
    model = sdxl
    address, update = made(model, title, magnitude)
    adapter = Adapter({address: update})
    if layout == "diffusers" and (title not in DIFFUSERS_CARRIES or magnitude == "per input"):
        with pytest.raises(UserError, match=r"diffusers layout cannot carry .*kohya or comfyui.*lora resize"):
            writing.encode(adapter, model.names, layout, "float32", {})
        return
    if magnitude and isinstance(update.inner, Full):
        with pytest.raises(UserError, match="No layout can carry a DoRA of a full difference"):
            writing.encode(adapter, model.names, layout, "float32", {})
        return
    back = reading.read(written(tmp_path, adapter, model.names, layout), model.names, "this model")
    assert list(back.updates) == [address] and not back.biases
    assert_equal(update, back.updates[address])
    weight = model.layer(address).weight
    assert torch.equal(update.delta(weight), back.updates[address].delta(weight))
    assert update.delta(weight).shape == weight.shape and float(update.delta(weight).abs().max()) > 1e-3


@pytest.mark.parametrize("layout", ["kohya", "comfyui"])
def test_biases_and_norm_layers_are_read_back(tmp_path, sd, layout):
    names = [part_names("unet", sd.parts["unet"], False, with_norms=True)]
    adapter = Adapter(
        {("unet", "conv_norm_out"): Full(random(16)), ("unet", "conv_out"): low_rank((4, 16, 3, 3))},
        biases={("unet", "conv_norm_out"): random(16, seed=1), ("unet", "conv_in"): random(16, seed=2), ("unet", "conv_out"): random(4)},
    )
    file = written(tmp_path, adapter, names, layout)
    ends = {key.rpartition(".")[2] for key in load_file(file)}
    assert ({"w_norm", "b_norm", "diff_b"} if layout == "kohya" else {"diff", "diff_b"}) <= ends
    back = reading.read(file, names, "this model")
    assert set(back.updates) == set(adapter.updates) and set(back.biases) == set(adapter.biases)
    for address, update in adapter.updates.items():
        assert_equal(update, back.updates[address])
    for address, bias in adapter.biases.items():
        assert torch.equal(bias, back.biases[address])
    with pytest.raises(UserError, match="cannot carry"):
        writing.encode(adapter, names, "diffusers", "float32", {})
    norms = {key: tensor for key, tensor in load_file(file).items() if "norm" in key or ".out.0" in key}
    save_file(norms, tmp_path / "norms.safetensors")
    with pytest.raises(UserError, match="norm layers"):
        reading.read(tmp_path / "norms.safetensors", sd.names, "this model")


def whole(model: Model, alphas=(2.0,), ranks=(3,), dora=()) -> Adapter:
    """A LoRA of many kinds of modules in every part, its ranks and alphas taking turns."""
    updates = {}
    for names in model.names:
        for number, (module, shape) in enumerate(names.shapes.items()):
            update = low_rank(shape, ranks[number % len(ranks)], alphas[number % len(alphas)], seed=number)
            if names.part in dora:
                norm = model.layer((names.part, module)).weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (len(shape) - 1))
                update = Decomposed(update, norm * (1 + 0.1 * random(*norm.shape, seed=number)))
            updates[names.part, module] = update
    return Adapter(updates)


@pytest.mark.parametrize("layout", writing.LAYOUTS)
@pytest.mark.parametrize("xl", [False, True], ids=["sd", "sdxl"])
def test_every_module_of_every_part_is_read_back(request, tmp_path, layout, xl):
    model = request.getfixturevalue("sdxl" if xl else "sd")
    adapter = whole(model, alphas=(2.0, 1.0, 5.0), ranks=(3, 2, 4, 1))
    file = written(tmp_path, adapter, model.names, layout, metadata={"ss_network_dim": "3"})
    back = reading.read(file, model.names, "this model")
    assert set(back.updates) == set(adapter.updates) and back.metadata["ss_network_dim"] == "3"
    for address, update in adapter.updates.items():
        assert_equal(update, back.updates[address])


# What diffusers makes of it


@pytest.mark.parametrize("xl", [False, True], ids=["sd", "sdxl"])
def test_diffusers_loads_the_kohya_layout_to_the_same_forward(request, tmp_path, xl):
    # diffusers 0.42 loses a kohya file's alphas where they differ (get_peft_kwargs looks for other names), so there is one.
    model = request.getfixturevalue("sdxl" if xl else "sd")
    adapter = whole(model)
    file = written(tmp_path, adapter, model.names, "kohya")
    assert any("input_blocks" in key for key in load_file(file)) == xl
    expected = model.patched(adapter)
    assert min(distances(model, expected)) > 1e-2
    assert max(distances(expected, model.through_diffusers(file))) <= 1e-5


@pytest.mark.parametrize("dora", [(), ("unet",), ("unet", "text_encoder", "text_encoder_2")], ids=["LoRA", "DoRA in the UNet", "DoRA"])
@pytest.mark.parametrize("xl", [False, True], ids=["sd", "sdxl"])
def test_diffusers_loads_its_own_layout_to_the_same_forward_whatever_the_ranks_and_alphas(request, tmp_path, xl, dora):
    model = request.getfixturevalue("sdxl" if xl else "sd")
    adapter = whole(model, alphas=(2.0, 1.0, 0.5), ranks=(3, 2, 4, 1), dora=dora)
    file = written(tmp_path, adapter, model.names, "diffusers")
    expected = model.patched(adapter)
    assert min(distances(model, expected)) > 1e-2
    assert max(distances(expected, model.through_diffusers(file))) <= 2e-5


def test_diffusers_loads_a_text_encoder_without_attention_projections(tmp_path, sd):
    adapter = whole(sd)
    adapter = Adapter({address: update for address, update in adapter.updates.items() if address[1].endswith("mlp.fc1")})
    expected = sd.patched(adapter)
    file = written(tmp_path, adapter, sd.names, "diffusers")
    loaded = sd.through_diffusers(file)
    assert distances(sd, expected)[1] > 1e-2 and distances(expected, loaded)[1] <= 1e-5
    assert set(reading.read(file, sd.names, "this model").updates) == set(adapter.updates)


@pytest.mark.parametrize("xl", [False, True], ids=["sd", "sdxl"])
def test_what_diffusers_saves_is_read_with_its_alphas(request, tmp_path, xl):
    from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
    from peft import LoraConfig, get_peft_model_state_dict

    model = deepcopy(request.getfixturevalue("sdxl" if xl else "sd"))
    base = deepcopy(model)
    weights, saved = {}, {}
    for part, module in model.parts.items():
        targets = list(ATTENTION) if part == "unet" else ["q_proj", "k_proj", "fc1"]
        first = targets[0]
        config = LoraConfig(
            r=3, lora_alpha=2, target_modules=targets, init_lora_weights=False, rank_pattern={first: 2}, alpha_pattern={first: 5}
        )
        module.add_adapter(config)
        state = get_peft_model_state_dict(module, adapter_name="default")
        for name, tensor in state.items():
            tensor.copy_(0.2 * random(*tensor.shape, seed=len(name)))
        weights[f"{part}_lora_layers"], saved[f"{part}_lora_adapter_metadata"] = state, config.to_dict()
    mixin = StableDiffusionXLLoraLoaderMixin if xl else StableDiffusionLoraLoaderMixin
    mixin.save_lora_weights(tmp_path, **weights, **saved, weight_name="theirs.safetensors")
    adapter = reading.read(tmp_path / "theirs.safetensors", base.names, "this model")
    assert {update.alpha for update in adapter.updates.values()} == {2.0, 5.0}
    assert min(distances(base, model)) > 1e-3
    assert max(distances(base.patched(adapter), model)) <= 1e-5


# What peft makes of it: its own deltas are the oracle


class Layers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.linear = torch.nn.Linear(24, 16, bias=False)
        self.convolution = torch.nn.Conv2d(12, 16, 3, bias=False)


LAYERS = [PartNames("unet", {"linear": (16, 24), "convolution": (16, 12, 3, 3)}, "lora_unet", "diffusion_model")]


def peft_file(tmp_path, config, alphas: bool):
    """A file of a peft layer's own tensors under LyCORIS' names, and the layers."""
    from peft import get_peft_model_state_dict, inject_adapter_in_model

    model = inject_adapter_in_model(config, Layers())
    tensors = {}
    for key, tensor in get_peft_model_state_dict(model).items():
        module, _, piece = key.rpartition(".")
        tensors[f"lora_unet_{module}.{piece}"] = tensor
        if alphas:
            tensors[f"lora_unet_{module}.alpha"] = torch.tensor(float(config.alpha))
    save_file(tensors, tmp_path / "lycoris.safetensors")
    return tmp_path / "lycoris.safetensors", model


@pytest.mark.parametrize("cores", [False, True])
def test_loha_means_what_peft_makes_of_it(tmp_path, cores):
    from peft import LoHaConfig

    config = LoHaConfig(r=4, alpha=3, target_modules=["linear", "convolution"], init_weights=False, use_effective_conv2d=cores)
    file, model = peft_file(tmp_path, config, alphas=True)
    adapter = reading.read(file, LAYERS, "this model")
    assert cores == (adapter.updates["unet", "convolution"].t1 is not None)
    for (_, module), update in adapter.updates.items():
        layer = getattr(model, module)
        assert torch.allclose(update.delta(layer.get_base_layer().weight), layer.get_delta_weight("default"), atol=1e-6)


@pytest.mark.parametrize(
    ("rank", "alpha", "options"),
    [
        (2, 3, {}),
        (1, 3, {"decompose_both": True}),
        (1, 3, {"use_effective_conv2d": True}),
        (2, 5, {"decompose_factor": 2}),
        (64, 32, {}),
    ],
)
def test_lokr_means_what_peft_makes_of_it(tmp_path, rank, alpha, options):
    from peft import LoKrConfig

    config = LoKrConfig(r=rank, alpha=alpha, target_modules=["linear", "convolution"], init_weights=False, **options)
    file, model = peft_file(tmp_path, config, alphas=True)
    for (_, module), update in reading.read(file, LAYERS, "this model").updates.items():
        layer = getattr(model, module)
        # Whole factors: peft scales them by alpha / rank, LyCORIS and those who read its files don't (lycoris/modules/lokr.py).
        unscaled = alpha / rank if update.rank == 0 else 1.0
        assert torch.allclose(update.delta(layer.get_base_layer().weight) * unscaled, layer.get_delta_weight("default"), atol=1e-6)


def test_dora_of_a_peft_file_means_what_peft_makes_of_it(tmp_path):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=3, lora_alpha=5, target_modules=["linear", "convolution"], init_lora_weights=False, use_dora=True)
    model = get_peft_model(Layers(), config)
    layers = {name: getattr(model.base_model.model, name) for name in ("linear", "convolution")}
    with torch.no_grad():
        for layer in layers.values():
            layer.lora_magnitude_vector["default"].weight *= 1.3
    before = {name: layer.get_base_layer().weight.detach().clone() for name, layer in layers.items()}
    model.save_pretrained(tmp_path)
    adapter = reading.read(tmp_path / "adapter_model.safetensors", LAYERS, "this model")
    assert {update.inner.alpha for update in adapter.updates.values()} == {5.0}  # from adapter_config.json beside it
    for name, layer in layers.items():
        layer.merge()
        change = layer.get_base_layer().weight - before[name]
        assert float(change.abs().max()) > 1e-2
        assert torch.allclose(adapter.updates["unet", name].delta(before[name]), change, atol=1e-6)


# Formulas in plain numbers


def numbers(*shape: int) -> torch.Tensor:
    return (torch.arange(math.prod(shape)) % 7 - 3.0).reshape(shape)


def test_a_core_is_multiplied_outputs_first():
    up, core, down = numbers(4, 2), numbers(2, 2, 3, 3) + 1, numbers(2, 5) - 1
    delta = LowRank(down.reshape(2, 5, 1, 1), up.reshape(4, 2, 1, 1), 6.0, core).delta(torch.zeros(4, 5, 3, 3))
    first, second = numbers(2, 4) + 2, numbers(2, 5)
    other = Hadamard(up.T.contiguous(), down, first, second, 6.0, core, core * 2).delta(torch.zeros(4, 5, 3, 3))
    for o, i, y, x in product(range(4), range(5), range(3), range(3)):
        one = sum(float(up[o, r] * core[r, s, y, x] * down[s, i]) for r in range(2) for s in range(2))
        two = sum(float(first[r, o] * 2 * core[r, s, y, x] * second[s, i]) for r in range(2) for s in range(2))
        assert float(delta[o, i, y, x]) == pytest.approx(3.0 * one)
        assert float(other[o, i, y, x]) == pytest.approx(3.0 * one * two)


def test_a_kronecker_product_places_the_second_factor_within_the_first():
    first, a, core, b = numbers(2, 3), numbers(2, 4) + 1, numbers(2, 2, 3, 3) + 2, numbers(2, 5)
    delta = Kronecker(first, None, 8.0, w2_a=a, w2_b=b, t2=core).delta(torch.zeros(8, 15, 3, 3))
    whole_factors = Kronecker(first, numbers(4, 5), 8.0).delta(torch.zeros(8, 15))
    for o, i, y, x in product(range(8), range(15), range(3), range(3)):
        second = sum(float(a[r, o % 4] * core[r, s, y, x] * b[s, i % 5]) for r in range(2) for s in range(2))
        assert float(delta[o, i, y, x]) == pytest.approx(4.0 * float(first[o // 4, i // 5]) * second)
        # LyCORIS lycoris/modules/lokr.py: without any product there is no rank to divide by.
        assert float(whole_factors[o, i]) == float(first[o // 4, i // 5] * numbers(4, 5)[o % 4, i % 5])


def test_the_magnitude_is_the_new_length_of_rows_or_of_columns():
    weight, inner = numbers(4, 4) + 0.5, LowRank(numbers(2, 4), numbers(4, 2), 2.0)
    for magnitude, axis in ((torch.tensor([[1.0], [2.0], [3.0], [4.0]]), 1), (torch.tensor([[1.0, 2.0, 3.0, 4.0]]), 0)):
        changed = weight + Decomposed(inner, magnitude).delta(weight)
        assert torch.allclose(changed.norm(dim=axis), torch.tensor([1.0, 2.0, 3.0, 4.0]))
        moved = weight + inner.delta(weight)
        assert torch.allclose(changed / changed.norm(dim=axis, keepdim=True), moved / moved.norm(dim=axis, keepdim=True), atol=1e-6)
    kernel = numbers(3, 2, 3, 3) + 0.5
    changed = kernel + Decomposed(Full(torch.ones_like(kernel)), torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1)).delta(kernel)
    assert torch.allclose(changed.transpose(0, 1).flatten(1).norm(dim=1), torch.tensor([1.0, 2.0]))


def test_one_output_is_not_taken_for_all_inputs():
    weight = numbers(1, 6) + 0.5
    changed = weight + Decomposed(LowRank(numbers(2, 6), numbers(1, 2), 2.0), torch.full((1, 6), 2.0)).delta(weight)
    assert torch.allclose(changed.abs(), torch.full((1, 6), 2.0))


# Names


def spelt(stem: str, down: str, up: str) -> dict[str, torch.Tensor]:
    return {f"{stem}{down}": random(2, 16), f"{stem}{up}": random(16, 2)}


OLD = (".lora.down.weight", ".lora.up.weight")
Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT_Q = "encoder.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("stem", "ends", "module"),
    [
        (f"lora_unet_{Q.replace('.', '_')}", (".lora_down.weight", ".lora_up.weight"), Q),
        ("lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q", (".lora_down.weight", ".lora_up.weight"), Q),
        (f"unet.{Q}", (".lora_A.weight", ".lora_B.weight"), Q),
        (f"unet.{Q}", OLD, Q),
        (f"unet.{Q.replace('.to_q', '.processor.to_q_lora')}", (".down.weight", ".up.weight"), Q),
        (f"{Q.replace('.to_q', '.processor.to_out_lora')}", (".down.weight", ".up.weight"), Q.replace("to_q", "to_out.0")),
        (f"base_model.model.{Q}", (".lora_A.default.weight", ".lora_B.default.weight"), Q),
        (f"unet.base_model.model.{Q}", (".lora_A.weight", ".lora_B.weight"), Q),
        ("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q", (".lora_down.weight", ".lora_up.weight"), Q),
        ("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q", (".lora_A.weight", ".lora_B.weight"), Q),
        (f"lycoris_{Q.replace('.', '_')}", (".lora_down.weight", ".lora_up.weight"), Q),
    ],
)
def test_every_spelling_finds_its_module(tmp_path, sd, stem, ends, module):
    save_file(spelt(stem, *ends), tmp_path / "a.safetensors")
    adapter = reading.read(tmp_path / "a.safetensors", sd.names, "this model")
    assert list(adapter.updates) == [("unet", module)] and adapter.updates["unet", module].alpha == 2.0


@pytest.mark.parametrize(
    ("stem", "ends"),
    [
        ("lora_te_text_model_encoder_layers_0_self_attn_q_proj", (".lora_down.weight", ".lora_up.weight")),
        ("lora_te_encoder_layers_0_self_attn_q_proj", (".lora_down.weight", ".lora_up.weight")),
        (f"text_encoder.text_model.{TEXT_Q}", (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight")),
        (f"text_encoder.text_model.{TEXT_Q}".replace("q_proj", "to_q_lora"), (".down.weight", ".up.weight")),
        (f"text_encoder.{TEXT_Q}", (".lora_A.weight", ".lora_B.weight")),
        (f"text_encoders.clip_l.transformer.text_model.{TEXT_Q}", (".lora_down.weight", ".lora_up.weight")),
        (f"base_model.model.text_model.{TEXT_Q}", (".lora_A.weight", ".lora_B.weight")),
    ],
)
def test_every_spelling_of_a_text_encoder_finds_its_module(tmp_path, sd, stem, ends):
    tensors = {f"{stem}{ends[0]}": random(2, 24), f"{stem}{ends[1]}": random(24, 2)}
    save_file(tensors, tmp_path / "a.safetensors")
    assert list(reading.read(tmp_path / "a.safetensors", sd.names, "this model").updates) == [("text_encoder", TEXT_Q)]


def real_names(xl: bool) -> list[PartNames]:
    """Of the real models, by the configurations that they are published with; the shapes don't matter."""
    levels = {"block_out_channels": [320, 640, 1280] if xl else [320, 640, 1280, 1280], "layers_per_block": 2}
    attend = ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"] if xl else ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    config = {**levels, "down_block_types": attend, "up_block_types": [kind.replace("Down", "Up") for kind in reversed(attend)]}
    if xl:
        config |= {"transformer_layers_per_block": [1, 2, 10], "addition_embed_type": "text_time"}
    origins = original.unet_names(config)
    renamed = {name.removesuffix(".weight"): origin.key.removesuffix(".weight") for name, origin in origins.items() if "weight" in name}
    names = [PartNames("unet", dict.fromkeys(renamed, (1, 1)), "lora_unet", "diffusion_model", renamed, xl)]
    for part, kohya, clip in (("text_encoder", "lora_te1" if xl else "lora_te", "clip_l"), ("text_encoder_2", "lora_te2", "clip_g"))[
        : 1 + xl
    ]:
        modules = (name for name in original.clip_names({"num_hidden_layers": 32}) if name.endswith("weight"))
        shapes = dict.fromkeys((name.removeprefix("text_model.").removesuffix(".weight") for name in modules), (1, 1))
        shapes |= {"text_projection": (1, 1)} if part == "text_encoder_2" else {}
        names.append(PartNames(part, shapes, kohya, f"text_encoders.{clip}.transformer", inner="text_model."))
    return names


def real_keys() -> list[tuple[str, str]]:
    from pathlib import Path

    lines = (Path(__file__).parent / "facts" / "lora_keys.txt").read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("\t")) for line in lines if line and not line.startswith("#")]


def test_real_keys_find_their_modules():
    either = [keys.places(real_names(xl)) for xl in (False, True)]
    lost, by_role = [], {}
    for layout, key in real_keys():
        if layout in ("other-lycoris", "bundled"):
            continue
        found = keys.piece(key)
        if found is None or not any(keys.plain(found[0]) in places for places in either):
            lost.append((layout, key))
        else:
            by_role.setdefault(found[1], []).append(key)
    assert lost == []
    assert {"down", "up", "mid", "alpha", "magnitude", "diff", "diff_b", "hada_t1", "lokr_w1", "lokr_w2_b", "lokr_t2"} <= set(by_role)
    refused = [key for layout, key in real_keys() if layout in ("other-lycoris", "bundled")]
    assert keys.other_kind(refused[:1]) == "a GLoRA" and len(refused) > 5


def test_what_is_written_has_the_names_that_classic_readers_expect(sd, sdxl):
    def stems(model, layout):
        addresses = [("unet", LINEAR.format(1 if model.xl else 0)), ("text_encoder", TEXT_Q)]
        addresses += [("text_encoder_2", "text_projection"), ("text_encoder_2", TEXT_Q)] if model.xl else []
        content = writing.encode(Adapter({address: low_rank(model.shape(address)) for address in addresses}), model.names, layout)
        return {keys.piece(key)[0] for key in load(content)}

    block = "transformer_blocks_0_attn1_to_q"
    assert stems(sd, "kohya") == {f"lora_unet_down_blocks_0_attentions_0_{block}", "lora_te_text_model_encoder_layers_0_self_attn_q_proj"}
    assert stems(sdxl, "kohya") == {
        f"lora_unet_input_blocks_3_1_{block}",
        *(f"lora_te{number}_text_model_encoder_layers_0_self_attn_q_proj" for number in (1, 2)),
        "lora_te2_text_projection",
    }
    assert stems(sdxl, "comfyui") == {
        f"diffusion_model.input_blocks.3.1.{block.replace('blocks_0_attn1_', 'blocks.0.attn1.')}",
        *(f"text_encoders.{clip}.transformer.text_model.{TEXT_Q}" for clip in ("clip_l", "clip_g")),
        "text_encoders.clip_g.transformer.text_projection",
    }
    assert f"text_encoder_2.text_model.{TEXT_Q}" in stems(sdxl, "diffusers")


def test_a_file_that_names_a_module_twice_means_diffusers_name(tmp_path, sd):
    ours = spelt(f"lora_unet_{Q.replace('.', '_')}", ".lora_down.weight", ".lora_up.weight")
    theirs = spelt("lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q", ".lora_down.weight", ".lora_up.weight")
    for first, second in ((ours, theirs), (theirs, ours)):
        tensors = {key: tensor * (1 if "down_blocks" in key else 9) for part in (first, second) for key, tensor in part.items()}
        save_file(tensors, tmp_path / "a.safetensors")
        update = reading.read(tmp_path / "a.safetensors", sd.names, "this model").updates["unet", Q]
        assert torch.equal(update.down, random(2, 16))


# Alphas, precisions, hashes


def test_the_alpha_is_the_files_or_the_metadatas_or_the_rank(tmp_path, sd):
    def alpha(tensors, **said):
        file = tmp_path / "a.safetensors"
        save_file(tensors, file, metadata={key: json.dumps(value) for key, value in said.items()})
        return reading.read(file, sd.names, "this model").updates["unet", Q].alpha

    tensors = spelt(f"unet.{Q}", ".lora_A.weight", ".lora_B.weight")
    assert alpha(tensors) == 2.0
    assert alpha({**tensors, f"unet.{Q}.alpha": torch.tensor(7)}) == 7.0
    assert alpha(tensors, lora_adapter_metadata={"unet.lora_alpha": 5}) == 5.0
    assert alpha(tensors, lora_adapter_metadata={"lora_alpha": 5}) == 5.0
    assert alpha(tensors, lora_adapter_metadata={"text_encoder.lora_alpha": 5}) == 2.0
    for pattern in (Q, f"^{Q}", "attn1.to_q", "^down_blocks.*to_q"):
        assert alpha(tensors, lora_adapter_metadata={"unet.lora_alpha": 5, "unet.alpha_pattern": {pattern: 3}}) == 3.0
    assert alpha(tensors, lora_adapter_metadata={"unet.lora_alpha": 5, "unet.alpha_pattern": {"n1.to_q": 3}}) == 5.0
    assert alpha(tensors, lora_adapter_metadata={"unet.lora_alpha": 5, "unet.use_rslora": True}) == pytest.approx(5 * math.sqrt(2))
    with pytest.raises(UserError, match="alphas"):
        alpha(tensors, lora_adapter_metadata={"unet.lora_alpha": "much"})


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32"])
def test_tensors_keep_the_precision_that_they_were_written_in(tmp_path, sd, precision):
    address, update = made(sd, "LoRA")
    file = written(tmp_path, Adapter({address: update}), sd.names, "kohya", precision)
    back = reading.read(file, sd.names, "this model").updates[address]
    assert {back.down.dtype, back.up.dtype} == {getattr(torch, precision)} and back.alpha == update.alpha
    assert torch.equal(back.down, update.down.to(back.down.dtype))
    assert back.delta(sd.layer(address).weight).dtype == torch.float32


def test_the_hashes_are_of_the_weights_and_not_of_the_metadata(tmp_path):
    import hashlib

    names = [PartNames("unet", {"big": (400, 1000)}, "lora_unet", "diffusion_model")]
    update = low_rank((400, 1000), rank=300)
    hashes = []
    for note in ("one", "another"):
        file = written(tmp_path, Adapter({("unet", "big"): update}), names, "kohya", metadata={"ss_x": "1", "modelspec.title": note})
        with safe_open(file, "pt") as content:
            said = content.metadata()
        data = file.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        assert said["sshs_model_hash"] == hashlib.sha256(data[start:]).hexdigest() and said["modelspec.title"] == note
        hashes.append((said["sshs_model_hash"], said["sshs_legacy_hash"]))
    assert hashes[0] == hashes[1] and len(hashes[0][1]) == 8 and hashes[0][1] != hashlib.sha256(b"").hexdigest()[:8]


def test_metadata_of_another_layout_does_not_survive(tmp_path, sd):
    address, update = made(sd, "LoRA")
    first = written(tmp_path, Adapter({address: update}), sd.names, "diffusers")
    adapter = reading.read(first, sd.names, "this model")
    assert keys.ADAPTER_METADATA in adapter.metadata
    second = written(tmp_path, adapter, sd.names, "kohya", metadata=adapter.metadata)
    assert keys.ADAPTER_METADATA not in reading.read(second, sd.names, "this model").metadata


# What is refused


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_written(sd, value):
    address, update = made(sd, "LoRA")
    update.down[0, 0] = value
    with pytest.raises(UserError, match="not a finite number"):
        writing.encode(Adapter({address: update}), sd.names, "kohya", "float32", {})


def test_a_weight_beyond_float16_is_refused_in_float16_only(sd):
    address, update = made(sd, "LoRA")
    update.down[0, 0] = 1e5
    with pytest.raises(UserError, match=r"saving\.precision"):
        writing.encode(Adapter({address: update}), sd.names, "kohya", "float16", {})
    writing.encode(Adapter({address: update}), sd.names, "kohya", "bfloat16", {})


def test_lora_and_dora_in_one_part_are_refused_for_diffusers_only(sd):
    (address, plain), (other, decomposed) = made(sd, "LoRA"), made(sd, "LoRA of a convolution", "per output")
    adapter = Adapter({address: plain, other: decomposed})
    with pytest.raises(UserError, match="LoRA and DoRA"):
        writing.encode(adapter, sd.names, "diffusers", "float32", {})
    assert writing.encode(adapter, sd.names, "kohya", "float32", {})


def refused(file, names, **options) -> str:
    with pytest.raises(UserError) as caught:
        reading.read(file, names, "the model tiny (SD 1.x)", **options)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and file.name in message
    return message


def test_a_file_of_another_family_is_refused_with_what_it_is_and_what_the_model_is(tmp_path, sd, sdxl):
    message = refused(written(tmp_path, whole(sdxl), sdxl.names, "kohya"), sd.names)
    assert "SDXL" in message and "the model tiny (SD 1.x)" in message and " of its " in message and "'lora_" in message
    stem = f"lora_unet_{Q.replace('.', '_').replace('attn1_to_q', 'attn2_to_k')}"
    save_file({f"{stem}.lora_down.weight": random(4, 2048), f"{stem}.lora_up.weight": random(16, 4)}, tmp_path / "wide.safetensors")
    message = refused(tmp_path / "wide.safetensors", sd.names)
    assert "2048" in message and "24" in message and "an SDXL model" in message


def test_every_key_must_find_its_module(tmp_path, sd):
    file = written(tmp_path, whole(sd), sd.names, "kohya")
    tensors = load_file(file)
    save_file({**tensors, "lora_unet_new_thing.lora_down.weight": random(1, 2), "lora_unet_new_thing.lora_up.weight": random(2, 1)}, file)
    message = refused(file, sd.names)
    assert "1 of its" in message and "'lora_unet_new_thing'" in message
    save_file({**tensors, "lora_unet_new_thing.strange": random(1, 2)}, file)
    assert "lora_unet_new_thing.strange" in refused(file, sd.names)


def test_parts_that_were_not_loaded_are_skipped_and_others_not(tmp_path, sd, sdxl):
    for layout in writing.LAYOUTS:
        file = written(tmp_path, whole(sd), sd.names, layout)
        unet_only = sd.names[:1]
        assert reading.read(file, unet_only, "this model", absent=("text_encoder",)).parts == ("unet",)
        assert reading.read(file, sd.names, "this model", absent=("text_encoder",)).parts == ("unet",)
        assert set(reading.read(file, sd.names, "this model").parts) == {"unet", "text_encoder"}
        assert "have no place" in refused(file, unet_only)
        assert "nothing for unet" in refused(
            written(tmp_path, Adapter({("text_encoder", TEXT_Q): low_rank((24, 24))}), sd.names, layout),
            unet_only,
            absent=("text_encoder",),
        )
        xl = written(tmp_path, Adapter({("text_encoder_2", TEXT_Q): low_rank((24, 24))}), sdxl.names, layout)
        assert "SDXL" in refused(xl, unet_only, absent=("text_encoder",))


KOHYA_Q = f"lora_unet_{Q.replace('.', '_')}"


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({f"{KOHYA_Q}.oft_diag": random(2, 2, 2)}, "OFT"),
        ({f"{KOHYA_Q}.a1.weight": random(2, 2), f"{KOHYA_Q}.alpha": torch.tensor(1.0)}, "GLoRA"),
        ({f"{KOHYA_Q}.weight": random(2), f"{KOHYA_Q}.on_input": torch.tensor(True)}, "IA3"),
        ({"emb_params": random(2, 24)}, "textual inversion"),
        ({"clip_l": random(2, 24), "clip_g": random(2, 24)}, "textual inversion"),
        ({"model.diffusion_model.out.2.weight": random(4, 4)}, "no LoRA weights"),
        ({f"{KOHYA_Q}.hada_w1_a": random(16, 2)}, "LoHa"),
        ({f"{KOHYA_Q}.lokr_w1": random(4, 4)}, "LoKr"),
        ({f"{KOHYA_Q}.hada_w1_a": random(16, 2), f"{KOHYA_Q}.hada_t1": random(2, 2, 3, 3)}, "hada_t2"),
        ({f"{KOHYA_Q}.lora_down.weight": random(2, 16)}, "lacks one of its two matrices"),
        ({f"{KOHYA_Q}.alpha": torch.tensor(1.0)}, "is incomplete"),
        ({f"{KOHYA_Q}.lora_down.weight": random(2, 16), f"{KOHYA_Q}.lora_up.weight": random(16, 3)}, "don't fit each other"),
        ({**spelt(KOHYA_Q, ".lora_down.weight", ".lora_up.weight"), f"{KOHYA_Q}.diff": random(16, 16)}, "diff too"),
        ({**spelt(KOHYA_Q, ".lora_down.weight", ".lora_up.weight"), f"{KOHYA_Q}.dora_scale": random(5, 1)}, "5 magnitudes"),
        ({**spelt(KOHYA_Q, ".lora_down.weight", ".lora_up.weight"), f"{KOHYA_Q}.diff_b": random(5)}, "5 outputs"),
        ({f"{KOHYA_Q}.diff": random(16, 16), f"{KOHYA_Q}.dora_scale": random(16, 1)}, "magnitude too"),
        ({f"{KOHYA_Q}.diff": random(16, 17)}, "17 inputs"),
        ({f"{KOHYA_Q}.lokr_w1": random(4, 4), f"{KOHYA_Q}.lokr_w2": random(4, 5)}, "20 inputs"),
        ({f"{KOHYA_Q}.lora_down.weight": random(2, 16) * torch.nan, f"{KOHYA_Q}.lora_up.weight": random(16, 2)}, "not finite"),
    ],
)
def test_what_cannot_be_applied_is_refused_in_a_sentence_that_names_it(tmp_path, sd, tensors, said):
    save_file(tensors, tmp_path / "a.safetensors")
    assert said in refused(tmp_path / "a.safetensors", sd.names)


def test_damaged_files_are_refused(tmp_path, sd):
    whole_file = written(tmp_path, whole(sd), sd.names, "kohya").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole_file[: len(whole_file) // 2])
    assert "damaged" in refused(tmp_path / "cut.safetensors", sd.names)
    (tmp_path / "page.safetensors").write_bytes(b"<html>404 not found</html>")
    assert "damaged or no" in refused(tmp_path / "page.safetensors", sd.names)
    assert "no file" in refused(tmp_path / "missing.safetensors", sd.names)
