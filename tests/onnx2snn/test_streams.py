"""Streams: what several neurons read between other neurons is computed once."""

import re
from collections import Counter
from dataclasses import replace
from functools import partial

import dyadic
import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx_text import model

from onnx2snn import SpikingSession, convert, from_arrays
from onnx2snn.graph_passes import neuron_nodes, to_graph
from onnx2snn.recipes import recipe_by_name
from onnx2snn.spiking_passes import simulation, spiking
from onnx2snn.spiking_passes.segments import segment_of, segments_of
from onnx2snn.spiking_passes.simulation import Simulation

T = 8


def network(lines, end, channels=2, size=6):
    """An ANN whose weights are multiples of 1/8: w of 2 channels to 2, e to 4, d of 2, 4, 6, ..."""
    rng = np.random.default_rng(0)
    weights = {"lo": np.float32(0), "hi": np.float32(1), "g": np.float32(0.5)}
    weights |= {f"w{i}": dyadic.weights(rng, 2, 2, 3, 3) for i in range(11)}
    weights |= {f"d{i}": dyadic.weights(rng, 2, 2 * i + 2, 3, 3) for i in range(10)}
    weights |= {"e": dyadic.weights(rng, 4, 2, 3, 3), "v": dyadic.weights(rng, channels, 3)}
    weights |= {"one": np.int64([1])}
    body = " ".join([*lines, f"m = GlobalAveragePool({end}) f = Flatten(m) y = MatMul(f, v)"])
    text = f"net (float[N, 2, {size}, {size}] x) => (float[N, 3] y) {{ {body} }}"
    words = set(re.findall(r"\w+", body))
    return model(text, {name: values for name, values in weights.items() if name in words})


CONV = "Conv<pads = [1, 1, 1, 1]>"


def scaled(layers):
    """s := s + W relu(g s), as of ResNets whose normalization comes first."""
    lines = [f"s0 = {CONV}(x, w0)"]
    for i in range(layers):
        lines += [f"b{i} = Mul(s{i}, g)", f"r{i} = Clip(b{i}, lo, hi)"]
        lines += [f"c{i} = {CONV}(r{i}, w{i + 1})", f"s{i + 1} = Add(s{i}, c{i})"]
    return network([*lines, f"last = Clip(s{layers}, lo, hi)"], "last")


def direct(layers):
    """The same, of neurons that read the stream itself; the read-out does, too."""
    lines = [f"s0 = {CONV}(x, w0)"]
    for i in range(layers):
        lines += [f"r{i} = Clip(s{i}, lo, hi)", f"c{i} = {CONV}(r{i}, w{i + 1})"]
        lines += [f"s{i + 1} = Add(s{i}, c{i})"]
    return network(lines, f"s{layers}")


def dense(layers):
    """Each block reads what all before it have made, as in DenseNets."""
    lines = [f"f0 = {CONV}(x, w0)"]
    for i in range(layers):
        read = ", ".join(f"f{k}" for k in range(i + 1))
        lines += [f"a{i} = Concat<axis = 1>({read})", f"r{i} = Clip(a{i}, lo, hi)"]
        lines += [f"f{i + 1} = {CONV}(r{i}, d{i})"]
    read = ", ".join(f"f{k}" for k in range(layers + 1))
    lines += [f"a{layers} = Concat<axis = 1>({read})", f"last = Clip(a{layers}, lo, hi)"]
    return network(lines, "last", 2 * layers + 2)


def summed(layers):
    """s := s + relu(W relu(g s)): a stream of spikes."""
    lines = [f"c0 = {CONV}(x, w0)", "s0 = Clip(c0, lo, hi)"]
    for i in range(layers):
        lines += [f"b{i} = Mul(s{i}, g)", f"c{i + 1} = {CONV}(b{i}, w{i + 1})"]
        lines += [f"r{i} = Clip(c{i + 1}, lo, hi)", f"s{i + 1} = Add(s{i}, r{i})"]
    return network(lines, f"s{layers}")


def halved(layers):
    """Half of the channels goes through blocks, the other half past them."""
    lines = [f"c = {CONV}(x, w0)", "r = Clip(c, lo, hi)", f"s = {CONV}(r, e)"]
    lines += ["p, s0 = Split<axis = 1>(s)"]
    for i in range(layers):
        lines += [f"r{i} = Clip(s{i}, lo, hi)", f"c{i} = {CONV}(r{i}, w{i + 1})"]
        lines += [f"s{i + 1} = Add(s{i}, c{i})"]
    lines += [f"k = Concat<axis = 1>(p, s{layers})", "last = Clip(k, lo, hi)"]
    return network(lines, "last", 4)


KINDS = [scaled, direct, dense, summed, halved]


def parts(kind, layers):
    """What lies before each neuron and the read-out, and before streams."""
    graph = to_graph(convert(kind(layers)).model)
    tensors = [*(node.inputs[0] for node in neuron_nodes(graph)), graph.outputs[0]]
    return segments_of(graph, tensors)


def images(samples=5):
    return dyadic.weights(np.random.default_rng(1), samples, 2, 6, 6, largest=8)


