"""Average over time before a read-out that is not affine."""

import numpy as np
import onnx_graphsurgeon as gs

from .errors import Refusal, UnsupportedModelError, require_whole
from .graph import neurons
from .graph.editing import is_floating, operands, replace_uses
from .graph.regions import downstream, made_by, nonlinear_nodes, regions
from .graph.shapes import require_ranks
from .graph.states import StateEditor, add_counting, clock
from .graph.tidying import tidy


def average_before_read_out(graph: gs.Graph) -> bool:
    """f(x) -> f(RunningMean(x)), for f that is not affine and comes after the last neuron.

        RunningMean: S(t) = S(t - 1) + x(t),  mean = S(t) / t

    A Softmax of one time-step's spikes is not the Softmax of their rates. What comes after
    a RunningMean is the read-out of all time-steps so far, not that of one; so is what takes
    only the shape of f(x), since a runtime has that no sooner. Run it after
    the passes that make neurons and pools. Raises ``ModelError`` for an opset older than 17, and
    ``UnsupportedModelError`` for a read-out that it cannot average.
    """
    neurons.require_neuron_opset(graph)
    read_out = {node.name for node in regions(graph).epilogue}
    starts = {refusal.node for refusal in nonlinear_nodes(graph)} & read_out
    ends = [t for n in graph.nodes if n.name in starts for t in n.outputs]
    behind = downstream(graph, ends, shapes=True)
    behind -= made_by(neurons.stateful_nodes(graph))
    averaged = downstream(graph, graph.inputs) - behind
    readers = [
        node
        for node in graph.nodes
        if any(t.name in behind for t in node.outputs) and not neurons.is_stateful(node)
    ]
    wanted = {
        tensor.name: tensor
        for node in readers
        for tensor in operands(node)
        if tensor.name in averaged and is_floating(tensor)
        if not any(map(neurons.is_mean, tensor.inputs))
    }
    captured = {
        n.name: n for n in readers for t in operands(n)[len(n.inputs) :] if t.name in wanted
    }
    if captured:
        reason = (
            "its branches read activations, whose average over time they cannot be given: export "
            "the network without it"
        )
        raise UnsupportedModelError(
            "these nodes cannot be part of a read-out:",
            [Refusal(node.name, node.op, reason) for node in captured.values()],
        )
    makers = [t.inputs[0] for t in wanted.values() if t.inputs]
    require_ranks(graph, makers)
    editor = StateEditor(graph)
    means = {
        name: gs.Variable(editor.name(f"{name}/mean"), tensor.dtype, tensor.shape)
        for name, tensor in wanted.items()
    }
    for node in readers:
        node.inputs = [means.get(tensor.name, tensor) for tensor in node.inputs]
    for name, mean in means.items():
        add_counting(editor, "RunningMean", mean.name, [wanted[name], clock(editor)], mean)
    tidy(graph)
    return bool(wanted)


def delay_read_out(graph: gs.Graph, delay: int) -> bool:
    """Replace each output y, and each average, by DelayedMean(y): it begins after ``delay`` steps.

        DelayedMean: S(t) = S(t - 1) + y(t), S(delay) = 0,  mean = S(t) / (t - delay)

    The delayed evaluation of Hwang et al. (2021): the first spikes of a network come before
    those of deep layers have settled. Up to ``delay``, the mean is that of all time-steps so
    far. Run it after ``average_before_read_out``. Raises ``DataError`` for a
    delay that is no whole number from 0 to 2^24, and ``ModelError`` for an opset older than 17.
    """
    delay = require_whole("delay", delay, 0, neurons.MOST_COUNTED)
    neurons.require_neuron_opset(graph)
    length = neurons.attribute_tensor(np.asarray(delay, np.float32))
    means = neurons.mean_nodes(graph)
    begun = [n for n in means if "delay" not in n.attrs or n.attrs["delay"].values != delay]
    averaged = downstream(graph, [node.outputs[0] for node in means])
    states = neurons.names_of_states(graph)
    # An output of shapes alone is the same at all time-steps.
    wanted = downstream(graph, graph.inputs) - averaged - states
    # Each once, also where a model has an output twice.
    outputs = {t.name: t for t in graph.outputs if t.name in wanted}.values()
    fresh = [t for t in outputs if t.inputs and is_floating(t)]
    require_ranks(graph, [t.inputs[0] for t in fresh])
    for node in means:
        node.op, node.attrs["delay"] = "DelayedMean", length
    editor = StateEditor(graph)
    for tensor in fresh:
        source = gs.Variable(editor.name(f"{tensor.name}/now"), tensor.dtype, tensor.shape)
        maker = tensor.inputs[0]
        maker.outputs = [source if t is tensor else t for t in maker.outputs]
        replace_uses(tensor, source)
        inputs = [source, clock(editor)]
        name, attributes = editor.name(f"{tensor.name}/mean"), {"delay": length}
        add_counting(editor, "DelayedMean", name, inputs, tensor, attributes)
    tidy(graph)
    return bool(begun or fresh)
