"""Forms made from settings models: a field for each setting, with the label, the help, the bounds and the choices declared there.

Knows no job in particular: what a setting means to the program is none of its business.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

import gradio as gr
from gradio.components import Component
from pydantic import BaseModel, ValidationError

from nosnja_gui.settings import Settings, Shown, Slider, merge_dotted
from nosnja_gui.ui.texts import say, t

Kind = Literal["choice", "switch", "whole", "number", "text", "lines"]
PLAIN = Shown()
NUMBERS: tuple[Kind, ...] = ("whole", "number")
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}([,.]\d{3})*,\d{3}")
MOST_CHARACTERS = 20_000
"""Longer texts are cut: no setting needs as many, and the window remembers what is typed."""


@dataclass(frozen=True)
class Setting:
    """What a form needs to know of one setting."""

    name: str
    """Dotted, such as "optimizer.learning_rate"."""
    kind: Kind
    label: str
    help: str
    default: Any
    optional: bool
    """Whether it may be left empty."""
    choices: tuple[tuple[str, Any], ...] = ()
    """Title and value."""
    slider: Slider | None = None
    shown: Shown = PLAIN


def settings_of(model: type[BaseModel], prefix: str = "") -> dict[str, Setting]:
    """All settings of a model by dotted name, groups spelt out. Left out is what no field can hold: kind of job, optional groups."""
    found: dict[str, Setting] = {}
    for name, field in model.model_fields.items():
        kinds = [kind for kind in _arms(field.annotation) if kind is not type(None)]
        if len(kinds) == 1 and isinstance(kinds[0], type) and issubclass(kinds[0], BaseModel):
            if len(_arms(field.annotation)) == 1:
                found.update(settings_of(kinds[0], f"{prefix}{name}."))
            continue
        kind = _kind_of(kinds)
        if kind is None or name == "job":
            continue
        shown = next((mark for mark in field.metadata if isinstance(mark, Shown)), PLAIN)
        found[prefix + name] = Setting(
            name=prefix + name,
            kind=kind,
            label=label_of(name, field.title),
            help=field.description or "",
            default=None if field.is_required() else field.get_default(call_default_factory=True),
            optional=type(None) in _arms(field.annotation),
            choices=tuple((shown.titles.get(value, str(value)), value) for value in get_args(kinds[0])) if kind == "choice" else (),
            slider=next((mark for mark in field.metadata if isinstance(mark, Slider)), None),
            shown=shown,
        )
    return found


def label_of(name: str, title: str | None) -> str:
    return title or name.replace("_", " ").capitalize()


def groups_of(model: type[BaseModel]) -> dict[str, str]:
    """Title by name of the model's groups of settings."""
    inner = {name: field for name, field in model.model_fields.items() if isinstance(field.annotation, type)}
    return {name: label_of(name, field.title) for name, field in inner.items() if issubclass(field.annotation, BaseModel)}


def texts_of(model: type[BaseModel]) -> list[str]:
    """All that a form of this model says: labels, helps, titles of groups and of choices, and what an empty field means."""
    said = list(groups_of(model).values())
    for setting in settings_of(model).values():
        said += [setting.label, setting.help, setting.shown.empty, *(title for title, _ in setting.choices)]
    return list(dict.fromkeys(text for text in said if text))


