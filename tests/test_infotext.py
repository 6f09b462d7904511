"""The text in a picture: written and read back, of A1111 and of ComfyUI, damaged and enormous, and what a grid takes of it."""

import hashlib
import itertools
import json
import random
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from nosnja_gui import infotext, weights
from nosnja_gui.axes import SAMPLER_TITLES
from nosnja_gui.infotext import Infotext, Known, Network, as_grid_values, parse, read, with_axes, write
from nosnja_gui.jobs import GridJob
from nosnja_gui.settings import UserError, merge_dotted

USUAL = """masterpiece, (red dress:1.2),
a girl <lora:folk_v2:0.8> at the lake
Negative prompt: lowres, bad hands,
blurry
Steps: 28, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 965400086, Size: 512x768, Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, \
VAE hash: 235745af8d, VAE: vae-ft-mse-840000.pt, Denoising strength: 0.45, Clip skip: 2, Hires upscale: 2, Hires steps: 10, \
Hires upscaler: 4x-UltraSharp, Lora hashes: "folk_v2: aabbccddeeff", Version: v1.6.0"""


def picture(file: Path, **texts: str) -> Path:
    info = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    Image.new("RGB", (8, 8), "red").save(file, pnginfo=info)
    return file


# Read


def test_a_text_of_a1111_comes_apart():
    found = parse(USUAL)
    assert found.prompt == "masterpiece, (red dress:1.2),\na girl at the lake"
    assert found.negative_prompt == "lowres, bad hands,\nblurry"
    assert found.loras == (Network("folk_v2", 0.8),) and found.lora_hashes == {"folk_v2": "aabbccddeeff"}
    assert list(found.settings)[:5] == ["Steps", "Sampler", "CFG scale", "Seed", "Size"]
    assert found.settings["Model"] == "v1-5-pruned-emaonly" and found.settings["VAE"] == "vae-ft-mse-840000.pt"
    assert found.settings["Clip skip"] == "2" and found.settings["Hires upscaler"] == "4x-UltraSharp"


@pytest.mark.parametrize(
    ("tags", "loras", "hypernets"),
    [
        ("<lora:a>", [("a", 1.0, None)], []),
        ("<lora:a:0.5> <lora:b:-1>", [("a", 0.5, None), ("b", -1.0, None)], []),
        # A1111's order is the text encoder first, then the UNet.
        ("<lora:a:0.5:0.7>", [("a", 0.7, 0.5)], []),
        ("<lora:a:0.5:unet=0.7>", [("a", 0.7, 0.5)], []),
        ("<lora:a:te=0.2:unet=0.7>", [("a", 0.7, 0.2)], []),
        ("<lyco:b:0.3>, <lora:a:1>", [("b", 0.3, None), ("a", 1.0, None)], []),
        ("<hypernet:h:0.4>", [], [("h", 0.4, None)]),
        ("<lora:a:strong> <lora:b:inf>", [("a", 1.0, None), ("b", 1.0, None)], []),
    ],
)
def test_networks_are_taken_out_of_the_prompt(tags, loras, hypernets):
    found = parse(f"a dog {tags}\nSteps: 20, Sampler: Euler a, Seed: 1")
    assert list(found.loras) == loras and list(found.hypernets) == hypernets
    assert "<" not in found.prompt and found.prompt.startswith("a dog")


def test_an_old_hypernetwork_is_one_too():
    found = parse("a dog\nSteps: 20, Sampler: Euler a, Seed: 1, Hypernet: anime(1a2b3c), Hypernet strength: 0.5")
    assert found.hypernets == (Network("anime", 0.5),) and "Hypernet" not in found.settings
    assert parse(write(found)) == found


def test_a_prompt_that_looks_like_settings_stays_a_prompt():
    text = "Steps: 20, Sampler: Euler, Seed: 5\nSize: 1x1\nNegative prompt: Steps: 3, a: b, CFG scale: 2\nSteps: 7, Sampler: DDIM, Seed: 9"
    found = parse(text)
    assert found.prompt == "Steps: 20, Sampler: Euler, Seed: 5\nSize: 1x1" and found.settings["Steps"] == "7"
    assert found.negative_prompt == "Steps: 3, a: b, CFG scale: 2"


