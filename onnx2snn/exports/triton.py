"""``to_triton``: a model repository for the Triton Inference Server.

    NAME             the loop file: image in, read-out out; requests are batched
    NAME-stateful    the file of one time-step: a sequence of requests, one a time-step; the
                     server keeps the states, and the first request of a sequence resets them

What makes the second one is in ``triton_steps``.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx

from onnx2snn.digests import read_with_digest
from onnx2snn.graph_passes.errors import OutputError, require_truths, require_whole
from onnx2snn.graph_passes.model_files.files import Model, require_path
from onnx2snn.graph_passes.model_files.weights import attach
from onnx2snn.graph_passes.model_files.whole_file import folder_for, whole_file

from .loop import stamped_loop
from .metadata import stamp
from .triton_config import EnumName, config, pbtxt, sequences, tensor
from .triton_steps import START, stateful_model


def to_triton(
    snn: Model,
    folder: str | os.PathLike[str],
    timesteps: int,
    *,
    name: str = "snn",
    gpu: bool = False,
    force: bool = False,
    preprocessing: str | None = None,
) -> list[Path]:
    """Write both models into a repository; returns the folders of the two.

    folder: the repository, made if it is not there, with those around it; its other models stay.
    timesteps: T of the stateless model. name: that of the stateless model; the other's ends in
    "-stateful". gpu: instance groups of kind GPU, else CPU. force: replace files of models of these
    names. preprocessing: as of ``to_loop``. Raises ``DataError`` for an invalid T, ``ModelError``
    for a file that is no SNN, of a fixed batch size, of which an output or the states of a layer
    have other rows than one for each sample, or one that shows that it depends on others, or of
    which an output is an input too, and ``OutputError`` where a model of the name exists, the name
    is not UTF-8 or nothing can be written.
    """
    require_truths(gpu=gpu, force=force)
    require_path(folder, "a model repository is a folder's path", OutputError)
    timesteps, folder = require_whole("timesteps", timesteps, 1), Path(folder)
    names = name, f"{name}-stateful"
    _require_folder_name(name)
    with folder_for(folder):
        _require_room(folder, names, force)
        _write_all(folder, _files(snn, names, timesteps, gpu, preprocessing), names, force)
    return [folder / name for name in names]


def _files(
    snn: Model, names: tuple[str, str], timesteps: int, gpu: bool, preprocessing: str | None
) -> dict[Path, bytes]:
    """What both models consist of, by where that is in the repository."""
    parts, digest = read_with_digest(snn)
    loop = stamped_loop(parts, digest, timesteps, preprocessing)
    stateful = stateful_model(attach(parts))
    made = {"format": "triton-stateful", "timesteps": "one request each"}
    onnx.helper.set_model_props(stateful.model, stamp(parts.structure, digest, made, preprocessing))
    kept = {name for state in stateful.states for name in (state.read, state.written)} | {START}
    group = [{"kind": EnumName("KIND_GPU" if gpu else "KIND_CPU"), "count": 1}]
    configs = (
        config(names[0], loop, set()) | {"dynamic_batching": {}, "instance_group": group},
        config(names[1], stateful.model, kept)
        | {"sequence_batching": sequences(stateful), "instance_group": group},
    )
    pages = (
        _page_of_loop(names[0], loop, timesteps),
        _page_of_steps(names[1], stateful.model, kept, stateful.means, timesteps),
    )
    files: dict[Path, bytes] = {}
    for model_name, model, configuration, page in zip(
        names, (loop, stateful.model), configs, pages, strict=True
    ):
        place = Path(model_name)
        files[place / "1" / "model.onnx"] = model.SerializeToString()
        files[place / "README.md"] = page.encode()
        files[place / "config.pbtxt"] = pbtxt(configuration).encode()
    return files


def _require_folder_name(name: str) -> None:
    if not isinstance(name, str) or name in ("", ".", "..") or {"/", "\\", "\0"} & set(name):
        raise OutputError(f"{name!r} is no name for a model of Triton, which is a folder's")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise OutputError(
            f"'{name}' is no name for a model of Triton, since it is not UTF-8: rename it"
        ) from error


def _require_room(folder: Path, names: tuple[str, ...], force: bool) -> None:
    for name in names:
        if os.path.lexists(folder / name) and not force:
            raise OutputError(f"'{folder / name}' exists: give --force to replace its files")
        if os.path.lexists(folder / name) and not (folder / name).is_dir():
            raise OutputError(f"'{folder / name}' is no folder, as a model of Triton is: remove it")


def _write_all(folder: Path, files: dict[Path, bytes], names: tuple[str, ...], force: bool) -> None:
    """New model folders appear whole; of those that exist, file after file is replaced."""
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".onnx2snn-") as made:
            for path, content in files.items():
                target = Path(made) / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(target) as file:
                    file.write(content)
            for name in names:
                if not (force and (folder / name).exists()):
                    # Fails where another process was faster, whose folder is not empty.
                    (Path(made) / name).rename(folder / name)
                    continue
                for path in (path for path in files if path.parts[0] == name):
                    (folder / path).parent.mkdir(exist_ok=True)
                    if (folder / path).exists():
                        shutil.copymode(folder / path, Path(made) / path)
                    (Path(made) / path).replace(folder / path)
    except OSError as error:
        raise OutputError(f"cannot write '{folder}': {error.strerror or error}") from error


_CALL = """\
    import numpy as np
    import tritonclient.http as triton

    arrays = {{{arrays}}}  # [N, ...]: put yours here.
    client = triton.InferenceServerClient("localhost:8000")
    inputs = [{inputs}]
    for tensor in inputs:
        tensor.set_data_from_numpy(arrays[tensor.name()])
