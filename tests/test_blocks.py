"""Layers on accelerators, `blocks` and `kernels`, against the operations that CPUs run."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas

from alexnet_jax import metrics, model, sharding
from alexnet_jax.kernels import Chain, plain
from tests.networks import small


def loss_and_gradients(spec, kernels, data, tower):
    """The summed loss of made-up images, with dropout, and its gradient."""
    params = jax.tree.map(lambda x: 10 * x + 0.1, model.init(spec, jax.random.key(0)))
    image = jax.random.normal(jax.random.key(1), (4, spec.image_size, spec.image_size, 3))
    batch = image, jax.random.split(jax.random.key(2), 4), jnp.arange(4) % spec.num_classes

    def program(params, batch, _):
        image, keys, label = batch
        logits = model.logits(spec, params, image, keys, kernels=kernels)
        return metrics.outcomes(metrics.log_softmax(logits), label)

    forward = sharding.over_towers(program, sharding.make_mesh(data, tower, spec.towers), sharding.EXAMPLES)

    def loss(params):
        return metrics.of_batch(forward(params, batch, None), jnp.ones(4, bool))["loss"].total

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize(
    ("kernels", "mesh"),
    [
        ("plain", (1, 1)),
        pytest.param("plain", (2, 2), marks=pytest.mark.slow),
        pytest.param("triton", (1, 1), marks=pytest.mark.long),  # JAX cannot interpret kernels under `shard_map`
    ],
)
def test_the_network_is_the_same_with_kernels(kernels, mesh, monkeypatch):
    """Towers side by side on one device, one on each, and batches split: bias, normalization and pooling included."""
    monkeypatch.setattr(pallas, "pallas_call", functools.partial(pallas.pallas_call, interpret=True))
    spec = small().model
    ours, expected = (loss_and_gradients(spec, each, *mesh) for each in (kernels, None))
    for (path, x), y in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(expected), strict=True):
        assert y.any() and np.abs(x - y).max() <= 1e-4 * np.abs(y).max(), path


def test_gradients_of_biases_are_added_in_float32():
    """Over all pixels: in 16 bits a sum of equal numbers would stop growing after 2048 of them, or 256."""
    x, grad = jnp.zeros((2, 9, 9, 4), jnp.float16), jnp.zeros((2, 4, 4, 4), jnp.float16)
    chain = Chain(1, None, window=3, stride=2)
    backward = jax.jit(plain.backward, static_argnums=4)
    program = backward.lower(x, x[0, 0, 0], grad.astype(jnp.uint8), grad, chain).as_text()
    sums = re.findall(r"stablehlo\.reduce\(.*applies stablehlo\.add .*", program)
    assert sums and all("xf32>" in line for line in sums), sums
