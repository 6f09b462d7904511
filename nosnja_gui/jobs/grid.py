"""An XYZ plot."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nosnja_gui.jobs.shared import CfgScale, DenoisingSteps, ModelSettings, ShownSampler, Side
from nosnja_gui.settings import Settings, Shown, Slider


class AxisSettings(Settings):
    axis: str
    """Which setting varies: lora, epoch, weight, trigger, prompt, seed, sampler, steps, cfg_scale ..."""
    values: list[str | float | int] = []
    """The values, in the order they are shown; ranges such as "0.5-1.0 [3]" or "1-5" are spelt out."""
    labels: list[str] = []
    """Labels instead of the values themselves, one for each; empty shows the values."""


class GridJob(Settings):
    job: Literal["grid"] = "grid"
    name: str = "grid"
    """Name of the grid; its folder and sheet are called after it."""
    model: ModelSettings = ModelSettings()
    run: Annotated[str, Field(title="Training run")] = ""
    """A training run: its epochs become choosable on the epoch axis, and its model and trigger are taken over."""
    lora: Annotated[str, Field(title="LoRA")] = ""
    """A LoRA file for all cells, where no axis chooses one."""
    weight: Annotated[float, Field(ge=-5, le=5, title="LoRA weight"), Slider(0, 1.5, 0.05)] = 1.0
    """Weight of the LoRA where no axis chooses one."""
    trigger: Annotated[str, Field(title="Trigger word")] = ""
    """The trigger word, for the trigger axis; empty takes the run's."""
    class_noun: str = ""
    """The word that stands in for the trigger where it is off, such as "dress"; empty just leaves the trigger out."""
    prompt: Annotated[str, Shown(lines=2)] = ""
    """The prompt of every cell; write [trigger] where the trigger word goes."""
    negative_prompt: Annotated[str, Shown(lines=2)] = ""
    """What the pictures should avoid."""
    x: AxisSettings | None = None
    y: AxisSettings | None = None
    z: AxisSettings | None = None
    images_per_cell: Annotated[int, Field(ge=1, le=16, title="Pictures per cell"), Slider(1, 9, 1)] = 1
    """Pictures per cell, with consecutive seeds."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """First seed of every cell, where no axis chooses one."""
    sampler: ShownSampler = "dpm++_2m_karras"
    """How pictures are denoised."""
    steps: DenoisingSteps = 25
    """Denoising steps per picture."""
    cfg_scale: CfgScale = 7.0
    """How strictly the prompt is followed."""
    width: Side = None
    """Width in pixels; empty takes the model's own."""
    height: Side = None
    """Height in pixels; empty takes the model's own."""
    batch_size: Annotated[int, Field(ge=1, le=64), Slider(1, 16, 1)] = 4
    """Pictures painted at once."""
    output: str = ""
    """The grid's folder; empty makes a new one in the workspace's runs folder. An old folder is gone on with: finished cells stay."""

    @model_validator(mode="after")
    def _has_an_axis(self) -> "GridJob":
        if not (self.x or self.y or self.z):
            raise ValueError("needs at least one axis: x, y or z")
        return self
