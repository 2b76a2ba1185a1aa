"""The shapes and types of a graph's tensors."""

from collections.abc import Callable, Iterable

import onnx
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.errors import Refusal, UnsupportedModelError
from onnx2snn.graph_passes.model_files.io import to_parts
from onnx2snn.graph_passes.model_files.limits import with_shapes

from .editing import free_name, is_used
from .neurons import inputs_besides_states
from .regions import upstream


def declared_shape(kind: onnx.TypeProto.Tensor) -> list[int | str]:
    """A shape with an int for each fixed size, else its name, or "?" where it has none."""
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in kind.shape.dim]


def infer_shapes(graph: gs.Graph) -> None:
    """Set the shape and dtype of every tensor that ONNX's shape inference can tell.

    A dimension is an int, or a string where it is symbolic. What was known before and
    cannot be inferred anew stays. Raises ``DataError`` for what is no graph, and ``ModelError``
    where shapes contradict each other.
    """
    # Without value_info, so that shapes from before a rewrite do not contradict it.
    model = to_parts(graph).structure
    del model.graph.value_info[:]
    inferred = with_shapes(model, "the model")
    tensors = graph.tensors()
    names = _names_of_sizes(graph, tensors.values())
    # Not those of states, which may be less than what they are added to.
    shown = inputs_besides_states(graph)
    of_inputs = {size for t in shown for size in t.shape or () if isinstance(size, str)}
    for info in (*inferred.graph.value_info, *inferred.graph.output):
        tensor, kind = tensors.get(info.name), info.type.tensor_type
        if not isinstance(tensor, gs.Variable):
            continue
        if kind.elem_type:
            tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if kind.HasField("shape"):
            shape = [names.get(size, size) for size in declared_shape(kind)]
            if tensor.shape is not None and len(tensor.shape) == len(shape):
                pairs = zip(shape, tensor.shape, strict=True)
                # What follows from an input's open size is as open, whatever it was declared as.
                shape = [
                    old if isinstance(new, str) and new not in of_inputs else new
                    for new, old in pairs
                ]
            tensor.shape = shape


def _names_of_sizes(graph: gs.Graph, tensors: Iterable[gs.Tensor]) -> dict[int | str, str]:
    """Other names for those that onnx makes of numbers, where the graph has them already.

    It counts anew each time, and to ONNX Runtime what has one name is one size.
    """
    declared = {size for tensor in graph.inputs for size in tensor.shape or ()}
    taken = {size for tensor in tensors for size in tensor.shape or () if isinstance(size, str)}
    names, numbers = dict[int | str, str](), dict[str, int]()
    for size in sorted(taken - declared):
        if size.startswith("unk__"):
            names[size] = free_name(size, taken, numbers)
            taken.add(names[size])
    return names


def is_fixed(shape: list[int | str] | None) -> bool:
    """Whether the shape of a sample is known, and the same for each."""
    return shape is not None and all(isinstance(size, int) for size in shape[1:])


def require_ranks(graph: gs.Graph, nodes: list[gs.Node]) -> None:
    """Raise ``UnsupportedModelError`` where the number of axes of an output is unknown."""
    require_shapes(
        graph,
        nodes,
        lambda shape: shape is not None,
        "the number of axes of these tensors cannot be inferred:",
        "declare the shape of the model's input; operators before it that ONNX has no shape "
        "inference for, such as custom ones, also hide it",
    )


def require_shapes(
    graph: gs.Graph,
    nodes: list[gs.Node],
    is_known: Callable[[list[int | str] | None], bool],
    heading: str,
    reason: str,
) -> None:
    """Raise ``UnsupportedModelError`` where the shape of an output cannot be inferred either."""

    def all_known(node: gs.Node) -> bool:
        return all(is_known(tensor.shape) for tensor in node.outputs if is_used(graph, tensor))

    if not all(map(all_known, nodes)):
        infer_shapes(graph)
    refusals = [
        Refusal(node.name, node.op, f"{reason}{_hidden_by(graph, node)}")
        for node in nodes
        if not all_known(node)
    ]
    if refusals:
        raise UnsupportedModelError(heading, refusals)


def _hidden_by(graph: gs.Graph, node: gs.Node) -> str:
    """Which node before it makes a tensor of unknown shape of known ones, as a reason goes on."""
    before = upstream(graph, [node])
    for maker in graph.nodes:
        hides = any(made.shape is None and made.name in before for made in maker.outputs)
        if hides and all(read.shape is not None for read in maker.inputs if not read.is_empty()):
            return f" (here {maker.op} '{maker.name}')"
    return ""
