"""Identifiers: words that mean nothing to the model yet, and what becomes of a word when the model reads it in pieces.

A word of one rare token is the identifier that DreamBooth asks for (Ruiz et al. 2023, section 3.2): the model has hardly an idea of
it, and does not take it apart. Knows CLIP's vocabulary by its order only: pieces that were frequent in what it was made from come first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from nosnja_gui.tokens import END_OF_WORD, ranks

RARE = 35_000
"""Tokens from this place on are rare: the last third of 49,408."""
SHORT = 4
"""Letters that a rare token may have to mean nothing; longer ones are words, and names."""
LEAST_WORD = 4
"""Letters of a word; shorter pieces end many words."""
FREQUENT = 10_000
"""Before this place stand words, but also endings of many words, which have no plural and begin no other word."""
ENDINGS = frozenset({
    "able", "ably", "ally", "ance", "ated", "ates", "ator", "ements", "ence", "fully", "ible", "ical", "ight", "ills", "ings", "ington",
    "ised", "ists", "itude", "ized", "less", "ment", "ness", "ough", "ship", "sion", "ster", "tion", "ville",
})  # fmt: skip
"""Those that have."""
VETTED = ("mwf", "nrf", "slv", "sdn", "sng", "csw", "tsk", "snz", "ksh", "chl")
"""Rare tokens of three consonants, looked through one by one: none is a word, a brand, a name, an insult or a usual abbreviation.

The rarest come first.
"""
MEANINGS = {"sks": "a rifle", "ohwx": "the weather of Ohio"}
"""Rare tokens that many guides name, and what else they stand for."""


@dataclass(frozen=True)
class Advice:
    """What becomes of a word as an identifier."""

    kind: Literal["rare", "meant", "known", "ends_in_word", "pieces"]
    message: str
    values: dict[str, Any] = field(default_factory=dict)
    """What the message is made of, for those who say it in another language."""

    @property
    def good(self) -> bool:
        return self.kind in ("rare", "pieces")


def explain(word: str, tokenizer: Callable[[str], list[str]]) -> Advice:
    """What the model makes of a word, in a sentence. `tokenizer` gives the CLIP tokens of a text, without start and end."""
    tokens = [token.lower() for token in tokenizer(word)]
    pieces = [token.removesuffix(END_OF_WORD) for token in tokens]
    split = " + ".join(pieces)
    values = {"word": word, "split": split, "last": pieces[-1] if pieces else ""}
    if len(tokens) == 1:
        if meaning := MEANINGS.get(pieces[0]):
            message = f"'{word}' is one rare token, but it stands for {meaning} and may bring some of that along: take another one."
            return Advice("meant", message, {**values, "meaning": meaning})
        if is_rare(tokens[0]):
            return Advice("rare", f"'{word}' is one rare token, so the model has hardly an idea of it: good, if it is no word.", values)
    parts = [tokenizer(part) for part in word.split()]
    if all(len(part) == 1 and not is_rare(part[0]) for part in parts):
        known = "is a word" if len(word.split()) == 1 else "is made of words"
        message = f"'{word}' {known} the model knows already and has its own idea of: a made-up word is learnt more cleanly."
        return Advice("known", message, values)
    if is_word(tokens[-1]):
        article = "an" if pieces[-1][0] in "aeiou" else "a"
        message = (
            f"'{word}' is read as {split}: its last piece '{pieces[-1]}' is an ordinary word, so '{article} {pieces[-1]}' without the "
            "trigger calls up what was learnt, too."
        )
        return Advice("ends_in_word", message, {**values, "article": article})
    return Advice("pieces", f"'{word}' is read as {split}, and its last piece is no word of its own: good.", values)


def is_rare(token: str) -> bool:
    """Whether a token is a short one of the last third of the vocabulary, and ends a word."""
    letters = token.removesuffix(END_OF_WORD)
    short = token.endswith(END_OF_WORD) and letters.isascii() and letters.isalpha() and len(letters) <= SHORT
    return short and ranks().get(token, 0) >= RARE


def is_word(token: str) -> bool:
    """Whether a token that ends a word is one that stands alone, too, as far as the vocabulary tells."""
    letters, places = token.removesuffix(END_OF_WORD), ranks()
    if not token.endswith(END_OF_WORD) or not letters.isalpha() or len(letters) < LEAST_WORD or letters in ENDINGS:
        return False
    return places.get(token, 0) >= FREQUENT or letters in places or f"{letters}s{END_OF_WORD}" in places or token not in places


def proposals(texts: Iterable[str] = (), count: int = 6) -> list[str]:
    """Identifiers to choose from that stand in none of these texts, the rarest first."""
    taken = {word for text in texts for word in re.findall(r"\w+", text.lower())}
    return [word for word in VETTED if word not in taken][:count]
