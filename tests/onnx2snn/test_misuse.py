"""What is no model, no data or no path, wherever one is given, is refused in words."""

import re
from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import dyadic
import numpy as np
import pytest

from onnx2snn import (
    DataError,
    EarlyExit,
    ModelError,
    OutputError,
    ProviderError,
    SpikingSession,
    check,
    convert,
    correct,
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
from onnx2snn.graph_passes import (
    bound_activations,
    change_neurons,
    initial_potential_of,
    threshold_of,
    to_graph,
    to_model,
)
from onnx2snn.measuring.comparison import compare_recipes
from onnx2snn.measuring.early_exits import early_exits

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


def weights_of(asked):
    return replace(OPI[0], passes=(partial(correct, weights=asked),))


def test_what_is_no_choice_and_no_number():
    for run in (lambda it: check(ANN, maxpool=it), lambda it: convert(ANN, maxpool=it)):
        for given in ("typo", 3, ["average"]):
            with pytest.raises(DataError, match="maxpool must be one of average, exact, keep, not"):
                run(given)
    for run in (
        lambda: convert(ANN, calibration=DATA, approximate=65),
        lambda: compare_recipes(ANN, OPI, None, DATA, [2], approximate=65),
    ):
        with pytest.raises(DataError, match="approximate must be a whole number from 1 to 64"):
            run()
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
    for asked in (
        lambda: to_loop(SNN, 4, rates="no"),
        lambda: to_triton(SNN, "repository", 4, force="no"),
        lambda: open_data("data.npz", train="no"),
        lambda: convert(ANN, calibration=DATA, recipe=weights_of("no")),
    ):
        with pytest.raises(DataError, match="must be True or False, not 'no'"):
            asked()
    with pytest.raises(DataError, match="report must be a function"):
        compare_recipes(ANN, ["opi"], None, DATA, [2], report=5)


def test_whole_numbers_of_numpy_are_such():
    """They have a largest one, beyond which sums of them begin anew."""
    small, session = np.uint8(3), SpikingSession(SNN)
    for options in ({"each_step": True}, {"unroll": True}):
        assert to_loop(SNN, np.int8(3), **options) == to_loop(SNN, 3, **options)
    assert len(to_loop(SNN, np.uint8(255), unroll=True).graph.output) == len(session.outputs)
    rule = EarlyExit(0.1, stable=np.uint8(2), every=np.uint8(4))
    found = session.run(X, np.uint8(250), early_exit=rule)
    wanted = session.run(X, 250, early_exit=EarlyExit(0.1, stable=2, every=4))
    np.testing.assert_array_equal(found.sample_timesteps, wanted.sample_timesteps)
    assert found.firing_rate == wanted.firing_rate
    assert type(found.timesteps) is int
    assert evaluate(SNN, DATA, [2], batch_size=small) == evaluate(SNN, DATA, [2], batch_size=3)
    assert session.chosen(X, readouts=small) == session.chosen(X, readouts=3)
    a, b = (convert(ANN, calibration=DATA, timesteps=t).model for t in (np.int8(16), 16))
    assert a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True)


def test_what_is_no_graph_and_no_provider():
    with pytest.raises(DataError, match="to_model makes one of it again: this is of type NoneType"):
        to_model(None)
    graph = to_graph(SNN)
    with pytest.raises(ModelError, match=r"there is no neuron \['IF'\]"):
        change_neurons(graph, ["IF"])
    with pytest.raises(DataError, match="a mapping of names to V_th"):
        bound_activations(to_graph(ANN), ["r"])
    other = next(node for node in graph.nodes if node.op != "IF")
    for of_neuron in (threshold_of, initial_potential_of):
        with pytest.raises(DataError, match=f"not {other.op} '{other.name}'"):
            of_neuron(other)
        with pytest.raises(DataError, match="not NoneType"):
            of_neuron(None)
    with pytest.raises(ProviderError, match="a provider is a name"):
        convert(ANN, providers=5)


def test_too_little_memory(monkeypatch):
    session = SpikingSession(SNN)
    wanted = session.run(X, 5).output
    with monkeypatch.context() as patched:
        patched.setattr("onnx2snn.runtime.session.checked_inputs", Mock(side_effect=MemoryError))
        for run in (lambda: session.run(X, 5), lambda: session.step(X), lambda: session.chosen(X)):
            with pytest.raises(DataError, match="out of memory"):
                run()
    np.testing.assert_array_equal(session.run(X, 5).output, wanted)


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
