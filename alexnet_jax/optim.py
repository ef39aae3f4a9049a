"""The paper's update rule and its learning rate.

Paper section 5, with v the momentum, w a parameter, g its mean gradient over the batch and lr the learning rate:

    v <- 0.9 v - 0.0005 lr w - lr g
    w <- w + v

Learning rate and weight decay are inside v, so a drop of the rate does not shrink the speed already gained.
"""

from typing import Any, NamedTuple

import jax
import optax

from alexnet_jax import config


def momentum_sgd(momentum: float, weights: config.Kind, biases: config.Kind) -> optax.GradientTransformationExtraArgs:
    """The rule above. `update` takes the learning rate as the keyword `learning_rate`, a float32 scalar."""
    return optax.chain(
        optax.add_decayed_weights(weights.weight_decay, mask=lambda params: _by_kind(params, True, False)),
        optax.add_decayed_weights(biases.weight_decay, mask=lambda params: _by_kind(params, False, True)),
        _descend(weights.lr_multiplier, biases.lr_multiplier),
        optax.trace(momentum),
    )


def _by_kind(params: Any, weight: Any, bias: Any) -> Any:
    """A tree like `params` with `bias` at the leaves of that name and `weight` elsewhere."""
    return jax.tree.map_with_path(lambda path, _: bias if path[-1].key == "bias" else weight, params)


def _descend(weight_multiplier: float, bias_multiplier: float) -> optax.GradientTransformationExtraArgs:
    def update(updates, state, params=None, *, learning_rate, **_):
        multipliers = _by_kind(updates, weight_multiplier, bias_multiplier)
        return jax.tree.map(lambda m, u: -learning_rate * m * u, multipliers, updates), state

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


def learning_rate(optim: config.Optim, epoch: int, validation: Validation) -> float:
    """The learning rate in `epoch`, counted from 0."""
    drops = {
        "constant": 0,
        "steps": sum(epoch >= boundary for boundary in optim.schedule.boundaries_epochs),
        "plateau": validation.drops,
    }[optim.schedule.name]
    return optim.learning_rate * optim.schedule.factor**drops
