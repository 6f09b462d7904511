"""The maps of the original layout against recorded keys of real files, against diffusers' own converters and there and back again."""

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from original import PREFIXES, classic_names, names_of, read_part, to_original, write_single_file
from tiny import tiny_sd

import nosnja_gui.families
from nosnja_gui.families.original import Origin, clip_names, open_clip_names, unet_names, vae_names

CONFIGS = Path(nosnja_gui.families.__file__).parent / "configs"
FACTS = Path(__file__).parent / "facts"
PARTS = [(layout, part) for layout, parts in PREFIXES.items() for part in parts]
LEFTOVERS = {
    ("sd1", "text_encoder"): {r"text_model\.embeddings\.position_ids"},
    ("sdxl", "text_encoder"): {r"text_model\.embeddings\.position_ids"},
    # SD 2.x was trained on the last layer but one, so neither the last one nor the projection after it is used.
    ("sd2", "text_encoder"): {"logit_scale", "text_projection", r"transformer\.resblocks\.23\..*"},
    ("sdxl", "text_encoder_2"): {"logit_scale"},
}
LDM = {
    # CompVis/stable-diffusion, configs/stable-diffusion/v1-inference.yaml
    "sd1": {
        "image": 512,
        "scale_factor": 0.18215,
        "unet": {
            "attention_resolutions": [4, 2, 1],
            "channel_mult": [1, 2, 4, 4],
            "num_heads": 8,
            "transformer_depth": 1,
            "context_dim": 768,
        },
    },
    # Stability-AI/stablediffusion, configs/stable-diffusion/v2-inference-v.yaml (parameterization: v)
    "sd2": {
        "image": 768,
        "scale_factor": 0.18215,
        "unet": {
            "attention_resolutions": [4, 2, 1],
            "channel_mult": [1, 2, 4, 4],
            "num_head_channels": 64,
            "use_linear_in_transformer": True,
            "transformer_depth": 1,
            "context_dim": 1024,
        },
    },
    # Stability-AI/generative-models, configs/inference/sd_xl_base.yaml
    "sdxl": {
        "image": 1024,
        "scale_factor": 0.13025,
        "unet": {
            "attention_resolutions": [4, 2],
            "channel_mult": [1, 2, 4],
            "num_head_channels": 64,
            "use_linear_in_transformer": True,
            "transformer_depth": [1, 2, 10],
            "context_dim": 2048,
            "adm_in_channels": 2816,
            "num_classes": "sequential",
        },
    },
}


def config_of(layout: str, part: str) -> dict[str, Any]:
    return json.loads((CONFIGS / layout / f"{part}.json").read_text(encoding="utf-8"))


