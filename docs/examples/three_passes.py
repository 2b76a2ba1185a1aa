"""Run three passes of your own choice on your own model."""

import sys
from functools import partial

from onnx2snn import graph_passes as gp


def main(source: str, target: str) -> None:
    """Read an ANN, run three passes, say what each did, write the result."""
    declined: list[gp.Refusal] = []
    model = gp.read_model(source)
    graph = gp.to_graph(gp.upgrade_opset(model))
    gp.infer_shapes(graph)
    fold = partial(gp.fold_batch_normalization, declined=declined)
    reports = gp.run_passes(graph, [gp.canonicalise, fold, gp.max_to_average_pool])
    gp.write_model(gp.to_model(graph, like=model), target)
    print(*reports, *declined, sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
