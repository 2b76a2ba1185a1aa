"""Weights [inputs, outputs] become rows, with which a session runs what it ran."""

import numpy as np
import onnx
import pytest
from alike import same
from onnx_text import model

from onnx2snn import SpikingSession, convert
from onnx2snn.graph_passes.model_files.weights import ModelParts, attach
from onnx2snn.runtime.choices import chunks
from onnx2snn.runtime.layers import dense
from onnx2snn.runtime.plans.plan import build_plan

TEXT = (
    "net (float[N, 16] x) => (float[N, 24] y) {{ a = Gemm(x, v, b) c = Clip(a, zero, one) "
    "{between} e = Clip(d, zero, one) y = MatMul(e, last) }}"
)


@pytest.fixture(autouse=True)
def all_are_large(monkeypatch):
    monkeypatch.setattr(dense, "CACHED", 0)
    monkeypatch.setattr(chunks, "CACHED", 0)


def snn_of(between, w=(64, 24)):
    """An SNN with these layers between two of neurons, of dyadic weights."""
    rng = np.random.default_rng(0)
    shapes = {"v": (16, 64), "b": (64,), "w": w, "k": (24,), "last": (24, 24)}
    values = {n: (rng.integers(-8, 9, s) / 8).astype(np.float32) for n, s in shapes.items()}
    values |= {"zero": np.float32(0), "one": np.float32(1), "axes": np.array([1])}
    text = TEXT.format(between=between)
    used = {name: v for name, v in values.items() if f" {name}" in text or f"({name}" in text}
    return convert(model(text, used)).model


def images(samples):
    return (np.random.default_rng(1).integers(-8, 9, (samples, 16)) / 8).astype(np.float32)


@pytest.mark.parametrize(
    "between",
    [
        "d = MatMul(c, w)",
        "d = Gemm(c, w, k)",
        "d = Gemm<transB = 0>(c, w, k)",
        "m = MatMul(c, w) d = Add(m, k)",
    ],
)
def test_rows_of_weights(between):
    plan = build_plan(snn_of(between))
    made = dense.with_rows_of_weights(plan)
    onnx.checker.check_model(attach(ModelParts(made.step, made.weights)), full_check=True)
    (layer,) = (node for node in made.step.graph.node if "w" in node.input)
    assert layer.op_type == "Gemm"
    assert {a.name: a.i for a in layer.attribute}["transB"] == 1
    np.testing.assert_array_equal(made.weights["w"], plan.weights["w"].T)
    assert made.weights["w"].flags.c_contiguous
    # The first and the last layer run once, in the prologue and the epilogue.
    assert all(made.weights[name] is plan.weights[name] for name in ("v", "last"))
    # A second time there is nothing to do.
    assert dense.with_rows_of_weights(made) is made


@pytest.mark.parametrize(
    ("between", "w"),
    [
        ("f = MatMul(c, w) g = Clip(f, zero, one) h = MatMul(c, w) d = Add(g, h)", (64, 24)),
        ("t = Transpose<perm = [1, 0]>(c) m = MatMul(w, t) d = Transpose<perm = [1, 0]>(m)",
         (24, 64)),
        ("u = Unsqueeze(c, axes) m = MatMul(u, w) d = Squeeze(m, axes)", (64, 24)),
        ("d = Gemm<transB = 1>(c, w, k)", (24, 64)),
    ],
    ids=["two readers", "first factor", "three axes", "rows already"],
)  # fmt: skip
def test_what_stays(between, w):
    plan = build_plan(snn_of(between, w))
    assert dense.with_rows_of_weights(plan) is plan


def test_what_the_epilogue_reads_too_stays():
    text = (
        "net (float[N, 16] x) => (float[N, 16] y) { a = Clip(x, zero, one) b = MatMul(a, w) "
        "c = Clip(b, zero, one) y = MatMul(c, w) }"
    )
    values = {"zero": np.float32(0), "one": np.float32(1), "w": np.eye(16, dtype=np.float32)}
    plan = build_plan(convert(model(text, values)).model)
    for graph in (plan.step.graph, plan.epilogue.graph):
        assert sum("w" in node.input for node in graph.node) == 1
    assert dense.with_rows_of_weights(plan) is plan


@pytest.mark.parametrize("between", ["d = MatMul(c, w)", "d = Gemm(c, w, k)"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_same_spikes_from_one_copy(between, precision):
    """Within a budget weights stay, since turning them takes their memory twice."""
    snn = snn_of(between)
    session, budget = (
        SpikingSession(snn, threads=1, precision=precision, max_memory=most)
        for most in (None, 2**31)
    )
    assert session._plan.weights.keys() == budget._plan.weights.keys()
    for samples in (1, 5):
        x = images(samples)
        wanted = SpikingSession(snn, threads=1, precision=precision, plan="step").run(x, 39, [8])
        same(session.run(x, 39, [8]), wanted)
        same(budget.run(x, 39, [8]), wanted)
        if precision == "float32" and samples == 1:
            first = [each.chosen(x).forms[32].weights_first for each in (session, budget)]
            assert first == [{"w"}, frozenset()]
