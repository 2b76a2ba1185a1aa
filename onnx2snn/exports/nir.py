"""``to_nir``: a spiking network in the Neuromorphic Intermediate Representation (NIR).

What a node means to a reader that knows nothing of this package, sample by sample:

    Conv, Gemm, MatMul      Conv1d, Conv2d, Affine
    IF, ResetToZeroIF       IF: r = 1, v_reset = 0; it emits z, 0 or 1, where ours emits z V_th
    AveragePool             AvgPool2d; over one axis a Conv1d that is 1/k in each channel
    Flatten, Reshape,       Flatten; of an input to several axes: Input has the shape behind it
    Squeeze, Unsqueeze
    Add                     edges that meet
    x + b, a x, one a and b per channel    a Conv of width 1, or an Affine, that is diagonal

V_th goes into the weights that read the neuron, W' = W V_th, through pools and Flatten. Where no
weights do (residual edges, outputs), a diagonal node does it: 1x1, and exact in floating point.

What NIR has no place for is metadata, so that ``from_nir`` gives back the same file:

    node "v_init"             v(0) of an IF, in the shape that it has in the SNN
    node "reset"              what a spike does: "subtract" V_th from v, or set it to "zero"
    node "weight"             W, where V_th went into the node's weight
    node "onnx2snn"           JSON: name and op of the SNN's node, and which of its initializers
                              the node's arrays are
    graph "onnx2snn.structure"   the SNN's ModelProto, bytes, without what stands in the nodes
    graph "onnx2snn.export", "onnx2snn.metadata", "onnx2snn.preprocessing"   as in any export
"""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx2snn.digests import read_with_digest
from onnx2snn.graph_passes.errors import Onnx2SnnError, OutputError, UnsupportedModelError
from onnx2snn.graph_passes.graph.neurons import states_in
from onnx2snn.graph_passes.graph.shapes import infer_shapes
from onnx2snn.graph_passes.model_files.files import EXPORT, Model, require_path
from onnx2snn.graph_passes.model_files.io import to_graph
from onnx2snn.graph_passes.model_files.weights import ModelParts, copy_model, stub
from onnx2snn.graph_passes.model_files.whole_file import check_writable, write_bytes
from onnx2snn.models.preprocessing import KEY
from onnx2snn.runtime.plans.plan import build_plan

from .metadata import stamp
from .nir_nodes import RESETS, NirWriter


def nir_package() -> Any:
    """The package ``nir``; raises ``Onnx2SnnError`` if it is not installed, or too old."""
    remedy = "install onnx2snn with its extra, onnx2snn[nir]"
    try:
        import nir
    except ImportError as error:
        raise Onnx2SnnError(f"NIR files need the package nir: {remedy}") from error
    # Sinabs asks for one of before, whose nodes have no metadata.
    if "metadata" not in nir.Input.__dataclass_fields__:
        raise Onnx2SnnError(f"NIR files need nir 1.0.8 or newer, not {nir.__version__}: {remedy}")
    return nir


def to_nir(
    snn: Model,
    path: str | os.PathLike[str],
    *,
    preprocessing: str | None = None,
    new: bool = False,
) -> list[str]:
    """Write a spiking network as a NIR file (HDF5), whole or not at all; returns notes.

    snn: the file that ``convert`` made, or its model, or parts. The notes say, in words, what
    readers of the file ignore, and which inputs have another shape there. preprocessing: what is
    done to an input before the network, in words. new: only if no file has that name by then.

    Raises ``ModelError`` for a file that is no SNN, ``UnsupportedModelError`` naming all nodes
    that NIR cannot hold, ``OutputError`` where nothing can be written and ``Onnx2SnnError``
    if the package ``nir`` is not installed.
    """
    require_path(path, "a NIR file is written to a path", OutputError)
    nir, path = nir_package(), Path(path)
    check_writable(path)
    parts, digest = read_with_digest(snn)
    graph, notes = nir_graph(parts)
    made = {"format": "nir", "timesteps": "any", "nir": nir.version}
    entries = stamp(parts.structure, digest, made, preprocessing)
    graph.metadata[EXPORT] = entries.pop(EXPORT)
    if KEY in entries:
        graph.metadata[KEY] = entries.pop(KEY)
    graph.metadata["onnx2snn.metadata"] = json.dumps(entries, sort_keys=True)
    content = io.BytesIO()
    nir.write(content, graph)
    write_bytes(path, content.getvalue(), new=new)
    return notes


