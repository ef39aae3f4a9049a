"""The packed format: images of one size in shards, their labels, and a manifest that describes them.

    manifest.json               classes, counts, checksums, colour covariance, skipped images
    mean_image.npy              [size, size, 3] float32, over the training images
    train.labels.npy            [count] int32
    train.hashes.npy            [count] uint64: XXH3 of each record, compared whenever the record is read
    train.names.json            the original names of the images
    train-00000-of-00010.raw    images one after another, size * size * 3 bytes of RGB each   (store "raw")
    train-00000-of-00010.array_record   one JPEG per record                                   (store "jpeg")
    parts/                      if images were skipped: what adding them takes, once they are mended (see shards.py)

Raw shards are read through the page cache and need no decoding; JPEG shards take less disk space.
"""

import json
import os
import weakref
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import xxhash
from array_record.python.array_record_data_source import ArrayRecordDataSource
from numpy.typing import DTypeLike

from alexnet_jax.data import arrays, files, images, manifest
from alexnet_jax.data.manifest import Manifest, PackedSplit
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import DataError, reading

CURE = "prepare the data again into a new folder, or restore the file from a copy"


class Images(Protocol):
    """A split with random access."""

    @property
    def labels(self) -> np.ndarray:
        """[N] int32; that of an image may be known only once the image is read."""

    @property
    def size(self) -> int:
        """Height and width, pixels."""

    def read(self, index: np.ndarray, out: np.ndarray) -> dict[int, str]:
        """Read the images `index` [n] into `out` [n, size, size, 3] uint8.

        Returns row of `out` -> what is wrong, for those that cannot be read. Their pixels are undefined.
        """

    def name(self, i: int) -> str:
        """The original name of image `i`."""


class Subset:
    """The images `index` [n] of a split."""

    def __init__(self, images: Images, index: np.ndarray):
        self._images, self._index = images, index
        self.labels, self.size = images.labels[index], images.size

    def read(self, index: np.ndarray, out: np.ndarray) -> dict[int, str]:
        bad = self._images.read(self._index[index], out)
        self.labels[index] = self._images.labels[self._index[index]]
        return bad

    def name(self, i: int) -> str:
        return self._images.name(int(self._index[i]))


