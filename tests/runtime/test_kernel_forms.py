"""Chunks in ONNX Runtime's blocked layout give the spikes of the plain step, bit for bit."""

import sys
import tempfile
from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import dyadic
import numpy as np
import onnx
import pytest
from alike import run_alike, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_text import model

from onnx2snn import Neuron, SpikingSession, convert, recipe_by_name
from onnx2snn.graph_passes.graph.neurons import DOMAIN
from onnx2snn.graph_passes.model_files.weights import detach
from onnx2snn.runtime import time_steps
from onnx2snn.runtime.layers import cpu_layout, kernel_forms
from onnx2snn.runtime.layers.cpu_layout import in_layout_of_cpu

BLOCKED = "com.microsoft.nchwc"


def conv(channels=32):
    text = (
        f"net (float[N, {channels}, 6, 6] x) => (float[N, 3] y) {{ "
        "a = Conv<pads = [1, 1, 1, 1]>(x, w1) c = Clip(a, zero, one) "
        "b = Conv<pads = [1, 1, 1, 1]>(c, w2) r = Add(b, c) d = Clip(r, zero, one) "
        "g = GlobalAveragePool(d) f = Flatten(g) y = Gemm(f, w3) }"
    )
    weights = partial(dyadic.weights, np.random.default_rng(0), parts=16)
    named = {
        "zero": np.float32(0), "one": np.float32(1), "w1": weights(channels, channels, 3, 3),
        "w2": weights(channels, channels, 3, 3), "w3": weights(channels, 3),
    }  # fmt: skip
    return model(text, named)


def has_blocks():
    """Whether ONNX Runtime has a blocked layout for this CPU."""
    return any(
        node.domain == BLOCKED for node in in_layout_of_cpu(detach(conv())).structure.graph.node
    )


needs_blocks = pytest.mark.skipif(not has_blocks(), reason="no blocked layout on this CPU")


@pytest.fixture
def chunks(monkeypatch):
    """The graphs of chunks that are made in a blocked layout."""
    made = []
    laid_out = time_steps.laid_out

    def kept(*arguments):
        made.append(laid_out(*arguments))
        return made[-1]

    monkeypatch.setattr(time_steps, "laid_out", kept)
    return made


def count(chunk, op):
    return sum(node.op_type == op for node in chunk.structure.graph.node)