def nir_graph(parts: ModelParts) -> tuple[Any, list[str]]:
    """A spiking network as a ``nir.NIRGraph``, and notes on what readers will ignore."""
    build_plan(parts)  # Refuses what is no spiking network.
    graph = to_graph(parts)
    infer_shapes(graph)
    writer = NirWriter(nir_package(), graph)
    writer.write()
    if writer.refusals:
        raise UnsupportedModelError("NIR cannot hold these nodes:", writer.refusals)
    structure = copy_model(parts.structure)
    strip(structure, writer.held)
    content = np.frombuffer(structure.SerializeToString(deterministic=True), np.uint8)
    metadata = {"onnx2snn.structure": content}
    # nir's type check is wrong for grouped convolutions.
    result = writer.nir.NIRGraph(writer.nodes, writer.edges, metadata=metadata, type_check=False)
    return result, _notes(writer)


def strip(structure: onnx.ModelProto, held: set[str]) -> None:
    """Take out what stands in the NIR nodes: ``held`` initializers, V_th, v(0) and states."""
    states = {read for read, _ in states_in(structure)}
    for tensor in structure.graph.initializer:
        if tensor.name in held or tensor.name in states:
            tensor.CopyFrom(stub(tensor.name, tensor.data_type, tensor.dims))
    for node in structure.graph.node:
        for attribute in node.attribute if node.op_type in RESETS else ():
            tensor = attribute.t
            tensor.CopyFrom(stub(tensor.name, tensor.data_type, tensor.dims))


def _notes(writer: NirWriter) -> list[str]:
    """What readers ignore or cannot read, as measured with sinabs 3.1 and SpikingJelly 2.0."""
    kinds = {type(node).__name__ for node in writer.nodes.values()}
    neurons = [node for node in writer.nodes.values() if "reset" in node.metadata]
    ends = [end for _, end in writer.edges]
    notes = [
        "NIR has no place for v(0): it is metadata 'v_init' of the IF nodes, which sinabs and "
        "SpikingJelly ignore: they start at 0",
    ]
    if writer.reshaped:
        notes.append(
            f"samples have another shape in the file than in the SNN: {', '.join(writer.reshaped)}"
        )
    if any(node.metadata["reset"] == "subtract" for node in neurons):
        notes.append(
            "NIR's IF resets to v_reset; that these neurons subtract V_th is metadata 'reset', "
            "which SpikingJelly ignores; sinabs subtracts V_th from any IF"
        )
    if any(node.v_threshold.min() != node.v_threshold.max() for node in neurons):
        notes.append("SpikingJelly reads one V_th for a layer only; here it differs by channel")
    if len(set(ends)) < len(ends):
        notes.append("sinabs runs networks whose edges meet, as here, in a wrong order")
    if writer.unreadable:
        notes.append(
            "nir's type check is wrong for grouped convolutions and for kernels that are not "
            f"square ({', '.join(writer.unreadable)}): read the file with type_check=False; "
            "SpikingJelly reads no groups, sinabs no depthwise ones"
        )
    if "Scale" in kinds:
        notes.append(
            "SpikingJelly refuses Scale nodes, as the file has; sinabs leaves them out, in silence"
        )
    if "Conv1d" in kinds:
        notes.append("sinabs cannot read Conv1d nodes, as the file has")
    if "AvgPool2d" in kinds:
        notes.append("sinabs leaves out AvgPool2d nodes, as the file has, in silence")
    return notes
