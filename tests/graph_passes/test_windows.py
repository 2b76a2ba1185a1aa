import onnx_graphsurgeon as gs
import pytest

from onnx2snn.graph_passes.graph.windows import pads_of_window


def pool(shape, **attrs):
    return gs.Node("MaxPool", "pool", attrs, [gs.Variable("x", shape=shape)], [gs.Variable("y")])


@pytest.mark.parametrize(
    ("attrs", "pads"),
    [
        ({}, [0, 0, 0, 0]),
        ({"pads": [1, 0, 2, 1]}, [1, 0, 2, 1]),
        # ONNX Runtime lets pads stand there, and reads none.
        ({"auto_pad": "VALID", "pads": [1, 0, 2, 1]}, [0, 0, 0, 0]),
        ({"auto_pad": "SAME_UPPER"}, [1, 0, 1, 1]),
        ({"auto_pad": "SAME_LOWER"}, [1, 1, 1, 0]),
        ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, [1, 0, 1, 0]),
        ({"auto_pad": "SAME_UPPER", "strides": [4, 3]}, [0, -1, 0, 0]),
    ],
)
def test_pads(attrs, pads):
    assert pads_of_window(pool(["N", 1, 7, 6], **attrs), [3, 2]) == pads


def test_pads_of_open_sizes():
    attrs = {"auto_pad": "SAME_UPPER"}
    assert pads_of_window(pool(["N", 1, "H", "W"], **attrs), [3, 2]) == [1, 0, 1, 1]
    assert pads_of_window(pool(["N", 1, "H", "W"], strides=[2, 2], **attrs), [3, 2]) is None
    assert pads_of_window(pool(None, strides=[2, 2], **attrs), [3, 2]) is None
