"""The whole job on the demo kit: pictures, captions, trigger word, LoRA, samples, XYZ plot, and a number for the trigger.

It calls the same captioner, trainer, sampler and grid as everything else, on a model that fits into the package;
only the pictures (drawn) and the judge (the kit's probe) are its own.

A demo is a run like others, with the training and the grid as runs within it. What has been done stands in story.json after
each stage, so a demo that was stopped or killed goes on from there.
"""

import contextlib
import json
import random
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from nosnja_gui import dataset as datasets
from nosnja_gui.dataset import trigger as triggers
from nosnja_gui.demo import world
from nosnja_gui.events import Failed, Finished, Stage, Started, Stopped
from nosnja_gui.files import write_atomic
from nosnja_gui.jobs import AxisSettings, CaptionJob, DemoJob, GridJob, TrainJob
from nosnja_gui.models import KIT
from nosnja_gui.presets import train_job
from nosnja_gui.progress import Progress
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace

TRIGGER = "nosnjaoutfit"
GRID = f"{TRIGGER}-xyz"
LORA = f"training/weights/{TRIGGER}.safetensors"
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


WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("The LoRA", {}),
    "locon": ("The LoCon", {"lora.targets": "everything", "lora.rank": 8, "lora.alpha": 8}),
    "dora": ("The DoRA", {"lora.dora": True}),
    "loha": ("The LoHa", {"lora.algorithm": "loha", "lora.rank": 8, "lora.alpha": 8}),
    "lokr": ("The LoKr", {"lora.algorithm": "lokr", "lora.rank": 8, "lora.alpha": 8}),
    "dreambooth": ("The DreamBooth model", {"method": "dreambooth", "optimizer.learning_rate": 1e-4}),
    "textual_inversion": (
        "The embedding",
        {
            "method": "textual_inversion",
            "optimizer.learning_rate": 3e-2,
            "textual_inversion.vectors": 8,
            "textual_inversion.initial_text": "colorful outfit",
        },
    ),
    "pivotal": ("The LoRA with its embedding", {"method": "pivotal"}),
    "hypernetwork": ("The hypernetwork", {"method": "hypernetwork", "optimizer.learning_rate": 3e-3}),
}
"""What each method's result is called, and its settings over those of the preset `demo`: rates that suit so small a model."""


def run_demo(
    workspace: Workspace, output: Path | None = None, quick: bool = False, progress: Progress | None = None, method: str = "lora"
) -> Path:
    """Run everything and return the run folder, which then holds result.json (unless a stop was asked for).

    Raises UserError where the kit is incomplete or the folder holds something else.
    """
    return go_on(open_run(workspace, output, quick, method), workspace, progress)


def open_run(workspace: Workspace, output: Path | None = None, quick: bool = False, method: str = "lora") -> RunFolder:
    """A new demo's folder, or that of one to go on with. Raises UserError for anything else, or a finished demo."""
    check_kit()
    folder = output or workspace.create().new_run("demo")
    if (folder / "result.json").exists() and RunFolder(folder).logged().state == "finished":
        raise UserError(f"{folder} holds a finished demo already: choose another output folder.")
    return RunFolder.create(folder, DemoJob(quick=quick, method=method))


def go_on(run: RunFolder, workspace: Workspace, progress: Progress | None = None) -> Path:
    """Do what has not been done yet and return the run folder. Raises UserError where the kit is incomplete."""
    from nosnja_gui.engine.voice import interrupts

    progress = progress or Progress()
    with run.lock(), interrupts(lambda: run.request("stop")):
        run.clear_requests()
        log, story = run.log(), Story(run.path, progress)
        try:
            check_kit()
            workspace.create()
            _tell(run, story, workspace)
        except _Stopped:
            story.tell()
            log.append(Stopped(step=story.stages_done))
        except BaseException as error:
            with contextlib.suppress(OSError):
                detail = "" if isinstance(error, UserError) else traceback.format_exc()
                log.append(Failed(message=str(error) or type(error).__name__, detail=detail))
            raise
        finally:
            progress.done()
    return run.path


class _Stopped(Exception):
    """Stop was asked for, here or in a run within this one; what is done stays."""


