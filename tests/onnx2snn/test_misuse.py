"""What is no model, no data or no path, wherever one is given, is refused in words."""

import re

import dyadic
import numpy as np
import pytest

from onnx2snn import (
    DataError,
    ModelError,
    OutputError,
    SpikingSession,
    check,
    convert,
    diagnose,
    evaluate,
    from_arrays,
    from_nir,
    open_data,
    read_model,
    recipe_by_name,
    to_loop,
    to_nir,
    to_triton,
    write_model,
)
from onnx2snn.comparison import compare_recipes
from onnx2snn.early_exits import early_exits

NETWORK = dyadic.finish(2)
ANN = dyadic.to_onnx(NETWORK)
CONVERSION = convert(ANN)
SNN = CONVERSION.model
X = dyadic.images(NETWORK, 3)
DATA = from_arrays(X)
OPI = [recipe_by_name("opi")]

TAKE_A_MODEL = (
    SpikingSession,
    convert,
    check,
    lambda it: to_loop(it, 4),
    lambda it: evaluate(it, DATA, [2]),
    lambda it: early_exits(it, DATA, [2]),
    lambda it: diagnose(it, ANN, DATA, 2),
    lambda it: diagnose(SNN, it, DATA, 2),
    lambda it: compare_recipes(it, OPI, None, DATA, [2]),
)


@pytest.mark.parametrize("given", [None, 3, b"snn.onnx", [SNN], SNN.graph, CONVERSION])
def test_what_is_no_model(given):
    text = f"a file's path or an onnx.ModelProto (of a Conversion, its .model), not {kind(given)}"
    for function in TAKE_A_MODEL:
        with pytest.raises(ModelError, match=re.escape(text)):
            function(given)


def kind(given):
    return type(given).__name__


@pytest.mark.parametrize("given", [None, 3, SNN.graph, CONVERSION])
def test_what_is_no_model_is_not_written(tmp_path, given):
    with pytest.raises(ModelError, match=rf"an onnx\.ModelProto .*, not {kind(given)}"):
        write_model(given, tmp_path / "snn.onnx")
    assert not list(tmp_path.iterdir())


def test_exports_take_parts():
    assert to_loop(CONVERSION.parts, 4) == to_loop(SNN, 4)


@pytest.mark.parametrize("given", [X, None, "data.npz"])
def test_what_is_no_data(given):
    for run in (
        lambda: evaluate(SNN, given, [2]),
        lambda: early_exits(SNN, given, [2]),
        lambda: diagnose(SNN, ANN, given, 2),
        lambda: compare_recipes(ANN, OPI, None, given, [2]),
    ):
        with pytest.raises(DataError, match=r"data must be a Data: from_arrays\(x\)"):
            run()
    with pytest.raises(DataError, match="calibration must be a Data"):
        compare_recipes(ANN, OPI, X, DATA, [2])


@pytest.mark.parametrize("given", ["opi", OPI[0], None])
def test_what_are_no_recipes(given):
    with pytest.raises(DataError, match=r"recipes are several, as in \['opi', 'best'\], not"):
        compare_recipes(ANN, given, None, DATA, [2])


@pytest.mark.parametrize("given", [4, np.array(4), None])
def test_what_is_no_list_of_time_steps(given):
    for run in (
        lambda: evaluate(SNN, DATA, given),
        lambda: early_exits(SNN, DATA, given),
        lambda: compare_recipes(ANN, OPI, None, DATA, given),
    ):
        with pytest.raises(DataError, match=r"timesteps takes a list of time-steps, as \[8, 16\]"):
            run()
    with pytest.raises(DataError, match="a time-step must be a whole number"):
        evaluate(SNN, DATA, ["a", 2])


def test_what_is_no_choice_and_no_number():
    for run in (lambda it: check(ANN, maxpool=it), lambda it: convert(ANN, maxpool=it)):
        for given in ("typo", 3, ["average"]):
            with pytest.raises(DataError, match="maxpool must be one of average, exact, keep, not"):
                run(given)
    with pytest.raises(DataError, match="timesteps must be a whole number"):
        to_triton(SNN, "repository", None)
    with pytest.raises(OutputError, match="5 is no name for a model of Triton"):
        to_triton(SNN, "repository", 4, name=5)
    for export in (
        lambda: to_loop(SNN, 4, preprocessing=5),
        lambda: to_nir(SNN, "n.nir", preprocessing=5),
    ):
        with pytest.raises(DataError, match="preprocessing is a text, not 5"):
            export()
    with pytest.raises(DataError, match="report must be a function"):
        compare_recipes(ANN, ["opi"], None, DATA, [2], report=5)


@pytest.mark.parametrize(
    ("run", "error"),
    [
        (read_model, ModelError),
        (from_nir, ModelError),
        (open_data, DataError),
        (lambda it: open_data("data.npz", it), DataError),
        (lambda it: write_model(SNN, it), OutputError),
        (lambda it: to_nir(SNN, it), OutputError),
        (lambda it: to_triton(SNN, it, 4), OutputError),
        (lambda it: compare_recipes(ANN, OPI, None, DATA, [2], state=it), OutputError),
    ],
)
def test_what_is_no_path(run, error):
    with pytest.raises(error, match=r"path.*, not int"):
        run(3)
