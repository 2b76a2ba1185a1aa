"""``diagnose``: each layer's errors, by hand, on exact networks, and on the command line."""

import json
from dataclasses import replace

import dyadic
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from one_neuron import POOLED
from onnx_text import model

from onnx2snn import (
    DataError,
    LayerDiagnosis,
    ModelError,
    SpikingSession,
    Statistic,
    convert,
    diagnose,
    evaluate,
    from_arrays,
    read_model,
    write_model,
)
from onnx2snn.cli import main
from onnx2snn.cli.plot import diagnosis_plot
from onnx2snn.digests import is_source
from onnx2snn.graph_passes import infer_shapes, neuron_nodes, threshold_of, to_graph
from onnx2snn.graph_passes.graph.neurons import initial_potential_of
from onnx2snn.measuring.diagnosis import _Layer, split
from onnx2snn.measuring.watched_run import LayerSums, WatchedRun
from onnx2snn.recipe import Neuron
from onnx2snn.recipes import recipe_by_name

RNG = np.random.default_rng(0)

TWO_LAYERS = (
    "net (float[N, 2] x) => (float[N, 1] y) "
    "{ a = MatMul(x, w) p = Relu(a) b = MatMul(p, u) q = Relu(b) y = MatMul(q, v) }"
)
TWO_LAYERS_WEIGHTS = {
    "w": np.eye(2, dtype=np.float32),
    "u": np.float32([[4], [-1]]),
    "v": np.float32([[1]]),
}
# The largest activation of either layer is 1, and so is its V_th.
CALIBRATION = from_arrays(np.float32([[0.25, 0], [0, 1]]))
X = np.float32([[1.5, 0.125], [0.75, 0.5], [0.15625, 0]])

CLIPPED = (
    "net (float[N, 2] x) => (float[N, 2] y) "
    "{ a = MatMul(x, w) p = Clip(a, zero, one) y = MatMul(p, w) }"
)
CLIPPED_WEIGHTS = {"w": np.eye(2, dtype=np.float32), "zero": np.float32(0), "one": np.float32(1)}

POOLED_WEIGHTS = {
    "w": RNG.normal(size=(4, 2, 3, 3)).astype(np.float32),
    "u": RNG.normal(size=(4, 4, 3, 3)).astype(np.float32) / 3,
    "v": RNG.normal(size=(4, 3)).astype(np.float32),
}
IMAGES = from_arrays(RNG.normal(size=(32, 2, 8, 8)).astype(np.float32))


def rms_percent(values, unit):
    return 100 * np.sqrt(np.mean(np.square(values)) / np.mean(np.square(unit)))


def two_layers():
    ann = model(TWO_LAYERS, TWO_LAYERS_WEIGHTS)
    return ann, convert(
        ann, calibration=CALIBRATION, recipe="threshold-balancing", v_init=0.5
    ).model


def by_name(layers):
    return {layer.name: layer for layer in layers}


def test_errors_by_hand():
    ann, snn = two_layers()
    layers = diagnose(snn, ann, from_arrays(X), 4)
    # Neurons of the first layer get a constant current. 1.5 is above V_th; 0.125 ends just at
    # V_th, where a neuron does not fire; 0.75 fires at t = 1, 3 and 4, 0.5 at 2 and 4, 0.15625
    # at 4, which counts as 0.25.
    p = by_name(layers)["p"]
    a = [1.5, 0.125, 0.75, 0.5, 0.15625, 0]
    assert p.clipping == pytest.approx(rms_percent([-0.5, 0, 0, 0, 0, 0], a))
    assert p.quantisation == pytest.approx(rms_percent([0, -0.125, 0, 0, 0.09375, 0], a))
    assert p.unevenness == 0
    assert p.own_error == p.total_error
    assert p.own_error == pytest.approx(rms_percent([-0.5, -0.125, 0, 0, 0.09375, 0], a))
    assert (p.place, p.neurons) == (1, 2)
    assert p.firing_rate == pytest.approx(10 / 24)
    assert p.silent == pytest.approx(100 * 2 / 6)
    assert p.saturated == pytest.approx(100 / 6)
    assert p.correlation == pytest.approx(np.corrcoef([1, 0, 0.75, 0.5, 0.25, 0], a)[0, 1])
    # The second gets 4, 4, 4, 4; 4, -1, 4, 3; and 0, 0, 0, 4, of which it can emit but one
    # spike, where 1, 1, 1, 1 would give four.
    q = by_name(layers)["q"]
    a, emitted, wanted = [4, 2.5, 1], [1, 1, 0.25], [5.875, 2.5, 0.625]
    assert q.clipping == pytest.approx(rms_percent([-3, -1.5, 0], a))
    assert q.quantisation == 0
    assert q.unevenness == pytest.approx(rms_percent([0, 0, -0.75], a))
    assert q.own_error == pytest.approx(rms_percent([-3, -1.5, -0.75], a))
    assert q.total_error == pytest.approx(rms_percent(np.subtract(emitted, wanted), wanted))
    assert (q.place, q.neurons) == (2, 1)
    assert q.firing_rate == pytest.approx(9 / 12)
    assert (q.silent, q.saturated) == (0, pytest.approx(200 / 3))
    assert q.correlation == pytest.approx(np.corrcoef(emitted, wanted)[0, 1])
    assert [layer.name for layer in layers] == ["q", "p"]


