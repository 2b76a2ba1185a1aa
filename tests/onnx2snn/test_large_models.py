"""A model beyond protobuf's 2 GiB, its weights in a sparse file beside it."""

import json
import os
import shutil
import subprocess
import sys

import onnx
import pytest
from onnx import TensorProto, helper

SIZE = 23_200
BYTES = 4 * SIZE * SIZE
PROGRAM = """
import json, sys
from pathlib import Path
from onnx2snn import SpikingSession, convert, write_model

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024

before = peak()
write_model(convert(sys.argv[1]).parts, sys.argv[2])
print(json.dumps(peak() - before))
"""


def stub(name, dims, location, length):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc")
def test_beyond_two_gigabytes_in_twice_the_model_of_memory(tmp_path):
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if shutil.disk_usage(tmp_path).free < 2 * BYTES or memory < 3 * BYTES:
        pytest.skip("needs 5 GB of disk and 7 GB of memory")
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(BYTES)
        # A one on the first row, so that not all is zero.
        file.write(b"\x00\x00\x80\x3f")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Clip", ["m", "zero", "one"], ["c"]),
        helper.make_node("ReduceSum", ["c", "axes"], ["y"]),
    ]
    constants = [
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
        stub("w", [SIZE, SIZE], "weights.bin", BYTES),
    ]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "ann.onnx").write_bytes(model.SerializeToString())
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        str(tmp_path / "ann.onnx"),
        str(tmp_path / "snn.onnx"),
    ]
    # Not from the repository, whose folder would hide the installed package.
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) < 2 * BYTES
    onnx.checker.check_model(str(tmp_path / "snn.onnx"))
    (data,) = tmp_path.glob("snn.onnx.*.data")
    assert data.stat().st_size == BYTES
    data.unlink()
