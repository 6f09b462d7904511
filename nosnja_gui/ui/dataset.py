"""Tab "dataset": choose or bring pictures, look through them, mend them, caption them.

The tab is one widget, `widgets/gallery.js`, which asks the functions here. The browser never names a folder: it gets a key for
the dataset that was opened, and whatever else it sends (names of pictures, of versions) must be in that dataset.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from nosnja_gui import launcher, work_queue
from nosnja_gui.captioners import CAPTIONERS
from nosnja_gui.dataset import Picture, checks, history, importing, mending
from nosnja_gui.dataset.gallery import PAGE, SCOPES, Conflict, Edit, Filter, Gallery, counted
from nosnja_gui.dataset.reading import folder_of, read
from nosnja_gui.jobs import CaptionJob
from nosnja_gui.logs import Logs
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from nosnja_gui.ui.panel import Panel, Window
from nosnja_gui.ui.widget import widget

OPENED = "dataset"
"""Under this name the window remembers which dataset was open."""
RESOLUTIONS = "dataset resolutions"
DISMISSED = "dismissed caption run"
TAKES = sorted({*importing.TAKEN, ".zip"})
"""Endings of the files that can be brought; the browser doesn't send others."""
JUNK = sorted(importing.JUNK)
"""What systems leave in folders, left out without a word."""
SIDES = (64, 256, 512, 768, 1024)
TOKENS = 75
"""What CLIP sees of a caption."""
GALLERIES = 4
FIRST_LOOK_SECONDS = 0.15
"""How long a page waits for pictures that nobody has looked into yet."""
PREVIEWED = 8
"""Changes that are shown before they are written."""
VERSIONS = 40
ENDED_SHOWN_SECONDS = {"finished": 90.0}
OTHERWISE_SHOWN_SECONDS = 24 * 3600.0
"""A captioner that has failed is worth a word until it is read; one that is done shows in the captions."""
GOING_ON = ("new", "running", "queued")
NOT_OPEN = "This dataset is not open any more: reload the page."


def build(window: Window) -> Panel:
    """The tab's components, inside the tab that is open."""
    desk = Desk(window)
    seen = gr.State("")
    shown = widget("gallery", desk.view(""), server=desk.server_functions(), elem_id="gallery")

    def opened(event: gr.EventData, current: str) -> list[Any]:
        asked = event._data if isinstance(event._data, dict) else {}
        try:
            folder = desk.resolve(str(asked.get("id", "")))
        except (UserError, OSError) as error:
            return [gr.skip(), {**desk.view(current), "error": str(error), "at": time.time()}]
        window.memory.put(OPENED, str(folder) if folder else "")
        return [str(folder) if folder else "", desk.view(str(folder) if folder else "")]

    shown.open(opened, window.dataset, [window.dataset, shown], trigger_mode="always_last", **window.quiet)

    def refresh(before: str, current: str, language: str) -> list[Any] | None:
        fresh = not before
        if fresh:
            current = desk.remembered()
        view = desk.view(current)
        state = hashlib.sha256(json.dumps(view, sort_keys=True, default=str).encode()).hexdigest()
        if state == before:
            return None
        if not fresh and current:
            window.memory.put(OPENED, current)  # others open datasets, too: the demo its own
        return [state, current if fresh else gr.skip(), view]

    return Panel(refresh, [seen, window.dataset], [seen, window.dataset, shown])