def test_fewer_than_three_settings_are_a_prompt():
    assert parse("a dog, ratio: 2, style: oil") == Infotext("a dog, ratio: 2, style: oil")
    assert parse("") == Infotext() and parse("only words") == Infotext("only words")


def test_quoted_values_come_without_their_quotes():
    found = parse('p\nSteps: 1, Seed: 2, ADetailer prompt: "a, \\"b\\": c\\nd", X: "no, end, Note: "unclosed, Last: 1')
    assert found.settings["ADetailer prompt"] == 'a, "b": c\nd'
    assert found.settings["Note"] == '"unclosed' and found.settings["Last"] == "1"


def test_a_plot_names_its_axes_and_the_seeds_that_were_drawn():
    line = (
        'Steps: 20, Sampler: Euler a, Seed: 5, Script: X/Y/Z plot, X Type: Seed, X Values: "-1,-1,3", Fixed X Values: "11, 12, 3", '
        'Y Type: Prompt S/R, Y Values: "dog,""big, grey cat""", Z Type: CFG Scale, Z Values: 4-10 (+2)'
    ).replace('""big, grey cat""', '\\"big, grey cat\\"')
    assert parse(f"a dog\n{line}").axes == {
        "x": ("Seed", "11, 12, 3"), "y": ("Prompt S/R", 'dog,"big, grey cat"'), "z": ("CFG Scale", "4-10 (+2)"),
    }  # fmt: skip
    assert parse("a dog\nSteps: 20, Sampler: Euler a, Seed: 5, X Type: Seed, X Values: 1").axes == {}


@pytest.mark.parametrize(
    "text", ["a" * 1_000_000, "a:" * 500_000, 'aa: "' * 200_000, " " * 999_999 + ":", "aa, " * 250_000, "<lora:" * 160_000]
)
def test_a_text_of_any_kind_is_read_in_linear_time(text):
    began = time.perf_counter()
    parse(f"{text}\n{text}")
    assert time.perf_counter() - began < 10


# Written

HARD = [
    "", "a girl", "a, b: c", 'she says "hi"', '"quoted"', "line\nline\n", "\nfirst line empty", "Steps: 20",
    "Steps: 20, Sampler: Euler, Seed: 1", "nošnja, жар-птица, 民族服装, 🦊", "back\\slash \\n", " spaces around ", "tab\there", "x" * 5000,
    "<notatag:1>", "a < b > c", "end,", ": ,", "\u2028 and \x85", "Negative prompt later: no", "a\n  indented",
]  # fmt: skip


def test_what_is_written_is_read_again():
    for prompt, negative in itertools.product(HARD, HARD):
        one = Infotext(
            prompt, negative, {"Steps": "20", "Sampler": "Euler a", "Seed": "1", "Model": negative or "m", "Note": prompt or "n"}
        )
        assert parse(write(one)) == one, (prompt, negative)
    networks = (Network("a-b_c.d", 0.1), Network("čudno ime, (2)", -1.25, 0.3), Network("a-b_c.d", 1 / 3))
    for prompt in HARD:
        one = Infotext(prompt, "", {"Steps": "1", "Seed": "2", "Size": "8x8"}, networks, networks[:1])
        assert parse(write(one)) == one, prompt


def test_what_is_written_is_read_again_whatever_the_letters():
    signs = 'ab ,:"\\<>()-=\n\t.é中'
    dice = random.Random(3)
    for _ in range(3000):
        texts = ["".join(dice.choices(signs, k=dice.randint(0, 12))) for _ in range(4)]
        one = Infotext(texts[0], texts[1], {"Steps": texts[2], "Seed": texts[3], "VAE": "v"}, (Network("x", dice.random()),))
        assert parse(write(one)) == one, texts


