"""The text in a picture that says how it was painted: A1111's, written and read, ComfyUI's read, and what a grid can take of them.

Knows pictures' headers and texts, never pixels, and neither jobs nor what there is in a workspace: that is handed in.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from nosnja_gui import weights
from nosnja_gui.axes import AXES, SAMPLER_TITLES, TRIGGER_MARK
from nosnja_gui.settings import UserError
from nosnja_gui.sources import weight_files

MAX_TEXT = 1_000_000
"""Bytes; real ones have thousands. What is compressed is not unpacked any further."""
MOST_CHUNKS = 1_000_000
FEWEST_PAIRS = 3
"""A last line with fewer "Key: value" pairs belongs to the prompt (A1111, modules/infotext_utils.py)."""
MULTIPLE = 8
"""Sides of a picture are multiples of this many pixels."""

A1111_NAMES = {
    "seed": "Seed", "steps": "Steps", "cfg_scale": "CFG Scale", "prompt": "Prompt S/R", "sampler": "Sampler",
    "model": "Checkpoint name", "clip_skip": "Clip skip", "size": "Size",
}  # fmt: skip
"""How A1111 calls those axes that it has (scripts/xyz_grid.py)."""


class Network(NamedTuple):
    """What a prompt puts onto the model: <lora:name:weight>."""

    name: str
    weight: float = 1.0
    """Of the UNet."""
    text_encoder_weight: float | None = None
    """None where it is the same."""


@dataclass(frozen=True)
class Infotext:
    """How a picture was painted."""

    prompt: str = ""
    """Without the tags of `loras` and `hypernets`."""
    negative_prompt: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    """A1111's names -> values, in their order: Steps, Sampler, CFG scale, Seed, Size, Model hash, Model, VAE, Clip skip, Hires ..."""
    loras: tuple[Network, ...] = ()
    hypernets: tuple[Network, ...] = ()
    remarks: tuple[str, ...] = field(default=(), compare=False)
    """A sentence for each thing that the picture holds and that could not be read."""

    @property
    def lora_hashes(self) -> dict[str, str]:
        """The first digits of `lora_hash` by the LoRA's name."""
        pairs = (entry.rpartition(":") for entry in self.settings.get("Lora hashes", "").split(","))
        return {name.strip(): digits.strip() for name, colon, digits in pairs if colon}

    @property
    def axes(self) -> dict[str, tuple[str, str]]:
        """x, y, z -> (A1111's type of the axis, its values in one line), of an X/Y/Z plot. Random seeds are those that were drawn."""
        if "X/Y/Z plot" not in self.settings.get("Script", ""):
            return {}
        found = {}
        for letter in "XYZ":
            kind = self.settings.get(f"{letter} Type", "Nothing")
            values = self.settings.get(f"{letter} Values", "")
            if kind != "Nothing":
                found[letter.lower()] = kind, self.settings.get(f"Fixed {letter} Values", "") if "-1" in _values(values) else values
        return found


# Written


def of_picture(
    *,
    prompt: str,
    negative_prompt: str,
    seed: int,
    sampler: str,
    steps: int,
    cfg_scale: float,
    width: int,
    height: int,
    clip_skip: int = 1,
    model: str = "",
    model_hash: str = "",
    loras: Sequence[Network] = (),
    lora_hashes: Mapping[str, str] | None = None,
    hypernets: Sequence[Network] = (),
    vae: str = "",
    vae_hash: str = "",
) -> Infotext:
    """What is to be kept of a picture that was painted here. `sampler` is ours, names and hashes may be empty."""
    hashes = ", ".join(f"{name.replace(',', '')}: {digits}" for name, digits in (lora_hashes or {}).items() if digits)
    settings = {
        "Steps": str(steps),
        "Sampler": SAMPLER_TITLES[sampler],
        "CFG scale": _number(cfg_scale),
        "Seed": str(seed),
        "Size": f"{width}x{height}",
        "Model hash": model_hash,
        "Model": model,
        "VAE hash": vae_hash,
        "VAE": vae,
        "Clip skip": str(clip_skip) if clip_skip > 1 else "",
        "Lora hashes": hashes,
    }
    return Infotext(prompt, negative_prompt, {key: value for key, value in settings.items() if value}, tuple(loras), tuple(hypernets))


