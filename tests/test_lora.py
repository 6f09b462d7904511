"""The LoRA file is exact, other programs read it, and weight 0 is the base model."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import tiny_sd

from nosnja_gui.engine.models import load_model
from nosnja_gui.methods import Recipe
from nosnja_gui.methods.lora import ENTRY as LORA
from nosnja_gui.methods.lora import LoraSettings
from nosnja_gui.settings import UserError

torch.set_num_threads(1)
CPU = torch.device("cpu")
PROMPTS = ["a girl in a red dress", "nosnjaoutfit, a woman on the stairs"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_sd(tmp_path_factory.mktemp("models") / "tiny")


def load(model, dtype=torch.float32, parts=None):
    return load_model(model, CPU, dtype, parts=parts)


def outputs(family, parts):
    """A forward of the UNet and of the text encoder at fixed inputs."""
    generator = torch.Generator().manual_seed(3)
    noisy, timesteps = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([10, 700])
    with torch.no_grad():
        text = family.encode_prompts(parts, PROMPTS)
        # The UNet is compared at a conditioning of its own, so that a text encoder's difference can't hide in it.
        fixed = type(text)(torch.randn(2, 77, 24, generator=generator))
        return family.predict(parts, noisy, timesteps, fixed).float(), text.hidden.float()


def attach(family, parts, train_text_encoder=True, seed=5, **settings):
    torch.manual_seed(seed)
    return LORA.attach(family, parts, Recipe({"lora": LoraSettings(**settings)}, train_text_encoder=train_text_encoder))


def train_a_little(trainables):
    """Stand-in for a training: every trainable weight moves."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for trainable in trainables:
            for parameter in trainable.parameters:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return trainables


def trained_file(model, file, precision="float32", seed=5, **settings):
    family, parts = load(model)
    train_a_little(attach(family, parts, seed=seed, **settings))
    parts.denoiser.eval()
    LORA.save(family, parts, file, {"ss_network_dim": "4"}, precision=precision)
    return outputs(family, parts)


def difference(one, other):
    return [float((a - b).abs().max()) for a, b in zip(one, other, strict=True)]


def test_nothing_changes_before_the_first_step_and_only_the_lora_is_trainable(model):
    family, parts = load(model)
    before = outputs(family, parts)
    trainables = attach(family, parts, rank=4)
    assert difference(before, outputs(family, parts)) == [0.0, 0.0]
    assert [trainable.part for trainable in trainables] == ["unet", "text_encoder"]
    ours = {id(parameter) for trainable in trainables for parameter in trainable.parameters}
    modules = [parts.denoiser, parts.vae, parts.text_encoders[0]]
    assert {id(parameter) for module in modules for parameter in module.parameters() if parameter.requires_grad} == ours
    names = [name for trainable in trainables for name in trainable.names]
    assert len(names) == len(set(names)) == len(ours)
    # 4 transformer blocks (1 down, 1 middle, 2 up) of 2 attentions with 4 projections, and 2 text layers with 4; 2 matrices each.
    assert len(trainables[0].parameters) == 4 * 2 * 4 * 2 and len(trainables[1].parameters) == 2 * 4 * 2


def test_the_same_seed_gives_the_same_start_and_another_seed_another(model):
    starts = []
    for seed in (5, 5, 6):
        family, parts = load(model)
        starts.append(torch.cat([p.detach().flatten() for t in attach(family, parts, rank=4, seed=seed) for p in t.parameters]))
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])


def test_lora_parameters_are_float32_on_a_half_precision_model_and_get_gradients(model):
    family, parts = load(model, torch.bfloat16)
    trainables = attach(family, parts, rank=4)
    text = family.encode_prompts(parts, PROMPTS)
    family.predict(parts, torch.randn(2, 4, 8, 8), torch.tensor([1, 2]), text).float().square().mean().backward()
    assert parts.denoiser.conv_in.weight.dtype == torch.bfloat16
    for trainable in trainables:
        assert {parameter.dtype for parameter in trainable.parameters} == {torch.float32}
    # The up matrices start at zero, so at first only they get a gradient; the text encoder is reached through the UNet.
    for trainable in trainables:
        ups = [p.grad for name, p in zip(trainable.names, trainable.parameters, strict=True) if "lora_up" in name]
        assert any(float(gradient.abs().max()) > 0 for gradient in ups)


def test_a_saved_file_gives_the_same_forward_to_the_last_bit(model, tmp_path):
    trained = trained_file(model, tmp_path / "a.safetensors", rank=4, alpha=3)
    family, parts = load(model)
    base = outputs(family, parts)
    assert min(difference(base, trained)) > 1e-3
    LORA.apply(family, parts, tmp_path / "a.safetensors", "a.v1")
    assert difference(trained, outputs(family, parts)) == [0.0, 0.0]
    assert not any(parameter.requires_grad for parameter in parts.denoiser.parameters())
    LORA.set_weights(family, parts, {"a.v1": 0.5})
    halfway = outputs(family, parts)
    assert min(difference(halfway, base)) > 1e-4 and min(difference(halfway, trained)) > 1e-4
    LORA.set_weights(family, parts, {"a.v1": 0.0})
    assert difference(base, outputs(family, parts)) == [0.0, 0.0]
    LORA.set_weights(family, parts, {"a.v1": 1.0})
    assert difference(trained, outputs(family, parts)) == [0.0, 0.0]
    LORA.remove(family, parts, "a.v1")
    assert difference(base, outputs(family, parts)) == [0.0, 0.0] and parts.adapters == {}
    LORA.apply(family, parts, tmp_path / "a.safetensors", "a.v1")
    assert difference(trained, outputs(family, parts)) == [0.0, 0.0]


