"""Neurons as a file has them, held to those that the runtime computes."""

from copy import deepcopy
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper

from onnx2snn.graph_passes.errors import ModelError
from onnx2snn.graph_passes.graph import neurons
from onnx2snn.graph_passes.graph.neuron_functions import FUNCTIONS

from .protos import domain_of


def check_functions(model: onnx.ModelProto) -> None:
    """Raise ``ModelError`` where neurons' functions in a file are not those of this version."""
    own = [f for f in model.functions if f.domain == neurons.DOMAIN]
    functions = {f.name: f for f in own}
    overloaded = len(functions) < len(own) or any(
        node.overload for node in model.graph.node if neurons.is_stateful(node)
    )
    if overloaded:
        raise ModelError("the file holds several functions for one neuron; convert again")
    for op in {node.op_type for node in model.graph.node if neurons.is_stateful(node)}:
        if op not in FUNCTIONS:
            continue
        expected, found = neurons.function_proto(op, 0), functions.get(op)
        if found is None or _computed_by(found) != _computed_by(expected):
            raise ModelError(
                f"the function of the neuron {op} in the file is missing or is not this "
                "version's, so runtimes would disagree; convert the network again"
            )


def _computed_by(function: onnx.FunctionProto) -> list[Any]:
    """What of a function decides what it computes: no names of nodes, and no notes."""
    nodes = []
    for node in function.node:
        attributes = [deepcopy(attribute) for attribute in node.attribute]
        for attribute in attributes:
            attribute.ClearField("doc_string")
        of_names = sorted(attributes, key=lambda attribute: attribute.name)
        tensors = list(node.input), list(node.output)
        nodes.append((node.op_type, domain_of(node), node.overload, tensors, of_names))
    return [list(function.input), list(function.output), sorted(function.attribute), nodes]


def check_stateful(
    node: onnx.NodeProto,
    defaults: dict[str, onnx.TensorProto],
    weights: dict[str, np.ndarray],
) -> None:
    """Raise ``ModelError`` for a neuron whose attributes, states or v(0) the runtime cannot take.

    defaults, weights: the graph's initializers, and the large ones beside it, by name.
    """
    if node.op_type not in FUNCTIONS:
        raise _refusal(node, "is no neuron that this version knows")
    expected = neurons.attribute_names_of(node.op_type)
    found = {attribute.name for attribute in node.attribute}
    if found != expected:
        raise _refusal(node, f"must have the attributes {sorted(expected)}, not {sorted(found)}")
    values = {}
    for attribute in node.attribute:
        if attribute.name not in neurons.TENSOR_ATTRIBUTES:
            continue
        value = np.empty(0)
        # That of a function's call is none here.
        if attribute.type == onnx.AttributeProto.TENSOR and not attribute.ref_attr_name:
            value = onnx.numpy_helper.to_array(attribute.t)
        floating = np.issubdtype(value.dtype, np.floating)
        if not value.size or not floating or not np.all(np.isfinite(value)):
            raise _refusal(node, f"must have a tensor of finite numbers as {attribute.name}")
        values[attribute.name] = value
    if not np.all(values.get("v_threshold", np.ones(1)) > 0):
        raise _refusal(node, "must have a positive V_th")
    most = values.get("max_spikes", np.ones(()))
    if most.ndim or most < 1 or most % 1:
        raise _refusal(node, "must have one whole number, >= 1, as max_spikes")
    names = neurons.state_names(node.op_type, node.name)
    inputs = neurons.inputs_of(node.op_type)
    kept = list(zip(node.input[-len(names) :], node.output[1:], strict=False))
    if len(node.input) != inputs or len(node.output) != 1 + len(names) or kept != names:
        raise _refusal(node, f"must keep its state in {names}")
    starts = [values.get("v_init", np.zeros(1)), np.zeros(1)]
    for (read, _), start in zip(names, starts, strict=False):
        default = defaults.get(read)
        held = weights.get(read)
        if held is None and default is not None:
            held = onnx.numpy_helper.to_array(default)
        if held is None or not np.array_equal(np.ravel(held), np.ravel(start)):
            raise _refusal(
                node,
                f"has a default of its state '{read}' that is not its start, so runtimes would "
                "disagree about v(0)",
            )


def _refusal(node: onnx.NodeProto, why: str) -> ModelError:
    return ModelError(f"{node.op_type} '{node.name}' {why}; convert the network again")
