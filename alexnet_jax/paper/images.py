"""Which images a report shows, and what the network computes for them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from alexnet_jax.data.datasets import split_of
from alexnet_jax.data.records import Images, Subset
from alexnet_jax.inference.network import Network

SEED = 0  # for drawing the images


class Splits(NamedTuple):
    train: Images
    evaluation: Images


def open_splits(network: Network, data: str | None) -> Splits:
    """Open the network's data, from the folder `data` if given. Raises UserError if it is missing."""
    dataset, config = network.dataset(data), network.config.data
    splits = {"config.data.train_split": config.train_split, "config.data.eval_split": config.eval_split}
    return Splits(*(split_of(dataset, split, key) for key, split in splits.items()))


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
