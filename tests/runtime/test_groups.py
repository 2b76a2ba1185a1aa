"""Samples that run in groups, one after another, so that what flows fits the caches."""

import re

import dyadic
import numpy as np
import pytest
from alike import run_alike, same
from onnx_text import model

from onnx2snn import DataError, EarlyExit, SpikingSession, convert, from_arrays
from onnx2snn.runtime import sessions, time_steps
from onnx2snn.runtime.choices import estimate, groups
from onnx2snn.runtime.choices.groups import Groups
from onnx2snn.runtime.choices.rows import samples_are_apart
from onnx2snn.runtime.states import DeviceStates


def bytes_of_a_sample(session, x):
    """Those of the states of the largest layer."""
    shapes = session.chosen(x).shapes
    by_layer = {}
    for state in session._progress.time_steps.states:
        layer = state.read.partition("/")[2]
        size = 4 * int(np.prod(shapes[state.read][1:]))
        by_layer[layer] = by_layer.get(layer, 0) + size
    return max(by_layer.values())


def in_groups(monkeypatch, snn, x, together, **options):
    """A session in which at most so many samples run together."""
    size = bytes_of_a_sample(SpikingSession(snn, threads=1, **options), x)
    monkeypatch.setattr(groups, "CACHE", together * size)
    # No number of nodes is worth a miss of it.
    monkeypatch.setattr(groups, "MISS", 1)
    return SpikingSession(snn, threads=1, **options)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("together", [1, 3])
def test_groups_are_the_whole_batch(seed, together, monkeypatch):
    network = dyadic.finish(seed)
    snn = convert(dyadic.to_onnx(network)).model
    x = dyadic.images(network, 7)
    session = in_groups(monkeypatch, snn, x, together)
    reference = SpikingSession(snn, threads=1, plan="step")
    assert [session.chosen(x[:n]).groups.long for n in (7, 2)] == [together, min(2, together)]
    run_alike(session, reference, network, [(7, 23), (2, 9), (5, 20)])
    # Single time-steps go on from there, and say what they make; so they do from put states.
    few = x[:5]
    for _ in range(2):
        np.testing.assert_array_equal(session.step(few), reference.step(few))
    session.state = reference.state
    np.testing.assert_array_equal(session.step(few), reference.step(few))


@pytest.mark.parametrize(
    "recipe", ["signed", "burst", "spike-norm", "srp", "ltb", "best", "best-burst"]
)
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_neurons_of_every_kind(recipe, precision, monkeypatch):
    network = dyadic.finish(7)
    x = dyadic.images(network, 20)
    snn = convert(
        dyadic.to_onnx(network), calibration=from_arrays(x), recipe=recipe, timesteps=8
    ).model
    whole = SpikingSession(snn, threads=1, precision=precision)
    session = in_groups(monkeypatch, snn, x, 3, precision=precision)
    same(session.run(x, 24, [8]), whole.run(x, 24, [8]))


def test_samples_that_leave(monkeypatch):
    network = dyadic.finish(2)
    snn = convert(dyadic.to_onnx(network)).model
    x = dyadic.images(network, 13)
    rule = EarlyExit(confidence=0.3, stable=1, every=2)
    wanted = SpikingSession(snn, threads=1, plan="step").run(x, 20, early_exit=rule)
    session = in_groups(monkeypatch, snn, x, 2, max_memory=2**31)
    sizes = sizes_of_groups(monkeypatch)
    found = session.run(x, 20, early_exit=rule)
    assert len(set(wanted.sample_timesteps)) > 2
    # Also where some have left before.
    assert max(sizes) == 2
    np.testing.assert_array_equal(found.sample_timesteps, wanted.sample_timesteps)
    np.testing.assert_array_equal(found.output, wanted.output)


def sizes_of_groups(monkeypatch):
    """How many samples are in each run from now on; a list that grows, 99 for all of them."""
    bind, sizes = DeviceStates._bind, []

    def told(self, *arguments):
        found = bind(self, *arguments)
        first, end = arguments[-1] or (0, 99)
        sizes.append(end - first)
        return found

    monkeypatch.setattr(DeviceStates, "_bind", told)
    return sizes


