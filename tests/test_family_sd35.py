"""Stable Diffusion 3.5 by its one file: read, prompted, painted and trained as diffusers does it, and refused in one sentence."""

import itertools
import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from nosnja_gui import events, weights
from nosnja_gui.adapters.inspection import inspect
from nosnja_gui.engine import grid, roundtrip
from nosnja_gui.engine import train as training
from nosnja_gui.engine.export import metadata
from nosnja_gui.engine.models import load_model
from nosnja_gui.engine.objectives import objective
from nosnja_gui.engine.sampler import FLOW_SAMPLERS, SAMPLERS, ImageRequest, sample
from nosnja_gui.engine.stand_in import stand_in
from nosnja_gui.engine.train import train
from nosnja_gui.estimate import GIB, Machine, estimate
from nosnja_gui.families import FAMILIES
from nosnja_gui.families.demand import of_layers
from nosnja_gui.families.sd35 import ATTENTION, _of_transformer
from nosnja_gui.families.sd35 import ENTRY as SD35
from nosnja_gui.jobs import GridJob, LossSettings, TrainJob
from nosnja_gui.methods import Recipe
from nosnja_gui.methods.lora import ENTRY as LORA
from nosnja_gui.methods.lora import LoraSettings
from nosnja_gui.models import check_model, demand_of, list_models
from nosnja_gui.plan import plan_training
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from nosnja_gui.sources import Changed, Folder, Standard
from nosnja_gui.workspace import Workspace
from tests.small_training import draw_pictures, job, run_of, said
from tests.tiny import tiny_model
from tests.tiny_sd35 import tiny_sd35

torch.set_num_threads(1)
CPU = torch.device("cpu")
PROMPTS = ["a girl in a red dress", "nosnja costume, " + "a green house " * 100, ""]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """With T5 and without."""
    where = tmp_path_factory.mktemp("models")
    return {t5: tiny_sd35(where / f"{t5}", t5=t5) for t5 in (True, False)}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = Workspace(tmp_path_factory.mktemp("sd35") / "workspace").create()
    tiny_sd35(made.models / "tiny")
    draw_pictures(made.datasets / "coats", 4)
    return made


def loaded(folder, dtype=torch.float32):
    return load_model(folder, CPU, dtype)[1]


def pipeline(folder):
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline

    # It wants to be told again what model_index.json says is not there.
    absent = {} if (folder / "text_encoder_3").is_dir() else {"text_encoder_3": None, "tokenizer_3": None}
    made = StableDiffusion3Pipeline.from_pretrained(folder, local_files_only=True, **absent)
    made.set_progress_bar_config(disable=True)
    return made


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("t5", [True, False], ids=["with T5", "without T5"])
def test_the_parts_are_those_that_diffusers_loads(folders, t5):
    family, parts = load_model(folders[t5], CPU, torch.float32)
    assert family is SD35 is FAMILIES["sd35"] and parts.prediction_type == "flow" and len(parts.text_encoders) == (3 if t5 else 2)
    theirs = pipeline(folders[t5])
    expected = [theirs.transformer, theirs.vae, theirs.text_encoder, theirs.text_encoder_2, *([theirs.text_encoder_3] if t5 else [])]
    for ours, other in zip([parts.denoiser, parts.vae, *parts.text_encoders], expected, strict=True):
        one, two = ours.state_dict(), other.state_dict()
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
        assert not ours.training and not any(parameter.requires_grad or parameter.is_meta for parameter in ours.parameters())
    file = folders[t5] / "transformer" / "diffusion_pytorch_model.safetensors"
    assert parts.base_hash == weights.short_hash(file) and SD35.size_of(Folder(folders[t5])) == 64
    some = SD35.load(Folder(folders[t5]), CPU, torch.float32, parts=("text_encoder", "text_encoder_2"))
    assert some.denoiser is None and some.vae is None and SD35.encode_prompts(some, ["a girl"]).hidden.shape == (1, 333, 4096)


