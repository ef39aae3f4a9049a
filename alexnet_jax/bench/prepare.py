"""Measure `alexnet prepare` in images/s, and beside it nothing but decoding, scaling and encoding on as many cores.

The images are read into memory first, and a temporary folder is written to, so that the disk counts little.
"""

import argparse
import collections
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from alexnet_jax.bench import measuring
from alexnet_jax.data import images, packing
from alexnet_jax.data.packing import Settings
from alexnet_jax.data.sources.registry import open_source
from alexnet_jax.data.sources.source import Source, Split
from alexnet_jax.errors import UserError

BLOCK = 32  # images that a thread takes at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, count = parser.add_argument, measuring.positive_int
    add("--source", default="folder", help="as for `alexnet prepare` (default: folder)")
    add("--input", type=Path, required=True, help="as for `alexnet prepare`: the source's folder or file")
    add("--images", type=count, default=12000, help="images to pack, repeated if there are fewer (default: 12000)")
    add("--size", type=count, default=256, help="height and width to store, pixels (default: 256)")
    add("--quality", type=int, default=95, help="quality of the JPEGs (default: 95)")
    add("--rounds", type=count, default=5, help="rounds, each of which packs all images once a store (default: 5)")
    add("--json", type=measuring.output_file, help="file to write the table to")


def run(arguments: argparse.Namespace) -> None:
    held_out = 0.0 if arguments.source == "folder" else None  # all images of a folder are used
    source = open_source(arguments.source, arguments.input, held_out, size=arguments.size)
    split, count = source.splits["train"], arguments.images
    different = [split.read(i) for i in range(min(count, len(split.names)))]
    for image, name in zip(different, split.names, strict=False):
        if not isinstance(image.content, bytes):
            raise UserError("the images of this --source are not files, so there is nothing to decode; give another")
        try:
            images.decode(image.content)
        except images.CorruptImage as error:
            raise UserError(f"{name} is corrupt ({error}); give other images") from None
    repeated = Split([str(i) for i in range(count)], None, lambda i: different[i % len(different)])
    source = Source(source.classes, {"train": repeated}, {})
    print(measuring.machine())
    print(f"{count} images, {len(different)} of them different; {os.cpu_count()} threads; {arguments.rounds} rounds")
    stores = [Settings(store, arguments.size, arguments.quality, max_corrupt=0.0) for store in ("raw", "jpeg")]
    packed, alone = (collections.defaultdict[str, list[float]](list) for _ in range(2))
    for settings in stores * arguments.rounds:
        alone[settings.store].append(count / _seconds_alone(repeated, settings))
        with tempfile.TemporaryDirectory(prefix="alexnet_jax_bench_") as folder:
            start = time.perf_counter()
            packing.pack(source, Path(folder) / "data", settings, show_progress=False)
            packed[settings.store].append(count / (time.perf_counter() - start))
    rows = []
    for store in packed:
        whole, bare = statistics.median(packed[store]), statistics.median(alone[store])
        ratio = measuring.ratio(packed[store], alone[store])
        work = "decode, scale" + (", encode" if store == "jpeg" else "")
        print(f"prepare --store {store:4}  {whole:6,.0f} images/s, {ratio:6.1%} of {bare:,.0f} for {work} alone")
        rows.append({"store": store, "images_per_s": whole, "alone_images_per_s": bare, "ratio_to_alone": ratio})
    measuring.write(arguments.json, rows)


def _seconds_alone(split: Split, settings: Settings) -> float:
    def work(start: int) -> None:
        for i in range(start, min(start + BLOCK, len(split.names))):
            square, _ = images.stored_pixels(split.read(i).content, settings.size)
            if settings.store == "jpeg":
                images.encode_jpeg(square, settings.quality)

    start = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(work, range(0, len(split.names), BLOCK)))
    return time.perf_counter() - start
