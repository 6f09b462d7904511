"""Captioning."""

from typing import Annotated, Literal

from pydantic import Field

from nosnja_gui.jobs.shared import Precision
from nosnja_gui.settings import Settings


class CaptionJob(Settings):
    job: Literal["caption"] = "caption"
    dataset: str
    """The dataset's folder."""
    captioner: str = "blip"
    """Which captioner writes."""
    model: str = ""
    """The captioner's model folder; empty looks for its usual model in the workspace and in the hub's cache."""
    prompt: str = ""
    """Beginning that the captioner continues, such as "a photo of"; empty lets it begin."""
    existing: Literal["keep", "overwrite"] = "keep"
    """What happens to pictures that have a caption already."""
    pictures: list[str] = []
    """Only these pictures, by file name; empty captions all of them."""
    batch_size: Annotated[int, Field(ge=1, le=256)] = 8
    """Pictures captioned at once."""
    precision: Precision = "auto"
    """Number format of the captioner."""
