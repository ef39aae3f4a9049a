"""The training loop: steps, and when to log, validate, save and stop."""

import collections
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax import STARTED, optim, steps
from alexnet_jax.data.loader import Batches, Order
from alexnet_jax.errors import DataError, NonFinite
from alexnet_jax.run import processes
from alexnet_jax.run.checkpoint import Position
from alexnet_jax.run.log_lines import Watch
from alexnet_jax.run.stopping import Stop
from alexnet_jax.run.writer import Writer
from alexnet_jax.run_config import Config

STEPS_AHEAD = 2  # the host runs so many steps ahead of the device: enough to keep it busy, and bounded memory


class Run(NamedTuple):
    """What a run is made of."""

    config: Config
    order: Order
    last_step: int
    batches: Batches
    writer: Writer
    advance: Callable[[Any, np.ndarray], tuple[Any, steps.Seen]]
    validate: Callable[[int, Any], dict[str, float] | None]
    save: Callable[[int, Any, optim.Validation], None]
    refused: Callable[[int], NonFinite]
    stop: Stop


def loop(run: Run, state: steps.TrainState, position: Position) -> int:
    """Steps, and when to log, validate, save and stop. Returns the step it ended at."""
    config, writer, last_step, epoch_steps = run.config, run.writer, run.last_step, run.order.steps_per_epoch
    step = saved = position.next_batch
    validation = position.validation
    validate_every = config.train.eval_every_epochs * epoch_steps
    in_flight: collections.deque[steps.Seen] = collections.deque()
    pending: Callable[[], None] | None = None  # a log line whose numbers the device may still be computing
    watch = Watch(config, writer, run.batches, step, last_step)

    def settle(ahead: int) -> None:
        """Waits until the device is no more than `ahead` steps behind; then writes the log line that is due."""
        nonlocal pending
        while len(in_flight) > ahead:
            seen = in_flight.popleft()
            if not math.isfinite(float(seen.loss)):
                raise run.refused(step)
            run.stop.hear(seen.stop)
        pending = pending and pending()
        if ahead == 0 and not steps.is_finite(state):  # nothing unsound is ever saved or judged
            raise run.refused(step)

    try:
        while True:
            last = step >= last_step or watch.reached
            due = step > 0 and (step % validate_every == 0 or last)
            if due and validation.step != step:
                settle(0)
                validation = _validated(run, step, state, validation)
                watch.clock.restart(step)
            stop = last or run.stop()
            if step != saved and (stop or step % config.train.save_every_steps == 0):
                settle(0)
                run.save(step, state, validation)
                saved = step
            if stop:
                return step

            learning_rate = optim.learning_rate(config.optim, step // epoch_steps, validation)
            rates = optim.rates(config.optim, state.params, step // epoch_steps, validation)
            state, seen = run.advance(state, rates)
            step += 1
            in_flight.append(seen)
            if not watch.clock.running:  # the first step compiles; it is not counted in images/s
                settle(0)
                if step == position.next_batch + 1:
                    writer.message(f"the first step ended {time.monotonic() - STARTED:.1f} s after the start")
                watch.clock.restart(step)
            settle(STEPS_AHEAD)
            writer.advance()
            for line in run.batches.news():
                writer.warning(f"step {step}: {line}; the next sound image takes its place")
            if step % config.train.log_every_steps == 0:
                pending = watch.line(step, step / epoch_steps, state.metrics, learning_rate)
                state = steps.clear_metrics(state)
    except DataError as error:  # before a step began, or in a validation: what was trained so far is sound
        if processes.several():  # the others wait in a step that cannot be
            raise
        settle(0)
        if step != saved:
            run.save(step, state, validation)
        there = f"\nStep {step} is saved; once mended, the same command goes on" if step else ""
        raise DataError(f"{error}{there}") from None


def _validated(run: Run, step: int, state: steps.TrainState, before: optim.Validation) -> optim.Validation:
    """Validates, and tells of it. What the schedule has seen then, `before` and now; as before if asked to stop."""
    result, epoch_steps, split = run.validate(step, state), run.order.steps_per_epoch, run.config.data.eval_split
    if result is None:
        return before
    run.writer.scalars(step, split, result)
    run.writer.message(
        f"step {step}  epoch {step / epoch_steps:g}  {split}: loss {result['loss']:.4f}  top-1 error "
        f"{result['top1_error']:.2%}  top-5 error {result['top5_error']:.2%}  of {result['count']} images"
    )
    seen, schedule = before, run.config.optim.schedule
    if step % (run.config.train.eval_every_epochs * epoch_steps) == 0:
        patience = schedule.patience_epochs * epoch_steps
        seen = optim.validated(before, step, result["top1_error"], patience, schedule.max_drops)
    return seen._replace(step=step)
