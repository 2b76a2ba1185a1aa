"""Damaged and hostile model files, each made of a sound one by a few seeded changes.

``mutant(number)`` is always the same file for a number, so that what a run finds can be
made again.
"""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.helper
from google.protobuf.message import Message
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from seeds import seeds

Random = random.Random

ABSURD_INTEGERS = (
    0, -1, -2, 1, 2, 3, 7, 255, 1000, 2**16, 10**6, 2**31 - 1, 2**31, -(2**31), 2**32 + 1,
    10**10, 2**40, 2**62, 2**63 - 1, -(2**63),
)  # fmt: skip
ABSURD_FLOATS = (float("nan"), float("inf"), -float("inf"), 0.0, -0.0, -1.0, 1e-45, 3.4e38)
ABSURD_TEXTS = (
    "", " ", "x", "y", "w1", "..", "../..", "/", "a/b", "%s{}", "\0", "\n", "\u202e", "\U0001f600",
    "onnx2snn", "ai.onnx", "ai.onnx.ml", "v/", "v_next/", "[red]", "-o", "n" * 5000,
)  # fmt: skip
OPERATORS = (
    "Abs", "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant",
    "ConstantOfShape", "Conv", "ConvTranspose", "Div", "Dropout", "Einsum", "Expand", "Flatten",
    "Gather", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Identity", "If", "LeakyRelu", "Loop",
    "LSTM", "MatMul", "Max", "MaxPool", "Mean", "Min", "Mul", "Neg", "NonZero", "OneHot", "Pad",
    "PRelu", "Range", "ReduceMean", "Relu", "Reshape", "Resize", "Scan", "Shape", "Sigmoid",
    "Slice", "Softmax", "Split", "Squeeze", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Tile",
    "TopK", "Transpose", "Unsqueeze", "Upsample", "IF", "Clock", "NoSuchOperator", "",
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A model file, the files beside it, samples for the sound network, and how it was made."""

    content: bytes
    beside: dict[str, bytes]
    x: np.ndarray
    made: str


def mutant(number: int) -> Mutant:
    """The mutant of a number: up to four changes of the model, or one of the file's bytes."""
    rng = Random(number)
    name = rng.choice(sorted(seeds()))
    seed = seeds()[name]
    if rng.random() < 0.2:
        change = rng.choice(CHANGES_OF_BYTES)
        return Mutant(change(seed.content, rng), seed.beside, seed.x, f"{name}: {change.__name__}")
    model = ModelProto()
    model.CopyFrom(seed.proto)
    made = []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        change = rng.choice(CHANGES)
        made.append(change.__name__)
        change(model, rng)
    beside = dict(seed.beside)
    if beside and rng.random() < 0.2:
        beside = {name: cut(content, rng) for name, content in beside.items()}
    return Mutant(model.SerializeToString(), beside, seed.x, f"{name}: {', '.join(made)}")


# Changes of the file's bytes.


def flip_bits(content: bytes, rng: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 50))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_bytes(content: bytes, rng: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        changed[rng.randrange(len(changed))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x12))
    return bytes(changed)


def cut(content: bytes, rng: Random) -> bytes:
    return content[: rng.randrange(len(content))]


def remove_bytes(content: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(content))
    return content[:start] + content[start + rng.choice((1, 2, 8, 100)) :]


def insert_bytes(content: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(content))
    return content[:start] + rng.randbytes(rng.choice((1, 2, 8, 100))) + content[start:]


def repeat_bytes(content: bytes, rng: Random) -> bytes:
    start, length = rng.randrange(len(content)), rng.choice((1, 16, 256, 4096))
    return content + content[start : start + length]


def break_text(content: bytes, rng: Random) -> bytes:
    """Bytes that are no UTF-8 in the place of letters."""
    letters = [i for i, byte in enumerate(content) if chr(byte).isascii() and chr(byte).isalpha()]
    changed = bytearray(content)
    for index in rng.sample(letters, min(len(letters), rng.choice((1, 2, 10)))):
        changed[index] = rng.choice((0xFF, 0xC0, 0xED))
    return bytes(changed)


