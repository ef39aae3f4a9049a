"""The same images in every layout in which people have ImageNet, each written by its own tools."""

import io
import json
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests import ilsvrc


def tree(directory: Path, images: list[tuple[str, bytes]]) -> Path:
    for name, content in images:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


def kaggle(directory: Path, truth: ilsvrc.Truth) -> Path:
    """The competition as it is mounted."""
    root = directory / "ILSVRC"
    for split, images in truth.images.items():
        tree(root / "Data/CLS-LOC" / split, [(name, content) for name, content, _ in images])
    tree(root / "Data/CLS-LOC/test", [("ILSVRC2012_test_00000001.JPEG", truth.images["val"][0][1])])
    tree(root / "Annotations/CLS-LOC/val", [("ILSVRC2012_val_00000001.xml", b"<annotation/>")])
    listing = "".join(f"{name.removesuffix('.JPEG')} {i + 1}\n" for i, (name, _, _) in enumerate(truth.images["train"]))
    tree(root / "ImageSets/CLS-LOC", [("train_cls.txt", listing.encode())])
    mapping = "".join(f"{wnid} tench, Tinca tinca\n" for wnid in truth.classes)
    (directory / "LOC_synset_mapping.txt").write_text(mapping)
    boxes = [
        f"{name.removesuffix('.JPEG')},{truth.classes[label]} 1 2 3 4 {truth.classes[label]} 5 6 7 8 \n"
        for name, _, label in truth.images["val"]
    ]
    (directory / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(boxes[::-1]))
    return directory


def kaggle_archive(directory: Path, mounted: Path, name: str) -> Path:
    """The competition as it is downloaded: one zip, or in former years a .tar.gz beside the files LOC_*."""
    directory.mkdir()
    if name.endswith(".zip"):
        if shutil.which("zip"):
            subprocess.run(["zip", "-qr", directory / name, "."], cwd=mounted, check=True)
        else:
            shutil.make_archive(str(directory / Path(name).stem), "zip", mounted)
        return directory
    subprocess.run(["tar", "-czf", directory / name, "-C", mounted, "ILSVRC"], check=True)
    for file in mounted.glob("LOC_*"):
        shutil.copy(file, directory)
    return directory


def folder(directory: Path, truth: ilsvrc.Truth) -> Path:
    """Class folders for training, and validation images in a row beside a file of labels."""
    for split, images in truth.images.items():
        tree(directory / split, [(name, content) for name, content, _ in images])
    lines = [f"{name} {label}" for name, _, label in truth.images["val"]]
    (directory / "val.txt").write_text("\n".join(lines[::-1]))
    tree(directory / "test", [("0.JPEG", truth.images["val"][0][1])])
    return directory


def parquet(directory: Path, truth: ilsvrc.Truth) -> Path:
    """Like imagenet-1k on the Hub, with its names of classes and of files."""
    features = {
        "image": {"_type": "Image"},
        "label": {"names": [f"fish {wnid}" for wnid in truth.classes], "_type": "ClassLabel"},
    }
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        {"image": image, "label": pa.int64()}, {"huggingface": json.dumps({"info": {"features": features}})}
    )
    rows = {
        split: [
            {"image": {"bytes": content, "path": f"{Path(name).stem}_{truth.classes[label]}.JPEG"}, "label": label}
            for name, content, label in images
        ]
        for split, images in truth.images.items()
    }
    half = len(rows["train"]) // 2
    shards = {
        "train-00000-of-00002": rows["train"][:half],
        "train-00001-of-00002": rows["train"][half:],
        "validation-00000-of-00001": rows["val"],
        "test-00000-of-00001": [row | {"label": -1} for row in rows["val"]],
    }
    (directory / "data").mkdir(parents=True)
    for name, shard in shards.items():
        table = pa.Table.from_pylist(shard, schema)
        pq.write_table(table, directory / "data" / f"{name}.parquet", row_group_size=5, write_page_checksum=True)
    return directory


def webdataset(directory: Path, truth: ilsvrc.Truth) -> Path:
    """Shards of training images with classes in .cls, and of validation images with classes in .json."""
    files = tree(directory.with_name("unpacked"), [])
    directory.mkdir()
    half = len(truth.images["train"]) // 2
    shards = {"train-0000": truth.images["train"][:half], "train-0001": truth.images["train"][half:]}
    for shard, images in {**shards, "val-0000": truth.images["val"]}.items():
        names = []
        for name, content, label in images:
            wnid = truth.classes[label]
            ending, described = ("json", json.dumps({"label": wnid})) if shard == "val-0000" else ("cls", wnid)
            labels = f"{Path(name).with_suffix('')}.{ending}"
            tree(files, [(name, content), (labels, described.encode())])
            names += [labels, name]
        subprocess.run(["tar", "-cf", directory / f"{shard}.tar", "-C", files, *names], check=True)
    return directory


def tfds(directory: Path, truth: ilsvrc.Truth) -> None:
    """The set `photos`, prepared by TensorFlow Datasets."""
    import tensorflow_datasets
    from tensorflow_datasets.core.registered import skip_registration

    with skip_registration():

        class Photos(tensorflow_datasets.core.GeneratorBasedBuilder):
            VERSION = tensorflow_datasets.core.Version("1.0.0")

            def _info(self):
                kinds = tensorflow_datasets.features
                named = {"image": kinds.Image(encoding_format="jpeg"), "label": kinds.ClassLabel(names=truth.classes)}
                features = kinds.FeaturesDict(named)
                return tensorflow_datasets.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

            def _split_generators(self, download_manager):
                return {"train": self._generate_examples("train"), "validation": self._generate_examples("val")}

            def _generate_examples(self, split):
                for i, (_, content, label) in enumerate(truth.images[split]):
                    yield i, {"image": io.BytesIO(content), "label": label}

    Photos(data_dir=directory, file_format="array_record").download_and_prepare()