def write(infotext: Infotext) -> str:
    """The text as A1111 keeps it in its pictures and pastes it back: prompt, negative prompt, one line of settings.

    `parse` gives the same again, but for what the format cannot tell apart: a line of the prompt that begins with
    "Negative prompt:", carriage returns, and one or two settings alone.
    """
    tags = [_tag("lora", lora) for lora in infotext.loras] + [_tag("hypernet", hypernet) for hypernet in infotext.hypernets]
    text = "".join([infotext.prompt, *(f" {tag}" for tag in tags)])
    if infotext.negative_prompt:
        text += f"\nNegative prompt: {infotext.negative_prompt}"
    line = ", ".join(f"{key}: {_quoted(value)}" for key, value in infotext.settings.items())
    return f"{text}\n{line}" if line and text else text + line


def with_axes(text: str, axes: Sequence[tuple[str, str, str] | None]) -> str:
    """A picture's text as that of a sheet: `axes` are x, y and z, each (our name, our title, its values in one line) or None."""
    infotext = parse(text)
    settings = {**infotext.settings, "Script": "X/Y/Z plot"}
    for letter, axis in zip("XYZ", axes, strict=True):
        if axis:
            name, title, values = axis
            settings |= {f"{letter} Type": A1111_NAMES.get(name, title), f"{letter} Values": values}
    return write(replace(infotext, settings=settings))


def lora_hash(file: Path) -> str:
    """sha256 of all behind a safetensors file's header: whose first 12 digits A1111 writes (kohya's `addnet_hash_safetensors`).

    Of files of another kind, which have no such header, that of the whole.
    """
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        if file.suffix.lower() not in weights.PICKLED:
            opened.seek(8 + min(int.from_bytes(opened.read(8), "little"), file.stat().st_size))
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def vae_hash(vae: Path) -> str:
    """The first 10 digits of the sha256 of a VAE's file, as A1111 writes them (modules/sd_vae.py); of a folder, of its weights' file.

    Worked out once for a file as long as it stays the same. Raises OSError, and UserError for a folder without weights.
    """
    if vae.is_dir():
        vae = weight_files(vae / "vae" if (vae / "vae").is_dir() else vae, "diffusion_pytorch_model")[0]
    state = vae.stat()
    return _sha256(vae, state.st_size, state.st_mtime_ns)[:10]


@lru_cache(maxsize=64)
def _sha256(file: Path, size: int, modified_ns: int) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _tag(kind: str, network: Network) -> str:
    both = [] if network.text_encoder_weight is None else [network.text_encoder_weight]
    return f"<{kind}:{':'.join([network.name, *map(_number, [*both, network.weight])])}>"


