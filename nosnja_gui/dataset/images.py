"""Reading pictures as they come from the world: turned, transparent, 16-bit, cut off or not pictures at all.

Knows nothing of captions or training. Everything comes out as 8-bit RGB, or is refused with a reason.
"""

import contextlib
import functools
import hashlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from PIL import Image, ImageOps

from nosnja_gui.settings import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
"""The only decoders that are tried, whatever a file is called: Pillow knows many more, some of which start programs."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
UNSUPPORTED_SUFFIXES = frozenset({".heic", ".heif", ".avif", ".jxl", ".svg", ".psd", ".raw", ".cr2", ".nef", ".dng", ".ico", ".tga"})
"""Pictures to people, but not to FORMATS: named as left out instead of passed over in silence."""

MAXIMUM_PIXELS = 100_000_000
MAXIMUM_BYTES = 1_000_000_000
MINIMUM_SIDE = 16
READ_BEFORE_LOOKING = 4_000_000
"""Bytes of a file that are read without a look at its header."""

Colours = Literal["rgb", "grey", "cmyk", "transparent", "deep"]
"""`deep` is more than 8 bits of grey; palettes are "rgb"."""
OPAQUE = 250
"""From this alpha on nobody sees a difference."""

_ORIENTATION = 0x0112
_TURNED = {5, 6, 7, 8}
"""EXIF orientations that swap width and height."""


def check(path: Path) -> tuple[int, int]:
    """Width and height as shown (after EXIF orientation), without decoding a sound PNG, JPEG or WebP.

    Raises UserError with the reason for what is not a picture, too big, too small or cut off.
    """
    with _reasons(path), open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > READ_BEFORE_LOOKING:
            _open(file, path)  # before gigabytes are read for nothing
            file.seek(0)
        data = file.read()
        image = _open(data, path)
        width, height = image.size
        turned = _orientation(image, data) in _TURNED
        if _looks_whole(image, data):
            # Only PNG has something to verify, and only a picture whose chunks nobody has read yet.
            (_open(data, path) if _may_hold_exif(image, data) else image).verify()
        else:
            _open(data, path).load()
    return (height, width) if turned else (width, height)


def stored_size(path: Path) -> tuple[int, int]:
    """Width and height from the header alone, as stored: to keep a place for the picture. Raises UserError for what is no picture."""
    with _reasons(path), open(path, "rb") as file:
        return _open(file, path).size


def load_rgb(path: Path) -> Image.Image:
    """The picture's first frame as 8-bit RGB, upright, transparency laid on white. Raises UserError with the reason."""
    with _reasons(path), open(path, "rb") as file:
        image = _open(file, path)
        image.load()
        return _to_rgb(_upright(image))


def load_alpha(path: Path) -> Image.Image | None:
    """How opaque the picture's first frame is, upright, as 8-bit grey; None where it hides nothing. Raises UserError with the reason."""
    with _reasons(path), open(path, "rb") as file:
        image = _open(file, path)
        image.load()
        image = _upright(image)
        if not ("A" in image.mode or "a" in image.mode or "transparency" in image.info):
            return None
        alpha = image.convert("RGBA").getchannel("A")
        return alpha if alpha.getextrema()[0] < OPAQUE else None


def thumbnail(path: Path, side: int) -> Image.Image:
    """Like `load_rgb`, but at most `side` pixels long; large JPEGs are decoded at a fraction of their size, which is much faster."""
    with _reasons(path), open(path, "rb") as file:
        image = _open(file, path)
        image.draft("RGB", (2 * side, 2 * side))
        image.load()
        image = _to_rgb(_upright(image))
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        return image


