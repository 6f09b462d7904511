"""A LoRA is trained, stopped, gone on with, read back and gone on from, on each family and from a single file."""

import json

import pytest
import torch
from original import write_single_file
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import tiny_model

from nosnja_gui import events
from nosnja_gui.commands import report
from nosnja_gui.engine.cache import View
from nosnja_gui.engine.models import load_model
from nosnja_gui.engine.train import train
from nosnja_gui.library import Library
from nosnja_gui.methods.lora import ENTRY as LORA
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace
from tests.small_training import draw_pictures, job, run_of

torch.set_num_threads(1)
KINDS = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    torch.set_num_threads(1)
    workspace = Workspace(tmp_path_factory.mktemp("families") / "workspace").create()
    for kind in KINDS:
        folder = tiny_model(workspace.models / kind, kind, prediction_type="v_prediction" if kind == "sd2" else "epsilon")
        told = {"modelspec.resolution": "64x64", "modelspec.prediction_type": "v" if kind == "sd2" else "epsilon"}
        write_single_file(folder, workspace.models / f"{kind}.safetensors", kind, metadata=told)
    draw_pictures(workspace.datasets / "coats", 4)
    return workspace


def small(**changes):
    return job(**{"dataset__resolution": 64, "dataset__bucket_step": 32, "training__epochs": 1, "training__batch_size": 2, **changes})


