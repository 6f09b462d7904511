"""model download, model convert: what is done with base models."""

import argparse
import textwrap
from pathlib import Path
from typing import Any

from nosnja_gui.commands import STOPPED, group, job_of, report, run_path, verb, working, workspace_of
from nosnja_gui.jobs import DownloadJob, workspace_path
from nosnja_gui.progress import Progress
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError


def add(verbs: Any) -> None:
    words = group(verbs, "model", "what is done with base models")
    add_model_download(words)
    add_model_convert(words)


def add_model_download(words: Any) -> None:
    about = "fetch a base model from the Hugging Face hub into the workspace's models folder"
    more = (
        "Only .safetensors weights are fetched, with their configs and tokenizers. The same command goes on where one was stopped. "
        "For gated models, $HF_TOKEN or what `hf auth login` stored is used."
    )
    examples = (
        "model download stable-diffusion-v1-5/stable-diffusion-v1-5 --variant fp16",
        "model download stable-diffusion-v1-5/stable-diffusion-v1-5 --file v1-5-pruned-emaonly.safetensors --name sd15",
    )
    added = verb(words, "download", model_download, about, *examples, more=more)
    added.add_argument("repo", metavar="REPO_ID", help="USER/NAME on the hub, its address there, or the run folder of a download")
    added.add_argument("--revision", default="", help="a branch, tag or commit (else the newest)")
    added.add_argument("--file", default="", metavar="NAME", help="only this .safetensors file")
    added.add_argument("--variant", default="", choices=("fp16",), help="weights of half the size, where there are such")
    added.add_argument("--name", default="", help="what it is called here (else its name there)")


def model_download(arguments: argparse.Namespace) -> int:
    workspace = workspace_of(arguments)
    given = run_path(arguments.repo, workspace)
    run = RunFolder(given) if (given / "run.yaml").is_file() else None
    if run:
        job = job_of(run, DownloadJob, "model download REPO_ID")
    else:
        names = ("repo", "revision", "file", "variant", "name")
        job = DownloadJob.parse({name: getattr(arguments, name) for name in names}, where="the command")
    from nosnja_gui.engine.hub import download

    with working(run):
        log, stop_asked = (run.log(), lambda: run.take_request("stop")) if run else (None, lambda: False)
        model = download(job, workspace, log, Progress(), stop_asked, say=lambda text: print(text, flush=True))
    if model is None:
        return report(run, "model download") if run else STOPPED
    print(f"Finished: {model}")
    return 0


def add_model_convert(words: Any) -> None:
    about = "turn a .ckpt, .pt, .pth or .bin file into a .safetensors file, without running what may be hidden in it"
    more = "Only weights are taken over; a file that would run a program is refused. The file itself stays as it is."
    examples = ("model convert sd15.ckpt", "model convert downloads/better.vae.pt --output models/better.vae.safetensors")
    added = verb(words, "convert", model_convert, about, *examples, more=more)
    added.add_argument("file", metavar="FILE", help="the checkpoint, by path or by its name in the workspace's models folder")
    added.add_argument("--output", default=None, metavar="FILE", help="the .safetensors file to write (else beside it, of the same name)")
    added.add_argument("--overwrite", action="store_true", help="write it anew where there is one")


def model_convert(arguments: argparse.Namespace) -> int:
    file = workspace_path(arguments.file, workspace_of(arguments).models)
    from nosnja_gui.engine import conversion

    target = Path(arguments.output).expanduser() if arguments.output else conversion.target_beside(file)
    if target.exists() and not arguments.overwrite:
        raise UserError(f"There is a file {target} already: add --overwrite to write it anew, or --output FILE for another one.")
    progress, before = Progress(), 0

    def tell(done: int, total: int) -> None:
        nonlocal before
        if not before:
            progress.stage("Converting", total // 10**6)
        progress.advance((done - before) // 10**6)
        before += (done - before) // 10**6 * 10**6

    result = conversion.convert(file, target, tell)
    progress.done()
    print(f"{result.target} is {result.kind}: {result.weights:,} weights, {result.size_bytes / 1e6:,.0f} MB.")
    if result.left_out:
        print(textwrap.fill(f"Left out: {', '.join(result.left_out)}.", 100))
    return 0