def colours(path: Path) -> Colours:
    """How a picture's colours are stored. Alpha that hides nothing counts as "rgb". Raises UserError with the reason."""
    with _reasons(path), open(path, "rb") as file:
        image = _open(file, path)
        if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
            return "transparent" if image.convert("RGBA").getchannel("A").getextrema()[0] < OPAQUE else "rgb"
        if image.mode in ("CMYK", "LAB"):
            return "cmyk"
        if image.mode.startswith("I") or image.mode == "F":
            return "deep"
        return "grey" if image.mode in ("1", "L") else "rgb"


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scaled until it covers width x height, then cropped around the centre."""
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), method=Image.Resampling.LANCZOS)


def content_key(path: Path) -> str:
    """sha256 of the file's bytes in hex; read again only when its size or time has changed."""
    state = path.stat()
    return _content_key(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _content_key(path: Path, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _reasons(path: Path) -> Iterator[None]:
    """Turns whatever a decoder throws at a bad file into one sentence."""
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 Mpx on and about odd EXIF; our own limit and checks say what the user needs to know.
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(f"{path} has more than {MAXIMUM_PIXELS // 10**6} million pixels: scale it down.") from None
    except Image.UnidentifiedImageError:
        raise UserError(f"{path} is not a picture in one of the formats {', '.join(FORMATS)}: convert or remove it.") from None
    except FileNotFoundError:
        raise UserError(f"There is no picture {path}.") from None
    except PermissionError:
        raise UserError(f"{path} may not be read: change its permissions.") from None
    except Exception as error:  # decoders raise almost any exception for a damaged file
        raise UserError(f"{path} is damaged or cut off ({_short(error)}): replace or remove it.") from None


def _short(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0][:100] if text else type(error).__name__


def _open(source: bytes | io.BufferedReader, path: Path) -> Image.Image:
    """Opened, sizes checked from the header, nothing decoded."""
    size = len(source) if isinstance(source, bytes) else os.fstat(source.fileno()).st_size
    if size == 0 or size > MAXIMUM_BYTES:
        what = "is an empty file" if size == 0 else f"has more than {MAXIMUM_BYTES // 10**6} MB"
        raise UserError(f"{path} {what}: replace or remove it.")
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    image = Image.open(stream, formats=FORMATS)
    width, height = image.size
    if width * height > MAXIMUM_PIXELS:
        raise UserError(
            f"{path} has {width} x {height} = {width * height // 10**6} million pixels, at most "
            f"{MAXIMUM_PIXELS // 10**6} million can be used: scale it down."
        )
    if min(width, height) < MINIMUM_SIDE:
        raise UserError(f"{path} is {width} x {height} pixels, each side must have at least {MINIMUM_SIDE}: replace or remove it.")
    return image


def _orientation(image: Image.Image, data: bytes) -> int:
    # Pillow decodes a whole PNG to look for an eXIf chunk behind the pixels: only ask where there is one.
    if image.format == "PNG" and not _may_hold_exif(image, data):
        return 1
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF says nothing about the picture itself
        return 1


def _may_hold_exif(image: Image.Image, data: bytes) -> bool:
    return b"eXIf" in data or "Raw profile type exif" in image.info


def _looks_whole(image: Image.Image, data: bytes) -> bool:
    """Whether verify() or the end of the file vouches for the picture; False means: decode it to be sure."""
    if image.format == "PNG":
        return b"IEND" in data[-64:]  # and verify() checks every chunk's checksum
    if image.format in ("JPEG", "MPO"):
        # End-of-image after the last start-of-scan: neither marker can occur inside the compressed data.
        end = data.rfind(b"\xff\xd9")
        return end > data.rfind(b"\xff\xda") >= 0
    if image.format == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 <= len(data)
    return False


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF: show the picture as it is stored
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bit_grey(image)
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(background, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit_grey(image: Image.Image) -> Image.Image:
    """16-bit grey is divided by 257; wider integers and floats are read as 0..1, 0..255 or 0..65535, else stretched."""
    import numpy as np

    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I;16"):
        values = values / 257
    elif low < 0 or high > 65535:
        values = (values - low) / max(high - low, 1e-12) * 255
    elif image.mode == "F" and high <= 1:
        values = values * 255
    elif high > 255:
        values = values / 257
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8), mode="L")
