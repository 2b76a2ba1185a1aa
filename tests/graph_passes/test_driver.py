import inspect

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx_text import graph, model, run

from onnx2snn import graph_passes
from onnx2snn.graph_passes import (
    DataError,
    PassError,
    activations_to_neurons,
    canonicalise,
    infer_shapes,
    neuron_nodes,
    run_passes,
    to_graph,
    to_model,
    unify_linear_layers,
    verify,
)
from onnx2snn.graph_passes.graph.tidying import name_nodes

SIGNATURE = "g (float[N, 3] x) => (float[N, 3] y)"


def small():
    return graph(f"{SIGNATURE} {{ a = Identity(x) b = Neg(a) y = Relu(b) }}")


def test_reports_what_each_pass_did():
    reports = run_passes(small(), [canonicalise, canonicalise])
    assert [(r.name, r.changed, r.nodes_before, r.nodes_after) for r in reports] == [
        ("canonicalise", True, 3, 2),
        ("canonicalise", False, 2, 2),
    ]


def test_what_are_no_passes_over_a_graph():
    with pytest.raises(DataError, match=r"to_graph makes one of a model, .* type ModelProto"):
        run_passes(to_model(small()), [canonicalise])
    for given in ("canonicalise", ["canonicalise"], None):
        with pytest.raises(DataError, match="passes are functions, not"):
            run_passes(small(), given)
    assert len(run_passes(small(), iter([canonicalise]))) == 1


def test_a_lack_of_memory_is_no_fault_of_the_pass():
    def takes_all(graph):
        raise MemoryError("too much")

    with pytest.raises(MemoryError, match="too much"):
        run_passes(small(), [takes_all])


PASSES = [
    name
    for name in graph_passes.__all__
    if inspect.isfunction(function := getattr(graph_passes, name))
    and next(iter(inspect.signature(function).parameters)) == "graph"
]
OTHERS = {
    "bound_activations": [{}], "change_neurons": ["IF"], "code_inputs": [{}, 4],
    "delay_read_out": [1], "run_passes": [[]],
}  # fmt: skip


@pytest.mark.parametrize("name", PASSES)
def test_what_is_no_graph_is_refused(name):
    """As a model that to_graph was forgotten of."""
    function, others = getattr(graph_passes, name), OTHERS.get(name, [])
    for given in (to_model(small()), None, "graph"):
        with pytest.raises(DataError, match="passes change a graph, as to_graph makes one"):
            function(given, *others)


def test_a_pass_that_says_nothing_changed_nothing():
    (report,) = run_passes(small(), [lambda graph: None])
    assert report.changed is False


def leaves_out(graph):
    graph.nodes = [node for node in graph.nodes if node.op != "Neg"]
    return True


def last(graph):
    graph.nodes.append(graph.nodes.pop(0))
    return True


@pytest.mark.parametrize("breaks", [leaves_out, last])
def test_what_branches_read_is_there_before_them(breaks):
    text = (
        f"{SIGNATURE} {{ a = Neg(x) y = If(yes) <then_branch = t () => (float[N, 3] p) "
        "{ p = Relu(a) }, else_branch = e () => (float[N, 3] q) { q = Abs(a) }> }"
    )
    g = graph(text, {"yes": np.array(True)})
    verify(g)
    with pytest.raises(PassError, match="reads 'a', which nothing before it makes"):
        run_passes(g, [breaks])


def test_an_error_of_a_passs_own_is_no_broken_graph():
    def budget(graph):
        raise PassError("accuracy fell by 3 %")

    with pytest.raises(PassError, match="pass budget failed: accuracy fell by 3 %"):
        run_passes(small(), [budget])


def test_names_the_pass_that_raises_and_those_before():
    def breaks(graph):
        raise KeyError("oops")

    with pytest.raises(PassError, match=r"pass breaks \(after canonicalise\) failed with KeyError"):
        run_passes(small(), [canonicalise, breaks])


def dangling(graph):
    graph.nodes[-1].inputs = [gs.Variable("nothing", np.float32)]
    return True


def same_name(graph):
    graph.nodes[-1].inputs = [gs.Constant("x", np.zeros(3, np.float32))]
    return True


def made_twice(graph):
    graph.nodes.append(gs.Node("Neg", "more", {}, [graph.inputs[0]], [graph.outputs[0]]))
    return True


def no_output(graph):
    graph.outputs.append(gs.Variable("nothing", np.float32))
    return True


def unordered(graph):
    graph.nodes.reverse()
    return True


def unnamed(graph):
    graph.nodes[0].name = ""
    return True


def lost_state(graph):
    node = graph.nodes[-1]
    node.op, node.domain = "IF", "onnx2snn"
    node.attrs.update(v_threshold=gs.Constant("", np.ones(())), v_init=gs.Constant("", np.ones(())))
    return True


def no_tensor(graph):
    graph.outputs = [None]
    return True


def same_input(graph):
    graph.inputs.append(gs.Variable("x", np.float32))
    return True


def other_output(graph):
    graph.outputs[0] = gs.Variable("y", np.float32, [7])
    return True


@pytest.mark.parametrize(
    ("v_th", "said"),
    [(1.0, "v_threshold must be a gs.Constant")]
    + [
        (gs.Constant("", np.array(values)), "V_th must be positive and finite")
        for values in (0.0, np.nan, np.inf, [])
    ],
)
def test_what_is_no_threshold_is_named(v_th, said):
    body = "{ c = Clip(x, zero, one) y = Neg(c) }"
    g = graph(f"{SIGNATURE} {body}", {"zero": np.float32(0), "one": np.float32(1)})
    activations_to_neurons(g)
    (neuron,) = neuron_nodes(g)
    neuron.attrs["v_threshold"] = v_th
    with pytest.raises(PassError, match=f"IF '{neuron.name}': {said}"):
        verify(g)


@pytest.mark.parametrize(
    "breaks",
    [dangling, same_name, made_twice, no_output, unordered, unnamed, lost_state, same_input,
     no_tensor, other_output],
)  # fmt: skip
def test_a_broken_graph_is_found_and_the_pass_named(breaks):
    g = small()
    verify(g)
    with pytest.raises(PassError, match=f"pass {breaks.__name__} left a broken graph"):
        run_passes(g, [breaks])


@pytest.mark.parametrize("how", ["to_graph", "copy", "import"])
def test_what_is_in_branches_is_known_however_a_graph_was_made(how):
    """There a node of its own would be read by one in a branch, which no pass may take in."""
    then = "t () => (float[N, 3] t) { t = Add(m, b) }"
    other = "e () => (float[N, 3] e) { e = Neg(x) }"
    text = (
        "g (float[N, 3] x, bool c) => (float[N, 3] y) { m = MatMul(x, w) "
        f"y = If (c) <then_branch = {then}, else_branch = {other}> }}"
    )
    weights = {"w": np.eye(3, dtype=np.float32), "b": np.ones(3, np.float32)}
    proto = model(text, weights)
    g = gs.import_onnx(proto) if how == "import" else to_graph(proto)
    name_nodes(g)
    infer_shapes(g)
    g = g.copy() if how == "copy" else g
    assert unify_linear_layers(g) is False
    x = np.float32([[1, 2, 3]])
    for given, wanted in ((True, x + 1), (False, -x)):
        np.testing.assert_array_equal(run(g, x, np.array(given)), wanted)