def build(part: str, config: dict[str, Any], device: str = "meta") -> dict[str, torch.Tensor]:
    """The weights of a new module with this configuration, text encoders' with the classic names."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device(device):
        match part:
            case "unet":
                return UNet2DConditionModel.from_config(config).state_dict()
            case "vae":
                return AutoencoderKL.from_config(config).state_dict()
        kind = {"CLIPTextModel": CLIPTextModel, "CLIPTextModelWithProjection": CLIPTextModelWithProjection}[config["architectures"][0]]
        return dict(classic_names(kind(CLIPTextConfig(**config)).state_dict()))


def real_keys(layout: str) -> dict[str, tuple[int, ...]]:
    lines = gzip.decompress((FACTS / f"{layout}_keys.txt.gz").read_bytes()).decode().splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    return {key: tuple(int(side) for side in shape.split(",") if side) for key, shape in rows}


def real_part(layout: str, part: str) -> dict[str, tuple[int, ...]]:
    prefix = PREFIXES[layout][part]
    return {key.removeprefix(prefix): shape for key, shape in real_keys(layout).items() if key.startswith(prefix)}


def shape_there(shape: tuple[int, ...], origin: Origin) -> tuple[int, ...]:
    if origin.third is not None:
        return (3 * shape[0], *shape[1:])
    return shape[::-1] if origin.transposed else shape


def without_trailing_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


# Real files


@pytest.mark.parametrize(("layout", "part"), PARTS)
def test_every_weight_of_a_standard_model_stands_in_the_real_file_with_a_shape_that_fits(layout, part):
    config, real = config_of(layout, part), real_part(layout, part)
    weights, names = build(part, config), names_of(layout, part, config)
    assert set(weights) == set(names)
    wrong = {
        name: (origin, tuple(weights[name].shape), real.get(origin.key))
        for name, origin in names.items()
        if origin.key not in real
        or without_trailing_ones(shape_there(tuple(weights[name].shape), origin)) != without_trailing_ones(real[origin.key])
    }
    assert wrong == {}


@pytest.mark.parametrize(("layout", "part"), PARTS)
def test_every_key_of_the_real_file_is_used_once_or_known_to_be_left_over(layout, part):
    names = names_of(layout, part, config_of(layout, part))
    places = [(origin.key, origin.third) for origin in names.values()]
    assert len(set(places)) == len(places)
    fused = {key for key, third in places if third is not None}
    assert all((key, third) in places for key in fused for third in (0, 1, 2))
    assert not any((key, None) in places for key in fused)

    unused = set(real_part(layout, part)) - {key for key, _ in places}
    known = LEFTOVERS.get((layout, part), set())
    assert {key for key in unused if not any(re.fullmatch(pattern, key) for pattern in known)} == set()
    assert {pattern for pattern in known if not any(re.fullmatch(pattern, key) for key in unused)} == set()


@pytest.mark.parametrize("layout", PREFIXES)
def test_every_recorded_key_belongs_to_a_part(layout):
    prefixes = tuple(PREFIXES[layout].values())
    keys = real_keys(layout)
    assert {key for key in keys if not key.startswith(prefixes)} == set()
    assert len(keys) == {"sd1": 1131, "sd2": 1228, "sdxl": 2515}[layout]


# The configurations


@pytest.mark.parametrize(("layout", "part"), PARTS)
def test_configurations_hold_nothing_that_their_class_does_not_know(layout, part):
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig

    config = config_of(layout, part)
    if part in ("unet", "vae"):
        kind = {"UNet2DConditionModel": UNet2DConditionModel, "AutoencoderKL": AutoencoderKL}[config.pop("_class_name")]
        assert kind.extract_init_dict(config)[1] == {}
    else:
        known = set(CLIPTextConfig().to_dict()) | {"architectures"}
        assert set(config) - known == set()


@pytest.mark.parametrize("layout", PREFIXES)
def test_unet_and_autoencoder_are_as_the_original_training_configuration_has_them(layout):
    """diffusers' reading of the original .yaml; what it leaves out is not compared."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import create_unet_diffusers_config_from_ldm, create_vae_diffusers_config_from_ldm

    facts = LDM[layout]
    always = {"in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": 2, "use_spatial_transformer": True}
    autoencoder = {"z_channels": 4, "in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    params = {
        "scale_factor": facts["scale_factor"],
        "unet_config": {"params": always | facts["unet"]},
        "first_stage_config": {"params": {"ddconfig": autoencoder}},
    }
    checkpoint = {key: torch.empty(shape, device="meta") for key, shape in real_keys(layout).items()}
    with torch.device("meta"):
        ours = UNet2DConditionModel.from_config(config_of(layout, "unet")).config
    theirs = create_unet_diffusers_config_from_ldm({"model": {"params": params}}, checkpoint)
    assert {key: ours[key] for key in theirs} == theirs
    theirs = create_vae_diffusers_config_from_ldm({"model": {"params": params}}, checkpoint)
    assert {key: config_of(layout, "vae").get(key) for key in theirs} == theirs


def test_what_shapes_and_training_configurations_do_not_tell():
    """Recorded in lllyasviel/stable-diffusion-webui-forge, backend/huggingface/ (the published configurations)."""
    text = {layout: config_of(layout, "text_encoder") for layout in PREFIXES}
    assert {
        layout: (config["hidden_act"], config["num_attention_heads"], config["num_hidden_layers"]) for layout, config in text.items()
    } == {
        "sd1": ("quick_gelu", 12, 12),
        "sd2": ("gelu", 16, 23),
        "sdxl": ("quick_gelu", 12, 12),
    }
    second = config_of("sdxl", "text_encoder_2")
    assert (second["hidden_act"], second["num_attention_heads"], second["projection_dim"]) == ("gelu", 20, 1280)
    assert config_of("sdxl", "vae")["force_upcast"] is True
    schedulers = {layout: config_of(layout, "scheduler") for layout in PREFIXES}
    assert {layout: config["prediction_type"] for layout, config in schedulers.items()} == {
        "sd1": "epsilon",
        "sd2": "v_prediction",
        "sdxl": "epsilon",
    }
    for config in schedulers.values():
        assert (config["beta_schedule"], config["beta_start"], config["beta_end"]) == ("scaled_linear", 0.00085, 0.012)
        assert (config["num_train_timesteps"], config["steps_offset"]) == (1000, 1)


