"""What a file holds, in words."""

import json

from onnx import TensorProto, helper

from onnx2snn.cli.inspect import lines_of_tensors, settings_in_words
from onnx2snn.inspection import export_of


def test_settings():
    found = settings_in_words(
        {
            "timesteps": None, "delay": 0, "per_channel": True, "passes": ["a", "b"],
            "corrections": [{"pass": "correct", "weights": True}], "notes": [], "more": {},
            "neuron": {"op": "SignedIF", "negative": 0.0, "max_spikes": 5},
        }
    )  # fmt: skip
    assert found == [
        "delay: 0", "per_channel: yes", "passes: a, b", "corrections: pass correct weights yes",
        "notes: none", "more: none", "neuron: SignedIF, negative 0.0",
    ]  # fmt: skip


def test_neurons_of_other_files():
    """Metadata may hold anything."""
    for value, said in (
        ({"op": "IF", "negative": -1.0}, "IF"),
        ({"op": "BurstIF", "max_spikes": 5}, "BurstIF, max_spikes 5"),
        ({"op": ["IF"]}, "op IF"),
        ({"op": "BurstIF"}, "BurstIF"),
        ("IF", "IF"),
        ([None], "none"),
    ):
        assert settings_in_words({"neuron": value}) == [f"neuron: {said}"]


def test_sizes_without_a_name():
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, "T", 4]) for name in "xy"
    ]
    node = helper.make_node("Identity", ["x"], ["y"])
    model = helper.make_model(helper.make_graph([node], "net", tensors[:1], tensors[1:]))
    helper.set_model_props(model, {"onnx2snn.export": json.dumps({"format": "loop"})})
    told = export_of(model)
    assert told["inputs"] == [{"name": "x", "shape": ["?", "T", 4]}]
    lines = lines_of_tensors(told["inputs"], told["outputs"])
    assert lines == ["input x [?, T, 4]", "output y [?, T, 4]"]
