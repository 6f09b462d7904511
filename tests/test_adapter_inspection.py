"""What a LoRA file is told to be from its header alone; the files are made by hand, with the widths of the real models."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nosnja_gui import embeddings
from nosnja_gui.adapters import keys
from nosnja_gui.adapters.inspection import ModuleRow, Trigger, inspect

FACTS = Path(__file__).parent / "facts" / "lora_keys.txt"
K = "lora_unet_{}_transformer_blocks_0_attn2_to_k"
SD1 = K.format("down_blocks_0_attentions_0")
SDXL = K.format("input_blocks_4_1")
TEXT = "text_model_encoder_layers_0_self_attn_q_proj"


def pair(stem, inputs, outputs=8, rank=2, down=".lora_down.weight", up=".lora_up.weight", kernel=()):
    return {
        f"{stem}{down}": torch.zeros(rank, inputs, *kernel, dtype=torch.float16),
        f"{stem}{up}": torch.zeros(outputs, rank, *[1] * len(kernel), dtype=torch.float16),
    }


def looked_at(tmp_path, tensors, **metadata):
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    save_file(tensors, tmp_path / "a.safetensors", metadata=texts or None)
    return inspect(tmp_path / "a.safetensors")


def test_each_module_is_a_row_with_its_rank_and_alpha(tmp_path):
    core = "lora_unet_down_blocks_0_resnets_0_conv1"
    tensors = {
        **pair(SD1, 768, rank=4),
        f"{SD1}.alpha": torch.tensor(0.1),
        **pair(f"lora_te_{TEXT}", 768, 768),
        f"{core}.hada_w1_a": torch.zeros(3, 320),
        f"{core}.hada_w1_b": torch.zeros(3, 640),
        f"{core}.hada_w2_a": torch.zeros(3, 320),
        f"{core}.hada_w2_b": torch.zeros(3, 640),
        f"{core}.hada_t1": torch.zeros(3, 3, 3, 3),
        f"{core}.hada_t2": torch.zeros(3, 3, 3, 3),
        f"{core}.alpha": torch.tensor(6),
    }
    seen = looked_at(tmp_path, tensors)
    assert set(seen.rows) == {
        ModuleRow("unet", SD1, "LoRA", 4, 0.1, (8, 768)),
        ModuleRow("text_encoder", f"lora_te_{TEXT}", "LoRA", 2, 2.0, (768, 768)),
        ModuleRow("unet", core, "LoHa", 3, 6.0, (320, 640, 3, 3)),
    }
    assert seen.kinds == ("LoRA", "LoHa") and seen.ranks == (2, 3, 4) and seen.alphas == (0.1, 2.0, 6.0)
    assert seen.layout == "kohya" and seen.family == "SD 1.x" and seen.problems == ()
    assert seen.text_encoders == ("text_encoder",) and set(seen.precisions) == {"float16", "float32"} and seen.precisions[0] == "float32"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64])
def test_alphas_are_read_in_every_number_format(tmp_path, dtype):
    assert looked_at(tmp_path, {**pair(SD1, 768), f"{SD1}.alpha": torch.tensor(6, dtype=dtype)}).alphas == (6.0,)


@pytest.mark.parametrize(
    ("pieces", "kind", "rank", "shape"),
    [
        ({"lokr_w1": (4, 4), "lokr_w2": (80, 192)}, "LoKr", None, (320, 768)),
        ({"lokr_w1": (4, 4), "lokr_w2_a": (80, 5), "lokr_w2_b": (5, 192)}, "LoKr", 5, (320, 768)),
        ({"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 4), "lokr_w2": (80, 192, 3, 3)}, "LoKr", 2, (320, 768, 3, 3)),
        ({"lokr_w1": (4, 4), "lokr_t2": (5, 5, 3, 3), "lokr_w2_a": (5, 80), "lokr_w2_b": (5, 192)}, "LoKr", 5, (320, 768, 3, 3)),
        (
            {"lora_down.weight": (5, 768, 1, 1), "lora_mid.weight": (5, 5, 3, 3), "lora_up.weight": (320, 5, 1, 1)},
            "LoRA",
            5,
            (320, 768, 3, 3),
        ),
        ({"lora_down.weight": (5, 768), "lora_up.weight": (320, 5), "dora_scale": (320, 1)}, "DoRA", 5, (320, 768)),
        ({"lokr_w1": (4, 4), "lokr_w2": (80, 192), "dora_scale": (1, 768)}, "DoRA (LoKr)", None, (320, 768)),
        ({"hada_w1_a": (320, 5), "hada_w1_b": (5, 768), "hada_w2_a": (320, 5), "hada_w2_b": (5, 768)}, "LoHa", 5, (320, 768)),
        ({"diff": (320, 768)}, "full difference", None, (320, 768)),
        ({"w_norm": (320,), "b_norm": (320,)}, "full difference", None, (320,)),
    ],
)
def test_kinds_are_told_by_their_pieces(tmp_path, pieces, kind, rank, shape):
    seen = looked_at(tmp_path, {f"lora_unet_x.{end}": torch.zeros(size) for end, size in pieces.items()})
    assert [(row.kind, row.rank, row.shape) for row in seen.rows] == [(kind, rank, shape)] and seen.kinds == (kind,)
    assert seen.rows[0].alpha == (None if rank is None else float(rank))


@pytest.mark.parametrize(
    ("stem", "down", "up", "layout", "part"),
    [
        ("unet.down_blocks.0.attentions.0.attn2.to_k", ".lora_A.weight", ".lora_B.weight", "diffusers", "unet"),
        ("text_encoder_2.text_model.fc1.lora_linear_layer", ".down.weight", ".up.weight", "diffusers", "text_encoder_2"),
        ("down_blocks.0.attentions.0.attn2.processor.to_k_lora", ".down.weight", ".up.weight", "diffusers", "unet"),
        ("base_model.model.down_blocks.0.attn2.to_k", ".lora_A.default.weight", ".lora_B.default.weight", "peft", "unet"),
        ("diffusion_model.input_blocks.1.1.attn2.to_k", ".lora_down.weight", ".lora_up.weight", "comfyui", "unet"),
        ("text_encoders.clip_g.transformer.text_model.encoder.q_proj", ".lora_down.weight", ".lora_up.weight", "comfyui", "text_encoder_2"),
        ("lycoris_down_blocks_0_attn2_to_k", ".lora_down.weight", ".lora_up.weight", "lycoris", "unet"),
        ("lora_te2_text_model_encoder_layers_0_q_proj", ".lora_down.weight", ".lora_up.weight", "kohya", "text_encoder_2"),
    ],
)  # fmt: skip
def test_layouts_and_parts_are_told_by_the_names(tmp_path, stem, down, up, layout, part):
    seen = looked_at(tmp_path, pair(stem, 768, down=down, up=up))
    assert (seen.layout, seen.parts) == (layout, (part,))


@pytest.mark.parametrize(
    ("stem", "inputs", "kernel", "metadata", "family"),
    [
        (SD1, 768, (), {}, "SD 1.x"),
        (SD1, 1024, (), {}, "SD 2.x"),
        (SDXL, 2048, (), {}, "SDXL"),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v", 2048, (), {}, "SDXL"),
        (SDXL.replace("attn2", "attn1").replace("blocks_0_attn", "blocks_1_attn"), 640, (), {}, "SDXL"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in", 320, (1, 1), {}, "SD 1.x"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in", 320, (), {}, "SD 2.x"),
        (f"lora_te_{TEXT}", 768, (), {}, "SD 1.x"),
        (f"lora_te_{TEXT}", 1024, (), {}, "SD 2.x"),
        (f"lora_te1_{TEXT}", 768, (), {}, "SDXL"),
        (f"lora_te2_{TEXT}", 1280, (), {}, "SDXL"),
        ("lora_unet_double_blocks_0_img_attn_qkv", 3072, (), {}, "Flux"),
        ("transformer.transformer_blocks.0.attn.to_q", 3072, (), {}, "Flux"),
        ("transformer.transformer_blocks.0.attn.to_q", 1536, (), {}, "SD 3"),
        ("lora_unet_joint_blocks_0_x_block_attn_qkv", 1536, (), {}, "SD 3"),
        ("lora_unet_mid_block_resnets_0_conv1", 1280, (3, 3), {"ss_base_model_version": "sd_v1"}, "SD 1.x"),
        ("lora_unet_mid_block_resnets_0_conv1", 1280, (3, 3), {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "SDXL"),
        ("lora_unet_mid_block_resnets_0_conv1", 1280, (3, 3), {}, ""),
        (SD1, 24, (), {}, ""),
    ],
)
def test_the_family_is_told_by_shapes_and_names(tmp_path, stem, inputs, kernel, metadata, family):
    assert looked_at(tmp_path, pair(stem, inputs, kernel=kernel), **metadata).family == family


def test_a_lokrs_family_is_told_by_the_product_of_its_factors(tmp_path):
    assert looked_at(tmp_path, {f"{SDXL}.lokr_w1": torch.zeros(4, 4), f"{SDXL}.lokr_w2": torch.zeros(8, 512)}).family == "SDXL"


def test_alphas_that_peft_states_are_told(tmp_path):
    stem = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.{}"
    tensors = {
        key: tensor
        for name in ("to_q", "to_k")
        for key, tensor in pair(stem.format(name), 320, down=".lora_A.weight", up=".lora_B.weight").items()
    }
    seen = looked_at(tmp_path, tensors, lora_adapter_metadata={"unet.lora_alpha": 5, "unet.alpha_pattern": {"to_k": 3}})
    assert {row.module.rpartition(".")[2]: row.alpha for row in seen.rows} == {"to_q": 5.0, "to_k": 3.0} and not seen.problems
    assert "alphas" in looked_at(tmp_path, tensors, lora_adapter_metadata="{").problems[0]


def test_trigger_words_are_what_is_stated_and_what_stands_in_nearly_all_captions(tmp_path):
    frequencies = {"10_costume": {"costume": 20, "girl": 19, "red dress": 18, "stairs": 3}, "5_hat": {"hat": 4, "girl": 1}, "1_none": {}}
    seen = looked_at(
        tmp_path,
        pair(SD1, 768),
        **{
            "modelspec.trigger_phrase": "nosnja costume",
            "nosnja_trigger": "nosnja costume",
            "ss_tag_frequency": frequencies,
            "ss_dataset_dirs": {"10_costume": {"n_repeats": 10, "img_count": 20}},
        },
    )
    assert seen.triggers == (
        Trigger("nosnja costume"),
        Trigger("costume", 20, 20, "10_costume"),
        Trigger("girl", 19, 20, "10_costume"),
        Trigger("red dress", 18, 20, "10_costume"),
        Trigger("hat", 4, 4, "5_hat"),
    )
    assert looked_at(tmp_path, pair(SD1, 768), ss_tag_frequency="[1]").triggers == ()


def test_training_settings_are_grouped_and_readable(tmp_path):
    said = {
        "ss_network_dim": "16", "ss_learning_rate": "0.0001", "ss_unet_lr": "None", "ss_flip_aug": "True",
        "ss_training_started_at": "1700000000.5",
        "ss_network_args": {"algo": "loha", "conv_dim": 8}, "ss_dataset_dirs": {"10_costume": {"n_repeats": 10, "img_count": 20}},
        "ss_new_wish": "7", "ss_tag_frequency": {}, "modelspec.title": "costume",
    }  # fmt: skip
    seen = looked_at(tmp_path, pair(SD1, 768), **said)
    assert seen.settings == {
        "network": {"network rank": "16", "network args": "algo: loha, conv_dim: 8"},
        "training": {"learning rate": "0.0001", "training started at": "2023-11-14 22:13 UTC"},
        "pictures": {"flip": "yes", "dataset dirs": "10_costume: n_repeats 10 img_count 20"},
        "other": {"new wish": "7"},
    }
    assert seen.metadata["modelspec.title"] == "costume" and seen.metadata["ss_unet_lr"] == "None"


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"lora_unet_x.oft_diag": torch.zeros(2, 2, 2), "lora_unet_x.alpha": torch.tensor(1.0)}, "an OFT"),
        ({"lora_unet_x.weight": torch.zeros(2), "lora_unet_x.on_input": torch.tensor(True)}, "an IA3"),
        ({**pair(SD1, 768), "emb_params": torch.zeros(2, 768)}, "a textual inversion"),
        ({"model.diffusion_model.out.2.weight": torch.zeros(4, 4)}, "no LoRA weights"),
        ({**pair(SD1, 768), "lora_unet_x.strange": torch.zeros(2)}, "'lora_unet_x.strange'"),
        ({"lora_unet_x.lora_down.weight": torch.zeros(2, 4)}, "lacks up"),
        ({"lora_unet_x.lora_down.weight": torch.zeros(2, 4), "lora_unet_x.lora_up.weight": torch.zeros(4, 3)}, "don't fit each other"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path, tensors, said):
    seen = looked_at(tmp_path, tensors)
    assert len(seen.problems) == 1 and said in seen.problems[0] and seen.problems[0].endswith(".") and "a.safetensors" in seen.problems[0]


def test_damaged_and_missing_files_are_a_problem_and_no_error(tmp_path):
    save_file(pair(SD1, 768), tmp_path / "whole.safetensors")
    content = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-10])
    (tmp_path / "shapeless.safetensors").write_bytes(content.replace(b'"shape"', b'"shbpe"'))
    for name in ("cut", "shapeless"):
        assert "damaged" in inspect(tmp_path / f"{name}.safetensors").problems[0]
    assert "no file" in inspect(tmp_path / "missing.safetensors").problems[0]


@pytest.mark.parametrize(
    "layout", sorted({line.split("\t")[0] for line in FACTS.read_text(encoding="utf-8").splitlines() if line[:1] != "#"} - {""})
)
def test_real_key_names_are_recognised(layout):
    lines = [line.split("\t") for line in FACTS.read_text(encoding="utf-8").splitlines() if line.startswith(f"{layout}\t")]
    names = [key for _, key in lines]
    modules, strange = keys.grouped(names)
    if layout == "other-lycoris":
        assert keys.other_kind(names)
        return
    assert strange == [] and keys.other_kind(names) == ""
    if layout == "bundled":
        assert modules == {} and embeddings.bundled_words(names) == ["myword"]
        return
    assert {keys.part_of(stem) for stem in modules} <= {"unet", "text_encoder", "text_encoder_2"}
    expected = {"comfyui": "comfyui", "lycoris-wrapper": "lycoris"}.get(
        layout, "diffusers" if layout.startswith(("diffusers", "peft")) else "kohya"
    )
    assert keys.layout_of(modules) == expected
    assert all(keys.kind(roles) for roles in modules.values())


def test_looking_needs_no_torch():
    code = "import sys\nfrom nosnja_gui.adapters import inspection, keys, reading, writing\n"
    code += "print({'torch', 'safetensors', 'peft'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
