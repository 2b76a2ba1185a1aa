"""Reading and writing models: the one place that turns files and protos into graphs.

``read_model`` and ``write_model`` are for files, ``to_graph`` and ``to_model`` for
onnx-graphsurgeon graphs. The state inputs' defaults, v(0), are derived here from each
neuron's ``v_init`` attribute, so that the two cannot disagree.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import google.protobuf.message
import numpy as np
import onnx
import onnx.checker
import onnx.external_data_helper
import onnx.numpy_helper
import onnx.shape_inference
import onnx.version_converter
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from . import neurons
from .editing import name_nodes
from .errors import ModelError, OutputError, Refusal, UnsupportedModelError

MAX_PROTO_BYTES = 2**31 - 2**20
"""Protobuf's limit is 2 GiB; the weights of a larger model are kept in a file beside it."""

# onnx-graphsurgeon changes or loses these types without a word.
_UNSUPPORTED_TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT8E4M3FNUZ: "FLOAT8E4M3FNUZ",
    onnx.TensorProto.INT4: "INT4",
    onnx.TensorProto.UINT4: "UINT4",
    onnx.TensorProto.FLOAT4E2M1: "FLOAT4E2M1",
}


def read_model(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read an ONNX file, with its external data, and check that it is a valid model.

    Raises ``ModelError`` if the file cannot be read, is no ONNX model, is damaged, or
    keeps data outside its own folder.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read '{path}': {error.strerror}") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except google.protobuf.message.DecodeError as error:
        raise ModelError(
            f"'{path}' is not an ONNX model, or is damaged: export it again"
        ) from error
    # Some files of other kinds, the empty one among them, parse as a protobuf message.
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"'{path}' is not an ONNX model, or is damaged: it holds no graph")
    try:
        _touch_strings(model)
    except UnicodeDecodeError as error:
        raise ModelError(f"'{path}' is damaged: a name in it is no text") from error
    for tensor in _stored_tensors(model.graph):
        if onnx.external_data_helper.uses_external_data(tensor):
            _load_external_data(tensor, path)
        _check_size(tensor, path)
    check_model(model, f"'{path}'")
    return model


def check_model(model: onnx.ModelProto, what: str) -> None:
    """Raise ``ModelError``, beginning with ``what``, unless onnx's checker accepts the model."""
    if model.ByteSize() > MAX_PROTO_BYTES:
        return  # The checker takes larger models only as files, which this one may not be.
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"{what} is not a valid ONNX model: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line that an exception of another library says, without its backtrace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _touch_strings(model: onnx.ModelProto) -> None:
    """Read every name, so that one that is no UTF-8 raises ``UnicodeDecodeError`` here."""
    for entry in (*model.opset_import, *model.functions):
        str(entry.domain)
    for entry in model.metadata_props:
        str(entry.key), str(entry.value)
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        for named in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
            str(named.name)
        for info in (*graph.input, *graph.output, *graph.value_info):
            for dimension in info.type.tensor_type.shape.dim:
                str(dimension.dim_param)
        for node in graph.node:
            list(node.input), list(node.output), str(node.name), str(node.op_type)
            str(node.domain), str(node.doc_string)
            for attribute in node.attribute:
                str(attribute.name)
                waiting += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _stored_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All initializers and tensor attributes of a graph and of the graphs inside it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for subgraph in (
                *([attribute.g] if attribute.HasField("g") else []),
                *attribute.graphs,
            ):
                yield from _stored_tensors(subgraph)


def _load_external_data(tensor: onnx.TensorProto, path: Path) -> None:
    folder = path.resolve().parent
    location = next((e.value for e in tensor.external_data if e.key == "location"), "")
    what = f"'{path}': tensor '{tensor.name}' keeps its data in '{location}'"
    try:
        # Resolved, so that neither '..' nor a link leads out of the folder.
        target = (folder / location).resolve()
        if not target.is_relative_to(folder):
            raise ModelError(
                f"{what}, outside the model's folder: refused; put the data file beside the model"
            )
        if not target.is_file():
            raise ModelError(f"{what}, which is not there")
        onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{what}, which cannot be read: {first_line(error)}") from error


def _check_size(tensor: onnx.TensorProto, path: Path) -> None:
    """Refuse raw data that is shorter or longer than the tensor's shape says."""
    if not tensor.HasField("raw_data") or tensor.data_type in _UNSUPPORTED_TYPES:
        return
    try:
        itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError as error:
        raise ModelError(f"'{path}': tensor '{tensor.name}' has an unknown type") from error
    expected = int(np.prod(tensor.dims, dtype=np.int64)) * itemsize
    if len(tensor.raw_data) != expected:
        raise ModelError(
            f"'{path}': tensor '{tensor.name}' holds {len(tensor.raw_data)} bytes where its "
            f"shape {list(tensor.dims)} needs {expected}: the file or its data is damaged"
        )


