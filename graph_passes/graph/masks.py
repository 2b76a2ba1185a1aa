"""Masks: numbers that take others out of a Softmax, or an ArgMax."""

import onnx_graphsurgeon as gs

from .editing import is_graph_output
from .operators import ATTENTIONS

MASKING = ("Add", "Expand", "Reshape", "ToMean", "Transpose", "Unsqueeze", "Where")
"""What a mask may pass on its way to what it takes numbers out of."""

_MASKED = ("ArgMax", "Softmax", *MASKING, *ATTENTIONS)


def masks_alone(graph: gs.Graph, node: gs.Node) -> bool:
    """Whether nothing is made of a node but a mask of what a Softmax reads, or an ArgMax."""
    waiting, seen = [node], set[int]()
    while waiting:
        masking = waiting.pop()
        if id(masking) in seen:
            continue
        seen.add(id(masking))
        readers = masking.outputs[0].outputs
        if not readers or is_graph_output(graph, masking.outputs[0]):
            return False
        if any(reader.op not in _MASKED for reader in readers):
            return False
        waiting += [reader for reader in readers if reader.op in MASKING]
    return True
