"""DreamBooth: whole models are trained, stopped and gone on with, written as files that others read, and put on as any result is."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from original import read_part
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import tiny_model, tiny_sd

from nosnja_gui import events, weights
from nosnja_gui.engine import train as training
from nosnja_gui.engine.models import load_model, load_to_train_whole
from nosnja_gui.engine.sampler import ImageRequest, sample
from nosnja_gui.engine.train import train
from nosnja_gui.families import FAMILIES
from nosnja_gui.families.loading import skeleton
from nosnja_gui.families.saving import modules_of, tensors_of, weights_of
from nosnja_gui.methods import method_of, put_on, set_weights, take_off
from nosnja_gui.methods.dreambooth import ENTRY as DREAMBOOTH
from nosnja_gui.models import find_model, identify, list_models
from nosnja_gui.plan import plan_training
from nosnja_gui.settings import UserError
from nosnja_gui.sources import Standard
from nosnja_gui.workspace import Workspace
from tests.small_training import draw_pictures, job, run_of

torch.set_num_threads(1)
CPU = torch.device("cpu")
KINDS = ("sd1", "sd2", "sdxl")
PREDICTIONS = {"sd1": "epsilon", "sd2": "v_prediction", "sdxl": "epsilon"}
UNET_ALONE = {"optimizer__text_encoder_learning_rate": None}
REQUEST = ImageRequest("a girl in a coat", sampler="euler", steps=2, width=64, height=64, cfg_scale=3)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("dreambooth") / "workspace").create()
    for kind in KINDS:
        tiny_model(workspace.models / kind, kind, prediction_type=PREDICTIONS[kind])
    draw_pictures(workspace.datasets / "coats", 4)
    return workspace


def small(**changes):
    """Two steps on a whole model."""
    settings = {
        "method": "dreambooth", "dataset__resolution": 64, "dataset__bucket_step": 32, "dataset__repeats": 1, "training__epochs": 1,
        "training__batch_size": 2, "optimizer__learning_rate": 1e-3, "optimizer__text_encoder_learning_rate": 1e-3,
    }  # fmt: skip
    return job(**{**settings, **changes})


def trained(workspace, name, **changes):
    run = run_of(workspace, name, small(**changes))
    return train(run.job(), run, workspace), run


def said(run, kind):
    return [event for event in events.read(run.events) if isinstance(event, kind)]


def state(family, parts):
    return {(part, name): weight.detach().clone() for part, module in modules_of(family, parts).items()
            for name, weight in weights_of(part, module).items()}  # fmt: skip


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def results(workspace):
    """A result of each kind, in float32 with a diffusers folder beside it."""
    return {kind: trained(workspace, kind, model__path=kind, dreambooth__diffusers_folder=True) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_a_model_learns_and_its_file_is_that_model(workspace, results, kind):
    file, run = results[kind]
    family, base = load_model(workspace.models / kind, CPU, torch.float32)
    _, found = load_model(file, CPU, torch.float32)
    before, after = state(family, base), state(family, found)
    moved = [key for key in before if not torch.equal(before[key], after[key])]
    assert before.keys() == after.keys() and len(moved) > 0.9 * len(before)
    assert {part for part, _ in moved} == set(family.adapter_parts)
    assert all(torch.equal(one, other) for one, other in zip(base.vae.state_dict().values(), found.vae.state_dict().values(), strict=True))
    assert found.prediction_type == PREDICTIONS[kind]
    (checked,) = said(run, events.ReadBack)
    assert checked.ours == 0.0 and checked.diffusers is None
    assert set(said(run, events.Step)[-1].learning_rates) == set(family.adapter_parts)
    with safe_open(file, "pt") as content:
        told = content.metadata()
    assert told["format"] == "pt" and told["nosnja_method"] == "dreambooth" and told["nosnja_trains"] == "everything"
    begins = {"sd1": "stable-diffusion-v1", "sd2": "stable-diffusion-v2-768-v", "sdxl": "stable-diffusion-xl-v1-base"}[kind]
    assert told["modelspec.architecture"] == begins
    assert told["modelspec.prediction_type"] == {"v_prediction": "v"}.get(PREDICTIONS[kind], PREDICTIONS[kind])


# Its files


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_size_file_has_the_names_and_shapes_of_the_real_ones(kind):
    """Against the recorded keys of published checkpoints; no weight is made."""
    family = FAMILIES[kind]
    source = Standard(family.standard)
    parts = family.skeleton(source)
    parts.vae = skeleton("AutoencoderKL", source.config("vae"))
    lines = gzip.decompress((Path(__file__).parent / "facts" / f"{kind}_keys.txt.gz").read_bytes()).decode().splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    real = {key: tuple(int(side) for side in shape.split(",") if side) for key, shape in rows}
    written = {key: shape for key, (shape, _) in tensors_of(family, parts).items()}
    assert written.keys() == real.keys()
    # SDXL's file has its linear layers as such, as SD 2.x's; the facts were recorded the same way.
    assert {key: (shape, real[key]) for key, shape in written.items() if shape != real[key]} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_reads_the_file_as_the_same_model(workspace, results, kind):
    """Its own reader for single files, with nothing but the folder's configuration."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders import single_file_utils

    file, _ = results[kind]
    folder = workspace.models / kind
    family, ours = load_model(file, CPU, torch.float32)
    for part, cls, module in (("unet", UNet2DConditionModel, ours.denoiser), ("vae", AutoencoderKL, ours.vae)):
        read = cls.from_single_file(str(file), config=str(folder), subfolder=part, local_files_only=True).state_dict()
        expected = module.state_dict()
        assert read.keys() == expected.keys() and all(torch.equal(read[name], expected[name]) for name in expected)
    content = load_file(file)
    for part, module in list(modules_of(family, ours).items())[1:]:
        expected = {name: weight.detach() for name, weight in weights_of(part, module).items()}
        prefix = family.original.parts[part].prefix
        if prefix.endswith(".model."):
            # Its converter goes by the number of layers that the real models have: where these have fewer it leaves the rest out.
            read = single_file_utils.convert_open_clip_checkpoint(module, dict(content), prefix=prefix)
        else:
            read = single_file_utils.convert_ldm_clip_checkpoint(dict(content))
        read = {name.removeprefix("text_model."): tensor for name, tensor in read.items()}
        compared = {name.removeprefix("text_model."): tensor for name, tensor in expected.items()}
        assert compared.keys() <= read.keys() and all(torch.equal(read[name], compared[name]) for name in compared)


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_is_read_by_diffusers_and_by_us(workspace, results, kind):
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    file, run = results[kind]
    folder = run.weights / "diffusers" / file.stem
    family, from_file = load_model(file, CPU, torch.float32)
    other, from_folder = load_model(folder, CPU, torch.float32)
    assert family is other and same(state(family, from_file), state(family, from_folder))
    assert from_folder.prediction_type == PREDICTIONS[kind]
    assert sample(family, from_folder, [REQUEST])[0].tobytes() == sample(family, from_file, [REQUEST])[0].tobytes()
    cls = StableDiffusionXLPipeline if kind == "sdxl" else StableDiffusionPipeline
    pipeline = cls.from_pretrained(folder, local_files_only=True, **({} if kind == "sdxl" else {"safety_checker": None}))
    read = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder, "text_encoder_2": getattr(pipeline, "text_encoder_2", None)}
    for part, module in modules_of(family, from_file).items():
        expected, found = weights_of(part, module), weights_of(part, read[part])
        assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected), part
    assert pipeline.tokenizer("a girl in a coat").input_ids == from_file.tokenizers[0]("a girl in a coat").input_ids
    for part in (part for part in family.adapter_parts if part.startswith("text_encoder")):
        names = weights.shapes(folder / part / "model.safetensors")
        assert all(name.startswith(("text_model.", "text_projection.")) for name in names)
        tokenizer = folder / part.replace("text_encoder", "tokenizer")
        assert (tokenizer / "vocab.json").is_file() and (tokenizer / "merges.txt").is_file()
    told = "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.json") if "vocab" not in path.name)
    assert str(workspace.root) not in told and "_name_or_path" not in told
    assert json.loads((folder / "text_encoder" / "config.json").read_text())["architectures"] == ["CLIPTextModel"]
    assert list(run.weights.glob("*.safetensors")) == [file], "what other programs are for is no result of its own"


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_the_file_has_the_precision_that_was_asked_for(workspace, results, tmp_path, precision):
    family, parts = load_model(results["sdxl"][0], CPU, torch.float32)
    file = tmp_path / "half.safetensors"
    DREAMBOOTH.save(family, parts, file, {}, precision)
    exact, half = load_file(results["sdxl"][0]), load_file(file)
    number = getattr(torch, precision)
    assert exact.keys() == half.keys() and {tensor.dtype for tensor in half.values()} == {number, torch.int64}
    assert all(torch.equal(exact[name].to(half[name].dtype), half[name]) for name in exact)


