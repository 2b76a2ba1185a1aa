"""Models and graphs: the one place that imports to and exports from onnx-graphsurgeon.

It keeps what onnx-graphsurgeon would lose, and derives the state inputs' defaults, v(0),
from each neuron's ``v_init`` attribute, so that the two cannot disagree.
"""

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.shape_inference
import onnx.version_converter
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from . import neurons
from .editing import name_nodes
from .errors import ModelError, Refusal, UnsupportedModelError
from .files import UNSUPPORTED_TYPES, copy_model, first_line, stored_tensors


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
        return copy_model(model)
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
        (tensor.name, UNSUPPORTED_TYPES[tensor.data_type])
        for tensor in stored_tensors(model.graph)
        if tensor.data_type in UNSUPPORTED_TYPES
    }
    if refused:
        raise UnsupportedModelError(
            "the model holds tensors of a type that cannot be converted; "
            "export it with float32 weights:",
            [Refusal(name, kind, "unsupported tensor type") for name, kind in sorted(refused)],
        )
    model = copy_model(model)
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
    own = [f for f in model.functions if f.domain == neurons.DOMAIN]
    functions = {f.name: f for f in own}
    overloaded = len(functions) < len(own) or any(
        node.overload for node in model.graph.node if node.domain == neurons.DOMAIN
    )
    if overloaded:
        raise ModelError("the file holds several functions for one neuron; convert again")
    for op in {node.op_type for node in model.graph.node if node.domain == neurons.DOMAIN}:
        if op not in neurons.FUNCTIONS:
            continue
        expected, found = neurons.function_proto(op, 0), functions.get(op)
        if found is None or any(
            list(getattr(found, part)) != list(getattr(expected, part))
            for part in ("input", "output", "attribute", "node")
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
    # Model-local functions exist since IR version 8. No newer than need be, for older runtimes:
    # onnx-graphsurgeon would take the newest that the installed onnx knows.
    model.ir_version = max(8, graph.ir_version or 0, like.ir_version if like else 0)
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
