"""Pictures are what diffusers' own pipeline paints, and depend on nothing but their own request."""

import dataclasses

import pytest
import torch
from PIL import Image, ImageChops
from tiny import tiny_sd

from nosnja_gui.engine import sampler
from nosnja_gui.engine.models import load_model
from nosnja_gui.engine.sampler import SAMPLERS, ImageRequest, infotext, sample, save_png
from nosnja_gui.methods import Recipe
from nosnja_gui.methods.lora import ENTRY as LORA
from nosnja_gui.methods.lora import LoraSettings
from nosnja_gui.settings import UserError

torch.set_num_threads(1)
CPU = torch.device("cpu")
REQUEST = ImageRequest("a girl in a red dress", negative_prompt="fake", seed=3, steps=4, width=64, height=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_sd(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def loaded(folder):
    return load_model(folder, CPU, torch.float32)


def request(**changes):
    return dataclasses.replace(REQUEST, **changes)


def latents(family, parts, one):
    """What is behind a picture, as floats: differences can't hide in rounding to 256 levels."""
    with torch.inference_mode():
        return sampler._denoise(family, parts, [one], sampler._encode(family, parts, [one], {}), None)


def largest_difference(one, other):
    return max(high for _, high in ImageChops.difference(one, other).getextrema())


THEIRS = {
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "dpm++_2m": ("DPMSolverMultistepScheduler", {}),
    "dpm++_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
}


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    def pipeline(prediction_type):
        model = tiny_sd(tmp_path_factory.mktemp("models") / prediction_type, prediction_type=prediction_type)
        pipeline = StableDiffusionPipeline.from_pretrained(model, local_files_only=True, safety_checker=None)
        pipeline.set_progress_bar_config(disable=True)
        return model, pipeline, pipeline.scheduler.config

    return {kind: pipeline(kind) for kind in ("epsilon", "v_prediction")}


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", list(THEIRS))
def test_latents_are_those_of_diffusers_own_pipeline(pipelines, name, prediction_type):
    import diffusers.schedulers as schedulers

    model, pipeline, configuration = pipelines[prediction_type]
    family, parts = load_model(model, CPU, torch.float32)
    cls, options = THEIRS[name]
    pipeline.scheduler = getattr(schedulers, cls).from_config(configuration, **options)
    text = family.encode_prompts(parts, [REQUEST.prompt, REQUEST.negative_prompt], clip_skip=2)
    theirs = pipeline(
        prompt_embeds=text[:1].hidden,
        negative_prompt_embeds=text[1:].hidden,
        latents=torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(3)),
        num_inference_steps=6,
        guidance_scale=7.0,
        height=64,
        width=64,
        output_type="latent",
    ).images
    ours = latents(family, parts, request(sampler=name, steps=6, clip_skip=2))
    assert ours.shape == theirs.shape and float((ours - theirs).abs().max()) <= 1e-4 * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_a_picture_does_not_depend_on_its_neighbours(loaded, name):
    family, parts = loaded
    requests = [
        request(sampler=name, seed=1),
        request(sampler=name, seed=2, prompt="a dog", negative_prompt=""),
        request(sampler=name, seed=3, cfg_scale=3.0),
    ]
    together = sample(family, parts, requests, batch_size=3)
    assert largest_difference(together[0], together[1]) > 3 and largest_difference(together[0], together[2]) > 3
    for one, picture in zip(requests, together, strict=True):
        torch.manual_seed(999)  # the global state must not matter either
        assert largest_difference(sample(family, parts, [one])[0], picture) <= 1


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("steps", [1, 2])
def test_very_few_steps_are_painted_too(loaded, name, steps):
    family, parts = loaded
    assert sample(family, parts, [request(sampler=name, steps=steps)])[0].size == (64, 64)


def test_mixed_requests_come_back_in_their_order_and_size(loaded):
    family, parts = loaded
    long_prompt = "a girl in a red dress on the stairs " * 12
    requests = [
        request(seed=1),
        request(seed=2, width=96),
        request(seed=1, sampler="ddim"),
        request(seed=1, negative_prompt=long_prompt),
        request(seed=1, cfg_scale=1.0),
    ]
    seen = []
    pictures = sample(family, parts, requests, batch_size=2, on_step=lambda done, total: seen.append((done, total)))
    assert [picture.size for picture in pictures] == [(64, 64), (96, 64), (64, 64), (64, 64), (64, 64)]
    for one, picture in zip(requests, pictures, strict=True):
        assert largest_difference(sample(family, parts, [one])[0], picture) <= 1
    assert seen == [(done, 20) for done in range(1, 21)]
    assert all(largest_difference(pictures[0], other) > 0 for other in (pictures[2], pictures[3], pictures[4]))


def test_without_guidance_the_denoiser_runs_once_per_step(loaded, monkeypatch):
    family, parts = loaded
    sizes = []
    predict = family.predict

    def counted(parts, noisy, *rest):
        sizes.append(len(noisy))
        return predict(parts, noisy, *rest)

    monkeypatch.setattr(family, "predict", counted, raising=False)
    sample(family, parts, [request(cfg_scale=1.0), request(cfg_scale=1.0, seed=4)])
    assert sizes == [2] * 4
    sizes.clear()
    sample(family, parts, [request(), request(seed=4)])
    assert sizes == [4] * 4


def test_encodings_are_shared_and_follow_the_text_encoder(loaded, monkeypatch):
    family, parts = loaded
    encoded = []
    encode = family.encode_prompts

    def noted(parts, prompts, *rest, **options):
        encoded.extend(prompts)
        return encode(parts, prompts, *rest, **options)

    monkeypatch.setattr(family, "encode_prompts", noted, raising=False)
    kept: dict = {}
    first = sample(family, parts, [request(), request(seed=9)], encodings=kept)[0]
    assert sorted(encoded) == ["a girl in a red dress", "fake"]
    assert largest_difference(sample(family, parts, [request()], encodings=kept)[0], first) == 0 and len(encoded) == 2
    sample(family, parts, [request(clip_skip=2)], encodings=kept)
    assert len(encoded) == 4
    torch.manual_seed(0)
    trainables = LORA.attach(family, parts, Recipe({"lora": LoraSettings(rank=2)}, train_text_encoder=True))
    with torch.no_grad():
        for parameter in trainables[1].parameters:
            parameter += 0.5 * torch.randn_like(parameter)
    moved = sample(family, parts, [request()], encodings=kept)[0]
    assert len(encoded) == 6 and largest_difference(moved, first) > 0
    assert largest_difference(sample(family, parts, [request()])[0], moved) == 0


def test_painting_in_the_middle_of_a_training_leaves_everything_as_it_was(loaded):
    family, parts = loaded
    torch.manual_seed(0)
    trainables = LORA.attach(family, parts, Recipe({"lora": LoraSettings(rank=2, dropout=0.5)}))
    with torch.no_grad():
        for parameter in trainables[0].parameters:
            parameter += 0.1
    modes = [module.training for module in parts.denoiser.modules()]
    state = torch.get_rng_state()
    first, second = (sample(family, parts, [request()])[0] for _ in range(2))
    assert largest_difference(first, second) == 0, "dropout was on"
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in parts.denoiser.modules()] == modes and any(modes)
    assert all(parameter.requires_grad for parameter in trainables[0].parameters)


