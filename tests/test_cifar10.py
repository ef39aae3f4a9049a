"""The source `cifar10`: both versions of the original distribution, intact and damaged."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alexnet_jax.data.sources import archives
from alexnet_jax.data.sources.cifar10 import cifar10
from alexnet_jax.errors import UserError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TRAIN = [f"data_batch_{n}" for n in range(1, 6)]
PER_BATCH = 300  # more than fit into a byte


class Batch:
    """Random images: planes [N, 3072], labels [N], names."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.planes = rng.integers(0, 256, (PER_BATCH, 3072), dtype=np.uint8)
        self.labels = [int(label) for label in rng.integers(0, 10, PER_BATCH)]
        self.names = [f"thing_s_{seed}{i:05d}.png" for i in range(PER_BATCH)]

    def pixels(self) -> np.ndarray:
        """[N, 32, 32, 3], computed in another way than in the module."""
        red, green, blue = self.planes[:, :1024], self.planes[:, 1024:2048], self.planes[:, 2048:]
        return np.stack([red, green, blue], axis=-1).reshape(-1, 32, 32, 3)

    def fields(self) -> dict:
        return {"labels": self.labels, "data": self.planes, "filenames": self.names, "batch_label": "a batch"}


BATCHES = {name: Batch(seed) for seed, name in enumerate([*TRAIN, "test_batch"])}
META = {"num_cases_per_batch": PER_BATCH, "label_names": CLASSES, "num_vis": 3072}


def binary_files() -> dict[str, bytes]:
    files = {"readme.html": b"hello", "batches.meta.txt": ("\n".join(CLASSES) + "\n\n").encode()}
    for name, batch in BATCHES.items():
        records = np.concatenate([np.array(batch.labels, np.uint8)[:, None], batch.planes], axis=1)
        files[f"{name}.bin"] = records.tobytes()
    return files


def python2(value) -> bytes:
    """What Python 2's cPickle writes with protocol 2, except memos that nothing refers to."""

    def write(value) -> bytes:
        if isinstance(value, str):
            return b"U" + bytes([len(value)]) + value.encode("latin-1") + b"q\x01"
        if isinstance(value, int):
            if value < 0 or value >= 2**16:
                return b"J" + struct.pack("<i", value)
            return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)
        if isinstance(value, list):
            parts = [value[at : at + 100] for at in range(0, len(value), 100)]
            return b"]q\x02" + b"".join(b"(" + b"".join(map(write, part)) + b"e" for part in parts)
        if isinstance(value, dict):
            return b"}q\x03(" + b"".join(write(key) + write(item) for key, item in value.items()) + b"u"
        dtype = b"cnumpy\ndtype\nq\x04" + write("u1") + b"K\x00K\x01\x87Rq\x05"
        dtype += b"(K\x03U\x01|NNN" + write(-1) + write(-1) + b"K\x00tb"
        start = b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85U\x01b\x87Rq\x08"
        shape = b"".join(map(write, value.shape)) + b"\x86q\x09"
        content = value.tobytes()
        return start + b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(content)) + content + b"tb"

    return b"\x80\x02" + write(value) + b"."


def python3(protocol: int, **options) -> Callable[[object], bytes]:
    return lambda value: pickle.dumps(value, protocol, **options)


def python_files(dump: Callable[[object], bytes] = python2) -> dict[str, bytes]:
    return {"batches.meta": dump(META)} | {name: dump(batch.fields()) for name, batch in BATCHES.items()}


