"""Model cards: what the hub reads in them, what people can do with them, and what never gets into them."""

import ast
import json
import re
import socket
from pathlib import Path

import pytest
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from nosnja_gui import library, publishing
from nosnja_gui.__main__ import main
from nosnja_gui.events import Sampled
from nosnja_gui.jobs import TrainJob
from nosnja_gui.publishing import PIPELINES, card, contents, is_current, note_origin, origin, snippet, write
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace
from tests.hub_server import HubServer

SAID = {
    "ss_output_name": "costume",
    "ss_sd_model_name": "sd15",
    "ss_learning_rate": "0.0001",
    "ss_text_encoder_lr": "None",
    "ss_optimizer": "adamw",
    "ss_steps": "300",
    "ss_epoch": "10",
    "ss_seed": "42",
    "modelspec.title": "costume",
    "modelspec.date": "2026-01-02T03:04:05",
    "modelspec.trigger_phrase": "nosnjaoutfit",
    "nosnja_pictures": "30",
}
PERSONAL = {
    "ss_tag_frequency": '{"img": {"a secret caption": 3}}',
    "ss_dataset_dirs": '{"/home/ana/secret": {}}',
    "ss_session_id": "123",
    "ss_training_comment": "on ana-laptop",
    "modelspec.author": "Ana Secret",
    "ss_sd_model_name": "/home/ana/models/sd15.safetensors",
}


def lora_file(path: Path, metadata: dict[str, str] | None = None, width: int = 768, part: str = "lora_down") -> Path:
    """A header as trainers write it, with one small pair of weights, or LoHa's two: rank 4, alpha 2."""
    module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    halves = {"lora_down.weight": [4, width], "lora_up.weight": [320, 4]}
    if part == "hada":
        halves = {f"hada_w{side}_{half}": shape for side in (1, 2) for half, shape in (("a", [320, 4]), ("b", [4, width]))}
    shapes = {f"{module}.{name}": shape for name, shape in (*halves.items(), ("alpha", []))}
    header, data = {}, b""
    for name, shape in shapes.items():
        count = 1
        for side in shape:
            count *= side
        raw = b"\x00\x40" if not shape else bytes(2 * count)  # 2.0 in half precision
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    if metadata is not None:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def painted(path: Path, text: str = "", colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    if text:
        info.add_text("parameters", text)
    Image.new("RGB", (32, 24), colour).save(path, pnginfo=info)
    return path


def head_of(text: str) -> dict:
    """As the hub reads it (huggingface_hub/repocard.py: REGEX_YAML_BLOCK)."""
    from huggingface_hub import ModelCard

    return ModelCard(text, ignore_metadata_errors=False).data.to_dict()


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "ana" / "workspace").create()


@pytest.fixture
def trained(workspace):
    """A run with its LoRA, two previews of the last step and older ones."""
    job = TrainJob().changed(
        **{
            "name": "costume",
            "trigger": "nosnjaoutfit",
            "model.path": "sd15",
            "dataset.path": "/home/ana/secret-pictures",
            "preview.prompts": ["nosnjaoutfit, a girl in the snow", "a dog"],
        }
    )
    run = RunFolder.create(workspace.runs / "costume-001", job)
    lora_file(run.weights / "costume.safetensors", SAID)
    for step in (100, 300):
        files = []
        for number, prompt in enumerate(("nosnjaoutfit, a girl in the snow", "a dog"), start=1):
            text = f"{prompt}<lora:costume:1>\nNegative prompt: ugly\nSteps: 25, Sampler: Euler, Seed: {number}, Model: sd15"
            path = painted(run.samples / f"step-{step:06d}_{number:02d}.png", text, "red" if step == 100 else "blue")
            files.append(path.relative_to(run.path).as_posix())
        run.log().append(Sampled(step=step, files=files))
    return run


# ---------------------------------------------------------------- the head