@pytest.mark.parametrize("recipe", ["opi", "signed"])
def test_all_groups_begin_with_the_same_starts(recipe, monkeypatch):
    network = dyadic.finish(2)
    x = dyadic.images(network, 7)
    snn = convert(dyadic.to_onnx(network), calibration=from_arrays(x), recipe=recipe).model
    wanted = SpikingSession(snn, threads=1, plan="step").run(x, 40, [16])
    session = in_groups(monkeypatch, snn, x, 3)
    same(session.run(x, 40, [16]), wanted)
    starts = session._progress.states._first
    # Three groups of at most three.
    assert {value.shape()[0] for value in starts.values()} == {3}
    # They are kept, and nothing writes to them.
    same(session.run(x, 40, [16]), wanted)
    assert session._progress.states._first is starts
    assert session.chosen(x).memory.starts == session.chosen(x).memory.states // 2 * 3 // 7


@pytest.mark.parametrize("budget", [2**31, None])
def test_within_a_budget_the_first_run_is_in_groups(budget, monkeypatch):
    network = dyadic.finish(2)
    snn = convert(dyadic.to_onnx(network)).model
    x = dyadic.images(network, 7)
    varying = np.stack([x, 0 * x, x])
    wanted = SpikingSession(snn, threads=1, plan="step").run(varying, 3)
    session = in_groups(monkeypatch, snn, x, 2, max_memory=budget)
    sizes = sizes_of_groups(monkeypatch)
    same(session.run(varying, 3), wanted)
    assert max(sizes) == (2 if budget else 99)
    # It reads v(0) as it is in the file, small.
    assert not session._progress.states._first


def test_more_cores_hold_more(monkeypatch):
    network = dyadic.finish(0)
    snn = convert(dyadic.to_onnx(network)).model
    x = dyadic.images(network, 16)
    in_groups(monkeypatch, snn, x, 2)
    # As many as the process may have, at most.
    for cores, threads, together in ((16, 1, 2), (16, 2, 4), (16, 16, 16), (2, 16, 4), (1, 2, 2)):
        monkeypatch.setattr(sessions, "_cores", lambda cores=cores: cores)
        assert SpikingSession(snn, threads=threads).chosen(x).groups.long == together
    assert SpikingSession(snn, threads=1, plan="step").chosen(x).groups.long == 16


def test_many_nodes_are_worth_a_large_layer_beyond_the_cache(monkeypatch):
    # Per sample the states of a take 64 numbers, those of the layers behind it 2.
    text, last = "net (float[N, 64] x) => (float[N, 2] y) { a = Clip(x, zero, one) ", "a"
    values = {"zero": np.float32(0), "one": np.float32(1)}
    for n in range(20):
        values[f"w{n}"] = np.eye(2 if n else 64, 2, dtype=np.float32)
        text += f"p{n} = MatMul({last}, w{n}) b{n} = Clip(p{n}, zero, one) "
        last = f"b{n}"
    snn = convert(model(text + f"y = Identity({last}) }}", values)).model
    x = np.zeros((32, 64), np.float32)
    monkeypatch.setattr(groups, "CACHE", 4 * 64 * 2)
    together = {}
    for miss in (0, 1e-9, 1):
        monkeypatch.setattr(groups, "MISS", miss)
        together[miss] = SpikingSession(snn, threads=1).chosen(x).groups.long
    # As many as eight times the cache holds; or as many as it holds.
    assert together == {0: 16, 1e-9: 16, 1: 2}


@pytest.mark.parametrize("budget", [None, 2**31, "short"])
def test_single_time_steps_and_short_chunks_read_weights_once(budget, monkeypatch):
    """Where a budget is short they run in the groups of long chunks, which take less memory."""
    network = dyadic.finish(2)
    snn = convert(dyadic.to_onnx(network)).model
    x = dyadic.images(network, 7)
    wanted = SpikingSession(snn, threads=1, plan="step").run(x, 22, [2])
    monkeypatch.setattr(groups, "READ", 1e6)
    # As if the weights that are read anew were large.
    monkeypatch.setattr(groups, "CACHED", 0)
    session = in_groups(monkeypatch, snn, x, 2, max_memory=None if budget == "short" else budget)
    groups_of_most = Groups(long=2, short=7, alone=7)
    if budget == "short":
        monkeypatch.setattr(estimate, "lengths_between", lambda *_: range(0))
        most = with_budget(snn, 2**31).chosen(x).memory.needed - 1
        session, groups_of_most = with_budget(snn, most), Groups(2, 2, 2)
    chosen = session.chosen(x)
    assert chosen.chunks == (16, 8, 4)
    assert chosen.groups == groups_of_most
    assert chosen.memory.activations > 0
    sizes = sizes_of_groups(monkeypatch)
    same(session.run(x, 22, [2]), wanted)
    # Two in a row, 4, and 16 in four groups.
    assert sizes.count(99) == (0 if budget == "short" else 3)


