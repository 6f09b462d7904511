"""Pickled checkpoints (.ckpt, .pt, .pth, .bin) into .safetensors, without ever running what is in them.

A pickle is a program. This one is only looked at first: whatever it names must be on the short lists below, and what a training left
behind besides weights (callbacks of Lightning, NumPy's numbers) gets stand-ins that do nothing. Then torch's own reader for weights
reads it, which by itself calls nothing either. Nothing is imported by name, and the file is mapped, not copied.
"""

from __future__ import annotations

import io
import pickletools
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # what torch and pickle call Python 2's modules today
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy
import torch

from nosnja_gui import weights
from nosnja_gui.families.loading import first_line
from nosnja_gui.models import WEIGHTS, family_of
from nosnja_gui.settings import UserError
from nosnja_gui.sources import PICKLED, described

NUMBER_FORMATS = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.float64: "F32",  # nobody trains in it, it is NumPy's default that slipped in
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
NO_WEIGHTS_OF_THE_MODEL = ("model_ema.", "loss.")
"""Beginnings of names: the running average beside the model itself (ldm/modules/ema.py), and the networks that an autoencoder was judged
by in its training (ldm/modules/losses/contperceptual.py; both CompVis/latent-diffusion)."""
NESTED = ("state_dict", "model", "params_ema", "params")
"""Where a checkpoint keeps its weights: Lightning, a few trainers, upscalers (BasicSR)."""
EMBEDDING = "string_to_param"
"""Where A1111's textual inversions keep theirs (modules/textual_inversion/textual_inversion.py), under the name *."""

# What a pickle may name

PLAIN = frozenset({
    "collections.OrderedDict", "collections.Counter", "builtins.set", "builtins.bytearray", "_codecs.encode",
    "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter", "torch.Size", "torch.device",
    "torch.storage.UntypedStorage", "torch.storage.TypedStorage", *map(str, NUMBER_FORMATS),
})  # fmt: skip
"""What plain tensors and containers are made of; torch's reader has each of these itself."""
STORAGE = re.compile(r"torch\.(cuda\.)?[A-Z][A-Za-z0-9]*Storage")
LEFTOVERS = frozenset({
    "numpy.dtype", "numpy.ndarray", "typing.Any", "builtins.dict", "builtins.list", "builtins.int", "builtins.float", "builtins.str",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
})  # fmt: skip
"""What besides is in real checkpoints of Stable Diffusion (the exceptions of A1111, modules/safe.py) and in hyperparameters."""
LEFTOVER_CLASS = re.compile(r"(pytorch_lightning|lightning|lightning_fabric|omegaconf)(\.[a-z_]+)+\.[A-Z]\w*")
DICTIONARIES = ("pytorch_lightning.utilities.parsing.AttributeDict", "lightning.fabric.utilities.data.AttributeDict")
PARAMETERS = "torch.nn.modules.container.ParameterDict"

RECORD = re.compile(r"([^/]+)/(data\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id|data/\d+)")
"""What torch.save puts into its archive."""
LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
"""How files of torch before 1.6 begin: its magic number as a pickle."""
LEGACY_PICKLES = 5
STRINGS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING")


