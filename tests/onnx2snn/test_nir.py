"""NIR files: the same network back, bit for bit, and the same network in NIR's own terms."""

import dataclasses
import json
import sys
import types

import dyadic
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from kinds import Kind, Network, model_of
from onnx_text import model

from onnx2snn import (
    Onnx2SnnError,
    SpikingSession,
    UnsupportedModelError,
    convert,
    from_arrays,
    from_nir,
    to_nir,
    write_model,
)
from onnx2snn.cli import main
from onnx2snn.demo import demo_network

nir = pytest.importorskip("nir")
nir_steps = pytest.importorskip("nir_steps")

RNG = np.random.default_rng(3)
T = 7


def invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def eighths(*shape):
    return (RNG.integers(-6, 7, shape) / 8).astype(np.float32)


def powers(*shape):
    return RNG.choice([0.25, 0.5, 1.0, 2.0], shape).astype(np.float32)


def of_text(text, opset=17, **weights):
    return convert(model(text, weights, opset)).model


# Networks of which every sum is exact, in NIR too ----------------------------------------


def perceptron():
    """Gemm either way round, MatMul, per-feature V_th, a sum of neurons with themselves."""
    return of_text(
        "net (float[N, 5] x) => (float[N, 3] y) { "
        "a = Gemm(x, w1, b1) r1 = Relu(a) n1 = Min(r1, t1) "
        "b = Gemm<transB = 1>(n1, w2) r2 = Relu(b) n2 = Min(r2, t2) "
        "s = Add(n1, n2) u = Add(s, n1) r3 = Relu(u) n3 = Min(r3, t3) y = MatMul(n3, w3) }",
        w1=eighths(5, 4), b1=eighths(4), t1=powers(4), w2=eighths(4, 4), t2=powers(),
        t3=powers(1, 4), w3=eighths(4, 3),
    ), (5,)  # fmt: skip


def sequence():
    """Conv1d with groups, strides and dilations, without a bias."""
    return of_text(
        "net (float[N, 4, 12] x) => (float[N, 3] y) { "
        "a = Conv<group = 2, strides = [2], pads = [1, 1]>(x, w1, b1) r1 = Relu(a) "
        "n1 = Min(r1, t1) b = Conv<dilations = [2]>(n1, w2) r2 = Relu(b) n2 = Min(r2, t2) "
        "e = Add(n2, n2) f = Flatten(e) y = Gemm(f, w3, b3) }",
        w1=eighths(4, 2, 3), b1=eighths(4), t1=powers(4, 1), w2=eighths(3, 4, 2), t2=powers(3, 1),
        w3=eighths(12, 3), b3=eighths(3),
    ), (4, 12)  # fmt: skip


def pooled_sequence():
    """Averages of one axis, that of all places as PyTorch's exporter writes AdaptiveAvgPool1d."""
    return of_text(
        "net (float[N, 4, 12] x) => (float[N, 3] y) { "
        "a = Conv(x, w1) r1 = Relu(a) n1 = Min(r1, t1) "
        "p = AveragePool<kernel_shape = [4], strides = [2], pads = [1, 1], count_include_pad = 1>"
        "(n1) b = Conv(p, w2) r2 = Relu(b) n2 = Min(r2, t2) u = Unsqueeze(n2, axis) "
        "m = ReduceMean<axes = [-1, -2]>(u) s = Squeeze(m, axis) f = Flatten(s) y = Gemm(f, w3) }",
        w1=eighths(4, 4, 1), t1=powers(), w2=eighths(3, 4, 3), t2=powers(), w3=eighths(3, 3),
        axis=np.array([-2]),
    ), (4, 12)  # fmt: skip


def added_channel(op="Unsqueeze"):
    """An input without an axis of channels."""
    return of_text(
        f"net (float[N, 4, 6] x) => (float[N, 3, 1, 1] y) {{ i = {op}(x, axes) a = Conv(i, w) "
        "r = Relu(a) n = Min(r, t) y = GlobalAveragePool(n) }",
        w=eighths(3, 1, 3, 3), t=powers(),
        axes=np.array([1] if op == "Unsqueeze" else [-1, 1, 4, 6]),
    ), (4, 6)  # fmt: skip


