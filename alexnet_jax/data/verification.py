"""Check that data is intact and complete: packed data, or a source before it is packed."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from tqdm import tqdm

from alexnet_jax.data import images, manifest, parts, records
from alexnet_jax.data.blocks import Item, Result, in_order
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


class SplitHashes(NamedTuple):
    hashes: np.ndarray  # [N] uint64, equal for equal images; 0: unknown
    labels: np.ndarray  # [N] int32
    name: Callable[[int], str]  # of image `i`


def check(path: Path, source_name: str | None, quick: bool, max_duplicates: float) -> Iterator[Check]:
    """Check prepared data, or the images that a source reads.

    `source_name` is as for registry.open_source; None stands for prepared data, or the source that the names of the
    files suggest. `quick` compares lengths instead of checksums, and reads only a sample of the images. A share of
    `max_duplicates` of a split may be training images too. Raises UserError if there is nothing to check.
    """
    if not path.exists():
        raise UserError(f"there is no {path}; give the folder that prepare wrote, or the one with the archives")
    if source_name is None:
        if (path / manifest.NAME).is_file():
            yield from packed(path, quick, max_duplicates)
            return
        if (path / parts.PARTS).is_dir():
            raise UserError(f"{path} is an unfinished preparation; run the same prepare command again first")
        if path.is_file():
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
    yield Check("files", f"{len(files)} files: {compared}", list(filter(None, _in_parallel(problem, files, "files"))))
    opened: dict[str, SplitHashes] = {}
    for name, split in described.splits.items():
        try:
            reader = records.open_split(directory, described, name)
        except UserError as error:
            yield Check(f"{name} images", "cannot be opened", [str(error)])
            continue
        yield _check_counts(name, reader.labels, described.classes, split.published, len(split.skipped))
        yield _check_records(name, reader, quick)
        opened[name] = SplitHashes(reader.hashes, reader.labels, reader.name)
    yield from _check_duplicates(opened, max_duplicates)


def source(source: Source, quick: bool, max_duplicates: float) -> Iterator[Check]:
    """Check images before they are packed: counts, every image, duplicates."""
    opened: dict[str, SplitHashes] = {}
    for name, split in source.splits.items():
        total = len(split.names)
        chosen = _chosen(total, quick)
        read = list(_in_parallel(functools.partial(_read, split), chosen, f"{name} images"))
        hashes = np.array([number for _, number, _ in read], np.uint64)
        labels = np.array([label for label, _, _ in read], np.int32)
        opened[name] = SplitHashes(hashes, labels, split.names.__getitem__)
        if not quick or split.labels is not None:
            all_labels = labels if split.labels is None else split.labels
            yield _check_counts(name, all_labels, source.classes, source.published.get(name), 0)
        problems = [f"{split.names[i]}: {problem}" for i, (_, _, problem) in zip(chosen, read, strict=True) if problem]
        yield Check(f"{name} images", f"{len(chosen):,} of {total:,} decoded", problems)
    if quick:
        yield Check("duplicates", "not checked: that takes every image", [])
    else:
        yield from _check_duplicates(opened, max_duplicates)


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


def _check_records(name: str, split: records.Packed, quick: bool) -> Check:
    chosen = _chosen(len(split.labels), quick)

    def problem(i: int) -> str:
        bad = split.read(np.array([i]), np.empty((1, split.size, split.size, 3), np.uint8))
        return f"image {i}, {split.name(i)}, in {bad[0]}" if bad else ""

    problems = list(filter(None, _in_parallel(problem, chosen, f"{name} images")))
    return Check(f"{name} images", f"{len(chosen):,} of {len(split.labels):,} read and decoded", problems)


def _read(split: Split, i: int) -> tuple[int, int, str]:
    """Label, hash of the pixels (0 if unknown), and what is wrong with an image."""
    label = -1 if split.labels is None else int(split.labels[i])
    try:
        content, label = split.read(i)
        pixels = images.decode(content).pixels if isinstance(content, bytes) else content
    except (images.CorruptImage, OSError) as error:
        return label, 0, str(error)
    return label, xxhash.xxh3_64_intdigest(np.ascontiguousarray(pixels).data, seed=pixels.shape[0]), ""


def _check_duplicates(splits: dict[str, SplitHashes], max_duplicates: float) -> Iterator[Check]:
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


def _chosen(total: int, quick: bool) -> range:
    """All images, or an evenly spaced sample."""
    return range(0, total, max(1, total // SAMPLE)) if quick else range(total)


def _in_parallel(function: Callable[[Item], Result], items: Sequence[Item], what: str) -> Iterator[Result]:
    """The results for all items, in order, computed on all cores."""
    blocks = [items[i : i + BLOCK] for i in range(0, len(items), BLOCK)]
    with tqdm(total=len(items), desc=what, unit="", disable=None) as bar:
        for results in in_order(lambda block: [function(item) for item in block], blocks):
            bar.update(len(results))
            yield from results
