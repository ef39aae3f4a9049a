"""Check that data is intact and complete: alexnet verify-data DIR [--quick]

DIR is what `prepare` wrote, or what it can read: a folder of ImageNet archives, or one folder of images per class.
Compares the counts with the published ones and files with their checksums, decodes every image, and looks for
validation images among the training images. Exit code: 0 if the data is intact, 65 if not.
"""

import argparse
from pathlib import Path

from alexnet_jax.data import verification
from alexnet_jax.errors import DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("data", type=Path, help="prepared data, or archives or folders that a source reads")
    add("--source", help="the source that reads them (default: recognized by the names of the files)")
    add("--quick", action="store_true", help="compare lengths instead of checksums, and decode only a sample")
    add("--max_duplicates", type=float, default=0.001, help="share of images that may be in train too (default: 0.001)")


def run(arguments: argparse.Namespace) -> None:
    problems = 0
    print(f"checking {arguments.data}", flush=True)
    for check in verification.check(arguments.data, arguments.source, arguments.quick, arguments.max_duplicates):
        print(f"{'BAD' if check.problems else 'ok ':4} {check.what:14} {check.summary}", flush=True)
        for problem in check.problems:
            print(f"     {problem}", flush=True)
        problems += len(check.problems)
    if problems:
        raise DataError(f"{arguments.data} is not intact: {problems} problem(s), listed above")
    print(f"{arguments.data} is intact" + (", as far as a quick check shows" if arguments.quick else ""))
