"""Export to ONNX; import of these files and of other programs' AlexNets, such as the model zoo's bvlcalexnet.

An exported program starts from stored pixels, so that running it takes no knowledge of preprocessing:

image          [batch, size, size, 3] uint8, RGB, as `alexnet prepare` stores it
logits         [batch, classes] float32
probabilities  [batch, classes] float32
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alexnet_jax.errors import UserError, reading
from alexnet_jax.inference.network import Network
from alexnet_jax.interop import networks
from alexnet_jax.interop.foreign import ForeignLayer, ForeignNetwork, lrn
from alexnet_jax.interop.networks import MEAN, METADATA, from_tensors, to_tensors
from alexnet_jax.model_config import Conv, Model

OPSET = 26
IGNORED = {"Dropout", "Flatten", "Identity", "Reshape", "Softmax"}  # without effect at test time


class Graph:
    """Nodes in sequence: each takes the output of the one before, or of `after`. The first takes the image."""

    def __init__(self, tensors: dict[str, np.ndarray]):
        self.nodes: list[Any] = []
        self.tensors = dict(tensors)
        self.last = "image"

    def add(self, kind: str, *others: str, after: str = "", output: str = "", **attributes: Any) -> str:
        inputs = [after or self.last, *others]
        self.last = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [self.last], name=self.last, **attributes))
        return self.last

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"constant_{len(self.tensors)}"
        self.tensors[name] = np.asarray(value, dtype)
        return name

    def call(self, name: str) -> str:
        """Give the last output, which no node takes yet, another name."""
        node = self.nodes[-1]
        node.name = node.output[0] = self.last = name
        return name

    def program(self, inputs: list[Any], outputs: list[Any], opset: int = OPSET, **options: Any) -> Any:
        """The checked ONNX model; `inputs` and `outputs` are those of `value`, and `options` of `helper.make_model`."""
        tensors = [numpy_helper.from_array(array, name) for name, array in self.tensors.items()]
        graph = helper.make_graph(self.nodes, "alexnet", inputs, outputs, tensors)
        options["opset_imports"] = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, producer_name=METADATA, **options)
        onnx.checker.check_model(model, full_check=True)
        return model


def value(name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> Any:
    """The description of an input or output [batch, *shape]."""
    return helper.make_tensor_value_info(name, kind, ["batch", *shape])


def write(path: Path, network: Network) -> None:
    """Write the network. Raises UserError if ONNX has no operator for one of its layers."""
    tensors, metadata = to_tensors(network)
    spec, size = network.config.model, network.config.data.size
    graph, groups = Graph(tensors), networks.groups(spec)
    image = add_input(graph, spec, size)
    for name, conv in spec.convs():
        parameters = f"{name}.weight", f"{name}.bias"
        graph.add("Conv", *parameters, output=name, group=groups[name], **conv_attributes(conv))
        for operation in conv.then:
            add_operation(graph, spec, conv, operation)
    graph.add("Flatten", axis=1)
    for name, dense in spec.hidden():
        graph.add("Gemm", f"{name}.weight", f"{name}.bias", output=name, transB=1)
        graph.add(spec.activation.capitalize())
        if dense.dropout and spec.dropout_scaling == "test":
            graph.add("Mul", graph.constant(1 - spec.dropout_rate))
    graph.add("Gemm", "fc8.weight", "fc8.bias", output="logits", transB=1)
    graph.add("Softmax", output="probabilities", axis=1)
    model = graph.program([image], [value(name, spec.num_classes) for name in ("logits", "probabilities")])
    helper.set_model_props(model, {METADATA: metadata})
    path.write_bytes(model.SerializeToString())


def add_input(graph: Graph, spec: Model, size: int) -> Any:
    """The input, stored pixels, of which the network sees the centre crop without the mean; and what makes that."""
    graph.add("Cast", to=TensorProto.FLOAT)
    graph.add("Sub", MEAN)  # before the crop: for the centre, augment.mean_crop makes no difference
    start = (size - spec.image_size) // 2
    edges = [graph.constant([edge, edge], np.int64) for edge in (start, start + spec.image_size)]
    graph.add("Slice", *edges, graph.constant([1, 2], np.int64))
    graph.add("Transpose", perm=[0, 3, 1, 2])
    return value("image", size, size, 3, kind=TensorProto.UINT8)


def conv_attributes(conv: Conv) -> dict[str, Any]:
    return {"strides": [conv.stride] * 2, "pads": [edge for edge in conv.padding for _ in range(2)]}


def add_operation(graph: Graph, spec: Model, conv: Conv, operation: str) -> None:
    """One of the operations that follow a convolution."""
    lrn, norm = spec.lrn, spec.map_norm
    if operation == "activation":
        graph.add(spec.activation.capitalize())
    elif operation == "pool":
        window, stride = [spec.pool.window] * 2, [spec.pool.stride] * 2
        graph.add("MaxPool", kernel_shape=window, strides=stride, ceil_mode=int(spec.pool.ceil))
    elif operation == "lrn":
        if separate := spec.towers > 1 and not lrn.across_towers:  # towers become examples
            graph.add("Reshape", graph.constant([-1, conv.features // spec.towers, 0, 0], np.int64))
        graph.add("LRN", size=lrn.n, alpha=lrn.alpha * lrn.n, beta=lrn.beta, bias=lrn.k)
        if separate:
            graph.add("Reshape", graph.constant([-1, conv.features, 0, 0], np.int64))
    else:
        source, pads = graph.last, [norm.n // 2] * 4
        graph.add("Mul", source)
        graph.add("AveragePool", kernel_shape=[norm.n] * 2, pads=pads, strides=[1, 1], count_include_pad=1)
        graph.add("Mul", graph.constant(norm.alpha * norm.n**2))
        graph.add("Add", graph.constant(1.0))
        graph.add("Div", graph.add("Pow", graph.constant(norm.beta)), after=source)


def read(path: Path) -> Network | ForeignNetwork:
    """Read an ONNX file. Raises UserError if it is not an AlexNet, DataError if it is damaged."""
    with reading(f"{path} is not a valid ONNX file"):
        model = onnx.load_model(path)  # with weights in files of their own, if they lie in the same folder
        tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        metadata = {entry.key: entry.value for entry in model.metadata_props}
    if METADATA in metadata:
        return from_tensors(tensors, metadata[METADATA], path)
    if quantized := sorted(
        {node.op_type for node in model.graph.node if "Quantize" in node.op_type or "Integer" in node.op_type}
    ):
        raise UserError(
            f"{path} is quantized ({', '.join(quantized)}); give the file that it was made from, with floats"
        )
    network = _foreign(model.graph, tensors, path)
    writer = model.producer_name or "an unnamed program"
    network.notes.append(f"it calls itself {model.graph.name or 'nothing'}; {writer} wrote it")
    return network


def _foreign(graph: Any, tensors: dict[str, np.ndarray], path: Path) -> ForeignNetwork:
    """The graph's layers, which must form one sequence."""
    inputs = [value for value in graph.input if value.name not in tensors]
    if len(inputs) != 1:
        raise UserError(f"{path} has {len(inputs)} inputs, not one image")
    shape = inputs[0].type.tensor_type.shape.dim
    if not shape or not shape[-1].dim_value:
        raise UserError(f"{path} does not state its image size; export it with a fixed height and width")
    network = ForeignNetwork(path, [], {"image_size": shape[-1].dim_value}, [])
    previous = inputs[0].name
    for node in graph.node:
        if node.op_type == "Constant":
            tensors[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            continue
        if node.op_type == "ConstantOfShape":  # a placeholder of weights
            value = numpy_helper.to_array(node.attribute[0].t) if node.attribute else np.zeros(1, np.float32)
            tensors[node.output[0]] = np.broadcast_to(value, tensors[node.input[0]])
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
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise UserError(f"{where} uses auto_pad; export it with explicit pads")
    top, left, bottom, right = pads = attributes.get("pads", [0, 0, 0, 0])
    stride, *_ = strides = attributes.get("strides", [1, 1])
    irregular = (top, bottom) != (left, right) or len({*strides}) > 1 or {*attributes.get("dilations", [1])} != {1}
    match kind:
        case "Conv" | "Gemm" | "MatMul":
            if attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1:
                raise UserError(f"{where} scales its product, which is not supported")
            if not arrays:
                raise UserError(f"{where} multiplies what other nodes compute, as no layer of an AlexNet does")
            if kind == "Conv" and irregular:
                raise UserError(f"{where} treats height and width differently, or is dilated, which is not supported")
            weight = arrays[0] if kind == "Conv" or attributes.get("transB", 0) else arrays[0].T
            bias = arrays[1].reshape(-1) if len(arrays) > 1 else np.zeros(len(weight), np.float32)
            conv = {"stride": stride, "padding": (top, bottom)} if kind == "Conv" else {}
            layers.append(ForeignLayer(name, weight, bias, conv | {"then": ()}))
        case "Add" if layers and layers[-1].weight.ndim == 2:
            layers[-1] = layers[-1]._replace(bias=layers[-1].bias + arrays[0].reshape(-1))
        case "Relu" | "Tanh":
            network.follow("activation", kind.lower(), where)
        case "LRN":  # its bias is k
            alpha, beta, k = (attributes.get(*each) for each in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
            network.follow("lrn", lrn(attributes["size"], alpha, beta, k), where)
        case "MaxPool":
            window = attributes["kernel_shape"]
            # Padding at the end alone is how Caffe's rounding up is written: a maximum never takes padding.
            if irregular or len({*window}) > 1 or top or bottom >= stride:
                raise UserError(f"{where} pools over {window} with pads {pads}, which is not supported")
            ceil = bool(attributes.get("ceil_mode", 0)) or bottom > 0
            network.follow("pool", {"window": window[0], "stride": stride, "ceil": ceil}, where)
        case _ if kind not in IGNORED:
            raise UserError(f"{where} is of type {kind}, which is not supported")