def _number(value: float) -> str:
    """As short as it can be without becoming another one."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ',:\r\n"') or value != value.strip() else value


# Read


def parse(text: str) -> Infotext:
    """What a text of A1111 says (modules/infotext_utils.py, modules/extra_networks.py). Any text is one: at least a prompt."""
    lines = [line.rstrip("\r") for line in text.rstrip().split("\n")]
    settings = dict(_pairs(lines[-1]))
    if len(settings) < FEWEST_PAIRS:
        settings = {}
    else:
        lines.pop()
    begin = next((number for number, line in enumerate(lines) if line.lstrip().startswith("Negative prompt:")), len(lines))
    negative = "\n".join(lines[begin:]).lstrip().removeprefix("Negative prompt:").removeprefix(" ")
    networks: dict[str, list[Network]] = {"lora": [], "lyco": [], "hypernet": []}

    def take(match: re.Match[str]) -> str:
        networks[match[1]].append(_network(match[2]))
        return ""

    # Tags of both kinds of LoRA stand in the order of the prompt.
    networks["lyco"] = networks["lora"]
    prompt = _TAG.sub(take, "\n".join(lines[:begin]))
    if hypernet := settings.pop("Hypernet", ""):
        strength = _float(settings.pop("Hypernet strength", ""), 1.0)
        networks["hypernet"].append(Network(re.sub(r"\([0-9a-f]+\)$", "", hypernet), strength))
    return Infotext(prompt, negative, settings, tuple(networks["lora"]), tuple(networks["hypernet"]))


_TAG = re.compile(r" ?<(lora|lyco|hypernet):([^<>\n]+)>")
_KEY_REVERSED = re.compile(r"[\w /-]*")
_QUOTED = re.compile(r'("(?:\\.|[^\\"])*")\s*(?:,|$)')


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """The "Key: value" pairs of a line; a value with commas stands in double quotes, as JSON has them. Takes linear time."""
    at = 0
    while (colon := line.find(":", at)) >= 0:
        # The key is what stands before the colon, back to the first sign that no key has.
        key = _KEY_REVERSED.match(line[at:colon][::-1])[0][::-1].strip(" /-")  # type: ignore[index]
        at = colon + 1
        if len(key) < 2:
            continue
        while line[at : at + 1] == " ":
            at += 1
        if match := _QUOTED.match(line, at):
            at = match.end()
            yield key, _unquoted(match[1])
        else:
            comma = line.find(",", at)
            end = len(line) if comma < 0 else comma
            yield key, line[at:end].strip()
            at = end + 1


def _unquoted(value: str) -> str:
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def _network(inner: str) -> Network:
    """Of "name", "name:1", "name:text encoder:unet", "name:1:unet=0.5" (A1111, extensions-builtin/Lora/extra_networks_lora.py)."""
    parts = inner.split(":")
    named = dict(part.split("=", 1) for part in parts[1:] if "=" in part)
    plain = [part for part in parts[1:] if "=" not in part]
    text_encoder = _float(named.get("te", plain[0] if plain else ""), 1.0)
    unet = _float(named.get("unet", plain[1] if len(plain) > 1 else ""), text_encoder)
    return Network(parts[0].strip(), unet, text_encoder if text_encoder != unet else None)


def _float(text: str, default: float) -> float:
    try:
        value = float(text)
    except ValueError:
        return default
    return value if math.isfinite(value) else default


def read(file: Path) -> Infotext:
    """What a picture says of itself: PNG, JPEG and WebP of A1111 and its kin, PNG and WebP of ComfyUI. Decodes no pixel.

    Raises UserError where there is no file, no picture, a damaged one, no text that is known, or more text than MAX_TEXT.
    """
    try:
        with open(file, "rb") as stream:
            head = stream.read(12)
            stream.seek(8)
            if head.startswith(b"\x89PNG\r\n\x1a\n"):
                texts = _png_texts(stream, file.name)
            elif head.startswith(b"\xff\xd8") or head[8:] == b"WEBP":
                texts = _exif_texts(stream, file.name)
            else:
                raise UserError(f"{file.name} is no picture that can hold settings: choose a PNG, JPEG or WebP file.")
    except OSError as error:
        raise UserError(f"{file.name} cannot be read ({error.strerror}): choose another picture.") from None
    if text := texts.get("parameters", "").strip("\0 \n"):
        if text.startswith("{") and _json(text) is not None:
            raise UserError(f"{file.name} was painted by a program whose settings cannot be read: choose a picture of A1111 or ComfyUI.")
        return parse(texts["parameters"])
    if "prompt" in texts:
        return _of_comfy(texts["prompt"], file.name)
    if "workflow" in texts:
        raise UserError(f"{file.name} holds ComfyUI's drawing of a workflow without what was run: save it with 'Save Image' once more.")
    raise UserError(f"{file.name} says nothing about how it was painted: choose the original, many programs and sites take the text out.")


def _png_texts(stream: BinaryIO, name: str) -> dict[str, str]:
    """The texts that matter (PNG specification, 11.3.3), `stream` standing behind the signature; of a workflow only that it is there.

    Other chunks are skipped, so a picture may be of any size and broken behind its text.
    """
    texts: dict[str, str] = {}
    damaged = UserError(f"{name} is damaged: copy or download it again.")
    for _ in range(MOST_CHUNKS):
        head = stream.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            if len(head) < 8 and not texts:
                raise damaged
            return texts
        length, kind = struct.unpack(">I4s", head)
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            stream.seek(length + 4, io.SEEK_CUR)
            continue
        content = stream.read(min(length, MAX_TEXT + 200))
        key, _, rest = content.partition(b"\0")
        keyword = key.decode("latin-1")
        stream.seek(length - len(content), io.SEEK_CUR)
        check = stream.read(4)
        if keyword == "workflow":
            texts[keyword] = ""
        if keyword not in ("parameters", "prompt"):
            continue
        if length > len(content) and len(content) == MAX_TEXT + 200:
            raise _too_large(name)
        if check != struct.pack(">I", zlib.crc32(kind + content)):
            raise damaged
        try:
            texts[keyword] = _chunk_text(kind, rest)
        except (zlib.error, ValueError, IndexError):
            raise damaged from None
        if len(texts[keyword]) > MAX_TEXT:
            raise _too_large(name)
    raise damaged


def _chunk_text(kind: bytes, rest: bytes) -> str:
    """What stands behind the keyword. One letter more than MAX_TEXT means that there may be any number of them."""
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed = bool(rest[0])
        _language, _translated, rest = rest[2:].split(b"\0", 2)
    elif packed:
        rest = rest[1:]
    plain = zlib.decompressobj().decompress(rest, MAX_TEXT + 1) if packed else rest
    if len(plain) > MAX_TEXT:
        return " " * (MAX_TEXT + 1)
    return plain.decode("utf-8" if kind == b"iTXt" else "latin-1", "replace")


def _too_large(name: str) -> UserError:
    return UserError(f"{name} holds more than {MAX_TEXT:,} bytes of text, which is no picture's settings: choose another one.")


EXIF_IFD, USER_COMMENT, MAKE, MODEL = 0x8769, 0x9286, 0x010F, 0x0110


def _exif_texts(stream: BinaryIO, name: str) -> dict[str, str]:
    """A1111 writes the comment (modules/images.py), ComfyUI's WebP "prompt:{...}" and "workflow:{...}" as maker and model of a camera."""
    from PIL import Image

    stream.seek(0)
    try:
        with Image.open(stream, formats=("JPEG", "WEBP")) as opened:
            exif = opened.getexif()
            comment = exif.get_ifd(EXIF_IFD).get(USER_COMMENT, b"")
            camera = [str(exif.get(tag, "")) for tag in (MAKE, MODEL)]
    except Image.DecompressionBombError:
        raise UserError(f"{name} has more pixels than any picture that is painted: choose another one.") from None
    except Exception:  # a header can be broken in more ways than Pillow has errors
        raise UserError(f"{name} is damaged: copy or download it again.") from None
    if len(comment) > 2 * MAX_TEXT or max(map(len, camera)) > MAX_TEXT:
        raise _too_large(name)
    texts = {"parameters": _comment_text(comment)}
    for written in camera:
        key, colon, rest = written.partition(":")
        if colon and key in ("prompt", "workflow"):
            texts[key] = rest
    return texts


