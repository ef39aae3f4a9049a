"""What is fuzzed: for each kind of input its sound forms, and the way that the program takes one in.

A case is accepted, or refused by an error of the program's own that names it. Anything else is a finding.
"""

import contextlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_jax import workdir
from alexnet_jax.data import images, manifest, packing, records, statistics
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.manifest import Manifest
from alexnet_jax.data.sources import archives, cifar10, devkit
from alexnet_jax.data.sources.source import Source, array_split
from alexnet_jax.errors import UserError
from tests import ilsvrc
from tests.conftest import encoded
from tests.fuzz.mutate import mutated, mutated_json

Case = Callable[[np.random.Generator], bool]  # runs one case; whether its input was accepted
SIZE = 16
rng0 = np.random.default_rng(0)
PIXELS = np.asarray(Image.fromarray(rng0.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((40, 30)))


def pick(rng: np.random.Generator, seeds: list[bytes]) -> bytes:
    return mutated(rng, seeds[int(rng.integers(len(seeds)))], seeds[int(rng.integers(len(seeds)))])


def jpeg(home: Path) -> Case:
    """Files of images as `prepare` and `predict` take them, and records as the loader does."""
    grey, four = Image.fromarray(PIXELS).convert("L"), Image.fromarray(PIXELS).convert("CMYK")
    seeds = [encoded(PIXELS, "JPEG", quality=90), encoded(PIXELS, "JPEG", progressive=True), encoded(grey, "JPEG")]
    seeds += [encoded(four, "JPEG"), encoded(PIXELS, "PNG"), encoded(PIXELS, "GIF"), encoded(PIXELS, "BMP")]
    seeds += [encoded(PIXELS, "TIFF"), encoded(PIXELS, "WEBP"), images.encode_jpeg(PIXELS[:SIZE, :SIZE], 90)]
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    assert all(images.decode(content).pixels.shape[:2] in ((30, 40), (SIZE, SIZE)) for content in seeds)

    def case(rng: np.random.Generator) -> bool:
        content = pick(rng, seeds)
        try:
            decoded = images.decode(content)
        except images.CorruptImage:
            accepted = False
        else:
            assert decoded.pixels.dtype == np.uint8 and decoded.pixels.shape[2:] == (3,)
            assert images.to_square(decoded.pixels, SIZE).shape == (SIZE, SIZE, 3)
            accepted = True
        with contextlib.suppress(ValueError):
            images.decode_jpeg(content, out)
        return accepted

    return case


def hostile() -> bytes:
    """A tar with all that could reach out of it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("../escaped", "/tmp/escaped", "a/../../escaped"):
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"text"))
        for kind, target in ((tarfile.SYMTYPE, "../"), (tarfile.LNKTYPE, "/etc/passwd"), (tarfile.CHRTYPE, "")):
            info = tarfile.TarInfo(f"special{kind!r}")
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return out.getvalue()


def tar(home: Path) -> Case:
    """The archives of ImageNet and of CIFAR-10, each by all that read tars."""
    seeds, take = tar_bytes(home)
    return lambda rng: take(pick(rng, seeds))


def tar_bytes(home: Path) -> tuple[list[bytes], Callable[[bytes], bool]]:
    ilsvrc.make(home / "ilsvrc", 2012, 2)
    seeds = [path.read_bytes() for path in sorted((home / "ilsvrc").iterdir())]
    small = [("cifar-10-batches-bin/test_batch.bin", bytes(3073)), ("cifar-10-batches-bin/batches.meta.txt", b"cat\n")]
    inner = ilsvrc.tar([("n01_1.JPEG", encoded(PIXELS, "JPEG"))])
    seeds += [ilsvrc.tar(small, "w:gz"), ilsvrc.tar([("n01.tar", inner), ("n02.tar", inner)]), hostile()]
    path = home / "case" / "input.tar"
    path.parent.mkdir()

    def take(content: bytes) -> bool:
        path.write_bytes(content)
        accepted = False
        for read in (_by_class, _in_a_row, lambda p: devkit.read(p, 2012), cifar10.cifar10):
            try:
                read(path)
                accepted = True
            except UserError:
                pass
        assert [entry.name for entry in path.parent.iterdir()] == ["input.tar"]
        return accepted

    return seeds, take


def _by_class(path: Path) -> None:
    for listing in archives.by_class(path).values():
        for _, place in listing:
            place.read()


def _in_a_row(path: Path) -> None:
    for _, place in archives.in_a_row(path):
        place.read()


def packed(folder: Path, store: str) -> Manifest:
    pixels = rng0.integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)
    labels = np.array([0, 1, 0, 1, 0, 1])
    splits = {"train": array_split("train", pixels, labels), "val": array_split("val", pixels[:2], labels[:2])}
    settings = packing.Settings(store, SIZE, 90, 0.0)
    return packing.pack(Source(["cat", "dog"], splits, {}), folder, settings, show_progress=False)


def use(folder: Path) -> None:
    """What training does with prepared data, to the last record."""
    dataset = open_dataset("prepared", str(folder), SIZE, 10)
    for split in dataset.splits.values():
        assert split.labels.dtype == np.int32 and split.labels.ndim == 1
        assert ((split.labels >= 0) & (split.labels < len(dataset.classes))).all()
        out = np.empty((len(split.labels), SIZE, SIZE, 3), np.uint8)
        split.read(np.arange(len(split.labels)), out)
        assert isinstance(split.name(0), str)
    assert dataset.statistics.mean_image.shape == (SIZE, SIZE, 3)
    assert dataset.statistics.eigenvectors.shape == (3, 3) and dataset.statistics.eigenvalues.shape == (3,)


def manifests(home: Path) -> Case:
    """The manifest and the small files beside it; two of three cases with sums that are right, as an attacker's are."""
    folders = [home / store for store in ("raw", "jpeg")]
    trees = [packed(folder, folder.name).model_dump(mode="json") for folder in folders]
    small = [sorted(p for p in folder.iterdir() if p.suffix in (".npy", ".json")) for folder in folders]
    kept = {path: path.read_bytes() for paths in small for path in paths}
    for folder in folders:
        use(folder)

    def case(rng: np.random.Generator) -> bool:
        which = int(rng.integers(2))
        folder, path = folders[which], small[which][int(rng.integers(len(small[which])))]
        try:
            if rng.random() < 0.5:
                write_sealed(folder, mutated_json(rng, trees[which]))
            else:
                path.write_bytes(mutated(rng, kept[path], kept[path]))
                if path.name != manifest.NAME and rng.random() < 0.7:
                    write_sealed(folder, _described_again(trees[which], path))
            try:
                use(folder)
            except UserError:
                return False
            return True
        finally:
            for file in {path, folder / manifest.NAME}:
                file.write_bytes(kept[file])
            assert {p.name for p in home.iterdir()} == {"raw", "jpeg"}

    return case


def manifest_bytes(home: Path) -> tuple[list[bytes], Callable[[bytes], bool]]:
    packed(home / "raw", "raw")
    path = home / "raw" / manifest.NAME

    def take(content: bytes) -> bool:
        path.write_bytes(content)
        try:
            tree = json.loads(content)
            if isinstance(tree, dict) and isinstance(tree.get("format"), int):
                write_sealed(home / "raw", tree)
        except (ValueError, RecursionError):
            pass  # then it is tried as it is
        try:
            use(home / "raw")
        except UserError:
            return False
        return True

    return [path.read_bytes()], take


def write_sealed(folder: Path, tree: object) -> None:
    try:
        manifest.write(folder, Manifest.model_validate(tree))
    except ValueError:  # no manifest, or one with what no file can hold
        (folder / manifest.NAME).write_text(json.dumps(tree))


def _described_again(tree: dict, path: Path) -> dict:
    copy = json.loads(json.dumps(tree))
    files = [
        copy["mean_image"],
        *(split[kind] for split in copy["splits"].values() for kind in ("labels", "hashes", "names")),
    ]
    for file in files:
        if file["name"] == path.name:
            file.update(manifest.described(path).model_dump())
    return copy


def record(home: Path) -> Case:
    """Shards, of the length they should have or another, and their records."""
    folders = [home / store for store in ("raw", "jpeg")]
    shards = []
    for folder in folders:
        described = packed(folder, folder.name)
        shards += [folder / shard.name for split in described.splits.values() for shard in split.shards]
    kept = {path: path.read_bytes() for path in shards}
    for folder in folders:
        use(folder)

    def case(rng: np.random.Generator) -> bool:
        path = shards[int(rng.integers(len(shards)))]
        content = mutated(rng, kept[path], kept[path])
        if rng.random() < 0.9:  # of the right length: else the opening finds it
            content = content[: len(kept[path])].ljust(len(kept[path]), b"\0")
        path.write_bytes(content)
        try:
            described = manifest.read(path.parent)
            for name in described.splits:
                split = records.open_split(path.parent, described, name)
                out = np.empty((len(split.labels), SIZE, SIZE, 3), np.uint8)
                if split.read(np.arange(len(split.labels)), out):
                    return False
            return True
        except UserError:
            return False
        finally:
            path.write_bytes(kept[path])

    return case


def run_folder(home: Path) -> Case:
    """config.json, run.json and statistics.npz of a workdir, as every command opens them."""
    from alexnet_jax import config_files
    from tests.tiny import tiny_config

    (home / workdir.CONFIG).write_text(config_files.to_json(config_files.parse(tiny_config())))
    (home / workdir.RUN).write_text(json.dumps({"classes": ["cat", "dog"], "data": "0" * 64, "starts": []}))
    of = statistics.of_sums(statistics.sums_of([PIXELS[:SIZE, :SIZE]]))
    np.savez(home / workdir.STATISTICS, **of._asdict())
    kept = {path: path.read_bytes() for path in sorted(home.iterdir())}
    assert workdir.open_finished(home).classes == ["cat", "dog"]

    def case(rng: np.random.Generator) -> bool:
        path = list(kept)[int(rng.integers(len(kept)))]
        if path.suffix == ".json" and rng.random() < 0.5:
            path.write_text(json.dumps(mutated_json(rng, json.loads(kept[path]))))
        else:
            path.write_bytes(mutated(rng, kept[path], kept[path]))
        try:
            found = workdir.open_finished(home)
            assert all(isinstance(name, str) for name in found.classes)
            assert found.statistics.mean_image.dtype == np.float32 and found.statistics.eigenvectors.shape == (3, 3)
            return True
        except UserError:
            return False
        finally:
            path.write_bytes(kept[path])

    return case


KINDS: dict[str, Callable[[Path], Case]] = {
    "jpeg": jpeg,
    "tar": tar,
    "manifest": manifests,
    "record": record,
    "workdir": run_folder,
}
# Those in pure Python, for tests/fuzz/guided.py: sound forms, and what takes one in.
BYTES: dict[str, Callable[[Path], tuple[list[bytes], Callable[[bytes], bool]]]] = {
    "tar": tar_bytes,
    "manifest": manifest_bytes,
}
