"""Parameters, neurons, arithmetic and traffic between towers: what a config alone implies, and what the paper says."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from alexnet_jax import batch_norm
from alexnet_jax.data.datasets import given
from alexnet_jax.data.sources.imagenet import EDITIONS
from alexnet_jax.errors import UserError
from alexnet_jax.inference import activations
from alexnet_jax.model_config import Conv, Dense, Head
from alexnet_jax.run_config import Config

ILSVRC_2012 = EDITIONS["imagenet2012"].images["train"]  # images
MAX_IMAGES = 24  # for the signal; conv1's output alone takes 1.2 MB an image

# Caption of Figure 2; its conv1 is 55*48*96, which should be 55*55*96.
PAPER_NEURONS = {"conv1": 253_440, "conv2": 186_624, "conv3": 64_896, "conv4": 64_896, "conv5": 43_264}
PAPER_NEURONS |= {"fc6": 4096, "fc7": 4096, "fc8": 1000}
HEAD = ("layer", "parameters", "share", "neurons", "Figure 2", "multiply-adds", "training FLOP", "link bytes")


class LayerCosts(NamedTuple):
    """The costs of a layer over all towers, for one image. Norms, pooling, activations and biases count as free."""

    name: str
    parameters: int
    neurons: int  # before pooling
    multiply_adds: int  # forward
    training_flop: int  # 2 a multiply-add: forward, for the weights, and for the inputs unless they are the image
    link_bytes: int  # sent between the towers before this layer, in all directions, forward; as many again backward


def layers(config: Config) -> list[LayerCosts]:
    """The costs of the layers with parameters, in order; `link_bytes` as if each tower had its own device."""
    spec = config.model
    params, shapes = activations.shapes(spec)
    itemsize = jnp.dtype(config.train.compute_dtype).itemsize
    costs: list[LayerCosts] = []
    inputs: tuple[int, ...] = (spec.image_size, spec.image_size, 3)  # from one tower
    named: list[tuple[str, Conv | Dense | Head]] = [*spec.convs(), *spec.hidden(), ("fc8", spec.fc8)]
    for name, layer in named:
        parameters = sum(map(math.prod, batch_norm.trained(params)[name].values()))
        weights = math.prod(params[name]["kernel"])
        outputs = shapes[f"{name}_{'response' if isinstance(layer, Conv) else 'output'}"]  # of one tower
        shared = not isinstance(layer, Conv) or layer.shared
        multiply_adds = weights * (math.prod(outputs[:-1]) if shared else 1)
        training_flop = 2 * multiply_adds * (3 if costs else 2)
        # With an exchange, each tower sends its inputs to every other tower.
        sent = math.prod(inputs) * itemsize * spec.towers * (spec.towers - 1) if layer.exchange else 0
        neurons = spec.towers * math.prod(outputs)
        costs.append(LayerCosts(name, parameters, neurons, multiply_adds, training_flop, sent))
        inputs = shapes[f"{name}_output"]
    return costs


def total(costs: list[LayerCosts]) -> LayerCosts:
    """The sums over layers, under the name "all"."""
    return LayerCosts("all", *(sum(column) for column in zip(*(layer[1:] for layer in costs), strict=True)))


def crops(config: Config) -> float:
    """The number of different training views of an image: crops, times two if mirrored. The paper counts 2048 (4.1)."""
    if config.augment.crop == "resized":
        return math.inf  # so many that nobody counts them
    return (config.data.size - config.model.image_size + 1) ** 2 * (2 if config.augment.flip else 1)


def link_bytes(config: Config, head_split: bool = True) -> int:
    """Bytes sent between the towers for one image in a training step, forward and backward, in all directions.

    Without `head_split` fc8 is on one device, as in the authors' program: that device only receives.
    """
    *hidden, head = layers(config)
    received = head.link_bytes // (1 if head_split else config.model.towers)
    return 2 * (sum(layer.link_bytes for layer in hidden) + received)


def table(config: Config) -> list[tuple[str | int | None, ...]]:
    """A row for each layer and one for all, with the columns HEAD."""
    costs = layers(config)
    everything = total(costs)
    paper = PAPER_NEURONS | {everything.name: sum(PAPER_NEURONS.values())}
    return [
        (name, parameters, f"{parameters / everything.parameters:.2%}", neurons, paper.get(name), *others)
        for name, parameters, neurons, *others in (*costs, everything)
    ]


def statements(config: Config) -> list[tuple[str, str, str]]:
    """Statements of the paper: the quantity, its value here, and its value in the paper ("-": not stated)."""
    costs = layers(config)
    everything = total(costs)
    largest = max((layer for layer in costs if layer.name.startswith("conv")), key=lambda layer: layer.parameters)
    share = largest.parameters / everything.parameters
    training = everything.training_flop * ILSVRC_2012 * config.train.epochs
    return [
        ("inputs", f"{3 * config.model.image_size**2:,}", "150,528 (Figure 2)"),
        ("parameters", f"{everything.parameters:,}", "60 million (abstract)"),
        ("neurons", f"{everything.neurons:,}", "650,000 (abstract)"),
        ("most parameters in a conv", f"{largest.name}, {share:.2%}", "no more than 1% (1)"),
        ("views of an image", f"{crops(config):,}", "2048 = 32 x 32 x 2 (4.1)"),
        (f"steps an epoch of {ILSVRC_2012:,} images", f"{-(-ILSVRC_2012 // config.train.batch_size):,}", "-"),
        ("epochs", str(config.train.epochs), "roughly 90 (5)"),
        ("FLOP of the training", f"{training:.2e}", "-"),
        ("link bytes an image and step", f"{link_bytes(config):,}", "-"),
        ("- with fc8 on one device, as in the authors' program", f"{link_bytes(config, head_split=False):,}", "-"),
        ("link bytes a step", f"{link_bytes(config) * config.train.batch_size:,}", "-"),
    ]


def comparison(configs: Mapping[str, Config]) -> list[list[str]]:
    """A row for everything in which configs differ, computed numbers first: the key, and its value in each config.

    Widths of layers, and what their parameters start from, share a row each, `model.*`, over conv1 to fc8.
    """
    columns = [_computed(config) | _settings(config) for config in configs.values()]
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = [[key, *(column.get(key, "-") for column in columns)] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def _computed(config: Config) -> dict[str, str]:
    everything, (_, shapes) = total(layers(config)), activations.shapes(config.model)
    sides = [shapes[f"{name}_response"][0] for name, _ in config.model.convs()]
    return {
        "parameters": f"{everything.parameters:,}",
        "multiply-adds of an image": f"{everything.multiply_adds:,}",
        "sides of the maps, and of the last ones pooled": _text((*sides, shapes[f"conv{len(sides)}_output"][0])),
        "training views of an image": f"{crops(config):,}",
    }


def _settings(config: Config) -> dict[str, str]:
    values = defaultdict(list)
    for key, value in flatten_dict(config.model_dump(), sep=".").items():
        values[re.sub(r"^model\.\w+\.(features|init_\w+)$", r"model.*.\1", key)].append(value)
    return {key: _text(tuple(several)) for key, several in values.items()}


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_text, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def read(directory: Path, size: int) -> np.ndarray:
    """Up to MAX_IMAGES images below `directory`, evenly spread: [N, size, size, 3] uint8. UserError if too few."""
    files = sorted(path for path in directory.rglob("*") if path.suffix.lower() in (".jpeg", ".jpg", ".png"))
    if len(files) < 2:
        raise UserError(f"{directory} has no images to compare; give a folder with two or more")
    images = given(files[:: -(-len(files) // MAX_IMAGES)], size)
    pixels = np.empty((len(images.labels), size, size, 3), np.uint8)
    for i, problem in images.read(np.arange(len(pixels)), pixels).items():
        raise UserError(f"{images.name(i)}: {problem}; remove it from the folder")
    return pixels