@settings(
    max_examples=30, deadline=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(
    seed=st.integers(0, 10**6),
    width=st.sampled_from([4, 8]),
    runs=st.lists(st.tuples(st.integers(1, 5), st.integers(4, 40)), min_size=1, max_size=3),
    maxpool=st.sampled_from(["average", "exact"]),
)
def test_blocked_chunks_are_steps(seed, width, runs, maxpool):
    """Channels that fill blocks or do not, any remainder, and N that changes from run to run."""
    network = dyadic.finish(seed, width=width)
    snn = convert(dyadic.to_onnx(network), maxpool=maxpool).model
    plain, chunked = SpikingSession(snn, threads=1, plan="step"), SpikingSession(snn, threads=1)
    for samples, timesteps in runs:
        run_alike(chunked, plain, network, [(samples, timesteps)])
        x = dyadic.images(network, samples, seed=samples)
        taken = plain.state
        chunked.state = taken
        np.testing.assert_array_equal(chunked.step(x), plain.step(x))


@needs_blocks
def test_between_convolutions_nothing_leaves_the_layout(chunks):
    snn = convert(conv()).model
    x = (np.random.default_rng(1).integers(0, 17, (2, 32, 6, 6)) / 16).astype(np.float32)
    found = SpikingSession(snn, threads=1).run(x, 16)
    wanted = SpikingSession(snn, threads=1, plan="step").run(x, 16)
    np.testing.assert_array_equal(found.output, wanted.output)
    [chunk] = chunks
    # In come the currents of the first layer and two potentials, and a sum; out go the latter.
    assert count(chunk, "ReorderInput") == 4
    assert count(chunk, "ReorderOutput") == 3
    assert count(chunk, "Relu") == 0
    assert not {node.op_type for node in chunk.structure.graph.node} & {"Reshape", "Transpose"}


@needs_blocks
def test_chunks_share_weights_in_the_layout():
    session = SpikingSession(convert(conv()).model, threads=1)
    session.run(np.ones((2, 32, 6, 6), np.float32), 21)
    long, short = (
        {value.data_ptr() for value in made.shared_weights.values()}
        for key, made in session._progress.time_steps.sessions.items()
        if key.steps > 1
    )
    assert long == short
    [filters] = session._progress.time_steps.in_layout.values()
    assert filters.size == 32 * 32 * 3 * 3
    assert filters.ctypes.data in long
    assert filters.ctypes.data % 64 == 0


@needs_blocks
def test_a_chunk_serves_every_batch_size(chunks):
    snn = convert(conv()).model
    session = SpikingSession(snn, threads=1)
    for samples in (1, 5, 3):
        session.run(np.ones((samples, 32, 6, 6), np.float32), 16)
    assert len(chunks) == 1


@pytest.mark.parametrize("channels", [4, 16, 20])
def test_pools_that_count_stay_in_the_layout(chunks, channels):
    """Shapes behind them are known, so that nothing is reshaped."""
    text = (
        "net (float[N, 1, 8, 8] x) => (float[N, 3] y) { "
        "a = Conv(x, w1) b = Relu(a) c = Min(b, each) "
        "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c) "
        "d = Conv(p, w2) e = Relu(d) f = Min(e, each) "
        "g = Conv(f, w3) h = Clip(g, zero, one) i = Flatten(h) y = Gemm(i, w4) }"
    )
    rng = np.random.default_rng(channels)
    weights = partial(dyadic.weights, rng)
    each = rng.choice([0.5, 1, 2], (channels, 1, 1)).astype(np.float32)
    named = {
        "zero": np.float32(0), "one": np.float32(1), "each": each,
        "w1": weights(channels, 1, 3, 3), "w2": weights(channels, channels, 2, 2),
        "w3": weights(channels, channels, 2, 2), "w4": weights(channels, 3),
    }  # fmt: skip
    snn = convert(model(text, named), maxpool="exact").model
    plain, chunked = SpikingSession(snn, threads=1, plan="step"), SpikingSession(snn, threads=1)
    for samples in (3, 1, 4):
        x = (rng.integers(-8, 9, (samples, 1, 8, 8)) / 8).astype(np.float32)
        found, wanted = chunked.run(x, 37, [20]), plain.run(x, 37, [20])
        same(found, wanted)
        assert chunked.chosen(x).layout is not None
        for t in (20, 37):
            assert all(counts.any() for counts in wanted.readouts[t].spike_counts.values())
    assert not any(count(chunk, op) for chunk in chunks for op in ("Reshape", "Expand"))
    # One for each time-step, and one for the maxima at first.
    assert {count(chunk, "MaxPool") for chunk in chunks} == {5, 17}


@needs_blocks
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_sums_behind_a_resize_stay_in_the_layout(chunks, mode):
    """ONNX loses there that rows are samples, and ONNX Runtime reshapes what may not be alike."""
    text = (
        "net (float[N, 32, 6, 6] x) => (float[N, 32, 6, 6] y) { "
        "a = Conv<pads = [1, 1, 1, 1]>(x, w) c = Clip(a, zero, one) "
        "d = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(c, w) e = Clip(d, zero, one) "
        f'f = Conv<pads = [1, 1, 1, 1]>(e, w) g = Resize<mode = "{mode}">(f, , twice) '
        "h = Conv<pads = [1, 1, 1, 1]>(c, w) i = Add(g, h) j = Clip(i, zero, one) "
        "y = Conv<pads = [1, 1, 1, 1]>(j, w) }"
    )
    weights = dyadic.weights(np.random.default_rng(0), 32, 32, 3, 3, parts=16)
    scales = np.float32([1, 1, 2, 2])
    values = {"zero": np.float32(0), "one": np.float32(1), "w": weights, "twice": scales}
    snn = convert(model(text, values)).model
    plain, chunked = SpikingSession(snn, threads=1, plan="step"), SpikingSession(snn, threads=1)
    for samples in (3, 1):
        rng = np.random.default_rng(samples)
        x = (rng.integers(-8, 9, (samples, 32, 6, 6)) / 8).astype(np.float32)
        same(chunked.run(x, 16), plain.run(x, 16))
    assert not any(count(chunk, "Reshape") for chunk in chunks)


@needs_blocks
def test_a_name_that_holds_the_mark_of_stand_ins():
    ann = conv()
    renamed = {name: f"net/stand-in/{name}" for node in ann.graph.node for name in node.output}
    renamed |= {info.name: info.name for info in ann.graph.output}
    for node in ann.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed[name] for name in node.output]
    x = np.ones((2, 32, 6, 6), np.float32)
    found, wanted = (SpikingSession(convert(a).model, threads=1).run(x, 16) for a in (ann, conv()))
    np.testing.assert_array_equal(found.output, wanted.output)


