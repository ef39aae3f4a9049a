"""The training loop: everything on the host between a config and a trained network."""

import collections
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import clu.parameter_overview
import jax
import numpy as np
from jax.sharding import Mesh

from alexnet_jax import STARTED, checkpoint, metrics, optim, sharding, start, steps, workdir
from alexnet_jax.checkpoint import Position
from alexnet_jax.config import Config
from alexnet_jax.data.datasets import Dataset, open_dataset, split_of
from alexnet_jax.data.loader import Batches, Order, Reading
from alexnet_jax.data.records import Images, Some
from alexnet_jax.errors import DataError, Interrupted, UserError
from alexnet_jax.watch import DIVERGED, Watch
from alexnet_jax.writer import Writer

STEPS_AHEAD = 2  # the host runs so many steps ahead of the device: enough to keep it busy, and bounded memory


def train_and_evaluate(config: Config, directory: Path) -> None:
    """Trains in the workdir `directory`, from its newest checkpoint or from the start, to the end of the config.

    Raises Interrupted, with the state saved, when asked to stop by SIGTERM or SIGINT (Ctrl-C).
    """
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.tower, config.model.towers)
    dataset = open_dataset(config.data.source, config.data.directory, config.data.size, config.model.num_classes)
    train_images = _training_images(config, dataset)
    eval_images = split_of(dataset, config.data.eval_split, "--config.data.eval_split")
    workdir.prepare(directory, config, dataset)
    order = Order(len(train_images.labels), config.train.batch_size, config.seed, config.data.reshuffle)
    last_step = config.train.epochs * order.steps_per_epoch
    if config.train.max_steps:
        last_step = min(last_step, config.train.max_steps)

    with contextlib.ExitStack() as stack:
        stopping = stack.enter_context(stop_signals())
        checkpoints = stack.enter_context(
            checkpoint.open_directory(directory / workdir.CHECKPOINTS, config.train.keep_checkpoints)
        )
        restored = checkpoint.restore(checkpoints, steps.abstract_state(config, mesh))
        state, position = restored or (_first_state(config, mesh), Position(0, optim.Validation(), 0))
        first = position.next_batch
        writer = stack.enter_context(contextlib.closing(Writer(directory, position.log_bytes, first, last_step)))
        writer.message(clu.parameter_overview.get_parameter_overview(state.params, include_stats=False))
        writer.message(f"{sharding.describe(mesh, config.model.towers)}; {order.steps_per_epoch} steps an epoch")
        if restored:
            writer.message(f"going on from step {first} of {directory}")
        batches = Batches(train_images, order, first, max(first, last_step), _reading(config))
        stack.callback(batches.close)
        statistics = sharding.put(dataset.statistics, mesh, sharding.REPLICATED)
        eval_step = steps.make_eval_step(config, mesh, views=1)

        def validate(step: int, state: Any) -> dict[str, float] | None:
            _require_finite(step, state)
            return evaluate(eval_step, state.params, statistics, eval_images, config, mesh, writer.message, stopping)

        def save(step: int, state: Any, validation: optim.Validation) -> None:
            _require_finite(step, state)
            position = Position(step, validation, writer.log_bytes)
            checkpoint.save(checkpoints, step, state, position, config.model_dump(mode="json"))

        train_step = steps.make_train_step(config, mesh, order.steps_per_epoch)

        def advance(state: Any, rates: np.ndarray) -> tuple[Any, jax.Array]:
            batch = sharding.put(next(batches), mesh, sharding.EXAMPLES)
            return train_step(state, batch, rates, statistics)

        run = _Run(config, order, last_step, batches, writer, advance, validate, save, stopping)
        step = _loop(run, state, position)
    if stopping():  # even at the last step: its validation may be missing
        raise Interrupted(f"step {step} of {last_step} is saved in {directory}; give the same command again to go on")
    print(f"finished step {step}; `python -m alexnet_jax.evaluate --workdir {directory}` tells how good it is")


def _training_images(config: Config, dataset: Dataset) -> Images:
    images, wanted = split_of(dataset, config.data.train_split, "--config.data.train_split"), config.data.train_examples
    if wanted > len(images.labels):
        raise UserError(f"the data has {len(images.labels)} images; give --config.data.train_examples=0, for all")
    return Some(images, wanted) if wanted else images


def _first_state(config: Config, mesh: Mesh) -> steps.TrainState:
    state = steps.init_state(config, mesh)
    return state.replace(params=state.params | start.params(config, mesh)) if config.start.workdir else state


class _Run(NamedTuple):
    """What a run is made of, for `_loop`."""

    config: Config
    order: Order
    last_step: int
    batches: Batches
    writer: Writer
    advance: Callable[[Any, np.ndarray], tuple[Any, jax.Array]]
    validate: Callable[[int, Any], dict[str, float] | None]
    save: Callable[[int, Any, optim.Validation], None]
    stopping: Callable[[], bool]


