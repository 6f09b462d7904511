"""Where other programs keep models, LoRAs and VAEs on this machine, so that nothing has to be copied or downloaded twice.

Looks at known places only and never deep: finding takes milliseconds. Never raises; what cannot be read is not there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from nosnja_gui.files import write_atomic
from nosnja_gui.settings import UserError, read_yaml
from nosnja_gui.workspace import Workspace

Kind = Literal["models", "loras", "vae"]
KINDS: tuple[Kind, ...] = ("models", "loras", "vae")
PROGRAM = Path(__file__).resolve().parents[1]
ADDED = "places.yaml"
"""In the workspace: the folders that the user added."""
SUFFIXES = (".safetensors", ".ckpt")
DEEP = 2
"""Levels of subfolders that are looked into: people sort their models by family."""
MOST_ENTRIES = 4000
MOST_MENTIONED = 100
"""Folders that one extra_model_paths.yaml may add."""
HUB = "Hugging Face"

NAMES = (
    "stable-diffusion-webui", "stable-diffusion-webui-forge", "sd-webui-forge", "stable-diffusion-webui-reForge", "sd-webui-forge-neo",
    "webui_forge_cu121_torch231/webui", "ComfyUI", "ComfyUI_windows_portable/ComfyUI", "invokeai", "InvokeAI",
)  # fmt: skip
"""What the folders of these programs are called after cloning or unpacking them."""
BELOW = ("", "Documents", "Desktop", "Downloads", "AI", "ai", "apps", "git", "src", "code", "projects", "repos", "sd", "SD")
"""Where in the home folder people unpack programs."""
ROOT_VARIABLES = ("COMFYUI_PATH", "COMFYUI_FOLDERS_BASE_PATH", "INVOKEAI_ROOT")
"""Folders of programs: ComfyUI-Manager (cm_global.py, manager_core.py) and InvokeAI (config_default.py: find_root)."""

WEBUI: tuple[tuple[Kind, str], ...] = (
    ("models", "models/Stable-diffusion"),
    ("loras", "models/Lora"),
    ("loras", "models/LyCORIS"),
    ("vae", "models/VAE"),
)
"""A1111 (modules/paths_internal.py, sd_models.py, sd_vae.py, extensions-builtin/Lora)."""
COMFY: tuple[tuple[Kind, str], ...] = (
    ("models", "models/checkpoints"),
    ("models", "models/diffusion_models"),
    ("models", "models/unet"),
    ("models", "models/diffusers"),
    ("loras", "models/loras"),
    ("vae", "models/vae"),
)
"""ComfyUI (folder_paths.py); `unet` is the older name of `diffusion_models`."""
INVOKE: tuple[tuple[Kind, str], ...] = tuple(
    (kind, f"models/{base}/{folder}")
    for base in ("sd-1", "sd-2", "sdxl")
    for kind, folder in (("models", "main"), ("loras", "lora"), ("vae", "vae"))
)
"""InvokeAI 3 to 5 sort models by base and type (app/services/model_install)."""
COMFY_KEYS: dict[str, Kind] = {"checkpoints": "models", "diffusion_models": "models", "unet": "models", "loras": "loras", "vae": "vae"}
"""Of an extra_model_paths.yaml, the entries that are looked at."""
WEBUI_OPTIONS: dict[str, Kind] = {"--ckpt-dir": "models", "--lora-dir": "loras", "--vae-dir": "vae"}
"""Of A1111's COMMANDLINE_ARGS (modules/cmd_args.py, extensions-builtin/Lora/preload.py)."""


@dataclass(frozen=True)
class Place:
    """A folder of another program, or of the user's, with things of one kind in it."""

    program: str
    """A1111, Forge, ComfyUI, InvokeAI, Hugging Face, or "" for a folder that the user added."""
    kind: Kind
    folder: Path


def find(workspace: Workspace, home: Path | None = None, environment: Mapping[str, str] | None = None) -> list[Place]:
    """All places that are there, each folder once per kind; those that the user added first. Never raises."""
    with contextlib.suppress(RuntimeError):  # a user without a home
        home = home or Path.home()
    surroundings = os.environ if environment is None else environment
    found: dict[tuple[Kind, str], Place] = {}
    for place in _all(workspace, home, surroundings):
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            if place.folder.is_dir() and not _inside(place.folder, workspace.root):
                found.setdefault((place.kind, os.path.realpath(place.folder)), place)
    return list(found.values())


