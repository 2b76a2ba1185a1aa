"""``evaluate --early-exit`` says of each rule what a run with that early exit gives."""

import json

import dyadic
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx_text import model, run

from onnx2snn import DataError, EarlyExit, SpikingSession, convert, evaluate, from_arrays
from onnx2snn.cli import main
from onnx2snn.measuring.early_exits import _as_accurate, early_exits

RULES = (
    EarlyExit(0.2, 1, 3), EarlyExit(0.3, 2, 2), EarlyExit(0.6, 3, 4), EarlyExit(), EarlyExit(1.0),
)  # fmt: skip
T = 22


@pytest.mark.parametrize("delay", [0, 5])
@pytest.mark.parametrize("seed", range(4))
def test_a_rule_is_what_a_run_with_it_gives(seed, delay):
    network = dyadic.finish(seed)
    ann = dyadic.to_onnx(network)
    snn = convert(ann, delay=delay).model
    x = dyadic.images(network, 40)
    session = SpikingSession(snn, threads=1)
    classes = session.run(x, 64).output.shape[1]
    y = np.random.default_rng(seed).integers(0, classes, 40)
    report = early_exits(snn, from_arrays(x, y), [3, 7, T], rules=RULES, ann=ann, batch_size=17)
    mean_times = set()
    for rule, row in zip(RULES, report["early_exit"], strict=True):
        real = session.run(x, T, early_exit=rule)
        assert row["mean_timesteps"] == real.sample_timesteps.mean()
        assert row["accuracy"] == 100 * (real.output.argmax(1) == y).mean()
        assert (row["confidence"], row["stable"], row["every"]) == (
            rule.confidence, rule.stable, rule.every,
        )  # fmt: skip
        mean_times.add(row["mean_timesteps"])
    assert len(mean_times) > 1
    times = [row["timesteps"] for row in report["snn"]]
    # At 3, no rule looks where the read-out begins later.
    assert {3, 7} <= set(times)
    assert times == sorted(times)
    assert times[-1] == T
    for row in report["snn"]:
        output = session.run(x, row["timesteps"]).output
        assert row["accuracy"] == 100 * (output.argmax(1) == y).mean()


def test_as_accurate_as():
    network = dyadic.finish(2)
    snn = convert(dyadic.to_onnx(network)).model
    x = dyadic.images(network, 40)
    y = SpikingSession(snn, threads=1).run(x, T).output.argmax(1)
    report = early_exits(snn, from_arrays(x, y), [T], rules=[EarlyExit(1.0), EarlyExit(0, 1, 1)])
    late, at_once = report["early_exit"]
    # Nobody is ever quite sure, so this is T, at which the accuracy is 100 %.
    assert late["mean_timesteps"] == T
    first = next(row["timesteps"] for row in report["snn"] if row["accuracy"] > 99.9)
    assert late["as_accurate_as"] == first
    assert at_once["mean_timesteps"] == at_once["as_accurate_as"] == 1
    unknown = early_exits(snn, from_arrays(x), [T], rules=[EarlyExit()])["early_exit"][0]
    assert unknown["accuracy"] is unknown["agreement"] is unknown["as_accurate_as"] is None
    with pytest.raises(DataError, match="axes"):
        early_exits(snn, from_arrays(x[None]), [T])


def test_what_a_run_refuses_is_refused():
    """A read-out that depends on the other samples, of which those that leave are no longer any."""
    text = (
        "net (float[N, 4] x) => (float[N, 3] y) { a = MatMul(x, w) b = Clip(a, zero, one) "
        "l = MatMul(b, u) m = ReduceMean<axes = [0], keepdims = 1>(l) y = Sub(l, m) }"
    )
    rng = np.random.default_rng(0)
    values = {"w": rng.normal(size=(4, 6)), "u": rng.normal(size=(6, 3)), "zero": 0, "one": 1}
    snn = convert(model(text, {n: np.float32(v) for n, v in values.items()}), delay=2).model
    data = from_arrays(rng.random((6, 4), dtype=np.float32))
    with pytest.raises(DataError, match="'y' depends on the other samples"):
        early_exits(snn, data, [T], rules=[EarlyExit(1.0)])
    assert early_exits(snn, data, [T], rules=[EarlyExit(1.0)], batch_size=1)["samples"] == 6


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = dyadic.finish(2)
    ann = dyadic.to_onnx(network)
    onnx.save(ann, "ann.onnx")
    onnx.save(convert(ann).model, "snn.onnx")
    x = dyadic.images(network, 12)
    np.savez("data.npz", x=x, y=np.arange(12) % 3)
    np.save("data.npy", x)

    def call(data, *options):
        arguments = ["evaluate", "snn.onnx", "--data", data, "-T", "8,16", "--early-exit", *options]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    shown = call("data.npz", "--ann", "ann.onnx", "--plot", "curve.png")
    assert "confidence 0.85, stable 3" in shown
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads(call("data.npz", "--json", "--min-accuracy", "0"))
    assert [row["timesteps"] for row in report["snn"]] == [4, 8, 12, 16]
    assert len(report["early_exit"]) == 8
    assert ">16" not in call("data.npy")
    assert "layers between neurons" in call("data.npz", "--precision", "int8")
    assert json.loads(call("data.npz", "--precision", "int8", "--json"))["precision"] == "int8"
    call("data.npy", "--ann", "ann.onnx", "--plot", "curve.png")


