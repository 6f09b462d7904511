"""What a training is made of, found out before anything is loaded: all problems at once, in a sentence each."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nosnja_gui import dataset as datasets
from nosnja_gui.dataset import Dataset, Picture, buckets
from nosnja_gui.dataset.images import content_key
from nosnja_gui.engine import optimizers
from nosnja_gui.engine.batches import Plan, held_out
from nosnja_gui.engine.cache import key_of
from nosnja_gui.engine.models import family_of, find_model
from nosnja_gui.families import Family
from nosnja_gui.jobs import TrainJob, workspace_path
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace


@dataclass(frozen=True)
class Material:
    """What is trained on, known before anything is loaded."""

    family: Family
    model: Path
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
    problems: list[str] = []

    @contextlib.contextmanager
    def noting() -> Iterator[None]:
        try:
            yield
        except UserError as error:
            problems.append(str(error))

    family = model = data = None
    with noting():
        model = find_model(job.model.path, workspace.models)
        family = family_of(model)
    with noting():
        if not job.dataset.path.strip():
            raise UserError("No dataset is given: set dataset.path to a folder of pictures.")
        data = datasets.read(workspace_path(job.dataset.path, workspace.datasets))
    with noting():
        optimizers.check(job.optimizer)
    resolution = job.dataset.resolution
    if family and model and not resolution:
        with noting():
            resolution = family.size_of(model)
    multiple = job.dataset.bucket_step if job.dataset.buckets else 8
    if resolution and resolution % multiple:
        near = max(multiple, round(resolution / multiple) * multiple)
        cause = f"dataset.bucket_step {multiple}" if job.dataset.buckets else "8, the size of a latent"
        problems.append(f"dataset.resolution must be a multiple of {cause} (got {resolution}): take {near}.")
    if problems:
        raise UserError("\n".join(problems))
    assert family and model and data and resolution

    keys = {picture.path: content_key(picture.path) for picture in data.pictures}
    out = held_out([keys[picture.path] for picture in data.pictures], job.dataset.validation_share, job.training.seed)
    training = tuple(picture for index, picture in enumerate(data.pictures) if index not in out)
    step, enabled = job.dataset.bucket_step, job.dataset.buckets
    shapes = {picture.path: tuple(buckets.assign(picture.width, picture.height, resolution, step, enabled)) for picture in data.pictures}
    plan = Plan(
        shapes=tuple(shapes[picture.path] for picture in training),
        repeats=job.dataset.repeats,
        batch_size=job.training.batch_size * processes,
        accumulation=job.training.gradient_accumulation,
        flip=job.dataset.flip,
        caption_dropout=job.dataset.caption_dropout,
        seed=job.training.seed,
    )
    whole = plan.steps_per_epoch * job.training.epochs
    total = min(whole, job.training.max_steps or whole)
    return Material(
        family=family,
        model=model,
        resolution=resolution,
        training=training,
        held_out=tuple(data.pictures[index] for index in sorted(out)),
        shapes=shapes,
        keys=keys,
        plan=plan,
        total=total,
        trigger=job.trigger,
        warnings=(
            *remarks(job, data, total, whole, plan.steps_per_epoch),
            *buckets.notes(((picture.name, picture.width, picture.height) for picture in data.pictures), resolution, step, enabled),
        ),
    )


def remarks(job: TrainJob, data: Dataset, total: int, whole: int, steps_per_epoch: int) -> Iterator[str]:
    """What does not hinder the training but is worth knowing, a sentence each."""
    for problem in data.problems:
        yield f"{problem}{', so it is left out' if problem.left_out else ''}."
    without = [picture.name for picture in data.pictures if not (picture.caption or "").strip()]
    if without:
        yield f"{_count(without, data)} no caption (such as {without[0]}); they are trained on without words."
    lacking = [picture.name for picture in data.pictures if job.trigger.lower() not in (picture.caption or "").lower()]
    if job.trigger and lacking:
        yield f"{_count(lacking, data)} a caption without the trigger word '{job.trigger}' (such as {lacking[0]})."
    if total < whole:
        epoch = math.ceil(total / steps_per_epoch)
        yield f"training.max_steps ends the training after {total} steps, in epoch {epoch} of {job.training.epochs}."
    if job.dataset.validation_share and len(data.pictures) < 2:
        yield "There is only one picture, so none is held out for validation."


def _count(names: list[str], data: Dataset) -> str:
    have = "has" if len(names) == 1 else "have"
    return f"{len(names)} of {len(data.pictures)} pictures {have}"
