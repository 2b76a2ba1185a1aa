"""Small ONNX models from text, and what ONNX Runtime computes for them."""

import numpy as np
import onnx
import onnx.parser
import stock

from onnx2snn.graph_passes import infer_shapes, to_graph, to_model, verify


def model(text, weights=None, opset=17):
    """A model from ONNX text ``name (inputs) => (outputs) {nodes}``; weights by name."""
    versions = f'"": {opset}' + (', "com.microsoft": 1' if "com.microsoft" in text else "")
    parsed = onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{versions}]> {text}")
    for name, value in (weights or {}).items():
        parsed.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    onnx.checker.check_model(parsed)
    return parsed


def graph(text, weights=None, opset=17):
    """The same as an onnx-graphsurgeon graph with inferred shapes."""
    result = to_graph(model(text, weights, opset))
    infer_shapes(result)
    return result


def ops(graph):
    """The operators of a graph, in order."""
    return [node.op for node in graph.nodes]


def run(graph_or_model, *inputs, output=0, optimised=True):
    """One of the outputs, the first if not said otherwise, on ONNX Runtime.

    ``optimised``: whether it may compute operators as others.
    """
    proto = graph_or_model
    if not isinstance(proto, onnx.ModelProto):
        verify(proto)
        proto = to_model(proto)
    session = stock.session(proto, "full" if optimised else "off")
    names = [source.name for source in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=False)))[output]


def changes_once(function, graph):
    """Run a pass twice: it must say that it changed something, then that it did not."""
    assert function(graph) is True
    verify(graph)
    before = to_model(graph)
    assert function(graph) is False
    assert to_model(graph) == before


def whole(g):
    """A graph as a model, after every check of both: rules, ONNX's checker, strict shapes."""
    verify(g)
    proto = to_model(g)
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    verify(to_graph(proto))
    return proto
