"""Set the membrane potential at which every neuron starts."""

from functools import partial
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from .errors import DataError, Refusal, UnsupportedModelError, is_number, require_whole
from .graph.neurons import attribute_tensor, initial_potential_of, neuron_nodes, threshold_of
from .graph.shapes import is_fixed, require_shapes

InitialPotential = float | Literal["uniform", "normal"]
"""A fraction of V_th (0.5 is optimal, Theorem 1), or a distribution over the neurons:
uniform on [0, V_th], or normal with mean V_th / 2 and standard deviation V_th / 6."""


def set_initial_potential(graph: gs.Graph, v_init: InitialPotential = 0.5, seed: int = 0) -> bool:
    """v(0) of every IF neuron := v_init V_th, or drawn anew for each neuron from ``seed``.

    Half the threshold minimises the expected squared conversion error and makes the
    expected error 0 (Bu et al., AAAI 2022, Theorem 1). A draw is the same for every
    sample and every run. Raises ``UnsupportedModelError`` if a draw needs the size of a
    layer that shape inference cannot tell, and ``DataError`` for a distribution of another name,
    for what is no number, and for a seed that is no whole number from 0 on.
    """
    known = v_init in ("uniform", "normal") if isinstance(v_init, str) else is_number(v_init)
    if not known:
        raise DataError(f"v_init must be a fraction of V_th, 'uniform' or 'normal', not {v_init!r}")
    seed = require_whole("seed", seed, 0)
    nodes = neuron_nodes(graph)
    generator, draw = np.random.default_rng(seed), None
    if isinstance(v_init, str):
        require_shapes(
            graph,
            nodes,
            is_fixed,
            "a random v(0) needs the size of every layer, which these do not tell:",
            "export the model with fixed sizes of all axes but N",
        )
        draws = {
            "uniform": partial(generator.uniform, 0.0, 1.0),
            "normal": partial(generator.normal, 0.5, 1 / 6),
        }
        draw = draws[v_init]
    values = list[np.ndarray]()
    for node in nodes:
        threshold = threshold_of(node)
        fraction = v_init if draw is None else draw(tuple(node.outputs[0].shape[1:]))
        # An array even where both are scalars.
        with np.errstate(over="ignore"):
            value = np.asarray(threshold.astype(np.float64) * fraction).astype(threshold.dtype)
        if not np.all(np.isfinite(value)):
            raise UnsupportedModelError(
                "v(0) must be finite:",
                [Refusal(node.name, node.op, f"v_init {v_init} is too much")],
            )
        values.append(value)
    changed = False
    for node, value in zip(nodes, values, strict=True):
        if not np.array_equal(value, initial_potential_of(node)):
            node.attrs["v_init"] = attribute_tensor(value)
            changed = True
    return changed
