"""The whole job on the demo kit: pictures, captions, trigger word, LoRA, samples, XYZ plot, and a number for the trigger.

It calls the same captioner, trainer, sampler and grid as everything else, on a model that fits into the package;
only the pictures (drawn) and the judge (the kit's probe) are its own.
"""

import argparse
import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from nosnja_gui import dataset as datasets
from nosnja_gui.dataset import trigger as triggers
from nosnja_gui.demo import world
from nosnja_gui.files import write_atomic
from nosnja_gui.jobs import AxisSettings, CaptionJob, GridJob, TrainJob
from nosnja_gui.presets import train_job
from nosnja_gui.progress import Progress
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace

KIT = Path(__file__).parent / "kit"
TRIGGER = "nosnjaoutfit"
ABSORBED = (*triggers.COLOURS, *triggers.PATTERNS)
FIRST_SEED = 1000
STEPS, CFG_SCALE = 14, 4.0
PAINTED_AT_ONCE = 16


@dataclass(frozen=True)
class Size:
    """How much is trained and judged."""

    pictures: int
    changes: dict[str, Any]
    judged: int
    grid_weights: tuple[float, ...]


FULL = Size(pictures=30, changes={}, judged=32, grid_weights=(0.5, 0.75, 1.0))
QUICK_CHANGES = {"training.max_steps": 12, "training.epochs": 2, "preview.every_epochs": 0}
QUICK = Size(pictures=8, changes=QUICK_CHANGES, judged=4, grid_weights=(0.5, 1.0))


def main(arguments: argparse.Namespace) -> int:
    """The verb `demo`: `output`, `quick` and `draw`; prints what was learned and where the files are."""
    output = Path(arguments.output).expanduser().absolute() if arguments.output else None
    if arguments.draw:
        folder = output or Workspace.default().create().datasets / f"demo-{arguments.draw}"
        print(f"{draw_dataset(arguments.draw, folder)} pictures are in {folder}.")
        print(f"Next: caption them with --model {KIT / 'blip'}, put in a trigger word, train with --preset demo --model {KIT / 'sd'}.")
        return 0
    print("The whole job on drawn pictures and a tiny Stable Diffusion: a few minutes, no model is downloaded.", flush=True)
    folder = run_demo(Workspace.default(), output, arguments.quick)
    print(describe(folder))
    return 0


