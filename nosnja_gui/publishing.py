"""A LoRA made ready for others: beside it a model card for the hub, the last samples, and nothing that is only the user's.

What goes into the card and stays in the file is an allowlist. Never captions, paths, user or host names. Knows neither torch nor
the network.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml
from PIL import Image, ImageOps

from nosnja_gui import events, infotext, library, weights
from nosnja_gui.files import replacing, write_atomic
from nosnja_gui.library import Lora
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError, dotted, read_yaml
from nosnja_gui.workspace import file_name

README = "README.md"
PICTURES = "images"
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
ORIGIN = ".hub.json"
"""Beside what was downloaded: where it came from."""
MOST_PICTURES = 12
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
IN_HUB_CACHE = re.compile(r"models--([^/\\]+?)--([^/\\]+)[/\\]snapshots[/\\]")
"""How the hub's library names the folders of its cache (huggingface_hub/file_download.py: repo_folder_name)."""


@dataclass(frozen=True)
class Pipeline:
    """How a family's LoRAs are used with diffusers, and what the hub calls them."""

    name: str
    base: str
    """The model that stands in the example where the true one is not known."""
    tag: str


PIPELINES = {
    "SD 1.x": Pipeline("StableDiffusionPipeline", "stable-diffusion-v1-5/stable-diffusion-v1-5", "stable-diffusion"),
    "SD 2.x": Pipeline("StableDiffusionPipeline", "stabilityai/stable-diffusion-2-1", "stable-diffusion"),
    "SDXL": Pipeline("StableDiffusionXLPipeline", "stabilityai/stable-diffusion-xl-base-1.0", "stable-diffusion-xl"),
    "SD 3": Pipeline("StableDiffusion3Pipeline", "stabilityai/stable-diffusion-3-medium-diffusers", "stable-diffusion-3"),
    "Flux": Pipeline("FluxPipeline", "black-forest-labs/FLUX.1-dev", "flux"),
}
"""By the family that a LoRA's header tells (`library.Lora.family`)."""

TABLE = (
    ("Pictures", "nosnja_pictures", ""),
    ("Repeats", "nosnja_repeats", "dataset.repeats"),
    ("Resolution", "ss_resolution", "dataset.resolution"),
    ("Aspect buckets", "ss_enable_bucket", "dataset.buckets"),
    ("Steps", "ss_steps", ""),
    ("Epochs", "ss_epoch", "training.epochs"),
    ("Batch size", "ss_batch_size_per_device", "training.batch_size"),
    ("Gradient accumulation", "ss_gradient_accumulation_steps", "training.gradient_accumulation"),
    ("Learning rate", "ss_learning_rate", "optimizer.learning_rate"),
    ("Text encoder's learning rate", "ss_text_encoder_lr", "optimizer.text_encoder_learning_rate"),
    ("Optimizer", "ss_optimizer", "optimizer.name"),
    ("Schedule", "ss_lr_scheduler", "schedule.name"),
    ("Warmup steps", "ss_lr_warmup_steps", ""),
    ("Min-SNR gamma", "ss_min_snr_gamma", "loss.min_snr_gamma"),
    ("Dropout", "ss_network_dropout", "lora.dropout"),
    ("Caption dropout", "ss_caption_dropout_rate", "dataset.caption_dropout"),
    ("Clip skip", "ss_clip_skip", "model.clip_skip"),
    ("Precision", "ss_mixed_precision", "model.precision"),
    ("Seed", "ss_seed", "training.seed"),
)
"""What is told of the training: title, key in the file's metadata, setting of the run where the file doesn't say."""
KEPT = frozenset(key for _, key, _ in TABLE) | {
    "format", "lora_adapter_metadata", "sshs_model_hash", "sshs_legacy_hash", "ss_output_name", "ss_training_started_at",
    "ss_training_finished_at", "ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_network_args", "ss_base_model_version",
    "ss_v2", "ss_sd_model_name", "ss_sd_model_hash", "ss_new_sd_model_hash", "ss_unet_lr", "ss_max_grad_norm", "ss_num_epochs",
    "ss_max_train_steps", "ss_num_train_images", "ss_num_batches_per_epoch", "ss_total_batch_size", "ss_gradient_checkpointing",
    "ss_flip_aug", "ss_noise_offset", "ss_noise_offset_random_strength", "ss_adaptive_noise_scale", "ss_multires_noise_iterations",
    "ss_multires_noise_discount", "ss_ip_noise_gamma", "ss_ip_noise_gamma_random_strength", "ss_debiased_estimation", "ss_loss_type",
    "ss_huber_schedule", "ss_huber_c", "ss_zero_terminal_snr", "modelspec.sai_model_spec", "modelspec.architecture", "modelspec.title",
    "modelspec.date", "modelspec.prediction_type", "modelspec.resolution", "modelspec.trigger_phrase", "modelspec.implementation",
    "modelspec.timestep_range", "modelspec.encoder_layer",
}  # fmt: skip
"""What a published file may say of itself; other trainers also write captions (ss_tag_frequency) and folders (ss_dataset_dirs)."""
OURS = "nosnja_"
"""So begins what this program writes, itself an allowlist."""
NAMES = ("ss_output_name", "ss_sd_model_name", "modelspec.title")
"""Of those, the ones that may be a path: only its last part is told."""


