"""What the window says, in the user's language. The English text is the key; languages/*.yaml hold the others.

A component's property takes `t("Start")`: Gradio translates it in the browser. What is written by handlers takes
`say(language, "Steps: {count}", count=3)`, in the language that the browser asks for. Widgets' JavaScript takes
`nosnja.T("Next")`. Whatever is missing in a language is shown in English, and fails a test.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    import gradio as gr
    from gradio.i18n import I18nData

FOLDER = Path(__file__).with_name("languages")
WIDGETS = Path(__file__).with_name("widgets")

LANGUAGES = {
    "en": ("en",),
    "sr": ("sr", "sr-RS", "sr-Latn", "sr-Latn-RS"),
    "ru": ("ru", "ru-RU"),
    "zh-TW": ("zh-TW", "zh-Hant", "zh-HK"),
    "ko": ("ko", "ko-KR"),
}
"""Language -> the names by which browsers ask for it. Serbian is in Latin script, Chinese in traditional characters."""

JAVASCRIPT_TEXT = re.compile(r'\bT\(\s*("(?:[^"\\\n]|\\.)*")')

_used: dict[str, str] = {}
"""Every text given to a component, by its key: what the browser needs to know."""


def t(text: str) -> I18nData:
    """The text as a component's property."""
    from gradio.i18n import I18nData

    # Gradio's marker breaks on braces and quotes in a key, so the key is a hash.
    name = "t" + hashlib.sha256(text.encode()).hexdigest()[:12]
    _used[name] = text
    return I18nData(name)


def say(language: str, text: str, /, **values: Any) -> str:
    """The text in a language, with {names} filled in."""
    return translated(language, text).format(**values) if values else translated(language, text)


def translated(language: str, text: str) -> str:
    return catalogue(language).get(text, text)


@functools.cache
def catalogue(language: str) -> dict[str, str]:
    """English -> the language. Empty for English and for languages there are none of."""
    file = FOLDER / f"{language}.yaml"
    if language not in LANGUAGES or not file.is_file():
        return {}
    # The loader in C is ten times as fast, and the window shall open at once.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(file.read_text(encoding="utf-8"), Loader=loader) or {}  # noqa: S506 - a SafeLoader


def language_of(request: gr.Request | None) -> str:
    """The first language of the browser's that we have; English otherwise, and without a browser."""
    asked = (getattr(request, "headers", None) or {}).get("accept-language", "")
    for wish in asked.split(","):
        name = wish.partition(";")[0].strip().lower()
        for language, names in LANGUAGES.items():
            if name in {known.lower() for known in names}:
                return language
        for language in LANGUAGES:
            if name and name.split("-")[0] == language:
                return language
    return "en"


def for_gradio() -> gr.I18n:
    """All texts that components were given so far, in all languages."""
    import gradio as gr

    said = {}
    for language, names in LANGUAGES.items():
        texts = {name: translated(language, text) for name, text in _used.items()}
        said.update(dict.fromkeys(names, texts))
    return gr.I18n(**said)


def for_widgets() -> str:
    """The texts that widgets' JavaScript may say, as JSON: `texts` by language, and `names`, the language by browser language."""
    texts = {text for file in WIDGETS.glob("*.js") for text in texts_of_javascript(file)} | set(declared())
    translations = {language: {text: other for text, other in catalogue(language).items() if text in texts} for language in LANGUAGES}
    names = {name: language for language, names in LANGUAGES.items() for name in names}
    return json.dumps({"texts": translations, "names": names}, ensure_ascii=False).replace("</", "<\\/")


def texts_of_javascript(file: Path) -> list[str]:
    return [json.loads(found) for found in JAVASCRIPT_TEXT.findall(file.read_text(encoding="utf-8"))]


def declared() -> list[str]:
    """Texts that the window shows and that stand elsewhere: settings, axes, presets."""
    from nosnja_gui.axes import AXES
    from nosnja_gui.jobs import GridJob, TrainJob
    from nosnja_gui.presets import list_presets
    from nosnja_gui.ui import form, page

    said = [*page.TITLES.values(), *form.texts_of(TrainJob), *form.texts_of(GridJob)]
    said += [text for axis in AXES.values() for text in (axis.title, axis.hint)]
    said += [text for preset in list_presets() for text in (preset.title, preset.about)]
    return said
