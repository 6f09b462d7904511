"""Textual inversion: a word is trained beside the encoders' own, and its files are read by us and by the programs they are for."""

import collections
import json
import zipfile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import tiny_model
from tiny_sd35 import tiny_sd35

from nosnja_gui import embeddings, events, grids, methods
from nosnja_gui.adapters.inspection import Trigger, inspect
from nosnja_gui.dataset import templates
from nosnja_gui.engine import train as loop
from nosnja_gui.engine.models import load_model
from nosnja_gui.engine.sampler import ImageRequest, sample
from nosnja_gui.engine.train import train, worded
from nosnja_gui.families import FAMILIES
from nosnja_gui.families.stable_diffusion import token_chunks
from nosnja_gui.jobs import GridJob
from nosnja_gui.library import Library
from nosnja_gui.methods import METHODS, TRAINED, Recipe
from nosnja_gui.methods.textual_inversion import ENTRY as WORD
from nosnja_gui.methods.textual_inversion import TextualInversionSettings, first_vectors
from nosnja_gui.plan import plan_training
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from nosnja_gui.tokens import pieces
from nosnja_gui.workspace import Workspace
from tests.small_training import draw_pictures, job, run_of, said

torch.set_num_threads(1)
KINDS = ("sd1", "sd2", "sdxl")
PROMPT = ImageRequest(
    prompt="a photo of Zebrozok in snow", negative_prompt="fog", steps=2, width=64, height=64, sampler="euler", cfg_scale=2
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    torch.set_num_threads(1)
    workspace = Workspace(tmp_path_factory.mktemp("words") / "workspace").create()
    for kind in KINDS:
        tiny_model(workspace.models / kind, kind)
    tiny_sd35(workspace.models / "sd35")
    draw_pictures(workspace.datasets / "coats", 4)
    return workspace


def small(**changes):
    usual = {
        "method": "textual_inversion", "trigger": "zebrozok", "model__path": "sd1", "dataset__resolution": 64, "dataset__bucket_step": 32,
        "training__epochs": 1, "training__batch_size": 2, "training__max_steps": 2, "textual_inversion__vectors": 3,
        "optimizer__learning_rate": 5e-2, "schedule__name": "constant", "schedule__warmup_share": 0,
    }  # fmt: skip
    return job(**usual | changes)


def loaded(workspace, kind, dtype=torch.float32):
    return load_model(workspace.models / kind, torch.device("cpu"), dtype)


def attached(workspace, kind="sd1", trigger="zebrozok", **settings):
    family, parts = loaded(workspace, kind)
    torch.manual_seed(1)
    trainables = WORD.attach(family, parts, Recipe({"textual_inversion": TextualInversionSettings(**settings)}, trigger))
    return family, parts, trainables


def put(workspace, kind, tensors, word="zebrozok", name="word"):
    family, parts = loaded(workspace, kind)
    WORD.put_on(family, parts, embeddings.Embedding(word, tensors), name)
    return family, parts


def pixels(images):
    return torch.stack([torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).float() for image in images])


def painted(family, parts, **changes):
    return pixels(sample(family, parts, [ImageRequest(**vars(PROMPT) | changes)]))


def stopping(run):
    """An update that asks its run to stop when it is done."""
    update = loop.update

    def updated(training):
        run.request("stop")
        return update(training)

    return updated


