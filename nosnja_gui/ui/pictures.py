"""Hands pictures to the browser: whole or as thumbnails, by addresses that only this window can make.

An address holds the file's path and a signature over it, so a page can show what a handler gave it and nothing else; without the
window's key, made anew at every start, no address can be guessed, which is why it needs no login of its own.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from nosnja_gui.dataset import images
from nosnja_gui.settings import UserError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

PREFIX = "/nosnja/picture"
SIDES = (160, 320, 1024)
"""Longest sides of thumbnails in pixels."""
SHOWN_AS_THEY_ARE = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif"}
DECODED_AT_ONCE = 4


class Pictures:
    """Makes addresses of pictures and serves them. Thumbnails are kept in `folder` until the picture changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = secrets.token_bytes(32)
        self._decoding = threading.Semaphore(DECODED_AT_ONCE)

    def url(self, path: Path, side: int = 0) -> str:
        """Address of a picture: `side` 0 is the whole one, otherwise a thumbnail (one of SIDES). Changes with the file.

        The caller decides which pictures may be seen: any path that comes from the browser must have been resolved before.
        """
        assert side == 0 or side in SIDES, side
        try:
            version = path.stat().st_mtime_ns
        except OSError:
            version = 0
        name = base64.urlsafe_b64encode(os.fsencode(path.absolute())).decode()
        return f"{PREFIX}/{self._signature(name, side)}/{side}/{name}?v={version % 10**12}"

    def route(self) -> Route:
        from starlette.routing import Route

        return Route(f"{PREFIX}/{{signature}}/{{side:int}}/{{name}}", self._serve, methods=["GET"])

    def _signature(self, name: str, side: int) -> str:
        return hmac.new(self._key, f"{side}/{name}".encode(), hashlib.sha256).hexdigest()[:40]

    def _serve(self, request: Request) -> Response:
        from starlette.responses import FileResponse, PlainTextResponse

        side, name = request.path_params["side"], request.path_params["name"]
        if not hmac.compare_digest(request.path_params["signature"], self._signature(name, side)):
            return PlainTextResponse("There is no such picture.", 404)
        path = Path(os.fsdecode(base64.urlsafe_b64decode(name)))
        headers = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
        try:
            if not side and (kind := SHOWN_AS_THEY_ARE.get(path.suffix.lower())):
                if not path.is_file():
                    raise UserError("There is no such picture.")
                return FileResponse(path, media_type=kind, headers=headers)
            return FileResponse(self.thumbnail(path, side or max(SIDES)), media_type="image/jpeg", headers=headers)
        except (UserError, OSError) as error:
            return PlainTextResponse(str(error), 404)

    def thumbnail(self, path: Path, side: int) -> Path:
        """A JPEG of at most `side` pixels, made at the first look. Raises UserError for what is no picture."""
        state = path.stat()
        source = f"{path.absolute()}\0{state.st_mtime_ns}\0{state.st_size}\0{side}"
        key = hashlib.sha256(os.fsencode(source)).hexdigest()
        file = self.folder / key[:2] / f"{key[:32]}.jpg"
        if not file.exists():
            with self._decoding:
                picture = images.thumbnail(path, side)
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(f".{secrets.token_hex(4)}.part")
            picture.save(part, "JPEG", quality=88)
            os.replace(part, file)
        return file
