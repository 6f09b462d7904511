import os
from pathlib import Path

import pytest
import torch

from nosnja_gui.engine import checkpoints
from nosnja_gui.engine.checkpoints import Checkpoint


def state(step: int, fill: float = 1.0) -> Checkpoint:
    parameter = torch.nn.Parameter(torch.full((3, 2), fill))
    optimizer = torch.optim.AdamW([parameter], lr=1e-3)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return Checkpoint(step, {"unet.down": parameter.detach()}, optimizer.state_dict(), {"plan": "abc"})


def no_damage(message: str) -> None:
    raise AssertionError(message)


def test_what_is_saved_comes_back_exactly(tmp_path):
    saved = state(5)
    place = checkpoints.save(tmp_path, saved, keep=2)
    assert place == tmp_path / "step-000005"
    loaded = checkpoints.newest(tmp_path, no_damage)
    assert loaded.step == 5 and loaded.about == {"plan": "abc"}
    assert torch.equal(loaded.tensors["unet.down"], saved.tensors["unet.down"])
    moments = loaded.optimizer["state"][0]
    assert torch.equal(moments["exp_avg"], saved.optimizer["state"][0]["exp_avg"]) and moments["step"] == 1


def test_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 9):
        checkpoints.save(tmp_path, state(step), keep=2)
    assert [place.name for place in checkpoints.whole(tmp_path)] == ["step-000010", "step-000009"]


def test_an_empty_folder_has_nothing_to_resume_from(tmp_path):
    assert checkpoints.newest(tmp_path / "checkpoints", no_damage) is None


@pytest.mark.parametrize("name", ["trained.safetensors", "optimizer.pt", "about.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "delete"])
def test_a_damaged_checkpoint_is_moved_aside_and_the_older_one_used(tmp_path, name, harm):
    checkpoints.save(tmp_path, state(1), keep=5)
    file = checkpoints.save(tmp_path, state(2), keep=5) / name
    content = bytearray(file.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif harm == "truncate":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.unlink()
    said = []
    assert checkpoints.newest(tmp_path, said.append).step == 1
    assert len(said) == 1 and "step-000002 is damaged" in said[0]
    assert [place.name for place in checkpoints.whole(tmp_path)] == ["step-000001"]
    assert (tmp_path / "damaged-step-000002-1").is_dir()
    # its step can be saved again
    checkpoints.save(tmp_path, state(2), keep=5)
    assert checkpoints.newest(tmp_path, no_damage).step == 2


def test_saving_a_step_again_keeps_the_good_one_and_replaces_a_bad_one(tmp_path):
    place = checkpoints.save(tmp_path, state(3, fill=1.0), keep=5)
    checkpoints.save(tmp_path, state(3, fill=2.0), keep=5)
    assert checkpoints.load(place).tensors["unet.down"].mean() < 1.1
    (place / "optimizer.pt").write_bytes(b"")
    checkpoints.save(tmp_path, state(3, fill=2.0), keep=5)
    assert checkpoints.load(place).tensors["unet.down"].mean() > 1.9


@pytest.mark.parametrize("failing", ["replace", "write"])
def test_a_full_disk_leaves_the_older_checkpoint_and_nothing_half_written(tmp_path, monkeypatch, failing):
    checkpoints.save(tmp_path, state(1), keep=1)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    if failing == "replace":
        original = os.replace
        monkeypatch.setattr(os, "replace", lambda a, b: full() if Path(b).name == "step-000002" else original(a, b))
    else:
        monkeypatch.setattr(checkpoints, "write_atomic", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(tmp_path, state(2), keep=1)
    monkeypatch.undo()
    assert [place.name for place in tmp_path.iterdir()] == ["step-000001"]
    assert checkpoints.newest(tmp_path, no_damage).step == 1


def test_leftovers_of_a_killed_process_are_swept(tmp_path):
    (tmp_path / ".step-000007.part").mkdir()
    (tmp_path / ".step-000007.part" / "optimizer.pt").write_bytes(b"half")
    checkpoints.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_optimizer_files_hold_no_code(tmp_path):
    place = checkpoints.save(tmp_path, state(1), keep=1)
    torch.save({"state": os.system}, place / "optimizer.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoints.load(place)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
@pytest.mark.parametrize("name", ["trained.safetensors", "optimizer.pt"])
def test_a_full_disk_is_an_os_error_whatever_writes_to_it(name):
    """torch's own writer would say something else, and a half-written archive must not end the process."""
    large = Checkpoint(1, {"unet.weight": torch.zeros(300_000)}, {"moments": [torch.zeros(300_000)] * 2}, {})
    with open("/dev/full", "wb", buffering=0) as disk, pytest.raises(OSError, match="No space left"):
        checkpoints._contents(large)[name](checkpoints._Summed(disk))


def test_the_state_of_a_large_model_is_never_in_memory_twice(tmp_path):
    import tracemalloc

    parameter, moments = torch.zeros(2_000_000), [torch.zeros(2_000_000), torch.zeros(2_000_000)]
    tracemalloc.start()  # it sees what Python's own objects take, such as bytes; tensors are none
    place = checkpoints.save(tmp_path, Checkpoint(1, {"unet.weight": parameter}, {"moments": moments}, {}), keep=1)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (place / "optimizer.pt").stat().st_size > 16e6 and most < 4e6
