"""Models of other programs: found where those keep them, cheaply, and whatever is wrong with the folders."""

import os
import time

import pytest

from nosnja_gui import places
from nosnja_gui.places import Place, add, added, find, models_in, remove
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "workspace").create()


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    folder.mkdir()
    # The folder beside the program holds whatever it holds.
    monkeypatch.setattr(places, "PROGRAM", tmp_path / "programs" / "nosnja")
    monkeypatch.setenv("HOME", str(folder))
    places._LISTINGS.clear()
    return folder


def folders(root, *names):
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
    return root


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def told(found, root):
    return [(place.program, place.kind, place.folder.relative_to(root).as_posix()) for place in found]


def test_an_empty_machine_has_none(workspace, home):
    assert find(workspace, home, {}) == []
    assert find(workspace, home / "nowhere", {"HF_HOME": "/nowhere", "COMFYUI_PATH": "", "COMMANDLINE_ARGS": "--ckpt-dir"}) == []


def test_a1111_and_forge(workspace, home):
    folders(home / "stable-diffusion-webui", "models/Stable-diffusion", "models/Lora", "models/VAE")
    folders(home / "AI/stable-diffusion-webui-forge", "models/Stable-diffusion")
    assert told(find(workspace, home, {}), home) == [
        ("A1111", "models", "stable-diffusion-webui/models/Stable-diffusion"),
        ("A1111", "loras", "stable-diffusion-webui/models/Lora"),
        ("A1111", "vae", "stable-diffusion-webui/models/VAE"),
        ("Forge", "models", "AI/stable-diffusion-webui-forge/models/Stable-diffusion"),
    ]


def test_a_program_beside_this_one(workspace, home, tmp_path):
    folders(tmp_path / "programs" / "ComfyUI", "models/checkpoints", "models/loras", "models/vae", "models/diffusion_models", "models/clip")
    assert told(find(workspace, home, {}), tmp_path / "programs" / "ComfyUI") == [
        ("ComfyUI", "models", "models/checkpoints"),
        ("ComfyUI", "models", "models/diffusion_models"),
        ("ComfyUI", "loras", "models/loras"),
        ("ComfyUI", "vae", "models/vae"),
    ]


def test_extra_model_paths_of_comfyui(workspace, home, tmp_path):
    """The sections of ComfyUI's extra_model_paths.yaml.example, with a home, a relative base and none at all."""
    root = folders(home / "ComfyUI", "models/checkpoints")
    folders(home / "webui", "models/Stable-diffusion", "models/Lora", "models/LyCORIS", "embeddings")
    folders(root / "more", "unets")
    folders(tmp_path / "disk", "vaes")
    (root / "extra_model_paths.yaml").write_text(
        f"""
a111:
    base_path: ~/webui/
    is_default: true
    checkpoints: models/Stable-diffusion
    embeddings: embeddings
    loras: |
         models/Lora
         models/LyCORIS
other:
    base_path: more
    diffusion_models: unets
    vae: {tmp_path / "disk" / "vaes"}
none:
    checkpoints: ../webui/models/Stable-diffusion
    loras: 3
empty:
"""
    )
    assert {(place.kind, os.path.relpath(place.folder, home)) for place in find(workspace, home, {})} == {
        ("models", "ComfyUI/models/checkpoints"),
        ("models", "webui/models/Stable-diffusion"),
        ("loras", "webui/models/Lora"),
        ("loras", "webui/models/LyCORIS"),
        ("models", "ComfyUI/more/unets"),
        ("vae", "../disk/vaes"),
    }


@pytest.mark.parametrize("text", ["[1", "- a", "a: &x {b: *x}", "", "a: 1", "\0", "a:\n  base_path: 5\n  loras: 7"])
def test_a_damaged_extra_model_paths_is_passed_over(workspace, home, text):
    root = folders(home / "ComfyUI", "models/checkpoints")
    (root / "extra_model_paths.yaml").write_text(text)
    assert len(find(workspace, home, {})) == 1


