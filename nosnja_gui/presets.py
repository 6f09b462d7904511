"""Presets: parts of a TrainJob as YAML, with a `title` and an `about` for people."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nosnja_gui.jobs import TrainJob
from nosnja_gui.settings import UserError, merge, merge_dotted, read_yaml

FOLDER = Path(__file__).resolve().parents[1] / "presets"
DEFAULT = "balanced"


@dataclass(frozen=True)
class Preset:
    name: str
    title: str
    about: str
    path: Path


def list_presets(folder: Path = FOLDER) -> list[Preset]:
    """The presets of a folder, the default one first."""
    found = [_describe(path) for path in sorted(folder.glob("*.yaml"))]
    return sorted(found, key=lambda preset: preset.name != DEFAULT)


def _describe(path: Path) -> Preset:
    values = read_yaml(path)
    return Preset(path.stem, str(values.get("title", path.stem)), " ".join(str(values.get("about", "")).split()), path)


def load_preset(name_or_path: str | Path) -> dict[str, Any]:
    """Nested settings of a preset, by its name or as a file (a run.yaml is one, too); not yet checked.

    Raises UserError for an unknown name or an unreadable file.
    """
    values = read_yaml(_find(name_or_path))
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
