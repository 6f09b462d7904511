"""What was made in a workspace: its runs and LoRA files, what is known of them, and putting them in order.

Renames, copies, and moves to the trash from where everything comes back. What is asked of it by name is looked up among what it
found itself, so no name leads out of the workspace. Knows neither torch nor the window.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml

from nosnja_gui import events, weights
from nosnja_gui.adapters import inspection
from nosnja_gui.files import folder_size, free_bytes, replacing, sync, write_atomic
from nosnja_gui.jobs import Job
from nosnja_gui.methods import METHODS, method_of
from nosnja_gui.runs import JOBS, RunFolder, Status, identifier, runs_in
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace, file_name

SUFFIX = ".safetensors"
LIVING = ("running", "queued")
SIZE_SECONDS = 30.0
"""How long the size of a run that grows counts as known."""
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names of devices on Windows."""
PUBLISHED = "-hub"
"""How folders end that hold a LoRA made ready for others: a copy of one that is listed already."""


class NameTaken(UserError):
    """A file of that name is there already; it may be replaced if the user says so."""


@dataclass(frozen=True)
class Lora:
    """A LoRA file, or one of its kin (DoRA, LoHa ...), by its header alone."""

    identifier: str
    """Path in the workspace: "runs/costume-001/weights/costume.safetensors", "models/costume.safetensors"."""
    path: Path
    name: str
    run: str = ""
    """The run that trained it; "" for a file in the models folder."""
    bytes: int = 0
    modified_at: float = 0.0
    problem: str = ""
    """Why it cannot be used, in a sentence."""
    kind: str = ""
    family: str = ""
    """"SD 1.x" and the like, by the shapes inside; "" where they don't tell."""
    ranks: tuple[int, ...] = ()
    alphas: tuple[float, ...] = ()
    modules: int = 0
    step: int | None = None
    epoch: int | None = None
    trigger: str = ""
    """The word that calls it up, as the file itself says it."""
    triggers: tuple[str, ...] = ()
    """That, and the words that stand in nearly all captions that it was trained on."""
    base_name: str = ""
    base_hash: str = ""
    last: bool = True
    """Whether it is what its run ended with; False for what was saved on the way."""
    known: bool = False
    """Whether its header was read yet."""


@dataclass(frozen=True)
class RunSummary:
    """A run in a line."""

    identifier: str
    kind: str = ""
    """One of JOBS; "damaged" where its settings cannot be read."""
    method: str = ""
    """Of a training."""
    status: Status = field(default_factory=lambda: Status("new"))
    made_at: float = 0.0
    seconds: float | None = None
    """How long it worked, without the pauses between its starts; None while it works."""
    learning_rate: float | None = None
    rank: int | None = None
    alpha: float | None = None
    trigger: str = ""
    dataset: str = ""
    model: str = ""
    bytes: int | None = None
    known: bool = False
    """Whether it was looked into yet."""


@dataclass(frozen=True)
class RunDetails:
    yaml: str
    problem: str
    warnings: tuple[str, ...]
    pictures: tuple[Path, ...]
    """The last samples, or a grid's sheets."""
    used_by: tuple[str, ...]
    """Grids that were painted with it."""
    read_back: events.ReadBack | None = None
    """What came of reading the finished LoRA with the readers that its users have."""


@dataclass(frozen=True)
class Trashed:
    """Something in the trash."""

    identifier: str
    name: str
    kind: Literal["run", "lora"]
    origin: str
    """Where it was, relative to the workspace."""
    at: float
    bytes: int