def test_invokeai(workspace, home, tmp_path):
    folders(tmp_path / "invoke", "models/sd-1/main", "models/sd-1/lora", "models/sdxl/vae", "models/any/clip_vision")
    found = find(workspace, home, {"INVOKEAI_ROOT": str(tmp_path / "invoke")})
    assert told(found, tmp_path / "invoke" / "models") == [
        ("InvokeAI", "models", "sd-1/main"),
        ("InvokeAI", "loras", "sd-1/lora"),
        ("InvokeAI", "vae", "sdxl/vae"),
    ]


def test_environment_variables(workspace, home, tmp_path):
    folders(tmp_path / "comfy here", "models/checkpoints")
    folders(tmp_path, "my models", "my loras", "hf/hub", "cache/hub2")
    arguments = f"--medvram --ckpt-dir '{tmp_path / 'my models'}' --lora-dir='{tmp_path / 'my loras'}' --vae-dir"
    environment = {"COMFYUI_PATH": str(tmp_path / "comfy here"), "COMMANDLINE_ARGS": arguments, "HF_HOME": str(tmp_path / "hf")}
    assert told(find(workspace, home, environment), tmp_path) == [
        ("ComfyUI", "models", "comfy here/models/checkpoints"),
        ("A1111", "models", "my models"),
        ("A1111", "loras", "my loras"),
        ("Hugging Face", "models", "hf/hub"),
    ]
    environment["HF_HUB_CACHE"] = str(tmp_path / "cache" / "hub2")
    assert told(find(workspace, home, environment), tmp_path)[-1] == ("Hugging Face", "models", "cache/hub2")
    assert find(workspace, home, {"COMMANDLINE_ARGS": "--ckpt-dir 'open"}) == []


def test_the_hub_cache(workspace, home):
    cache = folders(home / ".cache" / "huggingface" / "hub", "models--a--sd15/snapshots")
    touch(cache / "models--a--sd15/snapshots", "old/model_index.json", "new/model_index.json", "half/config.json")
    touch(cache / "models--a--lora/snapshots", "x/lora.safetensors")
    touch(cache / "datasets--a--b/snapshots", "x/model_index.json")
    touch(cache / "models--b--two/snapshots", "1/model_index.json", "2/model_index.json")
    os.utime(cache / "models--b--two/snapshots/2", (1, 1))
    (cache / "models--a--sd15" / "refs").mkdir()
    (cache / "models--a--sd15" / "refs" / "main").write_text("new\n")
    place = Place("Hugging Face", "models", cache)
    assert find(workspace, home, {}) == [place]
    assert [path.relative_to(cache).as_posix() for path in models_in(place)] == [
        "models--a--sd15/snapshots/new",
        "models--b--two/snapshots/1",
    ]


def test_folders_that_the_user_added(workspace, home, tmp_path):
    folders(tmp_path, "disk/models of mine", "disk/webui/models/Stable-diffusion", "disk/webui/models/Lora")
    place = add(workspace, tmp_path / "disk" / "models of mine", "vae")
    assert place == Place("", "vae", tmp_path / "disk" / "models of mine")
    add(workspace, str(tmp_path / "disk" / "webui"))
    add(workspace, tmp_path / "disk" / "webui" / "models")
    add(workspace, tmp_path / "disk" / "models of mine", "vae")
    assert sorted(set(added(workspace))) == sorted(added(workspace))
    assert set(told(find(workspace, home, {}), tmp_path / "disk")) == {
        ("", "vae", "models of mine"),
        ("A1111", "models", "webui/models/Stable-diffusion"),
        ("A1111", "loras", "webui/models/Lora"),
    }
    assert len(find(workspace, home, {})) == 3, "each folder once"
    assert remove(workspace, tmp_path / "disk" / "webui") and not remove(workspace, tmp_path / "disk" / "webui")
    assert remove(workspace, tmp_path / "disk" / "webui" / "models")
    assert told(find(workspace, home, {}), tmp_path / "disk") == [("", "vae", "models of mine")]
    assert (tmp_path / "disk" / "webui").is_dir()


