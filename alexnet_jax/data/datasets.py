"""Open images: prepared folders, sources small enough to be packed in memory, and images given by a caller."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from alexnet_jax.data import manifest, records, statistics
from alexnet_jax.data.images import CorruptImage, stored_pixels
from alexnet_jax.data.sources.registry import EMBEDDED, open_source
from alexnet_jax.data.sources.source import Source, files_below, printable
from alexnet_jax.errors import UserError

HOW_TO_PREPARE = (
    "For ImageNet, run `alexnet prepare --source imagenet2012 --input ARCHIVES --output DATA`; for a folder with one "
    "folder of images per class, the same with --source folder. Then give --config.data.directory=DATA. To try the "
    "program without data, give --config.data.source=synthetic."
)
ImageInput = str | Path | bytes | Image.Image | np.ndarray


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


class Given:
    """Images given by a caller, as records.Images; every label is 0.

    `images` is one image or a sequence of them: the path of a file, or of a folder for all files in it; the bytes of a
    file; a Pillow image; or an array [H, W, 3] uint8. They are scaled to `size` x `size` pixels. One that cannot be
    decoded is a bad record. Raises UserError if there are no images, or an array has another shape or type.
    """

    def __init__(self, images: ImageInput | Sequence[ImageInput], size: int):
        self._items: list[Path | bytes | Image.Image | np.ndarray] = []
        for image in [images] if isinstance(images, ImageInput) else images:
            if isinstance(image, np.ndarray) and (image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8):
                raise UserError(f"an image must be [height, width, 3] uint8, not {list(image.shape)} {image.dtype}")
            self._items += below([Path(image)]) if isinstance(image, str | Path) else [image]
        if not self._items:
            raise UserError("no images were given; give at least one file, folder or array")
        self.labels = np.zeros(len(self._items), np.int32)
        self.size = size

    def read(self, index: np.ndarray, out: np.ndarray) -> dict[int, str]:
        bad = {}
        for row, i in enumerate(index.tolist()):
            content = self._items[i]
            try:
                if isinstance(content, Path):
                    content = content.read_bytes()
                elif isinstance(content, Image.Image):
                    content = np.asarray(ImageOps.exif_transpose(content).convert("RGB"))
                out[row], _ = stored_pixels(content, self.size)
            except (CorruptImage, OSError) as error:
                bad[row] = str(error)
        return bad

    def name(self, i: int) -> str:
        item = self._items[i]
        return printable(str(item)) if isinstance(item, Path) else f"image {i}"


def below(paths: Iterable[Path]) -> list[Path]:
    """`paths`, with each folder replaced by its files at any depth, sorted. Raises UserError if a folder has none."""
    expanded = []
    for path in paths:
        files = files_below(path) if path.is_dir() else [path]
        if not files:
            raise UserError(f"the folder {path} holds no image; give folders that do, or files")
        expanded += files
    return expanded