def test_a_schedule_that_ends_in_noise_is_told(workspace, tmp_path):
    family, parts = load_model(workspace.models / "sdxl", CPU, torch.float32, prediction_type="v_prediction")
    parts.noise_schedule = {**parts.noise_schedule, "rescale_betas_zero_snr": True}
    DREAMBOOTH.save(family, parts, tmp_path / "v.safetensors", {}, "float16")
    assert {"v_pred", "ztsnr"} <= set(weights.shapes(tmp_path / "v.safetensors"))
    _, source = identify(tmp_path / "v.safetensors")
    assert family.prediction_of(source) == "v_prediction" and source.config("scheduler")["rescale_betas_zero_snr"] is True


def test_what_is_no_number_is_not_written(workspace, tmp_path):
    family, parts = load_model(workspace.models / "sd1", CPU, torch.float32)
    file = tmp_path / "model.safetensors"
    DREAMBOOTH.save(family, parts, file, {}, "float16")
    before = file.read_bytes()
    with torch.no_grad():
        parts.denoiser.conv_out.bias[0] = 1e6
    with pytest.raises(UserError, match=r"'model\.diffusion_model\.out\.2\.bias' is not made of finite numbers in float16"):
        DREAMBOOTH.save(family, parts, file, {}, "float16")
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_what_shapes_do_not_tell_is_told_by_the_file(tmp_path):
    """The demo kit's model is like no published one: other heads, no attention in its autoencoder, another schedule."""
    from nosnja_gui.demo.run import KIT

    family, parts = load_model(KIT / "sd", CPU, torch.float32)
    DREAMBOOTH.save(family, parts, tmp_path / "kit.safetensors", {}, "float32")
    _, again = load_model(tmp_path / "kit.safetensors", CPU, torch.float32)
    assert same(state(family, parts), state(family, again))
    assert sample(family, parts, [REQUEST])[0].tobytes() == sample(family, again, [REQUEST])[0].tobytes()
    told = weights.metadata(tmp_path / "kit.safetensors")
    assert "/tmp/" not in told["nosnja_config"] and set(told) == {"format", "nosnja_config"}
    # What somebody has broken there is as good as nothing.
    content = load_file(tmp_path / "kit.safetensors")
    for broken in ("{", "[]", '{"unet": {"block_out_channels": 3}}', '{"unet": {"block_out_channels": [9, 9, 9, 9, 9, 9]}}'):
        save_file(content, tmp_path / "broken.safetensors", {"nosnja_config": broken})
        family, source = identify(tmp_path / "broken.safetensors")
        assert source.config("unet")["block_out_channels"] == list(parts.denoiser.config.block_out_channels)


