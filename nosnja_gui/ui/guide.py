"""A sentence at the top of each tab while the demo runs, or its result is open: what just happened here, and what to do next.

Told from what the demo wrote down, so it is the same for everybody who looks. Nothing is said over the user's own things.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from nosnja_gui.dataset import trigger as triggers
from nosnja_gui.jobs import TrainJob
from nosnja_gui.settings import UserError
from nosnja_gui.ui.panel import Panel, Window
from nosnja_gui.ui.start import Demo, Demos, demos_in, group, job_of, percent, state_of, works
from nosnja_gui.ui.texts import language_of, say
from nosnja_gui.ui.widget import widget

NEXT = {"dataset": "trigger", "trigger": "train", "train": "monitor", "monitor": "xyz", "xyz": "start", "library": "start"}
"""Where each tab leads to."""


def is_open(demo: Demo, tab: str, dataset: str, run: str, grid: str) -> bool:
    """Whether the demo's things are what a tab shows."""
    match tab:
        case "monitor":
            return run == f"{demo.name}/training" or run == demo.name or (not run and demo.status.state == "running")
        case "xyz":
            return grid == f"{demo.name}/grid" or (not grid and demo.status.state == "running")
    return bool(dataset) and Path(dataset) == demo.dataset


def sentence(language: str, demo: Demo, demos: Demos, tab: str) -> dict[str, Any] | None:
    """What to say in a tab: its text, an example, and whether the next tab has something to see. None for nothing."""
    match tab:
        case "dataset":
            return about_dataset(language, demo)
        case "trigger":
            return about_trigger(language, demo)
        case "train":
            return about_train(language, demo)
        case "monitor":
            return about_monitor(language, demo, demos)
        case "xyz":
            return about_grid(language, demo)
        case "library":
            return about_library(language, demo)
    return None


def about_dataset(language: str, demo: Demo) -> dict[str, Any] | None:
    if not demo.done("dataset"):
        return None
    count = demo.facts.get("pictures", "–")
    if not demo.done("captions"):
        text = say(language, "The demo drew these pictures ({count}). Now BLIP, a captioner, looks at each and describes it.", count=count)
        return {"text": text, "next": False}
    named = group(demo.facts, "captions")
    text = say(
        language,
        "The demo drew these pictures ({count}) and BLIP described them: it named the subject in {subject} and the place in {place}. "
        "What a caption names can be varied later; what it leaves out becomes part of the trigger word.",
        count=count,
        subject=percent(named.get("subject")),
        place=percent(named.get("place")),
    )
    return {"text": text, "next": True}


def about_trigger(language: str, demo: Demo) -> dict[str, Any] | None:
    if not demo.done("trigger"):
        return None
    put = group(demo.facts, "trigger")
    example = group(put, "example")
    text = say(
        language,
        "The demo wrote the made-up word “{word}” into its captions ({count}): in front, and instead of “{noun}”, BLIP's word for "
        "the costume. The colours went with it, so that the word will stand for them, too.",
        word=put.get("word", "–"),
        count=put.get("changed", "–"),
        noun=put.get("class_noun", "–"),
    )
    parts = triggers.difference(str(example.get("before", "")), str(example.get("after", "")))
    return {"text": text, "example": parts, "next": True}


def training_job(demo: Demo) -> TrainJob | None:
    inner = demo.part("training")
    if inner is None:
        return None
    try:
        job = job_of(inner.run_yaml, state_of(inner.run_yaml))
    except (UserError, OSError):
        return None
    return job if isinstance(job, TrainJob) else None


def about_train(language: str, demo: Demo) -> dict[str, Any] | None:
    job = training_job(demo)
    if job is None:
        return None
    text = say(
        language,
        "The demo trains with the preset “Demo”: {batch} pictures at a time, learning rate {rate} (how large each step is), rank {rank} "
        "(how much the LoRA can hold). That rate suits its tiny model only: a real Stable Diffusion wants about 1e-4.",
        batch=job.training.batch_size,
        rate=f"{job.optimizer.learning_rate:g}",
        rank=job.lora.rank,
    )
    return {"text": text, "next": True}


