"""The range of inputs, by which data shows that it is prepared otherwise than other data."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .samples import Data, Inputs, by_name, number_of

Ranges = dict[str, np.ndarray]
"""Of each sample the least and the largest number, float64 [N, 2], by input; NaN if not yet read.
"""

FEWEST = 8
"""Samples whose ranges say what is common."""

FAR = 0.5
"""Of the narrower of two ranges, how far ends of the other are from its own where they differ.

Pixels in [0, 1], and normalised by any mean in it and a standard deviation of 0.5 or less, do.
"""


def with_ranges(data: Data) -> tuple[Data, Ranges]:
    """The data, and the ranges of what is read of it."""
    ranges: Ranges = {}

    def read(batch_size: int) -> Iterator[Inputs]:
        start = 0
        for x in data.read(batch_size):
            now = slice(start, start + number_of(x))
            for name, value in by_name(x).items():
                known = ranges.setdefault(name, np.full((data.samples, 2), np.nan))
                if value.dtype.kind in "fiub" and value.size and np.any(np.isnan(known[now])):
                    rows = value.reshape(len(value), -1)
                    known[now] = np.stack([rows.min(axis=1), rows.max(axis=1)], axis=1)
            start = now.stop
            yield x

    return replace(data, read=read), ranges


def common_ranges(ranges: Ranges) -> dict[str, list[float]]:
    """From where to where a sample's numbers are as a rule, by input: the medians.

    Nothing of an input of which fewer than ``FEWEST`` samples were read.
    """
    known = {name: values[np.isfinite(values).all(axis=1)] for name, values in ranges.items()}
    return {n: np.median(v, axis=0).tolist() for n, v in known.items() if len(v) >= FEWEST}


def notes_on_ranges(calibrated: Mapping[str, Any], found: Mapping[str, list[float]]) -> list[str]:
    """That inputs have another range than those of the calibration data, of ``common_ranges`` both.

    What ``calibrated`` holds may come from a file: what are no two numbers says nothing.
    """
    return [
        f"the numbers of input '{name}' are from {low:.3g} to {high:.3g} as a rule, in the "
        f"calibration data from {least:.3g} to {most:.3g}: prepare both as in training"
        for name, (low, high) in found.items()
        for least, most in _two_numbers(calibrated.get(name))
        if max(abs(low - least), abs(high - most)) > FAR * min(high - low, most - least) > 0
    ]


def _two_numbers(value: Any) -> list[tuple[float, float]]:
    match value:
        case [int() | float() as low, int() | float() as high]:
            return [(low, high)]
    return []