def test_a_node_with_the_name_of_what_neurons_emit():
    text = (
        "net (float[N, 32, 6, 6] x) => (float[N, 32, 6, 6] y) { a = Conv(x, w) "
        "c = Clip(a, zero, half) m = Mul(c, k) s = Add(m, half) d = Clip(s, zero, half) "
        "y = Conv(d, w) }"
    )
    weights = dyadic.weights(np.random.default_rng(0), 32, 32, 1, 1, parts=16)
    k = np.float32([1, 2] * 16).reshape(32, 1, 1)
    ann = model(text, {"w": weights, "k": k, "zero": np.float32(0), "half": np.float32(0.5)})
    for node in ann.graph.node:
        node.name = {"c": "neurons", "m": "c"}.get(node.output[0], "")
    spiking = convert(ann).model
    named = {node.name: node.output[0] for node in spiking.graph.node}
    assert named["c"] != "c"
    assert "c" in named.values()
    x = np.random.default_rng(0).integers(0, 9, (2, 32, 6, 6)).astype(np.float32) / 8
    same(SpikingSession(spiking).run(x, 8), SpikingSession(spiking, plan="step").run(x, 8))


def test_a_plain_chunk_where_stand_ins_are_gone(chunks, monkeypatch):
    """As another version of ONNX Runtime may leave it."""

    def without_resets(graph):
        laid = in_layout_of_cpu(graph)
        for node in laid.structure.graph.node:
            if "stand-in/v_next" in node.name:
                node.name = "another"
        return laid

    monkeypatch.setattr(kernel_forms, "in_layout_of_cpu", without_resets)
    snn, x = convert(conv()).model, np.ones((2, 32, 6, 6), np.float32)
    found = SpikingSession(snn, threads=1).run(x, 16)
    assert chunks == [None]
    wanted = SpikingSession(snn, threads=1, plan="step").run(x, 16)
    np.testing.assert_array_equal(found.output, wanted.output)


def test_thresholds_of_many_channels():
    """Those of 256 or more are among the weights that are kept beside the graph."""
    builder = dyadic.Builder(0)
    x = builder.conv("input", 2, 300)
    x = builder.add("clip", [x], theta=builder.rng.choice([0.5, 1.0, 2.0], (300, 1, 1)))
    x = builder.clip(builder.conv(x, 300, 4), 4)
    builder.add("gemm", [builder.add("flatten", [x])], w=builder.eighths(3, 64), b=np.zeros(3))
    network = dyadic.Network(builder.layers, (2, 4, 4))
    snn = convert(dyadic.to_onnx(network)).model
    session = SpikingSession(snn, threads=1)
    assert session.chosen(dyadic.images(network, 1)).layout is not None
    run_alike(session, SpikingSession(snn, threads=1, plan="step"), network, [(2, 21)])


