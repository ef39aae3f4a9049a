"""Networks as named tensors with metadata, which exported files hold, and as new workdirs."""

import json
from pathlib import Path

import jax
import numpy as np

from alexnet_jax import optim, sharding, steps
from alexnet_jax.data.datasets import Dataset
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import DataError, UserError
from alexnet_jax.inference.network import Network
from alexnet_jax.interop import layouts
from alexnet_jax.run import checkpoint, config_files, workdir

FORMAT = 1
METADATA = "alexnet_jax"  # the key under which files hold the metadata; other programs' files do not have it
MEAN = "mean_image"  # the name of the mean image among the tensors


def to_workdir(network: Network, directory: Path) -> None:
    """Make `directory` a workdir that holds the network as of step 0. Raises UserError if it is one already."""
    if (directory / workdir.CONFIG).exists():
        raise UserError(f"{directory} is a workdir already; give another --workdir")
    config = network.config
    state = steps.init_state(config, network.mesh)
    places = jax.tree.map(lambda leaf: leaf.sharding, state.params)
    params = jax.tree.map(sharding.put_as, jax.device_get(network.params), places)
    with workdir.lock(directory):
        workdir.prepare(directory, config, Dataset(network.classes, {}, network.statistics, "imported"))
        with checkpoint.open_directory(directory / workdir.CHECKPOINTS, keep=1) as checkpoints:
            position = checkpoint.Position(0, optim.Validation(), 0)
            checkpoint.save(checkpoints, 0, state.replace(params=params), position, config.model_dump(mode="json"))


def to_tensors(network: Network) -> tuple[dict[str, np.ndarray], str]:
    """A network as tensors by name, and the rest as JSON. Raises UserError if PyTorch has no such layer."""
    mean_image, *colours = network.statistics
    metadata = {
        "format": FORMAT,
        "config": network.config.model_dump(mode="json"),
        "classes": network.classes,
        "colours": [array.tolist() for array in colours],  # eigenvalues and eigenvectors, which only training needs
        "step": network.step,
    }
    tensors = layouts.to_torch(network.config.model, jax.device_get(network.params))
    return tensors | {MEAN: mean_image}, json.dumps(metadata)


def from_tensors(tensors: dict[str, np.ndarray], metadata: str, path: Path) -> Network:
    """The network that `to_tensors` described in the file `path`. Raises DataError if a part does not fit."""
    try:
        values = json.loads(metadata)
        if values["format"] != FORMAT:
            raise UserError(f"{path} has format {values['format']}, but this version reads {FORMAT}; export it again")
        config = config_files.from_json(json.dumps(values["config"]))
        eigenvalues, eigenvectors = (np.array(numbers, np.float32) for numbers in values["colours"])
        statistics = Statistics(np.asarray(tensors[MEAN], np.float32), eigenvalues, eigenvectors)
        size, classes = config.data.size, [str(name) for name in values["classes"]]
        shapes = ((size, size, 3), (3,), (3, 3))
        if tuple(array.shape for array in statistics) != shapes or len(classes) > config.model.num_classes:
            raise ValueError("its mean image, colours or classes do not fit its config")
        step = int(values.get("step", 0))  # files of earlier versions do not have it
        return Network(config, statistics, layouts.from_torch(config.model, tensors), classes, step, path)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: {' '.join(str(error).split())[:300]}; export it again") from None
