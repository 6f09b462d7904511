"""How good the kit is: the figures that `docs/demo-kit.md` states, measured through the program's own loading code."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nosnja_gui.demo import world
from nosnja_gui.demo.build import pictures
from nosnja_gui.demo.build.pictures import pixels_of
from nosnja_gui.demo.probe import judge, load_probe
from nosnja_gui.engine.models import choose_device, load_model
from nosnja_gui.engine.sampler import ImageRequest, sample, to_pictures
from nosnja_gui.files import write_atomic
from nosnja_gui.sheet import contact_sheet

STRANGE_WORDS = ("nosnjaoutfit", "zwx", "qorbal", "sks", "ohwx", "fribblequax")
BASIC = ImageRequest(prompt="", sampler="dpm++_2m_karras", steps=20, cfg_scale=5.0, width=world.SIZE, height=world.SIZE)


@dataclass(frozen=True)
class Goal:
    figure: str
    least: float


GOALS = (
    Goal("vae.psnr", 28.0),
    Goal("vae.psnr_costume", 25.0),
    Goal("probe.least", 0.97),
    Goal("unet.subject", 0.90),
    Goal("unet.colour", 0.90),
    Goal("unet.place", 0.90),
    Goal("unet.all_three", 0.80),
    Goal("unet.strange_word_change", -0.05),
    Goal("blip.subject", 0.90),
    Goal("blip.place", 0.90),
    Goal("blip.costume_subject", 0.80),
)


def measure(kit: Path, sheets: Path | None = None, prompts: int = 96) -> dict[str, Any]:
    """All figures of a kit; contact sheets go to `sheets`."""
    return {
        "probe": measure_probe(kit),
        "vae": measure_vae(kit),
        "unet": measure_unet(kit, sheets, prompts),
        "blip": measure_blip(kit),
        "clip": measure_clip(kit),
    }


def measure_probe(kit: Path) -> dict[str, float]:
    from nosnja_gui.demo.build.probe import quality

    heads = quality(load_probe(kit))
    return {**heads, "least": min(heads[head] for head in ("subject", "colour", "place", "costume"))}


def measure_vae(kit: Path) -> dict[str, float]:
    from nosnja_gui.demo.build.vae import quality

    _, parts = load_model(kit / "sd", choose_device(), torch.float32)
    return quality(parts.vae)


def measure_blip(kit: Path) -> dict[str, float]:
    """Captions of 96 unseen drawings and of 48 costume pictures, through the program's captioner."""
    from nosnja_gui.captioners import CAPTIONERS
    from nosnja_gui.demo.run import named

    captioner = CAPTIONERS["blip"].load(kit / "blip", choose_device(), torch.float32)
    rng = random.Random(90_005)
    fresh = [world.random_scene(rng, held_out=True, style="flat", people=1.0) for _ in range(96)]
    costumes = [scene for scene, _ in world.costume_pictures(48, seed=90_006)]
    plain = named(fresh, captioner.caption([world.draw(scene) for scene in fresh]))
    costume = named(costumes, captioner.caption([world.draw(scene) for scene in costumes]))
    return {**plain, **{f"costume_{key}": value for key, value in costume.items()}}


def measure_clip(kit: Path) -> dict[str, float]:
    from transformers import CLIPModel

    from nosnja_gui.demo.build.clip import quality
    from nosnja_gui.demo.build.words import Words

    return quality(CLIPModel.from_pretrained(kit / "clip", torch_dtype=torch.float32).eval(), Words(kit / "clip"))


def measure_unet(kit: Path, sheets: Path | None, count: int) -> dict[str, float]:
    """Held-out prompts painted, and painted again with a strange word in them: what the probe finds right of each."""
    rng = random.Random(90_007)
    scenes = [replace(world.random_scene(rng, held_out=True, style="flat", people=1.0), pattern="plain") for _ in range(count)]
    captions = [world.caption(scene) for scene in scenes]
    strange = [f"{STRANGE_WORDS[n % len(STRANGE_WORDS)]}, {caption}" for n, caption in enumerate(captions)]
    family, parts = load_model(kit / "sd", choose_device(), torch.float32)
    probe = load_probe(kit)
    shares: list[dict[str, float]] = []
    for name, prompts in (("ordinary", captions), ("strange", strange)):
        painted = sample(family, parts, [replace(BASIC, prompt=prompt, seed=n) for n, prompt in enumerate(prompts)], batch_size=16)
        shares.append(right(scenes, judge(probe, painted)))
        if sheets:
            sheets.mkdir(parents=True, exist_ok=True)
            title = f"The demo model: {name} prompts, unseen combinations"
            contact_sheet(painted[:48], prompts[:48], columns=8, title=title).save(sheets / f"{name}.png")
    if sheets:
        originals = [picture for _, picture in world.costume_pictures(8)] + [pictures.draw(scene) for scene in scenes[:8]]
        with torch.inference_mode():
            latents = family.encode_images(parts, pixels_of(originals).to(parts.device))[:, 0]
            rebuilt = to_pictures(family.decode_latents(parts, latents))
        contact_sheet([*originals, *rebuilt], columns=8, title="Drawn, and below through the auto-encoder").save(sheets / "vae.png")
    return shares[0] | {"strange_word_change": min(shares[1][key] - shares[0][key] for key in ("subject", "colour", "place"))}


def right(scenes: Sequence[world.Scene], seen: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Shares of pictures on which subject, colour, place and all three are as the prompt says."""
    keys = ("subject", "colour", "place")
    rows = [{key: found[key] == getattr(scene, key) for key in keys} for scene, found in zip(scenes, seen, strict=True)]
    shares = {key: sum(row[key] for row in rows) / len(rows) for key in keys}
    return shares | {"all_three": sum(all(row.values()) for row in rows) / len(rows)}


def report(figures: dict[str, Any], file: Path) -> bool:
    """Write the figures and print each goal; True where all are reached."""
    write_atomic(file, json.dumps(figures, indent=2) + "\n")
    reached = []
    for goal in GOALS:
        part, name = goal.figure.split(".")
        value = figures[part][name]
        reached.append(value >= goal.least)
        print(f"{'reached' if reached[-1] else 'MISSED '}  {goal.figure:28} {value:7.3f}   (at least {goal.least:g})")
    return all(reached)
