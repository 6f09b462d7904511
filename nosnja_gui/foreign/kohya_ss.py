"""Settings of kohya_ss's tabs for training: the JSON that they save, its presets, or the same as TOML.

Names, units and defaults are those of bmaltais/kohya_ss: `kohya_gui/lora_gui.py` (what the window hands to sd-scripts, and
`resolve_network_train_flags`: a rate of 0 leaves that part alone), `kohya_gui/dreambooth_gui.py`, `finetune_gui.py` and
`textual_inversion_gui.py` (what the other tabs save, and which rate is for SDXL), `kohya_gui/class_basic_training.py` (the fields
and their defaults) and `kohya_gui/common_gui.py` (`resolve_lr_warmup_steps`: percent, unless steps are given). What it hands on
unchanged means what sd-scripts means by it, so only the differences stand here.
"""

from __future__ import annotations

from typing import Any

from nosnja_gui.foreign import (
    EMPTY,
    OFF,
    Answer,
    Entry,
    Format,
    Rule,
    Values,
    choose,
    every,
    flag,
    is_off,
    lacks,
    networks,
    number,
    or_nothing,
    passed,
    take_or_leave,
    text,
    whole,
)  # fmt: skip
from nosnja_gui.foreign import sd_scripts as scripts

STANDARD = "Standard"
"""What it calls a plain LoRA."""
KINDS = {
    STANDARD: ("networks.lora", ""), "Kohya LoCon": ("networks.lora", ""), "Kohya LoHa": ("networks.loha", ""),
    "Kohya LoKr": ("networks.lokr", ""), "LoCon": (networks.LYCORIS, "lora"), "LyCORIS/LoCon": (networks.LYCORIS, "lora"),
    "LyCORIS/LoHa": (networks.LYCORIS, "loha"), "LyCORIS/LoKr": (networks.LYCORIS, "lokr"),
    "LyCORIS/Diag-OFT": (networks.LYCORIS, "diag-oft"), "LyCORIS/BOFT": (networks.LYCORIS, "boft"),
}  # fmt: skip
"""Its kinds of LoRA (kohya_gui/lora_gui.py) -> sd-scripts' module and LyCORIS' algorithm."""
OF_KINDS = (
    "LyCORIS_preset conv_dim conv_alpha factor use_cp use_tucker dora_wd decompose_both constrain rescaled rank_dropout module_dropout "
    "block_dims loraplus_lr_ratio loraplus_unet_lr_ratio"
)
"""What is handed on as arguments of the network."""
OF_OTHER_KINDS = (
    "conv_block_dims conv_block_alphas block_alphas conv_dims conv_alphas unit use_scalar bypass_mode train_on_input train_norm "
    "rank_dropout_scale loraplus_text_encoder_lr_ratio"
)
OF_FINE_TUNING = frozenset(("image_folder", "train_text_encoder", "dataset_repeats"))
"""Words of the finetuning tab alone."""
STEPS_IF_NOBODY_SAYS = 1600
"""Of sd-scripts, where the window can't count the pictures itself."""


def understood(values: Values) -> Values:
    """As the window hands them to the scripts."""
    given = dict(values)

    def amount(name: str) -> float | None:
        return or_nothing(number, given.get(name)) or None

    kind = str(given.get("LoRA_type") or STANDARD)
    handed = {"preset": given.get("LyCORIS_preset"), "algo": KINDS.get(kind, ("", ""))[1]}
    if kind != STANDARD:
        handed["conv_dim"] = given.get("conv_dim")
    unet, text_encoder = amount("unet_lr"), amount("text_encoder_lr")
    steps, epochs = amount("max_train_steps"), amount("max_train_epochs")
    if not steps and not epochs:
        steps, epochs = (STEPS_IF_NOBODY_SAYS, None) if given.get("dataset_config") else (None, amount("epoch"))
    percent, warmup_steps = amount("lr_warmup"), amount("lr_warmup_steps")
    values.update(
        unet_lr=unet,
        text_encoder_lr=text_encoder,
        network_train_unet_only=bool(unet and not text_encoder),
        network_train_text_encoder_only=bool(text_encoder and not unet),
        optimizer_type=given.get("optimizer"),
        max_train_steps=steps,
        max_train_epochs=epochs,
        lr_warmup_steps=int(warmup_steps) if warmup_steps else percent / 100 if percent else 0,
        lr_scheduler_num_cycles=amount("lr_scheduler_num_cycles") or amount("epoch"),
        network_module=KINDS.get(kind, (kind, ""))[0],
        network_args=[f"{name}={value}" for name, value in handed.items() if value not in (None, "")],
        method=method(values),
    )
    values["text_encoder_rate"] = text_encoder_rate(values)
    return values


