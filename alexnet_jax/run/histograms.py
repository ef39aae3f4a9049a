"""What a run shows of its parameters at each validation: histograms of all, and conv1's kernels as pictures."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from alexnet_jax import sharding
from alexnet_jax.run_config import Config

BINS, A_ROW = 30, 16  # of a histogram; kernels in a row of a picture, as in Figure 3


class Histogram(NamedTuple):
    counts: Array  # [BINS] int32, of equal parts of the range
    low: Array
    high: Array
    total: Array  # of the numbers
    squares: Array


class Seen(NamedTuple):
    histograms: dict[str, Histogram]  # LAYER/weights and LAYER/biases
    conv1: Array | None  # its kernels [tower, k, k, 3, F]; None if every place has its own


def make_look(config: Config, mesh: Mesh) -> Callable[[Any], Seen]:
    """`(params) -> Seen`, the same on all devices and processes; what is counted is counted where it lies."""
    names = {"kernel": "weights", "bias": "biases"}

    def look(params: Any) -> Seen:
        found = {
            f"{layer}/{names[kind]}": _histogram(leaf) for layer, of in params.items() for kind, leaf in of.items()
        }
        return Seen(found, params["conv1"]["kernel"] if config.model.conv1.shared else None)

    return jax.jit(look, out_shardings=sharding.replicated(mesh))


def _histogram(leaf: Array) -> Histogram:
    low, high = leaf.min(), leaf.max()
    width = jnp.where(high > low, high - low, jnp.ones((), leaf.dtype))

    def count(x: Array) -> Array:  # of one tower
        places = ((x.reshape(-1) - low) / width * BINS).astype(jnp.int32)
        return jnp.bincount(jnp.clip(places, 0, BINS - 1), length=BINS)

    return Histogram(jax.vmap(count)(leaf).sum(axis=0), low, high, leaf.sum(), (leaf * leaf).sum())


def pictures(kernels: np.ndarray) -> list[np.ndarray]:
    """Kernels [tower, k, k, 3, F] as one picture a tower [rows, columns, 3] uint8, all in one range."""
    low, high = kernels.min(), kernels.max()
    scaled = np.round((kernels - low) / (high - low if high > low else 1) * 255).astype(np.uint8)
    found = []
    for tower in scaled.transpose(0, 4, 1, 2, 3):  # [F, k, k, 3]
        framed = np.pad(tower, ((0, -len(tower) % A_ROW), (1, 1), (1, 1), (0, 0)))
        rows, side = len(framed) // A_ROW, framed.shape[1]
        found.append(framed.reshape(rows, A_ROW, side, side, 3).swapaxes(1, 2).reshape(rows * side, A_ROW * side, 3))
    return found
