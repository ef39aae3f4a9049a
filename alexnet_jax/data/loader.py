"""Batches of a split, read by Grain; each Grain element is a whole batch.

The order of the examples is a permutation that depends only on (seed, epoch), so the state of the pipeline is a single
integer, the number of the next batch, for any number of threads and processes. Every epoch contains every example
once; its last batch is padded with masked copies, where the authors' code kept a smaller last batch.

A bad record (see records.Packed) does not stop an epoch. In training, the next intact example of the split takes its
place, label included; in evaluation, where every example must count once, it is masked out.
"""

import ctypes
import functools
import math
import mmap
import time
import weakref
from collections.abc import Iterator
from typing import NamedTuple

import grain
import numpy as np

from alexnet_jax.data.records import Images
from alexnet_jax.errors import DataError

MAX_LISTED = 20  # bad records in an error message


class Batch(NamedTuple):
    image: np.ndarray  # [B, H, W, 3] uint8
    label: np.ndarray  # [B] int32
    example: np.ndarray  # [B] int32: index in the split
    mask: np.ndarray  # [B] bool: False where the example does not count


class Order(NamedTuple):
    examples: int
    batch_size: int
    seed: int | None  # None: in the order of the split, for evaluation
    reshuffle: bool = True  # False: every epoch in the order of the first

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.examples // self.batch_size)

    def batch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices [B] int32 and mask [B] of batch `number`, counted across epochs."""
        epoch, step = divmod(number, self.steps_per_epoch)
        order = _permutation(self.seed, epoch if self.reshuffle else 0, self.examples)
        positions = step * self.batch_size + np.arange(self.batch_size)
        return order[positions % self.examples], positions < self.examples


@functools.lru_cache(maxsize=2)  # threads may be reading the end of one epoch and the start of the next
def _permutation(seed: int | None, epoch: int, examples: int) -> np.ndarray:
    if seed is None:
        return np.arange(examples, dtype=np.int32)
    key = np.array([seed, epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(np.int32(examples)).astype(np.int32)


class Reading(NamedTuple):
    threads: int  # 0: read in the calling thread
    prefetch: int  # batches read ahead
    max_bad: float  # the share of a split's records that may be bad before reading stops
    part: int = 0  # which part of each batch this process reads, 0..parts-1
    parts: int = 1  # of equal size


class Pool:
    """Page-aligned uint8 arrays of one shape, reused once nothing refers to them. Thread-safe.

    The operating system clears every fresh page, which takes about as long as filling it with images: reuse gave 1.5
    times the images/s for raw records on two threads. JAX keeps a reference while it copies an array, or while it uses
    the array in place, as the CPU backend does.
    """

    def __init__(self, shape: tuple[int, ...]):
        self._shape, self._bytes = shape, math.prod(shape)
        self._free: list[mmap.mmap] = []

    def empty(self) -> np.ndarray:
        try:
            memory = self._free.pop()
        except IndexError:
            memory = mmap.mmap(-1, self._bytes)
        # A NumPy view refers to the owner of its memory, not to the view it was taken from: so to this new object.
        owner = (ctypes.c_uint8 * self._bytes).from_buffer(memory)
        weakref.finalize(owner, self._free.append, memory).atexit = False
        return np.frombuffer(memoryview(owner), np.uint8).reshape(self._shape)


class Batches(Iterator[Batch]):
    """The batches `start`..`stop`-1; close it when done. DataError if more than `reading.max_bad` records are bad."""

    def __init__(self, images: Images, order: Order, start: int, stop: int, reading: Reading):
        if order.batch_size % reading.parts:
            raise ValueError(f"batches of {order.batch_size} cannot be divided into {reading.parts} parts")
        self.waited = 0.0  # total seconds that callers of `next` have waited
        self.bad: dict[int, str] = {}  # index of each bad record so far -> what is wrong with it
        self._reported = 0  # of the bad records
        self._images, self._examples, self._max_bad = images, order.examples, reading.max_bad
        pool = Pool((order.batch_size // reading.parts, images.size, images.size, 3))
        load = functools.partial(_load, images, order, reading, pool)
        options = grain.ReadOptions(num_threads=reading.threads, prefetch_buffer_size=reading.prefetch)
        self._iterator = iter(grain.MapDataset.range(stop).map(load).to_iter_dataset(options))
        self._iterator.set_state({"next_index": start})

    def __next__(self) -> Batch:
        start = time.monotonic()
        batch, bad = next(self._iterator)
        self.waited += time.monotonic() - start
        self.bad |= sorted(bad.items())
        if len(self.bad) > self._max_bad * self._examples:
            listed = "\n".join(f"  {self._describe(i)}" for i in list(self.bad)[:MAX_LISTED])
            raise DataError(
                f"{len(self.bad)} of {self._examples} records are bad, more than the share of {self._max_bad:g} that "
                "config.data.max_bad allows; `alexnet verify-data` finds all of them in prepared data. Restore them "
                f"from a copy, or prepare the data again:\n{listed}"
            )
        return batch

    def _describe(self, i: int) -> str:
        return f"image {i}, {self._images.name(i)}, {self.bad[i]}"

    def news(self) -> list[str]:
        """One line for each bad record found since the last call."""
        new = list(self.bad)[self._reported :]
        self._reported += len(new)
        return [f"bad record: {self._describe(i)}" for i in new]

    def close(self) -> None:
        self._iterator.close()


def _load(images: Images, order: Order, reading: Reading, pool: Pool, number: int) -> tuple[Batch, dict[int, str]]:
    """This process's part of batch `number`, and its bad records: index -> what is wrong."""
    index, mask = order.batch(number)
    rows = order.batch_size // reading.parts
    mine = slice(reading.part * rows, (reading.part + 1) * rows)
    index, mask, pixels = index[mine].copy(), mask[mine].copy(), pool.empty()
    bad_rows = images.read(index, pixels)
    bad = {int(index[row]): problem for row, problem in bad_rows.items()}
    for row in bad_rows:
        if order.seed is None:
            pixels[row], mask[row] = 0, False
        else:
            index[row] = _read_next_intact(images, int(index[row]), order.examples, pixels[row : row + 1], bad)
    return Batch(pixels, images.labels[index], index, mask), bad


def _read_next_intact(images: Images, i: int, examples: int, out: np.ndarray, bad: dict[int, str]) -> int:
    """Read the first intact example after `i` into `out` [1, H, W, 3], add bad ones to `bad`, and return its index."""
    for step in range(1, examples):
        candidate = (i + step) % examples
        bad_rows = images.read(np.array([candidate]), out)
        if not bad_rows:
            return candidate
        bad[candidate] = bad_rows[0]
    raise DataError(f"none of the {examples} records can be read: {bad[i]}")
