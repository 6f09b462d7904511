"""Tab "Result": what the newest demo run reached, from its result.json, or how to make one."""

import json
import os
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from nosnja_gui.ui.panel import Panel
from nosnja_gui.ui.pictures import Pictures
from nosnja_gui.workspace import Workspace

COMMAND = "launch.bat" if os.name == "nt" else "bash launch.sh"
EMPTY = f"""
<div class="nosnja-empty">
  <h2>No result yet</h2>
  <p>In a terminal, in this program's folder:</p>
  <dl>
    <dt><code>{COMMAND} demo</code></dt>
    <dd>From 30 drawn pictures to a trained LoRA and proof that its trigger word works. A few minutes, no download;
        the result appears here by itself.</dd>
    <dt><code>{COMMAND} train --help</code></dt>
    <dd>The same with pictures of your own; the run is listed under Runs.</dd>
  </dl>
</div>"""


def newest_result(runs: Path) -> tuple[Path, dict[str, Any]] | None:
    """Folder and content of the newest demo that ended; damaged ones are passed over."""
    files = [(file.stat().st_mtime_ns, file) for file in runs.glob("demo-*/result.json")]
    for _, file in sorted(files, reverse=True):
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(values, dict):
            return file.parent, values
    return None


def group(result: dict[str, Any], name: str) -> dict[str, Any]:
    values = result.get(name)
    return values if isinstance(values, dict) else {}


def number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def percent(value: object) -> str:
    share = number(value)
    return "–" if share is None else f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def figure(value: str, text: str, kind: str = "") -> str:
    return f'<div class="nosnja-figure {kind}"><b>{escape(value)}</b><span>{text}</span></div>'


def figures(result: dict[str, Any]) -> str:
    """The numbers as HTML: each a large figure with a line that says what it is."""
    trigger, captions = group(result, "trigger"), group(result, "captions")
    word = f"<em>{escape(str(trigger.get('word', 'the trigger word')))}</em>"
    auc = number(trigger.get("auc"))
    shown = [
        figure(percent(trigger.get("with")), f"of the pictures show the costume when the prompt says {word}", "accent"),
        figure(percent(trigger.get("without")), without_text(trigger), "accent"),
        figure("–" if auc is None else f"{auc:.2f}", "how well a probe tells the two apart (AUC; 1 is perfect, 0.5 is chance)"),
        figure(percent(captions.get("subject")), f"of the captions name the right subject; place: {percent(captions.get('place'))}"),
    ]
    return f'<div class="nosnja-figures">{"".join(shown)}</div>'


def without_text(trigger: dict[str, Any]) -> str:
    unnamed = number(trigger.get("without_clothes"))
    more = "" if unnamed is None else f", {percent(unnamed)} where none are"
    return f"show it where other clothes are named instead{more}"


def stages(result: dict[str, Any]) -> str:
    """Seconds per stage as a bar of segments with a legend under it."""
    seconds = {name: value for name, given in group(result, "seconds").items() if name != "total" and (value := number(given)) is not None}
    total = sum(seconds.values())
    if total <= 0:
        return ""
    bar = "".join(f'<i class="s{place % 6}" style="flex-grow:{value:.3f}"></i>' for place, value in enumerate(seconds.values()))
    legend = "".join(
        f'<li><i class="s{place % 6}"></i>{escape(name)} <b>{duration(value)}</b></li>'
        for place, (name, value) in enumerate(seconds.items())
    )
    device = str(result.get("device", ""))
    where = f" on the {device.upper()}" if device == "cpu" else f" on {escape(device)}" if device else ""
    return f'<div class="nosnja-stages"><h3>{duration(total)}{where}</h3><div class="bar">{bar}</div><ul>{legend}</ul></div>'


def files(folder: Path, result: dict[str, Any]) -> str:
    """Where the result lies, as a list of paths."""

    def rows() -> Iterator[str]:
        yield f"<dt>Run</dt><dd><code>{escape(str(folder))}</code></dd>"
        for name, title in {"lora": "LoRA", "dataset": "Dataset"}.items():
            if isinstance(given := group(result, "files").get(name), str):
                yield f"<dt>{title}</dt><dd><code>{escape(str(folder / given))}</code></dd>"
        if isinstance(model := result.get("model"), str):
            yield f"<dt>Model</dt><dd><code>{escape(model)}</code></dd>"

    return f'<dl class="nosnja-files">{"".join(rows())}</dl>'


def build(workspace: Workspace, pictures: Pictures) -> Panel:
    """The tab's components, inside the tab that is open."""
    seen = gr.State("")
    empty = gr.HTML(EMPTY)
    with gr.Column(visible=False) as filled:
        numbers = gr.HTML()
        with gr.Row(equal_height=False):
            grid = picture("XYZ plot: same prompt and seed in every cell", scale=3)
            samples = picture("Samples", scale=2)
        details = gr.HTML()

    def refresh(before: str) -> Any:
        found = newest_result(workspace.runs)
        if found is None:
            return gr.skip() if before == "none" else ["none", gr.update(visible=True), gr.update(visible=False), "", None, None, ""]
        folder, result = found
        shown = {name: pictures.serve(folder, group(result, "files").get(name)) for name in ("grid", "samples")}
        now = json.dumps([str(folder), result, shown], sort_keys=True)
        if now == before:
            return gr.skip()
        return [
            now,
            gr.update(visible=False),
            gr.update(visible=True),
            figures(result),
            gr.update(value=shown["grid"], visible=shown["grid"] is not None),
            gr.update(value=shown["samples"], visible=shown["samples"] is not None),
            stages(result) + files(folder, result),
        ]

    return Panel(refresh, [seen], [seen, empty, filled, numbers, grid, samples, details])


def picture(label: str, scale: int) -> gr.Image:
    buttons = ["download", "fullscreen"]
    return gr.Image(label=label, interactive=False, buttons=buttons, scale=scale, min_width=320, elem_classes="nosnja-picture")