def _comment_text(comment: bytes | str) -> str:
    """Of an EXIF comment, whose first 8 bytes name its code; "UNICODE" is UTF-16 in either order, whatever that of the file is."""
    if isinstance(comment, str):
        return comment
    code, text = comment[:8], comment[8:]
    if code == b"UNICODE\0":
        # The settings are ASCII: their zero bytes stand first in one order and last in the other.
        little = text[1::2].count(0) > text[::2].count(0)
        return text.decode("utf-16-le" if little else "utf-16-be", "replace").strip("\0\ufeff")
    known = code in (b"ASCII\0\0\0", b"JIS\0\0\0\0\0", bytes(8))
    return (text if known else comment).decode("utf-8", "replace").strip("\0")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


# Of ComfyUI

COMFY_SAMPLERS = {
    "euler": "Euler", "euler_ancestral": "Euler a", "heun": "Heun", "dpm_2": "DPM2", "dpm_2_ancestral": "DPM2 a", "lms": "LMS",
    "dpm_fast": "DPM fast", "dpm_adaptive": "DPM adaptive", "dpmpp_2s_ancestral": "DPM++ 2S a", "dpmpp_sde": "DPM++ SDE",
    "dpmpp_sde_gpu": "DPM++ SDE", "dpmpp_2m": "DPM++ 2M", "dpmpp_2m_sde": "DPM++ 2M SDE", "dpmpp_2m_sde_gpu": "DPM++ 2M SDE",
    "dpmpp_3m_sde": "DPM++ 3M SDE", "dpmpp_3m_sde_gpu": "DPM++ 3M SDE", "lcm": "LCM", "ddim": "DDIM", "uni_pc": "UniPC",
    "uni_pc_bh2": "UniPC",
}  # fmt: skip
"""ComfyUI's names (comfy/samplers.py, KSAMPLER_NAMES and SAMPLER_NAMES) -> A1111's."""
COMFY_SCHEDULES = {
    "normal": "Normal", "karras": "Karras", "exponential": "Exponential", "sgm_uniform": "SGM Uniform", "simple": "Simple",
    "ddim_uniform": "DDIM", "beta": "Beta", "kl_optimal": "KL Optimal",
}  # fmt: skip
COMFY_TEXTS = ("text", "text_g", "text_l", "value", "string", "prompt")
COMFY_NUMBERS = ("value", "seed", "noise_seed", "number", "int", "float")
"""Inputs by which nodes that only hand on a text or a number know it."""


