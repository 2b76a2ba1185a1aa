"""Sizes of a graph's tensors, and which of them a cache holds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from onnx2snn.graph_passes.graph.operators import SHAPE_OPS
from onnx2snn.graph_passes.model_files.inference import inferred
from onnx2snn.graph_passes.model_files.protos import all_nodes, infos_of
from onnx2snn.graph_passes.model_files.weights import copy_model

from .graphs import give_shapes

CACHED = 2**18
"""Weights, 1 MiB in float32: a layer that has no more finds them in the cache each time."""


@dataclass(frozen=True)
class Sizes:
    """Shapes and bytes of an element by tensor: sizes that cannot be inferred are 0.

    Tensors of which not even the number of axes can be are left out.
    """

    shapes: Mapping[str, tuple[int, ...]]
    itemsizes: Mapping[str, int]

    def count(self, name: str) -> int:
        """How many elements a tensor has; 0 where its shape is not known."""
        return math.prod(self.shapes[name]) if name in self.shapes else 0

    def bytes_of(self, name: str) -> int:
        """How many bytes a tensor has; 0 where its shape is not known."""
        return self.count(name) * self.itemsizes.get(name, 0)


def with_constants(model: onnx.ModelProto, known: Sizes) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's tensors, as far as they are known, its constants among them."""
    return {t.name: tuple(t.dims) for t in model.graph.initializer} | dict(known.shapes)


def sizes_of(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int | str]]) -> Sizes:
    """The sizes of a model's tensors where its inputs, or some of them, have these shapes."""
    given = copy_model(model)
    own = {
        name: [
            size if isinstance(size, int) else f"{name}.{axis}" for axis, size in enumerate(sizes)
        ]
        for name, sizes in shapes.items()
    }
    give_shapes(given, own)
    # Where nothing is computed of shapes, what has one number for each of many samples would be
    # carried along, as if it were one.
    nodes = [*given.graph.node, *(node for made in given.functions for node in made.node)]
    of_shapes = any(node.op_type in SHAPE_OPS for node in all_nodes(nodes))
    infos = infos_of(inferred(given, data_prop=of_shapes).graph)
    kinds = {info.name: info.type.tensor_type for info in infos}
    return Sizes(
        {
            name: tuple(d.dim_value for d in kind.shape.dim)
            for name, kind in kinds.items()
            if kind.HasField("shape")
        },
        {name: _itemsize(kind.elem_type) for name, kind in kinds.items()},
    )


def _itemsize(kind: int) -> int:
    return helper.tensor_dtype_to_np_dtype(kind).itemsize if kind else 0
