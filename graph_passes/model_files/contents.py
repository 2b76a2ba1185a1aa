"""What later steps cannot take of a model's content: damage and rare kinds, which are refused,
and sparse tensors, nodes in disorder and repeated opsets, which are put right.
"""

import contextlib
import graphlib
import math
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx.numpy_helper
from google.protobuf.message import Message

from onnx2snn.graph_passes.errors import ModelError

from .limits import MAX_AXES, MAX_TENSOR_BYTES
from .protos import (
    STANDARD,
    all_nodes,
    called,
    domain_of,
    graphs_in,
    infos_of,
    made_in,
    operand_names,
)
from .weights import replace_all

FEW_BITS: dict[int, tuple[int, type]] = {
    kind: (int(name[-1]), np.int8 if name.startswith("INT") else np.uint8)
    for name, kind in onnx.TensorProto.DataType.items()
    if name in ("INT2", "UINT2", "INT4", "UINT4")
}
"""Types of several numbers a byte: their bits, and what holds the same numbers in eight.

Those of 2 bits are younger than the oldest onnx that this runs with.
"""

# onnx-graphsurgeon changes or loses these types without a word.
_LOST = ("FLOAT8E4M3FNUZ", "FLOAT4E2M1", "FLOAT8E8M0", "FLOAT6E2M3", "FLOAT6E3M2")
UNSUPPORTED_TYPES: dict[int, str] = {
    kind: name
    for name, kind in onnx.TensorProto.DataType.items()
    if name in _LOST or kind in FEW_BITS
}
"""Types of tensors that cannot be converted, and their names."""

_OF_ANY_NUMBER = ("Concat", "Max", "Mean", "Min", "Sum")
"""The operators that take any number of inputs, of which none may be left out."""


def check_contents(model: onnx.ModelProto, what: str) -> None:
    """Raise ``ModelError``, beginning with ``what``, for names that are no text, for types and
    attributes that do not exist, and for inputs left out that cannot be.
    """
    try:
        # Protobuf hands out a string that is no UTF-8 as bytes, or raises, by its version.
        damaged = any(isinstance(text, bytes) for text in _texts(model))
    except UnicodeDecodeError:
        damaged = True
    if damaged:
        raise ModelError(f"{what} is damaged: a name in it is no text")
    for graph in every_graph(model):
        for info in infos_of(graph):
            if info.type.HasField("tensor_type"):
                check_type(info.type.tensor_type.elem_type, info.name, what)
            _check_is_tensor(info, what)
    for node in every_node(model):
        for attribute in node.attribute:
            known = attribute.HasField("t") or attribute.ref_attr_name
            if attribute.type == onnx.AttributeProto.TENSOR and not known:
                raise ModelError(
                    f"{what} is damaged: {node.op_type} '{called(node)}' has no value for its "
                    f"attribute '{attribute.name}'"
                )
        # ONNX's checker takes it, and ONNX Runtime would end the process.
        if node.domain in STANDARD and node.op_type in _OF_ANY_NUMBER and "" in node.input:
            raise ModelError(
                f"{what} is damaged: {node.op_type} '{called(node)}' has an input that is left out"
            )


