"""The kernels of accelerators, interpreted on a CPU, against the same operations in plain JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas

from alexnet_jax import kernels
from alexnet_jax.model_config import Lrn

LRN = Lrn(k=2.0, n=5, alpha=0.3, beta=0.75, across_towers=False)  # alpha is large enough for the sum to matter


WIDTHS = {"FORWARD_WIDTH": 4, "BACKWARD_WIDTH": 4}  # XLA compiles each channel of a thread


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    monkeypatch.setattr(pallas, "pallas_call", functools.partial(pallas.pallas_call, interpret=True))


def both_ways(name, x, bias, chain):
    """Pooled maps, indices and both gradients, as float32."""
    module = kernels.module(name)

    def compute(x, bias, grad):
        pooled, index = module.forward(x, bias, chain)
        return pooled, index, *module.backward(x, bias, index, grad[:, : pooled.shape[1], : pooled.shape[2]], chain)

    grad = jax.random.normal(jax.random.key(2), x.shape).astype(x.dtype)
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return [np.asarray(each, np.float32) for each in jax.jit(compute, compiler_options=options)(x, bias, grad)]


def assert_same(shape, chain, dtype):
    x = jax.random.normal(jax.random.key(0), shape).astype(dtype)
    bias = jax.random.normal(jax.random.key(1), shape[-1:]).astype(dtype)
    ours = both_ways("triton", x, bias, chain)
    expected = both_ways("plain", x.astype(jnp.float32), bias.astype(jnp.float32), chain)
    assert_close(ours, expected, 1e-5 if dtype == jnp.float32 else 1e-2)  # bfloat16: only the results are rounded


def assert_close(ours, expected, tolerance):
    for name, mine, other in zip(("pooled", "index", "grad_x", "grad_bias"), ours, expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance * np.abs(other).max(), err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "chain", "dtype"),
    [
        ((2, 9, 7, 24), kernels.Chain(2, LRN, 3, 2), jnp.bfloat16),  # odd sides, like the paper's; two towers
        ((1, 8, 6, 8), kernels.Chain(1, LRN, 3, 2), jnp.float32),  # pixels that no window covers
        ((1, 7, 7, 8), kernels.Chain(2, None, 3, 2), jnp.float32),  # conv5
        ((1, 7, 7, 6), kernels.Chain(2, LRN, 3, 2), jnp.float32),  # too few channels for a thread
    ],
)
def test_a_chain(shape, chain, dtype, monkeypatch):
    for name, width in WIDTHS.items():
        monkeypatch.setattr(kernels.module("triton"), name, width)
    assert_same(shape, chain, dtype)


@pytest.mark.long
@pytest.mark.parametrize(
    ("shape", "chain", "dtype"),
    [
        ((2, 55, 55, 96), kernels.Chain(2, LRN, 3, 2), jnp.bfloat16),
        ((3, 27, 27, 256), kernels.Chain(2, LRN, 3, 2), jnp.float32),
        ((2, 13, 13, 256), kernels.Chain(2, None, 3, 2), jnp.bfloat16),
        ((1, 6, 8, 16), kernels.Chain(1, LRN.model_copy(update={"n": 3, "beta": 0.5}), 2, 2), jnp.float32),
        ((1, 9, 9, 16), kernels.Chain(1, None, 4, 1), jnp.bfloat16),
    ],
)
def test_a_chain_of_the_papers_size(shape, chain, dtype):
    assert_same(shape, chain, dtype)


@pytest.mark.slow
def test_the_first_of_equal_pixels_is_the_maximum(monkeypatch):
    for name, width in WIDTHS.items():
        monkeypatch.setattr(kernels.module("triton"), name, width)
    x = jax.random.randint(jax.random.key(0), (2, 9, 9, 4), -1, 3).astype(jnp.float32)
    chain = kernels.Chain(1, None, 3, 2)
    ours, expected = (both_ways(name, x, jnp.zeros(4), chain) for name in ("triton", "plain"))
    assert_close(ours, expected, 1e-5)


@pytest.mark.slow
def test_what_is_not_a_number_stays_so(monkeypatch):
    """A run whose numbers are not finite ends with an error, which a kernel must not hide."""
    monkeypatch.setattr(kernels.module("triton"), "FORWARD_WIDTH", 4)
    x = jnp.ones((1, 7, 7, 4)).at[0, 0, 0, 0].set(jnp.nan).at[0, 6, 6, 1].set(-jnp.nan)  # x86 makes it of inf * 0
    pooled, _ = kernels.module("triton").forward(x, jnp.zeros(4), kernels.Chain(1, None, 3, 2))
    assert jnp.argwhere(jnp.isnan(pooled)).tolist() == [[0, 0, 0, 0], [0, 2, 2, 1]]