STAGES = {
    "dataset": "Drawing the pictures",
    "captions": "Captioning",
    "trigger": "Putting in the trigger word",
    "training": "Training",
    "judged": "Painting with and without the trigger word",
    "grid": "Painting the grid",
}
"""What each stage is called, by the fact that the story holds when it is done."""


class Story:
    """story.json: what has been done so far and what came of it. Written after each stage."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.file, self.progress = folder / "story.json", progress
        try:
            told = json.loads(self.file.read_bytes())
        except (OSError, ValueError):
            told = {}
        self.facts: dict[str, Any] = told if isinstance(told, dict) else {}
        self._began, self._earlier = time.monotonic(), dict(self.facts.get("seconds", {}))

    @property
    def stages_done(self) -> int:
        return sum(stage in self.facts for stage in STAGES)

    def tell(self, **facts: Any) -> None:
        """Add facts, and the seconds that everything took, earlier starts included."""
        self.progress.done()
        now = {**self.progress.seconds, "total": time.monotonic() - self._began}
        seconds = {name: round(self._earlier.get(name, 0.0) + now.get(name, 0.0), 1) for name in {**self._earlier, **now}}
        self.facts = {**self.facts, **facts, "seconds": seconds}
        write_atomic(self.file, json.dumps(self.facts, indent=1, ensure_ascii=False) + "\n")


def _tell(run: RunFolder, story: Story, workspace: Workspace) -> None:
    """All stages in order, those left out that the story tells of already."""
    from nosnja_gui.engine.models import choose_device

    began, job, folder, log, progress = time.monotonic(), run.job(), run.path, run.log(), story.progress
    assert isinstance(job, DemoJob), job
    size = QUICK if job.quick else FULL
    log.append(Started(job="demo", total=len(STAGES), done=story.stages_done, device=choose_device().type))

    def look() -> bool:
        if run.take_request("stop"):
            raise _Stopped
        return False

    def wanted(stage: str) -> bool:
        look()
        if stage in story.facts:
            return False
        log.append(Stage(name=STAGES[stage], done=story.stages_done, total=len(STAGES)))
        return True

    if wanted("dataset"):
        progress.stage(STAGES["dataset"])
        story.tell(dataset="dataset", pictures=draw_pictures("costume", folder / "dataset", size.pictures))
    if wanted("captions"):
        story.tell(captions=caption(folder, size.pictures, workspace, progress, look))
    if wanted("trigger"):
        progress.stage(STAGES["trigger"])
        story.tell(trigger=insert_trigger(folder))
    if wanted("training"):
        train(run, size, job.method, workspace, progress)
        story.tell(training="training")
    if wanted("judged"):
        story.tell(judged=judge_trigger(folder, story.facts["trigger"]["class_noun"], size, progress, look))
    if wanted("grid"):
        plot(run, size, workspace, progress)
        story.tell(grid="grid")
    story.tell()
    write_atomic(folder / "result.json", json.dumps(result_of(story.facts, job.method), indent=2, ensure_ascii=False) + "\n")
    log.append(Finished(files=["result.json"], seconds=time.monotonic() - began))


def result_of(facts: dict[str, Any], method: str = "lora") -> dict[str, Any]:
    """The whole story as result.json tells it."""
    trigger, judged = facts["trigger"], dict(facts["judged"])
    device, samples = judged.pop("device"), judged.pop("samples")
    return {
        "method": method,
        "seconds": facts["seconds"],
        "captions": facts["captions"],
        "trigger": {"word": trigger["word"], "class_noun_word": trigger["class_noun"], **judged},
        "example": trigger["example"],
        "device": device,
        "model": "demo kit",
        "files": {"lora": LORA, "samples": samples, "grid": f"{facts['grid']}/{GRID}.png", "dataset": facts["dataset"]},
    }


def check_kit() -> None:
    """Raises UserError for missing or not fetched files of the kit."""
    files = [KIT / "sd" / "model_index.json", KIT / "blip" / "config.json", KIT / "probe.safetensors"]
    missing = [file for file in files if not file.is_file()]
    if missing:
        remedy = "fetch the repository again, or build the kit with python -m nosnja_gui.demo.build"
        raise UserError(f"The demo kit is incomplete, {missing[0]} is missing: {remedy}.")


def demo_changes(folder: Path, size: Size, method: str = "lora") -> dict[str, Any]:
    prompts = [f"{TRIGGER}, a girl in a {TRIGGER} standing on a beach", f"{TRIGGER}, a man in a {TRIGGER} standing in the snow"]
    return {
        "name": TRIGGER,
        "trigger": TRIGGER,
        "model.path": str(KIT / "sd"),
        "dataset.path": str(folder / "dataset"),
        "preview.prompts": [*prompts, "a girl in a red dress standing on a beach", "a dog standing in a grassy field"],
        **WAYS[method][1],
        **size.changes,
    }


DATASETS = {"costume": (world.costume_pictures, 30), "style": (world.style_pictures, 30), "dog": (world.dog_pictures, 12)}
"""What can be drawn: people in folk costume, 8-bit pictures of everything, one particular dog; and how many pictures of it."""


def draw_dataset(name: str, folder: Path, count: int | None = None) -> int:
    """Draw a dataset as PNG files 01.png, 02.png ... without captions. Raises UserError where there are files already."""
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: choose another output folder.")
    return draw_pictures(name, folder, count)


def draw_pictures(name: str, folder: Path, count: int | None = None) -> int:
    """The same without looking: pictures of an earlier start are drawn over, with the same lines."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, usual = DATASETS[name]
    drawn = pictures(count or usual)
    for number, (_, picture) in enumerate(drawn):
        picture.save(folder / f"{number + 1:02}.png")
    return len(drawn)


