import numpy as np
import pytest
from onnx_text import changes_once, graph, ops, run

from onnx2snn.graph_passes import split_attention

RNG = np.random.default_rng(0)
OWN = "com.microsoft"
HEADS = RNG.normal(size=(3, 4, 5, 2)).astype(np.float32)
ROWS = RNG.normal(size=(3, 5, 8)).astype(np.float32)
NUMBERS = {
    "k": RNG.normal(size=(3, 4, 6, 2)).astype(np.float32),
    "v": RNG.normal(size=(3, 4, 6, 3)).astype(np.float32),
    "k2": RNG.normal(size=(3, 2, 6, 2)).astype(np.float32),
    "v2": RNG.normal(size=(3, 2, 6, 3)).astype(np.float32),
    "kr": RNG.normal(size=(3, 6, 8)).astype(np.float32),
    "vr": RNG.normal(size=(3, 6, 12)).astype(np.float32),
    "kr2": RNG.normal(size=(3, 6, 4)).astype(np.float32),
    "vr2": RNG.normal(size=(3, 6, 6)).astype(np.float32),
    "added": RNG.normal(size=(5, 6)).astype(np.float32),
    "added4": RNG.normal(size=(3, 1, 5, 6)).astype(np.float32),
    "kept": RNG.random(size=(3, 1, 5, 6)) < 0.7,
    "w": RNG.normal(size=(8, 24)).astype(np.float32),
    "b": RNG.normal(size=24).astype(np.float32),
    "w2": RNG.normal(size=(8, 20)).astype(np.float32),
    "b2": RNG.normal(size=20).astype(np.float32),
    "bias": RNG.normal(size=28).astype(np.float32),
    "counts": np.int32([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 1, 1]]),
    "counts6": np.int32([[1, 1, 1, 0, 0, 1], [1, 1, 1, 1, 1, 0], [0, 1, 0, 1, 1, 1]]),
    "pairs": np.int32(RNG.random(size=(3, 5, 5)) < 0.7),
    "lengths": np.int32([3, 5, 4]),
    "square": RNG.normal(size=(1, 1, 5, 5)).astype(np.float32),
    "below": np.int32([[1, -1, 1, 0, 0], [1, 1, 2, 1, 1], [0, 1, -3, 1, 1]]),
    "half": RNG.normal(size=(5, 6)).astype(np.float16),
    "whole": np.int64(RNG.integers(-2, 3, (5, 6))),
    "blind": np.arange(30).reshape(5, 6) % 7 > np.int64([[0], [9], [1], [9], [2]]),
    "hidden": np.float32([[0, -np.inf] * 3, [-np.inf] * 6, [0.5] * 6, [-np.inf] * 6, [0] * 6]),
    "past": np.zeros((2, 3, 4, 1, 2), np.float32),
}
FOUR = {
    "plain": "Attention(x, k, v)",
    "scaled": "Attention<scale = 0.25>(x, k, v)",
    "causal": "Attention<is_causal = 1>(x, k, v)",
    "added mask": "Attention(x, k, v, added)",
    "added mask for each sample": "Attention(x, k, v, added4)",
    "mask of conditions": "Attention(x, k, v, kept)",
    "queries that see no key": "Attention(x, k, v, blind)",
    "numbers by which they do not": "Attention(x, k, v, hidden)",
    "causal, and no key": "Attention<is_causal = 1>(x, k, v, blind)",
    "fewer heads of keys": "Attention(x, k2, v2)",
    "all at once": "Attention<is_causal = 1>(x, k2, v2, added)",
}
BESIDE = {
    "heads side by side": "Attention<q_num_heads = 4, kv_num_heads = 4>(x, kr, vr)",
    "fewer heads of keys, side by side": "Attention<q_num_heads = 4, kv_num_heads = 2>"
                                         "(x, kr2, vr2)",
    "causal, side by side": "Attention<q_num_heads = 4, kv_num_heads = 4, is_causal = 1>"
                            "(x, kr, vr, added)",
}  # fmt: skip
RUNTIMES = {
    "plain": "Attention<num_heads = 4>(x, w, b)",
    "without biases": "Attention<num_heads = 4>(x, w, )",
    "sizes of its own": "Attention<num_heads = 4, qkv_hidden_sizes = [8, 8, 4]>(x, w2, b2)",
    "scaled": "Attention<num_heads = 2, scale = 0.25>(x, w, b)",
    "causal": "Attention<num_heads = 4, unidirectional = 1>(x, w, b)",
    "keys that count": "Attention<num_heads = 4>(x, w, b, counts)",
    "numbers below 0, which do not count": "Attention<num_heads = 4>(x, w, b, below)",
    "lengths": "Attention<num_heads = 4>(x, w, b, lengths)",
    "lengths of other keys": "MultiHeadAttention<num_heads = 4>(x, kr, vr, , lengths)",
    "pairs that count": "Attention<num_heads = 4>(x, w, b, pairs)",
    "another value": "Attention<num_heads = 4, mask_filter_value = -1.0>(x, w, b, counts)",
    "added": "Attention<num_heads = 4>(x, w, b, , , square)",
    "other keys": "MultiHeadAttention<num_heads = 4>(x, kr, vr)",
    "biases of other keys": "MultiHeadAttention<num_heads = 4>(x, kr, vr, bias)",
    "other keys that count": "MultiHeadAttention<num_heads = 4>(x, kr, vr, bias, counts6)",
    "added to other keys": "MultiHeadAttention<num_heads = 4>(x, kr, vr, , , added4)",
}


