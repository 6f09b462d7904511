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
    from safetensors.torch import save_file
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
    encoder.save_pretrained(folder / "text_encoder")
    # transformers 5 drops the prefix that every published Stable Diffusion 1.x has.
    weights = {f"text_model.{name.removeprefix('text_model.')}": tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(weights, folder / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
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
