"""Halves the time that importing Gradio takes: at every import it parses its own sources to write type stubs for editors, and fills
in the documentation of every event of every component.

Measured with gradio 6.31: 1.6 of 2.8 seconds, and 0.2 more. A program that only runs has no use for either, nor should it write into
its libraries.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

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
