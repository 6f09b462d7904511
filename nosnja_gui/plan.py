"""What a training would do, before it does it: how many steps, in which sizes, what it saves and paints, and what hinders it.

The engine begins with the same code (engine/material.py), so what is shown beforehand is what happens. Fast enough to be
asked at every movement of a slider. Knows nothing of weights beyond their files.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from nosnja_gui import dataset as datasets
from nosnja_gui.dataset import Dataset, Picture, buckets
from nosnja_gui.dataset.batches import Plan, held_out
from nosnja_gui.dataset.buckets import Size
from nosnja_gui.dataset.images import content_key
from nosnja_gui.families import FAMILIES, Family
from nosnja_gui.jobs import OptimizerSettings, PreviewSettings, SavingSettings, TrainJob, workspace_path
from nosnja_gui.methods import METHODS
from nosnja_gui.models import check_model, check_vae, family_of, find_lora, find_model, find_vae, identify, native_size
from nosnja_gui.schedules import warmup_updates
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace


@dataclass(frozen=True)
class Found:
    """What a job names, as far as it is there."""

    family: Family | None
    model: Path | None
    vae: Path | None
    """What takes the place of the model's own autoencoder."""
    data: Dataset | None
    resolution: int | None
    problems: dict[str, str]
    """Sentence by the dotted name of the setting that is to blame."""


@dataclass(frozen=True)
class Arrangement:
    """The pictures brought into an order."""

    training: tuple[Picture, ...]
    held_out: tuple[Picture, ...]
    shapes: dict[Path, Size]
    """Bucket of every picture, training and held-out."""
    plan: Plan
    whole: int
    """Steps of all epochs."""
    total: int
    """Steps in all: those of the epochs, unless training.max_steps ends them before."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class TrainPlan:
    """What a training would do. All counts are 0 where the dataset is not known."""

    pictures: int = 0
    """Trained on; those held out are not among them."""
    held_out: int = 0
    resolution: int = 0
    """Side in pixels; where neither the job nor the model says one, the usual one."""
    buckets: list[tuple[int, int, int]] = field(default_factory=list)
    """(width, height, number of training pictures) of each bucket that is used, from the narrowest to the widest."""
    exposures_per_epoch: int = 0
    steps_per_epoch: int = 0
    epochs: int = 0
    """That are begun: fewer than asked for where training.max_steps ends the training before."""
    total: int = 0
    """Steps in all. A step is one update of the optimiser."""
    exposures: int = 0
    """Showings of pictures in the whole training."""
    passes_per_picture: float = 0.0
    """How often each picture is shown in the whole training."""
    saves: int = 0
    """LoRA files, the result among them."""
    samples: int = 0
    """Preview pictures."""
    validations: int = 0
    """How often the loss on the held-out pictures is measured."""
    warmup_steps: int = 0
    notes: list[str] = field(default_factory=list)
    """What does not hinder the training but is worth knowing, a sentence each."""
    problems: dict[str, str] = field(default_factory=dict)
    """What hinders it: a sentence by the dotted name of the setting."""
    approximate: bool = False
    """Whether it is not known yet which pictures are held out, so that counts can be off by a step or two; asked again, it is."""


def plan_training(job: TrainJob, workspace: Workspace) -> TrainPlan:
    """What this job would do and what hinders it. Never raises for what a user can have typed."""
    found = look(job, workspace, read=read_recently)
    resolution = found.resolution or next(iter(FAMILIES.values())).native_size
    if found.data is None:
        return TrainPlan(resolution=resolution, problems=found.problems)
    out, exact = _held_out_now(found.data, job.dataset.validation_share, job.training.seed)
    arranged = arrange(job, found.data, resolution, out)
    plan, total = arranged.plan, arranged.total
    counts = Counter(plan.shapes)
    epochs_done, rest = divmod(total, plan.steps_per_epoch)
    exposures = round((epochs_done + rest / plan.steps_per_epoch) * plan.exposures_per_epoch)
    return TrainPlan(
        pictures=len(arranged.training),
        held_out=len(arranged.held_out),
        resolution=resolution,
        buckets=[(*size, counts[size]) for size in sorted(counts, key=lambda size: (size[0] / size[1], size))],
        exposures_per_epoch=plan.exposures_per_epoch,
        steps_per_epoch=plan.steps_per_epoch,
        epochs=math.ceil(total / plan.steps_per_epoch),
        total=total,
        exposures=exposures,
        passes_per_picture=exposures / len(arranged.training),
        saves=count_saves(job.saving, total, plan.steps_per_epoch),
        samples=count_previews(job.preview, total, plan.steps_per_epoch) * len(job.preview.prompts),
        validations=count_validations(job, total, plan.steps_per_epoch) if arranged.held_out else 0,
        warmup_steps=warmup_updates(total, job.schedule.warmup_share),
        notes=list(arranged.notes),
        problems=found.problems,
        approximate=not exact,
    )


# Shared with the engine


def look(job: TrainJob, workspace: Workspace, read: Callable[[Path], Dataset] = datasets.read) -> Found:
    """Find the model and the dataset and see whether they can be trained on; all problems at once."""
    problems: dict[str, str] = {}

    @contextlib.contextmanager
    def blaming(setting: str) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            problems.setdefault(setting, str(error))

    family = model = data = None
    resolution = job.dataset.resolution
    with blaming("model.path"):
        model = find_model(job.model.path, workspace.models)
        family = family_of(model)
        check_model(model)
    vae = None
    with blaming("model.vae"):
        vae = find_vae(job.model.vae, workspace.models)
        if vae and family:
            check_vae(vae, family)
    if "lora" in METHODS[job.method].groups:
        with blaming("lora.start_from"):
            find_lora(job.lora.start_from, workspace.models)
    if family and model:
        problems |= METHODS[job.method].problems(job.recipe(), family, identify(model)[1])
    with blaming("dataset.path"):
        data = read(_dataset_folder(job.dataset.path, workspace))
    with blaming("optimizer.name"):
        check_optimizer(job.optimizer)
    if family and model and not resolution:
        with blaming("model.path"):
            resolution = native_size(model)
    multiple = job.dataset.bucket_step if job.dataset.buckets else buckets.LATENT_STEP
    if resolution and resolution % multiple:
        near = max(multiple, round(resolution / multiple) * multiple)
        cause = f"dataset.bucket_step {multiple}" if job.dataset.buckets else f"{multiple}, the size of a latent"
        problems["dataset.resolution"] = f"dataset.resolution must be a multiple of {cause} (got {resolution}): take {near}."
    return Found(family, model, vae, data, resolution, problems)


LEAST_FACTOR = 0.1
"""Rates from here on are factors of an optimiser that finds its own rate."""


def check_optimizer(settings: OptimizerSettings) -> None:
    """Raises UserError if the optimiser's package is not there."""
    package = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt"}.get(settings.name)
    if package and importlib.util.find_spec(package) is None:
        raise UserError(f"optimizer.name {settings.name} needs the package {package}: run `pip install {package}`, or choose adamw.")


