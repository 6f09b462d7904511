"""Logs of runs, read piece by piece: quick however long they are, and the same as if read at once."""

import json
import os
import random
import threading
import time
from dataclasses import asdict, replace

import pytest

from nosnja_gui import events
from nosnja_gui.jobs import CaptionJob, TrainJob
from nosnja_gui.logs import CURVE_POINTS, Logs, RunLog
from nosnja_gui.processes import self_mark
from nosnja_gui.runs import RunFolder

LONG = 100_000


def step(number: int, loss: float = 0.1, **changes: object) -> events.Step:
    values = {"epoch": 1 + number // 100, "learning_rates": {"unet": 1e-4, "text_encoder": 5e-5}, "seconds_per_step": 0.5, **changes}
    return events.Step(step=number, loss=loss, **values)


def write(run: RunFolder, *said: events.Event) -> None:
    """Like the log's own writer, which ends a line that was left without its end, but in one go."""
    with open(run.events, "ab") as file:
        file.write(line_end(run) + "".join(events.to_line(event) + "\n" for event in said).encode())


def line_end(run: RunFolder) -> bytes:
    return b"" if not run.events.exists() or run.events.read_bytes()[-1:] in (b"", b"\n") else b"\n"


def live(run: RunFolder) -> None:
    """As if this process worked on the run."""
    run.process.write_text(json.dumps({**self_mark(), "log_bytes": 0}))


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "dress-001", TrainJob())


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    made = RunFolder.create(tmp_path_factory.mktemp("long") / "dress-001", TrainJob())
    write(made, events.Started(job="train", total=2 * LONG, epochs=10), *(step(number, 1 / number) for number in range(1, LONG + 1)))
    return made


def fixed(log: RunLog) -> RunLog:
    """Without what belongs to the moment of looking."""
    return replace(log, version="", elapsed_seconds=None)


# ---------------------------------------------------------------- what it says


def test_a_run_without_a_log_is_new(run):
    log = Logs().of(run)
    assert log.status.state == "new" and log.curve.steps == [] and log.began is None and log.elapsed_seconds is None


def test_what_a_training_says(run):
    write(
        run,
        events.Warned(message="Two pictures are small."),
        events.Stage(name="Encoding pictures", done=12, total=30),
    )
    live(run)
    logs = Logs()
    log = logs.of(run)
    assert (log.status.state, log.status.stage, log.stage_done, log.stage_total) == ("running", "Encoding pictures", 12, 30)
    write(
        run,
        events.Started(job="train", total=400, device="cpu", epochs=4, steps_per_epoch=100),
        events.Validated(step=0, loss=0.5),
        events.Sampled(step=0, files=["samples/a.png", "samples/b.png"]),
        step(100, 0.4),
        events.Saved(step=100, epoch=1, file="weights/x.safetensors"),
        step(200, 0.2, seconds_per_step=1.0),
        events.Warned(message="Two pictures are small."),
    )
    log = logs.of(run)
    assert (log.job, log.device, log.epoch, log.epochs) == ("train", "cpu", 3, 4)
    assert log.curve.steps == [100, 200] and log.curve.losses == [0.4, 0.2] and log.curve.group == 1
    assert log.curve.rates == {"unet": [1e-4, 1e-4], "text_encoder": [5e-5, 5e-5]}
    assert log.validation == [(0, 0.5)] and log.samples == {0: ["samples/a.png", "samples/b.png"]}
    assert log.saves == [(100, 1, "weights/x.safetensors")] and log.warnings == ["Two pictures are small."]
    assert log.status.step == 200 and log.status.total == 400
    assert log.status.seconds_per_step == pytest.approx(0.75) and log.status.eta_seconds == pytest.approx(150)
    write(run, events.Finished(files=["weights/x.safetensors"], seconds=5))
    assert logs.of(run).status.state == "finished" and logs.of(run).files == ["weights/x.safetensors"]


def test_steps_redone_after_a_resume_replace_the_earlier_ones(run):
    write(run, events.Started(job="train", total=9), *(step(number, 1.0) for number in range(1, 8)))
    logs = Logs()
    assert logs.of(run).curve.steps == [1, 2, 3, 4, 5, 6, 7]
    write(run, events.Started(job="train", total=9, done=4), step(5, 2.0), step(6, 2.0))
    log = logs.of(run)
    assert log.curve.steps == [1, 2, 3, 4, 5, 6] and log.curve.losses == [1.0] * 4 + [2.0] * 2 and log.resumes == [4]
    assert log.curve.steps == [one.step for one in run.curve()]


