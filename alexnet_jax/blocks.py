"""Layers on GPUs and TPUs: a convolution and what follows it, as one operation for all towers of a device.

Memory is what limits them, so nothing is written that need not be. The channels of the towers lie side by side,
[B, H, W, tower * C]: under `jax.vmap` over the towers, arrays [tower, ..., C] are brought into this order and back,
which XLA cancels between one operation and the next.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from alexnet_jax import kernels, model_config


class Block(NamedTuple):
    """A convolution and the operations after it that are computed with it, known when the step is compiled."""

    stride: int
    padding: tuple[int, int]  # zeros before and after, along both height and width
    relu: bool
    chain: kernels.Chain | None  # normalization and pooling after the ReLU
    kernels: str  # the module that computes `chain`


def plan(spec: model_config.Model, layer: model_config.Conv, name: str | None) -> tuple[Block | None, tuple[str, ...]]:
    """What the kernels of the module `name` compute of a layer, and the operations that are left over."""
    if name is None or not layer.shared:
        return None, layer.then
    relu = spec.activation == "relu" and layer.then[:1] == ("activation",)
    convolution = Block(layer.stride, layer.padding, relu, None, name)
    lrn = None if layer.then[1:2] != ("lrn",) else spec.lrn
    pool = 1 if lrn is None else 2
    pools = layer.then[pool : pool + 1] == ("pool",) and not spec.pool.ceil and spec.pool.window <= 16  # uint8 indices
    if not relu or not pools or (lrn and lrn.across_towers):
        return convolution, layer.then[relu:]
    chain = kernels.Chain(1, lrn, spec.pool.window, spec.pool.stride)
    return convolution._replace(chain=chain), layer.then[pool + 1 :]


def _side_by_side(op: Callable[..., Any], gradients: bool = False) -> Callable[..., Any]:
    """Run `op(towers, *arrays)` once for all towers of a device: under `jax.vmap`, on [..., tower * C] of each array.

    The towers may share the first array. Its gradient, with `gradients` the first result, is then the sum of theirs.
    """
    mapped = jax.custom_batching.custom_vmap(functools.partial(op, 1))

    @mapped.def_vmap
    def rule(towers, in_batched, *arrays):
        shared, first, *others = not in_batched[0], *arrays
        others = [
            x if batched else jnp.broadcast_to(x, (towers, *x.shape))
            for x, batched in zip(others, in_batched[1:], strict=True)
        ]
        wide = [first if shared else _merge(first), *map(_merge, others)]
        results = op(towers, *wide)
        batched = jax.tree.map(lambda _: True, results)
        if gradients and shared:
            batched = (False, *batched[1:])
        return jax.tree.map(lambda x, split: _split(x, towers) if split else x, results, batched), batched

    return mapped


def _merge(x: Array) -> Array:
    """[tower, ..., C] -> [..., tower * C]."""
    return jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1)


def _split(x: Array, towers: int) -> Array:
    """[..., tower * C] -> [tower, ..., C]."""
    return jnp.moveaxis(x.reshape(*x.shape[:-1], towers, -1), -2, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def convolve(image: Array, kernel: Array, bias: Array, block: Block) -> Array:
    """The operations of `block`: image [B, H, W, C], kernel [k, k, C, F], bias [F] -> [B, H', W', F]."""
    return _convolve_fwd(image, kernel, bias, block)[0]


def _convolve_fwd(image, kernel, bias, block):
    y = _side_by_side(functools.partial(_conv, block))(image, kernel)
    wide_bias = _varying_like(y, bias)
    if block.chain:
        pooled, index = _side_by_side(functools.partial(_chain, block.kernels, block.chain))(y, wide_bias)
        return pooled, (image, kernel, bias, y, index)
    y = y + wide_bias[None, None, None]
    if block.relu:
        y = jax.nn.relu(y)
        return y, (image, kernel, bias, y)
    return y, (image, kernel, bias)


def _convolve_bwd(block, residuals, grad):
    image, kernel, bias, *kept = residuals
    if block.chain:
        y, index = kept
        gradients = _side_by_side(functools.partial(_chain_gradients, block.kernels, block.chain))
        grad, to_bias = gradients(y, _varying_like(y, bias), index, grad)
    else:
        if block.relu:
            grad = jnp.where(kept[0] > 0, grad, jnp.zeros((), grad.dtype))
        to_bias = grad.sum(axis=(0, 1, 2))
    conv_gradients = _side_by_side(functools.partial(_conv_gradients, block), gradients=True)
    return *conv_gradients(image, kernel, grad), _summed_like(bias, to_bias)


convolve.defvjp(_convolve_fwd, _convolve_bwd)


def _varying_like(y: Array, bias: Array) -> Array:
    """`bias`, in the eyes of JAX, as an array that differs between devices wherever `y` does."""
    return jnp.where(True, bias, y[0, 0, 0])


def _summed_like(bias: Array, gradient: Array) -> Array:
    """The sum of `gradient` over the devices for which `bias` is the same."""
    return jax.vjp(lambda bias: jnp.where(True, bias, gradient), bias)[1](gradient)[0]


def _conv(block: Block, towers: int, image: Array, kernel: Array) -> Array:
    """The convolution of all towers: an image that they share is [..., C], one of all their maps [..., tower * C]."""
    return lax.conv_general_dilated(
        image,
        kernel,
        window_strides=(block.stride, block.stride),
        padding=(block.padding, block.padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=image.shape[-1] // kernel.shape[2],
    )


def _conv_gradients(block: Block, towers: int, image: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
    return jax.vjp(functools.partial(_conv, block, towers), image, kernel)[1](grad)


def _chain(name: str, chain: kernels.Chain, towers: int, y: Array, bias: Array) -> tuple[Array, Array]:
    return kernels.module(name).forward(y, bias, chain._replace(towers=towers))


def _chain_gradients(name: str, chain: kernels.Chain, towers: int, *arrays: Array) -> tuple[Array, Array]:
    return kernels.module(name).backward(*arrays, chain._replace(towers=towers))
