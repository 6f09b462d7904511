"""Tab "Runs & models": what was trained and painted, the LoRAs that came of it, and the base models there are.

The list is asked for by the page itself, and only while it is looked at; it gets what changed since it asked last.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from nosnja_gui import launcher, models, work_queue
from nosnja_gui.library import Library, Lora, NameTaken, RunSummary, Trashed
from nosnja_gui.logs import Logs
from nosnja_gui.settings import UserError
from nosnja_gui.ui.panel import Panel, Window
from nosnja_gui.ui.tools import Tool, Tools, about_lora, model_row, models_mark, place_rows
from nosnja_gui.ui.widget import widget
from nosnja_gui.workspace import Workspace

LOOK_EVERY_SECONDS = 1.0
"""However many pages are open, the folders are looked at this often at most."""
DOWNLOAD_SECONDS = 3600.0
MOST_COMPARED = 6
SECTIONS = ("runs", "loras", "models", "trash")
VIEW = "library-view"
"""What the window remembers of this tab: the section, the order, the folder of the last export."""
TRAIN_LOAD = "train-load"
"""Where the train tab finds the folder of the run whose settings it shall take over."""
XYZ_LOAD = {"run": "xyz-run", "lora": "xyz-lora"}
"""Where the XYZ tab finds the run whose epochs, or the LoRA file, it shall make a plot of."""


class Feed:
    """Rows by key, and what changed in them since somebody asked last."""

    def __init__(self, row: Callable[[Any], dict[str, Any]]) -> None:
        """`row`: what the page is told of a thing."""
        self._row = row
        self._name, self._count = secrets.token_hex(4), 0
        self._rows: dict[str, tuple[int, Any, dict[str, Any]]] = {}
        self._gone: dict[str, int] = {}

    def update(self, things: dict[str, Any]) -> None:
        """All that there is now. There may be thousands: those that are the very same objects as before are not looked at."""
        changed = {key: thing for key, thing in things.items() if key not in self._rows or self._rows[key][1] is not thing}
        gone = [key for key in self._rows if key not in things]
        if not changed and not gone:
            return
        self._count += 1
        for key in gone:
            del self._rows[key]
            self._gone[key] = self._count
        for key, thing in changed.items():
            row = self._row(thing)
            same = key in self._rows and self._rows[key][2] == row
            self._rows[key] = self._rows[key][0] if same else self._count, thing, row
            self._gone.pop(key, None)

    @property
    def version(self) -> str:
        return f"{self._name}:{self._count}"

    def since(self, version: Any) -> dict[str, Any]:
        """What is new since that version; everything for a version that is not one of this feed's."""
        name, _, count = str(version).partition(":")
        before = int(count) if name == self._name and count.isdecimal() else -1
        return {
            "version": self.version,
            "fresh": before < 0,
            "rows": {key: row for key, (at, _, row) in self._rows.items() if at > before},
            "gone": [key for key, at in self._gone.items() if at > before >= 0],
        }


def answers(function: Callable[..., dict[str, Any] | None]) -> Callable[[Any], dict[str, Any] | None]:
    """What the page calls: takes anything, never raises. What the user can mend comes back as {"problem": sentence}."""

    @functools.wraps(function)
    def answer(shelf: Shelf, asked: Any = None) -> dict[str, Any] | None:
        try:
            return function(shelf, asked if isinstance(asked, dict) else {})
        except NameTaken as error:
            return {"problem": str(error), "taken": True}
        except UserError as error:
            return {"problem": str(error)}
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            return {"problem": f"{type(error).__name__}: {error}"}

    return answer


