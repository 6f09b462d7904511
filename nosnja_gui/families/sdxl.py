"""Stable Diffusion XL (Podell et al. 2023): two text encoders, a pooled encoding, and conditioning on size and crop; 1024 pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nosnja_gui.families import Parts, TextEncoding, original, shapes
from nosnja_gui.families.loading import quiet
from nosnja_gui.families.stable_diffusion import (
    CONFIGS,
    StableDiffusion,
    TextPart,
    clip_part,
    emphasised,
    plain_scheduler,
    schedule,
    told_prediction,
    told_size,
    unet_part,
    vae_part,
)
from nosnja_gui.sources import Original, OriginalPart, Tokenizer
from nosnja_gui.tokens import VOCABULARY

if TYPE_CHECKING:
    import torch

ORIGINAL = Original(
    title="Stable Diffusion XL",
    matches=lambda names: (
        "model.diffusion_model.label_emb.0.0.weight" in names
        and any(name.startswith("conditioner.embedders.0.transformer.") for name in names)
    ),
    parts={
        "unet": unet_part(heads=None),
        "vae": vae_part(scaling_factor=0.13025, force_upcast=True),
        "text_encoder": clip_part("conditioner.embedders.0.transformer."),
        "text_encoder_2": OriginalPart(
            "conditioner.embedders.1.model.",
            shapes.open_clip,
            lambda config: original.open_clip_names(config, projection=True),
            Tokenizer(VOCABULARY, {"pad_token": "!"}),
            fillers=lambda config: original.open_clip_fillers(config, whole=True),
        ),
    },
    # Fine-tunes that were trained down to pure noise mark that with an empty tensor, as they do with v_pred.
    schedule=lambda file: schedule(told_prediction(file) or "epsilon", zero_terminal_snr="ztsnr" in file.entries),
    size=lambda file: told_size(file, 1024),
    marks=lambda prediction, schedule: (
        *(("v_pred",) if prediction == "v_prediction" else ()),
        *(("ztsnr",) if schedule.get("rescale_betas_zero_snr") else ()),
    ),
)


class StableDiffusionXL(StableDiffusion):
    def _fits(self, unet: Mapping[str, Any]) -> bool:
        return isinstance(unet.get("cross_attention_dim", 1280), int) and unet.get("addition_embed_type") == "text_time"

    def encode_prompts(
        self, parts: Parts, prompts: list[str], clip_skip: int = 1, max_chunks: int = 1, *, min_chunks: int = 1, weighted: bool = False
    ) -> TextEncoding:
        """-> hidden (batch, 77 * chunks, both widths), pooled (batch, width of the second).

        Both encoders' last hidden state but one, without the final layer norm, side by side; clip_skip counts from that one. The
        pooled encoding is the second's projection of the first window's end token (Podell et al. 2023, section 2.1).
        """
        import torch

        hidden, pooled = [], None
        for place, encoder in enumerate(parts.text_encoders):
            tokens, emphasis = self._chunks(parts, place, prompts, max_chunks, min_chunks, weighted)
            batch, chunks, length = tokens.shape
            output = encoder(tokens.reshape(batch * chunks, length).to(_device(encoder)), output_hidden_states=True)
            state = output.hidden_states[-(clip_skip + 1)]
            hidden.append(emphasised(state.reshape(batch, chunks, length, -1), emphasis).flatten(1, 2))
            if place == 1:
                pooled = output.text_embeds.reshape(batch, chunks, -1)[:, 0]
        return TextEncoding(torch.cat(hidden, dim=-1), pooled)

    @property
    def embedding_keys(self) -> tuple[str, ...]:
        return ("clip_l", "clip_g")

    def predict(
        self, parts: Parts, noisy: torch.Tensor, timesteps: torch.Tensor, text: TextEncoding, framing: torch.Tensor | None = None
    ) -> torch.Tensor:
        import torch

        if framing is None:
            height, width = (side * self.latent_factor for side in noisy.shape[-2:])
            framing = torch.tensor([[height, width, 0, 0, height, width]]).expand(len(noisy), 6)
        conditions = {"text_embeds": text.pooled.to(parts.dtype), "time_ids": framing.to(noisy.device)}
        return parts.denoiser(
            noisy.to(parts.dtype),
            timesteps,
            encoder_hidden_states=text.hidden.to(parts.dtype),
            added_cond_kwargs=conditions,
            return_dict=False,
        )[0]

    def pipeline(self, parts: Parts) -> Any:
        from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

        with quiet():
            return StableDiffusionXLPipeline(
                vae=parts.vae,
                text_encoder=parts.text_encoders[0],
                text_encoder_2=parts.text_encoders[1],
                tokenizer=parts.tokenizers[0],
                tokenizer_2=parts.tokenizers[1],
                unet=parts.denoiser,
                scheduler=plain_scheduler(parts),
                add_watermarker=False,
            )


def _device(encoder: torch.nn.Module) -> torch.device:
    return next(encoder.parameters()).device


ENTRY = StableDiffusionXL(
    name="sdxl",
    title="Stable Diffusion XL",
    short="SDXL",
    native_size=1024,
    kohya_version="sdxl_base_v1-0",
    original=ORIGINAL,
    standard=CONFIGS / "sdxl",
    text_parts=(
        TextPart("text_encoder", "CLIPTextModel", "lora_te1", "text_encoders.clip_l.transformer"),
        TextPart("text_encoder_2", "CLIPTextModelWithProjection", "lora_te2", "text_encoders.clip_g.transformer"),
    ),
    modelspecs=dict.fromkeys(("epsilon", "v_prediction"), "stable-diffusion-xl-v1-base"),
    owns=lambda kind, width: kind.startswith("StableDiffusionXL"),
)
