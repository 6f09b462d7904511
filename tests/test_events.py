"""The log: whole lines, readable after a kill and by older programs."""

import dataclasses

from nosnja_gui import events
from nosnja_gui.events import EVENTS, EventLog, Finished, Saved, Step, Warned

STEP = Step(step=3, epoch=1, loss=0.25, learning_rates={"unet": 1e-4}, seconds_per_step=0.5)


def test_what_was_written_is_what_is_read(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    written = [
        STEP,
        Warned(message="zeile\nzwei \u2028 nošnja"),
        Saved(step=3, epoch=1, file="weights/a.safetensors"),
        Finished(files=[], seconds=1.5),
    ]
    for event in written:
        log.append(event)
    assert list(events.read(log.path)) == written


def test_a_missing_log_is_an_empty_one(tmp_path):
    assert list(events.read(tmp_path / "events.jsonl")) == []


def test_a_half_written_line_is_skipped_and_the_next_event_stands_alone(tmp_path):
    path = tmp_path / "events.jsonl"
    EventLog(path).append(STEP)
    path.write_bytes(path.read_bytes() + b'{"kind": "step", "ste')
    assert list(events.read(path)) == [STEP]
    last = Finished(files=[], seconds=1)
    EventLog(path).append(last)
    assert list(events.read(path)) == [STEP, last]


def test_lines_of_a_newer_program_do_not_hurt(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text(
        '{"kind": "hologram", "at": 1}\n[1]\nnull\n{"kind": "warned", "at": 1.0, "message": "m", "colour": "red"}\n{"kind": "step"}\n'
    )
    assert list(events.read(path)) == [Warned(message="m", at=1.0)]


def test_every_kind_of_event_is_known_by_a_name_of_its_own():
    assert len(EVENTS) == len(events.Event.__subclasses__()) == 15
    assert all(dataclasses.is_dataclass(kind) and EVENTS[name] is kind for name, kind in EVENTS.items())
