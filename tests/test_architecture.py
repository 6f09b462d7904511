"""The floors of the house, checked: imports point downwards, and nobody loads what is not theirs."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import nosnja_gui

PACKAGE = Path(nosnja_gui.__file__).parent
HEAVY = {"torch", "torchvision", "diffusers", "transformers", "peft", "accelerate", "bitsandbytes", "safetensors"}
WINDOW = {"gradio", "gradio_client"}

FLOORS: list[set[str]] = [
    {"settings", "events", "workspace", "registry", "files", "processes", "progress", "install"},
    {"dataset", "families", "methods", "captioners", "axes", "schedules", "weights", "sources", "adapters", "sheet", "infotext", "tokens"}
    | {"emphasis", "embeddings", "timesteps", "hypernetworks"},
    {"jobs", "runs", "presets", "foreign", "logs", "models", "plan", "estimate", "grids", "gridpage", "library", "hardware"}
    | {"publishing", "places"},
    {"engine", "launcher", "work_queue", "check", "toolbox"},
    {"ui"},
    {"demo", "commands", "__main__"},
]
"""Lowest first, by the name directly below the package. The package's own docstring is the map for people."""
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
SIDES = {
    "engine": {"launcher", "work_queue", "check", "toolbox"},
    "launcher": {"engine"},
    "work_queue": {"engine"},
    "check": {"engine"},
    "toolbox": {"engine"},
    "ui": {"engine"},
}
"""On the same floor or below, and yet none of its business."""
WORDS_MAY_USE = {"pydantic", "yaml"}


def module_name(file: Path) -> str:
    parts = ("nosnja_gui", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def part_of(module: str) -> str:
    """The name directly below the package: nosnja_gui.dataset.images -> dataset."""
    return module.split(".")[1] if "." in module else ""


@cache
def imports(module: str) -> list[tuple[str, bool]]:
    """(module, whether at module level) of everything that is imported and not only for type checkers."""
    found: list[tuple[str, bool]] = []

    def look(node: ast.AST, top: bool) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            return
        if isinstance(node, ast.Import):
            found.extend((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import; the full name shows the floor"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found.extend((name if name in MODULES else node.module, top) for name in inner)
        inside = top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            look(child, inside)

    look(ast.parse(MODULES[module].read_text(encoding="utf-8")), True)
    return found


def own(module: str) -> list[str]:
    return [name for name, _ in imports(module) if name.split(".")[0] == "nosnja_gui"]


def outside(module: str, top_only: bool = False) -> set[str]:
    return {name.split(".")[0] for name, top in imports(module) if (top or not top_only)} - {"nosnja_gui"}


def test_every_module_has_a_floor():
    homeless = {part_of(module) for module in MODULES} - set(FLOOR) - {""}
    assert homeless == set(), "say in test_architecture.FLOORS, and in the package's docstring, where these belong"
    assert sum(len(names) for names in FLOORS) == len(FLOOR), "a name is on two floors"


def test_the_map_in_the_docstring_names_every_part():
    missing = set(FLOOR) - set(re.findall(r"\w+", nosnja_gui.__doc__))
    assert missing == set()


def test_imports_point_downwards():
    wrong = [
        f"{module} imports {target}"
        for module in MODULES
        for target in own(module)
        if part_of(module) and FLOOR[part_of(module)] < FLOOR.get(part_of(target), -1)
    ]
    assert wrong == []


def test_nobody_imports_what_is_none_of_its_business():
    wrong = [
        f"{module} imports {target}" for module in MODULES for target in own(module) if part_of(target) in SIDES.get(part_of(module), set())
    ]
    assert wrong == []


def test_there_is_no_circle_of_imports():
    """At module level; a package's own modules may import the package for its words."""
    edges = {module: {name for name, top in imports(module) if top and name in MODULES and name != module} for module in MODULES}
    state: dict[str, str] = {}

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert state.get(module) != "open", f"circle: {' -> '.join((*path[path.index(module) :], module))}"
        if module in state:
            return
        state[module] = "open"
        for target in sorted(edges[module]):
            visit(target, (*path, module))
        state[module] = "done"

    for module in MODULES:
        visit(module, ())


def test_the_words_need_the_standard_library_pydantic_and_yaml_only():
    for module in MODULES:
        if FLOOR.get(part_of(module)) == 0:
            assert outside(module, top_only=True) - set(sys.stdlib_module_names) <= WORDS_MAY_USE, module


def test_heavy_libraries_are_loaded_at_module_level_by_the_engine_and_the_demo_only():
    for module in MODULES:
        if part_of(module) not in {"engine", "demo"}:
            assert outside(module, top_only=True) & HEAVY == set(), module


def test_the_window_never_touches_the_heavy_libraries_and_nobody_else_touches_gradio():
    for module in MODULES:
        if part_of(module) == "ui":
            assert outside(module) & HEAVY == set(), module
        else:
            assert outside(module) & WINDOW == set(), module


def test_process_modules_never_touch_the_heavy_libraries():
    for module in MODULES:
        if part_of(module) in {"launcher", "toolbox", "hardware", "check", "runs", "presets", "jobs"}:
            assert outside(module) & (HEAVY | WINDOW) == set(), module


def test_every_module_says_what_it_is_for():
    silent = [module for module, file in MODULES.items() if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))]
    assert silent == []


@pytest.mark.parametrize(
    ("loaded", "forbidden"),
    [
        (
            "nosnja_gui.jobs nosnja_gui.runs nosnja_gui.presets nosnja_gui.launcher "
            "nosnja_gui.hardware nosnja_gui.check nosnja_gui.__main__",
            HEAVY | WINDOW,
        ),
        ("nosnja_gui.dataset nosnja_gui.dataset.trigger nosnja_gui.axes nosnja_gui.sheet", HEAVY | WINDOW),
        ("nosnja_gui.ui.app", HEAVY),
        ("nosnja_gui.engine.train nosnja_gui.engine.grid nosnja_gui.engine.caption", WINDOW),
    ],
    ids=["jobs and command line", "dataset", "window", "engine"],
)
def test_a_fresh_interpreter_loads_only_what_is_needed(loaded, forbidden):
    code = "import importlib, sys\nfor name in sys.argv[1].split(): importlib.import_module(name)\n"
    code += "print(*{name.split('.')[0] for name in sys.modules})"
    answer = subprocess.run([sys.executable, "-c", code, loaded], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert set(answer.stdout.split()) & forbidden == set()


def test_looking_at_every_shelf_loads_nothing_heavy():
    code = "import sys\nfrom nosnja_gui import captioners, families, methods\n"
    code += "print([len(shelf) for shelf in (families.FAMILIES, methods.METHODS, captioners.CAPTIONERS)])\n"
    code += "print(*{name.split('.')[0] for name in sys.modules})"
    answer = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    counts, names = answer.stdout.splitlines()
    assert "0" not in counts.strip("[]").split(", ")
    assert set(names.split()) & (HEAVY | WINDOW) == set()
