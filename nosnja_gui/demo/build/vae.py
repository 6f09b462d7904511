"""Stage `vae`: the auto-encoder, 128 px pictures <-> 16 x 16 x 8 latents, as in Stable Diffusion (Rombach et al. 2022)."""

import random
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from torch import nn

from nosnja_gui.demo import world
from nosnja_gui.demo.build import pictures
from nosnja_gui.demo.build.loop import Plan, device, train
from nosnja_gui.demo.build.pictures import pixels_of, rng_of

CHANNELS = (24, 48, 96, 128)
LATENT_CHANNELS = 8
"""Stable Diffusion has 4: with so small a network, ornaments of a few pixels do not survive in those."""
CROP = 64
BATCH = 16
PLAN = Plan(steps=2600, learning_rate=6e-3, seed=1, adamw_learning_rate=2e-3)
DECODER_PLAN = Plan(steps=2000, learning_rate=4e-3, seed=2, adamw_learning_rate=1.5e-3)


def new_vae() -> AutoencoderKL:
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=world.SIZE,
    )
    for name, module in vae.named_modules():
        # The default initialisation sits on a plateau for hundreds of steps; small second convolutions make the blocks begin as identities.
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5 * (0.3 if name.endswith("conv2") else 1.0))
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        vae.quant_conv.bias[LATENT_CHANNELS:] = -4.0  # log-variance: begin with nearly exact latents
    return vae


def training_picture(rng: random.Random) -> Image.Image:
    """Any style, often patterned, sometimes in foreign colours: the costume must be drawable without ever having been seen."""
    style = "8bit" if rng.random() < 0.08 else None
    scene = world.random_scene(rng, style=style) if style else pictures.random_scene(rng, patchwork=0.3)
    for _ in range(2):
        if scene.pattern == "plain" and rng.random() < 0.5:
            scene = pictures.random_scene(rng, patchwork=0.3)
    picture = pictures.draw(scene)
    if rng.random() < 0.35:
        picture = pictures.ornamented(picture, rng)
    if rng.random() < 0.3:
        bands = list(picture.split())
        rng.shuffle(bands)
        picture = Image.merge("RGB", bands)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else picture


def crops(generator: torch.Generator, count: int, side: int) -> torch.Tensor:
    rng, cut = rng_of(generator), []
    for _ in range(count):
        picture = training_picture(rng)
        # People stand in the middle: crops there more often than at the rim.
        x, y = (round(rng.triangular(0, world.SIZE - side)) for _ in range(2))
        cut.append(picture.crop((x, y, x + side, y + side)))
    return pixels_of(cut)


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 + 4 MSE + half an L1 of the differences between neighbours, which keeps edges sharp without a discriminator."""
    difference = output - target
    edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return difference.abs().mean() + 4 * difference.square().mean() + 0.5 * edges


def psnr(output: torch.Tensor, target: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB, mean over pictures in [-1, 1]."""
    errors = (output.clamp(-1, 1) - target).square().flatten(1).mean(1) / 4
    return float((-10 * torch.log10(errors.clamp_min(1e-10))).mean())


def held_out_pixels(count: int = 48) -> torch.Tensor:
    rng = random.Random(90_001)
    return pixels_of([world.draw(world.random_scene(rng, held_out=True)) for _ in range(count)])


def costume_pixels(count: int = 24) -> torch.Tensor:
    return pixels_of([picture for _, picture in world.costume_pictures(count, seed=90_002)])


@torch.no_grad()
def quality(vae: AutoencoderKL) -> dict[str, float]:
    where = next(vae.parameters()).device
    result = {}
    for name, pixels in (("psnr", held_out_pixels()), ("psnr_costume", costume_pixels())):
        pixels = pixels.to(where)
        result[name] = psnr(torch.cat([vae.decode(vae.encode(part).latent_dist.mode()).sample for part in pixels.split(8)]), pixels)
    return result


def build(state: Path, out: Path) -> None:
    """Encoder and decoder together, then `scaling_factor` = 1 / standard deviation of the latents."""
    torch.manual_seed(PLAN.seed)
    where = device()
    vae = new_vae().to(where, memory_format=torch.channels_last)

    def loss_of(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        target = batch(generator, whole=step > 0.85 * PLAN.steps).to(where, memory_format=torch.channels_last)
        with torch.autocast(where.type, torch.bfloat16):
            posterior = vae.encode(target).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(where)
            output = vae.decode(posterior.mean + posterior.std * noise).sample
        rebuilt = reconstruction_loss(output.float(), target)
        spread = posterior.kl().mean() / posterior.mean[0].numel()
        return {"loss": rebuilt + 2e-4 * spread, "rebuilt": rebuilt, "kl": spread}

    train("vae", {"vae": vae}, PLAN, loss_of, state, lambda m: quality(m["vae"]), measure_every=500)
    vae.eval()
    with torch.no_grad():
        pixels = crops(torch.Generator().manual_seed(5), 256, world.SIZE).to(where)
        latents = torch.cat([vae.encode(part).latent_dist.mode() for part in pixels.split(16)])
    vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 5))
    vae.to(memory_format=torch.contiguous_format).half().save_pretrained(out)


def build_decoder(state: Path, out: Path) -> None:
    """The decoder goes on alone: the latents stay as they are, so the denoiser can already be trained on them."""
    where = device()
    vae = AutoencoderKL.from_pretrained(out, torch_dtype=torch.float32).to(where, memory_format=torch.channels_last)
    vae.requires_grad_(False)
    decoder = {"decoder": vae.decoder.requires_grad_(True), "post_quant_conv": vae.post_quant_conv.requires_grad_(True)}

    def loss_of(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        target = batch(generator, whole=step > 0.7 * DECODER_PLAN.steps).to(where, memory_format=torch.channels_last)
        with torch.autocast(where.type, torch.bfloat16):
            with torch.no_grad():
                latents = vae.encode(target).latent_dist.mode()
                latents = latents + 0.02 * torch.randn(latents.shape, generator=generator).to(latents)
            output = vae.decode(latents).sample
        rebuilt = reconstruction_loss(output.float(), target)
        return {"loss": rebuilt, "rebuilt": rebuilt}

    train("decoder", decoder, DECODER_PLAN, loss_of, state, lambda _: quality(vae), measure_every=500)
    vae.eval().to(memory_format=torch.contiguous_format).half().save_pretrained(out)


def batch(generator: torch.Generator, whole: bool) -> torch.Tensor:
    """Small crops, or a quarter as many whole pictures: the same number of pixels."""
    return crops(generator, BATCH // 4, world.SIZE) if whole else crops(generator, BATCH, CROP)
