"""Copies of the same images in every form that a pipeline reads: both of our stores, JPEG files and TFRecords."""

import shutil
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from alexnet_jax.bench import peers
from alexnet_jax.data import manifest, packing, records
from alexnet_jax.data.datasets import open_dataset, split_of
from alexnet_jax.data.sources.source import Image, Source, Split
from alexnet_jax.errors import UserError

QUALITY = 95  # of JPEGs made from raw data: the default of `alexnet prepare`


class Copies(NamedTuple):
    """The same images in every form."""

    raw: records.Packed
    jpeg: records.Jpeg
    files: list[str]  # JPEGs
    tfrecords: dict[str, list[str]]  # store -> files; empty without TensorFlow


def first_images(directory: Path, split: str, count: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The first images of a split of prepared data, at most `count`: [n, size, size, 3] uint8, with labels [n] int32.

    The third value is the quality of their JPEGs. Raises UserError if there is no such split, or an image is damaged.
    """
    described = manifest.read(directory)
    dataset = open_dataset("prepared", str(directory), described.size, len(described.classes))
    images = split_of(dataset, split, "--split")
    index = np.arange(min(count, len(images.labels)))
    pixels = np.empty((len(index), images.size, images.size, 3), np.uint8)
    if bad := images.read(index, pixels):
        row, problem = next(iter(bad.items()))
        raise UserError(f"{len(bad)} images of {directory} are damaged, such as {row}: {problem}; prepare them again")
    return pixels, images.labels[index], described.quality or QUALITY


def write(folder: Path, pixels: np.ndarray, labels: np.ndarray, images: int, quality: int, cores: int) -> Copies:
    """Write `images` images to `folder`, by repeating `pixels` [n, size, size, 3] with `labels` [n]."""
    cure = "give fewer --images, or a folder on another disk as TMPDIR"
    needed, free = 3 * images * pixels[0].nbytes, shutil.disk_usage(folder).free  # pixels twice, JPEGs three times
    if needed > free:
        raise UserError(f"{folder} needs {needed / 1e9:.3g} GB and its disk has {free / 1e9:.3g} GB free; {cure}")

    repeated = np.arange(images) % len(pixels)
    different = [Image(image, int(label)) for image, label in zip(pixels, labels, strict=True)]
    split = Split([f"train/{i}" for i in range(images)], labels[repeated], lambda i: different[repeated[i]])
    source = Source([str(i) for i in range(int(labels.max()) + 1)], {"train": split}, {})

    def pack(store: Literal["raw", "jpeg"]) -> Any:
        settings = packing.Settings(store, pixels.shape[1], quality, max_corrupt=0)
        written = packing.pack(source, folder / store, settings, show_progress=False)
        return records.open_split(folder / store, written, "train")

    try:
        raw, jpeg = pack("raw"), pack("jpeg")
        files = [folder / f"{i:07d}.jpg" for i in range(images)]
        for i, file in enumerate(files):
            file.write_bytes(jpeg.record(i))
        tfrecords = {}
        if peers.installed("tensorflow"):
            contents = {"raw": (pixels[i].tobytes() for i in repeated), "jpeg": map(jpeg.record, range(images))}
            tfrecords = {store: peers.write_tfrecords(folder, store, each, cores) for store, each in contents.items()}
    except OSError as error:
        raise UserError(f"cannot write the images to {folder}: {error}; {cure}") from None
    return Copies(raw, jpeg, [str(file) for file in files], tfrecords)