def _arms(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _kind_of(kinds: Sequence[Any]) -> Kind | None:
    if len(kinds) != 1:
        return None
    if get_origin(kinds[0]) is Literal:
        return "choice"
    plain: dict[Any, Kind] = {bool: "switch", int: "whole", float: "number", str: "text", list[str]: "lines"}
    return plain.get(kinds[0])


class Form:
    """Fields of a settings model, in the places where `add` was called; each has the id `<prefix>-<name with dashes>`."""

    def __init__(
        self,
        model: type[Settings],
        *,
        prefix: str = "field",
        values: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Callable[[Setting, dict[str, Any]], Component]] | None = None,
    ) -> None:
        """`values`: what fields hold at first, by dotted name, instead of the settings' defaults.

        `overrides`: for single settings a function that makes another component, of the setting and of what the component
        must be given (`value`, `label`, `info`, `elem_id`).
        """
        self.model, self.prefix = model, prefix
        self.settings = settings_of(model)
        self.components: dict[str, Component] = {}
        self._first = dict(values or {})
        self._overrides = dict(overrides or {})

    def add(self, *names: str, classes: str = "") -> None:
        """Make the fields of these settings, here, in a grid."""
        with gr.Row(elem_classes=["nosnja-fields", *classes.split()]):
            for name in names:
                self._make(self.settings[name])

    def rest_of(self, group: str) -> list[str]:
        """Settings of a group that have no field yet."""
        return [name for name in self.settings if name.startswith(f"{group}.") and name not in self.components]

    def defaults(self) -> dict[str, Any]:
        return {name: setting.default for name, setting in self.settings.items()}

    def values(self, given: Mapping[str, Any] | None = None, /, **named: Any) -> dict[str, Any]:
        """What the fields hold, as plain values by dotted name: empty is None, lines are a list, a written number is a number.

        Whatever the browser sent comes out as something that the model takes or refuses with a reason.
        """
        both = {**(given or {}), **named}
        return {name: plain(self.settings[name], value) for name, value in both.items() if name in self.settings}

    def job(self, values: Mapping[str, Any]) -> Settings:
        """The settings that `values` (by dotted name) make over the defaults. Raises ValidationError."""
        return self.model.model_validate(merge_dotted({}, {**self.defaults(), **values}))

    def problems(self, values: Mapping[str, Any], language: str = "en") -> dict[str, str]:
        """A sentence for each setting whose value is refused."""
        try:
            self.job(values)
        except ValidationError as error:
            return {
                ".".join(map(str, problem["loc"])): sentence(problem, language) for problem in reversed(error.errors(include_url=False))
            }
        return {}

    def show(self, values: Mapping[str, Any]) -> list[Any]:
        """For all components, in their order: what shows these values, and nothing where there is none."""
        return [shown_value(self.settings[name], values[name]) if name in values else gr.skip() for name in self.components]

    def inputs(self) -> list[Component]:
        return list(self.components.values())

    def given(self, values: Iterable[Any]) -> dict[str, Any]:
        """What the components sent, in their order, by dotted name; still raw."""
        return dict(zip(self.components, values, strict=True))

    def _make(self, setting: Setting) -> None:
        assert setting.name not in self.components, setting.name
        value = shown_value(setting, self._first.get(setting.name, setting.default))
        common = {"value": value, "elem_id": f"{self.prefix}-{setting.name.replace('.', '-')}"}
        words = {"label": t(setting.label), "info": t(setting.help) if setting.help else None}
        if make := self._overrides.get(setting.name):
            made = make(setting, {**common, **words})
        elif setting.kind == "choice":
            choices = [(t(title), choice) for title, choice in setting.choices]
            made = gr.Dropdown(choices, filterable=False, **common, **words)
        elif setting.kind == "switch":
            made = gr.Checkbox(**common, **words)
        elif setting.kind in NUMBERS:
            made = number_field(setting, **common)
        else:
            lines = max(setting.shown.lines, 2 if setting.kind == "lines" else 1)
            # A short text ends with Enter; a prompt may wrap, so it gets a box that grows.
            made = gr.Textbox(lines=lines, max_lines=12 if lines > 1 else 1, max_length=MOST_CHARACTERS, **common, **words)
        self.components[setting.name] = made


def build_form(
    model: type[Settings],
    names: Iterable[str] | None = None,
    *,
    prefix: str = "field",
    values: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Callable[[Setting, dict[str, Any]], Component]] | None = None,
) -> Form:
    """A form with a grid of these settings (all, if none are named). See Form for more than one grid."""
    form = Form(model, prefix=prefix, values=values, overrides=overrides)
    form.add(*(form.settings if names is None else names))
    return form


