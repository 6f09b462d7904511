"""The command line: python -m nosnja_gui VERB. Turns words into jobs and problems into sentences; the work is done below.

Exit codes: 0 done, 1 our mistake, 2 something the user can mend, 130 stopped by Ctrl-C.
"""

import argparse
import contextlib
import os
import shlex
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import nosnja_gui
from nosnja_gui import presets
from nosnja_gui.commands import (
    PROGRAM,
    STOPPED,
    base_models,
    is_first_process,
    is_full_disk,
    job_of,
    loras,
    output_of,
    report,
    run_path,
    settled,
    verb,
    working,
    workspace_of,
)
from nosnja_gui.dataset.concepts import parse, with_folder
from nosnja_gui.jobs import DEMO_METHODS, CaptionJob, DemoJob, GridJob, TrainJob, workspace_path
from nosnja_gui.methods import METHODS
from nosnja_gui.progress import Progress
from nosnja_gui.runs import RunFolder, identifier
from nosnja_gui.settings import UserError, merge_dotted, read_yaml
from nosnja_gui.workspace import Workspace

COLOURS_AND_PATTERNS = "colours and patterns"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    # Nothing is fetched unasked; and a terminal that cannot show a letter must not end the work.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == ["window"]:
            return window(words[1:])
        arguments = parser().parse_args(words)
        return arguments.verb(arguments) or 0
    except SystemExit as asked:  # argparse: --help, or a mistyped option
        return asked.code if isinstance(asked.code, int) else 2
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on from here.", file=sys.stderr)
        return STOPPED
    except UserError as error:
        return complain(str(error))
    except Exception as error:
        if is_full_disk(error):
            where = f" of {error.filename}" if isinstance(error, OSError) and error.filename else ""
            return complain(f"The disk{where} is full: make room, then the same command goes on from here; nothing that was saved is lost.")
        file = _keep_traceback()
        print(f"error: {type(error).__name__}: {error}\nThis is a mistake in the program; its details are in {file}.", file=sys.stderr)
        return 1


def complain(text: str) -> int:
    """Each problem on a line of its own."""
    for line in text.splitlines():
        print(f"error: {line}", file=sys.stderr)
    return 2


def _keep_traceback() -> Path:
    with tempfile.NamedTemporaryFile("w", prefix="nosnja-error-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write(traceback.format_exc())
    return Path(file.name)


# ---------------------------------------------------------------- the words


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog=PROGRAM, description=nosnja_gui.__doc__.splitlines()[0], allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"Nošnja {nosnja_gui.__version__}")
    verbs = top.add_subparsers(metavar="VERB", required=True)
    add_demo(verbs)
    add_caption(verbs)
    add_trigger(verbs)
    add_train(verbs)
    add_grid(verbs)
    add_queue(verbs)
    base_models.add(verbs)
    loras.add(verbs)
    add_presets(verbs)
    add_check(verbs)
    verb(verbs, "window", lambda arguments: window([]), "open the window in the browser", "window --port 7861 --no-browser")
    return top


def _add_set(added: argparse.ArgumentParser, example: str) -> None:
    added.add_argument(
        "--set",
        action="append",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help=f"change a setting, such as {example}; may be given several times, lists as [a, b]",
    )


def changes_of(given: Sequence[Sequence[str]]) -> dict[str, Any]:
    """`name=value` words as dotted settings; values are YAML. Raises one UserError for all that are malformed."""
    changes: dict[str, Any] = {}
    problems = []
    for word in (word for group in given for word in group):
        name, sign, text = word.partition("=")
        if not sign or not all(name.strip().split(".")):
            problems.append(f"--set '{word}' is not readable: write NAME=VALUE, such as training.epochs=5.")
            continue
        try:
            changes[name.strip()] = yaml.safe_load(text) if text.strip() else ""
        except (yaml.YAMLError, ValueError):
            problems.append(f"--set '{word}' has a value that is not readable: put it in quotes.")
    if problems:
        raise UserError("\n".join(problems))
    return changes


# ---------------------------------------------------------------- demo, window, presets, check


