"""Families of operators, by what they are to a network and its spikes."""

from typing import Literal

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The operators whose second input is a layer's weights."""

INTEGER_LAYERS = (
    "ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger",
    "MatMulIntegerToFloat", "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat",
    "QLinearConv", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMatMul", "QLinearMul",
    "QLinearSigmoid", "QLinearSoftmax",
)  # fmt: skip
"""Layers of whole numbers, of which ``dequantize_layers`` makes layers of numbers."""

SHAPE_OPS = {"Shape", "Size"}
"""Their output depends on the shape of the input only."""

APPROXIMABLE = (
    "Celu", "Cos", "Elu", "Erf", "Exp", "Gelu", "HardSwish", "Log", "Mish", "Pow", "Reciprocal",
    "Selu", "Sigmoid", "Sin", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh",
)  # fmt: skip
"""Scalar activations that a sum of clips can stand in for."""

BENDS = {
    "Celu", "Elu", "Erf", "Gelu", "HardSwish", "Mish", "Selu", "Sigmoid", "Softplus", "Softsign",
    "Swish", "Tanh",
}  # fmt: skip
"""Those of them that are activations wherever they are: no norm is made of these."""

MAX_POOLS = ("MaxPool", "GlobalMaxPool")

MaxPool = Literal["average", "exact", "keep"]
"""What becomes of max-pooling between neurons."""

SPIKING_POOLS = {f"Spiking{op}": op for op in MAX_POOLS}
"""The pools that count spikes, and how each pools."""

NORMALIZATIONS = (
    "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization",
    "MeanVarianceNormalization", "RMSNormalization",
)  # fmt: skip

LAYER_NORMALIZATION = 17
"""The opset since which ONNX has it."""

ATTENTIONS = ("Attention", "MultiHeadAttention")

RECURRENT = ("GRU", "LSTM", "RNN")

ACTIVATIONS = {
    *BENDS - {"Erf"}, "Abs", "Clip", "Exp", "HardSigmoid", "LeakyRelu", "PRelu", "Relu", "Softmax",
    "ThresholdedRelu",
}  # fmt: skip
"""The operators that networks have between their layers, whatever becomes of them.

Not Erf, a part of some: alone it may be of what an input is normalised by.
"""

CANONICAL_ACTIVATIONS = ("Relu", "Clip", "Min")
"""The last operators of activations in canonical form."""
