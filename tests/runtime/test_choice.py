"""What a session chooses, and that it does what it says."""

import itertools
import re
from dataclasses import replace

import dyadic
import numpy as np
import pytest
from alike import same
from onnx_text import model

from onnx2snn import DataError, SpikingSession, convert, from_arrays
from onnx2snn.graph_passes.model_files.weights import detach
from onnx2snn.runtime import beginning, sums
from onnx2snn.runtime.choices import chunks, estimate, memory
from onnx2snn.runtime.choices.estimate import Estimate
from onnx2snn.runtime.derived_sums import MOST_STEPS
from onnx2snn.runtime.layers import int8, kernel_forms
from onnx2snn.runtime.plans.sizes import sizes_of
from onnx2snn.runtime.providers import CPU
from onnx2snn.runtime.sessions import OFTEN, Use, create_session

WIDE = (
    "net (float[N, 4] x) => (float[N, 2] y) { "
    "a = Gemm(x, w1) b = Clip(a, zero, one) c = Gemm(b, w2) d = Clip(c, zero, one) "
    "e = MatMul(d, w3) f = Clip(e, zero, one) y = Gemm(f, w4) }"
)


def wide(rng=None):
    rng = rng or np.random.default_rng(0)
    shapes = {"w1": (4, 32), "w2": (32, 24), "w3": (24, 16), "w4": (16, 2)}
    named = {n: (rng.integers(-8, 9, s) / 8).astype(np.float32) for n, s in shapes.items()}
    return convert(model(WIDE, named | {"zero": np.float32(0), "one": np.float32(1)})).model


def zeros(samples):
    return np.zeros((samples, 4), np.float32)


def test_the_numbers_that_decide(monkeypatch):
    monkeypatch.setattr(chunks, "CACHED", 0)
    session = SpikingSession(wide(), threads=1)
    found = {n: session.chosen(zeros(n)) for n in (1, 10, 40)}
    # The first layer is in the prologue, the last in the epilogue.
    for n, chosen in found.items():
        assert chosen.samples == n
        assert [(layer.weights, layer.computes, layer.uses) for layer in chosen.layers] == [
            (768, 24 * n, n), (384, 16 * n, n),
        ]  # fmt: skip
    assert [layer.time_batched for layer in found[10].layers] == [True, True]
    assert [layer.time_batched for layer in found[40].layers] == [False, False]
    assert found[1].chunks == found[10].chunks == (32, 16, 8, 4)
    assert found[40].chunks == (8, 4)
    assert found[40].layers[0].why == "no more weights than it computes"


def test_small_weights_are_in_the_cache():
    chosen = SpikingSession(wide(), threads=1).chosen(zeros(1))
    assert not chosen.time_batched
    assert {layer.why for layer in chosen.layers} == {"its weights fit the cache"}


def test_lengths_of_chunks():
    def longest(weights, uses, heavy=False, layout=(("v/a", ("N", 8, 4, 4)),)):
        layer = chunks.WeightedLayer(
            "a", "Conv", "w", weights, 128, uses, 0 if heavy else None, None
        )
        return chunks.lengths_of_chunks([layer], layout)[0]

    cached = chunks.CACHED
    few, many = chunks.FEW_USES - 1, chunks.FEW_USES
    assert longest(cached + 1, few) == (32, 16, 8, 4)
    assert longest(cached + 1, many) == longest(cached, few) == (16, 8, 4)
    # Nothing is time-batched, and nothing enters the layout of the CPU; or it is no CPU.
    assert longest(cached + 1, few, layout=()) == (8, 4)
    assert longest(cached + 1, few, layout=None) == (4,)
    assert longest(cached + 1, few, heavy=True, layout=None) == (32, 16, 8, 4)


def test_a_weight_is_used_at_each_place_of_each_sample():
    graph = model(
        "net (float[N, 3, 8, 8] x) => (float[N, 4, 5] y) { "
        "a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w1) b = Reshape(a, rows) "
        "y = MatMul(b, w2) }",
        {
            "w1": np.zeros((4, 3, 3, 3), np.float32),
            "w2": np.zeros((16, 5), np.float32),
            "rows": np.array([0, 4, 16]),
        },
    )
    layers = chunks.weighted_layers(graph, sizes_of(graph, {"x": (2, 3, 8, 8)}))
    assert [layer.uses for layer in layers] == [2 * 16, 2 * 4]


LADDERS = {
    (4,): ((3, [3]), (5, [5]), (7, [7]), (8, [4, 4]), (10, [6, 4])),
    (8, 4): ((5, [5]), (9, [9]), (12, [12]), (18, [10, 8]), (20, [12, 8]), (21, [13, 8])),
    (16, 8, 4): ((2, [1, 1]), (3, [3]), (12, [12]), (15, [15]), (18, [1, 1, 16]), (23, [7, 16])),
    (32, 16, 8, 4): ((20, [4, 16]), (31, [15, 16]), (33, [1, 32]), (61, [13, 32, 16])),
}


@pytest.mark.parametrize("lengths", LADDERS)
def test_what_is_left_over_runs_first(lengths):
    chosen = SpikingSession(wide(), threads=1).chosen(zeros(3))
    chosen = replace(chosen, chunks=lengths, between=chunks.lengths_between(lengths[0], False))
    for timesteps, wanted in LADDERS[lengths]:
        assert in_turn(chosen, timesteps) == wanted


def test_what_no_other_length_takes_is_left_over_of_all_chunks():
    chosen = SpikingSession(wide(), threads=1).chosen(zeros(3))
    chosen = replace(chosen, chunks=(16, 8, 4), between=range(3, 6))
    for timesteps, wanted in ((7, [3, 4]), (23, [3, 4, 16]), (13, [1, 8, 4]), (21, [5, 16])):
        assert in_turn(chosen, timesteps) == wanted


@pytest.fixture
def chunks_alone(monkeypatch):
    leave_chunks_alone(monkeypatch)


def leave_chunks_alone(patch):
    """There are no lengths between those of chunks."""
    patch.setattr(estimate, "lengths_between", lambda *_: range(0))


@pytest.mark.usefixtures("chunks_alone")
def test_without_other_lengths_it_runs_one_at_a_time():
    chosen = SpikingSession(wide(), threads=1).chosen(zeros(3))
    assert not chosen.between
    chosen = replace(chosen, chunks=(16, 8, 4))
    for timesteps, wanted in ((23, [1, 1, 1, 16, 4]), (28, [16, 8, 4]), (5, [1, 4]), (3, [1] * 3)):
        assert in_turn(chosen, timesteps) == wanted