def _of_comfy(text: str, name: str) -> Infotext:
    """What the nodes in front of the first sampler say; nothing is run. Raises UserError where there is no sampler."""
    graph = _json(text)
    nodes = graph if isinstance(graph, dict) else {}
    nodes = {key: node for key, node in nodes.items() if isinstance(node, dict) and isinstance(node.get("inputs"), dict)}
    samplers = [node for node in nodes.values() if str(node.get("class_type")) in ("KSampler", "KSamplerAdvanced")]
    if not samplers:
        raise UserError(f"{name} holds a ComfyUI workflow without a KSampler, whose settings cannot be told: fill in the form yourself.")
    remarks: list[str] = []
    # Of several, the one that begins with an empty picture; the others go over what it has painted.
    sampler = next(
        (node for node in samplers if _first(_chain(nodes, node["inputs"].get("latent_image"), "latent_image"), "width")), samplers[0]
    )
    if len(samplers) > 1:
        remarks.append(f"The workflow paints in {len(samplers)} passes: only the first one is taken over.")
    given = sampler["inputs"]
    texts = {}
    for branch, what in (("positive", "prompt"), ("negative", "negative prompt")):
        chain = list(_chain(nodes, given.get(branch), "conditioning", "conditioning_1", "conditioning_to", branch))
        encoder = next((node for node in chain if "clip" in node["inputs"] and any(key in node["inputs"] for key in COMFY_TEXTS)), None)
        written = (
            next((_plain(nodes, encoder["inputs"][key], str) for key in COMFY_TEXTS if key in encoder["inputs"]), None) if encoder else None
        )
        if written is None:
            remarks.append(f"The {what} is put together by other nodes, which are not run: write it yourself.")
        texts[branch] = written or "", encoder
    models = list(_chain(nodes, given.get("model"), "model"))
    clips = list(_chain(nodes, texts["positive"][1]["inputs"]["clip"], "clip")) if texts["positive"][1] else []
    loras = [_comfy_lora(nodes, node["inputs"]) for node in reversed(models) if isinstance(node["inputs"].get("lora_name"), str)]
    latent = list(_chain(nodes, given.get("latent_image"), "latent_image", "samples", "latent"))
    width, height = (_plain(nodes, _first(latent, side), int) for side in ("width", "height"))
    kind, schedule = (str(_plain(nodes, given.get(key), str) or "") for key in ("sampler_name", "scheduler"))
    seed = next((_plain(nodes, given[key], int) for key in ("seed", "noise_seed") if key in given), None)
    denoise = _plain(nodes, given.get("denoise", 1), float)
    stop = _plain(nodes, _first(clips, "stop_at_clip_layer"), int)
    vaes = [node["inputs"]["vae_name"] for node in nodes.values() if isinstance(node["inputs"].get("vae_name"), str)]
    settings = {
        "Steps": _plain(nodes, given.get("steps"), int),
        "Sampler": COMFY_SAMPLERS.get(kind, kind),
        "Schedule type": COMFY_SCHEDULES.get(schedule, schedule),
        "CFG scale": None if (scale := _plain(nodes, given.get("cfg"), float)) is None else _number(scale),
        "Seed": seed,
        "Size": f"{width}x{height}" if width and height else None,
        "Model": _stem(_first(models, "ckpt_name") or _first(models, "unet_name")),
        "VAE": _stem(vaes[0]) if vaes else None,
        "Clip skip": -stop if stop is not None and stop < -1 else None,
        "Denoising strength": _number(denoise) if denoise is not None and denoise < 1 else None,
    }
    kept = {key: str(value) for key, value in settings.items() if value not in (None, "")}
    return Infotext(texts["positive"][0], texts["negative"][0], kept, tuple(loras), (), tuple(remarks))


def _chain(nodes: Mapping[str, Any], link: Any, *through: str) -> Iterator[dict[str, Any]]:
    """The nodes before a link (ComfyUI's [node, output]), each by the first of its inputs `through` that is one; circles end."""
    seen: set[str] = set()
    while (key := _target(link)) in nodes and key not in seen:
        seen.add(key)
        yield nodes[key]
        link = next((value for name in through if _target(value := nodes[key]["inputs"].get(name))), None)


def _target(link: Any) -> str:
    return str(link[0]) if isinstance(link, list) and len(link) == 2 else ""


def _first(chain: Any, key: str) -> Any:
    """That input of the first node that has it."""
    return next((node["inputs"][key] for node in chain if key in node["inputs"]), None)


def _plain(nodes: Mapping[str, Any], value: Any, kind: type) -> Any:
    """The text or number of an input, which may come from a node that holds one; None where it is worked out."""
    if (key := _target(value)) in nodes:
        inputs = nodes[key]["inputs"]
        value = next((inputs[name] for name in (COMFY_TEXTS if kind is str else COMFY_NUMBERS) if name in inputs), None)
    if kind is float and type(value) is int and abs(value) < 10**300:
        return float(value)
    return value if type(value) is kind and (kind is not float or math.isfinite(value)) else None


def _comfy_lora(nodes: Mapping[str, Any], inputs: Mapping[str, Any]) -> Network:
    weight = _plain(nodes, inputs.get("strength_model", 1.0), float)
    weight = 1.0 if weight is None else weight
    of_text = _plain(nodes, inputs.get("strength_clip"), float)
    return Network(_stem(inputs["lora_name"]), weight, None if of_text in (None, weight) else of_text)


