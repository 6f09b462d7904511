"""LoRA files of every family: written in each layout, read back by our reader and by diffusers, applied and taken off again."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_model

from nosnja_gui.adapters import Adapter, Decomposed, Full, Hadamard, Kronecker, LowRank
from nosnja_gui.adapters.reading import read
from nosnja_gui.adapters.writing import LAYOUTS, encode
from nosnja_gui.engine import roundtrip
from nosnja_gui.engine.models import load_model
from nosnja_gui.methods import Recipe
from nosnja_gui.methods.lora import ENTRY as LORA
from nosnja_gui.methods.lora import LoraSettings
from nosnja_gui.settings import UserError

torch.set_num_threads(1)
CPU = torch.device("cpu")
KINDS = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: tiny_model(tmp_path_factory.mktemp("models") / kind, kind) for kind in KINDS}


def trained(folder, rank=4, alpha=2.0):
    family, parts = load_model(folder, CPU, torch.float32)
    torch.manual_seed(1)
    trainables = LORA.attach(family, parts, Recipe({"lora": LoraSettings(rank=rank, alpha=alpha)}, train_text_encoder=True))
    with torch.no_grad():
        for trainable in trainables:
            for parameter in trainable.parameters:
                parameter += 0.1 * torch.randn(parameter.shape)
    return family, parts


def state(parts):
    modules = {"denoiser": parts.denoiser} | {f"text {place}": encoder for place, encoder in enumerate(parts.text_encoders)}
    return {f"{part}.{name}": tensor.clone() for part, module in modules.items() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_is_read_back_and_nothing_is_left_behind(folders, tmp_path, kind, layout):
    family, parts = trained(folders[kind])
    before, base = state(parts), roundtrip.forward(family, parts)
    file = tmp_path / "lora.safetensors"
    LORA.save(family, parts, file, {"ss_base_model_version": family.kohya_version}, precision="float32", layout=layout)
    result = roundtrip.check(family, parts, LORA.trained(family, parts), file, layout)
    assert result.ours == 0.0
    assert (result.diffusers is None) == (layout == "comfyui") and (result.diffusers or 0.0) < 1e-4
    after = state(parts)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(a, b) for a, b in zip(base, roundtrip.forward(family, parts), strict=True))
    keys = list(load_file(file))
    starts = {
        "kohya": {"sd1": ("lora_unet_down_", "lora_te_text_model_"), "sd2": ("lora_unet_down_", "lora_te_text_model_"),
                  "sdxl": ("lora_unet_input_blocks_", "lora_te1_text_model_", "lora_te2_text_model_")},
        "diffusers": {"sd1": ("unet.", "text_encoder."), "sd2": ("unet.", "text_encoder."),
                      "sdxl": ("unet.", "text_encoder.", "text_encoder_2.")},
        "comfyui": {"sd1": ("diffusion_model.input_blocks.", "text_encoders.clip_l."), "sd2": ("diffusion_model.", "text_encoders.clip_h."),
                    "sdxl": ("diffusion_model.", "text_encoders.clip_l.", "text_encoders.clip_g.")},
    }[layout][kind]  # fmt: skip
    assert all(any(key.startswith(start) for key in keys) for start in starts)


def test_half_precision_is_near_and_a_lost_module_is_noticed(folders, tmp_path):
    family, parts = trained(folders["sdxl"])
    adapter, file = LORA.trained(family, parts), tmp_path / "half.safetensors"
    LORA.save(family, parts, file, {})
    result = roundtrip.check(family, parts, adapter, file, "kohya")
    assert 0 < result.ours < 0.01 and 0 < result.diffusers < 0.01
    kept = load_file(file)
    stem = next(key for key in kept if key.endswith("lora_up.weight")).removesuffix("lora_up.weight")
    save_file({key: tensor for key, tensor in kept.items() if not key.startswith(stem)}, file)
    with pytest.raises(UserError, match="1 modules are lost"):
        roundtrip.check(family, parts, adapter, file, "kohya")


def others(names):
    """One update of each kind that is no plain LoRA, each on a module of its own, and a difference of a bias."""
    generator = torch.Generator().manual_seed(4)

    def some(*shape):
        return 0.2 * torch.randn(shape, generator=generator)

    unet = next(part for part in names if part.part == "unet")
    linear = [name for name, shape in unet.shapes.items() if len(shape) == 2 and "to_" in name]
    convolution = next(name for name, shape in unet.shapes.items() if len(shape) == 4 and shape[2] == 3)
    rows, columns = unet.shapes[linear[0]]
    low = LowRank(some(2, columns), some(rows, 2), 2.0)
    second = unet.shapes[linear[1]]
    third = unet.shapes[linear[2]]
    wide = unet.shapes[convolution]
    return Adapter(
        {
            ("unet", linear[0]): Decomposed(low, some(rows, 1) + 2),
            ("unet", linear[1]): Hadamard(some(second[0], 2), some(2, second[1]), some(second[0], 2), some(2, second[1]), 1.0),
            ("unet", linear[2]): Kronecker(some(2, 2), some(third[0] // 2, third[1] // 2), 1.0),
            ("unet", convolution): Full(some(*wide)),
            ("text_encoder", "encoder.layers.0.mlp.fc1"): LowRank(some(2, 64), some(256, 2), 1.0),
        },
        {("unet", convolution): some(wide[0])},
    )


def test_what_is_no_plain_lora_is_added_to_the_weights_and_taken_off_to_the_last_bit(folders, tmp_path):
    family, parts = load_model(folders["sd1"], CPU, torch.float32)
    names = family.names(parts)
    adapter = others(names)
    (tmp_path / "kin.safetensors").write_bytes(encode(adapter, names, "kohya", "float32"))
    LORA.save(*trained(folders["sd1"]), tmp_path / "plain.safetensors", {}, precision="float32")
    base, before = roundtrip.forward(family, parts), state(parts)
    LORA.apply(family, parts, tmp_path / "kin.safetensors", "kin")
    LORA.apply(family, parts, tmp_path / "plain.safetensors", "plain")
    LORA.set_weights(family, parts, {"kin": 0.7})
    found = roundtrip.forward(family, parts)

    _, merged = load_model(folders["sd1"], CPU, torch.float32)
    modules = {part: module for part, (module, _) in family.trainable_modules(merged).items()}
    with torch.no_grad():
        for (part, name), update in adapter.updates.items():
            weight = modules[part].get_submodule(name).weight
            weight += 0.7 * update.delta(weight)
        for (part, name), bias in adapter.biases.items():
            modules[part].get_submodule(name).bias += 0.7 * bias
    expected = roundtrip.forward(family, merged)
    assert max((a - b).abs().max() for a, b in zip(expected, found, strict=True)) < 1e-4
    assert (base[0] - found[0]).abs().max() > 1e-2

    LORA.set_weights(family, parts, {})
    assert all(torch.equal(a, b) for a, b in zip(base, roundtrip.forward(family, parts), strict=True))
    LORA.set_weights(family, parts, {"kin": 1.0, "plain": 0.5})
    LORA.remove(family, parts, "kin")
    LORA.remove(family, parts, "plain")
    after = state(parts)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_training_goes_on_from_a_lora(folders, tmp_path):
    family, parts = trained(folders["sdxl"], rank=2, alpha=1.0)
    expected, adapter = roundtrip.forward(family, parts), LORA.trained(family, parts)
    family, fresh = load_model(folders["sdxl"], CPU, torch.float32)
    torch.manual_seed(8)
    LORA.attach(family, fresh, Recipe({"lora": LoraSettings(rank=6, alpha=12)}, train_text_encoder=True))
    LORA.start_from(family, fresh, adapter)
    found = roundtrip.forward(family, fresh)
    assert max((a - b).abs().max() for a, b in zip(expected, found, strict=True)) < 1e-4


def test_a_lora_of_another_family_is_refused_by_what_it_is(folders, tmp_path):
    for kind in KINDS:
        LORA.save(*trained(folders[kind]), tmp_path / f"{kind}.safetensors", {}, precision="float32")
    for kind in KINDS:
        family, parts = load_model(folders[kind], CPU, torch.float32)
        for other in set(KINDS) - {kind}:
            with pytest.raises(UserError) as caught:
                LORA.apply(family, parts, tmp_path / f"{other}.safetensors", "other")
            assert "\n" not in str(caught.value) and "doesn't fit" in str(caught.value)
        assert read(tmp_path / f"{kind}.safetensors", family.names(parts), "x").parts


@pytest.mark.parametrize("kind", KINDS)
def test_a_stand_in_without_weights_notices_what_a_model_would(folders, tmp_path, kind):
    from nosnja_gui.engine.stand_in import stand_in
    from nosnja_gui.families import FAMILIES
    from nosnja_gui.sources import Folder

    family = FAMILIES[kind]
    parts = stand_in(family, Folder(folders[kind]))
    sizes = {}
    for module in (parts.denoiser, *parts.text_encoders):
        for parameter in module.parameters():
            sizes[parameter.untyped_storage().data_ptr()] = parameter.untyped_storage().nbytes()
    whole = sum(4 * parameter.numel() for module in (parts.denoiser, *parts.text_encoders) for parameter in module.parameters())
    assert sum(sizes.values()) < whole / 10
    assert all(torch.isfinite(output).all() and output.std() > 0.01 for output in roundtrip.forward(family, parts))
    real_family, real_parts = trained(folders[kind])
    adapter, file = LORA.trained(real_family, real_parts), tmp_path / "lora.safetensors"
    LORA.save(real_family, real_parts, file, {}, precision="float32")
    result = roundtrip.check(family, parts, adapter, file, "kohya")
    assert result.ours < 1e-5 and result.diffusers < 1e-3
    kept = load_file(file)
    stem = next(key for key in kept if "attn2_to_v" in key and key.endswith("lora_up.weight"))
    save_file({**kept, stem: 1.5 * kept[stem]}, file)
    assert roundtrip.check(family, parts, adapter, file, "kohya").ours > 1e-3