def test_the_head_is_what_the_hub_asks_for(trained, workspace):
    (workspace.models / "sd15").mkdir()
    note_origin(workspace.models / "sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5", "abc")
    lora = trained.weights / "costume.safetensors"
    text = card(lora, trained, "me/costume", publishing.last_samples(trained), license="openrail++")
    assert head_of(text) == {
        "base_model": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "instance_prompt": "nosnjaoutfit",
        "license": "openrail++",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["stable-diffusion", "lora", "text-to-image", "diffusers", "template:sd-lora"],
        "widget": [
            {"text": "nosnjaoutfit, a girl in the snow", "output": {"url": "images/sample-1.png"}},
            {"text": "a dog", "output": {"url": "images/sample-2.png"}},
        ],
    }


def test_what_is_not_known_is_left_out(tmp_path):
    head = head_of(card(lora_file(tmp_path / "x.safetensors")))
    assert head.keys() == {"library_name", "pipeline_tag", "tags"}


@pytest.mark.parametrize(
    "word", ['"quoted": [x', "- a\n---\n# b", "'", "#no", "---", "*a* `b` <script>", "žena, снег, 雪", "a: b", "\u202eabc\0"]
)
def test_the_users_words_stay_words(tmp_path, word):
    lora = lora_file(tmp_path / "x.safetensors", {**SAID, "modelspec.trigger_phrase": word, "modelspec.title": word, "ss_optimizer": word})
    picture = painted(tmp_path / "p.png", f"{word}\nSteps: 20, Sampler: Euler, Seed: 1" if "\0" not in word else "")
    text = card(lora, pictures=[picture])
    head = head_of(text)
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in word).split())
    assert head["instance_prompt"] == line
    body = text.split("\n---\n", 1)[1]
    prose = re.sub(r"(`+)[^\n]*?[^`\n]\1(?!`)", "", re.sub(r"```python.*?\n```", "", body, flags=re.S))
    assert not re.search(r"(?<!\\)<", prose)
    assert len(re.findall(r"^# ", prose, re.M)) == 1 and not re.search(r"^---", body, re.M)
    tables = [line for line in body.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in tables)
    code = re.search(r"```python\n(.*?)\n```", body, re.S)[1]
    prompts = [node.args[0].value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call) and ast.unparse(node.func) == "pipe"]
    assert prompts == [line]


# ---------------------------------------------------------------- the body


def test_the_body_says_how_to_use_it_and_how_it_was_trained(trained):
    lora = trained.weights / "costume.safetensors"
    text = card(lora, trained, pictures=publishing.last_samples(trained))
    for needed in (
        "# costume",
        "Write `nosnjaoutfit` in the prompt.",
        "`nosnjaoutfit, <lora:costume:1>`",
        "`models/Lora`",
        "*Load LoRA*",
        "![nosnjaoutfit, a girl in the snow](images/sample-1.png)",
        "| Rank | 4 |",
        "| Alpha | 2 |",
        "| Steps | 300 |",
        "| Pictures | 30 |",
        "| Learning rate | 0.0001 |",
        "| Date | 2026-01-02 |",
        f"`{publishing.sha256(lora)}`",
    ):
        assert needed in text, needed
    assert "Text encoder's" not in text, "what was off is not told"


def test_settings_come_from_the_run_where_the_file_does_not_say_them(trained):
    lora = lora_file(trained.weights / "bare.safetensors")
    text = card(lora, trained)
    assert "Write `nosnjaoutfit`" in text and "| Batch size | 2 |" in text


def test_nothing_personal_is_in_the_card(trained):
    lora = lora_file(trained.weights / "other.safetensors", {**SAID, **PERSONAL})
    text = card(lora, trained, "me/costume", publishing.last_samples(trained))
    for word in ("secret", "Secret", "/home", "ana", str(trained.path), "laptop", socket.gethostname()):
        assert word not in text.replace("nosnjaoutfit", ""), word
    assert "sd15.safetensors" in text, "of a path the last part is told"


@pytest.mark.parametrize(("width", "family"), [(768, "SD 1.x"), (1024, "SD 2.x"), (2048, "SDXL")])
def test_the_example_is_python_that_names_the_right_class(tmp_path, width, family):
    import diffusers

    lora = lora_file(tmp_path / "x.safetensors", SAID, width=width)
    code = re.search(r"```python\n(.*?)\n```", card(lora, repo="me/x"), re.S)[1]
    tree = ast.parse(code)
    imported = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert imported == [PIPELINES[family].name]
    kind = getattr(diffusers, imported[0])
    assert hasattr(kind, "load_lora_weights") and hasattr(kind, "from_pretrained")
    assert f'load_lora_weights("me/x", weight_name="{lora.name}")' in code


