"""What no sound model asks for, refused before other libraries see it.

The checker and the shape inference of onnx, onnx-graphsurgeon and ONNX Runtime take a file at
its word: they follow functions that call themselves until the stack ends, turn a Loop for
ever, and allocate what a shape says, be it terabytes.
"""

import math
from collections.abc import Iterable

import onnx
import onnx.shape_inference

from onnx2snn.graph_passes.errors import ModelError, first_line
from onnx2snn.graph_passes.graph.operators import WEIGHTED

from .inference import inferred
from .protos import STANDARD, all_nodes, called, graphs_in, infos_of
from .weights import copy_model

MAX_AXES = 32
"""No network has more; NumPy's own limit is 64."""

MAX_DEPTH = 16
"""Graphs inside nodes (the branches of an If) inside such graphs, and so on."""

MAX_SUBGRAPHS = 1000
"""Graphs inside nodes of a model, all together."""

MAX_CALL_DEPTH = 64
"""Functions that call functions, and so on."""

MAX_NODES = 200_000
"""Nodes of a model once its functions are inlined."""

MAX_TENSOR_BYTES = 2**30
"""What a tensor may hold for one sample, or for as many as the file fixes."""

MAX_CONSTANT_BYTES = 2**27
"""What a constant that nodes compute may hold, unless the weights hold as much themselves."""

MAX_COMPUTED_WEIGHT_BYTES = 600_000_000
"""What computed constants may hold together that are nothing but weights of layers: as much as
in the light VGG-19 of the onnx wheel, all of whose weights are computed."""

MAX_SHAPE_VALUES = 2**16
"""Elements of one tensor that shape inference may compute with."""

MAX_WINDOW = 2**14
"""Pads, kernels, strides and dilations of convolutions and pools."""

_WINDOWS = ("pads", "kernel_shape", "strides", "dilations", "output_padding")

Function = tuple[str, str]
"""Domain and name of a function; the versions that differ in ``overload`` count as one."""


def check_structure(model: onnx.ModelProto, what: str) -> None:
    """Raise ``ModelError`` for graphs and functions that nest without measure, and for a Loop.

    Of a Loop nobody can tell, without running it, whether it ends, and what it allocates.
    """
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        _check_nesting(nodes, what)
    sizes = sizes_of_functions(model.functions, what)
    count = sum(1 + sizes.get((n.domain, n.op_type), 0) for n in all_nodes(model.graph.node))
    if max(count, *sizes.values(), 0) > MAX_NODES:
        raise ModelError(
            f"{what} would hold over {MAX_NODES:,} nodes with its local functions in place: "
            "it is damaged, or too large to convert"
        )


def _check_nesting(nodes: Iterable[onnx.NodeProto], what: str) -> None:
    waiting, count = [(nodes, 0)], 0
    while waiting:
        level, depth = waiting.pop()
        for node in level:
            _check_window(node, what)
            if node.op_type == "Loop" and node.domain in STANDARD:
                raise ModelError(
                    f"{what} holds a Loop, '{called(node)}', and what it takes to run one is not "
                    "known before: export the network without loops, or unrolled"
                )
            inner = graphs_in(node)
            waiting += [(graph.node, depth + 1) for graph in inner]
            count += len(inner)
        if depth > MAX_DEPTH or count > MAX_SUBGRAPHS:
            raise ModelError(
                f"{what} holds graphs inside nodes more than {MAX_DEPTH} deep, or more than "
                f"{MAX_SUBGRAPHS} of them: export the network without control flow (If)"
            )


def _check_window(node: onnx.NodeProto, what: str) -> None:
    for attribute in node.attribute:
        if attribute.name in _WINDOWS and any(abs(n) > MAX_WINDOW for n in attribute.ints):
            raise ModelError(
                f"{what}: {node.op_type} '{called(node)}' has "
                f"{attribute.name} {list(attribute.ints)}: the file is damaged"
            )


def sizes_of_functions(functions: Iterable[onnx.FunctionProto], what: str) -> dict[Function, int]:
    """How many nodes a call of each function stands for.

    Raises ``ModelError`` for functions that call themselves, or each other too deeply.
    """
    waiting: dict[Function, list[Function]] = {}
    for function in functions:
        called = [(node.domain, node.op_type) for node in all_nodes(function.node)]
        waiting.setdefault((function.domain, function.name), []).extend(called)
    own, sizes = set(waiting), dict[Function, int]()
    for _ in range(MAX_CALL_DEPTH):
        ready = [
            key for key, called in waiting.items() if not own.intersection(called) - set(sizes)
        ]
        for key in ready:
            sizes[key] = sum(1 + sizes.get(called, 0) for called in waiting.pop(key))
        if not waiting:
            return sizes
    raise ModelError(
        f"{what}: its local functions call themselves, or each other more than {MAX_CALL_DEPTH} "
        "deep, so nothing can run them: " + ", ".join(sorted(name for _, name in waiting)[:10])
    )


