"""Settings of other trainers: every line of a file is accounted for, and what is taken over means the same here."""

import json
import math
import random
import re
from pathlib import Path

import pytest

from nosnja_gui import foreign, presets, schedules
from nosnja_gui.foreign import FORMATS, VERDICTS, Imported, Line, read, understand
from nosnja_gui.foreign.onetrainer import REX_AS_POWER
from nosnja_gui.jobs import TrainJob
from nosnja_gui.settings import UserError

FILES = Path(__file__).parent / "foreign_files"
KINDS = {
    "kohya_ss.json": "kohya_ss",
    "kohya_ss.toml": "kohya_ss",
    "sd_scripts.toml": "sd_scripts",
    "sd_scripts_sections.toml": "sd_scripts",
    "dataset.toml": "kohya_dataset",
    "onetrainer.json": "onetrainer",
    "onetrainer_concepts.json": "onetrainer_concepts",
}


def content(name: str) -> object:
    import tomllib

    text = (FILES / name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else tomllib.loads(text)


def leaves(value: object, prefix: str = "") -> list[str]:
    """Every key of a file down to its last part, told independently of the program."""
    if isinstance(value, dict) and (value or not prefix):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, f"{prefix}.{key}" if prefix else key)]
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return [leaf for place, inner in enumerate(value) for leaf in leaves(inner, f"{prefix}[{place}]")]
    return [prefix]


def kohya(**changes) -> Imported:
    """kohya_ss's settings as its window saves them, with some changed; None leaves one out."""
    values = {
        "LoRA_type": "Standard", "num_cpu_threads_per_process": 2, "learning_rate": 1e-4, "unet_lr": 1e-4, "text_encoder_lr": 5e-5,
        "network_dim": 8, "network_alpha": 1, "lr_scheduler": "cosine", "lr_warmup": 10, "optimizer": "AdamW8bit", "epoch": 4,
        "max_train_steps": 0, "max_train_epochs": 0, "train_batch_size": 1, "max_resolution": "512,512", "min_snr_gamma": 0,
    }  # fmt: skip
    values = {key: value for key, value in {**values, **changes}.items() if value is not None}
    return understand(("kohya.json", json.dumps(values)))


def scripts(text: str, *more: str) -> Imported:
    head = 'network_module = "networks.lora"\ntrain_batch_size = 2\n'
    return understand(("config.toml", head + text), *((f"{number}.toml", one) for number, one in enumerate(more)))


def onetrainer(**changes) -> Imported:
    return understand(("preset.json", json.dumps({"training_method": "LORA", "learning_rate": 3e-4, "batch_size": 4, **changes})))


def line(imported: Imported, key: str) -> Line:
    (found,) = [line for line in imported.lines if line.key == key]
    return found


# Every line


@pytest.mark.parametrize("name", KINDS)
def test_every_key_of_a_file_is_in_exactly_one_line(name):
    imported = read(FILES / name)
    assert imported.kind == KINDS[name]
    keys = [line.key for line in imported.lines if line.given]
    assert len(keys) == len(set(keys))
    for leaf in leaves(content(name)):
        above = [key for key in keys if leaf == key or re.match(re.escape(key) + r"[.\[]", leaf)]
        assert len(above) == 1, (leaf, above)
    assert {line.verdict for line in imported.lines} <= set(VERDICTS)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_not_simply_taken_over_has_a_reason_in_a_sentence(name):
    for found in read(FILES / name).lines:
        assert found.reason or found.verdict == "taken", found
        assert not found.reason or (found.reason.endswith(".") and "\n" not in found.reason), found
        assert found.settings or found.verdict != "approximated" or "layer" in found.key, found


@pytest.mark.parametrize("name", KINDS)
def test_the_lines_settings_are_the_jobs(name):
    imported = read(FILES / name)
    said = {setting: value for line in imported.lines for setting, value in line.settings.items()}
    assert said == {**imported.settings, **imported.personal}
    job = presets.dotted(imported.job().model_dump(mode="json"))
    assert {setting: job[setting] for setting in imported.settings} == imported.settings
    assert not set(imported.settings) & set(foreign.PERSONAL)
    assert TrainJob.parse(imported.job().model_dump(mode="json")) == imported.job()


@pytest.mark.parametrize("name", KINDS)
def test_each_file_is_recognised_by_one_format_only(name):
    assert [form.name for form in FORMATS.values() if form.recognises(content(name))] == [KINDS[name]]