def caption(folder: Path, pictures: int, workspace: Workspace, progress: Progress, look: Callable[[], bool]) -> dict[str, Any]:
    """BLIP's captions for the dataset, and for ordinary drawings it never saw; shares of those that name the right things.

    captions.json keeps those of the dataset as BLIP wrote them.
    """
    from nosnja_gui.engine.caption import caption_dataset

    scenes = {f"{n + 1:02}.png": scene for n, (scene, _) in enumerate(world.costume_pictures(pictures))}
    control = folder / "control"
    control.mkdir(exist_ok=True)
    rng = random.Random(90_100)
    ordinary = {f"{n + 1:02}.png": world.random_scene(rng, held_out=True, style="flat", people=1.0) for n in range(len(scenes))}
    for name, scene in ordinary.items():
        world.draw(scene).save(control / name)

    def captions_of(place: Path) -> dict[str, str]:
        caption_dataset(CaptionJob(dataset=str(place), model=str(KIT / "blip")), workspace, progress=progress, stop_asked=look)
        return datasets.read(place).captions()  # those of an earlier start, too

    written, written_control = captions_of(folder / "dataset"), captions_of(control)
    write_atomic(folder / "captions.json", json.dumps(written, indent=1, ensure_ascii=False))
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


def insert_trigger(folder: Path) -> dict[str, Any]:
    """Replace BLIP's words for the costume by the trigger; the commonest of those words, one example, and how many captions changed.

    Told from BLIP's own captions, so that it comes out the same where an earlier start has done a part of it.
    """
    blip: dict[str, str] = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    nouns = [noun for noun, _ in triggers.candidate_nouns(list(blip.values()))] or ["dress"]
    dataset = datasets.read(folder / "dataset")
    changes = triggers.plan(dataset, TRIGGER, nouns, ABSORBED)
    datasets.write_captions(dataset, triggers.captions_after(changes), note=f"Trigger word {TRIGGER} for {', '.join(nouns)}")
    after = datasets.read(folder / "dataset").captions()
    changed = [name for name in after if after[name] != blip.get(name)]
    example = {"picture": changed[0], "before": blip[changed[0]], "after": after[changed[0]]}
    return {"word": TRIGGER, "class_noun": nouns[0], "example": example, "changed": len(changed)}


def train(run: RunFolder, size: Size, method: str, workspace: Workspace, progress: Progress) -> None:
    """Train, or go on with it, in a run within this one, which hears what is asked of the demo."""
    from nosnja_gui.engine.train import train as train_lora

    inner = RunFolder(run.path / "training", within=run)
    if not inner.run_yaml.exists():
        inner = RunFolder.create(inner.path, train_job("demo", demo_changes(run.path, size, method)), within=run)
    job = inner.job()
    assert isinstance(job, TrainJob), job
    train_lora(job, inner, workspace, progress)
    if inner.logged().state == "stopped":
        raise _Stopped


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


