"""Folders of images, one folder a class."""

import hashlib
import os
from pathlib import Path

import numpy as np

from alexnet_jax.data.sources.source import Image, Source, Split
from alexnet_jax.errors import UserError

SPLIT_FOLDERS = ("train", "val", "valid", "validation", "test")


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
        pairs = _one_stays(list(zip(files["train"], chosen, strict=True)))
        files["val"] = [item for item, is_val in pairs if is_val]
        files["train"] = [item for item, is_val in pairs if not is_val]
    for split, items in files.items():
        if not items:
            raise UserError(
                f"the split {split} of {directory} has no images; give more images or another --val_fraction"
            )
    return Source(classes, {split: file_split(items, directory) for split, items in files.items()}, {})


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


def _one_stays(pairs: list[tuple[tuple[Path, int], bool]]) -> list[tuple[tuple[Path, int], bool]]:
    """Images, and whether each is to validate on: of every class one stays to train on."""
    kept = {label for (_, label), is_val in pairs if not is_val}
    result = []
    for (path, label), is_val in pairs:
        result.append(((path, label), is_val and label in kept))
        kept.add(label)
    return result


def _hash_fraction(path: Path) -> float:
    """A number in 0..1 that only the path decides, so that adding images moves no other between splits."""
    return int.from_bytes(hashlib.sha256(os.fsencode(path.as_posix())).digest()[:8], "big") / 2**64


def file_split(items: list[tuple[Path, int]], directory: Path) -> Split:
    """A split of files below `directory`, with their labels."""
    return Split(
        names=[path.relative_to(directory).as_posix() for path, _ in items],
        labels=np.array([label for _, label in items], np.int32),
        read=lambda i: Image(items[i][0].read_bytes(), items[i][1]),
    )
