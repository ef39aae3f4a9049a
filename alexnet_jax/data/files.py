"""Image files that were never prepared, read as a split is."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from alexnet_jax.data import images
from alexnet_jax.data.blocks import stored_pixels
from alexnet_jax.data.sources.source import printable
from alexnet_jax.errors import UserError


class Files:
    """Files as records.Images, all with label 0. One that cannot be read, or is no sound image, is a bad record."""

    def __init__(self, paths: list[Path], size: int):
        self.labels = np.zeros(len(paths), np.int32)
        self.size = size  # height and width they are scaled to, pixels
        self._paths = paths

    def read(self, index: np.ndarray, out: np.ndarray) -> dict[int, str]:
        bad = {}
        for row, i in enumerate(index.tolist()):
            try:
                out[row], _ = stored_pixels(self._paths[i].read_bytes(), self.size)
            except (images.CorruptImage, OSError) as error:
                bad[row] = str(error)
        return bad

    def name(self, i: int) -> str:
        return printable(str(self._paths[i]))


def below(paths: Iterable[Path]) -> list[Path]:
    """The files among `paths` as given, and in the place of each folder the files in it at any depth, sorted.

    Hidden files and folders are passed over. Raises UserError if a folder holds no file.
    """
    found = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = []
        for folder, folders, files in os.walk(path, onerror=_refuse):
            folders[:] = [name for name in folders if not name.startswith(".")]
            inside += [Path(folder, name) for name in files if not name.startswith(".")]
        if not inside:
            raise UserError(f"the folder {path} holds no image; give folders that do, or files")
        found += sorted(inside)
    return found


def _refuse(error: OSError) -> None:
    raise error