def pack(files: dict[str, bytes], path: Path, folder: str = "cifar-10-batches") -> Path:
    with tarfile.open(path, "w:gz", compresslevel=0) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def check(path: Path, names: Callable[[str, int], str] = lambda batch, i: BATCHES[batch].names[i]) -> None:
    """Assert that `path` holds exactly BATCHES."""
    source = cifar10(path)
    assert source.classes == CLASSES
    assert list(source.splits) == ["train", "test"]
    for split, batches in (("train", TRAIN), ("test", ["test_batch"])):
        read_split, places = source.splits[split], [(batch, i) for batch in batches for i in range(PER_BATCH)]
        assert list(read_split.names) == [names(batch, i) for batch, i in places]
        labels = [BATCHES[batch].labels[i] for batch, i in places]
        assert read_split.labels is not None and read_split.labels.dtype == np.int32
        np.testing.assert_array_equal(read_split.labels, labels)
        read = [read_split.read(i) for i in range(len(places))]
        assert [image.label for image in read] == labels
        expected = np.concatenate([BATCHES[batch].pixels() for batch in batches])
        np.testing.assert_array_equal(np.stack([np.asarray(image.content) for image in read]), expected)
        first = read[0].content
        assert isinstance(first, np.ndarray) and first.dtype == np.uint8 and first.flags.c_contiguous


def fails(path: Path | None, *words: str) -> None:
    """Assert that opening `path` fails with a message that contains all of `words`."""
    with pytest.raises(UserError) as error:
        cifar10(path)
    for word in words:
        assert word in str(error.value)


# --- intact ---


def test_the_binary_version_in_every_place(tmp_path):
    def names(batch: str, i: int) -> str:
        return f"{batch}/{i}"

    archive = pack(binary_files(), tmp_path / "cifar-10-binary.tar.gz")
    check(archive, names)
    check(archive.parent, names)
    renamed = archive.rename(tmp_path / "any.name")
    check(renamed, names)
    folder = write(binary_files(), tmp_path / "cifar-10-batches-bin")
    check(folder, names)
    check(folder.parent, names)


def test_the_python_version_in_every_place(tmp_path):
    archive = pack(python_files(), tmp_path / "cifar-10-python.tar.gz")
    check(archive)
    check(archive.parent)
    folder = write(python_files(), tmp_path / "cifar-10-batches-py")
    archive.unlink()
    check(folder)
    check(folder.parent)
    check(folder.rename(tmp_path / "mine"))


@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
def test_python2_writes_pickles_that_python_reads():
    unpickled = pickle.loads(python2(BATCHES["test_batch"].fields()), encoding="latin-1")
    np.testing.assert_array_equal(unpickled.pop("data"), BATCHES["test_batch"].planes)
    assert unpickled == {key: value for key, value in BATCHES["test_batch"].fields().items() if key != "data"}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_python_3(tmp_path, protocol):
    check(write(python_files(python3(protocol)), tmp_path / "folder"))


def test_missing_names_are_numbered(tmp_path):
    files = python_files()
    for name, batch in BATCHES.items():
        files[name] = python2({"data": batch.planes, "labels": batch.labels})
    check(write(files, tmp_path / "folder"), lambda batch, i: f"{batch}/{i}")


def test_published_counts(tmp_path):
    published = cifar10(write(binary_files(), tmp_path / "folder")).published
    assert {split: (each.images, sum(each.by_class or [])) for split, each in published.items()} == {
        "train": (50_000, 50_000),
        "test": (10_000, 10_000),
    }
    assert published["train"].by_class == [5000] * 10
    assert published["test"].by_class == [1000] * 10


# --- pickles that would execute something ---


