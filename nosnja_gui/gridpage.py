"""The page that a grid leaves behind: one HTML file with its pictures in it, to be looked at and passed on without this program.

The viewer is the window's own script, read as a file; so is its style. Knows a grid's folder and nothing of how it came about.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import math
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from nosnja_gui import grids
from nosnja_gui.axes import AXES
from nosnja_gui.files import replacing

WINDOW = Path(__file__).with_name("ui")
SCRIPTS = ("common.js", "grid_core.js")
QUALITY = 90
LARGEST_PAGE_PIXELS = 500_000_000
"""Pictures of larger grids are made smaller: browsers do not open pages of any size."""

STYLE = """
:root { color-scheme: light; --body-background-fill: #fafaf9; --block-background-fill: #ffffff; --background-fill-secondary: #f1efec;
  --body-text-color: #292524; --body-text-color-subdued: #78716c; --border-color-primary: #e0dcd8; --input-background-fill: #ffffff;
  --primary-400: #e57878; --primary-500: #d64b4d; --primary-600: #b92f35; --radius-sm: 4px; --radius-md: 6px; --radius-lg: 8px;
  --button-secondary-background-fill: #efece8; --button-secondary-background-fill-hover: #e4e0da;
  --font-mono: ui-monospace, Consolas, monospace; }
:root.dark { color-scheme: dark; --body-background-fill: #1c1917; --block-background-fill: #292524; --background-fill-secondary: #211e1c;
  --body-text-color: #f5f5f4; --body-text-color-subdued: #a8a29e; --border-color-primary: #44403c; --input-background-fill: #292524;
  --button-secondary-background-fill: #3a3532; --button-secondary-background-fill-hover: #4a4440; }
* { box-sizing: border-box; }
body { margin: 0; padding: 0.9rem 1.2rem; background: var(--body-background-fill); color: var(--body-text-color);
  font: 16px/1.45 system-ui, "Segoe UI", "Helvetica Neue", sans-serif; }
button, select { font: inherit; }
h1 { margin: 0; font-size: 1.35rem; overflow-wrap: anywhere; }
header p { margin: 0.1rem 0 0.7rem; color: var(--body-text-color-subdued); font-size: 0.92rem; overflow-wrap: anywhere; }
.nosnja-muted { color: var(--body-text-color-subdued); }
.nosnja-note { padding: 0.55rem 0.9rem; border-left: 3px solid #b92f35; background: var(--background-fill-secondary); }
.nosnja-button { padding: 0.3rem 0.8rem; border-radius: var(--radius-md); border: 1px solid var(--border-color-primary); cursor: pointer;
  background: var(--button-secondary-background-fill); color: var(--body-text-color); font-size: 0.9rem; }
.nosnja-button:hover { background: var(--button-secondary-background-fill-hover); }
.nosnja-button[disabled] { opacity: 0.45; cursor: default; }
"""
"""What the window's theme says there; only the viewer's own style is shared."""
FITTING = "body .nosnja-grid-scroll { max-height: calc(100vh - 9.5rem); }"
# Nothing may be asked of anybody, whatever a prompt says.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
VIEWER = """
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => document.documentElement.classList.toggle("dark", dark.matches);
  dark.addEventListener("change", follow);
  follow();
  const { record, pictures, infotexts } = JSON.parse(document.getElementById("grid").textContent);
  nosnja.grid(document.getElementById("viewer"), record, {
    picture: (file) => pictures[file] || "",
    infotext: (file) => infotexts[file] || "",
  });
})();
"""


def write(folder: Path) -> Path:
    """Make the page from the grid's record and pictures. A grid without a record has none to be made."""
    path = folder / grids.PAGE
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for part in parts(folder):
            file.write(part)
    return path


def parts(folder: Path) -> Iterator[str]:
    """The page's text, piece by piece: it may be large."""
    record = grids.read_record(folder) or {"name": "", "axes": {}, "cells": []}
    title = escape(str(record.get("name", "")))
    yield f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="Nošnja">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{_style()}</style>
</head>
<body>
<header><h1>{title}</h1><p>{escape(str(record.get("about", "")))}</p></header>
<main id="viewer"></main>
<script type="application/json" id="grid">{{"record": {_json(_public(record))}, "pictures": {{"""
    infotexts: dict[str, str] = {}
    there = grids.painted(folder)
    files = [file for file in dict.fromkeys(file for cell in record["cells"] for file in cell["files"]) if file in there]
    pixels = sum(len(cell["files"]) * cell.get("width", 512) * cell.get("height", 512) for cell in record["cells"])
    scale = min(1.0, math.sqrt(LARGEST_PAGE_PIXELS / max(1, pixels)))
    comma = ""
    for file in files:
        try:
            picture, infotexts[file] = _embedded(folder / file, scale)
        except (OSError, SyntaxError, ValueError):  # Damaged: it is painted again when the grid goes on.
            continue
        yield f"{comma}\n{_json(file)}: {_json(picture)}"
        comma = ","
    yield f'}}, "infotexts": {_json(infotexts)}}}</script>\n<script>{_script()}</script>\n</body>\n</html>\n'


def _public(record: dict[str, Any]) -> dict[str, Any]:
    """Without where things lie on the disk of who made it."""
    cells = [{name: value for name, value in cell.items() if name != "given"} for cell in record["cells"]]
    axes = {place: {**axis, "given": "", "labels": [str(label) for label in axis["labels"]]} for place, axis in record["axes"].items()}
    return {**record, "axes": axes, "cells": cells}


def _embedded(file: Path, scale: float) -> tuple[str, str]:
    """A picture as an address that holds it, and its infotext."""
    with Image.open(file) as opened:
        infotext = str(opened.info.get("parameters", ""))
        picture = opened.convert("RGB")
    if scale < 1:
        picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    # Colours at full resolution: embroidery is fine and red.
    picture.save(buffer, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), infotext


def _json(value: Any) -> str:
    """JSON that no text in it can end the script around it with."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


@functools.cache
def _style() -> str:
    return STYLE + (WINDOW / "styles" / "grid.css").read_text(encoding="utf-8") + FITTING


@functools.cache
def _script() -> str:
    code = "\n".join((WINDOW / "widgets" / name).read_text(encoding="utf-8") for name in SCRIPTS)
    start = f"window.nosnja = {{texts: {_json(_texts(code))}}};"
    return f"{start}\n{code}\n{VIEWER}".replace("</script", "<\\/script")


def _texts(code: str) -> dict[str, dict[str, str]]:
    """By language, the translations of what the scripts and the axes say; English is in the scripts."""
    titles = {axis.title for axis in AXES.values()}
    found = {}
    for file in sorted((WINDOW / "languages").glob("*.yaml")):
        catalogue = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        said_here = titles | {text for text in catalogue if json.dumps(text, ensure_ascii=False) in code}
        found[file.stem] = {text: said for text, said in catalogue.items() if text in said_here}
    return {"en": {}, **found}
