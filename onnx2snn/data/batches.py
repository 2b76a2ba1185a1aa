"""How many samples run at once, where that is not said."""

import math

import numpy as np

from onnx2snn.ann import has_neurons
from onnx2snn.graph_passes import (
    dequantize_layers,
    run_passes,
    split_attention,
    split_fused_layers,
    to_graph,
    upgrade_opset,
)
from onnx2snn.graph_passes.errors import Onnx2SnnError, optional_whole
from onnx2snn.graph_passes.graph.operators import INTEGER_LAYERS
from onnx2snn.graph_passes.model_files.io import to_parts
from onnx2snn.graph_passes.model_files.limits import bytes_of, shapes_from_inputs
from onnx2snn.graph_passes.model_files.weights import ModelParts, copy_model
from onnx2snn.inspection import inputs_of
from onnx2snn.runtime.inputs import fixed_batch

from .samples import Data

MOST_SAMPLES = 100
"""Where their activations are small."""

MOST_BYTES = 2**31
"""Of the tensors of a batch together, where more samples than one run at once.

Calibration on a ResNet-50 of 224 x 224 (56 MB a sample) took 2.0 GB of memory for 32 samples.
"""

OVER_TIME, WATCHED = 3, 6
"""How many times its tensors a spiking network takes in a run: states, counts and read-outs.

And where all that its neurons read and emit is added up. Of a MobileNetV2 with ``best``, of 102 MB
a sample, evaluation took 270 MB a sample and diagnosis 610.
"""


def samples_at_once(
    model: ModelParts,
    data: Data,
    batch_size: int | None,
    held: int = 1,
    beside: ModelParts | None = None,
) -> int:
    """``batch_size`` where it is given, else ``MOST_SAMPLES``, or as many as ``MOST_BYTES`` hold.

    held: how many times the bytes of its tensors a sample takes. beside: an ANN that runs the same
    batches.

    At least one, and whole batches of a network of a fixed batch size: one of a spiking network,
    any number of an ANN, which ``Ann.run`` takes apart. All where the number of samples is the size
    of another axis of an input, too, as of the nodes of a graph beside its matrix [N, N]. What is
    not known of the sizes of its tensors does not count. Raises ``DataError`` for a ``batch_size``
    that is none.
    """
    batch_size = optional_whole("batch_size", batch_size, 1)
    once = _fixed_batch(model, data)
    spiking = has_neurons(model.structure.graph.node)
    if once and spiking and (batch_size is None or batch_size % once == 0):
        return once
    if batch_size is not None:
        return batch_size
    inputs = [info.name for info in inputs_of(model.structure)]
    if not inputs:
        return MOST_SAMPLES
    if are_samples_elsewhere(model, data):
        return data.samples
    samples = once or 1
    try:
        known = bytes_of_tensors(_in_plain(model), samples, data.shapes_of(inputs))
        each = sum(known.values()) / samples
    except Onnx2SnnError:
        # Data that does not fit, or a network, which a run says in other words.
        return MOST_SAMPLES
    most = int(np.clip(MOST_BYTES // max(held * each, 1), 1, MOST_SAMPLES))
    fixed = [once, None if beside is None else _fixed_batch(beside, data)]
    whole = math.lcm(*(size for size in fixed if size))
    return max(most // whole, 1) * whole


def _in_plain(model: ModelParts) -> ModelParts:
    """Without operators of which it is not known how large results are, or what is within."""
    within = {*INTEGER_LAYERS, "Attention"}
    nodes = model.structure.graph.node
    if not any(node.op_type in within or node.domain == "com.microsoft" for node in nodes):
        return model
    graph = to_graph(upgrade_opset(model))
    run_passes(graph, [split_fused_layers, split_attention, dequantize_layers])
    return to_parts(graph)


def are_samples_elsewhere(model: ModelParts, data: Data) -> bool:
    """Whether an input is [N, N, ...], as it is in the data, too."""
    inputs = {info.name: info.type.tensor_type.shape.dim for info in inputs_of(model.structure)}
    square = {
        name
        for name, sizes in inputs.items()
        if len(sizes) > 1 and sizes[0].dim_param == sizes[1].dim_param != ""
    }
    shapes = data.shapes_of(inputs)
    return any(_is_square(shapes[name], data.samples) for name in square if name in shapes)


def may_be_of_a_graph(data: Data) -> bool:
    """Whether an array beside others has samples along its second axis, too, as [N, N]."""
    shapes = list((data.shapes or {}).values())
    return len(shapes) > 1 and any(_is_square(shape, data.samples) for shape in shapes)


def _is_square(shape: tuple[int, ...], samples: int) -> bool:
    return shape[:2] == (samples, samples)


def _fixed_batch(model: ModelParts, data: Data) -> int | None:
    """The number of samples that the inputs of a model, which the data has, declare."""
    inputs = {info.name: info.type.tensor_type.shape.dim for info in inputs_of(model.structure)}
    shapes = [inputs[name] for name in data.shapes_of(inputs) if name in inputs]
    return fixed_batch([size.dim_value for size in shape[:1]] for shape in shapes)


def bytes_of_tensors(
    model: ModelParts, samples: int, shapes: dict[str, tuple[int, ...]]
) -> dict[str, int]:
    """Bytes of each tensor of a model for so many samples, by name, as far as sizes are known.

    ``shapes``: [N, ...] or [T, N, ...] of inputs, for sizes that are open. Raises ``ModelError`` if
    they do not fit.
    """
    structure = copy_model(model.structure)
    known = {info.name: bytes_of(info, "the model") for info in structure.graph.value_info}
    for info in structure.graph.input:
        sizes, shape = info.type.tensor_type.shape.dim, shapes.get(info.name, ())
        over_time = len(shape) - len(sizes)
        known_sizes = (samples, *shape[over_time + 1 :]) if over_time in (0, 1) else ()
        for size, length in zip(sizes, known_sizes, strict=False):
            if not size.HasField("dim_value"):
                size.dim_value = length
    for name, info in shapes_from_inputs(structure, "the model").items():
        known[name] = max(known.get(name, 0), bytes_of(info, "the model"))
    return known
