"""sd-scripts' settings of a dataset (`--dataset_config`): a TOML of [general], [[datasets]] and [[datasets.subsets]].

Names, meanings and defaults are those of kohya-ss/sd-scripts: `library/config_util.py` and `docs/config_README-en.md` (what a
subset says goes before what its dataset says, and that before [general]; folders' names say nothing). kohya_ss takes it, too.
"""

from __future__ import annotations

from typing import Any

from nosnja_gui.foreign import Answer, Format, Rule, Values, every, flag, lacks, passed, take, take_or_leave, text, whole, words
from nosnja_gui.foreign import sd_scripts as scripts

REGULARISATION = "There are no regularisation pictures here."


def recognises(content: Any) -> bool:
    datasets = content.get("datasets") if isinstance(content, dict) else None
    return isinstance(datasets, list) and bool(datasets) and all(isinstance(one, dict) for one in datasets)


def plain(key: str) -> str:
    """The place stays, for neighbours; `[general]` goes."""
    return key.removeprefix("general.")


def understood(values: Values) -> Values:
    """What switches another setting on or off, wherever it is said."""
    for name in ("shuffle_caption", "enable_bucket"):
        values[name] = any(flag(value) for key, value in values.items() if key.rpartition(".")[2] == name)
    return values


def of_pictures(rule: Rule) -> Rule:
    """What is said of pictures that are trained on; regularisation pictures are not."""
    return lambda entry: Answer("no counterpart", {}, REGULARISATION) if flag(entry.beside("is_reg")) else rule(entry)


AS_ON_THE_COMMAND_LINE = words(
    "resolution enable_bucket bucket_reso_steps bucket_no_upscale min_bucket_reso max_bucket_reso flip_aug shuffle_caption keep_tokens "
    "keep_tokens_separator secondary_separator caption_separator caption_prefix caption_suffix caption_extension caption_dropout_rate "
    "validation_split cache_info resize_interpolation alpha_mask conditioning_data_dir"
)
BY_NAME: dict[str, Rule] = {
    **{name: scripts.TABLE[name] for name in AS_ON_THE_COMMAND_LINE},
    "batch_size": take("training.batch_size", whole),
    "num_repeats": take("dataset.repeats", whole),
    "image_dir": take_or_leave("dataset.path", text),
    "metadata_file": passed("Metadata files beside the pictures are found by themselves."),
    "class_tokens": lacks("Every picture has a caption of its own here; the tab of the trigger word writes it into all."),
    "is_reg": lacks(REGULARISATION),
    "validation_seed": passed("The training's seed says which pictures are held out."),
}
PLACES = ("", "datasets[].", "datasets[].subsets[].")
TABLE: dict[str, Rule] = {f"{place}{name}": of_pictures(rule) for place in PLACES for name, rule in BY_NAME.items()}
TABLE.update(every([f"{place}cache_latents" for place in PLACES], scripts.TABLE["cache_latents"]))

DEFAULTS: dict[str, Any] = {"num_repeats": 1, "enable_bucket": False, "batch_size": 1}


ENTRY = Format("kohya_dataset", "sd-scripts' dataset settings", recognises, TABLE, DEFAULTS, plain, understood)