@pytest.mark.parametrize("layout", PREFIXES)
def test_schedulers_can_be_made_from_their_configurations(layout):
    import diffusers

    config = config_of(layout, "scheduler")
    kind = getattr(diffusers, config["_class_name"])
    assert kind.extract_init_dict(config)[1] == {}
    assert kind.from_config(config).config.prediction_type == config["prediction_type"]


# diffusers' own converters


def tagged(real: dict[str, tuple[int, ...]], prefix: str) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Tensors of the real shapes that hold nothing but a number of their own and take no memory; and those numbers by key."""
    tags = {key: number for number, key in enumerate(real)}
    return {prefix + key: torch.tensor(float(tags[key])).expand(real[key]) for key in real}, tags


def first(tensor: torch.Tensor) -> float:
    return tensor[(0,) * tensor.ndim].item()


@pytest.mark.parametrize("layout", PREFIXES)
@pytest.mark.parametrize("part", ["unet", "vae"])
def test_full_size_unet_and_autoencoder_are_assigned_as_diffusers_does(layout, part):
    from diffusers.loaders import single_file_utils as theirs

    checkpoint, tags = tagged(real_part(layout, part), PREFIXES[layout][part])
    convert = theirs.convert_ldm_unet_checkpoint if part == "unet" else theirs.convert_ldm_vae_checkpoint
    config = config_of(layout, part)
    converted = convert(checkpoint, config)
    names = names_of(layout, part, config)
    assert {name: first(tensor) for name, tensor in converted.items()} == {name: tags[origin.key] for name, origin in names.items()}


def random_unet(seed: int) -> dict[str, Any]:
    """Two to four levels of one to three layers, with attention here and there."""
    dice = random.Random(seed)
    levels = dice.randint(2, 4)
    attends = [dice.random() < 0.6 for _ in range(levels)]
    attends[dice.randrange(levels)] = True
    channels = [dice.choice((8, 16, 24)) for _ in range(levels)]
    config: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": channels,
        "down_block_types": ["CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends)],
        "layers_per_block": dice.randint(1, 3),
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": 12,
        "use_linear_projection": dice.random() < 0.5,
    }
    if dice.random() < 0.5:
        config["transformer_layers_per_block"] = [dice.randint(1, 3) for _ in range(levels)]
    if dice.random() < 0.5:
        extra = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 20}
        config |= extra
    return config


SMALLER_SDXL = {
    # The kind of unevenness that distilled models have, such as segmind/SSD-1B: depth by layer, no attention in the middle.
    "block_out_channels": [8, 16, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, [2, 2], [4, 3]],
    "reverse_transformer_layers_per_block": [[4, 3, 5], [2, 1, 1], 1],
    "mid_block_type": "UNetMidBlock2D",
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "cross_attention_dim": 12,
}


@pytest.mark.parametrize("config", [*map(random_unet, range(8)), SMALLER_SDXL], ids=[*map(str, range(8)), "uneven"])
def test_small_unets_go_through_diffusers_converter_unchanged(config):
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    torch.manual_seed(0)
    weights = build("unet", config, "cpu")
    names = unet_names(config)
    assert set(names) == set(weights)
    file = {f"model.diffusion_model.{key}": tensor for key, tensor in to_original(weights, names).items()}
    assert_same(convert_ldm_unet_checkpoint(file, config), weights)


@pytest.mark.parametrize("channels", [[8, 8, 16, 16], [8, 16], [16, 8, 16]])
@pytest.mark.parametrize("layers", [1, 2])
def test_small_autoencoders_go_through_diffusers_converter_unchanged(channels, layers):
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    config = {
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "layers_per_block": layers,
        "norm_num_groups": 4,
    }
    weights = build("vae", config, "cpu")
    names = vae_names(config)
    assert set(names) == set(weights)
    file = {f"first_stage_model.{key}": tensor for key, tensor in to_original(weights, names).items()}
    assert file["first_stage_model.decoder.mid.attn_1.q.weight"].ndim == 4
    assert_same(convert_ldm_vae_checkpoint(file, config), weights)


def test_an_autoencoder_without_quantising_convolutions_has_none():
    config = config_of("sdxl", "vae") | {"use_quant_conv": False, "use_post_quant_conv": False}
    assert set(vae_names(config)) == set(build("vae", config))


@pytest.mark.parametrize("prefix", ["cond_stage_model.transformer.", "conditioner.embedders.0.transformer."])
def test_clip_goes_through_diffusers_converter_unchanged(prefix):
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint

    config = config_of("sd1", "text_encoder") | {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 50}
    weights = build("text_encoder", config, "cpu")
    names = clip_names(config)
    assert set(names) == set(weights)
    assert_same(convert_ldm_clip_checkpoint({prefix + key: tensor for key, tensor in to_original(weights, names).items()}), weights)


@pytest.mark.parametrize(("layout", "part"), [("sd2", "text_encoder"), ("sdxl", "text_encoder_2")])
def test_open_clip_goes_through_diffusers_converter_unchanged(layout, part):
    """As many layers as the real one has, but narrow; the projection is not square, so that turning it shows."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel

    config = config_of(layout, part) | {"hidden_size": 8, "intermediate_size": 20, "num_attention_heads": 2, "vocab_size": 50}
    config |= {"projection_dim": 6}
    weights = build(part, config, "cpu")
    names = open_clip_names(config, projection=layout == "sdxl")
    assert set(names) == set(weights)
    prefix = PREFIXES[layout][part]
    file = {prefix + key: tensor for key, tensor in to_original(weights, names).items()}
    if layout == "sdxl":
        assert file[f"{prefix}text_projection"].shape == (8, 6)
    with torch.device("meta"):
        model = CLIPTextModel(CLIPTextConfig(**config))
    assert_same(convert_open_clip_checkpoint(model, file, prefix=prefix), weights)


