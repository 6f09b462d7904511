"""XYZ plots: paint every cell of a grid once, keep each picture under what decided it, and set them in a sheet.

A picture's file is called after the hash of everything that decides it. So a grid that was interrupted goes on, a grid that
got more values paints the new ones only, and cells that must look the same (LoRA weight 0, no LoRA) are painted once.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from nosnja_gui import gridpage, grids, infotext, sheet
from nosnja_gui.axes import Position
from nosnja_gui.engine import models
from nosnja_gui.engine.sampler import ImageRequest, sample, save_png
from nosnja_gui.engine.voice import Voice, interrupts, is_out_of_memory
from nosnja_gui.events import Cell as CellEvent
from nosnja_gui.events import Failed, Finished, Started, Stopped
from nosnja_gui.families import Family, Parts
from nosnja_gui.grids import GridPlan, Look
from nosnja_gui.jobs import GridJob
from nosnja_gui.methods import TAGS, method_of, put_on, set_weights, take_off
from nosnja_gui.models import fingerprint
from nosnja_gui.progress import Progress
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace, file_name

SECONDS_BETWEEN_RECORDS = 2.0
"""Failures are written down as they happen, but not a thousand times a minute."""


@dataclass(frozen=True)
class Picture:
    """One picture to be painted; equal ones have the same key."""

    key: str
    look: Look

    @property
    def model(self) -> Path:
        return self.look.model

    @property
    def loras(self) -> tuple[tuple[Path, float], ...]:
        return self.look.loras

    @property
    def request(self) -> ImageRequest:
        return _request(self.look)

    @property
    def state(self) -> tuple[Any, ...]:
        """Pictures of the same state can be painted together."""
        look = self.look
        return look.model, look.loras, look.sampler, look.steps, look.width, look.height


@dataclass
class Grid:
    """A checked grid: which pictures stand where, and what has become of them."""

    planned: GridPlan
    folder: Path
    pictures: dict[str, Picture]
    places: dict[Position, list[str]]
    """Keys of the pictures of each cell."""
    errors: dict[str, str] = field(default_factory=dict)
    painted: int = 0
    """Pictures that are there, or whose painting has failed."""
    seconds: float = 0.0
    """Spent on painting, and the work that was done in it."""
    work: float = 0.0
    pace: float | None = None
    """Of an earlier time, where nothing is painted in this one."""
    recorded: float = 0.0
    """When the record was last written, on the monotonic clock."""

    @property
    def job(self) -> GridJob:
        return self.planned.job

    def file(self, key: str) -> Path:
        return self.folder / grids.CELLS / f"{key}.png"

    @property
    def sheet(self) -> Path:
        return self.folder / f"{file_name(self.job.name)}.png"


def run_grid(job: GridJob, run: RunFolder, workspace: Workspace, progress: Progress | None = None) -> Path:
    """Paint the grid and return its sheet. What is painted already stays; a failed cell shows why, and the rest goes on.

    Raises UserError for problems found before the first picture (all of them), or if not one picture could be painted.
    """
    with run.lock(), interrupts(lambda: run.request("stop")):
        run.clear_requests()
        voice = Voice(run.log(), progress)
        try:
            return _run(job, run, workspace, voice)
        except BaseException as error:
            problem = _in_words(error, run)
            detail = "" if problem else traceback.format_exc()
            with contextlib.suppress(OSError):
                voice.say(Failed(message=str(problem or error) or type(error).__name__, detail=detail))
            if problem is None or problem is error:
                raise
            raise problem from error
        finally:
            if progress:
                progress.done()


def _in_words(error: BaseException, run: RunFolder) -> UserError | None:
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UserError(f"The disk of {run.path} is full: make room and start the grid again, the pictures painted so far stay.")
    return None


def _run(job: GridJob, run: RunFolder, workspace: Workspace, voice: Voice) -> Path:
    began = time.monotonic()
    voice.stage("Checking the grid")
    grid = prepare(job, workspace, run.path)
    grid.pace = (grids.read_record(run.path) or {}).get("pace")
    _write_record(grid)
    missing = [picture for key, picture in grid.pictures.items() if not _is_whole(grid.file(key))]
    grid.painted = len(grid.pictures) - len(missing)
    voice.say(Started(job="grid", total=len(grid.pictures), done=grid.painted, device=models.choose_device().type))
    lacking = {picture.key for picture in missing}
    for number, key in enumerate((key for key in grid.pictures if key not in lacking), start=1):
        voice.say(CellEvent(done=number, total=len(grid.pictures), file=_relative(grid, key), reused=True))
    stopped = _paint(grid, missing, run, voice)
    voice.stage("Setting the sheet")
    path = _write_sheet(grid)
    _write_record(grid)
    gridpage.write(run.path)
    if stopped:
        voice.say(Stopped(step=grid.painted))
    elif grid.errors and len(grid.errors) == len(grid.pictures):
        raise UserError("Not one picture could be painted: " + next(iter(grid.errors.values())))
    else:
        voice.say(Finished(files=[path.name, grids.RECORD, grids.PAGE], seconds=time.monotonic() - began))
    return path


# What is to be painted


def prepare(job: GridJob, workspace: Workspace, folder: Path) -> Grid:
    """Check everything and work out every picture, without loading a model. Raises UserError with all problems."""
    planned = grids.plan_job(job, workspace)
    keys: dict[Look, str] = {}
    pictures: dict[str, Picture] = {}
    places: dict[Position, list[str]] = {}
    for position, cell in planned.plan.cells.items():
        for look in planned.looks(cell):
            if look not in keys:
                keys[look] = _key(look, planned.model.precision)
                pictures.setdefault(keys[look], Picture(keys[look], look))
            places.setdefault(position, []).append(keys[look])
    return Grid(planned, folder, pictures, places)


def _request(look: Look) -> ImageRequest:
    return ImageRequest(**{name: getattr(look, name) for name in grids.LOOK_SETTINGS})


def _key(look: Look, precision: str) -> str:
    decisive = {
        "request": asdict(_request(look)),
        "model": fingerprint(look.model),
        "loras": [(lora_hash(file), weight) for file, weight in look.loras],
        "precision": precision,
        # Only where they say something: pictures painted before there was a choice keep their names.
        **({"vae": fingerprint(look.vae)} if look.vae else {}),
        **({"prediction_type": look.prediction_type} if look.prediction_type else {}),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:32]


def lora_hash(file: Path) -> str:
    """`infotext.lora_hash`, worked out once for a file as long as it stays the same."""
    stat = file.stat()
    return _lora_hash(file, stat.st_size, stat.st_mtime_ns)


@cache
def _lora_hash(file: Path, size: int, modified: int) -> str:
    return infotext.lora_hash(file)


def _is_whole(file: Path) -> bool:
    """Whether a picture is there and not damaged."""
    try:
        with Image.open(file) as opened:
            opened.verify()
        return True
    except (OSError, SyntaxError, ValueError):
        return False


# Painting


def _paint(grid: Grid, missing: Sequence[Picture], run: RunFolder, voice: Voice) -> bool:
    """Paint what is missing, model by model, LoRA by LoRA, in batches. True if a stop was requested."""
    for model, pictures in _grouped(missing, lambda picture: picture.model):
        if run.take_request("stop"):
            return True
        voice.stage(f"Loading {model.name}")
        device = models.choose_device()
        try:
            dtype = models.choose_dtype(grid.planned.model.precision, device)
            first = pictures[0].look
            family, parts = models.load_model(model, device, dtype, vae=first.vae, prediction_type=first.prediction_type)
        except UserError as error:
            _fail(grid, pictures, str(error), voice)
            continue
        voice.stage("Painting", total=len(pictures))
        if _paint_with(family, parts, grid, pictures, run, voice):
            return True
        del parts
        _free_memory()
    return False


def _paint_with(family: Family, parts: Parts, grid: Grid, pictures: Sequence[Picture], run: RunFolder, voice: Voice) -> bool:
    for loras, of_loras in _grouped(pictures, lambda picture: picture.loras):
        try:
            _put_on(family, parts, loras)
        except UserError as error:
            _fail(grid, of_loras, str(error), voice)
            continue
        # The text encoder may be part of the LoRA, so its encodings are kept no longer than it stays.
        encodings: dict = {}
        for _, alike in _grouped(of_loras, lambda picture: picture.state):
            for start in range(0, len(alike), grid.job.batch_size):
                if run.take_request("stop"):
                    return True
                _paint_batch(family, parts, grid, alike[start : start + grid.job.batch_size], encodings, voice)
    return False


def _put_on(family: Family, parts: Parts, loras: Sequence[tuple[Path, float]]) -> None:
    """Have exactly these LoRAs on, each loaded once for as long as it is needed."""
    wanted = {f"{file.stem}-{lora_hash(file)[:12]}": (file, weight) for file, weight in loras}
    on = {name for worn in parts.worn.values() for name in worn}
    for name in sorted(on - set(wanted)) if wanted else ():
        take_off(family, parts, name)
    for name, (file, _) in wanted.items():
        if name not in on:
            put_on(family, parts, file, name)
    set_weights(family, parts, {name: weight for name, (_, weight) in wanted.items()})


def _paint_batch(family: Family, parts: Parts, grid: Grid, batch: Sequence[Picture], encodings: dict, voice: Voice) -> None:
    began = time.monotonic()
    try:
        images = sample(family, parts, [picture.request for picture in batch], batch_size=len(batch), encodings=encodings)
    except Exception as error:
        _free_memory()
        if len(batch) > 1:
            # One of them may be to blame, or the batch is too large for the memory: each on its own.
            voice.warn(f"{_reason(error)} Painting {len(batch)} pictures one by one instead.")
            for picture in batch:
                _paint_batch(family, parts, grid, [picture], encodings, voice)
            return
        _fail(grid, batch, _reason(error), voice)
        return
    for picture, image in zip(batch, images, strict=True):
        save_png(image, grid.file(picture.key), _infotext(picture, parts))
    grid.seconds += time.monotonic() - began
    grid.work += grids.work_of(picture.look for picture in batch)
    for picture in batch:
        _count(grid, picture.key, voice)


def _infotext(picture: Picture, parts: Parts) -> str:
    vae = picture.look.vae
    worn: dict[str, list[tuple[Path, float]]] = {}
    for file, weight in picture.loras:
        worn.setdefault(TAGS.get(method_of(file).modelspec, ""), []).append((file, weight))
    told = infotext.of_picture(
        **asdict(picture.request),
        model=parts.base_name,
        model_hash=parts.base_hash,
        loras=[infotext.Network(file.stem, weight) for file, weight in worn.get("lora", [])],
        lora_hashes={file.stem: lora_hash(file)[:12] for file, _ in worn.get("lora", [])},
        hypernets=[infotext.Network(file.stem, weight) for file, weight in worn.get("hypernet", [])],
        vae=vae.name if vae else "",
        vae_hash=infotext.vae_hash(vae) if vae else "",
    )
    return infotext.write(told)


def _reason(error: Exception) -> str:
    """Why a picture failed, for its tile."""
    if is_out_of_memory(error):
        return "The memory ran out: lower the batch size or the size of the pictures."
    if isinstance(error, UserError):
        return str(error)
    return f"{type(error).__name__}: {error}".rstrip(": .") + "."


def _fail(grid: Grid, pictures: Iterable[Picture], message: str, voice: Voice) -> None:
    for picture in pictures:
        grid.errors[picture.key] = message
        _count(grid, picture.key, voice)
    if time.monotonic() - grid.recorded > SECONDS_BETWEEN_RECORDS:
        _write_record(grid)


def _count(grid: Grid, key: str, voice: Voice) -> None:
    grid.painted += 1
    voice.say(CellEvent(done=grid.painted, total=len(grid.pictures), file=_relative(grid, key), error=grid.errors.get(key)))
    if voice.progress:
        voice.progress.advance(note=f"{len(grid.errors)} failed" if grid.errors else "")


def _relative(grid: Grid, key: str) -> str:
    return grid.file(key).relative_to(grid.folder).as_posix()


def _grouped(pictures: Sequence[Picture], by: Callable[[Picture], Any]) -> list[tuple[Any, list[Picture]]]:
    """Groups in the order in which they first appear."""
    groups: dict[Any, list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(by(picture), []).append(picture)
    return list(groups.items())


def _free_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# The sheet


def _write_sheet(grid: Grid) -> Path:
    tiles: dict[Position, sheet.Tile] = {}
    for position, keys in grid.places.items():
        error = next((grid.errors[key] for key in keys if key in grid.errors), "")
        files = tuple(grid.file(key) for key in keys if grid.file(key).is_file())
        tiles[position] = sheet.Tile(files, error)
    axes = tuple(sheet.AxisLabels(axis.title, axis.labels) if axis else None for axis in grid.planned.plan.axes)
    count = len(grid.places)
    failed = sum(bool(tile.error) for tile in tiles.values())
    open_cells = sum(not tile.pictures and not tile.error for tile in tiles.values())
    remarks = [f"{count} cells"] + [f"{n} {what}" for n, what in ((failed, "failed"), (open_cells, "not painted yet")) if n]
    image = sheet.compose(axes, tiles, grid.job.name, grids.subtitle(grid.planned), "Nošnja · " + " · ".join(remarks))
    save_png(image, grid.sheet, _sheet_infotext(grid))
    return grid.sheet


def _sheet_infotext(grid: Grid) -> str:
    """The first picture's parameters and, as A1111 writes them, the axes."""
    text = ""
    for keys in grid.places.values():
        if grid.file(keys[0]).is_file():
            with Image.open(grid.file(keys[0])) as opened:
                text = opened.info.get("parameters", "")
            break
    return infotext.with_axes(text, [axis and (axis.name, axis.title, axis.given) for axis in grid.planned.plan.axes])


def _write_record(grid: Grid) -> None:
    """At the start already, so that the window shows where pictures are going to be."""
    files = {position: [_relative(grid, key) for key in keys] for position, keys in grid.places.items()}
    errors = {_relative(grid, key): message for key, message in grid.errors.items()}
    pace = grid.seconds / grid.work if grid.work else grid.pace
    grids.write_record(grid.folder, grid.planned, files, errors, grid.sheet.name, pace)
    grid.recorded = time.monotonic()
