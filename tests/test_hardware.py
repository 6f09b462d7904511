"""What is read from nvidia-smi, and that nobody waits for it."""

import threading
import time

from nosnja_gui import hardware
from nosnja_gui.hardware import GpuLoad, Load, Meter, parse_gpus, parse_loads


def test_cards_and_their_memory_are_read():
    read = parse_gpus("NVIDIA GeForce RTX 3060, 12288, 11000\nOrin, nvgpu, [N/A], [N/A]\n\nnonsense\n")
    assert [(gpu.name, gpu.total_bytes // 2**20, gpu.free_bytes // 2**20) for gpu in read] == [
        ("NVIDIA GeForce RTX 3060", 12288, 11000),
        ("Orin, nvgpu", 0, 0),
    ]


def test_a_load_is_read_and_what_a_card_does_not_say_is_none():
    one, other = parse_loads(
        "RTX 3060, 87, 9000, 12288, 71, 150.25, 170.00\nOrin, A, [N/A], [N/A], [N/A], 48, [Not Supported], nan\nx, 1\n"
    )
    assert one == GpuLoad("RTX 3060", 87.0, 9000 * 2**20, 12288 * 2**20, 71.0, 150.25, 170.0)
    assert other == GpuLoad("Orin, A", celsius=48.0)


def test_without_a_card_there_are_processors_and_memory(monkeypatch):
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None)
    load = hardware.load()
    assert load.gpus == () and load.cpu_percent is not None and 0 < load.memory_used <= load.memory_total
    assert hardware.gpus() == []


def test_a_driver_that_fails_is_no_card(monkeypatch, tmp_path):
    broken = tmp_path / "nvidia-smi"
    broken.write_text("#!/bin/sh\necho failed; exit 9\n")
    broken.chmod(0o755)
    monkeypatch.setattr(hardware.shutil, "which", lambda name: str(broken))
    assert hardware.gpus() == [] and hardware.load().gpus == ()


def test_nobody_waits_for_a_slow_answer_and_only_one_is_asked_for():
    asked, answer = [], threading.Event()

    def slow() -> Load:
        asked.append(1)
        answer.wait(5)
        return Load(cpu_percent=50.0)

    meter = Meter(slow, fresh_seconds=60)
    began = time.monotonic()
    assert [meter.now() for _ in range(5)] == [None] * 5
    assert time.monotonic() - began < 1 and len(asked) == 1
    answer.set()
    until = time.monotonic() + 5
    while meter.now() is None and time.monotonic() < until:
        time.sleep(0.01)
    assert meter.now() == Load(cpu_percent=50.0) and len(asked) == 1


def test_a_failed_answer_leaves_the_last_one_and_is_asked_again(capsys):
    answers = iter([Load(cpu_percent=1.0)])
    meter = Meter(lambda: next(answers), fresh_seconds=0)
    until = time.monotonic() + 5
    while meter.now() is None and time.monotonic() < until:
        time.sleep(0.01)
    assert meter.now() == Load(cpu_percent=1.0)
    assert meter.now() == Load(cpu_percent=1.0)
