"""What the window says: every text is there in every language, nothing is left over, and placeholders agree."""

import ast
import re
import string
from pathlib import Path
from types import SimpleNamespace

import pytest

from nosnja_gui.ui import texts

UI = Path(texts.__file__).parent
OTHERS = [language for language in texts.LANGUAGES if language != "en"]


def literals(file: Path) -> list[str]:
    """First argument of `t(...)` and second of `say(...)`, which must be literal to be found; both arms of an if-else count."""
    found = []
    for call in [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]:
        name = call.func.id if isinstance(call.func, ast.Name) else call.func.attr if isinstance(call.func, ast.Attribute) else ""
        place = {"t": 0, "say": 1}.get(name)
        if place is not None and len(call.args) > place:
            found += [node.value for node in arms(call.args[place]) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return found


def arms(node: ast.expr) -> list[ast.expr]:
    return [*arms(node.body), *arms(node.orelse)] if isinstance(node, ast.IfExp) else [node]


def every_text() -> set[str]:
    """All that the window can say: found in its files, or given by what declares settings, axes and the like."""
    from nosnja_gui.ui.texts import declared

    said = {text for file in UI.glob("*.py") for text in literals(file)}
    said |= {text for file in texts.WIDGETS.glob("*.js") for text in texts.texts_of_javascript(file)}
    return said | set(declared())


@pytest.fixture(scope="module")
def said() -> set[str]:
    return every_text()


def test_texts_are_found(said):
    assert len(said) > 200
    assert "Monitor" in said


@pytest.mark.parametrize("language", OTHERS)
def test_no_translation_is_missing(language, said):
    missing = sorted(said - set(texts.catalogue(language)))
    assert not missing, f"{len(missing)} texts lack a translation in languages/{language}.yaml, such as {missing[:5]}"


@pytest.mark.parametrize("language", OTHERS)
def test_no_translation_is_left_over(language, said):
    assert not sorted(set(texts.catalogue(language)) - said)


@pytest.mark.parametrize("language", OTHERS)
def test_placeholders_agree(language):
    wrong = [text for text, other in texts.catalogue(language).items() if placeholders(text) != placeholders(other)]
    assert not wrong


def placeholders(text: str) -> set[str]:
    try:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}
    except ValueError:
        return set()


@pytest.mark.parametrize(("language", "letters"), [("sr", "a-zčćđšž"), ("ru", "а-яё"), ("zh-TW", "\u4e00-\u9fff"), ("ko", "\uac00-\ud7a3")])
def test_a_language_is_written_in_its_script(language, letters):
    words = "".join(texts.catalogue(language).values()).lower()
    assert len(re.findall(f"[{letters}]", words)) > 0.3 * len(re.findall(r"\w", words))
    if language == "sr":
        assert not re.search("[а-яё]", words), "Serbian is in Latin script"


def test_the_browsers_language_is_taken():
    def asked(wish: str) -> str:
        return texts.language_of(SimpleNamespace(headers={"accept-language": wish}))

    assert asked("sr-Latn-RS,sr;q=0.9,en;q=0.8") == "sr"
    assert asked("de-DE,de;q=0.9,ru;q=0.8") == "ru"
    assert asked("zh-HK") == "zh-TW" and asked("ko") == "ko" and asked("ru-BY") == "ru"
    assert asked("") == asked("de") == texts.language_of(None) == "en"


def test_a_text_without_translation_stays_english():
    assert texts.say("ko", "nobody has translated {this}", this=3) == "nobody has translated 3"
