"""The same images in every layout in which people have ImageNet, each written by its own tools."""

import shutil
import subprocess
from pathlib import Path

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