@pytest.mark.parametrize("form", FORMATS.values(), ids=list(FORMATS))
def test_the_tables_name_settings_that_there_are(form):
    """Whatever the values, no rule says a setting that a TrainJob does not have."""
    known = set(presets.dotted(TrainJob().model_dump(mode="json")))
    for key, rule in form.table.items():
        for value in (True, 1, 0.5, "1", "LORA", [2, 3], "a=b"):
            values = foreign.Values({**form.defaults, key: value})
            assert set(rule(foreign.Entry(key.replace("[]", "[0]"), value, values)).settings) <= known, key


# kohya_ss


def test_kohya_ss_settings_as_a_whole():
    imported = read(FILES / "kohya_ss.json")
    settings = imported.settings
    assert (settings["optimizer.learning_rate"], settings["optimizer.text_encoder_learning_rate"]) == (2e-4, 5e-5)
    assert (settings["schedule.name"], settings["schedule.restarts"], settings["schedule.warmup_share"]) == ("cosine_with_restarts", 3, 0.1)
    assert (settings["lora.rank"], settings["lora.alpha"], settings["lora.dropout"]) == (32, 16, 0.1)
    assert (settings["training.epochs"], settings["training.max_steps"], settings["training.batch_size"]) == (12, None, 3)
    assert settings["loss.weighting"] == "none" and settings["dataset.caption_dropout"] == 0
    assert (settings["model.clip_skip"], settings["model.precision"], settings["dataset.buckets"]) == (2, "bfloat16", True)
    assert (settings["optimizer.name"], settings["optimizer.weight_decay"]) == ("adamw8bit", 0.05)
    assert imported.personal["preview.prompts"] == ["redhat, a woman in a red hat", "a man in a hat"]
    assert imported.personal["name"] == "red_hat" and imported.personal["dataset.path"] == "D:/training/pictures"
    assert (settings["preview.width"], settings["preview.height"], settings["preview.steps"], settings["preview.seed"]) == (512, 640, 28, 7)
    assert (settings["preview.cfg_scale"], settings["preview.negative_prompt"], settings["preview.sampler"]) == (6.5, "blurry", "euler_a")
    assert line(imported, "LoRA_type").verdict == "approximated" and line(imported, "conv_dim").settings == {"lora.conv_rank": 8}
    assert line(imported, "xformers").verdict == line(imported, "logging_dir").verdict == "ignored"
    assert settings["loss.noise_offset"] == 0.05 and line(imported, "multires_noise_discount").verdict == "ignored"
    assert line(imported, "cache_latents").verdict == "taken" and "Always on" in line(imported, "cache_latents").reason


def test_a_rate_of_zero_leaves_that_part_alone_and_two_zeros_mean_the_common_one():
    assert kohya(text_encoder_lr=0).settings["optimizer.text_encoder_learning_rate"] is None
    both = kohya(unet_lr=0, text_encoder_lr=0, learning_rate=3e-4).settings
    assert (both["optimizer.learning_rate"], both["optimizer.text_encoder_learning_rate"]) == (3e-4, 3e-4)
    assert line(kohya(), "learning_rate").verdict == "ignored"


def test_steps_go_before_epochs_where_they_are_given():
    by_epochs = kohya()
    assert by_epochs.settings["training.epochs"] == 4 and by_epochs.settings["training.max_steps"] is None
    by_steps = kohya(max_train_steps=1600)
    assert by_steps.settings["training.max_steps"] == 1600 and by_steps.settings["training.epochs"] >= 1600
    assert line(by_steps, "epoch").verdict == "ignored"
    assert kohya(max_train_steps=1600, max_train_epochs=7).settings["training.epochs"] == 7


def test_warmup_is_percent_or_steps():
    assert kohya(lr_warmup=5).settings["schedule.warmup_share"] == 0.05
    assert kohya(lr_warmup=5, lr_warmup_steps=100, max_train_steps=2000).settings["schedule.warmup_share"] == 0.05
    unknown = kohya(lr_warmup=5, lr_warmup_steps=100)
    assert line(unknown, "lr_warmup_steps").verdict == "approximated" and line(unknown, "lr_warmup").verdict == "ignored"


