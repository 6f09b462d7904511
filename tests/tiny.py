"""A very small Stable Diffusion 1.x with random weights, in the layout and with the key names of the real downloads.

Everything that is special about a real one is there: a CLIPTokenizer with a byte-pair vocabulary of its own, a text
encoder saved under the classic `text_model.` names, an f=8 autoencoder, cross attention, a scaled_linear schedule.
"""

import json
import shutil
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

WORDS = """
    a an the of in on at and with without standing sitting wearing photo drawing picture portrait close up girl boy woman man
    dog cat car house tree dress shirt trousers coat costume outfit red green blue yellow white black colorful traditional folk
    stairs fence wood grass field snow beach city street room night sky mountains front set person people fake style
""".split()  # noqa: SIM905 - sixty quoted words would be harder to read
"""Each of these is one token; every other word is spelt from smaller pieces, as in the real vocabulary."""

START, END = "<|startoftext|>", "<|endoftext|>"
_built: dict[tuple[int, int, str], Path] = {}
_keep = tempfile.TemporaryDirectory(prefix="tiny-sd-")


def tiny_sd(folder: Path, seed: int = 0, size: int = 64, prediction_type: str = "epsilon") -> Path:
    """Write the model into `folder` (made if missing) and return it. `size` is its native side in pixels.

    The first call of a kind in a process builds the model, later ones copy it.
    """
    key = (seed, size, prediction_type)
    if key not in _built:
        _built[key] = _build(Path(_keep.name) / f"{seed}-{size}-{prediction_type}", *key)
    shutil.copytree(_built[key], folder, dirs_exist_ok=True)
    return folder


def _build(folder: Path, seed: int, size: int, prediction_type: str) -> Path:
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel

    vocabulary = write_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=size // 8,
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=2,
            cross_attention_dim=24,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=size,
        )
        text = CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=24,
            bos_token_id=vocabulary[START],
            eos_token_id=vocabulary[END],
            pad_token_id=vocabulary[END],
        )
        encoder = CLIPTextModel(text)
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    _save_text_encoder(encoder, folder / "text_encoder")
    scheduler = {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": prediction_type,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "clip_sample": False,
    }
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.6.0",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    _write_json(folder / "model_index.json", index)
    return folder


def tiny_model(folder: Path, kind: str, seed: int = 0, prediction_type: str = "epsilon") -> Path:
    """A diffusers folder with random weights that has the shape of a real `sd1`, `sd2` or `sdxl`, only narrower and flatter.

    Everything that can be told from an original file's weights follows the real models' rules: heads, vocabulary, projections.
    """
    key = (kind, seed, prediction_type)
    if key not in _models:
        _models[key] = _build_model(Path(_keep.name) / "-".join(map(str, key)), *key)
    shutil.copytree(_models[key], folder, dirs_exist_ok=True)
    return folder


_models: dict[tuple[str, int, str], Path] = {}


def _build_model(folder: Path, kind: str, seed: int, prediction_type: str) -> Path:
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

    from nosnja_gui.tokens import VOCABULARY

    def text(width: int, layers: int, **more) -> CLIPTextConfig:
        settings = {"vocab_size": 49408, "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
        settings |= {"num_attention_heads": width // 64, "projection_dim": width, "pad_token_id": 1}
        return CLIPTextConfig(**settings | {"bos_token_id": 49406, "eos_token_id": 49407} | more)

    size = {"sd1": 64, "sd2": 96 if prediction_type == "v_prediction" else 64, "sdxl": 128}[kind]
    width = {"sd1": 64, "sd2": 1024, "sdxl": 192}[kind]
    sdxl = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": [1, 2],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 6 * 256 + 128,
    }
    plain = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=size,
            block_out_channels=(64, 128),
            layers_per_block=1,
            attention_head_dim=8 if kind == "sd1" else [1, 2],
            cross_attention_dim=width,
            use_linear_projection=kind != "sd1",
            **(sdxl if kind == "sdxl" else plain),
        )
        vae = AutoencoderKL(
            block_out_channels=(32, 32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            latent_channels=4,
            sample_size=8 * size,
            scaling_factor=0.13025 if kind == "sdxl" else 0.18215,
            force_upcast=kind == "sdxl",
        )
        texts = {"text_encoder": CLIPTextModel(text(width, 2, hidden_act="gelu") if kind == "sd2" else text(64, 2))}
        if kind == "sdxl":
            texts["text_encoder_2"] = CLIPTextModelWithProjection(text(128, 3, hidden_act="gelu"))
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    for part, encoder in texts.items():
        _save_text_encoder(encoder, folder / part)
        target = folder / part.replace("text_encoder", "tokenizer")
        shutil.copytree(VOCABULARY, target)
        if kind == "sd2" or part == "text_encoder_2":
            for name in ("tokenizer_config.json", "special_tokens_map.json"):
                _write_json(target / name, {**json.loads((target / name).read_text(encoding="utf-8")), "pad_token": "!"})
    schedule = {"_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    schedule |= {"num_train_timesteps": 1000, "steps_offset": 1, "prediction_type": prediction_type, "clip_sample": False}
    _write_json(folder / "scheduler" / "scheduler_config.json", schedule)
    index = {
        "_class_name": "StableDiffusionXLPipeline" if kind == "sdxl" else "StableDiffusionPipeline",
        "_diffusers_version": "0.30.0",
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if kind == "sdxl":
        index |= {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"], "tokenizer_2": ["transformers", "CLIPTokenizer"]}
    _write_json(folder / "model_index.json", index)
    return folder


def _save_text_encoder(encoder, folder: Path) -> None:
    from safetensors.torch import save_file

    encoder.save_pretrained(folder)
    # transformers 5 drops the prefix that every published Stable Diffusion has.
    inside = {name.removeprefix("text_model."): tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    weights = {name if name.startswith("text_projection") else f"text_model.{name}": tensor for name, tensor in inside.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write_tokenizer(folder: Path) -> dict[str, int]:
    """Write the files of a CLIPTokenizer and return its vocabulary: token -> id."""
    symbols = list(_byte_symbols().values())
    merges = _learn_merges(WORDS)
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *(left + right for left, right in merges), START, END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    _write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges), encoding="utf-8")
    _write_json(folder / "special_tokens_map.json", special)
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    _write_json(folder / "tokenizer_config.json", settings | special)
    return vocabulary


def _byte_symbols() -> dict[int, str]:
    """A printable character for each byte: printable Latin-1 stands for itself, the rest for characters from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def _learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges (Sennrich et al. 2016, Algorithm 1) until each word is one token; learnt, so that they never conflict."""
    spellings = [[*word[:-1], word[-1] + "</w>"] for word in dict.fromkeys(words)]
    merges = []
    while any(len(spelling) > 1 for spelling in spellings):
        pairs = Counter(pair for spelling in spellings for pair in pairwise(spelling))
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        spellings = [_merge(spelling, best) for spelling in spellings]
    return merges


def _merge(spelling: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    place = 0
    while place < len(spelling):
        if tuple(spelling[place : place + 2]) == pair:
            merged.append(pair[0] + pair[1])
            place += 2
        else:
            merged.append(spelling[place])
            place += 1
    return merged


def _write_json(path: Path, values: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8")