def test_another_vocabulary_cannot_be_written_and_is_refused(tmp_path):
    model = tiny_sd(tmp_path / "tiny")
    family, source = identify(model)
    problems = DREAMBOOTH.problems(small(model__path=str(model)).recipe(), family, source)
    assert set(problems) == {"model.path"} and "words of its own" in problems["model.path"]


# Putting it on


@pytest.mark.parametrize("kind", KINDS)
def test_put_on_at_1_it_is_the_trained_model_and_at_0_the_base_to_the_last_bit(workspace, results, kind):
    file, _ = results[kind]
    assert method_of(file) is DREAMBOOTH
    family, parts = load_model(workspace.models / kind, CPU, torch.float32)
    _, alone = load_model(file, CPU, torch.float32)
    base, trained_state = state(family, parts), state(family, alone)
    painted = [sample(family, one, [REQUEST])[0].tobytes() for one in (parts, alone)]
    assert painted[0] != painted[1]
    put_on(family, parts, file, "coat")
    assert same(state(family, parts), trained_state)
    assert sample(family, parts, [REQUEST])[0].tobytes() == painted[1]
    set_weights(family, parts, {"coat": 0.0})
    assert same(state(family, parts), base) and sample(family, parts, [REQUEST])[0].tobytes() == painted[0]
    set_weights(family, parts, {"coat": 0.5})
    for key, weight in state(family, parts).items():
        torch.testing.assert_close(weight, (base[key] + trained_state[key]) / 2, atol=1e-6, rtol=1e-5)
    take_off(family, parts, "coat")
    assert same(state(family, parts), base) and not parts.kept["dreambooth"].originals


