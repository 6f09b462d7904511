"""Looks over the machine, the installed libraries and the workspace, and says what is wrong and how to mend it.

Nothing heavy is imported: a broken library could not be reported by a program that needs it.
"""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import nosnja_gui
from nosnja_gui import hardware
from nosnja_gui.captioners import CAPTIONERS
from nosnja_gui.files import folder_size
from nosnja_gui.models import LISTED_FILES, family_of
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
OLDEST_PYTHON = (3, 11)
LITTLE_DISK_BYTES = 5 * 2**30
LITTLE_MEMORY_BYTES = 6 * 2**30
TORCH_TIMEOUT_SECONDS = 120
AGAIN = "run launch.sh (launch.bat on Windows) once more, it installs what fits"


@dataclass(frozen=True)
class FoundModel:
    name: str
    kind: str
    """Family or captioner; empty if no one recognises it."""
    bytes: int


@dataclass(frozen=True)
class Examination:
    facts: dict[str, str]
    models: list[FoundModel]
    problems: list[str]
    """One sentence each, with the cure."""

    def __str__(self) -> str:
        width = max(len(name) for name in self.facts)
        lines = [f"{name:<{width}}  {value}" for name, value in self.facts.items()]
        none = "Models: none yet; put a .safetensors checkpoint or a diffusers folder (it holds model_index.json) there."
        lines += ["", "Models:" if self.models else none]
        lines += [f"  {model.name:<30} {model.kind or 'not recognised':<32} {gigabytes(model.bytes)}" for model in self.models]
        lines += ["", *(f"Problem: {problem}" for problem in self.problems)] if self.problems else ["", "No problems found."]
        return "\n".join(lines)


def examine(workspace: Workspace) -> Examination:
    machine = hardware.describe(workspace.root)
    installed = {name: version(name) for name in required()}
    cards = machine["gpus"]
    facts = {
        "Nošnja": nosnja_gui.__version__,
        "Python": f"{machine['python']}  {machine['executable']}",
        "System": f"{machine['system']}, {machine['processors']} processors",
        "GPU": "; ".join(_card(card) for card in cards) or "no NVIDIA GPU, the processor is used",
        "Memory": f"{gigabytes(machine['memory_free_bytes'])} free of {gigabytes(machine['memory_bytes'])}",
        "Disk": f"{gigabytes(machine['disk_free_bytes'])} free",
        "Workspace": str(workspace.root),
        **{name: found or "missing" for name, found in installed.items()},
    }
    problems = [
        *python_problems(),
        *library_problems(required(), installed),
        *torchvision_problems(installed.get("torch"), version("torchvision"), _demands("torchvision")),
        *gpu_problems(bool(cards), installed.get("torch"), hardware.torch_cuda()),
        *room_problems(workspace, machine["disk_free_bytes"], machine["memory_bytes"]),
    ]
    return Examination(facts, find_models(workspace), problems)


def _card(card: hardware.Gpu) -> str:
    return f"{card.name}, {gigabytes(card.free_bytes)} free of {gigabytes(card.total_bytes)}" if card.total_bytes else card.name


def gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.0f} MB"


def required() -> dict[str, str]:
    """Library -> demanded version (`==` or other specifier included), from requirements.txt."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines() if REQUIREMENTS.is_file() else []
    matches = [re.match(r"([A-Za-z0-9_.-]+)\s*([=<>!~][^#;]*)?", line.strip()) for line in lines if line.strip()[:1].isalnum()]
    return {match[1]: (match[2] or "").strip() for match in matches if match}


def version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _demands(library: str) -> list[str]:
    try:
        return metadata.requires(library) or []
    except metadata.PackageNotFoundError:
        return []


def python_problems() -> Iterator[str]:
    if sys.version_info < OLDEST_PYTHON:
        yield f"Python {sys.version_info.major}.{sys.version_info.minor} is too old, 3.11 or newer is needed: {AGAIN}."


def library_problems(demanded: Mapping[str, str], installed: Mapping[str, str | None]) -> Iterator[str]:
    for name, demand in demanded.items():
        found = installed.get(name)
        if found is None:
            yield f"{name} is not installed: {AGAIN}."
        elif demand.startswith("==") and _public(found) != demand.removeprefix("==").strip():
            yield f"{name} {found} is installed, this program was tested with {demand.removeprefix('==').strip()}: {AGAIN}."


def torchvision_problems(torch: str | None, torchvision: str | None, demands: list[str]) -> Iterator[str]:
    """A torchvision made for another torch breaks the import of diffusers and transformers altogether."""
    if torch is None or torchvision is None:
        return
    cure = "uninstall torchvision (pip uninstall torchvision), it is not needed"
    pins = [match[1] for demand in demands if (match := re.match(r"torch\s*\(?==\s*([\d.]+)", demand))]
    if pins and _public(torch) not in pins:
        yield f"torchvision {torchvision} was made for torch {pins[0]} but torch {torch} is installed: {cure}."
    elif _local(torch) != _local(torchvision) and _local(torch) and _local(torchvision):
        yield f"torchvision {torchvision} and torch {torch} are of different builds: {cure}."


def gpu_problems(has_card: bool, torch: str | None, cuda: str | None) -> Iterator[str]:
    if not has_card or torch is None:
        return
    if cuda is None:
        yield f"There is an NVIDIA GPU but torch {torch} can only use the processor: {AGAIN}."
    elif not torch_sees_gpu():
        yield f"torch (CUDA {cuda}) cannot use the NVIDIA GPU: bring the graphics driver up to date, then restart the machine."


def torch_sees_gpu() -> bool:
    command = [sys.executable, "-c", "import torch, sys; sys.exit(0 if torch.cuda.is_available() else 1)"]
    try:
        return subprocess.run(command, capture_output=True, timeout=TORCH_TIMEOUT_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def room_problems(workspace: Workspace, disk_free_bytes: int, memory_bytes: int) -> Iterator[str]:
    if disk_free_bytes < LITTLE_DISK_BYTES:
        yield f"Only {gigabytes(disk_free_bytes)} are free on the disk of {workspace.root}: make room, a training can need 5 GB."
    if memory_bytes < LITTLE_MEMORY_BYTES:
        yield f"The machine has {gigabytes(memory_bytes)} of memory: a Stable Diffusion 1.5 needs about 8 GB, smaller models work."
    nearest = next(folder for folder in (workspace.root, *workspace.root.parents) if folder.exists())
    if not os.access(nearest, os.W_OK):
        yield f"The workspace {workspace.root} is not writable: choose another one with --workspace FOLDER."


def find_models(workspace: Workspace) -> list[FoundModel]:
    """Folders and checkpoints in the workspace's models folder, told apart by their configuration or header alone."""
    if not workspace.models.is_dir():
        return []
    folders = sorted(entry for entry in workspace.models.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    files = sorted(entry for entry in workspace.models.iterdir() if entry.is_file() and entry.suffix.lower() in LISTED_FILES)
    known = [FoundModel(file.name, kind, file.stat().st_size) for file in files if (kind := _kind(file))]
    return [*(FoundModel(folder.name, _kind(folder), folder_size(folder)) for folder in folders), *known]


def _kind(folder: Path) -> str:
    with contextlib.suppress(UserError):
        return family_of(folder).title
    return next((captioner.title for captioner in CAPTIONERS.values() if captioner.recognises(folder)), "")


def _public(text: str) -> str:
    return text.partition("+")[0]


def _local(text: str) -> str:
    return text.partition("+")[2]