def vectors(kind, count=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    widths = {"sd1": {"emb_params": 64}, "sd2": {"emb_params": 1024}, "sdxl": {"clip_l": 64, "clip_g": 128}}[kind]
    return {key: torch.randn(count, width, generator=draw) for key, width in widths.items()}


# Training


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_is_trained_and_painted_with_and_nothing_else_moves(workspace, kind, monkeypatch):
    seen = {}
    begin = methods.METHODS["textual_inversion"].attach

    def watched(family, parts, recipe):
        seen["before"] = {
            f"{number}.{name}": tensor.clone()
            for number, module in enumerate((parts.denoiser, parts.vae, *parts.text_encoders))
            for name, tensor in module.state_dict().items()
        }
        seen["family"], seen["parts"] = family, parts
        found = begin(family, parts, recipe)
        seen["first"] = [rows.detach().clone() for trainable in found for rows in trainable.parameters]
        seen["trainables"] = found
        return found

    monkeypatch.setattr(WORD, "attach", watched)
    run = run_of(workspace, f"{kind}-whole", small(model__path=kind))
    file = train(run.job(), run, workspace)
    monkeypatch.undo()

    family, parts = seen["family"], seen["parts"]
    after = {
        f"{number}.{name.replace('token_embedding.table.', 'token_embedding.')}": tensor
        for number, module in enumerate((parts.denoiser, parts.vae, *parts.text_encoders))
        for name, tensor in module.state_dict().items()
        if ".rows." not in name
    }
    assert after.keys() == seen["before"].keys() and any("token_embedding" in name for name in after)
    assert all(torch.equal(after[name], seen["before"][name]) for name in after)
    learned = [rows for trainable in seen["trainables"] for rows in trainable.parameters]
    assert len(learned) == len(family.embedding_keys)
    # Each row of each encoder has moved.
    assert all(((now - then).abs().amax(dim=1) > 1e-3).all() for now, then in zip(learned, seen["first"], strict=True))

    (checked,) = said(run, events.ReadBack)
    assert checked.ours == 0.0 and checked.diffusers is None
    expected = painted(family, parts)
    fresh_family, fresh = loaded(workspace, kind)
    base = painted(fresh_family, fresh)
    methods.put_on(fresh_family, fresh, file, "mine")
    assert torch.equal(painted(fresh_family, fresh), expected) and (expected - base).abs().max() > 0
    methods.set_weights(fresh_family, fresh, {"mine": 0.0})
    assert torch.equal(painted(fresh_family, fresh), base) and not fresh.words
    methods.take_off(fresh_family, fresh, "mine")
    assert all(type(place.token_embedding) is torch.nn.Embedding for place in fresh_family.word_tables(fresh))
    assert torch.equal(painted(fresh_family, fresh), base)
    rates = said(run, events.Step)[-1].learning_rates
    assert set(rates) == {"embedding", *(["embedding_2"] if kind == "sdxl" else [])}
    with safe_open(file, "pt") as content:
        assert set(content.keys()) == set(family.embedding_keys)
        told = content.metadata()
    assert told["nosnja_word"] == "zebrozok" and told["nosnja_vectors"] == "3"
    assert told["modelspec.architecture"].endswith("/textual-inversion") and told["modelspec.trigger_phrase"] == "zebrozok"


@pytest.mark.parametrize("way", ["captions", "object", "dropout"])
def test_stopped_and_gone_on_with_gives_the_same_bits(workspace, way, monkeypatch):
    changes = {"dataset__caption_dropout": 0.9} if way == "dropout" else {"textual_inversion__templates": way}
    whole = run_of(workspace, f"straight-{way}", small(training__max_steps=3, **changes))
    expected = load_file(train(whole.job(), whole, workspace))
    stopped = run_of(workspace, f"stopped-{way}", small(training__max_steps=3, **changes))
    monkeypatch.setattr(loop, "update", stopping(stopped))
    train(stopped.job(), stopped, workspace)
    assert said(stopped, events.Stopped) and not said(stopped, events.Finished)
    monkeypatch.undo()
    again = load_file(train(stopped.job(), stopped, workspace))
    assert torch.equal(again["emb_params"], expected["emb_params"])


def test_previews_show_the_word_as_it_is_at_that_step(workspace):
    preview = {"preview__prompts": ["a zebrozok"], "preview__every_steps": 1, "preview__steps": 1, "preview__sampler": "ddim"}
    run = run_of(workspace, "looked-at", small(**preview, optimizer__learning_rate=0.9))
    train(run.job(), run, workspace)
    shown = [(run.path / name).read_bytes() for event in said(run, events.Sampled) for name in event.files]
    assert len(shown) == 2 and shown[0] != shown[1]


def test_the_encodings_that_are_kept_notice_a_step_that_leaves_the_sum_as_it_was(workspace):
    family, parts, (trainable,) = attached(workspace)
    encodings = {}
    first = pixels(sample(family, parts, [PROMPT], encodings=encodings))
    with torch.no_grad():
        trainable.parameters[0].copy_(trainable.parameters[0].flip(0))
    second = pixels(sample(family, parts, [PROMPT], encodings=encodings))
    assert not torch.equal(first, second) and torch.equal(second, painted(family, parts))


def test_the_length_of_words_can_be_kept(workspace):
    family, parts, (trainable,) = attached(workspace, keep_norm=True, vectors=2)
    with torch.no_grad():
        trainable.parameters[0].mul_(7)
    trainable.after_update()
    usual = family.word_tables(parts)[0].token_embedding.table.weight.norm(dim=1).mean()
    torch.testing.assert_close(trainable.parameters[0].norm(dim=1).detach(), usual.expand(2))
    assert attached(workspace)[2][0].after_update is None


def test_a_word_may_learn_at_a_rate_of_its_own(workspace):
    run = run_of(workspace, "own-rate", small(textual_inversion__learning_rate=3e-3, training__max_steps=1))
    train(run.job(), run, workspace)
    assert said(run, events.Step)[-1].learning_rates == {"embedding": 3e-3}


def test_a_frozen_model_in_half_precision_teaches_as_well(workspace):
    run = run_of(workspace, "half", small(model__precision="bfloat16", saving__precision="float16", training__max_steps=1))
    file = train(run.job(), run, workspace)
    assert load_file(file)["emb_params"].dtype == torch.float16 and said(run, events.ReadBack)[0].ours < 0.1


# What it begins with


def test_it_begins_as_the_words_it_is_given_or_as_noise_like_them(workspace):
    family, parts = loaded(workspace, "sd1")
    table, tokenizer = family.word_tables(parts)[0].token_embedding.weight, parts.tokenizers[0]
    dog, cat, hat = (table[tokenizer(word, add_special_tokens=False).input_ids[0]] for word in ("dog", "cat", "hat"))

    def begun(text, count):
        return first_vectors(table, tokenizer, TextualInversionSettings(initial_text=text, vectors=count))

    assert torch.equal(begun("dog cat", 4), torch.stack([dog, dog, cat, cat]))
    assert torch.equal(begun("dog cat hat", 3), torch.stack([dog, cat, hat]))
    torch.testing.assert_close(begun("dog cat hat", 2), torch.stack([dog, (cat + hat) / 2]))
    torch.testing.assert_close(begun("dog cat hat", 1), torch.stack([(dog + cat + hat) / 3]))
    torch.manual_seed(0)
    noise = begun("", 32)
    torch.manual_seed(0)
    assert torch.equal(noise, begun("  ", 32))
    assert abs(noise.std() / table.std() - 1) < 0.1 and noise.unique(dim=0).shape[0] == 32


# Where the word stands in a prompt


def test_words_are_found_whatever_their_case_and_not_inside_of_others():
    assert pieces("A Coat, coats and coat.", ["coat"]) == ["A ", "Coat", ", coats and ", "coat", "."]
    assert pieces("my coat of arms", ["coat", "coat of arms"]) == ["my ", "coat of arms", ""]
    assert pieces("a<cat>b (x.y)", ["<cat>", "x.y"]) == ["a", "<cat>", "b (", "x.y", ")"]
    assert pieces("anything", []) == ["anything"]


def test_vectors_take_that_many_places_and_stay_in_one_window(workspace):
    _, parts = loaded(workspace, "sd1")
    tokenizer = parts.tokenizers[0]
    words = {"zebrozok": (-1, -2, -3)}
    (dog,) = tokenizer("dog", add_special_tokens=False).input_ids
    one = token_chunks(tokenizer, ["dog ZEBROZOK dog"], 1, 77, words)
    assert one[0, 0, :7].tolist() == [tokenizer.bos_token_id, dog, -1, -2, -3, dog, tokenizer.eos_token_id]
    two = token_chunks(tokenizer, ["dog " * 74 + "zebrozok dog"], 4, 77, words)
    assert two.shape == (1, 2, 77)
    assert two[0, 0, 74:].tolist() == [dog, tokenizer.eos_token_id, tokenizer.eos_token_id]
    assert two[0, 1, 1:5].tolist() == [-1, -2, -3, dog]
    plain = token_chunks(tokenizer, ["dog " * 100], 4, 77)
    assert torch.equal(plain, token_chunks(tokenizer, ["dog " * 100], 4, 77, words)) and plain.shape == (1, 2, 77)


def test_sdxl_still_finds_the_end_of_a_text_as_its_largest_id(workspace):
    """So its published configuration has it (eos_token_id 2); transformers then takes the place of the largest id."""
    family, parts = put(workspace, "sdxl", vectors("sdxl"))
    prompts = ["a dog", "a dog and zebrozok in snow"]
    expected = family.encode_prompts(parts, prompts).pooled
    encoder = parts.text_encoders[1]
    inner = getattr(encoder, "text_model", encoder)
    assert inner.eos_token_id == 49407
    inner.eos_token_id = 2
    assert torch.equal(family.encode_prompts(parts, prompts).pooled, expected)


def test_a_word_works_in_the_negative_prompt_and_by_weight(workspace):
    family, parts = loaded(workspace, "sd1")
    base = painted(family, parts, prompt="a dog", negative_prompt="zebrozok")
    WORD.put_on(family, parts, embeddings.Embedding("Zebrozok", vectors("sd1")), "a")
    assert not torch.equal(painted(family, parts, prompt="a dog", negative_prompt="zebrozok"), base)
    whole = family.encode_prompts(parts, ["a zebrozok"]).hidden
    methods.set_weights(family, parts, {"a": 0.5})
    half = family.encode_prompts(parts, ["a zebrozok"]).hidden
    methods.take_off(family, parts, "a")
    WORD.put_on(family, parts, embeddings.Embedding("zebrozok", {"emb_params": vectors("sd1")["emb_params"] / 2}), "b")
    assert torch.equal(family.encode_prompts(parts, ["a zebrozok"]).hidden, half) and not torch.equal(half, whole)


def test_several_words_are_on_at_once_and_come_off_in_any_order(workspace):
    family, parts = put(workspace, "sdxl", vectors("sdxl", 2), "brobro", "keys")  # a name that torch's containers have themselves
    alone = family.encode_prompts(parts, ["a brobro"]).hidden
    WORD.put_on(family, parts, embeddings.Embedding("zebrozok", vectors("sdxl", 3, seed=5)), "v1.2")
    both = family.encode_prompts(parts, ["a brobro", "a zebrozok"]).hidden
    torch.testing.assert_close(both[:1], alone)
    methods.take_off(family, parts, "keys")
    torch.testing.assert_close(family.encode_prompts(parts, ["a brobro", "a zebrozok"]).hidden[1:], both[1:])
    assert set(parts.words) == {"zebrozok"}


# Files


@pytest.fixture(scope="module")
def written(workspace):
    found = {}
    for kind in ("sd1", "sdxl"):
        run = run_of(workspace, f"{kind}-files", small(model__path=kind, name="felt hat", textual_inversion__vectors=2, trigger="zebrozok"))
        found[kind] = train(run.job(), run, workspace)
    return found


def test_the_pt_is_as_a1111_writes_it(written):
    """AUTOMATIC1111/stable-diffusion-webui modules/textual_inversion/textual_inversion.py, Embedding.save."""
    file = written["sd1"]
    content = torch.load(file.parent / "a1111" / f"{file.stem}.pt", weights_only=True)
    # A1111's modules/safe.py knows no records of archives but version, data.pkl and data/0.
    assert not zipfile.is_zipfile(file.parent / "a1111" / f"{file.stem}.pt")
    assert set(content) == {"string_to_token", "string_to_param", "name", "step", "sd_checkpoint", "sd_checkpoint_name"}
    assert content["string_to_token"] == {"*": 265} and content["name"] == "zebrozok" and content["step"] == 2
    assert torch.equal(content["string_to_param"]["*"], load_file(file)["emb_params"]) and content["sd_checkpoint_name"] == "sd1"
    assert not (written["sdxl"].parent / "a1111").exists() and not (written["sdxl"].parent / "diffusers").exists()


@pytest.mark.parametrize("which", ["a1111", "diffusers", "main"])
def test_diffusers_reads_it_and_encodes_the_same(workspace, written, which):
    file = written["sd1"]
    family, parts = loaded(workspace, "sd1")
    methods.put_on(family, parts, file, "mine")
    prompts = ["a photo of zebrozok in snow", "a dog"]
    expected = family.encode_prompts(parts, prompts).hidden
    methods.take_off(family, parts, "mine")
    pipeline = family.pipeline(parts)
    other = {"a1111": file.parent / "a1111" / f"{file.stem}.pt", "diffusers": file.parent / "diffusers" / file.name, "main": file}[which]
    pipeline.load_textual_inversion(str(other), local_files_only=True, **({"token": "zebrozok"} if which == "main" else {}))
    for prompt, row in zip(prompts, expected, strict=True):
        theirs, _ = pipeline.encode_prompt(prompt, torch.device("cpu"), 1, False)
        assert torch.equal(theirs[0], row)


def test_diffusers_paints_the_same_picture(workspace, written):
    family, parts = loaded(workspace, "sd1")
    methods.put_on(family, parts, written["sd1"], "mine")
    ours = painted(family, parts, prompt="a zebrozok", sampler="ddim", cfg_scale=2)
    methods.take_off(family, parts, "mine")
    pipeline = family.pipeline(parts)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_textual_inversion(str(written["sd1"].parent / "diffusers" / written["sd1"].name), local_files_only=True)
    noise = torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(1))[None]
    theirs = pipeline("a zebrozok", negative_prompt="fog", num_inference_steps=2, guidance_scale=2, latents=noise, height=64, width=64)
    # Two programs' rounding: a level here and there.
    assert (pixels(theirs.images) - ours).abs().max() <= 2