def with_budget(snn, most):
    return SpikingSession(snn, threads=1, max_memory=most)


def test_short_chunks_of_more_samples_are_in_the_estimate(monkeypatch):
    network = dyadic.finish(2)
    snn = convert(dyadic.to_onnx(network)).model
    found = []
    for short in (1, 7):
        monkeypatch.setattr(time_steps, "groups_of", lambda *_, n=short: Groups(1, n, 1))
        memory = SpikingSession(snn, threads=1).chosen(dyadic.images(network, 7)).memory
        found.append(memory.activations)
    assert found[0] < found[1]


@pytest.mark.parametrize("sizes", [Groups(2, 4, 8), Groups(1, 1, 8), Groups(4, 8, 2)])
def test_of_groups_activations_and_starts_alone_take_less(sizes, monkeypatch):
    network = dyadic.finish(2)
    snn, x = convert(dyadic.to_onnx(network)).model, dyadic.images(network, 8)

    def memory_of(samples, found, **options):
        monkeypatch.setattr(time_steps, "groups_of", lambda *_: found)
        chosen = SpikingSession(snn, threads=1, **options).chosen(x[:samples])
        assert chosen.groups == found
        return chosen.memory

    together, apart = memory_of(8, Groups(8, 8, 8)), memory_of(8, sizes)
    for name in ("states", "inputs", "read_out", "outputs", "counts"):
        assert getattr(apart, name) == getattr(together, name) > 0, name
    most = max(sizes.long, sizes.short)
    assert apart.starts == memory_of(most, groups.groups_of_all(most)).starts > 0
    step = SpikingSession(snn, threads=1, plan="step").chosen(x[: sizes.alone]).memory
    assert apart.activations >= step.activations


def test_lengths_between_run_in_as_many_samples_as_short_chunks(monkeypatch):
    """Where 8 time-steps of 7 samples are too much as a chunk, they are between chunks, too."""
    network = dyadic.finish(2)
    snn, x = convert(dyadic.to_onnx(network)).model, dyadic.images(network, 7)
    monkeypatch.setattr(time_steps, "groups_of", lambda *_: Groups(1, 7, 1))
    monkeypatch.setattr(estimate, "NODE", 0)
    peaks = {}
    peak_of = estimate.Estimate._peak
    monkeypatch.setattr(
        estimate.Estimate, "_peak", lambda own, t: peaks.setdefault(t, peak_of(own, t))
    )
    assert SpikingSession(snn, threads=1).chosen(x).chunks == (16, 8, 4)
    for refused in (8, 4):
        monkeypatch.setattr(estimate, "EXTRA_ACTIVATIONS", peaks[refused] - peaks[1] - 10)
        chosen = SpikingSession(snn, threads=1).chosen(x)
        assert refused not in {*chosen.chunks, *chosen.between}
        assert all(peaks[t] <= chosen.memory.activations for t in chosen.chunks)


def test_single_time_steps_take_all_samples_where_weights_are_most(monkeypatch):
    network = dyadic.finish(2)
    snn = convert(dyadic.to_onnx(network)).model
    x = dyadic.images(network, 7)
    for name, value in {"READ": 1e6, "CACHED": 0, "OUTERMOST": 2}.items():
        monkeypatch.setattr(groups, name, value)
    chosen = in_groups(monkeypatch, snn, x, 2).chosen(x)
    assert chosen.groups == Groups(long=2, short=4, alone=7)
    # Of as many runs the smaller: four of two samples, or three and one.
    monkeypatch.setattr(groups, "READ", 0)
    assert in_groups(monkeypatch, snn, x, 3).chosen(x).groups.alone == 3


# Samples on the second axis between two layers.
SEQUENCE = (
    "net (float[N, S, 4] x) => (float[N, S, 3] y) { "
    "a = MatMul(x, w) b = Clip(a, zero, one) c = Transpose<perm = [1, 0, 2]>(b) "
    "d = MatMul(c, w) e = Clip(d, zero, one) f = Transpose<perm = [1, 0, 2]>(e) "
    "y = MatMul(f, u) }"
)