def test_several_loras_and_a_vae_are_written_as_a1111_does():
    one = infotext.of_picture(
        prompt="a dog", negative_prompt="cat", seed=3, sampler="euler_a", steps=20, cfg_scale=6.5, width=512, height=640, clip_skip=2,
        model="sd15", model_hash="abc", loras=[Network("one", 0.8), Network("two")], lora_hashes={"one": "11", "two": "22"}, vae="mse.pt",
    )  # fmt: skip
    assert write(one) == (
        "a dog <lora:one:0.8> <lora:two:1>\nNegative prompt: cat\nSteps: 20, Sampler: Euler a, CFG scale: 6.5, Seed: 3, Size: 512x640, "
        'Model hash: abc, Model: sd15, VAE: mse.pt, Clip skip: 2, Lora hashes: "one: 11, two: 22"'
    )
    assert parse(write(one)) == one and one.lora_hashes == {"one": "11", "two": "22"}


def test_a_sheet_has_the_first_pictures_text_and_its_axes():
    text = write(parse(USUAL))
    sheet = with_axes(text, [("seed", "Seed", "1-3"), ("epoch", "Epoch", "none, 2, 4"), None])
    assert sheet == f'{text}, Script: X/Y/Z plot, X Type: Seed, X Values: 1-3, Y Type: Epoch, Y Values: "none, 2, 4"'
    assert parse(sheet).axes == {"x": ("Seed", "1-3"), "y": ("Epoch", "none, 2, 4")}
    assert parse(with_axes("", [("seed", "Seed", "1"), None, None])).axes == {"x": ("Seed", "1")}


# Files


@pytest.mark.parametrize("text", [USUAL, "nošnja, 民族\nSteps: 1, Seed: 2, Size: 8x8", "\n\nonly a prompt"])
def test_a_png_says_what_was_written_into_it(tmp_path, text):
    assert read(picture(tmp_path / "a.png", parameters=text, other="x")) == parse(text)


def test_compressed_texts_and_texts_behind_the_pixels_are_read(tmp_path):
    plain = picture(tmp_path / "a.png").read_bytes()
    packed = b"parameters\0\0" + zlib.compress(USUAL.encode("latin-1"))
    (tmp_path / "z.png").write_bytes(plain[:33] + chunk(b"zTXt", packed) + plain[33:])
    assert read(tmp_path / "z.png") == parse(USUAL)
    packed = b"parameters\0\1\0sr\0\0" + zlib.compress("ш\nSteps: 1, Seed: 2, Size: 8x8".encode())
    (tmp_path / "i.png").write_bytes(plain[:-12] + chunk(b"iTXt", packed) + plain[-12:])
    assert read(tmp_path / "i.png").prompt == "ш"


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("ending", ["jpg", "webp"])
@pytest.mark.parametrize("code", ["utf-16-be", "utf-16-le", "utf-8"])
def test_a_jpeg_or_webp_has_it_in_its_exif_comment(tmp_path, ending, code):
    """A1111 (modules/images.py) writes big-endian UTF-16 by piexif, other programs the other order or ASCII."""
    text = f"民族服装, č\n{USUAL}"
    exif = Image.Exif()
    exif.get_ifd(infotext.EXIF_IFD)[infotext.USER_COMMENT] = (b"ASCII\0\0\0" if code == "utf-8" else b"UNICODE\0") + text.encode(code)
    file = tmp_path / f"a.{ending}"
    Image.new("RGB", (16, 16)).save(file, exif=exif)
    assert read(file) == parse(text)


