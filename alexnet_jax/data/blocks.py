"""Blocks of images: decode, crop, scale and encode them, spread over threads."""

import collections
import dataclasses
import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import xxhash

from alexnet_jax.data import images, manifest, statistics
from alexnet_jax.data.sources.source import Split, printable
from alexnet_jax.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


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


def stored_pixels(content: bytes | np.ndarray, size: int, max_pixels: int = images.MAX_PIXELS) -> images.Decoded:
    """An image file, or RGB pixels [H, W, 3] uint8, as stored: [size, size, 3] uint8.

    Raises images.CorruptImage if it cannot be decoded or has more than `max_pixels`.
    """
    decoded = images.decode(content, max_pixels) if isinstance(content, bytes) else images.Decoded(content, ())
    return decoded._replace(pixels=images.to_square(decoded.pixels, size))


def load(split: Split, indices: Iterable[int], settings: Settings) -> Block:
    """Read, scale and encode images; corrupt ones are skipped. Raises UserError if the storage fails."""
    squares: list[np.ndarray] = []
    records: list[bytes | memoryview] = []
    contents = manifest.Contents()
    for i in indices:
        name = printable(split.names[i])
        try:
            image = split.read(i)
            square, unusual = stored_pixels(image.content, settings.size)
        except images.CorruptImage as error:
            contents.skipped.append(manifest.Skipped(name=name, reason=printable(str(error))))
            continue
        except OSError as error:  # the disk or the network is at fault, not the image
            cure = "The finished shards are kept; mend it and run the same command again"
            raise UserError(f"cannot read {name}: {error}. {cure}") from None
        squares.append(square)
        records.append(square.data if settings.store == "raw" else images.encode_jpeg(square, settings.quality))
        contents.labels.append(image.label)
        contents.hashes.append(xxhash.xxh3_64_intdigest(records[-1]))
        contents.names.append(name)
        contents.unusual.extend((what, name) for what in unusual)
    return Block(records, contents, statistics.sums_of(squares) if squares else statistics.zero_sums(settings.size))


def in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """The results for all items, in order; one thread per core runs only so far ahead that memory stays bounded."""
    cores = os.cpu_count() or 1
    threads = ThreadPoolExecutor(cores)
    waiting: collections.deque[Future[Result]] = collections.deque()
    try:
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
