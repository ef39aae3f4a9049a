"""Measure whole training in images/s: the real loop with the real input, and how long the step waits for data."""

import argparse
import statistics
import tempfile
from pathlib import Path

from alexnet_jax import training
from alexnet_jax.bench import measuring
from alexnet_jax.data import manifest
from alexnet_jax.errors import UserError
from alexnet_jax.paper import facts
from alexnet_jax.run import config_files, workdir

PAPER_EPOCHS = 90  # section 5
LINES = 10  # of the log, each of them a measurement; the first is not counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder that `alexnet prepare` wrote")
    measuring.add_program(parser)
    add("--batch", type=measuring.positive_int, default=128, help="images a step, over all devices (default: 128)")
    add("--steps", type=int, default=100, help=f"steps, {LINES} or more (default: 100)")
    add("--json", type=measuring.output_file, help="file to write the results to")


def run(arguments: argparse.Namespace) -> None:
    if arguments.steps < LINES:
        raise UserError(f"--steps {arguments.steps} is too few; give {LINES} or more")
    store = manifest.read(arguments.data).store
    changes = {"data.source": "prepared", "data.directory": str(arguments.data), "train.epochs": 10**6}
    changes |= {"train.max_steps": arguments.steps, "train.log_every_steps": arguments.steps // LINES}
    config = measuring.config(arguments, arguments.batch, changes)
    train_split = config.data.train_split
    with tempfile.TemporaryDirectory(prefix="alexnet_jax_bench_") as folder:
        directory = Path(folder) / "run"
        training.train_and_evaluate(config_files.changed(config, data={"eval_split": train_split}), directory)
        rows = workdir.read_metrics(directory)
    lines = [row for row in rows if row["split"] == train_split and "images_per_s" in row][1:]
    speed, waited = (statistics.median(line[key] for line in lines) for key in ("images_per_s", "data_wait"))
    hours = PAPER_EPOCHS * facts.ILSVRC_2012 / speed / 3600
    result = {"images_per_s": speed, "data_wait": waited, "hours_of_the_paper": hours, "store": store}
    result |= {"lines": [line["images_per_s"] for line in lines]} | measuring.conditions(arguments, arguments.batch)
    print(f"\n{result['machine']}; {result['device']}")
    print(f"{speed:,.1f} images/s from {store} records, waiting for data {waited:.1%} of the time")
    print(f"at this speed {PAPER_EPOCHS} epochs of {facts.ILSVRC_2012:,} images take {hours:,.1f} hours")
    measuring.write(arguments.json, result)
