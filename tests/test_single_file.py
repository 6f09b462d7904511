"""Checkpoints in one file: the same model as the folder they were written from, recognised by what is inside, refused by name."""

import shutil

import pytest
import torch
from original import write_single_file
from safetensors.torch import load_file, save_file
from tiny import tiny_model

from nosnja_gui.engine.models import load_model
from nosnja_gui.families import FAMILIES
from nosnja_gui.models import check_model, demand_of, family_of, list_models, native_size, source_of
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace

torch.set_num_threads(1)
CPU = torch.device("cpu")
KINDS = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folder and single file of each kind."""
    where = tmp_path_factory.mktemp("models")
    folders = {kind: tiny_model(where / kind, kind) for kind in KINDS}
    return {kind: (folder, write_single_file(folder, where / f"{kind}-file.safetensors", kind)) for kind, folder in folders.items()}


def state(parts):
    modules = [parts.denoiser, parts.vae, *parts.text_encoders]
    return [{name: value for name, value in module.state_dict().items() if "position_ids" not in name} for module in modules]


@torch.no_grad()
def outputs(family, parts):
    torch.manual_seed(3)
    text = family.encode_prompts(parts, ["a girl in a red dress", ""])
    noisy, pixels = torch.randn(2, 4, 8, 8), torch.rand(1, 3, 64, 64) * 2 - 1
    predicted = family.predict(parts, noisy, torch.tensor([3, 700]), text)
    return [text.hidden, *([] if text.pooled is None else [text.pooled]), predicted, family.encode_images(parts, pixels)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_file_is_the_same_model_as_its_folder_to_the_last_bit(models, kind):
    folder, file = models[kind]
    (one, from_folder), (other, from_file) = load_model(folder, CPU, torch.float32), load_model(file, CPU, torch.float32)
    assert one is other is FAMILIES[kind] and family_of(file) is one
    for expected, found in zip(state(from_folder), state(from_file), strict=True):
        assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    for expected, found in zip(outputs(one, from_folder), outputs(other, from_file), strict=True):
        assert torch.equal(expected, found)
    assert from_file.base_name == f"{kind}-file" and len(from_file.base_hash) == 12
    assert native_size(file) == {"sd1": 512, "sd2": 512, "sdxl": 1024}[kind]
    assert from_file.prediction_type == "epsilon"
    assert demand_of(file) == demand_of(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_own_pipeline_paints_the_same(models, kind):
    """The oracle for text encoding, size conditioning and sampling in one."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

    from nosnja_gui.engine.sampler import ImageRequest, make_scheduler, sample

    folder, file = models[kind]
    family, parts = load_model(file, CPU, torch.float32)
    request = ImageRequest("a girl in a red dress", "a dog", seed=5, sampler="euler", steps=3, cfg_scale=4, width=64, height=64)
    ours = sample(family, parts, [request])[0]
    cls = StableDiffusionXLPipeline if kind == "sdxl" else StableDiffusionPipeline
    extra = {} if kind == "sdxl" else {"safety_checker": None}
    pipeline = cls.from_pretrained(folder, local_files_only=True, **extra)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(make_scheduler(parts, "euler", 3).config)
    latents = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(5))
    theirs = pipeline(
        request.prompt,
        negative_prompt=request.negative_prompt,
        latents=latents,
        num_inference_steps=3,
        guidance_scale=4,
        width=64,
        height=64,
    ).images[0]
    difference = [abs(a - b) for a, b in zip(ours.tobytes(), theirs.tobytes(), strict=True)]
    assert max(difference) <= 2 and len(set(ours.tobytes())) > 20


def test_half_precision_files_are_loaded_in_the_wanted_precision(models, tmp_path):
    folder, _ = models["sd1"]
    file = write_single_file(folder, tmp_path / "half.safetensors", "sd1", dtype=torch.float16)
    _, parts = load_model(file, CPU, torch.float32)
    assert parts.denoiser.dtype == torch.float32
    assert torch.equal(
        parts.denoiser.conv_in.weight, load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")["conv_in.weight"].half().float()
    )
    workspace = Workspace(tmp_path / "workspace").create()
    shutil.copy(file, workspace.models)
    (entry, _) = list_models(workspace)
    assert (entry.name, entry.family, entry.native_size, entry.precision) == ("half.safetensors", "sd1", 512, "float16")
    assert entry.single_file and not entry.problem and entry.prediction_type == "epsilon"


def changed(file, target, metadata=None, **tensors):
    kept = load_file(file)
    kept |= tensors
    save_file({name: tensor for name, tensor in kept.items() if tensor is not None}, target, metadata=metadata)
    return target


TELLING = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


