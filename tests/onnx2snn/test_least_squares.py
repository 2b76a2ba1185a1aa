"""Weights refitted by least squares: which, to what, and where nothing is known."""

import itertools
from dataclasses import replace
from functools import partial

import equations as eq
import numpy as np
import onnx
import pytest
from one_neuron import WEIGHTS as DENSE
from one_neuron import X, fire
from onnx_text import graph, model, run

from onnx2snn import SpikingSession, convert, from_arrays
from onnx2snn.recipes import recipe_by_name
from onnx2snn.spiking_passes import correction, least_squares, segments
from onnx2snn.spiking_passes.correction import correct
from onnx2snn.spiking_passes.least_squares import fit_weights

SMALL = from_arrays(X)

LAYERS = {
    "plain": ("Conv(r, u, b)", (5, 4, 3, 3), {}),
    "strided": ("Conv<strides = [2, 1], pads = [1, 0, 0, 1]>(r, u, b)", (5, 4, 3, 2),
                {"strides": (2, 1), "pads": (1, 0, 0, 1)}),
    "dilated": ("Conv<dilations = [2, 3], pads = [2, 3, 2, 3]>(r, u, b)", (5, 4, 2, 2),
                {"dilations": (2, 3), "pads": (2, 3, 2, 3)}),
    "grouped": ("Conv<group = 2, pads = [1, 1, 1, 1]>(r, u, b)", (6, 2, 3, 3),
                {"group": 2, "pads": (1, 1, 1, 1)}),
    "depthwise": ("Conv<group = 4>(r, u, b)", (4, 1, 3, 3), {"group": 4}),
}  # fmt: skip


def ridge(patches, residual, kept=None):
    """Least squares with a penalty, as least squares with further rows; 0 where it is not kept."""
    penalty = np.sqrt(0.1 * np.square(patches).sum() * sum(1 / n for n in patches.shape))
    rows = np.concatenate([patches, penalty * np.eye(patches.shape[1])])
    rest = np.concatenate([residual, np.zeros((patches.shape[1], residual.shape[1]))])
    if kept is None:
        return np.linalg.lstsq(rows, rest, rcond=None)[0]
    found = np.zeros((rows.shape[1], rest.shape[1]))
    for column, own in enumerate(kept.T):
        found[own, column] = np.linalg.lstsq(rows[:, own], rest[:, column], rcond=None)[0]
    return found


def layer_of(conversion, before):
    """The node whose output leads to a neuron, and its constants."""
    graph = conversion.model.graph
    makers = {name: node for node in graph.node for name in node.output}
    node = makers[next(n for n in graph.node if n.name == before).input[0]]
    while node.op_type == "Add":
        node = makers[node.input[0]]
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    return node, [constants[name] for name in node.input[1:]]


def weights_of(conversion, before):
    """The weights of the layer whose output leads to a neuron, as [K, C] if dense."""
    node, (value, *_) = layer_of(conversion, before)
    return value.T if any(a.name == "transB" and a.i for a in node.attribute) else value


