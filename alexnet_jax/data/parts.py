"""An unfinished preparation: the shard being written, and in parts/ what is known of the finished ones."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from alexnet_jax.data import arrays, files, manifest
from alexnet_jax.data.blocks import Block
from alexnet_jax.data.statistics import Sums, zero_sums
from alexnet_jax.errors import UserError

PARTS = "parts"
ENDINGS = {"raw": "raw", "jpeg": "array_record"}
# Each record is a group of its own, since compressing JPEGs together would gain nothing. With threads of its own,
# ArrayRecord would block all of Python whenever they fall behind.
OPTIONS = "group_size:1,uncompressed,max_parallelism:1"


class Part(manifest.Record):
    """A finished shard, and what is known of its images."""

    shard: manifest.Shard
    contents: manifest.Contents


class OpenShard:
    """A shard being written, under a temporary name until it is complete. Raises OSError when the disk is full."""

    def __init__(self, output: Path, name: str, size: int):
        self._path, self._temporary = output / name, output / (name + ".tmp")
        is_jpeg = name.endswith(ENDINGS["jpeg"])
        self._file = ArrayRecordWriter(str(self._temporary), OPTIONS) if is_jpeg else self._temporary.open("wb")
        self._contents, self._sums = manifest.Contents(), zero_sums(size)

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
        with contextlib.suppress(OSError, RuntimeError):  # the error that led here is being raised already
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
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process ends, however it does
        except BlockingIOError:
            raise UserError(f"another process is preparing {output}; wait, or give another --output") from None
        files.write_text(output / PARTS / "plan", plan)
        try:
            yield
        finally:
            for unfinished in output.glob("*.tmp"):
                unfinished.unlink()


def read(output: Path, name: str) -> Part | None:
    """What is known of the shard `name`, or None if it is not finished."""
    try:
        part = Part.model_validate_json(arrays.zipped(_path(output, name), ["part"])["part"].tobytes())
        sums(output, part)
        return part if (output / name).stat().st_size == part.shard.bytes else None
    except (OSError, ValueError, KeyError):  # never written, or cut by a power failure: the shard is written again
        return None


def sums(output: Path, part: Part) -> Sums:
    """The sums over the pixels of a finished shard. They stay on disk: there may be thousands of shards."""
    saved = arrays.zipped(_path(output, part.shard.name), ("pixels", "products"))
    return Sums(part.shard.count, saved["pixels"], saved["products"])


def _path(output: Path, name: str) -> Path:
    return output / PARTS / (name + ".npz")
