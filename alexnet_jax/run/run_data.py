"""The data of a run: what its config says, or the same in another place."""

import functools
from pathlib import Path

from alexnet_jax.data import manifest, statistics
from alexnet_jax.data.datasets import PREPARED, Dataset, Sample, open_dataset, split_of
from alexnet_jax.data.records import Images, spread
from alexnet_jax.data.sources.registry import EMBEDDED
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import UserError, reading
from alexnet_jax.run_config import Config


def of_config(config: Config) -> Dataset:
    """The data that a config describes. Raises UserError as `open_dataset`."""
    data = config.data
    sample = Sample(data.statistics_examples, config.seed)
    dataset = open_dataset(data.source, data.directory, data.size, config.model.num_classes, data.val_fraction, sample)
    if not data.statistics_file:
        return dataset
    return dataset._replace(statistics=functools.partial(_from_file, Path(data.statistics_file), data.size))


def _from_file(path: Path, size: int) -> Statistics:
    cure = "; give another, or --config.data.statistics_file= for those of the data"
    if not path.is_file():
        raise UserError(f"there is no file config.data.statistics_file={path}{cure}")
    with reading(f"config.data.statistics_file={path} cannot be used", cure, UserError):
        return statistics.read(path, size)


def of_network(config: Config, classes: list[str], directory: str | Path | None) -> Dataset:
    """The data of a run, or that in `directory`, prepared or not. UserError if it is missing or has other classes."""
    data, path = config.data, str(directory or config.data.directory)
    source = PREPARED if directory and (Path(directory) / manifest.NAME).is_file() else data.source
    if source == PREPARED and not path:
        raise UserError("the network was imported, and the data it was trained on is unknown; give it as --data DIR")
    there = Path(path).exists() or path.startswith("hf:") or bool(set("*?[{") & set(path))  # a pattern
    if source not in EMBEDDED and not (Path(path).is_dir() if source == PREPARED else there):
        raise UserError(f"the data {path} is not there; give its folder as --data DIR")
    dataset = open_dataset(source, path, data.size, config.model.num_classes, data.val_fraction)
    if dataset.classes != classes:
        raise UserError(f"the network was trained on other classes than those of {path or source}; give its own --data")
    return dataset


def images(dataset: Dataset, config: Config, split: str, key: str) -> Images:
    """The images of a split; of the training split, those that a run uses. UserError as `split_of`."""
    found, used = split_of(dataset, split, key), config.data.train_examples
    return spread(found, min(used, len(found.labels))) if used and split == config.data.train_split else found
