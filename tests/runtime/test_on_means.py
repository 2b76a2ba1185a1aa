"""Networks with products of activations, from the ANN to what the runtime makes of them."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from alike import same
from click.testing import CliRunner
from onnx_text import model, run

from onnx2snn import (
    DataError,
    EarlyExit,
    SpikingSession,
    UnsupportedModelError,
    check,
    compare_recipes,
    convert,
    evaluate,
    from_arrays,
)
from onnx2snn.cli import main
from onnx2snn.converting.examination import IN_DIVISOR
from onnx2snn.graph_passes.model_files.weights import detach
from onnx2snn.measuring.synapses import macs_by_place
from onnx2snn.runtime.choices import choice, estimate

RNG = np.random.default_rng(0)


def dyadic(*shape):
    return (RNG.integers(-8, 9, shape) / 16).astype(np.float32)


WEIGHTS = {
    "w1": dyadic(8, 3, 3, 3), "w2": dyadic(8, 8, 3, 3), "down": dyadic(8, 4), "up": dyadic(4, 8),
    "w3": dyadic(8, 8, 3, 3), "wy": dyadic(8, 5), "zero": np.float32(0), "one": np.float32(1),
    "two": np.float32(2),
}  # fmt: skip
X = (RNG.integers(0, 17, (6, 3, 8, 8)) / 16).astype(np.float32)
GATED = """g (float[N, 3, 8, 8] x) => (float[N, 5] y) {
    a0 = Conv<pads = [1, 1, 1, 1]>(x, w1)  a = Clip(a0, zero, one)
    c = Conv<pads = [1, 1, 1, 1]>(a, w2)
    m = GlobalAveragePool(c)  f = Flatten(m)  r0 = MatMul(f, down)  r = Clip(r0, zero, one)
    s0 = MatMul(r, up)  s = Clip(s0, zero, one)
    shape = Constant<value_ints = [0, 8, 1, 1]>()  u = Reshape(s, shape)
    p = Mul(c, u)  q = Add(p, a)  b = Clip(q, zero, two)
    d0 = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(b, w3)  d = Clip(d0, zero, one)
    o = GlobalAveragePool(d)  e = Flatten(o)  y = MatMul(e, wy)
}"""
"""Squeeze-and-excitation in a residual block."""


def gated():
    return model(GATED, WEIGHTS)


@pytest.fixture(scope="module")
def snn():
    return convert(gated(), on_means=True).model


@pytest.mark.parametrize("recipe", ["opi", "best", "signed", "calibration", "rmp"])
def test_it_comes_near_the_ann(recipe):
    made = convert(gated(), calibration=from_arrays(X), recipe=recipe, timesteps=512, on_means=True)
    (note,) = (note for note in made.notes if "running means" in note)
    assert "1 Mul" in note
    found = SpikingSession(made.model).run(X, 512).values["y"]
    wanted = run(gated(), X)
    np.testing.assert_allclose(found, wanted, atol=0.05 * np.abs(wanted).max())


@pytest.fixture
def _in_chunks(monkeypatch):
    """As larger networks run."""
    monkeypatch.setattr(estimate, "FEW_NUMBERS", 0)


@pytest.mark.usefixtures("_in_chunks")
@pytest.mark.parametrize(("samples", "timesteps"), [(1, 1), (1, 7), (3, 16), (6, 33), (2, 70)])
def test_plans_are_alike(snn, samples, timesteps):
    """Bit for bit, since no layer of weights reads the product before a neuron has."""
    plain, chunked = (SpikingSession(snn, threads=1, plan=plan) for plan in ("step", "auto"))
    looks = sorted({1 + timesteps // 3, timesteps})
    assert chunked.chosen(X[:samples]).chunks
    same(chunked.run(X[:samples], timesteps, looks), plain.run(X[:samples], timesteps, looks))
    for name, value in plain.state.items():
        np.testing.assert_array_equal(chunked.state[name], value)
    plain.state = chunked.state
    np.testing.assert_array_equal(plain.step(X[:samples]), chunked.step(X[:samples]))


RECURRENT = """g (float[N, 5, 8] x) => (float[N, 5] y) {
    a0 = MatMul(x, up_in)  a = Clip(a0, zero, one)  t = Transpose<perm = [1, 0, 2]>(a)
    s, h = GRU<hidden_size = 6>(t, wg, rg)  i = Constant<value_ints = [1]>()  u = Squeeze(s, i)
    b0 = MatMul(u, wb)  b = Clip(b0, zero, one)  j = Constant<value_ints = [0]>()
    e = Squeeze(h, j)  c0 = MatMul(e, wb)  c = Clip(c0, zero, one)
    m = ReduceMean<axes = [0], keepdims = 0>(b)  k = Add(m, c)  y = MatMul(k, wy)
}"""


@pytest.mark.usefixtures("_in_chunks")
def test_a_recurrent_layer_goes_through_its_sequence_at_each_time_step():
    weights = {
        "up_in": dyadic(8, 4), "wg": dyadic(1, 18, 4), "rg": dyadic(1, 18, 6), "wb": dyadic(6, 8),
        "wy": dyadic(8, 5), "zero": np.float32(0), "one": np.float32(1),
    }  # fmt: skip
    ann = model(RECURRENT, weights)
    x = (RNG.integers(0, 17, (3, 5, 8)) / 16).astype(np.float32)
    with pytest.raises(UnsupportedModelError, match=r"GRU.*or compute it on means \(--on-means\)"):
        convert(ann)
    made = convert(ann, on_means=True)
    assert any("1 GRU" in note for note in made.notes)
    plain, chunked = (SpikingSession(made.model, plan=plan) for plan in ("step", "auto"))
    assert chunked.chosen(x).chunks
    same(chunked.run(x, 37, [5]), plain.run(x, 37, [5]))
    wanted = run(ann, x)
    np.testing.assert_allclose(plain.run(x, 1024).output, wanted, atol=0.01)
    counts = {name: np.count_nonzero(value) for name, value in weights.items()}
    rows = {"up_in": 5, "wg": 5, "rg": 5, "wb": 6, "wy": 1}
    each = {name: n * counts[name] for name, n in rows.items()}
    assert sum(macs_by_place(detach(made.model), {"x": (5, 8)})) == sum(each.values())
    # What is in wb reads what the GRU hands on.
    (row,) = evaluate(made.model, from_arrays(x), [8])["snn"]
    spikes = plain.run(x, 8).spike_counts
    fan_out = np.count_nonzero(weights["wy"], 1)
    late = (spikes["b"].sum((0, 1)) + spikes["c"].sum(0)) @ fan_out / 3
    assert row["sops"] == pytest.approx(8 * (each["wg"] + each["rg"] + each["wb"]) + late)


def test_few_numbers_run_in_single_time_steps(snn):
    """512 of a sample: chunks of 100 pay."""
    session = SpikingSession(snn, threads=1)
    assert session.chosen(X).chunks == ()
    assert session.chosen(np.repeat(X, 20, 0)).chunks


@pytest.mark.usefixtures("_in_chunks")
def test_inputs_that_vary_in_time(snn):
    x = np.stack([np.roll(X[:2], t, -1) for t in range(11)])
    plain, chunked = (SpikingSession(snn, threads=1, plan=plan) for plan in ("step", "auto"))
    same(chunked.run(x, 11, [4]), plain.run(x, 11, [4]))


@pytest.mark.usefixtures("_in_chunks")
def test_samples_may_leave_early(snn):
    session = SpikingSession(snn, threads=1)
    rule = EarlyExit(0.33, 2, 4)
    whole = session.run(X, 40, rule.looks_at(40))
    early = session.run(X, 40, early_exit=rule)
    assert len(set(early.sample_timesteps)) > 1
    for n, t in enumerate(early.sample_timesteps):
        np.testing.assert_array_equal(early.output[n], whole.readouts[t].output[n])


def test_int8_is_as_exact(snn):
    found = SpikingSession(snn, threads=1, precision="int8").run(X, 16)
    same(found, SpikingSession(snn, threads=1).run(X, 16))


def test_a_layer_behind_a_product_reads_numbers_at_each_time_step():
    """Every number is an event, of every synapse, whatever the neurons before it did."""
    text = """g (float[N, 4, 6] x) => (float[N, 2] y) {
        a = Clip(x, zero, one)  k0 = MatMul(a, w)  k = Clip(k0, zero, one)
        t = Transpose<perm = [0, 2, 1]>(k)  h = MatMul(k, t)  p = MatMul(h, k)
        z0 = MatMul(p, w)  z1 = MatMul(z0, w)  z = Clip(z1, zero, one)
        m = ReduceMean<axes = [1], keepdims = 0>(z)  y = MatMul(m, v)
    }"""
    weights = {"w": np.ones((6, 6), np.float32), "v": np.ones((6, 2), np.float32)}
    weights |= {"zero": np.float32(0), "one": np.float32(1)}
    snn = convert(model(text, weights), on_means=True).model
    x = RNG.random((3, 4, 6)).astype(np.float32)
    report = evaluate(snn, from_arrays(x, np.arange(3) % 2), [5, 8])
    for row in report["snn"]:
        t = row["timesteps"]
        spikes = SpikingSession(snn).run(x, t).spike_counts
        products = t * (4 * 4 * 6 + 4 * 4 * 6)
        behind = t * 2 * 4 * 6 * 6
        wanted = 6 * spikes["a"].sum() / 3 + products + behind + 2 * spikes["z"].sum() / 3
        assert row["sops"] == pytest.approx(wanted)
    # Those of the ANN: two products and four layers.
    assert report["macs"] == 2 * 4 * 4 * 6 + 3 * 4 * 6 * 6 + 6 * 2
    assert report["macs"] == sum(macs_by_place(detach(snn), {"x": (4, 6)}))


def test_masks_of_a_softmax_may_be_infinite():
    """As in causal attention."""
    text = """g (float[N, 4, 6] x) => (float[N, 4, 6] y) {
        a = Clip(x, zero, one)  k0 = MatMul(a, w)  k = Clip(k0, zero, one)
        t = Transpose<perm = [0, 2, 1]>(k)  h = MatMul(k, t)  m = Add(h, mask)  s = Softmax(m)
        p = MatMul(s, k)  z0 = MatMul(p, w)  z = Clip(z0, zero, one)  y = MatMul(z, w)
    }"""
    values = {"w": dyadic(6, 6), "zero": np.float32(0), "one": np.float32(1)}
    ann = model(text, values | {"mask": np.triu(np.full((4, 4), -np.inf, np.float32), 1)})
    x = RNG.random((3, 4, 6)).astype(np.float32)
    found = SpikingSession(convert(ann, on_means=True).model).run(x, 1024).output
    np.testing.assert_allclose(found, run(ann, x), atol=0.02)
    with pytest.raises(UnsupportedModelError, match="1e9 take the place"):
        convert(model(text, values | {"mask": np.full((4, 4), np.nan, np.float32)}), on_means=True)


def test_a_clip_that_makes_a_divisor_of_the_input_is_listed():
    """Before the first neuron it stays what it is, layers of weights before it or not."""
    text = """g (float[N, 6] x) => (float[N, 6] y) {
        a = MatMul(x, w)  r = Relu(a)  d = Add(r, one)  q = Div(x, d)
        l = MatMul(q, w)  z = Clip(l, zero, one)  y = MatMul(z, w)
    }"""
    ann = model(text, {"w": dyadic(6, 6), "zero": np.float32(0), "one": np.float32(1)})
    made = convert(ann)
    assert [neuron.name for neuron in made.neurons] == ["z"]
    assert ("r", IN_DIVISOR) in [(each.node, each.reason) for each in made.analog]
    (row,) = (row for row in check(ann).nodes if row.node == "r")
    assert IN_DIVISOR in row.reason
    x = RNG.random((3, 6)).astype(np.float32)
    np.testing.assert_allclose(
        SpikingSession(made.model).run(x, 512).output, run(ann, x), atol=0.01
    )


@pytest.mark.parametrize("divisor", ["d = Add(r, one)", "s = ReduceSum(r, axes) d = Add(s, one)"])
def test_activations_that_divide_what_no_neuron_reads_are_neurons(divisor):
    """They are the network's; the division is in the read-out."""
    text = f"""g (float[N, 6] x) => (float[N, 6] y) {{
        a = MatMul(x, w)  r = Clip(a, zero, one)  {divisor}  q = Div(a, d)  y = MatMul(q, w)
    }}"""
    values = {"w": dyadic(6, 6), "zero": np.float32(0), "one": np.float32(1)}
    ann = model(text, values | {"axes": np.array([-1])})
    made = convert(ann)
    assert [neuron.name for neuron in made.neurons] == ["r"]
    x = RNG.random((3, 6)).astype(np.float32)
    found = SpikingSession(made.model).run(x, 1024).output
    np.testing.assert_allclose(found, run(ann, x), atol=0.01)


