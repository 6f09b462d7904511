"""Files and zips from anywhere become a dataset, or are refused with one sentence and nothing left behind."""

import io
import stat
import zipfile

import pytest
from PIL import Image

from nosnja_gui.dataset import importing
from nosnja_gui.dataset.importing import import_files
from nosnja_gui.settings import UserError


def png(colour="red"):
    out = io.BytesIO()
    Image.new("RGB", (20, 20), colour).save(out, "PNG")
    return out.getvalue()


def packed(tmp_path, entries):
    file = tmp_path / "set.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return file


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def imported(tmp_path, entries, name="set"):
    return import_files([("set.zip", packed(tmp_path, entries))], tmp_path / "datasets", name)


def test_files_become_a_dataset(tmp_path):
    (tmp_path / "a").write_bytes(png())
    (tmp_path / "b").write_text("a girl")
    done = import_files(
        [("ž 1.png", tmp_path / "a"), ("ž 1.txt", tmp_path / "b"), ("x.exe", tmp_path / "b")], tmp_path / "datasets", "my set"
    )
    assert (done.pictures, done.captions) == (1, 1) and names(done.folder) == ["ž 1.png", "ž 1.txt"]
    assert done.folder.parent == tmp_path / "datasets" and "x.exe" in done.notes[0]


def test_a_zip_with_folders_and_junk(tmp_path):
    done = imported(
        tmp_path,
        [
            ("my photos/", b""),
            ("my photos/1.png", png()),
            ("my photos/1.txt", b"a girl"),
            ("my photos/10_dress/2.png", png("blue")),
            ("my photos/.DS_Store", b"x"),
            ("__MACOSX/._1.png", b"x"),
            ("labels.json", b"{}"),
        ],
    )
    assert names(done.folder) == ["1.png", "1.txt", "10_dress/2.png", "labels.json"] and done.notes == ()


def test_files_of_a_folder_keep_what_belongs_together(tmp_path):
    (tmp_path / "a").write_bytes(png())
    (tmp_path / "b").write_bytes(png("blue"))
    (tmp_path / "t").write_text("a girl")
    (tmp_path / "u").write_text("a boy")
    given = [
        ("set/10_dress/1.png", "a"),
        ("set/10_dress/1.txt", "t"),
        ("set/other/1.txt", "u"),
        ("set\\other\\1.png", "b"),
        ("../../2.png", "b"),
    ]
    done = import_files([(name, tmp_path / file) for name, file in given], tmp_path / "datasets", "set")
    assert names(done.folder) == ["1.png", "1.txt", "10_dress/1.png", "10_dress/1.txt", "2.png"]
    assert (done.folder / "1.txt").read_text() == "a boy" and (done.folder / "1.png").read_bytes() == png("blue")
    assert (done.folder / "10_dress" / "1.txt").read_text() == "a girl"


def test_the_same_name_in_two_folders_keeps_picture_and_caption_together(tmp_path):
    entries = [("a/1.png", png()), ("b/1.txt", b"second"), ("b/1.png", png("blue")), ("a/1.txt", b"first")]
    folder = imported(tmp_path, entries).folder
    assert (folder / "1.txt").read_text() == "first" and (folder / "1.png").read_bytes() == png()
    assert (folder / "1-2.txt").read_text() == "second" and (folder / "1-2.png").read_bytes() == png("blue")


def test_nothing_is_overwritten(tmp_path):
    folder = imported(tmp_path, [("1.png", png()), ("1.txt", b"first")]).folder
    again = packed(tmp_path, [("1.png", png("blue")), ("1.txt", b"second"), ("2.png", png("green"))])
    done = import_files([("x.zip", again)], tmp_path / "datasets", "", into=folder)
    assert names(folder) == ["1-2.png", "1-2.txt", "1.png", "1.txt", "2.png"] and (done.pictures, done.captions) == (2, 1)
    assert (folder / "1.txt").read_text() == "first" and (folder / "1-2.txt").read_text() == "second"
    assert import_files([("x.zip", packed(tmp_path, [("2.png", png("green"))]))], tmp_path / "datasets", "", into=folder).pictures == 0
    assert imported(tmp_path, [("1.png", png())]).folder.name == "set-2"


