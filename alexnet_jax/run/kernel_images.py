"""Pictures of conv1's kernels, as in the paper's Figure 3, and mosaics of images."""

import numpy as np


def at_one_place(kernels: np.ndarray, size: int) -> np.ndarray:
    """Give kernels of conv1 the shape [tower, k, k, 3, F], where k is `size`.

    If every place has its own kernels, [tower, H, W, 3 * k * k, F], those of the middle place are returned.
    """
    if kernels.shape[1:4] == (size, size, 3):
        return kernels
    towers, rows, columns, _, features = kernels.shape
    return kernels[:, rows // 2, columns // 2].reshape(towers, size, size, 3, features)


def as_images(kernels: np.ndarray) -> np.ndarray:
    """Scale kernels [tower, k, k, 3, F] to images [tower, F, k, k, 3] uint8: the lowest weight 0, the highest 255."""
    low, high = kernels.min(), kernels.max()
    return np.round((kernels - low) / ((high - low) or 1) * 255).astype(np.uint8).transpose(0, 4, 1, 2, 3)


def mosaic(images: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """Arrange images [N, h, w, 3] uint8 in rows of `columns`, on white, `gap` pixels apart: [H, W, 3] uint8."""
    rows = -(-len(images) // columns)
    missing = rows * columns - len(images)
    padded = np.pad(images, ((0, missing), (0, gap), (0, gap), (0, 0)), constant_values=255)
    height, width = padded.shape[1:3]
    grid = padded.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, 3)[:-gap, :-gap]
