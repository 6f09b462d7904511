"""How much memory and time a training will take, before it is begun, and what to change where the memory doesn't suffice.

Memory is worked out from the shapes of the model's weights (families/demand.py says what was measured there and what is
estimated). Time is taken from earlier runs with the same model where there are any; otherwise it is work divided by what such a
card usually manages, and said to be a rough guess.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from nosnja_gui import hardware
from nosnja_gui.events import Started, Step, from_values
from nosnja_gui.families import packing
from nosnja_gui.families.demand import Demand
from nosnja_gui.jobs import TrainJob
from nosnja_gui.jobs.optimizer import OPTIMIZERS
from nosnja_gui.methods import METHODS
from nosnja_gui.methods.lora import trained_parts
from nosnja_gui.models import demand_of, find_model, native_size
from nosnja_gui.plan import TrainPlan
from nosnja_gui.runs import RunFolder, identifier, runs_in
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace

GIB = 2**30
CUDA_CONTEXT = 0.5 * GIB
"""What CUDA itself takes on a card: 0.4 to 0.6 GiB."""
LIBRARIES = 0.5 * GIB
"""What torch, diffusers and peft take of the machine's memory. Measured with the demo kit."""
ALLOCATED_ON_PROCESSOR = 1.9
"""Memory for each number that a step keeps on a processor, as a multiple of its size: temporaries come on top. Measured with the
demo kit (batch 1 and 8, with and without gradient checkpointing)."""
PER_PARAMETER = 4 + 4
"""Bytes for each trained parameter: itself and its gradient in float32. The optimiser's state comes on top."""
AVERAGED = 4
"""Bytes of the running average for each trained parameter."""
GRADIENT = 4
"""That of the gradient alone, where the parameters are the model's own."""
TABLE_LIMIT = 2**30
"""Latents and encoded captions stay on the card up to this size each."""
ENCODED_AT_ONCE = 4 * 512 * 512
"""Pixels that go through the autoencoder together while pictures are encoded."""
MARGIN = 1.1
"""So much more than estimated must be free: allocators leave gaps, and other programs draw on the card, too."""
TIGHT = 0.85
"""From this share of the free memory on, advice is given."""

HOST_SECONDS = 0.04
"""Time that Python needs for a batch while the card waits: 30 to 55 ms for SD 1.5."""
START_SECONDS, READ_BYTES_PER_SECOND = 8.0, 1e9
"""Loading the libraries, and weights from the disk. Estimated."""
PROCESSOR_FLOPS = 30e9
"""Floating-point operations a second of one core. Measured with the demo kit: 20e9 at batch 1, 34e9 at batch 4."""
UNKNOWN_CARD_TFLOPS = 8.0
CARD_TFLOPS = {
    "GTX 10..": 3, "GTX 16..": 3, "RTX 2080": 9, "RTX 20..": 6, "RTX 3050": 4, "RTX 3060": 8, "RTX 3070": 10, "RTX 3080": 14,
    "RTX 3090": 17, "RTX 4050": 6, "RTX 4060": 9, "RTX 4070": 16, "RTX 4080": 26, "RTX 4090": 40, "RTX 5060": 12, "RTX 5070": 20,
    "RTX 5080": 30, "RTX 5090": 50, "RTX A4000": 10, "RTX A5000": 15, "RTX A6000": 20, "P100": 6, "V100": 25, "T4": 6, "L4": 15,
    "L40": 45, "A10": 18, "A40": 20, "A100": 60, "H100": 100, "H200": 100,
}  # fmt: skip
"""10^12 floating-point operations a second that trainers really reach. T4: 3.3 samples of SD 1.5 a second; RTX 3060 and 3090:
sd-scripts' published 2.4 s and 1.1 to 1.2 s for an SDXL step; RTX 4090: 0.227 s for one when compiled, less here. The others
are estimated from these by their data sheets, at a fifth to a quarter of what these promise."""

RECENT_RUNS = 40
"""How many of the newest runs are looked through for one like this."""
LISTED_SECONDS = 2.0
HEAD_BYTES, TAIL_BYTES = 16_384, 131_072


@dataclass(frozen=True)
class Machine:
    """What the training will run on."""

    gpu: str = ""
    """Name of the card; empty where the processor does it."""
    memory_total: int = 0
    """Of the card, or of the machine; 0 where it doesn't say."""
    memory_free: int = 0
    processors: int = 1
    """Cores."""


