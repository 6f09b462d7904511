"""sd-scripts' settings for training a LoRA (`--config_file`), a TOML with or without sections.

Names, meanings and defaults are those of kohya-ss/sd-scripts: `library/train_util.py` (`add_*_arguments`, `read_config_from_file`,
`get_scheduler_fix`, `sample_images_common`, `line_to_prompt_dict`), `library/custom_train_functions.py`, `train_network.py` and
`networks/lora.py` (rank 4 and alpha 1 where none is said, alpha 0 = rank, a rate that is missing is `learning_rate`).
kohya_ss hands its settings to these scripts, so its table builds on this one.
"""

from __future__ import annotations

import math
import re
from typing import Any

from nosnja_gui.foreign import (
    EMPTY,
    OFF,
    Answer,
    Entry,
    Format,
    Rule,
    Values,
    always,
    choose,
    elsewhere,
    every,
    flag,
    is_off,
    lacks,
    networks,
    number,
    only,
    or_naught,
    or_nothing,
    or_zero,
    passed,
    take,
    take_or_leave,
    text,
    whole,
    words,
)
from nosnja_gui.jobs import ScheduleSettings

MARKS = frozenset(
    words(
        "network_module network_dim network_args network_alpha optimizer_type pretrained_model_name_or_path train_batch_size unet_lr "
        "text_encoder_lr max_train_epochs max_train_steps network_train_unet_only lr_scheduler lr_scheduler_num_cycles"
    )
)
MARKS_OF_THE_WINDOW = frozenset(
    words("LoRA_type lr_warmup max_resolution model_list stop_text_encoder_training num_cpu_threads_per_process")
)
MARKS_NEEDED = 2

FINDS_ITS_OWN_RATE = ("prodigy", "dadapt")
"""Optimisers for which the learning rate is a factor near 1."""
NEAR_ADAMW8BIT = "pagedadamw8bit adam8bit ademamix8bit pagedademamix8bit"
STEEPER_THAN_ADAMW = "lion lion8bit pagedlion8bit"

LOUDER = "There is no {name} here. AdamW is taken; {name} wants rates 3 to 10 times lower, so raise the learning rate if nothing is learnt."
RESUMED = "States to go on from are always kept here."
ONE_FOLDER = "Repeats stand in names of folders there (10_name): say them as dataset.repeats here."
PARTS_HOLD = "The rates of the parts hold instead."
SHAPES = "Sides follow from the area and the step here, up to 2:1."
NOT_SHUFFLED = "Captions stay in their order here."
SPEED = "Changes the speed or the memory at most."
OF_THE_MODEL = "The kind of model is seen from the model itself."
OTHER_MODELS = "Belongs to another kind of model."
RECORDS = "Where records are kept; every run has a folder of its own here."
METADATA = "The file's metadata is written by the program here."
UPLOADS = "Nothing is sent anywhere here."


def rates(values: Values) -> tuple[float | None, float | None, str]:
    """The rates of the UNet and of the text encoder (None: not trained), and why they are not the file's; of what it understands."""
    common = or_nothing(number, values["learning_rate"])
    unet = or_nothing(number, values["unet_lr"])
    texts = values["text_encoder_lr"] if isinstance(values["text_encoder_lr"], list) else [values["text_encoder_lr"]]
    text_encoder = or_nothing(number, texts[0]) if texts else None
    unet = common if unet is None else unet
    text_encoder = common if text_encoder is None else text_encoder
    if flag(values["network_train_unet_only"]) or not text_encoder:
        text_encoder = None
    optimizer = str(values["optimizer_type"] or "").lower()
    if optimizer.startswith(FINDS_ITS_OWN_RATE) and text_encoder and text_encoder != unet:
        return unet, unet, "An optimizer that finds its own rate has one factor for all parts: that of the UNet is taken."
    return unet, text_encoder, ""


def learning_rate(entry: Entry) -> Answer:
    unet, text_encoder, why = rates(entry.all)
    settings = {}
    if or_nothing(number, entry.all["unet_lr"]) is None:
        settings["optimizer.learning_rate"] = unet
    if text_encoder and entry.all["text_encoder_lr"] in (None, [], ""):
        settings["optimizer.text_encoder_learning_rate"] = text_encoder
    if not settings:
        return Answer("ignored", {}, PARTS_HOLD)
    return Answer("approximated" if why else "taken", settings, why)


