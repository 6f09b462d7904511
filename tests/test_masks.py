"""Masks and faces: found under the names that people use, fitted as their picture is, and never taken for pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nosnja_gui import dataset
from nosnja_gui.dataset import masks
from nosnja_gui.dataset.images import fit, load_alpha
from nosnja_gui.engine.cache import Cache, Latents, View, load_pixels, weigh_places
from nosnja_gui.jobs import LossSettings
from nosnja_gui.settings import UserError

CPU = torch.device("cpu")
ORIENTATION = 0x0112


def picture(path: Path, size: tuple[int, int] = (64, 64), colour: str = "red", **more) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **more)
    return path


def mask(path: Path, box: tuple[int, int, int, int], size: tuple[int, int] = (64, 64)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L", size)
    image.paste(255, box)
    image.save(path)
    return path


def weighed(views: list[View], folder: Path, settings: LossSettings) -> Latents:
    """As after the encoding of pictures: views size by size, each in its row."""
    rows: dict[View, int] = {}
    for size in dict.fromkeys((view.width, view.height) for view in views):
        rows.update({view: row for row, view in enumerate(view for view in views if (view.width, view.height) == size)})
    latents = Latents({}, rows)
    weigh_places(latents, settings, 8, Cache(folder / "cache"), CPU)
    return latents


# ---------------------------------------------------------------- finding


@pytest.mark.parametrize(
    "name",
    ["hats/a-mask.png", "hats/a_mask.jpg", "hats/a-masklabel.png", "hats/masks/a.png", "hats/mask/a.webp", "hats/conditioning/a.png",
     "hats_mask/a.png", "hats_masks/a.png", "hats-masks/a.png", "hats_conditioning/a.png"],
)  # fmt: skip
def test_masks_are_found_under_the_usual_names(tmp_path, name):
    a, b = picture(tmp_path / "hats" / "a.jpg"), picture(tmp_path / "hats" / "b.png")
    wanted = picture(tmp_path / name)
    assert masks.find([a, b]) == {a: masks.Beside(mask=wanted)}


def test_a_mask_beside_its_picture_goes_before_one_in_a_folder(tmp_path):
    a = picture(tmp_path / "a.png")
    picture(tmp_path / "masks" / "a.png")
    near = picture(tmp_path / "a-mask.png")
    assert masks.find([a])[a].mask == near


def test_masks_in_the_folder_are_no_pictures_to_train_on(tmp_path):
    for name in ("a.png", "a-mask.png", "b.png", "b-masklabel.png", "theatre-mask.png", "c_mask.png"):
        picture(tmp_path / name)
    read = dataset.read(tmp_path)
    assert [found.name for found in read.pictures] == ["a.png", "b.png", "c_mask.png", "theatre-mask.png"]
    (note,) = read.problems
    assert str(note) == "a-mask.png is the mask of another picture (and 1 more), so it is not trained on" and not note.left_out


def test_masks_of_repeats_folders_stay_with_their_own(tmp_path):
    for name in ("10_hat/a.png", "10_hat/a-mask.png", "5_coat/a-mask.png"):
        picture(tmp_path / name)
    assert [found.name for found in dataset.read(tmp_path).pictures] == ["5_coat/a-mask.png", "10_hat/a.png"]


# ---------------------------------------------------------------- reading


def test_transparency_is_read_upright_and_only_where_it_hides_something(tmp_path):
    image = Image.new("RGBA", (32, 16), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 16, 16))
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # a quarter turn clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    alpha = load_alpha(tmp_path / "turned.png")
    assert alpha.size == (16, 32) and alpha.getpixel((8, 4)) == 0 and alpha.getpixel((8, 28)) == 255
    Image.new("RGBA", (16, 16), (1, 2, 3, 252)).save(tmp_path / "nearly.png")
    assert load_alpha(tmp_path / "nearly.png") is None and load_alpha(picture(tmp_path / "plain.jpg")) is None


def test_each_source_takes_what_it_says(tmp_path):
    Image.new("RGBA", (32, 32), (255, 0, 0, 40)).save(tmp_path / "a.png")
    file = mask(tmp_path / "a-mask.png", (0, 0, 16, 32), (32, 32))

    def of(source: masks.MaskSource, beside: Path | None) -> int | None:
        found = masks.load(tmp_path / "a.png", source, beside, (32, 32))
        return None if found is None else found.getpixel((4, 4))

    assert [of(source, file) for source in ("off", "auto", "file", "alpha")] == [None, 255, 255, 40]
    assert [of(source, None) for source in ("off", "auto", "file", "alpha")] == [None, 40, None, 40]


def test_a_mask_of_another_size_is_stretched_to_its_picture(tmp_path):
    file = mask(tmp_path / "small.png", (0, 0, 16, 16), (32, 16))
    found = masks.load(tmp_path / "a.png", "file", file, (64, 48))
    assert found.size == (64, 48) and found.getpixel((10, 24)) == 255 and found.getpixel((50, 24)) == 0


def test_faces_are_drawn_as_they_are_listed(tmp_path):
    file = tmp_path / "a.faces.json"
    file.write_text("[[2, 3, 4, 5], [10.4, 0, 2, 1], [30, 30, 50, 50], [1, 1, 0, 9]]")
    drawn = np.asarray(masks.draw_faces(file, (32, 32)))
    expected = np.zeros((32, 32), np.uint8)
    expected[3:8, 2:6] = expected[0:1, 10:12] = expected[30:, 30:] = 255
    assert np.array_equal(drawn, expected)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1, 2, 3, 4]", "[[1, 2, 3]]", '[[1, 2, 3, "4"]]', "[[1, 2, -3, 4]]", "[[1, 2, true, 4]]", "[[1e300, 1, 1, 1]]",
             "[" * 5000, "[[NaN, 1, 1, 1]]", json.dumps([[1, 2, 3, 4]] * 1001)],
)  # fmt: skip
def test_what_is_no_list_of_faces_is_refused_in_one_sentence(tmp_path, text):
    file = tmp_path / "a.faces.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"a.faces.json must hold a JSON list of faces") as caught:
        masks.read_faces(file)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_faces_that_cannot_be_read_are_said(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        masks.read_faces(tmp_path)


# ---------------------------------------------------------------- fitting


def test_weights_of_places_by_hand(tmp_path):
    """64 x 64 pixels are 8 x 8 places: the mask covers 2.5 columns of them, a face one whole place and half of another."""
    path = picture(tmp_path / "a.png")
    mask(tmp_path / "a-mask.png", (0, 0, 20, 64))
    (tmp_path / "a.faces.json").write_text("[[0, 0, 12, 8]]")
    views = [View(path, 64, 64, False, (64, 64)), View(path, 64, 64, True, (64, 64))]
    settings = LossSettings(masked="file", unmasked_weight=0.1, face_weight=3)
    latents = weighed(views, tmp_path, settings)
    plain, mirrored = latents.places(views, CPU)
    row = torch.tensor([1, 1, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    torch.testing.assert_close(plain[0, 1:], row.expand(7, 8))
    torch.testing.assert_close(plain[0, 0], row * torch.tensor([3, 2, 1, 1, 1, 1, 1, 1.0]))
    torch.testing.assert_close(mirrored, plain.flip(-1))
    again = weighed(views, tmp_path, settings)
    assert torch.equal(again.places(views, CPU), latents.places(views, CPU)), "from the cache"


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (96, 64)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_mask_is_scaled_cropped_and_mirrored_as_its_picture(tmp_path, size, mirrored):
    """The picture is white where its mask is: what is bright in the fitted picture counts in the fitted mask, place by place."""
    draw = np.zeros((90, 120), np.uint8)
    draw[20:60, 30:85] = 255
    Image.fromarray(draw).convert("RGB").save(tmp_path / "a.png")
    Image.fromarray(draw).save(tmp_path / "a-mask.png")
    view = View(tmp_path / "a.png", *size, mirrored, (120, 90))
    bright = torch.nn.functional.avg_pool2d((load_pixels(view)[:1] + 1) / 2, 8)
    counts = weighed([view], tmp_path, LossSettings(masked="auto", unmasked_weight=0)).places([view], CPU)[0]
    torch.testing.assert_close(counts, bright, atol=1e-5, rtol=0)
    assert 0 < counts.mean() < 1


def test_the_mask_of_a_turned_picture_is_turned_with_it_by_its_size_as_shown(tmp_path):
    """A photo that is stored lying and shown upright: its mask picture is upright, as it is seen."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = picture(tmp_path / "a.jpg", (96, 64), exif=exif)
    mask(tmp_path / "a-mask.png", (0, 0, 64, 48), (64, 96))
    (found,) = dataset.read(tmp_path).pictures
    view = View(path, 64, 96, False, (found.width, found.height))
    places = weighed([view], tmp_path, LossSettings(masked="file", unmasked_weight=0)).places([view], CPU)[0, 0]
    assert torch.equal(places, torch.cat([torch.ones(6, 8), torch.zeros(6, 8)]))


