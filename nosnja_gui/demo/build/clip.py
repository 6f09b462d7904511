"""Stage `clip`: a small CLIP on picture and caption (Radford et al. 2021). Its text half is the Stable Diffusion's text encoder."""

import random
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig

from nosnja_gui.demo import world
from nosnja_gui.demo.build import pictures
from nosnja_gui.demo.build.loop import Plan, device, train
from nosnja_gui.demo.build.pictures import pixels_of, rng_of
from nosnja_gui.demo.build.words import FIRST_TOKEN, LAST_TOKEN, Words
from nosnja_gui.files import replacing

WIDTH = 80
LENGTH = 32
"""Tokens per caption while training; attention is causal, so padding beyond changes nothing before it."""
BATCH = 64
PLAN = Plan(steps=2200, learning_rate=6e-3, seed=3, adamw_learning_rate=2e-3)
HEADS = {"subject": world.SUBJECTS, "clothing": world.CLOTHES, "colour": world.COLOURS, "place": world.PLACES}


def new_clip() -> CLIPModel:
    special = {"bos_token_id": FIRST_TOKEN, "eos_token_id": LAST_TOKEN, "pad_token_id": LAST_TOKEN}
    text_size = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 3, "num_attention_heads": 5}
    vision_size = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
    text = CLIPTextConfig(vocab_size=LAST_TOKEN + 1, projection_dim=64, **text_size, **special)
    vision = CLIPVisionConfig(image_size=world.SIZE, patch_size=16, projection_dim=64, **vision_size)
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64))


def targets_of(scenes: list[world.Scene]) -> dict[str, torch.Tensor]:
    """Attribute numbers, -100 where a scene has no such attribute or the caption doesn't say it."""
    result = {}
    for head, values in HEADS.items():
        shown = [scene.clothing if head == "clothing" and scene.pattern == pictures.PATCHWORK else getattr(scene, head) for scene in scenes]
        hidden = [scene.pattern == pictures.PATCHWORK and head in ("clothing", "colour") for scene in scenes]
        numbers = [-100 if hide or value not in values else values.index(value) for value, hide in zip(shown, hidden, strict=True)]
        result[head] = torch.tensor(numbers)
    return result


def build(state: Path, out: Path, words_folder: Path, text_encoder_out: Path) -> None:
    torch.manual_seed(PLAN.seed)
    where = device()
    words = Words(words_folder)
    clip = new_clip().to(where)
    # Read from the hidden state of the last word and thrown away afterwards: they make the words' meaning available to the denoiser early.
    heads = nn.ModuleDict({head: nn.Linear(WIDTH, len(values)) for head, values in HEADS.items()}).to(where)

    def loss_of(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rng = rng_of(generator)
        scenes = [pictures.random_scene(rng) for _ in range(BATCH)]
        pixels = pixels_of([pictures.draw(scene) for scene in scenes]).to(where)
        captions = [pictures.caption(scene) for scene in scenes]
        ids = words.disturbed(captions, generator, share=0.5, length=LENGTH).to(where)
        with torch.autocast(where.type, torch.bfloat16):
            text = clip.text_model(input_ids=ids)
            picture = clip.vision_model(pixel_values=pixels)
        text_states = F.normalize(clip.text_projection(text.pooler_output.float()), dim=-1)
        picture_states = F.normalize(clip.visual_projection(picture.pooler_output.float()), dim=-1)
        logits = clip.logit_scale.exp().clamp(max=100) * text_states @ picture_states.T
        # Equal captions are no negatives of each other.
        same = torch.tensor([[a == b for b in captions] for a in captions], device=where)
        wanted = same.float() / same.sum(1, keepdim=True)
        contrast = -(wanted * logits.log_softmax(1)).sum(1).mean() - (wanted * logits.T.log_softmax(1)).sum(1).mean()
        end = text.pooler_output.float()
        attributes = sum(
            F.cross_entropy(heads[head](end), target.to(where), ignore_index=-100) for head, target in targets_of(scenes).items()
        )
        right = (logits.argmax(1) == torch.arange(BATCH, device=where)).float().mean()
        return {"loss": contrast / 2 + 0.25 * attributes, "contrast": contrast / 2, "attributes": attributes, "right": right}

    train("clip", {"clip": clip, "heads": heads}, PLAN, loss_of, state, lambda m: quality(m["clip"], words), measure_every=500)
    clip.eval().half().save_pretrained(out)
    shutil.copytree(words_folder, out, dirs_exist_ok=True)  # save_pretrained would write one tokenizer.json of thrice the size
    size = {"height": world.SIZE, "width": world.SIZE}
    half = [0.5, 0.5, 0.5]
    CLIPImageProcessorPil(size=size, crop_size=size, image_mean=half, image_std=half, do_center_crop=False).save_pretrained(out)
    encoder = CLIPTextModel(clip.config.text_config)
    encoder.load_state_dict(text_state(clip))
    encoder.half().save_pretrained(text_encoder_out)
    give_classic_names(text_encoder_out / "model.safetensors")


def give_classic_names(file: Path) -> None:
    """`text_model.` before every name, as in all published Stable Diffusions; transformers 5.6 stopped writing it."""
    state = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in load_file(file).items()}
    with replacing(file) as temporary:
        save_file(state, temporary, metadata={"format": "pt"})


def text_state(clip: CLIPModel) -> dict[str, torch.Tensor]:
    """The text half's weights under the names that CLIPTextModel of this transformers version has."""
    wanted = CLIPTextModel(clip.config.text_config).state_dict()
    state = {key.removeprefix("text_model."): value for key, value in clip.state_dict().items() if key.startswith("text_model.")}
    return {key: state[key.removeprefix("text_model.")] for key in wanted}


@torch.no_grad()
def quality(clip: CLIPModel, words: Words) -> dict[str, float]:
    """Share of held-out pictures whose own caption is the nearest of four with another subject, colour or place."""
    rng = random.Random(90_003)
    where = next(clip.parameters()).device
    right, count = 0, 0
    for _ in range(4):
        scenes = [world.random_scene(rng, held_out=True) for _ in range(48)]
        picture = clip.visual_projection(clip.vision_model(pixel_values=pixels_of([world.draw(s) for s in scenes]).to(where)).pooler_output)
        captions = [world.caption(scene) for scene in scenes]
        text = clip.text_projection(clip.text_model(input_ids=words.ids(captions, LENGTH).to(where)).pooler_output)
        similar = F.normalize(picture, dim=-1) @ F.normalize(text, dim=-1).T
        best = similar.argmax(1).tolist()
        right += sum(captions[b] == captions[i] for i, b in enumerate(best))
        count += len(scenes)
    return {"retrieval_of_48": right / count}
