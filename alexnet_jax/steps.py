"""What runs on the devices: one training step, one evaluation step, class probabilities. Each is one jitted call."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from alexnet_jax import augment, metrics, model, optim, sharding
from alexnet_jax.run_config import Config

# On CPU XLA gives convolutions to YNNPACK since jaxlib 0.10, which takes 1.4 times as long for a whole training step,
# and 3 to 10 times for the gradients of the first kernels, as the Eigen that is used without it.
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}


class TrainState(flax.struct.PyTreeNode):
    """All that training carries from step to step; arrays [tower, ...] lie on P("tower"), scalars on P()."""

    step: Array  # int32: steps done
    params: Any
    opt_state: Any  # the momentum
    metrics: metrics.Metrics  # of the steps since the last log line


class Seen(NamedTuple):
    """What the host looks at of each training step, the same in all processes."""

    loss: Array  # the mean cross-entropy over the examples, nats
    stop: Array  # bool: whether any process was asked to stop


# On GPUs some kernels add in no fixed order. On CPU and TPU all results have the same bits in every run anyway.
GPU_DETERMINISTIC = {"xla_gpu_deterministic_ops": True}


def _compiled(function: Callable, mesh: Mesh, deterministic: bool, **options: Any) -> jax.stages.Wrapped:
    """`jax.jit` with what is known of the compiler for the devices of `mesh`."""
    of_platform = {"cpu": CPU_OPTIONS, "gpu": GPU_DETERMINISTIC if deterministic else None}
    return jax.jit(function, compiler_options=of_platform.get(mesh.devices.flat[0].platform), **options)


def _optimizer(config: Config):
    return optim.update_rule(config.optim)


def _init(config: Config, seed: Array | int) -> TrainState:
    # Parameters draw from a stream of their own: the keys of epochs fold in numbers from 0 up.
    params = model.init(config.model, jax.random.fold_in(jax.random.key(seed), 2**31))
    opt_state = _optimizer(config).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, metrics.nothing())


def abstract_state(config: Config, mesh: Mesh) -> TrainState:
    """Shapes, types and shardings of the state, for restoring it on `mesh`."""
    state = jax.eval_shape(lambda: _init(config, config.seed))
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        state,
        sharding.of_state(state, mesh, config.mesh.fc_sharding),
    )


def init_state(config: Config, mesh: Mesh) -> TrainState:
    """The state at the start of training, made where it will live: no device ever holds the other's tower."""
    shardings = sharding.of_state(abstract_state(config, mesh), mesh, config.mesh.fc_sharding)
    # The seed is an argument, not a constant: else XLA computes all the random numbers while it compiles, slowly.
    return jax.jit(lambda seed: _init(config, seed), out_shardings=shardings)(config.seed)


@jax.jit
def _finite(tree: Any) -> Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def is_finite(state: TrainState) -> bool:
    """Whether all parameters and momenta are finite numbers. Waits for the device."""
    return bool(_finite((state.params, state.opt_state)))


def clear_metrics(state: TrainState) -> TrainState:
    """The state with metrics of no step; placed as they were, else the training step would be compiled again."""
    zeros = jax.tree.map(lambda x: sharding.put_as(np.zeros(x.shape, x.dtype), x.sharding), state.metrics)
    return state.replace(metrics=zeros)


