"""`prepare`, and the same command again: after a power cut, after images were mended, and into its own input."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from alexnet_jax.__main__ import main
from alexnet_jax.data import manifest, packing
from alexnet_jax.data.sources import folder
from alexnet_jax.errors import EXIT_USER_ERROR
from tests.test_images import JPEG
from tests.test_packing import contents, pack


def test_all_is_on_the_disk_before_what_it_was_made_from_is_removed(image_folder, tmp_path, monkeypatch):
    """Files and their names: the manifest comes after what it describes, and parts/ goes last."""
    out = tmp_path / "out"
    on_disk: dict[int, int | set[str]] = {}  # inode -> length of a file, names in a folder
    steps: list[str] = []
    fsync, replace, rmtree = os.fsync, os.replace, shutil.rmtree

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        status = os.fstat(descriptor)
        on_disk[status.st_ino] = set(os.listdir(descriptor)) if stat.S_ISDIR(status.st_mode) else status.st_size

    def lost() -> set[str]:
        """What a power cut could take."""
        names = on_disk.get(out.stat().st_ino, set())
        assert isinstance(names, set)
        there = [path for path in out.iterdir() if path.suffix != ".tmp" and path.is_file()]
        return {path.name for path in there if on_disk.get(path.stat().st_ino) != path.stat().st_size} | (
            {path.name for path in there} - names
        )

    def replaced(source: Path, target: Path) -> None:
        if Path(target) == out / manifest.NAME:
            steps.append("manifest")
            assert not lost()
        replace(source, target)

    def removed(path: Path, **options) -> None:
        steps.append(path.name)
        assert not lost() and (out / manifest.NAME).exists()
        rmtree(path, **options)

    images = image_folder({"cat": 3, "dog": 3})
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(shutil, "rmtree", removed)
    pack(images, out)
    assert steps == ["manifest", "parts"]


def test_skipped_images_that_were_mended_since_are_packed(image_folder, tmp_path, monkeypatch):
    """Of what was complete without them, only their shards are written again; nothing is, while none is mended."""
    monkeypatch.setattr(packing, "SHARD_IMAGES", 4)
    images = image_folder({"cat": 8, "dog": 8})
    for broken in ("cat/001.jpg", "dog/005.jpg"):
        (images / broken).write_bytes(JPEG[:300])
    described = pack(images, tmp_path / "out", max_corrupt=0.5)
    assert [image.name for image in described.splits["train"].skipped] == ["cat/001.jpg", "dog/005.jpg"]
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.*")}
    assert pack(images, tmp_path / "out", max_corrupt=0.5) == described
    assert times == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.*")}

    (images / "cat/001.jpg").write_bytes(JPEG)
    described = pack(images, tmp_path / "out", max_corrupt=0.5)
    assert [image.name for image in described.splits["train"].skipped] == ["dog/005.jpg"]
    (images / "dog/005.jpg").write_bytes(JPEG)
    pack(images, tmp_path / "out", max_corrupt=0.5)
    pack(images, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    kept = [f"train-{i:05d}-of-00004.raw" for i in (1, 2)]
    assert [(tmp_path / "out" / name).stat().st_mtime_ns for name in kept] == [times[name] for name in kept]
    shutil.rmtree(tmp_path / "out")

    (images / "cat/001.jpg").write_bytes(JPEG[:300])  # prepared by a program that kept no parts/: all is read again
    pack(images, tmp_path / "out", max_corrupt=0.5)
    shutil.rmtree(tmp_path / "out/parts")
    (images / "cat/001.jpg").write_bytes(JPEG)
    pack(images, tmp_path / "out", max_corrupt=0.5)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("place", ["photos/packed", "photos/cat/packed", "photos/train", "split/train/packed", "link"])
def test_an_output_among_the_classes_is_refused(place, image_folder, tmp_path, capsys):
    """It would be taken for one of them, or for some of their images."""
    photos = image_folder({"cat": 3, "dog": 3}, at="photos")
    shutil.copytree(photos, tmp_path / "split/train")
    (tmp_path / "link").symlink_to(photos / "linked")
    source, output = tmp_path / ("split" if "split" in place else "photos"), tmp_path / place
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "--source=folder", f"--input={source}", "--val_fraction=0", f"--output={output}"])
    message = capsys.readouterr().err
    assert ended.value.code == EXIT_USER_ERROR and f"{output} lies in" in message and str(source) in message
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_beside_the_splits_is_accepted(image_folder, tmp_path):
    image_folder({"cat": 3, "dog": 3}, at="split/train")
    folder.check_output(tmp_path / "split", tmp_path / "split/packed")
