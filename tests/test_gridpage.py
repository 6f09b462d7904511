"""The page that a grid leaves behind: everything in it, nothing fetched, text stays text."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from nosnja_gui import gridpage, grids

EVIL = "</script><script>document.title = 'taken'</script><img src=x onerror=alert(1)> “quotes” & čaša"


def write_grid(folder: Path, columns: int = 3, rows: int = 2, painted: int | None = None, count: int = 1, **more) -> dict:
    """A grid folder as the engine leaves it, with plain pictures; the first `painted` of them are there."""
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    fixed = {
        "error": None, "failed": [], "model": "sd15", "loras": [], "negative_prompt": "", "sampler": "ddim", "steps": 8, "cfg_scale": 7.0,
        "width": 64, "height": 64, "clip_skip": 1, "given": {"model": "/home/someone/sd15", "lora": "", "weight": 1},
    }  # fmt: skip
    cells = []
    number = 0
    for row in range(rows):
        for column in range(columns):
            files = [f"cells/{number + index:03d}.png" for index in range(count)]
            for file in files:
                if painted is None or number < painted:
                    paint(folder / file, number)
                number += 1
            cells.append({"position": [column, row, 0], "files": files, "prompt": f"picture {column} {row}", "seed": row + 1, **fixed})
    record = {
        "name": "Test", "about": "sd15", "sheet": "grid.png", "images_per_cell": count, "samplers": {"ddim": "DDIM"}, "pace": None,
        "axes": {
            "x": {"name": "cfg_scale", "title": "CFG scale", "labels": [str(n) for n in range(columns)], "given": "/home/someone"},
            "y": {"name": "seed", "title": "Seed", "labels": [str(n + 1) for n in range(rows)], "given": ""},
        },
        "cells": cells,
    } | more  # fmt: skip
    (folder / grids.RECORD).write_text(json.dumps(record), encoding="utf-8")
    return record


def paint(file: Path, number: int) -> None:
    info = PngInfo()
    info.add_text("parameters", f"infotext {number}")
    part = file.with_suffix(".part")
    Image.new("RGB", (64, 64), (40 * number % 256, 120, 90)).save(part, "PNG", pnginfo=info)
    part.replace(file)


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="grid">(.*?)</script>', page, re.DOTALL)[1])


def test_everything_is_in_the_page(tmp_path):
    write_grid(tmp_path, painted=5)
    page = gridpage.write(tmp_path).read_text(encoding="utf-8")
    data = data_of(page)
    assert len(data["pictures"]) == 5 and all(address.startswith("data:image/jpeg;base64,") for address in data["pictures"].values())
    assert data["infotexts"]["cells/003.png"] == "infotext 3"
    assert not re.search(r'(src|href)="(?!data:)', page) and "url(" not in page
    assert "/home/someone" not in page, "nobody's disk is anybody's business"
    assert "connect-src" not in page and "default-src 'none'" in page


@pytest.mark.parametrize("where", ["name", "about", "label", "prompt", "error", "infotext"])
def test_text_stays_text(tmp_path, where):
    record = write_grid(tmp_path)
    if where == "label":
        record["axes"]["x"]["labels"][0] = EVIL
    elif where in ("prompt", "error"):
        record["cells"][0][where] = EVIL
    elif where == "infotext":
        info = PngInfo()
        info.add_itxt("parameters", EVIL)
        Image.new("RGB", (8, 8)).save(tmp_path / "cells/000.png", pnginfo=info)
    else:
        record[where] = EVIL
    (tmp_path / grids.RECORD).write_text(json.dumps(record), encoding="utf-8")
    page = "".join(gridpage.parts(tmp_path))
    assert "<script>document.title" not in page and "<img" not in page
    assert page.count("</script>") == 2
    data_of(page)


def test_damaged_and_foreign_files_are_left_out(tmp_path):
    record = write_grid(tmp_path)
    (tmp_path / "cells/000.png").write_bytes(b"half")
    record["cells"][1]["files"] = ["../secret.png"]
    Image.new("RGB", (8, 8)).save(tmp_path.parent / "secret.png")
    (tmp_path / grids.RECORD).write_text(json.dumps(record))
    assert set(data_of("".join(gridpage.parts(tmp_path)))["pictures"]) == {f"cells/{number:03d}.png" for number in (2, 3, 4, 5)}
    assert "viewer" in "".join(gridpage.parts(tmp_path / "no-grid"))


def test_a_very_large_grid_makes_a_page_that_can_be_opened(tmp_path, monkeypatch):
    write_grid(tmp_path)
    monkeypatch.setattr(gridpage, "LARGEST_PAGE_PIXELS", 6 * 32 * 32)
    import base64
    import io

    address = data_of("".join(gridpage.parts(tmp_path)))["pictures"]["cells/000.png"]
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as opened:
        assert opened.size == (32, 32)
