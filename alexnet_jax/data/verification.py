"""Is the data what it claims to be? Packed data, or a source before it is packed."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from tqdm import tqdm

from alexnet_jax.data import images, manifest, records
from alexnet_jax.data.blocks import in_order
from alexnet_jax.data.manifest import Manifest
from alexnet_jax.data.sources.source import Published, Source, Split
from alexnet_jax.errors import UserError

SAMPLE = 1000  # images of a split that a quick check reads
MAX_LISTED = 100  # duplicates
AT_ONCE = 64  # images that a thread reads


class Check(NamedTuple):
    what: str
    told: str  # what was found, in a line
    problems: list[str]  # none: passed


class Look(NamedTuple):
    """What reading one image has told."""

    label: int
    hash: int  # equal for equal images; 0: not known
    problem: str


def packed(directory: Path, quick: bool, max_duplicates: float) -> Iterator[Check]:
    """Checks what `prepare` wrote: files, counts, every record, duplicates. Raises UserError if there is nothing."""
    described = manifest.read(directory)
    yield _files(directory, described, quick)
    splits: dict[str, records.Packed] = {}
    for name, split in described.splits.items():
        try:
            splits[name] = records.open_split(directory, described, name)
        except UserError as error:
            yield Check(f"{name} images", "cannot be opened", [str(error)])
            continue
        published = Published(**split.published.model_dump()) if split.published else None
        yield _counts(name, splits[name].labels, described.classes, published, len(split.skipped))
        yield _records(name, splits[name], quick)
    hashes = {name: split.hashes for name, split in splits.items()}
    names: dict[str, Callable[[int], str]] = {name: split.name for name, split in splits.items()}
    yield from _duplicates(hashes, {name: split.labels for name, split in splits.items()}, names, max_duplicates)


def source(source: Source, quick: bool, max_duplicates: float) -> Iterator[Check]:
    """Checks images before they are packed: counts, every image, duplicates."""
    hashes, labels = {}, {}
    for name, split in source.splits.items():
        total = len(split.names)
        chosen = _chosen(total, quick)
        looks = list(_spread(lambda i, split=split: _look(split, i), chosen, f"{name} images"))
        labels[name] = np.array([look.label for look in looks], np.int32)
        hashes[name] = np.array([look.hash for look in looks], np.uint64)
        whole = labels[name] if split.labels is None else split.labels
        if not quick or split.labels is not None:
            yield _counts(name, whole, source.classes, source.published.get(name), 0)
        problems = [f"{split.names[i]}: {look.problem}" for i, look in zip(chosen, looks, strict=True) if look.problem]
        yield Check(f"{name} images", f"{len(chosen):,} of {total:,} decoded", problems)
    if quick:
        yield Check("duplicates", "not looked for: that needs every image", [])
        return
    names: dict[str, Callable[[int], str]] = {name: split.names.__getitem__ for name, split in source.splits.items()}
    yield from _duplicates(hashes, labels, names, max_duplicates)


def _files(directory: Path, described: Manifest, quick: bool) -> Check:
    """Lengths, and checksums: of the shards only if not `quick`."""
    files = manifest.files(described)

    def problem(file: manifest.File) -> str:
        return manifest.problem(directory, file, content=not (quick and isinstance(file, manifest.Shard)))

    problems = [line for line in _spread(lambda i: problem(files[i]), range(len(files)), "files") if line]
    told = "lengths and the checksums of small ones" if quick else "lengths and checksums"
    return Check("files", f"{len(files)} files, {told}", problems)


def _counts(name: str, labels: np.ndarray, classes: list[str], published: Published | None, skipped: int) -> Check:
    told = f"{len(labels):,} images of {len(np.unique(labels)):,} of {len(classes):,} classes"
    problems = []
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        problems.append(f"{name} has labels {labels.min()} to {labels.max()}, and there are {len(classes)} classes")
    if published is None:
        return Check(f"{name} counts", told, problems)
    told += f"; {published.images:,} published" + (f", {skipped} of them skipped as corrupt" if skipped else "")
    if len(labels) + skipped != published.images:
        problems.append(f"{name} has {len(labels):,} images, {published.images:,} were published")
    if published.by_class is not None:
        if sum(published.by_class) != published.images:
            problems.append(
                f"the development kit counts {sum(published.by_class):,} images and {published.images:,} were "
                "published; is it the kit of this set?"
            )
        found = np.bincount(labels, minlength=len(classes))
        short = np.array(published.by_class) - found[: len(classes)]
        if short.min() < 0 or short.sum() > skipped:
            problems += [
                f"{name}: class {classes[i]} has {found[i]:,} images, {published.by_class[i]:,} were published"
                for i in np.flatnonzero(short)
            ]
    return Check(f"{name} counts", told, problems)


def _records(name: str, split: records.Packed, quick: bool) -> Check:
    chosen = _chosen(len(split.labels), quick)

    def problem(i: int) -> str:
        bad = split.read(np.array([i]), np.empty((1, split.size, split.size, 3), np.uint8))
        return f"image {i}, {split.name(i)}, in {bad[0]}" if bad else ""

    problems = [line for line in _spread(problem, chosen, f"{name} images") if line]
    return Check(f"{name} images", f"{len(chosen):,} of {len(split.labels):,} read and decoded", problems)


def _look(split: Split, i: int) -> Look:
    label = -1 if split.labels is None else int(split.labels[i])
    try:
        content, label = split.read(i)
        pixels = images.decode(content).pixels if isinstance(content, bytes) else content
    except (images.CorruptImage, OSError) as error:
        return Look(label, 0, str(error))
    return Look(label, xxhash.xxh3_64_intdigest(np.ascontiguousarray(pixels).data, seed=pixels.shape[0]), "")


def _duplicates(
    hashes: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
    names: dict[str, Callable[[int], str]],
    max_duplicates: float,
) -> Iterator[Check]:
    """Images of another split that are training images too, to the last pixel."""
    for name in sorted(hashes.keys() - {"train"}) if "train" in hashes else ():
        first = {int(number): i for i, number in reversed(list(enumerate(hashes["train"])))}
        pairs = [(i, first[number]) for i, number in enumerate(hashes[name].tolist()) if number and number in first]
        lines = [
            f"{name} image {names[name](i)} is train image {names['train'](j)}"
            + ("" if labels[name][i] == labels["train"][j] else ", with another label")
            for i, j in pairs
        ]
        told = f"{len(pairs)} of the images of {name} are training images too"
        allowed = len(pairs) <= max_duplicates * len(hashes[name])
        if allowed and lines:
            told += ": " + "; ".join(lines[:10])
        if len(lines) > MAX_LISTED:
            lines[MAX_LISTED:] = [f"... and {len(lines) - MAX_LISTED} more"]
        yield Check("duplicates", told, [] if allowed else lines)


def _chosen(total: int, quick: bool) -> range:
    """All, or some spread evenly."""
    return range(0, total, max(1, total // SAMPLE)) if quick else range(total)


def _spread(function: Callable, chosen: range, what: str) -> Iterator:
    """The function of each, in order, over all cores."""
    blocks = [chosen[i : i + AT_ONCE] for i in range(0, len(chosen), AT_ONCE)]
    with (
        ThreadPoolExecutor(os.cpu_count()) as threads,
        tqdm(total=len(chosen), desc=what, unit="", disable=None) as bar,
    ):
        for block, results in in_order(threads, lambda block: [function(i) for i in block], blocks):
            bar.update(len(block))
            yield from results
