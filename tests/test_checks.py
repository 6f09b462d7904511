"""What is wrong with which picture is found; mending and editing lose nothing."""

import time

import pytest
from PIL import Image, ImageDraw

from nosnja_gui import dataset
from nosnja_gui.dataset import checks, gallery, mending
from nosnja_gui.dataset.gallery import Conflict, Edit, Filter, Gallery
from nosnja_gui.dataset.inspection import Inspection
from nosnja_gui.settings import UserError


def draw(path, size=(64, 64), seed=1, mode="RGB", **options):
    """A picture with shapes, so that no two of different seeds look alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (40 * seed % 256, 90, 200))
    pencil = ImageDraw.Draw(image)
    for at in range(6):
        left, top = (seed * 37 + at * 53) % size[0], (seed * 71 + at * 29) % size[1]
        pencil.ellipse((left, top, left + size[0] // 3, top + size[1] // 3), fill=(at * 40, seed * 60 % 256, 255 - at * 30))
    image.convert(mode).save(path, **options)
    return path


def kinds(found):
    return {name: [issue.kind for issue in issues] for name, issues in found.items()}


def found_in(folder, resolution=64, captions="a caption of {name}"):
    facts = {path.name: checks.look(path) for path in sorted(folder.iterdir())}
    return kinds(checks.find({name: captions.format(name=name) for name in facts}, facts, resolution))


def test_sound_pictures_have_no_problem(tmp_path):
    for seed in range(8):
        draw(tmp_path / f"{seed}.png", seed=seed)
    assert found_in(tmp_path) == {}


def test_every_problem_is_named(tmp_path):
    draw(tmp_path / "good.png")
    (tmp_path / "twin.png").write_bytes((tmp_path / "good.png").read_bytes())
    Image.open(tmp_path / "good.png").resize((128, 128)).save(tmp_path / "again.jpg", quality=70)
    draw(tmp_path / "small.png", (40, 40), seed=2)
    draw(tmp_path / "long.png", (300, 64), seed=3)
    draw(tmp_path / "print.tif", seed=4, mode="CMYK")
    draw(tmp_path / "grey.png", seed=5, mode="L")
    draw(tmp_path / "colourless.png", seed=6, mode="L")
    Image.open(tmp_path / "colourless.png").convert("RGB").save(tmp_path / "colourless.png")
    Image.new("RGBA", (64, 64), (200, 30, 30, 90)).save(tmp_path / "clear.png")
    Image.new("RGBA", (64, 64), (200, 230, 30, 255)).save(tmp_path / "opaque.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:80])
    assert found_in(tmp_path) == {
        "good.png": ["duplicate", "similar"],
        "twin.png": ["duplicate", "similar"],
        "again.jpg": ["similar"],
        "small.png": ["small"],
        "long.png": ["long"],
        "print.tif": ["colours"],
        "grey.png": ["grey"],
        "colourless.png": ["grey"],
        "clear.png": ["colours"],
        "cut.png": ["damaged"],
    }


def test_captions_are_judged():
    captions = {"a": None, "b": " ", "c": "a girl", "d": "a  girl", "e": "x" * 9}
    found = checks.find(captions, {}, 512, too_long=lambda caption: len(caption) > 8)
    assert kinds(found) == {"a": ["no_caption"], "b": ["no_caption"], "c": ["same_caption"], "d": ["same_caption"], "e": ["long_caption"]}
    assert found["c"][0].others == ("d",)


def test_ten_thousand_pictures_are_judged_quickly(tmp_path):
    one = checks.look(draw(tmp_path / "a.png"))
    facts = {
        f"{number}.png": checks.Facts(500 + number % 300, 700, "rgb", str(number), number * 2654435761 % 2**64, one.areas)
        for number in range(10_000)
    }
    began = time.process_time()
    checks.find({name: f"a girl {name}" for name in facts}, facts, 512)
    assert time.process_time() - began < 1.5


def test_what_was_seen_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    folder, memory = tmp_path / "set", tmp_path / "memory"
    pictures = {f"{seed}.png": draw(folder / f"{seed}.png", seed=seed) for seed in range(4)}
    first = Inspection(folder, memory)
    first.follow(pictures)
    assert first.wait() and set(first.facts) == set(pictures) and first.done == first.total == 4
    first._thread.join(5)
    looked = []
    monkeypatch.setattr("nosnja_gui.dataset.inspection.look", lambda path: looked.append(path.name) or checks.look(path))
    draw(folder / "2.png", (80, 80), seed=9)
    again = Inspection(folder, memory)
    again.follow(pictures)
    assert again.wait() and looked == ["2.png"] and again.facts["2.png"].width == 80
    again._thread.join(5)
    next(memory.iterdir()).write_text("{broken")
    lost = Inspection(folder, memory)
    lost.follow(pictures)
    assert lost.wait() and len(lost.facts) == 4
    lost._thread.join(5)


# mending


def test_left_out_pictures_come_back_with_their_captions(tmp_path):
    for name in ("a.png", "b.png"):
        draw(tmp_path / name)
    (tmp_path / "a.txt").write_text("a girl\n")
    moved = mending.leave_out(dataset.read(tmp_path), ["a.png"])
    assert (
        moved == ["a.png"]
        and [picture.name for picture in dataset.read(tmp_path).pictures] == ["b.png"]
        and not (tmp_path / "a.txt").exists()
    )
    draw(tmp_path / "a.png", seed=7)
    assert mending.put_back(tmp_path, moved) == ["a-2.png"] and (tmp_path / "a-2.txt").read_text() == "a girl\n"
    assert mending.left_out(tmp_path) == {}
    for names in (["x.png"], ["../b.png"], ["a.txt"]):
        with pytest.raises(UserError):
            mending.leave_out(dataset.read(tmp_path), names)
        with pytest.raises(UserError):
            mending.put_back(tmp_path, names)


def test_a_caption_that_two_pictures_share_stays(tmp_path):
    for name in ("a.png", "a.jpg"):
        draw(tmp_path / name)
    (tmp_path / "a.txt").write_text("shared")
    mending.leave_out(dataset.read(tmp_path), ["a.jpg"])
    assert dataset.read(tmp_path).captions() == {"a.png": "shared"}


@pytest.mark.parametrize("layout", ["txt", "jsonl"])
def test_converted_pictures_keep_their_captions_and_originals(tmp_path, layout):
    draw(tmp_path / "a.tif", mode="CMYK")
    draw(tmp_path / "a.png", seed=3)
    draw(tmp_path / "b.png")
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "b.png")
    if layout == "txt":
        (tmp_path / "a.tif.txt").write_text("printed")
    else:
        (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.tif", "text": "printed"}\n')
    before = (tmp_path / "a.tif").read_bytes()
    renamed = mending.convert(dataset.read(tmp_path), ["a.tif", "b.png"])
    assert renamed == {"a.tif": "a-2.png", "b.png": "b.png"}
    assert dataset.read(tmp_path).captions() == {"a-2.png": "printed"}
    assert (tmp_path / ".nosnja" / "originals" / "a.tif").read_bytes() == before
    with Image.open(tmp_path / "b.png") as image:
        assert image.mode == "RGB" and image.getpixel((5, 5)) == (255, 255, 255)
    assert not list(tmp_path.glob(".*.new"))


# looking through and editing


@pytest.fixture
def opened(tmp_path):
    for seed, name in enumerate(("a.png", "b.png", "c.png", "d.png")):
        draw(tmp_path / "set" / name, seed=seed)
    for name, caption in (("a", "a girl in a dress, stairs"), ("b", "a boy, red stairs"), ("c", "the girl's cat")):
        (tmp_path / "set" / f"{name}.txt").write_text(caption)
    made = Gallery(tmp_path / "set", tmp_path / "memory")
    made.dataset()
    assert made.inspection.wait()
    yield made
    made.inspection.close()
    if made.inspection._thread is not None:
        made.inspection._thread.join(5)


def shown(opened, **wanted):
    return "".join(picture.name[0] for picture in opened.shown(opened.dataset(), Filter(**wanted)))


def test_filters(opened):
    assert (
        shown(opened) == "abcd"
        and shown(opened, search="GIRL") == "ac"
        and shown(opened, search="girl b.png") == ""
        and shown(opened, search="b.png") == "b"
    )
    assert shown(opened, tag="stairs") == "a" and shown(opened, word="stairs") == "ab" and shown(opened, word="girl's") == "c"
    assert shown(opened, show="no_caption") == "d" and shown(opened, show="captioned") == "abc" and shown(opened, show="small") == ""
    opened.resolution = 512
    assert shown(opened, show="small") == "abcd" and opened.counts(opened.dataset())["small"] == 4
    with pytest.raises(UserError, match="no filter"):
        shown(opened, show="x")


def test_small_sets_are_judged_by_their_own_size(opened):
    assert opened.side() == 64


def test_tags_and_words_are_counted(opened):
    pictures = opened.dataset().pictures
    assert gallery.counted(pictures, "tag")[0][1] == 1 and ("stairs", 1) in gallery.counted(pictures, "tag")
    assert dict(gallery.counted(pictures, "word"))["a"] == 2 and dict(gallery.counted(pictures, "word"))["girl"] == 1


@pytest.mark.parametrize(
    ("edit", "before", "after"),
    [
        (Edit(find="dress", replacement="nosnjaoutfit"), "a Dress, dresses", "a nosnjaoutfit, nosnjaoutfites"),
        (Edit(find="dress", replacement="T", whole_words=True), "a Dress, dresses", "a T, dresses"),
        (Edit(find="Dress", replacement="T", same_case=True), "a Dress, dress", "a T, dress"),
        (Edit(find="a.b", replacement=r"\1\g<0>"), "a.b axb", r"\1\g<0> axb"),
        (Edit(find=", x", replacement="", whole_words=True), "a, x, xy", "a, xy"),
        (Edit(prepend="t, ", append=", light"), "a girl", "t, a girl, light"),
        (Edit(prepend="t, "), "t, a girl", "t, a girl"),
        (Edit(find="čardak", replacement="house"), "a Čardak", "a house"),
    ],
)
def test_edits(edit, before, after):
    assert edit(before) == after


def test_an_edit_of_many_is_planned_written_and_undone(opened):
    edit = Edit(find="girl", replacement="woman", whole_words=True)
    changes = opened.plan(edit, opened.dataset().pictures)
    assert [(change.name, change.after) for change in changes] == [("a.png", "a woman in a dress, stairs"), ("c.png", "the woman's cat")]
    assert opened.dataset().captions()["a.png"] == "a girl in a dress, stairs"
    assert opened.apply(changes, "find and replace") == 2 and shown(opened, word="woman") == "a"
    assert opened.undo() == "find and replace" and shown(opened, word="woman") == ""
    (opened.folder / "c.txt").write_text("theirs")
    with pytest.raises(UserError, match="changed elsewhere"):
        opened.apply(changes, "late")
    assert opened.dataset().captions()["a.png"] == "a girl in a dress, stairs"


def test_what_is_typed_at_one_picture_is_one_change(opened):
    before = opened.dataset().captions()
    caption, version = opened.save("d.png", "a", None)
    caption, version = opened.save("d.png", "a cat ", caption, version)
    assert caption == "a cat" and [entry.note for entry in dataset.versions(opened.folder)] == ["caption of d.png"]
    _, other = opened.save("a.png", "new", before["a.png"], version)
    assert other != version and len(dataset.versions(opened.folder)) == 2
    opened.undo()
    opened.undo()
    assert opened.dataset().captions() == before and opened.save("d.png", "", None, version) == ("", version)


def test_another_picture_is_another_change(opened):
    before = opened.dataset().captions()
    opened.save("a.png", "one", before["a.png"])
    opened.save("b.png", "two", before["b.png"])
    assert opened.undo() == "caption of b.png" and opened.dataset().captions()["a.png"] == "one"
    _, version = opened.save("a.png", "three", "one")
    opened.save("b.png", "four", before["b.png"])
    opened.save("a.png", "five", "three", version)
    assert opened.undo() == "caption of a.png" and opened.dataset().captions()["a.png"] == "three"


def test_a_conflict_gives_both_and_loses_nothing(opened):
    before = opened.dataset().captions()["a.png"]
    (opened.folder / "a.txt").write_text("theirs")
    with pytest.raises(Conflict) as caught:
        opened.save("a.png", "mine", before)
    assert caught.value.theirs == "theirs" and (opened.folder / "a.txt").read_text() == "theirs"
    assert opened.save("a.png", "mine", "theirs")[0] == "mine" and (opened.folder / "a.txt").read_text() == "mine\n"
    with pytest.raises(UserError, match="no picture"):
        opened.save("../a.png", "x", None)