def refusal(file: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(file)
    said = str(caught.value)
    assert said.endswith(".") and "\n" not in said and file.name in said
    return said


def test_a_file_that_says_nothing_is_refused_with_a_reason(tmp_path):
    assert "cannot be read" in refusal(tmp_path / "nowhere.png")
    assert "nothing about" in refusal(picture(tmp_path / "empty.png"))
    Image.new("RGB", (8, 8)).save(tmp_path / "empty.jpg")
    assert "nothing about" in refusal(tmp_path / "empty.jpg")
    (tmp_path / "notes.png").write_text("not a picture")
    assert "no picture" in refusal(tmp_path / "notes.png")
    (tmp_path / "none.png").write_bytes(b"")
    assert "no picture" in refusal(tmp_path / "none.png")
    assert "painted by a program" in refusal(picture(tmp_path / "other.png", parameters='{"sui_image_params": {}}'))
    assert "drawing of a workflow" in refusal(picture(tmp_path / "drawn.png", workflow="{}"))


def test_a_damaged_file_is_refused_and_one_that_breaks_off_behind_its_text_is_not(tmp_path):
    whole = picture(tmp_path / "a.png", parameters=USUAL).read_bytes()
    for cut in (9, 20, 40, 100):
        (tmp_path / "cut.png").write_bytes(whole[:cut])
        assert "damaged" in refusal(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes(whole[: whole.index(b"IDAT") + 10])
    assert read(tmp_path / "cut.png") == parse(USUAL)
    (tmp_path / "bits.png").write_bytes(whole.replace(b"masterpiece", b"masterpiecf"))
    assert "damaged" in refusal(tmp_path / "bits.png")
    packed = chunk(b"zTXt", b"parameters\0\0" + b"no deflate")
    (tmp_path / "packed.png").write_bytes(whole[:33] + packed + whole[33:])
    assert "damaged" in refusal(tmp_path / "packed.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:15])
    assert "damaged" in refusal(tmp_path / "cut.jpg")


def test_enormous_texts_and_bombs_are_refused_at_once(tmp_path):
    plain = picture(tmp_path / "a.png").read_bytes()
    bomb = b"parameters\0\0" + zlib.compress(bytes(300_000_000), 9)
    (tmp_path / "bomb.png").write_bytes(plain[:33] + chunk(b"zTXt", bomb) + plain[33:])
    (tmp_path / "long.png").write_bytes(plain[:33] + chunk(b"tEXt", b"parameters\0" + b"a" * 3_000_000) + plain[33:])
    tracemalloc.start()
    assert "1,000,000" in refusal(tmp_path / "bomb.png") and "1,000,000" in refusal(tmp_path / "long.png")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 10_000_000, "the 300 MB are never unpacked"
    # A picture of 3,600 million pixels has a text like any other: no pixel is decoded.
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    text = chunk(b"tEXt", b"parameters\0" + USUAL.encode())
    (tmp_path / "wide.png").write_bytes(plain[:8] + chunk(b"IHDR", header) + text + plain[33:])
    assert read(tmp_path / "wide.png") == parse(USUAL)
    (tmp_path / "flow.png").write_bytes(plain[:33] + chunk(b"tEXt", b"workflow\0" + b"a" * 3_000_000) + text + plain[33:])
    assert read(tmp_path / "flow.png") == parse(USUAL), "how large another program's text is does not matter"


# ComfyUI

FLOW = {
    "3": {"class_type": "KSampler", "inputs": {
        "seed": 156680208700286, "steps": 20, "cfg": 8, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 1,
        "model": ["10", 0], "positive": ["6", 0], "negative": ["12", 1], "latent_image": ["5", 0]}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd1\\v1-5-pruned.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox,\nred", "clip": ["11", 0]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": ["13", 0], "clip": ["11", 0]}},
    "10": {"class_type": "LoraLoader", "inputs": {
        "lora_name": "fox.safetensors", "strength_model": 0.7, "strength_clip": 0.5, "model": ["9", 0], "clip": ["9", 1]}},
    "9": {"class_type": "LoraLoaderModelOnly", "inputs": {"lora_name": "line.pt", "strength_model": 1, "model": ["4", 0]}},
    "11": {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -2, "clip": ["10", 1]}},
    "12": {"class_type": "ControlNetApplyAdvanced", "inputs": {"positive": ["6", 0], "negative": ["7", 0], "strength": 1}},
    "13": {"class_type": "PrimitiveString", "inputs": {"value": "blurry"}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["14", 0]}},
    "14": {"class_type": "VAELoader", "inputs": {"vae_name": "mse.safetensors"}},
}  # fmt: skip


