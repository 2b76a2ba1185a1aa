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


def json_object(text: str) -> dict[str, Any]:
    """A JSON object from a file's metadata; empty if it is something else.

    What is no finite number is text.
    """
    try:
        value = json.loads(text, parse_constant=str, parse_float=_finite_or_text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _finite_or_text(text: str) -> float | str:
    return float(text) if np.isfinite(float(text)) else text
