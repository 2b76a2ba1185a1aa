"""The loop file against the session, bit for bit."""

import functools
from dataclasses import replace

import dyadic
import dyadic_ops
import numpy as np
import onnx
import proof
import pytest
import stock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kinds import KINDS, Kind, Network, model_of
from onnx.reference import ReferenceEvaluator
from onnx_text import model

from onnx2snn import DataError, ModelError, Neuron, SpikingSession, convert, recipe_by_name
from onnx2snn.demo import demo_images, demo_network
from onnx2snn.runtime.loop import loop_model

FORMS = {
    "loop": {},
    "inlined": {"inline": True},
    "T as input": {"timesteps": None, "inline": True},
    "unrolled": {"unroll": True},
    "each step": {"each_step": True, "rates": True},
    "each step, T as input": {"timesteps": None, "each_step": True, "rates": True},
    "each step, unrolled": {"each_step": True, "rates": True, "unroll": True},
}
LENGTHS = (1, 7, 32)


def test_weights_that_no_single_file_holds(monkeypatch):
    from onnx2snn.runtime import loop

    monkeypatch.setattr(loop, "MAX_PROTO_BYTES", 1000)
    conversion = convert(demo_network())
    for snn in (conversion.model, conversion.parts):
        with pytest.raises(ModelError, match="bytes: a file that loops holds its weights"):
            loop_model(snn, 4)


def looped(snn, timesteps, form):
    """The loop file in one of its forms, after every check."""
    options = dict(FORMS[form])
    result = loop_model(snn, options.pop("timesteps", timesteps), **options)
    onnx.checker.check_model(result, full_check=True)
    onnx.shape_inference.infer_shapes(result, strict_mode=True)
    if options.get("inline"):
        assert not result.functions
        assert [entry.domain for entry in result.opset_import] == [""]
    return result


def test_onnx_reference_runs_a_loop():
    """Which takes a condition that is left out for False, and would run no time-step."""
    network = dyadic.finish(3)
    snn, x = convert(dyadic.to_onnx(network)).model, dyadic.images(network, 2)
    found = ReferenceEvaluator(looped(snn, 5, "inlined")).run(None, {"input": x})
    wanted = SpikingSession(snn, threads=1).run(x, 5)
    for value, made in zip(wanted.values.values(), found, strict=True):
        np.testing.assert_array_equal(made, value)


def check(snn, feed, timesteps, form, levels=tuple(stock.LEVELS)):
    """Every output of the file is the session's, and so are read-outs of each step and rates."""
    wanted = SpikingSession(snn, threads=1).run(feed, timesteps, range(1, timesteps + 1))
    file = looped(snn, timesteps, form)
    for level in levels:
        found = stock.run(file, {**feed, "timesteps": timesteps}, level)
        assert list(found)[: len(wanted.values)] == list(wanted.values)
        for name, value in wanted.values.items():
            np.testing.assert_array_equal(found.pop(name), value)
            if "each step" in form:
                each = [wanted.readouts[t].values[name] for t in range(1, timesteps + 1)]
                np.testing.assert_array_equal(found.pop(f"steps/{name}"), np.stack(each))
        if "each step" in form:
            check_rates(found, wanted)
        assert not found


def check_rates(found, wanted):
    for name, counts in wanted.spike_counts.items():
        each = counts.reshape(len(counts), -1).mean(1)
        rate = found.pop(f"firing_rate/{name}")
        assert rate.dtype == np.float32
        np.testing.assert_array_equal(rate, (each / wanted.timesteps).astype(np.float32))
        steps = found.pop(f"steps/firing_rate/{name}")
        assert len(steps) == wanted.timesteps
        np.testing.assert_array_equal(steps[-1], rate)