@pytest.mark.parametrize("cached", [0, 2**18])
def test_lengths_between_are_as_many_as_fit(monkeypatch, cached):
    monkeypatch.setattr(chunks, "CACHED", cached)
    without = memory_of_chunks_alone(monkeypatch)
    # Time-batched, as all layers are then, 2 time-steps take less than 1 + 1.
    fewest, longest = 3 if cached else 2, []
    for room in (2**28, 2**22, 2**21, 2**20, 2**19, 2**14):
        monkeypatch.setattr(estimate, "EXTRA_ACTIVATIONS", room)
        chosen = SpikingSession(wide(), threads=1).chosen(zeros(3))
        longest.append(max(chosen.between, default=fewest - 1))
        assert chosen.between == range(fewest, longest[-1] + 1)
        assert chosen.memory.total - without.total <= room
    assert longest[0] == 15
    assert longest[-1] == fewest - 1
    assert len(set(longest)) > 3
    assert longest == sorted(longest, reverse=True)


def memory_of_chunks_alone(monkeypatch):
    with monkeypatch.context() as patch:
        leave_chunks_alone(patch)
        return SpikingSession(wide(), threads=1).chosen(zeros(3)).memory


def test_a_budget_has_lengths_between_where_they_fit():
    by_default = SpikingSession(wide(), threads=1).chosen(zeros(3))
    fewer = []
    for short in (0, 1, 2**21):
        most = by_default.memory.total - short
        chosen = SpikingSession(wide(), threads=1, max_memory=most).chosen(zeros(3))
        assert chosen.chunks == by_default.chunks
        assert chosen.memory.total <= most
        fewer.append(len(chosen.between))
    assert fewer[0] == len(by_default.between) > fewer[1] > fewer[2]


def test_graphs_of_lengths_between_are_in_the_estimate(monkeypatch):
    """Each holds a copy of all weights, and a time-step's nodes as often as it has time-steps."""
    session = SpikingSession(wide(), threads=1)
    without = memory_of_chunks_alone(monkeypatch)
    chosen, costs = session.chosen(zeros(3)), session._progress.time_steps.costs
    lengths = set(chosen.between) - set(chosen.chunks)
    assert lengths
    assert chosen.memory.weights == without.weights + len(lengths) * costs.copied
    nodes = sum(map(memory.nodes_of, costs.peaks.step.graph.node))
    assert chosen.memory.graphs == without.graphs + memory.NODE * nodes * sum(lengths)


def test_lengths_whose_graphs_alone_are_too_large_are_not_unrolled(monkeypatch):
    """Which took half of the first run of 200 layers."""
    monkeypatch.setattr(estimate, "EXTRA_ACTIVATIONS", 2**14)
    monkeypatch.setattr(estimate.Estimate, "_memory_with", lambda *_: pytest.fail("was unrolled"))
    assert not SpikingSession(wide(), threads=1).chosen(zeros(3)).between


def test_short_chunks_are_longer_only_up_to_the_most_nodes(monkeypatch):
    """A time-step has 15."""
    monkeypatch.setattr(estimate, "MOST_NODES", 150)
    chosen = SpikingSession(wide(), threads=1).chosen(zeros(3))
    assert (chosen.chunks, chosen.between) == ((8, 4), range(3, 11))


@pytest.mark.parametrize("cached", [0, 2**18])
def test_every_number_of_time_steps_gives_the_same_spikes(monkeypatch, cached):
    monkeypatch.setattr(chunks, "CACHED", cached)
    x = (np.random.default_rng(0).integers(-8, 9, (3, 4)) / 8).astype(np.float32)
    auto, step = SpikingSession(wide(), threads=1), SpikingSession(wide(), threads=1, plan="step")
    for timesteps in range(1, 36):
        same(auto.run(x, timesteps), step.run(x, timesteps))


def in_turn(chosen, timesteps):
    """The lengths of the runs of so many time-steps."""
    run = []
    while sum(run) < timesteps:
        run.append(chosen.chunk(timesteps - sum(run)))
    return run


@pytest.mark.usefixtures("chunks_alone")
def test_starts_are_written_out_for_chunks_alone():
    """Where a time-step ran before, states are in full."""
    session = SpikingSession(wide(), threads=1)
    x = np.random.default_rng(0).random((3, 4), dtype=np.float32)
    wanted = SpikingSession(wide(), threads=1, plan="step")
    for timesteps, written in ((1, False), (3, False), (7, False), (8, True), (2, True)):
        same(session.run(x, timesteps), wanted.run(x, timesteps))
        assert bool(session._progress.states._first) == written


def test_what_is_shown_is_what_runs(monkeypatch):
    monkeypatch.setattr(chunks, "CACHED", 0)
    session = SpikingSession(wide(), threads=1)
    chosen = session.chosen(zeros(3))
    session.run(zeros(3), 61)
    assert {key.steps for key in session._progress.time_steps.sessions} == {13, 16, 32}
    assert {13, 16, 32} <= {*chosen.chunks, *chosen.between}
    assert {key.time_batched for key in session._progress.time_steps.sessions if key.steps > 1} == {
        tuple(chosen.time_batched.items())
    }


def test_the_step_plan_has_no_chunks():
    chosen = SpikingSession(wide(), threads=1, plan="step").chosen(zeros(3))
    assert chosen.chunks == ()
    assert not chosen.derived_counts
    assert not chosen.short_of_memory


def test_chosen_leaves_the_state_alone():
    network = dyadic.finish(2)
    session = SpikingSession(convert(dyadic.to_onnx(network)).model, threads=1)
    x = dyadic.images(network, 3)
    session.run(x, 5)
    before = session.state
    session.chosen(dyadic.images(network, 7))
    for name, value in session.state.items():
        np.testing.assert_array_equal(value, before[name])
    with pytest.raises(DataError, match="one time-step"):
        session.chosen(x[None])


def test_memory_grows_with_samples_and_states_are_exact():
    session = SpikingSession(wide(), threads=1)
    found = [session.chosen(zeros(n)).memory for n in (1, 2, 8, 64)]
    for less, more in itertools.pairwise(found):
        assert less.weights == more.weights
        assert less.activations < more.activations
        assert less.total < more.total
    # v of 32 + 24 + 16 neurons and the sum that the read-out reads, 16; float32, twice.
    assert found[1].states == 2 * 2 * 4 * (32 + 24 + 16 + 16)
    # Chunks read them in full once more, as they are at first.
    assert found[1].starts == found[1].states / 2


