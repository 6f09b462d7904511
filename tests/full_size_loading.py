"""How long a full-size checkpoint takes to load, and how much memory: python -m tests.full_size_loading

Writes Stable Diffusion 1.5 with random weights (2.1 GB in float16, 4.3 GB in float32, 2.7 GB as a diffusers folder would be) into a
temporary folder, loads each in fresh processes with a warm disk cache, and takes the folder away again. `--sdxl` does the same with
Stable Diffusion XL: 6.9 GB on the disk, and 14 GB of free memory. Memory is measured on Linux only.
"""

import argparse
import gzip
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
FACTS = Path(__file__).parent / "facts"
NUMPY = {"F16": "float16", "F32": "float32"}
POSITIONS = "position_ids"


def shapes_of(layout: str) -> dict[str, tuple[int, ...]]:
    """Key -> shape of every weight of a real checkpoint: sd1, sd2 or sdxl."""
    with gzip.open(FACTS / f"{layout}_keys.txt.gz", "rt", encoding="utf-8") as lines:
        rows = [line.rstrip("\n").split("\t") for line in lines if not line.startswith("#")]
    return {key: tuple(map(int, shape.split(","))) if shape else () for key, shape in rows}


def write_checkpoint(file: Path, shapes: Mapping[str, tuple[int, ...]], number_format: str) -> Path:
    """A file with random weights in F16 or F32, written tensor by tensor."""
    import numpy

    from nosnja_gui import weights

    entries = {key: ("I64" if POSITIONS in key else number_format, shape) for key, shape in shapes.items()}
    random = numpy.random.default_rng(0)

    def produce(key: str) -> numpy.ndarray:
        shape = shapes[key]
        if POSITIONS in key:
            return numpy.arange(math.prod(shape), dtype=numpy.int64).reshape(shape)
        return (random.standard_normal(shape, numpy.float32) * 0.02).astype(NUMPY[number_format])

    weights.write_stream(file, entries, produce, {"format": "pt"})
    return file


def write_folder(file: Path, folder: Path) -> Path:
    """The same model as a diffusers folder."""
    from nosnja_gui import weights
    from nosnja_gui.models import identify
    from nosnja_gui.tokens import VOCABULARY

    _, source = identify(file)
    index: dict[str, object] = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "EulerDiscreteScheduler"]}
    for part in source.parts():
        tensors = source.tensors(part)

        def produce(name: str, tensors: Iterator = tensors):
            found, tensor = next(tensors)
            assert found == name
            return tensor.contiguous().numpy()

        text = part.startswith("text_encoder")
        stem = "model" if text else "diffusion_pytorch_model"
        weights.write_stream(folder / part / f"{stem}.safetensors", source.weights(part), produce, {"format": "pt"})
        (folder / part / "config.json").write_text(json.dumps(source.config(part)), encoding="utf-8")
        index[part] = ["transformers", "CLIPTextModel"] if text else ["diffusers", "UNet2DConditionModel"]
        if text:
            shutil.copytree(VOCABULARY, folder / part.replace("text_encoder", "tokenizer"))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(source.config("scheduler")), encoding="utf-8")
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


# In processes of their own


def load(model: Path, precision: str, threads: int) -> dict[str, float]:
    """Load in this process: {seconds, cpu, baseline, peak, settled}, the latter three in bytes; imports come before and don't count."""
    import torch
    from accelerate import init_empty_weights  # noqa: F401
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: F401
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel  # noqa: F401
    from transformers.models.clip import modeling_clip, tokenization_clip  # noqa: F401

    from nosnja_gui.engine.models import load_model

    if threads:
        torch.set_num_threads(threads)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    baseline = memory("VmRSS")
    began, worked = time.perf_counter(), time.process_time()
    parts = load_model(model, torch.device("cpu"), getattr(torch, precision))[1]
    seconds, cpu = time.perf_counter() - began, time.process_time() - worked
    assert next(parts.denoiser.parameters()).dtype == getattr(torch, precision)
    return {"seconds": seconds, "cpu": cpu, "baseline": baseline, "peak": memory("VmHWM"), "settled": memory("VmRSS")}


