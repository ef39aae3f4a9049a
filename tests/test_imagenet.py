"""The ImageNet challenges from archives in their real layouts: listing, and what can be wrong with them."""

import io
import random
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alexnet_jax.data.packing import Settings, pack
from alexnet_jax.data.sources import archives, imagenet
from alexnet_jax.data.sources.source import Source
from alexnet_jax.errors import UserError
from tests import ilsvrc
from tests.test_packing import contents

CLASSES = 12


@pytest.fixture(scope="module", params=[2010, 2012])
def archived(request, tmp_path_factory) -> tuple[int, Path, ilsvrc.Truth]:
    directory = tmp_path_factory.mktemp("archives") / "ilsvrc"
    return request.param, directory, ilsvrc.make(directory, request.param, CLASSES)


def challenge(year: int, directory: Path) -> Source:
    return imagenet.challenge(f"imagenet{year}", directory)


def test_images_and_labels_match_the_archives(archived):
    year, directory, truth = archived
    source = challenge(year, directory)
    assert source.classes == truth.classes == sorted(truth.classes)
    assert list(truth.ids.values()) != sorted(truth.ids.values())  # the kit's numbers are not the labels
    assert source.splits.keys() == truth.images.keys()
    for name, split in source.splits.items():
        expected = truth.images[name]
        assert split.names == [image for image, _, _ in expected]
        assert [split.read(i) for i in range(len(split.names))] == [image[1:] for image in expected]
        assert split.labels is not None and split.labels.tolist() == [label for _, _, label in expected]
    assert source.published["train"].by_class == [3] * CLASSES


def test_published_counts():
    """As image-net.org/challenges/LSVRC gives them: 1,281,167 and 50,000; 1,261,406, 50,000 and 150,000."""
    assert imagenet.EDITIONS["imagenet2012"].images == {"train": 1_281_167, "val": 50_000}
    assert imagenet.EDITIONS["imagenet2010"].images == {"train": 1_261_406, "val": 50_000, "test": 150_000}


def test_unpacked_archives_are_packed_to_the_same_bytes(archived, tmp_path):
    year, directory, _ = archived
    ilsvrc.unpack(directory, tmp_path / "unpacked", year)
    if year == 2010:
        shutil.copy(directory / "ILSVRC2010_test_ground_truth.txt", tmp_path / "unpacked")
    settings = Settings("raw", 16, 95, 0.0)
    for name, folder in (("packed", directory), ("unpacked", tmp_path / "unpacked")):
        pack(challenge(year, folder), tmp_path / "out" / name, settings, show_progress=False)
    assert contents(tmp_path / "out" / "packed") == contents(tmp_path / "out" / "unpacked")


def test_validation_images_in_class_folders_need_no_kit(archived, tmp_path, monkeypatch):
    year, directory, truth = archived
    shutil.copy(directory / ilsvrc.ARCHIVES[year]["train"], tmp_path)
    for name, content, label in truth.images["val"]:
        folder = tmp_path / "val" / truth.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    edition = imagenet.EDITIONS[f"imagenet{year}"]
    monkeypatch.setitem(imagenet.EDITIONS, f"imagenet{year}", edition._replace(classes=CLASSES))
    split = challenge(year, tmp_path).splits["val"]
    assert list(split.names) == [name for name, _, _ in truth.images["val"]]
    assert split.labels is not None and split.labels.tolist() == [label for _, _, label in truth.images["val"]]


def test_patch_images_replace_blank_ones(archived, tmp_path):
    year, directory, truth = archived
    if year != 2010:
        pytest.skip("only 2010 has patch images")
    shutil.copytree(directory, tmp_path / "patched")
    train, val = truth.images["train"][4][0], truth.images["val"][2][0]
    members = [(f"patch_images/train/{train.split('/')[1]}", b"better"), (f"patch_images/val/{val}", b"best")]
    (tmp_path / "patched" / "patch_images.tar").write_bytes(ilsvrc.tar(members))
    source = challenge(2010, tmp_path / "patched")
    assert source.splits["train"].read(4).content == b"better"
    assert source.splits["val"].read(2).content == b"best"
    assert source.splits["train"].read(5).content == truth.images["train"][5][1]


