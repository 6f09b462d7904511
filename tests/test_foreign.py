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
    "kohya_ss_dreambooth.json": "kohya_ss",
    "kohya_ss_textual_inversion.json": "kohya_ss",
    "sd_scripts_dreambooth.toml": "sd_scripts",
    "onetrainer.json": "onetrainer",
    "onetrainer_fine_tune.json": "onetrainer",
    "onetrainer_embedding.json": "onetrainer",
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
    assert line(imported, "unet_lr").verdict == "taken"
    other = kohya(optimizer="DAdaptAdam", unet_lr=1.0, text_encoder_lr=0.5)
    assert other.settings["optimizer.name"] == "dadapt_adam"
    assert other.settings["optimizer.text_encoder_learning_rate"] == 1.0 and line(other, "text_encoder_lr").verdict == "approximated"


def test_alpha_0_is_the_rank():
    assert kohya(network_dim=24, network_alpha=0).settings["lora.alpha"] == 24


def test_numbers_as_text_are_numbers_and_what_is_none_is_said():
    assert kohya(train_batch_size="3", seed="77").settings["training.seed"] == 77
    wrong = kohya(train_batch_size="many", network_dim=100_000)
    assert line(wrong, "train_batch_size").verdict == line(wrong, "network_dim").verdict == "no counterpart"
    assert "less than or equal to 1024" in line(wrong, "network_dim").reason
    assert "training.batch_size" not in wrong.settings


def test_a_whole_model_by_kohya_ss():
    imported = read(FILES / "kohya_ss_dreambooth.json")
    settings = imported.settings
    assert settings["method"] == "dreambooth" and imported.job().method == "dreambooth"
    assert (settings["optimizer.learning_rate"], settings["optimizer.text_encoder_learning_rate"]) == (2e-6, 1e-6)
    assert settings["optimizer.name"] == "paged_adamw8bit" and settings["model.precision"] == "auto"
    assert imported.personal["prior.folder"] == "D:/training/heads" and settings["prior.weight"] == 0.7
    assert (settings["dataset.shuffle_tags"], settings["dataset.keep_tokens"]) == (True, 2)
    assert (settings["dataset.caption_tokens"], settings["dataset.weighted_captions"]) == (150, True)
    assert line(imported, "learning_rate_te1").verdict == "ignored", "SDXL's"
    assert not any(name.startswith("lora.") for name in settings)


def whole_model(**changes) -> dict:
    return understand(("whole.json", json.dumps({**content("kohya_ss_dreambooth.json"), **changes}))).settings


def test_whether_the_text_encoder_of_a_whole_model_is_trained():
    rate = "optimizer.text_encoder_learning_rate"
    assert whole_model(stop_text_encoder_training=-1)[rate] is None
    assert whole_model(learning_rate_te=None)[rate] == 2e-6, "the common one"
    assert whole_model(sdxl=True, learning_rate_te1=0, learning_rate_te2=3e-6)[rate] == 3e-6
    assert whole_model(sdxl=True, learning_rate_te1=0, learning_rate_te2=0)[rate] is None
    assert whole_model(train_text_encoder=False)[rate] is None, "the finetuning tab's switch"
    assert whole_model(optimizer="Prodigy", learning_rate=1.0, learning_rate_te=0.5)[rate] == 1.0, "one factor"


