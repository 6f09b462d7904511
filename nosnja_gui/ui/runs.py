"""Tab "Runs": every run folder of the workspace with its state, and the loss curve of the one that is chosen."""

from html import escape
from typing import Any

import gradio as gr
import pandas as pd

from nosnja_gui.runs import RunFolder, Status, runs_in
from nosnja_gui.settings import UserError
from nosnja_gui.ui.panel import Panel
from nosnja_gui.ui.result import COMMAND, duration
from nosnja_gui.workspace import Workspace

LISTED = 50
CURVE_POINTS = 1000
NONE_YET = f"""
<div class="nosnja-empty">
  <h2>No runs yet</h2>
  <p>What is started with <code>{COMMAND} train</code> or <code>{COMMAND} demo</code> is listed here.</p>
</div>"""

Signature = tuple[tuple[int, int], ...]


class Statuses:
    """Statuses of runs, read again only where something changed: a long log takes a moment to read, and ended runs are many."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Signature, Status]] = {}

    def of(self, run: RunFolder) -> Status:
        now = signature(run)
        before, status = self._known.get(run.path.name, ((), None))
        # A running one may die without a trace in its files.
        if status is None or now != before or status.state == "running":
            status = run.status()
            self._known[run.path.name] = (now, status)
        return status


def signature(run: RunFolder) -> Signature:
    """Changes when the run's files do."""
    states = [file.stat() for file in (run.events, run.lock_file, run.process) if file.exists()]
    return tuple((state.st_mtime_ns, state.st_size) for state in states)


def kind(run: RunFolder) -> str:
    try:
        return run.job().job
    except UserError:
        return "damaged"


def table(rows: list[tuple[RunFolder, Status]]) -> str:
    """The list as HTML; names of folders are text."""
    if not rows:
        return NONE_YET
    body = "".join(
        f"<tr><td>{escape(run.path.name)}</td><td>{kind(run)}</td>"
        f'<td><span class="nosnja-state {status.state}">{status.state}</span></td>'
        f"<td>{progress(status)}</td><td>{'' if status.loss is None else f'{status.loss:.4f}'}</td>"
        f"<td>{'' if status.eta_seconds is None else duration(status.eta_seconds)}</td>"
        f"<td>{escape(status.message or status.stage)}</td></tr>"
        for run, status in rows
    )
    heads = "".join(f"<th>{head}</th>" for head in ("Run", "Job", "State", "Progress", "Loss", "Left", ""))
    return f'<div class="nosnja-table"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def progress(status: Status) -> str:
    if not status.total:
        return ""
    share = min(1.0, status.step / status.total)
    return f'<div class="nosnja-progress"><i style="width:{100 * share:.0f}%"></i></div><small>{status.step} of {status.total}</small>'


def curve(run: RunFolder | None) -> pd.DataFrame:
    steps = run.curve(CURVE_POINTS) if run else []
    return pd.DataFrame({"step": [step.step for step in steps], "loss": [step.loss for step in steps]}, dtype=float)


def build(workspace: Workspace) -> Panel:
    """The tab's components, inside the tab that is open."""
    statuses = Statuses()
    seen = gr.State("")
    listed = gr.HTML()
    chosen = gr.Dropdown(label="Loss curve of", choices=[], interactive=True, visible=False, filterable=False, elem_id="chosen-run")
    plot = gr.LinePlot(x="step", y="loss", x_title="step", y_title="loss", height=300, visible=False, show_label=False)

    def refresh(before: str, name: str | None) -> Any:
        rows = [(run, statuses.of(run)) for run in runs_in(workspace.runs)[:LISTED]]
        trained = {run.path.name: run for run, status in rows if status.loss is not None}
        # The browser may send any name: only one that is listed is looked at, otherwise the newest.
        name = name if name in trained else next(iter(trained), None)
        now = repr([name, *((run.path.name, status) for run, status in rows)])
        if now == before:
            return gr.skip()
        return [
            now,
            table(rows),
            gr.update(choices=list(trained), value=name, visible=bool(trained)),
            gr.update(value=curve(trained.get(name or "")), visible=bool(trained)),
        ]

    panel = Panel(refresh, [seen, chosen], [seen, listed, chosen, plot])
    chosen.input(refresh, panel.inputs, panel.outputs, show_progress="hidden", api_visibility="private")
    return panel