def test_a_picture_of_comfyui_tells_what_its_nodes_say(tmp_path):
    found = read(picture(tmp_path / "c.png", prompt=json.dumps(FLOW), workflow="{}"))
    assert (found.prompt, found.negative_prompt) == ("a fox,\nred", "blurry")
    assert found.settings == {
        "Steps": "20", "Sampler": "DPM++ 2M", "Schedule type": "Karras", "CFG scale": "8", "Seed": "156680208700286", "Size": "512x768",
        "Model": "v1-5-pruned", "VAE": "mse", "Clip skip": "2",
    }  # fmt: skip
    assert found.loras == (Network("line", 1.0), Network("fox", 0.7, 0.5)) and found.remarks == ()
    taken = as_grid_values(found)
    assert taken.values["sampler"] == "dpm++_2m_karras" and taken.values["seed"] == 156680208700286, "exact, beyond what a float holds"


def flow(changes: dict) -> str:
    return json.dumps({key: node for key, node in {**FLOW, **changes}.items() if node})


def test_of_two_passes_the_first_is_taken():
    upscaled = {"class_type": "LatentUpscale", "inputs": {"samples": ["3", 0]}}
    second = {"class_type": "KSampler", "inputs": {**FLOW["3"]["inputs"], "steps": 9, "denoise": 0.4, "latent_image": ["21", 0]}}
    found = infotext._of_comfy(json.dumps({"1": second, "21": upscaled, **FLOW}), "c.png")
    assert found.settings["Steps"] == "20" and "2 passes" in found.remarks[0]


def test_a_prompt_that_other_nodes_put_together_is_left_to_the_user():
    found = infotext._of_comfy(flow({"13": {"class_type": "Concat", "inputs": {"a": "x", "b": "y"}}}), "c.png")
    assert found.negative_prompt == "" and "negative prompt" in found.remarks[0] and found.prompt


@pytest.mark.parametrize(
    "text",
    [
        "", "not json", "[1, 2]", "{}", '{"1": 5}', '{"1": {"class_type": "SaveImage", "inputs": {}}}', "[" * 100_000, '{"a": ' * 50_000,
    ],
)  # fmt: skip
def test_a_workflow_without_a_sampler_is_refused(tmp_path, text):
    assert "KSampler" in refusal(picture(tmp_path / "c.png", prompt=text))


@pytest.mark.parametrize("garbage", [None, [], {}, ["3", 0], ["6", 0], [["3"], 0], "text", 1e308, float("nan"), -1, True, 10**400])
def test_whatever_a_workflow_holds_is_read(garbage):
    for key in FLOW["3"]["inputs"]:
        changed = {**FLOW, "3": {"class_type": "KSampler", "inputs": {**FLOW["3"]["inputs"], key: garbage}}}
        as_grid_values(infotext._of_comfy(json.dumps(changed), "c.png"))
    for number in ("4", "5", "6", "7", "9", "10", "11", "12", "13"):
        inputs = dict.fromkeys(FLOW[number]["inputs"], garbage)
        as_grid_values(infotext._of_comfy(flow({number: {"class_type": FLOW[number]["class_type"], "inputs": inputs}}), "c.png"))


# For a grid


def grid(values: dict) -> GridJob:
    """As the settings take it."""
    axes = {name: [value] if name.endswith(".values") else value for name, value in values.items() if value or name[0] not in "xyz"}
    axes = {"x.axis": "seed", "x.values": ["1"]} | axes
    return GridJob.model_validate(merge_dotted({}, axes))


@pytest.fixture
def shelf(tmp_path) -> tuple[list[Known], list[Known]]:
    model = tmp_path / "sd15" / "unet" / "diffusion_pytorch_model.safetensors"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"weights of a model")
    files = []
    for run, content in (("one", b"1"), ("two", b"2")):
        file = tmp_path / run / "weights" / "folk_v2.safetensors"
        file.parent.mkdir(parents=True)
        file.write_bytes((2).to_bytes(8, "little") + b"{}" + content)
        files.append(Known(f"{run}/weights/folk_v2.safetensors", file, run))
    return [Known("sd15", tmp_path / "sd15")], files


