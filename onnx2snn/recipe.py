"""What a recipe is: the settings of a conversion, and passes over the spiking network.

One's own is made from nothing, or from one that has a name by ``dataclasses.replace``; its passes
are functions of a ``spiking.Spiking`` that say whether they changed anything.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from onnx2snn.graph_passes.driver import pass_name, unbound
from onnx2snn.graph_passes.errors import DataError, is_number
from onnx2snn.graph_passes.graph.operators import MaxPool
from onnx2snn.graph_passes.initial_potential import InitialPotential
from onnx2snn.graph_passes.neuron_kinds import require_kind

from .converting.statistics import FOR_TIMESTEPS, Statistic
from .json_values import has_json
from .spiking_passes.spiking import Spiking
from .spiking_passes.traits import traits_of

DEFAULT_TIMESTEPS = 16
"""The T that a conversion is made for where none is given."""

SpikingPass = Callable[[Spiking], bool]
"""Changes a spiking network that it may measure; what else it needs is bound with ``partial``."""

_WITHOUT = {"per_channel": "--per-layer", "recalibrate": "--keep-bounds"}
"""Options for settings that are False."""


@dataclass(frozen=True)
class Neuron:
    """The kind of neurons.

    ``op``: IF, ResetToZeroIF, SignedIF, BurstIF, SignedBurstIF, ResidualIF or OffsetIF
    (docs/neurons.md). ``negative``: the fraction of V_th below which a SignedIF takes a spike back.
    ``max_spikes``: of a BurstIF or a SignedBurstIF in one time-step. Raises ``ModelError`` and
    ``DataError`` as ``change_neurons``.
    """

    op: str = "IF"
    negative: float = -1.0
    max_spikes: int = 5

    def __post_init__(self) -> None:
        require_kind(self.op, self.negative, self.max_spikes)


@dataclass(frozen=True)
class Recipe:
    """One way to convert a trained network.

    ``threshold``: the statistic of the activations that gives V_th; for a kind of "mmse" that
    of the T in question; None where only bounds that the network was trained with will do.
    ``recalibrate``: for clips too, where it is below their bound. ``v_init``, ``neuron`` and
    ``delay`` go with any recipe: v(0), the kind of neurons, and what the read-out leaves out at
    the start, in time-steps or, below 1, as a share of T; at most half of T. ``passes``: what
    is then done to the spiking network, in order. ``headroom``: what thresholds from data are
    multiplied by, at most to a clip's bound, for neurons that share it out among several spikes.
    Raises ``DataError`` for a ``name``, ``source`` or ``what`` that is no text, and a
    ``threshold``, ``per_channel``, ``recalibrate``, ``neuron``, ``delay``, ``passes`` or
    ``headroom`` that is none.
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
    headroom: float = 1.0

    def __post_init__(self) -> None:
        room = is_number(self.headroom) and self.headroom > 0
        delays = is_number(self.delay) and self.delay >= 0
        texts = ("name", "source", "what")
        checks = {name: (isinstance(getattr(self, name), str), "text") for name in texts} | {
            "threshold": (isinstance(self.threshold, Statistic | None), "a Statistic or None"),
            "headroom": (room, "a positive number"),
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

        settings: those that someone gave, by the names that ``convert`` has for them.
        """
        for name, value in settings.items():
            option = f"--{name.replace('_', '-')}"
            if value is False:
                option = _WITHOUT.get(name, option)
            for function in self.passes:
                # Repeating the recipe's own threshold or per_channel is harmless; a given v(0) or
                # recalibrate never is, since the pass overwrites it.
                same = name in ("threshold", "per_channel") and value == getattr(self, name)
                if name in traits_of(function).overwrites and not same:
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

    def decides(self, name: str) -> bool:
        """Whether a pass of this recipe overwrites a setting."""
        return any(name in traits_of(function).overwrites for function in self.passes)

    def delay_for(self, timesteps: int) -> int:
        """How many time-steps the read-out leaves out, of T."""
        steps = self.delay * timesteps if self.delay < 1 else self.delay
        # Rounded first, since 0.29 * 100 is a little less than 29.
        return min(int(round(steps, 9)), timesteps // 2)

    @property
    def is_for_timesteps(self) -> bool:
        """Whether a conversion is made for a T, and another T needs another conversion."""
        passes = not all(traits_of(function).for_any_t for function in self.passes)
        return passes or self.delay > 0 or self.statistic(1) != self.statistic(2)

    @property
    def is_told_by_definition(self) -> bool:
        """Whether two recipes of this definition convert alike: its passes are this package's.

        What others do, a function within a function, say, or one that wraps one of these, their
        names do not tell; nor is it told what they are given that has no form in JSON.
        """
        named = all(
            not getattr(function, "args", ()) and all(map(has_json, _settings(function).values()))
            for function in self.passes
        )
        return named and all(map(_is_of_the_package, self.passes))

    def definition(self) -> dict[str, Any]:
        """All settings, in JSON's types; of what has no form there, the name of its type."""
        kept = asdict(replace(self, passes=())) | {
            "passes": [_pass_definition(f) for f in self.passes]
        }
        return {k: v for k, v in kept.items() if k not in ("name", "source", "what")}


def _is_of_the_package(function: SpikingPass) -> bool:
    """Whether a pass is what a module of this package has by its name."""
    plain = unbound(function)
    module = sys.modules.get(getattr(plain, "__module__", None) or "")
    if module is None or module.__name__.partition(".")[0] != __name__.partition(".")[0]:
        return False
    return getattr(module, getattr(plain, "__name__", ""), None) is plain


def _settings(function: SpikingPass) -> dict[str, Any]:
    return dict(function.keywords) if isinstance(function, partial) else {}


def _pass_definition(function: SpikingPass) -> dict[str, Any]:
    settings = {
        name: value if has_json(value) else type(value).__name__
        for name, value in _settings(function).items()
    }
    return {"pass": pass_name(function), **settings}
