"""The tab "Dataset & captions": its handlers called directly, and by a person's hand in a real browser."""

import functools
import io
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from nosnja_gui import dataset, events
from nosnja_gui.files import write_atomic
from nosnja_gui.jobs import CaptionJob
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from nosnja_gui.ui import dataset as tab
from nosnja_gui.ui.memory import Memory
from nosnja_gui.ui.panel import Panel, Window
from nosnja_gui.ui.pictures import Pictures
from nosnja_gui.workspace import Workspace

ROOT = Path(__file__).parents[1]
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@functools.cache
def png(number: int) -> bytes:
    out = io.BytesIO()
    image = Image.new("RGB", (64, 64), (number * 37 % 256, number * 91 % 256, 60))
    image.paste((250, 250, 250), (number * 5 % 40, number * 11 % 40, 50, 56))
    image.save(out, "PNG")
    return out.getvalue()


def draw(folder: Path, count: int, captions: bool = True) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:05d}.png").write_bytes(png(number % 97))
        if captions:
            (folder / f"{number:05d}.txt").write_text(f"a girl number {number}, stairs\n")
    return folder


class Desk:
    """The tab of a window without a browser."""

    def __init__(self, root: Path, listens: bool = False) -> None:
        self.workspace = Workspace(root).create()
        pictures, memory = Pictures(root / "thumbnails"), Memory(root / "memory.json")
        self.window = Window(self.workspace, pictures, memory, gr.Tabs(), *[gr.State("") for _ in range(3)], gr.Timer(), listens=listens)
        self.desk = tab.Desk(self.window)
        self.functions = {function.__name__.removeprefix("gallery_"): function for function in self.desk.server_functions()}
        self.key = ""

    @functools.cached_property
    def panel(self) -> Panel:
        with gr.Blocks():
            return tab.build(self.window)

    def open(self, identifier: str) -> Path:
        folder = self.desk.resolve(identifier)
        view = self.desk.view(str(folder))
        self.key = view["key"]
        self.desk.gallery_of(folder).dataset()
        assert self.desk.gallery_of(folder).inspection.wait()
        return folder

    def ask(self, name: str, /, **values):
        return self.functions[name]({"key": self.key, **values})

    def close(self) -> None:
        for gallery in self.desk._galleries.values():
            gallery.inspection.close()
            if gallery.inspection._thread is not None:
                gallery.inspection._thread.join(10)


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path / "workspace")
    yield made
    made.close()


@pytest.fixture
def opened(desk):
    draw(desk.workspace.datasets / "dress", 12)
    desk.open("datasets/dress")
    return desk


# choosing


def test_datasets_of_the_workspace_and_of_demos_are_listed_and_opened(desk):
    draw(desk.workspace.datasets / "dress", 2)
    draw(desk.workspace.runs / "demo-001" / "dataset", 2)
    (desk.workspace.runs / "costume-001").mkdir()
    assert [entry["id"] for entry in desk.desk.listed()] == ["datasets/dress", "runs/demo-001/dataset"]
    assert desk.desk.resolve("runs/demo-001/dataset") == desk.workspace.runs / "demo-001" / "dataset"


def test_any_folder_is_opened_by_its_path(desk, tmp_path):
    folder = draw(tmp_path / "photos", 2)
    assert desk.desk.resolve(f"path:{folder}") == folder == desk.desk.resolve(f'path: "{folder}" ')
    labels = tmp_path / "photos_labels.json"
    labels.write_text(json.dumps({"00001": {"caption": "x"}}))
    assert desk.desk.resolve(f"path:{labels}") == folder
    assert desk.desk.view(str(folder))["id"] == f"path:{folder}"


@pytest.mark.parametrize(
    "asked", ["path:/nothing", "path:", "path:\0", "datasets/../../..", "datasets/x", "runs/demo-001", "path:" + "x" * 5000]
)
def test_what_is_no_dataset_is_refused_in_one_sentence(desk, asked):
    (desk.workspace.runs / "demo-001").mkdir()
    with pytest.raises((UserError, OSError)) as caught:
        desk.desk.resolve(asked)
    assert "\n" not in str(caught.value)