def nest_bytes(content: bytes, rng: Random) -> bytes:
    """A graph in a node in a graph ..., far deeper than protobuf itself would write it."""
    inner = b""
    for _ in range(rng.choice((10, 30, 33, 34, 60, 1000))):
        attribute = field(1, b"then_branch") + field(6, inner) + b"\xa0\x01\x05"
        inner = field(1, field(1, b"c") + field(2, b"o") + field(4, b"If") + field(5, attribute))
    return content + field(7, inner)


def field(number: int, content: bytes) -> bytes:
    """A protobuf field that has a length."""
    length, encoded = len(content), bytearray()
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | 2, *encoded, length]) + content


# Changes of any field of any message.


def messages(message: Message) -> list[Message]:
    """A message and all inside it."""
    found, waiting = [], [message]
    while waiting:
        found.append(waiting.pop())
        for descriptor, value in found[-1].ListFields():
            if descriptor.message_type is not None:
                waiting += [value] if isinstance(value, Message) else list(value)
    return found


def absurd(descriptor: Any, rng: Random) -> Any:
    """A value for a field, of its type."""
    kind = descriptor.cpp_type
    if kind == descriptor.CPPTYPE_STRING:
        text = rng.choice(ABSURD_TEXTS)
        return text.encode() if descriptor.type == descriptor.TYPE_BYTES else text
    if kind in (descriptor.CPPTYPE_FLOAT, descriptor.CPPTYPE_DOUBLE):
        return rng.choice(ABSURD_FLOATS)
    if kind == descriptor.CPPTYPE_ENUM:
        return rng.choice([value.number for value in descriptor.enum_type.values])
    if kind == descriptor.CPPTYPE_INT32:
        return rng.choice([n for n in (*ABSURD_INTEGERS, *range(20)) if -(2**31) <= n < 2**31])
    if kind == descriptor.CPPTYPE_UINT64:
        return rng.choice([n for n in ABSURD_INTEGERS if n >= 0])
    return rng.choice(ABSURD_INTEGERS)


def set_field(model: ModelProto, rng: Random) -> None:
    message = rng.choice(messages(model))
    plain = [d for d in message.DESCRIPTOR.fields if d.message_type is None]
    if not plain:
        return
    descriptor = rng.choice(plain)
    held, value = getattr(message, descriptor.name), absurd(descriptor, rng)
    if isinstance(held, int | float | str | bytes):
        setattr(message, descriptor.name, value)
    elif len(held) and rng.random() < 0.8:
        held[rng.randrange(len(held))] = value
    else:
        held.append(value)


def clear_field(model: ModelProto, rng: Random) -> None:
    message = rng.choice(messages(model))
    held = [descriptor.name for descriptor, _ in message.ListFields()]
    if held:
        message.ClearField(rng.choice(held))


def edit_list(model: ModelProto, rng: Random) -> None:
    """Remove, repeat or reverse elements of some list."""
    lists = [
        value
        for message in messages(model)
        for descriptor, value in message.ListFields()
        if hasattr(value, "append") and len(value)
    ]
    values = rng.choice(lists)
    how, index = rng.randrange(3), rng.randrange(len(values))
    if how == 0:
        del values[index]
    elif how == 1:
        values.append(values[index])
    else:
        kept = list(values)[::-1]
        del values[:]
        values.extend(kept)


# Changes of the graph.


def some_node(model: ModelProto, rng: Random) -> NodeProto:
    return rng.choice(model.graph.node) if model.graph.node else model.graph.node.add()


def tensor_names(model: ModelProto) -> list[str]:
    graph = model.graph
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    names |= {tensor.name for tensor in graph.initializer} | {info.name for info in graph.input}
    return [*sorted(names), "", "nothing"]


