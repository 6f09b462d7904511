"""Captions that a word is learned from: the pictures' own, or one of a list of phrases around the word."""

from typing import Literal

from nosnja_gui.tokens import pieces

Kind = Literal["captions", "object", "style"]

OBJECT = tuple(
    text.format(article=article)
    for text in ("{article} photo of a {{}}", "{article} photo of the {{}}")
    for article in ("a", "the", "a cropped", "a close-up", "a bright", "a dark", "a good")
) + tuple(
    f"a {kind} of {which} {{}}"
    for kind, whiches in {
        "photo": ("my", "one", "a clean", "the clean", "a dirty", "a nice", "the nice", "a cool", "the cool", "a small", "the small"),
        "rendering": ("a",),
        "rendition": ("a", "the"),
    }.items()
    for which in whiches
)
"""Neutral contexts of a thing, after those of CLIP's zero-shot classification (Gal et al. 2022, section 4 and supplementary)."""
STYLE = tuple(
    f"{kind} in the style of {{}}"
    for kind in (
        *(f"a {word}painting" for word in ("", "cropped ", "clean ", "dirty ", "dark ", "cool ", "close-up ", "bright ", "good ")),
        *(f"a {word} painting" for word in ("nice", "small", "large", "weird")),
        *("the painting", "a picture", "a rendering", "a rendition"),
    )
)
"""The same for a way of painting."""


def fill(kind: Kind, word: str, number: int, caption: str = "") -> str:
    """The caption of an exposure. Phrases follow from the number; an own caption that lacks the word gets it in front."""
    if kind == "captions":
        there = len(pieces(caption, [word])) > 1
        return caption if there else ", ".join(text for text in (word, caption.strip()) if text)
    phrases = OBJECT if kind == "object" else STYLE
    return phrases[number % len(phrases)].format(word)
