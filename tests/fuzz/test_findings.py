"""A test for each finding of the fuzzer, and for constructs that must not return to the package."""

import ast
import gc
import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data import arrays, images, manifest, verification
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.sources import archives, devkit
from alexnet_jax.data.sources.cifar10 import cifar10
from alexnet_jax.errors import DataError, UserError
from alexnet_jax.run import config_files, workdir
from tests.conftest import encoded, made_up_statistics
from tests.fuzz.kinds import packed, sealed, with_file
from tests.test_images import JPEG, SMOOTH
from tests.test_layout import MODULES, imports, name_of
from tests.tiny import tiny_config

# --- tars ---


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


TARS = {
    "a negative length leads back: endless loop": header("a.JPEG", 512) + bytes(512) + header("b.JPEG", -1024),
    "the same after a pax header": tarfile.TarInfo("x").create_pax_global_header({"size": "-512"}) + header("a.JPEG"),
    "a name of a terabyte: MemoryError": header("././@LongLink", 2**40, b"L"),
    "a name of 2^66 bytes: OverflowError": header("././@LongLink", 2**66, b"L"),
    "a file whose end is out of range: OverflowError": header("a.JPEG", 2**70),
    "names of names of names: RecursionError": header("././@LongLink", 0, b"L") * 3000,
}


@pytest.mark.parametrize("content", TARS.values(), ids=TARS)
def test_tars_that_lie_about_lengths_are_refused(content, tmp_path):
    content += bytes(1024)
    (tmp_path / "n00000001.tar").write_bytes(content)
    with pytest.raises(UserError, match=r"n00000001\.tar"):
        archives.by_class(tmp_path)
    (tmp_path / "kit.tar.gz").write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=r"kit\.tar\.gz cannot be read"):
        devkit.read(tmp_path / "kit.tar.gz", 2012)
    with pytest.raises(UserError, match=r"kit\.tar\.gz is damaged"):
        cifar10(tmp_path / "kit.tar.gz")


def test_a_devkit_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 2**20)
    (tmp_path / "kit.tar.gz").write_bytes(gzip.compress(header("big", 2**21) + bytes(2**21 + 1024)))
    with pytest.raises(UserError, match="extends past the end of the archive"):
        devkit.read(tmp_path / "kit.tar.gz", 2012)


# --- images ---


