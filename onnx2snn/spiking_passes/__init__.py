"""Passes over a spiking network, layer by layer, each on the spikes of those before it.

A pass is ``name(snn: Spiking, ...) -> bool``: it edits the graph of a spiking network in the
making and says whether it changed anything. A ``Recipe`` has them in order.
"""

from .correction import correct, shift_currents, switch_inputs
from .searching import (
    balance_thresholds,
    cap_thresholds,
    divide_thresholds,
    scale_thresholds,
    search_potentials,
)

__all__ = [
    "balance_thresholds",
    "cap_thresholds",
    "correct",
    "divide_thresholds",
    "scale_thresholds",
    "search_potentials",
    "shift_currents",
    "switch_inputs",
]
