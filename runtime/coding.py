"""How an input becomes one tensor a time-step."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from onnx2snn.graph_passes.errors import DataError

Coding = Literal["constant", "poisson"]


def encode(
    x: np.ndarray, timesteps: int, coding: Coding, varies: bool, seed: int
) -> Iterator[np.ndarray | None]:
    """Yield the input of each of ``timesteps`` time-steps, or None where it stays the same.

    constant: x itself, at every time-step (the paper's input).
    poisson: independent spikes, 1 with probability x, else 0; x must lie in [0, 1].
    With ``varies``, x is [T, N, ...] and time-step t reads x[t - 1].

    Raises ``DataError`` for an unknown coding and for probabilities outside [0, 1].
    """
    if coding not in ("constant", "poisson"):
        raise DataError(f"coding must be 'constant' or 'poisson', not {coding!r}")
    if coding == "poisson" and (x.min() < 0 or x.max() > 1):
        raise DataError(
            f"Poisson coding needs inputs in [0, 1], as probabilities of a spike; "
            f"these lie in [{x.min():g}, {x.max():g}]"
        )
    generator = np.random.default_rng(seed)
    for t in range(timesteps):
        now = x[t] if varies else x
        if coding == "poisson":
            yield (generator.random(now.shape) < now).astype(x.dtype)
        else:
            yield now if varies or t == 0 else None
