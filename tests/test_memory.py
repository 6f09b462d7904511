"""What the window remembers."""

from nosnja_gui.ui.memory import Memory


def test_values_are_there_after_a_restart(tmp_path):
    Memory(tmp_path / "cache" / "memory.json").put("dataset", "nošnja")
    again = Memory(tmp_path / "cache" / "memory.json")
    assert again.get("dataset") == "nošnja" and again.get("other", 5) == 5


def test_a_damaged_file_is_an_empty_memory(tmp_path):
    file = tmp_path / "memory.json"
    for content in (b"", b"{half", b"[1]", b"\xff\xfe"):
        file.write_bytes(content)
        memory = Memory(file)
        assert memory.get("dataset") is None
        memory.put("dataset", "x")
        assert Memory(file).get("dataset") == "x"


def test_a_disk_that_cannot_be_written_disturbs_nobody(tmp_path):
    (tmp_path / "cache").write_text("a file in the way")
    memory = Memory(tmp_path / "cache" / "memory.json")
    memory.put("dataset", "x")
    assert memory.get("dataset") == "x"