def write_model(model: onnx.ModelProto, path: str | os.PathLike[str]) -> None:
    """Write a model to ``path``, whole or not at all.

    The bytes go to a temporary file in the same folder, which then takes the name.
    Weights beyond protobuf's 2 GiB go to ``<name>.<digest>.data`` beside it. Raises
    ``OutputError`` if the folder does not exist, cannot be written or is full; a file
    that stood at ``path`` is then as it was.
    """
    path = Path(path)
    if model.ByteSize() <= MAX_PROTO_BYTES:
        write_bytes(path, model.SerializeToString())
        return
    model = _copy_model(model)
    weights, blob = [t for t in model.graph.initializer if len(t.raw_data) >= 1024], bytearray()
    for tensor in weights:
        # ONNX recommends offsets at page boundaries, so that runtimes can map the file.
        blob.extend(b"\0" * (-len(blob) % 4096))
        offset = len(blob)
        blob.extend(tensor.raw_data)
        onnx.external_data_helper.set_external_data(tensor, "", offset, len(tensor.raw_data))
    data_name = f"{path.name}.{hashlib.sha256(blob).hexdigest()[:12]}.data"
    for tensor in weights:
        tensor.ClearField("raw_data")
        tensor.external_data[0].value = data_name
    # The data first, under a name that its content gives: an older model's file keeps its own.
    write_bytes(path.with_name(data_name), bytes(blob))
    write_bytes(path, model.SerializeToString())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; raises ``OutputError``, leaving an older file as it was."""
    check_writable(path)
    # Through a link, to the file that it names.
    path = path.resolve()
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # A temporary file is its owner's alone; the result gets what a new file would.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise ``OutputError`` if a file cannot come to be, or be replaced, at ``path``."""
    try:
        if not path.parent.is_dir():
            raise OutputError(f"cannot write '{path}': the folder '{path.parent}' does not exist")
        if path.exists() and not path.is_file():
            raise OutputError(f"cannot write '{path}': something else than a file is there")
        if not os.access(path.resolve().parent, os.W_OK):
            raise OutputError(f"cannot write '{path}': no permission to write in its folder")
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror or error}") from error


def _copy_model(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators that a model imports."""
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions:
        raise ModelError("the model imports no standard ONNX operators: it cannot be converted")
    return int(versions[0])


def upgrade_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an ANN in an opset that can hold neurons: at least ``neurons.MIN_OPSET``.

    Raises ``ModelError`` if onnx's version converter cannot do it.
    """
    opset = opset_of(model)
    if opset >= neurons.MIN_OPSET:
        return _copy_model(model)
    advice = f"export it again with opset {neurons.MIN_OPSET} or newer"
    if model.functions:
        raise ModelError(f"the model has local functions and opset {opset}: {advice}")
    try:
        return onnx.version_converter.convert_version(model, neurons.MIN_OPSET)
    except Exception as error:  # The converter raises RuntimeError and types of its own.
        raise ModelError(
            f"the model's opset {opset} cannot be brought to {neurons.MIN_OPSET}: "
            f"{first_line(error)}; {advice}"
        ) from error


def to_graph(model: onnx.ModelProto) -> gs.Graph:
    """A model as an onnx-graphsurgeon graph; the model is left as it was.

    Every node gets a unique name. A neuron's state input ``v/<name>`` becomes a plain
    input: its default lives in the neuron's ``v_init`` alone. Raises ``ModelError`` for
    tensor types that onnx-graphsurgeon cannot hold and for stateful nodes of which this
    version knows nothing.
    """
    refused = {
        (tensor.name, _UNSUPPORTED_TYPES[tensor.data_type])
        for tensor in _stored_tensors(model.graph)
        if tensor.data_type in _UNSUPPORTED_TYPES
    }
    if refused:
        raise UnsupportedModelError(
            "the model holds tensors of a type that cannot be converted; "
            "export it with float32 weights:",
            [Refusal(name, kind, "unsupported tensor type") for name, kind in sorted(refused)],
        )
    model = _copy_model(model)
    _check_functions(model)
    defaults = {tensor.name: tensor for tensor in model.graph.initializer}
    states = set()
    for node in model.graph.node:
        node.domain = "" if node.domain == "ai.onnx" else node.domain
        if node.domain == neurons.DOMAIN:
            _check_stateful(node, defaults)
            states.add(node.input[-1])
    for entry in model.opset_import:
        entry.domain = "" if entry.domain == "ai.onnx" else entry.domain
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in states]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    kept_functions = [f for f in model.functions if f.domain != neurons.DOMAIN]
    del model.functions[:]
    model.functions.extend(kept_functions)
    with G_LOGGER.suppress():
        graph = gs.import_onnx(model)
    name_nodes(graph)
    return graph


