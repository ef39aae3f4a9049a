"""The readers that are fuzzed. Each kind makes intact inputs once; each case changes some of them and reads them.

`run` returns whether the input was accepted, or raises UserError; any other exception is a finding. Below `home` it may
write only to case/; outside/ holds copies of its files, as targets for paths that lead out.
"""

import contextlib
import gzip
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash
from PIL import Image

from alexnet_jax.data import images, manifest, packing, records, verification
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.loader import Batches, Order, Reading
from alexnet_jax.data.sources import kaggle, registry
from alexnet_jax.data.sources.cifar10 import cifar10
from alexnet_jax.data.sources.imagenet import challenge
from alexnet_jax.data.sources.source import Source, array_split
from tests import ilsvrc, layouts
from tests.conftest import encoded
from tests.fuzz.formats import changed_npy, changed_npz, changed_tar
from tests.fuzz.mutate import Rng, changed, changed_tree

CASE, OUTSIDE = "case", "outside"
CLASSES = 3  # of the prepared data


class Folder:
    """A folder of intact files, some of which are replaced for a while."""

    def __init__(self, path: Path):
        self.path = path
        self.intact = {file.name: file.read_bytes() for file in path.iterdir()}

    @contextlib.contextmanager
    def holding(self, files: Mapping[str, bytes]) -> Iterator[None]:
        for name, content in files.items():
            (self.path / name).write_bytes(content)
        try:
            yield
        finally:
            for name in files:
                (self.path / name).write_bytes(self.intact[name])


class Jpeg:
    """Images, as `prepare`, `predict` and the loader decode them."""

    def __init__(self, home: Path):
        rng = np.random.default_rng(0)
        smooth = Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)).resize((40, 33))
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "turned"
        options: list[dict[str, Any]] = [
            {},
            {"quality": 100, "subsampling": 0},
            {"progressive": True},
            {"exif": exif},
            {"restart_marker_blocks": 2, "comment": b"a comment"},
        ]
        self.jpegs = [encoded(smooth, "JPEG", **option) for option in options]
        self.jpegs += [encoded(smooth.convert(mode), "JPEG", progressive=mode == "L") for mode in ("L", "CMYK")]
        self.jpegs += [images.encode_jpeg(np.asarray(smooth.resize((24, 24))), 90), gzip.compress(self.jpegs[0])]
        self.others = [encoded(smooth, kind) for kind in ("PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000")]
        self.others += [
            encoded(smooth.convert("P"), "PNG", transparency=3),
            encoded(smooth, "TIFF", compression="jpeg"),
        ]

    def run(self, rng: Rng) -> bool:
        seeds = self.jpegs if rng.random() < 0.8 else self.others
        return self.check(changed(rng, seeds[rng.integers(len(seeds))], self.jpegs + self.others))

    def check(self, content: bytes) -> bool:
        out, accepted = np.empty((24, 24, 3), np.uint8), False
        with contextlib.suppress(ValueError):
            images.decode_jpeg(content, out)
            accepted = True
        with contextlib.suppress(images.CorruptImage):
            pixels, _ = images.stored_pixels(content, 16)
            assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8
            accepted = True
        return accepted


class Tar:
    """ILSVRC-2012 in its publishers' archives, listed and packed."""

    def __init__(self, home: Path):
        ilsvrc.SAMPLES = home / "none"  # generated images, the same on every machine
        ilsvrc.make(home / CASE / "archives", 2012, 3)
        self.folder, self.output = Folder(home / CASE / "archives"), home / CASE / "packed"
        self.names = [*ilsvrc.ARCHIVES[2012].values(), ilsvrc.DEVKITS[2012]]

    def run(self, rng: Rng) -> bool:
        name = self.names[rng.integers(len(self.names))]
        return self.check(name, changed_tar(rng, self.folder.intact[name]))

    def check(self, name: str, content: bytes) -> bool:
        settings = packing.Settings("raw" if len(content) % 2 else "jpeg", 16, 95, 0.5)
        try:
            with self.folder.holding({name: content}):
                packing.pack(challenge("imagenet2012", self.folder.path), self.output, settings, show_progress=False)
        finally:
            shutil.rmtree(self.output, ignore_errors=True)
        return True


class Cifar10:
    """CIFAR-10 in both of its archive formats, with three images per batch."""

    def __init__(self, home: Path):
        self.path = home / CASE / "cifar.tar.gz"
        self.intact = [_cifar10_binary(), _cifar10_python()]

    def run(self, rng: Rng) -> bool:
        return self.check(changed_tar(rng, self.intact[rng.integers(2)]))

    def check(self, content: bytes) -> bool:
        self.path.write_bytes(content)
        for split in cifar10(self.path).splits.values():
            assert split.labels is not None and len(split.labels) == len(split.names)
            assert all(split.read(i).content.shape == (32, 32, 3) for i in range(len(split.names)))  # type: ignore[union-attr]
        return True


