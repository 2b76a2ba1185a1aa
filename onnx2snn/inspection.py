"""What a file tells about itself."""

from collections.abc import Iterable
from typing import Any

import onnx

from onnx2snn.graph_passes.graph.shapes import declared_shape

from .json_values import json_object


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
        "inputs": names_and_shapes(model.graph.input),
        "outputs": names_and_shapes(model.graph.output),
        "recipe": json_object(entries.pop("recipe", "")),
        "thresholds": json_object(entries.pop("thresholds", "")),
        "metadata": entries,
    }


def names_and_shapes(tensors: Iterable[onnx.ValueInfoProto]) -> list[dict[str, Any]]:
    """What a graph declares of its inputs, or outputs: ``name`` and ``shape``."""
    return [{"name": t.name, "shape": declared_shape(t.type.tensor_type)} for t in tensors]
