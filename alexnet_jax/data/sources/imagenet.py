"""ImageNet as its publishers give it out: the challenges of 2010 and 2012, and whole releases.

Classes are numbered in the order of their sorted WordNet ids. The development kits number them otherwise, from 1;
their numbers are mapped here and used nowhere else.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.sources import archives, devkit
from alexnet_jax.data.sources.devkit import Devkit
from alexnet_jax.data.sources.source import Image, Published, Source, Split
from alexnet_jax.errors import UserError


class Edition(NamedTuple):
    """A challenge. Each file may also be there unpacked, as the folder of the second name."""

    year: int
    splits: dict[str, tuple[str, str]]
    devkit: tuple[str, str]
    classes: int
    images: dict[str, int]


EDITIONS = {
    "imagenet2010": Edition(
        2010,
        {
            "train": ("ILSVRC2010_images_train.tar", "train"),
            "val": ("ILSVRC2010_images_val.tar", "val"),
            "test": ("ILSVRC2010_images_test.tar", "test"),
        },
        ("ILSVRC2010_devkit-1.0.tar.gz", "devkit-1.0"),
        1000,
        {"train": 1_261_406, "val": 50_000, "test": 150_000},
    ),
    "imagenet2012": Edition(
        2012,
        {"train": ("ILSVRC2012_img_train.tar", "train"), "val": ("ILSVRC2012_img_val.tar", "val")},
        ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12"),
        1000,
        {"train": 1_281_167, "val": 50_000},
    ),
}
TEST_LABELS_2010 = "ILSVRC2010_test_ground_truth.txt"
PATCHES_2010 = ("patch_images.tar", "patch_images")  # for pictures that are blank in the archives


def challenge(name: str, directory: Path | None) -> Source:
    """The challenge `name` of EDITIONS, from a folder that holds its archives or what was unpacked from them.

    `train` may be the archive of archives, a folder of archives or a folder of folders, one a class. `val` and
    `test` may be an archive, a folder of images or a folder of folders. Images in a row have their labels in the
    development kit, which also tells how many images each class should have.
    """
    edition = EDITIONS[name]
    if directory is None or not directory.is_dir():
        raise UserError(
            f"--source {name} needs --input DIR, a folder with {_listed(edition)}, or with what was unpacked from "
            "them in train/ and val/" + (f"; there is no folder {directory}" if directory else "")
        )
    found = {split: _find(directory, names) for split, names in edition.splits.items()}
    for split in ("train", "val"):
        if found[split] is None:
            raise UserError(f"{directory} has neither {edition.splits[split][0]} nor {split}/; put one of them there")
    kit_path = _find(directory, edition.devkit)
    kit = devkit.read(kit_path, edition.year) if kit_path else None
    train = archives.by_class(found["train"])  # type: ignore[arg-type] # checked above
    classes = sorted(kit.train_images) if kit else sorted(train)
    _check_classes(edition, found["train"], set(train), classes, kit is not None)
    listings = {"train": [(name, place, label) for label, of in enumerate(classes) for name, place in train[of]]}
    for split, path in found.items():
        if split != "train" and path is not None:
            listings[split] = _labelled(path, split, edition, kit, classes)
    if edition.year == 2010:
        _patch(directory, listings)
    published = {split: Published(count, None) for split, count in edition.images.items()}
    if kit:
        published["train"] = Published(edition.images["train"], [kit.train_images[of] for of in classes])
    for split in listings.keys() - {"train"}:
        count = edition.images[split]
        published[split] = Published(count, [count // edition.classes] * len(classes))
    return Source(classes, {split: _split(items) for split, items in listings.items()}, published)


def full(directory: Path | None, seed: int) -> Source:
    """A whole release, as paper section 6 has it: half of each class's images to train on, half to validate.

    `directory` holds an archive or a folder a class (10,184 of them in the Fall 2009 release), or is one archive of
    all archives. Which half an image is in depends on `seed` and on its name.
    """
    if directory is None or not directory.exists():
        raise UserError("--source imagenet_full needs --input DIR, a folder with a tar of images a class (n*.tar)")
    train, val = [], []
    found = archives.by_class(directory)
    for label, listing in enumerate(found.values()):
        shuffled = sorted(listing, key=lambda item: hashlib.sha256(f"{seed}/{item[0]}".encode()).digest())
        half = (len(listing) + 1) // 2
        train += [(name, place, label) for name, place in sorted(shuffled[:half])]
        val += [(name, place, label) for name, place in sorted(shuffled[half:])]
    if not val:
        raise UserError(f"every class of {directory} has but one image, too few to halve")
    return Source(list(found), {"train": _split(train), "val": _split(val)}, {})


def _listed(edition: Edition) -> str:
    return ", ".join(names[0] for names in (*edition.splits.values(), edition.devkit))


def _find(directory: Path, names: tuple[str, ...]) -> Path | None:
    return next((directory / name for name in names if (directory / name).exists()), None)


def _split(items: list[tuple[str, archives.Place, int]]) -> Split:
    labels = np.array([label for _, _, label in items], np.int32)
    return Split([name for name, _, _ in items], labels, lambda i: Image(items[i][1].read(), items[i][2]))


def _check_classes(edition: Edition, path: Path | None, found: set[str], classes: list[str], from_kit: bool) -> None:
    if from_kit and found != set(classes):
        missing, extra = sorted(set(classes) - found), sorted(found - set(classes))
        raise UserError(
            f"{path} has {len(found)} classes and the development kit {len(classes)}"
            + (f"; it lacks {', '.join(missing[:5])}" if missing else "")
            + (f"; the kit does not know {', '.join(extra[:5])}" if extra else "")
            + ". Download what is missing, remove what does not belong there"
        )
    if not from_kit and len(classes) != edition.classes:
        raise UserError(
            f"{path} has {len(classes)} classes and ILSVRC-{edition.year} {edition.classes}; with the development kit "
            f"{edition.devkit[0]} beside it, this message could name them. For a part of the classes, use --source "
            "folder"
        )


def _labelled(path: Path, split: str, edition: Edition, kit: Devkit | None, classes: list[str]) -> list:
    """The images of `val` or `test`, in the order of their names, with labels."""
    label_of = {name: label for label, name in enumerate(classes)}
    if archives.has_folders(path):
        found = archives.by_class(path)
        unknown = sorted(set(found) - set(classes))
        if unknown:
            raise UserError(f"{path} has classes that the training images lack: {', '.join(unknown[:5])}")
        items = [(name.split("/")[1], place, label_of[of]) for of in found for name, place in found[of]]
        return sorted(items)
    if kit is None:
        raise UserError(
            f"the labels of {path} are in the development kit, and {path.parent / edition.devkit[0]} is not there; "
            "download it from image-net.org and put it there"
        )
    numbers, where = kit.validation, edition.devkit[0]
    if split == "test":
        truth = path.parent / TEST_LABELS_2010
        if not truth.is_file():
            raise UserError(f"the labels of {path} are in {truth.name}, which is not beside it; put it there")
        numbers, where = devkit.numbers(truth.read_bytes(), truth), truth.name
    listing = archives.in_a_row(path)
    if len(listing) != len(numbers):
        raise UserError(
            f"{path} has {len(listing)} images and {where} labels for {len(numbers)}: they belong together by their "
            "order, so none may be missing. Download them again"
        )
    unknown_numbers = set(numbers) - set(kit.classes)
    if unknown_numbers:
        raise UserError(f"{where} names class {min(unknown_numbers)}, which the development kit's meta.mat lacks")
    labels = [label_of[kit.classes[number]] for number in numbers]
    return [(name, place, label) for (name, place), label in zip(listing, labels, strict=True)]


def _patch(directory: Path, listings: dict[str, list]) -> None:
    """Puts the corrected pictures of 2010 in the place of the blank ones."""
    path = _find(directory, PATCHES_2010)
    if path is None:
        return
    patches = dict(archives.in_a_row(path))
    for items in listings.values():
        items[:] = [(name, patches.get(name.split("/")[-1], place), label) for name, place, label in items]
