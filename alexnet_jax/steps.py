"""What runs on the devices, each a single jitted call: a training step, an evaluation step, log-probabilities."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from alexnet_jax import augment, batch_norm, compiling, kernels, metrics, model, optim, sharding, virtual_shards
from alexnet_jax.run_config import Config


class TrainState(flax.struct.PyTreeNode):
    """All that training carries from step to step. Arrays [tower, ...] live on P("tower"), scalars on P()."""

    step: Array  # int32: steps taken
    params: Any  # {layer: {"kernel", "bias"}}, with batch normalization also those of `batch_norm.STARTS`
    average: Any  # of the parameters over the steps, by `optim.averaged`; None with `optim.ema_decay` 0
    opt_state: Any  # the momentum of `batch_norm.trained(params)`; in float16 also the loss scale
    metrics: metrics.Metrics  # of the steps since the last log line

    @property
    def eval_params(self) -> Any:
        """The parameters of the trained network: their average, if one is taken."""
        return self.params if self.average is None else self.average

    def starting_from(self, params: Any) -> "TrainState":
        """The state with other parameters, which their average starts from too."""
        return self.replace(params=params, average=self.average and jax.tree.map(jnp.copy, params))


class StepReport(NamedTuple):
    """What the host reads after each training step, the same in all processes."""

    loss: Array  # the mean cross-entropy over the examples, nats
    stop: Array  # bool: whether any process was asked to stop
    loss_scale: optim.LossScale | None  # after the step; None unless in float16

    def is_sound(self) -> bool:
        """Whether training can go on. Waits for the devices.

        In float16 a loss or gradient that is not finite skips the step and halves the scale of the loss, which may cure
        it. If it does not at a scale of 1, where nothing is scaled, nothing will.
        """
        return float(self.loss_scale.scale) >= 1 if self.loss_scale else math.isfinite(float(self.loss))


def _update_rule(config: Config) -> optax.GradientTransformationExtraArgs:
    rule = optim.update_rule(config.optim)
    return optim.with_loss_scale(rule, config.train.loss_scale) if config.train.compute_dtype == "float16" else rule


def random_state(config: Config, seed: Array | int) -> TrainState:
    """The state at the start of training, wherever JAX puts it; `init_state` creates it on a mesh."""
    params = model.init(config.model, jax.random.fold_in(jax.random.key(seed), 2**31))  # epochs' keys fold in 0, 1, ...
    opt_state = _update_rule(config).init(batch_norm.trained(params))
    average = jax.tree.map(jnp.copy, params) if config.optim.ema_decay else None
    return TrainState(jnp.zeros((), jnp.int32), params, average, opt_state, metrics.nothing())


@functools.cache
def abstract_state(config: Config, mesh: Mesh) -> TrainState:
    """The shapes, types and shardings of the state on `mesh`, as `jax.ShapeDtypeStruct`s."""
    state = jax.eval_shape(lambda: random_state(config, config.seed))
    places = sharding.of_state(state, mesh, config.mesh.fc_sharding)
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state, places)


def init_state(config: Config, mesh: Mesh) -> TrainState:
    """The state at the start of training, created in place: no device ever holds another's tower."""
    shardings = sharding.of_state(abstract_state(config, mesh), mesh, config.mesh.fc_sharding)
    # The seed is an argument: if it were a constant, XLA would compute all random numbers at compile time, slowly.
    return jax.jit(lambda seed: random_state(config, seed), out_shardings=shardings)(config.seed)


@jax.jit
def is_finite(state: TrainState) -> Array:
    """Whether all parameters and momenta are finite."""
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves((state.params, state.opt_state))]).all()


def clear_metrics(state: TrainState) -> TrainState:
    """Reset the metrics, keeping their placement: the training step would be compiled again for another."""
    zeros = jax.tree.map(lambda x: sharding.put_as(np.zeros(x.shape, x.dtype), x.sharding), state.metrics)
    return state.replace(metrics=zeros)


