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
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import gradio as gr
import yaml
from gradio.i18n import I18n, I18nData

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

LANGUAGE_KEY = "nosnja:language"
asked: ContextVar[str] = ContextVar("asked", default="en")
"""The language of the request that is being answered."""

_used: dict[str, str] = {}
"""Every text given to a component, by its key: what the browser needs to know."""


def t(text: str) -> I18nData:
    """The text as a component's property."""
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
    return language_of_wish((getattr(request, "headers", None) or {}).get("accept-language", ""))


@functools.lru_cache(maxsize=256)
def language_of_wish(accepted: str) -> str:
    """Of an Accept-Language header, whose languages stand in the order of preference."""
    for wish in accepted.split(","):
        name = wish.partition(";")[0].strip().lower()
        for language, names in LANGUAGES.items():
            if name in {known.lower() for known in names}:
                return language
        for language in LANGUAGES:
            if name and name.split("-")[0] == language:
                return language
    return "en"


class Translations(I18n):
    """What the page needs of the language that its browser asks for: the components' texts by key, the widgets' by their English.

    Gradio takes only languages into which it was translated itself, and English for a browser that asks for another one, such as
    Serbian. So the language goes by its own name and as English, and no page has to carry the others.
    """

    @property
    def translations_dict(self) -> dict[str, dict[str, str]]:
        return PerRequest(for_page())


class PerRequest(dict[str, dict[str, str]]):
    """A part of the page's configuration that every request gets anew: Gradio copies its configuration for each page."""

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, dict[str, str]]:
        return for_page()


def for_page() -> dict[str, dict[str, str]]:
    language = asked.get()
    return dict.fromkeys(("en", language), texts_of_page(language, len(_used)))


@functools.cache
def texts_of_page(language: str, used: int) -> dict[str, str]:
    """`used`: how many texts components were given, for these grow while the page is built."""
    widgets = {text for file in WIDGETS.glob("*.js") for text in texts_of_javascript(file)} | set(declared())
    known = catalogue(language)
    components = {name: known.get(text, text) for name, text in _used.items()}
    return {LANGUAGE_KEY: language, **components, **{text: other for text, other in known.items() if text in widgets}}


class LanguageOfRequest:
    """ASGI middleware: `asked` is the language of the request that is being answered."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Awaitable[None]]) -> None:
        if scope["type"] == "http":
            wishes = [value.decode("latin-1") for name, value in scope["headers"] if name == b"accept-language"]
            asked.set(language_of_wish(",".join(wishes)))
        await self.app(scope, receive, send)


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
