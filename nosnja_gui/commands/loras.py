"""lora inspect, convert, merge, extract, resize, rename, strip, card, publish: what is done with LoRA files."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from nosnja_gui import events
from nosnja_gui.commands import PROGRAM, group, run_path, verb, workspace_of
from nosnja_gui.jobs import workspace_path
from nosnja_gui.progress import Progress
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError


def add(verbs: Any) -> None:
    words = group(verbs, "lora", "what is done with LoRA files")
    add_inspect(words)
    add_convert(words)
    add_merge(words)
    add_extract(words)
    add_resize(words)
    add_rename(words)
    add_strip(words)
    add_lora_card(words)
    add_lora_publish(words)


# ---------------------------------------------------------------- looking


def add_inspect(words: Any) -> None:
    about = "say what a LoRA file is: kind, family, rank and alpha by layer, trigger words, how it was trained"
    added = verb(
        words, "inspect", inspect, about, "lora inspect costume.safetensors", "lora inspect costume.safetensors --layers --metadata"
    )
    _add_file(added)
    added.add_argument("--layers", action="store_true", help="also every layer with its rank and alpha")
    added.add_argument("--metadata", action="store_true", help="also everything that the file says about itself")


def inspect(arguments: argparse.Namespace) -> int:
    from nosnja_gui.adapters import inspection

    found = inspection.inspect(_lora(arguments.file, arguments))
    if found.problems:
        raise UserError("\n".join(found.problems))
    ranks = ", ".join(map(str, found.ranks)) or "none"
    alphas = ", ".join(f"{alpha:g}" for alpha in found.alphas) or "none"
    print(f"{found.file.name}: {' and '.join(found.kinds)} for {found.family or 'an unknown family'}, {found.layout} layout")
    parts, precisions = ", ".join(filter(None, found.parts)), " and ".join(found.precisions)
    print(f"  {len(found.rows)} modules of {parts}; rank {ranks}, alpha {alphas}; {precisions}")
    for trigger in found.triggers:
        often = "" if trigger.count is None else f" (in {trigger.count} of {trigger.captions} captions of {trigger.folder})"
        print(f"  trigger word: {trigger.words}{often}")
    for title, values in found.settings.items():
        print(f"  {title}: " + "; ".join(f"{name} {value}" for name, value in values.items()))
    if arguments.layers:
        for row in found.rows:
            size = "x".join(map(str, row.shape))
            print(f"  {row.module}  {row.kind} rank {row.rank or '-'} alpha {'-' if row.alpha is None else f'{row.alpha:g}'}  {size}")
    if arguments.metadata:
        for name, value in sorted(found.metadata.items()):
            print(f"  {name} = {value}")
    return 0


# ---------------------------------------------------------------- changing


def _add_file(added: argparse.ArgumentParser, what: str = "the LoRA") -> None:
    added.add_argument(
        "file", metavar="FILE", help=f"{what}, by path, by its name in the workspace's models folder, or by the name of its run"
    )


def _add_writing(added: argparse.ArgumentParser, layout: str | None = "kohya") -> None:
    added.add_argument("--output", required=True, metavar="FILE", help="what to write: a path, or a name in the workspace's models folder")
    added.add_argument("--overwrite", action="store_true", help="write it anew where there is one")
    if layout:
        added.add_argument("--to", choices=("kohya", "diffusers", "comfyui"), default=layout, help=f"layout of the file ({layout})")
    added.add_argument("--precision", choices=("float16", "bfloat16", "float32"), help="number format (else as it is)")
    added.add_argument("--model", metavar="MODEL", help="a base model of this kind: needed for DoRA and unusual models")
    added.add_argument("--no-check", action="store_true", help="don't read the file back: faster by a minute or so on few cores")


def add_convert(words: Any) -> None:
    about = "write a LoRA in the layout of another program"
    more = (
        "kohya is read by A1111, Forge, ComfyUI, InvokeAI and diffusers; diffusers by diffusers, ComfyUI and InvokeAI; comfyui is what "
        "ComfyUI saves itself. The file is read back at once by our reader and by diffusers, and a forward pass is compared."
    )
    example = "lora convert costume.safetensors --to diffusers --output costume-diffusers.safetensors"
    added = verb(words, "convert", convert, about, example, more=more)
    _add_file(added)
    _add_writing(added, layout=None)
    added.add_argument("--to", choices=("kohya", "diffusers", "comfyui"), required=True, help="layout of the new file")


def convert(arguments: argparse.Namespace) -> int:
    file = _lora(arguments.file, arguments)
    return _done(arguments, lambda tools, output, tell, **common: tools.convert(file, output, arguments.to, tell=tell, **common))


def add_merge(words: Any) -> None:
    about = "add up LoRAs, each with a weight, into one, or put them into a base model"
    more = "Without --rank the sum is exact and its rank is that of all together; --into writes a whole model with the LoRAs inside."
    examples = (
        "lora merge costume.safetensors:0.8 style.safetensors:0.5 --rank 32 --output both.safetensors",
        "lora merge costume.safetensors:0.9 --into sd15.safetensors --output sd15-costume.safetensors",
    )
    added = verb(words, "merge", merge, about, *examples, more=more)
    added.add_argument("files", nargs="+", metavar="FILE[:WEIGHT]", help="LoRAs with their weights (1 if none is given)")
    added.add_argument("--rank", type=int, help="bring the sum to this rank, by SVD")
    added.add_argument("--into", metavar="MODEL", help="a checkpoint or diffusers folder that the LoRAs are put into")
    _add_writing(added)


def merge(arguments: argparse.Namespace) -> int:
    files = [_weighted(text, arguments) for text in arguments.files]
    if not arguments.into:
        return _done(
            arguments, lambda tools, output, tell, **common: tools.merge(files, output, arguments.rank, arguments.to, tell=tell, **common)
        )
    for name, given in (("--rank", arguments.rank), ("--precision", arguments.precision)):
        if given:
            raise UserError(f"{name} is for a LoRA; --into writes a model in the precision that it has: leave {name} out.")
    model = _model(arguments.into, arguments)
    return _done(arguments, lambda tools, output, tell, **common: tools.merge_into(model, files, output, tell))


def add_extract(words: Any) -> None:
    about = "make a LoRA of the difference between two models, a base and what was trained on top of it"
    example = "lora extract sd15.safetensors my-dreambooth.safetensors --rank 32 --output extracted.safetensors"
    added = verb(words, "extract", extract, about, example)
    added.add_argument("base", metavar="BASE", help="the base model, by path or by its name in the workspace's models folder")
    added.add_argument("tuned", metavar="TUNED", help="the trained model")
    added.add_argument("--rank", type=int, default=32, help="rank of linear layers and 1x1 convolutions (32)")
    added.add_argument("--conv-rank", type=int, help="rank of larger convolutions (else they are left out)")
    added.add_argument("--keep", type=float, metavar="SHARE", help="fewer ranks where fewer keep this share of a layer's change (0.95)")
    added.add_argument("--no-text-encoders", action="store_true", help="leave the text encoders out")
    _add_writing(added)


def extract(arguments: argparse.Namespace) -> int:
    base, tuned = _model(arguments.base, arguments), _model(arguments.tuned, arguments)

    def work(tools: Any, output: Path, tell: Any, model: Any = None, precision: Any = None, **common: Any) -> Any:
        options = {"conv_rank": arguments.conv_rank, "keep": arguments.keep, "text_encoders": not arguments.no_text_encoders}
        return tools.extract(
            base, tuned, output, arguments.rank, layout=arguments.to, precision=precision or "float16", tell=tell, **options, **common
        )

    return _done(arguments, work)


def add_resize(words: Any) -> None:
    about = "bring a LoRA of any kind to a lower rank, and say what was lost"
    more = "LoHa, LoKr and DoRA files become plain LoRAs that way (DoRA needs --model)."
    examples = (
        "lora resize costume.safetensors --rank 8 --output small.safetensors",
        "lora resize big.safetensors --keep 0.95 --output small.safetensors",
    )
    added = verb(words, "resize", resize, about, *examples, more=more)
    _add_file(added)
    added.add_argument("--rank", type=int, help="the new rank, or the highest one where --keep is given")
    added.add_argument("--keep", type=float, metavar="SHARE", help="the lowest rank that keeps this share of each layer's change (0.95)")
    added.add_argument("--alpha", type=float, help="the new alpha (else alpha / rank stays as it is); the effect is the same with any")
    _add_writing(added)


def resize(arguments: argparse.Namespace) -> int:
    file = _lora(arguments.file, arguments)
    return _done(
        arguments,
        lambda tools, output, tell, **common: tools.resize(
            file, output, arguments.rank, arguments.keep, arguments.alpha, arguments.to, tell=tell, **common
        ),
    )


def _add_rewriting(added: argparse.ArgumentParser) -> None:
    added.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="what to write, a path or a name in the models folder; with --overwrite it may be the same file",
    )
    added.add_argument("--overwrite", action="store_true", help="write it anew where there is one")


def add_rename(words: Any) -> None:
    about = "change the trigger word that a LoRA names in its metadata"
    more = "Only what the file says is changed: the pictures still answer to the word that was trained."
    added = verb(
        words, "rename", rename, about, "lora rename costume.safetensors --trigger nosnjaoutfit --output costume-2.safetensors", more=more
    )
    _add_file(added)
    added.add_argument("--trigger", required=True, metavar="WORD", help="the word to name")
    _add_rewriting(added)


def rename(arguments: argparse.Namespace) -> int:
    file = _lora(arguments.file, arguments)
    return _done(arguments, lambda tools, output, tell, **common: tools.rename_trigger(file, output, arguments.trigger))


def add_strip(words: Any) -> None:
    about = "take private entries (folders, captions' words, comments) out of a LoRA's metadata, or all of them"
    added = verb(words, "strip", strip, about, "lora strip costume.safetensors --output costume-to-share.safetensors")
    _add_file(added)
    added.add_argument("--all", action="store_true", help="all entries that no reader needs")
    _add_rewriting(added)


def strip(arguments: argparse.Namespace) -> int:
    file = _lora(arguments.file, arguments)
    return _done(arguments, lambda tools, output, tell, **common: tools.strip(file, output, arguments.all))


def _done(arguments: argparse.Namespace, work: Any) -> int:
    """Call a tool with what all of them take, show how far it is, and print what came of it."""
    output = _output(arguments.output, arguments)
    if output.exists() and not arguments.overwrite:
        raise UserError(f"There is {output} already: choose another name, or add --overwrite.")
    common: dict[str, Any] = {}
    if hasattr(arguments, "no_check"):
        model = _model(arguments.model, arguments) if arguments.model else None
        common = {"precision": arguments.precision, "model": model, "check": not arguments.no_check}
    progress = Progress()
    told = {"what": "", "done": 0}

    def tell(what: str, done: int, total: int) -> None:
        if what != told["what"]:
            progress.stage(what, total)
            told.update(what=what, done=0)
        progress.advance(done - told["done"])
        told["done"] = done

    from nosnja_gui.engine import lora_files

    try:
        outcome = work(lora_files, output, tell, **common)
    finally:
        progress.done()
    print(f"Written: {outcome.file}")
    for line in outcome.lines:
        print(f"  {line}")
    return 0


def _lora(text: str, arguments: argparse.Namespace) -> Path:
    """A LoRA by its path, by its name in the models folder, or by the name of the run that ended with it."""
    workspace = workspace_of(arguments)
    file = workspace_path(text, workspace.models)
    if file.is_dir() or not file.exists():
        run = RunFolder(run_path(text, workspace))
        made = [run.path / name for event in events.read(run.events) if isinstance(event, events.Finished) for name in event.files]
        file = next((path for path in reversed(made) if path.suffix == ".safetensors"), file)
    if not file.is_file():
        raise UserError(f"There is no LoRA file {file}: give the path of a .safetensors file, or the name of a finished training.")
    return file


def _output(text: str, arguments: argparse.Namespace) -> Path:
    """A path, or a name alone in the workspace's models folder."""
    path = Path(text).expanduser()
    return path if path.parent != Path() or path.is_absolute() else workspace_of(arguments).create().models / path


