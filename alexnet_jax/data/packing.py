"""Writing the packed format: every image once through decode, crop, scale, store; statistics on the way.

Threads take the images in blocks, and the blocks are written in order. A shard is written under another name and
renamed when complete, with what the manifest needs to know of it in parts/. So an interrupted run leaves whole
shards, and the next run with the same settings goes on behind them. The memory taken is a few blocks a thread, and
some hundred bytes an image for the lists.
"""

import collections
import errno
import hashlib
import json
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
from tqdm import tqdm

from alexnet_jax.data import manifest, parts, statistics
from alexnet_jax.data.blocks import Settings, in_order, load
from alexnet_jax.data.manifest import Manifest
from alexnet_jax.data.parts import Part
from alexnet_jax.data.sources.source import Source, Split, printable
from alexnet_jax.errors import DataError, UserError

SHARD_BYTES, SHARD_IMAGES = 2**30, 4096  # of a shard at most; bytes of pixels
BLOCK_BYTES = 2**23  # of pixels, that a thread takes at once
JUDGED = 64  # JPEGs, by whose length that of all is judged
MEAN_IMAGE = "mean_image.npy"


def pack(source: Source, output: Path, settings: Settings, show_progress: bool) -> Manifest:
    """Writes `source` to the folder `output` and returns the manifest.

    Raises UserError if `output` holds something else or has too little room, or if too many images are corrupt; what
    is done stays.
    """
    plan = _plan(source, settings)
    if (output / manifest.NAME).exists():
        there = manifest.read(output)
        if there.plan != plan:
            raise UserError(f"{output} holds other data, or the same with other settings; give another --output")
        damaged = [problem for file in manifest.files(there) if (problem := manifest.problem(output, file, False))]
        if damaged:
            raise DataError(f"{damaged[0]}; put it back from a copy, or remove {output} and start again")
        parts.remove(output)
        return there
    parts.check(output, plan)
    _check_room(source, output, settings, show_progress)
    try:
        with parts.started(output, plan):
            done = {
                name: _pack_split(name, split, output, settings, show_progress) for name, split in source.splits.items()
            }
            written = manifest.write(output, _manifest(source, done, output, settings, plan))
    except BrokenPipeError:  # of what we print
        raise
    except OSError as error:  # of writing; blocks.load tells of reading
        raise UserError(
            f"cannot write to {output}: {error}. The finished shards stay; {_cure(error)} and give the same command "
            "again"
        ) from None
    parts.remove(output)
    return written


def _cure(error: OSError) -> str:
    # ArrayRecord's errors have no number.
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)
    return "make room" if full else "see to it that it can be written"