class Library:
    """Runs and LoRAs of a workspace; what was read once is read again only when its files change.

    Hundreds of runs are not read in an instant, so `look` takes a limited time; the newest come first.
    """

    def __init__(self, workspace: Workspace, status: Callable[[RunFolder], Status] = RunFolder.status) -> None:
        self.workspace = workspace
        self.trash = Trash(workspace)
        self._status = status
        self._lock = threading.RLock()
        self._runs: dict[str, _KnownRun] = {}
        self._loras: dict[str, tuple[tuple[int, int], Lora]] = {}
        self._listings: dict[str, tuple[int, list[str]]] = {}

    # Looking

    def look(self, seconds: float = 0.15) -> bool:
        """Bring `runs` and `loras` up to date, reading for about so long; False if there is more to read."""
        with self._lock:
            self._find_runs()
            self._find_loras()
            return self._read(time.monotonic() + seconds)

    def runs(self) -> list[RunSummary]:
        """The newest first, as of the last look. What did not change is the same object as before."""
        with self._lock:
            return [known.summary for known in self._runs.values()]

    def loras(self) -> list[Lora]:
        """As of the last look; those that were read by then. What did not change is the same object as before."""
        with self._lock:
            found = [lora for _, lora in self._loras.values() if lora.kind or lora.problem]
            last: dict[str, Lora] = {}
            for lora in found:
                if lora.run and (lora.run not in last or _order(lora) > _order(last[lora.run])):
                    last[lora.run] = lora
            return [self._told_last(lora, not lora.run or last[lora.run] is lora) for lora in found]

    def _told_last(self, lora: Lora, last: bool) -> Lora:
        if lora.last == last:
            return lora
        told = replace(lora, last=last)
        self._loras[lora.identifier] = self._loras[lora.identifier][0], told
        return told

    def run(self, name: str) -> RunFolder:
        """The run of that identifier. Raises UserError if there is none."""
        with self._lock:
            if name not in self._runs:
                self._find_runs()
            if name not in self._runs:
                raise UserError(f"There is no run '{name}' in {self.workspace.runs} (any more).")
            return self._runs[name].run

    def lora(self, name: str) -> Lora:
        """The LoRA of that identifier. Raises UserError if there is none."""
        with self._lock:
            if name not in self._loras or not self._loras[name][1].path.is_file():
                self._find_runs()
                self._find_loras()
            if name not in self._loras:
                raise UserError(f"There is no LoRA '{name}' in {self.workspace.root} (any more).")
            lora = self._loras[name][1]
            return lora if lora.known else self._read_lora(lora)

    def details(self, name: str) -> RunDetails:
        """What is shown of one run. Raises UserError if there is none."""
        run = self.run(name)
        try:
            text, problem = run.run_yaml.read_text(encoding="utf-8"), ""
            run.job()
        except (OSError, ValueError) as error:
            text, problem = "", str(error)
        said = list(_events(run.events, "warned", "failed", "sampled", "finished", "read_back"))
        warnings = tuple(dict.fromkeys(event.message for event in said if isinstance(event, events.Warned)))
        sampled = [event.files for event in said if isinstance(event, events.Sampled)][-1:]
        painted = [event.files for event in said if isinstance(event, events.Finished)][-1:]
        checked = [event for event in said if isinstance(event, events.ReadBack)][-1:]
        pictures = tuple(_pictures(run, [*sampled, *painted]))
        return RunDetails(text, problem, warnings, pictures, tuple(self.used_by(name)), checked[0] if checked else None)

    def used_by(self, name: str) -> list[str]:
        """Grids whose settings name that run, or a file of it."""
        run = self.run(name)
        path, found = run.path.as_posix(), []
        for known in list(self._runs.values()):
            if known.summary.kind == "grid" and known.run.path.parent != run.path:
                values = _plain(known.run.run_yaml)
                texts = [text.replace("\\", "/") for text in _texts(values)]
                if any(text in (name, path) or text.startswith((f"{name}/", f"{path}/")) for text in texts):
                    found.append(known.summary.identifier)
        return found

    def compare(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """Dotted settings in which these runs differ, each with a value per run. Raises UserError for a damaged one."""
        return differences([self.run(name).job() for name in names])

    # Putting in order

    def rename_run(self, name: str, wanted: str) -> str:
        """Rename a run's folder; its new identifier. Raises UserError for one that works or waits, and for a name that is none."""
        with self._lock:
            run, wanted = self._idle(name), checked_name(wanted)
            if "/" in name:
                raise UserError(f"{name} is a part of {name.rpartition('/')[0]}: rename that one.")
            _rename(run.path, self._free(run.path, wanted))
            self._runs.pop(name, None)
            return wanted

    def delete_run(self, name: str) -> Trashed:
        """Move a run with all that it made to the trash. Raises UserError for one that works or waits."""
        with self._lock:
            run = self._idle(name)
            if "/" in name:
                raise UserError(f"{name} is a part of {name.rpartition('/')[0]}: delete that one.")
            trashed = self.trash.put(run.path, "run", f"runs/{name}")
            self._runs.pop(name, None)
            return trashed

    def rename_lora(self, name: str, wanted: str) -> str:
        """Rename a LoRA in the models folder, and the title inside it; its new identifier.

        Raises UserError for one inside a run: the run knows its epochs by their files' names, so that is exported instead.
        """
        with self._lock:
            lora, wanted = self.lora(name), checked_name(wanted)
            if lora.run:
                raise UserError(f"{lora.name} belongs to the run {lora.run}, which knows it by its name: export a copy under another.")
            target = self._free(lora.path, wanted + SUFFIX)
            if retitled(lora, wanted) is None:
                _rename(lora.path, target)
            else:
                write_copy(lora, target, wanted)
                lora.path.unlink()
            return f"{name.rpartition('/')[0]}/{target.name}"

    def delete_lora(self, name: str) -> Trashed:
        """Move a LoRA to the trash. Raises UserError where its run works."""
        with self._lock:
            lora = self.lora(name)
            if lora.run:
                self._idle(lora.run)
            trashed = self.trash.put(lora.path, "lora", name)
            self._loras.pop(name, None)
            if lora.run in self._runs:
                self._runs[lora.run].measured, self._runs[lora.run].measured_at = (), -math.inf
            return trashed

    def export(self, name: str, wanted: str, folder: Path | None = None, overwrite: bool = False) -> Path:
        """Copy a LoRA under a name of its own, which it also bears inside, to the models folder or to another one.

        Raises NameTaken where that would replace a file, and UserError where it cannot be.
        """
        lora, wanted = self.lora(name), checked_name(wanted)
        if lora.problem:
            raise UserError(lora.problem)
        folder = folder or self.workspace.models
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder}: make it first, or choose another one.")
        target = folder / (wanted + SUFFIX)
        if target.exists() and target.samefile(lora.path):
            raise UserError(f"{target} is this very file: choose another name or folder.")
        if target.exists() and not overwrite:
            raise NameTaken(f"{target} exists already: choose another name, or replace it.")
        if free_bytes(folder) < lora.bytes + 2**20:
            raise UserError(f"The disk of {folder} is full: {lora.bytes / 2**20:.0f} MB are needed.")
        write_copy(lora, target, wanted)
        return target

    def _idle(self, name: str) -> RunFolder:
        """The run, if nothing works on it, within it or around it."""
        run = self.run(name)
        around = [RunFolder(run.path.parent)] if "/" in name else []
        for other in (run, *around, *runs_in(run.path)):
            if other.living():
                raise UserError(f"{identifier(other, self.workspace)} is running: stop it first.")
            if other.queued.exists():
                raise UserError(f"{identifier(other, self.workspace)} waits in the queue: take it out of there first.")
        return run

    def _free(self, path: Path, wanted: str) -> Path:
        target = path.with_name(wanted)
        # A mere change of case is the same file on some systems.
        if target.exists() and not (wanted.lower() == path.name.lower() and target.samefile(path)):
            raise NameTaken(f"{target.parent} holds something called {wanted} already: choose another name.")
        if target == path:
            raise UserError(f"It is called {wanted} already.")
        return target

    # Reading, as far as time allows

    def _find_runs(self) -> None:
        found: dict[str, _KnownRun] = {}
        above = len(str(self.workspace.runs)) + 1
        for run in runs_in(self.workspace.runs):
            # As `identifier` says it, without asking the disk: there may be hundreds.
            name = str(run.path)[above:].replace(os.sep, "/")
            known = self._runs.get(name)
            now = signature(run)
            if known is None:
                made = now[0][0] / 1e9 if now[0] else 0.0
                known = _KnownRun(run, now, RunSummary(name, made_at=made))
            known.stale = known.stale or now != known.signature or known.summary.status.state in LIVING
            known.signature = now
            found[name] = known
        self._runs = found

    def _find_loras(self) -> None:
        found: dict[str, tuple[tuple[int, int], Lora]] = {}
        for folder, run in self._weight_folders():
            for file in self._listed(folder):
                path = f"{folder}/{file}"
                try:
                    now = os.stat(path)
                except OSError:
                    continue
                state = (now.st_mtime_ns, now.st_size)
                name = self._lora_name(folder, file, run)
                known = self._loras.get(name)
                if known is None or known[0] != state:
                    known = state, Lora(name, Path(path), file[: -len(SUFFIX)], run, now.st_size, now.st_mtime)
                found[name] = known
        self._loras = found

    def _weight_folders(self) -> Iterator[tuple[str, str]]:
        """(folder, run) of all places where LoRAs may be."""
        for name in self._runs:
            yield f"{self.workspace.runs}/{name}/weights", name
        yield from ((folder, "") for folder in lora_folders(self.workspace.models))

    def _lora_name(self, folder: str, file: str, run: str) -> str:
        if run:
            return f"runs/{run}/weights/{file}"
        return f"models/{file}" if folder == str(self.workspace.models) else f"models/{folder.rpartition(os.sep)[2]}/{file}"

    def _listed(self, folder: str) -> list[str]:
        """Names of the weight files in a folder, read again only when an entry came or went."""
        try:
            changed = os.stat(folder).st_mtime_ns
        except OSError:
            self._listings.pop(folder, None)
            return []
        known = self._listings.get(folder)
        # Times are coarse: what came in the same instant as the last look would be missed.
        if known is None or known[0] != changed or time.time() - changed / 1e9 < 2:
            names = sorted(name for name in os.listdir(folder) if name.endswith(SUFFIX) and name[0] != ".")
            known = self._listings[folder] = changed, names
        return known[1]

    def _read(self, until: float) -> bool:
        for work in self._to_read():
            if time.monotonic() > until:
                return False
            work()
        return True

    def _to_read(self) -> Iterator[Callable[[], None]]:
        """What is not known yet, the most telling first."""
        yield from (partial(known.read, self._status) for known in self._runs.values() if known.stale)
        unread = [lora for _, lora in self._loras.values() if not lora.known]
        yield from (partial(self._read_lora, lora) for lora in sorted(unread, key=lambda lora: -lora.modified_at))
        yield from (known.measure for known in self._runs.values() if known.to_measure())

    def _read_lora(self, lora: Lora) -> Lora:
        read = read_lora(lora)
        self._loras[lora.identifier] = self._loras[lora.identifier][0], read
        return read


