"""What a source of images is: it lists its images without reading them, and `Split.read(i)` reads one."""

import glob
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.data.manifest import Published
from alexnet_jax.errors import UserError

DEFAULT_VAL_FRACTION = 0.1
SPLITS = {  # by the words that stand for them
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


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
    random_access: bool = True  # whether an image can be read without what lies before it


def digest(source: Source, described: dict[str, Any]) -> str:
    """The SHA-256 of the names and labels of a source's images, and of `described`."""
    splits = {name: len(split.names) for name, split in source.splits.items()}
    content = described | {"classes": source.classes, "splits": splits}
    hashed = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for split in source.splits.values():
        for name in split.names:
            hashed.update(name.encode("utf-8", "surrogateescape") + b"\0")
        hashed.update(b"" if split.labels is None else split.labels.tobytes())
    return hashed.hexdigest()


def printable(name: str) -> str:
    """A name with its bytes that are not UTF-8 escaped, so that it can be printed and stored anywhere."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def array_split(split: str, pixels: np.ndarray, labels: np.ndarray) -> Split:
    """A split held in memory: pixels [N, H, W, 3] uint8, labels [N]."""
    labels = labels.astype(np.int32)
    return Split([f"{split}/{i}" for i in range(len(pixels))], labels, lambda i: Image(pixels[i], int(labels[i])))


def hold_out(splits: dict[str, Split], fraction: float | None, path: Path) -> dict[str, Split]:
    """Make the share `fraction` of the training images, chosen by a hash of their names, the split `val`.

    Every class keeps an image for training. None stands for DEFAULT_VAL_FRACTION if `train` is the only split, else for
    0. `path` is for messages. Raises UserError if there is a split `val` already, or it would be empty.
    """
    if fraction is None:
        fraction = DEFAULT_VAL_FRACTION if len(splits) == 1 else 0
    if not fraction:
        return splits
    if "val" in splits:
        raise UserError(f"{path} has its own val; leave out --val_fraction")
    names, labels, _ = splits["train"]
    assert labels is not None
    # A hash depends only on the name, so new images move no others between splits.
    digests = (hashlib.sha256(os.fsencode(name)).digest() for name in names)
    is_val = np.array([int.from_bytes(digest[:8], "big") / 2**64 < fraction for digest in digests])
    for label in set(labels[is_val].tolist()) - set(labels[~is_val].tolist()):
        is_val[np.argmax(labels == label)] = False
    if not is_val.any():
        raise UserError(f"the split val of {path} has no images; add images or change --val_fraction")
    parts = {"train": np.flatnonzero(~is_val), "val": np.flatnonzero(is_val)}
    return splits | {name: subset(splits["train"], index) for name, index in parts.items()}


def subset(split: Split, index: np.ndarray) -> Split:
    """The images `index` [n] of a split."""
    places, labels = index.tolist(), None if split.labels is None else split.labels[index]
    return Split([split.names[i] for i in places], labels, lambda i: split.read(places[i]))


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


def shards_at(path: Path, ending: str) -> dict[str, list[Path]]:
    """Split -> shards, sorted: the files with this ending below a folder, or those of a pattern such as a-{00..99}.tar.

    A word in the name of a file or its folder says which split it belongs to: see SPLITS; without one it is `train`.
    Raises UserError if there are none, some of a numbered series are missing, or there is no `train`.
    """
    if path.is_dir():
        files = [file for file in files_below(path) if file.name.endswith(ending)]
    else:
        names = (name for each in _expanded(str(path)) for name in sorted(glob.glob(each)) or [each])  # noqa: PTH207
        files = list(map(Path, dict.fromkeys(names)))
        missing = [file for file in files if not file.exists()]
        if missing:
            raise UserError(f"there is no {missing[0]}; give a folder, file or pattern of {ending} files as --input")
    splits: dict[str, list[Path]] = {}
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        words = re.findall("[a-z]+", name.lower())
        splits.setdefault(next((SPLITS[word] for word in reversed(words) if word in SPLITS), "train"), []).append(file)
    if "train" not in splits:
        raise UserError(f"{path} holds no {ending} file for training; put them there, with `train` in their names")
    for shards in splits.values():
        present = {file.name for file in shards}
        if len(present) < len(shards):
            raise UserError(f"{path} holds several sets, in folders of their own; give one of these as --input")
        numbered = [found.groups() for name in present if (found := re.match(r"(.*-)(\d+)(-of-)(\d+)", name))]
        for start, number, of, total in numbered[:1]:
            series = {f"{start}{i:0{len(number)}}{of}{total}" for i in range(int(total))}
            lacking = min(series - {"".join(each) for each in numbered}, default="")
            if lacking:
                raise UserError(f"{path} lacks {lacking}{ending}; download it again")
    return splits


def _expanded(pattern: str) -> list[str]:
    """The patterns that braces stand for: a range such as {000..123}, or a choice such as {train,val}."""
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if not found:
        return [pattern]
    first, last, choice = found.groups()
    middles = choice.split(",") if choice else [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
    return [each for n in middles for each in _expanded(pattern[: found.start()] + n + pattern[found.end() :])]
