"""Shelves: one module per entry, found by looking into the package's folder. Adding a file adds an entry."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Generic, TypeVar

from nosnja_gui.settings import UserError

Entry = TypeVar("Entry")


class Shelf(Mapping[str, Entry], Generic[Entry]):
    """Entries of a package by name. Each module in it says `ENTRY = ...`, an object with a `name`.

    Modules are imported at the first look, so a shelf costs nothing until it is used.
    """

    def __init__(self, package: str, what: str) -> None:
        self.package, self.what = package, what
        self._entries: dict[str, Entry] | None = None

    def entries(self) -> dict[str, Entry]:
        if self._entries is None:
            package = importlib.import_module(self.package)
            names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
            self._entries = collect([importlib.import_module(f"{self.package}.{name}") for name in names])
        return self._entries

    def __getitem__(self, name: str) -> Entry:
        try:
            return self.entries()[name]
        except KeyError:
            raise UserError(f"There is no {self.what} '{name}'; known: {', '.join(self.entries())}.") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries())

    def __len__(self) -> int:
        return len(self.entries())

    def __contains__(self, name: object) -> bool:
        return name in self.entries()


def collect(modules: list[ModuleType]) -> dict:
    """Name to entry of the modules that have one. Two entries of one name are our mistake, said at once."""
    entries: dict = {}
    for module in modules:
        entry = getattr(module, "ENTRY", None)
        if entry is None:
            continue
        assert entry.name not in entries, f"two entries are called '{entry.name}', the second in {module.__name__}"
        entries[entry.name] = entry
    return entries
