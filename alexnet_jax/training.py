"""Training: from a config to a trained network in a workdir. What happens at which step is in loop.py."""

import contextlib
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import clu.parameter_overview
import jax
import numpy as np
from jax.sharding import Mesh

from alexnet_jax import optim, sharding, steps
from alexnet_jax.data.datasets import Dataset, open_dataset, split_of
from alexnet_jax.data.loader import Batches, Order, Reading
from alexnet_jax.data.records import Images, spread
from alexnet_jax.errors import Interrupted, NonFinite, UserError
from alexnet_jax.loop import Run, loop
from alexnet_jax.run import checkpoint, histograms, nonfinite, processes, wandb_log, warm_start, workdir
from alexnet_jax.run.checkpoint import Position
from alexnet_jax.run.stopping import Stop, stop_signals, watchdog
from alexnet_jax.run.validation import evaluate
from alexnet_jax.run.writer import Writer
from alexnet_jax.run_config import Config


class _Opened(NamedTuple):
    """What a run needs that is there before it."""

    mesh: Mesh
    dataset: Dataset
    train_images: Images
    eval_images: Images
    order: Order
    last_step: int


def _open(config: Config) -> _Opened:
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.tower, config.model.towers)
    processes.require_same("the config", config.model_dump(mode="json"))
    processes.require_same("Python and packages", workdir.packages())
    dataset = open_dataset(config.data.source, config.data.directory, config.data.size, config.model.num_classes)
    processes.require_same("the data (its fingerprint)", dataset.fingerprint)
    images, wanted = split_of(dataset, config.data.train_split, "--config.data.train_split"), config.data.train_examples
    if wanted > len(images.labels):
        raise UserError(f"the data has {len(images.labels)} images; give --config.data.train_examples=0, for all")
    train_images = spread(images, wanted) if wanted else images
    eval_images = split_of(dataset, config.data.eval_split, "--config.data.eval_split")
    order = Order(len(train_images.labels), config.train.batch_size, config.seed, config.data.reshuffle)
    last_step = min(config.train.epochs * order.steps_per_epoch, config.train.max_steps or 2**62)
    return _Opened(mesh, dataset, train_images, eval_images, order, last_step)


def check(config: Config, directory: Path) -> None:
    """What can be checked before training: processes, devices, data, that the workdir can be written and has room."""
    with processes.peers_told():
        opened = _open(config)
        with workdir.lock(directory):
            state = steps.abstract_state(config, opened.mesh)
            size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
            need, free = size * (config.train.keep_checkpoints + 1), shutil.disk_usage(directory).free
            if free < need:
                raise UserError(
                    f"{directory} has {free / 1e9:.1f} GB free and checkpoints take up to {need / 1e9:.1f} GB; make "
                    "room, give another --workdir or a smaller --config.train.keep_checkpoints"
                )
    if processes.is_first():
        print(
            f"preflight: {jax.process_count()} process(es), {sharding.describe(opened.mesh, config.model.towers)}; "
            f"{len(opened.train_images.labels)} training images; {free / 1e9:.1f} GB free in {directory}, "
            f"{need / 1e9:.1f} GB needed for checkpoints; ready"
        )


