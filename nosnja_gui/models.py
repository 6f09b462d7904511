"""The models that there are: found by name or path, told apart by their configuration, listed with what is wrong with them.

Looks at configurations and at the headers of weight files, never at weights. Knows nothing of loading.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from nosnja_gui import weights
from nosnja_gui.captioners import CAPTIONERS
from nosnja_gui.families import FAMILIES, Family
from nosnja_gui.families.demand import Demand, Weights
from nosnja_gui.jobs import workspace_path
from nosnja_gui.methods.lora import ALPHA_ENDS, DOWN_ENDS, OTHER_KINDS, UP_ENDS
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace

SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
LISTED_FILES = (".safetensors", ".ckpt")
"""Single files that are base models nearly always; the other endings are used for anything."""
KIT = Path(__file__).parent / "demo" / "kit"
"""The small models that come with the program."""

FolderState = tuple[tuple[str, int, int], ...]
"""(path inside the folder, bytes, time of change) of its files."""


@dataclass(frozen=True)
class ModelEntry:
    """A model to choose from."""

    name: str
    """What the setting `model.path` (or a caption job's `model`) takes."""
    title: str
    path: Path
    family: str
    """Name of its family, or of its captioner; empty where none recognises it."""
    size_bytes: int
    """Of its weight files."""
    native_size: int
    """Side in pixels at which it was trained; 0 for a captioner and where nobody knows."""
    problem: str = ""
    """Why it cannot be used, in a sentence; empty where it can."""
    from_kit: bool = False


def list_models(workspace: Workspace) -> list[ModelEntry]:
    """The base models: those of the workspace by name, then the demo kit's. Never raises."""
    found = [(entry.name, entry.name, Path(entry.path), entry.is_dir()) for entry in _entries(workspace.models)]
    folders = [(name, title, path) for name, title, path, is_folder in found if is_folder and (path / "model_index.json").is_file()]
    listed = [_model_entry(*folder) for folder in folders]
    files = [_file_entry(name, path) for name, _, path, is_folder in found if not is_folder and path.suffix.lower() in LISTED_FILES]
    kit = KIT / "sd"
    named = sorted([*listed, *(entry for entry in files if entry)], key=lambda entry: _natural(entry.name))
    return [*named, *([_model_entry(str(kit), "Demo kit (tiny, for drawings of 128 pixels)", kit, True)] if kit.is_dir() else [])]


def captioner_models(workspace: Workspace) -> list[ModelEntry]:
    """The captioners' models: those of the workspace by name, then the demo kit's. Never raises."""
    folders = [(entry.name, entry.name, Path(entry.path), False) for entry in _entries(workspace.models) if entry.is_dir()]
    folders.sort(key=lambda folder: _natural(folder[0]))
    kit = KIT / "blip"
    folders += [(str(kit), "Demo kit's BLIP (tiny, for its drawings)", kit, True)]
    entries = []
    for name, title, path, from_kit in folders:
        captioner, size = _captioner_about(path, _state_of(path))
        if captioner:
            entries.append(ModelEntry(name, title, path, captioner, size, 0, from_kit=from_kit))
    return entries


def find_model(path: Path | str, workspace_models: Path | None = None) -> Path:
    """The model's folder. Raises UserError if there is none."""
    if not str(path).strip():
        raise UserError("No base model is given: set model.path to a diffusers folder (it holds model_index.json).")
    try:
        model = workspace_path(str(path), workspace_models) if workspace_models else Path(path).expanduser()
        is_file, is_folder = model.is_file(), model.is_dir()
    except (OSError, ValueError, RuntimeError):  # too long a name, a null byte, ~nobody
        raise UserError(f"The model's path {str(path)[:200]!r} is none that this system knows: give the path of a folder.") from None
    if is_file and model.suffix.lower() in SINGLE_FILES:
        raise UserError(f"{model} is a single file, which cannot be loaded yet: give the path of a diffusers folder (model_index.json).")
    if not is_folder:
        known = sorted(folder.name for folder in workspace_models.iterdir() if folder.is_dir()) if _is_dir(workspace_models) else []
        hint = f"; known models: {', '.join(known)}" if known else ""
        raise UserError(f"There is no model {model}: give the path of a diffusers folder (it holds model_index.json){hint}.")
    return model


def family_of(model: Path) -> Family:
    """The family that recognises the folder. Raises UserError that says what the folder is instead."""
    for family in FAMILIES.values():
        if family.recognises(model):
            return family
    known = ", ".join(family.title for family in FAMILIES.values())
    index = model / "model_index.json"
    if not index.is_file():
        inside = [file.name for file in sorted(model.iterdir()) if file.suffix.lower() in SINGLE_FILES]
        found = f" ({inside[0]} alone cannot be loaded yet)" if inside else ""
        raise UserError(f"{model} is not a diffusers model folder, it has no model_index.json{found}: give the folder of a {known} model.")
    try:
        kind = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"The model is damaged, {index} is not readable: copy or download it again.") from None
    raise UserError(f"{model} is a {kind}, which is not supported: choose a {known} model.")


def native_size(model: Path) -> int:
    """Native side in pixels of a model. Raises UserError as its family does; remembered until the folder changes."""
    return _about(model, _state_of(model)).size_of()


def check_model(model: Path) -> None:
    """Raises UserError where the model is of no known family, incomplete or damaged, as far as that shows without loading it."""
    problem = _about(model, _state_of(model)).problem
    if problem:
        raise UserError(problem)


