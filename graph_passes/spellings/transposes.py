"""Move Transposes down until they cancel, as in graphs whose channels come last."""

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.editing import (
    Editor,
    bypass,
    constant_value,
    optional_input,
    pads_of,
    producer,
    reduction_axes,
    require_opset,
    variables_of,
)
from onnx2snn.graph_passes.graph.layouts import names_of_samples
from onnx2snn.graph_passes.graph.operators import APPROXIMABLE
from onnx2snn.graph_passes.graph.tidying import tidy

_ELEMENTWISE = {
    *APPROXIMABLE, "Abs", "Add", "BitShift", "Cast", "Ceil", "Clip", "Div", "Dropout", "Floor",
    "HardSigmoid", "Identity", "LeakyRelu", "Max", "Mean", "Min", "Mul", "Neg", "PRelu", "Relu",
    "Round", "Sign", "Sub", "Sum", "ThresholdedRelu",
}  # fmt: skip
_ACTIVATIONS = _ELEMENTWISE - {
    "Add", "Cast", "Div", "Dropout", "Identity", "Mean", "Mul", "Neg", "Sub", "Sum",
}  # fmt: skip
_REDUCTIONS = {"ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"}


def sink_transposes(graph: gs.Graph) -> bool:
    """f(Transpose(x), Transpose(y)) -> Transpose(f(x, y)); pairs that undo each other vanish.

    f: elementwise operators, whose constants are permuted instead, Concat, Pad, Slice, and
    reductions. Activations that have the samples along axis 0 keep them there.
    A network that an exporter wrote with channels last, a pair of Transposes around every
    convolution, keeps one at its input and perhaps one before a Reshape.
    """
    require_opset(graph)
    editor = Editor(graph)
    changed = False
    # A sunk Transpose comes after the node in the list, so one round in order moves each
    # as far down as it can go.
    waiting = list(graph.nodes)[::-1]
    while waiting:
        node = waiting.pop()
        if node.op == "Transpose" and not node.domain:
            changed |= _merge(graph, node)
        else:
            moved = _sink(editor, node)
            if moved is not None:
                changed = True
                waiting.append(moved)
    if changed:
        tidy(graph)
    return changed


def _permutation(node: gs.Node | None) -> list[int] | None:
    """The permutation of a Transpose; None for any other node."""
    if node is None or node.op != "Transpose" or node.domain:
        return None
    rank = None if node.inputs[0].shape is None else len(node.inputs[0].shape)
    default = None if rank is None else list(range(rank))[::-1]
    permutation: list[int] | None = node.attrs.get("perm", default)
    return permutation


def _merge(graph: gs.Graph, node: gs.Node) -> bool:
    """Transpose(Transpose(x; p); q) -> Transpose(x; p[q]), or x."""
    before = producer(node.inputs[0])
    outer, inner = _permutation(node), _permutation(before)
    if before is None or outer is None or inner is None:
        return False
    node.inputs = [before.inputs[0]]
    node.attrs["perm"] = [inner[axis] for axis in outer]
    if node.attrs["perm"] == sorted(node.attrs["perm"]):
        bypass(graph, node)
    return True


def _sink(editor: Editor, node: gs.Node) -> gs.Node | None:
    """Move the Transposes before a node behind it; returns what is to be looked at next.

    That is the new Transpose, or the node itself where none is needed; None if nothing moved.
    """
    if node.domain or len(node.outputs) != 1:
        return None
    one = node.op in _REDUCTIONS or node.op in ("Pad", "Slice")
    data = list(node.inputs[:1]) if one else variables_of(node)
    permutations = [_permutation(producer(tensor)) for tensor in data]
    permutation = permutations[0] if permutations else None
    if permutation is None or any(p != permutation for p in permutations):
        return None
    if node.op in _ACTIVATIONS and _takes_samples_away(editor.graph, data, permutation):
        return None
    below = _move(editor, node, permutation)
    if below is None:
        return None
    for index, tensor in enumerate(node.inputs):
        if any(tensor is moved for moved in data):
            node.inputs[index] = tensor.inputs[0].inputs[0]
    result = node.outputs[0]
    if below == sorted(below):
        return node
    above = gs.Variable(editor.name(f"{node.name}/transposed"), result.dtype)
    if result.shape is not None and len(result.shape) == len(below):
        above.shape = [result.shape[below.index(axis)] for axis in range(len(below))]
    name = editor.name(f"{node.name}/transpose")
    node.outputs = [above]
    transpose = gs.Node("Transpose", name, {"perm": below}, [above], [result])
    editor.graph.nodes.append(transpose)
    return transpose


