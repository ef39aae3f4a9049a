"""Folders of images, one folder per class."""

import hashlib
import itertools
import os
from pathlib import Path

from alexnet_jax.data.sources import archives
from alexnet_jax.data.sources.archives import Labelled, Place
from alexnet_jax.data.sources.source import Source, files_below, folders_in
from alexnet_jax.errors import UserError

SPLIT_FOLDERS = ("train", "val", "valid", "validation", "test")
DEFAULT_VAL_FRACTION = 0.1


def folder(path: Path | None = None, val_fraction: float | None = None) -> Source:
    """Images at any depth below one folder per class; classes are numbered in the order of their sorted names.

    Those of SPLIT_FOLDERS that are in `path` are splits. The share `val_fraction` of the training images, chosen by a
    hash of their paths, becomes the split `val`; None stands for DEFAULT_VAL_FRACTION if `train` is the only split,
    else for 0. Raises UserError if there are too few classes or images, or a split has other classes than `train`.
    """
    if path is None or not path.is_dir():
        raise UserError(
            "--source folder needs --input DIR, a folder with one folder of images per class"
            + (f"; there is no folder {path}" if path else "")
        )
    split_folders = _split_folders(path)
    if "train" not in split_folders:
        raise UserError(f"{path} has {', '.join(split_folders)}/ but no train/; put the training images there")
    classes = _classes(split_folders["train"])
    images = {split: _labelled(directory, classes, path) for split, directory in split_folders.items()}
    if val_fraction is None:
        val_fraction = DEFAULT_VAL_FRACTION if len(images) == 1 else 0
    if val_fraction:
        if "val" in images:
            raise UserError(f"{path} has its own val/; leave out --val_fraction")
        images["train"], images["val"] = _held_out(images["train"], split_folders["train"], val_fraction)
        if not images["val"]:
            raise UserError(f"the split val of {path} has no images; add images or change --val_fraction")
    return Source(classes, {split: archives.split(listing) for split, listing in images.items()}, {})


def check_output(path: Path, output: Path) -> None:
    """Raise UserError if images packed to `output` would be taken for a class of `path`, or for images of one."""
    for root in _split_folders(path).values():
        if any(output.resolve().is_relative_to(place.resolve()) for place in (root, *folders_in(root))):
            raise UserError(
                f"{output} lies in {root}, whose folders are classes: what is packed there would be taken for one of "
                "them, or for its images, the next time; give a folder elsewhere as --output"
            )


def _split_folders(path: Path) -> dict[str, Path]:
    return {name: path / name for name in SPLIT_FOLDERS if (path / name).is_dir()} or {"train": path}


def _classes(directory: Path) -> list[str]:
    classes = [folder.name for folder in folders_in(directory)]
    if len(classes) < 2:
        raise UserError(
            f"{directory} has {len(classes)} class folder(s), but at least 2 are needed: put the images of each class "
            "into a folder named after it"
        )
    return classes


def _labelled(directory: Path, classes: list[str], root: Path) -> Labelled:
    """The images of a split, with names relative to `root`."""
    extra = set(_classes(directory)) - set(classes)
    if extra:
        raise UserError(f"{directory} has classes that the training images lack: {', '.join(sorted(extra)[:5])}")
    images: Labelled = []
    for label, name in enumerate(classes):
        files = files_below(directory / name) if (directory / name).is_dir() else []
        if not files:
            raise UserError(f"the class folder {directory / name} is empty; put images in it or remove it")
        images += [(file.relative_to(root).as_posix(), Place(file), label) for file in files]
    return images


def _held_out(images: Labelled, directory: Path, fraction: float) -> tuple[Labelled, Labelled]:
    """Divide images into those for training and those for validation; every class keeps one for training."""
    splits: tuple[Labelled, Labelled] = ([], [])
    for _, group in itertools.groupby(images, lambda image: image[2]):
        in_class = list(group)
        # A hash depends only on the path, so new images move no others between splits.
        digests = [hashlib.sha256(os.fsencode(place.path.relative_to(directory))).digest() for _, place, _ in in_class]
        is_val = [int.from_bytes(digest[:8], "big") / 2**64 < fraction for digest in digests]
        is_val[0] &= not all(is_val)
        for image, held_out in zip(in_class, is_val, strict=True):
            splits[held_out].append(image)
    return splits
