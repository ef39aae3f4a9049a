"""The training of the two recipes against NumPy in float64: update rules, learning rates, independence of the mesh."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import augment, optim, run_config, sharding
from alexnet_jax.configs import code2012
from tests.conftest import made_up_statistics, random_batch
from tests.meshes import MESHES, train, worst_difference
from tests.recipes import CODE, TEXT
from tests.tiny import tiny_config


def text_rates(epoch: int) -> dict[str, tuple[float, float]]:
    """Paper 5, of weights and biases: the rate drops three times, for all alike; here when the authors lowered it."""
    rate = 0.01 * 10.0 ** -((epoch >= 23) + (epoch >= 51) + (epoch >= 78))
    return {"conv1": (rate, rate), "conv2": (rate, rate), "fc8": (rate, rate)}


def code_rates(epoch: int) -> dict[str, tuple[float, float]]:
    """The log of 2010: .01; 23 .001; 51 1e-4; 68 conv1 1e-5; 72 conv1 0; 78 others 1e-5. Biases .02; 23 .002."""
    weights = 0.01 if epoch < 23 else 1e-3 if epoch < 51 else 1e-4 if epoch < 78 else 1e-5
    biases = 0.02 if epoch < 23 else 0.002
    conv1 = (weights, biases) if epoch < 68 else (1e-5, biases) if epoch < 72 else (0.0, 0.0)
    return {"conv1": conv1, "conv2": (weights, biases), "fc8": (weights, biases)}


@pytest.mark.parametrize(
    ("recipe", "expected_rates", "bias_decay"), [(TEXT, text_rates, 0.0005), (CODE, code_rates, 0.0)]
)
def test_update_rules_over_93_short_epochs(recipe: run_config.Config, expected_rates: Callable, bias_decay: float):
    """v <- 0.9 v - decay rate w - rate g; w <- w + v; a rate of 0 freezes. Four steps per epoch."""
    rng = np.random.default_rng(0)
    expected = {
        name: {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)} for name in ("conv1", "conv2", "fc8")
    }
    velocity = jax.tree.map(np.zeros_like, expected)
    rule = optim.update_rule(recipe.optim)
    params = jax.tree.map(np.float32, expected)
    state = rule.init(params)
    step = jax.jit(lambda g, s, p, rates: rule.update(g, s, p, rates=rates))
    conv1_at_71 = {}
    for epoch in range(93):
        validation = optim.Validation(drops=(epoch >= 23) + (epoch >= 51) + (epoch >= 78))  # for the plateau schedule
        rates = optim.rates(recipe, expected, epoch, validation)
        for name, of_kinds in expected_rates(epoch).items():
            np.testing.assert_allclose([rates[name]["kernel"], rates[name]["bias"]], of_kinds, rtol=1e-6)
        for _ in range(4):
            grads = jax.tree.map(lambda w: 0.05 * rng.normal(size=w.shape) + 0.02 * w, expected)
            updates, state = step(jax.tree.map(np.float32, grads), state, params, rates)
            params = jax.tree.map(np.add, params, updates)
            for name, layer in expected.items():
                for leaf, rate, decay in zip(
                    ("kernel", "bias"), expected_rates(epoch)[name], (0.0005, bias_decay), strict=True
                ):
                    update = np.asarray(updates[name][leaf])
                    if rate:
                        v, w, g = velocity[name][leaf], layer[leaf], grads[name][leaf]
                        velocity[name][leaf] = v = 0.9 * v - decay * rate * w - rate * g
                        layer[leaf] = w + v
                        np.testing.assert_allclose(update, v, rtol=2e-5, atol=1e-5 * np.abs(update).max())
                    else:
                        assert not update.any()
        if epoch == 71:
            conv1_at_71 = jax.device_get(params["conv1"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), params, expected)
    frozen = all((params["conv1"][leaf] == conv1_at_71[leaf]).all() for leaf in conv1_at_71)
    assert frozen == (recipe is CODE)


def test_a_drop_of_the_rate_keeps_the_velocity():
    """The first update after a drop is nine tenths of the last one before it, not nine hundredths."""
    rule = optim.update_rule(CODE.optim)
    params = {"conv2": {"kernel": np.zeros((1, 1), np.float32), "bias": np.zeros(1, np.float32)}}
    grads = jax.tree.map(np.ones_like, params)
    before, after = (optim.rates(CODE, params, epoch, optim.Validation()) for epoch in (22, 23))
    first, state = rule.update(grads, rule.init(params), params, rates=before)
    second, _ = rule.update(jax.tree.map(np.zeros_like, grads), state, params, rates=after)
    assert np.asarray(second["conv2"]["kernel"]) == pytest.approx(0.9 * np.asarray(first["conv2"]["kernel"]), rel=1e-6)


@pytest.mark.slow
def test_shared_crops_do_not_depend_on_the_mesh():
    """A device with half of the batch crops it as a device with the whole batch does."""
    statistics, batch = made_up_statistics(), random_batch(16)
    settings = CODE.augment.model_copy(update={"shared_by": 4})

    def program(params, batch, statistics):
        keys, _ = augment.example_keys(0, jnp.int32(0), batch.example)
        return augment.training_view(batch.image, keys, statistics, 28, settings, jnp.int32(0))

    views = {}
    for name, (data, tower, _) in MESHES.items():
        mesh = sharding.make_mesh(data, tower, 2)
        placed = sharding.put(batch, mesh, sharding.EXAMPLES)
        constants = sharding.put(statistics, mesh, sharding.REPLICATED)
        params = sharding.put(np.zeros(2, np.float32), mesh, sharding.TOWERS)
        views[name] = np.asarray(
            jax.jit(sharding.over_towers(program, mesh, sharding.EXAMPLES))(params, placed, constants)
        )
    for name in MESHES:
        np.testing.assert_allclose(views[name], views["1x1"], rtol=1e-5, atol=1e-4, err_msg=name)


def small_code2012() -> object:
    """The authors' recipe on the layers of `tiny_config`, without noise from the second epoch on."""
    values, code = tiny_config(), code2012.get_config()
    for name in ("conv1", "conv2", "conv5"):
        values.model[name].then = code.model[name].then
    values.model.lrn.update(code.model.lrn)
    values.augment.update(code.augment)
    values.augment.update(shared_by=4, colour_noise_epochs=1)
    values.optim.update(code.optim)
    return values


@pytest.mark.slow
def test_training_as_the_code_does_not_depend_on_the_mesh():
    batches, statistics = [random_batch(seed=i) for i in range(4)], made_up_statistics()
    (losses, first, state), (serial_losses, serial_first, serial_state) = (
        train(small_code2012(), mesh, statistics, batches) for mesh in ("2x2", "1x1")
    )
    np.testing.assert_allclose(losses, serial_losses, rtol=1e-5)
    assert worst_difference(first, serial_first) < 1e-5
    assert worst_difference(state.params, serial_state.params) < 1e-5
