"""Put a pass of your own into a recipe."""

import sys
from dataclasses import replace

import numpy as np

from onnx2snn import Spiking, convert, open_data, recipe_by_name, write_model
from onnx2snn.graph_passes import neuron_nodes, threshold_of


def round_thresholds(snn: Spiking) -> bool:
    """V_th -> the next power of two, for chips that shift bits; v(0) stays half of it."""
    changed = False
    for node in neuron_nodes(snn.graph):
        threshold = threshold_of(node)
        rounded = np.exp2(np.ceil(np.log2(threshold))).astype(threshold.dtype)
        changed |= not np.array_equal(rounded, threshold)
        node.attrs["v_threshold"].values = rounded
        node.attrs["v_init"].values = rounded / 2
    return changed


def main(source: str, calibration: str, target: str) -> None:
    """Convert by the recipe ``opi``, a threshold for each layer, with that pass at its end."""
    opi = recipe_by_name("opi")
    passes = (*opi.passes, round_thresholds)
    recipe = replace(opi, name="opi-shifts", per_channel=False, passes=passes)
    result = convert(source, calibration=open_data(calibration), recipe=recipe)
    write_model(result.parts, target)
    print(*(neuron.threshold for neuron in result.neurons))


if __name__ == "__main__":
    main(*sys.argv[1:])
