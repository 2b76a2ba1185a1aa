"""How an input becomes one tensor a time-step."""

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np

from onnx2snn.graph_passes.errors import DataError, require_one_of, require_whole

Coding = Literal["constant", "poisson"]


def check_coding(coding: str, seed: int) -> None:
    """Raise ``DataError`` for an invalid coding or seed."""
    require_whole("seed", seed, 0)
    require_one_of("coding", coding, Coding)


def encode(
    inputs: dict[str, np.ndarray], timesteps: int, coding: Coding, varying: set[str], seed: int
) -> Iterator[dict[str, np.ndarray]]:
    """The inputs of each of ``timesteps`` time-steps.

    constant: the inputs themselves (the paper's input).
    poisson: independent spikes, 1 with probability x, else 0; x must lie in [0, 1]. Inputs that are
    no floats, such as masks and indices, stay as they are.
    The inputs named in ``varying`` are [T, N, ...]; time-step t reads x[t - 1].

    Raises ``DataError`` for probabilities outside [0, 1], and with poisson where there are none.
    """
    times = range(timesteps)
    over_time = ({n: x[t] if n in varying else x for n, x in inputs.items()} for t in times)
    if coding == "constant":
        return over_time
    _require_probabilities({n: x for n, x in inputs.items() if x.dtype.kind == "f"})
    return _drawn(over_time, seed)


def _require_probabilities(inputs: dict[str, np.ndarray]) -> None:
    if not inputs:
        raise DataError("Poisson coding needs an input of floats, as probabilities of a spike")
    for name, x in inputs.items():
        if x.min() < 0 or x.max() > 1:
            raise DataError(
                f"Poisson coding needs inputs in [0, 1], as probabilities of a spike; those of "
                f"'{name}' lie in [{x.min():g}, {x.max():g}]"
            )


def _drawn(
    probabilities: Iterable[dict[str, np.ndarray]], seed: int
) -> Iterator[dict[str, np.ndarray]]:
    generator = np.random.default_rng(seed)

    def drawn(x: np.ndarray) -> np.ndarray:
        return (generator.random(x.shape) < x).astype(x.dtype) if x.dtype.kind == "f" else x

    for now in probabilities:
        yield {name: drawn(x) for name, x in now.items()}
