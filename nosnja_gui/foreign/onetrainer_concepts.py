"""OneTrainer's list of concepts (`training_concepts/concepts.json`): what its `concept_file_name` names, as a file of its own."""

from __future__ import annotations

from typing import Any

from nosnja_gui.foreign import Format
from nosnja_gui.foreign.onetrainer import CONCEPTS

MARKS = {"image", "text", "balancing", "include_subdirectories", "enabled", "type"}


def recognises(content: Any) -> bool:
    return (
        isinstance(content, list) and bool(content) and all(isinstance(one, dict) and "path" in one and MARKS & set(one) for one in content)
    )


ENTRY = Format(
    "onetrainer_concepts",
    "OneTrainer's concepts",
    recognises,
    {f"[].{name}": rule for name, rule in CONCEPTS.items()},
    {"[].balancing": 1.0},
)
