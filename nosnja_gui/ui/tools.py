"""The tools for LoRA files and base models, as the page asks for them: what it filled in becomes words of the command line.

Every word goes into the list of an own process as it is, and what is asked for by name is looked up among what is there.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nosnja_gui import launcher, models, places, publishing
from nosnja_gui.adapters import inspection
from nosnja_gui.adapters.inspection import Inspection
from nosnja_gui.captioners import CAPTIONERS
from nosnja_gui.families import FAMILIES
from nosnja_gui.jobs import DownloadJob
from nosnja_gui.library import SUFFIX, Library, Lora, NameTaken, checked_name
from nosnja_gui.models import ModelEntry
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from nosnja_gui.sources import PICKLED
from nosnja_gui.toolbox import Task, Toolbox
from nosnja_gui.ui.panel import Window
from nosnja_gui.workspace import Workspace

LAYOUTS = ("kohya", "diffusers", "comfyui")
PRECISIONS = ("", "float16", "bfloat16", "float32")
LONGEST = 2000
TOKEN = re.compile(r"[!-~]+")
MOST_GROUPS = 60


class Form:
    """What a page filled in. Reading a field checks it and raises UserError in a sentence."""

    def __init__(self, values: Any) -> None:
        self._values: dict[str, Any] = values if isinstance(values, dict) else {}

    def text(self, name: str) -> str:
        value = self._values.get(name, "")
        text = value.strip() if isinstance(value, str) else ""
        if len(text) > LONGEST or any(ord(letter) < 32 for letter in text):
            raise UserError(f"What stands in {name.replace('_', ' ')} is too long, or holds line breaks: write it on one line.")
        return text

    def ticked(self, name: str) -> bool:
        return self._values.get(name) is True

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """The first one where nothing was chosen."""
        given = self.text(name) or choices[0]
        if given not in choices:
            raise UserError(f"There is no {name} '{given[:40]}': choose one of {', '.join(filter(None, choices))}.")
        return given

    def number(self, name: str) -> float | None:
        given = self._values.get(name)
        text = str(given).strip().replace(",", ".") if isinstance(given, str | int | float) and not isinstance(given, bool) else ""
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"The {name.replace('_', ' ')} must be a number (got {text[:40]}).")
        return value

    def rank(self, name: str = "rank") -> int | None:
        value = self.number(name)
        if value is not None and (value < 1 or value != int(value)):
            raise UserError(f"The {name.replace('_', ' ')} must be a whole number above 0 (got {value:g}).")
        return None if value is None else int(value)

    def share(self, name: str) -> float | None:
        value = self.number(name)
        if value is not None and not 0 < value <= 1:
            raise UserError(f"The share that is kept must be above 0 and at most 1, such as 0.95 (got {value:g}).")
        return value

    def inner(self, name: str) -> Form:
        return Form(self._values.get(name))


@dataclass(frozen=True)
class Order:
    """A tool as it is to be started."""

    words: list[str]
    about: str
    """What it works on, by name."""
    output: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tool:
    """A tool that runs, or what came of it, as the page shows it."""

    identifier: str
    tool: str
    about: str
    state: str
    began_at: float
    stage: str = ""
    share: float | None = None
    lines: tuple[str, ...] = ()
    problem: str = ""
    made: str = ""
    """What it wrote, by its path in the workspace: "models/costume.safetensors"."""
    seconds: float | None = None


class Tools:
    """What the page asks of them. Everything here raises UserError; who answers the page turns that into a sentence."""

    def __init__(self, window: Window, library: Library) -> None:
        self.window, self.workspace, self.library = window, window.workspace, library
        self.toolbox = Toolbox(window.workspace)
        self._orders: dict[str, tuple[str, Order]] = {}
        self._shown: dict[str, Tool] = {}
        self._kinds: dict[str, Callable[[list[Lora], Form], Order]] = {
            "convert": self._convert, "resize": self._resize, "rename": self._rename, "strip": self._strip, "into": self._into,
            "merge": self._merge, "card": self._card, "publish": self._publish,
        }  # fmt: skip
        self._of_models: dict[str, Callable[[ModelEntry, Form], Order]] = {"extract": self._extract, "safe": self._safe}

    # Starting, following

    def use(self, asked: Mapping[str, Any]) -> str:
        """Start a tool: {tool, ids: LoRAs, or model: name, values: as its form has them}; the identifier to follow it by."""
        tool, form = asked.get("tool"), Form(asked.get("values"))
        if isinstance(tool, str) and tool in self._kinds:
            order = self._kinds[tool](self._loras(asked.get("ids")), form)
        elif isinstance(tool, str) and tool in self._of_models:
            order = self._of_models[tool](self.model(asked.get("model"), even_broken=tool == "safe"), form)
        else:
            raise UserError(f"There is no tool '{str(tool or '')[:40]}'.")
        task = self.toolbox.start(order.words, order.environment, order.output)
        # The environment is not kept: it may hold a token.
        self._orders[task.identifier] = tool, Order(order.words, order.about, order.output)
        return task.identifier

    def shown(self) -> list[Tool]:
        """Those at work and those that ended lately; what did not change is the same object as before."""
        fresh = {}
        for task in self.toolbox.tasks():
            now = self._tool(task)
            before = self._shown.get(now.identifier)
            fresh[now.identifier] = before if before == now else now
        self._shown = fresh
        self._orders = {name: order for name, order in self._orders.items() if name in fresh}
        return list(fresh.values())

    def ended(self) -> int:
        """How many have ended: changes when there may be a new file."""
        return sum(tool.state != "running" for tool in self.shown())

    def _tool(self, task: Task) -> Tool:
        tool, order = self._orders.get(task.identifier, ("", Order([], "")))
        state = task.state()
        known = self._shown.get(task.identifier)
        seconds = None if state.name == "running" else known.seconds if known and known.seconds is not None else time.time() - task.began_at
        made = order.output.relative_to(self.workspace.root).as_posix() if order.output and state.name == "done" else ""
        told = asdict(state) | {"lines": tuple(line.strip() for line in state.lines)}
        name = told.pop("name")
        return Tool(task.identifier, tool, order.about, name, task.began_at, made=made, seconds=seconds, **told)

    # What a tool is given

    def _loras(self, names: Any) -> list[Lora]:
        loras = [self.library.lora(name) for name in names if isinstance(name, str)] if isinstance(names, list) else []
        if not loras:
            raise UserError("There is no LoRA to work on: choose one in the list.")
        for lora in loras:
            if lora.problem:
                raise UserError(lora.problem)
        return loras

    def model(self, name: Any, even_broken: bool = False) -> ModelEntry:
        """The base model of that name in the list. Raises UserError if there is none, or one that cannot be used."""
        found = next((entry for entry in models.list_models(self.workspace) if entry.name == name), None)
        if found is None:
            raise UserError(f"There is no base model '{str(name or '')[:200]}' (any more): choose one that is listed.")
        if found.problem and not even_broken:
            raise UserError(found.problem)
        return found

    def _output(self, form: Form, suffix: str = SUFFIX) -> Path:
        """The file in the models folder that is to be written. Raises NameTaken where it may not be replaced."""
        output = self.workspace.create().models / (checked_name(form.text("name")) + suffix)
        if output.exists() and not form.ticked("replace"):
            raise NameTaken(f"{output} exists already: choose another name, or tick that it is replaced.")
        return output

    def _writing(self, form: Form, output: Path) -> list[str]:
        """The words that all tools share which write a LoRA and read it back."""
        layout = form.choice("layout", LAYOUTS)
        words = [f"--output={output}", "--overwrite", f"--to={layout}"]
        if precision := form.choice("precision", PRECISIONS):
            words.append(f"--precision={precision}")
        if base := form.text("base"):
            words.append(f"--model={self.model(base).path.absolute()}")
        return words if form.ticked("check") else [*words, "--no-check"]

    def _convert(self, loras: list[Lora], form: Form) -> Order:
        output = self._output(form)
        return Order(["lora", "convert", _path(loras[0]), *self._writing(form, output)], loras[0].name, output)

    def _resize(self, loras: list[Lora], form: Form) -> Order:
        rank, keep, output = form.rank(), form.share("keep"), self._output(form)
        if rank is None and keep is None:
            raise UserError("Give the new rank, or the share of the change that is kept.")
        words = [*([f"--rank={rank}"] if rank else []), *([f"--keep={keep}"] if keep else [])]
        return Order(["lora", "resize", _path(loras[0]), *words, *self._writing(form, output)], loras[0].name, output)

    def _rename(self, loras: list[Lora], form: Form) -> Order:
        word, output = form.text("trigger"), self._output(form)
        if not word:
            raise UserError("No trigger word is given: say the word that the file shall name.")
        return Order(["lora", "rename", _path(loras[0]), f"--trigger={word}", f"--output={output}", "--overwrite"], loras[0].name, output)

    def _strip(self, loras: list[Lora], form: Form) -> Order:
        output = self._output(form)
        words = ["lora", "strip", _path(loras[0]), f"--output={output}", "--overwrite", *(["--all"] if form.ticked("all") else [])]
        return Order(words, loras[0].name, output)

    def _into(self, loras: list[Lora], form: Form) -> Order:
        model = self.model(form.text("model"))
        output, weight = self._output(form, SUFFIX if model.single_file else ""), form.number("weight")
        words = ["lora", "merge", f"{_path(loras[0])}:{1.0 if weight is None else weight:g}", f"--into={model.path.absolute()}"]
        return Order([*words, f"--output={output}", *(["--overwrite"] if model.single_file else [])], loras[0].name, output)

    def _merge(self, loras: list[Lora], form: Form) -> Order:
        if len(loras) < 2:
            raise UserError("There is nothing to merge: tick two or more LoRAs in the list.")
        given, rank, output = form.inner("weights"), form.rank(), self._output(form)
        weights = [given.number(lora.identifier) for lora in loras]
        files = [f"{_path(lora)}:{1.0 if weight is None else weight:g}" for lora, weight in zip(loras, weights, strict=True)]
        words = ["lora", "merge", *files, *([f"--rank={rank}"] if rank else []), *self._writing(form, output)]
        return Order(words, " + ".join(lora.name for lora in loras), output)

    def _card(self, loras: list[Lora], form: Form) -> Order:
        folder = publishing.folder_of(loras[0].path)
        if (folder / publishing.README).exists() and not form.ticked("replace"):
            raise NameTaken(f"{folder / publishing.README} exists already: look it over, or tick that it is replaced.")
        return Order(["lora", "card", _path(loras[0]), *_of_card(form), "--overwrite"], loras[0].name)

    def _publish(self, loras: list[Lora], form: Form) -> Order:
        if self.window.listens:
            raise UserError("This window is open to other machines, so it uploads nothing: open it without --listen for that.")
        repository = form.text("repository")
        if not publishing.HUB_ID.fullmatch(repository):
            raise UserError(f"'{repository}' is no repository of the hub's: write it as its page does, USER/NAME.")
        if not form.ticked("sure"):
            raise UserError("Nothing was uploaded: say that it shall be.")
        words = ["lora", "publish", _path(loras[0]), *_of_card(form), f"--repo={repository}"]
        words += ["--public" if form.ticked("public") else "--private", *(["--replace"] if form.ticked("replace") else [])]
        return Order(words, loras[0].name, environment=_token(form))

    def _extract(self, model: ModelEntry, form: Form) -> Order:
        base, output = self.model(form.text("model")), self._output(form)
        rank, conv_rank = form.rank(), form.rank("conv_rank")
        words = ["lora", "extract", str(base.path.absolute()), str(model.path.absolute()), *([f"--rank={rank}"] if rank else [])]
        words += [f"--conv-rank={conv_rank}"] if conv_rank else []
        words += [] if form.ticked("text_encoders") else ["--no-text-encoders"]
        return Order([*words, *self._writing(form, output)], model.title, output)

    def _safe(self, model: ModelEntry, form: Form) -> Order:
        if model.path.suffix.lower() not in PICKLED:
            raise UserError(f"{model.title} is safe to load as it is: there is nothing to convert.")
        output = self._output(form)
        return Order(["model", "convert", str(model.path.absolute()), f"--output={output}", "--overwrite"], model.title, output)

    # The hub

    def fetch(self, asked: Mapping[str, Any]) -> str:
        """Begin to download a base model, as a run of its own; its name. The token goes into the process's environment only."""
        form = Form(asked.get("values"))
        environment = _token(form)
        if environment and self.window.listens:
            raise UserError("This window is open to other machines, so it takes no token: open it without --listen for that.")
        job = DownloadJob.parse({name: form.text(name) for name in ("repo", "revision", "file", "variant", "name")}, "the download")
        named = job.name or Path(job.file).stem or job.repo.rpartition("/")[2]
        run = RunFolder.create(self.workspace.create().new_run(f"download-{named}"), job)
        launcher.start(run, self.workspace, environment)
        return run.path.name

    # Other programs' folders

    def add_place(self, folder: str, kind: str) -> None:
        """Raises UserError where there is no such folder, and for who does not sit at this machine."""
        self._at_this_machine()
        if folder.strip() and not Path(folder.strip()).expanduser().is_absolute():
            raise UserError(f"Give the whole path of the folder, from its beginning (got {folder.strip()[:200]}).")
        places.add(self.workspace, folder, kind if kind in places.KINDS else "models")  # type: ignore[arg-type]

    def remove_place(self, folder: str) -> None:
        """Forget a folder that was added. Raises UserError for another one."""
        self._at_this_machine()
        if not folder or not places.remove(self.workspace, folder):
            raise UserError(f"There is no folder '{folder[:200]}' among those that were added.")

    def _at_this_machine(self) -> None:
        if self.window.listens:
            raise UserError("This window is open to other machines, so folders are added and removed at this one only, without --listen.")


