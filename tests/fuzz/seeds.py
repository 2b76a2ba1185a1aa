"""The sound model files that mutants are made of: small, and of every kind that is read."""

import functools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx.external_data_helper
from onnx_text import model

from onnx2snn import convert

EXPORTED = Path(__file__).parents[1] / "exporters" / "models"


@dataclass(frozen=True)
class Seed:
    """A model file, the files beside it, and a few samples that its network takes."""

    content: bytes
    x: np.ndarray
    beside: dict[str, bytes] = field(default_factory=dict)

    @functools.cached_property
    def proto(self) -> onnx.ModelProto:
        return onnx.ModelProto.FromString(self.content)


CONVNET = """convnet (float[N, 3, 8, 8] x) => (float[N, 5] y)
{
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    b = BatchNormalization (a, scale, shift, mean, var)
    c = Clip (b, zero, two)
    d = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)
    e = Conv <pads = [1, 1, 1, 1]> (d, w2)
    f = Add (e, d)
    g = ACTIVATION
    h = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (g)
    i = GlobalAveragePool (h)
    j = Flatten (i)
    k = Gemm <transB = 1> (j, w3, b3)
    y = READOUT (k)
}"""

FUNCTIONS = """
<ir_version: 8, opset_import: ["": 17, "own": 1]>
calls (float[N, 4] x) => (float[N, 3] y)
{
    a = own.layer (x, w1)
    y = own.twice <factor = 2.0> (a)
}
<domain: "own", opset_import: ["": 17, "own": 1]>
layer (x, w) => (y) { a = MatMul (x, w) y = own.bounded (a) }
<domain: "own", opset_import: ["": 17, "own": 1]>
bounded (x) => (y)
{
    zero = Constant <value = float {0}> ()
    one = Constant <value = float {1}> ()
    y = Clip (x, zero, one)
}
<domain: "own", opset_import: ["": 17]>
twice <factor> (x) => (y) { f = Constant <value_float: float = @factor> () y = Mul (x, f) }
"""

BRANCHES = """branches (float[N, 4] x) => (float[N, 3] y)
{
    a = MatMul (x, w1)
    total = ReduceSum <keepdims = 0> (x)
    positive = Greater (total, zero)
    b = If (positive) <
        then_branch = then_graph () => (float[N, 3] r) { r = Identity (a) },
        else_branch = else_graph () => (float[N, 3] s) { s = Neg (a) }
    >
    yes = Constant <value = bool {1}> ()
    y = If (yes) <
        then_branch = then_graph () => (float[N, 3] p) { p = Clip (b, zero, two) },
        else_branch = else_graph () => (float[N, 3] q) { q = Relu (b) }
    >
}"""

SHAPES = """shapes (float[N, 4] x) => (float[N, 6] y)
{
    a = MatMul (x, w1)
    size = Shape (a)
    first = Gather (size, index)
    rows = Unsqueeze (first, index1)
    wanted = Concat <axis = 0> (rows, three)
    b = Reshape (a, wanted)
    ones = ConstantOfShape <value = float[1] {1}> (three)
    wide = Expand (ones, grid)
    tiled = Tile (ones, two)
    padded = Pad (ones, around)
    steps = Range (from, to, by)
    cast = Cast <to = 1> (steps)
    line = ReduceSum <keepdims = 0> (wide, index1)
    scaled = Mul (line, cast)
    c = Add (b, scaled)
    d = Clip (c, zero, top)
    e = MatMul (d, w2)
    f = Add (e, tiled)
    y = Sigmoid (f)
}"""


def convnet(activation: str, read_out: str = "Identity") -> onnx.ModelProto:
    random = np.random.default_rng(0)
    text = CONVNET.replace("ACTIVATION", activation).replace("READOUT", read_out)
    weights = {
        "w1": random.normal(size=(4, 3, 3, 3)), "b1": random.normal(size=4),
        "scale": np.ones(4), "shift": np.zeros(4), "mean": np.zeros(4), "var": np.ones(4),
        "zero": np.zeros(()), "two": np.full((), 2), "w2": random.normal(size=(4, 4, 3, 3)),
        "w3": random.normal(size=(5, 4)), "b3": random.normal(size=5),
    }  # fmt: skip
    return model(text, {name: value.astype(np.float32) for name, value in weights.items()})


def small_weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    floats = {
        "w1": random.normal(size=(4, 3)), "w2": random.normal(size=(3, 6)),
        "zero": np.zeros(()), "two": np.full((), 2), "top": np.full((), 3),
    }  # fmt: skip
    return {name: value.astype(np.float32) for name, value in floats.items()}


def with_functions() -> onnx.ModelProto:
    proto = onnx.parser.parse_model(FUNCTIONS)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(small_weights()["w1"], "w1"))
    return proto


def with_branches() -> onnx.ModelProto:
    weights = small_weights()
    return model(BRANCHES, {name: weights[name] for name in ("w1", "zero", "two")})


def with_shapes() -> onnx.ModelProto:
    weights = small_weights()
    integers = {
        "index": 0, "index1": [0], "three": [3], "two": [2], "grid": [2, 3],
        "around": [0, 3], "from": 0, "to": 3, "by": 1,
    }  # fmt: skip
    weights |= {name: np.array(value, np.int64) for name, value in integers.items()}
    return model(SHAPES, weights)


def with_external_data() -> Seed:
    random = np.random.default_rng(2)
    weights = {"w1": random.normal(size=(8, 40)), "w2": random.normal(size=(40, 3))}
    proto = model(
        "external (float[N, 8] x) => (float[N, 3] y)"
        "{ a = MatMul (x, w1) b = Relu (a) c = MatMul (b, w2) y = Softmax (c) }",
        {name: value.astype(np.float32) for name, value in weights.items()},
    )
    data = b""
    for tensor in proto.graph.initializer:
        content = tensor.raw_data
        onnx.external_data_helper.set_external_data(tensor, "weights.bin", len(data), len(content))
        tensor.ClearField("raw_data")
        data += content
    return Seed(proto.SerializeToString(), samples(8), {"weights.bin": data})


def samples(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(4, *shape)).astype(np.float32)


def exported(name: str) -> Seed:
    with np.load(EXPORTED / f"{name}.npz") as stored:
        x = stored["x"][:4]
    return Seed((EXPORTED / f"{name}.onnx").read_bytes(), x)


@functools.cache
def seeds() -> dict[str, Seed]:
    """Sound model files by name."""
    image = samples(3, 8, 8)
    bounded = convnet("Clip (f, zero, two)")
    found = {
        "clips": Seed(bounded.SerializeToString(), image),
        "relus": Seed(convnet("Relu (f)", "Softmax").SerializeToString(), image),
        "leaky": Seed(convnet("LeakyRelu (f)", "Sigmoid").SerializeToString(), image),
        "curved": Seed(convnet("Sigmoid (f)").SerializeToString(), image),
        "external": with_external_data(),
        "functions": Seed(with_functions().SerializeToString(), samples(4)),
        "branches": Seed(with_branches().SerializeToString(), samples(4)),
        "shapes": Seed(with_shapes().SerializeToString(), samples(4)),
    }
    spiking = convert(bounded).model
    counting = convert(convnet("Clip (f, zero, two)", "Softmax"), maxpool="exact").model
    found["spiking"] = Seed(spiking.SerializeToString(), image)
    found["counting"] = Seed(counting.SerializeToString(), image)
    for name in ("sklearn-regressor", "tf2onnx", "jax-numpy", "torch-dynamo-mobile"):
        found[name] = exported(name)
    return found