class Layout:
    """ILSVRC-2012 in a zip, a .tar.gz, Parquet files and tar shards, listed and read."""

    def __init__(self, home: Path):
        ilsvrc.SAMPLES = home / "none"
        truth = ilsvrc.Truth(2012, 3)
        mounted = layouts.kaggle(home / "mounted", truth)
        for i, name in enumerate(kaggle.ARCHIVES[:2]):
            layouts.kaggle_archive(home / CASE / str(i), mounted, name)
        layouts.parquet(home / CASE / "parquet", truth)
        layouts.webdataset(home / CASE / "webdataset", truth)
        endings = (".zip", ".gz", ".parquet", ".tar")
        files = sorted(file for file in (home / CASE).rglob("*") if file.name.endswith(endings))
        self.intact = {file: file.read_bytes() for file in files}

    def run(self, rng: Rng) -> bool:
        file = list(self.intact)[rng.integers(len(self.intact))]
        is_tar = file.suffix in (".gz", ".tar")
        return self.check(file, (changed_tar if is_tar else changed)(rng, self.intact[file]))

    def check(self, file: Path, content: bytes) -> bool:
        folder = file.parents[1] if file.suffix == ".parquet" else file.parent
        file.write_bytes(content)
        try:
            for split in registry.open_source(registry.recognized(folder), folder).splits.values():
                for i in range(len(split.names)):
                    with contextlib.suppress(images.CorruptImage):
                        split.read(i)
        finally:
            file.write_bytes(self.intact[file])
        return True


class Manifest:
    """A prepared folder: the manifest, and the small files with matching checksums."""

    def __init__(self, home: Path):
        self.folders = [Folder(packed(home / CASE / store, store)) for store in ("raw", "jpeg")]
        for folder in self.folders:
            shutil.copytree(folder.path, home / OUTSIDE, dirs_exist_ok=True)

    def run(self, rng: Rng) -> bool:
        folder = self.folders[rng.integers(2)]
        text = folder.intact[manifest.NAME]
        choice = rng.integers(4)
        if choice == 0:
            return self.check(folder, {manifest.NAME: changed(rng, text)})
        if choice == 1:
            return self.check(folder, {manifest.NAME: sealed(changed_tree(rng, json.loads(text)))})
        names = sorted(folder.intact.keys() - {manifest.NAME})
        name = names[rng.integers(len(names))]
        content = folder.intact[name]
        if name.endswith(".json"):
            content = json.dumps(changed_tree(rng, json.loads(content))).encode()
        else:
            content = changed_npy(rng, content) if name.endswith(".npy") else changed(rng, content)
        tree = with_file(json.loads(text), name, content)
        return self.check(
            folder, {name: content, manifest.NAME: sealed(tree if choice == 2 else changed_tree(rng, tree))}
        )

    def check(self, folder: Folder, files: Mapping[str, bytes]) -> bool:
        with folder.holding(files):
            size = manifest.read(folder.path).size
            dataset = open_dataset("prepared", str(folder.path), size, CLASSES)
            statistics = dataset.statistics()
            mean = statistics.mean_image
            assert mean.shape == (size, size, 3) and mean.dtype == np.float32 and np.isfinite(mean).all()
            assert statistics.eigenvalues.shape == (3,) and statistics.eigenvectors.shape == (3, 3)
            for split in dataset.splits.values():
                assert split.labels.min() >= 0 and split.labels.max() < len(dataset.classes)
                assert all(isinstance(split.name(i), str) for i in range(len(split.labels)))
                for _ in read_all(split):
                    pass
            for _ in verification.packed(folder.path, quick=False, max_duplicates=1):
                pass
        return True


class Record:
    """Shards, as they are read for training: every image that is accepted has the pixels that were packed."""

    def __init__(self, home: Path):
        self.folders = [Folder(packed(home / CASE / store, store)) for store in ("raw", "jpeg")]
        self.pixels = []
        for folder in self.folders:
            opened = open_dataset("prepared", str(folder.path), 8, CLASSES).splits["train"]
            self.pixels.append(np.concatenate([batch.image[batch.mask] for batch in read_all(opened)]))

    def run(self, rng: Rng) -> bool:
        number = int(rng.integers(2))
        folder = self.folders[number]
        names = [name for name in sorted(folder.intact) if "-of-" in name and name.startswith("train")]
        name = names[rng.integers(len(names))]
        content = changed(rng, folder.intact[name], list(folder.intact.values()))
        if rng.random() < 0.7:  # at the original length
            content = content[: len(folder.intact[name])].ljust(len(folder.intact[name]), b"\0")
        tree = with_file(json.loads(folder.intact[manifest.NAME]), name, content)
        text = sealed(tree) if rng.random() < 0.5 else folder.intact[manifest.NAME]
        with folder.holding({name: content, manifest.NAME: text}):
            split = open_dataset("prepared", str(folder.path), 8, CLASSES).splits["train"]
            accepted = 0
            for batch in read_all(split):
                expected = self.pixels[number][batch.example[batch.mask]]
                np.testing.assert_array_equal(batch.image[batch.mask], expected)
                accepted += int(batch.mask.sum())
        return accepted == len(split.labels)