@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=PIPELINES)
def test_every_family_has_a_pipeline_that_diffusers_has(pipeline):
    import diffusers

    assert hasattr(getattr(diffusers, pipeline.name), "load_lora_weights")


def test_the_example_runs_on_a_trained_lora(tmp_path, monkeypatch):
    """Trained here, published to the bit; the card's own lines paint with it."""
    from tests import small_training

    workspace = small_training.make_workspace(tmp_path)
    lora, _ = small_training.trained(workspace, "coat-001", training__max_steps=2)
    folder = write(lora)
    assert (folder / lora.name).read_bytes() == lora.read_bytes(), "all that the trainer writes may be read by everybody"
    text = (folder / "README.md").read_text()
    assert "nosnjaoutfit" in text and str(tmp_path) not in text
    code = re.search(r"```python\n(.*?)\n```", text, re.S)[1]
    assert "import StableDiffusionPipeline" in code and "trained on another" in code
    code = code.replace(PIPELINES["SD 1.x"].base, str(workspace.models / "tiny")).replace("num_inference_steps=25", "num_inference_steps=2")
    monkeypatch.chdir(folder)
    exec(compile(code, "card", "exec"), {})
    assert Image.open(folder / "picture.png").size == (64, 64)


def test_other_kinds_are_not_promised_to_diffusers(tmp_path):
    text = card(lora_file(tmp_path / "x.safetensors", part="hada"))
    assert "A LoHa" in text and "```python" not in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"base_model": "/home/ana/sd15"}, "no base model"),
        ({"repo": "costume"}, "no repository"),
        ({"license": "My own: yes"}, "no license"),
    ],
)
def test_what_the_hub_does_not_know_is_refused(tmp_path, options, says):
    with pytest.raises(UserError, match=says):
        card(lora_file(tmp_path / "x.safetensors"), **options)


