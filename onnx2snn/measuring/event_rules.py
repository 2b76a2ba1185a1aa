"""What operators do where a graph counts events: hand spikes on, and add them up at synapses.

W of a layer becomes [W != 0], and its bias goes: what it makes, summed up, are its operations.
Averages become sums over the same windows, interpolations sums over the places that they read. Of
what carries no spikes, factors become 1, but for constants of 0, and terms and what is joined to
spikes 0.
"""

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.computed import computed
from onnx2snn.graph_passes.graph.editing import (
    Editor,
    constant_value,
    optional_input,
    replace_node,
)
from onnx2snn.graph_passes.graph.operators import RECURRENT, WEIGHTED
from onnx2snn.graph_passes.graph.windows import pads_of_window
from onnx2snn.graph_passes.model_files.protos import onnx_type


def _ones_for(editor: Editor, weights: gs.Tensor) -> gs.Tensor:
    """1 for each number that is not 0, made as the graph runs: no copy of all weights is kept."""
    some = _cast(editor, f"{weights.name}/some", weights, np.bool_)
    return _cast(editor, f"{weights.name}/synapses", some, np.float32)


def _cast(editor: Editor, name: str, tensor: gs.Tensor, dtype: type) -> gs.Tensor:
    to = {"to": onnx_type(np.dtype(dtype))}
    return editor.node("Cast", name, [tensor], to, like=gs.Variable("", dtype))


def filled_like(editor: Editor, tensor: gs.Tensor, value: float) -> gs.Tensor:
    """A tensor of the same shape, filled with one value."""
    if isinstance(tensor, gs.Constant):
        return editor.constant("filled", np.full(tensor.shape, value, np.float32))
    name, fill = f"{tensor.name}/filled", {"value": gs.Constant("", np.array([value], np.float32))}
    shape = editor.node("Shape", f"{name}/shape", [tensor], like=gs.Variable("", np.int64))
    return editor.node("ConstantOfShape", name, [shape], fill, gs.Variable("", np.float32))


def masks_of_padding(editor: Editor) -> dict[str, gs.Tensor]:
    """By name, for tensors into which a Pad or a factor has put zeros: 0 where it has, else 1.

    As far as that is handed on to places of its own.
    """
    masks: dict[str, gs.Tensor] = {}
    for node in list(editor.graph.nodes):
        if node.domain or not node.inputs or not _has_padding(node, masks):
            continue
        count = len(node.inputs) if node.op in ("Concat", "Mul") else 1
        inputs = [
            masks[t.name] if t.name in masks else _is_not_0(editor, t) for t in node.inputs[:count]
        ]
        inputs += node.inputs[count:]
        if node.op == "Pad" and node.attrs.get("mode", "constant") == "constant":
            inputs[2:3] = [editor.constant(f"{node.name}/zero", np.zeros((), np.float32))]
        name, like = f"{node.name}/but_for_padding", gs.Variable("", np.float32)
        masks[node.outputs[0].name] = editor.node(node.op, name, inputs, dict(node.attrs), like)
    return masks


def _has_padding(node: gs.Node, masks: dict[str, gs.Tensor]) -> bool:
    match node.op:
        case "Pad" if node.attrs.get("mode", "constant") == "constant":
            return True
        case "Mul":
            values = [value for t in node.inputs if (value := constant_value(t)) is not None]
            stops = any(np.any(value == 0) for value in values)
            return stops or any(tensor.name in masks for tensor in node.inputs)
        case "Concat" | "Pad" | "Slice" | "Transpose":
            return any(tensor.name in masks for tensor in node.inputs)
    return False


def _is_not_0(editor: Editor, factor: gs.Tensor) -> gs.Tensor:
    """1 where a factor lets spikes pass."""
    constant = isinstance(factor, gs.Constant)
    return _ones_for(editor, factor) if constant else filled_like(editor, factor, 1.0)


def has_weights(node: gs.Node) -> bool:
    """Whether it adds up what it reads by weights: spikes that meet one are synaptic operations."""
    return node.op in (*WEIGHTED, *RECURRENT) or (node.op == "Einsum" and len(node.inputs) == 2)


def _fan_outs(node: gs.Node, weights: int) -> np.ndarray | None:
    """Of a dense layer how many of its weights each input meets, as those of a single output.

    None for others, and where weights are not constant. Without it a layer counts by its weights.
    """
    value = constant_value(node.inputs[weights])
    if node.op not in ("Gemm", "MatMul") or value is None or value.ndim < 2:
        return None
    if node.attrs.get(("transA", "transB")[weights], 0):
        value = value.T
    counts: np.ndarray = np.count_nonzero(value, axis=(-2, -1)[weights], keepdims=True)
    return counts.astype(np.float64)


