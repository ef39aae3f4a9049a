"""Small archives in the layouts of ILSVRC-2010 and -2012, with real ImageNet images if some are available."""

import io
import os
import tarfile
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.io
from PIL import Image

from tests.conftest import ROOT, encoded

# One folder of images per WordNet id; not part of this project.
SAMPLES = Path(os.environ.get("IMAGENET_SAMPLES", ROOT.parent / "shared" / "data" / "imagenet-samples"))
ROOTS = {2010: "devkit-1.0", 2012: "ILSVRC2012_devkit_t12"}
ARCHIVES = {
    2010: {name: f"ILSVRC2010_images_{name}.tar" for name in ("train", "val", "test")},
    2012: {name: f"ILSVRC2012_img_{name}.tar" for name in ("train", "val")},
}
DEVKITS = {2010: "ILSVRC2010_devkit-1.0.tar.gz", 2012: "ILSVRC2012_devkit_t12.tar.gz"}
PER_CLASS = {"train": 3, "val": 1, "test": 2}


def wnids(classes: int) -> list[str]:
    real = sorted(folder.name for folder in SAMPLES.iterdir()) if SAMPLES.is_dir() else []
    return (real or [f"n{1440764 + 1234 * i:08d}" for i in range(200)])[:classes]


def pictures(wnid: str, count: int) -> list[bytes]:
    """JPEGs of a class: crops of a real image of it, or noise."""
    files = sorted((SAMPLES / wnid).glob("*")) if SAMPLES.is_dir() else []
    if files:
        image = Image.open(files[0]).convert("RGB")
        width, height = image.size
        boxes = [(5 * i, 3 * i, width - 7 * i, height - 2 * i) for i in range(count)]
        # The first is unchanged, so that real files are among them.
        return [files[0].read_bytes(), *(encoded(image.crop(box), "JPEG", quality=90) for box in boxes[1:])]
    rng = np.random.default_rng(int(wnid[1:]))
    noise = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [encoded(Image.fromarray(pixels).resize((90 + 9 * i, 70)), "JPEG") for i, pixels in enumerate(noise)]


def tar(members: list[tuple[str, bytes]], mode: Literal["w", "w:gz"] = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def devkit(year: int, ids: dict[str, int], train_images: int, truth: list[int]) -> bytes:
    """A kit whose meta.mat lists the classes in the order of its own ids, then groups of classes."""
    fields = [
        f"ILSVRC{year}_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    ]
    rows = [
        (number, wnid, "tench, Tinca tinca", "a fish", 0, np.array([]), 0, train_images)
        for wnid, number in sorted(ids.items(), key=lambda item: item[1])
    ]
    rows.append((len(rows) + 1, "n00001740", "entity", "all there is", 2, np.array([1, 2]), 1, 0))
    synsets = np.array([tuple(row) for row in rows], dtype=[(field, object) for field in fields]).reshape(-1, 1)
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets})
    root = ROOTS[year]
    lines = "".join(f"{number}\n" for number in truth).encode()
    return tar(
        [
            (f"{root}/readme.txt", b"about the data"),
            (f"{root}/data/meta.mat", meta.getvalue()),
            (f"{root}/data/ILSVRC{year}_validation_ground_truth.txt", lines),
        ],
        "w:gz",
    )


class Truth:
    """The content of the archives that `make` wrote."""

    def __init__(self, year: int, classes: int):
        self.classes = wnids(classes)
        rng = np.random.default_rng(year)
        numbers = rng.permutation(classes) + 1  # the kit orders the classes differently
        self.ids = {wnid: int(number) for wnid, number in zip(self.classes, numbers, strict=True)}
        self.images: dict[str, list[tuple[str, bytes, int]]] = {"train": []}  # name, content, label
        held_out: dict[str, list[tuple[bytes, int]]] = {split: [] for split in ARCHIVES[year] if split != "train"}
        for label, wnid in enumerate(self.classes):
            jpegs = iter(pictures(wnid, sum(PER_CLASS.values())))
            for i in range(PER_CLASS["train"]):
                self.images["train"].append((f"{wnid}/{wnid}_{i}.JPEG", next(jpegs), label))
            for split, images in held_out.items():
                images += [(next(jpegs), label) for _ in range(PER_CLASS[split])]
        for split, images in held_out.items():
            order = rng.permutation(len(images))
            self.images[split] = [
                (f"ILSVRC{year}_{split}_{i + 1:08d}.JPEG", *images[j]) for i, j in enumerate(order.tolist())
            ]

    def truth(self, split: str) -> list[int]:
        """The kit's number of each image's class."""
        return [self.ids[self.classes[label]] for _, _, label in self.images[split]]


def make(directory: Path, year: int, classes: int) -> Truth:
    """Write the archives and the kit, and for 2010 the labels of the test images."""
    directory.mkdir(parents=True)
    truth = Truth(year, classes)
    inner = []
    for wnid in reversed(truth.classes):  # archives are not always sorted
        files = [(name.split("/")[1], content) for name, content, _ in truth.images["train"] if name.startswith(wnid)]
        inner.append((f"{wnid}.tar", tar(files[::-1])))
    (directory / ARCHIVES[year]["train"]).write_bytes(tar(inner))
    for split in truth.images.keys() - {"train"}:
        folder = "" if year == 2012 else f"{split}/"
        members = [(f"{folder}{name}", content) for name, content, _ in truth.images[split]]
        (directory / ARCHIVES[year][split]).write_bytes(tar(members[::-1]))
    (directory / DEVKITS[year]).write_bytes(devkit(year, truth.ids, PER_CLASS["train"], truth.truth("val")))
    if year == 2010:
        lines = "".join(f"{number}\n" for number in truth.truth("test"))
        (directory / "ILSVRC2010_test_ground_truth.txt").write_text(lines)
    return truth


def unpack(archives: Path, directory: Path, year: int) -> None:
    """Unpack the archives as users do: train/ has one folder per class, the others have none."""
    with tarfile.open(archives / ARCHIVES[year]["train"]) as outer:
        for member in outer:
            stream = outer.extractfile(member)
            assert stream is not None
            with tarfile.open(fileobj=stream) as inner:
                inner.extractall(directory / "train" / Path(member.name).stem, filter="data")
    for split in ARCHIVES[year].keys() - {"train"}:
        with tarfile.open(archives / ARCHIVES[year][split]) as archive:
            archive.extractall(directory if year == 2010 else directory / split, filter="data")
    with tarfile.open(archives / DEVKITS[year]) as kit:
        kit.extractall(directory, filter="data")
