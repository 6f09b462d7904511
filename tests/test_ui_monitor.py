"""The monitor: which run it shows, what it shows of it, what its buttons do; and some of it in a real browser."""

import json
import time
from dataclasses import dataclass
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from nosnja_gui import events, launcher, work_queue
from nosnja_gui.hardware import GpuLoad, Load
from nosnja_gui.jobs import AxisSettings, CaptionJob, DemoJob, DownloadJob, GridJob, TrainJob
from nosnja_gui.processes import self_mark
from nosnja_gui.runs import RunFolder, holding, identifier
from nosnja_gui.ui.memory import Memory
from nosnja_gui.ui.monitor import Monitor, updates
from nosnja_gui.ui.pictures import Pictures
from nosnja_gui.workspace import Workspace
from tests.browser import CUT_OFF, chromium, open_tab, visit, wait_for, window

PROMPTS = ["nosnjaoutfit, a girl", "a dog"]


@dataclass
class Given:
    """What the monitor takes of a window."""

    workspace: Workspace
    pictures: Pictures
    memory: Memory


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path / "workspace").create()


@pytest.fixture
def monitor(workspace) -> Monitor:
    made = Monitor(Given(workspace, Pictures(workspace.cache / "thumbnails"), Memory(workspace.cache / "memory.json")))  # type: ignore[arg-type]
    made.meter.now = lambda: Load((GpuLoad("RTX", 50.0, 2**30, 2**31, 60.0, 100.0, 170.0),), 12.0, 2**30, 2**32)  # type: ignore[method-assign]
    return made


def training(workspace: Workspace, name: str, *said: events.Event, live: bool = False, **changes: Any) -> RunFolder:
    wanted = TrainJob().changed(**{"preview.prompts": PROMPTS, **changes})
    run = RunFolder.create(workspace.runs / name, wanted)
    return told(run, *said, live=live)


def told(run: RunFolder, *said: events.Event, live: bool = False) -> RunFolder:
    run.events.write_text("".join(events.to_line(event) + "\n" for event in said))
    if live:
        run.process.write_text(json.dumps({**self_mark(), "log_bytes": 0}))
    return run


def started(at: float = 100.0, total: int = 100, job: str = "train") -> events.Started:
    return events.Started(job=job, total=total, device="cpu", epochs=10, steps_per_epoch=10, at=at)


