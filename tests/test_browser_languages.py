"""Every language in the browser: what components say, what widgets say and what handlers say."""

import pytest

from nosnja_gui.ui import texts
from nosnja_gui.ui.page import TITLES
from nosnja_gui.workspace import Workspace
from tests.browser import chromium, open_tab, visit, window

BROWSERS = {"en-US": "en", "sr-RS": "sr", "sr-Latn": "sr", "ru-RU": "ru", "zh-TW": "zh-TW", "ko-KR": "ko", "de-DE": "en"}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("languages") / "workspace").create()
    with chromium() as browser, window(workspace) as served:
        yield browser, served


@pytest.mark.parametrize("locale", BROWSERS)
def test_the_window_speaks_the_browsers_language(opened, locale):
    language = BROWSERS[locale]

    def said(text: str) -> str:
        return texts.translated(language, text)

    with visit(*opened, locale=locale, size=(1280, 720)) as page:
        page.get_by_text(said("Try the demo"), exact=True).wait_for()
        shown = page.locator("#tabs > .tab-wrapper button[role=tab]").all_inner_texts()
        assert [name.strip() for name in shown[: len(TITLES)]] == [said(title) for title in TITLES.values()]
        open_tab(page, "train")
        page.get_by_role("button", name=said("Start training")).wait_for()
        page.locator("#field-optimizer-learning_rate").get_by_text(said("Learning rate"), exact=True).wait_for()
        page.get_by_text(said("Nothing is running: a training starts at once.")).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out sideways"
