"""SOPs and MACs against counting synapse by synapse."""

import numpy as np
import pytest
from onnx_text import model, run

from onnx2snn import SpikingSession, convert, evaluate, from_arrays
from onnx2snn.graph_passes.graph.editing import Editor
from onnx2snn.graph_passes.model_files.weights import detach
from onnx2snn.measuring import synapses
from onnx2snn.measuring.synapses import SynapseCounter, macs_by_place

RNG = np.random.default_rng(0)
ZERO, ONE = np.float32(0), np.float32(1)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def synaptic_operations(snn, spike_counts, input_shape, timesteps=1):
    """SOPs of one sample: each spike times its fan-out."""
    batch = {name: counts[np.newaxis] for name, counts in spike_counts.items()}
    return counter_of(snn, input_shape).operations(batch, timesteps)


def counter_of(snn, input_shape):
    return SynapseCounter(detach(snn), {info.name: input_shape for info in snn.graph.input})


def macs(snn, input_shape):
    return sum(macs_by_place(detach(snn), {info.name: input_shape for info in snn.graph.input}))


def conv_connections(size_in, size_out, kernel, stride, pad):
    """How many outputs each input position reaches, along one axis."""
    reached = np.zeros(size_in, int)
    for o in range(size_out):
        for k in range(kernel):
            i = o * stride + k - pad
            if 0 <= i < size_in:
                reached[i] += 1
    return reached


def test_convolution_counts_no_padding():
    weights = {"w": normal(3, 2, 3, 3), "v": normal(5, 3, 3, 3), "zero": ZERO, "one": ONE}
    weights |= {"a": normal(3), "b": normal(5)}
    proto = model(
        "g (float[N, 2, 8, 8] x) => (float[N, 5, 4, 4] y) "
        "{ c = Conv<pads = [1, 1, 1, 1]>(x, w, a) s = Clip(c, zero, one) "
        "y = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(s, v, b) }",
        weights,
    )
    snn = convert(proto).model
    reached = conv_connections(8, 4, 3, 2, 1)
    fan_out = 5 * np.outer(reached, reached)
    counts = RNG.integers(0, 9, (3, 8, 8))
    assert synaptic_operations(snn, {"s": counts}, (2, 8, 8)) == (counts * fan_out).sum()
    first = conv_connections(8, 8, 3, 1, 1)
    in_first = 2 * 3 * np.outer(first, first).sum()
    assert macs(snn, (2, 8, 8)) == in_first + 3 * fan_out.sum()


def test_zero_weights_are_no_synapses():
    weights = {"w": np.array([[1, 0, 2], [0, 0, 3]], np.float32), "zero": ZERO, "one": ONE}
    proto = model(
        "g (float[N, 2] x) => (float[N, 3] y) { s = Clip(x, zero, one) y = MatMul(s, w) }", weights
    )
    snn = convert(proto).model
    assert synaptic_operations(snn, {"s": np.array([10, 100])}, (2,)) == 10 * 2 + 100 * 1
    assert macs(snn, (2,)) == 3


def sparse(*shape):
    return (normal(*shape) * (RNG.random(shape) < 0.6)).astype(np.float32)


DENSE = {
    "x [4], MatMul(s, w)": ((4, 5), lambda w: (w != 0).sum(1)),
    "x [4], Gemm(s, w, b)": ((4, 5), lambda w: (w != 0).sum(1)),
    "x [4], Gemm<alpha = 2.0, transB = 1>(s, w, b)": ((5, 4), lambda w: (w != 0).sum(0)),
    "x [3, 4], MatMul(s, w)": ((4, 5), lambda w: np.tile((w != 0).sum(1), (3, 1))),
    "x [4, 3], MatMul(w, s)": ((5, 4), lambda w: np.tile((w != 0).sum(0)[:, None], (1, 3))),
    "x [2, 3, 4], MatMul(s, w)": (
        (2, 4, 5),
        lambda w: np.tile((w != 0).sum(2)[:, None, :], (1, 3, 1)),
    ),
}