def _plan(source: Source, settings: Settings) -> str:
    """A hash of what is to be prepared and how; not of `max_corrupt`, which may be raised for a second try."""
    described = {
        "format": manifest.FORMAT,
        "store": settings.store,
        "size": settings.size,
        "quality": settings.quality if settings.store == "jpeg" else None,
        "classes": source.classes,
        "splits": {name: len(split.names) for name, split in source.splits.items()},
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for split in source.splits.values():
        for name in split.names:
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        digest.update(b"" if split.labels is None else split.labels.tobytes())
    return digest.hexdigest()


def _check_room(source: Source, output: Path, settings: Settings, show_progress: bool) -> None:
    """Raises UserError if the shards will not fit on the disk. The length of JPEGs is judged by some of them."""
    an_image = settings.size**2 * 3
    split = source.splits["train"]
    if settings.store == "jpeg":
        sample = range(0, len(split.names), max(1, len(split.names) // JUDGED))
        records = load(split, sample, settings).records
        an_image = round(1.1 * sum(map(len, records)) / len(records)) if records else an_image
    images_there = sum(len(split.names) for split in source.splits.values())
    shards = 1 + images_there // _per_shard(settings)
    # Beside the images, their labels, hashes and names; beside the shards, their sums and ArrayRecord's filling.
    needed = images_there * (an_image + 128) + shards * (settings.size**2 * 24 + 2**17) - parts.bytes_there(output)
    free = shutil.disk_usage(next(path for path in (output, *output.absolute().parents) if path.exists())).free
    room = f"{output} needs {max(needed, 0) / 1e9:.3g} GB more, and its disk has {free / 1e9:.3g} GB free"
    if show_progress:
        print(room, flush=True)
    if needed > free:
        raise UserError(f"{room}; make room or give another --output, smaller images or --store jpeg")


def _per_shard(settings: Settings) -> int:
    return max(1, min(SHARD_BYTES // (settings.size**2 * 3), SHARD_IMAGES))


def _pack_split(name: str, split: Split, output: Path, settings: Settings, show_progress: bool) -> list[Part]:
    total, an_image = len(split.names), settings.size**2 * 3
    per_shard = _per_shard(settings)
    per_block = max(1, min(BLOCK_BYTES // an_image, per_shard))
    starts, ending = range(0, total, per_shard), parts.ENDINGS[settings.store]
    shards = {
        f"{name}-{n:05d}-of-{len(starts):05d}.{ending}": range(total)[i:][:per_shard] for n, i in enumerate(starts)
    }
    done: dict[str, Part | Future[Part]] = {}
    for file in shards:
        part = parts.read(output, file)
        if part is not None and not part.skipped:  # what was corrupt may have been mended since
            done[file] = part
    todo = [
        (file, indices[i:][:per_block])
        for file, indices in shards.items()
        if file not in done
        for i in range(0, len(indices), per_block)
    ]
    skipped: list[manifest.Skipped] = []
    shard: parts.OpenShard | None = None
    last: Future[Part] | None = None
    with (
        ThreadPoolExecutor(os.cpu_count()) as threads,
        ThreadPoolExecutor(1) as finisher,  # makes a shard last while the next is written
        tqdm(total=total, desc=f"{name} images", unit="", disable=None if show_progress else True) as bar,
    ):
        before = sum(len(shards[file]) for file in done)
        bar.update(before)
        if show_progress and before:
            print(f"{name}: {before} of {total} images are there from before", flush=True)
        try:
            for (file, indices), block in in_order(threads, lambda item: load(split, item[1], settings), todo):
                shard = shard or parts.OpenShard(output, file, settings.size)
                shard.write(block)
                bar.update(len(indices))
                skipped += block.skipped
                if indices.stop == shards[file].stop:
                    if last is not None:
                        last.result()  # has it failed?
                    done[file] = last = finisher.submit(shard.finish)
                    shard = None
                    if show_progress and bar.disable:  # not on a terminal
                        print(f"{name}: {indices.stop} of {total} images", flush=True)
                    if len(skipped) > settings.max_corrupt * total:
                        raise UserError(_too_many(name, skipped, total, settings))
        finally:
            if shard is not None:
                shard.abandon()
        return [part.result() if isinstance(part, Future) else part for part in (done[file] for file in shards)]


def _too_many(name: str, skipped: list[manifest.Skipped], total: int, settings: Settings) -> str:
    listed = "\n".join(f"  {image.name}: {image.reason}" for image in skipped[:20])
    return (
        f"{len(skipped)} of the {total} images of the split {name} are corrupt, more than the share of "
        f"{settings.max_corrupt:g} that --max_corrupt allows; mend them or allow more and start again, or remove them "
        f"and start again with a new --output:\n{listed}"
    )


def _manifest(source: Source, done: dict[str, list[Part]], output: Path, settings: Settings, plan: str) -> Manifest:
    splits = {name: _packed_split(name, of, source, output) for name, of in done.items()}
    of_training = statistics.of_sums(reduce(add, (parts.sums(output, part) for part in done["train"])))
    np.save(output / MEAN_IMAGE, of_training.mean_image)
    return Manifest(
        format=manifest.FORMAT,
        plan=plan,
        store=settings.store,
        size=settings.size,
        quality=settings.quality if settings.store == "jpeg" else None,
        classes=[printable(name) for name in source.classes],
        splits=splits,
        mean_image=manifest.described(output / MEAN_IMAGE),
        eigenvalues=of_training.eigenvalues.tolist(),
        eigenvectors=of_training.eigenvectors.tolist(),
    )


def _packed_split(name: str, done: list[Part], source: Source, output: Path) -> manifest.PackedSplit:
    files = {kind: output / f"{name}.{kind}" for kind in ("labels.npy", "hashes.npy", "names.json")}
    labels = np.concatenate([part.labels for part in done])
    if not len(labels):
        raise UserError(f"no image of the split {name} is sound; see --source and --input")
    np.save(files["labels.npy"], labels)
    np.save(files["hashes.npy"], np.concatenate([part.hashes for part in done]))
    files["names.json"].write_text(json.dumps([image for part in done for image in part.names], indent=0))
    unusual: dict[str, list[str]] = collections.defaultdict(list)
    for what, image in (item for part in done for item in part.unusual):
        unusual[what].append(image)
    published = source.published.get(name)
    return manifest.PackedSplit(
        count=len(labels),
        shards=[part.shard for part in done if part.shard.count],
        labels=manifest.described(files["labels.npy"]),
        hashes=manifest.described(files["hashes.npy"]),
        names=manifest.described(files["names.json"]),
        skipped=[image for part in done for image in part.skipped],
        unusual=[
            manifest.Unusual(what=what, count=len(names), names=names[: manifest.MAX_NAMED])
            for what, names in sorted(unusual.items())
        ],
        published=manifest.Published(**published._asdict()) if published else None,
    )
