"""Import from ONNX: our own exports, and other programs' AlexNets, such as the model zoo's bvlcalexnet."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from alexnet_jax.errors import DataError, UserError
from alexnet_jax.inference.network import Network
from alexnet_jax.interop.foreign import ForeignLayer, ForeignNetwork, lrn
from alexnet_jax.interop.networks import METADATA, from_tensors

IGNORED = {"Dropout", "Flatten", "Identity", "Reshape", "Softmax"}  # without effect at test time
OPERATIONS = {"Relu": "activation", "Tanh": "activation", "LRN": "lrn", "MaxPool": "pool"}
LRN_DEFAULTS = (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))  # the bias is k


def read(path: Path) -> Network | ForeignNetwork:
    """Read an ONNX file. Raises UserError if it is not an AlexNet, DataError if it is damaged."""
    try:
        model = onnx.load_model(path, load_external_data=False)
        tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        metadata = {entry.key: entry.value for entry in model.metadata_props}
    except FileNotFoundError:
        raise
    except Exception as error:  # protobuf and numpy_helper raise many types
        raise DataError(f"{path} is not a valid ONNX file: {' '.join(str(error).split())[:200]}") from None
    if METADATA in metadata:
        return from_tensors(tensors, metadata[METADATA], path)
    return _foreign(model.graph, tensors, path)


def _foreign(graph: Any, tensors: dict[str, np.ndarray], path: Path) -> ForeignNetwork:
    """The graph's layers, which must form one sequence."""
    inputs = [value for value in graph.input if value.name not in tensors]
    if len(inputs) != 1:
        raise UserError(f"{path} has {len(inputs)} inputs, not one image")
    shape = inputs[0].type.tensor_type.shape.dim
    if not shape or not shape[-1].dim_value:
        raise UserError(f"{path} does not state its image size; export it with a fixed height and width")
    network = ForeignNetwork(path, [], {"image_size": shape[-1].dim_value})
    previous = inputs[0].name
    for node in graph.node:
        if node.op_type == "Constant":
            tensors[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            continue
        position = 1 if node.op_type in ("MatMul", "Add") and node.input[0] in tensors else 0
        if node.input[position] != previous:
            raise UserError(
                f"{path} is not a sequence of layers: {node.op_type} {node.name} takes {node.input[position]}, not the "
                f"output {previous} of the layer before it"
            )
        previous = node.output[0]
        _append(network, node, [tensors[name] for name in node.input if name in tensors])
    return network


def _append(network: ForeignNetwork, node: Any, arrays: list[np.ndarray]) -> None:
    """Append a node to the network: as a layer, or as an operation that follows the last one."""
    kind, name, layers = node.op_type, node.name or node.output[0], network.layers
    where = f"{network.path}: {name}"
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise UserError(f"{where} uses auto_pad; export it with explicit pads")
    if kind in ("Conv", "Gemm", "MatMul"):
        if attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1:
            raise UserError(f"{where} scales its product, which is not supported")
        weight = arrays[0] if kind == "Conv" or attributes.get("transB", 0) else arrays[0].T
        bias = arrays[1].reshape(-1) if len(arrays) > 1 else np.zeros(len(weight), np.float32)
        settings = _settings(kind, attributes, where) if kind == "Conv" else {}
        layers.append(ForeignLayer(name, weight, bias, settings | {"then": []}))
    elif kind == "Add" and layers and layers[-1].weight.ndim == 2:
        layers[-1] = layers[-1]._replace(bias=layers[-1].bias + arrays[0].reshape(-1))
    elif kind in OPERATIONS and layers:
        network.follow(OPERATIONS[kind], _settings(kind, attributes, where), name)
    elif kind not in IGNORED:
        raise UserError(f"{where} is of type {kind}, which is not supported")


def _settings(kind: str, attributes: dict[str, Any], where: str) -> dict[str, Any]:
    """The settings of a convolution (keys of model_config.Conv) or of an operation (keys of model_config.Model)."""
    if kind in ("Relu", "Tanh"):
        return {"activation": kind.lower()}
    if kind == "LRN":
        return lrn(attributes["size"], *(attributes.get(*default) for default in LRN_DEFAULTS))
    top, left, bottom, right = pads = attributes.get("pads", [0, 0, 0, 0])
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    irregular = (top, bottom) != (left, right) or len({*strides}) > 1 or {*dilations} != {1}
    if kind == "Conv":
        if irregular:
            raise UserError(f"{where} treats height and width differently, or is dilated, which is not supported")
        return {"stride": strides[0], "padding": (top, bottom)}
    window = attributes["kernel_shape"]
    # Padding at the end alone is how Caffe's rounding up is written: a maximum never takes padding.
    ceil = bool(attributes.get("ceil_mode", 0)) or bottom > 0
    if irregular or len({*window}) > 1 or top or bottom >= strides[0]:
        raise UserError(f"{where} pools over {window} with pads {pads}, which is not supported")
    return {"pool": {"window": window[0], "stride": strides[0], "ceil": ceil}}
