"""The queue: one run after another, in the order asked for, whatever becomes of the one before and of the window."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from nosnja_gui import events, launcher, work_queue
from nosnja_gui.__main__ import main
from nosnja_gui.jobs import TrainJob
from nosnja_gui.processes import start_mark
from nosnja_gui.runs import RunFolder, held, holding
from nosnja_gui.settings import UserError
from nosnja_gui.work_queue import busy, enqueue, move, remove, start_or_enqueue, waiting, wake, work_off
from nosnja_gui.workspace import Workspace

WORKS = """
import sys, time; from pathlib import Path
from nosnja_gui import events; from nosnja_gui.runs import RunFolder
run = RunFolder(Path(sys.argv[1]))
with run.lock():
    run.log().append(events.Started(job="train", total=1))
    while not (run.path / "may end").exists(): time.sleep(0.01)
    run.log().append(events.Failed(message="No.") if "fails" in run.path.name else events.Finished(files=[], seconds=1))
"""
"""Stands in for a job: holds its run until it is told to end."""


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path / "workspace").create()


@pytest.fixture
def started(monkeypatch):
    """Runs are worked on by WORKS, and no process is begun for the queue; the names of those started, in order."""
    names: list[str] = []
    processes: list[subprocess.Popen] = []

    def start(run: RunFolder, workspace: Workspace) -> int:
        run.job()
        names.append(run.path.name)
        process = subprocess.Popen([sys.executable, "-c", WORKS, run.path], cwd=launcher.PROGRAM)
        processes.append(process)
        run.process.write_text(json.dumps({"pid": process.pid, "start": start_mark(process.pid), "log_bytes": run.log_bytes()}))
        run.queued.unlink(missing_ok=True)
        threading.Thread(target=process.wait, daemon=True).start()
        return process.pid

    monkeypatch.setattr(launcher, "start", start)
    monkeypatch.setattr(work_queue, "wake", lambda workspace: None)
    yield names
    for process in processes:
        process.kill()
        process.wait()


def a_run(workspace: Workspace, name: str) -> RunFolder:
    return RunFolder.create(workspace.runs / name, TrainJob(name=name))


def let_end(*runs: RunFolder) -> None:
    for run in runs:
        (run.path / "may end").touch()


def names(runs: list[RunFolder]) -> list[str]:
    return [run.path.name for run in runs]


def wait_until(what, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


# ---------------------------------------------------------------- waiting


def test_runs_wait_in_the_order_in_which_they_were_queued(workspace, started):
    for name in "cab":
        enqueue(a_run(workspace, name), workspace)
    assert names(waiting(workspace)) == ["c", "a", "b"]
    enqueue(RunFolder(workspace.runs / "c"), workspace)
    assert names(waiting(workspace)) == ["c", "a", "b"], "who waits keeps the place"
    assert {run.status().state for run in waiting(workspace)} == {"queued"}
    assert started == []


def test_runs_are_taken_out_and_moved(workspace, started):
    a, b, c = (a_run(workspace, name) for name in "abc")
    for run in (a, b, c):
        enqueue(run, workspace)
    move(c, workspace, a)
    assert names(waiting(workspace)) == ["c", "a", "b"]
    move(c, workspace, None)
    assert names(waiting(workspace)) == ["a", "b", "c"]
    assert remove(b, workspace) and not remove(b, workspace)
    assert (names(waiting(workspace)), b.status().state) == (["a", "c"], "new")
    move(b, workspace, a)
    move(a, workspace, b)
    assert names(waiting(workspace)) == ["a", "c"], "who does not wait is moved nowhere"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"order": null}', '{"order": "first"}', '{"order": {}}'])
def test_a_damaged_place_is_the_last_one(workspace, started, content):
    a, b = a_run(workspace, "a"), a_run(workspace, "b")
    enqueue(a, workspace)
    enqueue(b, workspace)
    a.queued.write_text(content)
    assert names(waiting(workspace)) == ["b", "a"]
    enqueue(a_run(workspace, "c"), workspace)
    assert len(waiting(workspace)) == 3
    move(a, workspace, b)
    assert names(waiting(workspace))[:2] == ["a", "b"]


def test_a_run_is_the_same_by_whatever_links_it_is_reached(workspace, started, tmp_path):
    a, b = a_run(workspace, "a"), a_run(workspace, "b")
    (tmp_path / "link").symlink_to(workspace.root)
    linked = Workspace(tmp_path / "link")
    enqueue(a, linked)
    enqueue(b, workspace)
    move(b, linked, a)
    assert names(waiting(workspace)) == ["b", "a"]
    assert start_or_enqueue(b, linked) == "started"


def test_a_deleted_run_waits_no_more(workspace, started):
    import shutil

    a, b = a_run(workspace, "a"), a_run(workspace, "b")
    enqueue(a, workspace)
    enqueue(b, workspace)
    shutil.rmtree(a.path)
    assert names(waiting(workspace)) == ["b"]
    assert not remove(a, workspace)


def test_what_is_no_run_or_runs_already_cannot_wait(workspace, started):
    run = a_run(workspace, "a")
    with run.lock(), pytest.raises(UserError, match="in use"):
        enqueue(RunFolder(run.path), workspace)
    with pytest.raises(UserError, match=r"no run\.yaml"):
        enqueue(RunFolder(workspace.runs / "nothing"), workspace)
    assert waiting(workspace) == []


def test_a_run_that_is_started_otherwise_leaves_the_queue(workspace, started):
    run = a_run(workspace, "a")
    enqueue(run, workspace)
    with run.lock():
        assert waiting(workspace) == [] and run.status().state == "running"


def test_a_started_process_takes_its_run_out_of_the_queue(workspace, monkeypatch):
    monkeypatch.setattr(work_queue, "wake", lambda workspace: None)
    monkeypatch.setattr(launcher, "detach", lambda command, workspace, console: os.getpid())
    run = a_run(workspace, "a")
    enqueue(run, workspace)
    launcher.start(run, workspace)
    assert waiting(workspace) == [] and run.status().state == "running"


# ---------------------------------------------------------------- working


def test_who_works_is_found_and_of_a_demo_and_its_training_the_demo(workspace, started):
    assert busy(workspace) is None
    demo = a_run(workspace, "demo-001")
    inner = a_run(workspace, "demo-001/training")
    with inner.lock():
        assert busy(workspace).path == inner.path
        with demo.lock():
            assert busy(workspace).path == demo.path
    assert busy(workspace) is None


def test_the_first_is_started_and_the_second_waits_for_it(workspace, started):
    a, b = a_run(workspace, "a"), a_run(workspace, "b")
    assert start_or_enqueue(a, workspace) == "started"
    assert start_or_enqueue(b, workspace) == "queued"
    with pytest.raises(UserError, match="in use"):
        start_or_enqueue(a, workspace)
    let_end(a)
    wait_until(lambda: not a.living())
    assert start_or_enqueue(a_run(workspace, "c"), workspace) == "queued", "nobody overtakes those that wait"
    assert start_or_enqueue(b, workspace) == "started", "whose turn it is"
    assert (started, names(waiting(workspace))) == (["a", "b"], ["c"])


def test_a_run_whose_process_is_just_leaving_is_gone_on_with(workspace, started):
    run = a_run(workspace, "a")
    ended, leave = threading.Event(), threading.Event()

    def work() -> None:
        with RunFolder(run.path).lock():
            run.log().append(events.Stopped(step=3))
            ended.set()
            leave.wait(10)

    worker = threading.Thread(target=work)
    worker.start()
    assert ended.wait(10) and run.living()
    threading.Timer(0.4, leave.set).start()
    assert start_or_enqueue(run, workspace) == "started"
    worker.join()


def test_two_windows_do_not_start_two_runs_at_once(workspace, started):
    answers: list[str] = []
    runs = [a_run(workspace, name) for name in "abcd"]
    threads = [threading.Thread(target=lambda run=run: answers.append(start_or_enqueue(run, workspace))) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answers) == ["queued"] * 3 + ["started"]


def test_the_queue_is_worked_off_one_at_a_time_and_past_what_fails(workspace, started):
    runs = [a_run(workspace, name) for name in ("fails", "b", "damaged", "c")]
    for run in runs:
        enqueue(run, workspace)
    runs[2].run_yaml.write_text("job: magic\n")
    said: list[str] = []
    worker = threading.Thread(target=lambda: work_off(workspace, said.append, look_every=0.02))
    worker.start()
    for number, run in ((1, runs[0]), (2, runs[1]), (3, runs[3])):
        wait_until(lambda number=number: len(started) == number)
        time.sleep(0.1)
        assert len(started) == number, "the next one waits"
        let_end(run)
    worker.join(60)
    assert started == ["fails", "b", "c"] and waiting(workspace) == []
    wait_until(lambda: runs[3].status().state == "finished")
    assert [run.status().state for run in runs] == ["failed", "finished", "failed", "finished"]
    assert "must say 'job: '" in runs[2].status().message
    assert len([line for line in said if line.startswith("Started ")]) == 3


def test_only_one_process_works_a_queue_off(workspace, started):
    enqueue(a_run(workspace, "a"), workspace)
    said: list[str] = []
    with holding(workspace.cache / "queue.lock"):
        assert work_off(workspace, said.append, look_every=0.01) == 0
    assert started == [] and "Another process" in said[0]
    assert not held(workspace.cache / "queue.lock")


def test_what_is_queued_while_the_worker_ends_is_not_forgotten(workspace, started, monkeypatch):
    """The last look at the queue is after the lock was given back."""
    late = a_run(workspace, "late")
    let_end(late)
    enqueue(first := a_run(workspace, "first"), workspace)
    let_end(first)
    real, looks = work_queue._open, []

    def look(*arguments):
        found = real(*arguments)
        looks.append(len(found))
        if not found and looks.count(0) == 1:
            enqueue(late, workspace)  # right after the worker has seen an empty queue, while it still holds the lock
        return found

    monkeypatch.setattr(work_queue, "_open", look)
    assert work_off(workspace, lambda text: None, look_every=0.02) == 2
    assert started == ["first", "late"]


# ---------------------------------------------------------------- the real thing


def test_the_queue_goes_on_in_a_process_of_its_own_after_the_window_has_gone(workspace, tmp_path):
    """A window queues two runs and ends; both get their turn. The first is damaged, the second lacks its pictures."""
    damaged, lacking = a_run(workspace, "damaged"), a_run(workspace, "lacking")
    damaged.run_yaml.write_text(damaged.run_yaml.read_text())
    code = "import sys; from pathlib import Path; from nosnja_gui import work_queue; from nosnja_gui.runs import RunFolder\n"
    code += "from nosnja_gui.workspace import Workspace; workspace = Workspace(Path(sys.argv[1]))\n"
    code += "for name in ('damaged', 'lacking'):\n    run = RunFolder(workspace.runs / name); work_queue.enqueue(run, workspace)\n"
    code += "    if name == 'damaged': run.run_yaml.write_text('job: magic')\n"
    subprocess.run([sys.executable, "-c", code, workspace.root], cwd=launcher.PROGRAM, check=True, timeout=60)
    wait_until(lambda: lacking.logged().state == "failed")
    assert "must say 'job: '" in damaged.status().message
    assert "No dataset is given" in lacking.status().message
    wait_until(lambda: not held(workspace.cache / "queue.lock"))
    assert waiting(workspace) == []
    assert "Started" in (workspace.cache / "queue.log").read_text()


def test_nothing_is_begun_where_nothing_waits(workspace, monkeypatch):
    monkeypatch.setattr(launcher, "detach", lambda *arguments: pytest.fail("a process was begun"))
    wake(workspace)
    (run := a_run(workspace, "a")).queued.touch()
    with holding(workspace.cache / "queue.lock"):
        wake(workspace)
    assert run.queued.exists()


def test_the_command_line_queues_and_lists(workspace, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("NOSNJA_WORKSPACE", str(workspace.root))
    monkeypatch.setattr(work_queue, "wake", lambda workspace: None)
    run = a_run(workspace, "a")
    assert main(["train", "a", "--queue"]) == 0
    assert names(waiting(workspace)) == ["a"]
    assert "Queued:" in capsys.readouterr().out
    assert main(["queue", "--list"]) == 0
    assert capsys.readouterr().out.split() == ["a"]
    elsewhere = RunFolder.create(tmp_path / "elsewhere", TrainJob())
    assert main(["train", str(elsewhere.path), "--queue"]) == 2
    assert "not in the workspace" in capsys.readouterr().err
    remove(run, workspace)
    assert main(["queue"]) == 0


def test_asking_hundreds_of_runs_is_quick(workspace):
    for number in range(300):
        run = a_run(workspace, f"run-{number:03}")
        run.process.write_text(json.dumps({"pid": 2**22 + number, "start": "boot:1", "log_bytes": 0}))
        run.lock_file.touch()
    busy(workspace)
    began = time.process_time()
    for _ in range(5):
        assert busy(workspace) is None and waiting(workspace) == []
    assert (time.process_time() - began) / 5 < 0.1


def test_the_log_of_a_refused_run_is_an_events_file(workspace, started):
    run = a_run(workspace, "a")
    enqueue(run, workspace)
    run.run_yaml.write_text("job: magic\n")
    work_off(workspace, lambda text: None, look_every=0.01)
    assert [event.kind for event in events.read(run.events)] == ["failed"]
