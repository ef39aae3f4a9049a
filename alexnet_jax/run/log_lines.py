"""The log lines of a training run, and what follows from them: speed, time left, a stalled loss, a reached target."""

import math
import time
from typing import Any

import jax

from alexnet_jax import metrics, model, model_config, optim
from alexnet_jax.data.loader import Batches
from alexnet_jax.run import checksums
from alexnet_jax.run.writer import Writer
from alexnet_jax.run_config import Config

NEAR = 0.01  # how near to ln(classes), as a share of it, a loss counts as that of guessing
PLATEAU = """\
the loss has been at ln({classes}) = {guessing:.3f}, that of guessing, for {steps} steps. {own}`alexnet facts --workdir
{directory} --start` measures what this network hands on at its start, layer by layer; docs/stuck.md has causes and
cures"""
STARVED = """\
Its initial weights are so small that the layers from conv2 on hand on {part:.1g} of a signal, where those of the
authors' code hand on 0.06 and He's 1: give --config.model.{layer}.init_std=he, and the same for others. """
LEAST = 0.03  # of a signal: between the paper's initial weights and those of the authors' code


def is_guessing(config: Config, loss: float) -> bool:
    """Whether a loss counts as that of guessing, ln(classes)."""
    return abs(loss / math.log(config.model.num_classes) - 1) <= NEAR


def handed_on(spec: model_config.Model) -> dict[str, float]:
    """The part of a signal that each layer hands on at the start, by its initial weights: those of He's rule keep 1.

    conv1, whose inputs are grey levels, and fc8 are left out.
    """
    params = jax.eval_shape(lambda: model.init(spec, jax.random.key(0)))
    inputs = {name: params[name]["kernel"].size // params[name]["bias"].size for name in spec.layers()}
    layers = list(spec.layers().items())[1:-1]
    return {name: model_config.std(layer.init_std, inputs[name]) * (inputs[name] / 2) ** 0.5 for name, layer in layers}


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
        if not is_guessing(self._config, loss):
            self._guessing_since = step
        steps = step - self._guessing_since
        if steps >= self._config.train.plateau_steps and not self._plateau_reported:
            self._plateau_reported = True
            parts = handed_on(self._config.model)
            part = math.prod(parts.values())
            own = STARVED.format(part=part, layer=min(parts, key=parts.__getitem__)) if part < LEAST else ""
            directory, guessing = self._writer.directory, math.log(classes)
            text = PLATEAU.format(classes=classes, guessing=guessing, steps=steps, own=own, directory=directory)
            self._writer.message(f"step {step}: {text}")
