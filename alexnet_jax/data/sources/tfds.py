"""Data sets that TensorFlow Datasets has prepared, read without TensorFlow."""

import contextlib
import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.data import files
from alexnet_jax.data.images import CorruptImage
from alexnet_jax.data.manifest import Published
from alexnet_jax.data.sources.source import Image, Source, Split
from alexnet_jax.errors import UserError

INFO = "dataset_info.json"  # in the folder of each version of a set
OUR_NAMES = {"validation": "val"}  # of splits that have another name here


def tfds(name: str, path: Path | None = None) -> Source:
    """A prepared data set, such as `cifar10`, `imagenet2012:5.1.0` or `my/config`. Its code is not needed.

    `path` is the data folder of TFDS (None: where TFDS itself looks). Raises UserError if the set is not prepared
    there, is damaged, or is not for classification.
    """
    try:
        from tensorflow_datasets.core.file_adapters import FileFormat  # heavy, and only this source needs it
    except ImportError as error:
        raise UserError(f'--source tfds needs TensorFlow Datasets ({error}): pip install -e ".[tfds]"') from None
    builder = _builder(name, path)
    if FileFormat.ARRAY_RECORD not in builder.info.available_file_formats():
        raise UserError(
            f"{builder.data_path} is not in the format array_record; convert it in place by `tfds convert_format "
            f"--dataset_version_dir={builder.data_path} --out_file_format=array_record`, or prepare it again by "
            f"`tfds build {name} --file_format=array_record --data_dir=...`. Both need TensorFlow; reading does not"
        )
    image, label, classes = _features(builder)
    infos = {OUR_NAMES.get(name, name): info for name, info in builder.info.splits.items() if info.num_examples}
    files.allow_open(sum(info.num_shards for info in infos.values()))
    splits = {}
    for split, info in infos.items():
        if read := _reader(builder, info, image, label, len(classes)):
            # With the version, so that an unfinished preparation is not mistaken for one of another version.
            names = [f"{builder.info.full_name}/{split}/{i}" for i in range(info.num_examples)]
            splits[split] = Split(names, None, read)
    if "train" not in splits:
        raise UserError(
            f"{builder.data_path} has no split `train` with labels (it has {', '.join(splits) or 'none'}); give another"
        )
    return Source(classes, splits, {name: Published(len(split.names), None) for name, split in splits.items()})


def recognized_set(path: Path) -> str | None:
    """The source, tfds:NAME, of the only set that TFDS has prepared in the data folder `path`; None if there is none.

    It does not need TFDS, which takes long to import and may be missing. Raises UserError, with what to give instead,
    for several sets, or a folder within one.
    """
    sets = {}
    for file in chain.from_iterable(path.glob(pattern) for pattern in (INFO, f"*/{INFO}", f"*/*/{INFO}")):
        with contextlib.suppress(ValueError, KeyError, TypeError):  # another program's file, or a damaged one
            described = json.loads(file.read_text())
            name = list(filter(None, (described["name"], described.get("configName"))))
            parts = list(file.absolute().parts[:-2])  # without the version and INFO
            if parts[-len(name) :] == name:
                sets[f"tfds:{'/'.join(name)}"] = Path(*parts[: -len(name)])
    if not sets:
        return None
    (source, place), *others = sorted(sets.items())
    if others:
        raise UserError(f"{path} has several sets of TFDS; choose one: --source {' or '.join(sorted(sets))}")
    if place != path.absolute():
        raise UserError(f"{path} is within a data folder of TFDS; give --source {source} --input {place}")
    return source


def _builder(name: str, data_dir: Path | None) -> Any:
    from google.protobuf.json_format import ParseError
    from tensorflow_datasets.core.read_only_builder import builder_from_files
    from tensorflow_datasets.core.registered import DatasetNotFoundError
    from tensorflow_datasets.core.utils.file_utils import list_data_dirs, list_datasets_in_data_dir

    directories = [Path(directory) for directory in list_data_dirs(data_dir)]
    places = ", ".join(map(str, directories))
    try:
        return builder_from_files(name, data_dir=data_dir)
    except DatasetNotFoundError:
        prepared = chain.from_iterable(map(list_datasets_in_data_dir, filter(Path.is_dir, directories)))
        available = ", ".join(sorted(reference.tfds_name() for reference in prepared)) or "none"
        raise UserError(
            f"no set {name} is prepared in {places} (available: {available}); give another folder as --input, or "
            f"prepare it by `tfds build {name} --file_format=array_record --data_dir={directories[0]}`, for which most "
            "sets need TensorFlow"
        ) from None
    except (ValueError, OSError, ParseError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"cannot open the set {name} in {places}: {reason}; check its name, or prepare it again"
        ) from None


def _features(builder: Any) -> tuple[str, str, list[str]]:
    """The names of a record's image and label, and the names of the classes."""
    from tensorflow_datasets.core.features import ClassLabel, FeaturesDict
    from tensorflow_datasets.core.features import Image as ImageFeature

    features = builder.info.features
    named = dict(features.items()) if isinstance(features, FeaturesDict) else {}
    images = [key for key, value in named.items() if isinstance(value, ImageFeature) and value.np_dtype == np.uint8]
    labels = [key for key, value in named.items() if isinstance(value, ClassLabel) and value.num_classes]
    if len(images) != 1 or len(labels) != 1:
        listed = ", ".join(f"{key}: {type(value).__name__}" for key, value in named.items())
        raise UserError(
            f"{builder.data_path} is not a set for classification: one Image of 8 bits and one ClassLabel are needed, "
            f"but its features are {listed or type(features).__name__}; give another set"
        )
    return images[0], labels[0], named[labels[0]].names


def _reader(builder: Any, info: Any, image: str, label: str, num_classes: int) -> Callable[[int], Image] | None:
    """The function that reads an image of a split; None if it has no labels, like the test sets of challenges."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.core.decode import DeserializeMethod
    from tensorflow_datasets.proto import tf_example_pb2

    records = builder.as_data_source(
        info.name, deserialize_method=DeserializeMethod.RAW_BYTES, file_format="array_record"
    )
    place = f"the split {info.name} of {builder.data_path}"

    def read_any(i: int) -> Image:
        try:
            feature = tf_example_pb2.Example.FromString(records[i]).features.feature
            return Image(feature[image].bytes_list.value[0], feature[label].int64_list.value[0])
        except (RuntimeError, DecodeError, IndexError) as error:
            reason = "it lacks an image or a label" if isinstance(error, IndexError) else error
            raise CorruptImage(f"record {i} of {place} is damaged: {reason}") from None

    def read(i: int) -> Image:
        example = read_any(i)
        if not 0 <= example.label < num_classes:
            raise UserError(
                f"record {i} of {place} has the label {example.label}, which is none of its {num_classes} classes; "
                "prepare the set again"
            )
        return example

    try:
        return None if read_any(0).label < 0 else read
    except CorruptImage as error:
        raise UserError(f"{error}; prepare the set again") from None
