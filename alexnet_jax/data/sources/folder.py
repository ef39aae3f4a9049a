"""Folders of images: one folder per class, or one of validation images with a file of labels."""

from pathlib import Path

from alexnet_jax.data.sources import archives, labels
from alexnet_jax.data.sources.archives import Labelled, Listing, Place
from alexnet_jax.data.sources.source import Source, files_below, folders_in, hold_out
from alexnet_jax.errors import UserError

SPLIT_FOLDERS = ("train", "val", "valid", "validation", "test")

LABEL_FILES = ("{}*.txt", "{}*.csv", "{}*.tsv", "LOC_{}_solution.csv")  # of the split that {} stands for


def folder(path: Path | None = None, val_fraction: float | None = None) -> Source:
    """Images at any depth below one folder per class; classes are numbered in the order of their sorted names.

    Those of SPLIT_FOLDERS that are in `path` are splits; `val_fraction` is as in `hold_out`. A split other than `train`
    may have no folders of classes: then a file in it or beside it gives its labels (see `labels.labelled`), and without
    one it is left out. Raises UserError if there are too few classes or images, or a split has other classes than
    `train`.
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
    images = {name: _labelled(folder, classes) for name, folder in split_folders.items()}
    splits = {name: archives.split(listing) for name, listing in images.items() if listing}
    return Source(classes, hold_out(splits, val_fraction, path), {})


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


def _labelled(directory: Path, classes: list[str]) -> Labelled:
    """The images of a split, with names relative to its folder; none if it has no labels."""
    if directory.name in SPLIT_FOLDERS[1:] and {folder.name for folder in folders_in(directory)} <= {"images"}:
        return _flat(directory, classes)
    extra = set(_classes(directory)) - set(classes)
    if extra:
        raise UserError(f"{directory} has classes that the training images lack: {', '.join(sorted(extra)[:5])}")
    images: Labelled = []
    for label, name in enumerate(classes):
        files = files_below(directory / name) if (directory / name).is_dir() else []
        if not files:
            raise UserError(f"the class folder {directory / name} is empty; put images in it or remove it")
        images += [(file.relative_to(directory).as_posix(), Place(file), label) for file in files]
    return images


def _flat(directory: Path, classes: list[str]) -> Labelled:
    """The images of a split without folders of classes, with the labels of a file; none if there is no such file."""
    beside = [file for pattern in LABEL_FILES for file in directory.parent.glob(pattern.format(directory.name))]
    inside = [file for file in files_below(directory) if file.suffix in (".txt", ".csv", ".tsv")]
    images: Listing = sorted((file.name, Place(file)) for file in files_below(directory) if file not in inside)
    for file in [*inside, *beside][:1]:
        label_of = {name: label for label, name in enumerate(classes)}
        return labels.labelled(images, file.read_text(errors="replace").splitlines(), label_of, str(file))
    if directory.name != "test":  # whose labels are often kept secret
        raise UserError(
            f"{directory} has no folders of classes and no file of labels, {directory.name}.txt or .csv; add one"
        )
    return []