def models_in(place: Place) -> list[Path]:
    """Single files (.safetensors, .ckpt) and diffusers folders of a place, by name; at most some thousand. Never raises.

    Every folder is read again only when an entry came or went. They are candidates: what is in them was not looked at.
    """
    if place.program == HUB:
        return sorted(_cached_snapshots(place.folder))
    found: list[Path] = []
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        for path in _candidates(place.folder, DEEP, set()):
            found.append(path)
            if len(found) >= MOST_ENTRIES:
                break
    return sorted(found)


# ---------------------------------------------------------------- folders that the user added


def added(workspace: Workspace) -> list[Path]:
    """The folders that the user added, in their order; none where the file is missing or damaged."""
    return [folder for folder, _ in _added(workspace)]


def add(workspace: Workspace, folder: Path | str, kind: Kind = "models") -> Place:
    """Remember a folder: that of a program (then all of its kinds are found) or one with things of this kind.

    Raises UserError where there is no such folder.
    """
    path = _path(str(folder), Path.cwd())
    if not str(folder).strip() or not _is_dir(path):
        raise UserError(f"There is no folder '{str(folder)[:200]}': give the path of a folder with models in it.")
    others = [(known, its) for known, its in _added(workspace) if (known, its) != (path, kind)]
    _keep(workspace, [*others, (path, kind)])
    return Place("", kind, path)


def remove(workspace: Workspace, folder: Path | str) -> bool:
    """Forget a folder; False if it was none that had been added. The folder itself is left alone."""
    path = _path(str(folder), Path.cwd())
    before = _added(workspace)
    after = [(known, kind) for known, kind in before if known != path]
    if len(after) == len(before):
        return False
    _keep(workspace, after)
    return True


def _added(workspace: Workspace) -> list[tuple[Path, Kind]]:
    try:
        listed = read_yaml(workspace.root / ADDED).get("folders")
    except UserError:
        return []
    found: list[tuple[Path, Kind]] = []
    for entry in listed if isinstance(listed, list) else []:
        values = {"folder": entry} if isinstance(entry, str) else entry if isinstance(entry, dict) else {}
        folder, kind = values.get("folder"), values.get("kind", "models")
        if isinstance(folder, str) and folder.strip() and kind in KINDS:
            found.append((_path(folder, workspace.root), kind))
    return found


def _keep(workspace: Workspace, folders: list[tuple[Path, Kind]]) -> None:
    values = {"folders": [{"folder": str(folder), "kind": kind} for folder, kind in folders]}
    workspace.create()
    write_atomic(workspace.root / ADDED, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


# ---------------------------------------------------------------- where to look


def _all(workspace: Workspace, home: Path | None, environment: Mapping[str, str]) -> Iterator[Place]:
    for folder, kind in _added(workspace):
        known = list(_of_program(folder)) or (list(_of_program(folder.parent)) if folder.name == "models" else [])
        yield from known or [Place("", kind, folder)]
    roots = [_path(environment[name], Path.cwd()) for name in ROOT_VARIABLES if environment.get(name, "").strip()]
    around = [PROGRAM.parent, *([home / below for below in BELOW] if home else [])]
    for folder in (*roots, *(base / name for base in around if _is_dir(base) for name in NAMES)):
        yield from _of_program(folder)
    yield from _of_command_line(environment.get("COMMANDLINE_ARGS", ""))
    yield from (Place(HUB, "models", folder) for folder in _hub_caches(home, environment))


def _of_program(root: Path) -> Iterator[Place]:
    """The places of a program whose folder this is; none for another folder."""
    if _is_dir(root / "models" / "Stable-diffusion"):
        forge = "forge" in root.name.lower() or "forge" in root.parent.name.lower() or _is_dir(root / "modules_forge")
        yield from (Place("Forge" if forge else "A1111", kind, root / below) for kind, below in WEBUI)
    if _is_dir(root / "models" / "checkpoints"):
        yield from (Place("ComfyUI", kind, root / below) for kind, below in COMFY)
    yield from _mentioned(root / "extra_model_paths.yaml")
    if any(_is_dir(root / below) for _, below in INVOKE):
        yield from (Place("InvokeAI", kind, root / below) for kind, below in INVOKE)


def _mentioned(file: Path) -> Iterator[Place]:
    """What ComfyUI's extra_model_paths.yaml adds: sections with a base_path and folders by kind, one a line (utils/extra_config.py)."""
    try:
        sections = read_yaml(file) if file.is_file() else {}
    except (UserError, OSError):
        return
    count = 0
    for section in sections.values():
        if not isinstance(section, dict):
            continue
        base = section.get("base_path")
        base_path = _path(base, file.parent) if isinstance(base, str) else file.parent
        for key, kind in COMFY_KEYS.items():
            listed = section.get(key)
            for line in listed.splitlines() if isinstance(listed, str) else []:
                if line.strip() and count < MOST_MENTIONED:
                    count += 1
                    yield Place("ComfyUI", kind, _path(line, base_path))


def _of_command_line(words: str) -> Iterator[Place]:
    try:
        given = shlex.split(words, posix=os.name != "nt")
    except ValueError:
        return
    spread = [part for word in given for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for option, value in itertools.pairwise(spread):
        if option in WEBUI_OPTIONS:
            yield Place("A1111", WEBUI_OPTIONS[option], _path(value.strip("\"'"), Path.cwd()))


def _hub_caches(home: Path | None, environment: Mapping[str, str]) -> Iterator[Path]:
    """$HF_HUB_CACHE, else hub/ in $HF_HOME, else in the cache folder (huggingface_hub/constants.py)."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environment.get(name, "").strip():
            yield _path(environment[name], Path.cwd())
            return
    if environment.get("HF_HOME", "").strip():
        yield _path(environment["HF_HOME"], Path.cwd()) / "hub"
    elif environment.get("XDG_CACHE_HOME", "").strip():
        yield _path(environment["XDG_CACHE_HOME"], Path.cwd()) / "huggingface" / "hub"
    elif home:
        yield home / ".cache" / "huggingface" / "hub"


def _path(text: str, base: Path) -> Path:
    """A path as people write them: with ~ and variables, or relative to `base`."""
    expanded = Path(os.path.expandvars(text.strip()))
    with contextlib.suppress(RuntimeError):  # ~nobody
        expanded = expanded.expanduser()
    return Path(os.path.normpath(base / expanded))


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _inside(folder: Path, root: Path) -> bool:
    """The workspace's own folders are listed elsewhere."""
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root))