def test_what_overflows_in_float16_stays_in_float32(folders):
    parts = loaded(folders[True], torch.float16)
    numbers = {name.split(".")[-2] == "wo": tensor.dtype for name, tensor in parts.text_encoders[2].named_parameters()}
    assert numbers == {True: torch.float32, False: torch.float16} and parts.denoiser.dtype == torch.float16
    half = loaded(folders[True], torch.bfloat16)
    assert {tensor.dtype for tensor in half.text_encoders[2].parameters()} == {torch.bfloat16} and half.vae.dtype == torch.float32
    text = SD35.encode_prompts(half, ["a girl"])
    predicted = SD35.predict(half, torch.randn(1, 16, 8, 8), torch.tensor([3.0]), text)
    assert text.hidden.dtype == text.pooled.dtype == predicted.dtype == torch.bfloat16 and torch.isfinite(predicted).all()


def test_shards_and_both_names_of_the_embedding_are_understood(tmp_path):
    folder = tiny_sd35(tmp_path / "model")
    before = loaded(folder)
    for part, module in (("transformer", before.denoiser), ("text_encoder_3", before.text_encoders[2])):
        (single,) = (folder / part).glob("*.safetensors")
        single.unlink()
        module.save_pretrained(folder / part, max_shard_size="60KB")
        assert len(list((folder / part).glob("*-of-*.safetensors"))) > 1
    after = loaded(folder)
    assert torch.equal(before.denoiser.pos_embed.pos_embed, after.denoiser.pos_embed.pos_embed)
    assert torch.equal(SD35.encode_prompts(before, PROMPTS).hidden, SD35.encode_prompts(after, PROMPTS).hidden)
    other = tiny_sd35(tmp_path / "renamed")
    file = other / "text_encoder_3" / "model.safetensors"
    save_file({name.replace("shared.", "encoder.embed_tokens."): tensor for name, tensor in load_file(file).items()}, file)
    assert torch.equal(loaded(other).text_encoders[2].shared.weight, before.text_encoders[2].shared.weight)


def test_the_window_lists_it(workspace):
    entry = next(entry for entry in list_models(workspace) if entry.name == "tiny")
    told = (entry.family, entry.prediction_type, entry.native_size, entry.precision, entry.problem, entry.single_file)
    assert told == ("sd35", "flow", 64, "float32", "", False)
    assert entry.size_bytes == sum(file.stat().st_size for file in entry.path.glob("*/*.safetensors"))


def changed(folder, part, **changes):
    file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("part", "changes", "expected"),
    [
        ("transformer", {"in_channels": 33}, "inpainting"),
        ("vae", {"block_out_channels": [8, 8]}, "shrinks pictures 2 times"),
        ("text_encoder_2", {"projection_dim": 32}, "text encoders"),
        ("text_encoder_3", {"d_model": 32}, "T5 text encoder"),
        ("transformer", {"pos_embed_max_size": None}, "table of positions"),
        ("scheduler", {"prediction_type": "epsilon"}, "predicts the flow"),
    ],
)
def test_models_of_other_kinds_are_refused_by_what_they_are(tmp_path, part, changes, expected):
    folder = tiny_sd35(tmp_path / "model")
    changed(folder, part, **changes)
    with pytest.raises(UserError) as caught:
        check_model(folder)
    assert expected in str(caught.value) and "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize("file", ["transformer/diffusion_pytorch_model.safetensors", "text_encoder_3/model.safetensors", "tokenizer_3"])