def step(number: int, at: float = 110.0, loss: float = 0.2) -> events.Step:
    return events.Step(step=number, epoch=1 + number // 10, loss=loss, learning_rates={"unet": 1e-4}, seconds_per_step=0.5, at=at)


def sampled(run: RunFolder, number: int) -> events.Sampled:
    files = []
    for prompt in range(1, 3):
        file = run.samples / f"step-{number:06d}_{prompt:02d}.png"
        text = PngImagePlugin.PngInfo()
        text.add_text("parameters", f"{PROMPTS[prompt - 1]}\nSteps: 25, Seed: {prompt}")
        Image.new("RGB", (16, 16), (number % 256, 80, 90)).save(file, pnginfo=text)
        files.append(f"samples/{file.name}")
    return events.Sampled(step=number, files=files)


def shown(monitor: Monitor, wanted: str = "") -> dict[str, Any]:
    """The values of a fresh page."""
    given = updates(monitor, wanted, {})
    assert given is not None
    return dict(zip(("head", "load", "plots", "samples", "listed", "console"), given[1:], strict=True))


# ---------------------------------------------------------------- which run


def test_an_empty_workspace_shows_what_to_do(monitor):
    values = shown(monitor)
    assert values["head"] == {"run": "", "choices": []} and values["plots"] == {"run": ""}


def test_the_running_one_is_shown_else_the_newest_training(monitor, workspace):
    training(workspace, "old", started(100), step(1, 110))
    training(workspace, "new", started(200), step(1, 210))
    told(RunFolder.create(workspace.runs / "captions", CaptionJob(dataset="x")), started(300, job="caption"))
    assert shown(monitor)["head"]["run"] == "new"
    training(workspace, "runs", started(50), live=True)
    assert shown(monitor)["head"]["run"] == "runs"
    assert shown(monitor, "old")["head"]["run"] == "old" and shown(monitor, "old")["head"]["running"] == ["runs"]
    assert shown(monitor, "../../etc")["head"]["run"] == "runs"


def test_what_was_opened_last_is_shown_after_a_reload_unless_another_was_started(monitor, workspace):
    training(workspace, "old", started(100), step(1, 110))
    training(workspace, "new", started(200), step(1, 210))
    monitor.opened("old")
    monitor.opened("nowhere")
    assert shown(monitor)["head"]["run"] == "old"
    training(workspace, "runs", started(100), live=True)
    assert shown(monitor)["head"]["run"] == "old", "it ran already when the old one was opened"
    training(workspace, "runs", started(time.time() + 60), live=True)
    assert shown(monitor)["head"]["run"] == "runs"


# ---------------------------------------------------------------- what is shown


def test_a_training_is_shown_with_all_that_it_said(monitor, workspace):
    run = training(workspace, "dress-001", live=True)
    said = [
        started(),
        events.Validated(step=0, loss=0.5),
        sampled(run, 0),
        step(10, loss=0.4),
        events.RateChanged(step=10, learning_rate=5e-5),
        events.Saved(step=10, epoch=1, file="weights/dress.safetensors"),
        events.Warned(message="Two pictures are small."),
        step(20, loss=0.2),
    ]
    told(run, *said, live=True)
    run.console.write_text("Loading\n10%\r90%\n")
    values = shown(monitor)
    head = values["head"]
    assert (head["state"], head["step"], head["total"], head["epoch"], head["epochs"], head["device"]) == ("running", 20, 100, 3, 10, "cpu")
    assert head["loss"] == 0.3 and head["eta"] == 40 and head["warnings"] == ["Two pictures are small."]
    assert (
        head["can"] == ["stop", "kill", "save", "learning_rate", "sample"] and head["rate"] == 5e-5 and head["rate_changes"] == [(10, 5e-5)]
    )
    plots = values["plots"]
    assert plots["steps"] == [10, 20] and plots["losses"] == [0.4, 0.2] and plots["rates"] == {"unet": [1e-4, 1e-4]}
    assert plots["validation"] == [[0, 0.5]] and plots["marks"] == [[10, "rate", 5e-5], [10, "saved", "dress.safetensors"]]
    assert values["samples"]["prompts"] == PROMPTS and [row[:2] for row in values["samples"]["steps"]] == [[0, 2]]
    assert values["console"]["text"] == "Loading\n90%"
    assert values["load"]["gpus"][0]["percent"] == 50.0 and values["load"]["gpus"][0]["used"] == 1.0
    assert values["listed"]["runs"][0]["run"] == "dress-001" and values["listed"]["queue"] == []


def test_a_download_is_shown_in_bytes_with_what_is_left_and_goes_on(monitor, workspace):
    run = RunFolder.create(workspace.runs / "download-001", DownloadJob(repo="someone/model"))
    size = 2_000_000_000
    half = events.Downloaded(file="unet/x.safetensors", file_done=7, file_total=9, done=size // 2, total=size, at=110.0)
    begun = events.Started(job="download", total=size, at=100.0)
    told(run, begun, half, live=True)
    head = shown(monitor)["head"]
    assert (head["kind"], head["state"], head["step"], head["total"], head["stage"]) == (
        "download", "running", size // 2, size, "unet/x.safetensors",
    )  # fmt: skip
    assert head["seconds_per_step"] == pytest.approx(1e-8) and head["eta"] == 10
    assert head["can"] == ["stop", "kill"], "neither saved nor sampled"
    told(run, begun, half, events.Stopped(step=size // 2, at=111.0))
    values = shown(monitor)
    assert values["head"]["state"] == "stopped" and values["head"]["can"] == ["go on"]
    [row] = values["listed"]["runs"]
    assert (row["kind"], row["step"], row["total"]) == ("download", size // 2, size)
    (workspace.runs / "download-002").mkdir()
    (workspace.runs / "download-002" / "run.yaml").write_text("job: [download]")
    assert next(row["kind"] for row in shown(monitor)["listed"]["runs"] if row["run"] == "download-002") == "damaged"


def test_captions_and_cells_come_with_their_pictures(monitor, workspace):
    folder = workspace.datasets / "dress"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "1.png")
    run = RunFolder.create(workspace.runs / "captions", CaptionJob(dataset="dress"))
    outside = events.Captioned(picture="../../runs/captions/run.yaml", caption="b", done=2, total=2)
    told(run, started(job="caption"), events.Captioned(picture="1.png", caption="a girl", done=1, total=2), outside)
    captions = shown(monitor, "captions")["samples"]["captions"]
    assert captions[0]["small"] == "" and captions[1]["caption"] == "a girl" and captions[1]["small"].startswith("/nosnja/picture/")
    grid = RunFolder.create(workspace.runs / "grid", GridJob(prompt="x", x=AxisSettings(axis="seed", values=[1, 2])))
    (grid.path / "cells").mkdir()
    Image.new("RGB", (8, 8)).save(grid.path / "cells" / "a.png")
    failed = events.Cell(done=2, total=2, file="cells/b.png", error="out of memory")
    told(grid, started(job="grid", total=2), events.Cell(done=1, total=2, file="cells/a.png"), failed)
    cells = shown(monitor, "grid")["samples"]["cells"]
    assert cells[0] == {"file": "cells/b.png", "error": "out of memory"} and cells[1]["large"].startswith("/nosnja/picture/")


def test_a_demo_is_shown_with_the_curve_of_its_training(monitor, workspace):
    demo = RunFolder.create(workspace.runs / "demo-001", DemoJob())
    stage = events.Stage(name="Training", done=3, total=6)
    told(demo, started(job="demo", total=6), stage, live=True)
    training(workspace, "demo-001/training", started(), step(10), step(20), live=True)
    values = shown(monitor)
    head = values["head"]
    assert (head["run"], head["kind"], head["step"], head["total"], head["inner"]) == ("demo-001", "demo", 3, 6, [20, 100])
    assert head["parts"] == ["demo-001/training"] and values["plots"]["steps"] == [10, 20]
    inner = shown(monitor, "demo-001/training")["head"]
    assert inner["parts"] == ["demo-001"] and inner["running"] == []


def test_failed_and_crashed_runs_say_why(monitor, workspace):
    training(workspace, "failed", started(), events.Failed(message="The memory is not enough.", detail="Traceback"))
    head = shown(monitor, "failed")["head"]
    assert head["message"] == "The memory is not enough." and head["detail"] == "Traceback" and head["can"] == ["go on"]
    run = training(workspace, "crashed", started())
    run.process.write_text(json.dumps({"pid": 1, "start": "long ago", "log_bytes": 0}))
    head = shown(monitor, "crashed")["head"]
    assert head["state"] == "crashed" and head["message"] and head["can"] == ["go on"]


def test_a_damaged_run_does_not_keep_the_others_from_being_shown(monitor, workspace):
    training(workspace, "good", started(), step(1))
    bad = workspace.runs / "bad"
    bad.mkdir()
    (bad / "run.yaml").write_bytes(b"\xff\x00: [")
    (bad / "events.jsonl").write_bytes(b"\x00\n{}\n[")
    assert shown(monitor)["head"]["run"] == "good"
    assert shown(monitor, "bad")["head"]["kind"] == "damaged"


def test_what_the_page_has_is_not_sent_again(monitor, workspace):
    run = training(workspace, "dress", started(), step(10))
    first = updates(monitor, "", {})
    assert first is not None and updates(monitor, "", first[0]) is None
    run.log().append(step(20))
    second = updates(monitor, "", first[0])
    assert second is not None
    sent = [
        name
        for name, value in zip(("head", "load", "plots", "samples", "listed", "console"), second[1:], strict=True)
        if "__type__" not in value
    ]
    assert sent == ["head", "plots", "listed"]


def test_a_step_of_what_runs_does_not_send_the_list_of_runs_anew(monitor, workspace):
    run = training(workspace, "dress", started(), step(10), live=True)
    before = updates(monitor, "", {})
    run.log().append(step(20))
    after = updates(monitor, "", before[0])
    assert after[0]["head"] != before[0]["head"] and after[0]["listed"] == before[0]["listed"]
    assert "__type__" in after[5], "skipped"


# ---------------------------------------------------------------- buttons


@pytest.fixture
def live(workspace) -> RunFolder:
    return training(workspace, "dress-001", started(), step(10), live=True)


def test_a_pressed_button_counts_as_heard_until_it_is_done(monitor, live):
    assert shown(monitor)["head"]["asked"] == []
    assert monitor.act({"run": "dress-001", "action": "save"}) == {}
    assert (live.requests / "save").exists() and shown(monitor)["head"]["asked"] == ["save"]
    assert live.take_request("save") and shown(monitor)["head"]["asked"] == ["save"], "taken, and still being written"
    live.log().append(events.Saved(step=11, epoch=1, file="weights/dress-step11.safetensors"))
    assert shown(monitor)["head"]["asked"] == []


def test_a_learning_rate_is_asked_for_in_every_way_people_write_it(monitor, live):
    assert monitor.act({"run": "dress-001", "action": "learning_rate", "value": " 0,00005 "}) == {}
    assert shown(monitor)["head"]["asked"] == ["learning_rate"] and live.take_rate() == 5e-5
    live.log().append(events.RateChanged(step=11, learning_rate=5e-5))
    head = shown(monitor)["head"]
    assert head["asked"] == [] and head["rate_changes"] == [(11, 5e-5)] and head["rate"] == 5e-5


@pytest.mark.parametrize("value", ["", "abc", "nan", "inf", "-1", "0", "2", None, "1" * 5000, ["1"]])
def test_what_is_no_learning_rate_is_refused_in_one_sentence(monitor, live, value):
    answer = monitor.act({"run": "dress-001", "action": "learning_rate", "value": value})
    assert answer["error"].endswith(".") and len(answer["error"]) < 200 and live.take_rate() is None


def test_stop_asks_and_kill_ends(monitor, workspace, live, monkeypatch):
    ended = []
    monkeypatch.setattr(launcher, "stop", lambda run, kill=False: ended.append((run.path.name, kill)))
    assert monitor.act({"run": "dress-001", "action": "stop"}) == {} and monitor.act({"run": "dress-001", "action": "kill"}) == {}
    assert ended == [("dress-001", False), ("dress-001", True)]


def test_what_is_asked_of_a_demos_training_reaches_who_can_do_it(monitor, workspace):
    demo = told(RunFolder.create(workspace.runs / "demo-001", DemoJob()), started(job="demo", total=6), live=True)
    inner = training(workspace, "demo-001/training", started(), step(10), live=True)
    for name in ("demo-001", "demo-001/training"):
        assert monitor.act({"run": name, "action": "stop"}) == {} and demo.take_request("stop")
        assert monitor.act({"run": name, "action": "sample"}) == {} and inner.take_request("sample")


def test_going_on_and_leaving_the_queue(monitor, workspace, monkeypatch):
    begun = []
    monkeypatch.setattr(work_queue, "start_or_enqueue", lambda run, where: begun.append(run.path.name))
    training(workspace, "dress-001", started(), events.Stopped(step=10))
    assert monitor.act({"run": "dress-001", "action": "go on"}) == {} and begun == ["dress-001"]
    run = training(workspace, "dress-002")
    run.queued.write_text(json.dumps({"at": 1.0, "order": 1.0}))
    values = shown(monitor, "dress-002")
    assert values["head"]["can"] == ["remove"] and values["listed"]["queue"] == ["dress-002"]
    assert monitor.act({"run": "dress-002", "action": "remove"}) == {} and not run.queued.exists()
    assert "not wait" in monitor.act({"run": "dress-002", "action": "remove"})["error"]


def waits(workspace: Workspace, *names: str) -> list[RunFolder]:
    """Runs that wait in this order. No process is begun that works them off, as `work_queue.enqueue` would do."""
    runs = [training(workspace, name) for name in names]
    for place, run in enumerate(runs, start=1):
        run.queued.write_text(json.dumps({"at": 1.0, "order": float(place)}))
    return runs


def queue_of(workspace: Workspace) -> list[str]:
    return [identifier(run, workspace) for run in work_queue.waiting(workspace)]


def test_what_waits_is_put_before_another_or_last(monitor, workspace):
    waits(workspace, "a", "b", "c")
    for name, before, order in [("c", "a", "cab"), ("c", "b", "acb"), ("a", None, "cba"), ("a", None, "cba"), ("b", "b", "cba")]:
        assert monitor.act({"run": name, "action": "move", "value": before}) == {}
        assert queue_of(workspace) == list(order) == shown(monitor)["listed"]["queue"]


def test_who_does_not_wait_any_more_is_put_nowhere_and_the_page_hears_why(monitor, workspace, live):
    a, b, _ = waits(workspace, "a", "b", "c")
    a.queued.unlink()
    for name, before, why in [
        ("a", "c", "It does not wait any more."),
        ("a", None, "It does not wait any more."),
        ("c", "a", "'a' does not wait any more"),
        ("c", "dress-001", "'dress-001' does not wait any more"),
        ("c", "gone", "There is no run 'gone'"),
        ("c", "../x", "."),
        ("c", ["b"], "."),
        ("c", "", "."),
    ]:
        error = monitor.act({"run": name, "action": "move", "value": before})["error"]
        assert why in error and error.endswith(".") and "\n" not in error
    assert queue_of(workspace) == ["b", "c"] and b.queued.exists()


@pytest.mark.parametrize(
    "wish",
    [
        None,
        [],
        "x",
        {},
        {"run": "../x", "action": "stop"},
        {"run": "dress-001", "action": "rm"},
        {"run": "dress-001/samples", "action": "stop"},
        {"run": ["x"]},
    ],
)
def test_a_wish_that_makes_no_sense_is_answered_not_raised(monitor, live, wish):
    assert monitor.act(wish)["error"]
    assert monitor.sample_pictures(wish) == {} or set(monitor.sample_pictures(wish)) == set()
    assert monitor.infotext(wish) == ""


def test_a_run_that_ended_meanwhile_says_so(monitor, workspace):
    training(workspace, "dress-001", started(), events.Finished(files=[], seconds=1))
    assert monitor.act({"run": "dress-001", "action": "stop"}) == {"error": "It does not run any more."}


def test_samples_come_when_asked_for_with_how_they_were_made(monitor, workspace):
    run = training(workspace, "dress-001")
    told(run, started(), sampled(run, 0), sampled(run, 10))
    (run.path / "secret.png").write_bytes(b"x")
    pictures = monitor.sample_pictures({"run": "dress-001", "steps": [10, 99, "x", None]})
    small, large, file = pictures["10"][1]
    assert small.startswith("/nosnja/picture/") and "/320/" in small and "/0/" in large and file == "samples/step-000010_02.png"
    assert pictures["99"] == [] and set(pictures) == {"10", "99"}
    assert monitor.infotext({"run": "dress-001", "file": file}) == "a dog\nSteps: 25, Seed: 2"
    for other in ("secret.png", "../dress-001/samples/step-000010_02.png", "run.yaml", None, "/etc/passwd"):
        assert monitor.infotext({"run": "dress-001", "file": other}) == ""


# ---------------------------------------------------------------- how much it costs


def test_a_tick_of_a_long_training_is_small_and_quick(monitor, workspace):
    run = training(workspace, "long", started(total=200_000), live=True)
    line = events.to_line(step(7)).replace('"step": 7', '"step": %d').replace('"loss": 0.2', '"loss": %.17g')
    with open(run.events, "a") as file:
        file.writelines(line % (number, 1 / number) + "\n" for number in range(1, 100_001))
    began = time.perf_counter()
    before = updates(monitor, "", {})
    first = time.perf_counter() - began
    run.log().append(step(100_001))
    assert before is not None
    began = time.perf_counter()
    after = updates(monitor, "", before[0])
    tick = time.perf_counter() - began
    assert after is not None and first < 3 and tick < 0.1, (first, tick)
    assert len(json.dumps(after[1:])) < 100_000
    began = time.perf_counter()
    assert updates(monitor, "", after[0]) is None or time.perf_counter() - began < 0.02


def test_many_runs_cost_little_when_nothing_happens(monitor, workspace):
    for number in range(200):
        run = training(workspace, f"dress-{number:03d}")
        told(run, started(), *(step(count) for count in range(1, 20)), events.Finished(files=[], seconds=1))
    before = updates(monitor, "", {})
    assert before is not None and len(json.dumps(before[1:])) < 100_000
    times = []
    for _ in range(5):
        began = time.perf_counter()
        assert updates(monitor, "", before[0]) is None
        times.append(time.perf_counter() - began)
    assert min(times) < 0.1, times  # 5 ms on an idle machine; tests may run beside others


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A browser, and a window on a workspace of three runs, one of which lives."""
    workspace = Workspace(tmp_path_factory.mktemp("browser") / "workspace").create()
    training(workspace, "old", started(100), step(10, 110, loss=0.3), events.Finished(files=[], seconds=1, at=120))
    training(workspace, "<b>odd name", started(200), step(20, 210), events.Failed(message="The disk is full: make room.", at=220))
    run = training(workspace, "dress-001")
    told(run, started(1000), sampled(run, 0), *(step(number, 1000 + number, 0.1 + 0.01 * number) for number in range(1, 6)), live=True)
    with chromium() as browser, window(workspace, end_runs=False) as served:
        yield browser, served


def text_of(page: Any, name: str) -> str:
    return page.locator(f"#monitor-{name}").inner_text()


def curve_length(page: Any) -> int:
    return page.evaluate("document.querySelector('#monitor-loss .nosnja-plot-lines path')?.getAttribute('d').length || 0")


def test_the_curve_grows_while_it_is_written_and_is_the_same_after_a_reload(opened):
    browser, served = opened
    run = RunFolder(served.workspace.runs / "dress-001")
    with visit(browser, served, forgiven=CUT_OFF) as page:
        open_tab(page, "monitor")
        before = wait_for(lambda: curve_length(page), page=page, what="the curve")
        wait_for(lambda: text_of(page, "step") == "5 / 100", page=page)
        for number in range(6, 30):
            run.log().append(step(number, 1000 + number, 0.1 + 0.01 * number))
        wait_for(lambda: curve_length(page) > before, page=page, what="a longer curve")
        wait_for(lambda: text_of(page, "step") == "29 / 100", page=page)
        page.get_by_role("button", name="Save now").click()
        wait_for(lambda: (run.requests / "save").exists(), page=page)
        page.reload()
        open_tab(page, "monitor")
        wait_for(lambda: text_of(page, "step") == "29 / 100" and page.locator("#monitor-picker").input_value() == "dress-001", page=page)
        wait_for(lambda: "Save was asked for" in text_of(page, "told"), page=page)
        page.locator("#monitor-samples .cell").first.click()
        wait_for(lambda: "Seed: 1" in text_of(page, "infotext"), page=page)
        page.keyboard.press("Escape")
        run.process.unlink()  # as if the process had died
        wait_for(lambda: text_of(page, "state") == "Crashed", page=page)


def test_another_run_is_opened_by_a_click_and_stays_open(opened):
    browser, served = opened
    with visit(browser, served, size=(1280, 720), scheme="dark", forgiven=CUT_OFF) as page:
        open_tab(page, "monitor")
        page.locator("#monitor-past").get_by_role("button", name="old").click()
        wait_for(lambda: text_of(page, "state") == "Finished", page=page)
        page.reload()
        open_tab(page, "monitor")
        wait_for(lambda: page.locator("#monitor-picker").input_value() == "old", page=page)
        page.locator("#monitor-picker").select_option("<b>odd name")
        wait_for(lambda: "The disk is full" in text_of(page, "trouble"), page=page)


@pytest.fixture
def queue(opened):
    """Three runs wait in the open window, and nobody works them off."""
    workspace = opened[1].workspace
    with holding(workspace.cache / "queue.lock") as ours:
        assert ours
        runs = waits(workspace, "first", "second", "third")
        yield runs
        for run in runs:
            run.queued.unlink(missing_ok=True)


def lines_of(page: Any) -> list[str]:
    return page.locator("#monitor-queue .name").all_inner_texts()


def test_what_waits_is_put_elsewhere_by_buttons_and_by_dragging(opened, queue):
    browser, served = opened
    with visit(browser, served) as page:
        open_tab(page, "monitor")
        wait_for(lambda: lines_of(page) == ["first", "second", "third"], page=page, what="the queue")

        def lands(*names: str) -> None:
            wait_for(lambda: queue_of(served.workspace) == list(names), page=page, what=f"{names} on disk")
            assert lines_of(page) == list(names)
            page.wait_for_selector("#monitor-queue .nosnja-button[disabled]", state="detached")

        def focused() -> str:
            return page.evaluate("document.activeElement.closest('li')?.dataset.run + ' ' + document.activeElement.className")

        button = page.get_by_role("button", name="Let third run earlier")
        button.focus()
        page.keyboard.press("Enter")
        lands("first", "third", "second")
        wait_for(lambda: focused() == "third nosnja-button earlier", page=page, what="the focus on what moved")
        page.keyboard.press("Enter")
        lands("third", "first", "second")
        assert focused().startswith("third ") and not button.is_visible(), "the first has no earlier"
        assert not page.get_by_role("button", name="Let second run later").is_visible(), "the last has no later"
        page.get_by_role("button", name="Let third run later").click()
        lands("first", "third", "second")

        def drag(name: str, onto: str, below: bool) -> None:
            line = page.locator(f"#monitor-queue li[data-run={onto}]")
            height = line.bounding_box()["height"]
            page.locator(f"#monitor-queue li[data-run={name}] .grip").drag_to(
                line, target_position={"x": 60, "y": height - 2 if below else 2}
            )

        drag("first", "second", below=True)
        lands("third", "second", "first")
        drag("first", "third", below=False)
        lands("first", "third", "second")
        drag("second", "third", below=False)
        lands("first", "second", "third")
        assert page.locator("#monitor-queue :is(.dragged, .lands-before, .lands-after)").count() == 0
        page.wait_for_timeout(5000)  # the list that the window sends says the same
        assert lines_of(page) == ["first", "second", "third"]

        # One whose turn comes while it is moved: until the answer its buttons rest, then a sentence says why.
        with holding(served.workspace.cache / "start.lock") as ours:
            assert ours
            drag("third", "first", below=False)
            assert lines_of(page) == ["third", "first", "second"]
            assert page.locator("#monitor-queue li[data-run=third] .nosnja-button[disabled]").count() == 3
            assert page.locator("#monitor-queue li[data-run=first] .nosnja-button[disabled]").count() == 0
            queue[2].queued.unlink()
        wait_for(lambda: "It does not wait any more." in page.locator("#monitor-runs").inner_text(), page=page, what="the sentence")
        wait_for(lambda: lines_of(page) == ["first", "second"] == queue_of(served.workspace), page=page, what="the queue without it")


def test_the_row_of_the_run_that_is_watched_goes_on_and_no_column_jumps(opened):
    browser, served = opened
    workspace = served.workspace
    watched = training(workspace, "watched", started(time.time(), 10_000), step(5), live=True)
    training(workspace, "beside", started(time.time() - 60), step(7), live=True)

    def row(name: str) -> list[str]:
        return page.locator(f"#monitor-past tr[data-run={name}] td").all_inner_texts()

    def edges() -> list[float]:
        return page.evaluate("[...document.querySelectorAll('#monitor-past th')].map((cell) => cell.getBoundingClientRect().left)")

    with visit(browser, served, size=(1280, 720)) as page:
        open_tab(page, "monitor")
        page.locator("#monitor-past").get_by_role("button", name="watched").click()
        wait_for(lambda: row("watched")[3:5] == ["5 / 10000", "0.2"], page=page, what="the numbers")
        assert row("beside")[2:5] == ["Running", "–", "–"]
        before = edges()
        watched.log().append(step(9_999, loss=0.012345))
        wait_for(lambda: row("watched")[3:5] == ["9999 / 10000", "0.106"], page=page, what="grown numbers")
        assert edges() == before
        page.locator("#monitor-past").get_by_role("button", name="beside").click()
        wait_for(lambda: row("beside")[3:5] == ["7 / 100", "0.2"], page=page, what="the other's numbers")
        assert row("watched")[2:5] == ["Running", "–", "–"]
    for name in ("watched", "beside"):
        (workspace.runs / name / "process.json").unlink()
