import json
import os
import stat

import pytest
from PIL import Image

from nosnja_gui import dataset
from nosnja_gui.dataset import history
from nosnja_gui.settings import UserError


def draw(path, width=40, height=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "red").save(path)
    return path


def folder_of(tmp_path, *names):
    for name in names:
        draw(tmp_path / name)
    return tmp_path


def captions_of(folder, *more):
    return dataset.read(folder, *more).captions()


# reading


def test_pictures_with_txt_captions_come_in_natural_order(tmp_path):
    folder_of(tmp_path, "10.png", "2.jpg", "a.webp")
    (tmp_path / "2.txt").write_text("a girl\n")
    (tmp_path / "a.txt").write_text("")
    found = dataset.read(tmp_path)
    assert [picture.name for picture in found.pictures] == ["2.jpg", "10.png", "a.webp"]
    assert [picture.caption for picture in found.pictures] == ["a girl", None, ""]
    assert found.layout == "txt" and found.captions_file is None and found.problems == ()
    assert (found.pictures[0].width, found.pictures[0].height, found.pictures[0].path) == (40, 30, tmp_path / "2.jpg")


@pytest.mark.parametrize(
    ("data", "caption"),
    [
        ("a čardak".encode(), "a čardak"),
        ("a čardak".encode("utf-8-sig"), "a čardak"),
        ("a čardak".encode("utf-16"), "a čardak"),
        (b"\xfe\xff" + "a čardak".encode("utf-16-be"), "a čardak"),
        ("a girl’s dress".encode("cp1252"), "a girl’s dress"),
        (b"one\r\ntwo\r\n", "one\ntwo"),
    ],
)
def test_captions_in_any_usual_encoding(tmp_path, data, caption):
    draw(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(data)
    assert captions_of(tmp_path) == {"a.png": caption}


@pytest.mark.parametrize("data", [b"a\0b", b"\x81\x8d", b"x" * 1_000_001, b"\xff\xfea"])
def test_a_caption_that_is_no_text_is_a_problem_and_the_picture_stays(tmp_path, data):
    draw(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(data)
    found = dataset.read(tmp_path)
    assert [picture.caption for picture in found.pictures] == [None]
    assert [(problem.path.name, problem.left_out) for problem in found.problems] == [("a.txt", False)]


@pytest.mark.parametrize("columns", ["file_name,text", "file_name;caption", "image\tprompt", "Filename,id,TEXT"])
def test_metadata_csv(tmp_path, columns):
    folder_of(tmp_path, "1.png", "2.png")
    mark = max(",;\t", key=columns.count)
    middle = f"7{mark}" if "id" in columns else ""
    (tmp_path / "metadata.csv").write_text(f'{columns}\n1.png{mark}{middle}"a girl, in a dress"\n', encoding="utf-8-sig")
    found = dataset.read(tmp_path)
    assert found.captions() == {"1.png": "a girl, in a dress"}
    assert found.layout == "csv" and found.captions_file == tmp_path / "metadata.csv"


def test_metadata_jsonl(tmp_path):
    folder_of(tmp_path, "1.png", "2.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.png", "text": "a girl"}\n\n{"file_name": "2.png"}\n')
    found = dataset.read(tmp_path)
    assert found.captions() == {"1.png": "a girl"} and found.layout == "jsonl"


@pytest.mark.parametrize("key", ["1", "1.png", "/data/train/1.png", "C:\\photos\\1", "./1.png"])
def test_kohya_json_names_pictures_in_many_ways(tmp_path, key):
    folder_of(tmp_path, "1.png", "11.png")
    (tmp_path / "meta_cap.json").write_text(json.dumps({key: {"caption": "a girl"}}))
    (tmp_path / "other.json").write_text('{"settings": {"x": 1}}')
    found = dataset.read(tmp_path)
    assert found.captions() == {"1.png": "a girl"} and found.layout == "kohya_json"


def test_a_json_beside_the_folder_is_found_given_or_read_itself(tmp_path):
    folder = folder_of(tmp_path / "nosnja", "15a.jpg", "2.png")
    folder_of(tmp_path / "cats", "c.png")
    labels = tmp_path / "nosnja_labels_v2.json"
    labels.write_text('{"15a": {"caption": "a girl"}, "2": {"caption": "two girls"}, "99": {"caption": "gone"}}')
    expected = {"2.png": "two girls", "15a.jpg": "a girl"}
    assert captions_of(folder) == captions_of(folder, labels) == captions_of(labels) == expected
    found = dataset.read(labels)
    assert found.folder == folder and found.captions_file == labels
    assert [str(problem) for problem in found.problems] == ["nosnja_labels_v2.json names 1 that are not among the pictures: 99"]


def test_a_path_that_ends_like_two_keys_decides_nothing(tmp_path):
    folder_of(tmp_path, "a.png")
    (tmp_path / "meta.json").write_text('{"/x/a.png": {"caption": "one"}, "/y/a.png": {"caption": "two"}, "b": {"caption": ""}}')
    assert captions_of(tmp_path, tmp_path / "meta.json") == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "1.png,a girl\n"),
        ("metadata.csv", ""),
        ("metadata.csv", "file_name,text\n1.png,a girl, in a dress\n"),
        ("metadata.jsonl", "{oops\n"),
        ("metadata.jsonl", '{"text": "a girl"}\n'),
    ],
)
def test_a_broken_metadata_file_is_named_in_one_sentence(tmp_path, name, text):
    draw(tmp_path / "1.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as caught:
        dataset.read(tmp_path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"1": 5}', "[" * 100_000])
def test_a_broken_json_that_was_asked_for_is_named(tmp_path, text):
    draw(tmp_path / "1.png")
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json"):
        dataset.read(tmp_path, tmp_path / "x.json")


def test_two_pictures_of_one_stem_are_said_and_both_work(tmp_path):
    folder_of(tmp_path, "a.jpg", "a.png", "b.png")
    (tmp_path / "a.txt").write_text("shared")
    found = dataset.read(tmp_path)
    assert found.captions() == {"a.jpg": "shared", "a.png": "shared"}
    assert [(problem.path.name, problem.left_out) for problem in found.problems] == [("a.txt", False)]
    dataset.write_captions(found, {"a.jpg": "one", "a.png": "two"}, "apart")
    found = dataset.read(tmp_path)
    assert found.captions() == {"a.jpg": "one", "a.png": "two"} and found.problems == ()
    assert (tmp_path / "a.txt").read_text() == "shared"


def test_what_is_no_picture_stays_out(tmp_path):
    draw(tmp_path / "good.png")
    draw(tmp_path / ".hidden.png")
    draw(tmp_path / "._good.png")
    draw(tmp_path / "samples" / "x.png")
    draw(tmp_path / ".nosnja" / "x.png")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "notes.md").write_text("x")
    assert [picture.name for picture in dataset.read(tmp_path).pictures] == ["good.png"]


