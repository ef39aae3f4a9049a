"""Layers on accelerators, `blocks` and `kernels`, against the operations that CPUs run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import metrics, model, sharding
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


@pytest.mark.parametrize("mesh", [(1, 1), (1, 2), (2, 2)])
def test_the_network_is_the_same_with_kernels(mesh):
    """Towers side by side on one device, one on each, and batches split: bias, normalization and pooling included."""
    spec = small().model
    ours, expected = (loss_and_gradients(spec, kernels, *mesh) for kernels in ("plain", None))
    for (path, x), y in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(expected), strict=True):
        assert y.any() and np.abs(x - y).max() <= 1e-4 * np.abs(y).max(), path