def rewire(model: ModelProto, rng: Random) -> None:
    node = some_node(model, rng)
    names = node.input if rng.random() < 0.7 and node.input else node.output
    if names:
        names[rng.randrange(len(names))] = rng.choice(tensor_names(model))


def make_cycle(model: ModelProto, rng: Random) -> None:
    first, second = sorted(rng.randrange(len(model.graph.node) or 1) for _ in range(2))
    nodes = model.graph.node
    if len(nodes) and nodes[first].input and nodes[second].output:
        nodes[first].input[0] = nodes[second].output[0]


def remove_node(model: ModelProto, rng: Random) -> None:
    if model.graph.node:
        del model.graph.node[rng.randrange(len(model.graph.node))]


def repeat_name(model: ModelProto, rng: Random) -> None:
    lists = [model.graph.node, model.graph.initializer, model.graph.input, model.graph.output]
    lists = [values for values in lists if len(values) > 1]
    if lists:
        first, second = rng.sample(list(rng.choice(lists)), 2)
        first.name = second.name


def change_operator(model: ModelProto, rng: Random) -> None:
    node = some_node(model, rng)
    node.op_type = rng.choice(OPERATORS)
    if rng.random() < 0.1:
        node.domain = rng.choice(ABSURD_TEXTS)


def wrap_node(model: ModelProto, rng: Random) -> None:
    """Put another operator behind a node."""
    node = some_node(model, rng)
    if node.output:
        made = node.output[0]
        node.output[0] = made + "_inner"
        model.graph.node.add(op_type=rng.choice(OPERATORS), input=[made + "_inner"], output=[made])


def change_attribute(model: ModelProto, rng: Random) -> None:
    with_some = [node for node in model.graph.node if node.attribute]
    if not with_some:
        return
    attribute = rng.choice(rng.choice(with_some).attribute)
    if attribute.ints and rng.random() < 0.7:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(ABSURD_INTEGERS)
    elif rng.random() < 0.5:
        attribute.i, attribute.f = rng.choice(ABSURD_INTEGERS), rng.choice(ABSURD_FLOATS)
    else:
        attribute.type = rng.randrange(15)


def add_attribute(model: ModelProto, rng: Random) -> None:
    names = (
        "alpha", "axis", "axes", "auto_pad", "beta", "body", "ceil_mode", "dilations", "epsilon",
        "group", "keepdims", "kernel_shape", "max", "min", "mode", "output_padding",
        "output_shape", "pads", "perm", "shape", "strides", "then_branch", "to", "transA",
        "transB", "v_init", "v_threshold", "value", "value_float", "value_ints", "no_such",
    )  # fmt: skip
    integers = [rng.choice(ABSURD_INTEGERS) for _ in range(rng.randrange(6))]
    values: list[Any] = [
        rng.choice(ABSURD_INTEGERS), rng.choice(ABSURD_FLOATS), rng.choice(ABSURD_TEXTS),
        integers or [0], [rng.choice(ABSURD_FLOATS)] * 3,
        some_tensor(model, rng), GraphProto(name="g"),
    ]  # fmt: skip
    attribute = helper.make_attribute(rng.choice(names), rng.choice(values))
    some_node(model, rng).attribute.append(attribute)