@pytest.mark.parametrize("seed", range(8))
def test_sums_are_those_of_the_equations_and_the_split_is_exact(seed):
    network = dyadic.finish(seed)
    ann = dyadic.to_onnx(network)
    snn = convert(ann, v_init=0.5).model
    x, timesteps = dyadic.images(network, 3), 8
    graph = to_graph(snn)
    infer_shapes(graph)
    nodes = neuron_nodes(graph)
    clips = {layer.output: layer for layer in network.clips}
    _, spikes = dyadic.simulate(network, x, timesteps)
    potentials = SpikingSession(snn).run(x, timesteps).readouts[timesteps].potential_sums
    found = WatchedRun(graph, timesteps, None).run(x)
    for node, sums in zip(nodes, found, strict=True):
        clip = clips[node.outputs[0].name]
        current, _ = dyadic.simulate(network, x, timesteps, stop=clip.inputs[0])
        np.testing.assert_array_equal(sums.current, current)
        np.testing.assert_array_equal(sums.potential, potentials[node.name])
        np.testing.assert_array_equal(sums.magnitude, sums.potential)
        np.testing.assert_array_equal(sums.magnitude > 0, spikes[clip.output] > 0)
        threshold = threshold_of(node).astype(np.float64)
        start = initial_potential_of(node).astype(np.float64)
        parts = split(sums, threshold, start, np.float64(np.inf), timesteps)
        np.testing.assert_array_equal(parts.activation, np.maximum(current / timesteps, 0))
        np.testing.assert_array_equal(
            parts.clipping + parts.quantisation + parts.unevenness,
            sums.potential / timesteps - parts.activation,
        )
    # A neuron under a constant current, as in the first layer, fires as evenly as can be.
    (first,) = [layer for layer in diagnose(snn, ann, from_arrays(x), 8) if layer.place == 1]
    assert first.unevenness == 0


def test_a_perfect_layer_has_no_error():
    ann = model(CLIPPED, CLIPPED_WEIGHTS)
    # What the ANN clips too is no error.
    data = from_arrays(np.float32([[0.25, 0.5], [-2, 0.75], [1.5, 0]]))
    (layer,) = diagnose(convert(ann).model, ann, data, 4)
    assert (layer.clipping, layer.quantisation, layer.unevenness) == (0, 0, 0)
    assert (layer.own_error, layer.total_error) == (0, 0)
    assert layer.correlation == pytest.approx(1)


def test_a_threshold_below_the_bound_of_the_clip_clips():
    ann = model(CLIPPED, CLIPPED_WEIGHTS)
    data = from_arrays(np.float32([[0.25, 0.5]]))
    snn = convert(ann, calibration=data, recipe="threshold-balancing", v_init=0.5).model
    (layer,) = diagnose(snn, ann, from_arrays(np.float32([[0.5, 3]])), 4)
    assert layer.clipping == pytest.approx(rms_percent([0, -0.5], [0.5, 1]))
    assert layer.own_error == layer.clipping


def test_a_layer_that_is_never_active():
    ann = model(CLIPPED, CLIPPED_WEIGHTS)
    (layer,) = diagnose(convert(ann).model, ann, from_arrays(np.float32([[-1, 0], [0, -3]])), 4)
    assert (layer.own_error, layer.total_error, layer.firing_rate) == (0, 0, 0)
    assert (layer.silent, layer.saturated, layer.correlation) == (100, 0, None)


