"""Every operator, spelling and graph shape that converts, against its equations, bit for bit."""

import os

import equations as eq
import numpy as np
import proof
import pytest
from dyadic_ops import Builder
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx_text import model

from onnx2snn import SpikingSession, UnsupportedModelError, convert, from_arrays
from onnx2snn.recipes import RECIPES

CASES = int(os.environ.get("ONNX2SNN_CASES", "300"))

# One network for each operator ------------------------------------------------------------


def around(operator, **options):
    """Clip -> the operator -> Clip -> Conv: it stands between neurons."""
    b = Builder(**options)
    x = b.clip0(b.conv(b.first, channels=4, pads=(1, 1, 1, 1)), 1.0)
    x = operator(b, x)
    b.output(b.flatten(b.clip0(x, 0.5)))
    return b


LINEAR = {
    "Conv": lambda b, x: b.conv(x, pads=(1, 1, 1, 1)),
    "Conv, grouped": lambda b, x: b.conv(x, group=2, channels=4),
    "Conv, depthwise": lambda b, x: b.conv(x, group=4, channels=8),
    "Conv, dilated": lambda b, x: b.conv(x, dilations=(2, 1), pads=(2, 0, 2, 0)),
    "Conv, SAME_UPPER": lambda b, x: b.conv(x, kernel=(2, 2), auto_pad="SAME_UPPER"),
    "Conv, SAME_LOWER": lambda b, x: b.conv(x, auto_pad="SAME_LOWER", strides=(2, 2)),
    "Conv, VALID": lambda b, x: b.conv(x, auto_pad="VALID"),
    "ConvTranspose": lambda b, x: b.conv_transpose(x),
    "ConvTranspose, padded": lambda b, x: b.conv_transpose(
        x, kernel=(3, 3), pads=(1, 0, 0, 1), more=1
    ),
    "BatchNormalization": lambda b, x: b.batch_norm(x, "BatchNormalization"),
    "BatchNormalization, unfused": lambda b, x: b.batch_norm(x, "unfused"),
    "BatchNormalization before Conv": lambda b, x: b.conv(b.batch_norm(x), pads=(1, 0, 1, 1)),
    "BatchNormalization after Conv": lambda b, x: b.batch_norm(b.conv(x)),
    "BatchNormalization, AveragePool, Conv": lambda b, x: b.conv(
        b.pool("AveragePool", b.batch_norm(x)), kernel=(1, 1)
    ),
    "BatchNormalization, Pad, Conv": lambda b, x: b.conv(b.pad(b.batch_norm(x), (1, 0, 2, 1))),
    "BatchNormalization, Flatten, Gemm": lambda b, x: b.gemm(b.flatten(b.batch_norm(x))),
    "Pad by a value": lambda b, x: b.conv(b.pad(x, (1, 0, 0, 1), value=0.5)),
    "Pad, cropping": lambda b, x: b.conv(b.pad(x, (-1, 0, 1, 0)), kernel=(2, 2)),
    "Pad, computed at run time": lambda b, x: b.conv(b.pad(x, (1, 0, 1, 0), how="run time")),
    "Sum of 3": lambda b, x: b.add(x, b.scale(x, "Neg"), "Sum of 3"),
    "Mean": lambda b, x: b.add(x, b.scale(x, "Add"), "Mean"),
    "AveragePool, padded": lambda b, x: b.pool("AveragePool", x, pads=(1, 1, 1, 1)),
    "AveragePool, padding counted": lambda b, x: b.pool(
        "AveragePool", x, pads=(1, 0, 1, 0), counted=True
    ),
    "AveragePool, ceil_mode": lambda b, x: b.pool("AveragePool", x, pads=(1, 1, 0, 0), ceil=True),
    "AveragePool, SAME_UPPER": lambda b, x: b.pool(
        "AveragePool", x, strides=(1, 1), auto_pad="SAME_UPPER"
    ),
    "Pad before AveragePool": lambda b, x: b.pool("AveragePool", b.pad(x, (1, 0, 0, 1))),
    "GlobalAveragePool": lambda b, x: b.global_pool(x),
    "ReduceMean": lambda b, x: b.global_pool(x, "ReduceMean"),
    "ReduceMean without keepdims": lambda b, x: b.gemm(b.global_pool(x, "ReduceMean", False)),
    "ReduceSum over rows": lambda b, x: b.reduce_axis(x),
    "Resize, nearest": lambda b, x: b.resize(x),
    "Resize, linear": lambda b, x: b.resize(x, "linear"),
    "DepthToSpace, DCR": lambda b, x: b.depth_to_space(x),
    "DepthToSpace, CRD": lambda b, x: b.depth_to_space(x, "CRD"),
    "SpaceToDepth": lambda b, x: b.space_to_depth(x),
    "Split": lambda b, x: b.concat(*b.split(x)[::-1]),
    "Slice with a step": lambda b, x: b.slice(x, 2, 0, step=2),
    "Gather": lambda b, x: b.gather(x, 1, (2, 0, 3)),
    "Concat": lambda b, x: b.concat(x, x, axis=2),
    "Tile": lambda b, x: b.tile(x),
    "Expand": lambda b, x: b.expand(b.reduce_axis(x)),
    "Transpose": lambda b, x: b.conv(b.swap(x), kernel=(1, 2)),
    "Reshape": lambda b, x: b.conv(b.reshape(x, (8, 2, 4)), kernel=(1, 1)),
    "Squeeze": lambda b, x: b.conv(b.no_op(x, "Squeeze"), kernel=(1, 1)),
    "Dropout": lambda b, x: b.conv(b.no_op(x, "Dropout"), kernel=(1, 1)),
    **{
        f"constant, {how}": lambda b, x, how=how: b.scale(x, how)
        for how in ("Mul", "Div", "Add", "Add first", "Sub", "minus x", "Neg")
    },
    **{
        f"Gemm, {how}": lambda b, x, how=how: b.gemm(b.flatten(x), how=how)
        for how in ("plain", "transB", "scaled", "transA", "no bias", "row", "one")
    },
    **{
        f"MatMul, {how}": lambda b, x, how=how: b.matmul(b.flatten(x), how=how)
        for how in ("alone", "then Add", "Add first", "Sub")
    },
    "MatMul on tokens": lambda b, x: b.matmul(b.reshape(x, (4, 16))),
}  # fmt: skip


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("operator", LINEAR)
def test_linear_operator(operator, channels_last):
    for seed in range(3):
        proof.prove(around(LINEAR[operator], seed=seed, channels_last=channels_last))