def judge_trigger(folder: Path, noun: str, size: Size, progress: Progress, look: Callable[[], bool]) -> dict[str, Any]:
    """Paint the prompts at the same seeds, the LoRA on in all of them, and ask the probe for the costume."""
    from nosnja_gui.demo.probe import area_under_curve, judge, load_probe
    from nosnja_gui.engine.models import choose_device, choose_dtype, load_model
    from nosnja_gui.engine.sampler import sample
    from nosnja_gui.methods import put_on

    prompts, lora = judged_prompts(noun, size.judged), folder / LORA
    progress.stage(STAGES["judged"], sum(map(len, prompts.values())))
    device = choose_device()
    family, parts = load_model(KIT / "sd", device, choose_dtype("auto", device))
    put_on(family, parts, lora, lora.stem)
    probe = load_probe(KIT)
    pictures: dict[str, list[Image.Image]] = {}
    for kind, texts in prompts.items():
        requests = [image_request(prompt, FIRST_SEED + n) for n, prompt in enumerate(texts)]
        pictures[kind] = []
        for start in range(0, len(requests), PAINTED_AT_ONCE):
            look()
            part = requests[start : start + PAINTED_AT_ONCE]
            pictures[kind] += sample(family, parts, part, batch_size=PAINTED_AT_ONCE)
            progress.advance(len(part))
    seen = {kind: judge(probe, painted) for kind, painted in pictures.items()}
    rates = {kind: round(sum(row["costume"] == "costume" for row in rows) / len(rows), 3) for kind, rows in seen.items()}
    logits = {kind: [float(row["costume_logit"]) for row in rows] for kind, rows in seen.items()}
    auc = round(area_under_curve(logits["with"], logits["without"]), 4)
    save_samples(pictures, prompts, folder / "samples.png")
    return {**rates, "auc": auc, "pictures": size.judged, "samples": "samples.png", "device": str(device)}


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


def plot(run: RunFolder, size: Size, workspace: Workspace, progress: Progress) -> None:
    """The XYZ plot, a run within this one: epoch across, weight down, with and without the trigger word side by side."""
    from nosnja_gui.engine.grid import run_grid

    trained, folder = run.path / "training", run.path / "grid"
    epochs = sorted(int(file.stem.rsplit("-", 1)[1]) for file in (trained / "weights").glob("*-epoch-*.safetensors"))
    early = sorted({epochs[round(share * (len(epochs) - 1))] for share in (0, 0.25, 0.6)}) if epochs else []
    job = GridJob(
        name=GRID,
        run=str(trained),
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
        output=str(folder),
    )
    inner = RunFolder.create(folder, job, within=run)
    run_grid(job, inner, workspace, progress)
    if inner.logged().state == "stopped":
        raise _Stopped


def describe(folder: Path) -> str:
    """What was learned, in words, from a finished demo's result.json."""
    result = json.loads((folder / "result.json").read_text())
    trigger, captions, title = result["trigger"], result["captions"], WAYS[result.get("method", "lora")][0]
    lines = [
        "",
        f"{title} works: the costume is in {trigger['with']:.0%} of the pictures with the word {trigger['word']}"
        f" and in {trigger['without']:.0%} where other clothes are named ({trigger['pictures']} pictures each, AUC {trigger['auc']:.2f}).",
        f"Where no clothes are named it is in {trigger['without_clothes']:.0%}, and the class noun '{trigger['class_noun_word']}' alone,"
        f" which is closest to it, brings it in {trigger['class_noun']:.0%}.",
        f"BLIP's captions named the subject in {captions['subject']:.0%}, the colour in {captions['colour']:.0%}"
        f" and the place in {captions['place']:.0%} of {captions['pictures']} pictures.",
        f"Everything took {result['seconds']['total']:.0f} s on {result['device']}.",
        "",
        f"  trained   {folder / result['files']['lora']}",
        f"  samples   {folder / result['files']['samples']}",
        f"  XYZ plot  {folder / result['files']['grid']}",
        f"  figures   {folder / 'result.json'}",
    ]
    if trigger["with"] < 0.5 or trigger["with"] - trigger["without"] < 0.4:
        lines[1] = "The trigger word does not work yet: the costume" + lines[1].partition(" works: the costume")[2]
    return "\n".join(lines)
