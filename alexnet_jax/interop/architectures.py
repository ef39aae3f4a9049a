"""The AlexNets that `alexnet identify` knows, and where a network differs from one of them.

A config describes each: its shapes, groups, what follows a convolution, and the weights and biases it starts from.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.interop import networks
from alexnet_jax.interop.foreign import ForeignLayer, ForeignNetwork
from alexnet_jax.model_config import Conv, Model
from alexnet_jax.run import config_files


class Known(NamedTuple):
    name: str
    config: str
    pixels: str  # a key of foreign.PREPROCESSING; then --mean, if it is not the usual one
    source: str
    changes: Mapping[str, Any] = {}  # from the config
    imports: bool = True  # whether the config imports it, as the file states what is changed
    layers: tuple[str, ...] = ()  # names that its layers end in, and no other network's

    @property
    def model(self) -> Model:
        return _model(self.config, tuple(self.changes.items()))


OWT, TORCHVISION = "variants:one_weird_trick", ("features.0", "features.3", "features.6", "features.8", "features.10")
LRN = ("activation", "lrn", "pool")
SMALL = {"model.image_size": 32, "model.pool.window": 2, "model.conv1.stride": 2, "model.conv2.padding": (1, 1)}
SMALL |= {"model.conv1.padding": (1, 1), "model.conv1.kernel": 3, "model.conv2.kernel": 3}
KNOWN = (
    Known("the paper's network", "paper", "rgb", "Krizhevsky, Sutskever and Hinton 2012"),
    Known("the authors' network of 2012", "code2012", "rgb", "their program, configuration 145"),
    Known("Caffe's bvlc_alexnet", "variants:caffe", "caffe", "Caffe's and ONNX's model zoos"),
    Known("CaffeNet", "variants:caffenet", "caffe", "bvlc_reference_caffenet in Caffe's model zoo"),
    Known("CNTK's AlexNet", "variants:cntk", "caffe --mean 114,114,114", "AlexNet_ImageNet.cntk"),
    Known("TF-Slim's alexnet_v2", "variants:slim", "rgb --mean 123.68,116.78,103.94", "slim/nets/alexnet.py"),
    Known(
        *("torchvision's alexnet", OWT, "torchvision", '"One weird trick" without normalization'),
        layers=(*TORCHVISION, "classifier.1", "classifier.4", "classifier.6"),
    ),
    Known(
        *('the network of "One weird trick", which normalizes', OWT, "rgb", "cuda-convnet2's layers-imagenet-1gpu.cfg"),
        *({"model.conv1.then": LRN, "model.conv2.then": LRN}, False),
    ),
    Known(
        *("a network of the paper's widths without groups", "variants:caffe", "torchvision"),
        *("many tutorials, whose normalization, padding and pixels differ", {"model.towers": 1}),
    ),
    Known("the paper's one-GPU network", "variants:one_gpu", "rgb", "paper 3.2"),
    Known("the paper's network with six convolutions", "variants:six_conv", "rgb", "paper 6"),
    Known(
        *("pytorch-classification's alexnet for CIFAR", "variants:cifar_one_fc", "cifar", "models/cifar/alexnet.py"),
        layers=(*TORCHVISION, "classifier"),
    ),
    Known("an AlexNet of 3x3 kernels for CIFAR", OWT, "cifar", "several tutorials", SMALL, False),
    Known("the small network of the configs cifar10 and digits", "cifar10", "rgb", "this program"),
)
# Facts in which a network may differ and still be the known one: trained for other classes, for example.
FREE = {"classes", "units of fc6", "units of fc7", "image_size", "pool ceil"}


@functools.cache
def _model(config: str, changes: tuple[tuple[str, Any], ...]) -> Model:
    return config_files.parse(config_files.load(config, dict(changes))).model


def candidates(network: ForeignNetwork) -> list[Known]:
    """The known networks that this one may be, by its shapes, by what the file says, and by names of layers."""
    fitting = [known for known in KNOWN if not differences(network, known.model)]
    names = [layer.name for layer in network.layers]
    named = [known for known in fitting if len(known.layers) == len(names)]
    return [known for known in named if all(map(str.endswith, names, known.layers))] or fitting


def nearest(network: ForeignNetwork) -> Known:
    """The known network with the fewest differences."""
    return min(KNOWN, key=lambda known: len(differences(network, known.model)))


def differences(network: ForeignNetwork, model: Model, free: bool = False) -> list[str]:
    """Where a network differs from a config's `model`, in words: in facts that must agree, or in the `free` ones."""
    known = _facts(described(model))
    return [
        f"{name}: {value}, not {known[name]}"
        for name, value in _facts(network).items()
        if value != known.get(name, value) and (name in FREE) == free
    ]


def described(model: Model, tensors: Mapping[str, np.ndarray] | None = None, path: Path = Path()) -> ForeignNetwork:
    """The network of a config, as a file that states everything describes it; weights are zeros if none are given."""
    groups, maps, size, layers = networks.groups(model), 3, model.image_size, []
    for name, layer in model.layers().items():
        units = model.num_classes if name == "fc8" else layer.features  # type: ignore[union-attr]
        settings: dict[str, Any] = {"then": ()}
        shape: tuple[int, ...] = (units, maps * size**2)
        if isinstance(layer, Conv):
            shape = (units, maps // groups[name], layer.kernel, layer.kernel)
            settings = {key: getattr(layer, key) for key in ("stride", "padding", "then")}
            size = layer.output(size)
            size = model.pool.output(size) if "pool" in layer.then else size
        else:
            size = 1
        maps = units
        weight, bias = (np.broadcast_to(np.float32(0), shape), np.broadcast_to(np.float32(0), units))
        if tensors:
            weight, bias = (tensors[f"{name}.{kind}"] for kind in ("weight", "bias"))
        layers.append(ForeignLayer(name, weight, bias, settings))
    stated = model.model_dump(include={"image_size", "lrn", "pool", "activation"})
    stated["lrn"]["across_towers"] |= model.towers == 1  # which makes no difference
    return ForeignNetwork(path, layers, stated, [])


def _facts(network: ForeignNetwork) -> dict[str, str]:
    """What shapes and settings say, by names that are the same for all networks."""
    axes = [layer.weight.ndim for layer in network.layers]
    convs, denses = axes.count(4), len(axes) - axes.count(4)
    names = [*(f"conv{i + 1}" for i in range(convs)), *("fc6", "fc7")[: denses - 1], "fc8"]
    facts: dict[str, Any] = {"convolutions": convs, "fully connected layers": denses}
    for name, layer in zip(names, network.layers, strict=False):
        if layer.weight.ndim == 4:
            facts[f"shape of {name}"] = "x".join(map(str, layer.weight.shape))
            facts |= {f"{key} of {name}": value for key, value in layer.settings.items() if key != "then"}
            facts |= {f"after {name}": ", ".join(layer.settings["then"])} if "then" in layer.settings else {}
        else:
            facts["classes" if name == "fc8" else f"units of {name}"] = len(layer.weight)
            facts.setdefault("inputs of the first fully connected layer", layer.weight.shape[1])
    normalizes = any("lrn" in layer.settings.get("then", ()) for layer in network.layers)
    for name, value in network.model.items():
        if isinstance(value, dict) and (name != "lrn" or normalizes):
            facts |= {f"{name} {key}": each for key, each in value.items()}
        elif not isinstance(value, dict):
            facts[name] = value
    return {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in facts.items()}