def image(seed=0):
    """A prologue, depthwise, rectangular kernels, pools, identity shortcuts, three outputs."""
    return of_text(
        "net (float[N, 2, 8, 8] x) => (float[N, 3] y, float[N, 3, 4, 4] q, float[N, 2, 8, 8] p) { "
        "m = Sub(x, mean) d = Div(m, std) "
        "a = Conv<group = 2, pads = [1, 1, 1, 1]>(d, w1, b1) r1 = Relu(a) n1 = Min(r1, t1) "
        "b = Conv<pads = [0, 1, 0, 1]>(n1, w2) s = Add(n1, b) r2 = Relu(s) n2 = Min(r2, t2) "
        "p = Mul(n2, factor) g = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(n2) "
        "c = Conv(g, w3, b3) r3 = Relu(c) q = Min(r3, t3) h = GlobalAveragePool(q) "
        "f = Flatten(h) y = Gemm(f, w4, b4) }",
        mean=eighths(1, 2, 1, 1), std=powers(2, 1, 1), w1=eighths(2, 1, 3, 3), b1=eighths(2),
        t1=powers(2, 1, 1), w2=eighths(2, 2, 1, 3), t2=powers(2, 1, 1), factor=powers(),
        w3=eighths(3, 2, 1, 1), b3=eighths(3), t3=powers(3, 1, 1), w4=eighths(3, 3), b4=eighths(3),
    ), (2, 8, 8)  # fmt: skip


def hard_reset():
    return model_of(Network(5, pool=False), Kind("ResetToZeroIF")), (2, 2, 2)


def differences():
    """Factors for each pixel, a difference of neurons, 1 - x, a pool that counts its pads."""
    return of_text(
        "net (float[N, 2, 4, 4] x) => (float[N, 2, 2, 2] y, float[N, 2, 4, 4] z) { "
        "m = Mul(x, each) a = Conv(m, w1, b1) r1 = Relu(a) n1 = Min(r1, t1) "
        "b = Conv(m, w2) r2 = Relu(b) n2 = Min(r2, t2) d = Sub(n1, n2) e = Sub(one, d) "
        "r3 = Relu(e) n3 = Min(r3, t1) z = Mul(n3, each) "
        "g = AveragePool<kernel_shape = [4, 4], strides = [2, 2], pads = [1, 1, 1, 1], "
        "count_include_pad = 1>(n3) y = Conv(g, w2) }",
        each=powers(2, 4, 4), w1=eighths(2, 2, 1, 1), b1=eighths(2), t1=powers(2, 1, 1),
        w2=eighths(2, 2, 1, 1), t2=powers(2, 1, 1), one=eighths(1, 2, 1, 1),
    ), (2, 4, 4)  # fmt: skip


def turned_round():
    """Between neurons -x, as of a LeakyReLU, and a BatchNormalization that no layer takes in."""
    snn, shape = of_text(
        "net (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y) { a = Conv(x, w1, b1) r1 = Relu(a) "
        "n1 = Min(r1, t1) m = BatchNormalization<epsilon = 0.0>(n1, scale, b1, zero, ones) "
        "s = Add(m, n1) r2 = Relu(s) n2 = Min(r2, t1) g = Neg(n2) u = Add(g, n1) r3 = Relu(u) "
        "n3 = Min(r3, t1) y = Neg(n3) }",
        w1=eighths(2, 2, 1, 1), b1=eighths(2), t1=powers(2, 1, 1), scale=-powers(2),
        zero=np.zeros(2, np.float32), ones=np.ones(2, np.float32),
    ), (2, 4, 4)  # fmt: skip
    assert {"Neg", "BatchNormalization"} <= {node.op_type for node in snn.graph.node}
    return snn, shape