def assert_same(converted: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]) -> None:
    assert set(converted) == set(weights)
    assert [name for name in weights if not torch.equal(converted[name], weights[name])] == []


# A whole file


@pytest.fixture(scope="module")
def tiny_folders(tmp_path_factory) -> dict[str, Path]:
    """The tiny model as it is, and with text encoders that the other two layouts can hold."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    folders = {layout: tiny_sd(tmp_path_factory.mktemp("models") / layout) for layout in PREFIXES}
    plain = json.loads((folders["sdxl"] / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    CLIPTextModel(CLIPTextConfig(**plain)).save_pretrained(folders["sd2"] / "text_encoder")
    projecting = plain | {"architectures": ["CLIPTextModelWithProjection"], "projection_dim": 10}
    CLIPTextModelWithProjection(CLIPTextConfig(**projecting)).save_pretrained(folders["sdxl"] / "text_encoder_2")
    return folders


@pytest.mark.parametrize("layout", PREFIXES)
def test_a_written_file_holds_the_folder_under_keys_like_real_ones(layout, tiny_folders, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file

    file = write_single_file(tiny_folders[layout], tmp_path / "deep" / "model.safetensors", layout, metadata={"modelspec.title": "tiny"})
    written = load_file(file)
    with safe_open(file, "pt") as content:
        assert content.metadata() == {"modelspec.title": "tiny"}

    def without_numbers(keys):
        return {re.sub(r"\d+", "#", key) for key in keys}

    assert without_numbers(written) <= without_numbers(real_keys(layout))
    for part, prefix in PREFIXES[layout].items():
        config = json.loads((tiny_folders[layout] / part / "config.json").read_text(encoding="utf-8"))
        weights = read_part(tiny_folders[layout] / part)
        for name, origin in names_of(layout, part, config).items():
            tensor = written[prefix + origin.key]
            if origin.third is not None:
                tensor = tensor.chunk(3)[origin.third]
            tensor = tensor.T if origin.transposed else tensor
            assert torch.equal(tensor.reshape(weights[name].shape), weights[name]), name


def test_a_written_file_can_be_in_another_precision_with_whole_numbers_left_whole(tiny_folders, tmp_path):
    from safetensors.torch import load_file

    written = load_file(write_single_file(tiny_folders["sd1"], tmp_path / "half.safetensors", "sd1", dtype=torch.float16))
    assert {tensor.dtype for tensor in written.values()} == {torch.float16, torch.int64}


def test_diffusers_reads_a_written_file(tiny_folders, tmp_path):
    """Its own loader for single files, with nothing but the folder's configuration."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    folder = tiny_folders["sd1"]
    file = write_single_file(folder, tmp_path / "model.safetensors", "sd1")
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        read = kind.from_single_file(str(file), config=str(folder), subfolder=part, local_files_only=True)
        assert_same(read.state_dict(), read_part(folder / part))


# LoRA files


def test_recorded_lora_keys_are_well_formed_and_each_group_names_its_source():
    lines = (FACTS / "lora_keys.txt").read_text(encoding="utf-8").splitlines()
    sourced = None
    for line in lines[1:]:
        if line.startswith("# "):
            sourced = re.match(r"# ([a-z0-9-]+)", line)[1]
            assert re.search(r"[\w-]+/[\w.-]+ \S+\.(py|txt)", line), line
        else:
            layout, key = line.split("\t")
            assert layout == sourced and key and " " not in key
    rows = [line for line in lines if not line.startswith("#")]
    assert len(rows) == len(set(rows))
