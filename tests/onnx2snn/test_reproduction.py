"""The paper's tables and figures: what is printed, what is measured, what is kept."""

import json
import struct
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from onnx_text import model

from onnx2snn import convert, evaluate, from_arrays, write_model
from onnx2snn.cli import main
from onnx2snn.graph_passes.model_files.weights import detach
from onnx2snn.measuring.published import OURS, TABLES, published
from onnx2snn.measuring.reproduction import EXPERIMENTS, CountsFile, ExperimentRun, ann_accuracy
from onnx2snn.running import Running

RNG = np.random.default_rng(0)
TEXT = (
    "net (float[N, 1, 6, 6] x) => (float[N, 3] y) { c = Conv(x, w) r = Clip(c, zero, one) "
    "d = Conv(r, u) q = Clip(d, zero, one) g = GlobalAveragePool(q) f = Flatten(g) "
    "y = MatMul(f, v) }"
)
WEIGHTS = {
    "w": RNG.normal(size=(4, 1, 3, 3)).astype(np.float32),
    "u": RNG.normal(size=(4, 4, 2, 2)).astype(np.float32),
    "v": RNG.normal(size=(4, 3)).astype(np.float32),
    "zero": np.float32(0),
    "one": np.float32(1),
}
X = RNG.normal(size=(30, 1, 6, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 30)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(model(TEXT, WEIGHTS), "ann.onnx")
    np.savez("d.npz", x=X, y=Y)
    return tmp_path


def reproduce(*arguments, code=0):
    command = ["reproduce", *arguments, "--ann", "ann.onnx", "--dataset", "d.npz"]
    result = CliRunner().invoke(main, [*command, "--batch-size", "7"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout) if "--json" in arguments else result.output


def test_the_printed_tables():
    """Their losses at T = 8, 16, 32 and 64 on CIFAR-10, as the project's goals state them."""
    assert len(TABLES) == 7
    (ours,) = (row for row in published("table1", "vgg16") if row.method == OURS)
    assert [round(ours.ann - ours.at(t), 1) for t in (8, 16, 32, 64)] == [3.6, 1.2, 0.4, 0.1]
    (ours,) = (row for row in published("table1", "resnet20") if row.method == OURS)
    assert [round(ours.ann - ours.at(t), 1) for t in (8, 16, 32, 64)] == [26.5, 5.5, 0.9, 0.2]
    (ours,) = (row for row in published("table1", "resnet18") if row.method == OURS)
    assert [round(ours.ann - ours.at(t), 1) for t in (8, 16, 32, 64)] == [20.6, 5.6, 1.2, 0.1]
    assert (ours.at(512), ours.at(1024), ours.at(9)) == (96.06, 96.06, None)
    assert all(any(row.method == OURS for row in rows) for rows in TABLES.values())
    assert published("table3", "resnet20") == ()


def test_a_table_is_what_evaluate_measures(here):
    found = reproduce("table1", "--network", "resnet20", "-T", "8,16", "--json")
    ann = model(TEXT, WEIGHTS)
    report = evaluate(convert(ann, v_init=0.5).model, from_arrays(X, Y), [8, 16], ann=ann)
    assert found["ann"]["accuracy"] == pytest.approx(report["ann"]["accuracy"])
    (ours,) = found["curves"].values()
    assert ours == pytest.approx([row["accuracy"] for row in report["snn"]])
    assert found["paper"]["Ours"]["snn"] == [66.24, 87.22]
    text = reproduce("table1", "--network", "resnet20", "-T", "8,16")
    assert "loss in the paper" in text
    assert "26.50" in text


def test_counts_of_several_inputs_and_outputs(tmp_path):
    """The classes are those of the first output [N, classes]; other labels are other data."""
    ann = model(
        "net (float[N, 2] a, float[N, 2] b) => (int64[N] label, float[N, 2] y) "
        "{ c = Add(a, b) r = Clip(c, zero, one) y = MatMul(r, u) label = ArgMax<axis = 1, "
        "keepdims = 0>(y) }",
        {"zero": np.float32(0), "one": np.float32(1), "u": np.eye(2, dtype=np.float32)},
    )
    x = {name: RNG.uniform(size=(9, 2)).astype(np.float32) for name in "ab"}
    chosen = (x["a"] + x["b"]).clip(0, 1).argmax(1)
    state = CountsFile(tmp_path / "state.json")
    for y, accuracy in ((chosen, 100), (1 - chosen, 0)):
        run = ExperimentRun(from_arrays(x, y), state, Running(4))
        assert ann_accuracy(detach(ann), run) == accuracy


def test_what_is_counted_is_not_read_again(tmp_path):
    """But for the digest, by which the counts are found."""
    ann = model(TEXT, WEIGHTS)
    state, read = CountsFile(tmp_path / "state.json"), []

    def noting(batch_size):
        read.append(batch_size)
        return (X[start : start + batch_size] for start in range(0, len(X), batch_size))

    data = replace(from_arrays(X, Y), read=noting)
    for times in (2, 1):
        read.clear()
        ann_accuracy(detach(ann), ExperimentRun(data, state, Running(4)))
        assert read == [4] * times


def test_how_far_a_part_is_told_from_0_to_its_end(tmp_path):
    """What was kept is told too: with 0 the clock of a part starts."""
    ann, state, told = detach(model(TEXT, WEIGHTS)), CountsFile(tmp_path / "state.json"), []

    def report(what, done, total):
        told.append(done)
        assert (what, total) == ("ANN", 30)

    run = ExperimentRun(from_arrays(X, Y), state, Running(10, None, report))
    for kept, wanted in ((0, [0, 10, 20, 30]), (20, [0, 20, 30]), (30, [])):
        for cell in state.cells.values():
            cell["samples"] = kept
        ann_accuracy(ann, run)
        assert told == wanted
        told.clear()


def test_counts_of_another_device_are_its_own(tmp_path):
    ann, state = model(TEXT, WEIGHTS), CountsFile(tmp_path / "state.json")
    for providers in (None, [("CPUExecutionProvider", {"arena_extend_strategy": "0"})]):
        ann_accuracy(detach(ann), ExperimentRun(from_arrays(X, Y), state, Running(4, providers)))
    assert len(state.cells) == 2


def test_other_data_behind_the_same_first_batch(here):
    before = reproduce("table1", "-T", "4", "--json")["ann"]["accuracy"]
    x = X.copy()
    x[7:] = 0
    np.savez("d.npz", x=x, y=Y)
    found = reproduce("table1", "-T", "4", "--json")["ann"]["accuracy"]
    assert (
        found == reproduce("table1", "-T", "4", "--json", "--state", "new.json")["ann"]["accuracy"]
    )
    assert found != before


def test_a_cell_without_its_counts_is_damaged(here):
    reproduce("table1", "-T", "4")
    state = json.loads((here / "reproduce.json").read_text())
    for cell in state["cells"].values():
        cell["sums"] = {}
    (here / "reproduce.json").write_text(json.dumps(state))
    assert "is damaged; it was left as it is" in reproduce("table1", "-T", "4", code=1)


def test_processes_at_once_keep_each_others_counts(tmp_path):
    first, second = (CountsFile(tmp_path / "state.json") for _ in range(2))
    cell = {"name": "a", "samples": 2, "sums": {"hits": 1}}
    for file, key in ((first, "1"), (second, "2")):
        file.cells[key] = cell
        file.keep(key)
    assert CountsFile(tmp_path / "state.json").cells == {"1": cell, "2": cell}


@pytest.mark.parametrize("what", sorted(set(EXPERIMENTS) - {"fig4"}))
def test_every_experiment(here, what):
    pytest.importorskip("matplotlib")
    text = reproduce(what, "-T", "2,4", "--samples", "10", "--plot", "p.png")
    assert "10 samples" in text
    assert (here / "p.png").read_bytes().startswith(b"\x89PNG")


def test_fig_1_counts_neurons_that_have_fired(here):
    found = reproduce("fig1", "-T", "1,4", "--samples", "10", "--json")
    from onnx2snn import SpikingSession

    for name, v_init in (("half", 0.5), ("zero", 0.0)):
        snn = convert(model(TEXT, WEIGHTS), v_init=v_init).model
        result = SpikingSession(snn).run(X[:10], 4, readout=[1])
        for layer, shares in found["curves"][name].items():
            expected = [100 * np.mean(result.readouts[t].spike_counts[layer] > 0) for t in (1, 4)]
            assert shares == pytest.approx(expected)


def test_fig_4_calibrates_on_training_images(here):
    """RMP and RNL take their thresholds from the data set's training images."""
    for prefix in ("train", "t10k"):
        images = RNG.integers(0, 256, (20, 6, 6), dtype=np.uint8)
        labels = (np.arange(20) % 3).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (here / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())
    command = ["reproduce", "fig4", "--ann", "ann.onnx", "--dataset", "fashion-mnist", "--json"]
    result = CliRunner().invoke(main, [*command, "--data-root", ".", "-T", "4"])
    assert result.exit_code == 0, result.output
    assert list(json.loads(result.stdout)["curves"]) == [
        "RMP, zero", "RMP, half", "RNL, zero", "RNL, half",
    ]  # fmt: skip


def test_a_kill_loses_one_batch_at_most(here, monkeypatch):
    from onnx2snn.measuring import reproduction

    expected = reproduce("fig2", "-T", "2,4", "--json", "--state", "whole.json")
    run, left = reproduction.SpikingSession.run, 0

    class KilledError(Exception):
        pass

    runs = []

    def counted(self, x, *arguments):
        if len(runs) >= left:
            raise KilledError
        runs.append(len(x))
        return run(self, x, *arguments)

    monkeypatch.setattr(reproduction.SpikingSession, "run", counted)
    while True:
        left += 7
        result = CliRunner().invoke(
            main,
            ["reproduce", "fig2", "--ann", "ann.onnx", "--dataset", "d.npz", "-T", "2,4",
             "--batch-size", "7", "--json"],
        )  # fmt: skip
        if result.exit_code == 0:
            break
        assert isinstance(result.exception, KilledError)
    found = json.loads(result.stdout)
    assert found == expected
    # Four curves of five batches each: none was run twice.
    assert len(runs) == 20


def test_state_of_another_network_is_not_taken(here):
    reproduce("fig2", "-T", "2", "--json")
    before = len(json.loads((here / "reproduce.json").read_text())["cells"])
    write_model(model(TEXT, {**WEIGHTS, "v": -WEIGHTS["v"]}), "ann.onnx")
    reproduce("fig2", "-T", "2", "--json")
    assert len(json.loads((here / "reproduce.json").read_text())["cells"]) == 2 * before


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"format": "other", "cells": {}}',
        '{"format": "onnx2snn reproduce 1", "cells": []}',
        '{"format": "onnx2snn reproduce 1", "cells": {"a": {"sums": {}}}}',
    ],
)
def test_a_file_that_holds_no_state(here, content):
    (here / "reproduce.json").write_text(content)
    assert "move it away" in reproduce("table1", code=1)
    assert (here / "reproduce.json").read_text() == content


