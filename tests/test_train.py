import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from nosnja_gui import events
from nosnja_gui.dataset.batches import derive
from nosnja_gui.engine import checkpoints
from nosnja_gui.engine import train as training
from nosnja_gui.engine.material import prepare
from nosnja_gui.engine.train import train
from nosnja_gui.families import FAMILIES
from nosnja_gui.methods import METHODS
from nosnja_gui.schedules import curve
from nosnja_gui.settings import UserError
from nosnja_gui.sources import Folder
from tests.small_training import draw_pictures, job, make_workspace, run_of, said, trained


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("train"))


# ---------------------------------------------------------------- what comes out


def test_a_training_leaves_its_files_and_its_story(workspace):
    file, run = trained(
        workspace,
        "story",
        saving__every_epochs=1,
        saving__every_steps=4,
        validation__every_epochs=1,
        dataset__validation_share=0.3,
        preview__prompts=["nosnjaoutfit, a girl", "a girl"],
        preview__every_epochs=2,
        preview__before_training=True,
        preview__steps=1,
    )
    # 4 pictures are trained on twice an epoch, in pairs
    (started,) = said(run, events.Started)
    assert (started.total, started.epochs, started.device) == (2 * started.steps_per_epoch, 2, "cpu")
    assert [event.name for event in said(run, events.Stage)][:3] == ["Loading the model", "Encoding pictures", "Encoding captions"]
    weights = {path.name for path in run.weights.iterdir()}
    assert {"coat.safetensors", "coat-epoch-01.safetensors", "coat-epoch-02.safetensors"} < weights
    assert "coat-step-00004.safetensors" in weights and "coat-step-00005.safetensors" not in weights
    assert [event.step for event in said(run, events.Sampled)] == [0, started.total]
    assert {path.name for path in run.samples.iterdir()} == {f"step-{s:06d}_{n:02d}.png" for s in (0, started.total) for n in (1, 2)}
    assert [event.step for event in said(run, events.Validated)] == [0, started.steps_per_epoch, started.total]
    captions = json.loads((run.path / "captions.json").read_text())
    assert len(captions["pictures"]) == 4 and len(captions["held_out"]) == 2 and captions["trigger"] == "nosnjaoutfit"
    assert run.status().state == "finished" and file == run.weights / "coat.safetensors"
    with Image.open(run.samples / f"step-{started.total:06d}_01.png") as image:
        assert image.size == (64, 64)
        assert "nosnjaoutfit, a girl <lora:coat:1>" in image.info["parameters"]


def test_the_file_loads_back_onto_the_base_model_and_changes_it(workspace):
    file, _ = trained(workspace, "loads")
    family = FAMILIES["sd1"]
    parts = family.load(Folder(workspace.models / "tiny"), torch.device("cpu"), torch.float32)
    noisy, timesteps, text = torch.randn(1, 4, 8, 8), torch.tensor([500]), family.encode_prompts(parts, ["nosnjaoutfit"])
    with torch.no_grad():
        before = family.predict(parts, noisy, timesteps, text)
        METHODS["lora"].apply(family, parts, file, "coat")
        after = family.predict(parts, noisy, timesteps, text)
    assert (before - after).abs().max() > 1e-4
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["ss_network_dim"] == "4" and metadata["ss_steps"] == "12"
    assert str(workspace.root) not in json.dumps(metadata) and "house" not in json.dumps(metadata)


def test_the_text_encoder_is_trained_only_when_it_has_a_rate(workspace):
    with_text, run = trained(workspace, "text", optimizer__text_encoder_learning_rate=5e-3)
    without, _ = trained(workspace, "no-text")
    assert any(name.startswith("lora_te_") for name in load_file(with_text))
    assert not any(name.startswith("lora_te_") for name in load_file(without))
    changed = [tensor.abs().sum() for name, tensor in load_file(with_text).items() if name.startswith("lora_te_") and "up" in name]
    assert sum(changed) > 0
    last = said(run, events.Step)[-1].learning_rates
    assert last["text_encoder"] == pytest.approx(last["unet"] / 2)


def test_it_learns_one_picture_by_heart(workspace):
    folder = workspace.datasets / "one"
    draw_pictures(folder, 1)
    _, run = trained(
        workspace,
        "by-heart",
        dataset__path="one",
        dataset__repeats=32,
        training__batch_size=4,
        training__epochs=8,
        loss__weighting="none",
        optimizer__learning_rate=5e-3,
        schedule__name="constant",
    )
    steps = said(run, events.Step)
    first, last = (sum(event.loss for event in part) / len(part) for part in (steps[:2], steps[-2:]))
    assert last < 0.9 * first