@dataclass
class _KnownRun:
    run: RunFolder
    signature: tuple[Any, ...]
    summary: RunSummary
    stale: bool = True
    measured_at: float = -math.inf
    measured: tuple[Any, ...] = ()
    settings: tuple[Any, dict[str, Any]] = (None, {})

    def read(self, status: Callable[[RunFolder], Status]) -> None:
        if self.settings[0] != self.signature[0]:
            self.settings = self.signature[0], _plain(self.run.run_yaml)
        values = self.settings[1]
        now = status(self.run)
        said = values.get("method", "lora")
        method = said if isinstance(said, str) and said in METHODS else ""
        of_lora = bool(method) and "lora" in METHODS[method].groups
        self.summary = replace(
            self.summary,
            kind=values["job"] if values.get("job") in tuple(JOBS) else "damaged",  # a file may say anything there, lists too
            status=now,
            seconds=None if now.state in LIVING else worked_seconds(self.run.events),
            learning_rate=_number(values, "optimizer", "learning_rate"),
            method=method if values.get("job") == "train" else "",
            rank=_number(values, "lora", "rank") if of_lora else None,
            alpha=_number(values, "lora", "alpha") if of_lora else None,
            trigger=str(values.get("trigger") or ""),
            dataset=_last_part(values["dataset"] if isinstance(values.get("dataset"), str) else _at(values, "dataset", "path")),
            model=_last_part(_first_text(values.get("model"), _at(values, "model", "path"), values.get("repo"))),
            known=True,
        )
        self.stale = False

    def to_measure(self) -> bool:
        """Whether its size is not known. One that grows is measured now and then only."""
        return self.measured != self.signature and time.monotonic() - self.measured_at > SIZE_SECONDS

    def measure(self) -> None:
        self.measured, self.measured_at = self.signature, time.monotonic()
        # What vanishes while it is counted is counted the next time.
        with contextlib.suppress(OSError):
            self.summary = replace(self.summary, bytes=folder_size(self.run.path))


