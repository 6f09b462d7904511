"""Comparison sheets: pictures in a labelled table (XYZ plots) or one after the other (samples). Pillow only.

Knows pictures, labels and paper; nothing of models, prompts or jobs. Labels of any length are wrapped and, if need be,
set smaller, never cut; the paper grows around them.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Position = tuple[int, int, int]
"""(column, row, block): index on the x, y and z axis; 0 where there is no such axis."""

PAPER: Colour = (250, 249, 246)
INK: Colour = (32, 33, 36)
MUTED: Colour = (112, 110, 105)
RULE: Colour = (217, 214, 207)
EMPTY: Colour = (239, 237, 232)
ERROR_INK: Colour = (176, 32, 32)
ERROR_PAPER: Colour = (253, 240, 238)

SMALL_CELL = 192
"""Cells of fewer pixels are enlarged by a whole factor until they reach this, 256 at the most."""
LARGEST_SIDE = 16_000
"""Browsers and WebP end at 16,383."""
LARGEST_AREA = 80_000_000
"""Pillow takes a picture of more than 89 million pixels for a decompression bomb."""
SMALLEST_TYPE = 12

_GOOD_BREAK = re.compile(r"\s+|(?<=[/_,.\\-])")
_FONTS = Path(__file__).parent / "fonts"
_SYSTEM_FONTS = (
    "DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "NotoSansArabic-Regular.ttf",
    "msyh.ttc", "segoeui.ttf", "arial.ttf", "Arial Unicode.ttf", "seguiemj.ttf",
)  # fmt: skip


@dataclass(frozen=True)
class AxisLabels:
    title: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Tile:
    """One cell: its pictures, or why there are none. Neither means that it has not been painted yet."""

    pictures: tuple[Image.Image | Path, ...] = ()
    error: str = ""


@dataclass
class _Layout:
    """Measures of a sheet in pixels, all derived from the size of a cell."""

    cell: tuple[int, int]
    gap: int
    type_size: int
    column_labels: list[list[str]] = field(default_factory=list)
    column_type: int = 0
    row_labels: list[list[str]] = field(default_factory=list)
    row_type: int = 0
    gutter: int = 0
    head: int = 0
    """Height of the column labels with their title."""
    row_heights: list[int] = field(default_factory=list)
    block_title: int = 0
    block: tuple[int, int] = (0, 0)
    blocks_across: int = 1
    line_across: int = 0
    """Cells in a line, where cells follow each other."""

    @property
    def heading_type(self) -> int:
        """Grows with the sheet, so that the heading stays readable when a large sheet is shown as a whole."""
        return round(self.type_size * max(1.0, min(1.6, math.sqrt(self.blocks_across * self.block[0] / (7 * max(self.cell))))))

    @property
    def margin(self) -> int:
        return round(self.type_size * 2.2)


def compose(
    axes: tuple[AxisLabels | None, AxisLabels | None, AxisLabels | None],
    tiles: Mapping[Position, Tile],
    title: str = "",
    subtitle: str = "",
    footer: str = "",
) -> Image.Image:
    """A sheet with x across, y down and z as blocks of their own. A missing position is shown as an empty frame.

    With one axis only, the cells follow each other, each with its label, in as many lines as look best.
    """
    x, y, z = axes
    given = [axis for axis in axes if axis]
    if len(given) == 1:
        index = axes.index(given[0])
        order = [tuple(i if k == index else 0 for k in range(3)) for i in range(len(given[0].labels))]
        ordered = [tiles.get(position, Tile()) for position in order]
        return _in_lines(ordered, given[0].labels, None, title, subtitle, footer, given[0].title)
    picture = _picture_size(tiles.values())
    count = max([1, *(len(tile.pictures) for tile in tiles.values())])

    def layout_at(scale: float) -> tuple[_Layout, tuple[int, int]]:
        layout = _table_layout(x, y, z, _cell_size(picture, count, scale))
        return layout, _paper_size(layout, len(z.labels) if z else 1, title, subtitle, _with_note(footer, scale))

    scale, layout, size = _fit_to_limits(layout_at, _enlargement(picture, count))
    paper, pen, top = _paper(size, layout, title, subtitle, _with_note(footer, scale))
    for k in range(len(z.labels) if z else 1):
        left = layout.margin + (k % layout.blocks_across) * (layout.block[0] + 3 * layout.type_size)
        at = top + (k // layout.blocks_across) * (layout.block[1] + 2 * layout.type_size)
        if z:
            _block_title(pen, layout, left, at, z, k)
            at += layout.block_title
        _draw_table(paper, pen, layout, left, at, x, y, {(i, j): tile for (i, j, b), tile in tiles.items() if b == k}, count)
    return paper


def contact_sheet(
    images: Sequence[Image.Image | Path], labels: Sequence[str] = (), columns: int | None = None, title: str = "", footer: str = ""
) -> Image.Image:
    """Pictures one after the other with a label under each; `columns` None chooses what looks best on a screen."""
    return _in_lines([Tile((image,)) for image in images], labels, columns, title, "", footer)


def _in_lines(
    tiles: Sequence[Tile], labels: Sequence[str], columns: int | None, title: str, subtitle: str, footer: str, axis: str = ""
) -> Image.Image:
    picture = _picture_size(tiles)
    count = max([1, *(len(tile.pictures) for tile in tiles)])
    labels = [*labels, *[""] * (len(tiles) - len(labels))]

    def layout_at(scale: float) -> tuple[_Layout, tuple[int, int]]:
        layout = _lines_layout(labels, columns, axis, _cell_size(picture, count, scale))
        return layout, _paper_size(layout, 1, title, subtitle, _with_note(footer, scale))

    scale, layout, size = _fit_to_limits(layout_at, _enlargement(picture, count))
    paper, pen, top = _paper(size, layout, title, subtitle, _with_note(footer, scale))
    if axis:
        _text(pen, (layout.margin, top), axis, _title_type(layout), MUTED, bold=True)
    at = top + layout.block_title
    across = layout.line_across
    for start in range(0, len(tiles), across):
        for i, tile in enumerate(tiles[start : start + across]):
            left = layout.margin + i * (layout.cell[0] + layout.gap)
            _draw_tile(paper, pen, (left, at), layout, tile, count)
            _lines(pen, (left, at + layout.cell[1] + layout.type_size // 2), layout.column_labels[start + i], layout.column_type, INK)
        at += layout.row_heights[start // across] + layout.gap
    return paper


# Measures


def _picture_size(tiles: Sequence[Tile] | object) -> tuple[int, int]:
    """Width and height into which every picture fits unscaled."""
    sizes = [_size_of(picture) for tile in tiles for picture in tile.pictures]
    return (max(width for width, _ in sizes), max(height for _, height in sizes)) if sizes else (256, 256)


def _size_of(picture: Image.Image | Path) -> tuple[int, int]:
    if isinstance(picture, Image.Image):
        return picture.size
    with Image.open(picture) as opened:
        return opened.size


def _block_shape(count: int) -> tuple[int, int]:
    """Columns and rows of a block without holes where the count has fitting divisors, else a near-square one (its last row is centred)."""
    full = [columns for columns in range(1, count + 1) if count % columns == 0 and 1 <= columns * columns / count <= 3]
    columns = min(full, default=math.ceil(math.sqrt(count)))
    return columns, math.ceil(count / columns)


def _enlargement(picture: tuple[int, int], count: int) -> float:
    side = max(picture)
    return float(max(1, min(math.ceil(SMALL_CELL / side), 256 // side))) if side < SMALL_CELL else 1.0


def _cell_size(picture: tuple[int, int], count: int, scale: float) -> tuple[int, int]:
    columns, rows = _block_shape(count)
    width, height = (max(1, round(side * scale)) for side in picture)
    return columns * width + (columns - 1) * _inner_gap(width), rows * height + (rows - 1) * _inner_gap(width)


def _inner_gap(width: int) -> int:
    return max(1, width // 96)


def _base_layout(cell: tuple[int, int], columns: int) -> _Layout:
    """Type grows with the cell and with the number of columns, because the sheet will be looked at as a whole."""
    side = math.sqrt(cell[0] * cell[1])
    grown = side * 0.086 * max(1.0, min(1.5, math.sqrt(columns / 6)))
    return _Layout(cell, gap=max(4, round(side * 0.03)), type_size=max(SMALLEST_TYPE, min(72, round(grown))))


def _title_type(layout: _Layout) -> int:
    return max(SMALLEST_TYPE, round(layout.type_size * 0.9))


def _table_layout(x: AxisLabels | None, y: AxisLabels | None, z: AxisLabels | None, cell: tuple[int, int]) -> _Layout:
    layout = _base_layout(cell, (len(x.labels) if x else 1) * math.ceil(math.sqrt(len(z.labels) if z else 1)))
    size, pad = layout.type_size, layout.type_size // 2
    if y:
        layout.row_type, layout.gutter, layout.row_labels = _fit_rows(y.labels, cell, size)
        widest = max(_width(word, _title_type(layout), True) for word in y.title.split() or [""])
        layout.gutter = max(layout.gutter, math.ceil(widest)) + size
    if x:
        layout.column_type, layout.column_labels = _fit_columns(x.labels, cell[0] - pad, size, most_lines=5)
        layout.head = max(len(lines) for lines in layout.column_labels) * _leading(layout.column_type) + pad
        layout.head += len(_wrap(x.title, _title_type(layout), _row_width(layout, x), True)) * _leading(_title_type(layout)) + pad
    if y:
        lines = _wrap(y.title, _title_type(layout), layout.gutter - size, True)
        layout.head = max(layout.head, len(lines) * _leading(_title_type(layout)) + pad)
    rows = layout.row_labels or [[]]
    layout.row_heights = [max(cell[1], len(lines) * _leading(layout.row_type)) for lines in rows]
    width = layout.gutter + _row_width(layout, x)
    if z:
        longest = max(len(_wrap(_heading_of(z, k), round(size * 1.15), width, True)) for k in range(len(z.labels)))
        layout.block_title = longest * _leading(round(size * 1.15)) + size
    height = layout.block_title + layout.head + sum(layout.row_heights) + (len(rows) - 1) * layout.gap
    layout.block = (width, height)
    layout.blocks_across = _best_columns(len(z.labels) if z else 1, width + 3 * size, height + 2 * size)
    return layout


def _row_width(layout: _Layout, x: AxisLabels | None) -> int:
    columns = len(x.labels) if x else 1
    return columns * layout.cell[0] + (columns - 1) * layout.gap


def _lines_layout(labels: Sequence[str], columns: int | None, axis: str, cell: tuple[int, int]) -> _Layout:
    layout = _base_layout(cell, columns or math.ceil(math.sqrt(1.6 * len(labels))))
    size = layout.type_size
    layout.gap = max(layout.gap, size // 2)
    layout.column_type, layout.column_labels = _fit_columns(labels, cell[0], size, most_lines=5)
    heights = [
        cell[1] + (size // 2 + len(lines) * _leading(layout.column_type) + size // 2 if lines else 0) for lines in layout.column_labels
    ]
    layout.block_title = _leading(_title_type(layout)) + size // 2 if axis else 0
    count = max(1, len(labels))
    across = min(count, columns or (count if count <= 5 else _best_columns(count, cell[0] + layout.gap, max(heights) + layout.gap)))
    layout.line_across = across
    layout.row_heights = [max(heights[start : start + across]) for start in range(0, len(heights), across)]
    height = layout.block_title + sum(layout.row_heights) + (len(layout.row_heights) - 1) * layout.gap
    layout.block = (across * cell[0] + (across - 1) * layout.gap, height)
    return layout


def _best_columns(count: int, width: int, height: int, wanted: float = 1.6) -> int:
    """How many of `count` boxes to put side by side for a sheet of about the wanted aspect, with few empty places."""

    def badness(columns: int) -> float:
        rows = math.ceil(count / columns)
        return abs(math.log(columns * width / (rows * height) / wanted)) + 0.5 * (columns * rows - count) / count

    return min(range(1, count + 1), key=badness)


def _fit_columns(labels: Sequence[str], width: int, size: int, most_lines: int) -> tuple[int, list[list[str]]]:
    """The largest type in which no label takes more than `most_lines`; the smallest one, with more lines, if there is none."""
    smallest = max(SMALLEST_TYPE, round(size * 0.7))
    for tried in range(size, smallest - 1, -1):
        lines = [_wrap(label, tried, width) for label in labels]
        if max(map(len, lines), default=0) <= most_lines and _longest_piece(labels, tried) <= width:
            break
    return tried, lines


def _fit_rows(labels: Sequence[str], cell: tuple[int, int], size: int) -> tuple[int, int, list[list[str]]]:
    """Type, width and lines of the row labels: as large as possible, as narrow as possible, no higher than a cell."""
    smallest = max(SMALLEST_TYPE, round(size * 0.7))
    for widest in (0.75, 1.1, 1.6):
        for tried in range(size, smallest - 1, -1):
            width = round(cell[0] * widest)
            lines = [_wrap(label, tried, width) for label in labels]
            if max(map(len, lines), default=0) * _leading(tried) <= cell[1] * 0.95 and _longest_piece(labels, tried) <= width:
                break
        else:
            continue
        break
    return tried, math.ceil(max((_width(line, tried) for wrapped in lines for line in wrapped), default=0)), lines


def _longest_piece(labels: Sequence[str], size: int) -> float:
    """Width of the longest stretch that has no good place for a line break."""
    return max((_width(piece, size) for label in labels for piece in _GOOD_BREAK.split(label)), default=0.0)


def _fit_to_limits(layout_at, scale: float) -> tuple[float, _Layout, tuple[int, int]]:
    """Make cells smaller until the sheet is one that Pillow, PNG and browsers show."""
    while True:
        layout, (width, height) = layout_at(scale)
        over = max(width / LARGEST_SIDE, height / LARGEST_SIDE, math.sqrt(width * height / LARGEST_AREA))
        if over <= 1 or max(layout.cell) <= 8:
            return scale, layout, (width, height)
        scale *= max(0.5, min(0.95, 0.98 / over))


def _with_note(footer: str, scale: float) -> str:
    note = f"pictures shown at {scale:.0%} of their size" if scale < 1 else ""
    return " · ".join(part for part in (footer, note) if part)


def _heading_lines(layout: _Layout, width: int, title: str, subtitle: str, footer: str) -> tuple[list[str], list[str], list[str]]:
    size = layout.heading_type
    return _wrap(title, round(size * 1.7), width, True), _wrap(subtitle, size, width), _wrap(footer, _footer_type(layout), width)


def _footer_type(layout: _Layout) -> int:
    return max(SMALLEST_TYPE, round(layout.heading_type * 0.8))


def _paper_size(layout: _Layout, blocks: int, title: str, subtitle: str, footer: str) -> tuple[int, int]:
    size = layout.type_size
    down = math.ceil(blocks / layout.blocks_across)
    inner = layout.blocks_across * layout.block[0] + (layout.blocks_across - 1) * 3 * size
    height = down * layout.block[1] + (down - 1) * 2 * size
    # A title of a few words should not be broken by a sheet of one narrow column.
    inner = max(inner, size * 22)
    lines = _heading_lines(layout, inner, title, subtitle, footer)
    return inner + 2 * layout.margin, height + 2 * layout.margin + _heading_height(layout, lines) + _footer_height(layout, lines[2])


def _heading_height(layout: _Layout, lines: tuple[list[str], list[str], list[str]]) -> int:
    size = layout.heading_type
    title, subtitle, _ = lines
    height = len(title) * _leading(round(size * 1.7)) + len(subtitle) * _leading(size)
    return height + round(size * 1.5) if height else 0


def _footer_height(layout: _Layout, footer: list[str]) -> int:
    return layout.heading_type * 2 + len(footer) * _leading(_footer_type(layout)) if footer else 0


def _heading_of(axis: AxisLabels, index: int) -> str:
    return f"{axis.title}: {axis.labels[index]}" if axis.title else axis.labels[index]


# Drawing


def _paper(size: tuple[int, int], layout: _Layout, title: str, subtitle: str, footer: str) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """Paper with heading and footer, and where the content begins."""
    paper = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(paper)
    inner = size[0] - 2 * layout.margin
    lines = _heading_lines(layout, inner, title, subtitle, footer)
    large = round(layout.heading_type * 1.7)
    _lines(pen, (layout.margin, layout.margin), lines[0], large, INK, bold=True)
    _lines(pen, (layout.margin, layout.margin + len(lines[0]) * _leading(large)), lines[1], layout.heading_type, MUTED)
    if lines[2]:
        small = _footer_type(layout)
        at = size[1] - layout.margin - len(lines[2]) * _leading(small) + small // 2
        rule = at - round(small * 0.8)
        pen.line((layout.margin, rule, size[0] - layout.margin, rule), fill=RULE, width=max(1, small // 14))
        _lines(pen, (layout.margin, at), lines[2], small, MUTED)
    return paper, pen, layout.margin + _heading_height(layout, lines)


def _block_title(pen: ImageDraw.ImageDraw, layout: _Layout, left: int, top: int, axis: AxisLabels, index: int) -> None:
    size = round(layout.type_size * 1.15)
    pen.line((left, top, left + layout.block[0], top), fill=INK, width=max(1, layout.type_size // 10))
    lines = _wrap(_heading_of(axis, index), size, layout.block[0], True)
    _lines(pen, (left, top + layout.type_size // 2), lines, size, INK, bold=True)


def _draw_table(
    paper: Image.Image,
    pen: ImageDraw.ImageDraw,
    layout: _Layout,
    left: int,
    top: int,
    x: AxisLabels | None,
    y: AxisLabels | None,
    tiles: Mapping[tuple[int, int], Tile],
    count: int,
) -> None:
    size, title_type = layout.type_size, _title_type(layout)
    cells_left = left + layout.gutter
    bottom = top + layout.head - size // 2
    if x:
        lines = _wrap(x.title, title_type, _row_width(layout, x), True)
        _lines(pen, (cells_left, top), lines, title_type, MUTED, bold=True)
        for i, label in enumerate(layout.column_labels):
            middle = cells_left + i * (layout.cell[0] + layout.gap) + layout.cell[0] // 2
            at = bottom - len(label) * _leading(layout.column_type)
            _lines(pen, (middle, at), label, layout.column_type, INK, align="middle")
    if y:
        lines = _wrap(y.title, title_type, layout.gutter - size, True)
        right = cells_left - round(size * 0.8)
        _lines(pen, (right, bottom - len(lines) * _leading(title_type)), lines, title_type, MUTED, bold=True, align="right")
    at = top + layout.head
    for j, height in enumerate(layout.row_heights):
        if y:
            label = layout.row_labels[j]
            middle = at + (layout.cell[1] - len(label) * _leading(layout.row_type)) // 2
            _lines(pen, (cells_left - round(size * 0.8), max(at, middle)), label, layout.row_type, INK, align="right")
        for i in range(len(x.labels) if x else 1):
            _draw_tile(paper, pen, (cells_left + i * (layout.cell[0] + layout.gap), at), layout, tiles.get((i, j), Tile()), count)
        at += height + layout.gap


def _draw_tile(paper: Image.Image, pen: ImageDraw.ImageDraw, corner: tuple[int, int], layout: _Layout, tile: Tile, count: int) -> None:
    left, top = corner
    width, height = layout.cell
    frame = (left, top, left + width - 1, top + height - 1)
    if tile.error:
        _draw_error(pen, frame, tile.error, layout.type_size)
        return
    if not tile.pictures:
        pen.rectangle(frame, fill=EMPTY, outline=RULE, width=max(1, width // 200))
        return
    columns, rows = _block_shape(count)
    if len(tile.pictures) < columns * rows:
        pen.rectangle(frame, fill=EMPTY)
    # Undo _cell_size: what is left for one picture when the gaps between them are taken off.
    gap = _inner_gap(width // columns)
    box = ((width - (columns - 1) * gap) // columns, (height - (rows - 1) * gap) // rows)
    own_rows = math.ceil(len(tile.pictures) / columns)
    for k, picture in enumerate(tile.pictures):
        row, column = divmod(k, columns)
        in_row = min(columns, len(tile.pictures) - row * columns)
        row_left = left + (width - in_row * box[0] - (in_row - 1) * gap) // 2
        first_top = top + (height - own_rows * box[1] - (own_rows - 1) * gap) // 2
        image = _shown(picture, box)
        image_left = row_left + column * (box[0] + gap) + (box[0] - image.width) // 2
        image_top = first_top + row * (box[1] + gap) + (box[1] - image.height) // 2
        paper.paste(image, (image_left, image_top))


def _shown(picture: Image.Image | Path, box: tuple[int, int]) -> Image.Image:
    """The picture as RGB, as large as fits into the box without changing its shape."""
    if isinstance(picture, Path):
        with Image.open(picture) as opened:
            picture = opened.convert("RGB")
    picture = picture.convert("RGB")
    factor = min(box[0] / picture.width, box[1] / picture.height)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)


def _draw_error(pen: ImageDraw.ImageDraw, frame: tuple[int, int, int, int], message: str, size: int) -> None:
    left, top, right, bottom = frame
    thickness = max(2, (right - left) // 80)
    pen.rectangle(frame, fill=ERROR_PAPER, outline=ERROR_INK, width=thickness)
    pad = thickness + max(2, size // 2)
    room = bottom - top - 2 * pad
    for tried in range(size, 7, -1):
        lines = _wrap(message, tried, right - left - 2 * pad)
        if len(lines) * _leading(tried) <= room:
            break
    # What doesn't even fit in the smallest type ends in dots; grid.json has all of it.
    most = max(1, room // _leading(tried))
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1][:-1] + "…"]
    _lines(pen, (left + pad, top + pad), lines, tried, ERROR_INK)


# Type


@lru_cache(maxsize=256)
def _shipped_font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_FONTS / ("sheet-semibold.otf" if bold else "sheet-regular.otf")), size)


@lru_cache(maxsize=64)
def _system_font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _covers(font: ImageFont.FreeTypeFont, text: str) -> bool:
    """Whether the font has a glyph of its own for each letter (Pillow draws a box for one it lacks)."""
    lacking = _glyph(font, "\U0010fffe")
    return all(letter.isspace() or _glyph(font, letter) != lacking for letter in set(text))


@lru_cache(maxsize=4096)
def _glyph(font: ImageFont.FreeTypeFont, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


def _font(text: str, size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The shipped font (Latin, Greek, Cyrillic), or the system's font that knows more of the text's letters."""
    shipped = _shipped_font(size, bold)
    if text.isascii() or _covers(_shipped_font(16, bold), text):
        return shipped
    for name in _SYSTEM_FONTS:
        small = _system_font(name, 16)
        if small and _covers(small, text):
            return _system_font(name, size) or shipped
    return shipped


