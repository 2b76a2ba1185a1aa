"""Models and graphs: the one place that imports to and exports from onnx-graphsurgeon.

It keeps what onnx-graphsurgeon would lose, and derives the state inputs' defaults, v(0),
from each neuron's ``v_init`` attribute, so that the two cannot disagree.
"""

from typing import overload

import numpy as np
import onnx
import onnx.external_data_helper
import onnx.inliner
import onnx.numpy_helper
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnx2snn.graph_passes.errors import ModelError, Refusal, UnsupportedModelError, first_line
from onnx2snn.graph_passes.graph import neurons
from onnx2snn.graph_passes.graph.editing import require_graph, subgraphs_of
from onnx2snn.graph_passes.graph.tidying import name_nodes, tidy
from onnx2snn.graph_passes.quiet import muted

from .contents import (
    UNSUPPORTED_TYPES,
    check_kinds,
    every_node,
    import_once,
    make_dense,
    stored_tensors,
    widen_weights,
)
from .files import require_values
from .limits import sizes_of_functions
from .old_opsets import convert_opset
from .protos import all_nodes, domain_of, graphs_in, infos_of, onnx_type, standard_opset
from .stored_neurons import check_functions, check_stateful
from .weights import ModelParts, attach, copy_model, detach, is_large, replace_all, stub


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators that a model imports."""
    opset = standard_opset(model)
    if not opset:
        raise ModelError("the model imports no standard ONNX operators: it cannot be converted")
    return opset


@overload
def upgrade_opset(model: ModelParts) -> ModelParts: ...
@overload
def upgrade_opset(model: onnx.ModelProto) -> onnx.ModelProto: ...
def upgrade_opset(model: onnx.ModelProto | ModelParts) -> onnx.ModelProto | ModelParts:
    """A copy of an ANN in an opset that can hold neurons: 17 or newer.

    ``ModelParts`` that are in one already are returned as they are. Raises ``ModelError`` if
    onnx's version converter cannot do it, for an old Resize that no newer one does alike, for a
    mask of Dropout that is used, before opset 12, and for what is no model.
    """
    parts = _in_parts(model)
    opset = opset_of(parts.structure)
    if opset < neurons.NEURON_OPSET:
        structure = _with_constants_only(inline_functions(copy_model(parts.structure)))
        parts = ModelParts(convert_opset(structure, opset), parts.weights)
    if isinstance(model, ModelParts):
        return parts
    return attach(parts)


def _in_parts(model: onnx.ModelProto | ModelParts) -> ModelParts:
    if isinstance(model, ModelParts):
        return model
    _require_model(model)
    parts = detach(model)
    make_dense(parts.structure, "the model")
    import_once(parts.structure)
    return parts


def _require_model(model: onnx.ModelProto) -> None:
    if not isinstance(model, onnx.ModelProto):
        raise ModelError(
            f"a model in memory is an onnx.ModelProto, not {type(model).__name__}: read_model "
            "reads a file"
        )


def _with_constants_only(structure: onnx.ModelProto) -> onnx.ModelProto:
    """Take inputs with a default value, as old exporters declare all weights, for constants."""
    states = {read for read, _ in neurons.states_in(structure)}
    constants = {tensor.name for tensor in structure.graph.initializer} - states
    inputs = (info for info in structure.graph.input if info.name not in constants)
    replace_all(structure.graph.input, inputs)
    return structure


def inline_functions(structure: onnx.ModelProto) -> onnx.ModelProto:
    """Replace calls of a model's own functions, in place, by their bodies; neurons stay.

    Raises ``ModelError`` for functions that call themselves, or have operators of another opset.
    """
    own = [function for function in structure.functions if function.domain != neurons.DOMAIN]
    if not own:
        return structure
    sizes_of_functions(own, "the model")
    _give_defaults(structure)
    _take_opset(structure)
    kept = [(f.domain, f.name) for f in structure.functions if f.domain == neurons.DOMAIN]
    try:
        return onnx.inliner.inline_selected_functions(structure, kept, exclude=True)
    except Exception as error:  # Raises RuntimeError and types of its own.
        raise ModelError(
            f"the model's local functions cannot be inlined: {first_line(error)}; export it "
            "without them, or with functions of its own opset"
        ) from error


def _give_defaults(structure: onnx.ModelProto) -> None:
    """Give calls of functions the defaults of their attributes, which ONNX's inliner leaves out."""
    defaults = {(f.domain, f.name, f.overload): f.attribute_proto for f in structure.functions}
    for node in every_node(structure):
        given = {attribute.name for attribute in node.attribute}
        of_function = defaults.get((node.domain, node.op_type, node.overload), ())
        node.attribute.extend(a for a in of_function if a.name not in given)