def test_several_add_up(workspace, results, tmp_path):
    family, parts = load_model(workspace.models / "sd1", CPU, torch.float32)
    one, base = results["sd1"][0], state(family, parts)
    _, changed = load_model(one, CPU, torch.float32)
    with torch.no_grad():
        changed.denoiser.conv_in.weight += 0.25
    other = tmp_path / "other.safetensors"
    DREAMBOOTH.save(family, changed, other, {}, "float32")
    first, second = (state(family, load_model(file, CPU, torch.float32)[1]) for file in (one, other))
    put_on(family, parts, one, "a")
    put_on(family, parts, other, "b")
    set_weights(family, parts, {"a": 0.5, "b": -1.0})
    for key, weight in state(family, parts).items():
        torch.testing.assert_close(weight, base[key] + 0.5 * (first[key] - base[key]) - (second[key] - base[key]), atol=1e-6, rtol=1e-5)
    take_off(family, parts, "a")
    set_weights(family, parts, {"b": 1.0})
    assert same(state(family, parts), second)
    take_off(family, parts, "b")
    assert same(state(family, parts), base)


@pytest.mark.parametrize("first", ["lora", "model"])
def test_a_lora_that_changes_weights_goes_together_with_it(workspace, results, tmp_path, first):
    """Whichever is put on first, and whichever comes off first."""
    from nosnja_gui.adapters import Adapter, Full
    from nosnja_gui.adapters.writing import encode

    family, parts = load_model(workspace.models / "sd1", CPU, torch.float32)
    base = state(family, parts)
    address = "unet", "conv_in"
    difference = torch.full_like(base["unet", "conv_in.weight"], 0.125)
    lora = tmp_path / "lora.safetensors"
    lora.write_bytes(encode(Adapter({address: Full(difference)}), family.names(parts), "kohya", "float32"))
    model = results["sd1"][0]
    whole = state(family, load_model(model, CPU, torch.float32)[1])
    order = [("lora", lora), ("model", model)] if first == "lora" else [("model", model), ("lora", lora)]
    for name, file in order:
        put_on(family, parts, file, name)
    expected = dict(whole)
    expected["unet", "conv_in.weight"] = whole["unet", "conv_in.weight"] + difference
    assert same(state(family, parts), expected)
    take_off(family, parts, order[0][0])
    only = dict(base) | {("unet", "conv_in.weight"): base["unet", "conv_in.weight"] + difference}
    assert same(state(family, parts), whole if first == "lora" else only)
    take_off(family, parts, order[1][0])
    assert same(state(family, parts), base) and not parts.originals


def test_a_model_of_another_kind_or_shape_is_refused_and_changes_nothing(workspace, results, tmp_path):
    family, parts = load_model(workspace.models / "sd1", CPU, torch.float32)
    base = state(family, parts)
    with pytest.raises(UserError, match=r"is a Stable Diffusion XL model and does not fit sd1, a Stable Diffusion 1\.x model"):
        put_on(family, parts, results["sdxl"][0], "coat")
    _, wider = load_model(workspace.models / "sd1", CPU, torch.float32)
    wider.denoiser.conv_out = torch.nn.Conv2d(64, 8, 3)
    DREAMBOOTH.save(family, wider, tmp_path / "wider.safetensors", {}, "float32")
    with pytest.raises(UserError, match=r"for 'conv_out\.weight' of 4x64x3x3 numbers it has one of 8x64x3x3"):
        put_on(family, parts, tmp_path / "wider.safetensors", "coat")
    assert same(state(family, parts), base) and not parts.worn.get("dreambooth")