def _loop(run: _Run, state: steps.TrainState, position: Position) -> int:
    """Steps, and when to log, validate, save and stop. Returns the step it ended at."""
    config, writer, last_step, epoch_steps = run.config, run.writer, run.last_step, run.order.steps_per_epoch
    step = saved = position.next_batch
    validation = position.validation
    validate_every = config.train.eval_every_epochs * epoch_steps
    patience = config.optim.schedule.patience_epochs * epoch_steps
    in_flight: collections.deque[jax.Array] = collections.deque()
    pending: Callable[[], None] | None = None  # a log line whose numbers the device may still be computing
    watch = Watch(config, writer, run.batches, step, last_step)

    try:
        while True:
            last = step >= last_step or watch.reached
            due = step > 0 and (step % validate_every == 0 or last)
            if due and validation.step != step:
                pending = pending and pending()
                result = run.validate(step, state)
                if result is not None:
                    writer.scalars(step, config.data.eval_split, result)
                    writer.message(_validation_line(step, step / epoch_steps, config.data.eval_split, result))
                    if step % validate_every == 0:
                        validation = optim.validated(
                            validation, step, result["top1_error"], patience, config.optim.schedule.max_drops
                        )
                    validation = validation._replace(step=step)
                watch.clock.restart(step)
            stop = last or run.stopping()
            if step != saved and (stop or step % config.train.save_every_steps == 0):
                pending = pending and pending()
                run.save(step, state, validation)
                saved = step
            if stop:
                return step

            learning_rate = optim.learning_rate(config.optim, step // epoch_steps, validation)
            rates = optim.rates(config.optim, state.params, step // epoch_steps, validation)
            state, loss = run.advance(state, rates)
            step += 1
            in_flight.append(loss)
            if len(in_flight) > STEPS_AHEAD:
                in_flight.popleft().block_until_ready()
            if not watch.clock.running:  # the first step compiles; it is not counted in images/s
                loss.block_until_ready()
                if step == position.next_batch + 1:
                    writer.message(f"the first step ended {time.monotonic() - STARTED:.1f} s after the start")
                watch.clock.restart(step)
            pending = pending and pending()
            writer.advance()
            for line in run.batches.news():
                writer.message(f"step {step}: {line}; the next sound image takes its place")
            if step % config.train.log_every_steps == 0:
                pending = watch.line(step, step / epoch_steps, state.metrics, learning_rate)
                state = steps.clear_metrics(state)
    except DataError as error:  # before a step began, or in a validation: what was trained so far is sound
        pending = pending and pending()
        if step != saved:
            run.save(step, state, validation)
        there = f"\nStep {step} is saved; once mended, the same command goes on" if step else ""
        raise DataError(f"{error}{there}") from None


def _validation_line(step: int, epoch: float, split: str, result: dict[str, float]) -> str:
    return (
        f"step {step}  epoch {epoch:g}  {split}: loss {result['loss']:.4f}  top-1 error {result['top1_error']:.2%}  "
        f"top-5 error {result['top5_error']:.2%}  of {result['count']} images"
    )


def _require_finite(step: int, state: steps.TrainState) -> None:
    if not steps.is_finite(state):
        raise UserError(DIVERGED.format(step=step))


def _reading(config: Config) -> Reading:
    """How the config reads data, on this process."""
    return Reading(config.data.threads, config.data.prefetch_batches, config.data.max_bad)


def evaluate(
    eval_step: Callable,
    params: Any,
    statistics: Any,
    images: Images,
    config: Config,
    mesh: Mesh,
    tell: Callable[[str], None] = print,
    stopping=lambda: False,
) -> dict[str, float] | None:
    """Loss and errors over every image of a split, each counted once; None if asked to stop on the way.

    A bad record is told of and left out: `count` is without it, and `bad_records` counts them if there are any.
    """
    order = Order(len(images.labels), config.train.eval_batch_size, seed=None)
    batches = Batches(images, order, 0, order.steps_per_epoch, _reading(config))
    total = metrics.nothing()
    with contextlib.closing(batches):
        for batch in batches:
            if stopping():
                return None
            for line in batches.news():
                tell(f"{line}; it is left out")
            seen = eval_step(params, sharding.put(batch, mesh, sharding.EXAMPLES), statistics)
            total = jax.block_until_ready(metrics.merge(total, seen))
    bad = {"bad_records": len(batches.bad)} if batches.bad else {}
    return metrics.summary(total) | bad


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM and SIGINT only make the given function return True. A second one ends the process at once."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        received.append(number)
        os.write(2, b"\nstopping after this step and saving; once more ends at once, unsaved\n")
        for known in before:
            signal.signal(known, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
