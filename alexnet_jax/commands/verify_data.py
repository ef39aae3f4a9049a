"""Is the data sound and complete? alexnet verify-data DIR [--quick]

DIR is what `prepare` wrote, or what it can read: a folder of ImageNet archives, a folder of images a class.
Counts are compared with the published ones, files with their checksums, every image is decoded, and the images to
validate on are looked for among the training images. Exit code 0: sound; 65: not.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from alexnet_jax.data import manifest, verification
from alexnet_jax.data.parts import PARTS
from alexnet_jax.data.sources.registry import known, open_source
from alexnet_jax.data.sources.source import Request
from alexnet_jax.data.verification import Check
from alexnet_jax.errors import DataError, UserError

KNOWN_BY = {  # a file that gives away which source a folder is
    "ILSVRC2012_img_train.tar": "imagenet2012",
    "ILSVRC2012_devkit_t12.tar.gz": "imagenet2012",
    "ILSVRC2010_images_train.tar": "imagenet2010",
    "ILSVRC2010_devkit-1.0.tar.gz": "imagenet2010",
    "cifar-10-binary.tar.gz": "cifar10",
    "cifar-10-python.tar.gz": "cifar10",
    "n*.tar": "imagenet_full",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, help="prepared data, or archives or folders that a source reads")
    parser.add_argument("--source", help="which source the archives are (default: told from the names of the files)")
    parser.add_argument("--quick", action="store_true", help="lengths instead of checksums, and a sample of the images")
    parser.add_argument(
        "--max_duplicates",
        type=float,
        default=0.001,
        help="share of a split's images that may be training images too (default 0.001)",
    )


def run(arguments: argparse.Namespace) -> None:
    problems = 0
    for check in _checks(arguments):
        print(f"{'BAD' if check.problems else 'ok ':4} {check.what:14} {check.told}", flush=True)
        for problem in check.problems:
            print(f"     {problem}", flush=True)
        problems += len(check.problems)
    if problems:
        raise DataError(f"{arguments.data} is not sound: {problems} problem(s), listed above")
    print(f"{arguments.data} is sound" + (", as far as a quick look tells" if arguments.quick else ""))


def _checks(arguments: argparse.Namespace) -> Iterator[Check]:
    path, quick, max_duplicates = arguments.data, arguments.quick, arguments.max_duplicates
    if not path.exists():
        raise UserError(f"there is no {path}; name the folder that prepare wrote, or the one with the archives")
    if (path / manifest.NAME).is_file() and not arguments.source:
        yield from verification.packed(path, quick, max_duplicates)
        return
    if (path / PARTS).is_dir() and not arguments.source:
        raise UserError(f"{path} is an unfinished preparation; give the same prepare command again first")
    if path.is_file() and not arguments.source:
        raise UserError(f"{path} is a file; name the folder that it is in, or say with --source what it is")
    if any(path.glob("*.labels.npy")) and not arguments.source:
        raise UserError(f"{path} was prepared, but its {manifest.NAME} is missing; put it back, or prepare it again")
    kind = arguments.source or next((kind for name, kind in KNOWN_BY.items() if any(path.glob(name))), "folder")
    known(kind)
    print(f"listing the images of {path}", flush=True)
    try:
        source = open_source(kind, Request(path, "", None, 0, 256, 1000))
    except UserError as error:
        if arguments.source is None and kind == "folder":
            raise UserError(f"{error}; or say with --source what {path} holds") from None
        yield Check("source", f"cannot be read as {kind}", [str(error)])
        return
    yield Check("source", f"{path} read as {kind}: {len(source.classes)} classes", [])
    yield from verification.source(source, quick, max_duplicates)
