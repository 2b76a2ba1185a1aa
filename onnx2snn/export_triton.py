"""``to_triton``: a model repository for the Triton Inference Server.

    NAME             the loop file: image in, read-out out; requests are batched
    NAME-stateful    the file of one time-step: a sequence of requests, one a time-step; the
                     server keeps the states, and the first request of a sequence resets them

The server may batch requests of different sequences, each at a time-step of its own. So in the
stateful model the reset is inside: state' = Where(START, v(0), state), and time is counted for
each sample.
"""

import contextlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx2snn.graph_passes.errors import DataError, ModelError, OutputError, require_whole
from onnx2snn.graph_passes.files import Model, check_writable, read_any, require_path
from onnx2snn.graph_passes.io import to_graph
from onnx2snn.graph_passes.neurons import DOMAIN, state_names, stateful_nodes
from onnx2snn.graph_passes.shapes import declared_shape, infer_shapes
from onnx2snn.graph_passes.weights import ModelParts, attach, copy_model, replace_all
from onnx2snn.graph_passes.whole_file import write_whole
from onnx2snn.runtime import SpikingSession
from onnx2snn.runtime.apart import why_not_apart
from onnx2snn.runtime.graphs import MANY, unused_prefix
from onnx2snn.runtime.memory import sizes_of
from onnx2snn.runtime.plan import Plan, build_plan

from .checking import seeded_inputs
from .conversion import digest_of
from .export import stamp, to_loop

START = "START"
"""The input of the stateful model that is true at the first time-step of a sequence."""

_MAX_BATCH = 32

_SIZES = (1009, 1013, 1019, 1021, 1031, 1033, 1039)
"""Primes that stand in for axes of any size."""


class _Name(str):
    """A value of an enum in a config.pbtxt: written without quotes."""

    __slots__ = ()


def to_triton(
    snn: Model | ModelParts,
    folder: str | os.PathLike[str],
    timesteps: int,
    *,
    name: str = "snn",
    gpu: bool = False,
    force: bool = False,
    preprocessing: str | None = None,
) -> list[Path]:
    """Write both models into a repository; returns the folders of the two.

    folder: the repository, made if it is not there; its other models stay. timesteps: T of the
    stateless model. gpu: instance groups of kind GPU, else CPU. force: replace files of models
    of these names. Raises ``DataError`` for an invalid T, ``ModelError`` for a file that is no
    SNN, of a fixed batch size, of which an output or the states of a layer have other rows than
    one for each sample, or one that shows that it depends on others, or of which an output is an
    input too, and ``OutputError`` where a model of the name exists, the name is not UTF-8 or
    nothing can be written.
    """
    require_path(folder, "a model repository is a folder's path", OutputError)
    folder = Path(folder)
    names = name, f"{name}-stateful"
    _require_folder_name(name)
    _require_room(folder, names, force)
    require_whole("timesteps", timesteps, 1)
    loop = to_loop(snn, timesteps, preprocessing=preprocessing)
    parts = read_any(snn)
    stateful, states = stateful_model(attach(parts))
    made = {"format": "triton-stateful", "timesteps": "one request each"}
    onnx.helper.set_model_props(
        stateful, stamp(parts.structure, digest_of(snn), made, preprocessing)
    )
    kept = {name for pair in states for name in pair[:2]} | {START}
    group = [{"kind": _Name("KIND_GPU" if gpu else "KIND_CPU"), "count": 1}]
    configs = (
        _config(names[0], loop, set()) | {"dynamic_batching": {}, "instance_group": group},
        _config(names[1], stateful, kept)
        | {"sequence_batching": _sequences(stateful, states), "instance_group": group},
    )
    pages = _page_of_loop(names[0], loop, timesteps), _page_of_steps(names[1], stateful, kept)
    files: dict[Path, bytes] = {}
    for model_name, model, config, page in zip(
        names, (loop, stateful), configs, pages, strict=True
    ):
        place = Path(model_name)
        files[place / "1" / "model.onnx"] = model.SerializeToString()
        files[place / "README.md"] = page.encode()
        files[place / "config.pbtxt"] = pbtxt(config).encode()
    _write_all(folder, files, names, force)
    return [folder / name for name in names]