class Inert:
    """Stands where the pickle wanted something else: takes everything and does nothing."""

    def __new__(cls, *arguments: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class InertParameters(Inert):
    """Of a ParameterDict the parameters are wanted, though nothing else of it."""

    parameters: Mapping[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        found = state.get("_parameters") if isinstance(state, dict) else None
        self.parameters = found if isinstance(found, dict) else {}


def inert_dictionary(*arguments: Any) -> OrderedDict:
    """For a defaultdict: its items are put in afterwards."""
    return OrderedDict()


# Converting


@dataclass(frozen=True)
class Conversion:
    """What became of a file."""

    target: Path
    family: str
    """Name of the family that recognises it; empty where it is no complete base model."""
    kind: str
    """What it is in words: a Stable Diffusion 1.x model, a VAE alone ..."""
    weights: int
    size_bytes: int
    left_out: tuple[str, ...]
    """What was in the file and no weight of the model, in words."""


def target_beside(file: Path) -> Path:
    """Where a converted file is looked for: beside it; transformers calls the same weights differently by the ending."""
    return file.with_name("model.safetensors") if file.name == "pytorch_model.bin" else file.with_suffix(WEIGHTS)


def convert(file: Path, target: Path, tell: Callable[[int, int], None] | None = None) -> Conversion:
    """Write the weights of a pickled checkpoint as `target` (.safetensors), which is replaced if it exists.

    Memory: one weight at a time beside the mapped file; a file of torch before 1.6 cannot be mapped and is read whole. `tell` hears the
    bytes that are written and those of all weights. float64 becomes float32.

    Raises UserError in one sentence for a file that is missing, none of these, damaged, or would run something; for a full disk.
    """
    if target.suffix.lower() != WEIGHTS:
        raise UserError(f"The converted file would be {target}: give it a name that ends with {WEIGHTS}.")
    content = read(file)
    tensors, left_out = _weights_of(content)
    if not tensors:
        raise UserError(f"{file} holds no weights by name: choose a checkpoint, a VAE or an embedding.")
    entries = {name: (NUMBER_FORMATS[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}
    total = sum(weights.NUMBER_BYTES[number] * tensors[name].numel() for name, (number, _) in entries.items())
    written = 0

    def produce(name: str) -> numpy.ndarray:
        nonlocal written
        raw = _raw(tensors[name])
        written += raw.nbytes
        if tell:
            tell(written, total)
        return raw

    try:
        weights.write_stream(target, entries, produce, {"format": "pt"})
    except PermissionError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}.") from None
    try:
        family = family_of(target)
        found = family.name, f"a {family.title} model"
    except UserError:
        found = "", described(entries)
    return Conversion(target, *found, len(entries), target.stat().st_size, left_out)


def _raw(tensor: torch.Tensor) -> numpy.ndarray:
    """Its numbers as bytes, row by row; a view of the mapped file where they lie like that already."""
    tensor = tensor.detach()
    tensor = tensor.float() if tensor.dtype == torch.float64 else tensor
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


def _weights_of(content: Any) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Name -> weight, and what is left out, in words."""
    if not isinstance(content, Mapping):
        return {}, ()
    left_out: list[str] = []
    if EMBEDDING in content:
        parameters = content[EMBEDDING]
        parameters = parameters.parameters if isinstance(parameters, InertParameters) else parameters
        vectors = [value for value in parameters.values() if isinstance(value, torch.Tensor)] if isinstance(parameters, Mapping) else []
        inside: Mapping[Any, Any] = {"emb_params": vectors[0]} if len(vectors) == 1 else {}
        left_out += [str(name) for name in content if name != EMBEDDING]
    else:
        within = next((name for name in NESTED if isinstance(content.get(name), Mapping)), None)
        inside = content if within is None else content[within]
        left_out += [str(name) for name in content if within is not None and name != within]
    found, without = {}, Counter[str]()
    for name, value in inside.items():
        start = next((start for start in NO_WEIGHTS_OF_THE_MODEL if str(name).startswith(start)), None)
        if start:
            without[f"beginning with '{start}'"] += 1
        elif not isinstance(name, str) or not isinstance(value, torch.Tensor) or value.dtype not in NUMBER_FORMATS:
            without["that are no weights"] += 1
        else:
            found[name] = value
    return found, (*(f"{count:,} entries {which}" for which, count in without.items()), *left_out)


# Reading


def read(file: Path) -> Any:
    """What a pickled file holds, its tensors mapped from the disk and everything that is no plain data as `Inert`.

    Raises UserError in one sentence as `convert` does.
    """
    try:
        with open(file, "rb") as stream:
            is_archive = _look_at(file, stream)
    except FileNotFoundError:
        raise UserError(f"There is no file {file}: give the path of a checkpoint ({', '.join(PICKLED)}).") from None
    except IsADirectoryError:
        raise UserError(f"{file} is a folder: give the path of a checkpoint in it ({', '.join(PICKLED)}).") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or first_line(error)}.") from None
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_stand_ins(file, is_archive)):
            warnings.simplefilter("ignore")  # on other pickle protocols; what cannot be read is said below
            return torch.load(file, map_location="cpu", weights_only=True, mmap=is_archive)
    except Exception as error:  # a damaged or hostile file can be wrong in every way there is
        said = re.search(r"(?:GLOBAL|unrecognized function) (\S+)", str(error))
        if said:
            raise _refusal(file, [said[1]]) from None
        raise UserError(f"{file} is damaged or cannot be read safely ({type(error).__name__}): get a .safetensors of it.") from None


def _refusal(file: Path, names: list[str]) -> UserError:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return UserError(f"{file} would run {names[0]}{more}: it may be malicious; get a .safetensors of it.")


def _look_at(file: Path, stream: BinaryIO) -> bool:
    """Whether it is an archive of torch 1.6 or later. Raises UserError for what is none, and for what names anything unknown."""
    start = stream.read(1024)
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{file} is only a Git LFS pointer, not the weights: fetch the file itself ('git lfs pull').")
    if re.match(rb"\s*<(!doctype|html|\?xml)", start, re.IGNORECASE):
        raise UserError(f"{file} is a web page, not a checkpoint: download the file itself, perhaps after logging in.")
    if file.suffix.lower() == WEIGHTS or _is_safetensors(start):
        raise UserError(f"{file} is no pickled checkpoint but a .safetensors file: it needs no conversion, only that ending.")
    is_archive = start.startswith(b"PK\x03\x04")
    if is_archive:
        _check_records(file)
    elif start[257:262] == b"ustar":
        raise UserError(f"{file} is a tar archive, which cannot be read safely: get a .safetensors of it.")
    unknown = [name for name in _named(file, is_archive) if not _is_known(name)]
    if unknown:
        raise _refusal(file, unknown)
    if not is_archive and not start.startswith(LEGACY):
        raise UserError(f"{file} is no checkpoint of PyTorch, or a damaged one: download it again.")
    return is_archive


def _is_safetensors(start: bytes) -> bool:
    return start[8:10] == b'{"' and 2 <= int.from_bytes(start[:8], "little") <= weights.MAX_HEADER_BYTES


def _check_records(file: Path) -> None:
    """Raises UserError unless an archive holds what torch.save writes, each once, and nothing else."""
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            mark = next((record for record in records if record.filename.endswith(".data/serialization_id")), None)
            is_number = mark is None or (mark.file_size <= 64 and archive.read(mark).isdigit())
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError):
        raise UserError(f"{file} is cut off or damaged: copy or download it again.") from None
    names = [record.filename for record in records]
    if any(name.endswith("/constants.pkl") for name in names):
        raise UserError(f"{file} is a TorchScript program, not only weights: get a .safetensors of it.")
    if not any(name.count("/") == 1 and name.endswith("/data.pkl") for name in names):
        raise UserError(f"{file} is a ZIP archive but no checkpoint: unpack it and look for the checkpoint in it.")
    root = names[0].partition("/")[0]
    seen: set[str] = set()
    for name in names:
        found = RECORD.fullmatch(name)
        if not found or found[1] != root or name in seen or (name.endswith("serialization_id") and not is_number):
            raise UserError(f"{file} hides something in {name!r}: it may be malicious; get a .safetensors of it.")
        seen.add(name)
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise UserError(f"{file} was packed anew, which no checkpoint is: get the original file, or a .safetensors of it.")


def _named(file: Path, is_archive: bool) -> list[str]:
    """Everything that the pickles of a file name, such as posix.system, each once in their order."""
    found: dict[str, None] = {}
    try:
        with open(file, "rb") as stream:
            # Of an archive through the reader that torch.load takes, so that both see the same record.
            pickles = io.BytesIO(torch._C.PyTorchFileReader(stream).get_record("data.pkl")) if is_archive else stream
            for _ in range(1 if is_archive else LEGACY_PICKLES):
                for name in _globals(pickles):
                    found[name] = None
    except _NoPickle:
        pass
    except RuntimeError:
        raise UserError(f"{file} is cut off or damaged: copy or download it again.") from None
    return list(found)


class _NoPickle(Exception):
    pass


def _globals(stream: BinaryIO) -> Iterator[str]:
    """What one pickle names, found without following it. Raises _NoPickle where it isn't one (any more)."""
    memory: dict[int, str] = {}
    strings = ["?", "?"]
    try:
        for operation, argument, _ in pickletools.genops(stream):
            if operation.name in STRINGS:
                strings.append(str(argument))
            elif operation.name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
                memory[len(memory) if argument is None else argument] = strings[-1]
            elif operation.name in ("GET", "BINGET", "LONG_BINGET"):
                strings.append(memory.get(argument, "?"))
            elif operation.name in ("GLOBAL", "INST"):
                yield _today(*argument.split(" ", 1))
            elif operation.name == "STACK_GLOBAL":
                yield _today(strings[-2], strings[-1])
            elif operation.name.startswith("EXT"):
                yield f"copyreg extension {argument}"
    except Exception as error:  # bytes that are no pickle
        raise _NoPickle from error


def _today(module: str, name: str) -> str:
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _is_known(name: str) -> bool:
    return name in PLAIN or STORAGE.fullmatch(name) is not None or _stand_in(name) is not None


def _stand_in(name: str) -> Callable[..., Any] | None:
    if name in DICTIONARIES:
        return OrderedDict
    if name == "collections.defaultdict":
        return inert_dictionary
    if name == PARAMETERS:
        return InertParameters
    return Inert if name in LEFTOVERS or LEFTOVER_CLASS.fullmatch(name) else None


def _stand_ins(file: Path, is_archive: bool) -> list[tuple[Callable[..., Any], str]]:
    return [(stand_in, name) for name in _named(file, is_archive) if (stand_in := _stand_in(name))]