def test_a_new_word_by_kohya_ss():
    imported = read(FILES / "kohya_ss_textual_inversion.json")
    settings = imported.settings
    assert (settings["method"], settings["textual_inversion.vectors"], settings["textual_inversion.templates"]) == (
        "textual_inversion", 6, "object",
    )  # fmt: skip
    assert (imported.personal["textual_inversion.word"], imported.personal["textual_inversion.initial_text"]) == ("redhat", "hat")
    assert settings["optimizer.learning_rate"] == 0.005 and not any(name.startswith("lora.") for name in settings)


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
        ("cosine_with_min_lr", "cosine", "taken"),
        ("inverse_sqrt", "inverse_sqrt", "taken"),
        ("piecewise_constant", "constant", "approximated"),
        ("cosine_annealing", "constant", "approximated"),
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
    assert line(imported, "general.num_repeats").verdict == "ignored", "the subsets say otherwise"
    assert imported.personal["dataset.path"] == "pictures/hats"
    assert imported.personal["dataset.concepts"] == ["pictures/large, repeats=5"], "the second dataset's folder"
    assert line(imported, "datasets[1].subsets[0].num_repeats").settings == {"dataset.concepts": ["pictures/large, repeats=5"]}
    assert imported.personal["prior.folder"] == "pictures/heads"
    of_class = {found.key.rpartition(".")[2]: found.verdict for found in imported.lines if "subsets[1]" in found.key}
    assert of_class == {
        "image_dir": "approximated", "class_tokens": "no counterpart", "is_reg": "approximated", "num_repeats": "no counterpart",
    }  # fmt: skip
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


def test_a_whole_model_by_the_scripts():
    imported = read(FILES / "sd_scripts_dreambooth.toml")
    settings = imported.settings
    assert settings["method"] == "dreambooth" and not any(name.startswith("lora.") for name in settings)
    assert (settings["optimizer.learning_rate"], settings["optimizer.text_encoder_learning_rate"]) == (2e-6, 5e-7)
    adafactor = {name.removeprefix("optimizer."): value for name, value in settings.items() if name.startswith("optimizer.")}
    assert adafactor.items() >= {"name": "adafactor", "relative_step": False, "scale_parameter": False, "weight_decay": 0.02}.items()
    assert (settings["dataset.tag_dropout"], settings["dataset.tag_warmup"], settings["dataset.caption_tokens"]) == (0.1, 0.25, 225)
    assert imported.personal["prior.folder"] == "pictures/heads" and settings["prior.weight"] == 0.5


def test_what_the_scripts_file_trains_is_told_by_its_words():
    base = "train_batch_size = 2\noptimizer_type = 'AdamW'\nlearning_rate = 1e-5\n"
    for words, method in {
        "": "lora", "learning_rate_te = 1e-6": "dreambooth", "train_text_encoder = true": "dreambooth",
        "init_word = 'hat'": "textual_inversion", "learning_rate_te = 1e-6\nnetwork_dim = 8": "lora",
    }.items():  # fmt: skip
        assert understand(("a.toml", base + words)).settings["method"] == method
    word = understand(("a.toml", base + "token_string = 'redhat'"))
    assert word.settings["textual_inversion.vectors"] == 1, "train_textual_inversion.py's own"


def piecewise_of_diffusers(rules: str, step: int) -> float:
    """diffusers/optimization.py, get_piecewise_constant_schedule: each factor holds up to the step beside it, the last one after."""
    *parts, last = rules.split(",")
    pairs = sorted((int(end), float(value)) for value, end in (part.split(":") for part in parts))
    return next((value for end, value in pairs if step < end), float(last))


@pytest.mark.parametrize("rules", ["1:400,0.5:800,0.1", "0.2:100,1:900,0.3"])
def test_pieces_of_the_scripts_are_the_same_here(rules):
    imported = scripts(f"""max_train_steps = 1000\nlr_scheduler = "piecewise_constant"\nlr_scheduler_args = ["step_rules='{rules}'"]\n""")
    curve = schedules.curve("piecewise_constant", 1000, **{"pieces": imported.job().schedule.shape["pieces"]})
    assert curve == [piecewise_of_diffusers(rules, step) for step in range(1000)]
    assert imported.settings["schedule.warmup_share"] == 0


def wsd_of_transformers(step: int, decay: int, form: str, least: float) -> float:
    """transformers/optimization.py, _get_wsd_scheduler_lambda, of 1000 steps without warmup."""
    progress = max(0, step - (1000 - decay)) / decay
    left = {"linear": 1 - progress, "1-sqrt": 1 - math.sqrt(progress), "cosine": 0.5 * (1 + math.cos(math.pi * progress))}[form]
    return left * (1 - least) + least