def test_diffusers_reads_both_halves_of_sdxls(workspace, written):
    """As its docs on textual inversion have it: each half with its own encoder and tokenizer."""
    family, parts = loaded(workspace, "sdxl")
    methods.put_on(family, parts, written["sdxl"], "mine")
    expected = family.encode_prompts(parts, ["a photo of zebrozok"])
    methods.take_off(family, parts, "mine")
    pipeline, halves = family.pipeline(parts), load_file(written["sdxl"])
    for key, encoder, tokenizer in zip(family.embedding_keys, parts.text_encoders, parts.tokenizers, strict=True):
        pipeline.load_textual_inversion(halves[key], token="zebrozok", text_encoder=encoder, tokenizer=tokenizer)
    theirs, _, pooled, _ = pipeline.encode_prompt("a photo of zebrozok", device=torch.device("cpu"), do_classifier_free_guidance=False)
    torch.testing.assert_close(theirs, expected.hidden)
    torch.testing.assert_close(pooled, expected.pooled)


def of_many(tmp_path):
    rows = vectors("sd1", 2)["emb_params"]
    parameters = torch.nn.ParameterDict({"*": torch.nn.Parameter(rows)})
    nested = collections.OrderedDict(rows=rows)
    save_file({"emb_params": rows}, tmp_path / "hat.safetensors")
    save_file({"<hat>": rows}, tmp_path / "learned_embeds.safetensors")
    save_file({"string_to_param.*": rows}, tmp_path / "flat.safetensors")
    torch.save({"<hat>": rows[0]}, tmp_path / "learned_embeds.bin")
    torch.save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": parameters}, tmp_path / "first.pt")
    torch.save({"string_to_token": {"*": 265}, "string_to_param": nested, "name": "other", "step": 5}, tmp_path / "hat.pt")
    return rows