def make_gradient(config: Config, mesh: Mesh, steps_per_epoch: int) -> Callable:
    """Make `(state, batch, statistics) -> (gradient, (metrics, taken))` of the mean loss over a training batch.

    `taken` are the means and variances of batch normalization. In float16 it is the gradient of the loss times the
    scale in the state. The bits do not depend on how many devices share the batch if `train.virtual_shards` is set.
    """
    fc_sharding, shards = config.mesh.fc_sharding, config.train.virtual_shards
    splits_inputs = sharding.splits_inputs(mesh, fc_sharding)

    def tower_program(params, batch, constants):
        inputs = training_input(config, mesh, batch, *constants)
        logits, taken = model.outputs(config.model, params, *inputs, splits_inputs, _kernels(config, mesh))
        return metrics.outcomes(metrics.log_softmax(logits), batch.label, config.train.label_smoothing), taken

    def program(forward):
        def compute_loss(params, batch, constants):
            *inputs, examples = constants
            outcomes, taken = forward(params, batch, inputs)
            batch_metrics = metrics.of_batch(outcomes, batch.mask)
            return batch_metrics["loss"].total / examples, (batch_metrics, taken)

        # The gradient is taken around the program of all towers, not within each: JAX transposes the exchanges.
        return jax.grad(compute_loss, has_aux=True)

    def constants_of(batch, step, loss_scale):
        mask, epoch = sharding.agreed(batch.mask, batch.example, mesh), step // steps_per_epoch
        examples = mask.sum(dtype=jnp.int32).astype(jnp.float32)
        return mask, epoch, examples / loss_scale.scale if loss_scale else examples

    if shards:
        compiled = functools.partial(compiling.compiled, mesh=mesh, config=config)
        out = (sharding.TOWERS, sharding.REPLICATED)
        gradient = virtual_shards.over_shards(program, tower_program, mesh, shards, out, compiled)
        constants_of = compiled(constants_of)
    else:
        out = (sharding.EXAMPLES, sharding.TOWERS)
        gradient = program(sharding.over_towers(tower_program, mesh, out, fc_sharding))

    def compute(state, batch, statistics):
        mask, epoch, examples = constants_of(batch, state.step, optim.loss_scale(state.opt_state))
        return gradient(state.params, batch._replace(mask=mask), (statistics, epoch, examples))

    return compute


def training_input(config: Config, mesh: Mesh, batch: Any, statistics: Any, epoch: Array) -> tuple[Array, Array, Any]:
    """The inputs of `model.outputs` in training: views [B, S, S, 3] in the compute type, keys of dropout, examples."""
    view_keys, dropout_keys = augment.example_keys(config.seed, epoch, batch.example)
    with jax.named_scope("images"):
        settings = config.augment, epoch, jnp.dtype(config.train.compute_dtype), _kernels(config, mesh)
        view = augment.training_view(batch.image, view_keys, statistics, config.model.image_size, *settings)
    frozen = {name: optim.is_frozen(config.optim, name, epoch) for name in config.model.normalized()}
    return view, dropout_keys, batch_norm.Examples(batch.mask, frozen)


