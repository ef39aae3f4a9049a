"""Images that were never prepared, read as a split is: files, images of Pillow, arrays."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from alexnet_jax.data.blocks import stored_pixels
from alexnet_jax.data.images import CorruptImage
from alexnet_jax.data.sources.source import printable
from alexnet_jax.errors import UserError

ImageInput = str | Path | bytes | Image.Image | np.ndarray


class Given:
    """Images that a caller gives, as records.Images, all with label 0.

    Each is the path of a file or folder (all files in it), the bytes of a file, an image of Pillow, or an array
    [H, W, 3] uint8; one alone need not be in a list. One that is no intact image is a bad record. Raises UserError
    if there is none, or an array has another shape or type.
    """

    def __init__(self, images: ImageInput | Sequence[ImageInput], size: int):
        several = [images] if isinstance(images, ImageInput) else list(images)
        self._items: list[Path | bytes | Image.Image | np.ndarray] = []
        for image in several:
            if isinstance(image, np.ndarray) and (image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8):
                raise UserError(
                    f"an image is an array [height, width, 3] of uint8, not {list(image.shape)} {image.dtype}"
                )
            self._items += below([Path(image)]) if isinstance(image, str | Path) else [image]
        if not self._items:
            raise UserError("no images are given")
        self.labels = np.zeros(len(self._items), np.int32)
        self.size = size  # height and width they are scaled to, pixels

    def read(self, index: np.ndarray, out: np.ndarray) -> dict[int, str]:
        bad = {}
        for row, i in enumerate(index.tolist()):
            try:
                out[row], _ = stored_pixels(_content(self._items[i]), self.size)
            except (CorruptImage, OSError) as error:
                bad[row] = str(error)
        return bad

    def name(self, i: int) -> str:
        item = self._items[i]
        return printable(str(item)) if isinstance(item, Path) else f"image {i}"


def _content(image: Path | bytes | Image.Image | np.ndarray) -> bytes | np.ndarray:
    if isinstance(image, Path):
        return image.read_bytes()
    if isinstance(image, Image.Image):
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    return image


def below(paths: Iterable[Path]) -> list[Path]:
    """The files among `paths` as given, and in place of each folder the files in it at any depth, sorted.

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