def arrange(job: TrainJob, data: Dataset, resolution: int, out: Collection[int], processes: int = 1) -> Arrangement:
    """Sizes, order and number of steps; `out` are the indices of the pictures that are held out."""
    step, enabled = job.dataset.bucket_step, job.dataset.buckets
    sizes, size_notes = _layout(_Same(data), resolution, step, enabled)
    plan = Plan(
        shapes=tuple(size for index, size in enumerate(sizes) if index not in out),
        repeats=job.dataset.repeats,
        batch_size=job.training.batch_size * processes,
        accumulation=job.training.gradient_accumulation,
        flip=job.dataset.flip,
        caption_dropout=job.dataset.caption_dropout,
        seed=job.training.seed,
    )
    whole = plan.steps_per_epoch * job.training.epochs
    total = min(whole, job.training.max_steps or whole)
    return Arrangement(
        training=tuple(picture for index, picture in enumerate(data.pictures) if index not in out),
        held_out=tuple(data.pictures[index] for index in sorted(out)),
        shapes={picture.path: size for picture, size in zip(data.pictures, sizes, strict=True)},
        plan=plan,
        whole=whole,
        total=total,
        notes=(*remarks(job, data, total, whole, plan.steps_per_epoch), *size_notes),
    )


def remarks(job: TrainJob, data: Dataset, total: int, whole: int, steps_per_epoch: int) -> Iterator[str]:
    """What does not hinder the training but is worth knowing, a sentence each."""
    rate = job.optimizer.learning_rate
    if job.optimizer.name == "prodigy" and rate < LEAST_FACTOR:
        yield f"Prodigy finds its own rate and learning_rate is only a factor: with {rate:g} it hardly learns, 1 is usual."
    if job.optimizer.name != "prodigy" and rate >= LEAST_FACTOR:
        yield f"A learning rate of {rate:g} burns any LoRA in: 1e-4 is usual, and 1 is for Prodigy only."
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


def due(step: int, every_steps: int, epoch_done: int | None, every_epochs: int) -> bool:
    """Whether something that is done every so many steps or epochs (0: never) is due after this step."""
    by_step = bool(every_steps) and step % every_steps == 0
    return by_step or (bool(every_epochs) and epoch_done is not None and epoch_done % every_epochs == 0)


