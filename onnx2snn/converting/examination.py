"""What conversion asks of a graph: whether it is an ANN, what stayed as it was, what loads."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx2snn.ann import require_no_neurons
from onnx2snn.graph_passes import (
    MissingThresholdError,
    ModelError,
    Refusal,
    UnsupportedModelError,
    neuron_nodes,
    stateful_nodes,
    unbounded_activations,
)
from onnx2snn.graph_passes.graph.activations import activation_nodes, kept_activations
from onnx2snn.graph_passes.graph.editing import (
    is_floating,
    known_value,
    part_of,
    producer,
    subgraphs_of,
)
from onnx2snn.graph_passes.graph.neurons import is_stateful, mean_nodes, states_read
from onnx2snn.graph_passes.graph.obstacles import obstacles
from onnx2snn.graph_passes.graph.operators import ACTIVATIONS, MAX_POOLS, RECURRENT, MaxPool
from onnx2snn.graph_passes.graph.regions import before_weights, downstream, nonlinear_behind_weights
from onnx2snn.graph_passes.graph.scalar_regions import regions_to_approximate
from onnx2snn.graph_passes.model_files.io import to_parts
from onnx2snn.graph_passes.model_files.weights import ModelParts
from onnx2snn.graph_passes.on_means import nodes_on_means
from onnx2snn.graph_passes.spellings.fold_constants import RANDOM_OPS
from onnx2snn.runtime.providers import CPU
from onnx2snn.runtime.sessions import ONCE, create_session


def require_loadable(ann: ModelParts, graph: gs.Graph) -> None:
    """Raise ``ModelError`` if ONNX Runtime cannot load a spiking network made from an ANN.

    The ANN in its last form, and one stateful operator of each kind and type in the spiking
    graph, are loaded, which is as good: ONNX Runtime's time for functions is quadratic in their
    number.
    """
    try:
        for model in (ann, *_one_of_each_kind(graph)):
            create_session(model, [CPU], use=ONCE)
    except ModelError as error:
        raise ModelError(f"the converted network cannot run: {error}") from error


def _one_of_each_kind(graph: gs.Graph) -> list[ModelParts]:
    """A model of one node for each kind of stateful operator in a graph."""
    kinds = {
        (node.op, str(node.inputs[0].dtype), len(states_read(node)[0].shape)): node
        for node in stateful_nodes(graph)
    }
    return [to_parts(part_of(graph, [n], n.inputs, n.outputs)) for n in kinds.values()]


def _kept_max_pools(graph: gs.Graph) -> list[gs.Node]:
    """The max-pools that spikes reach and that do not count them."""
    spikes = downstream(graph, [node.outputs[0] for node in neuron_nodes(graph)])
    spikes -= downstream(graph, [node.outputs[0] for node in mean_nodes(graph)])
    return [node for node in graph.nodes if node.op in MAX_POOLS and node.inputs[0].name in spikes]


def notes_on_spikes(graph: gs.Graph, maxpool: MaxPool) -> list[str]:
    """What a user should know of a spiking network where not all between neurons is spikes."""
    notes = []
    if maxpool == "keep" and _kept_max_pools(graph):
        notes.append(
            "max-pooling is kept between spikes, where it fires when any input does: "
            "accuracy falls as T grows; take --maxpool exact for results that can be used"
        )
    averaged = Counter(node.op for node in nodes_on_means(graph))
    if averaged:
        counted = ", ".join(f"{count} {op}" for op, count in averaged.items())
        notes.append(
            f"computed on running means, at each time-step: {counted}; what these hand on are "
            "numbers of any size, not spikes"
        )
    return notes


def require_ann(graph: gs.Graph) -> None:
    """Refuse what is no ANN: spiking networks, models without inputs or of other things."""
    require_no_neurons(graph.nodes)
    if not graph.inputs or not graph.outputs:
        raise ModelError("the model has no inputs or no outputs: it computes a constant")
    for tensor in graph.inputs:
        dtype = tensor.dtype
        if isinstance(dtype, int) and dtype in onnx.TensorProto.DataType.values()[1:]:
            # NumPy has no such type.
            kind = onnx.TensorProto.DataType.Name(dtype).lower()
            raise ModelError(
                f"the model's input '{tensor.name}' is of the type {kind}: export the network in "
                "float32"
            )
        unknown = hasattr(tensor, "sequence") or dtype is None or isinstance(dtype, int)
        if unknown or np.dtype(dtype).kind not in "fiub":
            raise ModelError(f"the model's input '{tensor.name}' is no tensor of numbers")
    for tensor in graph.outputs:
        if hasattr(tensor, "sequence"):
            raise ModelError(
                f"the model's output '{tensor.name}' is a sequence, which has no mean over time: "
                "export the network with a tensor for each of what it holds, or without it"
            )
    _require_any_processor(graph)
    _require_no_qonnx(graph)
    computed = downstream(graph, graph.inputs)
    trained = [(n, reason) for n in graph.nodes if (reason := _why_in_training(n, computed))]
    if trained:
        raise UnsupportedModelError(
            "these nodes compute what they do in training, or draw random numbers; export the "
            "network in evaluation mode, without what it samples (of a VAE the path of the means):",
            [Refusal(node.name, node.op, reason) for node, reason in trained],
        )


def _require_any_processor(graph: gs.Graph) -> None:
    """Refuse what ONNX Runtime has laid out in blocks, as the processor that it ran on wants it."""
    blocked = [
        node
        for node in graph.nodes
        if node.domain == "com.microsoft.nchwc"
        or node.op == "NhwcMaxPool"
        or (node.domain == "com.microsoft" and node.attrs.get("channels_last", 0))
    ]
    if blocked:
        raise ModelError(
            f"ONNX Runtime laid out {len(blocked)} nodes, of which {blocked[0].op} "
            f"'{blocked[0].name}' is the first, for the processor that it ran on: convert the file "
            "that it read, or let it save its own with ORT_ENABLE_EXTENDED as the level of "
            "optimisation"
        )


def _require_no_qonnx(graph: gs.Graph) -> None:
    """Refuse quantisers that ONNX Runtime does not know, which has others for the same."""
    quantisers = [node for node in graph.nodes if (node.domain or "").startswith("qonnx.")]
    if quantisers:
        raise ModelError(
            f"{quantisers[0].op} '{quantisers[0].name}' is QONNX, which ONNX Runtime does not run: "
            "export the network with Brevitas's export_onnx_qcdq, or rewrite the file with the "
            "package qonnx, by its QuantToQCDQ"
        )


def _why_in_training(node: gs.Node, computed: set[str]) -> str | None:
    """Why a node does what it does in training; ``computed``: what depends on an input."""
    if node.domain:
        return None
    if node.op == "BatchNormalization" and node.attrs.get("training_mode", 0):
        if node.inputs[0].name in computed:
            return "it takes mean and variance from the batch"
        # Weights are standardised so.
        shared = any(len(tensor.outputs) > 1 for tensor in node.inputs[3:5])
        return "ONNX Runtime overwrites mean and variance, which are read twice" if shared else None
    if node.op == "Dropout":
        given = dict(zip(("ratio", "training"), map(known_value, node.inputs[1:]), strict=False))
        ratio, training = given.get("ratio"), given.get("training")
        never = ratio is not None and not np.any(ratio)
        return None if never or training is None or not np.any(training) else "it is random"
    return "it is random" if node.op in RANDOM_OPS else None


def require_bounds(graph: gs.Graph, recipe: str) -> None:
    """Refuse unbounded activations, for a recipe whose thresholds are trained bounds only."""
    unbounded = unbounded_activations(graph)
    if unbounded:
        raise MissingThresholdError(
            f"the recipe '{recipe}' takes thresholds from trained clips, which these are not; "
            "train the network with clips, or take another recipe:",
            [Refusal(node.name, node.op, "no upper bound") for node in unbounded],
        )


IN_QUANTISATION = "into which quantisation folds them: convert it before that"
"""Where activations are, and what to do."""


def hides_in_quantisation(graph: gs.Graph, unquantised: bool) -> bool:
    """Whether activations, where none are found, are in the rounding of quantised layers.

    ``unquantised``: whether quantisation was left out of the graph.
    """
    # That of an input, which nothing makes, has no activation in it.
    return unquantised or any(
        node.op == "QLinearConv"
        or (node.op == "QuantizeLinear" and producer(node.inputs[0]) is not None)
        for node in graph.nodes
    )


def require_activations(
    graph: gs.Graph, maxpool: MaxPool, on_means: bool, unquantised: bool, pools: list[Refusal]
) -> None:
    """Refuse a network none of whose activations became a neuron, with what it has instead.

    ``on_means``: as of ``convert``. ``unquantised``: whether quantisation was left out of it.
    ``pools``: its ``hidden_pools``.
    """
    if neuron_nodes(graph):
        return
    found = other_activations(graph, unquantised, pools)
    has = "these activations:" if found else "no activations"
    options = options_to_approximate(graph, maxpool, on_means)
    if options:
        has = (
            "these activations; clips can stand in for those before the last layer (convert "
            f"{options} --calibration DATA):"
        )
        found = analog_activations(graph)
    elif hides_in_quantisation(graph, unquantised and not found):
        has = f"QuantizeLinear, {IN_QUANTISATION}"
    raise UnsupportedModelError(
        "the model has no ReLU, and no clip to a positive constant, that could become "
        f"a spiking neuron; it has {has}",
        found,
    )


def options_to_approximate(graph: gs.Graph, maxpool: MaxPool, on_means: bool) -> str:
    """The options, the fewest, by which clips stand in for curves and nothing is in the way.

    Empty where there are no curves, or something is. ``on_means``: as of ``convert``.
    """
    if not regions_to_approximate(graph):
        return ""
    for way in dict.fromkeys((on_means, True)):
        if not obstacles(graph, maxpool, approximated=True, on_means=way):
            return f"{'--on-means ' * way}--approximate N"
    return ""


def require_sizes(nodes: Iterable[gs.Node]) -> None:
    """Refuse layers of no neurons, as where an image is smaller than a kernel."""
    shapes = [(node, node.outputs[0].shape[1:]) for node in nodes]
    empty = [
        Refusal(node.name, node.op, f"its shape is {'x'.join(map(str, shape))}")
        for node, shape in shapes
        if 0 in shape
    ]
    if empty:
        raise UnsupportedModelError("these layers would hold no neurons:", empty)


IN_INPUT = "it prepares the input: what reads it is not linear, before all layers of weights"
"""Why a ReLU or clip becomes no neuron."""

IN_READ_OUT = (
    "in the read-out, behind a node that is not linear: after all layers of weights, or to keep "
    "an operand from 0"
)
"""Why another does not."""

IN_DIVISOR = "nothing but a divisor is made of it"
"""Why a third does not."""

BEHIND_NEURONS = "in the read-out, behind the last neurons"
"""Why nothing else does there, whatever layers follow."""

IN_CONTROL_FLOW = (
    "activations within control flow become no neurons: export the network without it, for the one "
    "case that is wanted"
)
"""What is said of an If or a Loop outside of which it has none, or that is before the neurons."""


def analog_activations(graph: gs.Graph) -> list[Refusal]:
    """The activations that did not become neurons.

    Such are those before the first neuron that are no ReLU or clip, with recurrent layers and all
    else that is not affine there between layers of weights, and the same behind the last neurons:
    of the read-out its ReLUs and clips, what is not affine before further layers of weights, and
    recurrent layers.
    """
    reason = "not a ReLU or a clip, and before the first neuron"
    emitting = [*activation_nodes(graph), *neuron_nodes(graph)]
    spiking = downstream(graph, [node.outputs[0] for node in emitting])
    regions = [r for r in regions_to_approximate(graph) if r.source.name not in spiking]
    stay = kept_activations(graph)
    first, last = stay.input, stay.read_out
    divisors = [
        node for node in stay.divisors if not any(tensor.name in spiking for tensor in node.inputs)
    ]
    averaged = nodes_on_means(graph)
    known = (emitting, first, last, divisors, averaged, *(region.nodes for region in regions))
    inside = {node.name for found in known for node in found}
    hidden = before_weights(graph)
    nonlinear = {r.node for r in nonlinear_behind_weights(graph, is_stateful, MAX_POOLS)}
    others, late = list[gs.Node](), list[gs.Node]()
    for node in graph.nodes:
        # Of a recurrent layer the first output may be left out.
        values = is_floating(node.outputs[0]) or node.op in ("Cast", *RECURRENT)
        if node.name in inside or not values:
            continue
        spiked = any(tensor.name in spiking for tensor in node.inputs)
        between = node.name in nonlinear and node.outputs[0].name in hidden
        if spiked and (between or node.op in RECURRENT):
            late.append(node)
        elif not spiked and (between or _is_activation(node) or _holds_activations(node)):
            others.append(node)
    before = {found.name: Refusal(found.name, found.op, reason) for found in regions}
    before |= {
        node.name: Refusal(
            node.name, node.op, IN_CONTROL_FLOW if _holds_activations(node) else reason
        )
        for node in others
    }
    before |= {node.name: Refusal(node.name, node.op, IN_DIVISOR) for node in divisors}
    before |= {node.name: Refusal(node.name, node.op, IN_INPUT) for node in first}
    behind = {node.name: Refusal(node.name, node.op, BEHIND_NEURONS) for node in late}
    behind |= {node.name: Refusal(node.name, node.op, IN_READ_OUT) for node in last}
    return [kept[n.name] for kept in (before, behind) for n in graph.nodes if n.name in kept]


def _is_activation(node: gs.Node) -> bool:
    return node.op in (*ACTIVATIONS, *RECURRENT)


def _holds_activations(node: gs.Node) -> bool:
    """Whether there are activations, or recurrent layers, in its branches."""
    inner = (other for subgraph in subgraphs_of(node) for other in subgraph.nodes)
    return any(_is_activation(other) or _holds_activations(other) for other in inner)


def other_activations(graph: gs.Graph, unquantised: bool, pools: list[Refusal]) -> list[Refusal]:
    """What a network without neurons has in their place.

    ``unquantised`` and ``pools``: as for ``require_activations``. Pools are nothing that is missing
    where activations hide in quantisation.
    """
    found = [*analog_activations(graph), *_integer_activations(graph)]
    hidden = hides_in_quantisation(graph, unquantised and not found)
    return found if hidden else [*found, *pools]


def hidden_pools(graph: gs.Graph) -> list[Refusal]:
    """The max-pools before layers of weights: all that is not linear where nothing else is."""
    reason = (
        "a pool makes no spikes of its own: behind a ReLU it counts them, and as the maximum of "
        "tensors (torch.maximum) it becomes neurons"
    )
    hidden = before_weights(graph)
    pools = [n for n in graph.nodes if n.op in MAX_POOLS and n.outputs[0].name in hidden]
    return [Refusal(node.name, node.op, reason) for node in pools]


def _integer_activations(graph: gs.Graph) -> list[Refusal]:
    """The ReLUs and bounds of whole numbers that depend on an input."""
    computed = downstream(graph, graph.inputs)
    found = [
        (node, np.dtype(node.inputs[0].dtype))
        for node in graph.nodes
        if node.op in ("Clip", "Max", "Min", "Relu")
        and node.outputs[0].name in computed
        and not isinstance(node.inputs[0].dtype, int | None)
    ]
    return [
        Refusal(node.name, node.op, f"it is on integers ({dtype}): cast to float32 before it")
        for node, dtype in found
        if dtype.kind in "iu"
    ]
