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
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from nosnja_gui import dataset as datasets
from nosnja_gui.dataset import Dataset, Picture, buckets, concepts
from nosnja_gui.dataset import trigger as triggers
from nosnja_gui.dataset.batches import Plan, held_out
from nosnja_gui.dataset.buckets import Size
from nosnja_gui.dataset.concepts import Concept
from nosnja_gui.dataset.images import content_key
from nosnja_gui.families import FAMILIES, Family
from nosnja_gui.jobs import OptimizerSettings, PreviewSettings, SavingSettings, ScheduleSettings, TrainJob, workspace_path
from nosnja_gui.jobs.optimizer import OPTIMIZERS
from nosnja_gui.methods import METHODS
from nosnja_gui.models import check_model, check_vae, family_of, find_lora, find_model, find_vae, identify, native_size
from nosnja_gui.schedules import warmup_updates
from nosnja_gui.settings import UserError
from nosnja_gui.sources import Source
from nosnja_gui.tokens import clip_tokenizer
from nosnja_gui.workspace import Workspace


@dataclass(frozen=True)
class Found:
    """What a job names, as far as it is there."""

    family: Family | None
    model: Path | None
    vae: Path | None
    """What takes the place of the model's own autoencoder."""
    data: Dataset | None
    concepts: tuple[Concept, ...]
    """Of each picture."""
    prior: Dataset | None
    """The user's own class pictures."""
    resolution: int | None
    problems: dict[str, str]
    """Sentence by the dotted name of the setting that is to blame."""


@dataclass(frozen=True)
class Arrangement:
    """The pictures brought into an order."""

    training: tuple[Picture, ...]
    held_out: tuple[Picture, ...]
    shapes: dict[Path, Size]
    """Bucket of every picture, training, held-out and the user's own class pictures."""
    weights: dict[Path, float]
    """What the losses of pictures are multiplied by, where that is not 1."""
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
    class_pictures: int = 0
    """Shown beside, in every step as many as of the others."""
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
    arranged = arrange(job, found.data, found.concepts, resolution, out, prior=found.prior)
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
        class_pictures=len(plan.prior),
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
        if refused := job.lora.refused_by(job.saving.layout):
            problems["saving.layout"] = refused
    if family and model:
        problems |= METHODS[job.method].problems(job.recipe(), family, identify(model)[1])
        with blaming("loss.zero_terminal_snr"):
            check_zero_terminal_snr(job, *identify(model))
    with blaming("dataset.path"):
        data = read(_dataset_folder(job.dataset.path, workspace))
    of_pictures: tuple[Concept, ...] = ()
    if data:
        of_pictures = (main_concept(job),) * len(data.pictures)
        with blaming("dataset.concepts"):
            data, of_pictures = with_concepts(job, data, workspace, read)
    prior = None
    if job.prior.own:
        with blaming("prior.folder"):
            prior = read(_dataset_folder(job.prior.folder, workspace))
    elif job.prior.images and data:
        with blaming("prior.class_prompts"):
            class_prompts(job, data.pictures, of_pictures)
    problems |= memory_problems(job)
    with blaming("optimizer.name"):
        check_optimizer(job.optimizer)
    with blaming("schedule.name"):
        check_schedule(job.optimizer, job.schedule)
    if job.training.ema_decay and job.optimizer.chosen.averages:
        title = job.optimizer.chosen.title
        problems["training.ema_decay"] = f"The optimizer {title} averages the weights itself: leave training.ema_decay empty."
    if "lora" in METHODS[job.method].groups and job.lora.algorithm == "lora":
        with blaming("lora.plus_ratio"):
            check_ratio(job.optimizer, job.lora.plus_ratio)
    if family and model and not resolution:
        with blaming("model.path"):
            resolution = native_size(model)
    multiple = job.dataset.bucket_step if job.dataset.buckets else buckets.LATENT_STEP
    if resolution and resolution % multiple:
        near = max(multiple, round(resolution / multiple) * multiple)
        cause = f"dataset.bucket_step {multiple}" if job.dataset.buckets else f"{multiple}, the size of a latent"
        problems["dataset.resolution"] = f"dataset.resolution must be a multiple of {cause} (got {resolution}): take {near}."
    return Found(family, model, vae, data, of_pictures, prior, resolution, problems)


def main_concept(job: TrainJob) -> Concept:
    """That of dataset.path."""
    return Concept(job.dataset.path, trigger=job.trigger.strip(), class_noun=job.prior.class_noun.strip())


def with_concepts(
    job: TrainJob, data: Dataset, workspace: Workspace, read: Callable[[Path], Dataset]
) -> tuple[Dataset, tuple[Concept, ...]]:
    """The dataset with the pictures of dataset.concepts, and the concept of each picture. Raises UserError."""
    wanted = [main_concept(job), *map(concepts.parse, job.dataset.concepts)]
    found = [data, *(read(_dataset_folder(concept.folder, workspace)) for concept in wanted[1:])]
    return _joined(tuple(wanted), tuple(map(_Same, found)))


