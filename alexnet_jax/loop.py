"""The training loop: steps, and when to log, validate, save and stop."""

import collections
import functools
from collections.abc import Callable

from alexnet_jax import optim, steps
from alexnet_jax.run import checksums
from alexnet_jax.run.checkpoint import Position
from alexnet_jax.run.log_lines import LogLines
from alexnet_jax.trainer import Trainer

STEPS_AHEAD = 2  # steps that the host runs ahead of the devices: enough to keep them busy, and bounded memory


class Loop:
    """The steps of a run, from a state and position on."""

    def __init__(self, trainer: Trainer, state: steps.TrainState, position: Position):
        self._trainer, self._config, self.state = trainer, trainer.config, state
        self._first = self._step = self._saved = position.next_batch
        self._validation = position.validation
        self._epoch_steps, self._last_step = trainer.inputs.order.steps_per_epoch, trainer.inputs.last_step
        self._validation_interval = self._config.train.eval_every_epochs * self._epoch_steps
        self._log = LogLines(
            trainer.config, trainer.writer, trainer.batches, self._step, self._last_step, position.target_reached
        )
        self._in_flight: collections.deque[steps.StepReport] = collections.deque()
        self._due_line: Callable[[], None] | None = None  # a log line whose numbers the devices may still compute

    def run(self) -> int:
        """Train to the last step, or until asked to stop. Returns the step it ended at, whose state is saved."""
        while not self._between_steps():
            self._take_step()
        return self._step

    @property
    def position(self) -> Position:
        """Where training stands. How long the log is, `Trainer.save` fills in."""
        return Position(self._step, self._validation, 0, self._log.target_reached)

    def _between_steps(self) -> bool:
        """Between two steps: validate and save if it is time to. Returns whether to stop."""
        last = self._step >= self._last_step or self._log.target_reached
        due = self._step > 0 and (last or self._step % self._validation_interval == 0)
        if due and self._validation.step != self._step:
            self._settle_soundly()
            self._validate()
            self._log.restart_clock(self._step)
        stop = last or self._trainer.stop()
        if stop or self._step % self._config.train.save_every_steps == 0:
            self.save()
        return stop

    def _take_step(self) -> None:
        trainer, epoch = self._trainer, self._step / self._epoch_steps
        rates = optim.rates(self._config, self.state.params, epoch, self._validation)
        self.state, report = trainer.step(self.state, rates)
        self._step += 1
        trainer.doing.step = self._step
        self._in_flight.append(report)
        if not self._log.clock_runs:  # the first step compiles; it does not count in images/s
            self._settle(0)
            if self._step == self._first + 1:
                trainer.writer.message(f"the first step ended {trainer.doing.total():.1f} s after the start")
            self._log.restart_clock(self._step)
        self._settle(STEPS_AHEAD)
        trainer.writer.advance()
        for line in trainer.batches.news():
            trainer.writer.warning(f"step {self._step}: {line}; the next intact image takes its place")
        if self._step % self._config.train.log_every_steps == 0:
            rate = optim.learning_rate(self._config, epoch, self._validation)
            epochs = self._step / self._epoch_steps
            sums = checksums.on_devices(checksums.by_name(self.state))
            self._due_line = functools.partial(
                self._log.write, self._step, epochs, self.state.metrics, rate, sums, report.loss_scale
            )
            self.state = steps.clear_metrics(self.state)

    def _settle(self, ahead: int) -> None:
        """Wait until the devices are at most `ahead` steps behind; then write the log line that is due."""
        while len(self._in_flight) > ahead:
            report = self._in_flight.popleft()
            if not report.is_sound():
                raise self._trainer.diagnose(self._step)
            self._trainer.stop.hear(report.stop)
        if self._due_line:
            self._due_line()
            self._due_line = None

    def _settle_soundly(self) -> None:
        """Wait for all steps, and make sure that no unsound state is ever saved or evaluated."""
        self._settle(0)
        if not steps.is_finite(self.state):
            raise self._trainer.diagnose(self._step)

    def save(self) -> int:
        """Save the state, unless it is already, and return its step."""
        if self._step != self._saved:
            self._settle_soundly()
            self._trainer.save(self.state, self.position)
            self._saved = self._step
        return self._step

    def _validate(self) -> None:
        """Validate, log the result, and let the learning rate's schedule know. Does nothing if asked to stop."""
        step, split, schedule = self._step, self._config.data.eval_split, self._config.optim.schedule
        result = self._trainer.validate(step, self.state)
        if result is None:
            return
        checksum = checksums.of_state(checksums.of_arrays(self.state))
        self._trainer.writer.scalars(step, "validation", result, checksum)
        self._trainer.writer.message(
            f"step {step}  epoch {step / self._epoch_steps:g}  {split}: loss {result['loss']:.4f}  top-1 error "
            f"{result['top1_error']:.2%}  top-5 error {result['top5_error']:.2%}  of {result['count']} images"
        )
        if step % self._validation_interval == 0:
            patience = schedule.patience_epochs * self._epoch_steps
            error, drops = result["top1_error"], schedule.max_drops
            self._validation = optim.validated(self._validation, step, error, patience, drops)
        self._validation = self._validation._replace(step=step)
