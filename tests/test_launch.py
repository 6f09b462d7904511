"""The launchers and the installer behind them; without network: commands are written down instead of being run."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nosnja_gui import install
from nosnja_gui.install import InstallError, Place

ROOT = Path(__file__).parents[1]
OURS = sys.version_info[:2]


class Commands:
    """Stands in for running: remembers each command as text; those with a word of `failing` in them fail."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.texts: list[str] = []

    def __call__(self, command) -> int:
        text = " ".join(str(part) for part in command)
        self.texts.append(text)
        return 1 if any(word in text for word in self.failing) else 0


@pytest.fixture(scope="session")
def bare_venv(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("venv") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder


@pytest.fixture
def place(tmp_path, bare_venv, monkeypatch) -> Place:
    """A program's folder with a space in its path, a venv whose pip answers, and no GPU."""
    root = tmp_path / "a b" / "program"
    (root / "tests").mkdir(parents=True)
    (root / "requirements.txt").write_text("torch==2.13.0\n")
    (root / "tests" / "requirements.txt").write_text("pytest\n")
    shutil.copytree(bare_venv, root / ".venv", symlinks=True)
    package = next((root / ".venv").glob("lib/python*/site-packages")) / "pip"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import sys\nprint('pip' if '--version' in sys.argv else '')\n")
    monkeypatch.setattr(install.shutil, "which", lambda name: None)
    return Place(root)


def with_gpu(monkeypatch, output: str | None = "GPU 0: NVIDIA") -> None:
    monkeypatch.setattr(install.shutil, "which", lambda name: f"/bin/{name}")
    real = install.output_of
    monkeypatch.setattr(install, "output_of", lambda command, **options: output if "nvidia-smi" in str(command[0]) else real(command))


def install_it(place: Place, run: Commands, tests: bool = False) -> None:
    install.install(place, tests, Path(sys.executable), run)


def test_a_finished_install_is_not_done_again(place):
    first, second = Commands(), Commands()
    install_it(place, first)
    install_it(place, second)
    assert first.texts and not second.texts
    assert install.is_ready(place, tests=False)


@pytest.mark.parametrize("change", ["requirements", "interrupted", "stamp", "python"])
def test_what_makes_it_install_again(place, change):
    install_it(place, Commands())
    if change == "requirements":
        place.requirements.write_text("torch==2.14.0\n")
    elif change == "interrupted":
        place.marker.touch()
    elif change == "stamp":
        place.stamp(place.requirements).write_text("{half")
    else:
        configuration = place.venv / "pyvenv.cfg"
        configuration.write_text(configuration.read_text().replace(f"version = {OURS[0]}.{OURS[1]}", "version = 3.10"))
    assert not install.is_ready(place, tests=False)


def test_line_ends_of_the_requirements_do_not_matter(place):
    install_it(place, Commands())
    place.requirements.write_bytes(b"torch==2.13.0\r\n")
    assert install.is_ready(place, tests=False)


def test_an_install_that_fails_says_so_and_is_gone_on_with(place, capsys):
    with pytest.raises(InstallError, match="the same command goes on"):
        install_it(place, Commands("pip install"))
    assert place.marker.exists() and not install.is_ready(place, tests=False)
    install_it(place, Commands())
    assert "interrupted: going on" in capsys.readouterr().err
    assert not place.marker.exists() and install.is_ready(place, tests=False)


def test_a_package_that_was_cut_off_is_forgotten(place):
    packages = next(place.venv.glob("lib/python*/site-packages"))
    for name in ("whole-1.0", "half-1.0"):
        (packages / f"{name}.dist-info").mkdir()
        (packages / f"{name}.dist-info" / "METADATA").touch()
    (packages / "whole-1.0.dist-info" / "RECORD").touch()
    assert install.remove_half_installed(place) == ["half-1.0"]
    assert [info.name for info in packages.glob("*.dist-info")] == ["whole-1.0.dist-info"]


def test_a_broken_venv_is_made_anew(place, capsys):
    (place.venv / "rest").write_text("of an older venv")
    place.python.unlink()
    run = Commands()
    install_it(place, run)
    assert "-m venv" in run.texts[0] and "making it anew" in capsys.readouterr().err
    assert not (place.venv / "rest").exists() and (place.venv / install.LOCK_NAME).exists()


def test_tests_need_more_and_never_change_what_the_program_pins(place):
    install_it(place, Commands())
    assert not install.is_ready(place, tests=True)
    run = Commands()
    install_it(place, run, tests=True)
    (command,) = run.texts
    assert f"-r {place.test_requirements}" in command and f"-c {place.requirements}" in command
    assert install.is_ready(place, tests=True)


SOURCES = {"find-links": "/wheels"}


@pytest.mark.parametrize(
    ("accelerator", "platform", "sources", "expected"),
    [
        ("gpu", "linux", SOURCES, "--torch-backend=auto"),
        ("gpu", "win32", {}, "--torch-backend=auto"),
        ("cpu", "linux", {}, "--torch-backend=cpu"),
        ("cpu", "linux", SOURCES, "-m pip install"),
        ("cpu", "darwin", {}, "-m pip install"),
        ("cpu", "win32", {}, "-m pip install"),
    ],
)
def test_which_torch(place, accelerator, platform, sources, expected):
    run = Commands()
    install.install_program(place, accelerator, sources, run, platform)
    assert expected in run.texts[-1] and f"-r {place.requirements}" in run.texts[-1]
    assert (" uv " in run.texts[-1]) == ("backend" in expected)


def test_an_index_that_pip_was_given_is_given_to_uv(place):
    run = Commands()
    install.install_program(place, "gpu", {"index-url": "file:///mirror"}, run, "linux")
    assert "--default-index file:///mirror" in run.texts[-1]


def test_pip_stands_in_where_uv_fails(place, capsys):
    run = Commands("torch-backend")
    install.install_program(place, "gpu", {}, run, "win32")
    assert "-m pip install" in run.texts[-1] and "torch-backend" not in run.texts[-1]
    assert "delete the folder .venv" in capsys.readouterr().err


def test_a_gpu_that_came_later_replaces_torch(place, monkeypatch):
    install_it(place, Commands())
    with_gpu(monkeypatch)
    assert not install.is_ready(place, tests=False)
    run = Commands()
    install_it(place, run)
    assert "--reinstall-package torch" in run.texts[-1]
    with_gpu(monkeypatch, output=None)
    assert install.is_ready(place, tests=False), "a torch for the GPU also runs without one"


def test_nvidia_smi_without_a_gpu_is_no_gpu(place, monkeypatch):
    with_gpu(monkeypatch, output=None)
    assert install.find_accelerator(place) == "cpu"


def test_sources_are_read_from_pip():
    config = "global.find-links='/opt/wheels'\n:env:.extra-index-url='file:///a file:///b'\nglobal.timeout='60'\n"
    assert install.pip_sources(config) == {"find-links": "/opt/wheels", "extra-index-url": "file:///a file:///b"}


@pytest.mark.parametrize(("version", "suits"), [((2, 7), False), ((3, 10), False), ((3, 11), True), ((3, 13, 1), True), ((3, 14), False)])
def test_which_python_suits(version, suits):
    assert install.version_suits(version) is suits


def test_a_second_start_waits_for_the_first(place):
    order: list[str] = []

    def second() -> None:
        with install.alone(place):
            order.append("second")

    with install.alone(place):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


# --- the launchers themselves ---


@pytest.fixture
def installed(place) -> Path:
    """A program's folder in which everything is installed and each verb prints its arguments and exits with 7."""
    for name in ("launch.sh", "nosnja_gui/install.py"):
        (place.root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, place.root / name)
    program = "import os, sys\nprint({name!r}, sys.argv[1:], os.getcwd())\nsys.exit(7)\n"
    (place.root / "nosnja_gui" / "__init__.py").touch()
    (place.root / "nosnja_gui" / "__main__.py").write_text(program.format(name="verb"))
    (place.root / "app.py").write_text(program.format(name="window"))
    for requirements in (place.requirements, place.test_requirements):
        # With "gpu" written down nvidia-smi isn't asked, whatever the machine has.
        stamp = {**install.wanted_stamp(place, requirements), "accelerator": "gpu"}
        place.stamp(requirements).write_text(json.dumps(stamp))
    return place.root


def launch(root: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = ["bash", str(root / "launch.sh"), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["check", "a b", "--set", "x=1"], "verb ['check', 'a b', '--set', 'x=1']"),
        ([], "window []"),
        (["--port", "1"], "window ['--port', '1']"),
    ],
)
def test_verbs_arguments_and_exit_codes_pass_through(installed, tmp_path, arguments, expected):
    # Names that a Python started carelessly in this folder would take for its own modules.
    (tmp_path / "json.py").write_text("raise SystemExit(99)")
    (tmp_path / "nosnja_gui").mkdir()
    done = launch(installed, *arguments, cwd=tmp_path)
    assert done.stdout.strip() == f"{expected} {tmp_path}", done.stderr
    assert done.returncode == 7 and not done.stderr


