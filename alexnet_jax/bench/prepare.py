"""Images/s of `prepare`, and of nothing but its decoding, scaling and encoding on as many cores.

The images are read into memory first, and what is written goes to a temporary folder, so that the disk counts little.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from alexnet_jax.bench import rounds
from alexnet_jax.data import images, packing
from alexnet_jax.data.packing import Settings
from alexnet_jax.data.sources.registry import open_source
from alexnet_jax.data.sources.source import Image, Request, Source, Split
from alexnet_jax.errors import UserError

AT_ONCE = 32  # images that a thread takes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--source", default="folder", help="as of alexnet_jax.prepare (default folder)")
    add("--input", type=Path, required=True, help="as of alexnet_jax.prepare: what the source reads")
    add("--images", type=int, default=12000, help="how many to pack, repeated if there are fewer (default 12000)")
    add("--size", type=int, default=256, help="height and width to store, pixels (default 256)")
    add("--quality", type=int, default=95, help="of the JPEGs (default 95)")
    add("--rounds", type=int, default=5, help="each packs all the images once a store (default 5)")
    add("--json", type=Path, help="file to write the table to")


def run(arguments: argparse.Namespace) -> None:
    if min(arguments.images, arguments.rounds, arguments.size) < 1:
        raise UserError("--images, --rounds and --size must be 1 or more")
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        raise UserError(f"--json {arguments.json}: there is no folder {arguments.json.parent}; make it first")
    source = open_source(arguments.source, Request(arguments.input, "", 0.0, 0, arguments.size, 1000))
    split = source.splits["train"]
    some = [split.read(i) for i in range(min(arguments.images, len(split.names)))]
    for i, image in enumerate(some):
        if not isinstance(image.content, bytes):
            raise UserError(f"the images of --source {arguments.source} are not files; there is nothing to decode")
        try:
            images.decode(image.content)
        except images.CorruptImage as error:
            raise UserError(f"{split.names[i]} is corrupt ({error}); give other images") from None
    taken = list(itertools.islice(itertools.cycle(some), arguments.images))
    print(rounds.machine())
    print(f"{len(taken)} images, {len(some)} of them different; {os.cpu_count()} threads; {arguments.rounds} rounds")
    found: dict[str, list[tuple[float, float]]] = {"raw": [], "jpeg": []}
    for _ in range(arguments.rounds):
        for store, speeds in found.items():
            settings = Settings(store, arguments.size, arguments.quality, max_corrupt=0.0)  # type: ignore[arg-type]
            alone = _bare(taken, settings)
            speeds.append((len(taken) / alone, len(taken) / _packed(source.classes, taken, settings)))
    rows = []
    for store, speeds in found.items():
        bare, packed = (statistics.median(rate) for rate in zip(*speeds, strict=True))
        ratio = statistics.median(mine / alone for alone, mine in speeds)
        work = "decode, scale" + (", encode" if store == "jpeg" else "")
        print(f"prepare --store {store:4}  {packed:6,.0f} images/s, {ratio:6.1%} of {bare:,.0f} for {work} alone")
        rows.append({"store": store, "images_per_s": packed, "alone_images_per_s": bare, "ratio_to_alone": ratio})
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def _bare(taken: list[Image], settings: Settings) -> float:
    """Seconds for decoding, scaling and encoding, and nothing else."""

    def work(block: list[Image]) -> None:
        for image in block:
            assert isinstance(image.content, bytes)
            square = images.to_square(images.decode(image.content).pixels, settings.size)
            if settings.store == "jpeg":
                images.encode_jpeg(square, settings.quality)

    start = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(work, [taken[i : i + AT_ONCE] for i in range(0, len(taken), AT_ONCE)]))
    return time.perf_counter() - start


def _packed(classes: list[str], taken: list[Image], settings: Settings) -> float:
    """Seconds that `prepare` takes for the same images."""
    labels = np.array([image.label for image in taken], np.int32)
    split = Split([str(i) for i in range(len(taken))], labels, lambda i: taken[i])
    with tempfile.TemporaryDirectory(prefix="alexnet_jax_bench_") as folder:
        start = time.perf_counter()
        packing.pack(Source(classes, {"train": split}, {}), Path(folder) / "data", settings, show_progress=False)
        return time.perf_counter() - start