@pytest.mark.parametrize("layer", DENSE)
def test_dense_layers_of_every_form(layer):
    shape, text = layer[3:].split("], ", 1)
    weights, fan_outs = DENSE[layer]
    axes = ", ".join("Nabc"[: shape.count(",") + 2])
    w, sizes = sparse(*weights), tuple(map(int, shape.split(", ")))
    proto = model(
        f"g (float[N, {shape}] x) => (float[{axes}] y) {{ s = Clip(x, zero, one) y = {text} }}",
        {"w": w, "b": normal(5), "zero": ZERO, "one": ONE},
    )
    snn = convert(proto).model
    counts = RNG.integers(0, 9, sizes)
    wanted = (counts * fan_outs(w)).sum()
    assert synaptic_operations(snn, {"s": counts}, sizes) == wanted
    assert macs(snn, sizes) == np.broadcast_to(fan_outs(w), sizes).sum()


def test_of_a_fixed_batch_one_sample_counts():
    w, v = sparse(3, 5), sparse(5, 6)
    proto = model(
        "g (float[N, 3] x) => (float[N, 6] y) { h = MatMul(x, w) s = Clip(h, zero, one) "
        "y = MatMul(s, v) }",
        {"w": w, "v": v, "zero": ZERO, "one": ONE},
    )
    snn, counts = convert(proto).model, RNG.integers(0, 9, 5)
    # As of a network that holds the size in its reshapes.
    snn.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    assert synaptic_operations(snn, {"s": counts}, (3,)) == (counts @ (v != 0)).sum()
    wanted = np.count_nonzero(w), np.count_nonzero(v)
    assert macs_by_place(detach(snn), {"x": (3,)}) == wanted


def test_spikes_are_summed_over_samples_of_several_rows():
    counts = RNG.integers(0, 9, (6, 5))
    wanted = counts[:2] + counts[2:4] + counts[4:]
    np.testing.assert_array_equal(synapses.summed_over_samples(counts, 0, 3, "s"), wanted)
    np.testing.assert_array_equal(synapses.summed_over_samples(counts.T, 1, 3, "s"), wanted.T)


def test_a_layer_that_no_neuron_is_before_reads_numbers():
    """At each time-step: of spikes handed on through it, a MobileNetV2 had 513 times its MACs."""
    w, v = sparse(4, 5), sparse(5, 6)
    proto = model(
        "g (float[N, 4] x) => (float[N, 6] y) { s = Clip(x, zero, one) h = MatMul(s, w) "
        "r = Sum(h, h) y = MatMul(r, v) }",
        {"w": w, "v": v, "zero": ZERO, "one": ONE},
    )
    snn = convert(proto).model
    counts = RNG.integers(0, 9, 4)
    wanted = (counts @ (w != 0)).sum() + 7 * np.count_nonzero(v)
    assert synaptic_operations(snn, {"s": counts}, (4,), 7) == wanted
    assert macs(snn, (4,)) == np.count_nonzero(w) + np.count_nonzero(v)


def test_a_graph_is_searched_for_names_once(monkeypatch):
    """Not for each layer, which took time quadratic in their number."""
    made = []
    monkeypatch.setattr(synapses, "Editor", lambda graph: made.append(1) or Editor(graph))
    layers = " ".join(f"a{i} = Gemm(x{i}, w) x{i + 1} = Clip(a{i}, lo, hi)" for i in range(5))
    text = f"net (float[N, 3] x0) => (float[N, 3] y) {{ {layers} y = Gemm(x5, w) }}"
    snn = convert(model(text, {"w": normal(3, 3), "lo": ZERO, "hi": ONE})).model
    counter_of(snn, (3,))
    assert macs(snn, (3,)) == 6 * 9
    assert len(made) == 2


def test_weights_are_not_copied():
    """Ones for them are made one layer's at a time, as the graph runs."""
    shared = {"w": normal(32, 64), "v": normal(64, 32)}
    proto = model(
        "g (float[N, 32] x) => (float[N, 32] y) { s = Clip(x, zero, one) h = MatMul(s, w) "
        "t = Clip(h, zero, one) y = MatMul(t, v) }",
        shared | {"zero": ZERO, "one": ONE},
    )
    parts = detach(convert(proto).model)
    counter = SynapseCounter(parts, {"x": (32,)})
    held = counter._session.weight_feed.values()
    large = [array for array in held if array.size == 32 * 64]
    own = {array.ctypes.data for array in parts.weights.values()}
    assert {array.ctypes.data for array in large} <= own


