"""The forms in which layers with weights are computed."""