def _width(text: str, size: int, bold: bool = False) -> float:
    return _font(text, size, bold).getlength(text)


def _leading(size: int) -> int:
    """Distance of two lines."""
    return round(size * 1.32)


def _wrap(text: str, size: int, width: int, bold: bool = False) -> list[str]:
    """Lines no wider than `width`: broken at spaces, in a longer word behind / _ - , . and anywhere if it can't be helped."""
    words = "".join(letter if letter.isprintable() else " " for letter in text).split()
    lines: list[str] = []
    line = ""
    for word in words:
        joined = f"{line} {word}" if line else word
        if _width(joined, size, bold) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        while _width(word, size, bold) > width and len(word) > 1:
            cut = _break_of(word, size, width, bold)
            lines.append(word[:cut])
            word = word[cut:]
        line = word
    return [*lines, line] if line else lines


def _break_of(word: str, size: int, width: int, bold: bool) -> int:
    """How many letters of a too long word go into this line, at least one."""
    low, high = 1, len(word) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _width(word[:middle], size, bold) <= width else (low, middle - 1)
    good = max((word.rfind(mark, 0, low) for mark in "/_-,.\\"), default=-1) + 1
    return good if good > low // 3 else low


def _text(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, colour: Colour, bold: bool = False) -> None:
    pen.text(at, text, font=_font(text, size, bold), fill=colour, anchor="la")


def _lines(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    lines: Sequence[str],
    size: int,
    colour: Colour,
    bold: bool = False,
    align: Literal["left", "middle", "right"] = "left",
) -> None:
    """Lines of text below `at`, which is their left end, middle or right end."""
    share = {"left": 0.0, "middle": 0.5, "right": 1.0}[align]
    for number, line in enumerate(lines):
        left = at[0] - round(share * _width(line, size, bold))
        _text(pen, (left, at[1] + number * _leading(size)), line, size, colour, bold)
