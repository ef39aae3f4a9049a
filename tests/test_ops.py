"""Operations with hand-written gradients, against plain loops and automatic gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from alexnet_jax import ops

LRN = {"k": 2.0, "n": 5, "alpha": 0.3, "beta": 0.75}  # alpha is large enough for the sum to matter


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def lrn_loop(x, k, n, alpha, beta):
    y = np.empty_like(x, dtype=np.float64)
    channels = x.shape[-1]
    for c in range(channels):
        low, high = max(0, c - n // 2), min(channels - 1, c + n // 2)  # the paper's formula, section 3.3
        total = sum(x[..., j].astype(np.float64) ** 2 for j in range(low, high + 1))
        y[..., c] = x[..., c] / (k + alpha * total) ** beta
    return y


def lrn_plain(x, k, n, alpha, beta):
    window = lax.reduce_window(x**2, 0.0, lax.add, (1, 1, 1, n), (1, 1, 1, 1), "SAME")
    return x / (k + alpha * window) ** beta


@pytest.mark.parametrize("beta", [0.75, 0.5])
@pytest.mark.parametrize("n", [1, 3, 5, 9])
def test_local_response_norm(n, beta):
    settings = LRN | {"n": n, "beta": beta}
    x = normal(2, 3, 4, 7)
    np.testing.assert_allclose(ops.local_response_norm(x, *settings.values()), lrn_loop(x, **settings), rtol=1e-5)
    weights = normal(2, 3, 4, 7, seed=1)
    ours = jax.grad(lambda x: (ops.local_response_norm(x, *settings.values()) * weights).sum())(x)
    automatic = jax.grad(lambda x: (lrn_plain(x, **settings) * weights).sum())(x)
    np.testing.assert_allclose(ours, automatic, rtol=1e-4, atol=1e-6)


def test_local_response_norm_in_bfloat16_is_computed_in_float32():
    x = jnp.asarray(normal(2, 3, 4, 7), jnp.bfloat16)
    y = ops.local_response_norm(x, *LRN.values())
    assert y.dtype == jnp.bfloat16
    exact = lrn_loop(np.asarray(x, np.float32), **LRN)
    np.testing.assert_array_equal(y, jnp.asarray(exact, jnp.float32).astype(jnp.bfloat16))


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
    np.testing.assert_array_equal(ops.max_pool(x, window, stride), y)

    grad = normal(*y.shape, seed=1)
    by_loop = np.zeros_like(x)
    for b, i, j, c in np.ndindex(y.shape):
        row, column = source[b, i, j, c]
        by_loop[b, row, column, c] += grad[b, i, j, c]
    ours = jax.vjp(lambda x: ops.max_pool(x, window, stride), x)[1](grad)[0]
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
    gradient = jax.jit(lambda x: jax.vjp(lambda x: ops.max_pool(normalized(x), 3, 2), x)[1](grad)[0])
    assert gradient(normal(2, 27, 27, 16)).sum() == grad.sum(dtype=jnp.float32)


def test_maxima_are_compared_with_the_pixels_they_were_taken_from():
    """Both come from behind one barrier, or XLA might compute the pixels twice, with different roundings."""
    x = jnp.zeros((1, 7, 7, 2), jnp.bfloat16)
    step = jax.jit(lambda x, grad: jax.vjp(lambda x: ops.max_pool(x, 3, 2), x)[1](grad))
    program = step.lower(x, x[:, :3, :3]).as_text()
    (barrier,) = re.findall(r"(%\w+) = stablehlo.optimization_barrier", program)
    (maxima,) = re.findall(rf'(%\w+) = "stablehlo.reduce_window"\({barrier}, ', program)
    pixels = re.findall(rf"(%\w+) = stablehlo.slice {barrier} ", program)
    compared = re.findall(r"stablehlo.compare +EQ, (%\w+), (%\w+), .*bf16>", program)
    assert compared == [(each, maxima) for each in pixels] and len(pixels) == 9


@pytest.mark.parametrize(("stride", "padding"), [(1, (1, 1)), (1, (2, 2)), (4, (0, 3)), (2, (2, 2))])
def test_conv_and_its_gradients(stride, padding):
    inputs = normal(2, 12, 12, 3), normal(5, 5, 3, 4, seed=1), normal(4, seed=2)

    def automatic(image, kernel, bias):
        dimensions = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(image, kernel, (stride,) * 2, (padding,) * 2, dimension_numbers=dimensions)
        return y + bias[None, None, None]

    y, ours = jax.vjp(lambda *x: ops.conv(*x, stride, padding), *inputs)
    expected, theirs = jax.vjp(automatic, *inputs)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(ours(y), theirs(y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_towers_on_one_device_run_separately():
    """Two towers under vmap give what each gives alone, and without a grouped convolution, which is slow on CPU."""
    image, kernels, biases = normal(2, 8, 8, 4), normal(2, 3, 3, 4, 4, seed=1), normal(2, 4, seed=2)
    weights = normal(2, 256, 5, seed=3)

    def loss(image, kernel, bias, weights):
        maps = ops.conv(image, kernel, bias, 1, (1, 1))
        return (ops.dense(maps.reshape(2, -1), weights) ** 2).sum()

    def both(*inputs):
        return jax.vmap(loss, in_axes=(None, 0, 0, 0))(*inputs).sum()

    step = jax.jit(jax.grad(both, argnums=(0, 1, 2, 3)))
    to_image, *to_parameters = step(image, kernels, biases, weights)
    each = [jax.grad(loss, (0, 1, 2, 3))(image, *own) for own in zip(kernels, biases, weights, strict=True)]
    np.testing.assert_allclose(to_image, each[0][0] + each[1][0], rtol=1e-4, atol=1e-3)
    for ours, *theirs in zip(to_parameters, each[0][1:], each[1][1:], strict=True):
        np.testing.assert_allclose(ours, np.stack(theirs), rtol=1e-4, atol=1e-3)
    text = step.lower(image, kernels, biases, weights).compile().as_text()
    assert text is not None and text.count(" convolution(") == 6
    assert "group_count" not in text  # XLA prints it only where there is more than one group