def test_a_tenth_of_a_point_less_is_just_as_accurate():
    """94.1 - 94.0 is more than 0.1 in binary."""
    fixed = [{"timesteps": t, "accuracy": a} for t, a in ((4, 93.9), (8, 94.0), (16, 94.1))]
    assert _as_accurate({"accuracy": 94.1}, fixed) == 8


def test_a_tenth_of_a_point_is_as_accurate_in_binary_too():
    fixed = [{"timesteps": 4, "accuracy": 63.0}, {"timesteps": 8, "accuracy": 63.1}]
    assert _as_accurate({"accuracy": 63.1, "agreement": None}, fixed) == 4


def test_labels_that_are_no_classes_are_refused():
    network = dyadic.finish(2)
    x, labels = dyadic.images(network, 4), np.full(4, 99)
    snn = convert(dyadic.to_onnx(network)).model
    with pytest.raises(DataError, match="99"):
        early_exits(snn, from_arrays(x, labels), [T], rules=[EarlyExit()])


def test_without_labels_the_agreement_counts():
    network = dyadic.finish(2)
    ann = dyadic.to_onnx(network)
    data = from_arrays(dyadic.images(network, 40))
    report = early_exits(convert(ann).model, data, [T], rules=[EarlyExit(1.0)], ann=ann)
    (row,) = report["early_exit"]
    enough = row["agreement"] - 0.1
    assert row["as_accurate_as"] == next(
        fixed["timesteps"] for fixed in report["snn"] if fixed["agreement"] >= enough
    )


def test_classes_of_images_of_one_place():
    text = (
        "net (float[N, 3, 2, 2] x) => (float[N, 3, 1, 1] y) { a = Clip(x, zero, one) "
        "y = GlobalAveragePool(a) }"
    )
    snn = convert(model(text, {"zero": np.float32(0), "one": np.float32(1)}), delay=4).model
    labels = np.array([2, 0, 1, 1])
    x = np.zeros((4, 3, 2, 2), np.float32)
    x[np.arange(4), labels] = 1
    report = early_exits(snn, from_arrays(x, labels), [3, 12], rules=[EarlyExit()])
    assert {row["timesteps"]: row["accuracy"] for row in report["snn"]} == {3: 100, 8: 100, 12: 100}


def test_rules_do_not_look_before_the_read_out_begins():
    network = dyadic.finish(2)
    snn = convert(dyadic.to_onnx(network), delay=5).model
    data = from_arrays(dyadic.images(network, 4))
    report = early_exits(snn, data, [3, 12], rules=[EarlyExit(0.5, 1, 2)])
    assert [row["timesteps"] for row in report["snn"]] == [3, 6, 8, 10, 12]


def test_with_labels_the_accuracy_counts():
    fixed = [{"timesteps": 4, "accuracy": 80.0, "agreement": 50.0},
             {"timesteps": 8, "accuracy": 80.0, "agreement": 90.0}]  # fmt: skip
    assert _as_accurate({"accuracy": 80.0, "agreement": 90.0}, fixed) == 4


def test_the_accuracy_of_the_ann_is_beside_that_of_its_rules():
    network = dyadic.finish(2)
    ann = dyadic.to_onnx(network)
    x = dyadic.images(network, 40)
    y = 1 - np.minimum(run(ann, x).reshape(40, -1).argmax(1), 1)
    snn, data = convert(ann).model, from_arrays(x, y)
    report = early_exits(snn, data, [8], rules=[EarlyExit()], ann=ann)
    assert report["ann"]["accuracy"] == evaluate(snn, data, [8], ann=ann)["ann"]["accuracy"] < 100


def test_layers_are_told_by_their_precision_and_batches_are_told_of():
    network = dyadic.finish(2)
    snn, told = convert(dyadic.to_onnx(network)).model, []

    def report(*words):
        told.append(words)

    data = from_arrays(dyadic.images(network, 12))
    options = {"precision": "int8", "batch_size": 5, "report": report}
    found = early_exits(snn, data, [8], rules=[EarlyExit()], **options)
    assert found["precisions"] == evaluate(snn, data, [8], precision="int8")["precisions"] != []
    assert told == [("evaluating", done, 3) for done in range(4)]


def test_early_exits_keep_to_the_memory_that_is_allowed():
    network = dyadic.finish(2)
    snn = convert(dyadic.to_onnx(network)).model
    with pytest.raises(DataError, match="needs about"):
        early_exits(snn, from_arrays(dyadic.images(network, 7)), [22], max_memory=1000)
