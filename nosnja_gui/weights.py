"""Looking at .safetensors files without loading them: are they whole, what is in them, which ones are they; and writing large ones.

Knows not what the tensors are for.
"""

import hashlib
import itertools
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nosnja_gui.files import free_bytes, replacing
from nosnja_gui.settings import UserError

if TYPE_CHECKING:
    import torch
    from typing_extensions import Buffer

PICKLED = (".pt", ".bin")
"""How files end that torch itself wrote; small trained things still come so."""
MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors format itself."""
SAMPLED_BLOCKS, BLOCK_BYTES = 256, 64 * 1024

NUMBER_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 1),
}
"""Size of one number by the format's name (safetensors, src/tensor.rs); without the formats below a byte."""

TORCH_NAMES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64", "BOOL": "bool"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"},
    **{f"{short}{bits}": f"{long}{bits}" for short, long in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
}
"""What torch calls the format's numbers (safetensors, bindings/python/py_src/safetensors/torch.py)."""

Weights = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name of each weight -> number format (F16, BF16, F32 ...) and shape."""


def header(file: Path) -> dict[str, Any]:
    """Names -> {dtype, shape, data_offsets} of a whole file. Raises UserError for a missing, truncated or foreign one."""
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            plausible = len(start) == 8 and 2 <= length <= min(MAX_HEADER_BYTES, size - 8)
            text = stream.read(length) if plausible else start + stream.read(200)
    except FileNotFoundError:
        raise UserError(f"There is no file {file}; give the path of a .safetensors file.") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from None
    if text.startswith(b"version https://git-lfs"):
        raise UserError(f"{file} is only a Git LFS pointer, not the weights: fetch the file itself ('git lfs pull').")
    try:
        entries = json.loads(text, object_pairs_hook=_unique) if plausible else None
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]  # type: ignore[union-attr]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise UserError(f"{file} is damaged or no .safetensors file (its header is not readable): copy or download it again.") from None
    if not ends:
        raise UserError(f"{file} holds no weights at all: copy or download it again.")
    if 8 + length + max(ends) != size:
        raise UserError(f"{file} is damaged: {size:,} bytes instead of {8 + length + max(ends):,}; copy or download it again.")
    return entries  # type: ignore[return-value]


def shapes(file: Path) -> Weights:
    """Number format and shape of each weight. Raises UserError as `header` does."""
    try:
        state = file.stat()
    except OSError:
        header(file)  # says what is wrong with it
        raise
    return _shapes(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=32)
def _shapes(file: Path, size: int, modified_ns: int) -> Weights:
    entries = header(file)
    try:
        return {name: (str(entry["dtype"]), tuple(map(int, entry["shape"]))) for name, entry in entries.items() if name != "__metadata__"}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file} is damaged (its header is not readable): copy or download it again.") from None


def metadata(file: Path) -> dict[str, str]:
    """What a file says about itself. Raises UserError as `header` does."""
    said = header(file).get("__metadata__")
    return {str(name): str(value) for name, value in said.items()} if isinstance(said, dict) else {}


PRECISIONS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8", "F8_E5M2": "float8"}
"""Number formats as people and torch call them."""
STRUCT_CODES = {"F64": "d", "F32": "f", "F16": "e", "BF16": ""}
"""How struct calls a number; bfloat16, which it doesn't know, is the upper half of a float32."""


def numbers(file: Path, name: str, entries: Mapping[str, Any] | None = None) -> list[float]:
    """The values of one small tensor, read without any library. Raises UserError for a damaged file, KeyError without that name."""
    entry = (entries or header(file))[name]
    size, code = NUMBER_BYTES[entry["dtype"]], STRUCT_CODES[entry["dtype"]]
    with open(file, "rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        stream.seek(start + entry["data_offsets"][0])
        raw = stream.read(entry["data_offsets"][1] - entry["data_offsets"][0])
    if not code:
        raw = b"".join(b"\0\0" + raw[place : place + 2] for place in range(0, len(raw), 2))
        size, code = 4, "f"
    return list(struct.unpack(f"<{len(raw) // size}{code}", raw))


class Reader:
    """The tensors of a .safetensors file one by one, for a `with` block. Raises UserError for a damaged file.

    Each is read into memory of its own: what was read stays as it is whatever becomes of the file, and the file itself takes up no
    memory, as one that is mapped would.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._entries = {name: entry for name, entry in header(file).items() if name != "__metadata__"}

    def __enter__(self) -> "Reader":
        self._stream = open(self.file, "rb", buffering=0)
        self._start = 8 + int.from_bytes(self._stream.read(8), "little")
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def keys(self) -> list[str]:
        return list(self._entries)

    def offset_keys(self) -> list[str]:
        """The names in the order in which the tensors lie there."""
        return sorted(self._entries, key=lambda name: self._entries[name]["data_offsets"])

    def get_tensor(self, name: str) -> "torch.Tensor":
        return self._read(name)

    def get_rows(self, name: str, first: int, last: int) -> "torch.Tensor":
        """Of its first axis, from `first` to before `last`."""
        return self._read(name, first, last)

    def _read(self, name: str, first: int = 0, last: int | None = None) -> "torch.Tensor":
        import torch

        entry = self._entries[name]
        try:
            shape, (begin, end) = list(map(int, entry["shape"])), entry["data_offsets"]
            number = getattr(torch, TORCH_NAMES[entry["dtype"]])
            if end - begin != NUMBER_BYTES[entry["dtype"]] * math.prod(shape) or begin < 0:
                raise ValueError
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(f"{self.file} is damaged ('{name}' is not readable): copy or download it again.") from None
        if last is not None:
            row = (end - begin) // shape[0]
            begin, shape[0] = begin + first * row, last - first
        tensor = torch.empty(shape, dtype=number)
        if tensor.numel():
            self._stream.seek(self._start + begin)
            room = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
            while room:
                count = self._stream.readinto(room)
                if not count:
                    raise UserError(f"{self.file} is damaged, it ends within '{name}': copy or download it again.")
                room = room[count:]
        return tensor


def pickled(file: Path) -> Any:
    """What torch saved in a small file, read without running anything of it. Raises UserError for what can't be read so."""
    import torch

    try:
        # The first textual inversions were saved as a module that only holds parameters.
        with torch.serialization.safe_globals([torch.nn.ParameterDict, set]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"There is no file {file}: give the path of a file.") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or type(error).__name__}.") from None
    except Exception as error:  # a damaged or hostile file can be wrong in every way there is
        raise UserError(f"{file} is damaged or cannot be read safely ({type(error).__name__}): get a .safetensors of it.") from None


