"""The training: one loop for every family and method, from a job to a LoRA file. Read `train` from top to bottom.

Everything random follows from (seed, step, process) or (seed, epoch), never from what happened before, so a training that
was stopped and resumed gives the same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import random
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image

from nosnja_gui import events
from nosnja_gui.dataset import Picture, tags, templates
from nosnja_gui.dataset.batches import Batch, Exposure, derive, divisors, share_of
from nosnja_gui.engine import checkpoints, fused, lora_files, optimizers, prior, roundtrip
from nosnja_gui.engine.cache import Cache, Encodings, Latents, View, encode_captions, encode_pictures, key_of, weigh_places
from nosnja_gui.engine.checkpoints import Checkpoint
from nosnja_gui.engine.ema import Average
from nosnja_gui.engine.export import metadata
from nosnja_gui.engine.material import Material, prepare
from nosnja_gui.engine.models import choose_device, choose_dtype, load_model, load_packed, load_to_train_whole
from nosnja_gui.engine.objectives import Objective, noise_schedule_of, objective
from nosnja_gui.engine.sampler import ImageRequest, infotext, sample, save_png
from nosnja_gui.engine.voice import Voice, in_words, interrupts
from nosnja_gui.families import Family, Parts, TextEncoding, packing
from nosnja_gui.files import free_bytes, write_atomic
from nosnja_gui.jobs import TrainJob
from nosnja_gui.methods import METHODS, TAGS, Method, Trainable
from nosnja_gui.methods.lora import ENTRY as LORA
from nosnja_gui.models import identify
from nosnja_gui.plan import count_saves, due
from nosnja_gui.progress import Progress
from nosnja_gui.runs import RunFolder
from nosnja_gui.schedules import warmup_updates
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace, file_name

LOG_SECONDS, LOG_STEPS = 1.0, 10
"""The loss is fetched from the device when either is reached: fetching it every step would make the GPU wait."""
REQUESTS = ("stop", "save", "sample")
AVERAGE = "average."
"""Stands before the names of the averaged weights in a checkpoint."""


def train(job: TrainJob, run: RunFolder, workspace: Workspace, progress: Progress | None = None) -> Path:
    """Train and return the LoRA file; on the folder of an unfinished run, go on from its newest good state.

    Stopped on request, it returns the LoRA of that step (the run's folder, if there was no step yet). Raises UserError for all
    that the user can mend.
    """
    accelerator = Accelerator(cpu=choose_device().type == "cpu")
    final = run.weights / f"{file_name(job.name)}.safetensors"
    if final.is_file() and run.logged().state == "finished":
        if progress:
            progress.stage(f"Finished already, the result is {final}")
            progress.done()
        return final
    if not accelerator.is_main_process:
        with interrupts(lambda: None):
            return _train(job, run, workspace, accelerator, final, Voice(None, None))
    with run.lock(), interrupts(lambda: run.request("stop")):
        run.clear_requests()
        voice = Voice(run.log(), progress)
        try:
            return _train(job, run, workspace, accelerator, final, voice)
        except _Stopped as stopped:
            voice.say(events.Stopped(step=stopped.step))
            return run.path
        except BaseException as error:
            problem = in_words(error, job, run)
            detail = "" if isinstance(error, UserError) else traceback.format_exc()
            with contextlib.suppress(OSError):
                voice.say(events.Failed(message=str(problem or error) or type(error).__name__, detail=detail))
            if problem is None or problem is error:
                raise
            raise problem from error
        finally:
            if progress:
                progress.done()


def _train(job: TrainJob, run: RunFolder, workspace: Workspace, accelerator: Accelerator, final: Path, voice: Voice) -> Path:
    began = time.monotonic()
    material = prepare(job, workspace, accelerator.num_processes)
    for warning in material.warnings:
        voice.warn(warning)
    if accelerator.is_main_process:
        write_atomic(run.path / "captions.json", json.dumps(material.as_values(), indent=1, ensure_ascii=False))

    voice.stage("Loading the model")
    training = begin(job, material, accelerator, voice, stop=_stop_asked(run, accelerator, 0))
    check_disk(training, run)
    checkpoints.sweep(run.checkpoints)
    start = resume(training, run, voice)
    # One process encodes, the others find the work done in the cache.
    with accelerator.main_process_first():
        encode(training, Cache(workspace.cache), voice, stop=_stop_asked(run, accelerator, start))

    plan, total, settings = material.plan, material.total, job.training
    epochs = math.ceil(total / plan.steps_per_epoch)
    device = device_name(training.parts.device)
    voice.say(events.Started(job="train", total=total, done=start, device=device, epochs=epochs, steps_per_epoch=plan.steps_per_epoch))
    if start == 0:
        validate(training, 0, voice, _stop_asked(run, accelerator, 0))
        if job.preview.before_training:
            preview(training, run, 0, voice, _stop_asked(run, accelerator, 0))
    voice.stage("Training", total, start)
    take_over_rate(training, run, start, voice)
    meter = Meter(accelerator)
    steps: list[tuple[Batch, ...]] = []

    for step in range(start, total):
        epoch, position = divmod(step, plan.steps_per_epoch)
        if position == 0 or not steps:
            steps = plan.epoch(epoch)
        torch.manual_seed(derive(settings.seed, "step", step, accelerator.process_index))
        optimizers.set_rates(training.optimizer, job.schedule, step, total)
        losses = []
        for batch, divisor in zip(steps[position], divisors(steps[position], job.prior.weight), strict=True):
            loss = batch_loss(training, batch) / divisor
            training.scaler.scale(loss).backward()
            losses.append(loss.detach())
        meter.count(losses, update(training))
        if training.average:
            training.average.update(step + 1)

        done = step + 1
        epoch_done = done // plan.steps_per_epoch if done % plan.steps_per_epoch == 0 else None
        last = done == total
        wanted, rate = take_requests(run, accelerator, meter.due())
        stop_now = "stop" in wanted and not last
        save_asked = bool(wanted & {"save", "stop"})
        save_now = last or save_asked or due(done, job.saving.every_steps, epoch_done, job.saving.every_epochs)
        state_now = save_asked or due(done, job.saving.checkpoint_every_steps, epoch_done, job.saving.every_epochs)
        sample_now = "sample" in wanted or due(done, job.preview.every_steps, epoch_done, job.preview.every_epochs)
        validate_now = due(done, 0, epoch_done, job.validation.every_epochs)
        voice.advance()
        if not (wanted or rate or save_now or state_now or sample_now or validate_now):
            continue

        # Nothing is written, shown or kept that was not checked first.
        meter.report(training, done, epoch + 1, voice)
        check_finite(training, done)
        if rate:
            change_rate(training, rate, done, voice)
        if save_now:
            for file in names_due(training, final, done, epoch_done, save_asked):
                save_weights(training, run, file, done, epoch + 1, voice)
        if not stop_now:
            try:
                stop_asked = _stop_asked(run, accelerator, done)
                if validate_now or (last and job.validation.every_epochs):
                    validate(training, done, voice, stop_asked)
                if sample_now or (last and (job.preview.every_steps or job.preview.every_epochs)):
                    preview(training, run, done, voice, stop_asked)
                    if "sample" in wanted and not job.preview.prompts:
                        voice.warn("Previews were asked for, but preview.prompts is empty.")
                    if job.preview.prompts and not last:
                        voice.stage("Training", total, done)
            except _Stopped:
                stop_now = not last  # what is finished with its last step is finished
                if stop_now and not save_asked:
                    save_weights(training, run, step_file(final, done), done, epoch + 1, voice)
        if (state_now or stop_now) and not last:
            save_state(training, run, done, epoch + 1, voice)
        if stop_now:
            accelerator.wait_for_everyone()
            voice.say(events.Stopped(step=done))
            return step_file(final, done)
        meter.restart()

    if start >= total:
        save_weights(training, run, final, total, epochs, voice)
    read_back(training, run, final, voice)
    accelerator.wait_for_everyone()
    voice.say(events.Finished(files=[_relative(final, run)], seconds=time.monotonic() - began))
    return final


# ---------------------------------------------------------------- loading and encoding


@dataclass
class Training:
    """Everything that a step touches."""

    job: TrainJob
    material: Material
    accelerator: Accelerator
    family: Family
    method: Method
    parts: Parts
    trainables: list[Trainable]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    objective: Objective
    learning_rate: float
    """The whole rate of now, before the schedule: that of the settings until it is changed."""
    latents: Latents = field(default_factory=lambda: Latents({}, {}))
    encodings: Encodings | None = None
    """None where the text encoder is trained: then captions are encoded anew in every step."""
    preview_encodings: dict[Any, Any] = field(default_factory=dict)
    average: Average | None = None
    """Of the trained weights, where training.ema_decay asks for one."""

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for trainable in self.trainables for parameter in trainable.parameters]

    @property
    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        return dict(itertools.chain(*(zip(trainable.names, trainable.parameters, strict=True) for trainable in self.trainables)))

    @property
    def trains_text(self) -> bool:
        """Whether the same caption is encoded to something else after a step."""
        return any(trainable.of_text for trainable in self.trainables)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The weights that are shown and kept: averaged ones, where the optimiser or training.ema_decay averages them."""
        with optimizers.averaged(self.optimizer, self.job.optimizer), self.average.worn() if self.average else contextlib.nullcontext():
            yield

    @property
    def encodes_text(self) -> bool:
        """Whether captions are encoded in every step: because they come out as something else, or are others."""
        return self.trains_text or self.job.dataset.varies_captions

    def view(self, picture: Picture, mirrored: bool = False) -> View:
        return View(picture.path, *self.material.shapes[picture.path], mirrored, (picture.width, picture.height))

    def text_of(self, captions: list[str]) -> TextEncoding:
        if self.encodings is None:
            with torch.set_grad_enabled(self.trains_text and torch.is_grad_enabled()):
                dataset = self.job.dataset
                return self.family.encode_prompts(
                    self.parts,
                    captions,
                    self.job.model.clip_skip,
                    dataset.windows,
                    min_chunks=dataset.windows,
                    weighted=dataset.weighted_captions,
                )
        return self.encodings.of(captions, self.parts.device)


def begin(
    job: TrainJob, material: Material, accelerator: Accelerator, voice: Voice, stop: Callable[[], None] = lambda: None
) -> Training:
    """Load the model, let it paint the class pictures that are missing, and make it trainable."""
    device = accelerator.device
    dtype = choose_dtype(job.model.precision, device)
    family, method, base = material.family, METHODS[job.method], job.memory.base_precision
    if job.fuses_backward:
        check_fused(dtype, accelerator.num_processes)
    prediction = None if job.model.prediction_type == "auto" else job.model.prediction_type
    if method.whole:
        with_text = job.recipe().train_text_encoder
        _, parts = load_to_train_whole(material.model, device, dtype, with_text, vae=material.vae, prediction_type=prediction)
    elif base == "as_model":
        _, parts = load_model(material.model, device, dtype, vae=material.vae, prediction_type=prediction)
    else:
        _, parts = load_packed(material.model, device, dtype, base, vae=material.vae, prediction_type=prediction)
    with accelerator.main_process_first():
        prior.paint(job, material.prior, family, parts, voice, stop)
    parts.noise_schedule = noise_schedule_of(parts.noise_schedule, job.loss)
    torch.manual_seed(derive(job.training.seed, "start"))
    trainables = method.attach(family, parts, job.recipe())
    if material.start_from:
        start_from(material, family, parts, voice)
    if job.training.gradient_checkpointing:
        parts.denoiser.enable_gradient_checkpointing()
        for encoder in parts.text_encoders if any(trainable.part.startswith("text_encoder") for trainable in trainables) else ():
            encoder.activation_checkpointing_enable()
    training = Training(
        job=job,
        material=material,
        accelerator=accelerator,
        family=family,
        method=method,
        parts=parts,
        trainables=trainables,
        optimizer=(fused if job.fuses_backward else optimizers).make(job.optimizer, trainables),
        # The model computes in that precision and the trained parameters are fp32: only fp16 needs its gradients scaled.
        scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        objective=objective(parts.noise_schedule, parts.prediction_type, job.loss, device),
        learning_rate=job.optimizer.learning_rate,
    )
    # Encoders that only read captions once are exact: what they say is kept for other trainings.
    if base != "as_model" and training.encodes_text:
        for encoder in parts.text_encoders:
            packing.pack(encoder, base)
    if job.training.ema_decay:
        training.average = Average(list(training.named_parameters), training.parameters, job.training.ema_decay)
    return training


def check_fused(dtype: torch.dtype, processes: int) -> None:
    """Raises UserError where a step is more than one backward pass on one card. What shows beforehand is among the plan's problems."""
    if dtype == torch.float16:
        raise UserError(
            "memory.fused_backward cannot be used on this card, which computes in float16 and needs its gradients scaled: "
            "turn it off, or set model.precision to float32."
        )
    if processes > 1:
        raise UserError(f"memory.fused_backward trains in one process (got {processes}): turn it off, or start a single process.")


def start_from(material: Material, family: Family, parts: Parts, voice: Voice) -> None:
    """Let the training go on from a LoRA file, and say what of it that leaves out."""
    file, trained = material.start_from, LORA.trained(family, parts).updates
    rank = LORA.rank_of_products(trained)
    adapter, report = lora_files.for_training(file, family, identify(material.model)[1], rank)
    if report:
        voice.warn(f"{file.name} was brought to rank {rank}, which keeps {report.kept:.1%} of what it changes.")
    left_out = [address for address in (*adapter.updates, *adapter.biases) if address not in trained]
    if left_out:
        voice.warn(f"{len(left_out)} modules of {file.name}, such as '{'.'.join(left_out[0])}', are not trained here and are left out.")
    LORA.start_from(family, parts, adapter)


def check_disk(training: Training, run: RunFolder) -> None:
    """Raises UserError unless two checkpoints (fp32 parameters and the optimiser's state each) and a result fit on the disk."""
    trained = sum(parameter.numel() for parameter in training.parameters)
    needed = trained * 2 * (4 + training.job.optimizer.chosen.state_bytes) + result_bytes(training, trained, run)
    free = free_bytes(run.path)
    if free < needed:
        raise UserError(
            f"The disk of {run.path} is too full for this training: it needs {needed / 1e6:,.0f} MB for its saved states and "
            f"{free / 1e6:,.0f} MB are free; make room or choose another output folder."
        )


def result_bytes(training: Training, trained: int, run: RunFolder) -> int:
    """Of a file with what is trained in fp32; of a whole model the files that are not there yet, each with all of its parts."""
    if not training.method.whole:
        return 4 * trained
    job, parts = training.job, training.parts
    modules = (parts.denoiser, parts.vae, *parts.text_encoders)
    file = sum(parameter.numel() for module in modules for parameter in module.parameters())
    file *= 4 if job.saving.precision == "float32" else 2
    there = len(list(run.weights.glob("*.safetensors")))
    files = count_saves(job.saving, training.material.total, training.material.plan.steps_per_epoch)
    return file * max(1, files - there) * (2 if job.dreambooth.diffusers_folder else 1)


def encode(training: Training, cache: Cache, voice: Voice, stop: Callable[[], None]) -> None:
    """Fill the training's latents and text encodings, from the cache where it has them."""
    material, parts = training.material, training.parts
    mirrors = (False, True) if training.job.dataset.flip else (False,)
    views = [training.view(picture, mirrored) for picture in material.training for mirrored in mirrors]
    views += [training.view(picture) for picture in material.held_out + material.prior]

    def advance(count: int) -> None:
        voice.advance(count)
        stop()

    voice.stage("Encoding pictures", len(set(views)))
    training.latents = encode_pictures(training.family, parts, views, cache, advance)
    if training.job.loss.weighs_places:
        voice.stage("Reading masks", len(set(views)))
        weigh_places(training.latents, training.job.loss, training.family.latent_factor, cache, parts.device, advance)
    if not training.encodes_text:
        captions = {picture.caption or "" for picture in material.training + material.held_out + material.prior} | {""}
        voice.stage("Encoding captions", len(captions))
        dataset = training.job.dataset
        how = {"windows": dataset.windows, "weighted": dataset.weighted_captions}
        training.encodings = encode_captions(training.family, parts, captions, training.job.model.clip_skip, cache, advance, **how)
    away(training)


def away(training: Training) -> None:
    """Move what a step doesn't need off the GPU: the VAE, and the text encoder if its work is done."""
    for module in idle_modules(training):
        module.to("cpu")
    if training.parts.device.type == "cuda":
        torch.cuda.empty_cache()


def idle_modules(training: Training) -> list[torch.nn.Module]:
    return [training.parts.vae, *(training.parts.text_encoders if not training.encodes_text else [])]


# ---------------------------------------------------------------- a step


def batch_loss(training: Training, batch: Batch) -> torch.Tensor:
    """Sum of the weighted losses of this process's share of a batch."""
    own, counts = share_of(batch, training.accelerator.process_index, training.accelerator.num_processes)
    pictures = training.material.prior if own[0].prior else training.material.training
    views = [training.view(pictures[shown.picture], shown.mirrored) for shown in own]
    mean, deviation = training.latents.of(views, training.parts.device)
    clean = mean + deviation * torch.randn_like(mean)
    noise = training.objective.draw_noise(clean)
    timesteps = training.objective.draw_timesteps(len(own))
    noisy = training.objective.add_noise(clean, training.objective.perturbed(noise), timesteps)
    text = training.text_of([caption_of(training, pictures[shown.picture], shown) for shown in own])
    framing = training.latents.framing(views, training.parts.device)
    predicted = training.family.predict(training.parts, noisy, training.objective.told(timesteps), text, framing)
    places = training.latents.places(views, training.parts.device)
    losses = training.objective.losses(predicted, clean, noise, timesteps, places)
    if training.material.weights:
        weights = [training.material.weights.get(view.path, 1.0) for view in views]
        losses = losses * torch.tensor(weights).to(losses.device, non_blocking=True)
    return losses.sum() * float(counts)


def caption_of(training: Training, picture: Picture, shown: Exposure) -> str:
    """What is said of a picture this time."""
    if not shown.captioned:
        return ""
    dataset, material, caption = training.job.dataset, training.material, picture.caption or ""
    if shown.prior:
        return caption
    caption = worded(training.job, caption, derive(training.job.training.seed, "phrase", shown.number))
    if not dataset.varies_captions:
        return caption
    done = shown.number / (material.plan.exposures_per_epoch * material.total / material.plan.steps_per_epoch)
    draw = random.Random(derive(training.job.training.seed, "tags", shown.number))
    share = tags.grown(done, dataset.tag_warmup)
    return tags.vary(caption, draw, keep=dataset.keep_tokens, shuffle=dataset.shuffle_tags, dropout=dataset.tag_dropout, share=share)


def worded(job: TrainJob, caption: str, number: int) -> str:
    """The caption with the word that is taught in it, or a phrase around the word; as it is where none is taught."""
    return templates.fill(job.textual_inversion.templates, job.word, number, caption) if job.teaches_word else caption


def update(training: Training) -> torch.Tensor | None:
    """One optimiser update from the gathered gradients; returns their length before clipping, on the device."""
    parameters, limit = training.parameters, training.job.optimizer.max_grad_norm
    if training.accelerator.num_processes > 1:
        add_up_gradients(training.accelerator, parameters)
    norm = None
    if limit:
        training.scaler.unscale_(training.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.optimizer.zero_grad()
    for trainable in training.trainables:
        if trainable.after_update:
            trainable.after_update()
    return norm


def add_up_gradients(accelerator: Accelerator, parameters: Sequence[torch.nn.Parameter]) -> None:
    """Every process gets the sum of all gradients: one exchange of one vector, as adapters are small."""
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    flat = accelerator.reduce(flat, reduction="sum")
    for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = gradient.view_as(parameter)


def take_requests(run: RunFolder, accelerator: Accelerator, log_now: bool) -> tuple[set[str], float | None]:
    """What the user asked for since the last step, with "log" where the loss is to be fetched, and a new learning rate if one was.

    The same for all processes.
    """
    names = (*REQUESTS, "log")
    values = [0.0] * (len(names) + 1)
    if accelerator.is_main_process:
        values = [*(float(run.take_request(what)) for what in REQUESTS), float(log_now), run.take_rate() or 0.0]
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast

        # In double precision, so that every process computes with the same rate as one alone would.
        values = broadcast(torch.tensor(values, dtype=torch.float64, device=accelerator.device)).tolist()
    *flags, rate = values
    return {name for name, flag in zip(names, flags, strict=True) if flag}, rate or None


def change_rate(training: Training, learning_rate: float, step: int, voice: Voice) -> None:
    """From the next step on; the log remembers it, for a resume as well."""
    training.learning_rate = learning_rate
    optimizers.change_rate(training.optimizer, training.trainables, training.job.optimizer, learning_rate)
    voice.say(events.RateChanged(step=step, learning_rate=learning_rate))


def take_over_rate(training: Training, run: RunFolder, step: int, voice: Voice) -> None:
    """Go on at the rate that the user asked for last.

    If that was after the state that is resumed from, the steps up to there are made again at the new rate already: the last
    wish holds from the resume on, and the log says so.
    """
    changes = [event for event in events.read(run.events) if isinstance(event, events.RateChanged)]
    rate = changes[-1].learning_rate if changes else training.job.optimizer.learning_rate
    if changes and changes[-1].step > step:
        change_rate(training, rate, step, voice)
    else:
        # Not what the state's optimiser remembers, which is the rate of its own step.
        training.learning_rate = rate
        optimizers.change_rate(training.optimizer, training.trainables, training.job.optimizer, rate)


class Meter:
    """Gathers losses on the device and fetches them together."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.restart()

    def restart(self) -> None:
        """Begin anew after something that was no step, such as a preview."""
        self.losses: list[torch.Tensor] = []
        self.norm: torch.Tensor | None = None
        self.steps, self.began = 0, time.monotonic()

    def count(self, losses: list[torch.Tensor], norm: torch.Tensor | None) -> None:
        """One step: the losses of its batches, each already a share of the step's mean, and its gradient norm."""
        self.losses += losses
        self.norm = norm
        self.steps += 1

    def due(self) -> bool:
        return self.steps >= LOG_STEPS or time.monotonic() - self.began >= LOG_SECONDS

    def report(self, training: Training, step: int, epoch: int, voice: Voice) -> None:
        """Say the mean loss since the last report. Raises UserError if it is not a number."""
        if not self.steps:
            return
        total = torch.stack(self.losses).sum()
        if self.accelerator.num_processes > 1:
            total = self.accelerator.reduce(total, reduction="sum")
        loss, norm = torch.stack([total / self.steps, total if self.norm is None else self.norm]).tolist()
        seconds = (time.monotonic() - self.began) / self.steps
        if not math.isfinite(loss):
            raise UserError(not_finite(training, step, f"The loss is no longer a number between steps {step - self.steps + 1} and {step}"))
        voice.say(
            events.Step(
                step=step,
                epoch=epoch,
                loss=loss,
                learning_rates=optimizers.rates(training.optimizer, training.trainables, training.job.optimizer),
                seconds_per_step=seconds,
                grad_norm=norm if self.norm is not None and math.isfinite(norm) else None,
            ),
            note=f"step {step} of {training.material.total}  loss {loss:.4f}",
        )
        self.restart()


def check_finite(training: Training, step: int) -> None:
    """Raises UserError if a trained parameter is not a finite number: such weights must not be saved."""
    if not torch.stack([torch.isfinite(parameter).all() for parameter in training.parameters]).all().item():
        raise UserError(not_finite(training, step, f"The weights are no longer numbers after step {step}"))


def not_finite(training: Training, step: int, what: str) -> str:
    rate = training.learning_rate
    precision = "" if training.parts.dtype != torch.float16 else " or set model.precision to bfloat16 or float32"
    return f"{what}: lower optimizer.learning_rate (it is {rate:g}){precision}, in a new run; what was saved before is kept and good."


# ---------------------------------------------------------------- looking at it


@contextlib.contextmanager
def at_rest(training: Training) -> Iterator[None]:
    """For previews and validation: eval mode, the weights to keep, no gradients, and the random state of the training left as it is."""
    modules = [training.parts.denoiser, *training.parts.text_encoders]
    modes = [module.training for module in modules]
    devices = [training.parts.device] if training.parts.device.type == "cuda" else []
    for module in modules:
        module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices), training.averaged():
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)


