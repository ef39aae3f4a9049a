"""Batches of a split, by Grain. One Grain element is one whole batch.

The order of the examples is a permutation that only (seed, epoch) decides, so the state of the pipeline is one
integer, the number of the next batch, for any number of threads. Every epoch holds every example
once: its last batch is filled up with masked copies, as the authors' code kept a last smaller batch.
"""

import functools
from typing import NamedTuple

import grain
import numpy as np

from alexnet_jax.data.records import Images


class Batch(NamedTuple):
    image: np.ndarray  # [B, H, W, 3] uint8
    label: np.ndarray  # [B] int32
    example: np.ndarray  # [B] int32: its place in the split
    mask: np.ndarray  # [B] bool: False where the example only fills up the batch


class Order(NamedTuple):
    """Which examples are in which batch."""

    examples: int
    batch_size: int
    seed: int | None  # None: in the order of the split, for evaluation

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.examples // self.batch_size)

    def batch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices [B] int32 and mask [B] of batch `number`, counted through all epochs."""
        epoch, place = divmod(number, self.steps_per_epoch)
        if self.seed is None:
            order = np.arange(self.examples, dtype=np.int32)
        else:
            order = _permutation(self.seed, epoch, self.examples)
        places = place * self.batch_size + np.arange(self.batch_size)
        return order[places % self.examples], places < self.examples


@functools.lru_cache(maxsize=2)  # threads may read the end of one epoch and the start of the next
def _permutation(seed: int, epoch: int, examples: int) -> np.ndarray:
    key = np.array([seed, epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(np.int32(examples)).astype(np.int32)


def batches(images: Images, order: Order, start: int, stop: int, threads: int, prefetch: int) -> grain.DatasetIterator:
    """An iterator of Batch over the batches `start`..`stop`-1. Close it when done."""

    def load(number: int) -> Batch:
        index, mask = order.batch(number)
        return Batch(images.read(index), images.labels[index], index, mask)

    numbers = grain.MapDataset.range(stop)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    iterator = iter(numbers.map(load).to_iter_dataset(options))
    iterator.set_state({"next_index": start})
    return iterator