class Shelf:
    """What the page asks of the library."""

    def __init__(self, window: Window) -> None:
        self.window, self.workspace = window, window.workspace
        self.library = Library(window.workspace, Logs().status)
        self.tools = Tools(window, self.library)
        self._feed = Feed(row_of)
        self._lock = threading.Lock()
        self._looked_at, self._all_read, self._tools_ended = 0.0, False, 0

    def asked_by_page(self) -> list[Callable[..., Any]]:
        names = ("look", "run_details", "lora_details", "compare", "base_models", "remember", "go_on", "rename", "delete", "export")
        more = ("download", "restore", "empty_trash", "use_tool", "cancel_tool", "forget_tool", "fetch_model", "end_fetch")
        return [_named(name, getattr(self, name)) for name in (*names, *more, "add_place", "remove_place")]

    @answers
    def look(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        """{version} -> rows that changed since; None where nothing did."""
        with self._lock:
            # What a tool wrote is there in the same answer as the news that it is done.
            if (ended := self.tools.ended()) != self._tools_ended:
                self._tools_ended, self._looked_at = ended, 0.0
            if not self._all_read or time.monotonic() - self._looked_at > LOOK_EVERY_SECONDS or asked.get("now"):
                self._all_read = self.library.look()
                self._feed.update(self._things())
                self._looked_at = time.monotonic()
            if asked.get("version") == self._feed.version and self._all_read:
                return None
            said = {**self._feed.since(asked.get("version")), "all_read": self._all_read}
        if said["fresh"]:
            said["view"] = {"section": "runs", **self._view()}
            said["places"] = {"models": str(self.workspace.models), "folders": not self.window.listens}
        return said

    def _things(self) -> dict[str, Any]:
        runs = {f"runs:{run.identifier}": run for run in self.library.runs()}
        loras = {f"loras:{lora.identifier}": lora for lora in self.library.loras()}
        trash = {f"trash:{item.identifier}": item for item in self.library.trash.content()}
        return runs | loras | trash | {f"tools:{tool.identifier}": tool for tool in self.tools.shown()}

    def _changed(self) -> None:
        self._looked_at = 0.0

    def _view(self) -> dict[str, Any]:
        view = self.window.memory.get(VIEW)
        return view if isinstance(view, dict) else {}

    @answers
    def run_details(self, asked: dict[str, Any]) -> dict[str, Any]:
        details = self.library.details(_text(asked, "id"))
        url = self.window.pictures.url
        return {
            **asdict(details),
            "pictures": [{"small": url(file, 320), "large": url(file), "name": file.name} for file in details.pictures],
        }

    @answers
    def lora_details(self, asked: dict[str, Any]) -> dict[str, Any]:
        return about_lora(self.library.lora(_text(asked, "id")))

    @answers
    def compare(self, asked: dict[str, Any]) -> dict[str, Any]:
        given = asked.get("ids")
        names = [name for name in given if isinstance(name, str)][:MOST_COMPARED] if isinstance(given, list) else []
        rows = self.library.compare(names) if len(names) > 1 else {}
        return {"names": names, "rows": rows}

    @answers
    def base_models(self, asked: dict[str, Any]) -> dict[str, Any]:
        """{mark} -> all of them; nothing where that mark says that the page has them already."""
        mark = models_mark(self.workspace)
        if asked.get("mark") == mark:
            return {}
        return {
            "mark": mark,
            "places": place_rows(self.workspace),
            "models": [model_row(entry) for entry in models.list_models(self.workspace)],
            "captioners": [model_row(entry) for entry in models.captioner_models(self.workspace)],
        }

    @answers
    def remember(self, asked: dict[str, Any]) -> None:
        """The section, the order and the like, as they are found again after a reload."""
        kept = {name: asked[name] for name in ("section", "sort", "only_last") if name in asked}
        if kept.get("section", "runs") in SECTIONS and len(json.dumps(kept)) < 1000:
            self.window.memory.put(VIEW, {**self._view(), **kept})

    @answers
    def go_on(self, asked: dict[str, Any]) -> dict[str, Any]:
        run = self.library.run(_text(asked, "id"))
        done = work_queue.start_or_enqueue(run, self.workspace)
        self._changed()
        return {"done": done}

    @answers
    def rename(self, asked: dict[str, Any]) -> dict[str, Any]:
        change = self.library.rename_lora if asked.get("section") == "loras" else self.library.rename_run
        name = change(_text(asked, "id"), _text(asked, "name"))
        self._changed()
        return {"id": name}

    @answers
    def delete(self, asked: dict[str, Any]) -> dict[str, Any]:
        change = self.library.delete_lora if asked.get("section") == "loras" else self.library.delete_run
        trashed = change(_text(asked, "id"))
        self._changed()
        return {"trashed": trashed.identifier}

    @answers
    def export(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Copy a LoRA: {id, name, folder, overwrite}. Other folders than the workspace's only for who sits at this machine."""
        given = _text(asked, "folder").strip()
        if given and self.window.listens:
            raise UserError("This window is open to other machines, so it copies into its own models folder only.")
        folder = Path(given).expanduser() if given else None
        if folder is not None and not folder.is_absolute():
            raise UserError(f"Give the whole path of the folder, from its beginning (got {given}).")
        file = self.library.export(_text(asked, "id"), _text(asked, "name"), folder, overwrite=asked.get("overwrite") is True)
        self.window.memory.put(VIEW, {**self._view(), "folder": given})
        self._changed()
        return {"file": str(file)}

    @answers
    def download(self, asked: dict[str, Any]) -> dict[str, Any]:
        lora = self.library.lora(_text(asked, "id"))
        return {"url": f"/gradio_api/file={quote(offered(lora, self.workspace).as_posix())}", "name": lora.path.name}

    @answers
    def restore(self, asked: dict[str, Any]) -> dict[str, Any]:
        trashed = self.library.trash.restore(_text(asked, "id"))
        self._changed()
        return {"name": trashed.name}

    @answers
    def empty_trash(self, asked: dict[str, Any]) -> dict[str, Any]:
        freed = self.library.trash.empty()
        self._changed()
        return {"bytes": freed}

    @answers
    def use_tool(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Start one: {tool, ids or model, values}."""
        identifier = self.tools.use(asked)
        self._changed()
        return {"id": identifier}

    @answers
    def cancel_tool(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.tools.toolbox.task(_text(asked, "id")).cancel()
        self._changed()
        return {}

    @answers
    def forget_tool(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.tools.toolbox.forget(_text(asked, "id"))
        self._changed()
        return {}

    @answers
    def fetch_model(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Download a base model: {values: repo, file, variant, revision, name, token}."""
        run = self.tools.fetch(asked)
        self._changed()
        return {"run": run}

    @answers
    def end_fetch(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Ask a download to end; it goes on later where it was."""
        launcher.stop(self.library.run(_text(asked, "id")))
        self._changed()
        return {}

    @answers
    def add_place(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.tools.add_place(_text(asked, "folder"), _text(asked, "kind"))
        return {}

    @answers
    def remove_place(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.tools.remove_place(_text(asked, "folder"))
        return {}

    def open(self, asked: Any) -> list[Any]:
        """Another tab with something of this one: {"to": "monitor" | "grid" | "train" | "xyz" | "start", "id" or "lora": ...}."""
        asked = asked if isinstance(asked, dict) else {}
        run, grid, tabs = gr.skip(), gr.skip(), gr.skip()
        if asked.get("to") == "start":
            return [run, grid, gr.Tabs(selected="start")]
        with contextlib.suppress(UserError):
            if asked.get("to") == "xyz" and "lora" in asked:
                self.window.memory.put(XYZ_LOAD["lora"], str(self.library.lora(_text(asked, "lora")).path))
                return [run, grid, gr.Tabs(selected="xyz")]
            name = _text(asked, "id")
            folder = self.library.run(name).path
            match asked.get("to"):
                case "monitor":
                    run, tabs = self._watched(name), gr.Tabs(selected="monitor")
                case "grid":
                    grid, tabs = name, gr.Tabs(selected="xyz")
                case "train":
                    self.window.memory.put(TRAIN_LOAD, str(folder))
                    tabs = gr.Tabs(selected="train")
                case "xyz":
                    self.window.memory.put(XYZ_LOAD["run"], name)
                    tabs = gr.Tabs(selected="xyz")
        return [run, grid, tabs]

    def _watched(self, name: str) -> str:
        """The run whose curve there is to see: of a demo its training, once that has begun."""
        with contextlib.suppress(UserError):
            self.library.run(f"{name}/training")
            return f"{name}/training"
        return name


def _named(name: str, method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A plain function of that name: Gradio writes marks of its own on what the page may call, which a method does not take."""

    def function(asked: Any = None) -> Any:
        return method(asked)

    function.__name__ = name
    return function


def _text(asked: dict[str, Any], name: str) -> str:
    value = asked.get(name, "")
    return value if isinstance(value, str) else ""


LEFT_OUT = ("status", "path", "known", "identifier")


def row_of(thing: RunSummary | Lora | Trashed | Tool) -> dict[str, Any]:
    """What the list shows of it; `id` is its identifier."""
    row = {name: value for name, value in vars(thing).items() if name not in LEFT_OUT}
    told = vars(thing.status) | {"known": thing.known} if isinstance(thing, RunSummary) else {}
    return {**row, **told, "id": thing.identifier}


def offered(lora: Lora, workspace: Workspace) -> Path:
    """The file where the server hands files out, under a path that nobody guesses. A second name of the same file where the disk can."""
    folder = workspace.cache / "uploads" / "downloads"
    if folder.is_dir():
        for old in folder.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - old.stat().st_mtime > DOWNLOAD_SECONDS:
                    shutil.rmtree(old)
    target = folder / secrets.token_hex(16) / lora.path.name
    try:
        target.parent.mkdir(parents=True)
        try:
            os.link(lora.path, target)
        except OSError:
            shutil.copyfile(lora.path, target)
    except OSError as error:
        raise UserError(f"{lora.path.name} cannot be handed out ({error.strerror}).") from None
    return target


def build(window: Window) -> Panel:
    """The tab's components, inside the tab that is open."""
    shelf = Shelf(window)
    made = widget("library", {}, server=shelf.asked_by_page(), elem_id="library")

    def go(event: gr.EventData) -> list[Any]:
        return shelf.open(event._data)

    made.go(go, None, [window.run, window.grid, window.tabs], **window.quiet)
    return Panel(lambda language: None)