SETTINGS = functools.partial(
    settings, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@SETTINGS(max_examples=24)
@given(
    seed=st.integers(0, 10**6),
    timesteps=st.sampled_from(LENGTHS),
    samples=st.sampled_from([1, 5]),
    form=st.sampled_from(list(FORMS)),
)
def test_random_networks(seed, timesteps, samples, form):
    """Residual sums, groups, concatenation, thresholds per channel and per layer."""
    network = dyadic.finish(seed)
    snn = convert(dyadic.to_onnx(network)).model
    check(snn, {"input": dyadic.images(network, samples)}, timesteps, form)


@SETTINGS(max_examples=40)
@given(
    op=st.sampled_from(KINDS),
    dtype=st.sampled_from(["float32", "float32", "float64"]),
    read_out=st.sampled_from(["logits", "several"]),
    delay=st.sampled_from([0, 0, 3]),
    coding=st.sampled_from([None, (1.0, 4)]),
    per_channel=st.booleans(),
    seed=st.integers(0, 10**6),
    timesteps=st.sampled_from([1, 3, 7, 32]),
    samples=st.sampled_from([1, 5]),
    form=st.sampled_from(list(FORMS)),
)
def test_every_kind_of_neuron(
    op, dtype, read_out, delay, coding, per_channel, seed, timesteps, samples, form
):
    """With a max-pool that counts, several outputs, a Softmax, a delay, coded inputs."""
    network = Network(seed, dtype, per_channel)
    kind = Kind(op, negative=0.0, read_out_delay=delay)
    snn = model_of(network, kind, read_out=read_out, coding=coding)
    check(snn, {"x": network.images(samples)}, timesteps, form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("delay", [0, 3])
def test_half_precision(form, delay):
    network = Network(3, "float16")
    snn = model_of(network, Kind("SignedIF", negative=0.0, read_out_delay=delay))
    for timesteps in (1, 7):
        check(snn, {"x": network.images(5)}, timesteps, form)


@pytest.mark.parametrize("form", ["inlined", "unrolled", "each step, T as input"])
@pytest.mark.parametrize("samples", [1, 5])
def test_several_inputs_and_outputs(form, samples):
    b = dyadic_ops.Builder(7, samples=samples)
    other = b.input((2, 4, 4), "other")
    x = b.clip0(b.add(b.conv(b.first), b.conv(other)), 1.0)
    b.output(b.gemm(b.flatten(x)))
    b.output(b.clip0(b.conv(x, kernel=(1, 1)), 0.5))
    snn = proof.converted(b, maxpool="exact").model
    for timesteps in LENGTHS:
        check(snn, b.feed(), timesteps, form)


@pytest.mark.parametrize("timesteps", [None, 9001])
@pytest.mark.parametrize("delay", [0, 4096, 5000])
def test_long_runs_count_every_spike(timesteps, delay):
    network = Network(4, pool=False)
    snn = model_of(network, Kind("IF", read_out_delay=delay))
    session, x = SpikingSession(snn, threads=1), network.images(2)
    file = loop_model(snn, timesteps, rates=True)
    for t in [4096, 4097, 9001] if timesteps is None else [timesteps]:
        wanted = session.run(x, t)
        found = stock.run(file, {"x": x, "timesteps": t})
        np.testing.assert_array_equal(found["y"], wanted.output)
        for name, counts in wanted.spike_counts.items():
            rates = counts.reshape(2, -1).mean(1) / t
            np.testing.assert_array_equal(found[f"firing_rate/{name}"], rates.astype(np.float32))


@pytest.fixture(scope="module")
def demo_snn():
    return convert(demo_network()).model


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("start", [0, 500])
def test_the_demo_network(demo_snn, samples, start):
    """Its weights are real, but rounded for exact sums: no kernel adds them otherwise."""
    images = {"input": next(demo_images(600).batches(600))[0][start : start + samples]}
    for timesteps in LENGTHS:
        for form in ("loop", "inlined") if timesteps < 32 else ("inlined", "T as input"):
            check(demo_snn, images, timesteps, form)
    check(demo_snn, images, 7, "unrolled")


def test_rates_of_long_runs_and_of_bursts_are_whole_spikes():
    """Sums of V_th in float32 are off by less than half a spike up to 4096 of them."""
    weights = {"lo": np.float32(0), "hi": np.float32(0.11)}
    text = "g (float[N, 3] a) => (float[N, 3] b) { r = Clip(a, lo, hi) b = Neg(r) }"
    x = np.full((1, 3), 0.11, np.float32)
    signed = replace(recipe_by_name("opi"), name="signed", neuron=Neuron("SignedIF"))
    for recipe, timesteps in (("opi", 40_960), (signed, 40_960), ("opi", None)):
        snn = convert(model(text, weights), recipe=recipe).model
        file = loop_model(snn, timesteps, rates=True)
        assert stock.run(file, {"a": x, "timesteps": 40_960})["firing_rate/r"] == [1]
    recipe = replace(recipe_by_name("opi"), name="bursts", neuron=Neuron("BurstIF", max_spikes=5))
    bursts = convert(model(text, weights), recipe=recipe).model
    file = loop_model(bursts, 4096, rates=True)
    assert stock.run(file, {"a": 7 * x})["firing_rate/r"] == [5]
    with pytest.raises(DataError, match="up to 819, can be unrolled"):
        loop_model(bursts, 820, unroll=True)
    file = loop_model(bursts, 819, unroll=True, rates=True)
    assert stock.run(file, {"a": 7 * x})["firing_rate/r"] == [5]


def test_constant_input_is_computed_once(demo_snn):
    """What no neuron feeds lies before the Loop, the classifier after it."""
    graph = loop_model(demo_snn, 32).graph
    (loop,) = (node for node in graph.node if node.op_type == "Loop")
    body = loop.attribute[0].g
    before = [n.op_type for n in graph.node if n.name.startswith("loop/prologue/")]
    convs = sum(node.op_type == "Conv" for node in demo_snn.graph.node)
    assert before.count("Conv") == 1
    assert sum(node.op_type == "Conv" for node in body.node) == convs - 1
    assert not any(node.op_type == "Gemm" for node in body.node)


def test_names_of_the_users_tensors_are_no_obstacle():
    weights = {"lo": np.float32(0), "hi": np.float32(1)}
    text = "g (float[N, 2] a) => (float[N, 2] b) { r = Clip(a, lo, hi) b = Neg(r) }"
    for taken in ("loop/t", "timesteps", "steps/b", "loop/step/now/v/r"):
        for name in ("a", "b", "r"):
            proto = model(text, weights)
            for node in (*proto.graph.node, *proto.graph.input, *proto.graph.output):
                if hasattr(node, "op_type"):
                    node.input[:] = [taken if n == name else n for n in node.input]
                    node.output[:] = [taken if n == name else n for n in node.output]
                elif node.name == name:
                    node.name = taken
            snn = convert(proto).model
            x = np.array([[0.25, 2]], np.float32)
            wanted = SpikingSession(snn).run(x, 5).output
            clash = {("a", "timesteps"), ("b", "timesteps"), ("a", "steps/b")}
            if (name, taken) in clash:
                with pytest.raises(ModelError, match=f"input or output '{taken}'"):
                    loop_model(snn, None, each_step=True)
                continue
            file = loop_model(snn, None, each_step=True)
            onnx.checker.check_model(file, full_check=True)
            found = stock.run(file, {"a": x, taken: x} | {"timesteps": 5})
            np.testing.assert_array_equal(next(iter(found.values())), wanted)


@pytest.mark.parametrize(
    ("name", "options"),
    [("firing_rate/r", {"rates": True}), ("steps/b", {"each_step": True}),
     ("steps/firing_rate/r", {"each_step": True, "rates": True})],
)  # fmt: skip
def test_an_output_that_is_called_like_one_of_the_export_is_refused(name, options):
    weights = {"lo": np.float32(0), "hi": np.float32(1)}
    text = "g (float[N, 3] a) => (float[N, 3] b, float[N, 3] c) { r = Clip(a, lo, hi) b = Neg(r) "
    proto = model(text + "c = Neg(b) }", weights)
    proto.graph.node[2].output[0] = proto.graph.output[1].name = name
    snn = convert(proto).model
    loop_model(snn, 4)
    with pytest.raises(ModelError, match=f"input or output '{name}'"):
        loop_model(snn, 4, **options)


def test_an_output_that_is_called_like_a_rate_is_declared_as_it_is():
    weights = {"lo": np.float32(0), "hi": np.float32(1)}
    text = "g (float[N, 3] a) => (float[N, 3] b) { r = Clip(a, lo, hi) b = Neg(r) }"
    proto = model(text.replace("b)", "rate)").replace("b =", "rate ="), weights)
    proto.graph.node[1].output[0] = proto.graph.output[0].name = "firing_rate/r"
    file = loop_model(convert(proto).model, 4)
    assert [d.dim_value for d in file.graph.output[0].type.tensor_type.shape.dim] == [0, 3]


def test_rates_of_layers_whose_rows_are_no_samples():
    text = (
        "g (float[N, 2, 4] a) => (float[N, 3] b) { s = Transpose<perm = [1, 0, 2]>(a) "
        "m = MatMul(s, w) r = Clip(m, lo, hi) t = Transpose<perm = [1, 0, 2]>(r) f = Flatten(t) "
        "b = MatMul(f, u) }"
    )
    weights = {"w": np.full((4, 8), 0.25), "u": np.full((16, 3), 0.25), "lo": 0, "hi": 1}
    proto = model(text, {name: np.float32(value) for name, value in weights.items()})
    file = loop_model(convert(proto).model, 4, rates=True)
    found = stock.run(file, {"a": np.full((5, 2, 4), 0.5, np.float32)})
    assert [d.dim_value for d in file.graph.output[1].type.tensor_type.shape.dim] == [2]
    assert found["firing_rate/r"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("timesteps", "declared"), [(4, 4), (None, "T")])
def test_the_outputs_of_each_time_step_say_how_many_there_are(timesteps, declared):
    weights = {"lo": np.float32(0), "hi": np.float32(1)}
    text = "g (float[N, 3] a) => (float[N, 3] b) { r = Clip(a, lo, hi) b = Neg(r) }"
    file = loop_model(convert(model(text, weights)).model, timesteps, each_step=True)
    (info,) = (info for info in file.graph.output if info.name == "steps/b")
    sizes = [d.dim_param or d.dim_value for d in info.type.tensor_type.shape.dim]
    assert sizes == [declared, "N", 3]


def test_what_cannot_be_unrolled_or_is_no_time_is_refused(demo_snn):
    for timesteps in (0, -3, 2.5, True, 10**30):
        with pytest.raises(DataError, match="must be a whole number from 1 to 2147483647"):
            loop_model(demo_snn, timesteps)
    for timesteps in (None, 5000):
        with pytest.raises(DataError, match="up to 4096"):
            loop_model(demo_snn, timesteps, unroll=True)
    with pytest.raises(ModelError, match="it is an ANN"):
        loop_model(demo_network(), 8)
