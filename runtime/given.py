"""What a session is given, held against its plan."""

from collections.abc import Mapping

import numpy as np

from onnx2snn.graph_passes.errors import DataError

from .inputs import as_array, as_input, broadcasts, by_input_name, require_same_numbers
from .plan import Plan
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
        if value.ndim == len(shape) + 1:
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


def require_states(plan: Plan, values: Mapping[str, np.ndarray]) -> None:
    """Raise ``DataError`` for what is no mapping of the plan's states, or not of their shapes."""
    if not isinstance(values, Mapping):
        raise DataError(f"the state is a mapping of names to arrays, not {values!r}")
    clock = [] if plan.clock is None else [plan.clock]
    known = {state.read for state in (*plan.states, *plan.totals.values(), *clock)}
    unknown = set(values) - known
    if unknown:
        raise DataError(f"the network has no state {sorted(map(str, unknown))}")
    neurons = {neuron.name: neuron for neuron in plan.neurons}
    for name, value in values.items():
        shape = as_array(value, f"the state '{name}'").shape
        if 0 in shape:
            raise DataError(f"the state '{name}' is empty: {list(shape)}")
        if plan.clock is not None and name == plan.clock.read:
            _require_time(name, np.asarray(value))
        neuron = neurons.get(name.partition("/")[2])
        if neuron is not None and not broadcasts(shape[1:], neuron.shape):
            raise DataError(
                f"the state '{name}' has shape {list(shape[1:])} for a sample, "
                f"its layer {list(neuron.shape)}"
            )


def _require_time(name: str, value: np.ndarray) -> None:
    """Raise ``DataError`` for what is no number of time-steps."""
    if value.size != 1 or not 0 <= value.flat[0] < 2**24 or value.flat[0] % 1:
        raise DataError(f"the state '{name}' is a whole number of time-steps, not {value.tolist()}")
