"""What a source of images is. It lists its images without reading them; `read(i)` gives one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Image(NamedTuple):
    content: bytes | np.ndarray  # a file of any format, or RGB pixels [H, W, 3] uint8
    label: int


class Split(NamedTuple):
    names: Sequence[str]  # of the images, for messages
    labels: np.ndarray | None  # [N] int32; None where only reading an image tells its label
    read: Callable[[int], Image]  # called by several threads at once


class Published(NamedTuple):
    """How many images a split should have, as its publishers say."""

    images: int
    by_class: list[int] | None  # where they say


class Source(NamedTuple):
    classes: list[str]  # label -> name
    splits: dict[str, Split]
    published: dict[str, Published]  # of the splits for which it is known


class Request(NamedTuple):
    """What a source may want to know."""

    input: Path | None  # folder or file
    name: str  # what follows the colon in `tfds:NAME`
    val_fraction: float | None
    seed: int  # of a random split
    size: int  # height and width that the images will be stored at
    num_classes: int


def printable(name: str) -> str:
    """A name with bytes that are no UTF-8 written out, so that it can be printed and stored anywhere."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def array_split(split: str, pixels: np.ndarray, labels: np.ndarray) -> Split:
    """A split held in memory: pixels [N, H, W, 3] uint8, labels [N]."""
    labels = labels.astype(np.int32)
    return Split([f"{split}/{i}" for i in range(len(pixels))], labels, lambda i: Image(pixels[i], int(labels[i])))
