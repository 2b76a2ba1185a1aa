"""``check``: what of a network would convert, what would not, and why."""

from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes import bound_activations, neuron_nodes, unbounded_activations
from onnx2snn.graph_passes.errors import (
    Refusal,
    UnsupportedModelError,
    require_one_of,
    require_truths,
)
from onnx2snn.graph_passes.graph.activations import (
    activation_nodes,
    find_activations,
    kept_activations,
)
from onnx2snn.graph_passes.graph.layouts import require_channels
from onnx2snn.graph_passes.graph.obstacles import obstacles
from onnx2snn.graph_passes.graph.operators import MAX_POOLS, MaxPool
from onnx2snn.graph_passes.graph.regions import regions
from onnx2snn.graph_passes.graph.scalar_regions import regions_to_approximate
from onnx2snn.graph_passes.model_files.files import Model
from onnx2snn.graph_passes.spiking_pool import why_not_counting
from onnx2snn.running import Running

from .examination import (
    IN_DIVISOR,
    IN_INPUT,
    IN_QUANTISATION,
    IN_READ_OUT,
    analog_activations,
    hides_in_quantisation,
    options_to_approximate,
    other_activations,
)
from .network import Network
from .to_spiking import NO_CHANNELS, make_spiking

CALIBRATION = "--calibration DATA"
ON_MEANS = "--on-means"
APPROXIMATION = f"--approximate N {CALIBRATION}"

POOL_ROLES = {"exact": "counting pool", "keep": "max-pool"}
"""What a max-pool between neurons is, by what was chosen to become of it."""


@dataclass(frozen=True)
class NodeReport:
    """One node in canonical form: what it would become, why not, and the option it needs.

    Also an output of the model that is in the way: its ``op`` is "output".

    ``role``: neuron, linear, counting pool, max-pool, approximated, on means, before the neurons,
    read-out or obstacle.
    """

    node: str
    op: str
    role: str
    reason: str = ""
    option: str = ""


@dataclass(frozen=True)
class Readiness:
    """Whether a network converts.

    ``options``: those that it needs; where it does not convert, those besides the ones that the
    verdict names. ``check``: how the exact rewriting was checked, or why not. ``notes``:
    what a user should know of the result.
    """

    converts: bool
    verdict: str
    options: tuple[str, ...]
    nodes: list[NodeReport]
    check: str
    notes: list[str]


def check(
    model: Model,
    *,
    maxpool: MaxPool = "average",
    approximate: bool = False,
    on_means: bool = False,
) -> Readiness:
    """Say what ``convert`` would do with an ANN, without data, and what stands in its way.

    ``approximate``: whether clips may stand in for scalar activations; ``on_means``: as for
    ``convert``. Raises ``ModelError`` for files that are no ANN, ``DataError`` for an unknown
    ``maxpool``, and for another ``approximate`` or ``on_means`` than True or False.
    """
    require_one_of("maxpool", maxpool, MaxPool)
    require_truths(approximate=approximate, on_means=on_means)
    network = Network(model, None, maxpool, Running(), on_means)
    network.unquantize()
    network.rewrite_exactly()
    pools = {
        node.name: why_not_counting(network.graph, node)
        for node in network.graph.nodes
        if node.op in MAX_POOLS
    }
    network.replace_pools()
    seen = _examined(network, pools, approximate)
    rows = _rows(network.graph, seen, maxpool)
    # Of those that clips would make it knows nothing.
    if not seen.found and not seen.now and any(find_activations(network.graph)):
        refused = {refusal.node: refusal for refusal in _dry_run(network)}
        seen = replace(seen, found=refused, left={})
        rows = [
            NodeReport(row.node, row.op, "obstacle", refused[row.node].reason)
            if row.node in refused
            else row
            for row in rows
        ]
    named = {row.node for row in rows}
    rows += [
        NodeReport(refusal.node, refusal.op, "obstacle", refusal.reason)
        for refusal in seen.found.values()
        if refusal.node not in named
    ]
    options = _options(rows, seen, maxpool)
    remedies = [*_other_ways(network, seen, approximate), *_other_pools(network, seen)]
    converts = not seen.found and any(row.role in ("neuron", "approximated") for row in rows)
    quantised = hides_in_quantisation(network.graph, network.unquantised and not seen.curved)
    return Readiness(
        converts,
        _verdict(converts, len(seen.blocking), remedies, options, quantised),
        tuple(options),
        rows,
        network.check,
        network.notes,
    )