@pytest.mark.parametrize("maxpool", ["average", "exact", "keep"])
@pytest.mark.parametrize("recipe", ["opi", "mmse", "best"])
def test_every_recipe_and_pooling(recipe, maxpool):
    ann = model(POOLED, POOLED_WEIGHTS)
    snn = convert(ann, calibration=IMAGES, recipe=recipe, maxpool=maxpool, timesteps=8).model
    layers = diagnose(snn, ann, IMAGES, 8, batch_size=7)
    assert sorted((layer.place, layer.name) for layer in layers) == [(1, "r"), (2, "q")]
    assert layers[0].own_error >= layers[1].own_error > 0
    together = diagnose(snn, ann, IMAGES, 8)
    assert by_name(together)["q"].own_error == pytest.approx(by_name(layers)["q"].own_error)
    first = by_name(layers)["r"]
    assert first.unevenness == 0
    if recipe != "best":
        # Its input is that in the ANN.
        assert first.own_error == pytest.approx(first.total_error, rel=1e-4)
    assert first.correlation > 0.9


EVERY_KIND = ["opi", "burst", "signed", "best", "best-burst", "spike-norm", "srp"]


@pytest.mark.parametrize("recipe", EVERY_KIND)
def test_firing_rates_are_those_of_evaluate(recipe):
    """Spikes of either sign count."""
    ann = model(POOLED, POOLED_WEIGHTS)
    snn = convert(ann, calibration=IMAGES, recipe=recipe, maxpool="exact", timesteps=8).model
    layers = diagnose(snn, ann, IMAGES, 8)
    total = sum(layer.firing_rate * layer.neurons for layer in layers)
    rate = total / sum(layer.neurons for layer in layers)
    assert rate == pytest.approx(evaluate(snn, IMAGES, [8])["snn"][0]["firing_rate"])


def test_bursts_clip_at_all_spikes_of_a_time_step():
    ann = model(CLIPPED, CLIPPED_WEIGHTS | {"one": np.float32(100)})
    data = from_arrays(np.float32([[1, 1]]))
    bursts = Neuron("BurstIF", max_spikes=5)
    recipe = replace(recipe_by_name("opi"), recalibrate=True, neuron=bursts)
    snn = convert(ann, calibration=data, recipe=recipe, threshold=Statistic("max")).model
    (layer,) = diagnose(snn, ann, from_arrays(np.float32([[2.75, 6]])), 4)
    # 11 spikes of 20, and all 20 where 24 would be right.
    assert layer.clipping == pytest.approx(rms_percent([0, -1], [2.75, 6]))
    assert (layer.quantisation, layer.unevenness, layer.saturated) == (0, 0, 50)
    assert layer.firing_rate == 31 / 8


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7, 1.1])
@pytest.mark.parametrize("most", [3, 5, 7])
def test_all_spikes_of_a_burst_saturate_whatever_v_th_rounds_to(threshold, most):
    ann = model(CLIPPED, CLIPPED_WEIGHTS | {"one": np.float32(threshold)})
    recipe = replace(recipe_by_name("opi"), neuron=Neuron("BurstIF", max_spikes=most))
    (layer,) = diagnose(
        convert(ann, recipe=recipe).model, ann, from_arrays(np.full((3, 2), 50.0, np.float32)), 3
    )
    assert (layer.saturated, layer.firing_rate) == (100, pytest.approx(most))


NEURONS_LAST = "net (float[N, 2] x) => (float[N, 2] y) { a = MatMul(x, w) y = Clip(a, zero, one) }"


@pytest.mark.parametrize(
    ("ann", "data"),
    [
        (model(NEURONS_LAST, CLIPPED_WEIGHTS), from_arrays(np.float32([[0.25, 0.5], [0.75, 2]]))),
        (model(POOLED, POOLED_WEIGHTS), IMAGES),
    ],
)
def test_a_delayed_read_out(ann, data):
    """Also where an output is neurons', which have another name then."""
    plain, delayed = (
        diagnose(convert(ann, calibration=data, recipe="opi", delay=delay).model, ann, data, 8)
        for delay in (0, 2)
    )
    assert delayed == plain


def test_half_precision():
    weights = {n: w.astype(np.float16) for n, w in CLIPPED_WEIGHTS.items()}
    ann = model(CLIPPED.replace("float[", "float16["), weights)
    x = RNG.uniform(-1, 2, (20, 2)).astype(np.float16)
    # float16 cannot count so far.
    (layer,) = diagnose(convert(ann).model, ann, from_arrays(x), 3000)
    assert layer.own_error < 1
    assert layer.saturated == pytest.approx(100 * np.mean(x > 1), abs=3)