# The budget ----------------------------------------------------------------------------


def budgets(session, x, readouts=1):
    """The least totals of all ways to run, as (lean, chunks), the fastest first."""
    found, chosen = {}, session.chosen(x, readouts=readouts)
    fastest = chosen.lean, chosen.chunks
    while True:
        least = chosen.memory.needed
        found[chosen.lean, chosen.chunks] = least
        session._progress.time_steps.choices.clear()
        costs = session._progress.time_steps.costs
        session._progress.time_steps.costs = replace(costs, max_memory=least - 1)
        try:
            chosen = session.chosen(x, readouts=readouts)
        except DataError:
            return found
        slower = (chosen.lean, chosen.chunks) != fastest
        assert chosen.short_of_memory == (costs.in_chunks and slower)


def with_budget(snn, most=2**40, **options):
    return SpikingSession(snn, threads=1, max_memory=most, **options)


def test_chunks_get_shorter_with_the_budget(monkeypatch):
    monkeypatch.setattr(chunks, "CACHED", 0)
    monkeypatch.setattr(estimate, "LEAN_USES", 0)
    found = budgets(with_budget(wide()), zeros(5))
    lengths = [(32, 16, 8, 4), (16, 8, 4), (16, 4), (16,), (4,), ()]
    assert list(found)[:6] == [(False, each) for each in lengths]
    # Of lean chunks the first to fit are those that take less than a time-step that is not lean.
    lean = [(True, each) for each in lengths]
    assert list(found)[6:] == lean[6 - len(found) :]
    assert len(found) > 6
    assert list(found.values()) == sorted(found.values(), reverse=True)
    for way, total in found.items():
        chosen = with_budget(wide(), total).chosen(zeros(5))
        assert (chosen.lean, chosen.chunks) == way


def deep(rng=None):
    """Three dense layers of 64, the neurons between with thresholds of their own."""
    rng = rng or np.random.default_rng(0)
    named = {n: (rng.integers(-8, 9, (64, 64)) / 32).astype(np.float32) for n in ("w1", "w2", "w3")}
    text = (
        "net (float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w1) b = Clip(a, zero, one) "
        "c = MatMul(b, w2) d = Clip(c, zero, two) e = MatMul(d, w2) f = Clip(e, zero, one) "
        "g = MatMul(f, w3) y = Clip(g, zero, two) }"
    )
    bounds = {"zero": np.float32(0), "one": np.float32(1), "two": np.float32(2)}
    return convert(model(text, named | bounds)).model


@pytest.mark.parametrize(("samples", "first"), [(1, (True, (32, 16, 8, 4))), (24, (False, ()))])
def test_lean_chunks_go_before_single_time_steps_where_they_are_faster(samples, first, monkeypatch):
    monkeypatch.setattr(chunks, "CACHED", 0)
    monkeypatch.setattr(estimate, "NODE", 0)
    monkeypatch.setattr(beginning, "SMALL_PART", 2**40)
    snn, x = deep(), np.zeros((samples, 64), np.float32)
    found = budgets(with_budget(snn), x)
    ways = list(found)
    assert next(way for way in ways if way[0] or not way[1]) == first
    lean = with_budget(snn, min(found.values())).chosen(x)
    assert lean.lean
    weights = SpikingSession(snn, threads=1)._plan.weights
    assert lean.memory.weights == sum(values.nbytes for values in weights.values())


@pytest.mark.parametrize("providers", [None, [CPU], [(CPU, {})]])
def test_lean_sessions_hold_no_weights(providers, monkeypatch):
    monkeypatch.setattr(beginning, "SMALL_PART", 2**40)
    snn = deep()
    x = np.random.default_rng(1).integers(-8, 9, (3, 64)).astype(np.float32) / 8
    least = min(budgets(with_budget(snn), x, readouts=2).values())
    session = with_budget(snn, least, providers=providers)
    same(session.run(x, 41, [3]), SpikingSession(snn, threads=1, plan="step").run(x, 41, [3]))
    held = {value.ctypes.data for value in session._plan.weights.values()}
    made = [
        *session._progress.time_steps.sessions.values(),
        session._progress.prologue.session,
        session._progress.sums._session,
    ]
    # One matrix is that of two layers; the sums of the last one do not need its own.
    assert [len(each.weight_feed) for each in made] == [*[2] * (len(made) - 2), 1, 1]
    for each in made:
        assert {value.ctypes.data for value in each.weight_feed.values()} <= held


def test_prologue_and_read_outs_hold_a_small_part_of_a_budget():
    """Convolutions of weights that are inputs are slow."""
    x = np.zeros((3, 64), np.float32)
    bytes_of_first = 4 * 64 * 64
    for most, held in ((2**40, True), (beginning.SMALL_PART * bytes_of_first, True),
                       (beginning.SMALL_PART * bytes_of_first - 1, False)):  # fmt: skip
        progress = with_budget(deep(), most)._progress
        assert bool(progress.prologue.session.weight_feed) != held
        assert progress.time_steps.costs.held == held * bytes_of_first
    # Of three matrices in all; a graph holds them once more, and so does one that is made. What
    # the prologue holds counts beside chunks.
    chosen = with_budget(deep(), plan="step").chosen(x)
    assert chosen.memory.weights == 3 * 3 * bytes_of_first


def test_float16_is_never_lean():
    weight = (np.random.default_rng(0).integers(-8, 9, (64, 64)) / 32).astype(np.float16)
    text = (
        "net (float16[N, 64] x) => (float16[N, 64] y) { a = Clip(x, zero, one) b = MatMul(a, w) "
        "y = Clip(b, zero, one) }"
    )
    snn = convert(model(text, {"w": weight, "zero": np.float16(0), "one": np.float16(1)})).model
    costs = with_budget(snn)._progress.time_steps.costs
    assert not costs.may_be_lean
    # ONNX Runtime computes with it in float32, of twice the size.
    assert costs.copied == 2 * costs.weights


def test_eight_bits_are_never_lean(monkeypatch):
    monkeypatch.setattr(int8, "WORTH", np.inf)
    session = with_budget(deep(), precision="int8")
    assert {row.precision for row in session.precisions} == {"int8"}
    assert not any(lean for lean, _ in budgets(session, np.zeros((1, 64), np.float32)))