def _path(lora: Lora) -> str:
    return str(lora.path.absolute())


def _of_card(form: Form) -> list[str]:
    words = {"base-model": form.text("base_model"), "license": form.text("license")}
    return [f"--{name}={value}" for name, value in words.items() if value]


def _token(form: Form) -> dict[str, str]:
    token = form.text("token")
    if token and not TOKEN.fullmatch(token):
        raise UserError("The token is none: it is one word of letters and digits, copied from the hub's settings, page 'Access Tokens'.")
    return {"HF_TOKEN": token} if token else {}


# What is known of a LoRA, of a base model, of places


def about_lora(lora: Lora) -> dict[str, Any]:
    """Its inspection as the page shows it; the rank and alpha of layers that are alike in a row."""
    found = inspection.inspect(lora.path)
    return {
        "path": str(lora.path),
        "problems": list(found.problems),
        "kinds": list(found.kinds),
        "layout": found.layout,
        "family": found.family,
        "precisions": list(found.precisions),
        "parts": {part: sum(row.part == part for row in found.rows) for part in found.parts},
        "layers": layers(found),
        "triggers": [asdict(trigger) for trigger in found.triggers],
        "settings": found.settings,
        "metadata": found.metadata,
    }


def layers(found: Inspection) -> list[dict[str, Any]]:
    """Part, kind, rank and alpha with the number of modules that have these, the most frequent of a part first."""
    counts = Counter((row.part, row.kind, row.rank, row.alpha) for row in found.rows)
    order = {part: place for place, part in enumerate(found.parts)}
    ordered = sorted(counts.items(), key=lambda item: (order[item[0][0]], -item[1]))[:MOST_GROUPS]
    return [{"part": part, "kind": kind, "rank": rank, "alpha": alpha, "count": count} for (part, kind, rank, alpha), count in ordered]