def method(values: Values) -> str:
    """Ours, by the tab: each has fields that the others lack."""
    if {"LoRA_type", "network_dim"} & values.given:
        return "lora"
    return "textual_inversion" if {"num_vectors_per_token", "token_string"} & values.given else "dreambooth"


def is_sdxl(values: Values) -> bool:
    return flag(values["sdxl"]) or flag(values["sdxl_checkbox"])


def text_encoder_rate(values: Values) -> float | None:
    """Of a whole model, None where it is not trained: each tab says it in another way."""
    names = "learning_rate_te1 learning_rate_te2" if is_sdxl(values) else "learning_rate_te"
    if OF_FINE_TUNING & values.given:
        trained = flag(values["train_text_encoder"])
    elif is_sdxl(values):
        trained = any(or_nothing(number, values[name]) for name in names.split())
    else:
        trained = not scripts.never_trained(values)
    return scripts.rate_of_text_encoders(values, trained, names)


def of_family(sdxl: bool, rule: Rule) -> Rule:
    """One of the rates of text encoders, of which those of other models are in the file, too."""

    def judged(entry: Entry) -> Answer:
        if sdxl != is_sdxl(entry.all):
            return Answer("ignored", {}, scripts.OTHER_MODELS)
        return rule(entry)

    return judged


def lora_type(entry: Entry) -> Answer:
    return scripts.network(entry).answer()


def of_kinds(entry: Entry) -> Answer:
    if entry.key in ("conv_dim", "conv_alpha") and str(entry.all["LoRA_type"] or STANDARD) == STANDARD:
        return Answer("ignored", {}, "Does nothing with this kind of LoRA.")
    return networks.argument({"LyCORIS_preset": "preset"}.get(entry.key, entry.key), entry.value, scripts.network(entry))


def of_other_kinds(entry: Entry) -> Answer:
    if is_off(entry.value) or str(entry.all["LoRA_type"] or STANDARD) == STANDARD:
        return Answer("ignored", {}, "Does nothing with this kind of LoRA.")
    return Answer("no counterpart", {}, "There is no such setting here.")


def text_encoder_lr(entry: Entry) -> Answer:
    if entry.all["text_encoder_lr"] is None and not entry.all["network_train_unet_only"]:
        return Answer("ignored", {}, "0 for both parts, so learning_rate holds.")
    return scripts.text_encoder_lr(entry)


def epoch(entry: Entry) -> Answer:
    if or_nothing(whole, entry.value) != entry.all["max_train_epochs"]:
        return Answer("ignored", {}, "max_train_steps or max_train_epochs hold instead.")
    return scripts.lasting(entry.value, None, scripts.repeats_are_elsewhere(entry))


def max_train_steps(entry: Entry) -> Answer:
    return Answer("ignored", {}, "0, so the epochs hold.") if is_off(entry.value) else scripts.max_train_steps(entry)


def warmup_percent(entry: Entry) -> Answer:
    if not is_off(entry.all["lr_warmup_steps"]) and isinstance(entry.all["lr_warmup_steps"], int):
        return Answer("ignored", {}, "lr_warmup_steps holds instead.")
    return scripts.lr_warmup_steps(entry)


def warmup_steps(entry: Entry) -> Answer:
    return Answer("ignored", {}, "0, so lr_warmup holds.") if is_off(entry.value) else scripts.lr_warmup_steps(entry)


def restarts(entry: Entry) -> Answer:
    return scripts.TABLE["lr_scheduler_num_cycles"](Entry(entry.key, entry.all["lr_scheduler_num_cycles"], entry.all))


def sample_prompts(entry: Entry) -> Answer:
    settings = scripts.prompt_lines(entry.value)
    reason = "Sizes, steps and the like are the first prompt's." if len(settings) > 1 else ""
    return Answer("taken", settings, reason) if settings else EMPTY


def noise(kind: str) -> Rule:
    """The scripts' rule for one of the two kinds of noise that its switch chooses from."""

    def rule(entry: Entry) -> Answer:
        if is_off(entry.value) or str(entry.all["noise_offset_type"] or "Original") != kind:
            return OFF
        return scripts.TABLE[entry.key](entry)

    return rule


def learning_rate(entry: Entry) -> Answer:
    if entry.all["method"] == "dreambooth" and "learning_rate" not in entry.all.given:
        return scripts.learning_rate(Entry(entry.key, OF_A_WHOLE_MODEL, entry.all))
    return scripts.learning_rate(entry)


