"""What a conversion has to know of a pass before it runs."""

from collections.abc import Callable
from dataclasses import dataclass

from onnx2snn.graph_passes.driver import unbound

from .correction import shift_currents
from .searching import (
    SCALING_SAMPLES,
    balance_thresholds,
    cap_thresholds,
    divide_thresholds,
    scale_thresholds,
    search_potentials,
)


@dataclass(frozen=True)
class Traits:
    """What is known of a pass; of one of a user's own, this.

    ``for_any_t``: it does the same whatever T is. ``reads_data``: it measures the network on data.
    ``overwrites``: the settings of a recipe that it decides by itself. ``samples``: how many
    samples of a batch it takes; all, if None. ``shifts_currents``: it adds V_th / 2T to currents.
    """

    for_any_t: bool = False
    reads_data: bool = True
    overwrites: tuple[str, ...] = ()
    samples: int | None = None
    shifts_currents: bool = False


_TRAITS = {
    balance_thresholds: Traits(
        for_any_t=True, overwrites=("threshold", "per_channel", "recalibrate")
    ),
    cap_thresholds: Traits(for_any_t=True, reads_data=False),
    divide_thresholds: Traits(for_any_t=True, reads_data=False),
    scale_thresholds: Traits(samples=SCALING_SAMPLES),
    search_potentials: Traits(overwrites=("v_init",)),
    shift_currents: Traits(reads_data=False, shifts_currents=True),
}


def traits_of(function: Callable[..., bool]) -> Traits:
    """What is known of a pass, also when arguments are bound to it."""
    plain = unbound(function)
    # Passes of one's own need not be hashable.
    return next((traits for known, traits in _TRAITS.items() if known is plain), Traits())