def _stem(name: Any) -> str:
    """A file's name without folders of either system and without its ending."""
    base = str(name or "").replace("\\", "/").rpartition("/")[2]
    known = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
    return PurePosixPath(base).stem if base.lower().endswith(known) else base


# For a grid


class Known(NamedTuple):
    """A model or a LoRA that there is."""

    name: str
    """What settings take."""
    path: Path
    run: str = ""
    """The training run that a LoRA is of."""


@dataclass(frozen=True)
class Taken:
    values: dict[str, Any]
    """Settings of a GridJob by dotted name; an axis as "x.axis" and "x.values", one text. Without what cannot be known."""
    remarks: tuple[str, ...]
    """A sentence for each thing that could not be taken over."""


def as_grid_values(infotext: Infotext, models: Sequence[Known] = (), loras: Sequence[Known] = (), vaes: Sequence[Known] = ()) -> Taken:
    """What a grid needs to paint such a picture again, with the models, LoRAs and VAEs that there are.

    Bounds are not looked at: whether a job takes a number is the job's business. A picture with a LoRA of a run names the run,
    any other one none. The axes of an X/Y/Z plot are all three or none.
    """
    settings, remarks = infotext.settings, list(infotext.remarks)
    values: dict[str, Any] = {"prompt": infotext.prompt, "negative_prompt": infotext.negative_prompt, "run": "", "lora": ""}
    for key, name, kind in (
        ("Seed", "seed", int),
        ("Steps", "steps", int),
        ("CFG scale", "cfg_scale", float),
        ("Clip skip", "model.clip_skip", int),
    ):
        given = settings.get(key, "1" if key == "Clip skip" and settings else "")
        if (value := _as_number(given, kind)) is not None:
            values[name] = value
        elif given:
            remarks.append(f"{key} is no number that can be taken over ({_short(given)}).")
    if title := settings.get("Sampler", ""):
        values["sampler"], remark = _our_sampler(title, settings.get("Schedule type", ""))
        remarks += [remark] if remark else []
    values |= _size(settings.get("Size", ""), remarks)
    if model := _find_model(settings.get("Model", ""), settings.get("Model hash", ""), models, remarks):
        values["model.path"] = model.name
    if settings:
        vae = _find_vae(settings.get("VAE", ""), settings.get("VAE hash", ""), vaes, remarks)
        values["model.vae"] = vae.name if vae else ""
    networks = [*((lora, "LoRA") for lora in infotext.loras), *((hypernet, "hypernetwork") for hypernet in infotext.hypernets)]
    if networks:
        (first, kind), *others = networks
        if lora := _find_lora(first.name, infotext.lora_hashes.get(first.name.replace(",", ""), ""), loras, remarks, kind):
            values |= {"lora": lora.name, "weight": first.weight, "run": lora.run}
            if first.text_encoder_weight is not None:
                weight = _number(first.text_encoder_weight)
                remarks.append(f"The LoRA {first.name} weighs {weight} in the text encoder there: here one weight is for both.")
        remarks += [f"The {kind} {other.name} is left out: a grid has one file for each cell." for other, kind in others]
    values |= _axes(infotext, models, loras, values, remarks)
    return Taken(values, tuple(dict.fromkeys([*remarks, *_without_counterpart(infotext)])))


def _as_number(text: str, kind: type) -> int | float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value) or (kind is int and value != int(value)):
        return None
    # Seeds of ComfyUI have more digits than a float.
    return value if kind is float else int(text) if re.fullmatch(r"[+-]?\d{1,30}", text) else int(value)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


SCHEDULES = ("Karras", "Exponential")
"""Which A1111 wrote behind a sampler's name before 1.9 had a setting for it."""
OWN_SCHEDULES = ("", "automatic", "uniform", "normal")
NEAREST = (
    ("dpm++ 2s a", "euler_a"), ("dpm2 a", "euler_a"), ("euler a", "euler_a"), ("lcm", "euler_a"), ("dpm++", "dpm++_2m"), ("dpm2", "heun"),
    ("heun", "heun"), ("ddim", "ddim"), ("plms", "ddim"), ("unipc", "unipc"), ("", "euler"),
)  # fmt: skip
"""How a sampler's name begins -> ours that is most like it: of its order, and with new noise at each step or without."""