def same_numbers(conversion, other):
    """Weights, thresholds and starts are the same, but for rounding."""
    stored = (each.model.graph.initializer for each in (conversion, other))
    for pair in zip(*stored, strict=True):
        values = map(onnx.numpy_helper.to_array, pair)
        np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_advanced_calibration_fits_convolutions(layer, pruned):
    """Of pruned weights those that are left."""
    text, shape, settings = LAYERS[layer]
    rng = np.random.default_rng(3)
    weights = {
        "w": rng.normal(size=(4, 2, 3, 3)).astype(np.float32),
        "u": rng.normal(size=shape).astype(np.float32),
        "b": rng.normal(size=shape[0]).astype(np.float32),
    }
    if pruned:
        weights["u"] *= rng.permutation(weights["u"].size).reshape(shape) % 5 < 2
    net = (
        "net (float[N, 2, 8, 9] x) => (float[N, C, h, k] y) "
        f"{{ a = Conv(x, w) r = Relu(a) c = {text} q = Relu(c) y = Identity(q) }}"
    ).replace("C,", f"{shape[0]},")
    x = rng.normal(size=(10, 2, 8, 9)).astype(np.float32)
    ann, timesteps = model(net, weights), 8
    conversion = convert(
        ann, calibration=from_arrays(x), recipe="calibration-advanced", timesteps=timesteps
    )
    session = SpikingSession(conversion.model)
    readouts = session.run(x, timesteps, range(1, timesteps + 1)).readouts
    sums = np.float64([readouts[t].potential_sums["r"] for t in readouts])
    seen = sums[-1] / timesteps
    inner = net.replace("y)", "y, float[N, 4, 6, 7] r, float[N, C, h, k] c)", 1)
    inner = model(inner.replace("C,", f"{shape[0]},"), weights)
    wanted = run(inner, x, output=2)
    how = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1} | settings
    group = how.pop("group")

    def current(seen, u):
        b = np.float64(weights["b"])
        return eq.conv(seen, np.float64(u), b, **how, group=group)

    def lacks(u):
        return np.maximum(wanted, 0) - np.maximum(current(seen, u), 0)

    residual = lacks(weights["u"])
    windows = eq.windows(seen, shape[2:], fill=0.0, **how)
    changes = []
    groups = (
        np.split(windows, group, 1),
        np.split(residual, group, 1),
        np.split(weights["u"], group),
    )
    for part, rest, own in zip(*groups, strict=True):
        patches = np.moveaxis(part, 1, 3).reshape(-1, int(np.prod(shape[1:])))
        rest = np.moveaxis(rest, 1, -1).reshape(len(patches), -1)
        kept = own.reshape(len(own), -1).T != 0 if pruned else None
        changes.append(ridge(patches, rest, kept).T.reshape(-1, *shape[1:]))
    found = weights_of(conversion, "q")
    np.testing.assert_allclose(found - weights["u"], np.concatenate(changes), rtol=0.01, atol=1e-4)
    lowered = np.square(lacks(found)).mean()
    assert lowered < (0.99 if pruned else 0.97) * np.square(residual).mean()
    assert np.all(found[weights["u"] == 0] == 0)
    # Then the biases, once, on the spikes of T time-steps.
    theta = float(next(each.threshold for each in conversion.neurons if each.name == "q"))
    shift = theta / (2 * timesteps)
    emitted = [current(part, found) + shift for part in np.diff(sums, axis=0, prepend=0)]
    mean = theta * fire(emitted, theta).mean(axis=0)
    delta = (np.maximum(wanted, 0) - mean).mean(axis=(0, 2, 3))
    _, (_, bias) = layer_of(conversion, "q")
    np.testing.assert_allclose(bias, weights["b"] + shift + delta, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [1, 1e10, 1e-10])
@pytest.mark.parametrize("samples", [20, 50])
def test_outputs_of_pruned_layers_are_systems_of_their_own(samples, scale, monkeypatch):
    """One that has no weights left, one with a single one, others with some; two at a time."""
    monkeypatch.setattr(least_squares, "MOST_NUMBERS", 2 * 16 * 30)
    rng = np.random.default_rng(0)
    x, u = (rng.normal(size=shape).astype(np.float32) for shape in ((samples, 30), (30, 5)))
    u *= np.abs(np.arange(30)[:, np.newaxis] - [40, 29, 0, 30, 15]) < [1, 1, 16, 10, 8]
    lacks = rng.normal(size=(samples, 5)).astype(np.float32)
    x, lacks = np.float32(scale) * x, np.float32(scale) * lacks
    g = graph("g (float[N, 30] x) => (float[N, 5] y) { y = MatMul(x, u) }", {"u": u})
    assert fit_weights(g, g.outputs[0], lacks, 1.0, lambda _: [x, np.zeros_like(lacks)])
    found = g.nodes[0].inputs[1].values - u
    np.testing.assert_allclose(found, ridge(x, lacks, u != 0), rtol=0.01, atol=1e-4)
    assert np.all(found[u == 0] == 0)


