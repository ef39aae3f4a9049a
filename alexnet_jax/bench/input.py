"""Measure the input in images/s: each stage, the whole loader, and beside it PyTorch's DataLoader and tf.data.

The stages run in one thread, without Grain; the whole pipelines keep --cores busy. All read the same images over
and over, hence from memory: the speed of the disk plays no part. PyTorch and TensorFlow are measured if they are
installed (pip install torch tensorflow-cpu).
"""

import argparse
import contextlib
import itertools
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from tabulate import tabulate

from alexnet_jax.bench import measuring, peers
from alexnet_jax.bench.measuring import Pipeline
from alexnet_jax.bench.peers import Stream
from alexnet_jax.data import loader, manifest, packing, records
from alexnet_jax.data.datasets import open_dataset, split_of
from alexnet_jax.data.images import decode_jpeg
from alexnet_jax.data.sources.registry import open_source
from alexnet_jax.data.sources.source import Image, Source, Split
from alexnet_jax.data.streaming import Streamed, streamed
from alexnet_jax.errors import UserError

TORCH, TO_DEVICE = "torch DataLoader jpeg", "host-to-device"
RATIOS = ("ratio_to_torch", "ratio_to_tfdata")
HEADINGS = ("", "cores", "images/s", "least..most", "per core", "to torch", "to tf.data")
PREFETCH = 4  # batches, as in configs/paper.py
QUALITY = 95  # of JPEGs made from raw data: the default of `alexnet prepare`


class Copies(NamedTuple):
    """The same images in every form that a pipeline reads."""

    raw: records.Packed
    jpeg: records.Jpeg
    files: list[str]  # JPEGs
    tfrecords: dict[str, list[str]]  # store -> files; empty without TensorFlow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, count, seconds = parser.add_argument, measuring.positive_int, measuring.positive_float
    add("--data", type=Path, required=True, help="folder that `alexnet prepare` wrote, of either store")
    add("--split", default="train", help="split of the data (default: train)")
    add("--batch", type=count, default=128, help="images a batch (default: 128)")
    add("--cores", type=int, help="cores to use: our threads, PyTorch's workers, tf.data's threads (default: all)")
    add("--images", type=count, default=2048, help="images to read, repeated if there are fewer (default: 2048)")
    add("--rounds", type=count, default=5, help="rounds, each of which measures everything once (default: 5)")
    add("--seconds", type=seconds, default=3, help="time per pipeline and round; a third per stage (default: 3)")
    add("--stream", metavar="SOURCE", help="also read images of this source, as `alexnet train --stream` does")
    add("--input", type=Path, help="what --stream reads, as for `alexnet prepare`")
    add("--step_rate", type=seconds, help="images/s of a training step, to see whether it or the input is the limit")
    add("--json", type=measuring.output_file, help="file to write the table to")


def run(arguments: argparse.Namespace) -> None:
    available = sorted(os.sched_getaffinity(0))
    cores = len(available) if arguments.cores is None else arguments.cores
    if not 1 <= cores <= len(available):
        raise UserError(f"--cores {cores} must be in 1..{len(available)}: this process may use {len(available)} cores")
    os.sched_setaffinity(0, available[:cores])  # for all threads and processes that the pipelines start
    pixels, labels, quality = _first_images(arguments)
    batch, size = arguments.batch, pixels.shape[1]
    images, memory = -(-arguments.images // batch) * batch, (PREFETCH + cores) * batch * pixels[0].nbytes
    about = {**measuring.place(devices=1), "images": images, "size": size, "quality": quality}
    print(
        "{machine}\n{cores} of {available} cores, load {load:.1f}; device {device}".format(
            available=len(available), **about
        )
    )
    print(f"our loader holds at most {PREFETCH} + {cores} batches, {memory / 1e6:,.0f} MB of host memory")
    repeated = f", {len(pixels)} of {arguments.data} repeated" if images > len(pixels) else ""
    print(f"{images} images of {size}x{size}{repeated}; JPEGs of quality {quality}; batches of {batch}")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="alexnet_jax_bench_")))
        pipelines = _pipelines(_write(folder, pixels, labels, images, quality, cores), batch, cores)
        if arguments.stream:
            splits = streamed(open_source(arguments.stream, arguments.input, size=size), size, arguments.input)
            if arguments.split not in splits:
                raise UserError(
                    f"--stream {arguments.stream} has no split {arguments.split!r}, only {', '.join(splits)}"
                )
            pipelines.append(_streamed(splits[arguments.split], images, batch, cores))
        for pipeline in pipelines:
            if pipeline.batches:
                stack.callback(pipeline.batches.close)
        rates = measuring.rates(pipelines, batch, arguments.rounds, arguments.seconds)
    rows = [row(pipeline, rates, batch) for pipeline in pipelines]
    print(f"\n{table(rows)}\n", *limits(rows, arguments.step_rate), sep="\n")
    measuring.write(arguments.json, about | {"rows": rows})