def test_a_new_learning_rate_is_known_and_a_rate_that_begins_late_has_a_gap(run):
    write(run, step(1, learning_rates={"unet": 1e-4}), step(2), step(3, learning_rates={"text_encoder": 1e-5}))
    with open(run.events, "ab") as file:
        file.write(b'{"kind": "rate_changed", "at": 1.0, "step": 2, "learning_rate": 5e-5}\n')
    log = Logs().of(run)
    assert log.rate_changes == [(2, 5e-5)]
    assert log.curve.rates == {"unet": [1e-4, 1e-4, None], "text_encoder": [None, 5e-5, 1e-5]}


def test_captions_and_cells_are_known_by_their_newest(tmp_path):
    run = RunFolder.create(tmp_path / "captions", CaptionJob(dataset="x"))
    said = [events.Captioned(picture=f"{n}.png", caption=f"a girl {n}", done=n, total=50) for n in range(1, 41)]
    write(run, events.Started(job="caption", total=50), *said, events.Cell(done=1, total=2, file="cells/a.png", error="out of memory"))
    log = Logs().of(run)
    assert log.captions[0] == ("40.png", "a girl 40") and len(log.captions) == 20
    assert log.cells == [("cells/a.png", "out of memory")]


def test_the_time_worked_is_counted_over_all_starts(run):
    write(
        run,
        events.Started(job="train", total=9, at=100.0),
        step(1, at=160.0),
        events.Stage(name="Loading the model", at=5000.0),  # it was killed, and started again much later
        events.Started(job="train", total=9, done=1, at=5010.0),
        step(2, at=5040.0),
        events.Stopped(step=2, at=5050.0),
    )
    assert Logs().of(run).elapsed_seconds == pytest.approx(100.0)


# ---------------------------------------------------------------- the file as it is


def test_half_a_line_waits_for_its_other_half(run):
    logs = Logs()
    line = (events.to_line(step(1)) + "\n").encode()
    run.events.write_bytes(line + line.replace(b'"step": 1', b'"step": 2')[:50])
    assert logs.of(run).curve.steps == [1]
    run.events.write_bytes(line + line.replace(b'"step": 1', b'"step": 2'))
    assert logs.of(run).curve.steps == [1, 2]


def test_damaged_and_unknown_lines_are_passed_over(run):
    logs = Logs()
    lines = [
        b"\x00\xff{", b"[]", b"null", b'{"kind": "tomorrow"}', b'{"kind": "step"}', b'{"kind": ["x"]}', b'{"kind": "step", "step": "x"}',
        b'{"kind": "step", "at": 1, "step": "9", "epoch": 1, "loss": 1, "learning_rates": {}, "seconds_per_step": 1}',
        b'{"kind": "step", "at": 1, "step": 9, "epoch": 1, "loss": 1, "learning_rates": [], "seconds_per_step": 1}',
        b'{"kind": "validated", "step": 3, "loss": NaN}',
        b'{"kind": "validated", "step": 3, "loss": "x"}',
    ]  # fmt: skip
    run.events.write_bytes(b"\n".join([*lines, events.to_line(step(7)).encode(), b""]))
    assert logs.of(run).curve.steps == [7] and logs.status(run).step == 7


@pytest.mark.parametrize("longer", [False, True])
def test_a_file_that_was_replaced_is_read_anew(run, longer):
    logs = Logs()
    write(run, *(step(number) for number in range(1, 11)))
    assert len(logs.of(run).curve.steps) == 10 and logs.status(run).step == 10
    run.events.write_text("")
    write(run, *(step(number, 0.7) for number in range(1, 31 if longer else 4)))
    log = logs.of(run)
    assert log.curve.losses == [0.7] * (30 if longer else 3) and logs.status(run) == log.status
    run.events.unlink()
    assert logs.of(run).curve.steps == [] and logs.status(run).step == 0


def test_a_process_that_dies_is_noticed_although_the_log_says_nothing(run):
    write(run, events.Started(job="train", total=9), step(1))
    live(run)
    logs = Logs()
    assert logs.status(run).state == logs.of(run).status.state == "running"
    run.process.write_text(json.dumps({"pid": os.getpid(), "start": "earlier", "log_bytes": 0}))
    assert logs.status(run).state == logs.of(run).status.state == "crashed"