# Training


HARD = {
    "model__path": "sd1", "dataset__repeats": 2, "dataset__validation_share": 0.25, "validation__every_epochs": 1, "validation__draws": 1,
    "preview__prompts": ["a girl in a coat"], "preview__steps": 1, "preview__every_steps": 1, "training__gradient_accumulation": 1,
}  # fmt: skip
"""With looks in between."""


@pytest.fixture(scope="module")
def straight(workspace):
    return trained(workspace, "straight", **HARD)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_stopped_and_gone_on_with_it_ends_with_the_same_bits(workspace, straight, monkeypatch, checkpointing):
    """Gradient checkpointing makes every activation twice, also those of the text encoder, and changes no bit."""
    file, run = straight
    assert said(run, events.Validated) and said(run, events.Sampled)
    stopped = run_of(workspace, f"stopped-{checkpointing}", small(**HARD, training__gradient_checkpointing=checkpointing))
    update = training.update
    monkeypatch.setattr(training, "update", lambda state: (update(state), stopped.request("stop"))[0])
    train(stopped.job(), stopped, workspace)
    assert said(stopped, events.Stopped)[0].step == 1 and (stopped.checkpoints / "step-000001").is_dir()
    monkeypatch.undo()
    again = load_file(train(stopped.job(), stopped, workspace))
    whole = load_file(file)
    assert again.keys() == whole.keys() and all(torch.equal(again[name], whole[name]) for name in whole)
    assert [event.loss for event in said(stopped, events.Validated)][-1] == said(run, events.Validated)[-1].loss


def test_a_text_encoder_that_is_checkpointed_is_gone_through_again(workspace, monkeypatch):
    from transformers.models.clip.modeling_clip import CLIPMLP

    passes = []
    forward = CLIPMLP.forward
    monkeypatch.setattr(CLIPMLP, "forward", lambda self, hidden: passes.append(1) or forward(self, hidden))
    counts = []
    for checkpointing in (False, True):
        passes.clear()
        trained(
            workspace, f"layers-{checkpointing}", model__path="sd1", training__max_steps=1, training__gradient_checkpointing=checkpointing
        )
        counts.append(len(passes))
    assert counts[1] == counts[0] + 2, "two layers, once more in the one step"


@pytest.mark.parametrize(
    ("trains", "marks"), [("attention", (".attn1.", ".attn2.")), ("cross_attention", (".attn2.to_k.", ".attn2.to_v."))]
)
def test_a_part_of_it_can_be_trained(workspace, trains, marks):
    file, run = trained(workspace, f"only-{trains}", model__path="sd1", dreambooth__trains=trains, **UNET_ALONE, training__max_steps=1)
    family, base = load_model(workspace.models / "sd1", CPU, torch.float32)
    before, after = state(family, base), state(family, load_model(file, CPU, torch.float32)[1])
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    named = {("unet", name) for part, name in before if part == "unet" and any(mark in name for mark in marks)}
    # What is called so but got no gradient in the one step stays as it was.
    assert moved and moved <= named and len(moved) > 0.8 * len(named)
    _, source = identify(workspace.models / "sd1")
    count = DREAMBOOTH.trained_numbers(run.job().recipe(), family.demand(source))
    assert count == sum(before[key].numel() for key in named)


