"""Operations with hand-written gradients, against plain loops and automatic gradients."""

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


def test_what_is_kept_in_memory_is_computed_once():
    def uses(keep):
        def function(x):
            y = keep(x * 3 + 1)
            return y.sum(axis=1), y.T @ x, y.transpose() + 1

        program = jax.jit(function).lower(jnp.ones((64, 64))).compile()
        return str(program.as_text()).count(" multiply(")

    assert uses(ops.in_memory) == 1 < uses(lambda x: x)


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


@pytest.mark.parametrize(
    ("channels", "features", "convolutions"),
    [(5, 4, 6), (4, 4, 4), (4, 40, 6)],
    ids=["many channels: apart", "few: only the gradients of the image apart", "and many features: apart"],
)
def test_towers_on_one_device(channels, features, convolutions):
    """Two towers under vmap give what each gives alone, and without a grouped convolution, which is slow on CPU."""
    image, kernels = normal(2, 8, 8, channels), normal(2, 3, 3, channels, features, seed=1)
    biases, weights = normal(2, features, seed=2), normal(2, 64 * features, 5, seed=3)

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
    assert text is not None and text.count(" convolution(") == convolutions
    assert "group_count" not in text  # XLA prints it only where there is more than one group
