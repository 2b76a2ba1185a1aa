"""Convolutions on tiles give what the convolutions give, bit for bit where sums are exact."""

import dyadic
import numpy as np
import onnx
import pytest
from alike import run_alike, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_text import model

from onnx2snn import SpikingSession, convert
from onnx2snn.graph_passes.model_files import weights
from onnx2snn.graph_passes.model_files.weights import ModelParts, attach
from onnx2snn.runtime.choices import chunks, estimate
from onnx2snn.runtime.choices.memory import FRAGMENTED, as_executed, peak_of_activations
from onnx2snn.runtime.layers import winograd
from onnx2snn.runtime.layers.winograd import Tiles, matrices_of, tiles_where_they_pay, with_winograd
from onnx2snn.runtime.plans.sizes import sizes_of
from onnx2snn.runtime.providers import CPU
from onnx2snn.runtime.sessions import create_session

CONV = "net (float[N, {inputs}, {height}, {width}] x) => (float[N, C, H, W] y) {{ {node} }}"


def conv(height, width, inputs=3, outputs=5, bias=True, attributes="pads = [1, 1, 1, 1]"):
    """A convolution with dyadic weights."""
    rng = np.random.default_rng(height)
    values = {"w": (rng.integers(-8, 9, (outputs, inputs, 3, 3)) / 8).astype(np.float32)}
    if bias:
        values["b"] = (rng.integers(-8, 9, outputs) / 8).astype(np.float32)
    node = f"y = Conv<{attributes}>({', '.join(['x', *values])})"
    return model(CONV.format(inputs=inputs, height=height, width=width, node=node), values)


def on_tiles(plain, tiles):
    w = onnx.numpy_helper.to_array(plain.graph.initializer[0])
    return attach(ModelParts(with_winograd(plain, [tiles]), matrices_of(w, "w")))


def run(made, x):
    return create_session(made, [CPU], 1).run(None, {"x": x})[0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (2, 6), (1, 1), (7, 4), (3, 5), (1, 8)])
def test_the_same_numbers(height, width, samples, bias):
    plain = conv(height, width, bias=bias)
    made = on_tiles(plain, Tiles("w", 3, 5, height, width))
    onnx.checker.check_model(made, full_check=True)
    ops = [node.op_type for node in made.graph.node]
    assert "Conv" not in ops
    assert ops.count("MatMul") + ops.count("Gemm") == 16
    x = np.random.default_rng(1).integers(-4, 5, (samples, 3, height, width)).astype(np.float32)
    np.testing.assert_array_equal(run(made, x), run(plain, x))
    # What has no convolution of those weights stays as it is.
    again = with_winograd(made, [Tiles("w", 3, 5, height, width)])
    assert list(again.graph.node) == list(made.graph.node)


def test_what_is_alive_at_once():
    tiles = Tiles("w", 16, 8, 8, 6)
    made = on_tiles(conv(8, 6, inputs=16, outputs=8), tiles)
    order = as_executed(made.graph.node)
    peak = peak_of_activations(made, sizes_of(made, {"x": (1, 16, 8, 6)}), order) / FRAGMENTED
    assert peak <= tiles.scratch < 2 * peak


def test_real_weights_are_rounded_no_worse_than_by_a_bit_or_two():
    rng = np.random.default_rng(0)
    w = rng.normal(size=(64, 128, 3, 3)).astype(np.float32) / 34
    x = rng.random((2, 128, 10, 10)).astype(np.float32)
    text = CONV.format(inputs=128, height=10, width=10, node="y = Conv<pads = [1, 1, 1, 1]>(x, w)")
    plain = model(text, {"w": w})
    made = on_tiles(plain, Tiles("w", 128, 64, 10, 10))
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    exact = np.einsum("nchwij,ocij->nohw", windows, w.astype(np.float64), optimize=True)
    tiled, direct = (np.abs(run(m, x) - exact).max() for m in (made, plain))
    assert tiled < 1e-5
    assert tiled < 8 * direct


