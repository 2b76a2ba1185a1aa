"""Which tensors of a step are whole numbers times a constant: spikes, their means and maxima."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import onnx
from onnx import helper

from onnx2snn.graph_passes.graph.neurons import COUNTING, DOMAIN
from onnx2snn.graph_passes.graph.operators import MAX_POOLS, SPIKING_POOLS
from onnx2snn.graph_passes.model_files.inference import inferred
from onnx2snn.graph_passes.model_files.protos import attributes_of
from onnx2snn.graph_passes.model_files.weights import copy_model
from onnx2snn.runtime.plans.plan import NeuronLayer

from .scaled_weights import of_channels

SampleShape = tuple[int, ...]

_LAYOUT = ("Identity", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class WholeNumbers:
    """A tensor [N, ...] of whole numbers from ``lowest`` to ``highest`` times ``unit``.

    unit: float32, () or [C], along axis 1.
    """

    unit: np.ndarray
    lowest: int
    highest: int


def whole_numbers(
    step: onnx.ModelProto, neurons: Sequence[NeuronLayer], shapes: Mapping[str, SampleShape]
) -> dict[str, WholeNumbers]:
    """What neurons emit, and what layouts, pools and Concat make of it, by name.

    ``shapes``: of samples. A neuron that has a threshold for each place emits nothing of
    the kind, since the unit goes into weights that all places share.
    """
    found: dict[str, WholeNumbers] = {}
    for neuron in neurons:
        threshold = neuron.threshold
        if of_channels(threshold, threshold.size, len(neuron.shape)):
            unit = threshold.reshape(-1 if threshold.size > 1 else ())
            lowest = -neuron.max_spikes if neuron.op in COUNTING else 0
            found[neuron.spikes] = WholeNumbers(unit, lowest, neuron.max_spikes)
    # In topological order, so that what a node reads is known.
    for node in step.graph.node:
        if node.output[0] not in found and any(name in found for name in node.input):
            made = _through(node, found, shapes)
            if made is not None:
                found[node.output[0]] = made
    return found


def _through(
    node: onnx.NodeProto, found: Mapping[str, WholeNumbers], shapes: Mapping[str, SampleShape]
) -> WholeNumbers | None:
    """What a node makes of whole numbers; None if that is not known to be such."""
    x = found.get(node.input[0])
    before, after = shapes.get(node.input[0]), shapes.get(node.output[0])
    if node.op_type == "Concat":
        return _concat(node, found, shapes)
    if x is None or node.domain not in ("", DOMAIN):
        return None
    if node.op_type in (*MAX_POOLS, *SPIKING_POOLS):
        return x
    if node.op_type in ("AveragePool", "GlobalAveragePool") and before is not None:
        size = _common_multiple(node, before[1:])
        if size is None:
            return None
        return WholeNumbers(x.unit / np.float32(size), x.lowest * size, x.highest * size)
    if node.op_type not in _LAYOUT:
        return None
    if x.unit.ndim == 0 or node.op_type == "Identity":
        return x
    if before is None or after is None or after != (math.prod(before),):
        return None
    return WholeNumbers(x.unit.repeat(after[0] // len(x.unit)), x.lowest, x.highest)


def _common_multiple(node: onnx.NodeProto, image: SampleShape) -> int | None:
    """The least common multiple of how many pixels the means are of; None if unknown.

    Windows at the border have fewer where a pool does not count its pads.
    """
    if node.op_type == "GlobalAveragePool":
        return math.prod(image)
    attributes = attributes_of(node)
    kernel: list[int] = attributes["kernel_shape"]
    automatic = attributes.get("auto_pad", b"NOTSET") != b"NOTSET"
    if automatic or attributes.get("ceil_mode") or set(attributes.get("dilations", [1])) != {1}:
        return None
    own = attributes.get("pads", [0] * 2 * len(kernel))
    pads, strides = np.reshape(own, (2, -1)).tolist(), attributes.get("strides", [1] * len(kernel))
    if any(k > size + sum(ends) for size, k, *ends in zip(image, kernel, *pads, strict=False)):
        # Runtimes disagree of how many pixels such a window is.
        return None
    if not any(own) or attributes.get("count_include_pad"):
        return math.prod(kernel)
    lengths = [
        {min(start + k, size) - max(start, 0) for start in range(-first, size + last - k + 1, step)}
        for size, k, step, first, last in zip(image, kernel, strides, *pads, strict=False)
    ]
    return math.lcm(*(math.prod(window) for window in product(*lengths)))


def _concat(
    node: onnx.NodeProto, found: Mapping[str, WholeNumbers], shapes: Mapping[str, SampleShape]
) -> WholeNumbers | None:
    """Channels one after the other; None unless all are whole numbers."""
    if attributes_of(node)["axis"] != 1 or not all(n in found and n in shapes for n in node.input):
        return None
    read = [found[name] for name in node.input]
    units = [np.broadcast_to(found[name].unit, shapes[name][0]) for name in node.input]
    lowest, highest = min(x.lowest for x in read), max(x.highest for x in read)
    return WholeNumbers(np.concatenate(units), lowest, highest)


def shapes_of(step: onnx.ModelProto, neurons: Sequence[NeuronLayer]) -> dict[str, SampleShape]:
    """The shape of one sample of each of a step's tensors [N, ...], where the neurons' fix it."""
    model = copy_model(step)
    for neuron in neurons:
        kind = helper.np_dtype_to_tensor_dtype(neuron.threshold.dtype)
        info = helper.make_tensor_value_info(neuron.spikes, kind, ["N", *neuron.shape])
        model.graph.value_info.append(info)
    found = inferred(model)
    shapes = {
        info.name: info.type.tensor_type.shape.dim[1:]
        for info in (*found.graph.value_info, *found.graph.output)
    }
    return {
        name: tuple(size.dim_value for size in sizes)
        for name, sizes in shapes.items()
        if all(size.HasField("dim_value") for size in sizes)
    }
