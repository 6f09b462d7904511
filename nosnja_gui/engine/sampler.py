"""Painting pictures: one sampler for previews, grids and evaluation, so what was previewed is what is plotted.

A picture depends on its own request only: its noise comes from its own seed, drawn on the CPU, and neither the
pictures beside it in a batch nor the global random state touch it. Knows nothing of adapters' files or of runs.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nosnja_gui.families import Family, Parts, TextEncoding
from nosnja_gui.files import write_atomic
from nosnja_gui.infotext import Network, of_picture, write
from nosnja_gui.settings import UserError

if TYPE_CHECKING:
    from PIL import Image

MAX_CHUNKS = 4
"""Prompts may be this many times 75 tokens long; what is beyond is cut off."""
DECODED_AT_ONCE = 4
"""Decoding needs more memory per picture than denoising does."""
SHARED_SETTINGS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "timestep_spacing",
    "steps_offset",
    "set_alpha_to_one",
)
"""What is taken over from the model's own schedule; the rest belongs to the kind of sampler it was saved with."""


@dataclass(frozen=True)
class SamplerKind:
    module: str
    cls: str
    options: dict[str, Any]


SAMPLERS: dict[str, SamplerKind] = {
    "ddim": SamplerKind("scheduling_ddim", "DDIMScheduler", {"clip_sample": False}),
    "euler": SamplerKind("scheduling_euler_discrete", "EulerDiscreteScheduler", {}),
    "euler_a": SamplerKind("scheduling_euler_ancestral_discrete", "EulerAncestralDiscreteScheduler", {}),
    "dpm++_2m": SamplerKind("scheduling_dpmsolver_multistep", "DPMSolverMultistepScheduler", {}),
    "dpm++_2m_karras": SamplerKind("scheduling_dpmsolver_multistep", "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": SamplerKind("scheduling_unipc_multistep", "UniPCMultistepScheduler", {}),
    "heun": SamplerKind("scheduling_heun_discrete", "HeunDiscreteScheduler", {}),
}


FLOW_SAMPLERS: dict[str, SamplerKind] = {
    "euler": SamplerKind("scheduling_flow_match_euler_discrete", "FlowMatchEulerDiscreteScheduler", {}),
    "heun": SamplerKind("scheduling_flow_match_heun_discrete", "FlowMatchHeunDiscreteScheduler", {}),
    "dpm++_2m": SamplerKind("scheduling_dpmsolver_multistep", "DPMSolverMultistepScheduler", {"use_flow_sigmas": True}),
    "unipc": SamplerKind("scheduling_unipc_multistep", "UniPCMultistepScheduler", {"use_flow_sigmas": True}),
}
"""What there is for models of flow matching; others of the list fall back to the nearest of these."""
NEAREST_FLOW_SAMPLER = {"dpm++_2m_karras": "dpm++_2m", "ddim": "euler", "euler_a": "euler"}


@dataclass(frozen=True)
class ImageRequest:
    """Everything one picture depends on, beside the model and its adapters."""

    prompt: str
    """Words may be weighted as in A1111: (word:1.3), (word), [word]; see emphasis.py."""
    negative_prompt: str = ""
    seed: int = 1
    sampler: str = "dpm++_2m_karras"
    steps: int = 25
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    clip_skip: int = 1


@torch.inference_mode()
def sample(
    family: Family,
    parts: Parts,
    requests: Sequence[ImageRequest],
    batch_size: int = 4,
    on_step: Callable[[int, int], None] | None = None,
    encodings: dict | None = None,
) -> list[Image.Image]:
    """Paint the requests, in their order. Those of equal sampler, steps and size share batches of up to `batch_size`.

    `on_step(done, total)` is called after every evaluation of a batch, counted over all batches. `encodings` is the caller's
    cache of text encodings: kept between calls, it saves encoding a prompt again; it notices changed text encoders by itself.
    Raises UserError for a request that cannot be painted, where memory does not suffice for a single picture, and where a
    picture comes out as anything but finite numbers.
    """
    problems = list(dict.fromkeys(problem for request in requests for problem in _problems(family, request)))
    if problems:
        raise UserError("\n".join(problems))
    with evaluating(parts):
        texts = _encode(family, parts, requests, {} if encodings is None else encodings)
        batches = _batches(requests, texts, batch_size)
        evaluations = [len(make_scheduler(parts, requests[batch[0]].sampler, requests[batch[0]].steps).timesteps) for batch in batches]
        pictures: dict[int, Image.Image] = {}
        for number, batch in enumerate(batches):
            before, total = sum(evaluations[:number]), sum(evaluations)
            step = None if on_step is None else (lambda done, before=before, total=total: on_step(before + done, total))
            painted = _paint(family, parts, [requests[place] for place in batch], [texts[place] for place in batch], step)
            pictures.update(zip(batch, painted, strict=True))
    return [pictures[place] for place in range(len(requests))]


def make_scheduler(parts: Parts, sampler: str, steps: int) -> Any:
    """A fresh diffusers scheduler of this kind over the model's own noise schedule, with its timesteps set."""
    if parts.prediction_type == "flow":
        return _flow_scheduler(parts, sampler, steps)
    kind = SAMPLERS[sampler]
    cls = getattr(importlib.import_module(f"diffusers.schedulers.{kind.module}"), kind.cls)
    known = inspect.signature(cls.__init__).parameters
    shared = {key: parts.noise_schedule[key] for key in SHARED_SETTINGS if key in parts.noise_schedule and key in known}
    scheduler = cls(**{**shared, "prediction_type": parts.prediction_type, **kind.options})
    scheduler.set_timesteps(steps, device=parts.device)
    return scheduler


def _flow_scheduler(parts: Parts, sampler: str, steps: int) -> Any:
    kind = FLOW_SAMPLERS[NEAREST_FLOW_SAMPLER.get(sampler, sampler)]
    cls = getattr(importlib.import_module(f"diffusers.schedulers.{kind.module}"), kind.cls)
    shift = float(parts.noise_schedule.get("shift") or 1.0)
    shifted = {"flow_shift": shift, "prediction_type": "flow_prediction"} if "use_flow_sigmas" in kind.options else {"shift": shift}
    scheduler = cls(**{**shifted, **kind.options})
    scheduler.set_timesteps(steps, device=parts.device)
    return scheduler


def _problems(family: Family, request: ImageRequest) -> Iterator[str]:
    if request.sampler not in SAMPLERS:
        yield f"There is no sampler '{request.sampler}'; known: {', '.join(SAMPLERS)}."
    for side, value in (("Width", request.width), ("Height", request.height)):
        if value < family.latent_factor or value % family.latent_factor:
            yield f"{side} must be a multiple of {family.latent_factor} pixels (got {value})."
    if request.steps < 1:
        yield f"Steps must be at least 1 (got {request.steps})."
    if request.cfg_scale < 1:
        yield f"CFG scale must be at least 1 (got {request.cfg_scale:g})."


@contextlib.contextmanager
def evaluating(parts: Parts) -> Iterator[None]:
    """Dropout off while painting, also in the middle of a training; every module goes back into the mode it was in."""
    roots = [module for module in (parts.denoiser, parts.vae, *parts.text_encoders) if module is not None]
    training = [module for root in roots for module in root.modules() if module.training]
    for root in roots:
        root.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _encode(family: Family, parts: Parts, requests: Sequence[ImageRequest], encodings: dict) -> list[tuple[TextEncoding, TextEncoding]]:
    """(prompt, negative prompt) per request, both of the same number of tokens, (1, tokens, width) each."""
    state = _text_state(family, parts)

    def encoding(prompt: str, clip_skip: int) -> TextEncoding:
        key = (prompt, clip_skip, state)
        if key not in encodings:
            # One at a time, so that a picture can't depend on which prompts happened to be encoded together.
            encodings[key] = family.encode_prompts(parts, [prompt], clip_skip, max_chunks=MAX_CHUNKS, weighted=True)
        return encodings[key]

    def of_equal_length(request: ImageRequest) -> tuple[TextEncoding, TextEncoding]:
        positive, negative = encoding(request.prompt, request.clip_skip), encoding(request.negative_prompt, request.clip_skip)
        if positive.hidden.shape[1] == negative.hidden.shape[1]:
            return positive, negative
        tokens, empty = max(positive.hidden.shape[1], negative.hidden.shape[1]), encoding("", request.clip_skip)
        return _lengthened(positive, tokens, empty), _lengthened(negative, tokens, empty)

    return [of_equal_length(request) for request in requests]


def _lengthened(text: TextEncoding, tokens: int, empty: TextEncoding) -> TextEncoding:
    hidden = text.hidden
    while hidden.shape[1] < tokens:
        hidden = torch.cat([hidden, empty.hidden], dim=1)
    return TextEncoding(hidden, text.pooled)


def _text_state(family: Family, parts: Parts) -> tuple:
    """Differs whenever the text encoders or what is put onto them does: sums of their weights, and the adapters' weights.

    New words are few numbers: all of them count, as a step can leave their sum as it was.
    """
    tables = [place.token_embedding for place in family.word_tables(parts)]
    taught = [rows.detach().cpu().numpy().tobytes() for table in tables for rows in getattr(table, "rows", {}).values()]
    sums = [parameter.detach().sum(dtype=torch.float64) for encoder in parts.text_encoders for parameter in encoder.parameters()]
    worn = sorted((method, *sorted(names.items())) for method, names in parts.worn.items())
    return (*(torch.stack(sums).tolist() if sums else ()), *taught, *sorted(parts.words), *worn)


def _batches(requests: Sequence[ImageRequest], texts: list[tuple[TextEncoding, TextEncoding]], batch_size: int) -> list[list[int]]:
    """Places of the requests that go through the denoiser together."""
    groups: dict[tuple, list[int]] = {}
    for place, request in enumerate(requests):
        tokens = texts[place][0].hidden.shape[1]
        key = (request.sampler, request.steps, request.width, request.height, request.cfg_scale == 1, tokens)
        groups.setdefault(key, []).append(place)
    return [places[start : start + batch_size] for places in groups.values() for start in range(0, len(places), batch_size)]


def _paint(
    family: Family,
    parts: Parts,
    requests: list[ImageRequest],
    texts: list[tuple[TextEncoding, TextEncoding]],
    on_step: Callable[[int], None] | None,
) -> list[Image.Image]:
    """One batch; where memory doesn't suffice, its halves, one after the other."""
    try:
        latents = _denoise(family, parts, requests, texts, on_step)
        pixels = torch.cat([family.decode_latents(parts, some) for some in latents.split(DECODED_AT_ONCE)])
    except torch.OutOfMemoryError:
        if len(requests) == 1:
            size = f"{requests[0].width}x{requests[0].height}"
            raise UserError(f"A picture of {size} doesn't fit into the GPU's memory: choose a smaller size.") from None
        pixels = None
    if pixels is None:  # outside of the except block, whose traceback would keep the tensors alive
        torch.cuda.empty_cache()
        middle = len(requests) // 2
        first = _paint(family, parts, requests[:middle], texts[:middle], on_step)
        return first + _paint(family, parts, requests[middle:], texts[middle:], on_step)
    _check_finite(pixels, requests, parts)
    return to_pictures(pixels)


def _denoise(
    family: Family,
    parts: Parts,
    requests: list[ImageRequest],
    texts: list[tuple[TextEncoding, TextEncoding]],
    on_step: Callable[[int], None] | None,
) -> torch.Tensor:
    """Latents (batch, channels, height/8, width/8), float32.

    Guidance: uncond + cfg_scale * (cond - uncond), Ho and Salimans 2022, Eq. 6.
    """
    first = requests[0]
    scheduler = make_scheduler(parts, first.sampler, first.steps)
    generators = [torch.Generator("cpu").manual_seed(request.seed) for request in requests]
    shape = (parts.denoiser.config.in_channels, first.height // family.latent_factor, first.width // family.latent_factor)
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    latents = noise.to(parts.device) * getattr(scheduler, "init_noise_sigma", 1.0)

    guided = first.cfg_scale != 1
    scale = torch.tensor([request.cfg_scale for request in requests], device=parts.device).reshape(-1, 1, 1, 1)
    text = _stack([negative for _, negative in texts] * guided + [positive for positive, _ in texts])
    # Ancestral samplers draw noise at every step: each picture from its own generator.
    extra = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}

    for number, timestep in enumerate(scheduler.timesteps, start=1):
        # Flows are not scaled.
        noisy = scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents
        noisy = torch.cat([noisy, noisy]) if guided else noisy
        predicted = family.predict(parts, noisy, timestep.expand(len(noisy)), text).float()
        if guided:
            unconditional, conditional = predicted.chunk(2)
            predicted = unconditional + scale * (conditional - unconditional)
        latents = scheduler.step(predicted, timestep, latents, return_dict=False, **extra)[0]
        if on_step is not None:
            on_step(number)
    _check_finite(latents, requests, parts)
    return latents


def _stack(texts: list[TextEncoding]) -> TextEncoding:
    pooled = [text.pooled for text in texts if text.pooled is not None]
    return TextEncoding(torch.cat([text.hidden for text in texts]), torch.cat(pooled) if pooled else None)


def _check_finite(values: torch.Tensor, requests: list[ImageRequest], parts: Parts) -> None:
    fine = torch.isfinite(values).flatten(1).all(dim=1).tolist()
    if all(fine):
        return
    seed, precision = requests[fine.index(False)].seed, str(parts.dtype).removeprefix("torch.")
    remedy = "set model.precision to float32" if parts.dtype != torch.float32 else "lower the LoRA's weight or choose an earlier epoch"
    raise UserError(f"The picture of seed {seed} is not made of finite numbers (computed in {precision}) and would be black: {remedy}.")


def to_pictures(pixels: torch.Tensor) -> list[Image.Image]:
    """pixels (batch, 3, height, width) in [-1, 1] -> RGB pictures."""
    from PIL import Image

    levels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(array) for array in levels.permute(0, 2, 3, 1).cpu().numpy()]


def infotext(
    request: ImageRequest,
    base_name: str,
    base_hash: str,
    lora: str | None = None,
    weight: float | None = None,
    lora_hash: str | None = None,
    *,
    loras: Sequence[tuple[str, float, str]] = (),
    hypernets: Sequence[tuple[str, float]] = (),
    vae: str = "",
) -> str:
    """The text that a picture is kept with. `loras`: name, weight and hash of each, where there are more than the one `lora`."""
    worn = [*([] if lora is None else [(lora, 1.0 if weight is None else weight, lora_hash or "")]), *loras]
    return write(
        of_picture(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            seed=request.seed,
            sampler=request.sampler,
            steps=request.steps,
            cfg_scale=request.cfg_scale,
            width=request.width,
            height=request.height,
            clip_skip=request.clip_skip,
            model=base_name,
            model_hash=base_hash,
            loras=[Network(name, weight) for name, weight, _ in worn],
            lora_hashes={name: digits for name, _, digits in worn},
            hypernets=[Network(name, weight) for name, weight in hypernets],
            vae=vae,
        )
    )


def save_png(image: Image.Image, path: Path, text: str) -> None:
    """Write the picture atomically, with `text` where A1111 looks for it."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", text)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    write_atomic(path, buffer.getvalue())
