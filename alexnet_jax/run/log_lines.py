"""What the host sees of a run while it trains: its log lines, and what follows from them."""

import math
from collections.abc import Callable

from alexnet_jax import metrics
from alexnet_jax.data.loader import Batches
from alexnet_jax.run.writer import Clock, Writer
from alexnet_jax.run_config import Config

NEAR = 0.01  # of ln(classes): how near a loss is to that of guessing
MESSAGE = """\
the loss has been at ln({classes}) = {guessing:.3f}, that of guessing, for {steps} steps. Known causes and their cures:
  - weights of 0.01 and biases of 1 in conv4 and conv5, as in the paper's text: the signal all but vanishes there. The
    authors' code starts conv3-5 at 0.03: --config.model.conv3.init_std=0.03, conv4 and conv5 alike. A few thousand
    steps at the start are usual even then
  - other than the paper's sizes: use init_std = sqrt(2 / inputs of a unit) and biases of 0, as configs/digits.py does
  - a learning rate too small, or so large that units died: try --config.optim.learning_rate at a third and at thrice"""


class Watch:
    """Looks at the metrics of a run that begins at `step`, each time they are logged."""

    def __init__(self, config: Config, writer: Writer, batches: Batches, step: int, last_step: int):
        self._config, self._writer, self._batches = config, writer, batches
        self.clock = Clock(config.train.batch_size, last_step, batches)
        self.reached = False  # config.train.stop_error
        self._since = step  # since when the loss is that of guessing
        self._told = False

    def line(self, step: int, epoch: float, sums: metrics.Metrics, learning_rate: float) -> Callable[[], None]:
        """A function that writes the metrics of the steps up to `step`, to be called when they are there."""

        def write() -> None:
            values = metrics.summary(sums)
            if not math.isfinite(values["loss"]):
                return  # the loop sees it too, and ends
            rates, seconds_left = self.clock.read(step)
            bad = {"bad_records": len(self._batches.bad)} if self._batches.bad else {}
            self._writer.scalars(step, "train", values | {"epoch": epoch, "learning_rate": learning_rate} | rates | bad)
            self._writer.progress(step, epoch, values | rates, seconds_left)
            self.reached = 0 < self._config.train.stop_error >= values["top1_error"]
            told = self._plateau(step, values["loss"])
            if told:
                self._writer.message(f"step {step}: {told}")

        return write

    def _plateau(self, step: int, loss: float) -> str | None:
        """What to tell, once, of a loss that has long been that of guessing."""
        classes, steps = self._config.model.num_classes, self._config.train.plateau_steps
        if abs(loss / math.log(classes) - 1) > NEAR:
            self._since = step
        if self._told or step - self._since < steps:
            return None
        self._told = True
        return MESSAGE.format(classes=classes, guessing=math.log(classes), steps=step - self._since)
