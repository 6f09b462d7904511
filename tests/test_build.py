"""The kit's builder: its loop goes on where it was killed, and its pictures never show the costume."""

import dataclasses
import random
import shutil

import pytest
import torch
from torch import nn

from nosnja_gui import weights
from nosnja_gui.demo import world
from nosnja_gui.demo.build import __main__ as build
from nosnja_gui.demo.build import blip, clip, pictures, probe, unet, vae
from nosnja_gui.demo.build.loop import Plan, orthogonal, train
from nosnja_gui.demo.build.probe import targets_of
from nosnja_gui.demo.probe import HEADS, Probe, area_under_curve
from nosnja_gui.demo.run import KIT
from nosnja_gui.engine.models import load_model
from nosnja_gui.engine.sampler import ImageRequest, sample


class Killed(Exception):
    pass


def run(folder, steps=30, kill_at=None, monkeypatch=None):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss_of(step, generator):
        if step == kill_at:
            raise Killed
        inputs = torch.randn(16, 4, generator=generator)
        return {"loss": (network(inputs) - inputs.sum(1, keepdim=True)).square().mean()}

    train("line", {"network": network}, Plan(steps=steps, learning_rate=0.02, seed=1, warmup_steps=5), loss_of, folder)
    return torch.cat([parameter.flatten() for parameter in network.parameters()]).detach()


def test_a_killed_stage_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    monkeypatch.setattr("nosnja_gui.demo.build.loop.SAVE_EVERY_SECONDS", 0)
    with pytest.raises(Killed):
        run(tmp_path / "killed", kill_at=17)
    assert torch.equal(run(tmp_path / "killed"), whole)


def test_the_loop_learns(tmp_path):
    inputs = torch.randn(256, 4, generator=torch.Generator().manual_seed(3))

    def error(weights):
        network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        nn.utils.vector_to_parameters(weights, network.parameters())
        return float((network(inputs) - inputs.sum(1, keepdim=True)).square().mean().detach())

    assert error(run(tmp_path / "long", steps=300)) < 0.2 * error(run(tmp_path / "short", steps=1))


@pytest.mark.parametrize("shape", [(8, 8), (16, 5), (5, 40)])
def test_orthogonal_makes_all_singular_values_about_one(shape):
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(2))))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_training_pictures_never_show_the_costume_or_a_held_out_combination():
    rng = random.Random(0)
    scenes = [pictures.random_scene(rng) for _ in range(2000)]
    assert not any(scene.costume for scene in scenes)
    assert not any(world.is_held_out(scene) for scene in scenes if scene.pattern != pictures.PATCHWORK)
    assert 0.04 < sum(scene.pattern == pictures.PATCHWORK for scene in scenes) / len(scenes) < 0.12


def test_patchwork_keeps_the_person_and_changes_the_clothes():
    rng = random.Random(3)
    scene = next(s for s in iter(lambda: pictures.random_scene(rng, 1.0), None) if s.pattern == pictures.PATCHWORK)
    assert pictures.draw(scene).tobytes() == pictures.draw(scene).tobytes()
    assert pictures.caption(scene).startswith(f"a {scene.subject} in a colorful outfit standing")


def test_the_probe_is_not_asked_what_a_scene_does_not_have():
    tree = world.Scene("tree", None, None, "plain", "snow", "flat", False, 1)
    costumed = world.costume_scene(random.Random(1))
    targets = targets_of([tree, costumed])
    assert targets["clothing"].tolist() == [-100, -100]
    assert targets["costume"].tolist() == [0, 1]
    assert targets["place"][0] == HEADS["place"].index("snow")
    assert {head: logits.shape[1] for head, logits in Probe()(torch.zeros(1, 3, 128, 128)).items()} == {h: len(v) for h, v in HEADS.items()}


def test_area_under_curve_by_hand():
    assert area_under_curve([3, 4], [1, 2]) == 1
    assert area_under_curve([1, 2], [1, 2]) == 0.5
    assert area_under_curve([2, 0], [1, 1]) == 0.5
    assert area_under_curve([3, 1], [2, 0]) == 0.75


def test_every_stage_builds_its_part_and_the_whole_loads(tmp_path, monkeypatch, capsys):
    """Two steps a stage: what comes out paints noise, but it is complete, and a second call finds all stages done."""
    for module, name in ((vae, "PLAN"), (vae, "DECODER_PLAN"), (clip, "PLAN"), (probe, "PLAN"), (unet, "PLAN"), (blip, "PLAN")):
        monkeypatch.setattr(module, name, dataclasses.replace(getattr(module, name), steps=2))
    for module in (vae, clip, probe, blip):
        monkeypatch.setattr(module, "quality", lambda *given: {"measured": 1.0})
        monkeypatch.setattr(module, "BATCH", 4)
    monkeypatch.setattr(unet, "PICTURES", 8)
    monkeypatch.setattr(unet, "BATCH", 4)
    out = tmp_path / "kit"
    shutil.copytree(KIT / "sd" / "tokenizer", out / "sd" / "tokenizer")  # the vocabulary would be fetched otherwise
    words = ["--out", str(out), "--state", str(tmp_path / "state"), "--stages", *build.STAGES[:-1]]
    assert build.main(words) == 0
    family, parts = load_model(out / "sd", torch.device("cpu"), torch.float32)
    picture = sample(family, parts, [ImageRequest("a girl", steps=1, width=128, height=128)])[0]
    assert picture.size == (128, 128)
    assert {file.relative_to(KIT) for file in KIT.rglob("*.safetensors")} == {file.relative_to(out) for file in out.rglob("*.safetensors")}
    for file in KIT.rglob("*.safetensors"):
        assert weights.header(out / file.relative_to(KIT)).keys() == weights.header(file).keys(), file
    capsys.readouterr()
    assert build.main(words) == 0
    assert capsys.readouterr().out.count("done before") == len(build.STAGES) - 1
