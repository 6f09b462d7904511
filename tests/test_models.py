"""The list of models: what there is, what can be used, and a sentence for what cannot."""

import json
import tempfile
import time
from functools import cache
from pathlib import Path

import pytest
import torch
from original import write_single_file
from safetensors.torch import save_file
from tiny import tiny_model, tiny_sd

from nosnja_gui import models, places
from nosnja_gui.families import FAMILIES
from nosnja_gui.models import KIT, captioner_models, check_model, demand_of, family_of, find_model, list_models, native_size
from nosnja_gui.settings import UserError
from nosnja_gui.sources import Folder
from nosnja_gui.workspace import Workspace

torch.set_num_threads(1)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "workspace").create()


@cache
def _checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write_single_file(tiny_model(Path(folder) / "sd", "sd1"), Path(folder) / "x.safetensors", "sd1").read_bytes()


def original_sd1(file):
    """A small Stable Diffusion 1.x in one file."""
    _made(file).write_bytes(_checkpoint())


def _made(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def by_name(workspace):
    return {entry.name: entry for entry in list_models(workspace)}


def test_the_demo_kit_is_always_there_and_its_name_is_its_path(tmp_path):
    (entry,) = list_models(Workspace(tmp_path / "nothing here"))
    assert entry.from_kit and not entry.problem and entry.family == "sd1" and entry.native_size == 128
    assert Path(entry.name).is_absolute() and find_model(entry.name, tmp_path) == entry.path == KIT / "sd"
    weights = sum(file.stat().st_size for file in entry.path.rglob("*.safetensors"))
    assert entry.size_bytes == weights > 20_000_000
    (captioner,) = captioner_models(Workspace(tmp_path / "nothing here"))
    assert captioner.from_kit and captioner.family == "blip" and captioner.path == KIT / "blip" and captioner.size_bytes > 2_000_000


def test_models_of_the_workspace_come_first_in_natural_order(workspace):
    for name in ("sd-10", "sd-2", "Anime"):
        tiny_sd(workspace.models / name)
    (workspace.models / ".hidden").mkdir()
    (workspace.models / "notes").mkdir()
    (workspace.models / "readme.txt").write_text("x")
    entries = list_models(workspace)
    assert [entry.name for entry in entries[:-1]] == ["Anime", "sd-2", "sd-10"] and entries[-1].from_kit
    for entry in entries[:-1]:
        assert (entry.family, entry.native_size, entry.problem, entry.from_kit) == ("sd1", 64, "", False)
        assert find_model(entry.name, workspace.models) == entry.path


def test_what_cannot_be_used_says_why_in_a_sentence(workspace):
    tiny_sd(workspace.models / "incomplete")
    (workspace.models / "incomplete" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    tiny_sd(workspace.models / "xl")
    index = workspace.models / "xl" / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": "KandinskyPipeline"}))
    tiny_sd(workspace.models / "damaged")
    (workspace.models / "damaged" / "model_index.json").write_text("{")
    tiny_sd(workspace.models / "odd")
    (workspace.models / "odd" / "vae" / "config.json").write_text('{"block_out_channels": 7}')
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2, 2)}, workspace.models / "v1-5.safetensors")
    save_file({"lora_unet_down.lora_down.weight": torch.zeros(2, 2)}, workspace.models / "lora.safetensors")
    save_file({"emb_params": torch.zeros(2, 2)}, workspace.models / "embedding.safetensors")
    (workspace.models / "cut.safetensors").write_bytes(b"\x10")
    entries = by_name(workspace)
    assert entries["v1-5.safetensors"].label == "v1-5.safetensors", "of no family that is known"
    assert "lora.safetensors" not in entries and "embedding.safetensors" not in entries
    problems = {name: entry.problem for name, entry in entries.items() if not entry.from_kit}
    assert set(problems) == {"incomplete", "xl", "damaged", "odd", "v1-5.safetensors", "cut.safetensors"}
    assert all(problem.endswith(".") and "\n" not in problem for problem in problems.values())
    assert "diffusion_pytorch_model.safetensors" in problems["incomplete"] and entries["incomplete"].family == "sd1"
    assert "KandinskyPipeline" in problems["xl"] and entries["xl"].family == ""
    assert "UNet alone" in problems["v1-5.safetensors"] and "damaged" in problems["cut.safetensors"]
    for name in ("incomplete", "xl", "damaged"):
        with pytest.raises(UserError) as caught:
            check_model(workspace.models / name)
        assert str(caught.value) == problems[name]


