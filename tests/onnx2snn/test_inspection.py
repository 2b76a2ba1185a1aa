"""What a file holds, in words."""

from onnx2snn.inspection import settings_in_words


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