def class_prompts(job: TrainJob, pictures: Sequence[Picture], of_pictures: Sequence[Concept]) -> list[str]:
    """What class pictures are painted of, in turn: the prompts given, else the captions without the trigger word. Raises UserError."""
    if given := [prompt.strip() for prompt in job.prior.class_prompts if prompt.strip()]:
        return given
    if not all(concept.trigger for concept in of_pictures):
        raise UserError("Class pictures need prompts: write prior.class_prompts, or a trigger word that is left out of the captions.")
    captions = [
        triggers.remove(picture.caption or "", concept.trigger, concept.class_noun or None)
        for picture, concept in zip(pictures, of_pictures, strict=True)
    ]
    if not (found := list(dict.fromkeys(filter(None, captions)))):
        raise UserError("Class pictures need prompts, and the pictures have no captions: write prior.class_prompts.")
    return found


def check_zero_terminal_snr(job: TrainJob, family: Family, source: Source) -> None:
    """Raises UserError where the training is to end in pure noise with a model that cannot learn from it (Lin et al. 2023, Section 3.2)."""
    wanted = job.model.prediction_type
    predicts = family.prediction_of(source) if wanted == "auto" else wanted
    if job.loss.zero_terminal_snr and predicts != "v_prediction":
        why = "which can't be found where nothing else is left" if predicts == "epsilon" else "which ends in pure noise by itself"
        what = "noise (epsilon)" if predicts == "epsilon" else "a flow"
        raise UserError(f"loss.zero_terminal_snr is for models that predict v, and this one predicts {what}, {why}: turn it off.")


TOO_HIGH_FOR_HYPERNETWORKS = 1e-3
TOO_HIGH_FOR_WHOLE_MODELS = 5e-5
LEAST_FACTOR = 0.1
"""Rates from here on are factors of an optimiser that finds its own rate."""


def memory_problems(job: TrainJob) -> dict[str, str]:
    """What hinders the settings that save memory."""
    problems, memory, fused = {}, job.memory, "memory.fused_backward"
    if memory.base_precision != "as_model" and METHODS[job.method].whole:
        problems["memory.base_precision"] = (
            f"{METHODS[job.method].title} trains the model's own weights, which {memory.base_precision} would round away: "
            "set memory.base_precision to as_model, or train a LoRA."
        )
    if not job.fuses_backward:
        return problems
    if job.training.gradient_accumulation > 1:
        gathered = job.training.gradient_accumulation
        problems[fused] = f"{fused} can't gather batches: set training.gradient_accumulation to 1 (it is {gathered}), or turn it off."
    elif job.prior.wanted:
        problems[fused] = f"{fused} has one backward pass a step, and class pictures are a second one: leave them out, or turn it off."
    elif job.optimizer.max_grad_norm:
        problems[fused] = (
            f"{fused} never knows how long the whole gradient is: set optimizer.max_grad_norm to 0 (it is "
            f"{job.optimizer.max_grad_norm:g}), or turn it off."
        )
    elif job.optimizer.chosen.finds_rate:
        problems[fused] = f"{fused} can't be used with {job.optimizer.chosen.title}, which looks at all weights at once: choose adamw."
    return problems


def check_optimizer(settings: OptimizerSettings) -> None:
    """Raises UserError if the optimiser's package is not there."""
    package = settings.chosen.package
    if package and importlib.util.find_spec(settings.chosen.made_by.partition(".")[0]) is None:
        raise UserError(f"optimizer.name {settings.name} needs the package {package}: run `pip install {package}`, or choose adamw.")


def check_schedule(settings: OptimizerSettings, schedule: ScheduleSettings) -> None:
    """Raises UserError if the optimiser and the schedule hinder each other."""
    if settings.chosen.averages and schedule.name != "constant":
        raise UserError(
            f"{settings.chosen.title} averages the weights and follows no schedule: set schedule.name to constant (it is {schedule.name})."
        )


def check_ratio(settings: OptimizerSettings, plus_ratio: float) -> None:
    """Raises UserError if some parameters shall learn faster than others by an optimiser that has one rate for all."""
    if settings.chosen.finds_rate and plus_ratio != 1:
        raise UserError(
            f"{settings.chosen.title} finds one rate for all that is trained: set lora.plus_ratio to 1 (it is {plus_ratio:g}), "
            "or choose another optimizer.name such as adamw."
        )


