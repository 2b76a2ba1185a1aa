"""From an ANN to its spiking network: thresholds from data, neurons, and what a recipe changes."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.data.batches import may_be_of_a_graph
from onnx2snn.data.calibration_data import (
    in_no_order,
    notes_on_equal_samples,
    notes_on_few_at_once,
)
from onnx2snn.graph_passes import (
    MissingThresholdError,
    Refusal,
    activations_to_neurons,
    average_before_read_out,
    bound_activations,
    change_neurons,
    delay_read_out,
    fold_batch_normalization,
    infer_shapes,
    max_to_spiking_pool,
    neuron_nodes,
    nonlinear_to_means,
    set_initial_potential,
    thresholds_to_spiking,
    unbounded_activations,
)
from onnx2snn.graph_passes.driver import Pass
from onnx2snn.graph_passes.errors import counted
from onnx2snn.graph_passes.graph.activations import bounded_activations
from onnx2snn.graph_passes.graph.editing import type_of
from onnx2snn.graph_passes.graph.finite import require_finite_results
from onnx2snn.graph_passes.graph.layouts import require_channels, samples_axis
from onnx2snn.graph_passes.graph.shapes import require_ranks
from onnx2snn.graph_passes.initial_potential import InitialPotential
from onnx2snn.graph_passes.spiking import DATA_NEEDED, NO_BOUND
from onnx2snn.recipe import Neuron, Recipe, SpikingPass
from onnx2snn.runtime.plans.parts import parts_of, require_affine
from onnx2snn.spiking_passes.spiking import Spiking, over_graph
from onnx2snn.spiking_passes.traits import traits_of

from .calibration import calibrate
from .checking import CLIPPED, TOGETHER, compare
from .examination import notes_on_spikes, require_activations, require_sizes
from .network import Network

NO_CHANNELS = "there are no thresholds per channel"
"""What ``require_channels`` says of them."""


def _with_headroom(threshold: np.ndarray, headroom: float, dtype: np.dtype | None) -> np.ndarray:
    """A threshold times ``headroom``, or as much of it as its type holds."""
    largest = min((np.finfo(t).max for t in (dtype or np.float32, np.float32)), key=float)
    # Below the largest number, which is no bound.
    most = np.float32(np.nextafter(largest, np.zeros_like(largest)))
    with np.errstate(over="ignore"):
        scaled = np.float32(headroom) * threshold
    return np.where(threshold <= most, np.minimum(scaled, most), threshold)


def _is_range(network: Network, node: gs.Node, bound: np.ndarray) -> bool:
    """Whether an activation is bounded by a quantiser, which nobody trained.

    It has the name of what that bounded, or its bound: other passes may have changed one of them.
    """
    known = node.outputs[0].name in network.ranges
    return known or any(np.allclose(bound, high, 1e-6, 0) for high in network.ranges.values())


def bound_by_data(network: Network, settings: Recipe, keep_bounds: bool = False) -> dict[str, str]:
    """Give activations thresholds from data, where the settings want such.

    Also where quantisers bound them, which nobody trained, unless ``keep_bounds``. Says where
    thresholds came from, by the name of the activation's output, which is that of its neurons.
    """
    threshold, per_channel = settings.threshold, settings.per_channel
    network.unclipped = network.current
    if threshold is None:
        return {}
    recalibrate, headroom = settings.recalibrate, max(settings.headroom, threshold.headroom)
    bounds = bounded_activations(network.graph)
    unbounded = unbounded_activations(network.graph)
    clipped = bounds.keys() - {node.name for node in unbounded}
    clips = [node for node in network.graph.nodes if node.name in clipped]
    ranges = [node for node in clips if _is_range(network, node, bounds[node.name])]
    wanted = list(unbounded)
    if recalibrate:
        wanted += clips
    elif not keep_bounds:
        wanted += ranges
    if network.calibration is None:
        if recalibrate and bounds:
            why = "its threshold comes from data here, not from its bound"
            raise MissingThresholdError(
                f"{DATA_NEEDED} {counted(len(wanted), 'activation')}:",
                [Refusal(n.name, n.op, why if n.name in bounds else NO_BOUND) for n in wanted],
            )
        if ranges:
            network.notes.append(
                f"the thresholds of {counted(len(ranges), 'layer')} are ranges of quantisers, as a "
                "rule the largest activations that were seen: with --calibration DATA lower ones "
                "are taken, which need fewer time-steps"
            )
        return {}
    if not wanted:
        return {}
    require_ranks(network.graph, wanted)
    require_sizes(wanted)
    network.notes += notes_on_equal_samples(network.calibration, network.running.batch_size)
    if per_channel:
        require_channels(network.graph, wanted, NO_CHANNELS)
    rows = [n.name for n in wanted if not samples_axis(network.graph, n.outputs[0])]
    thresholds = calibrate(
        network.current, wanted, network.calibration, threshold, per_channel, network.running, rows
    )
    thresholds = {
        node.name: _with_headroom(thresholds[node.name], headroom, type_of(node)) for node in wanted
    }
    if not recalibrate:
        for name in bounds.keys() & {node.name for node in unbounded}:
            # Infinite in channels without a bound; the others keep theirs.
            thresholds[name] = np.where(np.isinf(bounds[name]), thresholds[name], bounds[name])
    how = "per channel" if per_channel else "per layer"
    times = "" if headroom == 1 else f"{headroom:g} times "
    samples = counted(network.calibration.samples, "sample")
    text = f"{times}{threshold.describe()}, {how}, {samples}"
    sources = {
        node.outputs[0].name: text
        for node in wanted
        if node.name not in bounds or np.any(thresholds[node.name] < bounds[node.name])
    }
    lower = 0 if recalibrate else sum(node.outputs[0].name in sources for node in ranges)
    if lower:
        keeps = "" if settings.decides("recalibrate") else " (--keep-bounds takes the ranges)"
        network.notes.append(
            f"the thresholds of {counted(lower, 'layer')} come from the data, where the ranges of "
            f"quantisers, which nobody trained, are higher{keeps}"
        )
    if network.run([partial(bound_activations, thresholds=thresholds)]):
        network.note_agreement(CLIPPED, network.unclipped)
    return sources


def make_spiking(network: Network, v_init: InitialPotential, seed: int) -> None:
    """Turn activations into neurons.

    And pools, ThresholdedRelus and the read-out into their spiking forms.
    """
    to_neurons = partial(activations_to_neurons, maxpool=network.maxpool, on_means=network.on_means)
    passes: list[Pass] = [to_neurons]
    if network.on_means:
        passes.append(nonlinear_to_means)
    if network.maxpool == "exact":
        passes.append(max_to_spiking_pool)
    passes += [
        thresholds_to_spiking,
        average_before_read_out,
        partial(set_initial_potential, v_init=v_init, seed=seed),
    ]
    network.run(passes)
    require_activations(
        network.graph, network.maxpool, network.on_means, network.unquantised, network.hidden_pools
    )
    if network.calibration is not None:
        network.agreements.append(
            compare(
                TOGETHER, network.original, network.current, network.calibration, network.running
            )
        )
    network.notes += notes_on_spikes(network.graph, network.maxpool)
    infer_shapes(network.graph)
    require_sizes(neuron_nodes(network.graph))
    require_affine(network.graph, parts_of(network.graph))
    require_finite_results(network.graph)


def apply_passes(network: Network, passes: Sequence[SpikingPass], timesteps: int) -> None:
    """Run a recipe's passes over the spiking network, and fold what they added."""
    if not passes:
        return
    snn = Spiking(network.graph, network.unclipped, network.calibration, network.running, timesteps)
    data, traits = network.calibration, [traits_of(function) for function in passes]
    reads = any(each.reads_data for each in traits)
    if data is not None and reads and not may_be_of_a_graph(data):
        samples = min((each.samples for each in traits if each.samples), default=None)
        together = snn.samples_at_once(data, timesteps, samples)
        data, notes = in_no_order(data, network.measures, together, network.running.batch_size)
        snn = replace(snn, data=data)
        network.notes += notes
        if not all(each.for_any_t for each in traits):
            network.notes += notes_on_few_at_once(data, together)
    network.run([*(over_graph(function, snn) for function in passes), fold_batch_normalization])
    require_finite_results(network.graph)


def change_kind(network: Network, neuron: Neuron, delay: int, timesteps: int) -> None:
    """Let neurons be of another kind, and start again after a delay if they are of one.

    timesteps: the T that this is for.
    """
    if neuron.op == "IF":
        return
    kind = partial(
        change_neurons,
        op=neuron.op,
        negative=neuron.negative,
        max_spikes=neuron.max_spikes,
        delay=delay,
    )
    network.run([kind])
    if neuron.op in ("ResidualIF", "OffsetIF") and not 0 < delay < timesteps:
        network.notes.append(
            f"{neuron.op} begins again after the delay; without one (--delay 0, or T=1), "
            "or in no more time-steps than it takes, it is an IF"
        )


def delay_by(network: Network, steps: int, timesteps: int) -> None:
    """Let the read-out begin after so many time-steps, of ``timesteps`` that this is for.

    Neurons that are outputs of the network get new output names, so run it after the passes
    that look tensors up by name.
    """
    if steps:
        network.run([partial(delay_read_out, delay=steps)])
    if steps >= timesteps:
        network.notes.append(
            f"the read-out begins after {steps} time-steps; runs of no more, as of "
            f"T={timesteps}, are read out from their start"
        )
