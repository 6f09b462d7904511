"""What Stable Diffusion 1.x, 2.x and XL have in common: CLIP text encoders, an f=8 autoencoder, a UNet with cross attention.

No family of its own, and nothing here knows of training or sampling.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nosnja_gui import emphasis, weights
from nosnja_gui.adapters import PartNames
from nosnja_gui.families import Parts, TextEncoding, original, shapes
from nosnja_gui.families.demand import Demand, of_layers, of_text_encoder, of_unet, of_vae
from nosnja_gui.families.loading import clip_tokenizer, module, quiet, skeleton
from nosnja_gui.settings import UserError
from nosnja_gui.sources import Folder, Original, OriginalPart, PredictionType, SingleFile, Source, Tokenizer
from nosnja_gui.tokens import VOCABULARY, pieces

if TYPE_CHECKING:
    import torch

UNET_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
CONFIGS = Path(__file__).parent / "configs"
OTHER_PIPELINES = ("StableDiffusionXL", "StableDiffusion3")


def schedule(prediction_type: str, zero_terminal_snr: bool = False) -> dict[str, Any]:
    """The noise schedule that all of them were trained with (Rombach et al. 2022, appendix E.1: linear in the square root of beta)."""
    return {
        "_class_name": "EulerDiscreteScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "steps_offset": 1,
        "timestep_spacing": "trailing" if zero_terminal_snr else "leading",
        "set_alpha_to_one": False,
        "clip_sample": False,
        "prediction_type": prediction_type,
        "rescale_betas_zero_snr": zero_terminal_snr,
    }


def told_prediction(file: SingleFile) -> PredictionType | None:
    """What a checkpoint, or the .yaml that A1111 wants beside it, says of itself; None where neither does.

    `modelspec.prediction_type` is Stability's metadata; an empty tensor called v_pred is how fine-tunes of SDXL mark themselves
    (read by ComfyUI's comfy/supported_models.py); `parameterization: v` is in the training configuration of SD 2.x.
    """
    said = file.metadata.get("modelspec.prediction_type", "")
    if said in ("v", "v_prediction", "epsilon"):
        return "epsilon" if said == "epsilon" else "v_prediction"
    if "v_pred" in file.entries:
        return "v_prediction"
    try:
        beside = yaml.safe_load(file.path.with_suffix(".yaml").read_text(encoding="utf-8"))
        return "v_prediction" if beside["model"]["params"].get("parameterization") == "v" else "epsilon"
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return None


def told_size(file: SingleFile, otherwise: int) -> int:
    """Native side in pixels by `modelspec.resolution`, such as 1024x1024."""
    width, _, height = file.metadata.get("modelspec.resolution", "").partition("x")
    return max(int(width), int(height)) if width.isdecimal() and height.isdecimal() and 64 <= int(width) <= 4096 else otherwise


def spread(file: SingleFile, name: str) -> float:
    """Standard deviation of a small weight; 0 where there is none of that name."""
    values = weights.numbers(file.path, name) if name in file.entries else []
    return statistics.pstdev(values) if len(values) > 1 else 0.0


def clip_part(prefix: str) -> OriginalPart:
    """CLIP ViT-L/14 under transformers' names, as SD 1.x and SDXL keep it."""
    return OriginalPart(
        prefix, shapes.clip, original.clip_names, Tokenizer(VOCABULARY), inner="text_model.", fillers=original.clip_fillers
    )


def unet_part(heads: int | None) -> OriginalPart:
    return OriginalPart("model.diffusion_model.", lambda found: shapes.unet(found, heads, sample_size=64), original.unet_names)


def vae_part(scaling_factor: float, **more: Any) -> OriginalPart:
    return OriginalPart("first_stage_model.", lambda found: shapes.vae(found, scaling_factor, **more), original.vae_names)


@dataclass(frozen=True)
class TextPart:
    """A text encoder's place in a model and in files."""

    part: str
    module: str
    """Its class in transformers."""
    kohya: str
    comfyui: str


@dataclass
class StableDiffusion:
    """SD 1.x and 2.x: one text encoder. What tells them apart is given as data."""

    name: str
    title: str
    short: str
    native_size: int
    kohya_version: str
    original: Original
    standard: Path
    text_parts: tuple[TextPart, ...]
    owns: Callable[[str, int | None], bool]
    """Whether a folder is of this family, by its pipeline's class and the width of its cross attention (None where that is damaged)."""
    modelspecs: Mapping[str, str]
    """Its architecture as the modelspec metadata calls it, by prediction type."""
    latent_factor: int = 8

    # What a model is

    def recognises(self, source: Source) -> bool:
        if not isinstance(source, Folder):
            return False
        try:
            kind = str(source.index.get("_class_name", ""))
        except UserError:
            return False
        try:
            width = source.config("unet").get("cross_attention_dim", 1280)
        except UserError:
            width = None
        return self.owns(kind, width if isinstance(width, int) else None)

    @property
    def adapter_parts(self) -> tuple[str, ...]:
        return ("unet", *(text.part for text in self.text_parts))

    def all_parts(self) -> tuple[str, ...]:
        return ("unet", "vae", *(text.part for text in self.text_parts))

    def check(self, source: Source, parts: tuple[str, ...] | None = None) -> None:
        """Raises UserError in one sentence that names the file for anything that is missing, of another kind or damaged."""
        parts = parts or self.all_parts()
        unet, vae = source.config("unet"), source.config("vae")
        channels, wanted = unet.get("in_channels", 4), vae.get("latent_channels", 4)
        if channels != wanted:
            # An inpainting model also takes the masked picture's latents and the mask.
            what = "an inpainting model" if channels == 2 * wanted + 1 else "a model for image-to-image work"
            raise UserError(
                f"{source.path} is {what} (its UNet takes {channels} channels instead of {wanted}): choose an ordinary base model."
            )
        if not self._fits(unet):
            raise UserError(f"{source.path} is not a {self.title} model, its UNet is conditioned differently: choose another base model.")
        prediction = source.config("scheduler").get("prediction_type", "epsilon")
        if prediction not in ("epsilon", "v_prediction"):
            raise UserError(f"{source.path} predicts '{prediction}', which is not supported: choose a model that predicts epsilon or v.")
        factor = 2 ** (len(vae.get("block_out_channels", (0,))) - 1)
        if factor != self.latent_factor:
            raise UserError(
                f"{source.path} has a VAE that shrinks pictures {factor} times instead of {self.latent_factor}: choose another one."
            )
        for part in parts:
            source.config(part)
            source.weights(part)
            if isinstance(source, SingleFile) and (lacking := source.lacking(part)):
                raise UserError(
                    f"{source.path} is incomplete, {len(lacking)} weights such as '{lacking[0]}' are missing: copy or download it again."
                )
            if part.startswith("text_encoder"):
                source.tokenizer(part)

    def _fits(self, unet: Mapping[str, Any]) -> bool:
        return isinstance(unet.get("cross_attention_dim", 1280), int) and not unet.get("addition_embed_type")

    def prediction_of(self, source: Source) -> PredictionType:
        return "v_prediction" if source.config("scheduler").get("prediction_type") == "v_prediction" else "epsilon"

    def size_of(self, source: Source) -> int:
        """The UNet's sample size times the factor of the VAE: 512 for SD 1.5, 768 for SD 2.1, 1024 for SDXL."""
        sample_size = source.config("unet").get("sample_size")
        if isinstance(sample_size, list):
            sample_size = max(sample_size)
        return sample_size * self.latent_factor if isinstance(sample_size, int) else self.native_size

    def demand(self, source: Source) -> Demand:
        """Raises KeyError where weights are of another kind."""
        unet, texts = source.weights("unet"), {text.part: source.weights(text.part) for text in self.text_parts}
        return Demand(
            unet=of_unet(unet),
            vae=of_vae(source.weights("vae")),
            text_encoder=sum((of_text_encoder(found) for found in list(texts.values())[1:]), of_text_encoder(next(iter(texts.values())))),
            layers={
                "unet": of_layers(unet, UNET_ATTENTION),
                **{part: of_layers(found, TEXT_ATTENTION) for part, found in texts.items()},
            },
        )

    def modelspec(self, parts: Parts) -> str:
        return self.modelspecs[parts.prediction_type]

    # Loading

    def load(self, source: Source, device: torch.device, dtype: torch.dtype, parts: tuple[str, ...] | None = None) -> Parts:
        """Parts that are not asked for are None or empty: their weights are not even looked at.

        Raises UserError in one sentence that names the file for anything that is missing, of another kind or damaged.
        """
        import torch

        wanted = parts or self.all_parts()
        self.check(source, wanted)
        device = torch.device(device)
        texts = [text for text in self.text_parts if text.part in wanted]
        return Parts(
            denoiser=module("UNet2DConditionModel", source, "unet", dtype, device) if "unet" in wanted else None,
            vae=module("AutoencoderKL", source, "vae", vae_dtype(source, device, dtype), device) if "vae" in wanted else None,
            text_encoders=[module(text.module, source, text.part, dtype, device) for text in texts],
            tokenizers=[clip_tokenizer(source, text.part) for text in texts],
            noise_schedule=source.config("scheduler"),
            prediction_type=self.prediction_of(source),
            device=device,
            dtype=dtype,
            base_name=source.name,
            base_hash=source.hash() if "unet" in wanted else "",
        )

    def skeleton(self, source: Source) -> Parts:
        import torch

        return Parts(
            denoiser=skeleton("UNet2DConditionModel", source.config("unet")),
            vae=None,
            text_encoders=[skeleton(text.module, source.config(text.part)) for text in self.text_parts],
            tokenizers=[],
            noise_schedule={},
            prediction_type=self.prediction_of(source),
            device=torch.device("meta"),
            dtype=torch.float32,
            base_name=source.name,
            base_hash="",
        )

    def vae_original(self) -> OriginalPart:
        return self.original.parts["vae"]

    # At work

    def encode_images(self, parts: Parts, pixels: torch.Tensor) -> torch.Tensor:
        return encode_images(parts.vae, pixels)

    def decode_latents(self, parts: Parts, latents: torch.Tensor) -> torch.Tensor:
        return decode_latents(parts.vae, latents)

    def encode_prompts(
        self, parts: Parts, prompts: list[str], clip_skip: int = 1, max_chunks: int = 1, *, min_chunks: int = 1, weighted: bool = False
    ) -> TextEncoding:
        """-> hidden (batch, 77 * chunks, width): final_layer_norm(hidden_states[-clip_skip]), as kohya and A1111 count.

        Each chunk holds 75 tokens between start and end tokens and is encoded by itself; there are as many chunks as the
        longest of the prompts needs, at most `max_chunks`; what is beyond is cut off.
        """
        encoder, inner = parts.text_encoders[0], inner_text_model(parts.text_encoders[0])
        tokens, emphasis = self._chunks(parts, 0, prompts, max_chunks, min_chunks, weighted)
        batch, chunks, length = tokens.shape
        tokens = tokens.reshape(batch * chunks, length).to(inner.final_layer_norm.weight.device)
        output = encoder(tokens, output_hidden_states=clip_skip > 1)
        hidden = output.last_hidden_state if clip_skip == 1 else inner.final_layer_norm(output.hidden_states[-clip_skip])
        return TextEncoding(emphasised(hidden.reshape(batch, chunks, length, -1), emphasis).flatten(1, 2))

    def _chunks(
        self, parts: Parts, place: int, prompts: list[str], max_chunks: int, min_chunks: int, weighted: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Token ids (batch, chunks, 77) for one of the text encoders, and what each token counts."""
        most = inner_text_model(parts.text_encoders[place]).config.max_position_embeddings
        words = new_words(parts, place)
        return weighted_chunks(parts.tokenizers[place], prompts, max_chunks, most, words, min_chunks, weighted)

    def predict(
        self, parts: Parts, noisy: torch.Tensor, timesteps: torch.Tensor, text: TextEncoding, framing: torch.Tensor | None = None
    ) -> torch.Tensor:
        """noisy (batch, channels, h, w), timesteps (batch,) or one number -> epsilon or v of the same shape, in the model's precision."""
        return parts.denoiser(noisy.to(parts.dtype), timesteps, encoder_hidden_states=text.hidden.to(parts.dtype), return_dict=False)[0]

    # Adapters and new words

    @property
    def embedding_keys(self) -> tuple[str, ...]:
        return ("emb_params",)

    def word_tables(self, parts: Parts) -> list[torch.nn.Module]:
        return [inner_text_model(encoder).embeddings for encoder in parts.text_encoders]

    def trainable_modules(self, parts: Parts) -> dict[str, tuple[torch.nn.Module, tuple[str, ...]]]:
        modules: dict[str, tuple[torch.nn.Module, tuple[str, ...]]] = {}
        if parts.denoiser is not None:
            modules["unet"] = (parts.denoiser, UNET_ATTENTION)
        for text, encoder in zip(self.text_parts, parts.text_encoders, strict=False):
            modules[text.part] = (inner_text_model(encoder), TEXT_ATTENTION)
        return modules

    def pipeline(self, parts: Parts) -> Any:
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

        with quiet():
            return StableDiffusionPipeline(
                vae=parts.vae,
                text_encoder=parts.text_encoders[0],
                tokenizer=parts.tokenizers[0],
                unet=parts.denoiser,
                scheduler=plain_scheduler(parts),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )

    def names(self, parts: Parts) -> list[PartNames]:
        modules = self.trainable_modules(parts)
        found = []
        if "unet" in modules:
            unet = modules["unet"][0]
            origins = original.unet_names(unet.config)
            renamed = {name.removesuffix(".weight"): origin.key.removesuffix(".weight") for name, origin in origins.items()}
            found.append(
                PartNames(
                    part="unet",
                    shapes=layer_shapes(unet),
                    kohya="lora_unet",
                    comfyui="diffusion_model",
                    original={name: key for name, key in renamed.items() if not name.endswith(".bias")},
                    kohya_writes_original=self.name == "sdxl",
                )
            )
        for text in self.text_parts:
            if text.part in modules:
                found.append(PartNames(text.part, layer_shapes(modules[text.part][0]), text.kohya, text.comfyui, inner="text_model."))
        return found


def plain_scheduler(parts: Parts) -> Any:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler.from_config({**parts.noise_schedule, "prediction_type": parts.prediction_type, "clip_sample": False})


def layer_shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of the weight of every linear, convolution and norm layer, also below adapters that are on."""
    import torch

    kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.GroupNorm, torch.nn.LayerNorm)

    found = {}
    for name, layer in module.named_modules():
        base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
        if isinstance(base, kinds) and base.weight is not None and ".lora_" not in name and not name.endswith(".base_layer"):
            found[name] = tuple(base.weight.shape)
    return found


def is_plain(kind: str) -> bool:
    """Whether a pipeline's class is one of SD 1.x and 2.x."""
    return kind.startswith("StableDiffusion") and not kind.startswith(OTHER_PIPELINES)


def token_chunks(
    tokenizer: Any, prompts: list[str], max_chunks: int, max_length: int, words: Mapping[str, Sequence[int]] | None = None
) -> torch.Tensor:
    """Token ids (batch, chunks, 77), each chunk as start + up to 75 tokens + end + padding. `words`: ids of words in small letters."""
    return weighted_chunks(tokenizer, prompts, max_chunks, max_length, words)[0]


def weighted_chunks(
    tokenizer: Any,
    prompts: list[str],
    max_chunks: int,
    max_length: int,
    words: Mapping[str, Sequence[int]] | None = None,
    min_chunks: int = 1,
    weighted: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`token_chunks`, at least `min_chunks` of them, and what each token counts (batch, chunks, 77), or None where all count alike."""
    import torch

    length = min(tokenizer.model_max_length, max_length)
    parted = [emphasis.pieces(prompt) if weighted else [(prompt, 1.0)] for prompt in prompts]
    rows = [_windows(tokenizer, parts, length - 2, words or {})[:max_chunks] for parts in parted]
    chunks = max(min_chunks, *(len(row) for row in rows))
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    tokens = torch.full((len(prompts), chunks, length), padding)
    counts = torch.ones(tokens.shape)
    for row, windows in enumerate(rows):
        for chunk in range(chunks):
            inner = windows[chunk] if chunk < len(windows) else []
            part = [tokenizer.bos_token_id, *(token for token, _ in inner), tokenizer.eos_token_id]
            tokens[row, chunk, : len(part)] = torch.tensor(part)
            counts[row, chunk, 1 : len(part) - 1] = torch.tensor([count for _, count in inner])
    return tokens, counts if any(weight != 1 for parts in parted for _, weight in parts) else None


def _windows(
    tokenizer: Any, parted: Sequence[emphasis.Piece], room: int, words: Mapping[str, Sequence[int]]
) -> list[list[tuple[int, float]]]:
    """A prompt's ids, and what each counts, in windows of up to `room`.

    The ids of a new word stay together (as A1111 has it, modules/sd_hijack_clip.py).
    """
    windows: list[list[tuple[int, float]]] = [[]]
    for text, count in parted:
        for place, piece in enumerate(pieces(text, words)):
            new = words.get(piece.lower()) if place % 2 else None
            if new is not None and len(windows[-1]) + len(new) > room:
                windows.append([])
            for token in new if new is not None else tokenizer(piece, add_special_tokens=False, verbose=False).input_ids:
                if len(windows[-1]) == room:
                    windows.append([])
                windows[-1].append((token, count))
    return windows


def emphasised(hidden: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
    """States (batch, chunks, tokens, width), each token's multiplied by what it counts; then all by what brings their mean back.

    As A1111 has it (modules/sd_emphasis.py, EmphasisOriginal), but for each prompt by itself: no picture depends on those beside it.
    """
    if counts is None:
        return hidden
    before = hidden.mean((-2, -1), keepdim=True)
    moved = hidden * counts.unsqueeze(-1).to(hidden)
    return moved * (before / moved.mean((-2, -1), keepdim=True))


def new_words(parts: Parts, place: int) -> dict[str, tuple[int, ...]]:
    """Taught words and their ids in one of the text encoders."""
    return {word: ids[place] for word, ids in parts.words.items()}


def inner_text_model(encoder: torch.nn.Module) -> torch.nn.Module:
    """The module with `encoder.layers` and `final_layer_norm`: CLIPTextModel itself since transformers 5.6, one level down before."""
    return getattr(encoder, "text_model", encoder)


# The autoencoder


def encode_images(vae: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """pixels (batch, 3, height, width) in [-1, 1] -> float32 mean and standard deviation (batch, 2, channels, height/8, width/8).

    A latent is mean + deviation * noise; both are scaled by the VAE's scaling_factor already.
    """
    import torch

    shift, scale = _shift(vae), vae.config.scaling_factor

    def encode(vae: torch.nn.Module) -> torch.Tensor:
        latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
        return torch.stack([(latents.mean.float() - shift) * scale, latents.std.float() * scale], dim=1)

    return _in_safe_precision(vae, encode)


def decode_latents(vae: torch.nn.Module, latents: torch.Tensor) -> torch.Tensor:
    """latents (batch, channels, height/8, width/8) -> float32 pixels (batch, 3, height, width), nearly within [-1, 1]."""
    shift, scale = _shift(vae), vae.config.scaling_factor

    def decode(vae: torch.nn.Module) -> torch.Tensor:
        return vae.decode((latents.float() / scale + shift).to(vae.device, vae.dtype), return_dict=False)[0].float()

    return _in_safe_precision(vae, decode)


def _shift(vae: torch.nn.Module) -> float:
    return getattr(vae.config, "shift_factor", None) or 0.0


def vae_dtype(source: Source, device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """float16 on GPUs also where the UNet is bfloat16: eight bits of mantissa would show as banding.

    float32 on CPUs, and for autoencoders that say that they overflow in half precision (SDXL's own).
    """
    import torch

    half = device.type == "cuda" and dtype != torch.float32 and not source.config("vae").get("force_upcast", False)
    return torch.float16 if half else torch.float32


def _in_safe_precision(vae: torch.nn.Module, work: Any) -> torch.Tensor:
    """`work(vae)`; a half-precision VAE whose numbers overflow goes to float32 for good and does it again."""
    import torch

    result = work(vae)
    if vae.dtype != torch.float32 and not torch.isfinite(result).all():
        result = work(vae.float())
    return result