def lora_folders(models: Path) -> Iterator[str]:
    """The models folder, and those in it where LoRAs may be."""
    yield str(models)
    try:
        with os.scandir(models) as entries:
            inner = sorted(entry.path for entry in entries if entry.name[0] != "." and entry.is_dir())
    except OSError:
        return
    for folder in inner:
        # A diffusers folder holds a model's own weights, further down.
        published = folder.endswith(PUBLISHED) and _state(f"{folder}/README.md") is not None
        if not published and _state(f"{folder}/model_index.json") is None:
            yield folder


def signature(run: RunFolder) -> tuple[Any, ...]:
    """Changes when the run's own files do."""
    return tuple(_state(f"{run.path}/{name}") for name in ("run.yaml", "events.jsonl", ".lock", "process.json", "queued.json"))


def _state(path: str) -> tuple[int, int] | None:
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size


def worked_seconds(log: Path) -> float | None:
    """From each start to the last thing that was said before the next one, added up. None for a run that never began."""
    try:
        text = log.read_bytes()
    except OSError:
        return None
    mark, starts, place = b'"kind": "started"', [], text.find(b'"kind": "started"')
    while place >= 0:
        starts.append(text.rfind(b"\n", 0, place) + 1)
        place = text.find(mark, place + 1)
    if not starts:
        return None
    total, ends = 0.0, [*starts[1:], len(text)]
    for start, end in zip(starts, ends, strict=True):
        last = text.rfind(b"\n", 0, max(start, end - 1)) + 1
        began, ended = _said_at(text, start), _said_at(text, max(start, last))
        if began is not None and ended is not None:
            total += max(0.0, ended - began)
    return total


