"""The builder's one training loop: fixed seeds, cosine schedule, averaged weights, resumable at any kill."""

import json
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from nosnja_gui.files import replacing

SAVE_EVERY_SECONDS = 120


@dataclass(frozen=True)
class Plan:
    """How long and how fast a stage trains."""

    steps: int
    learning_rate: float
    seed: int
    warmup_steps: int = 100
    final_share: float = 0.02
    """Learning rate at the end, as a share of the peak."""
    average: float = 0.998
    """Decay of the exponential moving average that is kept as the result."""
    optimizer: str = "muon"
    """`muon` for the matrices (Jordan et al. 2024) and AdamW for the rest, or `adamw` for all."""
    adamw_learning_rate: float = 1e-3
    """Rate of the parameters that muon leaves to AdamW."""


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal by a Newton-Schulz iteration (Jordan et al. 2024), for weights of two and more dimensions.

    Convolutions count as matrices of (out, in * height * width). Updates are scaled to the size that AdamW's
    would have (0.2 * sqrt(larger side), Liu et al. 2025), so the usual learning rates fit.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                nesterov = weight.grad.lerp(momentum, group["momentum"])
                matrix = nesterov.reshape(len(weight), -1)
                update = orthogonal(matrix).reshape(weight.shape)
                weight.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(matrix.shape)))


def orthogonal(matrix: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """Nearest (semi-)orthogonal matrix, roughly: five rounds of the quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(rounds):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def train(
    name: str,
    modules: dict[str, nn.Module],
    plan: Plan,
    loss_of: Callable[[int, torch.Generator], dict[str, torch.Tensor]],
    state_folder: Path,
    measure: Callable[[dict[str, nn.Module]], dict[str, float]] | None = None,
    measure_every: int = 500,
) -> None:
    """Train `modules` in place and leave the averaged weights in them.

    `loss_of(step, generator)` returns named losses, of which "loss" is minimised; the generator is seeded from
    (seed, step, process), so a killed stage goes on where its last state was saved, with the same data. Several
    processes (torchrun) average their gradients; only the first one writes.
    """
    rank, processes = join_processes()
    state_folder.mkdir(parents=True, exist_ok=True)
    state_file, log_file = state_folder / f"{name}.state.pt", state_folder / f"{name}.jsonl"
    network = nn.ModuleDict(modules)
    parameters = [(key, p) for key, p in network.named_parameters() if p.requires_grad]
    optimizers = _optimizers(parameters, plan)
    average = {key: p.detach().clone() for key, p in parameters}
    first = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True, map_location="cpu")
        network.load_state_dict(state["network"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        average = {key: value.to(p.device) for (key, p), value in zip(parameters, state["average"].values(), strict=True)}
        first = state["step"]
    sums: dict[str, float] = {}
    count = 0
    saved_at = noted_at = time.monotonic()
    for step in range(first, plan.steps):
        rate = _rate(step, plan)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["peak"]
        generator = torch.Generator().manual_seed((plan.seed * 64 + rank) * 1_000_003 + step)
        losses = loss_of(step, generator)
        losses["loss"].backward()
        if processes > 1:
            average_gradients([p for _, p in parameters], processes)
        nn.utils.clip_grad_norm_([p for _, p in parameters], 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay = min(plan.average, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), [p.detach() for _, p in parameters], 1 - decay)
        for key, value in losses.items():
            sums[key] = sums.get(key, 0.0) + float(value.detach())
        count += 1
        done = step + 1
        if rank:
            continue
        if done % 50 == 0 or done == plan.steps:
            now = time.monotonic()
            note = {"step": done, "of": plan.steps, "ms": round((now - noted_at) / count * 1e3)}
            note |= {name: round(total / count, 5) for name, total in sums.items()}
            sums, noted_at, count = {}, now, 0
            if measure and (done % measure_every == 0 or done == plan.steps):
                note |= measured(network, parameters, average, modules, measure)
                noted_at = time.monotonic()
            with open(log_file, "a") as log:
                log.write(json.dumps(note) + "\n")
        if time.monotonic() - saved_at > SAVE_EVERY_SECONDS or done == plan.steps:
            states = [optimizer.state_dict() for optimizer in optimizers]
            with replacing(state_file) as temporary:
                torch.save({"step": done, "network": network.state_dict(), "optimizers": states, "average": average}, temporary)
            saved_at = time.monotonic()
    with torch.no_grad():
        for key, parameter in parameters:
            parameter.copy_(average[key])
    if processes > 1:
        torch.distributed.barrier()


def join_processes() -> tuple[int, int]:
    """(number of this process, number of processes), 0 and 1 where torchrun did not start several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def average_gradients(parameters: list[nn.Parameter], processes: int) -> None:
    """One exchange of one vector."""
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    torch.distributed.all_reduce(flat)
    for parameter, gradient in zip(parameters, (flat / processes).split([p.numel() for p in parameters]), strict=True):
        parameter.grad = gradient.view_as(parameter)


def measured(
    network: nn.ModuleDict,
    parameters: list[tuple[str, nn.Parameter]],
    average: dict[str, torch.Tensor],
    modules: dict[str, nn.Module],
    measure: Callable[[dict[str, nn.Module]], dict[str, float]],
) -> dict[str, float]:
    """What `measure` says of the averaged weights; the raw ones are put back afterwards."""
    raw = {key: p.detach().clone() for key, p in parameters}
    with torch.no_grad():
        for key, parameter in parameters:
            parameter.copy_(average[key])
        network.eval()
        result = {key: round(value, 4) for key, value in measure(modules).items()}
        network.train()
        for key, parameter in parameters:
            parameter.copy_(raw[key])
    return result


def _rate(step: int, plan: Plan) -> float:
    if step < plan.warmup_steps:
        return (step + 1) / plan.warmup_steps
    share = (step - plan.warmup_steps) / max(1, plan.steps - plan.warmup_steps)
    return plan.final_share + (1 - plan.final_share) * 0.5 * (1 + math.cos(math.pi * share))


def _optimizers(parameters: list[tuple[str, nn.Parameter]], plan: Plan) -> list[torch.optim.Optimizer]:
    # Embeddings, inputs, outputs and vectors are not maps between hidden states: muon's assumption doesn't hold there.
    def is_matrix(key: str, parameter: nn.Parameter) -> bool:
        edge = any(part in key for part in ("embed", "conv_in", "conv_out", "head", "class_", "position"))
        return plan.optimizer == "muon" and parameter.ndim >= 2 and not edge

    matrices = [p for key, p in parameters if is_matrix(key, p)]
    others = [p for key, p in parameters if not is_matrix(key, p)]
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        optimizers.append(Muon(matrices, lr=plan.learning_rate))
    other_rate = plan.adamw_learning_rate if plan.optimizer == "muon" else plan.learning_rate
    if others:
        optimizers.append(torch.optim.AdamW(others, lr=other_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def device() -> torch.device:
    """The GPU where there is one. On a CPU one thread a stage: two stages side by side beat two threads in one."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return torch.device("cpu")