def _take_opset(structure: onnx.ModelProto) -> None:
    """Let functions of another opset be of the model's where their operators are the same in both.

    ONNX's inliner takes no others.
    """
    wanted = {domain_of(entry): entry.version for entry in structure.opset_import}
    for function in structure.functions:
        nodes = list(all_nodes(function.node))
        for entry in function.opset_import:
            domain = domain_of(entry)
            version = wanted.get(domain, entry.version)
            ops = {node.op_type for node in nodes if domain_of(node) == domain}
            since = [[_since(op, domain, v) for op in ops] for v in (entry.version, version)]
            if since[0] == since[1]:
                entry.version = version


def _since(op: str, domain: str, version: int) -> int | None:
    """The version of an operator in an opset; None for what is no operator of ONNX."""
    if not onnx.defs.has(op, version, domain):
        return None
    return int(onnx.defs.get_schema(op, version, domain).since_version)


def to_graph(model: onnx.ModelProto | ModelParts) -> gs.Graph:
    """A model as an onnx-graphsurgeon graph; the model is left as it was.

    Every node gets a unique name; those that no output depends on are left out. Local
    functions are inlined. A neuron's state input ``v/<name>`` becomes a plain input: its
    default lives in the neuron's ``v_init`` alone. Inputs with a default value become
    constants, sparse ones dense. Raises ``ModelError`` for types of tensors and attributes
    that onnx-graphsurgeon cannot hold, for external data that was not loaded, for stateful nodes of
    which this version knows nothing, and for what is no model.
    """
    parts = _in_parts(model)
    structure = copy_model(parts.structure)
    check_kinds(structure, parts.weights)
    structure = _with_constants_only(structure)
    check_functions(structure)
    structure = inline_functions(structure)
    widen_weights(structure)
    _check_tensors(ModelParts(structure, parts.weights))
    defaults = {tensor.name: tensor for tensor in structure.graph.initializer}
    inputs = {i.name for i in structure.graph.input if i.type.tensor_type.HasField("shape")}
    starts = set()
    for node in all_nodes(structure.graph.node):
        node.domain = domain_of(node)
        _drop_empty_lists(node)
    for node in structure.graph.node:
        if neurons.is_stateful(node):
            check_stateful(node, defaults, parts.weights)
            for read, _ in neurons.state_names(node.op_type, node.name):
                if read not in inputs:
                    raise ModelError(
                        f"{node.op_type} '{node.name}': its state '{read}' must be an input "
                        "of the graph, of known rank"
                    )
                starts.add(read)
    for entry in structure.opset_import:
        entry.domain = domain_of(entry)
    initializers = structure.graph.initializer
    replace_all(initializers, (t for t in initializers if t.name not in starts))
    own = (f for f in structure.functions if f.domain != neurons.DOMAIN)
    replace_all(structure.functions, own)
    infos = infos_of(structure.graph)
    sequences = {info.name: info.type for info in infos if info.type.HasField("sequence_type")}
    with muted():
        graph = gs.import_onnx(structure)
    for tensor in _tensors(graph):
        if tensor.name in sequences:
            # onnx-graphsurgeon knows sequences of tensors alone, not those of maps.
            tensor.sequence = sequences[tensor.name]
        if isinstance(tensor, gs.Constant) and tensor.name in parts.weights:
            tensor.values, tensor.data_location = parts.weights[tensor.name], None
    name_nodes(graph)
    # Else what reads a tensor in vain would keep passes from what they look for.
    tidy(graph)
    return graph


def _check_tensors(parts: ModelParts) -> None:
    """Refuse tensors of types that onnx-graphsurgeon cannot hold, and those without values."""
    refused = {
        (tensor.name, UNSUPPORTED_TYPES[tensor.data_type])
        for tensor in stored_tensors(parts.structure)
        if tensor.data_type in UNSUPPORTED_TYPES
    }
    if refused:
        raise UnsupportedModelError(
            "the model holds tensors of a type that cannot be converted; "
            "export it with float32 weights:",
            [Refusal(name, kind, "unsupported tensor type") for name, kind in sorted(refused)],
        )
    require_values(parts, "the model")


def _tensors(graph: gs.Graph) -> list[gs.Tensor]:
    """The tensors of a graph and of those inside it."""
    inner = (subgraph for node in graph.nodes for subgraph in subgraphs_of(node))
    return [*graph.tensors().values(), *(tensor for each in inner for tensor in _tensors(each))]


def _drop_empty_lists(node: onnx.NodeProto) -> None:
    """An empty list means what its absence does; onnx-graphsurgeon cannot write it."""
    for attribute in node.attribute:
        if attribute.name == "value_ints" and not attribute.ints:
            value = onnx.numpy_helper.from_array(np.empty(0, np.int64))
        elif attribute.name == "value_floats" and not attribute.floats:
            value = onnx.numpy_helper.from_array(np.empty(0, np.float32))
        else:
            continue
        attribute.CopyFrom(onnx.helper.make_attribute("value", value))
    lists = {onnx.AttributeProto.INTS: "ints", onnx.AttributeProto.FLOATS: "floats",
             onnx.AttributeProto.STRINGS: "strings"}  # fmt: skip
    kept = [a for a in node.attribute if a.type not in lists or len(getattr(a, lists[a.type]))]
    if len(kept) < len(node.attribute):
        replace_all(node.attribute, kept)