def check_shapes(structure: onnx.ModelProto, what: str) -> None:
    """Raise ``ModelError`` for negative sizes, and for a tensor larger than memory should hold."""
    for info in infos_of(structure.graph):
        # Before inference, which would carry a shape of thousands through all nodes.
        _require_axes(info, what)
        if any(size.dim_value < 0 for size in info.type.tensor_type.shape.dim):
            raise ModelError(
                f"{what} gives '{info.name}' a negative size: export the network with a name, "
                "such as N, for each size that is open"
            )
    infos = shapes_from_inputs(copy_model(structure), what)
    sizes = {name: bytes_of(info, what) for name, info in infos.items()}
    for name, size in sizes.items():
        if size > MAX_TENSOR_BYTES:
            raise ModelError(
                f"{what}: '{name}' would hold {size / 2**30:.3g} GiB: the file is damaged, or "
                "export the network for smaller inputs or fewer samples"
            )
    weights = {t.name: math.prod(t.dims) for t in structure.graph.initializer}
    most = max(MAX_CONSTANT_BYTES, 8 * sum(weights.values()))
    constants, total = {"", *weights}, 0
    as_weights = {
        name for n in structure.graph.node if n.op_type in WEIGHTED for name in n.input[1:]
    }
    as_weights -= {
        name
        for n in structure.graph.node
        for name in (n.input[:1] if n.op_type in WEIGHTED else n.input)
    }
    for node in structure.graph.node:
        if constants.issuperset(node.input):
            constants.update(node.output)
            size = sum(sizes.get(name, 0) for name in node.output)
            total += size
            limit = most if as_weights.isdisjoint(node.output) else MAX_COMPUTED_WEIGHT_BYTES
            if size > limit or total > max(most, MAX_COMPUTED_WEIGHT_BYTES):
                raise ModelError(
                    f"{what}: the constant '{node.output[0]}', which {node.op_type} makes, would "
                    f"hold {size / 2**20:.3g} MiB, far more than all weights: the file is damaged"
                )


def with_shapes(structure: onnx.ModelProto, what: str) -> onnx.ModelProto:
    """A model with all that onnx can infer of its shapes.

    Computing with the values of shapes, too, takes time and memory for every element of
    every tensor of one axis: that is left out where there is a long one. Raises ``ModelError``
    where shapes contradict each other.
    """
    try:
        plain = inferred(structure)
        infos = infos_of(plain.graph)
        shapes = [[d.dim_value for d in i.type.tensor_type.shape.dim] for i in infos]
        shapes += [list(tensor.dims) for tensor in plain.graph.initializer]
        if any(len(shape) == 1 and shape[0] > MAX_SHAPE_VALUES for shape in shapes):
            return plain
        return inferred(structure, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, MemoryError) as error:
        raise ModelError(
            f"{what}: its shapes do not fit each other: {first_line(error)}; export the network "
            "again"
        ) from error


def shapes_from_inputs(model: onnx.ModelProto, what: str) -> dict[str, onnx.ValueInfoProto]:
    """What can be inferred of each tensor from the shapes of the inputs alone, by name.

    What the model says of results, which may be wrong, it loses. Raises ``ModelError`` where shapes
    contradict each other.
    """
    del model.graph.value_info[:]
    for info in model.graph.output:
        info.ClearField("type")
    return {info.name: info for info in infos_of(with_shapes(model, what).graph)}


def _require_axes(info: onnx.ValueInfoProto, what: str) -> None:
    axes = len(info.type.tensor_type.shape.dim)
    if axes > MAX_AXES:
        raise ModelError(f"{what}: '{info.name}' has {axes} axes; {MAX_AXES} are allowed")


def bytes_of(info: onnx.ValueInfoProto, what: str) -> int:
    """Bytes of a tensor, as far as its sizes are fixed."""
    kind = info.type.tensor_type
    shape = [size.dim_value if size.HasField("dim_value") else 1 for size in kind.shape.dim]
    _require_axes(info, what)
    if kind.elem_type in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
        return 0
    return math.prod(shape) * onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
