"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): flow matching by a transformer that reads picture and text together.

Three text encoders (CLIP ViT-L/14, OpenCLIP bigG in transformers' form, T5-XXL, which may be left out), latents of 16 channels,
pictures of 1024 pixels. From a diffusers folder; medium and large differ in their configuration only.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nosnja_gui import emphasis
from nosnja_gui.adapters import PartNames
from nosnja_gui.families import Parts, TextEncoding
from nosnja_gui.families.demand import TEXT_TOKENS, Demand, TextDemand, of_layers, of_text_encoder, of_vae
from nosnja_gui.families.loading import clip_tokenizer, module, quiet, skeleton, t5_tokenizer
from nosnja_gui.families.stable_diffusion import (
    CONFIGS,
    TEXT_ATTENTION,
    TextPart,
    decode_latents,
    encode_images,
    inner_text_model,
    layer_shapes,
    token_chunks,
    vae_dtype,
    vae_part,
)
from nosnja_gui.settings import UserError
from nosnja_gui.sources import Folder, OriginalPart, PredictionType, Source
from nosnja_gui.weights import Weights

if TYPE_CHECKING:
    import torch

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""Of the picture and, the last four, of the text; also of the picture's second attention, which 3.5 medium has in its first layers."""
CLIPS = (
    TextPart("text_encoder", "CLIPTextModelWithProjection", "lora_te1", "text_encoders.clip_l.transformer"),
    TextPart("text_encoder_2", "CLIPTextModelWithProjection", "lora_te2", "text_encoders.clip_g.transformer"),
)
T5 = "text_encoder_3"
T5_TOKENS = 256
"""As many as diffusers' StableDiffusion3Pipeline gives it unless told otherwise; a model without T5 gets as many zeros."""
T5_WIDTH = 4096

LAYER_KEPT, SECOND_ATTENTION_KEPT = 14.1, 7.1
"""Numbers kept for the backward pass by a layer, per token and channel, and those of a second attention, per token of the picture.

Counted as saved tensors of layers of SD 3.5 with an attention LoRA of rank 16 and flash attention, at 256 and 576 tokens of the
picture and 333 of the text; with gradient checkpointing it is one number, and the whole of the layer that is being recomputed.
"""
BACKWARD, ATTENTION_BACKWARD = 1.013, 2.5
"""Work of the backward pass as a share of the forward pass: of the linear layers, counted with torch's FlopCounterMode in the same
way (frozen weights need no gradients), and of flash attention (Dao 2023, section 4.1: five products instead of two)."""


@dataclass(frozen=True)
class TransformerDemand:
    """What the transformer asks for. Positions are those of the latents; a token of the picture is a patch of them."""

    parameters: int
    latent_channels: int
    text_width: int
    text_tokens: int
    patch: int
    """Positions in a token of the picture."""
    picture_weights: int
    """Weights of the linear layers that every token of the picture goes through."""
    text_weights: int
    channels: int
    """Of a layer."""
    layers: int
    second_attentions: int
    attention_widths: tuple[int, ...] = ()

    def _attention_flop(self, tokens: int) -> float:
        """Scores and their sums: two products of tokens x tokens x channels."""
        joint = self.layers * (tokens + self.text_tokens) ** 2
        return 4 * self.channels * (joint + self.second_attentions * tokens**2)

    def _linear_flop(self, tokens: int) -> float:
        return 2 * (self.picture_weights * tokens + self.text_weights * self.text_tokens)

    def forward_flop(self, positions: int) -> float:
        """Multiplications and additions of a forward pass."""
        tokens = positions // self.patch
        return self._linear_flop(tokens) + self._attention_flop(tokens)

    def training_flop(self, positions: int, checkpointing: bool) -> float:
        """Forward and backward pass, recomputing included."""
        tokens = positions // self.patch
        backward = BACKWARD * self._linear_flop(tokens) + ATTENTION_BACKWARD * self._attention_flop(tokens)
        return (2 if checkpointing else 1) * self.forward_flop(positions) + backward

    def kept_numbers(self, positions: int, checkpointing: bool) -> float:
        """How many numbers a picture adds to the memory of a training step."""
        tokens = positions // self.patch
        both = tokens + self.text_tokens
        layers, seconds = (1, min(1, self.second_attentions)) if checkpointing else (self.layers, self.second_attentions)
        kept = LAYER_KEPT * layers * both + SECOND_ATTENTION_KEPT * seconds * tokens
        return self.channels * (kept + (self.layers * both if checkpointing else 0))


class StableDiffusion3:
    name = "sd35"
    short = "SD 3"
    title = "Stable Diffusion 3.5"
    native_size = 1024
    latent_factor = 8
    kohya_version = "sd3"
    """Its trainer adds which one (3-medium, 3-5-medium, 3-5-large; sd-scripts library/sd3_utils.py): that is in the modelspec."""
    original = None
    """Its single files have the queries, keys and values of an attention as one matrix, and often no text encoders."""
    standard = CONFIGS / "sd35"
    adapter_parts = ("transformer", *(clip.part for clip in CLIPS))
    embedding_keys = ()
    """No program reads new words for it: its third encoder is no CLIP."""

    # What a model is

    def recognises(self, source: Source) -> bool:
        try:
            return isinstance(source, Folder) and str(source.index.get("_class_name", "")).startswith("StableDiffusion3")
        except UserError:
            return False

    def all_parts(self, source: Source) -> tuple[str, ...]:
        """T5 is as large as all the rest: many leave it out, and model_index.json says so."""
        return ("transformer", "vae", *(clip.part for clip in CLIPS), *([T5] if T5 in source.parts() else []))

    def check(self, source: Source, parts: tuple[str, ...] | None = None) -> None:
        """Raises UserError in one sentence that names the file for anything that is missing, of another kind or damaged."""
        parts = parts or self.all_parts(source)
        transformer, vae = source.config("transformer"), source.config("vae")
        channels, wanted = transformer.get("in_channels", 16), vae.get("latent_channels", 4)
        if channels != wanted:
            raise UserError(
                f"{source.path} is a model for inpainting or other image-to-image work (its transformer takes {channels} channels instead "
                f"of {wanted}): choose an ordinary base model."
            )
        factor = 2 ** (len(vae.get("block_out_channels", (0,))) - 1)
        if factor != self.latent_factor:
            raise UserError(
                f"{source.path} has a VAE that shrinks pictures {factor} times instead of {self.latent_factor}: choose another one."
            )
        if (told := source.config("scheduler").get("prediction_type")) in ("epsilon", "v_prediction"):
            raise UserError(
                f"{self.title} predicts the flow, but {source.path} is said to predict '{told}': leave model.prediction_type auto."
            )
        if not isinstance(transformer.get("pos_embed_max_size", 96), int):
            raise UserError(f"The transformer of {source.path} has no table of positions: choose another model.")
        pooled = sum(source.config(clip.part).get("projection_dim", 512) for clip in CLIPS)
        if pooled != transformer.get("pooled_projection_dim", 2048):
            raise UserError(f"The text encoders of {source.path} don't fit its transformer ({pooled} numbers a text): copy them again.")
        if T5 in parts and source.config(T5).get("d_model", 512) != transformer.get("joint_attention_dim", T5_WIDTH):
            raise UserError(f"The T5 text encoder of {source.path} is of another width than its transformer reads: copy it again.")
        for part in parts:
            source.config(part)
            source.weights(part)
            if part.startswith("text_encoder"):
                source.tokenizer(part)

    def prediction_of(self, source: Source) -> PredictionType:
        return "flow"

    def size_of(self, source: Source) -> int:
        sample_size = source.config("transformer").get("sample_size")
        return sample_size * self.latent_factor if isinstance(sample_size, int) else self.native_size

    def demand(self, source: Source) -> Demand:
        """Raises KeyError where weights are of another kind."""
        transformer, clips = source.weights("transformer"), {clip.part: source.weights(clip.part) for clip in CLIPS}
        texts = [of_text_encoder(found) for found in clips.values()]
        if T5 in source.parts():
            texts.append(_of_t5(source.weights(T5)))
        return Demand(
            unet=_of_transformer(transformer),
            vae=of_vae(source.weights("vae")),
            text_encoder=sum(texts[1:], texts[0]),
            layers={
                "transformer": of_layers(transformer, ATTENTION),
                **{part: of_layers(found, TEXT_ATTENTION) for part, found in clips.items()},
            },
        )

    def modelspec(self, parts: Parts) -> str:
        """As sd-scripts tells them apart (library/sd3_utils.py): by the second attention, and the normed queries and keys of 3.5."""
        config = parts.denoiser.config
        return f"stable-diffusion-{'3-5-medium' if config.dual_attention_layers else '3-5-large' if config.qk_norm else '3-medium'}"

    # Loading

    def load(self, source: Source, device: torch.device, dtype: torch.dtype, parts: tuple[str, ...] | None = None) -> Parts:
        """Parts that are not asked for are None or empty: their weights are not even looked at.

        Raises UserError in one sentence that names the file for anything that is missing, of another kind or damaged.
        """
        import torch

        wanted = parts or self.all_parts(source)
        self.check(source, wanted)
        device = torch.device(device)
        texts = [(clip.module, clip.part) for clip in CLIPS if clip.part in wanted] + [("T5EncoderModel", T5)] * (T5 in wanted)
        return Parts(
            denoiser=module("SD3Transformer2DModel", source, "transformer", dtype, device) if "transformer" in wanted else None,
            vae=module("AutoencoderKL", source, "vae", vae_dtype(source, device, dtype), device) if "vae" in wanted else None,
            text_encoders=[module(kind, source, part, dtype, device) for kind, part in texts],
            tokenizers=[(t5_tokenizer if part == T5 else clip_tokenizer)(source, part) for _, part in texts],
            noise_schedule=source.config("scheduler"),
            prediction_type="flow",
            device=device,
            dtype=dtype,
            base_name=source.name,
            base_hash=source.hash() if "transformer" in wanted else "",
        )

    def skeleton(self, source: Source) -> Parts:
        import torch

        return Parts(
            denoiser=skeleton("SD3Transformer2DModel", source.config("transformer")),
            vae=None,
            text_encoders=[skeleton(clip.module, source.config(clip.part)) for clip in CLIPS],
            tokenizers=[],
            noise_schedule={},
            prediction_type="flow",
            device=torch.device("meta"),
            dtype=torch.float32,
            base_name=source.name,
            base_hash="",
        )

    def vae_original(self) -> OriginalPart:
        return vae_part(1.5305, shift_factor=0.0609)

    # At work

    def encode_images(self, parts: Parts, pixels: torch.Tensor) -> torch.Tensor:
        return encode_images(parts.vae, pixels)

    def decode_latents(self, parts: Parts, latents: torch.Tensor) -> torch.Tensor:
        return decode_latents(parts.vae, latents)

    def encode_prompts(
        self, parts: Parts, prompts: list[str], clip_skip: int = 1, max_chunks: int = 1, *, min_chunks: int = 1, weighted: bool = False
    ) -> TextEncoding:
        """-> hidden (batch, 77 + 256, width of T5), pooled (batch, both projections), as diffusers' StableDiffusion3Pipeline has it.

        Both CLIPs' last hidden state but one, without the final layer norm, side by side and filled up with zeros to T5's width;
        clip_skip counts from that one. T5's states follow them. Long prompts are T5's: CLIP reads one window, whatever
        `max_chunks`, so all encodings are of one length. Nobody has trained it with weighted words: marks of them are left out.
        """
        import torch

        prompts = [emphasis.plain(prompt) for prompt in prompts] if weighted else prompts

        hidden, pooled = [], []
        for tokenizer, encoder in zip(parts.tokenizers[: len(CLIPS)], parts.text_encoders[: len(CLIPS)], strict=True):
            tokens = token_chunks(tokenizer, prompts, 1, inner_text_model(encoder).config.max_position_embeddings)[:, 0]
            output = encoder(tokens.to(encoder.device), output_hidden_states=True)
            hidden.append(output.hidden_states[-(clip_skip + 1)])
            pooled.append(output.text_embeds)
        clips = torch.cat(hidden, dim=-1)
        long = self._read_by_t5(parts, prompts, clips)
        padded = torch.nn.functional.pad(clips, (0, long.shape[-1] - clips.shape[-1]))
        return TextEncoding(torch.cat([padded, long], dim=1), torch.cat(pooled, dim=-1))

    def _read_by_t5(self, parts: Parts, prompts: list[str], like: torch.Tensor) -> torch.Tensor:
        """(batch, 256, width); zeros where there is no T5."""
        if len(parts.text_encoders) == len(CLIPS):
            width = T5_WIDTH if parts.denoiser is None else parts.denoiser.config.joint_attention_dim
            return like.new_zeros(len(prompts), T5_TOKENS, width)
        tokens = parts.tokenizers[-1](prompts, padding="max_length", max_length=T5_TOKENS, truncation=True, return_tensors="pt").input_ids
        # Padding is read like words, as the model was trained: diffusers gives no mask either.
        return parts.text_encoders[-1](tokens.to(like.device)).last_hidden_state.to(like.dtype)

    def predict(
        self, parts: Parts, noisy: torch.Tensor, timesteps: torch.Tensor, text: TextEncoding, framing: torch.Tensor | None = None
    ) -> torch.Tensor:
        """noisy (batch, channels, h, w), timesteps (batch,) from 0 to 1000 -> the flow's velocity, of the same shape.

        Sides that are no whole number of patches are filled up from the opposite edge, as ComfyUI does (comfy/ldm/common_dit.py),
        and cut off again. Raises UserError for pictures that are larger than the model's table of positions.
        """
        import torch

        config = parts.denoiser.config
        height, width = noisy.shape[-2:]
        most = config.pos_embed_max_size * config.patch_size
        if max(height, width) > most:
            largest, got = most * self.latent_factor, f"{width * self.latent_factor}x{height * self.latent_factor}"
            raise UserError(f"{parts.base_name} has no positions for pictures of more than {largest} pixels a side (got {got}): go lower.")
        padding = (0, -width % config.patch_size, 0, -height % config.patch_size)
        whole = torch.nn.functional.pad(noisy, padding, mode="circular") if any(padding) else noisy
        predicted = parts.denoiser(
            hidden_states=whole.to(parts.dtype),
            timestep=timesteps,
            encoder_hidden_states=text.hidden.to(parts.dtype),
            pooled_projections=text.pooled.to(parts.dtype),
            return_dict=False,
        )[0]
        return predicted[..., :height, :width]

    # Adapters

    def word_tables(self, parts: Parts) -> list[torch.nn.Module]:
        return []

    def trainable_modules(self, parts: Parts) -> dict[str, tuple[torch.nn.Module, tuple[str, ...]]]:
        """The transformer and both CLIPs; T5 is left as it is, as in diffusers' train_dreambooth_lora_sd3.py."""
        modules: dict[str, tuple[torch.nn.Module, tuple[str, ...]]] = {}
        if parts.denoiser is not None:
            modules["transformer"] = (parts.denoiser, ATTENTION)
        for clip, encoder in zip(CLIPS, parts.text_encoders, strict=False):
            modules[clip.part] = (inner_text_model(encoder), TEXT_ATTENTION)
        return modules

    def names(self, parts: Parts) -> list[PartNames]:
        """The transformer's modules go by diffusers' names in every layout.

        The original has one matrix for queries, keys and values (`joint_blocks.0.x_block.attn.qkv`), so what is trained has no name of
        its own there, and files by those names (sd-scripts networks/lora_sd3.py) don't fit. ComfyUI (comfy/lora.py,
        model_lora_keys_unet) reads diffusers' names behind `transformer.` and, with underscores, behind OneTrainer's `lora_transformer_`.
        """
        modules = self.trainable_modules(parts)
        found = []
        if "transformer" in modules:
            shapes = layer_shapes(modules["transformer"][0])
            found.append(PartNames("transformer", shapes, kohya="lora_transformer", comfyui="transformer"))
        for clip in CLIPS:
            if clip.part in modules:
                found.append(PartNames(clip.part, layer_shapes(modules[clip.part][0]), clip.kohya, clip.comfyui, inner="text_model."))
        return found

    def pipeline(self, parts: Parts) -> Any:
        from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
        from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

        encoders, tokenizers = ([*some, None] if len(some) == len(CLIPS) else some for some in (parts.text_encoders, parts.tokenizers))
        with quiet():
            return StableDiffusion3Pipeline(
                transformer=parts.denoiser,
                scheduler=FlowMatchEulerDiscreteScheduler.from_config(parts.noise_schedule),
                vae=parts.vae,
                text_encoder=encoders[0],
                text_encoder_2=encoders[1],
                text_encoder_3=encoders[2],
                tokenizer=tokenizers[0],
                tokenizer_2=tokenizers[1],
                tokenizer_3=tokenizers[2],
            )


def _of_transformer(weights: Weights) -> TransformerDemand:
    """From the header of its weight files."""
    picture, text, seconds = 0, 0, 0
    for name, (_, shape) in weights.items():
        seconds += name.endswith(".attn2.to_q.weight")
        if len(shape) < 2 or name.startswith(("time_text_embed.", "pos_embed.pos_embed")) or re.search(r"norm\w*\.linear\.", name):
            continue  # once per picture, or next to nothing
        if re.search(r"^context_embedder\.|\.add_[qkv]_proj\.|\.to_add_out\.|\.ff_context\.", name):
            text += math.prod(shape)
        else:
            picture += math.prod(shape)
    width, channels, *patch = weights["pos_embed.proj.weight"][1]
    return TransformerDemand(
        parameters=_count(weights),
        latent_channels=channels,
        text_width=weights["context_embedder.weight"][1][1],
        text_tokens=TEXT_TOKENS + T5_TOKENS,
        patch=math.prod(patch),
        picture_weights=picture,
        text_weights=text,
        channels=width,
        layers=sum(name.endswith(".attn.to_q.weight") for name in weights),
        second_attentions=seconds,
    )


def _of_t5(weights: Weights) -> TextDemand:
    """Never trained, so it keeps nothing; its forward pass over more tokens counts as that of a trained encoder's layers."""
    layers = sum(math.prod(shape) for name, (_, shape) in weights.items() if ".layer." in name and len(shape) == 2)
    return TextDemand(_count(weights), round(layers * T5_TOKENS / (3 * TEXT_TOKENS)), channels=0)


def _count(weights: Weights) -> int:
    return sum(math.prod(shape) for _, shape in weights.values())


ENTRY = StableDiffusion3()
