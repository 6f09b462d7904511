"""What other trainers ask for of a LoRA and its kin, in our settings; no format of its own.

Names and meanings are those of kohya-ss/sd-scripts (`networks/lora.py`: create_network, get_block_index, get_block_dims_and_alphas)
and of LyCORIS (`lycoris/kohya.py`: create_network; `lycoris/config.py`: its presets).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nosnja_gui.foreign import OFF, Answer, flag, is_off, number, or_naught, whole

ALGORITHMS = {"lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr", "diag-oft": "oft", "oft": "oft", "boft": "boft"}
MODULES = {"networks.lora": "lora", "networks.loha": "loha", "networks.lokr": "lokr", "networks.oft": "oft"}
PRESETS = {"full": "everything", "full-lin": "everything", "attn-mlp": "attention_ff", "attn-only": "attention"}
LYCORIS = "lycoris.kohya"
FULL_RANK = 1024
"""LyCORIS' users ask for whole factors by ranks like 100,000."""
BLOCKS = (
    "", *(f"down.{place // 3}.{place % 3}" for place in range(11)), "mid", *(f"up.{place // 3}.{place % 3}" for place in range(12))
)  # fmt: skip
"""sd-scripts' 25 blocks of SD 1.x and 2.x by our names; in the first there is no layer of a LoRA."""


@dataclass(frozen=True)
class Network:
    """What kind of LoRA a file asks for."""

    algorithm: str
    """Ours."""
    module: str
    """networks.lora, lycoris.kohya ..."""
    title: str
    """As people know it."""
    known: bool
    arguments: Mapping[str, Any]

    @property
    def layers(self) -> tuple[str, str]:
        """Our choice of layers, and a sentence where it is not quite theirs."""
        if self.module != LYCORIS:
            return ("everything" if not is_off(self.arguments.get("conv_dim")) else "attention_ff"), ""
        preset = str(self.arguments.get("preset") or "full").lower()
        if preset == "full":
            return "everything", "There also the layers at the UNet's two ends, which are left alone here."
        if preset in ("attn-mlp", "attn-only"):
            return PRESETS[preset], ""
        return PRESETS.get(preset, "everything"), f"There is no choice of layers like {preset} here."

    def answer(self) -> Answer:
        targets, why = self.layers
        settings = {"method": "lora", "lora.algorithm": self.algorithm, "lora.targets": targets}
        if not self.known:
            return Answer("approximated", {**settings, "lora.algorithm": "lora"}, f"A plain LoRA is taken: there is no {self.title} here.")
        return Answer("approximated" if why else "taken", settings, why)


def network(module: str, arguments: Mapping[str, Any]) -> Network:
    """By sd-scripts' network_module and its arguments."""
    algorithm = str(arguments.get("algo") or "lora").lower()
    if module == LYCORIS:
        return Network(ALGORITHMS.get(algorithm, "lora"), module, f"{module} {algorithm}", algorithm in ALGORITHMS, arguments)
    return Network(MODULES.get(module, "lora"), module, module, module in MODULES, arguments)


def rank(value: Any, of: Network) -> Answer:
    """What is a rank there; LyCORIS' rotations take it for the size of their blocks."""
    try:
        given = whole(value)
    except ValueError as why:
        return Answer("no counterpart", {}, str(why))
    if of.algorithm in ("oft", "boft"):
        return Answer("taken", {"lora.block_size": given}, "The size of the blocks.")
    if of.algorithm == "lokr" and given > FULL_RANK:
        return Answer("taken", {"lora.full_matrix": True}, "So high a rank leaves both factors whole.")
    return Answer("taken", {"lora.rank": given})


def argument(name: str, value: Any, of: Network) -> Answer:
    """One of the arguments of a network."""
    rule = ARGUMENTS.get(name)
    if rule is None:
        return OFF if is_off(value) else Answer("no counterpart", {}, "There is no such setting here.")
    kinds, convert, settings = rule
    if of.algorithm not in kinds:
        if is_off(value):
            return OFF
        return Answer("no counterpart", {}, f"Not with {of.title} here.")
    if convert is None:
        return Answer("ignored", {}, "Says which kind and layers are meant.")
    try:
        converted = convert(value)
    except ValueError as why:
        return Answer("no counterpart", {}, str(why))
    if name in ("conv_dim", "conv_alpha") and of.layers[0] != "everything":
        return Answer("ignored", {}, "Does nothing without convolutions.")
    if name == "block_dims":
        return Answer("approximated", {settings: converted}, "The strength is the same in all blocks here.")
    if name == "loraplus_unet_lr_ratio":
        return Answer("approximated", {settings: converted}, "It is for the text encoder, too, here.")
    return Answer("taken", {settings: converted})


