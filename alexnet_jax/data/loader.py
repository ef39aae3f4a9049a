"""Batches of a split, by Grain. One Grain element is one whole batch.

The order of the examples is a permutation that only (seed, epoch) decides, so the state of the pipeline is one
integer, the number of the next batch, for any number of threads and processes. Every epoch holds every example
once: its last batch is filled up with masked copies, as the authors' code kept a last smaller batch.

A bad record (records.Packed) does not stop an epoch. In training its place goes to the next sound example of the
split, with that one's label; in evaluation, where every example counts once, it is masked and so left out.
"""

import functools
import time
from typing import NamedTuple

import grain
import numpy as np

from alexnet_jax.data.memory import Pool
from alexnet_jax.data.records import Images
from alexnet_jax.errors import DataError


class Batch(NamedTuple):
    image: np.ndarray  # [B, H, W, 3] uint8
    label: np.ndarray  # [B] int32
    example: np.ndarray  # [B] int32: its place in the split
    mask: np.ndarray  # [B] bool: False where the example does not count


class Order(NamedTuple):
    """Which examples are in which batch."""

    examples: int
    batch_size: int
    seed: int | None  # None: in the order of the split, for evaluation
    reshuffle: bool = True  # False: all epochs in the order of the first

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.examples // self.batch_size)

    def batch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices [B] int32 and mask [B] of batch `number`, counted through all epochs."""
        epoch, place = divmod(number, self.steps_per_epoch)
        if self.seed is None:
            order = np.arange(self.examples, dtype=np.int32)
        else:
            order = _permutation(self.seed, epoch if self.reshuffle else 0, self.examples)
        places = place * self.batch_size + np.arange(self.batch_size)
        return order[places % self.examples], places < self.examples


@functools.lru_cache(maxsize=2)  # threads may read the end of one epoch and the start of the next
def _permutation(seed: int, epoch: int, examples: int) -> np.ndarray:
    key = np.array([seed, epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(np.int32(examples)).astype(np.int32)


class Reading(NamedTuple):
    """How to read."""

    threads: int  # 0: in the thread that asks
    prefetch: int  # batches read ahead
    max_bad: float  # the share of a split's records that may be bad before reading stops
    part: int = 0  # which of
    parts: int = 1  # how many equal parts of each batch


class Batches:
    """An iterator of Batch over the batches `start`..`stop`-1. Close it when done.

    Raises DataError when more than `reading.max_bad` of the split's records have been found bad.
    """

    def __init__(self, images: Images, order: Order, start: int, stop: int, reading: Reading):
        if order.batch_size % reading.parts:
            raise ValueError(f"batches of {order.batch_size} do not divide into {reading.parts} parts")
        self.waited = 0.0  # seconds that `next` kept its caller waiting, in all
        self.bad: dict[int, str] = {}  # the bad records met so far, and what is wrong with them
        self._news: list[str] = []
        self._images, self._examples, self._max_bad = images, order.examples, reading.max_bad
        pool = Pool((order.batch_size // reading.parts, images.size, images.size, 3))
        load = functools.partial(_load, images, order, reading, pool)
        options = grain.ReadOptions(num_threads=reading.threads, prefetch_buffer_size=reading.prefetch)
        self._iterator = iter(grain.MapDataset.range(stop).map(load).to_iter_dataset(options))
        self._iterator.set_state({"next_index": start})

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        start = time.monotonic()
        batch, bad = next(self._iterator)
        self.waited += time.monotonic() - start
        for i in sorted(bad.keys() - self.bad.keys()):
            self.bad[i] = bad[i]
            self._news.append(f"bad record: image {i}, {self._images.name(i)}, {bad[i]}")
        if len(self.bad) > self._max_bad * self._examples:
            listed = "\n".join(
                f"  image {i}, {self._images.name(i)}, {what}" for i, what in list(self.bad.items())[:20]
            )
            raise DataError(
                f"{len(self.bad)} of {self._examples} records are bad, more than the share of {self._max_bad:g} that "
                "config.data.max_bad allows; `alexnet verify-data` finds them all. Put the shards back "
                f"from a copy or prepare the data again:\n{listed}"
            )
        return batch

    def news(self) -> list[str]:
        """A line about each bad record met since the last call."""
        news, self._news = self._news, []
        return news

    def get_state(self) -> dict[str, int]:
        """The number of the next batch, {"next_index": n}."""
        return self._iterator.get_state()

    def close(self) -> None:
        self._iterator.close()


def _load(images: Images, order: Order, reading: Reading, pool: Pool, number: int) -> tuple[Batch, dict[int, str]]:
    """Batch `number`, this process's part of it, and the bad records it met: example -> what is wrong."""
    index, mask = order.batch(number)
    rows = order.batch_size // reading.parts
    mine = slice(reading.part * rows, (reading.part + 1) * rows)
    index, mask = index[mine].copy(), mask[mine].copy()
    pixels = pool.empty()
    wrong = images.read(index, pixels)
    bad = {int(index[row]): what for row, what in wrong.items()}
    for row in wrong:
        if order.seed is None:
            pixels[row], mask[row] = 0, False
        else:
            index[row] = _next_sound(images, int(index[row]), order.examples, pixels[row : row + 1], bad)
    return Batch(pixels, images.labels[index], index, mask), bad


def _next_sound(images: Images, i: int, examples: int, out: np.ndarray, bad: dict[int, str]) -> int:
    """The first example behind `i` that can be read, into `out` [1, H, W, 3]; notes in `bad` those that cannot."""
    for step in range(1, examples):
        other = (i + step) % examples
        wrong = images.read(np.array([other]), out)
        if not wrong:
            return other
        bad[other] = wrong[0]
    raise DataError(f"not one of the {examples} records can be read: {bad[i]}")
