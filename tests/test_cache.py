import pytest
import torch
from PIL import Image

from nosnja_gui.engine.cache import Cache, View, encode_captions, encode_pictures, load_pixels
from nosnja_gui.families import FAMILIES
from nosnja_gui.sources import Folder
from tests.tiny import tiny_sd

FAMILY = FAMILIES["sd1"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    torch.set_num_threads(1)
    return FAMILY.load(Folder(tiny_sd(tmp_path_factory.mktemp("model"))), torch.device("cpu"), torch.float32)


@pytest.fixture
def picture(tmp_path):
    image = Image.new("RGB", (64, 64), (200, 30, 30))
    image.paste((20, 20, 220), (0, 0, 32, 64))
    image.save(tmp_path / "half.png")
    return tmp_path / "half.png"


class Counting:
    """The family, counting what it really encodes."""

    def __init__(self) -> None:
        self.pictures = self.captions = 0

    def encode_images(self, parts, pixels):
        self.pictures += len(pixels)
        return FAMILY.encode_images(parts, pixels)

    def encode_prompts(self, parts, prompts, clip_skip=1, max_chunks=1, **how):
        self.captions += len(prompts)
        return FAMILY.encode_prompts(parts, prompts, clip_skip, max_chunks, **how)


def test_what_was_put_comes_back(tmp_path):
    value = torch.randn(2, 4, 8, 8)
    Cache(tmp_path).put("ab12", {"latents": value})
    assert torch.equal(Cache(tmp_path).get("ab12")["latents"], value)
    assert Cache(tmp_path).get("ab13") is None


@pytest.mark.parametrize("position", [0.0, 0.01, 0.02, 0.05, 0.08, 0.3, 0.6, 0.99])
def test_a_flipped_bit_anywhere_counts_as_absent(tmp_path, position):
    Cache(tmp_path).put("ab12", {"latents": torch.randn(2, 4, 8, 8)})
    (file,) = tmp_path.rglob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[int(position * len(content))] ^= 1
    file.write_bytes(content)
    assert Cache(tmp_path).get("ab12") is None


@pytest.mark.parametrize("length", [0, 5, 100, 400])
def test_a_cut_off_entry_counts_as_absent(tmp_path, length):
    Cache(tmp_path).put("ab12", {"latents": torch.randn(2, 4, 8, 8)})
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:length])
    assert Cache(tmp_path).get("ab12") is None


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path, parts, picture):
    (tmp_path / "file").write_text("in the way")
    latents = encode_pictures(FAMILY, parts, [View(picture, 64, 64)], Cache(tmp_path / "file"))
    assert latents.tables[64, 64].shape == (1, 2, 4, 8, 8)


def test_pictures_are_encoded_once(tmp_path, parts, picture):
    family, cache = Counting(), Cache(tmp_path / "cache")
    views = [View(picture, 64, 64), View(picture, 64, 64, mirrored=True), View(picture, 96, 48)]
    first = encode_pictures(family, parts, views, cache)
    assert family.pictures == 3
    again = encode_pictures(family, parts, views, cache)
    assert family.pictures == 3
    for size, table in first.tables.items():
        assert torch.equal(table, again.tables[size])


def test_a_copy_shares_the_entry_and_a_changed_picture_does_not(tmp_path, parts, picture):
    family, cache = Counting(), Cache(tmp_path / "cache")
    copy = picture.with_name("copy.png")
    copy.write_bytes(picture.read_bytes())
    encode_pictures(family, parts, [View(picture, 64, 64), View(copy, 64, 64)], cache)
    assert family.pictures == 1
    Image.new("RGB", (64, 64), (0, 255, 0)).save(copy)
    encode_pictures(family, parts, [View(picture, 64, 64), View(copy, 64, 64)], cache)
    assert family.pictures == 2


def test_other_weights_and_another_clip_skip_are_other_entries(tmp_path, parts, picture):
    family, cache = Counting(), Cache(tmp_path / "cache")
    encode_captions(family, parts, ["a girl", "a coat"], 1, cache)
    encode_captions(family, parts, ["a coat", "a girl", "a girl"], 1, cache)
    assert family.captions == 2
    encode_captions(family, parts, ["a girl"], 2, cache)
    assert family.captions == 3
    encode_pictures(family, parts, [View(picture, 64, 64)], cache)
    other = FAMILY.load(Folder(tiny_sd(tmp_path / "other", seed=1)), torch.device("cpu"), torch.float32)
    encode_pictures(family, other, [View(picture, 64, 64)], cache)
    encode_captions(family, other, ["a girl"], 1, cache)
    assert (family.pictures, family.captions) == (2, 4)


def test_a_damaged_entry_is_encoded_again(tmp_path, parts, picture):
    family, cache = Counting(), Cache(tmp_path / "cache")
    first = encode_pictures(family, parts, [View(picture, 64, 64)], cache)
    for file in (tmp_path / "cache").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-7])
    again = encode_pictures(family, parts, [View(picture, 64, 64)], cache)
    assert family.pictures == 2
    assert torch.equal(first.tables[64, 64], again.tables[64, 64])


def test_rows_find_their_picture_and_caption(tmp_path, parts, picture):
    cache = Cache(tmp_path / "cache")
    plain, mirrored = View(picture, 64, 64), View(picture, 64, 64, mirrored=True)
    latents = encode_pictures(FAMILY, parts, [plain, mirrored], cache)
    mean, deviation = latents.of([mirrored, plain, mirrored], torch.device("cpu"))
    assert mean.shape == deviation.shape == (3, 4, 8, 8)
    expected = FAMILY.encode_images(parts, load_pixels(mirrored)[None])
    assert torch.allclose(mean[2], expected[0, 0], atol=1e-5) and torch.allclose(deviation[0], expected[0, 1], atol=1e-5)
    captions = encode_captions(FAMILY, parts, ["a girl", "", "a coat"], 1, cache)
    hidden = captions.of(["a coat", "a girl"], torch.device("cpu")).hidden
    assert torch.allclose(hidden, FAMILY.encode_prompts(parts, ["a coat", "a girl"]).hidden, atol=1e-5)


def test_pixels_are_in_range_and_mirrored_from_left_to_right(picture):
    plain, mirrored = load_pixels(View(picture, 64, 64)), load_pixels(View(picture, 64, 64, mirrored=True))
    assert plain.shape == (3, 64, 64) and plain.min() >= -1 and plain.max() <= 1
    assert torch.equal(plain.flip(2), mirrored)
    assert plain[2, 0, 0] > 0.5 > plain[0, 0, 0]