def test_numbers_that_are_not_finite_are_an_error_and_not_a_black_picture(loaded):
    family, parts = loaded
    with torch.no_grad():
        parts.denoiser.conv_in.weight[0] = float("nan")
    with pytest.raises(UserError, match=r"seed 3 is not made of finite numbers \(computed in float32\)"):
        sample(family, parts, [request()])


def test_too_little_memory_halves_the_batch_and_is_said_where_that_does_not_help(loaded, monkeypatch):
    family, parts = loaded
    predict, room = family.predict, {"pictures": 2}

    def small_memory(parts, noisy, *rest):
        if len(noisy) > 2 * room["pictures"]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(parts, noisy, *rest)

    requests = [request(seed=seed) for seed in range(5)]
    plenty = sample(family, parts, requests, batch_size=5)
    monkeypatch.setattr(family, "predict", small_memory, raising=False)
    for one, other in zip(plenty, sample(family, parts, requests, batch_size=5), strict=True):
        assert largest_difference(one, other) <= 1
    room["pictures"] = 0
    with pytest.raises(UserError, match="64x64 doesn't fit"):
        sample(family, parts, requests)


def test_requests_that_cannot_be_painted_are_all_named_before_work_begins(loaded):
    family, parts = loaded
    with pytest.raises(UserError) as caught:
        sample(family, parts, [request(sampler="lms"), request(width=60), request(steps=0)])
    lines = str(caught.value).splitlines()
    assert len(lines) == 3 and "'lms'" in lines[0] and "60" in lines[1] and "Steps" in lines[2]


def test_infotext_is_what_a1111_writes_and_reads():
    one = request(sampler="dpm++_2m_karras", steps=25, width=512, height=624, clip_skip=2, seed=7)
    assert infotext(one, "tiny", "abc123", "nosnja-000003", 0.8, "f00d") == (
        "a girl in a red dress <lora:nosnja-000003:0.8>\n"
        "Negative prompt: fake\n"
        "Steps: 25, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 7, Size: 512x624, Model hash: abc123, Model: tiny, Clip skip: 2, "
        'Lora hashes: "nosnja-000003: f00d"'
    )
    plain = infotext(request(negative_prompt="", sampler="euler_a"), "tiny", "abc123", None, None, None)
    assert plain.startswith("a girl in a red dress\nSteps: 4, Sampler: Euler a, ")
    assert "Clip skip" not in plain and "lora" not in plain.lower()


def test_a_saved_picture_carries_its_text(tmp_path):
    text = "nošnja, a girl\nSteps: 25"
    save_png(Image.new("RGB", (8, 8), "red"), tmp_path / "samples" / "a.png", text)
    with Image.open(tmp_path / "samples" / "a.png") as picture:
        assert picture.text["parameters"] == text and picture.getpixel((0, 0)) == (255, 0, 0)
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["a.png"]
