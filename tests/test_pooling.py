"""Max-pooling and its gradient, against plain loops and automatic gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from alexnet_jax import ops, pooling
from tests.test_ops import LRN, normal


def pool_loop(x, window, stride):
    batch, height, width, channels = x.shape
    rows, columns = (height - window) // stride + 1, (width - window) // stride + 1
    y = np.empty((batch, rows, columns, channels), x.dtype)
    source = np.empty((batch, rows, columns, channels, 2), int)
    for b, i, j, c in np.ndindex(y.shape):
        view = x[b, i * stride : i * stride + window, j * stride : j * stride + window, c]
        row, column = np.unravel_index(view.argmax(), view.shape)
        y[b, i, j, c] = view[row, column]
        source[b, i, j, c] = i * stride + row, j * stride + column
    return y, source


@pytest.mark.parametrize(("window", "stride", "size"), [(3, 2, 7), (3, 2, 8), (2, 2, 6), (3, 1, 5)])
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool(window, stride, size, ties):
    x = normal(2, size, size + 3, 3)  # not square, or the axes could be confused
    x = np.maximum(np.round(x), 0) if ties else x
    y, source = pool_loop(x, window, stride)
    np.testing.assert_array_equal(pooling.max_pool(x, window, stride), y)

    grad = normal(*y.shape, seed=1)
    by_loop = np.zeros_like(x)
    for b, i, j, c in np.ndindex(y.shape):
        row, column = source[b, i, j, c]
        by_loop[b, row, column, c] += grad[b, i, j, c]
    ours = jax.vjp(lambda x: pooling.max_pool(x, window, stride), x)[1](grad)[0]
    np.testing.assert_allclose(ours, by_loop, rtol=1e-5, atol=1e-6)

    def automatic(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), "VALID")

    np.testing.assert_allclose(ours, jax.vjp(automatic, x)[1](grad)[0], rtol=1e-5, atol=1e-6)


def test_max_pool_loses_no_gradient():
    """In bfloat16, after a normalization that is computed in float32: as much gradient leaves as comes in."""

    @jax.custom_vjp
    def normalized(x):  # its gradient is the pooling's own
        return ops.local_response_norm(x.astype(jnp.bfloat16), *LRN.values())

    normalized.defvjp(lambda x: (normalized(x), None), lambda _, grad: (grad.astype(jnp.float32),))
    grad = jnp.asarray(np.arange(2 * 13 * 13 * 16).reshape(2, 13, 13, 16) % 8, jnp.bfloat16)  # sums of these are exact
    gradient = jax.jit(lambda x: jax.vjp(lambda x: pooling.max_pool(normalized(x), 3, 2), x)[1](grad)[0])
    assert gradient(normal(2, 27, 27, 16)).sum() == grad.sum(dtype=jnp.float32)


def test_maxima_are_compared_with_the_pixels_they_were_taken_from():
    """Both come from memory, or XLA might compute the pixels twice, with different roundings."""
    x = jnp.zeros((1, 7, 7, 2), jnp.bfloat16)
    step = jax.jit(lambda x, grad: jax.vjp(lambda x: pooling.max_pool(x, 3, 2), x)[1](grad))
    program, _, _ = step.lower(x, x[:, :3, :3]).as_text().partition("func.func private")
    (barrier,) = re.findall(r"(%\w+) = stablehlo.optimization_barrier %arg0", program)  # which holds on accelerators
    assert len(re.findall(rf'call @\w+\({barrier}\) .*inlineable = "false"', program)) == 1  # and this on CPUs
    assert program.count("%arg0") == 2 and len(re.findall(rf"{barrier}\b", program)) == 2  # nothing else reads them
