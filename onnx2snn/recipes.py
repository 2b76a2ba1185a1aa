"""Ways to convert, by name: the settings of ``convert`` that each paper stands for."""

from dataclasses import dataclass

from onnx2snn.graph_passes.errors import DataError
from onnx2snn.graph_passes.initial_potential import InitialPotential
from onnx2snn.graph_passes.spiking import MaxPool

from .statistics import Statistic

DEFAULT_TIMESTEPS = 16
"""The T that a conversion is made for where none is given."""


@dataclass(frozen=True)
class Recipe:
    """One way to convert a trained network.

    ``threshold``: the statistic of the activations that gives V_th; "mmse" means that of the
    T in question. ``recalibrate``: for clips too, where it is below their bound. ``correct``:
    whether biases are corrected, layer by layer, for T time-steps.
    """

    name: str
    source: str
    what: str
    threshold: Statistic
    per_channel: bool = False
    recalibrate: bool = False
    maxpool: MaxPool = "average"
    v_init: InitialPotential = 0.5
    correct: bool = False

    def statistic(self, timesteps: int | None) -> Statistic:
        """The threshold's statistic for T time-steps."""
        if self.threshold.kind != "mmse":
            return self.threshold
        return Statistic("mmse", timesteps or DEFAULT_TIMESTEPS)


_MMSE = Statistic("mmse", DEFAULT_TIMESTEPS)

RECIPES = (
    Recipe(
        "threshold-balancing",
        "Diehl et al. 2015",
        "V_th is the largest activation of a layer; v(0) = 0",
        Statistic("max"),
        v_init=0.0,
    ),
    Recipe(
        "robust-norm",
        "Rueckauer et al. 2017",
        "V_th is the 99.9 percentile of a layer's activations; v(0) = 0",
        Statistic("percentile", 99.9),
        v_init=0.0,
    ),
    Recipe(
        "opi",
        "Bu et al. 2022",
        "V_th is the clip's bound, or the 99.9 percentile of a layer; v(0) = V_th / 2",
        Statistic("percentile", 99.9),
    ),
    Recipe(
        "mmse",
        "least squares",
        "V_th is the least squared error of T time-steps, per channel; v(0) = V_th / 2; max-pools "
        "count spikes",
        _MMSE,
        per_channel=True,
        recalibrate=True,
        maxpool="exact",
    ),
    Recipe(
        "best",
        "this project; after Bu et al. 2022 and Li et al. 2021",
        "as mmse, then each channel's bias corrected for T time-steps, layer by layer, against "
        "the ANN's mean activations",
        _MMSE,
        per_channel=True,
        recalibrate=True,
        maxpool="exact",
        correct=True,
    ),
)


def recipe_by_name(name: str) -> Recipe:
    """A recipe of ``RECIPES``; raises ``DataError`` if there is none of that name."""
    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    raise DataError(f"there is no recipe '{name}', only {', '.join(r.name for r in RECIPES)}")