def preview(training: Training, run: RunFolder, step: int, voice: Voice, stop: Callable[[], None]) -> None:
    """Paint the preview prompts with the weights as they are: samples/step-000100_01.png and so on.

    `stop` is called between the steps of the painting; what it raises leaves no picture of this step behind.
    """
    settings, material = training.job.preview, training.material
    if not settings.prompts:
        return
    if training.accelerator.is_main_process:
        voice.stage("Painting previews", len(settings.prompts))
        requests = [
            ImageRequest(
                prompt=prompt,
                negative_prompt=settings.negative_prompt,
                seed=(settings.seed + number) % 2**32,
                sampler=settings.sampler,
                steps=settings.steps,
                cfg_scale=settings.cfg_scale,
                width=settings.width or material.resolution // 8 * 8,
                height=settings.height or material.resolution // 8 * 8,
                clip_skip=training.job.model.clip_skip,
            )
            for number, prompt in enumerate(settings.prompts)
        ]
        try:
            images = paint(training, requests, stop)
        except UserError as error:
            # What went wrong with looking at it (no memory for such a size, say) must not end the training.
            voice.warn(f"There are no previews of step {step}: {error}")
            images = []
        files = []
        for number, (request, image) in enumerate(zip(requests, images), start=1):  # noqa: B905 - all or none
            file = run.samples / f"step-{step:06d}_{number:02d}.png"
            name, tag = file_name(training.job.name), TAGS.get(training.method.modelspec) if step else None
            worn = {"lora": name if tag == "lora" else None, "hypernets": [(name, 1.0)] if tag == "hypernet" else []}
            save_png(image, file, infotext(request, training.parts.base_name, training.parts.base_hash, **worn))
            files.append(_relative(file, run))
        if files:
            voice.say(events.Sampled(step=step, files=files))
    training.accelerator.wait_for_everyone()


