"""Bring models of old opsets to one that can hold neurons, right where onnx's converter errs."""

import onnx
import onnx.version_converter

from .errors import ModelError
from .files import first_line
from .limits import all_nodes
from .neurons import MIN_OPSET


def convert_opset(structure: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A model of an old opset in ``neurons.MIN_OPSET``.

    Raises ``ModelError`` if onnx's version converter cannot do it.
    """
    # The first IR versions want every initializer to be an input as well.
    structure.ir_version = max(structure.ir_version, 8)
    try:
        converted = onnx.version_converter.convert_version(structure, MIN_OPSET)
    except Exception as error:  # The converter raises RuntimeError and types of its own.
        raise ModelError(
            f"the model's opset {opset} cannot be brought to {MIN_OPSET}: "
            f"{first_line(error)}; export it again with opset {MIN_OPSET} or newer"
        ) from error
    for node in all_nodes(converted.graph.node) if opset < 11 else ():
        # The converter forgets how Upsample, and Resize as it was, place their samples.
        if node.op_type == "Resize":
            for name, value in (
                ("coordinate_transformation_mode", "asymmetric"),
                ("nearest_mode", "floor"),
            ):
                if all(attribute.name != name for attribute in node.attribute):
                    node.attribute.append(onnx.helper.make_attribute(name, value))
    return converted