@pytest.mark.parametrize(
    ("name", "word", "count"),
    [
        ("hat.safetensors", "hat", 2), ("learned_embeds.safetensors", "<hat>", 2), ("flat.safetensors", "flat", 2),
        ("learned_embeds.bin", "<hat>", 1), ("first.pt", "first", 2), ("hat.pt", "hat", 2),
    ],
)  # fmt: skip
def test_files_of_other_programs_are_put_on(workspace, tmp_path, name, word, count):
    rows = of_many(tmp_path)
    family, parts = loaded(workspace, "sd1")
    methods.put_on(family, parts, tmp_path / name, "theirs")
    assert parts.worn == {"textual_inversion": {"theirs": 1.0}} and parts.words == {word: (tuple(range(-1, -1 - count, -1)),)}
    table = family.word_tables(parts)[0].token_embedding
    assert torch.equal(table(torch.tensor([[-1, 5]])), torch.stack([rows[0], table.table.weight[5]])[None])


def test_what_does_not_fit_is_said_and_changes_nothing(workspace, tmp_path):
    family, parts = loaded(workspace, "sd1")

    def refused(said, tensors=None, file=None):
        file = file or tmp_path / "x.safetensors"
        if tensors:
            save_file(tensors, file)
        with pytest.raises(UserError, match=said) as caught:
            WORD.apply(family, parts, file, "x")
        assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
        assert not parts.words and type(family.word_tables(parts)[0].token_embedding) is torch.nn.Embedding

    refused("768 numbers and the model's words have 64", {"emb_params": torch.zeros(2, 768)})
    refused("made for SDXL", vectors("sdxl"))
    refused("not finite", {"emb_params": torch.full((2, 64), torch.nan)})
    refused("emb_params_out", {**vectors("sd1"), "emb_params_out": torch.zeros(3, 64)})
    refused("76 vectors", {"emb_params": torch.zeros(76, 64)})
    refused("holds no textual inversion", {"a.weight": torch.zeros(2, 2), "b.weight": torch.zeros(2, 2)})
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04rubbish")
    refused("damaged", file=tmp_path / "cut.pt")

    class Program:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"string_to_param": {"*": Program()}}, tmp_path / "hostile.pt")
    refused("cannot be read safely", file=tmp_path / "hostile.pt")
    with pytest.raises(UserError, match=r"made for SD 1\.x or 2\.x"):
        put(workspace, "sdxl", vectors("sd1"))