@dataclass(frozen=True)
class Advice:
    """A change that would save memory."""

    kind: str
    """Which one, whatever the words: gradient_checkpointing, batch_size, adamw8bit, lion8bit, int8, nf4, fused_backward, text_encoder,
    resolution, rank."""
    text: str
    changes: dict[str, Any]
    """Values by dotted setting."""
    saves_bytes: int


@dataclass(frozen=True)
class Estimate:
    memory_bytes: int | None = None
    """At the highest point; None where the model is not known."""
    memory_total: int = 0
    """Of the card; of the machine where the processor trains. 0 where that is not known."""
    memory_free: int = 0
    fits: bool | None = None
    seconds: float | None = None
    """From start to end, encoding and previews included; None where nobody can know."""
    basis: str = ""
    """What the time is based on, in a sentence."""
    basis_kind: Literal["unknown", "run", "gpu", "processor"] = "unknown"
    basis_name: str = ""
    """The run or the card that the basis names."""
    advice: list[Advice] = field(default_factory=list)
    """What would save memory where it is scarce: first what leaves the result as it is, most saving first."""
    phases: dict[str, int] = field(default_factory=dict)
    """Bytes at the highest point of encoding, training and previews."""
    device: str = ""
    """Name of the card; empty where the processor trains."""


@dataclass(frozen=True)
class Fitted:
    """What was chosen so that a training fits into the memory that is free."""

    changes: dict[str, Any]
    """Values by dotted setting; empty where nothing needs to be changed, or can be."""
    said: list[str]
    """What was chosen and why, and what came of it, a sentence each."""
    estimate: Estimate
    """With the changes; where its `fits` is False, that is the nearest that there is."""
    advice: list[Advice]
    """What was chosen, in this order."""


def estimate(job: TrainJob, plan: TrainPlan, workspace: Workspace, machine: Machine | None = None) -> Estimate:
    """Memory and time of this job. Never raises for what a user can have typed."""
    machine = machine or this_machine()
    nothing = Estimate(
        memory_total=machine.memory_total,
        memory_free=machine.memory_free,
        basis="Memory and time can be estimated when a base model is chosen.",
        device=machine.gpu,
    )
    try:
        model = find_model(job.model.path, workspace.models)
        demand = demand_of(model)
    except UserError:  # it is among the plan's problems
        return nothing
    phases = memory(job, plan, demand, bool(machine.gpu))
    needed = max(phases.values())
    seconds, kind, name, basis = duration(job, plan, demand, model, workspace, machine)
    tight = bool(machine.memory_total) and needed > TIGHT * machine.memory_free
    return Estimate(
        memory_bytes=needed,
        memory_total=machine.memory_total,
        memory_free=machine.memory_free,
        fits=needed * MARGIN <= machine.memory_free if machine.memory_total else None,
        seconds=seconds,
        basis=basis,
        basis_kind=kind,
        basis_name=name,
        advice=advise(job, plan, demand, bool(machine.gpu)) if tight else [],
        phases=phases,
        device=machine.gpu,
    )


def fit(job: TrainJob, plan: TrainPlan, workspace: Workspace, machine: Machine | None = None) -> Fitted:
    """Follow the advice, what leaves the result as it is first, until the training fits into the memory that is free."""
    machine = machine or this_machine()
    changes: dict[str, Any] = {}
    chosen: list[Advice] = []
    now = estimate(job, plan, workspace, machine)
    while now.fits is False and now.advice:
        new = now.advice[0]
        changes |= new.changes
        job = job.changed(**new.changes)
        # A rank that is halved twice is one change.
        before = [one for one in chosen if set(one.changes) == set(new.changes)]
        chosen = [one for one in chosen if one not in before] + [replace(new, saves_bytes=sum(one.saves_bytes for one in (*before, new)))]
        plan = _at(plan, job.dataset.resolution or plan.resolution)
        now = estimate(job, plan, workspace, machine)
    said = [f"{advice.text} That saves {_gib(advice.saves_bytes)}." for advice in chosen]
    if now.memory_bytes is None or now.fits is None:
        said.append("Nothing is known of the model or of this machine's memory, so nothing was changed.")
    elif now.fits:
        said.append(f"It fits: {_gib(now.memory_bytes)} are needed (estimated) and {_gib(now.memory_free)} are free.")
    else:
        said.append(
            f"It cannot be made to fit: at least {_gib(now.memory_bytes * MARGIN)} must be free and {_gib(now.memory_free)} are; "
            "end other programs that use the card, or choose a smaller model."
        )
    return Fitted(changes, said, now, chosen)


