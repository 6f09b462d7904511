"""Weights of words within a prompt or caption, written as A1111 has them: (word), [word], (some words:1.3). No torch at import.

Facts: AUTOMATIC1111/stable-diffusion-webui, wiki Features, "Attention/emphasis": ( ) multiplies by 1.1, [ ] divides by it, (x:1.3)
multiplies by 1.3, and a backslash makes a bracket an ordinary letter.
"""

from __future__ import annotations

import math
import re

STRONGER = 1.1
MARK = re.compile(r"\\[\\()\[\]]|[()\[\]]|:\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*\)|[^\\()\[\]:]+|.", re.DOTALL)
Piece = tuple[str, float]


def pieces(text: str) -> list[Piece]:
    """The text without its marks, cut where the weight changes: [("a ", 1.0), ("red", 1.3), (" dress", 1.0)].

    A bracket that is never closed holds to the end, one that closes nothing is an ordinary letter, as in A1111.
    """
    found: list[Piece] = []
    opened: list[tuple[str, int]] = []  # kind of bracket, and how many pieces there were before it

    def close(kind: str, factor: float) -> bool:
        if not opened or opened[-1][0] != kind:
            return False
        _, start = opened.pop()
        found[start:] = [(piece, weight * factor) for piece, weight in found[start:]]
        return True

    for match in MARK.finditer(text):
        mark = match[0]
        if mark in ("(", "["):
            opened.append((mark, len(found)))
        elif match[1] is not None and opened and opened[-1][0] == "(":
            close("(", float(match[1]))
        elif match[1] is not None:  # a number in no bracket: what it is made of is text, but for a bracket's end
            found.append((mark, 1.0))
        elif mark == ")":
            if not close("(", STRONGER):
                found.append((mark, 1.0))
        elif mark == "]":
            if not close("[", 1 / STRONGER):
                found.append((mark, 1.0))
        else:
            found.append((mark[1:] if len(mark) == 2 and mark[0] == "\\" else mark, 1.0))
    while opened:
        kind, _ = opened[-1]
        close(kind, STRONGER if kind == "(" else 1 / STRONGER)
    return _merged(found)


def plain(text: str) -> str:
    """The text without its marks."""
    return "".join(piece for piece, _ in pieces(text))


def _merged(found: list[Piece]) -> list[Piece]:
    merged: list[Piece] = []
    for piece, weight in found:
        if merged and math.isclose(merged[-1][1], weight, rel_tol=1e-9):
            merged[-1] = merged[-1][0] + piece, weight
        else:
            merged.append((piece, weight))
    return merged