def test_numbers_that_are_none_are_not_written(workspace, tmp_path):
    family, parts, (trainable,) = attached(workspace)
    with torch.no_grad():
        trainable.parameters[0][0, 0] = torch.inf
    with pytest.raises(UserError, match="no finite numbers"):
        WORD.save(family, parts, tmp_path / "weights" / "x.safetensors", {})
    assert not list(tmp_path.rglob("*.*"))
    assert parts.worn["textual_inversion"] == {TRAINED: 1.0}


# What is said before, and what files are found


def test_problems_stand_at_their_fields(workspace):
    def problems(**changes):
        return plan_training(small(**changes), workspace).problems

    assert problems() == {} and problems(trigger="", textual_inversion__word="zebrozok") == {}
    assert "needs a word" in problems(trigger=" ")["textual_inversion.word"]
    assert "no letter" in problems(trigger="<*>")["textual_inversion.word"]
    assert "Stable Diffusion 3.5 can't be taught" in problems(model__path="sd35")["method"]
    assert FAMILIES["sd35"].embedding_keys == ()


def test_what_is_worth_knowing_is_remarked(workspace):
    def notes(**changes):
        return " ".join(plan_training(small(**changes), workspace).notes)

    assert "word of the model already" in notes(trigger="coat") and "already" not in notes()
    assert "4 tokens for 3 vectors" in notes(textual_inversion__initial_text="a red felt hat")
    assert "without the trigger word" not in notes()


