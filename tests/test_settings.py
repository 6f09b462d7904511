"""Settings: parsed strictly, told in sentences, never half-read."""

import pytest

from nosnja_gui.jobs import GridJob, TrainJob, workspace_path
from nosnja_gui.settings import UserError, dotted, field_names, merge, merge_dotted, read_yaml


def problems(values: dict) -> list[str]:
    with pytest.raises(UserError) as caught:
        TrainJob.parse(values, where="test")
    return str(caught.value).splitlines()


def test_all_problems_are_named_at_once_by_their_dotted_names():
    found = problems({"optimizer": {"learning_rate": 0, "weight_decay": -1}, "training": {"epochs": "many"}})
    assert len(found) == 3
    assert all(f"'{name}'" in "\n".join(found) for name in ("optimizer.learning_rate", "optimizer.weight_decay", "training.epochs"))
    assert "(got 0)" in found[0]


def test_a_misspelt_setting_gets_the_nearest_name():
    assert "did you mean 'optimizer.learning_rate'?" in problems({"optimizer": {"lerning_rate": 1e-4}})[0]
    assert "did you mean 'training.epochs'?" in problems({"epochs": 3})[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e-4, 0, "fast", None, [1]])
def test_a_learning_rate_that_is_none_is_refused(value):
    assert "'optimizer.learning_rate'" in problems({"optimizer": {"learning_rate": value}})[0]


def test_a_rate_written_like_yaml_keeps_it_becomes_a_number():
    assert TrainJob.parse({"optimizer": {"learning_rate": "1e-4"}}).optimizer.learning_rate == 1e-4


def test_settings_are_frozen_and_derived_by_dotted_names():
    job = TrainJob()
    with pytest.raises(ValueError, match="frozen"):
        job.name = "other"
    changed = job.changed(**{"optimizer.learning_rate": 3e-4, "name": "other"})
    assert (changed.optimizer.learning_rate, changed.name) == (3e-4, "other")
    assert (job.optimizer.learning_rate, job.name) == (1e-4, "lora")
    with pytest.raises(UserError, match="learning_rate"):
        job.changed(**{"optimizer.learning_rate": -1})


def test_yaml_round_trip_is_exact(tmp_path):
    job = TrainJob().changed(**{"name": "nošnja", "optimizer.learning_rate": 1.23e-5, "preview.prompts": ["a: b", "#c", "1e-4", "no"]})
    file = tmp_path / "job.yaml"
    file.write_text(job.to_yaml(), encoding="utf-8")
    assert TrainJob.from_yaml(file) == job


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\na: 2\n", "given twice"),
        ("a: &x [1]\nb: *x\n", "aliases"),
        ("a: !!python/object/apply:os.system ['true']\n", "not readable as YAML"),
        ("- 1\n- 2\n", "got list"),
        ("", "got NoneType"),
        ("a: [1\n", "not readable as YAML"),
        ("[" * 5000, "not readable as YAML"),
        ("? [a, b]\n: 1\n", "no name"),
        ("a: 2024-13-45\n", "not readable as YAML"),
    ],
)
def test_bad_yaml_is_one_sentence(tmp_path, text, says):
    file = tmp_path / "bad.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=says) as caught:
        read_yaml(file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_missing_file_folder_and_wrong_bytes_are_one_sentence(tmp_path):
    (tmp_path / "utf16.yaml").write_bytes("a: 1".encode("utf-16"))
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "utf16.yaml"):
        with pytest.raises(UserError):
            read_yaml(path)


def test_merging_leaves_what_it_was_given_alone():
    base = {"a": {"b": 1, "c": 2}, "d": [1]}
    assert merge(base, {"a": {"b": 5}, "d": [2, 3]}) == {"a": {"b": 5, "c": 2}, "d": [2, 3]}
    assert merge_dotted(base, {"a.b": 7, "e.f.g": 1}) == {"a": {"b": 7, "c": 2}, "d": [1], "e": {"f": {"g": 1}}}
    assert base == {"a": {"b": 1, "c": 2}, "d": [1]}


def test_a_grid_needs_an_axis():
    with pytest.raises(UserError, match="at least one axis"):
        GridJob.parse({"prompt": "a dog"})
    assert GridJob.parse({"x": {"axis": "weight", "values": [0, 0.5]}}).x.values == [0, 0.5]


def test_every_setting_has_help():
    """A group's help is its fields'."""
    lacking = []
    for model in (TrainJob, GridJob):
        for name in field_names(model):
            at, field = model, None
            for part in name.split("."):
                field = at.model_fields[part]
                inner = [kind for kind in (field.annotation, *getattr(field.annotation, "__args__", ())) if hasattr(kind, "model_fields")]
                at = inner[0] if inner else at
            if not inner and not field.description and part != "job":
                lacking.append(name)
    assert lacking == []


def test_a_path_as_given_comes_before_a_name_in_the_workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "sd15").mkdir(parents=True)
    assert workspace_path("sd15", tmp_path / "models") == tmp_path / "models" / "sd15"
    (tmp_path / "sd15").mkdir()
    assert workspace_path("sd15", tmp_path / "models").resolve() == tmp_path / "sd15"
    assert str(workspace_path("nowhere", tmp_path / "models")) == "nowhere"


def test_dotted_values_and_nested_ones_are_the_same():
    job = TrainJob().changed(**{"lora.rank": 3, "preview.prompts": ["a"]})
    flat = dotted(job.model_dump(mode="json"))
    assert flat["lora.rank"] == 3 and flat["preview.prompts"] == ["a"] and "lora" not in flat
    assert TrainJob.parse(merge_dotted({}, flat)) == job


def test_settings_that_change_nothing_are_known():
    idle = TrainJob().without_effect()
    assert {"schedule.restarts", "schedule.power", "validation.every_epochs", "validation.draws"} <= set(idle)
    assert "schedule.end_share" not in idle and "dataset.bucket_step" not in idle
    job = TrainJob().changed(**{"schedule.name": "polynomial", "dataset.validation_share": 0.1, "dataset.buckets": False})
    idle = job.without_effect()
    assert {"dataset.bucket_step", "schedule.restarts"} <= set(idle)
    assert not {"schedule.power", "validation.every_epochs", "validation.draws"} & set(idle)


def test_the_scale_of_a_lora_is_alpha_over_rank():
    assert TrainJob().changed(**{"lora.rank": 32, "lora.alpha": 8}).lora.scale == 0.25
