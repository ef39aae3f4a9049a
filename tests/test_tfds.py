"""The source `tfds`, on small sets that TFDS itself prepares here, without a network or TensorFlow."""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image

from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.images import CorruptImage
from alexnet_jax.data.manifest import Published
from alexnet_jax.data.sources import registry
from alexnet_jax.data.sources.tfds import tfds
from alexnet_jax.errors import UserError
from tests.conftest import ROOT
from tests.test_commands import run

CLASSES = ["ant", "bee", "cat"]
COUNTS = {"train": 40, "validation": 7, "test": 5}
features = tensorflow_datasets.features


def jpeg(split: str, i: int) -> bytes:
    out = io.BytesIO()
    rng = np.random.default_rng([i, *split.encode()])
    Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(out, "JPEG")
    return out.getvalue()


def prepare(
    directory: Path,
    counts: dict[str, int],
    named: dict[str, Any] | None = None,
    label: Callable[[str, int], int] = lambda split, i: i % len(CLASSES),
    config: str | None = None,
    shards: int | None = None,
) -> Path:
    """Prepare the set `bugs` with the features `named` below `directory`, and return its folder."""
    chosen = named or {"image": features.Image(), "label": features.ClassLabel(names=CLASSES)}

    with tensorflow_datasets.core.registered.skip_registration():

        class Bugs(tensorflow_datasets.core.GeneratorBasedBuilder):
            VERSION = tensorflow_datasets.core.Version("1.2.0")
            BUILDER_CONFIGS = [tensorflow_datasets.core.BuilderConfig(name=config)] if config else []

            def _info(self):
                return tensorflow_datasets.core.DatasetInfo(builder=self, features=features.FeaturesDict(chosen))

            def _split_generators(self, download_manager):
                return {split: self._generate_examples(split, count) for split, count in counts.items()}

            def _generate_examples(self, split, count) -> Iterator[tuple[int, dict]]:
                for i in range(count):
                    values: dict[str, object] = {}
                    for key, feature in chosen.items():
                        if isinstance(feature, features.Image):
                            values[key] = jpeg(split, i)
                        elif isinstance(feature, features.ClassLabel):
                            values[key] = label(split, i)
                        else:
                            values[key] = "text"
                    yield i, values

    builder = Bugs(data_dir=directory, file_format="array_record")
    builder.download_and_prepare(download_config=tensorflow_datasets.download.DownloadConfig(num_shards=shards))
    return Path(builder.data_dir)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("prepared")
    prepare(directory, COUNTS)
    return directory


def expected(split: str) -> list[tuple[bytes, int]]:
    """The images of a split, sorted, since TFDS shuffles what it writes."""
    return sorted((jpeg(split, i), i % len(CLASSES)) for i in range(COUNTS[split]))


def fails(name: str, data_dir: Path | None, *words: str) -> None:
    """Assert that opening the set fails with a message that contains all of `words`."""
    with pytest.raises(UserError) as error:
        tfds(name, data_dir)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def change_info(place: Path, **changes) -> None:
    path = place / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- sets that can be read ---


@pytest.mark.parametrize("name", ["bugs", "bugs:1.2.0", "bugs:1.*.*"])
def test_images_and_labels_are_those_that_were_prepared(prepared, name):
    source = tfds(name, prepared)
    assert source.classes == CLASSES
    assert source.published == {"train": Published(40, None), "val": Published(7, None), "test": Published(5, None)}
    assert source.splits.keys() == source.published.keys()
    for name, split in source.splits.items():
        tfds_name = {"val": "validation"}.get(name, name)
        assert split.labels is None
        assert list(split.names) == [f"bugs/1.2.0/{name}/{i}" for i in range(COUNTS[tfds_name])]
        images = [split.read(i) for i in range(COUNTS[tfds_name])]
        assert all(type(image.content) is bytes and type(image.label) is int for image in images)
        assert sorted((bytes(image.content), image.label) for image in images) == expected(tfds_name)


def test_verify_data_and_prepare_read_a_set(prepared, tmp_path):
    output = run("alexnet_jax", "verify-data", prepared, "--source=tfds:bugs")
    assert re.search(r"ok +train counts +40 images of \d of 3 classes; 40 published", output)
    assert re.search(r"ok +train images +40 of 40 decoded", output)
    output = run(
        "alexnet_jax", "prepare", "--source=tfds:bugs", "--input", prepared, "--output", tmp_path / "data", "--size=8"
    )
    assert "train: 40 images, 0 skipped" in output and "val: 7 images" in output
    dataset = open_dataset("prepared", str(tmp_path / "data"), 8, len(CLASSES))
    assert dataset.classes == CLASSES
    source = tfds("bugs", prepared).splits["val"]
    assert dataset.splits["val"].labels.tolist() == [source.read(i).label for i in range(7)]


