"""The drawn world: pictures are reproducible, captions are true, held-out combinations stay held out."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from itertools import product

import pytest

from nosnja_gui.demo import world
from nosnja_gui.demo.world import Scene


def _key(scene: Scene) -> tuple[str | None, ...]:
    return scene.subject, scene.clothing, scene.colour, scene.place


def _scenes(count: int, seed: int = 1, **options: object) -> list[Scene]:
    rng = random.Random(seed)
    return [world.random_scene(rng, **options) for _ in range(count)]  # type: ignore[arg-type]


@pytest.mark.parametrize("style", world.STYLES)
def test_same_scene_same_picture(style: str) -> None:
    for scene in _scenes(12, style=style):
        first, second = world.draw(scene), world.draw(replace(scene))
        assert first.size == (world.SIZE, world.SIZE) and first.mode == "RGB"
        assert first.tobytes() == second.tobytes()


def test_seed_changes_the_picture() -> None:
    for scene in _scenes(12):
        assert world.draw(scene).tobytes() != world.draw(replace(scene, seed=scene.seed + 1)).tobytes()


def test_held_out_share() -> None:
    combinations = [
        Scene(person, colour, clothing, "plain", place, "flat", False, 0)
        for person in world.PEOPLE
        for colour, clothing, place in product(world.COLOURS, world.clothes_of(person), world.PLACES)
    ]
    assert 0.05 < sum(map(world.is_held_out, combinations)) / len(combinations) < 0.15


def test_held_out_and_training_are_disjoint() -> None:
    train, held = _scenes(3000), _scenes(3000, seed=2, held_out=True)
    assert not any(map(world.is_held_out, train)) and all(map(world.is_held_out, held))
    assert not {_key(scene) for scene in train if scene.subject in world.PEOPLE} & {_key(scene) for scene in held}
    assert all(scene.subject in world.PEOPLE for scene in held)


def test_random_scenes_are_as_ordered() -> None:
    scenes = _scenes(3000)
    people = [scene for scene in scenes if scene.subject in world.PEOPLE]
    assert not any(scene.costume or scene.particular for scene in scenes)
    assert 0.65 < len(people) / len(scenes) < 0.75
    assert 0.25 < sum(scene.pattern != "plain" for scene in people) / len(people) < 0.35
    assert 0.09 < sum(scene.style == "sketch" for scene in scenes) / len(scenes) < 0.15
    assert {scene.style for scene in scenes} == {"flat", "sketch"}
    assert {scene.subject for scene in scenes} == set(world.SUBJECTS)
    assert {scene.place for scene in scenes} == set(world.PLACES)
    assert all(scene.clothing in world.clothes_of(scene.subject) for scene in people)
    assert {scene.style for scene in _scenes(20, style="8bit")} == {"8bit"}


def test_caption_names_what_is_shown() -> None:
    for scene in _scenes(500):
        text = world.caption(scene)
        words = text.split()
        assert text == text.lower()
        assert scene.subject in words and text.endswith(world.PLACE_WORDS[scene.place])
        assert scene.clothing is None or scene.clothing in words
        assert (scene.pattern in words) == (scene.pattern != "plain")
        assert text.startswith("a pencil sketch of ") == (scene.style == "sketch")
        if scene.colour:
            assert (scene.colour in words) == (scene.style != "sketch")


@pytest.mark.parametrize(
    ("scene", "text"),
    [
        (Scene("girl", "red", "dress", "plain", "stairs", "flat", False, 1), "a girl in a red dress standing on a set of stairs"),
        (Scene("man", "blue", "coat", "striped", "snow", "8bit", False, 1), "a man in a striped blue coat standing in the snow"),
        (Scene("boy", "blue", "shirt", "embroidered", "room", "flat", False, 1), "a boy in an embroidered blue shirt standing in a room"),
        (
            Scene("girl", "red", "dress", "plain", "night", "sketch", False, 1),
            "a pencil sketch of a girl in a dress standing under a night sky",
        ),
        (Scene("cat", "orange", None, "plain", "field", "flat", False, 1), "an orange cat sitting in a grassy field"),
        (Scene("car", "red", None, "plain", "street", "flat", False, 1), "a red car parked on a city street"),
        (Scene("house", "green", None, "plain", "beach", "flat", False, 1), "a green house on a beach"),
        (Scene("tree", None, None, "plain", "mountains", "flat", False, 1), "a tree in front of mountains"),
        (Scene("woman", None, None, "plain", "stairs", "flat", True, 1), "a woman in a folk costume standing on a set of stairs"),
    ],
)
def test_captions(scene: Scene, text: str) -> None:
    assert world.caption(scene) == text


def test_captions_vary_a_little_with_rng() -> None:
    scene, rng = Scene("girl", "red", "dress", "plain", "stairs", "flat", False, 1), random.Random(3)
    texts = [world.caption(scene, rng) for _ in range(1000)]
    assert 0.75 < texts.count(world.caption(scene)) / 1000 < 0.87
    assert {"a girl in a red dress", "a girl in a dress standing on a set of stairs"} < set(texts)


def test_picture_sets() -> None:
    costumes = world.costume_pictures(30)
    assert len(costumes) == 30 and all(scene.costume and scene.style == "flat" for scene, _ in costumes)
    assert {scene.subject for scene, _ in costumes} == set(world.PEOPLE)
    assert {scene.place for scene, _ in costumes} == set(world.PLACES)
    assert world.costume_pictures(3)[2][1].tobytes() == world.costume_pictures(3)[2][1].tobytes()
    dogs = world.dog_pictures()
    assert len(dogs) == 12 and all(scene.particular and scene.subject == "dog" for scene, _ in dogs)
    assert len(world.style_pictures(7)) == 7


def test_8bit_has_blocks_of_four_pixels() -> None:
    for scene, image in world.style_pictures(10):
        assert scene.style == "8bit"
        small = image.resize((32, 32), 0)
        assert small.resize(image.size, 0).tobytes() == image.tobytes()
        assert len(image.getcolors(1000) or []) <= 16


def test_sketch_is_grey() -> None:
    for scene in _scenes(10, style="sketch"):
        red, green, blue = world.draw(scene).split()
        assert red.tobytes() == green.tobytes() == blue.tobytes()


def test_everything_can_be_drawn() -> None:
    scenes = [
        Scene(person, colour, clothing, pattern, world.PLACES[i % 8], style, False, i)
        for person in world.PEOPLE
        for i, (clothing, pattern, colour) in enumerate(product(world.clothes_of(person), world.PATTERNS, world.COLOURS))
        for style in world.STYLES[: 3 if i % 4 == 0 else 1]
    ]
    scenes += [
        Scene(thing, colour, None, "plain", place, "flat", False, i)
        for thing, colours in (
            ("dog", world.FURS),
            ("cat", world.FURS),
            ("car", world.COLOURS),
            ("house", world.COLOURS),
            ("tree", (None,)),
        )
        for i, (colour, place) in enumerate(product(colours, world.PLACES))
    ]
    scenes += [
        Scene(person, None, None, "plain", place, style, True, 5)
        for person, place, style in product(world.PEOPLE, world.PLACES, world.STYLES)
    ]
    for scene in scenes:
        assert len(world.draw(scene).getcolors(world.SIZE**2) or []) > 5


def test_drawing_is_quick() -> None:
    scenes = _scenes(50)
    start = time.perf_counter()
    for scene in scenes:
        world.draw(scene)
    assert (time.perf_counter() - start) / 50 < 0.1  # about 1 ms in fact; this only catches a slip of a hundredfold