# ---------------------------------------------------------------- where a model came from


def read_json(file: Path) -> dict[str, Any]:
    """Raises OSError or ValueError for what is not there or no JSON object."""
    values = json.loads(file.read_bytes())
    if not isinstance(values, dict):
        raise ValueError(f"{file} is no JSON object")
    return values


def note_origin(model: Path, repo: str, commit: str) -> None:
    """Keep beside a downloaded folder's index, or file, which repository it came from."""
    write_atomic(_origin_file(model), json.dumps({"repo": repo, "commit": commit}))


def origin(model: Path) -> str:
    """The hub id of a model that was downloaded, by its note or by its place in the hub's cache; "" where nobody knows."""
    with contextlib.suppress(OSError, ValueError):
        repo = read_json(_origin_file(model)).get("repo")
        if isinstance(repo, str) and HUB_ID.fullmatch(repo):
            return repo
    cached = IN_HUB_CACHE.search(f"{model}/")
    return f"{cached[1]}/{cached[2]}" if cached else ""


def _origin_file(model: Path) -> Path:
    return model.with_name(f".{model.name}{ORIGIN}") if model.suffix == ".safetensors" else model / ORIGIN


# ---------------------------------------------------------------- the card


def card(
    lora: Path,
    run: RunFolder | None = None,
    repo: str = "",
    pictures: Sequence[Path] = (),
    base_model: str = "",
    license: str = "",
) -> str:
    """The README.md of a LoRA: the hub's head in YAML, then how to use it, pictures, how it was trained, the file's hashes.

    `run` trained it, where that is known; `repo` (USER/NAME) is where it will be; `pictures` are shown under the names that `write`
    copies them to. `base_model` is a hub id, found by itself where the model was downloaded from there; `license` one of the hub's
    identifiers. Raises UserError for a file that holds no LoRA and for names that the hub knows nothing of.
    """
    about = _about(lora)
    for what, given, form in (("base model", base_model, HUB_ID), ("repository", repo, HUB_ID), ("license", license, LICENSE)):
        if given and not form.fullmatch(given):
            raise UserError(f"'{given}' is no {what} of the hub's: write it as its page does, such as {_example(what)}.")
    said, settings = library.metadata(lora), _settings(run)
    trigger = _line(about.trigger or str(settings.get("trigger") or ""))
    known_base = base_model or _base_of(settings, run)
    prompts = prompts_of(pictures, settings)
    pipeline = PIPELINES.get(about.family)
    names = picture_names(pictures)
    head: dict[str, Any] = {
        **({"base_model": known_base} if known_base else {}),
        **({"instance_prompt": trigger} if trigger else {}),
        **({"license": license} if license else {}),
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": [*([pipeline.tag] if pipeline else []), "lora", "text-to-image", "diffusers", "template:sd-lora"],
        **({"widget": [_widget(name, text) for name, text in zip(names, prompts, strict=True)]} if names else {}),
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=10_000)}---",
        f"# {_text(_title(lora, said))}",
        _what(about, known_base, said),
        *([f"## Trigger word\n\nWrite {_code(trigger)} in the prompt."] if trigger else []),
        _use(lora, about, repo, trigger, known_base, pipeline),
        *([_samples(names, prompts)] if names else []),
        _training(about, said, settings),
        _file_table(lora, said),
    ]
    return "\n\n".join(parts) + "\n"