def to_model(graph: gs.Graph, like: onnx.ModelProto | None = None) -> onnx.ModelProto:
    """A graph as a model, with the functions of its neurons and the defaults of their states.

    What onnx-graphsurgeon does not carry (metadata of the model, domain, version, documentation) is
    taken from ``like``, that of nodes, inputs and outputs by name. Raises ``DataError`` for what is
    no graph, and ``ModelError`` for a ``like`` that is no model.
    """
    return attach(to_parts(graph, like))


def to_parts(graph: gs.Graph, like: onnx.ModelProto | None = None) -> ModelParts:
    """Like ``to_model``, with the weights beside the structure: they are not copied."""
    require_graph(graph)
    if like is not None:
        _require_model(like)
    tensors = graph.tensors().values()
    sequences = {t.name: t.sequence for t in tensors if hasattr(t, "sequence")}
    constants = [t for t in tensors if isinstance(t, gs.Constant)]
    weights, texts = {}, {}
    for tensor in constants:
        data_type = onnx_type(tensor.dtype)
        proto = onnx.TensorProto(data_type=data_type, dims=tensor.shape)
        if is_large(proto) and tensor.export_dtype == tensor.dtype:
            weights[tensor.name] = tensor.values
            tensor.values = LazyValues(stub(tensor.name, data_type, tensor.shape))
        elif data_type == onnx.TensorProto.STRING:
            # onnx-graphsurgeon would write them as numbers.
            texts[tensor.name] = tensor.values
            proto = onnx.numpy_helper.from_array(tensor.values.astype(object), tensor.name)
            tensor.values = LazyValues(proto)
    held = weights | texts
    try:
        with muted():
            model: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    finally:
        for tensor in constants:
            if tensor.name in held:
                tensor.values = held[tensor.name]
    for inner in (inner for node in all_nodes(model.graph.node) for inner in graphs_in(node)):
        # Else it would hold what it reads from outside once more, as a stub.
        own = [tensor for tensor in inner.initializer if tensor.name not in weights]
        replace_all(inner.initializer, own)
    for info in infos_of(model.graph):
        if info.name in sequences:
            info.type.CopyFrom(sequences[info.name])
    opset = opset_of(model)
    stateful = neurons.stateful_nodes(graph)
    for op in sorted({node.op for node in stateful}):
        model.functions.append(neurons.function_proto(op, opset))
    for node in stateful:
        states, starts = neurons.states_read(node), neurons.starts_of(node)
        for state, start in zip(states, starts, strict=True):
            default = onnx.numpy_helper.from_array(start, state.name)
            if is_large(default):
                # Beside the structure, as where a file is read: both are written alike.
                weights[state.name] = start
                default = stub(state.name, default.data_type, default.dims)
            model.graph.initializer.append(default)
    # Model-local functions exist since IR version 8. No newer than need be, for older runtimes:
    # onnx-graphsurgeon would take the newest that the installed onnx knows.
    model.ir_version = max(8, graph.ir_version or 0, like.ir_version if like else 0)
    if like is not None:
        _restore_metadata(model, like)
    return ModelParts(model, weights)


def _restore_metadata(model: onnx.ModelProto, like: onnx.ModelProto) -> None:
    model.metadata_props.extend(like.metadata_props)
    model.domain, model.model_version = like.domain, like.model_version
    model.doc_string = like.doc_string
    model.graph.metadata_props.extend(like.graph.metadata_props)
    infos = {info.name: info for info in infos_of(like.graph)}
    for info in infos_of(model.graph):
        if info.name in infos:
            _restore_info(info, infos[info.name])
    made = {name for node in model.graph.node for name in node.output}
    known = made | {tensor.name for tensor in (*model.graph.input, *model.graph.initializer)}
    model.graph.quantization_annotation.extend(
        note
        for note in like.graph.quantization_annotation
        if known.issuperset(
            [note.tensor_name, *(p.value for p in note.quant_parameter_tensor_names)]
        )
    )
    # Of those that have one name the first keeps it.
    originals = {node.name: node for node in reversed(like.graph.node) if node.name}
    for node in model.graph.node:
        original = originals.get(node.name)
        if original is not None and original.op_type == node.op_type:
            node.doc_string = original.doc_string
            node.metadata_props.extend(original.metadata_props)


def _restore_info(info: onnx.ValueInfoProto, original: onnx.ValueInfoProto) -> None:
    """Say of a tensor what was said of it, besides its type and shape: what it stands for."""
    if original.doc_string:
        info.doc_string = original.doc_string
    replace_all(info.metadata_props, original.metadata_props)
    if original.type.denotation:
        info.type.denotation = original.type.denotation
    axes, before = info.type.tensor_type.shape.dim, original.type.tensor_type.shape.dim
    if len(axes) == len(before):
        for axis, old in zip(axes, before, strict=True):
            if old.denotation:
                axis.denotation = old.denotation