def resized(op="SignedIF"):
    """A network for two samples together, that many also among the sizes that it resizes to."""
    text = (
        "net (float[2, 16, 8, 8] x) => (float[2, 3, 8, 8] y) { m = ReduceMean<axes = [0]>(x) "
        "n = Add(x, m) a = Clip(n, zero, one) "
        "p = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(a) b = Conv(p, w) "
        'c = Clip(b, zero, one) u = Resize<coordinate_transformation_mode = "asymmetric", '
        'mode = "nearest", nearest_mode = "floor">(c, none, none, sizes) '
        "j = Concat<axis = 1>(u, a) d = Conv(j, v) e = Clip(d, zero, one) y = Conv(e, z) }"
    )
    weights = partial(dyadic.weights, np.random.default_rng(0))
    values = {
        "zero": np.float32(0), "one": np.float32(1), "none": np.zeros(0, np.float32),
        "sizes": np.array([2, 16, 8, 8]), "w": weights(16, 16, 1, 1), "v": weights(16, 32, 1, 1),
        "z": weights(3, 16, 1, 1),
    }  # fmt: skip
    takes_back = replace(recipe_by_name("opi"), neuron=Neuron(op, negative=0.0))
    snn = convert(model(text, values), recipe=takes_back).model
    x = (np.random.default_rng(1).integers(0, 9, (2, 16, 8, 8)) / 8).astype(np.float32)
    return snn, x


@needs_blocks
@pytest.mark.parametrize("op", ["SignedIF", "SignedBurstIF"])
def test_a_number_of_samples_that_the_network_holds_itself(chunks, op):
    snn, x = resized(op)
    chunked, stepped = (SpikingSession(snn, threads=1, plan=plan) for plan in ("auto", "step"))
    same(chunked.run(x, 21), stepped.run(x, 21))
    assert chunks
    assert all(chunk is not None for chunk in chunks)


@needs_blocks
def test_neurons_in_two_layouts_stay_in_plain_layout(chunks, monkeypatch):
    """As where ONNX Runtime does not see that tensors are of one shape."""
    layout_of = kernel_forms.layout_of
    monkeypatch.setattr(time_steps, "layout_of", lambda *given: layout_of(*given[:-1], True))
    snn, x = resized()
    chunked, stepped = (SpikingSession(snn, threads=1, plan=plan) for plan in ("auto", "step"))
    same(chunked.run(x, 21), stepped.run(x, 21))
    assert chunks
    assert all(chunk is None for chunk in chunks)


def test_images_that_would_be_padding_stay_out(monkeypatch):
    monkeypatch.setattr(kernel_forms, "LEAST_FILLED", 0.75)
    monkeypatch.setattr(kernel_forms, "block_of_channels", lambda: 16)
    shapes = {str(c): (2, c, 8, 8) for c in (1, 4, 8, 12, 13, 16, 20, 24, 25, 32)}
    entering = dict(kernel_forms.layout_of([], shapes, 2, True))
    assert list(entering) == ["12", "13", "16", "24", "25", "32"]
    assert entering["13"] == ("N", 13, 8, 8)


def test_without_a_folder_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    kernel_forms._block_as_laid_out.cache_clear()
    network = dyadic.finish(2)
    snn = convert(dyadic.to_onnx(network)).model
    sessions = [SpikingSession(snn, threads=1, plan=plan) for plan in ("auto", "step")]
    run_alike(*sessions, network, [(2, 21)])


