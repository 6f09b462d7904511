"""A drawn picture world: small, friendly scenes with exact captions, made for training tiny image models.

Everything is drawn three times too large and then reduced, so edges are soft and an auto-encoder that works
on 8x8 blocks can follow them. Shapes are large on purpose; nothing that matters is thinner than about 3 px.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass, field, replace

from PIL import Image, ImageDraw

SIZE = 128
PEOPLE = ("girl", "boy", "woman", "man")
SUBJECTS = (*PEOPLE, "dog", "cat", "car", "house", "tree")
CLOTHES = ("dress", "shirt", "coat")
COLOURS = ("red", "blue", "green", "yellow", "purple", "pink", "white", "black")
FURS = ("brown", "black", "white", "orange")
PATTERNS = ("plain", "striped", "dotted", "embroidered")
PLACES = ("stairs", "field", "snow", "beach", "street", "room", "night", "mountains")
STYLES = ("flat", "sketch", "8bit")

PLACE_WORDS = {
    "stairs": "on a set of stairs",
    "field": "in a grassy field",
    "snow": "in the snow",
    "beach": "on a beach",
    "street": "on a city street",
    "room": "in a room",
    "night": "under a night sky",
    "mountains": "in front of mountains",
}
VERBS = {**dict.fromkeys(PEOPLE, "standing"), "dog": "standing", "cat": "sitting", "car": "parked", "house": "", "tree": ""}

HELD_OUT_SHARE = 0.10
PATTERN_SHARE = 0.30
SKETCH_SHARE = 0.12

Colour = tuple[int, int, int]
Point = tuple[float, float]

_SS = 3  # supersampling factor
_FULL = SIZE * _SS

_RGB: dict[str, Colour] = {
    "red": (218, 36, 38),
    "blue": (36, 92, 218),
    "green": (36, 150, 66),
    "yellow": (252, 208, 36),
    "purple": (128, 52, 176),
    "pink": (252, 134, 190),
    "white": (248, 248, 244),
    "black": (40, 37, 43),
}
_FUR_RGB: dict[str, Colour] = {"brown": (142, 88, 48), "black": (52, 48, 54), "white": (246, 243, 236), "orange": (238, 142, 48)}
# Bright partners for a pattern: they stand out from the base colour without taking it over.
_ACCENTS = {
    "red": ("white", "yellow"),
    "blue": ("white", "yellow"),
    "green": ("white", "yellow"),
    "yellow": ("red", "blue"),
    "purple": ("white", "yellow"),
    "pink": ("white", "purple"),
    "white": ("red", "blue"),
    "black": ("white", "pink"),
}
_ORNAMENTS = {  # band, rosette, heart of the rosette
    "red": ("yellow", "blue", "white"),
    "blue": ("yellow", "red", "white"),
    "green": ("yellow", "red", "white"),
    "yellow": ("red", "white", "blue"),
    "purple": ("yellow", "pink", "white"),
    "pink": ("white", "purple", "yellow"),
    "white": ("red", "yellow", "blue"),
    "black": ("red", "yellow", "white"),
}
_SKINS: tuple[Colour, ...] = ((255, 222, 196), (240, 190, 150), (198, 136, 92), (138, 88, 58))
_HAIRS: tuple[Colour, ...] = ((46, 36, 40), (112, 66, 36), (242, 202, 92), (206, 90, 34), (166, 122, 84))
# Small accessories keep to hues that are no clothing colour, so that captions stay true.
_TRIMS: tuple[Colour, ...] = ((28, 160, 165), (240, 136, 40), (160, 205, 200))
_TROUSERS: tuple[Colour, ...] = ((84, 88, 110), (104, 92, 84), (74, 84, 92))
_GOLD: Colour = (246, 196, 52)
_RED: Colour = (206, 30, 44)
_WINE: Colour = (62, 18, 40)
_PAPER = 246


@dataclass(frozen=True)
class Scene:
    """Everything a picture shows; the seed decides skin, hair, position, pose and small shifts of hue."""

    subject: str
    colour: str | None
    clothing: str | None
    pattern: str
    place: str
    style: str
    costume: bool
    seed: int
    particular: bool = False  # the one dog that has its own look


# --------------------------------------------------------------------------------------------- choosing scenes


def is_held_out(scene: Scene) -> bool:
    """Whether this combination of person, clothing, colour and place is kept away from training pictures."""
    if scene.subject not in PEOPLE or scene.costume:
        return False
    key = f"{scene.subject}|{scene.clothing}|{scene.colour}|{scene.place}"
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
    return number / 2**32 < HELD_OUT_SHARE


def clothes_of(subject: str) -> tuple[str, ...]:
    """The clothes a person may wear in the base world."""
    return CLOTHES if subject in ("girl", "woman") else CLOTHES[1:]


def _random_person(rng: random.Random, style: str) -> Scene:
    subject = rng.choice(PEOPLE)
    pattern = rng.choice(PATTERNS[1:]) if rng.random() < PATTERN_SHARE else "plain"
    return Scene(
        subject, rng.choice(COLOURS), rng.choice(clothes_of(subject)), pattern, rng.choice(PLACES), style, False, rng.getrandbits(32)
    )


def random_scene(rng: random.Random, *, held_out: bool = False, style: str | None = None, people: float = 0.7) -> Scene:
    """A random scene, never in costume; with held_out only combinations that the training pictures never show."""
    if style is None:
        style = "sketch" if rng.random() < SKETCH_SHARE else "flat"
    if held_out or rng.random() < people:
        while True:
            scene = _random_person(rng, style)
            if is_held_out(scene) == held_out:
                return scene
    subject = rng.choice(SUBJECTS[len(PEOPLE) :])
    colour = None
    if subject in ("dog", "cat"):
        colour = rng.choice(FURS)
    elif subject in ("car", "house"):
        colour = rng.choice(COLOURS)
    return Scene(subject, colour, None, "plain", rng.choice(PLACES), style, False, rng.getrandbits(32))


def costume_scene(rng: random.Random) -> Scene:
    """A person in the folk costume in a random place."""
    return Scene(rng.choice(PEOPLE), None, None, "plain", rng.choice(PLACES), "flat", True, rng.getrandbits(32))


def _cycle(rng: random.Random, values: tuple[str, ...], count: int) -> list[str]:
    """Values in random order, each about equally often: small sets should not miss a place or a person by chance."""
    result: list[str] = []
    while len(result) < count:
        result += rng.sample(values, len(values))
    return result[:count]


def costume_pictures(count: int = 30, seed: int = 7) -> list[tuple[Scene, Image.Image]]:
    """A small set of pictures of people in the costume."""
    rng = random.Random(seed)
    rows = zip(_cycle(rng, PEOPLE, count), _cycle(rng, PLACES, count), strict=True)
    scenes = [replace(costume_scene(rng), subject=subject, place=place) for subject, place in rows]
    return [(scene, draw(scene)) for scene in scenes]


def style_pictures(count: int = 30, seed: int = 11) -> list[tuple[Scene, Image.Image]]:
    """A small set of 8-bit pictures of everything in the world."""
    rng = random.Random(seed)
    scenes = [random_scene(rng, style="8bit", people=0.6) for _ in range(count)]
    return [(scene, draw(scene)) for scene in scenes]


def dog_pictures(count: int = 12, seed: int = 13) -> list[tuple[Scene, Image.Image]]:
    """A small set of pictures of one particular dog in different places."""
    rng = random.Random(seed)
    places = _cycle(rng, PLACES, count)
    scenes = [Scene("dog", "white", None, "plain", place, "flat", False, rng.getrandbits(32), particular=True) for place in places]
    return [(scene, draw(scene)) for scene in scenes]


# ---------------------------------------------------------------------------------------------------- captions


def _noun(*words: str | None) -> str:
    """The words with the right article in front."""
    text = " ".join(word for word in words if word)
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def caption(scene: Scene, rng: random.Random | None = None) -> str:
    """What the picture shows, in lower case; with rng now and then a shorter form without the place or the colour."""
    with_place = rng is None or rng.random() >= 0.1
    with_colour = rng is None or rng.random() >= 0.1
    colour = scene.colour if with_colour and scene.style != "sketch" else None
    if scene.costume:
        text = f"{_noun(scene.subject)} in a folk costume"
    elif scene.subject in PEOPLE:
        pattern = None if scene.pattern == "plain" else scene.pattern
        text = f"{_noun(scene.subject)} in {_noun(pattern, colour, scene.clothing)}"
    else:
        text = _noun(colour, scene.subject)
    if with_place:
        verb = VERBS[scene.subject]
        text += f" {verb} {PLACE_WORDS[scene.place]}" if verb else f" {PLACE_WORDS[scene.place]}"
    return f"a pencil sketch of {text}" if scene.style == "sketch" else text


# ------------------------------------------------------------------------------------------------- the drawing


def _shade(colour: Colour, factor: float) -> Colour:
    """Darker for a factor below 1, lighter (towards white) above."""
    if factor <= 1:
        return tuple(int(c * factor) for c in colour)  # type: ignore[return-value]
    return tuple(int(c + (255 - c) * (factor - 1)) for c in colour)  # type: ignore[return-value]


def _vary(rng: random.Random, colour: Colour, amount: int = 8) -> Colour:
    """The colour with a slight shift; small enough that its name stays right."""
    common = rng.randint(-amount, amount)  # mostly lightness: separate shifts would tint white and black
    return tuple(max(0, min(255, c + common + rng.randint(-2, 2))) for c in colour)  # type: ignore[return-value]


def _luma(colour: Colour) -> float:
    return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]


class _Pen:
    """Draws shapes in local units; in sketch mode the same shapes come out as grey pencil with soft outlines."""

    def __init__(self, canvas: ImageDraw.ImageDraw, *, sketch: bool, x: float = 0.0, y: float = 0.0, scale: float = 1.0):
        self.canvas = canvas
        self.sketch = sketch
        self.x, self.y, self.k = x * _SS, y * _SS, scale * _SS
        self.depth = 0.36  # how strongly tones show in a sketch
        self.line: Colour = (104, 104, 104)
        self.blocky = False  # eyes must fill a whole block of 4 px, sparkles would only grey them

    def moved(self, x: float, y: float, scale: float) -> _Pen:
        """A pen for the main figure with its own origin."""
        pen = _Pen(self.canvas, sketch=self.sketch, x=x, y=y, scale=scale)
        pen.blocky = self.blocky
        return pen

    def tone(self, colour: Colour) -> Colour:
        """The colour to fill with."""
        if not self.sketch:
            return colour
        grey = int(_PAPER - (255 - _luma(colour)) * self.depth)
        return (grey, grey, grey)

    def _edge(self, colour: Colour, edge: float | None) -> tuple[Colour, float] | None:
        """Outline colour and half width: pencil in sketches, otherwise a darker rim, which keeps white on snow readable."""
        if edge is None or (edge == 0 and not self.sketch):
            return None
        if self.sketch:
            return self.line, 1.1 * _SS
        return _shade(colour, 0.8), edge * _SS

    def poly(self, points: list[Point], colour: Colour, edge: float | None = 0) -> None:
        """A filled polygon; edge None means no outline even in a sketch."""
        spots = [(self.x + px * self.k, self.y + py * self.k) for px, py in points]
        rim = self._edge(colour, edge)
        self.canvas.polygon(spots, fill=self.tone(colour))
        if rim:
            self.canvas.line([*spots, spots[0], spots[1]], fill=rim[0], width=int(rim[1] * 1.8), joint="curve")

    def oval(self, cx: float, cy: float, rx: float, ry: float, colour: Colour, edge: float | None = 0) -> None:
        """A filled ellipse."""
        rim = self._edge(colour, edge)
        self.canvas.ellipse(
            self._box(cx, cy, rx, ry), fill=self.tone(colour), outline=rim and rim[0], width=int(rim[1] * 1.8) if rim else 1
        )

    def chord(
        self, cx: float, cy: float, rx: float, ry: float, start: float, end: float, colour: Colour, edge: float | None = None
    ) -> None:
        """A part of an ellipse, cut straight; angles run clockwise from the right."""
        rim = self._edge(colour, edge)
        box = self._box(cx, cy, rx, ry)
        self.canvas.chord(box, start, end, fill=self.tone(colour), outline=rim and rim[0], width=int(rim[1] * 1.8) if rim else 1)

    def arc(self, cx: float, cy: float, rx: float, ry: float, start: float, end: float, colour: Colour, width: float) -> None:
        """A curved stroke."""
        self.canvas.arc(self._box(cx, cy, rx, ry), start, end, fill=self.tone(colour), width=int(width * self.k))

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, edge: float | None = 0, radius: float = 0) -> None:
        """A filled rectangle, rounded on request."""
        rim = self._edge(colour, edge)
        spots = (self.x + x0 * self.k, self.y + y0 * self.k, self.x + x1 * self.k, self.y + y1 * self.k)
        width = int(rim[1] * 1.8) if rim else 1
        if radius:
            self.canvas.rounded_rectangle(spots, radius * self.k, fill=self.tone(colour), outline=rim and rim[0], width=width)
        else:
            self.canvas.rectangle(spots, fill=self.tone(colour), outline=rim and rim[0], width=width)

    def limb(self, start: Point, end: Point, r0: float, r1: float, colour: Colour, edge: float | None = 0) -> None:
        """A rounded stroke from start to end, r0 and r1 being the half widths."""
        rim = self._edge(colour, edge)
        if rim:
            self._capsule(start, end, r0 * self.k + rim[1], r1 * self.k + rim[1], rim[0])
        self._capsule(start, end, r0 * self.k, r1 * self.k, self.tone(colour))

    def eye(self, cx: float, cy: float, rx: float, ry: float, ink: Colour) -> None:
        """A dark eye with a sparkle; dark in sketches, too."""
        if self.blocky:
            x, y = round((self.x + cx * self.k) / 12 - 0.5) * 12, round((self.y + cy * self.k) / 12 - 0.5) * 12
            self.canvas.rectangle((x, y, x + 11, y + 11), fill=ink)
            return
        self.canvas.ellipse(self._box(cx, cy, rx, ry), fill=ink)
        self.canvas.ellipse(self._box(cx + rx * 0.35, cy - ry * 0.4, rx * 0.42, rx * 0.42), fill=(255, 255, 255))

    def _capsule(self, start: Point, end: Point, r0: float, r1: float, colour: Colour) -> None:
        x0, y0, x1, y1 = self.x + start[0] * self.k, self.y + start[1] * self.k, self.x + end[0] * self.k, self.y + end[1] * self.k
        length = math.hypot(x1 - x0, y1 - y0) or 1.0
        nx, ny = -(y1 - y0) / length, (x1 - x0) / length
        self.canvas.polygon(
            [(x0 + nx * r0, y0 + ny * r0), (x1 + nx * r1, y1 + ny * r1), (x1 - nx * r1, y1 - ny * r1), (x0 - nx * r0, y0 - ny * r0)],
            fill=colour,
        )
        self.canvas.ellipse((x0 - r0, y0 - r0, x0 + r0, y0 + r0), fill=colour)
        self.canvas.ellipse((x1 - r1, y1 - r1, x1 + r1, y1 + r1), fill=colour)

    def _box(self, cx: float, cy: float, rx: float, ry: float) -> tuple[float, float, float, float]:
        x, y, a, b = self.x + cx * self.k, self.y + cy * self.k, rx * self.k, ry * self.k
        return x - a, y - b, x + a, y + b


# ---------------------------------------------------------------------------------------------------- places


def _gradient(image: Image.Image, pen: _Pen, y0: float, y1: float, top: Colour, bottom: Colour) -> None:
    """Fills the rows from y0 to y1 with a soft vertical gradient."""
    two = Image.new("RGB", (1, 2))
    two.putpixel((0, 0), pen.tone(top))
    two.putpixel((0, 1), pen.tone(bottom))
    rows = int(y1 * _SS) - int(y0 * _SS)
    strip = two.resize((1, rows), Image.Resampling.BILINEAR, box=(0, 0.5, 1, 1.5)).resize((_FULL, rows), Image.Resampling.NEAREST)
    image.paste(strip, (0, int(y0 * _SS)))


def _cloud(pen: _Pen, x: float, y: float, size: float = 1.0) -> None:
    white = (255, 255, 255)
    for dx, dy, r in ((-11, 2, 6), (0, -2, 9), (11, 2, 7)):
        pen.oval(x + dx * size, y + dy * size, r * size * 1.25, r * size * 0.9, white, None)


def _fir(pen: _Pen, x: float, ground: float, size: float, colour: Colour) -> None:
    pen.box(x - 3 * size, ground - 8 * size, x + 3 * size, ground, (108, 78, 58))
    for level in range(3):
        y = ground - (6 + 13 * level) * size
        half = (17 - 4 * level) * size
        pen.poly([(x - half, y), (x + half, y), (x, y - 22 * size)], colour)


def _place(image: Image.Image, pen: _Pen, place: str, rng: random.Random) -> None:
    """The background; big quiet shapes, with the most telling ones at the sides where the figure does not hide them."""
    shift = rng.uniform(-5, 5)
    side = rng.choice((-1, 1))

    def at(x: float) -> float:
        """Mirrored at random, so that the sun is not always in the same corner."""
        return 64 + side * (x - 64) + shift

    if place == "stairs":
        _gradient(image, pen, 0, 30, _vary(rng, (150, 205, 245)), (205, 232, 250))
        board = _vary(rng, (196, 132, 72), 12)
        pen.box(-2, 26, 130, 31, _shade(board, 0.8))
        pen.box(-2, 44, 130, 49, _shade(board, 0.8))
        for i in range(-1, 8):
            x = i * 18 + shift
            pen.poly([(x, 60), (x, 18), (x + 7, 12), (x + 14, 18), (x + 14, 60)], board)
        stone = _vary(rng, (186, 184, 190), 10)
        for i in range(5):
            y = 56 + i * 15
            pen.box(-2, y, 130, y + 9, _shade(stone, 1.25))
            pen.box(-2, y + 9, 130, y + 16, _shade(stone, 0.76))
    elif place == "field":
        _gradient(image, pen, 0, 72, _vary(rng, (118, 196, 250)), (206, 236, 255))
        _cloud(pen, at(26), 20 + rng.uniform(-4, 4))
        _cloud(pen, at(106), 34 + rng.uniform(-4, 4), 0.75)
        _gradient(image, pen, 70, 128, _vary(rng, (134, 208, 86), 10), (84, 170, 62))
        blade = (56, 140, 52)
        for x, y in ((14, 90), (110, 86), (30, 116), (104, 118)):
            x, y = at(x), y + rng.uniform(-3, 3)
            for dx in (-6, 0, 6):
                pen.poly([(x - 3 + dx * 0.4, y), (x + dx, y - 12 + abs(dx) * 0.5), (x + 3 + dx * 0.4, y)], blade, None)
    elif place == "snow":
        _gradient(image, pen, 0, 80, _vary(rng, (158, 180, 214)), (206, 218, 236))
        fir = _vary(rng, (58, 112, 92))
        _fir(pen, at(14), 84, 1.15, fir)
        _fir(pen, at(114), 80, 1.0, fir)
        pen.oval(64 + shift, 168, 150, 94, (240, 246, 254))
        pen.oval(64 + side * 50, 150, 90, 52, (252, 253, 255))
        for x, y in ((34, 14), (60, 6), (92, 14), (36, 42), (98, 36), (8, 24), (122, 58), (66, 30)):
            pen.oval(x + rng.uniform(-5, 5), y + rng.uniform(-5, 5), 2.4, 2.4, (255, 255, 255), None)
    elif place == "beach":
        _gradient(image, pen, 0, 50, _vary(rng, (108, 198, 252)), (196, 234, 252))
        pen.oval(at(22), 20 + rng.uniform(-3, 3), 12, 12, (255, 222, 70))
        pen.box(-2, 48, 130, 84, _vary(rng, (38, 134, 206)))
        pen.box(-2, 58, 130, 64, (96, 184, 232), None)
        pen.box(-2, 73, 130, 79, (140, 212, 240), None)
        boat = at(106)
        pen.poly([(boat - 11, 49), (boat + 11, 49), (boat + 7, 55), (boat - 7, 55)], (150, 84, 56))
        pen.poly([(boat - 1, 46), (boat - 1, 26), (boat + 11, 46)], (255, 255, 250))
        _gradient(image, pen, 82, 128, _vary(rng, (250, 226, 164)), (236, 202, 132))
    elif place == "street":
        _gradient(image, pen, 0, 90, _vary(rng, (176, 200, 224)), (222, 228, 234))
        walls = [(178, 104, 88), (112, 124, 156), (206, 160, 112), (134, 118, 140)]
        rng.shuffle(walls)
        for i, wall in enumerate(walls):
            x = i * 34 - 6 + shift
            top = rng.uniform(8, 30)
            pen.box(x, top, x + 32, 92, _vary(rng, wall))
            for row in range(4):
                for col in range(2):
                    y = top + 8 + row * 18
                    if y < 84:
                        pen.box(x + 5 + col * 13, y, x + 14 + col * 13, y + 10, (255, 232, 150), None)
        pen.box(-2, 90, 130, 98, (184, 182, 184))
        pen.box(-2, 98, 130, 130, _vary(rng, (96, 98, 106), 6))
        for i in range(-1, 4):
            pen.box(i * 44 + shift, 112, i * 44 + 24 + shift, 117, (244, 244, 240), None)
    elif place == "room":
        _gradient(image, pen, 0, 92, _vary(rng, (252, 226, 200), 10), (246, 214, 186))
        x = at(22)
        pen.box(x - 19, 12, x + 19, 56, (134, 86, 54))
        pen.box(x - 15, 16, x + 15, 52, (168, 218, 248))
        pen.box(x - 2, 16, x + 2, 52, (134, 86, 54), None)
        pen.box(x - 15, 32, x + 15, 36, (134, 86, 54), None)
        x = at(108)
        pen.box(x - 15, 18, x + 15, 44, (122, 76, 50))
        pen.box(x - 11, 22, x + 11, 40, (238, 206, 130))
        pen.chord(x, 41, 11, 11, 180, 360, (110, 160, 120))
        pen.box(-2, 90, 130, 96, (255, 248, 238))
        floor = _vary(rng, (184, 118, 70), 10)
        for i in range(3):
            pen.box(-2, 96 + i * 11, 130, 108 + i * 11, _shade(floor, 1.0 - 0.09 * (i % 2)))
    elif place == "night":
        _gradient(image, pen, 0, 112, _vary(rng, (26, 32, 92), 6), (72, 80, 156))
        x, y = at(106), 22 + rng.uniform(-3, 3)
        # A crescent: the circles of radius 13 and 11, centres 7 apart, meet at 122 and 90 degrees.
        outer = [(x + side * 13 * math.cos(math.radians(a)), y + 13 * math.sin(math.radians(a))) for a in range(-122, 123, 8)]
        inner = [(x + side * (11 * math.cos(math.radians(a)) - 7), y + 11 * math.sin(math.radians(a))) for a in range(82, -83, -8)]
        pen.poly(outer + inner, (255, 240, 176))
        for sx, sy in ((16, 18), (44, 8), (12, 54), (82, 10), (116, 60), (28, 36)):
            sx, sy = at(sx) + rng.uniform(-3, 3), sy + rng.uniform(-3, 3)
            rays = [(5.0 if i % 2 == 0 else 2.2, i * math.pi / 4) for i in range(8)]
            pen.poly([(sx + r * math.sin(t), sy - r * math.cos(t)) for r, t in rays], (255, 246, 190), None)
        pen.oval(64 + side * 40, 158, 130, 68, (44, 84, 84))
        pen.oval(64 - side * 50, 166, 120, 66, (54, 100, 92))
    else:
        _gradient(image, pen, 0, 92, _vary(rng, (150, 204, 252)), (224, 238, 252))
        rock = _vary(rng, (116, 124, 150), 10)
        for x, peak, half, factor in ((64, 30, 54, 1.2), (16, 10, 50, 1.0), (112, 18, 48, 0.92)):
            x, foot = at(x), 96
            pen.poly([(x - half, foot), (x, peak), (x + half, foot)], _shade(rock, factor))
            low, reach = peak + 22, 22 * half / (foot - peak)
            snow = [(x - reach, low), (x, peak), (x + reach, low), (x + 4, low - 6), (x - 4, low + 3)]
            pen.poly(snow, (252, 253, 255))
        _gradient(image, pen, 90, 128, _vary(rng, (142, 190, 100), 10), (106, 158, 80))


# ---------------------------------------------------------------------------------------------------- people


@dataclass(frozen=True)
class _Body:
    """Proportions; x from the middle of the figure, y from the feet, upwards negative."""

    shoulder: float
    waist: float
    hip: float
    long: float  # hem of dress and coat
    width: float  # half width of the shoulders
    head: float
    rx: float
    ry: float
    arm: float
    leg: float
    child: bool = False


_BODIES = {
    "woman": _Body(-66, -46, -37, -19, 17, -86, 19.5, 18.5, 5.2, 5.6),
    "man": _Body(-66, -46, -34, -20, 23, -86, 19.5, 18.5, 6.4, 7.2),
    "girl": _Body(-44, -30, -22, -11, 14, -61, 20, 18.5, 4.6, 5.2, True),
    "boy": _Body(-44, -30, -20, -12, 15.5, -61, 20, 18.5, 4.8, 5.6, True),
}


@dataclass
class _Garment:
    """A garment as half widths at heights, from top to bottom; slices of it make bands that follow its form."""

    profile: list[tuple[float, float]]
    pen: _Pen
    colour: Colour
    edge: float = 0.9
    _points: list[Point] = field(default_factory=list)

    def half(self, y: float) -> float:
        """The half width at a height."""
        for (y0, w0), (y1, w1) in zip(self.profile, self.profile[1:], strict=False):
            if y0 <= y <= y1:
                return w0 + (w1 - w0) * (y - y0) / ((y1 - y0) or 1)
        return self.profile[-1][1]

    def fill(self) -> None:
        """The whole garment in its colour."""
        self.pen.poly([(w, y) for y, w in self.profile] + [(-w, y) for y, w in reversed(self.profile)], self.colour, self.edge)

    def band(self, y0: float, y1: float, colour: Colour, inset: float = 0.8) -> None:
        """A horizontal band over the full width; the inset keeps the garment's rim."""
        inner = [y for y, _ in self.profile if y0 < y < y1]
        rows = [y0, *inner, y1]
        right = [(self.half(y) - inset, y) for y in rows]
        self.pen.poly(right + [(-x, y) for x, y in reversed(right)], colour, None)


