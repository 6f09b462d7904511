"""The models that there are: found by name or path, told apart by what they hold, listed with what is wrong with them.

Looks at configurations and at the headers of weight files, never at weights. Knows nothing of loading.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from nosnja_gui import places, weights
from nosnja_gui.captioners import CAPTIONERS
from nosnja_gui.families import FAMILIES, Family
from nosnja_gui.families.demand import Demand
from nosnja_gui.jobs import ModelSettings, workspace_path
from nosnja_gui.methods import METHODS
from nosnja_gui.runs import RunFolder, identifier, runs_in
from nosnja_gui.settings import UserError
from nosnja_gui.sources import PICKLED, PUT_ON, Changed, Folder, LoneVae, PredictionType, SingleFile, Source, described, read_config
from nosnja_gui.workspace import Workspace

WEIGHTS = ".safetensors"
LISTED_FILES = (WEIGHTS, ".ckpt")
"""Single files that are base models nearly always; the other endings are used for anything."""
NO_BASE_MODELS = (*PUT_ON, "a VAE alone", "a ControlNet", "an upscaler", "a CLIP model")
"""Files that are kept beside base models and aren't meant to be any."""
KIT = Path(__file__).parent / "demo" / "kit"
"""The small models that come with the program."""
NOT_FOR_MODELS = ("vae", "lora", "loras", "lycoris", "embeddings", "controlnet", "clip", "text_encoders", "upscale_models", "esrgan")
"""Folders of the models folder that hold something else, as programs call them."""
VAE_FOLDERS = ("vae", "VAE")
RUNS_SECONDS = 2.0
"""How long it is taken for known which runs train whole models; a new run is seen at once."""
ELSEWHERE_SECONDS = 10.0
"""How long it is taken for known what lies in the folders of other programs, which may be large."""
PATIENCE_SECONDS = 0.3
"""How long one listing looks into files of other programs that it doesn't know yet; the next one goes on from there."""

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
    single_file: bool = False
    prediction_type: str = ""
    """epsilon, v_prediction or flow; empty where nobody knows."""
    precision: str = ""
    """Number format of most of its weights: float16, float32 ..."""
    place: str = ""
    """The other program in whose folder it lies, such as ComfyUI, or that folder's name; empty in the workspace."""

    @property
    def label(self) -> str:
        """For a list to choose from: where it lies and what it is."""
        family = FAMILIES[self.family].title if self.family in FAMILIES and not self.from_kit else ""
        return " · ".join(part for part in (self.title, self.place, family) if part)


@dataclass(frozen=True)
class VaeEntry:
    """An autoencoder to choose in the place of a model's own."""

    name: str
    """What the setting `model.vae` takes."""
    title: str
    path: Path
    place: str = ""


def list_models(workspace: Workspace) -> list[ModelEntry]:
    """The base models: those of the workspace by name, whole ones that runs trained, the demo kit's, and other programs'. Never raises.

    Files of other programs that were never looked at may be missing: there can be hundreds. `mark` is another one while there are.
    """
    listed = [entry for name, path in _of_workspace(workspace) if (entry := _entry_of(name, name, path))]
    kit = KIT / "sd"
    from_kit = [_model_entry(str(kit), "Demo kit (tiny, for drawings of 128 pixels)", kit, True)] if kit.is_dir() else []
    listed.sort(key=lambda entry: _natural(entry.name))
    listed += [_model_entry(name, f"{path.stem} · {run}", path) for run, name, path in trained_models(workspace)]
    return [*listed, *from_kit, *_entries_elsewhere(workspace, {os.path.realpath(entry.path) for entry in listed})]


def list_vaes(workspace: Workspace) -> list[VaeEntry]:
    """Autoencoders alone: in the models folder, in its folders vae and VAE, and those of other programs. Never raises."""
    found: dict[str, VaeEntry] = {}
    for folder in (workspace.models, *(workspace.models / name for name in VAE_FOLDERS)):
        for entry in sorted(_entries(folder), key=lambda entry: _natural(entry.name)):
            path = Path(entry.path)
            if _is_vae(path, _state_of(path)):
                name = path.relative_to(workspace.models).as_posix()
                found.setdefault(os.path.realpath(path), VaeEntry(name, name, path))
    for place, path in elsewhere(workspace, "vae"):
        if _is_vae(path, _state_of(path)):
            title = f"{_title_elsewhere(place, path)} · {title_of(place)}"
            found.setdefault(os.path.realpath(path), VaeEntry(str(path), title, path, title_of(place)))
    return list(found.values())


