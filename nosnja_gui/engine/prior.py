"""Class pictures: what the base model itself paints of the class, shown while training so that it doesn't forget (DreamBooth).

They are made once for a model, prompt and size, and lie in the workspace for the next training and for whoever wants to look at them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from nosnja_gui.dataset import Picture
from nosnja_gui.dataset.batches import derive
from nosnja_gui.dataset.buckets import square_size
from nosnja_gui.engine.cache import key_of
from nosnja_gui.engine.sampler import ImageRequest, infotext, sample, save_png
from nosnja_gui.engine.voice import Voice
from nosnja_gui.families import Family, Parts
from nosnja_gui.files import write_atomic
from nosnja_gui.jobs import TrainJob
from nosnja_gui.models import fingerprint
from nosnja_gui.workspace import Workspace, file_name

FOLDER = "class-pictures"
SAMPLER = "dpm++_2m_karras"
PAINTED_AT_ONCE = 4


def planned(
    job: TrainJob, prompts: Sequence[str], model: Path, vae: Path | None, resolution: int, workspace: Workspace
) -> tuple[Picture, ...]:
    """The class pictures of a job, painted already or not: the prompts in turn, each picture with a seed of its own."""
    width, height = square_size(resolution)
    about = key_of(fingerprint(model), vae and fingerprint(vae), list(prompts), width, height, job.prior.steps, job.prior.cfg_scale)
    if job.memory.base_precision != "as_model":  # a rounded model paints others
        about = key_of(about, job.memory.base_precision)
    folder = workspace.root / FOLDER / f"{file_name(prompts[0], longest=40)}-{about[:12]}"
    return tuple(
        Picture(folder / f"{number + 1:04}.png", prompts[number % len(prompts)], width, height) for number in range(job.prior.images)
    )


def paint(job: TrainJob, pictures: Sequence[Picture], family: Family, parts: Parts, voice: Voice, stop: Callable[[], None]) -> None:
    """Paint those that are not there yet; each is kept at once, with its prompt in a .txt beside it."""
    missing = [picture for picture in pictures if not picture.path.is_file()]
    if not missing or not job.prior.painted:
        return
    voice.stage("Painting class pictures", len(missing))
    encodings: dict = {}
    for start in range(0, len(missing), PAINTED_AT_ONCE):
        batch = missing[start : start + PAINTED_AT_ONCE]
        requests = [
            ImageRequest(
                prompt=picture.caption or "",
                seed=derive(0, "class picture", picture.path.name) % 2**32,
                sampler=SAMPLER,
                steps=job.prior.steps,
                cfg_scale=job.prior.cfg_scale,
                width=picture.width // family.latent_factor * family.latent_factor,
                height=picture.height // family.latent_factor * family.latent_factor,
                clip_skip=job.model.clip_skip,
            )
            for picture in batch
        ]
        images = sample(family, parts, requests, PAINTED_AT_ONCE, lambda done, total: stop(), encodings)
        for picture, request, image in zip(batch, requests, images, strict=True):
            write_atomic(picture.path.with_suffix(".txt"), request.prompt + "\n")
            save_png(image, picture.path, infotext(request, parts.base_name, parts.base_hash))
        voice.advance(len(batch))