def unet_lr(entry: Entry) -> Answer:
    if is_off(entry.value) and or_nothing(number, entry.all["unet_lr"]) is None:
        return Answer("ignored", {}, "Empty, so learning_rate holds.")
    unet, _, why = rates(entry.all)
    if not unet:
        return Answer("no counterpart", {}, "The UNet is always trained here.")
    return Answer("approximated" if why else "taken", {"optimizer.learning_rate": unet}, why)


def text_encoder_lr(entry: Entry) -> Answer:
    if entry.all["text_encoder_lr"] in (None, [], "") and not flag(entry.all["network_train_unet_only"]):
        return Answer("ignored", {}, "Empty, so learning_rate holds.")
    _, text_encoder, why = rates(entry.all)
    if not text_encoder:
        return Answer("taken", {"optimizer.text_encoder_learning_rate": None})
    if isinstance(entry.value, list) and len(set(map(str, entry.value))) > 1:
        why = why or "There is one rate for all text encoders here: the first one's."
    return Answer("approximated" if why else "taken", {"optimizer.text_encoder_learning_rate": text_encoder}, why)


def unet_only(entry: Entry) -> Answer:
    if not flag(entry.value):
        return OFF
    return Answer("taken", {"optimizer.text_encoder_learning_rate": None})


def optimizer_type(entry: Entry) -> Answer:
    name = str(entry.value or "AdamW").rpartition(".")[2]
    plain = name.lower()
    settings: dict[str, Any] = {"optimizer.name": "adamw8bit" if plain in ("adamw8bit", *words(NEAR_ADAMW8BIT)) else "adamw"}
    if plain.startswith(FINDS_ITS_OWN_RATE):
        why = "" if plain == "prodigy" else f"There is no {name} here; Prodigy, which comes of it, is taken."
        return Answer("approximated" if why else "taken", {"optimizer.name": "prodigy"}, why)
    if plain in ("adamw", "adamw8bit"):
        return Answer("taken", settings)
    if plain in words(STEEPER_THAN_ADAMW):
        return Answer("approximated", settings, LOUDER.format(name=name))
    if plain in words(NEAR_ADAMW8BIT):
        return Answer("approximated", settings, f"There is no {name} here; AdamW8bit comes near it.")
    return Answer("approximated", settings, f"There is no {name} here; AdamW is taken, which may want another learning rate.")


def old_switch(name: str) -> Rule:
    """A switch of earlier versions for one optimiser."""
    return lambda entry: optimizer_type(Entry(entry.key, name, entry.all)) if flag(entry.value) else OFF


def arguments(value: Any) -> dict[str, str]:
    """`name=value` words, as a list or in one string. Those that are none have an empty value."""
    words = value if isinstance(value, list) else str(value or "").replace('"', "").split()
    return {name.strip(): own.strip().strip("\"'") for name, _, own in (str(word).strip('"').partition("=") for word in words)}


def optimizer_args(entry: Entry) -> Answer:
    given = arguments(entry.value)
    decay = or_nothing(number, given.pop("weight_decay", None))
    settings = {} if decay is None else {"optimizer.weight_decay": decay}
    if given:
        why = f"There are no such settings here: {', '.join(given)}."
        return Answer("approximated" if settings else "no counterpart", settings, why)
    return Answer("taken", settings) if settings else EMPTY


SCHEDULES: Rule = choose(
    "schedule.name",
    {
        "constant": "constant", "constant_with_warmup": "constant", "linear": "linear", "cosine": "cosine",
        "cosine_with_restarts": "cosine_with_restarts", "polynomial": "polynomial", "": "constant",
    },
    {
        "cosine_with_min_lr": ("cosine", "Cosine falls to zero here."),
        "warmup_stable_decay": ("constant", "There is no such schedule here; it is constant most of the time, so constant is taken."),
        "piecewise_constant": ("constant", "There is no such schedule here; constant is taken."),
        "inverse_sqrt": ("cosine", "There is no such schedule here; cosine falls, too."),
    },
    ("constant", "There is no such schedule here; constant is taken."),
)  # fmt: skip


def lr_scheduler(entry: Entry) -> Answer:
    if not is_off(entry.all["lr_scheduler_type"]):
        return Answer("ignored", {}, "lr_scheduler_type holds instead.")
    return SCHEDULES(entry)


