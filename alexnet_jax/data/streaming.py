"""Images of a source, decoded and scaled whenever they are read: training without `prepare`, from the same pixels."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from alexnet_jax.data import shards, statistics
from alexnet_jax.data.images import CorruptImage, stored_pixels
from alexnet_jax.data.loader import Order
from alexnet_jax.data.sources.source import Source, Split, printable
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import UserError

BLOCK = 32  # images that a thread takes at once for statistics


class Streamed:
    """A split of a source as records.Images. A record is bad if it cannot be read or decoded.

    Where the source knows labels only once it reads, reading an image fills in its label.
    """

    def __init__(self, split: Split, size: int):
        self._split, self.size = split, size
        self.labels = np.full(len(split.names), -1, np.int32) if split.labels is None else np.array(split.labels)

    def read(self, index: np.ndarray, out: np.ndarray) -> dict[int, str]:
        bad = {}
        for row, i in enumerate(index.tolist()):
            try:
                content, self.labels[i] = self._split.read(i)
                out[row], _ = stored_pixels(content, self.size)
            except (CorruptImage, OSError) as error:
                bad[row] = printable(str(error))
        return bad

    def name(self, i: int) -> str:
        return printable(self._split.names[i])


def streamed(source: Source, size: int, path: Path | None) -> dict[str, Streamed]:
    """The splits of a source that reads `path`. Raises UserError if it has no random access."""
    if not source.random_access:
        raise UserError(f"{path} can only be read from its start; unpack it, or run `alexnet prepare` on it first")
    return {name: Streamed(split, size) for name, split in source.splits.items()}


def statistics_of(split: Split, size: int, examples: int, seed: int) -> Statistics:
    """The statistics of `examples` random images of a split, chosen by `seed`; 0: of all.

    Corrupt ones are left out, as in `prepare`. Raises UserError if none is left.
    """
    total = len(split.names)
    index = np.sort(Order(total, min(examples or total, total), seed).batch(0)[0]).tolist()  # read in order
    blocks = [index[i : i + BLOCK] for i in range(0, len(index), BLOCK)]
    raw = shards.Settings("raw", size, quality=100, max_corrupt=0)
    loaded = tqdm(shards.load_all(split, blocks, raw), "mean image", len(blocks), leave=False, disable=None)
    sums = sum((block.sums for block in loaded), statistics.zero_sums(size))
    if not sums.images:
        raise UserError(f"none of {len(index)} images can be decoded, such as {printable(split.names[index[0]])}")
    return statistics.of_sums(sums)
