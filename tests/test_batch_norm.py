"""Batch normalization: against Flax's, on any mesh, its running averages, and folded into plain layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import batch_norm, metrics, model, model_config, sharding, steps
from alexnet_jax.batch_norm import Examples
from alexnet_jax.configs import paper, variants
from alexnet_jax.errors import UserError
from alexnet_jax.run import config_files
from tests.conftest import random_batch
from tests.meshes import on_mesh, uniform_rates
from tests.tiny import tiny_config

NORMALIZED = ("conv1", "conv2", "fc6")


def few_layers():
    """Two convolutions and one hidden layer, all normalized."""
    values = tiny_config()
    for name in ("conv3", "conv4", "conv5", "fc7"):
        values.model[name] = None
    values.model.conv2.exchange = True
    variants.apply(values, ["batch_norm"])
    return values


def test_a_layer_is_that_of_flax():
    """With an example masked out: output, gradients, and the running averages that follow."""
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (5, 4, 4, 6)).astype(np.float32)
    weight = rng.normal(size=x.shape).astype(np.float32)
    mask = np.array([True, True, False, True, True])
    weight[~mask] = 0
    scale, bias, mean, variance = rng.uniform(0.5, 2, (4, 6)).astype(np.float32)
    settings = model_config.BatchNorm(epsilon=0.1, momentum=0.8)
    theirs = nn.BatchNorm(use_running_average=False, momentum=0.8, epsilon=0.1, use_fast_variance=False)

    def reference(x, scale, bias):
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": variance}}
        y, after = theirs.apply(variables, x, mask=mask[:, None, None, None], mutable=["batch_stats"])
        return (weight * y).sum(), after["batch_stats"]

    def ours(x, scale, bias):
        params = {"scale": scale, "mean": mean, "variance": variance}
        y, taken = batch_norm.normalize(x, params, bias, mask, False, settings.epsilon)
        after = batch_norm.with_averages({"conv1": {}}, {"conv1": params}, {"conv1": taken}, settings)
        return (weight * y).sum(), after["conv1"]

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        (expected, averages), their_grads = jax.value_and_grad(reference, (0, 1, 2), has_aux=True)(x, scale, bias)
    (value, after), grads = jax.value_and_grad(ours, (0, 1, 2), has_aux=True)(x, scale, bias)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        (value, after["mean"], after["variance"], grads),
        (expected, averages["mean"], averages["var"], their_grads),
    )


def loss_gradients_and_averages(data, tower):
    """Of made-up images with dropout, of which one does not count; conv2 is frozen."""
    spec = config_files.parse(few_layers()).model
    params = model.init(spec, jax.random.key(0))
    image = jax.random.normal(jax.random.key(1), (8, 28, 28, 3))
    batch = image, jax.random.split(jax.random.key(2), 8), jnp.arange(8) % 10, jnp.arange(8) != 1

    def program(params, batch, _):
        image, keys, label, mask = batch
        logits, taken = model.outputs(spec, params, image, keys, Examples(mask, {"conv2": jnp.bool_(True)}))
        return metrics.outcomes(metrics.log_softmax(logits), label), taken

    out = (sharding.EXAMPLES, sharding.TOWERS)
    forward = sharding.over_towers(program, sharding.make_mesh(data, tower, spec.towers), out)

    def loss(params):
        outcomes, taken = forward(params, batch, None)
        return metrics.of_batch(outcomes, batch[3])["loss"].total, taken

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params), params


@pytest.fixture(scope="module")
def serial():
    return loss_gradients_and_averages(1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(2, 2), *(pytest.param(mesh, marks=pytest.mark.long) for mesh in ((2, 1), (1, 2)))])
def test_meshes_agree(mesh, serial):
    """The statistics are those of the whole batch, of which one part has an example less that counts."""
    ours, (expected, params) = loss_gradients_and_averages(*mesh)[0], serial
    for (path, x), y in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(expected), strict=True):
        assert np.abs(x - y).max() <= 1e-4 * np.abs(y).max(), path
    (_, taken), grads = expected
    for name in NORMALIZED:  # a frozen layer has taken its running averages
        assert all(np.array_equal(taken[name][kind], params[name][kind]) == (name == "conv2") for kind in taken[name])
        assert grads[name]["scale"].any() and grads[name]["bias"].any()


@pytest.mark.slow
def test_running_averages_of_a_training_step(statistics):
    """They move by the statistics of the batch, have no momentum, and those of frozen layers stay."""
    values = few_layers()
    values.optim.layers.conv1 = paper.layer(lr_multipliers=((0, 0.0, 0.0), (1, 0.1, 0.1)))
    cfg, mesh, state, batch, constants = on_mesh(values, "1x1", random_batch(), statistics)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))  # the step would be compiled once more
    before = jax.device_get(state.params)
    assert all(
        not {"mean", "variance"} & {key.key for key in path if hasattr(key, "key")}
        for path, _ in jax.tree.leaves_with_path(state.opt_state)
    )
    rates = uniform_rates(before) | {"conv1": {"kernel": np.float32(0), "bias": np.float32(0)}}
    step = steps.make_train_step(cfg, mesh, steps_per_epoch=100)
    after = jax.device_get(step(state, batch, rates, constants, sharding.votes(False, mesh))[0].params)
    jax.tree.map(np.testing.assert_array_equal, after["conv1"], before["conv1"])
    for name in NORMALIZED[1:]:
        assert all((after[name][kind] != before[name][kind]).any(axis=1).all() for kind in before[name])


def test_a_folded_network_is_the_normalized_one():
    """Also where each pixel has kernels of its own."""
    values = few_layers()
    values.model.conv2.shared = False
    spec = config_files.parse(values).model
    keys = iter(jax.random.split(jax.random.key(0), 99))
    params = jax.tree.map(lambda x: x + jax.random.uniform(next(keys), x.shape), model.init(spec, next(keys)))
    image = jax.random.normal(next(keys), (3, 28, 28, 3))
    frozen = Examples(jnp.ones(3, bool), dict.fromkeys(NORMALIZED, jnp.bool_(True)))

    def both(params):
        return model.logits(spec, params, image, None), model.Tower(spec).apply({"params": params}, image, None, frozen)

    plain, normalized = jax.jit(jax.vmap(both, axis_name=sharding.TOWER))(params)
    np.testing.assert_allclose(plain, normalized, rtol=1e-4)
    of_all, of_each = batch_norm.folded(spec, params)[1], jax.vmap(lambda p: batch_norm.folded(spec, p)[1])(params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), of_all, of_each)


def test_parts_of_a_batch_have_no_statistics_of_the_whole():
    values = few_layers()
    values.train.virtual_shards = 2
    with pytest.raises(UserError, match=r"train.virtual_shards=2 .* conv1 is normalized over the whole batch; give 0"):
        config_files.parse(values)