def test_a_window_that_is_open_to_others_opens_its_workspace_only(tmp_path):
    outside = draw(tmp_path / "photos", 2)
    desk = Desk(tmp_path / "workspace", listens=True)
    draw(desk.workspace.datasets / "dress", 2)
    with pytest.raises(UserError, match="workspace only"):
        desk.desk.resolve(f"path:{outside}")
    desk.desk.window.memory.put(tab.OPENED, str(outside))
    assert desk.desk.remembered() == ""
    desk.open("datasets/dress")
    assert "workspace only" in desk.ask("caption", scope="all", existing="keep", captioner="blip", model="/etc")["error"]
    desk.close()


def test_the_dataset_that_was_open_is_restored_at_load(opened):
    folder = str(opened.workspace.datasets / "dress")
    opened.desk.window.memory.put(tab.OPENED, folder)
    state, current, view = opened.panel.refresh("", "", "en")
    assert current == folder and view["id"] == "datasets/dress"
    assert opened.panel.refresh(state, folder, "en") is None or opened.panel.refresh(state, folder, "en")[1] == gr.skip()
    opened.desk.window.memory.put(tab.OPENED, str(opened.workspace.datasets / "gone"))
    assert opened.panel.refresh("", "", "en")[1] == ""


# what the browser may ask


@pytest.mark.parametrize("key", ["", "x", None, "/etc", 5, ["a"]])
def test_without_a_key_nothing_is_told(opened, key):
    for name, function in opened.functions.items():
        if name not in ("count", "bring"):
            assert "error" in function({"key": key, "name": "00001.png", "names": ["00001.png"], "caption": "x"}), name


@pytest.mark.parametrize(
    "asked", [None, 5, "x", [], {}, {"name": "../../x.png"}, {"name": "/etc/passwd", "names": ["../00001.png"], "page": "x"}]
)
def test_whatever_is_asked_is_answered(opened, asked):
    before = sorted(path.name for path in opened.workspace.datasets.rglob("*.txt"))
    for name, function in opened.functions.items():
        if name in ("caption", "undo"):
            continue
        answer = function({"key": opened.key, **asked} if isinstance(asked, dict) else asked)
        json.dumps(answer)
        assert isinstance(answer, dict) and "\n" not in answer.get("error", ""), name
    assert sorted(path.name for path in opened.workspace.datasets.rglob("*.txt")) == before


def test_only_uploads_are_imported(desk, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(1))
    for path in (
        secret,
        desk.workspace.cache / "uploads" / ".." / ".." / ".." / "secret.png",
        desk.workspace.cache / "uploads" / "none.png",
    ):
        assert "not arrived" in desk.ask("bring", files=[{"name": "a.png", "path": str(path)}], name="x")["error"]
    assert secret.exists() and list(desk.workspace.datasets.iterdir()) == []


def test_uploads_become_a_dataset_and_do_not_stay(desk):
    uploads = desk.workspace.cache / "uploads"
    uploads.mkdir(parents=True)
    with zipfile.ZipFile(uploads / "a.zip", "w") as archive:
        archive.writestr("x/1.png", png(1))
        archive.writestr("x/1.txt", "a girl")
    done = desk.ask("bring", files=[{"name": "my dress.zip", "path": str(uploads / "a.zip")}], name="")
    assert done["id"] == "datasets/my-dress" and (done["pictures"], done["captions"]) == (1, 1)
    assert list(uploads.iterdir()) == [] and desk.open(done["id"]).name == "my-dress"


# pages, captions


def test_a_page_says_all_that_is_shown(opened):
    (opened.workspace.datasets / "dress" / "00003.txt").unlink()
    page = opened.ask("page")
    assert page["total"] == 12 and page["counts"]["no_caption"] == 1 and len(page["items"]) == 12 and page["unseen"] == 0
    item = page["items"][3]
    assert (
        item["name"] == "00003.png"
        and item["issues"] == ["no_caption"]
        and item["url"].startswith("/nosnja/picture/")
        and item["caption"] is None
    )
    assert [item["name"] for item in opened.ask("page", search="number 7")["items"]] == ["00007.png"]