def _weighted(text: str, arguments: argparse.Namespace) -> tuple[Path, float]:
    name, sign, weight = text.rpartition(":")
    try:
        return (_lora(name, arguments), float(weight)) if sign else (_lora(text, arguments), 1.0)
    except ValueError:
        return _lora(text, arguments), 1.0  # a colon that belongs to the path, as in C:\\loras


def _model(text: str, arguments: argparse.Namespace) -> Path:
    from nosnja_gui.models import find_model

    return find_model(text, workspace_of(arguments).models)


# ---------------------------------------------------------------- the hub


def add_lora_card(words: Any) -> None:
    about = "write a model card for a LoRA, in a folder that is ready for the hub"
    more = "The folder gets the LoRA without what nobody else should read, README.md and the last samples of its run; nothing is uploaded."
    added = verb(words, "card", lora_card, about, "lora card runs/costume-001/weights/costume.safetensors", more=more)
    _add_card(added)
    added.add_argument("--overwrite", action="store_true", help="write it anew where there is one")


def _add_card(added: argparse.ArgumentParser) -> None:
    added.add_argument("file", metavar="FILE", help="the LoRA, by path or by its name in the workspace's models folder")
    added.add_argument("--folder", default=None, help="where the card is (else in NAME-hub beside the LoRA)")
    added.add_argument("--base-model", default="", metavar="ID", help="the base model on the hub (known if it was downloaded)")
    added.add_argument("--license", default="", metavar="ID", help="a license's identifier on the hub, such as openrail++")