def test_masks_may_be_inputs():
    """As a factor, a term, or by Where, with any numbers in place of what is masked."""
    text = """g (float[N, 4, 6] x, bool[N, 4, 4] m) => (float[N, 4, 6] y) {
        a = Clip(x, zero, one)  k0 = MatMul(a, w)  k = Clip(k0, zero, one)
        t = Transpose<perm = [0, 2, 1]>(k)  h = MatMul(k, t)  h2 = Where(m, h, low)
        s = Softmax(h2)  p = MatMul(s, k)  z0 = MatMul(p, w)  z = Clip(z0, zero, one)
        y = MatMul(z, w)
    }"""
    x = RNG.random((3, 4, 6)).astype(np.float32)
    m = RNG.random((3, 4, 4)) < 0.7
    m |= np.eye(4, dtype=bool)
    values = {"w": dyadic(6, 6), "zero": np.float32(0), "one": np.float32(1)}
    for low in (-1e9, -np.inf):
        ann = model(text, values | {"low": np.float32(low)})
        made = convert(ann, on_means=True)
        assert made.analog == []
        found = SpikingSession(made.model).run({"x": x, "m": m}, 1024).output
        np.testing.assert_allclose(found, run(ann, x, m), atol=0.02)


GUARDED = """g (float[N, 4, 6] x, bool[N, 4, 4] m) => (float[N, 4, 6] y OUTPUTS) {
        a = Clip(x, zero, one)  k0 = MatMul(a, w)  k = Clip(k0, zero, one)
        t = Transpose<perm = [0, 2, 1]>(k)  h = MatMul(k, t)  b = Where(m, zero, low)
        h2 = Add(h, b)  s = Softmax(h2)  u = IsNaN(s)  q = Where(u, zero, s)  p = MatMul(q, k)
        z0 = MatMul(p, w)  z = Clip(z0, zero, one)  y = MatMul(z, w)
    }"""
