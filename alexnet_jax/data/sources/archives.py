"""Images by class or in a row, in a tar of tars, a folder of tars, or folders.

Archives are read in place: an index of their headers says where each image lies, and nothing is unpacked. The index
takes 300 to 450 bytes of memory per image.
"""

import os
import tarfile
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.sources import tars
from alexnet_jax.data.sources.source import Image, Split, files_below, folders_in
from alexnet_jax.errors import UserError


class Place(NamedTuple):
    """Where an image or an archive lies."""

    path: Path
    offset: int = 0
    size: int | None = None  # None: to the end of the file

    def read(self) -> bytes:
        if self.size is None:
            return self.path.read_bytes()
        with self.path.open("rb", buffering=0) as file:
            content = os.pread(file.fileno(), self.size, self.offset)
        if len(content) != self.size:
            raise OSError(f"{self.path} has become shorter while it was being read")
        return content


Listing = list[tuple[str, Place]]  # name, place
Labelled = list[tuple[str, Place, int]]  # name, place, label


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


def _members(archive: Place) -> Listing:
    """The regular files of a tar. Raises UserError if it is damaged."""
    path, start, size = archive
    end = path.stat().st_size if size is None else start + size
    inside = f" (the archive in it at byte {start:,})" if start else ""
    places: dict[str, Place] = {}
    with path.open("rb") as file:
        try:
            for member in tars.members(file, start, end):
                if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    places[member.name] = Place(path, member.offset_data, member.size)
                elif member.islnk() and member.linkname in places:  # a second name for an earlier file
                    places[member.name] = places[member.linkname]
                elif not member.isdir():
                    raise UserError(f"{path}{inside} holds {member.name}, neither a file nor a folder; remove it")
        except ValueError as error:
            raise UserError(
                f"{path}{inside} is not a complete, uncompressed tar: {error}; check its length and checksum, and "
                "download it again"
            ) from None
    named = ((PurePosixPath(name).name, place) for name, place in places.items())
    return [(name, place) for name, place in named if not name.startswith(".")]