@pytest.mark.parametrize(
    ("attributes", "inputs", "outputs", "pays"),
    [
        ("pads = [1, 1, 1, 1]", 256, 256, True),
        ("pads = [1, 1, 1, 1], strides = [1, 1], dilations = [1, 1], group = 1", 256, 256, True),
        ("pads = [1, 1, 1, 1]", 32, 32, False),
        ("pads = [1, 1, 1, 1], strides = [2, 2]", 256, 256, False),
        ("pads = [1, 1, 1, 1], dilations = [2, 2]", 256, 256, False),
        ("pads = [1, 1, 1, 1], group = 256", 1, 256, False),
        ("pads = [1, 1, 1, 1], group = 2", 256, 512, False),
        ("pads = [0, 1, 1, 1]", 256, 256, False),
        ("kernel_shape = [3, 3]", 256, 256, False),
    ],
)
def test_where_it_pays(attributes, inputs, outputs, pays):
    node = conv(8, 8, attributes=attributes).graph.node[0]
    found = tiles_where_they_pay(node, (outputs, inputs, 3, 3), (2, outputs, 8, 8), False)
    assert found == (Tiles("w", inputs, outputs, 8, 8) if pays else None)


@pytest.mark.parametrize("kernel", [(3, 5), (5, 3), (1, 1), (3,), (3, 3, 3)])
def test_other_kernels_stay(kernel):
    node = conv(8, 8).graph.node[0]
    made = (2, 256, 8, 8)[: 2 + len(kernel)] + (8,) * (len(kernel) - 2)
    assert tiles_where_they_pay(node, (256, 256, *kernel), made, False) is None


@pytest.mark.parametrize(("samples", "time_batched", "pays"), [
    (1, False, False), (4, False, True), (1, True, True),
])  # fmt: skip
def test_small_images_do_not_pay_for_the_nodes(samples, time_batched, pays):
    """What tiles save on 8 x 8 places of 128 channels, running them each time-step takes."""
    made = (samples, 128, 8, 8)
    found = tiles_where_they_pay(conv(8, 8).graph.node[0], (128, 128, 3, 3), made, time_batched)
    assert (found is not None) == pays


def sessions(network, **options):
    snn = convert(dyadic.to_onnx(network), **options).model
    return SpikingSession(snn, threads=1), SpikingSession(snn, threads=1, plan="step")


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    runs=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40)), min_size=1, max_size=3),
    maxpool=st.sampled_from(["average", "exact"]),
    time_batched=st.booleans(),
)
def test_sessions_give_the_same_spikes(seed, runs, maxpool, time_batched):
    """Wherever convolutions can run on tiles, whether that pays or not."""
    network = dyadic.finish(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "TRANSFORMATION", -(2**30))
        patch.setattr(weights, "STAYS_INLINE", 128)
        patch.setattr(chunks, "CACHED", 0 if time_batched else 2**18)
        session, reference = sessions(network, maxpool=maxpool)
        run_alike(session, reference, network, runs)
        # The first convolution is constant, and not within time-steps.
        plain = [layer.values for layer in network.layers[1:] if layer.op == "conv"]
        wanted = [v for v in plain if v["w"].shape[2] == 3 and v["group"] == v["stride"] == 1]
        assert len(session.chosen(dyadic.images(network, 1)).tiled) == len(wanted)


@pytest.mark.parametrize("samples", [1, 5])
def test_a_wide_network_is_on_tiles(samples):
    """By itself; C = 128 and images of 12 x 12 pay."""
    builder = dyadic.Builder(0)
    x = builder.clip(builder.conv("input", 2, 128), 128)
    x = builder.clip(builder.conv(x, 128, 128), 128)
    x = builder.add("flatten", [builder.clip(builder.conv(x, 128, 8), 8)])
    builder.add("gemm", [x], w=builder.eighths(6, 8 * 144), b=builder.eighths(6))
    network = dyadic.Network(builder.layers, (2, 12, 12))
    session, reference = sessions(network)
    run_alike(session, reference, network, [(samples, 22), (samples, 7)])
    tiled = session.chosen(dyadic.images(network, samples)).tiled
    assert [(tiles.inputs, tiles.outputs) for tiles in tiled] == [(128, 128)]
    assert {key.steps for key in reference._progress.time_steps.sessions} == {1}


