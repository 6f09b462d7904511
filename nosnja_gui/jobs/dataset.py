"""What is trained on."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from nosnja_gui.dataset import concepts
from nosnja_gui.settings import Settings, Shown, Slider

WINDOW_TITLES = {75: "75 tokens", 150: "150 tokens", 225: "225 tokens"}


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
    shuffle_tags: Annotated[bool, Field(title="Shuffle tags")] = False
    """Shows the tags of a caption (what stands between commas) in another order each time: for captions that are lists of tags."""
    keep_tokens: Annotated[int, Field(ge=0, le=50, title="Tags kept in front"), Slider(0, 10, 1)] = 1
    """So many tags stay in front and are never left out: 1 keeps the trigger word there."""
    tag_dropout: Annotated[float, Field(ge=0, lt=1), Slider(0, 0.5, 0.05)] = 0.0
    """Share of the other tags left out each time: 0.1 makes single tags matter less."""
    tag_warmup: Annotated[float, Field(ge=0, le=1), Slider(0, 0.5, 0.05)] = 0.0
    """Share of the training in which the tags come in one after the other: the first ones are learned best; 0 shows all at once."""
    caption_tokens: Annotated[Literal[75, 150, 225], Field(title="Longest caption"), Shown(titles=WINDOW_TITLES)] = 75
    """Tokens of a caption that are read, in windows of 75: what is beyond is cut off; longer windows need a little more time."""
    weighted_captions: bool = False
    """Reads (word:1.3), (word) and [word] in captions as more or less weight, as in prompts; off, brackets are letters like others."""
    concepts: Annotated[list[str], Field(title="More concepts"), Shown(lines=2)] = []
    """More folders to learn from, one a line: hats, repeats=5, weight=0.5, trigger=myhat, class=hat; all but the folder may be left out."""
    validation_share: Annotated[float, Field(ge=0, le=0.5, title="Held out for validation"), Slider(0, 0.3, 0.01)] = 0.0
    """Share of the pictures held out to measure overfitting; 0.1 of 30 pictures holds out 3."""

    @field_validator("concepts")
    @classmethod
    def _are_concepts(cls, lines: list[str]) -> list[str]:
        for line in filter(str.strip, lines):
            concepts.parse(line)
        return [line.strip() for line in lines if line.strip()]

    @property
    def varies_captions(self) -> bool:
        """Whether the same picture is shown with other captions from time to time."""
        return bool(self.shuffle_tags or self.tag_dropout or self.tag_warmup)

    @property
    def windows(self) -> int:
        """Of 75 tokens that a caption may fill."""
        return self.caption_tokens // 75
