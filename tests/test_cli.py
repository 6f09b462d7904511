"""The command line: each verb as a user types it, and one sentence for whatever is wrong."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nosnja_gui import check, events, hardware, presets
from nosnja_gui.__main__ import changes_of, main, working
from nosnja_gui.jobs import TrainJob
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace

PROGRAM = Path(check.__file__).parents[1]
VERBS = ["demo", "caption", "trigger", "train", "grid", "queue", "presets", "check"]
QUICK = [
    "optimizer.text_encoder_learning_rate=null",
    "training.epochs=1",
    "dataset.repeats=1",
    "dataset.bucket_step=16",
    "preview.every_epochs=0",
    "preview.before_training=false",
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    from tests.small_training import make_workspace

    return make_workspace(tmp_path_factory.mktemp("cli"))


@pytest.fixture
def here(workspace, monkeypatch, tmp_path) -> Workspace:
    """The tiny workspace, and an empty folder to stand in."""
    monkeypatch.setenv("NOSNJA_WORKSPACE", str(workspace.root))
    monkeypatch.chdir(tmp_path)
    return workspace


@pytest.fixture
def say(capsys):
    """Run a command line: (exit code, what it printed, what it complained about)."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def problems_of(answer: tuple[int, str, str]) -> list[str]:
    """The sentences of a refused command."""
    code, _, complaint = answer
    lines = complaint.splitlines()
    assert code == 2 and lines and all(line.startswith("error: ") for line in lines), answer
    return lines


# ---------------------------------------------------------------- words


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(say, verb):
    code, shown, _ = say(verb, "--help")
    assert code == 0
    assert f"python -m nosnja_gui {verb}" in shown.partition("example")[2]


def test_the_verbs_are_listed(say):
    code, shown, _ = say("--help")
    assert code == 0 and all(f"\n    {verb} " in shown for verb in [*VERBS, "window"])


def test_the_window_explains_itself(say):
    code, shown, _ = say("window", "--help")
    assert code == 0 and "--no-browser" in shown


@pytest.mark.parametrize("words", [[], ["fly"], ["train", "--speed", "9"], ["caption"], ["trigger"], ["grid"]])
def test_mistyped_words_end_with_2(say, words):
    code, _, complaint = say(*words)
    assert code == 2 and "usage:" in complaint


def test_changes_are_read_as_yaml():
    given = [["a.b=1", "c=1e-4"], ["d=[x, 2]"], ["e="], ["f=a=b"], ["g=null"]]
    assert changes_of(given) == {"a.b": 1, "c": "1e-4", "d": ["x", 2], "e": "", "f": "a=b", "g": None}


def test_all_unreadable_changes_are_named_at_once():
    with pytest.raises(UserError) as caught:
        changes_of([["a", "=1", "a..b=1", "x=[1", "fine=1", "t=2024-13-45"]])
    assert len(str(caught.value).splitlines()) == 5


def test_presets_are_listed(say):
    code, shown, _ = say("presets")
    assert code == 0 and shown.startswith("balanced") and "costume-30-pictures" in shown


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("train", ["No dataset is given", "No base model is given"]),
        ("train nowhere", ["no run.yaml"]),
        ("train --preset balaced", ["did you mean 'balanced'"]),
        ("train --preset mine.yaml", ["no settings file mine.yaml"]),
        ("train --dataset coats --model tiny --set optimizer.learning_rate=0", ["'optimizer.learning_rate'"]),
        ("train --dataset coats --model tiny --set optimizer.lerning_rate=1 lora.rank=0",
         ["lora.rank", "did you mean 'optimizer.learning_rate'"]),
        ("train --dataset coats --model nowhere", ["no model nowhere"]),
        ("train --dataset nowhere --model tiny", ["nowhere"]),
        ("train --dataset empty --model tiny", ["empty"]),
        ("train --dataset coats --model ../datasets/coats", ["not a diffusers model"]),
        ("train --set x", ["--set 'x'"]),
        ("grid nowhere.yaml", ["no settings file"]),
        ("grid .", ["no run.yaml"]),
        ("caption nowhere", ["nowhere"]),
        ("caption coats --captioner clip", ["no captioner 'clip'"]),
        ("caption coats --set speed=3", ["Unknown setting 'speed'"]),
        ("trigger coats", ["No trigger word"]),
        ("trigger coats --word a,b", ["commas"]),
        ("trigger nowhere --word x", ["nowhere"]),
        ("trigger empty --undo", ["nothing to undo"]),
        ("trigger coats --word x --lint --model nowhere", ["nowhere"]),
    ],
)  # fmt: skip
def test_bad_input_is_a_sentence_for_each_problem_and_leaves_no_run_behind(here, say, words, says):
    (here.datasets / "empty").mkdir(exist_ok=True)
    before = sorted(here.runs.iterdir())
    found = problems_of(say(*words.split()))
    assert len(found) == len(says)
    assert all(any(part in line for line in found) for part in says), found
    assert sorted(here.runs.iterdir()) == before


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/disk/file"), 2, "The disk of /disk/file is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 2, "is full"),
        (KeyboardInterrupt(), 130, "the same command goes on"),
        (ZeroDivisionError("oops"), 1, "details are in"),
    ],
)
def test_what_goes_wrong_inside_is_a_sentence_too(say, monkeypatch, error, code, says):
    def fail(workspace):
        raise error

    monkeypatch.setattr(check, "examine", fail)
    got, _, complaint = say("check")
    assert got == code and says in complaint and "Traceback" not in complaint
    if code == 1:
        file = Path(complaint.strip().rpartition("details are in ")[2].rstrip("."))
        assert "ZeroDivisionError: oops" in file.read_text()
        file.unlink()