def test_no_image_is_passed_to_another_program(monkeypatch):
    """Pillow runs Ghostscript for EPS."""
    monkeypatch.setattr("subprocess.Popen", lambda *arguments, **_: pytest.fail(f"ran {arguments}"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    assert Image.open(io.BytesIO(eps)).format == "EPS"
    with pytest.raises(images.CorruptImage):
        images.decode(eps)


def test_a_jpeg_of_countless_scans_is_refused():
    progressive = encoded(SMOOTH, "JPEG", progressive=True)
    images.decode(progressive)
    images.decode(progressive, 30 * 40)
    with pytest.raises(images.CorruptImage, match=r"\d+ scans of 40x30 pixels take too long"):
        images.decode(progressive[:-2] + b"\xff\xda\0\x08\1\1\0\0\x3f\0" * 20 + progressive[-2:], 30 * 40)


def test_the_size_limit_applies_to_the_size_in_the_decoder(monkeypatch):
    monkeypatch.setattr(images.Image, "open", lambda *_, **__: Image.new("RGB", (3, 3)))
    with pytest.raises(images.CorruptImage, match="40x30 pixels are more than"):
        images.decode(JPEG, 30 * 40 - 1)


# --- prepared data ---


def npy(shape: tuple[int, ...], dtype: str = "<i4", content: bytes = b"") -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out.getvalue() + content


def pickled() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([{}], object), allow_pickle=True)
    return out.getvalue()


@pytest.fixture
def prepared(tmp_path) -> Path:
    return packed(tmp_path / "data", "raw")


def refused(directory: Path, message: str) -> None:
    """Assert that training and verify-data refuse the folder."""
    with pytest.raises(UserError, match=message):
        open_dataset("prepared", str(directory), manifest.read(directory).size, 3)
    problems: list[str] = []
    with pytest.raises(UserError, match=message):
        problems += [each for check in verification.packed(directory, False, 1) for each in check.problems]
        raise UserError(" ".join(problems))


def put_at(*keys: Any) -> Callable[[dict, Any], None]:
    def put(tree: dict, value: Any) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = value

    return put


@pytest.mark.parametrize(
    ("put", "value"),
    [
        (put_at("splits", "train", "labels", "name"), "../outside/train.labels.npy"),
        (put_at("splits", "train", "shards", 0, "name"), "/etc/passwd"),
        (put_at("mean_image", "name"), "é" * 300),
        (put_at("splits", "train", "shards", 0, "count"), -1),
        (put_at("splits", "train", "shards", 0, "count"), 2**40),
        (put_at("splits", "train", "count"), 0),
        (put_at("splits", "train", "shards"), []),
        (put_at("size"), 2**31),
        (put_at("size"), 0),
        (put_at("eigenvalues"), [float("nan"), 1.0, 1.0]),
        (put_at("eigenvectors"), [[1.0], [2.0, 3.0]]),
        (put_at("splits", "train", "published"), {"images": 12, "by_class": [12]}),
    ],
)
def test_invalid_manifests_with_a_matching_checksum_are_refused(put, value, prepared):
    tree = json.loads((prepared / manifest.NAME).read_text())
    put(tree, value)
    (prepared / manifest.NAME).write_bytes(sealed(tree))
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        manifest.read(prepared)


def test_a_manifest_nested_too_deep_is_refused(prepared):
    (prepared / manifest.NAME).write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        manifest.read(prepared)


MEAN = npy((8, 8, 3), "<f4", np.full((8, 8, 3), np.nan, np.float32).tobytes())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.labels.npy", npy((2**60,)), "4,611,686,018,427,387,904"),
        ("train.labels.npy", npy((-12,)), "not an array of numbers"),
        ("train.labels.npy", npy((12, 1), content=bytes(48)), r"should hold int32 \(12,\)"),
        ("train.labels.npy", npy((12,), "<f4", bytes(48)), r"should hold int32 \(12,\)"),
        ("train.labels.npy", npy((12,), content=b"\x09\0\0\0" * 12), "labels beyond the 3 classes"),
        ("train.hashes.npy", pickled(), "not an array of numbers"),
        ("train.hashes.npy", b"\x93NUMPY\x01\x00\xff\x0f" + b"-" * 5000, "invalid array header"),
        ("mean_image.npy", npy((8, 8, 3), "|V0"), "not an array of numbers"),
        ("mean_image.npy", MEAN, "holds values that are not finite"),
        ("val.names.json", b"[1, 2]", "does not hold 12 names"),
        ("val.names.json", b"[" * 100_000, "val.names.json cannot be read"),
    ],
)
def test_invalid_files_with_matching_checksums_are_refused(name, content, message, prepared):
    (prepared / name).write_bytes(content)
    tree = json.loads((prepared / manifest.NAME).read_text())
    (prepared / manifest.NAME).write_bytes(sealed(with_file(tree, name, content)))
    if "names" in name:
        split = open_dataset("prepared", str(prepared), 8, 3).splits["val"]
        with pytest.raises(DataError, match=message):
            split.name(0)
    else:
        refused(prepared, message)


def test_an_array_record_with_the_wrong_number_of_records_is_refused(tmp_path):
    directory = packed(tmp_path / "data", "jpeg")
    tree = json.loads((directory / manifest.NAME).read_text())
    shards = tree["splits"]["train"]["shards"]
    shards[0], shards[2] = shards[2] | {"count": 5}, shards[2]  # the last one has two
    (directory / manifest.NAME).write_bytes(sealed(tree))
    refused(directory, "hold 9 records and should hold 12")


# --- workdirs ---