class Runs:
    """Makes a file when unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_nothing_in_a_pickle_is_executed(tmp_path):
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(Runs(mark)))
    assert mark.exists(), "the pickle of this test must be dangerous"
    mark.unlink()
    files = python_files(python3(2))
    files["data_batch_3"] = pickle.dumps(BATCHES["data_batch_3"].fields() | {"batch_label": Runs(mark)}, 2)
    check(write(files, tmp_path / "whole"))  # its images are there, and the rest is ignored
    files["data_batch_3"] = pickle.dumps(Runs(mark), 2)
    fails(write(files, tmp_path / "only"), "data_batch_3 of", "only")
    assert not mark.exists()


# --- damaged ---


def test_missing_input(tmp_path):
    fails(None, "--source cifar10 needs --input", "cifar-10-binary.tar.gz")
    for path in (tmp_path, tmp_path / "nowhere"):
        fails(path, str(path), "cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")


@pytest.mark.parametrize("missing", ["data_batch_1.bin", "test_batch.bin", "batches.meta.txt"])
def test_a_missing_file(tmp_path, missing):
    files = binary_files()
    del files[missing]
    fails(write(files, tmp_path / "folder"), f"folder lacks {missing};")
    fails(pack(files, tmp_path / "some.tar.gz"), f"some.tar.gz lacks {missing};")


@pytest.mark.parametrize(
    ("name", "change", "word"),
    [
        ("data_batch_2.bin", lambda content: content[:-1], "921,899"),
        ("test_batch.bin", lambda content: b"", "empty"),
        ("data_batch_5.bin", lambda content: b"\x0a" + content[1:], "to 10, not 0 to 9"),
        ("batches.meta.txt", lambda content: content + b"unicorn\n", "11 classes"),
        ("batches.meta.txt", lambda content: b"\xff", "utf-8"),
    ],
)
def test_damaged_files_of_the_binary_version(tmp_path, name, change, word):
    files = binary_files()
    fails(write(files | {name: change(files[name])}, tmp_path / "folder"), f"{name} of", "folder", word)


@pytest.mark.parametrize("dump", [python2, python3(4)])
@pytest.mark.parametrize("kept", [0, 1, 5000, -3000, -1])
def test_truncated_pickles(tmp_path, dump, kept):
    files = python_files(dump)
    fails(write(files | {"data_batch_2": files["data_batch_2"][:kept]}, tmp_path / "folder"), "data_batch_2 of")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"labels": [3] * (PER_BATCH - 1)}, "299 labels"),
        ({"labels": [10] * PER_BATCH}, "to 10, not 0 to 9"),
        ({"labels": [-1] * PER_BATCH}, "from -1"),
        ({"labels": "none"}, "0 labels"),
        ({"data": BATCHES["data_batch_1"].planes.reshape(-1, 32, 32, 3)}, "no array of 300 x 3072"),
        ({"data": BATCHES["data_batch_1"].planes.astype(np.uint16)}, "1,843,200 bytes"),
        ({"data": "none"}, "no array"),
    ],
)
def test_pickles_of_something_else(tmp_path, change, word):
    files = python_files(python3(2))
    files["data_batch_4"] = pickle.dumps(BATCHES["data_batch_1"].fields() | change, 2)
    fails(write(files, tmp_path / "folder"), "data_batch_4 of", word)


def test_a_wrong_number_of_classes(tmp_path):
    files = python_files() | {"batches.meta": python2({"label_names": CLASSES[:9]})}
    fails(write(files, tmp_path / "folder"), "batches.meta of", "9 classes")


def test_damaged_archives(tmp_path):
    intact = pack(binary_files(), tmp_path / "whole").read_bytes()
    damaged = tmp_path / "damaged.tar.gz"
    changed = bytearray(intact)
    changed[len(intact) // 2] ^= 1  # a pixel, which only the checksum at the end reveals
    plain = gzip.decompress(intact)
    packer = zlib.compressobj(wbits=31)
    start = packer.compress(plain[: len(plain) // 2]) + packer.flush(zlib.Z_FULL_FLUSH)
    for content in (
        b"",
        b"hello",
        plain,
        intact[: len(intact) // 2],
        intact[:-4],
        bytes(changed),
        start + b"\x07" * 99,  # a block of unknown type
        gzip.compress(b"x" * 999),
    ):
        damaged.write_bytes(content)
        fails(damaged, "damaged.tar.gz is damaged")


def test_archives_that_are_too_large(tmp_path, monkeypatch):
    path = pack(binary_files(), tmp_path / "whole")
    unpacked = len(gzip.decompress(path.read_bytes()))
    monkeypatch.setattr(archives, "MAX_BYTES", unpacked)
    cifar10(path)
    for share in (2, 3):  # between two files, and within one
        monkeypatch.setattr(archives, "MAX_BYTES", unpacked // share)
        fails(path, "whole is damaged")


def test_links_and_paths_in_archives_are_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(binary_files()["test_batch.bin"])
    files = binary_files()
    del files["test_batch.bin"]
    path = tmp_path / "outside" / "links.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"../../{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    fails(path, "lacks test_batch.bin")
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["links.tar.gz", "outside", "secret"]
