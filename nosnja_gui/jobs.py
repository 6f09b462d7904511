"""The typed configuration of every long job. What a field is for stands under it: that is the user's help, too."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from nosnja_gui.methods.lora import LoraSettings
from nosnja_gui.settings import Settings

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Sampler = Literal["ddim", "euler", "euler_a", "dpm++_2m", "dpm++_2m_karras", "unipc", "heun"]
Schedule = Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"]


class ModelSettings(Settings):
    path: str = ""
    """The base model: a diffusers folder, by path or by its name in the workspace's models folder."""
    clip_skip: Annotated[int, Field(ge=1, le=2)] = 1
    """Which layer of the text encoder is used, counted from the end: 1 for most models, 2 for anime models."""
    precision: Precision = "auto"
    """Number format of the frozen model: auto takes bfloat16 or float16 on a GPU that is fast at it and float32 on a CPU."""


class DatasetSettings(Settings):
    path: str = ""
    """The dataset: a folder of pictures with captions, by path or by its name in the workspace's datasets folder."""
    resolution: Annotated[int | None, Field(ge=64, le=4096)] = None
    """Side in pixels that pictures are brought to (their area, with buckets); empty takes the model's own, 512 for SD 1.5."""
    repeats: Annotated[int, Field(ge=1, le=10_000)] = 10
    """How often each picture is shown in one epoch; 30 pictures x 10 repeats = 300 exposures an epoch."""
    buckets: bool = True
    """Keep each picture's shape: pictures are grouped by aspect ratio and cropped only a little; off crops all to squares."""
    bucket_step: Annotated[int, Field(ge=8, le=256, multiple_of=8)] = 64
    """Sides of the buckets are multiples of this many pixels; 64 is usual."""
    flip: bool = False
    """Also show each picture mirrored: doubles a small set, but harms text and asymmetric clothes."""
    caption_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of exposures shown without any caption: 0.05 to 0.1 keeps guidance (CFG) working in long trainings."""
    validation_share: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of the pictures held out to measure overfitting; 0.1 of 30 pictures holds out 3."""


class OptimizerSettings(Settings):
    name: Literal["adamw", "adamw8bit"] = "adamw"
    """AdamW is the standard; AdamW8bit needs a quarter of its memory (and the bitsandbytes package)."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    """How large each step is: 1e-4 is usual for LoRA; ten times less hardly learns, ten times more burns in."""
    text_encoder_learning_rate: Annotated[float | None, Field(ge=0, le=1)] = None
    """Trains the text encoder as well, at this rate: half the learning rate is usual; empty or 0 leaves it alone."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Pulls the weights towards zero; 0.01 is usual."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients longer than this are shortened, which tames outliers; 1.0 is usual, 0 turns it off."""


class ScheduleSettings(Settings):
    name: Schedule = "cosine"
    """How the learning rate changes over the training: constant stays, cosine and linear fall to zero, restarts begin anew."""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of all steps in which the rate rises from zero; 0.05 is usual."""
    restarts: Annotated[int, Field(ge=1, le=100)] = 3
    """Number of cycles of cosine with restarts."""
    power: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Bend of the polynomial schedule: 1 is a straight line, 2 falls faster at first."""


class TrainingSettings(Settings):
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 10
    """How often the whole dataset (with its repeats) is gone through."""
    max_steps: Annotated[int | None, Field(ge=1)] = None
    """Ends the training after this many steps if the epochs have not ended it before; empty for no limit."""
    batch_size: Annotated[int, Field(ge=1, le=512)] = 2
    """Pictures per step: more is steadier and needs more memory; 1 to 4 on most cards."""
    gradient_accumulation: Annotated[int, Field(ge=1, le=512)] = 1
    """Batches gathered before each update: imitates a larger batch without its memory."""
    min_snr_gamma: Annotated[float | None, Field(gt=0)] = 5.0
    """Min-SNR weighting (Hang et al. 2023): learns faster and steadier; 5 is the paper's value, empty turns it off."""
    gradient_checkpointing: bool = False
    """Saves much memory for a third more time: turn it on when the card runs out."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Start of all randomness: the same seed gives the same training."""


class PreviewSettings(Settings):
    prompts: list[str] = []
    """What to paint while training, one prompt per picture; keep the trigger word in at least one and out of another."""
    negative_prompt: str = ""
    """What the previews should avoid."""
    every_epochs: Annotated[int, Field(ge=0)] = 1
    """Paint previews after every so many epochs; 0 for none."""
    every_steps: Annotated[int, Field(ge=0)] = 0
    """Paint previews after every so many steps; 0 for none."""
    before_training: bool = True
    """Also paint them before the first step, to see what the training changes."""
    sampler: Sampler = "dpm++_2m_karras"
    """How pictures are denoised; dpm++_2m_karras is good at 20 to 30 steps."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 25
    """Denoising steps per picture: 20 to 30 is usual."""
    cfg_scale: Annotated[float, Field(ge=1, le=50)] = 7.0
    """How strictly the prompt is followed: 7 is usual for SD 1.5."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """The first preview's seed, the next one gets the next number; fixed, so that only the training changes the picture."""
    width: Annotated[int | None, Field(ge=64, le=4096, multiple_of=8)] = None
    """Width in pixels; empty takes the training's resolution."""
    height: Annotated[int | None, Field(ge=64, le=4096, multiple_of=8)] = None
    """Height in pixels; empty takes the training's resolution."""