def test_a_caption_is_saved_counted_and_undone(opened):
    file = opened.workspace.datasets / "dress" / "00001.txt"
    before = opened.ask("picture", name="00001.png")["caption"]
    saved = opened.ask("save", name="00001.png", caption="a boy", before=before, version="")
    assert file.read_text() == "a boy\n" and saved["caption"] == "a boy" and saved["tokens"] in (2, None)
    file.write_text("theirs")
    conflict = opened.ask("save", name="00001.png", caption="a man", before="a boy", version=saved["version"])
    assert conflict["conflict"] == "theirs" and file.read_text() == "theirs"
    assert opened.ask("undo")["undone"] == ["caption of 00001.png"] and file.read_text().strip() == before


def test_many_captions_are_changed_after_a_preview(opened):
    preview = opened.ask("edit", find="girl", replacement="woman", scope="shown", search="number 1", whole_words=True)
    assert preview["count"] == 3 and preview["changes"][0]["after"] == "a woman number 1, stairs"
    assert "since the preview" in opened.ask("edit", find="girl", replacement="woman", scope="all", apply=True, count=3)["error"]
    assert opened.ask("edit", find="girl", replacement="woman", scope="shown", search="number 1", apply=True, count=3) == {"changed": 3}
    assert len(opened.ask("versions")["versions"]) == 1 and opened.ask("tags", kind="word")["counted"][0][1] == 12


def test_pictures_are_left_out_and_put_back(opened):
    assert opened.ask("leave_out", names=["00001.png"])["moved"] == ["00001.png"] and opened.ask("page")["total"] == 11
    away = opened.ask("page", show="left_out")
    assert [item["name"] for item in away["items"]] == ["00001.png"] and away["items"][0]["url"]
    assert opened.ask("put_back", names=["00001.png"])["back"] == ["00001.png"] and opened.ask("page")["total"] == 12
    assert "leave at least one" in opened.ask("leave_out", names=[f"{number:05d}.png" for number in range(12)])["error"]


# captioning


def test_a_captioner_is_started_on_what_was_chosen(opened, monkeypatch):
    started = []
    monkeypatch.setattr(tab.work_queue, "start_or_enqueue", lambda run, workspace: started.append(run.job()) or "started")
    answer = opened.ask("caption", captioner="blip", model="", existing="overwrite", scope="one", names=["00002.png"], prompt="")
    assert answer == {"started": "started"} and started[0].pictures == ["00002.png"] and started[0].existing == "overwrite"
    assert Path(started[0].dataset) == opened.workspace.datasets / "dress"
    assert "already" in opened.ask("caption", captioner="blip", existing="keep", scope="all")["error"]
    for wrong in ({"captioner": "x"}, {"existing": "x"}, {"scope": "x"}):
        assert "error" in opened.ask("caption", **{"captioner": "blip", "existing": "keep", "scope": "all", **wrong})


def test_a_captioner_at_work_is_found_again(opened):
    folder = opened.workspace.datasets / "dress"
    run = RunFolder.create(opened.workspace.runs / "caption-dress-001", CaptionJob(dataset=str(folder)))
    log = run.log()
    log.append(events.Started(job="caption", total=12))
    log.append(events.Captioned(picture="00001.png", caption="a girl", done=1, total=12))
    with run.lock():
        job = opened.desk.view(str(folder))["job"]
        assert job["state"] == "running" and (job["done"], job["total"]) == (1, 12) and job["newest"] == ["00001.png", "a girl"]
        assert opened.ask("stop") == {} and (run.requests / "stop").exists()
    log.append(events.Failed(message="There is no BLIP model."))
    failed = opened.desk.view(str(folder))["job"]
    assert failed["state"] == "failed" and failed["message"] == "There is no BLIP model."
    opened.ask("dismiss")
    assert opened.desk.view(str(folder))["job"] is None


