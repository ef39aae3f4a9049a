"""ImageNet 2012 as Kaggle has it, the imagenet-object-localization-challenge: mounted, or one zip or .tar.gz."""

import re
from collections import Counter, defaultdict
from pathlib import Path

from alexnet_jax.data.sources import archives, labels
from alexnet_jax.data.sources.archives import Listing, Place, Readable
from alexnet_jax.data.sources.imagenet import EDITIONS, class_order, of_edition
from alexnet_jax.data.sources.source import Source, files_below
from alexnet_jax.errors import UserError, reading

ARCHIVES = (
    "imagenet-object-localization-challenge.zip",
    "imagenet_object_localization_patched2019.tar.gz",
    "imagenet_object_localization.tar.gz",
)
IMAGES, TRAINING_LIST = "ILSVRC/Data/CLS-LOC", "ILSVRC/ImageSets/CLS-LOC/train_cls.txt"
CLASSES, TRUTH = "LOC_synset_mapping.txt", "LOC_val_solution.csv"


def kaggle(path: Path | None = None) -> Source:
    """The competition's files in the folder or archive `path`; CLASSES and TRUTH may also lie beside an archive.

    The source is the same, image by image, as `imagenet2012`. Images without labels (`test`) are left out. Raises
    UserError if something is missing or damaged, or does not belong together.
    """
    if path is None or not path.exists():
        raise UserError(
            f"--source kaggle needs --input PATH, the folder with ILSVRC/, {CLASSES} and {TRUTH}, or {ARCHIVES[0]}"
            + (f"; there is no {path}" if path else "")
        )
    root = path if path.is_dir() else path.parent
    archived = [root / name for name in ARCHIVES if (root / name).exists() and not (root / "ILSVRC").exists()]
    archive = path if path.is_file() else next(iter(archived), None)
    files = _files(archive) if archive else _mounted(path)
    for name in (CLASSES, TRUTH):
        if (root / name).is_file():
            files[name] = Place(root / name)
        if name not in files:
            raise UserError(f"{path} has no {name}, nor is it beside it; download it from the competition's page")
    train: dict[str, Listing] = defaultdict(list)
    val: Listing = []
    for file, place in files.items():
        match file.removeprefix(f"{IMAGES}/").split("/"):
            case ["train", wnid, name]:
                train[wnid].append((f"{wnid}/{name}", place))
            case ["val", name]:
                val.append((name, place))
    listed = [line.split(" ", 1)[0] for line in _lines(files, CLASSES)]
    classes = class_order(path, set(train), EDITIONS["imagenet2012"], set(listed), CLASSES)
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    images = {
        "train": [(name, place, label) for label, wnid in enumerate(classes) for name, place in sorted(train[wnid])],
        "val": labels.labelled(sorted(val), _lines(files, TRUTH), label_of, TRUTH),  # by the first of their boxes
    }
    sizes = Counter(line.partition("/")[0] for line in _lines(files, TRAINING_LIST)) if TRAINING_LIST in files else None
    opened = of_edition(EDITIONS["imagenet2012"], classes, images, sizes)
    return opened._replace(random_access=archive is None or archive.suffix == ".zip")


def _mounted(root: Path) -> dict[str, Readable]:
    if missing := [split for split in ("train", "val") if not (root / IMAGES / split).is_dir()]:
        raise UserError(
            f"{root} has no {IMAGES}/{missing[0]} and none of {', '.join(ARCHIVES)}; give the folder that holds ILSVRC/"
        )
    paths = [file for split in ("train", "val") for file in files_below(root / IMAGES / split)]
    paths += filter(Path.is_file, [root / TRAINING_LIST])
    return {file.relative_to(root).as_posix(): Place(file) for file in paths}


def _files(archive: Path) -> dict[str, Readable]:
    """The files by their names from ILSVRC/ on, or without folders: archives differ in what is around them."""
    named = archives.files_in(archive).items()
    return {found[1]: place for name, place in named if (found := re.search(r"(?:^|/)(ILSVRC/.*|LOC_[^/]*)$", name))}


def _lines(files: dict[str, Readable], name: str) -> list[str]:
    with reading(f"{name} cannot be read", archives.CURE, UserError):
        return files[name].read().decode().splitlines()
