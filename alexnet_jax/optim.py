"""The paper's update rule and its learning rate.

Paper section 5, with v the momentum, w a parameter, g its mean gradient over the batch and lr the learning rate:

    v <- 0.9 v - 0.0005 lr w - lr g
    w <- w + v

Learning rate and weight decay are inside v, so a drop of the rate does not shrink the velocity already gained.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from alexnet_jax import run_config

Rates = dict[str, dict[str, np.float32]]  # {layer: {"kernel", "bias"}}; a scale (`batch_norm`) has that of the bias


def update_rule(optim: run_config.Optim) -> optax.GradientTransformationExtraArgs:
    """The rule above, plain or with Nesterov's momentum, or AdamW.

    With Nesterov's, w <- w + 0.9 v - 0.0005 lr w - lr g, after v has changed. `update` takes the learning rates, as
    `rates` returns them, as the keyword `rates`. A parameter whose rate is 0 does not move, whatever its momentum, as
    in the authors' code.
    """
    own = {name: layer.weight_decay for name, layer in optim.layers.items() if layer.weight_decay is not None}
    weights, biases = optim.weights.weight_decay, optim.biases.weight_decay

    @optax.stateless
    def decay(grads, params):
        decays = {name: {"kernel": own.get(name, weights), "bias": biases, "scale": 0.0} for name in params}
        return jax.tree.map(lambda decay, g, p: g + decay * p, _for(params, decays), grads, params)

    descend = _with_rates(lambda rate, u: -rate * u)
    hold = _with_rates(lambda rate, u: jnp.where(rate > 0, u, 0.0))
    if optim.name == "adamw":
        return optax.chain(optax.scale_by_adam(optim.momentum, optim.adam_beta2), decay, descend, hold)
    return optax.chain(decay, descend, optax.trace(optim.momentum, nesterov=optim.name == "nesterov"), hold)


def _with_rates(function: Callable[[Array, Array], Array]) -> optax.GradientTransformationExtraArgs:
    """Apply `function(rate, update)` to each parameter."""

    def update(updates, state, params=None, *, rates, **_):
        rates = {name: kinds | {"scale": kinds["bias"]} for name, kinds in rates.items()}
        return jax.tree.map(function, _for(updates, rates), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _for(params: Any, values: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The values for the parameters that there are: without batch normalization, a layer has no scale."""
    return {name: {kind: values[name][kind] for kind in kinds} for name, kinds in params.items()}


def averaged(average: Any, params: Any, decay: float, step: Array) -> Any:
    """The exponential moving average of the parameters after `step`, counted from 0, from the average before it.

    Its decay rises to `decay` as in TensorFlow's ExponentialMovingAverage, lest the start weigh for long.
    """
    part = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: old + part * (new - old), average, params)  # keeps what does not move


class LossScale(NamedTuple):
    """What the loss is multiplied by before its gradient is taken, as it adapts. Scalars on the devices."""

    scale: Array  # float32
    steps: Array  # int32: since it last changed
    skipped: Array  # int32: steps of the run whose gradients were not finite


class Scaled(NamedTuple):
    """The state of `with_loss_scale`."""

    loss_scale: LossScale
    rule: Any  # the state of the update rule


def loss_scale(opt_state: Any) -> LossScale | None:
    """That of a training state; None unless it trains in float16."""
    return opt_state.loss_scale if isinstance(opt_state, Scaled) else None


