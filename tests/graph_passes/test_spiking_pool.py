import numpy as np
import onnx
import pytest
import stock
from onnx_text import changes_once, graph, model, ops, run, whole

from onnx2snn import convert
from onnx2snn.graph_passes import (
    UnsupportedModelError,
    activations_to_neurons,
    average_before_read_out,
    max_to_spiking_pool,
    set_initial_potential,
    stateful_nodes,
    thresholds_to_spiking,
    to_model,
)

RNG = np.random.default_rng(0)
TIMESTEPS = 9
WEIGHTS = {"zero": 0, "one": 1, "half": 0.5}
# Multiples of 1/8, of which many sums are exact.
X = RNG.integers(-2, 10, (2, 2, 7, 6)) / 8


def over_time(graph, x, timesteps=TIMESTEPS):
    """The outputs of each time-step, [T, ...], of a plain loop on ONNX Runtime."""
    steps = stock.steps(to_model(graph), {"x": x}, timesteps)
    return [np.stack(v) for v in zip(*(outputs.values() for outputs, _ in steps), strict=True)]


def spiking(text, dtype=np.float32, weights=None):
    values = WEIGHTS | (weights or {})
    g = graph(text, {name: np.asarray(value, dtype) for name, value in values.items()})
    activations_to_neurons(g, "exact")
    set_initial_potential(g)
    return g


SIGNATURE = "g (float[N, 2, 7, 6] x) => (float[N, 2, a, b] y, float[N, 2, 7, 6] s)"
NEURON = "s = Clip(x, zero, one)"
POOLS = {
    "plain": "MaxPool<kernel_shape = [2, 2]>",
    "strides": "MaxPool<kernel_shape = [2, 3], strides = [2, 2]>",
    "padding": "MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>",
    "padding on one side": "MaxPool<kernel_shape = [3, 2], strides = [2, 2], pads = [0, 1, 2, 0]>",
    "windows that stick out": "MaxPool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1>",
    "dilations": "MaxPool<kernel_shape = [2, 2], dilations = [3, 2]>",
    "same": 'MaxPool<kernel_shape = [3, 2], strides = [2, 2], auto_pad = "SAME_UPPER">',
    "same, before": 'MaxPool<kernel_shape = [2, 3], strides = [2, 1], auto_pad = "SAME_LOWER">',
    "valid": 'MaxPool<kernel_shape = [3, 3], strides = [2, 2], auto_pad = "VALID">',
    "global": "GlobalMaxPool",
}


@pytest.mark.parametrize("name", POOLS)
def test_outputs_add_up_to_the_maximum_of_the_sums(name):
    g = spiking(f"{SIGNATURE} {{ {NEURON} y = {POOLS[name]}(s) }}")
    changes_once(max_to_spiking_pool, g)
    assert ops(g) == ["IF", "SpikingGlobalMaxPool" if name == "global" else "SpikingMaxPool"]
    onnx.checker.check_model(to_model(g), full_check=True)
    pooled, spikes = over_time(g, X.astype(np.float32))
    pool = graph(f"g (float[N, 2, 7, 6] x) => (float[N, 2, a, b] y) {{ y = {POOLS[name]}(x) }}")
    for t in range(TIMESTEPS):
        np.testing.assert_array_equal(pooled[: t + 1].sum(0), run(pool, spikes[: t + 1].sum(0)))
    # At most one spike leaves a window in a time-step.
    assert set(np.unique(pooled)) <= {0, 1}


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_other_types(dtype):
    kind = np.dtype(dtype)
    text = SIGNATURE.replace("float", dtype)
    g = spiking(f"{text} {{ {NEURON} y = {POOLS['padding']}(s) }}", kind)
    max_to_spiking_pool(g)
    pooled, spikes = over_time(g, X.astype(kind))
    assert pooled.dtype == spikes.dtype == kind
    # Sums in float16 would not count beyond 2048.
    assert stateful_nodes(g)[-1].inputs[-1].dtype == np.promote_types(kind, np.float32)
    pool = graph(
        f"g (float[N, 2, 7, 6] x) => (float[N, 2, a, b] y) {{ y = {POOLS['padding']}(x) }}"
    )
    wanted = run(pool, spikes.sum(0).astype(np.float32))
    np.testing.assert_array_equal(pooled.sum(0), wanted)


def test_whatever_lies_between():
    """The sums over time of a linear operator's results are not whole numbers of spikes."""
    between = "m = Mul(s, minus) a = AveragePool<kernel_shape = [2, 2]>(m)"
    g = spiking(
        f"{SIGNATURE} {{ {NEURON} {between} y = MaxPool<kernel_shape = [2, 2]>(a) }}",
        weights={"minus": [[[-0.5]], [[2]]]},
    )
    changes_once(max_to_spiking_pool, g)
    pooled, spikes = over_time(g, X.astype(np.float32))
    reference = graph(
        "g (float[N, 2, 7, 6] x) => (float[N, 2, a, b] y) "
        f"{{ s = Identity(x) {between} y = MaxPool<kernel_shape = [2, 2]>(a) }}",
        {"minus": np.float32([[[-0.5]], [[2]]])},
    )
    np.testing.assert_array_equal(pooled.sum(0), run(reference, spikes.sum(0)))