def model_row(entry: ModelEntry) -> dict[str, Any]:
    """`family` is its title, `short` the family as LoRA files are said to be for."""
    known: Mapping[str, Any] = {**FAMILIES, **CAPTIONERS}
    family = known[entry.family].title if entry.family in known else entry.family
    short = FAMILIES[entry.family].short if entry.family in FAMILIES else ""
    pickled = entry.path.suffix.lower() in PICKLED and entry.single_file
    return {**asdict(entry), "path": str(entry.path), "family": family, "short": short, "pickled": pickled}


def place_rows(workspace: Workspace) -> list[dict[str, Any]]:
    """Folders of other programs with what they hold; `added` is the folder that the user added for it, "" for one that was found.

    A folder that was added and holds nothing, or is gone, has a row, too: it can be removed.
    """
    added = places.added(workspace)
    rows = []
    for place in models.find_places(workspace):
        owner = next((folder for folder in added if place.folder == folder or folder in place.folder.parents), None)
        owner = owner or next((folder for folder in added if folder.name == "models" and folder.parent in place.folder.parents), None)
        rows.append({
            "program": place.program, "kind": place.kind, "folder": str(place.folder), "count": len(places.models_in(place)),
            "added": str(owner or ""),
        })  # fmt: skip
    shown = {row["added"] for row in rows}
    missing = [str(folder) for folder in added if str(folder) not in shown]
    return [*rows, *({"program": "", "kind": "", "folder": folder, "count": 0, "added": folder} for folder in missing)]


def models_mark(workspace: Workspace) -> str:
    """Changes when there are other base models, or other places to look for them."""
    listed = [str(folder) for folder in places.added(workspace)]
    return f"{hash((models.mark(workspace), tuple(listed), os.getpid())):x}"