def add_demo(verbs: Any) -> None:
    about = "show the whole job on drawn pictures and a tiny model: captions, trigger word, training, samples, comparison"
    examples = ("demo", "demo --quick --output my-demo", "demo --draw dog")
    more = "Needs no download and no GPU. The same command goes on with a demo that was stopped."
    added = verb(verbs, "demo", demo, about, *examples, more=more)
    added.add_argument("run", nargs="?", metavar="RUN_FOLDER", help="go on with this demo")
    added.add_argument("--output", metavar="FOLDER", help="where everything goes (else a new folder in the workspace's runs)")
    added.add_argument("--quick", action="store_true", help="shorter training and fewer pictures: to see that it works")
    added.add_argument("--method", choices=DEMO_METHODS, default=None, help="by which method the costume is learned (lora)")
    drawn = "only draw a dataset to try things on: people in folk costume, 8-bit pictures, or one particular dog"
    added.add_argument("--draw", choices=("costume", "style", "dog"), help=drawn)


def demo(arguments: argparse.Namespace) -> int:
    workspace = workspace_of(arguments)
    from nosnja_gui.demo import run as demos

    output = Path(arguments.output).expanduser().absolute() if arguments.output else None
    if arguments.draw:
        folder = output or workspace.create().datasets / f"demo-{arguments.draw}"
        print(f"{demos.draw_dataset(arguments.draw, folder)} pictures are in {folder}.")
        blip, model = demos.KIT / "blip", demos.KIT / "sd"
        print(f"Next: caption them with --model {blip}, put in a trigger word, train with --preset demo --model {model}.")
        return 0
    if arguments.run is not None:
        if arguments.output or arguments.quick or arguments.method:
            raise UserError("A demo goes on as it was begun: leave out --output, --quick and --method, or begin a new one.")
        run = RunFolder(run_path(arguments.run, workspace))
        job_of(run, DemoJob, "demo")
    else:
        run = demos.open_run(workspace, output, arguments.quick, arguments.method or "lora")
    if run.logged().state != "finished":
        print("The whole job on drawn pictures and a tiny Stable Diffusion: a few minutes, no model is downloaded.", flush=True)
        with working(run):
            demos.go_on(run, workspace, Progress())
    if run.logged().state == "finished":
        print(demos.describe(run.path))
        return 0
    return report(run, "demo")


def window(words: list[str]) -> int:
    from nosnja_gui.ui import app

    return app.main(words) or 0


def add_presets(verbs: Any) -> None:
    added = verb(
        verbs,
        "presets",
        show_presets,
        "list the presets for training, or make one of another trainer's settings",
        "presets",
        "presets import my-kohya-settings.json --name Mine",
        "presets import config.toml dataset.toml",
        more="Settings of kohya_ss, sd-scripts and OneTrainer are read, for a LoRA, a whole model or a new word (textual inversion); "
        "what became of each is listed.",
    )
    added.add_argument("action", nargs="?", choices=["import"], help="make a preset of the settings in FILE")
    added.add_argument("files", nargs="*", type=Path, metavar="FILE", help="the settings, and files that belong to them (a dataset's)")
    added.add_argument("--name", metavar="TITLE", help="what the preset is called (else like the file)")


def show_presets(arguments: argparse.Namespace) -> int:
    if arguments.action:
        return import_preset(arguments)
    for preset in presets.list_presets():
        print(f"{preset.name}{'  (taken if none is named)' if preset.name == presets.DEFAULT else ''}")
        print(textwrap.fill(preset.about, 100, initial_indent="    ", subsequent_indent="    ") + "\n")
    return 0


def import_preset(arguments: argparse.Namespace) -> int:
    from nosnja_gui import foreign

    if not arguments.files:
        raise UserError("Say which file to take over, such as: presets import my-kohya-settings.json.")
    imported = foreign.read(*arguments.files)
    title = arguments.name or arguments.files[0].stem[: presets.LONGEST_TITLE]
    about = f"Taken over from {imported.title}: {', '.join(file.name for file in arguments.files)}."
    saved = presets.save_preset(presets.own_folder(workspace_of(arguments)), title, imported.job(), about)
    for verdict in foreign.VERDICTS:
        if lines := imported.of(verdict):
            print(f"{verdict.capitalize()} ({len(lines)})")
            for line in lines:
                ours = ", ".join(f"{name}={'null' if value is None else value}" for name, value in line.settings.items())
                absent = "" if line.given else " (not in the file)"
                print(f"  {line.key} = {line.shown}{absent}{f'  ->  {ours}' if ours else ''}")
                if line.reason:
                    print(f"      {line.reason}")
            print()
    print(f"The preset '{saved.title}' is kept: train --preset {shlex.quote(str(saved.path))} ...")
    return 0


