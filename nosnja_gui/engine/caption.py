"""Captioning a dataset: one long job that writes as it goes, so that an interruption loses a few pictures at most."""

import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from nosnja_gui import dataset as datasets
from nosnja_gui.captioners import CAPTIONERS, Captioner, LoadedCaptioner
from nosnja_gui.dataset import Dataset, Picture, images
from nosnja_gui.engine.models import choose_device, choose_dtype
from nosnja_gui.events import Captioned, Event, EventLog, Failed, Finished, Stage, Started, Stopped, Warned
from nosnja_gui.jobs import CaptionJob, workspace_path
from nosnja_gui.progress import Progress
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace

WRITE_EVERY_PICTURES = 32
WRITE_EVERY_SECONDS = 5.0
"""Captions are written when both have passed: reading a large dataset again for every few pictures would cost more than BLIP."""


def caption_dataset(
    job: CaptionJob,
    workspace: Workspace,
    log: EventLog | None = None,
    progress: Progress | None = None,
    stop_asked: Callable[[], bool] = lambda: False,
) -> dict[str, str]:
    """Caption a dataset in its own layout and return the new captions by picture name.

    The whole job is one version for undo. A picture that can't be read is reported and the rest go on. `stop_asked` is
    looked at between batches; what was captioned by then is written. Raises UserError for a missing dataset, picture or
    model and where nothing could be captioned.
    """
    tell = log.append if log else lambda event: None
    written: dict[str, str] = {}
    try:
        _caption(job, workspace, written, tell, progress, stop_asked)
    except KeyboardInterrupt:
        tell(Stopped(step=len(written)))
        raise
    except UserError as error:
        tell(Failed(message=str(error)))
        raise
    except Exception as error:
        tell(Failed(message=f"{type(error).__name__}: {error}", detail=traceback.format_exc()))
        raise
    finally:
        if progress:
            progress.done()
    return written


def find_captioner_model(captioner: Captioner, text: str, models: Path) -> Path:
    """The captioner's folder: by path, by name in the workspace, by hub id in the hub's cache; found where `text` is empty.

    Raises UserError where there is none, or several to choose from.
    """
    if text.strip():
        given = workspace_path(text.strip(), models)
        cached = None if given.exists() else _in_hub_cache(text.strip())
        if not given.is_dir() and cached is None:
            raise UserError(f"There is no captioner model {given}: give the folder of {captioner.default_model}.")
        return cached or given
    folders = sorted(folder for folder in models.iterdir() if folder.is_dir()) if models.is_dir() else []
    fitting = [folder for folder in folders if captioner.recognises(folder)]
    usual = [folder for folder in fitting if folder.name == captioner.default_model.split("/")[-1]]
    if len(fitting) > 1 and not usual:
        names = ", ".join(folder.name for folder in fitting)
        raise UserError(f"There are several {captioner.title} models in {models} ({names}): say which with the setting 'model'.")
    found = (usual or fitting or [_in_hub_cache(captioner.default_model)])[0]
    if found is None:
        raise UserError(
            f"There is no {captioner.title} model in {models}: put the folder of {captioner.default_model} there, "
            "or give its path with the setting 'model'."
        )
    return found


def _caption(
    job: CaptionJob,
    workspace: Workspace,
    written: dict[str, str],
    tell: Callable[[Event], None],
    progress: Progress | None,
    stop_asked: Callable[[], bool],
) -> None:
    began = time.monotonic()
    captioner = CAPTIONERS[job.captioner]
    dataset = datasets.read(workspace_path(job.dataset, workspace.datasets))
    pictures = [picture for picture in chosen(job, dataset) if job.existing == "overwrite" or not (picture.caption or "").strip()]
    device = choose_device()
    tell(Started(job="caption", total=len(pictures), device=device.type))
    for problem in dataset.problems:
        tell(Warned(message=f"{problem}."))
    if pictures:
        tell(Stage(name="loading the captioner"))
        if progress:
            progress.stage("Loading the captioner")
        model = find_captioner_model(captioner, job.model, workspace.models)
        loaded = captioner.load(model, device, choose_dtype(job.precision, device))
        if progress:
            progress.stage("Captioning", len(pictures))
        writer = _Writer(dataset, f"captions by {captioner.title}", written, tell)
        try:
            whole = _caption_pictures(job, loaded, pictures, writer, tell, progress, stop_asked)
        finally:
            writer.write()
        if not whole:
            tell(Stopped(step=len(written)))
            return
        if not written:
            raise UserError(f"None of the {len(pictures)} pictures in {dataset.folder} could be captioned: see the warnings.")
    tell(Finished(files=[str(dataset.captions_file or dataset.folder)] if written else [], seconds=time.monotonic() - began))