@pytest.mark.parametrize("layer", ["Gemm(r, u)", "Gemm<transB = 1>(r, t, b)", "MatMul(r, u)"])
def test_advanced_calibration_fits_dense_layers(layer):
    text = (
        "net (float[N, 3] x) => (float[N, 2] y) "
        f"{{ a = Gemm(x, w) r = Relu(a) b0 = {layer} q = Relu(b0) y = Gemm(q, v) }}"
    )
    bias = np.float32([0.1, -0.2, 0.3, 0])
    weights = DENSE | {"t": np.ascontiguousarray(DENSE["u"].T), "b": bias}
    weights = {name: value for name, value in weights.items() if name in layer or name in "wv"}
    x = np.random.default_rng(4).normal(size=(40, 3)).astype(np.float32)
    conversion = convert(
        model(text, weights), calibration=from_arrays(x), recipe="calibration-advanced", timesteps=8
    )
    result = SpikingSession(conversion.model).run(x, 8).readouts[8]
    seen = np.float64(result.potential_sums["r"]) / 8
    u, bias = np.float64(DENSE["u"]), np.float64(bias if "b)" in layer else np.zeros(4))
    wanted = np.maximum(x @ np.float64(DENSE["w"]), 0) @ u + bias
    residual = np.maximum(wanted, 0) - np.maximum(seen @ u + bias, 0)
    wanted = u + ridge(seen, residual)
    np.testing.assert_allclose(weights_of(conversion, "q"), wanted, rtol=0.01, atol=1e-4)


def refitted_alone(text, weights, size):
    """A network whose weights alone are corrected, for T=8: the data, that, and what it emits."""
    x = np.random.default_rng(4).normal(size=(40, 3)).astype(np.float32)
    alone = partial(correct, weights=True, biases=False)
    recipe = replace(recipe_by_name("best-binary"), passes=(alone,))
    options = {"recipe": recipe, "timesteps": 8, "batch_size": size}
    conversion = convert(model(text, weights), calibration=from_arrays(x), **options)
    return x, conversion, SpikingSession(conversion.model).run(x, 8).readouts[8]


