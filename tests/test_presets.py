"""Presets: each loads, says what it is for, and changes are laid over it."""

import re

import pytest

from nosnja_gui import presets
from nosnja_gui.jobs import TrainJob
from nosnja_gui.methods import METHODS
from nosnja_gui.settings import UserError

NAMES = [preset.name for preset in presets.list_presets()]
PICTURES = 30
CARDS = {"low-memory-4gb": 4, "low-memory": 6, "card-8gb": 8, "sdxl-12gb": 12}
"""Preset and the memory of the card that it is for, in GB."""


def steps(job: TrainJob) -> float:
    """Updates for a dataset of 30 pictures."""
    training = job.training
    return PICTURES * job.dataset.repeats * training.epochs / training.batch_size / training.gradient_accumulation


def test_the_expected_presets_are_there_and_the_default_comes_first():
    assert set(NAMES) >= {"balanced", "fast", "gentle", "costume-30-pictures", "eight-bit-style", "low-memory", "demo"}
    assert set(NAMES) >= set(CARDS)
    assert NAMES[0] == presets.DEFAULT


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_loads_and_says_what_it_is_for(name):
    job = presets.train_job(name)
    described = next(preset for preset in presets.list_presets() if preset.name == name)
    assert described.title and len(described.about) > 60 and "\n" not in described.about
    assert job.model.path == job.dataset.path == job.output == job.trigger == "", "a preset must not name anybody's files"
    assert 100 <= steps(job) <= 5000
    assert job.lora.alpha <= job.lora.rank


@pytest.mark.parametrize("name", [name for name in NAMES if name != "demo"])
def test_a_preset_needs_the_memory_that_it_says_and_fits_its_card(name):
    """The program's own estimate for the real models, 30 pictures and a preview."""
    from dataclasses import replace

    from test_estimate import PLAN, real

    from nosnja_gui.estimate import GIB, MARGIN, memory

    job = presets.train_job(name)
    phases = memory(job, replace(PLAN, resolution=job.dataset.resolution or 512), real("sdxl" if "sdxl" in name else "sd15"), on_gpu=True)
    about = next(preset.about for preset in presets.list_presets() if preset.name == name)
    said = float(re.search(r"Needs about ([\d.]+) GB of graphics memory", about)[1])
    assert said == pytest.approx(max(phases.values()) / GIB, abs=0.15)
    if name in CARDS:
        assert max(phases.values()) * MARGIN < CARDS[name] * GIB and f"{CARDS[name]} GB" in about


def test_the_recipe_of_the_costume():
    job = presets.train_job("costume-30-pictures")
    assert (job.optimizer.learning_rate, job.schedule.name, job.training.batch_size) == (1e-5, "cosine_with_restarts", 5)
    assert (job.dataset.repeats, job.training.epochs, job.model.clip_skip) == (10, 10, 1)
    assert "slow" in next(preset.about for preset in presets.list_presets() if preset.name == "costume-30-pictures")


def test_balanced_shows_thirty_pictures_three_thousand_times():
    job = presets.train_job("balanced")
    assert PICTURES * job.dataset.repeats * job.training.epochs == 3000
    assert job.optimizer.text_encoder_learning_rate == job.optimizer.learning_rate / 2


def test_changes_lie_over_the_preset_and_the_preset_over_the_defaults():
    job = presets.train_job("fast", {"training.epochs": 2, "dataset.path": "x", "optimizer.learning_rate": "3e-4"})
    assert (job.training.epochs, job.dataset.path, job.optimizer.learning_rate) == (2, "x", 3e-4)
    assert job.schedule.name == "constant"
    assert job.saving == TrainJob().saving
    assert presets.train_job(None) == TrainJob()


def test_all_problems_come_in_one_error():
    with pytest.raises(UserError) as caught:
        presets.train_job("fast", {"optimizer.learning_rate": 0, "training.epohcs": 1, "lora.rank": 0})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert any("did you mean 'training.epochs'?" in line for line in lines)


def test_an_unknown_preset_gets_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'balanced'"):
        presets.load_preset("balaced")
    with pytest.raises(UserError, match="no settings file"):
        presets.load_preset("nowhere.yaml")


