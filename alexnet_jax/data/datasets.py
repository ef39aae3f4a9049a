"""Open the data that a config names: prepared folders, or the sources small enough to be packed in memory."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.data import manifest, records, statistics
from alexnet_jax.data.images import stored_pixels
from alexnet_jax.data.sources.registry import EMBEDDED, open_source
from alexnet_jax.data.sources.source import Source
from alexnet_jax.errors import UserError

HOW_TO_PREPARE = (
    "For ImageNet, run `alexnet prepare --source imagenet2012 --input ARCHIVES --output DATA`; for a folder with one "
    "folder of images per class, the same with --source folder. Then give --config.data.directory=DATA. To try the "
    "program without data, give --config.data.source=synthetic."
)


class Dataset(NamedTuple):
    classes: list[str]  # label -> name
    splits: Mapping[str, records.Images]
    statistics: statistics.Statistics  # of the training images
    fingerprint: str  # SHA-256, equal only for equal data


def open_dataset(source: str, directory: str, size: int, num_classes: int) -> Dataset:
    """Open the data described by a config's section `data`, in images of `size` x `size` pixels.

    `source` is "prepared", or one of registry.EMBEDDED, for which `directory` must be "". `num_classes` is that of the
    network. Raises UserError if the data is missing, damaged, or does not fit the config.
    """
    if source == "prepared":
        dataset = _open_prepared(directory, size)
    elif source not in EMBEDDED:
        known = ", ".join(("prepared", *EMBEDDED))
        raise UserError(f"config.data.source={source} is none of {known}. {HOW_TO_PREPARE}")
    elif directory:
        raise UserError(
            f"config.data.directory={directory} is not read by config.data.source={source}; give "
            "--config.data.source=prepared, or no directory"
        )
    else:
        dataset = _in_memory(open_source(source, size=size, num_classes=num_classes), size)
    count = len(dataset.classes)
    cure = f"give --config.model.num_classes={count}"
    if count > num_classes:
        raise UserError(f"the data has {count} classes and the network only {num_classes}; {cure}")
    if source == "prepared" and count < num_classes:
        raise UserError(f"the network has {num_classes} classes and the data only {count}; {cure}")
    return dataset


def split_of(dataset: Dataset, split: str, key: str) -> records.Images:
    """The split called `split`. `key` is the option that names it, for the message of the UserError."""
    if split not in dataset.splits:
        available = ", ".join(sorted(dataset.splits))
        raise UserError(f"the data has no split {split!r}, only {available}; give one of them as {key}")
    return dataset.splits[split]


def _open_prepared(directory: str, size: int) -> Dataset:
    if not directory:
        raise UserError(f"this config trains on prepared data, but config.data.directory is empty. {HOW_TO_PREPARE}")
    path = Path(directory)
    if not path.is_dir():
        raise UserError(f"config.data.directory={directory} does not exist. {HOW_TO_PREPARE}")
    described = manifest.read(path)
    if described.size != size:
        raise UserError(
            f"the images in {directory} are {described.size}x{described.size} and config.data.size is {size}; give "
            f"--config.data.size={described.size}, or prepare the images again with --size {size}"
        )
    splits = {name: records.open_split(path, described, name) for name in described.splits}
    fingerprint = hashlib.sha256(described.model_dump_json().encode()).hexdigest()
    return Dataset(described.classes, splits, records.statistics_of(path, described), fingerprint)


def _in_memory(source: Source, size: int) -> Dataset:
    splits = {}
    digest = hashlib.sha256()
    for name, split in source.splits.items():
        images = [split.read(i) for i in range(len(split.names))]
        pixels = np.stack([stored_pixels(image.content, size).pixels for image in images])
        labels = np.array([image.label for image in images], np.int32)
        splits[name] = records.InMemory(labels, pixels)
        digest.update(pixels.tobytes() + labels.tobytes())
    sums = statistics.sums_of(list(splits["train"].pixels))
    return Dataset(source.classes, splits, statistics.of_sums(sums), digest.hexdigest())