# Files ----------------------------------------------------------------------------------


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
    if not folder.is_dir():
        check_writable(folder)
    elif not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write in '{folder}': no permission")
    for name in names:
        if os.path.lexists(folder / name) and not force:
            raise OutputError(f"'{folder / name}' exists: give --force to replace its files")
        if os.path.lexists(folder / name) and not (folder / name).is_dir():
            raise OutputError(f"'{folder / name}' is no folder, as a model of Triton is: remove it")


def _write_all(folder: Path, files: dict[Path, bytes], names: tuple[str, ...], force: bool) -> None:
    """New model folders appear whole; of those that exist, file after file is replaced."""
    with _repository(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".onnx2snn-") as made:
        for path, content in files.items():
            target = Path(made) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, content)
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


@contextlib.contextmanager
def _repository(folder: Path) -> Iterator[None]:
    """Make the folder, unless it is there; a failure leaves no new and empty one.

    What the system refuses within is an ``OutputError``.
    """
    there = folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        yield
    except BaseException as error:
        if not there:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if not isinstance(error, OSError):
            raise
        raise OutputError(f"cannot write '{folder}': {error.strerror or error}") from error


# The stateful model ---------------------------------------------------------------------


def stateful_model(snn: onnx.ModelProto) -> tuple[onnx.ModelProto, list[tuple[str, str, list]]]:
    """One time-step with a reset inside, and its states: (input, output, dims of a sample).

    Each state is [N, ...]; START, bool [N, 1], says which samples begin a sequence. What the
    states of those hold does not matter. Raises ``ModelError`` as ``to_triton``.
    """
    plan = build_plan(snn)  # Refuses what is no spiking network.
    _require_rows(snn)
    _require_apart(snn, plan)
    graph = to_graph(snn)
    infer_shapes(graph)
    currents = {node.name: node.inputs[0].shape for node in stateful_nodes(graph)}
    clocks = {node.name for node in stateful_nodes(graph) if node.op == "Clock"}
    model = copy_model(snn)
    proto = model.graph
    taken = [*(info.name for info in proto.input), *(n for v in proto.node for n in v.output)]
    root = unused_prefix(taken, "triton/")
    if START in taken:
        raise ModelError(f"the network has a tensor '{START}' already: give it another name")
    defaults = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.initializer}
    infos = {info.name: info for info in (*proto.input, *proto.output)}
    nodes: list[onnx.NodeProto] = []
    states: list[tuple[str, str, list]] = []
    constants: dict[str, np.ndarray] = {}

    def per_sample(tensor: str, rank: int, name: str) -> str:
        """[N, 1] as [N, 1, ..., 1] of a rank."""
        if rank == 2:
            return tensor
        shape = root + f"shape/{rank}"
        constants[shape] = np.array([-1] + [1] * (rank - 1))
        made = helper.make_node("Reshape", [tensor, shape], [name], name)
        if all(node.name != name for node in nodes):
            nodes.append(made)
        return name

    times = {node.output[0] for node in proto.node if node.name in clocks}
    for node in list(proto.node):
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        shape = [-1, 1] if node.name in clocks else _sizes(currents[node.name])
        for position, tensor in enumerate(node.input):
            if tensor in times:
                node.input[position] = per_sample(tensor, len(shape), f"{root}t/{len(shape)}")
        for read, written in state_names(node.op_type, node.name):
            first = root + f"first/{read}"
            constants[first] = np.array(defaults[read], ndmin=len(shape))
            begins = per_sample(START, len(shape), f"{root}start/{len(shape)}")
            reset = root + read
            nodes.append(helper.make_node("Where", [begins, first, read], [reset], reset))
            node.input[:] = [reset if name == read else name for name in node.input]
            for name in (read, written):
                sizes = ["N", *(f"{name}.{i}" if d < 0 else d for i, d in enumerate(shape[1:]))]
                kind = infos[name].type.tensor_type.elem_type
                infos[name].CopyFrom(helper.make_tensor_value_info(name, kind, sizes))
            states.append((read, written, shape[1:]))
        nodes.append(node)
    del proto.value_info[:]
    replace_all(proto.node, nodes)
    starts = {read for read, _, _ in states}
    weights = [tensor for tensor in proto.initializer if tensor.name not in starts]
    weights += [numpy_helper.from_array(v, n) for n, v in constants.items()]
    replace_all(proto.initializer, weights)
    proto.input.append(helper.make_tensor_value_info(START, onnx.TensorProto.BOOL, ["N", 1]))
    return model, states


