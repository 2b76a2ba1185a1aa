"""What a session is given, held against its plan."""

from collections.abc import Collection, Mapping

import numpy as np

from onnx2snn.graph_passes.errors import DataError
from onnx2snn.graph_passes.graph.broadcasting import may_fit
from onnx2snn.graph_passes.graph.neurons import MOST_COUNTED

from .inputs import (
    as_array,
    as_input,
    by_input_name,
    fits,
    remedy,
    require_same_numbers,
    samples_in,
)
from .plans.plan import Plan
from .result import Arrays


def checked_inputs(
    plan: Plan, x: np.ndarray | Mapping[str, np.ndarray], timesteps: int | None
) -> tuple[Arrays, set[str]]:
    """The inputs in the network's types, and the names of those with a leading time axis.

    timesteps: T, which that axis must have; None where any number will do. Raises ``DataError``
    for inputs that do not fit.
    """
    declared = {tensor.name: tensor for tensor in plan.inputs}
    given = by_input_name(x, list(declared), "the network")
    varying, inputs = set(), {}
    for name, tensor in declared.items():
        value, shape = given[name], tuple(tensor.shape)
        called = "x" if len(declared) == 1 else name
        one_more = value.ndim == len(shape) + 1
        # Images for a flat input are not over time.
        flattened = len(shape) == 2 and remedy(value.shape[1:], shape[1:])
        if one_more and (fits(value.shape[1:], shape) or not flattened):
            varying.add(name)
            if timesteps is not None and len(value) != timesteps:
                raise DataError(
                    f"{called} has {len(value)} time-steps on its first axis, not {timesteps}"
                )
            shape = (timesteps, *shape)
        inputs[name] = as_input(value, shape, np.dtype(tensor.dtype), name=called)
    sizes = {name: x.shape[1:] if name in varying else x.shape for name, x in inputs.items()}
    require_same_numbers(sizes, {name: tensor.shape for name, tensor in declared.items()})
    return inputs, varying


def samples_of(plan: Plan, values: Mapping[str, np.ndarray], varying: Collection[str] = ()) -> int:
    """N of a plan's inputs, or of what its step reads: [N, ...], those ``varying`` [T, N, ...]."""
    own = {name: value for name, value in values.items() if name not in plan.shared}
    return samples_in(own or values, varying)


def taken_states(plan: Plan, values: Mapping[str, np.ndarray]) -> Arrays:
    """States of a plan, all or some, in their types.

    Raises ``DataError`` for what is no mapping of them, or not of their shapes.
    """
    if not isinstance(values, Mapping):
        raise DataError(f"the state is a mapping of names to arrays, not {values!r}")
    clock = [] if plan.clock is None else [plan.clock]
    known = {state.read: state for state in (*plan.states, *plan.mean_states.values(), *clock)}
    unknown = set(values) - known.keys()
    if unknown:
        raise DataError(f"the network has no state {sorted(map(str, unknown))}")
    neurons = {neuron.name: neuron for neuron in plan.neurons}
    taken = {}
    for name, value in values.items():
        neuron = neurons.get(name.partition("/")[2])
        start = known[name].start
        array = as_array(value, f"the state '{name}'")
        if 0 in array.shape:
            raise DataError(f"the state '{name}' is empty: {list(array.shape)}")
        if neuron is not None and not may_fit(array.shape[1:], neuron.shape):
            raise DataError(
                f"the state '{name}' has shape {list(array.shape[1:])} for a sample, "
                f"its layer {list(neuron.shape)}"
            )
        taken[name] = array = _numbers(array, start.dtype, name, infinite=neuron is None)
        if clock and name == clock[0].read:
            taken[name] = array = _time(array, name).reshape(start.shape)
        if array.ndim != start.ndim:
            raise DataError(
                f"the state '{name}' has shape {array.shape}, and not {start.ndim} axes"
            )
    return taken


def _numbers(value: np.ndarray, dtype: np.dtype, name: str, infinite: bool) -> np.ndarray:
    """A state in its type; ``infinite``: whether it may be, as the sum of a mask is."""
    known = value.dtype.kind in "fiu"
    if known:
        with np.errstate(over="ignore"):
            value = value.astype(dtype)
    if not known or np.any(np.isnan(value)) or not (infinite or np.all(np.isfinite(value))):
        raise DataError(f"the state '{name}' must hold finite numbers, of {dtype}")
    return value


def _time(value: np.ndarray, name: str) -> np.ndarray:
    if value.size != 1 or not 0 <= value.flat[0] < MOST_COUNTED or value.flat[0] % 1:
        raise DataError(f"the state '{name}' is a whole number of time-steps, not {value.tolist()}")
    return value