@needs_blocks
def test_without_room_for_temporary_files(monkeypatch, caplog):
    # A file of more bytes cannot be written.
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Else Python would keep modules that it compiles as far as they are written.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    network = dyadic.finish(2)
    snn = convert(dyadic.to_onnx(network)).model
    x = dyadic.images(network, 2)
    wanted = SpikingSession(snn, threads=1, plan="step").run(x, 21)
    session = SpikingSession(snn, threads=1)
    assert session.chosen(x).layout
    kernel_forms._tell_of_plain_layout.cache_clear()
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        found = session.run(x, 21)
        SpikingSession(snn, threads=1).run(x, 21)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    same(found, wanted)
    said = f"a temporary file could not be written in '{tempfile.gettempdir()}'; make room there"
    assert caplog.text.count(f"time-steps run in plain layout, which is slower: {said}") == 1


@needs_blocks
def test_a_time_limit_is_no_lack_of_room(monkeypatch):
    network = dyadic.finish(2)
    session = SpikingSession(convert(dyadic.to_onnx(network)).model, threads=1)
    monkeypatch.setattr(cpu_layout, "start", Mock(side_effect=TimeoutError("30 s")))
    with pytest.raises(TimeoutError, match="30 s"):
        session.run(dyadic.images(network, 2), 21)


@needs_blocks
def test_blocks_are_of_the_channels_to_which_filters_are_padded(tmp_path, monkeypatch):
    """Which is found out anew after there was no folder for temporary files."""
    kernel_forms._block_as_laid_out.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr("tempfile.tempdir", str(tmp_path / "gone"))
        assert kernel_forms.block_of_channels() == 1
    assert kernel_forms.block_of_channels() in (8, 16)


@pytest.mark.parametrize("least_filled", [0, 0.75])
def test_images_of_few_channels_beside_others(least_filled, monkeypatch):
    monkeypatch.setattr(kernel_forms, "LEAST_FILLED", least_filled)
    builder = dyadic.Builder(1)
    x = builder.clip(builder.conv("input", 2, 4), 4)
    x = builder.clip(builder.conv(x, 4, 32), 32)
    x = builder.clip(builder.conv(x, 32, 4), 4)
    builder.add("gemm", [builder.add("flatten", [x])], w=builder.eighths(3, 64), b=np.zeros(3))
    network = dyadic.Network(builder.layers, (2, 4, 4))
    snn = convert(dyadic.to_onnx(network)).model
    session = SpikingSession(snn, threads=1)
    run_alike(session, SpikingSession(snn, threads=1, plan="step"), network, [(2, 21), (3, 9)])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 6, 6)])
def test_a_threshold_of_one_channel(shape):
    """As an array, which one channel does not bring into the blocked layout."""
    text = (
        "net (float[N, 4, 6, 6] x) => (float[N, 1, 6, 6] y) { "
        "a = Conv<pads = [1, 1, 1, 1]>(x, w1) b = Clip(a, zero, one) "
        "c = Conv<pads = [1, 1, 1, 1]>(b, w2) r = Relu(c) d = Clip(r, zero, one) y = Neg(d) }"
    )
    rng = np.random.default_rng(0)
    w1, w2 = ((rng.integers(-4, 5, (n, m, 3, 3)) / 16).astype(np.float32)
              for n, m in ((16, 4), (1, 16)))  # fmt: skip
    snn = convert(
        model(text, {"zero": np.float32(0), "one": np.float32(1), "w1": w1, "w2": w2})
    ).model
    *_, last = (node for node in snn.graph.node if node.domain == DOMAIN)
    threshold = next(a for a in last.attribute if a.name == "v_threshold")
    threshold.t.CopyFrom(onnx.numpy_helper.from_array(np.full(shape, 0.5, np.float32)))
    x = (rng.integers(0, 9, (3, 4, 6, 6)) / 8).astype(np.float32)
    wanted = SpikingSession(snn, threads=1, plan="step").run(x, 21, [8])
    same(SpikingSession(snn, threads=1).run(x, 21, [8]), wanted)