def weights(entry: Entry) -> Answer:
    if entry.all["method"] == "textual_inversion":
        return lacks("A word begins with a text here, not with a file.")(entry)
    return scripts.TABLE["network_weights"](entry)


def stop_text_encoder_training(entry: Entry) -> Answer:
    """Of the LoRA tab not even that program makes anything."""
    if entry.all["method"] != "dreambooth":
        return Answer("ignored", {}, "That program does not use it either.")
    return scripts.stop_text_encoder(entry)


OF_A_WHOLE_MODEL = 1e-5
"""The learning rate of its other tabs."""
TEMPLATES = choose("textual_inversion.templates", {"caption": "captions", "object template": "object", "style template": "style"})

TABLE: dict[str, Rule] = {
    **{key: rule for key, rule in scripts.TABLE.items() if key not in ("optimizer_type", "resolution", "network_module", "network_args")},
    "LoRA_type": lora_type,
    "lora_network_weights": scripts.TABLE["network_weights"],
    "optimizer": scripts.optimizer_type,
    "max_resolution": scripts.resolution,
    "text_encoder_lr": text_encoder_lr,
    "epoch": epoch,
    "max_train_steps": max_train_steps,
    "lr_warmup": warmup_percent,
    "lr_warmup_steps": warmup_steps,
    "lr_scheduler_num_cycles": restarts,
    "sample_prompts": sample_prompts,
    "stop_text_encoder_training": stop_text_encoder_training,
    "stop_text_encoder_training_pct": passed("That program does not use it either."),
    "learning_rate": learning_rate,
    "learning_rate_te": of_family(False, scripts.TABLE["learning_rate_te"]),
    "learning_rate_te1": of_family(True, scripts.TABLE["learning_rate_te1"]),
    "learning_rate_te2": of_family(True, scripts.TABLE["learning_rate_te2"]),
    "template": scripts.of_method(TEMPLATES, "textual_inversion"),
    "image_folder": take_or_leave("dataset.path", text),
    "caption_metadata_filename": passed("Metadata files beside the pictures are found by themselves."),
    **every(
        "train_dir latent_metadata_filename full_path create_caption create_buckets use_latent_files",
        passed("Belongs to that program's window."),
    ),
    "batch_size": passed("train_batch_size says it."),
    "sdxl_checkbox": passed(scripts.OF_THE_MODEL),
    "noise_offset": noise("Original"),
    "noise_offset_random_strength": noise("Original"),
    "adaptive_noise_scale": noise("Original"),
    "multires_noise_iterations": noise("Multires"),
    "multires_noise_discount": noise("Multires"),
    "noise_offset_type": passed("Says which kind of noise is meant."),
    "additional_parameters": lacks("Words for the scripts' command line are not read."),
    **every(OF_KINDS, of_kinds),
    **every(OF_OTHER_KINDS, of_other_kinds),
    **every("model_list use_wandb save_as_bool headless", passed("Belongs to that program's window.")),
    "weights": weights,
    **every(
        "flux1_checkbox sd3_checkbox hunyuan_image_checkbox lumina_checkbox anima_checkbox",
        lacks("Stable Diffusion is trained here; the other settings were taken all the same."),
    ),
    **every(
        "flux1_t5xxl flux1_clip_l t5xxl_dtype t5xxl_device sd3_text_encoder_batch_size train_blocks t5xxl_lr ggpo_beta ggpo_sigma",
        passed(scripts.OTHER_MODELS),
    ),
}

OF_A_LORA = ("LoRA_type", "lora_network_weights", "text_encoder_lr", *OF_KINDS.split(), *OF_OTHER_KINDS.split())
TABLE.update({key: scripts.of_method(TABLE[key], "lora") for key in OF_A_LORA})

DEFAULTS: dict[str, Any] = {
    "LoRA_type": STANDARD,
    "network_dim": 8,
    "network_alpha": 1,
    "learning_rate": 1e-4,
    "unet_lr": 1e-4,
    "text_encoder_lr": 1e-4,
    "optimizer": "AdamW8bit",
    "lr_scheduler": "cosine",
    "lr_warmup": 10,
    "epoch": 1,
    "train_batch_size": 1,
    "min_snr_gamma": 0,
    "keep_tokens": 0,
    "max_token_length": 75,
}

ENTRY = Format("kohya_ss", "kohya_ss", scripts.is_of_the_window, TABLE, DEFAULTS, scripts.plain, understood)
