"""The command line, through click's runner and once as a process of the installed package."""

import gc
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
import weakref
from pathlib import Path

import dyadic
import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx_text import model

from onnx2snn import (
    DataError,
    OutputError,
    SpikingSession,
    convert,
    diagnose,
    open_data,
    write_model,
)
from onnx2snn.cli import demo as cli_demo
from onnx2snn.cli import inspect as cli_inspect
from onnx2snn.cli import main, plot, plot_paper
from onnx2snn.converting import conversion, readiness
from onnx2snn.graph_passes.model_files import files
from onnx2snn.runtime import sessions, time_steps
from onnx2snn.runtime.choices import chunks, groups
from onnx2snn.runtime.layers import kernel_forms

RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.normal(size=(4, 1, 3, 3)).astype(np.float32),
    "v": RNG.normal(size=(4, 3)).astype(np.float32),
    "zero": np.float32(0), "one": np.float32(1), "two": np.float32(2),
}  # fmt: skip
SIGNATURE = "net (float[N, 1, 6, 6] x) => (float[N, 3] y)"
TAIL = "g = GlobalAveragePool(p) f = Flatten(g) y = MatMul(f, v)"
CLIPPED = f"{SIGNATURE} {{ c = Conv(x, w) p = Clip(c, zero, two) {TAIL} }}"
MAX_POOLED = (
    f"{SIGNATURE} {{ c = Conv(x, w) r = Relu(c) p = MaxPool<kernel_shape = [2, 2]>(r) {TAIL} }}"
)
X = RNG.normal(size=(20, 1, 6, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 20)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(model(CLIPPED, WEIGHTS), "ann.onnx")
    onnx.save(model(MAX_POOLED, WEIGHTS), "relu.onnx")
    np.savez("data.npz", x=X, y=Y)
    np.save("data.npy", X)
    return tmp_path


def invoke(*words, code=0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    if code:
        assert isinstance(result.exception, SystemExit), result.exception
    return result


def as_json(*words):
    return json.loads(invoke(*words, "--json").stdout)


@pytest.fixture
def snn(folder):
    invoke("convert", "ann.onnx", "-o", "snn.onnx")
    return "snn.onnx"


def test_convert_prints_neurons_and_passes():
    output = invoke("convert", "ann.onnx", "-o", "snn.onnx", "--explain").output
    assert "bound of the clip" in output
    assert "4x4x4" in output
    assert "activations_to_neurons" in output
    assert "No pass declined anything" in output
    onnx.checker.check_model("snn.onnx", full_check=True)


def test_convert_with_data_shows_what_each_change_cost():
    output = invoke(
        "convert", "relu.onnx", "-o", "snn.onnx", "--calibration", "data.npz", "--per-channel",
        "--threshold", "max", "--batch-size", "7", "--v-init", "0.3", "--samples", "15",
        "--recipe", "opi",
    ).output  # fmt: skip
    assert "max-pooling -> average-pooling" in output
    assert "max, per channel, 15 samples" in output
    report = as_json("inspect", "snn.onnx")
    (neuron,) = report["neurons"]
    np.testing.assert_allclose(neuron["v_init"], np.multiply(neuron["threshold"], 0.3), rtol=1e-6)
    assert report["recipe"]["threshold"] == "max"


@pytest.mark.parametrize(("given", "told"), [("0.999", True), ("99.9", False)])
def test_convert_tells_a_fraction_in_place_of_percent(given, told):
    words = "convert", "relu.onnx", "-o", "snn.onnx", "--calibration", "data.npz"
    output = invoke(*words, "--recipe", "opi", "--threshold", f"percentile={given}").output
    assert ("Note: percentiles are in percent: 0.999 is 0.999 %." in output) == told


def test_convert_takes_all_of_a_file_but_so_many_of_a_data_set(folder):
    def threshold_from(data, *options):
        words = "convert", "relu.onnx", "-o", "snn.onnx", "--calibration", data, "--recipe", "opi"
        (neuron,) = as_json(*words, *options)["neurons"]
        return neuron["source"]

    np.savez("many.npz", x=np.repeat(X, 30, 0))
    assert "600 samples" in threshold_from("many.npz")
    # A data set has more than it takes to set thresholds.
    pixels = RNG.integers(0, 256, (600, 6, 6), dtype=np.uint8)
    for name, array in {"images-idx3": pixels, "labels-idx1": np.arange(600) % 3}.items():
        header = b"\0\0\x08" + bytes([array.ndim])
        header += b"".join(size.to_bytes(4, "big") for size in array.shape)
        Path(f"train-{name}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    assert "512 samples" in threshold_from("fashion-mnist", "--data-root", folder)
    assert "600 samples" in threshold_from("fashion-mnist", "--data-root", folder, "--samples", 999)


def test_convert_warns_where_pooling_ruined_the_network():
    # One pixel's maximum over a window is much above its mean, that of a blur is less so.
    w = np.zeros((4, 1, 3, 3), np.float32)
    w[0, 0, 1, 1], w[1] = 1, 1 / 3
    weights = WEIGHTS | {"w": w, "v": np.diag([1, 1.2, 0, 0]).astype(np.float32)[:, :3]}
    onnx.save(model(MAX_POOLED, weights), "bad.onnx")
    result = as_json(
        "convert", "bad.onnx", "-o", "snn.onnx", "--calibration", "data.npz", "--recipe", "opi"
    )
    (pooled,) = [a for a in result["agreements"] if a["change"].startswith("max-pooling")]
    assert pooled["top1"] < 95
    assert "train the network with average pooling" in result["warnings"][0]


def test_convert_json():
    report = as_json("convert", "ann.onnx", "-o", "snn.onnx")
    assert report["neurons"] == [
        {"name": "p", "shape": [4, 4, 4], "threshold": 2.0, "source": "bound of the clip"}
    ]
    assert [p["name"] for p in report["passes"]][-1] == "set_initial_potential"


@pytest.mark.parametrize("v_init", ["half", "zero", "0.3", "uniform", "normal"])
def test_v_init(v_init):
    invoke("convert", "ann.onnx", "-o", "snn.onnx", "--v-init", v_init)
    onnx.checker.check_model("snn.onnx", full_check=True)
    assert as_json("run", "snn.onnx", "--data", "data.npy", "-T", 4)["samples"] == 20
    wanted = {"half": 0.5, "zero": 0.0, "0.3": 0.3}.get(v_init, v_init)
    assert as_json("inspect", "snn.onnx")["recipe"]["v_init"] == wanted


def test_convert_draws_from_the_seed():
    def drawn(name, *options):
        invoke("convert", "ann.onnx", "-o", name, "--v-init", "uniform", *options)
        return Path(name).read_bytes()

    assert drawn("a.onnx") == drawn("b.onnx", "--seed", 0) != drawn("c.onnx", "--seed", 3)
    assert drawn("d.onnx", "--seed", 3) == Path("c.onnx").read_bytes()


@pytest.mark.parametrize("v_init", [(), ("--v-init", "half"), ("--v-init", "0.3")])
def test_convert_refuses_a_seed_that_nothing_is_drawn_from(v_init):
    said = invoke("convert", "ann.onnx", "-o", "new.onnx", *v_init, "--seed", 0, code=2).output
    assert "--seed is for --v-init uniform or normal" in said
    assert not Path("new.onnx").exists()


def test_run(snn):
    output = invoke("run", snn, "--input", "data.npz", "-T", "8", "-o", "out.npz").output
    assert "20 samples, 8 time-steps, on CPUExecutionProvider" in output
    report = as_json(
        "run", snn, "--input", "data.npy", "-T", "8", "--readout", "2,4", "-o", "out.npz",
        "--batch-size", "6",
    )  # fmt: skip
    with np.load("out.npz", allow_pickle=False) as arrays:
        assert arrays["output"].shape == arrays["output_2"].shape == (20, 3)
        assert report["classes"] == arrays["output"].argmax(1).tolist()
        assert report["firing_rates"]["p"] == pytest.approx(float(arrays["firing_rate/p"]))
    largest = ", ".join(map(str, report["classes"]))
    assert f"Index of the largest output: {largest}" in output


def test_run_calls_data_as_other_commands_do(snn):
    words = ("-T", 4, "--samples", 5)
    by_data = as_json("run", snn, "--data", "data.npz", *words)
    assert by_data == as_json("run", snn, "--input", "data.npz", *words)


def test_run_refuses_to_write_its_npz_under_another_name(snn):
    said = invoke("run", snn, "--input", "data.npz", "-T", 4, "-o", "out.csv", code=1).stderr
    assert "'out.csv' would be an .npz" in said
    assert not Path("out.csv").exists()


def test_run_refuses_to_read_out_beyond_its_end(snn):
    words = ("run", snn, "--input", "data.npy", "-T", 4, "--readout")
    assert "--readout 8 is beyond the 4 time-steps" in invoke(*words, "2,8", code=2).stderr
    invoke(*words, "2,4")


@pytest.mark.parametrize("batch", [4, 8])
@pytest.mark.parametrize(("output", "most"), [((), 0.5), (("-o", "out.npz"), 1.5)])
def test_run_holds_outputs_once_and_only_what_it_writes(output, most, batch):
    text = "net (float[N, 1, 8, 8] x) => (float[N, 8, 64, 64] y) { a = Clip(x, zero, one) "
    text += "y = ConvTranspose<strides = [8, 8]>(a, u) }"
    weights = {name: WEIGHTS[name] for name in ("zero", "one")}
    onnx.save(model(text, weights | {"u": np.ones((1, 8, 8, 8), np.float32)}), "wide.onnx")
    invoke("convert", "wide.onnx", "-o", "wide-snn.onnx")
    np.save("data.npy", RNG.random((8, 1, 8, 8), np.float32))
    words = ("wide-snn.onnx", "--input", "data.npy", "-T", 16, "--readout", "1,2,3,4,5,6,7,8,9,10")
    tracemalloc.start()
    invoke("run", *words, "--batch-size", batch, *output)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < most * 11 * 4 * 8 * 8 * 64 * 64


def test_run_on_input_that_varies_in_time(snn):
    np.save("video.npy", np.stack([X] * 5))
    a = as_json("run", snn, "--input", "video.npy", "-T", 5, "--batch-size", 7, "-o", "a.npz")
    b = as_json("run", snn, "--input", "data.npy", "-T", 5, "-o", "b.npz")
    assert a["samples"] == b["samples"] == 20
    np.testing.assert_array_equal(np.load("a.npz")["output"], np.load("b.npz")["output"])
    assert "5 time-steps" in invoke("run", snn, "--input", "video.npy", "-T", 4, code=1).output


def test_run_with_poisson_coding(snn):
    np.save("pixels.npy", np.clip(np.abs(X), 0, 1))
    options = ("run", snn, "--input", "pixels.npy", "-T", 4, "--coding", "poisson")
    assert as_json(*options, "--seed", 1) == as_json(*options, "--seed", 1)
    assert as_json(*options, "--seed", 1) != as_json(*options, "--seed", 2)
    assert as_json(*options, "--seed", 0) == as_json(*options)
    # The last sample of one seed has the numbers of the first of no other.
    same = np.repeat(np.load("pixels.npy")[:1], 2, axis=0)
    np.save("pixels.npy", same)
    drawn = []
    for seed in (0, 1):
        invoke(*options, "--seed", seed, "--batch-size", 1, "--output", f"{seed}.npz")
        drawn.append(next(iter(np.load(f"{seed}.npz").values())))
    assert not np.array_equal(drawn[0][-1], drawn[1][0])


def test_run_refuses_a_seed_that_nothing_is_drawn_from(snn):
    said = invoke("run", snn, "--input", "data.npy", "-T", 4, "--seed", 0, code=2).output
    assert "--seed is for --coding poisson" in said


def test_evaluate_says_what_does_not_belong_together(snn):
    output = invoke("evaluate", snn, "--data", "data.npz", "-T", "2", "--ann", "ann.onnx").output
    assert "Note" not in output
    other = onnx.load("ann.onnx")
    other.doc_string = "other"
    onnx.save(other, "other.onnx")
    command = ("evaluate", snn, "--data", "data.npz", "-T", "2", "--ann", "other.onnx")
    assert "does not say that it was made from this ANN's file" in invoke(*command).output
    invoke("convert", "ann.onnx", "-o", "best.onnx", "--calibration", "data.npz", "-T", "4")
    for times, noted in (("4", False), ("2,4", True)):
        output = invoke("evaluate", "best.onnx", "--data", "data.npz", "-T", times).output
        assert ("'best' converted this network for T=4" in output) == noted
    for command in (
        ("run", "best.onnx", "--input", "data.npz"),
        ("diagnose", "best.onnx", "--ann", "ann.onnx", "--data", "data.npz"),
        ("export", "best.onnx", "--to", "loop", "--force", "-o", "loop.onnx"),
    ):
        for times, noted in (("4", False), ("8", True)):
            output = invoke(*command, "-T", times).output
            assert ("'best' converted this network for T=4" in output) == noted


def test_evaluate(snn):
    options = ("evaluate", snn, "--data", "data.npz", "-T", "16,4,4", "--ann", "ann.onnx")
    output = invoke(*options, "--plot", "curve.png").output
    assert "SOPs" in output
    assert Path("curve.png").read_bytes().startswith(b"\x89PNG")
    report = as_json(*options)
    assert [row["timesteps"] for row in report["snn"]] == [4, 16]
    assert set(report) == {"samples", "macs", "macs_before_neurons", "ann", "snn"}
    assert set(report["snn"][0]) == {"timesteps", "accuracy", "agreement", "firing_rate", "sops"}


LAYERS = {"w": (64, 1, 3, 3), "u": (64, 64, 3, 3), "k": (64, 16), "v": (16, 3)}
DEEP = (
    f"{SIGNATURE} {{ c = Conv(x, w) q = Clip(c, zero, one) d = Conv(q, u) p = Clip(d, zero, two) "
    "g = GlobalAveragePool(p) f = Flatten(g) h = MatMul(f, k) z = Clip(h, zero, one) "
    "y = MatMul(z, v) }"
)


def convert_deep():
    drawn = {n: RNG.normal(0, 0.2, shape).astype(np.float32) for n, shape in LAYERS.items()}
    onnx.save(model(DEEP, WEIGHTS | drawn), "deep.onnx")
    invoke("convert", "deep.onnx", "-o", "snn.onnx")


def test_precision():
    convert_deep()
    options = ("evaluate", "snn.onnx", "--data", "data.npz", "-T", "4,16", "--precision", "int8")
    output = " ".join(invoke(*options).output.split())
    assert "int8: 1 of 2 layers between neurons" in output
    report = as_json(*options)
    assert {row["precision"] for row in report["precisions"]} == {"int8", "float32"}
    plain = as_json(*options[:-2])
    for found, row in zip(report["float32"], plain["snn"], strict=True):
        assert found["timesteps"] == row["timesteps"]
        assert found["accuracy"] == row["accuracy"]
        assert found["agreement"] >= 75
    options = ("run", "snn.onnx", "--input", "data.npy", "-T", "4", "--precision", "int8")
    assert "int8: 1 of 2 layers" in invoke(*options).output
    assert as_json(*options)["precisions"] == report["precisions"]
    options = ("inspect", "snn.onnx", "--plan", "--precision", "int8")
    assert as_json(*options)["plan"]["precisions"] == report["precisions"]
    assert "int8" in invoke(*options).output


def test_an_evaluation_has_one_session_at_a_time(monkeypatch):
    """Each takes what a budget allows for."""
    from onnx2snn.measuring import evaluation

    made, seen = [], []

    def noting(kind, known=SpikingSession):
        def make(*args, **options):
            gc.collect()
            alive = [name for name, session in made if session() is not None]
            assert not alive, (kind, alive)
            session = known(*args, **options)
            made.append((kind, weakref.ref(session)))
            seen.append(kind)
            return session

        return make

    monkeypatch.setattr(evaluation, "SpikingSession", noting("session"))
    counter = noting("counter", evaluation.SynapseCounter)
    monkeypatch.setattr(evaluation, "SynapseCounter", counter)
    convert_deep()
    options = "evaluate", "snn.onnx", "--data", "data.npz", "-T", "4", "--precision", "int8"
    invoke(*options, "--max-memory", "1GB")
    assert seen == ["session", "session", "session", "counter"]
    # What cannot be or does not fit is refused before anything runs.
    monkeypatch.setattr(evaluation, "_classes_by", None)
    assert "max_memory" in invoke(*options, "--max-memory", "1MB", code=1).output
    assert "GPU" in invoke(*options[:-1], "float16", code=1).output


def test_evaluate_without_labels(snn):
    report = as_json("evaluate", snn, "--data", "data.npy", "-T", "4", "--ann", "ann.onnx")
    assert report["ann"] == {"accuracy": None}
    assert report["snn"][0]["accuracy"] is None
    assert report["snn"][0]["agreement"] >= 0
    shown = invoke("evaluate", snn, "--data", "data.npy", "-T", "4").output
    assert "neither accuracy nor agreement is told" in shown
    message = invoke("evaluate", snn, "--data", "data.npy", "-T", "4", "--plot", "c.png", code=1)
    assert "nothing to plot" in message.output


def test_inspect(snn):
    output = invoke("inspect", snn).output
    assert "bound of the clip" in output
    assert "recipe, v_init: 0.5" in output
    assert "4x4x4" in output
    assert "input x [N, 1, 6, 6]\noutput y [N, 3]\nrecipe, name: opi" in output


@pytest.mark.parametrize("source", ["5", "null", "[1]"])
def test_inspect_of_sources_that_are_none(snn, source):
    model = onnx.load(snn)
    names = [node.name for node in model.graph.node if node.domain == "onnx2snn"]
    told = "{" + ", ".join(f'"{name}": {source}' for name in names) + "}"
    onnx.helper.set_model_props(model, {"onnx2snn.thresholds": told})
    onnx.save(model, "other.onnx")
    assert "4x4x4" in invoke("inspect", "other.onnx").output


def test_demo():
    output = invoke("demo", "--samples", "20", "--output", "results").output
    assert "v(0) = V_th/2" in output
    assert Path("results/accuracy.png").read_bytes().startswith(b"\x89PNG")
    onnx.checker.check_model("results/snn-half.onnx", full_check=True)


def test_a_demo_of_more_images_than_ship_is_refused():
    said = invoke("demo", "--samples", 2001, "--output", "results", code=2).output
    assert "2001 is not in the range 1<=x<=2000" in said


def test_a_demo_that_fails_leaves_no_new_folder(monkeypatch):
    def fails(*arguments):
        raise OutputError("no room")

    monkeypatch.setattr(cli_demo, "run_demo", fails)
    Path("old").mkdir()
    for folder in ("new/deeper", "old"):
        assert "no room" in invoke("demo", "--output", folder, code=1).stderr
    assert Path("old").is_dir()
    assert not Path("new").exists()


def test_inspect_shows_the_plan(snn, monkeypatch):
    monkeypatch.setattr(kernel_forms, "LEAST_FILLED", 0)
    write_model(convert(dyadic.to_onnx(dyadic.finish(3))).model, "deep.onnx")
    plan = as_json("inspect", "deep.onnx", "--plan", "-N", "3")["plan"]
    assert plan["samples"] == plan["samples_together"] == 3
    assert plan["chunks"] == [16, 8, 4]
    assert plan["chunks_between"] == list(range(3, 16))
    assert plan["layout"] == "cpu"
    assert plan["spike_counts"] == "derived"
    assert {layer["runs"] for layer in plan["layers"]} == {"unrolled"}
    assert not any(layer["tiles"] for layer in plan["layers"])
    sizes = plan["bytes"]
    assert sizes.pop("total") == sum(sizes.values()) > 0
    output = invoke("inspect", "deep.onnx", "--plan").output
    for part in (
        "4 time-steps a run, or another number from 3 to 15; what is left over, fewer than 3, one",
        "layer by layer",
        "its weights fit the cache",
        "estimated memory",
    ):
        assert part in output
    output = invoke("inspect", "deep.onnx", "--plan", "-N", "50000").output
    (line,) = (line for line in output.splitlines() if "estimated memory" in line)
    *parts, together = map(float, re.findall(r"\d+\.\d", line))
    assert together == pytest.approx(sum(parts), abs=0.05 * len(parts))
    assert "plan" not in as_json("inspect", snn)
    assert as_json("inspect", snn, "--plan")["plan"]["spike_counts"] == "summed"


def test_inspect_does_not_plan_for_another_number_of_samples():
    text = (
        "net (float[4, 4] x) => (float[2, 8] y) "
        "{ a = Clip(x, zero, one) b = Reshape(a, rows) y = Clip(b, zero, one) }"
    )
    values = {"zero": np.float32(0), "one": np.float32(1), "rows": np.array([2, 8])}
    ann = model(text, values)
    write_model(convert(ann).model, "fixed.onnx")
    assert as_json("inspect", "fixed.onnx", "--plan")["plan"]["samples"] == 4
    found = invoke("inspect", "fixed.onnx", "--plan", "-N", "16", code=1)
    assert "the network is for 4 samples at a time: leave -N out" in found.output


def test_inspect_shows_the_plan_of_other_inputs():
    """One number, the same for all samples; and no image that the CPU has a layout for."""
    text = "net (float[N, 4] x, float s) => (float[N, 4] y) { c = Clip(x, zero, one) y = Add(c, s)}"
    ann = model(text, {"zero": np.float32(0), "one": np.float32(1)})
    write_model(convert(ann).model, "scalar.onnx")
    assert as_json("inspect", "scalar.onnx", "--plan")["plan"]["layout"] == "plain"
    assert "plain layout" in invoke("inspect", "scalar.onnx", "--plan").output


def test_inspect_shows_groups_of_samples(snn, monkeypatch):
    assert "samples in a run" not in invoke("inspect", snn, "--plan", "-N", "5").output
    monkeypatch.setattr(groups, "CACHE", 1)
    assert "samples in a run: 1," in invoke("inspect", snn, "--plan", "-N", "5").output
    assert as_json("inspect", snn, "--plan", "-N", "5")["plan"]["samples_together"] == 1


def test_inspect_shows_the_plan_of_so_many_threads(snn, monkeypatch):
    monkeypatch.setattr(groups, "CACHE", 2**6)
    monkeypatch.setattr(sessions, "_cores", lambda: 8)
    few, more = (
        as_json("inspect", snn, "--plan", "-N", "64", "--threads", threads)["plan"]
        for threads in ("1", "8")
    )
    assert few["samples_together"] < more["samples_together"]
    assert "is for --plan" in invoke("inspect", snn, "--threads", "2", code=2).output


@pytest.mark.parametrize(
    ("alone", "said"),
    [
        (3, "3 in one of 8 time-steps or fewer, so"),
        (5, "3 in one of 8 time-steps or fewer and 5 in a single time-step, so"),
    ],
)
def test_inspect_shows_groups_that_share_the_reading_of_weights(folder, alone, said, monkeypatch):
    write_model(convert(dyadic.to_onnx(dyadic.finish(0))).model, "snn.onnx")
    # Else all its chunks are short.
    monkeypatch.setattr(chunks, "CACHED", 0)
    made = groups.Groups(long=1, short=3, alone=alone)
    monkeypatch.setattr(time_steps, "groups_of", lambda *_: made)
    plan = as_json("inspect", "snn.onnx", "--plan", "-N", "5")["plan"]
    kinds = ("", "_in_short_chunks", "_in_single_time_steps")
    assert [plan[f"samples_together{kind}"] for kind in kinds] == [1, 3, alone]
    text = " ".join(invoke("inspect", "snn.onnx", "--plan", "-N", "5").output.split())
    assert "samples in a run: 1, so that the caches hold the states of a layer; " + said in text


def test_inspect_shows_what_runs_on_tiles(snn):
    builder = dyadic.Builder(0)
    x = builder.clip(builder.conv("input", 2, 128), 128)
    x = builder.add("flatten", [builder.clip(builder.conv(x, 128, 128), 128)])
    builder.add("gemm", [x], w=builder.eighths(6, 128 * 16), b=builder.eighths(6))
    ann = dyadic.to_onnx(dyadic.Network(builder.layers, (2, 4, 4)))
    write_model(convert(ann).model, "wide.onnx")
    asked = "inspect", "wide.onnx", "--plan", "-N", "16"
    assert "unrolled, tiles" in invoke(*asked).output
    plan = as_json(*asked)["plan"]
    assert [layer["tiles"] for layer in plan["layers"]] == [True]
    for _ in range(100):
        if not plan["layers"][0]["tiles"]:
            break
        less = str(plan["bytes"]["total"] - 1)
        plan = as_json(*asked, "--max-memory", less)["plan"]
    assert not plan["layers"][0]["tiles"]
    assert plan["short_of_memory"]
    assert plan["chunks"]


def test_max_memory(snn):
    for words in (
        ("run", snn, "--input", "data.npy", "-T", "4"),
        ("evaluate", snn, "--data", "data.npz", "-T", "4"),
        ("inspect", snn, "--plan"),
    ):
        plain, within = as_json(*words), as_json(*words, "--max-memory", "1.5GB")
        if "inspect" in words:
            # What prologue and read-outs hold counts within a budget alone.
            assert plain["plan"]["chunks_between"]
            assert within["plan"].pop("bytes")["total"] >= plain["plan"].pop("bytes")["total"]
        assert within == plain
        assert "max_memory is 2,048" in invoke(*words, "--max-memory", "2KiB", code=1).output
        assert "not a size such as 2GB" in invoke(*words, "--max-memory", "2 apples", code=2).output
        assert "no number of bytes" in invoke(*words, "--max-memory", "9" * 400, code=2).output


@pytest.mark.parametrize("command", ["convert", "run", "evaluate", "inspect", "demo", "benchmark"])
def test_help_shows_examples(command):
    output = invoke(command, "--help").output
    assert "Examples:" in output
    assert f"onnx2snn {command}" in output


BAD_MODELS = {
    "missing.onnx": None,
    "text.onnx": b"hello",
    "empty.onnx": b"",
    "cut.onnx": "ann.onnx",
}


@pytest.mark.parametrize("name", BAD_MODELS)
@pytest.mark.parametrize("command", ["convert", "run", "evaluate", "inspect"])
def test_bad_models(name, command):
    content = BAD_MODELS[name]
    if content == "ann.onnx":
        content = Path("ann.onnx").read_bytes()[:-40]
    if content is not None:
        Path(name).write_bytes(content)
    options = {
        "convert": ["-o", "out.onnx"],
        "run": ["--input", "data.npy", "-T", "4"],
        "evaluate": ["--data", "data.npz", "-T", "4"],
        "inspect": [],
    }[command]
    output = invoke(command, name, *options, code=1).output
    assert name in output
    assert not Path("out.onnx").exists()


def bad_data():
    nan = X.copy()
    nan[7, 0, 0, 0] = np.nan
    return {
        "nan": ({"x": nan}, "NaN"),
        "shape": ({"x": X[:, :, :5]}, "shape"),
        "rank": ({"x": X[:, 0, 0]}, "shape"),
        "type": ({"x": (X * 9).astype(np.uint8)}, "type uint8"),
        "text": ({"x": X.astype(str)}, "type <U"),
        "empty": ({"x": X[:0]}, "no samples"),
        "no x": ({"images": X}, "has the inputs x; given were images"),
        "pickle": ({"x": np.array([{"a": 1}], dtype=object)}, "pickled"),
        "labels": ({"x": X, "y": Y[:5]}, "one integer label"),
    }


@pytest.mark.parametrize("name", bad_data())
def test_bad_data(snn, name):
    arrays, message = bad_data()[name]
    np.savez("bad.npz", **arrays)
    uses_labels = [
        ("evaluate", snn, "--data", "bad.npz", "-T", "4"),
        ("convert", "relu.onnx", "--calibration", "bad.npz", "-o", "out.onnx"),
        ("convert", "ann.onnx", "--calibration", "bad.npz", "-o", "out.onnx"),
    ]
    run = ("run", snn, "--input", "bad.npz", "-T", "4", "-o", "out.npz")
    for options in uses_labels if name == "labels" else [*uses_labels, run]:
        assert message in invoke(*options, code=1).output
    assert not Path("out.npz").exists()
    assert not Path("out.onnx").exists()


@pytest.mark.parametrize("option", ["--per-layer", "--keep-bounds"])
def test_what_changes_nothing_without_data_may_be_given(option):
    invoke("convert", "ann.onnx", "-o", "snn.onnx", option)


@pytest.mark.parametrize("option", [("--per-channel",), ("--recalibrate",), ("--batch-size", 7)])
def test_convert_refuses_what_is_not_heeded_without_data(option):
    said = invoke("convert", "ann.onnx", "-o", "new.onnx", *option, code=2).output
    assert f"{option[0]} is for calibration data: give --calibration too" in said
    assert not Path("new.onnx").exists()


def test_a_model_that_cannot_be_read_is_no_wrong_usage(monkeypatch):
    """Like any other file; to root, who may read all, nothing is refused."""

    def refused(path, *mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "access", lambda *asked: False)
    monkeypatch.setattr(Path, "open", refused)
    said = invoke("check", "ann.onnx", code=1).stderr
    assert said == "Error: cannot read 'ann.onnx': Permission denied\n"


def test_a_data_file_beside_a_model_that_cannot_be_read_is_named(monkeypatch):
    beside = {"save_as_external_data": True, "location": "own.data", "size_threshold": 0}
    onnx.save(onnx.load("ann.onnx"), "with_data.onnx", **beside)
    opens = Path.open

    def refused(path, *mode):
        if path.name == "own.data":
            raise PermissionError(13, "Permission denied")
        return opens(path, *mode)

    monkeypatch.setattr(Path, "open", refused)
    said = invoke("convert", "with_data.onnx", "-o", "new.onnx", code=1).stderr
    assert "own.data': Permission denied" in said


def test_data_that_does_not_fit_the_network_is_named(snn):
    """With the shape that the file has, not that of a batch."""
    wrong = np.ones((200, 1, 6, 7), np.float32)
    np.savez("x.npz", x=wrong, y=np.arange(200) % 3)
    np.save("x.npy", wrong)
    np.save("raw.npy", np.ones(X.shape, int))
    np.save("flat.npy", X.reshape(len(X), 36))
    np.save("last.npy", X.transpose(0, 2, 3, 1))
    shape = "has shape [200, 1, 6, 7], the network needs [*, 1, 6, 6]"
    good = ("--data", "data.npz", "-T", "4")
    for words, message in (
        (("evaluate", snn, "--data", "x.npz", "-T", "4"), f"'x.npz' {shape}"),
        (("run", snn, "--input", "x.npy", "-T", "4"), f"'x.npy' {shape}"),
        (("run", snn, "--input", "raw.npy", "-T", "4"), "'raw.npy' has type int64, the network"),
        (("run", snn, "--input", "flat.npy", "-T", "4"), "needs [*, 1, 6, 6]: reshape it"),
        (("run", snn, "--input", "last.npy", "-T", "4"), "needs [*, 1, 6, 6]: transpose it"),
        (("convert", "ann.onnx", "-o", "n.onnx", "--calibration", "x.npz"), f"'x.npz' {shape}"),
        (("compare", "ann.onnx", "--calibration", "x.npz", *good), f"'x.npz' {shape}"),
        (("diagnose", snn, "--ann", "ann.onnx", "--data", "x.npy", "-T", "4"), f"'x.npy' {shape}"),
    ):
        assert message in invoke(*words, code=1).stderr


@pytest.mark.parametrize("sizes", [[-1, 1, 6, 6], [-1, -1, 6, 6], [-1, 1, -1, -1], [20, 1, 6, -1]])
def test_sizes_that_a_file_leaves_open_as_negative_numbers(sizes):
    ann = onnx.load("ann.onnx")
    for size, number in zip(ann.graph.input[0].type.tensor_type.shape.dim, sizes, strict=True):
        size.dim_value = number
    onnx.save(ann, "open.onnx")
    np.save("wide.npy", np.ones((20, 1, 5, 6), np.float32))
    assert open_data("data.npy", model="open.onnx").samples == 20
    if sizes[2] == 6:
        with pytest.raises(DataError, match=r"'wide.npy' has shape .* needs \["):
            open_data("wide.npy", model="open.onnx")


def test_which_of_several_inputs_does_not_fit_is_named():
    text = "net (float[N, 3] a, float[N, 2] b) => (float[N, 5] y) { c = Concat<axis = 1>(a, b) "
    text += "y = Clip(c, zero, bound) }"
    ann = model(text, {"zero": np.float32(0), "bound": np.float32(1)})
    write_model(convert(ann).model, "two.onnx")
    np.savez("two.npz", a=np.ones((6, 3), np.float32), b=np.ones((6, 4), np.float32))
    message = invoke("run", "two.onnx", "--input", "two.npz", "-T", "4", code=1).stderr
    assert "'b' of 'two.npz' has shape [6, 4], the network needs [*, 2]" in message


def test_a_model_from_a_pipe():
    os.mkfifo("pipe.onnx")
    # In another order of fields than protobuf would write, so that its bytes are the file's alone.
    content = onnx.ModelProto(producer_name="me").SerializeToString()
    content += Path("ann.onnx").read_bytes()
    Path("ann.onnx").write_bytes(content)
    writer = threading.Thread(target=Path("pipe.onnx").write_bytes, args=(content,))
    writer.start()
    piped = convert(Path("pipe.onnx")).model
    writer.join()
    assert piped == convert("ann.onnx").model
    assert diagnose(piped, onnx.load("ann.onnx"), open_data("data.npz"), 4)


@pytest.mark.parametrize(
    "words",
    [
        ("convert", "{ann}", "-o", "out.onnx"),
        ("inspect", "{snn}"),
        ("diagnose", "{snn}", "--ann", "{ann}", "--data", "data.npz", "-T", "4"),
        ("evaluate", "{snn}", "--ann", "{ann}", "--data", "data.npz", "-T", "4"),
        ("benchmark", "{snn}", "--ann", "{ann}", "-T", "1", "--batch", "1"),
        ("export", "{snn}", "--to", "loop", "-T", "4", "-o", "out.onnx", "--force"),
    ],
)
def test_models_from_pipes_read_as_files(snn, words):
    """Also by commands that read them more than once."""
    places = {"snn": Path("pipes/snn.onnx"), "ann": Path("pipes/ann.onnx")}
    Path("pipes").mkdir()
    for name, place in places.items():
        if f"{{{name}}}" in words:
            os.mkfifo(place)
            content = Path(f"{name}.onnx").read_bytes()
            threading.Thread(target=place.write_bytes, args=(content,), daemon=True).start()
    report = as_json(*(word.format(**places) for word in words))
    if words[0] != "benchmark":
        assert report == as_json(*(word.format(snn="snn.onnx", ann="ann.onnx") for word in words))


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_samples_of_several_inputs(names):
    """Whichever comes first in the file: it has as many axes as one input, or one more."""
    text = "net (float[N, 3] a, float[N, 2, 3] b) => (float[N, 2, 3] y) { c = Unsqueeze(a, one) "
    text += "d = Add(c, b) y = Clip(d, zero, bound) }"
    values = {"one": np.array([1]), "zero": np.float32(0), "bound": np.float32(1)}
    onnx.save(convert(model(text, values)).model, "two.onnx")
    arrays = {"a": np.ones((6, 3), np.float32), "b": np.ones((6, 2, 3), np.float32)}
    np.savez("two.npz", **{name: arrays[name] for name in names})
    options = ("--input", "two.npz", "-T", "4", "--samples", "5", "--json")
    assert json.loads(invoke("run", "two.onnx", *options).output)["samples"] == 5


def test_labels_that_are_no_classes(snn):
    np.savez("bad.npz", x=X, y=Y + 1)
    message = invoke("evaluate", snn, "--data", "bad.npz", "-T", "4", code=1).output
    assert "classes 0 to 2" in message


@pytest.mark.parametrize(
    "options",
    [
        ["run", "snn.onnx", "--input", "data.npy", "-T", "0"],
        ["run", "snn.onnx", "--input", "data.npy", "-T", "-3"],
        ["evaluate", "snn.onnx", "--data", "data.npz", "-T", "8,0"],
        ["evaluate", "snn.onnx", "--data", "data.npz", "-T", "eight"],
        ["convert", "ann.onnx", "-o", "out.onnx", "--v-init", "quarter"],
        ["convert", "ann.onnx", "-o", "out.onnx", "--v-init", "nan"],
        ["convert", "ann.onnx", "-o", "out.onnx", "--maxpool", "exact?"],
        ["convert", "ann.onnx"],
        ["convert", "ann.onnx", "-o", "out.onnx", "--threshold", "max"],
        ["convert", "ann.onnx", "-o", "out.onnx", "--samples", "8"],
        ["inspect", "snn.onnx", "-N", "8"],
        ["inspect", "snn.onnx", "--max-memory", "2GB"],
        ["inspect", "snn.onnx", "--precision", "int8"],
        ["export", "snn.onnx", "--to", "triton", "-T", "input", "-o", "folder"],
        ["run", "snn.onnx", "--input", "data.npy", "-T", "9" * 20],
        ["evaluate", "snn.onnx", "--data", "data.npz", "-T", "8," + "9" * 20],
        ["inspect", "snn.onnx", "--plan", "-N", "9" * 20],
        ["convert", "ann.onnx", "-o", "out.onnx", "--calibration", "data.npz", "-T", "9" * 40],
        ["nothing"],
    ],
)
def test_usage_errors(options):
    assert "Usage:" in invoke(*options, code=2).output


@pytest.mark.parametrize(
    "options",
    [
        ["convert", "ann.onnx", "-o", "out.onnx", "--calibration", "data.npz"],
        ["diagnose", "snn.onnx", "--ann", "ann.onnx", "--data", "data.npz"],
        ["run", "snn.onnx", "--input", "data.npy"],
        ["benchmark", "snn.onnx"],
    ],
)
def test_several_time_steps_where_one_is_wanted(options):
    message = invoke(*options, "-T", "8,16", code=2).output
    assert "'8,16' must be one whole number here; evaluate and compare take several" in message


@pytest.mark.parametrize(
    "options",
    [
        ["run", "snn.onnx", "--input", "data.npy", "-T", "4"],
        ["evaluate", "snn.onnx", "--data", "digits", "-T", "4"],
        ["diagnose", "snn.onnx", "--ann", "ann.onnx", "--data", ".", "-T", "4"],
        ["convert", "relu.onnx", "-o", "out.onnx", "--calibration", "data.npz"],
        ["compare", "ann.onnx", "--data", "data.npz", "--calibration", "data.npz", "-T", "4"],
        ["reproduce", "table1", "--ann", "ann.onnx", "--dataset", "data.npz", "-T", "4"],
        ["train", "digits.toml"],
    ],
)
def test_a_folder_of_data_that_is_read_from_none(options):
    Path("digits.toml").write_text('base = "resnet20-fashion-mnist"\ndataset = "digits"\n')
    message = invoke(*options, "--data-root", ".", code=2).output
    assert "--data-root is for DATA by name: fashion-mnist, cifar10" in message


def test_convert_names_the_file_that_a_large_network_reads(monkeypatch):
    text = "g (float[N, 64] x) => (float[N, 64] y) { m = MatMul(x, w) y = Clip(m, zero, one) }"
    onnx.save(model(text, {**WEIGHTS, "w": np.ones((64, 64), np.float32)}), "wide.onnx")
    assert "Wrote snn.onnx: 1 layer" in invoke("convert", "wide.onnx", "-o", "snn.onnx").output
    monkeypatch.setattr(files, "MAX_PROTO_BYTES", 1000)
    output = invoke("convert", "wide.onnx", "-o", "snn.onnx").output
    (data,) = Path().glob("snn.onnx.*.data")
    told = f"Wrote snn.onnx and, beside it, {data}, which it reads: 1 layer of neurons."
    assert told in " ".join(output.split())


def test_outputs_that_are_inputs_or_no_files(snn):
    before = Path(snn).read_bytes()
    for options in (
        ("convert", "ann.onnx", "-o", "ann.onnx"),
        ("run", snn, "--input", "data.npz", "-T", "2", "-o", snn),
        ("run", snn, "--input", "data.npz", "-T", "2", "-o", "data.npz"),
    ):
        assert "is an input too" in invoke(*options, code=1).output
    assert Path(snn).read_bytes() == before
    # Nor the files that hold weights of a model.
    ann = onnx.load("ann.onnx")
    onnx.save(
        ann, "parted.onnx", save_as_external_data=True, location="parted.bin", size_threshold=0
    )
    weights = Path("parted.bin").read_bytes()
    message = invoke("convert", "parted.onnx", "-o", "parted.bin", code=1).output
    assert "'parted.bin' is an input too" in message
    assert Path("parted.bin").read_bytes() == weights
    os.mkfifo("pipe")
    message = invoke("convert", "ann.onnx", "-o", "pipe", code=1).output
    assert "something else than a file" in message
    assert Path("pipe").is_fifo()
    # What a shell has sent to a file is not replaced.
    for stream in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        message = invoke("convert", "ann.onnx", "-o", stream, code=1).output
        assert re.search("what this program prints goes there|something else than a file", message)
    Path("link.onnx").symlink_to("target.onnx")
    invoke("convert", "ann.onnx", "-o", "link.onnx")
    assert Path("link.onnx").is_symlink()
    onnx.checker.check_model("target.onnx")
    long = "n" * 300 + ".onnx"
    assert "cannot write" in invoke("convert", "ann.onnx", "-o", long, code=1).output


def test_ann_of_another_network(snn):
    other = {name: value for name, value in WEIGHTS.items() if name != "v"}
    other["v"] = np.ones((4, 5), np.float32)
    onnx.save(model(CLIPPED.replace("[N, 3]", "[N, 5]"), other), "five.onnx")
    onnx.save(model("g (float[N, 1, 6, 6] x) => (float[N, 1, 6, 6] y) { y = Neg(x) }"), "map.onnx")
    two = "g (float[N, 3] x, float[N, 3] z) => (float[N, 3] y) { y = Add(x, z) }"
    onnx.save(model(two), "two.onnx")
    small = CLIPPED.replace("6, 6", "5, 5")
    onnx.save(model(small, WEIGHTS), "small.onnx")
    for ann, message in (
        ("five.onnx", "not the same network"),
        ("map.onnx", "not the same network"),
        ("two.onnx", "has the inputs x, z"),
        ("small.onnx", "the ANN needs"),
        (snn, "is a spiking network"),
    ):
        options = ("evaluate", snn, "--data", "data.npz", "-T", "2", "--ann", ann)
        assert message in invoke(*options, code=1).output


def test_a_spiking_network_in_the_place_of_the_ann(snn):
    for words in (
        ("convert", snn, "-o", "out.onnx"),
        ("check", snn),
        ("compare", snn, "--data", "data.npz", "-T", 4),
        ("evaluate", snn, "--data", "data.npz", "-T", 4, "--ann", snn),
        ("diagnose", snn, "--data", "data.npz", "-T", 4, "--ann", snn),
        ("benchmark", snn, "-T", 4, "--ann", snn),
    ):
        said = invoke(*words, code=1).output
        assert "given as the ANN is a spiking network: give the network that it was" in said


def test_json_has_no_infinity():
    """Of averages other differences are below 0, and so other logarithms infinite."""
    body = "c = Conv(x, w) r = Relu(c) p = MaxPool<kernel_shape = [2, 2]>(r) d = Conv(p, u)"
    text = f"net (float[N, 1, 6, 6] x) => (float[N, 4, 3, 3] y) {{ {body} s = Relu(d) y = Log(s) }}"
    differences = np.random.default_rng(1).normal(size=(4, 4, 1, 1)).astype(np.float32)
    ann = model(text, {"w": WEIGHTS["w"], "u": differences})
    onnx.save(ann, "log.onnx")
    np.save("x.npy", X)
    command = ("convert", "log.onnx", "-o", "out.onnx", "--calibration", "x.npy", "--json")
    found = invoke(*command, "--maxpool", "average").stdout
    rows = json.loads(found, parse_constant=lambda text: pytest.fail(text))["agreements"]
    assert None in [row["error"] for row in rows]


def test_evaluate_takes_no_time_axis(snn):
    np.save("video.npy", np.stack([X] * 4))
    message = invoke("evaluate", snn, "--data", "video.npy", "-T", "4", code=1).output
    assert "5 axes" in message


def test_weights_that_are_not_finite():
    for bad in (np.nan, np.inf):
        weights = WEIGHTS | {"w": WEIGHTS["w"] * np.float32(bad)}
        onnx.save(model(CLIPPED, weights), "bad.onnx")
        message = invoke("convert", "bad.onnx", "-o", "out.onnx", code=1).output
        assert "Conv 'c': 'w' holds NaN or infinity" in message
    weights = WEIGHTS | {"two": np.float32(np.nan)}
    onnx.save(model(CLIPPED, weights), "bad.onnx")
    assert "'two' holds NaN" in invoke("convert", "bad.onnx", "-o", "out.onnx", code=1).output


def test_networks_that_cannot_run_are_not_written():
    onnx.save(model(CLIPPED, WEIGHTS | {"v": np.ones((5, 3), np.float32)}), "odd.onnx")
    message = invoke("convert", "odd.onnx", "-o", "out.onnx", code=1).output
    assert "the ANN itself cannot run" in message
    onnx.save(model(CLIPPED.replace("6, 6", "2, 2"), WEIGHTS), "small.onnx")
    message = invoke("convert", "small.onnx", "-o", "out.onnx", code=1).output
    assert "IF 'p': its shape is 4x0x0" in message
    assert not Path("out.onnx").exists()


def test_integer_networks_take_their_own_type_only():
    text = CLIPPED.replace("float[N, 1, 6, 6] x", "uint8[N, 1, 6, 6] x")
    text = text.replace("Conv(x", "Conv(i").replace("{", "{ i = Cast<to = 1>(x)")
    onnx.save(model(text, WEIGHTS), "u.onnx")
    invoke("convert", "u.onnx", "-o", "snn.onnx")
    np.save("u.npy", (np.abs(X) * 50).astype(np.uint8))
    assert (
        max(as_json("run", "snn.onnx", "--input", "u.npy", "-T", "2")["firing_rates"].values()) > 0
    )
    message = invoke("run", "snn.onnx", "--input", "data.npy", "-T", "2", code=1).output
    assert "'data.npy' has type float32, the network needs uint8" in message


def test_activations_before_the_first_neuron_are_named():
    text = CLIPPED.replace("c = Conv(x, w)", "t = Tanh(x) c = Conv(t, w)")
    onnx.save(model(text, WEIGHTS), "tanh.onnx")
    assert "Tanh 't'" in invoke("convert", "tanh.onnx", "-o", "snn.onnx").output


def test_names_that_look_like_markup(snn):
    proto = onnx.load("ann.onnx")
    for node in proto.graph.node:
        node.name = f"{node.op_type}[red]x[/y]\x1b[2J"
    onnx.save(proto, "odd.onnx")
    output = invoke("convert", "odd.onnx", "-o", "odd-snn.onnx").output
    assert "Clip[red]x[/y]?[2J" in output
    for words in (
        ("inspect", "odd-snn.onnx"),
        ("run", "odd-snn.onnx", "--input", "data.npy", "-T", 2),
    ):
        assert "\x1b" not in invoke(*words).output
    written = invoke("convert", "ann.onnx", "-o", "[red]\x1b[2J:x:.onnx").output
    assert "Wrote [red]?[2J:x:.onnx" in written
    assert "\x1b" not in written


def test_inspect_stands_odd_metadata(snn):
    for key, value in (
        ("thresholds", "no json"),
        ("recipe", "[1, 2]"),
        ("recipe", '{"a": NaN}'),
        ("recipe", '{"a": 1e999}'),
        ("recipe", '{"timesteps": [4]}'),
        ("recipe", "[" * 100_000),
        ("recipe", '{"a": ' + "[" * 900 + "]" * 900 + "}"),
    ):
        proto = onnx.load(snn)
        onnx.helper.set_model_props(proto, {f"onnx2snn.{key}": value})
        onnx.save(proto, "odd.onnx")
        invoke("inspect", "odd.onnx")
        assert "Infinity" not in invoke("inspect", "odd.onnx", "--json").stdout
        invoke("evaluate", "odd.onnx", "--data", "data.npz", "-T", 2)


def test_unsupported_nodes_are_all_listed():
    text = CLIPPED.replace("p = Clip(c, zero, two)", "r = Relu(c) a = Sigmoid(r) p = Mul(a, r)")
    tail = TAIL.replace("(p", "(q")
    onnx.save(model(text.replace(TAIL, f"q = Relu(p) {tail}"), WEIGHTS), "odd.onnx")
    output = invoke("convert", "odd.onnx", "-o", "out.onnx", code=1).output
    assert "Sigmoid 'a'" in output
    assert "Mul 'p': the product of two activations" in output


def test_relu_needs_data():
    output = invoke("convert", "relu.onnx", "-o", "out.onnx", code=1).output
    assert "Relu 'r'" in output
    assert "--calibration" in output


def test_output_folders():
    Path("folder").mkdir()
    for output in ("no/out.onnx", "folder"):
        message = invoke("convert", "ann.onnx", "-o", output, code=1).output
        assert "cannot write" in message
    assert list(Path("folder").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "work"),
    [
        (("convert", "ann.onnx", "-o", "out.onnx"), (conversion, "convert")),
        (("demo", "--output", "out"), (cli_demo, "run_demo")),
    ],
)
def test_folders_without_permission_are_refused_before_the_work(words, work, folder, monkeypatch):
    """For root, who has every permission, too."""
    monkeypatch.setattr(os, "access", lambda path, *_, **__: not Path(path).is_relative_to(folder))
    monkeypatch.setattr(*work, lambda *_, **__: pytest.fail("it was begun"))
    message = invoke(*words, code=1).stderr
    assert re.search("no permission to write in its folder|cannot write into the folder", message)
    assert not Path(words[-1]).exists()


def test_a_failure_leaves_an_existing_output_untouched(snn):
    Path("out.onnx").write_bytes(b"precious")
    Path("out.npz").write_bytes(b"precious")
    np.savez("bad.npz", x=X * np.nan)
    invoke("convert", "relu.onnx", "-o", "out.onnx", code=1)
    invoke("run", snn, "--input", "bad.npz", "-T", "4", "-o", "out.npz", code=1)
    assert Path("out.onnx").read_bytes() == Path("out.npz").read_bytes() == b"precious"


def test_full_disk(snn, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = {path.name for path in Path().iterdir()}
    for options in (
        ("convert", "ann.onnx", "-o", "out.onnx"),
        ("run", snn, "--input", "data.npy", "-T", "4", "-o", "out.npz"),
        ("evaluate", snn, "--data", "data.npz", "-T", "4", "--plot", "out.png"),
    ):
        assert "No space left on device" in invoke(*options, code=1).output
    assert {path.name for path in Path().iterdir()} == before


def test_memory_that_onnx_runtime_lacks_is_one_message(snn, monkeypatch):
    def fails(*arguments, **options):
        raise RuntimeError("[ONNXRuntimeError] : 6 : while running Conv node: std::bad_alloc")

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", fails)
    result = invoke("evaluate", snn, "--data", "data.npz", "-T", "4", code=1)
    assert "Error: out of memory: give it less at once (--batch-size)" in result.stderr


def test_what_is_logged_is_a_note(snn, monkeypatch):
    def warns(model, known=cli_inspect.build_plan):
        logging.getLogger("onnx2snn").warning("it is slower: %s", "no room")
        return known(model)

    monkeypatch.setattr(cli_inspect, "build_plan", warns)
    for _ in range(2):
        assert invoke("inspect", snn).stderr == "Note: it is slower: no room.\n"


def test_plots(snn, monkeypatch):
    options = ("evaluate", snn, "--data", "data.npz", "-T", "4", "--plot")
    assert "use one of" in invoke(*options, "curve.txt", code=1).output
    with monkeypatch.context() as patch:
        # As in a process of its own, in which nothing has imported it.
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            patch.delitem(sys.modules, name)
        patch.setenv("MPLBACKEND", "nonsense")
        assert "matplotlib does not start: " in invoke(*options, "curve.png", code=1).output
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "onnx2snn[plot]" in invoke(*options, "curve.png", code=1).output


@pytest.mark.parametrize("name", ["cost_$5_vs_$10.npz", "$x_{$.npz", "caf\udce9.npz"])
def test_titles_of_plots_show_names_as_they_are(monkeypatch, name):
    drawn, save = [], plot.save
    monkeypatch.setattr(
        plot, "save", lambda figure, path: [drawn.append(figure), save(figure, path)]
    )
    plot.accuracy_plot(Path("plot.png"), [4], {"SNN": [50.0]}, None, name)
    plot.early_exit_plot(Path("plot.png"), [(4, 50.0)], [(2.0, 50.0)], None, name, "accuracy (%)")
    plot.comparison_plot(Path("plot.png"), [4], {"opi": [50.0]}, 90.0, 9, name, "accuracy (%)")
    plot.diagnosis_plot(Path("plot.png"), [], name)
    plot_paper.potential_plot(Path("plot.png"), [4], {"0.5": [50.0]}, 90.0, name)
    titles = [figure.axes[0].get_title() for figure in drawn]
    assert titles == [name.replace("\udce9", "?")] * 4
    plot_paper.fired_plot(Path("plot.png"), [1], {"a": {"l": [5.0]}, "b": {"l": [5.0]}}, name)


def test_a_plot_that_fails_takes_no_results(snn, monkeypatch):
    def full(figure, path):
        raise OutputError("no room")

    monkeypatch.setattr(plot, "save", full)
    data = ("--data", "data.npz", "-T", "4", "--plot", "plot.png")
    for options, shown in (
        (("evaluate", snn), "SOPs"),
        (("diagnose", snn, "--ann", "ann.onnx"), "clipping"),
        (("compare", "ann.onnx", "--recipes", "opi"), "1 result is kept"),
        (("evaluate", snn, "--json"), '"samples": 20'),
    ):
        result = invoke(*options, *data, code=1)
        assert shown in result.stdout
        assert "no room" in result.stderr


@pytest.mark.parametrize(
    ("values", "ann", "limits"),
    [
        ([92.6, 94.0], 94.0, (90, 95)),
        ([0.0], None, (0, 1)),
        ([10.0, 90.0], 95.0, (0, 102)),
        ([100.0], None, (90, 101)),
    ],
)
def test_a_curve_near_the_top_is_drawn_near(monkeypatch, values, ann, limits):
    drawn = []
    monkeypatch.setattr(plot, "save", lambda figure, path: drawn.append(figure))
    times = [4, 8][: len(values)]
    plot.accuracy_plot(Path("plot.png"), times, {"SNN": values}, ann, "title")
    np.testing.assert_allclose(drawn[0].axes[0].get_ylim(), limits)


def test_what_the_encoding_lacks_is_escaped(snn):
    for options, name in (
        (("run", snn, "--input", "data.npy", "-T", "4"), "\xfc.npz"),
        (("convert", "ann.onnx"), "\xfc.onnx"),
        (("export", snn, "--to", "loop", "-T", "4"), "\xfcloop.onnx"),
    ):
        result = CliRunner(charset="ascii").invoke(main, [*options, "-o", name])
        assert result.exit_code == 0, result.output
        assert f"Wrote {name}".replace("\xfc", "\\xfc") in result.stdout
        assert Path(name).exists()


def test_a_file_keeps_its_permissions(snn):
    for options, name in (
        (("convert", "ann.onnx"), "out.onnx"),
        (("run", snn, "--input", "data.npy", "-T", "4"), "out.npz"),
    ):
        invoke(*options, "-o", name)
        assert Path(name).stat().st_mode == Path("ann.onnx").stat().st_mode
        Path(name).chmod(0o600)
        invoke(*options, "-o", name)
        assert Path(name).stat().st_mode & 0o777 == 0o600


def test_interrupted(monkeypatch):
    def interrupt(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(readiness, "check", interrupt)
    assert invoke("check", "ann.onnx", code=130).stderr.split() == ["Aborted!"]


def test_terminated(monkeypatch):
    """As timeout does: what was begun is put away, and the old handler is back."""
    put_away = []

    def terminate(*given, **options):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            put_away.append(given)

    monkeypatch.setattr(readiness, "check", terminate)
    before = signal.getsignal(signal.SIGTERM)
    invoke("check", "ann.onnx", code=143)
    assert put_away
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_within_a_callback_is_not_lost(monkeypatch, number, code):
    """Python loses what is raised there."""

    class Anything:
        pass

    def check(*given, **options):
        it = Anything()
        kept = weakref.ref(it, lambda _: signal.raise_signal(number))
        del it
        # Until the signal comes once more.
        threading.Event().wait(30)
        return kept

    monkeypatch.setattr(readiness, "check", check)
    # Who runs the tests may have Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        invoke("check", "ann.onnx", code=code)
    finally:
        signal.signal(signal.SIGINT, before)


def test_control_characters_in_messages(folder):
    ann = model(CLIPPED, WEIGHTS)
    del ann.graph.node[:]
    ann.graph.node.append(onnx.helper.make_node("Sigmoid", ["x"], ["y"], "a\x1b[31mb"))
    onnx.save(ann, "odd.onnx")
    said = invoke("convert", "odd.onnx", "-o", "odd.snn.onnx", code=1).stderr
    assert "a?[31mb" in said
    assert "\x1b" not in said


def test_an_empty_name_is_no_path(snn):
    for options in (
        ("convert", "", "-o", "out.onnx"),
        ("evaluate", snn, "--data", "data.npz", "-T", "4", "--ann", ""),
        ("evaluate", snn, "--data", "fashion-mnist", "-T", "4", "--data-root", ""),
        ("convert", "ann.onnx", "-o", ""),
        ("export", snn, "--to", "triton", "-T", "4", "-o", ""),
        ("evaluate", snn, "--data", "data.npz", "-T", "4", "--plot", ""),
        ("train", "resnet20-fashion-mnist", "-o", ""),
    ):
        assert "the name is empty" in invoke(*options, code=2).output


def test_cuda_that_is_not_there(snn, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    options = ("run", snn, "--input", "data.npy", "-T", "4", "--device")
    message = invoke(*options, "cuda", code=1).output
    assert "CUDAExecutionProvider is not in the installed ONNX Runtime" in message
    result = invoke(*options, "auto", "--json")
    assert result.stderr == "Running on CPUExecutionProvider.\n"
    assert json.loads(result.stdout)["device"] == "CPUExecutionProvider"


def test_auto_says_which_device_it_took(monkeypatch, capsys):
    chosen = [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
    from onnx2snn.cli import options

    monkeypatch.setattr(options, "resolve_providers", lambda device: chosen)
    assert options.chosen_providers("auto") is chosen
    assert capsys.readouterr().err == "Running on CUDAExecutionProvider.\n"


def test_as_a_process(folder):
    """As installed: the console script, from another folder, without a terminal."""
    script = shutil.which("onnx2snn", path=str(Path(sys.executable).parent))
    assert script is not None

    def call(*words):
        return subprocess.run([script, *words], capture_output=True, text=True, cwd=folder)

    done = call("convert", "ann.onnx", "-o", "snn.onnx")
    assert done.returncode == 0, done.stderr
    assert "bound of the clip" in done.stdout
    done = call("evaluate", "snn.onnx", "--data", "data.npz", "-T", "2,4", "--json")
    assert json.loads(done.stdout)["samples"] == 20
    done = call("convert", "data.npz", "-o", "out.onnx")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: 'data.npz' is not an ONNX model")
    assert done.stdout == ""
    assert call("convert").returncode == 2
    # A disk that is full, and a shell's >&-.
    for words in ("recipes", "--help", "convert --help"):
        # Unbuffered, nothing is left to be written at the end.
        command = f"env -u PYTHONUNBUFFERED {script} {words} > /dev/full"
        full = subprocess.run(command, shell=True, stderr=subprocess.PIPE)
        assert full.returncode == 1
        assert full.stderr == b"Error: No space left on device\n"
    closed = subprocess.run(f"{script} recipes >&-", shell=True, stderr=subprocess.PIPE)
    assert (closed.returncode, closed.stderr) == (0, b"")
    for words, code in (("inspect no.onnx --json", 1), ("inspect", 2), ("no", 2)):
        closed = subprocess.run(f"{script} {words} 2>&-", shell=True, stdout=subprocess.PIPE)
        assert (closed.returncode, closed.stdout) == (code, b"")
    # Who reads is gone, as head is once it has its lines.
    for words in ("recipes --json", "inspect snn.onnx", "inspect snn.onnx --json"):
        command = f"{script} {words} | true"
        gone = subprocess.run(command, shell=True, stderr=subprocess.PIPE, cwd=folder)
        assert gone.stderr == b""


def test_check_exits_with_its_verdict():
    onnx.save(model(CLIPPED, WEIGHTS), "good.onnx")
    text = CLIPPED.replace(
        "p = Clip(c, zero, two)", "q = Clip(c, zero, two) s = Tanh(q) p = Relu(s)"
    )
    onnx.save(model(text, WEIGHTS), "curved.onnx")
    good = invoke("check", "good.onnx").output
    assert "Converts as it is." in good
    assert "Exact rewriting not checked: there was nothing to rewrite." in good
    result = invoke("check", "curved.onnx", code=1)
    assert "1 node stands in the way; with --approximate N --calibration DATA it would" in (
        result.output
    )
    found = json.loads(invoke("check", "curved.onnx", "--approximate", "--json").output)
    assert found["converts"]
    assert found["options"] == ["--approximate N --calibration DATA"]
    assert {row["node"]: row["role"] for row in found["nodes"]}["s"] == "approximated"
    assert "no such file" in invoke("check", "nothing.onnx", code=1).output.lower()


def test_max_pooling_by_option():
    onnx.save(model(MAX_POOLED, WEIGHTS), "max.onnx")
    options = ("convert", "max.onnx", "-o", "snn.onnx", "--calibration", "data.npz")
    exact = json.loads(invoke(*options, "--maxpool", "exact", "--json").output)
    changes = {row["change"]: row for row in exact["agreements"]}
    assert changes["all together"]["error"] < 0.1
    assert "max-pooling -> average-pooling" not in changes
    # After the last neuron the pool is part of the read-out, so that to keep it costs nothing.
    assert "accuracy falls" not in invoke(*options, "--maxpool", "keep").output
    followed = MAX_POOLED.replace(TAIL, "q = Relu(p) " + TAIL.replace("(p)", "(q)"))
    onnx.save(model(followed, WEIGHTS), "max.onnx")
    assert "accuracy falls as T grows" in invoke(*options, "--maxpool", "keep").output


def test_networks_with_several_inputs_and_outputs():
    text = (
        "net (float[N, 4] a, float[N, 4] b) => (float[N, 4] s, float[N, 4] p) "
        "{ c = Sub(a, b) s = Clip(c, zero, two) p = Softmax<axis = 1>(s) }"
    )
    onnx.save(model(text, {"zero": np.float32(0), "two": np.float32(2)}), "ann.onnx")
    a = RNG.normal(size=(5, 4)).astype(np.float32)
    np.savez("two.npz", a=a, b=-a, y=np.array([0, 1, 2, 3, 0]))
    invoke("convert", "ann.onnx", "-o", "snn.onnx", "--calibration", "two.npz")
    assert "5 samples" in invoke("evaluate", "snn.onnx", "--data", "two.npz", "-T", "4").output
    invoke("run", "snn.onnx", "--input", "two.npz", "-T", "8", "--readout", "4", "-o", "out.npz")
    with np.load("out.npz") as out:
        assert {"output", "output/p", "output_4", "output_4/p"} <= set(out.files)
        np.testing.assert_allclose(out["output/p"].sum(1), 1, rtol=1e-5)
    assert "output p" in invoke("inspect", "snn.onnx").output
    np.savez("one.npz", x=a)
    assert (
        "give each by its name"
        in invoke("run", "snn.onnx", "--input", "one.npz", "-T", "8", code=1).output
    )


@pytest.mark.parametrize(("shape", "keepdims"), [((), 0), ((1, 1), 1)])
def test_an_output_without_a_row_for_each_sample_needs_one_batch(shape, keepdims):
    total = f"float[{', '.join(map(str, shape))}] n" if shape else "float n"
    text = (
        f"net (float[N, 6] x) => (float[N, 6] y, {total}) "
        f"{{ c = Clip(x, zero, one) y = Neg(c) n = ReduceSum<keepdims = {keepdims}>(y) }}"
    )
    onnx.save(model(text, WEIGHTS), "sum.onnx")
    invoke("convert", "sum.onnx", "-o", "snn.onnx")
    x = RNG.normal(size=(5, 6)).astype(np.float32)
    np.save("x.npy", x)
    options = ("run", "snn.onnx", "--input", "x.npy", "-T", 4, "--readout", 2, "-o", "out.npz")
    invoke(*options)
    with np.load("out.npz") as outputs:
        assert outputs["output/n"].shape == outputs["output_2/n"].shape == shape
        assert outputs["output/n"].sum() == pytest.approx(outputs["output"].sum())
    Path("out.npz").unlink()
    for size in (2, 4):
        message = invoke(*options, "--batch-size", size, code=1).output
        assert "output 'n' has shape" in message
        assert "run all samples in one batch (--batch-size)" in message
        assert not Path("out.npz").exists()


@pytest.mark.parametrize("scale", [np.float32(0.5), np.float32([0.5])])
def test_an_input_without_a_row_for_each_sample_is_named(scale):
    text = (
        "net (float[N, 6] x, float s) => (float[N, 6] y) "
        "{ a = Mul(x, s) c = Clip(a, zero, one) y = Neg(c) }"
    )
    onnx.save(model(text, WEIGHTS), "ann.onnx")
    invoke("convert", "ann.onnx", "-o", "snn.onnx")
    np.savez("d.npz", x=np.ones((4, 6), np.float32), s=scale)
    message = invoke("run", "snn.onnx", "--input", "d.npz", "-T", 4, code=1).output
    assert "input 's' has no row of numbers for each of the 4 samples" in message


def with_bfloat16_weights():
    """The network of clips, whose last weights are of the type bfloat16."""
    ann = model(CLIPPED, WEIGHTS)
    (place,) = [i for i, tensor in enumerate(ann.graph.initializer) if tensor.name == "v"]
    values = WEIGHTS["v"]
    short = onnx.helper.make_tensor(
        "short", onnx.TensorProto.BFLOAT16, values.shape, values.ravel().tolist()
    )
    ann.graph.initializer[place].CopyFrom(short)
    to_float = onnx.helper.make_node("Cast", ["short"], ["v"], to=onnx.TensorProto.FLOAT)
    nodes = list(ann.graph.node)
    del ann.graph.node[:]
    ann.graph.node.extend([to_float, *nodes])
    return ann


def test_nothing_is_said_beside_json_of_bfloat16_weights():
    onnx.save(with_bfloat16_weights(), "short.onnx")
    assert json.loads(invoke("check", "short.onnx", "--json").stdout)["converts"]
    converted = invoke("convert", "short.onnx", "-o", "snn.onnx", "--json").stdout
    assert json.loads(converted)["neurons"]


def test_an_input_of_bfloat16_is_refused_by_its_type():
    text = (
        "net (bfloat16[N, 3] x) => (float[N, 3] y) { f = Cast<to = 1>(x) y = Clip(f, zero, one) }"
    )
    onnx.save(model(text, WEIGHTS), "short.onnx")
    message = invoke("check", "short.onnx", code=1).output
    assert "input 'x' is of the type bfloat16: export the network in float32" in message


def test_convert_says_where_t_makes_no_difference():
    words = "convert", "relu.onnx", "-o", "snn.onnx", "--calibration", "data.npz", "-T", "4"
    assert "the recipe 'opi' converts alike for every T" in invoke(*words, "--recipe", "opi").output
    assert "for every T" not in invoke(*words).output
    given = invoke(*words, "--recipe", "mmse", "--threshold", "max").output
    assert "the recipe 'mmse' with these options converts alike for every T" in " ".join(
        given.split()
    )


def test_calibration_data_need_hold_no_classes():
    np.savez("values.npz", x=X, y=RNG.normal(size=(20, 2)))
    words = "convert", "relu.onnx", "-o", "snn.onnx", "--calibration", "values.npz"
    assert "Wrote snn.onnx" in invoke(*words, "--recipe", "rnl").output
    said = invoke("evaluate", "snn.onnx", "--data", "values.npz", "-T", "4", code=1).output
    assert "y must hold one integer label" in said


def test_diagnose_says_what_is_not_in_its_figures(snn):
    said = "in the ANN here"
    words = "--data", "data.npz", "-T", "4"
    assert said not in invoke("diagnose", snn, "--ann", "ann.onnx", *words).output
    invoke("convert", "relu.onnx", "-o", "pooled.onnx", "--calibration", "data.npz", "--recipe",
           "opi", "--maxpool", "average", "--approximate", "2")  # fmt: skip
    output = invoke("diagnose", "pooled.onnx", "--ann", "relu.onnx", *words).output
    assert "average-pools take the place of its max-pools" in " ".join(output.split())
    report = as_json("diagnose", "pooled.onnx", "--ann", "relu.onnx", *words)
    assert report["left_out"][0] == "average-pools take the place of its max-pools"
    invoke("convert", "relu.onnx", "-o", "exact.onnx", "--calibration", "data.npz")
    assert as_json("diagnose", "exact.onnx", "--ann", "relu.onnx", *words)["left_out"] == []


def test_run_over_time_with_several_inputs():
    text = (
        "net (float[N, 1, 6, 6] x, float[N, 3] z) => (float[N, 3] y) "
        f"{{ c = Conv(x, w) p = Clip(c, zero, two) {TAIL.replace('y =', 'a =')} y = Add(a, z) }}"
    )
    onnx.save(model(text, WEIGHTS), "two.onnx")
    invoke("convert", "two.onnx", "-o", "snn.onnx")
    x = RNG.normal(size=(5, 7, 1, 6, 6)).astype(np.float32)
    z = RNG.normal(size=(5, 7, 3)).astype(np.float32)
    np.savez("moving.npz", x=x, z=z)
    words = "run", "snn.onnx", "--input", "moving.npz", "-T", "5"
    report = as_json(*words, "--batch-size", "3", "-o", "out.npz")
    assert report["samples"] == 7
    wanted = SpikingSession("snn.onnx").run({"x": x, "z": z}, 5).output
    np.testing.assert_allclose(np.load("out.npz")["output"], wanted, rtol=1e-5)
    assert "first axis of this DATA is time" in invoke(*words, "--samples", "3", code=1).output
    data = ("--data", "moving.npz", "-T", "5")
    for words in (
        ("evaluate", "snn.onnx", *data),
        ("evaluate", "snn.onnx", "--early-exit", *data),
        ("diagnose", "snn.onnx", "--ann", "two.onnx", *data),
        ("convert", "two.onnx", "-o", "other.onnx", "--calibration", "moving.npz"),
    ):
        said = invoke(*words, code=1).output
        assert "'x' of 'moving.npz' has the shape [5, 7, 1, 6, 6], with 5 axes" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-T", "64"], "none may leave before T=12"),
        (["-T", "8"], "T=8 is too short for any to leave"),
    ],
)
def test_when_samples_may_leave(snn, options, said):
    words = "evaluate", snn, "--data", "data.npz", "--early-exit"
    assert said in " ".join(invoke(*words, *options).output.split())


def test_when_samples_may_leave_behind_a_delay():
    invoke("convert", "ann.onnx", "-o", "snn.onnx", "--delay", "20")
    words = "evaluate", "snn.onnx", "--data", "data.npz", "--early-exit", "-T", "64"
    assert as_json(*words)["earliest"] == 32
    assert "none may leave before T=32" in " ".join(invoke(*words).output.split())


def test_no_sample_leaves_where_none_is_sure():
    text = CLIPPED.replace("y = MatMul(f, v)", "m = MatMul(f, v) s = Sigmoid(m) y = Mul(s, tenth)")
    onnx.save(model(text, WEIGHTS | {"tenth": np.float32(0.1)}), "unsure.onnx")
    invoke("convert", "unsure.onnx", "-o", "snn.onnx")
    words = "evaluate", "snn.onnx", "--data", "data.npz", "--early-exit", "-T", "32"
    assert "none left before T=32: until then of no sample" in " ".join(
        invoke(*words).output.split()
    )


def test_layers_before_the_first_spikes_are_in_no_sops(snn):
    words = "evaluate", snn, "--data", "data.npz", "-T", "4"
    report = as_json(*words)
    # Nine weights of each of four channels at 4 x 4 places, and 4 times 3 behind the neurons.
    assert (report["macs"], report["macs_before_neurons"]) == (576 + 12, 576)
    assert "576 of them before the first spikes" in " ".join(invoke(*words).output.split())


def test_a_budget_shows_as_many_digits_as_it_takes(snn):
    words = "evaluate", snn, "--data", "data.npz", "-T", "4"
    accuracy = as_json(*words)["snn"][0]["accuracy"]
    above = f"{accuracy + 0.5:.2f}"
    said = invoke(*words, "--min-accuracy", above, code=1).output
    assert f"{accuracy:.2f} % at T=4, less than --min-accuracy" in said


def test_gpus_are_for_triton(snn):
    words = "export", snn, "-o", "net.nir", "--to", "nir", "--gpu"
    assert "--gpu is for --to triton" in invoke(*words, code=2).output


@pytest.mark.parametrize(
    ("target", "name"), [("loop", "l.onnx"), ("triton", "t"), ("nir", "n.nir")]
)
def test_a_text_that_is_no_utf_8_is_refused(snn, target, name):
    steps = [] if target == "nir" else ["-T", "4"]
    words = "export", snn, "-o", name, "--to", target, *steps, "--preprocessing", "a\udcff"
    assert "the text of preprocessing is not UTF-8" in invoke(*words, code=1).output
    assert not Path(name).exists()


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_labels_by_another_name_are_told(snn, command):
    """Not where there are labels, or nothing else that could be them."""
    x, labels = X[:6], np.zeros(6, np.int64)
    named = {"labels": labels, "names": labels}
    for name, arrays in (("named", named), ("y", {"y": labels}), ("alone", {})):
        np.savez(f"{name}.npz", x=x, **arrays)
    model = "ann.onnx" if command == "compare" else snn
    rest = ("-T", "2", *(("--recipes", "opi") if command == "compare" else ()))
    told = [
        invoke(command, model, "--data", f"{name}.npz", *rest).output
        for name in ("named", "y", "alone")
    ]
    assert ["holds no labels y" in text for text in told] == [True, False, False]
    assert "'labels', 'names' are not read: call the labels y" in " ".join(told[0].split())


def test_an_input_by_its_own_name_is_no_label(snn):
    """Also beside one that is called x."""
    (name,) = SpikingSession(snn).inputs
    np.savez("both.npz", **{"x": X[:6], name: X[:6]})
    assert "is not read" not in invoke("evaluate", snn, "--data", "both.npz", "-T", "2").output


def test_names_of_files_stay_whole_where_no_terminal_is(snn, tmp_path):
    name = f"{tmp_path}/{'a_long_name_' * 12}.onnx"
    assert f"Wrote {name}" in invoke("export", snn, "--to", "loop", "-T", "2", "-o", name).output
