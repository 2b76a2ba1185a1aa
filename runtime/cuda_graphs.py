"""What a CUDA graph cannot hold."""

import onnx

from onnx2snn.graph_passes.errors import ModelError
from onnx2snn.graph_passes.model_files.protos import all_nodes

from .plans.sizes import sizes_of, with_constants

MOST_TENSORS = 32
"""Beyond so many, CUDA's Concat and Split read the addresses of tensors from a list."""


def require_capturable(step: onnx.ModelProto) -> None:
    """Raise ``ModelError`` where a node of a step reads addresses from a list on the host.

    A captured run reads the same list when it is replayed, by when other runs may have written
    over it. That are Concat and Split of many tensors, and products of matrices that are not one
    for each of the other's (ONNX Runtime's ``CanUseStridedBatchedGemm``).
    """
    shapes = with_constants(step, sizes_of(step, {}))
    for node in all_nodes(step.graph.node):
        many = max(len(node.input), len(node.output)) > MOST_TENSORS
        listed = many and node.op_type in ("Concat", "Split")
        if node.op_type == "MatMul" and all(name in shapes for name in node.input):
            left, right = (shapes[name] for name in node.input)
            listed = len(right) > 2 and not _alike(left[:-2], right[:-2])
        if listed:
            raise ModelError(
                f"{node.op_type} '{node.name}' reads addresses from a list, which a captured run "
                "would find changed: leave out enable_cuda_graph"
            )


def _alike(left: tuple[int, ...], right: tuple[int, ...]) -> bool:
    """Whether these sizes are the same, as far as they are known."""
    pairs = zip(left, right, strict=False)
    return len(left) == len(right) and all(a == b or 0 in (a, b) for a, b in pairs)
