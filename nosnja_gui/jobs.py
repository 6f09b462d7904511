"""The typed configuration of every long job. What a field is for stands under it: that is the user's help, too."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from pydantic import Field, field_validator, model_validator

from nosnja_gui.adapters.writing import Layout
from nosnja_gui.axes import SAMPLER_TITLES
from nosnja_gui.methods.lora import LoraSettings
from nosnja_gui.settings import Settings, Shown, Slider

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Sampler = Literal["ddim", "euler", "euler_a", "dpm++_2m", "dpm++_2m_karras", "unipc", "heun"]
Schedule = Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"]

PRECISION_TITLES = {"auto": "Automatic", "float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}
PREDICTION_TITLES = {"auto": "Automatic", "epsilon": "Noise (epsilon)", "v_prediction": "Velocity (v)"}
LAYOUT_TITLES = {"kohya": "kohya (A1111, Forge, ComfyUI)", "diffusers": "diffusers", "comfyui": "ComfyUI's own"}
OPTIMIZER_TITLES = {"adamw": "AdamW", "adamw8bit": "AdamW8bit", "prodigy": "Prodigy"}
SCHEDULE_TITLES = {
    "constant": "Constant",
    "linear": "Linear",
    "cosine": "Cosine",
    "cosine_with_restarts": "Cosine with restarts",
    "polynomial": "Polynomial",
}


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


class OptimizerSettings(Settings):
    name: Annotated[Literal["adamw", "adamw8bit", "prodigy"], Field(title="Optimizer"), Shown(titles=OPTIMIZER_TITLES)] = "adamw"
    """AdamW is standard; AdamW8bit needs a quarter of its memory (package bitsandbytes); Prodigy finds the rate (package prodigyopt)."""
    learning_rate: Annotated[float, Field(gt=0, le=1), Slider(1e-6, 1e-2, logarithmic=True), Shown(essential=True)] = 1e-4
    """How large each step is: 1e-4 is usual for LoRA; ten times less hardly learns, ten times more burns in. Prodigy wants 1."""
    text_encoder_learning_rate: Annotated[
        float | None,
        Field(ge=0, le=1, title="Text encoder's learning rate"),
        Slider(1e-6, 1e-2, logarithmic=True),
        Shown(essential=True, empty="off", start=5e-5),
    ] = None
    """Trains the text encoder, too: half the learning rate is usual; empty or 0 leaves it alone."""
    weight_decay: Annotated[float, Field(ge=0, le=1), Slider(0, 0.1, 0.005)] = 0.01
    """Pulls the weights towards zero; 0.01 is usual."""
    max_grad_norm: Annotated[float, Field(ge=0, title="Longest gradient"), Slider(0, 2, 0.1)] = 1.0
    """Gradients longer than this are shortened, which tames outliers; 1.0 is usual, 0 turns it off."""


class ScheduleSettings(Settings):
    name: Annotated[Schedule, Field(title="Schedule"), Shown(essential=True, titles=SCHEDULE_TITLES)] = "cosine"
    """How the rate changes: constant stays, cosine and linear fall to zero, restarts begin anew."""
    warmup_share: Annotated[float, Field(ge=0, lt=1, title="Warmup"), Slider(0, 0.3, 0.01), Shown(essential=True)] = 0.05
    """Share of all steps in which the rate rises from zero; 0.05 is usual."""
    restarts: Annotated[int, Field(ge=1, le=100, title="Cycles"), Slider(1, 10, 1), Shown(essential=True)] = 3
    """Number of cycles of cosine with restarts."""
    power: Annotated[float, Field(title="Exponent", gt=0, le=10), Slider(0.5, 3, 0.1), Shown(essential=True)] = 1.0
    """Bend of the polynomial schedule: 1 is a straight line, 2 falls faster at first."""


class TrainingSettings(Settings):
    epochs: Annotated[int, Field(ge=1, le=100_000), Slider(1, 50, 1), Shown(essential=True)] = 10
    """How often the whole dataset (with its repeats) is gone through."""
    max_steps: Annotated[int | None, Field(ge=1, title="Most steps"), Shown(empty="no limit", start=1000)] = None
    """Ends the training after this many steps if the epochs have not ended it before; empty for no limit."""
    batch_size: Annotated[int, Field(ge=1, le=512), Slider(1, 16, 1), Shown(essential=True)] = 2
    """Pictures per step: more is steadier and needs more memory; 1 to 4 on most cards."""
    gradient_accumulation: Annotated[int, Field(ge=1, le=512), Slider(1, 16, 1)] = 1
    """Batches gathered before each update: imitates a larger batch without its memory."""
    min_snr_gamma: Annotated[float | None, Field(gt=0, title="Min-SNR gamma"), Slider(1, 20, 0.5), Shown(empty="off", start=5)] = 5.0
    """Min-SNR weighting (Hang et al. 2023): learns faster and steadier; 5 is the paper's value, empty turns it off."""
    gradient_checkpointing: bool = False
    """Saves much memory for a third more time: turn it on when the card runs out."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Start of all randomness: the same seed gives the same training."""