def test_graphs_of_the_last_sizes_are_kept(monkeypatch):
    """Those of any size, as single time-steps are, with them; sizes in turn make none anew."""
    monkeypatch.setattr(winograd, "TRANSFORMATION", -(2**30))
    monkeypatch.setattr(weights, "STAYS_INLINE", 128)
    rng = np.random.default_rng(0)
    values = {
        name: (rng.integers(-8, 9, (outputs, inputs, 3, 3)) / 8).astype(np.float32)
        for name, outputs, inputs in (("u", 4, 2), ("v", 4, 4), ("w", 3, 4))
    }
    text = (
        "net (float[N, 2, H, W] x) => (float[N, 3, H, W] y) <float low = {0.0}, float one = {1.0}> "
        "{ a = Conv<pads = [1, 1, 1, 1]>(x, u) b = Clip(a, low, one) "
        "c = Conv<pads = [1, 1, 1, 1]>(b, v) d = Clip(c, low, one) "
        "y = Conv<pads = [1, 1, 1, 1]>(d, w) }"
    )
    snn = convert(model(text, values)).model
    session, reference = SpikingSession(snn, threads=1), SpikingSession(snn, threads=1, plan="step")
    time_steps, made = session._progress.time_steps, []
    create = time_steps.create
    monkeypatch.setattr(time_steps, "create", lambda *a, **k: made.append(1) or create(*a, **k))

    def runs_alike(*sizes):
        for size in sizes:
            x = rng.integers(-8, 9, (2, 2, *size)).astype(np.float32) / 8
            same(session.run(x, 10, [2]), reference.run(x, 10, [2]))

    many = [(4 + number, 9 - number % 3) for number in range(12)]
    for count, size in enumerate(many):
        runs_alike(size)
        # A time-step for all sizes, and a chunk for each.
        assert len(time_steps.sessions) == 1 + min(count + 1, 4)
    assert len(made) == 1 + len(many)
    # That which was used longest ago is let go first.
    runs_alike(many[-4], many[0], *many[-4:-2], many[0])
    assert len(made) == 1 + len(many) + 2
    assert {tiles.height for key in time_steps.sessions for tiles in key.tiled} == {
        height for height, _ in (many[0], *many[-4:-2], many[-1])
    }


def wide():
    """A network with one convolution of 128 channels to 128, on images of 8 x 8."""
    builder = dyadic.Builder(0)
    x = builder.clip(builder.conv("input", 2, 128), 128)
    x = builder.add("flatten", [builder.clip(builder.conv(x, 128, 128), 128)])
    builder.add("gemm", [x], w=builder.eighths(6, 128 * 64), b=builder.eighths(6))
    return dyadic.Network(builder.layers, (2, 8, 8))


def test_chunks_go_on_without_tiles_where_memory_is_short():
    network = wide()
    snn = convert(dyadic.to_onnx(network)).model
    x, budget, seen = dyadic.images(network, 2), 2**30, []
    while True:
        session = SpikingSession(snn, threads=1, max_memory=budget)
        choice = session.chosen(x)
        seen.append((len(choice.tiled), choice.chunks))
        if not choice.chunks:
            break
        assert choice.short_of_memory == (seen[-1] != seen[0])
        budget = choice.memory.needed - 1
    assert (1, (16, 4)) in seen
    assert (0, (16,)) in seen
    # All with tiles come first.
    assert sorted(seen, key=lambda pair: -pair[0]) == seen
    run_alike(session, SpikingSession(snn, threads=1, plan="step"), network, [(2, 9)])


def test_lean_chunks_have_small_images_on_tiles():
    """Convolutions that lean chunks leave alone are repacked; on tiles they are time-batched."""
    network = wide()
    session = SpikingSession(convert(dyadic.to_onnx(network)).model)
    step = session._progress.time_steps.step
    sizes = sizes_of(step, session.chosen(dyadic.images(network, 1)).shapes)
    free = {tensor.name for tensor in step.graph.initializer}
    for lean in (False, True):
        (layer,) = chunks.weighted_layers(step, sizes, free, lean=lean)
        assert (layer.tiles is not None, layer.time_batched) == (lean, lean)


def test_the_nodes_of_tiles_are_nodes_of_a_chunk(monkeypatch):
    network = wide()
    snn, x = convert(dyadic.to_onnx(network)).model, dyadic.images(network, 4)
    session = SpikingSession(snn, threads=1)
    nodes = len(session._progress.time_steps.step.graph.node) - 1 + winograd.NODES_OF_TILES
    # Tiles alone leave chunks of 4, without which there would be none on tiles.
    for most, longest in ((16 * nodes, 16), (16 * nodes - 1, 8), (8 * nodes - 1, 4), (nodes, 4)):
        monkeypatch.setattr(estimate, "MOST_NODES", most)
        chosen = SpikingSession(snn, threads=1).chosen(x)
        assert (len(chosen.tiled), chosen.chunks[0]) == (1, longest)


def test_what_computes_in_8_bits_is_not_on_tiles():
    network = wide()
    snn = convert(dyadic.to_onnx(network)).model
    x = dyadic.images(network, 4)
    assert len(SpikingSession(snn).chosen(x).tiled) == 1
    assert not SpikingSession(snn, precision="int8").chosen(x).tiled