def train_and_evaluate(config: Config, directory: Path) -> None:
    """Trains in the workdir `directory`, from its newest sound checkpoint or from the start, to the end of the config.

    Raises Interrupted, with the state saved, when asked to stop by one of `stopping.SIGNALS`, and the errors of
    errors.py for whatever else ends it early.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(processes.peers_told())
        moved = stack.enter_context(watchdog(config.train.stall_seconds))
        opened = _open(config)
        stack.enter_context(workdir.lock(directory))
        statistics = opened.dataset.statistics
        if config.start.workdir and config.start.statistics and not (directory / workdir.CONFIG).exists():
            statistics = warm_start.statistics(config)
        workdir.prepare(directory, config, opened.dataset._replace(statistics=statistics))
        step, stopped = _train(config, directory, opened, moved, stack)
    if stopped:  # even at the last step: its validation may be missing
        raise Interrupted(
            f"step {step} of {opened.last_step} is saved in {directory}; give the same command again to go on"
        )
    if processes.is_first():
        print(f"finished step {step}; `alexnet evaluate --workdir {directory}` tells how good it is")


def _train(
    config: Config, directory: Path, opened: _Opened, moved: Callable[[str], None], stack: contextlib.ExitStack
) -> tuple[int, bool]:
    """Returns the step it ended at, and whether it was stopped there."""
    mesh, _, train_images, eval_images, order, last_step = opened
    stop = Stop(stack.enter_context(stop_signals()), mesh)
    checkpoints = stack.enter_context(
        checkpoint.open_directory(directory / workdir.CHECKPOINTS, config.train.keep_checkpoints)
    )
    restored = checkpoint.restore(checkpoints, steps.abstract_state(config, mesh))
    state, position, told = restored or (_first_state(config, mesh), Position(0, optim.Validation(), 0), [])
    first = position.next_batch
    writer = stack.enter_context(contextlib.closing(Writer(directory, position.log_bytes, first, last_step)))
    writer.also(wandb_log.start(config, directory, writer.message))
    writer.message(clu.parameter_overview.get_parameter_overview(state.params, include_stats=False))
    writer.message(f"{sharding.describe(mesh, config.model.towers)}; {order.steps_per_epoch} steps an epoch")
    for line in told:
        writer.message(f"warning: {line}")
    if restored:
        writer.message(f"going on from step {first} of {directory}")
    reading = _reading(config, mesh)
    batches = Batches(train_images, order, first, max(first, last_step), reading)
    stack.callback(batches.close)
    statistics = sharding.put(workdir.open_finished(directory).statistics, mesh, sharding.REPLICATED)
    eval_step = steps.make_eval_step(config, mesh, views=1)
    train_step = steps.make_train_step(config, mesh, order.steps_per_epoch)
    look = histograms.make_look(config, mesh)

    def validate(step: int, state: Any) -> dict[str, float] | None:
        compute, size = functools.partial(eval_step, state.params, statistics=statistics), config.train.eval_batch_size
        result = evaluate(compute, eval_images, size, reading, mesh, writer.warning, stop.now, moved)
        if result is not None:
            writer.parameters(step, jax.device_get(look(state.params)))
        return result

    rates_since: list[np.ndarray] = []  # the newest checkpoint, of each step

    def save(step: int, state: Any, validation: optim.Validation) -> None:
        moved("saving a checkpoint")
        position = Position(step, validation, writer.log_bytes)
        checkpoint.save(checkpoints, step, state, position, config.model_dump(mode="json"))
        rates_since.clear()

    def advance(state: Any, rates: np.ndarray) -> tuple[Any, steps.Seen]:
        moved("waiting for data")
        batch = sharding.put(next(batches), mesh, sharding.EXAMPLES)
        moved("a training step")
        checkpoint.check(checkpoints)
        rates_since.append(rates)
        return train_step(state, batch, rates, statistics, stop.vote())

    def refused(step: int) -> NonFinite:
        moved("looking for what is not finite")
        checkpoint.wait(checkpoints)
        restored = checkpoint.restore(checkpoints, steps.abstract_state(config, mesh))
        state = restored[0] if restored else _first_state(config, mesh)
        writer.message(f"step {step}: the loss or a parameter is not finite; taking the steps from {state.step} again")
        again, found = Batches(train_images, order, int(state.step), step, reading), None
        with contextlib.closing(again):
            if len(rates_since) == step - int(state.step):  # else that checkpoint has been damaged since
                search = functools.partial(nonfinite.search, config, mesh, order.steps_per_epoch, state)
                found = search(again, rates_since, statistics, moved)
        if found is None:
            return NonFinite(
                f"the loss or a parameter was no finite number at step {step}, and is one when the steps are taken "
                "again: suspect the machine. The same command goes on from the newest checkpoint"
            )
        return nonfinite.keep(config, mesh, directory, found[0], order, found[1], statistics)

    run = Run(config, order, last_step, batches, writer, advance, validate, save, refused, stop)
    return loop(run, state, position), stop()


def _first_state(config: Config, mesh: Mesh) -> steps.TrainState:
    state = steps.init_state(config, mesh)
    return state.replace(params=state.params | warm_start.params(config, mesh)) if config.start.workdir else state


def _reading(config: Config, mesh: Mesh) -> Reading:
    """How the config reads data, on this process."""
    return Reading(
        config.data.threads, config.data.prefetch_batches, config.data.max_bad, *sharding.part_of_batch(mesh)
    )
