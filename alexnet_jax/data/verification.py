"""Check that data is intact and complete: packed data, or a source before it is packed."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from tqdm.contrib.concurrent import thread_map

from alexnet_jax.data import images, manifest, records, shards
from alexnet_jax.data.sources import registry
from alexnet_jax.data.sources.source import Source, Split
from alexnet_jax.errors import UserError

SAMPLE = 1000  # images of a split that a quick check reads
MAX_LISTED = 100  # duplicates
BLOCK = 64  # images that a thread reads at once


class Check(NamedTuple):
    what: str
    summary: str  # one line
    problems: list[str]  # empty if the check passed


class Unpacked:
    """A split of a source, to be checked like records.Packed. Reading an image fills in its hash and its label."""

    def __init__(self, split: Split):
        self._split, self.name = split, split.names.__getitem__
        count = len(split.names)
        self.labels = np.full(count, -1, np.int32) if split.labels is None else split.labels
        self.hashes = np.zeros(count, np.uint64)  # equal for equal images; 0: unknown

    def problem(self, i: int) -> str:
        try:
            content, self.labels[i] = self._split.read(i)
            pixels = images.decode(content).pixels if isinstance(content, bytes) else content
        except (images.CorruptImage, OSError) as error:
            return f"{self.name(i)}: {error}"
        self.hashes[i] = xxhash.xxh3_64_intdigest(np.ascontiguousarray(pixels).data, seed=pixels.shape[0])
        return ""


Checked = records.Packed | Unpacked


def check(path: Path, source_name: str | None, quick: bool, max_duplicates: float) -> Iterator[Check]:
    """Check prepared data, or the images that a source reads.

    `source_name` is as for registry.open_source; None stands for prepared data, or the source that the names of the
    files suggest. `quick` compares lengths instead of checksums, and reads only a sample of the images. A share of
    `max_duplicates` of a split may be training images too. Raises UserError if there is nothing to check.
    """
    if not path.exists() and source_name is None and registry.recognized(path) == "folder":
        raise UserError(f"there is no {path}; give the folder that prepare wrote, or the one with the archives")
    if source_name is None:
        if (path / manifest.NAME).is_file():
            yield from packed(path, quick, max_duplicates)
            return
        if (path / shards.PARTS).is_dir():
            raise UserError(f"{path} is an unfinished preparation; run the same prepare command again first")
        if path.is_file() and registry.recognized(path) == "folder":
            raise UserError(f"{path} is a file; give the folder that contains it, or its --source")
        if any(path.glob("*.labels.npy")):
            raise UserError(f"{path} was prepared, but its {manifest.NAME} is missing; restore it, or prepare it again")
    kind = source_name or registry.recognized(path)
    registry.split_name(kind)
    try:
        opened = registry.open_source(kind, path)
    except UserError as error:
        if source_name is None and kind == "folder":
            raise UserError(f"{error}; or give the --source of {path}") from None
        yield Check("source", f"cannot be read as {kind}", [str(error)])
        return
    yield Check("source", f"{path} read as {kind}: {len(opened.classes)} classes", [])
    yield from source(opened, quick, max_duplicates)


def packed(directory: Path, quick: bool, max_duplicates: float) -> Iterator[Check]:
    """Check what `prepare` wrote: files, counts, every record, duplicates. Raises UserError if there is no manifest."""
    described = manifest.read(directory)

    def problem(file: manifest.File) -> str:
        return manifest.problem(directory, file, content=not (quick and isinstance(file, manifest.Shard)))

    files = described.files()
    compared = "lengths, and checksums except those of shards" if quick else "lengths and checksums"
    yield Check("files", f"{len(files)} files: {compared}", _problems(problem, files, "files"))

    opened: dict[str, Checked] = {}
    for name, split in described.splits.items():
        try:
            reader = opened[name] = records.open_split(directory, described, name)
        except UserError as error:
            yield Check(f"{name} images", "cannot be opened", [str(error)])
            continue
        yield _check_counts(name, reader.labels, described.classes, split.published, len(split.skipped))
        yield _check_images(name, reader, quick)
    yield from _check_duplicates(opened, max_duplicates)


def source(source: Source, quick: bool, max_duplicates: float) -> Iterator[Check]:
    """Check images before they are packed: counts, every image, duplicates."""
    opened: dict[str, Checked] = {}
    for name, split in source.splits.items():
        reader = opened[name] = Unpacked(split)
        images_check = _check_images(name, reader, quick)
        if not quick or split.labels is not None:
            yield _check_counts(name, reader.labels, source.classes, source.published.get(name), 0)
        yield images_check
    if quick:
        yield Check("duplicates", "not checked: that takes every image", [])
    else:
        yield from _check_duplicates(opened, max_duplicates)


def _check_images(name: str, split: Checked, quick: bool) -> Check:
    total = len(split.labels)
    chosen = range(0, total, max(1, total // SAMPLE)) if quick else range(total)
    problems = _problems(split.problem, chosen, f"{name} images")
    return Check(f"{name} images", f"{len(chosen):,} of {total:,} decoded", problems)


def _check_counts(
    name: str, labels: np.ndarray, classes: list[str], published: manifest.Published | None, skipped: int
) -> Check:
    summary = f"{len(labels):,} images of {len(np.unique(labels)):,} of {len(classes):,} classes"
    problems = []
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        problems.append(f"{name} has labels {labels.min()} to {labels.max()}, but there are {len(classes)} classes")
    if published:
        summary += f"; {published.images:,} published" + (f", {skipped} of them skipped as corrupt" if skipped else "")
        if len(labels) + skipped != published.images:
            problems.append(f"{name} has {len(labels):,} images, {published.images:,} were published")
    if published and published.by_class:
        if sum(published.by_class) != published.images:
            problems.append(
                f"the development kit lists {sum(published.by_class):,} images, but {published.images:,} were "
                "published; is it the kit for this set?"
            )
        counts = np.bincount(labels, minlength=len(classes))
        missing = np.array(published.by_class) - counts[: len(classes)]
        if missing.min() < 0 or missing.sum() > skipped:
            problems += [
                f"{name}: class {classes[i]} has {counts[i]:,} images, {published.by_class[i]:,} were published"
                for i in np.flatnonzero(missing)
            ]
    return Check(f"{name} counts", summary, problems)


def _check_duplicates(splits: dict[str, Checked], max_duplicates: float) -> Iterator[Check]:
    """Find images of other splits that are training images too, pixel by pixel."""
    train = splits.pop("train", None)
    if train is None:
        return
    first = {number: i for i, number in reversed(list(enumerate(train.hashes.tolist())))}
    for name, split in sorted(splits.items()):
        problems = [
            f"{name} image {split.name(i)} is train image {train.name(first[number])}"
            + ("" if split.labels[i] == train.labels[first[number]] else ", with another label")
            for i, number in enumerate(split.hashes.tolist())
            if number and number in first
        ]
        summary = f"{len(problems)} of the images of {name} are training images too"
        if len(problems) <= max_duplicates * len(split.hashes):
            summary += f": {'; '.join(problems[:10])}" if problems else ""
            problems = []
        if len(problems) > MAX_LISTED:
            problems[MAX_LISTED:] = [f"... and {len(problems) - MAX_LISTED} more"]
        yield Check("duplicates", summary, problems)


def _problems(problem: Callable[[Any], str], items: Sequence[Any], what: str) -> list[str]:
    """What `problem` says about the items, if anything, computed on all cores."""
    blocks = [items[i : i + BLOCK] for i in range(0, len(items), BLOCK)]
    options: dict[str, Any] = dict(desc=what, unit="", unit_scale=BLOCK, disable=None, max_workers=os.cpu_count())
    return list(itertools.chain(*thread_map(lambda block: list(filter(None, map(problem, block))), blocks, **options)))
