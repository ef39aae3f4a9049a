"""What TensorBoard shows of the parameters at each validation: their histograms, and conv1's kernels."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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
