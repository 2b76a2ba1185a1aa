"""What a run takes: arrays by name, samples, and when it is read out."""

import numpy as np
import pytest
from onnx_text import model

from onnx2snn import DataError, SpikingSession, convert
from onnx2snn.runtime.inputs import as_input, by_input_name, readout_times, samples_in

CLIP = "net (float[N, 3] input) => (float[N, 3] y) { a = Clip(input, zero, one) y = Neg(a) }"
BOUNDS = {"zero": np.float32(0), "one": np.float32(1)}


def test_an_input_that_is_named_comes_before_x():
    session = SpikingSession(convert(model(CLIP, BOUNDS)).model)
    x = np.full((2, 3), 0.25, np.float32)
    output = session.run({"input": x, "x": 3 * x}, 4).output
    np.testing.assert_array_equal(output, session.run(x, 4).output)


def test_an_input_x_needs_no_hint_to_call_it_so():
    session = SpikingSession(convert(model(CLIP.replace("input", "x"), BOUNDS)).model)
    with pytest.raises(DataError, match=r"given were other$"):
        session.run({"other": np.ones((2, 3), np.float32)}, 4)


def test_of_several_inputs_the_one_that_is_no_array_is_named():
    x = np.ones((2, 3), np.float32)
    with pytest.raises(DataError, match=r"^b is no array"):
        by_input_name({"a": x, "b": None}, ["a", "b"], "the network")


def test_an_array_of_objects_is_told_by_its_type():
    session = SpikingSession(convert(model(CLIP, BOUNDS)).model)
    with pytest.raises(DataError, match="has type object, the network needs float32"):
        session.run(np.ones((2, 3), object), 4)


def test_how_many_samples_there_are():
    session = SpikingSession(convert(model(CLIP, BOUNDS)).model)
    x = np.ones((2, 3), np.float32)
    assert session.run(x, 4).samples == session.run(np.stack([x] * 4), 4).samples == 2
    assert samples_in({"x": np.float32(3)}) == 1


def test_the_first_number_that_is_not_finite_is_named():
    x = np.ones((2, 3), np.float32)
    x[0, 2] = x[1, 1] = np.nan
    with pytest.raises(DataError, match=r"first at \[0, 2\]"):
        as_input(x, ("N", 3), np.dtype(np.float32))


@pytest.mark.parametrize(
    ("shape", "hint"),
    [([1, 6, 8], ": reshape it"), ([2, 8, 6, 1], ": transpose it"), ([2, 1, 6, 7], "")],
)
def test_what_makes_an_array_fit_is_told(shape, hint):
    said = rf"needs \[\*, 1, 6, 8\]{hint}$"
    with pytest.raises(DataError, match=said):
        as_input(np.ones(shape, np.float32), ("N", 1, 6, 8), np.dtype(np.float32))


def test_images_for_a_flat_input_are_not_taken_for_samples_over_time():
    flat = CLIP.replace("3]", "6]")
    session = SpikingSession(convert(model(flat, BOUNDS)).model)
    x = np.ones((4, 2, 3), np.float32)
    for give in (lambda: session.run(x, 4), lambda: session.run(x, 2), lambda: session.step(x)):
        with pytest.raises(DataError, match=r"has shape \[4, 2, 3\].* needs .* 6\]: reshape it$"):
            give()
    assert session.run(np.ones((4, 1, 6), np.float32), 4).samples == 1


def test_a_sample_over_time_with_its_channels_last_is_not_to_be_reshaped():
    session = SpikingSession(convert(model(CLIP.replace("3]", "3, 4, 4]"), BOUNDS)).model)
    with pytest.raises(DataError, match=r"the network needs \[5, \*, 3, 4, 4\]$"):
        session.run(np.ones((5, 1, 4, 4, 3), np.float32), 5)


def test_one_of_several_read_outs_beyond_the_run_is_refused():
    with pytest.raises(DataError, match="cannot read out at time-step 9 of 8"):
        readout_times(8, [4, 9])
