"""What JSON can hold: NumPy's values in it, and objects from files that may hold anything."""

import json
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """A NumPy number or array in JSON's types; ``json.dumps`` takes this as its ``default``."""
    if isinstance(value, np.ndarray | np.generic):
        # Of a longer float the list is itself.
        return float(value) if isinstance(value, np.floating) else value.tolist()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def has_json(value: Any) -> bool:
    """Whether ``json.dumps`` writes a value, with ``plain`` as its default."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    try:
        json.dumps(value, default=plain)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


DEEPEST = 100
"""Levels of objects and lists in each other; what walks through them calls itself at each."""


def json_object(text: str) -> dict[str, Any]:
    """A JSON object from a file's metadata; empty if it is something else, or beyond ``DEEPEST``.

    What is no finite number is text.
    """
    try:
        value = json.loads(text, parse_constant=str, parse_float=_finite_or_text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) and not _is_deep(value) else {}


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        holding = (held for held in level if isinstance(held, dict | list))
        within = (held.values() if isinstance(held, dict) else held for held in holding)
        level = [inner for held in within for inner in held]
    return bool(level)


def _finite_or_text(text: str) -> float | str:
    return float(text) if np.isfinite(float(text)) else text