@pytest.mark.parametrize(("kind", "times"), [(scaled, 1), (direct, 2), (dense, 1), (summed, 1)])
def test_a_layer_is_in_few_segments(kind, times):
    """Not in those of all neurons that come after it."""
    segments, streams = parts(kind, 9)
    everywhere = [node for s in (*segments, *streams.values()) for node in s.nodes]
    made = Counter(node.name for node in everywhere if node.op == "Conv")
    # What the input alone makes is made anew each time.
    first = next(node.name for node in everywhere if "w0" in {t.name for t in node.inputs})
    assert all(count <= times for name, count in made.items() if name != first)
    assert len(made) == 10
    assert len(streams) >= 7


def test_sums_of_spikes_are_streams():
    segments, streams = parts(summed, 9)
    assert sum(len(s.nodes) for s in (*segments, *streams.values())) <= 4 * 10
    assert all(len(segment.varying) <= 2 for segment in segments)


def test_sizes_are_no_streams():
    """What is added to a size is no sum of spikes."""
    lines = [f"c = {CONV}(x, w0)", "s0 = Clip(c, lo, hi)", "z = Shape<start = 2>(s0)"]
    lines += ["n = Add(z, one)", "b = Shape<end = 2>(s0)", "sizes = Concat<axis = 0>(b, n)"]
    for i in range(3):
        lines += [f"c{i} = {CONV}(s{i}, w{i + 1})"]
        lines += [
            f'u{i} = Resize<mode = "nearest">(c{i}, , , sizes)',
            f"s{i + 1} = Clip(u{i}, lo, hi)",
        ]
    snn, x = convert(network(lines, "s3", size="S")).model, images()
    assert not segments_of(to_graph(snn), [n.inputs[0] for n in neuron_nodes(to_graph(snn))])[1]
    result = SpikingSession(snn).run(x, T)
    for layer in Simulation(to_graph(snn), {"x": x}, T).layers():
        counts = layer.fire().sum(axis=0)
        np.testing.assert_array_equal(counts, result.spike_counts[layer.node.name])


def test_what_is_wider_than_all_neurons_is_no_stream():
    """Two channels of neurons between four of the stream."""
    lines = [f"c = {CONV}(x, w0)", "r = Clip(c, lo, hi)", f"s0 = {CONV}(r, e)"]
    for i in range(4):
        lines += [f"n{i} = {CONV}(s{i}, d1)", f"r{i} = Clip(n{i}, lo, hi)"]
        lines += [f"c{i} = {CONV}(r{i}, e)", f"s{i + 1} = Add(s{i}, c{i})"]
    wide = network([*lines, f"n = {CONV}(s4, d1)", "last = Clip(n, lo, hi)"], "last")
    assert not parts(lambda _: wide, 0)[1]


def test_in_float16_there_are_none():
    """They would be rounded where what ONNX Runtime computes in float32 is not."""
    graph = to_graph(convert(scaled(5)).model)
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable):
            tensor.dtype = np.float16
    assert not segments_of(graph, [node.inputs[0] for node in neuron_nodes(graph)])[1]


def batches_of_20(ann):
    """The sizes of the batches in which a pass sees 20 samples."""
    seen = []

    def look(snn):
        seen.extend(len(inputs["x"]) for inputs in snn.batches("looking", T))
        return False

    recipe = replace(recipe_by_name("best"), name="mine", passes=(look,))
    convert(ann, calibration=from_arrays(images(20)), recipe=recipe, timesteps=T)
    return seen


def test_batches_count_streams(monkeypatch):
    """Two of them over all time-steps, of 2 x 6 x 6 numbers a sample."""
    monkeypatch.setattr(spiking, "MOST_BYTES", 4 * T * 2 * 72 * 7)
    assert batches_of_20(scaled(3)) == [7, 7, 6]


def test_batches_count_sizes_that_only_the_data_says(monkeypatch):
    monkeypatch.setattr(spiking, "MOST_BYTES", 4 * T * 72 * 7)
    text = (
        "net (float[N, 2, H, W] x) => (float[N, 2, H, W] y) { c = Conv<pads = [1, 1, 1, 1]>(x, w) "
    )
    text += "r = Clip(c, lo, hi) y = Conv<pads = [1, 1, 1, 1]>(r, w) }"
    values = {
        "w": dyadic.weights(np.random.default_rng(0), 2, 2, 3, 3),
        "lo": np.float32(0),
        "hi": np.float32(1),
    }
    assert batches_of_20(model(text, values)) == [7, 7, 6]


