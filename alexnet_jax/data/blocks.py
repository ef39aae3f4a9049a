"""The work of packing: images in blocks, each through decode, crop, scale and encode, spread over threads."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
import xxhash

from alexnet_jax.data import images, manifest, statistics
from alexnet_jax.data.sources.source import Split, printable
from alexnet_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Settings:
    store: Literal["raw", "jpeg"]
    size: int  # height and width, pixels
    quality: int  # of the JPEGs
    max_corrupt: float  # the share of a split's images that may be skipped


class Block(NamedTuple):
    """Some images, ready to be written."""

    records: list[bytes] | list[np.ndarray]
    labels: list[int]
    hashes: list[int]
    names: list[str]
    skipped: list[manifest.Skipped]
    unusual: list[tuple[str, str]]  # what, name
    sums: statistics.Sums


def stored_pixels(
    content: bytes | np.ndarray, size: int, max_pixels: int = images.MAX_PIXELS
) -> tuple[np.ndarray, tuple[str, ...]]:
    """An image's content -> [size, size, 3] uint8, and what is odd about it. Raises images.CorruptImage."""
    decoded = images.decode(content, max_pixels) if isinstance(content, bytes) else images.Decoded(content, ())
    return images.to_square(decoded.pixels, size), decoded.unusual


def load(split: Split, indices: Iterable[int], settings: Settings) -> Block:
    """Reads and scales images; the corrupt ones are noted. Raises UserError if a file cannot be read at all."""
    pixels: list[np.ndarray] = []
    block = Block([], [], [], [], [], [], statistics.nothing(settings.size))
    for i in indices:
        name = printable(split.names[i])
        try:
            image = split.read(i)
            square, unusual = stored_pixels(image.content, settings.size)
        except images.CorruptImage as error:
            block.skipped.append(manifest.Skipped(name=name, reason=printable(str(error))))
            continue
        except OSError as error:  # the disk or the network, not the image
            raise UserError(
                f"cannot read {name}: {error}. The finished shards stay; mend it and give the same command again"
            ) from None
        record = square if settings.store == "raw" else images.encode_jpeg(square, settings.quality)
        pixels.append(square)
        block.records.append(record)  # type: ignore[arg-type] # all of one kind
        block.labels.append(image.label)
        block.hashes.append(xxhash.xxh3_64_intdigest(record if isinstance(record, bytes) else record.data))
        block.names.append(name)
        block.unusual.extend((what, name) for what in unusual)
    return block._replace(sums=statistics.sums_of(pixels)) if pixels else block


def in_order(threads: ThreadPoolExecutor, function: Callable, items: Iterable) -> Iterator[tuple[Any, Any]]:
    """Each item and its result, in order; threads work only so far ahead that memory stays bounded."""
    waiting: collections.deque[tuple[Any, Future]] = collections.deque()
    try:
        for item in items:
            waiting.append((item, threads.submit(function, item)))
            if len(waiting) > 2 * threads._max_workers:
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
    finally:
        for _, result in waiting:
            result.cancel()
