"""sd-scripts' settings (`--config_file`) for a LoRA, a whole model or a new word, a TOML with or without sections.

Names, meanings and defaults are those of kohya-ss/sd-scripts: `library/train_util.py` (`add_*_arguments`, `read_config_from_file`,
`get_scheduler_fix`, `sample_images_common`, `line_to_prompt_dict`, `process_caption`), `library/custom_train_functions.py`,
`train_network.py` and `networks/lora.py` (rank 4 and alpha 1 where none is said, alpha 0 = rank, a rate that is missing is
`learning_rate`), `train_db.py`, `fine_tune.py` and `sdxl_train.py` (whole models), `train_textual_inversion.py`. How the schedules
of transformers (`optimization.py`) and diffusers (`optimization.py`: get_piecewise_constant_schedule) fall is theirs.
No file says for which script it is; the scripts' own words tell it, and where there are none it is a LoRA's.
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

WORDS_OF_A_LORA = frozenset(
    words("network_module network_dim network_args network_alpha network_weights network_train_unet_only unet_lr text_encoder_lr")
)
WORDS_OF_A_WORD = frozenset(words("token_string num_vectors_per_token init_word use_object_template use_style_template"))
WORDS_OF_FINE_TUNING = frozenset(words("train_text_encoder learning_rate_te1 learning_rate_te2 block_lr diffusers_xformers"))
"""Of scripts that train the text encoder only where they are told to; train_db.py trains it unless it is told not to."""
WORDS_OF_A_WHOLE_MODEL = WORDS_OF_FINE_TUNING | frozenset(words("learning_rate_te stop_text_encoder_training no_token_padding"))

RESUMED = "States to go on from are always kept here."
ONE_FOLDER = "Repeats stand in names of folders there (10_name): say them as dataset.repeats here."
ONE_FACTOR = "An optimizer that finds its own rate has one factor for all parts: that of the UNet is taken."
PARTS_HOLD = "The rates of the parts hold instead."
SHAPES = "Sides follow from the area and the step here, up to 2:1."
NOT_VARIED = "Does nothing unless tags are shuffled or left out."
AS_THEY_ARE = "Class pictures are shown beside the others here, one for each of them, as they are."
CAPTIONS_OF_THE_CLASS = "Class pictures need captions beside them here; the names of folders (1_dress) are none."
OTHER_METHOD = "Belongs to another kind of training."
SPEED = "Changes the speed or the memory at most."
OF_THE_MODEL = "The kind of model is seen from the model itself."
OTHER_MODELS = "Belongs to another kind of model."
RECORDS = "Where records are kept; every run has a folder of its own here."
METADATA = "The file's metadata is written by the program here."
UPLOADS = "Nothing is sent anywhere here."


# What is trained


def method(values: Values) -> str:
    """Ours, by the words in the file."""
    if values.given & WORDS_OF_A_WORD:
        return "textual_inversion"
    return "dreambooth" if values.given & WORDS_OF_A_WHOLE_MODEL and not values.given & WORDS_OF_A_LORA else "lora"


def of_method(rule: Rule, *methods: str) -> Rule:
    """What counts in some kinds of training only; a file of which nothing is known is a LoRA's."""
    return lambda entry: rule(entry) if (entry.all["method"] or "lora") in methods else Answer("ignored", {}, OTHER_METHOD)


def rate_of_text_encoders(values: Values, trained: bool, names: str) -> float | None:
    """Those of a whole model have one rate: the first that is not 0, the common one where there is none. None: not trained."""
    common = or_nothing(number, values["learning_rate"])
    given = [rate for name in words(names) if (rate := or_nothing(number, values[name])) is not None]
    rate = next(filter(None, given), 0.0) if given else common
    if not trained or not rate or not 0 < rate <= 1:
        return None
    return common if optimizer(values).chosen.finds_rate else rate


def whole_or_word(entry: Entry) -> Answer:
    """The rate of a whole model or of a new word; it also says which of them is trained, as nothing else is in every file."""
    settings: dict[str, Any] = {"method": entry.all["method"]}
    rate = or_nothing(number, entry.value)
    if rate is None or not 0 < rate <= 1:
        return Answer("approximated", settings, "The learning rate is no number above 0 and up to 1.")
    settings["optimizer.learning_rate"] = rate
    if settings["method"] == "dreambooth":
        settings["optimizer.text_encoder_learning_rate"] = entry.all["text_encoder_rate"]
    return Answer("taken", settings, "A whole model is trained." if settings["method"] == "dreambooth" else "A new word is trained.")


