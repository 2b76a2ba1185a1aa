"""What a conversion's tables do not tell: options that change nothing, settings that add up."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnx2snn.graph_passes import neuron_nodes, threshold_of
from onnx2snn.graph_passes.graph.neurons import gives_mean, max_spikes_of
from onnx2snn.recipe import Recipe
from onnx2snn.spiking_passes.traits import traits_of

from .network import Network

_ROUNDING = 1e-3
"""What thresholds may differ from bounds by, in 16 bits, too."""


def notes_on_settings(
    network: Network,
    settings: Recipe,
    given: Mapping[str, Any],
    clips: bool,
    bounds: Mapping[str, np.ndarray | None],
) -> list[str]:
    """Which options that were given change nothing, and what else the tables do not tell.

    ``clips``: whether the ANN has any; ``bounds``: theirs, by the names of neurons.
    """
    notes, neurons = list[str](), neuron_nodes(network.graph)
    told = [(bounds.get(n.name), threshold_of(n), max_spikes_of(n)) for n in neurons]
    asked = "threshold" in given or "per_channel" in given
    if asked and not settings.recalibrate and all(_is_bound(*each) for each in told):
        unless = "" if settings.decides("recalibrate") else " without --recalibrate"
        notes.append(
            "all thresholds are bounds of clips, which --threshold and --per-channel do not "
            f"change{unless}"
        )
    if "approximate" in given and not network.clips:
        notes.append("--approximate changes nothing: there are no curves to approximate")
    if given.get("recalibrate") and not clips:
        notes.append("--recalibrate changes nothing: there are no clips")
    if "on_means" in given and not any(gives_mean(node) for node in network.graph.nodes):
        notes.append("--on-means changes nothing: all between neurons is affine")
    pooled = any(r.changed and r.name == "max_to_average_pool" for r in network.reports)
    if pooled and network.calibration is None and "maxpool" not in given:
        notes.append(
            "max-pooling became average-pooling, as in the paper; what that costs is not known "
            "without data (evaluate with --ann says it): --maxpool exact keeps maxima, also those "
            "over axes"
        )
    if not isinstance(settings.v_init, str) and not 0 <= settings.v_init <= 1:
        notes.append(
            f"neurons begin with {settings.v_init:g} times V_th: outside of 0 to 1 they emit "
            "spikes, or hold back some, that their inputs do not account for"
        )
    traits = [traits_of(function) for function in settings.passes]
    shifts = any(each.shifts_currents for each in traits)
    alone = not any(each.reads_data for each in traits)
    if shifts and alone and settings.v_init != 0:
        notes.append(
            f"the recipe '{settings.name}' adds V_th/2T to each current, which in T time-steps is "
            "what v(0) = V_th/2 is: with another v(0) than 0, both count"
        )
    if any(_is_beyond(*each) for each in told):
        notes.append(
            "neurons may say more than a clip of the ANN lets through, by several spikes in a "
            "time-step: those of the recipes burst and best-burst do not"
        )
    return notes


def _is_bound(bound: np.ndarray | None, threshold: np.ndarray, most: int) -> bool:
    """Whether V_th, or what up to ``most`` spikes say together, is the bound of a clip."""
    if bound is None:
        return False
    return any(np.allclose(n * threshold, bound, _ROUNDING, 0) for n in (1, most))


def _is_beyond(bound: np.ndarray | None, threshold: np.ndarray, most: int) -> bool:
    """Whether neurons can say more in a time-step than a clip lets through."""
    return bound is not None and bool(np.any(most * threshold > (1 + _ROUNDING) * bound))
