"""Dense layers in the one form that graphs can share weights in, whoever exported them."""

import gc
from collections import Counter
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from onnx2snn.graph_passes.model_files.protos import attributes_of, operand_names
from onnx2snn.graph_passes.model_files.weights import copy_model, replace_all, stub
from onnx2snn.runtime.plans.plan import Plan
from onnx2snn.runtime.plans.sizes import CACHED, sizes_of

_ROWS = 32
"""Rows that are transposed together: one of 8192 x 8192 takes a tenth of the time that all take
at once."""


def with_rows_of_weights(plan: Plan) -> Plan:
    """The plan with the large weights of its dense time-steps as rows, one for each output.

        y = x W, or Gemm(x, W, b)    becomes    y = Gemm(x, W^T, b), transB = 1

    x [rows, inputs], W [inputs, outputs], as TensorFlow, JAX and scikit-learn have it. What is
    [outputs, inputs] ``with_weights_first`` can read where it is. The sums are of the same
    products. A weight that several nodes read, and one for tensors of other axes, stays.
    """
    readers = Counter(
        name for model in plan.graphs for node in model.graph.node for name in operand_names(node)
    )
    large = {
        name
        for name, values in plan.weights.items()
        if values.ndim == 2 and values.size > CACHED and readers[name] == 1
    }
    wanted = [node for node in plan.step.graph.node if _multiplies(node, large)]
    shapes = sizes_of(plan.step, {}).shapes if wanted else {}
    turned = {
        node.input[1]
        for node in wanted
        if node.op_type == "Gemm" or len(shapes.get(node.input[0], ())) == 2
    }
    if not turned:
        return plan
    step = copy_model(plan.step)
    for node in step.graph.node:
        if _multiplies(node, turned):
            kept = [a for a in node.attribute if a.name != "transB"]
            replace_all(node.attribute, [*kept, helper.make_attribute("transB", 1)])
            node.op_type = "Gemm"
    for tensor in step.graph.initializer:
        if tensor.name in turned:
            tensor.CopyFrom(stub(tensor.name, tensor.data_type, tensor.dims[::-1]))
    weights = {
        name: _transposed(values) if name in turned else values
        for name, values in plan.weights.items()
    }
    # The graph of the plan, nodes and tensors that hold each other, has the old ones, too.
    gc.collect()
    return replace(plan, step=step, weights=weights)


def _transposed(values: np.ndarray) -> np.ndarray:
    """A matrix with its axes exchanged, in order in memory."""
    result = np.empty(values.shape[::-1], values.dtype)
    for first in range(0, len(values), _ROWS):
        result[:, first : first + _ROWS] = values[first : first + _ROWS].T
    return result


def _multiplies(node: onnx.NodeProto, weights: Collection[str]) -> bool:
    """Whether a node multiplies what it reads by one of these weights, [inputs, outputs]."""
    if node.op_type == "Gemm":
        return node.input[1] in weights and not attributes_of(node).get("transB", 0)
    return node.op_type == "MatMul" and node.input[1] in weights