def paint(training: Training, requests: list[ImageRequest], stop: Callable[[], None]) -> list[Image.Image]:
    for module in idle_modules(training):
        module.to(training.parts.device)
    try:
        with at_rest(training):
            encodings = training.preview_encodings
            return sample(training.family, training.parts, requests, on_step=lambda done, total: stop(), encodings=encodings)
    finally:
        away(training)


def validate(training: Training, step: int, voice: Voice, stop: Callable[[], None]) -> None:
    """Mean loss on the held-out pictures at noise and timesteps that are the same every time.

    Picture p's draw d gets the middle of stratum d * pictures + p of all timesteps, so all parts of the schedule are covered
    evenly and the figure moves only with the weights. `stop` is called between batches.
    """
    pictures, draws = training.material.held_out, training.job.validation.draws
    if not pictures or not training.job.validation.every_epochs:
        return
    if training.accelerator.is_main_process:
        losses = []
        device, count = training.parts.device, training.objective.timesteps
        rows = [(place, draw) for place in range(len(pictures)) for draw in range(draws)]
        rows.sort(key=lambda row: (training.material.shapes[pictures[row[0]].path], row))
        with at_rest(training):
            for _, group in itertools.groupby(rows, key=lambda row: training.material.shapes[pictures[row[0]].path]):
                for chosen in _chunks(list(group), training.job.training.batch_size):
                    stop()
                    views = [training.view(pictures[place]) for place, _ in chosen]
                    clean, _ = training.latents.of(views, device)
                    shape = clean.shape[1:]
                    noise = torch.stack([fixed_noise(training, pictures[place], draw, shape) for place, draw in chosen]).to(device)
                    strata = [(draw * len(pictures) + place + 0.5) / len(rows) for place, draw in chosen]
                    timesteps = torch.tensor([int(stratum * count) for stratum in strata]).to(device)
                    noisy = training.objective.add_noise(clean, noise, timesteps)
                    text = training.text_of([worded(training.job, pictures[place].caption or "", draw) for place, draw in chosen])
                    framing = training.latents.framing(views, device)
                    predicted = training.family.predict(training.parts, noisy, training.objective.told(timesteps), text, framing)
                    places = training.latents.places(views, device)
                    losses.append(training.objective.losses(predicted, clean, noise, timesteps, places))
        voice.say(events.Validated(step=step, loss=torch.cat(losses).mean().item()))
    training.accelerator.wait_for_everyone()