@dataclass(frozen=True)
class _Findings:
    """What is known of a network's nodes, by name.

    ``found``: those in the way. ``now``: those that are where no clips stand in for curves;
    ``left``: where they do. ``curved``: those of curves that clips may stand in for.
    ``averaged``: those computed on means. ``pools``: what were max-pools, with the reason where
    they cannot count spikes. ``kept``: those that stay as they are, with the reason. ``replaced``:
    the last nodes of the curves that clips stand in for. ``unbounded`` and ``bounds``: the
    activations, as of ``find_activations``.
    """

    found: dict[str, Refusal]
    now: dict[str, Refusal]
    left: dict[str, Refusal]
    curved: set[str]
    averaged: set[str]
    pools: dict[str, str | None]
    kept: dict[str, str]
    replaced: list[gs.Node]
    unbounded: list[gs.Node]
    bounds: dict[str, np.ndarray]

    @property
    def has_neurons(self) -> bool:
        """Whether any activation becomes a neuron by itself, not by clips for a curve."""
        return bool(self.unbounded or self.bounds)

    @property
    def needs_data(self) -> bool:
        """Whether thresholds, or the clips for curves, come from data."""
        return bool(self.unbounded or self.approximated)

    @property
    def approximated(self) -> set[str]:
        """The nodes of curves that clips stand in for."""
        return self.curved if self.replaced else set()

    @property
    def blocking(self) -> set[str]:
        """The nodes that the verdict counts."""
        return set(self.found) | (self.curved - self.approximated) if self.found else set()


def _examined(network: Network, pools: dict[str, str | None], approximate: bool) -> _Findings:
    graph, on_means = network.graph, network.on_means
    curves = regions_to_approximate(graph)
    curved = {node.name for curve in curves for node in curve.nodes}
    replaced = [curve.last for curve in curves] if approximate else []
    unbounded, bounds = find_activations(graph, replaced)
    has_neurons = bool(unbounded or bounds)
    now, left = _in_the_way(network, False, on_means), _in_the_way(network, True, on_means)
    # Without a neuron nothing is in the way of one: what counts is what clips would leave.
    by_clips = approximate or not has_neurons
    found = left if by_clips else now
    without_means = _in_the_way(network, by_clips, False) if on_means else found
    kept = _kept(graph, replaced)
    if not by_clips:
        # What feeds no neuron, or is fed by none, may stay as it is.
        curved &= set(found)
        kept |= {refusal.node: refusal.reason for refusal in analog_activations(graph)}
        helped = [curve.name for curve in curves if curve.name in kept]
        options = options_to_approximate(graph, network.maxpool, on_means) if helped else ""
        kept |= {n: f"{kept[n]}; {options} makes neurons of it" for n in helped if options}
    if not has_neurons and not curved:
        others = other_activations(graph, network.unquantised, network.hidden_pools)
        found = found | {refusal.node: refusal for refusal in others}
    return _Findings(
        found=found,
        now=now,
        left=left,
        curved=curved,
        averaged=without_means.keys() - found.keys(),
        pools=pools,
        kept=kept,
        replaced=replaced,
        unbounded=unbounded,
        bounds=bounds,
    )


def _in_the_way(network: Network, approximated: bool, on_means: bool) -> dict[str, Refusal]:
    """The nodes that no spiking network has, by name.

    ``approximated``: whether clips stand in for curves; ``on_means``: as of ``check``.
    """
    found = obstacles(network.graph, network.maxpool, network.declined, approximated, on_means)
    return {refusal.node: refusal for refusal in found}


def _kept(graph: gs.Graph, replaced: list[gs.Node]) -> dict[str, str]:
    """The activations that stay what they are, with the reason."""
    stay = kept_activations(graph, replaced)
    kept = {node.name: IN_DIVISOR for node in stay.divisors}
    kept |= {node.name: IN_INPUT for node in stay.input}
    return kept | {node.name: IN_READ_OUT for node in stay.read_out}


def _options(rows: list[NodeReport], seen: _Findings, maxpool: MaxPool) -> list[str]:
    """What the conversion takes."""
    options = []
    if seen.needs_data:
        options.append(APPROXIMATION if seen.approximated else CALIBRATION)
    if (maxpool != "average" and seen.pools) or (
        # Of the recipe that is taken where there is data, exact is the default.
        seen.needs_data and any(seen.pools.get(row.node) and row.role == "linear" for row in rows)
    ):
        options.append(f"--maxpool {maxpool}")
    if any(row.role == "on means" for row in rows):
        options.append(ON_MEANS)
    return options


