"""What a tensor of a spiking network is in NIR, for ``nir_nodes``: sources, and V_th to come."""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes.graph.affine import per_channel


@dataclass
class Signal:
    """A tensor in NIR: ``scale`` times the sum of what nodes ``sources`` emit.

    ``shape``: that of a sample; ``scale`` broadcasts against it. None: 1.
    """

    sources: tuple[str, ...]
    shape: tuple[int, ...]
    scale: np.ndarray | None = None


class Refused(Exception):  # noqa: N818
    """Why a node cannot be written."""


def sizes_of(tensor: gs.Tensor) -> tuple[int, ...] | None:
    """The shape of a sample; None where a size is not fixed."""
    if tensor.shape is None or not all(isinstance(size, int) for size in tensor.shape[1:]):
        return None
    return tuple(tensor.shape[1:])


def require_axes(tensor: gs.Variable) -> None:
    """Raise ``Refused`` unless the shape of a sample is known, and has an axis."""
    sizes = sizes_of(tensor)
    if sizes is None:
        raise Refused(f"the sizes of '{tensor.name}' are not fixed: NIR files state them")
    if not sizes:
        raise Refused(
            f"a sample of '{tensor.name}' is one number, and NIR's nodes want an axis: make it "
            "[N, 1], as without a Squeeze"
        )


def spread(scale: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """A factor for each number of a sample, of the sample's shape."""
    return np.array(np.broadcast_to(1.0 if scale is None else scale, shape))


def factors_of_channels(scale: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """A factor for each channel, [C]; None if it differs within one."""
    factors = per_channel(np.ones(()) if scale is None else scale, len(shape) + 1)
    return None if factors is None else np.array(np.broadcast_to(factors, shape[0]))


def times(weight: np.ndarray, factors: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """W' = W V_th, rounded once; W itself if there is nothing to do."""
    if scale is None:
        return weight
    scaled: np.ndarray = (weight.astype(np.float64) * factors).astype(weight.dtype)
    return scaled
