"""What is trained on."""

from typing import Annotated

from pydantic import Field

from nosnja_gui.settings import Settings, Shown, Slider


class DatasetSettings(Settings):
    path: Annotated[str, Field(title="Dataset"), Shown(essential=True)] = ""
    """The dataset: a folder of pictures with captions, by path or by its name in the workspace's datasets folder."""
    resolution: Annotated[
        int | None,
        Field(ge=64, le=4096),
        Slider(256, 1024, 64),
        Shown(essential=True, empty="auto", start=512),
    ] = None
    """Side in pixels that pictures are brought to; empty takes the model's own: 512 for SD 1.5, 1024 for SDXL."""
    repeats: Annotated[int, Field(ge=1, le=10_000), Slider(1, 40, 1), Shown(essential=True)] = 10
    """How often each picture is shown in an epoch; 30 pictures x 10 repeats = 300 exposures."""
    buckets: Annotated[bool, Field(title="Keep the pictures' shapes (buckets)")] = True
    """Keep each picture's shape: pictures are grouped by aspect ratio and cropped only a little; off crops all to squares."""
    bucket_step: Annotated[int, Field(ge=8, le=256, multiple_of=8, title="Step of the buckets"), Slider(8, 128, 8)] = 64
    """Sides of the buckets are multiples of this many pixels: 64 is usual, 32 crops less."""
    flip: Annotated[bool, Field(title="Mirror at random")] = False
    """Also show each picture mirrored: doubles a small set, but harms text and asymmetric clothes."""
    caption_dropout: Annotated[float, Field(ge=0, le=1), Slider(0, 0.3, 0.01)] = 0.0
    """Share of exposures shown without any caption: 0.05 to 0.1 keeps guidance (CFG) working in long trainings."""
    validation_share: Annotated[float, Field(ge=0, le=0.5, title="Held out for validation"), Slider(0, 0.3, 0.01)] = 0.0
    """Share of the pictures held out to measure overfitting; 0.1 of 30 pictures holds out 3."""
