"""Features of many images: what a trained network's layer says of them, batch by batch."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import xxhash
from tqdm import tqdm

from alexnet_jax import sharding, steps
from alexnet_jax.data.loader import Batches, Order, Reading
from alexnet_jax.data.records import Images
from alexnet_jax.inference import activations
from alexnet_jax.run import checkpoint, workdir


class Network(NamedTuple):
    """A trained network up to one layer."""

    finished: workdir.Workdir
    step: int  # of training
    layer: str
    identity: str  # a hash of the parameters: equal only for equal networks
    features: Callable[[np.ndarray], np.ndarray]  # [B, H, W, 3] uint8 -> [B, units] float32


class Part(NamedTuple):
    """Some images of a split."""

    places: np.ndarray  # [n] int32: which of the split
    image: np.ndarray  # [n, H, W, 3] uint8
    features: np.ndarray  # [n, units] float32


def open_network(directory: Path, layer: str | None) -> Network:
    """The newest network in a workdir; `layer` as in `hidden.layer_of`. Raises UserError if one is not there."""
    finished = workdir.open_finished(directory)
    config = finished.config
    layer = activations.layer_of(config, layer)
    mesh = sharding.make_mesh(1, 0, config.model.towers)
    step, params = checkpoint.restore_params(directory / workdir.CHECKPOINTS, steps.abstract_state(config, mesh).params)
    statistics = sharding.put(finished.statistics, mesh, sharding.REPLICATED)
    features_step = activations.make_features_step(config, mesh, layer)
    digest = xxhash.xxh3_128()
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf).tobytes())

    def features(image: np.ndarray) -> np.ndarray:
        return np.asarray(features_step(params, sharding.put(image, mesh, sharding.EXAMPLES), statistics))

    return Network(finished, step, layer, digest.hexdigest(), features)


def of_images(network: Network, images: Images, max_bad: float, bad: dict[int, str]) -> Iterator[Part]:
    """The features of all images of a split, in its order, each once.

    Those that cannot be read are left out and put into `bad`: place -> what is wrong. Raises DataError if they are
    more than the share `max_bad`.
    """
    data, count = network.finished.config.data, len(images.labels)
    order = Order(count, min(network.finished.config.train.eval_batch_size, count), seed=None)
    batches = Batches(images, order, 0, order.steps_per_epoch, Reading(data.threads, data.prefetch_batches, max_bad))
    bar = tqdm(total=count, desc=network.layer, unit=" images", leave=False, disable=None)
    with contextlib.closing(batches), bar:
        for batch in batches:
            bad.update(batches.bad)
            features = network.features(batch.image)
            yield Part(batch.example[batch.mask], batch.image[batch.mask], features[batch.mask])
            bar.update(int(batch.mask.sum()))
