"""Graphs of a plan, as ONNX protobuf messages: parts of them, copies, and new ones."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import helper, numpy_helper

from onnx2snn.graph_passes.graph.operators import WEIGHTED
from onnx2snn.graph_passes.model_files.protos import (
    all_nodes,
    attributes_of,
    graphs_in,
    made_in,
    names_in,
    operand_names,
    unused_prefix,
)
from onnx2snn.graph_passes.model_files.weights import replace_all

Layer = TypeVar("Layer")


MANY = 65_539
"""A number of samples, prime and like no other size: where it shows in a shape, the batch does.

No larger, since one number for each may be taken for a shape, whose values are carried along.
"""


def only(model: onnx.ModelProto, outputs: Collection[str]) -> onnx.ModelProto:
    """A model with some of its outputs, and what they need."""
    infos = [info for info in model.graph.output if info.name in outputs]
    return with_nodes(model, model.graph.node, infos)


def give_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int | str]]) -> None:
    """Set the shapes of a model's inputs, or of some of them, in place; open sizes have names.

    The starts of states, of which these are other sizes, are no longer initializers.
    """
    inputs = {info.name for info in model.graph.input}
    weights = [tensor for tensor in model.graph.initializer if tensor.name not in inputs]
    replace_all(model.graph.initializer, weights)
    for info in model.graph.input:
        if info.name in shapes:
            dims = info.type.tensor_type.shape
            dims.Clear()
            for size in shapes[info.name]:
                dims.dim.add(**{"dim_value" if isinstance(size, int) else "dim_param": size})


def has_float16(model: onnx.ModelProto) -> bool:
    """Whether a graph reads, holds or casts to numbers in float16."""
    return onnx.TensorProto.FLOAT16 in types_in(model)


def types_in(model: onnx.ModelProto) -> set[int]:
    """The types of what a graph reads, holds and casts to."""
    graph = model.graph
    kinds = {info.type.tensor_type.elem_type for info in graph.input}
    kinds |= {tensor.data_type for tensor in graph.initializer}
    for node in all_nodes(graph.node):
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                kinds.add(attribute.t.data_type)
            elif node.op_type == "Cast" and attribute.name == "to":
                kinds.add(attribute.i)
    return kinds


def has_weights(node: onnx.NodeProto) -> bool:
    """Whether a node is one of ONNX's own layers with weights."""
    return node.op_type in WEIGHTED and not node.domain


def renamed(node: onnx.NodeProto, names: Mapping[str, str], name: str) -> onnx.NodeProto:
    """A copy of a node, with this name, and other names for tensors."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = name
    _rename(copy, names)
    return copy


def with_names(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A node with other names for tensors: a copy, or itself where it has none of these."""
    alike = names.keys().isdisjoint((*operand_names(node), *node.output))
    return node if alike else renamed(node, names, node.name)


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Give tensors other names, also where subgraphs capture them."""
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for graph in graphs_in(node):
        local = made_in(graph)
        outer = {name: new for name, new in names.items() if name not in local}
        for inner in graph.node:
            _rename(inner, outer)
        for info in graph.output:
            info.name = outer.get(info.name, info.name)


def values_of(model: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The values of a model's initializers by name; those of its stubs are among ``weights``."""
    return {
        tensor.name: weights[tensor.name]
        if tensor.name in weights
        else numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
    }


def names_read(model: onnx.ModelProto) -> set[str]:
    """The names of what a model's nodes read, and of its inputs and outputs."""
    read = {name for node in model.graph.node for name in operand_names(node)}
    return read | {info.name for info in (*model.graph.input, *model.graph.output)}


def names_left(model: onnx.ModelProto) -> set[str]:
    """The names of what ONNX Runtime's optimisers leave as it is, if it is constant.

    Where they move a Transpose past a node they write its constants anew, by their old names: not
    those of convolutions and Gemms, nor the first factor of a product of matrices, as in
    ``with_weights_first``.
    """
    matrices = {
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Transpose" and len(attributes_of(node).get("perm", ())) == 2
    }
    left, others = set[str](), {info.name for info in model.graph.output}
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
            left.update(node.input)
        elif node.op_type == "MatMul" and node.input[1] in matrices:
            left.add(node.input[0])
            others.add(node.input[1])
        else:
            others.update(operand_names(node))
    return left - others


