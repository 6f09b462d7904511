"""What a training is made of, found out before anything is loaded: all problems at once, in a sentence each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nosnja_gui.dataset import Picture
from nosnja_gui.dataset.batches import Plan, held_out
from nosnja_gui.dataset.images import content_key
from nosnja_gui.engine import prior as prior_pictures
from nosnja_gui.engine.cache import key_of
from nosnja_gui.families import Family
from nosnja_gui.jobs import TrainJob
from nosnja_gui.methods import METHODS
from nosnja_gui.models import find_lora
from nosnja_gui.plan import arrange, class_prompts, look
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace


@dataclass(frozen=True)
class Material:
    """What is trained on, known before anything is loaded."""

    family: Family
    model: Path
    vae: Path | None
    """What takes the place of the model's own autoencoder."""
    start_from: Path | None
    """A LoRA that the training goes on from."""
    resolution: int
    training: tuple[Picture, ...]
    held_out: tuple[Picture, ...]
    prior: tuple[Picture, ...]
    """Class pictures; those that are painted are not there before the training has begun."""
    shapes: dict[Path, tuple[int, int]]
    """Bucket of every picture, training and held-out."""
    weights: dict[Path, float]
    """What the losses of pictures are multiplied by, where that is not 1."""
    keys: dict[Path, str]
    plan: Plan
    total: int
    """Steps in all."""
    trigger: str
    warnings: tuple[str, ...]

    def fingerprint(self) -> str:
        """Changes when the same step would no longer be the same step."""
        content = [(self.keys[picture.path], picture.caption) for picture in self.training]
        content += [(picture.path.parent.name, picture.path.name, picture.caption) for picture in self.prior]
        return key_of(content, self.plan, self.total)[:16]

    def as_values(self) -> dict:
        return {
            "trigger": self.trigger,
            "pictures": {picture.name: picture.caption or "" for picture in self.training},
            "held_out": {picture.name: picture.caption or "" for picture in self.held_out},
        }


def prepare(job: TrainJob, workspace: Workspace, processes: int = 1) -> Material:
    """Look at everything that can be known without loading weights. Raises one UserError with every problem, a line each."""
    found = look(job, workspace)
    if found.problems:
        raise UserError("\n".join(found.problems.values()))
    family, model, data, resolution = found.family, found.model, found.data, found.resolution
    assert family and model and data and resolution
    keys = {picture.path: content_key(picture.path) for picture in data.pictures}
    out = held_out([keys[picture.path] for picture in data.pictures], job.dataset.validation_share, job.training.seed)
    arranged = arrange(job, data, found.concepts, resolution, out, processes, found.prior)
    if found.prior:
        prior = found.prior.pictures
    elif job.prior.images:
        prior = prior_pictures.planned(job, class_prompts(job, data.pictures, found.concepts), model, found.vae, resolution, workspace)
    else:
        prior = ()
    return Material(
        family=family,
        model=model,
        vae=found.vae,
        start_from=find_lora(job.lora.start_from, workspace.models) if "lora" in METHODS[job.method].groups else None,
        resolution=resolution,
        training=arranged.training,
        held_out=arranged.held_out,
        prior=prior,
        shapes={**arranged.shapes, **{picture.path: size for picture, size in zip(prior, arranged.plan.prior, strict=True)}},
        weights=arranged.weights,
        keys=keys,
        plan=arranged.plan,
        total=arranged.total,
        trigger=job.word,
        warnings=arranged.notes,
    )
