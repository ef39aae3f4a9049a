"""Folders of images, and the sources that need no files."""

import numpy as np
import pytest

from alexnet_jax.data.sources import embedded, folder, registry
from alexnet_jax.errors import UserError
from tests.test_images import JPEG


def test_folder_with_held_out_images(image_folder):
    images = image_folder({"cat": 30, "dog": 20})
    source = folder.folder(images, 0.3)
    names = {split: set(source.splits[split].names) for split in source.splits}
    assert source.classes == ["cat", "dog"]
    assert len(names["train"]) + len(names["val"]) == 50 and not names["train"] & names["val"]
    assert 5 <= len(names["val"]) <= 25
    (images / "cat" / "new.jpg").write_bytes(JPEG)  # a new image moves none of the others
    assert names["val"] <= set(folder.folder(images, 0.3).splits["val"].names)
    assert set(folder.folder(images, None).splits) == {"train", "val"}


def test_every_class_keeps_a_training_image(image_folder):
    source = folder.folder(image_folder({f"class{i}": 1 for i in range(30)} | {"big": 60}), 0.5)
    assert sorted(set(np.asarray(source.splits["train"].labels).tolist())) == list(range(31))
    assert set(np.asarray(source.splits["val"].labels).tolist()) == {0}


def test_folder_with_split_folders(image_folder):
    image_folder({"cat": 3, "dog": 2}, at="images/train")
    images = image_folder({"dog": 1, "cat": 1}, at="images/test").parent
    source = folder.folder(images, None)
    assert {name: np.asarray(split.labels).tolist() for name, split in source.splits.items()} == {
        "train": [0, 0, 0, 1, 1],
        "test": [0, 1],
    }
    assert set(folder.folder(images, 0.5).splits) == {"train", "test", "val"}


def test_folder_errors(image_folder, tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        folder.folder(tmp_path / "nowhere", None)
    with pytest.raises(UserError, match=r"1 class folder\(s\), but at least 2"):
        folder.folder(image_folder({"cat": 1}, at="one"), None)
    images = image_folder({"cat": 1, "dog": 1})
    (images / "bird").mkdir()
    with pytest.raises(UserError, match=r"class folder .*bird is empty"):
        folder.folder(images, None)
    image_folder({"cat": 1, "dog": 1}, at="split/train")
    image_folder({"cat": 1, "dog": 1, "eel": 1}, at="split/val")
    with pytest.raises(UserError, match=r"classes that the training images lack: eel"):
        folder.folder(tmp_path / "split", None)
    image_folder({"cat": 1, "dog": 1}, at="lonely/val")
    with pytest.raises(UserError, match=r"no train/"):
        folder.folder(tmp_path / "lonely", None)


def test_unknown_sources_are_refused():
    for name in ("nowhere", "folder:x", "tfds"):
        with pytest.raises(UserError, match=rf"there is no source '{name}'; give one of cifar10, .*tfds:NAME"):
            registry.open_source(name)


def test_digits():
    source = embedded.digits()
    assert {name: len(split.names) for name, split in source.splits.items()} == {"train": 1437, "test": 360}
    first = source.splits["test"].read(0).content
    assert isinstance(first, np.ndarray) and first.shape == (8, 8, 3)
