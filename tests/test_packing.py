"""From image files to packed shards."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from alexnet_jax.data import datasets, images, manifest, packing, records, statistics
from alexnet_jax.data.manifest import Manifest
from alexnet_jax.data.sources import folder
from alexnet_jax.errors import DataError, UserError
from tests import runs
from tests.conftest import ROOT
from tests.test_images import JPEG
from tests.test_loader import read


def settings(**changes) -> packing.Settings:
    return packing.Settings(**{"store": "raw", "size": 24, "quality": 95, "max_corrupt": 0.01} | changes)


def pack(images: Path, output: Path, val_fraction=0.0, **changes) -> Manifest:
    return packing.pack(folder.folder(images, val_fraction), output, settings(**changes), show_progress=False)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_packed_images_labels_names_and_statistics(store, image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_IMAGES", 4)
    monkeypatch.setattr(
        packing, "BLOCK_BYTES", 3 * 24 * 24 * 3
    )  # three images per block, so that blocks end within shards
    files = sorted(image_folder({"cat": 7, "dog": 6}).glob("*/*.jpg"))
    described = pack(tmp_path / "images", tmp_path / "out", store=store)
    assert described == manifest.read(tmp_path / "out")
    assert described.classes == ["cat", "dog"]
    assert [shard.count for shard in described.splits["train"].shards] == [4, 4, 4, 1]
    split = records.open_split(tmp_path / "out", described, "train")
    assert split.labels.tolist() == [0] * 7 + [1] * 6
    assert [split.name(i) for i in range(13)] == [f"{file.parent.name}/{file.name}" for file in files]
    expected = np.stack([images.to_square(images.decode(file.read_bytes()).pixels, 24) for file in files])
    order = np.array([12, 0, 5, 5, 3, 4])
    pixels, bad = read(split, order)
    assert not bad
    assert np.abs(pixels.astype(int) - expected[order]).max() <= (0 if store == "raw" else 40)

    # The statistics are taken before JPEG compression, so they do not depend on the store.
    stored = records.statistics_of(tmp_path / "out", described)
    np.testing.assert_allclose(stored.mean_image, expected.mean(axis=0, dtype=np.float64), rtol=1e-6)
    covariance = np.cov(expected.reshape(-1, 3).T.astype(np.float64), bias=True)
    vectors = stored.eigenvectors.astype(np.float64)
    np.testing.assert_allclose(vectors * stored.eigenvalues @ vectors.T, covariance, rtol=1e-4, atol=1e-2)
    assert stored.eigenvalues[0] >= stored.eigenvalues[1] >= stored.eigenvalues[2] >= 0
    for path in (tmp_path / "out").iterdir():
        assert path.name in json.dumps(described.model_dump()) or path.name == "manifest.json"
    for shard in described.splits["train"].shards:
        assert manifest.describe(tmp_path / "out" / shard.name).xxh128 == shard.xxh128


def test_sums_are_exact_for_any_grouping_of_the_images():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 64, 48, 3), dtype=np.uint8)
    pixels[0] = 255  # the largest products
    whole, halves = statistics.sums_of(pixels), statistics.sums_of(pixels[:2]) + statistics.sums_of(pixels[2:])
    colours = pixels.reshape(-1, 3).astype(np.int64)
    for sums in (whole, halves):
        assert sums.images == 5
        np.testing.assert_array_equal(sums.pixels, pixels.sum(axis=0, dtype=np.int64))
        np.testing.assert_array_equal(sums.products, colours.T @ colours)


def test_corrupt_images_are_listed_and_skipped_up_to_max_corrupt(image_folder, tmp_path):
    images = image_folder({"cat": 10, "dog": 10})
    (images / "cat" / "broken.jpg").write_bytes(JPEG[:300])
    (images / "dog" / "notes.txt").write_text("not an image")
    (images / "dog" / ".hidden").write_text("ignored")
    with pytest.raises(
        UserError, match=r"2 of the 22 images .* share of 0.01 that --max_corrupt allows.*\n  cat/broken"
    ):
        pack(images, tmp_path / "out")
    (images / "cat" / "broken.jpg").write_bytes(JPEG)  # mended in place: the same command continues
    with pytest.raises(UserError, match=r"1 of the 22 images .*\n  dog/notes.txt"):
        pack(images, tmp_path / "out")
    (images / "cat" / "broken.jpg").write_bytes(JPEG[:300])
    manifest = pack(images, tmp_path / "out", max_corrupt=0.1)
    assert [image.name for image in manifest.splits["train"].skipped] == ["cat/broken.jpg", "dog/notes.txt"]
    assert all(image.reason for image in manifest.splits["train"].skipped)
    split = records.open_split(tmp_path / "out", manifest, "train")
    assert split.labels.tolist() == [0] * 10 + [1] * 10
    assert not read(split, np.arange(20))[1]


def test_other_prepared_data_is_not_overwritten(image_folder, tmp_path):
    images = image_folder({"cat": 2, "dog": 2})
    first = pack(images, tmp_path / "out")
    assert pack(images, tmp_path / "out") == first  # already there
    with pytest.raises(UserError, match="holds other data"):
        pack(images, tmp_path / "out", size=16)
    with pytest.raises(UserError, match="neither empty nor an unfinished preparation"):
        pack(images, images)


@pytest.mark.slow
def test_prepare_resumed_after_a_kill_gives_the_same_bytes(image_folder, tmp_path):
    """`kill -9` hits a real process between two shards; the second run keeps the finished ones."""
    images = image_folder({f"class{i}": 40 for i in range(10)}, size=(300, 300))
    program = (
        "from alexnet_jax.__main__ import main; from alexnet_jax.data import packing; packing.SHARD_IMAGES = 20; main()"
    )
    arguments = ["--source", "folder", "--input", str(images), "--size", "64", "--val_fraction", "0.2"]

    def command(output: Path):
        return [sys.executable, "-c", program, "prepare", *arguments, "--output", str(output)]

    runs.run(command(tmp_path / "whole"))
    killed = runs.start(command(tmp_path / "killed"))
    parts = tmp_path / "killed" / "parts"
    while killed.poll() is None and len(list(parts.glob("train*.npz"))) < 3:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    kept = {part.name.removesuffix(".npz"): part.stat().st_mtime_ns for part in parts.glob("train*.npz")}
    assert kept and not (tmp_path / "killed" / "manifest.json").exists()
    times = {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in kept}
    with pytest.raises(
        UserError, match=r"holds no prepared data.* the same command resumes an interrupted preparation"
    ):
        manifest.read(tmp_path / "killed")
    runs.run(command(tmp_path / "killed"))
    assert contents(tmp_path / "whole") == contents(tmp_path / "killed")
    assert times == {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in kept}


def test_open_errors(image_folder, tmp_path):
    with pytest.raises(UserError, match=r"config.data.directory is empty. For ImageNet.*source=synthetic"):
        datasets.open_dataset("prepared", "", 24, 10)
    with pytest.raises(UserError, match=r"nowhere does not exist. For ImageNet"):
        datasets.open_dataset("prepared", str(tmp_path / "nowhere"), 24, 10)
    with pytest.raises(UserError, match="holds no prepared data"):
        datasets.open_dataset("prepared", str(tmp_path), 24, 10)
    out = tmp_path / "out"
    pack(image_folder({"cat": 3, "dog": 2, "eel": 1}), out)
    with pytest.raises(UserError, match=r"24x24 and config.data.size is 32; give --config.data.size=24"):
        datasets.open_dataset("prepared", str(out), 32, 10)
    with pytest.raises(UserError, match=r"3 classes and the network only 2; give --config.model.num_classes=3"):
        datasets.open_dataset("prepared", str(out), 24, 2)
    dataset = datasets.open_dataset("prepared", str(out), 24, 3)
    with pytest.raises(UserError, match="no split 'val', only train"):
        datasets.split_of(dataset, "val", "config.data.eval_split")


def flipped(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train-00000-of-00001.raw", None, "raw is missing"),
        ("train-00000-of-00001.raw", lambda content: content[:-1], r"raw has [\d,]+ bytes and should have"),
        ("train.labels.npy", None, "train.labels.npy is missing"),
        ("train.labels.npy", flipped, "train.labels.npy has changed since"),
        ("train.hashes.npy", flipped, "train.hashes.npy has changed since"),
        ("train.names.json", flipped, "train.names.json has changed since"),
        ("mean_image.npy", flipped, "mean_image.npy has changed since"),
        ("manifest.json", None, "holds no prepared data"),
        ("manifest.json", lambda content: content[:100], "manifest.json cannot be read"),
        ("manifest.json", lambda content: b"[]", "manifest.json cannot be read"),
        ("manifest.json", lambda content: content.replace(b'"quality": null', b'"quality": 7'), "has changed since"),
        (
            "manifest.json",
            lambda content: content.replace(b'"count": 6', b'"count": 7'),
            "does not match its number of images",
        ),
        ("manifest.json", lambda content: b'{"format": 1, "old": true}', "has format 1, but this version reads 2"),
        ("manifest.json", lambda content: content.replace(b'"format": 2', b'"format": 3'), "has format 3"),
    ],
)
def test_damaged_files_are_named(file, change, message, image_folder, tmp_path):
    out = tmp_path / "out"
    pack(image_folder({"cat": 3, "dog": 3}), out)
    content = (out / file).read_bytes()
    (out / file).unlink()
    if change:
        (out / file).write_bytes(change(content))
    with pytest.raises(UserError, match=message):
        datasets.open_dataset("prepared", str(out), 24, 3)


def test_preparing_again_over_damaged_data_is_refused(image_folder, tmp_path):
    images = image_folder({"cat": 3, "dog": 3})
    pack(images, tmp_path / "out")
    (tmp_path / "out" / "train-00000-of-00001.raw").unlink()
    with pytest.raises(DataError, match=r"train-00000-of-00001.raw is missing; restore it from a copy, or remove"):
        pack(images, tmp_path / "out")


@pytest.mark.parametrize("kept", [0, 100, 4000])
def test_a_part_file_cut_by_a_power_failure_is_rewritten(kept, image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_IMAGES", 4)
    images = image_folder({"cat": 6, "dog": 6})
    pack(images, tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(packing, "_manifest", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pack(images, tmp_path / "cut")
    part = tmp_path / "cut" / "parts" / "train-00001-of-00003.raw.npz"
    assert part.stat().st_size > 4000
    os.truncate(part, kept)
    pack(images, tmp_path / "cut")
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")


def test_only_one_process_prepares_a_folder(image_folder, tmp_path):
    images = image_folder({"cat": 3, "dog": 3})
    source = folder.folder(images, 0.0)
    split = source.splits["train"]

    def read(i: int):
        with pytest.raises(UserError, match="another process is preparing"):
            pack(images, tmp_path / "out")
        return split.read(i)

    reading = source._replace(splits={"train": split._replace(read=read)})
    packing.pack(reading, tmp_path / "out", settings(), show_progress=False)
    assert pack(images, tmp_path / "out").splits["train"].count == 6


def test_an_error_of_the_disk_stops_packing_and_skips_nothing(image_folder, tmp_path):
    source = folder.folder(image_folder({"cat": 3, "dog": 3}), 0.0)
    split = source.splits["train"]

    def fails(i: int):
        if i == 4:
            raise OSError(5, "Input/output error")
        return split.read(i)

    with pytest.raises(UserError, match=r"cannot read dog/001.jpg: .*Input/output error. What is finished is kept"):
        failing = source._replace(splits={"train": split._replace(read=fails)})
        packing.pack(failing, tmp_path / "out", settings(max_corrupt=0.9), show_progress=False)
    described = packing.pack(source, tmp_path / "out", settings(), show_progress=False)
    assert described.splits["train"].count == 6 and not described.splits["train"].skipped


def test_more_shards_than_files_may_be_open(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_IMAGES", 1)
    described = pack(image_folder({"cat": 60, "dog": 60}), tmp_path / "out")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/dev/fd").iterdir())) + 50, hard))
        split = records.open_split(tmp_path / "out", described, "train")
        assert not read(split, np.arange(120))[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- the disk ---


@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_the_space_needed_is_printed_and_checked_first(store, image_folder, tmp_path, monkeypatch, capsys):
    images = image_folder({"cat": 40, "dog": 40})
    folder_source = folder.folder(images, 0.0)
    packing.pack(folder_source, tmp_path / "out", settings(store=store), show_progress=True)
    printed = re.search(r"needs ([\d.e-]+) GB more, and its disk has [\d.]+ GB free", capsys.readouterr().out)
    assert printed is not None
    written = sum(path.stat().st_size for path in (tmp_path / "out").glob("train*"))
    assert 1.0 <= float(printed[1]) * 1e9 / written <= 3

    monkeypatch.setattr(packing.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 999))
    with pytest.raises(UserError, match=r"its disk has 9.99e-07 GB free; make room"):
        packing.pack(folder_source, tmp_path / "small", settings(store=store), show_progress=False)
    assert not (tmp_path / "small").exists()


LIMITED = """
import resource
from alexnet_jax.__main__ import main
from alexnet_jax.data import packing
packing.SHARD_IMAGES = 20
resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))  # the longest file allowed: like a disk that is full
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_a_disk_that_fills_up_within_a_shard_loses_nothing(store, image_folder, tmp_path):
    images = image_folder({"cat": 30, "dog": 30}, size=(64, 64))
    arguments = ["--source", "folder", "--input", str(images), "--size", "64", "--val_fraction", "0", "--store", store]

    def run(limit: int, output: str):
        command = [sys.executable, "-c", LIMITED.replace("(LIMIT, LIMIT)", str((limit, limit))), "prepare", *arguments]
        return subprocess.run(
            [*command, "--output", str(tmp_path / output)], cwd=ROOT, capture_output=True, text=True, check=False
        )

    assert run(2**30, "whole").returncode == 0
    shard = next((tmp_path / "whole").glob("train-00000*"))
    full = run(shard.stat().st_size // 2, "full")
    assert full.returncode == 2
    assert re.search(
        r"error: cannot write to .*full: (.*)File too large.* finished shards are kept; make room", full.stderr
    )
    assert "Traceback" not in full.stderr
    assert not list((tmp_path / "full").glob("*.tmp")) and not (tmp_path / "full" / "manifest.json").exists()
    assert run(2**30, "full").returncode == 0
    assert contents(tmp_path / "whole") == contents(tmp_path / "full")


def test_a_full_file_system(image_folder, tmp_path):
    """On a real, small disk."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        images = image_folder({"cat": 60, "dog": 60})
        described = pack(images, tmp_path / "whole", size=48)
        filler = disk / "filler"
        filler.write_bytes(bytes(3 * 2**19))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(packing, "_check_room", lambda *_: None)  # something else fills the disk later
            patched.setattr(packing, "SHARD_IMAGES", 50)
            with pytest.raises(UserError, match="No space left on device"):
                pack(images, disk / "out", size=48)
            kept = [path.name for path in (disk / "out").glob("train-*")]
            assert kept == ["train-00000-of-00003.raw"]
            filler.unlink()
            again = pack(images, disk / "out", size=48)
        assert again.plan == described.plan
        resumed, expected = (
            records.open_split(path, m, "train") for path, m in ((disk / "out", again), (tmp_path / "whole", described))
        )
        np.testing.assert_array_equal(read(resumed, np.arange(120))[0], read(expected, np.arange(120))[0])
        del resumed
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_file_names_may_be_any_bytes(image_folder, tmp_path):
    images = image_folder({"猫": 2, "dog": 2})
    (images / "dog" / "000.jpg").rename(os.fsdecode(os.fsencode(images / "dog") + b"/\xff\xfe.jpg"))
    (images / "dog" / "zero.jpg").write_bytes(b"")
    (images / "猫").rename(os.fsdecode(os.fsencode(images / "z") + b"\xff"))
    assert folder.folder(images, 0.5).splits["val"].names  # decided by a hash of the names
    described = pack(images, tmp_path / "out", max_corrupt=0.5)
    assert described.classes == ["dog", r"z\xff"]
    assert manifest.read(tmp_path / "out") == described
    split = records.open_split(tmp_path / "out", described, "train")
    assert [split.name(i) for i in range(4)] == ["dog/001.jpg", r"dog/\xff\xfe.jpg", r"z\xff/000.jpg", r"z\xff/001.jpg"]
    assert [image.name for image in described.splits["train"].skipped] == ["dog/zero.jpg"]


def test_fingerprints_differ_for_different_data(image_folder, tmp_path):
    pack(image_folder({"cat": 3, "dog": 2}, at="a"), tmp_path / "one")
    pack(image_folder({"cat": 3, "dog": 2}, at="b"), tmp_path / "same")
    pack(image_folder({"cat": 2, "dog": 3}, at="c"), tmp_path / "other")
    one, same, other = (
        datasets.open_dataset("prepared", str(tmp_path / name), 24, 2).fingerprint for name in ("one", "same", "other")
    )
    assert one == same != other
