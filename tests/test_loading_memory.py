"""Loading a checkpoint takes the memory of the model and hardly more; looking at one takes a moment and no library."""

import sys

import pytest
from full_size_loading import in_fresh_process, shapes_of, write_checkpoint

from nosnja_gui import weights


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """With Stable Diffusion 1.x as it is, only narrower: about 300 MB in float32."""
    folder = tmp_path_factory.mktemp("narrow")
    # Channels go by 320 in the UNet, 128 in the autoencoder and 768 in the text encoder, whose vocabulary stays as it is.
    narrow = {320: 64, 640: 128, 960: 192, 1280: 256, 1920: 384, 2560: 512, 5120: 1024, 10240: 2048}
    text = {768: 256, 3072: 1024}
    shapes = {
        key: tuple((text if "cond_stage" in key else narrow | text).get(side, side) for side in shape)
        for key, shape in shapes_of("sd1").items()
    }
    write_checkpoint(folder / "models" / "narrow.safetensors", shapes, "F32")
    return folder


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the Linux kernel for the peak")
@pytest.mark.parametrize(("precision", "share"), [("float32", 1.5), ("bfloat16", 1.0)])
def test_a_checkpoint_is_never_in_memory_twice(workspace, precision, share):
    file = workspace / "models" / "narrow.safetensors"
    size = file.stat().st_size
    assert 250e6 < size < 700e6
    found = in_fresh_process("--load", str(file), "--precision", precision, "--threads", "1")
    assert found["peak"] - found["baseline"] < share * size, found


def test_listing_a_checkpoint_loads_no_library_and_takes_a_moment(workspace):
    found = in_fresh_process("--look", str(workspace))
    assert "narrow.safetensors" in found["models"] and found["heavy"] == []
    assert found["milliseconds"] < 1500 and found["again"] < 50


def test_what_was_read_stays_when_the_file_is_written_anew(tmp_path):
    import numpy

    file = tmp_path / "a.safetensors"
    entries = {"a": ("F32", (6, 2)), "b": ("F16", (3,)), "c": ("F32", (0,)), "d": ("BOOL", ())}
    numbers = {"a": numpy.arange(12, dtype="f4"), "b": numpy.ones(3, "f2"), "c": numpy.zeros(0, "f4"), "d": numpy.array([True])}
    weights.write_stream(file, entries, numbers.__getitem__)
    with weights.opened(file) as content:
        read = {name: content.get_tensor(name) for name in content.offset_keys()}
        assert content.get_rows("a", 2, 4).tolist() == [[4, 5], [6, 7]]
        with open(file, "r+b") as stream:
            stream.seek(-4, 2)
            stream.write(b"\0\0\0\0")
    assert list(read) == ["a", "c", "b", "d"]  # as they lie there
    assert read["a"].tolist() == numbers["a"].reshape(6, 2).tolist() and read["b"].tolist() == [1, 1, 1]
    assert read["c"].shape == (0,) and read["d"].item() is True
