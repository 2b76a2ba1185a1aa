"""A pass of ours on an ``onnx_ir`` model, by round trip through ``ModelProto``."""

import sys

import onnx_ir as ir

from onnx2snn import graph_passes as gp


def fold_batch_normalization(model: ir.Model) -> ir.Model:
    """A model whose BatchNormalizations are part of the convolutions before them."""
    # A file of torch's keeps its weights beside it, where a ModelProto leaves them.
    ir.external_data.load_to_model(model)
    proto = ir.to_proto(model)
    graph = gp.to_graph(proto)
    gp.infer_shapes(graph)
    gp.run_passes(graph, [gp.canonicalise, gp.fold_batch_normalization])
    return ir.from_proto(gp.to_model(graph, like=proto))


if __name__ == "__main__":
    ir.save(fold_batch_normalization(ir.load(sys.argv[1])), sys.argv[2])
