"""Grids on a tiny random model: what is painted, what is painted again, and what happens when something goes wrong."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from nosnja_gui import events, grids
from nosnja_gui.engine import grid as engine
from nosnja_gui.engine import models
from nosnja_gui.jobs import GridJob, TrainJob
from nosnja_gui.methods import METHODS, Recipe
from nosnja_gui.methods.lora import LoraSettings
from nosnja_gui.models import fingerprint
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace
from tests.original import write_single_file
from tests.tiny import tiny_model, tiny_sd

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    """A workspace with a model and a run that has saved three epochs."""
    made = Workspace(tmp_path_factory.mktemp("workspace")).create()
    tiny_sd(made.models / "tiny", size=64)
    job = TrainJob.parse({"name": "costume", "trigger": "nosnja", "model": {"path": "tiny", "clip_skip": 2}})
    run = RunFolder.create(made.runs / "costume-001", job)
    for epoch in (1, 2, 3):
        write_lora(made, run.weights / f"costume-{epoch}.safetensors", epoch)
        run.log().append(events.Saved(step=10 * epoch, epoch=epoch, file=f"weights/costume-{epoch}.safetensors"))
    return made


def write_lora(workspace: Workspace, file: Path, seed: int) -> None:
    family, parts = models.load_model("tiny", torch.device("cpu"), torch.float32, workspace.models)
    torch.manual_seed(seed)
    lora = METHODS["lora"]
    for trainable in lora.attach(family, parts, Recipe({"lora": LoraSettings(rank=2, alpha=2)})):
        for parameter in trainable.parameters:
            torch.nn.init.normal_(parameter, std=0.5)
    file.parent.mkdir(exist_ok=True)
    lora.save(family, parts, file, {})


def job(**values) -> GridJob:
    common = {
        "name": "Epochs", "run": "costume-001", "prompt": "[trigger], a woman in a [trigger]", "class_noun": "dress",
        "sampler": "ddim", "steps": 2, "width": 64, "height": 64,
    }  # fmt: skip
    return GridJob.parse(common | values)


EPOCHS = {
    "x": {"axis": "weight", "values": [0, 1]},
    "y": {"axis": "epoch", "values": ["none", 1, "last"]},
    "z": {"axis": "trigger", "values": ["on", "off"]},
}


def run_in(folder: Path, made: GridJob, workspace: Workspace) -> tuple[Path, list[events.Event]]:
    """Runs it in this folder whatever ran there before, and returns the sheet and the events of this time."""
    (folder / "run.yaml").unlink(missing_ok=True)
    folder.mkdir(exist_ok=True)
    run = RunFolder(folder)
    run.requests.mkdir(exist_ok=True)
    before = len(list(events.read(run.events)))
    sheet = engine.run_grid(made, run, workspace)
    return sheet, list(events.read(run.events))[before:]


def cells(said: list[events.Event]) -> list[events.Cell]:
    return [event for event in said if isinstance(event, events.Cell)]


def pixels(file: Path) -> torch.Tensor:
    with Image.open(file) as opened:
        return torch.tensor(list(opened.tobytes())).float()


def test_epochs_by_weights_by_trigger(workspace, tmp_path):
    sheet, said = run_in(tmp_path / "grid", job(**EPOCHS), workspace)
    record = json.loads((tmp_path / "grid" / "grid.json").read_text())
    by_place = {tuple(cell["position"]): cell for cell in record["cells"]}
    assert len(by_place) == 12
    # Weight 0 and "no LoRA" are the bare model: painted once for each prompt.
    assert len(cells(said)) == 6
    assert by_place[0, 1, 0]["files"] == by_place[1, 0, 0]["files"] == by_place[0, 0, 0]["files"]
    assert len({cell["files"][0] for cell in record["cells"]}) == 6
    pictures = {cell["files"][0]: Image.open(tmp_path / "grid" / cell["files"][0]).tobytes() for cell in record["cells"]}
    assert len(set(pictures.values())) == 6
    assert by_place[1, 1, 0]["prompt"] == "nosnja, a woman in a nosnja"
    assert by_place[1, 1, 1]["prompt"] == "a woman in a dress"
    assert by_place[1, 2, 0]["loras"] == [{"file": "costume-3.safetensors", "weight": 1.0}]
    assert by_place[0, 0, 0]["clip_skip"] == 2, "taken over from the run"
    assert record["axes"]["y"]["labels"] == ["no LoRA", "1", "3"]
    assert isinstance(said[-1], events.Finished) and said[-1].files == [sheet.name, "grid.json", "page.html"]
    assert "nosnja, a woman in a nosnja" in (tmp_path / "grid" / "page.html").read_text(encoding="utf-8")


def test_infotext_is_what_a1111_reads_back(workspace, tmp_path):
    axes = {"x": {"axis": "seed", "values": ["1-2"]}, "y": {"axis": "sampler", "values": ["ddim", "euler_a"]}}
    sheet, said = run_in(tmp_path / "grid", job(**axes), workspace)
    with Image.open(sheet) as opened:
        text = opened.info["parameters"]
    assert 'Script: X/Y/Z plot, X Type: Seed, X Values: 1-2, Y Type: Sampler, Y Values: "DDIM, Euler a"' in text
    assert text.startswith("nosnja, a woman in a nosnja <lora:costume-3:1>")
    with Image.open(tmp_path / "grid" / cells(said)[0].file) as opened:
        assert "Steps: 2, Sampler: DDIM" in opened.info["parameters"]


def test_a_grid_resumes_grows_and_redoes_only_what_changed(workspace, tmp_path):
    folder = tmp_path / "grid"
    _, first = run_in(folder, job(x={"axis": "seed", "values": ["1-3"]}), workspace)
    assert [event.reused for event in cells(first)] == [False] * 3
    _, same = run_in(folder, job(x={"axis": "seed", "values": ["1-3"]}), workspace)
    assert [event.reused for event in cells(same)] == [True] * 3
    assert not any(isinstance(event, events.Stage) and event.name.startswith("Loading") for event in same), (
        "nothing to paint, nothing to load"
    )
    _, grown = run_in(folder, job(x={"axis": "seed", "values": ["1-4"]}), workspace)
    assert sorted(event.reused for event in cells(grown)) == [False, True, True, True]
    damaged = folder / cells(first)[0].file
    whole = pixels(damaged)
    damaged.write_bytes(damaged.read_bytes()[:100])
    _, mended = run_in(folder, job(x={"axis": "seed", "values": ["1-4"]}), workspace)
    assert [event.file for event in cells(mended) if not event.reused] == [cells(first)[0].file]
    assert (pixels(damaged) - whole).abs().max() <= 2, "alone in its batch, it is the same but for rounding"
    _, other = run_in(folder, job(x={"axis": "seed", "values": ["1-4"]}, steps=3), workspace)
    assert not any(event.reused for event in cells(other))


def test_another_lora_under_the_same_name_is_painted_anew(workspace, tmp_path):
    file = tmp_path / "changing.safetensors"
    write_lora(workspace, file, 1)
    made = job(x={"axis": "lora", "values": ["none", str(file)]})
    run_in(tmp_path / "grid", made, workspace)
    write_lora(workspace, file, 2)
    _, said = run_in(tmp_path / "grid", made, workspace)
    assert sorted(event.reused for event in cells(said)) == [False, True]


def test_a_picture_does_not_depend_on_its_batch(workspace, tmp_path):
    made = job(x={"axis": "prompt", "values": ["woman", "man", "dog"]}, y={"axis": "cfg_scale", "values": [2, 7]})
    for size in (1, 4):
        run_in(tmp_path / f"{size}", made.changed(batch_size=size), workspace)
    for file in (tmp_path / "1" / "cells").iterdir():
        assert (pixels(file) - pixels(tmp_path / "4" / "cells" / file.name)).abs().max() <= 2


def test_several_images_per_cell_have_consecutive_seeds(workspace, tmp_path):
    run_in(tmp_path / "grid", job(x={"axis": "weight", "values": [1]}, seed=5, images_per_cell=3), workspace)
    cell = json.loads((tmp_path / "grid" / "grid.json").read_text())["cells"][0]
    assert len(cell["files"]) == 3
    seeds = [Image.open(tmp_path / "grid" / file).info["parameters"].split("Seed: ")[1].split(",")[0] for file in cell["files"]]
    assert seeds == ["5", "6", "7"]


def test_a_stop_is_heeded_between_batches_and_the_same_command_goes_on(workspace, tmp_path, monkeypatch):
    made = job(x={"axis": "seed", "values": ["1-4"]}, batch_size=1)
    original = engine.sample

    def sample_and_ask_for_a_stop(*arguments, **options):
        RunFolder(tmp_path / "grid").request("stop")
        return original(*arguments, **options)

    monkeypatch.setattr(engine, "sample", sample_and_ask_for_a_stop)
    sheet, said = run_in(tmp_path / "grid", made, workspace)
    assert isinstance(said[-1], events.Stopped) and said[-1].step == 1
    assert sheet.is_file()
    monkeypatch.undo()
    _, said = run_in(tmp_path / "grid", made, workspace)
    assert sorted(event.reused for event in cells(said)) == [False, False, False, True]
    assert isinstance(said[-1], events.Finished)


def test_the_record_says_from_the_start_where_pictures_are_going_to_be(workspace, tmp_path, monkeypatch):
    seen = []
    original = engine.sample

    def look_first(*arguments, **options):
        seen.append(grids.read_record(tmp_path / "grid"))
        return original(*arguments, **options)

    monkeypatch.setattr(engine, "sample", look_first)
    run_in(tmp_path / "grid", job(x={"axis": "seed", "values": ["1-3"]}, batch_size=2), workspace)
    assert [len(cell["files"]) for cell in seen[0]["cells"]] == [1, 1, 1]
    assert seen[0]["pace"] is None and grids.read_record(tmp_path / "grid")["pace"] > 0
    assert {file for cell in seen[0]["cells"] for file in cell["files"]} == grids.painted(tmp_path / "grid")


def test_a_failed_cell_is_marked_and_the_rest_goes_on(workspace, tmp_path, monkeypatch):
    original = engine.sample

    def memory_for_one_but_not_for_seed_2(family, parts, requests, **options):
        if len(requests) > 1 or requests[0].seed == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(family, parts, requests, **options)

    monkeypatch.setattr(engine, "sample", memory_for_one_but_not_for_seed_2)
    sheet, said = run_in(tmp_path / "grid", job(x={"axis": "seed", "values": ["1-3"]}), workspace)
    assert [event.error is None for event in cells(said)] == [True, False, True]
    assert any(isinstance(event, events.Warned) and "one by one" in event.message for event in said)
    errors = [cell["error"] for cell in json.loads((sheet.parent / "grid.json").read_text())["cells"]]
    assert errors[0] is None and "batch size" in errors[1]
    assert isinstance(said[-1], events.Finished)
    monkeypatch.undo()
    _, said = run_in(tmp_path / "grid", job(x={"axis": "seed", "values": ["1-3"]}), workspace)
    assert [event.reused for event in cells(said)] == [True, True, False], "only the failed one is tried again"


def test_a_lora_that_does_not_fit_fails_only_its_own_cells(workspace, tmp_path):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"not a safetensors file at all")
    _, said = run_in(tmp_path / "grid", job(x={"axis": "lora", "values": ["none", str(bad)]}), workspace)
    assert sorted(event.error is None for event in cells(said)) == [False, True]
    with pytest.raises(UserError, match="Not one picture"):
        run_in(tmp_path / "other", job(x={"axis": "lora", "values": [str(bad)]}), workspace)
    assert isinstance(list(events.read(tmp_path / "other" / "events.jsonl"))[-1], events.Failed)


def test_everything_is_checked_before_the_first_picture(workspace, tmp_path):
    made = job(
        model={"path": "no-such-model"}, lora="no-such-lora", x={"axis": "steps", "values": [0]}, y={"axis": "sampler", "values": ["dimm"]}
    )
    with pytest.raises(UserError) as error:
        run_in(tmp_path / "grid", made, workspace)
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    for word in ("no-such-model", "no-such-lora", "steps", "dimm"):
        assert any(word in line for line in lines)
    assert not (tmp_path / "grid" / "cells").exists()


def test_two_models_are_loaded_once_each(workspace, tmp_path, monkeypatch):
    tiny_sd(workspace.models / "second", seed=1, size=64)
    loaded = []
    original = models.load_model
    monkeypatch.setattr(models, "load_model", lambda path, *rest, **more: loaded.append(path.name) or original(path, *rest, **more))
    made = job(x={"axis": "prompt", "values": ["woman", "man"]}, y={"axis": "model", "values": ["tiny", "second"]}, batch_size=1)
    _, said = run_in(tmp_path / "grid", made, workspace)
    assert loaded == ["tiny", "second"]
    assert len(cells(said)) == 4


SEED = {"x": {"axis": "seed", "values": [1]}}


def only_cell(folder: Path, made: GridJob, workspace: Workspace) -> tuple[str, str, torch.Tensor]:
    """Name of the picture, its infotext, its pixels."""
    _, said = run_in(folder, made, workspace)
    [cell] = cells(said)
    assert cell.error is None, cell.error
    with Image.open(folder / cell.file) as opened:
        return cell.file, opened.info["parameters"], pixels(folder / cell.file)


def test_another_vae_is_used_and_told_and_decides_a_pictures_name(workspace, tmp_path):
    vae = workspace.models / "vae" / "other"
    if not vae.exists():
        vae.parent.mkdir()
        (tiny_sd(workspace.models / "donor", seed=7, size=64) / "vae").rename(vae)
    plain, text, own = only_cell(tmp_path / "plain", job(**SEED), workspace)
    assert "VAE" not in text
    named, told, other = only_cell(tmp_path / "other", job(**SEED, model={"vae": "vae/other"}), workspace)
    weights = (vae / "diffusion_pytorch_model.safetensors").read_bytes()
    assert named != plain and (own - other).abs().max() > 0
    assert f"VAE hash: {hashlib.sha256(weights).hexdigest()[:10]}, VAE: other" in told


def test_the_prediction_type_that_the_user_knows_is_painted_with(workspace, tmp_path):
    plain, _, own = only_cell(tmp_path / "plain", job(**SEED), workspace)
    named, _, other = only_cell(tmp_path / "v", job(**SEED, model={"prediction_type": "v_prediction"}), workspace)
    assert named != plain and (own - other).abs().max() > 0


def test_what_the_training_was_told_of_its_model_holds_for_its_grids(workspace):
    told = TrainJob.parse({"trigger": "nosnja", "model": {"path": "tiny", "prediction_type": "v_prediction", "clip_skip": 2}})
    run = RunFolder.create(workspace.runs / "told", told)
    write_lora(workspace, run.weights / "told.safetensors", 1)
    run.log().append(events.Saved(step=1, epoch=1, file="weights/told.safetensors"))
    look = next(iter(engine.prepare(job(**SEED, run="told"), workspace, run.path).pictures.values())).look
    assert (look.prediction_type, look.clip_skip) == ("v_prediction", 2)
    look = next(
        iter(engine.prepare(job(**SEED, run="told", model={"prediction_type": "epsilon"}), workspace, run.path).pictures.values())
    ).look
    assert (look.prediction_type, look.clip_skip) == ("epsilon", 2)


def test_a_single_file_is_painted_with_and_named_by_what_is_in_it(workspace, tmp_path):
    file = write_single_file(tiny_model(tmp_path / "sd", "sd1"), workspace.models / "single.safetensors", "sd1")
    first, text, _ = only_cell(
        tmp_path / "one", job(**SEED, run="", lora="", prompt="a dog", model={"path": "single.safetensors"}), workspace
    )
    assert "Model: single" in text
    before = fingerprint(file)
    write_single_file(tiny_model(tmp_path / "sd2", "sd1", seed=3), file, "sd1")
    assert fingerprint(file) != before, "another checkpoint of the same name is another one"
    again, _, _ = only_cell(tmp_path / "two", job(**SEED, run="", lora="", prompt="a dog", model={"path": "single.safetensors"}), workspace)
    assert again != first


def test_a_lora_file_has_one_hash_wherever_it_is_asked(workspace):
    file = workspace.runs / "costume-001" / "weights" / "costume-1.safetensors"
    content = file.read_bytes()
    assert engine.lora_hash(file) == hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()
