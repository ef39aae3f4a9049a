"""Write the packed format: decode, crop, scale and store every image once, and collect the statistics on the way.

Threads process the images in blocks, which are written in order. A complete shard gets its final name, and parts/ an
entry with what the manifest needs to know of it, so the next run with the same settings continues after an
interruption. Memory use is a few blocks per thread and some hundred bytes per image for the lists.
"""

import contextlib
import errno
import json
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from alexnet_jax.data import files, manifest, shards, statistics
from alexnet_jax.data.manifest import Manifest
from alexnet_jax.data.shards import Part, Settings, load, load_all
from alexnet_jax.data.sources.source import Source, digest, printable
from alexnet_jax.errors import DataError, UserError

SHARD_BYTES, SHARD_IMAGES = 2**30, 4096  # limits of a shard: bytes of pixels, images
BLOCK_BYTES = 2**23  # pixels that a thread takes at once
SAMPLE = 64  # JPEGs from whose length that of all is estimated
MAX_LISTED = 20  # corrupt images in an error message
MEAN_IMAGE = "mean_image.npy"


def pack(source: Source, output: Path, settings: Settings, show_progress: bool) -> Manifest:
    """Write `source` to the folder `output`, or continue where an interrupted run stopped, and return the manifest.

    If `output` is complete except for skipped images, those that have been mended since are added. Raises UserError if
    `output` holds something else, the disk has too little room, or too many images are corrupt; finished shards are
    kept.
    """
    plan = _plan(source, settings)
    written = _complete(output, plan) if (output / manifest.NAME).exists() else None
    if written is None or _some_mended(source, written, settings, show_progress):
        if written is None:
            shards.check(output, plan)
        _check_room(source, output, settings, show_progress)
        try:
            with shards.locked(output, plan):
                (output / manifest.NAME).unlink(missing_ok=True)  # what it describes changes
                packed = {name: _pack_split(name, source, output, settings, show_progress) for name in source.splits}
                written = manifest.write(output, _manifest(source, packed, output, settings, plan))
        except BrokenPipeError:  # from printing
            raise
        except OSError as error:  # from writing; shards.load reports errors of reading
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)  # ArrayRecord's errors have no number
            cure = f"{'make room' if full else 'make it writable'} and run the same command again"
            raise UserError(f"cannot write to {output}: {error}. The finished shards are kept; {cure}") from None
    if not any(split.skipped for split in written.splits.values()):  # else they may be mended, and shards read again
        shutil.rmtree(output / shards.PARTS, ignore_errors=True)
    return written


def _complete(output: Path, plan: str) -> Manifest:
    """The manifest of what is complete. Raises UserError if it is something else than `plan`, or damaged."""
    written = manifest.read(output)
    if written.plan != plan:
        raise UserError(f"{output} holds other data, or the same with other settings; give another --output")
    for file in written.files():
        if problem := manifest.problem(output, file, content=False):
            raise DataError(f"{problem}; restore it from a copy, or remove {output} and start again")
    return written


def _some_mended(source: Source, written: Manifest, settings: Settings, show_progress: bool) -> bool:
    """Whether some of the images that were skipped can be read by now."""
    mended: list[str] = []
    for name, split in source.splits.items():
        skipped = {image.name for image in written.splits[name].skipped}
        blocks = [range(i, i + 1) for i, image in enumerate(split.names) if skipped and printable(image) in skipped]
        mended += (image for block in load_all(split, blocks, settings) for image in block.contents.names)
    if mended and show_progress:
        print(f"{len(mended)} images that were skipped can be read now: {', '.join(mended[:MAX_LISTED])}", flush=True)
    return bool(mended)


def _plan(source: Source, settings: Settings) -> str:
    """A hash of what is to be prepared and how, except `max_corrupt`, which may be raised for a second attempt."""
    return digest(source, _format(settings))


def _format(settings: Settings) -> dict[str, Any]:
    quality = settings.quality if settings.store == "jpeg" else None
    return {"format": manifest.FORMAT, "store": settings.store, "size": settings.size, "quality": quality}


