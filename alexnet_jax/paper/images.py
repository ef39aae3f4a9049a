"""A run's network and the images it was trained and evaluated on, and passes over many of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from alexnet_jax import sharding, steps
from alexnet_jax.data.datasets import open_dataset, split_of
from alexnet_jax.data.records import Images
from alexnet_jax.errors import DataError, UserError
from alexnet_jax.paper.runs import Run
from alexnet_jax.run import checkpoint, workdir
from alexnet_jax.run_config import Config

BATCH = 64  # images a pass
SEED = 0  # of which images are taken


class Network(NamedTuple):
    config: Config
    classes: list[str]
    params: Any
    statistics: Any
    mesh: Mesh
    train: Images
    evaluation: Images  # the split that the config evaluates on


def open_network(run: Run, data: str | None) -> Network:
    """The run's parameters, and its data; from the folder `data`, if given. Raises UserError if it is not there."""
    config = run.finished.config
    directory = data or config.data.directory
    if config.data.source == "prepared" and not Path(directory).is_dir():
        raise UserError(f"the data {directory} is not there; give its folder as --data DIR")
    dataset = open_dataset(config.data.source, directory, config.data.size, config.model.num_classes)
    if dataset.classes != run.finished.classes:
        raise UserError(f"the network was trained on other classes than those of {directory}; give its own --data")
    train, evaluation = (
        split_of(dataset, split, f"config.data.{key}")
        for key, split in (("train_split", config.data.train_split), ("eval_split", config.data.eval_split))
    )
    mesh = sharding.make_mesh(1, 0, config.model.towers)
    wanted = steps.abstract_state(config, mesh).params
    _, params = checkpoint.restore_params(run.directory / workdir.CHECKPOINTS, wanted)
    statistics = sharding.put(run.finished.statistics, mesh, sharding.REPLICATED)
    return Network(config, dataset.classes, params, statistics, mesh, train, evaluation)


def sample(count: int, most: int) -> np.ndarray:
    """Which images to look at: all, or `most` drawn with a fixed seed, in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(SEED).choice(count, most, replace=False))


def read(images: Images, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [n, size, size, 3] uint8 of those of `index` that are sound, and their indices [n]."""
    pixels = np.empty((len(index), images.size, images.size, 3), np.uint8)
    bad = images.read(index, pixels)
    sound = np.array([row not in bad for row in range(len(index))], bool)
    return pixels[sound], index[sound]


def over(network: Network, step: Callable, images: Images, index: np.ndarray) -> Iterator[tuple[np.ndarray, Any]]:
    """`step(params, image, statistics)` over images `index`: (sound indices [n], leaves [n, ...] as NumPy) a batch.

    Raises DataError if none of the images is sound.
    """
    found = 0
    for start in range(0, len(index), BATCH):
        pixels, sound = read(images, index[start : start + BATCH])
        if not len(sound):
            continue
        found += len(sound)
        # The last batch is filled up, so that there is one shape to compile.
        filled = np.concatenate([pixels, np.zeros((BATCH - len(pixels), *pixels.shape[1:]), np.uint8)])
        result = step(network.params, sharding.put(filled, network.mesh, sharding.EXAMPLES), network.statistics)
        yield sound, _first(len(sound), result)
    if not found:
        raise DataError("none of the images that were looked at can be read")


def _first(count: int, tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], tree)


def centre(images: np.ndarray, size: int) -> np.ndarray:
    """The centre crop, as the network sees it: [..., H, W, 3] -> [..., size, size, 3]."""
    down, right = images.shape[-3] - size, images.shape[-2] - size
    return images[..., down // 2 : down // 2 + size, right // 2 : right // 2 + size, :]
