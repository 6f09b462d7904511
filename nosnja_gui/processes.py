"""Whether a process still lives, told by its number *and* its start, because the system uses numbers again."""

import os
from pathlib import Path


def start_mark(pid: int) -> str | None:
    """What tells this process from an earlier or later one of the same number; None if none lives (a zombie doesn't)."""
    if Path("/proc/self/stat").exists():
        return _start_mark_linux(pid)
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except (psutil.Error, ValueError):
        return None


def _start_mark_linux(pid: int) -> str | None:
    # Ticks since the boot, not the time of day: setting the clock must not make a living process look dead.
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()  # the name in front may hold blanks and brackets
    return None if state in "ZX" else f"{_boot()}:{rest[18]}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()[:8]
    except OSError:
        return "boot"


def is_alive(pid: object, mark: object) -> bool:
    """Whether the process of that number and start mark lives; False for values that are no such thing."""
    return isinstance(pid, int) and not isinstance(pid, bool) and pid > 0 and isinstance(mark, str) and start_mark(pid) == mark


def self_mark() -> dict[str, object]:
    """This process as it is written into lock and process files."""
    return {"pid": os.getpid(), "start": start_mark(os.getpid())}
