"""What is in the way of a spiking network, and what to do about it."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.errors import Refusal, UnsupportedModelError

from .activations import activation_nodes, bounded_activations, kept_activations
from .advice import APPROXIMATE, NO_CURVE
from .neurons import is_stateful
from .operators import APPROXIMABLE, MAX_POOLS, MaxPool
from .regions import computable_on_means, downstream, nonlinear_nodes, regions
from .scalar_regions import regions_to_approximate


def require_convertible(
    graph: gs.Graph,
    maxpool: MaxPool = "average",
    declined: Iterable[Refusal] = (),
    on_means: bool = False,
) -> None:
    """Raise ``UnsupportedModelError``, listing all ``obstacles``, if there are any."""
    refusals = obstacles(graph, maxpool, declined, on_means=on_means)
    if refusals:
        raise UnsupportedModelError(
            "these nodes cannot become part of a spiking network:", refusals
        )


def obstacles(
    graph: gs.Graph,
    maxpool: MaxPool = "average",
    declined: Iterable[Refusal] = (),
    approximated: bool = False,
    on_means: bool = False,
) -> list[Refusal]:
    """Every node in the way of a spiking network, with the reason.

    Such are nodes between activations that are not affine, and activations whose upper
    bound is not positive. A Relu without a bound is none: data can tell its threshold, as that of
    channels without one. What comes after the last activation is the read-out and may be anything
    but a constant.
    ``declined``: the reasons of ``max_to_average_pool`` for pools that it left.
    ``approximated``: as if clips stood in already for all scalar functions that they can stand
    in for. ``on_means``: as if what can be computed on means were. That is no scalar function
    between layers, which would then be no neuron.
    """
    curves = regions_to_approximate(graph)
    ends = [curve.last for curve in curves] if approximated else []
    activations = {id(node) for node in (*activation_nodes(graph, ends), *ends)}

    def is_activation(node: gs.Node) -> bool:
        return is_stateful(node) or id(node) in activations

    found = nonlinear_nodes(graph, is_activation, () if maxpool == "average" else MAX_POOLS)
    between = {node.name for node in regions(graph, is_activation).core}
    # Above a positive level it can count the spikes of the ReLU before it.
    counting = {
        node.name
        for node in graph.nodes
        if node.op == "ThresholdedRelu" and node.attrs.get("alpha", 1.0) > 0
    }
    left = {other.node: other.reason for other in declined if other.op in MAX_POOLS}
    refusals = [
        replace(refusal, reason=f"no average can take its place: {left[refusal.node]}; a pool that "
                                "counts spikes can (--maxpool exact, pass max_to_spiking_pool)")
        if refusal.node in left
        else refusal
        for refusal in found
        if refusal.node in between - counting
    ]  # fmt: skip
    bounds = bounded_activations(graph)
    for node in graph.nodes:
        bound = bounds.get(node.name)
        if bound is not None and not np.all(bound > 0):
            text = f"its upper bound, {np.min(bound)} to {np.max(bound)}, is not positive"
            refusals.append(Refusal(node.name, node.op, text))
    sources = {node.name: curve.source.name for curve in curves for node in curve.nodes}
    if approximated:
        refusals = [refusal for refusal in refusals if refusal.node not in sources]
    # It is the division that is in the way.
    guards = {node.name for node in kept_activations(graph, ends).divisors}
    refusals = [refusal for refusal in refusals if refusal.node not in guards]
    averaged = computable_on_means(graph, refusals) - {*sources}
    if on_means:
        refusals = [refusal for refusal in refusals if refusal.node not in averaged]
    advised = [_with_advice(refusal, sources, averaged) for refusal in refusals]
    return advised + constant_outputs(graph)


def _with_advice(refusal: Refusal, sources: Mapping[str, str], averaged: Container[str]) -> Refusal:
    """Say of a node that is part of a scalar function, as a swish's product, that it has a way.

    ``sources``: of what tensor such nodes are functions, by their names. An operator that is such a
    function by itself has the advice as its reason. And of nodes ``averaged``, by name, that they
    can be computed on means.
    """
    if refusal.node in averaged:
        return replace(refusal, reason=f"{refusal.reason}; or compute it on means (--on-means)")
    if refusal.node not in sources:
        return replace(refusal, reason=NO_CURVE) if refusal.reason == APPROXIMATE else refusal
    if refusal.op in APPROXIMABLE:
        return refusal
    advice = (
        f"as a function of '{sources[refusal.node]}' alone clips can approximate it "
        "(convert --approximate N)"
    )
    return replace(refusal, reason=f"{refusal.reason}; {advice}")


def constant_outputs(graph: gs.Graph) -> list[Refusal]:
    """The outputs that depend neither on inputs nor on their shapes, with the reason."""
    computed = downstream(graph, graph.inputs, shapes=True)
    reason = "depends on no input of the model: leave it out of the outputs"
    constant = [tensor for tensor in graph.outputs if tensor.name not in computed]
    return [Refusal(tensor.name, "output", reason) for tensor in constant]
