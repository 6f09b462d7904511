"""Presets: parts of a TrainJob as YAML, with a `title` and an `about` for people.

The program's own are in its folder `presets` and are never written to; the user's are in the workspace's folder of that name.
"""

import contextlib
import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nosnja_gui.files import write_atomic
from nosnja_gui.jobs import TrainJob
from nosnja_gui.jobs.train import renewed
from nosnja_gui.settings import UserError, dotted, merge, merge_dotted, read_yaml
from nosnja_gui.workspace import Workspace, file_name

FOLDER = Path(__file__).resolve().parents[1] / "presets"
DEFAULT = "balanced"
PERSONAL = (
    "job",
    "name",
    "trigger",
    "model.path",
    "model.vae",
    "lora.start_from",
    "textual_inversion.word",
    "textual_inversion.initial_text",
    "dataset.path",
    "dataset.concepts",
    "preview.prompts",
    "output",
    "prior.folder",
    "prior.class_prompts",
    "prior.class_noun",
)
"""Settings that belong to one piece of work, not to a way of working: no preset says them."""
LONGEST_TITLE = 60


@dataclass(frozen=True)
class Preset:
    name: str
    title: str
    about: str
    path: Path
    own: bool = False
    """Whether it is the user's."""

    @property
    def key(self) -> str:
        """Tells it from all others, the program's and the user's; makes no sense as a path."""
        return f"own:{self.name}" if self.own else self.name


def list_presets(folder: Path = FOLDER) -> list[Preset]:
    """The presets of a folder, the default one first."""
    found = [_describe(path) for path in sorted(folder.glob("*.yaml"))]
    return sorted(found, key=lambda preset: preset.name != DEFAULT)


def own_folder(workspace: Workspace) -> Path:
    return workspace.root / "presets"


def own_presets(folder: Path) -> list[Preset]:
    """The user's presets, by title; files that are none are passed over."""
    found = []
    for path in folder.glob("*.yaml"):
        with contextlib.suppress(UserError):
            found.append(_describe(path, own=True))
    return sorted(found, key=lambda preset: preset.title.casefold())


def save_preset(folder: Path, title: str, job: TrainJob, about: str = "") -> Preset:
    """Keep a job's settings, but for what is personal, as a preset of the user's. One of that title is replaced.

    Raises UserError for a title that is missing, too long or one of the program's, and where it can't be written.
    """
    title = " ".join(title.split())
    if not title or len(title) > LONGEST_TITLE:
        raise UserError(f"A preset needs a name of at most {LONGEST_TITLE} characters.")
    name = file_name(title).lower()
    if any(name == preset.name or title.casefold() == preset.title.casefold() for preset in list_presets()):
        raise UserError(f"'{title}' is one of the program's own presets: choose another name.")
    known = {preset.name: preset for preset in own_presets(folder)}
    if name in known and known[name].title.casefold() != title.casefold():
        raise UserError(f"'{title}' is too much like your preset '{known[name].title}': choose another name.")
    settings = {key: value for key, value in dotted(job.model_dump(mode="json")).items() if key not in PERSONAL}
    values = {"title": title, "about": " ".join(about.split()), **merge_dotted({}, settings)}
    path = folder / f"{name}.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise UserError(f"The preset cannot be written to {folder} ({error.strerror}).") from None
    return _describe(path, own=True)


def delete_preset(preset: Preset) -> None:
    """Delete a preset of the user's. Raises UserError for one of the program's."""
    if not preset.own:
        raise UserError(f"'{preset.title}' is one of the program's own presets and stays.")
    preset.path.unlink(missing_ok=True)


def settings_of(preset: Preset) -> dict[str, Any]:
    """Every setting by dotted name, as the preset and the defaults have it, without what is personal. Raises UserError."""
    values = dotted(train_job(preset.path).model_dump(mode="json"))
    return {name: value for name, value in values.items() if name not in PERSONAL}


def _read(path: Path) -> dict[str, Any]:
    """The file's values, read again only when it changed: a form asks for them at every movement of a slider."""
    try:
        state = path.stat()
    except OSError:
        return read_yaml(path)
    return dict(_read_at(path, state.st_mtime_ns, state.st_size))


@functools.lru_cache(maxsize=256)
def _read_at(path: Path, changed_ns: int, size: int) -> dict[str, Any]:
    return read_yaml(path)


def _describe(path: Path, own: bool = False) -> Preset:
    values = _read(path)
    return Preset(path.stem, str(values.get("title", path.stem)), " ".join(str(values.get("about", "")).split()), path, own)


def load_preset(name_or_path: str | Path) -> dict[str, Any]:
    """Nested settings of a preset, by its name or as a file (a run.yaml is one, too); not yet checked.

    Raises UserError for an unknown name or an unreadable file.
    """
    values = renewed(_read(_find(name_or_path)))
    return {key: value for key, value in values.items() if key not in ("title", "about")}


def _find(name_or_path: str | Path) -> Path:
    known = {preset.stem: preset for preset in sorted(FOLDER.glob("*.yaml"))}
    if str(name_or_path) in known:
        return known[str(name_or_path)]
    path = Path(name_or_path).expanduser()
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    near = difflib.get_close_matches(str(name_or_path), known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}, or the path of a .yaml file."
    raise UserError(f"There is no preset '{name_or_path}': {hint}")


def train_job(preset: str | Path | None, changes: Mapping[str, Any] | None = None) -> TrainJob:
    """The defaults, the preset laid over them, and dotted changes over that.

    Raises one UserError that names every problem, with the nearest known name for a misspelt setting.
    """
    values = merge(TrainJob().model_dump(mode="json"), load_preset(preset) if preset else {})
    where = f"preset '{preset}'" if preset else "the settings"
    return TrainJob.parse(merge_dotted(values, changes or {}), where=f"{where} with changes" if changes else where)