def test_a_missing_file_is_named(tmp_path, file):
    folder = tiny_sd35(tmp_path / "model")
    shutil.rmtree(folder / file) if file == "tokenizer_3" else (folder / file).unlink()
    with pytest.raises(UserError) as caught:
        loaded(folder)
    assert file.rpartition("/")[2] in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_lack_a_tensor_are_refused_and_another_prediction_type_is_not_taken(tmp_path, folders):
    folder = tiny_sd35(tmp_path / "model")
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["pos_embed.pos_embed"]
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"pos_embed\.pos_embed"):
        loaded(folder)
    with pytest.raises(UserError, match="predicts the flow"):
        SD35.load(Changed(Folder(folders[True]), prediction_type="v_prediction"), CPU, torch.float32)
    save_file({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": torch.zeros(2, 2)}, tmp_path / "sd3.safetensors")
    with pytest.raises(UserError, match="its diffusers folder"):
        check_model(tmp_path / "sd3.safetensors")


# ---------------------------------------------------------------- at work


@pytest.mark.parametrize("t5", [True, False], ids=["with T5", "without T5"])
@torch.no_grad()
def test_prompts_are_encoded_as_diffusers_does(folders, t5):
    parts = loaded(folders[t5])
    theirs = pipeline(folders[t5])
    for clip_skip in (1, 2):
        text = SD35.encode_prompts(parts, PROMPTS, clip_skip, max_chunks=4)
        # The pipeline counts the layers that are left out.
        hidden, _, pooled, _ = theirs.encode_prompt(PROMPTS, None, None, do_classifier_free_guidance=False, clip_skip=clip_skip - 1)
        assert text.hidden.shape == (3, 77 + 256, 64) and text.pooled.shape == (3, 40)
        torch.testing.assert_close(text.hidden, hidden, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(text.pooled, pooled, atol=1e-5, rtol=1e-5)
    assert (text.hidden[0, :77, 40:] == 0).all() and (text.hidden[0, 77:].abs().sum() > 0) == t5
    # What CLIP no longer sees, T5 does.
    longer = SD35.encode_prompts(parts, [PROMPTS[1] + "dog", PROMPTS[1][:500], PROMPTS[1][:520]]).hidden
    assert torch.equal(longer[1, :77], longer[2, :77]) and torch.equal(longer[1], longer[2]) != t5


@torch.no_grad()
def test_latents_are_shifted_and_scaled(folders):
    parts = loaded(folders[True])
    pixels = torch.rand(1, 3, 64, 48) * 2 - 1
    latents = SD35.encode_images(parts, pixels)
    distribution = parts.vae.encode(pixels).latent_dist
    torch.testing.assert_close(latents[:, 0], (distribution.mean - 0.0609) * 1.5305)
    torch.testing.assert_close(latents[:, 1], distribution.std * 1.5305)
    assert latents.shape == (1, 2, 16, 8, 6)
    torch.testing.assert_close(SD35.decode_latents(parts, latents[:, 0]), parts.vae.decode(distribution.mean).sample, atol=1e-5, rtol=1e-5)


def difference(one, other):
    return max(abs(a - b) for a, b in zip(one.tobytes(), other.tobytes(), strict=True))


@pytest.mark.parametrize("t5", [True, False], ids=["with T5", "without T5"])
def test_diffusers_own_pipeline_paints_the_same(folders, t5):
    parts = loaded(folders[t5])
    request = ImageRequest("a girl in a red dress", "a dog", seed=5, sampler="euler", steps=3, cfg_scale=4, width=64, height=48)
    ours = sample(SD35, parts, [request])[0]
    latents = torch.randn((1, 16, 6, 8), generator=torch.Generator().manual_seed(5))
    size = {"width": 64, "height": 48}
    for theirs in (pipeline(folders[t5]), SD35.pipeline(parts)):
        theirs.set_progress_bar_config(disable=True)
        painted = theirs(
            request.prompt, negative_prompt="a dog", latents=latents, num_inference_steps=3, guidance_scale=4, **size
        ).images[0]  # fmt: skip
        assert difference(ours, painted) <= 1 and len(set(ours.tobytes())) > 20


def test_every_sampler_paints(folders):
    parts = loaded(folders[False])
    requests = [ImageRequest("a girl", seed=7, sampler=sampler, steps=4, cfg_scale=3, width=64, height=64) for sampler in SAMPLERS]
    pictures = dict(zip(SAMPLERS, sample(SD35, parts, requests, batch_size=2), strict=True))
    assert all(len(set(picture.tobytes())) > 20 for picture in pictures.values())
    assert len({pictures[sampler].tobytes() for sampler in FLOW_SAMPLERS}) == len(FLOW_SAMPLERS) >= 4
    assert pictures["ddim"].tobytes() == pictures["euler"].tobytes()
    # All of them follow one flow: the more steps, the nearer to one another.
    fine = sample(SD35, parts, [replace(request, steps=40) for request in requests if request.sampler in FLOW_SAMPLERS])
    assert all(difference(fine[0], other) < 16 for other in fine[1:])


@torch.no_grad()
def test_sides_that_are_no_whole_patches_are_filled_up_and_cut_off_again(folders):
    parts = loaded(folders[False])
    text = SD35.encode_prompts(parts, ["a girl"])
    noisy = torch.randn(1, 16, 7, 9)
    predicted = SD35.predict(parts, noisy, torch.tensor([500.0]), text)
    whole = torch.cat([torch.cat([noisy, noisy[..., :1]], dim=-1), torch.cat([noisy, noisy[..., :1]], dim=-1)[:, :, :1]], dim=-2)
    torch.testing.assert_close(predicted, SD35.predict(parts, whole, torch.tensor([500.0]), text)[..., :7, :9])
    assert predicted.shape == noisy.shape
    (picture,) = sample(SD35, parts, [ImageRequest("a girl", sampler="euler", steps=2, width=72, height=56)])
    assert picture.size == (72, 56)
    with pytest.raises(UserError, match=r"more than 128 pixels a side \(got 136x64\)"):
        sample(SD35, parts, [ImageRequest("a girl", sampler="euler", steps=2, width=136, height=64)])


# ---------------------------------------------------------------- the objective


def test_noise_and_target_are_those_of_the_flow(folders):
    parts = loaded(folders[False])
    made = objective(parts.noise_schedule, parts.prediction_type, LossSettings(), CPU)
    # By hand, of every thousandth t: sigma = 3 t / (1 + 2 t).
    places = torch.tensor([0, 249, 499, 999])
    sigmas = torch.tensor([3 * t / (1 + 2 * t) for t in (0.001, 0.25, 0.5, 1.0)])
    torch.testing.assert_close(made.noise[places], sigmas)
    torch.testing.assert_close(made.told(places), 1000 * sigmas)
    clean, noise = torch.randn(4, 16, 4, 4), torch.randn(4, 16, 4, 4)
    spread = sigmas.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(made.add_noise(clean, noise, places), (1 - spread) * clean + spread * noise)
    assert torch.equal(made.target(clean, noise, places), noise - clean) and (made.weight == 1).all()


def test_the_loss_is_that_of_diffusers_training_script(folders):
    """examples/dreambooth/train_dreambooth_lora_sd3.py of diffusers, its formula without preconditioning and with weighting none."""
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
    from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3

    parts = loaded(folders[False])
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folders[False] / "scheduler", local_files_only=True)
    made = objective(parts.noise_schedule, "flow", LossSettings(weighting="none"), CPU)
    torch.testing.assert_close(made.told(torch.arange(1000)).flip(0), scheduler.timesteps, atol=1e-3, rtol=1e-6)
    clean, noise = torch.randn(2, 16, 8, 8), torch.randn(2, 16, 8, 8)
    text = SD35.encode_prompts(parts, ["a girl", "a dog"])
    theirs = torch.tensor([100, 900])
    timesteps, sigmas = scheduler.timesteps[theirs], scheduler.sigmas[theirs].reshape(-1, 1, 1, 1)
    noisy = scheduler.scale_noise(clean, timesteps, noise)
    with torch.no_grad():
        predicted = parts.denoiser(noisy, text.hidden, text.pooled, timesteps, return_dict=False)[0]
        expected = (compute_loss_weighting_for_sd3("none", sigmas) * (predicted - (noise - clean)) ** 2).flatten(1).mean(1)
        places = 999 - theirs
        ours = SD35.predict(parts, made.add_noise(clean, noise, places), made.told(places), text)
        torch.testing.assert_close(made.losses(ours, clean, noise, places), expected, atol=1e-5, rtol=1e-5)
    # Drawn as often: the two tables run in opposite directions, and the density is the same from both ends.
    torch.manual_seed(3)
    drawn = made.draw_timesteps(200_000).float()
    density = (compute_density_for_timestep_sampling("logit_normal", 200_000, logit_mean=0.0, logit_std=1.0) * 1000).long()
    shares = torch.linspace(0.05, 0.95, 19)
    torch.testing.assert_close(drawn.quantile(shares), (999 - density).float().quantile(shares), atol=5.0, rtol=0)


# ---------------------------------------------------------------- training


QUICK = {
    "training__max_steps": 3,
    "training__batch_size": 2,
    "preview__prompts": ["a girl in a coat"],
    "preview__every_steps": 3,
    "preview__steps": 2,
    "dataset__validation_share": 0.25,
    "validation__every_epochs": 1,
}


@pytest.mark.parametrize("text_rate", [None, 5e-3], ids=["transformer", "transformer and text encoders"])
def test_a_training_runs_saves_and_is_resumed_to_the_same_bits(workspace, monkeypatch, text_rate):
    wanted = job(**QUICK, optimizer__text_encoder_learning_rate=text_rate, training__gradient_checkpointing=True)
    assert not plan_training(wanted, workspace).problems
    kind = "text" if text_rate else "plain"
    whole = run_of(workspace, f"whole-{kind}", wanted)
    file = train(wanted, whole, workspace)
    steps, validated = said(whole, events.Step), said(whole, events.Validated)
    assert steps[-1].step == 3 and all(torch.isfinite(torch.tensor([event.loss for event in steps + validated])))
    assert set(steps[-1].learning_rates) == {"transformer", *(["text_encoder", "text_encoder_2"] if text_rate else [])}
    assert said(whole, events.Sampled) and said(whole, events.Finished)
    assert [event.message for event in said(whole, events.Warned) if "max_steps" not in event.message] == []

    stopped = run_of(workspace, f"stopped-{kind}", wanted)
    update, made = training.update, []

    def stopping(state):
        result = update(state)
        made.append(1)
        if len(made) == 2:
            stopped.request("stop")
        return result

    monkeypatch.setattr(training, "update", stopping)
    train(wanted, stopped, workspace)
    assert said(stopped, events.Stopped)[-1].step == 2
    again = train(wanted, stopped, workspace)
    one, other = load_file(file), load_file(again)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    # By names that ComfyUI reads: OneTrainer's for the transformer, kohya's for the text encoders.
    starts = {name.partition("_transformer_blocks_")[0].partition("_text_model_")[0] for name in one}
    assert starts == {"lora_transformer", *(["lora_te1", "lora_te2"] if text_rate else [])}
    assert inspect(file).family == "SD 3"

    family, parts = load_model("tiny", CPU, torch.float32, workspace.models)
    LORA.apply(family, parts, file, "coat")
    request = ImageRequest("a girl in a coat", sampler="euler", steps=2, cfg_scale=2, width=64, height=64)
    on = sample(family, parts, [request])[0]
    LORA.set_weights(family, parts, {"coat": 0.0})
    assert difference(on, sample(family, parts, [request])[0]) > 0


def test_the_first_loss_is_that_of_the_formula(workspace):
    """The loop does with this family what the objective's tests say: the same draws, worked out by hand."""
    from accelerate import Accelerator

    from nosnja_gui.dataset.batches import Exposure
    from nosnja_gui.engine.cache import Cache
    from nosnja_gui.engine.material import prepare
    from nosnja_gui.engine.voice import Voice

    wanted = job(dataset__repeats=1)
    voice = Voice(None, None)
    state = training.begin(wanted, prepare(wanted, workspace), Accelerator(cpu=True), voice)
    training.encode(state, Cache(workspace.cache), voice, lambda: None)
    picture = state.material.training[0]
    batch = next(batch for step in state.material.plan.epoch(0) for batch in step if any(shown.picture == 0 for shown in batch))
    torch.manual_seed(11)
    loss = training.batch_loss(state, batch)
    shown: list[Exposure] = list(batch)
    views = [state.view(state.material.training[one.picture], one.mirrored) for one in shown]
    torch.manual_seed(11)
    mean, deviation = state.latents.of(views, CPU)
    clean = mean + deviation * torch.randn_like(mean)
    noise = torch.randn_like(clean)
    share = torch.sigmoid(torch.randn(len(shown)))
    t = ((share * 1000).long() + 1) / 1000
    sigma = (3 * t / (1 + 2 * t)).reshape(-1, 1, 1, 1)
    base = loaded(workspace.models / "tiny")
    text = SD35.encode_prompts(base, [state.material.training[one.picture].caption for one in shown])
    with torch.no_grad():
        noisy = (1 - sigma) * clean + sigma * noise
        predicted = base.denoiser(noisy, text.hidden, text.pooled, 1000 * sigma.flatten(), return_dict=False)[0]
    expected = ((predicted - (noise - clean)) ** 2).flatten(1).mean(1).sum()
    torch.testing.assert_close(loss.detach(), expected, atol=1e-4, rtol=1e-4)
    assert picture.caption and mean.shape[1] == 16


def lora_of(folder, rank=4, alpha=2.0, texts=True):
    family, parts = load_model(folder, CPU, torch.float32)
    torch.manual_seed(1)
    trainables = LORA.attach(family, parts, Recipe({"lora": LoraSettings(rank=rank, alpha=alpha)}, train_text_encoder=texts))
    with torch.no_grad():
        for parameter in itertools.chain(*(trainable.parameters for trainable in trainables)):
            parameter += 0.1 * torch.randn(parameter.shape)
    return family, parts


def test_every_attention_projection_is_trained_and_t5_is_not(folders):
    family, parts = lora_of(folders[True])
    modules = {name for name in dict(parts.denoiser.named_modules()) if name.endswith(".lora_A.trained")}
    # Each layer has four projections of the picture and three of the text, all but the last one that leads back to the text; the first
    # has four of a second attention.
    assert len(modules) == 8 + 4 + 7
    assert not any("lora" in name for name, _ in parts.text_encoders[2].named_modules())
    assert family.adapter_parts == tuple(family.trainable_modules(parts)) == tuple(names.part for names in family.names(parts))


def test_diffusers_reads_its_own_layout_and_comfyuis_says_the_same(folders, tmp_path):
    family, parts = lora_of(folders[True])
    adapter = LORA.trained(family, parts)
    LORA.save(family, parts, tmp_path / "diffusers.safetensors", {}, precision="float32", layout="diffusers")
    result = roundtrip.check(family, parts, adapter, tmp_path / "diffusers.safetensors", "diffusers")
    assert result.ours == 0.0 and result.diffusers is not None and result.diffusers < 1e-4
    keys = {name.partition(".")[0] for name in load_file(tmp_path / "diffusers.safetensors")}
    assert keys == {"transformer", "text_encoder", "text_encoder_2"}
    for layout in ("comfyui", "kohya"):  # which diffusers doesn't read for this model
        LORA.save(family, parts, tmp_path / f"{layout}.safetensors", {}, precision="float32", layout=layout)
        result = roundtrip.check(family, parts, adapter, tmp_path / f"{layout}.safetensors", layout)
        assert (result.ours, result.diffusers) == (0.0, None)
    names = set(load_file(tmp_path / "comfyui.safetensors"))
    assert {
        "transformer.transformer_blocks.0.attn.to_q.lora_up.weight",
        "transformer.transformer_blocks.0.attn2.to_out.0.lora_down.weight",
        "text_encoders.clip_g.transformer.text_model.encoder.layers.2.self_attn.q_proj.alpha",
    } <= names


def test_a_lora_of_another_family_is_refused_by_what_it_is(folders, tmp_path):
    other, its_parts = load_model(tiny_model(tmp_path / "sd1", "sd1"), CPU, torch.float32)
    LORA.attach(other, its_parts, Recipe({"lora": LoraSettings(rank=2)}, train_text_encoder=True))
    LORA.save(other, its_parts, tmp_path / "sd1.safetensors", {"ss_base_model_version": other.kohya_version})
    parts = loaded(folders[True])
    with pytest.raises(UserError) as caught:
        LORA.apply(SD35, parts, tmp_path / "sd1.safetensors", "other")
    assert "doesn't fit" in str(caught.value) and "an SD 1.x model" in str(caught.value) and "\n" not in str(caught.value)
    assert not parts.adapters
    # sd-scripts (networks/lora_sd3.py) trains queries, keys and values as the one matrix that they are in the original.
    pieces = {"lora_down": torch.zeros(2, 32), "lora_up": torch.zeros(96, 2)}
    fused = {f"lora_unet_joint_blocks_0_x_block_attn_qkv.{piece}.weight": tensor for piece, tensor in pieces.items()}
    save_file(fused, tmp_path / "fused.safetensors")
    with pytest.raises(UserError, match=r"doesn't fit .* it was trained on an SD 3 model"):
        LORA.apply(SD35, parts, tmp_path / "fused.safetensors", "other")
    LORA.save(*lora_of(folders[True]), tmp_path / "sd35.safetensors", {})
    with pytest.raises(UserError, match="it was trained on an SD 3 model"):
        LORA.apply(other, load_model(tmp_path / "sd1", CPU, torch.float32)[1], tmp_path / "sd35.safetensors", "other")


class Shallow(Standard):
    """The usual model with two layers in each part."""

    def config(self, part):
        layers = {"transformer": {"num_layers": 2}, "text_encoder": {"num_hidden_layers": 2}, "text_encoder_2": {"num_hidden_layers": 2}}
        return super().config(part) | layers.get(part, {})


def test_a_file_is_tried_without_a_model(tmp_path):
    parts = stand_in(SD35, Shallow(SD35.standard))
    LORA.attach(SD35, parts, Recipe({"lora": LoraSettings(rank=2)}, train_text_encoder=True))
    adapter = LORA.trained(SD35, parts)
    with torch.no_grad():
        for update in adapter.updates.values():
            update.up.normal_()
    LORA.save(SD35, parts, tmp_path / "lora.safetensors", {}, precision="float32", layout="diffusers")
    result = roundtrip.check(SD35, parts, adapter, tmp_path / "lora.safetensors", "diffusers")
    assert result.ours == 0.0 and result.diffusers < 1e-4


def test_what_a_file_says_of_itself(folders):
    parts = loaded(folders[False])
    told = metadata(TrainJob(), SD35, parts, steps=3, epoch=1, started_at=0.0, dataset_summary={})
    assert told["modelspec.architecture"] == "stable-diffusion-3-5-medium/lora" and told["modelspec.prediction_type"] == "flow"
    assert told["ss_base_model_version"] == "sd3" and told["ss_sd_model_hash"] == parts.base_hash


def test_a_grid_paints(workspace, folders):
    file = workspace.models / "dress.safetensors"
    LORA.save(*lora_of(folders[True], texts=False), file, {})
    wanted = GridJob.parse(
        {
            "name": "Weights", "model": {"path": "tiny"}, "lora": str(file), "prompt": "a girl in a dress", "sampler": "euler", "steps": 2,
            "width": 64, "height": 64, "x": {"axis": "weight", "values": [0, 1]},
        }
    )  # fmt: skip
    run = RunFolder.create(workspace.runs / "grid", wanted)
    sheet = grid.run_grid(wanted, run, workspace)
    cells = [event for event in events.read(run.events) if isinstance(event, events.Cell)]
    assert sheet.is_file() and len(cells) == 2 and not any(cell.error for cell in cells)
    assert len({(run.path / cell.file).read_bytes() for cell in cells}) == 2


# ---------------------------------------------------------------- before a training


def test_memory_and_time_are_estimated(workspace):
    card = Machine("NVIDIA GeForce RTX 4090", 24 * GIB, 23 * GIB, 8)

    def told(**changes):
        wanted = job(**changes)
        return estimate(wanted, plan_training(wanted, workspace), workspace, card)

    plain = told()
    assert plain.memory_bytes and plain.seconds and plain.fits
    assert told(training__batch_size=16, dataset__resolution=512).phases["training"] > plain.phases["training"]
    thrifty = told(training__batch_size=16, dataset__resolution=512, training__gradient_checkpointing=True)
    assert thrifty.phases["training"] < told(training__batch_size=16, dataset__resolution=512).phases["training"]


@pytest.mark.parametrize("t5", [True, False], ids=["with T5", "without T5"])
def test_the_demand_is_read_from_the_headers(folders, t5):
    parts, demand = loaded(folders[t5]), demand_of(folders[t5])
    positions = parts.denoiser.pos_embed.pos_embed.numel()
    assert demand.unet.parameters == sum(parameter.numel() for parameter in parts.denoiser.parameters()) + positions
    assert demand.text_encoder.parameters == sum(parameter.numel() for encoder in parts.text_encoders for parameter in encoder.parameters())
    assert (demand.unet.latent_channels, demand.unet.text_width, demand.unet.text_tokens) == (16, 64, 333)
    for part, (module, suffixes) in SD35.trainable_modules(parts).items():
        layers = [layer for name, layer in module.named_modules() if name.endswith(suffixes) and isinstance(layer, torch.nn.Linear)]
        shapes = demand.layers[part].chosen("attention").values()
        assert sorted(shapes) == sorted((layer.out_features, layer.in_features) for layer in layers)


def test_the_work_of_the_real_medium_is_what_torch_counts():
    """Its skeleton takes neither memory nor time, though its table of positions alone would be a gigabyte."""
    from torch.utils.flop_counter import FlopCounterMode

    transformer = SD35.skeleton(Standard(SD35.standard)).denoiser
    headers = {name: ("F32", tuple(tensor.shape)) for name, tensor in transformer.state_dict().items()}
    demand = _of_transformer(headers)
    assert all(tensor.is_meta for tensor in transformer.state_dict().values())
    assert sum(parameter.numel() for parameter in transformer.parameters()) == 2_243_171_520
    attention = of_layers(headers, ATTENTION).chosen("attention").values()
    assert sum(16 * sum(shape) for shape in attention) == (24 * 8 - 1 + 13 * 4) * 2 * 1536 * 16
    counter = FlopCounterMode(display=False)
    latents, hidden, pooled = (torch.empty(shape, device="meta") for shape in ((1, 16, 128, 128), (1, 333, 4096), (1, 2048)))
    with counter, torch.no_grad():
        transformer(latents, hidden, pooled, torch.empty(1, device="meta"))
    assert demand.forward_flop(128**2) == pytest.approx(counter.get_total_flops(), rel=0.001)


def test_what_a_step_keeps_is_what_autograd_keeps():
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from peft import LoraConfig, inject_adapter_in_model

    transformer = SD3Transformer2DModel(
        num_layers=8, num_attention_heads=4, caption_projection_dim=256, dual_attention_layers=(0, 1, 2, 3), qk_norm="rms_norm"
    ).requires_grad_(False)  # fmt: skip
    demand = _of_transformer({name: ("F32", tuple(tensor.shape)) for name, tensor in transformer.state_dict().items()})
    inject_adapter_in_model(LoraConfig(r=4, target_modules=list(ATTENTION)), transformer)
    weights_of_it = {tensor.untyped_storage().data_ptr() for tensor in itertools.chain(transformer.parameters(), transformer.buffers())}
    inputs = torch.randn(1, 16, 16, 16), torch.randn(1, 333, 4096), torch.randn(1, 2048), torch.tensor([500.0])
    for checkpointing in (False, True):
        kept = {}

        def keep(tensor, kept=kept):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights_of_it:
                kept[storage.data_ptr()] = (tensor, storage.nbytes() // tensor.element_size())
            return tensor

        transformer.enable_gradient_checkpointing() if checkpointing else None
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            transformer(*inputs)
        counted = sum(numbers for _, numbers in kept.values())
        # With checkpointing, one whole layer comes on top while it is recomputed.
        single = (14.1 * (64 + 333) + 7.1 * 64) * 256 if checkpointing else 0
        assert demand.kept_numbers(16**2, checkpointing) == pytest.approx(counted + single, rel=0.1)
