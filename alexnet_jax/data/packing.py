"""Writing the packed format: every image once through decode, scale, crop, store; statistics on the way.

A shard is written under another name and renamed when complete, with what the manifest needs to know of it in
parts/. So an interrupted run leaves whole shards, and the next run with the same settings goes on behind them.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from operator import add
from pathlib import Path
from typing import Literal

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from alexnet_jax.data import images, records, statistics
from alexnet_jax.data.sources import Source, Split
from alexnet_jax.errors import UserError

SHARD_BYTES = 256 * 2**20  # of pixels
SHARD_IMAGES = 8192  # at most
PARTS = "parts"


@dataclasses.dataclass(frozen=True)
class Settings:
    store: Literal["raw", "jpeg"]
    size: int  # height and width, pixels
    quality: int  # of the JPEGs
    max_corrupt: float  # the share of a split's images that may be skipped


@dataclasses.dataclass(frozen=True)
class Part:
    """A finished shard."""

    shard: records.Shard
    labels: np.ndarray
    skipped: list[records.Skipped]
    sums: statistics.Sums


def stored_pixels(content: bytes | np.ndarray, size: int) -> np.ndarray:
    """What `Split.read` gives -> [size, size, 3] uint8. Raises images.CorruptImage."""
    image = images.decode(content) if isinstance(content, bytes) else images.Image.fromarray(content)
    return images.to_square(image, size)


def pack(source: Source, output: Path, settings: Settings, show_progress: bool) -> records.Manifest:
    """Writes `source` to the folder `output` and returns the manifest.

    Raises UserError if `output` holds something else or too many images are corrupt; what is done stays.
    """
    plan, parts = _plan(source, settings), output / PARTS
    if (output / records.MANIFEST).exists():
        manifest = records.read_manifest(output)
        if manifest.plan != plan:
            raise UserError(f"{output} holds other data, or the same with other settings; give another --output")
        shutil.rmtree(parts, ignore_errors=True)
        return manifest
    if output.exists() and any(output.iterdir()) and not parts.is_dir():
        raise UserError(f"{output} is not empty and not an unfinished preparation; give another --output")
    parts.mkdir(parents=True, exist_ok=True)
    plan_file = parts / "plan"
    if plan_file.exists() and plan_file.read_text() != plan:
        raise UserError(
            f"{output} holds an unfinished preparation of other data or with other settings; remove it or give another "
            "--output"
        )
    records.write_text(plan_file, plan)

    done: dict[str, list[Part]] = {}
    for name, split in source.splits.items():
        done[name] = list(_pack_split(name, split, output, settings, show_progress))
    manifest = _manifest(source, done, output, settings, plan)
    records.write_text(output / records.MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    shutil.rmtree(parts)
    return manifest


def _plan(source: Source, settings: Settings) -> str:
    """A hash of what is to be prepared and how; not of `max_corrupt`, which may be raised for a second try."""
    described = {
        "format": records.FORMAT,
        "store": settings.store,
        "size": settings.size,
        "quality": settings.quality if settings.store == "jpeg" else None,
        "classes": source.classes,
        "splits": {name: [list(split.names), split.labels.tolist()] for name, split in source.splits.items()},
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _pack_split(name: str, split: Split, output: Path, settings: Settings, show_progress: bool) -> Iterator[Part]:
    total = len(split.names)
    per_shard = max(1, min(SHARD_BYTES // (settings.size**2 * 3), SHARD_IMAGES))
    starts = range(0, total, per_shard)
    ending = {"raw": "raw", "jpeg": "array_record"}[settings.store]
    skipped: list[records.Skipped] = []
    with (
        ThreadPoolExecutor(os.cpu_count()) as threads,
        tqdm(total=total, desc=f"{name} images", unit="", disable=None if show_progress else True) as bar,
    ):
        for number, start in enumerate(starts):
            indices = range(start, min(start + per_shard, total))
            file = f"{name}-{number:05d}-of-{len(starts):05d}.{ending}"
            part = _read_part(output, file)
            if part is None or part.skipped:  # what was corrupt may have been mended since
                part = _pack_shard(split, indices, output, file, settings, threads)
                _write_part(output, part)
            bar.update(len(indices))
            if show_progress and bar.disable:  # not on a terminal
                print(f"{name}: {indices.stop} of {total} images", flush=True)
            skipped += part.skipped
            if len(skipped) > settings.max_corrupt * total:
                raise UserError(_too_many(name, skipped, total, settings))
            yield part


def _too_many(name: str, skipped: list[records.Skipped], total: int, settings: Settings) -> str:
    listed = "\n".join(f"  {image.name}: {image.reason}" for image in skipped[:20])
    return (
        f"{len(skipped)} of the {total} images of the split {name} are corrupt, more than the share of "
        f"{settings.max_corrupt:g} that --max_corrupt allows; mend them or allow more and start again, or remove them "
        f"and start again with a new --output:\n{listed}"
    )


def _pack_shard(
    split: Split, indices: range, output: Path, file: str, settings: Settings, threads: ThreadPoolExecutor
) -> Part:
    def load(i: int) -> np.ndarray | records.Skipped:
        try:
            return stored_pixels(split.read(i), settings.size)
        except (images.CorruptImage, OSError) as error:
            return records.Skipped(name=split.names[i], reason=str(error))

    loaded = list(threads.map(load, indices))
    kept = [(i, pixels) for i, pixels in zip(indices, loaded, strict=True) if isinstance(pixels, np.ndarray)]
    pixels = (
        np.stack([image for _, image in kept]) if kept else np.empty((0, settings.size, settings.size, 3), np.uint8)
    )
    temporary = output / (file + ".tmp")
    if settings.store == "raw":
        pixels.tofile(temporary)
    else:
        pixels = _write_jpegs(temporary, pixels, settings.quality, threads)
    temporary.replace(output / file)
    return Part(
        records.Shard(**records.described(output / file), count=len(kept)),
        split.labels[[i for i, _ in kept]],
        [image for image in loaded if isinstance(image, records.Skipped)],
        statistics.sums_of(pixels),
    )


def _write_jpegs(path: Path, pixels: np.ndarray, quality: int, threads: ThreadPoolExecutor) -> np.ndarray:
    """Writes a JPEG a record and returns the pixels that a reader will see."""
    seen = np.empty_like(pixels)
    encoded = list(threads.map(lambda image: images.encode_jpeg(image, quality), pixels))
    list(threads.map(images.decode_jpeg, encoded, seen))
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in encoded:
        writer.write(record)
    writer.close()
    return seen


def _write_part(output: Path, part: Part) -> None:
    temporary = output / PARTS / "tmp.npz"
    described = {"shard": part.shard.model_dump(), "skipped": [image.model_dump() for image in part.skipped]}
    np.savez(
        temporary,
        described=json.dumps(described),
        labels=part.labels,
        pixels=part.sums.pixels,
        products=part.sums.products,
    )
    temporary.replace(output / PARTS / (part.shard.name + ".npz"))


def _read_part(output: Path, file: str) -> Part | None:
    path = output / PARTS / (file + ".npz")
    if not path.exists():
        return None
    with np.load(path) as saved:
        described = json.loads(str(saved["described"]))
        shard = records.Shard(**described["shard"])
        sums = statistics.Sums(shard.count, saved["pixels"], saved["products"])
        return Part(shard, saved["labels"], [records.Skipped(**image) for image in described["skipped"]], sums)


def _manifest(
    source: Source, done: dict[str, list[Part]], output: Path, settings: Settings, plan: str
) -> records.Manifest:
    splits = {}
    for name, parts in done.items():
        labels = np.concatenate([part.labels for part in parts])
        skipped = [image for part in parts for image in part.skipped]
        if not len(labels):
            raise UserError(f"no image of the split {name} is sound; see --source and --input")
        shards = [part.shard for part in parts if part.shard.count]
        file = _save(output, f"{name}.labels.npy", labels)
        splits[name] = records.PackedSplit(count=len(labels), shards=shards, labels=file, skipped=skipped)
    of_training = statistics.of_sums(reduce(add, (part.sums for part in done["train"])))
    return records.Manifest(
        format=records.FORMAT,
        plan=plan,
        store=settings.store,
        size=settings.size,
        quality=settings.quality if settings.store == "jpeg" else None,
        classes=source.classes,
        splits=splits,
        mean_image=_save(output, records.MEAN_IMAGE, of_training.mean_image),
        eigenvalues=of_training.eigenvalues.tolist(),
        eigenvectors=of_training.eigenvectors.tolist(),
    )


def _save(output: Path, name: str, array: np.ndarray) -> records.File:
    np.save(output / name, array)
    return records.File(**records.described(output / name))