@pytest.mark.parametrize("seed", range(12))
def test_read_in_pieces_is_the_same_as_read_at_once(tmp_path, seed):
    dice = random.Random(seed)
    run = RunFolder.create(tmp_path / "run", TrainJob())
    pieces, brief = Logs(), Logs()
    now = 0
    for _ in range(60):
        what = dice.random()
        if what < 0.08:
            now = dice.randint(0, now)
            write(run, events.Stage(name="Loading the model"), events.Started(job="train", total=5000, done=now))
        elif what < 0.2:
            write(run, dice.choice([events.Validated(step=now, loss=dice.random()), events.Sampled(step=now, files=[f"{now}.png"])]))
        elif what < 0.3:
            write(run, dice.choice([events.Stopped(step=now), events.Failed(message="x"), events.Warned(message=str(dice.randint(0, 9)))]))
        elif what < 0.34:
            content = run.events.read_bytes() if run.events.exists() else b""
            run.events.write_bytes(content[: dice.randint(0, len(content))])
        elif what < 0.4:
            with open(run.events, "ab") as file:
                file.write(line_end(run) + b'{"kind": "step", "step": 1')
        else:
            count = dice.randint(1, 90)
            write(run, *(step(now + number, dice.random(), seconds_per_step=dice.random()) for number in range(1, count + 1)))
            now += count
        if dice.random() < 0.5:
            log = pieces.of(run)
            assert fixed(log) == fixed(Logs().of(run))
        if dice.random() < 0.5:
            log = brief.brief(run)
            assert fixed(log) == fixed(Logs().brief(run))
            assert (log.status.state, log.status.step, log.status.loss) == (run.status().state, run.status().step, run.status().loss)
    assert fixed(pieces.of(run)) == fixed(Logs().of(run))
    assert pieces.of(run).curve.steps == [one.step for one in run.curve(10**9)] or pieces.of(run).curve.group > 1


# ---------------------------------------------------------------- how much it costs


def test_a_long_log_is_read_quickly_once_and_then_at_no_cost(long_run):
    began = time.perf_counter()
    logs = Logs()
    log = logs.of(long_run)
    first = time.perf_counter() - began
    assert log.status.step == LONG and log.curve.group == 128 and CURVE_POINTS / 2 <= len(log.curve.steps) <= CURVE_POINTS
    assert log.curve.steps[-1] == LONG
    assert log.curve.losses[0] == pytest.approx(sum(1 / number for number in range(1, 129)) / 128)
    assert (log.curve.highs[0], log.curve.lows[0]) == (1.0, 1 / 128)
    write(long_run, step(LONG + 1))
    began = time.perf_counter()
    log = logs.of(long_run)
    tick = time.perf_counter() - began
    assert log.status.step == LONG + 1
    assert first < 1.5 * 2 and tick < 0.1, (first, tick)
    assert len(json.dumps(asdict(log))) < 200_000


def test_a_status_does_not_read_every_step(long_run):
    began = time.perf_counter()
    logs = Logs()
    status = logs.status(long_run)
    first = time.perf_counter() - began
    assert replace(status, eta_seconds=None) == replace(Logs().of(long_run).status, eta_seconds=None)
    began = time.perf_counter()
    logs.status(long_run)
    assert first < 0.6 and time.perf_counter() - began < 0.02


def test_only_some_runs_are_kept_whole(tmp_path):
    logs = Logs(whole=2, brief=3)
    made = [RunFolder.create(tmp_path / str(number), TrainJob()) for number in range(6)]
    for number, run in enumerate(made):
        write(run, events.Started(job="train", total=9), step(number + 1))
    for _ in range(2):
        assert [logs.of(run).status.step for run in made] == [1, 2, 3, 4, 5, 6]
        assert [logs.status(run).step for run in made] == [1, 2, 3, 4, 5, 6]
    assert len(logs._whole) == 2 and len(logs._brief) == 3


def test_many_may_look_at_once_while_it_is_written(run):
    logs, wrong = Logs(), []

    def look() -> None:
        for _ in range(60):
            steps = logs.of(run).curve.steps
            if steps != sorted(set(steps)) or logs.status(run).step < (steps or [0])[-1]:
                wrong.append(steps)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1, 301):
        write(run, step(number))
    for thread in threads:
        thread.join()
    assert wrong == [] and logs.of(run).curve.steps == list(range(1, 301))
