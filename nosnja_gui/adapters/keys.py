"""How files of every layout spell the pieces of an update and the modules it is for; what shapes say of it. No torch.

Facts come from the projects that write and read such files: kohya-ss/sd-scripts networks/lora.py; LyCORIS lycoris/modules/*.py
(weight_list) and lycoris/wrapper.py; diffusers src/diffusers/utils/state_dict_utils.py and loaders/lora_conversion_utils.py; peft
tuners/lora/model.py; ComfyUI comfy/lora.py, comfy/weight_adapter/*.py and comfy_extras/nodes_lora_extract.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nosnja_gui.adapters import Address, PartNames
from nosnja_gui.settings import UserError

Shape = tuple[int, ...]

# Pieces: the ends of the keys

ENDS = {
    "down": r"\.lora_down\.weight|\.lora_A(?:\.[^.]+)?\.weight|\.lora_A|[._]lora\.down\.weight|\.lora_linear_layer\.down\.weight",
    "up": r"\.lora_up\.weight|\.lora_B(?:\.[^.]+)?\.weight|\.lora_B|[._]lora\.up\.weight|\.lora_linear_layer\.up\.weight",
    "mid": r"\.lora_mid\.weight",
    "alpha": r"\.alpha",
    "magnitude": r"\.dora_scale|\.lora_magnitude_vector(?:\.[^.]+){0,2}",
    "diff": r"\.diff|\.w_norm",
    "diff_b": r"\.diff_b|\.b_norm",
    # peft has the adapter's name behind these.
    **{name: rf"\.{name}(?:\.[^.]+)?" for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")},
    **{name: rf"\.{name}(?:\.[^.]+)?" for name in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")},
    "oft_blocks": r"\.oft_blocks",
    "rescale": r"\.rescale",
}
"""Role of a tensor in its update -> how keys end."""
PIECE = re.compile(r"(?=\.|_lora\.)(?:" + "|".join(f"(?P<{role}>{pattern})" for role, pattern in ENDS.items()) + ")$")
OTHER_KINDS = {
    r"[._]b?oft_(?!blocks$)": "an OFT or BOFT in the layout of another program",
    r"\.[ab][12]\.weight$": "a GLoRA",
    r"\.on_input$|\.ia3_l": "an IA3",
    r"\.vera_": "a VeRA",
    r"emb_params|string_to_param|^clip_[lg]$": "a textual inversion",
    r"^lora_controlnet$": "a Control LoRA",
    r"\.set_weight$|\.reshape_weight$": "a file that replaces whole weights",
}
"""What a key says of files that nothing here can apply."""


BUNDLED = "bundle_emb."
"""How the names of vectors begin that a file brings along for a word of its own (A1111 extensions-builtin/Lora/networks.py)."""


def piece(key: str) -> tuple[str, str] | None:
    """(module's name as it stands, role) of a tensor; None where the end says nothing."""
    found = PIECE.search(key)
    if found is None or not found.start():
        return None
    return key[: found.start()], str(found.lastgroup)


def grouped(keys: Iterable[str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Module's name as it stands -> role -> key; and the keys whose end says nothing. Words that are brought along are no modules."""
    modules: dict[str, dict[str, str]] = {}
    strange = []
    for key in keys:
        if key.startswith(BUNDLED):
            continue
        if found := piece(key):
            modules.setdefault(found[0], {})[found[1]] = key
        else:
            strange.append(key)
    return modules, strange


def other_kind(keys: Iterable[str]) -> str:
    """ "a GLoRA" and the like for a file that nothing here can apply, else ""."""
    marks = {re.compile(mark): title for mark, title in OTHER_KINDS.items()}
    own = (key for key in keys if not key.startswith(BUNDLED))
    return next((title for key in own for mark, title in marks.items() if mark.search(key)), "")


# Updates, by the shapes of their pieces


def kind(roles: Iterable[str]) -> str:
    """The title of the update that these pieces make, as the kinds of updates bear it; "" for none.

    With shapes by role BOFT is told from OFT, which has a dimension less.
    """
    if "oft_blocks" in roles:
        return "BOFT" if isinstance(roles, Mapping) and len(roles["oft_blocks"]) == 4 else "OFT"
    roles = set(roles)
    inner = next((title for mark, title in (("hada", "LoHa"), ("lokr", "LoKr")) if any(role.startswith(mark) for role in roles)), "")
    inner = inner or ("LoRA" if roles & {"down", "up", "mid"} else "full difference" if roles & {"diff", "diff_b"} else "")
    if "magnitude" not in roles:
        return inner
    return "DoRA" if inner in ("LoRA", "") else f"DoRA ({inner})"


def lacking(roles: Iterable[str]) -> list[str]:
    """Roles without which these pieces make no update; [] for what is whole."""
    roles = set(roles)
    if roles & {"oft_blocks", "rescale"}:
        return sorted({"oft_blocks"} - roles)
    if any(role.startswith("hada") for role in roles):
        cores = {"hada_t1", "hada_t2"} if roles & {"hada_t1", "hada_t2"} else set()
        return sorted(({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"} | cores) - roles)
    if any(role.startswith("lokr") for role in roles):
        return [role for half in ("lokr_w1", "lokr_w2") if half not in roles for role in (f"{half}_a", f"{half}_b") if role not in roles]
    if roles & {"diff", "diff_b"} and not roles & {"down", "up", "mid"}:
        return []
    return [role for role in ("down", "up") if role not in roles]


def rank(shapes: Mapping[str, Sequence[int]]) -> int | None:
    """By the shapes of a whole update's pieces, by role; None where it has none (full differences, LoKr of whole factors)."""
    first = next((shapes[role] for role in ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b") if role in shapes), None)
    return first[0] if first else None


def weight_shape(shapes: Mapping[str, Sequence[int]]) -> Shape | None:
    """(outputs, inputs, kernel ...) of the weight that a whole update is for; None where the pieces don't fit each other.

    Kernels may be folded into the inputs, as files have it: compare the product. Of a rotation only the outputs are known.
    """
    try:
        if "oft_blocks" in shapes:
            *stages, groups, size, other = shapes["oft_blocks"]
            fits = size == other and len(stages) < 2 and (not stages or (size % 2 == 0 and groups % 2 ** (stages[0] - 1) == 0))
            fits = fits and math.prod(shapes.get("rescale", (groups * size,))) == groups * size
            return (groups * size,) if fits else None
        if "diff" in shapes:
            return tuple(shapes["diff"])
        if "diff_b" in shapes and "down" not in shapes:
            return tuple(shapes["diff_b"])
        if "hada_w1_a" in shapes:
            first, second = (_half(shapes, f"hada_w{side}", f"hada_t{side}") for side in (1, 2))
            return first if first == second else None
        if kind(shapes).endswith(("LoKr", "LoKr)")):
            (one, two, *_), (three, four, *kernel) = _factor(shapes, "lokr_w1"), _factor(shapes, "lokr_w2")
            return (one * three, two * four, *kernel)
        down, up = shapes["down"], shapes["up"]
        if "mid" in shapes:
            mid = shapes["mid"]
            return (up[0], down[1], *mid[2:]) if (up[1], down[0]) == (mid[0], mid[1]) and math.prod(down[2:]) == 1 else None
        return (up[0], *down[1:]) if math.prod(up[1:]) == down[0] and len(down) > 1 else None
    except (KeyError, IndexError, ValueError, TypeError):
        return None


def _half(shapes: Mapping[str, Sequence[int]], stem: str, core: str) -> Shape | None:
    """The shape of a @ b, or of a core with a and b around it."""
    a, b = shapes[f"{stem}_a"], shapes[f"{stem}_b"]
    if core in shapes:
        return (a[1], b[1], *shapes[core][2:]) if (a[0], b[0]) == tuple(shapes[core][:2]) else None
    return (a[0], *b[1:]) if a[1] == b[0] else None


def _factor(shapes: Mapping[str, Sequence[int]], stem: str) -> Shape:
    found = tuple(shapes[stem]) if stem in shapes else _half(shapes, stem, stem.replace("_w", "_t"))
    if found is None:
        raise ValueError(f"the pieces of {stem} don't fit each other")
    return found


# Modules: the beginnings of the keys

PARTS = {
    "text_encoder_3": ("lora_te3_", "text_encoder_3.", "text_encoders.t5xxl."),
    "text_encoder_2": ("lora_te2_", "text_encoder_2.", "text_encoders.clip_g."),
    "text_encoder": ("lora_te_", "lora_te1_", "text_encoder.", "text_encoders.", "text_model.", "encoder.layers."),
    "transformer": ("lora_transformer_", "transformer."),
    "unet": ("lora_unet_", "unet.", "diffusion_model.", "lycoris_", "down_blocks.", "mid_block.", "up_blocks."),
}
"""Part of a model -> how the names of its modules begin in any layout; the first that fits counts."""
OUTSIDE = ("text_projection",)
"""Modules of CLIPTextModelWithProjection that don't lie inside its `text_model.`."""
OLD_ENDS = {"to_out.0": "to_out", "q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
"""What diffusers called projections while it had attention processors."""


def plain(stem: str) -> str:
    """Without what peft's wrapper and diffusers' attention processors put into a module's name."""
    return re.sub(r"(^|\.)base_model\.model\.", r"\1", stem).replace(".processor.", ".")


def part_of(stem: str) -> str:
    """Which part of a model a module's name in a file is about, from how it begins; "" where that doesn't tell."""
    stem = plain(stem)
    return next((part for part, starts in PARTS.items() if stem.startswith(starts)), "")


def layout_of(stems: Iterable[str]) -> str:
    """kohya, diffusers, comfyui, peft or lycoris: the layout of most modules' names."""
    counts: dict[str, int] = {}
    for stem in stems:
        starts = {
            "lora_": "kohya",
            "lycoris_": "lycoris",
            "base_model.": "peft",
            "diffusion_model.": "comfyui",
            "text_encoders.": "comfyui",
        }
        layout = next((layout for start, layout in starts.items() if stem.startswith(start)), "diffusers")
        counts[layout] = counts.get(layout, 0) + 1
    return max(counts, key=lambda layout: counts[layout], default="")


def places(names: Sequence[PartNames]) -> dict[str, Address]:
    """Every name under which a file may speak of a module (already `plain`) -> where it is."""
    found: dict[str, Address] = {}
    without_part: dict[str, Address] = {}
    for part in names:
        for module in part.shapes:
            address = (part.part, module)
            dotted = {module, inside(part, module)}
            for current, old in OLD_ENDS.items():
                dotted |= {name.removesuffix(current) + old for name in dotted if name.endswith(f".{current}")}
            original = part.original.get(module, module)
            found |= {f"{start}.{name}": address for start in (part.part, part.comfyui) for name in dotted}
            found[f"{part.comfyui}.{original}"] = address
            found |= {f"{part.kohya}_{name.replace('.', '_')}": address for name in (*dotted, original)}
            if part.part in ("unet", "transformer"):
                found[f"lycoris_{module.replace('.', '_')}"] = address
            for name in dotted:
                without_part.setdefault(name, address)
    return without_part | found


def inside(names: PartNames, module: str) -> str:
    """The module's name with what transformers 5 took out of it."""
    return module if module.startswith(OUTSIDE) else names.inner + module


def kohya(names: PartNames, module: str) -> str:
    name = inside(names, module)
    if names.kohya_writes_original:
        name = names.original.get(module, name)
    return f"{names.kohya}_{name.replace('.', '_')}"


def comfyui(names: PartNames, module: str) -> str:
    return f"{names.comfyui}.{names.original.get(module, inside(names, module))}"


def diffusers(names: PartNames, module: str) -> str:
    return f"{names.part}.{inside(names, module)}"


# Alphas that don't lie beside the weights

ADAPTER_METADATA = "lora_adapter_metadata"
"""Where diffusers keeps peft's configurations: JSON with `unet.lora_alpha` and the like (diffusers loaders/lora_base.py)."""


@dataclass(frozen=True)
class StatedAlphas:
    """The alphas that peft's configuration states, in the metadata or in the adapter_config.json beside the file."""

    configurations: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By part; "" for one that doesn't name parts."""

    def alpha(self, part: str, modules: Iterable[str], rank: int) -> float | None:
        """Of a module under any of its names; None where nothing is stated."""
        stated = self.configurations.get(part) or self.configurations.get("")
        if not stated or "lora_alpha" not in stated:
            return None
        patterns = (stated.get("alpha_pattern") or {}).items()
        modules = list(modules)
        alpha = next((value for pattern, value in patterns if any(_matches(pattern, name) for name in modules)), stated["lora_alpha"])
        # peft tuners/lora/layer.py: rank-stabilised LoRA divides by the root of the rank.
        return float(alpha) * (math.sqrt(rank) if stated.get("use_rslora") else 1.0)


def stated_alphas(metadata: Mapping[str, str], file: Path) -> StatedAlphas:
    """Raises UserError where what is stated cannot be read: the strength would be wrong."""
    beside = file.with_name("adapter_config.json")
    try:
        if ADAPTER_METADATA in metadata:
            saved = json.loads(metadata[ADAPTER_METADATA])
        elif file.name == "adapter_model.safetensors" and beside.is_file():
            saved = json.loads(beside.read_text(encoding="utf-8"))
        else:
            return StatedAlphas()
        found = {
            part: {key.removeprefix(f"{part}."): value for key, value in saved.items() if key.startswith(f"{part}.")} for part in PARTS
        }
        found[""] = saved
        alphas = [
            alpha for stated in found.values() for alpha in (stated.get("lora_alpha", 1), *(stated.get("alpha_pattern") or {}).values())
        ]
        assert all(math.isfinite(float(alpha)) for alpha in alphas)
        return StatedAlphas(found)
    except (AssertionError, OSError, ValueError, TypeError, AttributeError):
        raise UserError(f"{file} states its alphas in a way that is not readable ({ADAPTER_METADATA}): save it again.") from None


def _matches(pattern: str, module: str) -> bool:
    """As peft's get_pattern_key has it (utils/other.py): an expression for the name or its end."""
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error:
        return pattern == module


def spelled(stem: str) -> Iterator[str]:
    """A dotted name in a file, without its part: as peft's patterns speak of it."""
    name = plain(stem)
    yield name
    for start in PARTS.get(part_of(stem), ()):
        if name.startswith(start):
            yield name.removeprefix(start)