def picture_names(pictures: Sequence[Path]) -> list[str]:
    """Under which names, relative to the card, pictures are shown: numbered, as their own names may tell of somebody."""
    return [f"{PICTURES}/sample-{number}.png" for number in range(1, len(pictures) + 1)]


def prompts_of(pictures: Sequence[Path], settings: Mapping[str, Any]) -> list[str]:
    """What each picture was painted from: as the picture itself says, else the run's preview prompts in their order; or ""."""
    listed = settings.get("preview.prompts")
    listed = [str(text) for text in listed] if isinstance(listed, list) else []
    written = [_prompt_in(path) for path in pictures]
    return [_line(own or (listed[number] if number < len(listed) else "")) for number, own in enumerate(written)]


def _about(lora: Path) -> Lora:
    about = library.read_lora(Lora(lora.name, lora, lora.stem))
    if about.problem or not about.kind:
        raise UserError(about.problem or f"{lora} holds no LoRA: give the file of a LoRA.")
    if about.kind == "textual inversion":
        raise UserError(f"{lora} holds no LoRA but a textual inversion, for which no card is written yet: give the file of a LoRA.")
    return about


def _settings(run: RunFolder | None) -> dict[str, Any]:
    """The run's settings by dotted name; none of a run that cannot be read, as the file tells the most itself."""
    with contextlib.suppress(UserError):
        return dotted(read_yaml(run.run_yaml)) if run else {}
    return {}


def _base_of(settings: Mapping[str, Any], run: RunFolder | None) -> str:
    """The hub id of the model that a run began with, if it came from there."""
    path = settings.get("model.path")
    if not run or not isinstance(path, str) or not path:
        return ""
    # runs/<name> lies beside models/ in a workspace; a part of a demo lies one deeper.
    beside = [parent / "models" / path for parent in run.path.parents[1:3]]
    found = next((place for place in (Path(path).expanduser(), *beside) if place.exists()), None)
    if found is None:
        return path if HUB_ID.fullmatch(path) else ""
    return origin(found.absolute())


def _title(lora: Path, said: Mapping[str, str]) -> str:
    return _line(_last_name(said.get("modelspec.title") or said.get("ss_output_name") or lora.stem)) or lora.stem


def _what(about: Lora, base: str, said: Mapping[str, str]) -> str:
    family = f" for {about.family}" if about.family else ""
    name = _last_name(about.base_name)
    trained = f", trained on [{_text(base)}](https://huggingface.co/{base})" if base else f", trained on {_code(name)}" if name else ""
    return f"A {about.kind}{family}{trained}. Made with Nošnja."


def _use(lora: Path, about: Lora, repo: str, trigger: str, base: str, pipeline: Pipeline | None) -> str:
    network = f"<lora:{lora.stem}:1>"
    example = _code(f"{trigger}, {network}" if trigger else network)
    text = f"""## How to use it

- **A1111, Forge**: put {_code(lora.name)} into the folder `models/Lora` and write {example} in the prompt; the number is its weight.
- **ComfyUI**: put it into `models/loras` and choose it in the node *Load LoRA*."""
    if about.kind != "LoRA":
        return f"{text}\n- **diffusers** may not read every {about.kind} file."
    return f"{text}\n- **diffusers**:\n\n```python\n{snippet(lora.name, repo, trigger, base, pipeline)}\n```"


def snippet(file: str, repo: str, trigger: str, base: str, pipeline: Pipeline | None) -> str:
    """Python that paints a picture with the LoRA. Without a `repo`, the file is looked for in the folder where it is run."""
    name = pipeline.name if pipeline else "DiffusionPipeline"
    model = base or (pipeline.base if pipeline else "the base model's hub id")
    prompt = trigger or "a photo"
    remark = "" if base else "# It may have been trained on another model of this family: its own gives the best pictures.\n"
    return f"""import torch
from diffusers import {name}

{remark}device = "cuda" if torch.cuda.is_available() else "cpu"
pipe = {name}.from_pretrained({_python(model)}).to(device, torch.float16 if device == "cuda" else torch.float32)
pipe.load_lora_weights({_python(repo or ".")}, weight_name={_python(file)})
image = pipe({_python(prompt)}, num_inference_steps=25).images[0]
image.save("picture.png")"""


