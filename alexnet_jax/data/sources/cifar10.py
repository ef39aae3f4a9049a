"""CIFAR-10 as its authors distribute it: the binary or the Python version, as an archive or unpacked.

The Python version consists of pickles. They are read as a sequence of instructions that is never executed.
"""

import pickletools
from collections import defaultdict
from itertools import chain
from pathlib import Path, PurePosixPath

import numpy as np

from alexnet_jax.data.manifest import Published
from alexnet_jax.data.sources import archives
from alexnet_jax.data.sources.source import Source, array_split
from alexnet_jax.errors import UserError, reading

ARCHIVES = ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")
FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")
BATCHES = {"train": [f"data_batch_{n}" for n in range(1, 6)], "test": ["test_batch"]}
FILES = {  # by the file name extension of a version's batches; the first names the classes
    extension: [meta, *(f"{batch}{extension}" for batch in chain(*BATCHES.values()))]
    for extension, meta in ((".bin", "batches.meta.txt"), ("", "batches.meta"))
}
KEYS = ("data", "labels", "filenames", "batch_label", "label_names", "num_cases_per_batch", "num_vis")
CLASSES = 10
PLANES = 3 * 32 * 32  # bytes of an image, colour by colour
WANTED = (
    f"{' or '.join(ARCHIVES)}, or the folder that holds it or its files (https://www.cs.toronto.edu/~kriz/cifar.html)"
)
Batch = tuple[list[str], np.ndarray, np.ndarray]  # names, planes [N, 3072] uint8, labels [N]


def cifar10(path: Path | None = None) -> Source:
    """CIFAR-10 in the archive or folder `path`, or in one that lies there. UserError if it is missing or damaged."""
    if path is None:
        raise UserError(f"--source cifar10 needs --input PATH: {WANTED}")
    place, files = _find(path)
    extension = ".bin" if any(name in files for name in FILES[".bin"]) else ""
    missing = [name for name in FILES[extension] if name not in files]
    if missing:
        raise UserError(f"{place} lacks {', '.join(missing)}; --input must name {WANTED}")
    splits = {}
    try:
        name = FILES[extension][0]
        classes = files[name].decode().split() if extension else _pickled(files[name])[1]["label_names"]
        if len(classes) != CLASSES:
            raise ValueError(f"it names {len(classes)} classes, not {CLASSES}")
        for split, batches in BATCHES.items():
            read = [_batch(files[name := f"{batch}{extension}"], name) for batch in batches]
            names, planes, labels = zip(*read, strict=True)
            pixels = np.concatenate(planes).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            in_memory = array_split(split, np.ascontiguousarray(pixels), np.concatenate(labels))
            splits[split] = in_memory._replace(names=list(chain(*names)))
    except ValueError as error:
        raise UserError(f"{name} of {place} is damaged: {error}; --input must name {WANTED}") from None
    published = {"train": Published(50_000, [5000] * CLASSES), "test": Published(10_000, [1000] * CLASSES)}
    return Source(classes, splits, published)


def _find(path: Path) -> tuple[Path, dict[str, bytes]]:
    wanted = list(chain(*FILES.values()))
    for place in (path, *(path / name for name in (*FOLDERS, *ARCHIVES))):
        if place.exists():
            with reading(f"{place} is damaged", f"; --input must name {WANTED}", UserError):
                files = archives.read_files(place, wanted)
            if files or place.is_file():
                return place, files
    raise UserError(f"there is no CIFAR-10 at {path}; --input must name {WANTED}")


def _batch(content: bytes, name: str) -> Batch:
    names, planes, labels = (_binary if name.endswith(".bin") else _python)(content)
    if not len(labels):
        raise ValueError("it is empty")
    if labels.min() < 0 or labels.max() >= CLASSES:
        raise ValueError(f"it has labels from {labels.min()} to {labels.max()}, not 0 to {CLASSES - 1}")
    if len(names) != len(labels):
        names = [f"{PurePosixPath(name).stem}/{i}" for i in range(len(labels))]
    return names, planes, labels


def _binary(content: bytes) -> Batch:
    if len(content) % (1 + PLANES):
        raise ValueError(f"its length of {len(content):,} bytes is not a multiple of {1 + PLANES}")
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + PLANES)
    return [], records[:, 1:], records[:, 0]


def _python(content: bytes) -> Batch:
    numbers, texts = _pickled(content)
    labels = numbers["labels"]
    planes = max(texts["data"], key=len, default="").encode("latin-1")  # the longest by far
    if (len(labels), PLANES) not in zip(numbers["data"], numbers["data"][1:], strict=False):
        raise ValueError(f"it has {len(labels)} labels, but no array of {len(labels)} x {PLANES}")
    if len(planes) != len(labels) * PLANES:
        raise ValueError(f"it has {len(labels)} labels, but {len(planes):,} bytes of pixels")
    return texts["filenames"], np.frombuffer(planes, np.uint8).reshape(-1, PLANES), np.array(labels)


def _pickled(content: bytes) -> tuple[dict[str, list[int]], dict[str, list[str]]]:
    """The numbers and the texts that follow each key of a pickled dict, however nested; bytes become latin-1 texts."""
    numbers: dict[str, list[int]] = defaultdict(list)
    texts: dict[str, list[str]] = defaultdict(list)
    key = ""
    for instruction, argument, _ in pickletools.genops(content):
        pushed = [kind.name for kind in instruction.stack_after]
        if pushed == ["int"] and isinstance(argument, int):
            numbers[key].append(argument)
        elif pushed in (["bytes_or_str"], ["str"], ["bytes"], ["bytearray"]) and argument is not None:
            text = argument if isinstance(argument, str) else argument.decode("latin-1")
            if text in KEYS:
                key = text
            else:
                texts[key].append(text)
    return numbers, texts
