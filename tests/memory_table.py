"""How much memory a training step takes with each setting that saves some: python -m tests.memory_table

Stable Diffusion 1.5 at its full size, 512 x 512 pixels, batch 1, in bfloat16; each setting in a process of its own, through the
training's own code. On a card a real step is made with random weights, and the highest point is what torch has allocated there. Without
one the same step is made with tensors that have shapes but no numbers (torch's FakeTensorMode), and the bytes of all that are alive at
once are counted: what a card would hold, but for the work space of its kernels. `--real` makes the counted step with numbers, too.
Prints the table; `--into FILE` puts it between the marks in that file. Real steps need 2.1 GB on the disk, and memory for the model.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
CHECKPOINTED = {"training.gradient_checkpointing": True}
WHOLE = {"method": "dreambooth", "optimizer.max_grad_norm": 0.0}
FUSED = {"memory.fused_backward": True}
ROWS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "LoRA, gradient checkpointing": CHECKPOINTED,
    "LoRA, fp8": {"memory.base_precision": "fp8"},
    "LoRA, int8": {"memory.base_precision": "int8"},
    "LoRA, nf4": {"memory.base_precision": "nf4"},
    "LoRA, nf4, gradient checkpointing": {"memory.base_precision": "nf4", **CHECKPOINTED},
    "Whole model, AdamW": WHOLE,
    "Whole model, AdamW, gradient checkpointing": {**WHOLE, **CHECKPOINTED},
    "Whole model, AdamW, fused backward pass": {**WHOLE, **FUSED},
    "Whole model, AdamW, gradient checkpointing, fused backward pass": {**WHOLE, **CHECKPOINTED, **FUSED},
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS), metavar="NAME", help="only these")
    options.add_argument("--into", type=Path, help="a file with the marks")
    options.add_argument("--one", choices=list(ROWS), help=argparse.SUPPRESS)
    options.add_argument("--root", type=Path, help="where the model and what is encoded stay, for a next time (else nowhere)")
    options.add_argument("--real", action="store_true", help="make the counted step with numbers, too")
    given = options.parse_args()
    if given.one:
        print(json.dumps(measure(given.root, ROWS[given.one], given.real)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = given.root or Path(temporary)
        prepare(root)
        found = {}
        for name in given.rows:
            command = [sys.executable, "-m", "tests.memory_table", "--one", name, "--root", str(root), *(["--real"] if given.real else [])]
            ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            found[name] = json.loads(ended.stdout.splitlines()[-1])
            print(name, found[name], file=sys.stderr, flush=True)
    text = table(found)
    print(text)
    if given.into:
        before, _, rest = given.into.read_text(encoding="utf-8").partition(BEGIN)
        given.into.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def table(found: dict[str, dict[str, Any]]) -> str:
    how = "measured" if any(row["on_card"] for row in found.values()) else "counted"
    lines = [f"| Setting | {how} | estimated | estimated ÷ {how} |", "|---|---:|---:|---:|"]
    for name, row in found.items():
        measured, estimated = row["peak"] / 2**30, row["estimate"] / 2**30
        lines.append(f"| {name} | {measured:.2f} GiB | {estimated:.2f} GiB | {estimated / measured:.2f} |")
    return "\n".join(lines) + "\n"


def prepare(root: Path) -> None:
    """A workspace with the model and one picture."""
    from PIL import Image

    from nosnja_gui.workspace import Workspace
    from tests.full_size_loading import shapes_of, write_checkpoint

    workspace = Workspace(root / "workspace").create()
    if not (file := workspace.models / "sd15.safetensors").exists():
        write_checkpoint(file, shapes_of("sd1"), "F16")
    folder = workspace.datasets / "pictures"
    folder.mkdir(exist_ok=True)
    Image.linear_gradient("L").resize((512, 512)).convert("RGB").save(folder / "one.png")
    (folder / "one.txt").write_text("a grey wall", encoding="utf-8")


def measure(root: Path, changes: dict[str, Any], real: bool) -> dict[str, Any]:
    """Bytes at the highest point of a step, and what the estimate says of it (without CUDA's own)."""
    import torch
    from accelerate import Accelerator

    from nosnja_gui.engine.material import prepare as gather
    from nosnja_gui.engine.train import begin, idle_modules
    from nosnja_gui.engine.voice import Voice
    from nosnja_gui.estimate import CUDA_CONTEXT, memory
    from nosnja_gui.jobs import TrainJob
    from nosnja_gui.models import demand_of, find_model
    from nosnja_gui.plan import plan_training
    from nosnja_gui.workspace import Workspace

    workspace = Workspace(root / "workspace")
    usual = {"model.path": "sd15.safetensors", "dataset.path": "pictures", "model.precision": "bfloat16", "training.batch_size": 1}
    job = TrainJob().changed(**{**usual, **changes})
    on_card = torch.cuda.is_available()
    plan = plan_training(job, workspace)
    assert not plan.problems, plan.problems
    estimated = memory(job, plan, demand_of(find_model(job.model.path, workspace.models)), on_gpu=True)["training"] - CUDA_CONTEXT
    material = gather(job, workspace, 1)
    with contextlib.nullcontext() if on_card or real else without_numbers():
        training = begin(job, material, Accelerator(cpu=not on_card), Voice(None, None))
        device, dtype = training.parts.device, training.parts.dtype
        for module in idle_modules(training):  # as `train` lets go of them
            module.to("meta")
        # A step on a tiny picture first: it makes the optimiser's state, which is there in every other step.
        step(training, torch.zeros(1, 4, 8, 8, device=device), torch.zeros(1, 77, 768, device=device, dtype=dtype))
        began = time.monotonic()
        noisy, text = torch.zeros(1, 4, 64, 64, device=device), torch.zeros(1, 77, 768, device=device, dtype=dtype)
        if on_card:
            torch.cuda.reset_peak_memory_stats()
            step(training, noisy, text)
            peak = torch.cuda.max_memory_allocated()
        else:
            with alive(training) as counted:
                step(training, noisy, text)
            peak = counted.peak
    return {"peak": peak, "estimate": estimated, "on_card": on_card, "seconds": round(time.monotonic() - began, 1)}


@contextlib.contextmanager
def without_numbers() -> Iterator[None]:
    """Tensors made inside have shapes only, those of weight files, too."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from nosnja_gui import weights

    def shaped(reader: Any, name: str, *rows: int) -> Any:
        entry = reader._entries[name]
        return torch.empty(entry["shape"], dtype=getattr(torch, weights.TORCH_NAMES[entry["dtype"]]))

    def moved(module: Any, change: Any, recurse: bool = True) -> Any:
        """torch's own exchanges a tensor's inside, which these haven't got."""
        for child in module.children():
            moved(child, change)
        with torch.no_grad():
            for name, parameter in module._parameters.items():
                if parameter is not None and (new := change(parameter)) is not parameter:
                    module._parameters[name] = torch.nn.Parameter(new, parameter.requires_grad)
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else change(buffer)
        return module

    with (
        patch.object(weights.Reader, "_read", shaped),
        patch.object(torch.nn.Module, "_apply", moved),
        patch("nosnja_gui.engine.train.objective"),  # tables of a few thousand numbers, made from their values
        FakeTensorMode(allow_non_fake_inputs=True),
    ):
        yield


def step(training: Any, noisy: Any, text: Any) -> None:
    """One step of the training, as `train` makes it, on latents (1, 4, height, width) and an encoded caption (1, 77, 768)."""
    import torch

    from nosnja_gui.engine.train import update
    from nosnja_gui.families import TextEncoding

    timesteps = torch.full((1,), 500, device=noisy.device)
    predicted = training.family.predict(training.parts, noisy, timesteps, TextEncoding(text))
    (predicted.float() - noisy).square().mean().backward()
    update(training)


def alive(training: Any) -> Any:
    """A context that counts the bytes of all tensors alive inside, those of the model and the optimiser included."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Alive(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.now = self.peak = 0
            self.known: set[int] = set()

        def add(self, values: Any) -> None:
            for tensor in tree_leaves(values):
                if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                    storage = tensor.untyped_storage()
                    key, size = storage._cdata, storage.nbytes()
                    if key not in self.known:
                        self.known.add(key)
                        self.now += size
                        self.peak = max(self.peak, self.now)
                        weakref.finalize(storage, self.gone, key, size)

        def gone(self, key: int, size: int) -> None:
            self.known.discard(key)
            self.now -= size

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            self.add(made)
            return made

    counted = Alive()
    counted.add([[*module.parameters(), *module.buffers()] for module in (training.parts.denoiser, *training.parts.text_encoders)])
    counted.add([list(values.values()) for one in _optimizers(training.optimizer) for values in one.state.values()])
    counted.add(training.parameters)
    return counted


def _optimizers(optimizer: Any) -> list[Any]:
    alone = getattr(optimizer, "alone", None)
    return [optimizer] if alone is None else [one for group in alone for one in group]


if __name__ == "__main__":
    main()
