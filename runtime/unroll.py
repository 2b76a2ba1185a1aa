"""Several time-steps of a step graph in one graph: a chunk.

    v -> step -> v_next      becomes      v -> step -> step -> ... -> v_next

One ``run`` of ONNX Runtime then does K time-steps: the states between them stay within the
graph, and what no state needs is left out. Layers whose weights are larger than what flows
through them can run once for all K steps, *time-batched*:

    y(t) = W x(t), t = 1 to K      becomes      [y(1); ...; y(K)] = W [x(1); ...; x(K)]

which reads W from memory once. That holds for operators that treat axis 0 as a batch axis and
nothing else: those of ``WEIGHTED``, with constant weights.
"""

from collections.abc import Collection, Mapping, Sequence

import onnx
from onnx import helper

from .graphs import names_in, operands, renamed, unused_prefix, with_nodes
from .plan import State

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The operators that may be time-batched."""


CACHED = 2**18
"""Weights, 1 MiB in float32: a layer that has no more finds them in the cache each time."""


def unrolled(
    step: onnx.ModelProto,
    states: Sequence[State],
    timesteps: int,
    time_batched: Collection[str] = (),
) -> onnx.ModelProto:
    """A step graph ``timesteps`` times in a row, its other inputs the same in each.

    ``states`` are all that it reads and writes anew; the result reads and writes the same, and
    has no other outputs.
    ``time_batched``: names of nodes that run once for all time-steps.
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

    nodes: list[onnx.NodeProto] = []
    for node in step.graph.node:
        if fixed.issuperset(operands(node)):
            nodes.append(node)
            fixed.update(node.output)
        elif node.name in time_batched and fixed.issuperset(node.input[1:]):
            nodes += _time_batched(node, [now(node.input[0], t) for t in range(timesteps)],
                                   [now(node.output[0], t) for t in range(timesteps)],
                                   prefix, step)  # fmt: skip
        else:
            for t in range(timesteps):
                names = {n: now(n, t) for n in (*operands(node), *node.output)}
                nodes.append(renamed(node, names, f"{prefix}{t}/{node.name}"))
    return with_nodes(step, nodes, [o for o in step.graph.output if o.name in outputs])


def _time_batched(
    node: onnx.NodeProto,
    inputs: list[str],
    outputs: list[str],
    prefix: str,
    step: onnx.ModelProto,
) -> list[onnx.NodeProto]:
    """A node on all time-steps at once, and what brings them together and apart again."""
    name = f"{prefix}all/{node.name}"
    opset = next(entry.version for entry in step.opset_import if entry.domain == "")
    names = {node.input[0]: f"{name}/in", node.output[0]: f"{name}/out"}
    apart = helper.make_node("Split", [f"{name}/out"], outputs, f"{name}/out", axis=0)
    if opset >= 18:
        apart.attribute.append(helper.make_attribute("num_outputs", len(outputs)))
    return [
        helper.make_node("Concat", inputs, [f"{name}/in"], f"{name}/in", axis=0),
        renamed(node, names, name),
        apart,
    ]


def batches(node: onnx.NodeProto, constants: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether axis 0 of the first input, and of the result, is a batch axis and no more."""
    if not all(name in constants for name in node.input[1:] if name):
        return False
    if node.op_type == "MatMul":
        return len(constants[node.input[1]]) == 2
    if node.op_type == "Gemm":
        added = constants[node.input[2]] if len(node.input) > 2 else ()
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return not transposed and (len(added) < 2 or added[0] == 1)
    return True