def _first_images(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, int]:
    """The images to read: [n, size, size, 3] uint8, their labels [n] int32, and the quality of their JPEGs."""
    described = manifest.read(arguments.data)
    dataset = open_dataset("prepared", str(arguments.data), described.size, len(described.classes))
    images = split_of(dataset, arguments.split, "--split")
    index = np.arange(min(arguments.images, len(images.labels)))
    pixels = np.empty((len(index), images.size, images.size, 3), np.uint8)
    if bad := images.read(index, pixels):
        example = "{}: {}".format(*next(iter(bad.items())))
        raise UserError(f"{len(bad)} images of {arguments.data} are damaged, such as {example}; prepare them again")
    return pixels, images.labels[index], described.quality or QUALITY


def _write(folder: Path, pixels: np.ndarray, labels: np.ndarray, images: int, quality: int, cores: int) -> Copies:
    """Write `images` images to `folder`, by repeating `pixels` [n, size, size, 3] with `labels` [n]."""
    cure = "give fewer --images, or a folder on another disk as TMPDIR"
    needed, free = 3 * images * pixels[0].nbytes, shutil.disk_usage(folder).free  # pixels twice, JPEGs three times
    if needed > free:
        raise UserError(f"{folder} needs {needed / 1e9:.3g} GB and its disk has {free / 1e9:.3g} GB free; {cure}")

    def read(i: int) -> Image:
        return Image(pixels[i % len(pixels)], int(labels[i % len(pixels)]))

    def pack(store: Literal["raw", "jpeg"]) -> Any:
        settings = packing.Settings(store, pixels.shape[1], quality, max_corrupt=0)
        written = packing.pack(source, folder / store, settings, show_progress=False)
        return records.open_split(folder / store, written, "train")

    classes = [str(i) for i in range(int(labels.max()) + 1)]
    source = Source(classes, {"train": Split([f"train/{i}" for i in range(images)], None, read)}, {})
    try:
        raw, jpeg = pack("raw"), pack("jpeg")
        files = [folder / f"{i:07d}.jpg" for i in range(images)]
        for i, file in enumerate(files):
            file.write_bytes(jpeg.record(i))
        tfrecords = {}
        if peers.installed("tensorflow"):
            raw_records = (pixels[i % len(pixels)].tobytes() for i in range(images))
            contents = {"raw": raw_records, "jpeg": map(jpeg.record, range(images))}
            tfrecords = {store: peers.write_tfrecords(folder, store, each, cores) for store, each in contents.items()}
    except OSError as error:
        raise UserError(f"cannot write the images to {folder}: {error}; {cure}") from None
    return Copies(raw, jpeg, [str(file) for file in files], tfrecords)


