"""Axes read what users write, and a grid is checked as a whole before its first picture."""

import pytest

from nosnja_gui import events
from nosnja_gui.axes import AXES, Cell, Context, PlanError, SavedEpoch, expand, plan_grid, saved_epochs, split_values, written_prompt
from nosnja_gui.jobs import GridJob
from nosnja_gui.settings import UserError

BASE = Cell(
    model="sd15", loras=(), weight=0.8, trigger=True, prompt="[trigger], a woman in a [trigger] at the beach", negative_prompt="blurry",
    seed=1, sampler="ddim", steps=20, cfg_scale=7.0, clip_skip=1, width=None, height=None,
)  # fmt: skip


def job(**values) -> GridJob:
    return GridJob.parse({"prompt": BASE.prompt, "negative_prompt": BASE.negative_prompt, **values})


def plan(context=None, base=BASE, **axes):
    made = job(**axes)
    return plan_grid(made, context or Context(made, trigger="nosnja", class_noun="dress"), base)


def with_epochs(tmp_path, **axes) -> Context:
    epochs = tuple(SavedEpoch(number, 100 * number, tmp_path / f"e{number}.safetensors") for number in (2, 4, 6))
    return Context(job(**axes), trigger="nosnja", class_noun="dress", epochs=epochs, run=tmp_path)


