"""``upgrade_opset``: the same numbers in the newer opset, also where onnx's converter errs."""

import numpy as np
from onnx_text import model, run

from onnx2snn.graph_passes import upgrade_opset


def test_old_opsets_are_upgraded():
    proto = model("g (float[N, 4] x) => (float[N, 4] y) { y = Clip<min=0.0, max=2.0>(x) }", opset=7)
    new = upgrade_opset(proto)
    assert new.opset_import[0].version == 17
    x = np.linspace(-1, 3, 8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(run(new, x), np.clip(x, 0, 2))


def same(node, weights, opset):
    """Upgraded, a node computes what it did: in the graph, and in the branches of an If."""
    shape = "float[a, b, c, d]"
    inside = f"y = If (yes) <then_branch = t () => ({shape} p) {{ p = {node} }}, "
    inside += f"else_branch = e () => ({shape} q) {{ q = {node} }}>"
    x, yes = np.random.default_rng(0).normal(size=(2, 3, 7, 10)).astype(np.float32), np.array(True)
    for body in (f"y = {node}", inside):
        text = f"g (float[N, 3, 7, 10] x, bool yes) => ({shape} y) {{ {body} }}"
        old = model(text, weights, opset)
        np.testing.assert_array_equal(run(upgrade_opset(old), x, yes), run(old, x, yes))


def test_a_resize_places_its_samples_as_before():
    same('Resize<mode = "linear">(x, s)', {"s": np.float32([1, 1, 1.5, 2.5])}, 10)