def _pipelines(data: Copies, batch: int, cores: int) -> list[Pipeline]:
    """The steps of our loader, each by itself in one thread; then whole pipelines, ours and its peers."""
    order = loader.Order(len(data.files), batch, seed=0)
    images = np.empty((batch, data.raw.size, data.raw.size, 3), np.uint8)
    image, device = images[:1].copy(), jax.devices()[0]

    def one_by_one(function: Callable) -> Stream:
        for number in itertools.count():
            for i in order.batch(number)[0]:
                function(i)
            yield number

    def in_batches(split: records.Packed) -> Stream:
        return (split.read(order.batch(number)[0], images) for number in itertools.count())

    def tfdata(name: str, store: str, by_records: bool) -> Pipeline:
        files = data.tfrecords.get(store)
        stream = peers.tfdata(files, store, batch, data.raw.size, cores, by_records) if files else None
        return Pipeline(name, "whole", store, cores, stream, peers.TFDATA_AHEAD + cores)

    contents = [data.jpeg.record(i) for i in range(len(data.files))]
    to_device = (jax.device_put(images, device).block_until_ready() for _ in itertools.count())
    torch = peers.torch_jpeg(data.files, batch, cores) if peers.installed("torch") else None
    return [
        Pipeline("read raw", "read", "raw", 1, one_by_one(lambda i: data.raw.read(i[None], image))),
        Pipeline("batch raw", "batch", "raw", 1, in_batches(data.raw)),
        Pipeline("read jpeg", "read", "jpeg", 1, one_by_one(lambda i: data.jpeg.record(int(i)))),
        Pipeline("decode jpeg", "decode", "jpeg", 1, one_by_one(lambda i: decode_jpeg(contents[i], image[0]))),
        Pipeline("read, decode jpeg", "decode", "jpeg", 1, one_by_one(lambda i: data.jpeg.read(i[None], image))),
        Pipeline("batch jpeg", "batch", "jpeg", 1, in_batches(data.jpeg)),
        Pipeline(TO_DEVICE, TO_DEVICE, None, 1, to_device),
        Pipeline("alexnet_jax raw", "whole", "raw", cores, _ours(data.raw, order, cores), PREFETCH + cores),
        tfdata("tf.data raw", "raw", by_records=False),
        tfdata("tf.data raw, by records", "raw", by_records=True),
        Pipeline("alexnet_jax jpeg", "whole", "jpeg", cores, _ours(data.jpeg, order, cores), PREFETCH + cores),
        Pipeline(TORCH, "whole", "jpeg", cores, torch, peers.TORCH_AHEAD * cores),
        tfdata("tf.data jpeg", "jpeg", by_records=True),
    ]


def _streamed(split: Streamed, images: int, batch: int, cores: int) -> Pipeline:
    """Training's own reading of a source that is not prepared: `images` of a split, or all if it has fewer."""
    order = loader.Order(min(images, len(split.labels)), batch, seed=0)
    return Pipeline("alexnet_jax stream", "whole", None, cores, _ours(split, order, cores), PREFETCH + cores)


def _ours(images: records.Images, order: loader.Order, cores: int) -> Stream:
    reading = loader.Reading(threads=cores, prefetch=PREFETCH, max_bad=0)
    with contextlib.closing(loader.Batches(images, order, 0, peers.FOREVER, reading)) as batches:
        yield from batches


def row(pipeline: Pipeline, rates: dict[str, list[float]], batch: int) -> dict:
    """A row of the table, ready for JSON: the median rate, and for whole pipelines the ratios to their peers."""
    own = rates.get(pipeline.name)
    compared = rates if own and pipeline.stage == "whole" and pipeline.store else {}
    peer_rates = [compared.get(peer) for peer in (TORCH, f"tf.data {pipeline.store}")]
    ratios = [measuring.ratio(own, peer) if own and peer else None for peer in peer_rates]
    about = {"cores": pipeline.cores, "batch": batch, "stage": pipeline.stage, "store": pipeline.store}
    speed = {"pipeline": pipeline.name, "images_per_s": statistics.median(own) if own else None}
    return speed | dict(zip(RATIOS, ratios, strict=True)) | about | {"rounds": own}


def table(rows: list[dict]) -> str:
    lines = []
    for row in rows:
        cells = ["", "not installed"]
        if row["rounds"]:
            rate, cores = row["images_per_s"], row["cores"]
            ratios = ["-" if row[key] is None else f"{row[key]:.2f}x" for key in RATIOS]
            cells = [cores, f"{rate:,.0f}", measuring.spread(row["rounds"]), f"{rate / cores:,.0f}", *ratios]
        lines.append([row["pipeline"], *cells])
    return tabulate(lines, HEADINGS, "plain", disable_numparse=True, stralign="right", colalign=["left"])


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