def test_through_pooling_flatten_and_residual_add():
    weights = {"w": normal(2, 2, 1, 1), "f": normal(8, 3), "b": normal(3), "zero": ZERO, "one": ONE}
    proto = model(
        "g (float[N, 2, 4, 4] x) => (float[N, 3] y) { a = Clip(x, zero, one) c = Conv(a, w) "
        "d = Add(c, a) e = Clip(d, zero, one) "
        "p = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(e) q = Flatten(p) "
        "y = Gemm(q, f, b) }",
        weights,
    )
    snn = convert(proto).model
    a, e = RNG.integers(0, 9, (2, 4, 4)), RNG.integers(0, 9, (2, 4, 4))
    assert synaptic_operations(snn, {"a": a, "e": e}, (2, 4, 4)) == 2 * a.sum() + 3 * e.sum()
    assert macs(snn, (2, 4, 4)) == 16 * 4 + 8 * 3


def test_global_pooling_and_scales():
    weights = {"f": normal(2, 5), "half": np.float32(0.5), "zero": ZERO, "one": ONE}
    proto = model(
        "g (float[N, 2, 4, 4] x) => (float[N, 5] y) { a = Clip(x, zero, one) m = Mul(a, half) "
        "n = Add(m, one) p = GlobalAveragePool(n) q = Flatten(p) y = MatMul(q, f) }",
        weights,
    )
    counts = RNG.integers(0, 9, (2, 4, 4))
    assert synaptic_operations(convert(proto).model, {"a": counts}, (2, 4, 4)) == 5 * counts.sum()


def pooled_sops(body, weights, counts, output="[N, 3, a, b]"):
    proto = model(
        f"g (float[N, 2, 6, 6] x) => (float{output} y) {{ a = Clip(x, zero, one) {body} }}",
        {"v": normal(3, 2, 1, 1), "zero": ZERO, "one": ONE} | weights,
    )
    return synaptic_operations(convert(proto).model, {"a": counts}, (2, 6, 6))


@pytest.mark.parametrize(
    ("kernel", "stride", "pad"), [(3, 2, 0), (3, 2, 1), (4, 3, 0), (2, 2, 0), (5, 2, 0)]
)
@pytest.mark.parametrize("ceil_mode", [0, 1])
def test_every_window_of_a_pool_counts_its_spikes(kernel, stride, pad, ceil_mode):
    counts = RNG.integers(0, 9, (2, 6, 6))
    size = (6 + 2 * pad - kernel + (stride - 1) * ceil_mode) // stride + 1
    if ceil_mode and (size - 1) * stride >= 6 + pad:
        size -= 1
    reached = conv_connections(6, size, kernel, stride, pad)
    body = (
        f"p = AveragePool<kernel_shape = [{kernel}, {kernel}], strides = [{stride}, {stride}], "
        f"pads = [{pad}, {pad}, {pad}, {pad}], ceil_mode = {ceil_mode}>(a) y = Conv(p, v)"
    )
    wanted = 3 * (counts * np.outer(reached, reached)).sum()
    assert pooled_sops(body, {}, counts) == wanted


SPREAD = {
    "by an average pool": "p = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(s)",
    "by half, between places": 'p = Resize<mode = "linear">(s, , half)',
    "to sizes": 'p = Resize<mode = "linear">(s, , , sizes)',
    "to sizes, scales empty": 'p = Resize<mode = "linear">(s, none, none, sizes)',
    "by half, along two axes": 'p = Resize<mode = "linear", axes = [2, 3]>(s, , two)',
    "to the nearest": 'p = Resize<mode = "nearest">(s, , half)',
}


@pytest.mark.parametrize("name", SPREAD)
def test_each_place_that_an_interpolation_reads_counts(name):
    body = SPREAD[name]
    proto = model(
        f"g (float[N, 3, 8, 8] x) => (float[N, 5, 4, 4] y) {{ s = Clip(x, zero, one) {body} "
        "y = Conv(p, v) }",
        {
            "v": normal(5, 3, 1, 1), "zero": ZERO, "one": ONE, "sizes": np.array([1, 3, 4, 4]),
            "none": np.zeros(0, np.float32),
            "half": np.float32([1, 1, 0.5, 0.5]), "two": np.float32([0.5, 0.5]),
        },
        18 if "axes" in body else 17,
    )  # fmt: skip
    counts = RNG.integers(0, 9, (3, 8, 8))
    found = synaptic_operations(convert(proto).model, {"s": counts}, (3, 8, 8))
    if "nearest" in name:
        assert found in {5 * counts[:, i::2, j::2].sum() for i in (0, 1) for j in (0, 1)}
    else:
        assert found == 5 * counts.sum()


