"""From image files to packed shards, and from shards to batches."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data import datasets, images, loader, packing, records, sources, statistics
from alexnet_jax.errors import UserError
from tests.conftest import ROOT


def settings(**changes) -> packing.Settings:
    return packing.Settings(**{"store": "raw", "size": 24, "quality": 95, "max_corrupt": 0.01} | changes)


def pack(folder: Path, output: Path, val_fraction=0.0, **changes) -> records.Manifest:
    return packing.pack(sources.folder(folder, val_fraction), output, settings(**changes), show_progress=False)


def encoded(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    image.save(out, kind, **options)
    return out.getvalue()


SMOOTH = np.asarray(Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5).resize((40, 30)))


# --- one image ---


@pytest.mark.parametrize(
    ("content", "tolerance"),
    [
        (encoded(SMOOTH, "PNG"), 0),
        (encoded(SMOOTH, "BMP"), 0),
        (encoded(SMOOTH, "WEBP", lossless=True), 0),
        (encoded(Image.fromarray(SMOOTH).convert("RGBA"), "PNG"), 0),
        (encoded(SMOOTH, "JPEG", quality=100, subsampling=0), 3),
        (encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=100), 6),
        (encoded(Image.fromarray(SMOOTH).convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), 16),
    ],
    ids=["png", "bmp", "webp", "rgba", "jpeg", "cmyk", "palette"],
)
def test_decode_gives_rgb_whatever_the_format(content, tolerance):
    pixels = np.asarray(images.decode(content)).astype(int)
    assert pixels.shape == SMOOTH.shape
    assert np.abs(pixels - SMOOTH).max() <= tolerance


def test_grey_images_have_three_equal_channels():
    for kind in ("JPEG", "PNG"):
        pixels = np.asarray(images.decode(encoded(Image.fromarray(SMOOTH).convert("L"), kind)))
        assert pixels.shape == (30, 40, 3)
        assert (pixels == pixels[..., :1]).all()


def test_16_bit_grey_keeps_its_range_and_floats_are_refused():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    pixels = np.asarray(images.decode(encoded(Image.fromarray(ramp), "PNG")))
    np.testing.assert_array_equal(pixels[..., 0].reshape(-1), np.arange(256))
    with pytest.raises(images.CorruptImage, match="floating-point"):
        images.decode(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


def test_photos_are_turned_upright():
    for kind in ("JPEG", "PNG"):
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was held on its side
        content = encoded(SMOOTH, kind, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
        pixels = np.asarray(images.decode(content)).astype(int)
        assert np.abs(pixels - np.rot90(SMOOTH, -1).astype(int)).max() <= 3


JPEG, PNG = encoded(SMOOTH, "JPEG"), encoded(SMOOTH, "PNG")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"notes on the images",
        JPEG[: len(JPEG) // 2],
        JPEG[:-2],
        JPEG[: len(JPEG) // 2] + bytes(range(60)) + JPEG[len(JPEG) // 2 + 60 :],
        PNG[: len(PNG) // 2],
    ],
    ids=["empty", "text", "half", "no end", "damaged", "half a png"],
)
def test_damaged_images_are_refused(content):
    with pytest.raises(images.CorruptImage):
        images.decode(content)


def test_images_of_absurd_size_are_refused():
    bomb = encoded(Image.new("1", (20000, 20000)), "PNG")
    with pytest.raises(images.CorruptImage, match="20000x20000 pixels are more than"):
        images.decode(bomb)


def test_square_is_the_scaled_centre():
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = np.arange(20, dtype=np.uint8)[:, None, None] * 10
    square = images.to_square(Image.fromarray(wide), 10)
    np.testing.assert_array_equal(square[:, 3], (wide[::2, 15].astype(int) + wide[1::2, 15]) // 2)  # area averages
    assert (square == square[:, :1]).all()
    assert images.to_square(Image.fromarray(wide), 60).shape == (60, 60, 3)
    np.testing.assert_array_equal(images.to_square(Image.fromarray(wide), 20), wide[:, 10:30])


# --- sources ---


def test_folder_with_a_fraction_for_validation(image_folder):
    folder = image_folder({"cat": 30, "dog": 20})
    source = sources.folder(folder, 0.3)
    names = {split: set(source.splits[split].names) for split in source.splits}
    assert source.classes == ["cat", "dog"]
    assert len(names["train"]) + len(names["val"]) == 50 and not names["train"] & names["val"]
    assert 5 <= len(names["val"]) <= 25
    (folder / "cat" / "new.jpg").write_bytes(JPEG)  # a new image moves no other
    assert names["val"] <= set(sources.folder(folder, 0.3).splits["val"].names)
    assert set(sources.folder(folder, None).splits) == {"train", "val"}


def test_folder_with_split_folders(image_folder):
    image_folder({"cat": 3, "dog": 2}, at="images/train")
    folder = image_folder({"dog": 1, "cat": 1}, at="images/test").parent
    source = sources.folder(folder, None)
    assert {name: split.labels.tolist() for name, split in source.splits.items()} == {
        "train": [0, 0, 0, 1, 1],
        "test": [0, 1],
    }
    assert set(sources.folder(folder, 0.5).splits) == {"train", "test", "val"}


def test_folder_errors(image_folder, tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        sources.folder(tmp_path / "nowhere", None)
    with pytest.raises(UserError, match=r"1 class folder\(s\) and at least 2"):
        sources.folder(image_folder({"cat": 1}, at="one"), None)
    folder = image_folder({"cat": 1, "dog": 1})
    (folder / "bird").mkdir()
    with pytest.raises(UserError, match=r"class folder .*bird is empty"):
        sources.folder(folder, None)
    image_folder({"cat": 1, "dog": 1}, at="split/train")
    image_folder({"cat": 1, "dog": 1, "eel": 1}, at="split/val")
    with pytest.raises(UserError, match=r"classes that the training images lack: eel"):
        sources.folder(tmp_path / "split", None)
    image_folder({"cat": 1, "dog": 1}, at="lonely/val")
    with pytest.raises(UserError, match=r"no train/"):
        sources.folder(tmp_path / "lonely", None)


def test_digits():
    source = sources.digits()
    assert {name: len(split.names) for name, split in source.splits.items()} == {"train": 1437, "test": 360}
    first = source.splits["test"].read(0)
    assert isinstance(first, np.ndarray) and first.shape == (8, 8, 3)


# --- packing ---


@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_packed_images_labels_and_statistics(store, image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_IMAGES", 4)
    folder = image_folder({"cat": 7, "dog": 6})
    manifest = pack(folder, tmp_path / "out", store=store)
    assert manifest.classes == ["cat", "dog"]
    assert [shard.count for shard in manifest.splits["train"].shards] == [4, 4, 4, 1]
    split = records.open_split(tmp_path / "out", manifest, "train")
    assert split.labels.tolist() == [0] * 7 + [1] * 6
    files = sorted(folder.glob("*/*.jpg"))
    expected = np.stack([images.to_square(images.decode(file.read_bytes()), 24) for file in files])
    order = np.array([12, 0, 5, 5, 3, 4])
    seen = split.read(order)
    assert np.abs(seen.astype(int) - expected[order]).max() <= (0 if store == "raw" else 40)

    stored = split.read(np.arange(13)).astype(np.float64)  # the statistics are of what is stored
    found = records.statistics_of(tmp_path / "out", manifest)
    np.testing.assert_allclose(found.mean_image, stored.mean(axis=0), rtol=1e-6)
    covariance = np.cov(stored.reshape(-1, 3).T, bias=True)
    vectors = found.eigenvectors.astype(np.float64)
    np.testing.assert_allclose(vectors * found.eigenvalues @ vectors.T, covariance, rtol=1e-4, atol=1e-2)
    assert found.eigenvalues[0] >= found.eigenvalues[1] >= found.eigenvalues[2] >= 0
    for file in (tmp_path / "out").iterdir():
        assert file.name in json.dumps(manifest.model_dump()) or file.name == "manifest.json"
    for shard in manifest.splits["train"].shards:
        assert records.described(tmp_path / "out" / shard.name)["sha256"] == shard.sha256


def test_sums_do_not_depend_on_how_images_are_grouped():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    whole, parts = statistics.sums_of(pixels), statistics.sums_of(pixels[:2]) + statistics.sums_of(pixels[2:])
    assert whole.images == parts.images
    np.testing.assert_array_equal(whole.pixels, parts.pixels)
    np.testing.assert_array_equal(whole.products, parts.products)


def test_corrupt_images_are_listed_and_skipped_up_to_a_share(image_folder, tmp_path):
    folder = image_folder({"cat": 10, "dog": 10})
    (folder / "cat" / "broken.jpg").write_bytes(JPEG[:300])
    (folder / "dog" / "notes.txt").write_text("not an image")
    (folder / "dog" / ".hidden").write_text("passed over")
    with pytest.raises(
        UserError, match=r"2 of the 22 images .* share of 0.01 that --max_corrupt allows.*\n  cat/broken"
    ):
        pack(folder, tmp_path / "out")
    (folder / "cat" / "broken.jpg").write_bytes(JPEG)  # mended in place: the same command goes on
    with pytest.raises(UserError, match=r"1 of the 22 images .*\n  dog/notes.txt"):
        pack(folder, tmp_path / "out")
    (folder / "cat" / "broken.jpg").write_bytes(JPEG[:300])
    manifest = pack(folder, tmp_path / "out", max_corrupt=0.1)
    assert [image.name for image in manifest.splits["train"].skipped] == ["cat/broken.jpg", "dog/notes.txt"]
    assert all(image.reason for image in manifest.splits["train"].skipped)
    split = records.open_split(tmp_path / "out", manifest, "train")
    assert split.labels.tolist() == [0] * 10 + [1] * 10
    assert len(split.read(np.arange(20))) == 20


def test_another_preparation_is_not_overwritten(image_folder, tmp_path):
    folder = image_folder({"cat": 2, "dog": 2})
    first = pack(folder, tmp_path / "out")
    assert pack(folder, tmp_path / "out") == first  # already there
    with pytest.raises(UserError, match="holds other data"):
        pack(folder, tmp_path / "out", size=16)
    with pytest.raises(UserError, match=r"not empty and not an unfinished preparation"):
        pack(folder, folder)


def test_prepare_killed_and_started_again_gives_the_same_bytes(image_folder, tmp_path):
    """A real kill -9 between two shards of a real process; the second run keeps the finished shards."""
    folder = image_folder({f"class{i}": 40 for i in range(10)}, size=(300, 300))
    program = (
        "import sys; from alexnet_jax import prepare; from alexnet_jax.data import packing; "
        "packing.SHARD_IMAGES = 20; prepare.main()"
    )
    arguments = ["--source", "folder", "--input", str(folder), "--size", "64", "--val_fraction", "0.2"]

    def command(output: Path):
        return [sys.executable, "-c", program, *arguments, "--output", str(output)]

    subprocess.run(command(tmp_path / "whole"), cwd=ROOT, check=True, capture_output=True)
    killed = subprocess.Popen(
        command(tmp_path / "killed"), cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    parts = tmp_path / "killed" / "parts"
    while killed.poll() is None and len(list(parts.glob("train*"))) < 3:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    kept = {part.name.removesuffix(".npz"): part.stat().st_mtime_ns for part in parts.glob("train*")}
    assert kept and not (tmp_path / "killed" / "manifest.json").exists()
    times = {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in kept}
    with pytest.raises(UserError, match=r"holds no prepared data .* goes on where it stopped"):
        records.read_manifest(tmp_path / "killed")
    subprocess.run(command(tmp_path / "killed"), cwd=ROOT, check=True, capture_output=True)
    whole, again = ({p.name: p.read_bytes() for p in (tmp_path / d).iterdir()} for d in ("whole", "killed"))
    assert whole == again
    assert times == {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in kept}


# --- opening and loading ---


def test_open_errors(image_folder, tmp_path):
    with pytest.raises(UserError, match=r"config.data.directory is empty. For ImageNet.*source=synthetic"):
        datasets.open_dataset("prepared", "", 24, 10)
    with pytest.raises(UserError, match=r"nowhere does not exist. For ImageNet"):
        datasets.open_dataset("prepared", str(tmp_path / "nowhere"), 24, 10)
    with pytest.raises(UserError, match="holds no prepared data"):
        datasets.open_dataset("prepared", str(tmp_path), 24, 10)
    out = tmp_path / "out"
    manifest = pack(image_folder({"cat": 3, "dog": 2, "eel": 1}), out)
    with pytest.raises(UserError, match=r"24x24 and config.data.size is 32; give --config.data.size=24"):
        datasets.open_dataset("prepared", str(out), 32, 10)
    with pytest.raises(UserError, match=r"3 classes and the network only 2; give --config.model.num_classes=3"):
        datasets.open_dataset("prepared", str(out), 24, 2)
    dataset = datasets.open_dataset("prepared", str(out), 24, 3)
    with pytest.raises(UserError, match="no split 'val', only train"):
        datasets.split_of(dataset, "val", "config.data.eval_split")
    shard = out / manifest.splits["train"].shards[0].name
    os.truncate(shard, shard.stat().st_size - 1)
    with pytest.raises(UserError, match=f"{shard.name} is missing or cut short"):
        datasets.open_dataset("prepared", str(out), 24, 3)
    (out / "train.labels.npy").unlink()
    shard.write_bytes(bytes(6 * 24 * 24 * 3))
    with pytest.raises(UserError, match=r"train.labels.npy is missing or cut short"):
        datasets.open_dataset("prepared", str(out), 24, 3)
    (out / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest.json cannot be read"):
        datasets.open_dataset("prepared", str(out), 24, 3)


def test_fingerprints_tell_data_apart(image_folder, tmp_path):
    pack(image_folder({"cat": 3, "dog": 2}, at="a"), tmp_path / "one")
    pack(image_folder({"cat": 3, "dog": 2}, at="b"), tmp_path / "same")
    pack(image_folder({"cat": 2, "dog": 3}, at="c"), tmp_path / "other")
    one, same, other = (
        datasets.open_dataset("prepared", str(tmp_path / name), 24, 2).fingerprint for name in ("one", "same", "other")
    )
    assert one == same != other


def in_memory(count: int) -> records.InMemory:
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, axis=-1)
    return records.InMemory(np.arange(count, dtype=np.int32) % 7, pixels)


def collect(order: loader.Order, count: int, start: int, stop: int, threads: int = 2) -> list[loader.Batch]:
    iterator = loader.batches(in_memory(count), order, start, stop, threads, prefetch=2)
    found = list(iterator)
    iterator.close()
    return found


def test_every_epoch_holds_every_example_once_in_a_new_order():
    order = loader.Order(examples=50, batch_size=8, seed=3)
    assert order.steps_per_epoch == 7
    epochs = []
    for epoch in range(2):
        found = collect(order, 50, 7 * epoch, 7 * (epoch + 1))
        index = np.concatenate([batch.example[batch.mask] for batch in found])
        assert sorted(index) == list(range(50))
        epochs.append(index.tolist())
        for batch in found:
            np.testing.assert_array_equal(batch.image[:, 0, 0, 0], batch.example)
            np.testing.assert_array_equal(batch.label, batch.example % 7)
    assert epochs[0] != epochs[1]
    assert epochs[1] != [b for batch in collect(order._replace(seed=4), 50, 0, 7) for b in batch.example[batch.mask]]


def test_order_depends_on_seed_and_epoch_only_and_can_start_anywhere():
    order = loader.Order(50, 8, seed=3)
    whole = collect(order, 50, 0, 20)
    for other in (collect(order, 50, 13, 20, threads=1), collect(order, 50, 13, 20, threads=5)):
        for a, b in zip(whole[13:], other, strict=True):
            np.testing.assert_array_equal(a.example, b.example)
            np.testing.assert_array_equal(a.image, b.image)


def test_the_state_is_one_integer():
    iterator = loader.batches(in_memory(50), loader.Order(50, 8, 3), 5, 20, threads=2, prefetch=4)
    next(iterator)
    assert iterator.get_state() == {"next_index": 6}
    iterator.close()


def test_evaluation_reads_every_image_once_in_order():
    found = collect(loader.Order(21, 8, seed=None), 21, 0, 3)
    assert [len(batch.label) for batch in found] == [8, 8, 8]
    assert np.concatenate([batch.example[batch.mask] for batch in found]).tolist() == list(range(21))
    fewer = collect(loader.Order(3, 8, seed=None), 3, 0, 1)  # fewer images than a batch
    assert fewer[0].mask.tolist() == [True] * 3 + [False] * 5