def test_it_computes_in_half_precision_and_keeps_its_weights_whole(workspace):
    family, parts = load_to_train_whole(workspace.models / "sd1", CPU, torch.bfloat16, trains_text=True)
    assert parts.dtype == torch.bfloat16
    weights_there = [weight for module in modules_of(family, parts).values() for weight in module.parameters()]
    assert {weight.dtype for weight in weights_there} == {torch.float32}
    _, exact = load_model(workspace.models / "sd1", CPU, torch.float32)
    assert same(state(family, parts), state(family, exact))
    noisy, steps = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    with torch.no_grad():
        text = family.encode_prompts(exact, ["a coat"])
        expected, found = family.predict(exact, noisy, steps, text), family.predict(parts, noisy, steps, text)
        spoken = family.encode_prompts(parts, ["a coat"]).hidden.float()
    assert found.dtype == torch.bfloat16 and 0 < (found.float() - expected).abs().max() < 0.1 * expected.abs().max()
    assert 0 < (spoken - text.hidden).abs().max() < 0.1 * text.hidden.abs().max()

    looks = {"preview__prompts": ["a coat"], "preview__steps": 1, "preview__every_epochs": 1}
    rates = {"optimizer__learning_rate": 1e-6, "optimizer__text_encoder_learning_rate": 1e-6}
    file, run = trained(workspace, "bfloat16", model__path="sd1", model__precision="bfloat16", **rates, **looks)
    before, after = state(family, exact), state(family, load_model(file, CPU, torch.float32)[1])
    # Steps of a millionth are lost on numbers of eight bits; here nearly every one is taken.
    moved = [(before[key] != after[key]).float().mean().item() for key in before if key[0] == "unet"]
    assert sum(share > 0.5 for share in moved) > 0.9 * len(moved)
    assert said(run, events.Sampled) and said(run, events.ReadBack)[0].ours < 0.02


def test_a_frozen_text_encoder_is_saved_as_it_came(workspace):
    file, _ = trained(workspace, "frozen-text", model__path="sd1", model__precision="bfloat16", **UNET_ALONE, training__max_steps=1)
    original, written = read_part(workspace.models / "sd1" / "text_encoder"), load_file(file)
    assert all(torch.equal(tensor, written[f"cond_stage_model.transformer.{name}"]) for name, tensor in original.items())


def test_float16_and_models_that_cannot_be_written_are_refused_before_anything_is_loaded(workspace, tmp_path):
    plan = plan_training(small(model__path="sd1", model__precision="float16"), workspace)
    assert set(plan.problems) == {"model.precision"} and "rounds its small updates to nothing" in plan.problems["model.precision"]
    assert "automatic" in plan.problems["model.precision"]
    for precision in ("auto", "bfloat16", "float32"):
        assert not plan_training(small(model__path="sd1", model__precision=precision), workspace).problems
    recipe = small(model__path="sd1").recipe()
    assert "choose LoRA" in DREAMBOOTH.problems(recipe, FAMILIES["sd35"], Standard(FAMILIES["sd1"].standard))["method"]


@pytest.mark.parametrize(("rate", "told"), [(1e-4, True), (5e-6, False)])
def test_the_rate_of_a_lora_is_said_to_be_too_high(workspace, rate, told):
    notes = plan_training(small(model__path="sd1", optimizer__learning_rate=rate), workspace).notes
    assert any("ruins a whole model in a few steps: 5e-6 is usual" in note for note in notes) is told


def test_weights_that_are_no_numbers_any_more_end_the_training(workspace):
    with pytest.raises(UserError, match="no longer"):
        trained(workspace, "burnt", model__path="sd1", optimizer__learning_rate=1.0, optimizer__max_grad_norm=0, training__epochs=30)
    run = workspace.runs / "burnt"
    assert not list((run / "weights").glob("*.safetensors"))


def test_a_disk_without_room_for_the_model_is_said_first(workspace, monkeypatch):
    monkeypatch.setattr(training, "free_bytes", lambda path: 1000)
    needed = []
    for folder in (False, True):
        with pytest.raises(UserError, match=r"it needs ([\d,]+) MB") as caught:
            trained(workspace, f"full-{folder}", model__path="sd1", dreambooth__diffusers_folder=folder, saving__every_epochs=1)
        needed.append(int(str(caught.value).partition("it needs ")[2].partition(" MB")[0].replace(",", "")))
    _, parts = load_model(workspace.models / "sd1", CPU, torch.float32)
    whole = [sum(weight.numel() for weight in module.parameters()) for module in (parts.denoiser, *parts.text_encoders, parts.vae)]
    states, files = 2 * 3 * 4 * sum(whole[:2]), 2 * 4 * sum(whole)  # that of the epoch, and the result
    assert needed == [round((states + files) / 1e6), round((states + 2 * files) / 1e6)]


