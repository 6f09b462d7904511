import hashlib
import signal
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from nosnja_gui import events
from nosnja_gui.engine import train as training
from nosnja_gui.engine.material import prepare
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
        patch.setattr(training, "begin", lambda *given, **named: kept.append(begin(*given, **named)) or kept[0])
        train(wanted, run, workspace)
    kinds = {value.dtype for state in kept[0].optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)}
    assert torch.uint8 in kinds
    assert digest(train(wanted, run, workspace)) == digest(whole)


def test_prodigys_estimate_is_resumed_exactly_and_told(workspace, monkeypatch):
    changes = {
        "optimizer__name": "prodigy", "optimizer__learning_rate": 1.0, "optimizer__text_encoder_learning_rate": 0.5,
        "training__max_steps": 6, "training__epochs": 3, "schedule__name": "constant", "schedule__warmup_share": 0,
    }  # fmt: skip
    whole, _ = trained(workspace, "prodigy-whole", **changes)
    wanted = job(**changes)
    run = run_of(workspace, "prodigy-parts", wanted)
    with monkeypatch.context() as patch:
        stop_after(run, 3, patch)
        train(wanted, run, workspace)
    assert digest(train(wanted, run, workspace)) == digest(whole)
    rates = [event.learning_rates for event in said(run, events.Step)]
    # What it moves the weights with is its estimate, one for all parts, which begins at a millionth and grows.
    assert all(len(set(rate.values())) == 1 and 0 < rate["unet"] < 0.1 for rate in rates) and rates[-1]["unet"] >= rates[0]["unet"]


