"""What the settings of several jobs have in common: formats, samplers, bounds and titles."""

from typing import Annotated, Literal

from pydantic import Field

from nosnja_gui.axes import SAMPLER_TITLES
from nosnja_gui.settings import Settings, Shown, Slider

Precision = Literal["auto", "float32", "bfloat16", "float16"]


Sampler = Literal["ddim", "euler", "euler_a", "dpm++_2m", "dpm++_2m_karras", "unipc", "heun"]


PRECISION_TITLES = {"auto": "Automatic", "float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}


PREDICTION_TITLES = {"auto": "Automatic", "epsilon": "Noise (epsilon)", "v_prediction": "Velocity (v)"}


# What a picture of a preview and one of a grid have in common: bounds, title and slider.
Side = Annotated[int | None, Field(ge=64, le=4096, multiple_of=8), Slider(256, 1024, 64), Shown(empty="auto", start=512)]
DenoisingSteps = Annotated[int, Field(ge=1, le=1000, title="Denoising steps"), Slider(5, 50, 1)]
CfgScale = Annotated[float, Field(ge=1, le=50, title="CFG scale"), Slider(1, 15, 0.5)]
ShownSampler = Annotated[Sampler, Shown(titles=SAMPLER_TITLES)]


class ModelSettings(Settings):
    path: Annotated[str, Field(title="Base model"), Shown(essential=True)] = ""
    """What the training begins with: a checkpoint (.safetensors) or a diffusers folder, by path or by its name in the models folder."""
    vae: Annotated[str, Field(title="Other VAE")] = ""
    """Takes the place of the model's own autoencoder: a file or folder, by path or by its name in the models folder; usually empty."""
    prediction_type: Annotated[Literal["auto", "epsilon", "v_prediction"], Shown(titles=PREDICTION_TITLES)] = "auto"
    """What the model predicts: found out from the model itself; set it only where pictures come out as noise."""
    clip_skip: Annotated[int, Field(ge=1, le=2), Slider(1, 2, 1)] = 1
    """Which layer of the text encoder is used, counted from the end: 1 for most models, 2 for anime models."""
    precision: Annotated[Precision, Shown(titles=PRECISION_TITLES)] = "auto"
    """Number format of the frozen model: auto takes bfloat16 or float16 on a GPU that is fast at it and float32 on a CPU."""