def make_loss(config: Config, mesh: Mesh, steps_per_epoch: int) -> Callable:
    """`(params, batch, statistics, step) -> (loss, metrics)` in training, for `jax.value_and_grad`."""
    fc_sharding = config.mesh.fc_sharding
    splits_inputs = sharding.splits_inputs(mesh, fc_sharding)

    def tower_program(params, batch, constants):
        image, dropout_keys = training_input(config, batch, *constants)
        logits = model.logits(config.model, params, image, dropout_keys, splits_inputs)
        return metrics.outcomes(metrics.log_softmax(logits), batch.label)

    forward = sharding.over_towers(tower_program, mesh, sharding.EXAMPLES, fc_sharding)

    def loss_of(params, batch, statistics, step):
        of_batch = metrics.of_batch(forward(params, batch, (statistics, step // steps_per_epoch)), batch.mask)
        return metrics.mean_loss(of_batch), of_batch

    return loss_of


def training_input(config: Config, batch: Any, statistics: Any, epoch: Array) -> tuple[Array, Array]:
    """What the network sees of a batch in training [B, S, S, 3], and the keys of dropout [B]."""
    view_keys, dropout_keys = augment.example_keys(config.seed, epoch, batch.example)
    with jax.named_scope("images"):
        image = augment.training_view(
            batch.image, view_keys, statistics, config.model.image_size, config.augment, epoch
        )
    return image.astype(config.train.compute_dtype), dropout_keys


def make_train_step(config: Config, mesh: Mesh, steps_per_epoch: int, donate: bool = True) -> jax.stages.Wrapped:
    """`(state, batch, rates, statistics, asked) -> (state, Seen)`; with `donate` the old state's memory is taken over.

    `rates` are those of `optim.rates`; `asked` [devices] bool is True where a process was asked to stop.
    """
    optimizer, loss_of = _optimizer(config), make_loss(config, mesh, steps_per_epoch)

    def train_step(state, batch, rates, statistics, asked):
        # The gradient is taken around the parallel program, not inside it: JAX transposes the exchanges.
        gradient = jax.value_and_grad(loss_of, has_aux=True)
        (loss, of_batch), grads = gradient(state.params, batch, statistics, state.step)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params, rates=rates)
            params = jax.tree.map(jnp.add, state.params, updates)
        seen = metrics.merge(state.metrics, of_batch)
        return TrainState(state.step + 1, params, opt_state, seen), Seen(loss, asked.any())

    shardings = sharding.of_state(abstract_state(config, mesh), mesh, config.mesh.fc_sharding)
    options = {"donate_argnums": 0} if donate else {}
    return _compiled(train_step, mesh, config.train.deterministic, out_shardings=(shardings, None), **options)


def make_eval_step(config: Config, mesh: Mesh, views: int) -> jax.stages.Wrapped:
    """`(params, batch, statistics) -> Metrics` of the network at test time, over 1 or 10 views an image."""

    def tower_program(params, batch, statistics):
        return metrics.outcomes(_log_probabilities(config, params, batch.image, statistics, views), batch.label)

    outcomes = sharding.over_towers(tower_program, mesh, sharding.EXAMPLES)

    def eval_step(params, batch, statistics):
        return metrics.of_batch(outcomes(params, batch, statistics), batch.mask)

    return _compiled(eval_step, mesh, config.train.deterministic)


def make_predict_step(config: Config, mesh: Mesh, views: int) -> jax.stages.Wrapped:
    """`(params, image, statistics) -> probabilities`: [B, H, W, 3] uint8 -> [B, num_classes] float32."""
    predict = _predict(config, mesh, views)
    return _compiled(lambda *inputs: jnp.exp(predict(*inputs)), mesh, config.train.deterministic)


def make_log_predict_step(config: Config, mesh: Mesh, views: int) -> jax.stages.Wrapped:
    """As `make_predict_step`, but their logarithms, nats."""
    return _compiled(_predict(config, mesh, views), mesh, config.train.deterministic)


def _predict(config: Config, mesh: Mesh, views: int) -> Callable[..., Array]:
    def tower_program(params, image, statistics):
        return _log_probabilities(config, params, image, statistics, views)

    log_probabilities = sharding.over_towers(tower_program, mesh, sharding.CLASSES)
    return lambda *inputs: log_probabilities(*inputs)[:, : config.model.num_classes]


def _log_probabilities(config: Config, params: Any, image: Array, statistics: Any, views: int) -> Array:
    """Log of the mean probability over the views (paper 4.1): [B, H, W, 3] -> [B, C] of this tower's classes."""
    view = augment.evaluation_views(image, statistics, config.model.image_size, views, config.augment.mean_crop)
    examples, views, size, _, _ = view.shape
    view = view.reshape(examples * views, size, size, 3).astype(config.train.compute_dtype)
    log_probabilities = metrics.log_softmax(model.logits(config.model, params, view, None))
    log_probabilities = log_probabilities.reshape(examples, views, -1)
    return jax.nn.logsumexp(log_probabilities, axis=1) - jnp.log(float(views))
