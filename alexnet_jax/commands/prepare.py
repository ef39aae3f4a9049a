"""Pack images for training: alexnet prepare --input DIR --output OUT

Run an interrupted command again to resume it after the last finished shard, and a finished one to pack images that
were skipped and have been mended since.
"""

import argparse
import os
import signal
from pathlib import Path

from alexnet_jax.data import packing
from alexnet_jax.data.sources.folder import SPLIT_FOLDERS, check_output
from alexnet_jax.data.sources.registry import SOURCES, open_source, recognized
from alexnet_jax.errors import Interrupted, UserError

QUALITY = 95  # of JPEGs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    names = ", ".join(sorted(SOURCES))
    add("--source", help=f"what is there: {names} (tfds:NAME); default: recognized by the names of the files")
    add("--input", type=Path, help="folder or archive that the source reads")
    add("--output", type=Path, required=True, help="folder for the packed images, new or unfinished")
    add("--size", type=int, default=256, help="height and width to store, pixels (default: 256)")
    add("--store", choices=("raw", "jpeg"), default="raw", help="raw is fastest; jpeg takes a sixth of the space")
    add("--quality", type=int, help=f"of the JPEGs of --store jpeg, 1..100 (default: {QUALITY})")
    add("--val_fraction", type=float, help="share of the training images of a folder or of shards to hold out as `val`")
    add("--class_names", type=Path, help="file with other names for the classes, such as LOC_synset_mapping.txt")
    add("--seed", type=int, help="with --source imagenet_full: seed of the random halves (default: 0)")
    add("--max_corrupt", type=float, default=0.01, help="share of a split's images that may be skipped (default: 0.01)")


def run(arguments: argparse.Namespace) -> None:
    if arguments.store != "jpeg" and arguments.quality is not None:
        raise UserError("--quality is for --store jpeg; --store raw keeps the pixels as they are")
    quality = QUALITY if arguments.quality is None else arguments.quality
    settings = packing.Settings(arguments.store, arguments.size, quality, arguments.max_corrupt)
    if arguments.source is None and arguments.input is None:
        raise UserError(f"give --input, a folder or file of images, or a --source: {', '.join(sorted(SOURCES))}")
    name = arguments.source or recognized(arguments.input)
    if name == "folder" and arguments.input and arguments.input.is_dir():
        check_output(arguments.input, arguments.output)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an orderly end, as for Ctrl-C
    print(f"listing the images of {arguments.input or name}{'' if arguments.source else f' as {name}'}", flush=True)
    try:
        options = dict(val_fraction=arguments.val_fraction, seed=arguments.seed, class_names=arguments.class_names)
        source = open_source(name, arguments.input, size=arguments.size, **options)
        manifest = packing.pack(source, arguments.output, settings, show_progress=True)
    except KeyboardInterrupt:
        os.write(2, b"\n")
        raise Interrupted(
            f"the finished shards (of {packing.SHARD_IMAGES} images each) are kept in {arguments.output}; run the same "
            "command again to resume"
        ) from None
    for name, split in manifest.splits.items():
        print(f"{name}: {split.count} images, {len(split.skipped)} skipped as corrupt")
        for image in split.skipped:
            print(f"  skipped {image.name}: {image.reason}")
        for unusual in split.unusual:
            more = ", ..." if unusual.count > 3 else ""
            print(f"  unusual but kept, {unusual.what}: {unusual.count} ({', '.join(unusual.names[:3])}{more})")
        if split.published and split.published.images != split.count + len(split.skipped):
            print(f"  incomplete: {split.published.images:,} were published")
    held_out = next((name for name in SPLIT_FOLDERS[1:] if name in manifest.splits), "train")
    print(
        f"{len(manifest.classes)} classes of {manifest.size}x{manifest.size} images in {arguments.output}; train a "
        "config on them (paper is for 256x256, photos for 144x144, cifar10 for 32x32) with "
        f"--config.data.source=prepared --config.data.directory={arguments.output} --config.data.size={manifest.size} "
        f"--config.model.num_classes={len(manifest.classes)} --config.data.eval_split={held_out}"
    )
