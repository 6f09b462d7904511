"""Parts of the page that Gradio has no component for: a JSON value, drawn by a JavaScript file of `widgets/`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

FOLDER = Path(__file__).with_name("widgets")
COMMON = "common"
"""What all widgets share; loaded with the page."""


def widget(name: str, value: Any = None, *, server: Sequence[Callable[..., Any]] = (), **properties: Any) -> gr.HTML:
    """`widget("chart", {...})` is drawn by `widgets/chart.js`, which sees these names:

    - `element`, whose only child is `<div class="nosnja-chart">`, drawn into by the script and left alone by Gradio;
    - `props.value`: the JSON value; setting it sends it with the next event;
    - `watch("value", draw)`: called when the server sent another value;
    - `trigger("pick", {...})`: fires the event `made.pick(handler)`, whose `event._data` is the dict (`gr.EventData`);
    - `await server.name(argument)`: calls one of `server`'s functions, by its name, and gives its JSON answer;
    - `nosnja`: `widgets/common.js`.
    """
    return gr.HTML(
        value,
        html_template=f'<div class="nosnja-{name}"></div>',
        js_on_load=script(name),
        apply_default_css=False,
        server_functions=list(server),
        **properties,
    )


@functools.cache
def script(name: str) -> str:
    return (FOLDER / f"{name}.js").read_text(encoding="utf-8")


def head() -> str:
    """For the page's head: what all widgets share."""
    # What ends a script early must not be in one.
    names = [COMMON, *sorted(file.stem for file in FOLDER.glob("*_core.js"))]
    code = "\n".join(map(script, names)).replace("</script", "<\\/script")
    return f"<script>window.nosnja = {{}};\n{code}</script>"
