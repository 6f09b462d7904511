"""Halves the time until the page stands, by leaving out what Gradio does for others.

At every import it parses its own sources to write type stubs for editors, and fills in the documentation of every event of every
component: 1.6 of 2.8 seconds with gradio 6.31, and 0.2 more. A program that only runs has no use for either, nor should it write into
its libraries. Then it makes the server's application three times, of which the last is used (0.3 seconds for the other two), and
reads each of the page's seventy files anew from the disk, which the browser may not keep (2.5 ms each instead of 1).
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

LEFT_OUT = {"gradio.component_meta": "create_or_modify_pyi", "gradio.events": "EventListener.set_doc"}
"""Module -> what is done for editors only."""


class WithoutStubs(importlib.abc.MetaPathFinder):
    """Finds the modules that work for editors, and takes that out of them."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if name not in LEFT_OUT:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = Loader(spec.loader)
        return spec


class Loader(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        *owners, function = LEFT_OUT[module.__name__].split(".")
        owner: Any = module
        for name in owners:
            owner = getattr(owner, name, None)
        # Another version of Gradio may do without: then there is nothing to take out.
        if hasattr(owner, function):
            setattr(owner, function, lambda *arguments, **named: None)


def prepare() -> None:
    """To be called before Gradio is imported; afterwards it is without effect."""
    if not LEFT_OUT.keys() & sys.modules.keys() and not any(isinstance(finder, WithoutStubs) for finder in sys.meta_path):
        sys.meta_path.insert(0, WithoutStubs())


@contextlib.contextmanager
def without_server() -> Iterator[None]:
    """While a page is built, Gradio makes no application for it: `launch` makes the one that serves."""
    from gradio.blocks import Blocks
    from gradio.routes import App

    made, described = App.__dict__["create_app"], Blocks.get_config_file
    App.create_app = staticmethod(lambda *arguments, **named: None)  # type: ignore[method-assign]
    Blocks.get_config_file = lambda self: {}  # type: ignore[method-assign, assignment, return-value]
    try:
        yield
    finally:
        App.create_app, Blocks.get_config_file = made, described  # type: ignore[method-assign]


class Assets:
    """Gradio's scripts, styles and fonts, read once and kept by the browser: their names change with what is in them."""

    KINDS = {
        ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml",
        ".ttf": "font/ttf", ".woff": "font/woff", ".woff2": "font/woff2",
    }  # fmt: skip
    """Said here, because Windows may have other ideas of what a .js file is."""

    def __init__(self) -> None:
        import gradio

        self.folder = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"
        self.files = {file.name for file in self.folder.iterdir() if file.suffix in self.KINDS}
        self.read: dict[str, bytes] = {}

    def route(self) -> Route:
        from starlette.routing import Route

        return Route("/assets/{name}", self._serve, methods=["GET"])

    async def _serve(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse, Response

        name = request.path_params["name"]
        if name not in self.files:
            return PlainTextResponse("There is no such file.", 404)
        if name not in self.read:
            self.read[name] = (self.folder / name).read_bytes()
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(self.read[name], media_type=self.KINDS[Path(name).suffix], headers=headers)
