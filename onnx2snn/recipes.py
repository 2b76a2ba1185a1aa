"""Every way to convert that has a name: the passes and settings that its paper stands for.

A recipe of one's own is a ``Recipe`` too, made from nothing or by ``dataclasses.replace``; its
passes are functions of a ``spiking.Spiking`` that say whether they changed anything.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from onnx2snn.graph_passes.driver import pass_name, unbound
from onnx2snn.graph_passes.errors import DataError, is_number
from onnx2snn.graph_passes.initial_potential import InitialPotential
from onnx2snn.graph_passes.linear import MaxPool

from .correction import correct, shift_currents, switch_inputs
from .inspection import has_json
from .searching import balance_thresholds, scale_thresholds, search_potentials
from .spiking import Spiking
from .statistics import FOR_TIMESTEPS, Statistic

DEFAULT_TIMESTEPS = 16
"""The T that a conversion is made for where none is given."""

SpikingPass = Callable[[Spiking], bool]
"""Changes a spiking network that it may measure; what else it needs is bound with ``partial``."""


@dataclass(frozen=True)
class Neuron:
    """The kind of neurons: an operator of ``graph_passes.neurons.NEURONS``.

    ``negative``: the fraction of V_th below which a SignedIF takes a spike back.
    ``max_spikes``: of a BurstIF in one time-step.
    """

    op: str = "IF"
    negative: float = -1.0
    max_spikes: int = 5


@dataclass(frozen=True)
class Recipe:
    """One way to convert a trained network.

    ``threshold``: the statistic of the activations that gives V_th; for a kind of "mmse" that
    of the T in question; None where only bounds that the network was trained with will do.
    ``recalibrate``: for clips too, where it is below their bound. ``v_init``, ``neuron`` and
    ``delay`` go with any recipe: v(0), the kind of neurons, and what the read-out leaves out at
    the start, in time-steps or, below 1, as a share of T; at most half of T. ``passes``: what
    is then done to the spiking network, in order. Raises ``DataError`` for a ``threshold``,
    ``per_channel``, ``recalibrate``, ``neuron``, ``delay`` or ``passes`` that are none.
    """

    name: str
    source: str
    what: str
    threshold: Statistic | None
    per_channel: bool = False
    recalibrate: bool = False
    maxpool: MaxPool = "average"
    v_init: InitialPotential = 0.5
    neuron: Neuron = Neuron()
    delay: float = 0
    passes: tuple[SpikingPass, ...] = ()

    def __post_init__(self) -> None:
        delays = is_number(self.delay) and self.delay >= 0
        checks = {
            "threshold": (isinstance(self.threshold, Statistic | None), "a Statistic or None"),
            "per_channel": (isinstance(self.per_channel, bool), "True or False"),
            "recalibrate": (isinstance(self.recalibrate, bool), "True or False"),
            "neuron": (isinstance(self.neuron, Neuron), "a Neuron"),
            "delay": (delays, "a number of time-steps, or a share of T"),
            "passes": (
                isinstance(self.passes, tuple) and all(map(callable, self.passes)),
                "a tuple of functions",
            ),
        }
        for name, (holds, what) in checks.items():
            if not holds:
                raise DataError(
                    f"{name} of the recipe '{self.name}' must be {what}, "
                    f"not {getattr(self, name)!r}"
                )

    def statistic(self, timesteps: int) -> Statistic | None:
        """The threshold's statistic for T time-steps."""
        if self.threshold is None or self.threshold.kind not in FOR_TIMESTEPS:
            return self.threshold
        return replace(self.threshold, q=timesteps)

    def require_account(self, settings: Mapping[str, Any]) -> None:
        """Raise ``DataError`` for settings that a pass of this recipe would overwrite.

        And for those that need thresholds from data, where it takes none.

        settings: those of ``threshold``, ``per_channel``, ``recalibrate`` and ``v_init`` that
        someone gave.
        """
        for name, value in settings.items():
            option = f"--{name.replace('_', '-')}"
            for function in self.passes:
                # Repeating the recipe's own threshold or per_channel is harmless; a given v(0) or
                # recalibrate never is, since the pass overwrites it.
                same = name in ("threshold", "per_channel") and value == getattr(self, name)
                if name in _DECIDES.get(unbound(function), ()) and not same:
                    raise DataError(
                        f"the recipe '{self.name}' finds that by itself ({pass_name(function)}): "
                        f"leave out {option}, or take another recipe"
                    )
            from_data = self.threshold or "threshold" in settings
            if name in ("per_channel", "recalibrate") and value and not from_data:
                raise DataError(
                    f"the recipe '{self.name}' takes the bounds of clips as thresholds: with "
                    f"{option} give a statistic of the data, too (--threshold)"
                )

    def delay_for(self, timesteps: int) -> int:
        """How many time-steps the read-out leaves out, of T."""
        steps = self.delay * timesteps if self.delay < 1 else self.delay
        # Rounded first, since 0.29 * 100 is a little less than 29.
        return min(int(round(steps, 9)), timesteps // 2)

    @property
    def is_for_timesteps(self) -> bool:
        """Whether a conversion is made for a T, and another T needs another conversion."""
        passes = any(unbound(function) not in _FOR_ANY_T for function in self.passes)
        return passes or self.delay > 0 or self.statistic(1) != self.statistic(2)

    @property
    def is_told_by_definition(self) -> bool:
        """Whether two recipes of this definition convert alike: its passes are this package's.

        What others do, a function within a function, say, their names do not tell; nor is it told
        what they are given that has no form in JSON.
        """
        package = __name__.partition(".")[0]
        named = all(
            not getattr(function, "args", ()) and all(map(has_json, _settings(function).values()))
            for function in self.passes
        )
        modules = [unbound(function).__module__ for function in self.passes]
        return named and all(module.partition(".")[0] == package for module in modules)

    def definition(self) -> dict[str, Any]:
        """All settings, in JSON's types; of what has no form there, the name of its type."""
        kept = asdict(replace(self, passes=())) | {
            "passes": [_pass_definition(f) for f in self.passes]
        }
        return {k: v for k, v in kept.items() if k not in ("name", "source", "what")}


_FOR_ANY_T = (balance_thresholds,)
"""The passes that do the same whatever T is."""

_DECIDES = {
    balance_thresholds: ("threshold", "per_channel", "recalibrate"),
    search_potentials: ("v_init",),
}
"""Settings that these passes overwrite."""


def _settings(function: SpikingPass) -> dict[str, Any]:
    return dict(function.keywords) if isinstance(function, partial) else {}


def _pass_definition(function: SpikingPass) -> dict[str, Any]:
    settings = {
        name: value if has_json(value) else type(value).__name__
        for name, value in _settings(function).items()
    }
    return {"pass": pass_name(function), **settings}


_MAX = Statistic("max")
_ROBUST = Statistic("percentile", 99.9)
_MMSE = Statistic("mmse", DEFAULT_TIMESTEPS)
_ROBUST_MMSE = Statistic("robust-mmse", DEFAULT_TIMESTEPS)
_RMP_SCALES = (0.8, 0.6, 0.4)
_RNL_SCALES = (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1)
_QUARTERS = tuple(i / 8 for i in range(9))

RECIPES = (
    Recipe(
        "threshold-balancing",
        "Diehl et al. 2015",
        "V_th is the largest activation of a layer; v(0) = 0",
        _MAX,
        recalibrate=True,
        v_init=0.0,
    ),
    Recipe(
        "robust-norm",
        "Rueckauer et al. 2017",
        "V_th is the 99.9 percentile of a layer's activations; v(0) = 0",
        _ROBUST,
        recalibrate=True,
        v_init=0.0,
    ),
    Recipe(
        "robust-norm-per-channel",
        "Rueckauer et al. 2017",
        "as robust-norm, with a V_th for each channel",
        _ROBUST,
        per_channel=True,
        recalibrate=True,
        v_init=0.0,
    ),
    Recipe(
        "spike-norm",
        "Sengupta et al. 2019",
        "V_th is the largest input current of a layer, layer by layer, from the spikes of the "
        "layers before; v(0) = 0; reset to zero",
        _MAX,
        v_init=0.0,
        neuron=Neuron("ResetToZeroIF"),
        passes=(balance_thresholds,),
    ),
    Recipe(
        "rmp",
        "Han et al. 2020",
        "as spike-norm, V_th scaled by 0.8, 0.6 or 0.4, as fits the last layer best; reset by "
        "subtraction",
        _MAX,
        v_init=0.0,
        passes=(partial(balance_thresholds, scales=_RMP_SCALES),),
    ),
    Recipe(
        "tsc",
        "Han & Roy 2020",
        "as rmp; each input is switched on and off once in T time-steps",
        _MAX,
        v_init=0.0,
        passes=(partial(balance_thresholds, scales=_RMP_SCALES), switch_inputs),
    ),
    Recipe(
        "tcl",
        "Ho & Chang 2020",
        "V_th is the bound of a trained clip; v(0) = 0",
        None,
        v_init=0.0,
    ),
    Recipe(
        "rnl",
        "Ding et al. 2021",
        "V_th is the trained bound, or p times the largest activation of a layer, each p searched "
        "for T time-steps by the loss of the read-out; v(0) = 0",
        _MAX,
        v_init=0.0,
        passes=(partial(scale_thresholds, scales=_RNL_SCALES, factors=(0.8, 1.25), rounds=2),),
    ),
    Recipe(
        "opt",
        "Deng & Gu 2021",
        "V_th is the clip's bound, or the 99.9 percentile of a layer; V_th / 2T is added to its "
        "current; v(0) = 0",
        _ROBUST,
        v_init=0.0,
        passes=(shift_currents,),
    ),
    Recipe(
        "opi",
        "Bu et al. 2022",
        "V_th is the clip's bound, or the 99.9 percentile of a channel; v(0) = V_th / 2",
        _ROBUST,
        per_channel=True,
    ),
    Recipe(
        "pre-charged",
        "Hwang et al. 2021",
        "V_th is the 99.9 percentile of a layer, v(0) is searched layer by layer; the read-out "
        "begins after T / 4",
        _ROBUST,
        recalibrate=True,
        delay=0.25,
        passes=(partial(search_potentials, fractions=_QUARTERS),),
    ),
    Recipe(
        "calibration",
        "Li et al. 2021, light",
        "V_th is the least squared error of T time-steps, V_th / 2T is added; then biases per "
        "channel and v(0) per neuron are corrected layer by layer; v(0) = 0 before",
        _MMSE,
        recalibrate=True,
        maxpool="exact",
        v_init=0.0,
        passes=(shift_currents, partial(correct, potentials=True, rounds=1)),
    ),
    Recipe(
        "calibration-advanced",
        "Li et al. 2021, advanced",
        "as calibration, and weights by least squares on the layer's mean current",
        _MMSE,
        recalibrate=True,
        maxpool="exact",
        v_init=0.0,
        passes=(shift_currents, partial(correct, weights=True, potentials=True, rounds=1)),
    ),
    Recipe(
        "burst",
        "Li & Zeng 2022",
        "up to 5 spikes a time-step, V_th the 99.9 percentile of a layer; v(0) = 0; max-pools "
        "count spikes",
        _ROBUST,
        recalibrate=True,
        maxpool="exact",
        v_init=0.0,
        neuron=Neuron("BurstIF", max_spikes=5),
    ),
    Recipe(
        "signed",
        "Wang et al. 2022",
        "a neuron takes a spike back below -V_th; V_th is the largest activation of a channel; "
        "v(0) = 0",
        _MAX,
        per_channel=True,
        recalibrate=True,
        v_init=0.0,
        neuron=Neuron("SignedIF", negative=-1.0),
    ),
    Recipe(
        "srp",
        "Hao et al. 2023, AAAI",
        "after 4 time-steps, at most T / 2, start again, without the neurons whose residual "
        "potential is not positive; the read-out begins then; V_th as mmse",
        _MMSE,
        neuron=Neuron("ResidualIF"),
        delay=4,
    ),
    Recipe(
        "cos",
        "Hao et al. 2023, ICLR",
        "after 4 time-steps, at most T / 2, start again, v(0) shifted by V_th where a neuron "
        "fired too often or too rarely; the read-out begins then; V_th as mmse",
        _MMSE,
        neuron=Neuron("OffsetIF"),
        delay=4,
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
        "ltb",
        "Bu et al. 2025",
        "V_th by local threshold balancing, per channel; v(0) = V_th / 2; the read-out begins "
        "after T / 4",
        Statistic("balanced", 1000),
        per_channel=True,
        recalibrate=True,
        delay=0.25,
    ),
    Recipe(
        "best-binary",
        "this project; after Bu et al. 2022 and Li et al. 2021",
        "as mmse, V_th at most the 99.9 percentile; then weights and biases corrected for T "
        "time-steps, layer by layer, against the ANN's activations",
        _ROBUST_MMSE,
        per_channel=True,
        recalibrate=True,
        maxpool="exact",
        passes=(partial(correct, weights=True),),
    ),
    Recipe(
        "best",
        "this project; after Bu et al. 2022, Li et al. 2021 and Wang et al. 2022",
        "as best-binary, with neurons that take a spike back as soon as it was one too many",
        _ROBUST_MMSE,
        per_channel=True,
        recalibrate=True,
        maxpool="exact",
        neuron=Neuron("SignedIF", negative=0.0),
        passes=(partial(correct, weights=True),),
    ),
)


def recipe_by_name(name: str) -> Recipe:
    """A recipe of ``RECIPES``; raises ``DataError`` if there is none of that name."""
    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    raise DataError(f"there is no recipe '{name}', only {', '.join(r.name for r in RECIPES)}")


def as_recipe(recipe: Recipe | str) -> Recipe:
    """A recipe, or the one of this name; raises ``DataError`` if it is neither."""
    return recipe if isinstance(recipe, Recipe) else recipe_by_name(recipe)
