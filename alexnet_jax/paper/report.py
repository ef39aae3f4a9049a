"""What the sections of a report share: its runs, the images that it shows, and how figures are drawn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jinja2
import matplotlib
import numpy as np

from alexnet_jax.data.datasets import split_of
from alexnet_jax.data.records import Images, Subset
from alexnet_jax.inference.network import Network, open_workdir
from alexnet_jax.run import checks, pictures, progress, workdir

matplotlib.rcParams["svg.hashsalt"] = "alexnet_jax"  # equal figures give equal files
matplotlib.rcParams["text.parse_math"] = False  # names of runs and classes may contain a $

WIDTH = 6.5  # of a figure, inches: 8-point text stays readable at the width of a phone
SEED = 0  # for drawing the images


class ReportedRun(NamedTuple):
    name: str
    network: Network
    log: list[dict]  # the lines of metrics.jsonl
    evaluation: dict | None  # the content of evaluation.json
    checks: list[checks.Check]  # by `alexnet verify-run`
    seconds: dict[str, float]  # what its time went to

    @property
    def conv1_kernels(self) -> np.ndarray:
        """[tower, k, k, 3, F] float64; those of the middle place if every place has its own."""
        kernels = np.asarray(self.network.params["conv1"]["kernel"], np.float64)
        return pictures.at_one_place(kernels, self.network.config.model.conv1.kernel)


class Splits(NamedTuple):
    train: Images
    evaluation: Images


def open_runs(directories: list[Path]) -> list[ReportedRun]:
    """Open runs, named after their folders, or by their paths where names are the same. UserError if one is no run."""
    return [
        ReportedRun(
            name,
            open_workdir(directory),
            workdir.read_metrics(directory),
            workdir.read_evaluation(directory),
            checks.read(directory),
            progress.summary(progress.read(directory)),
        )
        for name, directory in zip(workdir.names(directories), directories, strict=True)
    ]


def open_splits(network: Network, data: str | None) -> Splits:
    """Open the network's data, from the folder `data` if given. Raises UserError if it is missing."""
    dataset, config = network.dataset(data), network.config.data
    splits = {"config.data.train_split": config.train_split, "config.data.eval_split": config.eval_split}
    return Splits(*(split_of(dataset, split, key) for key, split in splits.items()))


def template(name: str) -> jinja2.Template:
    """The template `name` of this folder."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("alexnet_jax", "paper"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)


def sample(count: int, most: int) -> np.ndarray:
    """Choose among `count` images: the indices of all, or of `most` drawn with a fixed seed, sorted."""
    return np.sort(np.random.default_rng(SEED).choice(count, min(count, most), replace=False))


def compute(network: Network, step: Callable, images: Images, index: np.ndarray) -> tuple[np.ndarray, Any]:
    """Run `step(params, image, statistics)` on the images `index` of a split.

    Returns the indices [n] of those that can be read, and the step's results for them, leaves [n, ...]. The others
    are reported on stdout. Raises DataError if none can be read.
    """
    results = [(index[rows], result) for rows, *_, result in network.over(Subset(images, index), step, max_bad=1.0)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *results)


def centre_crops(network: Network, images: Images, index: np.ndarray) -> np.ndarray:
    """The crops [n, crop, crop, 3] uint8 that the network sees of the images `index` [n], which must be readable."""
    pixels = np.empty((len(index), images.size, images.size, 3), np.uint8)
    images.read(index, pixels)
    return network.centre_crop(pixels)
