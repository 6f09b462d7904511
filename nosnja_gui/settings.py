"""Base of every settings model: declared once, frozen, misspellings refused, a field's docstring is its help.

Knows nothing of training; floors above declare their settings with it and get YAML, dotted changes and
readable errors in return.
"""

import difflib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from dataclasses import field as declared
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class UserError(ValueError):
    """Something the user can mend; the message is one sentence (or a line per problem): what, where, got, do."""


@dataclass(frozen=True)
class Slider:
    """Declared with a number that is set by a slider: its usual range. Values outside it stay allowed, bounds are the field's own."""

    low: float
    high: float
    step: float | None = None
    """Between two values; a logarithmic slider may go without, and then gives values of two digits."""
    logarithmic: bool = False


@dataclass(frozen=True)
class Shown:
    """Declared with a setting: how a form shows it. What the setting allows is said by its type and bounds alone."""

    essential: bool = False
    """Whether it is among the first things that a beginner looks at."""
    lines: int = 1
    """Height of a text."""
    empty: str = ""
    """What it means to leave it empty, in a word or two: "off", "no limit"."""
    start: float | None = None
    """What an optional number begins with when it is switched on."""
    titles: Mapping[Any, str] = declared(default_factory=dict)
    """Names of choices for people."""


class Settings(BaseModel):
    """Base class of all settings. Derive a copy with `changed`; never edit in place."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "settings") -> Self:
        """Build from nested plain values. Raises UserError that names every problem by its dotted field."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(explain(error, cls, where)) from None

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        return cls.parse(read_yaml(path), where=str(path))

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def changed(self, **dotted: Any) -> Self:
        """A copy with some fields replaced: `job.changed(**{"optimizer.learning_rate": 1e-4})`."""
        return self.parse(merge_dotted(self.model_dump(mode="json"), dotted))


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice (PyYAML silently keeps the last one) and aliases (bombs)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.YAMLError(f"aliases are not allowed (line {mark.line + 1})")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable) or key in seen:
                raise yaml.YAMLError(f"'{key}' is given twice or is no name (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping safely. Raises UserError for a missing, unreadable or non-mapping file."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise UserError(f"There is no settings file {path}; give the path of a .yaml file.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or a date such as 2024-13-45
        raise UserError(f"{path} is not readable as YAML: {str(error).splitlines()[0] if str(error) else 'nested too deeply'}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold 'name: value' lines, got {type(values).__name__}.")
    return values


def merge_dotted(values: Mapping[str, Any], dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Nested `values` with `{"a.b": x}` laid over them; groups on the way are created."""
    merged: dict[str, Any] = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for name, value in dotted.items():
        first, _, rest = name.partition(".")
        inner = merged.get(first)
        merged[first] = merge_dotted(inner if isinstance(inner, Mapping) else {}, {rest: value}) if rest else value
    return merged


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted name, the reverse of `merge_dotted`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(dotted(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value})
    return flat


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings laid over each other; `over` wins, lists are replaced whole."""
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged


def field_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted setting name of a model, groups included, unions too."""
    names = []
    for name, field in model.model_fields.items():
        names.append(prefix + name)
        for inner in _models_in(field.annotation):
            names += field_names(inner, f"{prefix}{name}.")
    return list(dict.fromkeys(names))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models_in(argument)]


def _nearest(name: str, known: list[str]) -> str | None:
    """The known dotted name that is most like `name`, else the one whose last part is most like its last part."""
    if near := difflib.get_close_matches(name, known, n=1):
        return near[0]
    lasts = {full.rpartition(".")[2]: full for full in reversed(known)}
    near = difflib.get_close_matches(name.rpartition(".")[2], lasts, n=1)
    return lasts[near[0]] if near else None


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """All problems of a ValidationError, a line each: dotted name, what is wrong, what was given, the nearest known name."""
    known = field_names(model)
    lines = []
    for problem in error.errors(include_url=False):
        name = ".".join(str(part) for part in problem["loc"] if not (isinstance(part, str) and part.startswith("function-")))
        if problem["type"] == "extra_forbidden":
            near = _nearest(name, known)
            hint = f"did you mean '{near}'?" if near else "remove it or see --help for the known settings."
            lines.append(f"Unknown setting '{name}' in {where}: {hint}")
        elif problem["type"] == "missing":
            lines.append(f"Setting '{name}' is missing in {where}.")
        else:
            message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
            got = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
            lines.append(f"Setting '{name or model.__name__}' in {where} {message}{got}.")
    return "\n".join(dict.fromkeys(lines))