def test_pictures_without_mask_count_whole_and_sizes_without_any_need_no_table(tmp_path):
    masked, plain, other = (picture(tmp_path / f"{name}.png", size) for name, size in (("a", (64, 64)), ("b", (64, 64)), ("c", (96, 64))))
    mask(tmp_path / "a-mask.png", (0, 0, 32, 64))
    views = [View(masked, 64, 64), View(plain, 64, 64), View(other, 96, 64)]
    latents = weighed(views, tmp_path, LossSettings(masked="auto"))
    assert set(latents.weights) == {(64, 64)} and latents.places(views[2:], CPU) is None
    both = latents.places(views[:2], CPU)
    assert both[0].min() == pytest.approx(0.1) and both[1].unique().tolist() == [1]


def test_a_changed_mask_or_setting_is_never_met_by_an_old_entry(tmp_path):
    view = View(picture(tmp_path / "a.png"), 64, 64)
    mask(tmp_path / "a-mask.png", (0, 0, 32, 64))
    settings = LossSettings(masked="file", unmasked_weight=0)
    before = weighed([view], tmp_path, settings).places([view], CPU)
    assert weighed([view], tmp_path, settings.changed(masked="alpha")).places([view], CPU) is None
    mask(tmp_path / "a-mask.png", (0, 0, 32, 32))
    assert weighed([view], tmp_path, settings).places([view], CPU).sum() == before.sum() / 2


def test_a_mask_that_is_no_picture_is_said(tmp_path):
    view = View(picture(tmp_path / "a.png"), 64, 64)
    (tmp_path / "a-mask.png").write_text("no picture")
    with pytest.raises(UserError, match=r"a-mask.png is not a picture"):
        weighed([view], tmp_path, LossSettings(masked="auto"))


def test_pictures_come_out_as_before(tmp_path):
    """Pixels of pictures and of masks take the same way: rows, columns and colours where they were."""
    values = np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    pixels = load_pixels(View(tmp_path / "a.png", 64, 48))
    assert torch.equal(pixels, torch.from_numpy(values).permute(2, 0, 1).float() / 127.5 - 1)
    assert torch.equal(load_pixels(View(tmp_path / "a.png", 64, 48, True)), pixels.flip(-1))
    assert fit(Image.fromarray(values), 64, 48).size == (64, 48)
