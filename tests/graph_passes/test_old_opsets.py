"""``upgrade_opset``: the same numbers in the newer opset, also where onnx's converter errs."""

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_text import model, run

from onnx2snn import SpikingSession, convert, from_arrays
from onnx2snn.graph_passes import ModelError, to_graph, upgrade_opset


def test_old_opsets_are_upgraded():
    proto = model("g (float[N, 4] x) => (float[N, 4] y) { y = Clip<min=0.0, max=2.0>(x) }", opset=7)
    new = upgrade_opset(proto)
    assert new.opset_import[0].version == 17
    x = np.linspace(-1, 3, 8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(run(new, x), np.clip(x, 0, 2))


@pytest.mark.parametrize("opset", [7, 10])
@pytest.mark.parametrize("kind", ["float16", "float", "double"])
@pytest.mark.parametrize(
    "body",
    [
        "y = Clip<min = -0.5, max = 2.0>(x)",
        "y = Clip<max = 0.5>(x)",
        "y = Pad<pads = [0, 1, 0, 2], value = 0.5>(x)",
        "y = If<then_branch = g () => (a) { a = Clip<min = 0.5>(x) }, "
        "else_branch = h () => (b) { b = Clip<max = 0.5>(x) }>(condition)",
    ],
)
def test_bounds_and_padding_have_the_type_of_what_they_are_used_with(body, kind, opset):
    def of(kind):
        text = f"g ({kind}[N, 4] x) => ({kind}[N, M] y) {{ {body} }}"
        return model(text, {"condition": np.True_}, opset)

    new = upgrade_opset(of(kind))
    onnx.checker.check_model(new, full_check=True)
    x = np.arange(-6, 6, dtype=np.float32).reshape(3, 4) / 4
    found = run(new, x.astype({"float": np.float32}.get(kind, kind)))
    # ONNX Runtime has no such Clip in double.
    np.testing.assert_array_equal(found, run(of("float"), x))


@pytest.mark.parametrize("opset", [13, 17])
def test_opsets_that_merged_models_name_twice_are_named_once(opset):
    """As those that onnx.compose.merge_models makes."""
    text = "g (float[N, 4] x) => (float[N, 4] y) { a = MatMul(x, w) y = Relu(a) }"
    proto = model(text, {"w": np.eye(4, dtype=np.float32)}, opset)
    proto.opset_import.extend([helper.make_opsetid("ai.onnx.ml", 2), *proto.opset_import])
    if opset < 17:
        assert [entry.version for entry in upgrade_opset(proto).opset_import] == [17, 2]
    x = np.eye(4, dtype=np.float32)
    made = convert(proto, calibration=from_arrays(x)).model
    domains = [entry.domain for entry in made.opset_import]
    assert len(domains) == len(set(domains))
    np.testing.assert_array_equal(SpikingSession(made).run(x, 4).output, x)


@pytest.mark.parametrize("versions", [(17, 12), (12, 17)])
def test_of_opsets_that_differ_the_last_counts_as_in_onnx_runtime(versions):
    """Before opset 13 a Softmax is one over all axes from the first on."""
    proto = model(
        "g (float[N, 3, 4] x) => (float[N, 3, 4] y) { a = Relu(x) y = Softmax<axis = 1>(a) }"
    )
    del proto.opset_import[:]
    proto.opset_import.extend(helper.make_opsetid("", version) for version in versions)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    made = convert(proto, calibration=from_arrays(x), recipe="opi", threshold="max").model
    np.testing.assert_allclose(SpikingSession(made).run(x, 2048).output, run(proto, x), atol=2e-3)
    assert upgrade_opset(proto).opset_import == [helper.make_opsetid("", 17)]
    np.testing.assert_allclose(run(upgrade_opset(proto), x), run(proto, x), rtol=1e-6)
    assert to_graph(proto).opset == versions[-1]


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


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(1.5, 2.5), (0.6, 0.3), (0.5, 1.5), (0.25, 0.6)])
def test_a_resize_places_its_samples_as_before(mode, scales):
    same(f'Resize<mode = "{mode}">(x, s)', {"s": np.float32([1, 1, *scales])}, 10)


def test_scales_that_a_node_holds_are_known():
    text = "g (float[N, 3, 7, 10] x) => (float[N, 3, a, b] y) "
    text += "{ s = Constant<value = float[4] {1, 1, 0.6, 0.3}>() y = Resize(x, s) }"
    old = model(text, opset=10)
    x = np.random.default_rng(0).normal(size=(2, 3, 7, 10)).astype(np.float32)
    np.testing.assert_array_equal(run(upgrade_opset(old), x), run(old, x))