def memory(name: str) -> int:
    """Of this process, in bytes: VmRSS now, VmHWM at its highest."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def look(workspace: Path) -> dict[str, object]:
    """List the models of a workspace as the window does: {milliseconds, again, models, heavy}."""
    from nosnja_gui.models import list_models
    from nosnja_gui.workspace import Workspace

    times = []
    for _ in range(2):
        began = time.perf_counter()
        found = list_models(Workspace(workspace))
        times.append(1000 * (time.perf_counter() - began))
    heavy = sorted({"torch", "diffusers", "transformers", "safetensors"} & set(sys.modules))
    return {"milliseconds": times[0], "again": times[1], "models": [entry.title for entry in found if not entry.problem], "heavy": heavy}


def in_fresh_process(*words: str) -> dict:
    """What `load` or `look` said there."""
    answer = subprocess.run([sys.executable, "-m", "tests.full_size_loading", *words], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


# The table


def size_of(model: Path) -> int:
    return model.stat().st_size if model.is_file() else sum(file.stat().st_size for file in model.rglob("*.safetensors"))


def warm(model: Path) -> None:
    for file in [model] if model.is_file() else model.rglob("*.safetensors"):
        with open(file, "rb") as stream:
            while stream.read(1 << 24):
                pass


def measure(title: str, model: Path, precision: str, times: int) -> None:
    size = size_of(model)
    warm(model)
    found = [in_fresh_process("--load", str(model), "--precision", precision) for _ in range(times)]
    seconds = [one["seconds"] for one in found]
    peak = max(one["peak"] - one["baseline"] for one in found)
    settled = max(one["settled"] - one["baseline"] for one in found)
    cpu = statistics.median(one["cpu"] for one in found)
    print(
        f"{title:26} {size / 1e9:5.2f} GB  as {precision:9} {statistics.median(seconds):5.1f} s ({min(seconds):.1f} to {max(seconds):.1f}; "
        f"{cpu:.1f} s of work)   peak {peak / 1e9:5.2f} GB, {(peak - size) / 1e9:+.2f} GB against the file; then {settled / 1e9:.2f} GB",
        flush=True,
    )


def main() -> None:
    words = argparse.ArgumentParser(prog="python -m tests.full_size_loading", description=__doc__.splitlines()[0])
    words.add_argument("--sdxl", action="store_true", help="Stable Diffusion XL instead of 1.5")
    words.add_argument("--times", type=int, default=3)
    words.add_argument("--folder", type=Path, help="where to make the temporary folder")
    words.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    words.add_argument("--precision", default="float32", help=argparse.SUPPRESS)
    words.add_argument("--threads", type=int, default=0, help=argparse.SUPPRESS)
    words.add_argument("--look", type=Path, help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.load or given.look:
        print(json.dumps(load(given.load, given.precision, given.threads) if given.load else look(given.look)))
        return
    with tempfile.TemporaryDirectory(prefix="full-size-", dir=given.folder) as temporary:
        models = Path(temporary) / "models"
        layout, title, formats = ("sdxl", "SDXL", ("F16",)) if given.sdxl else ("sd1", "SD 1.5", ("F16", "F32"))
        for number_format in formats:
            write_checkpoint(models / f"{number_format}.safetensors", shapes_of(layout), number_format)
        listed = in_fresh_process("--look", temporary)
        print(
            f"Listing {', '.join(listed['models'])}: {listed['milliseconds']:.0f} ms, then {listed['again']:.1f} ms; "
            f"loaded for it: {', '.join(listed['heavy']) or 'neither torch nor safetensors'}",
            flush=True,
        )
        for number_format in formats:
            file = models / f"{number_format}.safetensors"
            for precision in ("bfloat16",) if given.sdxl else ("float32", "bfloat16"):
                measure(f"{title} file, {NUMPY[number_format]}", file, precision, given.times)
            if not given.sdxl:
                folder = write_folder(file, models / "folder")
                for precision in ("float32", "bfloat16"):
                    measure(f"{title} folder, {NUMPY[number_format]}", folder, precision, given.times)
                shutil.rmtree(folder)
            file.unlink()


if __name__ == "__main__":
    main()
