"""A network without a run: what it needs to see images, and the workdir it comes from or is put into."""

import json
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from alexnet_jax import optim, sharding, steps
from alexnet_jax.data.datasets import Dataset
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import DataError, UserError
from alexnet_jax.interop.layouts import Params, from_torch, to_torch
from alexnet_jax.run import checkpoint, config_files, workdir
from alexnet_jax.run_config import Config

FORMAT = 1
MEAN = "mean_image"


class Network(NamedTuple):
    config: Config
    classes: list[str]
    statistics: Statistics  # its mean image is what it subtracts
    params: Params  # leaves [tower, ...] float32, on the host


def of_workdir(directory: Path) -> Network:
    """The network of a run's newest checkpoint."""
    finished = workdir.open_finished(directory)
    mesh = sharding.make_mesh(1, 0, finished.config.model.towers)
    abstract = steps.abstract_state(finished.config, mesh).params
    _, params = checkpoint.restore_params(directory / workdir.CHECKPOINTS, abstract)
    return Network(finished.config, finished.classes, finished.statistics, jax.device_get(params))


def to_workdir(network: Network, directory: Path) -> None:
    """Makes `directory` a workdir with this network, of step 0. Raises UserError if it is one already."""
    if (directory / workdir.CONFIG).exists():
        raise UserError(f"{directory} is a workdir already; give another --workdir")
    config = network.config
    mesh = sharding.make_mesh(1, 0, config.model.towers)
    state = steps.init_state(config, mesh)
    params = jax.tree.map(lambda new, old: sharding.put_as(np.asarray(new), old.sharding), network.params, state.params)
    with workdir.lock(directory):
        workdir.prepare(directory, config, Dataset(network.classes, {}, network.statistics, "imported"))
        with checkpoint.open_directory(directory / workdir.CHECKPOINTS, keep=1) as checkpoints:
            position = checkpoint.Position(0, optim.Validation(), 0)
            checkpoint.save(checkpoints, 0, state.replace(params=params), position, config.model_dump(mode="json"))


def described(network: Network) -> tuple[dict[str, np.ndarray], str]:
    """All arrays of a network by name, parameters as PyTorch has them, and the rest as JSON: what files hold."""
    mean_image, *colours = network.statistics
    about = {
        "format": FORMAT,
        "config": network.config.model_dump(mode="json"),
        "classes": network.classes,
        "colours": [of.tolist() for of in colours],  # eigenvalues and eigenvectors, which only training needs
    }
    return to_torch(network.config.model, network.params) | {MEAN: mean_image}, json.dumps(about)


def from_described(tensors: dict[str, np.ndarray], about: str, path: Path) -> Network:
    """The network that `described` took apart. Raises DataError if something is missing or does not fit."""
    try:
        found = json.loads(about)
        if found["format"] != FORMAT:
            raise UserError(f"{path} has format {found['format']} and this program reads {FORMAT}; export it again")
        config = config_files.from_json(json.dumps(found["config"]))
        values, vectors = (np.array(of, np.float32) for of in found["colours"])
        statistics = Statistics(np.asarray(tensors[MEAN], np.float32), values, vectors)
        size, classes = config.data.size, [str(name) for name in found["classes"]]
        shapes = ((size, size, 3), (3,), (3, 3))
        if tuple(of.shape for of in statistics) != shapes or len(classes) > config.model.num_classes:
            raise ValueError("its mean image, its colours or its classes do not fit its config")
        return Network(config, classes, statistics, from_torch(config.model, tensors))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: {' '.join(str(error).split())[:300]}; export it again") from None
