import hashlib
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nosnja_gui import events
from nosnja_gui.engine import train as training
from nosnja_gui.engine.train import train
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from tests.small_training import job, make_workspace, run_of, said, trained

HARD = {
    "lora__dropout": 0.2,
    "dataset__flip": True,
    "dataset__caption_dropout": 0.3,
    "dataset__validation_share": 0.2,
    "training__gradient_accumulation": 2,
    "training__epochs": 3,
    "preview__prompts": ["a girl in a coat"],
    "preview__every_steps": 2,
    "preview__steps": 1,
    "validation__every_epochs": 1,
}
"""Everything that draws random numbers or looks in between."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("resume"))


def digest(file: Path) -> str:
    tensors = load_file(file)
    return hashlib.sha256(b"".join(name.encode() + tensors[name].numpy().tobytes() for name in sorted(tensors))).hexdigest()


def stop_after(run: RunFolder, step: int, monkeypatch: pytest.MonkeyPatch, what: str = "stop") -> None:
    """Ask the run for something while it is making that step, as the window would."""
    made = [0]
    original = training.update

    def update(state):
        result = original(state)
        made[0] += 1
        if made[0] == step:
            run.request(what)
        return result

    monkeypatch.setattr(training, "update", update)


@pytest.mark.parametrize("text_rate", [0, 5e-3], ids=["unet", "unet and text encoder"])
def test_a_stopped_and_resumed_training_ends_with_the_same_bits(workspace, monkeypatch, text_rate):
    changes = {**HARD, "optimizer__text_encoder_learning_rate": text_rate}
    name = f"exact-{bool(text_rate)}"
    whole, _ = trained(workspace, f"{name}-whole", **changes)
    wanted = job(**changes)
    run = run_of(workspace, f"{name}-parts", wanted)
    for number, steps in enumerate((1, 4, 3)):
        with monkeypatch.context() as patch:
            stop_after(run, steps, patch)
            train(wanted, run, workspace)
        assert run.status().state == "stopped"
        assert said(run, events.Stopped)[number].step == (1, 5, 8)[number]
    final = train(wanted, run, workspace)
    assert run.status().state == "finished"
    assert digest(final) == digest(whole)
    assert [event.done for event in said(run, events.Started)] == [0, 1, 5, 8]


def test_eight_bit_states_are_resumed_exactly(workspace, monkeypatch):
    """bitsandbytes quantises tensors of 4,096 elements and more only, so the rank is high enough for that."""
    changes = {"optimizer__name": "adamw8bit", "lora__rank": 512, "training__max_steps": 5, "training__epochs": 3}
    whole, _ = trained(workspace, "eight-bit-whole", **changes)
    wanted = job(**changes)
    run = run_of(workspace, "eight-bit-parts", wanted)
    kept: list[training.Training] = []
    with monkeypatch.context() as patch:
        stop_after(run, 3, patch)
        begin = training.begin
        patch.setattr(training, "begin", lambda *given: kept.append(begin(*given)) or kept[0])
        train(wanted, run, workspace)
    kinds = {value.dtype for state in kept[0].optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)}
    assert torch.uint8 in kinds
    assert digest(train(wanted, run, workspace)) == digest(whole)


def test_looking_in_between_does_not_change_the_training(workspace):
    plain, _ = trained(workspace, "blind", **{**HARD, "preview__every_steps": 0, "validation__every_epochs": 0})
    looked, run = trained(workspace, "seeing", **HARD)
    assert len(said(run, events.Sampled)) > 3 and len(said(run, events.Validated)) > 2
    assert digest(plain) == digest(looked)


def test_a_killed_training_resumes_exactly_from_its_last_checkpoint(workspace, monkeypatch):
    whole, _ = trained(workspace, "kill-whole", saving__checkpoint_every_steps=2)
    wanted = job(saving__checkpoint_every_steps=2)
    run = run_of(workspace, "kill-parts", wanted)

    def killed(*arguments, **more):
        raise SystemError("as if killed")

    with monkeypatch.context() as patch:
        original, calls = training.batch_loss, []
        patch.setattr(training, "batch_loss", lambda *a: killed() if len(calls) == 5 else calls.append(1) or original(*a))
        with pytest.raises(SystemError):
            train(wanted, run, workspace)
    assert run.status().state == "failed"
    assert digest(train(wanted, run, workspace)) == digest(whole)
    assert said(run, events.Started)[-1].done == 4


def test_a_damaged_checkpoint_is_reported_and_the_older_one_taken(workspace, monkeypatch):
    whole, _ = trained(workspace, "damage-whole", saving__checkpoint_every_steps=2)
    wanted = job(saving__checkpoint_every_steps=2)
    run = run_of(workspace, "damage-parts", wanted)
    with monkeypatch.context() as patch:
        stop_after(run, 6, patch)
        train(wanted, run, workspace)
    file = run.checkpoints / "step-000006" / "optimizer.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert digest(train(wanted, run, workspace)) == digest(whole)
    assert any("step-000006 is damaged" in event.message for event in said(run, events.Warned))
    assert said(run, events.Started)[-1].done == 4


def test_a_finished_run_is_not_trained_again(workspace):
    file, run = trained(workspace, "finished")
    before = file.stat().st_mtime_ns, run.events.read_bytes()
    assert train(run.job(), run, workspace) == file
    assert (file.stat().st_mtime_ns, run.events.read_bytes()) == before


def test_a_changed_dataset_is_said_on_resume(workspace, monkeypatch):
    wanted = job()
    run = run_of(workspace, "changed", wanted)
    with monkeypatch.context() as patch:
        stop_after(run, 2, patch)
        train(wanted, run, workspace)
    caption = workspace.datasets / "coats" / "1.txt"
    text = caption.read_text()
    try:
        caption.write_text("nosnjaoutfit, something else")
        train(wanted, run, workspace)
    finally:
        caption.write_text(text)
    assert any("has changed since step 2" in event.message for event in said(run, events.Warned))


def test_requests_are_honoured_at_the_very_step(workspace, monkeypatch):
    wanted = job(preview__prompts=["a girl", "a coat"], preview__steps=1)
    run = run_of(workspace, "requests", wanted)
    with monkeypatch.context() as patch:
        stop_after(run, 3, patch, "save")
        stop_after(run, 4, patch, "sample")
        train(wanted, run, workspace)
    files = [(event.step, event.file) for event in said(run, events.Saved)]
    assert (3, "weights/coat-step-00003.safetensors") in files and (3, "checkpoints/step-000003") in files
    assert said(run, events.Sampled)[0].files == ["samples/step-000004_01.png", "samples/step-000004_02.png"]
    assert not list(run.requests.iterdir())


def test_a_second_process_may_not_train_into_the_same_folder(workspace):
    wanted = job()
    run = run_of(workspace, "held", wanted)
    with run.lock(), pytest.raises(UserError, match="in use"):
        train(wanted, RunFolder(run.path), workspace)


def test_ctrl_c_stops_and_saves(workspace, monkeypatch):
    wanted = job()
    run = run_of(workspace, "interrupted", wanted)
    original = training.update

    def interrupted(state):
        result = original(state)
        signal.raise_signal(signal.SIGINT)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(training, "update", interrupted)
        file = train(wanted, run, workspace)
    assert file.name == "coat-step-00001.safetensors" and file.is_file()
    assert run.status().state == "stopped"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
