"""Parquet shards of images and labels, as the Hugging Face Hub keeps data sets."""

import bisect
import json
import os
import re
from collections.abc import Callable
from itertools import accumulate, chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.data import hub
from alexnet_jax.data.images import CorruptImage
from alexnet_jax.data.manifest import Published
from alexnet_jax.data.sources.archives import CURE
from alexnet_jax.data.sources.compressed import remembered
from alexnet_jax.data.sources.imagenet import EDITIONS
from alexnet_jax.data.sources.source import Image, Source, Split, hold_out, shards_at
from alexnet_jax.errors import UserError, reading

LABELS = ("label", "labels", "class", "cls", "target")  # names of a column without metadata
KEPT = 2 + (os.cpu_count() or 1)  # row groups in memory
# imagenet-1k calls images n01440764_10026_n01440764.JPEG and ILSVRC2012_val_00000293_n01440764.JPEG.
WORDNET_ID = re.compile(r"(?:^|_)(n\d{8})(?=[_.])")


class Columns(NamedTuple):
    image: str  # binary, or a struct of bytes and path
    content: str  # what to read for its bytes
    path: list[str]  # what to read for its path, if it has one
    label: str
    classes: tuple[str, ...]  # label -> name, if the shards say


class Shard(NamedTuple):
    path: Path
    metadata: Any  # pyarrow's, of the file
    names: list[str]  # of the images' files, if known, else of their rows
    labels: np.ndarray  # [N] int32; negative: none


def parquet(path: Path | None = None, val_fraction: float | None = None) -> Source:
    """Shards at `path`, as in `shards_at`, or in the repository hf://datasets/USER/NAME, which is downloaded.

    Each row has an image, a file as bytes or as the Hub's struct of bytes and path, and a whole number as label. The
    Hub's metadata name the classes; but where the names of the images' files give their WordNet ids, as in imagenet-1k,
    classes are numbered by these and images named as in the source `imagenet2012`. Images keep their order. A split
    without labels is left out; `val_fraction` is as in `hold_out`. Raises UserError if a shard is missing, damaged or
    unlike the first.
    """
    if path is None:
        raise UserError("--source parquet needs --input, a folder of Parquet files or hf://datasets/USER/NAME")
    if path.parts[:1] == ("hf:",):  # Path joins slashes
        path = hub.download(hub.PREFIX + "/".join(path.parts[1:]), ["*.parquet"])
    opened = {split: [_open(file) for file in files] for split, files in shards_at(path, ".parquet").items()}
    _, columns = next(iter(opened.values()))[0]
    for shard, others in chain(*opened.values()):
        if others != columns:
            raise UserError(f"{shard.path} has other columns or classes than the first shard; remove it")
    shards = {split: [shard for shard, _ in each] for split, each in opened.items()}
    labels = {split: np.concatenate([shard.labels for shard in each]) for split, each in shards.items()}
    names = {split: [name for shard in each for name in shard.names] for split, each in shards.items()}
    count = len(columns.classes) or 1 + max(int(each.max(initial=0)) for each in labels.values())
    for split, each in labels.items():
        if each.max(initial=-1) >= count:
            raise UserError(f"the split {split} of {path} has the label {each.max()}, but there are {count} classes")
    classes = list(columns.classes) or [str(i) for i in range(count)]
    if ids := _wordnet_ids(labels, names, count):
        classes, order = sorted(ids), np.argsort(np.argsort(ids)).astype(np.int32)
        labels = {split: np.where(each < 0, -1, order[each]) for split, each in labels.items()}
    splits = {
        split: Split(_named(names[split], labels[split], classes), labels[split], _reader(each, columns, labels[split]))
        for split, each in shards.items()
        if split == "train" or labels[split].max(initial=-1) >= 0
    }
    published = EDITIONS["imagenet2012"].images if len(ids) == EDITIONS["imagenet2012"].classes else {}
    splits = hold_out(splits, val_fraction, path)
    return Source(classes, splits, {split: Published(n, None) for split, n in published.items() if split in splits})


