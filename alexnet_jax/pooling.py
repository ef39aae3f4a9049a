"""Max-pooling with overlapping windows (paper 3.4), and its gradient. Shapes are NHWC."""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import Array, lax

from alexnet_jax import ops
from alexnet_jax.model_config import Pool


def fill_last_window(x: Array, pool: Pool) -> Array:
    """Append rows and columns of -infinity to [B, H, W, C], to complete the last window of max-pooling."""
    missing = [max(0, (pool.output(side) - 1) * pool.stride + pool.window - side) for side in x.shape[1:3]]
    return jnp.pad(x, [(0, 0), *((0, count) for count in missing), (0, 0)], constant_values=-jnp.inf)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: Array, window: int, stride: int) -> Array:
    """Paper 3.4: the maximum of each window x window pixels, every `stride`: [B, H, W, C] -> [B, H', W', C].

    H' = (H - window) // stride + 1. Among equal maxima the gradient goes to the first in row order.
    """
    # Of strided slices, first by rows and then by columns: XLA's own windows are several times slower on CPUs.
    for axis in (1, 2):
        count = (x.shape[axis] - window) // stride + 1
        x = functools.reduce(jnp.maximum, (_every(x, axis, i, count, stride) for i in range(window)))
    return x


def _every(x: Array, axis: int, start: int, count: int, stride: int) -> Array:
    """`count` entries of `x` along `axis`, from `start` on, every `stride`."""
    return lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis)


def _max_pool_fwd(x, window, stride):
    # The backward pass looks for the pixel that equals the maximum. XLA may otherwise compute `x` once more for one of
    # the two, rounded otherwise (it does in bfloat16 on GPUs); then no pixel would equal it, and the gradient of the
    # window would be lost.
    x = ops.in_memory(lax.optimization_barrier(x))
    y = max_pool(x, window, stride)
    return y, (x, y)


def _max_pool_bwd(window, stride, residuals, grad):
    x, y = residuals
    index = ops.in_memory(winner(x, y, window, stride))
    return (scatter_to_winners(index, grad, x.shape, window, stride),)


def winner(x: Array, y: Array, window: int, stride: int) -> Array:
    """The index in its window of the first pixel of `x` that equals the maximum, `y` [B, H', W', C]: int32."""
    rows, columns = y.shape[1:3]
    index = jnp.full(y.shape, window * window, jnp.int32)
    for each in reversed(range(window * window)):
        i, j = divmod(each, window)
        pixel = _every(_every(x, 1, i, rows, stride), 2, j, columns, stride)
        index = jnp.where(pixel == y, each, index)
    return index


def scatter_to_winners(index: Array, grad: Array, shape: tuple[int, ...], window: int, stride: int) -> Array:
    """The gradient of max-pooling with respect to its input, of `shape`: each maximum's to the pixel of its `index`.

    Every pixel looks for its number in all windows that may hold it. Pixels [stride * h + a, stride * w + b] are
    [B, h, a, w, b, C] here: the channels, which are contiguous, then share every decision, and CPUs compute many at
    once.
    """
    height, width, reach = *shape[1:3], -(-window // stride)  # windows along each axis that may hold a pixel
    edges = [(0, 0), (reach - 1, reach - 1), (reach - 1, reach - 1), (0, 0)]
    index, grad = jnp.pad(index, edges), jnp.pad(grad, edges)
    rows, columns = (side - reach + 1 for side in grad.shape[1:3])
    blocks = (shape[0], rows, stride, columns, stride, shape[3])
    a, b = (lax.broadcasted_iota(jnp.int32, blocks, axis) for axis in (2, 4))
    pixels = jnp.zeros(blocks, grad.dtype)
    for down, right in itertools.product(range(reach), repeat=2):  # strides from the start of a window to the block
        start, end = (reach - 1 - down, reach - 1 - right), (reach - 1 - down + rows, reach - 1 - right + columns)
        here = (slice(None), slice(start[0], end[0]), None, slice(start[1], end[1]), None)
        i, j = down * stride + a, right * stride + b  # the place in that window
        pixels += jnp.where((index[here] == i * window + j) & (j < window), grad[here], jnp.zeros((), grad.dtype))
    missing = [(0, max(0, side - there), 0) for side, there in ((height, rows * stride), (width, columns * stride))]
    pixels = pixels.reshape(shape[0], rows * stride, columns * stride, shape[3])
    return lax.pad(pixels, jnp.zeros((), grad.dtype), [(0, 0, 0), *missing, (0, 0, 0)])[:, :height, :width]


max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)