def _takes_samples_away(graph: gs.Graph, data: list[gs.Tensor], permutation: list[int]) -> bool:
    """Whether samples lie along axis 0 behind these Transposes, as neurons have them, not before.

    As far as names of sizes tell.
    """
    names = names_of_samples(graph)
    return permutation[:1] != [0] and any(t.shape and t.shape[0] in names for t in data)


def _move(editor: Editor, node: gs.Node, permutation: list[int]) -> list[int] | None:
    """Let a node work on permuted axes; returns the permutation of its result, None if it can't."""
    rank = len(permutation)
    if node.op in _ELEMENTWISE:
        constants = {
            index: np.asarray(tensor.values)
            for index, tensor in enumerate(node.inputs)
            if isinstance(tensor, gs.Constant)
        }
        if any(value.ndim > rank for value in constants.values()):
            return None
        for index, value in constants.items():
            if value.ndim and not (node.op == "Clip" or node.op == "Dropout"):
                full = np.array(value, ndmin=rank)
                moved = np.ascontiguousarray(full.transpose(np.argsort(permutation)))
                node.inputs[index] = editor.constant(f"{node.inputs[index].name}/moved", moved)
        return permutation
    if node.op == "Concat":
        if any(isinstance(tensor, gs.Constant) for tensor in node.inputs):
            return None
        node.attrs["axis"] = permutation[node.attrs["axis"] % rank]
        return permutation
    if node.op == "Pad":
        return _move_pad(editor, node, permutation)
    if node.op == "Slice":
        return _move_slice(editor, node, permutation)
    if node.op in _REDUCTIONS:
        return _move_reduction(editor, node, permutation)
    return None


def _move_pad(editor: Editor, node: gs.Node, permutation: list[int]) -> list[int] | None:
    pads = pads_of(node)
    if pads is None or pads.shape[1] != len(permutation):
        return None
    # All axes are written out: ONNX Runtime's own moving of Transposes overlooks their choice.
    moved = np.empty_like(pads)
    moved[:, permutation] = pads
    node.inputs = list(node.inputs[:3])
    node.inputs[1] = editor.constant(f"{node.name}/pads", moved.reshape(-1))
    return permutation


def _move_slice(editor: Editor, node: gs.Node, permutation: list[int]) -> list[int] | None:
    starts, given = constant_value(node.inputs[1]), optional_input(node, 3)
    if given is not None:
        axes = constant_value(given)
    else:
        axes = None if starts is None else np.arange(starts.size)
    if axes is None:
        return None
    # Of the type of the starts, as all that a Slice says.
    kind = (node.inputs[1] if given is None else given).dtype or np.int64
    moved = np.asarray([permutation[int(axis) % len(permutation)] for axis in axes], kind)
    constant = editor.constant(f"{node.name}/axes", moved)
    node.inputs = [*node.inputs[:3], constant, *node.inputs[4:]]
    return permutation


def _move_reduction(editor: Editor, node: gs.Node, permutation: list[int]) -> list[int] | None:
    rank = len(permutation)
    axes = reduction_axes(node)
    if not axes:
        return None
    moved = sorted(permutation[axis % rank] for axis in axes)
    if "axes" in node.attrs:
        node.attrs["axes"] = moved
    else:
        node.inputs[1] = editor.constant(f"{node.name}/axes", np.array(moved, np.int64))
    if node.attrs.get("keepdims", 1):
        return permutation
    kept = [axis for axis in permutation if axis not in moved]
    return [sorted(kept).index(axis) for axis in kept]
