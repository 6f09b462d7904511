"""The Hugging Face hub, only when asked: base models from there into the workspace, a LoRA with its card from here to there.

The token is handed in or found where the hub's own tools keep it. It goes into the header of a request and nowhere else: no
sentence, event or file of ours ever holds it, so what a server answers is never quoted either.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nosnja_gui import publishing
from nosnja_gui.events import Downloaded, Event, EventLog, Failed, Finished, Stage, Started, Stopped
from nosnja_gui.files import free_bytes, sync
from nosnja_gui.jobs import DownloadJob
from nosnja_gui.progress import Progress
from nosnja_gui.runs import holding
from nosnja_gui.settings import UserError
from nosnja_gui.workspace import Workspace, file_name

USUAL_ADDRESS = "https://huggingface.co"
CHUNK_BYTES = 2**20
SPARE_BYTES = 64 * 2**20
"""Left free on the disk beside what is downloaded."""
TIMEOUT_SECONDS = 20.0
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Waits after a broken connection; anew after each one that brought something."""
SECONDS_BETWEEN = 1.0
"""Between two reports in the log."""
SAFE_NAME = re.compile(r"(?!\.)[\w.+ -]*[\w+-]")
"""A part of a path as it may be written here; what the hub says must not lead out of the folder, or hide in it."""
PART = ".part"
UNSAFE = (".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5")
"""Weights that are not downloaded: most of these formats can hold programs that run when they are loaded."""
CONFIGS = (".json", ".txt", ".model", ".csv")
LEFT_OUT = ("safety_checker",)
WEIGHT_STEMS = ("diffusion_pytorch_model", "model")
"""The names that diffusers (utils/constants.py: SAFETENSORS_WEIGHTS_NAME) and transformers (utils: SAFE_WEIGHTS_NAME) look for."""
SHARD = re.compile(r"-\d{5}-of-\d{5}")


@dataclass(frozen=True)
class HubFile:
    """A file on the hub, by what the hub says of it."""

    path: str
    size: int
    sha256: str = ""
    """Of large files."""
    git_sha1: str = ""
    """Of all others: the number under which git keeps them."""

    def new_hash(self) -> Any:
        # Git's object format: sha1 over "blob <size>\0" and the content.
        return hashlib.sha256() if self.sha256 else hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    def is_whole(self, digest: Any) -> bool:
        said = self.sha256 or self.git_sha1
        return not said or digest.hexdigest() == said


class _Stop(Exception):
    """Somebody asked for it; what was downloaded stays."""


# ---------------------------------------------------------------- the connection


def find_token() -> str | None:
    """The user's token: $HF_TOKEN, or what `hf auth login` stored. Raises UserError for what cannot be one."""
    from huggingface_hub import get_token

    return checked_token(get_token())


def checked_token(token: str | None) -> str | None:
    """The token without blanks around it. Raises UserError, which does not repeat it, for what no header may hold."""
    token = (token or "").strip()
    if not re.fullmatch(r"[!-~]*", token):
        raise UserError("The token is none: it is one word of letters and digits, copied from the hub's settings, page 'Access Tokens'.")
    return token or None