def some_tensor(model: ModelProto, rng: Random) -> TensorProto:
    graph = model.graph
    attributes = [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
    found = [*graph.initializer, *attributes]
    return rng.choice(found) if found else TensorProto()


def change_shape(model: ModelProto, rng: Random) -> None:
    """Of an input, an output or what is said of a tensor between."""
    infos = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    if not infos:
        return
    shape = rng.choice(infos).type.tensor_type.shape
    how = rng.randrange(4)
    if how == 0:
        shape.dim.add(dim_value=rng.choice(ABSURD_INTEGERS))
    elif how == 1 and shape.dim:
        del shape.dim[rng.randrange(len(shape.dim))]
    elif how == 2 and shape.dim:
        rng.choice(shape.dim).dim_param = rng.choice(ABSURD_TEXTS)
    elif shape.dim:
        rng.choice(shape.dim).dim_value = rng.choice(ABSURD_INTEGERS)


def change_type(model: ModelProto, rng: Random) -> None:
    infos = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    if rng.random() < 0.5 and infos:
        rng.choice(infos).type.tensor_type.elem_type = rng.randrange(-1, 28)
    else:
        some_tensor(model, rng).data_type = rng.randrange(-1, 28)


def change_dimensions(model: ModelProto, rng: Random) -> None:
    tensor = some_tensor(model, rng)
    if tensor.dims and rng.random() < 0.8:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(ABSURD_INTEGERS)
    else:
        tensor.dims.append(rng.choice(ABSURD_INTEGERS))


def damage_values(model: ModelProto, rng: Random) -> None:
    tensor = some_tensor(model, rng)
    if tensor.raw_data:
        values = bytearray(tensor.raw_data)
        for _ in range(rng.choice((1, 4, 40))):
            values[rng.randrange(len(values))] = rng.choice((0, 0x7F, 0x80, 0xC0, 0xFF))
        tensor.raw_data = bytes(values)
    elif tensor.int64_data:
        tensor.int64_data[rng.randrange(len(tensor.int64_data))] = rng.choice(ABSURD_INTEGERS)
    elif tensor.float_data:
        tensor.float_data[rng.randrange(len(tensor.float_data))] = rng.choice(ABSURD_FLOATS)


def store_integers(model: ModelProto, rng: Random) -> None:
    """Absurd integers in a tensor of them, of the size that its shape says."""
    found = [t for t in model.graph.initializer if t.data_type == TensorProto.INT64]
    if found:
        tensor = rng.choice(found)
        size = len(tensor.raw_data) // 8
        values = np.array([rng.choice(ABSURD_INTEGERS) for _ in range(size)], np.int64)
        tensor.raw_data = values.tobytes()


def drop_input(model: ModelProto, rng: Random) -> None:
    lists = [values for values in (model.graph.input, model.graph.output) if len(values)]
    if lists:
        values = rng.choice(lists)
        del values[rng.randrange(len(values))]


def change_versions(model: ModelProto, rng: Random) -> None:
    how = rng.randrange(5)
    if how == 0:
        model.ir_version = rng.choice((0, 1, 3, 4, 7, 11, 12, 13, 99, 2**31, 2**62))
    elif how == 1:
        del model.opset_import[:]
    elif how == 2:
        model.opset_import.add(domain=rng.choice(ABSURD_TEXTS), version=rng.choice((1, 2, 17)))
    elif model.opset_import:
        versions = (0, -1, 1, 5, 6, 7, 8, 9, 11, 13, 15, 18, 21, 23, 25, 27, 99, 2**40)
        rng.choice(model.opset_import).version = rng.choice(versions)


def remove_initializer(model: ModelProto, rng: Random) -> None:
    if model.graph.initializer:
        del model.graph.initializer[rng.randrange(len(model.graph.initializer))]


def make_external(model: ModelProto, rng: Random) -> None:
    """Let a tensor keep its data in another file, or say nonsense of where that is."""
    tensor = some_tensor(model, rng)
    tensor.data_location = rng.choice((0, 1, 1, 1))
    if rng.random() < 0.5:
        tensor.ClearField("raw_data")
        del tensor.external_data[:]
    places = (
        "weights.bin", "", ".", "..", "/etc/passwd", "/dev/zero", "../model.onnx", "model.onnx",
        "a" * 300, "a/" * 3000, "\0", "nothing.bin", "weights.bin/x", "~", "$HOME",
    )  # fmt: skip
    numbers = ("0", "-1", "4096", "1e3", "", "x", "\u0663", "1_0", str(2**63), "9" * 5000)
    for key, values in (("location", places), ("offset", numbers), ("length", numbers)):
        if rng.random() < 0.7:
            tensor.external_data.add(key=key, value=rng.choice(values))


def add_sparse(model: ModelProto, rng: Random) -> None:
    """A sparse tensor, often damaged, in the place of an initializer or beside it."""
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [2], [1.0, 2.0])
    if model.graph.initializer and rng.random() < 0.7:
        replaced = model.graph.initializer[rng.randrange(len(model.graph.initializer))]
        values.name = replaced.name
        dims = list(replaced.dims)
        if rng.random() < 0.7:
            model.graph.initializer.remove(replaced)
    else:
        dims = [rng.choice(ABSURD_INTEGERS) for _ in range(rng.randrange(4))]
    places = [rng.choice((0, 1, *ABSURD_INTEGERS)) for _ in range(2)]
    indices = helper.make_tensor("indices", rng.choice((7, 7, 6, 1)), [2], [0, 0])
    if indices.data_type == TensorProto.INT64:
        indices = helper.make_tensor("indices", TensorProto.INT64, [2], places)
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, dims))