def add_check(verbs: Any) -> None:
    verb(verbs, "check", show_check, "look over the machine, the libraries and the models, and say what is wrong", "check")


def show_check(arguments: argparse.Namespace) -> int:
    from nosnja_gui import check

    found = check.examine(workspace_of(arguments))
    print(found)
    return 2 if found.problems else 0


# ---------------------------------------------------------------- caption, trigger


def add_caption(verbs: Any) -> None:
    about = "describe every picture of a dataset in words"
    more = "Captions are written in the dataset's own layout; `trigger DATASET --undo` takes them back."
    added = verb(verbs, "caption", caption, about, "caption pictures/costume", 'caption costume --prompt "a photo of"', more=more)
    added.add_argument("dataset", metavar="DATASET", help="a folder of pictures, by path or by its name in the workspace")
    added.add_argument("--captioner", default=None, help="who writes (blip)")
    added.add_argument("--model", default=None, help="the captioner's model folder, by path or by its name in the workspace")
    added.add_argument("--prompt", default=None, help='beginning that the captioner continues, such as "a photo of"')
    added.add_argument("--overwrite", action="store_true", help="write anew where there is a caption already")
    _add_set(added, "batch_size=4")


def caption(arguments: argparse.Namespace) -> int:
    workspace = workspace_of(arguments)
    changes = changes_of(arguments.set)
    given = workspace_path(arguments.dataset, workspace.datasets)
    run = RunFolder(given) if (given / "run.yaml").is_file() else None
    if run:
        job = job_of(run, CaptionJob, "caption DATASET")
    else:
        values = {"captioner": arguments.captioner, "model": arguments.model, "prompt": arguments.prompt}
        values = {name: value for name, value in values.items() if value is not None}
        values |= {"dataset": str(given), **({"existing": "overwrite"} if arguments.overwrite else {}), **changes}
        job = CaptionJob.parse(values, where="the settings")
        job = job.changed(model=settled(job.model, workspace.models))
    from nosnja_gui.engine.caption import caption_dataset

    with working(run):
        log, stop_asked = (run.log(), lambda: run.take_request("stop")) if run else (None, lambda: False)
        captions = caption_dataset(job, workspace, log, Progress(), stop_asked)
    if run and run.logged().state == "stopped":
        return report(run, job.job)
    if not captions:
        print(f"Every picture in {job.dataset} has a caption already; add --overwrite to write them anew.")
        return 0
    print(f"{len(captions)} pictures have got captions in {job.dataset}")
    for name, text in list(captions.items())[:5]:
        print(f"  {name}: {text}")
    return 0


def add_trigger(verbs: Any) -> None:
    about = "put the trigger word into the captions of a dataset"
    more = (
        "The word comes first and also takes the place of the class noun (the word that the captioner used for the thing). "
        "What changes is shown; --undo takes the last change back."
    )
    examples = ("trigger costume --word nosnjaoutfit --class-noun costume --dry-run", "trigger costume --undo")
    added = verb(verbs, "trigger", trigger, about, *examples, more=more)
    added.add_argument("dataset", metavar="DATASET", help="a folder of captioned pictures, by path or by its name in the workspace")
    added.add_argument("--word", default="", help="the trigger word, one that means nothing yet, such as nosnjaoutfit")
    added.add_argument("--class-noun", default=None, metavar="NOUN", help='the word to replace, such as dress; "" for none (else guessed)')
    added.add_argument(
        "--absorb",
        nargs="?",
        const=COLOURS_AND_PATTERNS,
        default="",
        metavar="WORDS",
        help="adjectives that the word takes with it where they stand before the class noun; without a value, colours and patterns",
    )
    added.add_argument("--rename-from", default="", metavar="OLD", help="an older trigger word that --word takes the place of")
    added.add_argument("--remove", action="store_true", help="take the word out again; --class-noun then comes back in its place")
    added.add_argument("--undo", action="store_true", help="take the last change of captions back, whatever it was")
    added.add_argument("--lint", action="store_true", help="only say what may be wrong with the word and its captions")
    added.add_argument("--model", default="", help="base model whose tokenizer --lint asks, by path or by its name in the workspace")
    added.add_argument("--dry-run", action="store_true", help="only show what would change")