@pytest.mark.parametrize(
    "name", ["../evil.png", "a/../../evil.png", "/tmp/evil.png", "C:/evil.png", "C:evil.png", "..\\evil.png", "a\\b.png", "\\\\host\\x.png"]
)
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="leads out of its folder"):
        imported(tmp_path, [("good.png", png()), (name, png())])
    assert list((tmp_path / "datasets").iterdir()) == [] and not list(tmp_path.parent.glob("evil*"))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path, kind):
    entry = zipfile.ZipInfo("link.png")
    entry.external_attr = (kind | 0o777) << 16
    with pytest.raises(UserError, match="link or device"):
        imported(tmp_path, [(entry, b"/etc/passwd")])
    assert list((tmp_path / "datasets").iterdir()) == []


def test_an_encrypted_zip_is_refused(tmp_path):
    file = packed(tmp_path, [("a.png", png())])
    data = bytearray(file.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + at] |= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="encrypted"):
        import_files([("x.zip", file)], tmp_path / "datasets", "x")


def test_a_bomb_is_stopped_by_what_comes_out_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "GROWTH_FREE_BYTES", 1000)
    file = packed(tmp_path, [("a.png", b"\0" * 3_000_000)])
    data = file.read_bytes()
    # What it declares is a lie: nothing of it is believed.
    file.write_bytes(data.replace((3_000_000).to_bytes(4, "little"), (300).to_bytes(4, "little")))
    for given in (data, file.read_bytes()):
        file.write_bytes(given)
        with pytest.raises(UserError, match=r"x\.zip"):
            import_files([("x.zip", file)], tmp_path / "datasets", "x")
    assert list((tmp_path / "datasets").iterdir()) == []


def test_too_many_entries_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "MAXIMUM_ENTRIES", 3)
    with pytest.raises(UserError, match="4 files, at most 3"):
        imported(tmp_path, [(f"{number}.png", b"x") for number in range(4)])


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\x03\x04" + b"\0" * 50])
def test_what_is_no_zip_is_said(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(UserError, match=r"x\.zip is damaged or no zip"):
        import_files([("x.zip", tmp_path / "x")], tmp_path / "datasets", "x")


def test_a_damaged_entry_brings_nothing(tmp_path):
    file = packed(tmp_path, [("a.png", png()), ("b.png", bytes(range(256)) * 40)])
    data = bytearray(file.read_bytes())
    data[data.rindex(b"b.png", 0, data.index(b"PK\x01\x02")) + 30] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        import_files([("x.zip", file)], tmp_path / "datasets", "x")
    assert list((tmp_path / "datasets").iterdir()) == []


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "free_bytes", lambda path: 0)
    with pytest.raises(UserError, match="too full"):
        imported(tmp_path, [("a.png", png())])
    assert list((tmp_path / "datasets").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("a.png", "a.png"),
        ("$(x) 😀 ž.png", "$(x) 😀 ž.png"),
        ("CON.png", "CON-.png"),
        ("a:b?.png", "a-b-.png"),
        ("x. ", "x"),
        ("\n.png", "-.png"),
    ],
)
def test_names_are_made_fit_for_every_system(name, cleaned):
    assert importing.clean(name) == cleaned


def test_long_names_fit_a_file_system():
    assert len(importing.clean("ž" * 300 + ".png").encode()) <= 204


def test_nothing_to_import_is_said(tmp_path):
    (tmp_path / "x").write_text("x")
    with pytest.raises(UserError, match="no picture and no caption"):
        import_files([("x.docx", tmp_path / "x")], tmp_path / "datasets", "x")
