"""Images/s of whole training: the real loop with the real input, and what share of it the step waited for data."""

import argparse
import datetime
import json
import os
import statistics
import tempfile
from pathlib import Path

import jax

from alexnet_jax import training
from alexnet_jax.bench import rounds
from alexnet_jax.data import manifest
from alexnet_jax.errors import UserError
from alexnet_jax.paper import facts
from alexnet_jax.run import config_files, workdir

PAPER_EPOCHS = 90  # section 5
LINES = 10  # of the log, each one measurement; the first is not counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder that alexnet_jax.prepare wrote")
    add("--config", default="configs/paper.py", help="config file (default configs/paper.py)")
    add("--mesh", default="1x2", help="data x tower (default 1x2); on CPU, devices are simulated")
    add("--batch", type=int, default=128, help="images a step, over all devices (default 128)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of activations (default float32)")
    add("--steps", type=int, default=100, help=f"at least {LINES} (default 100)")
    add("--json", type=Path, help="file to write the results to")


def run(arguments: argparse.Namespace) -> None:
    data, tower = rounds.mesh(arguments.mesh)
    if arguments.steps < LINES:
        raise UserError(f"--steps {arguments.steps}: give {LINES} or more")
    jax.config.update("jax_num_cpu_devices", data * tower)  # of no matter to other devices
    prepared = manifest.read(arguments.data)
    values = config_files.load(arguments.config)
    values.data.update(source="prepared", directory=str(arguments.data), eval_split=values.data.train_split)
    values.mesh.update(data=data, tower=tower)
    values.train.update(batch_size=arguments.batch, eval_batch_size=arguments.batch, compute_dtype=arguments.dtype)
    values.train.update(epochs=10**6, max_steps=arguments.steps, log_every_steps=arguments.steps // LINES)
    with tempfile.TemporaryDirectory(prefix="alexnet_jax_bench_") as folder:
        training.train_and_evaluate(config_files.parse(values), Path(folder) / "run")
        rows = [json.loads(line) for line in (Path(folder) / "run" / workdir.METRICS).read_text().splitlines()]
    lines = [row for row in rows if row["split"] == values.data.train_split and "images_per_s" in row][1:]
    speed, waited = (statistics.median(line[key] for line in lines) for key in ("images_per_s", "data_wait"))
    hours = PAPER_EPOCHS * facts.ILSVRC_2012 / speed / 3600
    found = {
        "images_per_s": speed,
        "data_wait": waited,
        "hours_of_the_paper": hours,
        "lines": [line["images_per_s"] for line in lines],
        "store": prepared.store,
        "config": arguments.config,
        "mesh": arguments.mesh,
        "batch": arguments.batch,
        "dtype": arguments.dtype,
        "machine": rounds.machine(),
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.date.today().isoformat(),
    }
    print(f"\n{found['machine']}; {found['device']}")
    print(f"{speed:,.1f} images/s from {prepared.store} records, waiting for data {waited:.1%} of the time")
    print(f"at this speed {PAPER_EPOCHS} epochs of {facts.ILSVRC_2012:,} images take {hours:,.1f} hours")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