def test_every_place_of_a_cubic_interpolation():
    proto = model(
        "g (float[N, 1, 8, 8] x) => (float[N, 1, 16, 16] y) { s = Clip(x, zero, one) "
        'p = Resize<mode = "cubic">(s, , twice) y = Conv(p, v) }',
        {"v": normal(1, 1, 1, 1), "zero": ZERO, "one": ONE, "twice": np.float32([1, 1, 2, 2])},
    )
    one = np.zeros((1, 8, 8), int)
    one[0, 4, 4] = 3
    # Of each axis 8 results read four places each, of which none by a share of 0.
    assert synaptic_operations(convert(proto).model, {"s": one}, (1, 8, 8)) == 3 * 8 * 8


def test_what_a_factor_of_0_stops_meets_nothing():
    kept = np.array([1, 0, -0.5], np.float32)[:, np.newaxis, np.newaxis]
    proto = model(
        "g (float[N, 3, 4, 4] x) => (float[N, 2, 4, 4] y) { s = Clip(x, zero, one) "
        "m = Mul(s, kept) y = ConvTranspose(m, v) }",
        {"v": normal(3, 2, 1, 1), "zero": ZERO, "one": ONE, "kept": kept},
    )
    counts = RNG.integers(0, 9, (3, 4, 4))
    snn = convert(proto).model
    found = synaptic_operations(snn, {"s": counts}, (3, 4, 4))
    assert found == 2 * counts[[0, 2]].sum()
    assert macs(snn, (3, 4, 4)) == 2 * 2 * 16


def test_a_chain_of_many_concats():
    joined = " ".join(f"c{i} = Concat<axis = 1>(c{i - 1}, q)" for i in range(1, 1200))
    proto = model(
        "g (float[N, 2] x) => (float[N, 1] y) { c0 = Clip(x, zero, one) "
        f"q = Pad(c0, pads) {joined} y = MatMul(c1199, v) }}",
        {
            "v": normal(2 + 3 * 1199, 1), "zero": ZERO, "one": ONE,
            "pads": np.array([0, 0, 0, 1]),
        },
    )  # fmt: skip
    assert macs(convert(proto).model, (2,)) == 2 + 2 * 1199


@pytest.mark.parametrize("scaled", ["", "m = Mul(q, scales)"])
def test_connections_to_a_pad_that_stays_are_none(scaled):
    """As of a smaller branch that joins a larger one."""
    proto = model(
        "g (float[N, 1, 6, 6] x) => (float[N, 1, 4, 4] y) { s = Clip(x, zero, one) "
        "p = MaxPool<kernel_shape = [3, 3], strides = [3, 3]>(s) q = Pad(p, pads) "
        f"{scaled} c = Concat<axis = 1>(s, {'m' if scaled else 'q'}) y = Conv(c, v) }}",
        {
            "v": normal(1, 2, 3, 3), "zero": ZERO, "one": ONE,
            "pads": np.array([0, 0, 0, 0, 0, 0, 4, 4]),
            **({"scales": normal(1, 6, 6)} if scaled else {}),
        },
    )  # fmt: skip
    corner = conv_connections(6, 4, 3, 1, 0)[:2].sum()
    assert macs(convert(proto).model, (1, 6, 6)) == 12 * 12 + corner * corner


def test_numbers_that_a_pad_makes_meet_nothing():
    """Of a layer that no neuron is before."""
    proto = model(
        "g (float[N, 1, 6, 6] x) => (float[N, 1, 4, 4] y) { s = Clip(x, zero, one) "
        "h = Conv<strides = [3, 3]>(s, w) q = Pad(h, pads) c = Concat<axis = 1>(s, q) "
        "y = Conv(c, v) }",
        {
            "w": normal(1, 1, 3, 3), "v": normal(1, 2, 3, 3), "zero": ZERO, "one": ONE,
            "pads": np.array([0, 0, 0, 0, 0, 0, 4, 4]),
        },
    )  # fmt: skip
    counts = RNG.integers(0, 9, (1, 6, 6))
    corner = conv_connections(6, 4, 3, 1, 0)[:2].sum()
    wanted = counts.sum() + 7 * (12 * 12 + corner * corner)
    assert synaptic_operations(convert(proto).model, {"s": counts}, (1, 6, 6), 7) == wanted


