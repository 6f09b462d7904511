"""Stable Diffusion 1.x and 2.x from a diffusers folder: one CLIP text encoder, an f=8 autoencoder, a UNet.

Knows nothing of training or sampling.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nosnja_gui import weights
from nosnja_gui.families import Parts, TextEncoding
from nosnja_gui.families.demand import Demand, Weights, adapter_width, of_text_encoder, of_unet, of_vae
from nosnja_gui.settings import UserError

if TYPE_CHECKING:
    import torch

ALL_PARTS = ("unet", "vae", "text_encoder")
UNET_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
OTHER_PIPELINES = {
    "StableDiffusionXL": "a Stable Diffusion XL model",
    "StableDiffusion3": "a Stable Diffusion 3 model",
    "Flux": "a Flux model",
}


class StableDiffusion:
    name = "sd"
    title = "Stable Diffusion 1.x/2.x"
    native_size = 512
    latent_factor = 8

    def recognises(self, model: Path) -> bool:
        """A pipeline of class StableDiffusion... with exactly one text encoder."""
        try:
            index = json.loads((model / "model_index.json").read_text(encoding="utf-8"))
            kind = str(index["_class_name"])
        except (OSError, ValueError, KeyError, TypeError):
            return False
        two_encoders = bool((index.get("text_encoder_2") or [None])[0])
        return kind.startswith("StableDiffusion") and not kind.startswith(tuple(OTHER_PIPELINES)) and not two_encoders

    def load(self, model: Path, device: torch.device, dtype: torch.dtype, parts: tuple[str, ...] = ALL_PARTS) -> Parts:
        """Parts that are not asked for are None or empty: their weights are not even looked at.

        Raises UserError in one sentence that names the file for anything that is missing, of another kind or damaged.
        """
        import torch

        self.check(model, parts)
        schedule = read_config(model / "scheduler" / "scheduler_config.json")
        with quiet():
            unet = _load_unet(model, dtype) if "unet" in parts else None
            vae = _load_vae(model, _vae_dtype(device, dtype)) if "vae" in parts else None
            tokenizer, encoder = _load_text(model, dtype) if "text_encoder" in parts else (None, None)
        for module in (unet, vae, encoder):
            if module is not None:
                module.requires_grad_(False).eval().to(device)
        return Parts(
            unet=unet,
            vae=vae,
            text_encoders=[encoder] if encoder is not None else [],
            tokenizers=[tokenizer] if tokenizer is not None else [],
            noise_schedule=schedule,
            prediction_type="v_prediction" if schedule.get("prediction_type") == "v_prediction" else "epsilon",
            device=torch.device(device),
            dtype=dtype,
            base_name=model.resolve().name,
            base_hash=weights.short_hash(weight_file(model / "unet", "diffusion_pytorch_model")) if "unet" in parts else "",
        )

    def check(self, model: Path, parts: tuple[str, ...] = ALL_PARTS) -> None:
        """Raises UserError in one sentence that names the file for anything that is missing, of another kind or damaged."""
        if not model.is_dir():
            raise UserError(f"There is no model folder {model}; give the path of a diffusers folder (it holds model_index.json).")
        kind = str(read_config(model / "model_index.json").get("_class_name", "nothing"))
        if not self.recognises(model):
            what = next((title for start, title in OTHER_PIPELINES.items() if kind.startswith(start)), f"a model of class {kind}")
            raise UserError(f"{model} is {what}, but a {self.title} model is needed: choose another base model.")
        unet = read_config(model / "unet" / "config.json")
        vae = read_config(model / "vae" / "config.json")
        channels, wanted = unet.get("in_channels", 4), vae.get("latent_channels", 4)
        if channels != wanted:
            # An inpainting model also takes the masked picture's latents and the mask.
            what = "an inpainting model" if channels == 2 * wanted + 1 else "a model for image-to-image work"
            raise UserError(f"{model} is {what} (its UNet takes {channels} channels instead of {wanted}): choose an ordinary base model.")
        if not isinstance(unet.get("cross_attention_dim", 1280), int) or unet.get("addition_embed_type"):
            raise UserError(f"{model} is not a {self.title} model, its UNet is conditioned differently: choose another base model.")
        prediction = read_config(model / "scheduler" / "scheduler_config.json").get("prediction_type", "epsilon")
        if prediction not in ("epsilon", "v_prediction"):
            raise UserError(f"{model} predicts '{prediction}', which is not supported: choose a model that predicts epsilon or v.")
        factor = 2 ** (len(vae.get("block_out_channels", (0,))) - 1)
        if factor != self.latent_factor:
            raise UserError(f"{model} has a VAE that shrinks pictures {factor} times instead of {self.latent_factor}: choose another one.")
        for part, stem in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
            if part in parts:
                for file in weight_files(model / part, stem):
                    weights.header(file)
        if "text_encoder" in parts:
            read_config(model / "text_encoder" / "config.json")
            _check_tokenizer(model / "tokenizer")

    def size_of(self, model: Path) -> int:
        """The UNet's sample size times the factor of the VAE: 512 for SD 1.5, 768 for SD 2.1."""
        sample_size = read_config(model / "unet" / "config.json").get("sample_size")
        if isinstance(sample_size, list):
            sample_size = max(sample_size)
        return sample_size * self.latent_factor if isinstance(sample_size, int) else self.native_size

    def encode_images(self, parts: Parts, pixels: torch.Tensor) -> torch.Tensor:
        """pixels (batch, 3, height, width) in [-1, 1] -> float32 mean and standard deviation (batch, 2, channels, height/8, width/8).

        A latent is mean + deviation * noise; both are scaled by the VAE's scaling_factor already.
        """
        import torch

        shift, scale = _shift(parts.vae), parts.vae.config.scaling_factor

        def encode(vae: torch.nn.Module) -> torch.Tensor:
            latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
            return torch.stack([(latents.mean.float() - shift) * scale, latents.std.float() * scale], dim=1)

        return _in_safe_precision(parts.vae, encode)

    def decode_latents(self, parts: Parts, latents: torch.Tensor) -> torch.Tensor:
        """latents (batch, channels, height/8, width/8) -> float32 pixels (batch, 3, height, width), nearly within [-1, 1]."""
        shift, scale = _shift(parts.vae), parts.vae.config.scaling_factor

        def decode(vae: torch.nn.Module) -> torch.Tensor:
            return vae.decode((latents.float() / scale + shift).to(vae.device, vae.dtype), return_dict=False)[0].float()

        return _in_safe_precision(parts.vae, decode)

    def encode_prompts(self, parts: Parts, prompts: list[str], clip_skip: int = 1, max_chunks: int = 1) -> TextEncoding:
        """-> hidden (batch, 77 * chunks, width): final_layer_norm(hidden_states[-clip_skip]), as kohya and A1111 count.

        Each chunk holds 75 tokens between start and end tokens and is encoded by itself; there are as many chunks as the
        longest of the prompts needs, at most `max_chunks`; what is beyond is cut off.
        """
        encoder, inner = parts.text_encoders[0], _inner_text_model(parts.text_encoders[0])
        tokens = token_chunks(parts.tokenizers[0], prompts, max_chunks, inner.config.max_position_embeddings)
        batch, chunks, length = tokens.shape
        tokens = tokens.reshape(batch * chunks, length).to(inner.final_layer_norm.weight.device)
        output = encoder(tokens, output_hidden_states=clip_skip > 1)
        hidden = output.last_hidden_state if clip_skip == 1 else inner.final_layer_norm(output.hidden_states[-clip_skip])
        return TextEncoding(hidden.reshape(batch, chunks * length, -1))

    def predict(self, parts: Parts, noisy: torch.Tensor, timesteps: torch.Tensor, text: TextEncoding) -> torch.Tensor:
        """noisy (batch, channels, h, w), timesteps (batch,) or one number -> epsilon or v of the same shape, in the model's precision."""
        return parts.unet(noisy.to(parts.dtype), timesteps, encoder_hidden_states=text.hidden.to(parts.dtype), return_dict=False)[0]

    def demand(self, headers: Mapping[str, Weights]) -> Demand:
        """`headers` is by part, as `models.weight_headers` reads them. Raises KeyError where a part is missing."""
        return Demand(
            unet=of_unet(headers["unet"]),
            vae=of_vae(headers["vae"]),
            text_encoder=of_text_encoder(headers["text_encoder"]),
            adapter_widths={
                "unet": adapter_width(headers["unet"], UNET_ATTENTION),
                "text_encoder": adapter_width(headers["text_encoder"], TEXT_ATTENTION),
            },
        )

    def trainable_modules(self, parts: Parts) -> dict[str, tuple[torch.nn.Module, tuple[str, ...]]]:
        modules: dict[str, tuple[torch.nn.Module, tuple[str, ...]]] = {}
        if parts.unet is not None:
            modules["unet"] = (parts.unet, UNET_ATTENTION)
        if parts.text_encoders:
            modules["text_encoder"] = (_inner_text_model(parts.text_encoders[0]), TEXT_ATTENTION)
        return modules

    def kohya_prefix(self, part: str) -> str:
        return {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}[part]


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError for a missing or damaged file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"The model is incomplete, there is no {path}: copy or download it again.") from None
    except (ValueError, RecursionError):
        raise UserError(f"The model is damaged, {path} is not readable as JSON: copy or download it again.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    if not isinstance(values, dict):
        raise UserError(f"The model is damaged, {path} holds no settings: copy or download it again.")
    return values


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The .safetensors files of a part: one, or its shards. Raises UserError if there is none or a shard is missing."""
    for variant in ("", ".fp16"):
        single = folder / f"{stem}{variant}.safetensors"
        if single.is_file():
            return [single]
        index = folder / (f"{stem}.safetensors.index{variant}.json")
        if index.is_file():
            shards = [folder / name for name in sorted(set(read_config(index).get("weight_map", {}).values()))]
            missing = [shard for shard in shards if not shard.is_file()]
            if shards and not missing:
                return shards
            raise UserError(f"The model is incomplete, there is no {missing[0] if missing else single}: copy or download it again.")
    if any(folder.glob("*.bin")) or any(folder.glob("*.ckpt")):
        raise UserError(f"{folder} holds its weights as .bin only, which can hide programs: save the model as .safetensors first.")
    raise UserError(f"The model is incomplete, there is no {folder / f'{stem}.safetensors'}: copy or download it again.")


def weight_file(folder: Path, stem: str) -> Path:
    return weight_files(folder, stem)[0]


def token_chunks(tokenizer: Any, prompts: list[str], max_chunks: int, max_length: int) -> torch.Tensor:
    """Token ids (batch, chunks, 77), each chunk as start + up to 75 tokens + end + padding."""
    import torch

    length = min(tokenizer.model_max_length, max_length)
    room = length - 2
    rows = [tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids[: room * max_chunks] for prompt in prompts]
    chunks = max(1, -(-max(len(row) for row in rows) // room))
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    tokens = torch.full((len(prompts), chunks, length), padding)
    for row, ids in enumerate(rows):
        for chunk in range(chunks):
            part = [tokenizer.bos_token_id, *ids[chunk * room : (chunk + 1) * room], tokenizer.eos_token_id]
            tokens[row, chunk, : len(part)] = torch.tensor(part)
    return tokens


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Neither bars nor remarks of the libraries while a model loads; what matters is said in our own errors."""
    loud = logging.getLogger("bitsandbytes")
    loud.setLevel(logging.ERROR)  # remarks on missing CPU kernels at import
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity(), diffusers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    diffusers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before[0])
        diffusers_logging.set_verbosity(before[1])
        if before[2]:
            transformers_logging.enable_progress_bar()