def _gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB"


# Memory


def memory(job: TrainJob, plan: TrainPlan, demand: Demand, on_gpu: bool) -> dict[str, int]:
    """Bytes at the highest point of each phase: on the card, or of the whole process where the processor trains."""
    unet, vae, text = demand.unet, demand.vae, demand.text_encoder
    half = job.model.precision in ("float16", "bfloat16") or (job.model.precision == "auto" and on_gpu)
    number = 2 if half else 4
    vae_number = 2 if half and on_gpu else 4
    trains_text = _trains_text(job)
    whole, base = METHODS[job.method].whole, job.memory.base_precision
    # A model that is trained itself is float32 throughout, whatever it computes in.
    weight = 4 if whole else number
    frozen = {"unet": unet.parameters * weight, "vae": vae.parameters * vae_number, "text_encoder": text.parameters * weight}
    for part, layers in demand.layers.items():
        place = "text_encoder" if part.startswith("text_encoder") else "unet"
        # An encoder that reads captions only once stays as it is.
        if base != "as_model" and not whole and (place == "unet" or trains_text or job.dataset.varies_captions):
            frozen[place] -= round(packing.saved_bytes(layers.shapes, base, number))
    average = AVERAGED if job.training.ema_decay else 0
    trained = trained_parameters(job, demand) * ((0 if whole else PER_PARAMETER) + job.optimizer.chosen.state_bytes + average)
    gradients = trained_parameters(job, demand) * GRADIENT if whole else 0
    if job.fuses_backward:
        # What then is at its highest before the first gradient is there: the weights once more, in the precision that computes.
        gradients = _largest(demand) * GRADIENT + (unet.parameters * number if half else 0)
    kept = (_kept(job, plan, demand) + (text.kept_numbers() if trains_text else 0)) * job.training.batch_size * number
    kept += _rebuilt(job, demand, number)
    encodes_text = trains_text or job.dataset.varies_captions
    captions = 0 if encodes_text else _captions_bytes(plan, demand, number)
    tables = min(TABLE_LIMIT, _latents_bytes(job, plan, demand)) + min(TABLE_LIMIT, captions)
    pixels = plan.resolution**2
    at_once = max(1, min(_views(job, plan), ENCODED_AT_ONCE // pixels))
    encoding = vae.encoding_numbers(at_once * pixels) * vae_number
    decoding = vae.decoding_numbers(_preview_pixels(job, plan)) * vae_number if plan.samples else 0
    everything = sum(frozen.values()) + trained + tables
    if not on_gpu:
        phases = {"encoding": encoding, "training": gradients + ALLOCATED_ON_PROCESSOR * kept, "previews": decoding}
        return {phase: round(LIBRARIES + everything + needed) for phase, needed in phases.items()}
    # What a step doesn't need waits in the machine's memory meanwhile.
    at_work = frozen["unet"] + (frozen["text_encoder"] if encodes_text else 0)
    training = at_work + trained + gradients + tables + kept
    phases = {"encoding": everything + encoding, "training": training, "previews": everything + decoding if decoding else 0}
    return {phase: round(CUDA_CONTEXT + needed) for phase, needed in phases.items()}


def _trains_text(job: TrainJob) -> bool:
    """Whether captions go through the text encoders in each step, forth and back."""
    return job.teaches_word or bool(job.optimizer.text_encoder_learning_rate)


def _rebuilt(job: TrainJob, demand: Demand, number: int) -> int:
    """Bytes of weights that some of LoRA's kin put together anew in each step."""
    if "lora" not in METHODS[job.method].groups:
        return 0
    return job.lora.rebuilt_bytes(trained_parts(job.recipe(), demand.layers), number, job.training.gradient_checkpointing)


def _largest(demand: Demand) -> int:
    """Numbers of the largest weight."""
    return max((math.prod(shape) for layers in demand.layers.values() for shape in layers.shapes.values()), default=0)


def trained_parameters(job: TrainJob, demand: Demand) -> int:
    return METHODS[job.method].trained_numbers(job.recipe(), demand)


def advise(job: TrainJob, plan: TrainPlan, demand: Demand, on_gpu: bool) -> list[Advice]:
    """Changes that lower the highest point, each with what it alone saves; those that leave the result as it is come first."""
    now = max(memory(job, plan, demand, on_gpu).values())
    found: list[tuple[bool, Advice]] = []
    for harmless, kind, text, changes in _possible_changes(job, plan):
        try:
            changed = job.changed(**changes)
        except UserError:  # no such value is allowed
            continue
        resolution = changed.dataset.resolution or plan.resolution
        then = max(memory(changed, _at(plan, resolution), demand, on_gpu).values())
        if now - then > 0.01 * now:
            found.append((harmless, Advice(kind, text, changes, now - then)))
    found.sort(key=lambda item: (not item[0], -item[1].saves_bytes))
    return [advice for _, advice in found]


def _possible_changes(job: TrainJob, plan: TrainPlan) -> Iterator[tuple[bool, str, str, dict[str, Any]]]:
    """(whether the result stays as good, kind, sentence, changes)."""
    training = job.training
    if not training.gradient_checkpointing:
        yield True, "gradient_checkpointing", "Turn gradient checkpointing on: a third slower.", {"training.gradient_checkpointing": True}
    if training.batch_size > 1:
        gathered = training.batch_size * training.gradient_accumulation
        text = f"Batch size 1, {gathered} batches gathered: the same training, a little slower."
        yield True, "batch_size", text, {"training.batch_size": 1, "training.gradient_accumulation": gathered}
    chosen = job.optimizer.chosen
    if chosen.smaller and importlib.util.find_spec(OPTIMIZERS[chosen.smaller].package) is not None:
        text = f"{OPTIMIZERS[chosen.smaller].title} instead of {chosen.title}: hardly any difference."
        yield True, chosen.smaller, text, {"optimizer.name": chosen.smaller}
    if not METHODS[job.method].whole:
        base = job.memory.base_precision
        if base == "as_model":
            yield True, "int8", "The frozen model in int8: hardly any difference, and slower.", {"memory.base_precision": "int8"}
        if base != "nf4":
            yield False, "nf4", "The frozen model in nf4: rounded to 16 steps, and slower.", {"memory.base_precision": "nf4"}
    elif not (job.memory.fused_backward or training.gradient_accumulation > 1 or job.prior.wanted or chosen.finds_rate):
        same = not job.optimizer.max_grad_norm
        text = "Fused backward pass: the same training." if same else "Fused backward pass: long gradients are not shortened any more."
        yield same, "fused_backward", text, {"memory.fused_backward": True, "optimizer.max_grad_norm": 0.0}
    if job.optimizer.text_encoder_learning_rate:
        text = "Leave the text encoder alone: the trigger word is learned a little later."
        yield False, "text_encoder", text, {"optimizer.text_encoder_learning_rate": None}
    step = max(64, job.dataset.bucket_step) if job.dataset.buckets else 64
    lower = int(0.75 * plan.resolution) // step * step
    if lower >= 256:
        yield False, "resolution", f"Resolution {lower} instead of {plan.resolution}: less detail.", {"dataset.resolution": lower}
    if "lora" in METHODS[job.method].groups and job.lora.rank >= 8:
        # alpha / rank stays as it is, so that the learning rate needs no change.
        rank, alpha = job.lora.rank // 2, job.lora.alpha * (job.lora.rank // 2) / job.lora.rank
        yield False, "rank", f"Rank {rank} instead of {job.lora.rank}: less fine detail.", {"lora.rank": rank, "lora.alpha": alpha}


def _at(plan: TrainPlan, resolution: int) -> TrainPlan:
    return TrainPlan(**{**vars(plan), "resolution": resolution})


def _positions(resolution: int) -> int:
    return max(1, resolution // 8) ** 2


def _kept(job: TrainJob, plan: TrainPlan, demand: Demand) -> float:
    return demand.unet.kept_numbers(_positions(plan.resolution), job.training.gradient_checkpointing)


def _views(job: TrainJob, plan: TrainPlan) -> int:
    """Pictures that are encoded; mirrored ones are others."""
    return plan.pictures * (2 if job.dataset.flip else 1) + plan.held_out + plan.class_pictures


def _latents_bytes(job: TrainJob, plan: TrainPlan, demand: Demand) -> int:
    """Mean and deviation in float32."""
    return _views(job, plan) * 2 * demand.unet.latent_channels * _positions(plan.resolution) * 4


def _captions_bytes(plan: TrainPlan, demand: Demand, number: int) -> int:
    """Of the encoded captions. SDXL's pooled encoding, 1,280 numbers beside 77 x 2,048, is not worth counting."""
    return (plan.pictures + plan.held_out + 1) * demand.unet.text_tokens * demand.unet.text_width * number


def _preview_pixels(job: TrainJob, plan: TrainPlan) -> int:
    return (job.preview.width or plan.resolution) * (job.preview.height or plan.resolution)


# Time


def duration(
    job: TrainJob, plan: TrainPlan, demand: Demand, model: Path, workspace: Workspace, machine: Machine
) -> tuple[float | None, Literal["unknown", "run", "gpu", "processor"], str, str]:
    """Seconds from start to end, what they are based on (kind and name), and that in a sentence."""
    if not plan.total:
        return None, "unknown", "", "The time can be estimated when a dataset is chosen."
    step_flop = flop_per_step(job, plan.resolution, demand)
    known = earlier_run(job, plan, model, workspace, machine)
    if known is not None:
        run, its_job, its_seconds = known
        its_resolution = its_job.dataset.resolution or _native(model) or plan.resolution
        its_flop = flop_per_step(its_job, its_resolution, demand)
        speed = its_flop / its_seconds
        training = plan.total * its_seconds * step_flop / its_flop
        kind, name, basis = "run", run, f"As fast as {run}."
    elif machine.gpu:
        speed = card_tflops(machine.gpu) * 1e12
        batches = plan.total * job.training.gradient_accumulation
        training = max(plan.total * step_flop / speed, batches * HOST_SECONDS)
        kind, name, basis = "gpu", machine.gpu, f"A rough guess for this card ({machine.gpu}); the first run will tell."
    else:
        speed = PROCESSOR_FLOPS * machine.processors
        training = plan.total * step_flop / speed
        kind, name, basis = "processor", "", "A rough guess for this processor; the first run will tell."
    weights = 4 * (demand.unet.parameters + demand.vae.parameters + demand.text_encoder.parameters)
    around = (_encoding_flop(job, plan, demand) + _looking_flop(job, plan, demand)) / speed
    return START_SECONDS + weights / READ_BYTES_PER_SECOND + around + training, kind, name, basis


def flop_per_step(job: TrainJob, resolution: int, demand: Demand) -> float:
    """Work of a full step: all of its batches, forward and backward."""
    picture = demand.unet.training_flop(_positions(resolution), job.training.gradient_checkpointing)
    text = demand.text_encoder.training_flop() if _trains_text(job) else 0.0
    shown = 2 if job.prior.wanted else 1  # as many class pictures as others
    return (picture + text) * shown * job.training.batch_size * job.training.gradient_accumulation


def card_tflops(name: str) -> float:
    """What trainers usually reach on a card of that name."""
    return next((tflops for model, tflops in CARD_TFLOPS.items() if re.search(rf"\b{model}(?!\d)", name)), UNKNOWN_CARD_TFLOPS)


def _encoding_flop(job: TrainJob, plan: TrainPlan, demand: Demand) -> float:
    """As if no picture had been encoded before."""
    return _views(job, plan) * demand.vae.encoding_flop(plan.resolution**2)


def _looking_flop(job: TrainJob, plan: TrainPlan, demand: Demand) -> float:
    """Previews and validation."""
    preview, pixels = job.preview, _preview_pixels(job, plan)
    passes = preview.steps * (2 if preview.cfg_scale > 1 else 1)  # guidance looks twice, with the prompt and without
    painting = passes * demand.unet.forward_flop(pixels // 64) + demand.vae.decoding_flop(pixels)
    measuring = plan.validations * plan.held_out * job.validation.draws * demand.unet.forward_flop(_positions(plan.resolution))
    return plan.samples * painting + measuring


def _native(model: Path) -> int:
    try:
        return native_size(model)
    except UserError:
        return 0


# Earlier runs


def earlier_run(job: TrainJob, plan: TrainPlan, model: Path, workspace: Workspace, machine: Machine) -> tuple[str, TrainJob, float] | None:
    """(identifier, job, seconds per step) of the newest run with this model on this machine that went at the same size; else the newest."""
    first = None
    for path in _recent_runs(workspace):
        its_job = _train_job(path, _state_of(path / "run.yaml"), model.name)
        if its_job is None or not _same_model(its_job, model, workspace):
            continue
        device, seconds = _pace(path / "events.jsonl", _state_of(path / "events.jsonl"))
        if seconds is None or (device not in ("", "cpu") if not machine.gpu else device != machine.gpu):
            continue
        run = identifier(RunFolder(path), workspace), its_job, seconds
        if _size_of_step(its_job, plan.resolution) == _size_of_step(job, plan.resolution):
            return run
        first = first or run
    return first


def _size_of_step(job: TrainJob, resolution: int) -> tuple[Any, ...]:
    training = job.training
    trains_text = _trains_text(job)
    return (
        job.dataset.resolution or resolution, training.batch_size, training.gradient_accumulation,
        training.gradient_checkpointing, trains_text, job.model.precision, job.memory.base_precision,
        METHODS[job.method].whole,
    )  # fmt: skip


def _same_model(job: TrainJob, model: Path, workspace: Workspace) -> bool:
    try:
        return find_model(job.model.path, workspace.models).resolve() == model.resolve()
    except (UserError, OSError):
        return False


_listed: dict[Path, tuple[float, int, list[Path]]] = {}


def _recent_runs(workspace: Workspace) -> list[Path]:
    """Folders of the newest runs; looked for again after a moment, or when the runs' folder has changed."""
    changed, now = _state_of(workspace.runs), time.monotonic()
    known = _listed.get(workspace.runs)
    if known is None or now - known[0] > LISTED_SECONDS or known[1] != changed:
        if len(_listed) > 8:
            _listed.clear()
        known = _listed[workspace.runs] = (now, changed, [run.path for run in runs_in(workspace.runs)[:RECENT_RUNS]])
    return known[2]


@lru_cache(maxsize=256)
def _train_job(run: Path, state: int, model_name: str) -> TrainJob | None:
    """The run's job, if it trains a model of that name. Others are not even parsed, which would take a while for many of them."""
    try:
        text = (run / "run.yaml").read_text(encoding="utf-8")
        if "job: train" not in text or model_name not in text:
            return None
        job = RunFolder(run).job()
    except (UserError, OSError, ValueError):
        return None
    return job if isinstance(job, TrainJob) else None


@lru_cache(maxsize=256)
def _pace(log: Path, state: int) -> tuple[str, float | None]:
    """The device of a run and the median of its latest seconds per step, from both ends of its log."""
    try:
        with open(log, "rb") as file:
            head = file.read(HEAD_BYTES)
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            tail = file.read()
    except OSError:
        return "", None
    device = next((event.device for event in _events(head) if isinstance(event, Started)), "")
    paces = [event.seconds_per_step for event in _events(tail) if isinstance(event, Step) and event.seconds_per_step > 0]
    # The first report holds the time that kernels were chosen and memory was found in.
    paces = paces[1:] if len(paces) > 2 and size <= TAIL_BYTES else paces
    return device, statistics.median(paces) if paces else None


def _events(text: bytes) -> Iterator[Any]:
    for line in text.splitlines():
        try:
            values = json.loads(line)
            event = from_values(values) if isinstance(values, dict) else None
        except (ValueError, TypeError):  # half a line
            continue
        if event is not None:
            yield event


def _state_of(path: Path) -> int:
    try:
        state = path.stat()
    except OSError:
        return 0
    return hash((state.st_size, state.st_mtime_ns, state.st_ino))


# The machine

_meter = hardware.Meter()


def this_machine() -> Machine:
    """Asked again in the background now and then; only the very first question waits for an answer."""
    processors = _cores()
    if hardware.torch_cuda():
        load = _meter.now()
        if load is None:
            cards = [(card.name, card.total_bytes, card.free_bytes) for card in _first_cards()]
        else:
            cards = [(card.name, card.total_bytes or 0, max(0, (card.total_bytes or 0) - (card.used_bytes or 0))) for card in load.gpus]
        if cards:
            return Machine(*cards[0], processors)
    total, free = hardware.memory()
    return Machine("", total, free, processors)


@lru_cache(maxsize=1)
def _first_cards() -> list[hardware.Gpu]:
    return hardware.gpus()


@lru_cache(maxsize=1)
def _cores() -> int:
    """Those that torch uses: real ones."""
    import psutil

    return psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
