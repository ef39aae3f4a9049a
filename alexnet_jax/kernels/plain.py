"""The operations of a chain in plain JAX: what the other modules of this folder are compared with."""

import jax
import jax.numpy as jnp
from jax import Array

from alexnet_jax import ops, pooling
from alexnet_jax.kernels import Chain


def forward(x: Array, bias: Array, chain: Chain) -> tuple[Array, Array]:
    maps = jax.lax.optimization_barrier(_maps(chain, x, bias))  # as in `pooling.max_pool`
    pooled = pooling.max_pool(maps, chain.window, chain.stride)
    return pooled, pooling.winner(maps, pooled, chain.window, chain.stride).astype(jnp.uint8)


def backward(x: Array, bias: Array, index: Array, grad: Array, chain: Chain) -> tuple[Array, Array]:
    grad = pooling.scatter_to_winners(index.astype(jnp.int32), grad, x.shape, chain.window, chain.stride)
    (grad,) = jax.vjp(lambda x: _maps(chain, x, bias), x)[1](grad)
    return grad, grad.sum((0, 1, 2))  # which is added in float32: JAX's own gradient of `bias` would not be


def _maps(chain: Chain, x: Array, bias: Array) -> Array:
    """The maps before pooling."""
    x = jax.nn.relu(x + bias[None, None, None])
    if chain.lrn is None:
        return x
    towers = x.reshape(*x.shape[:-1], chain.towers, -1)
    lrn = chain.lrn
    return ops.local_response_norm(towers, lrn.k, lrn.n, lrn.alpha, lrn.beta).reshape(x.shape)