@pytest.mark.parametrize(("form", "off"), [("linear", 1e-9), ("1-sqrt", 1e-9), ("cosine", 0.1)])
def test_warmup_stable_decay_of_the_scripts(form, off):
    imported = scripts(
        'max_train_steps = 1000\nlr_scheduler = "warmup_stable_decay"\nlr_decay_steps = 300\nlr_scheduler_min_lr_ratio = 0.1\n'
        f"lr_scheduler_args = [\"decay_type='{form}'\"]\n"
    )
    schedule = imported.job().schedule
    curve = schedules.curve(schedule.name, 1000, **schedule.shape)
    assert max(abs(ours - wsd_of_transformers(step, 300, form, 0.1)) for step, ours in enumerate(curve)) < off
    assert line(imported, "lr_scheduler").verdict == ("approximated" if form == "cosine" else "taken")


def test_shares_of_schedules_that_are_told_in_steps_need_all_steps():
    imported = scripts('max_train_epochs = 3\nlr_scheduler = "warmup_stable_decay"\nlr_decay_steps = 300\ntoken_warmup_step = 20\n')
    assert line(imported, "lr_decay_steps").verdict == line(imported, "token_warmup_step").verdict == "no counterpart"
    share = scripts('max_train_epochs = 3\nlr_scheduler = "warmup_stable_decay"\nlr_decay_steps = 0.3\ntoken_warmup_step = 0.2\n')
    assert (share.settings["schedule.decay_share"], share.settings["dataset.tag_warmup"]) == (0.3, 0.2)
    assert scripts('lr_scheduler = "cosine_with_min_lr"\nlr_scheduler_min_lr_ratio = 0.2').settings["schedule.end_share"] == 0.2
    assert line(scripts("lr_scheduler_min_lr_ratio = 0.2"), "lr_scheduler_min_lr_ratio").verdict == "ignored"


def of_optimizer(imported: Imported) -> dict:
    names = ("learning_rate", "text_encoder_learning_rate", "max_grad_norm")
    own = {name.removeprefix("optimizer."): value for name, value in imported.settings.items() if name.startswith("optimizer.")}
    return {name: value for name, value in own.items() if name not in names}


