"""Where the user's datasets, models and runs live. Knows paths only, never what is in the files."""

import os
import re
from pathlib import Path
from typing import Literal

from nosnja_gui.settings import UserError

Kind = Literal["datasets", "models", "runs"]
KINDS: tuple[Kind, ...] = ("datasets", "models", "runs")


class Workspace:
    """A folder with the subfolders datasets/, models/, runs/ and .cache/. Nothing is made until `create`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.datasets, self.models, self.runs = (root / kind for kind in KINDS)
        self.cache = root / ".cache"

    @classmethod
    def default(cls) -> "Workspace":
        """$NOSNJA_WORKSPACE, or `workspace` beside the program."""
        given = os.environ.get("NOSNJA_WORKSPACE")
        return cls(Path(given).expanduser().absolute() if given else Path(__file__).resolve().parents[1] / "workspace")

    def create(self) -> "Workspace":
        """Make the folders that are missing. Raises UserError where that is not allowed."""
        try:
            for folder in (self.datasets, self.models, self.runs, self.cache):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"The workspace {self.root} cannot be made ({error.strerror}): choose another folder.") from None
        return self

    def new_run(self, name: str) -> Path:
        """runs/<name>-001 or the number after the highest there is; not created. The name is made fit for a file name."""
        stem = file_name(name)
        pattern = re.compile(re.escape(stem) + r"-(\d+)")
        taken = [entry.name for entry in self.runs.iterdir()] if self.runs.is_dir() else []
        numbers = [int(match[1]) for entry in taken if (match := pattern.fullmatch(entry))]
        return self.runs / f"{stem}-{max(numbers, default=0) + 1:03d}"

    def resolve(self, kind: Kind, identifier: str) -> Path:
        """The existing entry of that name, which may be nested. Raises UserError for what is not inside the workspace or not there."""
        assert kind in KINDS, kind
        folder = self.root / kind
        bad = UserError(f"There is no {kind[:-1]} '{identifier}' in {folder}: choose one of those that are there.")
        if not identifier.strip() or "\0" in identifier or len(identifier) > 1000:
            raise bad
        try:
            path = (folder / identifier).resolve(strict=True)
        except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
            raise bad from None
        if path == folder.resolve() or not path.is_relative_to(folder.resolve()):
            raise bad
        return path


def file_name(name: str, longest: int = 80) -> str:
    """The name with everything that some system dislikes in a file name turned into '-'; never empty, never hidden."""
    return re.sub(r"[^\w.+-]+", "-", name)[:longest].strip("-. ") or "run"
