"""ONNX Runtime sessions: which device they run on, said plainly and never changed silently."""

import contextlib
import ctypes
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnx2snn.graph_passes.errors import DataError, ModelError, ProviderError, from_onnxruntime
from onnx2snn.graph_passes.model_files.files import first_line
from onnx2snn.graph_passes.model_files.weights import ModelParts, detach, with_weights_as_inputs

from .failures import OUT_OF_MEMORY, failing_as, lacks_memory, told
from .plans.graphs import has_float16, names_left, names_read

logger = logging.getLogger("onnx2snn")

Providers = str | Sequence[str | tuple[str, dict[str, Any]]] | None
"""``None`` or "cpu"; "cuda"; "auto" (CUDA if it starts, else the CPU); or ONNX Runtime's own
list of execution provider names, with options as ``(name, options)``."""

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
ON_GPU = (CUDA, TENSORRT)
MOST_THREADS = 1024
"""More are refused: ONNX Runtime would start them all."""
FEW_WEIGHTS = 2**24
"""Bytes, 16 MiB: making a session of no more leaves little memory to give back."""
_IN_FLOAT32 = "; it has some operators in float32 alone: export the network in that"
_CAPTURE = "enable_cuda_graph"
_TENSORRT_CAPTURE = "trt_cuda_graph_enable"
_TF32 = "use_tf32"
_SHORT_NAMES = {"cpu": [CPU], "cuda": [CUDA, CPU]}


def onnxruntime() -> Any:
    """The module ``onnxruntime``; ``ProviderError`` says which extra brings it if missing."""
    try:
        import onnxruntime as module
    except ImportError as error:
        cause = error.__cause__
        if cause is not None and not isinstance(cause, Exception):
            # What interrupts its initialisation, as Ctrl-C, pybind11 takes for a failure.
            raise cause from None
        if error.name != "onnxruntime":
            raise ProviderError(
                f"ONNX Runtime cannot be loaded: {first_line(error)}; install it anew, with "
                "pip install --force-reinstall onnxruntime (or onnxruntime-gpu)"
            ) from error
        raise ProviderError(
            "ONNX Runtime is not installed: run pip install 'onnx2snn[cpu]', "
            "or pip install 'onnx2snn[gpu]' for CUDA"
        ) from error
    return module


def resolve_providers(providers: Providers) -> list[Any]:
    """ONNX Runtime's provider list for what a user asked for.

    Raises ``ProviderError`` if a provider is not in the installed ONNX Runtime, or cannot
    be started. "auto" takes CUDA where it starts, and logs which device it took. CUDA computes
    in float32, not in the 10 bits of TF32, unless the option ``use_tf32`` asks for that.
    """
    ort = onnxruntime()
    if isinstance(providers, str) and providers.lower() == "auto":
        return _cuda_or_cpu()
    chosen = _as_listed(providers)
    names = _names_of(chosen)
    _require_available(names, ort.get_available_providers())
    if set(ON_GPU) & set(names) and hasattr(ort, "preload_dlls"):
        # Finds the CUDA and cuDNN libraries that the [gpu] extra installs with pip. What it says
        # of those that are missing is no part of a command's output.
        with contextlib.redirect_stdout(sys.stderr):
            ort.preload_dlls()
    if any(_is_on(options_of(entry), _TENSORRT_CAPTURE) for entry in chosen):
        raise ProviderError(
            f"{TENSORRT} captures one CUDA graph a session, and time-steps take turns between two: "
            f"leave out {_TENSORRT_CAPTURE}"
        )
    return [
        (CUDA, {_TF32: "0"} | options_of(entry)) if name_of(entry) == CUDA else entry
        for entry in chosen
    ]


def _cuda_or_cpu() -> list[Any]:
    """CUDA where it starts, else the CPU, which is logged."""
    try:
        chosen = resolve_providers("cuda")
        _require_start(chosen)
    except ProviderError as error:
        logger.info("device: CPU (%s)", error)
        return [CPU]
    logger.info("device: CUDA")
    return chosen


def _as_listed(providers: Providers) -> list[Any]:
    """What a user asked for as a list, which may hold anything."""
    if isinstance(providers, str):
        return _SHORT_NAMES.get(providers.lower(), [providers])
    given = (CPU,) if providers is None else providers
    return list(given) if isinstance(given, Sequence) else [given]


def _names_of(chosen: list[Any]) -> list[str]:
    """The names in a list; ``ProviderError`` for what is no provider."""
    for entry in chosen:
        pair = isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[1], dict)
        if not isinstance(entry, str) and not (pair and isinstance(entry[0], str)):
            raise ProviderError(
                f"a provider is a name, or a pair of a name and its options, not {entry!r}"
            )
    return [name_of(entry) for entry in chosen]