# What runtimes or onnx's C++ code may not survive: deep or endless structures, huge results.


def add_constant(model: ModelProto, name: str, value: Any) -> str:
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return name


def feed(model: ModelProto, made: str, rng: Random) -> None:
    """Let the network depend on a tensor: as an operand of a node, or added to an output."""
    how = rng.randrange(3)
    if how == 0:
        makers = [place for place, node in enumerate(model.graph.node) if made in node.output]
        later = [node for node in model.graph.node[makers[0] + 1 :] if node.input]
        if later:
            names = rng.choice(later).input
            names[rng.randrange(len(names))] = made
    elif how == 1 and model.graph.output and model.graph.node:
        node = model.graph.node[-1]
        if node.output:
            node.output[0], was = "before_" + node.output[0], node.output[0]
            model.graph.node.add(op_type="Sum", input=[node.output[0], made], output=[was])
    else:
        info = helper.make_tensor_value_info(made, TensorProto.FLOAT, rng.choice(([], ["M"])))
        model.graph.output.append(info)


def prepend(model: ModelProto, nodes: list[NodeProto]) -> None:
    kept = [NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *kept])


def huge_size(rng: Random) -> int:
    return rng.choice((10**3, 10**6, 10**8, 3 * 10**8, 2**31, 2**32 + 1, 10**10, 10**12, 2**62))


def make_huge(model: ModelProto, rng: Random) -> None:
    """Constants that would take gigabytes or terabytes once they are computed."""
    n = huge_size(rng)
    size = add_constant(model, "huge_size", np.array([n], np.int64))
    one = add_constant(model, "huge_one", np.ones(1, np.float32))
    two = add_constant(model, "huge_two", np.ones((1, 1, 2, 2), np.float32))
    recipes = [
        [helper.make_node("ConstantOfShape", [size], ["huge"])],
        [helper.make_node("Expand", [one, size], ["huge"])],
        [helper.make_node("Tile", [one, size], ["huge"])],
        [
            helper.make_node(
                "Range",
                [
                    add_constant(model, "huge_from", np.int64(0)),
                    add_constant(model, "huge_to", np.int64(n)),
                    add_constant(model, "huge_by", np.int64(rng.choice((1, 1, -1, 0)))),
                ],
                ["huge"],
            )
        ],
        [
            helper.make_node("Pad", [one, add_constant(model, "huge_pads", [0, n])], ["huge"]),
        ],
        [
            helper.make_node(
                "Resize",
                [two, "", add_constant(model, "huge_scale", np.array([1, 1, n, 1], np.float32))],
                ["huge"],
            )
        ],
        [
            helper.make_node("Mul", [size, size], ["huge_squared"]),
            helper.make_node("ConstantOfShape", ["huge_squared"], ["huge"]),
        ],
        [
            helper.make_node(
                "OneHot",
                [size, size, add_constant(model, "huge_values", np.zeros(2, np.float32))],
                ["huge"],
            )
        ],
        [
            helper.make_node("Constant", [], ["huge_row"], value_floats=[0.5] * 30_000),
            helper.make_node("Unsqueeze", ["huge_row", add_constant(model, "a1", [1])], ["col"]),
            helper.make_node("Add", ["huge_row", "col"], ["huge"]),
        ],
        [
            helper.make_node(
                "Upsample" if rng.random() < 0.2 else "Resize",
                [two, "", "", add_constant(model, "huge_sizes", [1, 1, n, 2])],
                ["huge"],
            )
        ],
        [helper.make_node("RandomNormal", [], ["huge"], shape=[n, 2])],
        [helper.make_node("HannWindow", [add_constant(model, "huge_n", n)], ["huge"])],
        [
            helper.make_node("ConstantOfShape", [add_constant(model, "two_d", [2, 2])], ["small"]),
            *doubling("Concat", "small", "huge", rng.choice((10, 26, 30, 40, 60)), axis=0),
        ],
    ]
    prepend(model, rng.choice(recipes))
    feed(model, "huge", rng)