def lr_scheduler_type(entry: Entry) -> Answer:
    name = str(entry.value or "").rpartition(".")[2].lower()
    if not name:
        return EMPTY
    own = "constant" if "constant" in name else "linear" if "linear" in name else "polynomial" if "polynomial" in name else "cosine"
    own = "cosine_with_restarts" if "restart" in name else own
    return Answer("approximated", {"schedule.name": own}, "Classes of other libraries are not loaded here; this comes nearest by its name.")


def warmup(value: float, is_share: bool, total: float | None) -> Answer:
    """Of a share, or of steps out of so many (None: nobody knows)."""
    if value <= 0:
        return Answer("taken", {"schedule.warmup_share": 0.0})
    if is_share:
        return Answer("taken", {"schedule.warmup_share": value})
    if total:
        return Answer("taken", {"schedule.warmup_share": round(min(value / total, 0.99), 4)}, f"{value:g} of {total:g} steps.")
    usual = ScheduleSettings().warmup_share
    why = f"It is a share of all steps here, and how many there will be the file doesn't say: the usual {usual:g} is taken."
    return Answer("approximated", {"schedule.warmup_share": usual}, why)


def lr_warmup_steps(entry: Entry) -> Answer:
    value = entry.all["lr_warmup_steps"]
    steps = 0.0 if is_off(value) else or_nothing(number, value)
    if steps is None:
        return Answer("no counterpart", {}, "This is no number.")
    total = None if not is_off(entry.all["max_train_epochs"]) else or_nothing(number, entry.all["max_train_steps"])
    return warmup(steps, isinstance(value, float) or (isinstance(value, str) and not value.strip().isdigit()), total)


def with_schedule(name: str, rule: Rule) -> Rule:
    """What counts with one schedule only."""
    return lambda entry: (
        rule(entry) if str(entry.all["lr_scheduler"]).lower() == name else Answer("ignored", {}, "Does nothing with this schedule.")
    )


def max_train_epochs(entry: Entry) -> Answer:
    if is_off(entry.value):
        return EMPTY
    return lasting(entry.value, None, repeats_are_elsewhere(entry))


def repeats_are_elsewhere(entry: Entry) -> str:
    return "" if "kohya_dataset" in entry.all.along else ONE_FOLDER


def max_train_steps(entry: Entry) -> Answer:
    if not is_off(entry.all["max_train_epochs"]):
        return Answer("ignored", {}, "The number of epochs holds instead.")
    return lasting(None, entry.value)


def lasting(epochs: Any, steps: Any, reason: str = "") -> Answer:
    """The length by epochs (and what there is to say of them), or by steps."""
    try:
        if steps is None:
            return Answer("taken", {"training.epochs": whole(epochs), "training.max_steps": None}, reason)
        # An epoch has a step at least, so these are enough of them, and the steps decide.
        enough = min(100_000, max(1, whole(steps)))
        return Answer("taken", {"training.max_steps": whole(steps), "training.epochs": enough}, "The steps decide; epochs are many enough.")
    except ValueError as why:
        return Answer("no counterpart", {}, str(why))


def network(entry: Entry) -> networks.Network:
    return networks.network(str(entry.all["network_module"] or "networks.lora"), arguments(entry.all["network_args"]))


def network_module(entry: Entry) -> Answer:
    return network(entry).answer()


def network_args(entry: Entry) -> Answer:
    return networks.all_arguments(network(entry))


def network_dim(entry: Entry) -> Answer:
    return networks.rank(entry.value, network(entry))


def network_alpha(entry: Entry) -> Answer:
    if network(entry).algorithm in ("oft", "boft"):
        return Answer("ignored", {}, "Does nothing with this kind of LoRA.")
    rank = entry.all["network_dim"]
    if is_off(entry.value) and entry.value is not None:
        return take("lora.alpha", number, "0 is as much as the rank there.")(Entry(entry.key, rank, entry.all))
    return take("lora.alpha", number)(entry)


def network_dropout(entry: Entry) -> Answer:
    return networks.argument("dropout", entry.value, network(entry))


def resolution(entry: Entry) -> Answer:
    sides = entry.value if isinstance(entry.value, list) else re.split(r"\s*[,x×]\s*", str(entry.value or "").strip())
    try:
        numbers = [whole(side) for side in sides]
        if not 1 <= len(numbers) <= 2 or not 1 <= min(numbers) <= max(numbers) < 1_000_000:
            raise ValueError("This is no size.")
    except ValueError as why:
        return Answer("no counterpart", {}, str(why))
    width, height = numbers[0], numbers[-1]
    if width == height:
        return Answer("taken", {"dataset.resolution": width})
    side = round(math.sqrt(width * height))
    return Answer("approximated", {"dataset.resolution": side}, f"One side says the area here; this is that of {width} × {height}.")


