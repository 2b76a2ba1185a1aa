"""``from_nir``: the spiking network in a NIR file that ``to_nir`` wrote.

The numbers come from the NIR nodes, what lies around them from the structure in the file's
metadata. The result is then written to NIR again, in memory: a file in which the two disagree,
since something changed one of them, is refused.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import google.protobuf.message
import numpy as np
import onnx

from onnx2snn.graph_passes.errors import ModelError, Onnx2SnnError, first_line
from onnx2snn.graph_passes.graph.neurons import state_names, states_in
from onnx2snn.graph_passes.model_files.contents import check_dimensions
from onnx2snn.graph_passes.model_files.files import require_path, take_apart
from onnx2snn.graph_passes.model_files.weights import attach, fill, replace_all
from onnx2snn.inspection import metadata_of

from .nir import nir_graph, nir_package
from .nir_nodes import RESETS

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_FLOATS = {onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}


def is_nir(path: Path) -> bool:
    """Whether a file is of the format that NIR files are of, HDF5."""
    try:
        with path.open("rb") as file:
            return file.read(len(_SIGNATURE)) == _SIGNATURE
    except OSError:
        return False


def from_nir(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """The SNN in a file that ``to_nir`` wrote: the same model.

    Raises ``ModelError`` for a file that is no NIR file, that something else wrote, or whose
    nodes were changed so that they disagree with its metadata, and ``Onnx2SnnError`` if the
    package ``nir`` is not installed.
    """
    require_path(path, "a NIR file is read from a path", ModelError)
    path = Path(path)
    graph = _read(path)
    structure = structure_of(graph, path)
    what = f"'{path}'"
    arrays, neurons = _arrays(graph, what)
    for node in structure.graph.node:
        if node.op_type not in RESETS:
            continue
        if node.name not in neurons:
            raise ModelError(f"{what} has no NIR node for the neuron '{node.name}'")
        values = neurons[node.name]
        for attribute in node.attribute:
            _fill(attribute.t, values.get(attribute.name), f"{attribute.name} of '{node.name}'")
        for read, _ in state_names(node.op_type, node.name):
            arrays[read] = values["v_init"]
    for tensor in structure.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _fill(tensor, arrays.get(tensor.name), f"'{tensor.name}'")
    parts = take_apart(structure, what)
    _require_same(graph, nir_graph(parts)[0], what)
    return attach(parts)


def structure_of(graph: Any, path: str | Path) -> onnx.ModelProto:
    """The SNN without what stands in the NIR nodes. Raises ``ModelError`` if there is none."""
    content = (graph.metadata or {}).get("onnx2snn.structure")
    if not isinstance(content, np.ndarray) or content.dtype != np.uint8:
        raise ModelError(
            f"'{path}' was not written by onnx2snn: its IF neurons reset to v_reset and start "
            "at 0, so that it is another kind of network"
        )
    structure = onnx.ModelProto()
    try:
        structure.ParseFromString(content.tobytes())
    except google.protobuf.message.DecodeError as error:
        raise ModelError(f"'{path}' is damaged: export it again") from error
    return structure


def header_of(path: Path) -> onnx.ModelProto:
    """Inputs, outputs and metadata of an export, as a model, for ``inspect``."""
    graph = _read(path)
    structure = structure_of(graph, path)
    told = {key: value for key, value in graph.metadata.items() if isinstance(value, str)}
    told.pop("onnx2snn.metadata", None)
    onnx.helper.set_model_props(structure, metadata_of(structure) | told)
    states = {name for pair in states_in(structure) for name in pair}
    for infos in (structure.graph.input, structure.graph.output):
        replace_all(infos, [info for info in infos if info.name not in states])
    return structure


def _read(path: Path) -> Any:
    nir = nir_package()
    import h5py

    try:
        path.open("rb").close()
    except OSError as error:
        raise ModelError(f"cannot read '{path}': {error.strerror}") from error
    except ValueError as error:
        # Its name has a null character.
        raise ModelError(f"cannot read {str(path)!r}: {error}") from error
    try:
        with h5py.File(path, "r") as file:
            _require_own_content(file, path)
        # Its type check is wrong for grouped convolutions; what is read is compared instead.
        graph = nir.read(path, type_check=False)
    except Onnx2SnnError:
        raise
    except Exception as error:  # h5py and nir raise any type, AssertionError among them.
        raise ModelError(
            f"'{path}' is not a NIR file, or is damaged: {first_line(error)}"
        ) from error
    if not isinstance(graph, nir.NIRGraph):
        raise ModelError(f"'{path}' holds no NIR graph")
    return graph


def _require_own_content(group: Any, path: Path) -> None:
    """HDF5 can name other files, and read them: refuse that."""
    import h5py

    for key in group:
        link = group.get(key, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise ModelError(f"'{path}' refers to something outside of it, '{key}': refused")
        item = group[key]
        if isinstance(item, h5py.Group):
            _require_own_content(item, path)
        elif isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            raise ModelError(f"'{path}' keeps the data of '{key}' in another file: refused")


def _arrays(
    graph: Any, what: str
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """What the NIR nodes hold: initializers by name, and V_th and v(0) by neuron."""
    arrays: dict[str, np.ndarray] = {}
    neurons: dict[str, dict[str, np.ndarray]] = {}
    for key, node in graph.nodes.items():
        try:
            told = json.loads(node.metadata.get("onnx2snn", "{}"))
            if told.get("op") in RESETS:
                neurons[told["name"]] = {
                    "v_threshold": np.asarray(node.v_threshold),
                    "v_init": np.asarray(node.metadata["v_init"]),
                }
            if "weight" in told:
                weight = np.asarray(node.metadata.get("weight", node.weight))
                arrays[told["weight"]] = weight.T if told.get("transposed") else weight
            if "bias" in told:
                arrays[told["bias"]] = np.asarray(node.bias)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"{what}: the metadata of NIR node '{key}' is damaged") from error
    return arrays, neurons


def _fill(tensor: onnx.TensorProto, values: np.ndarray | None, name: str) -> None:
    """Give a stub its values; those of a threshold are repeated along the axes of a sample."""
    if tensor.data_type not in _FLOATS:
        raise ModelError(f"the NIR file is damaged: {name} is of no type that a weight can have")
    check_dimensions(tensor, "the NIR file")
    shape = tuple(tensor.dims)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if values is not None and values.dtype.kind != "f":
        values = None
    if values is not None and values.size != math.prod(shape) and values.ndim >= len(shape):
        padded = (1,) * (values.ndim - len(shape)) + shape
        values = values[tuple(slice(0, 1) if size == 1 else slice(None) for size in padded)]
    if values is None or values.size != math.prod(shape):
        raise ModelError(f"the NIR file has no values of shape {list(shape)} for {name}")
    fill(tensor, np.ascontiguousarray(values.reshape(shape).astype(dtype)))


def _require_same(read: Any, wanted: Any, what: str) -> None:
    """Raise ``ModelError`` unless two NIR graphs say the same."""
    if set(read.edges) != set(wanted.edges):
        changed = sorted(set(read.edges) ^ set(wanted.edges))[0]
        raise ModelError(_changed(what, f"the edge from '{changed[0]}' to '{changed[1]}'"))
    for key in sorted(set(read.nodes) | set(wanted.nodes)):
        pair = [graph.nodes.get(key) for graph in (read, wanted)]
        if None in pair or not _equal(pair[0].to_dict(), pair[1].to_dict()):
            raise ModelError(_changed(what, f"node '{key}'"))


def _changed(what: str, place: str) -> str:
    return (
        f"{what}: {place} was changed after the export and disagrees with the file's metadata "
        "(V_th is in the weights that follow a neuron): change the SNN and export it again"
    )


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_equal(first[k], second[k]) for k in first)
    return np.array_equal(np.asarray(first), np.asarray(second))
