"""CIFAR-10 as its authors distribute it: the binary or the Python version, as an archive or unpacked.

The Python version consists of pickles. They are read as a sequence of instructions that is never executed.
"""

import gzip
import pickletools
import zlib
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.manifest import Published
from alexnet_jax.data.sources import tars
from alexnet_jax.data.sources.source import Image, Source, Split
from alexnet_jax.errors import UserError

ARCHIVES = ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")
FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")
BATCHES = {"train": [f"data_batch_{n}" for n in range(1, 6)], "test": ["test_batch"]}
METAS = {".bin": "batches.meta.txt", "": "batches.meta"}  # by the file name extension of a version's batches
NAMES = {
    extension: [meta, *(f"{batch}{extension}" for split in BATCHES.values() for batch in split)]
    for extension, meta in METAS.items()
}
FILES = {*NAMES[".bin"], *NAMES[""]}
KEYS = ("data", "labels", "filenames", "batch_label", "label_names", "num_cases_per_batch", "num_vis")
MAX_BYTES = 2**28  # of a decompressed archive; the real ones have 185 MB
CLASSES = 10
PLANES = 3 * 32 * 32  # bytes of an image, colour by colour
WANTED = (
    f"{' or '.join(ARCHIVES)}, or the folder that holds it or its files (https://www.cs.toronto.edu/~kriz/cifar.html)"
)


class Batch(NamedTuple):
    """The images of a file."""

    names: list[str]
    planes: np.ndarray  # [N, 3072] uint8
    labels: np.ndarray  # [N]


def cifar10(path: Path | None = None) -> Source:
    """50,000 training and 10,000 test images of 32x32 in ten classes.

    `path` is one of the two archives, the unpacked folder, or a folder that holds one of these. Raises UserError if
    files are missing or damaged.
    """
    if path is None:
        raise UserError(f"--source cifar10 needs --input PATH: {WANTED}")
    place, files = _find(path)
    extension = ".bin" if any(name in files for name in NAMES[".bin"]) else ""
    missing = [name for name in NAMES[extension] if name not in files]
    if missing:
        raise UserError(f"{place} lacks {', '.join(missing)}; --input must name {WANTED}")
    splits = {}
    try:
        name = METAS[extension]
        classes = _classes(files[name], extension)
        for split, batches in BATCHES.items():
            contents = []
            for name in (f"{batch}{extension}" for batch in batches):
                contents.append(_batch(files[name], name))
            splits[split] = _split(contents)
    except ValueError as error:
        raise UserError(f"{name} of {place} is damaged: {error}; --input must name {WANTED}") from None
    published = {"train": Published(50_000, [5000] * CLASSES), "test": Published(10_000, [1000] * CLASSES)}
    return Source(classes, splits, published)


def _find(path: Path) -> tuple[Path, dict[str, bytes]]:
    """The place of the files, and their contents."""
    for folder in (path, *(path / name for name in FOLDERS)):
        files = {name: (folder / name).read_bytes() for name in sorted(FILES) if (folder / name).is_file()}
        if files:
            return folder, files
    for archive in (path, *(path / name for name in ARCHIVES)):
        if archive.is_file():
            return archive, _unpack(archive)
    raise UserError(f"there is no CIFAR-10 at {path}; --input must name {WANTED}")


def _unpack(archive: Path) -> dict[str, bytes]:
    """The files of CIFAR-10 in an archive; nothing is written to the disk."""
    try:
        with gzip.open(archive) as stream:
            files = tars.read_files(stream, FILES, MAX_BYTES)
            stream.seek(MAX_BYTES)  # or the end
            if stream.read(1):  # at the end, gzip compares its checksum
                raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{archive} is damaged: {error}; --input must name {WANTED}") from None
    return {PurePosixPath(name).name: content for name, content in files.items()}


def _batch(content: bytes, name: str) -> Batch:
    batch = (_binary if name.endswith(".bin") else _python)(content, name)
    if not len(batch.labels):
        raise ValueError("it is empty")
    if batch.labels.min() < 0 or batch.labels.max() >= CLASSES:
        raise ValueError(f"it has labels from {batch.labels.min()} to {batch.labels.max()}, not 0 to {CLASSES - 1}")
    return batch


def _binary(content: bytes, name: str) -> Batch:
    if len(content) % (1 + PLANES):
        raise ValueError(f"its length of {len(content):,} bytes is not a multiple of {1 + PLANES}")
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + PLANES)
    names = [f"{PurePosixPath(name).stem}/{i}" for i in range(len(records))]
    return Batch(names, records[:, 1:], records[:, 0])


def _python(content: bytes, name: str) -> Batch:
    numbers, texts = _pickled(content)
    labels, names = numbers["labels"], texts["filenames"]
    planes = max(texts["data"], key=len, default="").encode("latin-1")  # the longest by far
    if (len(labels), PLANES) not in zip(numbers["data"], numbers["data"][1:], strict=False):
        raise ValueError(f"it has {len(labels)} labels, but no array of {len(labels)} x {PLANES}")
    if len(planes) != len(labels) * PLANES:
        raise ValueError(f"it has {len(labels)} labels, but {len(planes):,} bytes of pixels")
    if len(names) != len(labels):
        names = [f"{name}/{i}" for i in range(len(labels))]
    return Batch(names, np.frombuffer(planes, np.uint8).reshape(-1, PLANES), np.array(labels))


def _classes(content: bytes, extension: str) -> list[str]:
    names = content.decode().split() if extension else _pickled(content)[1]["label_names"]
    if len(names) != CLASSES:
        raise ValueError(f"it names {len(names)} classes, not {CLASSES}")
    return names


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


def _split(batches: list[Batch]) -> Split:
    planes = np.concatenate([batch.planes for batch in batches]).reshape(-1, 3, 32, 32)
    pixels = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    labels = np.concatenate([batch.labels for batch in batches]).astype(np.int32)
    names = [name for batch in batches for name in batch.names]
    return Split(names, labels, lambda i: Image(pixels[i], int(labels[i])))