def all_arguments(of: Network) -> Answer:
    """All of them as one line of a file."""
    given = {name: value for name, value in of.arguments.items() if name not in ("algo", "preset")}
    answers = {name: argument(name, value, of) for name, value in given.items()}
    settings = {name: value for answer in answers.values() for name, value in answer.settings.items()}
    if of.module == "networks.lora" and not is_off(given.get("conv_dim")) and is_off(given.get("conv_alpha")):
        settings["lora.conv_alpha"] = 1.0  # sd-scripts' own
    lost = [name for name, answer in answers.items() if answer.verdict == "no counterpart"]
    reasons = [answer.reason for answer in answers.values() if answer.verdict == "approximated"]
    if lost:
        reasons.append(f"There are no such settings here: {', '.join(lost)}.")
    if not settings:
        return Answer("no counterpart" if lost else "ignored", {}, " ".join(reasons) or "Nothing in it beyond the kind of LoRA.")
    return Answer("approximated" if reasons else "taken", settings, " ".join(reasons))


def block_ranks(value: Any) -> str:
    """sd-scripts' ranks of 25 blocks (SD 1.x and 2.x) in our words; blocks of one rank are one where they stand together."""
    ranks = [whole(part) for part in str(value or "").replace('"', "").split(",") if part.strip()]
    if len(ranks) != len(BLOCKS):
        raise ValueError("Only the 25 blocks of SD 1.x and 2.x can be taken over.")
    named = {block: own for block, own in zip(BLOCKS, ranks, strict=True) if block}
    found = []
    for level in dict.fromkeys(block.rpartition(".")[0] or block for block in named):
        inside = {block: own for block, own in named.items() if block == level or block.startswith(f"{level}.")}
        found += [f"{level}: {next(iter(inside.values()))}"] if len(set(inside.values())) == 1 else [f"{b}: {r}" for b, r in inside.items()]
    return ", ".join(found)


def or_none(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Zero and nothing are our "empty"."""
    return lambda value: None if is_off(value) else convert(value)


def _ratio(value: Any) -> float:
    return 1.0 if is_off(value) else number(value)


Convert = Callable[[Any], Any]
PRODUCTS = ("lora", "loha", "lokr")
ALL = (*PRODUCTS, "oft", "boft")
ARGUMENTS: dict[str, tuple[tuple[str, ...], Convert | None, str]] = {
    **dict.fromkeys(("algo", "preset"), (ALL, None, "")),
    "conv_dim": (PRODUCTS, or_none(whole), "lora.conv_rank"),
    "conv_alpha": (PRODUCTS, or_none(number), "lora.conv_alpha"),
    "dropout": (("lora",), or_naught, "lora.dropout"),
    "rank_dropout": (("loha", "lokr"), or_naught, "lora.rank_dropout"),
    "module_dropout": (("loha", "lokr"), or_naught, "lora.module_dropout"),
    "dora_wd": (("lora",), flag, "lora.dora"),
    "wd_on_output": (("lora",), None, ""),
    "rs_lora": (PRODUCTS, flag, "lora.rank_stabilised"),
    **dict.fromkeys(("use_tucker", "use_cp", "use_conv_cp"), (("loha", "lokr"), flag, "lora.tucker")),
    "factor": (("lokr",), lambda value: -1 if is_off(value) else whole(value), "lora.factor"),
    "decompose_both": (("lokr",), flag, "lora.decompose_both"),
    "full_matrix": (("lokr",), flag, "lora.full_matrix"),
    **dict.fromkeys(("constraint", "constrain"), (("oft", "boft"), or_naught, "lora.constraint")),
    "rescaled": (("boft",), flag, "lora.rescale"),
    **dict.fromkeys(("loraplus_lr_ratio", "loraplus_unet_lr_ratio"), (("lora",), _ratio, "lora.plus_ratio")),
    "block_dims": (PRODUCTS, block_ranks, "lora.block_ranks"),
}
"""Argument -> (our algorithms that have it, how it is converted, our setting)."""