def test_a_resize_that_enlarges_and_shrinks_is_refused():
    text = "g (float[N, 3, 7, 10] x) => (float[N, 3, 10, 6] y) { y = Resize(x, s) }"
    with pytest.raises(ModelError, match="Resize 'y' enlarges some axes and shrinks others"):
        upgrade_opset(model(text, {"s": np.float32([1, 1, 1.5, 0.6])}, opset=10))


def test_a_resize_of_another_domain_is_left_alone():
    old = model("g (float[N, 3] x) => (float[N, 3] y) { y = Neg(x) }", opset=10)
    old.opset_import.append(onnx.helper.make_opsetid("my", 1))
    old.graph.node[0].op_type, old.graph.node[0].domain = "Resize", "my"
    assert upgrade_opset(old).graph.node == old.graph.node


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_a_pad_may_have_a_value_that_it_does_not_use(mode):
    same(f'Pad<mode = "{mode}", pads = [0, 0, 1, 1, 0, 0, 1, 2], value = 0.5>(x)', {}, 9)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_a_hardmax_is_over_all_axes_from_one_on(axis):
    same(f"Hardmax<axis = {axis}>(x)", {}, 12)


def test_a_name_that_nothing_reads_is_taken():
    old = model("g (float[N, 2, 3] x) => (float[N, 2, 3] y) { y = Hardmax(x) }", opset=12)
    old.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0), "y/flat"))
    old.graph.input.append(onnx.helper.make_tensor_value_info("y/hot", 1, [1]))
    onnx.checker.check_model(upgrade_opset(old), full_check=True)


def test_a_hardmax_may_count_its_axis_from_the_back_or_say_none():
    same("Hardmax<axis = -2>(x)", {}, 11)
    same("Hardmax(x)", {}, 7)


@pytest.mark.parametrize("opset", [7, 9])
def test_outputs_that_are_left_out_do_not_count(opset):
    text = "g (float[N, 2] x) => (float[N, 2] y) { y = BatchNormalization(x, two, one, one, two) }"
    weights = {"one": np.ones(2, np.float32), "two": np.full(2, 2, np.float32)}
    proto = model(text, weights, opset)
    x = np.float32([[0, 1], [2, 3]])
    before = run(proto, x)
    # ONNX Runtime has no such node.
    proto.graph.node[0].output.extend([""] * 4)
    np.testing.assert_array_equal(run(upgrade_opset(proto), x), before)


def test_a_scan_that_goes_through_each_sample_is_refused():
    text = (
        "g (float[1, 2] h, float[1, 3, 2] x) => (float[1, 2] y, float[1, 3, 2] z) { "
        "y, z = Scan<num_scan_inputs = 1, body = b (float[2] s, float[2] n) => "
        '(float[2] o, float[2] p) { o = Add(s, n) p = Identity(o) }>("", h, x) }'
    )
    with pytest.raises(ModelError, match="Scan 'y' is that of opset 8"):
        upgrade_opset(model(text, opset=8))


def with_mask(opset, place):
    """A Dropout whose mask is a value_info or an output."""
    proto = model("g (float[N, 2] x) => (float[N, 2] y) { y, mask = Dropout(x) }", opset=opset)
    kind = onnx.TensorProto.FLOAT if opset < 10 else onnx.TensorProto.BOOL
    declared = helper.make_tensor_value_info("mask", kind, ["N", 2])
    getattr(proto.graph, place).append(declared)
    onnx.checker.check_model(proto, full_check=True)
    return proto


@pytest.mark.parametrize("opset", [7, 9, 10, 11])
def test_a_mask_of_a_dropout_that_is_not_used_is_dropped(opset):
    new = upgrade_opset(with_mask(opset, "value_info"))
    onnx.checker.check_model(new, full_check=True)
    x = np.float32([[1, -2]])
    np.testing.assert_array_equal(run(new, x), x)


@pytest.mark.parametrize("opset", [9, 11])
def test_a_mask_of_a_dropout_that_is_used_is_refused(opset):
    with pytest.raises(ModelError, match="Dropout 'y' has a mask, 'mask', that is used"):
        upgrade_opset(with_mask(opset, "output"))


def test_an_input_that_is_an_output_keeps_its_shape():
    text = "g (float[N, 2] x) => (float[a, b] x, float[N, 2] y) { y = Relu(x) }"
    old = model(text, opset=12)
    new = upgrade_opset(old)
    assert (new.graph.input, new.graph.output) == (old.graph.input, old.graph.output)