def test_only_the_pools_that_spikes_reach():
    body = "p = MaxPool<kernel_shape = [2, 2]>(x) s = Clip(p, zero, one) y = GlobalMaxPool(s)"
    g = spiking(f"g (float[N, 2, 7, 6] x) => (float[N, 2, a, b] y) {{ {body} }}")
    changes_once(max_to_spiking_pool, g)
    assert ops(g) == ["MaxPool", "IF", "SpikingGlobalMaxPool"]


def test_nothing_to_do():
    assert not max_to_spiking_pool(spiking(f"{SIGNATURE} {{ {NEURON} y = Neg(s) }}"))
    assert not max_to_spiking_pool(graph(f"{SIGNATURE} {{ s = Relu(x) y = GlobalMaxPool(s) }}"))


@pytest.mark.parametrize("name", ["same", "same, before", "valid", "plain"])
def test_padding_is_written_out(name):
    g = spiking(f"{SIGNATURE} {{ {NEURON} y = {POOLS[name]}(s) }}")
    max_to_spiking_pool(g)
    wanted = {
        "same": [1, 0, 1, 0], "same, before": [1, 1, 0, 1], "valid": [0] * 4, "plain": [0] * 4,
    }  # fmt: skip
    assert g.nodes[-1].attrs["pads"] == wanted[name]


OPEN = "g (float[N, 2, H, W] x) => (float[N, 2, a, b] y)"
PAD = "p = Pad(s, pads, lowest) y = MaxPool<kernel_shape = [2, 2]>(p)"
REFUSED = {
    "indices": (OPEN, "m, i = MaxPool<kernel_shape = [2, 2]>(s) f = Cast<to = 1>(i) y = Add(m, f)"),
    "auto_pad SAME_UPPER": (OPEN, f"y = {POOLS['same']}(s)"),
    "auto_pad SAME_LOWER": (OPEN, f"y = {POOLS['same, before']}(s)"),
    "-infinity": (OPEN, PAD),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name):
    signature, body = REFUSED[name]
    weights = {
        "zero": np.float32(0), "one": np.float32(1), "lowest": np.float32(-np.inf),
        "pads": np.array([0, 0, 2, 2, 0, 0, 2, 2]),
    }  # fmt: skip
    g = graph(f"{signature} {{ {NEURON} {body} }}", weights)
    activations_to_neurons(g, "exact")
    before = to_model(g)
    with pytest.raises(UnsupportedModelError, match=name) as caught:
        max_to_spiking_pool(g)
    assert len(caught.value.refusals) == 1
    assert to_model(g) == before


@pytest.mark.parametrize("size", ["7, 6", "H, W"])
@pytest.mark.parametrize(
    "how",
    [
        'kernel_shape = [2, 3], auto_pad = "SAME_UPPER"',
        'kernel_shape = [2, 3], auto_pad = "SAME_LOWER"',
        'kernel_shape = [2, 2], strides = [2, 2], auto_pad = "SAME_UPPER"',
    ],
)
def test_automatic_pads_that_do_not_depend_on_sizes(how, size):
    g = spiking(f"g (float[N, 2, {size}] x) => (float[N, 2, a, b] y, float[N, 2, c, d] s) "
                f"{{ {NEURON} y = MaxPool<{how}>(s) }}")  # fmt: skip
    changes_once(max_to_spiking_pool, g)
    pooled, spikes = over_time(g, X.astype(np.float32))
    pool = graph(f"g (float[N, 2, 7, 6] x) => (float[N, 2, a, b] y) {{ y = MaxPool<{how}>(x) }}")
    np.testing.assert_array_equal(pooled.sum(0), run(pool, spikes.sum(0)))


def test_refuses_all_at_once():
    body = f"p = {POOLS['same']}(s) y = {POOLS['same, before']}(p)"
    g = spiking(f"{OPEN} {{ {NEURON} {body} }}")
    with pytest.raises(UnsupportedModelError) as caught:
        max_to_spiking_pool(g)
    assert [refusal.op for refusal in caught.value.refusals] == ["MaxPool", "MaxPool"]


@pytest.mark.parametrize("dtype", ["float16", "float", "double"])
def test_thresholds_let_the_sum_through_where_the_mean_is_above(dtype):
    kind = {"float16": np.float16, "float": np.float32, "double": np.float64}[dtype]
    text = SIGNATURE.replace("float", dtype)
    g = spiking(f"{text} {{ {NEURON} y = ThresholdedRelu<alpha = 0.25>(s) }}", kind)
    changes_once(thresholds_to_spiking, g)
    assert sorted(ops(g)) == ["Clock", "IF", "SpikingThreshold"]
    onnx.checker.check_model(to_model(g), full_check=True)
    result, spikes = over_time(g, X.astype(kind))
    assert result.dtype == kind
    for t in range(1, TIMESTEPS + 1):
        total = spikes[:t].sum(0)
        np.testing.assert_array_equal(result[:t].sum(0), np.where(total > 0.25 * t, total, 0))