def _other_ways(network: Network, seen: _Findings, approximate: bool) -> list[str]:
    """The options by which clips, or means, would leave nothing in the way."""
    if seen.curved and not seen.left and not approximate:
        return [APPROXIMATION]
    if not seen.found or not seen.left or network.on_means:
        return []
    if (seen.has_neurons or approximate) and not _in_the_way(network, approximate, True):
        data = seen.needs_data and not seen.approximated
        return [f"{ON_MEANS} {CALIBRATION}" if data else ON_MEANS]
    if seen.curved and not approximate and not _in_the_way(network, True, True):
        return [f"{ON_MEANS} {APPROXIMATION}"]
    return []


def _other_pools(network: Network, seen: _Findings) -> list[str]:
    """The options by which max-pools, if they alone are in the way, would be none."""
    pooled = {node.name for node in network.graph.nodes if node.op in MAX_POOLS}
    alone = seen.found and pooled.issuperset(seen.blocking)
    spikes = seen.has_neurons or seen.curved
    if network.maxpool != "average" or not spikes or not alone:
        return []
    if any(seen.pools.get(name) for name in pooled) or obstacles(network.graph, "exact"):
        return []
    return [f"--maxpool exact, as in recipe best,{f' and {CALIBRATION}' * seen.needs_data}"]


def _verdict(
    converts: bool, blocking: int, remedies: list[str], options: list[str], quantised: bool
) -> str:
    if converts:
        return f"Converts{' with ' + ' '.join(options) if options else ' as it is'}."
    remedy = "".join(f"; with {remedy} it would" for remedy in remedies)
    if not blocking:
        if quantised and not remedies:
            remedy = f"; it has QuantizeLinear, {IN_QUANTISATION}"
        return f"Does not convert: it has no ReLU and no clip{remedy}."
    count = f"{blocking} nodes stand" if blocking > 1 else "1 node stands"
    return f"Does not convert: {count} in the way{remedy}."


def _rows(graph: gs.Graph, seen: _Findings, maxpool: MaxPool) -> list[NodeReport]:
    """What becomes of each node, in graph order."""
    found, kept, bounds, replaced = seen.found, seen.kept, seen.bounds, seen.replaced
    unbounded = {node.name for node in seen.unbounded}
    # Clips in place of a curve are neurons where its last node is.
    activations = {id(node) for node in (*activation_nodes(graph, replaced), *replaced)}
    parts = regions(graph, lambda node: id(node) in activations)
    place = {node.name: "before the neurons" for node in parts.prologue}
    place |= {node.name: "linear" for node in parts.core}
    place |= {node.name: "read-out" for node in parts.epilogue}
    place |= {name: "read-out" for name, reason in kept.items() if reason == IN_READ_OUT}

    def row(node: gs.Node) -> NodeReport:
        name, op = node.name, node.op
        if name in seen.approximated:
            return NodeReport(name, op, "approximated", "by a sum of clips", APPROXIMATION)
        if name in found or name in seen.curved:
            reason = found[name].reason if name in found else "no ReLU and no clip"
            option = APPROXIMATION if name in seen.curved else ""
            return NodeReport(name, op, "obstacle", reason, option)
        if name in seen.averaged and place[name] == "linear":
            return NodeReport(name, op, "on means", "at each time-step, on running means", ON_MEANS)
        if name in kept:
            return NodeReport(name, op, place[name], f"it stays as it is: {kept[name]}")
        if name in unbounded:
            return NodeReport(name, op, "neuron", "threshold from data", CALIBRATION)
        if name in bounds:
            text = f"V_th = {np.min(bounds[name]):.4g}"
            if np.ptp(bounds[name]):
                text += f" to {np.max(bounds[name]):.4g}"
            return NodeReport(name, op, "neuron", text)
        if name in seen.pools and op not in MAX_POOLS:
            text = "max-pooling becomes average-pooling; --maxpool exact and recipe best "
            text += f"refuse it: {seen.pools[name]}" if seen.pools[name] else "keep it"
            return NodeReport(name, op.replace("Average", "Max"), place[name], text)
        if op in MAX_POOLS and place[name] == "linear":
            return NodeReport(name, op, POOL_ROLES.get(maxpool, "linear"))
        return NodeReport(name, op, place[name])

    return [row(node) for node in graph.nodes]


def _dry_run(network: Network) -> list[Refusal]:
    """What else would stop the conversion once every threshold is known; it changes the graph."""
    unbounded = unbounded_activations(network.graph)
    bound_activations(network.graph, {node.name: np.ones(()) for node in unbounded})
    try:
        make_spiking(network, 0.5, 0)
        if unbounded:
            # The recipe that data brings has thresholds per channel.
            require_channels(network.graph, neuron_nodes(network.graph), NO_CHANNELS)
    except UnsupportedModelError as error:
        return list(error.refusals)
    return []
