"""Weights of layers that read and make multiples of what they did."""

import numpy as np

_SOME = 2**16
"""Of the weights of a layer, as many tell how long they are."""


def is_long(weights: np.ndarray) -> bool:
    """Whether some of them need more than 16 of the 24 bits of float32, so that sums round."""
    some = np.ascontiguousarray(weights.reshape(-1)[:_SOME])
    return bool(np.any(some.view(np.int32) & 0xFF))


def of_channels(factor: np.ndarray, count: int, rank: int) -> bool:
    """Whether a factor of a sample's tensor is one number, or one for each of so many channels.

    ``rank``: of the sample; such a factor is [C, 1, ...].
    """
    return factor.size == 1 or (factor.ndim == rank and factor.size == factor.shape[0] == count)


def scaled(
    weights: np.ndarray, rows: bool, group: int, inputs: np.ndarray, outputs: np.ndarray
) -> np.ndarray:
    """Weights of a layer that reads x / ``inputs`` where it read x, and makes y / ``outputs``.

    weights: float32, of a convolution in so many groups, [C_out, C_in / group, ...], or a matrix,
    [C_out, C_in] where ``rows``, else [C_in, C_out]. inputs: one number, or C_in. outputs: C_out.
    """
    whole = weights if rows else weights.T
    made, read, *kernel = whole.shape
    ones = (1,) * len(kernel)
    each = np.resize(inputs, read * group).reshape(group, 1, read, *ones)
    product = whole.reshape(group, made // group, read, *kernel) * each
    quotient = product.reshape(whole.shape) / outputs.reshape(made, 1, *ones)
    return np.ascontiguousarray(quotient if rows else quotient.T)