class SavingSettings(Settings):
    every_epochs: Annotated[int, Field(ge=0)] = 1
    """Save a LoRA file after every so many epochs; 0 only at the end."""
    every_steps: Annotated[int, Field(ge=0)] = 0
    """Save a LoRA file after every so many steps; 0 for none."""
    checkpoint_every_steps: Annotated[int, Field(ge=0)] = 250
    """Save the state to resume from after every so many steps; 0 only when stopped and at the end of an epoch that saves."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """How many states to resume from are kept; LoRA files are all kept."""
    precision: Literal["float16", "bfloat16", "float32"] = "float16"
    """Number format of the saved LoRA: float16 is half as large and good enough."""


class ValidationSettings(Settings):
    every_epochs: Annotated[int, Field(ge=0)] = 1
    """Measure the loss on the held-out pictures after every so many epochs; 0 for never."""
    draws: Annotated[int, Field(ge=1, le=64)] = 4
    """Noise draws per held-out picture, the same each time: more gives a smoother curve."""


class TrainJob(Settings):
    job: Literal["train"] = "train"
    name: str = "lora"
    """Name of the result: the LoRA file and the run's folder are called after it."""
    trigger: str = ""
    """The trigger word in the captions; written into the LoRA's metadata, so that its users find it."""
    model: ModelSettings = ModelSettings()
    dataset: DatasetSettings = DatasetSettings()
    method: Literal["lora"] = "lora"
    """What is trained: a LoRA is a small file of differences that is added to a model."""
    lora: LoraSettings = LoraSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    training: TrainingSettings = TrainingSettings()
    preview: PreviewSettings = PreviewSettings()
    saving: SavingSettings = SavingSettings()
    validation: ValidationSettings = ValidationSettings()
    output: str = ""
    """The run folder; empty makes a new one in the workspace's runs folder."""


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
    batch_size: Annotated[int, Field(ge=1, le=256)] = 8
    """Pictures captioned at once."""
    precision: Precision = "auto"
    """Number format of the captioner."""


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
    run: str = ""
    """A training run: its epochs become choosable on the epoch axis, and its model and trigger are taken over."""
    lora: str = ""
    """A LoRA file for all cells, where no axis chooses one."""
    weight: Annotated[float, Field(ge=-5, le=5)] = 1.0
    """Weight of the LoRA where no axis chooses one."""
    trigger: str = ""
    """The trigger word, for the trigger axis; empty takes the run's."""
    class_noun: str = ""
    """The word that stands in for the trigger where it is off, such as "dress"; empty just leaves the trigger out."""
    prompt: str = ""
    """The prompt of every cell; write [trigger] where the trigger word goes."""
    negative_prompt: str = ""
    """What the pictures should avoid."""
    x: AxisSettings | None = None
    y: AxisSettings | None = None
    z: AxisSettings | None = None
    images_per_cell: Annotated[int, Field(ge=1, le=16)] = 1
    """Pictures per cell, with consecutive seeds."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """First seed of every cell, where no axis chooses one."""
    sampler: Sampler = "dpm++_2m_karras"
    """How pictures are denoised."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 25
    """Denoising steps per picture."""
    cfg_scale: Annotated[float, Field(ge=1, le=50)] = 7.0
    """How strictly the prompt is followed."""
    width: Annotated[int | None, Field(ge=64, le=4096, multiple_of=8)] = None
    """Width in pixels; empty takes the model's own."""
    height: Annotated[int | None, Field(ge=64, le=4096, multiple_of=8)] = None
    """Height in pixels; empty takes the model's own."""
    batch_size: Annotated[int, Field(ge=1, le=64)] = 4
    """Pictures painted at once."""
    output: str = ""
    """The grid's folder; empty makes a new one in the workspace's runs folder. An old folder is gone on with: finished cells stay."""

    @model_validator(mode="after")
    def _has_an_axis(self) -> "GridJob":
        if not (self.x or self.y or self.z):
            raise ValueError("needs at least one axis: x, y or z")
        return self


Job = TrainJob | CaptionJob | GridJob


def workspace_path(text: str, folder: Path) -> Path:
    """A path as given if it exists, else the entry of that name in `folder`."""
    given = Path(text).expanduser()
    return given if given.exists() or given.is_absolute() else (folder / text if (folder / text).exists() else given)