def _require_rows(snn: onnx.ModelProto) -> None:
    """Raise ``ModelError`` where not all have one row for each sample, as far as shapes are known.

    As where the axis of time became part of that of samples, or is before it.
    """
    stateful = [node for node in snn.graph.node if node.domain == DOMAIN]
    pairs = [
        (node.name, *pair) for node in stateful for pair in state_names(node.op_type, node.name)
    ]
    layers, read = {written: name for name, _, written in pairs}, {name for _, name, _ in pairs}
    given = [info for info in snn.graph.input if info.name not in read]
    declared = {info.name: declared_shape(info.type.tensor_type) for info in given}
    free = {n: d for n, d in declared.items() if d and isinstance(d[0], str)}
    # Numbers of their own tell other axes of any size from that of samples, also in a product.
    others = {size for shape in free.values() for size in shape[1:] if isinstance(size, str)}
    numbers: dict[int | str, int | str] = dict(
        zip(sorted(others), itertools.cycle(_SIZES), strict=False)
    )
    known = {n: (MANY, *(numbers.get(size, size) for size in d[1:])) for n, d in free.items()}
    shapes = sizes_of(snn, known).shapes
    wrong = [
        f"the output '{info.name}'" if info.name not in layers else f"'{layers[info.name]}'"
        for info in snn.graph.output
        if (shape := shapes.get(info.name))
        # 0 is not known; one row is that of all samples.
        if shape[0] not in (0, 1, MANY) or MANY in shape[1:]
    ]
    if wrong and free:
        raise ModelError(
            "Triton batches requests, and needs one row for each sample, which is not so in "
            f"{', '.join(dict.fromkeys(wrong))}: export the ANN with samples on the first axis of "
            "all its inputs, layers and outputs, as without a Reshape that joins another axis to "
            "it, and convert it again"
        )


def _require_apart(snn: onnx.ModelProto, plan: Plan) -> None:
    """Raise ``ModelError`` where that shows in a run on random inputs."""
    session = SpikingSession(snn, threads=1, plan="step")
    for pair in seeded_inputs(plan.inputs):
        if any(value.shape[:1] != (2,) for value in pair.values()):
            return
        # So many samples as no other axis has.
        inputs = {name: np.resize(value, (7, *value.shape[1:])) for name, value in pair.items()}
        try:
            why = why_not_apart(session, inputs)
        except DataError:
            # Sizes that are open may be others.
            continue
        if why is not None:
            raise ModelError(
                f"Triton batches requests, and needs one row for each sample by itself, but {why}"
            )
        return


def _sizes(shape: list | None) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in shape or []]


# Configurations ---------------------------------------------------------------------------


def _config(name: str, model: onnx.ModelProto, apart: set[str]) -> dict[str, Any]:
    """What both have; ``apart`` are inputs and outputs that only the server sees."""
    return {
        "name": name,
        "platform": "onnxruntime_onnx",
        "max_batch_size": _MAX_BATCH,
        "input": [_tensor(info) for info in model.graph.input if info.name not in apart],
        "output": [_tensor(info) for info in model.graph.output if info.name not in apart],
    }


