"""Settings of OneTrainer: its presets and configurations, one JSON with groups, and beside it its list of concepts.

Names, meanings and defaults are those of Nerogar/OneTrainer: `modules/util/config/TrainConfig.py`, `ConceptConfig.py` and
`SampleConfig.py`; the choices in `modules/util/enum/`; warmup and curves in `modules/util/create.py` and `lr_scheduler_util.py`
(REX: Chen et al. 2021); how rates are scaled in `modules/util/NamedParameterGroup.py`; the average of weights in
`modules/module/EMAModule.py`; what is done to tags and by which kinds of concepts in `modules/ui/BaseConceptWindowView.py`.
A file holds what differs from the defaults.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import PurePosixPath
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
    folders,
    is_off,
    lacks,
    number,
    only,
    optimizers,
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
from nosnja_gui.foreign import sd_scripts as scripts

METHODS = {"LORA": "lora", "FINE_TUNE": "dreambooth", "EMBEDDING": "textual_inversion"}
UNTOLD: dict[str, dict[str, Any]] = {
    "adafactor": {"relative_step": False, "scale_parameter": False},
    "adamw_schedulefree": {"weight_decay": 0.01},
    "lion8bit": {"beta2": 0.999},
}
"""What it gives optimisers where its file says nothing, and which is not what they do by themselves."""
ARGUMENTS = words(
    "weight_decay beta1 beta2 beta3 eps eps2 momentum relative_step scale_parameter warmup_init d_coef d0 safeguard_warmup decouple "
    "use_bias_correction growth_rate clip_threshold decay_rate weight_lr_power ns_steps optim_bits min_8bit_size percentile_clipping"
)
REX_AS_POWER = 0.25
"""The polynomial nearest to its REX, (1 - p) / (0.1 + 0.9 (1 - p)) at the share p of the training; ours has 0.5 for both numbers, as in
the paper, and is further from it."""
OLD_NAMES = {
    "optimizer": "optimizer.optimizer",
    "train_unet": "unet.train",
    "unet_learning_rate": "unet.learning_rate",
    "train_text_encoder": "text_encoder.train",
    "text_encoder_learning_rate": "text_encoder.learning_rate",
    "train_text_encoder_2": "text_encoder_2.train",
    "max_grad_norm": "clip_grad_norm",
}
"""Keys of earlier versions (`TrainConfig`'s migrations), and what they are called now."""
OF_OTHER_OPTIMIZERS = words(
    "stochastic_rounding weight_decay_by_lr split_groups split_groups_mean factored factored_fp32 use_stableadamw d_limiter "
    "use_schedulefree rms_rescaling muon_adam_config fused fused_back_pass fsdp_in_use foreach block_wise compile capturable use_triton"
)
BY_EPOCHS_OR_STEPS = "It goes by epochs or steps here: ten times in the whole training."


def recognises(content: Any) -> bool:
    return isinstance(content, dict) and ("training_method" in content or {"model_type", "base_model_name"} <= set(content))


def plain(key: str) -> str:
    return OLD_NAMES.get(key, key)


def method(values: Values) -> str:
    """OneTrainer's name of it."""
    return str(values["training_method"] or "FINE_TUNE").upper()


def refuses(values: Values) -> str:
    if method(values) in METHODS:
        return ""
    known = ", ".join(METHODS)
    return f"holds settings of OneTrainer for the training method {method(values)}, which is not there here: choose one of {known}"


def of(rule: Rule, *methods: str) -> Rule:
    """What counts with some training methods only."""
    return lambda entry: rule(entry) if method(entry.all) in methods else Answer("ignored", {}, scripts.OTHER_METHOD)


def precision(entry: Entry) -> Answer:
    answer = PRECISIONS(entry)
    if method(entry.all) != "FINE_TUNE" or answer.settings.get("model.precision") != "float16":
        return answer
    return Answer("approximated", {"model.precision": "auto"}, "Trained weights stay float32; the program chooses what it computes in.")


BASE_PRECISIONS = {"FLOAT_8": "fp8", "FLOAT_W8A8": "fp8", "INT_8": "int8", "INT_W8A8": "int8", "NFLOAT_4": "nf4"}


def base_precision(entry: Entry) -> Answer:
    """A model that is not trained itself may be kept smaller."""
    name = str(entry.value or "").upper()
    if name not in BASE_PRECISIONS:
        return Answer("ignored", {}, scripts.SPEED)
    why = "It is computed in the training's own format here." if name.endswith("W8A8") else ""
    return Answer("approximated" if why else "taken", {"memory.base_precision": BASE_PRECISIONS[name]}, why)


def embedding_rate(entry: Entry) -> Answer:
    if is_off(entry.value):
        return Answer("ignored", {}, "Empty, so learning_rate holds.")
    factor, why = (1.0, "") if finds_rate(entry.all) else scaled(entry.all)
    answer = take("textual_inversion.learning_rate", lambda value: number(value) * factor)(entry)
    return replace(answer, verdict="approximated", reason=why) if why and answer.settings else answer


def vectors(entry: Entry) -> Answer:
    if is_off(entry.value):
        return Answer("no counterpart", {}, "How many tokens a text has depends on the model: say the number here.")
    return take("textual_inversion.vectors", whole)(entry)


def keep_norm(entry: Entry) -> Answer:
    if not flag(entry.value):
        return OFF
    return Answer("approximated", {"textual_inversion.keep_norm": True}, "The mean length of words is held here, there their median.")


def average(entry: Entry) -> Answer:
    """Where it is updated each few steps only, the decay that forgets as much in as many steps."""
    if is_off(entry.value):
        return Answer("taken", {"training.ema_decay": None})
    decay, interval = (or_nothing(number, entry.all[name]) for name in ("ema_decay", "ema_update_step_interval"))
    decay, interval = 0.999 if decay is None else decay, 5.0 if interval is None else max(1.0, interval)
    if not 0 < decay < 1:
        return Answer("no counterpart", {}, "Its decay is no number between 0 and 1.")
    if interval == 1:
        return Answer("taken", {"training.ema_decay": decay})
    why = f"After each step here, there after each {interval:g}: so {decay:g} is taken to the power 1/{interval:g}."
    return Answer("approximated", {"training.ema_decay": round(decay ** (1 / interval), 8)}, why)


# Rates


def rates(values: Values) -> tuple[float | None, float | None, str]:
    """The rates of the UNet and of the text encoder (None: not trained), and why they are not the file's."""
    common = or_nothing(number, values["learning_rate"])
    if method(values) == "EMBEDDING":
        factor, why = (1.0, "") if finds_rate(values) else scaled(values)
        return common and common * factor, None, why
    unet = or_nothing(number, values["unet.learning_rate"])
    text_encoder = or_nothing(number, values["text_encoder.learning_rate"])
    unet = common if unet is None else unet
    text_encoder = common if text_encoder is None else text_encoder
    trains_text = values["text_encoder.train"] is None or flag(values["text_encoder.train"])
    if finds_rate(values):
        factor = unet or 1.0
        return factor, factor if text_encoder and trains_text else None, ""
    factor, why = scaled(values)
    return unet and unet * factor, text_encoder * factor if text_encoder and trains_text else None, why


def wanted(values: Values) -> optimizers.Wanted:
    name = str(values["optimizer.optimizer"] or "ADAMW")
    return optimizers.wanted(f"PAGED_{name}" if name.upper() == "ADAMW_8BIT" and flag(values["optimizer.is_paged"]) else name)


def finds_rate(values: Values) -> bool:
    return wanted(values).chosen.finds_rate


def scaled(values: Values) -> tuple[float, str]:
    """What the rates are multiplied by: the root of the batch, of the accumulated ones, or of both."""
    how = str(values["learning_rate_scaler"] or "NONE").upper()
    batch = or_nothing(whole, values["batch_size"]) or 1
    gathered = or_nothing(whole, values["gradient_accumulation_steps"]) or 1
    factor = (batch if how.endswith(("BATCH", "BOTH")) else 1) * (gathered if how.endswith(("ACCUMULATION", "BOTH")) else 1)
    return (factor**0.5, f"Times the root of {factor}, as learning_rate_scaler asks for.") if factor > 1 else (1.0, "")


def learning_rate(entry: Entry) -> Answer:
    unet, text_encoder, why = rates(entry.all)
    settings = {}
    if method(entry.all) == "EMBEDDING" and not is_off(entry.all["embedding_learning_rate"]):
        return Answer("ignored", {}, "embedding_learning_rate holds.")
    if is_off(entry.all["unet.learning_rate"]) or method(entry.all) == "EMBEDDING":
        settings["optimizer.learning_rate"] = unet
    if text_encoder and is_off(entry.all["text_encoder.learning_rate"]):
        settings["optimizer.text_encoder_learning_rate"] = text_encoder
    if not settings:
        return Answer("ignored", {}, scripts.PARTS_HOLD)
    return Answer("approximated" if why else "taken", settings, why)


def rate_of(part: str, setting: str) -> Rule:
    def rule(entry: Entry) -> Answer:
        if is_off(entry.value):
            return Answer("ignored", {}, "Empty, so learning_rate holds.")
        unet, text_encoder, why = rates(entry.all)
        return Answer("approximated" if why else "taken", {setting: unet if part == "unet" else text_encoder}, why)

    return rule


def trains_unet(entry: Entry) -> Answer:
    if flag(entry.value):
        return Answer("ignored", {}, "As it is here.")
    return Answer("no counterpart", {}, "The UNet is always trained here.")


def trains_text(entry: Entry) -> Answer:
    _, text_encoder, why = rates(entry.all)
    return Answer("approximated" if why and text_encoder else "taken", {"optimizer.text_encoder_learning_rate": text_encoder}, why)


def optimizer(entry: Entry) -> Answer:
    given = {key.removeprefix("optimizer."): value for key, value in entry.all.items() if key.startswith("optimizer.")}
    chosen = wanted(entry.all)
    return chosen.answer(given, UNTOLD.get(chosen.name))


def argument(entry: Entry) -> Answer:
    """An argument of the optimiser; what is empty is its own."""
    name = entry.key.removeprefix("optimizer.")
    if entry.value is None or entry.value == "":
        return EMPTY
    known = {"epsilon" if name == "eps" else name} & optimizers.OWN
    answer = optimizers.argument(name, entry.value, wanted(entry.all))
    if known and answer.verdict == "no counterpart" and not set(known) & set(wanted(entry.all).chosen.takes):
        return Answer("ignored", {}, "Does nothing with this optimizer here.")
    return answer


# Course and length


SCHEDULES = choose(
    "schedule.name",
    {"constant": "constant", "linear": "linear", "cosine": "cosine", "cosine_with_hard_restarts": "cosine_with_restarts"},
    {"cosine_with_restarts": ("cosine_with_restarts", "The rate rises gently again there, and begins anew at once here.")},
    ("constant", "There is no such schedule here; constant is taken."),
)


def scheduler(entry: Entry) -> Answer:
    name, chosen = str(entry.value).upper(), wanted(entry.all)
    if chosen.chosen.averages:
        return Answer("taken", {"schedule.name": "constant"}, "That optimizer has no schedule.")
    if name == "ADAFACTOR" and chosen.name == "adafactor":
        return Answer("taken", {"schedule.name": "constant"}, "Adafactor sets its rate by itself.")
    if name != "REX":
        return SCHEDULES(entry)
    reason = f"It falls later there than REX here; polynomial with the exponent {REX_AS_POWER:g} comes nearer."
    return Answer("approximated", {"schedule.name": "polynomial", "schedule.power": REX_AS_POWER}, reason)


def min_factor(entry: Entry) -> Answer:
    if str(entry.all["learning_rate_scheduler"] or "CONSTANT").upper() in ("CONSTANT", "ADAFACTOR", "CUSTOM"):
        return Answer("ignored", {}, "Does nothing with this schedule.")
    return take("schedule.end_share", or_naught)(entry)


def warmup(entry: Entry) -> Answer:
    value = 0.0 if is_off(entry.value) else or_nothing(number, entry.value)
    if value is None:
        return Answer("no counterpart", {}, "This is no number.")
    # Above 1 they are steps, up to it a share of all.
    return scripts.warmup(min(value, 0.99) if value <= 1 else value, value <= 1, None)


def cycles(entry: Entry) -> Answer:
    if "RESTARTS" not in str(entry.all["learning_rate_scheduler"]).upper():
        return Answer("ignored", {}, "Does nothing with this schedule.")
    value = or_nothing(number, entry.value)
    if value is None or value == int(value):
        return take("schedule.restarts", whole)(entry)
    return Answer("approximated", {"schedule.restarts": max(1, round(value))}, "Whole cycles only.")


def by_unit(epochs: str, steps: str, off: str) -> Rule:
    """An amount whose unit stands beside it: epochs, steps, minutes, or never."""

    def rule(entry: Entry) -> Answer:
        unit = str(entry.all[f"{entry.key}_unit"] or off).upper()
        amount = or_nothing(number, entry.value)
        if unit == "NEVER" or not amount:
            return Answer("taken", {epochs: 0, steps: 0})
        if unit in ("EPOCH", "STEP") and amount == int(amount):
            return Answer("taken", {epochs: int(amount) if unit == "EPOCH" else 0, steps: int(amount) if unit == "STEP" else 0})
        tenth = max(1, round((or_nothing(whole, entry.all["epochs"]) or 10) / 10))
        return Answer("approximated", {epochs: tenth, steps: 0}, BY_EPOCHS_OR_STEPS)

    return rule


def backup(entry: Entry) -> Answer:
    if str(entry.all["backup_after_unit"] or "MINUTE").upper() == "STEP":
        return take("saving.checkpoint_every_steps", whole)(entry)
    return Answer("ignored", {}, "States to go on from are kept by steps here, as the form says.")


def kept_backups(entry: Entry) -> Answer:
    return take("saving.keep_checkpoints", whole)(entry) if flag(entry.all["rolling_backup"]) else OFF


def validation(entry: Entry) -> Answer:
    if not flag(entry.all["validation"]):
        return OFF
    if str(entry.all["validate_after_unit"] or "EPOCH").upper() == "EPOCH":
        return take("validation.every_epochs", whole)(entry)
    return Answer("no counterpart", {}, "It is measured after so many epochs here.")


# Model and method


PEFT_TYPES = {"LORA": "lora", "LOHA": "loha", "LOKR": "lokr"}


def peft_type(entry: Entry) -> Answer:
    name = str(entry.value or "LORA").upper()
    if name.startswith("OFT"):
        return Answer("approximated", {"lora.algorithm": "oft"}, "The outputs of layers are rotated here, there their inputs.")
    if name not in PEFT_TYPES:
        return Answer("approximated", {"lora.algorithm": "lora"}, f"A plain LoRA is taken: there is no {name} here.")
    return Answer("taken", {"lora.algorithm": PEFT_TYPES[name]})


def of_kind(name: str, rule: Rule) -> Rule:
    """What counts with one kind of LoRA only."""

    def judged(entry: Entry) -> Answer:
        kind = str(entry.all["peft_type"] or "LORA").upper()
        return rule(entry) if kind.startswith(name) else Answer("ignored", {}, "Belongs to another kind of LoRA.")

    return judged


def decomposed(entry: Entry) -> Answer:
    if not flag(entry.value):
        return OFF
    if flag(entry.all["lora_decompose_output_axis"]):
        return Answer("taken", {"lora.dora": True})
    return Answer("approximated", {"lora.dora": True}, "A length belongs to each output here, there to each input.")


def layers(entry: Entry) -> Answer:
    """By `LAYER_PRESETS` (modules/modelSetup/BaseStableDiffusionSetup.py); own filters are parts of names, or an expression."""
    name = str(entry.value or "full").lower()
    if method(entry.all) == "FINE_TUNE":
        if name == "full" or not (name == "attn-only" or entry.all["layer_filter"]):
            return Answer("taken", {"dreambooth.trains": "everything"})
        own = {"attn-only": "attention"}.get(name)
        return Answer(
            "taken" if own else "approximated", {"dreambooth.trains": own or "everything"}, "" if own else f"No choice like {name} here."
        )
    known = {"attn-only": "attention", "attn-mlp": "attention_ff", "full": "everything"}
    if name in known:
        why = "There also the layers at the UNet's two ends, which are left alone here." if name == "full" else ""
        return Answer("approximated" if why else "taken", {"lora.targets": known[name]}, why)
    given = str(entry.all["layer_filter"] or "").strip()
    if not given:
        return Answer("no counterpart", {}, f"There is no choice of layers like {name} here.")
    parts = "|".join(re.escape(part.strip()) for part in given.split(",") if part.strip())
    return Answer("taken", {"lora.pattern": given if flag(entry.all["layer_filter_regex"]) else parts}, "As an expression.")


def model_type(entry: Entry) -> Answer:
    if str(entry.value).upper().startswith("STABLE_DIFFUSION") and "3" not in str(entry.value):
        return Answer("ignored", {}, scripts.OF_THE_MODEL)
    return Answer("no counterpart", {}, "Stable Diffusion is trained here; the other settings were taken all the same.")


def predicts(what: str) -> Rule:
    return lambda entry: Answer("taken", {"model.prediction_type": what}) if flag(entry.value) else OFF


def clip_skip(entry: Entry) -> Answer:
    skipped = 0 if is_off(entry.value) else or_nothing(whole, entry.value)
    if skipped is None:
        return Answer("no counterpart", {}, "This is no whole number.")
    if skipped > 1:
        return Answer("approximated", {"model.clip_skip": 2}, "One layer at most is skipped here.")
    return Answer("taken", {"model.clip_skip": skipped + 1}, "Counted from the end here: 1 skips none.")


def checkpointing(entry: Entry) -> Answer:
    if isinstance(entry.value, str) and entry.value.upper() == "CPU_OFFLOADED":
        return Answer("approximated", {"training.gradient_checkpointing": True}, "Nothing is moved to the machine's memory meanwhile.")
    return take("training.gradient_checkpointing", flag)(entry)


FORMATS_OF_NUMBERS = {"float_32": "float32", "tfloat_32": "float32", "float_16": "float16", "bfloat_16": "bfloat16"}
PRECISIONS = choose("model.precision", FORMATS_OF_NUMBERS, other=("auto", "There is no such number format here."))
SAMPLERS = choose(
    "preview.sampler",
    {"ddim": "ddim", "euler": "euler", "euler_a": "euler_a", "dpmpp": "dpm++_2m", "dpmpp_karras": "dpm++_2m_karras", "unipc": "unipc"},
    {"unipc_karras": ("unipc", "Without Karras's steps here."), "euler_karras": ("euler", "Without Karras's steps here.")},
    ("dpm++_2m_karras", "There is no such sampler here."),
)


WEIGHTINGS = {"CONSTANT": "none", "MIN_SNR_GAMMA": "min_snr", "DEBIASED_ESTIMATION": "debiased", "P2": "p2"}
STRENGTHS = {"MIN_SNR_GAMMA": "loss.min_snr_gamma", "P2": "loss.p2_gamma"}


def loss_weight(entry: Entry) -> Answer:
    name = str(entry.value or "CONSTANT").upper()
    if name in WEIGHTINGS:
        return Answer("taken", {"loss.weighting": WEIGHTINGS[name]})
    return Answer("approximated", {"loss.weighting": "none"}, f"There is no {name} here; all steps weigh the same.")


def loss_strength(entry: Entry) -> Answer:
    setting = STRENGTHS.get(str(entry.all["loss_weight_fn"] or "CONSTANT").upper())
    return take(setting, number)(entry) if setting else Answer("ignored", {}, "Does nothing with this weighting.")


def other_loss(kind: str, others: str, reason: str = "") -> Rule:
    """What is a sum of losses there is one here: this one where the others are off."""

    def rule(entry: Entry) -> Answer:
        if is_off(entry.value):
            return OFF
        strengths = {"mse_strength": 1.0, **entry.all}
        if not all(is_off(strengths.get(f"{other}_strength")) for other in words(others)):
            return Answer("no counterpart", {}, "There is one loss at a time here.")
        return Answer("approximated" if reason else "taken", {"loss.kind": kind}, reason)

    return rule


def huber_delta(entry: Entry) -> Answer:
    if is_off(entry.all["huber_strength"]):
        return Answer("ignored", {}, "Does nothing with this loss.")
    return take("loss.huber_c", number)(entry)


def huber(entry: Entry) -> Answer:
    answer = other_loss("huber", "mse mae log_cosh", "Twice as large here, and with a rounder bend.")(entry)
    more = {"loss.huber_schedule": "constant"}
    if answer.settings and or_nothing(number, entry.all["huber_delta"]) is None:
        more["loss.huber_c"] = 1.0
    return replace(answer, settings={**answer.settings, **more}) if answer.settings else answer


# Timesteps and noise


def timesteps(entry: Entry) -> Answer:
    first, end = (or_nothing(number, entry.all[name]) for name in ("min_noising_strength", "max_noising_strength"))
    if (first or 0.0) == 0 and end in (None, 1):
        return Answer("ignored", {}, "As it is here.")
    if not 0 <= (first or 0.0) <= 1 or not 0 <= (1.0 if end is None else end) <= 1:
        return Answer("no counterpart", {}, "From the first to the last there is no timestep.")
    return scripts.timesteps_between(first and 1000 * first, None if end is None else 1000 * end)


def distribution(entry: Entry) -> Answer:
    """By `ModelSetupNoiseMixin._get_timestep_discrete`, with our two numbers where there are the same two."""
    name = str(entry.value or "UNIFORM").upper()
    weight, bias = (or_nothing(number, entry.all[name]) or 0.0 for name in ("noising_weight", "noising_bias"))
    settings: dict[str, Any] = {"loss.distribution": "uniform"}
    if name == "UNIFORM" or (name == "SIGMOID" and weight == 0):
        return Answer("taken", settings)
    if name == "LOGIT_NORMAL" and weight > -1:
        return shaped("logit_normal", bias, 1 / (weight + 1))
    if name == "SIGMOID" and weight > 0 and -0.5 < bias < 0.5:
        return shaped("sigmoid", math.log((0.5 + bias) / (0.5 - bias)), weight / 10)
    if name == "BETA" and weight > 0 and bias > 0:
        return shaped("beta", math.log(weight / bias), (weight + bias) / 4)
    if name in ("INVERTED_PARABOLA", "COS_MAP"):
        return Answer("approximated", {"loss.distribution": "beta"}, "A hill over the middle is taken, which need not be as high.")
    return Answer("approximated", settings, f"There is no {name} here with these numbers; all timesteps are drawn alike.")


def shaped(name: str, bias: float, focus: float) -> Answer:
    return Answer("taken", {"loss.distribution": name, "loss.timestep_bias": round(bias, 6), "loss.timestep_focus": round(focus, 6)})


def zero_terminal_snr(entry: Entry) -> Answer:
    settings = {"loss.zero_terminal_snr": True, "model.prediction_type": "v_prediction"}
    return Answer("taken", settings, "That program then trains v, too.") if flag(entry.value) else OFF


def perturbation(entry: Entry) -> Answer:
    if is_off(entry.value):
        return OFF
    answer = take("loss.input_perturbation", number)(entry)
    return replace(answer, verdict="approximated", reason="There the model has to find it, too.") if answer.settings else answer


def of_masks(rule: Rule) -> Rule:
    """What counts in masked training only."""
    return lambda entry: rule(entry) if flag(entry.all["masked_training"]) else Answer("ignored", {}, "Does nothing without masks.")


# Pictures and prompts


def concept(name: str, rule: Rule) -> Rule:
    """What is said of one concept, if it is trained on."""

    def judged(entry: Entry) -> Answer:
        place = entry.key[: entry.key.index("]") + 1]
        enabled, kind = entry.all[f"{place}.enabled"], str(entry.all[f"{place}.type"] or "STANDARD").upper()
        if enabled is not None and not flag(enabled):
            return Answer("ignored", {}, "This concept is switched off.")
        if kind == "PRIOR_PREDICTION":
            return OF_CLASS_PICTURES.get(name, lacks(scripts.AS_THEY_ARE))(entry)
        if kind != "STANDARD":
            return Answer("no counterpart", {}, f"There are no concepts of the type {kind} here.")
        return rule(entry)

    return judged


def place_of(entry: Entry) -> str:
    return entry.key[: entry.key.index("]") + 1]


def repeats_of(values: Values, place: str) -> int:
    """Whole ones, one at least; drawing so many samples is something else."""
    if str(values[f"{place}.balancing_strategy"] or "REPEATS").upper() != "REPEATS":
        return 1
    return max(1, round(or_nothing(number, values[f"{place}.balancing"]) or 1.0))


def places(values: Values, kind: str) -> list[folders.Folder]:
    """Folders of the concepts of one type that are switched on."""
    found = []
    for key, path in values.items():
        place = key.removesuffix(".path")
        if place == key or not place.endswith("]") or not isinstance(path, str) or not path.strip():
            continue
        enabled = values[f"{place}.enabled"]
        if (enabled is None or flag(enabled)) and str(values[f"{place}.type"] or "STANDARD").upper() == kind:
            weight = or_nothing(number, values[f"{place}.loss_weight"])
            found.append(folders.Folder(place, path.strip(), repeats_of(values, place), 1.0 if weight is None else weight))
    return found


def learnt(values: Values) -> list[folders.Folder]:
    return folders.once(places(values, "STANDARD"))


def further(entry: Entry) -> Answer | None:
    """The answer for what is said of a folder that is not the first one; None for the first, and where there is none at all."""
    pictures = learnt(entry.all)
    here = next((folder for folder in pictures if folder.place == place_of(entry)), None)
    if not pictures or here == pictures[0] or place_of(entry).endswith("[]"):
        return None
    if here is None:
        return EMPTY if is_off(entry.beside("path")) else Answer("no counterpart", {}, folders.GIVEN_TWICE)
    if not here.writable:
        return Answer("no counterpart", {}, folders.UNWRITABLE)
    return Answer("taken", {"dataset.concepts": folders.lines(pictures)}, "A further concept.")


def path(entry: Entry) -> Answer:
    if is_off(entry.value):
        return EMPTY
    return further(entry) or take("dataset.path", text)(entry)


def balancing(entry: Entry) -> Answer:
    if str(entry.beside("balancing_strategy") or "REPEATS").upper() != "REPEATS":
        return Answer("no counterpart", {}, "Pictures are repeated here, not drawn as samples.")
    value = or_nothing(number, entry.value)
    if value is None:
        return Answer("no counterpart", {}, "This is no number.")
    answer = further(entry) or Answer("taken", {"dataset.repeats": max(1, round(value))})
    if (value == int(value) and value >= 1) or not answer.settings:
        return answer
    return replace(answer, verdict="approximated", reason="Whole repeats, and one at least.")


def weight(entry: Entry) -> Answer:
    return further(entry) or only("Pictures of the first folder have the weight 1 here.", 1, 1.0)(entry)


def prior_folder(entry: Entry) -> Answer:
    """Its type PRIOR_PREDICTION."""
    if is_off(entry.value):
        return EMPTY
    if places(entry.all, "PRIOR_PREDICTION")[0].path != str(entry.value).strip():
        return Answer("no counterpart", {}, "There is one folder of class pictures here, and another one was taken.")
    why = "Its pictures are learnt as they are here, there as the untrained model sees them."
    return Answer("approximated", {"prior.folder": str(entry.value).strip()}, why)


def tag_dropout(entry: Entry) -> Answer:
    if not flag(entry.beside("tag_dropout_enable")) or is_off(entry.value):
        return OFF
    if str(entry.beside("tag_dropout_mode") or "FULL").upper() != "RANDOM":
        return Answer("no counterpart", {}, "Each tag is left out by itself here, as in the mode RANDOM, all with the same probability.")
    answer = take("dataset.tag_dropout", number)(entry)
    if answer.settings and str(entry.beside("tag_dropout_special_tags_mode") or "NONE").upper() != "NONE":
        return replace(answer, verdict="approximated", reason="For all tags but those in front here.")
    return answer


def kept_tags(entry: Entry) -> Answer:
    if not flag(entry.beside("enable_tag_shuffling")) and not flag(entry.beside("tag_dropout_enable")):
        return Answer("ignored", {}, scripts.NOT_VARIED)
    return take("dataset.keep_tokens", or_zero)(entry)


def unless(other: str, value: str, rule: Rule, reason: str) -> Rule:
    return lambda entry: rule(entry) if str(entry.beside(other)) == value else Answer("ignored", {}, reason)


def resolution(entry: Entry) -> Answer:
    sizes = str(entry.value or "").split(",")
    answer = scripts.resolution(Entry(entry.key, sizes[0], entry.all))
    if len(sizes) > 1 and answer.settings:
        return Answer("approximated", answer.settings, "There is one size here: the first.")
    return answer


def prompt(entry: Entry) -> Answer:
    if not flag(entry.beside("enabled")) and entry.beside("enabled") is not None:
        return Answer("ignored", {}, "This preview is switched off.")
    found = [value for key, value in entry.all.items() if key.startswith("samples[") and key.endswith("].prompt")]
    prompts = [one for one in found if isinstance(one, str) and one.strip()]
    return Answer("taken", {"preview.prompts": prompts}) if prompts else EMPTY


def name_of(value: Any) -> str:
    return PurePosixPath(text(value).replace("\\", "/")).stem


CONCEPT: dict[str, Rule] = {
    "path": path,
    "balancing": balancing,
    "repeats": balancing,
    "balancing_strategy": passed("Says how balancing is meant."),
    "loss_weight": weight,
    "image.enable_random_flip": take("dataset.flip", flag),
    "image.enable_fixed_flip": lacks("Pictures are mirrored at random here, or not at all."),
    "image.resolution_override": unless("enable_resolution_override", "True", lacks("There is one size for all here."), "Off in the file."),
    "image.enable_crop_jitter": lacks("Pictures are cropped the same way each time here."),
    "text.prompt_source": only("Each picture has a caption of its own here.", "sample"),
    "text.prompt_path": lacks("Each picture has a caption of its own here."),
    "text.keep_tags_count": kept_tags,
    "text.enable_tag_shuffling": take("dataset.shuffle_tags", flag),
    "text.tag_delimiter": only("Tags stand between commas here.", ","),
    "text.tag_dropout_probability": tag_dropout,
    **every(
        "text.tag_dropout_enable text.tag_dropout_mode text.tag_dropout_special_tags text.tag_dropout_special_tags_mode "
        "text.tag_dropout_special_tags_regex",
        passed("Says how tag_dropout_probability is meant."),
    ),
    "text.caps_randomize_enable": lacks("Letters stay as they are here."),
    **every(
        "text.caps_randomize_mode text.caps_randomize_probability text.caps_randomize_lowercase",
        unless("caps_randomize_enable", "True", lacks("Letters stay as they are here."), "Off in the file."),
    ),
    "include_subdirectories": lacks("A dataset is one folder here."),
    **every("image_variations text_variations", only("There is one of each picture here.", 1)),
    **every(
        "name seed concept_stats enabled type uuid __version image.__version text.__version", passed("Belongs to that program's lists.")
    ),
}
OF_CLASS_PICTURES: dict[str, Rule] = {
    "path": prior_folder,
    "loss_weight": take("prior.weight", number),
    **every("name enabled type uuid __version image.__version text.__version", CONCEPT["name"]),
}
CONCEPTS: dict[str, Rule] = {name: concept(name, rule) for name, rule in CONCEPT.items()}

TABLE: dict[str, Rule] = {
    "training_method": lambda entry: Answer("taken", {"method": METHODS.get(method(entry.all), "lora")}),
    "model_type": model_type,
    "base_model_name": take_or_leave("model.path", text),
    "output_model_destination": take_or_leave("name", name_of),
    "peft_type": peft_type,
    "lora_rank": take("lora.rank", whole),
    "lora_alpha": take("lora.alpha", number),
    "dropout_probability": of_kind("LORA", take("lora.dropout", or_naught)),
    "lora_decompose": of_kind("LORA", decomposed),
    "lora_model_name": take_or_leave("lora.start_from", text),
    "lokr_decompose_factor": of_kind("LOKR", take("lora.factor", whole)),
    "lokr_decompose_both": of_kind("LOKR", take("lora.decompose_both", flag)),
    "lokr_use_tucker": of_kind("LOKR", take("lora.tucker", flag)),
    "lokr_full_matrix": of_kind("LOKR", take("lora.full_matrix", flag)),
    "lokr_weight_decompose": of_kind("LOKR", lacks("There is no DoRA of a LoKr here.")),
    "oft_block_size": of_kind("OFT", take("lora.block_size", whole)),
    "oft_block_share": of_kind("OFT", lacks("Every block is rotated by itself here.")),
    "oft_scaled": of_kind("OFT", lacks("Lengths are learnt by BOFT only here.")),
    "layer_filter_preset": layers,
    "vae.model_name": take_or_leave("model.vae", text),
    "force_v_prediction": predicts("v_prediction"),
    "force_epsilon_prediction": predicts("epsilon"),
    **every("layer_filter layer_filter_regex", passed("layer_filter_preset says it.")),
    "learning_rate": learning_rate,
    "unet.learning_rate": rate_of("unet", "optimizer.learning_rate"),
    "unet.train": trains_unet,
    "text_encoder.train": trains_text,
    "text_encoder.learning_rate": rate_of("text_encoder", "optimizer.text_encoder_learning_rate"),
    "text_encoder.dropout_probability": take("dataset.caption_dropout", or_naught),
    **every(
        "text_encoder.stop_training_after text_encoder.stop_training_after_unit unet.stop_training_after unet.stop_training_after_unit",
        lacks("What is trained is trained to the end here."),
    ),
    "text_encoder_layer_skip": clip_skip,
    "learning_rate_scaler": passed("What it does is in the rates already."),
    "learning_rate_scheduler": scheduler,
    "learning_rate_warmup_steps": warmup,
    "learning_rate_cycles": cycles,
    "learning_rate_min_factor": min_factor,
    "optimizer.optimizer": optimizer,
    **every([f"optimizer.{name}" for name in ARGUMENTS], argument),
    "optimizer.is_paged": passed("Changes the memory only."),
    **every(
        [f"optimizer.{name}" for name in OF_OTHER_OPTIMIZERS], passed("Belongs to other optimizers, or changes the speed at most.")
    ),
    "clip_grad_norm": take("optimizer.max_grad_norm", or_naught),
    "epochs": take("training.epochs", whole),
    "batch_size": take("training.batch_size", whole),
    "gradient_accumulation_steps": take("training.gradient_accumulation", whole),
    "unet.gradient_checkpointing": checkpointing,
    "gradient_checkpointing": checkpointing,
    "loss_weight_fn": loss_weight,
    "loss_weight_strength": loss_strength,
    "min_snr_gamma": scripts.min_snr_gamma,
    "offset_noise_weight": take("loss.noise_offset", or_naught),
    "generalized_offset_noise": lacks("The offset is the same at all timesteps here."),
    "perturbation_noise_weight": perturbation,
    "rescale_noise_scheduler_to_zero_terminal_snr": zero_terminal_snr,
    "resolution": resolution,
    "aspect_ratio_bucketing": take("dataset.buckets", flag),
    "unet.weight_dtype": of(base_precision, "LORA", "EMBEDDING"),
    "latent_caching": always("Always on here."),
    "train_dtype": precision,
    "output_dtype": choose("saving.precision", FORMATS_OF_NUMBERS, other=("float16", "There is no such number format here.")),
    "concept_file_name": elsewhere("onetrainer_concepts", "This file is not opened: give it as a second file."),
    **{f"concepts[].{name}": rule for name, rule in CONCEPTS.items()},
    "sample_definition_file_name": lacks("This file is not opened: copy its prompts into the preview prompts."),
    "samples[].prompt": prompt,
    "samples[].enabled": passed("Belongs to that program's lists."),
    "samples[].negative_prompt": take_or_leave("preview.negative_prompt", text),
    "samples[].width": take("preview.width", whole),
    "samples[].height": take("preview.height", whole),
    "samples[].seed": take("preview.seed", whole),
    "samples[].diffusion_steps": take("preview.steps", whole),
    "samples[].cfg_scale": take("preview.cfg_scale", number),
    "samples[].noise_scheduler": SAMPLERS,
    "sample_after": by_unit("preview.every_epochs", "preview.every_steps", "MINUTE"),
    "save_every": by_unit("saving.every_epochs", "saving.every_steps", "NEVER"),
    "backup_after": backup,
    "rolling_backup_count": kept_backups,
    "validate_after": validation,
    "validation": lacks("The share of the pictures that is held out says it here."),
    "ema": average,
    **every("ema_decay ema_update_step_interval", passed("What it says is in the line of ema.")),
    "masked_training": lambda entry: Answer("taken", {"loss.masked": "file"}) if flag(entry.value) else OFF,
    "unmasked_weight": of_masks(take("loss.unmasked_weight", or_naught)),
    "normalize_masked_area_loss": of_masks(take("loss.normalise_area", flag)),
    "unmasked_probability": of_masks(lacks("Masks are always used here.")),
    "masked_prior_preservation_weight": of_masks(lacks("What is outside the mask is not compared with the untrained model here.")),
    **every("mse_strength vb_loss_strength", only("The loss has strength 1 here; the learning rate says how much is learnt.", 1, 1.0)),
    "mae_strength": other_loss("l1", "mse huber log_cosh"),
    "huber_strength": huber,
    "huber_delta": huber_delta,
    **every("min_noising_strength max_noising_strength", timesteps),
    "timestep_distribution": distribution,
    **every("noising_weight noising_bias", passed("Says how timestep_distribution is meant.")),
    "timestep_shift": only("Timesteps are not shifted here.", 1, 1.0),
    **every("sample_after_unit save_every_unit backup_after_unit validate_after_unit", passed("Says how the number is meant.")),
    **every(
        "custom_learning_rate_scheduler scheduler_params "
        "lora_decompose_norm_epsilon lora_decompose_output_axis",
        passed("Belongs to something that is off, or not there here."),
    ),
    **every("rolling_backup backup_before_save continue_last_backup", passed(scripts.RESUMED)),
    **every(
        "text_encoder.weight_dtype vae.weight_dtype vae.include vae.train vae.train_embedding vae.guidance_scale "
        "vae.gradient_checkpointing vae.offload_fraction vae.activation_offloading "
        "lora_weight_dtype fallback_train_dtype weight_dtype unet.include unet.train_embedding "
        "unet.guidance_scale text_encoder.include text_encoder.train_embedding text_encoder.guidance_scale "
        "text_encoder.offload_fraction text_encoder.activation_offloading text_encoder.gradient_checkpointing "
        "train_device temp_device enable_autocast_cache dataloader_threads "
        "attention_mechanism async_offloading compile multi_gpu device_indexes gradient_reduce_precision fused_gradient_reduce "
        "async_gradient_reduce async_gradient_reduce_buffer only_cache clear_cache_before_training offline_mode "
        "unet.offload_fraction unet.activation_offloading frames loss_scaler",
        passed(scripts.SPEED),
    ),
    **every(
        "workspace_dir cache_dir debug_mode debug_dir huggingface_cache_dir tensorboard tensorboard_expose tensorboard_always_on "
        "tensorboard_port samples_to_tensorboard save_filename_prefix save_skip_first sample_skip_first sample_image_format "
        "sample_video_format sample_audio_format include_train_config prevent_overwrites output_model_format non_ema_sampling __version",
        passed("Where and how that program keeps things."),
    ),
    # Groups of other models and of other things: a line each.
    **every(
        "prior transformer unconditional_transformer text_encoder_3 text_encoder_4 text_encoder_3_layer_skip text_encoder_4_layer_skip "
        "effnet_encoder decoder decoder_text_encoder decoder_vqgan quantization text_encoder_sequence_length "
        "text_encoder_2_sequence_length",
        passed(scripts.OTHER_MODELS),
    ),
    **every("text_encoder_2 text_encoder_2_layer_skip", passed("Stable Diffusion XL's; the text encoders share their settings here.")),
    **every(
        "embedding.uuid embedding.train embedding.stop_training_after embedding.stop_training_after_unit embedding_weight_dtype "
        "bundle_additional_embeddings",
        passed("A word is trained to the end, in float32, where one is trained."),
    ),
    "embedding_learning_rate": of(embedding_rate, "EMBEDDING"),
    "preserve_embedding_norm": of(keep_norm, "EMBEDDING"),
    "embedding.placeholder": of(take_or_leave("textual_inversion.word", text), "EMBEDDING"),
    "embedding.token_count": of(vectors, "EMBEDDING"),
    "embedding.initial_embedding_text": of(take_or_leave("textual_inversion.initial_text", text), "EMBEDDING"),
    "embedding.model_name": of(lacks("A word begins with a text here, not with a file."), "EMBEDDING"),
    "embedding.is_output_embedding": of(lacks("A word is learnt as it goes into the text encoder here."), "EMBEDDING"),
    "additional_embeddings": lacks("One word is trained at a time here."),
    "embeddings": passed("Of an earlier version; embedding says it."),
    **every("lokr_dim lokr_dora_on_output lokr_vec_trick", passed("Belongs to another kind of LoRA.")),
    **every("cloud secrets", passed("Nothing is sent anywhere here.")),
    "optimizer_defaults": passed("What that program's form holds for other optimizers."),
}  # fmt: skip

OF_A_LORA = [name for name in TABLE if name.startswith(("lora_", "lokr_", "oft_"))] + ["peft_type", "dropout_probability"]
OF_PARTS = words("unet.learning_rate unet.train text_encoder.train text_encoder.learning_rate")
TABLE.update({key: of(TABLE[key], "LORA") for key in OF_A_LORA})
TABLE.update({key: of(TABLE[key], "LORA", "FINE_TUNE") for key in [*OF_PARTS, "layer_filter_preset"]})

DEFAULTS: dict[str, Any] = {
    "training_method": "FINE_TUNE",
    "learning_rate": 3e-6,
    "text_encoder.train": True,
    "optimizer.optimizer": "ADAMW",
    "learning_rate_scheduler": "CONSTANT",
    "learning_rate_warmup_steps": 200.0,
    "epochs": 100,
    "concepts[].balancing": 1.0,
    "batch_size": 1,
    "unet.gradient_checkpointing": True,
    "peft_type": "LORA",
    "lora_rank": 16,
    "lora_alpha": 1.0,
    "loss_weight_fn": "CONSTANT",
    "embedding.token_count": 1,
    "embedding.initial_embedding_text": "*",
    "train_dtype": "FLOAT_16",
    "sample_after": 10,
    "save_every": 0,
}

ENTRY = Format("onetrainer", "OneTrainer", recognises, TABLE, DEFAULTS, plain, refuses=refuses)