@pytest.mark.parametrize(
    ("name", "arguments", "expected", "verdict"),
    [
        ("AdamW", '"betas=(0.9, 0.95)", "eps=1e-7"', {"name": "adamw", "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-7}, "taken"),
        ("Lion8bit", '"betas=0.95,0.98"', {"name": "lion8bit", "weight_decay": 0, "beta1": 0.95, "beta2": 0.98}, "taken"),
        ("PagedLion8bit", "", {"name": "lion8bit", "weight_decay": 0}, "taken"),
        ("PagedAdamW8bit", "", {"name": "paged_adamw8bit"}, "taken"),
        ("Prodigy", '"d_coef=2", "d0=1e-5", "decouple=True", "safeguard_warmup=True", "use_bias_correction=True"',
         {"name": "prodigy", "d_coef": 2, "d0": 1e-5, "safeguard_warmup": True, "weight_decay": 0}, "taken"),
        ("Prodigy", "", {"name": "prodigy", "safeguard_warmup": False, "weight_decay": 0}, "approximated"),
        ("DAdaptAdam", '"decouple=True", "use_bias_correction=True", "d0=1e-5"',
         {"name": "dadapt_adam", "d0": 1e-5, "weight_decay": 0}, "taken"),
        ("DAdaptLion", "", {"name": "dadapt_adam", "weight_decay": 0}, "approximated"),
        ("AdaFactor", '"relative_step=False", "scale_parameter=False"',
         {"name": "adafactor", "relative_step": False, "scale_parameter": False, "weight_decay": 0}, "taken"),
        ("AdamWScheduleFree", '"weight_decay=0.1"', {"name": "adamw_schedulefree", "weight_decay": 0.1}, "taken"),
        ("pytorch_optimizer.CAME", '"betas=(0.9,0.99,0.9995)"',
         {"name": "came", "weight_decay": 0, "beta1": 0.9, "beta2": 0.99, "beta3": 0.9995}, "taken"),
        ("pytorch_optimizer.Muon", '"momentum=0.9", "use_adjusted_lr=True"', {"name": "muon", "momentum": 0.9, "weight_decay": 0}, "taken"),
        ("prodigyplus.ProdigyPlusScheduleFree", "", {"name": "prodigy", "safeguard_warmup": False, "weight_decay": 0}, "approximated"),
        ("SGDNesterov", "", {"name": "adamw"}, "approximated"),
    ],
)  # fmt: skip
def test_optimizers_of_the_scripts(name, arguments, expected, verdict):
    """What is not said is what the class does by itself: lion_pytorch, prodigyopt and others have no weight decay."""
    imported = scripts(f'learning_rate = 1.0\nunet_lr = 1.0\noptimizer_type = "{name}"\noptimizer_args = [{arguments}]\n')
    assert of_optimizer(imported) == expected
    assert line(imported, "optimizer_type").verdict == verdict


def test_arguments_of_an_optimizer_that_are_not_there_are_named():
    imported = scripts('optimizer_type = "AdamW"\noptimizer_args = ["weight_decay=0.1", "amsgrad=True", "d_coef=2", "foreach=False"]\n')
    found = line(imported, "optimizer_args")
    assert found.verdict == "approximated" and "amsgrad, d_coef" in found.reason and "foreach" not in found.reason
    assert kohya(optimizer="Prodigy", optimizer_args='"d_coef=0.8" decouple=True').settings["optimizer.d_coef"] == 0.8


def test_optimizers_that_have_no_schedule_get_a_constant_one():
    free = scripts(
        'optimizer_type = "AdamWScheduleFree"\nlr_scheduler = "cosine"\nlr_warmup_steps = 100\nmax_train_steps = 1000\n'
        'optimizer_args = ["warmup_steps=50"]\n'
    )
    assert (free.settings["schedule.name"], free.settings["schedule.warmup_share"]) == ("constant", 0.05)
    adafactor = scripts('optimizer_type = "Adafactor"\nlr_scheduler = "adafactor"\n')
    assert adafactor.settings["schedule.name"] == "constant" and adafactor.settings["optimizer.relative_step"] is True
    assert line(adafactor, "lr_scheduler").verdict == "taken"


def test_captions_of_the_scripts():
    imported = scripts("shuffle_caption = true\nkeep_tokens_separator = '|||'\nenable_wildcard = true\n")
    assert (imported.settings["dataset.shuffle_tags"], imported.settings["dataset.keep_tokens"]) == (True, 0), "0 is the scripts' own"
    assert line(imported, "keep_tokens_separator").verdict == line(imported, "enable_wildcard").verdict == "no counterpart"
    alone = scripts("keep_tokens = 3\n")
    assert "dataset.keep_tokens" not in alone.settings and line(alone, "keep_tokens").verdict == "ignored"
    with_dataset = scripts("keep_tokens = 3\n", "[[datasets]]\nshuffle_caption = true\n")
    assert with_dataset.settings["dataset.keep_tokens"] == 3, "the other file shuffles"
    assert line(scripts("max_token_length = 300\n"), "max_token_length").verdict == "no counterpart"


def test_regularisation_pictures_of_the_scripts():
    assert line(scripts("prior_loss_weight = 0.5\n"), "prior_loss_weight").verdict == "ignored"
    with_dataset = scripts("prior_loss_weight = 0.5\n", "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\nis_reg = true\n")
    assert with_dataset.settings["prior.weight"] == 0.5 and with_dataset.personal["prior.folder"] == "a"
    assert "dataset.path" not in with_dataset.personal


def test_folders_of_a_dataset_become_concepts():
    imported = understand(("d.toml", """
        [general]
        num_repeats = 2
        [[datasets]]
        num_repeats = 4
        [[datasets.subsets]]
        image_dir = "hats"
        [[datasets.subsets]]
        image_dir = "coats"
        num_repeats = 7
        [[datasets]]
        [[datasets.subsets]]
        image_dir = "shoes"
        [[datasets.subsets]]
        image_dir = "hats/"
        num_repeats = 3
        [[datasets.subsets]]
        image_dir = "a, b"
    """))  # fmt: skip
    lines = ["coats, repeats=7", "shoes, repeats=2"]
    assert imported.personal == {"dataset.path": "hats", "dataset.concepts": lines} and imported.settings["dataset.repeats"] == 4
    assert line(imported, "general.num_repeats").settings == {"dataset.concepts": lines}
    assert line(imported, "datasets[0].num_repeats").settings == {"dataset.repeats": 4}
    for key in ("datasets[1].subsets[1].image_dir", "datasets[1].subsets[1].num_repeats", "datasets[1].subsets[2].image_dir"):
        assert line(imported, key).verdict == "no counterpart"


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
    assert line(imported, "mae_strength").verdict == "no counterpart" and settings["optimizer.beta2"] == 0.95
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


def test_rex_is_nearer_to_the_polynomial_that_stands_for_it_than_to_the_papers():
    """OneTrainer's (modules/util/lr_scheduler_util.py: lr_lambda_rex) is bent by 0.9, that of Chen et al. by 0.5."""
    imported = onetrainer(learning_rate_scheduler="REX", learning_rate_min_factor=0.2)
    assert imported.settings["schedule.name"] == "polynomial" and line(imported, "learning_rate_scheduler").verdict == "approximated"
    theirs = [0.2 + 0.8 * (1 - share) / (0.1 + 0.9 * (1 - share)) for share in (update / 1000 for update in range(1000))]

    def off(name, **shape):
        curve = schedules.curve(name, 1000, end_share=imported.settings["schedule.end_share"], **shape)
        return sum(abs(one - other) for one, other in zip(curve, theirs, strict=True)) / 1000

    assert off("polynomial", power=REX_AS_POWER) < 0.05 < off("rex")


def test_a_method_of_onetrainer_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="the training method FINE_TUNE_VAE"):
        onetrainer(training_method="FINE_TUNE_VAE")


def test_a_whole_model_by_onetrainer():
    imported = read(FILES / "onetrainer_fine_tune.json")
    settings = imported.settings
    assert (settings["method"], settings["dreambooth.trains"], settings["model.precision"]) == ("dreambooth", "attention", "auto")
    assert (settings["optimizer.learning_rate"], settings["optimizer.text_encoder_learning_rate"]) == (3e-6, 1e-6)
    assert of_optimizer(imported) == {"name": "adafactor", "weight_decay": 0, "relative_step": False, "scale_parameter": True}
    assert settings["training.ema_decay"] == 0.995 and settings["schedule.end_share"] == 0.1
    assert (settings["dataset.shuffle_tags"], settings["dataset.keep_tokens"], settings["dataset.tag_dropout"]) == (True, 2, 0.2)
    assert settings["dataset.repeats"] == 3 and imported.personal["dataset.path"] == "pictures/hats"
    assert imported.personal["dataset.concepts"] == ["pictures/coats, repeats=2, weight=0.5"]
    assert imported.personal["prior.folder"] == "pictures/heads" and settings["prior.weight"] == 0.8
    assert line(imported, "concepts[1].balancing").verdict == "approximated", "1.6"
    assert line(imported, "concepts[3].path").verdict == "no counterpart", "given twice"
    assert line(imported, "lora_rank").verdict == "ignored" and not any(name.startswith("lora.") for name in settings)
    assert (
        understand(("a.json", json.dumps({"model_type": "STABLE_DIFFUSION_15", "base_model_name": "m"}))).settings["method"] == "dreambooth"
    )


def test_a_new_word_by_onetrainer():
    imported = read(FILES / "onetrainer_embedding.json")
    settings = imported.settings
    assert (settings["method"], settings["textual_inversion.vectors"]) == ("textual_inversion", 3)
    assert (settings["textual_inversion.learning_rate"], settings["textual_inversion.keep_norm"]) == (0.005, True)
    assert (imported.personal["textual_inversion.word"], imported.personal["textual_inversion.initial_text"]) == ("redhat", "a hat")
    assert settings["memory.base_precision"] == "int8" and settings["schedule.name"] == "constant"
    assert of_optimizer(imported) == {"name": "adamw_schedulefree", "weight_decay": 0.01, "beta1": 0.95}
    common = onetrainer(training_method="EMBEDDING", learning_rate=0.001)
    assert common.settings["optimizer.learning_rate"] == 0.001 and common.settings["textual_inversion.vectors"] == 1
    assert common.personal["textual_inversion.initial_text"] == "*", "OneTrainer's own"
    assert "optimizer.text_encoder_learning_rate" not in common.settings


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"optimizer": "ADAMW_8BIT", "is_paged": True}, {"name": "paged_adamw8bit"}),
        ({"optimizer": "LION", "weight_decay": None}, {"name": "lion", "weight_decay": 0}),
        ({"optimizer": "LION_8BIT"}, {"name": "lion8bit", "weight_decay": 0, "beta2": 0.999}),
        ({"optimizer": "PRODIGY", "d_coef": 0.5, "slice_p": 11},
         {"name": "prodigy", "weight_decay": 0, "safeguard_warmup": False, "d_coef": 0.5}),
        ({"optimizer": "CAME", "beta3": 0.999, "eps": 1e-30, "eps2": 1e-16}, {"name": "came", "weight_decay": 0, "beta3": 0.999}),
        ({"optimizer": "ADAFACTOR"}, {"name": "adafactor", "weight_decay": 0, "relative_step": False, "scale_parameter": False}),
        ({"optimizer": "ADAM"}, {"name": "adamw"}),
    ],
)  # fmt: skip
def test_optimizers_of_onetrainer(given, expected):
    assert of_optimizer(onetrainer(optimizer=given)) == expected


