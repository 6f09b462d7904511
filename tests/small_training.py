"""A workspace with a tiny model and six drawn pictures of two shapes, and jobs that train on them in a second or two."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from nosnja_gui import events
from nosnja_gui.engine.train import train
from nosnja_gui.jobs import TrainJob
from nosnja_gui.runs import RunFolder
from nosnja_gui.workspace import Workspace
from tests.tiny import tiny_sd

BASE: dict[str, Any] = {
    "name": "coat",
    "trigger": "nosnjaoutfit",
    "model.path": "tiny",
    "dataset.path": "coats",
    "dataset.repeats": 2,
    "dataset.bucket_step": 16,
    "lora.rank": 4,
    "optimizer.learning_rate": 1e-2,
    "training.epochs": 2,
    "preview.every_epochs": 0,
    "preview.before_training": False,
    "validation.every_epochs": 0,
    "saving.every_epochs": 0,
    "saving.checkpoint_every_steps": 0,
    "saving.precision": "float32",
}


def make_workspace(root: Path) -> Workspace:
    torch.set_num_threads(1)
    workspace = Workspace(root / "workspace").create()
    tiny_sd(workspace.models / "tiny")
    draw_pictures(workspace.datasets / "coats", 6)
    return workspace


def draw_pictures(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        image = Image.new("RGB", (96, 48) if number % 3 == 0 else (64, 64), (40 * number % 256, 90, 200))
        ImageDraw.Draw(image).ellipse((5, 5, 40, 30 + number), fill=(250, 30 * number % 256, 30))
        image.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"nosnjaoutfit, a girl in a coat in front of a house {number}")


def job(**changes: Any) -> TrainJob:
    """The small job with dotted settings changed; a double underscore stands for the dot."""
    return TrainJob().changed(**{**BASE, **{name.replace("__", "."): value for name, value in changes.items()}})


def run_of(workspace: Workspace, name: str, wanted: TrainJob) -> RunFolder:
    return RunFolder.create(workspace.runs / name, wanted)


def trained(workspace: Workspace, name: str, **changes: Any) -> tuple[Path, RunFolder]:
    """Train the small job with changes; the result's file and the run."""
    wanted = job(**changes)
    run = run_of(workspace, name, wanted)
    return train(wanted, run, workspace), run


def said(run: RunFolder, kind: type[events.Event]) -> list[Any]:
    return [event for event in events.read(run.events) if isinstance(event, kind)]