def doubling(op: str, start: str, end: str, times: int, **attributes: Any) -> list[NodeProto]:
    """Nodes that each make twice as much of what the one before made."""
    names = [start, *(f"{end}_{i}" for i in range(times - 1)), end]
    return [helper.make_node(op, [a, a], [b], **attributes) for a, b in itertools.pairwise(names)]


def make_inputs_huge(model: ModelProto, rng: Random) -> None:
    sizes = (100, 1000, 5000, 10**4, 3 * 10**4, 10**5, 10**6, 2**40, 2**62)
    for info in model.graph.input:
        for dimension in info.type.tensor_type.shape.dim:
            if rng.random() < 0.6:
                dimension.dim_value = rng.choice(sizes)


def make_kernel_huge(model: ModelProto, rng: Random) -> None:
    ops = ("Conv", "AveragePool", "MaxPool", "SpikingMaxPool")
    for node in model.graph.node:
        if node.op_type in ops and rng.random() < 0.7:
            kept = [a for a in node.attribute if a.name != "pads"]
            del node.attribute[:]
            node.attribute.extend(kept)
            pads = [rng.choice((0, 1, 1000, 10**4, 10**5, 2**31, 2**62)) for _ in range(4)]
            node.attribute.append(helper.make_attribute("pads", pads))


def nest_graphs(model: ModelProto, rng: Random) -> None:
    """An If in an If in an If ..., or Loops."""
    add_constant(model, "deep_yes", np.array(True))
    trips = add_constant(model, "deep_trips", np.int64(rng.choice((1, 2, 10))))
    inner = GraphProto(name="g")
    inner.node.add(op_type="Constant", output=["o"]).attribute.append(
        helper.make_attribute("value_float", 1.0)
    )
    inner.output.append(helper.make_tensor_value_info("o", TensorProto.FLOAT, []))
    depth, loop = rng.choice((1, 3, 10, 20, 28, 31)), rng.random() < 0.3
    for level in range(depth):
        outer = GraphProto(name=f"g{level}")
        if loop:
            body = GraphProto.FromString(inner.SerializeToString())
            body.input.extend(
                [
                    helper.make_tensor_value_info(f"i{level}", TensorProto.INT64, []),
                    helper.make_tensor_value_info(f"go{level}", TensorProto.BOOL, []),
                ]
            )
            body.node.add(op_type="Identity", input=[f"go{level}"], output=[f"on{level}"])
            kept = list(body.output)
            del body.output[:]
            body.output.add(name=f"on{level}")
            body.output.extend(kept)
            node = helper.make_node("Loop", [trips, "deep_yes"], [f"o{level}"], body=body)
        else:
            node = (
                helper.make_node(
                    "If", ["deep_yes"], [f"o{level}"], then_branch=inner, else_branch=inner
                )
                if depth < 12
                else helper.make_node("If", ["deep_yes"], [f"o{level}"], then_branch=inner)
            )
        outer.node.append(node)
        outer.output.append(helper.make_tensor_value_info(f"o{level}", TensorProto.FLOAT, None))
        inner = outer
    prepend(model, list(inner.node))
    feed(model, f"o{depth - 1}", rng)