"""


def _call(model: onnx.ModelProto, apart: set[str]) -> str:
    given = [info for info in model.graph.input if info.name not in apart]
    inputs = ", ".join(
        f'triton.InferInput("{t["name"]}", list(arrays["{t["name"]}"].shape), '
        f'"{t["data_type"].removeprefix("TYPE_")}")'
        for t in map(tensor, given)
    )
    arrays = ", ".join(f'"{info.name}": {_zeros(info)}' for info in given)
    return _CALL.format(arrays=arrays, inputs=inputs)


def _zeros(info: onnx.ValueInfoProto) -> str:
    """Of one sample, in NumPy's words."""
    dims = info.type.tensor_type.shape.dim
    shape = ", ".join(str(size.dim_value or 1) for size in dims)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
    return f"np.zeros([{shape}], np.{dtype.name})"


def _page_of_loop(name: str, model: onnx.ModelProto, timesteps: int) -> str:
    output = model.graph.output[0].name
    return (
        f"# {name}\n\nA spiking network over T={timesteps}, written by onnx2snn: image "
        "in, read-out out. Requests are batched.\n\n"
        + _call(model, set())
        + f'    read_out = client.infer("{name}", inputs).as_numpy("{output}")\n'
    )


_STEPS = """\
    T = {timesteps}
    for t in range(1, T + 1):
        result = client.infer("{name}", inputs, sequence_id=7, sequence_start=t == 1,
                              sequence_end=t == T)
        {each}
"""


def _page_of_steps(
    name: str, model: onnx.ModelProto, apart: set[str], means: Sequence[str], timesteps: int
) -> str:
    """``means``: the outputs of which a response is the read-out of all time-steps so far."""
    output = model.graph.output[0].name
    made = f'result.as_numpy("{output}")'
    each = f"read_out = {made}" if output in means else f"total = total + {made}"
    run = _STEPS.format(name=name, timesteps=timesteps, each=each)
    if output not in means:
        run = f"    total = 0\n{run}    read_out = total / T\n"
    return (
        f"# {name}\n\nOne time-step of a spiking network, written by onnx2snn. A sequence of T "
        "requests is a run of T time-steps; the server keeps the membrane potentials, and a "
        "request with `sequence_start` begins at v(0). An output is that of one time-step, and "
        "the read-out its mean; an output that comes from a RunningMean or DelayedMean is the "
        "read-out of all time-steps so far.\n\n" + _call(model, apart) + run
    )
