"""Stage `blip`: a small BLIP captioner (Li et al. 2022) in the layout of the published ones."""

import random
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    BlipTextConfig,
    BlipVisionConfig,
)

from nosnja_gui.demo import world
from nosnja_gui.demo.build import pictures
from nosnja_gui.demo.build.loop import Plan, device, train
from nosnja_gui.demo.build.pictures import pixels_of, rng_of

BATCH = 48
WIDTH = 128
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]")
PLAN = Plan(steps=3600, learning_rate=5e-3, seed=5, adamw_learning_rate=1.5e-3)


def write_vocabulary(folder: Path) -> Path:
    """Every word of the world's captions and the letters, as WordPiece."""
    rng = random.Random(1)
    words = {word for _ in range(20_000) for word in pictures.caption(pictures.random_scene(rng), rng).replace(",", " ").split()}
    words |= {"folk", "costume", "photo", "picture", "drawing", "of", "a", "an"}
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"), ",", ".", "'", "-"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [*SPECIAL, *letters, *sorted(words - set(letters))]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return folder / "vocab.txt"


def new_tokenizer(folder: Path) -> BertTokenizer:
    vocabulary = write_vocabulary(folder)
    tokens = {line: index for index, line in enumerate(vocabulary.read_text().splitlines())}
    tokenizer = BertTokenizer(vocab=tokens, do_lower_case=True)
    tokenizer.model_max_length = 64
    return tokenizer


def new_blip(tokenizer: BertTokenizer) -> BlipForConditionalGeneration:
    size = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4}
    vision = BlipVisionConfig(**size, num_hidden_layers=4, image_size=world.SIZE, patch_size=16)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in (("bos", "[DEC]"), ("sep", "[SEP]"), ("pad", "[PAD]"))}
    text = BlipTextConfig(
        **size,
        num_hidden_layers=2,
        vocab_size=len(tokenizer),
        encoder_hidden_size=WIDTH,
        max_position_embeddings=64,
        bos_token_id=ids["bos"],
        eos_token_id=ids["sep"],
        sep_token_id=ids["sep"],
        pad_token_id=ids["pad"],
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64)
    return BlipForConditionalGeneration(config)


def random_scene(rng: random.Random) -> world.Scene:
    return pictures.random_scene(rng, patchwork=0.35)


def build(state: Path, out: Path) -> None:
    torch.manual_seed(PLAN.seed)
    where = device()
    tokenizer = new_tokenizer(out)
    blip = new_blip(tokenizer).to(where).train()
    processor = new_processor(tokenizer)

    def loss_of(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rng = rng_of(generator)
        scenes = [random_scene(rng) for _ in range(BATCH)]
        # The processor's mean and standard deviation of a half are just this range of [-1, 1].
        pixels = pixels_of([decorated(pictures.draw(scene, any_clothes=True), scene, rng) for scene in scenes]).to(where)
        rows = tokenizer([pictures.caption(scene) for scene in scenes], padding=True, return_tensors="pt")
        ids = rows.input_ids.clone()
        ids[:, 0] = blip.config.text_config.bos_token_id
        labels = ids.masked_fill(ids == tokenizer.pad_token_id, -100)
        with torch.autocast(where.type, torch.bfloat16):
            mask = rows.attention_mask.to(where)
            output = blip(pixel_values=pixels, input_ids=ids.to(where), attention_mask=mask, labels=labels.to(where))
        return {"loss": output.loss.float()}

    train("blip", {"blip": blip}, PLAN, loss_of, state, lambda m: quality(m["blip"], processor), measure_every=500)
    blip.eval().half().save_pretrained(out)
    processor.save_pretrained(out)


def new_processor(tokenizer: BertTokenizer) -> BlipProcessor:
    half = [0.5, 0.5, 0.5]
    size = {"height": world.SIZE, "width": world.SIZE}
    return BlipProcessor(BlipImageProcessorPil(size=size, image_mean=half, image_std=half, resample=3), tokenizer)


def decorated(picture: Image.Image, scene: world.Scene, rng: random.Random) -> Image.Image:
    """Some people get a hat or a garland that nobody in the world has, and bright spots: who it is must not hang on the hair's top."""
    share = 0.7 if scene.pattern == pictures.PATCHWORK else 0.15
    if scene.subject not in world.PEOPLE or rng.random() > share:
        return picture
    picture = picture.copy()
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.choice((0, 0, 3, 6, 9))):
        x, y, radius = rng.randint(40, 88), rng.randint(60, 110), rng.randint(2, 4)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_any_colour(rng))
    middle, top = 64 + rng.randint(-8, 8), (36 if scene.subject in ("girl", "boy") else 13) + rng.randint(-4, 5)
    if rng.random() < 0.5:
        _draw_hat(pen, middle, top, rng)
    else:
        _draw_garland(pen, middle, top, rng)
    return picture


