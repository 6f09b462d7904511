import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from nosnja_gui import dataset, events
from nosnja_gui.captioners import CAPTIONERS
from nosnja_gui.captioners import blip as blip_module
from nosnja_gui.captioners.blip import ENTRY, LoadedBlip
from nosnja_gui.engine import caption as engine
from nosnja_gui.engine.caption import caption_dataset, find_captioner_model
from nosnja_gui.jobs import CaptionJob
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace

WORDS = """
    a an the girl boy woman man dog cat car house tree in on at of with and wearing standing sitting holding red green blue
    yellow white black colorful traditional folk dress costume outfit shirt coat stairs fence wood grass field snow beach city
    street room night sky mountains photo picture front background flowers hat basket
""".split()  # noqa: SIM905 - sixty quoted words would be harder to read


def tiny_blip(folder: Path) -> Path:
    """A very small random BLIP in the layout of Salesforce/blip-image-captioning-base."""
    from transformers.models.bert.tokenization_bert import BertTokenizer
    from transformers.models.blip.configuration_blip import BlipConfig
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
    from transformers.models.blip.modeling_blip import BlipForConditionalGeneration

    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(vocabulary)}, do_lower_case=True)
    text = {
        "vocab_size": len(vocabulary) + 2,  # [DEC] and [ENC] are known to the model, not to its tokenizer
        "hidden_size": 16,
        "encoder_hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": len(vocabulary),
        "sep_token_id": vocabulary.index("[SEP]"),
        "eos_token_id": vocabulary.index("[SEP]"),
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = BlipForConditionalGeneration(
            BlipConfig(text_config=text, vision_config=vision, projection_dim=16, image_text_hidden_size=16)
        )
        for name, weight in network.named_parameters():
            # Random weights of the usual size hardly look at the picture: pictures would all get one caption.
            weight.data.normal_(0, 0.3) if weight.ndim > 1 and "position" not in name else None
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def blip(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return tiny_blip(tmp_path_factory.mktemp("models") / "blip-image-captioning-base")


@pytest.fixture
def workspace(tmp_path, blip) -> Workspace:
    """With the captioner in its models folder and a dataset of five pictures."""
    made = Workspace(tmp_path / "workspace").create()
    (made.models / "blip-image-captioning-base").symlink_to(blip)
    (made.datasets / "costume").mkdir()
    for number, colour in enumerate(["red", "green", "blue", "white", "black"], start=1):
        picture(number, colour).save(made.datasets / "costume" / f"{number}.png")
    return made


def picture(number: int, colour: str) -> Image.Image:
    image = Image.new("RGB", (40 + 8 * number, 48), colour)
    image.paste("orange", (4 * number, 8, 4 * number + 12, 40))
    return image


def load(blip: Path) -> LoadedBlip:
    return ENTRY.load(blip, torch.device("cpu"), torch.float32)


@pytest.fixture(autouse=True)
def short_captions(monkeypatch) -> None:
    """Random weights seldom end a sentence."""
    monkeypatch.setattr(blip_module, "MAXIMUM_NEW_TOKENS", 8)


# the captioner


def test_a_batch_says_the_same_as_each_picture_alone(blip):
    loaded = load(blip)
    pictures = [picture(number, colour) for number, colour in enumerate(["red", "green", "white"])]
    together = loaded.caption(pictures)
    assert together == [loaded.caption([image])[0] for image in pictures] == load(blip).caption(pictures)
    assert all(text and "[" not in text and set(text.split()) <= set(WORDS) for text in together)
    assert len(set(together)) > 1, "captions must depend on the picture"
    assert loaded.caption([]) == []


def test_a_prompt_is_continued(blip):
    caption = load(blip).caption([picture(1, "red")], prompt="a photo of")[0]
    assert caption.startswith("a photo of") and len(caption.split()) > 3


def test_other_precisions_work(blip):
    assert ENTRY.load(blip, torch.device("cpu"), torch.bfloat16).caption([picture(1, "red")])[0]


def test_the_beam_search_follows_the_published_recipe(blip):
    """The same tokens as transformers' own processor and `generate` give."""
    loaded = load(blip)
    pixels = loaded.processor(images=[picture(1, "red")], return_tensors="pt")["pixel_values"]
    tokens = loaded.network.generate(pixel_values=pixels, num_beams=3, max_new_tokens=8, do_sample=False)
    assert loaded.caption([picture(1, "red")]) == [loaded.tokenizer.decode(tokens[0], skip_special_tokens=True)]


def test_the_shelf_has_it_and_recognises_its_folders(blip, tmp_path):
    assert CAPTIONERS["blip"] is ENTRY and ENTRY.recognises(blip)
    assert not ENTRY.recognises(tmp_path) and not ENTRY.recognises(tmp_path / "nothing")
    for content in ("{", "[]", '{"architectures": ["BlipForQuestionAnswering"]}', '{"architectures": "BlipForConditionalGeneration"}'):
        (tmp_path / "config.json").write_text(content)
        assert not ENTRY.recognises(tmp_path)


def copy_without(blip: Path, folder: Path, *names: str) -> Path:
    shutil.copytree(blip, folder)
    for name in names:
        (folder / name).unlink()
    return folder


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def drop_a_weight(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    weights.pop("vision_model.embeddings.class_embedding")
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", truncate),
        ("model.safetensors", drop_a_weight),
        ("model.safetensors", lambda path: path.write_bytes(b"<html>404</html>")),
        ("tokenizer.json", lambda path: path.write_text("{")),
        ("model.safetensors", Path.unlink),
        ("config.json", Path.unlink),
        ("config.json", lambda path: path.write_text('{"architectures": ["BertModel"], "model_type": "bert"}')),
    ],
)
def test_a_damaged_or_other_model_is_refused_in_one_sentence(blip, tmp_path, name, damage):
    folder = copy_without(blip, tmp_path / "blip")
    damage(folder / name)
    with pytest.raises(UserError) as caught:
        load(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="There is no BLIP model"):
        load(tmp_path / "nothing")


# finding its model


def test_the_model_is_found_by_path_by_name_and_by_itself(workspace, blip):
    found = workspace.models / "blip-image-captioning-base"
    assert find_captioner_model(ENTRY, str(blip), workspace.models) == blip
    assert find_captioner_model(ENTRY, "blip-image-captioning-base", workspace.models) == found
    assert find_captioner_model(ENTRY, "", workspace.models) == found


def test_several_models_are_not_guessed_between(workspace, blip):
    (workspace.models / "blip-image-captioning-base").rename(workspace.models / "one")
    (workspace.models / "two").symlink_to(blip)
    with pytest.raises(UserError, match="one, two"):
        find_captioner_model(ENTRY, "", workspace.models)


def test_no_model_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_in_hub_cache", lambda identifier: None)
    for text in ("", "nothing", "some/model"):
        with pytest.raises(UserError, match="Salesforce/blip-image-captioning-base"):
            find_captioner_model(ENTRY, text, tmp_path / "models")


def test_the_hub_cache_is_looked_into_and_the_network_never(tmp_path, blip, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert engine._in_hub_cache("Salesforce/blip-image-captioning-base") is None
    repository = tmp_path / "hub" / "models--Salesforce--blip-image-captioning-base"
    shutil.copytree(blip, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert engine._in_hub_cache("Salesforce/blip-image-captioning-base") == repository / "snapshots" / "abc"
    assert find_captioner_model(ENTRY, "", tmp_path / "models") == repository / "snapshots" / "abc"


# the job


def job(**changes) -> CaptionJob:
    return CaptionJob(dataset="costume", batch_size=2, **changes)


def captions_in(workspace: Workspace) -> dict[str, str]:
    return dataset.read(workspace.datasets / "costume").captions()


def kinds(log: events.EventLog) -> list[str]:
    return [event.kind for event in events.read(log.path)]


def test_a_dataset_is_captioned_and_told_about(workspace, tmp_path, blip):
    log = events.EventLog(tmp_path / "events.jsonl")
    captions = caption_dataset(job(), workspace, log)
    assert set(captions) == {f"{number}.png" for number in range(1, 6)} and captions == captions_in(workspace)
    assert captions["2.png"] == load(blip).caption([picture(2, "green")])[0]
    assert kinds(log) == ["started", "stage", *["captioned"] * 5, "finished"]
    told = [event for event in events.read(log.path) if event.kind == "captioned"]
    assert {event.picture: event.caption for event in told} == captions
    assert [(event.done, event.total) for event in told] == [(n, 5) for n in range(1, 6)]


def test_captions_that_are_there_are_kept_or_overwritten_as_asked(workspace):
    text = workspace.datasets / "costume" / "2.txt"
    text.write_text("written by hand")
    (workspace.datasets / "costume" / "3.txt").write_text("  ")
    assert "2.png" not in caption_dataset(job(), workspace)
    assert captions_in(workspace)["2.png"] == "written by hand" and captions_in(workspace)["3.png"]
    assert caption_dataset(job(), workspace) == {}
    assert "2.png" in caption_dataset(job(existing="overwrite"), workspace)
    assert text.read_text() != "written by hand"
    dataset.undo(workspace.datasets / "costume")
    assert text.read_text() == "written by hand"


def test_the_whole_job_is_one_undo(workspace, monkeypatch):
    monkeypatch.setattr(engine, "WRITE_EVERY_PICTURES", 1)
    monkeypatch.setattr(engine, "WRITE_EVERY_SECONDS", 0.0)
    caption_dataset(job(), workspace)
    assert len(dataset.versions(workspace.datasets / "costume")) == 1
    dataset.undo(workspace.datasets / "costume")
    assert captions_in(workspace) == {}


def test_a_metadata_csv_is_filled_in_place(workspace):
    file = workspace.datasets / "costume" / "metadata.csv"
    file.write_text("file_name,text\n1.png,mine\n")
    caption_dataset(job(), workspace)
    assert file.read_text().startswith("file_name,text\n1.png,mine\n2.png,") and captions_in(workspace)["5.png"]
    assert not list(file.parent.glob("*.txt"))


def test_an_interruption_loses_nothing_that_was_captioned(workspace, tmp_path, monkeypatch):
    calls = []
    real = LoadedBlip.caption

    def interrupted(self, pictures, prompt=""):
        calls.append(len(pictures))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, pictures, prompt)

    monkeypatch.setattr(LoadedBlip, "caption", interrupted)
    log = events.EventLog(tmp_path / "events.jsonl")
    with pytest.raises(KeyboardInterrupt):
        caption_dataset(job(), workspace, log)
    assert set(captions_in(workspace)) == {"1.png", "2.png", "3.png", "4.png"}
    assert kinds(log)[-1] == "stopped"
    monkeypatch.undo()
    assert set(caption_dataset(job(), workspace)) == {"5.png"}


def test_a_stop_is_honoured_between_batches_and_the_rest_is_for_the_next_start(workspace, tmp_path):
    answers = iter([False, False, True])
    log = events.EventLog(tmp_path / "events.jsonl")
    captions = caption_dataset(job(), workspace, log, stop_asked=lambda: next(answers))
    assert set(captions) == set(captions_in(workspace)) == {"1.png", "2.png", "3.png", "4.png"}
    *_, stopped = events.read(log.path)
    assert isinstance(stopped, events.Stopped) and stopped.step == 4
    assert set(caption_dataset(job(), workspace)) == {"5.png"}


def test_a_captioning_run_is_stopped_as_every_other_run(workspace, monkeypatch, capsys):
    from nosnja_gui.__main__ import main

    run = RunFolder.create(workspace.runs / "captions-001", job())
    real = LoadedBlip.caption
    monkeypatch.setattr(LoadedBlip, "caption", lambda *arguments, **more: run.request("stop") or real(*arguments, **more))
    monkeypatch.setenv("NOSNJA_WORKSPACE", str(workspace.root))
    assert main(["caption", str(run.path)]) == 130
    assert "Stopped at 2 of 5; go on with: " in capsys.readouterr().out
    assert run.status().state == "stopped" and len(captions_in(workspace)) == 2
    monkeypatch.setattr(LoadedBlip, "caption", real)
    assert main(["caption", str(run.path)]) == 0
    assert run.status().state == "finished" and len(captions_in(workspace)) == 5


def test_only_the_pictures_that_are_named_are_captioned(workspace):
    assert set(caption_dataset(job(pictures=["4.png", "2.png"]), workspace)) == {"2.png", "4.png"}
    before = captions_in(workspace)
    dataset.write_captions(dataset.read(workspace.datasets / "costume"), {"2.png": "by hand", "4.png": "by hand"}, "edited")
    assert caption_dataset(job(pictures=["2.png"]), workspace) == {}, "there is one already"
    assert set(caption_dataset(job(pictures=["2.png"], existing="overwrite"), workspace)) == {"2.png"}
    assert captions_in(workspace) == {"2.png": before["2.png"], "4.png": "by hand"}


def test_pictures_that_are_not_there_are_named(workspace):
    with pytest.raises(UserError, match=r"no such picture in .*: 9\.png, \.\./1\.png; read"):
        caption_dataset(job(pictures=["1.png", "9.png", "../1.png"]), workspace)
    with pytest.raises(UserError, match="and 3 more"):
        caption_dataset(job(pictures=[f"{number}.jpg" for number in range(8)]), workspace)
    assert captions_in(workspace) == {}


def test_unreadable_pictures_are_reported_and_the_rest_go_on(workspace, tmp_path, monkeypatch):
    folder = workspace.datasets / "costume"
    (folder / "bad.png").write_bytes(b"x")
    real = engine.images.load_rgb

    def breaks_later(path):
        if path.name == "3.png":
            raise UserError(f"{path} is damaged.")
        return real(path)

    monkeypatch.setattr(engine.images, "load_rgb", breaks_later)
    log = events.EventLog(tmp_path / "events.jsonl")
    assert set(caption_dataset(job(), workspace, log)) == {"1.png", "2.png", "4.png", "5.png"}
    warned = [event.message for event in events.read(log.path) if event.kind == "warned"]
    assert len(warned) == 2 and "bad.png" in warned[0] and "3.png" in warned[1]


def test_captioning_nothing_is_not_called_done(workspace, tmp_path, monkeypatch):
    def broken(path):
        raise UserError(f"{path} is damaged.")

    monkeypatch.setattr(engine.images, "load_rgb", broken)
    log = events.EventLog(tmp_path / "events.jsonl")
    with pytest.raises(UserError, match="None of the 5 pictures"):
        caption_dataset(job(), workspace, log)
    assert kinds(log)[-1] == "failed"


def test_a_caption_written_by_somebody_meanwhile_stays(workspace, tmp_path, monkeypatch):
    real = LoadedBlip.caption

    def somebody_writes(self, pictures, prompt=""):
        (workspace.datasets / "costume" / "2.txt").write_text("by hand")
        return real(self, pictures, prompt)

    monkeypatch.setattr(LoadedBlip, "caption", somebody_writes)
    log = events.EventLog(tmp_path / "events.jsonl")
    assert "2.png" not in caption_dataset(job(), workspace, log)
    assert captions_in(workspace)["2.png"] == "by hand" and len(captions_in(workspace)) == 5
    assert any(event.kind == "warned" and "2.png" in event.message for event in events.read(log.path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "nothing"}, "does not exist"),
        ({"model": "nothing"}, "There is no captioner model"),
        ({"captioner": "florence"}, "no captioner 'florence'; known: blip"),
    ],
)
def test_bad_jobs_are_one_sentence_and_write_nothing(workspace, tmp_path, changes, message):
    log = events.EventLog(tmp_path / "events.jsonl")
    with pytest.raises(UserError, match=message):
        caption_dataset(CaptionJob(**{"dataset": "costume", **changes}), workspace, log)
    assert kinds(log)[-1] == "failed" and captions_in(workspace) == {}


def test_too_little_memory_says_which_setting_to_lower(workspace, monkeypatch):
    def full(self, pictures, prompt=""):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(LoadedBlip, "caption", full)
    with pytest.raises(UserError, match="lower batch_size"):
        caption_dataset(job(), workspace)


def test_the_model_config_is_what_the_published_one_says(blip):
    """The fixture stands in for the real download: same files, same class names."""
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "vocab.txt"} <= {
        p.name for p in blip.iterdir()
    }
    assert json.loads((blip / "config.json").read_text())["architectures"] == ["BlipForConditionalGeneration"]
