"""Open images: prepared folders, sources that are read without preparing them, and images given by a caller."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from alexnet_jax.data import manifest, records
from alexnet_jax.data.sources.registry import EMBEDDED, open_source
from alexnet_jax.data.sources.source import Image as SourceImage
from alexnet_jax.data.sources.source import Source, Split, digest, files_below
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.data.streaming import Streamed, statistics_of, streamed
from alexnet_jax.errors import UserError

HOW_TO_PREPARE = (
    "For ImageNet, run `alexnet prepare --source imagenet2012 --input ARCHIVES --output DATA`; for a folder with one "
    "folder of images per class, the same with --source folder. Then give --config.data.directory=DATA. To train "
    "without a second copy, give --stream SOURCE --input PATH; to try the program, --config.data.source=synthetic."
)
PREPARED = "prepared"  # the config.data.source of what `alexnet prepare` wrote
ImageInput = str | Path | bytes | Image.Image | np.ndarray


class Dataset(NamedTuple):
    classes: list[str]  # label -> name
    splits: Mapping[str, records.Images]
    statistics: Callable[[], Statistics]  # of the training images, computed or read at each call
    fingerprint: str  # SHA-256, equal only for equal data; of streams, only for equal names, labels and size


class Sample(NamedTuple):
    """The training images whose statistics are taken, of a source that is not prepared."""

    examples: int  # at most so many; 0: all
    seed: int


ALL = Sample(0, seed=0)


def open_dataset(
    source: str,
    directory: str,
    size: int,
    num_classes: int,
    val_fraction: float | None = None,
    sample: Sample = ALL,
) -> Dataset:
    """Open the data described by a config's section `data`, in images of `size` x `size` pixels.

    `source` is PREPARED, or a source as for registry.open_source, which `directory` and `val_fraction` are given to:
    its images are then decoded whenever they are read. `num_classes` is that of the network. Raises UserError if the
    data is missing, damaged, or does not fit the config.
    """
    if source == PREPARED:
        dataset = _open_prepared(directory, size)
    elif source in EMBEDDED and directory:
        raise UserError(
            f"config.data.directory={directory} is not read by config.data.source={source}; give "
            "--config.data.source=prepared, or no directory"
        )
    else:
        path = Path(directory) if directory else None
        opened = open_source(source, path, val_fraction, size=size, num_classes=num_classes)
        dataset = _streamed(opened, path, size, sample)
    count = len(dataset.classes)
    cure = f"give --config.model.num_classes={count}"
    if count > num_classes:
        raise UserError(f"the data has {count} classes and the network only {num_classes}; {cure}")
    if source not in EMBEDDED and count < num_classes:
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
    return Dataset(described.classes, splits, functools.partial(records.statistics_of, path, described), fingerprint)


def _streamed(source: Source, path: Path | None, size: int, sample: Sample) -> Dataset:
    splits = streamed(source, size, path)
    sampled = functools.partial(statistics_of, source.splits["train"], size, *sample)
    return Dataset(source.classes, splits, sampled, digest(source, {"streamed": size}))


def given(images: ImageInput | Sequence[ImageInput], size: int) -> Streamed:
    """Images given by a caller; every label is 0.

    `images` is one image or a sequence of them: the path of a file, or of a folder for all files in it; the bytes of a
    file; a Pillow image; or an array [H, W, 3] uint8. They are scaled to `size` x `size` pixels. One that cannot be
    decoded is a bad record. Raises UserError if there are no images, or an array has another shape or type.
    """
    items: list[Path | bytes | Image.Image | np.ndarray] = []
    for image in [images] if isinstance(images, ImageInput) else images:
        if isinstance(image, np.ndarray) and (image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8):
            raise UserError(f"an image must be [height, width, 3] uint8, not {list(image.shape)} {image.dtype}")
        items += below([Path(image)]) if isinstance(image, str | Path) else [image]
    if not items:
        raise UserError("no images were given; give at least one file, folder or array")

    def read(i: int) -> SourceImage:
        content = items[i]
        if isinstance(content, Path):
            content = content.read_bytes()
        elif isinstance(content, Image.Image):
            content = np.asarray(ImageOps.exif_transpose(content).convert("RGB"))
        return SourceImage(content, 0)

    names = [str(item) if isinstance(item, Path) else f"image {i}" for i, item in enumerate(items)]
    return Streamed(Split(names, np.zeros(len(items), np.int32), read), size)


def below(paths: Iterable[Path]) -> list[Path]:
    """`paths`, with each folder replaced by its files at any depth, sorted. Raises UserError if a folder has none."""
    expanded = []
    for path in paths:
        files = files_below(path) if path.is_dir() else [path]
        if not files:
            raise UserError(f"the folder {path} holds no image; give folders that do, or files")
        expanded += files
    return expanded