def test_several_inputs_and_a_neuron_on_one_of_them():
    text = (
        "net (float[N, 2] x, float[N, 2] z) => (float[N, 2] p) "
        "{ q = Clip(z, zero, one) a = MatMul(x, w) s = Add(a, q) p = Clip(s, zero, one) }"
    )
    ann = model(text, CLIPPED_WEIGHTS)
    inputs = {name: np.float32([[0.25, 0.5], [0, 0.25]]) for name in "xz"}
    layers = diagnose(convert(ann).model, ann, from_arrays(inputs), 4)
    assert {layer.name for layer in layers} == {"p", "q"}
    assert by_name(layers)["q"].own_error == 0


def test_another_ann_is_refused():
    ann, snn = two_layers()
    renamed = model(TWO_LAYERS.replace("q", "other"), TWO_LAYERS_WEIGHTS)
    with pytest.raises(ModelError, match=r"not the one .*: it has no activation .* 'q'"):
        diagnose(snn, renamed, from_arrays(X), 4)
    wider = TWO_LAYERS_WEIGHTS | {"u": np.ones((2, 3), np.float32), "v": np.ones((3, 1), "f4")}
    with pytest.raises(ModelError, match=r"not the one .* shape \[3, 3\], .* \[3, 1\]"):
        diagnose(snn, model(TWO_LAYERS, wider), from_arrays(X), 4)
    assert is_source(snn, ann)
    assert not is_source(snn, renamed)


def test_weights_beside_an_ann_are_a_part_of_it(tmp_path):
    path, data = tmp_path / "ann.onnx", tmp_path / "ann.data"
    ann = model(TWO_LAYERS, TWO_LAYERS_WEIGHTS)
    onnx.save(ann, path, save_as_external_data=True, location=data.name, size_threshold=0)
    snn = convert(path, calibration=from_arrays(X)).model
    assert is_source(snn, path)
    assert is_source(convert(read_model(path), calibration=from_arrays(X)).model, path)
    assert is_source(convert(onnx.load(path), calibration=from_arrays(X)).model, path)
    content = bytearray(data.read_bytes())
    content[3] ^= 1
    data.write_bytes(content)
    assert not is_source(snn, path)


def test_a_file_is_known_again_by_what_onnx_load_reads_of_it(tmp_path):
    """Also where reading mends it, as nodes that are out of order."""
    wide = {"w": np.ones((2, 200), np.float32), "u": np.ones((200, 1), np.float32)}
    ann, path = model(TWO_LAYERS, TWO_LAYERS_WEIGHTS | wide), tmp_path / "ann.onnx"
    nodes = list(ann.graph.node)
    del ann.graph.node[:]
    ann.graph.node.extend(reversed(nodes))
    onnx.save(ann, path)
    snn = convert(onnx.load(path), calibration=from_arrays(X)).model
    assert is_source(snn, path)
    # Of large truth values, too, which stay in the structure.
    ann.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2048, bool), "mask"))
    onnx.save(ann, path, save_as_external_data=True, location="ann.data", size_threshold=0)
    assert is_source(convert(onnx.load(path), calibration=from_arrays(X)).model, path)


@pytest.mark.parametrize("later", ["another", "none"])
def test_a_network_is_made_from_the_file_as_it_was_at_first(tmp_path, later):
    """A training loop may write it anew while it is converted."""
    path = tmp_path / "ann.onnx"
    ann = model(TWO_LAYERS, TWO_LAYERS_WEIGHTS)
    other = model(TWO_LAYERS, {**TWO_LAYERS_WEIGHTS, "v": np.float32([[2]])})
    onnx.save(ann, path)

    def change(what, done, total):
        path.unlink(missing_ok=True)
        if later == "another":
            onnx.save(other, path)

    snn = convert(path, calibration=from_arrays(X), report=change).model
    onnx.save(ann, path)
    assert is_source(snn, path)