def _widget(name: str, text: str) -> dict[str, Any]:
    return {"text": text or " ", "output": {"url": name}}


def _samples(names: Sequence[str], prompts: Sequence[str]) -> str:
    shown = []
    for name, text in zip(names, prompts, strict=True):
        shown += [f"![{_text(text) or 'a sample'}]({name})", *([_code(text)] if text else [])]
    return "\n\n".join(["## Samples", *shown])


def _training(about: Lora, said: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    rows = [("Rank", _numbers(about.ranks)), ("Alpha", _numbers(about.alphas))]
    for title, key, setting in TABLE:
        value = said.get(key)
        value = settings.get(setting) if value is None else value
        rows.append((title, "" if value is None or value == "None" else str(value)))
    return _table("Training", "setting", [(title, _text(value)) for title, value in rows if value])


def _file_table(lora: Path, said: Mapping[str, str]) -> str:
    digest = sha256(lora)
    rows = [
        ("Name", _text(lora.name)),
        ("Date", _date(lora, said)),
        ("Size", f"{lora.stat().st_size / 1e6:.1f} MB"),
        ("SHA256", f"`{digest}`"),
        ("AutoV2", f"`{digest[:10].upper()}`"),
    ]
    return _table("File", "", rows)


def _table(title: str, head: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows]
    return "\n".join([f"## {title}", "", f"| {head} | |", "|---|---|", *lines])


def _date(lora: Path, said: Mapping[str, str]) -> str:
    """The day of the training, else that of the file."""
    if found := re.match(r"\d{4}-\d{2}-\d{2}", said.get("modelspec.date", "")):
        return found[0]
    return datetime.datetime.fromtimestamp(lora.stat().st_mtime, datetime.UTC).strftime("%Y-%m-%d")


def sha256(file: Path) -> str:
    """64 hexadecimal digits of the whole file."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values[:6])


def _prompt_in(picture: Path) -> str:
    """The prompt that the picture says it was painted from, without the LoRAs that it calls; "" where it says nothing."""
    try:
        return infotext.read(picture).prompt.strip(" ,")
    except UserError:
        return ""


# ---------------------------------------------------------------- the user's words, as YAML, Markdown and Python take them


def _line(text: str) -> str:
    """On one line, without letters that steer the screen."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:1000]


def _text(text: str) -> str:
    """As plain Markdown behind something else on its line: nothing in it is a mark, a link, a column or HTML."""
    return re.sub(r"([\\`*_\[\]#!|~<>&$])", r"\\\1", _line(text))


def _code(text: str) -> str:
    """As Markdown's code, however many backticks are in it (CommonMark 0.31, 6.1)."""
    text = _line(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}" if text.startswith("`") or text.endswith("`") else f"{fence}{text}{fence}"


def _python(text: str) -> str:
    return json.dumps(_line(text), ensure_ascii=False)


def _last_name(name: str) -> str:
    """A name without the folders before it, on either kind of system."""
    return PureWindowsPath(PurePosixPath(name).name).name


def _example(what: str) -> str:
    return "openrail++" if what == "license" else "stable-diffusion-v1-5/stable-diffusion-v1-5" if what == "base model" else "USER/NAME"


# ---------------------------------------------------------------- a folder to upload


def folder_of(lora: Path) -> Path:
    """Where `write` puts a LoRA's card where nothing else is said: beside the file."""
    return lora.with_name(f"{file_name(lora.stem)}-hub")


def run_of(lora: Path) -> RunFolder | None:
    """The run whose weights folder the file is in."""
    run = RunFolder(lora.absolute().parent.parent)
    return run if lora.absolute().parent == run.weights and run.run_yaml.is_file() else None


def last_samples(run: RunFolder) -> list[Path]:
    """The previews that were painted last, in the order of the prompts."""
    sampled = [event.files for event in events.read(run.events) if isinstance(event, events.Sampled)]
    inside = run.path.resolve()
    paths = [(run.path / name).resolve() for name in (sampled[-1] if sampled else [])]
    return [path for path in paths if path.is_relative_to(inside) and path.is_file()][:MOST_PICTURES]


def write(
    lora: Path,
    folder: Path | None = None,
    run: RunFolder | None = None,
    repo: str = "",
    pictures: Sequence[Path] | None = None,
    base_model: str = "",
    license: str = "",
    overwrite: bool = False,
) -> Path:
    """Put the LoRA, README.md and pictures into a folder that is ready to upload, beside the LoRA if none is given; the folder.

    `run` and `pictures` are found by themselves where the LoRA lies in its run. The copy's weights are the same to the bit; of what
    it says about itself, only the allowlist is kept. Raises UserError where a card is there already (unless `overwrite`), for what
    is no LoRA and for pictures that cannot be read.
    """
    folder = folder or folder_of(lora)
    run = run or run_of(lora)
    if (folder / README).exists() and not overwrite:
        raise UserError(f"{folder / README} exists already: look it over, or write it anew with --overwrite.")
    _about(lora)
    shown = list(pictures) if pictures is not None else last_samples(run) if run else []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in (folder / PICTURES).glob("sample-*.png"):
            old.unlink()
        copy = folder / f"{file_name(lora.stem)}.safetensors"
        publishable(lora, copy)
        for picture, name in zip(shown, picture_names(shown), strict=True):
            _copy_picture(picture, folder / name)
        write_atomic(folder / README, card(copy, run, repo, shown, base_model, license))
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror}): choose another folder.") from None
    return folder