def test_unusable_pictures_are_named_with_the_reason_and_the_rest_go_on(tmp_path):
    draw(tmp_path / "good.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "page.jpg").write_bytes(b"<html>")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:50])
    (tmp_path / "phone.heic").write_bytes(b"x")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    draw(tmp_path / "thin.png", 500, 1)
    found = dataset.read(tmp_path)
    assert [picture.name for picture in found.pictures] == ["good.png"]
    assert {problem.path.name for problem in found.problems} == {"empty.png", "page.jpg", "cut.png", "phone.heic", "loop.png", "thin.png"}
    assert all(problem.left_out and str(tmp_path) not in str(problem) for problem in found.problems)


def test_odd_names(tmp_path):
    names = ["ž 😀.png", "$(touch x).png", "-rf.png", "<img onerror=x>.png", "two\nlines.png", "x" * 240 + ".png", "trailing .png"]
    folder_of(tmp_path, *names)
    draw(tmp_path / "odd.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    found = dataset.read(tmp_path)
    assert sorted(picture.name for picture in found.pictures) == sorted(names)
    assert ["UTF-8" in problem.reason for problem in found.problems] == [True]
    dataset.write_captions(found, dict.fromkeys(names, "a girl"), "all")
    assert captions_of(tmp_path) == dict.fromkeys(names, "a girl")


def test_kohya_subfolders_are_read(tmp_path):
    folder_of(tmp_path, "10_nosnja dress/a.png", "5_other/a.png")
    (tmp_path / "5_other" / "a.txt").write_text("a girl")
    found = dataset.read(tmp_path)
    assert [picture.name for picture in found.pictures] == ["5_other/a.png", "10_nosnja dress/a.png"]
    dataset.write_captions(found, {"10_nosnja dress/a.png": "a boy"}, "x")
    assert (tmp_path / "10_nosnja dress" / "a.txt").read_text() == "a boy\n"
    assert captions_of(tmp_path) == {"5_other/a.png": "a girl", "10_nosnja dress/a.png": "a boy"}
    assert all("dataset.repeats" in problem.reason and not problem.left_out for problem in found.problems)


def test_missing_empty_and_hopeless_folders(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        dataset.read(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="not a folder"):
        dataset.read(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures"):
        dataset.read(tmp_path / "empty")
    (tmp_path / "empty" / "a.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"No picture .* can be used: a\.png"):
        dataset.read(tmp_path / "empty")
    with pytest.raises(UserError, match="no captions file"):
        dataset.read(tmp_path / "empty", tmp_path / "no.json")


def test_a_stray_caption_and_a_second_layout_are_said(tmp_path):
    folder_of(tmp_path, "a.png")
    (tmp_path / "A.txt").write_text("a girl")
    assert [problem.path.name for problem in dataset.read(tmp_path).problems] == ["A.txt"]
    (tmp_path / "a.txt").write_text("a girl")
    assert dataset.read(tmp_path).problems == ()
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,a boy\n")
    found = dataset.read(tmp_path)
    assert found.captions() == {"a.png": "a boy"} and ".txt" in found.problems[0].reason


def test_a_picture_that_is_mended_is_seen_again(tmp_path):
    draw(tmp_path / "good.png")
    (tmp_path / "a.png").write_bytes(b"x")
    assert len(dataset.read(tmp_path).pictures) == 1
    draw(tmp_path / "a.png")
    assert len(dataset.read(tmp_path).pictures) == 2


# writing

LAYOUTS = {
    "txt": {"a.txt": "a girl", "b.txt": "a boy\n"},
    "csv": {"metadata.csv": 'file_name;id;text\na.png;7;"a; girl"\ngone.png;8;kept\nb.png;9;a boy\n'},
    "jsonl": {"metadata.jsonl": '{"file_name": "a.png", "text": "a girl", "id": 7}\n{"file_name": "b.png", "caption": "a boy"}\n'},
    "kohya_json": {
        "meta.json": '{"a": {"caption": "a girl", "train_resolution": [512, 512]}, "gone": {"tags": "x"}, "/p/b.png": {"tags": "a boy"}}'
    },
}


@pytest.fixture(params=list(LAYOUTS))
def captioned(request, tmp_path):
    """Three pictures, two with captions, in each of the layouts."""
    folder_of(tmp_path, "a.png", "b.png", "c.png")
    for name, text in LAYOUTS[request.param].items():
        (tmp_path / name).write_text(text)
    found = dataset.read(tmp_path)
    assert found.layout == request.param and set(found.captions()) == {"a.png", "b.png"}
    return found


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_captions_are_written_in_the_datasets_layout_and_undone_to_the_byte(captioned):
    before = files(captioned.folder)
    after = {"a.png": 'a čardak, "new"; one', "c.png": "a cat\nin a hat"}
    dataset.write_captions(captioned, after, "by hand")
    again = dataset.read(captioned.folder)
    assert again.captions() == {**after, "b.png": "a boy"} and again.layout == captioned.layout
    dataset.write_captions(again, {"b.png": "a man"}, "second")
    assert [version.note for version in dataset.versions(captioned.folder)] == ["second", "by hand"]
    assert dataset.undo(captioned.folder) == "second"
    assert captions_of(captioned.folder) == {**after, "b.png": "a boy"}
    assert dataset.undo(captioned.folder) == "by hand"
    assert files(captioned.folder) == before
    with pytest.raises(UserError, match="nothing to undo"):
        dataset.undo(captioned.folder)


def test_other_columns_and_rows_stay(captioned):
    dataset.write_captions(captioned, {"a.png": "new", "b.png": "newer"}, "x")
    text = b"".join(content for name, content in files(captioned.folder).items() if not name.endswith(".png")).decode()
    kept = {
        "txt": [],
        "csv": ["a.png;7;new", "gone.png;8;kept"],
        "jsonl": ['"id": 7'],
        "kohya_json": ["train_resolution", '"gone"', '"tags": "newer"'],
    }
    assert all(piece in text for piece in kept[captioned.layout])
    assert "a boy" not in text and "newer" in text


def test_nothing_to_change_makes_no_version(captioned):
    assert dataset.write_captions(captioned, {"b.png": " a boy\r\n"}, "same") is None
    assert dataset.versions(captioned.folder) == []


def test_a_caption_changed_elsewhere_is_not_overwritten(captioned):
    dataset.write_captions(dataset.read(captioned.folder), {"a.png": "theirs"}, "theirs")
    before = files(captioned.folder)
    with pytest.raises(UserError, match=r"'a\.png' has been changed elsewhere"):
        dataset.write_captions(captioned, {"a.png": "mine", "c.png": "mine too"}, "mine")
    assert files(captioned.folder) == before and len(dataset.versions(captioned.folder)) == 1
    dataset.write_captions(captioned, {"b.png": "mine", "a.png": "theirs"}, "mine")
    assert captions_of(captioned.folder) == {"a.png": "theirs", "b.png": "mine"}


def test_unknown_pictures_are_refused(captioned):
    with pytest.raises(UserError, match=r"no picture '\.\./x\.png'"):
        dataset.write_captions(captioned, {"../x.png": "x"}, "x")


def test_several_writes_of_one_job_are_one_version(captioned):
    before = files(captioned.folder)
    version = dataset.write_captions(captioned, {"a.png": "1"}, "job")
    assert dataset.write_captions(captioned, {"c.png": "2"}, "job", version) == version
    assert captions_of(captioned.folder) == {"a.png": "1", "b.png": "a boy", "c.png": "2"}
    assert dataset.undo(captioned.folder) == "job" and files(captioned.folder) == before


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_a_full_disk_changes_nothing(captioned, monkeypatch, fails_at):
    before, calls, real = files(captioned.folder), [], history.write_atomic

    def failing(path, content):
        calls.append(path)
        if len(calls) == fails_at + 1:
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(history, "write_atomic", failing)
    new = {"a.png": "1", "b.png": "2", "c.png": "3"}
    if captioned.layout != "txt" and fails_at == 2:  # one version and one file are all there is to write
        dataset.write_captions(captioned, new, "x")
        return
    with pytest.raises(UserError, match="No space left"):
        dataset.write_captions(captioned, new, "x")
    assert files(captioned.folder) == before


def test_undo_keeps_what_it_replaces(tmp_path):
    draw(tmp_path / "a.png")
    dataset.write_captions(dataset.read(tmp_path), {"a.png": "by the machine"}, "x")
    (tmp_path / "a.txt").write_text("edited by hand")
    dataset.undo(tmp_path)
    assert not (tmp_path / "a.txt").exists()
    assert "edited by hand" in next((tmp_path / ".nosnja" / "undone").glob("*.json")).read_text()


def test_captions_that_are_not_utf8_come_back_as_they_were(tmp_path):
    draw(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"a girl\x92s dress")
    dataset.write_captions(dataset.read(tmp_path), {"a.png": "new"}, "x")
    dataset.undo(tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == b"a girl\x92s dress"


@pytest.mark.parametrize("target", ["../../evil.txt", "/tmp/evil.txt", "x.sh", "../evil.py", "../evil.txt", "a/../../../evil.json"])
def test_a_strangers_version_writes_nowhere_else(tmp_path, target):
    folder = folder_of(tmp_path / "one" / "set", "a.png")
    kept = folder / ".nosnja" / "versions" / "0001.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps({"note": "x", "at": 1, "files": {target: "evil"}}))
    with pytest.raises(UserError, match="nothing was changed"):
        dataset.undo(folder)
    assert not list(tmp_path.rglob("*evil*")) and not (folder / "x.sh").exists()


def test_half_written_versions_are_passed_over(tmp_path):
    draw(tmp_path / "a.png")
    dataset.write_captions(dataset.read(tmp_path), {"a.png": "1"}, "good")
    (tmp_path / ".nosnja" / "versions" / "0002.json").write_bytes(b"")
    assert dataset.undo(tmp_path) == "good"


def test_the_json_beside_is_written_and_undone(tmp_path):
    folder = folder_of(tmp_path / "nosnja", "1.png", "2.png")
    labels = tmp_path / "nosnja.json"
    labels.write_text('{"1": {"caption": "a girl"}}')
    dataset.write_captions(dataset.read(folder), {"1.png": "new", "2.png": "newer"}, "x")
    assert json.loads(labels.read_text()) == {"1": {"caption": "new"}, "2": {"caption": "newer"}}
    dataset.undo(folder)
    assert labels.read_text() == '{"1": {"caption": "a girl"}}'
    dataset.write_captions(dataset.read(labels), {"1.png": "new"}, "y")
    assert dataset.undo(labels) == "y" and labels.read_text() == '{"1": {"caption": "a girl"}}'


def test_written_captions_are_as_readable_as_other_files(tmp_path):
    draw(tmp_path / "a.png")
    dataset.write_captions(dataset.read(tmp_path), {"a.png": "1"}, "x")
    (tmp_path / "plain").write_text("x")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_undo_works_through_links_and_for_captions_that_lie_elsewhere(tmp_path):
    folder = folder_of(tmp_path / "data" / "nosnja", "1.png")
    labels = tmp_path / "data" / "nosnja.json"
    elsewhere = tmp_path / "else" / "labels.json"
    elsewhere.parent.mkdir()
    (tmp_path / "linked").symlink_to(folder)
    for file in (labels, elsewhere):
        file.write_text('{"1": {"caption": "a girl"}}')
    found = dataset.read(tmp_path / "linked")
    assert found.captions_file == labels
    dataset.write_captions(found, {"1.png": "new"}, "linked")
    assert dataset.undo(tmp_path / "linked") == "linked" and "a girl" in labels.read_text()
    dataset.write_captions(dataset.read(folder, elsewhere), {"1.png": "new"}, "elsewhere")
    with pytest.raises(UserError, match="nothing was changed"):
        dataset.undo(folder)
    assert "new" in elsewhere.read_text()
    assert dataset.undo(folder, elsewhere) == "elsewhere" and "a girl" in elsewhere.read_text()


def test_a_strangers_link_leads_an_undo_nowhere_else(tmp_path):
    folder = folder_of(tmp_path / "set", "a.png")
    (tmp_path / "private").mkdir()
    (folder / "sub").symlink_to(tmp_path / "private")
    kept = folder / ".nosnja" / "versions" / "0001.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps({"note": "x", "at": 1, "files": {"sub/evil.txt": "evil"}}))
    with pytest.raises(UserError, match="nothing was changed"):
        dataset.undo(folder)
    assert not list((tmp_path / "private").iterdir())


# large sets


def test_without_a_look_inside_every_file_is_there(tmp_path):
    folder_of(tmp_path, "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    (tmp_path / "b.txt").write_text("a girl")
    found = dataset.read(tmp_path, look_inside=False)
    assert [(picture.name, picture.width) for picture in found.pictures] == [("a.png", 0), ("b.png", 0)] and found.captions() == {
        "b.png": "a girl"
    }
    assert [picture.name for picture in dataset.read(tmp_path).pictures] == ["a.png"]


def test_what_has_not_changed_is_not_read_again_and_every_change_is_seen(tmp_path):
    folder_of(tmp_path, "a.png")
    text = tmp_path / "a.txt"
    text.write_text("one")
    for path in tmp_path.iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))
    first = dataset.read(tmp_path)
    assert dataset.read(tmp_path) is first
    for words in ("two", "six", "ten"):  # as long as before, and within one tick of the clock
        text.write_text(words)
        assert captions_of(tmp_path) == {"a.png": words}
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,table\n")
    assert captions_of(tmp_path) == {"a.png": "table"}


def test_a_long_table_is_kept_compressed_and_comes_back_to_the_byte(tmp_path):
    folder_of(tmp_path, "a.png")
    rows = "".join(f"gone{number}.png,a girl number {number}\n" for number in range(5000))
    table = tmp_path / "metadata.csv"
    table.write_text(f"file_name,text\na.png,a girl\n{rows}")
    before = table.read_bytes()
    dataset.write_captions(dataset.read(tmp_path), {"a.png": "new"}, "x")
    kept = dataset.versions(tmp_path, limit=1)[0].file
    assert kept.stat().st_size < len(before) / 2
    dataset.undo(tmp_path)
    assert table.read_bytes() == before