# ---------------------------------------------------------------- what is in a place


@dataclass(frozen=True)
class _Listing:
    """What stands in a folder."""

    is_model: bool
    files: tuple[str, ...]
    folders: tuple[str, ...]


_LISTINGS: dict[str, tuple[int, _Listing]] = {}
"""By folder, with its time of change: large ones are looked at again and again."""
COARSE_SECONDS = 2.0
"""Times of folders are coarse: what came in the same instant as the last look would be missed."""


def _candidates(folder: Path, deeper: int, seen: set[tuple[int, int]]) -> Iterator[Path]:
    state = folder.stat()
    if (state.st_dev, state.st_ino) in seen:  # a link that leads back up
        return
    seen.add((state.st_dev, state.st_ino))
    listing = _listing(folder, state.st_mtime_ns)
    if listing.is_model:
        yield folder
        return
    yield from (folder / name for name in listing.files)
    for name in listing.folders:
        inner = folder / name
        with contextlib.suppress(OSError):
            if deeper:
                yield from _candidates(inner, deeper - 1, seen)
            elif (inner / "model_index.json").is_file():
                yield inner


def _listing(folder: Path, changed: int) -> _Listing:
    known = _LISTINGS.get(str(folder))
    if known and known[0] == changed and time.time() - changed / 1e9 > COARSE_SECONDS:
        return known[1]
    files: list[str] = []
    folders: list[str] = []
    is_model = False
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count >= MOST_ENTRIES:
                break
            is_model = is_model or entry.name == "model_index.json"
            if entry.name.startswith("."):
                continue
            with contextlib.suppress(OSError):
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                    files.append(entry.name)
    listing = _Listing(is_model, tuple(files), tuple(folders))
    if len(_LISTINGS) > MOST_ENTRIES:
        _LISTINGS.clear()
    _LISTINGS[str(folder)] = changed, listing
    return listing


def _cached_snapshots(cache: Path) -> Iterator[Path]:
    """Of each model in the hub's cache the snapshot that `main` means, else the newest one that is a diffusers folder."""
    try:
        names = [name for name in os.listdir(cache) if re.fullmatch(r"models--[^/]+", name)][:MOST_ENTRIES]
    except OSError:
        return
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            snapshots = cache / name / "snapshots"
            whole = [path for path in snapshots.iterdir() if (path / "model_index.json").is_file()]
            main = cache / name / "refs" / "main"
            commit = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
            meant = [path for path in whole if path.name == commit]
            if meant or whole:
                yield meant[0] if meant else max(whole, key=lambda path: path.stat().st_mtime_ns)