def make_train_step(config: Config, mesh: Mesh, steps_per_epoch: int, donate: bool = True) -> Any:
    """Make `(state, batch, rates, statistics, votes) -> (state, StepReport)`.

    `rates` are those of `optim.rates`, `votes` those of `sharding.votes`: True where a process was asked to stop. With
    `donate`, the new state takes over the memory of the old one. Without `train.virtual_shards` it is one program.
    """
    optimizer, gradient = _update_rule(config), make_gradient(config, mesh, steps_per_epoch)

    def update(state, grads, measured, rates, votes):
        batch_metrics, taken = measured
        with jax.named_scope("optimizer"):
            params, grads = batch_norm.trained(state.params), batch_norm.trained(grads)
            updates, opt_state = optimizer.update(grads, state.opt_state, params, rates=rates)
            params = jax.tree.map(jnp.add, params, updates)
            params = batch_norm.with_averages(params, state.params, taken, config.model.batch_norm)
            average = state.average and optim.averaged(state.average, params, config.optim.ema_decay, state.step)
        if loss_scale := optim.loss_scale(opt_state):  # where the loss is not finite, the step is skipped
            finite = jnp.isfinite(metrics.mean_loss(batch_metrics))
            batch_metrics = jax.tree.map(lambda x: jnp.where(finite, x, 0), batch_metrics)
        new_state = TrainState(state.step + 1, params, average, opt_state, metrics.merge(state.metrics, batch_metrics))
        return new_state, StepReport(metrics.mean_loss(batch_metrics), votes.any(), loss_scale)

    def train_step(state, batch, rates, statistics, votes):
        grads, measured = gradient(state, batch, statistics)
        return update(state, grads, measured, rates, votes)

    shardings = sharding.of_state(abstract_state(config, mesh), mesh, config.mesh.fc_sharding)
    options = {"donate_argnums": 0 if donate else (), "out_shardings": (shardings, None)}
    if config.train.virtual_shards:
        update = compiling.compiled(update, mesh, config, **options)
        return train_step
    return compiling.compiled(train_step, mesh, config, **options)


def make_eval_step(config: Config, mesh: Mesh, views: int) -> Any:
    """Make `(params, batch, statistics) -> Metrics` at test time, over `views` of each image (paper 4.1)."""

    def tower_program(params, batch, statistics):
        log_probabilities = _log_probabilities(config, mesh, views, params, batch.image, statistics)
        return metrics.outcomes(log_probabilities, batch.label)

    def program(forward):
        return lambda params, batch, statistics: (metrics.of_batch(forward(params, batch, statistics), batch.mask),)

    def agreed(batch):
        return sharding.agreed(batch.mask, batch.example, mesh)

    def eval_step(params, batch, statistics):
        return measure(params, batch._replace(mask=agreed(batch)), statistics)[0]

    if shards := config.train.virtual_shards:
        compiled = functools.partial(compiling.compiled, mesh=mesh, config=config)
        out = (sharding.REPLICATED,)
        measure = virtual_shards.over_shards(program, tower_program, mesh, shards, out, compiled)
        agreed = compiled(agreed)
        return eval_step
    measure = program(sharding.over_towers(tower_program, mesh, sharding.EXAMPLES))
    return compiling.compiled(eval_step, mesh, config)


def make_log_predict_step(config: Config, mesh: Mesh, views: int) -> jax.stages.Wrapped:
    """Make `(params, image, statistics) -> log-probabilities`: [B, H, W, 3] uint8 -> [B, num_classes] float32, nats.

    The probabilities are the mean over `views` of each image: see `augment.evaluation_views`.
    """
    tower_program = functools.partial(_log_probabilities, config, mesh, views)
    log_probabilities = sharding.over_towers(tower_program, mesh, sharding.CLASSES)

    def predict(*inputs):
        return log_probabilities(*inputs)[:, : config.model.num_classes]

    return compiling.compiled(predict, mesh, config)


def _kernels(config: Config, mesh: Mesh) -> str | None:
    return kernels.choose(mesh.devices.flat[0], config.train.fused_kernels)


def _log_probabilities(config: Config, mesh: Mesh, views: int, params: Any, image: Array, statistics: Any) -> Array:
    """The logarithm of the mean probability over the views: [B, H, W, 3] -> [B, C] of this tower's classes."""
    with jax.named_scope("images"):
        view = augment.evaluation_views(image, statistics, config.model.image_size, views, config.augment.mean_crop)
    examples, views, size, _, _ = view.shape
    view = view.reshape(examples * views, size, size, 3).astype(config.train.compute_dtype)
    logits = model.logits(config.model, params, view, None, kernels=_kernels(config, mesh))
    log_probabilities = metrics.log_softmax(logits).reshape(examples, views, -1)
    return jax.nn.logsumexp(log_probabilities, axis=1) - jnp.log(float(views))
