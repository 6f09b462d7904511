"""Stable Diffusion folders: read as diffusers reads them, and refused in one sentence where that is not possible."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_sd

from nosnja_gui import weights
from nosnja_gui.engine.export import metadata
from nosnja_gui.engine.models import choose_device, choose_dtype, load_model
from nosnja_gui.families import FAMILIES
from nosnja_gui.families.sd1 import ENTRY as SD
from nosnja_gui.jobs import TrainJob
from nosnja_gui.settings import UserError
from nosnja_gui.sources import Folder

torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_sd(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def parts(model):
    return SD.load(Folder(model), CPU, torch.float32)


@pytest.fixture
def broken(tmp_path):
    return tiny_sd(tmp_path / "broken")


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refusal(path, workspace_models=None):
    with pytest.raises(UserError) as caught:
        load_model(path, CPU, torch.float32, workspace_models)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_is_found_by_path_and_by_name_in_the_workspace(model):
    assert SD.recognises(Folder(model)) and list(FAMILIES) and FAMILIES["sd1"] is SD
    family, parts = load_model(str(model), CPU, torch.float32)
    named, same = load_model("tiny", CPU, torch.float32, workspace_models=model.parent)
    assert family is named is SD and same.base_hash == parts.base_hash and parts.base_name == "tiny"
    assert SD.size_of(Folder(model)) == 64


def test_loaded_parts_are_frozen_whole_and_in_eval_mode(parts, model):
    for part, module in (("unet", parts.denoiser), ("vae", parts.vae)):
        saved = load_file(model / part / "diffusion_pytorch_model.safetensors")
        assert all(torch.equal(tensor, saved[name]) for name, tensor in module.state_dict().items())
    saved = load_file(model / "text_encoder" / "model.safetensors")
    loaded = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in parts.text_encoders[0].state_dict().items()}
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    for module in (parts.denoiser, parts.vae, parts.text_encoders[0]):
        assert not module.training and not any(parameter.requires_grad for parameter in module.parameters())


def test_only_the_asked_parts_are_loaded(model):
    some = SD.load(Folder(model), CPU, torch.float32, parts=("text_encoder",))
    assert some.denoiser is None and some.vae is None and len(some.text_encoders) == 1


def test_half_precision_is_for_the_unet_and_text_encoder_but_the_vae_stays_exact_on_a_cpu(model):
    half = SD.load(Folder(model), CPU, torch.bfloat16)
    assert half.denoiser.dtype == half.text_encoders[0].dtype == torch.bfloat16 and half.vae.dtype == torch.float32
    text = SD.encode_prompts(half, ["a girl"])
    assert SD.predict(half, torch.randn(1, 4, 8, 8), torch.tensor([3]), text).dtype == torch.bfloat16


def test_a_half_precision_vae_that_overflows_goes_to_float32(model):
    half = SD.load(Folder(model), CPU, torch.float32)
    with torch.no_grad():
        half.vae.bfloat16().decoder.conv_out.bias.fill_(0)
    decode = half.vae.decode

    def overflowing(latents, **options):
        picture = decode(latents, **options)
        return (picture[0] * float("inf"),) if half.vae.dtype == torch.bfloat16 else picture

    half.vae.decode = overflowing
    with torch.no_grad():
        assert torch.isfinite(SD.decode_latents(half, torch.randn(1, 4, 8, 8))).all() and half.vae.dtype == torch.float32


def test_latents_are_mean_and_deviation_times_the_scaling_factor(parts):
    pixels = torch.rand(2, 3, 64, 48) * 2 - 1
    with torch.no_grad():
        latents = SD.encode_images(parts, pixels)
        distribution = parts.vae.encode(pixels).latent_dist
        torch.testing.assert_close(latents[:, 0], distribution.mean * 0.18215)
        torch.testing.assert_close(latents[:, 1], distribution.std * 0.18215)
        assert latents.shape == (2, 2, 4, 8, 6)
        decoded = parts.vae.decode(distribution.mean).sample
        torch.testing.assert_close(SD.decode_latents(parts, latents[:, 0]), decoded, atol=1e-4, rtol=1e-4)


def test_prompts_are_encoded_as_the_tokenizer_and_the_encoder_do(parts):
    prompts = ["a girl in a red dress", "", "nosnjaoutfit " * 60]
    tokens = parts.tokenizers[0](prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    encoder = parts.text_encoders[0]
    with torch.no_grad():
        output = encoder(tokens, output_hidden_states=True)
        assert torch.equal(SD.encode_prompts(parts, prompts).hidden, output.last_hidden_state)
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        # Counted from the end, 1 is the last layer: its normed output is what the encoder returns anyway.
        torch.testing.assert_close(norm(output.hidden_states[-1]), output.last_hidden_state)
        assert torch.equal(SD.encode_prompts(parts, prompts, clip_skip=2).hidden, norm(output.hidden_states[-2]))


def test_long_prompts_go_on_in_further_chunks(parts):
    words = ["girl"] * 75 + ["dog"] * 75 + ["cat"] * 75
    with torch.no_grad():
        whole = SD.encode_prompts(parts, [" ".join(words), "a girl"], max_chunks=3).hidden
        assert whole.shape == (2, 231, 24)
        for chunk, word in enumerate(("girl", "dog", "cat")):
            single = SD.encode_prompts(parts, [" ".join([word] * 75)]).hidden[0]
            torch.testing.assert_close(whole[0, chunk * 77 : (chunk + 1) * 77], single)
        torch.testing.assert_close(whole[1, :77], SD.encode_prompts(parts, ["a girl"]).hidden[0])
        assert SD.encode_prompts(parts, [" ".join(words)]).hidden.shape == (1, 77, 24)


def test_v_prediction_is_read_from_the_model(tmp_path):
    assert SD.load(Folder(tiny_sd(tmp_path / "v", prediction_type="v_prediction")), CPU, torch.float32).prediction_type == "v_prediction"


def test_half_precision_and_sharded_files_are_found(broken):
    unet = broken / "unet" / "diffusion_pytorch_model.safetensors"
    before = SD.load(Folder(broken), CPU, torch.float32).denoiser.conv_in.weight
    unet.rename(unet.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert torch.equal(SD.load(Folder(broken), CPU, torch.float32).denoiser.conv_in.weight, before)
    unet.with_name("diffusion_pytorch_model.fp16.safetensors").unlink()
    whole = SD.load(Folder(tiny_sd(broken)), CPU, torch.float32).denoiser
    unet.unlink()
    whole.save_pretrained(broken / "unet", max_shard_size="300KB")
    assert not unet.exists() and torch.equal(SD.load(Folder(broken), CPU, torch.float32).denoiser.conv_in.weight, before)
    (broken / "unet" / sorted(file.name for file in (broken / "unet").glob("*-of-*"))[-1]).unlink()
    assert "-of-" in refusal(broken)


def test_the_hash_tells_fine_tunes_of_one_size_apart(tmp_path, model):
    hashes = [SD.load(Folder(tiny_sd(tmp_path / str(seed), seed=seed)), CPU, torch.float32, parts=("unet",)).base_hash for seed in (0, 1)]
    assert hashes[0] == weights.short_hash(model / "unet" / "diffusion_pytorch_model.safetensors") != hashes[1] and len(hashes[0]) == 12


def test_a_large_file_is_told_apart_by_blocks_spread_over_it(tmp_path):
    size = 40 * 1024 * 1024
    for name, place in (("a", None), ("b", 0), ("c", size - 1), ("d", None)):
        with open(tmp_path / name, "wb") as file:
            file.truncate(size)
            if place is not None:
                file.seek(place)
                file.write(b"x")
    hashes = {name: weights.short_hash(tmp_path / name) for name in "abcd"}
    assert hashes["a"] == hashes["d"] and len(set(hashes.values())) == 3


@pytest.mark.parametrize(
    "file",
    [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_missing_or_damaged_file_is_named(broken, file):
    content = (broken / file).read_bytes()
    (broken / file).unlink()
    (broken / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    assert file.rpartition("/")[2] in refusal(broken)
    if not file.endswith(".txt"):
        (broken / file).write_bytes(content[: len(content) // 2])
        assert file.partition("/")[0] in refusal(broken)


def test_weights_that_lack_a_tensor_or_are_a_pointer_are_refused(broken):
    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["conv_in.weight"]
    save_file(tensors, file)
    assert "conv_in.weight" in refusal(broken)
    save_file({**tensors, "conv_in.weight": torch.zeros(3, 3)}, file)
    assert "unet" in refusal(broken)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3438167536\n")
    assert "Git LFS" in refusal(broken)
    file.unlink()
    file.with_suffix(".bin").write_bytes(b"pickle")
    assert ".bin" in refusal(broken)


def test_models_of_other_kinds_are_refused_by_what_they_are(broken, tmp_path):
    edit(broken / "unet" / "config.json", in_channels=9)
    assert "inpainting" in refusal(broken)
    edit(broken / "model_index.json", _class_name="KandinskyPipeline")
    assert "KandinskyPipeline" in refusal(broken) and "Stable Diffusion XL" in refusal(broken)
    edit(broken / "model_index.json", _class_name="StableDiffusionXLPipeline", text_encoder_2=["transformers", "CLIPTextModel"])
    edit(broken / "unet" / "config.json", in_channels=4)
    assert "conditioned differently" in refusal(broken)
    single = tmp_path / "v1-5-pruned.safetensors"
    single.write_bytes(b"x")
    assert "damaged or no .safetensors file" in refusal(single)
    pickled = tmp_path / "v1-5-pruned.ckpt"
    pickled.write_bytes(b"x")
    assert "model convert" in refusal(pickled)
    shutil.copytree(broken / "vae", tmp_path / "vae_only")
    assert "model_index.json" in refusal(tmp_path / "vae_only")
    assert "known models: broken, v1-5-pruned.ckpt, v1-5-pruned.safetensors, vae_only" in refusal("nothing", workspace_models=tmp_path)
    assert "model.path" in refusal("")


def test_the_precision_is_chosen_by_the_device():
    assert choose_dtype("auto", CPU) == torch.float32 and choose_dtype("bfloat16", CPU) == torch.bfloat16
    device = choose_device()
    assert choose_dtype("auto", device) in ((torch.float32,) if device.type == "cpu" else (torch.bfloat16, torch.float16))


def test_metadata_says_what_readers_look_for_and_nothing_private(parts):
    job = TrainJob.parse(
        {
            "name": "/home/branka/secret/costume",
            "trigger": "nosnjaoutfit",
            "model": {"path": "/home/branka/models/tiny", "clip_skip": 2},
            "dataset": {"path": "C:\\Users\\branka\\pictures", "resolution": 512},
            "lora": {"rank": 16, "alpha": 8},
            "optimizer": {"text_encoder_learning_rate": None},
            "preview": {"prompts": ["a private caption"], "negative_prompt": "a private wish"},
            "output": "/home/branka/out",
        }
    )
    counts = {"pictures": 30, "steps_per_epoch": 150, "total_steps": 1500}
    told = metadata(job, SD, parts, steps=300, epoch=2, started_at=1_700_000_000.0, dataset_summary=counts, caption_version="v3")
    assert all(isinstance(value, str) for value in told.values())
    expected = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "16",
        "ss_network_alpha": "8.0",
        "ss_base_model_version": "sd_v1",
        "ss_sd_model_name": "tiny",
        "ss_sd_model_hash": parts.base_hash,
        "ss_output_name": "costume",
        "ss_unet_lr": "0.0001",
        "ss_text_encoder_lr": "None",
        "ss_steps": "300",
        "ss_epoch": "2",
        "ss_clip_skip": "2",
        "ss_resolution": "(512, 512)",
        "ss_num_train_images": "300",
        "modelspec.trigger_phrase": "nosnjaoutfit",
        "nosnja_trigger": "nosnjaoutfit",
        "nosnja_caption_version": "v3",
    }
    assert {key: told.get(key) for key in expected} == expected
    everything = json.dumps(told)
    for private in ("branka", "secret", "home", "Users", "private", "\\\\"):
        assert private not in everything
    assert {key for key, value in told.items() if "/" in value} == {"modelspec.architecture"}
