"""A layer in 8 bits: its weights as whole numbers."""

import math
from dataclasses import dataclass

import numpy as np

from .whole_numbers import WholeNumbers
from .windows import Window


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