def test_an_error_that_nobody_logged_is_logged_and_a_logged_one_is_not_logged_twice(tmp_path):
    run = RunFolder.create(tmp_path / "run", TrainJob())
    with pytest.raises(ZeroDivisionError), working(run):
        raise ZeroDivisionError("oops")
    with pytest.raises(UserError), working(run):
        run.log().append(events.Failed(message="told"))
        raise UserError("told")
    failed = list(events.read(run.events))
    assert [event.message for event in failed] == ["oops", "told"]
    assert "ZeroDivisionError" in failed[0].detail
    assert not run.living()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_the_first_interrupt_asks_and_the_second_breaks_off(tmp_path, capsys):
    run = RunFolder.create(tmp_path / "run", TrainJob())
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), working(run):
        signal.raise_signal(signal.SIGINT)
        assert run.take_request("stop")
        assert "again" in capsys.readouterr().err
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler
    assert run.status().state == "failed"


# ---------------------------------------------------------------- trigger


@pytest.fixture
def girls(tmp_path) -> Path:
    from PIL import Image

    folder = tmp_path / "girls"
    folder.mkdir()
    for number, place in enumerate(["on the stairs", "in a field", "in a room"]):
        Image.new("RGB", (64, 64), (number, 9, 9)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a girl in a folk costume standing {place}")
    return folder


def captions(folder: Path) -> list[str]:
    return [file.read_text().strip() for file in sorted(folder.glob("*.txt"))]


def test_the_trigger_is_shown_then_put_in_once_and_taken_back(say, girls):
    original = captions(girls)
    code, shown, _ = say("trigger", girls, "--word", "nosnjaoutfit", "--dry-run")
    assert code == 0 and captions(girls) == original
    assert "- a girl in a folk costume standing on the stairs" in shown
    assert "+ nosnjaoutfit, a girl in a nosnjaoutfit standing on the stairs" in shown
    assert "'folk costume' (guessed" in shown and "3 of 3 captions change" in shown

    assert say("trigger", girls, "--word", "nosnjaoutfit")[0] == 0
    once = captions(girls)
    assert once[0] == "nosnjaoutfit, a girl in a nosnjaoutfit standing on the stairs"
    code, shown, _ = say("trigger", girls, "--word", "nosnjaoutfit")
    assert code == 0 and "None of 3 captions changes" in shown and captions(girls) == once

    code, shown, _ = say("trigger", girls, "--undo")
    assert code == 0 and "put in" in shown and captions(girls) == original
    assert "nothing to undo" in problems_of(say("trigger", girls, "--undo"))[0]


def test_the_trigger_is_renamed_and_taken_out(say, girls):
    original = captions(girls)
    assert say("trigger", girls, "--word", "nosnjaoutfit", "--class-noun", "folk costume")[0] == 0
    assert say("trigger", girls, "--word", "skirtword", "--rename-from", "nosnjaoutfit")[0] == 0
    assert captions(girls)[1] == "skirtword, a girl in a skirtword standing in a field"
    assert say("trigger", girls, "--word", "skirtword", "--remove", "--class-noun", "folk costume")[0] == 0
    assert captions(girls) == original


def test_without_a_class_noun_only_the_front_changes(say, girls):
    assert say("trigger", girls, "--word", "nosnjaoutfit", "--class-noun", "")[0] == 0
    assert captions(girls)[2] == "nosnjaoutfit, a girl in a folk costume standing in a room"


def test_the_word_is_looked_over_with_the_models_tokenizer(here, say, girls):
    (girls / "0.txt").write_text("nosnjaoutift, a girl")
    code, shown, _ = say("trigger", girls, "--word", "nosnjaoutfit", "--lint")
    assert code == 0 and "tokens" in shown and "misspelt" in shown
    code, shown, _ = say("trigger", girls, "--word", "dress", "--lint", "--model", "tiny")
    assert code == 0 and "knows already" in shown


# ---------------------------------------------------------------- train and grid


def test_train_go_on_and_grid_from_end_to_end(here, say, tmp_path):
    output = tmp_path / "my runs" / "coat"
    command = ["train", "--preset", "fast", "--dataset", "coats", "--model", "tiny", "--output", output, "--trigger", "nosnjaoutfit"]
    code, shown, complaint = say(*command, "--set", *QUICK)
    assert code == 0, complaint
    result = output / "weights" / "coat.safetensors"
    assert f"Finished: {result}\n" in shown and result.is_file()
    job = RunFolder(output).job()
    assert (job.name, job.dataset.path, job.trigger) == ("coat", str(here.datasets / "coats"), "nosnjaoutfit")
    assert RunFolder(output).status().state == "finished"

    before = result.stat().st_mtime_ns
    for again in ([*command, "--set", *QUICK], ["train", output]):
        assert say(*again)[0] == 0
    assert result.stat().st_mtime_ns == before, "what is finished is not done again"
    assert "another run" in problems_of(say(*command, "--set", "training.epochs=2"))[0]
    assert "own settings" in problems_of(say("train", output, "--set", "training.epochs=2"))[0]
    with RunFolder(output).lock():
        RunFolder(output).log().append(events.Warned(message="held"))
    assert "is the folder of a train job" in problems_of(say("grid", output))[0]

    (tmp_path / "plot.yaml").write_text(
        "run: my runs/coat\nprompt: a photo of a [trigger]\nsteps: 2\nwidth: 64\nheight: 64\nx: {axis: weight, values: [0, 1]}\n"
    )
    code, shown, complaint = say("grid", "plot.yaml", "--output", "plot", "--set", "x.values=[0, 0.5, 1]")
    assert code == 0, complaint
    sheet = Path(shown.strip().rpartition("Finished: ")[2].splitlines()[0])
    assert sheet.is_file() and sheet.is_relative_to(tmp_path / "plot")
    assert RunFolder(tmp_path / "plot").status().total == 3
    assert say("grid", "plot")[0] == 0
    assert "is the folder of a grid job" in problems_of(say("train", "plot"))[0]


def test_a_folder_in_use_is_refused_in_one_sentence(here, say, tmp_path):
    from tests.small_training import job

    run = RunFolder.create(tmp_path / "run", job())
    with run.lock():
        assert "in use by process" in problems_of(say("train", "run"))[0]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_in_a_real_terminal_saves_and_the_same_command_goes_on(here, tmp_path):
    """The one test with a process of its own: start, interrupt after the first steps, exit code and words."""
    settings = [
        *QUICK[2:],
        "training.max_steps=100000",
        "training.epochs=100000",
        "saving.every_epochs=0",
        "optimizer.text_encoder_learning_rate=0",
    ]
    words = ["train", "--preset", "fast", "--dataset", "coats", "--model", "tiny", "--output", tmp_path / "run", "--set", *settings]
    process = subprocess.Popen(
        [sys.executable, "-m", "nosnja_gui", *map(str, words)], cwd=PROGRAM, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    run, until = RunFolder(tmp_path / "run"), time.monotonic() + 90
    while not any(isinstance(event, events.Step) for event in events.read(run.events)):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.1)
    assert run.status().state == "running"
    process.send_signal(signal.SIGINT)
    shown, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert "Traceback" not in complaint and f"go on with: python -m nosnja_gui train {tmp_path / 'run'}" in shown
    assert run.status().state == "stopped" and list(run.checkpoints.iterdir())


# ---------------------------------------------------------------- check


def test_check_lists_machine_libraries_and_models(here, say):
    (here.models / "holiday").mkdir(exist_ok=True)
    code, shown, _ = say("check")
    assert code == (2 if "Problem:" in shown else 0)
    assert all(word in shown for word in ("Python", "Memory", "Disk", "diffusers", str(here.root)))
    lines = {line.split()[0]: line for line in shown.splitlines() if line.startswith("  ")}
    assert "Stable Diffusion 1.x" in lines["tiny"] and "MB" in lines["tiny"]
    assert "not recognised" in lines["holiday"]


def test_a_gpu_that_torch_cannot_use_is_a_problem_with_its_cure():
    assert list(check.gpu_problems(False, "2.13.0", None)) == []
    (problem,) = check.gpu_problems(True, "2.13.0+cpu", None)
    assert "NVIDIA" in problem and "launch.sh" in problem


def test_a_torchvision_that_does_not_fit_is_a_problem():
    assert list(check.torchvision_problems("2.13.0+cpu", None, [])) == []
    assert list(check.torchvision_problems("2.13.0+cu130", "0.28.0+cu130", ["torch==2.13.0", "numpy"])) == []
    assert "made for torch 2.12.1" in next(check.torchvision_problems("2.13.0", "0.27.1", ["torch==2.12.1"]))
    assert "different builds" in next(check.torchvision_problems("2.13.0+cu130", "0.28.0+cpu", ["torch==2.13.0"]))


def test_libraries_that_are_missing_or_of_another_version_are_problems():
    demanded = {"torch": "==2.13.0", "peft": "==0.21.2", "pydantic": ">=2.11,<3", "gradio": "==6.31.0"}
    found = list(check.library_problems(demanded, {"torch": "2.13.0+cu130", "peft": "0.1", "pydantic": "2.14", "gradio": None}))
    assert len(found) == 2 and "peft 0.1" in found[0] and "gradio is not installed" in found[1]
    assert check.required()["torch"].startswith("==")


def test_the_cards_are_read_from_nvidia_smi(monkeypatch, tmp_path):
    assert hardware.parse_gpus("") == []
    card, odd = hardware.parse_gpus("NVIDIA GeForce RTX 3060, 12288, 11000\nGB10, with comma, [N/A], [N/A]\nrubbish\n")
    assert card == hardware.Gpu("NVIDIA GeForce RTX 3060", 12288 * 2**20, 11000 * 2**20)
    assert odd == hardware.Gpu("GB10, with comma", 0, 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hardware.gpus() == []
    if os.name != "nt":
        for script, cards in (("echo 'A, 1024, 512'", 1), ("exit 9", 0)):
            (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / "nvidia-smi").chmod(0o755)
            assert len(hardware.gpus()) == cards


def test_settings_of_another_trainer_become_a_preset_that_can_be_trained_with(say, here):
    file = PROGRAM / "tests" / "foreign_files" / "kohya_ss.json"
    code, shown, _ = say("presets", "import", file, file.with_name("dataset.toml"), "--name", "Red hat")
    assert code == 0
    parts = [part.splitlines()[0] for part in shown.split("\n\n")]
    assert [part.split(" (")[0] for part in parts] == ["Taken", "Approximated", "No counterpart", "Ignored", parts[-1]]
    assert "lr_warmup = 10  ->  schedule.warmup_share=0.1" in shown and "hf_nobodys_business" not in shown
    kept = here.root / "presets" / "red-hat.yaml"
    assert str(kept) in shown and "D:/" not in kept.read_text()
    assert TrainJob.parse(presets.load_preset(kept)).lora.rank == 32
    assert say("presets")[0] == 0


def test_what_is_no_settings_file_makes_no_preset(say, here, tmp_path):
    before = sorted(here.root.glob("presets/*"))
    (tmp_path / "some.json").write_text("{}")
    assert "not a settings file" in problems_of(say("presets", "import", tmp_path / "some.json"))[0]
    assert "which file" in problems_of(say("presets", "import"))[0]
    good = PROGRAM / "tests" / "foreign_files" / "onetrainer.json"
    assert "program's own" in problems_of(say("presets", "import", good, "--name", "Balanced"))[0]
    assert sorted(here.root.glob("presets/*")) == before