class Workdir:
    """A workdir's files besides checkpoints, which commands read."""

    def __init__(self, home: Path):
        from alexnet_jax.inference import predictions
        from alexnet_jax.run import config_files, workdir
        from tests.conftest import made_up_statistics
        from tests.tiny import tiny_config

        self.workdir, self.predictions = workdir, predictions
        path = home / CASE / "run"
        path.mkdir()
        opened = open_dataset("synthetic", "", 32, 10)._replace(statistics=made_up_statistics)
        workdir.prepare(path, config_files.parse(tiny_config()), opened)
        rng = np.random.default_rng(0)
        predictions.save(
            path / "predictions.npz",
            predictions.Predictions(
                np.log(rng.dirichlet(np.ones(5), 7)).astype(np.float32),
                rng.integers(0, 5, 7).astype(np.int32),
                np.arange(7, dtype=np.int32),
                3,
                "0" * 64,
            ),
        )
        self.folder = Folder(path)

    def run(self, rng: Rng) -> bool:
        name = sorted(self.folder.intact)[rng.integers(len(self.folder.intact))]
        content = self.folder.intact[name]
        if name.endswith(".json") and rng.random() < 0.7:
            content = json.dumps(changed_tree(rng, json.loads(content))).encode()
        else:
            content = changed_npz(rng, content) if name.endswith(".npz") else changed(rng, content)
        return self.check(name, content)

    def check(self, name: str, content: bytes) -> bool:
        path = self.folder.path
        with self.folder.holding({name: content}):
            if name.startswith("predictions"):
                return self.predictions.load(path / name) is not None
            finished = self.workdir.open_finished(path)
            size, statistics = finished.config.data.size, finished.statistics
            assert statistics.mean_image.shape == (size, size, 3) and statistics.mean_image.dtype == np.float32
            assert statistics.eigenvalues.shape == (3,) and statistics.eigenvectors.shape == (3, 3)
            assert finished.classes and all(isinstance(each, str) for each in finished.classes)
        return True


class Kind(Protocol):
    def __init__(self, home: Path): ...

    def run(self, rng: Rng) -> bool: ...


KINDS: dict[str, type[Kind]] = {
    "jpeg": Jpeg,
    "tar": Tar,
    "layout": Layout,
    "cifar10": Cifar10,
    "manifest": Manifest,
    "record": Record,
    "workdir": Workdir,
}


# --- intact inputs ---


def packed(path: Path, store: str) -> Path:
    """Prepare twelve images in shards of five, and a second split `val`."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    splits = {
        "train": array_split("train", pixels, np.arange(12) % 3),
        "val": array_split("val", pixels, np.arange(12) % 3),
    }
    source = Source(["cat", "dog", "été"], splits, {})
    default, packing.SHARD_IMAGES = packing.SHARD_IMAGES, 5
    try:
        packing.pack(source, path, packing.Settings(store, 8, 95, 0.0), show_progress=False)
    finally:
        packing.SHARD_IMAGES = default
    return path


def _cifar10_binary() -> bytes:
    rng = np.random.default_rng(2)
    names = [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]
    batches = [(name, b"".join(bytes([i]) + rng.bytes(3072) for i in range(3))) for name in names]
    return ilsvrc.tar([*batches, ("batches.meta.txt", "\n".join("abcdefghij").encode())], "w:gz")


def _cifar10_python() -> bytes:
    """Pickles are written here, but never loaded."""
    import pickle

    rng = np.random.default_rng(3)
    members = []
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        batch = {b"data": rng.integers(0, 256, (3, 3072), dtype=np.uint8), b"labels": [0, 5, 9]}
        members.append((name, pickle.dumps(batch, protocol=2)))
    members.append(
        ("batches.meta", pickle.dumps({b"label_names": [name.encode() for name in "abcdefghij"]}, protocol=2))
    )
    return ilsvrc.tar(members, "w:gz")


def read_all(split: records.Images) -> Iterator:
    """The batches of a split, each image once, as in evaluation; any share of the images may be damaged."""
    order = Order(len(split.labels), 4, seed=None)
    with contextlib.closing(Batches(split, order, 0, order.steps_per_epoch, Reading(0, 1, max_bad=1))) as batches:
        yield from batches


def sealed(tree: Any) -> bytes:
    """A manifest with its matching checksum, if it can have one: an attacker can compute it too."""
    try:
        described = manifest._sealed(manifest.Manifest.model_validate(tree))
        return described.model_dump_json().encode()
    except (ValueError, TypeError):
        return json.dumps(tree).encode()


def with_file(tree: Any, name: str, content: bytes) -> Any:
    """A manifest with the length and checksum of the new `content` of `name`."""
    for entry in [tree["mean_image"], *(entry for split in tree["splits"].values() for entry in split.values())]:
        for file in entry if isinstance(entry, list) else [entry]:
            if isinstance(file, dict) and file.get("name") == name:
                file["bytes"], file["xxh128"] = len(content), xxhash.xxh3_128_hexdigest(content)
    return tree