def test_two_files_of_different_rank_stack_and_come_off_one_by_one(model, tmp_path):
    first = trained_file(model, tmp_path / "first.safetensors", rank=4, alpha=2)
    second = trained_file(model, tmp_path / "second.safetensors", rank=2, alpha=2, seed=9)
    family, parts = load(model)
    LORA.apply(family, parts, tmp_path / "first.safetensors", "first")
    LORA.apply(family, parts, tmp_path / "second.safetensors", "second")
    both = outputs(family, parts)
    assert min(difference(both, first)) > 1e-3 and min(difference(both, second)) > 1e-3
    LORA.set_weights(family, parts, {"second": 1.0})
    assert difference(second, outputs(family, parts)) == [0.0, 0.0] and parts.adapters == {"first": 0.0, "second": 1.0}
    LORA.remove(family, parts, "second")
    LORA.set_weights(family, parts, {"first": 1.0})
    assert difference(first, outputs(family, parts)) == [0.0, 0.0]


def test_a_training_goes_on_beside_an_applied_file(model, tmp_path):
    trained_file(model, tmp_path / "first.safetensors", rank=4)
    family, parts = load(model)
    LORA.apply(family, parts, tmp_path / "first.safetensors", "first")
    trainables = attach(family, parts, rank=2)
    LORA.set_weights(family, parts, {"trained": 1.0})
    assert all(parameter.requires_grad for trainable in trainables for parameter in trainable.parameters)
    frozen = [parameter for name, parameter in parts.denoiser.named_parameters() if "trained" not in name]
    assert not any(parameter.requires_grad for parameter in frozen)
    LORA.set_weights(family, parts, {})
    assert all(parameter.requires_grad for trainable in trainables for parameter in trainable.parameters)


def test_the_file_has_the_names_that_a1111_reads_and_the_true_alpha(model, tmp_path):
    trained_file(model, tmp_path / "a.safetensors", precision="float16", rank=4, alpha=3)
    tensors = load_file(tmp_path / "a.safetensors")
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    assert tensors[f"{stem}.lora_down.weight"].shape == (4, 16) and tensors[f"{stem}.lora_up.weight"].shape == (16, 4)
    assert tensors[f"{stem}.lora_down.weight"].dtype == torch.float16 and tensors[f"{stem}.alpha"].item() == 3.0
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight" in tensors
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0.alpha" in tensors
    assert not any("proj_in" in key for key in tensors)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata()["ss_network_dim"] == "4" and len(file.metadata()["sshs_model_hash"]) == 64


def test_diffusers_own_loader_gives_the_same_forward(model, tmp_path):
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    trained = trained_file(model, tmp_path / "a.safetensors", rank=4, alpha=3)
    pipeline = StableDiffusionPipeline.from_pretrained(model, local_files_only=True, safety_checker=None)
    pipeline.load_lora_weights(tmp_path, weight_name="a.safetensors", local_files_only=True)
    family, parts = load(model)
    parts.denoiser, parts.text_encoders = pipeline.unet, [pipeline.text_encoder]
    assert max(difference(trained, outputs(family, parts))) <= 1e-5


def test_a_file_saved_by_diffusers_is_read_with_its_alpha(model, tmp_path):
    from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin
    from peft import LoraConfig, get_peft_model_state_dict

    family, parts = load(model)
    generator = torch.Generator().manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    parts.denoiser.add_adapter(config)
    with torch.no_grad():
        for name, parameter in parts.denoiser.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    theirs = outputs(family, parts)
    StableDiffusionLoraLoaderMixin.save_lora_weights(
        tmp_path, get_peft_model_state_dict(parts.denoiser), unet_lora_adapter_metadata=config.to_dict(), weight_name="theirs.safetensors"
    )
    family, parts = load(model)
    LORA.apply(family, parts, tmp_path / "theirs.safetensors", "theirs")
    assert difference(theirs, outputs(family, parts))[0] <= 1e-6


def test_only_the_unet_is_loaded_and_the_file_also_has_a_text_encoder(model, tmp_path):
    trained = trained_file(model, tmp_path / "a.safetensors", rank=4)
    family, parts = load(model, parts=("unet",))
    LORA.apply(family, parts, tmp_path / "a.safetensors", "a")
    _, whole = load(model)
    parts.text_encoders, parts.tokenizers = whole.text_encoders, whole.tokenizers
    assert difference(trained, outputs(family, parts))[0] == 0.0


