"""Random networks whose float32 sums are exact, and a literal simulation of equations 2-5.

Weights are small multiples of 1/8 and thresholds powers of two, so no sum rounds, in any
order, and potentials hit thresholds exactly. A network is a list of layers; ``to_onnx``
writes it as an ANN and ``simulate`` runs it over time in float64 NumPy, each from the
list alone.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass
class Layer:
    op: str
    output: str
    inputs: list[str]
    values: dict = field(default_factory=dict)


@dataclass
class Network:
    layers: list[Layer]
    input_shape: tuple[int, ...]

    @property
    def clips(self):
        return [layer for layer in self.layers if layer.op == "clip"]


def weights(rng, *shape, largest=4, parts=8):
    """Random whole multiples of 1 / parts, float32."""
    return (rng.integers(-largest, largest + 1, shape) / parts).astype(np.float32)


class Builder:
    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.layers = []

    def add(self, op, inputs, **values):
        name = f"{op}{len(self.layers)}"
        self.layers.append(Layer(op, name, list(inputs), values))
        return name

    def eighths(self, *shape, largest=4):
        return self.rng.integers(-largest, largest + 1, shape) / 8

    def conv(self, x, channels_in, channels_out, kernel=3, stride=1, pads=(1, 1, 1, 1), group=1):
        weight = self.eighths(channels_out, channels_in // group, kernel, kernel)
        bias = self.eighths(channels_out)
        return self.add("conv", [x], w=weight, b=bias, stride=stride, pads=pads, group=group)

    def bn(self, x, channels):
        # var + epsilon is a power of 4, so that its root is exact.
        return self.add(
            "bn", [x],
            scale=self.rng.choice([0.5, 1.0, 2.0], channels), shift=self.eighths(channels),
            mean=self.eighths(channels), var=self.rng.choice([0.25, 1.0, 4.0], channels),
        )  # fmt: skip

    def clip(self, x, channels, rank=4):
        powers = np.array([0.25, 0.5, 1.0, 2.0])
        if self.rng.random() < 0.5:
            return self.add("clip", [x], theta=np.array(self.rng.choice(powers)))
        theta = self.rng.choice(powers, channels).reshape((-1,) + (1,) * (rank - 2))
        return self.add("clip", [x], theta=theta)


def random_network(seed, width=1):
    """Convolutions (groups, strides, pads), BN, residual Add, Concat, pooling, Gemm.

    ``width``: of all channels.
    """
    b = Builder(seed)
    rng = b.rng
    size = int(rng.integers(6, 10))
    channels = width * int(rng.choice([2, 4]))
    x = b.conv("input", 2, channels, kernel=3)
    if rng.random() < 0.5:
        x = b.bn(x, channels)
    x = b.clip(x, channels)
    for _ in range(int(rng.integers(1, 4))):
        kind = rng.choice(["residual", "concat", "plain", "grouped", "pool"])
        if kind == "residual":
            y = b.clip(b.bn(b.conv(x, channels, channels), channels), channels)
            y = b.conv(y, channels, channels)
            shortcut = x if rng.random() < 0.5 else b.conv(x, channels, channels, 1, 1, (0,) * 4)
            x = b.clip(b.add("add", [y, shortcut]), channels)
        elif kind == "concat":
            y = b.clip(b.conv(x, channels, 2 * width), 2 * width)
            x = b.add("concat", [x, y])
            channels += 2 * width
        elif kind == "plain" and size >= 4:
            pads = tuple(int(p) for p in rng.integers(0, 2, 4))
            x = b.conv(x, channels, 4 * width, 3, 2, pads)
            size = min((size + pads[0] + pads[2] - 3) // 2, (size + pads[1] + pads[3] - 3) // 2) + 1
            channels = 4 * width
            x = b.clip(x, channels)
        elif kind == "grouped":
            x = b.clip(b.conv(x, channels, channels, group=2), channels)
        elif kind == "pool" and size >= 4:
            # Windows at the border hold 1, 2 or 4 pixels: means are exact, padding apart.
            pads = (1, 1, 1, 1) if rng.random() < 0.5 else (0, 0, 0, 0)
            x = b.add("avgpool", [x], kernel=2, stride=2, pads=pads)
            size = (size + 2 * pads[0] - 2) // 2 + 1
    network = Network(b.layers, (2, 0, 0))
    x = b.add("flatten", [x])
    return network, b, x


def finish(seed, size=8, width=1):
    """A random network with its classifier, whose width depends on what comes before."""
    network, b, x = random_network(seed, width)
    network.input_shape = (2, size, size)
    features = simulate(network, np.zeros((1, *network.input_shape)), 1, stop=x)[0].shape[1]
    x = b.add("gemm", [x], w=b.eighths(6, features), b=b.eighths(6))
    if b.rng.random() < 0.5:
        x = b.clip(x, 6, rank=2)
        x = b.add("gemm", [x], w=b.eighths(5, 6), b=b.eighths(5))
    return network


def images(network, samples, seed=1):
    rng = np.random.default_rng(seed)
    return (rng.integers(-8, 9, (samples, *network.input_shape)) / 8).astype(np.float32)


# The ANN as ONNX ----------------------------------------------------------------------


def to_onnx(network, opset=17):
    nodes, weights = [], []

    def constant(name, value, dtype=np.float32):
        weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    for layer in network.layers:
        v, out, ins = layer.values, layer.output, layer.inputs
        if layer.op == "conv":
            ins = [*ins, constant(f"{out}.w", v["w"]), constant(f"{out}.b", v["b"])]
            kernel = v["w"].shape[2]
            nodes.append(
                helper.make_node(
                    "Conv", ins, [out], out, kernel_shape=[kernel] * 2,
                    strides=[v["stride"]] * 2, pads=list(v["pads"]), group=v["group"],
                )
            )  # fmt: skip
        elif layer.op == "bn":
            ins = [*ins, *(constant(f"{out}.{k}", v[k]) for k in ("scale", "shift", "mean", "var"))]
            nodes.append(helper.make_node("BatchNormalization", ins, [out], out, epsilon=0.0))
        elif layer.op == "clip":
            theta = v["theta"]
            if theta.ndim == 0:
                ins = [*ins, constant(f"{out}.0", 0.0), constant(f"{out}.theta", theta)]
                nodes.append(helper.make_node("Clip", ins, [out], out))
            else:
                nodes.append(helper.make_node("Relu", ins, [f"{out}.relu"], f"{out}.relu"))
                ins = [f"{out}.relu", constant(f"{out}.theta", theta)]
                nodes.append(helper.make_node("Min", ins, [out], out))
        elif layer.op == "avgpool":
            nodes.append(
                helper.make_node(
                    "AveragePool", ins, [out], out, kernel_shape=[v["kernel"]] * 2,
                    strides=[v["stride"]] * 2, pads=list(v["pads"]),
                )
            )  # fmt: skip
        elif layer.op == "gemm":
            ins = [*ins, constant(f"{out}.w", v["w"]), constant(f"{out}.b", v["b"])]
            nodes.append(helper.make_node("Gemm", ins, [out], out, transB=1))
        elif layer.op == "concat":
            nodes.append(helper.make_node("Concat", ins, [out], out, axis=1))
        else:
            nodes.append(
                helper.make_node({"add": "Add", "flatten": "Flatten"}[layer.op], ins, [out], out)
            )
    last = network.layers[-1]
    rank = 2 if last.op == "gemm" else len(network.input_shape) + 1
    shape = ["N", *(f"d{axis}" for axis in range(1, rank))]
    graph = helper.make_graph(
        nodes,
        "dyadic",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", *network.input_shape])],
        [helper.make_tensor_value_info(last.output, TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model


# The literal reference ----------------------------------------------------------------


def conv(x, w, b, stride, pads, group):
    top, left, bottom, right = pads
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    k = w.shape[2]
    height = (x.shape[2] - k) // stride + 1
    width = (x.shape[3] - k) // stride + 1
    per_group_in, per_group_out = x.shape[1] // group, w.shape[0] // group
    out = np.zeros((x.shape[0], w.shape[0], height, width))
    for g in range(group):
        xs = x[:, g * per_group_in : (g + 1) * per_group_in]
        for o in range(g * per_group_out, (g + 1) * per_group_out):
            for i in range(height):
                for j in range(width):
                    patch = xs[:, :, i * stride : i * stride + k, j * stride : j * stride + k]
                    out[:, o, i, j] = (patch * w[o]).sum(axis=(1, 2, 3)) + b[o]
    return out


def avgpool(x, kernel, stride, pads):
    top, left, bottom, right = pads
    padding = ((0, 0), (0, 0), (top, bottom), (left, right))
    counted = np.pad(np.ones_like(x), padding)
    x = np.pad(x, padding)
    height, width = ((size - kernel) // stride + 1 for size in x.shape[2:])
    out = np.zeros((*x.shape[:2], height, width))
    for i in range(height):
        for j in range(width):
            window = np.s_[:, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            out[:, :, i, j] = x[window].sum(axis=(2, 3)) / counted[window].sum(axis=(2, 3))
    return out


def simulate(network, x, timesteps, v_init=0.5, stop=None, varies=False):
    """Equations 2 to 5, step by step. Returns the summed output and the spikes of each clip."""
    potentials, spikes, total = {}, {}, 0
    for t in range(timesteps):
        tensors = {"input": (x[t] if varies else x).astype(np.float64)}
        for layer in network.layers:
            v, ins = layer.values, [tensors[name] for name in layer.inputs]
            if layer.op == "conv":
                out = conv(ins[0], v["w"], v["b"], v["stride"], v["pads"], v["group"])
            elif layer.op == "bn":
                a = (v["scale"] / np.sqrt(v["var"])).reshape(1, -1, 1, 1)
                shift, mean = v["shift"].reshape(1, -1, 1, 1), v["mean"].reshape(1, -1, 1, 1)
                out = a * (ins[0] - mean) + shift
            elif layer.op == "clip":
                theta = v["theta"]
                v_before = potentials.get(layer.output, np.zeros_like(ins[0]) + theta * v_init)
                v_temp = v_before + ins[0]  # (2)
                s = (v_temp > theta).astype(np.float64)  # (3)
                out = s * theta  # (4)
                potentials[layer.output] = v_temp - s * theta  # (5)
                spikes[layer.output] = spikes.get(layer.output, 0) + s
            elif layer.op == "avgpool":
                out = avgpool(ins[0], v["kernel"], v["stride"], v["pads"])
            elif layer.op == "gemm":
                out = ins[0] @ v["w"].T + v["b"]
            elif layer.op == "add":
                out = ins[0] + ins[1]
            elif layer.op == "concat":
                out = np.concatenate(ins, axis=1)
            else:
                out = ins[0].reshape(len(ins[0]), -1)
            tensors[layer.output] = out
            if layer.output == stop:
                break
        total = total + tensors[stop or network.layers[-1].output]
    return total, spikes
