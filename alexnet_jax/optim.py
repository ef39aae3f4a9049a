"""The paper's update rule and its learning rate.

Paper section 5, with v the momentum, w a parameter, g its mean gradient over the batch and lr the learning rate:

    v <- 0.9 v - 0.0005 lr w - lr g
    w <- w + v

Learning rate and weight decay are inside v, so a drop of the rate does not shrink the speed already gained.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from alexnet_jax import run_config


def update_rule(optim: run_config.Optim) -> optax.GradientTransformationExtraArgs:
    """The rule above, or AdamW. `update` takes the learning rates, as `rates` gives them, as the keyword `rates`.

    A rate of 0 leaves its parameters as they are, whatever the momentum, as in the authors' code.
    """
    if optim.name == "adamw":
        return optax.chain(optax.scale_by_adam(optim.momentum, optim.adam_beta2), _decay(optim), _descend(), _hold())
    return optax.chain(_decay(optim), _descend(), optax.trace(optim.momentum), _hold())


def _leaf(path: Any) -> tuple[str, int]:
    """Layer, and place of its rate, of a parameter: params[layer]["kernel" or "bias"]."""
    return path[0].key, int(path[-1].key == "bias")


def _decay(optim: run_config.Optim) -> optax.GradientTransformation:
    def decay(path: Any) -> float:
        layer, is_bias = _leaf(path)
        own = optim.layers[layer].weight_decay if layer in optim.layers else None
        return optim.biases.weight_decay if is_bias else optim.weights.weight_decay if own is None else own

    return optax.stateless(
        lambda grads, params: jax.tree.map_with_path(lambda k, g, p: g + decay(k) * p, grads, params)
    )


def _descend() -> optax.GradientTransformationExtraArgs:
    return _with_rates(lambda rate, u: -rate * u)


def _hold() -> optax.GradientTransformationExtraArgs:
    return _with_rates(lambda rate, u: jnp.where(rate > 0, u, 0.0))


def _with_rates(function: Callable[[Array, Array], Array]) -> optax.GradientTransformationExtraArgs:
    def update(updates, state, params=None, *, rates, **_):
        row = {layer: i for i, layer in enumerate(sorted(updates))}

        def one(path, u):
            layer, kind = _leaf(path)
            return function(rates[row[layer], kind], u)

        return jax.tree.map_with_path(one, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


class Validation(NamedTuple):
    """What validation has said so far. It is saved with the checkpoint: the plateau schedule depends on it."""

    step: int = 0  # when validation last ran
    best_error: float = 1.0  # top-1
    best_step: int = 0  # when it was reached, or when the learning rate last dropped
    drops: int = 0  # of the learning rate


def validated(validation: Validation, step: int, error: float, patience_steps: int, max_drops: int) -> Validation:
    """The record after a validation at `step` found the top-1 error `error`.

    Paper section 5: the learning rate drops when the error stopped improving, here for `patience_steps`.
    """
    best_error, best_step, drops = validation.best_error, validation.best_step, validation.drops
    if error < best_error:
        best_error, best_step = error, step
    elif step - best_step >= patience_steps and drops < max_drops:
        best_step, drops = step, drops + 1
    return Validation(step, best_error, best_step, drops)


def learning_rate(optim: run_config.Optim, epoch: int, validation: Validation) -> float:
    """The learning rate in `epoch`, counted from 0, of a layer that nothing is different for."""
    return optim.learning_rate * optim.schedule.factor ** _drops(optim.schedule, epoch, validation)


def rates(optim: run_config.Optim, layers: Iterable[str], epoch: int, validation: Validation) -> np.ndarray:
    """The learning rates in `epoch`: [layers, 2] float32, of weights and biases, the layers sorted by name."""
    drops = _drops(optim.schedule, epoch, validation)
    of_kinds = [
        optim.learning_rate * kind.lr_multiplier * optim.schedule.factor ** min(drops, kind.max_drops)
        for kind in (optim.weights, optim.biases)
    ]
    found = []
    for layer in sorted(layers):
        changes = optim.layers[layer].lr_multipliers if layer in optim.layers else ()
        multiplier = next((of for start, of in sorted(changes, reverse=True) if epoch >= start), 1.0)
        found.append((of_kinds[0] * multiplier, of_kinds[1] * (multiplier > 0)))
    return np.array(found, np.float32)


def _drops(schedule: run_config.Schedule, epoch: int, validation: Validation) -> int:
    return {
        "constant": 0,
        "steps": sum(epoch >= boundary for boundary in schedule.boundaries_epochs),
        "plateau": validation.drops,
    }[schedule.name]