def _let_count(editor: Editor, node: gs.Node, weights: int) -> None:
    """Make a weighted layer count events: weights to 1, no bias."""
    if constant_value(node.inputs[weights]) is not None:
        node.inputs[weights] = _ones_for(editor, node.inputs[weights])
    node.inputs = list(node.inputs[:2])
    if node.op == "Gemm":
        node.attrs["alpha"] = 1.0


def operations(editor: Editor, node: gs.Node, weights: int) -> gs.Variable:
    """The sum of what a layer counts. Of what it hands on then, only the shape counts."""
    name, fan_outs = f"{node.name}/operations", _fan_outs(node, weights)
    # In double, since a layer can have more than the 2^24 operations that float32 counts.
    if fan_outs is None:
        _let_count(editor, node, weights)
        exact = _cast(editor, f"{name}/exact", node.outputs[0], np.float64)
    else:
        exact = _cast(editor, f"{name}/exact", node.inputs[1 - weights], np.float64)
        inputs = [exact, exact]
        inputs[weights] = editor.constant(f"{name}/fan-outs", fan_outs)
        transposed = ("transA", "transB")[1 - weights]
        attributes = {k: v for k, v in node.attrs.items() if k == transposed}
        exact = editor.node(node.op, f"{name}/dense", inputs, attributes, exact)
    return editor.node("ReduceSum", name, [exact], {"keepdims": 0}, gs.Variable("", np.float64, []))


def recurrent_operations(editor: Editor, node: gs.Node) -> gs.Variable:
    """The multiplications by the weights of a recurrent layer that reads X [L, N, I], or [N, L, I].

    Each of the L steps multiplies what it reads by W [D, G H, I], and its state by R [D, G H, H].
    """
    x, *weights = node.inputs[:3]
    values = [constant_value(tensor) for tensor in weights]
    # Those that are no constants count as if none were 0.
    counts = [
        np.prod(tensor.shape) if value is None else np.count_nonzero(value)
        for tensor, value in zip(weights, values, strict=True)
    ]
    name = f"{node.name}/operations"
    each = editor.constant(f"{name}/each", np.float64(sum(counts) / weights[0].shape[-1]))
    size = editor.node("Size", f"{name}/size", [x], like=gs.Variable("", np.int64, []))
    exact = _cast(editor, f"{name}/exact", size, np.float64)
    return editor.node("Mul", name, [exact, each], like=gs.Variable("", np.float64, []))


def become(node: gs.Node, op: str, inputs: list[gs.Tensor], attrs: dict | None = None) -> None:
    """Make another operator of a node, in its place; of several outputs the first stays."""
    replace_node(node, op, inputs, attrs)
    node.outputs = node.outputs[:1]


def pass_events_on(editor: Editor, node: gs.Node, spiking: set[str]) -> None:
    """Let an operator between spikes and weights hand on events instead of potentials."""
    x = node.inputs[0]

    def others_filled(value: float) -> list[gs.Tensor]:
        """The operands, those without spikes filled: they still give the result its shape."""
        return [t if t.name in spiking else filled_like(editor, t, value) for t in node.inputs]

    match node.op:
        case "AveragePool":
            _sum_pool(editor, node)
        case "GlobalAveragePool":
            axes = editor.constant(f"{node.name}/axes", np.arange(2, len(x.shape)))
            become(node, "ReduceSum", [x, axes], {"keepdims": 1})
        case "ReduceMean":
            axes = list(node.inputs[1:])
            if "axes" in node.attrs:
                axes = [editor.constant(f"{node.name}/axes", np.array(node.attrs["axes"]))]
            kept = {"keepdims": 1, "noop_with_empty_axes": 0}
            attributes = {name: node.attrs.get(name, value) for name, value in kept.items()}
            become(node, "ReduceSum", [x, *axes], attributes)
        case "BatchNormalization" | "Neg":
            become(node, "Identity", [x])
        case "Mul":
            factors = [t if t.name in spiking else _is_not_0(editor, t) for t in node.inputs]
            become(node, "Mul", factors)
        case "Div":
            become(node, "Mul", others_filled(1.0))
        case "Resize" if node.attrs.get("mode", "nearest") != "nearest":
            _sum_interpolated(editor, node)
        case "Add" | "Sub" | "Sum" | "Mean":
            become(node, "Sum", others_filled(0.0))
        case "Concat":
            node.inputs = others_filled(0.0)
        case "Where":
            node.inputs = [x, *others_filled(0.0)[1:]]
        case "ScatterElements" | "ScatterND":
            into, _, written = others_filled(0.0)
            node.inputs = [into, node.inputs[1], written]
        case "Einsum":
            node.inputs = [t if t.name in spiking else _ones_for(editor, t) for t in node.inputs]
        case "Pad" if optional_input(node, 2) is not None:
            node.inputs[2] = editor.constant(f"{node.name}/zero", np.zeros((), np.float32))