def test_captions_get_the_word_and_phrases_follow_from_the_number():
    wanted = small()
    assert worded(wanted, "a girl in a coat", 5) == "zebrozok, a girl in a coat" and worded(wanted, "", 5) == "zebrozok"
    assert worded(wanted, "a girl, Zebrozok", 5) == "a girl, Zebrozok"
    other = small(textual_inversion__templates="style", textual_inversion__word="S{}")
    assert worded(other, "a girl", 7) == worded(other, "", 7) and worded(other, "", 7).endswith("in the style of S{}")
    assert worded(job(), "a girl", 7) == "a girl"
    for kind, phrases in (("object", templates.OBJECT), ("style", templates.STYLE)):
        shown = {templates.fill(kind, "w", number) for number in range(len(phrases))}
        assert len(shown) == len(phrases) > 15 and all(text.split().count("w") == 1 for text in shown)


def test_the_file_is_said_to_be_what_it_is(workspace, written):
    seen = inspect(written["sd1"])
    assert seen.kinds == ("textual inversion",) and not seen.problems and seen.words == {"zebrozok": 2}
    assert seen.triggers == (Trigger("zebrozok"),) and seen.settings["embedding"] == {"zebrozok": "2 vectors"}
    assert inspect(written["sdxl"]).family == "SDXL" and inspect(written["sdxl"]).text_encoders == ("text_encoder", "text_encoder_2")
    assert inspect(written["sd1"].parent / "diffusers" / written["sd1"].name).layout == "diffusers"
    told = Library(workspace)
    told.look(20)
    (found,) = [lora for lora in told.loras() if lora.run == "sd1-files"]
    assert (found.kind, found.trigger, found.problem) == ("textual inversion", "zebrozok", "")


def test_grids_offer_it_and_paint_with_it(workspace, written):
    folder = workspace.models / "embeddings"
    folder.mkdir(exist_ok=True)
    (folder / "hat.safetensors").write_bytes(written["sd1"].read_bytes())
    (folder / "old.pt").write_bytes((written["sd1"].parent / "a1111" / f"{written['sd1'].stem}.pt").read_bytes())
    offered = {lora.name for lora in grids.list_loras(workspace)}
    assert {"sd1-files/weights/felt-hat.safetensors", "embeddings/hat.safetensors", "embeddings/old.pt"} <= offered
    from nosnja_gui.engine.grid import run_grid

    wanted = GridJob.parse(
        {
            "model": {"path": "sd1"}, "prompt": "a photo of zebrozok, old", "x": {"axis": "weight", "values": [0, 1]}, "width": 64,
            "y": {"axis": "lora", "values": ["embeddings/hat.safetensors", "embeddings/old.pt"]}, "height": 64, "steps": 1,
        },
        where="test",
    )  # fmt: skip
    run = RunFolder.create(workspace.runs / "grid", wanted)
    run_grid(wanted, run, workspace)
    cells = said(run, events.Cell)
    assert len(cells) == 3 and not any(cell.error for cell in cells) and json.loads((run.path / "grid.json").read_text())
    assert list(METHODS)
