"""Runs and LoRA files of a workspace: what is known of them, and putting them in order. No torch needed."""

import json
import os
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from nosnja_gui import events, library, weights
from nosnja_gui.jobs import AxisSettings, DownloadJob, GridJob, TrainJob
from nosnja_gui.library import Library, Lora, NameTaken
from nosnja_gui.processes import self_mark
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace

METADATA = {
    "ss_output_name": "costume",
    "ss_steps": "120",
    "ss_epoch": "2",
    "ss_sd_model_name": "sd15",
    "ss_sd_model_hash": "abcdef",
    "modelspec.title": "costume",
    "modelspec.trigger_phrase": "nosnjaoutfit",
}


def write_lora(
    file: Path, rank: int = 4, width: int = 768, alpha: float = 2.0, metadata: dict[str, str] | None = None, **more: list[int]
) -> Path:
    """A LoRA of one module, written by hand."""
    module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    shapes: dict[str, list[int]] = {f"{module}.lora_down.weight": [rank, width], f"{module}.lora_up.weight": [8, rank], **more}
    entries: dict[str, Any] = {"__metadata__": METADATA if metadata is None else metadata}
    place = 0
    for name, shape in shapes.items():
        size = 4 * int.__mul__(*shape)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    entries[f"{module}.alpha"] = {"dtype": "F16", "shape": [], "data_offsets": [place, place + 2]}
    header = json.dumps(entries).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"\x01" * place + struct.pack("<e", alpha))
    return file


def make_run(workspace: Workspace, name: str = "costume-001", **changes: Any) -> RunFolder:
    job = TrainJob().changed(**{"dataset.path": "/data/costumes", "model.path": "sd15", "lora.rank": 4, **changes})
    run = RunFolder.create(workspace.runs / name, job)
    log = run.log()
    for at, event in enumerate(
        (
            events.Started(job="train", total=120, at=1000.0),
            events.Step(step=60, epoch=1, loss=0.3, learning_rates={}, seconds_per_step=0.1, at=1030.0),
            events.Started(job="train", total=120, done=60, at=5000.0),
            events.Warned(message="Few pictures.", at=5001.0),
            events.Step(step=120, epoch=2, loss=0.2, learning_rates={}, seconds_per_step=0.1, at=5020.0),
            events.Finished(files=["weights/costume.safetensors"], seconds=20.0, at=5021.0),
        )
    ):
        assert at >= 0
        log.append(event)
    write_lora(run.weights / "costume-epoch-01.safetensors", metadata={**METADATA, "ss_steps": "60", "ss_epoch": "1"})
    write_lora(run.weights / "costume.safetensors")
    return run


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path / "my workspace").create()


@pytest.fixture
def shelf(workspace) -> Library:
    make_run(workspace)
    made = Library(workspace)
    assert made.look(5)
    return made


RUN, LORA = "costume-001", "runs/costume-001/weights/costume.safetensors"


def test_a_run_in_a_line(shelf):
    (run,) = shelf.runs()
    assert (run.identifier, run.kind, run.status.state, run.status.step, run.status.loss) == (RUN, "train", "finished", 120, 0.2)
    assert (run.learning_rate, run.rank, run.dataset, run.model) == (1e-4, 4, "costumes", "sd15")
    assert run.seconds == 30 + 21, "the pause between the two starts does not count"
    assert run.bytes and run.bytes > 20_000


def test_a_lora_by_its_header(shelf):
    last, first = sorted(shelf.loras(), key=lambda lora: not lora.last)
    assert (last.identifier, last.run, last.kind, last.family, last.modules) == (LORA, RUN, "LoRA", "SD 1.x", 1)
    assert (last.ranks, last.alphas, last.step, last.epoch) == ((4,), (2.0,), 120, 2)
    assert (last.trigger, last.base_name, last.base_hash) == ("nosnjaoutfit", "sd15", "abcdef")
    assert last.last and not first.last and first.epoch == 1


@pytest.mark.parametrize(("width", "family"), [(768, "SD 1.x"), (1024, "SD 2.x"), (2048, "SDXL"), (64, "")])
def test_the_family_by_the_width_of_cross_attention(workspace, width, family):
    write_lora(workspace.models / "a.safetensors", width=width)
    shelf = Library(workspace)
    shelf.look(5)
    assert [lora.family for lora in shelf.loras()] == [family]


def test_kin_of_lora_are_told_apart(workspace):
    module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    write_lora(workspace.models / "sub" / "a.safetensors", **{f"{module}.dora_scale": [1, 8]})
    shelf = Library(workspace)
    shelf.look(5)
    assert [(lora.kind, lora.identifier) for lora in shelf.loras()] == [("DoRA", "models/sub/a.safetensors")]


