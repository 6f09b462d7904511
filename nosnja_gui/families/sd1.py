"""Stable Diffusion 1.x: CLIP ViT-L/14, a cross attention of 768, pictures of 512 pixels."""

from nosnja_gui.families.stable_diffusion import (
    CONFIGS,
    StableDiffusion,
    TextPart,
    clip_part,
    is_plain,
    schedule,
    told_prediction,
    told_size,
    unet_part,
    vae_part,
)
from nosnja_gui.sources import Original

ORIGINAL = Original(
    title="Stable Diffusion 1.x",
    matches=lambda names: (
        "model.diffusion_model.input_blocks.0.0.weight" in names and any(name.startswith("cond_stage_model.transformer.") for name in names)
    ),
    parts={
        "unet": unet_part(heads=8),
        "vae": vae_part(scaling_factor=0.18215),
        "text_encoder": clip_part("cond_stage_model.transformer."),
    },
    schedule=lambda file: schedule(told_prediction(file) or "epsilon"),
    size=lambda file: told_size(file, 512),
)

ENTRY = StableDiffusion(
    name="sd1",
    title="Stable Diffusion 1.x",
    short="SD 1.x",
    native_size=512,
    kohya_version="sd_v1",
    original=ORIGINAL,
    standard=CONFIGS / "sd1",
    text_parts=(TextPart("text_encoder", "CLIPTextModel", "lora_te", "text_encoders.clip_l.transformer"),),
    modelspecs=dict.fromkeys(("epsilon", "v_prediction"), "stable-diffusion-v1"),
    owns=lambda kind, width: is_plain(kind) and width != 1024,
)