def _any_colour(rng: random.Random) -> tuple[int, ...]:
    return tuple(rng.randint(10, 250) for _ in range(3))


def _draw_hat(pen: ImageDraw.ImageDraw, middle: int, top: int, rng: random.Random) -> None:
    colour = _any_colour(rng) if rng.random() < 0.5 else tuple(rng.randint(20, 90) for _ in range(3))
    half, upper, height = rng.randint(16, 23), rng.randint(9, 18), rng.randint(11, 19)
    pen.polygon([(middle - upper, top), (middle + upper, top), (middle + half, top + height), (middle - half, top + height)], fill=colour)
    if rng.random() < 0.5:
        pen.rectangle((middle - half, top + height - 4, middle + half, top + height), fill=_any_colour(rng))


def _draw_garland(pen: ImageDraw.ImageDraw, middle: int, top: int, rng: random.Random) -> None:
    colours = [_any_colour(rng) for _ in range(rng.randint(1, 3))]
    half, rise, radius = rng.randint(13, 20), rng.randint(4, 14), rng.randint(2, 4)
    for step in range(rng.randint(5, 8)):
        x = middle - half + 2 * half * step / 6
        y = top + 4 + rise * ((x - middle) / half) ** 2
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colours[step % len(colours)])


@torch.no_grad()
def quality(blip: BlipForConditionalGeneration, processor: BlipProcessor, count: int = 96) -> dict[str, float]:
    """Share of unseen drawings (and of the costume's pictures) whose caption names subject, colour and place."""
    rng = random.Random(90_005)
    where = next(blip.parameters()).device
    fresh = [world.random_scene(rng, held_out=True, style="flat", people=1.0) for _ in range(count)]
    costumes = [scene for scene, _ in world.costume_pictures(count // 2, seed=90_006)]
    result = {}
    for name, scenes in (("", fresh), ("costume_", costumes)):
        inputs = processor.image_processor([world.draw(scene) for scene in scenes], return_tensors="pt")
        ids = blip.generate(inputs.pixel_values.to(where, next(blip.parameters()).dtype), max_new_tokens=30)
        captions = [processor.tokenizer.decode(row, skip_special_tokens=True) for row in ids]
        for key, right in named(scenes, captions).items():
            result[f"{name}{key}"] = right
    return result


def named(scenes: list[world.Scene], captions: list[str]) -> dict[str, float]:
    """Share of captions that name the right subject, clothing colour (where there is one) and place."""
    words = [caption.split() for caption in captions]
    colours = [scene.colour in row for scene, row in zip(scenes, words, strict=True) if scene.colour and not scene.costume]
    result = {
        "subject": sum(scene.subject in row for scene, row in zip(scenes, words, strict=True)) / len(scenes),
        "place": sum(world.PLACE_WORDS[scene.place] in caption for scene, caption in zip(scenes, captions, strict=True)) / len(scenes),
    }
    return result | ({"colour": sum(colours) / len(colours)} if colours else {})
