"""The best classes of images: alexnet predict --workdir DIR IMAGE...

IMAGE is a file, a folder (all files below it) or - (one image on standard input). Without --csv or --json it is for
people to read. Images that cannot be read are told of at the end, and the exit code is then not 0.
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax import sharding, steps
from alexnet_jax.data import images
from alexnet_jax.data.blocks import stored_pixels
from alexnet_jax.data.files import below
from alexnet_jax.data.sources.source import printable
from alexnet_jax.errors import UserError
from alexnet_jax.run import checkpoint, workdir

BATCH = 32  # images that are looked at together; one alone is looked at alone
STDIN = "-"


class Predicted(NamedTuple):
    """The best classes of an image, the best first, or why there are none."""

    image: str
    top: list[tuple[str, float]]  # class, probability
    problem: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a run of alexnet_jax.main")
    parser.add_argument("--views", type=int, choices=(1, 10), default=1, help="centre crop, or the paper's ten views")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes an image (default: 5)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="columns image, rank, class, probability")
    form.add_argument("--json", action="store_true", help='a list of {"image", "top": [{"class", "probability"}]}')
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")


def run(arguments: argparse.Namespace) -> None:
    if arguments.top < 1:
        raise UserError(f"--top {arguments.top} is too few; give 1 or more")
    paths = below(arguments.images)
    form = _print_csv if arguments.csv else _print_json if arguments.json else _print_text
    failed: list[str] = []
    form(_sound(predict(arguments.workdir, paths, arguments.views, arguments.top), failed))
    if failed:
        raise UserError(f"{len(failed)} of {len(paths)} images cannot be read: {'; '.join(failed)}")


def predict(directory: Path, paths: list[Path], views: int, top: int) -> Iterator[Predicted]:
    """What the newest network of a workdir says of images, in their order; the path - is standard input."""
    finished = workdir.open_finished(directory)
    config, classes = finished.config, finished.classes
    mesh = sharding.make_mesh(1, 0, config.model.towers)
    abstract = steps.abstract_state(config, mesh).params
    _, params = checkpoint.restore_params(directory / workdir.CHECKPOINTS, abstract)
    predict_step = steps.make_predict_step(config, mesh, views)
    statistics = sharding.put(finished.statistics, mesh, sharding.REPLICATED)
    size, batch = config.data.size, min(BATCH, len(paths))
    for start in range(0, len(paths), batch):
        part = paths[start : start + batch]
        pixels = np.zeros((batch, size, size, 3), np.uint8)  # always as many, so that XLA compiles once
        problems = [_read(path, pixels[row]) for row, path in enumerate(part)]
        probabilities = np.asarray(predict_step(params, sharding.put(pixels, mesh, sharding.EXAMPLES), statistics))
        for path, problem, row in zip(part, problems, probabilities[:, : len(classes)], strict=False):
            best = [] if problem else np.argsort(-row, kind="stable")[:top].tolist()
            yield Predicted(printable(str(path)), [(classes[label], float(row[label])) for label in best], problem)


def _read(path: Path, out: np.ndarray) -> str | None:
    """Reads an image into `out` [size, size, 3]; what is wrong with it, if anything."""
    try:
        content = sys.stdin.buffer.read() if str(path) == STDIN else path.read_bytes()
        out[:], _ = stored_pixels(content, len(out))
    except (images.CorruptImage, OSError) as error:
        return str(error)
    return None


def _sound(found: Iterable[Predicted], failed: list[str]) -> Iterator[Predicted]:
    """Those that could be read; the others are put into `failed`."""
    for one in found:
        if one.problem is None:
            yield one
        else:
            failed.append(f"{one.image}: {one.problem}")


def _print_text(found: Iterable[Predicted]) -> None:
    for one in found:
        lines = [f"  {probability:7.2%}  {printable(name)}" for name, probability in one.top]
        print("\n".join([one.image, *lines]), flush=True)


def _print_csv(found: Iterable[Predicted]) -> None:
    print("image,rank,class,probability")
    for one in found:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            (one.image, rank, name, repr(probability)) for rank, (name, probability) in enumerate(one.top, start=1)
        )
        print(text.getvalue(), end="", flush=True)


def _print_json(found: Iterable[Predicted]) -> None:
    before = "["
    for one in found:
        top = [{"class": name, "probability": probability} for name, probability in one.top]
        print(before + "\n" + json.dumps({"image": one.image, "top": top}), end="", flush=True)
        before = ","
    print("\n]" if before == "," else "[]")