def publishable(lora: Path, target: Path) -> None:
    """The same weights, with the part of the metadata that everybody may read. Raises UserError for a damaged file, OSError."""
    entries = weights.header(lora)
    said = library.metadata(lora)
    allowed = {key: value for key, value in said.items() if key in KEPT or key.startswith(OURS)}
    kept = {key: _last_name(value) if key in NAMES else value for key, value in allowed.items()}
    with replacing(target) as temporary:
        if kept == said:
            shutil.copyfile(lora, temporary)
            return
        header = {**({"__metadata__": kept} if kept else {}), **{name: entry for name, entry in entries.items() if name != "__metadata__"}}
        with open(lora, "rb") as source, open(temporary, "wb") as copy:
            source.seek(8 + int.from_bytes(source.read(8), "little"))
            text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
            text += b" " * (-len(text) % 8)
            copy.write(len(text).to_bytes(8, "little") + text)
            shutil.copyfileobj(source, copy, 2**20)


def _copy_picture(picture: Path, target: Path) -> None:
    """Its pixels only: what a camera or a program wrote into it stays behind."""
    try:
        with Image.open(picture) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        raise UserError(f"{picture} is no picture that can be read: leave it out.") from None
    bare = Image.new("RGB", upright.size)
    bare.paste(upright)
    with replacing(target) as temporary:
        bare.save(temporary, format="PNG")


def contents(folder: Path) -> list[Path]:
    """The files of a folder that `write` made: the LoRA, README.md and its pictures; nothing else that lies there, and no links.

    Raises UserError for another folder.
    """
    loras = [path for path in sorted(folder.glob("*.safetensors")) if path.is_file() and not path.is_symlink()]
    readme = folder / README
    if not readme.is_file() or readme.is_symlink() or not loras:
        raise UserError(f"{folder} is not ready to publish, it needs a LoRA and a README.md: write the card first.")
    if len(loras) > 1:
        raise UserError(f"{folder} holds several LoRAs ({loras[0].name}, {loras[1].name}): leave the one that its card is about.")
    pictures = [path for path in sorted((folder / PICTURES).glob("*")) if path.suffix.lower() in ENDINGS]
    return [*loras, readme, *(path for path in pictures if path.is_file() and not path.is_symlink())]


def is_current(folder: Path, lora: Path) -> bool:
    """Whether a folder that `write` made holds this LoRA as it is now. Raises UserError as `contents` does."""
    copy = contents(folder)[0]
    return _weights_hash(copy) == _weights_hash(lora)


def _weights_hash(file: Path) -> str:
    with open(file, "rb") as stream:
        stream.seek(8 + int.from_bytes(stream.read(8), "little"))
        return hashlib.file_digest(stream, "sha256").hexdigest()