def one_channel(text):
    """One channel, whose threshold comes from data, that is flattened."""
    ann = model(
        "net (float[N, 1, 6, 6] x) => (float[N, M] y) { a = Conv(x, w) r = Relu(a) " + text + " }",
        {
            "w": eighths(1, 1, 3, 3),
            "u": eighths(16, 3),
            "v": eighths(1, 3),
            "k": powers(16),
            "last": [2, 3],
        },
    )
    data = from_arrays(inputs((1, 6, 6), 20))
    return convert(ann, calibration=data, recipe="opi").model, (1, 6, 6)


def alike():
    """Two layers with the same V_th in one sum; one whose V_th is another at each place, pooled."""
    return of_text(
        "net (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y, float[N, 2, 4, 4] d, "
        "float[N, 3, 2, 2] z) { "
        "a = Conv(x, w1) r1 = Relu(a) n1 = Min(r1, t1) b = Conv(x, w2) r2 = Relu(b) "
        "n2 = Min(r2, t1) y = Add(n1, n2) d = Sub(n2, n1) "
        "c = Conv(x, w3) r3 = Relu(c) n3 = Min(r3, t2) "
        "p = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(n3) z = Conv(p, w4) }",
        w1=eighths(2, 2, 1, 1), w2=eighths(2, 2, 1, 1), w3=eighths(2, 2, 1, 1),
        w4=eighths(3, 2, 1, 1), t1=powers(2, 1, 1), t2=powers(2, 4, 4),
    ), (2, 4, 4)  # fmt: skip


def random_v_init():
    network = dyadic.finish(4)
    return convert(dyadic.to_onnx(network), v_init="uniform", seed=2).model, network.input_shape


def dyadic_network(seed):
    network = dyadic.finish(seed)
    return convert(dyadic.to_onnx(network)).model, network.input_shape


EXACT = {
    "perceptron": perceptron, "sequence": sequence, "pooled sequence": pooled_sequence,
    "image": image, "hard reset": hard_reset,
    "differences": differences, "turned round": turned_round, "alike": alike,
    "one channel, Gemm": lambda: one_channel("f = Flatten(r) y = Gemm(f, u)"),
    "one channel, MatMul": lambda: one_channel(
        "g = GlobalAveragePool(r) f = Flatten(g) y = MatMul(f, v)"
    ),
    "one channel, Squeeze": lambda: one_channel(
        "g = GlobalAveragePool(r) f = Squeeze(g, last) y = MatMul(f, v)"
    ),
    "one channel, axis": lambda: one_channel("f = Flatten<axis = -3>(r) y = Gemm(f, u)"),
    "one channel, Mul": lambda: one_channel("f = Flatten(r) y = Mul(f, k)"),
    **{f"dyadic {s}": lambda s=s: dyadic_network(s) for s in (1, 2, 3, 4, 6, 9, 10, 14, 15)},
}  # fmt: skip


def rounded():
    """Weights, biases and thresholds that no product of float32 is exact for."""
    weights = {
        name: RNG.normal(size=shape).astype(np.float32)
        for name, shape in {"w": (3, 2, 3, 3), "b": (3,), "u": (3, 3, 1, 1), "v": (108, 4)}.items()
    }
    t = RNG.uniform(0.3, 3, (3, 1, 1)).astype(np.float32)
    return of_text(
        "net (float[N, 2, 8, 8] x) => (float[N, 4] y) { a = Conv(x, w, b) r = Relu(a) n = Min(r, t)"
        " c = Conv(n, u) s = Add(n, c) q = Relu(s) k = Min(q, t) f = Flatten(k) y = Gemm(f, v) }",
        **weights, t=t,
    ), (2, 8, 8)  # fmt: skip