def test_an_optimizer_that_finds_its_rate_keeps_its_factor_and_has_one_for_all_parts():
    imported = kohya(optimizer="Prodigy", unet_lr=1.0, text_encoder_lr=1.0, learning_rate=1.0)
    assert imported.settings["optimizer.name"] == "prodigy"
    assert imported.settings["optimizer.learning_rate"] == 1.0 and imported.settings["optimizer.text_encoder_learning_rate"] == 1.0
    assert line(imported, "unet_lr").verdict == line(imported, "optimizer").verdict == "taken"
    other = kohya(optimizer="DAdaptAdam", unet_lr=1.0, text_encoder_lr=0.5)
    assert other.settings["optimizer.name"] == "prodigy" and line(other, "optimizer").verdict == "approximated"
    assert other.settings["optimizer.text_encoder_learning_rate"] == 1.0 and line(other, "text_encoder_lr").verdict == "approximated"


def test_alpha_0_is_the_rank():
    assert kohya(network_dim=24, network_alpha=0).settings["lora.alpha"] == 24


def test_numbers_as_text_are_numbers_and_what_is_none_is_said():
    assert kohya(train_batch_size="3", seed="77").settings["training.seed"] == 77
    wrong = kohya(train_batch_size="many", network_dim=100_000)
    assert line(wrong, "train_batch_size").verdict == line(wrong, "network_dim").verdict == "no counterpart"
    assert "less than or equal to 1024" in line(wrong, "network_dim").reason
    assert "training.batch_size" not in wrong.settings


def test_other_ways_of_training_are_refused():
    values = {"num_cpu_threads_per_process": 2, "max_resolution": "512,512", "lr_warmup": 0, "learning_rate_te": 1e-5}
    with pytest.raises(UserError, match="a whole model, of which none would fit"):
        understand(("dreambooth.json", json.dumps(values)))
    with pytest.raises(UserError, match="textual inversion"):
        understand(("ti.json", json.dumps({**values, "num_vectors_per_token": 8})))


def test_a_size_that_no_bucket_has_becomes_the_nearest_that_one_has():
    imported = kohya(max_resolution="720,720", bucket_reso_steps=64, enable_bucket=True)
    assert imported.settings["dataset.resolution"] == 704
    assert line(imported, "max_resolution").verdict == "approximated" and "704" in line(imported, "max_resolution").reason
    assert kohya(max_resolution="720,720", enable_bucket=False).settings["dataset.resolution"] == 720
    assert kohya(max_resolution="720,720", bucket_reso_steps=1, enable_bucket=True).settings["dataset.resolution"] == 720


# sd-scripts and its datasets


def test_sections_are_for_the_eye_only():
    flat = scripts("unet_lr = 1e-4\nmax_train_epochs = 3\n").settings
    sectioned = understand(
        ("c.toml", "[a]\nnetwork_module = 'networks.lora'\nunet_lr = 1e-4\n[b]\ntrain_batch_size = 2\nmax_train_epochs = 3\n")
    )
    assert sectioned.settings == flat and line(sectioned, "b.max_train_epochs").settings["training.epochs"] == 3


def test_what_the_scripts_do_without_being_told_is_listed_as_such():
    imported = scripts("learning_rate = 1e-4\n")
    assumed = {found.key: found for found in imported.lines if not found.given}
    assert assumed["network_dim"].settings == {"lora.rank": 4} and assumed["network_alpha"].settings == {"lora.alpha": 1.0}
    assert assumed["max_train_steps"].settings["training.max_steps"] == 1600
    assert imported.settings["schedule.name"] == "constant" and imported.settings["loss.weighting"] == "none"
    assert imported.settings["optimizer.text_encoder_learning_rate"] == 1e-4, "both parts are trained unless it says otherwise"
    assert "train_batch_size" not in assumed


@pytest.mark.parametrize(
    ("text", "share"), [("lr_warmup_steps = 100", 0.05), ("lr_warmup_steps = 0.2", 0.2), ("lr_warmup_steps = 0", 0), ("", 0)]
)
def test_warmup_of_the_scripts_is_steps_or_a_share(text, share):
    assert scripts(f"max_train_steps = 2000\n{text}").settings["schedule.warmup_share"] == share


def test_the_unet_alone():
    imported = scripts("learning_rate = 1e-4\nnetwork_train_unet_only = true\n")
    assert imported.settings["optimizer.text_encoder_learning_rate"] is None
    assert imported.settings["optimizer.learning_rate"] == 1e-4
    assert scripts("learning_rate = 1e-4\ntext_encoder_lr = 0.0\n").settings["optimizer.text_encoder_learning_rate"] is None


