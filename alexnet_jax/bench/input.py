"""Images/s of the input: each stage, the whole loader, and beside it PyTorch's DataLoader and tf.data.

The stages run in one thread, without Grain; the whole pipelines keep --cores busy. All read the same images, again
and again, so from memory: how fast the disk is shows in none of the numbers. PyTorch and TensorFlow are
compared with if they are installed (pip install torch tensorflow-cpu).
"""

import argparse
import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from alexnet_jax.bench import copies, peers, rounds
from alexnet_jax.bench.copies import Copies
from alexnet_jax.bench.rounds import Batches, Pipeline
from alexnet_jax.data import loader, records
from alexnet_jax.data.loader import Order
from alexnet_jax.errors import UserError

BY_RECORDS = "tf.data raw, by records"
OURS = {"raw": "alexnet_jax raw", "jpeg": "alexnet_jax jpeg"}
TORCH, TFDATA = "torch DataLoader jpeg", {"raw": "tf.data raw", "jpeg": "tf.data jpeg"}
PEERS = {"ratio_to_torch": {"raw": TORCH, "jpeg": TORCH}, "ratio_to_tfdata": TFDATA}
HEADINGS = {"ratio_to_torch": "to torch", "ratio_to_tfdata": "to tf.data"}
TO_DEVICE = "host-to-device"
PREFETCH = 4  # batches, as in configs/paper.py
FOREVER = 2**40  # batches


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder that alexnet_jax.prepare wrote, of either store")
    add("--split", default="train", help="of the data (default train)")
    add("--batch", type=int, default=128, help="images a batch (default 128)")
    add("--cores", type=int, help="cores to use: our threads, PyTorch's workers, tf.data's threads (default: all)")
    add("--images", type=int, default=2048, help="how many to read, repeated if the split has fewer (default 2048)")
    add("--rounds", type=int, default=5, help="each measures everything once (default 5)")
    add("--seconds", type=float, default=3, help="per pipeline and round, and a third of it per stage (default 3)")
    add("--step_rate", type=float, help="images/s of a training step: which side limits it, the step or the input?")
    add("--json", type=Path, help="file to write the table to")


def run(arguments: argparse.Namespace) -> None:
    available = sorted(os.sched_getaffinity(0))
    cores = len(available) if arguments.cores is None else arguments.cores
    _check(arguments, cores, len(available))
    os.sched_setaffinity(0, available[:cores])  # whatever threads and processes the pipelines start
    with contextlib.ExitStack() as stack:
        pixels, labels, quality = copies.images_of(arguments.data, arguments.split, arguments.images)
        images = -(-arguments.images // arguments.batch) * arguments.batch
        size = pixels.shape[1]
        memory = (PREFETCH + cores) * arguments.batch * size * size * 3
        print(f"{rounds.machine()}\n{cores} of {len(available)} cores; device {jax.devices()[0].device_kind}")
        print(f"our loader holds at most {PREFETCH} + {cores} batches, {memory / 1e6:,.0f} MB of host memory")
        repeated = f", which are {len(pixels)} of {arguments.data} under several names" if images > len(pixels) else ""
        print(f"{images} images of {size}x{size}{repeated}; JPEGs of quality {quality}; batches of {arguments.batch}")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="alexnet_jax_bench_")))
        data = copies.write(folder, pixels, labels, images, quality, cores)
        pipelines = [*_stages(data, arguments.batch), *_whole(data, arguments.batch, size, cores)]
        for pipeline in pipelines:
            if pipeline.batches:
                stack.callback(pipeline.batches.close)
        rates = rounds.measure(pipelines, arguments.batch, arguments.rounds, arguments.seconds)
    table = rounds.rows(pipelines, rates, arguments.batch, PEERS)
    print(f"\n{rounds.table(table, HEADINGS)}\n")
    print("\n".join(limits(table, arguments.step_rate)))
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=2) + "\n")


