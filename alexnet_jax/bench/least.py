"""The least bytes that a device must read and write in a step: arithmetic from a config alone.

It takes each convolution and each product to read its input and write its output once, in the type of activations, and
what follows a convolution (bias, activation, normalization, pooling) to be one kernel in each direction, which keeps
only the convolution's output for the backward pass and computes the rest again. Where only bias and activation follow,
they are part of the convolution, as dropout is of a product. An exchange between devices writes what it gathers.
Training makes a copy of the parameters in a narrower type of activations, since it reads them twice. A TPU may do with
less: its cores have 16 to 128 MB of memory of their own, which can hold the activations of a few images.
"""

import math

import jax.numpy as jnp

from alexnet_jax.inference import activations
from alexnet_jax.model_config import Conv
from alexnet_jax.paper import facts
from alexnet_jax.run_config import Config

MOMENTS = {"momentum": 1, "nesterov": 1, "adamw": 2}  # numbers that an update rule keeps for each parameter


def elements(config: Config) -> dict[str, tuple[int, int]]:
    """Elements of activations that a device reads and writes for an image in each layer: (forward, backward)."""
    spec, split = config.model, config.mesh.tower > 1
    here = 1 if split else spec.towers  # towers on a device
    shapes = activations.shapes(spec)[1]
    inputs = spec.image_size**2 * 3
    counts = {"images": (inputs, 0)}
    masked = False  # whether the gradient of this layer's input takes a mask, from the input itself
    for number, (name, layer) in enumerate(spec.layers().items()):
        forward = backward = 0
        if layer.exchange and split:
            forward, inputs = inputs + inputs * spec.towers, inputs * spec.towers
            backward = forward
        result = here * math.prod(shapes[f"{name}_output"])
        response = here * math.prod(shapes[f"{name}_response"]) if isinstance(layer, Conv) else result
        forward += inputs + response
        backward += (inputs + response) * (2 if number else 1) + inputs * masked
        masked = True
        if isinstance(layer, Conv) and set(layer.then) - {"activation"}:
            forward, backward, masked = forward + response + result, backward + 2 * response + result, False
        counts[name] = forward, backward
        inputs = result
    return counts


def parts(config: Config) -> dict[str, int]:
    """The bytes that a device reads and writes in a training step, by layer."""
    itemsize, whole = jnp.dtype(config.train.compute_dtype).itemsize, least(config, training=True)
    images, layers = config.train.batch_size // config.mesh.data, facts.layers(config)
    weights = {layer.name: 3 * itemsize * sum(_parameters(config, layer)) for layer in layers}
    counts = {
        name: images * (forward + backward) * itemsize + weights.get(name, 0)
        for name, (forward, backward) in elements(config).items()
    }
    counts["images"] += whole["images"]
    return counts | {name: whole[name] for name in ("optimizer", "casts", "sums of gradients")}


def _parameters(config: Config, layer: facts.LayerCosts) -> tuple[int, int]:
    """Those of a layer that a device holds: with others of the data axis, and alone."""
    splits = config.mesh.fc_sharding == "data_tower" and layer.name.startswith("fc")
    kernel, tower = layer.parameters - layer.neurons if splits else 0, max(config.mesh.tower, 1)
    return (layer.parameters - kernel) // tower, kernel // tower // config.mesh.data


def least(config: Config, training: bool) -> dict[str, int]:
    """The bytes that a device reads and writes in a training step, or in one at test time, by what they hold."""
    itemsize, data = jnp.dtype(config.train.compute_dtype).itemsize, config.mesh.data
    images = (config.train.batch_size if training else config.train.eval_batch_size) // data
    shared, alone = map(sum, zip(*(_parameters(config, layer) for layer in facts.layers(config)), strict=True))
    parameters = shared + alone
    activated = sum(forward + backward * training for forward, backward in elements(config).values())
    summed = 2 * itemsize * shared if data > 1 else 0
    return {
        "images": images * config.data.size**2 * 3,
        "activations": images * activated * itemsize,
        "weights": parameters * (3 * itemsize if training else 4),  # read in both directions; gradients written
        "casts": parameters * (4 + itemsize) if training and itemsize < 4 else 0,
        "optimizer": parameters * 4 * (3 + 2 * MOMENTS[config.optim.name]) if training else 0,
        "sums of gradients": summed if training else 0,
    }