def with_nodes(
    model: onnx.ModelProto,
    nodes: Iterable[onnx.NodeProto],
    outputs: Iterable[onnx.ValueInfoProto],
    inputs: Iterable[onnx.ValueInfoProto] = (),
    constants: Iterable[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    """A model of those of ``nodes`` that its outputs need, in topological order.

    Its inputs and initializers are those of ``model``, and further ones, that the nodes read.
    """
    outputs = list(outputs)
    kept = in_order(nodes, [info.name for info in outputs])
    return with_nodes_in_order(model, kept, outputs, inputs, constants)


def with_nodes_in_order(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    outputs: Iterable[onnx.ValueInfoProto],
    inputs: Iterable[onnx.ValueInfoProto] = (),
    constants: Iterable[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    """``with_nodes`` of all of these, in the order that they have."""
    outputs = list(outputs)
    read = {name for node in nodes for name in operand_names(node)} | {
        info.name for info in outputs
    }
    made = onnx.ModelProto(ir_version=model.ir_version)
    made.opset_import.extend(model.opset_import)
    made.functions.extend(model.functions)
    graph = made.graph
    graph.name = model.graph.name
    graph.node.extend(nodes)
    graph.input.extend(i for i in (*model.graph.input, *inputs) if i.name in read)
    graph.output.extend(outputs)
    graph.initializer.extend(t for t in (*model.graph.initializer, *constants) if t.name in read)
    return made


def in_order(nodes: Iterable[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that make ``outputs`` and what these need, each behind what it reads."""
    makers = {name: node for node in nodes for name in node.output if name}
    done: dict[int, onnx.NodeProto] = {}
    for output in outputs:
        stack = [(makers[output], False)] if output in makers else []
        while stack:
            node, behind = stack.pop()
            if behind:
                done.setdefault(id(node), node)
            elif id(node) not in done:
                stack.append((node, True))
                stack += [(makers[name], False) for name in operand_names(node) if name in makers]
    return list(done.values())


@dataclass
class Writer:
    """A graph as it is written: nodes in order, and initializers by name.

    ``prefix`` begins every name in it that is not from outside.
    """

    prefix: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def node(
        self, op: str, inputs: Iterable[str], name: str, output: str = "", **attributes: Any
    ) -> str:
        """Add a node; returns the name of its one output, which may be one from outside."""
        own = self.prefix + name
        output = output or own
        self.nodes.append(helper.make_node(op, list(inputs), [output], own, **attributes))
        return output

    def constant(self, value: ArrayLike, name: str) -> str:
        """Add an initializer, once; returns its name."""
        name = self.prefix + name
        self.initializers.setdefault(name, numpy_helper.from_array(np.asarray(value), name))
        return name

    def product(self, weights: str, columns: str, bias: Sequence[str], name: str) -> str:
        """Weights times columns, and one bias, if there is one, to each row."""
        if not bias:
            return self.node("MatMul", [weights, columns], f"{name}/product")
        column = self.node("Reshape", [*bias, self.constant([-1, 1], "column")], f"{name}/bias")
        return self.node("Gemm", [weights, columns, column], f"{name}/product")

    def cast(self, tensor: str, have: np.dtype, want: np.dtype, name: str) -> str:
        """The tensor in another type, or as it is."""
        if have == want:
            return tensor
        return self.node("Cast", [tensor], name, to=helper.np_dtype_to_tensor_dtype(want))

    def part(self, model: onnx.ModelProto, reads: Mapping[str, str], label: str) -> dict[str, str]:
        """Add a copy of a model's nodes; returns the names of its outputs in this graph."""
        names = dict(reads)
        # A state that is given anew has its start among the initializers too.
        for tensor in (t for t in model.graph.initializer if t.name not in reads):
            names[tensor.name] = f"{self.prefix}weights/{tensor.name}"
            if names[tensor.name] not in self.initializers:
                copy = onnx.TensorProto()
                copy.CopyFrom(tensor)
                copy.name = names[tensor.name]
                self.initializers[copy.name] = copy
        for node in model.graph.node:
            names |= {name: f"{self.prefix}{label}/{name}" for name in node.output if name}
        for node in model.graph.node:
            self.nodes.append(renamed(node, names, f"{self.prefix}{label}/{node.name}"))
        return {output.name: names[output.name] for output in model.graph.output}


def with_layers(
    model: onnx.ModelProto,
    ops: Collection[str],
    layers: Mapping[str, Layer],
    wanted: str,
    write: Callable[[Writer, onnx.NodeProto, Layer], None],
) -> onnx.ModelProto:
    """A model whose nodes of these ``ops`` are written anew where ``layers`` names their weights.

    ``write`` writes what computes the same as a node; ``wanted`` begins its names.
    """
    if not layers:
        return model
    graph = Writer(unused_prefix(names_in(model), wanted))
    for node in model.graph.node:
        layer = layers.get(node.input[1]) if node.op_type in ops else None
        if layer is None:
            graph.nodes.append(node)
        else:
            write(graph, node, layer)
    constants = graph.initializers.values()
    return with_nodes(model, graph.nodes, model.graph.output, constants=constants)
