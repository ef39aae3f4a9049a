"""What a source of images is: it lists its images without reading them, and `Split.read(i)` reads one."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.manifest import Published


class Image(NamedTuple):
    content: bytes | np.ndarray  # a file in any format, or RGB pixels [H, W, 3] uint8
    label: int


class Split(NamedTuple):
    names: Sequence[str]  # of the images, for messages
    labels: np.ndarray | None  # [N] int32; None if a label is known only once its image is read
    read: Callable[[int], Image]  # called by several threads at once


class Source(NamedTuple):
    classes: list[str]  # label -> name
    splits: dict[str, Split]
    published: dict[str, Published]  # for the splits where it is known


def printable(name: str) -> str:
    """A name with its bytes that are not UTF-8 escaped, so that it can be printed and stored anywhere."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def array_split(split: str, pixels: np.ndarray, labels: np.ndarray) -> Split:
    """A split held in memory: pixels [N, H, W, 3] uint8, labels [N]."""
    labels = labels.astype(np.int32)
    return Split([f"{split}/{i}" for i in range(len(pixels))], labels, lambda i: Image(pixels[i], int(labels[i])))


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def files_below(folder: Path) -> list[Path]:
    """The files at any depth below a folder, sorted, without hidden ones. Raises OSError if a folder is unreadable."""

    def refuse(error: OSError) -> None:
        raise error

    files = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(files)