def demand_of(model: Path) -> Demand:
    """How much work and memory a model takes. Raises UserError for a model of no known family, an incomplete or a damaged one."""
    demand = _demand(model, _state_of(model))
    if isinstance(demand, str):
        raise UserError(demand)
    return demand


# What is remembered, by the state of the folder


@dataclass(frozen=True)
class _About:
    family: str
    size_bytes: int
    native_size: int
    size_problem: str
    problem: str

    def size_of(self) -> int:
        if self.size_problem:
            raise UserError(self.size_problem)
        return self.native_size


@lru_cache(maxsize=256)
def _about(model: Path, state: FolderState) -> _About:
    family, native, size_problem, problem = "", 0, "", ""
    try:
        kind = family_of(model)
        family = kind.name
        kind.check(model)
    except UserError as error:
        problem = str(error)
    except Exception as error:  # a configuration can be wrong in more ways than its family thought of
        problem = f"The model {model} is damaged ({type(error).__name__}): copy or download it again."
    if family:
        try:
            native = FAMILIES[family].size_of(model)
        except UserError as error:
            size_problem = str(error)
        except Exception as error:  # as above
            size_problem = f"The model {model} is damaged ({type(error).__name__}): copy or download it again."
    return _About(family, _weight_bytes(state), native, size_problem, problem or size_problem)


@lru_cache(maxsize=256)
def _captioner_about(model: Path, state: FolderState) -> tuple[str, int]:
    names = [captioner.name for captioner in CAPTIONERS.values() if _safely(captioner.recognises, model)]
    return (names[0] if names else ""), _weight_bytes(state)


@lru_cache(maxsize=32)
def _demand(model: Path, state: FolderState) -> Demand | str:
    """Or why nobody can know."""
    try:
        return family_of(model).demand(_headers(model, state))
    except UserError as error:
        return str(error)
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError):
        return f"The weights in {model} are not those of a model that is known: copy or download it again."


def _headers(model: Path, state: FolderState) -> dict[str, Weights]:
    """By part (unet, vae, text_encoder): name of each weight -> number format and shape."""
    files = [Path(name) for name, _, _ in state if name.endswith(".safetensors") and len(Path(name).parts) == 2]
    headers: dict[str, Weights] = {}
    for part in sorted({file.parts[0] for file in files}):
        names = [file for file in files if file.parts[0] == part]
        # A folder may hold the same weights twice, whole and in half precision.
        whole = [file for file in names if ".fp16" not in file.name] or names
        try:
            entries = {name: entry for file in whole for name, entry in weights.header(model / file).items() if name != "__metadata__"}
        except UserError:  # perhaps of a part that nobody needs, such as the safety checker
            continue
        headers[part] = {name: (str(entry["dtype"]), tuple(map(int, entry["shape"]))) for name, entry in entries.items()}
    return headers


@lru_cache(maxsize=256)
def _is_lora(file: Path, size: int, modified_ns: int) -> bool:
    """By the names of its weights; what else is no base model (embeddings and the like) counts as one, too."""
    ends = (*DOWN_ENDS, *UP_ENDS, *ALPHA_ENDS, ".diff", ".diff_b")
    marks = tuple(mark for mark in OTHER_KINDS if mark not in ends)  # ".diff" is in ".diffusion_model", too
    try:
        names = [name for name in weights.header(file) if name != "__metadata__"]
    except UserError:
        return False
    return any(name.endswith(ends) or any(mark in name for mark in marks) for name in names)


def _model_entry(name: str, title: str, path: Path, from_kit: bool = False) -> ModelEntry:
    about = _about(path, _state_of(path))
    return ModelEntry(name, title, path, about.family, about.size_bytes, about.native_size, about.problem, from_kit)


def _file_entry(name: str, file: Path) -> ModelEntry | None:
    try:
        state = file.stat()
    except OSError:
        return None
    if file.suffix.lower() == ".safetensors" and _is_lora(file, state.st_size, state.st_mtime_ns):
        return None
    problem = f"{name} is a single file, which cannot be loaded yet: save the model as a diffusers folder (it holds model_index.json)."
    return ModelEntry(name, name, file, "", state.st_size, 0, problem)


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError:
        return []


def _state_of(model: Path) -> FolderState:
    """The files of a model folder and of its subfolders; deeper there is nothing of a diffusers model."""
    return tuple(sorted(_files(str(model), "", 1)))


def _files(folder: str, prefix: str, deeper: int) -> Iterator[tuple[str, int, int]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file():
                    state = os.stat(entry.path)
                    yield prefix + entry.name, state.st_size, state.st_mtime_ns
                elif deeper and not entry.name.startswith(".") and entry.is_dir():
                    yield from _files(entry.path, f"{prefix}{entry.name}/", deeper - 1)
    except OSError:
        return


def _weight_bytes(state: FolderState) -> int:
    return sum(size for name, size, _ in state if name.lower().endswith(SINGLE_FILES))


def _safely(recognises: Callable[[Path], bool], model: Path) -> bool:
    try:
        return recognises(model)
    except Exception:  # a configuration can be wrong in more ways than its reader thought of
        return False


def _is_dir(folder: Path | None) -> bool:
    return folder is not None and folder.is_dir()


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts sd-2 before sd-10."""
    return [(int(part), "") if part.isdecimal() and part.isascii() else (-1, part) for part in re.split(r"(\d+)", name.casefold())]
