"""The page: its header, its tabs and the timer that keeps them up to date. One file per tab."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

import gradio as gr

from nosnja_gui.ui import dataset, guide, library, monitor, start, train, trigger, xyz
from nosnja_gui.ui.memory import Memory
from nosnja_gui.ui.panel import TABS, Panel, Window
from nosnja_gui.ui.pictures import Pictures
from nosnja_gui.ui.texts import language_of, t
from nosnja_gui.workspace import Workspace

REFRESH_SECONDS = 1.5
TITLES = {
    "start": "Start",
    "dataset": "Dataset & captions",
    "trigger": "Trigger word",
    "train": "Train",
    "monitor": "Monitor",
    "xyz": "XYZ plot",
    "library": "Runs & models",
}
MODULES = {module.__name__.rpartition(".")[2]: module for module in (start, dataset, trigger, train, monitor, xyz, library)}
HEADER = """
<div class="nosnja-header">
  <svg viewBox="0 0 24 24" aria-hidden="true">
    <path d="M12 1l3 5 6 0-3 6 3 6-6 0-3 5-3-5-6 0 3-6-3-6 6 0z"/><path class="in" d="M12 7l5 5-5 5-5-5z"/>
  </svg>
  <h1>Nošnja</h1>
</div>"""


def build(workspace: Workspace, pictures: Pictures, listens: bool = False) -> gr.Blocks:
    """The whole page. Its timer is at top level, because one inside a tab that was never opened does not tick."""
    panels: list[Panel] = []
    with gr.Blocks(title="Nošnja", analytics_enabled=False, fill_width=True) as page:
        memory = Memory(workspace.cache / "window-memory.json")
        shared = {name: gr.State("") for name in ("dataset", "run", "grid")}
        timer = gr.Timer(REFRESH_SECONDS)
        gr.HTML(HEADER)
        with gr.Tabs(selected="start", elem_id="tabs") as tabs:
            window = Window(workspace, pictures, memory, tabs, timer=timer, **shared, listens=listens)
            for name in TABS:
                with gr.Tab(t(TITLES[name]), id=name, elem_id=f"tab-{name}"):
                    panels += [guide.build(window, name), MODULES[name].build(window)]
        keep_up_to_date(page, window, panels)
    return page


def keep_up_to_date(page: gr.Blocks, window: Window, panels: list[Panel]) -> None:
    """Ask all panels at every tick, in one request, and bring only those up to date that have news.

    Gradio builds every output of a handler anew, also those that are skipped, a millisecond each. So the tick's outputs are
    states, which cost nothing; the change of one brings its panel's components the answer that it holds.
    """
    answers = [gr.State(None) for _ in panels]
    inputs = each_once(panels)
    ask = refresher(panels)
    window.timer.tick(ask, inputs, answers, trigger_mode="once", **window.quiet)
    # All is news to a page that was just loaded: handed over at once, without the way round.
    outputs = [component for panel in panels for component in panel.outputs]
    page.load(all_at_once(ask, panels), inputs, outputs, **window.quiet)
    for answer, panel in zip(answers, panels, strict=True):
        if panel.outputs:
            answer.change(handed_over, answer, panel.outputs, **window.quiet)


def each_once(panels: list[Panel]) -> list[Any]:
    """The inputs of all panels; what several of them ask for is sent once."""
    return list({id(component): component for panel in panels for component in panel.inputs}.values())


class Answer:
    """What a panel said. An object, so that Gradio tells it from the last one by what it is and not by reading all of it."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values


def handed_over(answer: Answer) -> Any:
    """The values of a panel's outputs; of a single one as Gradio takes it."""
    return answer.values if len(answer.values) > 1 else answer.values[0]


def all_at_once(ask: Callable[..., list[Any]], panels: list[Panel]) -> Callable[..., list[Any]]:
    """All values of all panels, one after the other."""

    def fill(request: gr.Request, *values: Any) -> list[Any]:
        filled: list[Any] = []
        for answer, panel in zip(ask(request, *values), panels, strict=True):
            filled += answer.values if isinstance(answer, Answer) else [gr.skip()] * len(panel.outputs)
        return filled

    return fill


def refresher(panels: list[Panel]) -> Callable[..., list[Any]]:
    """What a tick asks all panels: per panel an Answer, or nothing new."""
    places = {id(component): place for place, component in enumerate(each_once(panels))}

    def refresh(request: gr.Request, *values: Any) -> list[Any]:
        language = language_of(request)
        answers = []
        for panel in panels:
            own = [values[places[id(component)]] for component in panel.inputs]
            said = None
            try:
                said = panel.refresh(*own, language)
            except Exception:
                # One tab's trouble must not stop the others; it belongs into the console, where a bug report comes from.
                traceback.print_exc(file=sys.stderr)
            answers.append(gr.skip() if said is None else Answer(said))
        return answers

    return refresh
