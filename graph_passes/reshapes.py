"""Reshapes to sizes that are computed from shapes."""

import math
from collections.abc import Collection, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from .editing import Editor, tidy
from .io import infer_shapes


def fix_reshapes(graph: gs.Graph) -> bool:
    """Reshape(x, computed) -> Reshape(x, constant), with 0 and -1 for sizes that are open, as N is.

    Exporters write x.view(x.size(0), 2, x.size(1) // 2, ...) as arithmetic on Shape(x), which would
    run at every time-step. Left as it is where further sizes of the result are open, or one is 0.
    """
    computed = [node for node in graph.nodes if _is_computed(node)]
    if not computed:
        return False
    infer_shapes(graph)
    own = {size for tensor in graph.inputs for size in tensor.shape or () if isinstance(size, str)}
    editor, changed = Editor(graph), False
    for node in computed:
        sizes = _constant_sizes(node.inputs[0].shape, node.outputs[0].shape, own)
        if sizes is not None:
            node.attrs.pop("allowzero", None)
            node.inputs[1] = editor.constant(f"{node.name}/shape", np.array(sizes, np.int64))
            changed = True
    if changed:
        tidy(graph)
    return changed


def _constant_sizes(
    before: Sequence[int | str] | None, after: Sequence[int | str] | None, own: Collection[str]
) -> list[int] | None:
    """What a Reshape from one shape to another may be given; None if that is not constant.

    ``own``: names of open sizes that mean the same everywhere.
    """
    if not after or 0 in after:
        return None
    sizes = [size if isinstance(size, int) else -1 for size in after]
    if before and sizes[0] == -1:
        rows = [shape[1:] for shape in (before, after)]
        known = all(isinstance(size, int) for row in rows for size in row)
        if (known and math.prod(rows[0]) == math.prod(rows[1])) or before[0] == after[0] in own:
            # -1 would not say that it is the same size, which what adds the two needs to know.
            sizes[0] = 0
    return sizes if sizes.count(-1) <= 1 else None


def _is_computed(node: gs.Node) -> bool:
    if node.op != "Reshape" or node.domain or len(node.inputs) < 2:
        return False
    return not isinstance(node.inputs[1], gs.Constant)