def attention(text, opset=23, x="N, 4, 5, 2", **own):
    g = graph(f"g (float[{x}] x) => (float y) {{ {text} }}", NUMBERS | own, opset)
    g.outputs[0].shape = None
    return g


def is_same(g, x):
    before = run(g, x, optimised=False)
    changes_once(split_attention, g)
    assert ops(g).count("Softmax") == 1
    assert not {"Attention", "MultiHeadAttention"} & set(ops(g))
    np.testing.assert_allclose(run(g, x, optimised=False), before, atol=1e-5)


@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize("text", FOUR.values(), ids=FOUR)
def test_heads_as_an_axis(text, opset):
    is_same(attention(f"y = {text}", opset), HEADS)


@pytest.mark.parametrize("text", BESIDE.values(), ids=BESIDE)
def test_heads_side_by_side(text):
    is_same(attention(f"y = {text}", x="N, 5, 8"), ROWS)


@pytest.mark.parametrize("text", RUNTIMES.values(), ids=RUNTIMES)
def test_operators_of_the_runtime(text):
    is_same(attention(f"y = {OWN}.{text}", 17, "N, 5, 8"), ROWS)


@pytest.mark.parametrize("mask", ["half", "whole"])
def test_masks_of_another_type(mask):
    g = attention(f"y = Attention(x, k, v, {mask})")
    wanted = run(attention("y = Attention(x, k, v, m)", m=NUMBERS[mask].astype(np.float32)), HEADS)
    changes_once(split_attention, g)
    np.testing.assert_allclose(run(g, HEADS), wanted, atol=1e-5)


def test_a_mask_whose_type_is_not_known_yet():
    text = "g (float[N, 4, 5, 2] x, bool[N, 1, 5, 6] m) => (float[N, 4, 5, 3] y) "
    g = graph(text + "{ n = Not(m) y = Attention(x, k, v, n) }", NUMBERS, 23)
    mask = ~NUMBERS["kept"]
    before = run(g, HEADS, mask)
    g.tensors()["n"].dtype = None
    changes_once(split_attention, g)
    np.testing.assert_allclose(run(g, HEADS, mask), before, atol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "Attention<num_heads = 4>(x, w, b, sequences)", "Attention<num_heads = 4>(x, w, b, ends)",
        "MultiHeadAttention<num_heads = 4>(x, kr, vr, , sequences)",
    ],
)  # fmt: skip
def test_masks_that_are_more_than_lengths_stay(text):
    """Where keys begin, too, or where sequences do."""
    own = {"ends": np.int32([3, 5, 4, 0, 1, 0]), "sequences": np.arange(11, dtype=np.int32)}
    g = attention(f"y = {OWN}.{text}", 17, "3, 5, 8", **own)
    assert split_attention(g) is False


def test_lengths_of_samples_of_another_name():
    text = "g (float[N, 5, 8] x, int32[samples] m) => (float[N, 5, 8] y) "
    text += f"{{ y = {OWN}.Attention<num_heads = 4>(x, w, b, m) }}"
    g = graph(text, NUMBERS)
    before = run(g, ROWS, NUMBERS["lengths"], optimised=False)
    changes_once(split_attention, g)
    np.testing.assert_allclose(run(g, ROWS, NUMBERS["lengths"]), before, atol=1e-5)


@pytest.mark.parametrize("causal", [0, 1])
def test_queries_that_see_no_key_as_an_input_says(causal):
    text = "g (float[N, 4, 5, 2] x, bool[N, 1, 5, 6] m) => (float y) { y = Attention<is_causal = "
    g = graph(f"{text}{causal}>(x, k, v, m) }}", NUMBERS, 23)
    mask = np.broadcast_to(NUMBERS["blind"], (3, 1, 5, 6))
    before = run(g, HEADS, mask)
    assert np.any(np.all(before == 0, axis=-1))
    changes_once(split_attention, g)
    np.testing.assert_allclose(run(g, HEADS, mask), before, atol=1e-5)


@pytest.mark.parametrize("text", ["Attention<is_causal = 1>(x, k, v)", "Attention(x, k, v, added)"])
def test_nothing_guards_where_every_query_sees_a_key(text):
    g = attention(f"y = {text}")
    split_attention(g)
    assert "IsNaN" not in ops(g)