def ask_rates(run: RunFolder, rates: dict[int, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for learning rates while the steps of those numbers are made, counted from the start of this process."""
    original, made = training.update, []

    def update(state):
        made.append(1)
        if len(made) in rates:
            run.request_rate(rates[len(made)])
        return original(state)

    monkeypatch.setattr(training, "update", update)


def rates_used(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """Will hold the rates of every group at each step."""
    used: list[list[float]] = []
    original = training.update
    monkeypatch.setattr(training, "update", lambda state: used.append([g["lr"] for g in state.optimizer.param_groups]) or original(state))
    return used


def test_a_new_learning_rate_holds_from_the_next_step_for_all_parts_on_the_same_curve(workspace, monkeypatch):
    changes = {"optimizer__text_encoder_learning_rate": 5e-3, "schedule__name": "linear", "schedule__warmup_share": 0.0}
    wanted = job(**changes)
    run = run_of(workspace, "rate", wanted)
    used = rates_used(monkeypatch)
    ask_rates(run, {4: 1e-3}, monkeypatch)
    train(wanted, run, workspace)
    shares = [1 - step / len(used) for step in range(len(used))]
    assert [unet for unet, _ in used] == pytest.approx([(1e-2 if step < 4 else 1e-3) * share for step, share in enumerate(shares)])
    assert all(text == pytest.approx(unet / 2) for unet, text in used)
    assert [(event.step, event.learning_rate) for event in said(run, events.RateChanged)] == [(4, 1e-3)]
    reported = {event.step: event.learning_rates["unet"] for event in said(run, events.Step)}
    assert reported[4] == pytest.approx(used[3][0]), "steps before the change are told with their own rate"
    assert not list(run.requests.iterdir())
    with safe_open(run.weights / "coat.safetensors", "pt") as file:
        assert (float(file.metadata()["ss_unet_lr"]), float(file.metadata()["ss_text_encoder_lr"])) == pytest.approx((1e-3, 5e-4))


def rate_changed(workspace, name: str, rates: dict[int, float], monkeypatch) -> tuple[str, RunFolder]:
    """Digest of a training that was not interrupted and whose rate was changed during those steps."""
    wanted = job(**RATED)
    run = run_of(workspace, name, wanted)
    with monkeypatch.context() as patch:
        ask_rates(run, rates, patch)
        return digest(train(wanted, run, workspace)), run


RATED = {"saving__checkpoint_every_steps": 4, "lora__dropout": 0.2, "optimizer__text_encoder_learning_rate": 5e-3}


def test_a_resumed_training_goes_on_at_the_changed_rate_with_the_same_bits(workspace, monkeypatch):
    whole, _ = rate_changed(workspace, "rate-whole", {3: 2e-3}, monkeypatch)
    unchanged, _ = trained(workspace, "rate-none", **RATED)
    assert whole != digest(unchanged)
    wanted = job(**RATED)
    run = run_of(workspace, "rate-parts", wanted)
    with monkeypatch.context() as patch:
        ask_rates(run, {3: 2e-3}, patch)
        stop_after(run, 6, patch)
        train(wanted, run, workspace)
    final = train(wanted, run, workspace)
    assert digest(final) == whole
    assert [(event.step, event.learning_rate) for event in said(run, events.RateChanged)] == [(3, 2e-3)]


def test_a_killed_training_resumes_with_the_rate_that_its_log_tells(workspace, monkeypatch):
    """Changed at 3, saved at 4, killed in 7: what is resumed are the steps behind 4."""
    whole, _ = rate_changed(workspace, "rate-kill-whole", {3: 2e-3}, monkeypatch)
    run = killed_at(workspace, "rate-killed", 6, {3: 2e-3}, monkeypatch)
    assert digest(train(run.job(), run, workspace)) == whole
    assert said(run, events.Started)[-1].done == 4
    assert len(said(run, events.RateChanged)) == 1


def killed_at(workspace, name: str, steps: int, rates: dict[int, float], monkeypatch) -> RunFolder:
    """A run that died after that many steps."""
    wanted = job(**RATED)
    run = run_of(workspace, name, wanted)

    def killed(*arguments):
        raise SystemError("as if killed")

    with monkeypatch.context() as patch:
        ask_rates(run, rates, patch)
        original, made = training.batch_loss, []
        patch.setattr(training, "batch_loss", lambda *a: killed() if len(made) == steps else made.append(1) or original(*a))
        with pytest.raises(SystemError):
            train(wanted, run, workspace)
    return run


def test_a_rate_that_was_asked_for_after_the_saved_state_holds_from_the_resume_on(workspace, monkeypatch):
    """Changed at 5, killed in 7, saved at 4: steps 5 to 7 are made again, and the user's last wish is known by then."""
    whole, _ = rate_changed(workspace, "rate-late-whole", {4: 2e-3}, monkeypatch)
    run = killed_at(workspace, "rate-late", 6, {2: 5e-3, 5: 2e-3}, monkeypatch)
    other, _ = rate_changed(workspace, "rate-late-two", {2: 5e-3, 4: 2e-3}, monkeypatch)
    assert digest(train(run.job(), run, workspace)) == other != whole
    assert [(event.step, event.learning_rate) for event in said(run, events.RateChanged)] == [(2, 5e-3), (5, 2e-3), (4, 2e-3)]


def test_a_rate_asked_for_while_the_libraries_load_is_taken_and_one_for_an_earlier_process_is_not(workspace, monkeypatch):
    wanted = job(training__max_steps=3)
    run = run_of(workspace, "rate-early", wanted)
    run.request_rate(3e-3)
    train(wanted, run, workspace)
    assert [(event.step, event.learning_rate) for event in said(run, events.RateChanged)] == [(1, 3e-3)]
    old = run_of(workspace, "rate-old", wanted)
    old.request_rate(3e-3)
    old.clear_requests(since_begin=True)
    train(wanted, old, workspace)
    assert not said(old, events.RateChanged)


# ---------------------------------------------------------------- a stop that does not wait


LOOKING = {
    "preview__prompts": ["a girl", "a coat"],
    "preview__steps": 3,
    "preview__every_epochs": 1,
    "dataset__validation_share": 0.2,
    "validation__every_epochs": 1,
}


def stop_inside(run: RunFolder, name: str, at: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ask for a stop in the `at`-th call of that function of the training; the numbers of all calls."""
    original, calls = getattr(training, name), []

    def asked(*arguments, **more):
        calls.append(len(calls) + 1)
        if len(calls) == at:
            run.request("stop")
        return original(*arguments, **more)

    monkeypatch.setattr(training, name, asked)
    return calls


@pytest.mark.parametrize("where", ["sample", "fixed_noise"], ids=["while painting", "while validating"])
def test_a_stop_does_not_wait_for_previews_and_the_training_ends_with_the_same_bits(workspace, monkeypatch, where):
    whole, _ = trained(workspace, f"look-{where}-whole", **LOOKING)
    wanted = job(**LOOKING)
    run = run_of(workspace, f"look-{where}", wanted)
    with monkeypatch.context() as patch:
        # The first draws are those before the first step.
        stop_inside(run, where, 1 if where == "sample" else 5, patch)
        file = train(wanted, run, workspace)
    (stopped,) = said(run, events.Stopped)
    (started,) = said(run, events.Started)
    assert stopped.step == started.steps_per_epoch
    assert file.is_file() and [place.name for place in run.checkpoints.iterdir()] == [f"step-{stopped.step:06d}"]
    assert not said(run, events.Sampled)
    assert digest(train(wanted, run, workspace)) == digest(whole)
    assert run.status().state == "finished"


def test_a_stop_asked_for_in_a_step_comes_before_its_previews(workspace, monkeypatch):
    wanted = job(**LOOKING)
    run, epoch = run_of(workspace, "stop-first", wanted), prepare(wanted, workspace).plan.steps_per_epoch
    with monkeypatch.context() as patch:
        painted = stop_inside(run, "sample", 0, patch)
        stop_after(run, epoch, patch)
        train(wanted, run, workspace)
    assert said(run, events.Stopped)[0].step == epoch and not painted


def test_a_stop_before_the_first_step_leaves_a_run_that_begins_anew(workspace, monkeypatch):
    for where in ("sample", "encode_pictures"):
        wanted = job(**LOOKING, preview__before_training=True, dataset__resolution=80)
        run = run_of(workspace, f"stop-zero-{where}", wanted)
        with monkeypatch.context() as patch:
            stop_inside(run, where, 1, patch)
            assert train(wanted, run, workspace) == run.path
        assert said(run, events.Stopped)[0].step == 0 and not said(run, events.Step)
    assert train(wanted, run, workspace).is_file()


def test_a_stop_in_the_last_look_is_no_stop(workspace, monkeypatch):
    wanted = job(**{**LOOKING, "training__epochs": 1})
    run = run_of(workspace, "stop-last", wanted)
    with monkeypatch.context() as patch:
        stop_inside(run, "sample", 1, patch)
        assert train(wanted, run, workspace).name == "coat.safetensors"
    assert run.status().state == "finished" and not said(run, events.Stopped)


def test_a_run_within_another_hears_what_is_asked_of_that_one(workspace, monkeypatch):
    outer = RunFolder(workspace.runs / "outer")
    outer.path.mkdir()
    outer.requests.mkdir()
    wanted = job()
    run = RunFolder.create(outer.path / "training", wanted, within=outer)
    with monkeypatch.context() as patch:
        stop_after(outer, 2, patch)
        train(wanted, run, workspace)
    assert said(run, events.Stopped)[0].step == 2 and not outer.take_request("stop")


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
