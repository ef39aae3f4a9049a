"""The packed format: images of one size in shards, their labels, and a manifest that describes them.

    manifest.json               classes, counts, checksums, colour covariance, what was skipped
    mean_image.npy              [size, size, 3] float32, over the training images
    train.labels.npy            [count] int32
    train-00000-of-00010.raw    images one after another, size * size * 3 bytes of RGB each   (store "raw")
    train-00000-of-00010.array_record   a JPEG a record                                       (store "jpeg")

Raw shards are read through the page cache and need no decoding; JPEG shards take less disk.
"""

import hashlib
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import grain
import numpy as np
import pydantic

from alexnet_jax.data import images
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import UserError

FORMAT = 1
MANIFEST, MEAN_IMAGE = "manifest.json", "mean_image.npy"


class Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class File(Record):
    name: str
    bytes: int
    sha256: str


class Shard(File):
    count: int  # images


class Skipped(Record):
    name: str
    reason: str


class PackedSplit(Record):
    count: int
    shards: list[Shard]
    labels: File
    skipped: list[Skipped]


class Manifest(Record):
    format: int
    plan: str  # SHA-256 of the settings and of the images' names: what was to be prepared
    store: Literal["raw", "jpeg"]
    size: int
    quality: int | None  # of the JPEGs
    classes: list[str]
    splits: dict[str, PackedSplit]
    mean_image: File
    eigenvalues: list[float]  # of the colour covariance, largest first, colours in 0..255
    eigenvectors: list[list[float]]  # rows R, G, B; one vector a column


class Images(Protocol):
    """A split ready for random access."""

    @property
    def labels(self) -> np.ndarray:
        """[N] int32."""
        ...

    def read(self, index: np.ndarray) -> np.ndarray:
        """Images at `index` [n] -> [n, size, size, 3] uint8, in new memory."""
        ...


class InMemory(NamedTuple):
    labels: np.ndarray
    pixels: np.ndarray  # [N, size, size, 3] uint8

    def read(self, index: np.ndarray) -> np.ndarray:
        return self.pixels[index]


class Raw:
    def __init__(self, directory: Path, split: PackedSplit, size: int):
        self.labels = np.load(directory / split.labels.name)
        self._ends = np.cumsum([shard.count for shard in split.shards])
        self._shards = [
            np.memmap(directory / shard.name, np.uint8, "r", shape=(shard.count, size, size, 3))
            for shard in split.shards
        ]

    def read(self, index: np.ndarray) -> np.ndarray:
        out = np.empty((len(index), *self._shards[0].shape[1:]), np.uint8)
        shard_of = np.searchsorted(self._ends, index, side="right")
        for row, (i, shard) in enumerate(zip(index, shard_of, strict=True)):
            out[row] = self._shards[shard][i - self._ends[shard]]  # a negative number: counted from the shard's end
        return out


class Jpeg:
    def __init__(self, directory: Path, split: PackedSplit, size: int):
        self.labels = np.load(directory / split.labels.name)
        self._size = size
        self._records = grain.sources.ArrayRecordDataSource([str(directory / shard.name) for shard in split.shards])

    def read(self, index: np.ndarray) -> np.ndarray:
        out = np.empty((len(index), self._size, self._size, 3), np.uint8)
        for row, i in enumerate(index):
            images.decode_jpeg(self._records[int(i)], out[row])
        return out


def read_manifest(directory: Path) -> Manifest:
    path = directory / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{directory} holds no prepared data ({MANIFEST} is not there); write some with `python -m "
            "alexnet_jax.prepare --source folder --input IMAGES --output DATA` and name DATA here; one that was "
            "interrupted goes on where it stopped"
        )
    try:
        manifest = Manifest.model_validate_json(path.read_text())
    except ValueError as error:
        first = str(error).splitlines()[:3]
        raise UserError(f"{path} cannot be read, prepare the data again: {' '.join(first)}") from None
    if manifest.format != FORMAT:
        raise UserError(f"{path} has format {manifest.format} and this program reads {FORMAT}; prepare the data again")
    return manifest


def open_split(directory: Path, manifest: Manifest, split: str) -> Images:
    """A split for reading. Raises UserError if a file of it is missing or not of its stated length."""
    packed = manifest.splits[split]
    for file in (*packed.shards, packed.labels, manifest.mean_image):
        path = directory / file.name
        if not path.is_file() or path.stat().st_size != file.bytes:
            raise UserError(f"{path} is missing or cut short; prepare the data again into a new folder")
    reader = Raw if manifest.store == "raw" else Jpeg
    return reader(directory, packed, manifest.size)


def statistics_of(directory: Path, manifest: Manifest) -> Statistics:
    mean_image = np.load(directory / manifest.mean_image.name)
    return Statistics(
        mean_image, np.array(manifest.eigenvalues, np.float32), np.array(manifest.eigenvectors, np.float32)
    )


def described(path: Path) -> dict:
    """The fields of `File` of a file."""
    with path.open("rb") as file:
        return {
            "name": path.name,
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def write_text(path: Path, text: str) -> None:
    """Writes a file at once: whoever reads it finds the old content or the new, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)