@pytest.mark.parametrize(
    ("kind", "how", "expected"),
    [
        ("sd2", "nothing", "epsilon"),
        ("sd2", "spread", "v_prediction"),
        ("sd2", "metadata", "v_prediction"),
        ("sd2", "yaml", "v_prediction"),
        ("sd2", "spread, but the metadata says epsilon", "epsilon"),
        ("sd1", "metadata", "v_prediction"),
        ("sdxl", "mark", "v_prediction"),
        ("sdxl", "nothing", "epsilon"),
    ],
)
def test_what_a_model_predicts_is_found_out(models, tmp_path, kind, how, expected):
    tensors = {TELLING: torch.randn(64) * 0.2} if "spread" in how else {}
    tensors |= {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)} if how == "mark" else {}
    metadata = {"modelspec.prediction_type": "v"} if how == "metadata" else None
    metadata = {"modelspec.prediction_type": "epsilon"} if "but" in how else metadata
    file = changed(models[kind][1], tmp_path / "model.safetensors", metadata, **tensors)
    if how == "yaml":
        file.with_suffix(".yaml").write_text("model:\n  params:\n    parameterization: v\n")
    family, source = source_of(file)
    assert family.prediction_of(source) == expected
    assert source.config("scheduler")["rescale_betas_zero_snr"] is (how == "mark")
    if kind == "sd2":
        assert family.size_of(source) == (768 if expected == "v_prediction" else 512)
    assert source_of(file, prediction_type="epsilon")[1].config("scheduler")["prediction_type"] == "epsilon"


def test_the_native_size_is_taken_from_the_metadata(models, tmp_path):
    file = changed(models["sdxl"][1], tmp_path / "small.safetensors", {"modelspec.resolution": "768x512"})
    assert native_size(file) == 768


def refusal(file):
    with pytest.raises(UserError) as caught:
        check_model(file)
    with pytest.raises(UserError):
        load_model(file, CPU, torch.float32)
    said = str(caught.value)
    assert "\n" not in said and said.endswith(".") and str(file) in said
    return said


CONV = "model.diffusion_model.input_blocks.0.0.weight"


def test_wrong_and_damaged_files_are_refused_by_what_they_are(models, tmp_path):
    file = models["sd1"][1]
    channels = load_file(file)[CONV].shape[0]
    assert "inpainting" in refusal(changed(file, tmp_path / "inpaint.safetensors", **{CONV: torch.zeros(channels, 9, 3, 3)}))
    assert "image-to-image" in refusal(changed(file, tmp_path / "edit.safetensors", **{CONV: torch.zeros(channels, 8, 3, 3)}))
    whole = load_file(file)
    without_text = {name: tensor for name, tensor in whole.items() if not name.startswith("cond_stage_model.")}
    save_file(without_text, tmp_path / "unet.safetensors")
    assert "a UNet alone" in refusal(tmp_path / "unet.safetensors")
    save_file({name: tensor for name, tensor in whole.items() if name.startswith("first_stage")}, tmp_path / "vae.safetensors")
    assert "a VAE alone" in refusal(tmp_path / "vae.safetensors")
    save_file({name: tensor for name, tensor in whole.items() if not name.startswith("first_stage")}, tmp_path / "no-vae.safetensors")
    assert "holds no vae" in refusal(tmp_path / "no-vae.safetensors")
    lost = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    assert lost in refusal(changed(file, tmp_path / "lost.safetensors", **{lost: None}))
    save_file({"conditioner.embedders.0.model.ln_final.weight": torch.zeros(2)}, tmp_path / "refiner.safetensors")
    assert "refiner" in refusal(tmp_path / "refiner.safetensors")
    save_file({"double_blocks.0.img_attn.norm.key_norm.scale": torch.zeros(2)}, tmp_path / "flux.safetensors")
    assert "Flux" in refusal(tmp_path / "flux.safetensors")
    content = file.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    assert "damaged" in refusal(tmp_path / "cut.safetensors")
    (tmp_path / "page.safetensors").write_bytes(b"<html>not found</html>")
    assert "no .safetensors file" in refusal(tmp_path / "page.safetensors")


def test_another_vae_takes_the_place_of_the_models_own(models, tmp_path):
    folder, file = models["sd1"]
    other = tiny_model(tmp_path / "other", "sd1", seed=7)
    other_file = write_single_file(other, tmp_path / "other.safetensors", "sd1")
    expected = load_file(other / "vae" / "diffusion_pytorch_model.safetensors")
    alone = {name.removeprefix("first_stage_model."): tensor for name, tensor in load_file(other_file).items() if "first_stage" in name}
    save_file(alone, tmp_path / "vae.safetensors")
    for vae in (tmp_path / "vae.safetensors", other / "vae", other, other_file):
        _, parts = load_model(file, CPU, torch.float32, vae=vae)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in parts.vae.state_dict().items())
        assert parts.vae.config.scaling_factor == 0.18215
        own = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        assert torch.equal(parts.denoiser.conv_in.weight, own["conv_in.weight"])
    with pytest.raises(UserError, match="no VAE"):
        save_file({"emb_params": torch.zeros(2, 2)}, tmp_path / "embedding.safetensors")
        load_model(file, CPU, torch.float32, vae=tmp_path / "embedding.safetensors")


def test_old_names_without_text_model_are_understood(models, tmp_path):
    """transformers 5 and some merging programs leave text_model. out."""
    kept = {name.replace("transformer.text_model.", "transformer."): tensor for name, tensor in load_file(models["sd1"][1]).items()}
    save_file(kept, tmp_path / "bare.safetensors")
    _, expected = load_model(models["sd1"][0], CPU, torch.float32)
    _, found = load_model(tmp_path / "bare.safetensors", CPU, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(state(expected)[2].values(), state(found)[2].values(), strict=True))
