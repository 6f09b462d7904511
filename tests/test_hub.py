"""The hub, on this machine: what is fetched, how it goes on, what goes wrong, and that no token is written anywhere."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nosnja_gui import events, launcher, publishing
from nosnja_gui.__main__ import main
from nosnja_gui.engine import hub as engine
from nosnja_gui.engine.hub import HubFile, components_of, download, needed, publish, single
from nosnja_gui.events import Downloaded, Failed, Finished, Started, Stopped
from nosnja_gui.jobs import DownloadJob
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace
from tests.hub_server import HubServer, Repo

TOKEN = "hf_SecretSecretSecretSecret"
PROGRAM = Path(engine.__file__).parents[2]
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": [None, None],
}


def weights(seed: int, size: int) -> bytes:
    block = bytes((seed * 31 + place * 7) % 251 for place in range(997))
    return (block * (size // 997 + 1))[:size]


def diffusers_repo(**options) -> Repo:
    files = {
        "model_index.json": json.dumps(INDEX).encode(),
        "README.md": b"# hello",
        "v1-5-pruned.safetensors": weights(1, 5000),
        "v1-5-pruned.ckpt": weights(2, 5000),
        "unet/config.json": b'{"in_channels": 4}',
        "unet/diffusion_pytorch_model.safetensors": weights(3, 3_000_000),
        "unet/diffusion_pytorch_model.fp16.safetensors": weights(4, 1_500_000),
        "unet/diffusion_pytorch_model.non_ema.safetensors": weights(5, 3_000_000),
        "unet/diffusion_pytorch_model.bin": weights(6, 3_000_000),
        "unet/model.onnx": weights(6, 3000),
        "vae/config.json": b"{}",
        "vae/diffusion_pytorch_model.safetensors": weights(7, 200_000),
        "vae_decoder/config.json": b"{}",
        "vae_decoder/model.onnx": weights(8, 1000),
        "tokenizer/vocab.json": b"{}",
        "tokenizer/merges.txt": b"#version: 0.2\n",
        "scheduler/scheduler_config.json": b"{}",
        "safety_checker/config.json": b"{}",
        "safety_checker/model.safetensors": weights(9, 3000),
        "feature_extractor/preprocessor_config.json": b"{}",
        "image_encoder/config.json": b"{}",
    }
    return Repo(files, **options)


NEEDED = {
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "scheduler/scheduler_config.json",
    "feature_extractor/preprocessor_config.json",
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setattr(engine, "RETRY_SECONDS", (0.01, 0.02, 0.03))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        # Nobody is logged in, whoever runs the tests.
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "login" / "token"))
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "login" / "token"))
        server.repos["some/model"] = diffusers_repo()
        server.tokens = {TOKEN: "write", "hf_ReadOnly": "read"}
        yield server


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "workspace").create()


def job(repo: str = "some/model", **values) -> DownloadJob:
    return DownloadJob.parse({"repo": repo, **values})


def inside(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def problem(*words, **options) -> str:
    with pytest.raises(UserError) as caught:
        download(*words, **options)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")
    return text


class Log:
    """Gathers events."""

    def __init__(self) -> None:
        self.events: list[events.Event] = []

    def append(self, event: events.Event) -> None:
        self.events.append(event)

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]


# ---------------------------------------------------------------- what is fetched


def test_of_a_diffusers_repository_only_what_is_needed_is_fetched(hub, workspace):
    said, log = [], Log()
    model = download(job(), workspace, log, say=said.append)
    assert model == workspace.models / "model"
    assert inside(model) == NEEDED | {".hub.json"}
    files = hub.repos["some/model"].files
    assert all((model / name).read_bytes() == files[name] for name in NEEDED)
    total = sum(len(files[name]) for name in NEEDED)
    assert hub.sent() == total, "each byte once"
    assert "9 files, 3.2 MB" in said[0] and "free" in said[0]
    assert log.of(Started)[0].total == total and log.of(Downloaded)[-1].done == total
    assert log.of(Finished)[0].files == [str(model)]
    assert publishing.origin(model) == "some/model"
    assert not list(workspace.models.glob(".*")), "nothing is left behind"


def test_only_the_paths_of_the_model_are_asked_for_and_storage_gets_no_token(hub, workspace):
    download(job(), workspace, token=TOKEN)
    asked = {request.path for request in hub.requests if request.port == "hub"}
    assert all(path.startswith(("/some/model/resolve/", "/api/models/some/model")) for path in asked)
    assert {request.authorized for request in hub.requests if request.port == "hub"} == {TOKEN}
    stored = [request for request in hub.requests if request.port == "storage"]
    assert stored and not any(request.authorized for request in stored)


def test_offline_is_lifted_for_the_download_only(hub, workspace):
    from huggingface_hub import constants, model_info
    from huggingface_hub.errors import OfflineModeIsEnabled

    assert constants.HF_HUB_OFFLINE
    download(job(), workspace)
    assert constants.HF_HUB_OFFLINE
    with pytest.raises(OfflineModeIsEnabled):
        model_info("some/model")


def test_half_precision_only_when_asked_and_the_whole_one_where_there_is_no_other(hub, workspace):
    model = download(job(variant="fp16"), workspace)
    assert (model / "unet/diffusion_pytorch_model.fp16.safetensors").is_file()
    assert not (model / "unet/diffusion_pytorch_model.safetensors").exists()
    assert (model / "vae/diffusion_pytorch_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("names", "variant", "chosen"),
    [
        (["model.safetensors", "model.fp16.safetensors"], "", ["model.safetensors"]),
        (["model.safetensors", "model.fp16.safetensors"], "fp16", ["model.fp16.safetensors"]),
        (["model.fp16.safetensors"], "", ["model.fp16.safetensors"]),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json", "model.bin"],
            "",
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
        ),
        (
            ["model.fp16-00001-of-00002.safetensors", "model.safetensors.index.fp16.json", "model.safetensors"],
            "fp16",
            ["model.fp16-00001-of-00002.safetensors", "model.safetensors.index.fp16.json"],
        ),
        (["model.safetensors", "openvino_model.xml", "flax_model.msgpack", "some_lora.safetensors"], "", ["model.safetensors"]),
    ],
)
def test_variants_and_shards(names, variant, chosen):
    files = [HubFile(f"text_encoder/{name}", 1) for name in [*names, "config.json"]]
    found = needed(files, "a/b", variant, ["text_encoder"])
    assert [file.path for file in found] == [f"text_encoder/{name}" for name in [*chosen, "config.json"]]


def test_weights_that_are_there_in_unsafe_formats_only_are_refused():
    files = [HubFile("unet/diffusion_pytorch_model.bin", 1), HubFile("vae/diffusion_pytorch_model.safetensors", 1)]
    with pytest.raises(UserError, match=r"no \.safetensors weights in unet/, only unet/diffusion_pytorch_model\.bin"):
        needed(files, "a/b", "", ["unet", "vae"])
    with pytest.raises(UserError, match=r"holds no \.safetensors"):
        needed([HubFile("config.json", 1)], "a/b")


def test_components_are_those_of_the_index():
    assert components_of(INDEX) == ["unet", "vae", "tokenizer", "scheduler", "safety_checker", "feature_extractor"]


def test_a_single_file(hub, workspace):
    path = download(job(file="v1-5-pruned.safetensors", name="sd15"), workspace)
    assert path == workspace.models / "sd15.safetensors"
    assert path.read_bytes() == hub.repos["some/model"].files["v1-5-pruned.safetensors"]
    assert publishing.origin(path) == "some/model"
    assert inside(workspace.models) == {"sd15.safetensors", ".sd15.safetensors.hub.json"}


def test_a_single_file_in_a_folder_is_found_by_its_name(hub, workspace):
    path = download(job(file="diffusion_pytorch_model.fp16.safetensors"), workspace)
    assert path.name == "diffusion_pytorch_model.fp16.safetensors" and path.stat().st_size == 1_500_000


@pytest.mark.parametrize(
    ("name", "says"),
    [("nothing.safetensors", "no file called"), ("v1-5-pruned.ckpt", "is no .safetensors file"), ("config.json", "several files")],
)
def test_single_files_that_there_are_not(hub, name, says):
    files = [HubFile(path, 1) for path in hub.repos["some/model"].files]
    with pytest.raises(UserError, match=says) as caught:
        single(files, "some/model", name)
    assert "v1-5-pruned.safetensors" in str(caught.value)


def test_a_transformers_model_is_taken_whole(hub, workspace):
    names = ("config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", "vocab.txt", "tf_model.h5")
    hub.repos["some/blip"] = Repo({name: weights(1, 100) for name in names})
    model = download(job("some/blip"), workspace)
    assert inside(model) == {"config.json", "model.safetensors", "tokenizer.json", "vocab.txt", ".hub.json"}


def test_names_that_lead_out_of_the_folder_are_not_taken(hub, workspace):
    repo = hub.repos["some/model"]
    repo.files |= {"../../evil.json": b"{}", "unet/../../x.json": b"{}", "unet/.hidden.json": b"{}", "unet\\x.json": b"{}"}
    model = download(job(), workspace)
    assert inside(model) == NEEDED | {".hub.json"}
    assert not list(workspace.root.parent.rglob("evil.json"))


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("https://huggingface.co/some/model", ("some/model", "", "")),
        ("https://huggingface.co/some/model/", ("some/model", "", "")),
        ("https://huggingface.co/some/model/tree/fp16", ("some/model", "fp16", "")),
        ("https://hf.co/a/b/blob/main/x%20y.safetensors", ("a/b", "main", "x y.safetensors")),
        ("https://huggingface.co/a/b/resolve/main/vae/x.safetensors?download=true", ("a/b", "main", "vae/x.safetensors")),
        (" some/model ", ("some/model", "", "")),
    ],
)
def test_an_address_from_the_browser_is_read(given, means):
    read = job(given)
    assert (read.repo, read.revision, read.file) == means


@pytest.mark.parametrize("repo", ["", "model", "a/b/c", "../b", "a/../b", "a b/c", "https://huggingface.co/"])
def test_what_is_no_hub_id_is_refused(repo):
    with pytest.raises(UserError, match="USER/NAME"):
        job(repo)


# ---------------------------------------------------------------- going on


def test_a_stopped_download_goes_on_and_fetches_nothing_twice(hub, workspace):
    log = Log()
    hub.delay_seconds = 0.03
    asked = iter([False, False, True])
    assert download(job(), workspace, log, stop_asked=lambda: next(asked, True)) is None
    assert not (workspace.models / "model").exists()
    stopped = log.of(Stopped)[0].step
    total = sum(len(hub.repos["some/model"].files[name]) for name in NEEDED)
    assert 0 < stopped < total
    had = (workspace.models / ".model.download/unet/diffusion_pytorch_model.safetensors.part").stat().st_size
    hub.delay_seconds = 0
    said, log = [], Log()
    model = download(job(), workspace, log, say=said.append)
    assert (model / "unet/diffusion_pytorch_model.safetensors").read_bytes() == weights(3, 3_000_000)
    assert log.of(Started)[0].done == stopped and "of them are here" in said[0]
    gone_on = [request for request in hub.requests if request.byte_range and request.port == "storage"]
    assert [(request.byte_range, request.sent) for request in gone_on] == [(f"bytes={had}-", 3_000_000 - had)]
    whole = [request.path for request in hub.requests if request.sent and not request.byte_range]
    assert len(whole) == len(set(whole)), "no file was begun twice"


def test_the_same_command_after_the_end_fetches_nothing(hub, workspace):
    model = download(job(), workspace)
    before = hub.sent("safetensors")
    said = []
    assert download(job(), workspace, say=said.append) == model
    assert hub.sent("safetensors") == before and "is there already" in said[0]
    assert not list(workspace.models.glob(".*"))


def test_a_broken_connection_is_gone_on_with_from_where_it_broke(hub, workspace):
    hub.cut_after = {"unet/diffusion_pytorch_model.safetensors": [1_000_000, 500_000, 0], "unet/config.json": [3]}
    model = download(job(), workspace)
    assert (model / "unet/diffusion_pytorch_model.safetensors").read_bytes() == weights(3, 3_000_000)
    ranges = [request.byte_range for request in hub.requests if request.port == "storage" and request.byte_range]
    assert ranges == ["bytes=1000000-", "bytes=1500000-", "bytes=1500000-"]
    assert hub.sent("unet/diffusion_pytorch_model.safetensors") == 3_000_000
    assert hub.sent("unet/config.json") == len(b'{"in_channels": 4}')


def test_a_server_that_knows_no_parts_is_asked_for_the_whole(hub, workspace):
    hub.ranges = False
    hub.cut_after = {"unet/diffusion_pytorch_model.safetensors": [1_000_000]}
    model = download(job(), workspace)
    assert (model / "unet/diffusion_pytorch_model.safetensors").read_bytes() == weights(3, 3_000_000)


def test_what_is_left_of_another_revision_is_noticed(hub, workspace):
    hub.delay_seconds = 0.03
    asked = iter([False, False, True])
    download(job(), workspace, stop_asked=lambda: next(asked, True))
    hub.delay_seconds = 0
    assert list(workspace.models.rglob("*.part"))
    hub.repos["some/model"].files["unet/diffusion_pytorch_model.safetensors"] = weights(8, 3_000_000)
    model = download(job(), workspace)
    assert (model / "unet/diffusion_pytorch_model.safetensors").read_bytes() == weights(8, 3_000_000)


def test_what_an_earlier_choice_left_behind_goes(hub, workspace):
    hub.delay_seconds = 0.03
    asked = iter([False, False, True])
    download(job(), workspace, stop_asked=lambda: next(asked, True))
    hub.delay_seconds = 0
    model = download(job(variant="fp16"), workspace)
    assert not [name for name in inside(model) if name.endswith((".part", "model.safetensors")) and name.startswith("unet")]


@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model.safetensors", "unet/config.json"])
def test_a_damaged_file_is_never_put_in_place(hub, workspace, name):
    hub.spoil = {name}
    assert "came damaged" in problem(job(), workspace)
    assert not (workspace.models / "model").exists()
    hub.spoil = set()
    assert download(job(), workspace)


def test_two_at_once_are_told(hub, workspace):
    hub.delay_seconds = 0.05
    stop = threading.Event()
    first = threading.Thread(target=lambda: download(job(), workspace, stop_asked=stop.is_set))
    first.start()
    deadline = time.monotonic() + 10
    while not list(workspace.models.rglob("*.part")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "another process" in problem(job(), workspace)
    stop.set()
    first.join(20)
    assert not first.is_alive()


# ---------------------------------------------------------------- what goes wrong


def test_no_connection(hub, workspace, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "There is no connection to http://127.0.0.1:9" in problem(job(), workspace)


def test_a_connection_that_breaks_for_good(hub, workspace):
    hub.cut_after = {"unet/diffusion_pytorch_model.safetensors": [1000, *[0] * 20]}
    assert "There is no connection" in problem(job(), workspace)
    assert list(workspace.models.rglob("*.part")), "what came stays"


def test_refusals_in_a_sentence(hub, workspace):
    assert "There is no model 'some/other'" in problem(job("some/other"), workspace)
    assert "There is no model 'some/other'" in problem(job("some/other"), workspace, token=TOKEN)
    assert "no revision 'old'" in problem(job(revision="old"), workspace)
    assert "refuses the token" in problem(job(), workspace, token="hf_Wrong")
    hub.repos["some/gated"] = diffusers_repo(gated=True)
    assert "some/gated is gated: accept its licence on" in (text := problem(job("some/gated"), workspace)) and "give a token" in text
    assert "no access yet" in problem(job("some/gated"), workspace, token=TOKEN)
    hub.allowed = {TOKEN}
    assert download(job("some/gated"), workspace, token=TOKEN)
    hub.answer = lambda method, path: 429
    assert "too many requests" in problem(job(name="x"), workspace)
    hub.answer = lambda method, path: 503
    assert "answers 503" in problem(job(name="x"), workspace)


def test_repositories_without_safetensors(hub, workspace):
    hub.repos["some/old"] = Repo({"model_index.json": json.dumps(INDEX).encode(), "unet/diffusion_pytorch_model.bin": b"x"})
    assert "no .safetensors weights in unet/" in problem(job("some/old"), workspace)
    hub.repos["some/pickle"] = Repo({"config.json": b"{}", "pytorch_model.bin": b"x"})
    assert "only pytorch_model.bin" in problem(job("some/pickle"), workspace)
    hub.repos["some/files"] = Repo({"a.safetensors": b"x", "b.safetensors": b"x"})
    assert "choose one with --file, of a.safetensors, b.safetensors" in problem(job("some/files"), workspace)
    hub.repos["some/broken"] = Repo({"model_index.json": b"[1"})
    assert "model_index.json of some/broken is not readable" in problem(job("some/broken"), workspace)


def test_a_full_disk_is_said_before_and_while(hub, workspace, monkeypatch):
    monkeypatch.setattr(engine, "free_bytes", lambda path: 1_000_000)
    log = Log()
    assert "are still needed" in problem(job(), workspace, log)
    assert hub.sent("safetensors") == 0 and "are still needed" in log.of(Failed)[0].message
    monkeypatch.setattr(engine, "free_bytes", lambda path: 10**12)

    def full(self, *words):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine._Download, "_report", full)
    assert "is full: make room" in problem(job(), workspace)


def test_something_else_of_that_name_stays(hub, workspace):
    (workspace.models / "model").mkdir()
    (workspace.models / "model" / "mine.txt").write_text("mine")
    assert "is something else" in problem(job(), workspace)
    assert inside(workspace.models) == {"model/mine.txt"}


@pytest.mark.parametrize("token", ["two words", "hf_line\nbreak", "hf_ž"])
def test_what_cannot_be_a_token_is_refused_without_repeating_it(hub, workspace, token):
    text = problem(job(), workspace, token=token)
    assert "The token is none" in text and token not in text and token.split()[0] not in text


# ---------------------------------------------------------------- the token


def written(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def wait(true, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.02)


def test_a_run_downloads_in_its_own_process_stops_goes_on_and_keeps_no_token(hub, workspace, monkeypatch, tmp_path, capfd):
    """Started as the window starts runs, with a token for this one job; also after refusals, nothing that was written holds it."""
    from tests.hub_server import Repo as Other

    hub.repos["some/gated"] = Other(dict(diffusers_repo().files), gated=True)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    run = RunFolder.create(workspace.runs / "download-001", job("some/gated"))

    def go(token: str) -> str:
        launcher.start(run, workspace, {"HF_TOKEN": token})
        wait(lambda: not run.living())
        return run.status().state

    assert go(TOKEN) == "failed" and "no access yet" in run.status().message
    hub.tokens.pop(TOKEN)
    assert go(TOKEN) == "failed" and "refuses the token" in run.status().message
    hub.answer = lambda method, path: 418
    assert go(TOKEN) == "failed" and "answers 418" in run.status().message
    hub.answer = lambda method, path: None
    hub.tokens[TOKEN] = "read"
    hub.allowed = {TOKEN}
    hub.delay_seconds = 0.1
    launcher.start(run, workspace, {"HF_TOKEN": TOKEN})
    wait(lambda: run.status().step > 100_000)
    status = run.status()
    assert status.state == "running" and status.total > 3_000_000 and status.eta_seconds and status.stage.startswith("unet/")
    launcher.stop(run)
    wait(lambda: not run.living())
    assert run.status().state == "stopped" and 0 < run.status().step < run.status().total
    hub.delay_seconds = 0
    assert go(TOKEN) == "finished"
    assert run.status().step == run.status().total
    assert inside(workspace.models / "gated") == NEEDED | {".hub.json"}
    assert any(request.byte_range for request in hub.requests if request.port == "storage"), "it went on where it was"
    assert TOKEN in {request.authorized for request in hub.requests}
    found = written(workspace.root, tmp_path / "tmp")
    assert {run.run_yaml, run.events, run.console, run.process} <= set(found)
    assert [path for path, data in found.items() if TOKEN.encode() in data] == []


def test_a_killed_download_goes_on(hub, workspace):
    hub.delay_seconds = 0.1
    environment = {**os.environ, "NOSNJA_WORKSPACE": str(workspace.root)}
    command = [sys.executable, "-m", "nosnja_gui", "model", "download", "some/model"]
    process = subprocess.Popen(command, cwd=PROGRAM, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    part = workspace.models / ".model.download/unet/diffusion_pytorch_model.safetensors.part"
    wait(lambda: part.exists() and part.stat().st_size > 500_000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    had, hub.delay_seconds = part.stat().st_size, 0
    answer = subprocess.run(command, cwd=PROGRAM, env=environment, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    assert "Finished: " in answer.stdout and "of them are here" in answer.stdout
    gone_on = [(request.byte_range, request.sent) for request in hub.requests if request.byte_range and request.port == "storage"]
    assert gone_on == [(f"bytes={had}-", 3_000_000 - had)]
    assert inside(workspace.models / "model") == NEEDED | {".hub.json"}


def test_the_token_of_hf_auth_login_is_used(hub, workspace, tmp_path):
    hub.repos["some/gated"] = diffusers_repo(gated=True)
    hub.allowed = {TOKEN}
    (tmp_path / "login").mkdir()
    (tmp_path / "login" / "token").write_text(f"{TOKEN}\n")
    assert download(job("some/gated"), workspace)
    assert {request.authorized for request in hub.requests if request.port == "hub"} == {TOKEN}


def test_an_unexpected_error_does_not_repeat_the_token(hub, workspace, monkeypatch):
    def broken(*words):
        raise KeyError(f"something with {TOKEN}")

    monkeypatch.setattr(engine._Hub, "files", broken)
    log = Log()
    with pytest.raises(RuntimeError) as caught:
        download(job(), workspace, log, token=TOKEN)
    assert TOKEN not in str(caught.value) and caught.value.__suppress_context__
    failed = log.of(Failed)[0]
    assert "KeyError" in failed.message and TOKEN not in failed.message + failed.detail


# ---------------------------------------------------------------- the command line


def test_the_verb_downloads_and_says_sizes_first(hub, workspace, monkeypatch, capsys):
    monkeypatch.setenv("NOSNJA_WORKSPACE", str(workspace.root))
    assert main(["model", "download", "some/model", "--variant", "fp16", "--name", "half"]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0].startswith("some/model: 9 files, 1.7 MB; ")
    assert shown.out.splitlines()[-1] == f"Finished: {workspace.models / 'half'}"
    assert "Downloading, MB" in shown.err
    assert main(["model", "download", "some/nothing"]) == 2
    assert "error: There is no model 'some/nothing'" in capsys.readouterr().err
    assert main(["model", "download", "nothing"]) == 2
    assert "USER/NAME" in capsys.readouterr().err


# ---------------------------------------------------------------- publishing


@pytest.fixture
def ready(tmp_path) -> Path:
    folder = tmp_path / "costume-hub"
    (folder / "images").mkdir(parents=True)
    (folder / "costume.safetensors").write_bytes(weights(1, 200_000))
    (folder / "README.md").write_text("---\nlibrary_name: diffusers\n---\n\n# Costume\n")
    (folder / "images" / "sample-1.png").write_bytes(weights(2, 3000))
    (folder / "notes.txt").write_text("mine alone")
    return folder


def test_a_folder_is_published_privately_as_one_commit(hub, ready):
    assert publish(ready, "me/costume", token=TOKEN) == f"{hub.address}/me/costume"
    repo = hub.repos["me/costume"]
    assert repo.private and len(repo.summaries) == 1
    assert {name: len(data) for name, data in repo.files.items()} == {
        "costume.safetensors": 200_000,
        "README.md": len((ready / "README.md").read_bytes()),
        "images/sample-1.png": 3000,
    }
    assert repo.files["costume.safetensors"] == (ready / "costume.safetensors").read_bytes()
    assert not any(request.authorized for request in hub.requests if request.port == "storage")
    publish(ready, "me/open", private=False, token=TOKEN)
    assert not hub.repos["me/open"].private


def test_what_else_is_in_the_repository_stays(hub, ready):
    hub.repos["me/costume"] = Repo({"theirs.txt": b"theirs", ".gitattributes": b"*"}, private=True)
    publish(ready, "me/costume", token=TOKEN)
    files = hub.repos["me/costume"].files
    assert files["theirs.txt"] == b"theirs" and files["README.md"] == (ready / "README.md").read_bytes()
    publish(ready, "me/costume", token=TOKEN)
    assert len(hub.repos["me/costume"].summaries) == 1, "what is the same is not uploaded again"


def refused(*words, **options) -> str:
    with pytest.raises(UserError) as caught:
        publish(*words, **options)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and TOKEN not in text
    return text


def test_another_file_of_that_name_is_replaced_only_when_asked(hub, ready):
    hub.repos["me/costume"] = Repo({"README.md": b"# theirs"}, private=True)
    assert "holds another README.md already" in refused(ready, "me/costume", token=TOKEN)
    assert hub.repos["me/costume"].files == {"README.md": b"# theirs"}
    publish(ready, "me/costume", token=TOKEN, replace=True)
    assert hub.repos["me/costume"].files["README.md"].startswith(b"---")


def test_nothing_goes_public_unasked(hub, ready):
    hub.repos["me/costume"] = Repo({"README.md": b"# theirs"})
    assert "everybody sees it" in refused(ready, "me/costume", token=TOKEN, replace=True)
    assert list(hub.repos["me/costume"].files) == ["README.md"]


def test_publishing_that_is_refused(hub, ready, monkeypatch):
    assert "needs a token" in refused(ready, "me/costume")
    assert "USER/NAME" in refused(ready, "costume", token=TOKEN)
    assert "may not do that" in refused(ready, "me/costume", token="hf_ReadOnly")
    assert "refuses the token" in refused(ready, "me/costume", token="hf_Wrong")
    assert hub.repos.keys() == {"some/model"}
    hub.answer = lambda method, path: 403 if method == "PUT" else None
    assert "may not do that" in refused(ready, "me/costume", token=TOKEN)
    hub.answer = lambda method, path: 400 if path == "/api/validate-yaml" else None
    assert "does not accept the head" in refused(ready, "me/costume", token=TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "no connection" in refused(ready, "me/costume", token=TOKEN)
    shutil.rmtree(ready)
    assert "not ready to publish" in refused(ready, "me/costume", token=TOKEN)
