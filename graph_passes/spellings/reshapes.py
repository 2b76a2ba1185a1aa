"""Reshapes to sizes that are computed from shapes."""

import math
from collections.abc import Collection, Container, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.editing import (
    Editor,
    known_value,
    optional_input,
    replace_node,
    require_opset,
    until_done,
)
from onnx2snn.graph_passes.graph.shapes import declared_shape, infer_shapes
from onnx2snn.graph_passes.graph.tidying import tidy
from onnx2snn.graph_passes.model_files.io import to_parts
from onnx2snn.graph_passes.model_files.limits import shapes_from_inputs

from .ceil_mode import end_pools_in_the_image
from .fold_constants import fold_constants


def fix_reshapes(graph: gs.Graph) -> bool:
    """Reshape(x, computed) -> Reshape(x, constant), with 0 and -1 for sizes that are open, as N is.

    Exporters write x.view(x.size(0), 2, x.size(1) // 2, ...) as arithmetic on Shape(x), which would
    run at every time-step. Left as it is where further sizes of the result are open, or one is 0.
    And Squeeze(x) -> Squeeze(x, axes of size 1), where of the others N alone is open: it would take
    the axis of the samples away, too, where there is one, and then has no known number of axes.
    Pools that are smaller than ONNX's shape inference says are brought to that size first
    (``end_pools_in_the_image``).
    """
    require_opset(graph)
    # Axes that a Squeeze has once a Reshape before it is constant.
    return until_done(_fix_once, graph)


def _fix_once(graph: gs.Graph) -> bool:
    changed = end_pools_in_the_image(graph)
    if until_done(_name_squeezed_axes, graph):
        infer_shapes(graph)
        changed = True
    while computed := [place for place, node in enumerate(graph.nodes) if _is_computed(node)]:
        if fold_constants(graph):
            changed = True
            continue
        found = _constant_sizes_of(graph, computed)
        if not found:
            break
        editor = Editor(graph)
        for place, sizes in found.items():
            node = graph.nodes[place]
            node.attrs.pop("allowzero", None)
            node.inputs[1] = editor.constant(f"{node.name}/shape", np.array(sizes, np.int64))
        tidy(graph)
        changed = True
    return changed


def _name_squeezed_axes(graph: gs.Graph) -> bool:
    squeezes = [node for node in graph.nodes if _squeezes_all(node)]
    if not squeezes:
        return False
    shapes, _ = _inferred(graph)
    batch = {f"{tensor.name}.0" for tensor in graph.inputs}
    changed, editor = False, Editor(graph)
    for node in squeezes:
        shape = shapes.get(node.inputs[0].name, ["?"])
        if all(isinstance(size, int) or size in batch for size in shape):
            axes = np.array([axis for axis, size in enumerate(shape) if size == 1], np.int64)
            named = [editor.constant(f"{node.name}/axes", axes)] if len(axes) else []
            replace_node(node, "Squeeze" if named else "Identity", [node.inputs[0], *named])
            changed = True
    return changed


def _squeezes_all(node: gs.Node) -> bool:
    """Whether it is a Squeeze that names no axes."""
    if node.op != "Squeeze" or node.domain:
        return False
    axes = optional_input(node, 1)
    # Given none, ONNX Runtime squeezes all, ONNX's shape inference nothing.
    named = None if axes is None else known_value(axes)
    return axes is None or (named is not None and named.size == 0)


def _constant_sizes_of(graph: gs.Graph, computed: Container[int]) -> dict[int, list[int]]:
    """What Reshapes may be given of which the sizes are computed, by the places of these nodes.

    Those with a -1 only where no more will be known of them once others are constant; if there are
    no such, the first one.
    """
    shapes, own = _inferred(graph)
    found, others = dict[int, list[int]](), dict[int, list[int]]()
    improving: set[str] = set()
    for place, node in enumerate(graph.nodes):
        behind = any(tensor.name in improving for tensor in node.inputs)
        if place in computed:
            before, after = (shapes.get(t.name) for t in (node.inputs[0], node.outputs[0]))
            sizes = _constant_sizes(before, after, own)
            if sizes is not None:
                (others if behind and -1 in sizes else found)[place] = sizes
            behind |= sizes is None or _becomes_known(before, sizes)
        if behind:
            improving.update(tensor.name for tensor in node.outputs)
    return found or dict(list(others.items())[:1])


def _becomes_known(before: Sequence[int | str] | None, sizes: Sequence[int]) -> bool:
    """Whether shape inference knows what a -1 is once sizes are constant.

    So it does where all of the shape before is known, but what a 0 stands for.
    """
    if before is None or -1 not in sizes:
        return False
    # Of these 0 is the first alone.
    rest = before[1:] if sizes[0] == 0 else before
    return all(isinstance(size, int) for size in rest)


def _inferred(graph: gs.Graph) -> tuple[dict[str, list[int | str]], set[str]]:
    """Shapes that follow from those of the inputs alone, by tensor, and names of open sizes.

    What a file says of other tensors may be wrong, or stem from before its batch size was freed,
    and names that it uses twice may mean two sizes: here each open size of an input has a name of
    its own.
    """
    model = to_parts(graph).structure
    own = set()
    for info in model.graph.input:
        for axis, size in enumerate(info.type.tensor_type.shape.dim):
            if not size.HasField("dim_value"):
                size.dim_param = f"{info.name}.{axis}"
                own.add(size.dim_param)
    shapes = {
        name: declared_shape(info.type.tensor_type)
        for name, info in shapes_from_inputs(model, "the model").items()
        if info.type.tensor_type.HasField("shape")
    }
    return shapes, own


def _constant_sizes(
    before: Sequence[int | str] | None, after: Sequence[int | str] | None, own: Collection[str]
) -> list[int] | None:
    """What a Reshape from one shape to another may be given; None if that is not constant.

    ``own``: names of open sizes, each of which is one size.
    """
    if not after or 0 in after:
        return None
    sizes = [size if isinstance(size, int) else -1 for size in after]
    if before and sizes[0] == -1:
        rows = [shape[1:] for shape in (before, after)]
        known = all(isinstance(size, int) for row in rows for size in row)
        equal = known and math.prod(rows[0]) == math.prod(rows[1])
        if equal or (before[0] == after[0] and after[0] in own):
            # -1 would not say that it is the same size, which what adds the two needs to know.
            sizes[0] = 0
    return sizes if sizes.count(-1) <= 1 else None


def _is_computed(node: gs.Node) -> bool:
    if node.op != "Reshape" or node.domain or len(node.inputs) < 2:
        return False
    return not isinstance(node.inputs[1], gs.Constant)
