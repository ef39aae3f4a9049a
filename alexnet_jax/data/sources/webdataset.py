"""Tar shards in which the files of one image follow each other, as WebDataset, timm and img2dataset write them."""

import json
from itertools import chain
from pathlib import Path

from alexnet_jax.data.sources import archives
from alexnet_jax.data.sources.archives import CURE, Readable
from alexnet_jax.data.sources.source import Source, hold_out, shards_at
from alexnet_jax.errors import UserError, reading

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
KEYS = ("label", "cls", "class", "class_id", "target")  # of the label in a .json


def webdataset(path: Path | None = None, val_fraction: float | None = None) -> Source:
    """Shards at `path`, as in `shards_at`: KEY.jpg with its label in KEY.cls, or in KEY.json under one of KEYS.

    A label is the number of a class, or its name. Images keep their order. A split without labels is left out;
    `val_fraction` is as in `hold_out`. Raises UserError if a shard is damaged, or only some images have labels.
    """
    if path is None:
        raise UserError(
            "--source webdataset needs --input, a folder of tars, or a pattern such as train-{000..099}.tar"
        )
    listed = {split: list(chain(*map(_listed, files))) for split, files in shards_at(path, ".tar").items()}
    listed = {split: items for split, items in listed.items() if split == "train" or any(item[2] for item in items)}
    given = {label: name for items in listed.values() for name, _, label in items}
    if "" in given:
        raise UserError(f"{given['']} of {path} has no label: no .cls, nor .json with one of {', '.join(KEYS)}; add it")
    numbers = all(label.isdecimal() for label in given)
    classes = [str(i) for i in range(1 + max(map(int, given), default=0))] if numbers else sorted(given)
    label_of = {label: int(label) if numbers else classes.index(label) for label in given}
    splits = {
        split: archives.split([(name, place, label_of[label]) for name, place, label in items])
        for split, items in listed.items()
    }
    return Source(classes, hold_out(splits, val_fraction, path), {})


def _listed(shard: Path) -> list[tuple[str, Readable, str]]:
    """Name, place and label of each image of a shard; "": no label."""
    samples: dict[str, dict[str, tuple[str, Readable]]] = {}
    for name, place in archives.files_in(shard).items():
        folder, slash, file = name.rpartition("/")
        key, _, ending = file.partition(".")
        if key:  # not hidden
            samples.setdefault(folder + slash + key, {})[ending.lower()] = (name, place)
    listed = []
    for key, parts in samples.items():
        image = next((parts[ending] for ending in IMAGES if ending in parts), None)
        if image is None:
            raise UserError(f"{shard} holds no image {key} ({', '.join(IMAGES)}), only .{', .'.join(parts)}; remove it")
        with reading(f"the label of {key} in {shard} cannot be read", CURE, UserError):
            described = json.loads(parts["json"][1].read()) if "json" in parts and "cls" not in parts else {}
            label = parts["cls"][1].read().decode().strip() if "cls" in parts else ""
            listed.append((*image, label or str(next((described[key] for key in KEYS if key in described), ""))))
    return listed