def test_a_grid_takes_what_it_can_and_says_what_it_cannot(shelf):
    taken = as_grid_values(parse(USUAL.replace("v1-5-pruned-emaonly", "SD15")), *shelf)
    job = grid(taken.values)
    assert job.prompt == "masterpiece, (red dress:1.2),\na girl at the lake" and job.negative_prompt == "lowres, bad hands,\nblurry"
    assert (job.seed, job.steps, job.cfg_scale, job.sampler) == (965400086, 28, 7.5, "dpm++_2m_karras")
    assert (job.width, job.height, job.model.clip_skip, job.model.path) == (512, 768, 2, "sd15")
    assert job.lora == "one/weights/folk_v2.safetensors" and job.weight == 0.8 and job.run == "one"
    said = " ".join(taken.remarks)
    for part in ("other weights", "Brackets", "vae-ft-mse", "second pass", "Hires upscaler: 4x-UltraSharp", "strength 0.45"):
        assert part in said, part
    assert all(remark.endswith(".") and "\n" not in remark for remark in taken.remarks) and "Version" not in said


def test_of_two_loras_of_one_name_the_hash_decides(shelf):
    models, loras = shelf
    digits = infotext.lora_hash(loras[1].path)[:12]
    taken = as_grid_values(parse(USUAL.replace("aabbccddeeff", digits)), models, loras)
    assert taken.values["lora"] == loras[1].name and taken.values["run"] == "two"
    assert not any("other weights" in remark for remark in taken.remarks)
    taken = as_grid_values(parse(USUAL.replace("aabbccddeeff", "")), models, loras)
    assert any("There are 2 LoRAs" in remark for remark in taken.remarks)


def test_a_model_is_known_by_our_hash_when_it_was_renamed(shelf):
    digits = weights.short_hash(shelf[0][0].path / "unet" / "diffusion_pytorch_model.safetensors")
    text = USUAL.replace("6ce0161689", digits)
    assert as_grid_values(parse(text), *shelf).values["model.path"] == "sd15"
    unknown = as_grid_values(parse(USUAL), *shelf)
    assert "model.path" not in unknown.values and any("v1-5-pruned-emaonly" in remark for remark in unknown.remarks)
    other = as_grid_values(parse(USUAL.replace("v1-5-pruned-emaonly", "sd15").replace("6ce0161689", "0" * 12)), *shelf)
    assert other.values["model.path"] == "sd15" and any(remark.startswith("The model sd15") for remark in other.remarks)


@pytest.mark.parametrize(
    ("title", "schedule", "ours", "exact"),
    [
        *((title, "", name, True) for name, title in SAMPLER_TITLES.items()),
        ("DPM++ 2M", "Karras", "dpm++_2m_karras", True),
        ("DPM++ 2M", "Automatic", "dpm++_2m", True),
        ("euler A", "", "euler_a", True),
        ("DDIM", "DDIM", "ddim", True),
        ("Euler", "Karras", "euler", False),
        ("DPM++ 2M", "SGM Uniform", "dpm++_2m", False),
        ("DPM++ 2M SDE Karras", "", "dpm++_2m_karras", False),
        ("DPM++ SDE", "Karras", "dpm++_2m_karras", False),
        ("DPM++ 2S a Karras", "", "euler_a", False),
        ("DPM2 a", "", "euler_a", False),
        ("LMS", "", "euler", False),
        ("PLMS", "", "ddim", False),
        ("Restart", "Karras", "euler", False),
    ],
)
def test_samplers_of_both_ways_of_writing(title, schedule, ours, exact):
    line = f"Steps: 20, Sampler: {title}, Seed: 1" + (f", Schedule type: {schedule}" if schedule else "")
    taken = as_grid_values(parse(f"dog\n{line}"))
    assert taken.values["sampler"] == ours
    assert any("sampler" in remark for remark in taken.remarks) is not exact


def test_a_plot_becomes_axes(shelf):
    plot = (
        'Script: X/Y/Z plot, X Type: Sampler, X Values: "Euler a,DPM++ 2M Karras,LMS", Y Type: Checkpoint name, '
        'Y Values: "base/SD15.safetensors [6ce0161689],other.ckpt", Z Type: Denoising, Z Values: "0.4,0.5"'
    )
    taken = as_grid_values(parse(f"{USUAL}, {plot}"), *shelf)
    assert taken.values["x.axis"] == "sampler" and taken.values["x.values"] == "Euler a, DPM++ 2M Karras, Euler"
    assert taken.values["y.axis"] == "model" and taken.values["y.values"] == "sd15"
    assert taken.values["z.axis"] == taken.values["z.values"] == ""
    said = " ".join(taken.remarks)
    assert "'LMS'" in said and "'other.ckpt'" in said and "'Denoising'" in said
    assert grid(taken.values).y.values == ["sd15"]