def many_branches(model: ModelProto, rng: Random) -> None:
    """Thousands of Ifs, one after the other."""
    add_constant(model, "many_yes", np.array(rng.random() < 0.5))
    last = add_constant(model, "many_start", np.float32(1))
    nodes = []
    for index in range(rng.choice((10, 300, 3000))):
        branches = {}
        for name in ("then_branch", "else_branch"):
            graph = GraphProto(name=name)
            graph.node.add(op_type="Neg", input=[last], output=["o"])
            graph.output.append(helper.make_tensor_value_info("o", TensorProto.FLOAT, []))
            branches[name] = graph
        last = f"many_{index}"
        nodes.append(helper.make_node("If", ["many_yes"], [last], **branches))
    prepend(model, nodes)
    feed(model, last, rng)


def add_loop(model: ModelProto, rng: Random) -> None:
    """A Loop of very many turns, or without end."""
    trips = add_constant(model, "loop_trips", np.int64(rng.choice((3, 10**6, 10**12, 2**63 - 1))))
    yes = add_constant(model, "loop_yes", np.array(True))
    start = add_constant(model, "loop_start", np.float32(0))
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Neg", ["value"], ["next"]),
            *([helper.make_node("Identity", ["next"], ["scanned"])] if rng.random() < 0.3 else []),
        ],
        "body",
        [
            info("i", TensorProto.INT64, []),
            info("go", TensorProto.BOOL, []),
            info("value", TensorProto.FLOAT, []),
        ],
        [info("on", TensorProto.BOOL, []), info("next", TensorProto.FLOAT, [])],
    )
    outputs = ["looped"]
    if len(body.node) > 2:
        body.output.append(info("scanned", TensorProto.FLOAT, []))
        outputs.append("all_turns")
    names = [rng.choice((trips, "")), rng.choice((yes, "")), start]
    prepend(model, [helper.make_node("Loop", names, outputs, body=body)])
    feed(model, rng.choice(outputs), rng)


def add_functions(model: ModelProto, rng: Random) -> None:
    """Functions that call themselves, or each the one before, twice or a thousand times."""
    how = rng.choice(("self", "mutual", "twice", "long", "same", "subgraph"))
    count = {"self": 1, "mutual": 2, "twice": rng.choice((5, 20, 40)), "long": 1000, "same": 2}
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("deep", 1)]
    total = count.get(how, 1)
    for index in range(total):
        called = {"self": 0, "mutual": 1 - index, "same": -1, "subgraph": 0}.get(how, index - 1)
        op = helper.make_node("Neg", ["x"], ["y"])
        if called >= 0:
            op = helper.make_node(f"f{called}", ["x"], ["y"], domain="deep")
        nodes = [op]
        if how == "twice" and called >= 0:
            again = helper.make_node(f"f{called}", ["z"], ["y"], domain="deep")
            nodes = [helper.make_node(f"f{called}", ["x"], ["z"], domain="deep"), again]
        if how == "subgraph":
            graph = helper.make_graph(nodes, "g", [], [onnx.ValueInfoProto(name="y")])
            yes = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", 9, [], [1]))
            nodes = [
                yes,
                helper.make_node("If", ["c"], ["r"], then_branch=graph, else_branch=graph),
            ]
        name = "f0" if how == "same" else f"f{index}"
        made = "r" if how == "subgraph" else "y"
        function = helper.make_function("deep", name, ["x"], [made], nodes, opsets)
        model.functions.append(function)
    model.opset_import.add(domain="deep", version=1)
    last = 0 if how == "same" else total - 1
    if rng.random() < 0.8 and model.graph.input:
        name = model.graph.input[0].name
        prepend(model, [helper.make_node(f"f{last}", [name], ["deep_made"], domain="deep")])
        feed(model, "deep_made", rng)