def test_a_file_is_a_preset_and_so_is_the_run_yaml_of_an_earlier_run(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("title: Mine\ntraining: {epochs: 4}\n", encoding="utf-8")
    assert presets.train_job(mine).training.epochs == 4
    earlier = presets.train_job("gentle", {"trigger": "w"})
    (tmp_path / "run.yaml").write_text(earlier.to_yaml(), encoding="utf-8")
    assert presets.train_job(tmp_path / "run.yaml") == earlier


def test_a_preset_of_the_users_is_kept_and_found_again(tmp_path):
    job = presets.train_job("gentle", {"trigger": "secret", "dataset.path": "mine", "preview.prompts": ["a b"], "lora.rank": 5})
    saved = presets.save_preset(tmp_path / "presets", "  My  best: \u010d/..\\ ", job, "For hats.")
    assert saved.own and saved.title == "My best: \u010d/..\\" and saved.path.parent == tmp_path / "presets"
    assert presets.own_presets(tmp_path / "presets") == [saved]
    assert not {"secret", "mine", "a b"} & set(saved.path.read_text().split())
    again = presets.train_job(saved.path)
    assert again.lora.rank == 5 and again.trigger == "" and again.training == job.training
    assert presets.settings_of(saved)["optimizer.learning_rate"] == 5e-5


def test_saving_under_the_same_title_replaces(tmp_path):
    presets.save_preset(tmp_path, "Mine", TrainJob())
    presets.save_preset(tmp_path, "mine", TrainJob().changed(**{"lora.rank": 3}))
    [only] = presets.own_presets(tmp_path)
    assert presets.settings_of(only)["lora.rank"] == 3


@pytest.mark.parametrize("title", ["", "  ", "Balanced", "balanced", "8-BIT STYLE", "eight bit style", "x" * 61])
def test_a_title_that_cannot_be_taken_is_refused(tmp_path, title):
    with pytest.raises(UserError):
        presets.save_preset(tmp_path, title, TrainJob())
    assert not list(tmp_path.iterdir())


def test_two_titles_that_would_share_a_file_are_told_apart(tmp_path):
    presets.save_preset(tmp_path, "a b", TrainJob())
    with pytest.raises(UserError, match="too much like"):
        presets.save_preset(tmp_path, "a/b", TrainJob())


def test_only_the_users_presets_can_be_deleted(tmp_path):
    saved = presets.save_preset(tmp_path, "Mine", TrainJob())
    presets.delete_preset(saved)
    assert presets.own_presets(tmp_path) == []
    given = presets.list_presets()[0]
    with pytest.raises(UserError, match="stays"):
        presets.delete_preset(given)
    assert given.path.exists()


def test_damaged_files_among_the_users_presets_are_passed_over(tmp_path):
    (tmp_path / "bad.yaml").write_text("[1")
    (tmp_path / "dir.yaml").mkdir()
    presets.save_preset(tmp_path, "Good", TrainJob())
    assert [preset.title for preset in presets.own_presets(tmp_path)] == ["Good"]


def test_a_changed_file_is_read_again(tmp_path):
    file = tmp_path / "mine.yaml"
    for epochs in (3, 44):
        file.write_text(f"training: {{epochs: {epochs}}}\n")
        assert presets.train_job(file).training.epochs == epochs


def test_the_page_on_presets_says_what_they_set():
    page = (presets.FOLDER.parent / "docs" / "presets.md").read_text(encoding="utf-8")
    rows = {
        cells[1].strip("`"): cells for line in page.splitlines() if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 6
    }
    for preset in presets.list_presets():
        job = presets.train_job(preset.path)
        title, _, _, ranks, rate, text_rate = rows.pop(preset.name)
        assert (title, ranks) == (preset.title, f"{job.lora.rank} / {job.lora.alpha:g}" if "lora" in METHODS[job.method].groups else "–")
        assert float(rate) == job.optimizer.learning_rate
        assert (0.0 if text_rate == "off" else float(text_rate)) == (job.optimizer.text_encoder_learning_rate or 0.0), preset.name
    assert set(rows) == {"name", "---"}