def test_convolutions_of_other_trainers_are_applied(model, tmp_path):
    family, parts = load(model)
    base = outputs(family, parts)
    stem = "lora_unet_down_blocks_0_resnets_0_conv1"
    down, up = torch.full((2, 16, 3, 3), 0.1), torch.full((16, 2, 1, 1), 0.1)
    tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(1.0)}
    save_file(tensors, tmp_path / "c.safetensors")
    LORA.apply(family, parts, tmp_path / "c.safetensors", "c")
    applied = outputs(family, parts)
    _, merged = load(model)
    with torch.no_grad():
        merged.denoiser.down_blocks[0].resnets[0].conv1.weight += 0.5 * torch.einsum("orxy,rikl->oikl", up, down)
    assert difference(base, applied)[0] > 1e-3 and difference(applied, outputs(family, merged))[0] < 1e-5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_never_saved_and_the_old_file_stays(model, tmp_path, value):
    family, parts = load(model)
    file = tmp_path / "a.safetensors"
    trainables = attach(family, parts, rank=4)
    LORA.save(family, parts, file, {})
    old = file.read_bytes()
    with torch.no_grad():
        trainables[0].parameters[3][0, 0] = value
    with pytest.raises(UserError, match="not a finite number"):
        LORA.save(family, parts, file, {})
    assert file.read_bytes() == old and [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_weight_beyond_float16_is_refused_in_float16_only(model, tmp_path):
    family, parts = load(model)
    with torch.no_grad():
        attach(family, parts, rank=4)[0].parameters[0][0, 0] = 1e5
    with pytest.raises(UserError, match=r"saving\.precision"):
        LORA.save(family, parts, tmp_path / "a.safetensors", {})
    LORA.save(family, parts, tmp_path / "a.safetensors", {}, precision="bfloat16")


def refused(model, file):
    family, parts = load(model)
    before = outputs(family, parts)
    with pytest.raises(UserError) as caught:
        LORA.apply(family, parts, file, "bad")
    assert "\n" not in str(caught.value) and file.name in str(caught.value)
    assert difference(before, outputs(family, parts)) == [0.0, 0.0] and parts.adapters == {}
    return str(caught.value)


def test_a_lora_of_another_model_is_refused_with_the_sizes(model, tmp_path):
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{stem}.lora_down.weight": torch.zeros(4, 2048), f"{stem}.lora_up.weight": torch.zeros(16, 4)}
    save_file(tensors, tmp_path / "xl.safetensors")
    message = refused(model, tmp_path / "xl.safetensors")
    assert "2048" in message and "24" in message
    key = "lora_te2_text_model_encoder_layers_0_self_attn_q_proj"
    save_file({f"{key}.lora_down.weight": torch.zeros(4, 8), f"{key}.lora_up.weight": torch.zeros(8, 4)}, tmp_path / "te2.safetensors")
    assert "SDXL" in refused(model, tmp_path / "te2.safetensors")


def test_other_kinds_and_damaged_files_are_refused_by_name(model, tmp_path):
    save_file({"lora_unet_x.hada_w1_a": torch.zeros(2, 2)}, tmp_path / "loha.safetensors")
    assert "LoHa" in refused(model, tmp_path / "loha.safetensors")
    trained_file(model, tmp_path / "a.safetensors", rank=4)
    whole = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "damaged" in refused(model, tmp_path / "cut.safetensors")
    (tmp_path / "page.safetensors").write_bytes(b"<html>404 not found</html>")
    assert "damaged or no" in refused(model, tmp_path / "page.safetensors")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    assert "damaged or no" in refused(model, tmp_path / "empty.safetensors")
    assert "no file" in refused(model, tmp_path / "missing.safetensors")
    tensors = load_file(tmp_path / "a.safetensors")
    tensors[next(key for key in tensors if "lora_up" in key)][0, 0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    assert "not finite" in refused(model, tmp_path / "nan.safetensors")
    del tensors[next(key for key in tensors if "lora_up" in key)]
    save_file({key: tensor.nan_to_num() for key, tensor in tensors.items()}, tmp_path / "half.safetensors")
    assert "lacks one" in refused(model, tmp_path / "half.safetensors")


def test_dropout_acts_in_train_mode_only(model):
    family, parts = load(model)
    train_a_little(attach(family, parts, rank=4, dropout=0.5, train_text_encoder=False))
    torch.manual_seed(1)
    assert difference(outputs(family, parts), outputs(family, parts))[0] > 0
    parts.denoiser.eval()
    assert difference(outputs(family, parts), outputs(family, parts)) == [0.0, 0.0]


def test_metadata_is_what_the_caller_gave(model, tmp_path):
    family, parts = load(model)
    attach(family, parts, rank=4)
    LORA.save(family, parts, tmp_path / "a.safetensors", {"ss_network_args": json.dumps({"a": 1})})
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert set(file.metadata()) == {"ss_network_args", "sshs_model_hash", "sshs_legacy_hash"}