@pytest.mark.parametrize(
    ("text", "whole", "numbers"),
    [
        ("1-5", True, [1, 2, 3, 4, 5]),
        ("1-10(+2)", True, [1, 3, 5, 7, 9]),
        ("10-5 (-3)", True, [10, 7]),
        ("3-1", True, [3, 2, 1]),
        ("1-10 [5]", True, [1, 3, 5, 7, 10]),
        ("1, 2, 5-6", True, [1, 2, 5, 6]),
        ("-2--1", True, [-2, -1]),
        ("0.5-1.0 [3]", False, [0.5, 0.75, 1.0]),
        ("0-1(+0.1)", False, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        ("-1-1(+0.5)", False, [-1.0, -0.5, 0.0, 0.5, 1.0]),
        ("1e-1, .5", False, [0.1, 0.5]),
        ("0-1[5]", False, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("1-10[5]", True, [1, 3, 5, 7, 10]),
        ("0-1[5]", True, [0, 1]),
        ("1-3", False, [1.0, 2.0, 3.0]),
    ],
)
def test_ranges_are_spelt_out_as_users_of_a1111_expect(text, whole, numbers):
    assert expand([text], whole) == numbers


def test_samplers_may_be_called_as_a1111_calls_them():
    grid = plan(x={"axis": "sampler", "values": ["Euler a, ddim, dpm++ 2m karras"]})
    assert grid.x.values == ("euler_a", "ddim", "dpm++_2m_karras")
    assert grid.x.labels == ("Euler a", "DDIM", "DPM++ 2M Karras")
    assert grid.x.given == "Euler a, DDIM, DPM++ 2M Karras"


def test_files_of_two_runs_that_are_called_alike_are_told_apart(tmp_path):
    files = [tmp_path / run / "weights" / "lora.safetensors" for run in ("red-001", "blue-001")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.touch()
    assert plan(x={"axis": "lora", "values": ["none", *map(str, files)]}).x.labels == ("no LoRA", "red-001/lora", "blue-001/lora")


def test_each_problem_is_said_with_its_setting():
    with pytest.raises(PlanError) as error:
        plan(x={"axis": "seed", "values": ["1"]}, y={"axis": "seed", "values": ["2"]}, z={"axis": "steps", "values": ["0"]})
    assert {setting for setting, _ in error.value.problems} == {"y.axis", "z.values"}


@pytest.mark.parametrize("text", ["abc", "1-5(-1)", "1-5(0)", "1-9999999999", "1.5", "nan", "1-5[0]", "inf"])
def test_a_value_that_is_no_number_is_refused(text):
    with pytest.raises(UserError):
        expand([text], whole=True)


def test_every_bad_number_is_named():
    with pytest.raises(UserError) as error:
        expand(["x, 1, y"], whole=False)
    assert "'x'" in str(error.value) and "'y'" in str(error.value)


def test_quoted_commas_stay_together():
    assert split_values('beach, "snow, at night", city') == ["beach", "snow, at night", "city"]
    with pytest.raises(UserError, match="quote"):
        split_values('beach, "snow')


def test_prompt_search_and_replace():
    grid = plan(x={"axis": "prompt", "values": ["beach", "forest, at night"]})
    assert [cell.prompt.rsplit(" the ")[1] for cell in grid.cells.values()] == ["beach", "forest, at night"]
    assert grid.x.labels == ("beach", "forest, at night")


def test_a_prompt_without_the_searched_text_is_an_error():
    with pytest.raises(UserError, match="'castle', which is neither"):
        plan(x={"axis": "prompt", "values": ["castle", "forest"]})


def test_one_prompt_axis_may_not_take_the_others_text_away():
    with pytest.raises(UserError, match="another axis has replaced"):
        plan(x={"axis": "prompt", "values": ["at the beach", "in the snow"]}, y={"axis": "prompt", "values": ["beach", "lake"]})


def test_the_trigger_is_written_or_replaced_by_the_noun():
    grid = plan(z={"axis": "trigger", "values": ["on", "off"]})
    context = Context(job(z={"axis": "trigger"}), trigger="nosnja", class_noun="dress")
    assert [written_prompt(cell, context) for cell in grid.cells.values()] == [
        "nosnja, a woman in a nosnja at the beach",
        "a woman in a dress at the beach",
    ]
    assert grid.z.labels == ("with “nosnja”", "without")


def test_without_a_noun_the_trigger_leaves_no_gap():
    context = Context(job(x={"axis": "seed"}), trigger="nosnja")
    off = Cell(**{**BASE.__dict__, "trigger": False, "prompt": "[trigger], a woman, [trigger], at the beach in [trigger]"})
    assert written_prompt(off, context) == "a woman, at the beach in"


@pytest.mark.parametrize("values", [[], ["on, off"], [1, 0], ["with", "without"], ["true", "false"]])
def test_switches_are_read_in_many_spellings(values):
    assert plan(x={"axis": "trigger", "values": values}).x.values == (True, False)


def test_a_trigger_axis_needs_its_mark_and_its_word():
    with pytest.raises(UserError, match="nothing to switch"):
        plan(base=Cell(**{**BASE.__dict__, "prompt": "a woman"}), x={"axis": "trigger"})
    made = job(x={"axis": "seed", "values": [1]})
    with pytest.raises(UserError, match="no trigger word"):
        plan_grid(made, Context(made), BASE)


def test_epochs_and_weights_meet(tmp_path):
    axes = {"x": {"axis": "weight", "values": ["0.5-1 [2]"]}, "y": {"axis": "epoch", "values": ["none", 4, "last"]}}
    grid = plan(with_epochs(tmp_path, **axes), **axes)
    assert grid.y.labels == ("no LoRA", "4", "6")
    assert grid.cells[1, 1, 0].loras == ((str(tmp_path / "e4.safetensors"), 1.0),)
    assert grid.cells[0, 2, 0].loras == ((str(tmp_path / "e6.safetensors"), 0.5),)
    assert grid.cells[0, 0, 0].loras == ()
    # The epoch is dearer than the weight, so it varies slowest although it is shown downwards.
    assert [position[1] for position in grid.cells] == [0, 0, 1, 1, 2, 2]


def test_a_line_is_written_down_as_it_was_given():
    grid = plan(x={"axis": "cfg_scale", "values": ["2, 3-5"]}, y={"axis": "seed", "values": [1, 2]})
    assert (grid.x.given, grid.y.given) == ("2, 3-5", "1, 2")


def test_no_epochs_given_means_all_of_them_and_steps_can_be_named(tmp_path):
    axes = {"x": {"axis": "epoch"}}
    assert plan(with_epochs(tmp_path, **axes), **axes).x.labels == ("2", "4", "6")
    axes = {"x": {"axis": "epoch", "values": ["0, step 200, 600"]}}
    assert [value and value.epoch for value in plan(with_epochs(tmp_path, **axes), **axes).x.values] == [None, 2, 6]


def test_an_epoch_that_was_not_saved_is_named_with_those_that_were(tmp_path):
    axes = {"x": {"axis": "epoch", "values": [3]}}
    with pytest.raises(UserError, match=r"epoch 3, which was not saved; saved: 2, 4, 6"):
        plan(with_epochs(tmp_path, **axes), **axes)


def test_saved_epochs_come_from_the_runs_log(tmp_path):
    (tmp_path / "run.yaml").write_text("job: train")
    (tmp_path / "weights").mkdir()
    log = events.EventLog(tmp_path / "events.jsonl")
    for epoch, there in ((2, True), (1, True), (3, False)):
        log.append(events.Saved(step=epoch * 10, epoch=epoch, file=f"weights/e{epoch}.safetensors"))
        if there:
            (tmp_path / f"weights/e{epoch}.safetensors").touch()
    log.append(events.Saved(step=30, epoch=3, file="checkpoints/step-30"))
    assert [item.epoch for item in saved_epochs(tmp_path)] == [1, 2]
    with pytest.raises(UserError, match="no run"):
        saved_epochs(tmp_path / "nowhere")


def test_all_problems_are_said_at_once():
    with pytest.raises(UserError) as error:
        plan(
            x={"axis": "steps", "values": [0, 20, -4]},
            y={"axis": "sampler", "values": ["ddim", "dimm"]},
            z={"axis": "epochs", "values": [1]},
        )
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    assert all(line.endswith(".") for line in lines)
    assert "known: epoch" in str(error.value)


@pytest.mark.parametrize(
    ("axis", "values", "said"),
    [
        ("seed", ["-1"], "greater than or equal to 0"),
        ("weight", ["9"], "less than or equal to 5"),
        ("clip_skip", ["3"], "less than or equal to 2"),
        ("size", ["500x512"], "multiple of 8"),
        ("size", ["big"], "512x768"),
        ("model", ["no-such-model"], "does not exist"),
        ("lora", ["no-such-file"], "does not exist"),
        ("seed", [], "no values"),
        ("epoch", ["1"], "needs a training run"),
    ],
)
def test_bounds_are_those_of_the_job(axis, values, said):
    with pytest.raises(UserError, match=said):
        plan(x={"axis": axis, "values": values})


def test_labels_must_be_as_many_as_values():
    assert plan(x={"axis": "seed", "values": ["1-2"], "labels": ["first", "second"]}).x.labels == ("first", "second")
    with pytest.raises(UserError, match="1 labels for 2 values"):
        plan(x={"axis": "seed", "values": ["1-2"], "labels": ["first"]})


def test_axes_that_contradict_each_other_are_refused(tmp_path):
    with pytest.raises(UserError, match="used twice"):
        plan(x={"axis": "seed", "values": [1]}, y={"axis": "seed", "values": [2]})
    axes = {"x": {"axis": "lora", "values": ["none"]}, "y": {"axis": "epoch", "values": [2]}}
    with pytest.raises(UserError, match="use one of them"):
        plan(with_epochs(tmp_path, **axes), **axes)


def test_loras_are_found_by_path_by_name_and_by_run(tmp_path):
    file = tmp_path / "costume-v1.2.safetensors"
    file.touch()
    made = job(x={"axis": "lora", "values": ["none", str(file), "costume-v1.2"]})
    grid = plan_grid(made, Context(made, trigger="w", models=tmp_path), BASE)
    assert grid.x.values == (None, file, file)
    assert grid.x.labels == ("no LoRA", "costume-v1.2", "costume-v1.2")
    assert grid.cells[1, 0, 0].loras == ((str(file), 0.8),)


def test_every_axis_changes_the_cell_and_has_a_title_and_a_hint(tmp_path):
    (tmp_path / "other").mkdir()
    values = {
        "epoch": [2], "weight": [0.3], "trigger": ["off"], "lora": [], "prompt": ["beach", "snow"], "seed": [9], "sampler": ["euler_a"],
        "steps": [9], "cfg_scale": [3], "clip_skip": [2], "model": [str(tmp_path / "other")], "size": ["64x128"],
    }  # fmt: skip
    (tmp_path / "l.safetensors").touch()
    values["lora"] = [str(tmp_path / "l.safetensors")]
    for name, axis in AXES.items():
        settings = {"x": {"axis": name, "values": values[name]}}
        grid = plan(with_epochs(tmp_path, **settings), **settings)
        assert list(grid.cells.values())[-1] != BASE, name
        assert axis.title and axis.hint and axis.name == name
        assert all(label for label in grid.x.labels)


def test_yaml_switches_survive(tmp_path):
    (tmp_path / "grid.yaml").write_text("x: {axis: trigger, values: [on, off]}\nprompt: '[trigger]'\n")
    made = GridJob.from_yaml(tmp_path / "grid.yaml")
    assert plan_grid(made, Context(made, trigger="nosnja"), Cell(**{**BASE.__dict__, "prompt": made.prompt})).x.values == (True, False)