def trigger(arguments: argparse.Namespace) -> int:
    from nosnja_gui import dataset as datasets
    from nosnja_gui.dataset import trigger as triggers

    workspace = workspace_of(arguments)
    folder = workspace_path(arguments.dataset, workspace.datasets)
    if arguments.undo:
        print(f"Undone: {datasets.undo(folder)}")
        return 0
    if not arguments.word.strip():
        raise UserError("No trigger word is given: add --word WORD, a made-up one such as nosnjaoutfit.")
    word = triggers.clean_word(arguments.word)
    found = datasets.read(folder)
    for problem in found.problems:
        print(f"note: {problem}", file=sys.stderr)
    captions = {picture.name: picture.caption or "" for picture in found.pictures}
    nouns = [noun.strip() for noun in (arguments.class_noun or "").split(",") if noun.strip()]
    if arguments.lint:
        return lint(word, captions, nouns, arguments.model, workspace)

    if arguments.remove:
        note = f"trigger word '{word}' taken out"
        changes = triggers.plan_edit(found, lambda text: triggers.remove(text, word, nouns))
    elif arguments.rename_from.strip():
        note = f"trigger word '{arguments.rename_from}' renamed to '{word}'"
        changes = triggers.plan_edit(found, lambda text: triggers.rename(text, arguments.rename_from, word))
    else:
        if arguments.class_noun is None:
            nouns = guessed_nouns(word, captions)
        note = f"trigger word '{word}' put in" + (f" for '{', '.join(nouns)}'" if nouns else "")
        changes = triggers.plan(found, word, nouns, absorbed(arguments.absorb))
    show_changes(changes, len(captions), everything=arguments.dry_run)
    if changes and not arguments.dry_run:
        datasets.write_captions(found, triggers.captions_after(changes), note)
        print(f"Written to {folder}; take it back with: {PROGRAM} trigger {shlex.quote(arguments.dataset)} --undo")
    elif changes:
        print("Nothing was written; leave out --dry-run to do it.")
    return 0


def absorbed(words: str) -> list[str]:
    from nosnja_gui.dataset.trigger import COLOURS, PATTERNS

    return [*COLOURS, *PATTERNS] if words == COLOURS_AND_PATTERNS else [word.strip() for word in words.split(",") if word.strip()]


def guessed_nouns(word: str, captions: Mapping[str, str]) -> list[str]:
    """The captioner's word for the thing, unless the trigger stands in its place already."""
    from nosnja_gui.dataset.trigger import guess_class_noun

    noun = guess_class_noun(captions.values())
    if noun is None or word.lower() in noun or noun in word.lower():
        return []
    print(f"Class noun: '{noun}' (guessed from the captions; give another one with --class-noun, or none with --class-noun \"\")")
    return [noun]


def show_changes(changes: Sequence[Any], total: int, everything: bool) -> None:
    shown = changes if everything else changes[:10]
    for change in shown:
        print(f"{change.name}\n  - {change.before}\n  + {change.after}")
    if len(changes) > len(shown):
        print(f"... and {len(changes) - len(shown)} more")
    print(f"{len(changes)} of {total} captions change." if changes else f"None of {total} captions changes.")


def lint(word: str, captions: Mapping[str, str], nouns: Sequence[str], model: str, workspace: Workspace) -> int:
    """Print remarks on the word. The tokenizer is that of the model given, else of the first one in the workspace that has one."""
    from nosnja_gui.dataset import identifiers
    from nosnja_gui.dataset import trigger as triggers
    from nosnja_gui.tokens import clip_tokenizer

    inside = sorted(workspace.models.glob("*/tokenizer/merges.txt")) if workspace.models.is_dir() else []
    if not model and not inside:
        raise UserError(f"--lint asks a model's tokenizer and {workspace.models} holds no model: add --model FOLDER.")
    tokenizer = clip_tokenizer(workspace_path(model, workspace.models) if model else inside[0].parents[1])
    for remark in triggers.lint(word, tokenizer, captions, class_noun=nouns):
        print(f"{'warning' if remark.warning else 'note'}: {remark.message}")
    if not identifiers.explain(word, tokenizer).good:
        print(f"note: Words of one rare token that mean nothing: {', '.join(identifiers.proposals(captions.values()))}.")
    return 0


# ---------------------------------------------------------------- train


