"""Tables on terminals of any width, and progress on them."""

import io
import re
import sys

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from onnx2snn import EarlyExit
from onnx2snn.cli import main, tables, terminal
from onnx2snn.cli.conversion_tables import neuron_table, pass_table, readiness_table
from onnx2snn.cli.terminal import new_table
from onnx2snn.converting.conversion import NeuronReport
from onnx2snn.converting.readiness import NodeReport
from onnx2snn.graph_passes import PassReport
from onnx2snn.measuring.diagnosis import LayerDiagnosis


def printed(table, width=60):
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    return file.getvalue()


def shown(width):
    table = new_table("title", "layer", ">neurons", ">quantisation %", ">rate")
    table.add_row("a_long_name_of_a_layer", "12544", "[bold]25.31[/]", "0.1297")
    return printed(table, width)


@pytest.mark.parametrize("width", [30, 40, 50, 80])
def test_numbers_are_never_cut(width):
    text = shown(width)
    assert max(map(len, text.splitlines())) <= width
    for number in ("12544", "25.31", "0.1297"):
        assert number in text
    assert "…" not in text


def test_names_stay_where_there_is_no_room():
    """And numbers take several lines, of which no digit is lost."""
    table = new_table("title", "layer", *(f">number {n}" for n in range(9)))
    table.add_row("Relu_1", *["0.9812"] * 9)
    text = printed(table, 48)
    assert max(map(len, text.splitlines())) <= 48
    first = [line[1:6].split(" ")[0] for line in text.splitlines()]
    assert "Relu_1" in "".join(first)
    assert "…" not in text
    assert text.count("9") >= 9


def test_titles_and_captions_take_the_whole_line():
    table = new_table("a title that is longer than its table", "layer")
    table.caption = "a caption that is longer than its table"
    table.add_row("a")
    lines = printed(table).splitlines()
    assert (lines[0].rstrip(), lines[-1].rstrip()) == (table.title, table.caption)


def test_heads_are_whole_where_there_is_room():
    assert "quantisation %" in shown(80)
    assert "a_long_name_of_a_layer" in shown(80)


def test_heads_break_between_words_first():
    """Within them where there is no other way."""
    table = new_table("title", "layer", ">accuracy %", ">same class as ANN %", "reason")
    name = "/features/features.0/relu/Relu_output_0_long"
    table.add_row(name, "94.12", "93.81", "what takes more than one line, " * 4)
    lines = printed(table).splitlines()
    assert max(map(len, lines)) <= 60
    assert sum("accuracy" in line for line in lines) == 1
    assert "accuracy" not in shown(20)


def test_names_fold_before_heads_break_within_words():
    layer = LayerDiagnosis(
        12, "/layer1/layer1.0/relu_12", 50176, *[12.1] * 5, 0.1234, 33.1, 1.2, 0.9
    )
    lines = printed(tables.diagnosis_table([layer], "8 samples"), 80).splitlines()
    assert max(map(len, lines)) <= 80
    for head in ("neurons", "quant.", "uneven", "silent"):
        assert any(head in line for line in lines[:5])


def test_heads_take_the_room_there_is():
    report = {
        "samples": 200, "macs": 4e5, "macs_before_neurons": 1e5, "ann": {"accuracy": 90.5},
        "snn": [{"timesteps": 16, "accuracy": 91.0, "agreement": 98.5, "firing_rate": 0.1234,
                 "sops": 1.23e6}],
    }  # fmt: skip
    assert "accuracy % same class as ANN % firing rate" in printed(
        tables.evaluation_table(report), 80
    )
    lines = printed(tables.evaluation_table(report), 70).splitlines()
    assert max(map(len, lines)) <= 70
    assert sum("firing rate" in line for line in lines) == 1
    assert sum(bool(re.search("same|class", line)) for line in lines) == 1


def test_agreement_is_shown_beside_an_ann_alone():
    shares = {"accuracy": 91.0, "agreement": None}
    rule = {"confidence": 0.85, "stable": 3, "every": 4, "mean_timesteps": 9.0}
    report = {
        "samples": 200, "macs": 4e5, "macs_before_neurons": 1e5, "ann": None, "earliest": 4,
        "snn": [{"timesteps": 16, **shares, "firing_rate": 0.1, "sops": 1.2e6}],
        "early_exit": [{**rule, **shares, "as_accurate_as": 16}],
    }  # fmt: skip
    for table in (tables.evaluation_table, tables.early_exit_table):
        assert "same class" not in printed(table(report), 120)
        for row in (*report["snn"], *report["early_exit"]):
            row["agreement"] = 98.25
        shown = printed(table(report | {"ann": {"accuracy": 90.5}}), 120)
        assert "same class as ANN %" in shown
        assert "98.25" in shown


@pytest.mark.parametrize(("confidence", "said"), [(EarlyExit.confidence, True), (0.5, False)])
def test_the_default_rule_is_told(confidence, said):
    row = {"accuracy": 88.2, "agreement": 90.0, "mean_timesteps": 9.0, "as_accurate_as": 8}
    row |= {"confidence": confidence, "stable": EarlyExit.stable, "every": EarlyExit.every}
    report = {"samples": 5, "ann": None, "earliest": 4, "snn": [{"timesteps": 64, **row}],
              "early_exit": [row]}  # fmt: skip
    (line,) = (
        line
        for line in printed(tables.early_exit_table(report), 200).splitlines()
        if "stable" in line
    )
    assert ("default" in line) is said