# ten thousand pictures


def test_ten_thousand_pictures(desk):
    def opened_cold(name):
        folder = draw(desk.workspace.datasets / name, 10_000)
        time.sleep(0.1)  # what was written a moment ago is read again
        began = time.process_time()
        desk.key = desk.desk.view(str(folder))["key"]
        desk.desk.gallery_of(folder).inspection.follow = lambda pictures: None
        assert len(desk.ask("page")["items"]) == 100
        return folder, time.process_time() - began

    folder, cold = opened_cold("many")
    if cold >= 2:  # a neighbour on the machine makes everything slower for a moment; twice in a row it is ours
        folder, cold = opened_cold("more")
    taken = {}
    for name, asked in {
        "page": {"page": 57},
        "search": {"search": "number 77"},
        "picture": {"name": "05000.png"},
        "save": {"name": "05000.png", "caption": "a boy", "before": "a girl number 5000, stairs", "version": ""},
    }.items():
        began = time.process_time()
        answer = desk.ask({"search": "page"}.get(name, name), **asked)
        taken[name] = time.process_time() - began
        assert "error" not in answer
    desk.panel.refresh("", "", "en")
    state = desk.panel.refresh("", str(folder), "en")[0]
    began = time.process_time()
    desk.panel.refresh(state, str(folder), "en")
    taken["tick"] = time.process_time() - began
    assert dataset.read(folder, look_inside=False).captions()["05000.png"] == "a boy"
    assert cold < 2 and taken["page"] < 0.5 and taken["search"] < 0.5 and taken["save"] < 0.1 and taken["tick"] < 0.02, (cold, taken)


# in a browser


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("browser") / "workspace").create()
    draw(workspace.datasets / "dress", 12)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "app.py", "--no-browser", "--workspace", str(workspace.root), "--port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: [lines.put(line) for line in process.stdout or ()], daemon=True).start()
    try:
        assert "window" in lines.get(timeout=90)
        yield workspace, f"http://127.0.0.1:{port}/"
    finally:
        process.kill()
        process.wait(20)


@pytest.fixture
def page(window):
    from playwright.sync_api import sync_playwright

    assert CHROMIUM.exists(), "the tests of the window need Debian's chromium"
    said: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        opened = browser.new_context(locale="en-US", viewport={"width": 1280, "height": 720}).new_page()
        opened.said = said
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda asked: said.append(asked.url) if not asked.url.startswith((window[1], "data:", "blob:")) else None)
        opened.goto(window[1])
        opened.wait_for_selector("#start-demo")
        opened.get_by_role("tab", name="Dataset & captions", exact=True).click()
        yield opened
        browser.close()
    assert said == []


