"""Stable Diffusion 2.x: OpenCLIP ViT-H/14 without its last layer and a cross attention of 1024.

The base models predict the noise at 512 pixels, the others the velocity at 768.
"""

from nosnja_gui.families import original, shapes
from nosnja_gui.families.stable_diffusion import (
    CONFIGS,
    StableDiffusion,
    TextPart,
    is_plain,
    schedule,
    spread,
    told_prediction,
    told_size,
    unet_part,
    vae_part,
)
from nosnja_gui.sources import Original, OriginalPart, PredictionType, SingleFile, Tokenizer
from nosnja_gui.tokens import VOCABULARY

TELLING, LEAST_SPREAD = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09
"""Nothing else in a bare checkpoint of SD 2.x says what it predicts: training on the velocity spread these biases wider than that.

Found by the authors of ComfyUI (comfy/supported_models.py, class SD20).
"""


def prediction(file: SingleFile) -> PredictionType:
    return told_prediction(file) or ("v_prediction" if spread(file, TELLING) > LEAST_SPREAD else "epsilon")


ORIGINAL = Original(
    title="Stable Diffusion 2.x",
    matches=lambda names: (
        "model.diffusion_model.input_blocks.0.0.weight" in names and any(name.startswith("cond_stage_model.model.") for name in names)
    ),
    parts={
        "unet": unet_part(heads=None),
        "vae": vae_part(scaling_factor=0.18215),
        "text_encoder": OriginalPart(
            "cond_stage_model.model.",
            # Fine-tunes that were saved from diffusers have lost the layer that is not used, and the projection with it.
            lambda found: shapes.open_clip(found, unused_layers=1 if "text_projection" in found else 0),
            lambda config: original.open_clip_names(config, projection=False),
            # Its text encoder was trained on sentences filled up with token 0.
            Tokenizer(VOCABULARY, {"pad_token": "!"}),
            fillers=lambda config: original.open_clip_fillers(config, whole=False),
        ),
    },
    schedule=lambda file: schedule(prediction(file)),
    size=lambda file: told_size(file, 768 if prediction(file) == "v_prediction" else 512),
)

ENTRY = StableDiffusion(
    name="sd2",
    title="Stable Diffusion 2.x",
    short="SD 2.x",
    native_size=768,
    kohya_version="sd_v2",
    original=ORIGINAL,
    standard=CONFIGS / "sd2",
    text_parts=(TextPart("text_encoder", "CLIPTextModel", "lora_te", "text_encoders.clip_h.transformer"),),
    modelspecs={"epsilon": "stable-diffusion-v2-512", "v_prediction": "stable-diffusion-v2-768-v"},
    owns=lambda kind, width: is_plain(kind) and width == 1024,
)
