"""Several time-steps of a step graph in one graph: a chunk.

    v -> step -> v_next      becomes      v -> step -> step -> ... -> v_next

One ``run`` of ONNX Runtime then does K time-steps: the states between them stay within the
graph, and what no state needs is left out. Layers whose weights are larger than what flows
through them can run once for all K steps, *time-batched*:

    y(t) = W x(t), t = 1 to K      becomes      [y(1); ...; y(K)] = W [x(1); ...; x(K)]

which reads W from memory once. That holds for operators that treat axis 0 as a batch axis and
nothing else: those of ``WEIGHTED``, with constant weights. A convolution of 1 x 1 computes each
place by itself, so that there time-steps come together along axis 2, as one higher image: ONNX
Runtime's convolutions read W once for each image (docs/measurements.md, section Constants).
"""

from collections.abc import Iterable, Mapping, Sequence

import onnx
from onnx import helper

from onnx2snn.graph_passes.model_files.io import opset_of
from onnx2snn.graph_passes.model_files.protos import (
    attributes_of,
    names_in,
    operand_names,
    unused_prefix,
)

from .graphs import renamed, with_nodes
from .plan import State


def unrolled(
    step: onnx.ModelProto,
    states: Sequence[State],
    timesteps: int,
    time_batched: Mapping[str, int],
    begins: Iterable[onnx.NodeProto] = (),
) -> onnx.ModelProto:
    """A step graph ``timesteps`` times in a row, its other inputs the same in each.

    ``states`` are all that it reads and writes anew; the result reads and writes the same, and
    has no other outputs.
    ``time_batched``: by the names of nodes that run once for all time-steps, the axis along which
    these come together, as ``axis_of_time`` says. ``begins``: nodes that make states at first.
    """
    written_as = {state.read: state.written for state in states}
    outputs = set(written_as.values())
    prefix = unused_prefix(names_in(step), "chunk/")
    weights = {tensor.name for tensor in step.graph.initializer} - set(written_as)
    fixed = weights | {i.name for i in step.graph.input if i.name not in written_as} | {""}

    def now(name: str, t: int) -> str:
        """What a tensor is called at time-step t, from 0."""
        if name in written_as:
            return name if t == 0 else now(written_as[name], t - 1)
        last = t == timesteps - 1 and name in outputs
        return name if name in fixed or last else f"{prefix}{t}/{name}"

    nodes = list(begins)
    for node in step.graph.node:
        if fixed.issuperset(operand_names(node)):
            nodes.append(node)
            fixed.update(node.output)
        elif node.name in time_batched and fixed.issuperset(node.input[1:]):
            nodes += _time_batched(node, [now(node.input[0], t) for t in range(timesteps)],
                                   [now(node.output[0], t) for t in range(timesteps)],
                                   time_batched[node.name], prefix, step)  # fmt: skip
        else:
            for t in range(timesteps):
                names = {n: now(n, t) for n in (*operand_names(node), *node.output)}
                nodes.append(renamed(node, names, f"{prefix}{t}/{node.name}"))
    return with_nodes(step, nodes, [o for o in step.graph.output if o.name in outputs])


def _time_batched(
    node: onnx.NodeProto,
    inputs: list[str],
    outputs: list[str],
    axis: int,
    prefix: str,
    step: onnx.ModelProto,
) -> list[onnx.NodeProto]:
    """A node on all time-steps at once, and what brings them together and apart again."""
    name = f"{prefix}all/{node.name}"
    opset = opset_of(step)
    names = {node.input[0]: f"{name}/in", node.output[0]: f"{name}/out"}
    apart = helper.make_node("Split", [f"{name}/out"], outputs, f"{name}/out", axis=axis)
    if opset >= 18:
        apart.attribute.append(helper.make_attribute("num_outputs", len(outputs)))
    return [
        helper.make_node("Concat", inputs, [f"{name}/in"], f"{name}/in", axis=axis),
        renamed(node, names, f"{name}/node"),
        apart,
    ]


def axis_of_time(node: onnx.NodeProto, constants: Mapping[str, tuple[int, ...]]) -> int | None:
    """The axis along which several time-steps may go through a node at once; None for none.

    ``constants``: shapes of weights, by name. 0 where axis 0 of the first input, and of the result,
    is a batch axis and no more; 2 for a convolution that computes each place by itself.
    """
    if not all(name in constants for name in node.input[1:] if name):
        return None
    weights, attributes = constants[node.input[1]], attributes_of(node)
    if node.op_type == "MatMul":
        return 0 if len(weights) == 2 else None
    if node.op_type == "Gemm":
        added = constants[node.input[2]] if any(node.input[2:]) else ()
        rows = not attributes.get("transA") and (len(added) < 2 or added[0] == 1)
        return 0 if rows else None
    # With auto_pad there are no pads to 1 x 1 without strides.
    alone = {*weights[2:], *attributes.get("strides", ())} <= {1}
    padded = any(attributes.get("pads", ()))
    return 2 if node.op_type == "Conv" and alone and not padded else 0