def test_the_first_steps_loss_is_the_plain_formula(workspace, monkeypatch):
    """The loop's loss, recomputed by hand from the seed: latents, noise, timesteps, prediction and min-SNR weight."""
    seen = []
    original = training.batch_loss
    monkeypatch.setattr(training, "batch_loss", lambda state, batch: seen.append((state, batch, original(state, batch))) or seen[-1][2])
    trained(workspace, "formula", training__max_steps=1, training__epochs=1)
    ((state, batch, loss),) = seen
    pictures = [state.material.training[shown.picture] for shown in batch]
    mean, deviation = state.latents.of([state.view(picture) for picture in pictures], torch.device("cpu"))
    torch.manual_seed(derive(42, "step", 0, 0))
    clean = mean + deviation * torch.randn_like(mean)
    noise, t = torch.randn_like(clean), torch.randint(0, 1000, (len(batch),))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha = (1 - betas).cumprod(0)[t].float().view(-1, 1, 1, 1)
    snr = (alpha / (1 - alpha)).flatten()
    base = FAMILIES["sd1"].load(Folder(workspace.models / "tiny"), torch.device("cpu"), torch.float32)
    with torch.no_grad():
        text = FAMILIES["sd1"].encode_prompts(base, [picture.caption for picture in pictures])
        predicted = FAMILIES["sd1"].predict(base, alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, t, text)
    expected = (snr.clamp(max=5) / snr * (predicted - noise).square().mean((1, 2, 3))).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


# ---------------------------------------------------------------- steps, rates, gradients


def test_accumulation_counts_updates_and_gives_the_mean_over_all_pictures(workspace, monkeypatch):
    """One step of two batches must equal the mean gradient of the same pictures."""
    gradients = []
    original = training.update

    def spy(state):
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in state.parameters]))
        return original(state)

    monkeypatch.setattr(training, "update", spy)
    losses = []
    plain = training.batch_loss
    monkeypatch.setattr(training, "batch_loss", lambda state, batch: losses.append((plain(state, batch), len(batch))) or losses[-1][0])
    _, run = trained(workspace, "accumulated", training__gradient_accumulation=3, training__epochs=1, dataset__bucket_step=64)
    (started,) = said(run, events.Started)
    # 12 exposures of one size in pairs: 6 batches, 2 updates
    assert started.total == len(gradients) == 2
    sizes = [size for _, size in losses]
    assert sizes == [2] * 6
    mean = sum(loss.item() for loss, _ in losses[:3]) / 6
    reported = said(run, events.Step)
    assert sum(event.loss for event in reported) / len(reported) == pytest.approx((mean + sum(v.item() for v, _ in losses[3:]) / 6) / 2)


def test_rates_follow_the_schedule_over_updates(workspace, monkeypatch):
    used = []
    original = training.update
    monkeypatch.setattr(training, "update", lambda state: used.append(state.optimizer.param_groups[0]["lr"]) or original(state))
    trained(workspace, "rates", schedule__name="cosine", schedule__warmup_share=0.25, training__epochs=2)
    assert used == pytest.approx([1e-2 * share for share in curve("cosine", len(used), 0.25)])


def test_gradient_clipping_really_shortens(workspace, monkeypatch):
    lengths = []
    original = torch.nn.utils.clip_grad_norm_

    def clip(parameters, limit):
        norm = original(parameters, limit)
        lengths.append((norm.item(), torch.cat([p.grad.flatten() for p in parameters]).norm().item()))
        return norm

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    trained(workspace, "clipped", optimizer__max_grad_norm=1e-3, training__max_steps=4)
    assert len(lengths) == 4
    for before, after in lengths:
        assert before > 1e-3 and after == pytest.approx(1e-3, rel=1e-2)


def test_max_steps_beats_the_epochs_and_says_so(workspace):
    _, run = trained(workspace, "limited", training__max_steps=5, training__epochs=10)
    assert said(run, events.Started)[0].total == 5
    assert any("max_steps ends the training after 5 steps, in epoch 1 of 10" in event.message for event in said(run, events.Warned))