def train_text_encoder(entry: Entry) -> Answer:
    return Answer("taken", {"method": "dreambooth", "optimizer.text_encoder_learning_rate": entry.all["text_encoder_rate"]})


def rate_of_the_text_encoder(entry: Entry) -> Answer:
    rate, own = entry.all["text_encoder_rate"], or_nothing(number, entry.value)
    settings = {"method": "dreambooth", "optimizer.text_encoder_learning_rate": rate}
    if own is None:
        return Answer("taken", settings, "Empty, so the common rate holds.")
    if rate is None:
        return Answer("taken", settings, "It is not trained, whatever its rate." if own else "")
    if own == rate:
        return Answer("taken", settings)
    finds = optimizer(entry.all).chosen.finds_rate
    return Answer("approximated", settings, ONE_FACTOR if finds else "There is one rate for all text encoders here.")


def never_trained(values: Values) -> bool:
    """train_db.py's way to say that the text encoder is left alone."""
    return or_nothing(number, values["stop_text_encoder_training"]) == -1


def stop_text_encoder(entry: Entry) -> Answer:
    if never_trained(entry.all):
        return Answer("taken", {"optimizer.text_encoder_learning_rate": entry.all["text_encoder_rate"]}, "It is not trained at all.")
    return lacks("What is trained is trained to the end here.")(entry)


def token_string(entry: Entry) -> Answer:
    answer = take_or_leave("textual_inversion.word", text)(entry)
    if not answer.settings or entry.all["num_vectors_per_token"] is not None:
        return answer
    return Answer("taken", {**answer.settings, "textual_inversion.vectors": 1}, "One vector, as the file says nothing else.")


def template(kind: str) -> Rule:
    return lambda entry: Answer("taken", {"textual_inversion.templates": kind}) if flag(entry.value) else OFF


def precision(entry: Entry) -> Answer:
    answer = PRECISIONS(entry)
    if entry.all["method"] != "dreambooth" or answer.settings.get("model.precision") != "float16":
        return answer
    return Answer("approximated", {"model.precision": "auto"}, "Trained weights stay float32; the program chooses what it computes in.")


def fp8(entry: Entry) -> Answer:
    return Answer("taken", {"memory.base_precision": "fp8"}) if flag(entry.value) else OFF


# Rates and optimisers


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
    if optimizer(values).chosen.finds_rate and text_encoder and text_encoder != unet:
        return unet, unet, ONE_FACTOR
    return unet, text_encoder, ""


def learning_rate(entry: Entry) -> Answer:
    if entry.all["method"] in ("dreambooth", "textual_inversion"):
        return whole_or_word(entry)
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


def optimizer(values: Values) -> optimizers.Wanted:
    return optimizers.wanted(str(values["optimizer_type"] or "AdamW"))


def optimizer_type(entry: Entry) -> Answer:
    given = optimizers.spread(arguments(entry.all["optimizer_args"]))
    return optimizers.wanted(str(entry.value or "AdamW")).answer(given)


def old_switch(name: str) -> Rule:
    """A switch of earlier versions for one optimiser."""
    return lambda entry: optimizer_type(Entry(entry.key, name, entry.all)) if flag(entry.value) else OFF


def arguments(value: Any) -> dict[str, str]:
    """`name=value` words, as a list or in one string. Those that are none have an empty value."""
    words = value if isinstance(value, list) else str(value or "").replace('"', "").split()
    return {name.strip(): own.strip().strip("\"'") for name, _, own in (str(word).strip('"').partition("=") for word in words)}


def optimizer_args(entry: Entry) -> Answer:
    given = arguments(entry.value)
    if not given:
        return EMPTY
    chosen = optimizer(entry.all)
    steps = or_nothing(number, given.pop("warmup_steps", None)) if chosen.chosen.averages else None
    answer = optimizers.all_arguments(given, chosen) if given else EMPTY
    if steps is None:
        return answer
    rising = warmup(steps, False, total_steps(entry.all))
    verdict = "approximated" if "approximated" in (answer.verdict, rising.verdict) else "taken"
    return Answer(verdict, {**answer.settings, **rising.settings}, " ".join(filter(None, (answer.reason if given else "", rising.reason))))