def statistics_npz(changes: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    np.savez(out, **made_up_statistics()._asdict())
    with zipfile.ZipFile(out) as intact:
        contents = {name: intact.read(name) for name in intact.namelist()} | changes
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("statistics.npz", b"", "not a zip file"),
        ("statistics.npz", statistics_npz({"mean_image.npy": pickled()}), "not an array of numbers"),
        ("statistics.npz", statistics_npz({"mean_image.npy": npy((2**40, 2**20))}), "0 bytes of data, but int32"),
        ("statistics.npz", statistics_npz({"mean_image.npy": MEAN}), "do not belong to images of 32x32"),
        ("statistics.npz", statistics_npz({}, zipfile.ZIP_DEFLATED), "its arrays are compressed"),
        ("run.json", b"\xff", "can't decode"),
        ("run.json", b"[" * 100_000, "recursion"),
        ("run.json", b'{"data": "", "starts": []}', "classes"),
        ("run.json", b'{"classes": [1], "data": "", "starts": []}', "classes.0"),
        ("config.json", b"\xff", "can't decode"),
    ],
)
def test_damaged_workdirs_are_reported(name, content, message, tmp_path):
    dataset = open_dataset("synthetic", "", 32, 10)._replace(statistics=made_up_statistics)
    workdir.prepare(tmp_path, config_files.parse(tiny_config()), dataset)
    assert workdir.open_finished(tmp_path).classes == dataset.classes
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} is damaged: .*{message}"):
        workdir.open_finished(tmp_path)


# --- the package ---

PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "torch.load"}
UNPACKING = {"extract", "extractall", "extractfile", "unpack_archive"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_that_is_read_is_executed_or_unpacked(path):
    names = {name.split(".")[0] for name in imports(path)} | imports(path)
    assert not names & PICKLES
    gc.disable()  # CPython 3.11 fails if a destructor that runs meanwhile logs a traceback, which it parses source for
    try:
        tree = ast.parse(path.read_text())
    finally:
        gc.enable()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":  # the loader that runs no code
            assert {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}["weights_only"] == "True"
        if isinstance(node, ast.Attribute):
            called = ast.unparse(node)
            assert called not in ("np.load", "numpy.load", "np.lib.npyio.NpzFile"), "see data/arrays.py"
            assert node.attr not in UNPACKING or called == "features.extract", (
                "tars are read in place: see data/sources/archives.py"
            )
        if isinstance(node, ast.keyword):
            assert node.arg != "allow_pickle"


def test_arrays_are_read_as_by_numpy(tmp_path):
    rng = np.random.default_rng(0)
    for array in (rng.normal(size=(3, 4)), np.asfortranarray(rng.normal(size=(3, 4))), np.array("é"), np.zeros((0, 3))):
        np.save(tmp_path / "a.npy", array)
        np.savez(tmp_path / "a.npz", a=array)
        for read in (arrays.parsed((tmp_path / "a.npy").read_bytes()), arrays.zipped(tmp_path / "a.npz", ["a"])["a"]):
            np.testing.assert_array_equal(read, array)
            assert read.dtype == array.dtype


def test_tar_members_are_never_written_to_disk(tmp_path):
    """Members with paths that lead out of the folder are listed, but not written."""
    (tmp_path / "archives").mkdir()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("../../up.JPEG", "/tmp/alexnet_jax_absolute.JPEG", "folder/x.JPEG"):
            member = tarfile.TarInfo(name)
            member.size = len(JPEG)
            archive.addfile(member, io.BytesIO(JPEG))
    (tmp_path / "archives" / "n00000001.tar").write_bytes(out.getvalue())
    before = sorted(tmp_path.rglob("*"))
    listing = archives.by_class(tmp_path / "archives")["n00000001"]
    assert [name for name, _ in listing] == [
        f"n00000001/{name}" for name in ("alexnet_jax_absolute.JPEG", "up.JPEG", "x.JPEG")
    ]
    assert all(place.read() == JPEG for _, place in listing)
    assert sorted(tmp_path.rglob("*")) == before and not Path("/tmp/alexnet_jax_absolute.JPEG").exists()
