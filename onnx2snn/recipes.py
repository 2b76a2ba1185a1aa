"""Every way to convert that has a name: the passes and settings that its paper stands for."""

from functools import partial

from onnx2snn.graph_passes.errors import DataError

from .converting.statistics import Statistic
from .recipe import DEFAULT_TIMESTEPS, Neuron, Recipe
from .spiking_passes import (
    balance_thresholds,
    cap_thresholds,
    correct,
    divide_thresholds,
    scale_thresholds,
    search_potentials,
    shift_currents,
    switch_inputs,
)

_MAX = Statistic("max")
_ROBUST = Statistic("percentile", 99.9)
_MMSE = Statistic("mmse", DEFAULT_TIMESTEPS)
_ROBUST_MMSE = Statistic("robust-mmse", DEFAULT_TIMESTEPS)
_RMP_SCALES = (0.8, 0.6, 0.4)
_RNL_SCALES = (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1)
_EIGHTHS = tuple(i / 8 for i in range(9))

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
        passes=(partial(search_potentials, fractions=_EIGHTHS),),
    ),
    Recipe(
        "calibration",
        "Li et al. 2021, light",
        "V_th is the least squared error of T time-steps, V_th / 2T is added; then biases per "
        "channel and v(0) per neuron are corrected layer by layer; v(0) = 0 before; max-pools "
        "count spikes",
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
        "up to 5 spikes a time-step, V_th the 99.9 percentile of a layer, at most 1 / 5 of a "
        "clip's bound; v(0) = 0; max-pools count spikes",
        _ROBUST,
        recalibrate=True,
        maxpool="exact",
        v_init=0.0,
        neuron=Neuron("BurstIF", max_spikes=5),
        passes=(cap_thresholds,),
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
        "potential is not positive; the read-out begins then; V_th is the clip's bound, or the "
        "least squared error of T time-steps, per layer",
        _MMSE,
        neuron=Neuron("ResidualIF"),
        delay=4,
    ),
    Recipe(
        "cos",
        "Hao et al. 2023, ICLR",
        "after 4 time-steps, at most T / 2, start again, v(0) shifted by V_th where a neuron "
        "fired too often or too rarely; the read-out begins then; V_th is the clip's bound, or the "
        "least squared error of T time-steps, per layer",
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
        "as mmse, V_th without outliers; then weights and biases corrected for T "
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
    Recipe(
        "best-burst",
        "this project; as best, and Li & Zeng 2022",
        "as best, with up to 4 spikes of either sign in a time-step, which together say 1.5 times "
        "the statistic of best, at most a clip's bound",
        _ROBUST_MMSE,
        per_channel=True,
        recalibrate=True,
        maxpool="exact",
        neuron=Neuron("SignedBurstIF", max_spikes=4),
        passes=(divide_thresholds, partial(correct, weights=True)),
        headroom=1.5,
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