"""Attention as PyTorch's exporter writes it with a mask of conditions, before opset 23."""
BLIND = np.arange(48).reshape(3, 4, 4) % 5 > np.array([0, 9, 2, 0])[:, None]


@pytest.mark.parametrize("low", [-np.inf, np.finfo(np.float32).min, -1e30])
def test_queries_that_see_no_key(low):
    """Nothing of them is left behind -infinity, all keys alike behind the lowest number."""
    values = {"w": dyadic(6, 6), "zero": np.float32(0), "one": np.float32(1)}
    ann = model(GUARDED.replace("OUTPUTS", ""), values | {"low": np.float32(low)})
    x = RNG.random((3, 4, 6)).astype(np.float32)
    wanted = run(ann, x, BLIND)
    assert np.all(wanted[:, 1] == 0) or np.isfinite(low)
    spiking = convert(ann, on_means=True)
    session = SpikingSession(spiking.model)
    found = session.run({"x": x, "m": BLIND}, 1024).output
    np.testing.assert_allclose(found, wanted, atol=0.02)
    # Sums of -infinity are states like others.
    other = SpikingSession(spiking.model)
    other.state = session.state
    feed = {"x": x, "m": BLIND}
    np.testing.assert_allclose(other.step(feed), session.step(feed), atol=1e-5)