def test_what_is_no_lora_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"hello")
    with pytest.raises(UserError, match="damaged"):
        card(tmp_path / "x.safetensors")
    text = json.dumps({"weight": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "y.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0\0")
    with pytest.raises(UserError, match="holds no LoRA"):
        write(tmp_path / "y.safetensors")


def test_where_a_model_came_from(tmp_path):
    folder, file = tmp_path / "sd15", tmp_path / "x.safetensors"
    assert origin(folder) == origin(file) == ""
    folder.mkdir()
    note_origin(folder, "a/b", "c")
    note_origin(file, "d/e", "f")
    assert (origin(folder), origin(file)) == ("a/b", "d/e")
    assert origin(tmp_path / "hub" / "models--a--b-c" / "snapshots" / "0123") == "a/b-c"
    (folder / ".hub.json").write_text('{"repo": "/home/ana"}')
    assert origin(folder) == ""


# ---------------------------------------------------------------- the folder


def test_the_folder_is_ready_to_upload(trained):
    lora = trained.weights / "costume.safetensors"
    folder = write(lora)
    assert folder == trained.weights / "costume-hub"
    names = ["costume.safetensors", "README.md", "images/sample-1.png", "images/sample-2.png"]
    assert [path.relative_to(folder).as_posix() for path in contents(folder)] == names
    assert (folder / names[0]).read_bytes() == lora.read_bytes(), "nothing to leave out: the same file"
    assert Image.open(folder / names[2]).getpixel((1, 1)) == (0, 0, 255), "the last previews"
    assert head_of((folder / "README.md").read_text())["widget"][1]["output"]["url"] == names[3]
    assert is_current(folder, lora)


def test_pictures_are_copied_without_what_they_say(tmp_path, trained):
    photo = tmp_path / "IMG of ana.jpg"
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Ana's camera", 6
    Image.new("RGB", (40, 20), "green").save(photo, exif=exif)
    folder = write(trained.weights / "costume.safetensors", pictures=[photo, trained.samples / "step-000300_01.png"])
    first, second = contents(folder)[2:]
    with Image.open(first) as picture:
        assert picture.size == (20, 40), "turned as the camera said"
        assert not picture.info and not picture.getexif()
    with Image.open(second) as picture:
        assert not picture.info
    assert "ana" not in (folder / "README.md").read_text()


def test_the_copy_says_only_what_is_allowed_and_has_the_same_weights(trained):
    lora = lora_file(trained.weights / "other.safetensors", {**SAID, **PERSONAL})
    folder = write(lora)
    said = library.metadata(folder / "other.safetensors")
    assert said == {**SAID, "ss_sd_model_name": "sd15.safetensors"}
    assert is_current(folder, lora)
    before, after = (library.weights.header(path) for path in (lora, folder / "other.safetensors"))
    assert {name: entry for name, entry in before.items() if name != "__metadata__"} == {
        name: entry for name, entry in after.items() if name != "__metadata__"
    }
    assert b"secret" not in (folder / "other.safetensors").read_bytes()


def test_a_card_that_was_edited_is_not_overwritten(trained):
    lora = trained.weights / "costume.safetensors"
    folder = write(lora)
    (folder / "README.md").write_text("mine")
    with pytest.raises(UserError, match="look it over, or write it anew with --overwrite"):
        write(lora)
    assert (folder / "README.md").read_text() == "mine"
    write(lora, pictures=[], overwrite=True)
    assert (folder / "README.md").read_text().startswith("---") and len(contents(folder)) == 2


def test_only_its_own_files_are_taken_from_the_folder(trained, tmp_path):
    folder = write(trained.weights / "costume.safetensors")
    (folder / "notes.txt").write_text("mine")
    (folder / "images" / "raw.psd").write_text("mine")
    (tmp_path / "secret.png").write_bytes(b"x")
    (folder / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    assert len(contents(folder)) == 4
    lora_file(folder / "second.safetensors")
    with pytest.raises(UserError, match="several LoRAs"):
        contents(folder)
    with pytest.raises(UserError, match="write the card first"):
        contents(tmp_path)


# ---------------------------------------------------------------- the command line


def test_card_and_publish_on_the_command_line(trained, workspace, monkeypatch, capsys):
    monkeypatch.setenv("NOSNJA_WORKSPACE", str(workspace.root))
    lora = trained.weights / "costume.safetensors"
    assert main(["lora", "card", str(lora), "--license", "mit"]) == 0
    assert "look it over, then" in capsys.readouterr().out
    assert main(["lora", "card", str(lora)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    readme = trained.weights / "costume-hub" / "README.md"
    readme.write_text(readme.read_text() + "\nMy own words.\n")
    token = "hf_SecretSecretSecret"
    with HubServer() as hub:
        hub.tokens = {token: "write"}
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", token)
        assert main(["lora", "publish", str(lora), "--repo", "me/costume"]) == 0
        shown = capsys.readouterr().out
        assert f"Published: {hub.address}/me/costume (private" in shown and "README.md" in shown
        assert hub.repos["me/costume"].private
        assert hub.repos["me/costume"].files["README.md"].decode().endswith("My own words.\n")
        assert len(hub.repos["me/costume"].files) == 4
        assert main(["lora", "publish", str(lora), "--repo", "me/costume", "--public", "--private"]) == 2
        lora_file(lora, SAID, width=1024)
        assert main(["lora", "publish", str(lora), "--repo", "me/costume"]) == 2
        assert "lora card --overwrite" in capsys.readouterr().err
        assert main(["lora", "publish", str(lora.with_name("none.safetensors")), "--repo", "me/costume"]) == 2
        assert "There is no LoRA file" in capsys.readouterr().err
    everything = b"".join(path.read_bytes() for path in workspace.root.rglob("*") if path.is_file())
    assert token.encode() not in everything and token not in shown


def test_the_head_survives_a_second_reading():
    """YAML that PyYAML wrote on one line stays on one: the hub looks for lines '---'."""
    text = yaml.safe_dump({"a": "x " * 900}, width=10_000)
    assert len(text.splitlines()) == 1


def test_an_unknown_family_takes_the_general_class():
    code = snippet("x.safetensors", "", "", "", None)
    assert "from diffusers import DiffusionPipeline" in code and 'load_lora_weights("."' in code