def test_words_of_nearly_all_captions_are_told_apart_from_the_stated_trigger(workspace):
    tags = {"10_dress": {"silver hair": 19, "red": 4, "dress": 20}}
    write_lora(workspace.models / "a.safetensors", metadata={"ss_tag_frequency": json.dumps(tags)})
    write_lora(workspace.models / "b.safetensors", metadata={**METADATA, "ss_tag_frequency": json.dumps(tags)})
    shelf = Library(workspace)
    assert shelf.look(5)
    told = {lora.name: (lora.trigger, lora.triggers) for lora in shelf.loras()}
    assert told == {"a": ("", ("dress", "silver hair")), "b": ("nosnjaoutfit", ("nosnjaoutfit", "dress", "silver hair"))}


def test_a_lora_that_lacks_a_half_says_so(workspace):
    write_lora(workspace.models / "a.safetensors", **{"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": [4, 8]})
    shelf = Library(workspace)
    assert shelf.look(5)
    (lora,) = shelf.loras()
    assert lora.kind == "LoRA" and "incomplete" in lora.problem


def test_what_was_made_ready_for_the_hub_is_no_second_lora(workspace):
    write_lora(workspace.models / "costume.safetensors")
    for folder in ("costume-hub", "my-hub"):
        write_lora(workspace.models / folder / "costume.safetensors")
    (workspace.models / "costume-hub" / "README.md").touch()
    shelf = Library(workspace)
    assert shelf.look(5)
    assert {lora.identifier for lora in shelf.loras()} == {"models/costume.safetensors", "models/my-hub/costume.safetensors"}


