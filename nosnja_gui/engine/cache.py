"""Encoded pictures and captions, computed once and kept on disk and in memory under what they were made of.

A key holds the content of the picture (or the caption), how it was fitted, and the weights that encoded it: a changed
picture, caption, size or model never meets an old entry, and copies of a picture share one.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from nosnja_gui.dataset import masks
from nosnja_gui.dataset.images import content_key, fit, load_rgb
from nosnja_gui.engine.objectives import weight_places
from nosnja_gui.families import Family, Parts, TextEncoding
from nosnja_gui.jobs import LossSettings

IN_MEMORY_OF_THE_DEVICE = 2**30
"""Tables up to this many bytes live on the GPU; larger ones stay in main memory and are copied batch by batch."""
PIXELS_AT_ONCE = 4 * 512 * 512
CAPTIONS_AT_ONCE = 32
Advance = Callable[[int], None]
Tensors = dict[str, torch.Tensor]


class Cache:
    """A few named tensors per file, with a checksum: what was cut off or changed on the disk counts as absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Tensors | None:
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            content = self._file(key).read_bytes()
            tensors = load(content)
            about = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
            return tensors if about["checksum"] == checksum(tensors) else None
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None

    def put(self, key: str, tensors: Tensors) -> None:
        from safetensors.torch import save

        file = self._file(key)
        # Not synced to the disk, as results are: after a power cut the checksum tells, and the entry is made again.
        temporary = file.with_suffix(f".{os.getpid()}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(save(tensors, {"checksum": checksum(tensors)}))
            os.replace(temporary, file)
        except OSError:
            # A cache that can't be written (full disk, read-only folder) costs time, not the training.
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def checksum(tensors: Tensors) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@dataclass(frozen=True)
class View:
    """A picture as it is trained on: brought to a size, perhaps mirrored."""

    path: Path
    width: int
    height: int
    mirrored: bool = False
    original: tuple[int, int] | None = None
    """Width and height of the picture as it is on the disk, where that matters."""

    @property
    def framing(self) -> tuple[int, int, int, int, int, int]:
        """Height and width of the original, top and left of the crop once it is scaled, height and width that it is cropped to."""
        width, height = self.original or (self.width, self.height)
        scale = max(self.width / width, self.height / height)
        top, left = (round((side * scale - kept) / 2) for side, kept in ((height, self.height), (width, self.width)))
        return height, width, max(0, top), max(0, left), self.height, self.width


@dataclass
class Latents:
    """Mean and standard deviation of the latents of all views, by size."""

    tables: dict[tuple[int, int], torch.Tensor]  # size -> (views of that size, 2, channels, height/8, width/8), fp32
    rows: dict[View, int]
    framings: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)  # size -> (views of that size, 6), fp32
    weights: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)  # size -> (views of that size, 1, height/8, width/8)

    def framing(self, views: Sequence[View], device: torch.device) -> torch.Tensor:
        """How views of one size were cut out of their pictures (batch, 6), see `View.framing`."""
        return rows_of(self.framings[views[0].width, views[0].height], [self.rows[view] for view in views], device)

    def places(self, views: Sequence[View], device: torch.device) -> torch.Tensor | None:
        """How much each place of views of one size counts (batch, 1, h, w); None where all of them do alike."""
        table = self.weights.get((views[0].width, views[0].height))
        return None if table is None else rows_of(table, [self.rows[view] for view in views], device)

    def of(self, views: Sequence[View], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation (batch, channels, h, w) of views of one size."""
        table = self.tables[views[0].width, views[0].height]
        mean, deviation = rows_of(table, [self.rows[view] for view in views], device).unbind(1)
        return mean, deviation


@dataclass
class Encodings:
    """Text encodings by caption."""

    table: torch.Tensor  # (captions, tokens, width)
    rows: dict[str, int]
    pooled: torch.Tensor | None = None  # (captions, width)

    def of(self, captions: Sequence[str], device: torch.device) -> TextEncoding:
        rows = [self.rows[caption] for caption in captions]
        return TextEncoding(rows_of(self.table, rows, device), None if self.pooled is None else rows_of(self.pooled, rows, device))


def rows_of(table: torch.Tensor, rows: list[int], device: torch.device) -> torch.Tensor:
    """table[rows] on the device without waiting for it: an index copied the usual way would stall the GPU at every step."""
    index = torch.tensor(rows).to(table.device, non_blocking=True)
    return table.index_select(0, index).to(device, non_blocking=True)


def encode_pictures(family: Family, parts: Parts, views: Iterable[View], cache: Cache, advance: Advance | None = None) -> Latents:
    """Latents of every view. Raises UserError for a picture that can't be read."""
    model = f"{weights_key(parts.vae)} {parts.vae.dtype}"
    tables, rows, framings = {}, {}, {}
    by_size = sorted(set(views), key=lambda view: (view.width, view.height, str(view.path), view.mirrored))
    with ThreadPoolExecutor(max_workers=max(1, min(8, torch.get_num_threads()))) as readers:
        for size, group in itertools.groupby(by_size, key=lambda view: (view.width, view.height)):
            of_size = list(group)
            keys = [key_of("latents", content_key(view.path), *size, view.mirrored, model) for view in of_size]

            def encode(chosen: list[int], of_size: list[View] = of_size) -> Tensors:
                pixels = torch.stack(list(readers.map(load_pixels, [of_size[index] for index in chosen])))
                return {"latents": family.encode_images(parts, pixels.to(parts.device))}

            encoded = through_cache(cache, keys, encode, max(1, PIXELS_AT_ONCE // (size[0] * size[1])), advance)
            tables[size] = place(encoded["latents"], parts.device)
            framings[size] = place(torch.tensor([view.framing for view in of_size], dtype=torch.float32), parts.device)
            rows.update({view: row for row, view in enumerate(of_size)})
    return Latents(tables, rows, framings)


def weigh_places(
    latents: Latents, settings: LossSettings, factor: int, cache: Cache, device: torch.device, advance: Advance | None = None
) -> None:
    """Fill in how much each place of each view counts, for the sizes of which a view has a mask or a face.

    A latent is `factor` pixels wide. Raises UserError for a mask or a list of faces that can't be read.
    """
    beside = masks.find({view.path for view in latents.rows})
    with ThreadPoolExecutor(max_workers=max(1, min(8, torch.get_num_threads()))) as readers:
        # Views stand in `rows` size by size, each in its row.
        for size, group in itertools.groupby(latents.rows, key=lambda view: (view.width, view.height)):
            given = [(view, settings, beside.get(view.path, masks.Beside()), factor) for view in group]

            def fitted(chosen: list[int], given: list[Any] = given) -> Tensors:
                return {"places": torch.stack(list(readers.map(_places, *zip(*(given[row] for row in chosen), strict=True))))}

            keys = [_key_of_places(*one) for one in given]
            mask, faces = through_cache(cache, keys, fitted, PIXELS_AT_ONCE // (size[0] * size[1]) + 1, advance)["places"].split(1, dim=1)
            if mask.min() < 1 or faces.max() > 0:
                latents.weights[size] = place(weight_places(mask, faces, settings), device)


def _key_of_places(view: View, settings: LossSettings, beside: masks.Beside, factor: int) -> str:
    made_of = [settings.masked, content_key(view.path)] if settings.masked != "off" else []
    made_of += [content_key(file) if file else "" for file in (beside.mask, beside.faces)]
    return key_of("places", *made_of, settings.face_weight != 1, view.original, view.width, view.height, view.mirrored, factor)


def _places(view: View, settings: LossSettings, beside: masks.Beside, factor: int) -> torch.Tensor:
    """What of each place is in the mask and what in a face (2, height/factor, width/factor), fitted as the picture is."""
    size = view.original or (view.width, view.height)
    mask = masks.load(view.path, settings.masked, beside.mask, size)
    faces = masks.draw_faces(beside.faces, size) if beside.faces and settings.face_weight != 1 else None
    both = [Image.new("L", size, 255) if mask is None else mask, Image.new("L", size) if faces is None else faces]
    pixels = torch.stack([pixels_of(fit(image, view.width, view.height), view.mirrored)[0] for image in both])
    return torch.nn.functional.avg_pool2d(pixels.float() / 255, factor)


def encode_captions(
    family: Family,
    parts: Parts,
    captions: Iterable[str],
    clip_skip: int,
    cache: Cache,
    advance: Advance | None = None,
    windows: int = 1,
    weighted: bool = False,
) -> Encodings:
    """Encodings of every caption in the model's precision, all of as many windows of 75 tokens."""
    distinct = sorted(set(captions))
    model = " ".join(f"{weights_key(encoder)} {encoder.dtype}" for encoder in parts.text_encoders)
    # Usual captions keep the keys that they always had.
    how = (windows, weighted) if windows > 1 or weighted else ()
    keys = [key_of("text", caption, clip_skip, model, *how) for caption in distinct]

    def encode(chosen: list[int]) -> Tensors:
        text = family.encode_prompts(
            parts, [distinct[index] for index in chosen], clip_skip, windows, min_chunks=windows, weighted=weighted
        )
        return {"hidden": text.hidden} | ({} if text.pooled is None else {"pooled": text.pooled})

    encoded = {name: place(table, parts.device) for name, table in through_cache(cache, keys, encode, CAPTIONS_AT_ONCE, advance).items()}
    return Encodings(encoded["hidden"], {caption: row for row, caption in enumerate(distinct)}, encoded.get("pooled"))


def through_cache(
    cache: Cache, keys: list[str], encode: Callable[[list[int]], Tensors], batch_size: int, advance: Advance | None
) -> Tensors:
    """A row per key (keys, ...) of each tensor: those on disk are read, the others encoded in batches of indices and written."""
    found: dict[str, Tensors] = {}
    missing: dict[str, int] = {}
    for index, key in enumerate(keys):
        if key not in found and key not in missing:
            entry = cache.get(key)
            if entry is None:
                missing[key] = index
            else:
                found[key] = entry
    if advance:
        advance(len(keys) - len(missing))
    for chosen in _chunks(list(missing.values()), batch_size):
        with torch.no_grad():
            encoded = {name: tensor.cpu() for name, tensor in encode(chosen).items()}
        for row, index in enumerate(chosen):
            found[keys[index]] = {name: tensor[row].clone(memory_format=torch.contiguous_format) for name, tensor in encoded.items()}
            cache.put(keys[index], found[keys[index]])
        if advance:
            advance(len(chosen))
    return {name: torch.stack([found[key][name] for key in keys]) for name in found[keys[0]]}


def load_pixels(view: View) -> torch.Tensor:
    """(3, height, width) in [-1, 1]."""
    return pixels_of(fit(load_rgb(view.path), view.width, view.height), view.mirrored).float() / 127.5 - 1


def pixels_of(image: Image.Image, mirrored: bool) -> torch.Tensor:
    """(channels, height, width) of an 8-bit picture."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, -1)
    return (pixels.flip(1) if mirrored else pixels).permute(2, 0, 1)


def place(table: torch.Tensor, device: torch.device) -> torch.Tensor:
    return table.to(device) if table.nbytes <= IN_MEMORY_OF_THE_DEVICE else table


def key_of(*parts: object) -> str:
    return hashlib.sha256("\0".join(str(part) for part in parts).encode()).hexdigest()


def weights_key(module: torch.nn.Module) -> str:
    """Tells two sets of weights apart by some values of every tensor: fine-tunes differ in all of them."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        flat = tensor.detach().flatten()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(flat[:: max(1, len(flat) // 64)].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _chunks(items: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