class PreviewSettings(Settings):
    prompts: Annotated[list[str], Field(title="Preview prompts"), Shown(essential=True, lines=3)] = []
    """What to paint while training, one prompt per picture; keep the trigger word in at least one and out of another."""
    negative_prompt: Annotated[str, Shown(lines=2)] = ""
    """What the previews should avoid."""
    every_epochs: Annotated[int, Field(ge=0, title="Every so many epochs"), Slider(0, 10, 1)] = 1
    """Paint previews after every so many epochs; 0 for none."""
    every_steps: Annotated[int, Field(ge=0, title="Every so many steps"), Slider(0, 1000, 50)] = 0
    """Paint previews after every so many steps; 0 for none."""
    before_training: Annotated[bool, Field(title="Before the first step, too")] = True
    """Also paint them before the first step, to see what the training changes."""
    sampler: ShownSampler = "dpm++_2m_karras"
    """How pictures are denoised; DPM++ 2M Karras is good at 20 to 30 steps."""
    steps: DenoisingSteps = 25
    """Denoising steps per picture: 20 to 30 is usual."""
    cfg_scale: CfgScale = 7.0
    """How strictly the prompt is followed: 7 is usual for SD 1.5, 5 to 7 for SDXL."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """The first preview's seed, the next one gets the next number; fixed, so that only the training changes the picture."""
    width: Side = None
    """Width in pixels; empty takes the training's resolution."""
    height: Side = None
    """Height in pixels; empty takes the training's resolution."""


class SavingSettings(Settings):
    every_epochs: Annotated[int, Field(ge=0, title="Every so many epochs"), Slider(0, 10, 1)] = 1
    """Save a LoRA file after every so many epochs; 0 only at the end."""
    every_steps: Annotated[int, Field(ge=0, title="Every so many steps"), Slider(0, 2000, 50)] = 0
    """Save a LoRA file after every so many steps; 0 for none."""
    checkpoint_every_steps: Annotated[int, Field(ge=0, title="State to resume from, every so many steps"), Slider(0, 2000, 50)] = 250
    """Save the state to resume from after every so many steps; 0 only when stopped and at the end of an epoch that saves."""
    keep_checkpoints: Annotated[int, Field(ge=1, title="States kept"), Slider(1, 10, 1)] = 2
    """How many states to resume from are kept; LoRA files are all kept."""
    precision: Annotated[Literal["float16", "bfloat16", "float32"], Field(title="Precision of the file")] = "float16"
    """Number format of the saved LoRA: float16 is half as large and good enough."""
    layout: Annotated[Layout, Field(title="Layout of the file"), Shown(titles=LAYOUT_TITLES)] = "kohya"
    """For which programs the file is written: nearly all read kohya's layout; the others can be made of it later."""


class ValidationSettings(Settings):
    every_epochs: Annotated[int, Field(ge=0, title="Every so many epochs"), Slider(0, 10, 1)] = 1
    """Measure the loss on the held-out pictures after every so many epochs; 0 for never."""
    draws: Annotated[int, Field(ge=1, le=64, title="Noise draws"), Slider(1, 16, 1)] = 4
    """Noise draws per held-out picture, the same each time: more gives a smoother curve."""


