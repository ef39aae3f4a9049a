"""A network as ONNX: stored pixels in, probabilities out, so that nothing has to be known to run it.

image          [batch, size, size, 3] uint8, RGB, as `prepare` stores it
logits         [batch, classes] float32
probabilities  [batch, classes] float32
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alexnet_jax.interop.layouts import groups
from alexnet_jax.interop.networks import MEAN, Network, described
from alexnet_jax.interop.onnx_in import ABOUT
from alexnet_jax.model_config import Conv, Model

OPSET = 26


class _Graph:
    """Nodes in a row: each takes what the one before gives."""

    def __init__(self, tensors: dict[str, np.ndarray]):
        self.nodes: list[Any] = []
        self.tensors = dict(tensors)
        self.there = "image"

    def add(self, kind: str, *others: str, output: str = "", **with_: Any) -> str:
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.there, *others], [name], name=name, **with_))
        self.there = name
        return name

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """The name of a constant."""
        array = np.asarray(value, dtype)
        name = f"constant_{len(self.tensors)}"
        self.tensors[name] = array
        return name


def write(path: Path, network: Network) -> None:
    """Raises UserError if ONNX has no operator for a layer."""
    tensors, about = described(network)
    spec, size = network.config.model, network.config.data.size
    graph = _Graph(tensors)
    _see(graph, spec.image_size, size, network.config.augment.mean_crop)
    maps = 3
    for name, conv in spec.convs():
        before, after = conv.padding
        graph.add(
            "Conv",
            f"{name}.weight",
            f"{name}.bias",
            output=name,
            strides=[conv.stride] * 2,
            pads=[before, before, after, after],
            group=groups(spec)[name],
        )
        maps = conv.features
        _follow(graph, spec, conv, maps)
    graph.add("Flatten", axis=1)
    for name, dense in spec.hidden():
        graph.add("Gemm", f"{name}.weight", f"{name}.bias", output=name, transB=1)
        graph.add(spec.activation.capitalize())
        if dense.dropout and spec.dropout_scaling == "test":
            graph.add("Mul", graph.constant(1 - spec.dropout_rate))
    graph.add("Gemm", "fc8.weight", "fc8.bias", output="logits", transB=1)
    graph.add("Softmax", output="probabilities", axis=1)
    shape: list[str | int | None] = ["batch", spec.num_classes]
    made = helper.make_graph(
        graph.nodes,
        "alexnet",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", size, size, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("logits", "probabilities")],
        [numpy_helper.from_array(array, name) for name, array in graph.tensors.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name=ABOUT)
    helper.set_model_props(model, {ABOUT: about})
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def _see(graph: _Graph, crop: int, size: int, mean_crop: str) -> None:
    """The centre crop without its mean, as `augment.evaluation_views` has it, [B, 3, crop, crop]."""
    start = (size - crop) // 2
    edges = [graph.constant(value, np.int64) for value in ([start, start], [start + crop, start + crop], [1, 2])]
    graph.add("Cast", to=TensorProto.FLOAT)
    if mean_crop == "same":
        graph.add("Sub", MEAN)
    seen = graph.add("Slice", *edges)
    if mean_crop == "centre":
        graph.there, axes = MEAN, graph.constant([0, 1], np.int64)
        mean = graph.add("Slice", *edges[:2], axes)
        graph.there = seen
        graph.add("Sub", mean)
    graph.add("Transpose", perm=[0, 3, 1, 2])


def _follow(graph: _Graph, spec: Model, conv: Conv, maps: int) -> None:
    for operation in conv.then:
        if operation == "activation":
            graph.add(spec.activation.capitalize())
        elif operation == "pool":
            window, stride = [spec.pool.window] * 2, [spec.pool.stride] * 2
            graph.add("MaxPool", kernel_shape=window, strides=stride, ceil_mode=int(spec.pool.ceil))
        elif operation == "lrn":
            _normalize(graph, spec, maps)
        else:
            _normalize_maps(graph, spec)


def _normalize(graph: _Graph, spec: Model, maps: int) -> None:
    lrn, parts = spec.lrn, 1 if spec.lrn.across_towers else spec.towers
    settings: dict[str, Any] = {"size": lrn.n, "alpha": lrn.alpha * lrn.n, "beta": lrn.beta, "bias": lrn.k}
    if parts == 1:
        graph.add("LRN", **settings)
        return
    source, number = graph.there, len(graph.nodes)
    towers = [f"tower_{number}_{i}" for i in range(parts)]
    graph.nodes.append(helper.make_node("Split", [source], towers, axis=1, num_outputs=parts, name=f"split_{number}"))
    done = []
    for tower in towers:
        graph.there = tower
        done.append(graph.add("LRN", **settings))
    graph.there = done[0]
    graph.add("Concat", *done[1:], axis=1)


def _normalize_maps(graph: _Graph, spec: Model) -> None:
    norm, source = spec.map_norm, graph.there
    graph.add("Mul", source)
    half = norm.n // 2
    graph.add("AveragePool", kernel_shape=[norm.n] * 2, pads=[half] * 4, strides=[1, 1], count_include_pad=1)
    graph.add("Mul", graph.constant(norm.alpha * norm.n**2))
    graph.add("Add", graph.constant(1.0))
    scale = graph.add("Pow", graph.constant(norm.beta))
    graph.there = source
    graph.add("Div", scale)