def mark(workspace: Workspace) -> Hashable:
    """Changes whenever there is something else to list; asked at every tick."""
    own: list[Any] = []
    for folder in (workspace.models, *(Path(entry.path) for entry in _entries(workspace.models) if entry.is_dir())):
        with contextlib.suppress(OSError):
            own.append((str(folder), folder.stat().st_mtime_ns))
            own += [_state_of(Path(entry.path)) for entry in _entries(folder) if entry.name.lower().endswith(LISTED_FILES)]
    own += [(name, _state_of(path)) for _, name, path in trained_models(workspace)]
    others = [str(path) for kind in places.KINDS for _, path in elsewhere(workspace, kind)]
    looked_at = sum(path in _looked_at for _, path in elsewhere(workspace, "models"))
    return tuple(own), tuple(others), looked_at


# Trained here


def trained_models(workspace: Workspace) -> list[tuple[str, str, Path]]:
    """(run, name, file) of whole models that runs have saved: the newest run first, of each the newest file first."""
    changed = workspace.runs.stat().st_mtime_ns if workspace.runs.is_dir() else 0
    known = _whole_runs.get(workspace.runs)
    if known is None or known[0] != changed or time.monotonic() > known[1]:
        runs = [run for run in runs_in(workspace.runs) if _trains_whole(run)]
        known = _whole_runs[workspace.runs] = changed, time.monotonic() + RUNS_SECONDS, runs
    found = []
    for run in known[2]:
        name = identifier(run, workspace)
        found += [(name, f"{name}/weights/{file.name}", file) for file in saved_files(run)]
    return found


_whole_runs: dict[Path, tuple[int, float, list[RunFolder]]] = {}


def saved_files(run: RunFolder) -> list[Path]:
    """The .safetensors files that a training has saved, the newest first."""
    found = [Path(entry.path) for entry in _entries(run.weights) if entry.name.endswith(WEIGHTS)]
    return sorted(found, key=lambda file: (file.stat().st_mtime_ns, file.name), reverse=True)


def _trains_whole(run: RunFolder) -> bool:
    try:
        return _says_whole(run.run_yaml, run.run_yaml.stat().st_mtime_ns)
    except OSError:
        return False