def arrange(
    job: TrainJob,
    data: Dataset,
    of_pictures: Sequence[Concept],
    resolution: int,
    out: Collection[int],
    processes: int = 1,
    prior: Dataset | None = None,
) -> Arrangement:
    """Sizes, order and number of steps; `out` are the indices of the pictures that are held out."""
    repeats = tuple(concept.repeats or job.dataset.repeats for index, concept in enumerate(of_pictures) if index not in out)
    step, enabled = job.dataset.bucket_step, job.dataset.buckets
    sizes, size_notes = _layout(_Same(data), resolution, step, enabled)
    of_prior = _layout(_Same(prior), resolution, step, enabled)[0] if prior else (buckets.square_size(resolution),) * job.prior.images
    plan = Plan(
        shapes=tuple(size for index, size in enumerate(sizes) if index not in out),
        repeats=repeats if len(set(repeats)) > 1 else repeats[0],
        batch_size=job.training.batch_size * processes,
        accumulation=job.training.gradient_accumulation,
        flip=job.dataset.flip,
        caption_dropout=job.dataset.caption_dropout,
        seed=job.training.seed,
        prior=of_prior,
    )
    whole = plan.steps_per_epoch * job.training.epochs
    total = min(whole, job.training.max_steps or whole)
    return Arrangement(
        training=tuple(picture for index, picture in enumerate(data.pictures) if index not in out),
        held_out=tuple(data.pictures[index] for index in sorted(out)),
        shapes={
            picture.path: size
            for these, their_sizes in ((data.pictures, sizes), (prior.pictures if prior else (), of_prior if prior else ()))
            for picture, size in zip(these, their_sizes, strict=True)
        },
        plan=plan,
        whole=whole,
        total=total,
        weights={picture.path: concept.weight for picture, concept in zip(data.pictures, of_pictures, strict=True) if concept.weight != 1},
        notes=(*remarks(job, data, of_pictures, total, whole, plan.steps_per_epoch), *size_notes),
    )


def remarks(job: TrainJob, data: Dataset, of_pictures: Sequence[Concept], total: int, whole: int, steps_per_epoch: int) -> Iterator[str]:
    """What does not hinder the training but is worth knowing, a sentence each."""
    yield from rate_remarks(job.optimizer)
    if job.method == "hypernetwork" and TOO_HIGH_FOR_HYPERNETWORKS <= job.optimizer.learning_rate < LEAST_FACTOR:
        yield f"A learning rate of {job.optimizer.learning_rate:g} ruins a hypernetwork in a few steps: 1e-5 is usual."
    if METHODS[job.method].whole and TOO_HIGH_FOR_WHOLE_MODELS <= job.optimizer.learning_rate < LEAST_FACTOR:
        yield f"A learning rate of {job.optimizer.learning_rate:g} ruins a whole model in a few steps: 5e-6 is usual."
    for problem in data.problems:
        yield f"{problem}{', so it is left out' if problem.left_out else ''}."
    without = [picture.name for picture in data.pictures if not (picture.caption or "").strip()]
    if without and not job.teaches_word:
        yield f"{_count(without, data)} no caption (such as {without[0]}); they are trained on without words."
    yield from word_remarks(job)
    # A word that is taught is put into every caption.
    for trigger in dict.fromkeys(concept.trigger for concept in of_pictures if concept.trigger and not job.teaches_word):
        own = [picture for picture, concept in zip(data.pictures, of_pictures, strict=True) if concept.trigger == trigger]
        lacking = [picture.name for picture in own if trigger.lower() not in (picture.caption or "").lower()]
        if lacking:
            yield f"{_count(lacking, data)} a caption without the trigger word '{trigger}' (such as {lacking[0]})."
    if total < whole:
        epoch = math.ceil(total / steps_per_epoch)
        yield f"training.max_steps ends the training after {total} steps, in epoch {epoch} of {job.training.epochs}."
    if job.dataset.validation_share and len(data.pictures) < 2:
        yield "There is only one picture, so none is held out for validation."


def word_remarks(job: TrainJob) -> Iterator[str]:
    """Whether the word that is taught is one already, and whether it can begin with all of its text."""
    if not job.teaches_word:
        return
    settings, tokens = job.textual_inversion, clip_tokenizer()
    if len(tokens(job.word)) == 1:
        yield f"'{job.word}' is a word of the model already, and prompts can't mean that any more while the new one is on: take another."
    begins = len(tokens(settings.initial_text))
    if begins > settings.vectors:
        yield f"textual_inversion.initial_text has {begins} tokens for {settings.vectors} vectors: neighbours of them are averaged."


def rate_remarks(settings: OptimizerSettings) -> Iterator[str]:
    """Whether the learning rate is far from what the optimiser is used with."""
    rate, chosen = settings.learning_rate, settings.chosen
    if not settings.follows_rate:
        yield f"{chosen.title} sets its rate by itself: learning_rate and the schedule have no effect while relative_step is on."
    elif chosen.finds_rate and rate < LEAST_FACTOR:
        yield f"{chosen.title} finds its own rate and learning_rate is only a factor: with {rate:g} it hardly learns, 1 is usual."
    elif not chosen.finds_rate and rate >= LEAST_FACTOR:
        names = " and ".join(other.title for other in OPTIMIZERS.values() if other.finds_rate)
        yield f"A learning rate of {rate:g} burns any LoRA in: {chosen.usual_rate:g} is usual, and 1 is for {names} only."
    elif chosen.usual_rate < OPTIMIZERS["adamw"].usual_rate and rate > 3 * chosen.usual_rate:
        yield f"{chosen.title} wants lower rates than AdamW: with {rate:g} it may burn in, {chosen.usual_rate:g} is usual."


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
def _joined(wanted: tuple[Concept, ...], found: tuple[_Same, ...]) -> tuple[Dataset, tuple[Concept, ...]]:
    return concepts.join(wanted, [same.data for same in found])


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
