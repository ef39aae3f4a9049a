"""Unprepared images, read like a split: files, Pillow images and arrays."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from alexnet_jax.data.images import CorruptImage, stored_pixels
from alexnet_jax.data.sources.source import files_below, printable
from alexnet_jax.errors import UserError

ImageInput = str | Path | bytes | Image.Image | np.ndarray


class Given:
    """Images given by a caller, as records.Images; every label is 0.

    `images` is one image or a sequence of them: the path of a file, or of a folder for all files in it; the bytes of a
    file; a Pillow image; or an array [H, W, 3] uint8. They are scaled to `size` x `size` pixels. One that cannot be
    decoded is a bad record. Raises UserError if there are no images, or an array has another shape or type.
    """

    def __init__(self, images: ImageInput | Sequence[ImageInput], size: int):
        self._items: list[Path | bytes | Image.Image | np.ndarray] = []
        for image in [images] if isinstance(images, ImageInput) else images:
            if isinstance(image, np.ndarray) and (image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8):
                raise UserError(f"an image must be [height, width, 3] uint8, not {list(image.shape)} {image.dtype}")
            self._items += below([Path(image)]) if isinstance(image, str | Path) else [image]
        if not self._items:
            raise UserError("no images were given; give at least one file, folder or array")
        self.labels = np.zeros(len(self._items), np.int32)
        self.size = size

    def read(self, index: np.ndarray, out: np.ndarray) -> dict[int, str]:
        bad = {}
        for row, i in enumerate(index.tolist()):
            content = self._items[i]
            try:
                if isinstance(content, Path):
                    content = content.read_bytes()
                elif isinstance(content, Image.Image):
                    content = np.asarray(ImageOps.exif_transpose(content).convert("RGB"))
                out[row], _ = stored_pixels(content, self.size)
            except (CorruptImage, OSError) as error:
                bad[row] = str(error)
        return bad

    def name(self, i: int) -> str:
        item = self._items[i]
        return printable(str(item)) if isinstance(item, Path) else f"image {i}"


def below(paths: Iterable[Path]) -> list[Path]:
    """`paths`, with each folder replaced by its files at any depth, sorted. Raises UserError if a folder has none."""
    expanded = []
    for path in paths:
        files = files_below(path) if path.is_dir() else [path]
        if not files:
            raise UserError(f"the folder {path} holds no image; give folders that do, or files")
        expanded += files
    return expanded