def test_what_is_known_beforehand_is_said_beforehand(here):
    assert "nowhere" in reproduce("table1", "--state", "nowhere/state.json", code=1)
    result = CliRunner().invoke(main, ["reproduce", "table1", "--dataset", "d.npz"])
    assert result.exit_code == 1
    assert "--ann" in result.output
    np.savez("d.npz", x=X)
    assert "no labels" in reproduce("table1", code=1)


def test_a_network_without_clips(here):
    write_model(model(TEXT.replace("Clip(d, zero, one)", "Relu(d)"), WEIGHTS), "ann.onnx")
    text = " ".join(reproduce("table1", "-T", "2", code=1).split())
    assert "take a network trained with clips" in text
    assert "Relu 'q': no upper bound" in text
    assert "--calibration" not in text


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (FileNotFoundError("there are no images"), "there are no images"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"), "batch_size of a .toml"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "batch_size of a .toml"),
    ],
)
def test_a_start_that_fails_leaves_no_folder(here, monkeypatch, raised, told):
    from onnx2snn.cli import train as cli_train

    def no_images(*_, **__):
        raise raised

    monkeypatch.setattr(cli_train, "_torch", lambda: None)
    monkeypatch.setitem(sys.modules, "onnx2snn.models.run", SimpleNamespace(run=no_images))
    before = sorted(here.iterdir())
    for command in (["reproduce", "table1"], ["train", "vgg16-cifar10", "-o", "a/b"]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 1
        assert told in result.output
        assert sorted(here.iterdir()) == before
    # One that was there stays, and so does what holds something.
    (here / "a").mkdir()
    assert CliRunner().invoke(main, ["train", "vgg16-cifar10", "-o", "a/b"]).exit_code == 1
    assert list(here.glob("a/**/*")) == []
    assert (here / "a").is_dir()


@pytest.mark.parametrize("dataset", ["./d.npz", "", "d.npz"])
def test_data_of_ones_own_needs_a_network(here, dataset):
    result = CliRunner().invoke(main, ["reproduce", "table1", "--dataset", dataset])
    assert result.exit_code == 1
    assert f"there is no run 'vgg16-{dataset}' to train a network" in result.output


def test_a_plot_does_not_take_the_place_of_the_counts(here):
    """Nor does either take that of the data."""
    for words, message in (
        (["--state", "r.png", "--plot", "r.png"], "is the state file too"),
        (["--state", "d.npz"], "is an input too"),
    ):
        assert message in reproduce("table1", "-T", "2", *words, code=1)
    assert not (here / "r.png").exists()


def test_a_network_of_a_fixed_batch_runs_in_batches_of_that(here):
    """Its ANN in whole multiples of it; its spiking network, whose batch stays, in its own."""
    fixed = model(TEXT.replace("float[N, 1, 6, 6] x", "float[1, 1, H, W] x"), WEIGHTS)
    # Flatten's one row may be of any size of image: without data nothing tells.
    write_model(fixed, "ann.onnx")
    words = "table1", "-T", "4", "--ann", "ann.onnx", "--dataset", "d.npz", "--json"
    result = CliRunner().invoke(main, ["reproduce", *words])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    report = evaluate(convert(fixed).model, from_arrays(X, Y), [4], ann=fixed)
    (ours,) = found["curves"].values()
    assert ours == pytest.approx([row["accuracy"] for row in report["snn"]])
    assert found["ann"]["accuracy"] == pytest.approx(report["ann"]["accuracy"])


def test_figure_4_calibrates_in_the_batches_that_are_asked_for(here, monkeypatch):
    seen = []

    def spy(*args, **settings):
        seen.append(settings["batch_size"])
        return convert(*args, **settings)

    monkeypatch.setattr("onnx2snn.measuring.reproduction.convert", spy)
    reproduce("fig4", "-T", "2")
    assert set(seen) == {7}
