"""Graphs in the layout in which ONNX Runtime convolves on this CPU."""

import math
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from onnx2snn.graph_passes.errors import ModelError, first_line, from_onnxruntime
from onnx2snn.graph_passes.model_files.weights import STAYS_INLINE, ModelParts, stub
from onnx2snn.runtime.failures import OUT_OF_MEMORY, lacks_memory
from onnx2snn.runtime.providers import CPU, quiet_options, start
from onnx2snn.runtime.sessions import give_weights


def in_layout_of_cpu(parts: ModelParts) -> ModelParts:
    """The graph that ONNX Runtime makes of a model for this CPU, with the weights in its layout.

    Convolutions and what it knows besides are then on tensors of blocked channels, where the CPU
    has instructions for it: nodes of the domain ``com.microsoft.nchwc``, which ONNX Runtime loads.
    Raises ``OSError`` if the folder for temporary files is missing, or has no room for them.
    """
    options = quiet_options()
    options.intra_op_num_threads = 1
    given = give_weights(options, parts.weights)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "laid_out.onnx")
        options.optimized_model_filepath = str(path)
        external = "session.optimized_model_external_initializers_"
        options.add_session_config_entry(f"{external}file_name", "weights")
        options.add_session_config_entry(f"{external}min_size_in_bytes", str(STAYS_INLINE))
        # That fusion would take convolutions out of the layout.
        fusion = "ConvAddActivationFusion"
        make = partial(start, parts.structure.SerializeToString(), options, [CPU], without=[fusion])
        try:
            make()
        except Exception as error:
            if not from_onnxruntime(error):
                raise
            if lacks_memory(error):
                raise ModelError(OUT_OF_MEMORY) from error
            options.optimized_model_filepath = ""
            # Raises what is wrong with the model, if it was not the writing that failed.
            make()
            raise OSError(first_line(error)) from error
        del given  # It reads them until here.
        return _read_laid_out(path)


def _read_laid_out(path: Path) -> ModelParts:
    """A model that ONNX Runtime wrote, and its weights, as it likes them aligned."""
    structure = onnx.load(path, load_external_data=False)
    weights = {}
    for tensor in structure.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            source, offset = path.parent / entries["location"], int(entries.get("offset", 0))
            values = np.fromfile(source, dtype, math.prod(tensor.dims), offset=offset)
            weights[tensor.name] = _aligned(values.reshape(tensor.dims))
            tensor.CopyFrom(stub(tensor.name, tensor.data_type, tensor.dims))
    return ModelParts(structure, weights)


def _aligned(values: np.ndarray) -> np.ndarray:
    """A copy that begins at a multiple of 64 bytes, as a CPU's longest vectors do.

    numpy puts values 16 bytes behind one, which is slower (docs/measurements.md).
    """
    room = np.empty(values.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy
