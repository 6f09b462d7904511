"""A training: everything that can be set."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from nosnja_gui.adapters.writing import Layout
from nosnja_gui.jobs.dataset import DatasetSettings
from nosnja_gui.jobs.loss import LossSettings
from nosnja_gui.jobs.memory import MemorySettings
from nosnja_gui.jobs.optimizer import OptimizerSettings, ScheduleSettings
from nosnja_gui.jobs.prior import PriorSettings
from nosnja_gui.jobs.shared import CfgScale, DenoisingSteps, ModelSettings, ShownSampler, Side
from nosnja_gui.methods import METHODS, MethodSettings, Recipe
from nosnja_gui.methods.dreambooth import DreamboothSettings
from nosnja_gui.methods.hypernetwork import HypernetworkSettings
from nosnja_gui.methods.lora import LoraSettings
from nosnja_gui.methods.textual_inversion import TextualInversionSettings, word_of
from nosnja_gui.settings import Settings, Shown, Slider

PAINTED_PRIOR = ("prior.class_prompts", "prior.class_noun", "prior.steps", "prior.cfg_scale")
METHOD_TITLES = {
    "lora": "LoRA",
    "dreambooth": "DreamBooth (whole model)",
    "hypernetwork": "Hypernetwork",
    "textual_inversion": "Textual inversion",
    "pivotal": "LoRA + embedding (pivotal tuning)",
}
LAYOUT_TITLES = {"kohya": "kohya (A1111, Forge, ComfyUI)", "diffusers": "diffusers", "comfyui": "ComfyUI's own"}


class TrainingSettings(Settings):
    epochs: Annotated[int, Field(ge=1, le=100_000), Slider(1, 50, 1), Shown(essential=True)] = 10
    """How often the whole dataset (with its repeats) is gone through."""
    max_steps: Annotated[int | None, Field(ge=1, title="Most steps"), Shown(empty="no limit", start=1000)] = None
    """Ends the training after this many steps if the epochs have not ended it before; empty for no limit."""
    batch_size: Annotated[int, Field(ge=1, le=512), Slider(1, 16, 1), Shown(essential=True)] = 2
    """Pictures per step: more is steadier and needs more memory; 1 to 4 on most cards."""
    gradient_accumulation: Annotated[int, Field(ge=1, le=512), Slider(1, 16, 1)] = 1
    """Batches gathered before each update: imitates a larger batch without its memory."""
    ema_decay: Annotated[float | None, Field(gt=0, lt=1, title="EMA decay"), Shown(empty="off", start=0.999)] = None
    """Shows and saves a running average of the weights, which is steadier: 0.999 for a few thousand steps; empty turns it off."""
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
    """Save what is trained after every so many epochs; 0 only at the end."""
    every_steps: Annotated[int, Field(ge=0, title="Every so many steps"), Slider(0, 2000, 50)] = 0
    """Save what is trained after every so many steps; 0 for none."""
    checkpoint_every_steps: Annotated[int, Field(ge=0, title="State to resume from, every so many steps"), Slider(0, 2000, 50)] = 250
    """Save the state to resume from after every so many steps; 0 only when stopped and at the end of an epoch that saves."""
    keep_checkpoints: Annotated[int, Field(ge=1, title="States kept"), Slider(1, 10, 1)] = 2
    """How many states to resume from are kept; trained files are all kept."""
    precision: Annotated[Literal["float16", "bfloat16", "float32"], Field(title="Precision of the file")] = "float16"
    """Number format of the saved file: float16 is half as large and good enough."""
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
    """The trained file and the run's folder are called after it."""
    trigger: Annotated[str, Field(title="Trigger word"), Shown(essential=True)] = ""
    """Stands in the captions, and in the file's metadata, so that its users find it."""
    model: Annotated[ModelSettings, Field(title="Model")] = ModelSettings()
    dataset: Annotated[DatasetSettings, Field(title="Pictures")] = DatasetSettings()
    method: Annotated[Literal["lora", "dreambooth", "hypernetwork", "textual_inversion", "pivotal"], Shown(titles=METHOD_TITLES)] = "lora"
    """What is trained: a LoRA is a small file of differences for a model, a textual inversion a new word, DreamBooth the whole model."""
    lora: Annotated[LoraSettings, Field(title="LoRA")] = LoraSettings()
    dreambooth: Annotated[DreamboothSettings, Field(title="DreamBooth")] = DreamboothSettings()
    textual_inversion: Annotated[TextualInversionSettings, Field(title="Textual inversion")] = TextualInversionSettings()
    hypernetwork: Annotated[HypernetworkSettings, Field(title="Hypernetwork")] = HypernetworkSettings()
    optimizer: Annotated[OptimizerSettings, Field(title="Optimizer")] = OptimizerSettings()
    schedule: Annotated[ScheduleSettings, Field(title="Schedule")] = ScheduleSettings()
    training: Annotated[TrainingSettings, Field(title="Training")] = TrainingSettings()
    memory: Annotated[MemorySettings, Field(title="Memory")] = MemorySettings()
    loss: Annotated[LossSettings, Field(title="Loss and noise")] = LossSettings()
    prior: Annotated[PriorSettings, Field(title="Class pictures (prior preservation)")] = PriorSettings()
    preview: Annotated[PreviewSettings, Field(title="Previews while training")] = PreviewSettings()
    saving: Annotated[SavingSettings, Field(title="Saving")] = SavingSettings()
    validation: Annotated[ValidationSettings, Field(title="Validation")] = ValidationSettings()
    output: str = ""
    """The run folder; empty makes a new one in the workspace's runs folder."""

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, values: Any) -> Any:
        return renewed(values) if isinstance(values, Mapping) else values

    @property
    def fuses_backward(self) -> bool:
        """Whether weights are updated inside the backward pass; what an adapter's gradients take is not worth it."""
        return self.memory.fused_backward and METHODS[self.method].whole

    def recipe(self) -> Recipe:
        """What methods go by."""
        groups = {name: value for name, value in self if isinstance(value, MethodSettings)}
        return Recipe(groups, self.trigger, bool(self.optimizer.text_encoder_learning_rate), self.model.precision)

    @property
    def teaches_word(self) -> bool:
        """Whether a new word is trained, so that captions are encoded anew in each step."""
        return "textual_inversion" in METHODS[self.method].groups

    @property
    def word(self) -> str:
        """What calls up in a prompt what is learned: the trigger word, unless a word of another name is taught."""
        return word_of(self.recipe()) if self.teaches_word else self.trigger

    def without_effect(self) -> list[str]:
        """Settings that change nothing as the others stand, so that a form can show it."""
        idle = {
            "dataset.bucket_step": not self.dataset.buckets,
            "validation.every_epochs": not self.dataset.validation_share,
            "validation.draws": not (self.dataset.validation_share and self.validation.every_epochs),
            "dataset.keep_tokens": not self.dataset.varies_captions,
            "optimizer.text_encoder_learning_rate": self.method in ("hypernetwork", "textual_inversion"),
            "saving.layout": self.method in ("dreambooth", "hypernetwork", "textual_inversion"),
            "prior.weight": not self.prior.wanted,
            **dict.fromkeys(PAINTED_PRIOR, not self.prior.painted),
            "prior.images": self.prior.own,
            "memory.fused_backward": not METHODS[self.method].whole,
        }
        of_schedule = self.schedule.without_effect() if self.optimizer.follows_rate else list(ScheduleSettings.model_fields)
        groups = {"optimizer": self.optimizer.without_effect(), "schedule": of_schedule, "loss": self.loss.without_effect()}
        groups["lora"] = self.lora.without_effect()
        return [*(name for name, off in idle.items() if off), *(f"{group}.{name}" for group, names in groups.items() for name in names)]


def renewed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings of a training, with those in their places that earlier versions kept elsewhere."""
    training = values.get("training")
    if not isinstance(training, Mapping) or "min_snr_gamma" not in training:
        return dict(values)
    gamma = training["min_snr_gamma"]
    weighting = {"weighting": "none"} if gamma is None else {"weighting": "min_snr", "min_snr_gamma": gamma}
    loss = values.get("loss")
    return {
        **values,
        "training": {name: value for name, value in training.items() if name != "min_snr_gamma"},
        "loss": {**(loss if isinstance(loss, Mapping) else {}), **weighting},
    }
