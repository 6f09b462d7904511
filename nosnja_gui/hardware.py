"""What the machine has and how busy it is: GPUs (asked of nvidia-smi, so that nothing heavy is loaded), memory, disk."""

import contextlib
import functools
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nosnja_gui.files import free_bytes

QUERY = ["--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
LOAD_QUERY = [
    "--query-gpu=name,utilization.gpu,memory.used,memory.total,temperature.gpu,power.draw,power.limit",
    "--format=csv,noheader,nounits",
]
ASK_TIMEOUT_SECONDS = 10
FRESH_SECONDS = 2.0
"""How long a reading is shown before a new one is asked for."""


@dataclass(frozen=True)
class Gpu:
    name: str
    total_bytes: int
    """0 where the card doesn't say."""
    free_bytes: int


@dataclass(frozen=True)
class GpuLoad:
    """A card at this moment. None where it doesn't say."""

    name: str
    percent: float | None = None
    used_bytes: int | None = None
    total_bytes: int | None = None
    celsius: float | None = None
    watts: float | None = None
    watts_limit: float | None = None


@dataclass(frozen=True)
class Load:
    """How busy the machine is."""

    gpus: tuple[GpuLoad, ...] = ()
    cpu_percent: float | None = None
    memory_used: int = 0
    memory_total: int = 0


def gpus() -> list[Gpu]:
    """The NVIDIA cards; empty without one or without its driver."""
    return parse_gpus(_ask(QUERY))


def _ask(query: list[str]) -> str:
    """What nvidia-smi answers; nothing without a card or its driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        return subprocess.run(
            [program, *query], capture_output=True, text=True, timeout=ASK_TIMEOUT_SECONDS, check=True, creationflags=_no_console()
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _no_console() -> int:
    return subprocess.CREATE_NO_WINDOW if os.name == "nt" else 0  # asked every two seconds: no black window may flash up


def parse_gpus(text: str) -> list[Gpu]:
    """Lines of `name, total MiB, free MiB`."""
    fields = [[field.strip() for field in line.rsplit(",", 2)] for line in text.splitlines() if line.strip()]
    return [Gpu(name, _mebibytes(total), _mebibytes(free)) for name, total, free in (row for row in fields if len(row) == 3)]


def _mebibytes(text: str) -> int:
    return int(text) * 2**20 if text.isdigit() else 0  # cards that share the machine's memory say [N/A]


def parse_loads(text: str) -> tuple[GpuLoad, ...]:
    """Lines of `name, load %, used MiB, total MiB, degrees, watts, limit in watts`; cards write [N/A] for what they don't measure."""
    rows = [[field.strip() for field in line.rsplit(",", 6)] for line in text.splitlines() if line.strip()]
    return tuple(
        GpuLoad(name, _number(load), _mebibytes(used) or None, _mebibytes(total) or None, _number(degrees), _number(watts), _number(limit))
        for name, load, used, total, degrees, watts, limit in (row for row in rows if len(row) == 7)
    )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value and abs(value) != float("inf") else None


def load() -> Load:
    """Asks the machine: takes up to a second where there are GPUs. The processors' load is that since the last call."""
    import psutil

    now = psutil.virtual_memory()
    return Load(parse_loads(_ask(LOAD_QUERY)), psutil.cpu_percent(), now.total - now.available, now.total)


class Meter:
    """The newest reading, at once: a new one is asked for in the background when the last one is no longer fresh."""

    def __init__(self, ask: Callable[[], Load] = load, fresh_seconds: float = FRESH_SECONDS) -> None:
        self._ask, self._fresh = ask, fresh_seconds
        self._lock = threading.Lock()
        self._asking = False
        self._at = float("-inf")
        self._read: Load | None = None

    def now(self) -> Load | None:
        """None until the first answer has come."""
        with self._lock:
            if not self._asking and time.monotonic() - self._at >= self._fresh:
                self._asking = True
                threading.Thread(target=self._measure, name="hardware", daemon=True).start()
            return self._read

    def _measure(self) -> None:
        read = None
        with contextlib.suppress(Exception):  # whatever an odd driver does, the last reading stays and the window goes on
            read = self._ask()
        with self._lock:
            self._read, self._at, self._asking = read or self._read, time.monotonic(), False


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


@functools.cache
def torch_cuda() -> str | None:
    """CUDA version that torch was built with, read from its files; None for a build for the processor only."""
    found = importlib.util.find_spec("torch")
    file = Path(found.origin).parent / "version.py" if found and found.origin else None
    if file is None or not file.is_file():
        return None
    match = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)['\"]", file.read_text(encoding="utf-8"), re.MULTILINE)
    return match[1] if match else None