@pytest.mark.parametrize(
    ("foreign_name", "name", "verdict"),
    [
        ("constant_with_warmup", "constant", "taken"),
        ("linear", "linear", "taken"),
        ("cosine_with_min_lr", "cosine", "approximated"),
        ("warmup_stable_decay", "constant", "approximated"),
        ("adafactor:1e-3", "constant", "approximated"),
    ],
)
def test_schedules(foreign_name, name, verdict):
    imported = scripts(f'lr_scheduler = "{foreign_name}"')
    assert imported.settings["schedule.name"] == name and line(imported, "lr_scheduler").verdict == verdict


def test_a_schedule_of_another_library_is_told_by_its_name():
    imported = scripts('lr_scheduler = "constant"\nlr_scheduler_type = "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts"')
    assert imported.settings["schedule.name"] == "cosine_with_restarts"
    assert line(imported, "lr_scheduler").verdict == "ignored" and line(imported, "lr_scheduler_type").verdict == "approximated"


def test_a_datasets_settings_go_before_those_on_the_command_line():
    imported = read(FILES / "sd_scripts_sections.toml", FILES / "dataset.toml")
    settings = imported.settings
    assert (settings["training.batch_size"], settings["dataset.repeats"], settings["dataset.flip"]) == (3, 5, True)
    # The root of 512 x 768 is 627; its buckets have a step of 32.
    assert (settings["dataset.resolution"], settings["dataset.bucket_step"]) == (640, 32)
    assert line(imported, "training.train_batch_size").verdict == "ignored"
    assert line(imported, "training.dataset_config").reason == "Given along."
    assert line(imported, "general.num_repeats").verdict == "no counterpart", "the subsets say otherwise"
    assert line(imported, "datasets[1].subsets[0].num_repeats").verdict == "taken", "the same number"
    assert all(found.verdict == "no counterpart" for found in imported.lines if found.key.startswith("datasets[0].subsets[1]."))
    assert imported.personal["dataset.path"] == "pictures/hats"
    alone = read(FILES / "sd_scripts_sections.toml")
    assert line(alone, "training.dataset_config").verdict == "no counterpart" and alone.settings["training.batch_size"] == 4


def test_the_order_of_defaults_across_files():
    """What the dataset's file leaves out is the command line's."""
    settings = scripts("enable_bucket = true\n", "[[datasets]]\nresolution = 640\n").settings
    assert (settings["training.batch_size"], settings["dataset.buckets"], settings["dataset.repeats"]) == (2, True, 1)


def test_prompts_with_options():
    found = kohya(sample_prompts="# a comment\nshiny -- hat --s 5000 --w 513 --l 0.5\n\nother").personal["preview.prompts"]
    assert found[-1] == "other" and "comment" not in str(found)
    settings = kohya(sample_prompts="hat --s 5000 --w 513 --l 0.5 --n").settings
    assert (settings["preview.steps"], settings["preview.width"], settings["preview.cfg_scale"]) == (1000, 512, 1.0)


# OneTrainer


def test_onetrainer_as_a_whole():
    imported = read(FILES / "onetrainer.json", FILES / "onetrainer_concepts.json")
    settings = imported.settings
    assert (settings["lora.rank"], settings["lora.alpha"], settings["lora.dropout"]) == (32, 16, 0.05)
    # learning_rate_scaler BATCH: times the root of 4.
    assert settings["optimizer.learning_rate"] == pytest.approx(6e-4)
    assert settings["optimizer.text_encoder_learning_rate"] == pytest.approx(2e-4)
    assert (settings["optimizer.name"], settings["optimizer.weight_decay"]) == ("adamw8bit", 0.02)
    assert (settings["training.epochs"], settings["training.batch_size"], settings["training.gradient_accumulation"]) == (40, 4, 2)
    assert (settings["loss.weighting"], settings["loss.min_snr_gamma"]) == ("min_snr", 5)
    assert settings["training.gradient_checkpointing"] is False
    assert (settings["model.clip_skip"], settings["model.precision"], settings["dataset.caption_dropout"]) == (2, "bfloat16", 0.1)
    assert (settings["dataset.repeats"], settings["dataset.flip"]) == (3, True)
    assert (settings["saving.every_epochs"], settings["saving.checkpoint_every_steps"], settings["saving.keep_checkpoints"]) == (5, 250, 3)
    assert settings["preview.every_epochs"] == 4, "ten times in 40 epochs"
    assert imported.personal["preview.prompts"] == ["redhat, a woman", "a man in a hat"] and imported.personal["name"] == "red_hat"
    assert line(imported, "learning_rate_warmup_steps").verdict == "approximated"
    assert line(imported, "mae_strength").verdict == line(imported, "optimizer.beta2").verdict == "no counterpart"
    assert line(imported, "[1].balancing").verdict == "ignored" and line(imported, "[2].path").verdict == "no counterpart"


