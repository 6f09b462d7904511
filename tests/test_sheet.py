"""Sheets are legible whatever is written on them: measured on the pictures themselves."""

from pathlib import Path

import numpy
import pytest
from PIL import Image

from nosnja_gui import sheet
from nosnja_gui.sheet import AxisLabels, Tile, compose, contact_sheet

LONG = (
    "a woman in a nosnja at the beach, masterpiece, best quality, highly detailed, ornate embroidery, golden hour, "
    "dpmpp_a_very_long_file_name_without_any_spaces-epoch-000012-step-00004500.safetensors, Девојка у ношњи, čaša đaka"
)
BLUE = (10, 20, 250)


def picture(size=(128, 128), colour=BLUE) -> Image.Image:
    return Image.new("RGB", size, colour)


def tiles(columns, rows=1, blocks=1, size=(128, 128), count=1) -> dict:
    one = Tile(tuple(picture(size) for _ in range(count)))
    return {(i, j, k): one for i in range(columns) for j in range(rows) for k in range(blocks)}


def blue(image: Image.Image) -> int:
    """Pixels of our pictures in the sheet."""
    return int((numpy.asarray(image) == BLUE).all(axis=2).sum())


def drawn_boxes(monkeypatch) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Every text that is drawn from now on, with its box."""
    found = []
    original = sheet._text

    def remember(pen, at, text, size, colour, bold=False):
        found.append((text, pen.textbbox(at, text, font=sheet._font(text, size, bold), anchor="la")))
        original(pen, at, text, size, colour, bold)

    monkeypatch.setattr(sheet, "_text", remember)
    return found


def overlap(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


AXES = {
    "long labels on all axes": (AxisLabels("Prompt", (LONG, "a dog", "x" * 90)),) * 2
    + (AxisLabels("Trigger word", (LONG * 2, "without")),),
    "short labels": (AxisLabels("Weight", ("0", "1")), AxisLabels("Epoch", ("no LoRA", "2")), None),
    "no columns": (None, AxisLabels("A very long title of an axis", ("1", "2")), AxisLabels("Z", ("1", "2", "3"))),
    "one axis": (None, AxisLabels("Prompt", (LONG, "b", "c", "d", "e", "f", LONG)), None),
}


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
@pytest.mark.parametrize("size", [(128, 128), (64, 96)])
def test_no_text_is_cut_lost_or_laid_over_another(axes, size, monkeypatch):
    boxes = drawn_boxes(monkeypatch)
    shape = [len(axis.labels) if axis else 1 for axis in axes]
    image = compose(axes, tiles(*shape, size=size), "A title", LONG, "a footer")
    for number, (text, box) in enumerate(boxes):
        assert box[0] >= 0 and box[1] >= 0 and box[2] <= image.width and box[3] <= image.height, text
        for other, other_box in boxes[number + 1 :]:
            assert not overlap(box, other_box), (text, other)
    written = "".join(text for text, _ in boxes).replace(" ", "")
    for axis in filter(None, axes):
        for label in axis.labels:
            assert label.replace(" ", "") in written
    # Text on a picture would have hidden some of it.
    enlarged = round(sheet._enlargement(size, 1)) ** 2
    assert blue(image) == shape[0] * shape[1] * shape[2] * size[0] * size[1] * enlarged


def test_small_pictures_are_enlarged_by_a_whole_factor_and_large_ones_are_not():
    assert [sheet._enlargement((side, side), 1) for side in (32, 64, 96, 128, 191, 192, 512)] == [6, 3, 2, 2, 1, 1, 1]


@pytest.mark.parametrize("count", range(1, 17))
def test_a_cell_of_several_pictures_shows_all_of_them_and_no_black(count):
    image = compose((AxisLabels("Seed", ("1", "2")), AxisLabels("", ("",)), None), tiles(2, size=(200, 200), count=count))
    assert blue(image) == 2 * count * 200 * 200
    columns, rows = sheet._block_shape(count)
    assert columns * rows - count < columns
    assert columns <= 3 * rows
    # Black would be a hole; ink only stands in the labels above the pictures.
    first_row = numpy.argmax((numpy.asarray(image) == BLUE).all(axis=2).any(axis=1))
    assert numpy.asarray(image)[first_row:].max(axis=2).min() > 100


def test_a_failed_cell_says_why_in_a_red_frame(monkeypatch):
    boxes = drawn_boxes(monkeypatch)
    made = tiles(2, 2)
    made[1, 1, 0] = Tile(error="The memory ran out: lower the batch size or the size of the pictures.")
    image = compose((AxisLabels("X", ("1", "2")), AxisLabels("Y", ("1", "2")), None), made)
    assert "lower the batch size" in " ".join(text for text, _ in boxes)
    assert sheet.ERROR_INK in {colour for _, colour in image.getcolors(1 << 20)}
    made[1, 1, 0] = Tile(error="word " * 2000)
    compose((AxisLabels("X", ("1", "2")), AxisLabels("Y", ("1", "2")), None), made)
    assert boxes[-1][0].endswith("…")


def test_cells_not_painted_yet_are_empty_frames():
    made = tiles(2, 2)
    del made[1, 1, 0]
    image = compose((AxisLabels("X", ("1", "2")), AxisLabels("Y", ("1", "2")), None), made)
    assert blue(image) == 3 * 256 * 256
    assert compose((AxisLabels("X", ("1", "2")), None, None), {}).width > 256


def test_a_very_large_grid_stays_within_the_limits_and_says_so(monkeypatch):
    boxes = drawn_boxes(monkeypatch)
    monkeypatch.setattr(sheet, "LARGEST_SIDE", 2000)
    monkeypatch.setattr(sheet, "LARGEST_AREA", 1_500_000)
    numbers = tuple(map(str, range(20)))
    image = compose((AxisLabels("X", numbers), AxisLabels("Y", numbers), None), tiles(20, 20))
    assert max(image.size) <= 2000 and image.width * image.height <= 1_500_000
    assert any("of their size" in text for text, _ in boxes)


def test_pictures_of_different_sizes_keep_their_shape():
    wide = {(0, 0, 0): Tile((picture((300, 200)),)), (1, 0, 0): Tile((picture((200, 300)),))}
    assert blue(compose((AxisLabels("Size", ("300×200", "200×300")), AxisLabels("Y", ("1",)), None), wide)) == 2 * 300 * 200


def test_blocks_are_laid_out_for_a_screen():
    wide = compose((AxisLabels("X", tuple("12345678")), AxisLabels("Y", ("1",)), AxisLabels("Z", ("1", "2", "3"))), tiles(8, 1, 3))
    tall = compose((AxisLabels("X", ("1",)), AxisLabels("Y", tuple("12345678")), AxisLabels("Z", ("1", "2", "3"))), tiles(1, 8, 3))
    assert 0.5 < wide.width / wide.height < 3
    assert 0.3 < tall.width / tall.height < 3


def test_contact_sheets_take_files_and_any_number_of_labels(tmp_path: Path, monkeypatch):
    boxes = drawn_boxes(monkeypatch)
    picture().save(tmp_path / "a.png")
    image = contact_sheet([tmp_path / "a.png", picture(), picture()], ["one", LONG], columns=2, title="Samples")
    assert blue(image) == 3 * 256 * 256
    assert [text for text, _ in boxes[:2]] == ["Samples", "one"]
    assert contact_sheet([], []).width > 0


def test_letters_of_the_neighbourhood_are_in_the_shipped_fonts():
    for bold in (False, True):
        assert sheet._covers(sheet._shipped_font(16, bold), "šŠčČćĆžŽđĐäöüßéñłőűřţ АБВГДЂЉЊЋЏабвгдђљњћџ αβΔ ×·–—…→≈≤“”„€°")
    assert not sheet._covers(sheet._shipped_font(16, False), "漢")


def test_labels_of_other_scripts_and_odd_characters_are_drawn_somehow():
    labels = ("漢字", "🙂", "a\nb\tc\x00", "", " ")
    assert compose((AxisLabels("Prompt", labels), AxisLabels("Y", ("",)), None), tiles(5)).width > 5 * 256
