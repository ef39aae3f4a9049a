"""Images by class or in a row, in a tar of tars, a folder of tars, or folders; and the files of a zip or .tar.gz.

Archives are read in place: an index of their headers, 300 to 450 bytes of memory per image, says where each image lies.
Nothing is unpacked, so no name, link or device in a tar can touch the disk; and no header is trusted, since it may
claim any length and any position.
"""

import gzip
import io
import os
import tarfile
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

import numpy as np

from alexnet_jax.data.sources.compressed import Gunzipped, zipped
from alexnet_jax.data.sources.source import Image, Split, files_below, folders_in
from alexnet_jax.errors import UserError, reading

BLOCK = 512  # bytes; a tar is a sequence of such blocks and ends with empty ones
MAX_HEADER = 2**16  # bytes; tarfile searches long headers in quadratic time
MAX_FILE = 2**50  # bytes; how long a .tar.gz is shows only at its end
CURE = "; check its length and checksum, and download it again"
MAX_BYTES = 2**28  # of a decompressed archive; the largest, CIFAR-10, has 185 MB


class Place(NamedTuple):
    path: Path  # of an image or an archive, or of what holds it
    offset: int = 0
    size: int | None = None  # None: to the end of the file
    gzip: Gunzipped | None = None  # what the offset and size are in, if not in the file itself

    def read(self) -> bytes:
        if self.size is None:
            return self.path.read_bytes()
        if self.gzip:
            return self.gzip.at(self.offset, self.size)
        with self.path.open("rb", buffering=0) as file:
            content = os.pread(file.fileno(), self.size, self.offset)
        if len(content) != self.size:
            raise OSError(f"{self.path} has become shorter while it was being read")
        return content


class Readable(Protocol):
    def read(self) -> bytes: ...


Listing = list[tuple[str, Readable]]  # name, place
Labelled = list[tuple[str, Readable, int]]  # name, place, label


def by_class(path: Path) -> dict[str, Listing]:
    """Class name -> images, both sorted. `path` is a tar of tars, or a folder of tars or of folders, one per class."""
    if path.is_dir():
        classes = {tar.stem: in_a_row(Place(tar)) for tar in sorted(path.glob("*.tar"))}
        folders = {folder.name: folder for folder in folders_in(path)}
        extra = min(folders.keys() - classes, default="")
        if classes and extra:
            raise UserError(f"{path} has archives, but also folders without one, such as {extra}; keep one kind")
        classes = classes or {name: in_a_row(Place(folder)) for name, folder in folders.items()}
    else:
        inner = [(name, place) for name, place in _members(Place(path)) if name.endswith(".tar")]
        for name, n in Counter(name for name, _ in inner).most_common(1):
            if n > 1:
                raise UserError(f"{path} holds {n} archives called {name}, in different folders; keep one per class")
        classes = {PurePosixPath(name).stem: in_a_row(place) for name, place in inner}
    if not classes:
        raise UserError(f"{path} holds no archive and no folder of images; put one per class there")
    for name, listing in classes.items():
        if not listing:
            raise UserError(f"the class {name} of {path} has no images; add them, or remove the class")
    return {name: [(f"{name}/{image}", place) for image, place in classes[name]] for name in sorted(classes)}


def in_a_row(place: Place) -> Listing:
    """The images of a tar or a folder, sorted by name (without folders)."""
    if place.path.is_dir():
        return sorted((file.name, Place(file)) for file in files_below(place.path))
    return sorted(_members(place))


def split(images: Labelled) -> Split:
    labels = np.array([label for _, _, label in images], np.int32)
    return Split([name for name, _, _ in images], labels, lambda i: Image(images[i][1].read(), images[i][2]))


def files_in(path: Path) -> dict[str, Readable]:
    """The files in a tar, .tar.gz or zip by their full names. Raises UserError if it is damaged."""
    if path.suffix == ".zip":
        with reading(f"the zip {path} is damaged", CURE, UserError):
            return dict(zipped(path))
    return dict(_files(Place(path)))


def _members(archive: Place) -> list[tuple[str, Place]]:
    """The regular files of a tar, without folders. Raises UserError if it is damaged."""
    named = ((PurePosixPath(name).name, place) for name, place in _files(archive).items())
    return [(name, place) for name, place in named if not name.startswith(".")]


def _files(archive: Place) -> dict[str, Place]:
    path, start, size, _ = archive
    end = path.stat().st_size if size is None else start + size
    inside = f" (the archive in it at byte {start:,})" if start else ""
    places: dict[str, Place] = {}
    compressed = Gunzipped(path) if path.suffix in (".gz", ".tgz") else None
    kind = " tar.gz" if compressed else ", uncompressed tar"
    with path.open("rb") as file, reading(f"{path}{inside} is not a complete{kind}", CURE, UserError):
        for member in _headers(compressed or file, start, MAX_FILE if compressed else end):
            if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
                places[member.name] = Place(path, member.offset_data, member.size, compressed)
            elif member.islnk() and member.linkname in places:  # a second name for an earlier file
                places[member.name] = places[member.linkname]
            elif not member.isdir():
                raise UserError(f"{path}{inside} holds {member.name}, neither a file nor a folder; remove it")
    return places


class _Window:
    """Bytes `start` to `end` of a file, for tarfile: it can neither allocate more memory than that nor leave them."""

    def __init__(self, file: io.BufferedIOBase | Gunzipped, start: int, end: int):
        self._file, self._start, self._end = file, start, end
        self.tell = file.tell
        self.seek(start)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(min(size, self._end - self.tell()))

    def seek(self, position: int) -> int:
        if not self._start <= position <= self._end:
            raise tarfile.ReadError("a file extends past the end of the archive")
        return self._file.seek(position)


def _headers(file: io.BufferedIOBase | Gunzipped, start: int, end: int) -> Iterator[tarfile.TarInfo]:
    """The headers of the tar at bytes `start` to `end` of a file that others may seek in. Damage may raise anything."""
    window = _Window(file, start, end)
    with tarfile.open(fileobj=window, mode="r:") as tar:  # type: ignore[call-overload] # has all that it uses
        for member in tar:
            # A negative length leads back to an earlier header: tarfile would read on for ever.
            if member.size < 0 or member.offset_data + member.size > end:
                raise tarfile.ReadError(f"{member.name} extends past the end of the archive")
            yield member
        # tarfile takes any header that it cannot read for the end, but a complete archive ends with an empty block.
        window.seek(min(tar.offset, end))
        last = window.read(BLOCK)
        if last != bytes(BLOCK):
            damage = "truncated" if len(last) < BLOCK else "damaged"
            raise tarfile.ReadError(f"{damage} at byte {tar.offset:,}, after {len(tar.getmembers())} files")


def read_files(path: Path, names: Collection[str]) -> dict[str, bytes]:
    """The files `names` of a folder, or those of a .tar.gz whose paths end so. Damage may raise any Exception."""
    if path.is_dir():
        return {name: (path / name).read_bytes() for name in names if (path / name).is_file()}
    files = {}
    with gzip.open(path) as stream:
        for member in _headers(stream, 0, MAX_BYTES):
            wanted = [name for name in names if f"/{member.name}".endswith(f"/{name}")]
            if wanted and member.type == tarfile.REGTYPE:
                stream.seek(member.offset_data)
                files[wanted[0]] = stream.read(member.size)
        stream.seek(MAX_BYTES)  # or the end
        if stream.read(1):  # at the end, gzip compares its checksum
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
    return files