def test_an_average_that_is_updated_seldom_forgets_as_much_here():
    """OneTrainer updates it after each fifth step unless told otherwise (modules/module/EMAModule.py)."""
    imported = onetrainer(ema="GPU", ema_decay=0.99)
    assert line(imported, "ema").verdict == "approximated"
    assert imported.settings["training.ema_decay"] ** 5 == pytest.approx(0.99)
    assert onetrainer(ema="OFF", ema_decay=0.99).settings["training.ema_decay"] is None


def test_tags_that_onetrainer_leaves_out_otherwise_are_said():
    concepts = [{"path": "a", "text": {"tag_dropout_enable": True, "tag_dropout_mode": "FULL", "tag_dropout_probability": 0.3}}]
    imported = onetrainer(concepts=concepts)
    assert line(imported, "concepts[0].text.tag_dropout_probability").verdict == "no counterpart"
    assert "dataset.tag_dropout" not in imported.settings


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


@pytest.mark.parametrize("name", [name for name in KINDS if name.endswith(".json") and name != "onetrainer_concepts.json"])
def test_whatever_the_values_are_a_valid_job_comes_out(name):
    """Each value replaced by strange ones: no rule falls over, and the job is always one that can be."""
    draw = random.Random(1)
    values = content(name)
    for _ in range(150):
        spoilt = {key: draw.choice(STRANGE) if draw.random() < 0.4 else value for key, value in values.items()}
        if "training_method" in values:
            spoilt["training_method"] = values["training_method"]
        imported = understand(("spoilt.json", json.dumps(spoilt)))
        assert imported.job()
        assert all(len(found.shown) <= 200 and len(found.reason) <= 200 for found in imported.lines)


def test_what_is_taken_over_can_be_kept_as_a_preset(tmp_path):
    imported = read(FILES / "kohya_ss.json")
    saved = presets.save_preset(tmp_path, "Red hat", imported.job(), "Taken over.")
    kept = presets.settings_of(saved)
    assert {name: kept[name] for name in imported.settings} == imported.settings
    assert "red_hat" not in saved.path.read_text() and "D:/" not in saved.path.read_text()