def lora_card(arguments: argparse.Namespace) -> int:
    from nosnja_gui import publishing

    lora, folder = _lora_and_folder(arguments)
    options = {"base_model": arguments.base_model, "license": arguments.license}
    written = publishing.write(lora, folder, overwrite=arguments.overwrite, **options)
    print(f"Written: {written / publishing.README}; look it over, then: {PROGRAM} lora publish {shlex.quote(str(lora))} --repo USER/NAME")
    return 0


def add_lora_publish(words: Any) -> None:
    about = "upload a LoRA with its model card to the Hugging Face hub"
    more = (
        "The repository is private unless --public is given. A card that `lora card` wrote is taken as it is, else one is written. "
        "Needs a token with write permission: $HF_TOKEN, or what `hf auth login` stored."
    )
    added = verb(words, "publish", lora_publish, about, "lora publish costume.safetensors --repo USER/costume --public", more=more)
    _add_card(added)
    added.add_argument("--repo", required=True, metavar="USER/NAME", help="the repository, made if there is none")
    seen = added.add_mutually_exclusive_group()
    seen.add_argument("--public", action="store_true", help="for everybody to see")
    seen.add_argument("--private", action="store_true", help="for nobody else to see; that is so anyway")
    added.add_argument("--replace", action="store_true", help="replace the LoRA and its card where the repository holds others")


def lora_publish(arguments: argparse.Namespace) -> int:
    from nosnja_gui import publishing

    lora, folder = _lora_and_folder(arguments)
    if not (folder / publishing.README).exists():
        options = {"base_model": arguments.base_model, "license": arguments.license}
        publishing.write(lora, folder, repo=arguments.repo, **options)
    elif not publishing.is_current(folder, lora):
        raise UserError(f"{folder} holds the card of another LoRA, or of an older one: write it anew with `lora card --overwrite`.")
    from nosnja_gui.engine.hub import publish

    for path in publishing.contents(folder):
        print(f"  {path.relative_to(folder).as_posix()}  {path.stat().st_size / 1e6:.1f} MB", flush=True)
    address = publish(folder, arguments.repo, private=not arguments.public, replace=arguments.replace)
    print(f"Published: {address}{'' if arguments.public else ' (private: only you see it; change that on its page)'}")
    return 0


def _lora_and_folder(arguments: argparse.Namespace) -> tuple[Path, Path]:
    from nosnja_gui import publishing

    lora = _lora(arguments.file, arguments)
    return lora, Path(arguments.folder).expanduser() if arguments.folder else publishing.folder_of(lora)