def _sum_interpolated(editor: Editor, node: gs.Node) -> None:
    """Resize -> the sum over the places that each result reads, by a matrix for each axis.

    One whose sizes are not known, that keeps ratios or reads a region alone stays, by its shares.
    """
    x, result = node.inputs[0], node.outputs[0]
    sizes = list(zip(x.shape or (), result.shape or (), strict=False))
    axes = list(range(len(sizes)))
    scales = optional_input(node, 2)
    # Where there are sizes an empty tensor may stand for the scales.
    given = np.empty(0) if scales is None else constant_value(scales)
    kept = node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch"
    if given is None or kept or not sizes:
        return
    resized = [axis % len(axes) for axis in node.attrs.get("axes", axes)]
    matrices = {}
    for axis, (before, after) in zip(axes, sizes, strict=True):
        if axis in resized and before != after:
            scale = given[resized.index(axis)] if len(given) else None
            read = _read_by_each(editor, node, before, after, scale)
            if read is None:
                return
            matrices[axis] = editor.constant(f"{node.name}/{axis}", read)
    letters = "abcdefghijklm"[: len(axes)]
    written = "".join(chr(ord(k) + 13) if i in matrices else k for i, k in enumerate(letters))
    terms = ",".join([letters, *(letters[axis] + written[axis] for axis in matrices)])
    become(node, "Einsum", [x, *matrices.values()], {"equation": f"{terms}->{written}"})


def _read_by_each(
    editor: Editor, node: gs.Node, before: int | str, after: int | str, scale: float | None
) -> np.ndarray | None:
    """Of an axis, float32 [before, after]: 1 where a result of a Resize reads a place."""
    if isinstance(before, str) or isinstance(after, str):
        return None
    attributes = {name: value for name, value in node.attrs.items() if name != "axes"}
    place, wanted, nothing = gs.Variable("place"), gs.Variable("wanted"), gs.Variable.empty()
    of_sizes = scale is None
    values = np.array([before, after] if of_sizes else [1, scale], np.int64 if of_sizes else "f4")
    inputs = [place, nothing, *([nothing] if of_sizes else []), wanted]
    known = {"place": np.eye(before, dtype=np.float32), "wanted": values}
    alone = gs.Node("Resize", "shares", attributes, inputs, [gs.Variable("shares")])
    shares = computed([alone], known, editor.graph.opset)
    # What is less than float32 tells is of places that do not count.
    return None if shares is None else (np.abs(shares) > 1e-6).astype(np.float32)


def _sum_pool(editor: Editor, node: gs.Node) -> None:
    """AveragePool -> a convolution of each channel with ones, over the same windows."""
    x, result, attrs = node.inputs[0], node.outputs[0], dict(node.attrs)
    kernel = attrs["kernel_shape"]
    attrs.pop("count_include_pad", None)
    axes = len(kernel)
    strides, dilations = (attrs.get(k, [1] * axes) for k in ("strides", "dilations"))
    larger = any(
        isinstance(size, int) and (k - 1) * step >= size
        for k, step, size in zip(kernel, dilations, x.shape[2:], strict=True)
    )
    if attrs.pop("ceil_mode", 0) or larger:
        # Conv rounds sizes down, and takes no kernel beyond the pads: pad the end by what the last
        # windows reach beyond.
        pads = [max(pad, 0) for pad in pads_of_window(node, kernel) or [0] * 2 * axes]
        attrs.pop("auto_pad", None)
        for axis in range(axes):
            window = (kernel[axis] - 1) * dilations[axis] + 1
            covered = (result.shape[2 + axis] - 1) * strides[axis] + window
            padded = x.shape[2 + axis] + pads[axis] + pads[axes + axis]
            pads[axes + axis] += max(covered - padded, 0)
        attrs["pads"] = pads
    channels = x.shape[1]
    ones = np.ones((channels, 1, *kernel), np.float32)
    weights = editor.constant(f"{node.name}/ones", ones)
    become(node, "Conv", [x, weights], attrs | {"group": channels})