def joined(content: Any, start: str = "") -> Iterator[str]:
    """Names of all that is in a pickled file, those of what lies inside of something joined to its name by a dot."""
    inside = content.items() if hasattr(content, "items") else enumerate(content) if isinstance(content, list | tuple) else None
    if inside is None:
        yield start
    else:
        for name, value in inside:
            yield from joined(value, f"{start}.{name}" if start else str(name))


def opened(file: Path) -> Reader:
    """The file for reading tensors one by one. Raises UserError for a damaged one."""
    return Reader(file)


def tensors(file: Path) -> Iterator[tuple[str, "torch.Tensor"]]:
    """Each tensor of a file, in the order in which they lie there."""
    with opened(file) as content:
        for name in content.offset_keys():
            yield name, content.get_tensor(name)


def write_stream(file: Path, entries: Weights, produce: "Callable[[str], Buffer]", metadata: Mapping[str, str] | None = None) -> None:
    """Write a .safetensors file tensor by tensor, so that only one of them is in memory at a time; replaces `file` when it is whole.

    `produce` is called once for each name, with larger number formats first as the format's own library has it (every tensor then
    begins at a multiple of its numbers' size), else in the order of `entries`. It gives the raw little-endian numbers, row by row:
    bytes, a contiguous NumPy array. Raises UserError where the disk has no room for it, ValueError for a buffer of another size.
    """
    start, lengths = _arranged(entries, metadata)
    needed, free = len(start) + sum(lengths.values()), free_bytes(file.parent)
    if free < needed:
        raise UserError(f"The disk of {file} is too full: {needed / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free; make room.")
    with replacing(file) as temporary, open(temporary, "wb") as stream:
        write_to(stream, entries, produce, metadata)


def write_to(stream: "Stream", entries: Weights, produce: "Callable[[str], Buffer]", metadata: Mapping[str, str] | None = None) -> None:
    """`write_stream` to wherever. Raises ValueError for a buffer of another size, and what the stream raises."""
    start, lengths = _arranged(entries, metadata)
    stream.write(start)
    for name, length in lengths.items():
        content = memoryview(produce(name)).cast("B") if length else b""
        if len(content) != length:
            raise ValueError(f"'{name}' has {len(content):,} bytes instead of the {length:,} of its format and shape")
        stream.write(content)


class Stream(Protocol):
    """What can be written to, all of it at once."""

    def write(self, content: "Buffer", /) -> int: ...


def _arranged(entries: Weights, metadata: Mapping[str, str] | None) -> tuple[bytes, dict[str, int]]:
    """How such a file begins, and the bytes of each tensor in the order in which they lie there."""
    names = sorted(entries, key=lambda name: -NUMBER_BYTES[entries[name][0]])
    lengths = {name: NUMBER_BYTES[entries[name][0]] * math.prod(entries[name][1]) for name in names}
    ends = dict(zip(names, itertools.accumulate(lengths[name] for name in names), strict=True))
    described: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for name in names:
        number_format, shape = entries[name]
        offsets = [ends[name] - lengths[name], ends[name]]
        described[name] = {"dtype": number_format, "shape": list(shape), "data_offsets": offsets}
    start = json.dumps(described, separators=(",", ":")).encode()
    start += b" " * (-len(start) % 8)
    return len(start).to_bytes(8, "little") + start, lengths


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name is given twice")
    return values


def short_hash(file: Path, digits: int = 12) -> str:
    """Tells weight files apart in an instant: sha256 of the size, the first and last block and blocks spread evenly between.

    Fine-tunes of one model differ in all of their tensors, so sampled blocks tell them apart; files of up to 16 MiB are read whole.
    """
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(file, "rb") as stream:
        if size <= SAMPLED_BLOCKS * BLOCK_BYTES:
            digest.update(stream.read())
        else:
            for block in range(SAMPLED_BLOCKS):
                stream.seek((size - BLOCK_BYTES) * block // (SAMPLED_BLOCKS - 1))
                digest.update(stream.read(BLOCK_BYTES))
    return digest.hexdigest()[:digits]
