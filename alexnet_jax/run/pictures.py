"""Pictures of parameters: histograms, the kernels of conv1 as in the paper's Figure 3, and mosaics of images."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from alexnet_jax import sharding
from alexnet_jax.run_config import Config

BINS = 30  # of a histogram


class Histogram(NamedTuple):
    counts: Array  # [BINS] int32, over equal parts of the range from low to high
    low: Array
    high: Array
    total: Array  # sum of the numbers
    squares: Array  # sum of their squares


class Summary(NamedTuple):
    histograms: dict[str, Histogram]  # LAYER/weights and LAYER/biases
    conv1: Array | None  # its kernels [tower, k, k, 3, F]; None if every place has its own


def make_summary(config: Config, mesh: Mesh) -> Callable[[Any], Summary]:
    """`(params) -> Summary`, the same on all devices and processes; each parameter is counted where it lies."""

    def summarize(params: Any) -> Summary:
        counted = {}
        for layer, kinds in params.items():
            counted[f"{layer}/weights"] = _histogram(kinds["kernel"])
            counted[f"{layer}/biases"] = _histogram(kinds["bias"])
        return Summary(counted, params["conv1"]["kernel"] if config.model.conv1.shared else None)

    return jax.jit(summarize, out_shardings=jax.NamedSharding(mesh, sharding.REPLICATED))


def _histogram(leaf: Array) -> Histogram:
    low, high = leaf.min(), leaf.max()
    width = jnp.where(high > low, high - low, jnp.ones((), leaf.dtype))

    def count(x: Array) -> Array:  # of one tower
        places = ((x.reshape(-1) - low) / width * BINS).astype(jnp.int32)
        return jnp.bincount(jnp.clip(places, 0, BINS - 1), length=BINS)

    return Histogram(jax.vmap(count)(leaf).sum(axis=0), low, high, leaf.sum(), (leaf * leaf).sum())


def at_one_place(kernels: np.ndarray, size: int) -> np.ndarray:
    """Kernels of conv1 as [tower, k, k, 3, F], k = `size`; those of the middle place if every place has its own."""
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
    return grid.reshape(rows * height, columns * width, 3)[: rows * height - gap, : columns * width - gap]