def _check(arguments: argparse.Namespace, cores: int, available: int) -> None:
    for name in ("batch", "images", "rounds", "seconds", "step_rate"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise UserError(f"--{name} {value} must be more than 0")
    if not 1 <= cores <= available:
        raise UserError(f"--cores {cores} must be in 1..{available}: this process may use {available} cores")
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        raise UserError(f"--json {arguments.json}: there is no folder {arguments.json.parent}; make it first")


def _stages(data: Copies, batch: int) -> list[Pipeline]:
    """What the loader does, one thing after the other, in one thread."""
    order = Order(len(data.files), batch, seed=0)
    one = np.empty((1, data.raw.size, data.raw.size, 3), np.uint8)
    ready = np.empty((batch, *one.shape[1:]), np.uint8)
    device = jax.devices()[0]

    def each(do: Callable) -> Batches:
        for number in range(FOREVER):
            for i in order.batch(number)[0]:
                do(i)
            yield number

    def whole(images: records.Packed) -> Batches:
        return (images.read(order.batch(number)[0], ready) for number in range(FOREVER))

    return [
        Pipeline("read raw", "read", "raw", 1, each(lambda i: data.raw.read(i[None], one))),
        Pipeline("batch raw", "batch", "raw", 1, whole(data.raw)),
        Pipeline("read jpeg", "read", "jpeg", 1, each(lambda i: data.jpeg.record(int(i)))),
        Pipeline("read, decode jpeg", "decode", "jpeg", 1, each(lambda i: data.jpeg.read(i[None], one))),
        Pipeline("batch jpeg", "batch", "jpeg", 1, whole(data.jpeg)),
        Pipeline(
            TO_DEVICE,
            TO_DEVICE,
            None,
            1,
            (jax.device_put(ready, device).block_until_ready() for _ in range(FOREVER)),
        ),
    ]


def _whole(data: Copies, batch: int, size: int, cores: int) -> list[Pipeline]:
    order = Order(len(data.files), batch, seed=0)
    reading = loader.Reading(threads=cores, prefetch=PREFETCH, max_bad=0)

    def ours(images: records.Packed) -> Batches:
        with contextlib.closing(loader.Batches(images, order, 0, FOREVER, reading)) as batches:
            yield from batches

    torch = peers.torch_jpeg(data.files, batch, cores) if peers.installed("torch") else None
    tfdata: dict[str, Batches] = {}
    if data.tfrecords:
        tfdata["raw"] = peers.tfdata_raw(data.tfrecords["raw"], batch, size, cores)
        tfdata["records"] = peers.tfdata_raw(data.tfrecords["raw"], batch, size, cores, by_records=True)
        tfdata["jpeg"] = peers.tfdata_jpeg(data.tfrecords["jpeg"], batch, size, cores)
    ahead = PREFETCH + cores
    return [
        Pipeline(OURS["raw"], "whole", "raw", cores, ours(data.raw), ahead),
        Pipeline(TFDATA["raw"], "whole", "raw", cores, tfdata.get("raw"), peers.TFDATA_AHEAD + cores),
        Pipeline(BY_RECORDS, "whole", "raw", cores, tfdata.get("records"), peers.TFDATA_AHEAD + cores),
        Pipeline(OURS["jpeg"], "whole", "jpeg", cores, ours(data.jpeg), ahead),
        Pipeline(TORCH, "whole", "jpeg", cores, torch, peers.torch_ahead(cores)),
        Pipeline(TFDATA["jpeg"], "whole", "jpeg", cores, tfdata.get("jpeg"), peers.TFDATA_AHEAD + cores),
    ]


def limits(table: list[dict], step_rate: float | None) -> Iterator[str]:
    """A line a pipeline: what step it can feed, or which side limits a step that takes `step_rate` images/s."""
    to_device = next(row["images_per_s"] for row in table if row["stage"] == TO_DEVICE)
    for row in table:
        if row["stage"] != "whole" or not row["rounds"]:
            continue
        rate = min(row["images_per_s"], to_device)  # both run at once, so the slower one counts
        behind = f", as {TO_DEVICE} takes no more" if rate < row["images_per_s"] else ""
        if step_rate is None:
            said = f" can feed a training step of {rate:,.0f} images/s"
        elif rate < step_rate:
            said = f": the input limits, with {rate / step_rate:.1%} of the {step_rate:,.10g} images/s of the step"
        else:
            said = f": the step limits, at {step_rate:,.10g} images/s; the input has {rate / step_rate:,.1f} times that"
        yield row["pipeline"] + said + behind
