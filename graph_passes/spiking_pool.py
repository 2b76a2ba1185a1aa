"""Give max-pooling and thresholds between neurons a form that counts spikes."""

import numpy as np
import onnx_graphsurgeon as gs

from .errors import Refusal, UnsupportedModelError
from .graph import neurons
from .graph.editing import constant_value, is_used, replace_node
from .graph.operators import MAX_POOLS
from .graph.regions import behind_nonlinear, downstream, downstream_of
from .graph.shapes import require_ranks
from .graph.states import StateEditor, clock
from .graph.tidying import tidy
from .graph.windows import is_dilated, lowest_padding, pads_itself, pads_of_window


def max_to_spiking_pool(graph: gs.Graph) -> bool:
    """MaxPool -> SpikingMaxPool, GlobalMaxPool -> SpikingGlobalMaxPool, after neurons.

        S(t) = S(t - 1) + x(t),   out(t) = max_pool(S(t)) - max_pool(S(t - 1))

    The outputs add up to the maximum of the inputs' sums, so the mean over time is that of
    max-pooling the rates, for any window, stride and padding. Run it after
    ``activations_to_neurons``. Pools that no spikes reach stay. Raises ``UnsupportedModelError``
    for a pool whose indices are used, whose padding depends on the size of an image that is not
    fixed, that is dilated and padded automatically, that reads a Pad of -infinity, or whose number
    of axes is not known.
    """
    nodes = [node for node in _reached(graph) if node.op in MAX_POOLS]
    require_ranks(graph, nodes)
    refusals = [Refusal(n.name, n.op, why) for n in nodes if (why := why_not_counting(graph, n))]
    if refusals:
        raise UnsupportedModelError("these pools cannot count spikes:", refusals)
    editor = StateEditor(graph)
    for node in nodes:
        attributes = _attributes(node) if node.op == "MaxPool" else {}
        _to_stateful(editor, node, f"Spiking{node.op}", [node.inputs[0]], attributes)
    tidy(graph)
    return bool(nodes)


def thresholds_to_spiking(graph: gs.Graph) -> bool:
    """ThresholdedRelu -> SpikingThreshold, after neurons.

        S(t) = S(t - 1) + x(t),   out(t) = f(S(t), t) - f(S(t - 1), t - 1)

    with f(S, t) = S where S > alpha t, else 0: the outputs add up to the inputs' sum where
    their mean is above alpha, and to 0 elsewhere. Raises ``UnsupportedModelError`` for one whose
    number of axes is not known.
    """
    nodes = [node for node in _reached(graph) if node.op == "ThresholdedRelu"]
    require_ranks(graph, nodes)
    editor = StateEditor(graph)
    for node in nodes:
        alpha = np.asarray(node.attrs.get("alpha", 1.0), node.inputs[0].dtype)
        inputs = [node.inputs[0], clock(editor)]
        attributes = {"alpha": neurons.attribute_tensor(alpha)}
        _to_stateful(editor, node, "SpikingThreshold", inputs, attributes)
    tidy(graph)
    return bool(nodes)


def _reached(graph: gs.Graph) -> list[gs.Node]:
    """The standard nodes whose first input spikes reach, but for those of the read-out.

    What is behind a Softmax there counts no spikes: it is computed on the mean over time, as is
    what is behind such a mean already.
    """
    spikes = downstream(graph, [node.outputs[0] for node in neurons.stateful_nodes(graph)])
    spikes -= behind_nonlinear(graph) | downstream_of(graph, neurons.mean_nodes(graph))
    return [
        node
        for node in graph.nodes
        if not node.domain and node.inputs and node.inputs[0].name in spikes
    ]


def _to_stateful(
    editor: StateEditor, node: gs.Node, op: str, inputs: list[gs.Tensor], attributes: dict
) -> None:
    editor.settle(node)
    dtype = neurons.sum_type(np.dtype(node.inputs[0].dtype))
    replace_node(node, op, inputs, attributes, neurons.DOMAIN)
    node.outputs = node.outputs[:1]
    neurons.add_state(editor.graph, node, len(node.outputs[0].shape), dtype)


def why_not_counting(graph: gs.Graph, node: gs.Node) -> str | None:
    """Why a max-pool cannot count spikes; None if it can."""
    if any(is_used(graph, tensor) for tensor in node.outputs[1:]):
        return "its second output, the indices, is used; spikes have no such thing"
    if pads_itself(node) and is_dilated(node):
        return "it is dilated and padded automatically, of which runtimes disagree"
    if node.op == "MaxPool" and _padding(node) is None:
        return (
            f"its padding, auto_pad {node.attrs['auto_pad']}, depends on the size of the image: "
            "export the network with a fixed image size, or take averages (--maxpool average)"
        )
    if lowest := lowest_padding(node):
        (pad,) = node.inputs[0].inputs
        if constant_value(pad.inputs[1]) is None:
            return (
                f"it is padded with {lowest} by sizes that are computed: declare the sizes of the "
                "model's inputs"
            )
        larger = ", larger than its window" if lowest == "-infinity" else ""
        return f"it is padded with {lowest} by a Pad of its own{larger}"
    return None


def _attributes(node: gs.Node) -> dict:
    """All attributes of a MaxPool, none left to its default."""
    kernel = node.attrs["kernel_shape"]
    ones = [1] * len(kernel)
    pads, ceil_mode = _padding(node) or ([], 0)
    return {
        "kernel_shape": kernel,
        "strides": node.attrs.get("strides", ones),
        "pads": pads,
        "dilations": node.attrs.get("dilations", ones),
        "ceil_mode": ceil_mode,
    }


def _padding(node: gs.Node) -> tuple[list[int], int] | None:
    """The pads of a MaxPool, begins then ends, and its ceil_mode; None if they follow from sizes.

    From sizes, that is, which are open. Those of windows of 2 in steps of 2 do not: they are one
    place at the end of odd sizes, as ceil_mode has it.
    """
    kernel = node.attrs["kernel_shape"]
    twos = {*kernel, *node.attrs.get("strides", [1])} == {2} and not is_dilated(node)
    if twos and node.attrs.get("auto_pad") == "SAME_UPPER":
        return [0] * 2 * len(kernel), 1
    pads, ceil_mode = pads_of_window(node, kernel), node.attrs.get("ceil_mode", 0)
    return None if pads is None else ([max(pad, 0) for pad in pads], ceil_mode)
