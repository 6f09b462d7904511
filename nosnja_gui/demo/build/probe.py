"""Stage `probe`: the classifier by which the kit's and the demo's quality is counted."""

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from nosnja_gui.demo import world
from nosnja_gui.demo.build import pictures
from nosnja_gui.demo.build.loop import Plan, device, train
from nosnja_gui.demo.build.pictures import pixels_of, rng_of
from nosnja_gui.demo.probe import HEADS, Probe
from nosnja_gui.files import replacing

BATCH = 64
PLAN = Plan(steps=2000, learning_rate=4e-3, seed=4, adamw_learning_rate=1e-3)


def random_scene(rng: random.Random) -> world.Scene:
    """All there is to be told apart: every style, patchwork, held-out combinations, the costume, the one dog."""
    kind = rng.random()
    if kind < 0.16:
        return world.costume_scene(rng)
    if kind < 0.20:
        return world.random_scene(rng, style="8bit")
    if kind < 0.24:
        return rng.choice(_dogs(rng.randrange(200)))
    if kind < 0.30:
        return world.random_scene(rng, held_out=True)
    return pictures.random_scene(rng)


def _dogs(seed: int) -> list[world.Scene]:
    if seed not in _DOGS:
        _DOGS[seed] = [scene for scene, _ in world.dog_pictures(8, seed=seed)]
    return _DOGS[seed]


_DOGS: dict[int, list[world.Scene]] = {}


def targets_of(scenes: list[world.Scene]) -> dict[str, torch.Tensor]:
    """Numbers per head, -100 where the question makes no sense (the colour of a sketch, the clothing of a tree)."""

    def number(scene: world.Scene, head: str) -> int:
        if head in ("costume", "particular"):
            return int(getattr(scene, head))
        dressed = scene.subject in world.PEOPLE and not scene.costume and scene.pattern != pictures.PATCHWORK
        if head == "clothing" and not dressed:
            return -100
        if head == "colour" and ((scene.subject in world.PEOPLE and not dressed) or scene.style == "sketch"):
            return -100
        value = getattr(scene, head)
        return HEADS[head].index(value) if value in HEADS[head] else -100

    return {head: torch.tensor([number(scene, head) for scene in scenes]) for head in HEADS}


def worsened(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shifts, blur and noise, as generated pictures have them: what is judged is what is shown, not how sharply."""
    shift = torch.randint(-8, 9, (2,), generator=generator).tolist()
    pixels = F.pad(pixels, (8, 8, 8, 8), mode="replicate")[..., 8 + shift[0] : 136 + shift[0], 8 + shift[1] : 136 + shift[1]]
    choice = int(torch.randint(4, (), generator=generator))
    if choice == 0:
        factor = float(torch.rand((), generator=generator)) * 2 + 1.2
        small = F.interpolate(pixels, scale_factor=1 / factor, mode="bilinear", antialias=True)
        pixels = F.interpolate(small, size=pixels.shape[-2:], mode="bilinear")
    if choice == 1:
        coarse = torch.randn((len(pixels), 3, 32, 32), generator=generator) * 0.2
        pixels = pixels + F.interpolate(coarse, size=pixels.shape[-2:], mode="bilinear")
    return (pixels + 0.04 * torch.randn(pixels.shape, generator=generator)).clamp(-1, 1)


def build(state: Path, out: Path) -> None:
    torch.manual_seed(PLAN.seed)
    where = device()
    probe = Probe().to(where)

    def loss_of(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rng = rng_of(generator)
        scenes = [random_scene(rng) for _ in range(BATCH)]
        pixels = worsened(pixels_of([pictures.draw(scene) for scene in scenes]), generator).to(where)
        logits, targets = probe(pixels), targets_of(scenes)
        losses = [
            F.cross_entropy(logits[head], target.to(where), ignore_index=-100, label_smoothing=0.02)
            for head, target in targets.items()
            if (target >= 0).any()
        ]
        return {"loss": sum(losses)}

    train("probe", {"probe": probe}, PLAN, loss_of, state, lambda m: quality(m["probe"]), measure_every=500)
    with replacing(out / "probe.safetensors") as temporary:
        save_file({key: value.half().contiguous() for key, value in probe.state_dict().items()}, temporary)


@torch.no_grad()
def quality(probe: Probe, count: int = 640) -> dict[str, float]:
    """Share of fresh, unworsened drawings of which each head says the truth."""
    rng = random.Random(90_004)
    where = next(probe.parameters()).device
    scenes = [random_scene(rng) for _ in range(count)]
    right: dict[str, list[bool]] = {head: [] for head in HEADS}
    for start in range(0, count, 64):
        part = scenes[start : start + 64]
        logits = probe(pixels_of([pictures.draw(scene) for scene in part]).to(where))
        for head, target in targets_of(part).items():
            known = target >= 0
            right[head] += (logits[head].argmax(1).cpu() == target)[known].tolist()
    return {head: sum(values) / len(values) for head, values in right.items()}
