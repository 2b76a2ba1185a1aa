"""What a conversion is asked for: a recipe, and options that take the place of its settings."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from onnx2snn.graph_passes import DataError
from onnx2snn.graph_passes.approximate import MOST_CLIPS
from onnx2snn.graph_passes.errors import require_one_of, require_whole
from onnx2snn.graph_passes.graph.neurons import MOST_COUNTED
from onnx2snn.graph_passes.graph.operators import MaxPool
from onnx2snn.recipe import DEFAULT_TIMESTEPS, Neuron, Recipe
from onnx2snn.runtime.inputs import MOST_TIMESTEPS

from .statistics import Statistic, parse_statistic

Reset = Literal["subtract", "zero"]
"""What a spike does to the membrane potential: V_th less, as in the paper, or 0."""

_WHOLE = {
    "approximate": (1, MOST_CLIPS),
    "delay": (0, MOST_COUNTED),
    "timesteps": (1, MOST_TIMESTEPS),
}
"""Options that are whole numbers: their least and their most."""


@dataclass(frozen=True, eq=False)
class Request:
    """What is to be made: by which recipe, with which options besides, for what T, by what seed.

    ``settings``: the recipe with these options, its threshold and delay those for T.
    """

    recipe: Recipe
    given: dict[str, Any]
    settings: Recipe
    timesteps: int
    seed: int

    @property
    def is_for_timesteps(self) -> bool:
        """Whether anything of the recipe that was not given otherwise depends on T."""
        threshold = None if "threshold" in self.given else self.recipe.threshold
        delay = 0 if "delay" in self.given else self.recipe.delay
        return replace(self.recipe, threshold=threshold, delay=delay).is_for_timesteps


def requested(
    recipe: Recipe, options: Mapping[str, Any], reset: Reset | None, seed: int, has_data: bool
) -> Request:
    """What is asked for by a recipe and options, of which those that are None are not given.

    Raises ``DataError`` for what is no such option, or goes with no such recipe, or no data.
    """
    given = _given(options)
    timesteps = int(given.get("timesteps", DEFAULT_TIMESTEPS))
    recipe.require_account(given)
    for name in ("threshold", "per_channel"):
        if given.get(name) and not has_data:
            raise DataError(f"{name}={given[name]} is for calibration data: give calibration too")
    settings = _resolved(recipe, given, reset, timesteps)
    return Request(recipe, given, settings, timesteps, seed)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not None, a name of a statistic as the statistic."""
    given = {name: value for name, value in options.items() if value is not None}
    if "threshold" in given and not isinstance(given["threshold"], Statistic):
        given["threshold"] = parse_statistic(given["threshold"])
    for name in ("per_channel", "recalibrate"):
        if name in given:
            given[name] = bool(given[name])
    for name, (least, most) in _WHOLE.items():
        if name in given:
            given[name] = require_whole(name, given[name], least, most)
    return given


def _resolved(
    recipe: Recipe, given: Mapping[str, Any], reset: Reset | None, timesteps: int
) -> Recipe:
    """A recipe with the options that were given, and with a threshold and a delay for T."""
    named = {setting.name for setting in fields(Recipe)}
    own = {name: value for name, value in given.items() if name in named}
    for_timesteps = {
        "threshold": recipe.statistic(timesteps),
        "delay": recipe.delay_for(timesteps),
    }
    settings = replace(recipe, neuron=_with_reset(recipe, reset), **for_timesteps | own)
    require_one_of("maxpool", settings.maxpool, MaxPool)
    return settings


def _with_reset(recipe: Recipe, reset: Reset | None) -> Neuron:
    """The recipe's neurons with this reset; ``DataError`` where they cannot reset to zero."""
    if reset is None:
        return recipe.neuron
    require_one_of("reset", reset, Reset)
    if recipe.neuron.op not in ("IF", "ResetToZeroIF"):
        if reset == "subtract":
            # All other kinds do.
            return recipe.neuron
        raise DataError(
            f"the recipe '{recipe.name}' is made of neurons {recipe.neuron.op}, which reset by "
            "subtraction alone: leave out --reset, or take another recipe"
        )
    return Neuron("ResetToZeroIF" if reset == "zero" else "IF")
