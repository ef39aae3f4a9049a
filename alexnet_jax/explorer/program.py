"""A network as an ONNX program for browsers, which gives every stage, and whose towers can be parted.

image           [batch, size, size, 3] uint8, RGB, as `alexnet prepare` stores it
links           [links] float32, 1 or 0: whether the towers see each other, for each layer of `stages.links`
probabilities   [batch, classes] float32
LAYER.STAGE     for each of `stages.stages`: [batch, F, H, W] float32 of convolutional layers, [batch, F] of others
"""

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper

from alexnet_jax.explorer import stages
from alexnet_jax.inference.network import Network
from alexnet_jax.interop import networks
from alexnet_jax.interop.networks import MEAN
from alexnet_jax.interop.onnx_files import Graph, add_input, add_operation, conv_attributes, value
from alexnet_jax.model_config import Conv, Dense, Head

OPSET, IR_VERSION = 20, 9  # old enough for all kernels of onnxruntime-web, those for WebGPU too
LINKS, PROBABILITIES = "links", "probabilities"


class _Program(Graph):
    """The graph of a network. With `half`, it stores weights as float16."""

    def __init__(self, network: Network, half: bool):
        super().__init__({MEAN: np.asarray(network.statistics.mean_image, np.float32)})
        self.spec, self.half = network.config.model, half

    def first(self, count: int) -> None:
        """Keep the first columns."""
        self.add("Slice", *(self.constant([x], np.int64) for x in (0, count, 1)))

    def weights(self, array: np.ndarray) -> str:
        name = self.constant(array, np.float16 if self.half else np.float32)
        return self.add("Cast", after=name, to=TensorProto.FLOAT) if self.half else name

    def rolled(self, source: str, shift: int, axis: int) -> str:
        """`source`, its first `shift` entries along an axis moved to the end."""
        first, here, end, along = (self.constant([x], np.int64) for x in (0, shift, np.iinfo(np.int64).max, axis))
        rest = self.add("Slice", here, end, along, after=source)
        return self.add("Concat", self.add("Slice", first, here, along, after=source), after=rest, axis=axis)

    def over_links(self, name: str, kernel: np.ndarray, product: Callable[[str, np.ndarray], str], axis: int) -> None:
        """Add up a layer's products: of each tower with its own input, and, times the link, with those of the others.

        `kernel` is that of `stages.by_tower`, and `product` takes the towers' inputs and [tower, places, channels, F].
        Inputs of other towers are the same ones, moved on by some towers along `axis`.
        """
        source, towers, names = self.last, np.arange(self.spec.towers), stages.links(self.spec)
        if name not in names:
            product(source, kernel.sum(axis=2))  # of one source; of conv1, whatever it is given, they are the same
            return
        edges = (self.constant([names.index(name) + i], np.int64) for i in (0, 1))
        linked = self.add("Mul", self.add("Slice", *edges, after=LINKS), after=source)
        total, width = product(source, kernel[towers, :, towers]), kernel.shape[3] if axis == 1 else 1
        for offset in towers[1:]:
            others = kernel[towers, :, (towers + offset) % len(towers)]
            total = self.add("Add", product(self.rolled(linked, offset * width, axis), others), after=total)


def serialized(network: Network, half: bool) -> bytes:
    """The program, with weights in float16 if `half`. Raises UserError if ONNX has no operator for a layer."""
    network = networks.folded(network)
    spec = network.config.model
    networks.check_shared(spec)
    kernels, biases = (
        {name: np.asarray(leaves[kind]) for name, leaves in network.params.items()} for kind in ("kernel", "bias")
    )
    graph = _Program(network, half)
    inputs = [
        add_input(graph, spec, network.config.data.size),
        helper.make_tensor_value_info(LINKS, TensorProto.FLOAT, [len(stages.links(spec))]),
    ]
    for name, layer in spec.layers().items():
        kernel = stages.by_tower(spec, name, kernels[name])
        if isinstance(layer, Conv):
            _add_conv(graph, name, layer, kernel, biases[name])
        else:
            _add_dense(graph, name, layer, kernel, biases[name])
    graph.add("Softmax", axis=1)
    graph.first(len(network.classes))
    graph.call(PROBABILITIES)
    shapes = {f"{name}.{stage}": shape for name, each in stages.shapes(spec).items() for stage, shape in each.items()}
    outputs = [value(PROBABILITIES, len(network.classes)), *(value(name, *shape) for name, shape in shapes.items())]
    return graph.program(inputs, outputs, OPSET, ir_version=IR_VERSION).SerializeToString()


def _add_conv(graph: _Program, name: str, conv: Conv, kernel: np.ndarray, bias: np.ndarray) -> None:
    towers, first = len(kernel), name == "conv1"

    def convolution(source: str, kernel: np.ndarray) -> str:
        kernel = kernel.reshape(towers, conv.kernel, conv.kernel, *kernel.shape[2:]).transpose(0, 4, 3, 1, 2)
        weights = graph.weights(kernel.reshape(-1, *kernel.shape[2:]))
        groups = 1 if first else towers
        return graph.add("Conv", weights, after=source, group=groups, **conv_attributes(conv))

    graph.over_links(name, kernel, convolution, axis=1)
    graph.add("Add", graph.constant(bias.reshape(-1, 1, 1)))
    graph.call(f"{name}.response")
    for operation in conv.then:
        add_operation(graph, graph.spec, conv, operation)
        graph.call(f"{name}.{operation}")


def _add_dense(graph: _Program, name: str, layer: Dense | Head, kernel: np.ndarray, bias: np.ndarray) -> None:
    """The towers' inputs, [B, ...] side by side, become [tower, B, inputs], and their outputs [B, units] again."""
    spec = graph.spec

    def product(source: str, kernel: np.ndarray) -> str:
        inputs_first = kernel.transpose(0, 2, 1, 3).reshape(len(kernel), -1, kernel.shape[-1])  # [C, H, W], as maps are
        return graph.add("MatMul", graph.weights(inputs_first), after=source)

    graph.add("Reshape", graph.constant([0, spec.towers, -1], np.int64))
    graph.add("Transpose", perm=[1, 0, 2])
    graph.over_links(name, kernel, product, axis=0)
    graph.add("Add", graph.constant(bias[:, None]))
    graph.add("Transpose", perm=[1, 0, 2])
    graph.add("Reshape", graph.constant([0, -1], np.int64))
    if isinstance(layer, Head):
        graph.first(spec.num_classes)  # the towers' shares may hold a few more
        graph.call(f"{name}.response")
        return
    graph.add(spec.activation.capitalize(), output=f"{name}.activation")
    if layer.dropout and spec.dropout_scaling == "test":
        graph.add("Mul", graph.constant(1 - spec.dropout_rate))
