"""The commands that README.md and docs/ tell people to type are typed here, in their order, on a small dataset and the demo's models."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from nosnja_gui.__main__ import main
from nosnja_gui.demo import world
from nosnja_gui.demo.run import KIT

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHORTER = {
    "train": ["--set", "training.max_steps=3", "preview.every_epochs=0", "training.batch_size=1"],
    "grid": ["--set", "steps=2", "x.values=[last]", "y.values=[1.0]"],
}
ELSEWHERE = {"": "tests/test_window.py", "demo": "tests/test_demo.py", "test": "this very run"}
"""Verbs that other tests run, as they take longer or open a window."""


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip() and not line.startswith("#")]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    pictures = folder / "datasets" / "costume"
    pictures.mkdir(parents=True)
    for number, (_, picture) in enumerate(world.costume_pictures(5)):
        picture.save(pictures / f"{number}.png")
    for name, source in (("sd15", KIT / "sd"), ("blip", KIT / "blip")):
        shutil.copytree(source, folder / "models" / name)
    return folder


def test_every_launch_command_of_the_readme_works_in_order(workspace, monkeypatch, capsys):
    monkeypatch.setenv("NOSNJA_WORKSPACE", str(workspace))
    monkeypatch.chdir(ROOT)
    ran = []
    for command in commands(ROOT / "README.md"):
        words = shlex.split(command)
        assert words[:2] == ["bash", "launch.sh"], f"README.md tells people to type something else: {command}"
        verb, rest = (words[2], words[3:]) if len(words) > 2 else ("", [])
        if verb in ELSEWHERE:
            continue
        goes_on = verb == "train" and rest and not rest[0].startswith("-")
        shorter = [] if goes_on or "--help" in rest else SHORTER.get(verb, [])
        code = main([verb, *rest, *shorter])
        assert code == 0, f"{command} ended with {code}: {capsys.readouterr().err}"
        ran.append(verb)
    assert {"check", "caption", "trigger", "train", "grid", "presets"} <= set(ran)
    captions = [file.read_text() for file in (workspace / "datasets" / "costume").glob("*.txt")]
    assert len(captions) == 5
    assert all(caption.startswith("nosnjaoutfit, ") for caption in captions)
    assert (workspace / "runs" / "costume-001" / "weights" / "costume.safetensors").is_file()
    assert list((workspace / "runs").glob("epochs-*/epochs.png"))


def test_every_command_of_the_page_on_lora_files_works_in_order(workspace, monkeypatch, capsys):
    """On what the commands of README.md have left behind."""
    monkeypatch.setenv("NOSNJA_WORKSPACE", str(workspace))
    monkeypatch.chdir(ROOT)
    for command in commands(ROOT / "docs" / "lora-files.md"):
        words = shlex.split(command)
        assert words[:3] == ["bash", "launch.sh", "lora"]
        assert main(words[2:]) == 0, f"{command}: {capsys.readouterr().err}"
    written = {file.name for file in (workspace / "models").glob("*.safetensors")}
    assert {"costume-diffusers.safetensors", "costume-small.safetensors", "both.safetensors", "extracted.safetensors"} <= written


@pytest.fixture
def follow(workspace, monkeypatch, capsys):
    """Types the commands of a page, on what those of README.md have left behind; gives the folder of the runs and what was printed."""
    monkeypatch.setenv("NOSNJA_WORKSPACE", str(workspace))
    monkeypatch.chdir(ROOT)

    def typed(page: str, *shorter: str) -> tuple[Path, str]:
        for command in commands(ROOT / "docs" / page):
            words = shlex.split(command)
            assert words[:2] == ["bash", "launch.sh"]
            assert main([*words[2:], *SHORTER.get(words[2], []), *shorter]) == 0, f"{command}: {capsys.readouterr().err}"
        return workspace / "runs", capsys.readouterr().out

    return typed


def test_every_command_of_the_page_on_methods_works_in_order(follow):
    runs, _ = follow("methods.md", "--set", "prior.images=2", "prior.steps=2")
    assert (runs / "kept-001" / "weights" / "kept.safetensors").is_file()
    assert len(list(runs.parent.glob("class-pictures/*/*.png"))) == 2


def test_every_command_of_the_page_on_hypernetworks_works_in_order(follow):
    runs, _ = follow("hypernetwork.md")
    weights = runs / "soft-001" / "weights"
    assert (weights / "soft.safetensors").is_file() and (weights / "a1111" / "soft.pt").is_file()


def test_every_command_of_the_page_on_textual_inversion_works_in_order(follow):
    runs, _ = follow("textual-inversion.md")
    word, both = (runs / name / "weights" for name in ("nosnjaoutfit-001", "outfit-both-001"))
    assert {file.relative_to(word).as_posix() for file in word.rglob("nosnjaoutfit.*")} == {
        "nosnjaoutfit.safetensors", "a1111/nosnjaoutfit.pt", "diffusers/nosnjaoutfit.safetensors",
    }  # fmt: skip
    assert all((both / folder / "outfit-both.safetensors").is_file() for folder in ("", "lora", "embeddings"))


def test_every_command_of_the_page_on_dreambooth_works_in_order(follow):
    runs, said = follow("dreambooth.md")
    assert "'tsk' is one rare token" in said
    assert (runs / "costume-whole-001" / "weights" / "costume-whole.safetensors").is_file()
    assert "costume-whole-001" in (runs / "on-top-001" / "run.yaml").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_and_modules_exist(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:tests|docs|presets|nosnja_gui|engine|families|methods)/[\w/.-]+\.\w+)`", text))
    assert not [name for name in named if not ((ROOT / name).exists() or (ROOT / "nosnja_gui" / name).exists())]
