"""Whether what broadcasts to a tensor leaves it as large as it is."""

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

Shape = Sequence[int | str] | None
"""The sizes of a tensor, those that are open by name; None where not even the rank is known."""


def surely_fits(small: Shape, shape: Shape) -> bool:
    """Whether it is known that ``shape`` stays what it is beside ``small``.

    Open sizes are one if they have one name; of others any may be 1, and a number has no axes.
    """
    if small is None or shape is None:
        return small is not None and not small
    sizes = zip(reversed(small), reversed(shape), strict=False)
    return len(small) <= len(shape) and all(size in (1, axis) for size, axis in sizes)


def may_fit(small: Sequence[int], shape: Shape) -> bool:
    """Whether no size that is known forbids that ``shape`` stays what it is beside ``small``."""
    if shape is None:
        return True
    sizes = zip(reversed(small), reversed(shape), strict=False)
    same = all(size in (1, axis) or not isinstance(axis, int) for size, axis in sizes)
    return same and len(small) <= len(shape)


def constant_fits(value: np.ndarray, tensor: gs.Tensor) -> bool:
    """Whether a constant is of floating-point numbers, and is known to fit a tensor."""
    return value.dtype.kind == "f" and surely_fits(value.shape, tensor.shape)