@lru_cache(maxsize=4096)
def _says_whole(run_yaml: Path, changed_ns: int) -> bool:
    """By a line of the file: there may be hundreds of runs, and reading one as YAML takes milliseconds."""
    found = re.search(r"^method: (\w+)", run_yaml.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return bool(found and found[1] in METHODS and METHODS[found[1]].whole)


def _of_run(model: Path) -> Path:
    """What stands for a run that is named as a model: what it trained last. Raises UserError where that is no whole model."""
    run = RunFolder(model)
    if not _trains_whole(run):
        raise UserError(f"{model} is a run that trains no whole model: choose the model that it began with, and put on what it trained.")
    files = saved_files(run)
    if not files:
        raise UserError(f"The run {model} has not saved its model yet: let it save one first, or choose another model.")
    return files[0]


# In other programs' folders


def elsewhere(workspace: Workspace, kind: places.Kind) -> list[tuple[places.Place, Path]]:
    """Candidates of a kind in the folders of other programs and in those that the user added, each once; as of some seconds ago."""
    added = _state_of(workspace.root / places.ADDED)
    known = _elsewhere.get(workspace.root)
    if known is None or known[0] != added or time.monotonic() > known[1]:
        found: dict[places.Kind, list[tuple[places.Place, Path]]] = {each: [] for each in places.KINDS}
        seen: set[tuple[str, str]] = set()
        for place in find_places(workspace):
            for path in places.models_in(place):
                if (key := (place.kind, os.path.realpath(path))) not in seen:
                    seen.add(key)
                    found[place.kind].append((place, path))
        known = _elsewhere[workspace.root] = added, time.monotonic() + ELSEWHERE_SECONDS, found
    return known[2][kind]


_elsewhere: dict[Path, tuple[FolderState, float, dict[places.Kind, list[tuple[places.Place, Path]]]]] = {}
_looked_at: dict[Path, tuple[FolderState, ModelEntry | None]] = {}
"""What files and folders of other programs turned out to be; None for none that is listed."""


def find_places(workspace: Workspace) -> list[places.Place]:
    """Where other programs keep their files on this machine."""
    return places.find(workspace)


def _entries_elsewhere(workspace: Workspace, known: Iterable[str]) -> Iterator[ModelEntry]:
    """`known`: real paths of those that are listed already, as workspaces have links to such files."""
    until = time.monotonic() + PATIENCE_SECONDS
    for place, path in elsewhere(workspace, "models"):
        state = _state_of(path)
        if path not in _looked_at or _looked_at[path][0] != state:
            if time.monotonic() > until:
                continue
            _looked_at[path] = state, _entry_of(str(path), _title_elsewhere(place, path), path, title_of(place))
        entry = _looked_at[path][1]
        if entry and os.path.realpath(path) not in known:
            yield entry


def title_of(place: places.Place) -> str:
    """What a place is called beside the things in it."""
    return place.program or place.folder.name


def _title_elsewhere(place: places.Place, path: Path) -> str:
    if place.program == places.HUB:  # models--USER--NAME/snapshots/COMMIT
        return path.parent.parent.name.removeprefix("models--").replace("--", "/")
    return path.relative_to(place.folder).as_posix()


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
    """The model's folder or file, by path or name; a run that trained a whole model stands for it.

    Raises UserError if there is none, or one that can hide a program.
    """
    if not str(path).strip():
        raise UserError(f"No base model is given: set model.path to {WANTED}.")
    try:
        model = workspace_path(str(path), workspace_models) if workspace_models else Path(path).expanduser()
        if workspace_models and not model.exists():
            trained = Workspace(workspace_models.parent).runs / path
            model = trained if trained.exists() else model
        is_run = (model / "run.yaml").is_file()
        is_file, is_folder = model.is_file(), model.is_dir()
    except (OSError, ValueError, RuntimeError):  # too long a name, a null byte, ~nobody
        raise UserError(f"The model's path {str(path)[:200]!r} is none that this system knows: give the path of a model.") from None
    if is_run:
        return _of_run(model)
    if is_file and model.suffix.lower() in PICKLED:
        raise UserError(f"{model} is a {model.suffix} file, which can hide programs: convert it first (model convert {model.name}).")
    if not is_folder and not is_file:
        known = sorted(entry.name for entry in workspace_models.iterdir() if _may_be_model(entry)) if _is_dir(workspace_models) else []
        hint = f"; known models: {', '.join(known)}" if known else ""
        if HUB_ID.fullmatch(str(path)):
            hint += f"; if that is its name on the hub, fetch it first (model download {path})"
        raise UserError(f"There is no model {model}: give the path of {WANTED}{hint}.")
    return model


HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
WANTED = "a .safetensors checkpoint or of a diffusers folder (it holds model_index.json)"


def _may_be_model(entry: Path) -> bool:
    return entry.is_dir() or entry.suffix.lower() in LISTED_FILES


def find_vae(text: str, workspace_models: Path | None = None) -> Path | None:
    """The file or folder of a VAE that takes the place of the model's own; None where none is given. Raises UserError."""
    if not text.strip():
        return None
    try:
        folders = [] if workspace_models is None else [workspace_models, *(workspace_models / name for name in VAE_FOLDERS)]
        found = next((path for path in [Path(text).expanduser(), *(folder / text for folder in folders)] if path.exists()), None)
    except (OSError, ValueError, RuntimeError):
        found = None
    if found is None:
        raise UserError(f"There is no VAE {text[:200]}: give the path of a .safetensors file or of a folder, or leave model.vae empty.")
    if found.suffix.lower() in PICKLED:
        raise UserError(f"{found} is a {found.suffix} file, which can hide programs: convert it first (model convert {found.name}).")
    return found


def find_lora(text: str, workspace_models: Path) -> Path | None:
    """A LoRA file by its path or by its name in the models folder; None where none is given. Raises UserError."""
    if not text.strip():
        return None
    try:
        folders = [workspace_models, workspace_models / "Lora", workspace_models / "loras"]
        named = (folder / name for folder in folders for name in (text, f"{text}{WEIGHTS}"))
        found = next((path for path in [Path(text).expanduser(), *named] if path.is_file()), None)
    except (OSError, ValueError, RuntimeError):  # too long a name, a null byte, ~nobody
        found = None
    if found is None:
        raise UserError(f"There is no LoRA {text[:200]}: give the path of a .safetensors file, or its name in {workspace_models}.")
    return found


@cache
def _fingerprint(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for file, _, _ in files:
        digest.update(f"{file.parent.name}/{file.name}:{weights.short_hash(file)}\n".encode())
    return digest.hexdigest()


def fingerprint(model: Path) -> str:
    """Hash of all weight and configuration files of a folder (a model's, a VAE's), or of a single file, in an instant."""
    # A model's lie in a folder for each part, a VAE's own in the folder itself.
    found = [model] if model.is_file() else model.glob("*/*" if (model / "model_index.json").is_file() else "**/*")
    files = sorted(file for file in found if file.suffix in (".safetensors", ".json", ".txt") and file.is_file())
    return _fingerprint(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


def check_vae(vae: Path, family: Family) -> None:
    """Raises UserError for what is no VAE of this family."""
    LoneVae(vae, family.vae_original()).config("vae")


def identify(model: Path) -> tuple[Family, Source]:
    """The family of a folder or file, and the source to load it from. Raises UserError that says what it is instead."""
    return _identified(model, _state_of(model))


@lru_cache(maxsize=64)
def _identified(model: Path, state: FolderState) -> tuple[Family, Source]:
    if model.is_dir():
        folder = Folder(model)
        for family in FAMILIES.values():
            if family.recognises(folder):
                return family, folder
        raise UserError(_no_family(folder))
    entries = weights.shapes(model)
    for family in FAMILIES.values():
        if family.original and family.original.matches(entries):
            return family, SingleFile(model, family.original)
    raise UserError(f"{model} is {described(entries)}, no complete model that is supported: choose {_known_families()}.")


def _no_family(folder: Folder) -> str:
    if not (folder.path / "model_index.json").is_file():
        inside = [file.name for file in sorted(folder.path.iterdir()) if file.suffix.lower() in LISTED_FILES]
        found = f" (give the path of {inside[0]} itself if that is the model)" if inside else ""
        return f"{folder.path} is not a diffusers model folder, it has no model_index.json{found}: give {_known_families()}."
    kind = folder.index.get("_class_name")
    if not kind:
        return f"The model is damaged, {folder.path / 'model_index.json'} is not readable: copy or download it again."
    return f"{folder.path} is a {kind}, which is not supported: choose {_known_families()}."


def _known_families() -> str:
    return f"a {' or '.join(family.title for family in FAMILIES.values())} model"


def family_of(model: Path) -> Family:
    """The family that recognises a model. Raises UserError that says what it is instead."""
    return identify(model)[0]


def source_of(model: Path, vae: Path | None = None, prediction_type: PredictionType | None = None) -> tuple[Family, Source]:
    """`identify`, with another VAE in the place of the model's own, and a prediction type that the user knows better."""
    family, source = identify(model)
    if vae is None and prediction_type is None:
        return family, source
    return family, Changed(source, LoneVae(vae, family.vae_original()) if vae else None, prediction_type)


def chosen(settings: ModelSettings, workspace_models: Path) -> tuple[Family, Source]:
    """The source that the settings mean. Raises UserError."""
    model, vae = find_model(settings.path, workspace_models), find_vae(settings.vae, workspace_models)
    return source_of(model, vae, None if settings.prediction_type == "auto" else settings.prediction_type)


def native_size(model: Path) -> int:
    """Native side in pixels of a model. Raises UserError as its family does; remembered until the model changes."""
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
    prediction_type: str = ""
    precision: str = ""
    no_base_model: bool = False
    """Something that is kept beside base models, such as a LoRA."""

    def size_of(self) -> int:
        if self.size_problem:
            raise UserError(self.size_problem)
        return self.native_size


@lru_cache(maxsize=1024)
def _about(model: Path, state: FolderState) -> _About:
    size, damage = _weight_bytes(state), ""
    try:
        family, source = identify(model)
    except UserError as error:
        return _About("", size, 0, str(error), str(error), no_base_model=model.is_file() and _is_something_else(model))
    except Exception as error:
        damage = _damaged(model, error)
        return _About("", size, 0, damage, damage)

    def asked(question: Callable[[Source], Any]) -> tuple[Any, str]:
        try:
            return question(source), ""
        except UserError as error:
            return None, str(error)
        except Exception as error:  # a configuration can be wrong in more ways than its family thought of
            return None, _damaged(model, error)

    _, problem = asked(family.check)
    native, size_problem = asked(family.size_of)
    prediction, _ = asked(family.prediction_of)
    precision, _ = asked(_precision)
    return _About(family.name, size, native or 0, size_problem, problem or size_problem, prediction or "", precision or "")


def _damaged(model: Path, error: Exception) -> str:
    return f"The model {model} is damaged ({type(error).__name__}): copy or download it again."


def _precision(source: Source) -> str:
    part = "transformer" if "transformer" in source.parts() else "unet"
    counts = Counter(number for number, _ in source.weights(part).values())
    return weights.PRECISIONS.get(counts.most_common(1)[0][0], "") if counts else ""


def _is_something_else(file: Path) -> bool:
    try:
        return described(weights.shapes(file)) in NO_BASE_MODELS
    except UserError:
        return False


@lru_cache(maxsize=256)
def _captioner_about(model: Path, state: FolderState) -> tuple[str, int]:
    names = [captioner.name for captioner in CAPTIONERS.values() if _safely(captioner.recognises, model)]
    return (names[0] if names else ""), _weight_bytes(state)


@lru_cache(maxsize=32)
def _demand(model: Path, state: FolderState) -> Demand | str:
    """Or why nobody can know."""
    try:
        family, source = identify(model)
        return family.demand(source)
    except UserError as error:
        return str(error)
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError):
        return f"The weights in {model} are not those of a model that is known: copy or download it again."


def _of_workspace(workspace: Workspace) -> Iterator[tuple[str, Path]]:
    """(name, path) of what may be a model in the models folder and one folder deeper."""
    for entry in _entries(workspace.models):
        path = Path(entry.path)
        if not entry.is_dir() or (path / "model_index.json").is_file():
            yield entry.name, path
        elif entry.name.lower() not in NOT_FOR_MODELS:
            yield from ((f"{entry.name}/{inner.name}", Path(inner.path)) for inner in _entries(path))


def _entry_of(name: str, title: str, path: Path, place: str = "") -> ModelEntry | None:
    """None for what is no base model, nor meant to be one."""
    if path.is_dir():
        return _model_entry(name, title, path, place=place) if (path / "model_index.json").is_file() else None
    state = _state_of(path) if path.suffix.lower() in LISTED_FILES else ()
    if not state:
        return None
    if path.suffix.lower() in PICKLED:
        problem = f"{name} is a {path.suffix} file, which can hide programs: convert it first (model convert {name})."
        return ModelEntry(name, title, path, "", _weight_bytes(state), 0, problem, single_file=True, place=place)
    return None if _about(path, state).no_base_model else _model_entry(name, title, path, place=place)


def _model_entry(name: str, title: str, path: Path, from_kit: bool = False, place: str = "") -> ModelEntry:
    about = _about(path, _state_of(path))
    return ModelEntry(
        name,
        title,
        path,
        about.family,
        about.size_bytes,
        about.native_size,
        about.problem,
        from_kit,
        single_file=path.is_file(),
        prediction_type=about.prediction_type,
        precision=about.precision,
        place=place,
    )


@lru_cache(maxsize=1024)
def _is_vae(path: Path, state: FolderState) -> bool:
    """Whether it is an autoencoder alone: a file, or a folder of diffusers."""
    try:
        if path.is_dir():
            return read_config(path / "config.json").get("_class_name") == "AutoencoderKL"
        return path.suffix.lower() == WEIGHTS and described(weights.shapes(path)) == "a VAE alone"
    except UserError:
        return False


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError:
        return []


def _state_of(model: Path) -> FolderState:
    """The files of a model folder and of its subfolders; deeper there is nothing of a diffusers model. Of a single file, itself."""
    with contextlib.suppress(OSError):
        state = model.stat()
        if not stat.S_ISDIR(state.st_mode):
            beside = model.with_suffix(".yaml")  # may say what the checkpoint predicts
            told = [(beside.name, beside.stat().st_size, beside.stat().st_mtime_ns)] if beside.is_file() else []
            return ((model.name, state.st_size, state.st_mtime_ns), *told)
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
    return sum(size for name, size, _ in state if name.lower().endswith((WEIGHTS, *PICKLED)))


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