@pytest.mark.parametrize("more", ["bool[N, 4, 4] u", "float[N, 4, 4] v"])
def test_what_is_not_a_number_is_no_output(more):
    """Of means it is not before the first spikes, and then it is not for ever."""
    text = GUARDED.replace(" OUTPUTS", f", {more}")
    text = text.replace("u = IsNaN(s)", "u = IsNaN(s) v = Cast<to = 1>(u)")
    values = {"w": dyadic(6, 6), "zero": np.float32(0), "one": np.float32(1)}
    ann = model(text, values | {"low": np.float32(-np.inf)})
    with pytest.raises(UnsupportedModelError, match="IsNaN 'u'"):
        convert(ann, on_means=True)


def test_check_says_what_it_takes():
    found = check(gated())
    assert found.verdict.endswith("1 node stands in the way; with --on-means it would.")
    (row,) = (row for row in found.nodes if row.role == "obstacle")
    assert (row.node, row.option) == ("p", "")
    assert "--on-means" in row.reason
    found = check(gated(), on_means=True)
    assert found.converts
    assert found.options == ("--on-means",)
    (row,) = (row for row in found.nodes if row.role == "on means")
    assert (row.node, row.option) == ("p", "--on-means")
    curved = model(GATED.replace("s = Clip(s0, zero, one)", "s = Sigmoid(s0)"), WEIGHTS)
    both = "with --on-means --approximate N --calibration DATA it would."
    assert check(curved).verdict.endswith(both)
    assert check(curved, approximate=True).verdict.endswith("with --on-means it would.")
    found = check(curved, approximate=True, on_means=True)
    assert found.options == ("--approximate N --calibration DATA", "--on-means")
    assert not check(curved, on_means=True).converts


