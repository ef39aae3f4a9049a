"""The training set's mean image and colour covariance (paper sections 2 and 4.1), in exact integer sums."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
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


def nothing(size: int) -> Sums:
    """The sums over no image of size x size."""
    return Sums(0, np.zeros((size, size, 3), np.int64), np.zeros((3, 3), np.int64))


def sums_of(images: Sequence[np.ndarray]) -> Sums:
    """The sums over images [H, W, 3] uint8; from 1 to 2^16 of them."""
    pixels, products = np.zeros(images[0].shape, np.float32), np.zeros((3, 3), np.int64)  # sums below 2^24: exact
    planes = [np.empty(pixels.shape[:2], np.uint8) for _ in range(3)]
    for image in images:
        cv2.accumulate(image, pixels)
        cv2.split(image, planes)
        squares = [round(cv2.norm(plane, cv2.NORM_L2SQR)) for plane in planes]
        for i in range(3):
            products[i, i] += squares[i]
            for j in range(i):
                # 2 a b = a^2 + b^2 - (a - b)^2: sums of squares of bytes, which OpenCV takes exactly and at once.
                apart = round(cv2.norm(planes[i], planes[j], cv2.NORM_L2SQR))
                both = (squares[i] + squares[j] - apart) // 2
                products[i, j] += both
                products[j, i] += both
    return Sums(len(images), pixels.astype(np.int64), products)


def of_sums(sums: Sums) -> Statistics:
    mean_image = sums.pixels / sums.images
    pixels = sums.images * mean_image.shape[0] * mean_image.shape[1]
    mean = sums.pixels.sum(axis=(0, 1)) / pixels
    values, vectors = np.linalg.eigh(sums.products / pixels - np.outer(mean, mean))
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    # An eigenvector's sign is free; fixed here, so that every machine stores the same one.
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), range(3)])
    return Statistics(mean_image.astype(np.float32), values.astype(np.float32), vectors.astype(np.float32))