def typed(dtype):
    network = Network(5, dtype, pool=False)
    if dtype == "float64":  # ONNX Runtime has no Conv of float64.
        text = "net (double[N, 3] x) => (double[N, 2] y) { a = MatMul(x, w) r = Relu(a) "
        text += "n = Min(r, t) y = MatMul(n, u) }"
        weights = {"w": RNG.normal(size=(3, 4)), "u": RNG.normal(size=(4, 2)), "t": np.array(0.7)}
        return convert(model(text, weights)).model, (3,)
    return model_of(network, Kind("IF")), (2, 2, 2)


EVERY = EXACT | {
    "rounded": rounded, "random v(0)": random_v_init, "added channel": added_channel,
    "demo": lambda: (convert(demo_network()).model, (1, 28, 28)),
    **{dtype: lambda dtype=dtype: typed(dtype) for dtype in ("float16", "float64")},
}  # fmt: skip


def inputs(shape, samples=4, dtype=np.float32):
    return (RNG.integers(-8, 9, (samples, *shape)) / 8).astype(dtype)


@pytest.mark.parametrize("name", EVERY)
def test_the_same_file_comes_back(name, tmp_path):
    snn, _ = EVERY[name]()
    write_model(snn, tmp_path / "snn.onnx")
    to_nir(tmp_path / "snn.onnx", tmp_path / "net.nir")
    write_model(from_nir(tmp_path / "net.nir"), tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == (tmp_path / "snn.onnx").read_bytes()


@pytest.mark.parametrize("name", EXACT)
def test_nir_means_the_same_network(name, tmp_path):
    snn, shape = EXACT[name]()
    to_nir(snn, tmp_path / "net.nir")
    x = inputs(shape)
    outputs, spikes = nir_steps.run(tmp_path / "net.nir", x, T)
    result = SpikingSession(snn).run(x, T)
    assert len(outputs) == len(result.values)
    for found, wanted in zip(sorted_by_label(tmp_path / "net.nir", outputs, snn),
                             result.values.values(), strict=True):  # fmt: skip
        np.testing.assert_array_equal(found.astype(np.float32), wanted)
    counted = {key: value.sum(axis=tuple(range(1, value.ndim))) for key, value in spikes.items()}
    assert sorted(map(tuple, counted.values())) == sorted(
        tuple(np.reshape(counts, (len(x), -1)).sum(1)) for counts in result.spike_counts.values()
    )


def sorted_by_label(path, outputs, snn):
    """The outputs in the order of the SNN."""
    labels = {
        json.loads(node.metadata["onnx2snn"])["name"]: key
        for key, node in nir.read(path, type_check=False).nodes.items()
        if isinstance(node, nir.Output)
    }
    return [outputs[labels[o.name]] for o in snn.graph.output if o.name in labels]


@pytest.mark.parametrize("op", ["Unsqueeze", "Reshape"])
def test_an_input_has_the_shape_with_the_axes_that_are_added_to_it(op, tmp_path):
    snn, shape = added_channel(op)
    notes = to_nir(snn, tmp_path / "net.nir")
    assert any("'x' as [1, 4, 6], not [4, 6]" in note for note in notes)
    x = inputs(shape)
    ((found,), (spikes,)) = map(dict.values, nir_steps.run(tmp_path / "net.nir", x[:, None], T))
    result = SpikingSession(snn).run(x, T)
    np.testing.assert_allclose(found, result.output, rtol=1e-6)
    (counts,) = result.spike_counts.values()
    assert spikes.sum() == counts.sum() > 0


def test_averages_of_many_channels_have_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("onnx2snn.exports.nir_nodes.WIDEST_DIAGONAL", 4)
    snn, shape = pooled_sequence()
    notes = "\n".join(to_nir(snn, tmp_path / "net.nir"))
    assert "SpikingJelly reads no groups" in notes
    x = inputs(shape)
    ((found,), _) = map(dict.values, nir_steps.run(tmp_path / "net.nir", x, T))
    wanted = SpikingSession(snn).run(x, T).output
    np.testing.assert_array_equal(found.astype(np.float32), wanted)


# What is refused ------------------------------------------------------------------------


@pytest.fixture
def snn(tmp_path):
    path = tmp_path / "snn.onnx"
    write_model(convert(dyadic.to_onnx(dyadic.finish(2))).model, path)
    return path


def test_all_that_nir_lacks_is_named_at_once(tmp_path):
    snn = of_text(
        "net (float[N, 2, 8, 8] x) => (float[N, 4, 7, 7] y, float[N, 2, 8, 1] z) { "
        "a = Conv<pads = [1, 1, 2, 2]>(x, w) r = Relu(a) n = Min(r, t) "
        "p = AveragePool<kernel_shape = [5, 5], pads = [1, 1, 1, 1]>(n) b = Conv(p, u) "
        "q = Relu(b) k = Min(q, t) y = Concat<axis = 1>(k, p) z = ReduceMean<axes = [3]>(x) }",
        w=eighths(2, 2, 3, 3), u=eighths(2, 2, 1, 1), t=powers(),
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError) as found:
        to_nir(snn, tmp_path / "net.nir")
    assert {refusal.op for refusal in found.value.refusals} == {
        "Conv", "AveragePool", "Concat", "ReduceMean",
    }  # fmt: skip
    assert "[1, 1, 2, 2]" in str(found.value)
    assert not (tmp_path / "net.nir").exists()


@pytest.mark.parametrize("op", ["SignedIF", "BurstIF", "SignedBurstIF", "ResidualIF", "OffsetIF"])
def test_other_neurons_are_refused_by_name(op, tmp_path):
    with pytest.raises(UnsupportedModelError, match=f"{op} 's'.*no such neuron"):
        to_nir(model_of(Network(5, pool=False), Kind(op)), tmp_path / "net.nir")


def test_pools_that_count_are_refused_with_what_to_do(tmp_path):
    ann = model(
        "net (float[N, 2, 8, 8] x) => (float[N, 2, 4, 4] y) { r = Relu(x) n = Min(r, t) "
        "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(n) y = Mul(p, t) }",
        {"t": powers()},
    )
    counting, average = (convert(ann, maxpool=each).model for each in ("exact", "average"))
    with pytest.raises(UnsupportedModelError, match=r"SpikingMaxPool.*--maxpool average"):
        to_nir(counting, tmp_path / "net.nir")
    to_nir(average, tmp_path / "net.nir")


def test_sizes_that_are_not_fixed_are_refused(tmp_path):
    snn = of_text(
        "net (float[N, 2, H, 8] x) => (float[N, 2, H, 8] y) { r = Relu(x) n = Min(r, t) "
        "y = Mul(n, t) }",
        t=powers(),
    )
    with pytest.raises(UnsupportedModelError, match="input 'x': its sizes are not fixed"):
        to_nir(snn, tmp_path / "net.nir")


@pytest.mark.parametrize(
    ("text", "tensor"),
    [
        (
            "net (float[N, 3] x) => (float[N] y) { r = Clip(x, zero, one) z = MatMul(r, w) "
            "y = Squeeze(z, axis) }",
            "y",
        ),
        ("net (float[N] x) => (float[N] y) { y = Clip(x, zero, one) }", "x"),
    ],
)
def test_samples_of_one_number(tmp_path, text, tensor):
    snn = of_text(text, zero=np.float32(0), one=np.float32(1), w=powers(3, 1), axis=np.array([1]))
    with pytest.raises(UnsupportedModelError, match=f"a sample of '{tensor}' is one number"):
        to_nir(snn, tmp_path / "net.nir")


@pytest.mark.parametrize(("text", "why"), [
    # The input is read again.
    ("net (float[N, 4, 6] x) => (float[N, 1, 4, 6] y, float[N, 4, 6] z) { "
     "i = Unsqueeze(x, axis) y = Clip(i, zero, one) z = Clip(x, zero, one) }",
     r"take 'x' as \[N, 1, 4, 6\]"),
    # Behind a layer.
    ("net (float[N, 4, 6] x) => (float[N, 1, 4, 6] y) { c = Clip(x, zero, one) "
     "y = Unsqueeze(c, axis) }", "or an input before anything else"),
])  # fmt: skip
def test_axes_that_are_not_of_an_input_alone_are_refused(tmp_path, text, why):
    snn = of_text(text, axis=np.array([1]), zero=np.float32(0), one=np.float32(1))
    with pytest.raises(UnsupportedModelError, match=why):
        to_nir(snn, tmp_path / "net.nir")


@pytest.mark.parametrize("last", ["Mul(p, t)", "Add(c, p)", "Add(p, c)"])
def test_what_is_repeated_along_an_axis_is_refused(last, tmp_path):
    snn = of_text(
        "net (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y) { c = Clip(x, zero, one) "
        f"p = GlobalAveragePool(c) y = {last} }}",
        zero=np.float32(0), one=np.float32(1), t=powers(2, 4, 4),
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="cannot repeat a tensor along an axis"):
        to_nir(snn, tmp_path / "net.nir")


def test_bad_places_and_inputs(snn, tmp_path):
    write_model(dyadic.to_onnx(dyadic.finish(2)), tmp_path / "ann.onnx")
    target = tmp_path / "net.nir"
    found = invoke("export", tmp_path / "ann.onnx", "--to", "nir", "-o", target)
    assert (found.exit_code, target.exists()) == (1, False)
    assert "convert it first" in found.output
    found = invoke("export", snn, "--to", "nir", "-o", tmp_path / "no" / "net.nir")
    assert found.exit_code == 1
    assert "does not exist" in found.output
    found = invoke("export", snn, "--to", "nir", "-o", snn, "--force")
    assert found.exit_code == 1
    assert "is an input too" in found.output
    for option in (["-T", 4], ["--unroll"], ["--gpu"]):
        found = invoke("export", snn, "--to", "nir", "-o", target, *option)
        assert found.exit_code == 2
        assert option[0] in found.output


def test_nothing_is_overwritten_without_force(snn, tmp_path):
    target = tmp_path / "net.nir"
    target.write_bytes(b"mine")
    arguments = ["export", snn, "--to", "nir", "-o", target]
    found = invoke(*arguments)
    assert (found.exit_code, target.read_bytes()) == (1, b"mine")
    assert "--force" in found.output
    found = invoke(*arguments, "--force")
    assert found.exit_code == 0, found.output
    assert "sinabs" in found.output
    found = invoke("import", target, "-o", snn)
    assert found.exit_code == 1
    assert "--force" in found.output
    before = snn.read_bytes()
    found = invoke("import", target, "-o", snn, "--force", "--json")
    assert json.loads(found.stdout) == {"output": str(snn)}
    assert snn.read_bytes() == before


def test_inspect_reads_the_file(snn, tmp_path):
    target = tmp_path / "net.nir"
    found = invoke("export", snn, "--to", "nir", "-o", target, "--preprocessing", "pixels / 255")
    assert found.exit_code == 0, found.output
    told = json.loads(invoke("inspect", target, "--json").stdout)
    assert told["export"]["format"] == "nir"
    assert told["inputs"] == [{"name": "input", "shape": ["N", 2, 8, 8]}]
    assert [output["shape"] for output in told["outputs"]] == [["N", 5]]
    assert told["recipe"]["name"] == "opi"
    assert told["metadata"]["preprocessing"] == "pixels / 255"
    assert "snn_sha256: " in invoke("inspect", target).output


def old_nir():
    """As in 1.0.4, which sinabs brings: without metadata."""
    node = dataclasses.make_dataclass("Input", ["input_type"])
    return types.SimpleNamespace(Input=node, __version__="1.0.4")


@pytest.mark.parametrize("package", [None, old_nir()], ids=["none", "old"])
def test_without_the_package(snn, tmp_path, monkeypatch, package):
    to_nir(snn, tmp_path / "net.nir")
    monkeypatch.setitem(sys.modules, "nir", package)
    for call in (
        lambda: to_nir(snn, tmp_path / "other.nir"),
        lambda: from_nir(tmp_path / "net.nir"),
    ):
        with pytest.raises(Onnx2SnnError, match=r"onnx2snn\[nir\]"):
            call()


# Files of others, and damaged ones -------------------------------------------------------


def refused(path):
    found = invoke("import", path, "-o", path.with_name("out.onnx"))
    assert found.exit_code == 1, found.output
    assert isinstance(found.exception, SystemExit)
    assert not path.with_name("out.onnx").exists()
    return found.output


def test_other_files_are_no_networks(snn, tmp_path):
    assert "is not a NIR file" in refused(snn)
    assert "cannot read" in refused(tmp_path / "nothing.nir")
    to_nir(snn, tmp_path / "net.nir")
    whole = (tmp_path / "net.nir").read_bytes()
    (tmp_path / "half.nir").write_bytes(whole[: len(whole) // 2])
    assert "damaged" in refused(tmp_path / "half.nir")
    own = nir.NIRGraph(
        {"a": nir.Input(np.array([2])), "b": nir.IF(np.ones(2), np.ones(2)),
         "c": nir.Output(np.array([2]))}, [("a", "b"), ("b", "c")],
    )  # fmt: skip
    nir.write(tmp_path / "own.nir", own)
    assert "was not written by onnx2snn" in refused(tmp_path / "own.nir")


def _first(graph, kind):
    return next(node for node in graph.nodes.values() if isinstance(node, kind))


def _resize(*sizes):
    """Give a weight these sizes in the structure."""

    def change(graph):
        structure = onnx.ModelProto()
        structure.ParseFromString(graph.metadata["onnx2snn.structure"].tobytes())
        structure.graph.initializer[0].dims[:] = sizes
        content = np.frombuffer(structure.SerializeToString(), np.uint8)
        graph.metadata["onnx2snn.structure"] = content

    return change


def _scale_weight_of_snn(graph):
    node = next(node for node in graph.nodes.values() if "weight" in node.metadata)
    node.metadata["weight"] = node.metadata["weight"] * 2


CHANGES = {
    "v_reset": lambda g: _first(g, nir.IF).v_reset.fill(0.5),
    "edge": lambda g: g.edges.pop(),
    "weight of one place": _scale_weight_of_snn,
    "stride": lambda g: setattr(_first(g, nir.Conv2d), "stride", np.array([2, 2])),
    "node": lambda g: g.nodes.pop(next(k for k, n in g.nodes.items() if isinstance(n, nir.IF))),
    "v_init": lambda g: _first(g, nir.IF).metadata.pop("v_init"),
    "label": lambda g: _first(g, nir.IF).metadata.update(onnx2snn="{"),
    "negative": lambda g: _first(g, nir.IF).v_threshold.fill(-1),
    "nan": lambda g: _first(g, nir.Affine).weight.fill(np.nan),
    "shape": lambda g: setattr(_first(g, nir.IF), "v_threshold", np.ones(1, np.float32)),
    "numbers for text": lambda g: _first(g, nir.IF).metadata.update(reset=np.ones(2)),
    "text": lambda g: _first(g, nir.IF).metadata.update(v_init="half"),
    "sizes": _resize(2**32, 2**32),
    "negative sizes": _resize(-1, -3),
    "structure": lambda g: g.metadata.update({"onnx2snn.structure": np.arange(9, dtype=np.uint8)}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_disagrees_with_itself_is_refused(change, snn, tmp_path):
    to_nir(snn, tmp_path / "net.nir")
    graph = nir.read(tmp_path / "net.nir", type_check=False)
    CHANGES[change](graph)
    nir.write(tmp_path / "net.nir", graph)
    assert "Traceback" not in refused(tmp_path / "net.nir")


def test_a_weight_that_changed_everywhere_is_what_the_file_says(tmp_path):
    network = dyadic.finish(2)
    to_nir(convert(dyadic.to_onnx(network)).model, tmp_path / "net.nir")
    graph = nir.read(tmp_path / "net.nir", type_check=False)
    _first(graph, nir.Conv2d).bias += 1
    nir.write(tmp_path / "net.nir", graph)
    x = inputs(network.input_shape)
    outputs, _ = nir_steps.run(tmp_path / "net.nir", x, T)
    found = SpikingSession(from_nir(tmp_path / "net.nir")).run(x, T).output
    np.testing.assert_array_equal(found, next(iter(outputs.values())).astype(np.float32))


def test_a_file_reads_no_other_file(snn, tmp_path):
    import h5py

    for name, link in (
        ("external", lambda f: f.__setitem__("node/x", h5py.ExternalLink("other.h5", "/"))),
        ("data", lambda f: f.create_dataset("node/x", (4,), "u1", external="/etc/hostname")),
    ):
        to_nir(snn, tmp_path / f"{name}.nir")
        with h5py.File(tmp_path / f"{name}.nir", "a") as file:
            link(file)
        assert "refused" in refused(tmp_path / f"{name}.nir")


# Other readers ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["perceptron", "pooled sequence", "added channel", "demo"])
def test_nirs_own_type_check_passes(name, tmp_path):
    to_nir(EVERY[name]()[0], tmp_path / "net.nir")
    assert nir.read(tmp_path / "net.nir").nodes


def chain():
    """What both simulators read: one V_th a layer, no groups, pools, or edges that meet."""
    return of_text(
        "net (float[N, 2, 8, 8] x) => (float[N, 3] y) { m = Sub(x, mean) "
        "a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(m, w1, b1) r1 = Relu(a) n1 = Min(r1, t1) "
        "b = Conv(n1, w2) r2 = Relu(b) n2 = Min(r2, t2) f = Flatten(n2) y = Gemm(f, w3, b3) }",
        mean=eighths(2, 1, 1), w1=eighths(4, 2, 3, 3), b1=eighths(4), t1=np.float32(2.0),
        w2=eighths(3, 4, 2, 2), t2=np.float32(0.5), w3=eighths(27, 3), b3=eighths(3),
    ), (2, 8, 8)  # fmt: skip


# sinabs 3.1 reads no Conv1d.
@pytest.mark.parametrize(
    ("simulator", "network"),
    [("spikingjelly", chain), ("spikingjelly", pooled_sequence), ("sinabs", chain)],
)
def test_other_simulators_differ_by_what_they_ignore_and_nothing_else(simulator, network, tmp_path):
    pytest.importorskip(simulator)
    nir_readers = pytest.importorskip("nir_readers")
    read, settings = getattr(nir_readers, simulator), getattr(nir_readers, simulator.upper())
    snn, shape = network()
    to_nir(snn, tmp_path / "net.nir")
    x = inputs(shape, 6)
    own = SpikingSession(snn).run(x, T)
    ours = sum(counts.sum() for counts in own.spike_counts.values())
    spikes, _ = read(tmp_path / "net.nir", x, T, 0)
    assert spikes != ours
    spikes, output = read(tmp_path / "net.nir", x, T, len(settings) - 1)
    assert spikes == ours > 0
    np.testing.assert_array_equal(output, own.output)


def test_a_simulator_reads_the_demo_network(tmp_path):
    pytest.importorskip("spikingjelly")
    nir_readers = pytest.importorskip("nir_readers")
    to_nir(convert(demo_network()).model, tmp_path / "net.nir")
    spikes, output = nir_readers.spikingjelly(tmp_path / "net.nir", inputs((1, 28, 28), 1), 2, 0)
    assert spikes > 0
    assert output.shape == (1, 10)


def test_notes_say_what_readers_ignore(tmp_path):
    assert len(to_nir(chain()[0], tmp_path / "a.nir")) == 2
    notes = "\n".join(to_nir(image()[0], tmp_path / "b.nir"))
    for word in ("v(0)", "grouped", "AvgPool2d", "meet", "one V_th"):
        assert word in notes
    assert "cannot read Conv1d" in to_nir(pooled_sequence()[0], tmp_path / "c.nir")[-1]