def check_kinds(model: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> None:
    """Raise ``ModelError`` for what onnx-graphsurgeon has no place for: values that are neither
    tensors nor sequences of them, attributes of rare types, and constants of a subgraph that have
    the name of what is around it, as ONNX forbids.
    """
    for graph in every_graph(model):
        for info in infos_of(graph):
            _check_is_tensor(info, "the model")
    _check_constants_of_bodies(model.graph, {}, weights)
    for node in every_node(model):
        for attribute in node.attribute:
            if attribute.type not in _ATTRIBUTES:
                kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
                raise ModelError(
                    f"the model: {node.op_type} '{called(node)}' has an attribute "
                    f"'{attribute.name}' of the type {kind}, which cannot be converted"
                )


def _check_constants_of_bodies(
    graph: onnx.GraphProto,
    around: Mapping[str, onnx.TensorProto | None],
    weights: Mapping[str, np.ndarray],
) -> None:
    """``around``: what the graphs around this one have, by name; None for what is no constant."""
    for tensor in graph.initializer:
        # onnx-graphsurgeon writes what a body captures once more into it.
        if tensor.name in around and not _is_the_same(tensor, around[tensor.name], weights):
            raise ModelError(
                f"the model: a subgraph has a constant '{tensor.name}', and the graph around it "
                "another tensor of that name: rename one of them"
            )
    bodies = [body for node in graph.node for body in graphs_in(node)]
    if bodies:
        constants = {tensor.name: tensor for tensor in graph.initializer}
        visible = {**around, **dict.fromkeys(made_in(graph)), **constants}
        for body in bodies:
            _check_constants_of_bodies(body, visible, weights)


def _is_the_same(
    tensor: onnx.TensorProto, other: onnx.TensorProto | None, weights: Mapping[str, np.ndarray]
) -> bool:
    """Whether two constants are known to have the same values."""
    if other is None or (tensor.data_type, tensor.dims) != (other.data_type, other.dims):
        return False
    try:
        own = onnx.numpy_helper.to_array(tensor)
        known = weights.get(other.name)
        known = onnx.numpy_helper.to_array(other) if known is None else known
    except (OSError, ValueError):
        # Damaged, or elsewhere.
        return False
    return own.tobytes() == known.tobytes()


_ATTRIBUTES = {
    onnx.AttributeProto.FLOAT, onnx.AttributeProto.INT, onnx.AttributeProto.STRING,
    onnx.AttributeProto.FLOATS, onnx.AttributeProto.INTS, onnx.AttributeProto.STRINGS,
    onnx.AttributeProto.TENSOR, onnx.AttributeProto.GRAPH,
}  # fmt: skip


def _check_is_tensor(info: onnx.ValueInfoProto, what: str) -> None:
    if info.type.WhichOneof("value") not in (None, "tensor_type", "sequence_type"):
        raise ModelError(f"{what}: '{info.name}' is no tensor; it cannot be converted")


def _texts(model: onnx.ModelProto) -> Iterator[str | bytes]:
    """All strings of a model, but for the values of tensors."""
    waiting: list[Message] = [model]
    while waiting:
        message = waiting.pop()
        if isinstance(message, onnx.TensorProto):
            yield message.name
            yield message.doc_string
            waiting += message.external_data
            continue
        if isinstance(message, onnx.AttributeProto):
            yield from (text.decode() for text in (message.s, *message.strings))
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting += [value] if isinstance(value, Message) else value
            elif field.type == field.TYPE_STRING:
                yield from [value] if isinstance(value, str | bytes) else value


def every_graph(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph of a model, and the graphs inside nodes, those of functions too."""
    yield model.graph
    yield from (graph for node in every_node(model) for graph in graphs_in(node))


def every_node(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a model, those inside nodes and functions too."""
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        yield from all_nodes(nodes)


def check_type(kind: int, name: str, what: str) -> None:
    """Raise ``ModelError`` for a type of tensors that does not exist."""
    if kind not in UNSUPPORTED_TYPES and kind != onnx.TensorProto.STRING:
        try:
            onnx.helper.tensor_dtype_to_np_dtype(kind)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{what}: '{name}' has an unknown type, {kind}: the file is damaged, or needs a "
                "newer onnx"
            ) from error


def stored_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a model, the initializers of its own graph first."""
    for graph in every_graph(model):
        yield from graph.initializer
    for node in every_node(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def check_dimensions(tensor: onnx.TensorProto, what: str) -> None:
    """Raise ``ModelError`` for a tensor of unknown type, of too many axes or of negative sizes."""
    check_type(tensor.data_type, tensor.name, what)
    if len(tensor.dims) > MAX_AXES or any(size < 0 for size in tensor.dims):
        raise ModelError(
            f"{what}: tensor '{tensor.name}' has the shape {list(tensor.dims)[:MAX_AXES]}: "
            "the file or its data is damaged"
        )


def check_values(tensor: onnx.TensorProto, what: str) -> None:
    """Raise ``ModelError`` unless a tensor in the file itself holds as much as its shape says."""
    check_dimensions(tensor, what)
    if tensor.data_type in UNSUPPORTED_TYPES:
        return
    if not tensor.HasField("raw_data"):
        try:
            onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, OverflowError) as error:
            raise ModelError(f"{what}: tensor '{tensor.name}' is damaged: {error}") from error
        return
    itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    expected = math.prod(tensor.dims) * itemsize
    if len(tensor.raw_data) != expected:
        raise ModelError(
            f"{what}: tensor '{tensor.name}' holds {len(tensor.raw_data)} bytes where its "
            f"shape {list(tensor.dims)} needs {expected}: the file or its data is damaged"
        )


def mend(model: onnx.ModelProto) -> None:
    """Write as ONNX has it what some tools write otherwise: nodes' order, open sizes, opsets."""
    _sort_nodes(model.graph)
    _open_sizes(model.graph)
    import_once(model)


def import_once(model: onnx.ModelProto) -> None:
    """Import each domain once: onnx.compose repeats entries.

    Of versions that differ the last counts, as in ONNX Runtime.
    """
    versions = {domain_of(entry): entry.version for entry in model.opset_import}
    if len(versions) < len(model.opset_import):
        once = [onnx.helper.make_opsetid(*each) for each in versions.items()]
        replace_all(model.opset_import, once)


def _open_sizes(graph: onnx.GraphProto) -> None:
    """Let a declared size be open where it is -1, as Paddle writes it."""
    for info in infos_of(graph):
        for size in info.type.tensor_type.shape.dim:
            if size.dim_value == -1:
                size.ClearField("dim_value")


def _sort_nodes(graph: onnx.GraphProto) -> None:
    """Let each node come after those that make what it reads; some tools leave them in disorder.

    A graph in order stays as it is, and so do one with a cycle, which the checker refuses, and
    the graphs inside nodes.
    """
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    needs = {
        place: {makers[name] for name in operand_names(node) if name in makers}
        for place, node in enumerate(graph.node)
    }
    if all(max(makes, default=-1) < place for place, makes in needs.items()):
        return
    with contextlib.suppress(graphlib.CycleError):
        order = list(graphlib.TopologicalSorter(needs).static_order())
        replace_all(graph.node, [graph.node[place] for place in order])


def widen_weights(model: onnx.ModelProto) -> None:
    """Hold weights of less than 8 bits in 8, where nothing but DequantizeLinear reads them.

    Raises ``ModelError`` for those that hold fewer numbers than their shape says.
    """
    read = {name for node in every_node(model) for name in node.input if not _dequantises(node)}
    read |= {info.name for graph in every_graph(model) for info in graph.output}
    for tensor in model.graph.initializer:
        if tensor.data_type not in FEW_BITS or tensor.name in read:
            continue
        bits, kind = FEW_BITS[tensor.data_type]
        held, needed = len(tensor.raw_data), -(-math.prod(tensor.dims) * bits // 8)
        try:
            if tensor.HasField("raw_data") and held < needed:
                # Some versions of onnx take what is missing for 0.
                raise ValueError(f"it holds {held} bytes of {needed}")
            values: np.ndarray = onnx.numpy_helper.to_array(tensor).astype(kind)
        except (ValueError, TypeError) as error:
            raise ModelError(f"the model: tensor '{tensor.name}' is damaged: {error}") from error
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def _dequantises(node: onnx.NodeProto) -> bool:
    """Whether a node is DequantizeLinear, of ONNX or, for older opsets, of ONNX Runtime."""
    domains = (*STANDARD, "com.microsoft")
    return node.op_type == "DequantizeLinear" and node.domain in domains


def has_sparse(model: onnx.ModelProto) -> bool:
    """Whether a model has sparse initializers, or nodes Constant of sparse values."""
    stored = any(graph.sparse_initializer for graph in every_graph(model))
    return stored or any(_sparse_values(node) for node in every_node(model))


def make_dense(model: onnx.ModelProto, what: str) -> None:
    """Replace sparse constants by dense ones; onnx-graphsurgeon would lose them, or their type.

    Raises ``ModelError`` for positions outside the tensor, and for one larger than memory
    should hold.
    """
    for graph in every_graph(model):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_dense(sparse, what))
        graph.ClearField("sparse_initializer")
    for node in every_node(model):
        for attribute in _sparse_values(node):
            value = _dense(attribute.sparse_tensor, what)
            attribute.CopyFrom(onnx.helper.make_attribute("value", value))


def _sparse_values(node: onnx.NodeProto) -> list[onnx.AttributeProto]:
    constant = node.op_type == "Constant" and node.domain in STANDARD
    return [a for a in node.attribute if constant and a.name == "sparse_value"]


def _dense(sparse: onnx.SparseTensorProto, what: str) -> onnx.TensorProto:
    name, shape = sparse.values.name, tuple(sparse.dims)
    for tensor in (sparse.values, sparse.indices):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError(f"{what}: the sparse tensor '{name}' must hold its own values")
        check_values(tensor, what)
    values = onnx.numpy_helper.to_array(sparse.values).reshape(-1)
    places = onnx.numpy_helper.to_array(sparse.indices)
    size = math.prod(shape)
    if any(axis < 0 for axis in shape) or size * values.itemsize > MAX_TENSOR_BYTES:
        raise ModelError(
            f"{what}: the sparse tensor '{name}' has the shape {list(shape)}, which is negative or "
            f"more than {MAX_TENSOR_BYTES / 2**30:.3g} GiB: the file is damaged"
        )
    dense = np.zeros(size, values.dtype)
    try:
        flat = places if places.ndim < 2 else np.ravel_multi_index(tuple(places.T), shape)
        dense[flat] = values
    except (IndexError, ValueError, TypeError) as error:
        raise ModelError(f"{what}: the sparse tensor '{name}' is damaged: {error}") from error
    return onnx.numpy_helper.from_array(dense.reshape(shape), name)