def test_what_is_known_of_a_layer_depends_on_what_it_reads():
    """With the read-out behind it a mean over samples is a stream, which a layer reads in parts."""
    text = (
        "net (float[4, 2, 6, 6] x) => (float[4, 2, 6, 6] y) { c = Conv<pads = [1, 1, 1, 1]>(x, w0) "
        "r = Clip(c, lo, hi) a = Conv<pads = [1, 1, 1, 1]>(r, w1) "
        "m = ReduceMean<axes = [0]>(a) s = Sub(a, m) b = Mul(s, g) q = Clip(b, lo, hi) "
        "y = Add(s, q) }"
    )
    rng = np.random.default_rng(0)
    weights = {f"w{i}": dyadic.weights(rng, 2, 2, 3, 3) for i in range(2)}
    ann = model(text, weights | {"lo": np.float32(0), "hi": np.float32(1), "g": np.float32(0.5)})
    graph, x, apart = to_graph(convert(ann).model), images(4), {}
    fired = []
    for read_outs in (graph.outputs[:1], []):
        layers = Simulation(graph, {"x": x}, T, apart=apart).layers(read_outs=read_outs)
        fired.append([layer.fire() for layer in layers])
    for with_read_out, without in zip(*fired, strict=True):
        np.testing.assert_array_equal(with_read_out, without)
    assert sorted(apart.values()) == [False, True]


def test_what_is_made_quickly_of_spikes_is_no_stream():
    """Two layers read a pool of spikes; two populations one convolution."""
    text = (
        "net (float[N, 2, 6, 6] x) => (float[N, 3] y) { c = Conv<pads = [1, 1, 1, 1]>(x, w0) "
        "r = Clip(c, lo, hi) p = AveragePool<kernel_shape = [2, 2]>(r) a = Conv(p, w1) "
        "b = Conv(p, w2) q = Clip(a, lo, hi) n = Neg(b) t = Clip(b, lo, hi) z = Clip(n, lo, hi) "
        "k = Concat<axis = 1>(q, t, z) m = GlobalAveragePool(k) f = Flatten(m) y = MatMul(f, u) }"
    )
    rng = np.random.default_rng(0)
    weights = {f"w{i}": dyadic.weights(rng, 2, 2, 3, 3) for i in range(3)}
    weights |= {"lo": np.float32(0), "hi": np.float32(1), "u": dyadic.weights(rng, 6, 3)}
    assert not parts(lambda _: model(text, weights), 0)[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keeps_currents", [False, True])
def test_layers_fire_as_in_a_session(kind, keeps_currents):
    snn, x = convert(kind(5)).model, images()
    result = SpikingSession(snn).run(x, T)
    graph = to_graph(snn)
    fired = 0
    for layer in Simulation(graph, {"x": x}, T).layers(read_outs=graph.outputs[:1]):
        if keeps_currents:
            assert layer.currents.any()
        counts = layer.fire().sum(axis=0)
        np.testing.assert_array_equal(counts, result.spike_counts[layer.node.name])
        fired += 1
    assert fired == len(neuron_nodes(graph))
    after = layer.simulation
    (found,) = after.measure(after.ends[graph.outputs[0].name], graph.outputs[:1])
    np.testing.assert_array_equal(found, result.output)


@pytest.mark.parametrize("kind", KINDS)
def test_means_are_those_over_all_time_steps(kind):
    layers = Simulation(to_graph(convert(kind(4)).model), {"x": images()}, T).layers()
    for layer in layers:
        tensors = [node.outputs[0] for node in layer.segment.nodes]
        steps = list(layer.simulation.steps(layer.segment, tensors))
        for tensor, found, *values in zip(tensors, layer.measure(tensors), *steps, strict=True):
            np.testing.assert_array_equal(found, np.mean(values, axis=0), err_msg=tensor.name)


def test_what_is_made_of_a_sum_that_changes_is_forgotten():
    graph = to_graph(convert(direct(4)).model)
    seen = 0
    for layer in Simulation(graph, {"x": images()}, T).layers():
        streams = vars(layer.simulation)["_streams"]
        for stream in set(streams):
            *_, summand = graph.tensors()[stream].inputs[0].inputs
            layer.simulation.forget_streams(summand)
            assert stream not in streams
            seen += 1
    assert seen > 1


@pytest.mark.parametrize("kind", [scaled, direct, summed, halved])
def test_what_is_not_read_any_more_is_let_go(kind):
    """Of a stream, what the next block reads."""
    held = []
    for layer in Simulation(to_graph(convert(kind(9)).model), {"x": images()}, T).layers():
        inside = vars(layer.simulation)
        held.append(len(inside["_spikes"]) + len(inside["_streams"]))
    assert max(held) <= 5


@pytest.mark.parametrize("recipe", ["best", "calibration", "rnl", "pre-charged", "spike-norm"])
@pytest.mark.parametrize("kind", KINDS)
def test_recipes_convert_the_same_without_streams(kind, recipe, monkeypatch):
    data = from_arrays(images(40))
    made = partial(convert, kind(4), calibration=data, recipe=recipe, timesteps=T)
    found = made()

    def without(graph, tensors):
        return [segment_of(graph, tensor) for tensor in tensors], {}

    monkeypatch.setattr(simulation, "segments_of", without)
    wanted = made()
    results = [SpikingSession(one.model).run(images(), T) for one in (found, wanted)]
    np.testing.assert_allclose(*(result.output for result in results), rtol=1e-4, atol=1e-5)
    for neuron, other in zip(found.neurons, wanted.neurons, strict=True):
        np.testing.assert_allclose(neuron.threshold, other.threshold, rtol=1e-5)