def _load_unet(model: Path, dtype: torch.dtype) -> torch.nn.Module:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return _from_folder(UNet2DConditionModel, model / "unet", "diffusion_pytorch_model", torch_dtype=dtype)


def _load_vae(model: Path, dtype: torch.dtype) -> torch.nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return _from_folder(AutoencoderKL, model / "vae", "diffusion_pytorch_model", torch_dtype=dtype)


def _load_text(model: Path, dtype: torch.dtype) -> tuple[Any, torch.nn.Module]:
    from transformers.models.clip.modeling_clip import CLIPTextModel
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    encoder = _from_folder(CLIPTextModel, model / "text_encoder", "model", dtype=dtype)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer", local_files_only=True)
    except Exception as error:  # its parsers raise a bare Exception
        raise UserError(f"The tokenizer {model / 'tokenizer'} cannot be loaded ({_first_line(error)}): copy the model again.") from None
    return tokenizer, encoder


def _from_folder(cls: Any, folder: Path, stem: str, **precision: torch.dtype) -> torch.nn.Module:
    variant = "fp16" if ".fp16." in weight_file(folder, stem).name else None
    try:
        module, report = cls.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, variant=variant, output_loading_info=True, **precision
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError) as error:
        raise UserError(f"{folder} cannot be loaded, its configuration and weights don't fit ({_first_line(error)}).") from None
    missing = sorted(name for name in report["missing_keys"] if not name.endswith("position_ids"))
    if missing:
        raise UserError(f"{folder} is incomplete, {len(missing)} weights such as '{missing[0]}' are missing: copy or download it again.")
    return module