ACTIVATIONS = {
    **{f"ReLU as {how}": lambda b, x, how=how: b.relu(x, how) for how in ("Relu", "Max", "Clip")},
    **{
        f"Clip as {how}": lambda b, x, how=how: b.clip0(x, 2.0, how)
        for how in ("Clip", "Relu, Min", "Min, Relu", "Max, Min", "Relu, Clip", "Clip, Relu")
    },
    "ReLU6": lambda b, x: b.clip0(x, 6.0, "Relu, Clip"),
    "Clip per channel": lambda b, x: b.clip0(x, np.array([[[1.0]], [[2.0]]]), "Relu, Min"),
    "Clip from above 0": lambda b, x: b.clip(x, 0.25, 1.25),
    "HardTanh": lambda b, x: b.clip(x, -1, 1),
    "Clip below 0": lambda b, x: b.clip(x, -2, -1),
    "Clip without maximum": lambda b, x: b.clip(x, 0.5, None),
    "Clip without maximum, below 0": lambda b, x: b.clip(x, -0.5, None),
    "Clip without minimum": lambda b, x: b.clip(x, None, 0.5),
    "Clip without minimum, to 0": lambda b, x: b.clip(x, None, 0.0),
    "HardSigmoid": lambda b, x: b.hard_sigmoid(x),
    "LeakyRelu": lambda b, x: b.leaky_relu(x),
    "PRelu": lambda b, x: b.prelu(x, np.array(0.5)),
    "PRelu per channel": lambda b, x: b.prelu(x, np.array([[[0.5]], [[-0.25]]])),
    "ThresholdedRelu": lambda b, x: b.thresholded_relu(x),
    "ThresholdedRelu of a clip": lambda b, x: b.thresholded_relu(b.clip0(x, 1.0)),
    "ThresholdedRelu of a ReLU": lambda b, x: b.thresholded_relu(b.relu(x)),
    "Abs": lambda b, x: b.absolute(x),
    "Max with a constant": lambda b, x: b.clip(x, 0.5, None, "Max"),
    "Min with a constant": lambda b, x: b.clip(x, None, 0.5, "Min"),
    "Max per channel": lambda b, x: b.larger(x, np.array([[[0.5]], [[-1.0]]])),
    "Max per channel, below 0": lambda b, x: b.larger(x, np.array([[[-0.5]], [[-1.0]]])),
    "Min per channel, above 0": lambda b, x: b.larger(x, np.array([[[0.5]], [[1.0]]]), "Min"),
    "Max of two": lambda b, x: b.larger(x, b.scale(x, "Add")),
    "Min of two": lambda b, x: b.larger(x, b.conv(x, kernel=(1, 1)), "Min"),
}