@pytest.mark.parametrize("folder", ["", "  ", "/nowhere/at/all", "a\0b", "~nobody-of-that-name/x", "x" * 5000])
def test_what_is_no_folder_is_not_added(workspace, folder):
    with pytest.raises(UserError, match="There is no folder"):
        add(workspace, folder)
    assert added(workspace) == []


@pytest.mark.parametrize("text", ["[1", "folders: 5", "folders: [5, {kind: vae}, {folder: 7}, {folder: /x, kind: cats}]", "", "a: 1"])
def test_a_damaged_list_is_an_empty_one(workspace, home, text):
    (workspace.root / "places.yaml").write_text(text)
    assert added(workspace) == [] and find(workspace, home, {}) == []


def test_the_workspace_itself_is_no_place(workspace, home):
    add(workspace, workspace.models)
    assert find(workspace, home, {}) == []


def test_a_place_lists_files_and_diffusers_folders(tmp_path, home):
    root = touch(
        tmp_path / "models",
        "a.safetensors",
        "b.CKPT",
        "c.pt",
        "readme.txt",
        ".hidden.safetensors",
        "sdxl/x.safetensors",
        "sdxl/deep/y.safetensors",
        "sdxl/deep/deeper/z.safetensors",
        "folder.v2/model_index.json",
        "folder.v2/unet/diffusion_pytorch_model.safetensors",
        "sdxl/deep/diffusers/model_index.json",
    )
    (root / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    (root / "fake.safetensors").mkdir()
    (root / "loop").symlink_to(root)
    (root / "sdxl" / "up").symlink_to(root)
    assert [path.relative_to(root).as_posix() for path in models_in(Place("", "models", root))] == [
        "a.safetensors",
        "b.CKPT",
        "folder.v2",
        "sdxl/deep/diffusers",
        "sdxl/deep/y.safetensors",
        "sdxl/x.safetensors",
    ]


def test_a_place_that_cannot_be_read_is_empty(tmp_path, home):
    assert models_in(Place("", "models", tmp_path / "nowhere")) == []
    (tmp_path / "file").write_text("x")
    assert models_in(Place("", "models", tmp_path / "file")) == []
    assert models_in(Place("Hugging Face", "models", tmp_path / "file")) == []


def test_thousands_of_files_are_listed_quickly_and_read_once(tmp_path, home, monkeypatch):
    root = tmp_path / "models"
    root.mkdir()
    for number in range(3000):
        (root / f"{number:05}.safetensors").touch()
    os.utime(root, (time.time() - 100, time.time() - 100))
    place = Place("", "loras", root)
    scans = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scans.append(path) or real(path))
    first = models_in(place)
    began = time.perf_counter()
    assert models_in(place) == first and len(first) == 3000
    assert time.perf_counter() - began < 0.5
    assert len(scans) == 1
    (root / "new.safetensors").touch()
    assert len(models_in(place)) == 3001 and len(scans) == 2


def test_no_more_than_some_thousand_are_listed(tmp_path, home, monkeypatch):
    monkeypatch.setattr(places, "MOST_ENTRIES", 50)
    touch(tmp_path / "m", *(f"{part}/{number}.safetensors" for part in "abc" for number in range(40)))
    assert len(models_in(Place("", "models", tmp_path / "m"))) == 50


def test_finding_looks_at_known_places_only(workspace, home, monkeypatch):
    touch(home, *(f"deep/{number}/models/Stable-diffusion/x.safetensors" for number in range(50)))
    scans = []
    monkeypatch.setattr(os, "scandir", lambda *path: scans.append(path))
    monkeypatch.setattr(os, "listdir", lambda *path: scans.append(path))
    assert find(workspace, home, {}) == [] and scans == []
