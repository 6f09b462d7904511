"""What Gradio does not check: that a request is meant for this window (Host) and comes from it (Origin).

Without the first, a web page anywhere can reach the window through a name that points to 127.0.0.1; without the
second, it can send uploads and clicks.
"""

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})


def host_is_ours(host: str, names: frozenset[str], any_address: bool) -> bool:
    """Whether a Host header names this machine. Addresses can't be rebound to another machine as names can."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in names or (any_address and bool(ipaddress.ip_address(name)))
    except ValueError:
        return False


def origin_is_ours(headers: dict[str, str]) -> bool:
    """Whether something that changes things was sent by our own page, or by a program that is no browser."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    return "origin" not in headers or urlsplit(headers["origin"]).netloc == headers.get("host")


class Guard:
    """ASGI middleware: 400 for a foreign Host, 403 for a foreign Origin."""

    def __init__(self, app: Callable[..., Awaitable[None]], names: frozenset[str] = LOCAL_NAMES, any_address: bool = False) -> None:
        self.app, self.names, self.any_address = app, names, any_address

    async def __call__(self, scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Awaitable[None]]) -> None:
        if scope["type"] == "http":
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            if not host_is_ours(headers.get("host", ""), self.names, self.any_address):
                return await refuse(send, 400, "This window does not go by that name.")
            if scope["method"] not in READING and not origin_is_ours(headers):
                return await refuse(send, 403, "That did not come from this window.")
        elif scope["type"] != "lifespan":
            return None  # Gradio uses no websockets here; what is not checked is not let in.
        return await self.app(scope, receive, send)


async def refuse(send: Callable[..., Awaitable[None]], status: int, text: str) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain; charset=utf-8")]})
    await send({"type": "http.response.body", "body": text.encode()})
