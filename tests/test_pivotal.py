"""Pivotal tuning: a LoRA and a word, trained together and kept in one file, and each in its own."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import tiny_model

from nosnja_gui import embeddings, events, methods
from nosnja_gui.adapters.inspection import inspect
from nosnja_gui.adapters.reading import read
from nosnja_gui.engine import lora_files
from nosnja_gui.engine import train as loop
from nosnja_gui.engine.models import load_model
from nosnja_gui.engine.sampler import ImageRequest, sample
from nosnja_gui.engine.train import train
from nosnja_gui.library import Library
from nosnja_gui.methods import METHODS
from nosnja_gui.methods.lora import ENTRY as LORA
from nosnja_gui.methods.pivotal import ENTRY as PIVOTAL
from nosnja_gui.plan import plan_training
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace
from tests.small_training import draw_pictures, job, run_of, said

torch.set_num_threads(1)
KINDS = ("sd1", "sd2", "sdxl")
PROMPT = ImageRequest(
    prompt="a photo of zebrozok in snow", negative_prompt="fog", steps=2, width=64, height=64, sampler="euler", cfg_scale=2
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    torch.set_num_threads(1)
    workspace = Workspace(tmp_path_factory.mktemp("pivotal") / "workspace").create()
    for kind in KINDS:
        tiny_model(workspace.models / kind, kind)
    draw_pictures(workspace.datasets / "coats", 4)
    return workspace


def small(**changes):
    usual = {
        "method": "pivotal", "trigger": "zebrozok", "model__path": "sd1", "dataset__resolution": 64, "dataset__bucket_step": 32,
        "training__epochs": 1, "training__batch_size": 2, "training__max_steps": 2, "textual_inversion__vectors": 2,
        "textual_inversion__learning_rate": 5e-2, "schedule__name": "constant", "schedule__warmup_share": 0,
    }  # fmt: skip
    return job(**usual | changes)


def loaded(workspace, kind):
    return load_model(workspace.models / kind, torch.device("cpu"), torch.float32)


def painted(family, parts):
    (image,) = sample(family, parts, [PROMPT])
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).float()


@pytest.fixture(scope="module")
def trained(workspace):
    """kind -> file, run, and what the trained parts themselves paint."""
    found = {}
    for kind in KINDS:
        seen = {}
        attach = type(PIVOTAL).attach

        def watched(self, family, parts, recipe, seen=seen, attach=attach):
            seen["parts"] = family, parts
            return attach(self, family, parts, recipe)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(PIVOTAL), "attach", watched)
            text = 1e-2 if kind == "sd1" else None
            run = run_of(workspace, kind, small(model__path=kind, optimizer__text_encoder_learning_rate=text))
            file = train(run.job(), run, workspace)
        found[kind] = file, run, painted(*seen["parts"])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_both_are_trained_and_one_file_paints_as_they_did(workspace, trained, kind):
    file, run, expected = trained[kind]
    (checked,) = said(run, events.ReadBack)
    assert checked.ours == 0.0
    rates = said(run, events.Step)[-1].learning_rates
    words = {"embedding", *(["embedding_2"] if kind == "sdxl" else [])}
    assert rates == {part: 5e-2 if part in words else 1e-2 for part in {"unet", *words, *(["text_encoder"] if kind == "sd1" else [])}}
    family, parts = loaded(workspace, kind)
    base = painted(family, parts)
    methods.put_on(family, parts, file, "v1.2")
    assert parts.worn == {"textual_inversion": {"v1.2": 1.0}, "lora": {"v1.2": 1.0}}
    assert torch.equal(painted(family, parts), expected)
    methods.set_weights(family, parts, {"v1.2": 0.5})
    assert (painted(family, parts) - expected).abs().max() > 0
    methods.set_weights(family, parts, {})
    assert torch.equal(painted(family, parts), base)
    methods.set_weights(family, parts, {"v1.2": 1.0})
    assert torch.equal(painted(family, parts), expected)
    methods.take_off(family, parts, "v1.2")
    assert torch.equal(painted(family, parts), base) and not any(parts.worn.values())
    assert all(type(place.token_embedding) is torch.nn.Embedding for place in family.word_tables(parts))


def test_the_method_itself_weighs_and_takes_off_both(workspace, trained):
    family, parts = loaded(workspace, "sd1")
    base = painted(family, parts)
    PIVOTAL.apply(family, parts, trained["sd1"][0], "both")
    PIVOTAL.set_weights(family, parts, {"both": 0.0})
    assert torch.equal(painted(family, parts), base)
    PIVOTAL.remove(family, parts, "both")
    assert not any(parts.worn.values())


def test_stopped_and_gone_on_with_gives_the_same_bits(workspace, trained, monkeypatch):
    update = loop.update
    stopped = run_of(workspace, "stopped", small(optimizer__text_encoder_learning_rate=1e-2))

    def stopping(training):
        stopped.request("stop")
        return update(training)

    monkeypatch.setattr(loop, "update", stopping)
    train(stopped.job(), stopped, workspace)
    assert said(stopped, events.Stopped) and not said(stopped, events.Finished)
    monkeypatch.undo()
    again, straight = load_file(train(stopped.job(), stopped, workspace)), load_file(trained["sd1"][0])
    assert again.keys() == straight.keys() and all(torch.equal(again[key], straight[key]) for key in again)


def test_the_file_brings_the_word_along_as_a1111_reads_it(trained):
    """AUTOMATIC1111/stable-diffusion-webui extensions-builtin/Lora/networks.py, load_network: bundle_emb.NAME.KEY."""
    file = trained["sd1"][0]
    tensors = load_file(file)
    alone, word = load_file(file.parent / "lora" / file.name), load_file(file.parent / "embeddings" / file.name)
    assert tensors.keys() - alone.keys() == {"bundle_emb.zebrozok.string_to_param.*"}
    assert torch.equal(tensors["bundle_emb.zebrozok.string_to_param.*"], word["emb_params"])
    assert all(torch.equal(tensors[key], alone[key]) for key in alone)
    two = load_file(trained["sdxl"][0])
    assert {key for key in two if key.startswith("bundle_emb")} == {"bundle_emb.zebrozok.clip_l", "bundle_emb.zebrozok.clip_g"}
    with safe_open(file, "pt") as content:
        told = content.metadata()
    assert told["ss_network_dim"] == "4" and told["nosnja_word"] == "zebrozok" and told["modelspec.architecture"].endswith("/lora")


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_both_files_of_their_own_are_put_on_and_read_by_diffusers(workspace, trained, kind):
    file = trained[kind][0]
    alone, word = file.parent / "lora" / file.name, file.parent / "embeddings" / file.name
    family, parts = loaded(workspace, kind)
    methods.put_on(family, parts, alone, "lora")
    methods.put_on(family, parts, word, "word")
    assert torch.equal(painted(family, parts), trained[kind][2])
    expected = family.encode_prompts(parts, [PROMPT.prompt]).hidden
    for name in ("lora", "word"):
        methods.take_off(family, parts, name)
    pipeline, halves = family.pipeline(parts), load_file(word)
    for key, encoder, tokenizer in zip(family.embedding_keys, parts.text_encoders, parts.tokenizers, strict=True):
        pipeline.load_textual_inversion(halves[key], token="zebrozok", text_encoder=encoder, tokenizer=tokenizer)
    pipeline.load_lora_weights(str(alone.parent), weight_name=alone.name, local_files_only=True)
    theirs = pipeline.encode_prompt(PROMPT.prompt, device=torch.device("cpu"), num_images_per_prompt=1, do_classifier_free_guidance=False)[
        0
    ]
    torch.testing.assert_close(theirs, expected, atol=1e-5, rtol=1e-4)


def test_readers_of_loras_do_not_stumble_over_the_word(workspace, trained, tmp_path):
    file = trained["sd1"][0]
    family, parts = loaded(workspace, "sd1")
    found = read(file, family.names(parts), "sd1")
    assert found.updates.keys() == read(file.parent / "lora" / file.name, family.names(parts), "sd1").updates.keys()
    seen = inspect(file)
    assert not seen.problems and seen.kinds == ("LoRA",)
    assert seen.words == {"zebrozok": 2} and seen.settings["embedding"] == {"zebrozok": "2 vectors"}
    assert [trigger.words for trigger in seen.triggers] == ["zebrozok"]
    told = Library(workspace)
    told.look(20)
    (lora,) = [lora for lora in told.loras() if lora.run == "sd1"]
    assert (lora.kind, lora.trigger, lora.problem) == ("LoRA", "zebrozok", "")
    with pytest.raises(UserError, match="is a textual inversion, no LoRA"):
        lora_files.open_lora(file.parent / "embeddings" / file.name)
    assert METHODS["lora"].recognises(load_file(file.parent / "lora" / file.name), {}) and methods.method_of(file) is PIVOTAL


def test_nothing_is_put_on_where_one_of_the_two_does_not_fit(workspace, trained, tmp_path):
    tensors = load_file(trained["sd1"][0])
    family, parts = loaded(workspace, "sd1")
    cases = {
        "64": {**tensors, "bundle_emb.zebrozok.string_to_param.*": torch.zeros(2, 8)},
        "2 words": {**tensors, "bundle_emb.other.string_to_param.*": torch.zeros(2, 64)},
        "incomplete": {key: tensor for key, tensor in tensors.items() if key != next(key for key in tensors if "lora_up" in key)},
        "without its vectors": {**tensors, "bundle_emb.zebrozok.string_to_param.*": torch.zeros(1, 1, 1)},
    }
    for number, (what, content) in enumerate(cases.items()):
        save_file(content, tmp_path / f"{number}.safetensors")
        with pytest.raises(UserError, match=what):
            methods.put_on(family, parts, tmp_path / f"{number}.safetensors", "x")
        assert not any(parts.worn.values()) and not parts.words


def test_a_word_of_another_program_is_read(workspace, trained, tmp_path):
    """Its vectors may lie under any key of an embedding's file; the word is that of the name."""
    tensors = load_file(trained["sd1"][0])
    rows = tensors.pop("bundle_emb.zebrozok.string_to_param.*")
    save_file({**tensors, "bundle_emb.hat.emb_params": rows}, tmp_path / "theirs.safetensors")
    (word,) = embeddings.bundled(tmp_path / "theirs.safetensors")
    assert word.word == "hat" and torch.equal(word.vectors["emb_params"], rows)


def test_problems_of_both_are_said(workspace):
    def problems(**changes):
        return plan_training(small(**changes), workspace).problems

    assert problems() == {}
    assert "needs a word" in problems(trigger="")["textual_inversion.word"]
    assert "full stop" in problems(trigger="mr.hat")["textual_inversion.word"]
    assert LORA.groups[0] == PIVOTAL.groups[0] and json.dumps(PIVOTAL.about(small().recipe()))