@dataclass
class Desk:
    """What this tab knows about the datasets that were opened in the window."""

    window: Window
    logs: Logs = field(default_factory=Logs)

    def __post_init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._galleries: dict[str, Gallery] = {}
        self._folders: dict[str, Path] = {}
        self._lock = threading.Lock()
        self._caption_runs: tuple[int, dict[Path, str]] = (-1, {})

    # Which dataset

    def resolve(self, identifier: str) -> Path | None:
        """The folder of a dataset that the browser asked to open; None for none. Raises UserError for what is no dataset."""
        workspace = self.window.workspace
        kind, _, name = identifier.partition("/")
        if not identifier.strip():
            return None
        if kind in ("datasets", "runs") and name:
            folder = workspace.resolve("datasets" if kind == "datasets" else "runs", name)
            if kind == "runs" and folder.name != "dataset":
                raise UserError(f"{name} is no dataset: choose one of those that are listed.")
        elif self.window.listens:
            raise UserError("This window is open to other machines, so it opens datasets of its workspace only.")
        else:
            text = identifier.removeprefix("path:").strip().strip("\"'")
            if not text or "\0" in text or len(text) > 4000:
                raise UserError("Give the path of a folder of pictures.")
            given = Path(text).expanduser()
            folder = given if given.is_absolute() else workspace.datasets / given
        if folder.is_file():
            folder = folder_of(folder)
        read(folder, look_inside=False)
        return folder

    def remembered(self) -> str:
        """The dataset that was open last, if it is still there and may be opened."""
        text = self.window.memory.get(OPENED, "")
        if not isinstance(text, str) or not text:
            return ""
        folder = Path(text)
        inside = any(_inside(folder, home) for home in (self.window.workspace.datasets, self.window.workspace.runs))
        return text if folder.is_dir() and (inside or not self.window.listens) else ""

    def listed(self) -> list[dict[str, str]]:
        """Datasets of the workspace, and those that demos have drawn."""
        workspace = self.window.workspace
        own = [{"id": f"datasets/{name}", "title": name, "group": "own"} for name in _folders(workspace.datasets)]
        drawn = [
            {"id": f"runs/{name}/dataset", "title": name, "group": "demo"}
            for name in _folders(workspace.runs)
            if (workspace.runs / name / "dataset").is_dir()
        ]
        return own + drawn

    def identifier(self, folder: Path) -> str:
        workspace = self.window.workspace
        for kind, home in (("datasets", workspace.datasets), ("runs", workspace.runs)):
            if _inside(folder, home):
                return f"{kind}/{folder.resolve().relative_to(home.resolve()).as_posix()}"
        return f"path:{folder}"

    def gallery_of(self, folder: Path) -> Gallery:
        key = self.key(folder)
        with self._lock:
            gallery = self._galleries.pop(key, None)
            if gallery is None:
                gallery = Gallery(folder, self.window.workspace.cache / "pictures", too_long)
                sides = self.window.memory.get(RESOLUTIONS, {})
                wanted = sides.get(str(folder)) if isinstance(sides, dict) else None
                gallery.resolution = wanted if wanted in SIDES else 0
            self._galleries[key] = gallery
            self._folders[key] = folder
            while len(self._galleries) > GALLERIES:
                self._galleries.pop(next(iter(self._galleries))).inspection.close()
        return gallery

    def key(self, folder: Path) -> str:
        """What the browser says instead of a folder. Only this window can make one."""
        return hmac.new(self._secret, os.fsencode(folder.absolute()), hashlib.sha256).hexdigest()[:32]

    def gallery(self, asked: Mapping[str, Any]) -> Gallery:
        """The gallery that the browser holds the key of. Raises UserError."""
        folder = self._folders.get(str(asked.get("key", "")))
        if folder is None:
            raise UserError(NOT_OPEN)
        return self.gallery_of(folder)

    def view(self, current: str) -> dict[str, Any]:
        """What the widget gets: which datasets there are, which one is open, and what tells that something in it has changed."""
        view: dict[str, Any] = {
            "datasets": self.listed(),
            "listens": self.window.listens,
            "captioners": [{"name": entry.name, "title": entry.title} for entry in CAPTIONERS.values()],
            "models": self.captioner_models(),
            "takes": TAKES,
            "junk": JUNK,
            "id": "",
            "key": "",
        }
        if not current:
            return view
        folder = Path(current)
        if not folder.is_dir():
            return {**view, "error": f"The dataset {folder} is not there any more."}
        gallery = self.gallery_of(folder)
        newest = history.versions(folder, limit=1)
        return {
            **view,
            "id": self.identifier(folder),
            "key": self.key(folder),
            "title": folder.parent.name if _inside(folder, self.window.workspace.runs) else folder.name,
            "folder": str(folder),
            "state": hashlib.sha256(repr(gallery.pulse()).encode()).hexdigest()[:16],
            "looked": [gallery.inspection.done, gallery.inspection.total],
            "undo": newest[0].note if newest else "",
            "job": self.job(folder),
        }

    def captioner_models(self) -> list[dict[str, str]]:
        try:
            from nosnja_gui.models import captioner_models
        except ImportError:
            return []
        with contextlib.suppress(UserError, OSError):
            return [
                {"name": str(entry.name), "title": str(entry.title), "problem": entry.problem}
                for entry in captioner_models(self.window.workspace)
            ]
        return []

    # Captioning

    def caption_run(self, folder: Path) -> RunFolder | None:
        """The newest run that captions this dataset."""
        runs = self.window.workspace.runs
        state = _time(runs)
        if self._caption_runs[0] != state:
            known = self._caption_runs[1]
            found = {}
            for name in sorted(_folders(runs)):
                if name.startswith("caption-"):
                    with contextlib.suppress(UserError, OSError):
                        run = RunFolder(runs / name)
                        found[run.path] = known.get(run.path) or str(Path(run.job().dataset).resolve())  # type: ignore[union-attr]
            self._caption_runs = (state, found)
        wanted = str(folder.resolve())
        fitting = [path for path, dataset in self._caption_runs[1].items() if dataset == wanted]
        return RunFolder(max(fitting, key=lambda path: _time(path / "run.yaml"))) if fitting else None

    def job(self, folder: Path) -> dict[str, Any] | None:
        """How far the captioner is; None where it has nothing to say."""
        run = self.caption_run(folder)
        if run is None:
            return None
        log = self.logs.of(run)
        status = log.status
        waits = any(waiting.path == run.path for waiting in work_queue.waiting(self.window.workspace)) if status.state == "new" else False
        state = "queued" if waits else status.state
        shown_seconds = ENDED_SHOWN_SECONDS.get(state, OTHERWISE_SHOWN_SECONDS)
        dismissed = self.window.memory.get(DISMISSED) == run.path.name
        if state not in GOING_ON and (dismissed or time.time() - (log.last or _time(run.path) / 1e9) > shown_seconds):
            return None
        newest = log.captions[0] if log.captions else None
        return {
            "run": run.path.name,
            "state": state,
            "done": status.step,
            "total": status.total,
            "eta": round(status.eta_seconds) if status.eta_seconds is not None else None,
            "stage": status.stage,
            "newest": list(newest) if newest else None,
            "captions": [list(pair) for pair in log.captions] if state in GOING_ON else [],
            "message": status.message,
            "warnings": len(log.warnings),
        }

    def start_captions(self, gallery: Gallery, asked: Mapping[str, Any]) -> dict[str, Any]:
        scope, existing = asked.get("scope"), asked.get("existing")
        model = str(asked.get("model", "")).strip()
        if scope not in (*SCOPES, "one") or existing not in ("keep", "overwrite"):
            raise UserError("Choose which pictures are captioned, and what happens to captions that are there.")
        if str(asked.get("captioner")) not in CAPTIONERS:
            raise UserError("Choose a captioner.")
        if self.window.listens and model and model not in {entry["name"] for entry in self.captioner_models()}:
            raise UserError("This window is open to other machines, so it takes captioners of its workspace only.")
        before = self.job(gallery.folder)
        if before is not None and before["state"] in GOING_ON:
            raise UserError("This dataset is being captioned already: wait until that is done, or stop it.")
        pictures = self.pictures(gallery, asked)
        if not pictures:
            raise UserError("There is no picture to caption.")
        job = CaptionJob(
            dataset=str(gallery.folder),
            captioner=str(asked["captioner"]),
            model=model,
            prompt=str(asked.get("prompt", ""))[:1000],
            existing=existing,
            pictures=[] if scope == "all" else [picture.name for picture in pictures],
        )
        workspace = self.window.workspace
        run = RunFolder.create(workspace.new_run(f"caption-{gallery.folder.name}"), job)
        return {"started": work_queue.start_or_enqueue(run, workspace)}

    # What the widget asks

    def pictures(self, gallery: Gallery, asked: Mapping[str, Any]) -> list[Picture]:
        """The pictures that `scope` means: all, those that the filter shows, or those that are named."""
        dataset = gallery.dataset()
        scope = asked.get("scope", "all")
        if scope == "all":
            return list(dataset.pictures)
        if scope == "shown":
            return gallery.shown(dataset, _filter(asked))
        wanted = {str(name) for name in asked.get("names", [])}
        return [picture for picture in dataset.pictures if picture.name in wanted]

    def item(self, picture: Picture, issues: list[checks.Issue], facts: checks.Facts | None, left_out: bool = False) -> dict[str, Any]:
        """A tile. There is an address only for what is known to be a picture: a browser complains about all others."""
        return {
            "name": picture.name,
            "left_out": left_out,
            "url": self.window.pictures.url(picture.path, 320) if facts is not None and not facts.reason else "",
            "caption": picture.caption,
            "issues": [issue.kind for issue in issues],
            "tokens": token_count(picture.caption or ""),
        }

    def server_functions(self) -> list[Callable[[Any], Any]]:
        """Every function takes one JSON object and gives one; `{"error": sentence}` where it could not be done."""

        def page(asked: Mapping[str, Any]) -> dict[str, Any]:
            gallery = self.gallery(asked)
            dataset = gallery.dataset()
            wanted = _filter(asked)
            found = gallery.shown(dataset, wanted)
            last = max(0, -(-len(found) // PAGE) - 1)
            number = min(max(0, int(asked.get("page", 0))), last)
            if name := asked.get("around"):
                number = next((at // PAGE for at, picture in enumerate(found) if picture.name == name), number)
            issues = gallery.issues(dataset) if wanted.show != "left_out" else {}
            listed = found[number * PAGE : (number + 1) * PAGE]
            if wanted.show == "left_out":
                facts = {picture.name: gallery.facts(picture) for picture in listed}
            else:
                gallery.inspection.prefer([picture.name for picture in listed], FIRST_LOOK_SECONDS)
                facts = gallery.inspection.facts
            return {
                "page": number,
                "pages": last + 1,
                "total": len(found),
                "first": number * PAGE,
                "items": [
                    {
                        **self.item(picture, issues.get(picture.name, []), facts.get(picture.name), wanted.show == "left_out"),
                        "twin": facts[picture.name].content if picture.name in facts else "",
                    }
                    for picture in listed
                ],
                "unseen": sum(picture.name not in facts for picture in listed),
                "counts": gallery.counts(dataset),
                "side": gallery.side(),
                "sides": sorted({*SIDES, gallery.side()}),
                "side_chosen": gallery.resolution,
                "looked": [gallery.inspection.done, gallery.inspection.total],
                "layout": dataset.layout,
                "captions_file": dataset.captions_file.name if dataset.captions_file else "",
                "problems": [str(problem) for problem in dataset.problems][:20],
                "limit": TOKENS,
            }

        def picture(asked: Mapping[str, Any]) -> dict[str, Any]:
            gallery = self.gallery(asked)
            name = str(asked["name"])
            if asked.get("left_out"):
                path = mending.left_out(gallery.folder).get(name)
                if path is None:
                    raise UserError(f"'{name}' is not among the pictures that were left out.")
                away = Picture(path, None, 0, 0, name)
                url = self.window.pictures.url(path, 1024) if not gallery.facts(away).reason else ""
                return {"name": name, "url": url, "caption": None, "issues": [], "left_out": True}
            shown = gallery.picture(gallery.recent(), name)
            facts = gallery.facts(shown)
            return {
                **self.item(shown, [], facts),
                "url": self.window.pictures.url(shown.path, 1024) if not facts.reason else "",
                "width": facts.width,
                "height": facts.height,
                "bytes": shown.path.stat().st_size,
                "issues": [{"kind": issue.kind, "others": list(issue.others), "detail": issue.detail} for issue in gallery.issues_of(name)],
                **count(asked={"text": shown.caption or ""}),
            }

        def count(asked: Mapping[str, Any]) -> dict[str, Any]:
            text = str(asked["text"])[:20_000]
            return {"tokens": token_count(text), "cut": cut_at(text), "limit": TOKENS}

        def save(asked: Mapping[str, Any]) -> dict[str, Any]:
            gallery = self.gallery(asked)
            before = asked.get("before")
            try:
                caption, version = gallery.save(
                    str(asked["name"]),
                    str(asked["caption"])[:200_000],
                    None if before is None else str(before),
                    str(asked.get("version", "")),
                )
            except Conflict as error:
                return {"conflict": error.theirs or "", "error": str(error)}
            return {"caption": caption, "version": version, "tokens": token_count(caption), "cut": cut_at(caption)}

        def edit(asked: Mapping[str, Any]) -> dict[str, Any]:
            """A preview of an edit of many captions, or the edit itself with `apply`."""
            gallery = self.gallery(asked)
            wanted = Edit(
                **{name: str(asked.get(name, ""))[:2000] for name in ("find", "replacement", "prepend", "append")},
                **{name: asked.get(name) is True for name in ("whole_words", "same_case")},
            )
            changes = gallery.plan(wanted, self.pictures(gallery, asked))
            if asked.get("apply"):
                if len(changes) != asked.get("count"):
                    raise UserError("The captions have changed since the preview: look at it again.")
                return {"changed": gallery.apply(changes, "find and replace")}
            first = [{"name": change.name, "before": change.before, "after": change.after} for change in changes[:PREVIEWED]]
            return {"count": len(changes), "changes": first}

        def tags(asked: Mapping[str, Any]) -> dict[str, Any]:
            gallery = self.gallery(asked)
            kind = "word" if asked.get("kind") == "word" else "tag"
            return {"counted": counted(gallery.shown(gallery.dataset(), _filter({**asked, "tag": "", "word": ""})), kind)}

        def undo(asked: Mapping[str, Any]) -> dict[str, Any]:
            """Take back the last change, or the last `count` ones."""
            gallery = self.gallery(asked)
            return {"undone": [gallery.undo() for _ in range(min(VERSIONS, max(1, int(asked.get("count", 1)))))]}

        def versions(asked: Mapping[str, Any]) -> dict[str, Any]:
            kept = history.versions(self.gallery(asked).folder, limit=VERSIONS)
            return {"versions": [{"note": version.note, "at": version.at, "files": len(version.contents)} for version in kept]}

        def leave_out(asked: Mapping[str, Any]) -> dict[str, Any]:
            gallery = self.gallery(asked)
            names = [str(name) for name in asked["names"]]
            dataset = gallery.dataset()
            if len(set(names)) >= len(dataset.pictures):
                raise UserError("These are all pictures of the dataset: leave at least one.")
            return {"moved": mending.leave_out(dataset, names)}

        def put_back(asked: Mapping[str, Any]) -> dict[str, Any]:
            return {"back": mending.put_back(self.gallery(asked).folder, [str(name) for name in asked["names"]])}

        def convert(asked: Mapping[str, Any]) -> dict[str, Any]:
            return {"renamed": mending.convert(self.gallery(asked).dataset(), [str(name) for name in asked["names"]])}

        def judge_by(asked: Mapping[str, Any]) -> dict[str, Any]:
            """Choose the resolution against which pictures are judged; 0 for the usual one."""
            gallery = self.gallery(asked)
            side = int(asked.get("side", 0))
            if side and side not in SIDES:
                raise UserError(f"The resolution must be one of {', '.join(map(str, SIDES))}.")
            gallery.resolution = side
            sides = self.window.memory.get(RESOLUTIONS, {})
            self.window.memory.put(RESOLUTIONS, {**(sides if isinstance(sides, dict) else {}), str(gallery.folder): side})
            return {"side": gallery.side()}

        def bring(asked: Mapping[str, Any]) -> dict[str, Any]:
            """Import files that were uploaded: into the dataset that is open, or a new one."""
            uploads = (self.window.workspace.cache / "uploads").resolve()
            files = []
            for file in asked["files"]:
                path = Path(str(file["path"])).resolve()
                if not path.is_relative_to(uploads) or not path.is_file():
                    raise UserError("One of the files has not arrived: drop them again.")
                files.append((str(file["name"]), path))
            into = self.gallery(asked).folder if asked.get("key") else None
            name = str(asked.get("name", "")).strip() or _usual_name([given for given, _ in files])
            try:
                done = importing.import_files(files, self.window.workspace.datasets, name, into)
            finally:
                for _, path in files:
                    with contextlib.suppress(OSError):
                        path.unlink()
            return {
                "id": self.identifier(done.folder),
                "pictures": done.pictures,
                "captions": done.captions,
                "notes": list(done.notes[:20]),
            }

        def caption(asked: Mapping[str, Any]) -> dict[str, Any]:
            return self.start_captions(self.gallery(asked), asked)

        def stop(asked: Mapping[str, Any]) -> dict[str, Any]:
            run = self.caption_run(self.gallery(asked).folder)
            if run is not None and not work_queue.remove(run, self.window.workspace):
                launcher.stop(run)
            return {}

        def dismiss(asked: Mapping[str, Any]) -> dict[str, Any]:
            run = self.caption_run(self.gallery(asked).folder)
            if run is not None:
                self.window.memory.put(DISMISSED, run.path.name)
            return {}

        functions = (
            page,
            picture,
            count,
            save,
            edit,
            tags,
            undo,
            versions,
            leave_out,
            put_back,
            convert,
            judge_by,
            bring,
            caption,
            stop,
            dismiss,
        )
        return [answering(function) for function in functions]


def answering(function: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """A function for the browser, which may send anything: trouble is a sentence in the answer."""

    @functools.wraps(function)
    def answer(asked: Any) -> dict[str, Any]:
        try:
            return function(asked if isinstance(asked, dict) else {})
        except UserError as error:
            return {"error": str(error)}
        except OSError as error:
            return {"error": f"That did not work: {error.strerror or error}."}
        except (KeyError, TypeError, ValueError, AttributeError):
            return {"error": "That was not understood: reload the page."}

    # Gradio makes it an attribute of the component, which has a `page` and a `stop` of its own.
    answer.__name__ = f"gallery_{function.__name__}"
    # Gradio looks at the hints for things to fill in.
    answer.__annotations__ = {"asked": Any}
    del answer.__wrapped__  # type: ignore[attr-defined]
    return answer


@functools.lru_cache(maxsize=50_000)
def token_count(text: str) -> int | None:
    """CLIP tokens of a caption; None where there is no tokenizer."""
    try:
        from nosnja_gui.tokens import clip_tokenizer
    except ImportError:
        return None
    return len(clip_tokenizer()(text)) if text.strip() else 0


@functools.lru_cache(maxsize=50_000)
def cut_at(text: str) -> int:
    """Where in the caption what CLIP does not see begins."""
    try:
        from nosnja_gui.tokens import cut
    except ImportError:
        return len(text)
    return cut(text, TOKENS)


def too_long(text: str) -> bool:
    # A token is at least one letter: most captions need no counting.
    return len(text) > TOKENS and cut_at(text) < len(text.rstrip())


def _filter(asked: Mapping[str, Any]) -> Filter:
    return Filter(*(str(asked.get(name, usual))[:500] for name, usual in (("show", "all"), ("search", ""), ("tag", ""), ("word", ""))))


def _usual_name(names: list[str]) -> str:
    zips = [name for name in names if name.lower().endswith(".zip")]
    return Path(zips[0].replace("\\", "/")).stem if zips else time.strftime("pictures-%Y-%m-%d")


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name for entry in entries if entry.name[0] != "." and entry.is_dir()), key=str.casefold)
    except OSError:
        return []


def _inside(folder: Path, home: Path) -> bool:
    try:
        return folder.resolve().is_relative_to(home.resolve()) and folder.resolve() != home.resolve()
    except (OSError, RuntimeError):
        return False


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
