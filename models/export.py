"""A trained network as an ONNX file, with all that its user has to know."""

import copy
import warnings
from pathlib import Path

import onnx
import torch
from torch import nn

from onnx2snn.graph_passes.model_files.whole_file import write_bytes

from .exact_sums import round_for_exact_sums
from .preprocessing import KEY, Preprocessing


def export(network: nn.Module, path: Path, preprocessing: Preprocessing) -> None:
    """Write the network as one ONNX file: ``input`` [N, C, H, W] -> ``output`` [N, classes].

    Its metadata say how images become the input. Layers behind trained clips are rounded for
    exact sums. The file is written whole or not at all.
    Raises ``OutputError`` if it cannot be written.
    """
    plain = copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format).eval()
    shape = (2, preprocessing.channels, preprocessing.size, preprocessing.size)
    with warnings.catch_warnings():
        # torch's exporter warns of its own internals.
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            plain,
            (torch.zeros(shape),),
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    graph = model.graph
    # The exporter notes of each node where in which file it came from, by paths of this machine.
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for noted in (graph, *graph.node, *values):
        del noted.metadata_props[:]
    round_for_exact_sums(model)
    onnx.helper.set_model_props(model, {KEY: str(preprocessing)})
    write_bytes(path, model.SerializeToString())
