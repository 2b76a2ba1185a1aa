"""What nodes make of given numbers, computed now."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.quiet import quietly


def computed(
    nodes: Sequence[gs.Node], known: Mapping[str, np.ndarray], opset: int
) -> np.ndarray | None:
    """What the last of these nodes makes, float64; None if it cannot be computed.

    ``known``: the values of what they read, by name, those of constants too; others are left out.
    """
    made: dict[str, gs.Tensor] = {name: gs.Constant(name, v) for name, v in known.items()}
    copies = []
    for node in nodes:
        inputs = [made.get(tensor.name, gs.Variable.empty()) for tensor in node.inputs]
        result = gs.Variable(node.outputs[0].name)
        copies.append(gs.Node(node.op, node.name, dict(node.attrs), inputs, [result]))
        made[result.name] = result
    part = gs.Graph(copies, [], [result], opset=opset)
    with quietly():
        part.fold_constants(fold_shapes=False)
    (output,) = part.outputs
    return np.asarray(output.values, np.float64) if isinstance(output, gs.Constant) else None
