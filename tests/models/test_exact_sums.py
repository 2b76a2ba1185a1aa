"""Sums of spikes that no order of adding can change."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_text import model

from onnx2snn.models.exact_sums import round_for_exact_sums

SHIPPED = Path(__file__).parents[2] / "models" / "resnet20-fashion-mnist.onnx"
TEXT = (
    "net (float[N, 2, 4, 4] x) => (float[N, 5] y) { a = Conv(x, u) r = Relu(a) c = Min(r, theta) "
    "d = Conv(c, w, b) s = Relu(d) e = Min(s, phi) f = Flatten(e) g = Gemm<transB = 1>(f, v) "
    "t = Relu(g) h = Min(t, psi) i = Gemm<transB = 0>(h, k, l) j = Relu(i) y = Gemm(j, m) }"
)


def values(proto):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def network(seed):
    rng = np.random.default_rng(seed)
    shapes = {
        "u": (8, 2, 1, 1), "w": (6, 8, 3, 3), "b": (6,), "v": (9, 24), "k": (9, 5), "l": (5,),
        "m": (5, 5),
    }  # fmt: skip
    weights = {name: rng.normal(size=shape) * rng.exponential() for name, shape in shapes.items()}
    bounds = {name: rng.exponential() + 0.01 for name in ("theta", "phi", "psi")}
    return model(TEXT, {n: np.float32(v) for n, v in (weights | bounds).items()})


def assert_sums_are_exact(rows, bias, theta, rng):
    """Each row's sum over random spikes, in random order, is that of float64."""
    for row, start in zip(rows, bias, strict=True):
        for share in (0.1, 0.5, 1.0):
            terms = np.where(rng.random(row.size) < share, row * theta, 0).astype(np.float32)
            assert np.array_equal(terms, np.where(terms != 0, row.astype(float) * theta, 0))
            exact = terms.astype(np.float64).sum() + float(start)
            for first in (0, len(terms)):
                ordered = np.insert(rng.permutation(terms), first, start)
                # A running sum, term by term.
                assert np.cumsum(ordered, dtype=np.float32)[-1] == exact


@pytest.mark.parametrize("seed", range(10))
def test_layers_that_read_a_clip_add_exactly(seed):
    rng = np.random.default_rng(seed)
    before = network(seed)
    after = onnx.ModelProto()
    after.CopyFrom(before)
    round_for_exact_sums(after)
    old, new = values(before), values(after)
    assert_sums_are_exact(new["w"].reshape(6, -1), new["b"], new["theta"], rng)
    assert_sums_are_exact(new["k"].T, new["l"], new["psi"], rng)
    # Only what reads a clip, with it, and hardly.
    for name in ("u", "v", "m", "phi"):
        assert np.array_equal(old[name], new[name]) == (name != "phi")
    for name in ("theta", "phi", "psi"):
        assert abs(new[name] / old[name] - 1) <= 1 / 256
    for name in ("w", "b", "k", "l"):
        assert 0 < np.abs(new[name] - old[name]).max() < 0.01 * np.abs(old["w"]).sum()
    assert {t.name: t.data_type for t in after.graph.initializer} == {
        t.name: t.data_type for t in before.graph.initializer
    }


def test_the_network_of_the_demo_is_rounded():
    shipped = onnx.load(SHIPPED)
    again = onnx.ModelProto()
    again.CopyFrom(shipped)
    round_for_exact_sums(again)
    assert again == shipped
    new = values(shipped)
    rng = np.random.default_rng(0)
    theta = new["10.clip1.theta"]
    rows = new["10.second.0.weight"].reshape(64, -1)
    assert_sums_are_exact(rows[:16], new["10.second.0.weight_bias"][:16], theta, rng)
