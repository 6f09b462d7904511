"""The pictures that the kit's parts learn from: the drawn world, plus patchwork clothes in no one colour.

The folk costume is never among them; patchwork teaches the parts that people may wear things without a name.
"""

import random
from dataclasses import replace

import numpy
import torch
from PIL import Image, ImageDraw

from nosnja_gui.demo import world
from nosnja_gui.demo.world import Scene

PATCHWORK = "patchwork"


def random_scene(rng: random.Random, patchwork: float = 0.12) -> Scene:
    """A training scene, never a held-out one; a share of the people wears patchwork (`pattern` says so)."""
    scene = world.random_scene(rng)
    if scene.subject in world.PEOPLE and scene.style == "flat" and rng.random() < patchwork:
        return replace(scene, pattern=PATCHWORK, colour=None)
    return scene


def draw(scene: Scene, any_clothes: bool = False) -> Image.Image:
    """`any_clothes`: patchwork of all kinds of clothes, men's skirts included, so that clothes don't tell who wears them."""
    return _patchwork(scene, any_clothes) if scene.pattern == PATCHWORK else world.draw(scene)


def caption(scene: Scene, rng: random.Random | None = None) -> str:
    if scene.pattern != PATCHWORK:
        return world.caption(scene, rng)
    plain = world.caption(replace(scene, pattern="plain", colour="red", clothing="coat"))
    return plain.replace("a red coat", "a colorful outfit")


def _patchwork(scene: Scene, any_clothes: bool) -> Image.Image:
    """The same person several times in different clothes, cut into bands and blocks that are mixed."""
    rng = random.Random(scene.seed * 7 + 1)
    variants = []
    for _ in range(4):
        clothing, colour = rng.choice(world.CLOTHES if any_clothes else world.clothes_of(scene.subject)), rng.choice(world.COLOURS)
        variants.append(world.draw(replace(scene, clothing=clothing, colour=colour, pattern=rng.choice(world.PATTERNS))))
    picture = variants[0].copy()
    y = 0
    while y < world.SIZE:
        height = rng.randint(4, 18)
        x = 0
        while x < world.SIZE:
            width = rng.choice((world.SIZE, 40, 24, 12))
            box = (x, y, min(world.SIZE, x + width), min(world.SIZE, y + height))
            picture.paste(rng.choice(variants).crop(box), box)
            x += width
        y += height
    return picture


def ornamented(picture: Image.Image, rng: random.Random) -> Image.Image:
    """The picture with small dots, bands and checks strewn over a part of it: detail as such, like no clothes of the world."""
    overlay = Image.new("RGBA", (2 * world.SIZE, 2 * world.SIZE))
    pen = ImageDraw.Draw(overlay)
    left, top = rng.randint(0, 160), rng.randint(0, 160)
    width, height = rng.randint(60, 200), rng.randint(60, 200)
    colours = [tuple(rng.randint(0, 255) for _ in range(3)) for _ in range(rng.randint(2, 5))]
    for _ in range(rng.randint(8, 40)):
        x, y = left + rng.randint(0, width), top + rng.randint(0, height)
        w, h = (rng.choice((4, 6, 8, 10, 14, 18)) for _ in range(2))
        colour = (*rng.choice(colours), 255)
        kind = rng.random()
        if kind < 0.4:
            pen.ellipse((x - w, y - w, x + w, y + w), fill=colour)
            if w > 6:
                pen.ellipse((x - w // 2, y - w // 2, x + w // 2, y + w // 2), fill=(*rng.choice(colours), 255))
        elif kind < 0.8:
            pen.rectangle((x, y, x + rng.choice((w, 4 * w, 8 * w)), y + h), fill=colour)
        else:
            for step in range(rng.randint(2, 6)):
                pen.rectangle((x + 2 * step * w, y, x + (2 * step + 1) * w, y + h), fill=colour)
    overlay = overlay.reduce(2)
    picture = picture.copy()
    picture.paste(overlay, mask=overlay)
    return picture


def pixels_of(pictures: list[Image.Image]) -> torch.Tensor:
    """Pictures -> (batch, 3, height, width) in [-1, 1]."""
    stack = numpy.stack([numpy.asarray(picture) for picture in pictures])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def rng_of(generator: torch.Generator) -> random.Random:
    """A Python generator that follows from torch's, so that one seed decides a step's data."""
    return random.Random(int(torch.randint(2**62, (1,), generator=generator)))
