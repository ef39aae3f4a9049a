"""Shards: read, scale and encode images on all cores, and keep in parts/ what is known of finished shards."""

import collections
import contextlib
import dataclasses
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import xxhash
from array_record.python.array_record_module import ArrayRecordWriter

from alexnet_jax.data import arrays, files, images, manifest, statistics
from alexnet_jax.data.sources.source import Split, printable
from alexnet_jax.errors import UserError

PARTS = "parts"
ENDINGS = {"raw": "raw", "jpeg": "array_record"}
# Each record is a group of its own, since compressing JPEGs together would gain nothing. With threads of its own,
# ArrayRecord would block all of Python whenever they fall behind.
OPTIONS = "group_size:1,uncompressed,max_parallelism:1"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to store images. Raises UserError for values out of range."""

    store: Literal["raw", "jpeg"]
    size: int  # height and width, pixels
    quality: int  # of JPEGs, 1..100
    max_corrupt: float  # the share of a split's images that may be skipped

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"--size {self.size} must be at least 1")
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality {self.quality} must be in 1..100")
        if not 0 <= self.max_corrupt < 1:
            raise UserError(f"--max_corrupt {self.max_corrupt} is a share of the images: it must be in [0, 1)")


class Block(NamedTuple):
    records: list[bytes | memoryview]  # JPEGs, or pixels [size, size, 3] uint8
    contents: manifest.Contents
    sums: statistics.Sums


class Part(manifest.Record):
    """A finished shard, and what is known of its images."""

    shard: manifest.Shard
    contents: manifest.Contents


def load(split: Split, indices: Sequence[int], settings: Settings) -> Block:
    """Read, scale and encode images; corrupt ones are skipped. Raises UserError if the storage fails."""
    squares: list[np.ndarray] = []
    records: list[bytes | memoryview] = []
    contents = manifest.Contents()
    for i in indices:
        name = printable(split.names[i])
        try:
            image = split.read(i)
            square, unusual = images.stored_pixels(image.content, settings.size)
        except images.CorruptImage as error:
            contents.skipped.append(manifest.Skipped(name=name, reason=printable(str(error))))
            continue
        except OSError as error:  # the disk or the network is at fault, not the image
            cure = "What is finished is kept; mend it and run the same command again"
            raise UserError(f"cannot read {name}: {error}. {cure}") from None
        squares.append(square)
        records.append(square.data if settings.store == "raw" else images.encode_jpeg(square, settings.quality))
        contents.labels.append(image.label)
        contents.hashes.append(xxhash.xxh3_64_intdigest(records[-1]))
        contents.names.append(name)
        contents.unusual.extend((what, name) for what in unusual)
    return Block(records, contents, statistics.sums_of(squares) if squares else statistics.zero_sums(settings.size))


def load_all(split: Split, blocks: Iterable[Sequence[int]], settings: Settings) -> Generator[Block, None, None]:
    """`load` all blocks, in order; one thread per core runs only so far ahead that memory stays bounded."""
    cores = os.cpu_count() or 1
    threads = ThreadPoolExecutor(cores)
    waiting: collections.deque[Future[Block]] = collections.deque()
    try:
        for indices in blocks:
            waiting.append(threads.submit(load, split, indices, settings))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


class OpenShard:
    """A shard being written, under a temporary name until it is complete. Raises OSError when the disk is full."""

    def __init__(self, output: Path, name: str, size: int):
        self._path, self._temporary = output / name, output / (name + ".tmp")
        is_jpeg = name.endswith(ENDINGS["jpeg"])
        self._file = ArrayRecordWriter(str(self._temporary), OPTIONS) if is_jpeg else self._temporary.open("wb")
        self._contents, self._sums = manifest.Contents(), statistics.zero_sums(size)

    def write(self, block: Block) -> None:
        with _os_errors():
            for record in block.records:
                self._file.write(record)
        self._contents.extend(block.contents)
        self._sums += block.sums

    def finish(self) -> Part:
        """Make the shard durable, give it its name, and save what is known of it."""
        with _os_errors():
            self._file.close()
        files.replace(self._temporary, self._path)
        shard = manifest.Shard(**manifest.describe(self._path).model_dump(), count=self._sums.images)
        part = Part(shard=shard, contents=self._contents)
        encoded = np.frombuffer(part.model_dump_json().encode(), np.uint8)
        with files.replacing(_path(self._path.parent, self._path.name)) as temporary, temporary.open("wb") as file:
            np.savez(file, part=encoded, pixels=self._sums.pixels, products=self._sums.products)
        return part

    def abandon(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # the error that led here is being raised
            self._file.close()


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """ArrayRecord raises RuntimeError where Python's files raise OSError."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from None


def check(output: Path, plan: str) -> None:
    """Raise UserError if `output` holds anything but an unfinished preparation of `plan`."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; give a folder as --output")
    if output.exists() and any(output.iterdir()) and not (output / PARTS).is_dir():
        raise UserError(f"{output} is neither empty nor an unfinished preparation; give another --output")
    plan_file = output / PARTS / "plan"
    if plan_file.exists() and plan_file.read_text() != plan:
        raise UserError(
            f"{output} holds an unfinished preparation of other data or with other settings; remove it, or give "
            "another --output"
        )


@contextlib.contextmanager
def locked(output: Path, plan: str) -> Iterator[None]:
    """Keep others from preparing `output`, and remove unfinished shards. Raises UserError if another process has it."""
    (output / PARTS).mkdir(parents=True, exist_ok=True)
    with (output / PARTS / "lock").open("w") as lock:
        try:
            files.lock(lock, output)
        except BlockingIOError:
            raise UserError(f"another process is preparing {output}; wait, or give another --output") from None
        files.write_text(output / PARTS / "plan", plan)
        try:
            yield
        finally:
            for unfinished in output.glob("*.tmp"):
                unfinished.unlink()


def read(output: Path, name: str) -> Part | None:
    """What is known of the shard `name`; None if it is unfinished or lacks images, which may be mended by now."""
    try:
        part = Part.model_validate_json(arrays.zipped(_path(output, name), ["part"])["part"].tobytes())
        sums(output, part)
        is_whole = (output / name).stat().st_size == part.shard.bytes
        return part if is_whole and not part.contents.skipped else None
    except (OSError, ValueError, KeyError):  # never written, or cut by a power failure: the shard is written again
        return None


def sums(output: Path, part: Part) -> statistics.Sums:
    """The sums over the pixels of a finished shard. They stay on disk: there may be thousands of shards."""
    saved = arrays.zipped(_path(output, part.shard.name), ("pixels", "products"))
    return statistics.Sums(part.shard.count, saved["pixels"], saved["products"])


def _path(output: Path, name: str) -> Path:
    return output / PARTS / (name + ".npz")
