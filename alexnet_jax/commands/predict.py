"""Classify images: alexnet predict --workdir DIR IMAGE...

IMAGE is a file, a folder (all files in it, at any depth) or - (one image on standard input). Images that cannot be
read are listed at the end, and then the exit code is not 0.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from alexnet_jax.augment import VIEWS
from alexnet_jax.data.datasets import below, given
from alexnet_jax.data.sources.source import printable
from alexnet_jax.errors import UserError
from alexnet_jax.inference import network
from alexnet_jax.inference.network import Network
from alexnet_jax.inference.predictions import Prediction

STDIN = Path("-")
Classified = Iterable[tuple[str, list[tuple[str, float]]]]  # image, its best classes and their probabilities


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    views = "crops of an image: the centre (default), the corners too, and the mirror images of these (paper 4.1)"
    parser.add_argument("--views", type=int, choices=VIEWS, default=1, help=views)
    parser.add_argument("--top", type=int, default=5, metavar="K", help="number of classes for an image (default: 5)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print columns image, rank, class, probability")
    objects = 'print a list of {"image", "top": [{"class", "probability"}]}'
    form.add_argument("--json", action="store_true", help=objects)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="file, folder or -")


def run(arguments: argparse.Namespace) -> None:
    if arguments.top < 1:
        raise UserError(f"--top {arguments.top} is too few; give 1 or more")
    paths, bad = below(arguments.images), dict[int, str]()
    print_images = _print_csv if arguments.csv else _print_json if arguments.json else _print_text
    print_images(_classify(network.open_workdir(arguments.workdir), paths, arguments.views, arguments.top, bad))
    if bad:
        listed = "; ".join(f"{printable(str(paths[i]))}: {problem}" for i, problem in sorted(bad.items()))
        raise UserError(f"{len(bad)} of {len(paths)} images cannot be read: {listed}")


def _classify(net: Network, paths: list[Path], views: int, top: int, bad: dict[int, str]) -> Classified:
    """The images in their order, batch by batch. Those that cannot be read are put into `bad`."""
    images = given([sys.stdin.buffer.read() if path == STDIN else path for path in paths], net.config.data.size)
    for part in net.over(images, net.log_predict(views), max_bad=1.0, bad=bad, progress=False):
        prediction = Prediction(np.exp(part.result[:, : len(net.classes)]), net.classes)
        for i, best in zip(part.example.tolist(), prediction.top(top), strict=True):
            yield printable(str(paths[i])), best


def _print_text(images: Classified) -> None:
    for image, best in images:
        lines = (f"  {probability:7.2%}  {printable(name)}" for name, probability in best)
        print(image, *lines, sep="\n", flush=True)


def _print_csv(images: Classified) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("image", "rank", "class", "probability"))
    for image, best in images:
        writer.writerows((image, rank, name, probability) for rank, (name, probability) in enumerate(best, start=1))
        sys.stdout.flush()


def _print_json(images: Classified) -> None:
    separator = "["
    for image, best in images:
        top = [{"class": name, "probability": probability} for name, probability in best]
        print(separator + "\n" + json.dumps({"image": image, "top": top}), end="", flush=True)
        separator = ","
    print("\n]" if separator == "," else "[]")