def test_what_cannot_be_diagnosed():
    ann, snn = two_layers()
    with pytest.raises(ModelError, match="no spiking neurons"):
        diagnose(ann, ann, from_arrays(X), 4)
    with pytest.raises(ModelError, match="is a spiking network: give the network"):
        diagnose(snn, snn, from_arrays(X), 4)
    for timesteps in (0, -1, 2.5, True):
        with pytest.raises(DataError, match="timesteps must be a whole number from 1"):
            diagnose(snn, ann, from_arrays(X), timesteps)
    with pytest.raises(DataError, match="shape"):
        diagnose(snn, ann, from_arrays(X[:, :1]), 4)
    onnx.helper.set_model_props(snn, {"onnx2snn.recipe": "[]"})
    with pytest.raises(ModelError, match="does not say how it was made"):
        diagnose(snn, ann, from_arrays(X), 4)


@pytest.mark.parametrize("pool", ["", "MaxPool<kernel_shape = [2], strides = [2]>"])
def test_clips_that_stand_in_for_activations(pool):
    """Their errors are those beside the ANN whose activations the clips are."""
    behind = f"u = {pool}(q) " if pool else "u = Identity(q) "
    text = (
        "net (float[N, 1, 2] x) => (float[N, 1, 1] y) { a = MatMul(x, w) r = Relu(a) "
        f"b = MatMul(r, w) q = Sigmoid(b) {behind} c = MatMul(u, v) y = Relu(c) }}"
    )
    weights = {"w": TWO_LAYERS_WEIGHTS["w"], "v": np.ones((1 if pool else 2, 1), np.float32)}
    ann, data = model(text, weights), from_arrays(X[:, None])
    snn = convert(
        ann, calibration=data, approximate=2, recipe="opi", threshold="max", maxpool="average"
    ).model
    assert len(neuron_nodes(to_graph(snn))) == 4
    for timesteps, most in ((4, 100), (4096, 0.5)):
        layers = diagnose(snn, ann, data, timesteps)
        assert {layer.place for layer in layers} == {1, 2, 3, 4}
        assert all(layer.total_error < most for layer in layers)
    other = model(text.replace("Sigmoid", "Relu"), weights)
    with pytest.raises(ModelError, match="not the one that this network was made from"):
        diagnose(snn, other, data, 4)
    # What is not the file's own, as of a version that did not write it, or was cut off.
    fits = {p.key: p.value for p in snn.metadata_props}["onnx2snn.clips"]
    for text, wrong in (
        ("", "of which the file does not say more: convert the ANN again"),
        ("{}", "of which the file does not say more: convert the ANN again"),
        (fits.replace("knots", "knot"), "does not say which clips .*convert the ANN again"),
        ('{"q": 3}', "does not say which clips .*convert the ANN again"),
        ('{"q": {"knots": "a", "values": []}}', "does not say which clips .*convert the ANN again"),
        ('{"q": {"knots": [1, 2], "values": [3]}}', "does not say which clips .*'q'"),
        ('{"q": {"knots": [1], "values": [3]}}', "does not say which clips .*'q'"),
        ('{"q": {"knots": [[1, 2]], "values": [[3, 4]]}}', "does not say which clips .*'q'"),
        ('{"q": {"knots": [2, 1], "values": [3, 4]}}', "does not say which clips .*'q'"),
        ('{"q": {"knots": ["NaN", 1], "values": [3, 4]}}', "does not say which clips .*'q'"),
        (f'{{"q": {{"knots": [1, {10**400}], "values": [3, 4]}}}}', "does not say which clips"),
    ):
        onnx.helper.set_model_props(
            snn, {p.key: p.value for p in snn.metadata_props} | {"onnx2snn.clips": text}
        )
        with pytest.raises(ModelError, match=wrong):
            diagnose(snn, ann, data, 4)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ann, snn = two_layers()
    onnx.save(ann, "ann.onnx")
    write_model(snn, "snn.onnx")
    ann.doc_string = "the same, as another file"
    other = convert(ann, calibration=CALIBRATION, recipe="opi", threshold=Statistic("max"))
    write_model(other.model, "other.onnx")
    np.savez("data.npz", x=X)
    return tmp_path


