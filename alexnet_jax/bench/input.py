"""Measure the input in images/s: each stage, the whole loader, and beside it PyTorch's DataLoader and tf.data.

The stages run in one thread, without Grain; the whole pipelines keep --cores busy. All read the same images over
and over, hence from memory: the speed of the disk plays no part. PyTorch and TensorFlow are measured if they are
installed (pip install torch tensorflow-cpu).
"""

import argparse
import contextlib
import itertools
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from tabulate import tabulate

from alexnet_jax.bench import copies, options, peers, rounds
from alexnet_jax.bench.copies import Copies
from alexnet_jax.bench.rounds import Pipeline, Stream
from alexnet_jax.data import loader, records
from alexnet_jax.data.loader import Order
from alexnet_jax.errors import UserError

TORCH, TFDATA = "torch DataLoader jpeg", {"raw": "tf.data raw", "jpeg": "tf.data jpeg"}
PEERS = {"ratio_to_torch": {"raw": TORCH, "jpeg": TORCH}, "ratio_to_tfdata": TFDATA}
HEADINGS = ("", "cores", "images/s", "least..most", "per core", "to torch", "to tf.data")
TO_DEVICE = "host-to-device"
PREFETCH = 4  # batches, as in configs/paper.py


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, count, seconds = parser.add_argument, options.positive_int, options.positive_float
    add("--data", type=Path, required=True, help="folder that `alexnet prepare` wrote, of either store")
    add("--split", default="train", help="split of the data (default: train)")
    add("--batch", type=count, default=128, help="images a batch (default: 128)")
    add("--cores", type=int, help="cores to use: our threads, PyTorch's workers, tf.data's threads (default: all)")
    add("--images", type=count, default=2048, help="images to read, repeated if there are fewer (default: 2048)")
    add("--rounds", type=count, default=5, help="rounds, each of which measures everything once (default: 5)")
    add("--seconds", type=seconds, default=3, help="time per pipeline and round; a third per stage (default: 3)")
    add("--step_rate", type=seconds, help="images/s of a training step, to see whether it or the input is the limit")
    add("--json", type=options.output_file, help="file to write the table to")


def run(arguments: argparse.Namespace) -> None:
    available = sorted(os.sched_getaffinity(0))
    cores = len(available) if arguments.cores is None else arguments.cores
    if not 1 <= cores <= len(available):
        raise UserError(f"--cores {cores} must be in 1..{len(available)}: this process may use {len(available)} cores")
    os.sched_setaffinity(0, available[:cores])  # for all threads and processes that the pipelines start
    pixels, labels, quality = copies.first_images(arguments.data, arguments.split, arguments.images)
    images = -(-arguments.images // arguments.batch) * arguments.batch
    size, memory = pixels.shape[1], (PREFETCH + cores) * arguments.batch * pixels[0].nbytes
    print(f"{options.machine()}\n{cores} of {len(available)} cores; device {jax.devices()[0].device_kind}")
    print(f"our loader holds at most {PREFETCH} + {cores} batches, {memory / 1e6:,.0f} MB of host memory")
    repeated = f", {len(pixels)} of {arguments.data} repeated" if images > len(pixels) else ""
    print(f"{images} images of {size}x{size}{repeated}; JPEGs of quality {quality}; batches of {arguments.batch}")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="alexnet_jax_bench_")))
        data = copies.write(folder, pixels, labels, images, quality, cores)
        pipelines = [*_stages(data, arguments.batch), *_whole(data, arguments.batch, cores)]
        for pipeline in pipelines:
            if pipeline.batches:
                stack.callback(pipeline.batches.close)
        rates = rounds.measure(pipelines, arguments.batch, arguments.rounds, arguments.seconds)
    rows = [row(pipeline, rates, arguments.batch) for pipeline in pipelines]
    print(f"\n{table(rows)}\n")
    print("\n".join(limits(rows, arguments.step_rate)))
    options.write(arguments.json, rows)


def _stages(data: Copies, batch: int) -> list[Pipeline]:
    """The steps of the loader, each by itself in one thread."""
    order = Order(len(data.files), batch, seed=0)
    images = np.empty((batch, data.raw.size, data.raw.size, 3), np.uint8)
    image, device = images[:1].copy(), jax.devices()[0]

    def each(function: Callable) -> Stream:
        for number in itertools.count():
            for i in order.batch(number)[0]:
                function(i)
            yield number

    def whole(split: records.Packed) -> Stream:
        return (split.read(order.batch(number)[0], images) for number in itertools.count())

    to_device = (jax.device_put(images, device).block_until_ready() for _ in itertools.count())
    return [
        Pipeline("read raw", "read", "raw", 1, each(lambda i: data.raw.read(i[None], image))),
        Pipeline("batch raw", "batch", "raw", 1, whole(data.raw)),
        Pipeline("read jpeg", "read", "jpeg", 1, each(lambda i: data.jpeg.record(int(i)))),
        Pipeline("read, decode jpeg", "decode", "jpeg", 1, each(lambda i: data.jpeg.read(i[None], image))),
        Pipeline("batch jpeg", "batch", "jpeg", 1, whole(data.jpeg)),
        Pipeline(TO_DEVICE, TO_DEVICE, None, 1, to_device),
    ]