@pytest.mark.parametrize(("mean", "said"), [(14.2, True), (7.9, False), (8.0, True)])
def test_early_exits_that_do_not_pay_are_told(mean, said):
    row = {"accuracy": 88.2, "agreement": 90.0}
    rule = {"confidence": 0.85, "stable": 3, "every": 4}
    report = {
        "samples": 500, "ann": None, "earliest": 4, "snn": [{"timesteps": 64, **row}],
        "early_exit": [{**rule, **row, "mean_timesteps": mean, "as_accurate_as": 8}],
    }  # fmt: skip
    text = tables.early_exit_caption(report)
    assert ("No rule pays here" in text) == said
    assert text in " ".join(printed(tables.early_exit_table(report), 200).split())


@pytest.mark.parametrize(
    ("earliest", "mean", "said"),
    [
        (12, 40.0, "; none may leave before T=12."),
        (12, 64.0, "the same at 3 looks in a row, and the softmax high enough at the "
         "last of them."),
        (None, 64.0, "; T=64 is too short for any to leave."),
    ],
)  # fmt: skip
def test_when_samples_leave_is_told(earliest, mean, said):
    rule = {"confidence": 0.85, "stable": 3, "every": 4, "mean_timesteps": mean}
    report = {
        "earliest": earliest, "snn": [{"timesteps": 64}],
        "early_exit": [{**rule, "as_accurate_as": None}],
    }  # fmt: skip
    assert tables.early_exit_caption(report).endswith(said)


@pytest.mark.parametrize(
    ("columns", "wide"), [("80", 80), ("0", 120), ("wide", 120), ("²", 120), (None, 120)]
)
def test_tables_that_go_to_no_terminal(monkeypatch, columns, wide):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert terminal.console().width == wide


@pytest.mark.parametrize(
    ("sources", "in_rows"), [(["clip's bound"] * 2, False), (["clip's bound", "[b]data"], True)]
)
def test_what_all_thresholds_are_from_is_said_once(sources, in_rows):
    neurons = [NeuronReport(f"n{i}", (2,), np.ones(()), source) for i, source in enumerate(sources)]
    lines = printed(neuron_table(neurons)).splitlines()
    assert sum("threshold from" in line for line in lines) == 1
    for neuron in neurons:
        (row,) = (line for line in lines if neuron.name in line.split())
        assert (neuron.source in row) == in_rows
    if not in_rows:
        assert lines[-1].rstrip() == "threshold from: clip's bound"


def test_passes_that_changed_nothing_are_counted():
    idle = [PassReport(name, False, 7, 7) for name in ("fold_constants", "remove_no_ops")]
    text = printed(pass_table([PassReport("fold_pads", True, 9, 7), *idle]))
    assert "fold_pads" in text
    assert not any(report.name in text for report in idle)
    assert text.splitlines()[-1].strip() == "2 more changed nothing."
    assert "more" not in printed(pass_table([PassReport("fold_pads", True, 9, 7)]))


def test_nodes_that_are_alike_are_one_row():
    nodes = [NodeReport(f"relu{i}", "Relu", "neuron", "threshold from data") for i in range(4)]
    nodes.insert(1, NodeReport("s", "Softmax", "obstacle", "not linear"))
    nodes.append(NodeReport("t", "Softmax", "obstacle", "not linear"))
    lines = printed(readiness_table(nodes), 100).splitlines()
    (relus,) = (line for line in lines if "Relu" in line)
    assert relus.split()[0] == "4"
    assert "relu0, relu1 and 2 more" in relus
    (others,) = (line for line in lines if "Softmax" in line)
    assert "s, t" in others
    assert "--json lists each node" in "".join(lines)
    assert "--json" not in printed(readiness_table(nodes[:2]), 100)


def test_what_an_encoding_lacks_is_escaped(monkeypatch):
    """As in Python's own C locale, without UTF-8 mode."""
    written = io.BytesIO()
    stdout = io.TextIOWrapper(written, encoding="ascii", errors="surrogateescape")
    monkeypatch.setattr("sys.stdout", stdout)
    main(["recipes"], standalone_mode=False)
    print("a … of caf\udcc3\udca9", flush=True)
    assert written.getvalue().endswith(b"a \\u2026 of caf\xc3\xa9\n")


def test_one_work_after_another_has_a_bar_of_its_own(monkeypatch):
    bars = []

    def kept(*columns, **settings):
        bars.append(Progress(*columns, **settings))
        return bars[0]

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(terminal, "Progress", kept)
    with terminal.overall_progress("loading") as report:
        (task,) = bars[0].tasks
        assert (task.description, task.visible, task.total) == ("loading", True, None)
        for done in range(4):
            report("first", done, 3)
        assert task.finished
        assert not task.visible
        # As many of them, of which no time is known yet.
        report("second", 0, 3)
        assert task.visible
        assert not task.finished
        assert task.time_remaining is None
        report("second", 1, 3)
        report("second", 2, 3)
        assert task.time_remaining is not None
        # Of one part no share is known.
        report("third", 0, 1)
        assert (task.total, task.visible) == (None, True)
        report("third", 1, 1)
        assert not task.visible


def test_texts_share_the_room_there_is():
    table = new_table("title", ">nodes", "layer", "role", "why")
    table.add_row("12544", *["a reason that takes several words"] * 3)
    text = printed(table, 44)
    assert 40 <= max(map(len, text.splitlines())) <= 44
    assert "12544" in text
    assert "reason" in text
