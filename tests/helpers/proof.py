"""Hold a dyadic network of ``dyadic_ops`` against the package, bit for bit."""

import itertools

import equations as eq
import numpy as np
import stock

from onnx2snn import SpikingSession, convert, from_arrays, parse_statistic
from onnx2snn.graph_passes import (
    canonicalise,
    fold_batch_normalization,
    fold_forward,
    infer_shapes,
    run_passes,
    to_graph,
    to_model,
    upgrade_opset,
)


def run_ann(model, feed, batch="N"):
    """All outputs of an ANN; sample by sample where its batch is fixed to 1."""
    session = stock.session(model, "off")
    if batch == "N":
        return session.run(None, feed)
    count = len(next(iter(feed.values())))
    parts = [session.run(None, {k: v[i : i + 1] for k, v in feed.items()}) for i in range(count)]
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


def canonical(model):
    """The ANN after all passes that are exact."""
    graph = to_graph(upgrade_opset(model))
    infer_shapes(graph)
    run_passes(graph, [canonicalise, fold_batch_normalization, fold_forward])
    return to_model(graph)


def plain_loop(model, feed, timesteps, behind_means):
    """The loop of docs/neurons.md: outputs averaged, or the last behind a RunningMean."""
    totals = {}
    # Without the fusions that round quantized weights anew.
    for now, _ in stock.steps(model, feed, timesteps, "off"):
        totals = {
            name: value if name in behind_means else totals.get(name, 0) + value.astype(np.float64)
            for name, value in now.items()
        }
    return {n: v if n in behind_means else v / timesteps for n, v in totals.items()}


def behind_running_means(model):
    names = set()
    for node in model.graph.node:
        if node.op_type in ("RunningMean", "DelayedMean") or names & set(node.input):
            names |= set(node.output)
    return names


def assert_same(actual, wanted, rtol):
    assert actual.shape == wanted.shape
    if rtol:
        np.testing.assert_allclose(actual, wanted, rtol, rtol)
    else:
        np.testing.assert_array_equal(actual, wanted)


def assert_ann_is_kept(built, rtol=0.0):
    """The original computes what its equations say, and so does its canonical form."""
    model, feed = built.model(), built.feed()
    original = run_ann(model, feed, built.batch)
    rewritten = run_ann(canonical(model), feed, built.batch)
    for name, before, after in zip(built.outputs, original, rewritten, strict=True):
        assert_same(before, built.outward(built.values[name]), rtol)
        assert_same(after, before, rtol)


def converted(built, **options):
    """The SNN by recipe ``opi``, whose spikes the equations are: IF neurons, nothing corrected."""
    options = {"recipe": "opi"} | options
    if built.needs_data:
        # The largest activation of a layer is a power of two.
        options |= {
            "per_channel": False,
            "calibration": from_arrays(built.feed()),
            "threshold": parse_statistic("max"),
            "batch_size": built.samples if built.batch == "N" else built.batch,
        }
    return convert(built.model(), **options)


def assert_snn_fires(built, timesteps=8, maxpool="average", v_init=0.5, rtol=0.0):
    """Outputs and spikes of the SNN, in the session and in a plain loop, are the equations'."""
    conversion = converted(built, maxpool=maxpool, v_init=v_init)
    wanted, counts = eq.simulate(built.layers, built.data, timesteps, maxpool, v_init)
    result = SpikingSession(conversion.model, threads=1).run(built.feed(), timesteps)
    for name in result.spike_counts.keys() - counts.keys():
        # A clip of what is never below 0 has one population.
        counts[name] = counts.pop(f"{name}/positive")
        assert not np.any(counts.pop(f"{name}/negative"))
    assert set(result.spike_counts) == set(counts)
    for name, spikes in counts.items():
        assert _is_permuted(result.spike_counts[name], spikes), name
    assert list(result.values) == built.outputs
    looped = plain_loop(
        conversion.model, built.feed(), timesteps, behind_running_means(conversion.model)
    )
    for name in built.outputs:
        assert_same(result.values[name], built.outward(wanted[name]), rtol)
        assert_same(looped[name].astype(result.values[name].dtype), result.values[name], rtol)
    return conversion


def _is_permuted(found, wanted):
    """Whether two arrays are the same, but for Transposes that moved behind the neurons."""
    orders = itertools.permutations(range(1, wanted.ndim))
    return any(np.array_equal(found, wanted.transpose(0, *order)) for order in orders)


def prove(built, timesteps=8, maxpool="average", v_init=0.5):
    """Both proofs."""
    assert_ann_is_kept(built)
    return assert_snn_fires(built, timesteps, maxpool, v_init)