def eventually(true, seconds: float = 8.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_captions_are_edited_with_the_keyboard_and_found_on_disk(window, page):
    folder = window[0].datasets / "dress"
    page.select_option("#gallery-dataset", "datasets/dress")
    page.locator(".nosnja-gallery .tile").nth(11).wait_for()
    page.locator(".nosnja-gallery .tile").first.click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.keyboard.press("Control+a")
    page.keyboard.type("a boy in a hat")
    page.keyboard.press("PageDown")
    page.keyboard.press("Control+a")
    page.keyboard.type("a cat")
    eventually(lambda: (folder / "00001.txt").read_text() == "a boy in a hat\n" and (folder / "00002.txt").read_text() == "a cat\n")
    page.locator("#gallery-saved", has_text="Saved").wait_for()
    # Somebody else changes the caption: both are shown, nothing is lost.
    (folder / "00002.txt").write_text("a dog")
    page.keyboard.type(" on a chair")
    page.locator("#gallery-keep-mine").wait_for()
    assert (folder / "00002.txt").read_text() == "a dog" and "a dog" in page.locator(".nosnja-gallery .conflict").inner_text()
    page.click("#gallery-keep-mine")
    eventually(lambda: (folder / "00002.txt").read_text() == "a cat on a chair\n")
    # What is said of the picture follows its file, as a captioner replaces it.
    problems = page.locator(".nosnja-gallery .issues")
    write_atomic(folder / "00002.txt", "")
    problems.get_by_text("No caption").wait_for()
    write_atomic(folder / "00002.txt", "a cat on a chair\n")
    problems.get_by_text("No caption").wait_for(state="detached")
    page.reload()
    page.said.clear()  # Gradio complains about the requests that the reload has cut off
    page.get_by_role("tab", name="Dataset & captions", exact=True).click()
    page.locator(".nosnja-gallery .tile", has_text="a boy in a hat").wait_for()


def test_a_zip_is_imported_edited_in_bulk_and_undone(window, page, tmp_path):
    with zipfile.ZipFile(tmp_path / "my set.zip", "w") as archive:
        for number in range(3):
            archive.writestr(f"set/{number}.png", png(number + 40))
            archive.writestr(f"set/{number}.txt", f"a folk costume {number}")
    page.click("#gallery-bring")
    page.set_input_files("#gallery-files", tmp_path / "my set.zip")
    page.click("#gallery-import")
    folder = window[0].datasets / "my-set"
    page.locator(".nosnja-gallery .tile", has_text="a folk costume 2").wait_for()
    page.click("#gallery-edit")
    page.fill("#gallery-find", "folk costume")
    page.fill("#gallery-replacement", "nosnjaoutfit")
    page.locator("#gallery-edit-count", has_text="3").wait_for()
    assert (folder / "2.txt").read_text() == "a folk costume 2"
    page.click("#gallery-edit-apply")
    page.locator(".nosnja-gallery .tile", has_text="a nosnjaoutfit 2").wait_for()
    assert (folder / "2.txt").read_text() == "a nosnjaoutfit 2\n"
    page.click("#gallery-edit")
    page.click("#gallery-undo")
    page.locator(".nosnja-gallery .tile", has_text="a folk costume 2").wait_for()
    assert (folder / "2.txt").read_text() == "a folk costume 2"
    page.click("#gallery-leave-out")
    eventually(lambda: len(list(folder.glob("*.png"))) == 2)


# dropping, as the browser's own debugger does it: the files come from the disk, through everything that a person's hand goes through


class Hand:
    """Holds files, or a link, above the page."""

    def __init__(self, page, *files: Path, link: str = "") -> None:
        self.session = page.context.new_cdp_session(page)
        items = [{"mimeType": kind, "data": link} for kind in ("text/uri-list", "text/plain") if link]
        self.data = {"items": items, "files": [str(file) for file in files], "dragOperationsMask": 1}

    def do(self, kind: str, x: float, y: float) -> None:
        self.session.send("Input.dispatchDragEvent", {"type": kind, "x": x, "y": y, "data": self.data})

    def hold(self, x: float = 600, y: float = 500) -> None:
        self.do("dragEnter", x, y)
        self.do("dragOver", x, y)

    def drop(self, x: float = 600, y: float = 500) -> None:
        self.hold(x, y)
        self.do("drop", x, y)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_pictures_are_dropped_into_the_dataset_that_is_open(window, page, tmp_path):
    folder = draw(window[0].datasets / "dropped on", 2)
    page.locator("#gallery-dataset option", has_text="dropped on").wait_for(state="attached")
    page.select_option("#gallery-dataset", "datasets/dropped on")
    page.locator(".nosnja-gallery .tile").nth(1).wait_for()
    new = draw(tmp_path / "new", 3, captions=False)
    for number in range(3):
        (new / f"{number:05d}.png").rename(new / f"new {number}.png")
    (new / "price <b>list.pdf").write_text("no picture")
    zone = page.locator(".nosnja-gallery .dropping")
    Hand(page, new / "new 0.png").hold()
    zone.wait_for()
    Hand(page).do("dragOver", -30, 500)
    zone.wait_for(state="hidden")
    Hand(page, new / "new 0.png", new / "price <b>list.pdf").drop()
    assert zone.is_hidden()
    assert page.locator(".nosnja-gallery .refused").inner_text() == "Neither pictures nor captions, so left out: 1 (price <b>list.pdf)"
    # What is dropped then is added, and the same once more is not.
    Hand(page, new / "new 0.png", new / "new 1.png").drop(x=100, y=20)
    page.get_by_text("Files: 2 (").wait_for()
    page.select_option("#gallery-target", "into")
    page.click("#gallery-import")
    page.get_by_text("Imported: pictures 2, captions 0.").wait_for()
    page.locator(".nosnja-gallery .tile").nth(3).wait_for()
    assert [name for name in names(folder) if name.endswith(".png")] == ["00000.png", "00001.png", "new 0.png", "new 1.png"]
    assert (folder / "new 1.png").read_bytes() == (new / "new 1.png").read_bytes()


def test_a_zip_is_dropped(window, page, tmp_path):
    with zipfile.ZipFile(tmp_path / "dropped zip.zip", "w") as archive:
        archive.writestr("set/1.png", png(60))
        archive.writestr("set/1.txt", "a zipped costume")
        archive.writestr("set/movie.mp4", b"no picture")
    Hand(page, tmp_path / "dropped zip.zip").drop()
    page.locator("#gallery-new-name").press("Enter")
    page.get_by_text("set/movie.mp4 is neither a picture nor a caption and was left out.").wait_for()
    page.locator(".nosnja-gallery .tile", has_text="a zipped costume").wait_for()
    assert names(window[0].datasets / "dropped-zip") == ["1.png", "1.txt"]


def test_a_folder_is_dropped_with_its_captions_and_without_what_is_hidden(window, page, tmp_path):
    folder = draw(tmp_path / "my folder", 55)
    (folder / ".nosnja").mkdir()
    for junk in (".nosnja/left-out.png", "Thumbs.db", ".DS_Store"):
        (folder / junk).write_bytes(png(1))
    (folder / "notes.docx").write_text("no caption")
    Hand(page, folder).drop()
    page.get_by_text("so left out: 1 (my folder/notes.docx)").wait_for()
    assert page.input_value("#gallery-new-name") == "my folder"
    page.click("#gallery-import")
    page.locator(".nosnja-gallery .tile", has_text="a girl number 0, stairs").wait_for()
    made = window[0].datasets / "my-folder"
    assert names(made) == [f"{number:05d}.{suffix}" for number in range(55) for suffix in ("png", "txt")]
    assert dataset.read(made).captions()["00054.png"] == "a girl number 54, stairs"


def test_nothing_that_is_dropped_makes_the_browser_leave_the_page(window, page, tmp_path):
    picture = draw(tmp_path / "one", 1) / "00000.png"
    page.select_option("#gallery-dataset", "datasets/dress")
    page.locator(".nosnja-gallery .tile").first.wait_for()
    before = page.locator("#gallery-text").input_value()
    link = Hand(page, link=f"{window[1]}picture")
    link.hold()
    assert page.locator(".nosnja-gallery .dropping").is_hidden()
    link.drop()
    for tab_name in ("Start", "Train"):
        page.get_by_role("tab", name=tab_name, exact=True).click()
        for hand in (Hand(page, picture), link):
            hand.drop()
    page.wait_for_timeout(300)
    assert page.url == window[1] and len(page.context.pages) == 1
    page.get_by_role("tab", name="Dataset & captions", exact=True).click()
    assert page.locator("#gallery-import").count() == 0 and page.locator("#gallery-text").input_value() == before
    # A text box takes a text, as everywhere.
    box = page.locator("#gallery-search").bounding_box()
    Hand(page, link="stairs").drop(box["x"] + 20, box["y"] + 10)
    assert page.input_value("#gallery-search") == "stairs"
    # A picture of the page itself is none to be brought.
    box = page.locator(".nosnja-gallery .large").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 50, box["y"] + 60)
    page.mouse.move(400, 400)
    page.mouse.up()
    assert page.locator("#gallery-import").count() == 0 and page.locator(".nosnja-gallery .dropping").is_hidden()
