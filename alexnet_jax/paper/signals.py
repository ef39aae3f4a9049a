"""How much of its images a network at the start of training hands on, layer by layer, and what gradients come back.

A network whose layers answer all images alike cannot tell them apart, whatever its loss: biases of 1 make a large
response, in which a small signal drowns. So look at `variation`, the part of the response that depends on the image.
"""

import functools
import math
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from alexnet_jax import optim, sharding, steps, trainer
from alexnet_jax.data import statistics
from alexnet_jax.data.datasets import PREPARED, open_dataset
from alexnet_jax.data.loader import Batch
from alexnet_jax.data.records import Images, spread
from alexnet_jax.errors import UserError
from alexnet_jax.inference import activations
from alexnet_jax.paper.facts import MAX_IMAGES, read
from alexnet_jax.run import config_files, run_data
from alexnet_jax.run_config import Config

# Beyond these, few cells of the map in docs/stuck.md start, and none is as slow as SLOW. FAST is the part of its
# weights by which a step changes the fastest layer, ALL_FAST and SLOW the slowest; SHARE is the last hidden layer's.
FAST, ALL_FAST, SLOW, SHARE = 0.1, 1e-3, 1e-6, 0.02
HEAD = ("layer", "response", "variation", "share", "silent", "kernel", "gradient/kernel")


class Signal(NamedTuple):
    """A layer's output (after activation, normalization and pooling; of fc8, the logits) and its gradient."""

    layer: str
    units: int  # of all towers and positions
    response: float  # root mean square over images and units
    variation: float  # the same of the output minus its mean over the images
    silent: float  # the share of units that are 0 for every image: with ReLU, they do not learn from these images
    kernel: float  # root mean square of the weights
    gradient: float  # root mean square of the gradient of the training loss for the weights, by `kernel`; may be nan

    @property
    def share(self) -> float:
        """The part of the response that tells images apart, 0 to 1."""
        return self.variation / self.response if self.response else 0.0

    @property
    def row(self) -> tuple[str, ...]:
        """The columns HEAD."""
        numbers = (self.response, self.variation, self.share, self.silent, self.kernel, self.gradient)
        return (self.layer, *(f"{number:.2g}" for number in numbers))


def at_start(config: Config, pixels: np.ndarray, labels: np.ndarray | None) -> list[Signal]:
    """Measure each layer at the start of a run of `config`, with its own initial parameters; exact for any size.

    Responses are those to the centre crops of `pixels` [N, H, W, 3] uint8 minus their own mean, without dropout. The
    gradient is that of a training step on one batch of them, with `labels` [N], dropout and augmentation; nan without
    labels. Raises UserError for batch normalization, whose averages say nothing before training.
    """
    if normalized := config.model.normalized():
        raise UserError(
            f"the start of {', '.join(normalized)} cannot be measured: batch normalization gives signals the same size "
            "whatever the initial weights"
        )
    own_statistics = statistics.of_sums(statistics.sums_of(list(pixels)))
    respond, gradient = _programs(_without_start(config))
    state = trainer.first_state(config, sharding.make_mesh(1, 1, config.model.towers))
    outputs, gradients = respond(state.params, pixels, own_statistics), None
    if labels is not None:
        index = np.arange(len(pixels), dtype=np.int32)
        batch = Batch(pixels, labels.astype(np.int32), index, np.ones(len(pixels), bool))
        gradients = gradient(state, batch, own_statistics)
    signals = []
    for name in config.model.layers():
        output = np.asarray(outputs[name], np.float64).reshape(len(pixels), -1)
        output = output[:, : config.model.num_classes] if name == "fc8" else output
        kernel = _rms(state.params[name]["kernel"])
        silent = float((output == 0).all(axis=0).mean())
        varying, back = _rms(output - output.mean(axis=0)), math.nan
        if gradients is not None:
            back = _rms(gradients[name]["kernel"]) / kernel
        signals.append(Signal(name, output.shape[1], _rms(output), varying, silent, kernel, back))
    return signals