@pytest.mark.parametrize("width", [1, 8])
@pytest.mark.parametrize("seed", range(6))
def test_every_budget_gives_the_same_spikes(seed, width, monkeypatch):
    monkeypatch.setattr(chunks, "CACHED", 0)
    # Graphs then give back their memory to each other, as large ones do.
    monkeypatch.setattr(estimate, "FEW_ACTIVATIONS", 0)
    network = dyadic.finish(seed, width=width)
    snn = convert(dyadic.to_onnx(network)).model
    x = dyadic.images(network, 3)
    wanted = SpikingSession(snn, threads=1, plan="step").run(x, 63, [7])
    found = budgets(with_budget(snn), x, readouts=2)
    assert len(found) > 1
    assert width == 1 or {lean for lean, _ in found} == {True, False}
    for (_, lengths), total in found.items():
        session = with_budget(snn, total)
        result = session.run(x, 63, [7])
        assert {key.steps for key in session._progress.time_steps.sessions} == {1, *lengths}
        same(result, wanted)


def test_sessions_of_another_n_go_where_they_do_not_fit(monkeypatch):
    monkeypatch.setattr(estimate, "FEW_ACTIVATIONS", 3000)
    snn = wide()
    generous = SpikingSession(snn, threads=1, max_memory=2**40)
    for samples in (1, 40):
        generous.run(zeros(samples), 23)
    kept = len(generous._progress.time_steps.sessions)
    total = generous.chosen(zeros(40)).memory.total
    session = SpikingSession(snn, threads=1, max_memory=total)
    for samples in (1, 40):
        same(session.run(zeros(samples), 23), generous.run(zeros(samples), 23))
    assert len(session._progress.time_steps.sessions) < kept


def test_what_does_not_fit_is_refused():
    snn = wide()
    least = min(budgets(with_budget(snn), zeros(8)).values())
    session = with_budget(snn, least - 1)
    for run in (lambda: session.run(zeros(8), 4), lambda: session.step(zeros(8))):
        with pytest.raises(DataError, match=r"of 8 samples needs about .* at a time, up to 7"):
            run()
    session.run(zeros(7), 4)
    alone = min(budgets(with_budget(snn), zeros(1)).values())
    with pytest.raises(DataError, match=f"raise it; one sample needs about {alone:,}$"):
        with_budget(snn, alone - 1).run(zeros(8), 4)
    with pytest.raises(DataError, match=r"max_memory is 1,000: raise it$"):
        SpikingSession(snn, max_memory=1000).run(zeros(1), 1)
    with pytest.raises(DataError, match="a number of bytes"):
        SpikingSession(snn, max_memory=0)


@pytest.mark.parametrize("samples", [1, 2])
def test_sizes_behind_a_pool_that_counts_are_known(samples):
    """Its function asks for shapes."""
    text = "net (float[N, 2, 8, 8] x) => (float[N, 2, 2, 2] y) { a = Clip(x, zero, one) "
    text += "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a) c = Conv(p, w) "
    text += "y = Clip(c, zero, one) }"
    values = {"zero": np.float32(0), "one": np.float32(1), "w": np.ones((2, 2, 3, 3), np.float32)}
    snn = convert(model(text, values), maxpool="exact").model
    chosen = SpikingSession(snn, threads=1).chosen(np.zeros((samples, 2, 8, 8), np.float32))
    (layer,) = chosen.layers
    assert layer.computes == samples * 2 * 2 * 2


@pytest.mark.parametrize(("most", "times"), [(2**40, 2), (None, 0)])
def test_within_a_budget_memory_is_given_back_once_counts_are_worked_out(monkeypatch, most, times):
    given_back = []
    monkeypatch.setattr(sums, "give_back_memory", lambda: given_back.append(True))
    result = with_budget(wide(), most).run(zeros(3), 5, [2])
    assert not given_back
    for readout in (*result.readouts.values(), *result.readouts.values()):
        assert readout.firing_rates
    assert len(given_back) == times


def needed(snn, x, **run):
    """The bytes that a refusal names."""
    with pytest.raises(DataError, match="needs about") as refusal:
        SpikingSession(snn, threads=1, max_memory=1000).chosen(x, **run)
    return int(re.search(r"about ([\d,]+) bytes", str(refusal.value))[1].replace(",", ""))


