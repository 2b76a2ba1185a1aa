"""What to do about operators between spikes that are not affine in them: texts for a user."""

from .operators import APPROXIMABLE, INTEGER_LAYERS, MAX_POOLS, NORMALIZATIONS, RECURRENT

_MAX_POOL = (
    "the largest spike is not the largest rate: replace max-pooling by average pooling "
    "(--maxpool average, pass max_to_average_pool) or by one that counts (--maxpool exact, "
    "pass max_to_spiking_pool)"
)
_NORMALISES = (
    "it divides by the activity of other neurons, which is a product of activations: train the "
    "network with batch normalization in its place"
)
APPROXIMATE = (
    "not linear in the spikes: train the network with ReLU or a clip in its place, or let "
    "clips approximate it (convert --approximate N)"
)
NO_CURVE = (
    "not linear in the spikes, and no function of one number that is the same everywhere, which "
    "clips could approximate: train the network with ReLU or a clip in its place"
)
IN_TRAINING = (
    "it is in training mode, where it takes its mean and variance from the batch: export the "
    "network in evaluation mode"
)
QUANTISED = "part of a quantized layer: convert the network as it was before quantization"
PRODUCT = (
    "the product of two activations is not linear in the spikes: train the network without it, as "
    "without gates or squeeze-and-excitation"
)
NO_ACTIVATION = (
    "not linear in the spikes, and no clip or ReLU that could become a neuron: train the "
    "network with ReLU or a clip in its place"
)
ATTENTION = (
    "attention of a form that is not known here (keys of other runs, a soft cap, windows, rotary "
    "positions, scores that are read)"
)
GUARD = (
    "a guard of what is before it, as of a Softmax: what helps there helps here, too; where "
    "nothing there needs one, leave it out"
)
BEFORE_OPTIMISER = "convert the file as it was before ONNX Runtime's optimiser"
_SEPARATE = "export it as separate operators, as PyTorch does with opset 22 or older"
SCALES = (
    "it rounds activations with a scale for each channel: train or quantise the network with one "
    "for each layer, or export it before quantization"
)
ADVICE = {
    **dict.fromkeys(MAX_POOLS, _MAX_POOL),
    "LRN": "local response normalization: " + _NORMALISES,
    **dict.fromkeys(NORMALIZATIONS, _NORMALISES),
    **dict.fromkeys(
        ("Softmax", "LogSoftmax", "Hardmax"),
        "not linear in the spikes: between neurons there is no spiking form of it (as the "
        "read-out, after the last neuron, it may stay: average_before_read_out is its pass)",
    ),
    **dict.fromkeys(
        ("ArgMax", "ArgMin", "NonZero", "OneHot", "TopK", "Unique"),
        "what is picked or sorted by size is not linear in the spikes: train the network without "
        "it (behind the last neuron it may stay, in the read-out)",
    ),
    **dict.fromkeys(
        ("ReduceLogSum", "ReduceLogSumExp", "ReduceProd"),
        "not linear in the spikes: train the network without it (behind the last neuron it may "
        "stay, in the read-out)",
    ),
    **dict.fromkeys(
        ("ReduceL1", "ReduceL2", "ReduceSumSquare"),
        "the norm of activations is not linear in the spikes: train the network without it, or cut "
        "it off before (behind the last layer of weights it may stay, in the read-out)",
    ),
    **dict.fromkeys(APPROXIMABLE, APPROXIMATE),
    **dict.fromkeys(
        ("ReduceMax", "ReduceMin"),
        "the largest spike is not the largest rate: only maxima over axes of known sizes, beside "
        "that of the samples and at least one other, of windows (MaxPool) and of two tensors (Max) "
        "are known here, so write it as one of these",
    ),
    "Clip": "not linear in the spikes: its bounds must be constants, the lower below the upper",
    **dict.fromkeys(("IsNaN", "IsInf"), GUARD),
    "Attention": f"{ATTENTION}: {_SEPARATE}",
    **dict.fromkeys(INTEGER_LAYERS, QUANTISED),
    **dict.fromkeys(
        ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
        "it rounds activations: export the network before quantization, or fold the "
        "quantization of activations away",
    ),
    **dict.fromkeys(
        ("If", "Loop", "Scan"),
        "control flow over spikes cannot be a spiking network: export the network without it",
    ),
    **dict.fromkeys(
        RECURRENT,
        "recurrent layers keep states of their own, most behind gates, which are products of "
        "activations: train the network without them (an RNN with ReLU may be exported unrolled, "
        "as a loop over the sequence in Python)",
    ),
}  # fmt: skip
"""By operator: what to say of each that is not affine, whatever it reads."""
