"""A small Hugging Face hub on this machine: what the hub's own client asks of it for downloads and for uploads of a few files.

Paths, headers and bodies as huggingface_hub sends and reads them (hf_api.py, _commit_api.py, lfs.py, utils/_http.py). Large files
live on a second port, as on the real hub, where a token has no business.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".ckpt", ".png", ".msgpack", ".onnx", ".pth")


@dataclass
class Repo:
    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    commits: int = 1
    summaries: list[str] = field(default_factory=list)

    @property
    def sha(self) -> str:
        content = repr((self.commits, sorted((name, hashlib.sha1(data).hexdigest()) for name, data in self.files.items())))
        return hashlib.sha1(content.encode()).hexdigest()


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    port: str
    """hub or storage."""
    authorized: str
    byte_range: str
    sent: int
    """Bytes of the file that were sent as an answer."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that was killed
            super().handle_error(request, client)


class HubServer:
    """`with HubServer() as hub:` then `hub.repos["user/name"] = Repo({...})` and HF_ENDPOINT=hub.address."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.tokens: dict[str, str] = {}
        """Token -> "read" or "write"."""
        self.allowed: set[str] = set()
        """Tokens whose owners accepted the licences of gated repositories."""
        self.requests: list[Request] = []
        self.stored: dict[str, bytes] = {}
        self.cut_after: dict[str, list[int]] = {}
        """File -> its next answers end early, after so many bytes each."""
        self.delay_seconds = 0.0
        """Before each 64 KiB."""
        self.ranges = True
        self.spoil: set[str] = set()
        """Files that arrive with a wrong byte."""
        self.answer: Callable[[str, str], int | None] = lambda method, path: None
        """A status to answer with instead of what was asked for."""
        self._servers: list[_Server] = []

    def __enter__(self) -> HubServer:
        for port in ("hub", "storage"):
            server = _Server(("127.0.0.1", 0), _handler(self, port))
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
            self._servers.append(server)
        return self

    def __exit__(self, *error: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def storage(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    def sent(self, of: str = "") -> int:
        """Bytes of files that went out, of those whose path ends so."""
        return sum(request.sent for request in self.requests if request.path.endswith(of))


def _git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sibling(name: str, data: bytes) -> dict:
    about = {"rfilename": name, "size": len(data), "blobId": _git_sha1(data)}
    if name.endswith(LARGE):
        about["lfs"] = {"sha256": _sha256(data), "size": len(data), "pointerSize": 134}
    return about


def _handler(hub: HubServer, port: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            pass

        def do_GET(self) -> None:
            self._work()

        do_HEAD = do_POST = do_PUT = do_GET

        def _work(self) -> None:
            self.path_only = unquote(urlsplit(self.path).path)
            length = int(self.headers.get("Content-Length") or 0)
            self.body = self.rfile.read(length) if length else self._chunked()
            self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            self.sent = 0
            try:
                status = hub.answer(self.command, self.path_only)
                if status is not None:
                    self._refuse(status)
                elif port == "storage":
                    self._storage()
                else:
                    self._hub()
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                asked = self.headers.get("Range") or ""
                hub.requests.append(Request(self.command, self.path_only, port, self.token, asked, self.sent))

        def _chunked(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return b""
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _refuse(self, status: int, code: str = "", message: str = "") -> None:
            # A careless server repeats what it was sent.
            message = message or f"refused for {self.token}"
            body = json.dumps({"error": f"{message} ({self.token})"}).encode()
            headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
            self._answer(status, body, headers)

        def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _json(self, values: object, status: int = 200) -> None:
            self._answer(status, json.dumps(values).encode())

        # What the hub does

        def _hub(self) -> None:
            if self.token and self.token not in hub.tokens:
                self._refuse(401, message="Invalid credentials in Authorization header")
            elif self.path_only == "/api/validate-yaml":
                head = re.match(r"---\n(.*?)\n---", json.loads(self.body)["content"], re.S)
                self._json({"errors": [], "warnings": []}) if head else self._json({"errors": [{"message": "no head"}]}, 400)
            elif self.path_only == "/api/repos/create":
                self._create(json.loads(self.body))
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self.path_only):
                self._info(found[1], found[2] or "main")
            elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path_only):
                self._resolve(*found.groups())
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path_only):
                if self._may_write(found[1]):
                    (self._preupload if found[2] == "preupload" else self._commit)(found[1])
            elif found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.path_only):
                if self._may_write(found[1]):
                    self._batch()
            else:
                self._refuse(404)

        def _repo(self, name: str) -> Repo | None:
            repo = hub.repos.get(name)
            if repo is None or (repo.private and not self.token):
                if self.token:
                    self._refuse(404, "RepoNotFound", "Repository not found")
                else:
                    self._refuse(401, message="Invalid username or password.")
                return None
            return repo

        def _info(self, name: str, revision: str) -> None:
            repo = self._repo(name)
            if repo is None:
                return
            if revision not in ("main", repo.sha):
                self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
                return
            siblings = [_sibling(path, data) for path, data in repo.files.items()]
            about = {"id": name, "modelId": name, "private": repo.private, "sha": repo.sha, "tags": [], "downloads": 0, "likes": 0}
            self._json({**about, "gated": "auto" if repo.gated else False, "siblings": siblings})

        def _resolve(self, name: str, revision: str, path: str) -> None:
            repo = self._repo(name)
            if repo is None:
                return
            if repo.gated and self.token not in hub.allowed:
                self._refuse(403 if self.token else 401, "GatedRepo", f"Access to model {name} is restricted")
            elif revision not in ("main", repo.sha):
                self._refuse(404, "RevisionNotFound", "Invalid rev id")
            elif path not in repo.files:
                self._refuse(404, "EntryNotFound", "Entry not found")
            elif path.endswith(LARGE):
                data = repo.files[path]
                hub.stored[_sha256(data)] = data
                headers = {"Location": f"{hub.storage}/{_sha256(data)}/{path}", "X-Linked-Etag": f'"{_sha256(data)}"'}
                self._answer(302, b"", {**headers, "X-Repo-Commit": repo.sha})
            else:
                self._send_file(repo.files[path], path)

        def _send_file(self, data: bytes, path: str) -> None:
            if path in hub.spoil:
                data = data[:-1] + bytes([data[-1] ^ 1])
            begin = int(re.match(r"bytes=(\d+)-", self.headers.get("Range") or "bytes=0-")[1]) if hub.ranges else 0
            partial = hub.ranges and "Range" in self.headers
            rest = data[begin:]
            self.send_response(206 if partial else 200)
            self.send_header("Content-Length", str(len(rest)))
            if partial:
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if self.command == "HEAD":
                return
            cuts = hub.cut_after.get(path)
            ends = cuts.pop(0) if cuts else len(rest)
            for place in range(0, min(ends, len(rest)), 65536):
                if hub.delay_seconds:
                    time.sleep(hub.delay_seconds)
                block = rest[place : min(place + 65536, ends)]
                self.wfile.write(block)
                self.sent += len(block)
            if ends < len(rest):
                self.wfile.flush()
                self.close_connection = True

        def _create(self, asked: dict) -> None:
            name = f"{asked['organization']}/{asked['name']}"
            if hub.tokens.get(self.token) != "write":
                self._refuse(403, message="You don't have the rights to create a model under this namespace")
            elif name in hub.repos:
                self._refuse(409, message="You already created this model repo")
            else:
                # As create_repo says it: "visibility" where asked, public otherwise.
                hub.repos[name] = Repo(private=asked.get("visibility", "public") == "private")
                self._json({"url": f"{hub.address}/{name}", "name": name})

        def _may_write(self, name: str) -> bool:
            if self._repo(name) is None:
                return False
            if hub.tokens.get(self.token) == "write":
                return True
            self._refuse(403, message="You don't have the rights")
            return False

        def _preupload(self, name: str) -> None:
            files = hub.repos[name].files
            modes = []
            for file in json.loads(self.body)["files"]:
                mode = "lfs" if file["path"].endswith(LARGE) else "regular"
                there = files.get(file["path"])
                oid = None if there is None else _sha256(there) if mode == "lfs" else _git_sha1(there)
                modes.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self._json({"files": modes})

        def _batch(self) -> None:
            objects = []
            for wanted in json.loads(self.body)["objects"]:
                upload = {"href": f"{hub.storage}/upload/{wanted['oid']}", "header": {}}
                objects.append({**wanted, **({} if wanted["oid"] in hub.stored else {"actions": {"upload": upload}})})
            self._json({"transfer": "basic", "objects": objects})

        def _commit(self, name: str) -> None:
            repo = hub.repos[name]
            lines = [json.loads(line) for line in self.body.splitlines()]
            header = lines[0]["value"]
            if header.get("parentCommit") not in (None, repo.sha):
                self._refuse(412, message="A commit has happened since")
                return
            for line in lines[1:]:
                value = line["value"]
                if line["key"] == "file":
                    repo.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    repo.files[value["path"]] = hub.stored[value["oid"]]
                else:
                    self._refuse(400, message=f"unexpected {line['key']}")
                    return
            repo.commits += 1
            repo.summaries.append(header["summary"])
            self._json({"commitUrl": f"{hub.address}/{name}/commit/{repo.sha}", "commitOid": repo.sha, "success": True})

        # Where large files are

        def _storage(self) -> None:
            if self.command == "PUT":
                digest = self.path_only.rpartition("/")[2]
                if _sha256(self.body) != digest:
                    self._refuse(400)
                    return
                hub.stored[digest] = self.body
                self._answer(200, b"")
                return
            digest, _, path = self.path_only[1:].partition("/")
            if digest in hub.stored:
                self._send_file(hub.stored[digest], path)
            else:
                self._refuse(404)

    return Handler
