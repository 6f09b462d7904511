"""Stage `unet`: the denoiser, trained as Stable Diffusion was: epsilon prediction on latents, captions now and then left out."""

import copy
import json
import random
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from nosnja_gui.demo import world
from nosnja_gui.demo.build import pictures
from nosnja_gui.demo.build.clip import WIDTH
from nosnja_gui.demo.build.loop import Plan, device, join_processes, train
from nosnja_gui.demo.build.pictures import pixels_of, rng_of
from nosnja_gui.demo.build.vae import LATENT_CHANNELS
from nosnja_gui.demo.build.words import Words
from nosnja_gui.files import replacing, write_atomic

CHANNELS = (64, 112, 144)
PICTURES = 20_000
BATCH = 32
PLAN = Plan(steps=3100, learning_rate=3e-3, seed=6, adamw_learning_rate=1e-3, average=0.999)
SCHEDULE = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.42.1",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
}


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=world.SIZE // 8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # the number of heads: diffusers kept SD 1.x's misnomer
        block_out_channels=CHANNELS,
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )


def training_scenes() -> list[world.Scene]:
    rng = random.Random(11)
    return [pictures.random_scene(rng) for _ in range(PICTURES)]


@torch.no_grad()
def build_latents(state: Path, out: Path) -> None:
    """Scaled latents of the training pictures: mean and standard deviation, (pictures, 2, 8, 16, 16), in half precision."""
    file = state / "latents.safetensors"
    if file.exists():
        return
    where = device()
    vae = AutoencoderKL.from_pretrained(out / "vae", torch_dtype=torch.float32).to(where).eval()
    rows = []
    scenes = training_scenes()
    for start in range(0, len(scenes), 32):
        pixels = pixels_of([pictures.draw(scene) for scene in scenes[start : start + 32]]).to(where)
        with torch.autocast(where.type, torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
        rows.append((torch.stack([posterior.mean, posterior.std], 1).float() * vae.config.scaling_factor).half().cpu())
    with replacing(file) as temporary:
        save_file({"latents": torch.cat(rows)}, temporary)


def signal_shares() -> torch.Tensor:
    """Cumulative alphas (1000,) of the scaled-linear schedule: the signal's share of the variance at each timestep."""
    betas = torch.linspace(SCHEDULE["beta_start"] ** 0.5, SCHEDULE["beta_end"] ** 0.5, SCHEDULE["num_train_timesteps"]) ** 2
    return (1 - betas).cumprod(0)


def build(state: Path, out: Path) -> None:
    torch.manual_seed(PLAN.seed)
    where = device()
    words = Words(out / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(out / "text_encoder", torch_dtype=torch.float32).to(where).eval().requires_grad_(False)
    latents = load_file(state / "latents.safetensors")["latents"]
    scenes = training_scenes()
    alphas = signal_shares()
    unet = new_unet().to(where)
    rank, processes = join_processes()
    size = BATCH // processes

    def loss_of(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rng = rng_of(generator)
        rows = torch.randint(len(latents), (size,), generator=generator)
        captions = ["" if rng.random() < 0.1 else pictures.caption(scenes[row], rng) for row in rows.tolist()]
        ids = words.disturbed(captions, generator, share=0.4).to(where)
        mean, std = latents[rows].float().unbind(1)
        clean = mean + std * torch.randn(mean.shape, generator=generator)
        # Stratified: one timestep from each of `size` equal stretches makes the loss much less noisy.
        timesteps = ((torch.randperm(size, generator=generator) + torch.rand(size, generator=generator)) / size * 1000).long()
        noise = torch.randn(clean.shape, generator=generator)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        weight = (5.0 / (alpha / (1 - alpha))).clamp(max=1.0)  # min-SNR, gamma 5 (Hang et al. 2023, Eq. 7)
        with torch.autocast(where.type, torch.bfloat16):
            with torch.no_grad():
                text = text_encoder(ids)[0]
            predicted = unet(noisy.to(where), timesteps.to(where), text).sample
        errors = (predicted.float() - noise.to(where)).square()
        return {"loss": (errors * weight.to(where)).mean(), "plain": errors.mean()}

    def snapshot(modules: dict) -> dict[str, float]:
        save(modules["unet"], out)
        return {}

    train("unet", {"unet": unet}, PLAN, loss_of, state, snapshot, measure_every=500)
    if rank == 0:
        save(unet.eval(), out)


def save(unet: UNet2DConditionModel, out: Path) -> None:
    """The averaged weights as they are now, so that the kit can be looked at while it still trains."""
    copy.deepcopy(unet).to("cpu").half().save_pretrained(out / "unet")
    write_atomic(out / "scheduler" / "scheduler_config.json", json.dumps(SCHEDULE, indent=2) + "\n")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_atomic(out / "model_index.json", json.dumps(index, indent=2) + "\n")
