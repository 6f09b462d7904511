"""A very small Stable Diffusion 3.5 with random weights, in the layout of the real downloads.

Everything that is special about a real one is there: queries and keys with norms, a second attention in the first layer, text modules
that the last layer lacks, a table of positions, two CLIP encoders with projections and different padding, a T5 with a vocabulary of
its own, latents of 16 channels that are shifted, and no convolutions around them.
"""

import json
import shutil
import tempfile
from pathlib import Path

from tests.tiny import WORDS, _save_text_encoder, _write_json
from tests.tiny import write_tokenizer as write_clip_tokenizer

_keep = tempfile.TemporaryDirectory(prefix="tiny-sd35-")
_built: dict[tuple[int, bool], Path] = {}


def tiny_sd35(folder: Path, seed: int = 0, t5: bool = True) -> Path:
    """Write the model into `folder` (made if missing) and return it; without `t5`, as it is published for small cards.

    Its native side is 64 pixels, and 128 are the most that it has positions for.
    """
    if (seed, t5) not in _built:
        _built[seed, t5] = _build(Path(_keep.name) / f"{seed}-{t5}", seed, t5)
    shutil.copytree(_built[seed, t5], folder, dirs_exist_ok=True)
    return folder


def _build(folder: Path, seed: int, t5: bool) -> Path:
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection
    from transformers.models.t5.configuration_t5 import T5Config
    from transformers.models.t5.modeling_t5 import T5EncoderModel

    vocabulary = write_clip_tokenizer(folder / "tokenizer")
    write_clip_tokenizer(folder / "tokenizer_2")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = folder / "tokenizer_2" / name
        _write_json(file, {**json.loads(file.read_text(encoding="utf-8")), "pad_token": "!"})

    def clip(width: int, layers: int, activation: str) -> CLIPTextModelWithProjection:
        return CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=len(vocabulary),
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=layers,
                num_attention_heads=2,
                projection_dim=width,
                hidden_act=activation,
                bos_token_id=len(vocabulary) - 2,
                eos_token_id=len(vocabulary) - 1,
                pad_token_id=len(vocabulary) - 1,
            )
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=64,
            caption_projection_dim=32,
            pooled_projection_dim=16 + 24,
            out_channels=16,
            pos_embed_max_size=8,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=16,
            sample_size=64,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        _save_text_encoder(clip(16, 2, "quick_gelu"), folder / "text_encoder")
        _save_text_encoder(clip(24, 3, "gelu"), folder / "text_encoder_2")
        if t5:
            tokens = write_t5_tokenizer(folder / "tokenizer_3")
            config = T5Config(
                vocab_size=tokens, d_model=64, d_kv=8, d_ff=96, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu", pad_token_id=0
            )
            T5EncoderModel(config).save_pretrained(folder / "text_encoder_3")
    transformer.save_pretrained(folder / "transformer")
    vae.save_pretrained(folder / "vae")
    schedule = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
    _write_json(folder / "scheduler" / "scheduler_config.json", schedule)
    index = {
        "_class_name": "StableDiffusion3Pipeline",
        "_diffusers_version": "0.30.3",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_3": ["transformers", "T5EncoderModel"] if t5 else [None, None],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "tokenizer_3": ["transformers", "T5TokenizerFast"] if t5 else [None, None],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    _write_json(folder / "model_index.json", index)
    return folder


def write_t5_tokenizer(folder: Path) -> int:
    """Write a T5 tokenizer that knows the words and every letter, and return its size.

    A Unigram model over pieces that begin with a low line for a space, as SentencePiece has them (Kudo 2018): a word is one piece where
    that is likelier than its letters.
    """
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import Unigram

    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -4.0) for word in dict.fromkeys(WORDS) if len(word) > 1] + [(letter, -6.0) for letter in letters]
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(100))]
    pieces += [(sentinel, 0.0) for sentinel in sentinels]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>", *sentinels])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "T5Tokenizer", "model_max_length": 512, "extra_ids": 100, "additional_special_tokens": sentinels[::-1]}
    _write_json(folder / "tokenizer_config.json", settings | special)
    _write_json(folder / "special_tokens_map.json", special)
    return len(pieces)