def _check_functions(model: onnx.ModelProto) -> None:
    """Hold the neurons' functions in a file to those that the runtime computes."""
    functions = {f.name: f for f in model.functions if f.domain == neurons.DOMAIN}
    for op in {node.op_type for node in model.graph.node if node.domain == neurons.DOMAIN}:
        if op not in neurons.FUNCTIONS:
            continue
        expected, found = neurons.function_proto(op, 0), functions.get(op)
        if found is None or any(
            list(getattr(found, part)) != list(getattr(expected, part))
            for part in ("input", "output", "node")
        ):
            raise ModelError(
                f"the function of the neuron {op} in the file is missing or is not this "
                "version's, so runtimes would disagree; convert the network again"
            )


def _check_stateful(node: onnx.NodeProto, defaults: dict[str, onnx.TensorProto]) -> None:
    expected = neurons.ATTRIBUTES.get(node.op_type)
    if expected is None:
        raise ModelError(f"node '{node.name}': this version knows no neuron '{node.op_type}'")
    found = {attribute.name for attribute in node.attribute}
    if found != expected:
        raise ModelError(
            f"{node.op_type} '{node.name}' must have the attributes {sorted(expected)}, "
            f"not {sorted(found)}"
        )
    values = {}
    for attribute in node.attribute:
        value = np.empty(0)
        if attribute.type == onnx.AttributeProto.TENSOR:
            value = onnx.numpy_helper.to_array(attribute.t)
        floating = np.issubdtype(value.dtype, np.floating)
        if not value.size or not floating or not np.all(np.isfinite(value)):
            raise ModelError(
                f"{node.op_type} '{node.name}': {attribute.name} must be a tensor of finite numbers"
            )
        values[attribute.name] = value
    if not np.all(values["v_threshold"] > 0):
        raise ModelError(f"{node.op_type} '{node.name}': V_th must be positive")
    names = neurons.state_names(node.name)
    if len(node.input) != 2 or (node.input[-1], *node.output[1:]) != names:
        raise ModelError(f"{node.op_type} '{node.name}' must keep its state in {names}")
    default = defaults.get(names[0])
    if default is None or not np.array_equal(
        np.ravel(onnx.numpy_helper.to_array(default)), np.ravel(values["v_init"])
    ):
        raise ModelError(
            f"{node.op_type} '{node.name}': the default of its state '{names[0]}' is not its "
            "v_init, so runtimes would disagree about v(0); convert the network again"
        )


def to_model(graph: gs.Graph, like: onnx.ModelProto | None = None) -> onnx.ModelProto:
    """A graph as a model, with the functions of its neurons and the defaults of their states.

    What onnx-graphsurgeon does not carry (metadata of the model and of its nodes, domain,
    version, documentation) is taken from ``like``, for nodes by name.
    """
    with G_LOGGER.suppress():
        model: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    opset = opset_of(model)
    stateful = neurons.stateful_nodes(graph)
    for op in sorted({node.op for node in stateful}):
        model.functions.append(neurons.function_proto(op, opset))
    for node in stateful:
        state = node.inputs[-1]
        start = neurons.with_batch_axis(neurons.initial_potential_of(node), len(state.shape))
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(start.astype(state.dtype), state.name)
        )
    # Model-local functions exist since IR version 8.
    model.ir_version = max(8, model.ir_version, like.ir_version if like else 0)
    if like is not None:
        _restore_metadata(model, like)
    return model


def _restore_metadata(model: onnx.ModelProto, like: onnx.ModelProto) -> None:
    model.metadata_props.extend(like.metadata_props)
    model.domain, model.model_version = like.domain, like.model_version
    model.doc_string = like.doc_string
    model.graph.metadata_props.extend(like.graph.metadata_props)
    originals = {node.name: node for node in like.graph.node if node.name}
    for node in model.graph.node:
        original = originals.get(node.name)
        if original is not None and original.op_type == node.op_type:
            node.doc_string = original.doc_string
            node.metadata_props.extend(original.metadata_props)


def infer_shapes(graph: gs.Graph) -> None:
    """Set the shape and dtype of every tensor that ONNX's shape inference can tell.

    A dimension is an int, or a string where it is symbolic. What was known before and
    cannot be inferred anew stays.
    """
    # Without value_info, so that shapes from before a rewrite do not contradict it.
    model = to_model(graph)
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    tensors = graph.tensors()
    for info in (*inferred.graph.value_info, *inferred.graph.output):
        tensor, kind = tensors.get(info.name), info.type.tensor_type
        if isinstance(tensor, gs.Variable) and kind.HasField("shape"):
            shape = [
                d.dim_value if d.HasField("dim_value") else d.dim_param or "?"
                for d in kind.shape.dim
            ]
            if tensor.shape is not None and len(tensor.shape) == len(shape):
                pairs = zip(shape, tensor.shape, strict=True)
                shape = [old if isinstance(new, str) else new for new, old in pairs]
            tensor.shape = shape
            tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
