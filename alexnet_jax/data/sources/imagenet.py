"""ImageNet as its publishers distribute it: the challenges of 2010 and 2012, and whole releases.

Classes are numbered in the order of their sorted WordNet ids. The development kits number them differently, from 1;
those numbers are translated here and used nowhere else.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.data.manifest import Published
from alexnet_jax.data.sources import archives, devkit
from alexnet_jax.data.sources.archives import Labelled
from alexnet_jax.data.sources.devkit import Devkit
from alexnet_jax.data.sources.source import Source, folders_in
from alexnet_jax.errors import UserError


class Edition(NamedTuple):
    year: int
    archives: dict[str, str]  # split -> archive; unpacked, it is a folder named after the split
    devkit: tuple[str, str]  # the archive, and the folder unpacked from it
    images: dict[str, int]  # split -> how many were published
    classes: int = 1000


EDITIONS = {
    "imagenet2012": Edition(
        2012,
        {split: f"ILSVRC2012_img_{split}.tar" for split in ("train", "val")},
        ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12"),
        {"train": 1_281_167, "val": 50_000},
    ),
    "imagenet2010": Edition(
        2010,
        {split: f"ILSVRC2010_images_{split}.tar" for split in ("train", "val", "test")},
        ("ILSVRC2010_devkit-1.0.tar.gz", "devkit-1.0"),
        {"train": 1_261_406, "val": 50_000, "test": 150_000},
    ),
}
TEST_LABELS_2010 = "ILSVRC2010_test_ground_truth.txt"
PATCHES_2010 = ("patch_images.tar", "patch_images")  # replacements for images that are blank in the archives


def challenge(name: str, path: Path | None = None) -> Source:
    """The challenge `name` of EDITIONS, from a folder that holds its archives or what was unpacked from them.

    `train` in the folder may be the archive of archives, a folder of archives or a folder of folders, one per class.
    `val` and `test` may be an archive, a folder of images or a folder of class folders. The labels of images that are
    not in class folders come from the development kit, which also says how many images each class should have. Raises
    UserError if something is missing, damaged, or does not belong together.
    """
    edition = EDITIONS[name]
    if path is None or not path.is_dir():
        raise UserError(
            f"--source {name} needs --input DIR, a folder with {', '.join(edition.archives.values())}, "
            f"{edition.devkit[0]}, or with what was unpacked from them in train/ and val/"
            + (f"; there is no folder {path}" if path else "")
        )
    paths = {split: place for split, archive in edition.archives.items() if (place := _find(path, (archive, split)))}
    for split in ("train", "val"):
        if split not in paths:
            raise UserError(f"{path} has neither {edition.archives[split]} nor {split}/; put one of them there")
    kit_path = _find(path, edition.devkit)
    kit = devkit.read(kit_path, edition.year) if kit_path else None
    train = archives.by_class(paths["train"])
    listed = set(kit.train_images) if kit else None
    classes = class_order(paths["train"], set(train), edition, listed, "the development kit")
    images = {"train": [(name, place, label) for label, wnid in enumerate(classes) for name, place in train[wnid]]}
    for split, place in list(paths.items())[1:]:
        images[split] = _labelled(place, split, edition, kit, classes)
    patches = _find(path, PATCHES_2010) if edition.year == 2010 else None
    if patches:
        corrected = dict(archives.in_a_row(archives.Place(patches)))
        for listing in images.values():
            listing[:] = [(name, corrected.get(name.split("/")[-1], place), label) for name, place, label in listing]
    return of_edition(edition, classes, images, kit.train_images if kit else None)


def of_edition(
    edition: Edition, classes: list[str], images: dict[str, Labelled], sizes: dict[str, int] | None
) -> Source:
    """The images of an edition and what was published of them; `sizes` are those of the classes in `train`."""
    published = {
        split: Published(count, [count // edition.classes] * len(classes))
        for split, count in edition.images.items()
        if split in images
    }
    by_class = [sizes[wnid] for wnid in classes] if sizes else None
    published["train"] = Published(edition.images["train"], by_class)
    return Source(classes, {split: archives.split(listing) for split, listing in images.items()}, published)


def full(path: Path | None = None, seed: int = 0) -> Source:
    """A whole release, used as in paper section 6: half of each class's images for training, half for validation.

    `path` is a folder with an archive or a folder per class (10,184 of them in the Fall 2009 release), or one archive
    of all archives. `seed` and an image's name decide which half it is in. Raises UserError if there is nothing at
    `path`, it is damaged, or every class has a single image.
    """
    if path is None or not path.exists():
        raise UserError("--source imagenet_full needs --input DIR, a folder with one tar of images per class (n*.tar)")
    classes = archives.by_class(path)
    halves: dict[str, Labelled] = {"train": [], "val": []}
    for label, listing in enumerate(classes.values()):
        shuffled = sorted(listing, key=lambda item: hashlib.sha256(f"{seed}/{item[0]}".encode()).digest())
        half = (len(listing) + 1) // 2
        for split, items in (("train", shuffled[:half]), ("val", shuffled[half:])):
            halves[split] += [(name, place, label) for name, place in sorted(items)]
    if not halves["val"]:
        raise UserError(f"every class of {path} has a single image; at least one needs two, to be halved")
    return Source(list(classes), {split: archives.split(listing) for split, listing in halves.items()}, {})


def _find(directory: Path, names: tuple[str, ...]) -> Path | None:
    return next((directory / name for name in names if (directory / name).exists()), None)


def class_order(path: Path, present: set[str], edition: Edition, listed: set[str] | None, where: str) -> list[str]:
    """The classes in the order of their labels. Raises UserError unless all are present that are `listed`, no others.

    `where` says what lists them.
    """
    if listed and present != listed:
        missing, extra = sorted(listed - present), sorted(present - listed)
        raise UserError(
            f"{path} has {len(present)} classes and {where} {len(listed)}"
            + (f"; it lacks {', '.join(missing[:5])}" if missing else "")
            + (f"; {where} does not list {', '.join(extra[:5])}" if extra else "")
            + ". Download what is missing, and remove what does not belong there"
        )
    if not listed and len(present) != edition.classes:
        raise UserError(
            f"{path} has {len(present)} classes and ILSVRC-{edition.year} has {edition.classes}. Put the development "
            f"kit {edition.devkit[0]} beside it to see which are missing; for a subset of the classes, use --source "
            "folder"
        )
    return sorted(present)


def _labelled(path: Path, split: str, edition: Edition, kit: Devkit | None, classes: list[str]) -> Labelled:
    """The images of `val` or `test`, in the order of their names, with labels."""
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    if path.is_dir() and folders_in(path):
        by_class = archives.by_class(path)
        unknown = sorted(set(by_class) - set(classes))
        if unknown:
            raise UserError(f"{path} has classes that the training images lack: {', '.join(unknown[:5])}")
        return sorted(
            (name.split("/")[1], place, label_of[wnid]) for wnid, listing in by_class.items() for name, place in listing
        )
    if kit is None:
        raise UserError(
            f"the labels of {path} are in the development kit, but {path.parent / edition.devkit[0]} is missing; "
            "download it from image-net.org and put it there"
        )
    numbers, labels_file = kit.validation, edition.devkit[0]
    if split == "test":
        truth = path.parent / TEST_LABELS_2010
        if not truth.is_file():
            raise UserError(f"the labels of {path} are in {truth.name}, which is not beside it; put it there")
        numbers, labels_file = devkit.numbers(truth.read_bytes(), truth), truth.name
    listing = archives.in_a_row(archives.Place(path))
    if len(listing) != len(numbers):
        raise UserError(
            f"{path} has {len(listing)} images and {labels_file} has {len(numbers)} labels: they are matched by their "
            "order, so none may be missing. Download them again"
        )
    try:
        labels = [label_of[kit.classes[number]] for number in numbers]
    except KeyError as error:
        raise UserError(
            f"{labels_file} names class {error}, which the development kit's meta.mat lacks; download both again"
        ) from None
    return [(name, place, label) for (name, place), label in zip(listing, labels, strict=True)]
