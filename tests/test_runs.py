"""The run folder: made once, held by one process, its state derived from the log and the process."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nosnja_gui import events, launcher, runs
from nosnja_gui.events import Cell, Failed, Finished, Stage, Started, Step, Stopped
from nosnja_gui.jobs import AxisSettings, CaptionJob, DemoJob, GridJob, TrainJob
from nosnja_gui.processes import is_alive, self_mark, start_mark
from nosnja_gui.runs import RunFolder, identifier, runs_in
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace, file_name

JOB = TrainJob(name="costume", trigger="nosnjaoutfit")
GRID = GridJob.parse({"x": {"axis": "weight", "values": [0, 1]}, "prompt": "a dog"})


def step(number: int, loss: float = 0.5) -> Step:
    return Step(step=number, epoch=1, loss=loss, learning_rates={"unet": 1e-4}, seconds_per_step=2.0)


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", JOB)


def dead_process() -> dict:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mark = start_mark(process.pid)
    assert mark and is_alive(process.pid, mark)
    process.communicate(b"\n")
    return {"pid": process.pid, "start": mark}


# ---------------------------------------------------------------- the folder


@pytest.mark.parametrize("job", [JOB, GRID, CaptionJob(dataset="pictures")])
def test_a_run_says_what_was_asked_for(tmp_path, job):
    run = RunFolder.create(tmp_path / "a run", job)
    assert RunFolder(run.path).job() == job
    assert run.requests.is_dir()
    assert run.checkpoints.is_dir() == (job.job == "train")


def test_the_same_job_may_be_begun_again_and_another_may_not(run):
    before = run.run_yaml.read_bytes()
    RunFolder.create(run.path, JOB)
    RunFolder.create(run.path, JOB.changed(output="elsewhere"))
    for other in (JOB.changed(**{"training.epochs": 3}), GRID, CaptionJob(dataset="x")):
        with pytest.raises(UserError, match="another run"):
            RunFolder.create(run.path, other)
    assert run.run_yaml.read_bytes() == before


def test_a_folder_with_other_things_is_refused_and_left_alone(tmp_path):
    folder = tmp_path / "holiday"
    folder.mkdir()
    (folder / "picture.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="new or empty"):
        RunFolder.create(folder, JOB)
    assert [entry.name for entry in folder.iterdir()] == ["picture.jpg"]
    with pytest.raises(UserError, match="new or empty"):
        RunFolder.create(folder / "picture.jpg", JOB)


def test_an_empty_folder_or_one_with_hidden_leftovers_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".run.yaml.abc.part").write_bytes(b"half")
    assert RunFolder.create(tmp_path / "empty", JOB).job() == JOB


@pytest.mark.parametrize("text", ["", "job: magic\n", "name: x\n", "job: [train]\n", "job: train\nepochs: 3\n"])
def test_a_damaged_run_yaml_is_one_sentence(run, text):
    run.run_yaml.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        run.job()
    assert "\n" not in str(caught.value)


def test_what_is_no_run_folder_says_so(tmp_path):
    with pytest.raises(UserError, match=r"no run\.yaml"):
        RunFolder(tmp_path).job()


def test_runs_are_listed_newest_first(tmp_path):
    assert runs_in(tmp_path / "none") == []
    for number, name in enumerate(["b", "a", "c"]):
        made = RunFolder.create(tmp_path / name, JOB)
        os.utime(made.run_yaml, (1000 + number, 1000 + number))
    (tmp_path / "other").mkdir()
    assert [found.path.name for found in runs_in(tmp_path)] == ["c", "a", "b"]


def test_runs_within_a_run_are_listed_and_called_by_their_path(tmp_path):
    workspace = Workspace(tmp_path / "w").create()
    demo = RunFolder.create(workspace.runs / "demo-001", DemoJob(quick=True))
    for number, (name, job) in enumerate([("training", JOB), ("grid", GRID), (".trash", JOB), ("weights", JOB)]):
        inner = RunFolder.create(demo.path / name, job, within=demo)
        os.utime(inner.run_yaml, (2000 + number, 2000 + number))
    RunFolder.create(demo.path / "dataset" / "deeper", JOB)
    RunFolder.create(workspace.runs / ".deleted", JOB)
    os.utime(demo.run_yaml, (1000, 1000))
    found = runs_in(workspace.runs)
    assert [identifier(run, workspace) for run in found] == ["demo-001/grid", "demo-001/training", "demo-001"]
    for run in found:
        assert workspace.resolve("runs", identifier(run, workspace)) == run.path.resolve()
    (tmp_path / "link").symlink_to(workspace.root)
    assert identifier(RunFolder(tmp_path / "link" / "runs" / "demo-001"), workspace) == "demo-001"
    for elsewhere in (tmp_path / "other", workspace.runs):
        with pytest.raises(UserError, match="not in the workspace"):
            identifier(RunFolder(elsewhere), workspace)


def test_asking_for_hundreds_of_runs_is_quick(tmp_path):
    for number in range(300):
        RunFolder.create(tmp_path / f"run-{number:03}", JOB)
    began = time.process_time()
    for _ in range(5):
        assert len(runs_in(tmp_path)) == 300
    assert (time.process_time() - began) / 5 < 0.05


# ---------------------------------------------------------------- the lock


def test_only_one_holds_a_run_and_it_may_hold_it_twice(run):
    with run.lock(), run.lock(), pytest.raises(UserError, match=f"in use by process {os.getpid()}"), RunFolder(run.path).lock():
        pass
    with RunFolder(run.path).lock():
        pass
    assert run.lock_file.read_bytes() == b""


def test_another_process_is_kept_out_and_its_death_frees_the_run(run):
    code = "import sys; from pathlib import Path; from nosnja_gui.runs import RunFolder\n"
    code += "with RunFolder(Path(sys.argv[1])).lock(): print('held', flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code, run.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=launcher.PROGRAM)
    assert holder.stdout.readline().strip() == b"held"
    assert launcher.alive(run) and run.status().state == "running"
    with pytest.raises(UserError, match=f"in use by process {holder.pid}"), run.lock():
        pass
    holder.kill()
    holder.communicate()
    assert not launcher.alive(run) and run.status().state == "crashed"
    with run.lock():
        assert run.status().state == "running"


# ---------------------------------------------------------------- the state


def test_the_life_of_a_run(run):
    log = run.log()
    assert run.status().state == "new"
    with run.lock():
        log.append(Stage(name="Loading the model"))
        assert (run.status().state, run.status().stage) == ("running", "Loading the model")
        log.append(Started(job="train", total=100))
        log.append(step(40, 0.25))
        status = run.status()
        assert (status.state, status.step, status.total, status.loss, status.stage) == ("running", 40, 100, 0.25, "")
        assert (status.seconds_per_step, status.eta_seconds) == (2.0, 120.0)
        log.append(Stopped(step=40))
        assert run.status().state == "stopped"
    assert (run.status().state, run.status().step) == ("stopped", 40)
    with run.lock():
        assert run.status().state == "running", "the old end is not this process's"
        log.append(Started(job="train", total=100, done=40))
        log.append(step(100))
        log.append(Finished(files=["weights/costume.safetensors"], seconds=9))
        assert run.status().state == "finished"
    assert run.status().state == "finished"
    assert run.status().eta_seconds is None


def test_a_run_that_waits_says_so_until_it_is_worked_on(run):
    run.queued.touch()
    assert run.status().state == "queued"
    run.log().append(Started(job="train", total=100))
    run.log().append(step(40))
    run.log().append(Stopped(step=40))
    status = run.status()
    assert (status.state, status.step, status.total, status.eta_seconds) == ("queued", 40, 100, None)
    with run.lock():
        assert run.status().state == "running"
    assert run.status().state == "stopped" and not run.queued.exists()


def test_a_demo_counts_stages(tmp_path):
    run = RunFolder.create(tmp_path / "demo", DemoJob())
    with run.lock():
        run.log().append(Started(job="demo", total=6, done=2))
        run.log().append(Stage(name="Training", done=3, total=6))
        status = run.status()
        assert (status.state, status.step, status.total, status.stage) == ("running", 3, 6, "Training")
        run.log().append(Finished(files=["result.json"], seconds=9))
    assert (run.status().state, run.status().step) == ("finished", 6)


def test_a_failure_keeps_its_message_until_the_next_start(run):
    run.log().append(Failed(message="The disk is full."))
    assert (run.status().state, run.status().message) == ("failed", "The disk is full.")
    run.log().append(Started(job="train", total=3))
    assert run.status().message != "The disk is full."


def test_a_dead_process_without_an_end_has_crashed_and_its_last_words_are_shown(run):
    run.log().append(Started(job="train", total=100))
    run.log().append(step(7))
    run.process.write_text(json.dumps({**dead_process(), "log_bytes": 0}))
    run.console.write_text("loading\nbar 1\rbar 2\rbar 3\n" + "\n".join(f"line {n}" for n in range(30)) + "\nSegmentation fault\n")
    status = run.status()
    assert (status.state, status.step) == ("crashed", 7)
    assert status.message.endswith("line 29\nSegmentation fault")
    assert "bar 1" not in status.message


def test_a_start_that_dies_at_once_is_a_crash_even_after_an_orderly_stop(run):
    run.log().append(Stopped(step=5))
    assert run.status().state == "stopped"
    run.process.write_text(json.dumps({**dead_process(), "log_bytes": run.log_bytes()}))
    assert run.status().state == "crashed"


def test_a_number_that_the_system_used_again_is_not_taken_for_the_process(run):
    run.log().append(Started(job="train", total=100))
    run.process.write_text(json.dumps({"pid": os.getpid(), "start": "boot:1", "log_bytes": 0}))
    assert run.status().state == "crashed"
    run.process.write_text(json.dumps({**self_mark(), "log_bytes": 0}))
    assert run.status().state == "running"


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pid": "x", "start": 3}', '{"pid": -1, "start": "a"}', '{"pid": true}'])
def test_a_damaged_process_file_counts_as_no_process(run, content):
    run.process.write_text(content)
    assert not launcher.alive(run)


def test_a_grid_counts_cells_and_reused_ones_cost_no_time(tmp_path):
    run = RunFolder.create(tmp_path / "grid", GRID)
    with run.lock():
        run.log().append(Started(job="grid", total=10, done=2, at=100.0))
        run.log().append(Cell(done=1, total=10, file="cells/a.png", reused=True, at=100.0))
        run.log().append(Cell(done=2, total=10, file="cells/b.png", reused=True, at=100.0))
        assert (run.status().step, run.status().seconds_per_step) == (2, None)
        run.log().append(Cell(done=4, total=10, file="cells/c.png", at=106.0))
        status = run.status()
    assert (status.step, status.total, status.seconds_per_step, status.eta_seconds) == (4, 10, 3.0, 18.0)


def test_the_curve_is_thinned_and_repeated_steps_replace_earlier_ones(run):
    for number in range(1, 31):
        run.log().append(step(number, float(number)))
    run.log().append(Started(job="train", total=40, done=20))
    for number in range(21, 41):
        run.log().append(step(number, 100.0))
    curve = run.curve()
    assert [point.step for point in curve] == list(range(1, 41))
    assert [point.loss for point in curve[18:22]] == [19.0, 20.0, 100.0, 100.0]
    thinned = run.curve(limit=10)
    assert [point.step for point in thinned] == list(range(4, 41, 4))
    assert thinned[0].loss == 2.5, "the mean of steps 1 to 4"
    assert len(run.curve(limit=7)) <= 7


def test_requests_are_taken_once_and_old_ones_forgotten(run, monkeypatch):
    run.request("stop")
    run.request("stop")
    assert run.take_request("stop") and not run.take_request("stop")
    assert not run.take_request("sample")
    run.request("save")
    run.clear_requests()
    assert run.take_request("save"), "asked while this process was already on its way"
    run.request("save")
    monkeypatch.setattr(runs, "PROCESS_BEGAN", time.time() + 60)
    run.clear_requests()
    assert not run.take_request("save")


def test_a_learning_rate_is_asked_for_and_taken_once(run):
    assert run.take_rate() is None
    run.request_rate(1e-3)
    run.request_rate(2.5e-5)
    assert run.take_rate() == 2.5e-5 and run.take_rate() is None
    for rate in (0, -1, 1.01, float("nan"), float("inf")):
        with pytest.raises(UserError, match="must be above 0 and at most 1"):
            run.request_rate(rate)
    assert not list(run.requests.iterdir())
    for content in ("", "fast", "nan", "7", "-1"):
        run.rate_request.write_text(content)
        assert run.take_rate() is None and not run.rate_request.exists()
    run.request_rate(1)
    run.clear_requests()
    assert run.take_rate() == 1
    run.request_rate(1)
    run.clear_requests(since_begin=True)
    assert run.take_rate() is None


def test_reading_a_long_log_is_quick(run):
    lines = b"".join(events.to_line(step(number)).encode() + b"\n" for number in range(20_000))
    run.events.write_bytes(lines)
    began = time.process_time()
    assert run.status().step == 19_999
    assert time.process_time() - began < 3


# ---------------------------------------------------------------- the launcher


def wait_for_end(run: RunFolder, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while launcher.alive(run):
        assert time.monotonic() < until, run.console.read_text()
        time.sleep(0.05)


def test_a_launched_run_is_detached_and_says_in_one_sentence_why_it_could_not_begin(tmp_path):
    job = TrainJob.parse({"dataset": {"path": str(tmp_path / "no pictures")}, "model": {"path": str(tmp_path / "no model")}})
    run = RunFolder.create(tmp_path / "run $(touch x) -rf", job)
    pid = launcher.start(run)
    entry = json.loads(run.process.read_text())
    assert (entry["pid"], entry["command"][0]) == (pid, sys.executable)
    assert os.name == "nt" or os.getsid(pid) == pid
    assert launcher.alive(run) and run.status().state == "running"
    with pytest.raises(UserError, match="in use"):
        launcher.start(run)
    wait_for_end(run)
    status = run.status()
    assert status.state == "failed" and "no pictures" in status.message
    assert "Traceback" not in run.console.read_text()


def test_a_killed_run_is_gone_with_its_children(run):
    code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code])
    run.process.write_text(json.dumps({"pid": process.pid, "start": start_mark(process.pid), "log_bytes": 0}))
    import psutil

    until = time.monotonic() + 20
    while not (children := psutil.Process(process.pid).children()) and time.monotonic() < until:
        time.sleep(0.02)
    launcher.stop(run, kill=True)
    process.wait(10)
    assert children and not launcher.alive(run)
    assert all(start_mark(child.pid) is None or not child.is_running() for child in children)


def test_a_polite_stop_is_a_request(run):
    launcher.stop(run)
    assert run.take_request("stop")


# ---------------------------------------------------------------- the workspace


def test_new_runs_are_numbered_behind_the_highest(tmp_path):
    workspace = Workspace(tmp_path / "w")
    assert workspace.new_run("costume") == workspace.runs / "costume-001"
    assert not workspace.root.exists()
    workspace.create()
    for name in ("costume-001", "costume-007", "costume-x", "other-090"):
        (workspace.runs / name).mkdir()
    assert workspace.new_run("costume").name == "costume-008"


@pytest.mark.parametrize("name", ["../../etc", "a/b", "C:\\x", "", "...", " ", "-rf", "a\nb", "x" * 300, "$(reboot)", "nošnja 2"])
def test_any_name_becomes_one_plain_file_name(tmp_path, name):
    path = Workspace(tmp_path).new_run(name)
    assert path.parent == tmp_path / "runs" and path.resolve().parent == (tmp_path / "runs").resolve()
    assert not set(path.name) & set('/\\:*?"<>|\n$ ') and path.name[0] not in "-." and len(path.name) < 100


def test_letters_of_any_language_stay():
    assert file_name("nošnja 2") == "nošnja-2"


def test_only_what_is_inside_the_workspace_is_found(tmp_path):
    workspace = Workspace(tmp_path / "w").create()
    (workspace.runs / "one").mkdir()
    (tmp_path / "secret").mkdir()
    (workspace.runs / "link").symlink_to(tmp_path / "secret")
    (workspace.runs / "loop").symlink_to(workspace.runs / "loop")
    assert workspace.resolve("runs", "one") == (workspace.runs / "one").resolve()
    inside_other = [
        "../models",
        "one/../../models",
        "..",
        ".",
        "",
        "/etc",
        str(tmp_path / "secret"),
        "link",
        "loop",
        "none",
        "a\0b",
        "x" * 5000,
    ]
    for name in inside_other:
        with pytest.raises(UserError):
            workspace.resolve("runs", name)


def test_the_workspace_comes_from_the_environment_or_lies_beside_the_program(monkeypatch, tmp_path):
    monkeypatch.setenv("NOSNJA_WORKSPACE", str(tmp_path / "mine"))
    assert Workspace.default().root == tmp_path / "mine"
    monkeypatch.delenv("NOSNJA_WORKSPACE")
    assert Workspace.default().root == Path(runs.__file__).resolve().parents[1] / "workspace"


def test_a_workspace_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another folder"):
        Workspace(tmp_path / "file" / "w").create()


def test_a_grids_folder_takes_a_changed_grid_but_no_training(tmp_path):
    first = GridJob(prompt="a girl", x=AxisSettings(axis="seed", values=[1, 2]))
    grown = first.changed(**{"x.values": [1, 2, 3]})
    RunFolder.create(tmp_path / "grid", first)
    assert RunFolder.create(tmp_path / "grid", grown).job() == grown
    with pytest.raises(UserError, match="holds another run"):
        RunFolder.create(tmp_path / "grid", TrainJob())