@contextlib.contextmanager
def _online() -> Iterator[None]:
    """The hub's library works offline in this program; here, and for as long as this lasts, it may connect."""
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    # Without Xet, LFS's plain uploads are used, and nothing is reported to anybody.
    wanted = {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_HUB_DISABLE_TELEMETRY": True}
    before, bars = {name: getattr(constants, name) for name in wanted}, not are_progress_bars_disabled()
    for name, value in wanted.items():
        setattr(constants, name, value)
    disable_progress_bars()
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(constants, name, value)
        if bars:
            enable_progress_bars()


def _connection_errors() -> tuple[type[Exception], ...]:
    """What a broken connection raises: the errors of whichever version of httpx the hub's library is built on."""
    from huggingface_hub.errors import HfHubHTTPError

    return (HfHubHTTPError.__bases__[0], ConnectionError, TimeoutError)  # type: ignore[return-value]


class _Hub:
    """What is asked of the hub, with its refusals in words."""

    def __init__(self, repo: str, token: str | None) -> None:
        from huggingface_hub import HfApi

        self.repo, self.token = repo, token
        self.address = os.environ.get("HF_ENDPOINT", "").rstrip("/") or USUAL_ADDRESS
        # False, not None: without a token the library would look for one itself.
        self.api = HfApi(endpoint=self.address, token=token or False, library_name="nosnja")

    @contextlib.contextmanager
    def asking(self, for_what: str = "", revision: str = "") -> Iterator[None]:
        """Around a request. Raises UserError for refusals and broken connections; nothing of the answer's text is in it."""
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        try:
            yield
        except HfHubHTTPError as error:
            raise self._refusal(error.response, for_what, revision) from None
        except HFValidationError:
            raise UserError(f"'{self.repo}' is no name of the hub's: write USER/NAME.") from None
        except _connection_errors():
            raise self.unreachable() from None

    def unreachable(self) -> UserError:
        return UserError(f"There is no connection to {self.address}: check the network, then the same command goes on.")

    def _refusal(self, response: Any, for_what: str, revision: str) -> UserError:
        status, code = response.status_code, response.headers.get("X-Error-Code", "")
        said = response.headers.get("X-Error-Message", "")
        page = f"{self.address}/{self.repo}"
        if code == "GatedRepo":
            then = "the token's owner has no access yet" if self.token else "then give a token (HF_TOKEN, or `hf auth login`)"
            return UserError(f"{self.repo} is gated: accept its licence on {page} with your account, {then}.")
        if code == "RevisionNotFound":
            return UserError(f"{self.repo} has no revision '{revision}': leave it out, or choose one that its page {page} lists.")
        if code == "EntryNotFound":
            return UserError(f"{self.repo} has no file '{for_what}' (any more): look at its page {page}.")
        wrong = "Invalid credentials" in said or (status == 401 and self.token and code != "RepoNotFound")
        if wrong:
            return UserError(f"The hub refuses the token: make a new one on {self.address}/settings/tokens, or work without one.")
        if code == "RepoNotFound" or status in (401, 404):
            hint = "" if self.token else ", or give a token if it is private"
            return UserError(f"There is no model '{self.repo}' on {self.address}: look at how it is written{hint}.")
        if status == 403:
            return UserError(f"The token may not do that with {self.repo}: give one that has the permission, for writing if you publish.")
        if status == 429:
            return UserError("The hub has had too many requests from here: wait a few minutes, then the same command goes on.")
        return UserError(f"The hub answers {status} for {self.repo}{f' ({for_what})' if for_what else ''}: try again later.")

    def files(self, revision: str) -> tuple[str, list[HubFile]]:
        """The commit that the revision is now, and its files. Raises UserError as `asking` does."""
        with self.asking(revision=revision):
            info = self.api.model_info(self.repo, revision=revision or None, files_metadata=True, timeout=TIMEOUT_SECONDS)
        found = []
        for entry in info.siblings or []:
            # Others are left where they are: their names are no names of files here.
            if all(SAFE_NAME.fullmatch(part) for part in entry.rfilename.split("/")):
                lfs = entry.lfs
                sha256 = lfs.sha256 if lfs is not None else ""
                found.append(HubFile(entry.rfilename, int(entry.size or 0), sha256 or "", "" if lfs is not None else entry.blob_id or ""))
        return info.sha or revision or "main", found

    @contextlib.contextmanager
    def reading(self, file: HubFile, commit: str, begin: int) -> Iterator[tuple[int, Iterable[bytes]]]:
        """The file's bytes from `begin` on, or from 0 where the server knows no parts: (where they begin, the bytes)."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        headers = build_hf_headers(token=self.token or False, library_name="nosnja")
        headers["Accept-Encoding"] = "identity"  # the file itself is hashed
        if begin:
            headers["Range"] = f"bytes={begin}-"
        url = hf_hub_url(self.repo, file.path, revision=commit, endpoint=self.address)
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS) as answer:
            if answer.status_code >= 400:
                answer.read()
            hf_raise_for_status(answer)
            yield (begin if answer.status_code == 206 else 0), answer.iter_raw()  # as it comes: nothing waits in memory to be lost


# ---------------------------------------------------------------- what of a repository is needed


def needed(files: Sequence[HubFile], repo: str, variant: str = "", components: Sequence[str] | None = None) -> list[HubFile]:
    """Of a diffusers repository the index, and for each of its components (by its index) configs, tokenizers and safetensors;
    without `components` the same of a transformers model's single folder.

    Raises UserError where weights are there in other formats only, or where there is nothing but single files to choose from.
    """
    folders = [""] if components is None else [name for name in components if name not in LEFT_OUT]
    chosen = [file for file in files if components is not None and file.path == "model_index.json"]
    for folder in folders:
        inside = [file for file in files if str(PurePosixPath(file.path).parent) == (folder or ".")]
        weights = _weights(inside, variant)
        unsafe = [file.path for file in inside if file.path.endswith(UNSAFE)]
        if unsafe and not weights:
            raise UserError(
                f"{repo} has no .safetensors weights{f' in {folder}/' if folder else ''}, only {unsafe[0]}, a kind of file that "
                "can hold programs: choose another model."
            )
        chosen += weights
        chosen += [file for file in inside if file.path.endswith(CONFIGS) and not _is_weight(file) and file not in chosen]
    if not any(file.path.endswith(".safetensors") for file in chosen):
        raise UserError(f"{repo} holds no .safetensors weights of a model: choose another one.")
    return chosen


def single(files: Sequence[HubFile], repo: str, name: str) -> HubFile:
    """The one file that was asked for by its path, or by its name alone. Raises UserError for none, and for other kinds."""
    fitting = [file for file in files if file.path == name] or [file for file in files if PurePosixPath(file.path).name == name]
    there = [file.path for file in files if file.path.endswith(".safetensors")]
    listed = ", ".join(there[:6]) + (" ..." if len(there) > 6 else "")
    choose = f"it has {listed}." if there else "it has no .safetensors file at all."
    if len(fitting) != 1:
        raise UserError(f"{repo} has {'several files' if fitting else 'no file'} called '{name}': {choose}")
    if not fitting[0].path.endswith(".safetensors"):
        raise UserError(f"{fitting[0].path} is no .safetensors file, others can hold programs; of those, {repo}: {choose}")
    return fitting[0]


def components_of(index: dict[str, Any]) -> list[str]:
    """The folders that a model_index.json names: each entry [library, class], where neither is null."""
    return [name for name, value in index.items() if isinstance(value, list) and len(value) == 2 and None not in value]


def _weights(inside: Sequence[HubFile], variant: str) -> list[HubFile]:
    """Those of the variant asked for, else the whole ones, else the only ones there are; shards with their index."""
    by_variant: dict[str, list[HubFile]] = {}
    for file in inside:
        if _is_weight(file):
            by_variant.setdefault(_variant(file), []).append(file)
    having = [name for name, found in by_variant.items() if any(file.path.endswith(".safetensors") for file in found)]
    wanted = next((name for name in (variant, "", "fp16") if name in having), None)
    return [] if wanted is None else by_variant[wanted]


def _is_weight(file: HubFile) -> bool:
    """Safetensors that a pipeline loads, and the index of their shards."""
    name = PurePosixPath(file.path).name
    stem = SHARD.sub("", name).partition(".")[0]
    return stem in WEIGHT_STEMS and (name.endswith(".safetensors") or (".safetensors.index" in name and name.endswith(".json")))


def _variant(file: HubFile) -> str:
    """ "fp16" for model.fp16.safetensors, model.fp16-00001-of-00002.safetensors and model.safetensors.index.fp16.json.

    How names are made: diffusers and transformers, `_add_variant`.
    """
    words = SHARD.sub("", PurePosixPath(file.path).name).split(".")[1:]
    return ".".join(word for word in words if word not in ("safetensors", "index", "json"))


# ---------------------------------------------------------------- download


def download(
    job: DownloadJob,
    workspace: Workspace,
    log: EventLog | None = None,
    progress: Progress | None = None,
    stop_asked: Callable[[], bool] = lambda: False,
    token: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Path | None:
    """Bring a model into the workspace's models folder and return its path there; None if a stop was asked for.

    Until all is whole and checked, it lies in a hidden folder there, from which the next call goes on. `token` comes before
    the one that is found (see `find_token`); `say` gets the sizes before anything large is fetched. Raises UserError in one sentence.
    """
    work = _Download(job, workspace, log.append if log else lambda event: None, progress, stop_asked, say)
    secret: str | None = None
    try:
        secret = checked_token(token) or find_token()
        with _online():
            return work.run(_Hub(job.repo, secret))
    except _Stop:
        work.tell(Stopped(step=work.done))
        return None
    except KeyboardInterrupt:
        work.tell(Stopped(step=work.done))
        raise
    except UserError as error:
        work.tell(Failed(message=str(error)))
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "is full: make room" if full else f"cannot be written to ({error.strerror}): choose another workspace"
        problem = UserError(f"The disk of {workspace.models} {what}, then the same command goes on; what is there stays.")
        with contextlib.suppress(OSError):
            work.tell(Failed(message=str(problem)))
        raise problem from None
    except Exception as error:
        message = _without(secret, f"{type(error).__name__}: {error}")
        work.tell(Failed(message=message, detail=_without(secret, traceback.format_exc())))
        if secret and secret in str(error):
            raise RuntimeError(message) from None
        raise
    finally:
        if progress:
            progress.done()


def target_of(job: DownloadJob, workspace: Workspace) -> Path:
    """Where the model will be: models/<name>, with .safetensors for a single file."""
    if job.file:
        return workspace.models / f"{file_name((job.name or PurePosixPath(job.file).name).removesuffix('.safetensors'))}.safetensors"
    return workspace.models / file_name(job.name or job.repo.rpartition("/")[2])


class _Download:
    """One download: what is on the disk already, what is still to come, and telling about it."""

    def __init__(
        self,
        job: DownloadJob,
        workspace: Workspace,
        tell: Callable[[Event], None],
        progress: Progress | None,
        stop_asked: Callable[[], bool],
        say: Callable[[str], None],
    ) -> None:
        self.job, self.workspace, self.tell = job, workspace, tell
        self.progress, self.stop_asked, self.say = progress, stop_asked, say
        self.target = target_of(job, workspace)
        self.folder = workspace.models / f".{self.target.name}.download"
        self.done = self.total = 0
        self._looked = self._told = self._began = 0.0
        self._first = 0

    def run(self, hub: _Hub) -> Path:
        self.workspace.create()
        began = time.monotonic()
        self._stage("asking the hub")
        with holding(self.workspace.cache / f"download-{self.target.name}.lock") as ours:
            if not ours:
                raise UserError(f"{self.target.name} is being downloaded by another process: wait until it ends.")
            commit, files = hub.files(self.job.revision)
            self.folder.mkdir(exist_ok=True)
            wanted = self._wanted(hub, commit, files)
            self.total = sum(file.size for file in wanted)
            if self._is_there(wanted):
                self.say(f"{self.target} is there already, whole.")
                self.tell(Started(job="download", total=self.total, done=self.total))
            else:
                self._fetch_all(hub, commit, wanted)
                self._put_in_place(wanted, hub, commit)
        self.tell(Finished(files=[str(self.target)], seconds=time.monotonic() - began))
        return self.target

    def _wanted(self, hub: _Hub, commit: str, files: list[HubFile]) -> list[HubFile]:
        if self.job.file:
            return [single(files, hub.repo, self.job.file)]
        index = next((file for file in files if file.path == "model_index.json"), None)
        if index is None:
            if any(file.path == "config.json" for file in files):
                return needed(files, hub.repo, self.job.variant)
            there = [file.path for file in files if file.path.endswith(".safetensors")]
            if not there:
                return needed(files, hub.repo)  # raises, and says what there is
            listed = ", ".join(there[:6]) + (" ..." if len(there) > 6 else "")
            raise UserError(f"{hub.repo} is no diffusers folder but holds single files: choose one with --file, of {listed}.")
        self._fetch(hub, commit, index)
        try:
            components = components_of(publishing.read_json(self._path(index)))
        except (OSError, ValueError):
            raise UserError(f"The model_index.json of {hub.repo} is not readable: choose another model.") from None
        return needed(files, hub.repo, self.job.variant, components)

    def _is_there(self, wanted: list[HubFile]) -> bool:
        """Whether the model is in its place already. Raises UserError where something else is."""
        if not os.path.lexists(self.target):
            return False
        single_file = bool(self.job.file)
        places = [(self.target if single_file else self.target / file.path, file.size) for file in wanted]
        shutil.rmtree(self.folder, ignore_errors=True)
        if not all(path.is_file() and path.stat().st_size == size for path, size in places):
            raise UserError(f"{self.target} exists and is something else: choose another name with --name, or delete it first.")
        return True

    def _fetch_all(self, hub: _Hub, commit: str, wanted: list[HubFile]) -> None:
        self._forget_others(wanted)
        self.done = sum(self._have(file) for file in wanted)
        missing, free = self.total - self.done, free_bytes(self.workspace.models)
        had = f", {_size(self.done)} of them are here" if self.done >= 100_000 else ""  # the index alone is not worth a word
        count = f"{len(wanted)} files" if len(wanted) > 1 else wanted[0].path
        self.say(f"{hub.repo}: {count}, {_size(self.total)}{had}; {_size(free)} are free.")
        if missing + SPARE_BYTES > free:
            raise UserError(
                f"The disk of {self.workspace.models} has {_size(free)} free, but {_size(missing)} are still needed: make room, then the "
                "same command goes on."
            )
        self.tell(Started(job="download", total=self.total, done=self.done))
        self._began, self._first = time.monotonic(), self.done
        if self.progress:
            self.progress.stage("Downloading, MB", round(self.total / 1e6), round(self.done / 1e6))
        for file in wanted:
            self._fetch(hub, commit, file)

    def _path(self, file: HubFile) -> Path:
        return self.folder / file.path

    def _part(self, file: HubFile) -> Path:
        return self.folder / f"{file.path}{PART}"

    def _have(self, file: HubFile) -> int:
        """Bytes of the file that are on the disk; 0 for one that is longer than it may be."""
        for path in (self._part(file), self._path(file)):
            with contextlib.suppress(OSError):
                size = path.stat().st_size
                return size if size <= file.size else 0
        return 0

    def _forget_others(self, wanted: list[HubFile]) -> None:
        """Remove what an earlier choice (another variant, an older revision) left behind."""
        keep = {path for file in wanted for path in (self._path(file), self._part(file))}
        for path in [path for path in self.folder.rglob("*") if path.is_file() or path.is_symlink()]:
            if path not in keep:
                path.unlink()

    def _fetch(self, hub: _Hub, commit: str, file: HubFile) -> None:
        """Have the whole file in its place below `folder`. Raises UserError where it cannot be had or comes damaged."""
        path, part = self._path(file), self._part(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and not part.exists():
            os.replace(path, part)  # checked once more: it may be another revision's
        if part.exists() and part.stat().st_size > file.size:
            part.unlink()
        for _ in range(2):
            begun = part.exists() and part.stat().st_size > 0
            digest, size = self._complete(hub, commit, file, part)
            if size == file.size and file.is_whole(digest):
                sync(part)
                os.replace(part, path)
                return
            self.done -= size
            part.unlink()
            if not begun:
                break
            # What was there before may have been of another revision: once more, from the beginning.
        raise UserError(f"{file.path} of {hub.repo} came damaged, its checksum is another one: try again.")

    def _complete(self, hub: _Hub, commit: str, file: HubFile, part: Path) -> tuple[Any, int]:
        """Append what is missing to `part`; the hash of all of it, and its bytes."""
        failures = 0
        digest, size = file.new_hash(), 0
        with open(part, "a+b") as stream:
            stream.seek(0)
            while block := stream.read(CHUNK_BYTES):
                self._listen()
                digest.update(block)
                size += len(block)
            while size < file.size:
                before = size
                try:
                    with hub.reading(file, commit, size) as (begin, blocks):
                        if begin != size:
                            stream.truncate(0)
                            self.done -= size
                            digest, size = file.new_hash(), 0
                        for block in blocks:
                            stream.write(block)
                            digest.update(block)
                            size += len(block)
                            self.done += len(block)
                            self._report(file, size, len(block))
                            if size > file.size:
                                return digest, size
                    if size < file.size:
                        raise ConnectionError("the connection ended early")
                except _connection_errors() as error:
                    failures = self._failed(hub, file, error, failures if size <= before else 0)
        return digest, size

    def _failed(self, hub: _Hub, file: HubFile, error: Exception, failures: int) -> int:
        """Wait a little after a broken connection. Raises UserError for a refusal, and when it broke too often."""
        response = getattr(error, "response", None)
        refused = response is not None and response.status_code < 500 and response.status_code != 429
        if refused or failures >= len(RETRY_SECONDS):
            with hub.asking(file.path, self.job.revision):
                raise error
        until = time.monotonic() + RETRY_SECONDS[failures]
        while time.monotonic() < until:
            self._listen()
            time.sleep(0.05)
        return failures + 1

    def _listen(self) -> None:
        if time.monotonic() - self._looked > 0.2:
            self._looked = time.monotonic()
            if self.stop_asked():
                raise _Stop

    def _report(self, file: HubFile, size: int, fresh: int) -> None:
        self._listen()
        now = time.monotonic()
        if self.progress and self.total:
            speed = (self.done - self._first) / max(1e-6, now - self._began)
            count = round(self.done / 1e6) - round((self.done - fresh) / 1e6)
            self.progress.advance(count, f"{file.path} {size * 100 // max(1, file.size)} %, {speed / 1e6:.1f} MB/s")
        if self.total and (now - self._told > SECONDS_BETWEEN or self.done == self.total):
            self._told = now
            self.tell(Downloaded(file=file.path, file_done=size, file_total=file.size, done=self.done, total=self.total))

    def _stage(self, name: str) -> None:
        self.tell(Stage(name=name))
        if self.progress:
            self.progress.stage(f"{name[0].upper()}{name[1:]}")

    def _put_in_place(self, wanted: list[HubFile], hub: _Hub, commit: str) -> None:
        if self.job.file:
            publishing.note_origin(self.target, hub.repo, commit)
            os.replace(self._path(wanted[0]), self.target)
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            for path in [path for path in self.folder.rglob("*") if path.is_dir() and not any(path.iterdir())]:
                path.rmdir()
            publishing.note_origin(self.folder, hub.repo, commit)
            os.replace(self.folder, self.target)
        sync(self.workspace.models)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _without(secret: str | None, text: str) -> str:
    return text.replace(secret, "(the token)") if secret else text


# ---------------------------------------------------------------- publish


def publish(folder: Path, repo: str, private: bool = True, token: str | None = None, replace: bool = False) -> str:
    """Upload a folder that `publishing.write` made, as one commit of its own files only, and return the repository's address.

    The repository is made where there is none, for everybody only with `private=False`. Files of others in it stay as they are;
    one of ours that is there with another content is replaced with `replace` only. Raises UserError in one sentence.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise UserError(f"'{repo}' is no name of a repository: write USER/NAME, with your name on the hub.")
    paths = publishing.contents(folder)
    secret = checked_token(token) or find_token()
    if not secret:
        raise UserError("Publishing needs a token with write permission: set HF_TOKEN, or log in with `hf auth login`.")
    with _online():
        hub = _Hub(repo, secret)
        commit = _open(hub, folder, paths, private, replace)
        _commit(hub, folder, paths, commit)
    return f"{hub.address}/{repo}"


def _open(hub: _Hub, folder: Path, paths: Sequence[Path], private: bool, replace: bool) -> str | None:
    """The commit of a repository that may be written to, or None for one made just now. Raises UserError where it may not."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    with hub.asking():
        try:
            info = hub.api.model_info(hub.repo, files_metadata=True, timeout=TIMEOUT_SECONDS)
        except RepositoryNotFoundError as error:
            if isinstance(error, GatedRepoError):
                raise
            hub.api.create_repo(hub.repo, private=private)
            return None
    if private and not info.private:
        raise UserError(f"{hub.repo} is there already and everybody sees it: add --public if that is meant, or choose another name.")
    there = {entry.rfilename: entry for entry in info.siblings or []}
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    other = [name for name, path in names.items() if name in there and not _same(there[name], path)]
    if other and not replace:
        raise UserError(f"{hub.repo} holds another {other[0]} already: add --replace to replace it, or choose another repository.")
    return info.sha


def _commit(hub: _Hub, folder: Path, paths: Sequence[Path], parent: str | None) -> None:
    from huggingface_hub import CommitOperationAdd

    operations = [CommitOperationAdd(path_in_repo=path.relative_to(folder).as_posix(), path_or_fileobj=path) for path in paths]
    try:
        with hub.asking(), warnings.catch_warnings(action="ignore"):
            hub.api.create_commit(hub.repo, operations, commit_message="LoRA and model card", parent_commit=parent)
    except UserError:
        raise
    except ValueError:  # the hub's word on the card's head; what it says is not quoted
        raise UserError(f"The hub does not accept the head of {folder / 'README.md'}, between the lines '---': mend it there.") from None
    except RuntimeError as error:  # of a large file; the reason is its cause
        with hub.asking(folder.name):
            raise (error.__cause__ or error) from None


def _same(entry: Any, path: Path) -> bool:
    lfs = entry.lfs
    file = HubFile(entry.rfilename, path.stat().st_size, lfs.sha256 if lfs is not None else "", "" if lfs is not None else entry.blob_id)
    digest = file.new_hash()
    digest.update(path.read_bytes())
    return (file.sha256 or file.git_sha1) == digest.hexdigest()