def sequence(samples):
    """A network of ``SEQUENCE``, and inputs."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.integers(-8, 9, (4, 4)) / 8, "u": rng.integers(-8, 9, (4, 3)) / 8}
    named = {name: value.astype(np.float32) for name, value in weights.items()}
    named |= {"zero": np.float32(0), "one": np.float32(1)}
    snn = convert(model(SEQUENCE, named)).model
    return snn, (rng.integers(-8, 9, (samples, 5, 4)) / 8).astype(np.float32)


@pytest.mark.parametrize("samples", [3, 5])
def test_no_groups_where_axis_0_is_not_the_samples(samples, monkeypatch):
    snn, x = sequence(samples)
    wanted = SpikingSession(snn, threads=1, plan="step").run(x, 18, [7])
    monkeypatch.setattr(groups, "CACHE", 1)
    session = SpikingSession(snn, threads=1)
    assert session.chosen(x).groups.long == samples
    same(session.run(x, 18, [7]), wanted)


def test_states_with_samples_along_another_axis_are_handed_on():
    snn, x = sequence(3)
    giver, taker = (SpikingSession(snn, threads=1) for _ in range(2))
    giver.run(x, 7)
    taker.state = giver.state
    np.testing.assert_array_equal(taker.step(x), giver.step(x))
    giver.reset()
    giver.state = taker.state
    np.testing.assert_array_equal(taker.step(x), giver.step(x))


@pytest.mark.parametrize(
    ("between", "apart"),
    [
        ("c = Identity(b)", True),
        ("c = Slice(b, {0}, {2}, {1})", True),
        ("c = Gather<axis = 1>(b, {3, 1})", True),
        ("c = Pad(b, {0, 1, 0, -1})", True),
        ("c = CumSum(b, {1})", True),
        ("m = ReduceMean<axes = [0]>(b) c = Sub(b, m)", False),
        ("c = Slice(b, {-1}, {-100}, {0}, {-1})", False),
        ("c = Pad(b, {1, 0, -1, 0})", False),
        ("c = CumSum(b, {0})", False),
        ("p = Pad(b, {0, 0, 1, 0}) c = Slice(p, {1}, {100}, {0})", False),
    ],
)
def test_no_groups_where_samples_depend_on_others(between, apart, monkeypatch):
    """Whatever keeps the number of rows, but not each row for itself."""
    named, constants = {"zero": np.float32(0), "one": np.float32(1)}, []
    for values in re.findall(r"\{(.*?)\}", between):
        constants.append(np.array([int(value) for value in values.split(",")]))
        named[f"k{len(constants)}"] = constants[-1]
        between = between.replace(f"{{{values}}}", f"k{len(constants)}", 1)
    if "CumSum" in between:
        named["k1"] = named["k1"][0]
    width = 2 if "Slice(b, k1, k2, k3)" in between or "Gather" in between else 4
    rng = np.random.default_rng(4)
    named["w"] = (rng.integers(-8, 9, (4, 4)) / 8).astype(np.float32)
    named["u"] = (rng.integers(-8, 9, (width, 3)) / 8).astype(np.float32)
    text = (
        f"net (float[N, 4] x) => (float[N, 3] y) {{ a = MatMul(x, w) b = Clip(a, zero, one) "
        f"{between} d = MatMul(c, u) y = Clip(d, zero, one) }}"
    )
    snn = convert(model(text, named)).model
    x = (rng.integers(-8, 9, (6, 4)) / 8).astype(np.float32)
    wanted = SpikingSession(snn, threads=1, plan="step").run(x, 18, [7])
    monkeypatch.setattr(groups, "CACHE", 1)
    session = SpikingSession(snn, threads=1)
    assert session.chosen(x).groups.long == (1 if apart else 6)
    same(session.run(x, 18, [7]), wanted)


@pytest.mark.parametrize("between", ["c = MatMul(z, w) d = Clip(c, zero, one)", "d = Neg(z)"])
def test_no_groups_where_some_tensor_has_one_row(between, monkeypatch):
    """The state of neurons, or an input."""
    text = (
        "net (float[N, 4] x, float[M, 4] z) => (float[N, 2] y) { a = MatMul(x, w) "
        f"b = Clip(a, zero, one) {between} e = Add(b, d) "
        "f = MatMul(e, w) g = Clip(f, zero, one) y = MatMul(g, u) }"
    )
    rng = np.random.default_rng(2)
    weights = {"w": rng.integers(-8, 9, (4, 4)) / 8, "u": rng.integers(-8, 9, (4, 2)) / 8}
    named = {name: value.astype(np.float32) for name, value in weights.items()}
    snn = convert(model(text, named | {"zero": np.float32(0), "one": np.float32(1)})).model
    x, z = ((rng.integers(-8, 9, (n, 4)) / 8).astype(np.float32) for n in (6, 1))
    wanted = SpikingSession(snn, threads=1, plan="step").run({"x": x, "z": z}, 18, [7])
    monkeypatch.setattr(groups, "CACHE", 1)
    session = SpikingSession(snn, threads=1)
    assert session.chosen({"x": x, "z": z}).groups.long == 6
    same(session.run({"x": x, "z": z}, 18, [7]), wanted)


def test_a_batch_of_a_fixed_size_is_one_group(monkeypatch):
    text = (
        "net (float[6, 4] x) => (float[6, 2] y) { a = MatMul(x, w) b = Clip(a, zero, one) "
        "c = Reshape(b, shape) d = MatMul(c, w) e = Clip(d, zero, one) y = MatMul(e, u) }"
    )
    rng = np.random.default_rng(1)
    named = {
        "w": (rng.integers(-8, 9, (4, 4)) / 8).astype(np.float32),
        "u": (rng.integers(-8, 9, (4, 2)) / 8).astype(np.float32),
        "shape": np.array([6, 4]), "zero": np.float32(0), "one": np.float32(1),
    }  # fmt: skip
    snn = convert(model(text, named)).model
    x = (rng.integers(-8, 9, (6, 4)) / 8).astype(np.float32)
    wanted = SpikingSession(snn, threads=1, plan="step").run(x, 18, [7])
    monkeypatch.setattr(groups, "CACHE", 1)
    same(SpikingSession(snn, threads=1).run(x, 18, [7]), wanted)


@pytest.mark.parametrize("together", [1, 3, 6])
def test_as_many_run_as_a_refusal_says(together, monkeypatch):
    network = dyadic.finish(1)
    snn = convert(dyadic.to_onnx(network)).model
    x = dyadic.images(network, 24)
    # They are the same for any number of samples.
    monkeypatch.setattr(estimate, "GRAPHS", 0)
    monkeypatch.setattr(estimate, "NODE", 0)
    weights = in_groups(monkeypatch, snn, x, together).chosen(x).memory.weights
    refused = 0
    for budget in range(weights, weights + 400_000, 20_000):
        session = SpikingSession(snn, threads=1, max_memory=budget)
        try:
            session.chosen(x)
        except DataError as error:
            found = re.search(r"up to (\d+)", str(error))
            if found:
                refused += 1
                fit = int(found[1])
                session.chosen(x[:fit])
                with pytest.raises(DataError):
                    session.chosen(x[: fit + 2])
    assert refused > 1


@pytest.mark.parametrize(
    ("numbers", "apart"),
    [
        ("s = Shape(b) n = Gather(s, i0) f = Cast<to = 1>(n) c = Mul(b, f)", False),
        ("s = Size(b) f = Cast<to = 1>(s) c = Div(b, f)", False),
        ("s = Shape(b) n = Gather(s, i0) r = Range(i0, n, i1) q = Cast<to = 1>(r) "
         "p = Reshape(q, column) c = Add(b, p)", False),
        ("s = Shape(b) n = Gather(s, i1) d = Gather(table, n) c = Mul(b, d)", False),
        ("s = Shape(b) n = Gather(s, i0) u = Unsqueeze(n, zeroth) d = Concat<axis = 0>(u, rest) "
         "c = Reshape(b, d)", True),
        ("s = Shape(b) n = Slice(s, zeroth, first) d = Concat<axis = 0>(n, rest) "
         "q = Expand(one, d) c = Mul(b, q)", True),
        ("s = Shape(b) z = ConstantOfShape(s) c = Add(b, z)", True),
        ("s = Shape(b) q = Expand(place, s) c = Add(b, q)", True),
        ("s = Shape(b) n = Slice(s, zeroth, first) q = Slice(rows, zeroth, n) "
         "c = Add(b, q)", False),
        ("s = Shape(b) n = Slice(s, zeroth, first) d = Concat<axis = 0>(n, first) "
         "q = Tile(rows, d) r = Slice(q, zeroth, n) c = Add(b, r)", False),
        ("s = Shape(b) n = Slice(s, zeroth, first) d = Concat<axis = 0>(n, first) "
         "q = Tile(token, d) c = Add(b, q)", True),
        ("s = Shape<start = 1>(b) f = Cast<to = 1>(s) c = Div(b, f)", True),
    ],
)  # fmt: skip
def test_sizes_to_compute_with(numbers, apart):
    values = {
        "i0": np.int64(0), "i1": np.int64(1), "zeroth": np.int64([0]), "first": np.int64([1]),
        "rest": np.int64([4]), "rows": np.ones((32, 4), np.float32),
        "token": np.ones((1, 4), np.float32), "column": np.int64([-1, 1]), "one": np.float32([1]),
        "table": np.arange(8, dtype=np.float32), "place": np.ones(4, np.float32),
        "lo": np.float32(0), "hi": np.float32(1),
        "w": dyadic.weights(np.random.default_rng(0), 4, 4),
    }  # fmt: skip
    text = (
        "net (float[N, 4] x) => (float[N, 4] y) { a = MatMul(x, w) b = Clip(a, lo, hi) "
        + numbers + " e = MatMul(c, w) y = Clip(e, lo, hi) }"
    )  # fmt: skip
    used = {name: value for name, value in values.items() if f"{name})" in text
            or f"{name}," in text or f"({name}" in text}  # fmt: skip
    graph = model(text, used)
    shapes = {"x": (5, 4)}
    assert samples_are_apart(graph, [], shapes, 5) == apart


def test_starts_of_more_samples_take_the_place_of_those_of_fewer(monkeypatch):
    """What knows where starts lie must not outlive them: chunks of 4 have smaller groups here."""
    monkeypatch.setattr(time_steps, "groups_of", lambda *_: Groups(6, 2, 12))
    network = dyadic.finish(2)
    x = dyadic.images(network, 12)
    snn = convert(dyadic.to_onnx(network), calibration=from_arrays(x), recipe="opi").model
    session = SpikingSession(snn, threads=1)
    reference = SpikingSession(snn, threads=1, plan="step")
    for timesteps in (4, 16, 4, 16, 4):
        same(session.run(x, timesteps), reference.run(x, timesteps))


@pytest.mark.parametrize(
    "between",
    [
        # Axes from the end.
        "c = CumSum(b, below)",
        "c = Trilu(b)",
        "c = ReverseSequence<batch_axis = 1, time_axis = 0>(b, lengths)",
        "c = ScatterND(b, row, ones)",
        # N itself, as numbers or as columns.
        "s = Shape(b) n = Slice(s, zeroth, first) q = Expand(n, four) f = Cast<to = 1>(q) "
        "c = Mul(b, f)",
        "s = Shape(b) n = Slice(s, zeroth, first) d = Concat<axis = 0>(n, n) "
        "p = Slice(b, zeroth, first, first) q = Expand(p, d) r = ReduceSum(q, first) "
        "c = Add(b, r)",
    ],
)
def test_more_by_which_samples_depend_on_others(between, monkeypatch):
    values = {
        "zeroth": np.int64([0]), "first": np.int64([1]), "four": np.int64([4]),
        "below": np.int64(-2), "lengths": np.int64([6, 3, 2, 5]), "row": np.int64([[1]]),
        "ones": np.ones((1, 4), np.float32),
        "lo": np.float32(0), "hi": np.float32(1),
        "w": dyadic.weights(np.random.default_rng(0), 4, 4),
    }  # fmt: skip
    text = (
        "net (float[N, 4] x) => (float[N, 4] y) { a = MatMul(x, w) b = Clip(a, lo, hi) "
        + between + " e = MatMul(c, w) y = Clip(e, lo, hi) }"
    )  # fmt: skip
    used = {name: value for name, value in values.items() if re.search(rf"\b{name}\b", text)}
    snn = convert(model(text, used)).model
    x = (np.random.default_rng(1).integers(-8, 9, (6, 4)) / 8).astype(np.float32)
    wanted = SpikingSession(snn, threads=1, plan="step").run(x, 18, [7])
    monkeypatch.setattr(groups, "CACHE", 1)
    session = SpikingSession(snn, threads=1)
    same(session.run(x, 18, [7]), wanted)
    assert session.chosen(x).groups.long == 6


@pytest.mark.parametrize(
    ("sums", "apart"),
    [
        ('Einsum<equation = "nvc, uv -> nuc">(b, w)', True),
        ('Einsum<equation = "uv,nvc->nuc">(w, b)', True),
        ('Einsum<equation = "nvc,nuc->nvu">(b, b)', True),
        ('Einsum<equation = "nvc,mvc->nvm">(b, b)', False),
        ('Einsum<equation = "nvc,mvc->nvc">(b, b)', False),
        ('Einsum<equation = "nvc,nv->nvc">(b, five)', False),
        ('Einsum<equation = "nvc,uv">(b, w)', False),
        ('Einsum<equation = "...c,cd->...d">(b, w)', False),
    ],
)
def test_einsums_are_along_samples_or_not(sums, apart):
    text = f"net (float[N, 4, 4] x) => (float[N, p, q] y) {{ b = Clip(x, lo, hi) y = {sums} }}"
    values = {"lo": np.float32(0), "hi": np.float32(1), "w": np.ones((4, 4), np.float32),
              "five": np.ones((5, 4), np.float32)}  # fmt: skip
    used = {name: value for name, value in values.items() if re.search(rf"\b{name}\b", text)}
    assert samples_are_apart(model(text, used), [], {"x": (5, 4, 4)}, 5) == apart


@pytest.mark.parametrize(
    ("opset", "transform", "apart"),
    [
        (17, "DFT<axis = 0>(b)", False),
        (17, "DFT(b)", True),
        (20, "DFT(b, , zeroth)", False),
        (20, "DFT(b, , first)", True),
        (20, "DFT(b)", True),
    ],
)
def test_fourier_transforms_are_along_samples_or_not(opset, transform, apart):
    text = (
        "net (float[N, 4, 1] x) => (float[N, 4, 1] y) { b = Clip(x, lo, hi) "
        f"f = {transform} y = Gather<axis = -1>(f, parts) }}"
    )
    values = {"lo": np.float32(0), "hi": np.float32(1), "parts": np.int64([0])}
    values |= {"zeroth": np.int64(0), "first": np.int64(1)} if opset == 20 else {}
    graph = model(text, values, opset)
    assert samples_are_apart(graph, [], {"x": (5, 4, 1)}, 5) == apart


@pytest.mark.parametrize(
    ("moved", "apart"),
    [
        # Turned round as torch.flip is, by axes that are given, or by all.
        ("Slice(b, last, least, zeroth, last)", False),
        ("Slice(b, last, least, first, last)", True),
        ("Slice(b, last, least, , last)", False),
        ("MeanVarianceNormalization(b)", False),
        ("MeanVarianceNormalization<axes = [2, 3]>(b)", True),
        ("Softmax(b)", True),
        ("Softmax<axis = 0>(b)", False),
        ("LpNormalization<axis = -4>(b)", False),
    ],
)
def test_rows_that_keep_their_number_and_move(moved, apart):
    text = (
        f"net (float[N, 4, 4, 4] x) => (float[N, 4, 4, 4] y) {{ b = Clip(x, lo, hi) y = {moved} }}"
    )
    values = {"lo": np.float32(0), "hi": np.float32(1), "last": np.int64([-1])}
    values |= {"zeroth": np.int64([0]), "first": np.int64([1])}
    values["least"] = np.int64([np.iinfo(np.int64).min])
    used = {name: value for name, value in values.items() if re.search(rf"\b{name}\b", text)}
    assert samples_are_apart(model(text, used), [], {"x": (5, 4, 4, 4)}, 5) == apart


def test_positions_of_rotations_may_be_of_each_sample():
    text = (
        "net (float[N, 2, 4, 8] x) => (float[N, 2, 4, 8] y) "
        "{ b = Clip(x, lo, hi) y = RotaryEmbedding(b, cos, sin) }"
    )
    tables = {name: np.ones((5, 4, 4), np.float32) for name in ("cos", "sin")}
    graph = model(text, {"lo": np.float32(0), "hi": np.float32(1)} | tables, 23)
    assert not samples_are_apart(graph, [], {"x": (5, 2, 4, 8)}, 5)
