"""A grid without painting it: what is wrong with it is said at its setting, and what can be chosen is found."""

import json
from pathlib import Path

import pytest

from nosnja_gui import axes, events, grids, places
from nosnja_gui.axes import SAMPLER_TITLES, PlanError
from nosnja_gui.jobs import GridJob, TrainJob
from nosnja_gui.runs import RunFolder
from nosnja_gui.workspace import Workspace


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    """A model that looks like one, and a run with two saved epochs."""
    made = Workspace(tmp_path / "workspace").create()
    write_model(made.models / "sd15")
    job = TrainJob.parse({"name": "costume", "trigger": "nosnja", "model": {"path": "sd15", "clip_skip": 2}})
    run = RunFolder.create(made.runs / "costume-001", job)
    for epoch in (2, 4):
        write_lora(run.weights / f"costume-{epoch}.safetensors")
        run.log().append(events.Saved(step=10 * epoch, epoch=epoch, file=f"weights/costume-{epoch}.safetensors"))
    return made


def write_model(folder: Path, side: int = 64) -> None:
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", "text_encoder": ["a", "b"]}))
    (folder / "unet" / "config.json").write_text(json.dumps({"sample_size": side}))


def write_lora(file: Path) -> None:
    header = json.dumps({"lora_unet.lora_down.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")


VALUES = {"run": "costume-001", "prompt": "[trigger], a woman"}
AXES = {"x.axis": "epoch", "x.values": ["all, none"], "y.axis": "weight", "y.values": ["0-1[5]"]}


def test_a_form_becomes_a_plan(workspace):
    checked = grids.check({**VALUES, **AXES, "images_per_cell": 2}, workspace)
    assert checked.problems == ()
    assert checked.axes["x"].labels == ("2", "4", "no LoRA")
    assert len(checked.plan.plan.cells) == 15 and checked.plan.pictures == 30
    first = checked.plan.looks(checked.plan.plan.cells[0, 4, 0])
    assert [look.seed for look in first] == [1, 2]
    assert first[0].prompt == "nosnja, a woman" and first[0].width == 512 and first[0].clip_skip == 2
    assert grids.seconds_of(checked.plan, 1.0) == pytest.approx(30 * 25 * 512 * 512 / 1e6)


def test_every_problem_is_said_at_once_and_at_its_setting(workspace):
    wrong = {
        "run": "no-such-run",
        "model.path": "no-such-model",
        "lora": "no-such-lora",
        "steps": 0,
        "seed": None,
        "x.axis": "cfg_scale",
        "x.values": ["high"],
        "y.axis": "sampler",
        "y.values": ["dimm"],
    }
    problems = dict(grids.check(wrong, workspace).problems)
    assert set(problems) == {"run", "model.path", "lora", "steps", "seed", "x.values", "y.values"}
    assert all(sentence.endswith((".", "]")) or ":" in sentence for sentence in problems.values())


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"x.axis": "", "x.values": []}, "x.axis"),
        ({"y.axis": "epoch", "y.values": ["2"]}, "y.axis"),
        ({"y.axis": "trigger", "y.values": [], "prompt": "a woman"}, "prompt"),
        ({"run": "", "model.path": "sd15", "x.axis": "seed", "x.values": ["1-2"]}, "trigger"),
        ({"y.axis": "lora", "y.values": ["none"]}, "y.axis"),
        ({"x.axis": "seed", "x.values": ["1-1000"], "y.axis": "cfg_scale", "y.values": ["1-10(+0.01)"]}, "x.values"),
        ({"x.axis": "model", "x.values": ["sd15, costume"]}, "x.values"),
    ],
)
def test_a_problem_belongs_to_a_field(workspace, changes, setting):
    given = {**VALUES, "x.axis": "epoch", "x.values": ["all"], **changes}
    given = {name: value for name, value in given.items() if value or not name.startswith(("x.", "y."))}
    assert setting in dict(grids.check(given, workspace).problems)


def test_axes_are_readable_while_something_else_is_wrong(workspace):
    checked = grids.check({**VALUES, **AXES, "steps": "many"}, workspace)
    assert checked.plan is None and len(checked.axes["y"].labels) == 5


def test_the_engine_finds_the_same_mistakes(workspace):
    job = GridJob.parse({"run": "costume-001", "prompt": "[trigger]", "x": {"axis": "epoch", "values": ["3"]}})
    with pytest.raises(PlanError) as error:
        grids.plan_job(job, workspace)
    assert error.value.problems == grids.look_over(job, workspace).problems
    assert "saved: 2, 4" in str(error.value)


def test_a_button_fills_an_axis_with_what_there_is(workspace):
    write_lora(workspace.models / "other, with comma.safetensors")
    job = GridJob.parse({"run": "costume-001", "x": {"axis": "seed"}, "seed": 7, "steps": 20})
    filled = {axis: grids.fill(axis, job, workspace) for axis in axes.AXES}
    assert filled["epoch"] == ["none", "2", "4"]
    assert filled["lora"] == ["none", "costume-001", "other, with comma.safetensors"]
    assert filled["sampler"] == list(SAMPLER_TITLES.values())
    assert filled["trigger"] == ["on", "off"] and filled["seed"] == ["7-10"] and filled["steps"] == ["10", "20", "30"]
    assert "sd15" not in filled["model"], "it has no weights"
    assert filled["size"][0] == "512x512"
    for axis, found in filled.items():
        if found:
            text = ", ".join(f'"{value}"' if "," in value else value for value in found)
            given = {"run": "costume-001", "prompt": "[trigger]", "x.axis": axis, "x.values": [text]}
            problems = [said for setting, said in grids.check(given, workspace).problems if setting.startswith("x.")]
            assert problems == [], axis


