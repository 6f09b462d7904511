"""sd-scripts' settings of a dataset (`--dataset_config`): a TOML of [general], [[datasets]] and [[datasets.subsets]].

Names, meanings and defaults are those of kohya-ss/sd-scripts: `library/config_util.py` and `docs/config_README-en.md` (what a
subset says goes before what its dataset says, and that before [general]; folders' names say nothing). kohya_ss takes it, too.
The first folder of pictures is the dataset here, the others are further concepts, and one of class pictures is the prior's.
"""

from __future__ import annotations

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
    every,
    flag,
    folders,
    is_off,
    lacks,
    or_nothing,
    passed,
    take,
    text,
    whole,
    words,
)
from nosnja_gui.foreign import sd_scripts as scripts


def recognises(content: Any) -> bool:
    datasets = content.get("datasets") if isinstance(content, dict) else None
    return isinstance(datasets, list) and bool(datasets) and all(isinstance(one, dict) for one in datasets)


def plain(key: str) -> str:
    """The place stays, for neighbours; `[general]` goes."""
    return key.removeprefix("general.")


def understood(values: Values) -> Values:
    """What switches another setting on or off, wherever it is said."""
    for name in ("shuffle_caption", "enable_bucket", "caption_tag_dropout_rate", "token_warmup_step"):
        values[name] = any(not is_off(value) for key, value in values.items() if key.rpartition(".")[2] == name)
    return values


# Folders


def said(values: Values, place: str, name: str) -> tuple[str, Any]:
    """What holds in a subset: the key that says it, and the value."""
    above = (f"{place}.", f"{place.rpartition('.')[0]}.", "")
    return next(((key, values[key]) for beginning in above if values[key := f"{beginning}{name}"] is not None), ("", None))


def subsets(values: Values) -> list[folders.Folder]:
    """All that name a folder, in the file's order."""
    found = []
    for key, path in values.items():
        place, _, name = key.rpartition(".")
        if name == "image_dir" and isinstance(path, str) and path.strip():
            found.append(folders.Folder(place, path.strip(), or_nothing(whole, said(values, place, "num_repeats")[1]) or 1))
    return found


def of_class(values: Values, folder: folders.Folder) -> bool:
    return flag(values[f"{folder.place}.is_reg"])


def learnt(values: Values) -> list[folders.Folder]:
    """Folders of pictures, each once."""
    return folders.once([folder for folder in subsets(values) if not of_class(values, folder)])


def image_dir(entry: Entry) -> Answer:
    if is_off(entry.value):
        return EMPTY
    place, all_of_them = entry.key.rpartition(".")[0], subsets(entry.all)
    here = next((folder for folder in all_of_them if folder.place == place), None)
    if here is None:
        return take("dataset.path", text)(entry)
    if of_class(entry.all, here):
        first = next(folder for folder in all_of_them if of_class(entry.all, folder))
        if first.path != here.path:
            return Answer("no counterpart", {}, "There is one folder of class pictures here, and another one was taken.")
        return Answer("approximated", {"prior.folder": here.path}, scripts.CAPTIONS_OF_THE_CLASS)
    pictures = learnt(entry.all)
    if here not in pictures:
        return Answer("no counterpart", {}, folders.GIVEN_TWICE)
    if here == pictures[0]:
        return Answer("taken", {"dataset.path": here.path})
    if not here.writable:
        return Answer("no counterpart", {}, folders.UNWRITABLE)
    return Answer("taken", {"dataset.concepts": folders.lines(pictures)}, "A further concept.")


def num_repeats(entry: Entry) -> Answer:
    """For the folders that go by this one of several values."""
    answer = take("dataset.repeats", whole)(entry)
    if not answer.settings or not subsets(entry.all):
        return answer
    pictures = learnt(entry.all)
    by_this = [folder for folder in pictures if said(entry.all, folder.place, "num_repeats")[0] == entry.key]
    settings = dict(answer.settings) if pictures[:1] == by_this[:1] and by_this else {}
    if any(folder.writable for folder in by_this if folder != pictures[0]):
        settings["dataset.concepts"] = folders.lines(pictures)
    if settings:
        return Answer("taken", settings, "" if "dataset.repeats" in settings else "In the line of its folder.")
    if re.fullmatch(r"datasets\[\d+\]\.subsets\[\d+\]\.num_repeats", entry.key):
        return Answer("no counterpart", {}, folders.GIVEN_TWICE)
    return Answer("ignored", {}, "The subsets say otherwise.")


def is_reg(entry: Entry) -> Answer:
    if not flag(entry.value):
        return OFF
    return image_dir(Entry(f"{entry.key.rpartition('.')[0]}.image_dir", entry.beside("image_dir"), entry.all))


def of_pictures(rule: Rule) -> Rule:
    """What is said of pictures that are trained on, and not of class pictures."""

    def judged(entry: Entry) -> Answer:
        if not flag(entry.beside("is_reg")):
            return rule(entry)
        return OFF if is_off(entry.value) else Answer("no counterpart", {}, scripts.AS_THEY_ARE)

    return judged


AS_ON_THE_COMMAND_LINE = words(
    "resolution enable_bucket bucket_reso_steps bucket_no_upscale min_bucket_reso max_bucket_reso flip_aug shuffle_caption keep_tokens "
    "keep_tokens_separator secondary_separator caption_separator caption_prefix caption_suffix caption_extension caption_dropout_rate "
    "caption_dropout_every_n_epochs caption_tag_dropout_rate token_warmup_step token_warmup_min enable_wildcard "
    "validation_split cache_info resize_interpolation alpha_mask conditioning_data_dir"
)
BY_NAME: dict[str, Rule] = {
    **{name: scripts.TABLE[name] for name in AS_ON_THE_COMMAND_LINE},
    "batch_size": take("training.batch_size", whole),
    "num_repeats": num_repeats,
    "metadata_file": passed("Metadata files beside the pictures are found by themselves."),
    "class_tokens": lacks("Every picture has a caption of its own here; the tab of the trigger word writes it into all."),
    "validation_seed": passed("The training's seed says which pictures are held out."),
}
PLACES = ("", "datasets[].", "datasets[].subsets[].")
TABLE: dict[str, Rule] = {f"{place}{name}": of_pictures(rule) for place in PLACES for name, rule in BY_NAME.items()}
TABLE.update({f"{place}{name}": rule for place in PLACES for name, rule in (("image_dir", image_dir), ("is_reg", is_reg))})
TABLE.update(every([f"{place}cache_latents" for place in PLACES], scripts.TABLE["cache_latents"]))

DEFAULTS: dict[str, Any] = {"num_repeats": 1, "enable_bucket": False, "batch_size": 1, "keep_tokens": 0}


ENTRY = Format("kohya_dataset", "sd-scripts' dataset settings", recognises, TABLE, DEFAULTS, plain, understood)
