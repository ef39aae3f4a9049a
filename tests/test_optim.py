"""The update rule against the paper's two lines, and the learning rate's schedules."""

import jax
import numpy as np
import pytest

from alexnet_jax import config, optim


def kind(lr_multiplier=1.0, weight_decay=0.0005):
    return config.Kind(lr_multiplier=lr_multiplier, weight_decay=weight_decay)


def test_the_papers_update_across_a_drop_of_the_learning_rate():
    """v <- 0.9 v - 0.0005 lr w - lr g; w <- w + v: after the drop the old speed goes on undiminished."""
    rng = np.random.default_rng(0)
    params = {"conv1": {"kernel": rng.normal(size=(2, 3)), "bias": rng.normal(size=3)}}
    rule = optim.momentum_sgd(0.9, kind(), kind(lr_multiplier=2.0, weight_decay=0.0))
    ours = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
    state = rule.init(ours)
    v = jax.tree.map(np.zeros_like, params)
    step = jax.jit(lambda g, s, p, lr: rule.update(g, s, p, learning_rate=lr))
    for i in range(6):
        lr = 0.1 if i < 3 else 0.01
        grads = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
        updates, state = step(jax.tree.map(np.float32, grads), state, ours, np.float32(lr))
        ours = jax.tree.map(lambda p, u: p + u, ours, updates)
        layer, g, speed = params["conv1"], grads["conv1"], v["conv1"]
        speed["kernel"] = 0.9 * speed["kernel"] - 0.0005 * lr * layer["kernel"] - lr * g["kernel"]
        speed["bias"] = 0.9 * speed["bias"] - 2 * lr * g["bias"]
        params = {"conv1": {name: layer[name] + speed[name] for name in layer}}
        for name in layer:
            np.testing.assert_allclose(ours["conv1"][name], params["conv1"][name], rtol=1e-5, atol=1e-6)


def schedule(name, boundaries=(), patience=2):
    return config.Schedule(name=name, factor=0.1, boundaries_epochs=boundaries, max_drops=3, patience_epochs=patience)


def settings(schedule):
    return config.Optim(learning_rate=0.01, momentum=0.9, weights=kind(), biases=kind(), schedule=schedule)


def test_constant_and_steps():
    none = optim.Validation()
    assert optim.learning_rate(settings(schedule("constant", (1,))), 80, none) == 0.01
    steps = settings(schedule("steps", (23, 51, 78)))
    rates = [optim.learning_rate(steps, epoch, none) for epoch in (0, 22, 23, 50, 51, 77, 78, 89)]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])


def test_plateau_drops_three_times_when_the_error_stops_improving():
    plateau = settings(schedule("plateau"))
    record, rates = optim.Validation(), []
    errors = [0.9, 0.8, 0.85, 0.8, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.6]
    for epoch, error in enumerate(errors, start=1):
        record = optim.validated(record, 10 * epoch, error, patience_steps=20, max_drops=3)
        rates.append(optim.learning_rate(plateau, epoch, record))
    one, two, three, four = 0.01, 0.001, 1e-4, 1e-5
    assert rates == pytest.approx([one] * 3 + [two] * 3 + [three] * 2 + [four] * 6)
    assert record == optim.Validation(step=140, best_error=0.6, best_step=140, drops=3)
