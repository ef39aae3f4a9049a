"""An unfinished preparation: shards on their way to disk, and what is known of the finished ones (in parts/)."""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash
from array_record.python.array_record_module import ArrayRecordWriter

from alexnet_jax.data import arrays, manifest
from alexnet_jax.data.blocks import Block
from alexnet_jax.data.statistics import Sums, nothing
from alexnet_jax.errors import UserError

PARTS = "parts"
ENDINGS = {"raw": "raw", "jpeg": "array_record"}


@dataclasses.dataclass(frozen=True)
class Part:
    """A finished shard."""

    shard: manifest.Shard
    labels: np.ndarray  # [N] int32
    hashes: np.ndarray  # [N] uint64
    names: list[str]
    skipped: list[manifest.Skipped]
    unusual: list[tuple[str, str]]


class _RawFile:
    """Records one after another. Raises OSError when the disk is full."""

    def __init__(self, path: Path):
        self._file, self._digest = path.open("wb"), xxhash.xxh3_128()

    def write(self, records: list) -> None:
        for record in records:
            self._file.write(record.data)
            self._digest.update(record.data)

    def close(self) -> str:
        """Makes it last through a power failure and returns its checksum."""
        with self._file as file:
            manifest.flush(file)
        return self._digest.hexdigest()


class _ArrayRecordFile:
    """As _RawFile, in the format that Grain reads. Each record is on its own; JPEGs would not become smaller."""

    # With threads of its own, it would keep all of Python waiting when they lag behind.
    OPTIONS = "group_size:1,uncompressed,max_parallelism:1"

    def __init__(self, path: Path):
        self._path, self._file = path, ArrayRecordWriter(str(path), self.OPTIONS)

    def write(self, records: list) -> None:
        try:
            for record in records:
                self._file.write(record)
        except RuntimeError as error:
            raise OSError(str(error)) from None

    def close(self) -> str:
        try:
            self._file.close()
        except RuntimeError as error:
            raise OSError(str(error)) from None
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
        return manifest.checksum(self._path)


class OpenShard:
    """A shard that is being written, under another name until it is whole. Raises OSError when the disk is full."""

    def __init__(self, output: Path, name: str, size: int):
        self._path, self._temporary = output / name, output / (name + ".tmp")
        self._file = (_ArrayRecordFile if name.endswith(ENDINGS["jpeg"]) else _RawFile)(self._temporary)
        self._all = Block([], [], [], [], [], [], nothing(size))

    def write(self, block: Block) -> None:
        self._file.write(block.records)
        self._all.labels.extend(block.labels)
        self._all.hashes.extend(block.hashes)
        self._all.names.extend(block.names)
        self._all.skipped.extend(block.skipped)
        self._all.unusual.extend(block.unusual)
        self._all = self._all._replace(sums=self._all.sums + block.sums)

    def finish(self) -> Part:
        """Gives the shard its name, and notes what is known of it."""
        checksum = self._file.close()
        length, count = self._temporary.stat().st_size, len(self._all.labels)
        part = Part(
            manifest.Shard(name=self._path.name, bytes=length, xxh128=checksum, count=count),
            np.array(self._all.labels, np.int32),
            np.array(self._all.hashes, np.uint64),
            self._all.names,
            self._all.skipped,
            self._all.unusual,
        )
        self._temporary.replace(self._path)
        _save(self._path.parent, part, self._all.sums)
        return part

    def abandon(self) -> None:
        with contextlib.suppress(OSError):  # it is unfinished anyway, and what went wrong has been told
            self._file.close()


def check(output: Path, plan: str) -> None:
    """Raises UserError if `output` holds anything but an unfinished preparation of `plan`."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; give a folder as --output")
    if output.exists() and any(output.iterdir()) and not (output / PARTS).is_dir():
        raise UserError(f"{output} is not empty and not an unfinished preparation; give another --output")
    plan_file = output / PARTS / "plan"
    if plan_file.exists() and plan_file.read_text() != plan:
        raise UserError(
            f"{output} holds an unfinished preparation of other data or with other settings; remove it or give another "
            "--output"
        )


@contextlib.contextmanager
def started(output: Path, plan: str) -> Iterator[None]:
    """Within, this process alone prepares `output`; shards left unfinished are removed, however it ends.

    Raises UserError if another process does.
    """
    (output / PARTS).mkdir(parents=True, exist_ok=True)
    with (output / PARTS / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
        except BlockingIOError:
            raise UserError(f"another process is preparing {output} just now; wait, or give another --output") from None
        manifest.write_text(output / PARTS / "plan", plan)
        try:
            yield
        finally:
            for unfinished in output.glob("*.tmp"):
                unfinished.unlink()


def remove(output: Path) -> None:
    shutil.rmtree(output / PARTS, ignore_errors=True)


def bytes_there(output: Path) -> int:
    """Length of the shards in `output`, whole and begun; the begun ones will be written over."""
    return sum(path.stat().st_size for path in output.glob("*-of-*")) if output.exists() else 0


def read(output: Path, name: str) -> Part | None:
    """What is known of the shard `name`, if it is finished."""
    path = output / PARTS / (name + ".npz")
    if not path.exists():
        return None
    try:
        saved = arrays.zipped(path, ("described", "labels", "hashes"))
        described = json.loads(str(saved["described"]))
        shard = manifest.Shard(**described["shard"])
        skipped = [manifest.Skipped(**image) for image in described["skipped"]]
        unusual = [(what, image) for what, image in described["unusual"]]
        part = Part(shard, saved["labels"], saved["hashes"], described["names"], skipped, unusual)
        sums(output, part)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # as after a power failure; the shard is written once more
    whole = (output / name).is_file() and (output / name).stat().st_size == shard.bytes
    return part if whole else None


def sums(output: Path, part: Part) -> Sums:
    """Of the pixels of a finished shard. Kept on disk: there may be thousands of shards."""
    saved = arrays.zipped(output / PARTS / (part.shard.name + ".npz"), ("pixels", "products"))
    return Sums(part.shard.count, saved["pixels"], saved["products"])


def _save(output: Path, part: Part, sums: Sums) -> None:
    temporary = output / PARTS / "tmp.npz"
    described = {
        "shard": part.shard.model_dump(),
        "names": part.names,
        "skipped": [image.model_dump() for image in part.skipped],
        "unusual": part.unusual,
    }
    with temporary.open("wb") as file:
        np.savez(
            file,
            described=json.dumps(described),
            labels=part.labels,
            hashes=part.hashes,
            pixels=sums.pixels,
            products=sums.products,
        )
        manifest.flush(file)
    temporary.replace(output / PARTS / (part.shard.name + ".npz"))
