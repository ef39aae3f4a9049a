"""The same images in every form that a pipeline reads: our two stores, JPEG files and TFRecords."""

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.bench import peers
from alexnet_jax.data import manifest, packing, records
from alexnet_jax.data.sources.source import Image, Source, Split
from alexnet_jax.errors import UserError

QUALITY = 95  # of the JPEGs, where the data has none of its own; what `prepare` writes by default


class Copies(NamedTuple):
    """The same images in every form."""

    raw: records.Packed
    jpeg: records.Jpeg
    files: list[str]  # JPEGs
    tfrecords: dict[str, list[str]]  # form -> files; empty without TensorFlow


def images_of(directory: Path, split: str, wanted: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The first images of a split, [n, size, size, 3] uint8, at most `wanted`; labels [n]; the quality of its JPEGs."""
    described = manifest.read(directory)
    if split not in described.splits:
        raise UserError(f"{directory} has no split {split!r}; give one of {', '.join(described.splits)} as --split")
    images = records.open_split(directory, described, split)
    index = np.arange(min(wanted, len(images.labels)))
    pixels = np.empty((len(index), images.size, images.size, 3), np.uint8)
    bad = images.read(index, pixels)
    if bad:
        row, what = next(iter(bad.items()))
        raise UserError(
            f"{len(bad)} images of {directory} cannot be read, such as number {row}, {what}; prepare the data again"
        )
    return pixels, images.labels[index], described.quality or QUALITY


def write(folder: Path, pixels: np.ndarray, labels: np.ndarray, images: int, quality: int, cores: int) -> Copies:
    """Writes `images` images into `folder`, which are `pixels` [n, size, size, 3] over and over."""
    place = np.arange(images) % len(pixels)
    cure = "give fewer --images, or a folder on another disk as TMPDIR"
    needed, free = 3 * images * pixels[0].nbytes, shutil.disk_usage(folder).free  # pixels twice, JPEGs three times
    if needed > free:
        raise UserError(f"{folder} needs {needed / 1e9:.3g} GB and its disk has {free / 1e9:.3g} GB free; {cure}")

    def read(i: int) -> Image:
        return Image(pixels[place[i]], int(labels[place[i]]))

    split = Split([f"train/{i}" for i in range(images)], labels[place], read)
    source = Source([str(i) for i in range(int(labels.max()) + 1)], {"train": split}, {})
    try:
        stores = {}
        for store in ("raw", "jpeg"):
            settings = packing.Settings(store, pixels.shape[1], quality, max_corrupt=0)
            written = packing.pack(source, folder / store, settings, show_progress=False)
            stores[store] = records.open_split(folder / store, written, "train")
        raw, jpeg = stores["raw"], stores["jpeg"]
        assert isinstance(jpeg, records.Jpeg)
        files = [folder / f"{i:07d}.jpg" for i in range(images)]
        for i, file in enumerate(files):
            file.write_bytes(jpeg.record(i))
        tfrecords = {}
        if peers.installed("tensorflow"):
            contents = {
                "raw": (pixels[i].tobytes() for i in place),
                "jpeg": (jpeg.record(i) for i in range(images)),
            }
            tfrecords = {form: peers.write_tfrecords(folder, form, of, cores) for form, of in contents.items()}
    except OSError as error:
        raise UserError(f"cannot write the images to {folder}: {error}; {cure}") from None
    return Copies(raw, jpeg, [str(file) for file in files], tfrecords)