def bucket_step(entry: Entry) -> Answer:
    try:
        given = whole(entry.value)
    except ValueError as why:
        return Answer("no counterpart", {}, str(why))
    own = max(8, math.ceil(given / 8) * 8)
    return Answer("taken" if own == given else "approximated", {"dataset.bucket_step": own}, "" if own == given else "Multiples of 8 here.")


def clip_skip(entry: Entry) -> Answer:
    skip = 1 if is_off(entry.value) else or_nothing(whole, entry.value)
    if skip is None:
        return Answer("no counterpart", {}, "This is no whole number.")
    if skip > 2:
        return Answer("approximated", {"model.clip_skip": 2}, "2 is the most here.")
    return Answer("taken", {"model.clip_skip": skip})


def if_on(other: str, rule: Rule, otherwise: str) -> Rule:
    """What counts only while another setting is on."""
    return lambda entry: Answer("ignored", {}, otherwise) if is_off(entry.all[other]) else rule(entry)


def caption_extension(entry: Entry) -> Answer:
    if is_off(entry.value) or entry.value == ".txt":
        return Answer("taken", {}, "Captions are .txt files here, too.")
    return Answer("no counterpart", {}, "Captions are .txt files, metadata.csv or .jsonl here: rename them.")


def seed(entry: Entry) -> Answer:
    if is_off(entry.value):
        return Answer("ignored", {}, "Another one each time there; here the seed stays as it is.")
    return take("training.seed", whole)(entry)


def every_epochs(entry: Entry) -> Answer:
    return take("preview.every_epochs", or_zero)(entry)


def every_steps(entry: Entry) -> Answer:
    if not is_off(entry.all["sample_every_n_epochs"]) and not is_off(entry.value):
        return Answer("ignored", {}, "sample_every_n_epochs holds instead.")
    return take("preview.every_steps", or_zero)(entry)