def add_train(verbs: Any) -> None:
    about = "train a LoRA on a dataset, or go on with a run"
    more = "Ctrl-C saves and stops; the same command, or `train RUN_FOLDER`, goes on."
    examples = (
        "train --preset balanced --dataset costume --model sd15 --trigger nosnjaoutfit --output runs/costume",
        "train --dataset costume --model sd15 --set training.epochs=5 optimizer.learning_rate=2e-4",
        "train runs/costume",
    )
    added = verb(verbs, "train", train, about, *examples, more=more)
    added.add_argument("run", nargs="?", metavar="RUN_FOLDER", help="go on with this run; its settings stay as they are")
    added.add_argument("--preset", default=None, help=f"a preset's name or file (else {presets.DEFAULT}); see `presets`")
    added.add_argument("--dataset", default=None, help="a folder of captioned pictures, by path or by its name in the workspace")
    added.add_argument("--model", default=None, help="the base model, a file or a folder, by path or by its name in the workspace")
    added.add_argument("--output", default=None, help="the run folder (else a new one in the workspace's runs)")
    added.add_argument("--name", default=None, help="name of the LoRA (else that of the output folder or dataset)")
    added.add_argument("--trigger", default=None, metavar="WORD", help="the trigger word in the captions, kept in the file's metadata")
    added.add_argument("--method", default=None, choices=sorted(METHODS), help="what is trained (else as the preset says)")
    added.add_argument(
        "--num_class_images",
        "--class-images",
        type=int,
        default=None,
        metavar="N",
        dest="class_images",
        help="so many pictures of the class, painted by the base model, keep it as it was (prior preservation)",
    )
    added.add_argument(
        "--class_prompt",
        "--class-prompt",
        default=None,
        metavar="PROMPT",
        dest="class_prompt",
        help='what they show, such as "a photo of a dog" (else the captions without the trigger word)',
    )
    added.add_argument("--queue", action="store_true", help="let it wait until the other runs of the workspace have ended; see `queue`")
    added.add_argument("--fit", action="store_true", help="choose settings that save memory until it fits into what is free, and say which")
    _add_set(added, "optimizer.learning_rate=1e-4")


def train(arguments: argparse.Namespace) -> int:
    workspace = workspace_of(arguments)
    if arguments.run is not None:
        names = ("preset", "dataset", "model", "output", "name", "trigger", "method", "class_images", "class_prompt", "fit", "set")
        options = ", ".join(f"--{name}" for name in names if getattr(arguments, name))
        if options:
            raise UserError(f"A run goes on with its own settings: leave out {options}, or begin a new run.")
        run = RunFolder(run_path(arguments.run, workspace))
        job = job_of(run, TrainJob, "train --dataset D --model M")
    else:
        job = train_job(arguments, workspace)
        if arguments.fit:
            job = made_to_fit(job, workspace)
        from nosnja_gui.engine.material import prepare

        prepare(job, workspace)  # a job that cannot begin leaves no folder behind
        run = RunFolder.create(output_of(job.output, job.name, workspace), job)
    if arguments.queue:
        return queue_up(run, workspace)
    if run.logged().state != "finished":
        from nosnja_gui.engine.train import train as train_on

        if is_first_process():
            print(f"Run folder: {run.path}", flush=True)
        with working(run):
            train_on(job, run, workspace, Progress() if is_first_process() else None)
    return report(run, job.job)


def made_to_fit(job: TrainJob, workspace: Workspace) -> TrainJob:
    """The job with what saves memory, all of which is said."""
    from nosnja_gui.estimate import fit
    from nosnja_gui.plan import plan_training

    found = fit(job, plan_training(job, workspace), workspace)
    for line in found.said:
        print(line)
    if found.changes:
        print("The same by hand: --set " + " ".join(f"{name}={value}" for name, value in found.changes.items()))
    return job.changed(**found.changes)


def train_job(arguments: argparse.Namespace, workspace: Workspace) -> TrainJob:
    """The preset with the options and --set over it. Raises one UserError for all that is wrong or missing."""
    named = {"dataset.path": "dataset", "model.path": "model", "output": "output", "name": "name", "trigger": "trigger", "method": "method"}
    named |= {"prior.images": "class_images"}
    options = {setting: getattr(arguments, option) for setting, option in named.items() if getattr(arguments, option) is not None}
    if arguments.class_prompt is not None:
        options["prior.class_prompts"] = [arguments.class_prompt]
    job = presets.train_job(arguments.preset or presets.DEFAULT, {**options, **changes_of(arguments.set)})
    missing = [
        *([] if job.dataset.path else ["No dataset is given: add --dataset FOLDER."]),
        *([] if job.model.path else ["No base model is given: add --model FOLDER (`check` lists those in the workspace)."]),
    ]
    if missing:
        raise UserError("\n".join(missing))
    places = {"dataset.path": settled(job.dataset.path, workspace.datasets), "model.path": settled(job.model.path, workspace.models)}
    places["prior.folder"] = settled(job.prior.folder, workspace.datasets) if job.prior.folder else ""
    places["dataset.concepts"] = [with_folder(line, settled(parse(line).folder, workspace.datasets)) for line in job.dataset.concepts]
    if job.name == TrainJob().name:
        places["name"] = Path(job.output or places["dataset.path"]).name or job.name
    return job.changed(**places)


