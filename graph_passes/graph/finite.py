"""Refuse numbers that are not finite where they must be."""

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.errors import Refusal, UnsupportedModelError

from .editing import constant_value
from .masks import MASKING, masks_alone
from .neurons import neuron_nodes
from .operators import ATTENTIONS

_LOOKED_AT_ONCE = 2**22


def require_finite_weights(
    graph: gs.Graph, remedy: str = "train or export the model again"
) -> None:
    """Raise ``UnsupportedModelError`` for NaN anywhere, and infinity where it is no bound.

    ``remedy``: what to do but for what masks, which has its own.
    """
    bad = []
    for node in graph.nodes:
        for tensor in node.inputs:
            value = constant_value(tensor)
            if value is None or not np.issubdtype(value.dtype, np.floating):
                continue
            # Bounds, and the padding of a maximum.
            bound = node.op in ("Clip", "Min", "Max", "Pad") and not np.any(np.isnan(value))
            if not bound and not _all_finite(value) and not _masks(graph, node, value):
                folded = node.op == "Gemm" and bool(np.all(value < np.inf))
                masks = node.op in ("Add", "Where") or folded
                instead = "let a number such as -1e9 take the place of what is masked"
                reason = f"'{tensor.name}' holds NaN or infinity: {instead if masks else remedy}"
                bad.append(Refusal(node.name, node.op, reason))
    if bad:
        raise UnsupportedModelError("weights must be finite:", bad)


def require_finite_results(graph: gs.Graph) -> None:
    """Raise ``UnsupportedModelError`` where what passes made is beyond what its type holds.

    Weights, and V_th and v(0) of neurons.
    """
    bad = [
        Refusal(node.name, node.op, f"its {name} is beyond what {value.values.dtype} holds")
        for node in neuron_nodes(graph)
        for name, value in node.attrs.items()
        if isinstance(value, gs.Constant) and not np.all(np.isfinite(value.values))
    ]
    remedy = "export the model in float32, or give it smaller inputs"
    if bad:
        raise UnsupportedModelError(
            f"what was found for these neurons must be finite; {remedy}:", bad
        )
    require_finite_weights(graph, f"where those of the file are finite, {remedy}")


def _masks(graph: gs.Graph, node: gs.Node, value: np.ndarray) -> bool:
    """Whether a node takes numbers out of a Softmax, or an ArgMax, by -infinity, and no more."""
    inside = node.op in ATTENTIONS or (node.op in MASKING and masks_alone(graph, node))
    return inside and bool(np.all(value < np.inf))


def _all_finite(values: np.ndarray) -> bool:
    """Whether none is NaN or infinite; a few at a time, so that it takes no memory to speak of."""
    flat = values.reshape(-1)
    pieces = range(0, flat.size, _LOOKED_AT_ONCE)
    return all(bool(np.all(np.isfinite(flat[at : at + _LOOKED_AT_ONCE]))) for at in pieces)