def test_many_loras_are_read_quickly(workspace):
    """As a share of what reading their headers takes, for a busy machine is slow at everything."""
    modules = {f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_{number}_attn1_to_q": number for number in range(800)}
    halves = {f"{module}.{half}.weight": shape for module in modules for half, shape in (("lora_down", [4, 32]), ("lora_up", [32, 4]))}
    file = write_lora(workspace.models / "large.safetensors", **halves)

    def seconds(work) -> float:
        took = []
        for _ in range(5):
            began = time.process_time()
            work()
            took.append(time.process_time() - began)
        return min(took)

    read = library.read_lora(Lora("x", file, "x"))
    assert read.modules == 801 and not read.problem
    assert seconds(lambda: library.read_lora(Lora("x", file, "x"))) < 12 * seconds(lambda: weights.header(file))


def test_a_download_in_a_line(workspace):
    run = RunFolder.create(workspace.runs / "download-001", DownloadJob(repo="someone/model"))
    run.log().append(events.Started(job="download", total=2_000_000_000))
    run.log().append(events.Downloaded(file="unet.safetensors", file_done=5, file_total=9, done=700_000_000, total=2_000_000_000))
    run.log().append(events.Stopped(step=700_000_000))
    shelf = Library(workspace)
    assert shelf.look(5)
    (row,) = shelf.runs()
    assert (row.kind, row.status.state, row.model) == ("download", "stopped", "model")
    assert (row.status.step, row.status.total) == (700_000_000, 2_000_000_000)


def test_whole_models_are_no_loras_and_damaged_files_say_so(workspace):
    header = json.dumps({"unet.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    whole = len(header).to_bytes(8, "little") + header + bytes(4)
    (workspace.models / "model.safetensors").write_bytes(whole)
    (workspace.models / "half.safetensors").write_bytes(whole[:-2])
    (workspace.models / "diffusers").mkdir()
    (workspace.models / "diffusers" / "model_index.json").touch()
    write_lora(workspace.models / "diffusers" / "inside.safetensors")
    shelf = Library(workspace)
    assert shelf.look(5)
    (lora,) = shelf.loras()
    assert lora.name == "half" and "damaged" in lora.problem
    with pytest.raises(UserError, match="damaged"):
        shelf.export(lora.identifier, "copy")


def test_nested_runs_are_found_with_their_loras(workspace):
    make_run(workspace, "demo-001/training")
    shelf = Library(workspace)
    shelf.look(5)
    assert [run.identifier for run in shelf.runs()] == []
    RunFolder.create(workspace.runs / "demo-002", TrainJob())
    make_run(workspace, "demo-002/training")
    shelf.look(5)
    assert {run.identifier for run in shelf.runs()} == {"demo-002", "demo-002/training"}
    assert {lora.run for lora in shelf.loras()} == {"demo-002/training"}
    for change in (lambda: shelf.delete_run("demo-002/training"), lambda: shelf.rename_run("demo-002/training", "x")):
        with pytest.raises(UserError, match="part of demo-002"):
            change()


def test_what_comes_goes_and_changes_is_seen(shelf, workspace):
    write_lora(workspace.models / "new.safetensors")
    make_run(workspace, "second-001")
    shelf.look(5)
    assert {run.identifier for run in shelf.runs()} == {RUN, "second-001"}
    assert "models/new.safetensors" in {lora.identifier for lora in shelf.loras()}
    (workspace.models / "new.safetensors").write_bytes(b"half")
    RunFolder(workspace.runs / RUN).log().append(events.Failed(message="No more memory."))
    shelf.look(5)
    assert next(lora.problem for lora in shelf.loras() if lora.name == "new")
    assert next(run.status for run in shelf.runs() if run.identifier == RUN).message == "No more memory."


def test_a_damaged_run_is_listed(workspace):
    folder = workspace.runs / "odd"
    folder.mkdir()
    (folder / "run.yaml").write_text("job: [")
    shelf = Library(workspace)
    assert shelf.look(5)
    assert [run.kind for run in shelf.runs()] == ["damaged"]
    assert "not readable" in shelf.details("odd").problem


def test_details_of_a_run(shelf, workspace):
    grid = GridJob(run=RUN, prompt="a", x=AxisSettings(axis="seed", values=["1-2"]))
    RunFolder.create(workspace.runs / "grid-001", grid)
    lora = GridJob(lora=str(workspace.runs / RUN / "weights" / "costume.safetensors"), prompt="a", x=AxisSettings(axis="seed", values=[1]))
    RunFolder.create(workspace.runs / "grid-002", lora)
    other = GridJob(run="costume-0011", prompt="a", x=AxisSettings(axis="seed", values=[1]))
    RunFolder.create(workspace.runs / "grid-003", other)
    shelf.look(5)
    details = shelf.details(RUN)
    assert "rank: 4" in details.yaml and details.warnings == ("Few pictures.",)
    assert sorted(details.used_by) == ["grid-001", "grid-002"]


def test_pictures_of_a_run_stay_inside_it(shelf, workspace):
    run = RunFolder(workspace.runs / RUN)
    (run.samples / "a.png").write_bytes(b"x")
    (workspace.root / "secret.png").write_bytes(b"x")
    run.log().append(events.Sampled(step=1, files=["samples/a.png", "../../secret.png", "samples/missing.png"]))
    assert [file.name for file in shelf.details(RUN).pictures] == ["a.png"]


def test_settings_that_differ(shelf, workspace):
    make_run(workspace, "second-001", **{"optimizer.learning_rate": 1e-5, "preview.prompts": ["a"]})
    assert shelf.compare([RUN, "second-001"]) == {"optimizer.learning_rate": [1e-4, 1e-5], "preview.prompts": [[], ["a"]]}


def test_a_run_is_renamed_as_a_folder(shelf, workspace):
    assert shelf.rename_run(RUN, "dress") == "dress"
    shelf.look(5)
    assert [run.identifier for run in shelf.runs()] == ["dress"] and {lora.run for lora in shelf.loras()} == {"dress"}
    assert shelf.details("dress").yaml


@pytest.mark.parametrize("name", ["", "  ", "../evil", "a/b", "a\\b", ".hidden", "nul", "COM1.txt", "a b", "x" * 200, "a\0b"])
def test_names_that_are_none(shelf, name):
    for change in (shelf.rename_run, lambda _, wanted: shelf.export(LORA, wanted)):
        with pytest.raises(UserError, match="name"):
            change(RUN, name)
    assert (shelf.workspace.runs / RUN).is_dir()


@pytest.mark.parametrize("name", ["", "..", "../models", "nothing", "/etc", ".", "costume-001/weights", "x" * 5000, "a\0b"])
def test_only_what_was_found_can_be_named(shelf, name):
    for ask in (shelf.run, shelf.delete_run, shelf.details, shelf.lora, shelf.delete_lora, shelf.trash.restore):
        with pytest.raises(UserError, match="There is no"):
            ask(name)


def test_a_name_that_is_taken(shelf, workspace):
    make_run(workspace, "second-001")
    with pytest.raises(NameTaken, match="second-001"):
        shelf.rename_run(RUN, "second-001")


@pytest.mark.parametrize("holder", ["process.json", "training/process.json", "queued.json"])
def test_a_run_that_works_or_waits_stays(shelf, workspace, holder):
    folder = workspace.runs / RUN
    if "/" in holder:
        make_run(workspace, f"{RUN}/training")
    (folder / holder).write_text(json.dumps({**self_mark(), "log_bytes": 0}))
    for change in (lambda: shelf.delete_run(RUN), lambda: shelf.rename_run(RUN, "x"), lambda: shelf.delete_lora(LORA)):
        with pytest.raises(UserError, match=r"running: stop it first|waits in the queue"):
            change()


def test_a_deleted_run_comes_back(shelf, workspace):
    trashed = shelf.delete_run(RUN)
    shelf.look(5)
    assert not shelf.runs() and not shelf.loras() and not (workspace.runs / RUN).exists()
    assert trashed.bytes > 20_000 and [item.identifier for item in shelf.trash.content()] == [trashed.identifier]
    shelf.trash.restore(trashed.identifier)
    shelf.look(5)
    assert [run.identifier for run in shelf.runs()] == [RUN] and not shelf.trash.content()
    assert shelf.run(RUN).job().lora.rank == 4


def test_what_cannot_come_back_says_why(shelf, workspace):
    lora, run = shelf.delete_lora(LORA), shelf.delete_run(RUN)
    with pytest.raises(UserError, match="bring that back first"):
        shelf.trash.restore(lora.identifier)
    make_run(workspace)
    with pytest.raises(UserError, match="exists already"):
        shelf.trash.restore(run.identifier)
    assert len(shelf.trash.content()) == 2


def test_a_note_in_the_trash_that_points_outside_is_not_followed(shelf, workspace):
    trashed = shelf.delete_lora(LORA)
    note = workspace.root / ".trash" / trashed.identifier / "trashed.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "origin": "../../evil.safetensors"}))
    with pytest.raises(UserError, match="not in the workspace"):
        shelf.trash.restore(trashed.identifier)


def test_the_emptied_trash_is_empty(shelf, workspace):
    size = shelf.delete_run(RUN).bytes
    assert shelf.trash.empty() == size
    assert not shelf.trash.content() and not list((workspace.root / ".trash").iterdir())


def test_two_of_one_name_in_one_second(shelf, workspace):
    shelf.delete_run(RUN)
    make_run(workspace)
    shelf.delete_run(RUN)
    assert len(shelf.trash.content()) == 2


def test_a_copy_bears_its_new_name_inside_and_the_same_weights(shelf, workspace):
    copy = shelf.export(LORA, "Dress_v2.safetensors")
    assert copy == workspace.models / "Dress_v2.safetensors"
    said = library.metadata(copy)
    assert said == {**METADATA, "ss_output_name": "Dress_v2", "modelspec.title": "Dress_v2"}
    assert tensors(copy) == tensors(workspace.runs / RUN / "weights" / "costume.safetensors")
    with pytest.raises(NameTaken, match="replace"):
        shelf.export(LORA, "Dress_v2")
    shelf.export(LORA, "Dress_v2", overwrite=True)
    assert [file.name for file in workspace.models.iterdir()] == ["Dress_v2.safetensors"]


def test_a_copy_to_another_folder(shelf, tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        shelf.export(LORA, "x", tmp_path / "Lora")
    (tmp_path / "Lora").mkdir()
    assert shelf.export(LORA, "x", tmp_path / "Lora") == tmp_path / "Lora" / "x.safetensors"


def test_a_file_without_a_name_inside_is_copied_as_it_is(workspace):
    file = write_lora(workspace.models / "plain.safetensors", metadata={"a": "b"})
    copy = Library(workspace).export("models/plain.safetensors", "copy")
    assert copy.read_bytes() == file.read_bytes()


def test_a_lora_of_the_models_folder_is_renamed(shelf, workspace):
    write_lora(workspace.models / "old.safetensors")
    assert shelf.rename_lora("models/old.safetensors", "new") == "models/new.safetensors"
    assert [file.name for file in workspace.models.iterdir()] == ["new.safetensors"]
    assert library.metadata(workspace.models / "new.safetensors")["ss_output_name"] == "new"
    with pytest.raises(UserError, match="export a copy"):
        shelf.rename_lora(LORA, "new")


def test_hundreds_of_runs_are_looked_at_quickly_once_they_are_known(workspace):
    for number in range(300):
        run = RunFolder(workspace.runs / f"run-{number:03d}")
        run.path.mkdir()
        run.run_yaml.write_text("job: train\nlora: {rank: 4}\n")
    shelf = Library(workspace)
    until = time.monotonic() + 30
    while not shelf.look(0.05):
        assert time.monotonic() < until
    began = time.perf_counter()
    assert shelf.look(0.05)
    assert time.perf_counter() - began < 0.2 and len(shelf.runs()) == 300


def tensors(file: Path) -> bytes:
    weights.header(file)
    content = file.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(shelf, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot be written"):
        shelf.export(LORA, "x", folder)


def test_a_run_that_failed_before_it_began_is_listed(workspace):
    """As a download is that found no connection."""
    run = RunFolder.create(workspace.runs / "download", DownloadJob(repo="user/model"))
    run.log().append(events.Failed(message="There is no connection."))
    library = Library(workspace)
    assert library.look(10)
    (summary,) = library.runs()
    assert (summary.kind, summary.status.state, summary.seconds) == ("download", "failed", None)
