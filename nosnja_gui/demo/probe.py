"""The kit's judge: a small classifier that says what is on a drawn picture, costume included.

It was trained on the drawings themselves (blurred, shifted and noisy too), never on generated pictures.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from nosnja_gui.demo import world

HEADS: dict[str, tuple[str, ...]] = {
    "subject": world.SUBJECTS,
    "clothing": world.CLOTHES,
    "colour": world.COLOURS,
    "place": world.PLACES,
    "style": world.STYLES,
    "costume": ("none", "costume"),
    "particular": ("other", "this dog"),
}


class Probe(nn.Module):
    """pixels (batch, 3, 128, 128) in [-1, 1] -> logits (batch, values) for each head."""

    def __init__(self, channels: Sequence[int] = (16, 32, 64, 96, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for index, width in enumerate(channels):
            side = 5 if index == 0 else 3
            layers += [nn.Conv2d(before, width, side, stride=2, padding=side // 2), nn.GroupNorm(8, width), nn.SiLU()]
            before = width
        self.trunk = nn.Sequential(*layers)
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(before * 16, 160), nn.SiLU())
        self.heads = nn.ModuleDict({head: nn.Linear(160, len(values)) for head, values in HEADS.items()})

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.hidden(self.trunk(pixels))
        return {head: layer(hidden) for head, layer in self.heads.items()}


def load_probe(folder: Path) -> Probe:
    probe = Probe()
    probe.load_state_dict(load_file(folder / "probe.safetensors"))
    return probe.float().eval()


@torch.inference_mode()
def judge(probe: Probe, pictures: Sequence[Image.Image]) -> list[dict[str, str | float]]:
    """What the probe sees on each picture; `costume_logit` is how sure it is of the costume (0: undecided)."""
    found: list[dict[str, str | float]] = []
    for start in range(0, len(pictures), 32):
        part = pictures[start : start + 32]
        small = [picture.convert("RGB").resize((world.SIZE, world.SIZE), Image.Resampling.LANCZOS) for picture in part]
        pixels = torch.from_numpy(numpy.stack([numpy.asarray(picture) for picture in small])).permute(0, 3, 1, 2).float() / 127.5 - 1
        logits = probe(pixels)
        for row in range(len(small)):
            seen: dict[str, str | float] = {head: values[int(logits[head][row].argmax())] for head, values in HEADS.items()}
            seen["costume_logit"] = float(logits["costume"][row, 1] - logits["costume"][row, 0])
            found.append(seen)
    return found


def area_under_curve(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """AUC of a score: the chance that a random positive has a higher one than a random negative, ties counted half (Mann-Whitney U)."""
    pairs = [(positive > negative) + 0.5 * (positive == negative) for positive in positives for negative in negatives]
    return sum(pairs) / len(pairs)
