"""The log lines of a training run, and what follows from them: speed, time left, a stalled loss, a reached target."""

import math
import time
from typing import Any

from alexnet_jax import metrics, optim
from alexnet_jax.data.loader import Batches
from alexnet_jax.run import checksums
from alexnet_jax.run.writer import Writer
from alexnet_jax.run_config import Config

NEAR = 0.01  # how near to ln(classes), as a share of it, a loss counts as that of guessing
PLATEAU = """\
the loss has been at ln({classes}) = {guessing:.3f}, that of guessing, for {steps} steps. Known causes and their cures:
  - weights of 0.01 and biases of 1 in conv4 and conv5, as in the paper's text: the signal all but vanishes there. The
    authors' code starts conv3-5 at 0.03: --config.model.conv3.init_std=0.03, and the same for conv4 and conv5. Even
    then the first few thousand steps are usually like this
  - layer sizes other than the paper's: use init_std=he (arXiv:1502.01852) and biases of 0, as configs/digits.py
  - a learning rate too small, or so large that units died: try --config.optim.learning_rate three times as large, and a
    third of it"""


class LogLines:
    """Writes the metrics of a run that starts at `step`, each time they are due."""

    def __init__(
        self, config: Config, writer: Writer, batches: Batches, step: int, last_step: int, target_reached: bool
    ):
        self._config, self._writer, self._batches, self._last_step = config, writer, batches, last_step
        self.target_reached = target_reached  # config.train.stop_error
        self.clock_runs = False
        self._guessing_since = step
        self._plateau_reported = False

    def restart_clock(self, step: int) -> None:
        """Measure speed from here on."""
        self._step, self._time, self._waited, self.clock_runs = step, time.monotonic(), self._batches.waited, True

    def write(
        self,
        step: int,
        epoch: float,
        sums: metrics.Metrics,
        learning_rate: float,
        of_arrays: dict[str, Any],
        loss_scale: optim.LossScale | None,
    ) -> None:
        """Write the metrics of the steps up to `step`, and the checksum of the state after it. Waits for the devices.

        `of_arrays` has the checksum of each array of that state, on the devices.
        """
        values = metrics.summary(sums)
        if not math.isfinite(values["loss"]):
            return  # the loop sees it too, and ends; in float16 all steps since the last line may have been skipped
        seconds = max(time.monotonic() - self._time, 1e-9)
        seconds_per_step = seconds / max(step - self._step, 1)
        rates = {
            "images_per_s": self._config.train.batch_size / seconds_per_step,
            "data_wait": min((self._batches.waited - self._waited) / seconds, 1.0),  # the share of time spent waiting
        }
        self.restart_clock(step)
        bad = {"bad_records": len(self._batches.bad)} if self._batches.bad else {}
        values |= {"epoch": epoch, "learning_rate": learning_rate}
        if loss_scale:
            values |= {"loss_scale": float(loss_scale.scale), "skipped_steps": int(loss_scale.skipped)}
        self._writer.scalars(step, "train", values | rates | bad, checksums.of_state(of_arrays))
        self._writer.progress(step, epoch, values | rates, seconds_per_step * (self._last_step - step))
        self.target_reached = 0 < self._config.train.stop_error >= values["top1_error"]
        self._report_plateau(step, values["loss"])

    def _report_plateau(self, step: int, loss: float) -> None:
        """Print PLATEAU, once, if the loss has been that of guessing for `train.plateau_steps`."""
        classes = self._config.model.num_classes
        if abs(loss / math.log(classes) - 1) > NEAR:
            self._guessing_since = step
        steps = step - self._guessing_since
        if steps >= self._config.train.plateau_steps and not self._plateau_reported:
            self._plateau_reported = True
            text = PLATEAU.format(classes=classes, guessing=math.log(classes), steps=steps)
            self._writer.message(f"step {step}: {text}")