def said(run, kind):
    return [event for event in events.read(run.events) if isinstance(event, kind)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_is_stopped_gone_on_with_and_read_back(workspace, kind, monkeypatch, capsys):
    settings = {"model__path": f"{kind}.safetensors", "optimizer__text_encoder_learning_rate": 5e-3, "dataset__repeats": 3}
    whole = run_of(workspace, f"{kind}-whole", small(**settings))
    file = train(whole.job(), whole, workspace)
    weights = load_file(file)
    texts = {"sd1": ("lora_te_",), "sd2": ("lora_te_",), "sdxl": ("lora_te1_", "lora_te2_")}[kind]
    for start in ("lora_unet_", *texts):
        moved = [tensor for key, tensor in weights.items() if key.startswith(start) and key.endswith("lora_up.weight")]
        # SDXL looks at the first encoder's last layer but one, so its last layer learns nothing.
        assert moved and sum(bool(tensor.any()) for tensor in moved) >= len(moved) / 2
    (checked,) = said(whole, events.ReadBack)
    assert checked.ours == 0.0 and checked.diffusers < 1e-3
    told = Library(workspace)
    told.look(10)
    assert told.details(f"{kind}-whole").read_back == checked
    report(whole, "train")
    assert "Read back: 0.0e+00 of its effect away from what was trained, by diffusers' reader" in capsys.readouterr().out
    rates = said(whole, events.Step)[-1].learning_rates
    assert set(rates) == {"unet", "text_encoder", *(["text_encoder_2"] if kind == "sdxl" else [])}
    with safe_open(file, "pt") as content:
        told = content.metadata()
    assert told["ss_base_model_version"] == {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}[kind]
    begins = {"sd1": "stable-diffusion-v1/", "sd2": "stable-diffusion-v2-768-v/", "sdxl": "stable-diffusion-xl-v1-base/"}[kind]
    assert told["modelspec.architecture"].startswith(begins)

    stopped = run_of(workspace, f"{kind}-stopped", small(**settings))
    take = type(stopped).take_request
    looks = iter(range(1000))
    monkeypatch.setattr(type(stopped), "take_request", lambda run, what: (what == "stop" and next(looks) == 4) or take(run, what))
    train(stopped.job(), stopped, workspace)
    assert said(stopped, events.Stopped) and not said(stopped, events.Finished)
    monkeypatch.undo()
    again = load_file(train(stopped.job(), stopped, workspace))
    assert weights.keys() == again.keys() and all(torch.equal(weights[key], again[key]) for key in weights)


def test_the_other_layouts_are_written_and_read_back(workspace):
    for layout in ("diffusers", "comfyui"):
        run = run_of(workspace, f"sdxl-{layout}", small(model__path="sdxl", saving__layout=layout, training__max_steps=1))
        train(run.job(), run, workspace)
        (checked,) = said(run, events.ReadBack)
        assert checked.ours == 0.0 and (checked.diffusers is None) == (layout == "comfyui")


def test_sdxl_learns_from_the_true_size_and_crop_of_each_picture(workspace, monkeypatch):
    from nosnja_gui.families import FAMILIES

    cls, framings = type(FAMILIES["sdxl"]), []
    predict = cls.predict

    def watched(self, parts, noisy, timesteps, text, framing=None):
        framings.append(framing)
        return predict(self, parts, noisy, timesteps, text, framing)

    monkeypatch.setattr(cls, "predict", watched)
    run = run_of(workspace, "sdxl-sizes", small(model__path="sdxl", dataset__repeats=1))
    train(run.job(), run, workspace)
    seen = {tuple(row) for framing in framings if framing is not None for row in framing.tolist()}
    # 96x48 pictures fall into a bucket of the same shape, 64x64 ones fill theirs; both are (height, width, top, left, height, width).
    assert (64.0, 64.0, 0.0, 0.0, 64.0, 64.0) in seen and any(row[:2] == (48.0, 96.0) for row in seen)


def test_a_crop_is_counted_in_the_scaled_picture(tmp_path):
    assert View(tmp_path, 64, 64, original=(200, 100)).framing == (100, 200, 0, 32, 64, 64)
    assert View(tmp_path, 64, 64).framing == (64, 64, 0, 0, 64, 64)


def test_a_training_goes_on_from_a_file_of_any_kind(workspace, tmp_path):
    from test_lora_families import others

    from nosnja_gui.adapters.writing import encode

    first = run_of(workspace, "first", small(model__path="sd1"))
    file = train(first.job(), first, workspace)
    on = run_of(workspace, "second", small(model__path="sd1", lora__start_from=str(file), optimizer__learning_rate=1e-12))
    before, after = load_file(file), load_file(train(on.job(), on, workspace))
    for stem in {key.rpartition(".lora_")[0] for key in before if "lora_up" in key}:
        deltas = [weights[f"{stem}.lora_up.weight"] @ weights[f"{stem}.lora_down.weight"] for weights in (before, after)]
        torch.testing.assert_close(*deltas, atol=1e-5, rtol=1e-4)

    family, parts = load_model(workspace.models / "sd1", torch.device("cpu"), torch.float32)
    names = family.names(parts)
    (workspace.models / "kin.safetensors").write_bytes(encode(others(names), names, "kohya", "float32"))
    run = run_of(workspace, "third", small(model__path="sd1", lora__start_from="kin", training__max_steps=1))
    train(run.job(), run, workspace)
    warned = [event.message for event in said(run, events.Warned)]
    assert any("brought to rank 4" in text for text in warned) and any("left out" in text for text in warned)
    with pytest.raises(UserError, match="no LoRA nowhere"):
        bad = run_of(workspace, "bad", small(model__path="sd1", lora__start_from="nowhere"))
        train(bad.job(), bad, workspace)
    assert LORA.name == "lora"


def test_a_grid_of_a_single_file_with_its_lora(workspace):
    """What was trained on a folder is painted on the same model from a file."""
    from nosnja_gui.engine.grid import run_grid
    from nosnja_gui.jobs import GridJob
    from nosnja_gui.runs import RunFolder

    trained = run_of(workspace, "for-grid", small(model__path="sdxl", training__max_steps=1))
    train(trained.job(), trained, workspace)
    wanted = GridJob.parse(
        {
            "model": {"path": "sdxl.safetensors"}, "lora": str(next(trained.weights.glob("*.safetensors"))), "prompt": "a girl in a coat",
            "x": {"axis": "weight", "values": [0, 1]}, "steps": 2, "width": 64, "height": 64, "sampler": "euler",
        },
        where="test",
    )  # fmt: skip
    run = RunFolder.create(workspace.runs / "grid", wanted)
    run_grid(wanted, run, workspace)
    cells = [event for event in events.read(run.events) if isinstance(event, events.Cell)]
    assert len(cells) == 2 and not any(cell.error for cell in cells) and json.loads((run.path / "grid.json").read_text())
