"""Convert trained ONNX networks into spiking neural networks, and run them.

from onnx2snn import SpikingSession, convert, open_data, write_model

conversion = convert("ann.onnx", calibration=open_data("calibration.npz"))
write_model(conversion.model, "snn.onnx")
result = SpikingSession("snn.onnx").run(images, timesteps=32)
"""

from onnx2snn.graph_passes import (
    DataError,
    MissingThresholdError,
    ModelError,
    Onnx2SnnError,
    OutputError,
    PassError,
    ProviderError,
    Refusal,
    UnsupportedModelError,
    read_model,
    write_model,
)
from onnx2snn.runtime import EarlyExit, ReadOut, SpikingResult, SpikingSession

from .converting.checking import Agreement
from .converting.conversion import Conversion, NeuronReport, convert
from .converting.readiness import NodeReport, Readiness, check
from .converting.statistics import Statistic, parse_statistic
from .data.files import open_data
from .data.samples import Data, from_arrays
from .exports.from_nir import from_nir
from .exports.loop import to_loop
from .exports.nir import to_nir
from .exports.triton import to_triton
from .measuring.comparison import Comparison, compare_recipes
from .measuring.diagnosis import LayerDiagnosis, diagnose
from .measuring.evaluation import evaluate
from .recipe import Neuron, Recipe
from .recipes import RECIPES, recipe_by_name
from .spiking_passes import correct
from .spiking_passes.spiking import Spiking
from .version import __version__

__all__ = [
    "RECIPES",
    "Agreement",
    "Comparison",
    "Conversion",
    "Data",
    "DataError",
    "EarlyExit",
    "LayerDiagnosis",
    "MissingThresholdError",
    "ModelError",
    "Neuron",
    "NeuronReport",
    "NodeReport",
    "Onnx2SnnError",
    "OutputError",
    "PassError",
    "ProviderError",
    "ReadOut",
    "Readiness",
    "Recipe",
    "Refusal",
    "Spiking",
    "SpikingResult",
    "SpikingSession",
    "Statistic",
    "UnsupportedModelError",
    "__version__",
    "check",
    "compare_recipes",
    "convert",
    "correct",
    "diagnose",
    "evaluate",
    "from_arrays",
    "from_nir",
    "open_data",
    "parse_statistic",
    "read_model",
    "recipe_by_name",
    "to_loop",
    "to_nir",
    "to_triton",
    "write_model",
]
