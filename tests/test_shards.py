"""Sources in shards, `parquet` and `webdataset`, and what can be wrong with them."""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexnet_jax.data.images import CorruptImage
from alexnet_jax.data.sources import labels, registry, source
from alexnet_jax.data.sources.compressed import remembered
from alexnet_jax.data.sources.parquet import parquet
from alexnet_jax.data.sources.webdataset import webdataset
from alexnet_jax.errors import UserError
from tests import ilsvrc, layouts, runs
from tests.hub import running
from tests.test_images import JPEG
from tests.test_packing import contents

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path: Path, columns: dict[str, Any], names: list[str] | None = None) -> Path:
    """A Parquet file, with names of the classes in its metadata, and the folder that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features = {"label": {"names": names, "_type": "ClassLabel"}} if names else {}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(
        pa.table(columns).replace_schema_metadata(metadata), path, row_group_size=2, write_page_checksum=True
    )
    return path.parent


def labels_of(split: source.Split) -> list[int]:
    return np.asarray(split.labels).tolist()


def images(*paths: str | None, content: bytes | None = JPEG) -> pa.Array:
    return pa.array([{"bytes": content, "path": path} for path in paths], STRUCT)


def test_bytes_and_numbers_without_metadata(tmp_path):
    columns = {"img": pa.array([JPEG] * 30, pa.large_binary()), "class": pa.array([1, 2, 3] * 10, pa.uint8())}
    opened = parquet(write(tmp_path / "data" / "part.parquet", columns), 0.5)
    assert opened.classes == ["0", "1", "2", "3"] and opened.published == {}
    train, val = opened.splits["train"], opened.splits["val"]
    assert len(train.names) + len(val.names) == 30 and val.names[0].startswith("part/")
    assert [val.read(i) for i in range(len(val.names))] == [(JPEG, label) for label in labels_of(val)]


def test_wordnet_ids_give_the_order_of_the_classes(tmp_path):
    paths = (
        "a/n00000002_7_n00000002.JPEG",
        "n00000001_8_n00000001.JPEG",
        "ILSVRC2012_val_00000003_n00000001.JPEG",
        "x.png",
    )
    columns = {"image": images(*paths), "label": [0, 1, 1, None]}
    opened = parquet(write(tmp_path / "train.parquet", columns, ["tench", "goldfish"]), 0)
    split = opened.splits["train"]
    assert opened.classes == ["n00000001", "n00000002"] and labels_of(split) == [1, 0, 0, -1]
    expected = ["n00000002/n00000002_7.JPEG", "n00000001/n00000001_8.JPEG", "ILSVRC2012_val_00000003.JPEG"]
    assert split.names[:3] == expected
    with pytest.raises(CorruptImage, match="the row has no label"):
        split.read(3)
    columns["label"] = [0, 1, 0, 1]  # the ids contradict each other
    opened = parquet(write(tmp_path / "train.parquet", columns, ["tench", "goldfish"]), 0)
    assert opened.classes == ["tench", "goldfish"] and opened.splits["train"].names[0] == "tench/n00000002_7.JPEG"


GOOD = {"image": images("a.jpg", "b.jpg", "c.jpg"), "label": [0, 1, 0]}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"holds no .parquet file for training; put them there, with `train` in their names"),
        ({"test.parquet": GOOD}, r"holds no .parquet file for training"),
        (
            {"train-00000-of-00003.parquet": GOOD, "train-00002-of-00003.parquet": GOOD},
            "lacks train-00001-of-00003.par",
        ),
        ({"a/train.parquet": GOOD, "b/train.parquet": GOOD}, "holds several sets, in folders of their own; give one"),
        (
            {"train0.parquet": GOOD, "train1.parquet": {"image": GOOD["image"], "id": [1, 2, 3]}},
            "train1.* has other col",
        ),
        (
            {"train.parquet": {"text": ["a"], "label": [1]}},
            "not a set for classification.*has text: string, label: int",
        ),
        ({"train.parquet": {"image": images("a"), "a": [1], "b": [1]}}, r"not a set for classification"),
        (
            {"train.parquet": {"image": images("a"), "label": [2]}},
            r"split train of .* has the label 2, but there are 2 c",
        ),
    ],
)
def test_problems_of_parquet_are_named(files, message, tmp_path):
    for name, columns in files.items():
        write(tmp_path / name, columns, ["cat", "dog"] if "label" in columns else None)
    with pytest.raises(UserError, match=message):
        parquet(tmp_path, 0)


def test_damaged_parquet(tmp_path):
    path = write(tmp_path / "train.parquet", GOOD) / "train.parquet"
    split = parquet(tmp_path, 0).splits["train"]
    whole = path.read_bytes()
    content = bytearray(whole)
    content[whole.index(JPEG[:100])] ^= 255
    path.write_bytes(content)
    with pytest.raises(CorruptImage, match=r"the row group 0 of .*train.parquet is damaged: .*"):
        split.read(0)
    assert split.read(2).content == JPEG
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"train.parquet is not a complete Parquet file: .* and download it again"):
        parquet(tmp_path, 0)
    write(path, GOOD | {"image": images("a.jpg", "b.jpg", "c.jpg", content=None)})
    with pytest.raises(CorruptImage, match="the row holds no bytes; push the set to the Hub, or embed its files"):
        parquet(tmp_path, 0).splits["train"].read(0)


def test_threads_that_need_the_same_result_compute_it_once():
    calls: list[int] = []

    def compute(key: int) -> int:
        time.sleep(0.01)
        calls.append(key)
        return key

    function = remembered(compute, 2)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(function, [1] * 8 + [2] * 8)) == [1] * 8 + [2] * 8
    assert sorted(calls) == [1, 2]


def test_patterns_and_splits(tmp_path):
    for name in ("a-00.tar", "a-01.tar", "b-validation-0.tar", "dev/c.tar", "testing.tar", "other.txt"):
        layouts.tree(tmp_path, [(name, b"")])
    listed = source.shards_at(tmp_path, ".tar")
    assert {split: [file.name for file in files] for split, files in listed.items()} == {
        "train": ["a-00.tar", "a-01.tar"],
        "val": ["b-validation-0.tar", "c.tar"],
        "test": ["testing.tar"],
    }
    assert source.shards_at(tmp_path / "a-{00..01}.tar", ".tar") == {"train": listed["train"]}
    assert source.shards_at(tmp_path / "a-*.tar", ".tar") == {"train": listed["train"]}
    assert source.shards_at(tmp_path / "{a-{00..01},b-*}.tar", ".tar")["val"] == listed["val"][:1]
    with pytest.raises(UserError, match=r"there is no .*a-02.tar; give a folder, file or pattern of .tar files"):
        source.shards_at(tmp_path / "a-{00..02}.tar", ".tar")
    assert registry.recognized(tmp_path / "a-{00..02}.tar") == "webdataset"
    assert registry.recognized(Path("hf://datasets/me/photos")) == "parquet"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            [("a.jpg", JPEG), ("b.jpg", JPEG), ("a.cls", b"0")],
            r"b.jpg of .* has no label: no .cls, nor .json with one of",
        ),
        ([("a.cls", b"0"), ("a.txt", b"a cat")], r"train.tar holds no image a .jpg, .*, only .cls, .txt; remove it"),
        ([("a.jpg", JPEG), ("a.json", b"{")], r"the label of a in .*tar cannot be read: .* and download it again"),
    ],
)
def test_problems_of_webdatasets_are_named(members, message, tmp_path):
    (tmp_path / "train.tar").write_bytes(ilsvrc.tar(members))
    with pytest.raises(UserError, match=message):
        webdataset(tmp_path, 0)


def test_numbers_of_classes_and_unlabelled_splits_of_webdatasets(tmp_path):
    members = [
        ("x/a.b.jpg", JPEG),
        ("x/a.cls", b"3\n"),
        ("x/c.png", JPEG),
        ("x/c.json", b'{"label": 0, "caption": ""}'),
        ("x/._c.png", b"hidden"),
    ]
    (tmp_path / "train.tar").write_bytes(ilsvrc.tar([(name.replace(".b", ""), content) for name, content in members]))
    (tmp_path / "test.tar").write_bytes(ilsvrc.tar([("a.jpg", JPEG)]))
    opened = webdataset(tmp_path, 0)
    assert opened.classes == ["0", "1", "2", "3"] and opened.splits.keys() == {"train"}
    assert [opened.splits["train"].read(i) for i in range(2)] == [(JPEG, 3), (JPEG, 0)]
    assert opened.splits["train"].names == ["x/a.jpg", "x/c.png"]


@pytest.mark.parametrize(
    ("name", "content", "classes", "expected"),
    [
        ("m.txt", "n00000002 crane\nn00000001 tench, Tinca\n", ["n00000001"], ["n00000001 tench, Tinca"]),
        ("i.json", '{"1": ["n00000002", "crane"], "0": ["n00000001", "tench"]}', ["0", "1"], ["n00000001 tench", "n00000002 crane"]),  # noqa: E501
        ("l.json", '["cat", "dog", "eel"]', ["0", "1"], ["cat", "dog"]),
        ("l.txt", "cat\n", ["0", "1"], r"l.txt has no name for 1 of the 2 classes, such as 1; add it"),
        ("m.txt", "n00000002 crane\n", ["n00000001"], r"m.txt has no name for 1 of the 1 classes, such as n00000001"),
        ("l.json", "cat", ["0"], r"l.json should be a JSON list or dict of names, or a text .*; mend it"),
    ],
)  # fmt: skip
def test_names_of_classes_from_a_file(name, content, classes, expected, tmp_path):
    (tmp_path / name).write_text(content)
    if isinstance(expected, list):
        assert labels.renamed(classes, tmp_path / name) == expected
    else:
        with pytest.raises(UserError, match=expected):
            labels.renamed(classes, tmp_path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda path: (path / "val.txt").unlink(),
            r"val has no folders of classes and no file of labels, val.txt or .csv",
        ),
        (
            lambda path: (path / "val.txt").write_text("a.JPEG 1"),
            r"val.txt has no line for the image ILSVRC2012_val_0+1",
        ),
        (
            lambda path: (path / "val.txt").write_text("".join(f"ILSVRC2012_val_{i:08d} 3\n" for i in range(9))),
            r"val.txt gives the image ILSVRC2012_val_00000001.JPEG the class '3', which has no training images",
        ),
    ],
)
def test_problems_of_labels_of_a_folder_are_named(change: Callable[[Path], object], message, tmp_path):
    path = layouts.folder(tmp_path / "images", ilsvrc.Truth(2012, 3))
    change(path)
    with pytest.raises(UserError, match=message):
        registry.open_source("folder", path)


def test_tiny_imagenet_as_a_folder(tmp_path):
    for wnid in ("n00000001", "n00000002"):
        layouts.tree(tmp_path / "train" / wnid / "images", [(f"{wnid}_0.JPEG", JPEG)])
    layouts.tree(tmp_path / "val" / "images", [("val_0.JPEG", JPEG), ("val_1.JPEG", JPEG)])
    lines = "val_0.JPEG\tn00000002\t0\t32\t44\t62\nval_1.JPEG\tn00000001\t0\t1\t2\t3\n"
    layouts.tree(tmp_path, [("val/val_annotations.txt", lines.encode()), ("test/images/test_0.JPEG", JPEG)])
    splits = registry.open_source("folder", tmp_path).splits
    assert {name: labels_of(split) for name, split in splits.items()} == {"train": [0, 1], "val": [1, 0]}
    assert list(splits["val"].names) == ["val_0.JPEG", "val_1.JPEG"]


# --- by other programs ---


@pytest.mark.long
def test_a_repository_of_the_hub_is_prepared(tmp_path):
    """By huggingface_hub, from a stand-in of the Hub, where a token is wanted."""
    pytest.importorskip("huggingface_hub", reason='needs pip install -e ".[hub]"')
    local = layouts.parquet(tmp_path / "photos", ilsvrc.Truth(2012, 3))
    command = [sys.executable, "-W", "error", "-m", "alexnet_jax", "prepare", "--size=16"]
    with running() as server:
        server.repositories["datasets/me/photos"] = {}
        files = {f"data/{file.name}": file.read_bytes() for file in local.rglob("*.parquet")}
        server.commit("datasets/me/photos", files | {"README.md": b"---\n---\n"})
        environment = runs.environment() | server.environment(tmp_path / "cache")
        options = ["--input=hf://datasets/me/photos", f"--output={tmp_path / 'of_hub'}"]
        assert "as parquet" in runs.end(runs.start([*command, *options], env=environment))
    runs.end(runs.start([*command, f"--input={local}", f"--output={tmp_path / 'local'}"], env=runs.environment()))
    assert contents(tmp_path / "of_hub") == contents(tmp_path / "local")


@pytest.mark.long
def test_an_imagefolder_written_by_datasets(image_folder, tmp_path):
    """In the way in which `push_to_hub` writes it."""
    datasets = pytest.importorskip("datasets", reason="needs pip install datasets")
    folder = image_folder({"cat": 3, "dog": 2}, at="images/train")
    pushed = datasets.load_dataset("imagefolder", data_dir=str(folder.parent), cache_dir=str(tmp_path / "cache"))[
        "train"
    ]
    embedded = pushed.with_format("arrow").map(datasets.table.embed_table_storage, batched=True)
    (tmp_path / "data").mkdir()
    embedded.to_parquet(str(tmp_path / "data" / "train-00000-of-00001.parquet"))
    found, expected = (
        registry.open_source(registry.recognized(path), path, 0.0) for path in (tmp_path / "data", folder.parent)
    )
    assert found.classes == expected.classes == ["cat", "dog"]
    for one, other in zip(found.splits.values(), expected.splits.values(), strict=True):
        assert list(one.names) == list(other.names)
        assert [one.read(i) for i in range(5)] == [other.read(i) for i in range(5)]