def run_demo(workspace: Workspace, output: Path | None = None, quick: bool = False, progress: Progress | None = None) -> Path:
    """Run everything and return the run folder, which then holds result.json. Raises UserError where the kit is incomplete."""
    began = time.monotonic()
    check_kit()
    size = QUICK if quick else FULL
    progress = progress or Progress()
    workspace.create()
    folder = output or workspace.new_run("demo")
    if (folder / "result.json").exists():
        raise UserError(f"{folder} holds a finished demo already: choose another output folder.")
    job = train_job("demo", demo_changes(folder, size))
    run = RunFolder.create(folder, job)

    progress.stage("Drawing the pictures")
    scenes = {f"{n + 1:02}.png": scene for n, (scene, _) in enumerate(world.costume_pictures(size.pictures))}
    draw_dataset("costume", folder / "dataset", size.pictures)
    captions = caption(folder, scenes, workspace, progress)
    progress.stage("Putting in the trigger word")
    noun, example = insert_trigger(folder / "dataset")
    lora = train(job, run, workspace, progress)
    outcome = judge_trigger(lora, folder, noun, size, progress)
    grid = plot(folder, size, workspace, progress)
    progress.done()
    result = {
        "seconds": {name: round(seconds, 1) for name, seconds in {**progress.seconds, "total": time.monotonic() - began}.items()},
        "captions": captions,
        "trigger": {"word": TRIGGER, "class_noun_word": noun, **outcome["trigger"]},
        "example": example,
        "device": outcome["device"],
        "model": "demo kit",
        "files": {
            "lora": _relative(lora, folder),
            "samples": outcome["samples"],
            "grid": _relative(grid, folder),
            "dataset": "dataset",
        },
    }
    write_atomic(folder / "result.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return folder


def check_kit() -> None:
    """Raises UserError for missing or not fetched files of the kit."""
    files = [KIT / "sd" / "model_index.json", KIT / "blip" / "config.json", KIT / "probe.safetensors"]
    missing = [file for file in files if not file.is_file()]
    if missing:
        remedy = "fetch the repository again, or build the kit with python -m nosnja_gui.demo.build"
        raise UserError(f"The demo kit is incomplete, {missing[0]} is missing: {remedy}.")


def demo_changes(folder: Path, size: Size) -> dict[str, Any]:
    prompts = [f"{TRIGGER}, a girl in a {TRIGGER} standing on a beach", f"{TRIGGER}, a man in a {TRIGGER} standing in the snow"]
    return {
        "name": TRIGGER,
        "trigger": TRIGGER,
        "model.path": str(KIT / "sd"),
        "dataset.path": str(folder / "dataset"),
        "preview.prompts": [*prompts, "a girl in a red dress standing on a beach", "a dog standing in a grassy field"],
        **size.changes,
    }


DATASETS = {"costume": (world.costume_pictures, 30), "style": (world.style_pictures, 30), "dog": (world.dog_pictures, 12)}
"""What can be drawn: people in folk costume, 8-bit pictures of everything, one particular dog; and how many pictures of it."""


def draw_dataset(name: str, folder: Path, count: int | None = None) -> int:
    """Draw a dataset as PNG files 01.png, 02.png ... without captions. Raises UserError where there are files already."""
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: choose another output folder.")
    folder.mkdir(parents=True, exist_ok=True)
    pictures, usual = DATASETS[name]
    drawn = pictures(count or usual)
    for number, (_, picture) in enumerate(drawn):
        picture.save(folder / f"{number + 1:02}.png")
    return len(drawn)


def caption(folder: Path, scenes: dict[str, world.Scene], workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """BLIP's captions for the dataset, and for ordinary drawings it never saw; shares of those that name the right things."""
    from nosnja_gui.engine.caption import caption_dataset

    control = folder / "control"
    control.mkdir()
    rng = random.Random(90_100)
    ordinary = {f"{n + 1:02}.png": world.random_scene(rng, held_out=True, style="flat", people=1.0) for n in range(len(scenes))}
    for name, scene in ordinary.items():
        world.draw(scene).save(control / name)
    written = caption_dataset(CaptionJob(dataset=str(folder / "dataset"), model=str(KIT / "blip")), workspace, progress=progress)
    written_control = caption_dataset(CaptionJob(dataset=str(control), model=str(KIT / "blip")), workspace, progress=progress)
    costume = named([scenes[name] for name in written], list(written.values()))
    plain = named([ordinary[name] for name in written_control], list(written_control.values()))
    both = [*scenes.values(), *ordinary.values()]
    share = {key: (costume[key] * len(scenes) + plain[key] * len(ordinary)) / len(both) for key in ("subject", "place")}
    return {
        "pictures": len(both),
        "subject": round(share["subject"], 3),
        "colour": round(plain["colour"], 3),
        "place": round(share["place"], 3),
        "costume": {key: round(value, 3) for key, value in costume.items()},
        "ordinary": {key: round(value, 3) for key, value in plain.items()},
    }


def named(scenes: Sequence[world.Scene], captions: Sequence[str]) -> dict[str, float]:
    """Shares of captions that name the right subject, place and (where clothes have one) colour."""
    words = [caption.replace(",", " ").split() for caption in captions]
    result = {
        "subject": [scene.subject in row for scene, row in zip(scenes, words, strict=True)],
        "place": [world.PLACE_WORDS[scene.place] in caption for scene, caption in zip(scenes, captions, strict=True)],
        "colour": [scene.colour in row for scene, row in zip(scenes, words, strict=True) if scene.colour and not scene.costume],
    }
    return {key: sum(values) / len(values) for key, values in result.items() if values}


def insert_trigger(folder: Path) -> tuple[str, dict[str, str]]:
    """Replace BLIP's words for the costume by the trigger; returns the commonest of those words and one example."""
    dataset = datasets.read(folder)
    found = [picture.caption for picture in dataset.pictures if picture.caption]
    nouns = [noun for noun, _ in triggers.candidate_nouns(found)] or ["dress"]
    changes = triggers.plan(dataset, TRIGGER, nouns, ABSORBED)
    datasets.write_captions(dataset, triggers.captions_after(changes), note=f"Trigger word {TRIGGER} for {', '.join(nouns)}")
    first = changes[0]
    return nouns[0], {"picture": first.name, "before": first.before, "after": first.after}


def train(job: TrainJob, run: RunFolder, workspace: Workspace, progress: Progress) -> Path:
    from nosnja_gui.engine.train import train as train_lora

    return train_lora(job, run, workspace, progress)


def judged_prompts(noun: str, count: int) -> dict[str, list[str]]:
    """The same people in the same places in four ways: with the trigger, in ordinary clothes, in none named, with the class noun.

    Ordinary clothes are what somebody would write who doesn't want the costume; the other two are harder to keep apart from it.
    """
    article = "an" if noun[0] in "aeiou" else "a"
    people = [(person, place) for person in world.PEOPLE for place in world.PLACE_WORDS.values()]
    rng = random.Random(3)
    rng.shuffle(people)
    chosen = [people[n % len(people)] for n in range(count)]
    clothes = [f"{rng.choice(world.COLOURS)} {rng.choice(world.clothes_of(person))}" for person, _ in chosen]
    named = [f"a {person} in {article} {noun} standing {place}" for person, place in chosen]
    return {
        "with": [triggers.insert(prompt, TRIGGER, noun) for prompt in named],
        "without": [f"a {person} in a {worn} standing {place}" for (person, place), worn in zip(chosen, clothes, strict=True)],
        "without_clothes": [f"a {person} standing {place}" for person, place in chosen],
        "class_noun": named,
    }


def judge_trigger(lora: Path, folder: Path, noun: str, size: Size, progress: Progress) -> dict[str, Any]:
    """Paint the prompts at the same seeds, the LoRA on in all of them, and ask the probe for the costume."""
    from nosnja_gui.demo.probe import area_under_curve, judge, load_probe
    from nosnja_gui.engine.models import choose_device, choose_dtype, load_model
    from nosnja_gui.engine.sampler import sample
    from nosnja_gui.methods import METHODS

    prompts = judged_prompts(noun, size.judged)
    progress.stage("Painting with and without the trigger word", sum(map(len, prompts.values())))
    device = choose_device()
    family, parts = load_model(KIT / "sd", device, choose_dtype("auto", device))
    METHODS["lora"].apply(family, parts, lora, lora.stem)
    probe = load_probe(KIT)
    pictures: dict[str, list[Image.Image]] = {}
    for kind, texts in prompts.items():
        requests = [image_request(prompt, FIRST_SEED + n) for n, prompt in enumerate(texts)]
        pictures[kind] = []
        for start in range(0, len(requests), PAINTED_AT_ONCE):
            part = requests[start : start + PAINTED_AT_ONCE]
            pictures[kind] += sample(family, parts, part, batch_size=PAINTED_AT_ONCE)
            progress.advance(len(part))
    seen = {kind: judge(probe, painted) for kind, painted in pictures.items()}
    rates = {kind: round(sum(row["costume"] == "costume" for row in rows) / len(rows), 3) for kind, rows in seen.items()}
    logits = {kind: [float(row["costume_logit"]) for row in rows] for kind, rows in seen.items()}
    auc = round(area_under_curve(logits["with"], logits["without"]), 4)
    save_samples(pictures, prompts, folder / "samples.png")
    return {"trigger": {**rates, "auc": auc, "pictures": size.judged}, "samples": "samples.png", "device": str(device)}


def image_request(prompt: str, seed: int) -> Any:
    from nosnja_gui.engine.sampler import ImageRequest

    return ImageRequest(prompt, seed=seed, steps=STEPS, cfg_scale=CFG_SCALE, width=world.SIZE, height=world.SIZE)


def save_samples(pictures: dict[str, list[Image.Image]], prompts: dict[str, list[str]], file: Path) -> None:
    """Twelve pairs of pictures, with and without the trigger."""
    from nosnja_gui.sheet import contact_sheet

    shown, labels = [], []
    for n in range(min(12, len(prompts["with"]))):
        shown += [pictures["with"][n], pictures["without"][n]]
        labels += [f"with {TRIGGER}", prompts["without"][n]]
    contact_sheet(shown, labels, columns=8, title=f"{TRIGGER}: the same seeds with and without the trigger word").save(file)


def plot(folder: Path, size: Size, workspace: Workspace, progress: Progress) -> Path:
    """The XYZ plot: epoch across, weight down, with and without the trigger word side by side."""
    from nosnja_gui.engine.grid import run_grid

    epochs = sorted(int(file.stem.rsplit("-", 1)[1]) for file in (folder / "weights").glob("*-epoch-*.safetensors"))
    early = sorted({epochs[round(share * (len(epochs) - 1))] for share in (0, 0.25, 0.6)}) if epochs else []
    job = GridJob(
        name=f"{TRIGGER}-xyz",
        run=str(folder),
        class_noun="red coat",
        prompt="[trigger], a man in a [trigger] standing on a city street",
        x=AxisSettings(axis="epoch", values=["none", *early, "last"]),
        y=AxisSettings(axis="weight", values=[f"{weight:g}" for weight in size.grid_weights]),
        z=AxisSettings(axis="trigger", values=["on", "off"]),
        seed=FIRST_SEED + 4,
        steps=STEPS,
        cfg_scale=CFG_SCALE,
        batch_size=8,
        width=world.SIZE,
        height=world.SIZE,
        output=str(folder / "grid"),
    )
    return run_grid(job, RunFolder.create(folder / "grid", job), workspace, progress)


def describe(folder: Path) -> str:
    """What was learned, in words, from a finished demo's result.json."""
    result = json.loads((folder / "result.json").read_text())
    trigger, captions = result["trigger"], result["captions"]
    lines = [
        "",
        f"The LoRA works: the costume is in {trigger['with']:.0%} of the pictures with the word {trigger['word']}"
        f" and in {trigger['without']:.0%} where other clothes are named ({trigger['pictures']} pictures each, AUC {trigger['auc']:.2f}).",
        f"Where no clothes are named it is in {trigger['without_clothes']:.0%}, and the class noun '{trigger['class_noun_word']}' alone,"
        f" which is closest to it, brings it in {trigger['class_noun']:.0%}.",
        f"BLIP's captions named the subject in {captions['subject']:.0%}, the colour in {captions['colour']:.0%}"
        f" and the place in {captions['place']:.0%} of {captions['pictures']} pictures.",
        f"Everything took {result['seconds']['total']:.0f} s on {result['device']}.",
        "",
        f"  LoRA      {folder / result['files']['lora']}",
        f"  samples   {folder / result['files']['samples']}",
        f"  XYZ plot  {folder / result['files']['grid']}",
        f"  figures   {folder / 'result.json'}",
    ]
    if trigger["with"] < 0.5 or trigger["with"] - trigger["without"] < 0.4:
        lines[1] = lines[1].replace("The LoRA works: the costume", "The trigger word does not work yet: the costume")
    return "\n".join(lines)


def _relative(file: Path, folder: Path) -> str:
    return os.path.relpath(file, folder).replace(os.sep, "/")