class TrainJob(Settings):
    job: Literal["train"] = "train"
    name: Annotated[str, Shown(essential=True)] = "lora"
    """The LoRA file and the run's folder are called after it."""
    trigger: Annotated[str, Field(title="Trigger word"), Shown(essential=True)] = ""
    """Stands in the captions, and in the LoRA's metadata, so that its users find it."""
    model: Annotated[ModelSettings, Field(title="Model")] = ModelSettings()
    dataset: Annotated[DatasetSettings, Field(title="Pictures")] = DatasetSettings()
    method: Annotated[Literal["lora"], Shown(titles={"lora": "LoRA"})] = "lora"
    """What is trained: a LoRA is a small file of differences that is added to a model."""
    lora: Annotated[LoraSettings, Field(title="LoRA")] = LoraSettings()
    optimizer: Annotated[OptimizerSettings, Field(title="Optimizer")] = OptimizerSettings()
    schedule: Annotated[ScheduleSettings, Field(title="Schedule")] = ScheduleSettings()
    training: Annotated[TrainingSettings, Field(title="Training")] = TrainingSettings()
    preview: Annotated[PreviewSettings, Field(title="Previews while training")] = PreviewSettings()
    saving: Annotated[SavingSettings, Field(title="Saving")] = SavingSettings()
    validation: Annotated[ValidationSettings, Field(title="Validation")] = ValidationSettings()
    output: str = ""
    """The run folder; empty makes a new one in the workspace's runs folder."""

    def without_effect(self) -> list[str]:
        """Settings that change nothing as the others stand, so that a form can show it."""
        idle = {
            "dataset.bucket_step": not self.dataset.buckets,
            "schedule.restarts": self.schedule.name != "cosine_with_restarts",
            "schedule.power": self.schedule.name != "polynomial",
            "validation.every_epochs": not self.dataset.validation_share,
            "validation.draws": not (self.dataset.validation_share and self.validation.every_epochs),
        }
        return [name for name, off in idle.items() if off]


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


class DemoJob(Settings):
    job: Literal["demo"] = "demo"
    quick: bool = False
    """A few steps only, to see that everything runs."""


class DownloadJob(Settings):
    job: Literal["download"] = "download"
    repo: Annotated[str, Field(title="Model on the hub"), Shown(essential=True)]
    """The model's name on the Hugging Face hub, USER/NAME, or its address there."""
    revision: str = ""
    """A branch, tag or commit of it; empty takes the newest."""
    file: Annotated[str, Field(title="Single file")] = ""
    """Only this .safetensors file, by its name there; empty takes the whole model as a diffusers folder."""
    variant: Annotated[Literal["", "fp16"], Shown(titles={"": "Whole precision", "fp16": "fp16"})] = ""
    """fp16 takes weights of half the size where there are such; good enough for most trainings."""
    name: Annotated[str, Field(title="Name here")] = ""
    """What it is called in the models folder; empty takes its name there."""

    @model_validator(mode="before")
    @classmethod
    def _reads_an_address(cls, values: Any) -> Any:
        """https://huggingface.co/USER/NAME/blob/main/model.safetensors, as copied from a browser, says repo, revision and file."""
        found = re.fullmatch(
            r"https?://[^/]+/([^/?#]+/[^/?#]+)(?:/(?:tree|blob|resolve)/([^/?#]+)(?:/([^?#]+))?)?/?(?:[?#].*)?", _repo_in(values)
        )
        if not found:
            return values
        said = {"repo": found[1], "revision": unquote(found[2] or ""), "file": unquote(found[3] or "")}
        return {**said, **{name: value for name, value in values.items() if value and name != "repo"}}

    @field_validator("repo")
    @classmethod
    def _is_an_id(cls, repo: str) -> str:
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo.strip()):
            raise ValueError("is no model of the hub: write USER/NAME, such as stable-diffusion-v1-5/stable-diffusion-v1-5")
        return repo.strip()


def _repo_in(values: Any) -> str:
    repo = values.get("repo") if isinstance(values, dict) else None
    return repo.strip() if isinstance(repo, str) else ""


Job = TrainJob | CaptionJob | GridJob | DemoJob | DownloadJob


def workspace_path(text: str, folder: Path) -> Path:
    """A path as given if it exists, else the entry of that name in `folder`."""
    given = Path(text).expanduser()
    return given if given.exists() or given.is_absolute() else (folder / text if (folder / text).exists() else given)
