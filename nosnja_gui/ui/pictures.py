"""Hands pictures of runs to the browser, and nothing else of the workspace: only copies in a folder of their own are served."""

import hashlib
import os
import shutil
from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class Pictures:
    """The served folder. Copies are called after what they are copies of, so a changed picture is a new one to the browser."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def serve(self, run: Path, name: object) -> str | None:
        """Path of the served copy of a run's picture; None if the run has no such picture, inside it."""
        if not isinstance(name, str) or Path(name).suffix.lower() not in SUFFIXES:
            return None
        try:
            source = (run / name).resolve(strict=True)
            state = source.stat()
        except (OSError, RuntimeError, ValueError):
            return None
        if not source.is_relative_to(run.resolve()) or not source.is_file():
            return None
        key = hashlib.sha256(f"{source}\0{state.st_mtime_ns}\0{state.st_size}".encode()).hexdigest()[:32]
        copy = self.folder / (key + source.suffix.lower())
        if not copy.exists():
            partial = copy.with_suffix(f".{os.getpid()}.part")
            shutil.copyfile(source, partial)
            os.replace(partial, copy)
        return str(copy)
