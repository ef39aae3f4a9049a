"""Export to ONNX, from stored pixels to probabilities, so that running it takes no knowledge of preprocessing.

image          [batch, size, size, 3] uint8, RGB, as `alexnet prepare` stores it
logits         [batch, classes] float32
probabilities  [batch, classes] float32
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alexnet_jax.inference.network import Network
from alexnet_jax.interop import layouts
from alexnet_jax.interop.networks import MEAN, METADATA, to_tensors
from alexnet_jax.model_config import Conv, Model

OPSET = 26


class _Graph:
    """Nodes in sequence: each takes the output of the one before, or of `after`."""

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


def write(path: Path, network: Network) -> None:
    """Write the network. Raises UserError if ONNX has no operator for one of its layers."""
    tensors, metadata = to_tensors(network)
    spec, size = network.config.model, network.config.data.size
    graph, groups = _Graph(tensors), layouts.groups(spec)
    graph.add("Cast", to=TensorProto.FLOAT)
    graph.add("Sub", MEAN)  # before the crop: for the centre, augment.mean_crop makes no difference
    start = (size - spec.image_size) // 2
    edges = [graph.constant([edge, edge], np.int64) for edge in (start, start + spec.image_size)]
    graph.add("Slice", *edges, graph.constant([1, 2], np.int64))
    graph.add("Transpose", perm=[0, 3, 1, 2])
    for name, conv in spec.convs():
        strides, pads = [conv.stride] * 2, [edge for edge in conv.padding for _ in range(2)]
        parameters = f"{name}.weight", f"{name}.bias"
        graph.add("Conv", *parameters, output=name, group=groups[name], strides=strides, pads=pads)
        _add_operations(graph, spec, conv)
    graph.add("Flatten", axis=1)
    for name, dense in spec.hidden():
        graph.add("Gemm", f"{name}.weight", f"{name}.bias", output=name, transB=1)
        graph.add(spec.activation.capitalize())
        if dense.dropout and spec.dropout_scaling == "test":
            graph.add("Mul", graph.constant(1 - spec.dropout_rate))
    graph.add("Gemm", "fc8.weight", "fc8.bias", output="logits", transB=1)
    graph.add("Softmax", output="probabilities", axis=1)
    shape: list[str | int | None] = ["batch", spec.num_classes]
    graph_proto = helper.make_graph(
        graph.nodes,
        "alexnet",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", size, size, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("logits", "probabilities")],
        [numpy_helper.from_array(array, name) for name, array in graph.tensors.items()],
    )
    model = helper.make_model(graph_proto, opset_imports=[helper.make_opsetid("", OPSET)], producer_name=METADATA)
    helper.set_model_props(model, {METADATA: metadata})
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def _add_operations(graph: _Graph, spec: Model, conv: Conv) -> None:
    """What follows a convolution."""
    lrn, norm = spec.lrn, spec.map_norm
    for operation in conv.then:
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