def spread(images: Images, count: int) -> Subset:
    """`count` images of a split, evenly spaced."""
    return Subset(images, np.arange(count) * len(images.labels) // count)


class Packed:
    """A split on disk. A record is bad if it cannot be read or decoded, or its hash differs."""

    def __init__(self, directory: Path, split: PackedSplit, size: int):
        self.size = size
        self.labels = _array(directory / split.labels.name, (split.count,), np.int32)
        self.hashes = _array(directory / split.hashes.name, (split.count,), np.uint64)
        self._names_file = directory / split.names.name
        self._shards = [directory / shard.name for shard in split.shards]
        self._ends = np.cumsum([shard.count for shard in split.shards])
        self._starts = self._ends - [shard.count for shard in split.shards]

    def read(self, index: np.ndarray, out: np.ndarray) -> dict[int, str]:
        shards = self._ends.searchsorted(index, side="right")
        positions = index - self._starts[shards]
        bad = {}
        # All numbers are looked up at once, since other threads must wait for what Python does image by image.
        rows = zip(index.tolist(), shards.tolist(), positions.tolist(), self.hashes[index].tolist(), strict=True)
        for row, (i, shard, position, expected_hash) in enumerate(rows):
            try:
                record = self._record(i, shard, position, out[row])
                if xxhash.xxh3_64_intdigest(record) != expected_hash:
                    raise ValueError("the record has changed since it was written")
                if isinstance(record, bytes):
                    images.decode_jpeg(record, out[row])
            except (OSError, RuntimeError, ValueError) as error:  # ArrayRecord and the decoder raise all of these
                bad[row] = f"{self._shards[shard].name}: {error}"
        return bad

    def _record(self, i: int, shard: int, position: int, out: np.ndarray) -> bytes | memoryview:
        """The record of image `i`, number `position` in `shard`: its JPEG, or its pixels, read into `out`."""
        raise NotImplementedError

    def problem(self, i: int) -> str:
        """Read image `i`, and say what is wrong with it; "" if nothing is."""
        bad = self.read(np.array([i]), np.empty((1, self.size, self.size, 3), np.uint8))
        return f"image {i}, {self.name(i)}, in {bad[0]}" if bad else ""

    def name(self, i: int) -> str:
        return self._names[i]

    @cached_property
    def _names(self) -> list[str]:
        with reading(f"{self._names_file} cannot be read", f"; {CURE}"):
            names = json.loads(self._names_file.read_text())
        if not isinstance(names, list) or [type(name) for name in names] != [str] * len(self.labels):
            raise DataError(f"{self._names_file} does not hold {len(self.labels)} names; {CURE}")
        return names


class Raw(Packed):
    def __init__(self, directory: Path, split: PackedSplit, size: int):
        super().__init__(directory, split, size)
        self._files = [os.open(path, os.O_RDONLY) for path in self._shards]
        for file in self._files:
            weakref.finalize(self, os.close, file)

    def _record(self, i: int, shard: int, position: int, out: np.ndarray) -> memoryview:
        # Not a memory map: truncating a mapped file would kill the process, and this releases the GIL.
        if os.preadv(self._files[shard], [out.data], position * out.nbytes) != out.nbytes:
            raise ValueError("the shard is truncated")
        return out.data


class Jpeg(Packed):
    def __init__(self, directory: Path, split: PackedSplit, size: int):
        super().__init__(directory, split, size)
        self._records = ArrayRecordDataSource([str(path) for path in self._shards])
        if len(self._records) != split.count:
            raise ValueError(f"its shards hold {len(self._records)} records and should hold {split.count}")

    def record(self, i: int) -> bytes:
        """The JPEG of image `i`."""
        return self._records[i]

    def _record(self, i: int, shard: int, position: int, out: np.ndarray) -> bytes:
        return self.record(i)


def open_split(directory: Path, described: Manifest, split: str) -> Packed:
    """Open a split. Raises DataError if a shard is missing or has the wrong length, or another file has changed."""
    packed = described.splits[split]
    for file in (described.mean_image, *packed.files()):
        if problem := manifest.problem(directory, file, content=file not in packed.shards):
            raise DataError(f"{problem}; {CURE}")
    files.allow_open(len(packed.shards))
    statistics_of(directory, described)  # confirms the size that the manifest claims
    try:
        opened = (Raw if described.store == "raw" else Jpeg)(directory, packed, described.size)
        if not 0 <= opened.labels.min() <= opened.labels.max() < len(described.classes):
            raise ValueError(f"{packed.labels.name} has labels beyond the {len(described.classes)} classes")
        return opened
    except (RuntimeError, ValueError) as error:  # the first from ArrayRecord
        raise DataError(f"the split {split} of {directory} is damaged: {error}; {CURE}") from None


def statistics_of(directory: Path, described: Manifest) -> Statistics:
    """The statistics of packed data. Raises DataError if the mean image is damaged or has the wrong size."""
    mean_image = _array(directory / described.mean_image.name, (described.size, described.size, 3), np.float32)
    eigenvalues, eigenvectors = (np.array(x, np.float32) for x in (described.eigenvalues, described.eigenvectors))
    return Statistics(mean_image, eigenvalues, eigenvectors)


def _array(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """The array in a file. Raises DataError if it is damaged, not finite, or not as described."""
    with reading(f"{path} cannot be read", f"; {CURE}"):
        array = arrays.parsed(path.read_bytes())
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"it holds {array.dtype} {array.shape} and should hold {np.dtype(dtype)} {shape}")
        if not np.isfinite(array).all():
            raise ValueError("it holds values that are not finite")
        return array
