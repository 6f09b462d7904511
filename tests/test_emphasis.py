"""Weights within prompts, as A1111 writes them."""

import pytest

from nosnja_gui.emphasis import pieces, plain


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a red dress", [("a red dress", 1)]),
        ("a (red) dress", [("a ", 1), ("red", 1.1), (" dress", 1)]),
        ("a ((red)) dress", [("a ", 1), ("red", 1.21), (" dress", 1)]),
        ("a [red] dress", [("a ", 1), ("red", 1 / 1.1), (" dress", 1)]),
        ("a (red:1.5) dress", [("a ", 1), ("red", 1.5), (" dress", 1)]),
        ("(a (red:1.5) dress:0.5)", [("a ", 0.5), ("red", 0.75), (" dress", 0.5)]),
        ("a (red: .25 ) dress", [("a ", 1), ("red", 0.25), (" dress", 1)]),
        (r"a \(red\) dress", [("a (red) dress", 1)]),
        ("a (red dress", [("a ", 1), ("red dress", 1.1)]),
        ("a red) dress", [("a red) dress", 1)]),
        ("time 12:30, a:b", [("time 12:30, a:b", 1)]),
        ("([a])", [("a", 1.0)]),
        ("", []),
        ("()", []),
    ],
)
def test_the_grammar(text, expected):
    found = pieces(text)
    assert [piece for piece, _ in found] == [piece for piece, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


def test_plain_text_is_what_is_left():
    assert plain("a (red:1.5) [dress] \\(new\\)") == "a red dress (new)"
