import onnx.parser

from onnx2snn.graph_passes.model_files.protos import names_in


def test_all_names_of_a_model():
    """Also of what nothing reads, and of what is inside nodes."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> '
        "g (float[N] x, int64 n, bool c, float[N] unread) => (float[N] y) <float[1] held = {1}> { "
        "[loop] y = Loop(n, c, x) <body = b (int64 i, bool d, float[N] s) => (bool e, float[N] t) "
        "{ e = Identity(d) [inner] t = Add(s, x) }> }"
    )
    outer = {"x", "n", "c", "unread", "y", "held", "loop"}
    assert names_in(model) - {""} == outer | {"i", "d", "s", "e", "t", "inner"}
