"""Which device ONNX Runtime runs on, said plainly and never changed silently."""

import contextlib
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from onnx2snn.graph_passes.errors import ProviderError, first_line

from .failures import failing_as

logger = logging.getLogger("onnx2snn")

Providers = str | Sequence[str | tuple[str, dict[str, Any]]] | None
"""``None`` or "cpu"; "cuda"; "auto" (CUDA if it starts, else the CPU); or ONNX Runtime's own
list of execution provider names, with options as ``(name, options)``."""

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
ON_GPU = (CUDA, TENSORRT)
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
        require_start(chosen)
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
            else ", or say cpu, cuda or auto"
        )
        raise ProviderError(
            f"{', '.join(missing)} is not in the installed ONNX Runtime, "
            f"which has {', '.join(available)}{advice}"
        )


def name_of(provider: Any) -> str:
    """The name of one of ONNX Runtime's providers, which may come with options."""
    name: str = provider if isinstance(provider, str) else provider[0]
    return name


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


def require_start(providers: list[Any]) -> None:
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
    require_first(session, wanted)


def require_first(session: Any, wanted: str) -> None:
    """Raise ``ProviderError`` if a session runs on another provider than this first one."""
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