def _require_available(names: list[str], available: list[str]) -> None:
    """Raise ``ProviderError`` unless the installed ONNX Runtime has all of these, one at least."""
    if not names:
        raise ProviderError(f"no provider is given; there are {', '.join(available)}")
    missing = [name for name in names if name not in available]
    if missing:
        advice = (
            "; for CUDA, pip uninstall onnxruntime, then pip install 'onnx2snn[gpu]'"
            if CUDA in missing
            else ""
        )
        raise ProviderError(
            f"{', '.join(missing)} is not in the installed ONNX Runtime, "
            f"which has {', '.join(available)}{advice}"
        )


def options_of(provider: Any) -> dict[str, Any]:
    """The options that one of ONNX Runtime's providers comes with."""
    return {} if isinstance(provider, str) else dict(provider[1])


def device_id_of(provider: Any) -> int:
    """Which GPU it runs on; ``ProviderError`` for a ``device_id`` that is no number."""
    given = options_of(provider).get("device_id", 0)
    try:
        return int(given)
    except (TypeError, ValueError) as error:
        raise ProviderError(f"device_id must be a number, not {given!r}") from error


def _is_on(options: Mapping[str, Any], name: str) -> bool:
    return str(options.get(name, 0)).lower() in ("1", "true")


def captures_runs(providers: list[Any]) -> bool:
    """Whether runs of time-steps are to become CUDA graphs."""
    return any(_is_on(options_of(provider), _CAPTURE) for provider in providers)


def without_capture(providers: list[Any]) -> list[Any]:
    """The same providers, but that none captures runs as CUDA graphs."""
    return [
        entry if isinstance(entry, str)
        else (entry[0], {name: v for name, v in entry[1].items() if name != _CAPTURE})
        for entry in providers
    ]  # fmt: skip


def rounds_products(providers: list[Any]) -> bool:
    """Whether the first provider computes products of float32 in fewer bits, as in TF32."""
    first = providers[0]
    return name_of(first) == TENSORRT or _is_on(options_of(first), _TF32)


def _require_start(providers: list[Any]) -> None:
    """Raise ``ProviderError``, with the reason, if the first provider does not start."""
    wanted = name_of(providers[0])
    options = quiet_options()
    identity = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[1] x) => (float[1] y) { y = Identity(x) }'
    )
    failure = (
        f"ONNX Runtime could not start {wanted}: {{}}; check its options, the driver and the CUDA "
        "and cuDNN libraries"
    )
    with failing_as(ProviderError, failure):
        session = start(identity.SerializeToString(), options, providers)
    _require_first(session, wanted)


def _require_first(session: Any, wanted: str) -> None:
    if session.get_providers()[0] != wanted:
        raise ProviderError(
            f"ONNX Runtime could not start {wanted} and would use {session.get_providers()[0]}: "
            "check the driver and the CUDA and cuDNN libraries"
        )


def quiet_options() -> Any:
    """Options of a session that logs nothing but what ends it."""
    options = onnxruntime().SessionOptions()
    options.log_severity_level = 4
    return options


def start(model: bytes, options: Any, providers: list[Any], without: Sequence[str] = ()) -> Any:
    """A session as ONNX Runtime starts it, without these of its optimisations."""
    ort = onnxruntime()
    # Up to 1.31, the newest for GPUs, it lets a max-pool that pads take over a Pad of zeros, which
    # are then taken for the lowest number.
    version = tuple(map(int, re.findall(r"\d+", ort.__version__)[:2]))
    disabled = [*without, *([] if version >= (1, 32) else ["Pad_Fusion"])]
    # With a fallback it goes on with the CPU after an error, also of a later run, and prints that.
    return ort.InferenceSession(
        model, options, providers=providers, enable_fallback=0, disabled_optimizers=disabled
    )


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
    _require_first(session, name_of(providers[0]))
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
        # In float16 ONNX Runtime 1.32 ends the process where a Transpose enters a product.
        without = ["MatmulTransposeFusion"] if has_float16(model) else []
        return start(model.SerializeToString(), options, providers, without)
    except Exception as error:
        if not from_onnxruntime(error):
            raise
        if lacks_memory(error):
            raise ModelError(OUT_OF_MEMORY) from error
        if name_of(providers[0]) != CPU:
            _require_start(providers)
        raise ModelError(
            f"ONNX Runtime cannot load the model: {first_line(error)}"
            + (_IN_FLOAT32 if "NOT_IMPLEMENTED" in str(error) else "")
        ) from error


def name_of(provider: Any) -> str:
    """The name of one of ONNX Runtime's providers, which may come with options."""
    name: str = provider if isinstance(provider, str) else provider[0]
    return name


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
