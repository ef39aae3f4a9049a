"""Measure training in images/s: the real step with the real input, and how long the step waits for data.

Every batch is whole: images that do not fill one are left out, and those of a split smaller than a batch are repeated.
There is no validation, log or checkpoint.
"""

import argparse
import collections
import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import STARTED, optim, sharding, steps
from alexnet_jax.bench import measuring
from alexnet_jax.data import manifest
from alexnet_jax.data.datasets import split_of
from alexnet_jax.data.loader import Batches, Order, Reading
from alexnet_jax.data.records import Images, Subset
from alexnet_jax.errors import UserError
from alexnet_jax.loop import STEPS_AHEAD
from alexnet_jax.paper import facts
from alexnet_jax.run import run_data
from alexnet_jax.run_config import Config

PAPER_EPOCHS = 90  # section 5
LINES = 10  # parts of the steps, each of them a measurement; the first, with compilation, is not counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder that `alexnet prepare` wrote")
    measuring.add_program(parser)
    add("--batch", type=measuring.positive_int, default=128, help="images a step, over all devices (default: 128)")
    add("--steps", type=int, default=100, help=f"steps, {LINES} or more (default: 100)")
    add("--json", type=measuring.output_file, help="file to write the results to")


def run(arguments: argparse.Namespace) -> None:
    require_enough(arguments.steps)
    store = manifest.read(arguments.data).store
    changes = {"data.source": "prepared", "data.directory": str(arguments.data)}
    config = measuring.config(arguments, arguments.batch, changes)
    conditions = {"store": store} | measuring.conditions(arguments, arguments.batch)
    for result in measured(config, arguments.steps):
        hours = PAPER_EPOCHS * facts.ILSVRC_2012 / result["images_per_s"] / 3600
        result |= {"hours_of_the_paper": hours} | conditions
        measuring.write(arguments.json, result)
    print(f"\n{result['machine']}; {result['device']}")
    print(f"{result['images']:,} images in {result['seconds']:,.1f} s, the first tenth of the steps not counted:")
    speed = f"{result['images_per_s']:,.1f} images/s ({measuring.spread(result['lines'], 1)})"
    print(f"{speed} from {store} records, waiting for data {result['data_wait']:.1%} of the time")
    print(f"at this speed {PAPER_EPOCHS} epochs of {facts.ILSVRC_2012:,} images take {hours:,.1f} hours")


def require_enough(steps: int) -> None:
    """Raise UserError if --steps are too few to measure."""
    if steps < LINES:
        raise UserError(f"--steps {steps} is too few; give {LINES} or more")


def measured(config: Config, count: int) -> Iterator[dict[str, Any]]:
    """The speed of `count` steps without the first tenth of them, after each other tenth, ready for JSON."""
    trained, part = 0, count // LINES
    marks: list[tuple[int, float, float]] = []  # after each tenth: images so far, seconds, seconds waited for data
    for number, (of_step, waited_so_far) in enumerate(_steps(config, count), start=1):
        trained += of_step
        if number == 1:
            print(f"the first step ended {time.monotonic() - STARTED:.1f} s after the start", flush=True)
        if number % part or len(marks) == LINES:
            continue
        marks.append((trained, time.perf_counter(), waited_so_far))
        if len(marks) > 1:
            images, seconds, waited = (last - first for first, last in zip(marks[0], marks[-1], strict=True))
            lines = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in itertools.pairwise(marks)]
            result = {"images_per_s": images / seconds, "images": images, "seconds": seconds, "lines": lines}
            yield result | {"data_wait": min(waited / seconds, 1.0)}


def whole_batches(images: Images, batch_size: int) -> Subset:
    """The images without those that do not fill a batch; all and some again if there are fewer than one batch."""
    count = len(images.labels)
    return Subset(images, np.resize(np.arange(count), max(count // batch_size, 1) * batch_size))


def _steps(config: Config, count: int) -> Iterator[tuple[int, float]]:
    """Train; whenever one of `count` steps has ended, yield its images and the seconds waited for data so far.

    As in training, the host is STEPS_AHEAD steps ahead of the devices, also at the end: that many more steps are begun.
    """
    data, batch_size = config.data, config.train.batch_size
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.tower, config.model.towers)
    dataset = run_data.of_config(config)
    images = whole_batches(split_of(dataset, data.train_split, "--config.data.train_split"), batch_size)
    order = Order(len(images.labels), batch_size, config.seed, data.reshuffle)
    constants = sharding.put(dataset.statistics(), mesh, sharding.REPLICATED), sharding.votes(False, mesh)
    state, step = steps.init_state(config, mesh), steps.make_train_step(config, mesh, order.steps_per_epoch)
    in_flight: collections.deque[tuple[Any, int]] = collections.deque()
    reading = Reading(data.threads, data.prefetch_batches, data.max_bad)
    with contextlib.closing(Batches(images, order, 0, count + STEPS_AHEAD, reading)) as batches:
        for number, batch in enumerate(batches):
            rates = optim.rates(config, state.params, number / order.steps_per_epoch, optim.Validation())
            state, report = step(state, sharding.put(batch, mesh, sharding.EXAMPLES), rates, *constants)
            in_flight.append((report.loss, int(batch.mask.sum())))
            if len(in_flight) > STEPS_AHEAD:
                loss, trained = in_flight.popleft()
                loss.block_until_ready()
                yield trained, batches.waited