def test_a_change_in_the_folder_is_seen_at_once_and_nothing_is_looked_at_twice(workspace, monkeypatch):
    model = tiny_sd(workspace.models / "tiny")
    assert by_name(workspace)["tiny"].problem == ""
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    assert by_name(workspace)["tiny"].problem
    weights.write_bytes(content)
    assert by_name(workspace)["tiny"].problem == ""
    monkeypatch.setattr(models, "family_of", lambda folder: pytest.fail("looked at again"))
    assert by_name(workspace)["tiny"].native_size == native_size(model) == 64


def test_single_files_are_found_one_folder_deeper_but_not_among_vaes_and_loras(workspace):
    for name in ("Stable-diffusion/x.safetensors", "vae/y.safetensors", "Lora/z.safetensors", "a/b/too-deep.safetensors"):
        original_sd1(workspace.models / name)
    tiny_sd(workspace.models / "sorted" / "tiny")
    tiny_sd(workspace.models / "whole")
    original_sd1(workspace.models / "whole" / "unet" / "no-model-of-its-own.safetensors")
    entries = by_name(workspace)
    assert [name for name in entries if not entries[name].from_kit] == ["sorted/tiny", "Stable-diffusion/x.safetensors", "whole"]
    for name in ("sorted/tiny", "Stable-diffusion/x.safetensors"):
        assert entries[name].problem == "" and find_model(name, workspace.models) == entries[name].path


@pytest.fixture
def comfy(workspace, tmp_path):
    """ComfyUI's folder, which the user added."""
    folder = tmp_path / "ComfyUI"
    original_sd1(folder / "models" / "checkpoints" / "SD15" / "dress.safetensors")
    (folder / "models" / "loras").mkdir()
    save_file({"first_stage_model.encoder.conv_in.weight": torch.zeros(2, 2, 3, 3)}, _made(folder / "models" / "vae" / "clear.safetensors"))
    places.add(workspace, folder)
    return folder / "models"


def test_models_of_other_programs_come_last_and_are_named_by_their_path(workspace, comfy):
    tiny_sd(workspace.models / "own")
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(2, 2)}, comfy / "checkpoints" / "lora-in-the-wrong-place.safetensors")
    (comfy / "checkpoints" / "old.ckpt").write_bytes(b"x")
    own, kit, dress, old = list_models(workspace)
    assert own.name == "own" and own.place == "" and own.label == "own · Stable Diffusion 1.x" and kit.from_kit and kit.label == kit.title
    assert (dress.name, dress.title, dress.place) == (str(dress.path), "SD15/dress.safetensors", "ComfyUI")
    assert dress.label == "SD15/dress.safetensors · ComfyUI · Stable Diffusion 1.x" and dress.problem == ""
    assert find_model(dress.name, workspace.models) == dress.path == comfy / "checkpoints" / "SD15" / "dress.safetensors"
    assert "model convert" in old.problem and old.place == "ComfyUI"


def test_a_link_to_another_programs_file_is_listed_once(workspace, comfy):
    (workspace.models / "linked.safetensors").symlink_to(comfy / "checkpoints" / "SD15" / "dress.safetensors")
    assert [entry.name for entry in list_models(workspace) if not entry.from_kit] == ["linked.safetensors"]


def test_vaes_of_the_workspace_and_of_other_programs(workspace, comfy):
    vae = {"first_stage_model.encoder.conv_in.weight": torch.zeros(2, 2, 3, 3)}
    for name in ("beside.safetensors", "vae/good.safetensors", "VAE/good.safetensors"):
        save_file(vae, _made(workspace.models / name))
    (tiny_sd(workspace.models / "sd") / "vae").rename(workspace.models / "vae" / "folder")
    save_file({"emb_params": torch.zeros(2, 2)}, workspace.models / "vae" / "embedding.safetensors")
    entries = models.list_vaes(workspace)
    own = {entry.name for entry in entries if not entry.place}
    assert own == {"beside.safetensors", "vae/good.safetensors", "VAE/good.safetensors", "vae/folder"}
    for entry in entries:
        assert models.find_vae(entry.name, workspace.models) == entry.path
    assert [(entry.title, entry.place) for entry in entries if entry.place] == [("clear.safetensors · ComfyUI", "ComfyUI")]


