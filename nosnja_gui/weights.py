"""Looking at .safetensors files without loading them: are they whole, what is in them, which ones are they.

Knows neither torch nor what the tensors are for.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from nosnja_gui.settings import UserError

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors format itself."""
SAMPLED_BLOCKS, BLOCK_BYTES = 256, 64 * 1024


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
