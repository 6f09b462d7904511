"""What the machine has: GPUs (asked of nvidia-smi, so that nothing heavy is loaded), memory, disk."""

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nosnja_gui.files import free_bytes

QUERY = ["--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
ASK_TIMEOUT_SECONDS = 10


@dataclass(frozen=True)
class Gpu:
    name: str
    total_bytes: int
    """0 where the card doesn't say."""
    free_bytes: int


def gpus() -> list[Gpu]:
    """The NVIDIA cards; empty without one or without its driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        answer = subprocess.run([program, *QUERY], capture_output=True, text=True, timeout=ASK_TIMEOUT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(answer.stdout)


def parse_gpus(text: str) -> list[Gpu]:
    """Lines of `name, total MiB, free MiB`."""
    fields = [[field.strip() for field in line.rsplit(",", 2)] for line in text.splitlines() if line.strip()]
    return [Gpu(name, _mebibytes(total), _mebibytes(free)) for name, total, free in (row for row in fields if len(row) == 3)]


def _mebibytes(text: str) -> int:
    return int(text) * 2**20 if text.isdigit() else 0  # cards that share the machine's memory say [N/A]


def memory() -> tuple[int, int]:
    """Total and free bytes of the machine's memory."""
    import psutil

    now = psutil.virtual_memory()
    return now.total, now.available


def describe(folder: Path | None = None) -> dict[str, Any]:
    """Machine and program versions as plain values; `folder` is where the disk is measured."""
    total, free = memory()
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "executable": sys.executable,
        "processors": os.cpu_count() or 1,
        "memory_bytes": total,
        "memory_free_bytes": free,
        "disk_free_bytes": free_bytes(folder or Path.cwd()),
        "gpus": gpus(),
    }