def test_the_mark_changes_with_what_there_is_to_list(workspace, comfy):
    more = comfy.parent / "more"
    original_sd1(more / "lora.safetensors")
    marks = [models.mark(workspace)]
    assert marks[-1] == models.mark(workspace)
    for change in (
        lambda: list_models(workspace),  # it has looked into the files of ComfyUI
        lambda: original_sd1(workspace.models / "deeper" / "x.safetensors"),
        lambda: (workspace.models / "deeper" / "x.safetensors").write_bytes(b"still growing"),
        lambda: places.add(workspace, more, "loras"),
    ):
        change()
        assert models.mark(workspace) not in marks
        marks.append(models.mark(workspace))
        list_models(workspace)
        marks.append(models.mark(workspace))


def test_hundreds_of_unknown_files_are_looked_into_little_by_little(workspace, comfy, monkeypatch):
    content = (comfy / "checkpoints" / "SD15" / "dress.safetensors").read_bytes()
    for number in range(3):
        (comfy / "checkpoints" / f"{number}.safetensors").write_bytes(content)
    monkeypatch.setattr(models, "PATIENCE_SECONDS", 0.0)
    assert [entry.name for entry in list_models(workspace) if entry.place] == [] or len(list_models(workspace)) < 5
    monkeypatch.setattr(models, "PATIENCE_SECONDS", 60.0)
    assert len([entry for entry in list_models(workspace) if entry.place]) == 4
    monkeypatch.setattr(models, "PATIENCE_SECONDS", 0.0)
    assert len([entry for entry in list_models(workspace) if entry.place]) == 4, "what is known costs no time"


def test_listing_many_models_again_is_fast(workspace):
    for number in range(20):
        tiny_sd(workspace.models / f"model-{number}")
    list_models(workspace)
    times = []
    for _ in range(5):
        began = time.process_time()
        list_models(workspace)
        times.append(time.process_time() - began)
    assert min(times) < 0.05


@pytest.mark.parametrize("path", ["~nobody-of-that-name/x", "a\0b", "x" * 5000, "/" + "y" * 300, "", "  ", "nowhere"])
def test_a_path_that_is_none_is_refused_in_a_sentence(path, tmp_path):
    with pytest.raises(UserError) as caught:
        find_model(path, tmp_path)
    assert str(caught.value).endswith(".") and len(str(caught.value)) < 6000


def test_captioner_models_of_the_workspace(workspace):
    blip = workspace.models / "my-blip"
    blip.mkdir()
    (blip / "config.json").write_text((KIT / "blip" / "config.json").read_text())
    tiny_sd(workspace.models / "sd")
    (workspace.models / "broken").mkdir()
    (workspace.models / "broken" / "config.json").write_text("[]")
    assert [(entry.name, entry.family) for entry in captioner_models(workspace)][:-1] == [("my-blip", "blip")]
    assert "my-blip" not in by_name(workspace)


def test_the_demand_of_a_model_is_read_from_its_headers(tmp_path):
    model = tiny_sd(tmp_path / "tiny")
    family, parts = FAMILIES["sd1"], FAMILIES["sd1"].load(Folder(model), torch.device("cpu"), torch.float32)
    demand = demand_of(model)
    for part, module in (("unet", parts.denoiser), ("vae", parts.vae), ("text_encoder", parts.text_encoders[0])):
        assert getattr(demand, part).parameters == sum(parameter.numel() for parameter in module.parameters())
    for part, (module, suffixes) in family.trainable_modules(parts).items():
        layers = [layer for name, layer in module.named_modules() if name.endswith(suffixes) and isinstance(layer, torch.nn.Linear)]
        shapes = demand.layers[part].chosen("attention").values()
        assert sorted(shapes) == sorted((layer.out_features, layer.in_features) for layer in layers)
    assert demand.unet.latent_channels == 4 and demand.unet.text_width == 24
    (model / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError):
        demand_of(model)
    assert family_of(model) is family