def test_what_a_onetrainer_preset_leaves_out_is_its_default():
    settings = onetrainer().settings
    assert (settings["lora.rank"], settings["lora.alpha"], settings["training.epochs"], settings["dataset.repeats"]) == (16, 1, 100, 1)
    assert settings["loss.weighting"] == "none" and settings["training.gradient_checkpointing"] is True
    assert settings["optimizer.text_encoder_learning_rate"] == 3e-4
    assert onetrainer(text_encoder={"train": False}).settings["optimizer.text_encoder_learning_rate"] is None


def test_earlier_names_of_onetrainer_are_understood():
    settings = onetrainer(optimizer="ADAMW_8BIT", train_text_encoder=False, min_snr_gamma=5.0, gradient_checkpointing="OFF").settings
    assert settings["optimizer.name"] == "adamw8bit" and settings["optimizer.text_encoder_learning_rate"] is None
    assert (settings["loss.weighting"], settings["loss.min_snr_gamma"]) == ("min_snr", 5)


@pytest.mark.parametrize(("warmup", "share"), [(0, 0), (0.1, 0.1), (1, 0.99)])
def test_onetrainers_warmup_up_to_one_is_a_share(warmup, share):
    assert onetrainer(learning_rate_warmup_steps=warmup).settings["schedule.warmup_share"] == share


def test_rex_is_near_the_polynomial_that_stands_for_it():
    imported = onetrainer(learning_rate_scheduler="REX")
    assert imported.settings["schedule.name"] == "polynomial"
    ours = schedules.curve("polynomial", 1000, power=REX_AS_POWER)
    rex = [(1 - share) / (0.1 + 0.9 * (1 - share)) for share in (update / 1000 for update in range(1000))]
    assert sum(abs(one - other) for one, other in zip(ours, rex, strict=True)) / 1000 < 0.06


def test_other_methods_of_onetrainer_are_refused():
    for method in ("FINE_TUNE", "EMBEDDING"):
        with pytest.raises(UserError, match=f"the training method {method}"):
            onetrainer(training_method=method)


# Loss and noise


def of_loss(imported: Imported) -> dict:
    return {name: value for name, value in imported.settings.items() if name.startswith("loss.")}


def test_loss_and_noise_of_the_scripts_mean_the_same_here():
    text = """
        noise_offset = 0.05
        noise_offset_random_strength = true
        adaptive_noise_scale = 0.005
        multires_noise_iterations = 6
        multires_noise_discount = 0.4
        loss_type = "smooth_l1"
        huber_c = 0.2
        huber_schedule = "exponential"
        min_timestep = 100
        max_timestep = 900
        debiased_estimation_loss = true
        v_parameterization = false
    """
    assert of_loss(scripts(text)) == {
        "loss.noise_offset": 0.05, "loss.random_strength": True, "loss.noise_offset_adaptive": 0.005, "loss.pyramid_iterations": 6,
        "loss.pyramid_discount": 0.4, "loss.kind": "smooth_l1", "loss.huber_c": 0.2, "loss.huber_schedule": "exponential",
        "loss.min_timestep": 100, "loss.max_timestep": 900, "loss.weighting": "debiased",
    }  # fmt: skip


def test_the_scripts_one_switch_for_each_noise_is_one_for_both_here():
    imported = scripts("noise_offset = 0.05\nip_noise_gamma = 0.1\nip_noise_gamma_random_strength = true\n")
    found = line(imported, "ip_noise_gamma_random_strength")
    assert found.verdict == "approximated" and "noise_offset" in found.reason and imported.settings["loss.input_perturbation"] == 0.1


def test_two_weightings_of_the_scripts_are_one_here():
    imported = scripts("min_snr_gamma = 5\ndebiased_estimation_loss = true\nv_parameterization = true\n")
    assert of_loss(imported) == {"loss.weighting": "debiased"} and line(imported, "min_snr_gamma").verdict == "no counterpart"
    assert line(imported, "debiased_estimation_loss").verdict == "approximated"
    assert imported.settings["model.prediction_type"] == "v_prediction"