def _check_room(source: Source, output: Path, settings: Settings, show_progress: bool) -> None:
    """Raise UserError if the shards will not fit on the disk. A sample shows how long JPEGs are."""
    bytes_per_image = settings.size**2 * 3
    split = source.splits["train"]
    if settings.store == "jpeg":
        sample = range(0, len(split.names), max(1, len(split.names) // SAMPLE))
        records = load(split, sample, settings).records
        bytes_per_image = round(1.1 * sum(map(len, records)) / len(records)) if records else bytes_per_image
    count = sum(len(split.names) for split in source.splits.values())
    shard_count = 1 + count // _images_per_shard(settings)
    # Each image also has a label, hash and name; each shard has sums and ArrayRecord's padding.
    total = count * (bytes_per_image + 128) + shard_count * (settings.size**2 * 24 + 2**17)
    # Unfinished shards will be overwritten.
    needed = max(total - sum(path.stat().st_size for path in output.glob("*-of-*")), 0)
    free = shutil.disk_usage(next(path for path in (output, *output.absolute().parents) if path.exists())).free
    room = f"{output} needs {needed / 1e9:.3g} GB more, and its disk has {free / 1e9:.3g} GB free"
    if show_progress:
        print(room, flush=True)
    if needed > free:
        raise UserError(f"{room}; make room, or give another --output, smaller images or --store jpeg")


def _images_per_shard(settings: Settings) -> int:
    return max(1, min(SHARD_BYTES // (settings.size**2 * 3), SHARD_IMAGES))


def _pack_split(name: str, source: Source, output: Path, settings: Settings, show_progress: bool) -> list[Part]:
    """Write the shards of a split that are not finished yet, and return all of its shards."""
    split = source.splits[name]
    total, per_shard = len(split.names), _images_per_shard(settings)
    per_block = max(1, min(BLOCK_BYTES // (settings.size**2 * 3), per_shard))
    starts, ending = range(0, total, per_shard), shards.ENDINGS[settings.store]
    names = [f"{name}-{n:05d}-of-{len(starts):05d}.{ending}" for n in range(len(starts))]
    images_of = {file: range(total)[i:][:per_shard] for file, i in zip(names, starts, strict=True)}
    finished = {file: part for file in names if (part := shards.read(output, file))}
    unfinished = {file: indices for file, indices in images_of.items() if file not in finished}
    blocks = [indices[i:][:per_block] for indices in unfinished.values() for i in range(0, len(indices), per_block)]
    skipped: list[manifest.Skipped] = []
    finishing: list[Future[Part]] = []
    done = total - sum(map(len, unfinished.values()))
    if show_progress and done:
        print(f"{name}: {done} of {total} images are already packed", flush=True)
    with (
        contextlib.closing(load_all(split, blocks, settings)) as loaded,
        ThreadPoolExecutor(1) as finisher,  # makes a shard durable while the next one is written
        tqdm(total=total, desc=f"{name} images", unit="", initial=done, disable=None if show_progress else True) as bar,
    ):
        for file, indices in unfinished.items():
            shard = shards.OpenShard(output, file, settings.size)
            try:
                for _ in range(0, len(indices), per_block):
                    block = next(loaded)
                    shard.write(block)
                    bar.update(len(block.records) + len(block.contents.skipped))
                    skipped += block.contents.skipped
                if finishing:
                    finishing[-1].result()  # raises its error, if it failed
            except BaseException:
                shard.abandon()
                raise
            finishing.append(finisher.submit(shard.finish))
            if show_progress and bar.disable:  # not on a terminal
                print(f"{name}: {indices.stop} of {total} images", flush=True)
            if len(skipped) > settings.max_corrupt * total:
                listed = "\n".join(f"  {image.name}: {image.reason}" for image in skipped[:MAX_LISTED])
                raise UserError(
                    f"{len(skipped)} of the {total} images of the split {name} are corrupt, more than the share of "
                    f"{settings.max_corrupt:g} that --max_corrupt allows. Mend them or allow more and run the command "
                    f"again, or remove them and give a new --output:\n{listed}"
                )
    finished |= zip(unfinished, (part.result() for part in finishing), strict=True)
    return [finished[file] for file in names]


def _manifest(source: Source, packed: dict[str, list[Part]], output: Path, settings: Settings, plan: str) -> Manifest:
    splits = {name: _packed_split(name, split_parts, source, output) for name, split_parts in packed.items()}
    sums = sum((shards.sums(output, part) for part in packed["train"]), statistics.zero_sums(settings.size))
    of_training = statistics.of_sums(sums)
    return Manifest(
        **_format(settings),
        plan=plan,
        classes=[printable(name) for name in source.classes],
        splits=splits,
        mean_image=_saved(output / MEAN_IMAGE, of_training.mean_image),
        eigenvalues=of_training.eigenvalues.tolist(),
        eigenvectors=of_training.eigenvectors.tolist(),
    )


def _packed_split(name: str, split_parts: list[Part], source: Source, output: Path) -> manifest.PackedSplit:
    contents = manifest.Contents()
    for part in split_parts:
        contents.extend(part.contents)
    if not contents.labels:
        raise UserError(f"none of the images of the split {name} can be decoded; check --source and --input")
    names = output / f"{name}.names.json"
    files.write_text(names, json.dumps(contents.names, indent=0))
    names_of: dict[str, list[str]] = {}
    for what, image in contents.unusual:
        names_of.setdefault(what, []).append(image)
    return manifest.PackedSplit(
        count=len(contents.labels),
        shards=[part.shard for part in split_parts if part.shard.count],
        labels=_saved(output / f"{name}.labels.npy", np.array(contents.labels, np.int32)),
        hashes=_saved(output / f"{name}.hashes.npy", np.array(contents.hashes, np.uint64)),
        names=manifest.describe(names),
        skipped=contents.skipped,
        unusual=[
            manifest.Unusual(what=what, count=len(images), names=images[: manifest.MAX_NAMED])
            for what, images in sorted(names_of.items())
        ],
        published=source.published.get(name),
    )


def _saved(path: Path, array: np.ndarray) -> manifest.File:
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)
    return manifest.describe(path)