@pytest.mark.parametrize("place", ["on the input", "between", "last"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation(activation, place):
    for seed in range(3):
        b = Builder(seed)
        x = b.first if place == "on the input" else b.conv(b.first, pads=(1, 1, 1, 1))
        x = ACTIVATIONS[activation](b, x)
        if place == "between":
            x = b.clip0(b.conv(x, pads=(1, 0, 1, 0)), 1.0)
        b.output(x if place == "last" else b.gemm(b.flatten(x)))
        proof.prove(b, timesteps=7)


@pytest.mark.parametrize("first", ["HardTanh", "LeakyRelu", "Abs", "PRelu", "Max of two"])
@pytest.mark.parametrize("second", ["LeakyRelu", "Abs", "PRelu", "Min of two"])
def test_two_activations_in_a_row(first, second):
    b = Builder(1)
    x = ACTIVATIONS[second](b, ACTIVATIONS[first](b, b.conv(b.first)))
    b.output(x)
    proof.prove(b)


BETWEEN = {
    "Transpose": (lambda b, x: b.swap(x), 1.0),
    "Mul": (lambda b, x: b.scale(x, "Mul", np.array(2.0)), 2.0),
}


@pytest.mark.parametrize("between", BETWEEN)
def test_two_bounds_are_one(between):
    """As one bound fires; of two in a row random networks keep the first."""
    move, scale = BETWEEN[between]
    two, one = Builder(1), Builder(1)
    x = move(two, two.clip(two.conv(two.first), -0.5, 0.5))
    two.output(two.clip(x, 0.25, 2.25))
    one.output(one.clip(move(one, one.conv(one.first)), 0.25, 0.5 * scale))
    proof.assert_ann_is_kept(two)
    models = proof.converted(two).model, proof.prove(one).model
    found, wanted = (SpikingSession(m, threads=1).run(one.feed(), 8) for m in models)
    np.testing.assert_array_equal(found.output, wanted.output)
    (spikes,), (known,) = found.spike_counts.values(), wanted.spike_counts.values()
    np.testing.assert_array_equal(spikes, known)


POOLS = {
    "plain": {},
    "strides": {"strides": (1, 2)},
    "padded": {"pads": (1, 1, 1, 1)},
    "ceil_mode": {"pads": (1, 1, 0, 0), "ceil": True},
    "SAME_UPPER": {"strides": (1, 1), "auto_pad": "SAME_UPPER"},
    "SAME_LOWER": {"strides": (1, 1), "auto_pad": "SAME_LOWER"},
    "VALID": {"auto_pad": "VALID"},
}
WIDE = {
    "dilated": {"strides": (1, 1), "dilations": (2, 3)},
    "3 by 3": {"kernel": (3, 3), "strides": (2, 1), "pads": (1, 1, 1, 1)},
}


@pytest.mark.parametrize("maxpool", ["average", "exact", "keep"])
@pytest.mark.parametrize("window", [*POOLS, *WIDE])
@pytest.mark.parametrize("between", [True, False])
def test_max_pool(window, maxpool, between):
    options = (POOLS | WIDE)[window]
    if maxpool == "average" and window in WIDE:
        pytest.skip("means over 9 pixels round; a dilated AveragePool needs opset 19")
    b = Builder(3, shape=(2, 6, 6))
    x = b.clip0(b.conv(b.first, pads=(1, 1, 1, 1)), 1.0)
    x = b.scale(b.pool("MaxPool", x, **options), "Add")
    b.output(b.flatten(b.clip0(b.conv(x, kernel=(1, 1)), 1.0) if between else x))
    proof.prove(b, maxpool=maxpool)


def test_a_dilated_max_pool_becomes_a_dilated_average():
    b = Builder(3, opset=19)
    x = b.clip0(b.conv(b.first, pads=(1, 1, 1, 1)), 1.0)
    x = b.pool("MaxPool", x, strides=(1, 1), dilations=(2, 3))
    b.output(b.clip0(x, 0.5) if b.bounded.get(x) is None else x)
    proof.prove(b)


@pytest.mark.parametrize("maxpool", ["average", "exact", "keep"])
@pytest.mark.parametrize("op", ["GlobalMaxPool", "ReduceMax"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_global_max_pool(op, maxpool, channels_last):
    proof.prove(
        around(lambda b, x: b.global_pool(x, op), seed=2, channels_last=channels_last),
        maxpool=maxpool,
    )


@pytest.mark.parametrize("maxpool", ["average", "exact", "keep"])
@pytest.mark.parametrize("value", [0.0, -np.inf, np.finfo(np.float32).min])
@pytest.mark.parametrize("channels_last", [False, True])
def test_pad_before_max_pool(value, maxpool, channels_last):
    """Of what is never below 0 the maximum is the same with either value."""
    b = Builder(4, channels_last=channels_last)
    x = b.clip0(b.conv(b.first, pads=(1, 1, 1, 1)), 1.0)
    written = b.node("Identity", [x])
    written = _pad_node(b, written, value)
    name = b.name("MaxPool")
    b._first("MaxPool", [written], [], name, kernel_shape=[2, 2], strides=[2, 2])
    window = eq.Pool((2, 2), (2, 2), (1, 1, 1, 1), (1, 1))
    b.layer(name, [x], lambda run, x: run.max_pool(name, x, window))
    b.output(b.flatten(b.clip0(b.conv(name, kernel=(1, 1)), 1.0)))
    proof.prove(b, maxpool=maxpool)


def _pad_node(b, x, value):
    pads = [0, 1, 1, 0] * 2 if b.channels_last else [0, 0, 1, 1] * 2
    name = b.node("Pad", [x, b.integers(pads), b.constant(value)])
    b.values[name] = b.values[b.first]  # For its rank alone.
    return name


@pytest.mark.parametrize("dimensions", [1, 3])
@pytest.mark.parametrize("maxpool", ["average", "exact"])
def test_images_of_other_dimensions(dimensions, maxpool):
    for seed in range(3):
        b = Builder(seed, shape=(2, *(4,) * dimensions))
        x = b.conv(b.first, channels=4, pads=(1,) * 2 * dimensions)
        x = b.batch_norm(b.clip0(b.batch_norm(x), 1.0))
        x = b.conv(x, channels=4, group=2, kernel=(2,) * dimensions, pads=(1,) * 2 * dimensions)
        x = b.pool("MaxPool", b.relu(x), kernel=(2,) * dimensions, strides=(2,) * dimensions)
        x = b.leaky_relu(b.conv(x, kernel=(1,) * dimensions))
        b.output(b.gemm(b.flatten(x)))
        proof.prove(b, maxpool=maxpool)


# Types, opsets, batches -------------------------------------------------------------------


@pytest.mark.parametrize("opset", range(7, 27))
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_opset(opset, channels_last):
    b = Builder(opset, opset=opset, channels_last=channels_last)
    x = b.batch_norm(b.conv(b.pad(b.first, (1, 0, 1, 1)), channels=4), "BatchNormalization")
    x = b.clip0(b.no_op(x, "Dropout"), 1.0)
    y, z = b.split(x)
    x = b.concat(b.slice(y, 2), b.slice(b.add(y, z, "Sum"), 2))
    x = b.hard_sigmoid(b.conv(b.resize(x), kernel=(2, 2)))
    x = b.pool("AveragePool", b.no_op(x, "Squeeze"))
    x = b.gemm(b.global_pool(b.prelu(b.conv(x, kernel=(1, 1)), np.array(0.5)), "ReduceMean", False))
    b.output(x)
    proof.prove(b)


def test_half_precision():
    for seed in range(5):
        b = Builder(seed, dtype=np.float16)
        x = b.clip0(b.batch_norm(b.conv(b.first, kernel=(2, 2)), "BatchNormalization"), 1.0)
        x = b.pool("AveragePool", b.conv(x, kernel=(1, 1)), strides=(1, 1))
        b.output(b.gemm(b.flatten(b.clip(x, -1, 1)), how="plain"))
        proof.prove(b)


def test_double_precision():
    """ONNX Runtime has no convolution in double."""
    for seed in range(5):
        b = Builder(seed, shape=(6,), dtype=np.float64)
        x = b.batch_norm(b.clip0(b.gemm(b.first, 5), 1.0), "unfused")
        x = b.leaky_relu(b.matmul(x, 4))
        b.output(b.gemm(b.larger(x, b.scale(x))))
        proof.prove(b, timesteps=7)


@pytest.mark.parametrize("how", ["Flatten", "Reshape"])
@pytest.mark.parametrize("bounded", [True, False])
def test_a_fixed_batch_of_1(how, bounded):
    b = Builder(5, batch=1)
    x = b.conv(b.first)
    x = b.clip0(x, 1.0) if bounded else b.relu(x)
    b.output(b.gemm(b.flatten(b.reshape(x, (2, 4, 1)), how)))
    proof.prove(b)


# Graph shapes -------------------------------------------------------------------------------


def test_several_inputs():
    b = Builder(6)
    y = b.input((3, 4, 4), "y")
    x = b.add(b.conv(b.first), b.clip0(b.conv(y), 1.0), "Add")
    b.output(b.gemm(b.flatten(b.relu(x))))
    proof.prove(b)


@pytest.mark.parametrize("maxpool", ["average", "exact", "keep"])
def test_several_outputs(maxpool):
    b = Builder(7)
    x = b.clip0(b.conv(b.first), 1.0)
    y = b.conv(b.relu(b.conv(x, kernel=(1, 1))), kernel=(1, 1))
    b.output(x, b.gemm(b.flatten(y)), b.pool("MaxPool", y, kernel=(1, 2), strides=(1, 1)))
    proof.prove(b, maxpool=maxpool)


def test_what_feeds_a_neuron_is_an_output_too():
    b = Builder(8)
    x = b.conv(b.first)
    y = b.clip0(x, 1.0)
    z = b.clip0(b.add(x, y, "Add"), 2.0)
    b.output(x, z, b.add(z, b.scale(x, "Mul"), "Sub"))
    proof.prove(b)


def softmax(x):
    power = np.exp(x - x.max(1, keepdims=True))
    return power / power.sum(1, keepdims=True)


READ_OUTS = {
    "Softmax": (softmax, {"axis": 1}),
    "Sigmoid": (lambda x: 1 / (1 + np.exp(-x)), {}),
    "ArgMax": (lambda x: x.argmax(1)[:, None], {"axis": 1}),
    "Tanh": (np.tanh, {}),
    "ReduceMax": (lambda x: x.max(1, keepdims=True), {"axes": [1]}),
}


@pytest.mark.parametrize("op", READ_OUTS)
def test_read_out_of_the_mean(op):
    f, attributes = READ_OUTS[op]
    b = Builder(9)
    x = b.gemm(b.flatten(b.clip0(b.conv(b.first), 1.0)), 5)
    b.output(b.read_out(x, op, f, **attributes), x)
    proof.assert_ann_is_kept(b, rtol=1e-6)
    proof.assert_snn_fires(b, rtol=1e-6)


REFUSED = {
    "Mul": "y = Mul(z, z)",
    "MatMul": "y = MatMul(z, z)",
    "Div": "y = Div(z, c)",
    "LRN": "y = LRN<size = 3>(z)",
    "Softmax": "y = Softmax<axis = 1>(z)",
    "Sigmoid": "y = Sigmoid(z)",
    "InstanceNormalization": "y = InstanceNormalization(z, s, s)",
}


@pytest.mark.parametrize("op", REFUSED)
def test_refused_between_neurons_by_name(op):
    proto = model(
        "g (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] q) "
        f"{{ z = Clip(x, lo, hi) c = Add(z, hi) {REFUSED[op]} q = Clip(y, lo, hi) }}",
        {"lo": np.float32(0), "hi": np.float32(1), "s": np.ones(2, np.float32)},
    )
    with pytest.raises(UnsupportedModelError, match=f"{op} 'y'"):
        convert(proto)


# Random networks ------------------------------------------------------------------------------

# Blocks: an image in, an image out. ------------------------------------------------------


def small(b, x, most=8):
    return max(b.shape(x)) <= most


def even(b, x):
    return all(size % 2 == 0 for size in b.shape(x)[1:])


def conv(b, x):
    channels, height, width = b.shape(x)
    options = {"channels": int(b.rng.integers(1, 5)), "bias": bool(b.rng.random() < 0.8)}
    match b.pick(
        "plain", "grouped", "depthwise", "strided", "dilated", "auto_pad", "1x1", "uneven"
    ):
        case "plain":
            return b.conv(x, pads=(1, 1, 1, 1), **options)
        case "grouped" if channels % 2 == 0:
            return b.conv(x, pads=(1, 1, 1, 1), **options | {"channels": 4, "group": 2})
        case "depthwise":
            return b.conv(x, pads=(1, 1, 1, 1), **options | {"channels": channels}, group=channels)
        case "strided" if min(height, width) > 3:
            return b.conv(x, kernel=(3, 2), strides=(2, 1), pads=(1, 0, 1, 1), **options)
        case "dilated":
            return b.conv(x, pads=(2, 1, 2, 1), dilations=(2, 1), **options)
        case "auto_pad":
            how = b.pick("SAME_UPPER", "SAME_LOWER", "VALID")
            kernel = (2, 2) if how != "VALID" else (1, 1)
            return b.conv(x, kernel=kernel, auto_pad=how, strides=b.pick((1, 1), (2, 2)), **options)
        case "uneven":
            return b.conv(x, kernel=(1, 3), pads=(0, 2, 1, 0), **options)
        case _:
            return b.conv(x, kernel=(1, 1), **options)


def padded_conv(b, x):
    """A Pad of its own before the Conv."""
    if min(b.shape(x)[1:]) < 3:
        return x
    how = b.pick("plain", "run time", "value given")
    x = b.pad(x, b.pick((1, 0, 2, 1), (0, 1, 0, 1), (-1, 1, 1, 0), (1, 1, 1, 1)), how=how)
    return b.conv(x, pads=b.pick((0,) * 4, (1, 0, 0, 1)), channels=2)


def conv_transpose(b, x):
    if not small(b, x, 4):
        return x
    return b.pick(
        lambda: b.conv_transpose(x),
        lambda: b.conv_transpose(x, channels=3, kernel=(3, 3), pads=(1, 1, 0, 1), more=1),
    )()


def batch_norm(b, x):
    return b.batch_norm(x)


def scale(b, x):
    return b.scale(x)


def folded_forward(b, x):
    """Conv -> activation -> BatchNormalization -> (pool | Pad) -> Conv."""
    x = b.clip0(b.conv(x, kernel=(1, 1), channels=2), b.powers())
    x = b.scale(b.batch_norm(x)) if b.rng.random() < 0.3 else b.batch_norm(x)
    if b.rng.random() < 0.3:
        x = average_pool(b, x)
    if b.rng.random() < 0.3:
        x = b.pad(x, (1, 0, 0, 1))
    return conv(b, x)


def residual(b, x):
    """A branch that joins again, with a projection or without."""
    channels = b.shape(x)[0]
    y = activation(b, b.conv(x, pads=(1, 1, 1, 1), channels=channels))
    y = b.conv(y, kernel=(1, 1), channels=channels)
    return b.add(y, x if b.rng.random() < 0.5 else b.conv(x, kernel=(1, 1), channels=channels))


def dense(b, x):
    if b.shape(x)[0] > 4:
        return x
    y = b.clip0(b.conv(x, pads=(1, 1, 1, 1), channels=2), b.powers())
    return b.concat(x, y)


def average_pool(b, x):
    return _pool(b, x, "AveragePool")


def max_pool(b, x):
    return _pool(b, x, "MaxPool")


def _pool(b, x, op):
    if min(b.shape(x)[1:]) < 3:
        return x
    options = {}
    if op == "AveragePool" and b.rng.random() < 0.3:
        options["counted"] = True
    if op == "MaxPool" and b.maxpool != "average" and b.opset >= 10 and b.rng.random() < 0.3:
        return b.pool(op, x, strides=(1, 1), dilations=b.pick((2, 1), (2, 2)))
    if op == "MaxPool" and b.maxpool != "average" and b.rng.random() < 0.4:
        return b.pool(op, x, kernel=(3, 3), strides=b.pick((2, 2), (1, 2)), pads=(1, 1, 1, 1))
    match b.pick("plain", "padded", "auto_pad", "ceil", "uneven"):
        case "padded":
            return b.pool(op, x, pads=(1, 1, 1, 1), **options)
        case "auto_pad":
            how = b.pick("SAME_UPPER", "SAME_LOWER", "VALID")
            return b.pool(op, x, auto_pad=how, strides=b.pick((1, 1), (2, 2)), **options)
        case "ceil" if b.opset >= 10:
            return b.pool(op, x, ceil=True, pads=b.pick((0,) * 4, (1, 1, 0, 0)), **options)
        case "uneven":
            return b.pool(op, x, kernel=(1, 2), strides=(2, 1), pads=(0, 1, 0, 0), **options)
        case _:
            return b.pool(op, x, **options)


def padded_pool(b, x):
    """A Pad of zeros before a pool; a mean in a maximum's place counts them or not."""
    if min(b.shape(x)[1:]) < 3:
        return x
    pads = b.pick((1, 0, 0, 1), (1, 1, 1, 1))
    op = "AveragePool" if b.maxpool == "average" else b.pick("AveragePool", "MaxPool")
    return b.pool(op, b.pad(x, pads))


def reshaped(b, x):
    channels, height, width = b.shape(x)
    match b.pick("gather", "slice", "split", "swap", "reshape", "squeeze", "crop"):
        case "gather":
            order = tuple(int(i) for i in b.rng.permutation(channels))
            return b.gather(x, 1, order)
        case "slice" if height > 2:
            return b.slice(x, b.pick(2, 3) if width > 2 else 2)
        case "split" if channels % 2 == 0:
            y, z = b.split(x)
            return b.add(z, y)
        case "swap":
            return b.swap(x)
        case "reshape":
            return b.reshape(x, (channels * height, 1, width)) if channels * height <= 8 else x
        case "crop" if min(height, width) > 2:
            return b.pad(x, (0, -1, 0, 0))
        case _:
            return b.no_op(x)


def resized(b, x):
    if not small(b, x, 4):
        return x
    options = [
        lambda: b.resize(x), lambda: b.resize(x, "linear"), lambda: b.tile(x),
    ]  # fmt: skip
    if b.shape(x)[0] == 4:
        options += [lambda: b.depth_to_space(x), lambda: b.depth_to_space(x, "CRD")]
    return b.pick(*options)()


def space_to_depth(b, x):
    return b.space_to_depth(x) if even(b, x) and b.shape(x)[0] <= 2 else x


def reduced(b, x):
    """One row, and two of it again."""
    if b.opset < 8 or b.channels_last:
        return x
    mean = b.shape(x)[1] in (2, 4, 8) and b.rng.random() < 0.5
    return b.expand(b.reduce_axis(x, "ReduceMean" if mean else "ReduceSum"))


def activation(b, x):
    """Any activation that may follow: of two bounds in a row only one remains."""
    powers, channels = b.powers(), b.shape(x)[0]
    each = b.per_channel(x, b.powers(channels))
    old = b.opset < 8  # Max and Min did not broadcast.
    clips = ["Clip", "Relu, Clip", "Clip, Relu"]
    clips += [] if old else ["Relu, Min", "Min, Relu", "Max, Min"]
    bounds = [
        lambda: b.relu(x, b.pick("Relu", "Clip", "Relu" if old else "Max")),
        lambda: b.clip0(x, powers, b.pick(*clips)),
        lambda: b.clip0(x, powers, b.pick(*clips)),
        lambda: b.clip(x, -0.5, powers),
        lambda: b.clip(x, 0.25, 0.25 + powers),
        lambda: b.clip(x, -2, -1),
        lambda: b.clip(x, b.pick(-0.5, 0.5), None, "Clip" if old else b.pick("Clip", "Max")),
        lambda: b.clip(x, None, b.pick(-0.5, 0.0, 0.5), "Clip" if old else b.pick("Clip", "Min")),
        lambda: b.hard_sigmoid(x),
    ]
    others = [
        lambda: b.leaky_relu(x, b.pick(0.25, 0.0, -0.5)),
        lambda: b.prelu(x, np.array(0.5)),
        lambda: b.prelu(x, each),
        lambda: b.absolute(x),
        lambda: b.larger(x, b.scale(x), b.pick("Max", "Min")),
    ]
    if not old and np.ptp(each):  # Equal bounds are a Clip.
        bounds.append(lambda: b.larger(x, b.pick(each, -each), b.pick("Max", "Min")))
    if not old:
        bounds.append(lambda: b.clip0(x, each, b.pick("Relu, Min", "Min, Relu", "Max, Min")))
    if b.opset >= 10 and b.bounded.get(x) in (None, 0):
        others.append(lambda: b.thresholded_relu(x))
    followable = b.bounded.get(x) is None
    return b.pick(*(bounds if followable and b.rng.random() < 0.7 else others))()


BLOCKS = {
    f.__name__: f
    for f in (
        conv, conv, padded_conv, conv_transpose, batch_norm, scale, folded_forward, residual, dense,
        average_pool, max_pool, padded_pool, reshaped, resized, space_to_depth, reduced, activation,
    )
}  # fmt: skip


def head(b, x):
    """To classes, or an image as it is."""
    how = b.pick("image", "flatten", "pool", "tokens")
    if b.bounded.get(x) is None and b.rng.random() < 0.8:
        x = activation(b, x)
    if how == "image":
        return x
    if how == "tokens":
        channels, height, width = b.shape(x)
        x = b.matmul(b.reshape(x, (channels, height * width)))
        return activation(b, x) if b.rng.random() < 0.5 else x
    if how == "pool" and b.shape(x)[1] * b.shape(x)[2] in (1, 2, 4, 8, 16, 32, 64):
        # Maxima of the input itself that are not spelled as pools stay.
        spikes = any(layer.is_neuron for layer in b.layers)
        maximum = "ReduceMax" if spikes else "GlobalMaxPool"
        op = b.pick("GlobalAveragePool", "ReduceMean", "GlobalMaxPool", maximum)
        if op.startswith("Reduce") and b.rng.random() < 0.5:
            x = b.global_pool(x, op, keepdims=False)
        else:
            x = b.flatten(b.global_pool(x, op))
    else:
        x = b.flatten(x)
    x = b.gemm(x) if b.rng.random() < 0.6 else b.matmul(x)
    if b.rng.random() < 0.3:
        x = b.gemm(activation(b, x))
    return x


def random_network(blocks, seed, opset, channels_last, maxpool):
    b = Builder(seed, opset=opset, channels_last=channels_last, shape=(2, 5, 4))
    b.maxpool = maxpool
    x = b.first
    for block in blocks:
        x = BLOCKS[block](b, x)
    x = head(b, x)
    if not any(layer.is_neuron for layer in b.layers):
        x = b.clip0(x, 1.0)
    b.output(x)
    return b


NETWORKS = {
    "blocks": st.lists(st.sampled_from(list(BLOCKS)), max_size=5),
    "seed": st.integers(0, 10**6),
    "channels_last": st.booleans(),
    "maxpool": st.sampled_from(["average", "exact", "keep"]),
}


@settings(
    max_examples=CASES, deadline=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(
    **NETWORKS,
    opset=st.sampled_from([17, 7, 8, 9, 10, 11, 12, 13, 16, 18, 19, 20, 21, 23]),
    timesteps=st.sampled_from([8, 4, 1, 2, 3, 7, 12]),
    v_init=st.sampled_from([0.5, 0.0, 0.25, 1.0]),
)
def test_any_network(blocks, seed, opset, channels_last, maxpool, timesteps, v_init):
    b = random_network(blocks, seed, opset, channels_last, maxpool)
    assume(b.bits() <= 18)
    if maxpool == "keep":
        timesteps = 8  # Its read-out may be a maximum of means: they must be exact.
    proof.prove(b, timesteps, maxpool, v_init)


@settings(
    max_examples=max(CASES // 4, 1), deadline=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(
    **NETWORKS,
    opset=st.sampled_from([17, 7, 13, 23]),
    recipe=st.sampled_from([r.name for r in RECIPES if r.threshold is not None]),
    delay=st.sampled_from([None, 2]),
)
def test_any_network_converts_by_every_recipe(
    blocks, seed, opset, channels_last, maxpool, recipe, delay
):
    """The default, ``best``, above all: it refuses nothing that ``opi`` converts."""
    b = random_network(blocks, seed, opset, channels_last, maxpool)
    options = {"calibration": from_arrays(b.feed()), "maxpool": maxpool, "timesteps": 4}
    options["batch_size"] = 3 if b.batch == "N" else b.batch
    convert(b.model(), recipe="opi", **options)
    for name in (None, recipe):
        try:
            conversion = convert(b.model(), recipe=name, delay=delay, **options)
        except UnsupportedModelError as error:
            # A maximum of switched inputs is none of their means.
            if name != "tsc" or "in the way of a coded input" not in str(error):
                raise
            continue
        result = SpikingSession(conversion.model, threads=1).run(b.feed(), 4)
        assert list(result.values) == b.outputs
        assert all(np.all(np.isfinite(value)) for value in result.values.values())