# Schedules and length


SCHEDULES: Rule = choose(
    "schedule.name",
    {
        "constant": "constant", "constant_with_warmup": "constant", "linear": "linear", "cosine": "cosine",
        "cosine_with_restarts": "cosine_with_restarts", "polynomial": "polynomial", "": "constant",
        "cosine_with_min_lr": "cosine", "inverse_sqrt": "inverse_sqrt",
    },
    other=("constant", "There is no such schedule here; constant is taken."),
)  # fmt: skip
FALLS = {"linear": "linear", "1-sqrt": "sqrt"}
"""Of transformers' warmup_stable_decay, whose own is a cosine."""


def total_steps(values: Values) -> float | None:
    """None where epochs say it, as nobody knows how many steps they have."""
    return None if not is_off(values["max_train_epochs"]) else or_nothing(number, values["max_train_steps"])


def without_schedule(values: Values) -> str:
    """Why the file's schedule does nothing there; empty where it does."""
    chosen = optimizer(values)
    if chosen.chosen.averages:
        return "That optimizer has no schedule."
    own = arguments(values["optimizer_args"]).get("relative_step")
    return "Adafactor sets its rate by itself." if chosen.name == "adafactor" and (own is None or flag(own)) else ""


def lr_scheduler(entry: Entry) -> Answer:
    if not is_off(entry.all["lr_scheduler_type"]):
        return Answer("ignored", {}, "lr_scheduler_type holds instead.")
    if why := without_schedule(entry.all):
        return Answer("taken", {"schedule.name": "constant"}, why)
    name, given = str(entry.value or "").strip().lower(), arguments(entry.all["lr_scheduler_args"])
    if name == "warmup_stable_decay":
        settings = {"schedule.name": "wsd", "schedule.decay": FALLS.get(given.get("decay_type", "cosine"), "linear")}
        if is_off(entry.all["lr_decay_steps"]):
            settings["schedule.decay_share"] = 0.0
        same = given.get("decay_type") in FALLS or "schedule.decay_share" in settings
        return Answer("taken" if same else "approximated", settings, "" if same else "It falls straight here, there along half a cosine.")
    if name == "piecewise_constant":
        return piecewise(given.get("step_rules", ""), total_steps(entry.all))
    return SCHEDULES(entry)


def piecewise(rules: str, total: float | None) -> Answer:
    """diffusers' rules, `1:10,0.1:20,0.01`: a factor until a step each, and one for the rest."""
    *steps, last = [rule.split(":") for rule in rules.split(",")]
    try:
        if not total:
            why = "It goes by shares of the training here, and how many steps there will be the file doesn't say: constant is taken."
            return Answer("approximated", {"schedule.name": "constant"}, why)
        ends = [0.0, *(number(end) for _, end in steps)]
        pieces = [(100 * start / total, number(rule[0])) for start, rule in zip(ends, [*steps, last], strict=True)]
    except ValueError:
        return Answer("approximated", {"schedule.name": "constant"}, "Its step_rules are not readable; constant is taken.")
    shown = ", ".join(f"{start:.6g}%: {share:g}" for start, share in pieces if start < 100 and (start, share) != (0, 1))
    return Answer("taken", {"schedule.name": "piecewise_constant", "schedule.pieces": shown or "0%: 1"})


def decay_steps(entry: Entry) -> Answer:
    if is_off(entry.value):
        return Answer("taken", {"schedule.decay_share": 0.0})
    value, total = or_nothing(number, entry.value), total_steps(entry.all)
    if isinstance(entry.value, float) and value is not None:
        return Answer("taken", {"schedule.decay_share": value})
    if value is None or not total:
        return Answer("no counterpart", {}, "It is a share of all steps here, and how many there will be the file doesn't say.")
    return Answer("taken", {"schedule.decay_share": round(min(value / total, 1.0), 4)}, f"{value:g} of {total:g} steps.")