def test_other_names_of_features_and_a_config(tmp_path):
    named = {"photo": features.Image(), "kind": features.ClassLabel(num_classes=3), "note": features.Text()}
    prepare(tmp_path, {"train": 4}, named, config="small")
    source = tfds("bugs/small", tmp_path)
    assert source.classes == ["0", "1", "2"]
    assert len({source.splits["train"].read(i).content for i in range(4)}) == 4
    assert tfds("bugs/small:1.2.0", tmp_path).published == {"train": Published(4, None)}
    assert tfds("bugs", tmp_path).classes == ["0", "1", "2"], "the only config is the default"
    fails("bugs/large", tmp_path, "no set bugs/large", str(tmp_path), "bugs/small:1.2.0")


def test_reading_needs_neither_tensorflow_nor_the_code_of_the_set(prepared):
    program = """
import hashlib, sys, warnings
warnings.simplefilter("error")
from pathlib import Path
from alexnet_jax.data.sources.tfds import tfds
assert "tensorflow_datasets" not in sys.modules
split = tfds("bugs", None).splits["train"]
read = sorted(hashlib.sha256(split.read(i).content).hexdigest() for i in range(len(split.names)))
assert "tensorflow" not in sys.modules and "jax" not in sys.modules
print(hashlib.sha256("".join(read).encode()).hexdigest())
"""
    environment = os.environ | {"TFDS_DATA_DIR": str(prepared)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    digests = sorted(hashlib.sha256(content).hexdigest() for content, _ in expected("train"))
    assert done.stdout.split()[-1] == hashlib.sha256("".join(digests).encode()).hexdigest()


def test_several_threads_read_at_once(tmp_path):
    prepare(tmp_path, {"train": 60}, shards=6)
    alone = tfds("bugs", tmp_path).splits["train"]
    images = [alone.read(i) for i in range(60)]
    assert len({image.content for image in images}) == 60
    split = tfds("bugs", tmp_path).splits["train"]  # its shards are not open yet
    start = threading.Barrier(4)

    def read_all(seed: int) -> bool:
        order = np.random.default_rng(seed).permutation(np.tile(np.arange(60), 10))
        start.wait()
        return all(split.read(int(i)) == images[i] for i in order)

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(read_all, range(4))) == [True] * 4