def _rms(values: np.ndarray | jax.Array) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(values, np.float64)))))


def _without_start(config: Config) -> Config:
    """`config` with initial values, which the programs do not depend on, made equal; for a batch of any size."""
    layers = {name: layer.model_dump() for name, layer in config.model.layers().items()}
    equal = {name: layer | {"init_std": 1.0, "init_bias": 0.0} for name, layer in layers.items()}
    return config_files.changed(config, model=equal, augment={"shared_by": 1}, train={"virtual_shards": 0})


@functools.lru_cache(maxsize=2)
def _programs(config: Config):
    mesh = sharding.make_mesh(1, 1, config.model.towers)
    gradient = jax.jit(lambda *inputs: steps.make_gradient(config, mesh, steps_per_epoch=1)(*inputs)[0])
    return activations.make_step(config, mesh, "output"), gradient


def images(config: Config, directory: Path | None) -> tuple[np.ndarray, np.ndarray, str]:
    """Up to MAX_IMAGES images [N, H, W, 3] uint8 of the config's size, labels [N], and where they come from.

    Those below `directory`; or if None, training images of the config's own data, if it says where that is; or else
    handwritten digits. Labels that are not known are different classes. Raises UserError if there are too few images.
    """
    classes, size = config.model.num_classes, config.data.size
    if directory is not None:
        pixels = read(directory, size)
        return pixels, np.arange(len(pixels)) * classes // len(pixels), str(directory)
    if config.data.directory or config.data.source != PREPARED:
        split = run_data.of_config(config).splits[config.data.train_split]
        return *some(split), config.data.directory or config.data.source
    return *some(open_dataset("digits", "", size, max(classes, 10)).splits["train"]), "digits"


def some(split: Images) -> tuple[np.ndarray, np.ndarray]:
    """Up to MAX_IMAGES intact images of a split, evenly spread, and their labels."""
    chosen = spread(split, min(MAX_IMAGES, len(split.labels)))
    pixels = np.empty((len(chosen.labels), split.size, split.size, 3), np.uint8)
    intact = np.ones(len(pixels), bool)
    intact[list(chosen.read(np.arange(len(pixels)), pixels))] = False
    return pixels[intact], np.asarray(chosen.labels)[intact]


def remarks(config: Config, signals: list[Signal]) -> list[str]:
    """What in `signals` keeps training from starting, by the map in docs/stuck.md, each with a cure; or nothing."""
    rate, hidden = config.optim.learning_rate, signals[-2]
    lines: list[str] = []
    layers = [signal.layer for signal in signals]
    rates = optim.rates(config, layers, config.optim.schedule.warmup_epochs, optim.Validation())
    moves = {  # of each layer that learns, the part of its weights that a step changes
        signal.layer: float(rates[signal.layer]["kernel"]) * signal.gradient
        for signal in signals
        if rates[signal.layer]["kernel"]
    }
    if not moves:
        return ["every layer is frozen: give an lr_multiplier above 0 to some in --config.optim.layers"]
    fastest, slowest = max(moves, key=moves.__getitem__), min(moves, key=moves.__getitem__)
    if moves[fastest] > FAST or moves[slowest] > ALL_FAST:
        layer, which = (fastest, "") if moves[fastest] > FAST else (slowest, ", the slowest layer,")
        lines.append(
            f"the first step changes the weights of {layer}{which} by {moves[layer]:.2g} of their size, so training "
            f"may overshoot and ReLUs die: give a smaller --config.optim.learning_rate, such as {rate / 10:.1g}"
        )
    if moves[slowest] < SLOW:
        lines.append(
            f"a step changes the weights of {slowest} by only {moves[slowest]:.2g} of their size: give a larger "
            "init_std, or he, to the layers around it, or a larger --config.optim.learning_rate"
        )
    if hidden.share < SHARE:
        lines.append(
            f"only {hidden.share:.1%} of the output of {hidden.layer} depends on the image: give, where the share "
            "falls, a larger init_std, or he, or a smaller init_bias"
        )
    return lines