def test_axes_of_our_own_are_known_by_their_titles(shelf):
    text = with_axes(USUAL, [("epoch", "Epoch", "none, 2"), ("weight", "LoRA weight", "0-1 [3]"), ("trigger", "Trigger word", "on, off")])
    taken = as_grid_values(parse(text), *shelf)
    assert taken.values["run"] == "one" and (taken.values["x.axis"], taken.values["x.values"]) == ("epoch", "none, 2")
    assert taken.values["y.axis"] == "weight" and taken.values["z.axis"] == ""
    assert any("[trigger]" in remark for remark in taken.remarks)
    without = as_grid_values(parse(text), shelf[0], [])
    assert without.values["x.axis"] == "" and any("training run" in remark for remark in without.remarks)


def test_sides_become_multiples_and_odd_numbers_are_told():
    taken = as_grid_values(parse("dog\nSteps: many, Sampler: Euler a, Seed: 1.5, Size: 513x767, Model: sd"))
    assert (taken.values["width"], taken.values["height"]) == (512, 760) and not {"steps", "seed"} & set(taken.values)
    said = " ".join(taken.remarks)
    assert "513x767 becomes 512x760" in said and "Steps" in said and "Seed" in said


def test_what_we_paint_comes_back_as_the_same_settings(shelf):
    models, loras = shelf
    for sampler, skip, weight in itertools.product(SAMPLER_TITLES, (1, 2), (0.35, 1.0, -0.123456789)):
        settings = {
            "prompt": 'nošnja, a "girl": Steps: 3,\nred', "negative_prompt": "lowres, a: b", "seed": 4294967295, "sampler": sampler,
            "steps": 17, "cfg_scale": 6.123456789, "width": 640, "height": 448,
        }  # fmt: skip
        digits = infotext.lora_hash(loras[1].path)[:12]
        one = infotext.of_picture(
            **settings, clip_skip=skip, model="sd15", loras=[Network("folk_v2", weight)], lora_hashes={"folk_v2": digits},
            model_hash=weights.short_hash(models[0].path / "unet" / "diffusion_pytorch_model.safetensors"),
        )  # fmt: skip
        taken = as_grid_values(parse(write(one)), models, loras)
        assert taken.remarks == ()
        assert taken.values == {
            **settings,
            "run": "two",
            "lora": loras[1].name,
            "weight": weight,
            "model.path": "sd15",
            "model.vae": "",
            "model.clip_skip": skip,
        }


def test_a_vae_comes_back_by_its_name_and_of_several_by_its_hash(tmp_path):
    vaes = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mse.safetensors").write_bytes(folder.encode())
        vaes.append(Known(f"{folder}/mse.safetensors", tmp_path / folder / "mse.safetensors"))
    digits = infotext.vae_hash(vaes[1].path)
    assert digits == hashlib.sha256(b"two").hexdigest()[:10]
    text = "a dog\nSteps: 5, Seed: 1, CFG scale: 7, VAE hash: {}, VAE: {}"
    taken = as_grid_values(parse(text.format(digits, "mse.safetensors")), vaes=vaes)
    assert taken.values["model.vae"] == "two/mse.safetensors" and not any("VAE" in remark for remark in taken.remarks)
    taken = as_grid_values(parse(text.format("0000000000", "mse.safetensors")), vaes=vaes)
    assert taken.values["model.vae"] == "one/mse.safetensors" and any("other weights" in remark for remark in taken.remarks)
    taken = as_grid_values(parse(text.format(digits, "other.pt")), vaes=vaes)
    assert taken.values["model.vae"] == "" and any("There is no VAE 'other.pt' here" in remark for remark in taken.remarks)