def _check_tokenizer(folder: Path) -> None:
    if not (folder / "tokenizer.json").is_file():
        for name in ("vocab.json", "merges.txt"):
            if not (folder / name).is_file():
                raise UserError(f"The model is incomplete, there is no {folder / name}: copy or download it again.")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".:")[:200]


def _inner_text_model(encoder: torch.nn.Module) -> torch.nn.Module:
    """The module with `encoder.layers` and `final_layer_norm`: CLIPTextModel itself since transformers 5.6, one level down before."""
    return getattr(encoder, "text_model", encoder)


def _shift(vae: torch.nn.Module) -> float:
    return getattr(vae.config, "shift_factor", None) or 0.0


def _vae_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """float16 on GPUs also where the UNet is bfloat16: eight bits of mantissa would show as banding. float32 on CPUs."""
    import torch

    return torch.float16 if torch.device(device).type == "cuda" and dtype != torch.float32 else torch.float32


def _in_safe_precision(vae: torch.nn.Module, work: Any) -> torch.Tensor:
    """`work(vae)`; a half-precision VAE whose numbers overflow goes to float32 for good and does it again."""
    import torch

    result = work(vae)
    if vae.dtype != torch.float32 and not torch.isfinite(result).all():
        result = work(vae.float())
    return result


ENTRY = StableDiffusion()
