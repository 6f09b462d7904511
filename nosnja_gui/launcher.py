"""Starts a run in a process of its own that outlives the window, and ends it. Knows neither torch nor gradio.

A process is found again by what it wrote into the run folder, so this works after a restart of the window, too.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nosnja_gui.files import write_atomic
from nosnja_gui.processes import start_mark
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace

LEAVING_SECONDS = 20.0
"""How long a process may take that has logged its end, until it is gone."""
PROGRAM = Path(__file__).resolve().parents[1]
VERBS = {"download": ("model", "download")}
"""The words that go on with a run, where they are others than its kind of job."""


def start(run: RunFolder, workspace: Workspace | None = None, environment: Mapping[str, str] | None = None) -> int:
    """Begin the run, or go on with it, detached; returns the process number. Raises UserError where it runs already.

    A run that waited in the queue waits no longer. `environment` is added to the process's own and written nowhere: a token, say.
    """
    job = run.job().job
    command = [sys.executable, "-m", "nosnja_gui", *VERBS.get(job, (job,)), str(run.path.absolute())]
    if living := run.living():
        raise UserError(f"{run.path} is in use by process {living[0]['pid']}: wait until it ends, or stop it.")
    run.clear_requests(since_begin=True)
    log_bytes = run.log_bytes()
    pid = detach(command, workspace, run.console, **({"environment": environment} if environment else {}))
    entry = {"pid": pid, "start": start_mark(pid), "log_bytes": log_bytes, "command": command}
    write_atomic(run.process, json.dumps(entry, indent=2))
    run.queued.unlink(missing_ok=True)
    return pid


def detach(command: Sequence[str], workspace: Workspace | None, console: Path, environment: Mapping[str, str] | None = None) -> int:
    """Run a command of this program in a process that outlives this one, what it prints appended to a file."""
    with open(console, "ab") as output:
        process = subprocess.Popen(
            command,
            cwd=PROGRAM,
            env={**_environment(workspace), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=os.name != "nt",
            creationflags=_windows_flags(),
        )
    # Collects the exit status if this process is still there to do so: an uncollected one would stay as a zombie.
    threading.Thread(target=process.wait, daemon=True).start()
    return process.pid


def _environment(workspace: Workspace | None) -> dict[str, str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
    if workspace is not None:
        environment["NOSNJA_WORKSPACE"] = str(workspace.root.absolute())
    return environment


def _windows_flags() -> int:
    if os.name != "nt":
        return 0
    return subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW


def alive(run: RunFolder) -> bool:
    """Whether a process works on this run, whoever started it."""
    return bool(run.living())


def left_alone(run: RunFolder) -> bool:
    """Whether no process works on this run. One that has logged its end is waited for: it goes on being there for a moment."""
    until = time.monotonic() + LEAVING_SECONDS
    while run.living():
        if time.monotonic() > until or run.status().state == "running":
            return False
        time.sleep(0.1)
    return True


def stop(run: RunFolder, kill: bool = False) -> None:
    """Ask the run to save and end, which it does after its step; `kill` ends it and its children at once, unsaved."""
    if not kill:
        run.request("stop")
        return
    import psutil

    for entry in run.living():
        pid = entry["pid"]
        assert pid != os.getpid(), "this process would end itself"
        try:
            process = psutil.Process(pid)
            family = [*process.children(recursive=True), process]
        except psutil.NoSuchProcess:
            continue
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
            except psutil.AccessDenied:
                raise UserError(f"Process {pid} belongs to somebody else and cannot be ended.") from None
        psutil.wait_procs(family, timeout=10)
