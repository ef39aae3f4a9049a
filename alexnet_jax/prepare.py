"""Packs images for training: python -m alexnet_jax.prepare --source folder --input DIR --output OUT

Interrupted and started again with the same arguments, it goes on behind the last finished shard.
"""

import argparse
import os
import sys
from pathlib import Path

from alexnet_jax import errors
from alexnet_jax.data import packing, sources
from alexnet_jax.errors import Interrupted, UserError


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_jax.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", choices=sorted(sources.SOURCES), required=True, help="where the images come from")
    parser.add_argument("--input", type=Path, help="of --source folder: a folder a class, or train/ and val/ of such")
    parser.add_argument("--output", type=Path, required=True, help="folder for the packed images, new or unfinished")
    parser.add_argument("--size", type=int, default=256, help="height and width to store, pixels (default 256)")
    parser.add_argument("--store", choices=("raw", "jpeg"), default="raw", help="raw: fastest; jpeg: smallest")
    parser.add_argument("--quality", type=int, default=95, help="of --store jpeg, 1..100 (default 95)")
    parser.add_argument("--val_fraction", type=float, help="share of the training images to hold out as split val")
    parser.add_argument(
        "--max_corrupt", type=float, default=0.01, help="share of a split's images that may be skipped (default 0.01)"
    )
    arguments = parser.parse_args()
    sys.exit(errors.exit_code(lambda: run(arguments)))


def run(arguments: argparse.Namespace) -> None:
    if arguments.source in sources.EMBEDDED and (arguments.input or arguments.val_fraction is not None):
        raise UserError(f"--source {arguments.source} has its own images and splits: leave out --input, --val_fraction")
    if arguments.size < 1 or not 1 <= arguments.quality <= 100:
        raise UserError(f"--size {arguments.size} must be positive and --quality {arguments.quality} in 1..100")
    for name in ("val_fraction", "max_corrupt"):
        value = getattr(arguments, name)
        if value is not None and not 0 <= value < 1:
            raise UserError(f"--{name} {value} is a share of the images: give 0 or more, and less than 1")
    settings = packing.Settings(arguments.store, arguments.size, arguments.quality, arguments.max_corrupt)
    request = sources.Request(arguments.input, arguments.val_fraction, arguments.size, num_classes=1000)
    source = sources.SOURCES[arguments.source](request)
    try:
        manifest = packing.pack(source, arguments.output, settings, show_progress=True)
    except KeyboardInterrupt:
        os.write(2, b"\n")
        raise Interrupted(
            f"the finished shards stay in {arguments.output}; give the same command again to go on"
        ) from None
    for name, split in manifest.splits.items():
        print(f"{name}: {split.count} images, {len(split.skipped)} skipped as corrupt")
        for image in split.skipped:
            print(f"  skipped {image.name}: {image.reason}")
    held_out = next((name for name in sources.SPLIT_FOLDERS[1:] if name in manifest.splits), "train")
    print(
        f"{len(manifest.classes)} classes of {manifest.size}x{manifest.size} images in {arguments.output}; train with "
        f"--config.data.directory={arguments.output} --config.data.size={manifest.size} "
        f"--config.model.num_classes={len(manifest.classes)} --config.data.eval_split={held_out}"
    )


if __name__ == "__main__":
    main()