@pytest.mark.parametrize("kept", ["p = Div(a, sizes)", "p = ReduceMean<axes = [2, 3]>(a)"])
def test_quotients_and_means_hand_on_all_spikes(kept):
    counts, sizes = RNG.integers(0, 9, (2, 6, 6)), np.exp(normal(2, 6, 6))
    assert pooled_sops(f"{kept} y = Conv(p, v)", {"sizes": sizes}, counts) == 3 * counts.sum()


def test_constants_in_the_places_of_spikes_are_no_spikes():
    counts, mask = RNG.integers(0, 9, (2, 6, 6)), RNG.random((2, 6, 6)) < 0.5
    for first, second, kept in (("a", "seven", mask), ("seven", "a", ~mask)):
        body = f"p = Where(mask, {first}, {second}) y = Conv(p, v)"
        given = {"mask": mask, "seven": np.float32(7)}
        assert pooled_sops(body, given, counts) == 3 * (counts * kept).sum()


def test_what_is_written_into_spikes_counts_if_it_is_spikes_itself():
    counts = RNG.integers(0, 9, (2, 6, 6))
    given = {"at": np.array([[4]]), "seven": np.float32(7)}
    given |= {"four": np.array([4]), "five": np.array([5]), "of": np.array([0])}
    columns = "<perm = [3, 1, 2, 0]>"
    kept = np.arange(6) != 4
    for into, written, counted in (("t", "u", kept), ("u", "t", ~kept), ("t", "t", True)):
        body = (
            f"t = Transpose{columns}(a) c = Add(x, seven) u = Transpose{columns}(c) "
            f"w = Slice({written}, four, five, of) s = ScatterND({into}, at, w) "
            f"p = Transpose{columns}(s) y = Conv(p, v)"
        )
        assert pooled_sops(body, given, counts) == 3 * (counts * counted).sum()


def test_an_einsum_counts_as_the_layer_that_it_is():
    weights = {"w": sparse(4, 5), "v": sparse(5, 3), "zero": ZERO, "one": ONE}
    dense, einsum = (
        convert(model(
            "g (float[N, 4] x) => (float[N, 3] y) { s = Clip(x, zero, one) "
            f"h = {layer}(s, w) y = MatMul(h, v) }}", weights,
        )).model
        for layer in ("MatMul", 'Einsum<equation = "ni,io->no">')
    )  # fmt: skip
    counts = {"s": np.array([3, 1, 4, 2])}
    assert synaptic_operations(einsum, counts, (4,)) == synaptic_operations(dense, counts, (4,))
    assert macs(einsum, (4,)) == macs(dense, (4,))


def test_a_pool_of_samples_along_the_second_axis():
    counts = RNG.integers(0, 9, (2, 6, 6))
    body = (
        "t = Transpose<perm = [1, 0, 2, 3]>(a) "
        "q = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(t) "
        "p = Transpose<perm = [1, 0, 2, 3]>(q) y = Conv(p, v)"
    )
    assert pooled_sops(body, {}, counts) == 3 * counts.sum()


def test_broadcasting_and_padding():
    counts = RNG.integers(0, 9, (2, 6, 6))
    plane = normal(1, 2, 3, 3)
    for op in ("Add", "Mul"):
        body = f"g = GlobalAveragePool(a) p = {op}(g, plane) y = Conv(p, v)"
        assert pooled_sops(body, {"plane": plane}, counts) == 9 * 3 * counts.sum()
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    body = "p = Pad(a, pads, one) y = Conv(p, v)"
    assert pooled_sops(body, {"pads": pads}, counts) == 3 * counts.sum()
    body = "p = Concat<axis = 1>(x, a) y = Conv(p, u)"
    assert pooled_sops(body, {"u": normal(3, 4, 1, 1)}, counts) == 3 * counts.sum()


