"""Import of Caffe's .caffemodel files, in the formats from before and since 2015.

Caffe itself is not needed: protocol buffers identify fields by number, and those of caffe.proto that occur in an
AlexNet are listed here.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from alexnet_jax.errors import DataError, UserError, reading
from alexnet_jax.interop.foreign import ForeignLayer, ForeignNetwork, lrn

# The part of caffe.proto that is needed; fields that are not repeated are optional.
SCHEMA = """
message BlobShape { repeated int64 dim = 1 [packed]; }
message BlobProto {
  int32 num = 1; int32 channels = 2; int32 height = 3; int32 width = 4;
  repeated float data = 5 [packed]; BlobShape shape = 7;
}
message ConvolutionParameter {
  uint32 num_output = 1; uint32 group = 5 [default = 1];
  repeated uint32 pad = 3; repeated uint32 kernel_size = 4; repeated uint32 stride = 6; repeated uint32 dilation = 18;
  uint32 pad_h = 9; uint32 stride_h = 13;
}
message PoolingParameter {
  int32 pool = 1; uint32 kernel_size = 2; uint32 stride = 3 [default = 1]; uint32 pad = 4;
}
message LRNParameter {
  uint32 local_size = 1 [default = 5]; float alpha = 2 [default = 1]; float beta = 3 [default = 0.75];
  int32 norm_region = 4; float k = 5 [default = 1];
}
message InputParameter { repeated BlobShape shape = 1; }
message LayerParameter {
  string name = 1; string type = 2; repeated BlobProto blobs = 7; ConvolutionParameter convolution_param = 106;
  LRNParameter lrn_param = 118; PoolingParameter pooling_param = 121; InputParameter input_param = 143;
}
message V1LayerParameter {
  string name = 4; int32 type = 5; repeated BlobProto blobs = 6; ConvolutionParameter convolution_param = 10;
  LRNParameter lrn_param = 18; PoolingParameter pooling_param = 19;
}
message NetParameter {
  string name = 1;
  repeated V1LayerParameter layers = 2; repeated LayerParameter layer = 100;
  repeated int32 input_dim = 4; repeated BlobShape input_shape = 8;
}
"""
FIELD = r"(repeated )?(\w+) (\w+) = (\d+)(?: \[(packed)?(?:default = ([\d.]+))?\])?;"
# Layer types by their numbers before 2015, and by their names since.
TYPES: dict[int | str, str] = {4: "Convolution", 14: "InnerProduct", 15: "LRN", 17: "Pooling", 18: "ReLU", 23: "TanH"}
IGNORED = {1, 5, 6, 8, 12, 20, 21, 22} | {"Accuracy", "Data", "Dropout", "Flatten", "ImageData", "Input", "Python"}
IGNORED |= {"Softmax", "SoftmaxWithLoss", "Split"}


def _net_parameter() -> Any:
    """The class of the message NetParameter of SCHEMA."""
    descriptor = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe_alexnet.proto", package="caffe", syntax="proto2")
    for name, fields in re.findall(r"message (\w+) {(.*?)}", SCHEMA, re.DOTALL):
        described = file.message_type.add(name=name)
        for repeated, kind, key, number, packed, default in re.findall(FIELD, fields):
            label = descriptor.LABEL_REPEATED if repeated else descriptor.LABEL_OPTIONAL
            field = described.field.add(name=key, number=int(number), label=label, default_value=default or None)
            if kind[0].isupper():
                field.type, field.type_name = descriptor.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                field.type = getattr(descriptor, f"TYPE_{kind.upper()}")
            if packed:
                field.options.packed = True
    return message_factory.GetMessages([file], descriptor_pool.DescriptorPool())["caffe.NetParameter"]


NetParameter = _net_parameter()


def read(path: Path) -> ForeignNetwork:
    """Read a .caffemodel. Raises UserError if it is not an AlexNet, DataError if it is damaged."""
    with reading(f"{path} is not a .caffemodel, or is truncated"):
        net = NetParameter.FromString(path.read_bytes())
    shapes = [*net.input_shape, *(shape for layer in net.layer for shape in layer.input_param.shape)]
    dims = [*net.input_dim] or next((list(shape.dim) for shape in shapes), [])
    is_stated = len(dims) == 4 and dims[-1]  # in few files
    network = ForeignNetwork(path, [], {"image_size": dims[-1]} if is_stated else {}, [])
    if net.name:
        network.notes.append(f"it calls itself {net.name}")
    for layer in [*net.layers, *net.layer]:
        _append(network, layer)
    if not network.layers:
        raise UserError(f"{path} holds no layers with weights; give the .caffemodel, not the .prototxt")
    return network


def _append(network: ForeignNetwork, layer: Any) -> None:
    """Append a layer to the network, or the operation that it is to the last one."""
    kind, where = TYPES.get(layer.type, layer.type), f"{network.path}: {layer.name}"
    match kind:
        case "Convolution":
            conv = layer.convolution_param
            if any(factor != 1 for factor in conv.dilation):
                raise UserError(f"{where} is dilated, which is not supported")
            padding, stride = [*conv.pad, conv.pad_h][0], [*conv.stride, conv.stride_h or 1][0]
            settings = {"stride": stride, "padding": (padding, padding), "then": ()}
            network.layers.append(ForeignLayer(layer.name, *_weights(layer, 4, where), settings))
        case "InnerProduct":
            network.layers.append(ForeignLayer(layer.name, *_weights(layer, 2, where), {"then": ()}))
        case "ReLU" | "TanH":
            network.follow("activation", kind.lower(), where)
        case "LRN":
            norm = layer.lrn_param
            if norm.norm_region:
                raise UserError(f"{where} normalizes within each map, which is not supported")
            network.follow("lrn", lrn(norm.local_size, norm.alpha, norm.beta, norm.k), where)
        case "Pooling":
            pool = layer.pooling_param
            if pool.pool or pool.pad:
                raise UserError(f"{where} is not max-pooling without padding, which alone is supported")
            # Caffe always rounds up.
            network.follow("pool", {"window": pool.kernel_size, "stride": pool.stride, "ceil": True}, where)
        case _ if kind not in IGNORED:
            raise UserError(f"{where} is of type {kind}, which is not supported")


def _weights(layer: Any, ndim: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The weight, with `ndim` axes, and the bias."""
    if not layer.blobs:
        raise UserError(f"{where} has no weights; give the .caffemodel, not the .prototxt")
    arrays = []
    for blob in layer.blobs:
        shape = list(blob.shape.dim) or [blob.num, blob.channels, blob.height, blob.width]
        if np.prod(shape, dtype=np.int64) != len(blob.data):
            raise DataError(f"{where} is damaged: it holds {len(blob.data):,} numbers for the shape {shape}")
        arrays.append(np.array(blob.data, np.float32).reshape(shape))
    weight = arrays[0].reshape(arrays[0].shape[-ndim:])
    return weight, arrays[1].reshape(-1) if len(arrays) > 1 else np.zeros(len(weight), np.float32)
