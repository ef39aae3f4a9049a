"""Opening what a config names: prepared folders, and the sources small enough to be packed in memory."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.data import records, sources, statistics
from alexnet_jax.data.packing import stored_pixels
from alexnet_jax.errors import UserError

HOW_TO_PREPARE = (
    "For ImageNet, unpack it to one folder a class in train/ and val/ and run `python -m alexnet_jax.prepare "
    "--source folder --input IMAGENET --output DATA`; any other folder with one folder of images a class goes the "
    "same way. Then give --config.data.directory=DATA. To try the program without data, give "
    "--config.data.source=synthetic"
)


class Dataset(NamedTuple):
    classes: list[str]  # label -> name
    splits: dict[str, records.Images]
    statistics: statistics.Statistics  # of the training images
    fingerprint: str  # SHA-256: equal only for equal data


def open_dataset(source: str, directory: str, size: int, num_classes: int) -> Dataset:
    """The data of a config's section `data`, stored at `size` x `size`. Raises UserError if it does not fit."""
    if source == "prepared":
        dataset = _open_prepared(directory, size)
    elif source in sources.EMBEDDED:
        dataset = _in_memory(sources.SOURCES[source](sources.Request(None, None, size, num_classes)), size)
    else:
        known = ", ".join(("prepared", *sources.EMBEDDED))
        raise UserError(f"config.data.source={source} is none of {known}. {HOW_TO_PREPARE}.")
    if len(dataset.classes) > num_classes:
        raise UserError(
            f"the data has {len(dataset.classes)} classes and the network only {num_classes}; give "
            f"--config.model.num_classes={len(dataset.classes)}"
        )
    return dataset


def split_of(dataset: Dataset, split: str, key: str) -> records.Images:
    """A split by name; `key` is where the name was given, for the message."""
    if split not in dataset.splits:
        raise UserError(
            f"the data has no split {split!r}, only {', '.join(sorted(dataset.splits))}; give one of them as {key}"
        )
    return dataset.splits[split]


def _open_prepared(directory: str, size: int) -> Dataset:
    if not directory:
        raise UserError(f"this config trains on prepared data and config.data.directory is empty. {HOW_TO_PREPARE}.")
    path = Path(directory)
    if not path.is_dir():
        raise UserError(f"config.data.directory={directory} does not exist. {HOW_TO_PREPARE}.")
    manifest = records.read_manifest(path)
    if manifest.size != size:
        raise UserError(
            f"{directory} holds images of {manifest.size}x{manifest.size} and config.data.size is {size}; give "
            f"--config.data.size={manifest.size}, or prepare the images again with --size {size}"
        )
    splits = {name: records.open_split(path, manifest, name) for name in manifest.splits}
    fingerprint = hashlib.sha256(manifest.model_dump_json().encode()).hexdigest()
    return Dataset(manifest.classes, splits, records.statistics_of(path, manifest), fingerprint)


def _in_memory(source: sources.Source, size: int) -> Dataset:
    splits: dict[str, records.Images] = {}
    digest = hashlib.sha256()
    for name, split in source.splits.items():
        pixels = np.stack([stored_pixels(split.read(i), size) for i in range(len(split.names))])
        splits[name] = records.InMemory(split.labels, pixels)
        if name == "train":
            sums = statistics.sums_of(pixels)
        digest.update(pixels.tobytes() + split.labels.tobytes())
    return Dataset(source.classes, splits, statistics.of_sums(sums), digest.hexdigest())
