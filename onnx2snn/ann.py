"""The ANN that a spiking network is made from: in ONNX Runtime, and as a graph."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx2snn.graph_passes import ModelError, infer_shapes, to_graph
from onnx2snn.graph_passes.graph import neurons
from onnx2snn.graph_passes.model_files.weights import ModelParts, copy_model, replace_all
from onnx2snn.graph_passes.spellings.scikit_learn import (
    standardise_scikit_learn,
    zip_maps_to_tensors,
)
from onnx2snn.runtime.inputs import as_input, by_input_name, fixed_batch
from onnx2snn.runtime.providers import Providers, resolve_providers
from onnx2snn.runtime.sessions import OFTEN, ONCE, create_session, run_session


class Ann:
    """An ANN in ONNX Runtime, its inputs checked against what it declares.

    Raises ``ModelError`` if the model has neurons.
    """

    def __init__(
        self,
        model: ModelParts,
        providers: Providers = None,
        threads: int | None = None,
        once: bool = False,
    ):
        structure = zip_maps_to_tensors(model.structure)
        require_no_neurons(structure.graph.node)
        chosen = resolve_providers(providers)
        # ONNX Runtime's optimisations of quantized weights round activations as well.
        once = once or any(n.op_type == "DequantizeLinear" for n in structure.graph.node)
        self._session = create_session(
            ModelParts(structure, model.weights), chosen, threads, ONCE if once else OFTEN
        )
        self._outputs = [output.name for output in self._session.get_outputs()]
        kinds = {i.name: i.type.tensor_type.elem_type for i in structure.graph.input}
        self._inputs = {
            source.name: (source.shape, onnx.helper.tensor_dtype_to_np_dtype(kinds[source.name]))
            for source in self._session.get_inputs()
            # Weights that are inputs to ONNX Runtime are fed with each run.
            if source.name in kinds and source.name not in self._session.weight_feed
        }

    def run(self, x: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The model's outputs by name for inputs x [N, ...]; ``DataError`` if x does not fit.

        A model of a fixed batch size runs several times where N is a multiple of that.
        """
        given = by_input_name(x, list(self._inputs), "the ANN")
        batch = fixed_batch(shape for shape, _ in self._inputs.values())
        samples = {len(value) for value in given.values() if np.ndim(value)}
        if batch is not None and len(samples) == 1:
            (size,) = samples
            if size > batch and size % batch == 0:
                rows = [slice(start, start + batch) for start in range(0, size, batch)]
                # What is no array of samples, the check of each part refuses.
                parts = [
                    self.run({n: v[part] if np.ndim(v) else v for n, v in given.items()})
                    for part in rows
                ]
                return one_after_the_other(parts)
        feed = {
            name: as_input(given[name], shape, dtype, "the ANN", "x" if len(given) == 1 else name)
            for name, (shape, dtype) in self._inputs.items()
        }
        return dict(zip(self._outputs, run_session(self._session, None, feed), strict=True))


def one_after_the_other(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The outputs of several batches as those of one; of what has no axes one number for each."""
    return {name: np.concatenate([np.atleast_1d(p[name]) for p in parts]) for name in parts[0]}


def has_neurons(nodes: Iterable[gs.Node | onnx.NodeProto]) -> bool:
    """Whether nodes are those of a spiking network."""
    return any(map(neurons.is_stateful, nodes))


def require_no_neurons(nodes: Iterable[gs.Node | onnx.NodeProto]) -> None:
    """Raise ``ModelError`` if any of an ANN's nodes is a neuron."""
    if has_neurons(nodes):
        raise ModelError(
            "the model given as the ANN is a spiking network: give the network that it was "
            "converted from"
        )


def import_ann(parts: ModelParts) -> gs.Graph:
    """A model as a graph in order, with shapes, free of dictionaries."""
    graph = to_graph(ModelParts(zip_maps_to_tensors(parts.structure), parts.weights))
    standardise_scikit_learn(graph)
    infer_shapes(graph)
    return graph


def with_outputs(model: ModelParts, tensors: list[str], providers: Providers) -> Ann:
    """An ANN with inner tensors of it as its outputs."""
    watched = copy_model(model.structure)
    replace_all(watched.graph.output, (onnx.ValueInfoProto(name=name) for name in tensors))
    return Ann(ModelParts(watched, model.weights), providers)
