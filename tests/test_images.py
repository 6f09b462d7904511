import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from nosnja_gui.dataset import images
from nosnja_gui.settings import UserError


def photo(width=40, height=24) -> Image.Image:
    """Left half red, right half blue, a white corner at the top left: turning and mirroring show."""
    image = Image.new("RGB", (width, height), "blue")
    image.paste("red", (0, 0, width // 2, height))
    image.paste("white", (0, 0, 8, 8))
    return image


def near(pixel, colour, tolerance=12) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, colour, strict=True))


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + body
        + struct.pack(">I", zlib.crc32(body))
        + struct.pack(">I", 40)
        + b"IDAT"
        + b"\0" * 40
    )


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "gif"])
def test_every_format_is_read_as_rgb(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    photo().save(path)
    image = images.load_rgb(path)
    assert image.mode == "RGB" and image.size == (40, 24) == images.check(path)
    assert near(image.getpixel((14, 16)), (255, 0, 0), 40) and near(image.getpixel((34, 16)), (0, 0, 255), 40)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = photo()
    stored.save(tmp_path / f"a.{suffix}", exif=exif, **({"quality": 95} if suffix != "png" else {}))
    image = images.load_rgb(tmp_path / f"a.{suffix}")
    assert image.size == images.check(tmp_path / f"a.{suffix}") == ((24, 40) if orientation >= 5 else (40, 24))
    turned = {1: 0, 2: 0, 3: 180, 4: 180, 5: 270, 6: 270, 7: 90, 8: 90}[orientation]
    expected = stored.rotate(turned, expand=True)
    if orientation in (2, 4, 5, 7):
        expected = ImageOps.mirror(expected)
    difference = np.abs(np.asarray(image, dtype=int) - np.asarray(expected, dtype=int))
    assert difference.mean() < 12


def test_an_unknown_orientation_changes_nothing(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 99
    photo().save(tmp_path / "a.jpg", exif=exif)
    assert images.load_rgb(tmp_path / "a.jpg").size == (40, 24)


def test_sixteen_bit_grey_keeps_its_shades(tmp_path):
    values = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (32, 1))
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "a.tiff")
    for name in ("a.png", "a.tiff"):
        shades = np.asarray(images.load_rgb(tmp_path / name))[0, :, 0].astype(int)
        assert np.abs(shades - np.arange(256)).max() <= 1


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_float_tiffs_are_scaled_by_their_range(tmp_path, top):
    values = np.tile(np.linspace(0, top, 64).astype(np.float32), (32, 1))
    Image.fromarray(values).save(tmp_path / "a.tiff")
    shades = np.asarray(images.load_rgb(tmp_path / "a.tiff"))[0, :, 0]
    assert shades[0] == 0 and shades[-1] == 255 and 120 < shades[32] < 135


def test_transparency_is_laid_on_white(tmp_path):
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    clear.paste((0, 128, 0, 255), (16, 0, 32, 32))
    clear.save(tmp_path / "rgba.png")
    grey = Image.new("LA", (32, 32), (0, 0))
    grey.save(tmp_path / "la.png")
    palette = Image.new("P", (32, 32), 0)
    palette.putpalette([10, 20, 30, 200, 200, 200])
    palette.save(tmp_path / "p.png", transparency=0)
    rgba = images.load_rgb(tmp_path / "rgba.png")
    assert rgba.getpixel((2, 2)) == (255, 255, 255) and rgba.getpixel((20, 2)) == (0, 128, 0)
    assert images.load_rgb(tmp_path / "la.png").getpixel((2, 2)) == (255, 255, 255)
    assert images.load_rgb(tmp_path / "p.png").getpixel((2, 2)) == (255, 255, 255)


def test_cmyk_one_bit_and_the_first_frame(tmp_path):
    photo().convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert near(images.load_rgb(tmp_path / "cmyk.jpg").getpixel((14, 16)), (255, 0, 0), 30)
    Image.new("1", (32, 32), 1).save(tmp_path / "bit.png")
    assert images.load_rgb(tmp_path / "bit.png").getpixel((0, 0)) == (255, 255, 255)
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    for name in ("a.gif", "a.webp", "a.tiff", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert near(images.load_rgb(tmp_path / name).getpixel((5, 5)), (255, 0, 0), 20), name


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_cut_off_picture_is_refused_by_the_check_already(tmp_path, suffix, kept):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(UserError, match="a\\." + suffix):
        images.check(path)
    with pytest.raises(UserError, match="a\\." + suffix):
        images.load_rgb(path)


def test_a_flipped_byte_in_a_png_is_noticed(tmp_path):
    photo().save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[data.index(b"IDAT") + 10] ^= 255
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        images.check(tmp_path / "a.png")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"<html></html>",
        b"MZ\x90\0" + b"\0" * 100,
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
    ],
)
def test_what_is_not_a_picture_is_refused_in_one_sentence(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    for read in (images.check, images.load_rgb):
        with pytest.raises(UserError) as caught:
            read(tmp_path / "a.png")
        assert str(tmp_path / "a.png") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(50_000, 50_000), (20_000, 5_001), (13_000, 13_000)])
def test_too_many_pixels_are_refused_from_the_header(tmp_path, size):
    (tmp_path / "a.png").write_bytes(png_header(*size))
    began = time.monotonic()
    with pytest.raises(UserError, match="million pixels"):
        images.load_rgb(tmp_path / "a.png")
    assert time.monotonic() - began < 1


def test_tiny_pictures_and_missing_files_are_refused(tmp_path):
    Image.new("RGB", (4096, 1)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="4096 x 1"):
        images.check(tmp_path / "a.png")
    with pytest.raises(UserError, match="no picture"):
        images.load_rgb(tmp_path / "b.png")


def test_a_jpeg_with_data_behind_its_end_is_sound(tmp_path):
    photo().save(tmp_path / "a.jpg")
    with open(tmp_path / "a.jpg", "ab") as file:
        file.write(b"motion photo" * 1000)
    assert images.check(tmp_path / "a.jpg") == (40, 24)


def test_fit_covers_and_crops_the_middle():
    image = Image.new("RGB", (300, 100), "red")
    image.paste("green", (100, 0, 200, 100))
    fitted = images.fit(image, 64, 64)
    assert fitted.size == (64, 64)
    assert fitted.getpixel((32, 32)) == (0, 128, 0) == fitted.getpixel((4, 4)) == fitted.getpixel((59, 59))
    assert images.fit(image, 300, 100) is image


def test_content_key_follows_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"one")
    first = images.content_key(tmp_path / "a")
    assert first == images.content_key(tmp_path / "b") and len(first) == 64
    (tmp_path / "a").write_bytes(b"other")
    assert images.content_key(tmp_path / "a") != first