def _our_sampler(title: str, schedule: str) -> tuple[str, str]:
    """Our sampler, and a sentence where it is another one."""
    ours = {known.casefold(): name for name, known in SAMPLER_TITLES.items()}
    for ending in SCHEDULES:
        if title.endswith(f" {ending}"):
            title, schedule = title.removesuffix(f" {ending}"), schedule if schedule.casefold() not in OWN_SCHEDULES else ending
    full = title if schedule.casefold() in OWN_SCHEDULES else f"{title} {schedule}"
    if name := ours.get(full.casefold()) or (ours.get(title.casefold()) if title.casefold() == schedule.casefold() else None):
        return name, ""
    if name := ours.get(title.casefold()):
        return name, f"The sampler {title} has no schedule {_short(schedule)} here: it takes its own."
    name = next(ours for start, ours in NEAREST if title.casefold().startswith(start))
    name = f"{name}_karras" if schedule.casefold() == "karras" and f"{name}_karras" in SAMPLER_TITLES else name
    return name, f"There is no sampler {_short(full)} here: {SAMPLER_TITLES[name]}, which is most like it, takes its place."


def _size(text: str, remarks: list[str]) -> dict[str, int]:
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
    if not match:
        return {}
    given = int(match[1]), int(match[2])
    width, height = (side // MULTIPLE * MULTIPLE for side in given)
    if (width, height) != given:
        remarks.append(f"The size {text} becomes {width}x{height}: sides must be multiples of {MULTIPLE} pixels.")
    return {"width": width, "height": height}


def _find_model(name: str, digits: str, models: Sequence[Known], remarks: list[str]) -> Known | None:
    """By its name, and where there is none of that name, by our own hash."""
    named = [model for model in models if name and _stem(name).casefold() in _names(model)]
    alike = [model for model in named or models if digits and digits in _model_hashes(model.path)]
    if alike or named:
        found = (alike or named)[0]
        # A1111 writes another hash, of 10 digits, for which the whole file would have to be read.
        if not alike and len(digits) == len(weights.short_hash(Path(__file__))) and _model_hashes(found.path):
            remarks.append(f"The model {name} there and the one here have the same name, but other weights.")
        return found
    if name or digits:
        remarks.append(f"There is no model {_short(name or digits)} here: the form keeps the one that it has.")
    else:
        remarks.append("The picture doesn't say which model painted it: the form keeps the one that it has.")
    return None


def _names(known: Known) -> set[str]:
    return {each.casefold() for each in (known.name, _stem(known.name), known.path.name, _stem(known.path.name), known.path.resolve().name)}


def _model_hashes(path: Path) -> set[str]:
    """As our own pictures have them; of a diffusers folder, its UNet's."""
    files = [path] if path.is_file() else sorted((path / "unet").glob("*.safetensors"))
    try:
        return {weights.short_hash(file) for file in files}
    except OSError:
        return set()


def _find_lora(name: str, digits: str, loras: Sequence[Known], remarks: list[str], kind: str = "LoRA") -> Known | None:
    """By its file's name; of several of that name, the one with that hash."""
    named = [lora for lora in loras if name.casefold() in (lora.path.stem.casefold(), _stem(lora.name).casefold())]
    if not named:
        remarks.append(f"There is no {kind} {_short(name)} here: the cells are painted without it.")
        return None
    alike = [lora for lora in named if digits and _has_hash(lora.path, digits)]
    if digits and not alike:
        remarks.append(f"The {kind} {name} there and the one here have the same name, but other weights.")
    elif not digits and len(named) > 1:
        remarks.append(f"There are {len(named)} {kind}s {_short(name)} here: {named[0].name} is taken.")
    return (alike or named)[0]


def _find_vae(name: str, digits: str, vaes: Sequence[Known], remarks: list[str]) -> Known | None:
    """By its file's name; of several of that name, the one with that hash."""
    if not name:
        return None
    named = [vae for vae in vaes if _stem(name).casefold() in _names(vae)]
    if not named:
        remarks.append(f"There is no VAE {_short(name)} here: the model's own is used.")
        return None
    alike = [vae for vae in named if digits and _vae_has_hash(vae.path, digits)]
    if digits and not alike:
        remarks.append(f"The VAE {name} there and the one here have the same name, but other weights.")
    return (alike or named)[0]


def _vae_has_hash(vae: Path, digits: str) -> bool:
    try:
        return vae_hash(vae).startswith(digits.lower())
    except (OSError, UserError):
        return False


def _has_hash(file: Path, digits: str) -> bool:
    try:
        return lora_hash(file).startswith(digits.lower())
    except OSError:
        return False


def _axes(
    infotext: Infotext, models: Sequence[Known], loras: Sequence[Known], taken: Mapping[str, Any], remarks: list[str]
) -> dict[str, str]:
    """x, y and z of an X/Y/Z plot, those that cannot be had empty; nothing where there is no plot or nothing is left of it."""
    ours = {title.casefold(): name for name, title in A1111_NAMES.items()} | {axis.title.casefold(): name for name, axis in AXES.items()}
    found: dict[str, str] = {}
    for place, (kind, values) in infotext.axes.items():
        name = ours.get(kind.casefold(), "")
        lines: list[str] = []
        if not name:
            remarks.append(f"The axis {_short(kind)} ({place}) has no counterpart here.")
        elif name == "trigger" and TRIGGER_MARK not in infotext.prompt:
            remarks.append(f"The axis {kind} ({place}) needs a prompt with {TRIGGER_MARK}, in which the picture has the word itself.")
        elif name == "epoch" and not taken["run"]:
            remarks.append(f"The axis {kind} ({place}) needs a training run, and the picture has no LoRA of one that is here.")
        else:
            for value in _values(values) if name in ("sampler", "model", "lora") else []:
                lines += _axis_value(name, value, models, loras, remarks)
            line = ", ".join(map(_csv, lines)) or (values if name not in ("sampler", "model", "lora") else "")
            if line.strip():
                found |= {f"{place}.axis": name, f"{place}.values": line}
            else:
                remarks.append(f"Nothing is left of the axis {kind} ({place}).")
    if not found:
        return {}
    return {f"{place}.{part}": found.get(f"{place}.{part}", "") for place in "xyz" for part in ("axis", "values")}


def _axis_value(name: str, value: str, models: Sequence[Known], loras: Sequence[Known], remarks: list[str]) -> list[str]:
    """A value that is a name, as we call it."""
    if name == "sampler":
        sampler, remark = _our_sampler(value, "")
        remarks += [remark] if remark else []
        return [SAMPLER_TITLES[sampler]]
    if name == "lora" and value.casefold() in ("none", "no lora"):
        return ["none"]
    # A1111 lists a checkpoint as "folder/name.safetensors [hash]".
    bare = re.sub(r"\s*\[[0-9a-f]+\]$", "", value)
    said: list[str] = []
    known = _find_model(bare, "", models, said) if name == "model" else _find_lora(_stem(bare), "", loras, said)
    if known:
        return [known.name]
    remarks.append(f"There is no {'model' if name == 'model' else 'LoRA'} {_short(bare)} here: the axis goes without it.")
    return []


def _values(line: str) -> list[str]:
    """Of a line of values as A1111 reads it: CSV."""
    try:
        rows = list(csv.reader(line.splitlines(), skipinitialspace=True))
    except csv.Error:
        return []
    return [value.strip() for row in rows for value in row if value.strip()]


def _csv(value: str) -> str:
    return '"' + value.replace('"', '""') + '"' if "," in value or '"' in value else value


TAKEN_OVER = {
    "Steps",
    "Sampler",
    "Schedule type",
    "CFG scale",
    "Seed",
    "Size",
    "Model hash",
    "Model",
    "VAE",
    "VAE hash",
    "Clip skip",
    "Lora hashes",
    "Script",
    "Version",
}
PLOT = re.compile(r"(Fixed )?[XYZ] (Type|Values)")
SAID = {
    "Hires": "It was made larger in a second pass ({keys}): here it is painted once, at its first size.",
    "Denoising strength": "It was painted over another picture or in a second pass (denoising strength {value}), which a grid doesn't do.",
    "Variation seed": "It is a variation ({keys}), which a grid doesn't do.",
    "TI hashes": "It was painted with textual inversions ({value}), which a grid doesn't have.",
    "Refiner": "A refiner finished it ({keys}), which a grid doesn't have.",
}
"""How settings begin that change the picture and have no counterpart -> what is said about them."""
WEIGHTED = re.compile(r"(?<!\\)\(|(?<!\\)\[|\b(BREAK|AND)\b")


def _without_counterpart(infotext: Infotext) -> Iterator[str]:
    """A sentence for each thing that a grid does not do."""
    texts = infotext.prompt.replace(TRIGGER_MARK, "") + infotext.negative_prompt
    if WEIGHTED.search(texts):
        yield "Brackets, BREAK and AND in a prompt are plain text here: they give words no weight."
    left = {key: value for key, value in infotext.settings.items() if key not in TAKEN_OVER and not PLOT.fullmatch(key)}
    for start, sentence in SAID.items():
        of_kind = {key: value for key, value in left.items() if key.startswith(start)}
        for key in of_kind:
            del left[key]
        if of_kind:
            keys = ", ".join(f"{key}: {value}" for key, value in of_kind.items())
            yield sentence.format(value=_clipped(of_kind.get(start, keys)), keys=_clipped(keys))
    if left:
        yield f"These settings have no counterpart here: {_clipped(', '.join(left))}."


def _clipped(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"