def test_half_precision_counts_exactly():
    weights = {
        "w": normal(64, 2, 3, 3).astype(np.float16),
        "zero": np.float16(0),
        "one": np.float16(1),
    }
    proto = model(
        "g (float16[N, 2, 16, 16] x) => (float16[N, 64, 14, 14] y) "
        "{ a = Clip(x, zero, one) y = Conv(a, w) }",
        weights,
    )
    snn = convert(proto).model
    assert macs(snn, (2, 16, 16)) == 64 * 2 * 9 * 14 * 14


def test_prologues_that_are_not_finite_at_zero():
    proto = model(
        "g (float[N, 2] x) => (float[N, 3] y) "
        "{ l = Log(x) a = Clip(l, zero, one) y = MatMul(a, w) }",
        {"w": normal(2, 3), "zero": ZERO, "one": ONE},
    )
    assert macs(convert(proto).model, (2,)) == 6


POOLS = {
    "a pool": "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a)",
    "of windows that overlap": "p = MaxPool<kernel_shape = [3, 3], strides = [2, 2], "
    "pads = [1, 1, 0, 0]>(a)",
    "of joined channels": "j = Concat<axis = 1>(a, b) "
    "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(j)",
    "of a pool": "q = MaxPool<kernel_shape = [2, 2]>(a) "
    "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(q)",
    "of all places": "p = GlobalMaxPool(a)",
    "beside what is not pooled": "q = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(a) "
    "p = Add(q, b)",
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("batch", ["N", 4])
def test_max_pools_let_the_most_spikes_of_a_window_through(pool, batch):
    """In each sample: on average that is more than the maximum of the mean sample."""
    given = "g (float[N, 2, 6, 6] a, float[N, 2, 6, 6] b) => (float[N, c, h, w] p)"
    counted = model(f"{given} {{ {POOLS[pool]} }}")
    x = RNG.normal(size=(12, 2, 6, 6)).astype(np.float32)
    weights = {"w": normal(run(counted, x[:1], x[:1]).size, 3), "zero": ZERO, "one": ONE}
    proto = model(
        f"g (float[{batch}, 2, 6, 6] x) => (float[{batch}, 3] y) {{ a = Clip(x, zero, one) "
        f"m = Neg(x) b = Clip(m, zero, one) {POOLS[pool]} f = Flatten(p) y = MatMul(f, w) }}",
        weights,
    )
    snn = convert(proto, maxpool="exact").model
    passed = 0
    for start in range(0, 12, 4):
        counts = SpikingSession(snn).run(x[start : start + 4], 8).spike_counts
        # Where nothing reads "b" it is not there.
        emitted = (counts.get(name, 0 * counts["a"]) for name in "ab")
        passed += run(counted, *(count.astype(np.float32) for count in emitted)).sum()
    report = evaluate(snn, from_arrays(x), [4, 8], batch_size=4)
    assert report["snn"][-1]["sops"] == pytest.approx(3 * passed / 12)
    assert report["macs"] == weights["w"].size


def test_layers_behind_an_average_over_time_get_no_spikes():
    weights = {"w": normal(2, 4), "v": normal(4, 3), "zero": ZERO, "one": ONE}
    proto = model(
        "g (float[N, 2] x) => (float[N, 3] y) { s = Clip(x, zero, one) h = MatMul(s, w) "
        "p = Softmax(h) y = MatMul(p, v) }",
        weights,
    )
    snn = convert(proto).model
    assert synaptic_operations(snn, {"s": np.array([10, 100])}, (2,)) == 4 * 110
    assert macs(snn, (2,)) == 2 * 4 + 4 * 3


@pytest.mark.parametrize("kind", [10, 11])
def test_casts_to_other_types_between_layers(kind):
    """float16 would lose count beyond 2048."""
    weights = {"w": normal(4, 3), "zero": ZERO, "one": ONE}
    proto = model(
        f"g (float[N, 4] x) => (float[N, 3] y) {{ s = Clip(x, zero, one) c = Cast<to = {kind}>(s) "
        "d = Cast<to = 1>(c) y = MatMul(d, w) }",
        weights,
    )
    snn = convert(proto).model
    assert synaptic_operations(snn, {"s": np.full(4, 4097)}, (4,)) == 4 * 3 * 4097