def chosen(job: CaptionJob, dataset: Dataset) -> list[Picture]:
    """The pictures that the job names, in the dataset's order; all where it names none. Raises UserError for unknown names."""
    names = {picture.name for picture in dataset.pictures}
    unknown = [name for name in job.pictures if name not in names]
    if unknown:
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise UserError(f"There is no such picture in {dataset.folder}: {shown}; read the dataset again.")
    wanted = set(job.pictures or names)
    return [picture for picture in dataset.pictures if picture.name in wanted]


def _caption_pictures(
    job: CaptionJob,
    loaded: LoadedCaptioner,
    pictures: list[Picture],
    writer: "_Writer",
    tell: Callable[[Event], None],
    progress: Progress | None,
    stop_asked: Callable[[], bool],
) -> bool:
    """False if a stop was asked for before the last batch."""
    done = 0
    for batch in _batches(pictures, job.batch_size):
        if stop_asked():
            return False
        readable = {}
        for picture in batch:
            try:
                readable[picture.name] = images.load_rgb(picture.path)
            except UserError as error:
                tell(Warned(message=str(error)))
        try:
            captions = dict(zip(readable, loaded.caption(list(readable.values()), job.prompt), strict=True))
        except torch.OutOfMemoryError:
            raise UserError(f"The memory is not enough for {job.batch_size} pictures at once: lower batch_size.") from None
        for name, caption in captions.items():
            done += 1
            tell(Captioned(picture=name, caption=caption, done=done, total=len(pictures)))
        writer.add(captions)
        if progress:
            progress.advance(len(batch), note=next(iter(captions.values()), ""))
    return True


class _Writer:
    """Gathers captions and writes them now and then, all into one version."""

    def __init__(self, dataset: Dataset, note: str, written: dict[str, str], tell: Callable[[Event], None]) -> None:
        self.dataset, self.note, self.written, self.tell = dataset, note, written, tell
        self.version: Path | None = None
        self.pending: dict[str, str] = {}
        self.last = time.monotonic()

    def add(self, captions: Mapping[str, str]) -> None:
        self.pending.update(captions)
        if len(self.pending) >= WRITE_EVERY_PICTURES and time.monotonic() - self.last >= WRITE_EVERY_SECONDS:
            self.write()

    def write(self) -> None:
        pending, self.pending = self.pending, {}
        if not pending:
            return
        try:
            self._put(pending)
        except UserError as error:
            # Somebody may have edited one of these captions: theirs stays, the others are written.
            failed = [self._put_one(name, caption) for name, caption in pending.items()]
            if all(failed):
                raise error from None
        self.last = time.monotonic()

    def _put(self, captions: Mapping[str, str]) -> None:
        self.version = datasets.write_captions(self.dataset, captions, self.note, self.version)
        self.written.update(captions)

    def _put_one(self, name: str, caption: str) -> bool:
        """Whether it failed."""
        try:
            self._put({name: caption})
        except UserError as error:
            self.tell(Warned(message=str(error)))
            return True
        return False


def _batches(pictures: list[Picture], size: int) -> list[tuple[Picture, ...]]:
    return [tuple(pictures[start : start + size]) for start in range(0, len(pictures), size)]


def _in_hub_cache(identifier: str) -> Path | None:
    """The folder of a hub model that was downloaded before; never asks the network."""
    if identifier.count("/") != 1:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(identifier, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError, ValueError):
        return None