def test_whole_models_need_the_memory_of_their_weights_gradients_and_moments(workspace):
    from dataclasses import replace

    from test_estimate import PLAN, real

    from nosnja_gui.estimate import GIB, memory

    plan, demand = replace(PLAN, resolution=512), real("sd15")
    lora, whole = (memory(small(method=method, **UNET_ALONE), plan, demand, on_gpu=True) for method in ("lora", "dreambooth"))
    # The weights grow from 2 to 4 bytes each, gradients of 4 and moments of 8 come on top (SD 1.5 has 860 million).
    more = (whole["training"] - lora["training"]) / demand.unet.parameters
    assert more == pytest.approx(2 + 4 + 8, abs=0.1) and 12 < whole["training"] / GIB < 20
    with_text = memory(small(), plan, demand, on_gpu=True)
    assert with_text["training"] - whole["training"] > 16 * demand.text_encoder.parameters
    attention = memory(small(dreambooth__trains="attention", **UNET_ALONE), plan, demand, on_gpu=True)
    assert attention["training"] < whole["training"] - 4 * GIB


# What comes out is a base model


def test_results_are_base_models_by_the_name_of_their_run(workspace, results):
    file, run = results["sd1"]
    entries = {entry.name: entry for entry in list_models(workspace)}
    entry = entries["sd1/weights/coat.safetensors"]
    assert (entry.path, entry.family, entry.problem, entry.title) == (file, "sd1", "", "coat · sd1")
    assert find_model(entry.name, workspace.models) == find_model(run.path, workspace.models) == find_model(run.path) == file
    other, _ = trained(workspace, "second", model__path="sd1/weights/coat.safetensors", training__max_steps=1)
    assert find_model("second", workspace.models) == other
    assert not plan_training(small(model__path="second"), workspace).problems


def test_runs_of_loras_are_no_models(workspace):
    run = run_of(workspace, "a-lora", small(model__path="sd1", method="lora", training__max_steps=1))
    train(run.job(), run, workspace)
    assert not any("a-lora" in entry.name for entry in list_models(workspace))
    with pytest.raises(UserError, match="a run that trains no whole model"):
        find_model("a-lora", workspace.models)
    begun = run_of(workspace, "begun", small(model__path="sd1"))
    with pytest.raises(UserError, match="has not saved its model yet"):
        find_model(begun.path.name, workspace.models)


def test_the_library_takes_them_neither_for_loras_nor_for_broken_ones(workspace, results):
    from nosnja_gui.library import Library

    library = Library(workspace)
    while not library.look(5):
        pass
    assert "sd1" in {run.identifier for run in library.runs()}
    assert not [lora for lora in library.loras() if lora.run == "sd1"]


def test_the_list_of_models_notices_new_results(workspace):
    from nosnja_gui.models import mark

    list_models(workspace)
    before = mark(workspace)
    assert mark(workspace) == before
    trained(workspace, "news", model__path="sd1", training__max_steps=1)
    assert mark(workspace) != before
    assert any(entry.name.startswith("news/") for entry in list_models(workspace))


def test_a_grid_of_trained_models_and_of_their_weights(workspace, results):
    from nosnja_gui.engine.grid import run_grid
    from nosnja_gui.jobs import GridJob
    from nosnja_gui.runs import RunFolder

    plain = {"prompt": "a girl in a coat", "steps": 1, "width": 64, "height": 64, "sampler": "euler"}
    of_models = {**plain, "model": {"path": "sd1"}, "x": {"axis": "model", "values": ["sd1", "sd1/weights/coat.safetensors"]}}
    of_weights = {**plain, "run": "sd1", "x": {"axis": "weight", "values": [0, 1]}}
    painted = []
    for name, values in (("models", of_models), ("weights", of_weights)):
        wanted = GridJob.parse(values, where="test")
        run = RunFolder.create(workspace.runs / f"grid-{name}", wanted)
        run_grid(wanted, run, workspace)
        cells = said(run, events.Cell)
        assert len(cells) == 2 and not any(cell.error for cell in cells)
        painted.append({(run.path / cell.file).read_bytes() for cell in cells})
    assert all(len(pictures) == 2 for pictures in painted)
