"""Folders of images, one folder per class."""

import hashlib
import os
from pathlib import Path

import numpy as np

from alexnet_jax.data.sources.source import Image, Source, Split, files_below
from alexnet_jax.errors import UserError

SPLIT_FOLDERS = ("train", "val", "valid", "validation", "test")
DEFAULT_VAL_FRACTION = 0.1
Labelled = tuple[Path, int]  # an image file and its label


def folder(path: Path | None = None, val_fraction: float | None = None) -> Source:
    """Images at any depth below one folder per class; classes are numbered in the order of their sorted names.

    Args:
        path: the folder of class folders. Folders train/ and val/ (or valid/, validation/, test/) in it are splits.
        val_fraction: the share of the training images, chosen by a hash of their paths, that become the split `val`.
            None: DEFAULT_VAL_FRACTION if `train` is the only split, else 0.

    Raises:
        UserError: if there are too few classes or images, or a split has other classes than `train`.
    """
    if path is None:
        raise UserError("--source folder needs --input DIR, a folder with one folder of images per class")
    if not path.is_dir():
        raise UserError(f"there is no folder {path}; --input must name a folder with one folder of images per class")
    split_folders = {name: path / name for name in SPLIT_FOLDERS if (path / name).is_dir()}
    if split_folders and "train" not in split_folders:
        raise UserError(f"{path} has {', '.join(split_folders)}/ but no train/; put the training images there")
    split_folders = split_folders or {"train": path}
    classes = _classes(split_folders["train"])
    images = {split: _labelled(directory, classes) for split, directory in split_folders.items()}
    if val_fraction is None:
        val_fraction = DEFAULT_VAL_FRACTION if len(images) == 1 else 0
    if val_fraction:
        if "val" in images:
            raise UserError(f"{path} has its own val/; leave out --val_fraction")
        images["train"], images["val"] = _held_out(images["train"], split_folders["train"], val_fraction)
    for split, items in images.items():
        if not items:
            raise UserError(f"the split {split} of {path} has no images; add images or change --val_fraction")
    return Source(classes, {split: file_split(items, path) for split, items in images.items()}, {})


def _classes(directory: Path) -> list[str]:
    classes = sorted(entry.name for entry in directory.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        raise UserError(
            f"{directory} has {len(classes)} class folder(s), but at least 2 are needed: put the images of each class "
            "into a folder named after it"
        )
    return classes


def _labelled(directory: Path, classes: list[str]) -> list[Labelled]:
    extra = set(_classes(directory)) - set(classes)
    if extra:
        raise UserError(f"{directory} has classes that the training images lack: {', '.join(sorted(extra)[:5])}")
    items = []
    for label, name in enumerate(classes):
        files = files_below(directory / name) if (directory / name).is_dir() else []
        if not files:
            raise UserError(f"the class folder {directory / name} is empty; put images in it or remove it")
        items += [(file, label) for file in files]
    return items


def _held_out(items: list[Labelled], directory: Path, fraction: float) -> tuple[list[Labelled], list[Labelled]]:
    """Divide images into those for training and those for validation; every class keeps one for training."""
    chosen = [_hash_fraction(file.relative_to(directory)) < fraction for file, _ in items]
    kept = {label for (_, label), is_val in zip(items, chosen, strict=True) if not is_val}
    splits: tuple[list[Labelled], list[Labelled]] = ([], [])
    for (file, label), is_val in zip(items, chosen, strict=True):
        splits[is_val and label in kept].append((file, label))
        kept.add(label)
    return splits


def _hash_fraction(path: Path) -> float:
    """A number in [0, 1) that depends only on the path, so that new images move no others between splits."""
    return int.from_bytes(hashlib.sha256(os.fsencode(path.as_posix())).digest()[:8], "big") / 2**64


def file_split(items: list[Labelled], directory: Path) -> Split:
    """A split of files below `directory`, with their labels."""
    return Split(
        names=[path.relative_to(directory).as_posix() for path, _ in items],
        labels=np.array([label for _, label in items], np.int32),
        read=lambda i: Image(items[i][0].read_bytes(), items[i][1]),
    )
