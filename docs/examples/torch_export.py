"""Export a network from PyTorch, with three passes on the way to the file."""

import sys

import torch

from onnx2snn import graph_passes as gp


def export(network: torch.nn.Module, example: torch.Tensor, path: str) -> None:
    """Trace ``network``, bring its graph into canonical form, and write it."""
    program = torch.onnx.export(network.eval(), (example,), dynamo=True, verbose=False)
    model = program.model_proto
    graph = gp.to_graph(gp.upgrade_opset(model))
    gp.infer_shapes(graph)
    gp.run_passes(graph, [gp.canonicalise, gp.fold_batch_normalization, gp.max_to_average_pool])
    gp.write_model(gp.to_model(graph, like=model), path)


if __name__ == "__main__":
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.MaxPool2d(2)
    )
    export(layers, torch.zeros(1, 1, 8, 8), sys.argv[1])
