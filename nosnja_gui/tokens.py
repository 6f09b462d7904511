"""The CLIP tokenizer of a model as a plain function: for counting tokens, checking trigger words and finding where a text is cut off.

Built on the library `tokenizers` alone, which loads in a moment. The rules are those of OpenAI's CLIP (Radford et al. 2021,
simple_tokenizer.py) as transformers' CLIPTokenizer has them; both give the same tokens, a test holds them together.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from nosnja_gui.settings import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WINDOW = 75
"""Tokens of a text that the text encoder sees at once, without start and end."""
VOCABULARY = Path(__file__).parent / "demo" / "kit" / "sd" / "tokenizer"
"""The vocabulary of CLIP ViT-L/14, which Stable Diffusion 1.x uses, too."""
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
END_OF_WORD = "</w>"

FileState = tuple[int, int]


def clip_tokenizer(model: Path | None = None) -> Callable[[str], list[str]]:
    """text -> its CLIP tokens, without start and end; a token that ends a word ends with "</w>".

    `model` is a diffusers model folder, or a tokenizer folder itself; None takes the vocabulary that comes with the program.
    Raises UserError where there is none, or a damaged one.
    """
    tokenizer = _tokenizer_of(model)
    return lambda text: tokenizer.encode(_encodable(text), add_special_tokens=False).tokens


def cut(text: str, limit: int = WINDOW, model: Path | None = None) -> int:
    """Where in the text begins what is beyond `limit` tokens; len(text) where everything fits. Raises UserError as above."""
    places = _tokenizer_of(model).encode(_encodable(text), add_special_tokens=False).offsets
    if len(places) <= limit:
        return len(text)
    # A character can be several tokens, and a text may be cut off in the middle of it.
    return min(places[limit - 1][1], places[limit][0]) if limit > 0 else 0


def pieces(text: str, words: Iterable[str]) -> list[str]:
    """The text cut at these words, whatever their case: text, word, text, word ... text. Longer words are looked for first.

    A word doesn't count inside of another: "coat" isn't in "coats".
    """
    # A word's edge that is no letter, as of "<coat>", needs no boundary.
    found = [
        (r"(?<!\w)" if re.match(r"\w", word) else "") + re.escape(word) + (r"(?!\w)" if re.search(r"\w$", word) else "")
        for word in sorted(words, key=len, reverse=True)
    ]
    return re.split(f"({'|'.join(found)})", text, flags=re.IGNORECASE) if found else [text]


@lru_cache(maxsize=1)
def ranks() -> Mapping[str, int]:
    """Token -> its place in CLIP's vocabulary: single bytes first, then pieces by how often they were found, the most frequent first."""
    return json.loads((VOCABULARY / "vocab.json").read_text(encoding="utf-8"))


def _tokenizer_of(model: Path | None) -> Tokenizer:
    folder = VOCABULARY if model is None else model / "tokenizer" if (model / "tokenizer").is_dir() else model
    states = tuple(_state_of(folder / name) for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if states[0] is None and None in states[1:]:
        raise UserError(f"There is no CLIP tokenizer in {model or folder}: give the folder of a Stable Diffusion model.")
    return _load(folder, *states)


@lru_cache(maxsize=4)
def _load(folder: Path, whole: FileState | None, vocabulary: FileState | None, merges: FileState | None) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        tokenizer = _build(folder) if vocabulary and merges else Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # a damaged file raises whatever its reader raises
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"The CLIP tokenizer in {folder} is damaged ({first}): copy or download it again.") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _build(folder: Path) -> Tokenizer:
    """From vocab.json (token -> number) and merges.txt (a pair of tokens a line, the most frequent first)."""
    from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    rules = {"continuing_subword_prefix": "", "end_of_word_suffix": END_OF_WORD, "unk_token": SPECIAL[1]}
    tokenizer = Tokenizer(BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"), **rules))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    return tokenizer


def _state_of(file: Path) -> FileState | None:
    try:
        state = os.stat(file)
    except (OSError, ValueError):
        return None
    return state.st_size, state.st_mtime_ns


def _encodable(text: str) -> str:
    """Half characters, which a browser may send of an emoji cut in two, have no UTF-8: they become question marks of one character."""
    return text.encode("utf-8", "replace").decode("utf-8")