def about_monitor(language: str, demo: Demo, demos: Demos) -> dict[str, Any] | None:
    inner = demo.part("training")
    if inner is None:
        return None
    text = say(
        language,
        "The loss says how far the model's guess of the noise is off. It falls at first and then wanders, which is normal: by then the "
        "samples say more. Those with the trigger word should come to wear the costume, the others should stay as they were.",
    )
    if not demo.done("training"):
        status = demos.logs.status(inner)
        if status.total and status.step:
            text = say(language, "The demo is training now.") + " " + text
    return {"text": text, "next": demo.part("grid") is not None}


def about_grid(language: str, demo: Demo) -> dict[str, Any] | None:
    if demo.part("grid") is None:
        return None
    text = say(
        language,
        "Every cell is the same prompt and the same seed. From left to right the LoRA has trained longer, from top to bottom it counts for "
        "more, and beside that stands the same without the trigger word: there the costume should not appear.",
    )
    if demo.result:
        trigger = group(demo.result, "trigger")
        values = {"on": percent(trigger.get("with")), "off": percent(trigger.get("without"))}
        if works(trigger):
            text += " " + say(language, "Counted over many pictures: {on} with the word, {off} without it.", **values)
    return {"text": text, "next": bool(demo.result)}


def about_library(language: str, demo: Demo) -> dict[str, Any] | None:
    if not demo.done("training"):
        return None
    text = say(
        language, "The demo's LoRA is in this list. It fits the tiny model of the demo only; one of your own works wherever LoRAs do."
    )
    return {"text": text, "next": True}


def closed_key(demo: str, tab: str) -> str:
    return f"guide:{demo}:{tab}"


class Guide:
    """The handlers of one tab's sentence."""

    def __init__(self, window: Window, tab: str) -> None:
        self.window, self.tab = window, tab
        self.demos = demos_in(window.workspace.root)

    def value(self, dataset: str, run: str, grid: str, language: str) -> dict[str, Any] | None:
        demo = self.demos.newest()
        if demo is None or not is_open(demo, self.tab, dataset, run, grid) or self.window.memory.get(closed_key(demo.name, self.tab)):
            return None
        said = sentence(language, demo, self.demos, self.tab)
        return said and {**said, "tab": self.tab, "demo": demo.name, "to": NEXT[self.tab] if said["next"] else None}

    def refresh(self, seen: str, dataset: str, run: str, grid: str, language: str) -> list[Any] | None:
        value = self.value(dataset or "", run or "", grid or "", language)
        now = json.dumps(value) if value else ""
        return None if now == seen else [now, value]

    def close(self, seen: str) -> list[Any]:
        """Say nothing more about this demo in this tab."""
        try:
            demo = str(json.loads(seen)["demo"])
        except (ValueError, TypeError, KeyError):
            return ["", None]
        self.window.memory.put(closed_key(demo, self.tab), True)
        return ["", None]

    def go(self, seen: str) -> list[Any]:
        """Open the next tab with the demo's things in it: tabs, run, grid."""
        demo = self.demos.newest()
        to = NEXT.get(self.tab)
        if demo is None or not seen or to is None:
            return [gr.skip()] * 3
        run = f"{demo.name}/training" if to == "monitor" and demo.part("training") else gr.skip()
        grid = f"{demo.name}/grid" if to == "xyz" and demo.part("grid") else gr.skip()
        return [gr.Tabs(selected=to), run, grid]


def build(window: Window, tab: str) -> Panel:
    """The sentence of a tab, above all else in it. Takes no space while there is nothing to say."""
    if tab not in NEXT:
        return Panel(lambda language: None)
    guide = Guide(window, tab)
    seen = gr.State("")
    made = widget("start_guide", elem_id=f"guide-{tab}")

    def changed(request: gr.Request, *values: Any) -> list[Any]:
        return guide.refresh(*values, language_of(request)) or [gr.skip(), gr.skip()]

    inputs = [seen, window.dataset, window.run, window.grid]
    gr.on([window.dataset.change, window.run.change, window.grid.change], changed, inputs, [seen, made], **window.quiet)
    made.close(guide.close, seen, [seen, made], **window.quiet)
    made.next(guide.go, seen, [window.tabs, window.run, window.grid], **window.quiet)
    return Panel(guide.refresh, inputs, [seen, made])
