"""Packs images for training: alexnet prepare --source folder --input DIR --output OUT

Interrupted and started again with the same arguments, it goes on behind the last finished shard.
"""

import argparse
import os
import signal
from pathlib import Path

from alexnet_jax.data import packing
from alexnet_jax.data.manifest import PackedSplit
from alexnet_jax.data.sources.folder import SPLIT_FOLDERS
from alexnet_jax.data.sources.registry import EMBEDDED, SOURCES, open_source
from alexnet_jax.data.sources.source import Request
from alexnet_jax.errors import Interrupted, UserError

QUALITY = 95  # of the JPEGs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--source", required=True, help=f"where the images come from: {', '.join(sorted(SOURCES))} (tfds:NAME)")
    add("--input", type=Path, help="folder or archive that the source reads")
    add("--output", type=Path, required=True, help="folder for the packed images, new or unfinished")
    add("--size", type=int, default=256, help="height and width to store, pixels (default 256)")
    add("--store", choices=("raw", "jpeg"), default="raw", help="raw: fastest; jpeg: a sixth of its size")
    add("--quality", type=int, help=f"of --store jpeg, 1..100 (default {QUALITY})")
    add("--val_fraction", type=float, help="of --source folder: share of the training images to hold out as split val")
    add("--seed", type=int, help="of --source imagenet_full: of the halves (default 0)")
    add("--max_corrupt", type=float, default=0.01, help="share of a split that may be skipped (default 0.01)")


def run(arguments: argparse.Namespace) -> None:
    if arguments.source in EMBEDDED and arguments.input:
        raise UserError(f"--source {arguments.source} has its own images: leave out --input")
    if arguments.source != "folder" and arguments.val_fraction is not None:
        raise UserError(f"--val_fraction is for --source folder; {arguments.source} has its own splits")
    if arguments.size < 1:
        raise UserError(f"--size {arguments.size} must be 1 or more")
    if arguments.source != "imagenet_full" and arguments.seed is not None:
        raise UserError(f"--seed is for --source imagenet_full; nothing in {arguments.source} is drawn")
    if arguments.store != "jpeg" and arguments.quality is not None:
        raise UserError("--quality is for --store jpeg; --store raw keeps the pixels as they are")
    quality = QUALITY if arguments.quality is None else arguments.quality
    if not 1 <= quality <= 100:
        raise UserError(f"--quality {quality} must be in 1..100")
    for name in ("val_fraction", "max_corrupt"):
        value = getattr(arguments, name)
        if value is not None and not 0 <= value < 1:
            raise UserError(f"--{name} {value} is a share of the images: give 0 or more, and less than 1")
    settings = packing.Settings(arguments.store, arguments.size, quality, arguments.max_corrupt)
    request = Request(
        arguments.input, "", arguments.val_fraction, arguments.seed or 0, arguments.size, num_classes=1000
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, in order
    print(f"listing the images of {arguments.input or arguments.source}", flush=True)
    try:
        manifest = packing.pack(open_source(arguments.source, request), arguments.output, settings, show_progress=True)
    except KeyboardInterrupt:
        os.write(2, b"\n")
        raise Interrupted(
            f"the finished shards (of {packing.SHARD_IMAGES} images each) stay in {arguments.output}; give the same "
            "command again to go on"
        ) from None
    for name, split in manifest.splits.items():
        _tell(name, split)
    held_out = next((name for name in SPLIT_FOLDERS[1:] if name in manifest.splits), "train")
    print(
        f"{len(manifest.classes)} classes of {manifest.size}x{manifest.size} images in {arguments.output}; train a "
        "config on them (configs/paper.py is for 256x256, configs/cifar10.py for 32x32) with "
        f"--config.data.source=prepared --config.data.directory={arguments.output} --config.data.size={manifest.size} "
        f"--config.model.num_classes={len(manifest.classes)} --config.data.eval_split={held_out}"
    )


def _tell(name: str, split: PackedSplit) -> None:
    print(f"{name}: {split.count} images, {len(split.skipped)} skipped as corrupt")
    for image in split.skipped:
        print(f"  skipped {image.name}: {image.reason}")
    for unusual in split.unusual:
        more = ", ..." if unusual.count > 3 else ""
        print(f"  taken, though {unusual.what}: {unusual.count} ({', '.join(unusual.names[:3])}{more})")
    if split.published and split.published.images != split.count + len(split.skipped):
        print(f"  incomplete: {split.published.images:,} were published")
