"""What a file tells about itself."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx

from onnx2snn.graph_passes.graph.shapes import declared_shape


def inputs_of(structure: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """What a model has to be given: weights and states have defaults."""
    defaults = {tensor.name for tensor in structure.graph.initializer}
    return [info for info in structure.graph.input if info.name not in defaults]


def metadata_of(structure: onnx.ModelProto) -> dict[str, str]:
    """The metadata of a model, by key."""
    return {entry.key: entry.value for entry in structure.metadata_props}


def own_metadata_of(structure: onnx.ModelProto) -> dict[str, str]:
    """What of it is this package's, by key without the prefix."""
    return {
        key.removeprefix("onnx2snn."): value
        for key, value in metadata_of(structure).items()
        if key.startswith("onnx2snn.")
    }


def recipe_in(structure: onnx.ModelProto) -> dict[str, Any]:
    """The settings of the recipe that a file says it was made by; none if it does not say."""
    return json_object(own_metadata_of(structure).get("recipe", ""))


def notes_on_timesteps(structure: onnx.ModelProto, timesteps: Iterable[int]) -> list[str]:
    """What there is to say if a spiking network was converted for another T than one of these."""
    recipe = recipe_in(structure)
    made_for = recipe.get("timesteps")
    if made_for is None or all(t == made_for for t in timesteps):
        return []
    return [
        f"the recipe '{recipe.get('name')}' converted this network for T={made_for}; for another T "
        "it would convert it otherwise (convert -T)"
    ]


def export_of(model: onnx.ModelProto) -> dict[str, Any] | None:
    """How a file was exported, for ``inspect``; None if it is no export.

    ``export``: format, timesteps, versions, digest; ``inputs`` and ``outputs`` with their
    shapes; ``recipe``, ``thresholds`` (where each layer's came from) and the other
    ``metadata`` of this package.
    """
    entries = own_metadata_of(model)
    if "export" not in entries:
        return None
    entries.setdefault("preprocessing", "not stated")
    return {
        "export": json_object(entries.pop("export")),
        "inputs": [_described(info) for info in model.graph.input],
        "outputs": [_described(info) for info in model.graph.output],
        "recipe": json_object(entries.pop("recipe", "")),
        "thresholds": json_object(entries.pop("thresholds", "")),
        "metadata": entries,
    }


def _described(info: onnx.ValueInfoProto) -> dict[str, Any]:
    return {"name": info.name, "shape": declared_shape(info.type.tensor_type)}


def lines_of(told: dict[str, Any]) -> list[str]:
    """What ``export_of`` found, to read."""
    lines = [
        f"{side} {tensor['name']} [{', '.join(map(str, tensor['shape']))}]"
        for side, tensors in (("input", told["inputs"]), ("output", told["outputs"]))
        for tensor in tensors
    ]
    lines += [f"threshold of {name}: {source}" for name, source in told["thresholds"].items()]
    lines += [f"recipe, {line}" for line in settings_in_words(told["recipe"])]
    return lines + settings_in_words({**told["export"], **told["metadata"]})


def settings_in_words(settings: dict[str, Any]) -> list[str]:
    """Settings that a file holds, a line each, but for those that are None."""
    return [
        f"{name}: {_of_neurons(value) if name == 'neuron' else _in_words(value)}"
        for name, value in settings.items()
        if value is not None
    ]


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_in_words, value)) or "none"
    if isinstance(value, dict):
        return " ".join(f"{name} {_in_words(part)}" for name, part in value.items()) or "none"
    return "none" if value is None else str(value)


def _of_neurons(value: Any) -> str:
    """The kind of neurons, with what it heeds of its settings."""
    if not isinstance(value, dict) or not isinstance(value.get("op"), str):
        return _in_words(value)
    bursts = dict.fromkeys(("BurstIF", "SignedBurstIF"), "max_spikes")
    heeded = {"SignedIF": "negative", **bursts}.get(value["op"])
    more = f", {heeded} {value[heeded]}" if heeded in value else ""
    return f"{value['op']}{more}"


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