def _rosette(pen: _Pen, x: float, y: float, r: float, outer: Colour, heart: Colour) -> None:
    pen.oval(x, y, r, r, outer, None)
    pen.oval(x, y, r * 0.5, r * 0.5, heart, None)


def _decorate(garment: _Garment, scene: Scene, rng: random.Random) -> None:
    """The pattern on a garment; the base colour keeps the larger area."""
    pen, base = garment.pen, scene.colour or "red"
    top, bottom = garment.profile[0][0] + 3, garment.profile[-1][0]
    if scene.pattern == "striped":
        accent = _RGB[rng.choice(_ACCENTS[base])]
        y = top + 4
        while y + 3.6 < bottom - 1:
            garment.band(y, y + 3.6, accent)
            y += 7.8
    elif scene.pattern == "dotted":
        accent = _RGB[rng.choice(_ACCENTS[base])]
        row, y = 0, top + 5
        while y < bottom - 3:
            reach = garment.half(y) - 3.4
            x = 0.0 if row % 2 else 5.0
            while x <= reach:
                for px in {x, -x}:
                    pen.oval(px, y, 2.3, 2.3, accent, None)
                x += 10
            row, y = row + 1, y + 7.5
    elif scene.pattern == "embroidered":
        band, outer, heart = (_RGB[name] for name in _ORNAMENTS[base])
        hem = bottom - 8.5
        garment.band(hem, bottom - 1.5, band)
        reach = int((garment.half(hem + 4) - 4) // 9)
        for i in range(-reach, reach + 1):
            _rosette(pen, i * 9, hem + 3.5, 3.1, outer, heart)
        chest = top + (hem - top) * 0.4
        _rosette(pen, 0, chest, 5.2, band, outer)
        for px in (-9.5, 9.5):
            _rosette(pen, px, chest - 0.5, 3.2, outer, heart)


def _body_profile(body: _Body, hem: float, flare: float, waist: float = 0.92) -> list[tuple[float, float]]:
    """A torso with rounded shoulders that narrows a little at the waist and ends at hem, flare wide."""
    w = body.width
    return [(body.shoulder - 2, w * 0.45), (body.shoulder, w * 0.8), (body.shoulder + 4, w), (body.waist, w * waist), (hem, flare)]


def _arms(pen: _Pen, body: _Body, raised: int, sleeve: Colour, cuff: Colour | None, skin: Colour, wide: float = 0.0) -> None:
    """Both arms; raised is -1 or 1 for the arm that waves, 0 for none."""
    length = 17 if body.child else 26
    for s in (-1, 1):
        start = (s * (body.width - 3), body.shoulder + 5)
        angle = (-0.5 if body.child else -0.85) if raised == s else 1.12
        ux, uy = s * math.cos(angle), math.sin(angle)

        def along(t: float, across: float = 0.0, ux: float = ux, uy: float = uy, start: Point = start) -> Point:
            """A point of the arm: t along it, some way across."""
            return start[0] + ux * t - uy * across, start[1] + uy * t + ux * across

        end_r = body.arm + wide
        pen.limb(start, along(length - end_r * 0.4), body.arm, end_r, sleeve, 0.9)
        tip = length + end_r * 0.6
        pen.oval(*along(tip + 1.2), body.arm * 0.98, body.arm * 0.98, skin, 0.6)
        if cuff:
            pen.poly([along(tip - 5, end_r), along(tip - 1, end_r), along(tip - 1, -end_r), along(tip - 5, -end_r)], cuff, 0.4)


def _legs(pen: _Pen, body: _Body, upper: Colour, shoe: Colour, sock: Colour | None = None) -> None:
    """Legs and shoes; with socks the lower part has another colour."""
    x = body.leg + 1.6
    for s in (-1, 1):
        pen.box(s * x - body.leg, body.hip - 3, s * x + body.leg, -3, upper)
        if sock:
            pen.box(s * x - body.leg + 0.5, -12 if not body.child else -9, s * x + body.leg - 0.5, -3, sock)
        pen.box(s * x - body.leg - (1.5 if s < 0 else 0.5), -6.5, s * x + body.leg + (1.5 if s > 0 else 0.5), 0, shoe, radius=3)


def _clothes(pen: _Pen, body: _Body, scene: Scene, rng: random.Random, skin: Colour, raised: int) -> None:
    """Ordinary clothes: legs, arms, then the garment with its pattern."""
    base = _vary(rng, _RGB[scene.colour or "red"], 6)
    dark = (76, 72, 84) if scene.colour == "black" else _shade(base, 0.72)
    shoe = rng.choice(((94, 60, 42), (66, 62, 70)))
    trousers = rng.choice(_TROUSERS)
    cuff = None
    if scene.pattern == "embroidered":
        cuff = _RGB[_ORNAMENTS[scene.colour or "red"][0]]
    w = body.width
    if scene.clothing == "dress":
        _legs(pen, body, skin, shoe)
        garment = _Garment(_body_profile(body, body.long, w * 1.78, 0.78), pen, base)
    elif scene.clothing == "coat":
        _legs(pen, body, trousers, shoe)
        garment = _Garment(_body_profile(body, body.long, w * 1.28, 1.04), pen, base)
    else:
        _legs(pen, body, trousers, shoe)
        pen.box(-w * 0.86, body.hip - 6, w * 0.86, body.hip + 5, trousers)
        garment = _Garment(_body_profile(body, body.hip, w * 0.94, 0.96), pen, base)
    _arms(pen, body, raised, base, cuff, skin)
    garment.fill()
    _decorate(garment, scene, rng)
    neck = body.shoulder - 1
    if scene.clothing == "dress":
        if scene.pattern != "embroidered":
            garment.band(body.waist - 1, body.waist + 2.6, dark)
        pen.oval(0, neck, 7, 6.5, skin, None)
    elif scene.clothing == "shirt":
        pen.poly([(-7, neck), (7, neck), (0, neck + 9)], skin, None)
        pen.poly([(-9.5, neck - 1), (-4, neck - 1), (0, neck + 9), (-7, neck + 8)], _shade(base, 0.86) if scene.colour != "black" else dark)
        pen.poly([(9.5, neck - 1), (4, neck - 1), (0, neck + 9), (7, neck + 8)], _shade(base, 0.86) if scene.colour != "black" else dark)
    else:
        # A coat is told from a shirt by its length, the front edge, big lapels and big buttons.
        drop = 9 if body.child else 14
        pen.box(-1.4, neck + drop - 2, 1.4, body.long - 1, dark, None)
        for s in (-1, 1):
            pen.poly([(s * 3, neck - 1), (s * (w * 0.7), neck - 0.5), (s * (w * 0.66), neck + drop * 0.6), (0, neck + drop + 2)], dark)
        if scene.pattern != "embroidered":
            metal = (120, 96, 70) if scene.colour in ("yellow", "white", "pink") else (250, 226, 150)
            steps = 2 if body.child else 3
            span = (body.long - 4) - (neck + drop + 4)
            for i in range(steps):
                y = neck + drop + 5 + span * (i + 0.25) / steps
                for s in (-1, 1):
                    pen.oval(s * 5.4, y, 2.1, 2.1, metal, None)


def _costume(pen: _Pen, body: _Body, scene: Scene, skin: Colour, raised: int) -> None:
    """The folk costume: white wide sleeves with red cuffs, dark vest with roundels, striped apron, woven belt."""
    white, dark = (252, 250, 244), (44, 36, 46)
    opanci = (138, 78, 40)
    female = scene.subject in ("girl", "woman")
    w = body.width
    _legs(pen, body, skin if female else dark, opanci, _RED if female else white)
    if female:
        skirt = _Garment([(body.waist, w * 0.85), (body.long, w * 1.72)], pen, (66, 26, 48))
        skirt.fill()
        skirt.band(body.long - 3.5, body.long - 0.5, white)
    else:
        pen.box(-w * 0.9, body.waist, w * 0.9, body.hip + 5, dark)
    _arms(pen, body, raised, white, _RED, skin, wide=1.6)
    blouse = _Garment(_body_profile(body, body.waist, w * 0.88), pen, white)
    blouse.fill()
    gap = 3.4 if body.child else 4.6
    top, low = body.shoulder - 1, body.waist
    for s in (-1, 1):
        pen.poly(
            [
                (s * (gap + 3), top),
                (s * w * 0.82, top + 1),
                (s * w * 0.95, top + 6),
                (s * w * 0.9, low),
                (s * gap, low),
                (s * gap, top + 8),
            ],
            _WINE,
        )
        mid = (gap + w * 0.93) / 2
        r = 2.5 if body.child else 3.3
        for y in ((top + low) / 2 - r * 0.6, low - r - 0.4) if body.child else (top + 7.5, low - 5):
            _rosette(pen, s * mid, y, r, _GOLD, _RED)
    pen.oval(0, top, 6, 4.5, skin, None)
    tall = 4.2 if body.child else 5.0
    hem = body.long - (3.5 if female else 0)
    apron = _Garment([(low, w * 0.62), (hem, w * (0.9 if female else 0.74))], pen, _RED, 0.5)
    apron.fill()
    stripes = (_GOLD, _WINE, _RED)
    y, i = low + tall, 0
    while y < hem - 1:
        apron.band(y, min(y + 4.3, hem), stripes[i % 3], 0.4)
        y, i = y + 4.3, i + 1
    pen.box(-w * 0.9, low - 2.2, w * 0.9, low + tall - 1.2, _RED)
    for i in range(-2, 3):
        x = i * w * 0.36
        pen.box(x - w * 0.09, low - 2.2, x + w * 0.09, low + tall - 1.2, white, None)


def _bow(pen: _Pen, x: float, y: float, colour: Colour) -> None:
    for s in (-1, 1):
        pen.poly([(x, y), (x + s * 7.5, y - 5), (x + s * 7.5, y + 5)], colour, 0.6)
    pen.oval(x, y, 2.6, 2.6, _shade(colour, 0.8), None)


def _hair_behind(pen: _Pen, body: _Body, scene: Scene, hair: Colour, bow: Colour) -> None:
    """What lies behind body and head: the long hair and the pigtails."""
    h = body.head
    if scene.subject == "woman":
        pen.box(-23.5, h - 12, 23.5, h + 36, hair, 0.6, radius=11)
    elif scene.subject == "girl":
        for s in (-1, 1):
            pen.limb((s * 24, h - 1), (s * 29, h + 19), 6.6, 4.6, hair, 0.6)
            _bow(pen, s * 22.5, h - 4, bow)


def _face(pen: _Pen, body: _Body, scene: Scene, skin: Colour, hair: Colour, *, spiky: bool) -> None:
    """Head, hair around the face, eyes, blush, mouth; the man's beard, the woman's lips and earrings."""
    h, rx, ry = body.head, body.rx, body.ry
    subject = scene.subject
    ink = (42, 32, 38)
    if subject == "woman":
        for s in (-1, 1):  # locks in front of the shoulders stay visible over every garment
            pen.limb((s * 20, h + 2), (s * 19, h + 31), 5.4, 4.2, hair, 0.6)
    pen.oval(0, h - 2, rx + 2.2, ry + 2, hair, 0.6)
    if subject in ("man", "boy"):
        for s in (-1, 1):
            pen.oval(s * (rx + 0.5), h + 3, 4, 4.6, skin)
    pen.oval(0, h + 1, rx - 0.4, ry - 0.6, skin, 0.7)
    blush = _shade(skin, 0.9) if _luma(skin) < 120 else skin
    blush = (min(255, blush[0] + 8), int(blush[1] * 0.84), int(blush[2] * 0.86))
    if subject == "man":
        pen.chord(0, h + 3.5, rx + 0.4, ry + 1.2, 4, 176, hair, 0.4)
        pen.oval(0, h + 5, 8.5, 4.4, skin, None)
        for s in (-1, 1):
            pen.limb((s * 1.8, h + 8.4), (s * 9.4, h + 7.4), 2.5, 1.6, _shade(hair, 0.82), None)
        pen.chord(0, h + 11.2, 4.4, 4, 0, 180, (196, 72, 76))
    eye_y = h + 1.5 if subject == "man" else h + 3
    for s in (-1, 1):
        if subject != "man":
            pen.oval(s * 12.6, h + 8.2, 4, 2.8, blush, None)
        pen.eye(s * 7.8, eye_y, 2.5, 3.2, ink)
    if subject == "woman":
        pen.chord(0, h + 9.4, 5, 5, 0, 180, (208, 38, 62))
        for s in (-1, 1):
            pen.limb((s * 5.6, eye_y - 7.4), (s * 10, eye_y - 7), 1.2, 1.2, _shade(hair, 0.8), None)
            pen.oval(s * 18.2, h + 12, 2.5, 2.8, _GOLD, None)
    elif subject != "man":
        pen.chord(0, h + 9.2, 5.2, 5.4, 0, 180, (178, 52, 62))

    if subject == "girl":
        pen.chord(0, h + 0.6, rx + 0.6, ry + 1, 200, 340, hair)
    elif subject == "woman":  # parted in the middle
        for s in (-1, 1):
            pen.poly(
                [
                    (0, h - ry - 1),
                    (s * 9, h - ry + 1),
                    (s * 17.5, h - 9),
                    (s * 20.5, h + 5),
                    (s * 15.5, h - 3),
                    (s * 7, h - 7),
                    (0, h - ry + 5),
                ],
                hair,
                None,
            )
    elif subject == "boy":
        pen.chord(0, h, rx + 0.8, ry + 1.2, 204, 336, hair)
        if spiky and not scene.costume:
            for i, x in enumerate((-16, -8, 0, 8, 16)):
                foot = h - 9 + (-6 if i in (1, 3) else -8 if i == 2 else 0)
                pen.poly([(x - 6, foot), (x * 1.22, foot - 13), (x + 6, foot)], hair, None)
            for x in (-9, 0, 9):
                pen.poly([(x - 5, h - 8), (x + 5, h - 8), (x + 1, h - 2.5)], hair, None)
    else:
        pen.chord(0, h - 0.4, rx + 1, ry + 1.2, 206, 334, hair)
        for s in (-1, 1):
            pen.limb((s * 8.2 - 2.6, eye_y - 6), (s * 8.2 + 2.6, eye_y - 6), 1.3, 1.3, _shade(hair, 0.8), None)


def _headwear(pen: _Pen, body: _Body, scene: Scene, cap: Colour | None, s: int) -> None:
    """A boy's cap; the wreath or the folk cap that belongs to the costume."""
    h, rx, ry = body.head, body.rx, body.ry
    if scene.costume and scene.subject in ("girl", "woman"):
        leaf = (52, 132, 62)
        flowers = [(s * rx * math.sin(a), h - 4 - (ry - 1) * math.cos(a) * 0.92) for a in (0.5, 1.05) for s in (-1, 1)]
        pen.arc(0, h - 3, rx + 1.5, ry, 195, 345, leaf, 4)
        for i, (x, y) in enumerate([*flowers[2:], *flowers[:2], (0, h - 4 - ry * 0.95)]):
            _rosette(pen, x, y, 5.2, _GOLD if i in (2, 3) else _RED, _RED if i in (2, 3) else _GOLD)
    elif scene.costume:
        dark = (54, 54, 66)
        pen.poly(
            [(-rx - 0.5, h - 7), (-rx + 2, h - 19), (-8, h - 27), (0, h - 24), (8, h - 27), (rx - 2, h - 19), (rx + 0.5, h - 7)], dark, 0.6
        )
        pen.poly(
            [(-rx - 0.5, h - 12), (0, h - 15), (rx + 0.5, h - 12), (rx + 0.5, h - 6.5), (-rx - 0.5, h - 6.5)], _shade(dark, 1.14), None
        )
    elif cap:
        pen.chord(0, h - 5, rx + 2, ry - 0.5, 180, 360, cap, 0.6)
        pen.limb((-s * 6, h - 6), (s * 22, h - 5), 3, 2.6, _shade(cap, 0.8), None)
        pen.oval(0, h - 23, 2.8, 2.4, _shade(cap, 0.8), None)


def _person(pen: _Pen, scene: Scene, rng: random.Random) -> None:
    """A person in front of the place, feet near the bottom edge."""
    body = _BODIES[scene.subject]
    skin = _vary(rng, rng.choice(_SKINS), 5)
    # Hair close to the skin would make the head look bald and hide a beard.
    hair = _vary(rng, rng.choice([c for c in _HAIRS if sum(abs(a - b) for a, b in zip(c, skin, strict=True)) > 115]), 6)
    cap = rng.choice(_TRIMS[:2]) if scene.subject == "boy" and not scene.costume and rng.random() < 0.5 else None
    bow = _RED if scene.costume else rng.choice(_TRIMS)
    raised = rng.choice((0, 0, -1, 1))
    scale = rng.uniform(0.97, 1.03) * (1.03 if body.child else 1.0)
    own = pen.moved(64 + rng.uniform(-8, 8), 123.5 + rng.uniform(-1.5, 1.5), scale)
    own.canvas.ellipse(own._box(0, -1.5, body.width + 9, 3.5), fill=pen.tone((70, 74, 84)) if pen.sketch else _floor_shadow(scene.place))
    _hair_behind(own, body, scene, hair, bow)
    if scene.costume:
        _costume(own, body, scene, skin, raised)
    else:
        _clothes(own, body, scene, rng, skin, raised)
    _face(own, body, scene, skin, hair, spiky=cap is None)
    _headwear(own, body, scene, cap, rng.choice((-1, 1)))


def _floor_shadow(place: str) -> Colour:
    """A shadow under the figure ties it to the ground."""
    return {
        "stairs": (124, 122, 130),
        "field": (66, 138, 54),
        "snow": (206, 216, 234),
        "beach": (208, 172, 108),
        "street": (70, 72, 80),
        "room": (140, 86, 52),
        "night": (34, 70, 68),
        "mountains": (84, 130, 66),
    }[place]


# ---------------------------------------------------------------------------------------------- everything else


def _dog(pen: _Pen, scene: Scene, rng: random.Random) -> None:
    """A standing dog with hanging ears; the particular one has a brown ear, a brown saddle and a red collar."""
    fur = _vary(rng, _FUR_RGB[scene.colour or "brown"], 6)
    shade = _shade(fur, 1.22) if scene.colour == "black" else _shade(fur, 0.84)
    brown = (150, 84, 38)
    ear_far, ear_near = (shade, brown) if scene.particular else (shade, shade)
    collar = _RED if scene.particular else rng.choice(_TRIMS[:2])
    pen.limb((-34, -42), (-46, -62), 5, 3.4, fur, 0.8)
    for x in (-20, 18):
        pen.limb((x, -26), (x, -6), 6, 5.5, shade, 0.8)
    pen.limb((-24, -40), (18, -40), 17, 16, fur, 0.8)
    for x in (-31, 28):
        pen.limb((x, -28), (x, -5), 6.4, 6, fur, 0.8)
        pen.oval(x + 2, -4, 8, 4.4, fur, 0.6)
    pen.limb((-24, -36), (18, -36), 11, 11, fur, None)
    if scene.particular:
        pen.chord(-9, -46, 19, 14, 150, 390, brown)
        pen.oval(-9, -44, 17, 11, brown, None)
    pen.limb((22, -46), (30, -58), 11, 11, fur, None)
    pen.limb((13, -54), (36, -44), 3.4, 3.4, collar, None)
    if scene.particular:
        pen.oval(27, -41, 5, 5, _GOLD, 0.5)
    pen.limb((9, -82), (4, -62), 6, 7.5, ear_far, 0.8)
    pen.oval(27, -72, 21, 19, fur, 0.8)
    pen.oval(38, -64, 14, 10.5, _shade(fur, 1.55) if scene.colour != "white" else (255, 252, 246), 0.5)
    pen.limb((11, -85), (11, -64), 6, 8, ear_near, 0.8)
    ink = (40, 32, 36)
    pen.oval(45, -69, 5, 3.9, ink, None)
    pen.limb((39, -56), (40, -52), 3.4, 3.4, (240, 110, 124), None)
    eyes = (22, 36)
    for x in eyes:
        if scene.colour == "black":
            pen.oval(x, -77, 4.6, 4.8, (250, 246, 238), None)
        pen.eye(x, -76.5, 2.8, 3.2, ink)


def _cat(pen: _Pen, scene: Scene, rng: random.Random) -> None:
    """A sitting cat seen from the front: pointed ears, green eyes, whiskers, curled tail."""
    fur = _vary(rng, _FUR_RGB[scene.colour or "orange"], 6)
    shade = _shade(fur, 1.24) if scene.colour == "black" else _shade(fur, 0.82)
    light = _shade(fur, 1.5)
    pen.arc(30, -28, 15, 26, 250, 450, _shade(shade, 0.95), 8.5)
    pen.oval(0, -26, 27, 28, fur, 0.8)
    pen.oval(0, -26, 13, 19, light, None)
    for s in (-1, 1):
        pen.limb((s * 9, -24), (s * 9, -5), 5.6, 5.6, fur, 0.7)
        pen.oval(s * 10, -4, 8, 4.8, light, 0.6)
        pen.poly([(s * 6, -80), (s * 23, -101), (s * 27, -68)], fur, 0.8)
        pen.poly([(s * 12, -80), (s * 21, -93), (s * 23, -74)], (246, 158, 166), None)
    pen.oval(0, -67, 28, 23, fur, 0.8)
    for x in (-7, 0, 7):
        pen.limb((x, -87), (x * 0.8, -80), 1.8, 1.4, shade, None)
    ink = (36, 30, 34)
    for s in (-1, 1):
        pen.oval(s * 11.5, -68, 6, 6.4, (126, 206, 70), None)
        pen.eye(s * 11.5, -68, 2.7, 4.8, ink)
        pen.oval(s * 5, -56, 6.5, 5, light, None)
        whisker = (232, 230, 232) if scene.colour == "black" else (120, 104, 98)
        for dy in (-3, 3):
            pen.limb((s * 15, -57 + dy * 0.4), (s * 33, -57 + dy * 1.4), 1.0, 0.9, whisker, None)
    pen.poly([(-4, -62), (4, -62), (0, -57.5)], (236, 110, 124), None)


def _car(pen: _Pen, scene: Scene, rng: random.Random) -> None:
    """A small round car from the side."""
    base = _vary(rng, _RGB[scene.colour or "red"], 6)
    glass, rubber = (186, 226, 246), (44, 44, 50)
    d = rng.choice((-1, 1))

    def span(x0: float, x1: float) -> tuple[float, float]:
        return (x0, x1) if d > 0 else (-x1, -x0)

    pen.poly([(d * x, y) for x, y in ((-36, -42), (-25, -64), (14, -64), (31, -42))], base, 0.9)
    left, right = span(-53, 53)
    pen.box(left, -44, right, -13, base, 0.9, radius=10)
    pen.poly([(d * x, y) for x, y in ((-28, -42), (-20, -58), (-7, -58), (-7, -42))], glass)
    pen.poly([(d * x, y) for x, y in ((-1, -42), (-1, -58), (11, -58), (22, -42))], glass)
    pen.box(left + 3, -24, right - 3, -20, (92, 90, 98) if scene.colour == "black" else _shade(base, 0.78), None)
    pen.oval(d * 48, -32, 4.6, 5.2, (255, 244, 170), 0.5)
    x0, x1 = span(-52, -46)
    pen.box(x0, -36, x1, -29, (236, 84, 60), None)
    x0, x1 = span(-6, 3)
    pen.box(x0, -36, x1, -32.6, (226, 226, 226), None)
    for x in (-30, 30):
        pen.oval(x, -13, 13, 13, rubber, 0.5)
        pen.oval(x, -13, 6, 6, (206, 208, 214), None)


def _house(pen: _Pen, scene: Scene, rng: random.Random) -> None:
    """A house with a pitched roof, chimney, door and two windows."""
    base = _vary(rng, _RGB[scene.colour or "red"], 6)
    roof = rng.choice(((150, 74, 54), (120, 86, 78)))
    d = rng.choice((-1, 1))
    pen.box(min(d * 19, d * 31), -102, max(d * 19, d * 31), -74, _shade(roof, 0.82))
    pen.box(-42, -64, 42, 0, base, 0.9)
    pen.poly([(-53, -60), (0, -106), (53, -60)], roof, 0.9)
    frame, glass = (255, 252, 244) if scene.colour not in ("white", "yellow") else (142, 96, 66), (160, 214, 246)
    for x in (-27, 27):
        pen.box(x - 11, -50, x + 11, -27, frame)
        pen.box(x - 8, -47, x + 8, -30, glass)
        pen.box(x - 1.5, -47, x + 1.5, -30, frame, None)
    pen.box(-10, -36, 10, 0, (112, 70, 44), 0.6, radius=3)
    pen.oval(5, -17, 2, 2, _GOLD, None)


def _tree(pen: _Pen, scene: Scene, rng: random.Random) -> None:
    """A round tree; green, with or without apples."""
    leaf = _vary(rng, rng.choice(((66, 156, 62), (96, 172, 58), (46, 132, 74))), 8)
    trunk = (124, 82, 50)
    pen.poly([(-8, -56), (8, -56), (13, 0), (-13, 0)], trunk, 0.8)
    pen.oval(0, -70, 38, 34, _shade(leaf, 0.86))
    for x, y, r in ((-24, -66, 21), (24, -66, 21), (0, -84, 25), (0, -60, 20)):
        pen.oval(x, y, r, r * 0.94, leaf, None)
    for x, y, r in ((-10, -88, 9), (18, -74, 8), (-22, -66, 7)):
        pen.oval(x, y, r, r * 0.8, _shade(leaf, 1.22), None)
    if rng.random() < 0.4:
        for x, y in ((-26, -76), (-8, -62), (14, -90), (28, -60), (6, -74)):
            pen.oval(x, y, 3.6, 3.6, (226, 50, 48), None)


_THINGS = {"dog": _dog, "cat": _cat, "car": _car, "house": _house, "tree": _tree}


def _eight_bit(image: Image.Image) -> Image.Image:
    """Large blocks in few colours."""
    small = image.resize((SIZE // 4, SIZE // 4), Image.Resampling.BOX)
    few = small.quantize(16, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE).convert("RGB")
    return few.resize((SIZE, SIZE), Image.Resampling.NEAREST)


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene: RGB, 128x128, the same for the same scene."""
    sketch = scene.style == "sketch"
    image = Image.new("RGB", (_FULL, _FULL), (_PAPER, _PAPER, _PAPER))
    pen = _Pen(ImageDraw.Draw(image), sketch=sketch)
    pen.blocky = scene.style == "8bit"
    pen.depth, pen.line = 0.15, (196, 196, 196)  # in a sketch the background stays faint
    # Background and figure have their own numbers: a change of clothes leaves the place as it was.
    _place(image, pen, scene.place, random.Random(f"{scene.seed}|place"))
    rng = random.Random(f"{scene.seed}|figure")
    if scene.subject in PEOPLE:
        _person(pen, scene, rng)
    else:
        own = pen.moved(64 + rng.uniform(-6, 6), 121 + rng.uniform(-3, 3), rng.uniform(0.93, 1.04))
        own.canvas.ellipse(own._box(0, -1, 42, 5), fill=pen.tone((70, 74, 84)) if sketch else _floor_shadow(scene.place))
        _THINGS[scene.subject](own, scene, rng)
    small = image.reduce(_SS)
    if sketch:
        small = small.convert("L").convert("RGB")  # the eyes have a tint
    return _eight_bit(small) if scene.style == "8bit" else small