def _said_at(text: bytes, start: int) -> float | None:
    end = text.find(b"\n", start)
    try:
        return float(json.loads(text[start : end if end >= 0 else len(text)])["at"])
    except (ValueError, KeyError, TypeError):
        return None


def _events(log: Path, *kinds: str) -> Iterator[events.Event]:
    """Events of these kinds; only lines that may be one are read as JSON, a long training's log has a hundred thousand others."""
    try:
        lines = log.read_bytes().splitlines()
    except OSError:
        return
    marks = [f'"{kind}"'.encode() for kind in kinds]
    for line in lines:
        if any(mark in line for mark in marks):
            try:
                values = json.loads(line)
                event = events.from_values(values) if isinstance(values, dict) else None
            except (ValueError, TypeError):
                continue
            if event is not None and event.kind in kinds:
                yield event


def _pictures(run: RunFolder, lists: Iterable[Sequence[str]], most: int = 8) -> Iterator[Path]:
    inside = run.path.resolve()
    named = [name for names in lists for name in names if isinstance(name, str) and name.lower().endswith((".png", ".jpg", ".webp"))]
    for name in named[:most]:
        path = (run.path / name).resolve()
        if path.is_relative_to(inside) and path.is_file():
            yield path


def _plain(file: Path) -> dict[str, Any]:
    """What a settings file says, unchecked: hundreds are read for a list. Empty for a damaged one."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - a SafeLoader
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def _at(values: Any, *names: str) -> Any:
    for name in names:
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _number(values: dict[str, Any], *names: str) -> Any:
    value = _at(values, *names)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _texts(values: Any) -> Iterator[str]:
    if isinstance(values, str):
        yield values
    elif isinstance(values, dict | list):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _texts(value)


def _first_text(*values: Any) -> str:
    return next((value for value in values if isinstance(value, str)), "")


def _last_part(path: Any) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] if isinstance(path, str) else ""


def differences(jobs: Sequence[Job]) -> dict[str, list[Any]]:
    """Dotted settings in which jobs differ, with a value for each job; None where a job has no such setting."""
    flat = [dict(_flat(job.model_dump(mode="json"))) for job in jobs]
    names = dict.fromkeys(name for values in flat for name in values if name != "output")
    rows = {name: [values.get(name) for values in flat] for name in names}
    return {name: row for name, row in rows.items() if any(value != row[0] for value in row)}


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


# Weight files


def read_lora(lora: Lora) -> Lora:
    """With what its header says; `kind` stays empty for a file of another sort, such as a whole model."""
    found = inspection.inspect(lora.path)
    problem = found.problems[0] if found.problems else ""
    if not found.kinds:
        # What has no weights of a LoRA at all is none that is broken: it lies in the same folder, that is all.
        no_lora = not found.layout and bool(found.precisions)
        # A run may have trained something else, which is put on as well or is a model of its own.
        strange = bool(lora.run) and no_lora and method_of(lora.path).name == "lora"
        return replace(lora, problem=f"{lora.path} holds no LoRA." * strange if no_lora else problem, known=True)
    said = found.metadata
    stated = [trigger.words for trigger in found.triggers if trigger.count is None]
    return replace(
        lora,
        problem=problem,
        kind=next((kind for kind in found.kinds if kind != "full difference"), found.kinds[0]),
        family=found.family,
        ranks=found.ranks,
        alphas=found.alphas,
        modules=len(found.rows),
        step=_int(said.get("ss_steps")),
        epoch=_int(said.get("ss_epoch")),
        trigger=stated[0] if stated else "",
        triggers=tuple(dict.fromkeys(trigger.words for trigger in found.triggers)),
        base_name=said.get("ss_sd_model_name", ""),
        base_hash=said.get("ss_sd_model_hash", ""),
        known=True,
    )


def metadata(file: Path) -> dict[str, str]:
    """All that a file says about itself. Raises UserError for a damaged one."""
    return _metadata(weights.header(file))


def _metadata(entries: dict[str, Any]) -> dict[str, str]:
    said = entries.get("__metadata__")
    return {str(name): str(value) for name, value in said.items()} if isinstance(said, dict) else {}


def _int(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,9}", text) else None


def _order(lora: Lora) -> tuple[int, int, float]:
    # The final file and the last epoch's are of one step: the plain name is the final one's.
    return lora.step or 0, -len(lora.name), lora.modified_at


def retitled(lora: Lora, name: str) -> dict[str, Any] | None:
    """The header with the new name inside, by which A1111 lists it; None where it bears no name."""
    entries = weights.header(lora.path)
    said = _metadata(entries)
    titles = [key for key in ("ss_output_name", "modelspec.title") if key in said]
    return {**entries, "__metadata__": {**said, **dict.fromkeys(titles, name)}} if titles else None


def write_copy(lora: Lora, target: Path, name: str) -> None:
    """The same weights to the bit under another name. Raises UserError where the copy cannot be written."""
    header = retitled(lora, name)
    try:
        with replacing(target) as temporary, open(lora.path, "rb") as source, open(temporary, "wb") as copy:
            if header is not None:
                source.seek(8 + int.from_bytes(source.read(8), "little"))
                text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
                text += b" " * (-len(text) % 8)
                copy.write(len(text).to_bytes(8, "little") + text)
            shutil.copyfileobj(source, copy, 2**20)
            copy.close()
            weights.header(temporary)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}): choose another folder.") from None


def checked_name(name: str) -> str:
    """The name of a file or folder as it may be, without its ending. Raises UserError that says what would do."""
    name = name.strip().removesuffix(SUFFIX)
    if not name:
        raise UserError("Give it a name.")
    if name != file_name(name) or RESERVED.fullmatch(name):
        better = file_name(name) if not RESERVED.fullmatch(name) else f"{name}-1"
        raise UserError(f"A name has letters, digits and . _ + - only: '{better}' would do.")
    return name


def _rename(path: Path, target: Path) -> None:
    try:
        path.rename(target)
    except OSError as error:
        raise UserError(f"{path} cannot be renamed ({error.strerror}): is it open in another program?") from None


# The trash


class Trash:
    """The folder .trash of a workspace: each thing in a folder of its own, beside a note of where it was."""

    NOTE = "trashed.json"

    def __init__(self, workspace: Workspace) -> None:
        self.root = workspace.root
        self.folder = workspace.root / ".trash"
        self._lock = threading.RLock()

    def put(self, path: Path, kind: Literal["run", "lora"], origin: str) -> Trashed:
        """Move something here. Raises UserError where the system does not allow that."""
        at = time.time()
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(at))}-{file_name(path.name)}"
        size = folder_size(path) if path.is_dir() else path.stat().st_size
        with self._lock:
            count = 1
            while (self.folder / (entry := name if count == 1 else f"{name}-{count}")).exists():
                count += 1
            trashed = Trashed(entry, path.name, kind, origin, at, size)
            try:
                (self.folder / entry).mkdir(parents=True)
                write_atomic(self.folder / entry / self.NOTE, json.dumps(asdict(trashed), ensure_ascii=False))
                _move(path, self.folder / entry / path.name)
            except OSError as error:
                shutil.rmtree(self.folder / entry, ignore_errors=True)
                raise UserError(f"{path} cannot be moved to the trash ({error.strerror}): is it open in another program?") from None
        return trashed

    def content(self) -> list[Trashed]:
        """All that can be brought back, the latest first."""
        found = []
        for folder in self._entries():
            try:
                trashed = Trashed(**json.loads((folder / self.NOTE).read_bytes()))
            except (OSError, ValueError, TypeError):
                continue
            if trashed.identifier == folder.name and (folder / trashed.name).exists():
                found.append(trashed)
        return sorted(found, key=lambda trashed: -trashed.at)

    def restore(self, name: str) -> Trashed:
        """Bring something back to where it was. Raises UserError if that place is taken, or gone."""
        with self._lock:
            trashed = next((trashed for trashed in self.content() if trashed.identifier == name), None)
            if trashed is None:
                raise UserError(f"There is no '{name}' in the trash (any more).")
            target = self.root / trashed.origin
            if not target.resolve().is_relative_to(self.root.resolve()):
                raise UserError(f"{trashed.origin} is not in the workspace: move it by hand from {self.folder / name}.")
            if target.exists():
                raise UserError(f"{target} exists already: rename that one first.")
            run = target.parent.parent
            if trashed.kind == "lora" and target.parent.name == "weights" and not (run / "run.yaml").is_file():
                raise UserError(f"The run {run.name} that it belongs to is not there: bring that back first.")
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                _move(self.folder / name / trashed.name, target)
                shutil.rmtree(self.folder / name, ignore_errors=True)
            except OSError as error:
                raise UserError(f"{target} cannot be brought back ({error.strerror}).") from None
            return trashed

    def empty(self) -> int:
        """Delete all of it for good; the bytes that are free now. Raises UserError where something could not be deleted."""
        with self._lock:
            freed, refused = sum(trashed.bytes for trashed in self.content()), []
            for folder in self._entries():
                shutil.rmtree(folder, onerror=lambda function, path, error: refused.append(path))
            if refused:
                raise UserError(f"{refused[0]} could not be deleted: is it open in another program?")
            return freed

    def _entries(self) -> list[Path]:
        return [entry for entry in self.folder.iterdir() if entry.is_dir()] if self.folder.is_dir() else []


def _move(path: Path, target: Path) -> None:
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.move(path, target)
    sync(target.parent)