def test_fewer_queries_than_keys_that_come_later_stay():
    """ONNX Runtime lets the last query see all keys."""
    text = f"y = {OWN}.MultiHeadAttention<num_heads = 4, unidirectional = 1>(x, kr, vr)"
    assert split_attention(attention(text, 17, "N, 5, 8")) is False


@pytest.mark.parametrize(
    ("keys", "length", "changes"),
    [("k", None, False), ("k", "?", False), ("k", "L", True), ("x", None, True)],
)
def test_lengths_without_names_may_differ(keys, length, changes):
    own = f"{OWN}.MultiHeadAttention<num_heads = 2, unidirectional = 1>"
    text = "g (float[N, L, 8] x, float[N, M, 8] k) => (float[N, L, 8] y) "
    g = graph(f"{text} {{ y = {own}(x, {keys}, {keys}) }}", {}, 17)
    for tensor in g.inputs:
        tensor.shape = ["N", length, 8]
    assert split_attention(g) is changes


@pytest.mark.parametrize(("opset", "changes"), [(13, False), (14, False), (15, True)])
@pytest.mark.parametrize(
    ("given", "body"),
    [("", "<num_heads = 2, unidirectional = 1>(x, x, x)"),
     (", int32[N] n", "<num_heads = 2>(x, x, x, , n)")],
)  # fmt: skip
def test_masks_of_open_sizes_before_opset_15_stay(opset, changes, given, body):
    signature = f"g (float[N, L, 8] x{given}) => (float[N, L, 8] y)"
    g = graph(f"{signature} {{ y = {OWN}.MultiHeadAttention{body} }}", {}, opset)
    assert split_attention(g) is changes


def test_chain_of_which_the_sizes_are_not_known():
    text = "".join(f"{b} = {OWN}.MultiHeadAttention<num_heads = 2>({a}, {a}, {a}) "
                   for a, b in zip("xrst", "rsty", strict=True))  # fmt: skip
    g = attention(text, 17, "N, 5, 8")
    for name in "rst":
        g.tensors()[name].shape = None
    before = run(g, ROWS, optimised=False)
    changes_once(split_attention, g)
    assert ops(g).count("Softmax") == 4
    np.testing.assert_allclose(run(g, ROWS), before, atol=1e-5)


def test_sequence_of_open_length():
    g = attention("y = Attention<q_num_heads = 4, kv_num_heads = 4>(x, x, x)", x="N, L, 8")
    is_same(g, ROWS)


def test_keys_that_an_input_says_to_count():
    text = f"g (float[N, 5, 8] x, int32[N, 5] m) => (float y) {{ y = {OWN}.Attention<num_heads = 4>"
    g = graph(text + "(x, w, b, m) }", NUMBERS)
    before = run(g, ROWS, NUMBERS["counts"])
    changes_once(split_attention, g)
    np.testing.assert_allclose(run(g, ROWS, NUMBERS["counts"]), before, atol=1e-5)


def test_soft_caps_stay():
    assert split_attention(attention("y = Attention<softcap = 2.0>(x, k, v)")) is False


def test_scores_that_are_read_stay():
    text = "g (float[N, 4, 5, 2] x) => (float y, float s) { y, , , s = Attention(x, k, v) }"
    assert split_attention(graph(text, NUMBERS, 23)) is False


@pytest.mark.parametrize("keys", ["x, x", "k, v"])
def test_causal_mask_of_open_size(keys):
    g = attention(f"y = Attention<is_causal = 1>(x, {keys})", x="N, 4, L, 2")
    is_same(g, HEADS)
    assert "Trilu" in ops(g)


def test_causal_mask_of_open_size_on_the_runtime():
    g = attention(f"y = {OWN}.{RUNTIMES['causal']}", 17, "N, L, 8")
    is_same(g, ROWS)


def test_masks_of_fewer_keys_stay():
    numbers = NUMBERS | {"few": np.zeros((5, 4), np.float32)}
    text = "g (float[N, 4, 5, 2] x) => (float y) { y = Attention(x, k, v, few) }"
    assert split_attention(graph(text, numbers, 24)) is False


def test_pasts_stay():
    g = attention(f"y = {OWN}.Attention<num_heads = 4>(x, w, b, , past)", 17, "N, 5, 8")
    assert split_attention(g) is False


def test_lengths_of_a_sequence_of_open_length():
    is_same(attention(f"y = {OWN}.{RUNTIMES['lengths']}", 17, "N, L, 8"), ROWS)


@pytest.mark.parametrize("side", ["left", "right"])
def test_windows_stay(side):
    text = (
        f"g (float[N, 4, 5, 2] x) => (float y) {{ y = Attention<{side}_window_size = 1>(x, k, v) }}"
    )
    proto = graph(text.replace(f"<{side}_window_size = 1>", ""), NUMBERS, 23)
    (node,) = proto.nodes
    # Of opset 25, which not every ONNX that this runs with knows.
    node.attrs[f"{side}_window_size"] = 1
    assert split_attention(proto) is False
    node.attrs[f"{side}_window_size"] = -1
    assert split_attention(proto) is True
