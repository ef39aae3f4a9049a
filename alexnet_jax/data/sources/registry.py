"""The sources by name. A source is one function and one line here."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path

from alexnet_jax.data.sources.cifar10 import ARCHIVES, cifar10
from alexnet_jax.data.sources.embedded import digits, synthetic
from alexnet_jax.data.sources.folder import folder
from alexnet_jax.data.sources.imagenet import EDITIONS, challenge, full
from alexnet_jax.data.sources.kaggle import ARCHIVES as KAGGLE
from alexnet_jax.data.sources.kaggle import IMAGES, kaggle
from alexnet_jax.data.sources.labels import renamed
from alexnet_jax.data.sources.parquet import parquet
from alexnet_jax.data.sources.source import Source
from alexnet_jax.data.sources.tfds import recognized_set, tfds
from alexnet_jax.data.sources.webdataset import webdataset
from alexnet_jax.errors import UserError

# A source's function has those of these parameters that apply to it: path, name, val_fraction, seed, size, num_classes.
SOURCES: dict[str, Callable[..., Source]] = {
    "imagenet2010": partial(challenge, "imagenet2010"),
    "imagenet2012": partial(challenge, "imagenet2012"),
    "imagenet_full": full,
    "kaggle": kaggle,
    "parquet": parquet,
    "webdataset": webdataset,
    "folder": folder,
    "tfds": tfds,
    "cifar10": cifar10,
    "digits": digits,
    "synthetic": synthetic,
}
EMBEDDED = ("digits", "synthetic")  # need no files, and are small enough to train on without `prepare`
FLAGS = {"path": "--input", "val_fraction": "--val_fraction", "seed": "--seed"}
RECOGNIZED_BY = {  # a file that is a source, or shows which one a folder is; the first that is there counts
    **{file: name for name, each in EDITIONS.items() for file in (each.archives["train"], each.devkit[0])},
    **dict.fromkeys(ARCHIVES, "cifar10"),
    **dict.fromkeys((IMAGES, *KAGGLE), "kaggle"),
    "n[0-9]*.tar": "imagenet_full",
    **dict.fromkeys(("*.parquet", "*/*.parquet", "hf:/datasets/*/*"), "parquet"),
    "*.tar": "webdataset",
}


def recognized(path: Path) -> str:
    """The source whose files are at `path`, by their names; "folder" if they show none.

    Raises UserError if they are a part of what a source reads, or several sets.
    """
    whole = path.resolve()
    for parent in whole.parents[:3]:
        if (parent / IMAGES).is_dir() and (parent / IMAGES).is_relative_to(whole):
            raise UserError(f"{path} is a part of Kaggle's ImageNet; give the folder that it is in: --input {parent}")
    if found := recognized_set(path):
        return found
    fits = (lambda pattern: any(path.glob(pattern))) if path.is_dir() else path.match
    return next((kind for pattern, kind in RECOGNIZED_BY.items() if fits(pattern)), "folder")


def split_name(source: str) -> tuple[str, str]:
    """Split `kind` or `kind:name` in two. Raises UserError if there is no such source."""
    kind, _, name = source.partition(":")
    if kind not in SOURCES or bool(name) != (kind == "tfds"):
        listed = ", ".join(f"{each}:NAME" if each == "tfds" else each for each in sorted(SOURCES))
        raise UserError(f"there is no source {source!r}; give one of {listed}")
    return kind, name


def open_source(
    source: str,
    path: Path | None = None,
    val_fraction: float | None = None,
    seed: int | None = None,
    size: int | None = None,
    num_classes: int | None = None,
    class_names: Path | None = None,
) -> Source:
    """Open a source, a name in SOURCES or "tfds:NAME". None stands for an option's default.

    It reads the folder or file `path`; the file `class_names` renames the classes, as in `labels.renamed`. The share
    `val_fraction` of the training images, in [0, 1), becomes the split `val`; `seed` is that of a random split. Images
    will be stored at `size` x `size` pixels. A source that makes its images up has `num_classes`. Raises UserError if
    it cannot be read or an option with a flag does not apply to it.
    """
    if val_fraction is not None and not 0 <= val_fraction < 1:
        raise UserError(f"--val_fraction {val_fraction} is a share of the images: it must be in [0, 1)")
    kind, name = split_name(source)
    options = dict(path=path, name=name, val_fraction=val_fraction, seed=seed, size=size, num_classes=num_classes)
    given = {option: value for option, value in options.items() if value is not None}
    parameters = {each: inspect.signature(function).parameters for each, function in SOURCES.items()}
    for option, flag in FLAGS.items():
        if option in given and option not in parameters[kind]:
            takers = ", ".join(each for each in SOURCES if option in parameters[each])
            raise UserError(f"{flag} is for --source {takers}; leave it out for --source {kind}")
    opened = SOURCES[kind](**{option: value for option, value in given.items() if option in parameters[kind]})
    return opened._replace(classes=renamed(opened.classes, class_names)) if class_names else opened