def rewrite(path: Path, change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> None:
    """Rewrite an archive with other members."""
    with tarfile.open(path) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
    path.write_bytes(ilsvrc.tar(change(members), "w:gz" if path.suffix == ".gz" else "w"))


def truncated(share: float) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def overwrite_a_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        place = archive.getmembers()[5].offset
    content[place : place + 200] = bytes(range(200))
    path.write_bytes(content)


def without_a_class(path: Path) -> None:
    rewrite(path, lambda members: members[1:])


def without_an_image(path: Path) -> None:
    rewrite(path, lambda members: members[:-1])


def empty_class(path: Path) -> None:
    rewrite(path, lambda members: [(members[0][0], ilsvrc.tar([])), *members[1:]])


def truncated_inside(path: Path) -> None:
    rewrite(
        path, lambda members: [*members[:3], (members[3][0], members[3][1][: len(members[3][1]) // 2]), *members[4:]]
    )


def without_meta(path: Path) -> None:
    rewrite(path, lambda members: [member for member in members if "meta" not in member[0]])


def bad_meta(path: Path) -> None:
    rewrite(path, lambda members: [(name, b"nothing" if "meta" in name else content) for name, content in members])


def bad_numbers(path: Path) -> None:
    rewrite(
        path,
        lambda members: [
            (name, content.replace(b"\n", b" x\n") if "truth" in name else content) for name, content in members
        ],
    )


def unknown_number(path: Path) -> None:
    rewrite(
        path, lambda members: [(name, b"77\n" * CLASSES if "truth" in name else content) for name, content in members]
    )


NOT_COMPLETE = r"{file}.* is not a complete, uncompressed tar: .*; check its length and checksum, and download it again"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train", Path.unlink, r"has neither ILSVRC.*train.tar nor train/; put one of them there"),
        ("val", Path.unlink, r"has neither ILSVRC.*val.tar nor val/"),
        ("train", truncated(0.5), NOT_COMPLETE),
        ("train", truncated(0.0), NOT_COMPLETE),
        ("val", truncated(0.7), NOT_COMPLETE),
        ("val", lambda path: path.write_bytes(path.read_bytes().rstrip(b"\0")), NOT_COMPLETE),
        ("val", overwrite_a_header, NOT_COMPLETE),
        ("train", overwrite_a_header, NOT_COMPLETE),
        ("train", truncated_inside, rf"{NOT_COMPLETE[:-1]}"),
        ("val", lambda path: path.write_bytes(ilsvrc.tar([("a.JPEG", b"")], "w:gz")), NOT_COMPLETE),
        (
            "train",
            without_a_class,
            rf"has {CLASSES - 1} classes and the development kit {CLASSES}; it lacks n\d+\. Down",
        ),
        ("train", empty_class, r"the class n\d+ of .* has no images"),
        (
            "val",
            without_an_image,
            rf"has {CLASSES - 1} images and .* has {CLASSES} labels: they are matched by their order",
        ),
        ("devkit", Path.unlink, rf"{CLASSES} classes and ILSVRC-\d+ has 1000. Put the development kit .* for a subset"),
        ("devkit", truncated(0.5), r"the development kit .* cannot be read"),
        ("devkit", lambda path: path.write_bytes(b""), r"the development kit .* cannot be read"),
        ("devkit", without_meta, r"has no data/meta.mat; is it the kit of this year"),
        ("devkit", bad_meta, r"the development kit .* cannot be read"),
        ("devkit", bad_numbers, r"the labels in .* should be one number per line"),
        ("devkit", unknown_number, r"names class 77, which the development kit's meta.mat lacks"),
    ],
)
def test_problems_of_archives_are_named(file, change, message, archived, tmp_path):
    year, directory, _ = archived
    shutil.copytree(directory, tmp_path / "broken")
    path = tmp_path / "broken" / (ilsvrc.DEVKITS[year] if file == "devkit" else ilsvrc.ARCHIVES[year][file])
    change(path)
    with pytest.raises(UserError, match=message.format(file=path.name)):
        challenge(year, tmp_path / "broken")


def test_missing_labels(archived, tmp_path, monkeypatch):
    year, directory, _ = archived
    edition = imagenet.EDITIONS[f"imagenet{year}"]
    monkeypatch.setitem(imagenet.EDITIONS, f"imagenet{year}", edition._replace(classes=CLASSES))
    shutil.copytree(directory, tmp_path / "broken")
    (tmp_path / "broken" / ilsvrc.DEVKITS[year]).unlink()
    with pytest.raises(
        UserError, match=rf"labels of .*val.tar are in the development kit, but .*{ilsvrc.DEVKITS[year]}"
    ):
        challenge(year, tmp_path / "broken")
    if year == 2010:
        shutil.copy(directory / ilsvrc.DEVKITS[year], tmp_path / "broken")
        (tmp_path / "broken" / "ILSVRC2010_test_ground_truth.txt").unlink()
        with pytest.raises(UserError, match=r"the labels of .*test.tar are in ILSVRC2010_test_ground_truth.txt"):
            challenge(year, tmp_path / "broken")


def test_missing_input(tmp_path):
    for directory in (None, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"needs --input DIR, a folder with ILSVRC2012_img_train.tar, "):
            imagenet.challenge("imagenet2012", directory)
    with pytest.raises(UserError, match="imagenet_full needs --input DIR"):
        imagenet.full(tmp_path / "nowhere", 0)


def test_paths_of_members_are_ignored(tmp_path):
    """Nothing is unpacked, so a path may point anywhere."""
    (tmp_path / "n00000001.tar").write_bytes(ilsvrc.tar([("../../../n00000001_2.JPEG", b"image")]))
    ((name, place),) = archives.by_class(tmp_path)["n00000001"]
    assert (name, place.read()) == ("n00000001/n00000001_2.JPEG", b"image")


@pytest.mark.parametrize(("kind", "target"), [("SYMTYPE", "/etc/passwd"), ("LNKTYPE", "/etc/passwd"), ("CHRTYPE", "")])
def test_links_and_devices_are_refused(kind, target, tmp_path):
    member = tarfile.TarInfo("n00000001_1.JPEG")
    member.type, member.linkname = getattr(tarfile, kind), target
    with tarfile.open(tmp_path / "n00000001.tar", "w") as archive:
        archive.addfile(member)
    with pytest.raises(UserError, match=r"n00000001.tar holds n00000001_1.JPEG, neither a file nor a folder"):
        archives.by_class(tmp_path)


def test_a_hard_link_is_a_second_name_for_its_file(tmp_path):
    first, second = tarfile.TarInfo("a.JPEG"), tarfile.TarInfo("b.JPEG")
    first.size, second.type, second.linkname = 5, tarfile.LNKTYPE, "a.JPEG"
    with tarfile.open(tmp_path / "n00000001.tar", "w") as archive:
        archive.addfile(first, io.BytesIO(b"image"))
        archive.addfile(second)
    listing = archives.by_class(tmp_path)["n00000001"]
    assert [(name, place.read()) for name, place in listing] == [
        ("n00000001/a.JPEG", b"image"),
        ("n00000001/b.JPEG", b"image"),
    ]


def test_two_archives_of_one_class_are_refused(tmp_path):
    inner = ilsvrc.tar([("x.JPEG", b"image")])
    (tmp_path / "all.tar").write_bytes(ilsvrc.tar([("a/n00000001.tar", inner), ("b/n00000001.tar", inner)]))
    with pytest.raises(UserError, match=r"all.tar holds 2 archives called n00000001.tar, in different folders"):
        archives.by_class(tmp_path / "all.tar")


# --- a whole release ---


def release(directory: Path, counts: dict[str, int]) -> Path:
    directory.mkdir()
    for wnid, count in counts.items():
        members = [(f"{wnid}_{i}.JPEG", f"{wnid} {i}".encode()) for i in range(count)]
        random.Random(0).shuffle(members)
        (directory / f"{wnid}.tar").write_bytes(ilsvrc.tar(members))
    return directory


def test_a_release_is_halved_at_random(tmp_path):
    counts = {"n00000002": 10, "n00000001": 7, "n00000003": 1}
    directory = release(tmp_path / "release", counts)
    source = imagenet.full(directory, seed=0)
    assert source.classes == sorted(counts)
    train, val = (source.splits[name] for name in ("train", "val"))
    assert not set(train.names) & set(val.names)
    assert len(train.names) + len(val.names) == 18
    assert train.labels is not None and np.bincount(train.labels).tolist() == [4, 5, 1]
    for split in (train, val):
        for i, name in enumerate(split.names):
            content, label = split.read(i)
            assert content == re.sub(r".*/(n\d+)_(\d+).JPEG", r"\1 \2", name).encode()
            assert source.classes[label] == name.split("/")[0]
    assert list(imagenet.full(directory, seed=0).splits["val"].names) == list(val.names)
    assert list(imagenet.full(directory, seed=1).splits["val"].names) != list(val.names)
    archive = tmp_path / "fall.tar"
    archive.write_bytes(ilsvrc.tar([(f"fall/{tar.name}", tar.read_bytes()) for tar in directory.iterdir()]))
    assert list(imagenet.full(archive, seed=0).splits["train"].names) == list(train.names)
    with pytest.raises(UserError, match="has a single image"):
        imagenet.full(release(tmp_path / "small", {"n00000001": 1}), 0)
    (directory / "n00000009").mkdir()
    with pytest.raises(UserError, match="has archives, but also folders without one, such as n00000009"):
        imagenet.full(directory, 0)
