"""Batch normalization (arXiv:1502.03167), which the paper does not have: for layers whose config says `batch_norm`.

Such a layer computes scale * (x - mean) / sqrt(variance + epsilon) + bias, where x is the convolution or the matrix
product without a bias. In training, mean and variance of each map are those of the batch, over all devices. At test
time they are running averages, which lie among the parameters, and the layer is a plain one with another kernel and
another bias: see `folded`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from alexnet_jax import sharding
from alexnet_jax.model_config import BatchNorm, Model

STARTS = {"scale": 1.0, "mean": 0.0, "variance": 1.0}  # the parameters beside kernel and bias, and where they start
AVERAGES = ("mean", "variance")  # those that are running averages

Averages = dict[str, dict[str, Array]]  # {layer: {kind: [F]}}, the kinds AVERAGES


class Examples(NamedTuple):
    """What normalization in training depends on."""

    mask: Array  # [B] bool: the examples whose statistics are taken
    frozen: Mapping[str, Array]  # whether a layer does not learn: it is then normalized by its running averages


def normalize(
    x: Array, params: dict[str, Array], bias: Array, mask: Array, frozen: Array | bool, epsilon: float
) -> tuple[Array, dict[str, Array]]:
    """Normalize x [B, ..., F] in training. Returns it, in its type, and the AVERAGES [F] that were taken.

    Computed in float32. `params` are those of STARTS, [F]; `bias` is [F], or [..., F] where each pixel has its own.
    """
    pixels = x.astype(jnp.float32).reshape(x.shape[0], -1, x.shape[-1])
    weight = mask.astype(jnp.float32)
    count = sharding.sum_over_batch(weight.sum()) * pixels.shape[1]

    def average(values: Array) -> Array:
        return sharding.sum_over_batch(jnp.einsum("b,bpf->f", weight, values, precision="highest")) / count

    mean = average(pixels)
    variance = average((pixels - _like(pixels, mean)) ** 2)
    taken = {kind: jnp.where(frozen, params[kind], new) for kind, new in zip(AVERAGES, (mean, variance), strict=True)}
    factor = params["scale"] / jnp.sqrt(taken["variance"] + epsilon)
    y = ((pixels - _like(pixels, taken["mean"])) * _like(pixels, factor)).reshape(x.shape)
    return (y + jnp.broadcast_to(bias, y.shape)).astype(x.dtype), taken


def folded(spec: Model, params: Any) -> tuple[Model, Any]:
    """The network at test time as one without normalization, with other kernels and biases that do the same.

    `params` are those of all towers, with leaves [tower, ...], or of one.
    """

    def plain(kernel: Array, bias: Array, scale: Array, mean: Array, variance: Array) -> dict[str, Array]:
        factor = scale / jnp.sqrt(variance + spec.batch_norm.epsilon)
        return {"kernel": kernel * _like(kernel, factor), "bias": bias - _like(bias, mean * factor)}

    names, layers = spec.normalized(), spec.layers()
    changed = {name: layers[name].model_copy(update={"batch_norm": False}) for name in names}
    return spec.model_copy(update=changed), params | {name: plain(**params[name]) for name in names}


def trained(params: Any) -> Any:
    """The parameters without the running averages, which no gradient moves."""
    return {name: {kind: x for kind, x in kinds.items() if kind not in AVERAGES} for name, kinds in params.items()}


def with_averages(trained: Any, params: Any, taken: Averages, settings: BatchNorm) -> Any:
    """The parameters `trained` with the running averages of `params`, moved towards those that a batch took.

    What is not finite, as in float16 it may be, moves nothing.
    """

    def moved(old: Array, new: Array) -> Array:
        return jnp.where(jnp.isfinite(new), old + (1 - settings.momentum) * (new - old), old)

    return {
        name: kinds | {kind: moved(params[name][kind], new) for kind, new in taken.get(name, {}).items()}
        for name, kinds in trained.items()
    }


def _like(x: Array, y: Array) -> Array:
    """y [F], or [tower, F] where x is [tower, ..., F], with axes of 1 in between."""
    return jnp.expand_dims(y, range(y.ndim - 1, x.ndim - 1))