def test_a_huber_threshold_counts_with_a_huber_loss_only():
    assert line(scripts("huber_c = 0.3\nhuber_schedule = 'constant'\n"), "huber_c").verdict == "ignored"
    assert line(scripts("loss_type = 'huber'\nhuber_scale = 2.0\n"), "huber_scale").verdict == "no counterpart"


def test_a_range_of_timesteps_that_holds_none_is_left_out():
    imported = scripts("min_timestep = 900\nmax_timestep = 300\n")
    assert not set(imported.settings) & {"loss.min_timestep", "loss.max_timestep"}
    assert line(imported, "min_timestep").verdict == line(imported, "max_timestep").verdict == "no counterpart"


def test_masks_of_the_scripts_leave_nothing_outside_them():
    assert of_loss(scripts("masked_loss = true\nmin_snr_gamma = 5\n")) == {
        "loss.masked": "file", "loss.unmasked_weight": 0.0, "loss.weighting": "min_snr", "loss.min_snr_gamma": 5,
    }  # fmt: skip
    assert scripts("alpha_mask = true\n").settings["loss.masked"] == "alpha"
    assert scripts("masked_loss = true\nalpha_mask = true\n").settings["loss.masked"] == "auto"


def test_kohya_ss_chooses_one_kind_of_noise():
    numbers = {"noise_offset": 0.1, "multires_noise_iterations": 8, "multires_noise_discount": 0.2}
    multires = kohya(noise_offset_type="Multires", **numbers).settings
    assert (multires["loss.pyramid_iterations"], multires["loss.pyramid_discount"]) == (8, 0.2) and "loss.noise_offset" not in multires
    assert kohya(noise_offset_type="Original", **numbers).settings["loss.noise_offset"] == 0.1


def test_loss_and_noise_of_onetrainer_mean_the_same_here():
    imported = onetrainer(
        loss_weight_fn="P2", loss_weight_strength=0.5, offset_noise_weight=0.03, perturbation_noise_weight=0.1, masked_training=True,
        unmasked_weight=0.2, normalize_masked_area_loss=True, min_noising_strength=0.1, max_noising_strength=0.9, mse_strength=0.0,
        huber_strength=1.0, huber_delta=0.5, rescale_noise_scheduler_to_zero_terminal_snr=True,
    )  # fmt: skip
    assert of_loss(imported) == {
        "loss.weighting": "p2", "loss.p2_gamma": 0.5, "loss.noise_offset": 0.03, "loss.input_perturbation": 0.1, "loss.masked": "file",
        "loss.unmasked_weight": 0.2, "loss.normalise_area": True, "loss.min_timestep": 100, "loss.max_timestep": 900,
        "loss.kind": "huber", "loss.huber_schedule": "constant", "loss.huber_c": 0.5, "loss.zero_terminal_snr": True,
    }  # fmt: skip
    assert imported.settings["model.prediction_type"] == "v_prediction"
    assert line(imported, "perturbation_noise_weight").verdict == line(imported, "huber_strength").verdict == "approximated"


def by_onetrainer(name: str, weight: float, bias: float) -> list[float]:
    """OneTrainer's density over 1000 timesteps (modules/modelSetup/mixin/ModelSetupNoiseMixin.py), from its words."""
    places = [(step + 0.5) / 1000 for step in range(1000)]
    if name == "SIGMOID":
        heights = [1 / (1 + math.exp(-weight * (place - bias - 0.5))) for place in places]
    elif name == "BETA":
        heights = [place ** (weight - 1) * (1 - place) ** (bias - 1) for place in places]
    else:
        logits = [math.log(place / (1 - place)) for place in places]
        normal = [math.exp(-(((logit - bias) / (weight + 1)) ** 2) / 2) for logit in logits]
        heights = [height / (place * (1 - place)) for height, place in zip(normal, places, strict=True)]
    return [height / sum(heights) for height in heights]


@pytest.mark.parametrize(("name", "weight", "bias"), [("SIGMOID", 8.0, 0.2), ("BETA", 2.5, 1.5), ("LOGIT_NORMAL", 0.5, -0.7)])
def test_onetrainers_distributions_are_drawn_alike_here(name, weight, bias):
    imported = onetrainer(timestep_distribution=name, noising_weight=weight, noising_bias=bias)
    assert line(imported, "timestep_distribution").verdict == "taken"
    ours = imported.job().loss.shares()
    assert max(abs(one - other) for one, other in zip(ours, by_onetrainer(name, weight, bias), strict=True)) < 1e-5


