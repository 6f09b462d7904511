"""Files of textual inversions, in the layouts of A1111 and ComfyUI and of diffusers, and bundled into a LoRA's file. No torch at import.

Facts: A1111 modules/textual_inversion/textual_inversion.py (Embedding.save, create_embedding_from_data) and
extensions-builtin/Lora/networks.py (bundle_emb); diffusers loaders/textual_inversion.py; ComfyUI comfy/sd1_clip.py (load_embed).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nosnja_gui import weights
from nosnja_gui.settings import UserError

if TYPE_CHECKING:
    import torch

WORD = "nosnja_word"
"""Where our files' metadata keep the word; others go by the file's name."""
SINGLE, DOUBLE = "emb_params", ("clip_l", "clip_g")
"""What the vectors are called for one text encoder, and for SDXL's two."""
A1111 = "string_to_param"
BUNDLE = "bundle_emb"
NO_WORDS = (SINGLE, "*", "")
"""Names of vectors that don't tell the word."""


@dataclass(frozen=True)
class Embedding:
    """What a new word is to the text encoders."""

    word: str
    vectors: Mapping[str, torch.Tensor]
    """(vectors, width) by what files call the encoder: emb_params, or clip_l and clip_g."""


def read(file: Path) -> Embedding:
    """Any layout. Raises UserError for a damaged file, one of another kind, and one whose numbers are not finite."""
    if file.suffix.lower() in weights.PICKLED:
        content, said = weights.pickled(file), {}
    else:
        content, said = dict(weights.tensors(file)), weights.metadata(file)
    vectors = _vectors(content)
    if not vectors:
        raise UserError(f"{file} holds no textual inversion: choose another file.")
    _check_inputs(file, content)
    own = next(iter(content)) if list(vectors) == [SINGLE] and len(content) == 1 else ""
    word = said.get(WORD, "") or (own if str(own) not in NO_WORDS and not str(own).startswith(A1111) else "") or file.stem
    return _checked(file, word, vectors)


def bundled(file: Path) -> list[Embedding]:
    """Those that a LoRA's file brings along. Raises UserError as `read` does."""
    found: dict[str, dict[str, Any]] = {}
    with weights.opened(file) as content:
        for key in content.offset_keys():
            if key.startswith(f"{BUNDLE}."):
                _, word, name = (*key.split(".", 2), "")[:3]
                found.setdefault(word, {})[name] = content.get_tensor(key)
    for tensors in found.values():
        _check_inputs(file, tensors)
    # A1111 can't have dots in it, so the metadata know better where there is one only.
    said = weights.metadata(file).get(WORD, "") if len(found) == 1 else ""
    return [_checked(file, said or word, _vectors(content)) for word, content in found.items()]


def bundled_words(names: Iterable[str]) -> list[str]:
    """The words that a LoRA's file brings along, by the names of its tensors."""
    return list(dict.fromkeys((*name.split(".", 2), "")[1] for name in names if name.startswith(f"{BUNDLE}.")))


def encode(embedding: Embedding, precision: str, metadata: Mapping[str, str]) -> bytes:
    """A .safetensors file as A1111 and ComfyUI read it."""
    from safetensors.torch import save

    return save(_in(embedding, precision), {**metadata, WORD: embedding.word})


def encode_pt(embedding: Embedding, precision: str, step: int, base_name: str, base_hash: str) -> bytes:
    """A .pt file as A1111 itself writes it, for one text encoder.

    In torch's older form: A1111's check of pickles (modules/safe.py) knows none of the records that new versions of torch add.
    """
    import torch

    content = {
        "string_to_token": {"*": 265},
        A1111: {"*": _in(embedding, precision)[SINGLE]},
        "name": embedding.word,
        "step": step,
        "sd_checkpoint": base_hash,
        "sd_checkpoint_name": base_name,
    }
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def encode_diffusers(embedding: Embedding, precision: str, metadata: Mapping[str, str]) -> bytes:
    """diffusers' learned_embeds for one text encoder: the vectors under the word."""
    from safetensors.torch import save

    return save({embedding.word: _in(embedding, precision)[SINGLE]}, {**metadata, WORD: embedding.word})


def bundle(embedding: Embedding, precision: str) -> dict[str, torch.Tensor]:
    """The tensors that go into a LoRA's file."""
    start = f"{BUNDLE}.{embedding.word}."
    tensors = _in(embedding, precision)
    return {start + (f"{A1111}.*" if key == SINGLE else key): tensor for key, tensor in tensors.items()}


def _in(embedding: Embedding, precision: str) -> dict[str, torch.Tensor]:
    import torch

    return {key: tensor.detach().to("cpu", getattr(torch, precision)).contiguous() for key, tensor in embedding.vectors.items()}


def _vectors(content: Any) -> dict[str, torch.Tensor]:
    """{} for what is none. A word alone has one vector without an axis for it (diffusers)."""
    import torch

    if not isinstance(content, Mapping):
        return {}
    found = {key: content[key] for key in DOUBLE if key in content}
    if not found:
        # A1111's own nests it; in a .safetensors the names are joined by a dot.
        nested = content.get(A1111, content.get(f"{A1111}.*", content.get(SINGLE)))
        if nested is None and len(content) == 1:
            nested = next(iter(content.values()))
        inner = list(nested.values()) if hasattr(nested, "values") and not isinstance(nested, torch.Tensor) else [nested]
        found = {SINGLE: inner[0]} if len(inner) == 1 else {}
    if not all(isinstance(tensor, torch.Tensor) and tensor.ndim in (1, 2) and tensor.numel() for tensor in found.values()):
        return {}
    return {key: tensor.detach().float().reshape(-1, tensor.shape[-1]) for key, tensor in found.items()}


def _check_inputs(file: Path, names: Iterable[str]) -> None:
    """Raises UserError for vectors that OneTrainer adds to what a text encoder makes of a word: without them it isn't the word."""
    if behind := [str(name) for name in names if str(name).endswith("_out")]:
        raise UserError(f"{file} also changes what comes out of the text encoder ({behind[0]}), which can't be applied: choose another.")


def _checked(file: Path, word: str, vectors: Mapping[str, torch.Tensor]) -> Embedding:
    import torch

    if not vectors:
        raise UserError(f"{file} brings the word '{word}' along without its vectors: copy or download it again.")
    if not all(torch.isfinite(tensor).all() for tensor in vectors.values()):
        raise UserError(f"{file} holds vectors that are not finite numbers, its training had failed: choose another file.")
    return Embedding(str(word), vectors)
