"""Networks in ONNX: ours, and those of other programs that are an AlexNet, such as the model zoo's bvlcalexnet."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from alexnet_jax.errors import DataError, UserError
from alexnet_jax.interop.chains import Chain, Layer, agree, written
from alexnet_jax.interop.networks import Network, from_described

ABOUT = "alexnet_jax"  # the key of our own metadata
IDLE = {"Dropout", "Flatten", "Identity", "Reshape", "Softmax"}  # nothing to do for, at test time
THEN = {"Relu": "activation", "Tanh": "activation", "LRN": "lrn", "MaxPool": "pool"}


def read(path: Path) -> Network | Chain:
    """The network that we wrote, or a chain of layers. Raises UserError if it is no such network."""
    try:
        model = onnx.load_model(path, load_external_data=False)
        tensors = {of.name: numpy_helper.to_array(of) for of in model.graph.initializer}
        about = {entry.key: entry.value for entry in model.metadata_props}
    except FileNotFoundError:
        raise
    except Exception as error:  # protobuf and numpy_helper raise many kinds
        raise DataError(f"{path} is no sound ONNX file: {' '.join(str(error).split())[:200]}") from None
    if ABOUT in about:
        return from_described(tensors, about[ABOUT], path)
    return _chain(model.graph, tensors, path)


def _chain(graph: Any, tensors: dict[str, np.ndarray], path: Path) -> Chain:
    inputs = [of for of in graph.input if of.name not in tensors]
    if len(inputs) != 1:
        raise UserError(f"{path} takes {len(inputs)} inputs, not one image")
    layers: list[Layer] = []
    shape = inputs[0].type.tensor_type.shape.dim
    said: dict[str, Any] = {"image_size": shape[-1].dim_value if shape else 0}
    if not said["image_size"]:
        raise UserError(f"{path} does not say how large its images are; export it with a fixed height and width")
    there = inputs[0].name
    for node in graph.node:
        if node.op_type == "Constant":
            tensors[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            continue
        place = 1 if node.op_type in ("MatMul", "Add") and node.input[0] in tensors else 0
        if node.input[place] != there:
            raise UserError(f"{path} is no row of layers: {node.op_type} {node.name} takes {node.input[place]}")
        there = node.output[0]
        with_ = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        arrays = [tensors[name] for name in node.input if name in tensors]
        _take(node, with_, arrays, layers, said, path)
    return Chain(layers, said)


def _take(node: Any, with_: dict, arrays: list, layers: list[Layer], said: dict, path: Path) -> None:
    """One node more: a layer, or what follows the one before."""
    kind, name = node.op_type, node.name or node.output[0]
    if with_.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise UserError(f"{path}: {name} pads by auto_pad; export it with pads written out")
    if kind == "Conv":
        bias = arrays[1] if len(arrays) > 1 else np.zeros(len(arrays[0]), np.float32)
        layers.append(Layer(name, arrays[0], bias, _conv(with_, path, name) | {"then": []}))
    elif kind in ("Gemm", "MatMul"):
        weight = arrays[0] if kind == "Gemm" and with_.get("transB", 0) else arrays[0].T
        bias = arrays[1].reshape(-1) if len(arrays) > 1 else np.zeros(len(weight), np.float32)
        if with_.get("alpha", 1.0) != 1 or with_.get("beta", 1.0) != 1:
            raise UserError(f"{path}: {name} scales its product; that cannot run here")
        layers.append(Layer(name, weight, bias, {"then": []}))
    elif kind == "Add" and layers and layers[-1].weight.ndim == 2:
        layers[-1] = layers[-1]._replace(bias=layers[-1].bias + arrays[0].reshape(-1))
    elif kind in THEN and layers:
        assert layers[-1].settings is not None
        layers[-1].settings["then"].append(THEN[kind])
        agree(said, _model(kind, with_, path), f"{path}: {name}")
    elif kind not in IDLE:
        raise UserError(f"{path} has {kind} ({name}), which is in no AlexNet that runs here")


def _conv(with_: dict, path: Path, name: str) -> dict:
    top, left, bottom, right = with_.get("pads", [0, 0, 0, 0])
    strides, dilations = with_.get("strides", [1, 1]), with_.get("dilations", [1, 1])
    if (top, bottom) != (left, right) or strides[0] != strides[1] or set(dilations) != {1}:
        raise UserError(f"{path}: {name} treats height and width differently, or is dilated; that cannot run here")
    return {"stride": strides[0], "padding": [top, bottom]}


def _model(kind: str, with_: dict, path: Path) -> dict[str, Any]:
    """What a node says of the whole network, as keys of layers.Model."""
    if kind in ("Relu", "Tanh"):
        return {"activation": kind.lower()}
    if kind == "LRN":
        size = with_["size"]  # its alpha is of the mean over the window; over all channels, whatever the groups
        alpha, beta, k = (written(with_.get(*of)) for of in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
        return {"lrn": {"k": k, "n": size, "alpha": alpha / size, "beta": beta, "across_towers": True}}
    window, stride = with_["kernel_shape"], with_.get("strides", [1, 1])
    top, left, bottom, right = with_.get("pads", [0, 0, 0, 0])
    # As Caffe rounds up: a last window over the edge, by zeros behind it that no maximum takes.
    rounds = bool(with_.get("ceil_mode", 0)) or bottom > 0
    other = len({*window}) > 1 or len({*stride}) > 1 or {*with_.get("dilations", [1])} != {1}
    if top or left or bottom != right or bottom >= stride[0] or other:
        raise UserError(f"{path}: pooling {window} with pads {[top, left, bottom, right]} cannot run here")
    return {"pool": {"window": window[0], "stride": stride[0], "ceil": rounds}}