def scheduler_args(entry: Entry) -> Answer:
    given, name = arguments(entry.value), str(entry.all["lr_scheduler"]).lower()
    known = {"warmup_stable_decay": "decay_type", "piecewise_constant": "step_rules"}.get(name)
    if lost := [argument for argument in given if argument != known]:
        return Answer("no counterpart", {}, f"There are no such settings here: {', '.join(lost)}.")
    return Answer("ignored", {}, "What it says is in the schedule already.") if given else EMPTY


def num_cycles(entry: Entry) -> Answer:
    once = with_schedule("cosine_with_min_lr warmup_stable_decay", only("The rate falls once here.", 1))
    restarts = with_schedule("cosine_with_restarts", take_or_leave("schedule.restarts", whole))
    return (restarts if str(entry.all["lr_scheduler"]).lower() == "cosine_with_restarts" else once)(entry)


def timescale(entry: Entry) -> Answer:
    if is_off(entry.value) or or_nothing(number, entry.value) == or_nothing(number, entry.all["lr_warmup_steps"]):
        return Answer("ignored", {}, "As it is here.")
    return Answer("no counterpart", {}, "The longer the warmup, the slower it falls here.")


def lr_scheduler_type(entry: Entry) -> Answer:
    name = str(entry.value or "").rpartition(".")[2].lower()
    if not name:
        return EMPTY
    own = "constant" if "constant" in name else "linear" if "linear" in name else "polynomial" if "polynomial" in name else "cosine"
    own = "cosine_with_restarts" if "restart" in name else "rex" if "rex" in name else own
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
    if optimizer(entry.all).chosen.averages and "warmup_steps" in arguments(entry.all["optimizer_args"]):
        return Answer("ignored", {}, "The warmup_steps of the optimizer hold instead.")
    if without_schedule(entry.all) or str(entry.all["lr_scheduler"]).lower() == "piecewise_constant":
        return Answer("taken", {"schedule.warmup_share": 0.0}, "There is no warmup in such a training.")
    steps = 0.0 if is_off(value) else or_nothing(number, value)
    if steps is None:
        return Answer("no counterpart", {}, "This is no number.")
    is_share = isinstance(value, float) or (isinstance(value, str) and not value.strip().isdigit())
    return warmup(steps, is_share, total_steps(entry.all))