def _whole(data: Copies, batch: int, cores: int) -> list[Pipeline]:
    """Our loader and its peers, from the store to batches."""
    order = Order(len(data.files), batch, seed=0)
    reading = loader.Reading(threads=cores, prefetch=PREFETCH, max_bad=0)

    def ours(split: records.Packed) -> Stream:
        with contextlib.closing(loader.Batches(split, order, 0, peers.FOREVER, reading)) as batches:
            yield from batches

    torch = peers.torch_jpeg(data.files, batch, cores) if peers.installed("torch") else None

    def tfdata(store: str, by_records: bool) -> Stream | None:
        files = data.tfrecords.get(store)
        return peers.tfdata(files, store, batch, data.raw.size, cores, by_records) if files else None

    ahead, tfdata_ahead = PREFETCH + cores, peers.TFDATA_AHEAD + cores
    return [
        Pipeline("alexnet_jax raw", "whole", "raw", cores, ours(data.raw), ahead),
        Pipeline(TFDATA["raw"], "whole", "raw", cores, tfdata("raw", False), tfdata_ahead),
        Pipeline("tf.data raw, by records", "whole", "raw", cores, tfdata("raw", True), tfdata_ahead),
        Pipeline("alexnet_jax jpeg", "whole", "jpeg", cores, ours(data.jpeg), ahead),
        Pipeline(TORCH, "whole", "jpeg", cores, torch, peers.TORCH_AHEAD * cores),
        Pipeline(TFDATA["jpeg"], "whole", "jpeg", cores, tfdata("jpeg", True), tfdata_ahead),
    ]


def row(pipeline: Pipeline, rates: dict[str, list[float]], batch: int) -> dict:
    """A row of the table, ready for JSON: the median rate, and for whole pipelines the ratios to their peers."""
    own, ratios = rates.get(pipeline.name), {}
    for key, names in PEERS.items():
        peer = rates.get(names[str(pipeline.store)]) if pipeline.stage == "whole" else None
        ratios[key] = rounds.ratio(own, peer) if own and peer else None
    return {
        "pipeline": pipeline.name,
        "images_per_s": statistics.median(own) if own else None,
        **ratios,
        "cores": pipeline.cores,
        "batch": batch,
        "stage": pipeline.stage,
        "store": pipeline.store,
        "rounds": own,
    }


def table(rows: list[dict]) -> str:
    lines = []
    for row in rows:
        cells = ["", "not installed"]
        if row["rounds"]:
            rate, cores = row["images_per_s"], row["cores"]
            ratios = ["-" if row[key] is None else f"{row[key]:.2f}x" for key in PEERS]
            cells = [cores, f"{rate:,.0f}", rounds.spread(row["rounds"]), f"{rate / cores:,.0f}", *ratios]
        lines.append([row["pipeline"], *cells])
    align = ("left", *("right",) * (len(HEADINGS) - 1))
    return tabulate(lines, HEADINGS, tablefmt="plain", disable_numparse=True, colalign=align)


def limits(rows: list[dict], step_rate: float | None) -> Iterator[str]:
    """For each pipeline the training step that it can feed, or what limits a step of `step_rate` images/s."""
    to_device = next(row["images_per_s"] for row in rows if row["stage"] == TO_DEVICE)
    for row in rows:
        if row["stage"] != "whole" or not row["rounds"]:
            continue
        rate = min(row["images_per_s"], to_device)  # both run at once, so the slower one counts
        if step_rate is None:
            verdict = f" can feed a training step of {rate:,.0f} images/s"
        elif rate < step_rate:
            verdict = f": the input limits, with {rate / step_rate:.1%} of the {step_rate:,.10g} images/s of the step"
        else:
            verdict = f": the step limits, at {step_rate:,.10g} images/s; the input is {rate / step_rate:,.1f}x as fast"
        yield row["pipeline"] + verdict + (f", limited by {TO_DEVICE}" if rate < row["images_per_s"] else "")