def count_saves(saving: SavingSettings, total: int, steps_per_epoch: int) -> int:
    """LoRA files of an undisturbed training: one for each step and each epoch that is due, and the result."""
    epochs = total // steps_per_epoch
    return (total // saving.every_steps if saving.every_steps else 0) + (epochs // saving.every_epochs if saving.every_epochs else 0) + 1


def count_previews(preview: PreviewSettings, total: int, steps_per_epoch: int) -> int:
    """How often the preview prompts are painted: before, when due (see `due`), and at the end unless they are never due."""
    return int(preview.before_training) + _count_due(preview.every_steps, preview.every_epochs, total, steps_per_epoch)


def count_validations(job: TrainJob, total: int, steps_per_epoch: int) -> int:
    """How often the held-out pictures are looked at, if there are any: before, when due, and at the end."""
    every = job.validation.every_epochs
    return 1 + _count_due(0, every, total, steps_per_epoch) if every else 0


def _count_due(every_steps: int, every_epochs: int, total: int, steps_per_epoch: int) -> int:
    """Steps 1 to total after which something is due, the last one included; counted, not gone through: there may be billions."""
    intervals = [every for every in (every_steps, every_epochs * steps_per_epoch) if every]
    if not intervals:
        return 0
    hits = sum(total // every for every in intervals) - (total // math.lcm(*intervals) if len(intervals) == 2 else 0)
    return hits + int(all(total % every for every in intervals))


def _dataset_folder(text: str, workspace: Workspace) -> Path:
    if not text.strip():
        raise UserError("No dataset is given: set dataset.path to a folder of pictures.")
    try:
        folder = workspace_path(text, workspace.datasets)
        if folder.exists() or "\0" not in text:
            return folder
    except (OSError, ValueError, RuntimeError):  # too long a name, ~nobody
        pass
    raise UserError(f"The dataset's path {text[:200]!r} is none that this system knows: give the path of a folder.")


def _count(names: list[str], data: Dataset) -> str:
    have = "has" if len(names) == 1 else "have"
    return f"{len(names)} of {len(data.pictures)} pictures {have}"


# What is remembered between two movements of a slider


class _Same:
    """A dataset as a key: the same object is the same dataset, as `datasets.read` gives it out until something changes.

    Comparing ten thousand pictures would take longer than what is remembered of them.
    """

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.data is self.data

    def __hash__(self) -> int:
        return id(self.data)


@lru_cache(maxsize=16)
def _layout(same: _Same, resolution: int, step: int, enabled: bool) -> tuple[tuple[Size, ...], tuple[str, ...]]:
    """The bucket of every picture, and what is to be said about the sizes."""
    pictures = same.data.pictures
    assigned = {
        size: buckets.assign(*size, resolution, step, enabled) for size in {(picture.width, picture.height) for picture in pictures}
    }
    named = ((picture.name, picture.width, picture.height) for picture in pictures)
    return tuple(assigned[picture.width, picture.height] for picture in pictures), tuple(buckets.notes(named, resolution, step, enabled))


QUICK_SECONDS = 0.02
"""A dataset that is read faster than this is read every time."""
REST = 10
"""Others are read again when this many times as long has passed as it took, or at once when a file came or went."""
LONGEST_REST_SECONDS = 3.0
REMEMBERED_DATASETS = 4


@dataclass(frozen=True)
class _Recent:
    data: Dataset
    folder_changed_ns: int
    until: float


_recent: dict[Path, _Recent] = {}


def read_recently(folder: Path) -> Dataset:
    """`datasets.read`, but a large dataset is not looked through at every call: a caption edited in place shows a little later."""
    changed, now = _changed_ns(folder), time.monotonic()
    known = _recent.get(folder)
    if known is not None and now < known.until and known.folder_changed_ns == changed:
        return known.data
    _recent.pop(folder, None)
    data = datasets.read(folder)
    took = time.monotonic() - now
    if took > QUICK_SECONDS:
        while len(_recent) >= REMEMBERED_DATASETS:
            _recent.pop(next(iter(_recent)), None)
        _recent[folder] = _Recent(data, changed, now + took + min(REST * took, LONGEST_REST_SECONDS))
    return data


def _changed_ns(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


HASHING_SECONDS = 0.05
"""Pictures are held out by their content, and reading all of it takes a while: so much of it is done at every call."""


_hashing = threading.Lock()


@lru_cache(maxsize=2)
def _keys_of(same: _Same) -> list[str]:
    """The content keys that are known so far, in the order of the pictures; filled by `_held_out_now`."""
    return []


def _held_out_now(data: Dataset, share: float, seed: int) -> tuple[set[int], bool]:
    """Indices of the pictures that are held out, and whether they are those; until all contents are known they are any."""
    if not share:
        return set(), True
    count = len(data.pictures)
    with _hashing:
        keys, until = _keys_of(_Same(data)), time.monotonic() + HASHING_SECONDS
        while len(keys) < count and time.monotonic() < until:
            path = data.pictures[len(keys)].path
            try:
                keys.append(content_key(path))
            except OSError:  # gone meanwhile
                keys.append(str(path))
        if len(keys) == count:
            return held_out(keys, share, seed), True
    some = min(count - 1, max(1, round(share * count)))
    return {place * count // some for place in range(some)}, False
