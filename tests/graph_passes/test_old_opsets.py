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