def with_loss_scale(
    rule: optax.GradientTransformationExtraArgs, settings: run_config.LossScale
) -> optax.GradientTransformationExtraArgs:
    """The rule for gradients of a loss that was multiplied by `LossScale.scale`, as in arXiv:1710.03740, section 3.2.

    Gradients that are not finite move nothing and halve the scale. It doubles after `growth_interval_steps` without
    such a step. A scale below 1 says that gradients overflow without any scaling.
    """

    def init(params):
        scale = jnp.asarray(settings.initial, jnp.float32)
        return Scaled(LossScale(scale, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)), rule.init(params))

    def update(grads, state, params=None, **rates):
        (scale, steps, skipped), before = state
        finite = jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(grads)]).all()
        updates, after = rule.update(jax.tree.map(lambda g: g / scale, grads), before, params, **rates)
        after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, before)
        updates = jax.tree.map(lambda u: jnp.where(finite, u, -0.0), updates)  # 0.0 would turn a -0.0 into 0.0
        grows = finite & (steps + 1 >= settings.growth_interval_steps)
        larger = jnp.minimum(2 * scale, settings.largest)
        scale = jnp.where(finite, jnp.where(grows, larger, scale), scale / 2)
        steps = jnp.where(finite & ~grows, steps + 1, 0)
        return updates, Scaled(LossScale(scale, steps, jnp.where(finite, skipped, skipped + 1)), after)

    return optax.GradientTransformationExtraArgs(init, update)


class Validation(NamedTuple):
    """The history of validation as the plateau schedule needs it, saved with each checkpoint."""

    step: int = 0  # of the last validation
    best_error: float = 1.0  # the lowest top-1 error so far
    best_step: int = 0  # when it was reached, or when the learning rate last dropped if that is later
    drops: int = 0  # of the learning rate


def validated(validation: Validation, step: int, error: float, patience_steps: int, max_drops: int) -> Validation:
    """The history after a validation. The rate drops once the top-1 error stops improving (paper section 5)."""
    if error < validation.best_error:
        return Validation(step, error, step, validation.drops)
    if step - validation.best_step >= patience_steps and validation.drops < max_drops:
        return Validation(step, validation.best_error, step, validation.drops + 1)
    return validation._replace(step=step)


def learning_rate(config: run_config.Config, epoch: float, validation: Validation) -> float:
    """The learning rate in `epoch`, counted from 0, before the multipliers of weights, biases and layers."""
    schedule = config.optim.schedule
    return _smooth(config, epoch) * schedule.factor ** _drops(schedule, epoch, validation)


def rates(config: run_config.Config, layers: Iterable[str], epoch: float, validation: Validation) -> Rates:
    """The learning rate in `epoch`, counted from 0, of each parameter of `layers`."""
    optim, smooth = config.optim, _smooth(config, epoch)
    drops = _drops(optim.schedule, epoch, validation)
    weights, biases = (
        smooth * kind.lr_multiplier * optim.schedule.factor ** min(drops, kind.max_drops)
        for kind in (optim.weights, optim.biases)
    )

    def of_layer(name: str) -> dict[str, np.float32]:
        changes = optim.layers[name].lr_multipliers if name in optim.layers else ()
        _, of_weights, of_biases = max((change for change in changes if change[0] <= epoch), default=(0, 1.0, 1.0))
        return {"kernel": np.float32(weights * of_weights), "bias": np.float32(biases * of_biases)}

    return {name: of_layer(name) for name in layers}


def is_frozen(settings: run_config.Optim, layer: str, epoch: Array) -> Array:
    """Whether the weights of a layer have the rate 0 in `epoch`."""
    changes = sorted(settings.layers[layer].lr_multipliers) if layer in settings.layers else []
    frozen = jnp.bool_(False)
    for start, of_weights, _ in changes:
        frozen = jnp.where(epoch >= start, of_weights == 0, frozen)
    return frozen


def _smooth(config: run_config.Config, epoch: float) -> float:
    """The learning rate without drops: it rises over the warm-up, and then falls as half a cosine if that is chosen."""
    schedule, rate = config.optim.schedule, config.optim.learning_rate
    if epoch < schedule.warmup_epochs:
        return rate * epoch / schedule.warmup_epochs
    if schedule.name == "cosine":  # arXiv:1608.03983, without restarts
        part = (epoch - schedule.warmup_epochs) / (config.train.epochs - schedule.warmup_epochs)
        return rate * (1 + math.cos(math.pi * part)) / 2
    return rate


def _drops(schedule: run_config.Schedule, epoch: float, validation: Validation) -> int:
    if schedule.name == "steps":
        return sum(epoch >= boundary for boundary in schedule.boundaries_epochs)
    return validation.drops if schedule.name == "plateau" else 0
