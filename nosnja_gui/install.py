"""Makes `.venv` beside the program and installs what it needs. The launchers run this file, by its path, before anything is there.

Must not import anything but the standard library, nor the rest of this package: nothing else is installed yet.

    python -I nosnja_gui/install.py suitable    is this a Python to build on? (exit code 0)
    python -I nosnja_gui/install.py ready       is all installed already? (exit code 0; asked at every start, so it is quick)
    python -I nosnja_gui/install.py install     make it so
    ... --tests                                 with what the tests need, too
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

OLDEST, NEWEST = (3, 11), (3, 13)
Accelerator = Literal["gpu", "cpu"]
Run = Callable[[Sequence[str | Path]], int]
"""Runs a command, its output on the user's terminal; gives its exit code."""


class InstallError(Exception):
    """One sentence for the user."""


def say(text: str) -> None:
    print(f"[nosnja] {text}", file=sys.stderr, flush=True)


def run(command: Sequence[str | Path]) -> int:
    return subprocess.call([str(part) for part in command])


def output_of(command: Sequence[str | Path], timeout_seconds: float | None = None) -> str | None:
    """What a command prints; None where it can't be run, fails or takes too long."""
    words = [str(part) for part in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=timeout_seconds, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


@dataclass(frozen=True)
class Place:
    """The files that the installer knows, below the program's folder."""

    root: Path

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        return self.venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def requirements(self) -> Path:
        return self.root / "requirements.txt"

    @property
    def test_requirements(self) -> Path:
        return self.root / "tests" / "requirements.txt"

    @property
    def marker(self) -> Path:
        """There while something is being installed: if it is there at a start, that was interrupted."""
        return self.venv / "nosnja-installing"

    def stamp(self, requirements: Path) -> Path:
        """What was installed last, as JSON."""
        return self.venv / ("nosnja-tests.json" if requirements == self.test_requirements else "nosnja-installed.json")


# --- what is there ---


def version_suits(version: tuple[int, ...]) -> bool:
    return OLDEST <= version[:2] <= NEWEST


def suitable() -> bool:
    """Whether the Python that runs this can make the venv. Debian's comes without ensurepip unless python3-venv is installed."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return False
    return version_suits(sys.version_info)


def venv_version(place: Place) -> tuple[int, int] | None:
    """Python version the venv was made for, from its configuration; None where there is none."""
    try:
        lines = (place.venv / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    values = dict(line.replace(" ", "").split("=", 1) for line in lines if "=" in line)
    try:
        major, minor = (values.get("version") or values["version_info"]).split(".")[:2]
        return int(major), int(minor)
    except (KeyError, ValueError):
        return None


def read_stamp(stamp: Path) -> dict[str, str]:
    try:
        values = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def find_accelerator(place: Place) -> Accelerator:
    """Whether torch should be one for an NVIDIA GPU.

    Where it once was for a GPU it stays so: such a torch runs on the CPU, too, and nvidia-smi can take seconds.
    The other way round nvidia-smi is asked again: a driver that was installed since must be noticed.
    """
    if read_stamp(place.stamp(place.requirements)).get("accelerator") == "gpu":
        return "gpu"
    program = shutil.which("nvidia-smi")
    return "gpu" if program and "GPU" in (output_of([program, "-L"], timeout_seconds=60) or "") else "cpu"


def wanted_stamp(place: Place, requirements: Path) -> dict[str, str]:
    """The stamp that a finished install of these requirements leaves."""
    version = venv_version(place)
    return {
        "requirements": hashlib.sha256(requirements.read_bytes().replace(b"\r\n", b"\n")).hexdigest(),
        "python": ".".join(map(str, version)) if version else "",
        "accelerator": find_accelerator(place),
    }


def is_installed(place: Place, requirements: Path) -> bool:
    return not place.marker.exists() and read_stamp(place.stamp(requirements)) == wanted_stamp(place, requirements)


def wanted(place: Place, tests: bool) -> list[Path]:
    return [place.requirements, place.test_requirements] if tests else [place.requirements]


def is_ready(place: Place, tests: bool) -> bool:
    """Asked by the venv's own Python: a system update may have put another Python under the venv."""
    return venv_version(place) == tuple(sys.version_info[:2]) and all(is_installed(place, file) for file in wanted(place, tests))


def pip_sources(config: str) -> dict[str, str]:
    """Where pip was told to find packages, from the output of `pip config list`: {"find-links": "/wheels"}."""
    sources = {}
    for line in config.splitlines():
        name, _, value = line.partition("=")
        option = name.rpartition(".")[2].strip()
        if option in ("index-url", "extra-index-url", "find-links", "no-index"):
            sources[option] = value.strip().strip("'\"")
    return sources


# --- installing ---


def pip_command(place: Place, requirements: Path) -> list[str | Path]:
    # With a terminal pip shows its bars; a log gets our lines and pip's errors only.
    quiet = [] if sys.stderr.isatty() else ["-qq"]
    constraint = ["-c", place.requirements] if requirements != place.requirements else []
    return [place.python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *quiet, "-r", requirements, *constraint]


def uv_command(place: Place, backend: Literal["auto", "cpu"], index: str, replace_torch: bool) -> list[str | Path]:
    command: list[str | Path] = [place.python, "-m", "uv", "pip", "install", "--python", place.python, f"--torch-backend={backend}"]
    if replace_torch:
        # The same version in another build counts as installed.
        command += ["--reinstall-package", "torch"]
    return [*command, *(["--default-index", index] if index else []), "-r", place.requirements]


def install_program(place: Place, accelerator: Accelerator, sources: dict[str, str], run: Run, platform: str = sys.platform) -> None:
    """Install requirements.txt with the torch that fits the machine.

    The plain package index has one torch per system: on Linux the large CUDA one, on Windows and macOS the CPU's.
    uv can choose another, so it is used where that one is wrong: for an NVIDIA GPU (on Linux, too: it takes the build
    that fits the driver), and for Linux without one. But uv doesn't read pip's configuration: where somebody has told
    pip where to find packages and there is no GPU to care for, pip knows better. pip also stands in where uv fails.
    """
    before = read_stamp(place.stamp(place.requirements)).get("accelerator")
    use_uv = accelerator == "gpu" or (platform.startswith("linux") and not sources)
    if use_uv:
        backend: Literal["auto", "cpu"] = "auto" if accelerator == "gpu" else "cpu"
        say(f"Installing with the torch for {'your NVIDIA GPU' if accelerator == 'gpu' else 'the CPU'}: this takes a few minutes.")
        command = uv_command(place, backend, sources.get("index-url", ""), replace_torch=accelerator == "gpu" and before == "cpu")
        if run([place.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"]) == 0 and run(command) == 0:
            return
        say("uv did not manage it; going on with pip.")
        if accelerator == "gpu" and platform == "win32":
            say("pip only has a torch for the CPU here: to try again for the GPU, delete the folder .venv and start again.")
    else:
        say("Installing with pip: this takes a few minutes and about 2 GB.")
    if run(pip_command(place, place.requirements)) != 0:
        raise failed(place)


def install_tests(place: Place, run: Run) -> None:
    say("Installing what the tests need.")
    if run(pip_command(place, place.test_requirements)) != 0:
        raise failed(place)


def failed(place: Place) -> InstallError:
    free = shutil.disk_usage(place.root).free / 1e9
    reason = f"the disk has only {free:.1f} GB left" if free < 2 else "the reason stands above"
    return InstallError(f"Installing did not succeed, {reason}; once that is mended, the same command goes on from here.")


def make_venv(place: Place, base: Path, run: Run) -> None:
    """A working .venv: the one that is there, or a new one. The lock file in it stays, others may be waiting for it."""
    if output_of([place.python, "-m", "pip", "--version"]) and venv_runs(place):
        return
    if (place.venv / "pyvenv.cfg").exists():
        say("The .venv that is there is broken or incomplete: making it anew.")
    else:
        say("Making .venv.")
    for entry in place.venv.iterdir():
        if entry.name == LOCK_NAME:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    if run([base, "-m", "venv", place.venv]) != 0:
        raise InstallError(f"{base} cannot make a virtual environment in {place.venv}: see the lines above.")


def venv_runs(place: Place) -> bool:
    """Whether the venv's Python is of a version that suits and of the one that its packages were installed for."""
    text = output_of([place.python, "-c", "import sys; print(*sys.version_info[:2])"])
    version = tuple(map(int, text.split())) if text else ()
    return version_suits(version) and version == venv_version(place)


def remove_half_installed(place: Place) -> list[str]:
    """Forget packages whose copying was cut off, so that they are installed again: both pip and uv write RECORD last."""
    site_packages = [*place.venv.glob("lib/python*/site-packages"), *place.venv.glob("Lib/site-packages")]
    halves = [info for folder in site_packages for info in folder.glob("*.dist-info") if not (info / "RECORD").exists()]
    for info in halves:
        shutil.rmtree(info)
    return [info.name.removesuffix(".dist-info") for info in halves]


LOCK_NAME = "nosnja-install.lock"


@contextlib.contextmanager
def alone(place: Place) -> Iterator[None]:
    """Wait until no other start is installing. The system frees the lock of a process that dies, so none is ever stale."""
    place.venv.mkdir(exist_ok=True)
    with open(place.venv / LOCK_NAME, "a+b") as file:
        if not _lock(file.fileno(), wait=False):
            say("Another start is installing; waiting for it.")
            while not _lock(file.fileno(), wait=True):
                pass
        yield


def _lock(handle: int, wait: bool) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # LK_LOCK gives up after ten seconds
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        import errno

        return error.errno != errno.EDEADLK  # Windows' "still locked"; a network folder without locks goes on without
    return True


def install(place: Place, tests: bool, base: Path, run: Run = run) -> None:
    """Bring .venv up to date. Raises InstallError. What is there already stays, so an interrupted install goes on."""
    try:
        with alone(place):
            if place.marker.exists():
                say("The last install was interrupted: going on with it.")
            make_venv(place, base, run)
            missing = [file for file in wanted(place, tests) if not is_installed(place, file)]
            if not missing:
                return  # another start did it while this one waited
            place.marker.touch()
            remove_half_installed(place)
            for requirements in missing:
                stamp = wanted_stamp(place, requirements)
                if requirements == place.test_requirements:
                    install_tests(place, run)
                else:
                    sources = pip_sources(output_of([place.python, "-m", "pip", "config", "list"]) or "")
                    install_program(place, "gpu" if stamp["accelerator"] == "gpu" else "cpu", sources, run)
                place.stamp(requirements).write_text(json.dumps(stamp), encoding="utf-8")
            place.marker.unlink()
            say("Installed.")
    except OSError as error:
        raise InstallError(f"{place.venv} cannot be written to ({error}): move the program to a folder of yours.") from None


def main(arguments: list[str]) -> int:
    place = Place(Path(__file__).resolve().parents[1])
    what, tests = arguments[0] if arguments else "install", "--tests" in arguments
    if what == "suitable":
        return 0 if suitable() else 1
    if what == "ready":
        return 0 if is_ready(place, tests) else 1
    try:
        # Not sys.executable: where the launcher was started inside a venv, that may be the very one to be replaced.
        install(place, tests, Path(getattr(sys, "_base_executable", sys.executable)))
    except InstallError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("Interrupted: the same command goes on from here.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