def invoke(*words, code=0):
    common = ["diagnose", "--ann", "ann.onnx", "--data", "data.npz", "-T", "4"]
    result = CliRunner().invoke(main, [*common, *words])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def test_cli_table_and_plot(folder):
    output = invoke("snn.onnx", "--plot", "layers.png", "--batch-size", "2").output
    rows = [line.split() for line in output.splitlines() if line.strip()[:2] in ("1 ", "2 ")]
    assert [row[:3] for row in rows] == [["2", "q", "1"], ["1", "p", "2"]]
    assert "Drew layers.png" in output
    assert "Note" not in output
    assert (folder / "layers.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.usefixtures("folder")
def test_cli_json():
    report = json.loads(invoke("snn.onnx", "--json", "--samples", "2").stdout)
    assert (report["samples"], report["timesteps"], report["same_file"]) == (2, 4, True)
    assert [layer["name"] for layer in report["layers"]] == ["q", "p"]
    assert set(report["layers"][0]) == set(LayerDiagnosis.__dataclass_fields__)


@pytest.mark.usefixtures("folder")
def test_cli_notes_and_errors():
    assert "Note: the network does not say that it was" in invoke("other.onnx").output
    assert "no spiking neurons" in invoke("ann.onnx", code=1).output
    assert "cannot draw" in invoke("snn.onnx", "--plot", "layers.txt", code=1).output
    assert "is an input too" in invoke("snn.onnx", "--plot", "data.npz", code=1).output


def test_plot_of_many_layers_with_any_name(tmp_path):
    names = [f"$x_{{\x1b/block.{place}{'/long' * 20}" for place in range(1, 61)]
    layers = [
        LayerDiagnosis(place, name, 8, *[5.0] * 5, 0, 0, 0, None)
        for place, name in enumerate(names, start=1)
    ]
    diagnosis_plot(tmp_path / "layers.png", layers, "60 layers")
    assert (tmp_path / "layers.png").read_bytes()[:4] == b"\x89PNG"


def layer_of(potential, magnitude, reference):
    """What is said of one layer of V_th 0.5 in four time-steps."""
    potential, magnitude, reference = (np.float64([v]) for v in (potential, magnitude, reference))
    layer = _Layer("r", np.float64(0.5), np.float64(0), np.float64(np.inf), 4, 1)
    layer.add(LayerSums(np.full_like(potential, -1), potential, magnitude), reference, 1)
    return layer.result(1)


def test_where_nothing_is_active_errors_are_percent_of_the_threshold():
    found = layer_of([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0, 0, 0])
    assert found.own_error == found.total_error == pytest.approx(100 * 0.125 / 0.5)


def test_spikes_that_were_taken_back_are_spikes():
    found = layer_of([0, 0, 1, 2], [1, 0, 2, 2], [0, 0, 1, 1])
    assert (found.silent, found.saturated) == (25, 25)


def test_what_does_not_vary_has_no_correlation():
    assert layer_of([1, 1], [1, 1], [0.25, 0.5]).correlation is None
    assert layer_of([0, 1], [0, 1], [0.25, 0.25]).correlation is None
    assert layer_of([0, 1], [0, 1], [0.25, 0.5]).correlation == pytest.approx(1)


def test_inputs_that_do_not_fit_are_named():
    text = (
        "net (float[N, 2] x, float[N, 2] z) => (float[N, 2] y) "
        "{ a = Add(x, z) p = Clip(a, zero, one) y = MatMul(p, w) }"
    )
    weights = {"zero": np.float32(0), "one": np.float32(1), "w": np.eye(2, dtype=np.float32)}
    graph = to_graph(convert(model(text, weights)).model)
    infer_shapes(graph)
    watched = WatchedRun(graph, 4, None)
    with pytest.raises(DataError, match=r"z has shape \[3, 1\]"):
        watched.run({"x": X, "z": X[:, :1]})


def test_an_ann_of_a_fixed_batch_beside_a_spiking_network_whose_batch_is_open():
    text = (
        "net (float[8, 2, H, W] x) => (float[8, 4] y) { a = Conv<pads = [1, 1, 1, 1]>(x, w) "
        "r = Relu(a) q = Flatten(r) c = Gemm(q, u) s = Relu(c) y = Gemm(s, v) }"
    )
    weights = {
        "w": RNG.normal(size=(5, 2, 3, 3)).astype(np.float32),
        "u": RNG.normal(size=(180, 6)).astype(np.float32) / 10,
        "v": RNG.normal(size=(6, 4)).astype(np.float32),
    }
    ann = model(text, weights)
    x = RNG.random((200, 2, 6, 6), dtype=np.float32)
    snn = convert(ann, calibration=from_arrays(x[:96])).model
    open_ann = model(text.replace("8, ", "N, "), weights)
    found = diagnose(snn, ann, from_arrays(x), 4)
    assert found == diagnose(snn, open_ann, from_arrays(x), 4, batch_size=96)