def prompt_lines(value: Any) -> dict[str, Any]:
    """Our settings for previews from prompts as they are written there: `a hat --n blurry --w 512 --h 640 --d 1 --s 28 --l 7`."""
    lines = [line.strip() for line in str(value or "").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    prompts = [re.split(r"\s--\s?(?=\w)", f" {line}")[0].strip() for line in lines]
    if not any(prompts):
        return {}
    settings: dict[str, Any] = {"preview.prompts": [prompt for prompt in prompts if prompt]}
    for part in re.split(r"\s--\s?(?=\w)", lines[0])[1:]:
        letter, _, own = part.partition(" ")
        amount = or_nothing(number, own)
        if letter == "n":
            settings["preview.negative_prompt"] = own.strip()
        elif amount is not None and letter in ("w", "h"):
            settings["preview.width" if letter == "w" else "preview.height"] = min(4096, max(64, int(amount) // 8 * 8))
        elif amount is not None and letter == "s":
            settings["preview.steps"] = min(1000, max(1, int(amount)))
        elif amount is not None and letter == "l":
            settings["preview.cfg_scale"] = min(50.0, max(1.0, amount))
        elif amount is not None and letter == "d":
            settings["preview.seed"] = int(amount) % 2**32
    return settings


# The loss and the noise


def min_snr_gamma(entry: Entry) -> Answer:
    debiased = flag(entry.all["debiased_estimation_loss"])
    if is_off(entry.value):
        return OFF if debiased else Answer("taken", {"loss.weighting": "none"})
    if debiased:
        return Answer("no counterpart", {}, "There is one weighting here, and the debiased one was taken.")
    try:
        return Answer("taken", {"loss.weighting": "min_snr", "loss.min_snr_gamma": number(entry.value)})
    except ValueError as why:
        return Answer("no counterpart", {}, str(why))


def debiased_estimation(entry: Entry) -> Answer:
    if not flag(entry.value):
        return OFF
    if flag(entry.all["v_parameterization"]):
        return Answer("approximated", {"loss.weighting": "debiased"}, "For v it is sqrt(SNR) / (SNR + 1) here, there 1 / (SNR + 1).")
    return Answer("taken", {"loss.weighting": "debiased"})


def predicts_v(entry: Entry) -> Answer:
    return Answer("taken", {"model.prediction_type": "v_prediction"}) if flag(entry.value) else Answer("ignored", {}, OF_THE_MODEL)


def of_huber(rule: Rule) -> Rule:
    """What counts with one of the Huber losses only."""
    used = ("huber", "smooth_l1")
    return lambda entry: (
        rule(entry) if str(entry.all["loss_type"]).lower() in used else Answer("ignored", {}, "Does nothing with this loss.")
    )


def random_strength(of: str, other: str, other_switch: str) -> Rule:
    """Here one switch is for both kinds of noise whose strength can be drawn."""

    def rule(entry: Entry) -> Answer:
        if not flag(entry.value) or is_off(entry.all[of]):
            return OFF
        alone = is_off(entry.all[other]) or flag(entry.all[other_switch])
        why = "" if alone else f"Here it is for {other}, too."
        return Answer("taken" if alone else "approximated", {"loss.random_strength": True}, why)

    return rule


def timesteps_between(first: float | None, end: float | None) -> Answer:
    """Of timestep numbers, both of them with each: what one file says of the range goes before what another one says."""
    first, end = 0 if first is None else int(first), 1000 if end is None else int(end)
    if not 0 <= first < end <= 1000:
        return Answer("no counterpart", {}, "From the first to the last there is no timestep.")
    return Answer("taken", {"loss.min_timestep": first, "loss.max_timestep": end})


def timesteps_range(entry: Entry) -> Answer:
    if is_off(entry.value):
        return OFF
    first, end = (or_nothing(number, entry.all[name]) for name in ("min_timestep", "max_timestep"))
    return timesteps_between(first, end or None)


def masked_by(source: str) -> Rule:
    """Outside the mask nothing counts there. A mask picture goes before transparency."""

    def rule(entry: Entry) -> Answer:
        if not flag(entry.value):
            return OFF
        both = flag(entry.all["masked_loss"]) and flag(entry.all["alpha_mask"])
        return Answer("taken", {"loss.masked": "auto" if both else source, "loss.unmasked_weight": 0.0})

    return rule


SAMPLERS = choose(
    "preview.sampler",
    {
        "ddim": "ddim", "euler": "euler", "k_euler": "euler", "euler_a": "euler_a", "k_euler_a": "euler_a", "heun": "heun",
        "dpmsolver++": "dpm++_2m",
    },
    other=("dpm++_2m_karras", "There is no such sampler here."),
)  # fmt: skip
PRECISIONS = choose(
    "model.precision",
    {"no": "float32", "fp16": "float16", "bf16": "bfloat16", "float": "float32"},
    other=("auto", "There is no such number format here; the program chooses one."),
)
FILE_PRECISIONS = choose(
    "saving.precision",
    {"fp16": "float16", "bf16": "bfloat16", "float": "float32", "fp32": "float32"},
    other=("float16", "There is no such number format here."),
)

TABLE: dict[str, Rule] = {
    # What is personal.
    "pretrained_model_name_or_path": take_or_leave("model.path", text),
    "train_data_dir": take_or_leave("dataset.path", text),
    "output_name": take_or_leave("name", text),
    "sample_prompts": lacks("A file with prompts is not opened: copy its lines into the preview prompts."),
    # The model.
    "clip_skip": clip_skip,
    "mixed_precision": PRECISIONS,
    **every("v2 sdxl", passed(OF_THE_MODEL)),
    "v_parameterization": predicts_v,
    "vae": take_or_leave("model.vae", text),
    # What is trained, and how.
    "network_module": network_module,
    "network_dim": network_dim,
    "network_alpha": network_alpha,
    "network_dropout": network_dropout,
    "network_args": network_args,
    "network_train_unet_only": unet_only,
    "network_train_text_encoder_only": lacks("The UNet is always trained here."),
    "network_weights": take_or_leave("lora.start_from", text),
    "scale_weight_norms": take("lora.max_norm", networks.or_none(number)),
    "learning_rate": learning_rate,
    "unet_lr": unet_lr,
    "text_encoder_lr": text_encoder_lr,
    "optimizer_type": optimizer_type,
    "use_8bit_adam": old_switch("AdamW8bit"),
    "use_lion_optimizer": old_switch("Lion"),
    "optimizer_args": optimizer_args,
    "max_grad_norm": take("optimizer.max_grad_norm", or_naught),
    "lr_scheduler": lr_scheduler,
    "lr_scheduler_type": lr_scheduler_type,
    "lr_warmup_steps": lr_warmup_steps,
    "lr_scheduler_num_cycles": with_schedule("cosine_with_restarts", take_or_leave("schedule.restarts", whole)),
    "lr_scheduler_power": with_schedule("polynomial", take_or_leave("schedule.power", number)),
    "max_train_epochs": max_train_epochs,
    "max_train_steps": max_train_steps,
    "epoch": passed("max_train_steps or max_train_epochs hold instead."),
    "train_batch_size": take("training.batch_size", whole),
    "gradient_accumulation_steps": take("training.gradient_accumulation", lambda value: 1 if is_off(value) else whole(value)),
    "gradient_checkpointing": take("training.gradient_checkpointing", flag),
    "min_snr_gamma": min_snr_gamma,
    "debiased_estimation_loss": debiased_estimation,
    **every(
        "scale_v_pred_loss_like_noise_pred v_pred_like_loss",
        if_on("v_parameterization", lacks("The loss of v is not scaled to that of noise here."), "For models that predict v."),
    ),
    "noise_offset": take("loss.noise_offset", or_naught),
    "noise_offset_random_strength": random_strength("noise_offset", "ip_noise_gamma", "ip_noise_gamma_random_strength"),
    "adaptive_noise_scale": if_on("noise_offset", take("loss.noise_offset_adaptive", or_naught), "Does nothing without noise_offset."),
    "multires_noise_iterations": take("loss.pyramid_iterations", or_zero),
    "multires_noise_discount": if_on(
        "multires_noise_iterations", take_or_leave("loss.pyramid_discount", number), "Does nothing without multires_noise_iterations."
    ),
    "ip_noise_gamma": take("loss.input_perturbation", or_naught),
    "ip_noise_gamma_random_strength": random_strength("ip_noise_gamma", "noise_offset", "noise_offset_random_strength"),
    "zero_terminal_snr": lambda entry: Answer("taken", {"loss.zero_terminal_snr": True}) if flag(entry.value) else OFF,
    "masked_loss": masked_by("file"),
    "alpha_mask": masked_by("alpha"),
    "conditioning_data_dir": lacks("Masks are found beside the pictures here: in a folder masks, or named like NAME-mask.png."),
    "seed": seed,
    "prior_loss_weight": if_on("reg_data_dir", lacks("There are no regularisation pictures here."), "No regularisation pictures."),
    "reg_data_dir": lacks("There are no regularisation pictures here."),
    "loss_type": choose("loss.kind", {"l2": "mse", "": "mse", "l1": "l1", "huber": "huber", "smooth_l1": "smooth_l1"}),
    "huber_c": of_huber(take("loss.huber_c", number)),
    "huber_schedule": of_huber(
        choose("loss.huber_schedule", {"": "snr", "snr": "snr", "constant": "constant", "exponential": "exponential"})
    ),
    "huber_scale": of_huber(only("The threshold is not scaled here.", 1, 1.0)),
    **every("min_timestep max_timestep", timesteps_range),
    # The pictures.
    "dataset_config": elsewhere("kohya_dataset", "This file is not opened: give it as a second file."),
    "resolution": resolution,
    "dataset_repeats": take_or_leave("dataset.repeats", whole),
    "enable_bucket": take("dataset.buckets", flag),
    "bucket_reso_steps": bucket_step,
    **every("min_bucket_reso max_bucket_reso", if_on("enable_bucket", lacks(SHAPES), "Does nothing without buckets.")),
    "bucket_no_upscale": if_on(
        "enable_bucket", lacks("Small pictures are enlarged to the training's size here."), "Does nothing without buckets."
    ),
    "flip_aug": take("dataset.flip", flag),
    "caption_dropout_rate": take("dataset.caption_dropout", or_naught),
    "caption_extension": caption_extension,
    "shuffle_caption": lacks(NOT_SHUFFLED),
    **every(
        "keep_tokens keep_tokens_separator secondary_separator caption_separator",
        if_on("shuffle_caption", lacks(NOT_SHUFFLED), "Does nothing unless captions are shuffled."),
    ),
    **every("caption_prefix caption_suffix", lacks("Write it into the captions.")),
    "max_token_length": only("Captions are cut after 75 tokens here.", 75),
    **every("cache_latents cache_latents_to_disk", always("Always on here.")),
    "validation_split": take("dataset.validation_share", or_naught),
    "validate_every_n_epochs": take_or_leave("validation.every_epochs", whole),
    # Files and previews.
    "save_precision": FILE_PRECISIONS,
    "save_every_n_epochs": take("saving.every_epochs", or_zero),
    "save_every_n_steps": take("saving.every_steps", or_zero),
    "save_model_as": passed("A LoRA is always saved as safetensors here."),
    **every("save_last_n_epochs save_last_n_steps", lacks("All LoRA files are kept here.")),
    "sample_every_n_epochs": every_epochs,
    "sample_every_n_steps": every_steps,
    "sample_at_first": take("preview.before_training", flag),
    "sample_sampler": SAMPLERS,
    # What changes nothing in the result.
    **every(
        "xformers sdpa mem_eff_attn torch_compile dynamo_backend dynamo_mode dynamo_use_dynamic dynamo_use_fullgraph lowram lowvram "
        "highvram max_data_loader_n_workers persistent_data_loader_workers vae_batch_size num_cpu_threads_per_process num_processes "
        "num_machines multi_gpu gpu_ids main_process_port extra_accelerate_launch_args no_half_vae sdxl_no_half_vae skip_cache_check "
        "cache_text_encoder_outputs cache_text_encoder_outputs_to_disk text_encoder_batch_size disable_mmap_load_safetensors "
        "ddp_timeout ddp_gradient_as_bucket_view ddp_static_graph cache_info resize_interpolation fused_backward_pass",
        passed(SPEED),
    ),
    **every(
        "logging_dir log_with log_prefix log_tracker_name log_tracker_config log_config wandb_api_key wandb_run_name output_dir "
        "config_file output_config tokenizer_cache_dir",
        passed(RECORDS),
    ),
    **every(
        "save_state save_state_on_train_end save_state_to_huggingface save_last_n_epochs_state save_last_n_steps_state resume "
        "resume_from_huggingface save_n_epoch_ratio initial_epoch initial_step skip_until_initial_step",
        passed(RESUMED),
    ),
    **every(
        "training_comment no_metadata metadata_title metadata_author metadata_description metadata_license metadata_tags", passed(METADATA)
    ),
    **every(
        "huggingface_repo_id huggingface_repo_type huggingface_path_in_repo huggingface_token huggingface_repo_visibility async_upload",
        passed(UPLOADS),
    ),
    **every(
        "clip_l clip_g t5xxl ae t5xxl_max_token_length apply_t5_attn_mask guidance_scale timestep_sampling sigmoid_scale "
        "model_prediction_type discrete_flow_shift model_type weighting_scheme logit_mean logit_std mode_scale",
        passed(OTHER_MODELS),
    ),
}

DEFAULTS: dict[str, Any] = {
    "network_module": "networks.lora",
    "network_dim": 4,
    "network_alpha": 1,
    "learning_rate": 2e-6,
    "optimizer_type": "AdamW",
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "max_train_steps": 1600,
    "train_batch_size": 1,
    "min_snr_gamma": None,
    "enable_bucket": False,
    "mixed_precision": "no",
    "save_precision": "float",
    "save_every_n_epochs": None,
}


def plain(key: str) -> str:
    """Sections are for the eye only: the scripts put them all into one."""
    return key.partition(".")[2] or key


def names_in(content: Any) -> set[str]:
    """The keys of a file with or without sections."""
    if not isinstance(content, dict):
        return set()
    inner = [value for value in content.values() if isinstance(value, dict)]
    return set(content) | {name for section in inner for name in section}


def recognises(content: Any) -> bool:
    names = names_in(content)
    return len(MARKS & names) >= MARKS_NEEDED and "datasets" not in names and not is_of_the_window(content)


def is_of_the_window(content: Any) -> bool:
    """Whether it is not the scripts' own, but what kohya_ss's window keeps."""
    return len(MARKS_OF_THE_WINDOW & names_in(content)) >= MARKS_NEEDED


def understood(values: Values) -> Values:
    for switch, name in (("use_8bit_adam", "AdamW8bit"), ("use_lion_optimizer", "Lion")):
        if flag(values[switch]):
            values["optimizer_type"] = name
    return values


ENTRY = Format("sd_scripts", "sd-scripts", recognises, TABLE, DEFAULTS, plain, understood)