def _tensor(info: onnx.ValueInfoProto) -> dict[str, Any]:
    sizes = info.type.tensor_type.shape.dim
    if not sizes:
        raise ModelError(
            f"'{info.name}' is one number for all samples, and Triton batches requests: export the "
            "ANN with one for each sample, and convert it again"
        )
    if sizes[0].HasField("dim_value"):
        raise ModelError(
            f"'{info.name}' has a fixed batch size, and Triton batches requests: "
            "export the ANN with a batch axis of any size, and convert it again"
        )
    dims = [size.dim_value if size.HasField("dim_value") else -1 for size in sizes[1:]]
    made = {"name": info.name, "data_type": _type(info), "dims": dims or [1]}
    return made if dims else made | {"reshape": {"shape": []}}


def _type(info: onnx.ValueInfoProto) -> _Name:
    kind = onnx.TensorProto.DataType.Name(info.type.tensor_type.elem_type)
    return _Name("TYPE_" + {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64"}.get(kind, kind))


def _sequences(model: onnx.ModelProto, states: list[tuple[str, str, list]]) -> dict[str, Any]:
    infos = {info.name: info for info in model.graph.input}
    start = {"kind": _Name("CONTROL_SEQUENCE_START"), "bool_false_true": [False, True]}
    return {
        "max_sequence_idle_microseconds": 60_000_000,
        "oldest": {"max_candidate_sequences": 4 * _MAX_BATCH},
        "control_input": [{"name": START, "control": [start]}],
        "state": [
            {
                "input_name": read,
                "output_name": written,
                "data_type": _type(infos[read]),
                "dims": dims,
            }
            for read, written, dims in states
        ],
    }


def pbtxt(message: dict[str, Any], indent: str = "") -> str:
    """A message in protobuf's text format: lists are repeated fields, dicts are messages."""
    lines = []
    for key, value in message.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                inner = pbtxt(item, indent + "  ")
                lines.append(f"{indent}{key} {{\n{inner}{indent}}}\n")
            else:
                lines.append(f"{indent}{key}: {_scalar(item)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    if isinstance(value, _Name):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


# Pages -----------------------------------------------------------------------------------


_CALL = """\
    import numpy as np
    import tritonclient.http as triton

    client = triton.InferenceServerClient("localhost:8000")
    inputs = [{inputs}]
    for tensor in inputs:
        tensor.set_data_from_numpy(arrays[tensor.name()])  # By name, [N, ...].
"""


def _call(model: onnx.ModelProto, apart: set[str]) -> str:
    made = ", ".join(
        f'triton.InferInput("{t["name"]}", list(arrays["{t["name"]}"].shape), '
        f'"{t["data_type"].removeprefix("TYPE_")}")'
        for t in (_tensor(info) for info in model.graph.input if info.name not in apart)
    )
    return _CALL.format(inputs=made)


def _page_of_loop(name: str, model: onnx.ModelProto, timesteps: int) -> str:
    output = model.graph.output[0].name
    return (
        f"# {name}\n\nA spiking network over T={timesteps}, written by onnx2snn: image "
        "in, read-out out. Requests are batched.\n\n"
        + _call(model, set())
        + f'    read_out = client.infer("{name}", inputs).as_numpy("{output}")\n'
    )


def _page_of_steps(name: str, model: onnx.ModelProto, apart: set[str]) -> str:
    output = model.graph.output[0].name
    return (
        f"# {name}\n\nOne time-step of a spiking network, written by onnx2snn. A sequence of T "
        "requests is a run of T time-steps; the server keeps the membrane potentials, and a "
        "request with `sequence_start` begins at v(0). An output is that of one time-step, and "
        "the read-out its mean; an output that comes from a RunningMean or DelayedMean is the "
        "read-out of all time-steps so far.\n\n"
        + _call(model, apart)
        + f"""    total = 0
    for t in range(1, T + 1):
        result = client.infer("{name}", inputs, sequence_id=7, sequence_start=t == 1,
                              sequence_end=t == T)
        total = total + result.as_numpy("{output}")
    read_out = total / T
"""
    )
