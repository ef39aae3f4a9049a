"""The training set's mean image and colour covariance (paper sections 2 and 4.1), in exact integer sums."""

from typing import NamedTuple

import numpy as np


class Statistics(NamedTuple):
    """What preprocessing needs to know of a training set; colours in 0..255."""

    mean_image: np.ndarray  # [H, W, 3] float32
    eigenvalues: np.ndarray  # [3] float32, of the covariance of RGB over all pixels, largest first
    eigenvectors: np.ndarray  # [3, 3] float32, one a column


class Sums(NamedTuple):
    """Sums over images. Adding two gives the sums over both sets, exactly and in any order."""

    images: int
    pixels: np.ndarray  # [H, W, 3] int64: sum of each pixel
    products: np.ndarray  # [3, 3] int64: sum of RGB RGB^T over all pixels

    def __add__(self, other: "Sums") -> "Sums":  # type: ignore[override]
        return Sums(self.images + other.images, self.pixels + other.pixels, self.products + other.products)


def sums_of(images: np.ndarray) -> Sums:
    """The sums over images [N, H, W, 3] uint8."""
    products = np.zeros((3, 3), np.int64)
    for image in images:
        colours = image.reshape(-1, 3).astype(np.float64)  # products of bytes: exact far beyond an image's size
        products += (colours.T @ colours).astype(np.int64)
    return Sums(len(images), images.sum(axis=0, dtype=np.int64), products)


def of_sums(sums: Sums) -> Statistics:
    mean_image = sums.pixels / sums.images
    pixels = sums.images * mean_image.shape[0] * mean_image.shape[1]
    mean = sums.pixels.sum(axis=(0, 1)) / pixels
    values, vectors = np.linalg.eigh(sums.products / pixels - np.outer(mean, mean))
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    # An eigenvector's sign is free; fixed here, so that every machine stores the same one.
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), range(3)])
    return Statistics(mean_image.astype(np.float32), values.astype(np.float32), vectors.astype(np.float32))