def test_more_shards_than_the_limit_on_open_files(tmp_path):
    assert len(list(prepare(tmp_path, {"train": 80}, shards=80).glob("*array_record*"))) == 80
    program = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (60, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from pathlib import Path
from alexnet_jax.data.sources.tfds import tfds
split = tfds("bugs", Path({str(tmp_path)!r})).splits["train"]
print(len({{split.read(i).content for i in range(80)}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split()[-1:] == ["80"], done.stderr


def test_unlabelled_and_empty_splits_are_left_out(tmp_path):
    counts = {"train": 3, "test": 3, "extra": 3}
    place = prepare(tmp_path, counts, label=lambda split, i: -1 if split == "test" else i)
    assert sorted(tfds("bugs", tmp_path).splits) == ["extra", "train"]
    splits = json.loads((place / "dataset_info.json").read_text())["splits"]
    empty = [split | ({"shardLengths": ["0"]} if split["name"] == "extra" else {}) for split in splits]
    change_info(place, splits=empty)
    assert list(tfds("bugs", tmp_path).splits) == ["train"]


def test_a_label_beyond_the_classes(tmp_path):
    place = prepare(tmp_path, {"train": 30}, label=lambda split, i: 2)
    described = json.loads((place / "features.json").read_text())
    described["featuresDict"]["features"]["label"]["classLabel"]["numClasses"] = "2"
    (place / "features.json").write_text(json.dumps(described))
    (place / "label.labels.txt").unlink()
    split = tfds("bugs", tmp_path).splits["train"]
    with pytest.raises(UserError, match=r"record 5 of the split train .* has the label 2, .* none of its 2 classes"):
        split.read(5)


def test_a_set_is_recognized(prepared, tmp_path):
    assert registry.recognized(prepared) == "tfds:bugs"
    place = prepare(tmp_path, {"train": 3}, config="small")
    for inside in (prepared / "bugs", prepared / "bugs/1.2.0"):
        with pytest.raises(UserError, match=f"data folder of TFDS; give --source tfds:bugs --input {prepared}$"):
            registry.recognized(inside)
    with pytest.raises(UserError, match=f"give --source tfds:bugs/small --input {tmp_path}$"):
        registry.recognized(place.parent)
    (tmp_path / "bugs/2.0.0").mkdir()
    for content in ("[]", '{"name": "wasps"}'):  # of other programs
        (tmp_path / "bugs/2.0.0/dataset_info.json").write_text(content)
        assert registry.recognized(tmp_path) == "folder"
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    shutil.copytree(tmp_path / "bugs", tmp_path / "beetles")
    change_info(tmp_path / "beetles/1.2.0", name="beetles")
    with pytest.raises(UserError, match=r"several sets of TFDS; choose one: --source tfds:beetles or tfds:bugs$"):
        registry.recognized(tmp_path)


# --- sets that cannot ---


def test_a_set_that_was_not_prepared(prepared, tmp_path):
    fails("beetles", prepared, "no set beetles", str(prepared), "available: bugs:1.2.0", "tfds build beetles")
    fails("cifar10", prepared, "no set cifar10", "available: bugs:1.2.0")
    fails("bugs:2.0.0", prepared, "no set bugs:2.0.0", "available: bugs:1.2.0")
    fails("bugs", tmp_path, str(tmp_path), "available: none")
    fails("bugs", tmp_path / "nowhere", "nowhere", "available: none")
    fails("no name!", prepared, "no name!")


def test_a_set_without_train(tmp_path):
    prepare(tmp_path, {"validation": 3})
    fails("bugs", tmp_path, "no split `train`", "val")


@pytest.mark.parametrize(
    ("named", "word"),
    [
        ({"image": features.Image()}, "image: Image"),
        ({"label": features.ClassLabel(names=CLASSES)}, "label: ClassLabel"),
        ({"a": features.Image(), "b": features.Image(), "label": features.ClassLabel(names=CLASSES)}, "b: Image"),
        (
            {
                "image": features.Image(),
                "a": features.ClassLabel(num_classes=3),
                "b": features.ClassLabel(num_classes=3),
            },
            "b: ClassLabel",
        ),
        ({"image": features.Text(), "label": features.ClassLabel(names=CLASSES)}, "image: Text"),
        (
            {
                "image": features.Image(dtype=np.uint16, encoding_format="png"),
                "label": features.ClassLabel(names=CLASSES),
            },
            "image: Image",
        ),
    ],
)
def test_a_set_that_is_not_for_classification(tmp_path, named, word):
    prepare(tmp_path, {"train": 2}, named)
    fails("bugs", tmp_path, "one Image of 8 bits and one ClassLabel are needed", word)


def test_a_set_in_another_format(tmp_path):
    place = prepare(tmp_path, COUNTS)
    change_info(place, fileFormat="tfrecord")
    fails("bugs", tmp_path, str(place), "array_record", "tfds convert_format", "tfds build bugs")
    change_info(place, alternativeFileFormats=["array_record"])  # as convert_format does
    images = [tfds("bugs", tmp_path).splits["train"].read(i) for i in range(COUNTS["train"])]
    assert sorted((image.content, image.label) for image in images) == expected("train")


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_a_damaged_description(tmp_path, file):
    (prepare(tmp_path, {"train": 2}) / file).write_text("{")
    fails("bugs", tmp_path, "cannot open the set bugs", str(tmp_path))


def test_damaged_shards(tmp_path):
    place = prepare(tmp_path, {"train": 10}, shards=2)
    shards = sorted(place.glob("*train.array_record*"))
    content = shards[1].read_bytes()
    for damaged in (content[: len(content) // 2], content[:100], b"", bytes(200) + content[200:]):
        shards[1].write_bytes(damaged)
        split = tfds("bugs", tmp_path).splits["train"]
        split.read(4)
        with pytest.raises(CorruptImage, match=r"record 5 of the split train .* is damaged"):
            split.read(5)
    shards[0].unlink()
    fails("bugs", tmp_path, "record 0 of the split train", "prepare the set again")


def test_damaged_records(tmp_path):
    place = prepare(tmp_path, {"train": 5})
    [shard] = place.glob("*train.array_record*")
    reader = ArrayRecordReader(str(shard))
    records = [reader.read([i])[0] for i in range(5)]
    reader.close()
    records[2:4] = b"", b"\xff" + records[3]
    writer = ArrayRecordWriter(str(shard), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    split = tfds("bugs", tmp_path).splits["train"]
    assert len({split.read(i).content for i in (0, 1, 4)}) == 3
    with pytest.raises(CorruptImage, match=r"record 2 .* lacks an image or a label"):
        split.read(2)
    with pytest.raises(CorruptImage, match="record 3 of the split train"):
        split.read(3)


def test_tfds_is_not_installed(prepared, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorflow_datasets"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    fails("bugs", prepared, 'pip install -e ".[tfds]"')