def _chunks(rows: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def fixed_noise(training: Training, picture: Picture, draw: int, shape: torch.Size) -> torch.Tensor:
    seed = derive(training.job.training.seed, "validation", training.material.keys[picture.path], draw)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- keeping it


def names_due(training: Training, final: Path, step: int, epoch_done: int | None, asked: bool) -> list[Path]:
    """The files in which the LoRA of this step is to be kept: by step, by epoch, and the result itself."""
    saving, last = training.job.saving, step == training.material.total
    by_step = due(step, saving.every_steps, None, 0) or (asked and not last)
    by_epoch = epoch_done is not None and due(step, 0, epoch_done, saving.every_epochs)
    return [
        *([step_file(final, step)] if by_step else []),
        *([final.with_name(f"{final.stem}-epoch-{epoch_done:02d}.safetensors")] if by_epoch else []),
        *([final] if last else []),
    ]


def step_file(final: Path, step: int) -> Path:
    return final.with_name(f"{final.stem}-step-{step:05d}.safetensors")


def save_weights(training: Training, run: RunFolder, file: Path, step: int, epoch: int, voice: Voice) -> None:
    if not training.accelerator.is_main_process:
        return
    job, material = training.job, training.material
    counts = {
        "pictures": len(material.training),
        "held_out": len(material.held_out),
        "steps_per_epoch": material.plan.steps_per_epoch,
        "total_steps": material.total,
        "warmup_steps": warmup_updates(material.total, job.schedule.warmup_share),
        "resolution": material.resolution,
    }
    captions = key_of(*sorted(picture.caption or "" for picture in material.training))[:12]
    # The job was written when the run was begun: a resumed training keeps that time.
    began = run.run_yaml.stat().st_mtime if run.run_yaml.exists() else time.time()
    about = metadata(at_rate_of_now(training), training.family, training.parts, step, epoch, began, counts, captions)
    with training.averaged():
        training.method.save(training.family, training.parts, file, about, job.saving.precision, job.saving.layout)
    voice.say(events.Saved(step=step, epoch=epoch, file=_relative(file, run)))


def read_back(training: Training, run: RunFolder, file: Path, voice: Voice) -> None:
    """Try the finished file with the readers that its users have. Raises UserError if one of them loses a part of it."""
    if not training.accelerator.is_main_process:
        return
    voice.stage("Reading the file back")
    family, parts, method = training.family, training.parts, training.method
    for module in idle_modules(training):
        module.to(parts.device)
    try:
        with training.averaged():
            result = roundtrip.check_trained(family, parts, method, file, training.job.saving.layout, training.material.trigger)
    finally:
        away(training)
    voice.say(events.ReadBack(file=_relative(file, run), ours=result.ours, diffusers=result.diffusers))


def at_rate_of_now(training: Training) -> TrainJob:
    """The job with the learning rate that was last asked for: that is what its file tells."""
    settings = training.job.optimizer
    if training.learning_rate == settings.learning_rate:
        return training.job
    text_rate = (settings.text_encoder_learning_rate or 0.0) * training.learning_rate / settings.learning_rate
    rates = {"optimizer.learning_rate": training.learning_rate, "optimizer.text_encoder_learning_rate": min(1.0, text_rate) or None}
    return training.job.changed(**rates)


def save_state(training: Training, run: RunFolder, step: int, epoch: int, voice: Voice) -> None:
    """Write all that the next start needs to go on with the same bits."""
    if not training.accelerator.is_main_process:
        return
    averages = training.average.state() if training.average else {}
    state = Checkpoint(
        step=step,
        tensors={**training.named_parameters, **{AVERAGE + name: value for name, value in averages.items()}},
        optimizer={"optimizer": training.optimizer.state_dict(), "scaler": training.scaler.state_dict()},
        about={"fingerprint": training.material.fingerprint(), "total": training.material.total},
    )
    place = checkpoints.save(run.checkpoints, state, training.job.saving.keep_checkpoints)
    voice.say(events.Saved(step=step, epoch=epoch, file=_relative(place, run)))


def resume(training: Training, run: RunFolder, voice: Voice) -> int:
    """Take over the newest good checkpoint; returns the number of steps that are done."""
    with training.accelerator.main_process_first():
        state = checkpoints.newest(run.checkpoints, voice.warn)
    if state is None:
        return 0
    if state.about.get("fingerprint") != training.material.fingerprint():
        voice.warn(
            f"The dataset or the number of processes has changed since step {state.step} was saved: "
            "the training goes on from there, but not as it would have."
        )
    named, saved = training.named_parameters, {name: value for name, value in state.tensors.items() if not name.startswith(AVERAGE)}
    if {name: tensor.shape for name, tensor in named.items()} != {name: tensor.shape for name, tensor in saved.items()}:
        raise UserError(f"The saved state of step {state.step} in {run.path} belongs to another model or rank: choose a new output folder.")
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(saved[name])
    if training.average:
        training.average.load({name.removeprefix(AVERAGE): value for name, value in state.tensors.items() if name.startswith(AVERAGE)})
    optimizers.load_state(training.optimizer, state.optimizer["optimizer"])
    training.scaler.load_state_dict(state.optimizer["scaler"])
    return min(state.step, training.material.total)


class _Stopped(Exception):
    """Stop was asked for between the steps: while pictures were encoded or painted."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


def _stop_asked(run: RunFolder, accelerator: Accelerator, step: int) -> Callable[[], None]:
    """Raises _Stopped on a request; with several processes the first step sees to it, where all of them listen."""

    def look() -> None:
        if accelerator.num_processes == 1 and run.take_request("stop"):
            raise _Stopped(step)

    return look


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _relative(path: Path, run: RunFolder) -> str:
    return path.relative_to(run.path).as_posix()
