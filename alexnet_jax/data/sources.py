"""Where images come from. A source is one function and one line in SOURCES.

A source lists its images without reading them; `read(i)` gives one, as the bytes of a file or as RGB pixels.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.errors import UserError

SPLIT_FOLDERS = ("train", "val", "valid", "validation", "test")


class Split(NamedTuple):
    names: Sequence[str]  # of the images, for messages
    labels: np.ndarray  # [N] int32
    read: Callable[[int], bytes | np.ndarray]


class Source(NamedTuple):
    classes: list[str]  # label -> name
    splits: dict[str, Split]


def folder(directory: Path | None, val_fraction: float | None) -> Source:
    """A folder a class, its images anywhere below it; classes are numbered in the order of their sorted names.

    With folders train/ and val/ (or valid/, validation/, test/) at the top, each is a split. `val_fraction` of the
    training images, chosen by a hash of their paths, become the split `val`; by default none if there is another
    split besides train, else a tenth.
    """
    if directory is None:
        raise UserError("--source folder needs --input DIR, a folder with one folder of images a class")
    if not directory.is_dir():
        raise UserError(f"there is no folder {directory}; --input must name a folder with one folder of images a class")
    split_folders = {name: directory / name for name in SPLIT_FOLDERS if (directory / name).is_dir()}
    if split_folders and "train" not in split_folders:
        raise UserError(f"{directory} has {', '.join(split_folders)}/ but no train/; put the training images there")
    split_folders = split_folders or {"train": directory}
    classes = _class_folders(split_folders["train"])
    files = {split: _files(folder, classes) for split, folder in split_folders.items()}
    if val_fraction is None and len(files) == 1:
        val_fraction = 0.1
    if val_fraction:
        if "val" in files:
            raise UserError(f"{directory} has its own val/; leave out --val_fraction")
        chosen = [_hash_fraction(file.relative_to(split_folders["train"])) < val_fraction for file, _ in files["train"]]
        pairs = list(zip(files["train"], chosen, strict=True))
        files["val"] = [item for item, is_val in pairs if is_val]
        files["train"] = [item for item, is_val in pairs if not is_val]
    for split, items in files.items():
        if not items:
            raise UserError(
                f"the split {split} of {directory} has no images; give more images or another --val_fraction"
            )
    return Source(classes, {split: _file_split(items, directory) for split, items in files.items()})


def _class_folders(directory: Path) -> list[str]:
    classes = sorted(entry.name for entry in directory.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        raise UserError(
            f"{directory} has {len(classes)} class folder(s) and at least 2 are needed: one folder a class, named "
            "for it, with its images inside"
        )
    return classes


def _files(directory: Path, classes: list[str]) -> list[tuple[Path, int]]:
    extra = set(_class_folders(directory)) - set(classes)
    if extra:
        raise UserError(f"{directory} has classes that the training images lack: {', '.join(sorted(extra)[:5])}")
    items = []
    for label, name in enumerate(classes):
        below = sorted((directory / name).rglob("*"))
        files = [path for path in below if path.is_file() and not path.name.startswith(".")]
        if not files:
            raise UserError(f"the class folder {directory / name} is empty; put images in it or remove it")
        items += [(path, label) for path in files]
    return items


def _hash_fraction(path: Path) -> float:
    """A number in 0..1 that only the path decides, so that adding images moves no other between splits."""
    return int.from_bytes(hashlib.sha256(path.as_posix().encode()).digest()[:8], "big") / 2**64


def _file_split(items: list[tuple[Path, int]], directory: Path) -> Split:
    paths = [path for path, _ in items]
    return Split(
        names=[path.relative_to(directory).as_posix() for path in paths],
        labels=np.array([label for _, label in items], np.int32),
        read=lambda i: paths[i].read_bytes(),
    )


def digits() -> Source:
    """Handwritten digits of the UCI repository, inside scikit-learn: 1797 grey images of 8x8, ten classes.

    The images come in the order of their writers. The last fifth is the split `test`, so that most of its
    writers are not among those of the split `train`.
    """
    from sklearn.datasets import load_digits  # a heavy import that only this source needs

    bunch = load_digits()
    grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # [1797, 8, 8], from 0..16
    pixels = np.repeat(grey[..., None], 3, axis=-1)
    cut = len(pixels) * 4 // 5
    parts = {"train": slice(0, cut), "test": slice(cut, None)}
    return Source(
        [str(digit) for digit in range(10)],
        {split: _array_split(split, pixels[part], bunch.target[part]) for split, part in parts.items()},
    )


def synthetic(size: int, num_classes: int) -> Source:
    """Noise, for speed tests: 512 training and 128 validation images of size x size that show nothing."""
    rng = np.random.default_rng(0)
    splits = {}
    for split, count in (("train", 512), ("val", 128)):
        pixels = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        splits[split] = _array_split(split, pixels, np.arange(count) % num_classes)
    return Source([f"class {i}" for i in range(num_classes)], splits)


def _array_split(split: str, pixels: np.ndarray, labels: np.ndarray) -> Split:
    return Split([f"{split}/{i}" for i in range(len(pixels))], labels.astype(np.int32), lambda i: pixels[i])


class Request(NamedTuple):
    """What a source may want to know."""

    directory: Path | None
    val_fraction: float | None
    size: int  # height and width that the images will be stored at
    num_classes: int


SOURCES: dict[str, Callable[[Request], Source]] = {
    "folder": lambda request: folder(request.directory, request.val_fraction),
    "digits": lambda request: digits(),
    "synthetic": lambda request: synthetic(request.size, request.num_classes),
}
EMBEDDED = ("digits", "synthetic")  # need no folder, and are small enough to train on without `prepare`