def test_the_bytes_that_a_refusal_names_are_enough_and_more_are():
    """Also where a 32nd of them is about what the prologue holds of weights, once more."""
    text = "net (float[N, 784] x) => (float[N, 9] y) { a = MatMul(x, w) c = Clip(a, lo, hi) "
    values = {"lo": np.float32(0), "hi": np.float32(1)}
    x = np.zeros((1, 784), np.float32)
    for width in range(300, 321, 4):
        values |= {"w": np.ones((784, width), np.float32), "v": np.ones((width, 9), np.float32)}
        snn = convert(model(f"{text} y = MatMul(c, v) }}", values)).model
        least = needed(snn, x)
        for most in (least, *range(least, least + 2 * least // 32, 2**17)):
            with_budget(snn, most).chosen(x)
        with pytest.raises(DataError, match="needs about"):
            with_budget(snn, least - 1).chosen(x)


def test_a_step_needs_no_read_outs_of_a_run_that_was_refused():
    snn, x = wide(), zeros(40)

    most = (needed(snn, x) + needed(snn, x, readouts=9)) // 2
    session = SpikingSession(snn, threads=1, max_memory=most)
    session.run(x, 5)
    state = session.state
    with pytest.raises(DataError, match="read out 9 times"):
        session.run(x, 32, [*range(1, 9)])
    session.step(x)
    session.state = state
    session.step(x)


def test_as_many_samples_as_a_refusal_names_fit():
    snn = wide()
    one, many = (min(budgets(with_budget(snn), zeros(n)).values()) for n in (1, 40))
    for most in (one + (many - one) // 8, (one + many) // 2, many - 1):
        session = with_budget(snn, most)
        with pytest.raises(DataError, match="up to") as refusal:
            session.chosen(zeros(40))
        named = int(re.search(r"up to (\d+)", str(refusal.value))[1])
        session.chosen(zeros(named))
        with pytest.raises(DataError):
            session.chosen(zeros(named + 2))


@pytest.mark.parametrize("plan", ["auto", "step"])
def test_each_read_out_keeps_states(plan):
    snn = wide()
    choice = with_budget(snn, plan=plan).chosen(zeros(8))
    session = with_budget(snn, choice.memory.total, plan=plan)
    session.run(zeros(8), 4)
    least = min(budgets(session, zeros(8)).values())
    session = with_budget(snn, least, plan=plan)
    session.run(zeros(8), 4)
    with pytest.raises(DataError, match="of 8 samples, read out 4 times, needs about"):
        session.run(zeros(8), 4, [1, 2, 3])
    session.run(zeros(8), 4)


def test_what_read_outs_keep_is_in_the_estimate():
    session = SpikingSession(wide(), threads=1)
    x = zeros(8)
    values = session._progress.prologue.step_inputs(dict.fromkeys(session.inputs, x))
    once, more = (session.chosen(x, readouts=n).memory for n in (1, 5))
    shapes = session.chosen(x).shapes
    copies = sum(4 * int(np.prod(shapes[name])) for name in session._progress.sums.kept)
    # Each is there twice: the result of the run before may be held while one of these is counted.
    assert more.counts == once.counts + 8 * copies
    assert session.chosen(x, readouts=50).memory.counts == once.counts + 98 * copies
    varying = session._progress.time_steps.choice(values, 5, varying=True, prologue=0).memory
    assert varying.inputs * 3 == more.inputs * 12
    # What has been read is one array a read-out: the sum so far.
    inputs = np.random.default_rng(0).normal(size=(6, *x.shape)).astype(np.float32)
    result = session.run(inputs, 6, [2, 4])
    for readout in result.readouts.values():
        assert readout.sums().keys() == {n for neuron in session.neurons
                                         for n in (neuron.spikes, neuron.positive)}  # fmt: skip


@pytest.mark.usefixtures("chunks_alone")
def test_graphs_keep_their_activations_where_there_is_room(monkeypatch):
    monkeypatch.setattr(estimate, "FEW_ACTIVATIONS", 0)
    kept = SpikingSession(wide(), max_memory=2**40).chosen(zeros(5)).memory
    assert kept.idle > 0
    assert not kept.gives_back
    less = SpikingSession(wide(), max_memory=kept.total - 1).chosen(zeros(5)).memory
    assert less == replace(kept, idle=0)
    assert less.gives_back
    monkeypatch.setattr(estimate, "EXTRA_ACTIVATIONS", kept.idle - 1)
    assert SpikingSession(wide()).chosen(zeros(5)).memory.gives_back


@pytest.mark.usefixtures("chunks_alone")
def test_memory_is_planned_ahead_where_there_is_room():
    """It takes that of activations once more, in each graph."""
    by_default = SpikingSession(wide()).chosen(zeros(5)).memory
    assert by_default.planned == by_default.activations + by_default.idle > 0
    planned = SpikingSession(wide(), max_memory=2**40).chosen(zeros(5)).memory
    assert planned.planned == planned.activations + planned.idle > 0
    session = SpikingSession(wide(), max_memory=planned.total)
    assert session.chosen(zeros(5)).memory == planned
    less = SpikingSession(wide(), max_memory=planned.total - 1).chosen(zeros(5)).memory
    assert less == replace(planned, planned=0)
    assert not less.gives_back


@pytest.mark.usefixtures("chunks_alone")
@pytest.mark.parametrize(("alone", "most", "idle"), [(10, 1000, 1010), (5000, 5000, 2000)])
def test_activations_of_all_graphs_count(alone, most, idle, monkeypatch):
    """Chunks of two lengths, and single time-steps, which may take more."""
    monkeypatch.setattr(Estimate, "_peak", lambda _, t: alone if t == 1 else 1000)
    chosen = with_budget(wide()).chosen(zeros(5))
    assert chosen.chunks == (8, 4)
    assert (chosen.memory.activations, chosen.memory.idle) == (most, idle)


def test_what_a_time_step_takes_itself_is_not_what_a_chunk_takes_more(monkeypatch):
    monkeypatch.setattr(Estimate, "_peak", lambda _, t: 2**30 + t)
    for more, lengths in ((7, (8, 4)), (6, (4,)), (2, ())):
        monkeypatch.setattr(estimate, "EXTRA_ACTIVATIONS", more)
        assert SpikingSession(wide(), threads=1).chosen(zeros(3)).chunks == lengths


def test_weights_are_there_twice_while_they_are_rounded():
    session = with_budget(wide(), plan="step")
    time_steps = session._progress.time_steps
    weights = time_steps.costs.weights
    # A graph of time-steps copies all, once more while it is made; or next to nothing.
    for copied, wanted in ((weights, 3 * weights), (16, 2 * weights - 16)):
        time_steps.choices.clear()
        time_steps.costs = replace(time_steps.costs, copied=copied)
        assert session.chosen(zeros(3)).memory.weights == wanted


def test_by_default_a_chunk_takes_little_more_than_a_time_step(monkeypatch):
    monkeypatch.setattr(estimate, "EXTRA_ACTIVATIONS", -1)
    assert SpikingSession(wide()).chosen(zeros(3)).chunks == ()
    assert SpikingSession(wide()).chosen(zeros(3)).short_of_memory


def test_lean_by_default_is_not_for_want_of_memory(monkeypatch):
    monkeypatch.setattr(estimate, "NODE", 0)
    monkeypatch.setattr(estimate, "GRAPHS", 0)
    monkeypatch.setattr(estimate, "LEAN_SHARE", 100)
    monkeypatch.setattr(chunks, "CACHED", 0)
    monkeypatch.setattr(Estimate, "pays_by_default", True)
    x = np.zeros((1, 64), np.float32)
    chosen = SpikingSession(deep(), threads=1).chosen(x)
    assert (chosen.lean, chosen.short_of_memory) == (True, False)
    least = with_budget(deep(), min(budgets(with_budget(deep()), x).values())).chosen(x)
    assert (least.lean, least.short_of_memory) == (True, True)


# Estimates -----------------------------------------------------------------------------


def test_activations_of_a_graph_by_hand():
    graph = model(
        "net (float[N, 8] x) => (float[N, 8] y) { "
        "a = Exp(x) b = Exp(a) c = Greater(a, b) d = Where(c, a, b) e = Add(d, a) y = Exp(e) }",
        {},
    )
    # a, b, c and d at once, 8 numbers each, c of one byte; e takes d's place.
    alive = 4 * 8 * 3 + 8
    sizes = sizes_of(graph, {"x": (10, 8)})
    order = memory.as_executed(graph.graph.node)
    assert memory.peak_of_activations(graph, sizes, order) == memory.FRAGMENTED * alive * 10


@pytest.mark.parametrize(
    ("nodes", "numbers"),
    [
        ("a = Exp(x) b = Relu(a) y = Exp(b)", 8),
        # "a" is read again, so that its place is not free.
        ("a = Exp(x) b = Relu(a) c = Exp(b) y = Add(c, a)", 3 * 8),
        # Nothing reads "b".
        ("a, b = Split<axis = 1>(x) c = Exp(a) d = Concat<axis = 1>(c, c) y = Exp(d)", 4 + 8),
    ],
)
def test_places_of_what_is_not_read_again(nodes, numbers):
    graph = model(f"net (float[N, 8] x) => (float[N, 8] y) {{ {nodes} }}", {})
    sizes = sizes_of(graph, {"x": (10, 8)})
    peak = memory.peak_of_activations(graph, sizes, memory.as_executed(graph.graph.node))
    assert peak == memory.FRAGMENTED * 4 * numbers * 10


def test_convolutions_to_few_channels_are_padded(monkeypatch):
    monkeypatch.setattr(kernel_forms, "block_of_channels", lambda: 16)

    def peak(nodes, channels, **filters):
        values = {name: np.ones(shape, np.float32) for name, shape in filters.items()}
        graph = model(
            f"net (float[N, 3, 5, 5] x) => (float[N, {channels}, 5, 5] y) {{ a = Exp(x) {nodes} }}",
            values,
        )
        sizes = sizes_of(graph, {"x": (10, 3, 5, 5)})
        found = memory.peak_of_activations(graph, sizes, memory.as_executed(graph.graph.node))
        return found / memory.FRAGMENTED / (4 * 25 * 10)

    # What is read, 3 or 18 channels, is there while results are made in blocks.
    assert peak("y = Conv(a, w)", 2, w=(2, 3, 1, 1)) == 3 + 16
    assert peak("b = Conv(a, w) y = Exp(b)", 17, w=(17, 3, 1, 1)) == 3 + 32
    assert peak("b = Conv(a, w) y = Conv(b, v)", 2, w=(18, 3, 1, 1), v=(2, 18, 1, 1)) == 3 + 32
    # 18 channels are read as they are, and what is made of them is not in blocks.
    filters = {"w": (18, 3, 1, 1), "v": (40, 18, 1, 1)}
    assert peak("b = Conv(a, w) c = Exp(b) y = Conv(c, v)", 40, **filters) == 18 + 18
    # A depthwise one is padded on both sides, if at all.
    depthwise = {"w": (20, 3, 1, 1), "v": (20, 1, 1, 1)}
    assert peak("b = Conv(a, w) y = Conv<group = 20>(b, v)", 20, **depthwise) == 20 + 2 * 32
    depthwise = {"w": (18, 3, 1, 1), "v": (18, 1, 1, 1)}
    assert peak("b = Conv(a, w) y = Conv<group = 18>(b, v)", 18, **depthwise) == 3 + 32


def test_a_prologue_and_a_read_out_count():
    text = (
        "net (float[N, 3, H, W] x) => (float[N, 2, H, W] y) { "
        "a = Conv(x, w) b = Clip(a, zero, one) c = Conv(b, v) s = Softmax<axis = 1>(c) "
        "e = Exp(s) y = Log(e) }"
    )
    values = {"w": np.ones((2, 3, 1, 1), np.float32), "v": np.ones((2, 2, 1, 1), np.float32),
              "zero": np.float32(0), "one": np.float32(1)}  # fmt: skip
    snn = convert(model(text, values)).model
    session = SpikingSession(snn, threads=1)
    found = {h: session.chosen(np.ones((1, 3, h, 8), np.float32)).memory for h in (8, 80)}
    assert found[80].read_out == 10 * found[8].read_out > 0
    plan = session._plan
    assert plan.read_out is not None
    # Of the last three, two at once are 2 channels each.
    assert found[8].read_out >= memory.FRAGMENTED * 4 * 64 * (2 + 2)


def test_averages_count():
    """Of sums and of silence, and in float64: beside a large read-out states are small."""
    text = (
        "net (float[N, 2, 4, 4] x) => (float[N, 2, 64, 64] y) "
        "{ a = Clip(x, zero, one) y = Resize(a, , scales) }"
    )
    values = {"zero": np.float32(0), "one": np.float32(1)}
    values["scales"] = np.array([1, 1, 16, 16], np.float32)
    session = SpikingSession(convert(model(text, values)).model, threads=1)
    found = session.chosen(np.zeros((3, 2, 4, 4), np.float32)).memory
    assert found.read_out >= (4 + 4 + 8) * 3 * 2 * 64 * 64


def test_pools_of_a_prologue_copy_what_they_read():
    """Into the layout of the CPU, where the convolution before them is not in it."""
    text = (
        "net (float[N, 3, 8, 8] x) => (float[N, 2, 4, 4] y) { a = Conv(x, w) "
        "p = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(a) y = Clip(p, zero, one) }"
    )
    values = {"w": np.ones((64, 3, 1, 1), np.float32), "zero": np.float32(0), "one": np.float32(1)}
    text = text.replace("y = Clip", "c = Conv(p, u) y = Clip").replace("(p, zero", "(c, zero")
    values["u"] = np.ones((2, 64, 1, 1), np.float32)
    session = SpikingSession(convert(model(text, values)).model, threads=1)
    found = memory.prologue_memory(session._plan.prologue, {"x": (5, 3, 8, 8)})
    assert found > memory.FRAGMENTED * 2 * 4 * 64 * 64 * 5
    # More than a read-out takes, which runs when the prologue is done.
    assert session.chosen(np.zeros((5, 3, 8, 8), np.float32)).memory.read_out == found


def test_no_chunk_is_made_whose_graph_alone_is_too_much(monkeypatch):
    snn = wide()
    monkeypatch.setattr(estimate, "NODE", 2**20)
    least = needed(snn, zeros(1))
    monkeypatch.setattr(memory, "unrolled", None)
    assert SpikingSession(snn, threads=1, max_memory=least + 2**25).chosen(zeros(1)).chunks == ()


def test_all_graphs_of_a_session_count():
    session = SpikingSession(wide(), threads=1)
    made, derived = session._plan, session._progress.sums._derived
    assert made.read_out is None
    models = made.prologue, made.epilogue, derived.sums, derived.silent
    assert session._progress.time_steps.costs.nodes == sum(len(each.graph.node) for each in models)


def test_longer_chunks_are_never_estimated_lower():
    network = dyadic.finish(4)
    session = SpikingSession(convert(dyadic.to_onnx(network)).model, threads=1)
    shapes = {"v/" + n.name: (2, *n.shape) for n in session.neurons}
    shapes |= {n: v.shape for n, v in _reads(session, dyadic.images(network, 2)).items()}
    layers = session.chosen(dyadic.images(network, 2)).layers
    for heavy in ({}, {layer.name: layer.axis for layer in layers if layer.axis is not None}):
        for by_layer in (False, True):
            found = [
                session._progress.time_steps.costs.peaks.of(k, heavy, 2, shapes, by_layer, {})
                for k in (2, 4, 8, 16)
            ]
            assert found == sorted(found)


def test_estimates_that_are_kept_are_of_what_is_asked():
    network = dyadic.finish(4)
    session = SpikingSession(convert(dyadic.to_onnx(network)).model, threads=1)
    chosen = session.chosen(dyadic.images(network, 2))
    heavy = {layer.name: layer.axis for layer in chosen.layers if layer.axis is not None}
    peaks, node = session._progress.time_steps.costs.peaks, next(iter(heavy))
    asked = [
        (timesteps, batched, 2, chosen.shapes, by_layer, scratch)
        for timesteps, batched, by_layer, scratch in itertools.product(
            (4, 8), ({}, heavy), (False, True), ({}, {node: 1000})
        )
    ]
    apart = [replace(peaks, found={}).of(*each) for each in asked]
    assert len(set(apart)) > len(asked) / 2
    assert [peaks.of(*each) for each in asked] == apart
    # What a node takes besides it takes for all time-steps that are one run of it.
    for (timesteps, batched, *_), without, found in zip(
        asked[::2], apart[::2], apart[1::2], strict=True
    ):
        times = timesteps if batched else 1
        assert found - without == memory.FRAGMENTED * 2 * 1000 * times
    always = replace(peaks, found={}, scratch={node: 1000})
    assert [always.of(*each) for each in asked[::2]] == apart[1::2]


def test_few_estimates_are_kept(monkeypatch):
    """Of images of open size there is another for each size."""
    monkeypatch.setattr(memory, "_MOST_FOUND", 3)
    session = SpikingSession(convert(dyadic.to_onnx(dyadic.finish(4))).model, threads=1)
    peaks = session._progress.time_steps.costs.peaks
    shapes = {"v/" + n.name: (2, *n.shape) for n in session.neurons}
    found = [peaks.of(k, {}, 2, shapes, False, {}) for k in (1, 2, 3, 4, 1)]
    assert found[0] == found[-1]
    assert len(peaks.found) == 2


def _reads(session, x):
    return session._progress.prologue.step_inputs({next(iter(session.inputs)): x})


def test_sums_of_all_time_steps_are_worked_out_when_they_are_wanted():
    network = dyadic.finish(3)
    snn = convert(dyadic.to_onnx(network)).model
    x = dyadic.images(network, 2)
    session = SpikingSession(snn, threads=1)
    result = session.run(x, MOST_STEPS)
    assert session._progress.sums._session is None
    wanted = SpikingSession(snn, threads=1, plan="step").run(x, MOST_STEPS)
    for name, counts in wanted.spike_counts.items():
        np.testing.assert_array_equal(result.spike_counts[name], counts)


def test_lean_sessions_compute_the_same():
    ann = dyadic.to_onnx(dyadic.finish(5))
    x = dyadic.images(dyadic.finish(5), 4)
    name = ann.graph.input[0].name
    found = [
        create_session(detach(ann), [CPU], 1, use).run(None, {name: x})
        for use in (OFTEN, Use(lean=True), Use(plans_memory=False))
    ]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def test_chunks_of_few_nodes(monkeypatch):
    session = SpikingSession(wide(), threads=1)
    nodes = len(session._progress.time_steps.step.graph.node)
    for most, lengths in ((8 * nodes, (8, 4)), (8 * nodes - 1, (4,)), (nodes, ())):
        monkeypatch.setattr(estimate, "MOST_NODES", most)
        chosen = SpikingSession(wide(), threads=1).chosen(zeros(1))
        assert (chosen.chunks, chosen.short_of_memory) == (lengths, False)


def test_what_working_out_spike_counts_takes(monkeypatch):
    """Of the largest layer, besides: what is divided and rounded, and int64 of that."""
    potentials, largest, read_out = 4 * 3 * (32 + 24 + 16), 4 * 3 * 32, 4 * 3 * 16
    states = potentials + read_out
    auto = SpikingSession(wide(), threads=1).chosen(zeros(3)).memory
    assert auto.counts == states - read_out + 3 * states + 4 * largest
    step = SpikingSession(wide(), threads=1, plan="step").chosen(zeros(3)).memory
    assert step.counts == potentials + potentials + 4 * largest
    monkeypatch.setattr(estimate.Estimate, "_peak", lambda *_: 2**20)
    assert SpikingSession(wide(), threads=1).chosen(zeros(3)).memory.counts == (
        auto.counts + 2**20 - states - 4 * largest
    )


@pytest.mark.usefixtures("chunks_alone")
def test_chunks_share_the_weights_of_convolutions_alone():
    """Which are in the layout of the CPU; each graph holds a copy of those of dense layers."""
    text = (
        "net (float[N, 8, 4, 4] x) => (float[N, 4] y) { a = Clip(x, zero, one) b = Conv(a, k) "
        "c = Clip(b, zero, one) f = Flatten(c) d = Gemm(f, w) y = Clip(d, zero, one) }"
    )
    values = {"zero": np.float32(0), "one": np.float32(1)}
    values |= {"k": np.ones((16, 8, 3, 3), np.float32), "w": np.ones((64, 4), np.float32)}
    chosen = with_budget(convert(model(text, values)).model).chosen(
        np.zeros((2, 8, 4, 4), np.float32)
    )
    assert chosen.layout is not None
    assert chosen.chunks
    conv, dense = 4 * 1152, 4 * 256
    # Besides the plan's, twice those of a time-step's graph, which is made of a copy.
    assert chosen.memory.weights == 3 * (conv + dense) + conv + len(chosen.chunks) * dense


def test_counting_spikes_of_many_small_layers_takes_their_states():
    names = "abcdefg"
    layers = "".join(f"{b}{b} = MatMul({a}, w) {b} = Clip({b}{b}, zero, one) "
                     for a, b in itertools.pairwise(names))  # fmt: skip
    text = "net (float[N, 8] x) => (float[N, 8] y) { a = Clip(x, zero, one) %s y = MatMul(g, w) }"
    values = {"zero": np.float32(0), "one": np.float32(1), "w": np.eye(8, dtype=np.float32)}
    snn = convert(model(text % layers, values)).model
    found = SpikingSession(snn, plan="step").chosen(np.zeros((3, 8), np.float32)).memory
    potentials = sums = 4 * 3 * 8 * len(names)
    assert found.states == 2 * (potentials + sums)
    assert found.counts == sums + potentials + sums


def test_shapes_behind_a_pool_that_counts_spikes_are_known():
    text = (
        "net (float[N, 2, 4, 6] x) => (float[N, 2, 2, 3] y) { a = Clip(x, zero, one) "
        "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a) y = Clip(p, zero, half) }"
    )
    values = {"zero": np.float32(0), "half": np.float32(0.5), "one": np.float32(1)}
    snn = convert(model(text, values), maxpool="exact").model
    chosen = SpikingSession(snn, threads=1).chosen(np.zeros((3, 2, 4, 6), np.float32))
    assert chosen.shapes_known
    assert chosen.shapes["v/y"] == (3, 2, 2, 3)


def test_sums_that_are_read_out_count():
    """As they are, with nothing made of them but their mean."""
    text = "net (float[N, 1000] x) => (float[N, 1000] y) { y = Clip(x, zero, one) }"
    snn = convert(model(text, {"zero": np.float32(0), "one": np.float32(1)})).model
    found = SpikingSession(snn).chosen(np.zeros((7, 1000), np.float32)).memory
    # The sum; averages of sums and of silence, and in float64.
    assert found.read_out == 4 * 7 * 1000 * (1 + 2 + 2)
    # This run's, and those of the one before.
    assert found.outputs == 4 * 7 * 1000 * 2
    # What is given, what is read, and what the run before read: states are none of it.
    assert found.inputs == 4 * 7 * 1000 * 3


def test_what_is_read_out_of_averages_counts():
    text = "net (float[N, 1000] x) => (float[N, 1000] y) { a = Clip(x, zero, one) "
    text += "s = Softmax(a) e = Exp(s) y = Log(e) }"
    snn = convert(model(text, {"zero": np.float32(0), "one": np.float32(1)})).model
    found = SpikingSession(snn).chosen(np.zeros((7, 1000), np.float32), readouts=3).memory
    # As before, the averages themselves, and two of what is made of these at once.
    assert found.read_out == 4 * 7 * 1000 * (1 + 2 + 2 + 1 + 2 * memory.FRAGMENTED)
    # Not averages, which are gone by then.
    assert found.outputs == 4 * 7 * 1000 * 2 * 3


def test_averages_that_are_outputs_as_well_count():
    text = "net (float[N, 1000] x) => (float[N, 1000] y, float[N, 500] z) { y = Clip(x, zero, one) "
    text += "s = Softmax(y) z = Slice(s, from, to, axes) }"
    values = {"zero": np.float32(0), "one": np.float32(1), "from": np.array([0])}
    values |= {"to": np.array([500]), "axes": np.array([1])}
    session = SpikingSession(convert(model(text, values)).model)
    assert session.chosen(np.zeros((7, 1000), np.float32)).memory.outputs == 4 * 7 * 1500 * 2


def test_what_an_epilogue_takes_counts_beside_a_small_read_out():
    """Images that are made of sums, of which one number a channel is read."""
    text = "net (float[N, 2, 4, 4] x) => (float[N, 2, 1, 1] y) { a = Clip(x, zero, one) "
    text += "b = Resize(a, , scales) c = GlobalAveragePool(b) y = Softmax<axis = 1>(c) }"
    values = {"zero": np.float32(0), "one": np.float32(1)}
    values["scales"] = np.array([1, 1, 16, 16], np.float32)
    session = SpikingSession(convert(model(text, values)).model, threads=1)
    assert session._plan.read_out is not None
    found = session.chosen(np.zeros((3, 2, 4, 4), np.float32)).memory
    assert found.read_out >= 4 * 3 * 2 * 64 * 64


@pytest.mark.parametrize("size", ["8, 6", "H, W"])
def test_what_is_read_out_of_one_channel_counts(size):
    """With open sizes less is known of its states."""
    text = f"net (float[N, 1, {size}] x) => (float[N, 9, p, q] y) {{ a = Clip(x, zero, one) "
    text += "y = ConvTranspose<strides = [4, 4]>(a, w) }"
    values = {"zero": np.float32(0), "one": np.float32(1), "w": np.ones((1, 9, 4, 4), np.float32)}
    snn = convert(model(text, values)).model
    found = SpikingSession(snn).chosen(np.zeros((7, 1, 8, 6), np.float32)).memory
    assert found.outputs == 4 * 7 * 9 * 32 * 24 * 2
    assert found.read_out == 4 * 7 * (9 * 32 * 24 * (2 + 2) + 8 * 6)


POOLED = (
    "net (float[N, 1, H, W] x) => (float[N, 4, 1, 1] y) { "
    "a = Conv<pads = [1, 1, 1, 1]>(x, w1) b = Clip(a, zero, one) "
    "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(b) "
    "c = Conv<pads = [1, 1, 1, 1]>(p, w2) d = Clip(c, zero, one) y = GlobalAveragePool(d) }"
)


def test_estimates_of_images_of_another_size():
    weights = {"zero": np.float32(0), "one": np.float32(1)}
    weights |= {name: np.ones((4, n, 3, 3), np.float32) for name, n in (("w1", 1), ("w2", 4))}
    snn = convert(model(POOLED, weights)).model
    both = SpikingSession(snn, threads=1)
    for size in (8, 80):
        x = np.zeros((2, 1, size, 8), np.float32)
        assert both.chosen(x).memory == SpikingSession(snn, threads=1).chosen(x).memory


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("recipe", ["opi", "best"])
def test_sizes_that_a_file_leaves_open_count_in_a_budget(samples, recipe):
    rng = np.random.default_rng(0)
    weights = {"zero": np.float32(0), "one": np.float32(1)}
    for name, shape in (("w1", (4, 1, 3, 3)), ("w2", (4, 4, 3, 3))):
        weights[name] = (rng.integers(-8, 9, shape) / 8).astype(np.float32)
    x = rng.integers(0, 9, (samples, 1, 64, 48)).astype(np.float32) / 8
    options = {"recipe": recipe, "maxpool": "exact", "calibration": from_arrays(x)}
    snns = [
        convert(model(text, weights), **options).model
        for text in (POOLED.replace("H, W", "64, 48"), POOLED)
    ]
    fixed, left_open = (SpikingSession(snn, threads=1).chosen(x).memory for snn in snns)
    assert left_open.states == fixed.states > 0
    assert left_open.counts == fixed.counts
    assert left_open.activations > 0
    for snn in snns:
        with pytest.raises(DataError, match="one time-step of"):
            SpikingSession(snn, threads=1, max_memory=10**6).run(x, 8)
