"""What a training is made of, found out before anything is loaded: all problems at once, in a sentence each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nosnja_gui.dataset import Picture
from nosnja_gui.dataset.batches import Plan, held_out
from nosnja_gui.dataset.images import content_key
from nosnja_gui.engine.cache import key_of
from nosnja_gui.families import Family
from nosnja_gui.jobs import TrainJob
from nosnja_gui.methods import METHODS
from nosnja_gui.models import find_lora
from nosnja_gui.plan import arrange, look
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
    shapes: dict[Path, tuple[int, int]]
    """Bucket of every picture, training and held-out."""
    keys: dict[Path, str]
    plan: Plan
    total: int
    """Steps in all."""
    trigger: str
    warnings: tuple[str, ...]

    def fingerprint(self) -> str:
        """Changes when the same step would no longer be the same step."""
        content = [(self.keys[picture.path], picture.caption) for picture in self.training]
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
    arranged = arrange(job, data, resolution, out, processes)
    return Material(
        family=family,
        model=model,
        vae=found.vae,
        start_from=find_lora(job.lora.start_from, workspace.models) if "lora" in METHODS[job.method].groups else None,
        resolution=resolution,
        training=arranged.training,
        held_out=arranged.held_out,
        shapes=arranged.shapes,
        keys=keys,
        plan=arranged.plan,
        total=arranged.total,
        trigger=job.trigger,
        warnings=arranged.notes,
    )
