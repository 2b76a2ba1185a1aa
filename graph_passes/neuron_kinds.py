"""Let neurons be of another kind than integrate-and-fire with reset by subtraction."""

import numpy as np
import onnx_graphsurgeon as gs

from .errors import DataError, ModelError, is_number, require_whole
from .graph import neurons
from .graph.states import StateEditor, clock
from .graph.tidying import tidy

MOST_SPIKES = 127
"""Of a neuron in one time-step: corrections count them in 8 bits."""


def change_neurons(
    graph: gs.Graph,
    op: str,
    *,
    negative: float = -1.0,
    max_spikes: int = 5,
    delay: int = 1,
) -> bool:
    """IF(current, v) -> another kind of neuron, V_th and v(0) as they were.

    ``op``: IF, ResetToZeroIF, SignedIF, BurstIF, SignedBurstIF, ResidualIF or OffsetIF.
    ``negative``: below which fraction of V_th a SignedIF takes a spike back: -1 in Wang et al.
    (IJCAI 2022); 0 follows (v(0) + sum of currents) / V_th as closely as one spike a time-step
    can. ``max_spikes``: of a BurstIF, or a SignedBurstIF, in one time-step. ``delay``: after how
    many time-steps a ResidualIF or OffsetIF starts again. Neurons that are of this kind already
    take the settings. Raises ``ModelError`` for an unknown ``op`` and for neurons of a third kind,
    and ``DataError`` for settings that make no sense; the graph is then as it was.
    """
    require_kind(op, negative, max_spikes)
    delay = require_whole("delay", delay, 0, neurons.MOST_COUNTED)
    nodes = neurons.neuron_nodes(graph)
    for node in nodes:
        if node.op not in ("IF", op):
            raise ModelError(f"{node.op} '{node.name}' is no IF that could become a {op}")
    settings = {
        node.name: _settings(node, op, negative=negative, max_spikes=max_spikes, delay=delay)
        for node in nodes
    }
    changed, editor = False, StateEditor(graph)
    for node in nodes:
        for name, value in settings[node.name].items():
            if name not in node.attrs or not np.array_equal(node.attrs[name].values, value):
                node.attrs[name] = neurons.attribute_tensor(value)
                changed = True
        if node.op == op:
            continue
        rank, dtype = len(neurons.states_read(node)[0].shape), neurons.threshold_of(node).dtype
        _without_states(graph, node)
        node.op = op
        if neurons.inputs_of(op) > 1 + len(neurons.state_names(op, node.name)):
            node.inputs.append(clock(editor))
        neurons.add_state(graph, node, rank, dtype)
        changed = True
    if changed:
        tidy(graph)
    return changed


def require_kind(op: str, negative: float, max_spikes: int) -> None:
    """Raise as ``change_neurons`` where there is no such kind of neurons."""
    if not isinstance(op, str) or op not in neurons.NEURONS:
        raise ModelError(f"there is no neuron {op!r}, only {', '.join(sorted(neurons.NEURONS))}")
    require_whole("max_spikes", max_spikes, 1, MOST_SPIKES)
    if not is_number(negative) or negative > 0:
        raise DataError(f"a spike is taken back below 0 or less of V_th, not {negative}")


def _settings(
    node: gs.Node, op: str, *, negative: float, max_spikes: int, delay: int
) -> dict[str, np.ndarray]:
    """The attributes that a neuron is to have besides V_th and v(0), in its type.

    Raises ``DataError`` for a threshold that is not finite in it.
    """
    threshold = neurons.threshold_of(node)
    with np.errstate(over="ignore"):
        v_negative = np.asarray(negative * threshold, threshold.dtype)
    settings = {
        "v_negative": v_negative,
        "max_spikes": np.asarray(max_spikes, threshold.dtype),
        "delay": np.asarray(delay, np.float32),
    }
    found = {name: settings[name] for name in settings if name in neurons.attribute_names_of(op)}
    if "v_negative" in found and not np.all(np.isfinite(v_negative)):
        raise DataError(
            f"{node.op} '{node.name}': its V_th times {negative} is beyond what {threshold.dtype} "
            "holds"
        )
    return found


def _without_states(graph: gs.Graph, node: gs.Node) -> None:
    gone = {name for pair in neurons.state_names(node.op, node.name) for name in pair}
    node.inputs = node.inputs[:1]
    node.outputs = node.outputs[:1]
    graph.inputs = [tensor for tensor in graph.inputs if tensor.name not in gone]
    graph.outputs = [tensor for tensor in graph.outputs if tensor.name not in gone]
