"""Sessions of ONNX Runtime: what they are for, which weights they hold, and how they run."""

import ctypes
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnx2snn.graph_passes.errors import DataError, ModelError, first_line, from_onnxruntime
from onnx2snn.graph_passes.model_files.weights import ModelParts, detach, with_weights_as_inputs

from .failures import OUT_OF_MEMORY, lacks_memory, told
from .plans.graphs import names_left, names_read, types_in
from .providers import (
    CPU,
    name_of,
    onnxruntime,
    quiet_options,
    require_first,
    require_start,
    start,
    without_capture,
)

MOST_THREADS = 1024
"""More are refused: ONNX Runtime would start them all."""
FEW_WEIGHTS = 2**24
"""Bytes, 16 MiB: making a session of no more leaves little memory to give back."""
_IN_FLOAT32 = "; it has some operators in float32 alone: export the network in that"


@dataclass(frozen=True)
class Use:
    """What a session is for.

    once: for a few runs only, so that ONNX Runtime neither optimises the graph nor, since the
    large weights are inputs, copies them; ``run_session`` feeds them.
    seldom: no memory of a CPU is kept between runs. (Kept, it doubles in the second, where a
    result takes a part of what the largest tensor had.)
    lean: on a CPU it holds no large weights, nor copies of them while it is made, since they are
    inputs, which are fed with each run (``run_session``, ``DeviceStates``).
    plans_memory: that of runs on the same shapes is planned ahead, which may take twice of it.
    in_order: nodes run in the order of the graph, as far as they stay what they are.
    captures: runs become CUDA graphs, if ``providers`` say so: for what reads and writes the same
    memory each time, through bindings.
    """

    once: bool = False
    seldom: bool = False
    lean: bool = False
    plans_memory: bool = True
    in_order: bool = False
    captures: bool = False


OFTEN = Use()
ONCE = Use(once=True)
SELDOM = Use(seldom=True)
SELDOM_LEAN = Use(seldom=True, lean=True)


def create_session(
    model: onnx.ModelProto | ModelParts,
    providers: list[Any],
    threads: int | None = None,
    use: Use = OFTEN,
    own: Mapping[str, np.ndarray] | None = None,
) -> Any:
    """An ``onnxruntime.InferenceSession`` on the first of ``providers``.

    From ``ModelParts``, a CPU session shares the weights that ``names_left`` names with the caller,
    but for what ONNX Runtime repacks for speed, and holds all of them once more while it is made.

    threads: within an operator; None for one for each core that the process may use.
    own: further weights that are not shared; the caller may drop them.

    Raises ``ProviderError`` if the first provider does not start, where ONNX Runtime itself would
    go on with the next one, and ``ModelError`` if it cannot load the model.
    """
    providers = providers if use.captures else without_capture(providers)
    on_cpu = name_of(providers[0]) == CPU
    feeds = use.once or (use.lean and on_cpu)
    options = _options_of_session(threads, use)
    if isinstance(model, ModelParts):
        parts = model
    else:
        parts = detach(model) if feeds else ModelParts(model, {})
    if feeds:
        given = give_weights(options, own or {})
        structure = with_weights_as_inputs(parts.structure, but=given)
        shared = {name: np.asarray(array, order="C") for name, array in parts.weights.items()}
    else:
        structure = parts.structure
        given, shared = _share_weights(options, parts, own or {}, on_cpu)
    # ONNX Runtime reads what is ``given`` until the session is made: it must live so long.
    session = _start_or_say_why(structure, options, providers)
    if sum(array.nbytes for array in parts.weights.values()) > FEW_WEIGHTS:
        give_back_memory()
    # The session reads this memory as long as it lives, or is fed with it.
    session.shared_weights = shared
    session.weight_feed = shared if feeds else {}
    require_first(session, name_of(providers[0]))
    return session


