"""Weights of layers that read and make multiples of what they did."""

import numpy as np

_SOME = 2**16
"""Of the weights of a layer, as many tell how long they are."""

_LONGEST = 22
"""Digits of weights whose sums may be exact: of float32's 24, thresholds that are no powers of two
take another two."""


def is_long(weights: np.ndarray) -> bool:
    """Whether sums of float32 weights round: they have more than 22 binary digits.

    From the first of the largest to the last of any.
    """
    some = np.ascontiguousarray(weights.reshape(-1)[:_SOME])
    fractions, exponents = np.frexp(some[some != 0])
    if not fractions.size:
        return False
    whole = (fractions * 2.0**24).astype(np.int64)
    last = exponents - 24 + np.frexp(whole & -whole)[1] - 1
    return bool(exponents.max() - last.min() > _LONGEST)


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
    quotient = product.reshape(whole.shape)
    # In place: glibc would keep the memory of one more array while a graph is made.
    quotient /= outputs.reshape(made, 1, *ones)
    return np.ascontiguousarray(quotient if rows else quotient.T)
