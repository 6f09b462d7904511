"""How much memory a training step takes with each setting that saves some: python -m tests.memory_table

Stable Diffusion 1.5 at its full size with random weights, 512 x 512 pixels, batch 1, in bfloat16; each setting in a process of its own,
through the training's own code. On a card the highest point is what torch has allocated there. On a processor it is the bytes of all
tensors that are alive at once, each of them counted, without the autoencoder and the text encoder, which a card would have let go of:
what a card would hold, but for the work space of its kernels. Prints the table; `--into FILE` puts it between the marks in that file.
Needs 2.1 GB on the disk and up to 10 GiB of memory; on one core each row takes some minutes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
CHECKPOINTED = {"training.gradient_checkpointing": True}
WHOLE = {"method": "dreambooth", "optimizer.max_grad_norm": 0.0, "optimizer.name": "adamw8bit"}
ATTENTION = {**WHOLE, "optimizer.name": "adamw", "dreambooth.trains": "attention"}
ROWS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "LoRA, gradient checkpointing": CHECKPOINTED,
    "LoRA, fp8": {"memory.base_precision": "fp8"},
    "LoRA, int8": {"memory.base_precision": "int8"},
    "LoRA, nf4": {"memory.base_precision": "nf4"},
    "LoRA, nf4, gradient checkpointing": {"memory.base_precision": "nf4", **CHECKPOINTED},
    "Whole model, AdamW8bit, gradient checkpointing": {**WHOLE, **CHECKPOINTED},
    "Whole model, AdamW8bit, gradient checkpointing, fused backward pass": {**WHOLE, **CHECKPOINTED, "memory.fused_backward": True},
    "Attention of the model, AdamW, gradient checkpointing": {**ATTENTION, **CHECKPOINTED},
    "Attention of the model, AdamW, gradient checkpointing, fused backward pass": {
        **ATTENTION, **CHECKPOINTED, "memory.fused_backward": True,
    },
}  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS), metavar="NAME", help="only these")
    options.add_argument("--into", type=Path, help="a file with the marks")
    options.add_argument("--one", choices=list(ROWS), help=argparse.SUPPRESS)
    options.add_argument("--root", type=Path, help="where the model and what is encoded stay, for a next time (else nowhere)")
    given = options.parse_args()
    if given.one:
        print(json.dumps(measure(given.root, ROWS[given.one])))
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = given.root or Path(temporary)
        prepare(root)
        found = {}
        for name in given.rows:
            command = [sys.executable, "-m", "tests.memory_table", "--one", name, "--root", str(root)]
            ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            found[name] = json.loads(ended.stdout.splitlines()[-1])
            print(name, found[name], file=sys.stderr, flush=True)
    text = table(found)
    print(text)
    if given.into:
        before, _, rest = given.into.read_text(encoding="utf-8").partition(BEGIN)
        given.into.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def table(found: dict[str, dict[str, Any]]) -> str:
    lines = ["| Setting | measured | estimated | estimated ÷ measured |", "|---|---:|---:|---:|"]
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


def measure(root: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Bytes at the highest point of a step, and what the estimate says of it (without CUDA's own)."""
    import torch
    from accelerate import Accelerator

    from nosnja_gui.engine.cache import Cache
    from nosnja_gui.engine.material import prepare as gather
    from nosnja_gui.engine.train import batch_loss, begin, encode, idle_modules, update
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

    training = begin(job, gather(job, workspace, 1), Accelerator(cpu=not on_card), Voice(None, None))
    encode(training, Cache(workspace.cache), Voice(None, None), lambda: None)
    if not on_card:
        for module in idle_modules(training):
            module.to("meta")
    # A step on a tiny picture first: it makes the optimiser's state, which is there in every other step.
    noisy = torch.zeros(1, 4, 8, 8, device=training.parts.device)
    text = training.text_of(["a grey wall"])
    training.family.predict(training.parts, noisy, torch.tensor([500], device=noisy.device), text).square().mean().backward()
    update(training)
    batch = training.material.plan.epoch(0)[0][0]
    began = time.monotonic()
    if on_card:
        torch.cuda.reset_peak_memory_stats()
        batch_loss(training, batch).backward()
        update(training)
        peak = torch.cuda.max_memory_allocated()
    else:
        with alive(training) as counted:
            batch_loss(training, batch).backward()
            update(training)
        peak = counted.peak
    return {"peak": peak, "estimate": estimated, "seconds": round(time.monotonic() - began, 1)}


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
    modules = [training.parts.denoiser, *training.parts.text_encoders]
    state = [optimizer.state for optimizer in _optimizers(training.optimizer)]
    counted.add([list(module.parameters()) + list(module.buffers()) for module in modules])
    counted.add([list(values.values()) for one in state for values in one.values()])
    counted.add([training.parameters, list(vars(training.latents).values())])
    return counted


def _optimizers(optimizer: Any) -> list[Any]:
    alone = getattr(optimizer, "alone", None)
    return [optimizer] if alone is None else [one for group in alone for one in group]


if __name__ == "__main__":
    main()