def many_nodes(model: ModelProto, rng: Random) -> None:
    """A long chain."""
    if not model.graph.input:
        return
    last, nodes = model.graph.input[0].name, []
    op = rng.choice(("Identity", "Neg", "Relu", "Sigmoid", "Transpose"))
    for index in range(rng.choice((10, 200, 2000))):
        nodes.append(helper.make_node(op, [last], [f"chain_{index}"]))
        last = f"chain_{index}"
    prepend(model, nodes)
    feed(model, last, rng)


def many_axes(model: ModelProto, rng: Random) -> None:
    n = rng.choice((9, 33, 65, 1000, 10**5))
    if rng.random() < 0.5 and model.graph.input:
        shape = rng.choice(model.graph.input).type.tensor_type.shape
        for _ in range(n):
            shape.dim.add(dim_value=1)
    else:
        some_tensor(model, rng).dims.extend([1] * n)


def damage_neurons(model: ModelProto, rng: Random) -> None:
    """Spiking networks: attributes, states and functions that no longer fit each other."""
    neurons = [node for node in model.graph.node if node.domain == "onnx2snn"]
    if not neurons:
        return
    node = rng.choice(neurons)
    how = rng.randrange(8)
    if how == 0:
        node.op_type = rng.choice(("IF", "Clock", "RunningMean", "SpikingMaxPool", "LIF"))
    elif how == 1 and node.attribute:
        del node.attribute[rng.randrange(len(node.attribute))]
    elif how == 2 and node.attribute:
        tensor = rng.choice(node.attribute).t
        shape = rng.choice(([0], [1], [7], [1] * 9, [1, 4, 1, 1], [10**9]))
        tensor.CopyFrom(TensorProto(data_type=1, dims=shape))
        tensor.raw_data = np.ones(min(np.prod(shape), 100), np.float32).tobytes()
    elif how == 3:
        node.name = rng.choice(ABSURD_TEXTS)
    elif how == 4 and node.input:
        node.input[-1] = rng.choice(tensor_names(model))
    elif how == 5 and node.output:
        node.output[-1] = rng.choice(tensor_names(model))
    elif how == 6:
        function = rng.choice(model.functions)
        rng.choice(function.node).op_type = rng.choice(OPERATORS)
    else:
        states = [t for t in model.graph.initializer if t.name.startswith("v/")]
        if states:
            state = rng.choice(states)
            state.dims.insert(0, rng.choice((1, 1, 2, 0, -1)))


CHANGES_OF_BYTES: tuple[Callable[[bytes, Random], bytes], ...] = (
    flip_bits, flip_bits, set_bytes, cut, remove_bytes, insert_bytes, repeat_bytes, break_text,
    nest_bytes,
)  # fmt: skip

CHANGES: tuple[Callable[[ModelProto, Random], None], ...] = (
    set_field, set_field, set_field, clear_field, clear_field, edit_list, edit_list,
    rewire, rewire, make_cycle, remove_node, repeat_name, change_operator, change_operator,
    wrap_node, change_attribute, change_attribute, add_attribute, add_attribute, change_shape,
    change_shape, change_type, change_dimensions, damage_values, store_integers, drop_input,
    change_versions, change_versions, remove_initializer, make_external, add_sparse, make_huge,
    make_huge, make_inputs_huge, make_kernel_huge, nest_graphs, many_branches, add_loop,
    add_functions, many_nodes, many_axes, damage_neurons, damage_neurons,
)  # fmt: skip