def _open(path: Path) -> tuple[Shard, Columns]:
    try:
        import pyarrow.parquet  # only this source needs it
    except ImportError as error:
        raise UserError(f'--source parquet needs PyArrow ({error}): pip install "alexnet_jax[parquet]"') from None
    with reading(f"{path} is not a complete Parquet file", CURE, UserError), pyarrow.parquet.ParquetFile(path) as file:
        columns = _columns(file.schema_arrow, path)
        table = file.read([columns.label, *columns.path])
        labels = table[columns.label].cast("int32").fill_null(-1).to_numpy()
        names = [f"{path.stem}/{i}" for i in range(len(labels))]
        if columns.path:
            paths = (row["path"] if row else None for row in table[columns.image].to_pylist())
            names = [PurePosixPath(given).name if given else row for given, row in zip(paths, names, strict=True)]
        return Shard(path, file.metadata, names, labels), columns


def _columns(schema: Any, path: Path) -> Columns:
    """What the columns of a shard are. Raises UserError unless one holds images and one their labels."""
    from pyarrow import types

    info = json.loads((schema.metadata or {}).get(b"huggingface", "{}"))
    features = {name: each for name, each in info.get("info", {}).get("features", {}).items() if isinstance(each, dict)}
    named = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    integers = [field.name for field in schema if types.is_integer(field.type)]
    labels = named or [name for name in integers if name in LABELS] or integers
    parts = {each.name: [part.name for part in each.type] if types.is_struct(each.type) else [] for each in schema}
    binary = (types.is_binary, types.is_large_binary)
    images = [each.name for each in schema if "bytes" in parts[each.name] or any(is_a(each.type) for is_a in binary)]
    if len(images) != 1 or len(labels) != 1:
        raise UserError(
            f"{path} is not a set for classification: one column of images (bytes, or a struct with bytes) and one of "
            f"labels (whole numbers, called {' or '.join(LABELS)}) are needed, but it has "
            f"{', '.join(f'{field.name}: {field.type}' for field in schema)}; give another"
        )
    image, classes = images[0], tuple(features.get(labels[0], {}).get("names", ()))
    path_column = [f"{image}.path"] if "path" in parts[image] else []
    return Columns(image, f"{image}.bytes" if parts[image] else image, path_column, labels[0], classes)


def _wordnet_ids(labels: dict[str, np.ndarray], names: dict[str, list[str]], count: int) -> list[str]:
    """Label -> WordNet id, if the names of the files give one for every label; else none."""
    ids: dict[int, str] = {}
    for split, each in names.items():
        for name, label in zip(each, labels[split].tolist(), strict=True):
            found = WORDNET_ID.findall(name) if label >= 0 else []
            if found and ids.setdefault(label, found[-1]) != found[-1]:
                return []
    return [ids[label] for label in range(count)] if len(ids) == len(set(ids.values())) == count else []


def _named(names: list[str], labels: np.ndarray, classes: list[str]) -> list[str]:
    """The names that the images' files have in folders of classes, or in ImageNet's archives."""
    plain = (re.sub(r"_n\d{8}(\.\w+)$", r"\1", name) for name in names)
    return [
        name if "/" in name or name.startswith("ILSVRC") else f"{classes[label]}/{name}"
        for name, label in zip(plain, labels.tolist(), strict=True)
    ]


def _reader(shards: list[Shard], columns: Columns, labels: np.ndarray) -> Callable[[int], Image]:
    """The function that reads an image of a split. It keeps the row groups that were read last."""
    import pyarrow.parquet

    groups = [(shard, g) for shard in shards for g in range(shard.metadata.num_row_groups)]
    starts = list(accumulate((shard.metadata.row_group(g).num_rows for shard, g in groups), initial=0))

    def read_group(place: int) -> Any:
        shard, g = groups[place]
        try:
            options = dict(metadata=shard.metadata, page_checksum_verification=True)
            with pyarrow.parquet.ParquetFile(shard.path, **options) as file:
                return file.read_row_group(g, [columns.content], use_threads=False)[columns.image]
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:  # of the disk
                raise
            raise CorruptImage(f"the row group {g} of {shard.path} is damaged: {error}") from None

    group = remembered(read_group, KEPT)

    def read(i: int) -> Image:
        place = bisect.bisect_right(starts, i) - 1
        row = group(place)[i - starts[place]].as_py()
        content = row["bytes"] if isinstance(row, dict) else row
        if not content:
            raise CorruptImage("the row holds no bytes; push the set to the Hub, or embed its files, to include them")
        if labels[i] < 0:
            raise CorruptImage("the row has no label")
        return Image(content, int(labels[i]))

    return read