@pytest.mark.parametrize("enough", [1000, 8])
@pytest.mark.parametrize("size", [40, 25])
def test_weights_over_batches(size, enough, monkeypatch):
    """Each batch moves them by its share of the images so far, as some of its samples ask for."""
    monkeypatch.setattr(least_squares, "ENOUGH_PLACES", enough)
    text = (
        "net (float[N, 3] x) => (float[N, 2] y) "
        "{ a = Gemm(x, w) r = Relu(a) b = Gemm(r, u) q = Relu(b) y = Gemm(q, v) }"
    )
    weights = {name: DENSE[name] for name in "wuv"}
    x, conversion, result = refitted_alone(text, weights, size)
    spikes = np.float64(result.potential_sums["r"]) / 8
    wanted = np.maximum(x @ np.float64(weights["w"]), 0) @ np.float64(weights["u"])
    u = np.float64(weights["u"])
    for start in range(0, 40, size):
        batch = slice(start, start + size)
        seen, truth = spikes[batch], wanted[batch]
        every = max(1, len(seen) // enough)
        lacks = np.maximum(truth, 0) - np.maximum(seen @ u, 0)
        share = len(seen) / (start + len(seen))
        u = u + share * ridge(seen[::every], lacks[::every])
    np.testing.assert_allclose(weights_of(conversion, "q"), u, rtol=1e-3, atol=1e-5)


READ_OUTS = {
    "y = Gemm(r, v)": lambda rate: rate,
    "z = Gemm(r, v) y = Softmax(z)": lambda rate: rate,
    "z = Gemm(r, v) h = Cast<to = 10>(z) y = Cast<to = 1>(h)": lambda rate: rate,
    "z = Gemm(r, v) u = Unsqueeze(z, last) y = Softmax<axis = 1>(u)": lambda rate: rate,
    "s = Sigmoid(r) y = Gemm(s, v)": lambda rate: 1 / (1 + np.exp(-rate)),
}


@pytest.mark.parametrize("read_out", READ_OUTS)
@pytest.mark.parametrize("size", [40, 16])
def test_the_weights_of_the_read_out(read_out, size):
    """What it lacks below 0 counts, too; what is averaged is what is not affine is taken of."""
    text = f"net (float[N, 3] x) => (float[N, 2] y) {{ a = Gemm(x, w) r = Relu(a) {read_out} }}"
    if "Unsqueeze" in read_out:
        text = text.replace("float[N, 2] y", "float[N, 2, 1] y")
    weights = {"w": DENSE["w"], "v": np.float32([[1, -2], [-1, 0.5], [0.5, 1], [0.25, -1]])}
    weights["last"] = np.int64([2])
    x, conversion, result = refitted_alone(text, weights, size)
    features = READ_OUTS[read_out]
    seen = features(np.float64(result.potential_sums["r"]) / 8)
    truth = features(np.maximum(x @ np.float64(weights["w"]), 0))
    old = v = np.float64(weights["v"])
    for start in range(0, 40, size):
        batch = slice(start, start + size)
        lacks = truth[batch] @ old - seen[batch] @ v
        v = v + len(lacks) / (start + len(lacks)) * ridge(seen[batch], lacks)
    found = {i.name: onnx.numpy_helper.to_array(i) for i in conversion.model.graph.initializer}
    np.testing.assert_allclose(found["v"], v, rtol=1e-3, atol=1e-5)
    assert np.abs(v - old).max() > 0.01


def test_every_read_out_of_what_spikes_is_refitted():
    """An output that other layers read, and one without neurons before it, stay."""
    text = (
        "net (float[N, 3] x) => (float[N, 2] y, float[N, 2] z, float[N, 2] p, float[N, 2] q) "
        "{ a = Gemm(x, w) r = Relu(a) y = Gemm(r, v) z = Gemm(r, u) b = Relu(z) "
        "p = Gemm(b, t) q = Gemm(x, u) }"
    )
    rng = np.random.default_rng(1)
    shapes = {"w": (3, 3), "u": (3, 2), "v": (3, 2), "t": (2, 2)}
    weights = {n: rng.normal(size=shape).astype(np.float32) for n, shape in shapes.items()}
    data = from_arrays(rng.normal(size=(40, 3)).astype(np.float32))
    conversion = convert(model(text, weights), calibration=data, timesteps=4)
    found = {i.name: onnx.numpy_helper.to_array(i) for i in conversion.model.graph.initializer}
    refitted = {name: not np.array_equal(found[name], weights[name]) for name in "uvt"}
    assert refitted == {"u": False, "v": True, "t": True}


@pytest.mark.parametrize("end", ["y = Add(v, p)", "s = Add(v, p) y = Relu(s)"])
def test_a_layer_of_one_output_that_is_broadcast_keeps_its_weights(end):
    """As the value in a dueling network: every advantage is added to it."""
    rng = np.random.default_rng(2)
    weights = {n: rng.normal(size=(4, k)).astype(np.float32) for n, k in (("a", 1), ("b", 3))}
    body = f"h = Gemm(x, w) r = Relu(h) v = Gemm(r, a) p = Gemm(r, b) {end}"
    ann = model(f"net (float[N, 3] x) => (float[N, 3] y) {{ {body} }}", weights | {"w": DENSE["w"]})
    data = from_arrays(rng.normal(size=(40, 3)).astype(np.float32))
    snn = convert(ann, calibration=data, timesteps=4).model
    made = {i.name: onnx.numpy_helper.to_array(i) for i in snn.graph.initializer}
    assert np.array_equal(made["a"], weights["a"])
    assert not np.array_equal(made["b"], weights["b"])


def test_infinite_logits_say_nothing():
    """Two masks, each the least number, make minus infinity of them; a Softmax 0."""
    weights = {"w": DENSE["w"], "v": np.float32([[1, -2], [-1, 0.5], [0.5, 1], [0.25, -1]])}
    body = "h = Gemm(x, w) r = Relu(h) a = Gemm(r, v) b = Add(a, m) c = Add(b, m) y = Softmax(c)"
    ann = model(f"n (float[N, 3] x, float[N, 2] m) => (float[N, 2] y) {{ {body} }}", weights)
    x = np.random.default_rng(4).normal(size=(40, 3)).astype(np.float32)
    masks = np.tile(np.float32([0, np.finfo(np.float32).min]), (40, 1))
    inputs = {"x": x, "m": masks}
    snn = convert(ann, calibration=from_arrays(inputs), timesteps=4).model
    output = SpikingSession(snn).run(inputs, 4).output
    np.testing.assert_array_equal(output, [[1, 0]] * 40)


def test_shared_weights_part_and_read_ones_stay():
    """Weights of two nodes become two; those whose output something else reads are kept."""
    square = {"w": np.random.default_rng(6).normal(size=(3, 3)).astype(np.float32)}
    text = (
        "net (float[N, 3] x) => (float[N, 3] y) "
        "{ a = Gemm(x, w) r = Relu(a) b = Gemm(r, w) q = Relu(b) c = Gemm(q, w) "
        "s = Relu(c) e = Add(s, c) y = Gemm(e, w) }"
    )
    ann = model(text, square)
    conversion = convert(ann, calibration=SMALL, recipe="calibration-advanced", timesteps=8)
    for layer in ("r", "s"):
        np.testing.assert_array_equal(weights_of(conversion, layer), square["w"])
    assert np.abs(weights_of(conversion, "q") - square["w"]).max() > 0.001


def test_a_broadcast_summand_keeps_its_weights():
    text = (
        "net (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y) { a = Conv(x, w) r = Relu(a) "
        "g = GlobalAveragePool(r) c = Conv(g, u) d = Conv(r, v) e = Add(c, d) y = Relu(e) }"
    )
    rng = np.random.default_rng(7)
    weights = {name: rng.normal(size=(2, 2, 1, 1)).astype(np.float32) for name in "wuv"}
    x = rng.normal(size=(6, 2, 4, 4)).astype(np.float32)
    conversion = convert(
        model(text, weights), calibration=from_arrays(x), recipe="calibration-advanced", timesteps=8
    )
    values = [onnx.numpy_helper.to_array(t) for t in conversion.model.graph.initializer]
    kept = [any(np.array_equal(value, weights[name]) for value in values) for name in "wuv"]
    assert kept == [True, True, False]


def test_of_a_sum_each_layer_mends_what_those_before_it_left():
    text = (
        "g (float[N, 4] x) => (float[N, 3] y) { a = MatMul(x, w) b = MatMul(x, u) y = Add(a, b) }"
    )
    g = graph(text, {name: np.zeros((4, 3), np.float32) for name in "wu"})
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    wanted = x @ rng.normal(size=(4, 3)).astype(np.float32)
    means = [x, x, np.zeros_like(wanted)]
    assert fit_weights(g, g.outputs[0], wanted, 1.0, lambda _: means)
    assert np.linalg.norm(run(g, x) - wanted) < 0.1 * np.linalg.norm(wanted)


@pytest.mark.parametrize(("group", "most"), [(1, 0.02), (2, 0.1)])
def test_of_a_sum_each_convolution_mends_what_those_before_it_left(group, most):
    text = (
        f"g (float[N, 4, 3, 2] x) => (float[N, 6, 3, 2] y) {{ a = Conv<group = {group}>(x, w) "
        "b = Conv(x, u) y = Add(a, b) }"
    )
    shapes = {"w": (6, 4 // group, 1, 1), "u": (6, 4, 1, 1)}
    g = graph(text, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4, 3, 2)).astype(np.float32)
    wanted = np.einsum("nchw,cd->ndhw", x, rng.normal(size=(4, 6))).astype(np.float32)
    means = [x, x, np.zeros_like(wanted)]
    assert fit_weights(g, g.outputs[0], wanted, 1.0, lambda _: means)
    assert np.linalg.norm(run(g, x) - wanted) < most * np.linalg.norm(wanted)


@pytest.mark.parametrize("group", [1, 2])
def test_weights_of_fewer_places_than_they_are(group):
    text = f"g (float[N, 4, 3, 3] x) => (float[N, 6, 1, 1] y) {{ y = Conv<group = {group}>(x, w) }}"
    old = np.random.default_rng(1).normal(size=(6, 4 // group, 3, 3)).astype(np.float32)
    g = graph(text, {"w": old})
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 4, 3, 3)).astype(np.float32)
    lacks = rng.normal(size=(5, 6, 1, 1)).astype(np.float32)
    assert fit_weights(g, g.outputs[0], lacks, 1.0, lambda _: [x, np.zeros_like(lacks)])
    parts = zip(np.split(x, group, 1), np.split(lacks, group, 1), strict=True)
    changes = [ridge(np.float64(p.reshape(5, -1)), r.reshape(5, -1)).T for p, r in parts]
    wanted = old + np.concatenate(changes).reshape(old.shape)
    (node,) = g.nodes
    np.testing.assert_allclose(node.inputs[1].values, wanted, rtol=1e-3, atol=1e-5)


TRANSPOSED = {
    "plain": ("", (4, 3, 2, 3), (7, 8)),
    "strided": ("<strides = [3, 2], pads = [1, 0, 0, 1], output_padding = [2, 1]>", (4, 3, 3, 2),
                (19, 12)),
    "dilated": ("<dilations = [2, 3]>", (4, 3, 2, 2), (8, 9)),
    "both": ("<dilations = [2, 3], strides = [4, 2], pads = [0, 1, 1, 2]>", (4, 3, 3, 3), (24, 14)),
    "with gaps": ("<strides = [3, 3]>", (4, 3, 1, 2), (16, 17)),
    "grouped": ("<group = 2, strides = [2, 2]>", (4, 3, 3, 3), (13, 13)),
    "cropped": ("<pads = [3, 2, 2, 0], strides = [2, 2]>", (4, 3, 1, 2), (6, 10)),
    "pruned": ("<strides = [2, 2]>", (4, 3, 3, 3), (13, 13)),
}  # fmt: skip


@pytest.mark.parametrize("layer", TRANSPOSED)
def test_transposed_convolutions_are_fitted(layer):
    """What each weight adds to the output, alone, is its column of the system."""
    options, shape, places = TRANSPOSED[layer]
    rng = np.random.default_rng(3)
    x = rng.normal(size=(9, 4, 6, 6)).astype(np.float32)
    old = rng.normal(size=shape).astype(np.float32)
    if layer == "pruned":
        old *= rng.permutation(old.size).reshape(shape) % 5 < 2
    group = 2 if layer == "grouped" else 1
    channels = shape[1] * group
    lacks = rng.normal(size=(9, channels, *places)).astype(np.float32)
    text = (
        f"g (float[N, 4, 6, 6] x) => (float[N, C, h, k] y) {{ y = ConvTranspose{options}(x, w) }}"
    )
    g = graph(text, {"w": old})
    assert fit_weights(g, g.outputs[0], lacks, 1.0, lambda _: [x, np.zeros_like(lacks)])
    (node,) = g.nodes
    found = node.inputs[1].values - old
    # Of the first output of each group: each of the others sees the same input.
    units = np.zeros((shape[0] // group, *shape[2:], *shape), np.float32)
    for own in np.ndindex(units.shape[: 1 + len(shape[2:])]):
        for part in range(group):
            units[own][(own[0] + part * shape[0] // group, 0, *own[1:])] = 1
    units = units.reshape(-1, *shape)
    columns = np.stack([run(graph(text, {"w": unit}), x) for unit in units], axis=-1)
    # Weight k adds to place o where k dilation = o + pad modulo the stride: systems apart.
    attrs = {"strides": [1, 1], "dilations": [1, 1], "pads": [0, 0]} | node.attrs
    strides, dilations, pads = (np.int64(attrs[n][:2]) for n in ("strides", "dilations", "pads"))
    own = np.indices(shape[2:]).reshape(2, -1).T * dilations % strides
    seen = (np.indices(places).reshape(2, -1).T + pads) % strides
    for part, phase in itertools.product(range(group), np.unique(own, axis=0)):
        ins, outs = (np.split(np.arange(n), group)[part] for n in (shape[0], channels))
        taps, here = (np.flatnonzero((each == phase).all(axis=1)) for each in (own, seen))
        patches = np.float64(columns[:, outs[0]]).reshape(9, -1, len(ins), len(own))
        patches = patches[:, here][..., taps].reshape(9 * len(here), -1)
        residual = lacks[:, outs].reshape(9, len(outs), -1)[..., here].transpose(0, 2, 1)
        in_rows = np.moveaxis(old[ins].reshape(len(ins), shape[1], -1)[..., taps], 1, -1)
        kept = in_rows.reshape(patches.shape[1], -1) != 0 if layer == "pruned" else None
        change = ridge(patches, residual.reshape(len(patches), -1), kept)
        wanted = np.moveaxis(change.reshape(len(ins), len(taps), shape[1]), -1, 1)
        changed = found[ins].reshape(len(ins), shape[1], -1)[..., taps]
        np.testing.assert_allclose(changed, wanted, rtol=1e-3, atol=1e-5)


def test_of_a_sum_of_transposed_convolutions_each_mends_what_those_before_it_left():
    text = (
        "g (float[N, 4, 3, 2] x) => (float[N, 6, 6, 4] y) { a = ConvTranspose<strides = [2, 2], "
        "group = 2>(x, w) b = ConvTranspose<strides = [2, 2]>(x, u) y = Add(a, b) }"
    )
    g = graph(text, {"w": np.zeros((4, 3, 2, 2), np.float32), "u": np.zeros((4, 6, 2, 2), "f")})
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4, 3, 2)).astype(np.float32)
    kernel = rng.normal(size=(4, 6, 2, 2)).astype(np.float32)
    wanted = np.einsum("nchw,cdij->ndhiwj", x, kernel).reshape(200, 6, 6, 4)
    assert fit_weights(g, g.outputs[0], wanted, 1.0, lambda _: [x, x, np.zeros_like(wanted)])
    assert np.linalg.norm(run(g, x) - wanted) < 0.1 * np.linalg.norm(wanted)


@pytest.mark.parametrize("options", ['auto_pad = "SAME_UPPER"', "output_shape = [12, 12]"])
def test_transposed_convolutions_that_pad_themselves_stay(options):
    text = (
        "g (float[N, 4, 6, 6] x) => (float[N, 3, 12, 12] y) "
        f"{{ y = ConvTranspose<strides = [2, 2], {options}>(x, w) }}"
    )
    g = graph(text, {"w": np.ones((4, 3, 3, 3), np.float32)})
    x, lacks = np.ones((2, 4, 6, 6), np.float32), np.ones((2, 3, 12, 12), np.float32)
    assert not fit_weights(g, g.outputs[0], lacks, 1.0, lambda _: [x, np.zeros_like(lacks)])


@pytest.mark.parametrize("shape", [(20_000, 2, 1, 1), (16, 2, 128, 128)])
def test_of_many_places_every_second_image_counts(shape):
    """Down to 8,192 places, or 8 images."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    lacks = rng.normal(size=shape).astype(np.float32)
    text = "g (float[N, 2, h, k] x) => (float[N, 2, h, k] y) { y = Conv(x, w) }"
    g = graph(text, {"w": np.zeros((2, 2, 1, 1), np.float32)})
    assert fit_weights(g, g.outputs[0], lacks, 1.0, lambda _: [x, np.zeros_like(lacks)])
    wanted = ridge(*(np.moveaxis(each[::2], 1, -1).reshape(-1, 2) for each in (x, lacks)))
    (node,) = g.nodes
    np.testing.assert_allclose(node.inputs[1].values[..., 0, 0], wanted.T, rtol=1e-3)


@pytest.mark.parametrize(
    ("layer", "shapes", "fitted"),
    [
        ('Conv<auto_pad = "VALID">(x, w)', ((9, 2, 4, 4), (3, 2, 1, 1), (9, 3, 4, 4)), True),
        ('Conv<auto_pad = "SAME_UPPER">(x, w)', ((9, 2, 4, 4), (3, 2, 1, 1), (9, 3, 4, 4)), False),
        ("Gemm<alpha = 2.0>(x, w)", ((9, 4), (4, 3), (9, 3)), False),
        ("Gemm<transA = 1>(x, w)", ((4, 4), (4, 4), (4, 4)), False),
        ("MatMul(x, w)", ((2, 9, 4), (2, 4, 3), (2, 9, 3)), False),
    ],
)
def test_layers_whose_patches_are_not_known_keep_their_weights(layer, shapes, fitted):
    rng = np.random.default_rng(0)
    x, w, wanted = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    sizes = [", ".join(map(str, shape)) for shape in (x.shape, wanted.shape)]
    g = graph(f"g (float[{sizes[0]}] x) => (float[{sizes[1]}] y) {{ y = {layer} }}", {"w": w})
    assert fit_weights(g, g.outputs[0], wanted, 1.0, lambda _: [x, 0 * wanted]) is fitted
    (node,) = g.nodes
    assert np.array_equal(node.inputs[1].values, w) is not fitted


def test_what_is_infinite_in_the_ann_alone_says_nothing():
    g = graph(
        "g (float[N, 4] x) => (float[N, 2] y) { y = MatMul(x, w) }",
        {"w": np.zeros((4, 2), np.float32)},
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 4)).astype(np.float32)
    wanted = np.stack([x[:, 0], np.full(20, -np.inf)], axis=1).astype(np.float32)
    assert fit_weights(g, g.outputs[0], wanted, 1.0, lambda _: [x, np.zeros_like(wanted)])
    (node,) = g.nodes
    np.testing.assert_array_equal(node.inputs[1].values[:, 1], 0)
    assert node.inputs[1].values[0, 0] > 0.5


POPULATIONS = {
    "LeakyRelu": "q = LeakyRelu<alpha = 0.25>(b)",
    "Abs": "q = Abs(b)",
    "a clip of both signs": "q = Clip(b, under, hi)",
    "a ReLU and a clip": "s = Relu(b) t = Clip(b, lo, hi) q = Add(s, t)",
}


@pytest.mark.parametrize("recipe", ["best", "calibration-advanced"])
@pytest.mark.parametrize("name", POPULATIONS)
def test_weights_before_several_populations_are_refitted(name, recipe):
    """Once; all of a current counts that one reads turned round, not what is above 0 alone."""
    text = (
        "net (float[N, 3] x) => (float[N, 2] y) "
        f"{{ a = Gemm(x, w) r = Relu(a) b = Gemm(r, u) {POPULATIONS[name]} y = Gemm(q, v) }}"
    )
    bounds = {"under": -1.5, "lo": 0, "half": 0.25, "hi": 2}
    ann = model(text, DENSE | {name: np.float32(value) for name, value in bounds.items()})
    fits = []
    data = from_arrays(np.random.default_rng(3).normal(size=(100, 3)).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        fit = correction.fit_weights

        def counted(graph, tensor, wanted, part, measure, floor=-np.inf):
            fitted = fit(graph, tensor, wanted, part, measure, floor)
            fits.append((tensor.name, fitted, floor))
            return fitted

        patch.setattr(correction, "fit_weights", counted)
        converted = convert(ann, calibration=data, recipe=recipe, timesteps=4)
    floor = 0 if name == "a ReLU and a clip" else -np.inf
    assert [fit for fit in fits if fit[0] == "b"] == [("b", True, floor)]
    # As where what several read is computed anew for each.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "_SUMS", set())
        plain = convert(ann, calibration=data, recipe=recipe, timesteps=4)
    same_numbers(converted, plain)


SHIFTED = {
    "1 - s": ("b = Sub(one, s) q = Abs(b)", "s"),
    "-s": ("b = Neg(s) q = LeakyRelu<alpha = 0.25>(b)", "s"),
    "a block before": ("b = Sub(one, s) n = LeakyRelu<alpha = 0.25>(b) m = Gemm(n, u) "
                       "t = Add(b, m) q = Relu(t)", None),
    "shifted first": ("t = Add(s, one) p = Abs(t) k = Relu(s) q = Add(p, k)", "s"),
    "shifted twice": ("t = Add(s, one) n = Neg(t) p = Relu(n) k = Relu(s) q = Add(p, k)", "s"),
    "three ways": ("k = Relu(s) t = Add(s, one) p = Relu(t) c = Add(s, half) "
                   "l = LeakyRelu<alpha = 0.25>(c) e = Add(k, p) q = Add(e, l)", "s"),
}  # fmt: skip


@pytest.mark.parametrize("recipe", ["best", "calibration-advanced"])
@pytest.mark.parametrize("name", SHIFTED)
def test_currents_that_are_read_shifted_are_refitted_once(name, recipe):
    """By the first that reads it, whatever streams lie between, which are then computed anew."""
    body, root = SHIFTED[name]
    text = (
        "net (float[N, 3] x) => (float[N, 2] y) "
        f"{{ a = Gemm(x, w) r = Relu(a) g = Gemm(r, u) s = Add(g, r) {body} y = Gemm(q, v) }}"
    )
    ann = model(text, DENSE | {"one": np.float32(1), "half": np.float32(0.25)})
    data = from_arrays(np.random.default_rng(3).normal(size=(100, 3)).astype(np.float32))
    fitted, fit = [], correction.fit_weights

    def noted(graph, tensor, *rest):
        fitted.append(tensor.name)
        return fit(graph, tensor, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(correction, "fit_weights", noted)
        converted = convert(ann, calibration=data, recipe=recipe, timesteps=4, batch_size=50)
        assert [name for name in fitted if name == "s"] == (["s"] * 2 if root else [])
        # Where what several read is computed anew for each.
        patch.setattr(segments, "_SUMS", set())
        plain = convert(ann, calibration=data, recipe=recipe, timesteps=4, batch_size=50)
    same_numbers(converted, plain)
