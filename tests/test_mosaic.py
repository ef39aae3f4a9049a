"""TPU kernels, interpreted on the CPU, against the operations that CPUs run."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import augment
from alexnet_jax.kernels import Chain, mosaic, mosaic_views, plain
from alexnet_jax.model_config import Lrn
from tests.networks import small
from tests.test_augment import settings
from tests.test_blocks import loss_and_gradients


def lrn(n: int = 5, beta: float = 0.75) -> Lrn:
    return Lrn(k=2.0, n=n, alpha=0.02, beta=beta, across_towers=False)  # alpha is large enough for the sum to matter


# [B, H, W, towers * C], towers, normalization, type. The last row and column of an even side are in no window; 12
# channels do not fill registers of 8, and 130 examples fill one of 128 and begin another.
CASES: dict[str, tuple[Any, ...]] = {
    "two towers": ((3, 7, 8, 32), 2, lrn(), jnp.float32),
    "one tower": ((130, 6, 5, 12), 1, lrn(), jnp.float32),
    "wide windows": ((2, 3, 4, 12), 2, lrn(n=9, beta=0.5), jnp.float32),
    "without normalization": ((2, 8, 7, 16), 1, None, jnp.float32),
    "bfloat16": ((3, 7, 9, 32), 2, lrn(), jnp.bfloat16),
    "other windows": ((2, 8, 9, 16), 2, lrn(), jnp.float32),
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case == "two towers" else pytest.mark.long) for case in CASES]
)
def test_a_chain_and_its_gradients(case):
    shape, towers, normalization, dtype = CASES[case]
    window, stride = (2, 2) if case == "other windows" else (3, 2)
    chain = Chain(towers, normalization, window, stride)
    rng = np.random.default_rng(0)
    # Thirds of integers, half of them negative: many equal maxima, zeros above all
    x = jnp.asarray(rng.integers(-9, 9, shape) / 3, dtype)
    bias = jnp.asarray(rng.integers(-2, 2, shape[-1]) / 3, dtype)
    # What the kernels compute in float32 from factors in bfloat16, `plain` does when all its inputs are float32.
    exact = functools.partial(jax.tree.map, lambda a: a.astype(jnp.float32))
    pooled, index = jax.jit(functools.partial(mosaic.forward, chain=chain, interpret=True))(x, bias)
    expected, expected_index = jax.jit(functools.partial(plain.forward, chain=chain))(*exact((x, bias)))
    np.testing.assert_array_equal(index, expected_index)
    grad = jnp.asarray(rng.normal(size=pooled.shape), dtype)
    ours = jax.jit(functools.partial(mosaic.backward, chain=chain, interpret=True))(x, bias, index, grad)
    gradient = jax.jit(functools.partial(plain.backward, chain=chain))
    theirs = gradient(*exact((x, bias)), expected_index, *exact((grad,)))
    rounding = 4 * float(jnp.finfo(dtype).eps)
    for a, b in zip((pooled, *ours), (expected, *theirs), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(exact(a), b, rtol=rounding, atol=rounding * float(abs(b).max()))


@pytest.mark.long
@pytest.mark.parametrize("data", [1, 2])
def test_the_network_is_the_same_with_kernels(data, monkeypatch):
    """Towers side by side on one device, and on each of two."""
    spec = small().model
    expected = loss_and_gradients(spec, None, 1, 1)
    for name in ("forward", "backward"):
        monkeypatch.setattr(mosaic, name, functools.partial(getattr(mosaic, name), interpret=True))
    ours = loss_and_gradients(spec, "mosaic", data, 1)
    for (path, x), y in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(expected), strict=True):
        assert y.any() and np.abs(x - y).max() <= 1e-4 * np.abs(y).max(), path


VIEWS = {
    "paper": settings(colour_noise_std=0.1),
    "code of 2012": settings(
        mean_crop="centre", colour_noise_std=0.1, colour_noise_shrinks=True, colour_noise_epochs=1, shared_by=2
    ),
    "plain crops": settings(flip=False),
}


@pytest.mark.parametrize("stored,size", [(32, 28), (130, 129)])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "paper" else pytest.mark.long) for name in VIEWS]
)
def test_views(name, stored, size, monkeypatch):
    monkeypatch.setattr(mosaic_views, "views", functools.partial(mosaic_views.views, interpret=True))
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, stored, stored, 3), dtype=np.uint8)
    mean = rng.uniform(0, 255, (stored, stored, 3)).astype(np.float32)
    statistics = augment.Statistics(mean, np.array([3.0, 20, 100], np.float32), np.eye(3, dtype=np.float32))
    keys, _ = augment.example_keys(0, np.int32(0), np.arange(8))
    for epoch in (0, 1):
        common = image, keys, statistics, size, VIEWS[name], np.int32(epoch), jnp.float32
        ours, theirs = (augment.training_view(*common, kernel) for kernel in ("mosaic", None))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-4)