def _options_of_session(threads: int | None, use: Use) -> Any:
    """The options of a session; ``threads`` as for ``create_session``."""
    ort = onnxruntime()
    options = quiet_options()
    options.intra_op_num_threads = _cores() if threads is None else threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = use.plans_memory and not use.seldom
    options.enable_cpu_mem_arena = not use.seldom
    if use.in_order:
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if use.once:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _share_weights(
    options: Any, parts: ModelParts, own: Mapping[str, np.ndarray], on_cpu: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give ONNX Runtime the weights that a model reads, and let it share what it can.

    Returns all that it is given, to be kept while the session is made, and what of the model's
    weights it shares, to be kept as long as the session lives.
    """
    read = names_read(parts.structure)
    left = names_left(parts.structure) if on_cpu else set()
    every = {name: array for name, array in {**parts.weights, **own}.items() if name in read}
    # By these its optimisers read the weights, and it copies them but for those that follow.
    given = give_weights(options, every)
    shared = {name: given[name] for name in parts.weights if name in left}
    for name, value in shared.items():
        options.add_initializer(name, value)
    return given, shared


def _start_or_say_why(model: onnx.ModelProto, options: Any, providers: list[Any]) -> Any:
    """A session of a model; ``ProviderError`` or ``ModelError`` as ``create_session`` raises."""
    try:
        types = types_in(model)
        # Of double it looks for a bound in float32.
        without = ["FuseReluClip"] if onnx.TensorProto.DOUBLE in types else []
        # In float16 on a CPU ONNX Runtime 1.32 ends the process where it lets a product transpose.
        if name_of(providers[0]) == CPU and onnx.TensorProto.FLOAT16 in types:
            without.append("MatmulTransposeFusion")
        return start(model.SerializeToString(), options, providers, without)
    except Exception as error:
        if not from_onnxruntime(error):
            raise
        if lacks_memory(error):
            raise ModelError(OUT_OF_MEMORY) from error
        if name_of(providers[0]) != CPU:
            require_start(providers)
        raise ModelError(
            f"ONNX Runtime cannot load the model: {first_line(error)}"
            + (_IN_FLOAT32 if "NOT_IMPLEMENTED" in str(error) else "")
        ) from error


def give_back_memory() -> None:
    """Return to the system what making a session took and freed, which glibc would keep.

    That may be two thirds of the weights (docs/measurements.md).
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def give_weights(options: Any, weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Give ONNX Runtime what the stubs of a model stand for; returns the values, to be kept."""
    values = {
        name: onnxruntime().OrtValue.ortvalue_from_numpy(np.asarray(array, order="C"))
        for name, array in weights.items()
    }
    options.add_external_initializers(list(values), list(values.values()))
    return values


def _cores() -> int:
    """How many threads to use where nobody says: 0 for ONNX Runtime's choice.

    It counts the machine's cores. A process that is confined to fewer would spend its time on
    threads that wait for each other.
    """
    if not hasattr(os, "sched_getaffinity"):
        return 0
    own = len(os.sched_getaffinity(0))
    return own if own < (os.cpu_count() or 1) else 0


def cores_of(threads: int | None) -> int:
    """How many cores so many threads are on; ``threads`` as for ``create_session``."""
    there = _cores() or os.cpu_count() or 1
    return min(threads or there, there)


def outputs_of(session: Any, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of a session by name, of what it reads of some values, as ``run_session``."""
    made = [output.name for output in session.get_outputs()]
    return dict(zip(made, run_session(session, made, read_by(session, values)), strict=True))


def read_by(session: Any, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those of some values that a session reads."""
    names = {source.name for source in session.get_inputs()}
    return {name: value for name, value in values.items() if name in names}


def run_session(
    session: Any, outputs: list[str] | None, feed: dict[str, np.ndarray]
) -> list[np.ndarray]:
    """``session.run``, with ``DataError`` where the network cannot run on these inputs."""
    try:
        values: list[np.ndarray] = session.run(outputs, session.weight_feed | feed)
    except Exception as error:
        if not from_onnxruntime(error):
            raise
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feed.items())
        raise DataError(told(error, f"the network cannot run on {shapes}: {{}}")) from error
    return values