def number_field(setting: Setting, **common: Any) -> gr.HTML:
    """A box that takes any number, "1e-4", too, with a slider where the setting has one.

    The component's value is the number, or the text that is none: what was typed is never lost.
    """
    slider = setting.slider
    words = {
        "label": setting.label,
        "help": setting.help,
        "whole": setting.kind == "whole",
        "slider": slider and dataclasses.asdict(slider),
        "optional": setting.optional,
        "empty": setting.shown.empty,
        "start": setting.shown.start,
    }
    # In the script, not in the component's properties: those are lost on every gr.skip() (Gradio 6.31).
    script = f'nosnja.numberField(element, props, watch, () => trigger("input"), {json.dumps(words)});'
    return gr.HTML(
        html_template='<div class="nosnja-field-number"></div>',
        js_on_load=script,
        apply_default_css=False,
        label=t(setting.label),
        elem_classes="nosnja-number",
        container=True,
        **common,
    )


def shown_value(setting: Setting, value: Any) -> Any:
    """What the setting's component is given to show a value, sensible or not."""
    if setting.kind == "choice":
        known = [choice for _, choice in setting.choices]
        return value if value in known else setting.default
    if setting.kind == "switch":
        return bool(value)
    if setting.kind == "lines":
        return "\n".join(map(str, value)) if isinstance(value, list | tuple) else str(value or "")
    if setting.kind == "text":
        return "" if value is None else str(value)
    # The widget's component knows no None.
    return "" if value is None else value


def plain(setting: Setting, value: Any) -> Any:
    """The value that a component sent, as its setting's model is given it."""
    if setting.kind == "lines":
        lines = value if isinstance(value, list) else str("" if value is None else value)[:MOST_CHARACTERS].splitlines()
        return [line.strip() for line in map(str, lines) if line.strip()]
    if setting.kind == "text":
        return str("" if value is None else value)[:MOST_CHARACTERS].strip()
    if setting.kind == "switch":
        return bool(value)
    if setting.kind in NUMBERS:
        return number(value)
    return value if isinstance(value, str | int | float | bool) else None


def number(value: Any) -> Any:
    """A number as people write it, "1e-4" or "0,5", None for nothing; the text itself where it is none."""
    if value is None or isinstance(value, bool):
        return None if value is None else str(value)
    if isinstance(value, int | float):
        return value
    text = str(value)[:100].strip()
    if not text:
        return None
    if THOUSANDS.fullmatch(text):
        return text  # "1,000" is a thousand to some and one to others
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            made = kind(text.replace(",", ".", 1))
            return made if math.isfinite(made) else text
    return text


def written(limit: Any) -> Any:
    """0.0 -> 0, and whatever is no number as it is."""
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def sentence(problem: Mapping[str, Any], language: str) -> str:
    """What is wrong with a value, of one entry of pydantic's errors."""
    limits = {name: written(limit) for name, limit in problem.get("ctx", {}).items()}
    kind = problem["type"]
    if problem["input"] is None:
        return say(language, "Must not be empty.")
    if kind == "greater_than":
        return say(language, "Must be above {limit}.", limit=limits["gt"])
    if kind == "greater_than_equal":
        return say(language, "Must be at least {limit}.", limit=limits["ge"])
    if kind == "less_than":
        return say(language, "Must be below {limit}.", limit=limits["lt"])
    if kind == "less_than_equal":
        return say(language, "Must be at most {limit}.", limit=limits["le"])
    if kind == "multiple_of":
        return say(language, "Must be a multiple of {limit}.", limit=limits["multiple_of"])
    if kind.startswith("int"):
        return say(language, "Must be a whole number.")
    if kind.startswith(("float", "finite")):
        return say(language, "Must be a number.")
    if kind == "literal_error":
        return say(language, "Must be one of those that are offered.")
    return str(problem["msg"]).removeprefix("Value error, ")
