"""Where in an image a convolution reads."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx2snn.graph_passes.model_files.protos import attributes_of


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
    def pads_of_axes(self) -> np.ndarray:
        """The pads as ONNX's Pad has them, of four axes with the image's in the middle."""
        top, left, bottom, right = self.pads
        return np.array([0, top, left, 0, 0, bottom, right, 0])

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


def window_of(node: onnx.NodeProto, weights: Sequence[int], image: Sequence[int]) -> Window | str:
    """The window of a convolution of images in one group; or why it has none.

    ``weights``: the shape of its weights; ``image``: that of what it reads, [C, H, W].
    """
    attributes = attributes_of(node)
    plain = node.op_type == "Conv" and attributes.get("group", 1) == 1
    if not plain or len(weights) != 4 or len(image) != 3:
        return "is no convolution of images of a fixed size in one group"
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        return "has automatic pads"
    return Window(
        image=(image[1], image[2]),
        kernel=(weights[2], weights[3]),
        strides=tuple(attributes.get("strides", (1, 1))),
        dilations=tuple(attributes.get("dilations", (1, 1))),
        pads=tuple(attributes.get("pads", (0, 0, 0, 0))),
    )
