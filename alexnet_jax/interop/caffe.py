"""Caffe's .caffemodel files, of both ages: what a network's layers are, and their weights.

Caffe itself is not needed: a protocol buffer names its fields by numbers, and below are those of caffe.proto that
an AlexNet has.
"""

from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from alexnet_jax.errors import DataError, UserError
from alexnet_jax.interop.chains import Chain, Layer, agree, written

# message: field -> (number, type, default if it is not zero).
FIELDS: dict[str, dict[str, tuple]] = {
    "BlobShape": {"dim": (1, "packed int64")},
    "BlobProto": {
        **{name: (number, "int32") for number, name in enumerate(("num", "channels", "height", "width"), start=1)},
        "data": (5, "packed float"),
        "shape": (7, "BlobShape"),
    },
    "ConvolutionParameter": {
        "num_output": (1, "uint32"),
        "pad": (3, "repeated uint32"),
        "kernel_size": (4, "repeated uint32"),
        "group": (5, "uint32", "1"),
        "stride": (6, "repeated uint32"),
        "pad_h": (9, "uint32"),
        "kernel_h": (11, "uint32"),
        "stride_h": (13, "uint32"),
        "dilation": (18, "repeated uint32"),
    },
    "PoolingParameter": {
        "pool": (1, "int32"),
        "kernel_size": (2, "uint32"),
        "stride": (3, "uint32", "1"),
        "pad": (4, "uint32"),
    },
    "LRNParameter": {
        "local_size": (1, "uint32", "5"),
        "alpha": (2, "float", "1"),
        "beta": (3, "float", "0.75"),
        "norm_region": (4, "int32"),
        "k": (5, "float", "1"),
    },
    "InputParameter": {"shape": (1, "repeated BlobShape")},
    "LayerParameter": {
        "name": (1, "string"),
        "type": (2, "string"),
        "blobs": (7, "repeated BlobProto"),
        "convolution_param": (106, "ConvolutionParameter"),
        "lrn_param": (118, "LRNParameter"),
        "pooling_param": (121, "PoolingParameter"),
        "input_param": (143, "InputParameter"),
    },
    "V1LayerParameter": {
        "name": (4, "string"),
        "type": (5, "int32"),
        "blobs": (6, "repeated BlobProto"),
        "convolution_param": (10, "ConvolutionParameter"),
        "lrn_param": (18, "LRNParameter"),
        "pooling_param": (19, "PoolingParameter"),
    },
    "NetParameter": {
        "layers": (2, "repeated V1LayerParameter"),
        "input_dim": (4, "repeated int32"),
        "input_shape": (8, "repeated BlobShape"),
        "layer": (100, "repeated LayerParameter"),
    },
}
# Kinds of layers by their numbers before 2015, and by their names since.
KINDS = {4: "Convolution", 14: "InnerProduct", 15: "LRN", 17: "Pooling", 18: "ReLU", 23: "TanH"}
IDLE = {1, 5, 6, 12, 20, 21, 22} | {"Accuracy", "Data", "Dropout", "ImageData", "Input", "Softmax", "SoftmaxWithLoss"}
IDLE |= {"Split", "Flatten", "Python", 8}
THEN = {"ReLU": "activation", "TanH": "activation", "LRN": "lrn", "Pooling": "pool"}


def _messages() -> dict[str, Any]:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe_alexnet.proto", package="caffe", syntax="proto2")
    for name, fields in FIELDS.items():
        made = file.message_type.add(name=name)
        for key, (number, kind, *default) in fields.items():
            *how, of = kind.split()
            label = field.LABEL_REPEATED if how else field.LABEL_OPTIONAL
            one = made.field.add(name=key, number=number, label=label)
            if of in FIELDS:
                one.type, one.type_name = field.TYPE_MESSAGE, f".caffe.{of}"
            else:
                one.type = getattr(field, f"TYPE_{of.upper()}")
            if how == ["packed"]:
                one.options.packed = True
            if default:
                one.default_value = default[0]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in FIELDS}


MESSAGES = _messages()


def read(path: Path, image_size: int) -> Chain:
    """The chain of a .caffemodel; of images of `image_size` if it does not say itself, as most do not."""
    net = MESSAGES["NetParameter"]()
    try:
        net.ParseFromString(path.read_bytes())
    except message.DecodeError:
        raise DataError(f"{path} is no .caffemodel, or is cut short") from None
    layers: list[Layer] = []
    said: dict[str, Any] = {"image_size": _size(net) or image_size}
    for one in [*net.layers, *net.layer]:
        kind = KINDS.get(one.type, one.type) if isinstance(one.type, int) else one.type
        if kind == "Convolution":
            layers.append(Layer(one.name, *_blobs(one, 4, path), _conv(one, path) | {"then": []}))
        elif kind == "InnerProduct":
            layers.append(Layer(one.name, *_blobs(one, 2, path), {"then": []}))
        elif kind in THEN and layers:
            assert layers[-1].settings is not None
            layers[-1].settings["then"].append(THEN[kind])
            agree(said, _model(kind, one, path), f"{path}: {one.name}")
        elif kind not in IDLE:
            raise UserError(f"{path} has {kind} ({one.name}), which is in no AlexNet that runs here")
    if not layers:
        raise UserError(f"{path} holds no layers with weights; is it a .caffemodel?")
    return Chain(layers, said)


def _size(net: Any) -> int:
    shapes = [*net.input_shape, *(shape for one in net.layer for shape in one.input_param.shape)]
    dims = [*net.input_dim] or next((list(shape.dim) for shape in shapes), [])
    return dims[-1] if len(dims) == 4 else 0


def _blobs(one: Any, ndim: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not one.blobs:
        raise UserError(f"{path}: {one.name} has no weights; a .prototxt has none, a .caffemodel has")
    arrays = []
    for blob in one.blobs:
        shape = list(blob.shape.dim) or [blob.num, blob.channels, blob.height, blob.width]
        if np.prod(shape, dtype=np.int64) != len(blob.data):
            raise DataError(f"{path} is damaged: {one.name} holds {len(blob.data):,} numbers for the shape {shape}")
        arrays.append(np.array(blob.data, np.float32).reshape(shape))
    weight = arrays[0].reshape(arrays[0].shape[-ndim:])
    bias = arrays[1].reshape(-1) if len(arrays) > 1 else np.zeros(len(weight), np.float32)
    return weight, bias


def _conv(one: Any, path: Path) -> dict[str, Any]:
    said = one.convolution_param
    if any(factor != 1 for factor in said.dilation):
        raise UserError(f"{path}: {one.name} is dilated; that cannot run here")
    padding = (list(said.pad) or [said.pad_h])[0]
    return {"stride": (list(said.stride) or [said.stride_h or 1])[0], "padding": [padding, padding]}


def _model(kind: str, one: Any, path: Path) -> dict[str, Any]:
    if kind == "LRN":
        lrn = one.lrn_param
        if lrn.norm_region:
            raise UserError(f"{path}: {one.name} normalizes within each map; that cannot run here")
        n, k, beta = lrn.local_size, written(lrn.k), written(lrn.beta)
        return {"lrn": {"k": k, "n": n, "alpha": written(lrn.alpha) / n, "beta": beta, "across_towers": True}}
    if kind == "Pooling":
        pool = one.pooling_param
        if pool.pool or pool.pad:
            raise UserError(f"{path}: {one.name} is no max-pooling without padding; that cannot run here")
        return {"pool": {"window": pool.kernel_size, "stride": pool.stride, "ceil": True}}  # Caffe always rounds up
    return {"activation": {"ReLU": "relu", "TanH": "tanh"}[kind]}