def test_thresholds_share_a_clock():
    body = "a = ThresholdedRelu<alpha = 0.5>(s) y = ThresholdedRelu<alpha = 1.0>(a)"
    g = spiking(f"{SIGNATURE} {{ {NEURON} {body} }}")
    changes_once(thresholds_to_spiking, g)
    assert sorted(ops(g)) == ["Clock", "IF", "SpikingThreshold", "SpikingThreshold"]


def test_thresholds_that_no_spikes_reach_stay():
    body = "r = ThresholdedRelu<alpha = 0.5>(x) s = Clip(r, zero, one) y = Neg(s)"
    assert not thresholds_to_spiking(spiking(f"{SIGNATURE} {{ {body} }}"))


def test_names_of_states_that_are_taken():
    g = spiking(f"{SIGNATURE} {{ {NEURON} y = GlobalMaxPool(s) }}")
    g.nodes[-1].name = "pool"
    g.outputs[1].name = "v/pool"
    changes_once(max_to_spiking_pool, g)
    assert g.nodes[-1].name == "pool_2"


@pytest.mark.parametrize("taken", ["clock", "v/clock", "t"])
def test_names_of_the_clock_that_are_taken(taken):
    body = "a = ThresholdedRelu<alpha = 0.5>(s) n = Neg(a) y = ThresholdedRelu<alpha = 0.25>(n)"
    g = spiking(f"{SIGNATURE} {{ {NEURON} {body} }}")
    last = g.outputs[0].inputs[0]
    last.name = taken
    g.outputs[0].name = taken
    changes_once(thresholds_to_spiking, g)
    whole(g)


@pytest.mark.parametrize("first", [True, False])
def test_a_threshold_of_the_clocks_name(first):
    body = "a = ThresholdedRelu<alpha = 0.5>(s) y = ThresholdedRelu<alpha = 0.25>(a)"
    g = spiking(f"{SIGNATURE} {{ {NEURON} {body} }}")
    one, two = [node for node in g.nodes if node.op == "ThresholdedRelu"]
    (one if first else two).name = "clock"
    g.outputs[0].name = "v/clock"
    changes_once(thresholds_to_spiking, g)
    whole(g)


PLACES = "g (float[N, 2, 7, 6] x) => (float[N, 2, a, b] y)"


@pytest.mark.parametrize("how", ["SAME_UPPER", "SAME_LOWER"])
def test_windows_that_leave_out_places_need_no_pads(how):
    """Fewer than none they would be."""
    pool = f'MaxPool<kernel_shape = [1, 2], strides = [2, 3], auto_pad = "{how}">'
    g = spiking(f"{PLACES} {{ s = Clip(x, zero, one) y = {pool}(s) }}")
    max_to_spiking_pool(g)
    assert g.nodes[-1].attrs["pads"] == [0] * 4


def test_dilated_pools_with_automatic_pads_are_refused():
    pool = 'MaxPool<kernel_shape = [2, 2], dilations = [2, 1], auto_pad = "SAME_UPPER">'
    g = spiking(f"{PLACES} {{ s = Clip(x, zero, one) y = {pool}(s) }}")
    with pytest.raises(UnsupportedModelError, match="dilated and padded automatically"):
        max_to_spiking_pool(g)


def test_a_threshold_that_is_not_said_is_one():
    g = spiking(f"{PLACES.replace('a, b', '7, 6')} {{ s = Clip(x, zero, one) "
                "t = Add(s, s) y = ThresholdedRelu(t) }")  # fmt: skip
    thresholds_to_spiking(g)
    assert g.nodes[-1].attrs["alpha"].values == 1


def test_pools_of_the_read_out_count_no_spikes():
    text = (
        "g (float[N, 2, 7, 6] x) => (float[N, 2, a, b] y) { s = Clip(x, zero, one) "
        "h = Softmax<axis = 1>(s) y = GlobalMaxPool(h) }"
    )
    snn = convert(model(text, {"zero": np.float32(0), "one": np.float32(1)}), maxpool="exact")
    assert [n.op_type for n in snn.model.graph.node][-2:] == ["Softmax", "GlobalMaxPool"]


@pytest.mark.parametrize("change", [max_to_spiking_pool, thresholds_to_spiking])
@pytest.mark.parametrize("op", ["GlobalMaxPool", "ThresholdedRelu<alpha = 0.25>"])
def test_what_is_behind_an_average_over_time_is_computed_on_it(op, change):
    """The pass that makes those came first."""
    g = spiking(f"{SIGNATURE} {{ {NEURON} y = {op}(s) }}")
    assert average_before_read_out(g)
    assert not change(g)
    result, spikes = over_time(g, X.astype(np.float32))
    mean = spikes.mean(0, dtype=np.float64)
    wanted = mean.max((2, 3), keepdims=True) if "Pool" in op else np.where(mean > 0.25, mean, 0)
    np.testing.assert_allclose(result[-1], wanted, rtol=1e-6)