def test_loras_are_listed_by_the_names_that_settings_take(workspace):
    write_lora(workspace.models / "downloaded.safetensors")
    (workspace.models / "broken.safetensors").write_bytes(b"no")
    found = {lora.name: lora.path for lora in grids.list_loras(workspace)}
    of_run = {f"costume-001/weights/costume-{epoch}.safetensors" for epoch in (2, 4)}
    assert set(found) == {*of_run, "downloaded.safetensors"}
    for name, path in found.items():
        checked = grids.check({"model.path": "sd15", "lora": name, "x.axis": "seed", "x.values": ["1"]}, workspace)
        assert checked.plan.plan.cells[0, 0, 0].loras == ((str(path), 1.0),)


def test_another_machine_may_name_files_of_the_workspace_only(workspace, tmp_path):
    inside = {"lora": str(workspace.models / "a.safetensors"), "model.path": "sd15", "x.axis": "lora", "x.values": ["none, costume-001"]}
    assert grids.outside(inside, workspace) == []
    secret = {"lora": "/etc/passwd", "model.path": "../../x", "run": "/tmp", "x.axis": "model", "x.values": [f'sd15, "{tmp_path}"']}
    assert {setting for setting, _ in grids.outside(secret, workspace)} == {"lora", "model.path", "run", "x.values"}


def test_a_vae_is_looked_over_at_its_field(workspace):
    given = {"model.path": "sd15", "prompt": "a dog", "x.axis": "seed", "x.values": ["1"]}
    missing = dict(grids.check({**given, "model.vae": "no-such-vae"}, workspace).problems)
    assert set(missing) == {"model.vae"} and "no-such-vae" in missing["model.vae"]
    write_lora(workspace.models / "lora.safetensors")
    other = dict(grids.check({**given, "model.vae": "lora.safetensors"}, workspace).problems)
    assert set(other) == {"model.vae"} and "no VAE" in other["model.vae"]
    plain = grids.check(given, workspace).plan
    assert next(iter(plain.looks(plain.plan.cells[0, 0, 0]))).vae is None


def test_loras_of_other_programs_are_offered_but_no_axis_is_filled_with_them(workspace, tmp_path):
    file = tmp_path / "webui" / "models" / "Lora" / "people" / "ana.safetensors"
    write_lora(file)
    (tmp_path / "webui" / "models" / "Stable-diffusion").mkdir()
    places.add(workspace, tmp_path / "webui")
    last = grids.list_loras(workspace)[-1]
    assert (last.name, last.place, last.title) == (str(file), "A1111", "ana  ·  A1111")
    checked = grids.check({"model.path": "sd15", "lora": last.name, "x.axis": "seed", "x.values": ["1"]}, workspace)
    assert checked.plan.plan.cells[0, 0, 0].loras == ((str(file), 1.0),)
    job = GridJob.parse({"run": "costume-001", "x": {"axis": "seed"}})
    assert grids.fill("lora", job, workspace) == ["none", "costume-001"]
    assert grids.outside({"lora": last.name}, workspace) == [], "what is offered may be chosen from another machine, too"
    assert [name for name, _ in grids.outside({"lora": str(tmp_path / "x.safetensors"), "model.vae": "/etc/x"}, workspace)] == [
        "lora",
        "model.vae",
    ]


def test_a_damaged_record_is_none(workspace, tmp_path):
    assert grids.read_record(tmp_path) is None
    for text in ("", "[]", '{"axes": {}, "cells": [{}]}', '{"axes": [], "cells": []}'):
        (tmp_path / "grid.json").write_text(text)
        assert grids.read_record(tmp_path) is None
    assert grids.painted(tmp_path) == set()


def test_the_pace_is_that_of_the_newest_grid_that_was_painted(workspace):
    assert grids.usual_pace(workspace) is None
    run = RunFolder.create(workspace.runs / "grid-001", GridJob.parse({"x": {"axis": "seed", "values": ["1"]}}))
    planned = grids.check({**VALUES, **AXES}, workspace).plan
    files = {position: ["cells/a.png"] for position in planned.plan.cells}
    grids.write_record(run.path, planned, files, {"cells/a.png": "broken"}, "grid.png", 0.5)
    assert grids.usual_pace(workspace) == 0.5
    record = grids.read_record(run.path)
    assert record["cells"][0]["error"] == "broken" and record["axes"]["x"]["labels"] == ["2", "4", "no LoRA"]
    assert [run.path.name for run in grids.grid_runs(workspace)] == ["grid-001"]
    assert [run.path.name for run in grids.trained_runs(workspace)] == ["costume-001"]


def test_the_samplers_are_called_alike_everywhere():
    from nosnja_gui.engine.sampler import SAMPLERS

    assert list(SAMPLERS) == list(SAMPLER_TITLES)
