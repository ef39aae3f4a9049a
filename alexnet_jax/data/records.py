"""The packed format: images of one size in shards, their labels, and a manifest that describes them.

    manifest.json               classes, counts, checksums, colour covariance, what was skipped
    mean_image.npy              [size, size, 3] float32, over the training images
    train.labels.npy            [count] int32
    train.hashes.npy            [count] uint64, XXH3 of each record, compared whenever the record is read
    train.names.json            what each image was called
    train-00000-of-00010.raw    images one after another, size * size * 3 bytes of RGB each   (store "raw")
    train-00000-of-00010.array_record   a JPEG a record                                       (store "jpeg")

Raw shards are read through the page cache and need no decoding; JPEG shards take less disk.
"""

import json
import os
import weakref
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import grain
import numpy as np
import xxhash

from alexnet_jax.data import arrays, images, manifest, open_files
from alexnet_jax.data.manifest import Manifest, PackedSplit
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import DataError

AGAIN = "prepare the data again into a new folder, or put the file back from a copy"


class Images(Protocol):
    """A split ready for random access."""

    @property
    def labels(self) -> np.ndarray:
        """[N] int32."""
        ...

    @property
    def size(self) -> int:
        """Height and width, pixels."""
        ...

    def read(self, index: np.ndarray, out: np.ndarray) -> dict[int, str]:
        """Reads images `index` [n] into `out` [n, size, size, 3] uint8; returns what is wrong with which of the n.

        The pixels of an image that something is wrong with mean nothing.
        """
        ...

    def name(self, i: int) -> str:
        """What image `i` was called."""
        ...


class InMemory(NamedTuple):
    labels: np.ndarray
    pixels: np.ndarray  # [N, size, size, 3] uint8

    @property
    def size(self) -> int:
        return self.pixels.shape[1]

    def read(self, index: np.ndarray, out: np.ndarray) -> dict[int, str]:
        np.take(self.pixels, index, axis=0, out=out)
        return {}

    def name(self, i: int) -> str:
        return f"image {i}"


class Subset:
    """The images `index` [n] of a split."""

    def __init__(self, images: Images, index: np.ndarray):
        self._images, self._index = images, index
        self.labels, self.size = images.labels[index], images.size

    def read(self, index: np.ndarray, out: np.ndarray) -> dict[int, str]:
        return self._images.read(self._index[index], out)

    def name(self, i: int) -> str:
        return self._images.name(int(self._index[i]))


def spread(images: Images, count: int) -> Subset:
    """`count` images of a split, spread evenly over it."""
    return Subset(images, np.arange(count) * len(images.labels) // count)


class Packed:
    """A split on disk. A record that cannot be read, does not have its hash or does not decode is a bad one."""

    def __init__(self, directory: Path, split: PackedSplit, size: int):
        self.labels = arrays.load(directory / split.labels.name, (split.count,), np.int32)
        self.size = size
        self.hashes = arrays.load(directory / split.hashes.name, (split.count,), np.uint64)
        self._names_file = directory / split.names.name
        self._shards = [directory / shard.name for shard in split.shards]
        self._ends = np.cumsum([shard.count for shard in split.shards])
        self._starts = self._ends - [shard.count for shard in split.shards]

    def read(self, index: np.ndarray, out: np.ndarray) -> dict[int, str]:
        shards = self._ends.searchsorted(index, side="right")
        places = index - self._starts[shards]
        bad = {}
        # All numbers are looked up at once: what Python does here for each image, threads must wait for.
        each = zip(index.tolist(), shards.tolist(), places.tolist(), self.hashes[index].tolist(), strict=True)
        for row, (i, shard, place, known) in enumerate(each):
            try:
                self._load(i, shard, place, known, out[row])
            except (OSError, RuntimeError, ValueError) as error:  # ArrayRecord and the decoder raise all of these
                bad[row] = f"{self._shards[shard].name}: {error}"
        return bad

    def _load(self, i: int, shard: int, place: int, known: int, out: np.ndarray) -> None:
        """Reads image `i`, which lies at `place` of `shard` and has the hash `known`, into `out` [size, size, 3]."""
        raise NotImplementedError

    def name(self, i: int) -> str:
        return self._names[i]

    @cached_property
    def _names(self) -> list[str]:
        try:
            names = json.loads(self._names_file.read_text())
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self._names_file} cannot be read: {error}; {AGAIN}") from None
        if not isinstance(names, list) or [type(name) for name in names] != [str] * len(self.labels):
            raise DataError(f"{self._names_file} does not hold {len(self.labels)} names; {AGAIN}")
        return names


def _check(record: bytes | memoryview, known: int) -> None:
    if xxhash.xxh3_64_intdigest(record) != known:
        raise ValueError("the record has changed since it was written")


class Raw(Packed):
    def __init__(self, directory: Path, split: PackedSplit, size: int):
        super().__init__(directory, split, size)
        self._files = [os.open(path, os.O_RDONLY) for path in self._shards]
        weakref.finalize(self, _close, self._files)

    def _load(self, i: int, shard: int, place: int, known: int, out: np.ndarray) -> None:
        # Not a memory map: a file that is cut while we run would end the process, and this leaves other threads free.
        pixels = out.data
        if os.preadv(self._files[shard], [pixels], place * out.nbytes) != out.nbytes:
            raise ValueError("the shard is cut short")
        _check(pixels, known)


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


class Jpeg(Packed):
    def __init__(self, directory: Path, split: PackedSplit, size: int):
        super().__init__(directory, split, size)
        self._records = grain.sources.ArrayRecordDataSource([str(path) for path in self._shards])
        if len(self._records) != split.count:
            raise ValueError(f"its shards hold {len(self._records)} records and should hold {split.count}")

    def record(self, i: int) -> bytes:
        """The JPEG of image `i`."""
        return self._records[i]

    def _load(self, i: int, shard: int, place: int, known: int, out: np.ndarray) -> None:
        record = self.record(i)
        _check(record, known)
        images.decode_jpeg(record, out)


def open_split(directory: Path, described: Manifest, split: str) -> Packed:
    """A split for reading.

    Raises DataError if a shard of it is missing or not of its stated length, or another file is not as it was written.
    """
    packed = described.splits[split]
    for file in (described.mean_image, *manifest.of_split(packed)):
        problem = manifest.problem(directory, file, content=file not in packed.shards)
        if problem:
            raise DataError(f"{problem}; {AGAIN}")
    open_files.allow(len(packed.shards))
    reader = Raw if described.store == "raw" else Jpeg
    statistics_of(directory, described)  # with it the size is no mere claim
    try:
        opened = reader(directory, packed, described.size)
    except RuntimeError as error:  # of ArrayRecord
        raise DataError(f"a shard of the split {split} of {directory} is damaged: {error}; {AGAIN}") from None
    except ValueError as error:
        raise DataError(f"the split {split} of {directory} is damaged: {error}; {AGAIN}") from None
    if not 0 <= opened.labels.min() <= opened.labels.max() < len(described.classes):
        raise DataError(
            f"{directory / packed.labels.name} has labels beyond the {len(described.classes)} classes; {AGAIN}"
        )
    return opened


def statistics_of(directory: Path, described: Manifest) -> Statistics:
    """Raises DataError if the mean image is not one of the size of the images."""
    try:
        mean_image = arrays.load(directory / described.mean_image.name, (described.size, described.size, 3), np.float32)
    except ValueError as error:
        raise DataError(f"{error}; {AGAIN}") from None
    return Statistics(
        mean_image, np.array(described.eigenvalues, np.float32), np.array(described.eigenvectors, np.float32)
    )
