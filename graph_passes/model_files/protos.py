"""What ONNX's messages hold, and names that they do not."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper

STANDARD = ("", "ai.onnx")
"""The names of the domain of ONNX's own operators."""

_WITH_SUBGRAPHS = ("If", "Loop", "Scan", "SequenceMap")
"""The operators of ONNX that have graphs inside."""

_MAY_BE_GRAPHS = {onnx.AttributeProto.UNDEFINED, onnx.AttributeProto.GRAPH,
                  onnx.AttributeProto.GRAPHS}  # fmt: skip
"""Types of attributes; that of one in an old file may be undefined."""


def onnx_type(dtype: np.dtype | int) -> int:
    """ONNX's number of a tensor type."""
    return dtype if isinstance(dtype, int) else helper.np_dtype_to_tensor_dtype(dtype)


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The values of a node's attributes by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def graphs_in(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs inside a node."""
    held = [attribute for attribute in node.attribute if attribute.type in _MAY_BE_GRAPHS]
    return [g for a in held for g in (*([a.g] if a.HasField("g") else []), *a.graphs)]


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes and those of the graphs inside them."""
    for node in nodes:
        yield node
        for graph in graphs_in(node):
            yield from all_nodes(graph.node)


def constants_of(nodes: Iterable[onnx.NodeProto]) -> dict[str, onnx.TensorProto]:
    """What nodes Constant make that hold a tensor, by name; one that makes nothing is damaged."""
    return {
        node.output[0]: attribute.t
        for node in nodes
        if node.op_type == "Constant" and node.domain in STANDARD and node.output
        for attribute in node.attribute
        if attribute.name == "value"
    }


def infos_of(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """What a graph declares of its inputs, of what is between, and of its outputs."""
    return [*graph.input, *graph.value_info, *graph.output]


def made_in(graph: onnx.GraphProto) -> set[str]:
    """The names of what a subgraph makes itself."""
    names = {info.name for info in graph.input} | {t.name for t in graph.initializer}
    return names | {name for inner in graph.node for name in inner.output}


def operand_names(node: onnx.NodeProto) -> list[str]:
    """The names of all that a node reads: its inputs, and what its subgraphs capture."""
    names = dict.fromkeys(node.input)
    if not node.domain and node.op_type not in _WITH_SUBGRAPHS:
        return list(names)
    for graph in graphs_in(node):
        local = made_in(graph)
        read = [name for inner in graph.node for name in operand_names(inner)]
        read += [info.name for info in graph.output]
        names |= dict.fromkeys(name for name in read if name not in local)
    return list(names)


def called(node: onnx.NodeProto) -> str:
    """A node's name, as messages have it; of one without, that of its first output."""
    return node.name or next(iter(node.output), "")


def names_in(model: onnx.ModelProto) -> set[str]:
    """The names of a model's tensors and nodes, those of the graphs inside nodes among them."""
    nodes = list(all_nodes(model.graph.node))
    graphs = [model.graph, *(graph for node in nodes for graph in graphs_in(node))]
    names = {held.name for graph in graphs for held in (*graph.input, *graph.initializer)}
    for node in nodes:
        names.update(node.input, node.output, [node.name])
    return names


def unused_prefix(names: Collection[str], wanted: str) -> str:
    """A prefix that none of the names has: ``wanted``, behind as many _ as it takes."""
    while any(name.startswith(wanted) for name in names):
        wanted = "_" + wanted
    return wanted


def standard_opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model imports, the last if several; 0 if none."""
    return next((e.version for e in reversed(model.opset_import) if e.domain in STANDARD), 0)


def domain_of(what: onnx.NodeProto | onnx.OperatorSetIdProto) -> str:
    """The domain of a node or opset: that of ONNX has two names."""
    return "" if what.domain == "ai.onnx" else what.domain
