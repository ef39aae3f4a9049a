"""Mean image and colour covariance of the training set (paper sections 2 and 4.1), from exact integer sums."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from alexnet_jax.data import arrays


class Statistics(NamedTuple):
    mean_image: np.ndarray  # [H, W, 3] float32; colours are in 0..255
    eigenvalues: np.ndarray  # [3] float32, of the covariance of RGB over all pixels, largest first
    eigenvectors: np.ndarray  # [3, 3] float32, one per column


def read(path: Path, size: int) -> Statistics:
    """Those that `np.savez` wrote, of images of size x size. Raises ValueError if they are damaged or of others."""
    statistics = Statistics(**arrays.zipped(path, Statistics._fields))
    shapes = ((size, size, 3), (3,), (3, 3))
    if [(array.shape, array.dtype) for array in statistics] != [(shape, np.float32) for shape in shapes]:
        raise ValueError(f"its arrays do not belong to images of {size}x{size}")
    if not all(np.isfinite(array).all() for array in statistics):
        raise ValueError("it holds numbers that are not finite")
    return statistics


class Sums(NamedTuple):
    """Sums over images. Adding two gives the sums over both sets, exactly and in any order."""

    images: int
    pixels: np.ndarray  # [H, W, 3] int64: sum of each pixel
    products: np.ndarray  # [3, 3] int64: sum of RGB RGB^T over all pixels

    def __add__(self, other: "Sums") -> "Sums":  # type: ignore[override]
        return Sums(self.images + other.images, self.pixels + other.pixels, self.products + other.products)


def zero_sums(size: int) -> Sums:
    """The sums over no images of size x size."""
    return Sums(0, np.zeros((size, size, 3), np.int64), np.zeros((3, 3), np.int64))


def sums_of(images: Sequence[np.ndarray]) -> Sums:
    """The sums over 1 to 2^16 images [H, W, 3] uint8."""
    pixels, products = np.zeros(images[0].shape, np.float32), np.zeros((3, 3), np.int64)  # sums below 2^24: exact
    planes = [np.empty(pixels.shape[:2], np.uint8) for _ in range(3)]
    for image in images:
        cv2.accumulate(image, pixels)
        cv2.split(image, planes)
        squares = [round(cv2.norm(plane, cv2.NORM_L2SQR)) for plane in planes]
        for i in range(3):
            products[i, i] += squares[i]
            for j in range(i):
                # 2ab = a^2 + b^2 - (a - b)^2: sums of squares of bytes, which OpenCV computes exactly and fast.
                difference = round(cv2.norm(planes[i], planes[j], cv2.NORM_L2SQR))
                products[[i, j], [j, i]] += (squares[i] + squares[j] - difference) // 2
    return Sums(len(images), pixels.astype(np.int64), products)


def of_sums(sums: Sums) -> Statistics:
    """The statistics of the images that were summed."""
    mean_image = sums.pixels / sums.images
    pixels = sums.images * mean_image.shape[0] * mean_image.shape[1]
    mean = sums.pixels.sum(axis=(0, 1)) / pixels
    values, vectors = np.linalg.eigh(sums.products / pixels - np.outer(mean, mean))
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    # An eigenvector's sign is arbitrary; fix it, so that every machine stores the same one.
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), range(3)])
    return Statistics(mean_image.astype(np.float32), values.astype(np.float32), vectors.astype(np.float32))