def test_a_distribution_of_onetrainer_that_is_not_there_is_said():
    assert line(onetrainer(timestep_distribution="HEAVY_TAIL", noising_weight=1.0), "timestep_distribution").verdict == "approximated"


# What is no settings file


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[1, 2]", "[]", "{}", '"text"', "a = ", "title = 'x'\n", '{"prompt": "a hat", "steps": 20}', "[section]\nname = 1\n",
        "\0\1", "{" * 5000, '{"a":' * 5000, "[" * 5000, "<html>",
    ],
)  # fmt: skip
def test_what_is_no_trainers_settings_is_refused_in_one_sentence(text, tmp_path):
    file = tmp_path / "some.json"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read(file)
    said = str(caught.value)
    assert "\n" not in said and said.endswith(".") and len(said) < 400


def test_files_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "large.json").write_text(json.dumps({"LoRA_type": "x" * foreign.LARGEST_BYTES, "lr_warmup": 1}))
    (tmp_path / "picture.json").write_bytes(b"\x89PNG\xff\xfe" * 10)
    for name, why in (("large.json", "larger than"), ("picture.json", "UTF-8"), ("gone.json", "cannot be read"), (".", "cannot be read")):
        with pytest.raises(UserError, match=why):
            read(tmp_path / name)
    with pytest.raises(UserError, match="Only one file of sd-scripts"):
        read(FILES / "sd_scripts.toml", FILES / "sd_scripts_sections.toml")


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path):
    for name in KINDS:
        file = tmp_path / name
        file.write_bytes(b"\xef\xbb\xbf" + (FILES / name).read_bytes().replace(b"\n", b"\r\n"))
        assert read(file).settings == read(FILES / name).settings


def test_deep_groups_are_refused_and_not_fallen_into(tmp_path):
    deep = ".".join("a" * 3000)
    with pytest.raises(UserError, match="nested too deeply"):
        understand(("deep.toml", f"network_module = 'x'\ntrain_batch_size = 1\n{deep} = 1\n"))


def test_no_path_in_a_file_is_opened(monkeypatch):
    opened = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *rest, **more: (opened.append(self.name), real(self, *rest, **more))[1])
    for name in KINDS:
        read(FILES / name)
    assert opened == list(KINDS)


@pytest.mark.parametrize("name", ["kohya_ss.json", "onetrainer.json"])
def test_secrets_are_neither_shown_nor_kept(name):
    imported = read(FILES / name)
    assert "hf_nobodys_business" in (FILES / name).read_text()
    assert "hf_nobodys_business" not in "".join(found.shown + found.reason + str(found.settings) for found in imported.lines)


STRANGE = [
    None,
    True,
    "",
    "abc",
    -1,
    0,
    3,
    1e308,
    -1e308,
    10**400,
    0.5,
    [],
    [1],
    [[]],
    {},
    {"a": 1},
    [{"a": 1}],
    "1,2,3",
    "x" * 5000,
    "9" * 400,
]


@pytest.mark.parametrize("name", ["kohya_ss.json", "onetrainer.json"])
def test_whatever_the_values_are_a_valid_job_comes_out(name):
    """Each value replaced by strange ones: no rule falls over, and the job is always one that can be."""
    draw = random.Random(1)
    values = content(name)
    for _ in range(150):
        spoilt = {key: draw.choice(STRANGE) if draw.random() < 0.4 else value for key, value in values.items()}
        spoilt["LoRA_type" if name == "kohya_ss.json" else "training_method"] = "LORA"
        imported = understand(("spoilt.json", json.dumps(spoilt)))
        assert imported.job()
        assert all(len(found.shown) <= 200 and len(found.reason) <= 200 for found in imported.lines)


def test_what_is_taken_over_can_be_kept_as_a_preset(tmp_path):
    imported = read(FILES / "kohya_ss.json")
    saved = presets.save_preset(tmp_path, "Red hat", imported.job(), "Taken over.")
    kept = presets.settings_of(saved)
    assert {name: kept[name] for name in imported.settings} == imported.settings
    assert "red_hat" not in saved.path.read_text() and "D:/" not in saved.path.read_text()