def with_schedule(names: str, rule: Rule) -> Rule:
    """What counts with some schedules only."""
    return lambda entry: (
        rule(entry) if str(entry.all["lr_scheduler"]).lower() in words(names) else Answer("ignored", {}, "Does nothing with this schedule.")
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


def varies(entry: Entry) -> bool:
    """Whether captions are shown in another way each time; where another file may say it, they may be."""
    if entry.all.along & {"sd_scripts", "kohya_ss", "kohya_dataset"}:
        return True
    return flag(entry.all["shuffle_caption"]) or not (
        is_off(entry.all["caption_tag_dropout_rate"]) and is_off(entry.all["token_warmup_step"])
    )


def of_tags(rule: Rule) -> Rule:
    return lambda entry: rule(entry) if varies(entry) else Answer("ignored", {}, NOT_VARIED)


def tag_warmup(entry: Entry) -> Answer:
    """Below 1 a share of all steps, else steps."""
    value = or_nothing(or_naught, entry.value)
    if value is None or value < 0:
        return Answer("no counterpart", {}, "This is no number above 0.")
    if value < 1:
        return Answer("taken", {"dataset.tag_warmup": value})
    if not (total := total_steps(entry.all)):
        return Answer("no counterpart", {}, "It is a share of all steps here, and how many there will be the file doesn't say.")
    return Answer("taken", {"dataset.tag_warmup": round(min(1.0, value / total), 4)}, f"{value:g} of {total:g} steps.")


CAPTION_TOKENS = choose("dataset.caption_tokens", {"": 75, "0": 75, "none": 75, "75": 75, "150": 150, "225": 225})


def class_pictures(entry: Entry) -> Answer:
    answer = take_or_leave("prior.folder", text)(entry)
    return Answer("approximated", answer.settings, CAPTIONS_OF_THE_CLASS) if answer.settings else answer


def prior_weight(entry: Entry) -> Answer:
    if is_off(entry.all["reg_data_dir"]) and "kohya_dataset" not in entry.all.along:
        return Answer("ignored", {}, "No regularisation pictures.")
    return take("prior.weight", number)(entry)


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
    "mixed_precision": precision,
    **every("fp8_base fp8_base_unet", of_method(fp8, "lora", "textual_inversion")),
    **every("full_fp16 full_bf16", lacks("The weights that are trained stay in float32 here.")),
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
    "train_text_encoder": of_method(train_text_encoder, "dreambooth"),
    **every("learning_rate_te learning_rate_te1 learning_rate_te2", of_method(rate_of_the_text_encoder, "dreambooth")),
    "stop_text_encoder_training": of_method(stop_text_encoder, "dreambooth"),
    "block_lr": of_method(lacks("There is one rate for the whole UNet here."), "dreambooth"),
    "no_token_padding": lacks("Captions are always filled up to their full length here."),
    "token_string": of_method(token_string, "textual_inversion"),
    "num_vectors_per_token": of_method(take("textual_inversion.vectors", whole), "textual_inversion"),
    "init_word": of_method(take_or_leave("textual_inversion.initial_text", text), "textual_inversion"),
    "use_object_template": of_method(template("object"), "textual_inversion"),
    "use_style_template": of_method(template("style"), "textual_inversion"),
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
    "lr_scheduler_args": scheduler_args,
    "lr_decay_steps": with_schedule("warmup_stable_decay", decay_steps),
    "lr_scheduler_min_lr_ratio": with_schedule("cosine_with_min_lr warmup_stable_decay", take("schedule.end_share", or_naught)),
    "lr_scheduler_timescale": with_schedule("inverse_sqrt", timescale),
    "lr_scheduler_num_cycles": num_cycles,
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
    "prior_loss_weight": prior_weight,
    "reg_data_dir": class_pictures,
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
    "caption_dropout_every_n_epochs": lacks("Captions are left out by chance only here."),
    "shuffle_caption": take("dataset.shuffle_tags", flag),
    "keep_tokens": of_tags(take("dataset.keep_tokens", or_zero)),
    "caption_tag_dropout_rate": take("dataset.tag_dropout", or_naught),
    "token_warmup_step": tag_warmup,
    "token_warmup_min": if_on("token_warmup_step", only("One tag more than those in front is there from the start here.", 1), NOT_VARIED),
    "keep_tokens_separator": of_tags(lacks("Tags in front are counted here, not marked.")),
    "caption_separator": of_tags(only("Tags stand between commas here.", ",")),
    "secondary_separator": lacks("Tags stand between commas here."),
    "enable_wildcard": lacks("Captions are taken by the letter here."),
    "weighted_captions": take("dataset.weighted_captions", flag),
    **every("caption_prefix caption_suffix", lacks("Write it into the captions.")),
    "max_token_length": CAPTION_TOKENS,
    **every("cache_latents cache_latents_to_disk", always("Always on here.")),
    "validation_split": take("dataset.validation_share", or_naught),
    "validate_every_n_epochs": take_or_leave("validation.every_epochs", whole),
    # Files and previews.
    "save_precision": FILE_PRECISIONS,
    "save_every_n_epochs": take("saving.every_epochs", or_zero),
    "save_every_n_steps": take("saving.every_steps", or_zero),
    "save_model_as": passed("What is trained is always saved as safetensors here."),
    **every("save_last_n_epochs save_last_n_steps", lacks("All files are kept here.")),
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
OF_A_LORA = words(
    "network_module network_dim network_alpha network_dropout network_args network_train_unet_only network_train_text_encoder_only "
    "network_weights scale_weight_norms unet_lr text_encoder_lr"
)
TABLE.update({key: of_method(TABLE[key], "lora") for key in OF_A_LORA})

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
    "keep_tokens": 0,
    "max_token_length": None,
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
    values["method"] = method(values)
    told = flag(values["train_text_encoder"]) if values.given & WORDS_OF_FINE_TUNING else not never_trained(values)
    values["text_encoder_rate"] = rate_of_text_encoders(values, told, "learning_rate_te learning_rate_te1 learning_rate_te2")
    return values


ENTRY = Format("sd_scripts", "sd-scripts", recognises, TABLE, DEFAULTS, plain, understood)
