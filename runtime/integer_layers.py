"""A layer in 8 bits: its weights as whole numbers, and where in an image it reads."""

import math
from dataclasses import dataclass

import numpy as np

from .whole_numbers import WholeNumbers


@dataclass(frozen=True)
class Window:
    """How a convolution reads an image [N, C, H, W]; each (vertical, horizontal).

    ``pads``: (top, left, bottom, right).
    """

    image: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]

    @property
    def padded(self) -> tuple[int, int]:
        """The image's size with its pads."""
        (height, width), (top, left, bottom, right) = self.image, self.pads
        return height + top + bottom, width + left + right

    @property
    def places(self) -> tuple[int, int]:
        """The size of the result."""
        down, across = (
            (size - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, dilation in zip(
                self.padded, self.kernel, self.strides, self.dilations, strict=True
            )
        )
        return down, across

    @property
    def pixels(self) -> np.ndarray:
        """Which pixels of the padded image, row by row, each place reads: [places, kernel]."""
        rows, columns = (
            stride * np.arange(places)[:, np.newaxis] + dilation * np.arange(kernel)
            for places, stride, kernel, dilation in zip(
                self.places, self.strides, self.kernel, self.dilations, strict=True
            )
        )
        read = rows[:, np.newaxis, :, np.newaxis] * self.padded[1] + columns[:, np.newaxis]
        return read.reshape(len(rows) * len(columns), -1).astype(np.int32)


@dataclass(frozen=True)
class IntegerLayer:
    """y = scale (n codes) + bias, n being what the layer, a node, reads in whole numbers.

    ``codes``: the weights q, int8 [inputs of a sum, outputs]; the inputs of a convolution in the
    order vertical, horizontal, channel. ``scale`` and ``bias``: float32 [outputs].
    """

    node: str
    codes: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    reads: WholeNumbers
    window: Window | None

    @property
    def scratch(self) -> int:
        """Bytes for each sample, besides what a layer in float32 reads and makes."""
        inputs, outputs = self.codes.shape
        if self.window is None:
            return int(inputs)
        image = math.prod(self.window.padded) * inputs // math.prod(self.window.kernel)
        # The rows of windows give way to the result with its channels last, in float32.
        return int(image + math.prod(self.window.places) * max(inputs, 4 * outputs))