# ---------------------------------------------------------------- queue


def add_queue(verbs: Any) -> None:
    about = "work off the queue: start the runs that wait, one after another"
    more = "What is queued, here with `train ... --queue` or in the window, starts by itself; this is the process that does it."
    added = verb(verbs, "queue", queue, about, "queue", "queue --list", more=more)
    added.add_argument("--list", action="store_true", help="only list what waits")


def queue(arguments: argparse.Namespace) -> int:
    from nosnja_gui import work_queue

    workspace = workspace_of(arguments)
    if arguments.list:
        for run in work_queue.waiting(workspace):
            print(identifier(run, workspace))
    else:
        work_queue.work_off(workspace, say=lambda text: print(text, flush=True))
    return 0


def queue_up(run: RunFolder, workspace: Workspace) -> int:
    from nosnja_gui import work_queue

    identifier(run, workspace)  # raises for a run that lies elsewhere, where the queue doesn't look
    work_queue.enqueue(run, workspace)
    print(f"Queued: {run.path}; it starts by itself when the runs before it have ended (`{PROGRAM} queue --list`).")
    return 0


# ---------------------------------------------------------------- grid


def add_grid(verbs: Any) -> None:
    about = "paint a comparison (XYZ plot) over epochs, weights, prompts and more, or go on with one"
    more = "The file is YAML: model, run or lora, prompt and the axes x, y, z; pictures that are painted already stay."
    examples = (
        "grid my-grid.yaml",
        "grid my-grid.yaml --set steps=20 'x.values=[0.5, 0.75, 1]' --output runs/my-grid",
        "grid runs/my-grid",
    )
    added = verb(verbs, "grid", grid, about, *examples, more=more)
    added.add_argument("grid", metavar="GRID", help="a grid's YAML file, or the folder of a grid to go on with")
    added.add_argument("--output", default=None, help="the grid's folder (else a new one in the workspace's runs)")
    _add_set(added, "cfg_scale=5")


def grid(arguments: argparse.Namespace) -> int:
    workspace = workspace_of(arguments)
    changes = changes_of(arguments.set)
    given = run_path(arguments.grid, workspace)
    if given.is_dir():
        if changes or arguments.output:
            raise UserError("A grid goes on with its own settings: leave out --set and --output, or give its YAML file.")
        run = RunFolder(given)
        job = job_of(run, GridJob, "grid GRID.yaml, with 'run: ' and this folder in the file")
        if not run.requests.is_dir():
            run.requests.mkdir()
    else:
        job = grid_job(given, changes, arguments.output, workspace)
        run = RunFolder.create(output_of(job.output, job.name, workspace), job)
    from nosnja_gui.engine.grid import run_grid

    print(f"Grid folder: {run.path}", flush=True)
    with working(run):
        run_grid(job, run, workspace, Progress())
    return report(run, job.job)


def grid_job(file: Path, changes: Mapping[str, Any], output: str | None, workspace: Workspace) -> GridJob:
    """The file's job with changes; relative paths in it are looked for here, then beside the file, then in the workspace."""
    values = merge_dotted(read_yaml(file), {**changes, **({"output": output} if output else {})})
    job = GridJob.parse(values, where=f"{file} with changes" if changes else str(file))
    beside = file.absolute().parent
    places: dict[str, Any] = {
        "model.path": settled(job.model.path, workspace.models, beside),
        "run": settled(job.run, workspace.runs, beside),
        "lora": settled(job.lora, workspace.models, beside),
    }
    for name, axis in (("x", job.x), ("y", job.y), ("z", job.z)):
        if axis and axis.axis in ("lora", "model"):
            places[f"{name}.values"] = [settled(str(value), workspace.models, beside) for value in axis.values]
    return job.changed(**places)


# ---------------------------------------------------------------- model, lora


if __name__ == "__main__":
    sys.exit(main())