def test_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(gated(), "gated.onnx")
    np.savez("x.npz", x=X, y=np.arange(6) % 5)

    def invoke(*arguments, code=0):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == code, result.output
        return result

    assert "--on-means" in invoke("convert", "gated.onnx", "-o", "snn.onnx", code=1).output
    invoke("check", "gated.onnx", code=1)
    assert "on means" in invoke("check", "gated.onnx", "--on-means").output
    told = invoke("convert", "gated.onnx", "-o", "snn.onnx", "--on-means").output
    assert "computed on running means, at each time-step: 1 Mul" in told
    assert "on_means: yes" in invoke("inspect", "snn.onnx").output
    invoke("evaluate", "snn.onnx", "--data", "x.npz", "--ann", "gated.onnx", "-T", "8")
    invoke("diagnose", "snn.onnx", "--ann", "gated.onnx", "--data", "x.npz", "-T", "8")
    loop = invoke("export", "snn.onnx", "--to", "loop", "-T", "8", "-o", "loop.onnx", "--json")
    assert json.loads(loop.output)
    session = onnxruntime.InferenceSession("loop.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(
        session.run(["y"], {"x": X})[0], SpikingSession("snn.onnx").run(X, 8).output, atol=1e-6
    )
    names = ["--data", "x.npz", "-T", "4", "--recipes", "opi,rmp", "--calibration", "x.npz"]
    invoke("compare", "gated.onnx", *names, code=1)
    found = json.loads(invoke("compare", "gated.onnx", *names, "--on-means", "--json").stdout)
    assert len(found["recipes"]) == 2


def test_results_with_and_without_are_kept_apart(tmp_path):
    plain = model(GATED.replace("p = Mul(c, u)", "p = Add(c, u)"), WEIGHTS)
    data = from_arrays(X, np.arange(6) % 5)
    state = tmp_path / "state.json"
    for given, reused in ((False, 0), (True, 0), (True, 1), (False, 1)):
        found = compare_recipes(plain, ["opi"], None, data, [4], state=state, on_means=given)
        assert found.reused == reused


def test_it_is_true_or_false():
    with pytest.raises(DataError, match="on_means must be True or False, not 'yes'"):
        convert(gated(), on_means="yes")


@pytest.mark.parametrize("samples", [3, 1])
def test_sizes_of_kept_sums_are_found_at_once(monkeypatch, samples):
    """Not by one inference for each: 20 blocks of attention had taken 160, and 6 s.

    A size of 1 says nothing of what it is added to.
    """
    counted = []

    def counting(*given, sizes_of=choice.sizes_of):
        counted[-1] += 1
        return sizes_of(*given)

    monkeypatch.setattr(choice, "sizes_of", counting)
    for blocks in (3, 9):
        lines = []
        for i in range(blocks):
            read = f"p{i - 1}" if i else "x"
            lines += [f"a{i} = MatMul({read}, w)", f"r{i} = Clip(a{i}, zero, one)"]
            lines += [f"b{i} = MatMul({read}, u)", f"q{i} = Clip(b{i}, zero, one)"]
            lines += [f"p{i} = Mul(r{i}, q{i})"]
        lines += [f"y = MatMul(p{blocks - 1}, w)"]
        text = f"g (float[N, 8] x) => (float[N, 8] y) {{ {' '.join(lines)} }}"
        weights = {"w": dyadic(8, 8), "u": dyadic(8, 8)}
        weights |= {name: WEIGHTS[name] for name in ("zero", "one")}
        session = SpikingSession(convert(model(text, weights), on_means=True).model)
        counted.append(0)
        chosen = session.chosen(np.zeros((samples, 8), np.float32))
        assert sum(name.startswith("v/") for name in chosen.shapes) > 2 * blocks
        assert all(shape in ((samples, 8), (1,)) for shape in chosen.shapes.values())
    assert counted[0] == counted[1] < 10