def test_the_tests_run_ruff_then_pytest(installed, tmp_path):
    packages = next((installed / ".venv").glob("lib/python*/site-packages"))
    (packages / "ruff.py").write_text("import sys\nprint('ruff', sys.argv[1:], flush=True)\n")
    (packages / "pytest.py").write_text("import sys\nprint('pytest', sys.argv[1:])\nsys.exit(5)\n")
    done = launch(installed, "test", "-k", "a or b", cwd=tmp_path)
    assert done.stdout.splitlines() == ["ruff ['check', '.']", "pytest ['-k', 'a or b']"]
    assert done.returncode == 5
    (packages / "ruff.py").write_text("raise SystemExit(3)")
    assert launch(installed, "test", cwd=tmp_path).returncode == 3


def test_the_shell_script_is_whole():
    subprocess.run(["bash", "-n", ROOT / "launch.sh"], check=True)
    assert b"\r" not in (ROOT / "launch.sh").read_bytes()
    assert "bash launch.sh test" in (ROOT / ".ci" / "run").read_text()


def test_the_batch_file_does_the_same_as_the_shell_script():
    batch, shell = (ROOT / "launch.bat").read_bytes().decode("ascii"), (ROOT / "launch.sh").read_text()
    programs = ("-m nosnja_gui", "app.py", "-m ruff check .", "-m pytest", "uv python install 3.12")
    for piece in (*programs, " ready ", " install ", " suitable", "--tests"):
        assert piece in batch and piece in shell, piece
    assert set(jumps(batch)) <= {line[1:].strip() for line in batch.splitlines() if line.startswith(":")}
    assert "*.bat text eol=crlf" in (ROOT / ".gitattributes").read_text()
    # A block in brackets would be ended by a bracket in a path, and expands its variables too early.
    assert not any(line.rstrip().endswith("(") for line in batch.splitlines())


def jumps(batch: str) -> list[str]:
    """Labels that the batch file jumps to."""
    return re.findall(r"(?:goto |call :)(\w+)", batch)
