"""A network is the same whatever its data came from: every layout of the same images gives the same prepared bytes."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_jax.data import packing
from alexnet_jax.data.images import CorruptImage
from alexnet_jax.data.sources import archives, compressed, kaggle, registry
from alexnet_jax.errors import UserError
from tests import ilsvrc, layouts
from tests.test_images import JPEG
from tests.test_packing import contents

CLASSES = 12


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> tuple[Path, ilsvrc.Truth]:
    directory = tmp_path_factory.mktemp("layouts") / "imagenet2012"
    return directory, ilsvrc.make(directory, 2012, CLASSES)


def prepared(path: Path, output: Path, **options) -> dict[str, bytes]:
    source = registry.open_source(options.pop("source", registry.recognized(path)), path, **options)
    packing.pack(source, output, packing.Settings("raw", 16, 95, 0.0), show_progress=False)
    return contents(output)


def unpublished(files: dict[str, bytes], *without: str) -> dict[str, object]:
    """Prepared data without what its publishers say of it, which not every source knows, and other files."""
    described = json.loads(files["manifest.json"])
    described["splits"] = {name: split | {"published": None} for name, split in described["splits"].items()}
    described["xxh128"] = None
    return {**files, "manifest.json": described}


@pytest.fixture(scope="module")
def expected(truth, tmp_path_factory) -> dict[str, bytes]:
    return prepared(truth[0], tmp_path_factory.mktemp("expected") / "data")


@pytest.mark.parametrize("name", ["mounted", *kaggle.ARCHIVES[:2]])
def test_kaggle(name, truth, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(compressed, "PIECE", 5000)  # images extend over several
    monkeypatch.setattr(compressed, "KEPT", 2)
    path = layouts.kaggle(tmp_path / "mounted", truth[1])
    if name != "mounted":
        path = layouts.kaggle_archive(tmp_path / "archived", path, name)
    assert registry.recognized(path) == "kaggle"
    assert prepared(path, tmp_path / "data") == expected
    if name != "mounted":
        assert prepared(path / name, tmp_path / "from_file") == expected


def test_a_part_of_kaggles_files_leads_to_the_whole(truth, tmp_path):
    path = layouts.kaggle(tmp_path / "mounted", truth[1])
    for part in ("ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"):
        with pytest.raises(UserError, match=f"part of Kaggle's ImageNet; give the folder .*: --input {path}$"):
            registry.recognized(path / part)
    (path / "photos").mkdir()
    assert {registry.recognized(path / name) for name in ("photos", "ILSVRC/Data/CLS-LOC/train")} == {"folder"}


@pytest.mark.parametrize("layout", ["folder", "parquet", "webdataset"])
def test_other_layouts(layout, truth, expected, tmp_path):
    path = getattr(layouts, layout)(tmp_path / "images", truth[1])
    assert registry.recognized(path) == layout
    assert unpublished(prepared(path, tmp_path / "data")) == unpublished(expected)


@pytest.mark.slow
def test_tfds(truth, expected, tmp_path):
    layouts.tfds(tmp_path / "tfds", truth[1])
    found = prepared(tmp_path / "tfds", tmp_path / "data", source="tfds:photos")
    of_names = ("manifest.json", "train.names.json", "val.names.json")  # TFDS does not keep them
    assert {name: found[name] for name in found if name not in of_names} == {
        name: expected[name] for name in expected if name not in of_names
    }
    assert json.loads(found["manifest.json"])["classes"] == truth[1].classes


def remove(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("LOC_val_solution.csv"), "has no LOC_val_solution.csv, nor is it beside it; download it"),
        (remove("LOC_synset_mapping.txt"), "has no LOC_synset_mapping.txt, nor"),
        (lambda path: (path / "ILSVRC/Data/CLS-LOC/val").rename(path / "x"), "has no ILSVRC/Data/CLS-LOC/val and none"),
        (
            lambda path: (path / "LOC_synset_mapping.txt").write_text("n01440764 tench\nn00000001 x\n"),
            r"has 12 classes and LOC_synset_mapping.txt 2; it lacks n00000001; .* does not list n",
        ),
        (
            lambda path: (path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n"),
            r"LOC_val_solution.csv has no line for the image ILSVRC2012_val_00000001.JPEG; download both again",
        ),
        (
            lambda path: (path / "LOC_val_solution.csv").write_text("\nILSVRC2012_val_00000001,n00000001 1 2 3 4\n"),
            r"LOC_val_solution.csv gives the image ILSVRC2012_val_00000001.JPEG the class 'n00000001 1 2 3 4', which",
        ),
    ],
)
def test_problems_of_kaggle_are_named(change, message, truth, tmp_path):
    path = layouts.kaggle(tmp_path / "mounted", truth[1])
    change(path)
    with pytest.raises(UserError, match=message):
        registry.open_source("kaggle", path)


@pytest.mark.parametrize("name", kaggle.ARCHIVES[:2])
@pytest.mark.parametrize("share", [0.0, 0.6, 0.999])
def test_truncated_archives_are_named(name, share, truth, tmp_path):
    path = layouts.kaggle_archive(tmp_path / "archived", layouts.kaggle(tmp_path / "mounted", truth[1]), name)
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=rf"{name} is (not a complete tar.gz|damaged): .*download it again"):
        registry.open_source("kaggle", path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_file_of_a_zip_is_a_corrupt_image(method, tmp_path):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a/0.jpg", JPEG)
        archive.writestr("a/1.jpg", JPEG)
    content = bytearray(path.read_bytes())
    content[content.index(b"a/1.jpg") + 100] ^= 255
    path.write_bytes(content)
    files = archives.files_in(path)
    assert files["a/0.jpg"].read() == JPEG
    with pytest.raises(CorruptImage, match=r"damaged in .*images.zip"):
        files["a/1.jpg"].read()
