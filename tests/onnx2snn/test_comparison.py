"""Recipes side by side, interrupted and taken up again."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx_text import model

from onnx2snn import DataError, ModelError, OutputError, convert, evaluate, from_arrays
from onnx2snn.cli import compare as cli_compare
from onnx2snn.cli import main
from onnx2snn.cli.plot import comparison_plot
from onnx2snn.cli.tables import comparison_reasons, comparison_table
from onnx2snn.digests import digest_of_data
from onnx2snn.measuring import comparison
from onnx2snn.measuring.comparison import compare_recipes
from onnx2snn.measuring.comparison_state import state_file
from onnx2snn.measuring.kept_results import KeptFile
from onnx2snn.recipes import RECIPES, recipe_by_name
from onnx2snn.spiking_passes.searching import search_potentials

RNG = np.random.default_rng(0)
TEXT = (
    "net (float[N, 1, 6, 6] x) => (float[N, 3] y) { c = Conv(x, w) r = Relu(c) "
    "p = MaxPool<kernel_shape = [2, 2]>(r) d = Conv(p, u) q = Relu(d) "
    "g = GlobalAveragePool(q) f = Flatten(g) y = MatMul(f, v) }"
)
WEIGHTS = {
    "w": RNG.normal(size=(4, 1, 3, 3)).astype(np.float32),
    "u": RNG.normal(size=(4, 4, 2, 2)).astype(np.float32),
    "v": RNG.normal(size=(4, 3)).astype(np.float32),
}
ANN = model(TEXT, WEIGHTS)
X = RNG.normal(size=(60, 1, 6, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 60)
CALIBRATION, DATA = from_arrays(X[:30]), from_arrays(X[20:], Y[20:])
TIMES = [2, 4, 8]
SOME = [recipe_by_name(name) for name in ("robust-norm", "opi", "best")]
UNIT_COUNT = 1 + 1 + len(TIMES)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(ANN, "net.onnx")
    np.savez("calibration.npz", x=X[:30])
    np.savez("test.npz", x=X[20:], y=Y[20:])
    return tmp_path


def compared(recipes=SOME, times=TIMES, **options):
    given = {"model": ANN, "calibration": CALIBRATION, "data": DATA} | options
    return compare_recipes(recipes=recipes, timesteps=times, **given)


@pytest.fixture(scope="module")
def whole():
    """What some recipes come to, without an interruption."""
    return compared()


def results(found):
    return {row.recipe.name: row.scores for row in found.rows}


def test_each_cell_is_what_convert_and_evaluate_give():
    found = compared(RECIPES)
    assert found.maxpool == "exact"
    assert [row.recipe for row in found.rows] == list(RECIPES)
    for row in found.rows:
        if row.recipe.name == "tcl":
            # The network has no trained clips.
            assert set(row.reasons) == set(TIMES)
            continue
        for t in TIMES:
            snn = convert(
                ANN, calibration=CALIBRATION, recipe=row.recipe, maxpool="exact", timesteps=t
            ).model
            report = evaluate(snn, DATA, [t], ann=ANN)
            score = dataclasses.asdict(row.scores[t])
            assert score.pop("ann_accuracy") == report["ann"]["accuracy"] == found.ann
            assert score == report["snn"][0]


def test_what_became_of_max_pools_is_told():
    """Where a recipe alone would do otherwise."""
    words = (*OPTIONS, "--recipes", "opi")
    assert "convert --maxpool exact" in invoke(*words).output
    assert (
        json.loads(invoke(*words, "--maxpool", "average", "--json").stdout)["maxpool"] == "average"
    )
    assert compared(["opi"], maxpool=None).maxpool is None
    plain = model(TEXT.replace("MaxPool", "AveragePool"), WEIGHTS)
    assert compared(["opi"], model=plain).maxpool is None


def test_recipes_that_depend_on_timesteps_convert_for_each(monkeypatch):
    wanted = []

    def watched(*words, **options):
        wanted.append((options["recipe"].name, options["timesteps"]))
        return convert(*words, **options)

    monkeypatch.setattr(comparison, "convert", watched)
    compared([recipe_by_name("opi"), recipe_by_name("mmse"), recipe_by_name("best")])
    assert wanted == [("opi", None), *(("mmse", t) for t in TIMES), *(("best", t) for t in TIMES)]


class StoppedError(Exception):
    """Stands for whatever ends a process."""


def test_stopped_after_each_unit_it_goes_on_to_the_same_end(monkeypatch, whole):
    state, add = Path("state.json"), KeptFile.add

    def add_and_stop(*words):
        add(*words)
        raise StoppedError

    monkeypatch.setattr(KeptFile, "add", add_and_stop)
    for _ in range(UNIT_COUNT):
        with pytest.raises(StoppedError):
            compared(state=state)
    resumed = compared(state=state)
    assert results(resumed) == results(whole)
    assert resumed.reused == len(SOME) * len(TIMES)


def test_stopped_within_a_unit_only_that_one_is_lost(monkeypatch, whole):
    state, calls = Path("state.json"), []

    def stops(*words, **options):
        calls.append(words)
        if len(calls) == 3:
            raise StoppedError
        return evaluate(*words, **options)

    monkeypatch.setattr(comparison, "evaluate", stops)
    with pytest.raises(StoppedError):
        compared(state=state)
    resumed = compared(state=state)
    assert resumed.reused == 2 * len(TIMES)
    assert results(resumed) == results(whole)
    assert len(calls) == UNIT_COUNT + 1


def test_interrupted_it_says_how_to_go_on(monkeypatch):
    invoke(*OPTIONS, "--recipes", "opi")

    def interrupt(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_compare, "compare_recipes", interrupt)
    said = invoke(*OPTIONS, code=130).stderr
    assert "What is done is in net.compare.json: the same command goes on from there." in said


def test_killed_it_goes_on_to_the_same_table(folder):
    words = [
        "compare", "net.onnx", "--calibration", "calibration.npz", "--data", "test.npz",
        "-T", "256,512,1024,2048", "--recipes", "opi,mmse,best", "--json",
    ]  # fmt: skip
    code = "from onnx2snn.cli import main; main()"
    state = Path("net.compare.json")
    process = subprocess.Popen([sys.executable, "-c", code, *words], cwd=folder)
    limit = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = len(json.loads(state.read_bytes())["results"])
    assert 0 < kept < 3 * 4
    resumed = json.loads(CliRunner().invoke(main, words).stdout)
    assert resumed.pop("reused") == kept
    fresh = json.loads(CliRunner().invoke(main, [*words, "--state", "other.json"]).stdout)
    assert (fresh.pop("reused"), fresh.pop("state")) == (0, "other.json")
    assert resumed.pop("state") == "net.compare.json"
    assert resumed == fresh


def test_comparisons_at_once_lose_nothing(folder):
    """Each in a process of its own, with the same state file."""
    code = (
        "import sys; from onnx2snn.measuring.comparison_state import Score, state_file\n"
        "from pathlib import Path\n"
        "for i in range(40): state_file(Path('s.json')).add("
        "{f'{sys.argv[1]} {i}': {'score': vars(Score(1, None, 1.0, 1.0, 1.0, None))}})"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, n], cwd=folder) for n in "abc"]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert len(state_file(Path("s.json")).entries()) == 120


def test_only_what_was_made_from_the_same_is_reused():
    state, opi = Path("state.json"), recipe_by_name("opi")
    first = compared([opi], state=state)
    assert compared([opi], state=state, model="net.onnx").reused == len(TIMES)
    other = model(TEXT, WEIGHTS | {"v": -WEIGHTS["v"]})
    renamed = dataclasses.replace(opi, v_init=0.25)
    for change in (
        {"model": other},
        {"calibration": from_arrays(X[1:31])},
        {"calibration": from_arrays(X[:30], Y[:30])},
        {"data": from_arrays(X[20:], Y[20:][::-1])},
        {"data": from_arrays(X[20:59], Y[20:59])},
        {"batch_size": 7},
        # What is left out the conversion may choose otherwise than the evaluation.
        {"batch_size": 100},
        {"seed": 1},
        {"approximate": 4},
        {"providers": [("CPUExecutionProvider", {})]},
        {"recipes": [renamed]},
    ):
        assert compared(**{"recipes": [opi]} | change, state=state).reused == 0
    # Nothing of it drove out what was there.
    again = compared([opi], [*TIMES, 16], state=state)
    assert again.reused == len(TIMES)
    assert {t: again.rows[0].scores[t] for t in TIMES} == first.rows[0].scores


def test_a_state_that_cannot_be_written_is_refused_before_the_work():
    told = []
    with pytest.raises(OutputError, match="does not exist"):
        compared(state="no/state.json", report=lambda *words: told.append(words))
    assert not told


def test_an_ann_that_says_nan_has_no_accuracy():
    broken = model(TEXT, WEIGHTS | {"v": np.full((4, 3), np.inf, np.float32)})
    with pytest.raises(DataError, match="the ANN's output 'y' holds NaN, first at"):
        evaluate(convert(ANN, calibration=CALIBRATION).model, DATA, [2], ann=broken)


def test_another_version_reuses_nothing(monkeypatch):
    opi = [recipe_by_name("opi")]
    compared(opi, state=Path("state.json"))
    monkeypatch.setattr(comparison, "__version__", "0.0.0")
    assert compared(opi, state=Path("state.json")).reused == 0


def test_definitions_of_recipes_are_the_same_in_each_process():
    code = "from onnx2snn.recipes import RECIPES; print([r.definition() for r in RECIPES])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout.strip() == str([recipe.definition() for recipe in RECIPES])


def test_digests_of_data_depend_on_content_alone():
    two = {"a": X, "b": X[:, 0]}
    assert digest_of_data(DATA, 7) == digest_of_data(DATA, 100) is not None
    assert digest_of_data(from_arrays(two), 7) == digest_of_data(from_arrays(two), 100)
    digests = {
        digest_of_data(from_arrays(x, y), 10)
        for x, y in (
            (X, Y), (X, None), (X, 2 - Y), (X[::-1], Y), (X.reshape(60, 36), Y),
            (X.view(np.int32), Y), (two, None), ({"a": X, "c": X[:, 0]}, None),
            ({"a": X, "labels": X[:, 0]}, Y), ({"a": X, "labels": -X[:, 0]}, Y),
        )
    }  # fmt: skip
    assert len(digests) == 10
    bad = X.copy()
    bad[3, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        compared(data=from_arrays(bad), state=Path("state.json"))


VALID = {"format": "onnx2snn compare 1", "results": {}}
SCORE = {
    "timesteps": 8, "accuracy": 50.0, "agreement": 60.0, "firing_rate": 0.1, "sops": 5.0,
    "ann_accuracy": 70.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"precious",
        b"\xff\xfe\x00",
        b"[]",
        b"[" * 100_000,
        json.dumps({"results": {}}).encode(),
        json.dumps(VALID)[:-1].encode(),
        json.dumps(VALID | {"format": "onnx2snn compare 99"}).encode(),
        json.dumps(VALID | {"results": []}).encode(),
        json.dumps(VALID | {"results": {"key": 5}}).encode(),
        json.dumps(VALID | {"results": {"key": {"score": {}}}}).encode(),
        json.dumps(VALID | {"results": {"key": {"score": SCORE | {"sops": "many"}}}}).encode(),
    ],
)
def test_files_that_hold_no_state_are_left_as_they_are(content):
    Path("state.json").write_bytes(content)
    with pytest.raises(DataError, match=r"'state.json' holds no results .*--state FILE"):
        compared(state=Path("state.json"))
    assert Path("state.json").read_bytes() == content


def test_recipes_that_cannot_convert_say_why():
    clipped = TEXT.replace("Relu(c)", "Clip(c, lo, hi)").replace("Relu(d)", "Clip(d, lo, hi)")
    ann = model(clipped, WEIGHTS | {"lo": np.float32(0), "hi": np.float32(2)})
    found = compared(model=ann, calibration=None, state=Path("state.json"))
    _, opi, best = found.rows
    assert set(opi.scores) == set(best.reasons) == set(TIMES)
    assert not best.scores
    assert not opi.reasons
    assert found.values(best) == [None] * len(TIMES)
    (line,) = comparison_reasons(found)
    assert line.startswith("robust-norm, best: calibration data (--calibration DATA) is needed for")
    assert line.endswith("not from its bound (and 1 more)")
    assert "\n" not in line
    # A failure is not kept.
    again = compared(model=ann, calibration=None, state=Path("state.json"))
    assert (again.reused, again.rows[2].reasons) == (len(TIMES), best.reasons)


def starting_at(fraction):
    """A recipe whose pass is a function within a function: only what it does tells it apart."""

    def start(snn):
        return search_potentials(snn, [fraction])

    return dataclasses.replace(recipe_by_name("opi"), name="mine", passes=(start,))


def test_passes_of_ones_own_are_known_by_their_network(monkeypatch):
    state = "state.json"
    wanted = [results(compared([starting_at(f)])) for f in (0.0, 0.9)]
    assert wanted[0] != wanted[1]
    # All three have one name, and their passes another.
    assert [results(compared([starting_at(f)], state=state)) for f in (0.0, 0.9)] == wanted
    monkeypatch.setattr(comparison, "evaluate", None)
    again = [compared([starting_at(f)], state=state) for f in (0.9, 0.0)]
    assert [results(found) for found in again] == wanted[::-1]
    assert [found.reused for found in again] == [len(TIMES)] * 2


def test_numpy_values_are_numbers():
    recipe = dataclasses.replace(
        recipe_by_name("opi"),
        passes=(partial(search_potentials, fractions=np.linspace(0, 1, 3)),),
    )
    found = compared([recipe], np.array([4, 2, 4]), state="state.json")
    assert found.timesteps == (2, 4)
    again = compared([recipe], [2, np.int64(4)], state="state.json")
    assert again.reused == 2
    assert results(again) == results(found)
    for wrong in ([], [0], [4.0]):
        with pytest.raises(DataError, match="time-step"):
            compared(times=wrong)


def test_a_network_that_cannot_run_stops_no_other(monkeypatch):
    def refuse(*words, **options):
        raise ModelError("IF 'r': what no session takes")

    with monkeypatch.context() as patched:
        patched.setattr(comparison, "evaluate", refuse)
        found = compared()
    assert all(set(row.reasons) == set(TIMES) for row in found.rows)
    assert comparison_reasons(found) == ["robust-norm, opi, best: IF 'r': what no session takes"]


def test_a_read_out_that_is_not_finite_stops_no_other():
    """With V_th = 2 for both, from V_th/2 on, a current of 1.5 is a spike at once, of 2."""
    text = (
        "net (float[N, 2] x) => (float[N, 2] y) { a = Relu(x) b = MatMul(a, w) c = Sub(k, b) "
        "y = Log(c) }"
    )
    weights = {"w": np.float32([[1, 0.5], [0, 0]]), "k": np.float32(1.6)}
    data = from_arrays(np.float32([[1.5, 2]] * 3), np.zeros(3, int))
    ann, names = model(text, weights), ["pre-charged", "opi"]
    broken, whole = compared(names, [1], model=ann, calibration=data, data=data).rows
    assert "the network's output 'y' holds NaN" in broken.reasons[1]
    assert list(whole.scores) == [1]


def test_reasons_at_some_timesteps_are_told_apart(whole):
    rows = [comparison.RecipeRow(recipe, {}, {}) for recipe in SOME[:2]]
    rows[0].reasons.update({2: "too few", 4: "too few", 8: "too many"})
    rows[1].reasons.update(dict.fromkeys(TIMES, "too few"))
    lines = comparison_reasons(dataclasses.replace(whole, rows=rows))
    assert lines == [
        "robust-norm at T=2,4, opi: too few",
        "robust-norm at T=8: too many",
    ]


def test_without_labels_agreement_is_compared():
    found = compared([recipe_by_name("best")], data=from_arrays(X[20:]))
    assert (found.kind, found.ann) == ("agreement", None)
    assert found.values(found.rows[0]) == [found.rows[0].scores[t].agreement for t in TIMES]


def test_the_best_of_each_column_is_bold(whole):
    table = comparison_table(whole)
    assert [column.header for column in table.columns] == ["recipe", "T=2", "T=4", "T=8"]
    for column, t in zip(table.columns[1:], TIMES, strict=True):
        ann, *cells = column.cells
        assert ann == f"{whole.ann:.2f}"
        values = [row.scores[t].accuracy for row in whole.rows]
        assert [str(cell) for cell in cells] == [f"{value:.2f}" for value in values]
        assert [cell.style == "bold" for cell in cells] == [v == max(values) for v in values]


def test_progress_goes_to_the_end():
    told = []
    recipes = [recipe_by_name("opi"), recipe_by_name("mmse")]
    compared(recipes, batch_size=15, report=lambda *words: told.append(words))
    # 40 samples are three batches: opi runs for 8 time-steps, mmse for 2 and 4 and 8.
    total = 3 * (8 + 2 + 4 + 8)
    assert {what: done for what, done, _ in told} == {
        "opi, T=2,4,8 (1 of 4)": 24,
        "mmse, T=2 (2 of 4)": 30,
        "mmse, T=4 (3 of 4)": 42,
        "mmse, T=8 (4 of 4)": total,
    }
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert {given for _, _, given in told} == {total}


def nothing(network):
    return False


def test_what_converts_alike_is_evaluated_once(monkeypatch):
    ran = []

    def counted(snn, data, times, **options):
        ran.append(times)
        return evaluate(snn, data, times, **options)

    monkeypatch.setattr(comparison, "evaluate", counted)
    opi = recipe_by_name("opi")
    delayed = dataclasses.replace(opi, name="for-each-T", passes=(nothing,))
    half = dataclasses.replace(opi, name="other", v_init=0.25)
    found = compared([opi, delayed, half])
    assert ran == [TIMES, TIMES]
    assert found.rows[1].scores == found.rows[0].scores
    assert compared([delayed]).rows[0].scores == found.rows[0].scores


def test_no_timesteps_or_recipes():
    with pytest.raises(DataError, match="no time-steps"):
        compared(times=[])
    with pytest.raises(DataError, match="no recipes"):
        compared([])


IMAGES = "net (float[N, 1, 6, 6] x) => (float[N, 4, H, W] y) { c = Conv(x, w) y = Relu(c) }"


@pytest.mark.parametrize(
    ("ann", "labels", "text"),
    [
        (model(IMAGES, {"w": WEIGHTS["w"]}), Y, r"an output of scores \[N, classes\]"),
        (ANN, Y + 9, "the classes 0 to 2"),
    ],
)
def test_what_cannot_be_compared_is_not_converted(monkeypatch, ann, labels, text):
    monkeypatch.setattr(comparison, "convert", None)
    with pytest.raises(DataError, match=text):
        compared(model=ann, data=from_arrays(X[20:], labels[20:]))


def test_curves_of_many_recipes_look_different(monkeypatch):
    from onnx2snn.cli import plot

    drawn = []
    monkeypatch.setattr(plot, "save", lambda figure, path: drawn.append(figure))
    curves = {f"recipe {n}": [10.0 + n, None, 93.0 + n / 30] for n in range(28)}
    comparison_plot(Path("plot.png"), [4, 8, 16], curves, 94.0, 1000, "title", "accuracy (%)")
    (axes,) = drawn[0].axes
    lines = axes.get_lines()[1:]
    assert (
        len({(line.get_color(), line._linestyle + str(line._dash_pattern)) for line in lines}) == 28
    )
    assert axes.get_title() == "title"
    # In the order in which they end.
    names = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert names[2:] == list(curves)[::-1]
    # Round, and none over another.
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    assert {"20", "40", "80", "90", "93"} <= set(ticks)
    assert max(map(len, ticks)) <= 4
    # The last points are inside, and a curve a point below the ANN is not pressed against it.
    low, high = axes.get_ylim()
    assert low < 10 < 93.7 < high
    bottom, below, ann = axes.transAxes.inverted().transform(
        axes.transData.transform([(4, 10), (4, 93), (4, 94)])
    )[:, 1]
    assert 0 < bottom < below < ann - 0.1 < 1


OPTIONS = ("net.onnx", "--calibration", "calibration.npz", "--data", "test.npz", "-T", "4,2,4")


def invoke(*words, code=0):
    result = CliRunner().invoke(main, ["compare", *map(str, words)])
    assert result.exit_code == code, result.output
    return result


def test_what_is_known_is_told_where_nothing_can_be_written(monkeypatch):
    words = (*OPTIONS[:-2], "--recipes", "opi", "-T")
    before = invoke(*words, 2).stdout
    monkeypatch.setattr(os, "access", lambda path, mode, **__: not mode & os.W_OK)
    assert invoke(*words, 2).stdout == before.replace("0 of them", "1 of them")
    monkeypatch.setattr(comparison, "convert", lambda *_, **__: pytest.fail("it was begun"))
    assert "no permission to write in its folder" in invoke(*words, 4, code=1).stderr


def test_command():
    result = invoke(*OPTIONS, "--plot", "plot.png")
    for recipe in RECIPES:
        assert recipe.name in result.stdout
    assert "Accuracy in percent, 40 samples" in result.stdout
    count = 2 * (len(RECIPES) - 1)  # tcl needs trained clips.
    assert f"{count} results are kept in net.compare.json, 0 of them from before." in result.stdout
    assert Path("plot.png").read_bytes().startswith(b"\x89PNG")
    assert f"{count} of them from before" in invoke(*OPTIONS).stdout
    assert "onnx2snn compare" in invoke("--help").output


def test_command_json():
    result = invoke(*OPTIONS, "--recipes", "best, opi,best", "--json", "--state", "here.json")
    assert result.stderr == ""
    report = json.loads(result.stdout)
    assert (report["samples"], report["timesteps"], report["kind"]) == (40, [2, 4], "accuracy")
    assert [row["name"] for row in report["recipes"]] == ["best", "opi"]
    assert report["recipes"][0]["failures"] == []
    assert [row["timesteps"] for row in report["recipes"][0]["snn"]] == [2, 4]
    assert set(report["recipes"][0]["snn"][0]) == {
        "timesteps", "accuracy", "agreement", "firing_rate", "sops",
    }  # fmt: skip
    assert (report["state"], report["reused"]) == ("here.json", 0)
    assert Path("here.json").exists()
    assert not Path("net.compare.json").exists()


def test_command_without_calibration():
    result = invoke("net.onnx", "--data", "test.npz", "-T", "2", "--plot", "plot.png", code=1)
    assert "threshold-balancing" in result.stdout
    assert "--calibration" in result.stdout
    assert not Path("plot.png").exists()
    said = f"Error: none of the recipes could convert the network; {RECIPES[0].name}: "
    assert result.stderr.splitlines()[-1].startswith(said)
    report = invoke("net.onnx", "--data", "test.npz", "-T", "2", "--json", code=1)
    assert report.stderr.splitlines()[-1].startswith(said)
    assert all(row["failures"][0]["timesteps"] == 2 for row in json.loads(report.stdout)["recipes"])
    unheeded = ("--calibration-samples", "4", "--recipes", "opi")
    refused = invoke("net.onnx", "--data", "test.npz", "-T", "2", *unheeded, code=2)
    assert "--calibration-samples is for calibration data" in refused.output


def test_activations_that_only_clips_can_stand_in_for():
    onnx.save(model(TEXT.replace("q = Relu(d)", "s = Sigmoid(d) q = Relu(s)"), WEIGHTS), "net.onnx")
    names = ["--recipes", "opi,best"]
    assert "--approximate N" in invoke(*OPTIONS, *names, code=1).output
    found = json.loads(invoke(*OPTIONS, *names, "--approximate", "6", "--json").stdout)
    assert all(len(row["snn"]) == 2 for row in found["recipes"])
    unheeded = ["--data", "test.npz", "-T", "2", "--approximate", "4"]
    assert "is for calibration data" in invoke("net.onnx", *unheeded, code=2).output


def test_numbers_of_samples():
    invoke(*OPTIONS, "--recipes", "opi", "--samples", "5", "--calibration-samples", "9")
    (entry, _) = json.loads(Path("net.compare.json").read_bytes())["results"].values()
    assert (entry["made_from"]["samples"], entry["made_from"]["calibration_samples"]) == (5, 9)


def test_what_the_command_refuses():
    Path("bad.json").write_text("precious")
    found = invoke(*OPTIONS, "--recipes", "opi,bestest", code=2)
    assert "no recipe 'bestest', only" in " ".join(found.output.split())
    for words, message in (
        (["--state", "net.onnx"], "is an input too"),
        (["--state", "no/state.json"], "does not exist"),
        (["--state", "bad.json"], "--state FILE"),
        (["--plot", "plot.txt"], "use one of"),
        (["--plot", "state.png", "--state", "state.png"], "is the state file too"),
    ):
        assert message in invoke(*OPTIONS, *words, code=1).output
    assert Path("bad.json").read_text() == "precious"
    assert "no such file" in invoke("none.onnx", *OPTIONS[1:], code=1).output.lower()
    assert {path.suffix for path in Path().iterdir()} == {".onnx", ".npz", ".json"}


def test_what_becomes_of_max_pools_counts(folder):
    opi = [recipe_by_name("opi")]
    exact = compared(opi, state="state.json")
    average = compared(opi, state="state.json", maxpool="average")
    assert average.reused == 0
    assert results(average) != results(exact)


def test_labels_of_later_batches_are_classes_too(monkeypatch):
    monkeypatch.setattr(comparison, "convert", None)
    labels = Y[20:].copy()
    labels[-1] = 9
    with pytest.raises(DataError, match="the classes 0 to 2"):
        compared(["opi"], data=from_arrays(X[20:], labels), batch_size=10)


def test_progress_goes_to_the_end_behind_what_cannot_convert():
    told = []
    compared(["tcl", "opi"], batch_size=15, report=lambda *words: told.append(words))
    assert told[-1][1:] == (2 * 3 * 8, 2 * 3 * 8)


def test_a_seed_below_0_is_refused():
    with pytest.raises(DataError, match="seed must be a whole number"):
        compared(["opi"], seed=-1)


@pytest.mark.parametrize("change", [{"agreement": None}, {"sops": True}])
def test_a_score_that_lacks_a_number_is_no_result(folder, change):
    score = {"timesteps": 8, "accuracy": 50.0, "agreement": 60.0, "firing_rate": 0.1, "sops": 5.0,
             "ann_accuracy": 70.0}  # fmt: skip
    content = {"format": "onnx2snn compare 1", "results": {"key": {"score": score | change}}}
    Path("state.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="holds no results"):
        state_file(Path("state.json")).entries()


def test_calibration_data_that_is_not_finite_is_refused_without_a_file_too():
    broken = X.copy()
    broken[3, 0, 2, 2] = np.nan
    with pytest.raises(DataError, match="holds NaN"):
        compare_recipes(ANN, ["mmse"], from_arrays(broken), from_arrays(X, Y), [4])


def test_data_that_is_not_finite_is_no_recipe_s_failure():
    broken = X.copy()
    broken[-1, 0, 2, 2] = np.nan
    with pytest.raises(DataError, match="holds NaN"):
        compared(["opi"], data=from_arrays(broken, Y), batch_size=10)


def test_settings_that_are_none_are_refused_before_any_recipe():
    with pytest.raises(DataError, match="maxpool must be"):
        compare_recipes(ANN, ["mmse"], from_arrays(X), from_arrays(X, Y), [4], maxpool="foo")
    with pytest.raises(DataError, match="on_means must be"):
        compare_recipes(ANN, ["mmse"], from_arrays(X), from_arrays(X, Y), [4], on_means="yes")


def test_curves_look_the_same_beside_recipes_that_refused(monkeypatch):
    from onnx2snn.cli import plot

    drawn = []
    monkeypatch.setattr(plot, "save", lambda figure, path: drawn.append(figure))
    curves = {"first": [50.0, 60.0], "refused": [None, None], "last": [70.0, 80.0]}
    comparison_plot(Path("plot.png"), [4, 8], curves, 94.0, 1000, "title", "accuracy (%)")
    (axes,) = drawn[0].axes
    assert [line.get_label() for line in axes.get_lines()[1:]] == ["first", "last"]
    assert axes.get_lines()[2].get_color() == plot.COLOURS[2]
    names = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert names[2:] == ["last", "first"]