def test_gradient_checkpointing_changes_nothing_but_memory(workspace):
    plain, _ = trained(workspace, "kept", training__max_steps=3, lora__dropout=0.2)
    recomputed, _ = trained(workspace, "recomputed", training__max_steps=3, lora__dropout=0.2, training__gradient_checkpointing=True)
    for name, tensor in load_file(plain).items():
        assert torch.allclose(tensor, load_file(recomputed)[name], atol=1e-6), name


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_fp32_parameters(workspace, monkeypatch, precision):
    kept = []
    original = training.begin
    monkeypatch.setattr(training, "begin", lambda *arguments, **named: kept.append(original(*arguments, **named)) or kept[0])
    file, _ = trained(workspace, f"half-{precision}", model__precision=precision, training__max_steps=4)
    assert kept[0].parts.dtype == getattr(torch, precision)
    assert {parameter.dtype for parameter in kept[0].parameters} == {torch.float32}
    reference, _ = trained(workspace, f"full-{precision}", training__max_steps=4)
    a, b = (torch.cat([v.float().flatten() for n, v in sorted(load_file(f).items()) if "up" in n]) for f in (file, reference))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.9


def test_adamw8bit_says_how_to_get_it(workspace, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        prepare(job(optimizer__name="adamw8bit"), workspace)


# ---------------------------------------------------------------- what goes wrong


def test_all_problems_are_said_at_once_before_anything_is_loaded(workspace, monkeypatch):
    monkeypatch.setattr(training, "begin", lambda *arguments, **named: pytest.fail("something was loaded"))
    wanted = job(model__path="absent", dataset__path="nowhere", dataset__resolution=100)
    run = run_of(workspace, "problems", wanted)
    with pytest.raises(UserError) as raised:
        train(wanted, run, workspace)
    lines = str(raised.value).splitlines()
    assert len(lines) == 3
    assert "absent" in lines[0] and "nowhere" in lines[1] and "take 96" in lines[2]
    assert said(run, events.Failed)[0].message == str(raised.value)
    assert run.status().state == "failed"


def test_captions_without_the_trigger_are_named(workspace):
    warnings = prepare(job(trigger="anotherword"), workspace).warnings
    assert any("6 of 6 pictures have a caption without the trigger word 'anotherword'" in warning for warning in warnings)
    assert not any("trigger" in warning for warning in prepare(job(), workspace).warnings)


def test_a_full_disk_is_said_before_training(workspace, monkeypatch):
    monkeypatch.setattr(training, "free_bytes", lambda path: 1000)
    with pytest.raises(UserError, match="too full for this training"):
        trained(workspace, "no-room")


def test_a_disk_that_fills_up_leaves_the_run_resumable(workspace, monkeypatch):
    wanted = job(saving__checkpoint_every_steps=2)
    run = run_of(workspace, "fills-up", wanted)
    original, saved = checkpoints._write, []

    def full(path, write):
        saved.append(path)
        if len(saved) > 4:
            raise OSError(28, "No space left on device")
        return original(path, write)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_write", full)
        with pytest.raises(UserError, match="is full: make room and start the run again"):
            train(wanted, run, workspace)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-000002"]
    assert train(wanted, run, workspace).is_file()
    assert said(run, events.Started)[-1].done == 2


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(workspace, monkeypatch):
    wanted = job(saving__checkpoint_every_steps=2, saving__every_steps=1)
    run = run_of(workspace, "nan", wanted)
    original, calls = training.batch_loss, []

    def poisoned(state, batch):
        calls.append(1)
        return original(state, batch) * (float("nan") if len(calls) == 4 else 1.0)

    monkeypatch.setattr(training, "batch_loss", poisoned)
    with pytest.raises(UserError, match=r"step.* 4: lower optimizer.learning_rate \(it is 0.01\)"):
        train(wanted, run, workspace)
    assert [path.name for path in checkpoints.whole(run.checkpoints)] == ["step-000002"]
    assert sorted(path.name for path in run.weights.iterdir()) == [f"coat-step-{step:05d}.safetensors" for step in (1, 2, 3)]
    assert len(said(run, events.Failed)) == 1 and not said(run, events.Finished)


def test_weights_that_are_no_numbers_are_not_saved_though_the_loss_was_one(workspace, monkeypatch):
    original = training.update

    def explode(state):
        norm = original(state)
        with torch.no_grad():
            state.parameters[0][0, 0] = float("inf")
        return norm

    monkeypatch.setattr(training, "update", explode)
    wanted = job(training__max_steps=1)
    run = run_of(workspace, "exploded", wanted)
    with pytest.raises(UserError, match="weights are no longer numbers after step 1"):
        train(wanted, run, workspace)
    assert not list(run.weights.iterdir())


def test_out_of_memory_says_what_to_change(workspace, monkeypatch):
    def exhausted(state, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(training, "batch_loss", exhausted)
    with pytest.raises(UserError, match=r"lower training.batch_size \(it is 2\), or turn on training.gradient_check"):
        trained(workspace, "exhausted")


def test_our_own_mistakes_are_not_dressed_up(workspace, monkeypatch):
    def broken(state, batch):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(training, "batch_loss", broken)
    wanted = job()
    run = run_of(workspace, "broken", wanted)
    with pytest.raises(ZeroDivisionError):
        train(wanted, run, workspace)
    assert "ZeroDivisionError" in said(run, events.Failed)[0].detail


# ---------------------------------------------------------------- validation and previews


def test_validation_is_the_same_figure_every_time_and_covers_all_timesteps(workspace, monkeypatch):
    seen = []
    original = FAMILIES["sd1"].__class__.predict

    def predict(self, parts, noisy, timesteps, text, framing=None):
        if not torch.is_grad_enabled():
            seen.extend(timesteps.tolist())
        return original(self, parts, noisy, timesteps, text, framing)

    monkeypatch.setattr(FAMILIES["sd1"].__class__, "predict", predict)
    changes = {"dataset__validation_share": 0.4, "validation__every_epochs": 1, "validation__draws": 5, "training__max_steps": 1}
    _, first = trained(workspace, "validated-1", **changes)
    assert sorted(seen[:10]) == [50, 150, 250, 350, 450, 550, 650, 750, 850, 950]
    _, second = trained(workspace, "validated-2", **{**changes, "training__batch_size": 1, "lora__dropout": 0.5})
    a, b = said(first, events.Validated)[0].loss, said(second, events.Validated)[0].loss
    assert a == pytest.approx(b, rel=1e-5)


def test_held_out_pictures_are_never_trained_on(workspace):
    material = prepare(job(dataset__validation_share=0.4), workspace)
    assert len(material.held_out) == 2 and not set(material.held_out) & set(material.training)
    assert len(material.plan.shapes) == len(material.training) == 4
    other = prepare(job(dataset__validation_share=0.4, dataset__repeats=5), workspace)
    assert other.held_out == material.held_out


def test_a_preview_shows_the_same_as_the_finished_file(workspace):
    """What was previewed after the last step is what the saved LoRA paints at the same seed."""
    from nosnja_gui.engine.sampler import ImageRequest, sample

    changes = {"preview__prompts": ["a girl"], "preview__every_epochs": 2, "preview__steps": 3}
    file, run = trained(workspace, "previewed", lora__dropout=0.3, training__epochs=2, **changes)
    family = FAMILIES["sd1"]
    parts = family.load(Folder(workspace.models / "tiny"), torch.device("cpu"), torch.float32)
    METHODS["lora"].apply(family, parts, file, "coat")
    (image,) = sample(family, parts, [ImageRequest("a girl", seed=1, steps=3, width=64, height=64)])
    (last,) = said(run, events.Sampled)
    with Image.open(run.path / last.files[0]) as shown:
        difference = [abs(a - b) for a, b in zip(shown.convert("RGB").tobytes(), image.tobytes(), strict=True)]
    assert max(difference) <= 1


def test_a_preview_that_fails_is_said_and_the_training_goes_on(workspace, monkeypatch):
    def exhausted(*arguments, **more):
        raise UserError("Not enough memory: choose a smaller size.")

    monkeypatch.setattr(training, "sample", exhausted)
    _, run = trained(workspace, "no-preview", preview__prompts=["a girl"], preview__every_epochs=1)
    assert run.status().state == "finished" and not said(run, events.Sampled)
    assert any("no previews of step 6: Not enough memory" in event.message for event in said(run, events.Warned))


def test_an_unreadable_picture_is_left_out_and_named(workspace):
    folder = workspace.datasets / "with-a-bad-one"
    draw_pictures(folder, 2)
    (folder / "bad.png").write_bytes(b"no picture at all")
    material = prepare(job(dataset__path="with-a-bad-one"), workspace)
    assert len(material.training) == 2
    assert any(warning.startswith("bad.png") and warning.endswith("so it is left out.") for warning in material.warnings)


def test_fingerprint_follows_captions_and_order(workspace):
    material = prepare(job(), workspace)
    assert material.fingerprint() == prepare(job(), workspace).fingerprint()
    renamed = replace(material.training[0], caption="other")
    assert replace(material, training=(renamed, *material.training[1:])).fingerprint() != material.fingerprint()
    assert prepare(job(training__batch_size=3), workspace).fingerprint() != material.fingerprint()
