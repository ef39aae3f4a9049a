"""The update rule against the paper's two lines, and the schedules of the learning rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexnet_jax import optim, run_config
from alexnet_jax.configs import paper
from alexnet_jax.run import config_files
from tests.meshes import uniform_rates

PAPER = config_files.parse(paper.get_config())


def kind(lr_multiplier=1.0, weight_decay=0.0005, max_drops=3):
    return run_config.Kind(lr_multiplier=lr_multiplier, weight_decay=weight_decay, max_drops=max_drops)


def schedule(name, boundaries=(), patience=2, warmup=0.0):
    return run_config.Schedule(
        name=name,
        warmup_epochs=warmup,
        factor=0.1,
        boundaries_epochs=boundaries,
        max_drops=3,
        patience_epochs=patience,
    )


def settings(schedule, **changes):
    values = dict(
        name="momentum",
        learning_rate=0.01,
        momentum=0.9,
        adam_beta2=0.999,
        weights=kind(),
        biases=kind(),
        layers={},
        ema_decay=0.0,
        schedule=schedule,
    )
    return run_config.Optim(**values | changes)


def config(schedule, **changes):
    """Settings for 90 epochs."""
    return PAPER.model_copy(update={"optim": settings(schedule, **changes)})


def layer(weight_decay=None, lr_multipliers=()):
    return run_config.LayerOptim(weight_decay=weight_decay, lr_multipliers=lr_multipliers)


@pytest.mark.parametrize("momentum", ["momentum", "nesterov"])
def test_the_papers_update_across_a_drop_of_the_learning_rate(momentum):
    """v <- 0.9 v - 0.0005 lr w - lr g; w <- w + v: a drop does not shrink the velocity already gained.

    With Nesterov's momentum, w moves by 0.9 v, as v is then, and by what v has just gained.
    """
    rng = np.random.default_rng(0)
    params = {
        name: {"kernel": rng.normal(size=(2, 3)), "bias": rng.normal(size=3)} for name in ("conv1", "conv3", "fc6")
    }
    biases = kind(lr_multiplier=2.0, weight_decay=0.0)
    rule = optim.update_rule(
        settings(schedule("constant"), name=momentum, biases=biases, layers={"fc6": layer(weight_decay=0.1)})
    )
    ours = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
    state = rule.init(ours)
    v = jax.tree.map(np.zeros_like, params)
    step = jax.jit(lambda g, s, p, rates: rule.update(g, s, p, rates=rates))
    for i in range(8):
        lr = 0.1 if i < 3 else 0.01
        grads = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
        frozen = i >= 6
        rates = {name: {"kernel": np.float32(lr), "bias": np.float32(2 * lr)} for name in params}
        if frozen:
            rates["conv1"] = {"kernel": np.float32(0), "bias": np.float32(0)}
        updates, state = step(jax.tree.map(np.float32, grads), state, ours, rates)
        ours = jax.tree.map(lambda p, u: p + u, ours, updates)
        for name, w in params.items():
            if name == "conv1" and frozen:  # does not move, whatever its velocity was
                continue
            g, velocity, decay = grads[name], v[name], 0.1 if name == "fc6" else 0.0005
            gained = {"kernel": -decay * lr * w["kernel"] - lr * g["kernel"], "bias": -2 * lr * g["bias"]}
            for leaf in w:
                velocity[leaf] = 0.9 * velocity[leaf] + gained[leaf]
                w[leaf] = w[leaf] + (velocity[leaf] if momentum == "momentum" else 0.9 * velocity[leaf] + gained[leaf])
        for name, w in params.items():
            for leaf in w:
                np.testing.assert_allclose(ours[name][leaf], w[leaf], rtol=1e-5, atol=1e-6)


@jax.numpy_dtype_promotion("standard")  # inside Optax
def test_adamw_is_optax_adamw():
    rng = np.random.default_rng(0)
    params = {"conv1": {"kernel": rng.normal(size=(2, 3)).astype(np.float32), "bias": np.ones(3, np.float32)}}
    theirs = optax.adamw(1e-3, weight_decay=0.1, mask={"conv1": {"kernel": True, "bias": False}})
    rates = uniform_rates(params, 1e-3)
    biases = kind(weight_decay=0.0)
    rule = optim.update_rule(
        settings(schedule("constant"), name="adamw", weights=kind(weight_decay=0.1), biases=biases)
    )
    state, their_state, their_params = rule.init(params), theirs.init(params), params
    for _ in range(4):
        grads = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
        updates, state = rule.update(grads, state, params, rates=rates)
        params = optax.apply_updates(params, updates)
        updates, their_state = theirs.update(grads, their_state, their_params)
        their_params = optax.apply_updates(their_params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, their_params)


def test_average_of_the_parameters():
    """As TensorFlow documents its ExponentialMovingAverage; what does not move keeps its bits."""
    values = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    values[:, 0] = values[0, 0]
    average, expected = {"w": jnp.asarray(values[0])}, values[0].astype(np.float64)
    for step, new in enumerate(values[1:]):
        average = optim.averaged(average, {"w": jnp.asarray(new)}, 0.7, jnp.int32(step))
        decay = min(0.7, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * new
    np.testing.assert_allclose(average["w"], expected, rtol=1e-5)
    assert average["w"][0] == values[0, 0]


def test_rates_of_the_authors_code():
    """Biases have twice the rate and drop once; conv1 slows down at epoch 68 and is frozen, biases too, at 72."""
    recipe = config(
        schedule("steps", (23, 51, 78)),
        biases=kind(lr_multiplier=2.0, weight_decay=0.0, max_drops=1),
        layers={"conv1": layer(lr_multipliers=((68, 0.1, 1.0), (72, 0.0, 0.0)))},
    )
    expected: dict[int, tuple] = {
        0: ([1e-2, 2e-2], [1e-2, 2e-2]),
        23: ([1e-3, 2e-3], [1e-3, 2e-3]),
        51: ([1e-4, 2e-3], [1e-4, 2e-3]),
        68: ([1e-5, 2e-3], [1e-4, 2e-3]),
        72: ([0, 0], [1e-4, 2e-3]),
        78: ([0, 0], [1e-5, 2e-3]),
    }
    for epoch, layers in expected.items():
        rates = optim.rates(recipe, ("conv1", "fc8"), epoch, optim.Validation())
        assert list(rates) == ["conv1", "fc8"]
        np.testing.assert_allclose([[kinds["kernel"], kinds["bias"]] for kinds in rates.values()], layers, rtol=1e-6)
        assert {rate.dtype.name for kinds in rates.values() for rate in kinds.values()} == {"float32"}


def test_constant_and_steps():
    none = optim.Validation()
    assert optim.learning_rate(config(schedule("constant", (1,))), 80, none) == 0.01
    steps = config(schedule("steps", (23, 51, 78)))
    rates = [optim.learning_rate(steps, epoch, none) for epoch in (0, 22, 23, 50, 51, 77, 78, 89)]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])


def test_warm_up_and_cosine():
    """As Optax's, at every step of epochs of 4; under another schedule the rate only rises before it drops."""
    cosine, expected = config(schedule("cosine", warmup=5.0)), optax.warmup_cosine_decay_schedule(0, 0.01, 20, 360)
    for step in range(361):
        rates = optim.rates(cosine, ["fc8"], step / 4, optim.Validation())["fc8"]
        assert rates == {"kernel": pytest.approx(float(expected(step)), abs=1e-8), "bias": rates["kernel"]}
        assert optim.learning_rate(cosine, step / 4, optim.Validation()) == pytest.approx(rates["kernel"])
    steps = config(schedule("steps", (2, 8), warmup=4.0))
    rising = [optim.learning_rate(steps, epoch, optim.Validation()) for epoch in (0, 1, 3, 4, 7.75, 8)]
    assert rising == pytest.approx([0, 0.0025, 0.00075, 0.001, 0.001, 0.0001])


def test_plateau_drops_three_times_when_the_error_stops_improving():
    plateau = config(schedule("plateau"))
    history, rates = optim.Validation(), []
    errors = [0.9, 0.8, 0.85, 0.8, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.6]
    for epoch, error in enumerate(errors, start=1):
        history = optim.validated(history, 10 * epoch, error, patience_steps=20, max_drops=3)
        rates.append(optim.learning_rate(plateau, epoch, history))
    assert rates == pytest.approx([0.01] * 3 + [0.001] * 3 + [1e-4] * 2 + [1e-5] * 6)
    assert history == optim.Validation(step=140, best_error=0.6, best_step=140, drops=3)
